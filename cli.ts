#!/usr/bin/env bun
/**
 * The command line of raft.ts: a server, three of them at once, and a client of the key-value
 * store. Events become the story that people read; a command ends in a `Result`, which is printed
 * in one way, for people or as JSON, and becomes an exit code. What `status` says of a trouble is
 * computed from the servers' answers by a pure function.
 */
import { isUtf8 } from "node:buffer";
import { randomBytes } from "node:crypto";
import dns from "node:dns/promises";
import {
  existsSync,
  fchmodSync,
  fstatSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs, styleText } from "node:util";
import packageJson from "./package.json";
import {
  Client,
  clientKey,
  type ClientOptions,
  type Configuration,
  KeyValues,
  KeyValueStore,
  MAX_COMMAND_BYTES,
  Node,
  type NodeEvent,
  parseServer,
  RaftError,
  type RoleName,
  type Server,
  Storage,
  type Stuck,
  systemWorld,
  unpack,
  verbs,
  writeAddress,
} from "./raft.ts";

const HELP = `raft.ts: Raft in one file, with a replicated key-value store on top.

  bun cli.ts --test                start three servers on this machine
  bun cli.ts --host H --port P --peers H:P,H:P
                                   start one server; --peers are the others
  bun cli.ts put KEY VALUE         store a value
  bun cli.ts get KEY               read it, byte for byte
  bun cli.ts delete KEY            remove it
  bun cli.ts cas KEY OLD NEW       put NEW if the value is OLD
  bun cli.ts status                show the servers, and why something is wrong
  bun cli.ts transfer [NAME]       have the leader hand over, to this server
  bun cli.ts members list          show the members, and which have a vote
  bun cli.ts members add NAME=H:P  add a server that was started with --join, or
                                   correct the address of a member
  bun cli.ts members remove NAME   remove a server, which then stops
  bun cli.ts recover --data DIR --yes
                                   when the majority is gone for good: make one
                                   server a cluster of its own
  bun cli.ts secret > FILE         make a secret, for --secret-file
  bun cli.ts client-key > FILE     make the clients' key, from the secret

A last VALUE or NEW that is written - is read from standard input. Put -- before
words that begin with -, as in: put -- KEY -5

Servers:
  --host H --port P       where it listens: a name or an address of this
                          machine, as in ::1; 0.0.0.0 is all of them, and needs
                          a --name
  --name NAME             the name that its peers use (default: HOST:PORT)
  --join                  it is new: it waits for 'members add', and founds no
                          cluster of its own; --peers are some of the members
  --data DIR              where the log is (default: raft-data/NAME; for --test
                          a temporary one)
  --election-timeout MS   a server that hears no leader for this time, up to 1.5
                          times it, calls an election (default: 1000)
  --heartbeat MS          heartbeat interval of an idle leader (default: 100)
Clients:
  --timeout MS            how long to wait for an answer (default: 5000; status:
                          at most 1000)
  --client-key-file FILE  in place of the secret (or RAFT_CLIENT_KEY): this key
                          can use the store, but cannot speak as a server
  --force                 remove a member although no reachable majority is
                          left: nothing is committed until enough are back
  --base64                KEY, VALUE, OLD and NEW are written in base64, and so
                          can be any bytes
Both:
  --peers LIST            HOST:PORT or NAME=HOST:PORT, with commas between, IPv6
                          as [::1]:48000; clients need none while the servers of
                          --test run on this machine
  --secret-file FILE      what servers and clients of one cluster share (or
                          RAFT_SECRET; without any, servers keep to this
                          machine)
  --cluster NAME          what servers and clients of one cluster agree on
                          (default: raft)
  --json                  one line of JSON on standard output, errors too
                          (a server: one for each event)
  --help, --version

JSON: {"ok":true, ...} if the exit code is 0, else {"ok":false,"error":{"code",
  "message"}, ...}. get adds "value", null if it is not UTF-8, and "base64";
  secret adds "secret", client-key "clientKey", status "leader", "servers" and
  "troubles", members list "members". Codes: see below.

Exit codes:
  0  done
  1  a definite no: absent, different
  2  wrong usage: usage
  3  the disk failed a server: storage
  4  unknown whether it was done, or will be: outcomeUnknown, unexpected
  5  surely not done: timeout, refused, noLeader, network, ended; or its output
     could not be written: output`;

/** The last three are errors of programs that embed a server: no command ends with them. */
const EXIT_CODES = {
  done: 0,
  absent: 1,
  different: 1,
  usage: 2,
  storage: 3,
  outcomeUnknown: 4,
  unexpected: 4,
  timeout: 5,
  refused: 5,
  noLeader: 5,
  network: 5,
  ended: 5,
  output: 5,
  applied: 4,
  closed: 5,
  stopped: 5,
};

/** Returns whether a file of Linux about this process matches; undefined on other systems. */
function ofProcess(file: string, pattern: RegExp): boolean | undefined {
  const about = path.join("/proc/self", file);
  return existsSync(about) ? pattern.test(readFileSync(about, "latin1")) : undefined;
}

/** Where the source of a compiled program seems to be. */
const isCompiled = import.meta.path.startsWith("/$bunfs/");
/** The program as it was called: all texts say "bun cli.ts" for it. */
const PROGRAM = isCompiled ? process.argv0 : `bun ${path.relative("", import.meta.path)}`;
const nameProgram = (text: string) => text.replaceAll("bun cli.ts", () => PROGRAM);

/** How a command ends: what there is to say, for people and for programs, or why it failed. */
type Result = {
  text?: string | Uint8Array;
  json?: object;
  error?: { code: keyof typeof EXIT_CODES; message: string };
  /** The server whose log ends with this error. */
  server?: string;
};

const wrongUsage = (sentence: string) => new RaftError("usage", sentence);

// ------------------------------------------ The flags -------------------------------------------

const [words, mark] = [{ type: "string" }, { type: "boolean" }] as const;
const FOR_SERVERS = {
  host: words,
  port: words,
  name: words,
  join: mark,
  data: words,
  "election-timeout": words,
  heartbeat: words,
};
const FOR_CLIENTS = {
  timeout: words,
  "client-key-file": words,
  base64: mark,
  force: mark,
  yes: mark,
};
const FOR_BOTH = {
  peers: words,
  cluster: { ...words, default: "raft" },
  "secret-file": words,
  json: { ...mark, default: false },
  test: mark,
  help: { ...mark, short: "h" },
  version: mark,
};

const parse = () =>
  parseArgs({
    args: Bun.argv.slice(2),
    allowPositionals: true,
    options: { ...FOR_SERVERS, ...FOR_CLIENTS, ...FOR_BOTH },
  });
type Flags = ReturnType<typeof parse>["values"];

/** A flag that has no effect would make somebody believe that it has one. */
function refuseFlags(flags: Flags, refused: object, why: string): void {
  const found = Object.keys(flags).find((flag) => Object.hasOwn(refused, flag));
  if (found) throw wrongUsage(`--${found} ${why}. 'bun cli.ts --help' tells what is for whom.`);
}

const DEFAULT_MS = { "election-timeout": 1000, heartbeat: 100, timeout: 5000 };

function milliseconds(flags: Flags, flag: keyof typeof DEFAULT_MS): number {
  const value = Number(flags[flag] ?? DEFAULT_MS[flag]);
  if (Number.isInteger(value) && value >= 1 && value <= 3_600_000) return value;
  const range = "It takes whole milliseconds, from 1 to 3600000.";
  throw wrongUsage(`--${flag} cannot be "${flags[flag]}". ${range}`);
}

