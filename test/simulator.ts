/**
 * Simulates a cluster and its clients with faults of all kinds, in virtual time. One number, the
 * seed, decides everything that happens. See `--help`.
 */
import { parseArgs } from "node:util";
import { hasFailed, neverHappened, runSeeds, tellSum } from "./simulation/fleet.ts";
import { type Mode, modeOf, modes, replayOf, simulate } from "./simulation/modes.ts";

const HELP =
  `Simulates a cluster with faults of all kinds. The seed decides everything that happens.

  bun test/simulator.ts --seed N [--trace]        one run; --trace prints every event
  bun test/simulator.ts --seeds N [--from K]      N runs, from seed K on (default: 1), on all cores
  bun test/simulator.ts --minutes M [--from K]    as many runs as the time allows

  --mode full    whole servers: files, wire, retries and clients (default for odd seeds)
  --mode core    the algorithm alone on a faulty network (default for even seeds)
  --workers W    the number of seeds that run at the same time (default: one per core)

A violation is printed with its seed, the broken rule, and the last events before it. The command
that shows a seed of the core mode in a browser is bun test/theatre.ts --seed N.
Exit codes: 0 no violation; 1 a violation; 2 wrong usage.`;

/** The number of events that are printed before a violation. */
const TAIL_LINES = 60;

function printFailure(seed: number, mode: Mode, sentence: string): void {
  const story: string[] = [];
  try {
    simulate(seed, mode, (line) => {
      if (story.push(line) > 2 * TAIL_LINES) story.splice(0, TAIL_LINES);
    });
  } catch {} // The run is known to fail.
  console.log(`seed ${seed}: ${sentence}\n`);
  console.log(story.slice(-TAIL_LINES).join("\n"));
  const again = replayOf(seed, mode);
  console.log(`\nTo run this seed again: ${again}\nTo print every event: ${again} --trace`);
  if (mode === "core") console.log(`To watch it in a browser: bun test/theatre.ts --seed ${seed}`);
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
    else printFailure(seed, mode, sentence);
    return 1;
  }
}

async function runMany(options: Parameters<typeof runSeeds>[0]): Promise<number> {
  const result = await runSeeds(options);
  const failed = result.outcomes.filter(hasFailed);
  for (const { seed, mode, sentence } of failed) printFailure(seed, mode, sentence);
  console.log(tellSum(result));
  const missing = failed.length === 0 ? neverHappened(result.outcomes) : [];
  if (missing.length > 0) {
    console.log(`These runs prove nothing, because they had no ${missing.join(", ")}.`);
  }
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

/** Returns the flags, or throws an error that says which is wrong. */
function readFlags() {
  const { trace, help, mode: named, ...numbers } = parse();
  const mode = modes.find((name) => name === named);
  if (named !== undefined && !mode) throw new Error(`--mode must be ${modes.join(" or ")}`);
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
