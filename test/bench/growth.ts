/**
 * Measures the cost of a commit with more servers, larger values, a longer log, a larger state, or
 * lost datagrams, and the cost of idling.
 */
import { readdirSync, statSync } from "node:fs";
import path from "node:path";
import { eventually } from "../support/processes.ts";
import { Contestant, ours, type Stat } from "./contestants.ts";
import type { Figures } from "./load.ts";

/** One line of the report. */
export type Finding = { part: string; what: string; text: string; figures: object };
export type Plan = {
  directory: string;
  /** Length of one measurement. */
  ms: number;
  /** Length of the longest log. */
  commands: number;
  progress(text: string): void;
  found(finding: Finding): void;
};

const HOURS = 3_600_000;
const put = (inFlight: number) => ({ via: "leader", op: "put", inFlight } as const);
const tell = (us: number) => `${(us / 1000).toFixed(us < 10_000 ? 2 : 0)} ms`;
const mebibytes = (bytes: number) => `${(bytes / 2 ** 20).toFixed(0)} MiB`;
const onDisk = (directory: string) =>
  readdirSync(directory).reduce((sum, name) => sum + statSync(path.join(directory, name)).size, 0);

type Costs = Figures & {
  cpuUs: number;
  leaderCPUUs: number;
  elections: number;
  datagrams: number;
  syncs: number;
  writtenBytes: number;
  memoryBytes: number;
};

/** Measures a load of commits and its costs. */
async function costs(
  cluster: Contestant,
  inFlight: number,
  ms: number,
  more: Record<string, number> = {},
): Promise<Costs> {
  const [before, cpuBefore] = [await cluster.stat(), cluster.cpu()];
  const figures = await cluster.measure(put(inFlight), ms, more);
  const [after, cpuAfter] = [await cluster.stat(), cluster.cpu()];
  const each = (count: "datagrams" | "syncs" | "writtenBytes") =>
    (after[count] - before[count]) / figures.ops;
  return {
    ...figures,
    cpuUs: (cpuAfter.all - cpuBefore.all) * 1000 / figures.ops,
    leaderCPUUs: (cpuAfter.leader - cpuBefore.leader) * 1000 / figures.ops,
    elections: after.term - before.term,
    datagrams: each("datagrams"),
    syncs: each("syncs"),
    writtenBytes: each("writtenBytes"),
    memoryBytes: after.memoryBytes,
  };
}

const describe = (c: Costs) =>
  `${Math.round(c.per_s)}/s, p50 ${tell(c.p50_us)}, p99 ${tell(c.p99_us)}, `
  + `${c.cpuUs.toFixed(0)} µs CPU (leader ${c.leaderCPUUs.toFixed(0)}), `
  + `${c.writtenBytes.toFixed(0)} B written`
  + (c.bad > 0 ? `, ${c.bad} failed` : "") + (c.elections > 0 ? `, ${c.elections} elections` : "");

async function withCluster(
  plan: Plan,
  servers: number,
  act: (cluster: Contestant) => Promise<void>,
): Promise<void> {
  const cluster = await Contestant.start(ours("raft.ts", "", servers), plan.directory);
  await cluster.measure(put(64), 1000);
  await act(cluster);
  await cluster.end();
}

async function measureServers({ ms, found, ...plan }: Plan): Promise<void> {
  for (const servers of [3, 5, 7]) {
    plan.progress(`a commit among ${servers} servers`);
    await withCluster({ ms, found, ...plan }, servers, async (cluster) => {
      for (const inFlight of [1, 64, 1024]) {
        const figures = await costs(cluster, inFlight, ms);
        found({
          part: "servers",
          what: `${servers} servers, ${inFlight} in flight`,
          text: `${describe(figures)}, ${figures.datagrams.toFixed(2)} datagrams`,
          figures,
        });
      }
    });
  }
}

async function measureSizes({ ms, found, ...plan }: Plan): Promise<void> {
  await withCluster({ ms, found, ...plan }, 3, async (cluster) => {
    for (const size of [16, 100, 1024, 16_384]) {
      plan.progress(`a commit of ${size} bytes`);
      for (const inFlight of [1, 64]) {
        const figures = await costs(cluster, inFlight, ms, { size });
        found({
          part: "values",
          what: `${size} B, ${inFlight} in flight`,
          text: `${describe(figures)}, ${mebibytes(figures.per_s * size)}/s`,
          figures,
        });
      }
    }
  });
}

/** Starts a server, and restart the milliseconds until it has committed all up to `commitIndex`. */
async function restart(cluster: Contestant, index: number, commitIndex: number): Promise<number> {
  const startedAt = performance.now();
  cluster.startServer(index);
  const hasCaughtUp = (stat: Stat | undefined) =>
    stat && stat.commitIndex >= commitIndex || undefined;
  await eventually(
    `server ${index} has caught up`,
    async () => hasCaughtUp(await cluster.stat(index).catch(() => undefined)),
    HOURS,
  );
  return performance.now() - startedAt;
}

const followerOf = ({ leader }: Contestant) => (leader + 1) % 3;

async function measureRestart(
  cluster: Contestant,
  what: string,
  { progress, found }: Plan,
): Promise<void> {
  progress(`a restart after ${what}`);
  const index = followerOf(cluster);
  const { commitIndex } = await cluster.stat();
  await cluster.killServer(index);
  const bytes = onDisk(cluster.place(index));
  const restartMs = await restart(cluster, index, commitIndex);
  const { memoryBytes } = await cluster.stat(index);
  found({
    part: "restart",
    what: `after ${what}`,
    text: `${restartMs.toFixed(0)} ms, ${mebibytes(bytes)} on its disk, `
      + `then ${mebibytes(memoryBytes)} in memory`,
    figures: { restartMs, bytes, memoryBytes },
  });
}

