/**
 * Tests that the command line answers people and scripts clearly: each mistake gets one message
 * and the right exit code, and loses nothing. `RAFT_SHOW=1 bun test cli` prints a table of
 * all mistakes with the command, what it prints, and the exit code.
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
import dgram from "node:dgram";
import {
  chmodSync,
  existsSync,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmdirSync,
  statSync,
  unlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { type Answer, narrator, plain, type Status, troublesOf } from "../../cli.ts";
import {
  Client,
  clientKey,
  type ClientOptions,
  KeyValues,
  type Member,
  type NodeEvent,
} from "../../raft.ts";
import { configuration } from "../support/core.ts";
import {
  bytes,
  childrenOf,
  Cluster,
  endAll,
  eventually,
  freePorts,
  inPairs,
  isFree,
  Program,
  temporaryDirectory,
} from "../support/processes.ts";
import { slow } from "../support/thorough.ts";

const CLI = path.join(import.meta.dir, "../../cli.ts");
const SECRET = "a secret of the tests, of 32 characters or more";
const TIMING = { electionTimeoutMs: 300, heartbeatMs: 50 };
const QUICK = ["--election-timeout", "300", "--heartbeat", "50"];
/** A name that no resolver has, whether or not there is a network. */
const UNKNOWN_HOST = `${"no".repeat(32)}where`;

setDefaultTimeout(100_000);

// ------------------------------------------- Helpers --------------------------------------------

type Options = { env?: Record<string, string>; input?: Uint8Array | string; shell?: string };

