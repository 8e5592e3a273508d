/** Tests that the log does what a plain list of entries does, in random histories. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { type Entry, sizeOf } from "../../raft.ts";
import { entry } from "../support/core.ts";
import { emptyLog } from "../support/entries.ts";
import { randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

test("after appends, truncations and compactions, the log answers as a plain list does", () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const random = randomFrom(seed);
    const draw = (n: number) => Math.floor(random() * n);
    const log = emptyLog();
    let [list, base, term]: [Entry[], number, number] = [[], 0, 1];
    const last = () => base + list.length;
    const bytesOf = (from: number, to: number) =>
      list.filter(({ index }) => index >= from && index <= to)
        .reduce((sum, entry) => sum + sizeOf(entry), 0);
    for (let i = 0; i < 60; i += 1) {
      const act = draw(4);
      if (act === 0) {
        term += 1;
        const at = base + 1 + draw(list.length + 1);
        const merged = Array.from(
          { length: draw(3) },
          (_, j) => entry(at + j, term, "x".repeat(draw(30))),
        );
        log.merge(merged, base);
        if (merged.length > 0) list = [...list.filter(({ index }) => index < at), ...merged];
      } else if (act === 1 && draw(3) === 0) {
        const [index, keep] = [base + draw(list.length + 1), draw(200)];
        log.compact(index, keep);
        const isKept = (e: Entry) => e.index > index || bytesOf(e.index, index) <= keep;
        list = list.filter(isKept);
        base = (list[0]?.index ?? index + 1) - 1;
      } else if (act === 2 && draw(20) === 0) {
        [list, base] = [[], last() + draw(5)];
        log.reset({ index: base, term }, log.membership());
      } else {
        list.push(entry(last() + 1, term, "x".repeat(draw(30))));
        log.append(list.at(-1) ?? entry(1, 1));
      }
      expect(log).toMatchObject({ baseIndex: base, lastIndex: last() });
      expect(log.slice(base + 1)).toEqual(list);
      const [from, to] = [base + 1 + draw(list.length + 1), base + draw(list.length + 1)];
      expect(log.bytes(from, to)).toBe(bytesOf(from, to));
      for (const { index, term: its } of list) expect(log.matches(index, its)).toBe(true);
      expect(log.matches(last() + 1, term)).toBe(false);
      const wanted = draw(term + 1);
      const upTo = list.findLast((e) => e.index <= to && e.term <= wanted)?.index ?? base;
      expect(Math.max(base, log.lastUpTo(to, wanted))).toBe(upTo);
      if (from <= last()) expect(log.batch(from, 0)).toHaveLength(1);
    }
  }
});
