/**
 * Runs the systems that the benchmark compares. Each has three servers and a client, in separate
 * processes, on free ports of the loopback, with directories on a real disk.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync } from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { eventually, isFree } from "../support/processes.ts";
import type { Figures } from "./load.ts";

const BENCH = import.meta.dir;
/** Ports of a contestant, above its first one. Each etcd server needs two. */
const PEER = 10, CONTROL = 20, CLIENT = 30, LAST = 30;
export const ETCD_HELP = "Cannot find etcd. Install it, on Debian or Ubuntu: 'apt-get install "
  + "etcd-server' ('systemctl disable --now etcd' stops the service that this starts).";

export type Operation = {
  /** The load is inside the leader, in a client of the leader, or in a client of a follower. */
  via: "leader" | "client" | "follower";
  op: "put" | "get";
  inFlight: number;
};
/** The answer of a server to /stat. The counts are since its start. */
export type Stat = {
  leader: boolean;
  term: number;
  commitIndex: number;
  datagrams: number;
  sentBytes: number;
  syncs: number;
  writtenBytes: number;
  memoryBytes: number;
};

const FILE_SYSTEMS = new Map([
  [0x01021994, "tmpfs"],
  [0x858458f6, "ramfs"],
  [0xef53, "ext4"],
  [0x58465342, "xfs"],
  [0x9123683e, "btrfs"],
  [0x2fc12fc1, "zfs"],
  [0x794c7630, "overlay"],
]);
export const fileSystem = (directory: string): string => {
  const { type } = statfsSync(directory);
  return FILE_SYSTEMS.get(type) ?? `file system 0x${type.toString(16)}`;
};
export const isInMemory = (directory: string): boolean =>
  ["tmpfs", "ramfs"].includes(fileSystem(directory));

/** Makes a directory on a disk: in `wanted`, or in the system's temporary directory, or here. */
export function chooseDirectory(wanted: string | undefined): string {
  if (wanted !== undefined) mkdirSync(wanted, { recursive: true });
  const candidates = wanted === undefined ? [os.tmpdir(), process.cwd()] : [wanted];
  const found = candidates.find((directory) => !isInMemory(directory));
  if (found !== undefined) return mkdtempSync(path.join(found, "raft-bench-"));
  throw new Error(
    `Cannot measure syncs in ${candidates.join(" or ")}, which is in memory. `
      + `Choose a directory on a disk: --directory DIRECTORY.`,
  );
}

async function isFreeForTCP(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = net.createServer().once("error", () => resolve(false));
  server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  return await promise;
}

/** Returns the first of a row of free ports, below the ephemeral ports of the system. */
async function freeRow(): Promise<number> {
  for (;;) {
    const base = 10_000 + Math.floor(Math.random() * 22_000);
    const row = Array.from({ length: LAST + 1 }, (_, i) => base + i);
    const free = await Promise.all(
      row.map(async (port) => await isFree(port) && await isFreeForTCP(port)),
    );
    if (free.every(Boolean)) return base;
  }
}

const running = new Set<Bun.Subprocess>();

/** Kills all processes of all contestants. */
export async function endAllProcesses(): Promise<void> {
  for (const child of running) child.kill("SIGKILL");
  await Promise.all([...running].map((child) => child.exited));
}

function spawn(command: readonly string[], log: string): Bun.Subprocess {
  const child = Bun.spawn([...command], {
    stdio: ["ignore", Bun.file(`${log}.out`), Bun.file(`${log}.err`)],
    ipc: () => {}, // Our programs end when this channel closes.
    onExit: (child) => void running.delete(child),
  });
  running.add(child);
  return child;
}

async function ask<T>(url: string, withinMs: number, init?: RequestInit): Promise<T> {
  // Otherwise Bun times out after five minutes.
  const response = await fetch(url, {
    ...init,
    signal: AbortSignal.timeout(withinMs),
    timeout: false,
  });
  if (!response.ok) throw new Error(`${url}: ${response.status} ${await response.text()}`);
  return await response.json() as T;
}

const about = (pid: number, what: string): string => {
  try {
    return readFileSync(`/proc/${pid}/${what}`, "latin1");
  } catch {
    return "";
  }
};

/** Returns the CPU time of a process in ms (`man 5 proc_pid_stat`), or 0 if it has ended. */
function cpuOf(pid: number): number {
  const fields = about(pid, "stat").replace(/^.*\) /s, "").split(" ");
  return 10 * (Number(fields[11] ?? 0) + Number(fields[12] ?? 0));
}

