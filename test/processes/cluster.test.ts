/**
 * Tests with real processes, datagrams and disks what no simulation can: acknowledged writes are
 * there after a process was killed by `kill -9`, or stopped for a while.
 *
 * Longer runs, by hand: RAFT_KILLS=20 RAFT_DEAD=20 RAFT_STOP_MS=5000 RAFT_DEFAULTS=1 bun test
 * cluster. RAFT_DEFAULTS takes the default timeouts instead of the short ones.
 */
import {
  afterAll,
  afterEach,
  beforeAll,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test";
import { existsSync } from "node:fs";
import type { KeyValues } from "../../raft.ts";
import {
  adopt,
  bytes,
  childrenOf,
  Cluster,
  endAll,
  eventually,
  freePorts,
  isAlive,
  isFree,
  type Ledger,
  Program,
  run,
  temporaryDirectory,
  text,
} from "../support/processes.ts";
import { slow } from "../support/thorough.ts";

const byHand = (variable: string, otherwise: number) => Number(process.env[variable] ?? otherwise);
const KILLS = byHand("RAFT_KILLS", 3);
const DEAD = byHand("RAFT_DEAD", 2);
const STOP_MS = byHand("RAFT_STOP_MS", 2000);
const DEFAULTS = { electionTimeoutMs: 1000, heartbeatMs: 100 };
const QUICK = { electionTimeoutMs: 300, heartbeatMs: 50 };
const TIMING = process.env.RAFT_DEFAULTS === "1" ? DEFAULTS : QUICK;
/** Timing for tests that a busy machine must not disturb with an election. */
const PATIENT = TIMING === DEFAULTS ? DEFAULTS : { electionTimeoutMs: 500, heartbeatMs: 50 };

setDefaultTimeout(100_000 + 20_000 * (KILLS - 3 + DEAD - 2));
afterAll(endAll);

/** Prints durations. They are for information: no test passes or fails by them. */
function report(what: string, durations: readonly number[]): void {
  const sorted = durations.toSorted((a, b) => a - b);
  const median = Math.round(sorted[Math.floor(sorted.length / 2)] ?? Number.NaN);
  const times = sorted.length === 1 ? "once" : `${sorted.length} times`;
  console.log(`  ${what}, ${times}: ${median} ms median, ${Math.round(sorted.at(-1) ?? 0)} ms max`);
}

/** Starts work that is awaited later, so that an earlier failure is not reported as unhandled. */
function background(work: Promise<unknown>[]): Promise<unknown> {
  const all = Promise.all(work);
  all.catch(() => {});
  return all;
}

describe("a cluster", () => {
  afterEach(endAll);

  test("its leader is killed, again and again: writes go on soon, nothing is lost", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledger = await cluster.ledger();
    const recoveries: number[] = [];
    for (let kill = 1; kill <= KILLS; kill += 1) {
      await Promise.all(ledger.putMany(`before kill ${kill}`, 50));
      const leader = await cluster.agreement();
      const underWay = ledger.putMany(`during kill ${kill}`, 50);
      await Promise.race(underWay); // Some are acknowledged, some are not, when the leader dies.
      const killedAt = performance.now();
      const dead = cluster.kill(leader);
      await ledger.put(`after kill ${kill}`);
      recoveries.push(performance.now() - killedAt);
      await Promise.all([dead, ...underWay]);
      expect(await ledger.missing()).toEqual([]);
      cluster.start(leader);
    }
    await cluster.convergence();
    expect(await ledger.missing()).toEqual([]);
    expect(ledger.acknowledged.size).toBe(KILLS * 101);
    report("kill -9 of the leader to the next put acknowledged", recoveries);
    // An election timeout is drawn from T to 1.5T, and the promise is two of them and a second.
    const limitMs = 2 * 1.5 * TIMING.electionTimeoutMs + 1000;
    expect(recoveries.filter((ms) => ms > limitMs)).toEqual([]);
  });

  slow("all are killed together during writes: every acknowledged write is there", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledgers = await Promise.all([cluster.ledger(), cluster.ledger(), cluster.ledger()]);
    const acknowledged = () => ledgers.reduce((sum, { acknowledged: a }) => sum + a.size, 0);
    let isOver = false;
    const write = async (ledger: Ledger, writer: string) => {
      for (let i = 0; !isOver; i += 1) await ledger.put(`${writer}, number ${i}`);
    };
    const writing = background(
      ledgers.flatMap((ledger, client) =>
        Array.from({ length: 20 }, (_, i) => write(ledger, `client ${client}, writer ${i}`))
      ),
    );
    await eventually("1000 are acknowledged", () => acknowledged() >= 1000 || undefined);
    await cluster.kill(...cluster.servers);
    isOver = true;
    const owed = acknowledged();
    cluster.startAll();
    await writing; // The last put of each writer was in flight, and succeeds.
    const [reader] = await Promise.all([cluster.ledger(), cluster.agreement()]);
    for (const ledger of ledgers) expect(await ledger.missing(reader.store)).toEqual([]);
    expect(owed).toBeGreaterThanOrEqual(1000);
    expect(acknowledged()).toBeGreaterThan(owed);
  });

  slow("its leader is killed among commands: a retried command is applied once", async () => {
    const cluster = await Cluster.start(TIMING);
    const { store } = await cluster.ledger();
    const counts = Array.from({ length: 200 }, () => 0);
    const twice: string[] = [];
    let isOver = false;
    const count = async (_: number, counter: number) => {
      const key = bytes(`counter ${counter}`);
      for (let before: Uint8Array | undefined; !isOver;) {
        const next = bytes(`counted to ${counts[counter]}`);
        // This client alone counts here. A second application would fail.
        if (!(await store.cas(key, before, next))) twice.push(`${text(next)} (${counter})`);
        before = next;
        counts[counter] = (counts[counter] ?? 0) + 1;
      }
    };
    const counting = background(counts.map(count));
    const counted = () => counts.reduce((sum, n) => sum + n, 0);
    for (let kill = 1; kill <= 2; kill += 1) {
      const leader = await cluster.agreement();
      const enough = counted() + 1000;
      await eventually("1000 more are counted", () => counted() >= enough || undefined);
      await cluster.kill(leader);
      await eventually("counting goes on", () => counted() >= enough + 200 || undefined);
      cluster.start(leader);
    }
    isOver = true;
    await counting;
    expect(twice).toEqual([]);
  });

  slow("one of three was never started: the other two elect and serve", async () => {
    // A datagram to a closed port makes the kernel fail the next send, to any receiver: the dead
    // server must not silence the living ones, wherever in the list it is.
    const durations: number[] = [];
    for (let time = 0; time < DEAD; time += 1) {
      const cluster = await Cluster.create(TIMING);
      const dead = cluster.servers[time % 3];
      const startedAt = performance.now();
      for (const server of cluster.servers) if (server !== dead) cluster.start(server);
      const ledger = await cluster.ledger(cluster.running);
      await ledger.put("first");
      durations.push(performance.now() - startedAt);
      for (let i = 0; i < 20; i += 1) await ledger.put(`number ${i}`);
      expect(await ledger.missing()).toEqual([]);
      await cluster.convergence();
      await endAll();
    }
    report("two of three servers start, to the first put acknowledged", durations);
  });

  slow("its leader is stopped for a while: another one leads, the old one follows", async () => {
    const cluster = await Cluster.start(PATIENT);
    const ledger = await cluster.ledger();
    await Promise.all(ledger.putMany("before", 50));
    await ledger.put("who leads", "the old leader");
    const old = await cluster.agreement();
    const stoppedAt = performance.now();
    cluster.pause(old);
    await ledger.put("who leads", "the new leader");
    const leader = await cluster.agreement();
    expect(leader).not.toBe(old);
    await Promise.all(ledger.putMany("meanwhile", 50));
    // This is asked while the old leader cannot know that there is a new one.
    const late = await cluster.ledger([old]);
    const answer = late.get("who leads");
    await Bun.sleep(Math.max(0, STOP_MS - (performance.now() - stoppedAt)));
    const terms = (await cluster.statuses()).map(({ term }) => term);
    cluster.resume(old);
    expect(await answer).toBe("the new leader");
    expect(await cluster.agreement()).toBe(leader);
    await cluster.convergence();
    await Bun.sleep(2000); // Any server that wanted another election would have started it by now.
    const after = (await cluster.statuses(cluster.servers)).map(({ term }) => term);
    expect(after).toEqual(Array(3).fill(Math.max(...terms)));
    expect(await ledger.missing()).toEqual([]);
  });

  test("a follower is stopped for a while: the leader and its term stay", async () => {
    const cluster = await Cluster.start(PATIENT);
    const ledger = await cluster.ledger();
    const leader = await cluster.agreement();
    const [before] = await cluster.statuses([leader]);
    const [follower = ""] = cluster.others(leader);
    cluster.pause(follower);
    await Promise.all(ledger.putMany("meanwhile", 50));
    await Bun.sleep(3 * PATIENT.electionTimeoutMs);
    cluster.resume(follower);
    await cluster.convergence();
    await Bun.sleep(2 * PATIENT.electionTimeoutMs);
    expect(await cluster.agreement()).toBe(leader);
    for (const { term } of await cluster.statuses()) expect(term).toBe(before?.term ?? 0);
    expect(await ledger.missing()).toEqual([]);
  });

  slow("without a majority nothing is acknowledged, and nothing is read", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledger = await cluster.ledger();
    await Promise.all(ledger.putMany("before", 50));
    const leader = await cluster.agreement();
    const followers = cluster.others(leader);
    for (const follower of followers) cluster.pause(follower);
    const value = ledger.get("before, number 0");
    const put = ledger.put("alone");
    const both = background([value, put]);
    const silence = Bun.sleep(1000).then(() => "no answer");
    expect(await Promise.race([value, put, silence])).toBe("no answer");
    await eventually("the leader steps down without followers", async () => {
      const status = await cluster.status(leader);
      return (status && status.role !== "Leader") || undefined;
    });
    // The one that tried alone is gone: what it alone had, it never promised.
    await cluster.kill(leader);
    for (const follower of followers) cluster.resume(follower);
    expect(followers).toContain(await cluster.agreement());
    await both; // The client has retried, and now a server can answer.
    expect(ledger.acknowledged.get("before, number 0")).toBe((await value) ?? "nothing");
    expect(await ledger.missing()).toEqual([]);
  });

  slow("a follower missed many writes: restarted, it has them all", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledger = await cluster.ledger();
    const leader = await cluster.agreement();
    const [behind = "", other = ""] = cluster.others(leader);
    await ledger.put("before");
    const before = await cluster.convergence();
    await cluster.kill(behind);
    for (let i = 0; i < 4; i += 1) await Promise.all(ledger.putMany(`while it was dead ${i}`, 500));
    cluster.start(behind);
    expect(await cluster.convergence()).toBeGreaterThan(before);
    // Now there is no majority without it.
    await cluster.kill(other);
    await ledger.put("after");
    expect(await ledger.missing()).toEqual([]);
  });

  slow("a server that missed writes is not elected, though it asks first", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledger = await cluster.ledger();
    const leader = await cluster.agreement();
    const [behind = "", other = ""] = cluster.others(leader);
    await cluster.kill(behind);
    await Promise.all(ledger.putMany("while it was dead", 50));
    await cluster.kill(leader, other);
    cluster.start(behind);
    // It asks for votes by now, while a server that has just started waits before it does.
    await Bun.sleep(3 * TIMING.electionTimeoutMs);
    cluster.start(other);
    expect(await cluster.agreement()).toBe(other);
    expect(await ledger.missing()).toEqual([]);
    cluster.start(leader);
    await cluster.convergence();
  });

  slow("all are restarted: the data stay, and terms never go back", async () => {
    const cluster = await Cluster.start(TIMING);
    const ledger = await cluster.ledger();
    let before = 0;
    for (const how of ["SIGTERM", "SIGKILL", "SIGINT"] as const) {
      await Promise.all(ledger.putMany(`before ${how}`, 100));
      await cluster.agreement();
      const terms = new Map((await cluster.statuses()).map(({ name, term }) => [name, term]));
      for (const server of cluster.servers) cluster.program(server).signal(how);
      for (const server of cluster.servers) {
        const code = await cluster.program(server).exited;
        if (how !== "SIGKILL") expect(code).toBe(0);
      }
      cluster.startAll();
      for (const { name, term } of await cluster.statuses(cluster.servers)) {
        expect(term).toBeGreaterThanOrEqual(terms.get(name) ?? Number.POSITIVE_INFINITY);
      }
      await cluster.agreement();
      const [status] = await cluster.statuses();
      expect(status?.term).toBeGreaterThan(before); // Two leaders in one term would be too many.
      before = status?.term ?? 0;
      expect(await ledger.missing()).toEqual([]);
    }
  });
});

