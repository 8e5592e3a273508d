/**
 * The command line, as people and scripts meet it. Whatever they do wrong is answered by one clear
 * message and the right exit code, and nothing is lost. `RAFT_SHOW=1 bun test cli` prints all of
 * these as a table: what was done, what was printed, and the exit code.
 */
import { afterAll, afterEach, beforeAll, describe, expect, setDefaultTimeout,
  test } from "bun:test";
import dgram from "node:dgram";
import { chmodSync, cpSync, mkdirSync, readdirSync, readFileSync, statSync,
  writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { type Answer, narrator, type Status, troublesOf } from "../cli.ts";
import type { NodeEvent } from "../raft.ts";
import { Cluster, endAll, eventually, freePorts, isFree, Program,
  temporaryDirectory } from "./processes.ts";

const CLI = path.join(import.meta.dir, "..", "cli.ts");
const SECRET = "a secret of the tests, of 16 characters or more";
const TIMING = { electionTimeoutMs: 300, heartbeatMs: 50 };
const QUICK = ["--election-timeout", "300", "--heartbeat", "50"];
/** A name that no resolver has, whether or not there is a network. */
const NOWHERE = `${"no".repeat(32)}where`;

setDefaultTimeout(100_000);

// ------------------------------------------- Helpers --------------------------------------------

type Options = { env?: Record<string, string>; input?: Uint8Array | string; shell?: string };

/** Runs a command to its end. A shell may write what no argument of a program can hold. */
async function cli(args: readonly string[], { env = {}, input = "", shell }: Options = {}) {
  const command = shell === undefined
    ? [process.execPath, CLI, ...args]
    : ["sh", "-c", shell, process.execPath, CLI, ...args];
  const child = Bun.spawn(command, { env: { ...process.env, NO_COLOR: "1", ...env },
    stdin: Buffer.from(input), stdout: "pipe", stderr: "pipe", timeout: 60_000 });
  const [bytes, errors, code] = await Promise.all([new Response(child.stdout).bytes(),
    new Response(child.stderr).text(), child.exited]);
  return { code, bytes, output: Buffer.from(bytes).toString(), errors: errors.trim() };
}

const text = (word: string) => Buffer.from(word);

/** A file with a secret in it, as `bun cli.ts secret > FILE` makes it. */
function secretFile(content: string | Uint8Array = SECRET, mode = 0o600): string {
  const file = path.join(temporaryDirectory(), "raft.secret");
  writeFileSync(file, content);
  chmodSync(file, mode);
  return file;
}

/** The files of a directory, with all that is in them. */
function contents(directory: string): Record<string, string> {
  return Object.fromEntries(
    readdirSync(directory).map((
      file,
    ) => [file, readFileSync(path.join(directory, file)).toString("hex")]),
  );
}

const log = (directory: string) => readFileSync(path.join(directory, "log")).toString("hex");

// ------------------------------------------ Bad input -------------------------------------------

/** What somebody did wrong, what they must be told, and the exit code. */
type Wrong = { what: string; args: string[]; code: number; says: RegExp; options?: Options;
  /** A directory of data, of which nothing may be lost. */
  keeps?: string };
const shown: string[] = [];

/** A pipe would end a cell of the table. */
function show({ what, args, options: { env = {}, shell } = {} }: Wrong, code: number,
  printed: string): void {
  const words = [...args].map((word) => (word.length > 60 ? `${word.slice(0, 20)}...` : word));
  const quoted = words.map((word) => (/^[^\s"'$*]+$/.test(word) ? word : `'${word}'`)).join(" ");
  const variables = Object.entries(env).map(([name, value]) => `${name}='${value}' `).join("");
  const raw = shell?.replace(/^exec "\$0" "\$@" /, "") ?? "";
  const command = `${variables}bun cli.ts ${quoted}${raw && ` ${raw}`}`;
  const hidden = (from: string) =>
    from.replaceAll(new RegExp(`${os.tmpdir()}/[^/ ]+`, "g"), "/tmp");
  shown.push([what, `\`${hidden(command)}\``, hidden(printed), code].join(" | "));
}

async function expectRefusal(wrong: Wrong): Promise<void> {
  const { args, code, says, options, keeps } = wrong;
  const before = keeps && log(keeps);
  const refused = await cli(args, options);
  show(wrong, refused.code, refused.errors);
  expect(refused.errors).toMatch(says);
  expect(refused.errors).not.toContain("\n"); // One message, and no stack.
  expect(refused.code).toBe(code);
  const story = refused.output.split("\n").filter((line) => !/^\d{4}-.* - raft - /.test(line));
  expect(story).toEqual([""]);
  // A script is told the same, in one shape.
  const inJson = await cli(["--json", ...args], options);
  const [last = "", ...events] = inJson.output.trim().split("\n").reverse();
  expect(JSON.parse(last)).toEqual({ ok: false,
    error: { code: expect.any(String), message: expect.stringMatching(says) } });
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
  let [port, taken, data]: [port: string, taken: string, data: string] = ["", "", ""];

  beforeAll(async () => {
    cluster = await Cluster.start(TIMING, 1);
    const [server = ""] = cluster.servers;
    where = ["--peers", server, "--cluster", cluster.name];
    taken = server.split(":")[1] ?? "";
    data = path.join(cluster.directory, taken);
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
      for (const wrong of rows) await expectRefusal(wrong);
    });
  }

  const server = (
    ...more: string[]
  ) => ["--host", "127.0.0.1", "--port", port, "--data", temporaryDirectory(), ...more];

  refuses("commands and flags", () => [
    { what: "no arguments", args: [], code: 2,
      says: /^A server needs --host and --port, or a client a command: .*--test.*--help/ },
    { what: "an unknown flag", args: ["--prot", "48000"], code: 2,
      says: /^There is no flag --prot\. 'bun cli\.ts --help' lists them/ },
    { what: "a flag without its value", args: ["--port"], code: 2, says: /--port.*--help/ },
    { what: "a value that looks like a flag", args: ["put", "KEY", "-5"], code: 2,
      says: /no flag -5\..* behind --\.$/ },
    { what: "an unknown command", args: ["putt", "a", "b"], code: 2,
      says: /^There is no command "putt"\. There are put, get,/ },
    { what: "a command named like a property", args: ["constructor"], code: 2,
      says: /^There is no command "constructor"/ },
    { what: "too few words", args: ["put", "a"], code: 2,
      says: /^"put" takes 2 words, not 1\. Write: bun cli\.ts put KEY VALUE$/ },
    { what: "too many words", args: ["put", "a", "hello", "world"], code: 2,
      says: /^"put" takes 2 words, not 3\. .*quotes/ },
    { what: "a server's flag at a client", args: ["status", "--port", "48000"], code: 2,
      says: /^--port is for servers, .*--peers/ },
    { what: "a client's flag at a server", args: server("--timeout", "100"), code: 2,
      says: /^--timeout is for clients/ },
    { what: "--test with a flag of one server", args: ["--test", "--port", "48000"], code: 2,
      says: /^--test takes no command/ },
  ]);

  refuses("addresses and peers", () => [
    { what: "a port out of range", args: server("--port", "123456"), code: 2,
      says: /^--port cannot be "123456"\. It takes a number from 1 to 65535/ },
    { what: "a port that is no number", args: server("--port", "http"), code: 2,
      says: /^--port cannot be "http"/ },
    { what: "no port", args: ["--host", "127.0.0.1"], code: 2, says: /^A server needs --port/ },
    { what: "a peer without a port", args: server("--peers", "127.0.0.1"), code: 2,
      says: /^"127\.0\.0\.1" is not the address of a server\. Write HOST:PORT/ },
    { what: "a peer that is oneself", args: server("--peers", `127.0.0.1:${port}`), code: 2,
      says: /own peer/ },
    { what: "duplicate peers", args: server("--peers", "127.0.0.1:9,127.0.0.1:9"), code: 2,
      says: /listed twice/ },
    { what: "two names for one peer", args: server("--peers", "a=127.0.0.1:9,b=127.0.0.1:9"),
      code: 2, says: /listed twice/ },
    { what: "an empty list of peers", args: server("--peers", ""), code: 2,
      says: /^--peers is empty\. Write HOST:PORT of the others, or leave it out/ },
    { what: "a name that peers cannot write", args: server("--name", "a b"), code: 2,
      says: /^--name cannot be "a b"/ },
    { what: "an address that no interface has", args: server("--host", "192.0.2.1"), code: 1,
      says:
        /^Cannot listen on 192\.0\.2\.1:\d+: no network interface has that address\. Use one of/ },
    { what: "a port in use", args: server("--port", taken), code: 1,
      says: /another process has that port\. Stop it, or use another port/ },
    { what: "its own name does not resolve", args: server("--host", NOWHERE), code: 1,
      says: /^Cannot listen on .*: the name does not resolve\. Use one of/ },
    { what: "every address, and no name",
      args: server("--host", "0.0.0.0", "--secret-file", secretFile()), code: 2,
      says: /^0\.0\.0\.0 is every address .* --name/ },
    { what: "no secret, and not on loopback", args: server("--host", "0.0.0.0"), code: 2,
      says: /^Without a secret .*bun cli\.ts secret > raft\.secret.*--secret-file raft\.secret/ },
    { what: "timeouts that contradict each other",
      args: server("--heartbeat", "600", "--election-timeout", "1000"), code: 2,
      says: /^--heartbeat 600 is more than half of --election-timeout 1000: one lost heartbeat/ },
    { what: "a time that is none", args: server("--heartbeat", "soon"), code: 2,
      says: /^--heartbeat cannot be "soon"\. It takes whole milliseconds/ },
    { what: "a time of nothing", args: ["get", "a", "--timeout", "0"], code: 2,
      says: /^--timeout cannot be "0"/ },
  ]);

  refuses("secrets and keys", () => {
    const secret = (file: string, ...more: string[]) => server("--secret-file", file, ...more);
    const key = secretFile("ab".repeat(32));
    return [
      { what: "a secret that others can read", args: secret(secretFile(SECRET, 0o644)), code: 2,
        says: /can be read by others\. Forbid it: chmod 600 / },
      { what: "a secret that is too short", args: secret(secretFile("swordfish")), code: 2,
        says: /has 9 characters, and needs at least 16\. Make one: bun cli\.ts secret > / },
      { what: "an empty secret", args: secret(secretFile("\n")), code: 2,
        says: /is empty\. Make one: / },
      { what: "no such file", args: secret(`${temporaryDirectory()}/none`), code: 2,
        says: /is not there\. Make one: / },
      { what: "no such directory", args: secret(`${secretFile()}/none`), code: 2,
        says: /--secret-file .* (is not there|cannot be read)\. / },
      { what: "a directory in place of a file", args: secret(temporaryDirectory()), code: 2,
        says: /cannot be read\. EISDIR/ },
      { what: "a secret that is no text", args: secret(secretFile(Buffer.alloc(32, 0xff))), code: 2,
        says: /holds bytes that are no text\. Make one: / },
      { what: "RAFT_SECRET too short", args: server(), options: { env: { RAFT_SECRET: "word" } },
        code: 2, says: /^RAFT_SECRET has 4 characters, and needs at least 16/ },
      { what: "RAFT_SECRET empty", args: ["get", "a", ...where],
        options: { env: { RAFT_SECRET: "" } }, code: 2, says: /^RAFT_SECRET is empty/ },
      { what: "secret and key at once", code: 2,
        args: ["get", "a", ...where, "--secret-file", secretFile(), "--client-key-file", key],
        says: /^--secret-file and --client-key-file: A client takes one/ },
      { what: "both in the environment", args: ["get", "a", ...where], code: 2,
        options: { env: { RAFT_SECRET: SECRET, RAFT_CLIENT_KEY: "ab".repeat(32) } },
        says: /^RAFT_SECRET and RAFT_CLIENT_KEY are both set\. / },
      { what: "a client's key that is none", code: 2,
        args: ["get", "a", ...where, "--client-key-file", secretFile()],
        says: /^A client key has 64 hexadecimal digits\. 'bun cli\.ts client-key' prints it/ },
      { what: "a client's key that others can read", code: 2,
        args: ["get", "a", ...where, "--client-key-file", secretFile("ab".repeat(32), 0o640)],
        says: /^--client-key-file .* can be read by others\. Forbid it: chmod 600 / },
      { what: "no such key", code: 2,
        args: ["get", "a", ...where, "--client-key-file", `${temporaryDirectory()}/none`],
        says: /is not there\. Make one: bun cli\.ts client-key > / },
      { what: "a server with a client's key", args: server("--client-key-file", key), code: 2,
        says: /^--client-key-file is for clients/ },
      { what: "a server with only a client's key", args: server(), code: 2,
        options: { env: { RAFT_CLIENT_KEY: "ab".repeat(32) } },
        says: /^RAFT_CLIENT_KEY is for clients: .*--secret-file/ },
      { what: "client-key without a secret", args: ["client-key"], code: 2,
        says: /^The clients' key is made of the secret: give --secret-file, or RAFT_SECRET/ },
    ];
  });

  refuses("keys and values", () => [
    { what: "an empty key", args: ["put", "", "value", ...where], code: 2,
      says: /^The key is empty\. / },
    { what: "key and value too large", args: ["put", "key", "v".repeat(64_000), ...where], code: 1,
      says: /^\d+ bytes are too many for a datagram, .* 64000.*[Ss]plit/ },
    { what: "a key too large", args: ["get", "k".repeat(64_000), ...where], code: 1,
      says: /bytes are too many for a datagram/ },
    { what: "a value too large, on standard input", args: ["put", "key", "-", ...where], code: 1,
      options: { input: new Uint8Array(10_000_000) },
      says: /^Standard input has more than 64000 bytes.*Nothing was sent/ },
    { what: "bytes that are not UTF-8", args: ["get", ...where], code: 2,
      options: { shell: `exec "$0" "$@" "$(printf '\\303\\050')"` },
      says: /has bytes that are not UTF-8, .*--base64/ },
    { what: "no base64", args: ["get", "a key", "--base64", ...where], code: 2,
      says: /^"a key" is not base64\. / },
    { what: "no such key", args: ["get", "__proto__", ...where], code: 1,
      says: /^There is no value for "__proto__"\.$/ },
    { what: "no such key to delete", args: ["delete", "constructor", ...where], code: 1,
      says: /^There is no value for "constructor"\.$/ },
    { what: "another value than expected", args: ["cas", "precious", "other", "new", ...where],
      code: 1, says: /^The value of "precious" is not "other", and stays as it is\.$/ },
    { what: "nobody there", args: ["get", "a", "--peers", `127.0.0.1:${port}`, "--timeout", "300"],
      code: 1, says: /^No answer in 300 ms\. .*never heard/ },
    { what: "another cluster's name",
      args: ["put", "a", "b", ...where.slice(0, 2), "--timeout", "300"], code: 1,
      says: /^No answer in 300 ms\. .* cluster\? .*never heard/ },
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

  test("a directory in use, or of another server or cluster, is left as it is", async () => {
    const mine = await used();
    const [, , , port = ""] = mine.args;
    await expectRefusal({ what: "data of another server", args: [...mine.args, "--name", "other"],
      code: 3, keeps: mine.data,
      says:
        /log holds the data of server .*, not of other .*\. Choose another directory, or start that/ });
    await expectRefusal({ what: "data of another cluster",
      args: [...mine.args, "--cluster", "other"], code: 3, keeps: mine.data,
      says: /log holds the data of server .* of cluster raft, not of .* of other\. / });
    const running = new Program(mine.args);
    await eventually("it listens", () => running.output.includes("listening on ") || undefined);
    const [free] = await freePorts(1);
    await expectRefusal({ what: "data of a running server", code: 3,
      args: [...mine.args, "--port", String(free), "--name", `127.0.0.1:${port}`],
      says: /^Cannot use .*: a running server has it\. Stop that one, or take another/ });
    await running.kill();
    await expectKept(mine);
  });

  test("a directory that cannot be written, or is damaged, is left as it is", async () => {
    const mine = await used();
    await expectRefusal({ what: "a directory that cannot be made", code: 3,
      args: [...mine.args, "--data", `${secretFile()}/below-a-file`],
      says: /^Cannot use .*\. Take a directory that this user may write to\.$/ });
    const file = path.join(mine.data, "log");
    const good = readFileSync(file);
    writeFileSync(file, "These are not the bytes of a log.");
    await expectRefusal({ what: "a file that is no log", args: mine.args, code: 3, keeps: mine.data,
      says:
        /log does not begin as a log of raft\.ts does, and is left as it is\. Restore it, or/ });
    // One bit in the first frame behind the one with which every log begins.
    const second = good.indexOf(good.subarray(0, 4), 4);
    expect(second).toBeGreaterThan(0);
    const damaged = Buffer.from(good);
    damaged[second + 12] = (damaged[second + 12] ?? 0) ^ 1;
    writeFileSync(file, damaged);
    await expectRefusal({ what: "a damaged log", args: mine.args, code: 3, keeps: mine.data,
      says: /log is damaged at byte \d+, and left as it is\. .*restore the file, or replace/ });
    writeFileSync(file, good);
    await expectKept(mine);
  });

  const mount = "mount -t tmpfs -o size=200k none";
  const unshare = ["unshare", ...(process.getuid?.() === 0 ? [] : ["-Ur"]), "-m"];
  const canMount = Bun.spawnSync([...unshare, "sh", "-c", `${mount} /mnt`]).success;
  // Where no file system can be mounted, test/storage.test.ts has filled a simulated disk.
  test.if(canMount)("a disk fills: the server stops, and goes on when there is room", async () => {
    const [port] = await freePorts(1);
    const data = temporaryDirectory();
    const server = `"$0" "$@" --host 127.0.0.1 --port ${port} --data ${data}`;
    const script = `${mount} ${data} && { ${server}; echo "ended with $?"; ` +
      `mount -o remount,size=20m ${data} && exec ${server}; }`;
    const child = Bun.spawn([...unshare, "sh", "-c", script, process.execPath, CLI], {
      stdin: "ignore",
      stdout: "pipe",
      stderr: "pipe",
    });
    const where = ["--peers", `127.0.0.1:${port}`];
    const stored: string[] = [];
    let failed: Awaited<ReturnType<typeof cli>> | undefined;
    while (!failed) {
      const put = await cli(["put", `key ${stored.length}`, "-", ...where, "--timeout", "3000"], {
        input: "v".repeat(30_000),
      });
      if (put.code === 0) stored.push(`key ${stored.length}`);
      else failed = put;
    }
    // By now the server may run again, and have forgotten the session: that refuses what is asked.
    expect([1, 4]).toContain(failed.code);
    expect(stored.length).toBeGreaterThan(1);
    for (const key of stored) {
      const get = await cli(["get", key, ...where]);
      expect(get).toMatchObject({ code: 0, output: "v".repeat(30_000) });
    }
    child.kill();
    await child.exited;
    const [output, errors] = await Promise.all([new Response(child.stdout).text(),
      new Response(child.stderr).text()]);
    expect(output).toContain("ended with 3\n");
    expect(errors).toMatch(
      /^Cannot write .*: ENOSPC.*\. Make room on that disk, and start again\.\n$/,
    );
    shown.push(["a full disk", "`bun cli.ts --data DIR ...`", errors.trim(), 3].join(" | "));
  });
});
