/** Selects one of the two simulations, full or core, for a seed. */
import { simulateCore } from "./core.ts";
import { simulateFullStack } from "./full.ts";
import { type Report } from "./report.ts";

export const modes = ["full", "core"] as const;
export type Mode = (typeof modes)[number];
type Trace = (line: string) => void;

/** Returns the default mode of a seed: full for odd seeds, core for even ones. */
export const modeOf = (seed: number): Mode => seed % 2 === 1 ? "full" : "core";

/** Runs a seed. Throws at a broken promise. */
export function simulate(seed: number, mode: Mode, trace?: Trace): Report {
  const run = mode === "full" ? simulateFullStack : simulateCore;
  return run(seed, trace ? { trace } : {});
}

/** Returns the command that runs a seed again. */
export const replayOf = (seed: number, mode: Mode): string =>
  `bun test/simulator.ts --seed ${seed}${mode === modeOf(seed) ? "" : ` --mode ${mode}`}`;
