/** Runs many seeds on all cores, and sums up what happened in them. */
import os from "node:os";
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
 * Runs seeds until there are enough, time is up, or one fails. With several workers a later seed
 * may end before the first that fails: all seeds that were begun count.
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
    const worker = new Worker(new URL("worker.ts", import.meta.url));
    try {
      while (!isOver()) {
        const seed = next;
        next += 1;
        outcomes.push(await ask(worker, { seed, mode: mode ?? modeOf(seed) }));
        onProgress?.(outcomes.length);
      }
    } finally {
      worker.terminate();
    }
  };
  const count = Math.min(workers ?? os.availableParallelism(), seeds);
  await Promise.all(Array.from({ length: count }, work));
  outcomes.sort((a, b) => a.seed - b.seed);
  return { outcomes, seconds: (performance.now() - startedAt) / 1000 };
}

function ask(worker: Worker, task: Task): Promise<Outcome> {
  const { promise, resolve, reject } = Promise.withResolvers<Outcome>();
  worker.onmessage = ({ data }: MessageEvent<Outcome>) => resolve(data);
  worker.onerror = ({ message }) => reject(new Error(`seed ${task.seed} breaks off: ${message}`));
  worker.postMessage(task);
  return promise;
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

/** Returns how many runs had elections, operations, crashes and lost messages. */
export const livelyOnes = (outcomes: readonly Outcome[]): number =>
  reportsOf(outcomes).filter(({ elections, operations, crashes, messagesLost }) =>
    elections > 0 && operations > 0 && crashes > 0 && messagesLost > 0
  ).length;

/**
 * Among this many seeds, each kind of fault and operation occurs; otherwise the simulator is
 * broken.
 */
const ENOUGH_SEEDS = 50;

/** Returns the kinds of events that are missing from a run that is long enough for all of them. */
export function neverHappened(outcomes: readonly Outcome[]): string[] {
  if (outcomes.length < ENOUGH_SEEDS) return [];
  const { hash: _, ...counts } = sumOf(outcomes);
  const isFull = outcomes.some(({ mode }) => mode === "full");
  // One seed in ten loses any number of disks, and not each of these loses a majority.
  const isLong = outcomes.length >= 10 * ENOUGH_SEEDS;
  const isExpected = (name: string) =>
    (isFull || (name !== "powerCuts" && name !== "diskFaults"))
    && (isLong || name !== "refoundings");
  return Object.entries(counts).filter(([name, count]) => count === 0 && isExpected(name))
    .map(([name]) => name);
}

const HOUR_MS = 3_600_000;

/** Returns a summary of a run, to be read. */
export function tellSum({ outcomes, seconds }: Result): string {
  const sum = sumOf(outcomes);
  const count = (value: number) => Math.round(value).toLocaleString("en");
  const rows: [string, string][] = [
    [
      "seeds",
      `${count(outcomes.length)}, in ${count(livelyOnes(outcomes))} of them elections, `
      + "crashes, losses and operations",
    ],
    [
      "cluster-hours",
      `${(sum.simulatedMs / HOUR_MS).toFixed(1)} in ${seconds.toFixed(0)} s, `
      + `${count(sum.simulatedMs / seconds / 1000)} times faster than real time`,
    ],
    [
      "messages",
      `${count(sum.messagesSent)}: ${count(sum.messagesLost)} lost, `
      + `${count(sum.messagesDuplicated)} more than once`,
    ],
    [
      "crashes",
      `${count(sum.crashes)}, ${count(sum.powerCuts)} of them power cuts; `
      + `${count(sum.restarts)} restarts, ${count(sum.pauses)} pauses`,
    ],
    ["partitions", count(sum.partitions)],
    [
      "disks",
      `${count(sum.diskFaults)} failed for once, ${count(sum.lostDisks)} were lost, `
      + `and the cluster was founded again ${count(sum.refoundings)} times`,
    ],
    ["refusals", `${count(sum.refusals)}, and ${count(sum.forgeries)} that were forged`],
    ["elections", `${count(sum.elections)}, and ${count(sum.transfers)} requests to hand over`],
    ["members", `changed ${count(sum.changes)} times`],
    ["snapshots", `${count(sum.snapshots)}, and ${count(sum.installs)} installed from a leader`],
    ["operations", `${count(sum.operations)}, and ${count(sum.unknown)} without an answer`],
    ["hash", sum.hash.toString(16).padStart(8, "0")],
  ];
  return rows.map(([name, value]) => `${name.padEnd(14)} ${value}`).join("\n");
}
