/** Runs seeds in a worker thread, and reports each of them. */
import { type Outcome, type Task } from "./fleet.ts";
import { simulate } from "./modes.ts";

declare const self: Worker;

self.onmessage = ({ data: { seed, mode } }: MessageEvent<Task>) => {
  let outcome: Outcome;
  try {
    outcome = { seed, mode, report: simulate(seed, mode) };
  } catch (error) {
    outcome = { seed, mode, sentence: error instanceof Error ? error.message : String(error) };
  }
  postMessage(outcome);
};
