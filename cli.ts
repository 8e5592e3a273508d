#!/usr/bin/env bun
/**
 * The command line of raft.ts: a server, three of them at once, and a client of the key-value
 * store. Events become the story that people read; errors become a sentence on stderr and an exit
 * code.
 */
import { randomBytes } from "node:crypto";
import dns from "node:dns/promises";
import { mkdtempSync, readFileSync, rmSync, statSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs, styleText } from "node:util";
import packageJson from "./package.json";
import { Client, KeyValues, KeyValueStore, Node, type NodeEvent, parseServer, RaftError,
  type RoleName } from "./raft.ts";

const HELP = `raft.ts: Raft in one file, with a replicated key-value store on top.

  bun cli.ts --test                                     three servers on this machine
  bun cli.ts --host H --port P --peers H:P,H:P          one server; --peers are the others
  bun cli.ts put KEY VALUE                              store a value
  bun cli.ts get KEY                                    read it
  bun cli.ts delete KEY                                 remove it
  bun cli.ts cas KEY OLD NEW                            put NEW if the value is OLD
  bun cli.ts status                                     what each server says of itself
  bun cli.ts secret                                     a new secret, for --secret-file

Servers:
  --name NAME             what the peers call this server (default: HOST:PORT)
  --data DIR              where the log is (default: raft-data/NAME; for --test a temporary one)
  --election-timeout MS   who hears no leader for this time, up to twice it, calls an election
                          (default: 1000)
  --heartbeat MS          how often a leader speaks that has nothing to say (default: 100)
Clients:
  --timeout MS            how long to wait for an answer (default: 5000)
  --json                  answer in JSON
Both:
  --peers LIST            HOST:PORT or NAME=HOST:PORT, with commas between; clients need none
                          while the servers of --test run on this machine
  --secret-file FILE      what servers and clients of one cluster share, and nobody else has
                          (default: RAFT_SECRET; without any, servers keep to this machine)
  --cluster NAME          what servers and clients of one cluster agree on (default: raft)
  --help, --version

Exit codes: 0 done; 1 not done; 2 wrong usage; 3 storage failed; 4 unknown whether it was done.`;

const EXIT_CODES = { storage: 3, network: 1, usage: 2, refused: 1, timeout: 1, outcomeUnknown: 4 };

const parse = () =>
  parseArgs({
    args: Bun.argv.slice(2),
    allowPositionals: true,
    options: {
      test: { type: "boolean" },
      host: { type: "string" },
      port: { type: "string" },
      name: { type: "string" },
      peers: { type: "string" },
      data: { type: "string" },
      cluster: { type: "string", default: "raft" },
      "secret-file": { type: "string" },
      "election-timeout": { type: "string", default: "1000" },
      heartbeat: { type: "string", default: "100" },
      timeout: { type: "string", default: "5000" },
      json: { type: "boolean", default: false },
      help: { type: "boolean", short: "h" },
      version: { type: "boolean" },
    },
  });
type Flags = ReturnType<typeof parse>["values"];

function milliseconds(flags: Flags, flag: "election-timeout" | "heartbeat" | "timeout"): number {
  const value = Number(flags[flag]);
  if (Number.isInteger(value) && value >= 1 && value <= 3_600_000) return value;
  const range = "It takes whole milliseconds, from 1 to 3600000.";
  throw new RaftError("usage", `--${flag} cannot be "${flags[flag]}". ${range}`);
}

const SECRET_CHARACTERS = 16;

/** The secret of the cluster: from `--secret-file`, or from RAFT_SECRET; by default none. */
function readSecret(file: string | undefined): string {
  if (file === undefined) return process.env["RAFT_SECRET"] ?? "";
  const wrong = (why: string, next: string) =>
    new RaftError("usage", `--secret-file ${file} ${why}. ${next}`);
  const make = `Make one: umask 077; bun cli.ts secret > ${file}`;
  const stat = statSync(file, { throwIfNoEntry: false });
  if (!stat) throw wrong("is not there", make);
  if (stat.mode & 0o077) throw wrong("can be read by others", `Forbid it: chmod 600 ${file}`);
  const secret = readFileSync(file, "utf8").trim();
  if (secret.length >= SECRET_CHARACTERS) return secret;
  const size = `has ${secret.length} characters, and a secret ${SECRET_CHARACTERS} at least`;
  throw wrong(secret === "" ? "is empty" : size, make);
}

const listOf = (peers = "") => peers.split(",").map((peer) => peer.trim()).filter(Boolean);

// ------------------------------------------ The story -------------------------------------------

const COLOURS = ["cyan", "yellow", "magenta", "green", "blue"] as const;
type Tell = (message: string, level?: "INFO" | "WARNING") => void;

