/**
 * Gives equal things the same number, so that a state of the cluster is a few numbers, and a
 * server's reaction to a message is worked out once. Each thing also has a hash for every renaming
 * of the servers: clusters that differ only in names are one state.
 */

/** A server's place among the members, from 0 on. */
export type Place = number;
export const NO_PLACE: Place = -1;

/** All permutations of the three servers. */
export const RENAMINGS: readonly (readonly Place[])[] = [
  [0, 1, 2],
  [0, 2, 1],
  [1, 0, 2],
  [1, 2, 0],
  [2, 0, 1],
  [2, 1, 0],
];
const WAYS = RENAMINGS.length;

export const renamePlace = (renaming: readonly Place[], place: Place): Place =>
  renaming[place] ?? NO_PLACE;

export class Lexicon<Thing> {
  private readonly things: Thing[] = [];
  private readonly numbers = new Map<string, number>();
  /** The two halves of the hash of thing `n` renamed in way `w`, at `n * 6 + w`. */
  low = new Uint32Array(WAYS << 10);
  high = new Uint32Array(WAYS << 10);

  /** `seed` keeps things of different kinds apart. */
  constructor(
    private readonly seed: bigint,
    private readonly rename: (thing: Thing, renaming: readonly Place[]) => Thing,
  ) {}

  get size(): number {
    return this.things.length;
  }

  at(number: number): Thing {
    const thing = this.things[number];
    if (thing === undefined) throw new Error(`nothing has the number ${number}`);
    return thing;
  }

  numberOf(thing: Thing): number {
    const key = JSON.stringify(thing);
    const known = this.numbers.get(key);
    if (known !== undefined) return known;
    const number = this.things.push(thing) - 1;
    this.numbers.set(key, number);
    if (number * WAYS >= this.low.length) this.grow();
    for (const [way, renaming] of RENAMINGS.entries()) {
      const renamed = JSON.stringify(this.rename(thing, renaming));
      const hash = BigInt(Bun.hash.wyhash(renamed, this.seed));
      this.low[number * WAYS + way] = Number(hash & 0xFFFF_FFFFn);
      this.high[number * WAYS + way] = Number(hash >> 32n);
    }
    return number;
  }

  private grow(): void {
    const [low, high] = [this.low, this.high];
    this.low = new Uint32Array(low.length * 2);
    this.high = new Uint32Array(high.length * 2);
    this.low.set(low);
    this.high.set(high);
  }
}

/** A set of 64-bit hashes, with 8 bytes for each place. A third of the places or more stay free. */
export class HashSet {
  size = 0;
  private readonly low: Uint32Array;
  private readonly high: Uint32Array;

  constructor(most: number) {
    const places = 2 ** Math.ceil(Math.log2(1.5 * most + 16));
    this.low = new Uint32Array(places);
    this.high = new Uint32Array(places);
  }

  /** Adds a hash. Returns whether it is new. */
  add(low: number, high: number): boolean {
    const mask = this.low.length - 1;
    const some = low === 0 && high === 0 ? 1 : low; // Zero is an empty place.
    for (let at = some & mask;; at = (at + 1) & mask) {
      if (this.low[at] === 0 && this.high[at] === 0) {
        this.low[at] = some;
        this.high[at] = high;
        this.size += 1;
        return true;
      }
      if (this.low[at] === some && this.high[at] === high) return false;
    }
  }
}

/** First in, first out, for numbers below 2^32, in pieces that are let go when they are read. */
export class Queue {
  private static readonly PIECE = 1 << 18;
  private pieces = [new Uint32Array(Queue.PIECE)];
  private writeAt = 0;
  private readAt = 0;

  get isEmpty(): boolean {
    return this.pieces.length === 1 && this.readAt === this.writeAt;
  }

  push(value: number): void {
    if (this.writeAt === Queue.PIECE) {
      this.pieces.push(new Uint32Array(Queue.PIECE));
      this.writeAt = 0;
    }
    const last = this.pieces[this.pieces.length - 1];
    if (last) last[this.writeAt] = value;
    this.writeAt += 1;
  }

  shift(): number {
    if (this.readAt === Queue.PIECE) {
      this.pieces.shift();
      this.readAt = 0;
    }
    const value = this.pieces[0]?.[this.readAt];
    if (value === undefined) throw new Error("the queue is empty");
    this.readAt += 1;
    return value;
  }
}