describe("a single server", () => {
  afterEach(endAll);

  test("it leads at once, keeps its data over kill -9, and opens a term per start", async () => {
    const cluster = await Cluster.create(TIMING, 1);
    const ledger = await cluster.ledger();
    const [only = ""] = cluster.servers;
    const terms: number[] = [];
    for (let start = 1; start <= 4; start += 1) {
      const program = cluster.start(only);
      await Promise.all(ledger.putMany(`in life ${start}`, 50));
      expect(await ledger.missing()).toEqual([]);
      expect(program.output).toContain(" - 0 peers configured, starting as Follower\n");
      const [status] = await cluster.statuses();
      expect(status).toMatchObject({ role: "Leader", leader: only });
      terms.push(status?.term ?? 0);
      await cluster.kill(only);
    }
    expect(terms[0]).toBeGreaterThan(0);
    expect(terms).toEqual([...new Set(terms)].toSorted((a, b) => a - b));
  });

  test("its directory is its own while it runs, and free once it is killed", async () => {
    const cluster = await Cluster.start(TIMING, 1);
    const [only = ""] = cluster.servers;
    const ledger = await cluster.ledger();
    await ledger.put("mine");
    const [port] = await freePorts(1);
    const elsewhere = [...cluster.commandLine(only), "--name", only, "--port", String(port)];
    const second = await run(...elsewhere);
    expect(second.errors).toMatch(/a running server/);
    expect(second).toMatchObject({ code: 3 });
    await ledger.put("still mine");
    expect(await ledger.missing()).toEqual([]);
    await cluster.kill(only);
    const other = await run(...elsewhere, "--name", "somebody-else");
    expect(other.errors).toMatch(/ it belongs to server /);
    expect(other).toMatchObject({ code: 3 });
    cluster.start(only);
    expect(await ledger.missing()).toEqual([]);
  });

  test("what it cannot do it says in a sentence, and by its exit code", async () => {
    const here = ["--host", "127.0.0.1", "--data", temporaryDirectory()];
    const wrong = await Promise.all([
      run("--port", "12345"),
      run(...here, "--port", "123456"),
      run(...here, "--port", "12345", "--peers", "127.0.0.1:12345"),
      run(...here, "--port", "12345", "--peers", "127.0.0.1"),
      run(...here, "--port", "12345", "--heartbeat", "soon"),
      run("--no-such-flag"),
    ]);
    for (const { code, errors } of wrong) {
      expect(errors).not.toBe("");
      expect(errors).not.toMatch(/^ +at /m); // A stack trace does not help after a typing error.
      expect(code).toBe(2);
    }
  });
});

