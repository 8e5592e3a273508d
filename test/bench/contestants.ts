/**
 * The systems that the benchmark compares: three servers and a client each, all processes of their
 * own, on free ports of the loopback, with directories on a real disk.
 */
import { mkdirSync, mkdtempSync, readFileSync, rmSync, statfsSync } from "node:fs";
import net from "node:net";
import os from "node:os";
import path from "node:path";
import { eventually, isFree } from "../support/processes.ts";
import type { Figures } from "./load.ts";

const BENCH = import.meta.dir;
/** Where, above its first port, a contestant has what: its servers need two each, for etcd. */
const PEER = 10, CONTROL = 20, CLIENT = 30, LAST = 30;
export const ETCD_HELP = "etcd is not installed. On Debian or Ubuntu: 'apt-get install "
  + "etcd-server' (and 'systemctl disable --now etcd', if it is not to run otherwise).";

/** A load is in the leader, or in a client that asks the leader, or a follower. */
export type Operation = {
  via: "leader" | "client" | "follower";
  op: "put" | "get";
  inFlight: number;
};
/** What the leader says of itself; the counts are since it started. */
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
  [
    0x58465342,
    "xfs",
  ],
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

/** A directory on a disk: of the system's for such things, or else here. */
export function chooseDirectory(wanted: string | undefined): string {
  if (wanted !== undefined) mkdirSync(wanted, { recursive: true });
  const candidates = wanted === undefined ? [os.tmpdir(), process.cwd()] : [wanted];
  const found = candidates.find((directory) => !isInMemory(directory));
  if (found !== undefined) return mkdtempSync(path.join(found, "raft-bench-"));
  throw new Error(
    `A sync costs nothing in memory, and nothing else is in `
      + `${candidates.join(" or ")}. Choose a directory on a disk: --directory DIRECTORY.`,
  );
}

async function isFreeForTCP(port: number): Promise<boolean> {
  const { promise, resolve } = Promise.withResolvers<boolean>();
  const server = net.createServer().once("error", () => resolve(false));
  server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  return await promise;
}

/** The first of a row of ports that are free, below those that the system hands out by itself. */
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

/** Ends every process that a contestant has started. */
export async function endAllProcesses(): Promise<void> {
  for (const child of running) child.kill("SIGKILL");
  await Promise.all([...running].map((child) => child.exited));
}

function spawn(command: readonly string[], log: string): Bun.Subprocess {
  const child = Bun.spawn([...command], {
    stdio: ["ignore", Bun.file(`${log}.out`), Bun.file(`${log}.err`)],
    ipc: () => {}, // By its end our own programs know that this process has ended.
    onExit: (child) => void running.delete(child),
  });
  running.add(child);
  return child;
}

async function ask<T>(url: string, withinMs: number, init?: RequestInit): Promise<T> {
  // Bun would give up after five minutes.
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

/** By `man proc`: user and system time, in hundredths of a second, behind the name; 0 if it ended. */
function cpuOf(pid: number): number {
  const fields = about(pid, "stat").replace(/^.*\) /s, "").split(" ");
  return 10 * (Number(fields[11] ?? 0) + Number(fields[12] ?? 0));
}

/** How long it could have run, and did not: the second of three numbers, in nanoseconds. */
const waitOf = (pid: number): number => Number(about(pid, "schedstat").split(" ")[1]) / 1e6;

/** What differs between us and others: how to start a process, and how to talk to it. */
export type Kind = {
  name: string;
  servers: number;
  server(index: number, base: number, directory: string): string[];
  client(port: number, base: number, leader: number): string[];
  stat(index: number, base: number): Promise<Stat>;
  /** Rejects unless one more command is committed. */
  put(index: number, base: number): Promise<unknown>;
  hasLoadInside: boolean;
  /** Measures it without disk and network. */
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

/** This raft.ts, or the version of it in `file`. */
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
    // etcd does not know that it belongs to this process, but the kernel does.
    ...["setpriv", "--pdeathsig", "KILL", "etcd", "--name", `m${index}`, "--data-dir", directory],
    ...["--listen-client-urls", own, "--advertise-client-urls", own],
    ...["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer],
    ...["--initial-cluster", all.join(","), "--initial-cluster-token", "bench"],
    ...["--logger", "zap", "--log-level", "error"],
  ];
}

/** etcd as its package installs it, with its defaults. Few calls go through the JSON gateway. */
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

/** Which etcd is installed; undefined if none is. */
export function etcdVersion(): string | undefined {
  if (Bun.which("etcd") === null) return undefined;
  const { stdout } = Bun.spawnSync(["etcd", "--version"]);
  return /etcd Version: (\S+)/.exec(stdout.toString())?.[1] ?? "of an unknown version";
}

/** How many microseconds of CPU a commit costs three servers that have no disk and no network. */
export async function measureBare(kind: Kind, within: string, ms: number): Promise<number> {
  const directory = mkdtempSync(path.join(within, "bare-"));
  const log = path.join(directory, "bare");
  await spawn(kind.bare?.(directory, ms) ?? [], log).exited;
  const { cpuUs } = JSON.parse(readFileSync(`${log}.out`, "utf8")) as { cpuUs: number };
  rmSync(directory, { recursive: true });
  return cpuUs;
}

/** A fresh cluster of one kind. */
export class Contestant {
  private readonly servers: Bun.Subprocess[] = [];
  private readonly directory: string;
  leader = 0;

  private constructor(readonly kind: Kind, private readonly base: number, within: string) {
    this.directory = mkdtempSync(path.join(within, "cluster-"));
  }

  /** A cluster that has a leader and has committed something. */
  static async start(kind: Kind, within: string): Promise<Contestant> {
    const contestant = new Contestant(kind, await freeRow(), within);
    for (let i = 0; i < kind.servers; i += 1) contestant.startServer(i);
    await contestant.settle();
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

  /** Waits for a leader that commits, and tells who it is. */
  private async settle(): Promise<number> {
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

  /** What the leader says of itself, or another. */
  async stat(index?: number): Promise<Stat> {
    return await this.kind.stat(index ?? await this.settle(), this.base);
  }

  /**
   * How many milliseconds of CPU the servers have used so far, and how long the leader's first
   * thread had to wait for one, where there is /proc to tell.
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

  /** Keeps operations under way for a while. `more` is as for `load`. */
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
   * How many milliseconds after a signal to the leader, that ends or stops it, a survivor commits.
   * Each survivor is given a put every 10 ms, so that none that was lost hides a later success.
   */
  async failover(signal: "SIGKILL" | "SIGSTOP"): Promise<number> {
    const killed = await this.settle();
    const survivors = [0, 1, 2].filter((i) => i !== killed);
    let committedAt = 0;
    const killedAt = performance.now();
    this.servers[killed]?.kill(signal);
    const attempt = async (i: number) => {
      if (await this.puts(i)) committedAt ||= performance.now();
    };
    for (; committedAt === 0; await Bun.sleep(10)) {
      for (const i of survivors) void attempt(i);
      if (performance.now() > killedAt + 60_000) throw new Error("Nobody took over in a minute.");
    }
    this.servers[killed]?.kill("SIGKILL");
    await this.servers[killed]?.exited;
    this.startServer(killed);
    await eventually(
      "the killed server is back",
      () => this.kind.stat(killed, this.base).catch(() => undefined),
    );
    return committedAt - killedAt;
  }

  async end(): Promise<void> {
    await endAllProcesses();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
