#!/usr/bin/env bun
/**
 * The command line of raft.ts: a server, three of them at once, and a client of the key-value
 * store. Events become the story that people read; errors become one sentence and an exit code.
 */
import dns from "node:dns/promises";
import { mkdtempSync } from "node:fs";
import { rm } from "node:fs/promises";
import os from "node:os";
import path from "node:path";
import { parseArgs, styleText } from "node:util";
import packageJson from "./package.json";
import { Client, KeyValues, KeyValueStore, Node, type NodeEvent, parseServer, RaftError,
  type RoleName } from "./raft.ts";

const HELP = `raft.ts: a replicated key-value store, and three servers to see how it works.

  bun cli.ts --test                                     three servers on this machine
  bun cli.ts --host H --port P --peers H:P,H:P          one server; each list names the others
  bun cli.ts put KEY VALUE | get KEY | delete KEY | cas KEY OLD NEW | status

Clients need no --peers while the three servers of --test run on this machine.

  --peers LIST            the other servers, or, for clients, all: HOST:PORT or NAME=HOST:PORT
  --name NAME             how the peers call this server, if not HOST:PORT
  --data DIR              where a server keeps its log (default raft-data/HOST:PORT, but a
                          temporary directory for --test)
  --cluster NAME          servers and clients of one cluster agree on it (default raft)
  --election-timeout MS   T: who hears no leader for T to 2T calls an election (default 1000)
  --heartbeat MS          how often a leader speaks when it has nothing to say (default 100)
  --timeout MS            how long a client waits for an answer (default 5000)
  --json                  answers of clients as JSON
  --help, --version

Exit codes: 0 done, 1 the operation failed, 2 wrong usage, 3 storage failed, 4 outcome unknown.`;

const options = {
  test: { type: "boolean" },
  host: { type: "string" },
  port: { type: "string" },
  peers: { type: "string" },
  name: { type: "string" },
  data: { type: "string" },
  cluster: { type: "string", default: "raft" },
  "election-timeout": { type: "string", default: "1000" },
  heartbeat: { type: "string", default: "100" },
  timeout: { type: "string", default: "5000" },
  json: { type: "boolean", default: false },
  help: { type: "boolean" },
  version: { type: "boolean" },
} as const;

type Flags = ReturnType<typeof parse>["values"];

function parse() {
  return parseArgs({ args: Bun.argv.slice(2), options, allowPositionals: true });
}

const usage = (message: string) => new RaftError("usage", message);

function milliseconds(flags: Flags, flag: "election-timeout" | "heartbeat" | "timeout"): number {
  const value = Number(flags[flag]);
  if (Number.isInteger(value) && value >= 1 && value <= 3_600_000) return value;
  throw usage(`--${flag} ${flags[flag]}: write whole milliseconds, from 1 to 3600000.`);
}

function list(flags: Flags): string[] {
  return (flags.peers?.split(",").map((peer) => peer.trim()).filter((peer) => peer !== "") ?? []);
}

// ------------------------------------------ The story -------------------------------------------

const COLOURS = ["cyan", "yellow", "magenta", "green", "blue", "red"] as const;

function teller(name: string, port: number) {
  const colour = COLOURS[port % COLOURS.length] ?? "cyan";
  return (message: string, level = "INFO") => {
    const now = new Date(Date.now() - new Date().getTimezoneOffset() * 60_000).toISOString();
    const time = now.slice(0, 23).replace("T", " ").replace(".", ",");
    const line = `${time} - ${level} - raft - ${name} - ${message}`;
    process.stdout.write(`${styleText(level === "INFO" ? colour : [colour, "bold"], line)}\n`);
  };
}

/**
 * Tells events in the words of an election. What repeats is told once, until something changes.
 */
function narrator(name: string, tell: ReturnType<typeof teller>) {
  let asked = false;
  const world = (role: RoleName) => (role === "PreCandidate" ? "Follower" : role);
  return (event: NodeEvent) => {
    switch (event.type) {
      case "preVoteLost":
        if (!asked) {
          tell(
            `Would get ${event.votes} of ${event.needed} votes needed: staying Follower, asking on`,
          );
        }
        asked = true;
        return;
      case "campaign":
        tell(`No valid RPC received in the last ${Math.round(event.silentMs)} milliseconds, `
          + "switching to Candidate");
        return tell("Starting vote...");
      case "voted":
        tell(`Voting for ${event.candidate}`);
        return tell(`Voted for ${event.candidate}`);
      case "votes":
        tell(`Received ${event.votes} votes`);
        if (event.elected) tell(`Received ${event.votes} votes. Switching to Leader`);
        return;
      case "role":
        if (world(event.from) === world(event.to)) return;
        return tell(`Switching state from ${world(event.from)} to ${world(event.to)}`);
      case "leader":
        asked = false;
        if (event.to !== undefined && event.to !== name) tell(`New leader: ${event.to}`);
        return tell(`Old Leader: ${event.from ?? "None"}, new leader: ${event.to ?? "None"}`);
      case "slow":
        return tell(
          `It took ${event.ms}ms to send a message to and receive a response from: ${event.peer}`,
          "WARNING",
        );
      case "unresolved":
        return tell(`The name of ${event.server.name} does not resolve; trying again`, "WARNING");
      case "foreign":
        return tell(
          `${event.server} was started with other members (${event.members}) and is not heard`,
          "WARNING",
        );
      case "recovered":
        if (event.cutBytes === 0) return;
        return tell(
          `Cut ${event.cutBytes} bytes of an unfinished write off the log, kept as log.cut`,
          "WARNING",
        );
      case "committed":
        return;
      default:
        event satisfies never;
    }
  };
}

