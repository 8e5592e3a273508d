/**
 * Records every list of members that was ever in a log, and finds the voters at any index. Reads
 * the lists without raft.ts.
 */
import { decodeMulti } from "../../support/wire.ts";

const RECORD_HEADER = 17;
const MEMBERS = 7;

export type Voters = readonly string[];
/** A list of members. `disks` are the disks that it names. */
type List = {
  index: number;
  term: number;
  /** The entry that it was read from. */
  data: Buffer;
  voters: Voters;
  learners: readonly string[];
  disks: ReadonlyMap<string, number>;
};
/** The number of a server's disk, and whether it holds an entry. */
export type DiskOf = (name: string) => { disk: number; isEmpty: boolean };

/** Returns whether `some` contain a majority of the voters. */
export const isMajority = (some: readonly string[], voters: Voters): boolean =>
  2 * voters.filter((name) => some.includes(name)).length > voters.length;

/** A member in an entry: [name, address, has a vote, disk]. */
const rowsOf = (list: Uint8Array) =>
  [...decodeMulti(list)].slice(1) as [string, string, boolean, number][];
/** Returns the voters of a list. */
export const votersIn = (list: Uint8Array, isVoter = true): Voters =>
  rowsOf(list).filter(([, , votes]) => votes === isVoter).map(([name]) => name);

/** A founder that was absent at the founding has no disk in the list yet. */
const isNamed = (name: string, disks: ReadonlyMap<string, number>, diskOf: DiskOf) =>
  disks.get(name) === diskOf(name).disk && disks.get(name) !== 0;

export class Lists {
  private readonly all = new Map<string, List>();

  constructor(readonly founders: Voters) {}

  /** Reads records: kind (1 byte), term (6), index (6), length (4) and data of each. */
  read(records: Buffer): void {
    for (let at = 0, next = at; at + RECORD_HEADER <= records.length; at = next) {
      next = at + RECORD_HEADER + records.readUInt32BE(at + 13);
      if (records[at] !== MEMBERS) continue;
      const [term, index] = [records.readUIntBE(at + 1, 6), records.readUIntBE(at + 7, 6)];
      const data = records.subarray(at + RECORD_HEADER, next);
      const key = `${index} ${term}`;
      if (this.all.get(key)?.data.equals(data)) continue;
      const [voters, learners] = [votersIn(data), votersIn(data, false)];
      const disks = new Map(rowsOf(data).map(([name, , , disk]) => [name, disk]));
      this.all.set(key, { index, term, data, voters, learners, disks });
    }
  }

  /** Returns how many of the entries with these terms list the members. */
  count(terms: readonly number[]): number {
    return this.all.values().filter(({ index, term }) => terms[index] === term).toArray().length;
  }

  /** Returns the voters after these entries. */
  votersAfter(terms: readonly number[]): Voters {
    return this.listAfter(terms).voters;
  }

  private listAfter(terms: readonly number[]): Pick<List, "voters" | "learners" | "disks"> {
    const [last] = [...this.all.values()].filter(({ index, term }) => terms[index] === term)
      .sort((a, b) => b.index - a.index);
    return last ?? { voters: this.founders, learners: [], disks: new Map() };
  }

  /** Returns the lists in force after these entries, or after later ones that may be committed. */
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
   * Returns whether some servers can work without the others: with the disks that are named they
   * are a majority, and they include a learner that is about to be promoted.
   */
  canDoAlone(some: readonly string[], terms: readonly number[], diskOf: DiskOf): boolean {
    return this.possibleAfter(terms).every(({ voters, learners, disks }) => {
      const named = some.filter((name) => isNamed(name, disks, diskOf));
      return isMajority(disks.size > 0 ? named : some, voters)
        && learners.every((name) => some.includes(name));
    });
  }

  /**
   * Returns whether one disk may be lost. The others must be a majority by every list that may be
   * committed, and the founders with empty disks none, because they would found the cluster again.
   */
  canLoseDisk(lost: string, terms: readonly number[], diskOf: DiskOf): boolean {
    const empty = this.founders.filter((name) => name === lost || diskOf(name).isEmpty);
    return !isMajority(empty, this.founders) && this.isWhole(terms, diskOf)
      && this.possibleAfter(terms).every(({ voters, learners }) => {
        // A learner may be promoted before its loss is noticed.
        const others = voters.filter((name) => name !== lost);
        const isMember = [...voters, ...learners].includes(lost);
        return !isMember || isMajority(others, [...others, lost]);
      });
  }

  /**
   * Returns whether every voter has the disk that the list names. Until then removals should wait.
   */
  isWhole(terms: readonly number[], diskOf: DiskOf): boolean {
    return this.possibleAfter(terms).every(({ voters, disks }) =>
      voters.every((name) => isNamed(name, disks, diskOf))
    );
  }
}