describe("clients", () => {
  let cluster: Cluster;
  let ledger: Ledger;
  beforeAll(async () => {
    cluster = await Cluster.start(TIMING);
    ledger = await cluster.ledger();
  });
  afterAll(endAll);

  test("put, get, delete and cas do what they say", async () => {
    const { store } = ledger;
    const [key, one, two] = [bytes("key"), bytes("one"), bytes("two")];
    expect(await store.get(key)).toBeUndefined();
    expect(await store.delete(key)).toBe(false);
    expect(await store.cas(key, one, two)).toBe(false);
    expect(await store.get(key)).toBeUndefined();
    expect(await store.cas(key, undefined, one)).toBe(true);
    expect(await store.cas(key, undefined, two)).toBe(false);
    expect(await store.cas(key, two, two)).toBe(false);
    expect(await ledger.get("key")).toBe("one");
    expect(await store.cas(key, one, two)).toBe(true);
    expect(await ledger.get("key")).toBe("two");
    expect(await store.delete(key)).toBe(true);
    expect(await store.delete(key)).toBe(false);
    expect(await store.get(key)).toBeUndefined();
  });

  test("of many that compare and set at once, each number is taken by one", async () => {
    const stores = [ledger, await cluster.ledger(), await cluster.ledger()].map((l) => l.store);
    const key = bytes("counter");
    await ledger.store.put(key, bytes("0"));
    const count = async (store: KeyValues) => {
      for (let done = 0; done < 20;) {
        const before = (await store.get(key)) ?? bytes("nothing");
        const next = Number(new TextDecoder().decode(before)) + 1;
        if (await store.cas(key, before, bytes(String(next)))) done += 1;
      }
    };
    await Promise.all(stores.map(count));
    expect(await ledger.get("counter")).toBe(String(20 * stores.length));
  });

  test("keys and values are arbitrary bytes", async () => {
    const { store } = ledger;
    const all = Uint8Array.from({ length: 256 }, (_, i) => i);
    const keys = [all, bytes("__proto__"), bytes("constructor"), Uint8Array.of(0), bytes("é")];
    keys.push(Uint8Array.of(0xff), Uint8Array.of(0xfe), Uint8Array.of(0xc3, 0xa9, 0xc3));
    const values = keys.map((key, i) => Uint8Array.of(i, 0xff, ...key));
    values[1] = new Uint8Array(0); // An empty value is a value.
    await Promise.all(keys.map((key, i) => store.put(key, values[i] ?? all)));
    const found = await Promise.all(keys.map((key) => store.get(key)));
    expect(found.map((value) => value && [...value])).toEqual(values.map((value) => [...value]));
    expect(await store.delete(bytes("__proto__"))).toBe(true);
    expect(await store.get(bytes("__proto__"))).toBeUndefined();
  });

  test("60,000 bytes come back whole, and 70,000 are refused", async () => {
    const { store } = ledger;
    const large = crypto.getRandomValues(new Uint8Array(60_000));
    await store.put(bytes("large"), large);
    const found = await store.get(bytes("large"));
    expect(Buffer.from(found ?? []).equals(large)).toBe(true);
    await cluster.convergence(); // It has reached everybody, and did not stop what follows it.
    const refused = await store.put(bytes("large"), new Uint8Array(70_000)).catch((e) => e);
    expect(refused).toMatchObject({ code: "refused" });
    await ledger.put("after the refusal");
    expect(await ledger.missing()).toEqual([]);
    expect(cluster.running).toEqual([...cluster.servers]);
  });

  test("a client finds the leader from any server", async () => {
    for (const server of cluster.servers) {
      const lone = await cluster.ledger([server]);
      await lone.put(`by way of ${server}`, "done");
      expect(await lone.get(`by way of ${server}`)).toBe("done");
      expect(await ledger.get(`by way of ${server}`)).toBe("done");
    }
  });

  test("a client whose list holds a dead server works", async () => {
    const [port] = await freePorts(1);
    const dead = `127.0.0.1:${port}`;
    for (
      const servers of [
        [dead, ...cluster.servers],
        [dead, cluster.servers[0] ?? ""],
      ]
    ) {
      const other = await cluster.ledger(servers);
      await Promise.all(other.putMany(`from a list of ${servers.length}`, 20));
      expect(await other.missing()).toEqual([]);
    }
  });

  test("500 puts at once all succeed", async () => {
    const other = await cluster.ledger();
    await Promise.all(other.putMany("at once", 500));
    expect(other.acknowledged.size).toBe(500);
    expect(await other.missing(ledger.store)).toEqual([]);
  });

  test(
    "the command line hands over although a listed server is dead, and waits for none",
    async () => {
      const [port] = await freePorts(1);
      const peers = [`127.0.0.1:${port}`, ...cluster.servers].join(",");
      const { code, output } = await run(
        "transfer",
        "--peers",
        peers,
        "--cluster",
        cluster.name,
        "--timeout",
        "600000",
      );
      expect([code, output]).toEqual([0, expect.stringMatching(/^127\.0\.0\.1:\d+ leads\.$/)]);
    },
    30_000,
  );

  test("the command line answers in words and by its exit code", async () => {
    const where = ["--peers", cluster.servers.join(","), "--cluster", cluster.name];
    const cli = async (...words: string[]) => {
      const { code, output } = await run(...words, ...where);
      return [code, output];
    };
    expect(await cli("get", "word")).toEqual([1, ""]);
    expect(await cli("put", "word", "first one")).toEqual([0, "OK"]);
    expect(await cli("get", "word")).toEqual([0, "first one"]);
    expect((await cli("cas", "word", "another", "next"))[0]).toBe(1);
    expect((await cli("cas", "word", "first one", "next"))[0]).toBe(0);
    expect(await cli("get", "word")).toEqual([0, "next"]);
    expect((await cli("delete", "word"))[0]).toBe(0);
    expect((await cli("delete", "word"))[0]).toBe(1);
    const [code, status] = await cli("status");
    expect(code).toBe(0);
    for (const server of cluster.servers) expect(status).toContain(server);
    expect(status).toContain("Leader");
  });
});

