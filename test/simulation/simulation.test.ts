/**
 * Tests that no promise is broken in many hostile worlds, each drawn from its seed: of the full
 * stack, and of the core alone. A failure names the command that tells the story of its seed.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import path from "node:path";
import { isThorough, SEEDS, slow } from "../support/thorough.ts";
import { hasFailed, livelyOnes, neverHappened, type Outcome, runSeeds, tellSum } from "./fleet.ts";
import { type Mode, modeOf, modes, replayOf, simulate } from "./modes.ts";

/** `RAFT_SEED=N` runs this seed alone, in each mode. */
const ONE = process.env["RAFT_SEED"];
const FROM = Number(ONE ?? 1);
const COUNT = ONE === undefined ? SEEDS : 1;
const LEAST_MS = 30_000;
setDefaultTimeout(840_000);

describe("the simulator", () => {
  test("finds no broken promise in any world", async () => {
    const outcomes: Outcome[] = [];
    let seconds = 0;
    for (const mode of modes) {
      const onProgress = (done: number) => {
        if (done % Math.ceil(COUNT / 5) === 0) console.log(`${done} of ${COUNT} seeds (${mode})`);
      };
      const result = await runSeeds({ from: FROM, seeds: COUNT, mode, onProgress });
      outcomes.push(...result.outcomes);
      seconds += result.seconds;
    }
    console.log(tellSum({ outcomes, seconds }));
    const failures = outcomes.filter(hasFailed).map(({ seed, mode, sentence }) =>
      `seed ${seed}: ${sentence}\nIts story: ${replayOf(seed, mode)}`
    );
    expect(failures).toEqual([]);
    expect(outcomes.length).toBe(COUNT * modes.length);
    const shortest = Math.min(
      ...outcomes.map((outcome) => "report" in outcome ? outcome.report.simulatedMs : 0),
    );
    expect(shortest).toBeGreaterThanOrEqual(LEAST_MS);
    expect(neverHappened(outcomes)).toEqual([]);
    // In some worlds no fault occurs, or there is one server, which sends no message to lose.
    if (COUNT > 1) expect(livelyOnes(outcomes)).toBeGreaterThan(0.8 * outcomes.length);
  });

  /** Each of these found a bug of raft.ts, or (40732) of its judge, the first time that it ran. */
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
    slow(`finds none where it once did (${mode}, seed ${seed})`, () => {
      expect(simulate(seed, mode).simulatedMs).toBeGreaterThanOrEqual(LEAST_MS);
    });
  }

  test.each([...modes])("does the same again from the same seed (%s)", async (mode) => {
    for (const seed of isThorough ? [41, 42, 43] : [41]) {
      const report = simulate(seed, mode);
      expect(simulate(seed, mode)).toEqual(report);
      expect(await sumElsewhere(seed, mode)).toBe(
        tellSum({ outcomes: [{ seed, mode, report }], seconds: 1 }).replace(WALL_CLOCK, ""),
      );
      expect(simulate(seed + 1, mode).hash).not.toBe(report.hash);
    }
  });

  test("tells every word of a run, and is not changed by telling it", () => {
    for (const seed of [5, 6]) {
      const story: string[] = [];
      const told = simulate(seed, modeOf(seed), (line) => story.push(line));
      expect(told).toEqual(simulate(seed, modeOf(seed)));
      for (const word of [/ was Candidate, is Leader in term \d/, /AppendEntries .*after \d+/]) {
        expect(story.some((line) => word.test(line))).toBe(true);
      }
      expect(story.length).toBeGreaterThan(told.elections + told.operations);
    }
  });
});

/** What differs from process to process. */
const WALL_CLOCK = / in \d+ s, .* times faster than real time/;

/** What another process says of a run. */
async function sumElsewhere(seed: number, mode: Mode): Promise<string> {
  const script = path.join(import.meta.dir, "../simulator.ts");
  const child = Bun.spawn([process.execPath, script, "--seed", `${seed}`, "--mode", mode]);
  const printed = await new Response(child.stdout).text();
  expect(await child.exited).toBe(0);
  return printed.trimEnd().replace(WALL_CLOCK, "");
}