function listOf(peers: string | undefined): string[] {
  const list = (peers ?? "").split(",").map((peer) => peer.trim()).filter(Boolean);
  if (peers === undefined || list.length > 0) return list;
  throw wrongUsage("--peers is empty. Write HOST:PORT of the others, or leave it out.");
}

const SECRET_CHARACTERS = 16;

/** Reads a private file; without the flag, the environment. */
function readPrivate(flags: Flags, flag: "secret-file" | "client-key-file", variable: string):
  | string
  | undefined
{
  const file = flags[flag];
  const source = file === undefined ? variable : `--${flag} ${file}`;
  const wrong = (why: string, next: string) => wrongUsage(`${source} ${why}. ${next}`);
  // A client or a joining server has a cluster already; another secret would not help it.
  const isFounder = (flags.host ?? flags.test) && !flags.join;
  const make = isFounder ? `. Only for a new cluster: bun cli.ts secret > ${file ?? "FILE"}` : "";
  const copy = `Copy the cluster's own to here${make}.`;
  const text = file === undefined ? process.env[variable] : readFile(file, variable, wrong, copy);
  const secret = text?.trim();
  if (secret === "") throw wrong("is empty", copy);
  if (secret === undefined || secret.length >= SECRET_CHARACTERS) return secret;
  throw wrong(`has ${secret.length} characters, and needs at least ${SECRET_CHARACTERS}`, copy);
}

function readFile(
  file: string,
  variable: string,
  wrong: (why: string, next: string) => RaftError,
  copy: string,
): string {
  let bytes: Buffer;
  try {
    const stat = statSync(file, { throwIfNoEntry: false });
    if (!stat) throw wrong("is not there", copy);
    if (stat.mode & 0o077) {
      throw wrong(
        "can be read by others",
        `Forbid it: chmod 600 ${file}. Where that is `
          + `impossible, as on a read-only mount, set ${variable} to what it holds.`,
      );
    }
    bytes = readFileSync(file);
  } catch (error) {
    if (error instanceof RaftError) throw error;
    throw wrong("cannot be read", `${(error as Error).message}.`);
  }
  if (isUtf8(bytes)) return bytes.toString();
  throw wrong("holds bytes that are no text", copy);
}

const readSecret = (flags: Flags) => readPrivate(flags, "secret-file", "RAFT_SECRET");
const readClientKey = (flags: Flags) => readPrivate(flags, "client-key-file", "RAFT_CLIENT_KEY");

/** The secret of a server; none is "". With the clients' key it could not speak to its peers. */
function serverSecret(flags: Flags): string {
  const secret = readSecret(flags);
  if (secret === undefined && process.env["RAFT_CLIENT_KEY"] !== undefined) {
    throw wrongUsage(
      "RAFT_CLIENT_KEY is for clients: with it a server could not speak to its "
        + "peers. Give it the secret itself, with --secret-file.",
    );
  }
  return secret ?? "";
}

/** A client takes secret or key. What the command line says is meant for it, and counts first. */
function credentials(flags: Flags): { secret: string } | { clientKey: string } {
  const [hasSecret, hasKey] = [flags["secret-file"], flags["client-key-file"]];
  const either = "A client takes one of them: the key is made of the secret.";
  if (hasSecret && hasKey) {
    throw wrongUsage(`--secret-file and --client-key-file are both given. ${either}`);
  }
  const key = hasSecret ? undefined : readClientKey(flags);
  const secret = hasKey ? undefined : readSecret(flags);
  if (key && secret) throw wrongUsage(`RAFT_SECRET and RAFT_CLIENT_KEY are both set. ${either}`);
  return key === undefined ? { secret: secret ?? "" } : { clientKey: key };
}

/** If it goes to a file, nobody else may read that one. */
function tellPrivately(secret: string): string {
  if (fstatSync(1).isFile()) fchmodSync(1, 0o600);
  return secret;
}

function tellClientKey(flags: Flags): Result {
  const secret = readSecret(flags);
  if (!secret) {
    throw wrongUsage("The clients' key is made of the secret: give --secret-file, or RAFT_SECRET.");
  }
  const key = tellPrivately(clientKey(secret, flags.cluster));
  return { text: key, json: { clientKey: key } };
}

// ------------------------------------------ The story -------------------------------------------

const COLOURS = ["cyan", "yellow", "magenta", "green", "blue"] as const;
/** A terminal with fewer columns gets shorter lines. */
const LOG_COLUMNS = 120;
type Level = "INFO" | "WARNING" | "ERROR";
type Tell = (message: string, level?: Level) => void;

/** Returns what a server's log tells. */
function logEntry(server: string, message: string, level: Level) {
  const now = new Date();
  // Swedes write dates and times as ISO 8601 does.
  const time = `${now.toLocaleString("sv")},${String(now.getMilliseconds()).padStart(3, "0")}`;
  return { time, level, server, message: nameProgram(message) };
}

/** Returns a line of the log. In a narrow terminal it has only what differs from line to line. */
function logLine({ time, level, server, message }: ReturnType<typeof logEntry>): string {
  if (width() >= LOG_COLUMNS) return `${time} - ${level} - raft - ${server} - ${message}`;
  const clock = time.slice(time.indexOf(" ") + 1);
  const shown = level === "INFO" ? message : `${level}: ${message}`;
  return fold(`${clock} ${server} ${shown}`, clock.length + 1);
}

/** Writes the lines of one server; on a terminal, in a colour of its own. */
function teller({ name, port }: Server, isJson: boolean): Tell {
  const colour = COLOURS[port % COLOURS.length] ?? "cyan";
  const isColoured = process.stdout.isTTY && !process.env.NO_COLOR;
  return (message, level = "INFO") => {
    const entry = logEntry(name, message, level);
    const line = isJson ? JSON.stringify(entry) : logLine(entry);
    void write(`${isColoured ? styleText(colour, line) : line}\n`);
  };
}

/** What sentences about events mention. `given` are the members by the command line. */
type Known = { name: string; given: readonly string[]; members: readonly string[] };
type Sentences = {
  [T in NodeEvent["type"]]: (
    event: Extract<NodeEvent, { type: T }>,
    known: Known,
  ) => (string | false)[];
};

/** A pre-candidate only asks whether it could win: in the story it is still a follower. */
const called = (role: RoleName) => (role === "PreCandidate" ? "Follower" : role);

/** The words of an election. */
const STORY = {
  campaign: ({ transfer, silentMs }) => [
    transfer
      ? "The leader hands over to this server, switching to Candidate"
      : `No valid RPC received in the last ${Math.round(silentMs)} milliseconds, switching to `
        + "Candidate",
    "Starting vote...",
  ],
  voted: ({ candidate }) => [`Voting for ${candidate}`, `Voted for ${candidate}`],
  votes: ({ votes, elected }) => [
    `Received ${votes} votes`,
    elected && `Received ${votes} votes. Switching to Leader`,
  ],
  role: ({ from, to }) => [
    called(from) !== called(to) && `Switching state from ${called(from)} to ${called(to)}`,
  ],
  leader: ({ from = "None", to = "None" }, { name }) => [
    to !== "None" && to !== name && `New leader: ${to}`,
    `Old Leader: ${from}, new leader: ${to}`,
  ],
  committed: ({ commitIndex }) => [`Committed all entries up to ${commitIndex}`],
  members: ({ members }) => [`Members: ${describeMembers(members)}`],
  removed: (_, { name }) => [
    `${name} is no member any more, and stops. To add it again, start it with --join, and then `
    + "write 'bun cli.ts members add'",
  ],
  snapshot: ({ index, size, from }) => [
    `${from === undefined ? "Took a snapshot" : `Installed a snapshot from ${from}`} at index `
    + `${index}, ${size} bytes`,
  ],
} satisfies Partial<Sentences>;

