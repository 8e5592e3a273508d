/** Entries of a log and records of a file, as tests make, apply and compare them. */
import {
  type Configuration,
  encodeRecord,
  type Entry,
  Log,
  readRequests,
  type Sessions,
  type StateMachine,
} from "../../raft.ts";
import { makeOpening } from "./requests.ts";

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

/** Returns a log without entries or members. */
export function emptyLog(): Log {
  const log = new Log();
  log.reset({ index: 0, term: 0 }, { index: 0, founding: 0, members: [] });
  return log;
}

export const isSameEntry = (a: LogRecord, b: LogRecord): boolean =>
  Buffer.concat(encodeRecord(a)).equals(Buffer.concat(encodeRecord(b)));

/** An entry that opens a session, whose id is the index if no other is given. */
export const openingEntry = (
  index: number,
  owner?: string,
  nonce = index,
  session = index,
): Entry => makeEntry(index, 1, "session", makeOpening(session, owner, nonce));

/** The outcomes of the requests of a committed entry, as text. */
export const applyTo = (
  sessions: Sessions,
  entry: Entry,
  machine: Pick<StateMachine, "apply">,
): string[] =>
  readRequests(entry).flatMap((request) => {
    const result = sessions.apply(entry.index, request, machine);
    return "refused" in result
      ? `refused: ${result.refused}`
      : result.map((outcome) => typeof outcome === "string" ? `applied: ${outcome}` : `${outcome}`);
  });
