/** Runs the seeds that its parent process asks for, and reports each of them. */
import { type Outcome, type Task } from "./fleet.ts";
import { simulate } from "./modes.ts";

process.on("message", ({ seed, mode }: Task) => {
  let outcome: Outcome;
  try {
    outcome = { seed, mode, report: simulate(seed, mode) };
  } catch (error) {
    outcome = { seed, mode, sentence: error instanceof Error ? error.message : String(error) };
  }
  process.send?.(outcome);
});