/** Returns how long a process was ready to run but had no CPU, in ms. */
const waitOf = (pid: number): number => Number(about(pid, "schedstat").split(" ")[1]) / 1e6;

/** A system to measure: how to start its processes, and how to speak to them. */
export type Kind = {
  name: string;
  servers: number;
  server(index: number, base: number, directory: string): string[];
  client(port: number, base: number, leader: number): string[];
  stat(index: number, base: number): Promise<Stat>;
  /** Rejects unless one more command is committed. */
  put(index: number, base: number): Promise<unknown>;
  hasLoadInside: boolean;
  /** Returns the command that measures it without disk and network. */
  bare?(directory: string, ms: number): string[];
};

const bun = (
  program: string,
  ...args: (string | number)[]
) => [process.execPath, path.join(BENCH, program), ...args.map(String)];
const control = (index: number, base: number) => `http://127.0.0.1:${base + CONTROL + index}`;

const clientOf = (kind: string, file: string): Kind["client"] => (port, base, leader) => {
  const servers = [0, 1, 2].map((i) => `127.0.0.1:${base + (leader + i) % 3}`);
  return bun("client.ts", port, kind, servers.join(","), file);
};

/** Returns this version of raft.ts, or the one in `file`. */
export const ours = (name = "raft.ts", file = "", servers = 3): Kind => ({
  name,
  servers,
  server: (index, base, directory) => bun("server.ts", index, base, directory, file, servers),
  client: clientOf("raft", file),
  stat: (index, base) => ask(`${control(index, base)}/stat`, 1000),
  put: (index, base) => ask(`${control(index, base)}/put`, 1000),
  hasLoadInside: true,
  bare: (directory, ms) => bun("bare.ts", 1024, ms, directory, file),
});

const etcdURL = (port: number) => `http://127.0.0.1:${port}`;

function etcdCommand(index: number, base: number, directory: string): string[] {
  const [own, peer] = [etcdURL(base + index), etcdURL(base + PEER + index)];
  const all = [0, 1, 2].map((i) => `m${i}=${etcdURL(base + PEER + i)}`);
  return [
    // The kernel kills etcd when this process ends.
    ...["setpriv", "--pdeathsig", "KILL", "etcd", "--name", `m${index}`, "--data-dir", directory],
    ...["--listen-client-urls", own, "--advertise-client-urls", own],
    ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
    ...["--initial-cluster", all.join(","), "--initial-cluster-token", "bench"],
    ...["--logger", "zap", "--log-level", "error"],
  ];
}

/** Returns the installed etcd, with its defaults. Only rare calls use its JSON gateway. */
export const etcd = (version: string): Kind => ({
  name: `etcd ${version}`,
  servers: 3,
  server: etcdCommand,
  client: clientOf("etcd", ""),
  async stat(index, base) {
    type Answer = { header: { member_id: string }; leader?: string; raftTerm: string };
    const answer = await ask<Answer>(`${etcdURL(base + index)}/v3/maintenance/status`, 1000, {
      method: "POST",
      body: "{}",
    });
    return {
      leader: answer.leader === answer.header.member_id,
      term: Number(answer.raftTerm),
      commitIndex: 0,
      datagrams: 0,
      sentBytes: 0,
      syncs: 0,
      writtenBytes: 0,
      memoryBytes: 0,
    };
  },
  put: (index, base) =>
    ask(`${etcdURL(base + index)}/v3/kv/put`, 1000, {
      method: "POST",
      body: JSON.stringify({ key: "Zm8=", value: "MQ==" }),
    }),
  hasLoadInside: false,
});

/** Returns the version of the installed etcd, or undefined. */
export function etcdVersion(): string | undefined {
  if (Bun.which("etcd") === null) return undefined;
  const { stdout } = Bun.spawnSync(["etcd", "--version"]);
  return /etcd Version: (\S+)/.exec(stdout.toString())?.[1] ?? "of an unknown version";
}

/** Returns the CPU time of a commit without disk and network, for all three servers, in µs. */
export async function measureBare(kind: Kind, within: string, ms: number): Promise<number> {
  const directory = mkdtempSync(path.join(within, "bare-"));
  const log = path.join(directory, "bare");
  await spawn(kind.bare?.(directory, ms) ?? [], log).exited;
  const { cpuUs } = JSON.parse(readFileSync(`${log}.out`, "utf8")) as { cpuUs: number };
  rmSync(directory, { recursive: true });
  return cpuUs;
}

