/**
 * Compares two texts line by line. What differs is small beside the text, so a changed program
 * travels to the page as the difference from the program without the change.
 */

/** Replaces `removed` lines, from line `at` on (the first line is 1), with other lines. */
export type Hunk = { at: number; removed: number; lines: readonly string[] };

/** Returns the hunks that turn one text into the other, in the order of their lines. */
export function compare(before: readonly string[], after: readonly string[]): Hunk[] {
  let start = 0;
  while (start < before.length && start < after.length && before[start] === after[start]) {
    start += 1;
  }
  let [end, afterEnd] = [before.length, after.length];
  while (end > start && afterEnd > start && before[end - 1] === after[afterEnd - 1]) {
    end -= 1;
    afterEnd -= 1;
  }
  return compareAll(before.slice(start, end), after.slice(start, afterEnd))
    .map(({ at, ...hunk }) => ({ at: at + start, ...hunk }));
}

/** Compares by the longest common subsequence of lines. */
function compareAll(before: readonly string[], after: readonly string[]): Hunk[] {
  const width = after.length + 1;
  /** The length of the longest common subsequence of what follows in both. */
  const common = new Uint32Array((before.length + 1) * width);
  const at = (i: number, j: number) => common[i * width + j] ?? 0;
  for (let i = before.length - 1; i >= 0; i -= 1) {
    for (let j = after.length - 1; j >= 0; j -= 1) {
      common[i * width + j] = before[i] === after[j]
        ? at(i + 1, j + 1) + 1
        : Math.max(at(i + 1, j), at(i, j + 1));
    }
  }
  const hunks: Hunk[] = [];
  let [i, j] = [0, 0];
  while (i < before.length || j < after.length) {
    const [first, firstAfter] = [i, j];
    const isCommon = () => i < before.length && j < after.length && before[i] === after[j];
    while (!isCommon() && (i < before.length || j < after.length)) {
      if (j === after.length || (i < before.length && at(i + 1, j) >= at(i, j + 1))) i += 1;
      else j += 1;
    }
    if (i > first || j > firstAfter) {
      hunks.push({ at: first + 1, removed: i - first, lines: after.slice(firstAfter, j) });
    }
    for (; isCommon(); j += 1) i += 1;
  }
  return hunks;
}

/** Returns the text that the hunks make of this one. */
export function patch(before: readonly string[], hunks: readonly Hunk[]): string[] {
  const after: string[] = [];
  let next = 0;
  for (const { at, removed, lines } of hunks) {
    after.push(...before.slice(next, at - 1), ...lines);
    next = at - 1 + removed;
  }
  return [...after, ...before.slice(next)];
}