/** What to look at, and what to do about it. */
const WARNINGS = {
  preVoteLost: ({ votes, needed }) => [
    `No leader, and only ${votes} of the ${needed} votes needed to replace it: staying Follower `
    + "and asking on",
  ],
  unresolved: ({ reason, server: { host, name } }) => [
    `Cannot find ${name} at ${host}: ${reason}. Retrying every second. `
    + (isUnknown(reason)
      ? `Check the spelling: 'getent hosts ${host}' must find it`
      : "Give this server a --host that reaches it"),
  ],
  foreign: ({ server, members: theirs }, { members }) => [
    theirs === listed(members)
      ? `${server} is of another cluster with the same members, and we refuse each other. Give `
        + "all the same --cluster"
      : `${server} was founded with other members, and we refuse each other: it with ${theirs}, `
        + `we with ${
          listed(members)
        }. Start the one that is wrong again, with right --peers and an `
        + "empty --data",
  ],
  unauthenticated: ({ address }) => [
    `Rejected a datagram from ${writeAddress(address)}: wrong secret or cluster. If it is a `
    + "member, give it the same --secret-file and --cluster",
  ],
  twice: ({ server, address, other }) => [
    `Two servers run under the name ${server}: one at ${writeAddress(other)}, and one at `
    + `${writeAddress(address)} that has an earlier start or a disk that was replaced, and is `
    + "not answered. Stop the one that is wrong. If there is only one, start it with an empty "
    + "directory",
  ],
  lostDisk: ({ server }) => [
    `${server} has lost its disk, or what was on it. It gets the log again from scratch, and has `
    + "no vote until then",
  ],
  otherFounding: ({ server }) => [
    `Two clusters have this name: ${server} is of another founding, and nothing is taken from `
    + "it. To keep what is here, stop the servers of the other one, keep their directories aside, "
    + "and run 'bun cli.ts recover' here; or to join them, start this server with an empty --data",
  ],
  stuck: (event) => [whyStuck(event)],
  recovered: ({ cutBytes }, { name, given, members }) => {
    const strangers = given.filter((other) => !members.includes(other));
    return [
      !members.includes(name)
      && `${name} is no member yet, or no more: it waits for 'bun cli.ts members add'`,
      members.length > 0 && strangers.length > 0
      && `--peers lists ${listed(strangers)}, by the log no member: to add one, write 'bun cli.ts `
        + "members add NAME=HOST:PORT'. --peers only says where to look for the members",
      cutBytes > 0 && `Cut ${cutBytes} bytes of an unfinished write off the log, into log.cut`,
    ];
  },
} satisfies Partial<Sentences>;

/** Returns what tells events. Of some, only the first under each leader is worth a word. */
export function narrator(
  name: string,
  given: readonly string[],
  tell: Tell,
): (event: NodeEvent) => void {
  const all: Sentences = { ...STORY, ...WARNINGS };
  const known: Known = { name, given, members: given };
  const told = new Set<string>();
  return (event) => {
    const { type } = event;
    if (type === "leader") told.clear();
    if (type === "recovered" || type === "members") {
      known.members = event.members.map((member) => member.name);
    }
    // A server that is alone campaigns without having missed a leader.
    const isAlone = known.members.length === 1 && (type === "campaign" || type === "role");
    if (isAlone || told.has(type)) return;
    if (type === "preVoteLost" || type === "committed") told.add(type);
    const sentences = all[type] as (event: NodeEvent, known: Known) => (string | false)[];
    for (const sentence of sentences(event, known)) {
      if (sentence !== false) tell(sentence, type in WARNINGS ? "WARNING" : "INFO");
    }
  };
}

const isUnknown = (reason: string) => /ENOTFOUND|EAI_AGAIN/.test(reason);
const listed = (members: readonly string[]) => members.toSorted().join(", ");
const describeMembers = (members: Configuration) =>
  members.map(({ name, votes }) => `${name}${votes ? "" : " (without a vote)"}`).join(", ");

/** Only where names resolve to shows that two of them are one server's. Names may change yet. */
async function warnOfTwins(servers: Server[], tell: Tell): Promise<void> {
  const found = new Map<string, string>();
  for (const { name, host, port } of servers) {
    const address = await systemWorld.datagrams.resolve(host).catch(() => name);
    const at = writeAddress({ host: address, port });
    const twin = found.get(at);
    const both = `${twin} and ${name} are two names for one server, ${at}`;
    if (twin) tell(`${both}: it is counted twice, and votes once. List it once`, "WARNING");
    found.set(at, name);
  }
}

const isLoopback = (address: string) => /^(127\.|::1$)/.test(address);

/**
 * Returns a check of where other servers are. It warns, once, if this server listens on a loopback
 * address and another one is elsewhere. Names may resolve later, and members may change.
 */
function loopbackCheck(self: Server, own: string, tell: Tell) {
  const interfaces = Object.values(os.networkInterfaces()).flatMap((list) => list ?? []);
  const isHere = (found: string) =>
    isLoopback(found) || interfaces.some(({ address }) => address === found);
  let isDone = !isLoopback(own);
  return async (servers: readonly Server[]) => {
    for (const { name, host } of servers) {
      const address = isDone ? own : await systemWorld.datagrams.resolve(host).catch(() => own);
      if (isDone || isHere(address)) continue;
      isDone = true;
      const is = self.host === own ? "is" : `is ${own},`;
      tell(
        `${self.host} ${is} a loopback address, which reaches this machine only, and not `
          + `${name} at ${address}. Give --host an address of this machine in that network, or a `
          + `name that resolves to one ('getent hosts ${self.host}')`,
        "WARNING",
      );
    }
  };
}

// ------------------------------------------ One server ------------------------------------------

/** The server that the flags describe, by the name that its peers use. */
function readSelf({ host, port, name }: Flags): Server {
  if (!host || !port) {
    const see = "'bun cli.ts --test' starts three servers, 'bun cli.ts --help' tells the rest";
    const missing = host ? "--port" : port ? "--host" : "--host and --port";
    throw wrongUsage(`A server needs ${missing}, or a client a command: ${see}.`);
  }
  if (!/^\d+$/.test(port) || Number(port) < 1 || Number(port) > 65_535) {
    throw wrongUsage(`--port cannot be "${port}". It takes a number from 1 to 65535.`);
  }
  if (name !== undefined && /^$|[=,\s]/.test(name)) {
    throw wrongUsage(
      `--name cannot be "${name}". Peers must be able to write it: no space, =, or `
        + "comma.",
    );
  }
  const bare = host.replace(/^\[(.*)\]$/, "$1");
  const self = parseServer(writeAddress({ host: bare, port: Number(port) }));
  return { ...self, name: name ?? self.name };
}

const DATA = "raft-data";

/**
 * Refuses to start a second server beside the data of one with the same port that does not run:
 * most likely it is the same server, and its machine has a new address.
 */
function refuseSecondIdentity(self: Server, peers: readonly string[], cluster: string): void {
  const directories = existsSync(DATA) ? readdirSync(DATA) : [];
  if (directories.includes(self.name)) return;
  for (const directory of directories) {
    if (!directory.endsWith(`:${self.port}`) || peers.includes(directory)) continue;
    const found = identityIn(path.join(DATA, directory));
    if (found?.cluster !== cluster) continue;
    throw wrongUsage(
      `${path.join(DATA, directory)} holds the data of the server ${found.name} `
        + `of the cluster ${cluster}, which does not run. Without --name this server is called `
        + `${self.name}, after its --host, and would be another one. If it is that server at a new `
        + `address, add --name ${found.name}, and write peers that have moved too as `
        + "NAME=HOST:PORT. If it is another server, add --data DIR.",
    );
  }
}

