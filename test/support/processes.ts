/**
 * Real servers for tests: processes of `cli.ts` on free ports, with directories of their own.
 * `endAll` ends every process that a test has started, even if the test has failed.
 */
import dgram from "node:dgram";
import { mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { Client, KeyValues } from "../../raft.ts";

const CLI = path.join(import.meta.dir, "../../cli.ts");
const GENEROUS_MS = 30_000;

// What the shell that runs the tests shares with some cluster is not for theirs.
delete process.env["RAFT_SECRET"];
delete process.env["RAFT_CLIENT_KEY"];

export const bytes = (text: string): Uint8Array => new TextEncoder().encode(text);
export const text = (found: Uint8Array | undefined): string | undefined =>
  found && new TextDecoder().decode(found);

const endings: (() => void | Promise<void>)[] = [];

/** Kills every process, closes every client and removes every directory of the tests so far. */
export async function endAll(): Promise<void> {
  for (const end of endings.splice(0).reverse()) await end();
}

export function temporaryDirectory(): string {
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-test-"));
  endings.push(() => rmSync(directory, { recursive: true, force: true }));
  return directory;
}

/**
 * Asks again until there is an answer. How long things take says little on a busy machine, so the
 * limit is far beyond what is expected.
 */
export async function eventually<T>(
  what: string,
  probe: () => Promise<T | undefined> | T | undefined,
  withinMs = GENEROUS_MS,
): Promise<T> {
  const deadlineAt = performance.now() + withinMs;
  for (;;) {
    const found = await probe();
    if (found !== undefined) return found;
    if (performance.now() > deadlineAt) throw new Error(`Waited ${withinMs} ms in vain: ${what}`);
    await Bun.sleep(20);
  }
}

// ----------------------------------------- Processes -----------------------------------------

/** One run of `bun cli.ts`. */
export class Program {
  output = "";
  errors = "";
  /**
   * Resolves when nobody can write to the output any more: neither this process, nor any that it
   * started and that has inherited the pipe.
   */
  readonly closed: Promise<void>;
  private readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;

  /** `via` is a command that runs the rest of its line, elsewhere. */
  constructor(
    args: readonly string[],
    env: Record<string, string> = {},
    via: readonly string[] = [],
  ) {
    const { FORCE_COLOR: _, ...inherited } = process.env;
    this.child = Bun.spawn([...via, process.execPath, CLI, ...args], {
      env: { ...inherited, NO_COLOR: "1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      // A server ends with the process that holds the other end of this channel. If the test run
      // is killed, its servers do not stay behind.
      ipc: () => {},
    });
    endings.push(() => this.kill());
    this.closed = this.read();
  }

  get pid(): number {
    return this.child.pid;
  }

  get exited(): Promise<number> {
    return this.child.exited;
  }

  get isRunning(): boolean {
    return this.child.exitCode === null && this.child.signalCode === null;
  }

  /** To this process only, and not to whoever has its number after its end. */
  signal(signal: NodeJS.Signals): void {
    if (this.isRunning) this.child.kill(signal);
  }

  /** As `kill -9` does: the process has no say in it. */
  async kill(): Promise<void> {
    this.signal("SIGKILL");
    await this.exited;
  }

  private async read(): Promise<void> {
    const collect = async (from: ReadableStream<Uint8Array>, add: (text: string) => void) => {
      const decoder = new TextDecoder();
      for await (const chunk of from) add(decoder.decode(chunk, { stream: true }));
    };
    await Promise.all([
      collect(this.child.stdout, (more) => (this.output += more)),
      collect(this.child.stderr, (more) => (this.errors += more)),
    ]);
  }
}

/** Runs a command to its end; one that does not end is killed. */
export async function run(...args: string[]) {
  const program = new Program(args);
  const tooLong = setTimeout(() => program.kill(), GENEROUS_MS);
  const code = await program.exited;
  clearTimeout(tooLong);
  await program.closed;
  return { code, output: program.output.trim(), errors: program.errors.trim() };
}

/** The processes that a process has started and that still run, with their command lines. */
export function childrenOf(parent: number): { pid: number; command: string }[] {
  const all = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  return all.map(Number).flatMap((pid) => {
    const status = processStatus(pid);
    if (status?.parent !== parent || status.state === "Z") return [];
    return [{ pid, command: commandOf(pid) }];
  });
}

/** A zombie has ended: it only waits for a parent that asks how. */
export function isAlive(pid: number): boolean {
  const state = processStatus(pid)?.state;
  return state !== undefined && state !== "Z" && state !== "X";
}

/** Ends, at the latest with its test, a process that a program of ours has started. */
export function adopt({ pid, command }: { pid: number; command: string }): void {
  endings.push(() => {
    // After its end its number may belong to somebody else.
    if (isAlive(pid) && commandOf(pid) === command) process.kill(pid, "SIGKILL");
  });
}

const commandOf = (pid: number) =>
  readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ").trim();

function processStatus(pid: number): { state: string; parent: number } | undefined {
  try {
    // The name, in parentheses, may hold anything; the state and the parent follow it.
    const [state = "", parent] = readFileSync(`/proc/${pid}/stat`, "latin1")
      .replace(/^.*\) /s, "")
      .split(" ");
    return { state, parent: Number(parent) };
  } catch {
    return undefined;
  }
}

// ------------------------------------------- Ports -------------------------------------------

/** Whether nobody has the port now, on any address of this machine. */
export async function isFree(port: number): Promise<boolean> {
  const socket = dgram.createSocket("udp4");
  const { promise, resolve } = Promise.withResolvers<boolean>();
  socket.once("error", () => resolve(false));
  socket.bind({ address: "0.0.0.0", port, exclusive: true }, () => resolve(true));
  const free = await promise;
  socket.close();
  return free;
}

/**
 * Free ports below those that the system hands out by itself: while a server is down, no client's
 * socket must get the port to which that server returns.
 */
export async function freePorts(count: number): Promise<number[]> {
  const ports = new Set<number>();
  while (ports.size < count) {
    const port = 10_000 + Math.floor(Math.random() * 22_000);
    if (await isFree(port)) ports.add(port);
  }
  return [...ports].toSorted();
}

// ------------------------------------------ Clusters -----------------------------------------

export type Status = Awaited<ReturnType<Client["inspect"]>>;
export type Timing = { electionTimeoutMs: number; heartbeatMs: number };

/** Servers that know each other, each by the name under which `start` and `kill` know it. */
export class Cluster {
  readonly servers: readonly string[];
  readonly name = `test-${crypto.randomUUID().slice(0, 8)}`;
  readonly directory = temporaryDirectory();
  private readonly programs = new Map<string, Program>();
  private readonly stopped = new Set<string>();
  private observer: Promise<Client> | undefined;

  private constructor(ports: readonly number[], private readonly timing: Timing) {
    this.servers = ports.map((port) => `127.0.0.1:${port}`);
  }

  /** A cluster of which no server runs yet. */
  static async create(timing: Timing, size = 3): Promise<Cluster> {
    return new Cluster(await freePorts(size), timing);
  }

  /** A cluster that has a leader whom all follow. */
  static async start(timing: Timing, size = 3): Promise<Cluster> {
    const cluster = await Cluster.create(timing, size);
    cluster.startAll();
    await cluster.agreement();
    return cluster;
  }

  startAll(): void {
    for (const server of this.servers) this.start(server);
  }

  start(server: string): Program {
    const program = new Program(this.commandLine(server));
    this.programs.set(server, program);
    return program;
  }

  commandLine(server: string): string[] {
    const [host = "", port = ""] = server.split(":");
    const peers = this.others(server);
    const { electionTimeoutMs, heartbeatMs } = this.timing;
    return [
      ...["--host", host, "--port", port, "--data", path.join(this.directory, port)],
      ...["--cluster", this.name, "--heartbeat", String(heartbeatMs)],
      ...["--election-timeout", String(electionTimeoutMs)],
      ...(peers.length > 0 ? ["--peers", peers.join(",")] : []),
    ];
  }

  program(server: string): Program {
    const program = this.programs.get(server);
    if (!program) throw new Error(`${server} was never started`);
    return program;
  }

  /** The signals are on their way when this returns; the promise is for their effect. */
  kill(...servers: string[]): Promise<unknown> {
    return Promise.all(servers.map((server) => this.program(server).kill()));
  }

  pause(server: string): void {
    this.stopped.add(server);
    this.program(server).signal("SIGSTOP");
  }

  resume(server: string): void {
    this.stopped.delete(server);
    this.program(server).signal("SIGCONT");
  }

  /** Those that are neither dead nor paused. */
  get running(): string[] {
    const runs = (server: string) => this.programs.get(server)?.isRunning ?? false;
    return this.servers.filter((server) => runs(server) && !this.stopped.has(server));
  }

  others(server: string): string[] {
    return this.servers.filter((other) => other !== server);
  }

  /** What a server says of itself; undefined if it does not answer soon. */
  async status(server: string): Promise<Status | undefined> {
    this.observer ??= this.connect(this.servers, 1000);
    const observer = await this.observer;
    return await observer.inspect(server).catch(() => undefined);
  }

  /** What each of some servers says of itself, when all of them answer. */
  statuses(servers: readonly string[] = this.running): Promise<Status[]> {
    return eventually(`${servers.join(", ")} answer`, async () => {
      const all = await Promise.all(servers.map((server) => this.status(server)));
      const answered = all.filter((status) => status !== undefined);
      return answered.length === servers.length ? answered : undefined;
    });
  }

  /** Waits until all that run agree on a leader among them and its term, and tells who leads. */
  agreement(): Promise<string> {
    return eventually(`${this.running.join(", ")} agree on a leader`, async () => {
      const all = await this.statuses();
      const leads = all.find(({ role }) => role === "Leader");
      const agree = ({ leader, term }: Status) => leader === leads?.name && term === leads?.term;
      return all.every(agree) ? leads?.name : undefined;
    });
  }

  /** Waits until all that run have applied the same commands, as far as one can see from here. */
  convergence(): Promise<number> {
    return eventually(`${this.running.join(", ")} have applied the same`, async () => {
      const all = await this.statuses();
      const [first = 0, ...rest] = all.map(({ lastApplied }) => lastApplied);
      const last = Math.max(...all.map(({ lastIndex }) => lastIndex));
      return first === last && rest.every((applied) => applied === first) ? first : undefined;
    });
  }

  async connect(servers: readonly string[] = this.servers, timeoutMs = GENEROUS_MS) {
    const client = await Client.connect({ servers, cluster: this.name, timeoutMs });
    endings.push(() => client.close());
    return client;
  }

  /** A client of its own that remembers what the cluster owes it. */
  async ledger(servers?: readonly string[]): Promise<Ledger> {
    return new Ledger(new KeyValues(await this.connect(servers)));
  }
}

/** What was put and acknowledged, and so must be there for ever. */
export class Ledger {
  readonly acknowledged = new Map<string, string>();

  constructor(readonly store: KeyValues) {}

  async put(key: string, value: string = crypto.randomUUID()): Promise<void> {
    await this.store.put(bytes(key), bytes(value));
    this.acknowledged.set(key, value);
  }

  /** Puts that are all under way at the same time. */
  putMany(prefix: string, count: number): Promise<void>[] {
    const puts = Array.from({ length: count }, (_, i) => this.put(`${prefix}, number ${i}`));
    for (const put of puts) put.catch(() => {}); // Whoever awaits it hears of it.
    return puts;
  }

  async get(key: string): Promise<string | undefined> {
    return text(await this.store.get(bytes(key)));
  }

  /** Reads all of it back. Returns what is not there, or not with the value that it should have. */
  async missing(store = this.store): Promise<string[]> {
    const missing: string[] = [];
    const check = async ([key, value]: [string, string]) => {
      if (text(await store.get(bytes(key))) !== value) missing.push(key);
    };
    const all = [...this.acknowledged];
    for (let i = 0; i < all.length; i += 250) await Promise.all(all.slice(i, i + 250).map(check));
    return missing;
  }
}
