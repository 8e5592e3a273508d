/**
 * What is on a server's disk, read from the durable bytes themselves without a line of raft.ts:
 * a promise is judged by what would be left of it if the power failed now.
 */
import { crc32 } from "node:zlib";

const FRAME_HEADER = 12;
const RECORD_HEADER = 17;
const [START, VOTE] = [0, 1];

type Frame = { marker: number; begin: number; end: number };

/** The whole frame at `at`: marker, length and checksum (4 bytes each), then its records. */
function frameAt(log: Buffer, at: number): Frame | undefined {
  if (at + FRAME_HEADER > log.length) return undefined;
  const [marker, length] = [log.readUInt32BE(at), log.readUInt32BE(at + 4)];
  const [begin, end] = [at + FRAME_HEADER, at + FRAME_HEADER + length];
  if (length === 0 || end > log.length || marker !== log.readUInt32BE(0)) return undefined;
  const sum = crc32(log.subarray(begin, end), crc32(log.subarray(at, at + 8)));
  return sum === log.readUInt32BE(at + 8) ? { marker, begin, end } : undefined;
}

/** Where the last whole frame of a log begins: what is damaged before it can be told. */
export function lastFrameAt(log: Buffer): number {
  let last = 0;
  for (let at = 0, frame = frameAt(log, 0); frame; frame = frameAt(log, at)) {
    [last, at] = [at, frame.end];
  }
  return last;
}

/** One server's platters, all its lives long. */
export class Platter {
  term = 0;
  votedFor = "";
  /** The term of the entry at each index. */
  terms: number[] = [0];
  /** For whom it ever durably voted, by term. */
  private readonly votes = new Map<number, string>();
  private highestTerm = 0;
  private marker = 0;
  private end = 0;

  constructor(private readonly name: string) {}

  get lastIndex(): number {
    return this.terms.length - 1;
  }

  /**
   * Reads what has become durable since. `committed` are the terms of the committed entries: what
   * a server had of them, it still has.
   */
  read(log: Buffer | undefined, committed: readonly number[]): void {
    if (!log || log.length < FRAME_HEADER) return;
    if (log.readUInt32BE(0) !== this.marker) this.readAnew(log, committed);
    else this.readOn(log);
  }

  private readAnew(log: Buffer, committed: readonly number[]): void {
    const before = this.terms;
    [this.terms, this.end, this.term, this.votedFor] = [[0], 0, 0, ""];
    this.marker = log.readUInt32BE(0);
    this.readOn(log);
    for (let index = 1; index < Math.min(before.length, committed.length); index += 1) {
      if (before[index] !== committed[index] || this.terms[index] === committed[index]) continue;
      throw new Error(`${this.name} has lost committed entry ${index}, which was on its disk`);
    }
  }

  private readOn(log: Buffer): void {
    for (let frame = frameAt(log, this.end); frame; frame = frameAt(log, this.end)) {
      for (let at = frame.begin; at < frame.end;) {
        const length = log.readUInt32BE(at + 13);
        this.readRecord(log, at, length);
        at += RECORD_HEADER + length;
      }
      this.end = frame.end;
    }
    if (this.term < this.highestTerm) {
      throw new Error(
        `${this.name}'s disk went back from term ${this.highestTerm} to ${this.term}`,
      );
    }
    this.highestTerm = this.term;
  }

  private readRecord(log: Buffer, at: number, length: number): void {
    const [term, index] = [log.readUIntBE(at + 1, 6), log.readUIntBE(at + 7, 6)];
    const kind = log[at];
    if (kind === START) return;
    if (kind !== VOTE) {
      this.terms.length = index;
      this.terms.push(term);
      return;
    }
    this.term = term;
    this.votedFor = log.toString("utf8", at + RECORD_HEADER, at + RECORD_HEADER + length);
    if (this.votedFor === "") return;
    const before = this.votes.get(term) ?? this.votedFor;
    this.votes.set(term, this.votedFor);
    if (before === this.votedFor) return;
    throw new Error(`${this.name} voted for ${before} and for ${this.votedFor} in term ${term}`);
  }
}
