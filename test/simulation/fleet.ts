/** Runs many seeds on all cores, and sums up their reports. */
import os from "node:os";
import path from "node:path";
import { type Mode, modeOf } from "./modes.ts";
import { addReport, emptyReport, type Report } from "./report.ts";

export type Task = { seed: number; mode: Mode };
export type Outcome = Task & ({ report: Report } | { sentence: string });
export type Options = {
  from: number;
  seeds: number;
  minutes?: number | undefined;
  mode?: Mode | undefined;
  workers?: number | undefined;
  /** Called after each run, with the number of runs so far. */
  onProgress?: (done: number) => void;
};
export type Result = { outcomes: readonly Outcome[]; seconds: number };

/**
 * Runs seeds until all are done, the time is up, or one fails. With several workers a later seed
 * may end before the first failure, so all seeds that have started count.
 */
export async function runSeeds(options: Options): Promise<Result> {
  const { from, seeds, minutes, mode, workers, onProgress } = options;
  const startedAt = performance.now();
  const endsAt = startedAt + (minutes ?? Number.POSITIVE_INFINITY) * 60_000;
  const outcomes: Outcome[] = [];
  let next = from;
  const isOver = () =>
    next >= from + seeds || performance.now() > endsAt || outcomes.some(hasFailed);
  const work = async () => {
    const worker = startWorker();
    try {
      while (!isOver()) {
        const seed = next;
        next += 1;
        outcomes.push(await worker.ask({ seed, mode: mode ?? modeOf(seed) }));
        onProgress?.(outcomes.length);
      }
    } finally {
      worker.child.kill();
    }
  };
  const count = Math.min(workers ?? os.availableParallelism(), seeds);
  await Promise.all(Array.from({ length: count }, work));
  outcomes.sort((a, b) => a.seed - b.seed);
  return { outcomes, seconds: (performance.now() - startedAt) / 1000 };
}

/** Starts a process for one run after the other. In threads of `bun test` they take much longer. */
function startWorker() {
  let answer: PromiseWithResolvers<Outcome> | undefined;
  const child = Bun.spawn([process.execPath, path.join(import.meta.dir, "worker.ts")], {
    stdio: ["ignore", "ignore", "inherit"],
    ipc: (outcome: Outcome) => answer?.resolve(outcome),
    onExit: (_, code) => answer?.reject(new Error(`a run ended its process with ${code}`)),
  });
  const ask = (task: Task): Promise<Outcome> => {
    answer = Promise.withResolvers<Outcome>();
    child.send(task);
    return answer.promise;
  };
  return { child, ask };
}

export const hasFailed = (outcome: Outcome): outcome is Task & { sentence: string } =>
  "sentence" in outcome;

const reportsOf = (outcomes: readonly Outcome[]): Report[] =>
  outcomes.flatMap((outcome) => "report" in outcome ? [outcome.report] : []);

/** Returns the sum of all reports. */
export function sumOf(outcomes: readonly Outcome[]): Report {
  const sum = emptyReport();
  for (const report of reportsOf(outcomes)) addReport(sum, report);
  return sum;
}

/** Returns the number of runs with elections, operations, crashes and lost messages. */
export const livelyOnes = (outcomes: readonly Outcome[]): number =>
  reportsOf(outcomes).filter(({ elections, operations, crashes, messagesLost }) =>
    elections > 0 && operations > 0 && crashes > 0 && messagesLost > 0
  ).length;

/** If a kind of fault or operation is missing in this many seeds, the simulator is broken. */
const ENOUGH_SEEDS = 50;

const FULL_ONLY = ["powerCuts", "diskFaults", "handshakes", "renewals", "rotations", "parts"];

/** Returns the kinds of faults and operations that are missing, if there are enough seeds. */
export function neverHappened(outcomes: readonly Outcome[]): string[] {
  if (outcomes.length < ENOUGH_SEEDS) return [];
  const { hash: _, ...counts } = sumOf(outcomes);
  const isFull = outcomes.some(({ mode }) => mode === "full");
  // Only one seed in ten may lose a majority of the disks.
  const isLong = outcomes.length >= 10 * ENOUGH_SEEDS;
  const isExpected = (name: string) =>
    (isFull || !FULL_ONLY.includes(name))
    && (isLong || name !== "refoundings");
  return Object.entries(counts).filter(([name, count]) => count === 0 && isExpected(name))
    .map(([name]) => name);
}

const HOUR_MS = 3_600_000;

/** Returns a summary of the runs as text. */
export function tellSum({ outcomes, seconds }: Result): string {
  const sum = sumOf(outcomes);
  const count = (value: number) => Math.round(value).toLocaleString("en");
  const rows: [string, string][] = [
    [
      "seeds",
      `${count(outcomes.length)}, ${count(livelyOnes(outcomes))} of them with elections, crashes, `
      + "losses and operations",
    ],
    [
      "cluster-hours",
      `${(sum.simulatedMs / HOUR_MS).toFixed(1)} in ${seconds.toFixed(0)} s, `
      + `${count(sum.simulatedMs / seconds / 1000)} times faster than real time`,
    ],
    [
      "messages",
      `${count(sum.messagesSent)}: ${count(sum.messagesLost)} lost, `
      + `${count(sum.messagesDuplicated)} duplicated`,
    ],
    [
      "crashes",
      `${count(sum.crashes)}, ${count(sum.powerCuts)} of them power cuts; `
      + `${count(sum.restarts)} restarts, ${count(sum.pauses)} pauses`,
    ],
    ["partitions", count(sum.partitions)],
    [
      "disks",
      `${count(sum.diskFaults)} errors, ${count(sum.lostDisks)} lost, `
      + `and ${count(sum.refoundings)} new foundings of the cluster`,
    ],
    ["refusals", `${count(sum.refusals)} of closed ports`],
    ["attacks", `${count(sum.forgeries)} times something forged, or a recording`],
    [
      "channels",
      `${count(sum.handshakes)} handshakes, ${count(sum.renewals)} renewals, `
      + `${count(sum.rotations)} secrets replaced, ${count(sum.parts)} parts`,
    ],
    ["elections", `${count(sum.elections)}, and ${count(sum.transfers)} transfer requests`],
    ["members", `${count(sum.changes)} changes`],
    ["snapshots", `${count(sum.snapshots)}, and ${count(sum.installs)} installed from a leader`],
    ["operations", `${count(sum.operations)}, and ${count(sum.unknown)} with an unknown outcome`],
    ["hash", sum.hash.toString(16).padStart(8, "0")],
  ];
  return rows.map(([name, value]) => `${name.padEnd(14)} ${value}`).join("\n");
}
