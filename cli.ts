#!/usr/bin/env bun
/**
 * The command line of raft.ts: it starts servers, and asks them as a client of the key-value store.
 *
 * Read it in this order: the table of commands, the action of each command, what `status` says, the
 * story that a server tells, and the helpers. Every action ends in a `Result`. It is printed in one
 * place, for people or as JSON, and the code of its error becomes the exit code. Texts say
 * "bun cli.ts", and sentences may span lines: `plain` makes both right for the reader.
 */
import { isUtf8 } from "node:buffer";
import { randomBytes } from "node:crypto";
import fs from "node:fs";
import os from "node:os";
import path from "node:path";
import { parseArgs, styleText } from "node:util";
import packageJson from "./package.json";
import {
  Client,
  clientKey,
  ensure,
  isLoopback,
  KeyValues,
  KeyValueStore,
  Node,
  type NodeEvent,
  parseServer,
  RaftError,
  readSnapshot,
  secretsOf,
  type Server,
  Storage,
  type Stuck,
  systemWorld,
  unpack,
  verbs,
  writeAddress,
} from "./raft.ts";

const { datagrams, files, random } = systemWorld;

// ------------------------------------- The table of commands -------------------------------------

/**
 * The one table of commands and flags: people read it as help, and `main` reads it as grammar. A
 * row has the words and flags that a command needs, and the section of a flag says what takes it.
 */
const HELP = `raft.ts: Raft in one file, with a replicated key-value store on top.

  bun cli.ts --test                start three servers on this machine
  bun cli.ts --host H --port P     start one server
  bun cli.ts put KEY VALUE         store a value
  bun cli.ts create KEY VALUE      store a value only if there is none yet
  bun cli.ts get KEY               read it, byte for byte
  bun cli.ts list [PREFIX]         show the keys that begin with PREFIX, or all,
                                   and their values, in order of the keys' bytes
  bun cli.ts delete KEY            remove it
  bun cli.ts cas KEY OLD NEW       compare and set: put NEW if the value is OLD
  bun cli.ts status                show the servers, and why something is wrong
  bun cli.ts transfer [NAME]       have the leader hand over, to this server
  bun cli.ts members list          show the members, and which are voters
  bun cli.ts members add NAME=H:P  add a server that was started with --join, or
                                   correct the address of a member (NAME: by
                                   default H:P)
  bun cli.ts members remove NAME   remove a server, which then stops
  bun cli.ts backup FILE           copy a server's snapshot, while it serves
  bun cli.ts restore FILE --data DIR --name NAME
                                   make a server that is a new cluster with the
                                   state of a backup (NAME: by default the last
                                   part of DIR)
  bun cli.ts recover --data DIR    when the majority is gone for good: make one
                                   server a cluster of its own
  bun cli.ts secret > FILE         make a secret, for --secret-file
  bun cli.ts client-key NAME > FILE
                                   make a client's key, for --client-key-file

A last VALUE or NEW that is written - is read from standard input. Put -- before
words that begin with -, as in: put -- KEY -5

One server:
  --host H                name or address of this machine to listen on, such as
                          ::1; 0.0.0.0 means all of them, and needs a --name
  --port P                UDP port to listen on
  --peers LIST            the other servers: HOST:PORT or NAME=HOST:PORT, with
                          commas between, IPv6 as [::1]:48000
  --name NAME             the name that its peers use (default: HOST:PORT)
  --join                  wait for 'members add' instead of founding a cluster;
                          --peers are some of the members
  --json                  print each event as a line of JSON

Servers:
  --data DIR              directory of the log (default: raft-data/NAME; --test
                          has a temporary one)
  --election-timeout MS   start an election after hearing no leader for a random
                          time from this to 1.5 times this (default: 1000)
  --heartbeat MS          heartbeat interval of an idle leader (default: 100)
  --datagram-bytes N      largest datagram to send, from 972 to 65507 bytes
                          (default: 1232, and 60000 on the loopback)

Clients:
  --peers LIST            some of the servers; none are needed while those of
                          --test run on this machine
  --timeout MS            how long to wait for an answer (default: 5000; status:
                          at most 1000)
  --client-key-file FILE  use this key (or RAFT_CLIENT_KEY), unless there is a
                          --secret-file: it opens the store, but can't change
                          members or leader
  --base64                KEY, PREFIX, VALUE, OLD and NEW are written in base64,
                          and so can be any bytes; list prints base64, too
  --keys-only             list: show no values
  --force                 members remove: do it although no reachable majority
                          is left: nothing is committed until enough are back
  --yes                   recover: do it, and don't only say what is there
  --new                   backup: have a new snapshot written, with everything
                          that is committed
  --from NAME             backup: ask this server (default: a follower)
  --check                 status: exit with 1 if a leader serves, but something
                          is wrong
  --watch                 status: show it again each second; q ends it
  --json                  print one line of JSON, errors too; list prints a line
                          for each key before it

All:
  --secret-file FILE      the secret that servers and clients of a cluster share
                          (or RAFT_SECRET); without one, servers listen on
                          loopback addresses only. Of several lines all are
                          accepted, and the first that works is used; a server
                          notices when the file changes
  --cluster NAME          the name that servers and clients of a cluster share
                          (default: raft)
  --help                  show this text
  --version               show the version

JSON: {"ok":true, ...} if the exit code is 0, else {"ok":false,"error":{"code",
  "message"}, ...}. get adds "value", null if it is not UTF-8, and "base64"; a
  line of list has "key", "keyBase64" and these two, and its last line "count";
  secret adds "secret", client-key "clientKey", status "leader", "servers",
  "troubles" and "statuses", transfer "leader", members list "members", backup
  "server" and "index", restore these and "cluster", recover "server",
  "cluster", "term", "lastIndex" and "lastTerm". Codes: see below. A server
  prints its events: {"time","level","server","type","term","index","fields",
  "message"}.

Exit codes:
  0  done
  1  a definite no: absent, different; status --check: troubles
  2  wrong usage: usage
  3  a disk failed, or a file is damaged: storage
  4  unknown whether it was done, or will be: outcomeUnknown, unexpected
  5  surely not done: timeout, refused, noLeader, network, ended; or its output
     could not be written`;