/** Returns whose data a directory holds; undefined if it is in use, or holds none. */
function identityIn(directory: string): Storage["identity"] | undefined {
  try {
    const storage = new Storage(systemWorld.files, directory, undefined, systemWorld.random);
    storage.close();
    return storage.identity;
  } catch {
    return undefined;
  }
}

async function serve(flags: Flags): Promise<Result> {
  const self = readSelf(flags);
  const peers = listOf(flags.peers);
  const servers = peers.map(parseServer);
  const names = servers.map((server) => server.name);
  const [electionTimeoutMs, heartbeatMs] = [
    milliseconds(flags, "election-timeout"),
    milliseconds(flags, "heartbeat"),
  ];
  const secret = serverSecret(flags);
  if (!flags.data && !flags.name) refuseSecondIdentity(self, names, flags.cluster);
  const tell = teller(self, flags.json);
  tell("Starting server...");
  tell(`Peers: [${names.join(", ")}]`);
  const role = `${peers.length} peers configured, starting as Follower`;
  if (flags.join) tell("Joining a cluster, starting as Follower without a vote");
  else tell(peers.length > 0 ? role : "No peers configured, starting as Leader");
  const narrate = narrator(self.name, [self.name, ...names], tell);
  let checkPlaces: ReturnType<typeof loopbackCheck> = async () => {};
  const onEvent = (event: NodeEvent) => {
    narrate(event);
    if (event.type === "preVoteLost") void checkPlaces(servers);
    if (event.type !== "members") return;
    const placed = event.members.filter(({ address }) => address !== "");
    void checkPlaces(placed.map(({ name, address }) => parseServer(`${name}=${address}`)));
  };
  const options = {
    ...self,
    peers,
    join: flags.join ?? false,
    cluster: flags.cluster,
    secret,
    electionTimeoutMs,
    heartbeatMs,
    directory: flags.data ?? path.join(DATA, self.name),
    machine: process.env["RAFT_TEST"] === undefined ? new KeyValueStore() : new ToldStore(tell),
    onEvent,
  };
  const run = async () => {
    const node = await Node.start(options);
    onStop(() => void node.stop());
    const own = await systemWorld.datagrams.resolve(self.host);
    tell(`Server listening on ${writeAddress(self)}${own === self.host ? "" : ` (${own})`}`);
    void warnOfTwins([self, ...servers], tell);
    checkPlaces = loopbackCheck(self, own, tell);
    void checkPlaces(servers);
    // The parent process is gone, and so are the peers: stop at once, by the second call.
    process.on("disconnect", () => void [node.stop(), node.stop()]);
    await node.stopped;
    tell("Server stopped");
    return {};
  };
  return await run().catch((error) => ({ ...explain(error), server: self.name }));
}

/** The store of `--test`: each server tells of the first commands that it applies. */
class ToldStore extends KeyValueStore {
  private untold = 20;

  constructor(private readonly tell: Tell) {
    super();
  }

  override apply(command: Uint8Array): Uint8Array {
    const key = Buffer.from(unpack(command)[0] ?? "", "latin1").toString();
    this.untold -= 1;
    if (this.untold > 0) this.tell(`Applied ${verbs[command[0] ?? 0]} ${JSON.stringify(key)}`);
    if (this.untold === 0) this.tell("Applied another command. The next ones are not told");
    return super.apply(command);
  }
}

/** A server outlives its terminal only if it was started so, by nohup. */
function onStop(stop: () => void): void {
  const hangsUp = ofProcess("status", /^SigIgn:.*[02468ace]$/m);
  for (const signal of ["SIGINT", "SIGTERM", ...(hangsUp ? ["SIGHUP"] : [])]) {
    process.on(signal, stop);
  }
}

// ---------------------------------------- Three servers -----------------------------------------

/** Three names of this machine. The third is its own, if that means the machine itself. */
async function trioServers(): Promise<string[]> {
  const own = os.hostname();
  const { address } = await dns.lookup(own, 4).catch(() => ({ address: "" }));
  const third = address.startsWith("127.") ? own : "127.0.0.1";
  return ["127.0.0.1:48000", "localhost:48001", `${third}:48002`];
}

async function trio(flags: Flags): Promise<Result> {
  serverSecret(flags); // What is wrong with it is told once, not three times.
  const servers = await trioServers();
  for (const server of servers) await checkFree(parseServer(server));
  const data = flags.data ?? mkdtempSync(path.join(os.tmpdir(), "raft-"));
  let [isStopping, isWhole] = [false, true];
  const children = servers.map((server) => {
    const [host = "", port = ""] = server.split(":");
    const peers = servers.filter((peer) => peer !== server).join(",");
    const command = [
      "--host",
      host,
      "--port",
      port,
      "--peers",
      peers,
      "--data",
      path.join(data, server),
      "--cluster",
      flags.cluster,
      ...(["election-timeout", "heartbeat", "secret-file"] as const).flatMap((flag) =>
        flags[flag] === undefined ? [] : [`--${flag}`, flags[flag]]
      ),
    ];
    // A server ends when this channel to its parent closes, however the parent dies.
    const script = isCompiled ? [] : [import.meta.path];
    const child = Bun.spawn([process.execPath, ...script, ...command], {
      argv0: process.argv0,
      env: { ...process.env, RAFT_TEST: "1" },
      stdio: ["ignore", "inherit", "inherit"],
      ipc: () => {},
      onExit(_child, code, signal) {
        if (isStopping) return;
        isWhole = false;
        const again = `was killed. To start it again:\n${PROGRAM} ${command.join(" ")}\n`;
        void write(`\n${server} ${signal ? again : `ended with code ${code}.\n`}`);
      },
    });
    return { server, child };
  });
  say("Three servers on this machine:");
  for (const { server, child } of children) say(`  ${server} is process ${child.pid}`);
  say("Talk to them from another shell: 'bun cli.ts put hello world',");
  say("'bun cli.ts get hello', 'bun cli.ts status'.");
  say("Kill one with 'kill -9'. Ctrl-C stops them all.\n");
  const stop = () => {
    isStopping = true;
    for (const { child } of children) child.disconnect();
  };
  onStop(stop);
  process.on("disconnect", stop);
  await Promise.all(children.map(({ child }) => child.exited));
  // Who was started again by hand may still be using it.
  if (!flags.data && isWhole) rmSync(data, { recursive: true, force: true });
  else say(`The logs of the servers are kept in ${data}.`);
  if (isStopping) return {};
  return {
    error: { code: "ended", message: "All three servers have ended; each said why, above." },
  };
}

/** Another trio would not say why it cannot start in words that fit. */
async function checkFree(at: Server): Promise<void> {
  const socket = await systemWorld.datagrams.bind(at, () => {}).catch((error: RaftError) => {
    if (!error.message.includes("another process has that port")) throw error;
    throw new RaftError(
      "network",
      `Cannot listen on port ${at.port}: another process has it, most `
        + "likely another 'bun cli.ts --test'. Use its servers, or stop it first.",
    );
  });
  socket.close();
}

// --------------------------------- When the majority is gone -----------------------------------

