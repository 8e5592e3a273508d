/** The two kinds of simulation, full and core, and which of them a seed means. */
import { simulateCore } from "./core.ts";
import { simulateFullStack } from "./full.ts";
import { type Report } from "./report.ts";

export const modes = ["full", "core"] as const;
export type Mode = (typeof modes)[number];
type Trace = (line: string) => void;

/** Odd seeds run the full stack, even ones the core alone. */
export const modeOf = (seed: number): Mode => seed % 2 === 1 ? "full" : "core";

/** Runs a seed. Throws at a broken promise. */
export function simulate(seed: number, mode: Mode, trace?: Trace): Report {
  const run = mode === "full" ? simulateFullStack : simulateCore;
  return run(seed, trace ? { trace } : {});
}

/** Returns the command that runs a seed again. */
export const replayOf = (seed: number, mode: Mode): string =>
  `bun test/simulator.ts --seed ${seed}${mode === modeOf(seed) ? "" : ` --mode ${mode}`}`;