/** Runs a command to its end. A shell can write bytes that an argument cannot hold. */
async function cli(args: readonly string[], { env = {}, input = "", shell }: Options = {}) {
  const command = shell === undefined
    ? [process.execPath, CLI, ...args]
    : ["sh", "-c", shell, process.execPath, CLI, ...args];
  const child = Bun.spawn(command, {
    env: { ...process.env, NO_COLOR: "1", ...env },
    stdin: Buffer.from(input),
    stdout: "pipe",
    stderr: "pipe",
    timeout: 60_000,
  });
  const [bytes, errors, code] = await Promise.all([
    new Response(child.stdout).bytes(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  return { code, bytes, output: Buffer.from(bytes).toString(), errors: errors.trim() };
}

/** A file with a secret in it, as `bun cli.ts secret > FILE` makes it. */
function secretFile(content: string | Uint8Array = SECRET, mode = 0o600): string {
  const file = path.join(temporaryDirectory(), "raft.secret");
  writeFileSync(file, content);
  chmodSync(file, mode);
  return file;
}

const log = (directory: string) => readFileSync(path.join(directory, "log")).toString("hex");

// ------------------------------------------ Bad input -------------------------------------------

/** A mistake, the sentence that answers it, and the exit code. */
type Wrong = {
  what: string;
  args: string[];
  code: number;
  says: RegExp;
  options?: Options;
  /** A data directory whose log must stay as it is. */
  keeps?: string;
};
const shown: string[] = [];

/** A pipe would end a cell of the table. */
function show(
  { what, args, options: { env = {}, shell } = {} }: Pick<Wrong, "what" | "args" | "options">,
  printed: string,
  code: number | string,
): void {
  const words = [...args].map((word) => (word.length > 60 ? `${word.slice(0, 20)}...` : word));
  const quoted = words.map((word) => (/^[^\s"'$*]+$/.test(word) ? word : `'${word}'`)).join(" ");
  const variables = Object.entries(env).map(([name, value]) => `${name}='${value}' `).join("");
  const raw = shell?.replace(/^exec "\$0" "\$@" /, "") ?? "";
  const command = `${variables}bun cli.ts ${quoted}${raw && ` ${raw}`}`;
  const hidden = (from: string) =>
    from.replaceAll(new RegExp(`${os.tmpdir()}/[^/ :]+`, "g"), "/tmp");
  shown.push([what, `\`${hidden(command)}\``, hidden(printed), code].join(" | "));
}

const FATAL = /^(\d{4}-\d\d-\d\d [\d:]+,\d{3} - ERROR - raft - \S+ - )?(.*)$/s;

async function expectRefusal(wrong: Wrong): Promise<void> {
  const { args, code, says, options, keeps } = wrong;
  const before = keeps && log(keeps);
  const refused = await cli(args, options);
  show(wrong, refused.errors, refused.code);
  // A server that had begun to tell its story ends it with the reason.
  const [, begun = "", errors = ""] = FATAL.exec(refused.errors) ?? [];
  expect(begun !== "").toBe(refused.output.includes("Starting server..."));
  expect(errors).toMatch(says);
  expect(refused.errors).not.toContain("\n"); // One message, and no stack.
  expect(refused.code).toBe(code);
  const story = refused.output.split("\n").filter((line) => !/^\d{4}-.* - raft - /.test(line));
  expect(story).toEqual([""]);
  // A script is told the same, in one shape.
  const inJson = await cli(["--json", ...args], options);
  const [last = "", ...events] = inJson.output.trim().split("\n").reverse();
  const message = expect.stringMatching(says);
  const about = begun === ""
    ? {}
    : {
      time: expect.any(String),
      level: "ERROR",
      server: expect.any(String),
      type: "error",
      message,
    };
  expect(JSON.parse(last)).toEqual({
    ...about,
    ok: false,
    error: { code: expect.any(String), message },
  });
  for (const event of events) expect(JSON.parse(event)).toHaveProperty("message");
  expect(inJson.errors).toBe("");
  expect(inJson.code).toBe(code);
  if (keeps) expect(log(keeps)).toBe(before ?? "");
}

afterAll(() => {
  if (process.env["RAFT_SHOW"] !== "1") return;
  const head = ["What is wrong | Command | What it prints | Exit code", "---|---|---|---"];
  console.log([...head, ...shown].map((row) => `| ${row} |`).join("\n"));
});

describe("bad input", () => {
  let cluster: Cluster;
  let where: string[];
  let lastIndex: number;
  let [port, taken] = ["", ""];

  beforeAll(async () => {
    cluster = await Cluster.start(TIMING, 1);
    const [server = ""] = cluster.servers;
    where = ["--peers", server, "--cluster", cluster.name];
    taken = server.split(":")[1] ?? "";
    port = String((await freePorts(1))[0]);
    expect(await cli(["put", "precious", "kept", ...where])).toMatchObject({ code: 0 });
    lastIndex = (await cluster.statuses())[0]?.lastIndex ?? 0;
  });

  afterAll(endAll);

  /** Tests of a table, whose rows are made when the servers run. */
  function refuses(about: string, table: () => Wrong[]): void {
    test(about, async () => {
      const rows = table();
      expect(rows.length).toBeGreaterThan(0);
      await inPairs(rows, expectRefusal);
    });
  }

  const server = (
    ...more: string[]
  ) => ["--host", "127.0.0.1", "--port", port, "--data", temporaryDirectory(), ...more];

  refuses("commands and flags", () => [
    {
      what: "no arguments",
      args: [],
      code: 2,
      says: /^Cannot start a server without --host and --port\. .*--test.*--help/,
    },
    {
      what: "an unknown flag",
      args: ["--prot", "48000"],
      code: 2,
      says: /^Unknown option '--prot'\..* See 'bun cli\.ts --help'\.$/,
    },
    { what: "a flag without its value", args: ["--port"], code: 2, says: /--port.*--help/ },
    {
      what: "a value that looks like a flag",
      args: ["put", "KEY", "-5"],
      code: 2,
      says: /^Unknown option '-5'\..* after '--'/,
    },
    {
      what: "an unknown command",
      args: ["putt", "a", "b"],
      code: 2,
      says: /^There is no command "putt a b"\. Use one of .*put, create, .*--help/,
    },
    {
      what: "a command named like a property",
      args: ["constructor"],
      code: 2,
      says: /^There is no command "constructor"/,
    },
    {
      what: "too few words",
      args: ["put", "a"],
      code: 2,
      says: /^Cannot run "put" with 1 words\. .*: bun cli\.ts put KEY VALUE$/,
    },
    {
      what: "too many words",
      args: ["put", "a", "hello", "world"],
      code: 2,
      says: /^Cannot run "put" with 3 words\. .*quotes/,
    },
    {
      what: "a flag of another command",
      args: ["get", "hello", "--force"],
      code: 2,
      says: /^Cannot use --force with "get", as it would have no effect/,
    },
    {
      what: "a server's flag at a client",
      args: ["status", "--port", "48000"],
      code: 2,
      says: /^Cannot use --port with "status", as it would have no effect: .*--help/,
    },
    {
      what: "a client's flag at a server",
      args: server("--timeout", "100"),
      code: 2,
      says: /^Cannot use --timeout with "--host", as it would have no effect/,
    },
    {
      what: "half a command",
      args: ["members"],
      code: 2,
      says: /^There is no command "members"\. .*members list, members add, members remove/,
    },
    {
      what: "a member without an address",
      args: ["members", "add", "d", ...where],
      code: 2,
      says: /^"d" is not the address of a server\. Write HOST:PORT, or NAME=HOST:PORT/,
    },
    {
      what: "to remove the last member",
      args: ["members", "remove", `127.0.0.1:${taken}`, ...where],
      code: 5,
      says: /^The server refuses: no voter would be left\.$/,
    },
    {
      what: "to remove a server that is no member",
      args: ["members", "remove", "127.0.0.1:9", ...where],
      code: 1,
      says: /^127\.0\.0\.1:9 is no member\. See 'bun cli\.ts members list'\.$/,
    },
    {
      what: "to join without peers",
      args: server("--join"),
      code: 2,
      says: /^Cannot join a cluster without the addresses of some of its members.*--peers/,
    },
    {
      what: "--test with a flag of one server",
      args: ["--test", "--port", "48000"],
      code: 2,
      says: /^Cannot use --(port|json) with "--test"/,
    },
  ]);

  refuses("addresses and peers", () => [
    {
      what: "a port out of range",
      args: server("--port", "123456"),
      code: 2,
      says: /^"127\.0\.0\.1:123456" is not the address of a server\. .* from 1 to 65535/,
    },
    {
      what: "a port that is no number",
      args: server("--port", "http"),
      code: 2,
      says: /^"127\.0\.0\.1:http" is not the address of a server/,
    },
    {
      what: "no port",
      args: ["--host", "127.0.0.1"],
      code: 2,
      says: /^Cannot start a server without --host and --port/,
    },
    {
      what: "a peer without a port",
      args: server("--peers", "127.0.0.1"),
      code: 2,
      says: /^"127\.0\.0\.1" is not the address of a server\. Write HOST:PORT/,
    },
    {
      what: "a peer that is oneself",
      args: server("--peers", `127.0.0.1:${port}`),
      code: 2,
      says: /own peer/,
    },
    {
      what: "duplicate peers",
      args: server("--peers", "127.0.0.1:9,127.0.0.1:9"),
      code: 2,
      says: /listed twice/,
    },
    {
      what: "two names for one peer",
      args: server("--peers", "a=127.0.0.1:9,b=127.0.0.1:9"),
      code: 2,
      says: /listed twice/,
    },
    {
      what: "an empty list of peers",
      args: server("--peers", ""),
      code: 2,
      says: /^"" is not the address of a server\. Write HOST:PORT/,
    },
    {
      what: "a name that peers cannot write",
      args: server("--name", "a b"),
      code: 2,
      says: /^"a b=127\.0\.0\.1:\d+" is not the address of a server\. .* NAME=HOST:PORT/,
    },
    {
      what: "an address that no interface has",
      args: server("--host", "192.0.2.1"),
      code: 5,
      says:
        /^Cannot listen on 192\.0\.2\.1:\d+: no network interface has that address\. Use one of/,
    },
    {
      what: "a port in use",
      args: server("--port", taken),
      code: 5,
      says: /another process has that port\. Stop it, or use another port/,
    },
    {
      what: "its own name does not resolve",
      args: server("--host", UNKNOWN_HOST),
      code: 5,
      says: /^Cannot listen on .*: the name does not resolve\. Use one of/,
    },
    {
      what: "every address, and no name",
      args: server("--host", "0.0.0.0", "--secret-file", secretFile()),
      code: 2,
      says: /^0\.0\.0\.0 stands for every address .* --name/,
    },
    {
      what: "no secret, and not on loopback",
      args: server("--host", "0.0.0.0"),
      code: 2,
      says: /^Without a secret .*bun cli\.ts secret > raft\.secret.*--secret-file raft\.secret/,
    },
    {
      what: "timeouts that contradict each other",
      args: server("--heartbeat", "600", "--election-timeout", "1000"),
      code: 2,
      says: /^With a heartbeat every 600 ms and an election timeout of 1000 ms, one lost/,
    },
    {
      what: "a time that is no number",
      args: server("--heartbeat", "soon"),
      code: 2,
      says: /^Cannot use --heartbeat soon: it takes whole milliseconds/,
    },
    ...["971", "65508", "many", ""].map((size) => ({
      what: "a size that no datagram has",
      args: server("--datagram-bytes", size),
      code: 2,
      says: /^Cannot send datagrams of at most \S+ bytes\. Choose a size from 972 to 65507\.$/,
    })),
    {
      what: "a time of nothing",
      args: ["get", "a", "--timeout", "0"],
      code: 2,
      says: /^Cannot use --timeout 0: /,
    },
  ]);

  refuses("secrets and keys", () => {
    const secret = (file: string, ...more: string[]) => server("--secret-file", file, ...more);
    const SHORT = /^A secret has at least 32 characters\. 'bun cli\.ts secret' makes one\.$/;
    const key = secretFile("ab".repeat(32));
    return [
      {
        what: "a secret that others can read",
        args: secret(secretFile(SECRET, 0o644)),
        code: 2,
        says: /: others can read it\. .*chmod 600 .* read-only mount, set RAFT_SECRET instead\.$/,
      },
      {
        what: "a secret that is too short",
        args: secret(secretFile("swordfish")),
        code: 2,
        says: SHORT,
      },
      {
        what: "a secret with a second line that is too short",
        args: secret(secretFile(`${SECRET}\nswordfish\n`)),
        code: 2,
        says: SHORT,
      },
      {
        what: "an empty secret",
        args: secret(secretFile("\n")),
        code: 2,
        says: /: it is empty, or not there\. Copy the cluster's own/,
      },
      {
        what: "no such file",
        args: secret(`${temporaryDirectory()}/none`),
        code: 2,
        says: /none: it is empty, or not there\. Copy .* secret > FILE' only for a new cluster/,
      },
      {
        what: "no such file, at a client",
        code: 2,
        args: ["get", "a", ...where, "--secret-file", `${temporaryDirectory()}/none`],
        says: /none: it is empty, or not there\. Copy the cluster's own to here/,
      },
      {
        what: "no such directory",
        args: secret(`${secretFile()}/none`),
        code: 2,
        says: /^Cannot use --secret-file .*: it is empty, or not there\. /,
      },
      {
        what: "a directory in place of a file",
        args: secret(temporaryDirectory()),
        code: 2,
        says: /^EISDIR/,
      },
      {
        what: "RAFT_SECRET too short",
        args: server(),
        options: { env: { RAFT_SECRET: "word" } },
        code: 2,
        says: SHORT,
      },
      {
        what: "RAFT_SECRET empty",
        args: ["get", "a", ...where],
        options: { env: { RAFT_SECRET: "" } },
        code: 2,
        says: /^Cannot use RAFT_SECRET: it is empty/,
      },
      {
        what: "a client's key of the wrong form",
        code: 2,
        args: ["get", "a", ...where, "--client-key-file", secretFile()],
        says:
          /^This is not a client key\. 'bun cli\.ts client-key NAME' prints one, on one line\.$/,
      },
      {
        what: "a client's key that others can read",
        code: 2,
        args: ["get", "a", ...where, "--client-key-file", secretFile("ab".repeat(32), 0o640)],
        says: /^Cannot use --client-key-file .*: others can read it\. .* set RAFT_CLIENT_KEY /,
      },
      {
        what: "no such key",
        code: 2,
        args: ["get", "a", ...where, "--client-key-file", `${temporaryDirectory()}/none`],
        says: /none: it is empty, or not there\. Copy the cluster's own to here/,
      },
      {
        what: "a server with a client's key",
        args: server("--client-key-file", key),
        code: 2,
        says: /^Cannot use --client-key-file with "--host"/,
      },
      {
        what: "client-key without a secret",
        args: ["client-key", "alice"],
        code: 2,
        says: /^Cannot make a key without the secret\. Give --secret-file, or RAFT_SECRET\.$/,
      },
      {
        what: "client-key without a name",
        args: ["client-key", "--secret-file", secretFile()],
        code: 2,
        says: /^Cannot run "client-key" with 0 words\. .*: bun cli\.ts client-key NAME > FILE$/,
      },
    ];
  });

  refuses("keys and values", () => [
    {
      what: "an empty key",
      args: ["put", "", "value", ...where],
      code: 2,
      says: /^The key is empty\. /,
    },
    {
      what: "key and value too large",
      args: ["put", "key", "v".repeat(64_000), ...where],
      code: 5,
      says: /^Cannot send \d+ bytes: the limit is 64000\. Nothing was sent\. Split them\.$/,
    },
    {
      what: "a key too large",
      args: ["get", "k".repeat(64_000), ...where],
      code: 5,
      says: /^Cannot send \d+ bytes: the limit is /,
    },
    {
      what: "a value too large, on standard input",
      args: ["put", "key", "-", ...where],
      code: 5,
      options: { input: new Uint8Array(10_000_000) },
      says: /^Cannot send 10000\d+ bytes: .*Nothing was sent/,
    },
    {
      what: "bytes that are not UTF-8",
      args: ["get", ...where],
      code: 2,
      options: { shell: `exec "$0" "$@" "$(printf '\\303\\050')"` },
      says: /^Cannot use ".*": it is not UTF-8\. .*--base64/,
    },
    {
      what: "no base64",
      args: ["get", "a key", "--base64", ...where],
      code: 2,
      says: /^Cannot use "a key": it is not base64\. /,
    },
    {
      what: "no such key",
      args: ["get", "__proto__", ...where],
      code: 1,
      says: /^There is no value for "__proto__"\.$/,
    },
    {
      what: "no such key to delete",
      args: ["delete", "constructor", ...where],
      code: 1,
      says: /^There is no value for "constructor"\.$/,
    },
    {
      what: "another value than expected",
      args: ["cas", "precious", "other", "new", ...where],
      code: 1,
      says: /^The value of "precious" is not "other", and stays as it is\.$/,
    },
    {
      what: "no server there",
      args: ["get", "a", "--peers", `127.0.0.1:${port}`, "--timeout", "300"],
      code: 5,
      says: /^No answer in 300 ms\. .*never heard/,
    },
    {
      what: "another cluster's name",
      args: ["put", "a", "b", ...where.slice(0, 2), "--timeout", "300"],
      code: 5,
      says: /^No answer in 300 ms\. .* and cluster\. .*\(it is of another cluster\)/,
    },
  ]);

  test("after all of these, nothing was logged or lost", async () => {
    const get = await cli(["get", "precious", ...where]);
    expect(get).toMatchObject({ code: 0, output: "kept" });
    // The four that reached the log are a session each, and a command of two of them.
    const [status] = await cluster.statuses();
    const commands = ["delete", "delete", "cas", "cas"].length;
    expect(status?.lastIndex).toBe(lastIndex + 2 * commands);
  });
});

describe("bad input about data", () => {
  afterEach(endAll);

  /** The directory of a server that has stopped, and how it is started. */
  async function used(): Promise<{ args: string[]; data: string; where: string[] }> {
    const [port] = await freePorts(1);
    const [address, data] = [`127.0.0.1:${port}`, temporaryDirectory()];
    const args = ["--host", "127.0.0.1", "--port", String(port), "--data", data, ...QUICK];
    const where = ["--peers", address];
    const program = new Program(args);
    expect(await cli(["put", "precious", "kept", ...where])).toMatchObject({ code: 0 });
    program.signal("SIGTERM");
    expect(await program.exited).toBe(0);
    return { args, data, where };
  }

  async function expectKept({ args, where }: { args: string[]; where: string[] }): Promise<void> {
    const program = new Program(args);
    const get = await cli(["get", "precious", ...where]);
    expect(get).toMatchObject({ code: 0, output: "kept" });
    await program.kill();
  }

  slow("when the majority is gone for good, --yes makes one a cluster of its own", async () => {
    const mine = await used();
    const [, , , port = ""] = mine.args;
    const recover = (...args: string[]) => cli(["recover", ...args]);
    expect(await recover()).toMatchObject({ code: 2 });
    expect(await recover("--data", `${mine.data}/none`)).toMatchObject({ code: 2 });
    const asked = await recover("--data", mine.data);
    expect(asked).toMatchObject({ code: 2, output: "" });
    expect(asked.errors).toMatch(/ has server 127\.0\.0\.1:\d+ of cluster .* Nothing was done\.$/);
    await expectKept(mine);
    const done = await recover("--data", mine.data, "--yes", "--json");
    expect(JSON.parse(done.output)).toMatchObject({ ok: true, server: `127.0.0.1:${port}` });
    await expectKept(mine);
    const running = new Program(mine.args);
    expect(await cli(["get", "precious", ...mine.where])).toMatchObject({ output: "kept" });
    expect((await recover("--data", mine.data, "--yes")).errors).toContain(
      "a running server has it",
    );
    await running.kill();
  });

  slow("the same line with another --host continues the server only by its --name", async () => {
    const directory = temporaryDirectory();
    const inside = `cd '${directory}' && exec "$0" "$@"`;
    const [port] = await freePorts(1);
    const start = (
      host: string,
      ...more: string[]
    ) => ["--host", host, "--port", `${port}`, "--peers", "127.0.0.1:9", ...more];
    const startInside = async (args: string[], line: string) => {
      const program = new Program(args, {}, ["sh", "-c", inside]);
      await eventually(line, () => program.output.includes(line) || undefined);
      return program;
    };
    const old = `127.0.0.1:${port}`;
    const first = await startInside(start("127.0.0.1"), `Server listening on ${old}\n`);
    await first.kill();
    const data = path.join(directory, "raft-data");
    await expectRefusal({
      what: "the line of before with another --host",
      args: start("localhost"),
      code: 2,
      keeps: path.join(data, old),
      options: { shell: inside },
      says: new RegExp(
        `^Cannot start localhost:${port}: raft-data/${old} holds the data of the server ${old}\\. `
          + `.* add --name ${old}, .* add --data DIR\\.$`,
      ),
    });
    expect(readdirSync(data)).toEqual([old]);
    const again = await startInside(
      start("localhost", "--name", old),
      `Server listening on localhost:${port} (127.0.0.1)\n`,
    );
    // Beside a peer on this machine, another server is nothing special.
    const other = await startInside(
      ["--host", "127.0.0.2", "--port", `${port}`, "--peers", old],
      "- Peers: [",
    );
    await eventually(
      "it starts",
      () => /Server listening|Cannot listen/.test(other.output + other.errors) || undefined,
    );
    for (const program of [again, other]) await program.kill();
  });

  test("a directory in use, or of another server or cluster, is left as it is", async () => {
    const mine = await used();
    const [, , , port = ""] = mine.args;
    await expectRefusal({
      what: "data of another server",
      args: [...mine.args, "--name", "other"],
      code: 3,
      keeps: mine.data,
      says: /log: it belongs to server .*, not to other .*\. Use another directory, or/,
    });
    await expectRefusal({
      what: "data of another cluster",
      args: [...mine.args, "--cluster", "other"],
      code: 3,
      keeps: mine.data,
      says: /log: it belongs to server .* of cluster raft, not to .* of other\. /,
    });
    const running = new Program(mine.args);
    await eventually("it listens", () => running.output.includes("listening on ") || undefined);
    const [free] = await freePorts(1);
    await expectRefusal({
      what: "data of a running server",
      code: 3,
      args: [...mine.args, "--port", String(free), "--name", `127.0.0.1:${port}`],
      says: /^Cannot use .*: a running server has it\. Stop that one, or use another/,
    });
    await running.kill();
    await expectKept(mine);
  });

  slow("a directory that cannot be written, or is damaged, is left as it is", async () => {
    const mine = await used();
    await expectRefusal({
      what: "a directory that cannot be made",
      code: 3,
      args: [...mine.args, "--data", `${secretFile()}/below-a-file`],
      says: /^Cannot use .*\. Use a directory that this user may write to\.$/,
    });
    const file = path.join(mine.data, "log");
    const good = readFileSync(file);
    writeFileSync(file, "These are not the bytes of a log.");
    await expectRefusal({
      what: "a file that is no log",
      args: mine.args,
      code: 3,
      keeps: mine.data,
      says: /log: it does not begin as a log of raft\.ts\. Restore it, or/,
    });
    // Flips one bit in the second frame. Every log begins with the same first frame.
    const second = good.indexOf(good.subarray(0, 4), 4);
    expect(second).toBeGreaterThan(0);
    const damaged = Buffer.from(good);
    damaged[second + 12] = (damaged[second + 12] ?? 0) ^ 1;
    writeFileSync(file, damaged);
    await expectRefusal({
      what: "a damaged log",
      args: mine.args,
      code: 3,
      keeps: mine.data,
      says: /log: it is damaged at byte \d+\. Restore it\. If a majority of the servers/,
    });
    writeFileSync(file, good);
    await expectKept(mine);
  });

  const mount = "mount -t tmpfs -o size=2m none";
  const unshare = ["unshare", ...(process.getuid?.() === 0 ? [] : ["-Ur"]), "-m"];
  const canMount = Bun.spawnSync([...unshare, "sh", "-c", `${mount} /mnt`]).success;
  // Where no file system can be mounted, test/unit/storage.test.ts has filled a simulated disk.
  test.if(canMount)("a disk fills: the server stops, and goes on when there is room", async () => {
    const [port] = await freePorts(1);
    const data = temporaryDirectory();
    const server = `"$0" "$@" --host 127.0.0.1 --port ${port} --data ${data}`;
    const script = `${mount} ${data} && head -c 1800000 /dev/zero > ${data}/other && `
      + `{ ${server}; echo "ended with $?"; rm ${data}/other && exec ${server}; }`;
    const child = Bun.spawn([...unshare, "sh", "-c", script, process.execPath, CLI], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const where = ["--peers", `127.0.0.1:${port}`];
    // The client asks again until it is answered, so the put that found the disk full succeeds too.
    for (let i = 0; i < 10; i += 1) {
      const input = `${i}`.repeat(30_000);
      const put = await cli(["put", `key ${i}`, "-", ...where, "--timeout", "30000"], { input });
      expect(put).toMatchObject({ code: 0, output: "OK\n" });
    }
    for (let i = 0; i < 10; i += 1) {
      const get = await cli(["get", `key ${i}`, ...where]);
      expect(get).toMatchObject({ code: 0, output: `${i}`.repeat(30_000) });
    }
    child.kill();
    await child.exited;
    const [output, errors] = await Promise.all([
      new Response(child.stdout).text(),
      new Response(child.stderr).text(),
    ]);
    expect(output).toContain("ended with 3\n");
    const [, , reason] = FATAL.exec(errors) ?? [];
    expect(reason).toMatch(
      /^Cannot write .*: ENOSPC.*\. Make room on that disk, and start again\.\n$/,
    );
    const args = ["--host", "127.0.0.1", "--port", `${port}`, "--data", data];
    show({ what: "a full disk", args }, errors.trim(), 3);
  });

  test.if(canMount)(
    "a backup to a full disk fails as a disk, and leaves nothing there",
    async () => {
      const cluster = await Cluster.start(TIMING, 1);
      const where = ["--peers", cluster.servers.join(), "--cluster", cluster.name];
      for (const key of ["a", "b", "c"]) {
        const input = key.repeat(50_000);
        expect(await cli(["put", key, "-", ...where], { input })).toMatchObject({ code: 0 });
      }
      const directory = temporaryDirectory();
      const mounted = `${mount.replace("2m", "100k")} ${directory}`;
      const script = `${mounted} && { "$0" "$@"; echo "ended with $?"; ls ${directory}; }`;
      const backup = ["backup", `${directory}/file`, "--new", ...where];
      const child = Bun.spawn([...unshare, "sh", "-c", script, process.execPath, CLI, ...backup], {
        stdout: "pipe",
        stderr: "pipe",
      });
      const errors = await new Response(child.stderr).text();
      expect(errors).toMatch(
        /^Cannot use a disk: ENOSPC.*\. Make room there, or use another one\.\n$/,
      );
      expect(await new Response(child.stdout).text()).toBe("ended with 3\n");
    },
  );
});

// ------------------------------------------ Good input ------------------------------------------

describe("clients and scripts", () => {
  let where: string[];

  beforeAll(async () => {
    const cluster = await Cluster.start(TIMING, 1);
    where = ["--peers", cluster.servers.join(","), "--cluster", cluster.name];
  });
  afterAll(endAll);

  test("any bytes go in by standard input, and come out as they are", async () => {
    const input = crypto.getRandomValues(new Uint8Array(63_000));
    expect(await cli(["put", "any bytes", "-", ...where], { input })).toMatchObject({ code: 0 });
    // The reader is slow, and the value larger than what a pipe holds beside what it has read.
    const slow = { shell: "\"$0\" \"$@\" | { sleep 1; cat; }" };
    const [got, json] = await Promise.all([
      cli(["get", "any bytes", ...where], slow),
      cli(["get", "any bytes", "--json", ...where], slow),
    ]);
    expect(Buffer.from(got.bytes).equals(Buffer.from(input))).toBe(true);
    const base64 = Buffer.from(input).toString("base64");
    expect(JSON.parse(json.output)).toEqual({ ok: true, value: null, base64 });
    expect(await cli(["put", "empty", "-", ...where])).toMatchObject({ code: 0 });
    expect(await cli(["get", "empty", ...where])).toMatchObject({ code: 0, output: "" });
  });

  test("with --base64, keys are any bytes too", async () => {
    const words = [Uint8Array.of(0, 0xff), Uint8Array.of(0xfe)].map((bytes) =>
      Buffer.from(bytes).toString("base64")
    );
    expect(await cli(["put", ...words, "--base64", ...where])).toMatchObject({ code: 0 });
    const got = await cli(["get", words[0] ?? "", "--base64", ...where]);
    expect([...got.bytes]).toEqual([0xfe]);
  });

  test("create makes a lock once, and list shows keys and values of any bytes", async () => {
    const [first, second] = [
      await cli(["create", "lock/a", "me", ...where]),
      await cli(["create", "lock/a", "you", ...where]),
    ];
    expect([first.code, second.code]).toEqual([0, 1]);
    const odd = Buffer.from("lock/\xff", "latin1");
    const words = [odd, Buffer.from("\xfe\n", "latin1")].map((raw) => raw.toString("base64"));
    await cli(["put", ...words, "--base64", ...where]);
    for (let i = 0; i < 3; i += 1) {
      const value = new Uint8Array(40_000).fill(0x78 + i);
      await cli(["put", `large ${i}`, "-", ...where], { input: value });
    }
    const list = async (...args: string[]) => {
      const { code, output, bytes } = await cli(["list", ...args, ...where]);
      expect(code).toBe(0);
      return { output, bytes };
    };
    const { bytes } = await list("lock/");
    expect(Buffer.from(bytes).toString("latin1")).toBe("lock/a\tme\nlock/\xff\t\xfe\n\n");
    expect((await list("lock/a", "--keys-only")).output).toBe("lock/a\n");
    expect((await list(words[0] ?? "", "--base64")).output).toBe(`${words.join("\t")}\n`);
    expect((await list("no such key")).output).toBe("");
    expect((await list("", "--keys-only")).output).toBe((await list("--keys-only")).output);
    const lines = (await list("lock/", "--json")).output.trim().split("\n");
    expect(lines.map((line) => JSON.parse(line))).toEqual([
      { key: "lock/a", keyBase64: "bG9jay9h", value: "me", base64: "bWU=" },
      { key: null, keyBase64: words[0], value: null, base64: words[1] },
      { ok: true, count: 2 },
    ]);
    // More than a page, and more than is printed at once.
    const large = (await list("large", "--json")).output.trim().split("\n");
    expect(large.map((line) => JSON.parse(line).value?.length)).toEqual([
      40_000,
      40_000,
      40_000,
      undefined,
    ]);
  });

  test("keys that JavaScript knows are keys like all others", async () => {
    const keys = ["__proto__", "constructor", "-", "é"];
    for (const key of keys) {
      const args = ["put", key, `of ${key}`, ...where];
      const put = await cli(args);
      expect(put).toMatchObject({ code: 0, output: "OK\n" });
      show({ what: `the key ${key}`, args }, put.output.trim(), put.code);
    }
    for (const key of keys) {
      expect(await cli(["get", key, ...where])).toMatchObject({ code: 0, output: `of ${key}` });
    }
    expect(await cli(["put", ...where, "--", "dash", "-5"])).toMatchObject({ code: 0 });
    expect(await cli(["get", "dash", ...where])).toMatchObject({ output: "-5" });
  });

  test("--json has one shape for all commands", async () => {
    const json = async (...args: string[]) => {
      const { code, output, errors } = await cli([...args, "--json", ...where]);
      expect(errors).toBe("");
      return [code, JSON.parse(output)];
    };
    const ok = { ok: true };
    const failed = (code: string) => ({ ok: false, error: { code, message: expect.any(String) } });
    expect(await json("put", "word", "one")).toEqual([0, ok]);
    expect(await json("get", "word")).toEqual([0, { ...ok, value: "one", base64: "b25l" }]);
    expect(await json("cas", "word", "two", "three")).toEqual([1, failed("different")]);
    expect(await json("cas", "word", "one", "two")).toEqual([0, ok]);
    expect(await json("delete", "word")).toEqual([0, ok]);
    expect(await json("delete", "word")).toEqual([1, failed("absent")]);
    expect(await json("get", "word")).toEqual([1, failed("absent")]);
    expect(await json("get", "word", "more")).toEqual([2, failed("usage")]);
    const [leader = ""] = where[1]?.split(",") ?? [];
    expect(await json("status")).toEqual([0, {
      ...ok,
      leader,
      troubles: [],
      statuses: [expect.objectContaining({ name: leader, role: "Leader", dropped: {} })],
      servers: [
        {
          name: leader,
          role: "Leader",
          term: expect.any(Number),
          lastIndex: expect.any(Number),
          commitIndex: expect.any(Number),
          lag: 0,
          heardMs: null,
          roundTripMs: null,
          address: null,
          logBytes: expect.any(Number),
        },
      ],
    }]);
  });

  slow("a write that may have been done is not said to have failed", async () => {
    const relay = dgram.createSocket("udp4");
    const [server = ""] = where[1]?.split(",") ?? [];
    const port = Number(server.split(":")[1]);
    let client = 0;
    relay.on("message", (bytes, from) => {
      if (from.port === port) relay.send(bytes, client, "127.0.0.1");
      // The command is the only large packet but those that begin a channel, whose type is 1.
      else if (bytes[0] === 1 || bytes.length < 500) relay.send(bytes, port, "127.0.0.1");
      if (from.port !== port) client = from.port;
    });
    const { promise, resolve } = Promise.withResolvers<void>();
    relay.bind(0, "127.0.0.1", resolve);
    await promise;
    const detour = ["--peers", `${server}=127.0.0.1:${relay.address().port}`, ...where.slice(2)];
    expect(await cli(["put", "passed", "on", ...detour])).toMatchObject({ code: 0 });
    await expectRefusal({
      what: "no answer to a write",
      code: 4,
      args: ["put", "swallowed", "up".repeat(300), ...detour, "--timeout", "500"],
      says:
        /^No answer in 500 ms: the request may have been carried out, .*Check before you repeat it/,
    });
    relay.close();
  });

  test("--test says once that a secret is too short", async () => {
    const { code, output, errors } = await cli(["--test", "--secret-file", secretFile("word")]);
    expect([code, output]).toEqual([2, ""]);
    expect(errors).toMatch(/^A secret has at least 32 characters\. .*$/);
  });

  test("secrets go to files that only their owner can read", async () => {
    const file = path.join(temporaryDirectory(), "secret");
    const output = openSync(file, "w", 0o644);
    const child = Bun.spawn([process.execPath, CLI, "secret"], { stdout: output });
    expect(await child.exited).toBe(0);
    expect(statSync(file).mode & 0o777).toBe(0o600);
    expect(readFileSync(file, "utf8")).toMatch(/^\S{43}\n$/);
    const alice = ["client-key", "alice"];
    const [key, again] = [
      await cli([...alice, "--secret-file", file]),
      await cli([...alice, "--json"], { env: { RAFT_SECRET: readFileSync(file, "utf8") } }),
    ];
    expect(key.output).toMatch(/^[\w-]{80,}\n$/);
    expect(JSON.parse(again.output)).toEqual({ ok: true, clientKey: key.output.trim() });
    for (const other of [["client-key", "bob"], [...alice, "--cluster", "other"]]) {
      expect((await cli([...other, "--secret-file", file])).output).not.toBe(key.output);
    }
  });
});

describe("output", () => {
  let where: string[];

  beforeAll(async () => {
    const cluster = await Cluster.start(TIMING, 1);
    where = ["--peers", cluster.servers.join(","), "--cluster", cluster.name];
    await cli(["put", "word", "one", ...where]);
  });
  afterAll(endAll);

  const LOST = /^Cannot write to standard output: .*\. Make room there, or write elsewhere; .*\.$/;
  const hasProc = existsSync("/proc/self/fdinfo");

  test.if(hasProc)("that cannot be written is an error, for every command", async () => {
    const places = { full: "> /dev/full", closed: ">&-", "open only to read": "1< /dev/null" };
    const commands = [
      ["--help"],
      ["--version"],
      ["secret"],
      ["get", "word"],
      ["status"],
      ["put", "word", "one"],
      ["members", "list"],
      ["get", "word", "--json"],
    ];
    for (const [what, redirection] of Object.entries(places)) {
      await inPairs(commands, async (words) => {
        const args = words.length === 1 && words[0] !== "status" ? words : [...words, ...where];
        const options = { shell: `exec "$0" "$@" ${redirection}` };
        const { code, errors } = await cli(args, options);
        show({ what: `standard output that is ${what}`, args, options }, errors, code);
        expect(errors).toMatch(LOST);
        expect(code).toBe(5);
      });
    }
  });

  test.if(hasProc)("that is lost does not hide a definite no, nor a doubt", async () => {
    const shell = "exec \"$0\" \"$@\" --json > /dev/full";
    expect(await cli(["get", "none", ...where], { shell })).toMatchObject({ code: 1 });
    expect(await cli(["get"], { shell })).toMatchObject({ code: 2 });
  });

  slow("without a reader is no error: a closed pipe is quiet", async () => {
    const closed = "{ sleep 0.5; \"$0\" \"$@\"; echo \"ended with $?\" >&2; } | true";
    const { errors } = await cli(["get", "word", ...where], { shell: closed });
    expect(errors).toBe("ended with 0");
  });

  test.if(hasProc)("of a server is lost, which is told once, and the server runs on", async () => {
    const [port] = await freePorts(1);
    const via = ["sh", "-c", "exec \"$@\" > /dev/full", "sh"];
    const program = new Program(
      ["--host", "127.0.0.1", "--port", `${port}`, "--data", temporaryDirectory(), ...QUICK],
      {},
      via,
    );
    expect(await cli(["put", "a", "b", "--peers", `127.0.0.1:${port}`])).toMatchObject({ code: 0 });
    program.signal("SIGTERM");
    expect(await program.exited).toBe(5);
    await program.closed;
    expect(program.errors.trim()).toMatch(LOST);
    expect(program.errors.trim().split("\n")).toHaveLength(1);
  });

  /** What a command shows on a terminal of so many columns, line by line. */
  async function onTerminal(cols: number, args: readonly string[], until?: RegExp) {
    let shown = "";
    const { promise, resolve } = Promise.withResolvers<void>();
    const data = (_terminal: Bun.Terminal, bytes: Uint8Array) => {
      shown += Buffer.from(bytes).toString();
      if (until?.test(shown)) resolve();
    };
    const child = Bun.spawn([process.execPath, CLI, ...args], {
      env: { ...process.env, NO_COLOR: "1" },
      terminal: { cols, rows: 24, data },
    });
    void child.exited.then(() => resolve());
    await promise;
    child.kill();
    await child.exited;
    return shown.split(/\r*\n/);
  }

  slow("on a terminal of 80 columns breaks between words, and cuts tables", async () => {
    const absent = ["--peers", `${where[1]},a-name-of-some-length=127.0.0.1:9`, ...where.slice(2)];
    const wide = await onTerminal(200, ["status", ...absent]);
    const narrow = await onTerminal(80, ["status", ...absent]);
    for (const line of narrow) expect(line.length).toBeLessThanOrEqual(80);
    expect(wide[0]).toMatch(/^name +role +term +.* +logBytes$/);
    expect(narrow[0]?.length).toBe(80);
    expect(wide[0]).toStartWith(narrow[0] ?? "no table");
    for (const line of await onTerminal(80, ["--help"])) {
      expect(line.length).toBeLessThanOrEqual(80);
    }
  });

  slow("of a server fits a terminal of 80 columns, and is whole where there is room", async () => {
    const story = async (cols: number) => {
      const [port] = await freePorts(1);
      return await onTerminal(cols, [
        "--host",
        "127.0.0.1",
        "--port",
        `${port}`,
        "--peers",
        "127.0.0.1:9,127.0.0.1:10",
        "--data",
        temporaryDirectory(),
        ...QUICK,
      ], /staying Follower\s+and asking\s+on/);
    };
    const [narrow, wide] = await Promise.all([story(80), story(200)]);
    for (const line of narrow) expect(line.length).toBeLessThanOrEqual(80);
    const warned = narrow.findIndex((line) => line.includes("WARNING - raft - "));
    expect(narrow[warned]).toMatch(/ - 127\.0\.0\.1:\d+ - No leader, /);
    expect(narrow[warned + 1]).toMatch(/^ {4}\S/);
    expect(wide[0]).toMatch(/^\d{4}-\d\d-\d\d [\d:]+,\d{3} - INFO - raft - \S+ - Starting server/);
  });
});

// ----------------------------------- What status and story say ----------------------------------

const MEMBERS = ["a", "b", "c"];

/** Returns a follower in term 3 that hears all its peers. Its log ends at 10, and is committed. */
function server(
  name: string,
  status: Partial<Status> = {},
  views: Record<string, Partial<Status["peers"][number]>> = {},
): Answer {
  const peers = MEMBERS.filter((peer) => peer !== name).map((peer, i) => ({
    name: peer,
    address: `10.0.0.${i + 1}:48000`,
    heardMs: 20,
    lastWarning: null,
    roundTripMs: 1,
    isVoter: true,
    matchIndex: status.role === "Leader" ? 10 : null,
    stuck: null,
    founding: 1,
    usesNamedDisk: true,
    ...views[peer],
  }));
  return {
    name,
    silence: name,
    status: {
      name,
      founders: [],
      cluster: "raft",
      members: configuration(MEMBERS),
      disk: 1,
      boot: 1,
      electionTimeoutMs: 1000,
      heartbeatMs: 100,
      batchBytes: 1000,
      windowBytes: 10_000,
      role: "Follower",
      term: 3,
      votedFor: null,
      leader: null,
      lastIndex: 10,
      lastTerm: 3,
      commitIndex: 10,
      lastApplied: 10,
      snapshotIndex: 0,
      snapshotBytes: 0,
      proposals: 0,
      leaderChanges: 1,
      saves: 1,
      saveMs: 1,
      unsaved: 0,
      votes: null,
      needed: 2,
      founding: 1,
      silentMs: 20,
      logBytes: 100,
      peers,
      dropped: {},
      unauthenticatedMs: null,
      ...status,
    },
  };
}

const foreign = {
  type: "foreign",
  server: "x",
  address: { host: "10.0.0.9", port: 48000 },
  cluster: "raft",
  members: "x, y, z",
} as const;
const otherVersion = {
  type: "version",
  address: { host: "10.0.0.3", port: 8 },
  version: 9,
} as const;
const absent = (name: string): Answer => ({ name, silence: `${name} (never heard)` });
const leads = { role: "Leader", leader: "a" } as const;
const follows = { leader: "a" };
const asks = { role: "PreCandidate", votes: 1 } as const;
const lost = "a has 1 of the 2 votes that it needs of 3";
const soon = "There is no leader yet, but nothing that can be seen from here stands against an "
  + "election. Ask again in a moment.";
const start = (address: string) => `start it, or let UDP through to ${address}`;
const otherMembers =
  "was founded with other members, or is of another cluster: give all servers one "
  + "--cluster and the same --peers";

const TROUBLES: [what: string, answers: Answer[], sentences: string[]][] = [
  ["all is well", [server("a", leads), server("b", follows), server("c", follows)], []],
  ["no server answers", [absent("a"), { name: "b", silence: "b (ENOTFOUND)" }], [
    "No server answers: a (never heard), b (ENOTFOUND). Start them ('bun cli.ts --test' starts three "
    + "here). If they run, check --peers, --cluster and the secret: a client with a wrong secret gets "
    + "no answer.",
  ]],
  ["two have gone", [
    server("a", asks, { b: { heardMs: 41_000 }, c: { heardMs: 2_400 } }),
    absent("b"),
    absent("c"),
  ], [
    `There is no leader: ${lost}; b has not been heard for 41 s: ${start("10.0.0.1:48000")}; c has `
    + `not been heard for 2 s: ${start("10.0.0.2:48000")}.`,
  ]],
  ["one was never there, as its name is unknown, and the other has gone", [
    server("a", asks, {
      b: {
        heardMs: null,
        address: "",
        lastWarning: {
          type: "unresolved",
          server: { name: "b", host: "b", port: 48000 },
          reason: "getaddrinfo ENOTFOUND b",
        },
      },
      c: { heardMs: 41_000 },
    }),
    absent("b"),
    absent("c"),
  ], [
    `There is no leader: ${lost}; b has never been heard: getaddrinfo ENOTFOUND b; c has not been `
    + `heard for 41 s: ${start("10.0.0.2:48000")}.`,
  ]],
  ["one is silent, and the other could vote", [
    server("a", asks, { b: { heardMs: null } }),
    absent("b"),
    server("c", { lastIndex: 20, lastTerm: 2 }),
  ], [soon]],
  ["all answer here, but do not hear one another", [
    server("a", { ...asks, lastIndex: 12 }, { b: { heardMs: 5000 }, c: { heardMs: 7000 } }),
    server("b", asks),
    server("c", asks),
  ], [
    `There is no leader: ${lost}; b has not been heard for 5 s: ${start("10.0.0.1:48000")}; c has `
    + `not been heard for 7 s: ${start("10.0.0.2:48000")}.`,
  ]],
  ["the others were founded otherwise", [
    server("a", asks, { b: { lastWarning: foreign }, c: { lastWarning: foreign } }),
  ], [`There is no leader: ${lost}; b ${otherMembers}; c ${otherMembers}.`]],
  ["an election is held", [server("a", asks), server("b"), server("c")], [soon]],
  ["no server has asked yet, and two do not answer", [
    server("a", {}, { b: { heardMs: null }, c: { heardMs: null } }),
    absent("b"),
    absent("c"),
  ], [
    "There is no leader: a has 0 of the 2 votes that it needs of 3; b has never been heard: "
    + `${start("10.0.0.1:48000")}; c has never been heard: ${start("10.0.0.2:48000")}.`,
  ]],
  ["the leader does not answer here", [absent("a"), server("b", follows), server("c", follows)], [
    "a leads, says b, but does not answer here. Ask again in a moment, as it may have just stopped; "
    + "or let UDP through from this machine.",
  ]],
  ["a leader of an earlier term does not count", [
    server("a", { ...leads, term: 2 }),
    server("b", { role: "Leader", leader: "b" }),
    server("c", { leader: "b" }),
  ], []],
  ["a follower has gone", [
    server("a", leads, { b: { heardMs: 41_000, matchIndex: 2 } }),
    absent("b"),
    server("c", follows),
  ], [`b has not been heard for 41 s: ${start("10.0.0.1:48000")}.`]],
  ["an entry never reaches a follower", [
    server("a", { ...leads, lastIndex: 12 }, {
      b: { stuck: { type: "stuck", server: "b", index: 11, bytes: 5000 } },
      c: { stuck: { type: "stuck", server: "c", index: 10, bytes: 5000 } },
    }),
    server("b", follows),
    server("c", follows),
  ], [
    "Entry 11, or the snapshot in its place, does not arrive at b in a batch of 5000 bytes, though smaller "
    + "messages do. Give all servers a smaller --datagram-bytes.",
  ]],
  ["one is of another cluster", [
    server("a", leads, { b: { lastWarning: foreign, heardMs: null } }),
    absent("b"),
    server("c", follows),
  ], [`b ${otherMembers}.`]],
  ["one runs another version", [
    server("a", leads, { b: { lastWarning: otherVersion, heardMs: null } }),
    absent("b"),
    server("c", follows),
  ], ["b runs another version of raft.ts."]],
  ["a client has another secret", [
    server("a", {
      ...leads,
      dropped: { unauthenticated: 1, repeated: 4 },
      unauthenticatedMs: 599_999,
    }),
    server("b", {
      ...follows,
      dropped: { unauthenticated: 17, version: 9 },
      unauthenticatedMs: 0,
    }),
    server("c", { ...follows, dropped: { unknown: 3, foreign: 2 } }),
  ], [
    "a has dropped datagrams of another secret (1): the warnings in its log say where they came from.",
    "b has dropped datagrams of another secret (17): the warnings in its log say where they came "
    + "from.",
  ]],
  ["a client had another secret long ago", [
    server("a", { ...leads, dropped: { unauthenticated: 1 }, unauthenticatedMs: 600_000 }),
    server("b", follows),
    server("c", follows),
  ], []],
];

const NEW_DISK = "has an empty or replaced disk, and no vote until a leader has given it the log";
const empty = { lastIndex: 0, lastTerm: 0, commitIndex: 0, founding: 0 };
const newDisk = { usesNamedDisk: false, founding: 0 };
const apart = (one: string, other: string) =>
  `${one} is of another founding than ${other}: two clusters have this name, and take nothing from `
  + "each other. Keep one: stop the servers of the other, keep their directories aside, and if no "
  + "majority is left, run 'bun cli.ts recover --data DIR' on the server whose last entry has the highest term, and then the highest index. The "
  + "others join it with an empty --data.";

TROUBLES.push(
  ["two of three have lost their disks", [
    server("a", asks, { b: newDisk, c: { ...newDisk, heardMs: null } }),
    server("b", empty, { a: { founding: 1 } }),
    absent("c"),
  ], [
    `There is no leader: ${lost}; b ${NEW_DISK}; c ${NEW_DISK}. Too few disks are left for any `
    + "election. Bring the old disks back, or run 'bun cli.ts recover --data DIR' with that of a.",
  ]],
  ["one has lost its disk, and another is silent: that one is the way out", [
    server("a", asks, { b: newDisk, c: { heardMs: 5000 } }),
    server("b", empty, { a: { founding: 1 } }),
    absent("c"),
  ], [
    `There is no leader: ${lost}; b ${NEW_DISK}; c has not been heard for 5 s: `
    + `${start("10.0.0.2:48000")}.`,
  ]],
  ["disks that are empty wait for the server that has shown a log", [
    absent("a"),
    server("b", empty, { a: { founding: 1 }, c: { founding: 0 } }),
    server("c", empty, { a: { founding: 1 }, b: { founding: 0 } }),
  ], [
    "There is no leader: the disks of b, c are empty, and wait for the log of a. Start a, or let "
    + "UDP through. If it is gone for good, start the servers with empty disks again: they "
    + "found a new cluster.",
  ]],
  ["empty disks are nothing wrong where no server has shown a log", [
    server("a", { ...empty, ...asks }, { b: newDisk, c: newDisk }),
    server("b", empty, { a: newDisk, c: newDisk }),
    server("c", empty, { a: newDisk, b: newDisk }),
  ], [soon]],
  ["two clusters were founded apart, and one of them leads", [
    server("a", { leader: "a" }, { b: { founding: 8 }, c: { founding: null } }),
    server("b", { role: "Leader", leader: "b", founding: 8 }, {
      a: { founding: 1, matchIndex: 0 },
      c: { founding: 8, matchIndex: 10 },
    }),
    server("c", { leader: "b", founding: 8 }, { a: { founding: null }, b: { founding: 8 } }),
  ], [apart("a", "b")]],
  ["a server of another founding does not answer here", [
    server("a", leads, { b: { founding: 8, matchIndex: 0 } }),
    absent("b"),
    server("c", follows),
  ], [apart("b", "a")]],
  ["a server of another founding has committed more", [
    server("a", leads),
    server("b", { ...follows, founding: 8, lastIndex: 40, commitIndex: 30 }),
    server("c", follows),
  ], [apart("b", "a")]],
  ["a server of another founding is in a later term", [
    server("a", leads),
    server("b", { role: "PreCandidate", votes: 1, founding: 8, term: 9, lastTerm: 9 }),
    server("c", follows),
  ], [apart("b", "a")]],
  ["a founding that is not fixed yet is no other cluster", [
    server("a", leads),
    server("b", { ...follows, founding: 8, lastIndex: 1, commitIndex: 0 }),
    server("c", follows),
  ], []],
  ["a follower has committed more than its leader has", [
    server("a", leads),
    server("b", { ...follows, lastIndex: 40, commitIndex: 30 }),
    server("c", follows),
  ], [
    "b has committed entries up to 30, but the log of its leader a ends with 10: disks of a "
    + "majority were lost, or put back from an older copy. Stop all servers, keep their directories "
    + "aside, and run 'bun cli.ts recover --data DIR' with that of b.",
  ]],
);

describe("status says", () => {
  for (const [what, answers, sentences] of TROUBLES) {
    test(what, () => expect(troublesOf(answers)).toEqual(sentences));
  }
});

describe("the story warns", () => {
  const told = (event: NodeEvent) => {
    const lines: string[] = [];
    const tell = narrator("a", (what, level) => {
      for (const sentence of [what].flat()) lines.push(`${level} ${plain(sentence)}`);
    });
    tell({ type: "recovered", cutBytes: 0, members: configuration(MEMBERS) });
    tell(event);
    return lines;
  };

  test("of IPv6 addresses as they are written", () => {
    expect(told({ type: "unauthenticated", address: { host: "fe80::1", port: 7 } })).toEqual([
      "WARNING Rejected a datagram from [fe80::1]:7: wrong secret. If it is a server or a client of "
      + "ours, give it the same --secret-file, or a new client key",
    ]);
  });

  test("of a server that was founded with other members", () => {
    expect(told({ ...foreign, server: "b", members: "a, b" })).toEqual([
      "WARNING b has other founding members or another cluster name, and we refuse each other. Its "
      + "members are a, b, and its cluster is raft. Start the one that is wrong again, with the right "
      + "--peers and --cluster and an empty --data",
    ]);
  });

  test("of another version, and what to do about it", () => {
    expect(told(otherVersion)).toEqual([
      "WARNING 10.0.0.3:8 runs another version of raft.ts: its wire format is 9. Stop all servers, "
      + "replace the program on each, start all",
    ]);
  });

  test("of two servers of one name, and where each is", () => {
    const [address, other] = [{ host: "::1", port: 7 }, { host: "10.0.0.3", port: 8 }];
    expect(told({ type: "twice", server: "c", address, other })).toEqual([
      "WARNING Two servers run under the name c: one at 10.0.0.3:8, and another one, which gets no "
      + "answer, at [::1]:7, with an earlier start or a replaced disk. Stop the wrong one. If only "
      + "one runs: if its directory is an old copy, start it with an empty one; otherwise restart "
      + "the server that reports this",
    ]);
  });

  test("of a server that has lost its disk, and what becomes of it", () => {
    expect(told({ type: "lostDisk", server: "c" })).toEqual([
      "WARNING c has lost its disk, or the data on it. It gets the log again from scratch, and "
      + "has no vote until then",
    ]);
  });

  test("of an entry that never arrives where smaller datagrams do", () => {
    expect(told({ type: "stuck", server: "c", index: 7, bytes: 5000 })).toEqual([
      "WARNING Entry 7, or the snapshot in its place, does not arrive at c in a batch of 5000 bytes, though "
      + "smaller messages do. Give all servers a smaller --datagram-bytes",
    ]);
  });

  test("of a server of another founding, and how to keep the data of either", () => {
    const [line = "", ...more] = told({ type: "otherFounding", server: "c" });
    expect(more).toEqual([]);
    expect(line).toMatch(/^WARNING Two clusters have this name: c is of another founding, /);
    expect(line).toMatch(/nothing is taken from it.* stop .* aside.* recover.* empty --data$/);
  });

  test("once under each leader that there are too few votes, and tells its first commit", () => {
    const lines: string[] = [];
    const tell = narrator("a", (what, level) => {
      for (const sentence of [what].flat()) lines.push(`${level} ${plain(sentence)}`);
    });
    const lost = { type: "preVoteLost", votes: 1, needed: 2 } as const;
    const leads = { type: "leader", from: undefined, to: "a" } as const;
    for (let i = 1; i <= 3; i += 1) {
      for (const event of [lost, lost, leads]) tell(event);
      for (const commitIndex of [i, 10 * i]) tell({ type: "committed", commitIndex });
    }
    const few = "WARNING No leader, and only 1 of the 2 votes needed to replace it: staying "
      + "Follower and asking on";
    expect(lines).toEqual(
      [1, 2, 3].flatMap((
        i,
      ) => [few, "INFO Old Leader: None, new leader: a", `INFO Committed all entries up to ${i}`]),
    );
  });

  test("of an unfinished write, which is kept aside", () => {
    expect(told({ type: "recovered", cutBytes: 17, members: configuration(MEMBERS) })).toEqual([
      "WARNING Cut 17 bytes of an unfinished write off the log, into log.cut",
    ]);
  });
});

// ------------------------------------------- Servers --------------------------------------------

describe("servers", () => {
  afterEach(endAll);

  type Trio = { servers: string[]; programs: Program[] };

  /** Three servers, on an address of this machine, that have a leader. Each may have a secret. */
  async function startTrio(host: string, secretFiles: string[] = []): Promise<Trio> {
    const servers = (await freePorts(3)).map((port) => `${host}:${port}`);
    const secretOf = (i: number) =>
      secretFiles.slice(i, i + 1).flatMap((f) => ["--secret-file", f]);
    const programs = servers.map((server, i) => {
      const peers = servers.filter((peer) => peer !== server).join(",");
      const port = server.slice(server.lastIndexOf(":") + 1);
      // Both ways of writing an IPv6 address will do.
      const own = i === 0 ? host.replace(/^\[|\]$/g, "") : host;
      return new Program([
        "--host",
        own,
        "--port",
        port,
        "--peers",
        peers,
        "--data",
        temporaryDirectory(),
        ...QUICK,
        ...secretOf(i),
      ]);
    });
    const status = ["status", "--json", "--peers", servers.join(","), ...secretOf(0)];
    await eventually("they have a leader, and nothing is wrong", async () => {
      const { output } = await cli(status);
      const { ok, troubles } = JSON.parse(output);
      return (ok && troubles.length === 0) || undefined;
    });
    return { servers, programs };
  }

  const story = (program: Program, words: RegExp) =>
    eventually(`${words} is told`, () => words.exec(program.output)?.[0]);

  /** Starts a server that warns, in these words, and goes on. */
  async function startWarned(what: string, args: string[], words: RegExp): Promise<Program> {
    const program = new Program(args);
    const line = await story(program, new RegExp(`WARNING - raft - \\S+ - ${words.source}\n`));
    show({ what, args }, line.trim(), "runs on");
    return program;
  }

  const hasIPv6 = Object.values(os.networkInterfaces()).flat()
    .some((own) => own?.address === "::1");
  test.if(hasIPv6)("IPv6 works from end to end", async () => {
    const { servers } = await startTrio("[::1]");
    const where = ["--peers", servers.join(",")];
    expect(await cli(["put", "six", "6", ...where])).toMatchObject({ code: 0 });
    expect(await cli(["get", "six", ...where.slice(0, 1), servers[1] ?? ""]))
      .toMatchObject({ code: 0, output: "6" });
  });

  test("a name and a secret let a server listen everywhere", async () => {
    const [port] = await freePorts(1);
    const secret = ["--secret-file", secretFile()];
    const program = new Program([
      "--host",
      "0.0.0.0",
      "--port",
      `${port}`,
      "--name",
      "alone",
      "--data",
      temporaryDirectory(),
      ...secret,
    ]);
    const where = ["--peers", `127.0.0.1:${port}`];
    expect(await cli(["put", "a", "b", ...where, ...secret])).toMatchObject({ code: 0 });
    const key = (await cli(["client-key", "alice", ...secret])).output;
    const env = { RAFT_CLIENT_KEY: key };
    expect(await cli(["get", "a", ...where], { env })).toMatchObject({ code: 0, output: "b" });
    const other = ["--secret-file", secretFile(`not ${SECRET}`), "--timeout", "300"];
    expect(await cli(["get", "a", ...where, ...other])).toMatchObject({ code: 5, output: "" });
    await story(
      program,
      /WARNING - raft - alone - Rejected a datagram from 127\.0\.0\.1:\d+: wrong secret\./,
    );
    const status = await cli(["status", ...where, ...secret]);
    expect(status.output).toMatch(
      /\nalone has dropped datagrams of another secret \(\d+\): /,
    );
    expect(status.code).toBe(0);
  });

  test("a client key opens the store, and changes neither the members nor the leader", async () => {
    const [port] = await freePorts(1);
    const secret = ["--secret-file", secretFile()];
    const program = new Program([
      ...["--host", "127.0.0.1", "--port", `${port}`, "--data", temporaryDirectory()],
      ...QUICK,
      ...secret,
    ]);
    const where = ["--peers", `127.0.0.1:${port}`];
    const alice = secretFile((await cli(["client-key", "alice", ...secret])).output);
    const key = ["--client-key-file", alice];
    expect(await cli(["put", "a", "b", ...where, ...key])).toMatchObject({ code: 0 });
    // Two processes of one name don't disturb each other.
    const both = await Promise.all([1, 2].map(() => cli(["get", "a", ...where, ...key])));
    for (const got of both) expect(got).toMatchObject({ code: 0, output: "b" });
    expect((await cli(["members", "list", ...where, ...key])).output).toContain(`:${port}`);
    const forbidden = [
      ["members", "add", "d=127.0.0.1:9"],
      ["members", "remove", `127.0.0.1:${port}`],
      ["transfer", "another"],
      ["backup", path.join(temporaryDirectory(), "backup")],
    ];
    for (const words of forbidden) {
      const { code, errors } = await cli([...words, ...where, ...key]);
      expect(code).toBe(2);
      expect(errors).toMatch(/^A client key cannot change members or leader, nor /);
    }
    const before = (await cli(["members", "list", ...where, ...secret])).output;
    expect(before.trim().split("\n")).toHaveLength(2);

    // One bit of the key is flipped.
    const bytes = Buffer.from(readFileSync(alice, "latin1").trim(), "base64url");
    const at = bytes.length - 1;
    bytes[at] = (bytes[at] ?? 0) ^ 1;
    const other = ["--client-key-file", secretFile(bytes.toString("base64url"))];
    const refused = await cli(["get", "a", ...where, ...other, "--timeout", "500"]);
    expect(refused).toMatchObject({ code: 5, output: "" });
    expect(refused.errors).toMatch(/^No answer in 500 ms\. .*never heard/);
    await story(program, /Rejected a datagram from \S+: wrong secret\. .* or a new client key/);
  });

  slow("a secret is rotated while puts go on, and the removed line is refused", async () => {
    const [older, newer] = [1, 2].map((i) => `secret number ${i} of the tests, which is long`);
    if (!older || !newer) throw new Error("there are two secrets");
    const files = [1, 2, 3].map(() => secretFile(`${older}\n`));
    const { servers, programs } = await startTrio("127.0.0.1", files);
    const connect = async (options: Partial<ClientOptions>) => {
      const client = await Client.connect({ servers, timeoutMs: 30_000, ...options });
      clients.push(client);
      return new KeyValues(client);
    };
    const clients: Client[] = [];
    const keyOf = (secret: string) => clientKey(secret, "raft", "alice");
    const writers = await Promise.all([
      connect({ secret: `${older}\n${newer}` }),
      connect({ clientKey: `${keyOf(older)}\n${keyOf(newer)}` }),
    ]);
    const late = await connect({ secret: older, timeoutMs: 500 });
    await late.put(bytes("late"), bytes("0"));

    let isDone = false;
    const puts = [0, 0];
    const writing = Promise.all(writers.map(async (store, i) => {
      while (!isDone) await store.put(bytes(`key ${i}`), bytes(`${puts[i] = (puts[i] ?? 0) + 1}`));
    }));
    /** Waits until both writers have written again. */
    const progress = async () => {
      const [first = 0, second = 0] = puts;
      await Promise.race([
        writing,
        eventually(
          "puts go on",
          () => ((puts[0] ?? 0) > first + 2 && (puts[1] ?? 0) > second + 2) || undefined,
        ),
      ]);
    };
    const told = (program: Program, words: RegExp) => program.output.match(words)?.length ?? 0;
    /** Replaces a file in one step, so that a server never reads half of it. */
    const write = (file: string, content: string) => renameSync(secretFile(content), file);
    const replace = async (i: number, content: string) => {
      const [program, file] = [programs[i], files[i]];
      if (!program || !file) throw new Error("there are three servers");
      const words = /INFO .* Read the secret again\. Number of lines: \d/g;
      const before = told(program, words);
      write(file, content);
      await eventually("the server notices", () => told(program, words) > before || undefined);
      expect(program.output.match(words)?.at(-1)).toEndWith(`${content.trim().split("\n").length}`);
      await progress();
    };
    for (const content of [`${older}\n${newer}\n`, `${newer}\n${older}\n`]) {
      for (const i of [0, 1, 2]) await replace(i, content);
    }
    // A file that cannot be used at the moment is told once, and changes nothing.
    const [file = ""] = files;
    const [program] = programs;
    if (!program) throw new Error("there is a first server");
    const kept = /WARNING .* The server keeps its secret\. .*/g;
    const spoil: (() => void)[] = [
      () => chmodSync(file, 0o644),
      () => write(file, "short"),
      () => write(file, ""),
      () => {
        unlinkSync(file);
        mkdirSync(file, { mode: 0o700 });
      },
      () => rmdirSync(file),
    ];
    for (const [i, act] of spoil.entries()) {
      act();
      await eventually("the server warns", () => told(program, kept) === i + 1 || undefined);
      await progress();
    }
    await Bun.sleep(1200); // The server reads the file every 500 ms.
    expect(told(program, kept)).toBe(spoil.length);
    write(file, `${newer}\n${older}\n`);
    await late.put(bytes("late"), bytes("1"));

    for (const i of [0, 1, 2]) await replace(i, `${newer}\n`);
    isDone = true;
    await writing;
    expect(await late.put(bytes("late"), bytes("2")).then(() => "put", ({ code }) => code))
      .not.toBe("put");
    for (const client of clients) client.close();
    const where = ["--peers", servers.join(",")];
    const gone = ["--secret-file", secretFile(older), "--timeout", "500"];
    expect(await cli(["get", "late", ...where, ...gone])).toMatchObject({ code: 5 });
    const goneKey = ["--client-key-file", secretFile(keyOf(older)), "--timeout", "500"];
    expect(await cli(["get", "late", ...where, ...goneKey])).toMatchObject({ code: 5 });
    const present = ["--secret-file", secretFile(newer)];
    expect(await cli(["get", "late", ...where, ...present])).toMatchObject({
      code: 0,
      output: "1",
    });
    const presentKey = ["--client-key-file", secretFile(keyOf(newer))];
    for (const i of [0, 1]) {
      const get = await cli(["get", `key ${i}`, ...where, ...presentKey]);
      expect(get).toMatchObject({ code: 0, output: `${puts[i]}` });
    }
  });

  test("no datagram of a server is larger than --datagram-bytes", async () => {
    for (const [size, ...flag] of [[1000, "--datagram-bytes", "1000"], [60_000]] as const) {
      const [port] = await freePorts(1);
      new Program([
        ...["--host", "127.0.0.1", "--port", `${port}`, "--data", temporaryDirectory()],
        ...QUICK,
        ...flag,
      ]);
      const relay = dgram.createSocket("udp4");
      let client = 0;
      let largest = 0;
      relay.on("error", () => {}); // The server is not there yet.
      relay.on("message", (bytes, from) => {
        if (from.port !== port) client = from.port;
        else largest = Math.max(largest, bytes.length);
        relay.send(bytes, from.port === port ? client : port, "127.0.0.1");
      });
      const { promise, resolve } = Promise.withResolvers<void>();
      relay.bind(0, "127.0.0.1", resolve);
      await promise;
      const where = ["--peers", `127.0.0.1:${port}=127.0.0.1:${relay.address().port}`];
      const value = "v".repeat(20_000);
      expect(await cli(["put", "large", value, ...where])).toMatchObject({ code: 0 });
      expect(await cli(["get", "large", ...where])).toMatchObject({ code: 0, output: value });
      relay.close();
      expect(largest).toBeLessThanOrEqual(size);
      // It is used, too.
      expect(largest).toBeGreaterThan(Math.min(size, value.length) * 0.95);
    }
  });

  test("an address of this machine alone is a warning, if a peer is elsewhere", async () => {
    const [port] = await freePorts(1);
    for (const host of ["127.0.0.1", "localhost"]) {
      const program = await startWarned(
        "a --host of this machine alone",
        [
          "--host",
          host,
          "--port",
          `${port}`,
          "--data",
          temporaryDirectory(),
          "--peers",
          "127.0.0.1:9,far=203.0.113.7:9",
        ],
        new RegExp(
          "This server listens on the loopback address 127\\.0\\.0\\.1, which reaches this machine "
            + "only, and not far at 203\\.0\\.113\\.7\\. Give --host an address of this machine .*",
        ),
      );
      expect(program.output.match(/loopback/g)).toHaveLength(1);
      await program.kill();
    }
  });

  slow("a peer's name that does not resolve is a warning, and tried again", async () => {
    const [port] = await freePorts(1);
    const data = temporaryDirectory();
    const start = ["--host", "127.0.0.1", "--port", `${port}`, "--data", data, ...QUICK];
    const program = await startWarned(
      "a peer's name does not resolve",
      [
        ...start,
        "--peers",
        `lost=${UNKNOWN_HOST}:1,127.0.0.1:1`,
      ],
      /Cannot resolve \S+ \(server lost\): .*(ENOTFOUND|EAI_AGAIN).*\. Retrying .*getent hosts .*/,
    );
    await story(program, /WARNING - raft - \S+ - No leader, and only 1 of the 2 votes/);
    const status = await cli(["status", "--peers", `127.0.0.1:${port}`]);
    expect(status).toMatchObject({ code: 5 });
    expect(status.errors).toMatch(
      /^There is no leader: \S+ has 1 of the 2 votes that it needs of 3; /,
    );
    expect(status.errors).toMatch(/lost has never been heard: .*(ENOTFOUND|EAI_AGAIN)/);
    expect(program.output.match(/Cannot resolve/g)?.length).toBe(1);
    program.signal("SIGTERM");
    expect(await program.exited).toBe(0);
    const again = new Program([
      "--json",
      ...start,
      "--peers",
      `lost=${UNKNOWN_HOST}:1,127.0.0.1:1`,
    ]);
    const line = await story(again, /^.*Cannot resolve .*$/m);
    expect(JSON.parse(line)).toEqual({
      time: expect.any(String),
      level: "WARNING",
      server: `127.0.0.1:${port}`,
      type: "unresolved",
      term: 0,
      index: 0,
      fields: {
        reason: expect.any(String),
        server: { name: "lost", host: UNKNOWN_HOST, port: 1 },
      },
      message: expect.stringContaining("Retrying every second"),
    });
  });

  slow("join a running cluster, and leave it when they are removed, the leader too", async () => {
    const { servers: [first = "", ...others], programs } = await startTrio("127.0.0.1");
    const [port] = await freePorts(1);
    const all = [first, ...others, `127.0.0.1:${port}`];
    const ask = async (...words: string[]) => {
      const { output } = await cli([...words, "--json", "--peers", all.join(",")]);
      return JSON.parse(output);
    };
    const fourth = new Program([
      "--host",
      "127.0.0.1",
      "--port",
      `${port}`,
      "--peers",
      first,
      "--join",
      "--name",
      "fourth",
      "--data",
      temporaryDirectory(),
      ...QUICK,
    ]);
    await story(fourth, /fourth is not a member: it waits for .*members add/);
    expect(await ask("members", "add", `fourth=127.0.0.1:${port}`)).toEqual({ ok: true });
    await story(fourth, /Members: .*, fourth$/m);
    const { leader } = await ask("status");
    expect(await ask("members", "remove", leader)).toEqual({ ok: true });
    expect(await programs[all.indexOf(leader)]?.exited).toBe(0);
    expect(programs[all.indexOf(leader)]?.output).toContain(
      `${leader} is no member any more, and stops.`,
    );
    await eventually(
      "there is another leader",
      async () => (await ask("status")).leader ?? undefined,
    );
    expect(await ask("members", "remove", leader)).toMatchObject({ error: { code: "absent" } });
    const { members } = await ask("members", "list");
    const rest = [first, ...others].filter((server) => server !== leader);
    const disk = expect.any(Number);
    expect(members).toEqual([
      ...rest.toSorted().map((name) => ({ name, address: name, votes: true, disk })),
      { name: "fourth", address: `127.0.0.1:${port}`, votes: true, disk },
    ]);
    expect(new Set(members.map((member: Member) => member.disk)).size).toBe(3);
    const told = await cli(["members", "list", "--peers", all.join(",")]);
    expect(told.output).toMatch(
      new RegExp(`^name +address +votes\n(.*\n){2}fourth +127.*:${port} +true\n$`),
    );
    expect(await ask("put", "key", "value")).toEqual({ ok: true });
  });

  test("servers that were given different lists refuse each other, and print both", async () => {
    const [one, two] = await freePorts(2);
    const [first, second] = [`127.0.0.1:${one}`, `127.0.0.1:${two}`];
    const start = (port: number | undefined, ...peers: string[]) =>
      startWarned("other peers than the others have", [
        "--host",
        "127.0.0.1",
        "--port",
        `${port}`,
        "--data",
        temporaryDirectory(),
        "--peers",
        peers.join(","),
        ...QUICK,
      ], /\S+ has other founding members or another cluster name, .*/);
    const programs = await Promise.all([start(one, second), start(two, first, "127.0.0.1:9")]);
    const lists = [[first, second], [first, second, "127.0.0.1:9"]].map((list) =>
      list.toSorted().join(", ")
    );
    for (const [i, { output }] of programs.entries()) {
      expect(output).toContain(`Its members are ${lists[1 - i]}, and its cluster is raft. `);
    }
  });

  slow("status says why there is no leader", async () => {
    const { servers, programs } = await startTrio("127.0.0.1");
    for (const program of programs.slice(1)) await program.kill();
    const twice = await cli(["status", "--json", "--peers", `x=${servers[0]},${servers[0]}`]);
    expect(JSON.parse(twice.output).servers).toHaveLength(3);
    const alone = await eventually("it asks for votes", async () => {
      const status = await cli(["status", "--peers", servers[0] ?? "", "--timeout", "200"]);
      return /^There is no leader: /.test(status.errors) ? status : undefined;
    });
    expect(alone.code).toBe(5);
    for (const server of servers.slice(1)) {
      // Two followers have nothing to say to each other while there is a leader.
      const silence = "has (never been heard|not been heard for \\d+ s): ";
      expect(alone.errors).toMatch(new RegExp(`${server} ${silence}`));
    }
    const lines = alone.output.trimEnd().split("\n");
    expect(lines[0]).toMatch(
      /^name +role +term +lastIndex +commitIndex +lag +heardMs +roundTripMs/,
    );
    expect(lines.length).toBe(4); // The servers that answer name the third, which was not asked.
    const columns = lines.map((line) => line.search(/ (PreCandidate|Candidate|Follower|-|role) /));
    expect(columns).toEqual(Array(4).fill(columns[0] ?? -1));
  });

  test.if(existsSync("/proc/self/status"))(
    "SIGHUP stops a server, unless it is ignored",
    async () => {
      const start = async (...via: string[]) => {
        const [port] = await freePorts(1);
        const program = new Program(
          ["--host", "127.0.0.1", "--port", `${port}`, "--data", temporaryDirectory(), ...QUICK],
          {},
          via,
        );
        await story(program, /listening on /);
        program.signal("SIGHUP");
        return { program, where: ["--peers", `127.0.0.1:${port}`] };
      };
      const stopped = await start();
      expect(await stopped.program.exited).toBe(0);
      await story(stopped.program, /Server stopped/);
      const lasting = await start("nohup");
      expect(await cli(["put", "a", "b", ...lasting.where])).toMatchObject({ code: 0 });
      lasting.program.signal("SIGTERM");
      expect(await lasting.program.exited).toBe(0);
    },
  );

  const ports = [48000, 48001, 48002];
  test.if(existsSync("/proc/self/stat"))("--test takes the secret that its shell has", async () => {
    await eventually(
      "the ports of a trio are free",
      async () => (await Promise.all(ports.map(isFree))).every(Boolean) || undefined,
    );
    const env = { RAFT_SECRET: SECRET };
    const program = new Program(["--test", ...QUICK, "--secret-file", secretFile()], {
      RAFT_SECRET: "the flag counts more than this one",
    });
    expect(await cli(["put", "a", "b", "--timeout", "30000"], { env })).toMatchObject({ code: 0 });
    program.signal("SIGTERM");
    expect(await program.exited).toBe(0);
    expect(program.output).not.toContain("wrong secret");
  });

  if (existsSync("/proc/self/stat")) {
    slow("a compiled program works, and says its own name", async () => {
      const directory = temporaryDirectory();
      const built = Bun.spawn([
        process.execPath,
        "build",
        "--compile",
        CLI,
        "--outfile",
        path.join(directory, "raft"),
      ], { stdio: ["ignore", "ignore", "inherit"] });
      expect(await built.exited).toBe(0);
      await eventually(
        "the ports of a trio are free",
        async () => (await Promise.all(ports.map(isFree))).every(Boolean) || undefined,
      );
      const via = ["sh", "-c", `cd ${directory} && shift && exec ./raft "$@"`];
      const raft = (...args: string[]) => new Program(args, {}, via);
      const trio = raft("--test", ...QUICK);
      const ended = async (program: Program) => {
        const code = await program.exited;
        await program.closed;
        return { code, output: program.output.trim(), errors: program.errors.trim() };
      };
      // The leader commits its no-op alone, as no client has come yet.
      await story(trio, / - Committed all entries up to 1\n/);
      expect(await ended(raft("put", "a", "b", "--timeout", "30000"))).toMatchObject({ code: 0 });
      expect(trio.output).toContain("'./raft put hello world'");
      expect(trio.output).not.toContain("bun");
      // Replication shows: all three servers tell of the one put.
      await story(trio, /(?:Applied put "a"[^]*){3}/);
      for (const word of "bcdefghijklmnopqrstu") {
        expect(await ended(raft("put", word, word))).toMatchObject({ code: 0 });
      }
      await story(trio, /(?:Applied put "t"[^]*){3}/);
      expect(trio.output).not.toContain("put \"u\"");
      const [victim] = childrenOf(trio.pid);
      if (victim) process.kill(victim.pid, "SIGKILL");
      await story(trio, /To start it again:\n\.\/raft --host \S+ --port 4800/);
      const second = await ended(raft("--test"));
      expect(second).toMatchObject({ code: 5, output: "" });
      expect(second.errors).toMatch(
        /^Cannot listen on \S+:4800\d: another process has that port\. Stop it, /,
      );
      const help = await ended(raft("--help"));
      expect(help.output).toContain("./raft put KEY VALUE");
      expect(help.output).not.toContain("bun");
      expect((await ended(raft("putt"))).errors).toContain("'./raft --help' explains them");
      const open = await ended(raft("--host", "0.0.0.0", "--port", `${(await freePorts(1))[0]}`));
      expect(open.errors).toContain("'./raft secret > raft.secret'");
      trio.signal("SIGTERM");
      expect(await trio.exited).toBe(0);
    });
  }

  test("another directory's program is named by its path", async () => {
    const elsewhere = new Program(["get"], {}, ["sh", "-c", "cd / && exec \"$0\" \"$@\""]);
    expect(await elsewhere.exited).toBe(2);
    await elsewhere.closed;
    expect(elsewhere.errors).toContain(`: bun ${CLI.slice(1)} get KEY`);
  });
});
