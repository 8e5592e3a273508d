/** Tests what operators do with a running cluster: back it up, watch it, and read its events. */
import { afterEach, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import path from "node:path";
import { KeyValues, Node, Storage, systemWorld } from "../../raft.ts";
import { contentsOf, line } from "../manual/log.ts";
import { metricsOf } from "../manual/metrics.ts";
import {
  Cluster,
  endAll,
  eventually,
  freePorts,
  Ledger,
  Program,
  run,
  temporaryDirectory,
} from "../support/processes.ts";
import { slow } from "../support/thorough.ts";

const CLI = path.join(import.meta.dir, "../../cli.ts");
const TIMING = { electionTimeoutMs: 300, heartbeatMs: 50 };

setDefaultTimeout(100_000);
afterEach(endAll);

const at = (cluster: Cluster) => ["--peers", cluster.servers.join(), "--cluster", cluster.name];

describe("backup and restore", () => {
  test("copy a cluster in use into a new one, with every write acknowledged before", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledger = await cluster.ledger();
    const file = path.join(temporaryDirectory(), "backup");
    for (const server of cluster.servers) { // So that each has an older snapshot.
      expect(await run("backup", file, "--from", server, ...at(cluster))).toMatchObject({
        code: 0,
      });
    }
    await Promise.all(ledger.putMany("before", 500));
    let isWriting = true;
    const load = (async () => {
      const later = await cluster.ledger();
      for (let i = 0; isWriting; i += 1) await Promise.all(later.putMany(`later ${i}`, 50));
    })();
    const { code, output } = await run("backup", file, "--new", "--json", ...at(cluster));
    isWriting = false;
    await load;
    expect(code).toBe(0);
    expect(JSON.parse(output)).toMatchObject({ ok: true, index: expect.any(Number) });
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readdirSync(path.dirname(file))).toEqual(["backup"]);

    const [port] = await freePorts(1);
    const name = `127.0.0.1:${port}`;
    const data = path.join(temporaryDirectory(), name);
    const restored = await run("restore", file, "--data", data, "--cluster", cluster.name);
    expect(restored).toMatchObject({ code: 0, output: expect.stringContaining("without --peers") });
    const line = ["--host", "127.0.0.1", "--port", `${port}`, "--data", data];
    new Program([...line, "--cluster", cluster.name]);
    const store = new KeyValues(await cluster.connect([name]));
    await eventually(
      "the new cluster serves",
      () => store.get(Buffer.from("none")).then(() => true, () => undefined),
    );
    expect(await ledger.missing(store)).toEqual([]);
    await new Ledger(store).put("new");
  });

  slow("do not miss the last write before a leader falls silent", async () => {
    // The heartbeat that tells the followers of the commit comes later than this test needs.
    const cluster = await Cluster.start({ electionTimeoutMs: 2000, heartbeatMs: 1000 });
    const leader = await cluster.agreement();
    const client = await cluster.connect();
    await new KeyValues(client).put(Buffer.from("last"), Buffer.from("write"));
    const { commitIndex } = await client.inspect(leader);
    cluster.pause(leader);
    const file = path.join(temporaryDirectory(), "backup");
    const args = ["backup", file, "--new", "--json", "--timeout", "300", ...at(cluster)];
    const early = await run(...args);
    // Without a leader it fails, because followers may have an old commit index.
    if (early.code === 0) {
      expect(JSON.parse(early.output).index).toBeGreaterThanOrEqual(commitIndex);
    } else expect([early.code, existsSync(file)]).toEqual([5, false]);
    await eventually("the next leader has it in a backup", async () => {
      const { code, output } = await run(...args);
      return code === 0 && JSON.parse(output).index >= commitIndex ? true : undefined;
    });
  });

  test("leave nothing of a backup that Ctrl-C ends", async () => {
    const cluster = await Cluster.start(TIMING, 1);
    const directory = temporaryDirectory();
    const file = path.join(directory, "backup");
    const args = [file, "--from", "silent", "--timeout", "100000", "--json", ...at(cluster)];
    const program = new Program(["backup", ...args]);
    await eventually("the backup begins", () => readdirSync(directory)[0]);
    program.signal("SIGINT");
    expect(await program.exited).toBe(5);
    await program.closed;
    expect(JSON.parse(program.output)).toMatchObject({ ok: false, error: { code: "closed" } });
    expect(readdirSync(directory)).toEqual([]);
  });

  test("copy the state of a program's own state machine, which knows no empty question", async () => {
    const [port = 0] = await freePorts(1);
    await using node = await Node.start({
      host: "127.0.0.1",
      port,
      peers: [],
      directory: path.join(temporaryDirectory(), "data"),
      machine: {
        apply: (command) => command,
        query: () => {
          throw new Error("unknown question");
        },
        snapshot: () => [Buffer.from("state")],
        restore: () => () => {},
      },
    });
    await node.propose(Buffer.from("command"));
    const file = path.join(temporaryDirectory(), "backup");
    expect(await run("backup", file, "--new", "--peers", `127.0.0.1:${port}`)).toMatchObject({
      code: 0,
    });
    expect(readFileSync(file, "latin1")).toContain("state");
  });

  test("ask a server that has the state, not one that waits to join", async () => {
    const cluster = await Cluster.start(TIMING, 1);
    await (await cluster.ledger()).put("key");
    const [port] = await freePorts(1);
    const waits = ["--name", "0", "--join", "--peers", cluster.servers.join()];
    const place = ["--host", "127.0.0.1", "--port", `${port}`, "--data", temporaryDirectory()];
    new Program([...waits, ...place, "--cluster", cluster.name]);
    const all = ["--peers", `0=127.0.0.1:${port},${cluster.servers.join()}`];
    await eventually("both answer", async () => {
      const { output } = await run("status", "--json", ...all, "--cluster", cluster.name);
      return JSON.parse(output).statuses.length === 2 ? true : undefined;
    });
    const file = path.join(temporaryDirectory(), "backup");
    expect(await run("backup", file, ...all, "--cluster", cluster.name)).toMatchObject({ code: 0 });
  });

  test("refuse what they cannot do, and leave nothing half done", async () => {
    const cluster = await Cluster.start(TIMING, 1);
    const ledger = await cluster.ledger();
    await ledger.put("key");
    const directory = temporaryDirectory();
    const file = path.join(directory, "backup");
    expect((await run("backup", file, ...at(cluster))).code).toBe(0);
    const whole = readFileSync(file);

    // The old backup stays if the next one fails.
    const [unknown, nobody] = await Promise.all([
      run("backup", file, "--from", "ghost", "--timeout", "300", ...at(cluster)),
      run("backup", file, "--peers", "127.0.0.1:1", "--timeout", "200"),
    ]);
    expect(unknown).toMatchObject({ code: 5, errors: expect.stringContaining("ghost") });
    expect(nobody).toMatchObject({ code: 5, errors: expect.stringContaining("No server answers") });
    expect(readFileSync(file)).toEqual(whole);
    expect(readdirSync(directory)).toEqual(["backup"]);

    const data = path.join(directory, "data");
    const flipped = Buffer.from(whole);
    flipped.writeUInt8(flipped.readUInt8(40) ^ 1, 40);
    const damaged = [whole.subarray(0, -1), Buffer.concat([whole, Buffer.of(0)]), flipped];
    const restored = await Promise.all(damaged.map((content, i) => {
      const bad = path.join(directory, `bad${i}`);
      writeFileSync(bad, content);
      return run("restore", bad, "--data", data);
    }));
    for (const { code, errors } of restored) {
      expect(code).toBe(3);
      expect(errors).toMatch(/^Cannot use \S+bad\d: it is damaged at byte \d+\. Take another/);
    }
    expect(existsSync(data)).toBe(false);
    // A restore that was killed can be repeated, and one that has succeeded cannot.
    const { files } = systemWorld;
    const storage = new Storage(
      files,
      data,
      { cluster: "raft", name: "data", members: [] },
      Math.random,
    );
    storage.writeDraft(0, whole.subarray(0, 100));
    storage.close();
    const repeated = await run("restore", file, "--data", data);
    expect(repeated).toMatchObject({ code: 0, output: expect.stringContaining("without --peers") });
    const before = readFileSync(path.join(data, "snapshot"));
    const refused = await run("restore", file, "--data", data);
    expect(refused.code).toBe(2);
    expect(refused.errors).toMatch(
      /^Cannot restore into ".*data": it must be a new or empty directory\. Give/,
    );
    expect(readFileSync(path.join(data, "snapshot"))).toEqual(before);
    const nowhere = await run("restore", file, "--name", "d");
    expect(nowhere).toMatchObject({ code: 2, errors: expect.stringContaining("--data DIR") });
  });
});

