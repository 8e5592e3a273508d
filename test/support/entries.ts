/** Entries of a log and records of a file, as tests make, apply and compare them. */
import {
  type Configuration,
  encodeRecord,
  type Entry,
  readRequests,
  type Sessions,
  type StateMachine,
} from "../../raft.ts";

export type LogRecord = Parameters<typeof encodeRecord>[0];

export const makeEntry = <Kind extends LogRecord["kind"]>(
  index: number,
  term: number,
  kind: Kind,
  data: Uint8Array = new Uint8Array(),
) => ({ index, term, kind, data: Buffer.from(data) });

/** An entry that lists the members. */
export const membersEntry = (
  index: number,
  term: number,
  members: Configuration,
  founding = 1,
): Entry => ({ ...makeEntry(index, term, "members"), membership: { founding, members } });

export const isSameEntry = (a: LogRecord, b: LogRecord): boolean =>
  encodeRecord(a).equals(encodeRecord(b));

/** What version 4 packed: numbers of so many bytes, the length of the data (4 bytes), the data. */
export function packed(numbers: readonly [number, number, number], widths: number, data = "") {
  const sizes = [widths, 6, 6];
  const parts = numbers.map((n, i) => {
    const bytes = Buffer.alloc(sizes[i] ?? 6);
    bytes.writeUIntBE(n, 0, bytes.length);
    return bytes;
  });
  const length = Buffer.alloc(4);
  length.writeUInt32BE(Buffer.byteLength(data, "latin1"));
  return Buffer.concat([...parts, length, Buffer.from(data, "latin1")]);
}

/** The outcomes of the requests of a committed entry, as text. */
export const applyTo = (
  sessions: Sessions,
  entry: Entry,
  machine: Pick<StateMachine, "apply">,
): string[] =>
  sessions.apply(entry, readRequests(entry), machine).flatMap(({ outcomes, refusal }) =>
    refusal === undefined
      ? outcomes.map((outcome) =>
        typeof outcome === "string" ? `applied: ${outcome}` : `${outcome}`
      )
      : `refused: ${refusal}`
  );