const DEFAULTS = {
  cluster: "raft",
  "election-timeout": "1000",
  heartbeat: "100",
  timeout: "5000",
};
type Flags =
  & typeof DEFAULTS
  & Partial<
    & Record<
      | "host"
      | "port"
      | "name"
      | "data"
      | "peers"
      | "secret-file"
      | "client-key-file"
      | "datagram-bytes"
      | "from",
      string
    >
    & Record<
      "join" | "base64" | "keys-only" | "force" | "yes" | "json" | "new" | "check" | "watch",
      boolean
    >
  >;
/** The flags of this command line, which `main` reads before any action. */
const flags: Flags = { ...DEFAULTS };

type Action = (...words: string[]) => Result | Promise<Result>;

const ACTIONS: Record<string, Action> = {
  "--test": startThree,
  "--host": startOne,
  put: inStore((store, key, value) => store.put(key, value)),
  create: inStore(async (store, key, value) =>
    await store.cas(key, undefined, value)
    || no("different", `"${key}" has a value, which stays as it is.`)
  ),
  get: inStore(async (store, key) => {
    const value = await store.get(key);
    return value ? { text: Buffer.from(value), json: jsonOf(value) } : absent(key);
  }),
  list: inStore(list),
  delete: inStore(async (store, key) => await store.delete(key) || absent(key)),
  cas: inStore(async (store, key, old, value) =>
    await store.cas(key, old, value)
    || no("different", `The value of "${key}" is not "${old}", and stays as it is.`)
  ),
  status: () => flags.watch ? watch() : reportStatus(),
  transfer,
  "members list": listMembers,
  "members add": addMember,
  "members remove": removeMember,
  backup,
  restore,
  recover,
  secret: () => tellPrivately("secret", randomBytes(32).toString("base64url")),
  "client-key": (name = "") => {
    const secret = readPrivate("secret-file");
    ensure(secret, "Cannot make a key without the secret. Give --secret-file, or RAFT_SECRET.");
    return tellPrivately("clientKey", clientKey(secret, flags.cluster, name));
  },
};

/** Finds the command in the table, refuses what the table does not allow, and runs the action. */
async function main(): Promise<Result> {
  // In the table, a flag with a word in capitals after it takes a value.
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: Object.fromEntries(
      HELP.matchAll(/^ +(?:bun cli.ts )?--(\S+)( [A-Z])?/gm)
        .map(([, flag = "", form]) => [flag, { type: form ? "string" : "boolean" }] as const),
    ),
  });
  if (values.help) return shown("help", named(HELP));
  if (values.version) return shown("version", packageJson.version);
  const typed = values.test ? ["--test", ...positionals] : positionals;
  const line = typed.join(" ") || "--host";
  const commands = Object.keys(ACTIONS);
  const name = commands.find((command) => `${line} `.startsWith(`${command} `)) ?? "";
  const words = typed.slice(name.split(" ").length);
  // The row of the command, such as "transfer [NAME]". A word in brackets may be left out.
  const [, row = ""] = new RegExp(`bun cli.ts (${name}\\b.*?)(  |$)`, "m").exec(HELP) ?? [];
  const forms = row.match(/(?<!--\S+|>) [[A-Z]\S*/g) ?? [];
  // Beside the flags in its row, a command takes those of some sections. The text of a flag that
  // only one command takes begins with that command.
  const ofOthers = new RegExp(`^ +--\\S+( [A-Z]+)? +(?!${name}:)[a-z][a-z ]*: `, "gm");
  const [, , , one = "", servers = "", clients = "", all = ""] = HELP.replace(ofOthers, "")
    .split("\n\n");
  const own = name === "--host" ? one + servers : name === "--test" ? servers : clients;
  const stray = Object.keys(values).find((flag) => !`${row} ${own}${all}`.includes(`--${flag} `));
  const action = ACTIONS[name];
  ensure(
    action,
    `There is no command "${line}". Use one of ${commands.join(", ")}: 'bun cli.ts --help'
      explains them.`,
  );
  ensure(
    words.length <= forms.length && forms[words.length]?.startsWith(" [") !== false,
    `Cannot run "${name}" with ${words.length} words. Write, with quotes around spaces: bun
      cli.ts ${row}`,
  );
  ensure(
    !stray,
    `Cannot use --${stray} with "${name}", as it would have no effect: 'bun cli.ts --help' says
      what each flag is for.`,
  );
  Object.assign(flags, values);
  return action(...words);
}

// --------------------------------------- Starting servers ----------------------------------------

async function startOne() {
  const { host, port, join = false, "datagram-bytes": bytes } = flags;
  ensure(
    host && port,
    `Cannot start a server without --host and --port. 'bun cli.ts --test' starts three servers,
      'bun cli.ts --help' lists the commands.`,
  );
  const address = `${host.replace(/^\[?(.*:.*?)\]?$/, "[$1]")}:${port}`;
  const self = parseServer(flags.name === undefined ? address : `${flags.name}=${address}`);
  const peers = flags.peers === undefined ? [] : serverList();
  const names = peers.map((peer) => parseServer(peer).name);
  refuseSecondIdentity(self, names);
  const tell = teller(self);
  let node: Node | undefined;
  tellingServer = self.name;
  tell("Starting server...");
  tell(`Peers: [${names.join(", ")}]`);
  tell(`${names.length} peers configured, starting as ${join ? "Learner" : "Follower"}`);
  const secret = readPrivate("secret-file");
  node = await Node.start({
    ...self,
    ...bytes !== undefined && { datagramBytes: Number(bytes) },
    peers,
    join,
    cluster: flags.cluster,
    secret,
    electionTimeoutMs: milliseconds("election-timeout"),
    heartbeatMs: milliseconds("heartbeat"),
    directory: flags.data ?? `${DATA}/${self.name}`,
    machine: process.env.RAFT_TEST ? new ToldStore(tell) : new KeyValueStore(),
    onEvent: narrator(self.name, tell, () => node?.status()),
  });
  onStop(() => void node?.stop());
  followSecret(secret, node, tell);
  const own = await datagrams.resolve(self.host);
  tell(`Server listening on ${address}${own === self.host ? "" : ` (${own})`}`);
  void warnOfLoopback(own, peers, tell);
  await node.stopped;
  tell("Server stopped");
  return {};
}

