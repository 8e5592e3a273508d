/** Who had a vote when, by every list of members that was ever in a log, read without raft.ts. */
import { decodeMulti } from "@msgpack/msgpack";

const RECORD_HEADER = 17;
const MEMBERS = 7;

export type Voters = readonly string[];
type List = { index: number; term: number; voters: Voters };

/** Whether `some` are a majority of those who have a vote. */
export const isMajority = (some: readonly string[], voters: Voters): boolean =>
  2 * voters.filter((name) => some.includes(name)).length > voters.length;

/** Who has a vote by a list: [name, address, whether it votes] each. */
export const votersIn = (list: Uint8Array): Voters =>
  ([...decodeMulti(list)] as [string, string, boolean][]).filter(([, , votes]) => votes)
    .map(([name]) => name);

export class Lists {
  private readonly all = new Map<string, List>();

  constructor(readonly founders: Voters) {}

  /** What an entry's record, and all that follow it, say: kind (1 byte), term (6), index (6). */
  read(records: Buffer): void {
    for (let at = 0, next = at; at + RECORD_HEADER <= records.length; at = next) {
      next = at + RECORD_HEADER + records.readUInt32BE(at + 13);
      if (records[at] !== MEMBERS) continue;
      const [term, index] = [records.readUIntBE(at + 1, 6), records.readUIntBE(at + 7, 6)];
      const voters = votersIn(records.subarray(at + RECORD_HEADER, next));
      this.all.set(`${index} ${term}`, { index, term, voters });
    }
  }

  /** How many of the entries with these terms, by index, list the members. */
  count(terms: readonly number[]): number {
    return this.all.values().filter(({ index, term }) => terms[index] === term).toArray().length;
  }

  /** Who has a vote after those entries. */
  votersAfter(terms: readonly number[]): Voters {
    const [last] = [...this.all.values()].filter(({ index, term }) => terms[index] === term)
      .sort((a, b) => b.index - a.index);
    return last?.voters ?? this.founders;
  }

  /** Who has, or may come to have by an entry that may be committed after those. */
  possibleAfter(terms: readonly number[],
    isThere: (index: number, term: number) => boolean = () => true): Voters[] {
    const later = [...this.all.values()].filter(({ index, term }) =>
      index >= terms.length && isThere(index, term)
    );
    return [this.votersAfter(terms), ...later.map(({ voters }) => voters)];
  }
}
