/** Who had a vote when, by every list of members that was ever in a log, read without raft.ts. */
import { decodeMulti } from "@msgpack/msgpack";

const RECORD_HEADER = 17;
const MEMBERS = 7;

export type Voters = readonly string[];
type List = { index: number; term: number; voters: Voters; learners: readonly string[] };

/** Whether `some` are a majority of those who have a vote. */
export const isMajority = (some: readonly string[], voters: Voters): boolean =>
  2 * voters.filter((name) => some.includes(name)).length > voters.length;

/** Who has a vote by a list: [name, address, whether it votes] each. */
export const votersIn = (list: Uint8Array, isVoter = true): Voters =>
  ([...decodeMulti(list)] as [string, string, boolean][])
    .filter(([, , votes]) => votes === isVoter).map(([name]) => name);

export class Lists {
  private readonly all = new Map<string, List>();

  constructor(readonly founders: Voters) {}

  /** What an entry's record, and all that follow it, say: kind (1 byte), term (6), index (6). */
  read(records: Buffer): void {
    for (let at = 0, next = at; at + RECORD_HEADER <= records.length; at = next) {
      next = at + RECORD_HEADER + records.readUInt32BE(at + 13);
      if (records[at] !== MEMBERS) continue;
      const [term, index] = [records.readUIntBE(at + 1, 6), records.readUIntBE(at + 7, 6)];
      const list = records.subarray(at + RECORD_HEADER, next);
      const [voters, learners] = [votersIn(list), votersIn(list, false)];
      this.all.set(`${index} ${term}`, { index, term, voters, learners });
    }
  }

  /** How many of the entries with these terms, by index, list the members. */
  count(terms: readonly number[]): number {
    return this.all.values().filter(({ index, term }) => terms[index] === term).toArray().length;
  }

  /** Who has a vote after those entries. */
  votersAfter(terms: readonly number[]): Voters {
    return this.listAfter(terms).voters;
  }

  private listAfter(terms: readonly number[]): Pick<List, "voters" | "learners"> {
    const [last] = [...this.all.values()].filter(({ index, term }) => terms[index] === term)
      .sort((a, b) => b.index - a.index);
    return last ?? { voters: this.founders, learners: [] };
  }

  /** What is in force after those entries, or comes to be by one that may be committed later. */
  possibleAfter(terms: readonly number[],
    isThere: (index: number, term: number) => boolean = () => true) {
    const later = [...this.all.values()].filter(({ index, term }) =>
      index >= terms.length && isThere(index, term)
    );
    return [this.listAfter(terms), ...later];
  }

  /** Whether some can do without the others, and who is about to get a vote is one of them. */
  canDoAlone(some: readonly string[], terms: readonly number[]): boolean {
    return this.possibleAfter(terms).every(({ voters, learners }) =>
      isMajority(some, voters) && learners.every((name) => some.includes(name))
    );
  }
}
