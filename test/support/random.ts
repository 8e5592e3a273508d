/** Chance that can be had again: every random test runs from a seed, and names it if it fails. */

import path from "node:path";

export type Random = () => number;

/** Numbers from 0 to below 1, always the same ones for a seed (mulberry32). */
export function randomFrom(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6D2B79F5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** `RAFT_SEED=n` replays one case alone, of which no test then expects to see everything. */
const chosen = process.env["RAFT_SEED"];
export const isReplay = chosen !== undefined;

/** Runs a case per seed. A failure tells the command that runs its seed alone. */
export function forSeeds(count: number, run: (random: Random, seed: number) => void): void {
  const seeds = isReplay ? [Number(chosen)] : Array.from({ length: count }, (_, i) => i + 1);
  for (const seed of seeds) {
    try {
      run(randomFrom(seed), seed);
    } catch (error) {
      const file = path.relative(path.join(import.meta.dir, "../.."), Bun.main);
      console.error(`To run this case alone: RAFT_SEED=${seed} bun test ${file}`);
      throw error;
    }
  }
}