/** Writes the lines of one server; on a terminal, in a colour of its own. */
function teller(name: string, port: number): Tell {
  const colour = COLOURS[port % COLOURS.length] ?? "cyan";
  const isColoured = process.stdout.isTTY && !process.env.NO_COLOR;
  process.stdout.on("error", () => {}); // That nobody reads any more is no reason to stop serving.
  return (message, level = "INFO") => {
    const now = new Date();
    const local = new Date(now.getTime() - now.getTimezoneOffset() * 60_000).toISOString();
    const time = local.slice(0, 23).replace("T", " ").replace(".", ",");
    const line = `${time} - ${level} - raft - ${name} - ${message}`;
    process.stdout.write(`${isColoured ? styleText(colour, line) : line}\n`);
  };
}

/**
 * Tells events in the words of an election. What repeats is told once, until something changes.
 */
function narrator(name: string, members: string[], tell: Tell): (event: NodeEvent) => void {
  let isAsking = false;
  // A pre-candidate only asks whether it could win. Until it could, it is a follower in the story.
  const called = (role: RoleName) => (role === "PreCandidate" ? "Follower" : role);
  return (event) => {
    const isAlone = members.length === 1; // It campaigns without having missed anybody.
    if (isAlone && (event.type === "campaign" || event.type === "role")) return;
    switch (event.type) {
      case "preVoteLost": {
        const { votes, needed } = event;
        const lost = `No leader, and only ${votes} of the ${needed} votes needed to replace it`;
        if (!isAsking) tell(`${lost}: staying Follower and asking on`, "WARNING");
        isAsking = true;
        return;
      }
      case "campaign": {
        if (event.transfer) {
          tell("The leader hands over to this server, switching to Candidate");
          return tell("Starting vote...");
        }
        const silence = `No valid RPC received in the last ${
          Math.round(event.silentMs)
        } milliseconds`;
        tell(`${silence}, switching to Candidate`);
        return tell("Starting vote...");
      }
      case "voted":
        tell(`Voting for ${event.candidate}`);
        return tell(`Voted for ${event.candidate}`);
      case "votes":
        tell(`Received ${event.votes} votes`);
        if (event.elected) tell(`Received ${event.votes} votes. Switching to Leader`);
        return;
      case "role": {
        const [from, to] = [called(event.from), called(event.to)];
        if (from !== to) tell(`Switching state from ${from} to ${to}`);
        return;
      }
      case "leader":
        isAsking = false;
        if (event.to !== undefined && event.to !== name) tell(`New leader: ${event.to}`);
        return tell(`Old Leader: ${event.from ?? "None"}, new leader: ${event.to ?? "None"}`);
      case "slow": {
        const { ms, peer } = event;
        return tell(`It took ${ms}ms to send a message to and receive a response from: ${peer}`,
          "WARNING");
      }
      case "unresolved": {
        const { host, name: server } = event.server;
        return tell(`The name ${host} of ${server} does not resolve yet; trying on`, "WARNING");
      }
      case "foreign": {
        const members = `${event.server} was founded with other members: ${event.members}`;
        return tell(`${members}. We do not talk to it until the lists agree`, "WARNING");
      }
      case "unauthenticated": {
        const { host, port } = event.address;
        return tell(
          `What comes from ${host}:${port} does not fit our secret or cluster, and is not answered`,
          "WARNING",
        );
      }
      case "recovered": {
        const [founders, now] = [event.members, members].map((list) => list.toSorted().join(", "));
        const stay = `the cluster was founded with other members, which stay: ${founders}`;
        if (founders !== now) tell(`--peers is not obeyed: ${stay}`, "WARNING");
        if (event.cutBytes === 0) return;
        return tell(`Cut ${event.cutBytes} bytes of an unfinished write off the log, into log.cut`,
          "WARNING");
      }
      case "snapshot": {
        const { index, size, from } = event;
        const how = from === undefined ? "Took a snapshot" : `Installed a snapshot from ${from}`;
        return tell(`${how} at index ${index}, ${size} bytes`);
      }
      case "committed":
        return;
      default:
        event satisfies never;
    }
  };
}

// ------------------------------------------ One server ------------------------------------------

