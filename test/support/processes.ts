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

// The tests have secrets of their own: the shell's may belong to a real cluster.
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
 * Asks again until there is an answer. The limit is far beyond the expected time, because a busy
 * machine may be slow.
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
    if (performance.now() > deadlineAt) throw new Error(`Not within ${withinMs} ms: ${what}`);
    await Bun.sleep(20);
  }
}

/** Works on two elements of a list at a time. More at once could make commands time out. */
export async function inPairs<T>(
  list: Iterable<T>,
  work: (element: T) => Promise<void>,
): Promise<void> {
  const rest = [...list];
  const lane = async () => {
    for (let next = rest.shift(); next !== undefined; next = rest.shift()) await work(next);
  };
  await Promise.all([lane(), lane()]);
}

// ----------------------------------------- Processes -----------------------------------------

/** One run of `bun cli.ts`. */
export class Program {
  output = "";
  errors = "";
  /**
   * Resolves when the output is closed: this process has ended, and so have all that it started and
   * that inherited the pipe.
   */
  readonly closed: Promise<void>;
  private readonly child: Bun.Subprocess<"ignore", "pipe", "pipe">;

  /** `via` is a command that runs the rest of its line in another place. */
  constructor(
    args: readonly string[],
    env: Record<string, string> = {},
    via: readonly string[] = [],
  ) {
    const { FORCE_COLOR: _, ...inherited } = process.env;
    this.child = Bun.spawn([...via, process.execPath, CLI, ...args], {
      env: { ...inherited, NO_COLOR: "1", ...env },
      stdio: ["ignore", "pipe", "pipe"],
      // A server ends when the other end of this channel closes, so a killed test run leaves no
      // servers behind.
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

  /** Signals this process, and after its end no other one that reuses its id. */
  signal(signal: NodeJS.Signals): void {
    if (this.isRunning) this.child.kill(signal);
  }

  /** Kills as `kill -9` does. */
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

/** Runs a command to its end. Kills it if it takes too long. */
export async function run(...args: string[]) {
  const program = new Program(args);
  const tooLong = setTimeout(() => program.kill(), GENEROUS_MS);
  const code = await program.exited;
  clearTimeout(tooLong);
  await program.closed;
  return { code, output: program.output.trim(), errors: program.errors.trim() };
}

/** Returns the running children of a process, with their command lines. */
export function childrenOf(parent: number): { pid: number; command: string }[] {
  const all = readdirSync("/proc").filter((entry) => /^\d+$/.test(entry));
  return all.map(Number).flatMap((pid) => {
    const status = processStatus(pid);
    if (status?.parent !== parent || status.state === "Z") return [];
    return [{ pid, command: commandOf(pid) }];
  });
}

/** Returns whether a process runs. A zombie has ended: it waits for its parent to collect it. */
export function isAlive(pid: number): boolean {
  const state = processStatus(pid)?.state;
  return state !== undefined && state !== "Z" && state !== "X";
}

/** Registers a process that a program of a test has started, so that it ends with the test. */
export function adopt({ pid, command }: { pid: number; command: string }): void {
  endings.push(() => {
    // After its end another process may have its id.
    if (isAlive(pid) && commandOf(pid) === command) process.kill(pid, "SIGKILL");
  });
}

const commandOf = (pid: number) =>
  readFileSync(`/proc/${pid}/cmdline`, "latin1").replaceAll("\0", " ").trim();

function processStatus(pid: number): { state: string; parent: number } | undefined {
  try {
    // The name, in parentheses, may contain any characters. State and parent follow it.
    const [state = "", parent] = readFileSync(`/proc/${pid}/stat`, "latin1")
      .replace(/^.*\) /s, "")
      .split(" ");
    return { state, parent: Number(parent) };
  } catch {
    return undefined;
  }
}

// ------------------------------------------- Ports -------------------------------------------

/** Returns whether a port is free on all addresses of this machine. */
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
 * Returns free ports outside the system's ephemeral range: while a server is down, no client's
 * socket may get its port.
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

/** A cluster of processes. Its servers are named by their addresses. */
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

  /** Returns a cluster whose servers are not started yet. */
  static async create(timing: Timing, size = 3): Promise<Cluster> {
    return new Cluster(await freePorts(size), timing);
  }

  /** Returns a cluster whose servers agree on a leader. */
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

  /** Sends the signals before it returns. Resolves when the processes have ended. */
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

  /** The servers that are neither dead nor paused. */
  get running(): string[] {
    const runs = (server: string) => this.programs.get(server)?.isRunning ?? false;
    return this.servers.filter((server) => runs(server) && !this.stopped.has(server));
  }

  others(server: string): string[] {
    return this.servers.filter((other) => other !== server);
  }

  /** Returns a server's status, or undefined if it does not answer soon. */
  async status(server: string): Promise<Status | undefined> {
    this.observer ??= this.connect(this.servers, 1000);
    const observer = await this.observer;
    return await observer.inspect(server).catch(() => undefined);
  }

  /** Returns the status of servers once all of them answer. */
  statuses(servers: readonly string[] = this.running): Promise<Status[]> {
    return eventually(`${servers.join(", ")} answer`, async () => {
      const all = await Promise.all(servers.map((server) => this.status(server)));
      const answered = all.filter((status) => status !== undefined);
      return answered.length === servers.length ? answered : undefined;
    });
  }

  /** Waits until all running servers agree on a leader and its term. Returns the leader. */
  agreement(): Promise<string> {
    return eventually(`${this.running.join(", ")} agree on a leader`, async () => {
      const all = await this.statuses();
      const leads = all.find(({ role }) => role === "Leader");
      const agree = ({ leader, term }: Status) => leader === leads?.name && term === leads?.term;
      return all.every(agree) ? leads?.name : undefined;
    });
  }

  /** Waits until all running servers have applied the whole log. Returns its last index. */
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

  /** Returns a new client with a ledger of acknowledged writes. */
  async ledger(servers?: readonly string[]): Promise<Ledger> {
    return new Ledger(new KeyValues(await this.connect(servers)));
  }
}

/** The writes that were acknowledged, and so must be there forever. */
export class Ledger {
  readonly acknowledged = new Map<string, string>();

  constructor(readonly store: KeyValues) {}

  async put(key: string, value: string = crypto.randomUUID()): Promise<void> {
    await this.store.put(bytes(key), bytes(value));
    this.acknowledged.set(key, value);
  }

  /** Starts many puts at the same time. */
  putMany(prefix: string, count: number): Promise<void>[] {
    const puts = Array.from({ length: count }, (_, i) => this.put(`${prefix}, number ${i}`));
    for (const put of puts) put.catch(() => {}); // The caller that awaits a put sees its error.
    return puts;
  }

  async get(key: string): Promise<string | undefined> {
    return text(await this.store.get(bytes(key)));
  }

  /** Reads all keys back. Returns those that are missing or have a wrong value. */
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