/** Gives a server its secret again when the file has changed. An invalid file changes nothing. */
function followSecret(known: string, node: Node, tell: Tell) {
  setInterval(() => {
    let latest; // The secret, or the reason for a warning.
    try {
      latest = readPrivate("secret-file");
      if (latest === known) return;
      node.setSecret(latest);
      tell(`Read the secret again. Number of lines: ${secretsOf(latest).length}`);
    } catch (error) {
      latest = `The server keeps its secret. ${(error as Error).message}`;
      if (latest !== known) tell(latest, "WARNING");
    }
    known = latest;
  }, 500);
}

const DATA = "raft-data";

/**
 * Refuses to start beside the data of another server with the same port, without `--data` or
 * `--name`: most likely it is this server, and its machine has a new address.
 */
function refuseSecondIdentity({ name, port }: Server, peers: string[]) {
  const names = fs.existsSync(DATA) ? fs.readdirSync(DATA) : [];
  const old = names.find((other) => other.endsWith(`:${port}`) && !peers.includes(other));
  ensure(
    flags.data || flags.name || !old || names.includes(name),
    `Cannot start ${name}: ${DATA}/${old} holds the data of the server ${old}. If this is that
      server at a new address, add --name ${old}, and write peers that have moved too as
      NAME=HOST:PORT. If it is another server, add --data DIR.`,
  );
}

/** The store of `--test`: each server tells of the first commands that it applies. */
class ToldStore extends KeyValueStore {
  private left = 20;

  constructor(private readonly tell: Tell) {
    super();
  }

  override apply(command: Uint8Array) {
    this.left -= 1;
    const key = Buffer.from(unpack(command)[0] ?? "", "latin1");
    if (this.left >= 0) this.tell(`Applied ${verbs[command[0] ?? 0]} "${key}"`);
    return super.apply(command);
  }
}

const THREE_SERVERS = ["127.0.0.1:48000", "localhost:48001", "127.0.0.1:48002"];

async function startThree() {
  secretsOf(readPrivate("secret-file")); // One error is better than three.
  // If another trio has the ports, that is said before anything starts.
  for (const server of THREE_SERVERS.map(parseServer)) {
    (await datagrams.bind(server, () => {})).close();
  }
  const data = flags.data ?? fs.mkdtempSync(`${os.tmpdir()}/raft-`);
  let isStopping = false;
  let isWhole = true;
  const children = THREE_SERVERS.map((server) => {
    const { host, port } = parseServer(server);
    const args = [
      "--host",
      host,
      "--port",
      `${port}`,
      "--peers",
      THREE_SERVERS.filter((other) => other !== server).join(),
      ...process.argv.slice(2).filter((word) => word !== "--test"),
      "--data",
      `${data}/${server}`,
    ];
    return Bun.spawn([process.execPath, ...SCRIPT, ...args], {
      argv0: process.argv0,
      env: { ...process.env, RAFT_TEST: "1" },
      stdio: ["ignore", "inherit", "inherit"],
      ipc() {}, // The server ends when this channel closes, however its parent dies.
      onExit() {
        if (isStopping) return;
        isWhole = false;
        void write(`\n${server} has ended. To start it again:\n${PROGRAM} ${args.join(" ")}\n`);
      },
    });
  });
  onStop(() => {
    isStopping = true;
    for (const child of children) {
      child.kill();
      child.disconnect(); // Told twice, a server stops at once.
    }
  });
  void write(named(`Three servers on this machine:
${THREE_SERVERS.map((server, i) => `  ${server} is process ${children[i]?.pid}`).join("\n")}
Talk to them from another shell: 'bun cli.ts put hello world',
'bun cli.ts get hello', 'bun cli.ts status'.
Kill one with 'kill -9'. Ctrl-C stops them all.

`));
  await Promise.all(children.map(({ exited }) => exited));
  // A server that was started again by hand may still use it.
  if (!flags.data && isWhole) fs.rmSync(data, { recursive: true });
  return isStopping ? {} : no("ended", "All three servers have ended; each said why, above.");
}

/** Stops by a signal, or when the parent process is gone. What nohup has started ignores SIGHUP. */
function onStop(stop: () => void) {
  for (const event of ["SIGINT", "SIGTERM", "disconnect"]) process.on(event, stop);
  if (ofProcess("status", /^SigIgn:.*[02468ace]$/m)) process.on("SIGHUP", stop);
}

/** Forms a new cluster of one server. Without `--yes` it only says what would be left. */
function recover() {
  const { data, yes } = flags;
  ensure(
    data && fs.existsSync(`${data}/log`),
    "Cannot recover without a log: give the --data DIR of a stopped server.",
  );
  const storage = new Storage(files, data, undefined, random);
  const { identity: { name: server, cluster }, entries, base, hardState } = storage;
  const { index: lastIndex, term: lastTerm } = entries.at(-1) ?? base;
  const json = { server, cluster, term: hardState.currentTerm, lastIndex, lastTerm };
  const found = `${data} has server ${server} of cluster ${cluster}, in term ${json.term}. Its log
    ends with entry ${lastIndex} of term ${lastTerm}.`;
  if (!yes) {
    return {
      ...no(
        "usage",
        `${found} With --yes it becomes a cluster of its own. Later entries, which only the others
          had, are lost even if they were acknowledged; entries that were never acknowledged may
          stay. If another server is left, take the one whose last entry has the highest term, and
          among these the highest index. Nothing was done.`,
      ),
      json,
    };
  }
  storage.formNewCluster();
  return {
    text: plain(`${found} It is a cluster of its own now: start it without --peers, and let new
      servers join. Former members are refused, and join with an empty --data.`),
    json,
  };
}

// -------------------------------------------- Backups --------------------------------------------

