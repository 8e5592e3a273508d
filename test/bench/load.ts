/**
 * Generates the load of all benchmark programs: keeps a number of operations in flight for a while.
 * Each lane begins its next operation when the last one is answered.
 */

/** A key-value store of any system. */
export type Store = {
  put(key: Uint8Array, value: Uint8Array): Promise<unknown>;
  get(key: Uint8Array): Promise<unknown>;
};

export type Figures = {
  ops: number;
  /** Failed operations, which no other figure includes. */
  bad: number;
  per_s: number;
  p50_us: number;
  p99_us: number;
  max_us: number;
};

const keyOf = (i: number) => Buffer.from(`k${`${i}`.padStart(6, "0")}`);
const keys = Array.from({ length: 1000 }, (_, i) => keyOf(i));

/** Returns the quantile `q` of sorted values, or NaN if the array is empty. */
export const quantile = (sorted: ArrayLike<number>, q: number): number =>
  sorted[Math.floor((sorted.length - 1) * q)] ?? Number.NaN;
export const median = (values: readonly number[]): number =>
  quantile(values.toSorted((a, b) => a - b), 0.5);

/**
 * Returns the figures of a load. `latencies` are in ms, and may be a sample of `ops` operations.
 */
export function figures(
  latencies: readonly number[],
  bad: number,
  elapsedMs: number,
  ops = latencies.length,
): Figures {
  const sorted = Float64Array.from(latencies).sort();
  const us = (q: number) => Math.round(quantile(sorted, q) * 1000);
  return {
    ops,
    bad,
    per_s: Math.round(ops / elapsedMs * 1000),
    p50_us: us(0.5),
    p99_us: us(0.99),
    max_us: us(1),
  };
}

/** Sorting the latencies of many minutes would block a leader in the same process. */
const MAX_SAMPLES = 1_000_000;

/**
 * Serves `/bench?op=put|get&inflight=N&ms=D&size=S&keys=K&count=C`. Values have `size` bytes, and
 * use `keys` keys in turn. The load ends after `ms` milliseconds or `count` operations.
 */
export async function load(query: URLSearchParams, store: Store): Promise<Figures> {
  const number = (name: string, otherwise: number) => Number(query.get(name) ?? otherwise);
  const value = Buffer.alloc(number("size", 100), "x");
  const latencies: number[] = [];
  let [ops, bad] = [0, 0];
  /** Samples the latencies: every operation has the same chance to be kept. */
  const note = (ms: number) => {
    const place = ops < MAX_SAMPLES ? ops : Math.floor(Math.random() * ops);
    if (place < MAX_SAMPLES) latencies[place] = ms;
    ops += 1;
  };
  const act = query.get("op") === "get"
    ? (key: Uint8Array) => store.get(key)
    : (key: Uint8Array) => store.put(key, value);
  const [spread, count] = [number("keys", keys.length), number("count", Infinity)];
  let begun = 0;
  const beganAt = performance.now();
  const endsAt = beganAt + number("ms", 1000);
  const lane = async () => {
    for (;;) {
      const sentAt = performance.now();
      if (sentAt >= endsAt || begun >= count) return;
      const i = begun % spread;
      begun += 1;
      try {
        await act(keys[i] ?? keyOf(i));
        note(performance.now() - sentAt);
      } catch {
        bad += 1;
        await Bun.sleep(1); // Retrying without a pause would overload a failing system.
      }
    }
  };
  await Promise.all(Array.from({ length: number("inflight", 1) }, lane));
  return figures(latencies, bad, performance.now() - beganAt, ops);
}

/** Ends this program when its benchmark ends, even if the benchmark is killed. */
export function endWithParent(): void {
  if (process.send) process.on("disconnect", () => process.exit());
}
