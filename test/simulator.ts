/**
 * The simulator: servers and clients in a hostile world, in virtual time. One number, the seed,
 * decides everything that happens. See `--help`.
 */
import { parseArgs } from "node:util";
import { hasFailed, neverHappened, runSeeds, tellSum } from "./simulation/fleet.ts";
import { type Mode, modeOf, modes, replayOf, simulate } from "./simulation/modes.ts";

const HELP = `A cluster in a hostile world that one number decides.

  bun test/simulator.ts --seed N [--trace]        one run; --trace tells all of it as a story
  bun test/simulator.ts --seeds N [--from K]      N runs, from seed K on (default: 1), on all cores
  bun test/simulator.ts --minutes M [--from K]    as many as there is time for

  --mode full    servers with their log files, the wire, retries and clients (by itself: odd seeds)
  --mode core    the algorithm alone, with all that the network does to it   (by itself: even seeds)
  --workers W    how many seeds at a time (default: one per core)

A run that finds something wrong says which seed it was, what is wrong, and how it came to that.
Exit codes: 0 nothing is wrong; 1 something is; 2 wrong usage.`;

/** How much of the story is told of a run that went wrong. */
const TAIL_LINES = 60;

function tellFailure(seed: number, mode: Mode, sentence: string): void {
  const story: string[] = [];
  try {
    simulate(seed, mode, (line) => {
      if (story.push(line) > 2 * TAIL_LINES) story.splice(0, TAIL_LINES);
    });
  } catch {} // It is known to fail.
  console.log(`seed ${seed}: ${sentence}\n`);
  console.log(story.slice(-TAIL_LINES).join("\n"));
  console.log(
    `\nTo run this again: ${replayOf(seed, mode)}\nTo read all of it: `
      + `${replayOf(seed, mode)} --trace`,
  );
}

function runOne(seed: number, mode: Mode, isTraced: boolean): number {
  const startedAt = performance.now();
  try {
    const report = simulate(seed, mode, isTraced ? (line) => console.log(line) : undefined);
    const seconds = (performance.now() - startedAt) / 1000;
    console.log(tellSum({ outcomes: [{ seed, mode, report }], seconds }));
    return 0;
  } catch (error) {
    const sentence = error instanceof Error ? error.message : String(error);
    if (isTraced) console.log(`seed ${seed}: ${sentence}`);
    else tellFailure(seed, mode, sentence);
    return 1;
  }
}

async function runMany(options: Parameters<typeof runSeeds>[0]): Promise<number> {
  const result = await runSeeds(options);
  const failed = result.outcomes.filter(hasFailed);
  for (const { seed, mode, sentence } of failed) tellFailure(seed, mode, sentence);
  console.log(tellSum(result));
  const missing = failed.length === 0 ? neverHappened(result.outcomes) : [];
  if (missing.length > 0) console.log(`This proves nothing: there were no ${missing.join(", ")}.`);
  return failed.length + missing.length > 0 ? 1 : 0;
}

const parse = () =>
  parseArgs({
    options: {
      seed: { type: "string" },
      seeds: { type: "string" },
      from: { type: "string" },
      minutes: { type: "string" },
      mode: { type: "string" },
      workers: { type: "string" },
      trace: { type: "boolean", default: false },
      help: { type: "boolean", short: "h", default: false },
    },
  }).values;

/** Throws what is wrong with the flags. */
function readFlags() {
  const { trace, help, mode: named, ...numbers } = parse();
  const mode = modes.find((name) => name === named);
  if (named !== undefined && !mode) throw new Error(`--mode is ${modes.join(" or ")}`);
  const [seed, seeds, from, minutes, workers] =
    (["seed", "seeds", "from", "minutes", "workers"] as const).map((flag) => {
      if (numbers[flag] === undefined) return undefined;
      const value = Number(numbers[flag]);
      const isRight = value > 0 && (flag === "minutes" || Number.isSafeInteger(value));
      if (!isRight) throw new Error(`--${flag} cannot be "${numbers[flag]}"`);
      return value;
    });
  return { trace, help, mode, seed, seeds, from, minutes, workers };
}

async function main(): Promise<number> {
  const { trace, help, mode, seed, seeds, from = 1, minutes, workers } = readFlags();
  if (seed !== undefined) return runOne(seed, mode ?? modeOf(seed), trace);
  if (seeds !== undefined || minutes !== undefined) {
    return runMany({ from, seeds: seeds ?? Number.POSITIVE_INFINITY, minutes, mode, workers });
  }
  console.log(HELP);
  return help ? 0 : 2;
}

process.exit(
  await main().catch((error: Error) => {
    console.error(`${error.message}. See 'bun test/simulator.ts --help'.`);
    return 2;
  }),
);
