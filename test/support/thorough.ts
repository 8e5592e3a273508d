/**
 * Decides how much `bun test` runs. Without `CI` it takes two minutes: the paper, all units, most
 * scenarios, 100 simulated clusters, and one test of each kind with real processes. With `CI=1` it
 * is thorough: 1,000 clusters, longer searches, every bug of the catalogue, every process test.
 */
import { test } from "bun:test";

export const isThorough = !["", "0", "false"].includes(process.env["CI"] ?? "");

/** Registers a slow test in the thorough run. The short run neither runs it nor lists it as skipped. */
export function slow(title: string, body: () => void | Promise<void>): void {
  if (isThorough) test(title, body);
}

/** Seeds of each mode in the short run. A run of whole servers takes three times as long. */
export const SHORT_SEEDS = { core: 70, full: 30 };
export const SEEDS = isThorough ? { core: 500, full: 500 } : SHORT_SEEDS;

/** Timeout of a test in simulated time: generous, as a busy machine may be many times slower. */
export const PATIENCE_MS = 60_000;