/** Without `--yes` it only tells what would be left, and what not. */
function recover({ data, yes }: Flags): Result {
  if (data === undefined) {
    throw wrongUsage("recover needs --data DIR, of a server that has stopped.");
  }
  const log = statSync(path.join(data, "log"), { throwIfNoEntry: false });
  if (!log) throw wrongUsage(`There is no log in ${data}. Take the --data of a server.`);
  const storage = new Storage(systemWorld.files, data, undefined, systemWorld.random);
  try {
    const { identity: { name, cluster }, entries, base, hardState: { currentTerm: term } } =
      storage;
    const { index, term: lastTerm } = entries.at(-1) ?? base;
    const writtenAt = log.mtime.toISOString();
    if (yes) storage.formNewCluster();
    const found = { server: name, cluster, term, lastIndex: index, lastTerm, writtenAt };
    const what = `${data} has server ${name} of cluster ${cluster}, in term ${term}. Its log ends `
      + `with entry ${index} of term ${lastTerm}, and was last written at ${writtenAt}.`;
    const done = `${what} It is a cluster of its own now: start it without --peers, and let new `
      + "servers join. Those who were members before are refused, and join with an empty --data.";
    if (yes) return { text: done, json: found };
    const message = `${what} With --yes it becomes a cluster of its own. What the others had `
      + "acknowledged behind that entry is lost; what was never acknowledged may be there. If any "
      + "other server is left, take the one whose log ends last. Nothing was done.";
    return { error: { code: "usage", message }, json: found };
  } finally {
    storage.close();
  }
}

// ------------------------------------------- A client -------------------------------------------

/** The words that each command takes. */
const COMMANDS: Record<string, string> = {
  put: "KEY VALUE",
  get: "KEY",
  delete: "KEY",
  cas: "KEY OLD NEW",
  status: "",
  transfer: "[NAME]",
  "members list": "",
  "members add": "NAME=HOST:PORT",
  "members remove": "NAME",
  recover: "",
  secret: "",
  "client-key": "",
};

async function command(flags: Flags, positionals: string[]): Promise<Result> {
  const length = positionals[0] === "members" ? 2 : 1;
  const [verb, words] = [positionals.slice(0, length).join(" "), positionals.slice(length)];
  const form = Object.hasOwn(COMMANDS, verb) ? COMMANDS[verb] : undefined;
  if (form === undefined) {
    const known = Object.keys(COMMANDS).join(", ");
    throw wrongUsage(
      `There is no command "${verb}". There are ${known}: 'bun cli.ts --help' `
        + "explains them.",
    );
  }
  const count = form.split(" ").filter(Boolean).length;
  const isOptional = form.startsWith("[") && words.length === 0;
  if (words.length !== count && !isOptional) {
    throw wrongUsage(
      `Wrong number of words for "${verb}": ${words.length} instead of ${count}. `
        + `Write, with quotes around spaces: bun cli.ts ${`${verb} ${form}`.trim()}`,
    );
  }
  if (verb === "recover") return recover(flags);
  refuseFlags(flags, FOR_SERVERS, `is for servers, and "${verb}" is none; clients take --peers`);
  if (flags.force && verb !== "members remove") {
    throw wrongUsage(`--force is for "members remove", and "${verb}" needs none.`);
  }
  if (flags.yes) throw wrongUsage(`--yes is for "recover", and "${verb}" needs none.`);
  if (verb === "client-key") return tellClientKey(flags);
  if (verb === "secret") {
    const secret = tellPrivately(randomBytes(32).toString("base64url"));
    return { text: secret, json: { secret } };
  }
  return await ask(flags, verb, words);
}

async function ask(flags: Flags, verb: string, words: string[]): Promise<Result> {
  const servers = flags.peers === undefined ? await trioServers() : listOf(flags.peers);
  const timeoutMs = milliseconds(flags, "timeout");
  const options = { cluster: flags.cluster, timeoutMs, ...credentials(flags) };
  // A server that is down does not answer later either.
  const look = () => inspectAll(servers, { ...options, timeoutMs: Math.min(timeoutMs, 1000) });
  if (verb === "status") return reportStatus(await look());
  if (verb === "members list") return listMembers(await look());
  if (verb === "members remove") {
    const { members } = leaderOf(await look()) ?? {};
    if (members?.every(({ name }) => name !== words[0])) {
      const names = listed(members.map(({ name }) => name));
      const message = `${words[0]} is no member. The members are ${names}.`;
      return { error: { code: "absent", message } };
    }
  }
  if (verb.startsWith("members ")) return await changeMembers(flags, verb, words, servers, options);
  if (verb === "transfer") return await transfer(words[0], servers, options);
  const bytes = await Promise.all(
    words.map((word, i) =>
      word === "-" && i > 0 && i === words.length - 1 ? readInput() : toBytes(word, flags.base64)
    ),
  );
  if (bytes[0]?.length === 0) {
    throw wrongUsage("The key is empty. Write one, or if a shell variable holds it, set that.");
  }
  await using client = await Client.connect({ servers, ...options });
  return await operate(new KeyValues(client), verb, bytes, words);
}

async function changeMembers(
  { force = false }: Flags,
  verb: string,
  [word = ""]: string[],
  servers: string[],
  options: Omit<ClientOptions, "servers">,
): Promise<Result> {
  const adds = verb === "members add";
  const { name, ...address } = adds ? parseServer(word) : { name: word, host: "", port: 0 };
  await using client = await Client.connect({ servers, ...options });
  await client.changeMembers(name, adds ? writeAddress(address) : "", force);
  const next =
    "If it has no vote yet, it gets one once it runs and has the log: see 'members list'";
  const added = `${name} is a member, at ${writeAddress(address)}. ${next}.`;
  return { text: adds ? added : `${name} is no member.` };
}

async function transfer(
  heir: string | undefined,
  servers: string[],
  options: Omit<ClientOptions, "servers">,
): Promise<Result> {
  await using client = await Client.connect({ servers, ...options });
  const answers = servers.map((server) => inspectOne(client, server));
  // The first server that knows the leader is enough, because others may be down.
  const leaders = answers.map(async (answer) => {
    const { leader } = (await answer).status ?? {};
    return leader ?? Promise.reject(answer);
  });
  const leader = await Promise.any(leaders).catch(() => undefined);
  if (leader === undefined) return noLeader(await Promise.all(answers));
  const next = heir === leader ? leader : await client.transfer(leader, heir);
  return { text: `${next} leads.`, json: { leader: next } };
}

const noLeader = (answers: Answer[]): Result => ({
  error: { code: "noLeader", message: troublesOf(answers)[0] ?? "" },
});

/** As the leader knows them: with it, a change is in force first. */
function listMembers(answers: Answer[]): Result {
  const { members } = leaderOf(answers) ?? {};
  if (!members) return noLeader(answers);
  const rows = members.map((
    { name, address, votes },
  ) => [name, address || "-", votes ? "" : "without a vote yet"]);
  return { text: align(["member", "address", ""], rows).join("\n"), json: { members } };
}

/** What a shell hands over as a word, this program sees as text: other bytes would be replaced. */
function toBytes(word: string, base64 = false): Buffer {
  if (base64) {
    const bytes = Buffer.from(word, "base64");
    if (bytes.toString("base64") === word) return bytes;
    throw wrongUsage(`"${word}" is not base64. Without --base64, words are taken as they are.`);
  }
  if (!word.includes("\uFFFD")) return Buffer.from(word);
  throw wrongUsage(
    `"${word}" has bytes that are not UTF-8, which would not arrive as they are. `
      + "Write the words with --base64, or the value to standard input.",
  );
}