/** Copies a snapshot to another file, and renames that to FILE once it is whole and synced. */
async function backup(file: string) {
  const answers = await inspectAll();
  const statuses = statusesOf(answers);
  // A server that waits to join, or for its first snapshot, has nothing to give.
  const able = statuses.filter(({ lastApplied }) => lastApplied > 0);
  const source = able.find(({ role }) => role === "Follower") ?? able[0] ?? statuses[0];
  if (!source) return noLeader(answers);
  const server = flags.from ?? source.name;
  await using client = await connect();
  onStop(() => client.close()); // Ends the copying, and so removes the part that was copied.
  // From the first answer the client learns where the other servers are.
  await Promise.any(statuses.map((status) => client.inspect(status.name))).catch(() => {});
  let required = 1; // The entry that the snapshot must include.
  if (flags.new) {
    // Once the server answers a read, it has applied every write that was acknowledged before. It
    // may refuse, as another state machine than the store does not know the question.
    await client.read(Buffer.alloc(0), { server }).catch((error: RaftError) =>
      ensure(error.code === "refused", error.message, error.code)
    );
    ({ lastApplied: required } = await client.inspect(server));
  }
  const part = `${file}.part${process.pid}`;
  const fd = fs.openSync(part, "a", 0o600);
  try {
    for await (const { offset, data } of client.readSnapshot(server, required)) {
      if (offset === 0) fs.ftruncateSync(fd);
      fs.appendFileSync(fd, data);
    }
    fs.fsyncSync(fd);
    const index = checkBackup(part);
    files.rename(part, file);
    return {
      text: `${file} has the state of ${server} after entry ${index}.`,
      json: { server, index },
    };
  } finally {
    fs.closeSync(fd);
    files.remove(part);
  }
}

function* readBackup(file: string) {
  using input = files.open(file, "r");
  yield* readSnapshot(file, input.read, "Take another backup.");
}

/** Reads a backup and returns its index. Throws a RaftError, "storage", if it is damaged. */
const checkBackup = (file: string) =>
  readBackup(file).reduce((index, [record]) => record?.index ?? index, 0);

/** Makes a new server, the only member of a new cluster, with the state of a backup. */
function restore(file: string) {
  const { data = "", name = path.basename(data), cluster } = flags;
  const refusal =
    `Cannot restore into "${data}": it must be a new or empty directory. Give one as --data DIR.`;
  ensure(data, refusal);
  parseServer(`${name}=any:1`); // Throws if no server can have this name.
  const index = checkBackup(file);
  const storage = new Storage(files, data, { cluster, name, members: [] }, random);
  // A used server has a term, and so has a restored one. A restore that has failed leaves none, so
  // it can be repeated.
  ensure(storage.hardState.currentTerm === 0, refusal);
  storage.formNewCluster(readBackup(file));
  return {
    text: plain(`${data} has the state after entry ${index}, for server ${name} of cluster
      ${cluster}, a cluster of its own. Start it with --name ${name} --data ${data} and without
      --peers. Then start others with --join and an empty --data, and add them: 'bun cli.ts members
      add'.`),
    json: { server: name, cluster, index },
  };
}

// --------------------------------------- Asking the store ----------------------------------------

/**
 * Returns an action that gets the store, and its words as bytes. A last word "-" stands for the
 * standard input. Says "OK" unless `act` has another result.
 */
function inStore(
  act: (store: KeyValues, ...words: Buffer[]) => Promise<Result | true | void>,
): Action {
  return async (...words) => {
    const bytes = await Promise.all(
      words.map(async (word, i) =>
        word === "-" && i > 0 && i === words.length - 1
          ? Buffer.from(await Bun.stdin.slice(0, 1e8).bytes())
          : toBytes(word)
      ),
    );
    ensure(
      words[0] !== "" || act === list,
      "The key is empty. Write one, or if a shell variable holds it, set that.",
    );
    await using client = await connect();
    const result = await act(new KeyValues(client), ...bytes);
    return typeof result === "object" ? result : { text: "OK" };
  };
}

/** Prints the lines as they come, because the store may be larger than the memory here. */
async function list(store: KeyValues, prefix: Buffer = Buffer.alloc(0)) {
  const { "keys-only": keysOnly = false } = flags;
  const textOf = (bytes: Uint8Array) =>
    Buffer.from(bytes).toString(flags.base64 ? "base64" : "latin1");
  let count = 0;
  let lines = ""; // In Latin-1: a character is a byte.
  for await (const [key, value] of store.list({ prefix, keysOnly })) {
    const { value: name, base64: keyBase64 } = jsonOf(key);
    const json = { key: name, keyBase64, ...!keysOnly && jsonOf(value) };
    const line = flags.json
      ? Buffer.from(JSON.stringify(json)).toString("latin1")
      : keysOnly
      ? textOf(key)
      : `${textOf(key)}\t${textOf(value)}`;
    lines += `${line}\n`;
    count += 1;
    if (lines.length < 64_000) continue;
    if (!await write(Buffer.from(lines, "latin1"))) return {};
    lines = "";
  }
  await write(Buffer.from(lines, "latin1"));
  return { json: { count } };
}

function jsonOf(bytes: Uint8Array) {
  const text = Buffer.from(bytes);
  return { value: isUtf8(text) ? `${text}` : null, base64: text.toString("base64") };
}

const absent = (key: Buffer) => no("absent", `There is no value for "${key}".`);

/** Bun reads a word as text, so bytes that are not UTF-8 would be replaced. */
function toBytes(word: string) {
  const encoding = flags.base64 ? "base64" : "utf8";
  const bytes = Buffer.from(word, encoding);
  ensure(
    bytes.toString(encoding) === word && !word.includes("\uFFFD"),
    `Cannot use "${word}": it is not ${flags.base64 ? "base64" : "UTF-8"}. Write any bytes in
      base64, with --base64, or the value to standard input.`,
  );
  return bytes;
}

const serverList = () => flags.peers?.split(/[\s,]+/) ?? THREE_SERVERS;

/** Connects a client. A secret by flag counts first, then a key, then RAFT_SECRET. */
async function connect(limitMs = Infinity) {
  const key = flags["secret-file"] ? "" : readPrivate("client-key-file");
  return Client.connect({
    servers: serverList(),
    cluster: flags.cluster,
    timeoutMs: Math.min(milliseconds("timeout"), limitMs),
    ...key ? { clientKey: key } : { secret: readPrivate("secret-file") },
  });
}

// ------------------------------------ Members and leadership -------------------------------------

