/**
 * Tests that no simulated run breaks a promise, neither of whole servers nor of the core alone.
 * Each seed draws other faults. A failure names the command that prints all events of its seed.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import path from "node:path";
import { isThorough, SEEDS, slow } from "../support/thorough.ts";
import { hasFailed, livelyOnes, neverHappened, runSeeds, tellSum } from "./fleet.ts";
import { type Mode, modeOf, modes, replayOf, simulate } from "./modes.ts";

/** `RAFT_SEED=N` runs only this seed, in each mode. */
const ONE = process.env["RAFT_SEED"];
const FROM = Number(ONE ?? 1);
const COUNTS = ONE === undefined ? SEEDS : { core: 1, full: 1 };
const LEAST_MS = 30_000;
setDefaultTimeout(840_000);

describe("the simulator", () => {
  test("finds no violation in any seed", async () => {
    const runs = modes.map((mode) => {
      const seeds = COUNTS[mode];
      const onProgress = (done: number) => {
        if (done % Math.ceil(seeds / 5) === 0) console.log(`${done} of ${seeds} seeds (${mode})`);
      };
      return runSeeds({ from: FROM, seeds, mode, onProgress });
    });
    const results = await Promise.all(runs);
    const outcomes = results.flatMap((result) => result.outcomes);
    const seconds = Math.max(...results.map((result) => result.seconds));
    console.log(tellSum({ outcomes, seconds }));
    const failures = outcomes.filter(hasFailed).map(({ seed, mode, sentence }) =>
      `seed ${seed}: ${sentence}\nTo run this seed again: ${replayOf(seed, mode)}`
    );
    expect(failures).toEqual([]);
    expect(outcomes.length).toBe(COUNTS.core + COUNTS.full);
    const shortest = Math.min(
      ...outcomes.map((outcome) => "report" in outcome ? outcome.report.simulatedMs : 0),
    );
    expect(shortest).toBeGreaterThanOrEqual(LEAST_MS);
    expect(neverHappened(outcomes)).toEqual([]);
    // Some seeds have no faults, or a single server, which sends no message to lose.
    if (ONE === undefined) expect(livelyOnes(outcomes)).toBeGreaterThan(0.8 * outcomes.length);
  });

  /** Seeds that have found a bug of raft.ts, or of the judge (40732). */
  const REGRESSIONS = [
    ["core", 110],
    ["core", 20288],
    ["core", 40732],
    ["core", 40812],
    ["full", 28],
    ["full", 48],
    ["full", 53],
    ["full", 32379],
  ] as const;

  for (const [mode, seed] of REGRESSIONS) {
    slow(`finds no violation in a seed that had one (${mode}, ${seed})`, () => {
      expect(simulate(seed, mode).simulatedMs).toBeGreaterThanOrEqual(LEAST_MS);
    });
  }

  test.each([...modes])("repeats a run exactly from the same seed (%s)", async (mode) => {
    for (const seed of isThorough ? [41, 42, 43] : [37]) {
      const report = simulate(seed, mode);
      expect(simulate(seed, mode)).toEqual(report);
      expect(await sumElsewhere(seed, mode)).toBe(
        tellSum({ outcomes: [{ seed, mode, report }], seconds: 1 }).replace(WALL_CLOCK, ""),
      );
      expect(simulate(seed + 1, mode).hash).not.toBe(report.hash);
    }
  });

  test("prints every event of a run, and a trace does not change the run", () => {
    for (const seed of [6, 13]) {
      const story: string[] = [];
      const told = simulate(seed, modeOf(seed), (line) => story.push(line));
      expect(told).toEqual(simulate(seed, modeOf(seed)));
      const ofChannels = [/Hello \d+ for channel/, /Welcome to channel/, /Hint: I have no channel/];
      const words = [
        / was Candidate, is Leader in term \d/,
        /AppendEntries .*after \d+/,
        ...modeOf(seed) === "full" ? ofChannels : [],
      ];
      for (const word of words) {
        expect(story.some((line) => word.test(line))).toBe(true);
      }
      expect(story.length).toBeGreaterThan(told.elections + told.operations);
    }
  });
});

/** The part of the summary that differs between processes. */
const WALL_CLOCK = / in \d+ s, .* times faster than real time/;

/** Returns the summary of a run in another process. */
async function sumElsewhere(seed: number, mode: Mode): Promise<string> {
  const script = path.join(import.meta.dir, "../simulator.ts");
  const child = Bun.spawn([process.execPath, script, "--seed", `${seed}`, "--mode", mode]);
  const printed = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return printed.trimEnd().replace(WALL_CLOCK, "");
}