async function readInput(): Promise<Buffer> {
  const [chunks, limit]: [Uint8Array[], number] = [[], MAX_COMMAND_BYTES];
  let size = 0;
  for await (const chunk of Bun.stdin.stream()) {
    chunks.push(chunk);
    size += chunk.length;
    if (size <= limit) continue;
    throw new RaftError(
      "refused",
      `Standard input has more than ${limit} bytes, which is all that a datagram has room for. `
        + "Nothing was sent; split it.",
    );
  }
  return Buffer.concat(chunks);
}

async function operate(
  store: KeyValues,
  verb: string,
  bytes: Buffer[],
  words: string[],
): Promise<Result> {
  const [key = Buffer.alloc(0), first = Buffer.alloc(0), second = Buffer.alloc(0)] = bytes;
  const done: Result = { text: "OK" };
  const absent: Result = {
    error: { code: "absent", message: `There is no value for "${words[0]}".` },
  };
  if (verb === "put") {
    await store.put(key, first);
    return done;
  }
  if (verb === "delete") return (await store.delete(key)) ? done : absent;
  if (verb === "cas") {
    const message = `The value of "${words[0]}" is not "${words[1]}", and stays as it is.`;
    const isDone = await store.cas(key, first, second);
    return isDone ? done : { error: { code: "different", message } };
  }
  const value = await store.get(key);
  if (value === undefined) return absent;
  const buffer = Buffer.from(value);
  const [text, base64] = [isUtf8(buffer) ? buffer.toString() : null, buffer.toString("base64")];
  return { text: buffer, json: { value: text, base64 } };
}

// -------------------------------------- What `status` says --------------------------------------

export type Status = Awaited<ReturnType<Client["inspect"]>>;
/** What a server says of itself; or else, in words, why it may have said nothing. */
export type Answer = { name: string; status?: Status; silence?: string };
type Peer = Status["peers"][number];

/** Asks all servers that are listed, and then those that these know. */
async function inspectAll(
  servers: string[],
  options: Omit<ClientOptions, "servers">,
): Promise<Answer[]> {
  const answers = await inspect(servers, options);
  const known = new Set(answers.map(({ name }) => name));
  const others = new Map(
    answers.flatMap(({ status }) => status?.peers ?? [])
      .filter(({ name, address }) => !known.has(name) && address !== "")
      .map(({ name, address }) => [name, `${name}=${address}`]),
  );
  const more = others.size === 0 ? [] : await inspect([...others.values()], options);
  const all = [...answers, ...more];
  const leader = leaderOf(all);
  const isAhead = ({ status }: Answer) => leader && status && status.commitIndex > leader.lastIndex;
  if (!all.some(isAhead)) return all;
  // The leader may only have answered earlier than its followers: now it answers later.
  const later = (await inspect([...servers, ...others.values()], options)).find(({ name }) =>
    name === leader?.name
  );
  return all.map((answer) => (answer.name === later?.name ? later : answer));
}

async function inspect(
  servers: string[],
  options: Omit<ClientOptions, "servers">,
): Promise<Answer[]> {
  await using client = await Client.connect({ servers, ...options });
  const answers = await Promise.all(servers.map((server) => inspectOne(client, server)));
  // A server may be listed by two of its names.
  return [...new Map(answers.map((answer) => [answer.name, answer])).values()];
}

async function inspectOne(client: Client, server: string): Promise<Answer> {
  const { name } = parseServer(server);
  const status = await client.inspect(name).catch(() => undefined);
  return status ? { name: status.name, status } : { name, silence: client.describe(name) };
}

/** A leader of an earlier term may not know yet that it is deposed. */
function leaderOf(answers: readonly Answer[]): Status | undefined {
  const statuses = answers.flatMap(({ status }) => status ?? []);
  const term = Math.max(...statuses.map((status) => status.term));
  // Two clusters that were founded apart may have a leader each in one term.
  return statuses.filter((status) => status.role === "Leader" && status.term === term)
    .toSorted((a, b) => b.lastIndex - a.lastIndex)[0];
}

/** A line of the table: of itself a server knows most, and of its peers a leader. */
function describeServer({ name, status }: Answer, answers: readonly Answer[]) {
  const leader = leaderOf(answers);
  const views = answers.flatMap(({ status: other }) =>
    other?.peers.filter((peer) => peer.name === name) ?? []
  );
  const latest = views.toSorted((a, b) => (a.heardMs ?? Infinity) - (b.heardMs ?? Infinity))[0];
  const view = leader?.peers.find((peer) => peer.name === name) ?? latest;
  const has = leader?.name === name ? leader.lastIndex : view?.matchIndex;
  const lag = leader && typeof has === "number" ? leader.lastIndex - has : null;
  const own: Partial<Status> = status ?? {};
  const { term = null, lastIndex = null, commitIndex = null, logBytes = null } = own;
  const cluster = leader?.id === status?.id ? leader : status;
  const isLearner = status && !cluster?.members.some((m) => m.name === name && m.votes);
  const called = own.role === "PreCandidate" ? "Follower" : own.role ?? null;
  return {
    name,
    role: isLearner && called === "Follower" ? "Learner" : called,
    term,
    lastIndex,
    commitIndex,
    lag,
    heardMs: view?.heardMs ?? null,
    roundTripMs: view?.roundTripMs ?? null,
    address: views.find(({ address }) => address !== "")?.address ?? null,
    logBytes,
  };
}

const HEADINGS = [
  "server",
  "role",
  "term",
  "last",
  "committed",
  "lag",
  "heard",
  "round trip",
  "log",
  "address",
];

function reportStatus(answers: Answer[]): Result {
  const servers = answers.map((answer) => describeServer(answer, answers));
  const rows = servers.map((server) =>
    [
      server.name,
      server.role ?? "no answer",
      server.term,
      server.lastIndex,
      server.commitIndex,
      server.lag,
      server.heardMs === null ? null : duration(server.heardMs),
      server.roundTripMs === null ? null : duration(server.roundTripMs),
      server.logBytes === null ? null : size(server.logBytes),
      server.address,
    ]
      .map((cell) => String(cell ?? "-"))
  );
  const all = troublesOf(answers).map(nameProgram);
  const leader = leaderOf(answers)?.name ?? null;
  const json = { leader, servers, troubles: all };
  const [first = "", ...others] = all;
  const error = { code: "noLeader", message: first } as const;
  const told = leader === null ? others : all;
  const table = servers.some(({ role }) => role) ? [align(HEADINGS, rows).join("\n")] : [];
  const sentences = told.length > 0 ? [told.map((sentence) => fold(sentence)).join("\n")] : [];
  const parts = [...table, ...sentences];
  const text = parts.length > 0 ? { text: parts.join("\n\n") } : {};
  return leader === null ? { ...text, json, error } : { ...text, json };
}

function whyStuck({ server, index, bytes }: Stuck): string {
  return `Entry ${index}, or the snapshot in its place, does not arrive at ${server} in ${bytes} `
    + "bytes, though smaller datagrams do: the path loses large ones. Let IP fragments through "
    + "(firewalls, tunnels), or keep commands below 1,200 bytes";
}

/**
 * Makes each column as wide as its widest cell; numbers to the right, words to the left. Columns
 * for which a terminal has no room are put below the others, again beside the first one.
 */
function align(headings: string[], rows: string[][]): string[] {
  const all = [headings, ...rows];
  const widths = headings.map((_, i) => Math.max(...all.map((row) => row[i]?.length ?? 0)));
  const isWord = (i: number) => i < 2 || i === headings.length - 1;
  const tables: number[][] = [[]];
  let room = width();
  for (const [i, needed] of widths.entries()) {
    if (needed > room) {
      tables.push([0]);
      room = width() - (widths[0] ?? 0) - 2;
    }
    tables.at(-1)?.push(i);
    room -= needed + 2;
  }
  const pad = (cell: string, i: number) =>
    isWord(i) ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0);
  return tables.flatMap((
    columns,
    i,
  ) => [
    ...(i === 0 ? [] : [""]),
    ...all.map((row) => columns.map((i) => pad(row[i] ?? "", i)).join("  ").trimEnd()),
  ]);
}