async function serve(flags: Flags): Promise<number> {
  const { host, port, name = `${host}:${port}`, cluster, data } = flags;
  if (!host || !port) {
    const see = "'bun cli.ts --test' starts three servers, 'bun cli.ts --help' tells the rest";
    const missing = host ? "--port" : port ? "--host" : "--host and --port";
    throw new RaftError("usage", `A server needs ${missing}, or a client a command: ${see}.`);
  }
  if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65_535) {
    throw new RaftError("usage", `--port cannot be "${port}". It takes a number from 1 to 65535.`);
  }
  const self = { ...parseServer(`${host}:${port}`), name };
  const peers = listOf(flags.peers);
  const names = peers.map((peer) => parseServer(peer).name);
  const [electionTimeoutMs, heartbeatMs] = [milliseconds(flags, "election-timeout"),
    milliseconds(flags, "heartbeat")];
  if (heartbeatMs * 2 > electionTimeoutMs) {
    const why = "one lost heartbeat would cause an election";
    throw new RaftError("usage",
      `--heartbeat must be at most half of --election-timeout, or ${why}.`);
  }
  const tell = teller(self.name, self.port);
  tell("Starting server...");
  tell(`Peers: [${names.join(", ")}]`);
  const role = `${peers.length} peers configured, starting as Follower`;
  tell(peers.length > 0 ? role : "No peers configured, starting as Leader");
  const node = await Node.start({ ...self, peers, cluster, electionTimeoutMs, heartbeatMs,
    directory: data ?? path.join("raft-data", self.name), machine: new KeyValueStore(),
    secret: readSecret(flags["secret-file"]),
    onEvent: narrator(self.name, [self.name, ...names], tell) });
  tell(`Server listening on ${host}:${port}`);
  for (const signal of ["SIGINT", "SIGTERM"] as const) process.on(signal, () => void node.stop());
  // Who started it for a while is gone, and so are its peers: it stops at once, told twice.
  process.on("disconnect", () => void [node.stop(), node.stop()]);
  await node.stopped;
  tell("Server stopped");
  return 0;
}

// ---------------------------------------- Three servers -----------------------------------------

/** Three names of this machine. The third is its own, if that means the machine itself. */
async function trioServers(): Promise<string[]> {
  const own = os.hostname();
  const { address } = await dns.lookup(own, 4).catch(() => ({ address: "" }));
  const third = address.startsWith("127.") ? own : "127.0.0.1";
  return ["127.0.0.1:48000", "localhost:48001", `${third}:48002`];
}

async function trio(flags: Flags): Promise<number> {
  const servers = await trioServers();
  const data = flags.data ?? mkdtempSync(path.join(os.tmpdir(), "raft-"));
  if (servers[2] === "127.0.0.1:48002") {
    console.log(
      `The name of this machine, ${os.hostname()}, is not a loopback address: the third ` +
        "server is 127.0.0.1:48002.",
    );
  }
  let [isStopping, isWhole] = [false, true];
  const children = servers.map((server) => {
    const [host = "", port = ""] = server.split(":");
    const peers = servers.filter((peer) => peer !== server).join(",");
    const command = [import.meta.path, "--host", host, "--port", port, "--peers", peers, "--data",
      path.join(data, server), "--cluster", flags.cluster, "--election-timeout",
      flags["election-timeout"], "--heartbeat", flags.heartbeat];
    // A server ends when this channel to its parent closes, however the parent dies.
    const child = Bun.spawn([process.execPath, ...command], {
      stdio: ["ignore", "inherit", "inherit"],
      ipc: () => {},
      onExit(_child, code, signal) {
        if (isStopping) return;
        isWhole = false;
        const again = `was killed. To start it again:\nbun ${command.join(" ")}\n`;
        const why = `ended with code ${code}. Is another 'bun cli.ts --test' running here?`;
        console.log(`\n${server} ${signal ? again : why}`);
      },
    });
    return { server, child };
  });
  console.log("Three servers on this machine:");
  for (const { server, child } of children) console.log(`  ${server} is process ${child.pid}`);
  console.log(
    "Talk to them from another shell: 'bun cli.ts put hello world', 'bun cli.ts get hello',",
  );
  console.log("'bun cli.ts status'. Kill one with 'kill -9'. Ctrl-C stops them all.\n");
  const stop = () => {
    isStopping = true;
    for (const { child } of children) child.disconnect();
  };
  for (const end of ["SIGINT", "SIGTERM", "SIGHUP", "disconnect"]) process.on(end, stop);
  await Promise.all(children.map(({ child }) => child.exited));
  // Who was started again by hand may still be using it.
  if (!flags.data && isWhole) rmSync(data, { recursive: true, force: true });
  else console.log(`The logs of the servers are kept in ${data}.`);
  return isStopping ? 0 : 1;
}

// ------------------------------------------- A client -------------------------------------------

/** How many words each command takes. */
const COMMANDS: Record<string, number> = { put: 2, get: 1, delete: 1, cas: 3, status: 0 };