describe("status", () => {
  slow(
    "--check tells with its exit code that something is wrong, though a leader serves",
    async () => {
      const cluster = await Cluster.start(TIMING);
      const status = (...more: string[]) => run("status", ...more, ...at(cluster));
      await eventually(
        "nothing is wrong",
        async () => (await status("--check")).code === 0 ? true : undefined,
      );
      const leader = await cluster.agreement();
      const [lost = ""] = cluster.others(leader);
      await cluster.kill(lost);
      const checked = await eventually("a server is missing", async () => {
        const result = await status("--check");
        return result.code === 0 ? undefined : result;
      });
      expect(checked.code).toBe(1);
      expect(checked.errors).toStartWith(`${lost} has `);
      expect((await status()).code).toBe(0);
      const { code, output } = await status("--check", "--json");
      expect(code).toBe(1);
      expect(JSON.parse(output)).toMatchObject({ ok: false, leader, error: { code: "troubles" } });
      await cluster.kill(...cluster.others(lost));
      expect((await status("--check", "--timeout", "300")).code).toBe(5);
    },
  );

  /** Runs `status --watch` on a terminal until `enough`, then types `key`. */
  async function watch(args: string[], key: string, enough: (screen: string) => boolean) {
    let screen = "";
    const data = (_: unknown, more: Uint8Array) => void (screen += Buffer.from(more).toString());
    const child = Bun.spawn([process.execPath, CLI, "status", "--watch", ...args], {
      terminal: { cols: 80, rows: 10, data },
    });
    const drawn = eventually("enough was drawn", () => (enough(screen) ? true : undefined));
    await drawn.finally(() => child.terminal?.write(key));
    const code = await child.exited;
    return { code, screen };
  }

  slow(
    "--watch draws one screen again and again, in place, and restores the terminal",
    async () => {
      const cluster = await Cluster.start(TIMING);
      for (const key of ["q", "\x03"]) {
        const { code, screen } = await watch(at(cluster), key, (s) => s.split("\x1b[H").length > 3);
        expect(code).toBe(0);
        const [begin, ...frames] = screen.split("\x1b[H");
        expect(begin).toBe("\x1b[?1049h\x1b[?25l\x1b[?7l");
        expect(screen).toEndWith("\x1b[J\x1b[?7h\x1b[?25h\x1b[?1049l");
        for (const frame of frames) {
          const lines = frame.replaceAll(/\x1b\[\??\d*[A-Za-z]/g, "").trimEnd().split(/\r*\n/);
          expect(lines.length).toBeLessThan(10);
          expect(Math.max(...lines.map(({ length }) => length))).toBeLessThanOrEqual(80);
          for (const server of cluster.servers) expect(frame).toContain(server);
          expect(lines[2]).toMatch(/^name +role +term +lastIndex +lag +heardMs +roundTripMs/);
        }
      }
    },
  );

  test("--watch explains a missing leader, and needs a terminal", async () => {
    const isDrawn = (screen: string) => screen.includes("\x1b[J");
    const { code, screen } = await watch(["--peers", "127.0.0.1:1"], "q", isDrawn);
    expect(code).toBe(0);
    expect(screen).toContain("No server answers");
    expect(await run("status", "--watch")).toMatchObject({
      code: 2,
      output: "",
      errors: expect.stringMatching(/^Cannot watch without a terminal/),
    });
  });
});

test("events in JSON have a type, a term, an index, fields, and a time with a zone", async () => {
  const cluster = await Cluster.create(TIMING, 1);
  const [server = ""] = cluster.servers;
  const program = new Program([...cluster.commandLine(server), "--json"]);
  const lines = await eventually("it leads", () => {
    const all = program.output.trim().split("\n");
    return program.output.includes(`"committed"`) ? all : undefined;
  });
  program.signal("SIGTERM");
  await program.closed;
  const events = lines.map((line) => JSON.parse(line));
  for (const event of events) {
    expect(event.time).toMatch(/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)$/);
    expect(event.server).toBe(server);
    expect([typeof event.type, typeof event.message]).toEqual(["string", "string"]);
  }
  expect(events[0]).toMatchObject({ type: "text", message: "Starting server..." });
  const one = (type: string) => events.filter((event) => event.type === type);
  expect(one("leader")).toMatchObject([
    { level: "INFO", term: 1, index: 1, fields: { to: server } },
  ]);
  expect(one("role").map(({ fields }) => fields)).toEqual([
    { from: "Follower", to: "PreCandidate" },
    { from: "PreCandidate", to: "Candidate" },
    { from: "Candidate", to: "Leader" },
  ]);
  expect(one("campaign")[0].message).toMatch(/Candidate\. Starting vote\.\.\.$/);
});