/** Shows the members as the leader knows them: a change is in force there first. */
async function listMembers() {
  const answers = await inspectAll();
  const { members } = leaderOf(answers) ?? {};
  if (!members) return noLeader(answers);
  return {
    text: table(members.map(({ name, address, votes }) => ({ name, address, votes }))),
    json: { members },
  };
}

async function addMember(word: string) {
  const { name, ...place } = parseServer(word);
  const address = writeAddress(place);
  await using client = await connect();
  await client.changeMembers(name, address);
  return {
    text: `${name} is a member, at ${address}. A new one gets its vote once it has the log.`,
  };
}

async function removeMember(name: string) {
  const leader = leaderOf(await inspectAll());
  if (leader?.members.every((member) => member.name !== name)) {
    return no("absent", `${name} is no member. See 'bun cli.ts members list'.`);
  }
  await using client = await connect();
  await client.changeMembers(name, "", flags.force);
  return { text: `${name} is no member.` };
}

async function transfer(target?: string) {
  await using client = await connect();
  // The first server that knows the leader is enough, because others may be down.
  const leader = await Promise.any(
    serverList().map((server) =>
      client.inspect(parseServer(server).name).then(({ leader }) => leader ?? Promise.reject())
    ),
  ).catch(() => undefined);
  if (!leader) return noLeader(await inspectAll());
  const next = target === leader ? leader : await client.transfer(leader, target);
  return { text: `${next} leads.`, json: { leader: next } };
}

const noLeader = (answers: Answer[]) => no("noLeader", troublesOf(answers)[0] ?? "");

// -------------------------------------- What `status` says ---------------------------------------

export type Status = ReturnType<Node["status"]>;
/** What a server says of itself, or why it may have said nothing. */
export type Answer = { name: string; status?: Status | undefined; silence: string };

/** Asks the servers that are listed, then those that they know, and the leader once more. */
async function inspectAll() {
  await using client = await connect(1000); // A server that is down doesn't answer later.
  const answers = new Map<string, Answer>();
  const ask = async (names: string[]) => {
    await Promise.all(names.map(async (asked) => {
      const status = await client.inspect(asked).catch(() => undefined);
      const name = status?.name ?? asked;
      if (status || !answers.has(name)) {
        answers.set(name, { name, status, silence: client.describe(asked) });
      }
    }));
    return [...answers.values()].toSorted((a, b) => a.name.localeCompare(b.name));
  };
  const first = await ask(serverList().map((server) => parseServer(server).name));
  const peers = statusesOf(first).flatMap((status) => status.peers);
  const all = await ask([...new Set(peers.map(({ name }) => name)).difference(answers)]);
  // The leader may have answered before its followers, and so would seem to lack what they have.
  const leader = leaderOf(all);
  return leader ? await ask([leader.name]) : all;
}

const statusesOf = (answers: Answer[]) => answers.flatMap(({ status }) => status ?? []);

/** Returns the leader of the latest term. Terms of another founding say nothing of this one. */
function leaderOf(answers: Answer[]) {
  const statuses = statusesOf(answers).toSorted((a, b) => b.term - a.term);
  return statuses.find(({ role, term, founding }) =>
    role === "Leader"
    && statuses.every((other) => other.term <= term || other.founding !== founding)
  );
}

/** Shows the status on a screen of its own, each second, until q or Ctrl-C. */
async function watch(): Promise<Result> {
  const { stdin, stdout } = process;
  ensure(
    stdin.isTTY && stdout.isTTY && !flags.json,
    "Cannot watch without a terminal, or as JSON. Run it there, or without --watch.",
  );
  const end = () => process.exit();
  stdin.setRawMode(true).on("data", (keys) => /q|\x03/.test(`${keys}`) && end());
  onStop(end);
  process.on("exit", () => {
    stdin.setRawMode(false);
    fs.writeSync(1, "\x1b[?7h\x1b[?25h\x1b[?1049l");
  });
  await write("\x1b[?1049h\x1b[?25l\x1b[?7l"); // Another screen, no cursor, no line wrap.
  for (;;) {
    const { text = "", error } = await reportStatus().catch(explain);
    const lines = [`${new Date().toISOString()}  q ends`, text, fold(error?.message ?? "")]
      .join("\n\n").split("\n", stdout.rows - 1);
    await write(`\x1b[H${lines.join("\x1b[K\n")}\x1b[J`);
    await Bun.sleep(1000);
  }
}

async function reportStatus(): Promise<Result> {
  const answers = await inspectAll();
  const leader = leaderOf(answers);
  const servers = answers.map((answer) => describeServer(answer, answers, leader));
  const troubles = troublesOf(answers);
  const [first] = leader && !flags.check ? [] : troubles;
  // The most important columns of `--watch` fit 80.
  const rows = flags.watch
    ? servers.map(({ commitIndex: _, address: __, ...row }) => row)
    : servers;
  return {
    text: [table(rows), ...troubles.slice(first ? 1 : 0).map((trouble) => fold(trouble))]
      .join("\n\n"),
    json: { leader: leader?.name ?? null, servers, troubles, statuses: statusesOf(answers) },
    ...first && no(leader ? "troubles" : "noLeader", first),
  };
}

/** Returns a row of the table. A server knows most of itself, and a leader of its peers. */
function describeServer({ name, status }: Answer, answers: Answer[], leader?: Status) {
  const view = [leader, ...statusesOf(answers)].flatMap((status) => status?.peers ?? [])
    .find((peer) => peer.name === name);
  const has = leader?.name === name ? leader.lastIndex : view?.matchIndex;
  const { role = null, term = null, lastIndex = null, commitIndex = null, logBytes = null } = status
    ?? {};
  const { heardMs = null, roundTripMs = null, address = null } = view ?? {};
  return {
    name,
    role: role === "Follower" && view?.isVoter === false ? "Learner" : role,
    term,
    lastIndex,
    commitIndex,
    lag: leader && typeof has === "number" ? leader.lastIndex - has : null,
    heardMs,
    roundTripMs,
    address,
    logBytes,
  };
}

/** A packet of another secret is a trouble for so long. Anyone can send one. */
const RECENT_MS = 600_000;

/**
 * Returns a sentence for each trouble that the answers show, with its cause, the gravest first.
 * Without a leader, the first sentence gives the reason.
 */