function duration(ms: number): string {
  if (ms < 1000) return `${ms} ms`;
  if (ms < 120_000) return `${Math.round(ms / 1000)} s`;
  return ms < 7_200_000 ? `${Math.round(ms / 60_000)} min` : `${Math.round(ms / 3_600_000)} h`;
}

function size(bytes: number): string {
  if (bytes < 1000) return `${bytes} B`;
  return bytes < 1e6 ? `${(bytes / 1000).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(1)} MB`;
}

/** How far a server may be behind before it is worth a word: it is never quite up to date. */
const LAG = 1000;
const REFUSED = ["unauthenticated", "foreign"];
const START = " Start those that do not run, and let UDP through to all.";

/**
 * What is wrong, and why, as far as the answers tell: sentences for people, the gravest first. If
 * there is no leader the first one says why.
 */
export function troublesOf(answers: readonly Answer[]): string[] {
  const statuses = answers.flatMap(({ status }) => status ?? []);
  if (statuses.length === 0) {
    const asked = answers.map(({ name, silence }) => silence ?? name).join(", ");
    return [
      `No server answers: ${asked}. Do they run ('bun cli.ts --test' starts three here), and `
      + "are --peers, --cluster and the secret right? Who has them wrong gets no answer.",
    ];
  }
  const leader = leaderOf(answers);
  const first = leader ? whyNotCommitted(leader) : [whyNoLeader(answers)];
  const ahead = statuses.filter(({ id, commitIndex }) =>
    leader && id === leader.id && commitIndex > leader.lastIndex
  ).map(({ name, commitIndex }) =>
    `${name} has committed entries up to ${commitIndex}, but the log of its leader `
    + `${leader?.name} ends with ${leader?.lastIndex}: disks of a majority were lost, or put back `
    + "from an older copy. Stop all servers, keep their directories aside, and run 'bun cli.ts "
    + `recover --data DIR' with that of ${name}.`
  );
  const followers = leader ? leader.peers.flatMap((peer) => whyLags(leader, peer, answers)) : [];
  const strangers = statuses.filter(({ id }) => leader && id !== leader.id).map(({ name }) =>
    `${name} is not of the cluster of ${leader?.name}, and both refuse each other. If it should `
    + "be, start it with --join and an empty --data, and write 'bun cli.ts members add'."
  );
  return [
    ...whyTwoClusters(statuses),
    ...ahead,
    ...first,
    ...followers,
    ...strangers,
    ...statuses.toSorted((a, b) => a.name.localeCompare(b.name)).flatMap(whatWasDropped),
  ];
}

/** Names the servers of each founding, if there are several. Only a fixed founding counts. */
function whyTwoClusters(statuses: readonly Status[]): string[] {
  const seen = statuses.flatMap(({ peers }) => peers).filter(({ founding }) => founding)
    .toSorted((a, b) => (b.heardMs ?? Infinity) - (a.heardMs ?? Infinity));
  const own = statuses.map(({ name, founding, commitIndex }) => ({
    name,
    founding: commitIndex > 0 ? founding : 0,
  }));
  const byName = new Map([...seen, ...own].map(({ name, founding }) => [name, founding]));
  const names = [...byName.keys()].filter((name) => byName.get(name)).toSorted();
  const clusters = [...Map.groupBy(names, (name) => byName.get(name)).values()];
  if (clusters.length < 2) return [];
  return [
    "Two clusters have this name, and take nothing from each other: one of "
    + `${clusters.map((cluster) => cluster.join(", ")).join("; one of ")}. Keep one: stop the `
    + "servers of the other, keep their directories aside, and if no majority is left, run 'bun "
    + "cli.ts recover --data DIR' on the server whose log ends last. The others join it with an "
    + "empty --data.",
  ];
}

function whatWasDropped({ name, dropped }: Status): string[] {
  const count = REFUSED.reduce((sum, reason) => sum + (dropped[reason] ?? 0), 0);
  if (count === 0) return [];
  return [
    `${name} has dropped datagrams of another secret or cluster (${count}): the WARNINGs there `
    + "tell where from.",
  ];
}

/** Of the servers that answer, the one that should be elected: who asks for votes is next to it. */
function whyNoLeader(answers: readonly Answer[]): string {
  const statuses = answers.flatMap(({ status }) => status ?? []);
  const asks = ({ role }: Status) => (role === "Candidate" || role === "PreCandidate" ? 1 : 0);
  const [best] = statuses.toSorted((a, b) =>
    asks(b) - asks(a) || b.lastTerm - a.lastTerm || b.lastIndex - a.lastIndex
  );
  if (!best) return "";
  const followed = statuses.find(({ leader, term }) => leader && term >= best.term)?.leader;
  const silent = answers.find(({ name, status }) => name === followed && !status);
  if (followed && silent) {
    return `${followed} leads, say those who follow it, but does not answer here: either it has `
      + "just stopped, and another is elected soon, or this machine cannot reach it by UDP.";
  }
  const holders = best.peers.filter(({ founding }) => founding).map(({ name }) => name).join(", ");
  if (best.lastIndex === 0 && holders !== "") {
    return `There is no leader: the disks of ${listed(statuses.map(({ name }) => name))} are `
      + `empty, and wait for the log of ${holders}. Start ${holders}, or let UDP through. If it `
      + "is gone for good, start the servers with empty disks again: they found a new cluster.";
  }
  const voters = best.peers.filter(({ isVoter }) => isVoter);
  const reasons = voters.flatMap((peer) => whyNoVote(best, peer, answers) ?? []);
  const { needed } = best;
  const members = best.members.filter(({ votes }) => votes);
  if (members.length - reasons.length >= needed) {
    return "There is no leader yet: an election is under way, and nothing that can be seen from "
      + "here stands against it. Ask again in a moment.";
  }
  const lost = voters.filter((peer) => hasLostDisk(best, peer)).length;
  const next = firstOf(
    members.length - lost < needed && " Too few disks are left for any election. Bring the old "
        + `disks back, or run 'bun cli.ts recover --data DIR' with that of ${best.name}.`,
    voters.some((peer) => whySilent(best, peer, answers)) && START,
  ) ?? "";
  return `There is no leader: ${best.name} has ${best.votes ?? 0} of the ${needed} votes that `
    + `are needed of ${members.length}; ${reasons.join("; ")}.${next}`;
}

/** Returns the first sentence whose condition holds. */
const firstOf = (...sentences: (string | false | undefined)[]) =>
  sentences.find((sentence): sentence is string => typeof sentence === "string");

const hasLostDisk = ({ lastIndex }: Status, { isNamed }: Peer) => lastIndex > 0 && !isNamed;

/** Why a server has not voted for another; undefined if there is nothing against it. */
function whyNoVote(candidate: Status, peer: Peer, answers: readonly Answer[]): string | undefined {
  const { name } = peer;
  const voter = answers.find((answer) => answer.name === name)?.status;
  const asks = candidate.role.endsWith("Candidate");
  const { lastTerm, lastIndex, term, votedFor } = voter ?? candidate;
  const isNewer = lastTerm - candidate.lastTerm || lastIndex - candidate.lastIndex;
  const isTaken = candidate.role === "Candidate" && term === candidate.term && votedFor;
  return firstOf(
    hasLostDisk(candidate, peer)
      && `${name} has an empty or replaced disk, and no vote until a leader has given it the log`,
    // Servers that ask for nothing do not hear one another, and that is no sign of anything.
    (asks || !voter) && whySilent(candidate, peer, answers),
    asks && isNewer > 0 && `${name} refuses: its log is newer`,
    asks && isTaken && votedFor !== candidate.name && `${name} has voted for ${votedFor}`,
  );
}

