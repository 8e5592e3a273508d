/**
 * Tests a state machine of your own in the simulated world. Each server gets one. With each command
 * of the simulated clients it gets a command and a question that you draw. All servers must give
 * the same answers, although they are killed, lose their disks, repeat the log, take snapshots and
 * install those of others. So this finds a machine that is not deterministic, whose snapshot misses
 * something or shows later commands, or whose `restore` keeps something of the old state.
 */
import { simulateFullStack } from "./full.ts";
import { type Subject } from "./full/server.ts";
import { addReport, emptyReport, type Report } from "./report.ts";

/**
 * Runs the seeds from 1 on, each with other faults. Returns what happened, in sum. Throws an error
 * that names the seed at the first difference. `trace` gets all events, line by line.
 */
export function testMachine(
  subject: Subject,
  { seeds = 10, trace }: { seeds?: number; trace?: (line: string) => void } = {},
): Report {
  const sum = emptyReport();
  for (let seed = 1; seed <= seeds; seed += 1) {
    try {
      addReport(sum, simulateFullStack(seed, { subject, ...trace && { trace } }));
    } catch (error) {
      throw new Error(`Seed ${seed}: ${(error as Error).message}`, { cause: error });
    }
  }
  return sum;
}