export function troublesOf(answers: Answer[]) {
  const statuses = statusesOf(answers);
  const leader = leaderOf(answers);
  // Without a leader, the server with the newest log should be elected.
  const best = leader
    ?? statuses.toSorted((a, b) => b.lastTerm - a.lastTerm || b.lastIndex - a.lastIndex)[0];
  if (!best) {
    return [plain(`No server answers: ${answers.map(({ silence }) => silence).join(", ")}. Start
      them ('bun cli.ts --test' starts three here). If they run, check --peers, --cluster and the
      secret: a client with a wrong secret gets no answer.`)];
  }
  const reasons = best.peers.filter(({ isVoter }) => isVoter || leader).flatMap((peer) =>
    whyNotFollowing(best, peer, statuses.find(({ name }) => name === peer.name)) ?? []
  );
  return [
    ...leader ? reasons.map((reason) => `${reason}.`) : [whyNoLeader(best, reasons, answers)],
    ...statuses.flatMap(({ name, dropped: { unauthenticated }, unauthenticatedMs }) =>
      unauthenticatedMs !== null && unauthenticatedMs < RECENT_MS
        ? `${name} has dropped datagrams of another secret (${unauthenticated}): the warnings in its
          log say where they came from.`
        : []
    ),
  ].map(plain);
}

/** Returns the sentence in the first row whose condition is true. */
const firstOf = (...rows: unknown[]) => rows.find(Boolean) as string | undefined;

/** Says why `best` is not elected, though it should be. */
function whyNoLeader(best: Status, reasons: string[], answers: Answer[]) {
  const { name, lastIndex, members, needed, peers, votes } = best;
  const holders = listed(peers.filter(({ founding }) => founding));
  const voters = members.filter((member) => member.votes).length;
  const disksLeft = voters - peers.filter((peer) => peer.isVoter && !peer.usesNamedDisk).length;
  const verdict = `There is no leader: ${name} has ${
    votes ?? 0
  } of the ${needed} votes that it needs
    of ${voters}; ${reasons.join("; ")}.`;
  return firstOf(
    answers.some((answer) => answer.name === best.leader && !answer.status)
      && `${best.leader} leads, says ${name}, but does not answer here. Ask again in a moment, as it
        may have just stopped; or let UDP through from this machine.`,
    lastIndex === 0 && holders
      && `There is no leader: the disks of ${
        listed(statusesOf(answers))
      } are empty, and wait for the
        log of ${holders}. Start ${holders}, or let UDP through. If it is gone for good, start the
        servers with empty disks again: they found a new cluster.`,
    voters - reasons.length >= needed
      && `There is no leader yet, but nothing that can be seen from here stands against an election.
        Ask again in a moment.`,
    lastIndex > 0 && disksLeft < needed
      && `${verdict} Too few disks are left for any election. Bring the old disks back, or run 'bun
        cli.ts recover --data DIR' with that of ${name}.`,
  ) ?? verdict;
}

/** Says why a peer does not follow a leader, or has not voted for the server that should lead. */
function whyNotFollowing(best: Status, peer: Status["peers"][number], own?: Status) {
  const { name, address, heardMs, lastWarning, matchIndex, stuck } = peer;
  const leads = best.role === "Leader";
  // Until something is committed, a founding may still be replaced.
  const founding = own ? own.commitIndex && own.founding : peer.founding;
  const isSilent = heardMs === null || heardMs >= 2 * best.electionTimeoutMs;
  return firstOf(
    best.commitIndex > 0 && founding && founding !== best.founding
      && `${name} is of another founding than ${best.name}: two clusters have this name, and take
        nothing from each other. Keep one: stop the servers of the other, keep their directories
        aside, and if no majority is left, run 'bun cli.ts recover --data DIR' on the server whose
        last entry has the highest term, and then the highest index. The others join it with an
        empty --data`,
    leads && own && own.commitIndex > best.lastIndex
      && `${name} has committed entries up to ${own.commitIndex}, but the log of its leader
        ${best.name} ends with ${best.lastIndex}: disks of a majority were lost, or put back from an
        older copy. Stop all servers, keep their directories aside, and run 'bun cli.ts recover
        --data DIR' with that of ${name}`,
    !leads && best.lastIndex > 0 && !peer.usesNamedDisk
      && `${name} has an empty or replaced disk, and no vote until a leader has given it the log`,
    lastWarning?.type === "foreign"
      && `${name} was founded with other members, or is of another cluster: give all servers one
        --cluster and the same --peers`,
    lastWarning?.type === "version" && `${name} runs another version of raft.ts`,
    // Followers do not hear one another while no election is held.
    (best.role !== "Follower" || !own) && isSilent
      && `${name} has ${
        heardMs === null ? "never been heard" : `not been heard for ${Math.round(heardMs / 1000)} s`
      }: ${
        lastWarning?.type === "unresolved"
          ? lastWarning.reason
          : `start it, or let UDP through to ${address}`
      }`,
    stuck && stuck.index > (matchIndex ?? 0) && whyStuck(stuck),
  );
}

function whyStuck({ server, index, bytes }: Stuck) {
  return `Entry ${index}, or the snapshot in its place, does not arrive at ${server} in a batch of
    ${bytes} bytes, though smaller messages do. Give all servers a smaller --datagram-bytes`;
}

// ------------------------------------- The story of a server -------------------------------------

type Tell = ReturnType<typeof teller>;

/** A pre-candidate only asks whether it could win: in the story it is still a follower. */
const shownRole = (role: string) => role.replace("PreCandidate", "Follower");

/**
 * What each event means, in the words of an election. A row may give `false` in place of a
 * sentence, which is not told.
 */