/** Why a server does not hear a peer; undefined if it does. */
function whySilent(
  server: Status,
  { name, address, heardMs, lastWarning }: Peer,
  answers: readonly Answer[],
): string | undefined {
  if (lastWarning?.type === "foreign") {
    return `${name} was founded with other members, or is of another cluster`;
  }
  if (heardMs !== null && heardMs < 2 * server.electionTimeoutMs) return undefined;
  const heard = heardMs === null ? "never been heard" : `not been heard for ${duration(heardMs)}`;
  const elsewhere = address === "" || address === name ? "" : `, its name resolves to ${address}`;
  const reason = lastWarning?.type === "unresolved" ? lastWarning.reason : undefined;
  const why = reason && isUnknown(reason) ? "its name does not resolve" : reason;
  const where = why === undefined ? elsewhere : `, ${why}`;
  const isHere = answers.some((answer) => answer.name === name && answer.status);
  return `${name} has ${heard}${isHere ? `, though it answers here` : ""}${where}`;
}

function whyNotCommitted(leader: Status): string[] {
  const { lastIndex: last, commitIndex, unsaved, needed, peers, name } = leader;
  const members = leader.members.filter(({ votes }) => votes);
  const open = last - commitIndex;
  if (open === 0) return [];
  const lacking = peers.filter(({ isVoter, matchIndex }) =>
    isVoter && (matchIndex ?? 0) <= commitIndex
  ).map((peer) => peer.name);
  if (unsaved >= open) lacking.unshift(name);
  const must = `The last entries of the log, from ${commitIndex + 1} to ${last}, are not committed `
    + `yet: ${needed} of ${members.length} disks must have them`;
  // What enough of them have is about to be committed.
  if (members.length - lacking.length >= needed) return [`${must}. Ask again in a moment.`];
  return [`${must}. Without them: ${lacking.join(", ")}.`];
}

function whyLags(leader: Status, peer: Peer, answers: readonly Answer[]): string[] {
  const { name, matchIndex, address, stuck, lastWarning } = peer;
  const own = answers.find((answer) => answer.name === name)?.status;
  // A stranger that answers here is lastWarning of as such.
  if (own && (own.id !== leader.id || (own.founding && own.founding !== leader.founding))) {
    return [];
  }
  const silent = whySilent(leader, peer, answers);
  const lag = leader.lastIndex - (matchIndex ?? 0);
  const sentence = firstOf(
    lastWarning?.type === "foreign" && `${silent}. Give all the same --cluster and --peers.`,
    silent && `${silent}. Start it, or let UDP through between it and ${leader.name}.`,
    stuck !== null && stuck.index > (matchIndex ?? 0) && `${whyStuck(stuck)}.`,
    lag > LAG
      && `${name} is ${lag} entries behind, and is heard: it is catching up. If the number `
        + "does not fall, its disk is slow, or the network loses datagrams of full size.",
    !own
      && `${name} does not answer here, though ${leader.name} hears it: can this machine reach `
        + `${address || name} by UDP?`,
  );
  return sentence === undefined ? [] : [sentence];
}

// --------------------------------------------- Main ---------------------------------------------

async function main(): Promise<Result> {
  const { values: flags, positionals } = parse();
  const help = nameProgram(HELP);
  if (flags.help) return { text: help, json: { help } };
  const { version } = packageJson;
  if (flags.version) return { text: version, json: { version } };
  if (!flags.test && positionals.length > 0) return await command(flags, positionals);
  refuseFlags(flags, FOR_CLIENTS, "is for clients, which have a command");
  if (!flags.test) return await serve(flags);
  const { host, port, peers, name, json } = flags;
  if (positionals.length === 0 && !host && !port && !peers && !name && !json) return trio(flags);
  throw wrongUsage(
    "--test takes no command and no --json, and chooses --host, --port, --peers and "
      + "--name by itself.",
  );
}

/** What went wrong in a sentence. What nobody foresaw is told with all that is known. */
function explain(error: Error & { code?: string }): Result {
  const { code = "", message } = error;
  if (error instanceof RaftError) return { error: { code: error.code, message } };
  const [flag] = /(?<=')--?[^' ]+/.exec(message) ?? [];
  const see = "'bun cli.ts --help' lists them, and a word that begins with - goes behind --.";
  if (code === "ERR_PARSE_ARGS_UNKNOWN_OPTION") {
    return { error: { code: "usage", message: `There is no flag ${flag}. ${see}` } };
  }
  if (code.startsWith("ERR_PARSE_ARGS")) {
    const [what = ""] = message.split(/\.?\n/);
    return { error: { code: "usage", message: `${what}. See 'bun cli.ts --help'.` } };
  }
  console.error(error.stack);
  return { error: { code: "unexpected", message } };
}

/** Returns how many columns the terminal has. A file or a pipe takes lines of any length. */
const width = () => process.stdout.columns || Number.POSITIVE_INFINITY;

/** Breaks a line between words where the terminal would break it anywhere. */
function fold(line: string, indent = 0): string {
  const at = line.length > width() ? line.lastIndexOf(" ", width()) : 0;
  if (at <= indent) return line;
  return `${line.slice(0, at)}\n${fold(" ".repeat(indent) + line.slice(at + 1), indent)}`;
}

const say = (text: string) => void write(`${fold(nameProgram(text))}\n`);

/** Where standard output was closed, Bun has opened another file in its place. */
const isClosed = ofProcess("fdinfo/1", /^flags:\s*0[2367]\d{6}$/m);
let isOutputLost = false;

/**
 * Resolves when it is written: a program that ends earlier takes what is left with it. A closed
 * pipe is no failure, because its reader has had enough. A server runs on without its output.
 */
async function write(what: string | Uint8Array): Promise<void> {
  type Failure = { code?: string; message: string } | null | undefined;
  const failure = await new Promise<Failure>((resolve) => process.stdout.write(what, resolve));
  const why = failure?.message ?? (isClosed ? "it is closed" : undefined);
  if (why === undefined || failure?.code === "EPIPE" || isOutputLost) return;
  isOutputLost = true;
  console.error(
    `Cannot write to standard output: ${why}. Make room there, or write elsewhere; a `
      + "change that was asked for has been made.",
  );
}

async function print({ text, json, error, server }: Result, isJson: boolean): Promise<void> {
  if (error) error.message = nameProgram(error.message);
  const entry = error && server ? logEntry(server, error.message, "ERROR") : undefined;
  if (isJson) return await write(`${JSON.stringify({ ...entry, ok: !error, ...json, error })}\n`);
  if (text !== undefined) await write(text);
  // Bytes are a value, which a file or a pipe gets as it is.
  if (typeof text === "string" || (text && process.stdout.isTTY)) await write("\n");
  if (error) console.error(entry ? logLine(entry) : fold(error.message));
}

if (import.meta.main) {
  process.stdout.on("error", () => {}); // `write` is told as well.
  const result = await main().catch(explain);
  await print(result, Bun.argv.includes("--json"));
  process.exit(EXIT_CODES[result.error?.code ?? (isOutputLost ? "output" : "done")]);
}