test("small programs show a status as metrics, and a stopped server's disk as lines of JSON", async () => {
  const cluster = await Cluster.start(TIMING);
  const ledger = await cluster.ledger();
  const leader = await cluster.agreement();
  await ledger.put("first", "1");
  const backup = path.join(temporaryDirectory(), "backup");
  const args = ["--new", "--from", leader, ...at(cluster)];
  expect(await run("backup", backup, ...args)).toMatchObject({ code: 0 });
  await ledger.put("second", "2");
  const { output } = await run("status", "--json", ...at(cluster));
  const text = metricsOf(JSON.parse(output).statuses);
  for (const row of text.trim().split("\n")) {
    expect(row).toMatch(/^(# (HELP|TYPE) \w+ .+|\w+\{server="[^"]+"(,\w+="[^"]+")?\} [\d.e-]+)$/);
  }
  const value = (name: string) =>
    Number(
      text.split("\n").find((row) => row.startsWith(`raft_${name}{server="${leader}"`))
        ?.split(" ")[1],
    );
  expect(value("server_has_leader")).toBe(1);
  expect(value("server_is_leader")).toBe(1);
  expect(value("server_is_learner")).toBe(0);
  expect(value("server_leader_changes_seen_total")).toBeGreaterThan(0);
  expect(value("server_proposals_pending")).toBe(0);
  expect(value("server_proposals_committed_total")).toBeGreaterThan(3);
  expect(value("disk_wal_fsync_duration_seconds_count")).toBeGreaterThan(3);
  expect(value("disk_wal_fsync_duration_seconds_sum")).toBeGreaterThan(0);
  expect(value("snapshot_size_in_bytes")).toBe(statSync(backup).size);
  expect(value("network_peer_round_trip_time_seconds")).toBeGreaterThanOrEqual(0);

  const data = path.join(cluster.directory, leader.split(":")[1] ?? "");
  expect(() => [...contentsOf(data)]).toThrow("a running server has it");
  await cluster.kill(leader);
  const lines = [...contentsOf(data)].map((content) => JSON.parse(line(content)));
  expect(lines[0]).toMatchObject({ kind: "server", name: leader, cluster: cluster.name });
  expect(lines.filter(({ kind }) => kind === "state").map(({ state }) => state)).toEqual([
    ["put", "first", "1"],
  ]);
  const commands = lines.filter(({ file, kind }) => file === "log" && kind === "commands");
  expect(commands.map(({ isInSnapshot, requests: [{ commands }] }) => [isInSnapshot, commands]))
    .toEqual([[true, [["put", "first", "1"]]], [false, [["put", "second", "2"]]]]);
  const answers = lines.findLast(({ file, kind }) => file === "snapshot" && kind === "session");
  expect(answers.session).toEqual([1, ["\x01"]]);
});