const STORY: {
  [T in NodeEvent["type"]]: (event: Extract<NodeEvent, { type: T }>, name: string) => unknown;
} = {
  campaign: ({ transfer, silentMs }) => [
    transfer
      ? "The leader hands over to this server, switching to Candidate"
      : `No valid RPC received in the last ${Math.round(silentMs)} milliseconds, switching to
        Candidate`,
    "Starting vote...",
  ],
  voted: ({ candidate }) => [`Voting for ${candidate}`, `Voted for ${candidate}`],
  votes: ({ votes, elected }) => [
    `Received ${votes} votes`,
    elected && `Received ${votes} votes. Switching to Leader`,
  ],
  role: ({ from, to }) =>
    shownRole(from) !== shownRole(to)
    && `Switching state from ${shownRole(from)} to ${shownRole(to)}`,
  leader: ({ from = "None", to = "None" }, name) => [
    to !== "None" && to !== name && `New leader: ${to}`,
    `Old Leader: ${from}, new leader: ${to}`,
  ],
  committed: ({ commitIndex }) => `Committed all entries up to ${commitIndex}`,
  members: ({ members }) => `Members: ${listed(members)}`,
  removed: (_, name) =>
    `${name} is no member any more, and stops. To add it again, start it with --join, and then write
      'bun cli.ts members add'`,
  snapshot: ({ index, size, from }) =>
    `${from ? `Installed a snapshot from ${from}` : "Took a snapshot"} at index ${index}, ${size}
      bytes`,
  preVoteLost: ({ votes, needed }) =>
    `No leader, and only ${votes} of the ${needed} votes needed to replace it: staying Follower and
      asking on`,
  unresolved: ({ reason, server: { host, name } }) =>
    `Cannot resolve ${host} (server ${name}): ${reason}. Retrying every second. Check the name:
      getent hosts ${host}`,
  foreign: ({ server, cluster, members }) =>
    `${server} has other founding members or another cluster name, and we refuse each other. Its
      members are ${members}, and its cluster is ${cluster}. Start the one that is wrong again, with
      the right --peers and --cluster and an empty --data`,
  unauthenticated: (event) =>
    `Rejected a datagram from ${writeAddress(event.address)}: wrong secret. If it is a server or a
      client of ours, give it the same --secret-file, or a new client key`,
  version: ({ address, version }) =>
    `${writeAddress(address)} runs another version of raft.ts: its wire format is ${version}. Stop
      all servers, replace the program on each, start all`,
  twice: ({ server, address, other }) =>
    `Two servers run under the name ${server}: one at ${writeAddress(other)}, and another one, which
      gets no answer, at ${
      writeAddress(address)
    }, with an earlier start or a replaced disk. Stop the
      wrong one. If only one runs: if its directory is an old copy, start it with an empty one;
      otherwise restart the server that reports this`,
  lostDisk: (event) =>
    `${event.server} has lost its disk, or the data on it. It gets the log again from scratch, and
      has no vote until then`,
  otherFounding: (event) =>
    `Two clusters have this name: ${event.server} is of another founding, and nothing is taken from
      it. To keep what is here, stop the servers of the other one, keep their directories aside, and
      run 'bun cli.ts recover' here; or to join them, start this server with an empty --data`,
  stuck: whyStuck,
  recovered: ({ cutBytes, members }, name) => [
    !members.some((member) => member.name === name)
    && `${name} is not a member: it waits for 'bun cli.ts members add'`,
    cutBytes > 0 && `Cut ${cutBytes} bytes of an unfinished write off the log, into log.cut`,
  ],
};
const WARNINGS =
  `preVoteLost unresolved foreign unauthenticated version twice lostDisk otherFounding stuck
  recovered`;

/** Returns a function that tells events. Some are told only the first time under each leader. */
export function narrator(name: string, tell: Tell, look?: () => Status | undefined) {
  const told = new Set<string>();
  return (event: NodeEvent) => {
    const { type, ...fields } = event;
    if (type === "leader") told.clear();
    if (told.has(type)) return;
    if (type === "preVoteLost" || type === "committed") told.add(type);
    const story = STORY[type] as (event: NodeEvent, name: string) => unknown;
    const sentences = [story(event, name)].flat().filter(Boolean).map(String);
    const { term = null, lastIndex: index = null } = look?.() ?? {};
    const level = sentences.length > 0 && WARNINGS.includes(type) ? "WARNING" : "INFO";
    tell(sentences, level, { type, term, index, fields });
  };
}

const listed = (servers: readonly { name: string }[]) =>
  servers.map(({ name }) => name).toSorted().join(", ");

/** Warns if this server listens on the loopback address `own`, and a peer is on another machine. */
async function warnOfLoopback(own: string, peers: string[], tell: Tell) {
  for (const { name, host } of isLoopback(own) ? peers.map(parseServer) : []) {
    const address = await datagrams.resolve(host).catch(() => own);
    if (isLoopback(address)) continue;
    return tell(
      `This server listens on the loopback address ${own}, which reaches this machine only, and not
        ${name} at ${address}. Give --host an address of this machine in that network, or a name
        that resolves to one`,
      "WARNING",
    );
  }
}

/** Returns an entry of a server's log. People get the local time, without its zone. */
function logEntry(server: string, sentence: string, level: string, about: object) {
  const time = Temporal.Now.zonedDateTimeISO()
    .toString({ smallestUnit: "millisecond", timeZoneName: "never" });
  const local = time.slice(0, 23).replace("T", " ").replace(".", ",");
  const message = plain(sentence);
  return {
    json: { time, level, server, ...about, message },
    line: fold(`${local} - ${level} - raft - ${server} - ${message}`, 4),
  };
}

/**
 * Returns a function that writes the sentences of one server; on a terminal, in a colour of its
 * own. In JSON, the sentences are one line, with what it is about.
 */
function teller({ name, port }: Server) {
  const colour = (["cyan", "yellow", "magenta"] as const)[port % 3] ?? "cyan";
  return (what: string | string[], level = "INFO", about: object = { type: "text" }) => {
    const sentences = [what].flat();
    for (const each of flags.json ? [sentences.join(". ")] : sentences) {
      const { json, line } = logEntry(name, each, level, about);
      void write(`${flags.json ? JSON.stringify(json) : styleText(colour, line)}\n`);
    }
  };
}

// -------------------------------------- Secrets and numbers --------------------------------------

const PRIVATE = { "secret-file": "RAFT_SECRET", "client-key-file": "RAFT_CLIENT_KEY" };