/** Measures commits after a growing number of commands with a small state, and a restart. */
async function measureLength(plan: Plan): Promise<void> {
  const { ms, found, progress } = plan;
  await withCluster(plan, 3, async (cluster) => {
    let behind = 0;
    for (let commands = 10_000; commands <= plan.commands; commands *= 10) {
      progress(`${commands} commands`);
      await cluster.measure(put(1024), HOURS, { count: commands - behind });
      behind = commands;
      for (const inFlight of [1, 64]) {
        const figures = await costs(cluster, inFlight, ms);
        const { memoryBytes } = figures;
        found({
          part: "log",
          what: `after ${commands} commands, ${inFlight} in flight`,
          text: `${describe(figures)}, leader has ${mebibytes(memoryBytes)}`,
          figures,
        });
      }
    }
    await measureRestart(cluster, `${behind} commands, 1000 keys`, plan);
  });
}

/** With ten times as many, three servers need more memory than most machines have. */
const MAX_KEYS = 1_000_000;

/** Measures a large state with a key for each command, and a follower that misses as many. */
async function measureState(plan: Plan): Promise<void> {
  const { found, progress } = plan;
  const keys = Math.min(plan.commands, MAX_KEYS);
  const count = keys;
  await withCluster(plan, 3, async (cluster) => {
    progress(`${keys} keys`);
    const figures = await costs(cluster, 1024, HOURS, { keys, count });
    found({
      part: "state",
      what: `growing to ${keys} keys, 1024 in flight`,
      text: `${describe(figures)}, leader has ${mebibytes(figures.memoryBytes)}`,
      figures,
    });
    await measureRestart(cluster, `${count} commands, ${keys} keys`, plan);
    progress(`a follower misses ${count} commands`);
    const index = followerOf(cluster);
    await cluster.killServer(index);
    await cluster.measure(put(1024), HOURS, { keys, count });
    const before = await costs(cluster, 64, 2000, { keys });
    const { commitIndex } = await cluster.stat();
    const [during, catchUpMs] = await Promise.all([
      costs(cluster, 64, 8000, { keys }),
      restart(cluster, index, commitIndex),
    ]);
    const bytes = onDisk(cluster.place(index));
    found({
      part: "catch-up",
      what: `${count} commands behind, 64 in flight meanwhile`,
      text: `${(catchUpMs / 1000).toFixed(1)} s, ${mebibytes(bytes)} on its disk; commits before `
        + `${describe(before)}; for 8 s from then ${describe(during)}`,
      figures: { catchUpMs, bytes, before, during },
    });
  });
}

async function measureIdle(plan: Plan): Promise<void> {
  const IDLE_MS = 10_000;
  await withCluster(plan, 3, async (cluster) => {
    plan.progress("three idle servers");
    await Bun.sleep(1000);
    const all = [0, 1, 2];
    const written = () => Promise.all(all.map(async (i) => (await cluster.stat(i)).writtenBytes));
    const [before, cpuBefore] = [await written(), cluster.cpu().each];
    await Bun.sleep(IDLE_MS);
    const [after, cpuAfter] = [await written(), cluster.cpu().each];
    const bytes = all.map((i) => (after[i] ?? 0) - (before[i] ?? 0));
    const shares = all.map((i) => ((cpuAfter[i] ?? 0) - (cpuBefore[i] ?? 0)) / IDLE_MS);
    plan.found({
      part: "idle",
      what: "three idle servers",
      text: `${shares.map((share) => `${(share * 100).toFixed(1)} %`).join(", ")} of a core; `
        + `${bytes.join(", ")} bytes written`,
      figures: { shares, bytes },
    });
  });
}

function dropDatagrams(share: number): void {
  const run = (...words: string[]) => {
    const { exitCode, stderr } = Bun.spawnSync(words);
    if (exitCode !== 0) throw new Error(`${words.join(" ")}: ${stderr.toString()}`);
  };
  run("ip", "link", "set", "lo", "up");
  run("iptables", "-F", "INPUT");
  if (share === 0) return;
  const rule = ["-p", "udp", "-m", "statistic", "--mode", "random", "--probability", `${share}`];
  run("iptables", "-A", "INPUT", ...rule, "-j", "DROP");
}

/** Measures lost datagrams. `bench.ts` restarts itself in a private network for this. */
export async function measureLoss(plan: Plan): Promise<void> {
  dropDatagrams(0);
  await withCluster(plan, 3, async (cluster) => {
    for (const percent of [0, 1, 5, 20]) {
      dropDatagrams(percent / 100);
      for (const inFlight of [1, 64, 1024]) {
        plan.progress(`${percent} % of the datagrams are lost, ${inFlight} in flight`);
        const figures = await costs(cluster, inFlight, 5 * plan.ms);
        plan.found({
          part: "loss",
          what: `${percent} % lost, ${inFlight} in flight`,
          text: describe(figures),
          figures,
        });
      }
    }
  });
}

/** Counts elections under full load. There should be none. */
export async function measureSteadiness(plan: Plan, minutes: number): Promise<void> {
  await withCluster(plan, 3, async (cluster) => {
    plan.progress(`full load for ${minutes} minutes`);
    const figures = await costs(cluster, 1024, minutes * 60_000);
    plan.found({
      part: "steadiness",
      what: `1024 in flight for ${minutes} minutes`,
      text: `${describe(figures)}, ${figures.elections} elections, the leader has `
        + mebibytes(figures.memoryBytes),
      figures,
    });
  });
}

export async function measureGrowth(plan: Plan): Promise<void> {
  await measureServers(plan);
  await measureSizes(plan);
  await measureIdle(plan);
  await measureLength(plan);
  await measureState(plan);
}