// ------------------------------------------ One server ------------------------------------------

async function serve(flags: Flags): Promise<void> {
  const { host, port } = flags;
  if (!host || !port) {
    throw usage("A server needs --host and --port, and --peers unless it is alone.");
  }
  const self = parseServer(`${flags.name ?? `${host}:${port}`}=${host}:${port}`);
  const peers = list(flags).map(parseServer);
  const tell = teller(self.name, self.port);
  tell("Starting server...");
  tell(`Peers: [${peers.map((peer) => peer.name).join(", ")}]`);
  tell(peers.length > 0
    ? `${peers.length} peers configured, starting as Follower`
    : "No peers configured, starting as Leader");
  const node = await Node.start({
    ...self,
    peers: list(flags),
    directory: flags.data ?? path.join("raft-data", self.name),
    machine: new KeyValueStore(),
    cluster: flags.cluster,
    electionTimeoutMs: milliseconds(flags, "election-timeout"),
    heartbeatMs: milliseconds(flags, "heartbeat"),
    onEvent: narrator(self.name, tell),
  });
  tell(`Server listening on ${host}:${port}`);
  const stop = () => void node.stop();
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  process.on("disconnect", stop); // Whoever started this server for itself is gone.
  await node.stopped;
  tell("Server stopped");
  process.exit(0);
}

// ---------------------------------------- Three servers -----------------------------------------

async function trioNames(): Promise<{ servers: string[]; note?: string }> {
  const local = os.hostname();
  const found = await dns.lookup(local, 4).catch(() => undefined);
  const servers = ["127.0.0.1:48000", "localhost:48001"];
  if (found?.address.startsWith("127.")) return { servers: [...servers, `${local}:48002`] };
  const note = `This machine's name, ${local}, is not a loopback address: using 127.0.0.2.`;
  return { servers: [...servers, "127.0.0.2:48002"], note };
}

async function trio(flags: Flags): Promise<void> {
  const { servers, note } = await trioNames();
  const data = flags.data ?? mkdtempSync(path.join(os.tmpdir(), "raft-"));
  if (note) console.log(note);
  const children = servers.map((server) => {
    const [host = "", port = ""] = server.split(":");
    const peers = servers.filter((peer) => peer !== server).join(",");
    const command = [process.execPath, import.meta.path, "--host", host, "--port", port];
    const directory = path.join(data, server);
    command.push("--peers", peers, "--data", directory, "--cluster", flags.cluster);
    command.push("--election-timeout", flags["election-timeout"], "--heartbeat", flags.heartbeat);
    return Bun.spawn(command, { stdio: ["ignore", "inherit", "inherit"], ipc: () => {} });
  });
  const stop = () => {
    for (const child of children) child.disconnect();
  };
  process.on("SIGINT", stop);
  process.on("SIGTERM", stop);
  await Promise.all(children.map((child) => child.exited));
  if (!flags.data) await rm(data, { recursive: true, force: true });
  process.exit(0);
}

// ------------------------------------------- A client -------------------------------------------

const text = (bytes: Uint8Array) => Buffer.from(bytes);

async function client(flags: Flags, [verb = "", ...words]: string[]): Promise<number> {
  const servers = flags.peers ? list(flags) : (await trioNames()).servers;
  const timeoutMs = milliseconds(flags, "timeout");
  const raft = await Client.connect({ servers, cluster: flags.cluster, timeoutMs });
  const store = new KeyValues(raft);
  const [key = "", value = "", next = ""] = words;
  const bytes = (word: string) => Buffer.from(word);
  try {
    switch (verb) {
      case "put":
        await store.put(bytes(key), bytes(value));
        console.log("OK");
        return 0;
      case "get": {
        const found = await store.get(bytes(key));
        if (found) console.log(text(found).toString());
        return found ? 0 : 1;
      }
      case "delete":
        return (await store.delete(bytes(key))) ? 0 : 1;
      case "cas": {
        const done = await store.cas(bytes(key), bytes(value), bytes(next));
        return done ? 0 : 1;
      }
      default:
        for (const server of servers) console.log(await raft.inspect(parseServer(server).name));
        return 0;
    }
  } finally {
    raft.close();
  }
}

const { values, positionals } = parse();
try {
  if (values.help) console.log(HELP);
  else if (values.version) console.log(packageJson.version);
  else if (values.test) await trio(values);
  else if (positionals.length > 0) process.exit(await client(values, positionals));
  else await serve(values);
} catch (error) {
  console.error(String(error instanceof Error ? error.stack : error));
  process.exit(2);
}