/** Returns what a private file holds; without the flag, what the environment holds. */
function readPrivate(flag: keyof typeof PRIVATE) {
  const file = flags[flag];
  const variable = PRIVATE[flag];
  const text = file === undefined
    ? process.env[variable]
    : fs.existsSync(file)
    ? fs.readFileSync(file, "utf8")
    : "";
  const isOpen = text && file && fs.statSync(file).mode & 0o077;
  ensure(
    text?.trim() !== "" && !isOpen,
    `Cannot use ${file ? `--${flag} ${file}` : variable}: ${
      isOpen ? "others can read it" : "it is empty, or not there"
    }. Copy the cluster's own to here, or make one: 'bun cli.ts secret > FILE' only for a new
    cluster, 'bun cli.ts client-key NAME > FILE' for a client. Forbid others to read it: chmod 600
    FILE. Where that is impossible, as on a read-only mount, set
    ${variable} instead.`,
  );
  return text ?? "";
}

/** If the output goes to a file, only its owner may read it. */
function tellPrivately(name: string, text: string) {
  if (fs.fstatSync(1).isFile()) fs.fchmodSync(1, 0o600);
  return shown(name, text);
}

function milliseconds(flag: keyof typeof DEFAULTS) {
  ensure(
    /^[1-9]\d{0,6}$/.test(flags[flag]),
    `Cannot use --${flag} ${flags[flag]}: it takes whole milliseconds, from 1 to 9999999.`,
  );
  return Number(flags[flag]);
}

// ---------------------------------- Results, errors and output -----------------------------------

/** How a command ends: what there is to say, for people and for programs, or why it failed. */
type Result = {
  text?: string | Uint8Array;
  json?: object;
  error?: { code: string; message: string };
};

const shown = (name: string, text: string) => ({ text, json: { [name]: text } });
const no = (code: string, message: string): Result => ({
  error: { code, message: plain(message) },
});

/** Returns how a command ends with an error. One that no code foresees is shown with its stack. */
function explain(error: Error & { code?: string }) {
  const { code = "", message } = error;
  if (error instanceof RaftError) return no(code, message);
  if (/^(ENOSPC|EDQUOT|EIO)$/.test(code)) {
    return no("storage", `Cannot use a disk: ${message}. Make room there, or use another one.`);
  }
  if (/^(ERR_PARSE_ARGS|E[A-Z]+$)/.test(code)) {
    return no("usage", `${message.split(/\.?\n/)[0]}. See 'bun cli.ts --help'.`);
  }
  console.error(error.stack);
  return no("unexpected", message);
}

/** Returns the exit code under which the help lists a code. Those that it does not list are 5. */
const exitCodeOf = (code: string) =>
  Number(new RegExp(`^  (\\d)  .*\\b${code}\\b`, "m").exec(HELP)?.[1] ?? 5);

/** Returns whether a file of Linux about this process matches; false on other systems. */
function ofProcess(file: string, pattern: RegExp) {
  const about = `/proc/self/${file}`;
  return fs.existsSync(about) && pattern.test(fs.readFileSync(about, "latin1"));
}

/** A compiled program has its source in a place of its own, and no script to be started with. */
const SCRIPT = import.meta.path.startsWith("/$bunfs/") ? [] : [import.meta.path];
/** The program as it was called: all texts say "bun cli.ts" for it. */
const PROGRAM = SCRIPT.length > 0
  ? `bun ${path.relative("", import.meta.path)}`
  : process.argv0;
const named = (text: string) => text.replaceAll("bun cli.ts", () => PROGRAM);
export const plain = (sentence: string) => named(sentence.replaceAll(/\s*\n\s*/g, " "));

/** The columns of the terminal. A file or a pipe takes lines of any length. */
const WIDTH = process.stdout.columns || Infinity;

/** Breaks a line between words where a terminal would break it anywhere. */
const fold = (line: string, indent = 0) =>
  Bun.wrapAnsi(line, WIDTH - indent).replaceAll("\n", `\n${" ".repeat(indent)}`);

/** Lays out rows under the names of their fields. A terminal gets as much of a line as it shows. */
function table(rows: object[]) {
  const lines = [Object.keys(rows[0] ?? {}), ...rows.map((row) => Object.values(row))]
    .map((cells) => cells.map((cell) => `${cell ?? "-"}`));
  return lines.map((cells) =>
    cells.map((cell, i) => cell.padEnd(Math.max(...lines.map((line) => line[i]?.length ?? 0))))
      .join("  ").trimEnd().slice(0, WIDTH)
  ).join("\n");
}

/**
 * Whether standard output was closed before the start. Then Bun has opened another file in its
 * place, with the flag O_CLOEXEC (octal 2000000), which an inherited file does not have.
 */
const isClosed = ofProcess("fdinfo/1", /^flags:\s*0[2367]\d{6}$/m);
let isOutputLost = false;
/** The server that has begun to tell its story: an error is the last line of its log. */
let tellingServer: string | undefined;

/**
 * Waits until the text is written, because a program that ends earlier loses the rest. Returns
 * whether it was written. A lost output is reported once; a closed pipe is not, because its reader
 * has had enough. A server runs on without its output.
 */
async function write(what: string | Uint8Array) {
  const failure = await new Promise<Error | null | undefined>((resolve) =>
    process.stdout.write(what, resolve)
  );
  const why = failure?.message ?? (isClosed && "it is closed");
  if (!why) return true;
  if (why.includes("EPIPE") || isOutputLost) return false;
  isOutputLost = true;
  console.error(
    plain(`Cannot write to standard output: ${why}. Make room there, or write elsewhere; a
    change that was asked for may have been made.`),
  );
  return false;
}

if (import.meta.main) {
  process.stdout.on("error", () => {}); // `write` is told as well.
  const { text, json, error } = await main().catch(explain);
  const entry = error && tellingServer
    ? logEntry(tellingServer, error.message, "ERROR", { type: "error" })
    : undefined;
  if (process.argv.includes("--json")) {
    await write(`${JSON.stringify({ ...entry?.json, ok: !error, ...json, error })}\n`);
  } else {
    // Bytes are a value, which a file or a pipe gets as it is.
    const isRaw = text instanceof Uint8Array && !process.stdout.isTTY;
    if (text) await write(isRaw ? text : `${text}\n`);
    if (error) console.error(entry ? entry.line : fold(error.message));
  }
  process.exit(error ? exitCodeOf(error.code) : isOutputLost ? 5 : 0);
}
