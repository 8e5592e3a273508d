/** Repeatable chance: every random test runs from a seed, and names it when it fails. */
import path from "node:path";

export type Random = () => number;

/** Returns numbers from 0 to below 1, always the same ones for a seed (mulberry32). */
export function randomFrom(seed: number): Random {
  let state = seed | 0;
  return () => {
    state = (state + 0x6D2B79F5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

export const between = (random: Random, low: number, high: number): number =>
  low + (high - low) * random();

export function pick<Element>(random: Random, list: readonly Element[]): Element {
  const picked = list[Math.floor(random() * list.length)];
  if (picked === undefined) throw new Error("An empty list has nothing to pick.");
  return picked;
}

export const shuffle = <Element>(random: Random, list: readonly Element[]): Element[] =>
  list.map((element) => ({ element, at: random() })).sort((a, b) => a.at - b.at)
    .map(({ element }) => element);

/** `RAFT_SEED=n` runs one case alone. A test then does not expect to have seen everything. */
const chosen = process.env["RAFT_SEED"];
export const isReplay = chosen !== undefined;

/** Runs a case for each seed. A failure prints the command that runs its seed alone. */
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