describe.if(existsSync("/proc/self/stat"))("bun cli.ts --test", () => {
  afterEach(endAll);

  const LINE = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3} - (INFO|WARNING) - raft - (\S+) - (.+)$/;
  const PORTS = [48000, 48001, 48002];
  type Trio = { program: Program; servers: { pid: number; command: string }[] };

  /** Starts a trio. Its ports are fixed, and other servers may hold them for a while. */
  async function startTrio(...flags: string[]): Promise<Trio> {
    const start = async () => {
      if ((await Promise.all(PORTS.map(isFree))).includes(false)) return undefined;
      const program = new Program(["--test", ...flags], { TMPDIR: temporaryDirectory() });
      const servers = await eventually("three servers start, or some of them fail", () => {
        const children = childrenOf(program.pid);
        const count = (words: RegExp) => program.output.match(words)?.length ?? 0;
        const haveFailed = count(/Starting server/g) === 3 && children.length < 3;
        return haveFailed || count(/Server listening on /g) === 3 ? children : undefined;
      });
      for (const server of servers) adopt(server);
      if (servers.length === 3) return { program, servers };
      await endAll();
      return undefined;
    };
    return await eventually("the ports of a trio are free", start, 60_000);
  }

  /** What each server has told so far, in its order. */
  function stories({ output }: Program): Map<string, string[]> {
    const lines = output.split("\n").map((line) => LINE.exec(line) ?? []);
    const told = lines.map(([, , server = "", message = ""]) => ({ server, message }));
    const byServer = Map.groupBy(told, ({ server }) => server);
    byServer.delete("");
    return new Map([...byServer].map(([server, all]) => [server, all.map((l) => l.message)]));
  }

  function leaderOf({ program }: Trio): Promise<string> {
    return eventually("all have told who leads", () => {
      const leaders = [...stories(program).values()].map((messages) =>
        messages
          .findLast((message) => message.startsWith("Old Leader: "))
          ?.replace(/^.*new leader: /, "")
      );
      const [leader = "None"] = leaders;
      return leader !== "None" && leaders.every((other) => other === leader) ? leader : undefined;
    });
  }

  /** Expects messages in this order, with others between them or not. */
  function expectStory(told: readonly string[], expected: readonly (string | RegExp)[]): void {
    let rest = told;
    for (const want of expected) {
      const at = rest.findIndex((m) => (typeof want === "string" ? m === want : want.test(m)));
      if (at === -1) throw new Error(`"${want}" is not told, or not then, in:\n${told.join("\n")}`);
      rest = rest.slice(at + 1);
    }
  }

  async function expectNobodyLeft({ program, servers }: Trio): Promise<number> {
    const since = performance.now();
    await eventually("no process is left", () => {
      return servers.some(({ pid }) => isAlive(pid)) ? undefined : true;
    });
    const tookMs = performance.now() - since;
    await program.exited;
    await program.closed; // A process that still ran would hold the pipe of the output.
    return tookMs;
  }

  test("three servers tell the story of an election, answer, and end by Ctrl-C", async () => {
    const trio = await startTrio();
    const { program } = trio;
    const leader = await leaderOf(trio);
    const told = stories(program);
    const names = [...told.keys()];
    expect(names.map((name) => name.split(":")[1]).toSorted()).toEqual(PORTS.map(String));
    expect(names).toContain("127.0.0.1:48000");
    expect(names).toContain("localhost:48001");
    for (const [name, messages] of told) {
      const peers = messages.find((message) => message.startsWith("Peers: [")) ?? "";
      for (const other of names) expect(peers.includes(other)).toBe(other !== name);
      expectStory(messages, [
        "Starting server...",
        /^Peers: \[\S+:\d+, \S+:\d+\]$/,
        "2 peers configured, starting as Follower",
        new RegExp(`^Server listening on ${name}( \\(.+\\))?$`),
      ]);
    }
    const elected = [
      /^No valid RPC received in the last \d+ milliseconds, switching to Candidate$/,
      "Starting vote...",
      "Switching state from Follower to Candidate",
      "Received 2 votes",
      "Received 2 votes. Switching to Leader",
    ];
    const winner = told.get(leader) ?? [];
    expectStory(winner, [new RegExp(`^Server listening on ${leader}`), ...elected]);
    // These two have no order: one is about what it is, the other about whom it knows.
    expectStory(winner, [...elected, "Switching state from Candidate to Leader"]);
    expectStory(winner, [...elected, `Old Leader: None, new leader: ${leader}`]);
    const followers = names.filter((name) => name !== leader).map((name) => told.get(name) ?? []);
    const known = [`New leader: ${leader}`, `Old Leader: None, new leader: ${leader}`];
    for (const messages of followers) expectStory(messages, ["Starting server...", ...known]);
    const voters = followers.filter((messages) => messages.includes(`Voting for ${leader}`));
    expect(voters.length).toBeGreaterThan(0);
    for (const messages of voters) {
      expectStory(messages, [`Voting for ${leader}`, `Voted for ${leader}`, ...known]);
    }
    const key = crypto.randomUUID();
    expect(await run("put", key, "a value")).toMatchObject({ code: 0, output: "OK" });
    expect(await run("get", key)).toMatchObject({ code: 0, output: "a value" });
    program.signal("SIGINT");
    report("Ctrl-C to the end of all three servers", [await expectNobodyLeft(trio)]);
    expect(await program.exited).toBe(0);
    expect(program.output).not.toContain("\x1b"); // Colours are for terminals.
  });

  slow("kill the leader, read the value back; kill the parent, nothing is left", async () => {
    const cluster = `test-${crypto.randomUUID().slice(0, 8)}`;
    const quick = ["--election-timeout", String(QUICK.electionTimeoutMs), "--heartbeat", "50"];
    const trio = await startTrio("--cluster", cluster, ...quick);
    const leader = await leaderOf(trio);
    const put = await run("put", "key", "a value", "--cluster", cluster);
    expect(put).toMatchObject({ code: 0, output: "OK" });
    const port = leader.split(":")[1];
    const victims = trio.servers.filter(({ command }) => command.includes(`--port ${port} `));
    expect(victims.length).toBe(1);
    for (const { pid } of victims) process.kill(pid, "SIGKILL");
    const get = await run("get", "key", "--cluster", cluster, "--timeout", "20000");
    expect(get).toMatchObject({ code: 0, output: "a value" });
    expect(trio.servers.filter(({ pid }) => isAlive(pid)).length).toBe(2);
    trio.program.signal("SIGKILL");
    report("kill -9 of the parent to the end of its servers", [await expectNobodyLeft(trio)]);
  });
});