/** A new cluster of one system. */
export class Contestant {
  private readonly servers: Bun.Subprocess[] = [];
  private readonly directory: string;
  leader = 0;

  private constructor(readonly kind: Kind, private readonly base: number, within: string) {
    this.directory = mkdtempSync(path.join(within, "cluster-"));
  }

  /** Starts a cluster and its client. The cluster has a leader and has committed a command. */
  static async start(kind: Kind, within: string): Promise<Contestant> {
    const contestant = new Contestant(kind, await freeRow(), within);
    for (let i = 0; i < kind.servers; i += 1) contestant.startServer(i);
    await contestant.awaitLeader();
    const { directory, base, leader } = contestant;
    const port = base + CLIENT;
    spawn(kind.client(port, base, leader), path.join(directory, "client"));
    await contestant.answers(`http://127.0.0.1:${port}/stat`);
    return contestant;
  }

  place(index: number): string {
    return path.join(this.directory, `${index}`);
  }

  startServer(index: number): void {
    const place = this.place(index);
    this.servers[index] = spawn(this.kind.server(index, this.base, place), place);
  }

  async killServer(index: number): Promise<void> {
    this.servers[index]?.kill("SIGKILL");
    await this.servers[index]?.exited;
  }

  private async answers(url: string): Promise<void> {
    await eventually(`${url} answers`, () => ask(url, 1000).catch(() => undefined));
  }

  /** Waits for a leader that commits, and returns its number. */
  private async awaitLeader(): Promise<number> {
    this.leader = await eventually(
      `${this.kind.name} has a leader; logs are in ${this.directory}`,
      async () => {
        for (let i = 0; i < this.kind.servers; i += 1) {
          const stat = await this.kind.stat(i, this.base).catch(() => undefined);
          if (stat?.leader && await this.puts(i)) return i;
        }
      },
    );
    return this.leader;
  }

  private puts(index: number): Promise<boolean> {
    return this.kind.put(index, this.base).then(() => true, () => false);
  }

  /** Returns the answer of a server to /stat: of this one, or of the leader. */
  async stat(index?: number): Promise<Stat> {
    return await this.kind.stat(index ?? await this.awaitLeader(), this.base);
  }

  /**
   * Returns the CPU times of the servers so far, and how long the leader's first thread was ready
   * but had no CPU, in ms. NaN where there is no /proc.
   */
  cpu(): { all: number; leader: number; waited: number; each: number[] } {
    const each = this.servers.map(({ pid }) => cpuOf(pid));
    const { pid } = this.servers[this.leader] ?? {};
    return {
      all: each.reduce((sum, ms) => sum + ms, 0),
      leader: each[this.leader] ?? Number.NaN,
      waited: pid === undefined ? Number.NaN : waitOf(pid),
      each,
    };
  }

  /** Keeps operations in flight for a while. `more` are further parameters of `load`. */
  async measure(
    { via, op, inFlight }: Operation,
    ms: number,
    more: Record<string, number> = {},
  ): Promise<Figures> {
    const at = via === "leader"
      ? control(this.leader, this.base)
      : `http://127.0.0.1:${this.base + CLIENT}`;
    const query = Object.entries({ op, inflight: inFlight, ms, at: via, ...more });
    const words = query.map(([name, value]) => `${name}=${value}`).join("&");
    return await ask(`${at}/bench?${words}`, ms + 60_000);
  }

  /**
   * Kills or pauses the leader, and returns the milliseconds until a survivor commits. Each
   * survivor gets a put every 10 ms, so that a lost put does not hide a success.
   */
  async failover(signal: "SIGKILL" | "SIGSTOP"): Promise<number> {
    const killed = await this.awaitLeader();
    const survivors = [0, 1, 2].filter((i) => i !== killed);
    let committedAt = 0;
    const killedAt = performance.now();
    this.servers[killed]?.kill(signal);
    const attempt = async (i: number) => {
      if (await this.puts(i)) committedAt ||= performance.now();
    };
    for (; committedAt === 0; await Bun.sleep(10)) {
      for (const i of survivors) void attempt(i);
      if (performance.now() > killedAt + 60_000) {
        throw new Error("Cannot measure the failover: no other server led within a minute.");
      }
    }
    this.servers[killed]?.kill("SIGKILL");
    await this.servers[killed]?.exited;
    this.startServer(killed);
    await eventually(
      "the killed server has restarted",
      () => this.kind.stat(killed, this.base).catch(() => undefined),
    );
    return committedAt - killedAt;
  }

  async end(): Promise<void> {
    await endAllProcesses();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
