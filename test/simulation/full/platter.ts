/**
 * Reads the durable bytes of a server's disk, without raft.ts. A promise counts only if it would
 * survive a power failure now.
 */
import { crc32 } from "node:zlib";
import { type Disk } from "../../support/disk.ts";

const FRAME_HEADER = 12;
const RECORD_HEADER = 17;
const [START, VOTE] = [0, 1];

type Frame = { begin: number; end: number };

/** Returns the whole frame at `at`: marker, length and checksum (4 bytes each), then records. */
function frameAt(log: Buffer, at: number): Frame | undefined {
  if (at + FRAME_HEADER > log.length) return undefined;
  const [marker, length] = [log.readUInt32BE(at), log.readUInt32BE(at + 4)];
  const [begin, end] = [at + FRAME_HEADER, at + FRAME_HEADER + length];
  if (length === 0 || end > log.length || marker !== log.readUInt32BE(0)) return undefined;
  const sum = crc32(log.subarray(begin, end), crc32(log.subarray(at, at + 8)));
  return sum === log.readUInt32BE(at + 8) ? { begin, end } : undefined;
}

/** Returns where the last whole frame of a log begins: damage before it can be detected. */
export function lastFrameAt(log: Buffer): number {
  let last = 0;
  for (let at = 0, frame = frameAt(log, 0); frame; frame = frameAt(log, at)) {
    [last, at] = [at, frame.end];
  }
  return last;
}

/** Reads the records of a frame: kind (1 byte), term (6), index (6), length (4), data. */
function recordsOf(file: Buffer, { begin, end }: Frame): Buffer[] {
  const records: Buffer[] = [];
  for (let at = begin, next = at; at < end; at = next) {
    next = at + RECORD_HEADER + file.readUInt32BE(at + 13);
    records.push(file.subarray(at, next));
  }
  return records;
}

/** The platters of a server, across restarts, until the disk is lost. */
export class Platter {
  /** The number of the disk. */
  disk = 0;
  term = 0;
  votedFor = "";
  /** The saved commit index: entries up to it are never replaced. */
  commitIndex = 0;
  /** The last entry in its snapshot. */
  snapshotIndex = 0;
  /** The members that it lists. */
  snapshotList: Uint8Array = Buffer.alloc(0);
  /** The term of each entry, by index, from the base of the log on. */
  private terms: number[] = [0];
  /** All durable votes, by term. */
  private readonly votes = new Map<number, string>();
  private highestTerm = 0;
  /** The files that had these names when they were last read. */
  private log: unknown;
  private snapshot: unknown;
  private end = 0;

  constructor(private readonly name: string) {}

  get lastIndex(): number {
    return Math.max(this.terms.length - 1, this.snapshotIndex);
  }

  has(index: number, term: number): boolean {
    return index <= this.snapshotIndex || this.terms[index] === term;
  }

  /**
   * Reads what has become durable since the last call. `committed` are the terms of the committed
   * entries: a server that had one of them still has it.
   */
  read(disk: Disk, names: { log: string; snapshot: string }, committed: readonly number[]): void {
    const [log, snapshot] = [disk.durable(names.log), disk.durable(names.snapshot)];
    if (snapshot && disk.inode(names.snapshot) !== this.snapshot) this.readSnapshot(snapshot);
    this.snapshot = disk.inode(names.snapshot);
    if (!log || log.length < FRAME_HEADER) return;
    if (disk.inode(names.log) !== this.log) this.readAnew(log, committed);
    else this.readOn(log);
    this.log = disk.inode(names.log);
  }

  /** Reads a snapshot. A whole one ends with its first record, which has its place in the log. */
  private readSnapshot(snapshot: Buffer): void {
    const records: Buffer[] = [];
    let at = 0;
    for (let frame = frameAt(snapshot, 0); frame; frame = frameAt(snapshot, at)) {
      records.push(...recordsOf(snapshot, frame));
      at = frame.end;
    }
    const [head] = records;
    if (at < snapshot.length || records.length < 2 || !head?.equals(records.at(-1) ?? head)) {
      throw new Error(`${this.name}'s snapshot is not whole on its disk`);
    }
    const index = head.readUIntBE(7, 6);
    if (index < this.snapshotIndex) {
      throw new Error(
        `the snapshot of ${this.name} goes back from ${this.snapshotIndex} to ${index}`,
      );
    }
    this.snapshotIndex = index;
    this.snapshotList = head.subarray(RECORD_HEADER);
  }

  private readAnew(log: Buffer, committed: readonly number[]): void {
    const before = this.terms;
    [this.terms, this.end, this.term, this.votedFor] = [[0], 0, 0, ""];
    const { commitIndex } = this;
    this.commitIndex = 0; // The entries that follow are what it covers.
    this.readOn(log);
    if (this.commitIndex < commitIndex) {
      throw new Error(`${this.name} has saved that ${commitIndex} is committed, and has lost it`);
    }
    for (let index = 1; index < committed.length; index += 1) {
      const term = committed[index] ?? 0;
      const isLost = before[index] === term && !this.has(index, term);
      const isMissing = index < this.terms.length && this.terms[index] === undefined
        && !this.has(index, term);
      if (!isLost && !isMissing) continue;
      throw new Error(`${this.name} has lost committed entry ${index}, which was on its disk`);
    }
  }

  private readOn(log: Buffer): void {
    for (let frame = frameAt(log, this.end); frame; frame = frameAt(log, this.end)) {
      const { commitIndex } = this; // The frame's own commit index may cover its own entries.
      for (const record of recordsOf(log, frame)) this.readRecord(record, commitIndex);
      this.end = frame.end;
    }
    if (this.term < this.highestTerm) {
      throw new Error(
        `${this.name}'s disk went back from term ${this.highestTerm} to ${this.term}`,
      );
    }
    this.highestTerm = this.term;
  }

  private readRecord(record: Buffer, commitIndex: number): void {
    const [term, index] = [record.readUIntBE(1, 6), record.readUIntBE(7, 6)];
    if (record[0] === START) this.disk = JSON.parse(record.toString("utf8", RECORD_HEADER)).disk;
    const had = this.terms[index] ?? term; // A rewritten log begins with this index.
    if (record[0] !== VOTE && index <= commitIndex && had !== term) {
      throw new Error(`${this.name} replaces entry ${index}, which it had saved as committed`);
    }
    if (record[0] !== VOTE) { // An entry, or the start of the log, which is after an entry.
      this.terms.length = index;
      this.terms.push(term);
      return;
    }
    if (index < this.commitIndex) {
      throw new Error(
        `${this.name}'s saved commit index goes from ${this.commitIndex} to ${index}`,
      );
    }
    this.commitIndex = index;
    this.term = term;
    this.votedFor = record.toString("utf8", RECORD_HEADER);
    if (this.votedFor === "") return;
    const before = this.votes.get(term) ?? this.votedFor;
    this.votes.set(term, this.votedFor);
    if (before === this.votedFor) return;
    throw new Error(`${this.name} voted for ${before} and for ${this.votedFor} in term ${term}`);
  }
}
