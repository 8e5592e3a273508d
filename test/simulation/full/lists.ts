/**
 * Tells which servers had a vote when, by every list of members that was ever in a log, read
 * without raft.ts.
 */
import { decodeMulti } from "@msgpack/msgpack";

const RECORD_HEADER = 17;
const MEMBERS = 7;

export type Voters = readonly string[];
/** `disks` are those that the list names. */
type List = {
  index: number;
  term: number;
  voters: Voters;
  learners: readonly string[];
  disks: ReadonlyMap<string, number>;
};
/** What a server's disk is, and whether there is any entry on it. */
export type DiskOf = (name: string) => { disk: number; isEmpty: boolean };

/** Whether `some` are a majority of those who have a vote. */
export const isMajority = (some: readonly string[], voters: Voters): boolean =>
  2 * voters.filter((name) => some.includes(name)).length > voters.length;

/** Behind the founding: [name, address, whether it votes, its disk] each. */
const rowsOf = (list: Uint8Array) =>
  [...decodeMulti(list)].slice(1) as [string, string, boolean, number][];
/** Who has a vote by a list. */
export const votersIn = (list: Uint8Array, isVoter = true): Voters =>
  rowsOf(list).filter(([, , votes]) => votes === isVoter).map(([name]) => name);

/** A founder that was not there when the cluster was founded has no disk in the list yet. */
const isNamed = (name: string, disks: ReadonlyMap<string, number>, diskOf: DiskOf) =>
  disks.get(name) === diskOf(name).disk && disks.get(name) !== 0;

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
      const disks = new Map(rowsOf(list).map(([name, , , disk]) => [name, disk]));
      this.all.set(`${index} ${term}`, { index, term, voters, learners, disks });
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

  private listAfter(terms: readonly number[]): Omit<List, "index" | "term"> {
    const [last] = [...this.all.values()].filter(({ index, term }) => terms[index] === term)
      .sort((a, b) => b.index - a.index);
    return last ?? { voters: this.founders, learners: [], disks: new Map() };
  }

  /** What is in force after those entries, or comes to be by one that may be committed later. */
  possibleAfter(
    terms: readonly number[],
    isThere: (index: number, term: number) => boolean = () => true,
  ) {
    const later = [...this.all.values()].filter(({ index, term }) =>
      index >= terms.length && isThere(index, term)
    );
    return [this.listAfter(terms), ...later];
  }

  /**
   * Whether some can do without the others, with the disks that are named, and who is about to get a
   * vote is one of them.
   */
  canDoAlone(some: readonly string[], terms: readonly number[], diskOf: DiskOf): boolean {
    return this.possibleAfter(terms).every(({ voters, learners, disks }) => {
      const named = some.filter((name) => isNamed(name, disks, diskOf));
      return isMajority(disks.size > 0 ? named : some, voters)
        && learners.every((name) => some.includes(name));
    });
  }

  /**
   * Whether one disk may be lost: all others are there, and a majority, whatever is committed; and
   * those founders whose disks are empty are none, for they would found the cluster again.
   */
  canLoseDisk(lost: string, terms: readonly number[], diskOf: DiskOf): boolean {
    const empty = this.founders.filter((name) => name === lost || diskOf(name).isEmpty);
    return !isMajority(empty, this.founders) && this.isWhole(terms, diskOf)
      && this.possibleAfter(terms).every(({ voters, learners }) => {
        // Who is about to get a vote may get it before anybody knows what it has lost.
        const others = voters.filter((name) => name !== lost);
        const isMember = [...voters, ...learners].includes(lost);
        return !isMember || isMajority(others, [...others, lost]);
      });
  }

  /** Whether everybody who has a vote has the disk for it. Until then nobody should be removed. */
  isWhole(terms: readonly number[], diskOf: DiskOf): boolean {
    return this.possibleAfter(terms).every(({ voters, disks }) =>
      voters.every((name) => isNamed(name, disks, diskOf))
    );
  }
}