async function ask(flags: Flags, [verb = "", ...words]: string[]): Promise<number> {
  const count = COMMANDS[verb];
  if (count === undefined) {
    const known = Object.keys(COMMANDS).join(", ");
    const see = "'bun cli.ts --help' explains them";
    throw new RaftError("usage", `There is no command "${verb}". There are ${known}: ${see}.`);
  }
  if (words.length !== count) {
    const line = HELP.split("\n").find((text) => text.includes(`cli.ts ${verb}`)) ?? "";
    const form = line.trim().split("  ")[0];
    throw new RaftError("usage",
      `"${verb}" came with ${words.length} of the ${count} words it takes. Write: ${form}`);
  }
  const servers = flags.peers === undefined ? await trioServers() : listOf(flags.peers);
  // Nobody wants to wait long to hear that a server is down.
  const longestMs = verb === "status" ? 1000 : Number.POSITIVE_INFINITY;
  const timeoutMs = Math.min(milliseconds(flags, "timeout"), longestMs);
  const secret = readSecret(flags["secret-file"]);
  const client = await Client.connect({ servers, cluster: flags.cluster, timeoutMs, secret });
  try {
    return verb === "status"
      ? await tellStatus(client, servers, flags.json)
      : await operate(client, verb, words.map((word) => Buffer.from(word)), flags.json);
  } finally {
    client.close();
  }
}

async function operate(client: Client, verb: string, words: Buffer[],
  json: boolean): Promise<number> {
  const store = new KeyValues(client);
  const [key = Buffer.alloc(0), first = Buffer.alloc(0), second = Buffer.alloc(0)] = words;
  if (verb === "get") {
    const value = await store.get(key);
    if (json) {
      console.log(JSON.stringify({ found: value !== undefined, value: value && text(value) }));
    } else if (value) process.stdout.write(process.stdout.isTTY ? `${text(value)}\n` : value);
    else console.error(`There is no value for "${key}".`);
    return value ? 0 : 1;
  }
  let done = true;
  if (verb === "put") await store.put(key, first);
  else if (verb === "delete") done = await store.delete(key);
  else done = await store.cas(key, first, second);
  const why = verb === "delete"
    ? `There was no value for "${key}".`
    : `"${key}" is not "${first}".`;
  if (json) console.log(JSON.stringify({ done }));
  else if (done) console.log("OK");
  else console.error(why);
  return done ? 0 : 1;
}

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();

async function tellStatus(client: Client, servers: string[], json: boolean): Promise<number> {
  const asked = servers.map((server) => parseServer(server).name);
  const answers = await Promise.all(
    asked.map((name) => client.inspect(name).catch(() => ({ name, role: "no answer" }))),
  );
  if (json) console.log(JSON.stringify(answers));
  else {
    const row = (cells: unknown[]) =>
      cells.map((cell, i) => String(cell).padEnd(i === 0 ? 24 : 11)).join("").trimEnd();
    console.log(row(["server", "role", "term", "last", "committed", "applied", "leader"]));
    for (const answer of answers) {
      const { name } = answer;
      const role = answer.role === "PreCandidate" ? "Follower" : answer.role;
      if (!("term" in answer)) console.log(row([name, role]));
      else {
        const { term, lastIndex, commitIndex, lastApplied, leader = "none" } = answer;
        console.log(row([name, role, term, lastIndex, commitIndex, lastApplied, leader]));
      }
    }
  }
  if (!answers.some((answer) => "term" in answer)) {
    console.error(
      "No server answers. 'bun cli.ts --test' starts three on this machine; for others, " +
        "are --peers and --cluster right?",
    );
  }
  return answers.some((answer) => answer.role === "Leader") ? 0 : 1;
}

// --------------------------------------------- Main ---------------------------------------------

async function main(): Promise<number> {
  const { values, positionals } = parse();
  if (values.help) console.log(HELP);
  else if (values.version) console.log(packageJson.version);
  else if (positionals[0] === "secret") console.log(randomBytes(32).toString("base64url"));
  else if (values.test) {
    const { host, port, peers, name } = values;
    if (positionals.length === 0 && !host && !port && !peers && !name) return trio(values);
    throw new RaftError("usage",
      "--test takes no command, and chooses --host, --port, --peers and " +
        "--name by itself.");
  } else if (positionals.length > 0) return ask(values, positionals);
  else return serve(values);
  return 0;
}

process.exitCode = await main().catch((error: Error & { code?: string }) => {
  const isUsage = error.code?.startsWith("ERR_PARSE_ARGS");
  // The library's advice on how to quote such words would be of no use here.
  const [what = ""] = error.message.split(/[.\n]/);
  console.error(isUsage ? `${what}. See 'bun cli.ts --help'.` : error.message);
  if (isUsage) return EXIT_CODES.usage;
  if (error instanceof RaftError) return EXIT_CODES[error.code];
  console.error(error.stack); // What nobody foresaw is told with all that is known.
  return 1;
});
process.exit();
