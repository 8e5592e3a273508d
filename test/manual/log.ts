/**
 * Prints what a stopped server has on its disk, one line of JSON each: its term and vote, the
 * records of its snapshot, and the entries of its log. Commands of the key-value store are shown as
 * words, others in base64.
 *
 *   bun test/manual/log.ts raft-data/db1:48000
 */
import { isUtf8 } from "node:buffer";
import { existsSync } from "node:fs";
import path from "node:path";
import {
  type Entry,
  readRequests,
  readSession,
  Storage,
  systemWorld,
  unpack,
  verbs,
} from "../../raft.ts";

/** Returns a text; bytes that are no UTF-8 are in base64. */
function shown(bytes: Uint8Array): string | { base64: string } {
  const text = Buffer.from(bytes);
  return isUtf8(text) ? `${text}` : { base64: text.toString("base64") };
}

/** Returns the verb and the words of a command of the store. */
function describe(command: Uint8Array) {
  const verb = verbs[command[0] ?? -1];
  const words = unpack(command);
  const length = words.reduce((sum, word) => sum + 4 + word.length, 1);
  return verb && length === command.length
    ? [verb, ...words.map((word) => shown(Buffer.from(word, "latin1")))]
    : { base64: Buffer.from(command).toString("base64") };
}

function describeEntry(entry: Entry) {
  const { kind, membership } = entry;
  if (kind === "members") return membership ?? {};
  if (kind === "noop") return {};
  const requests = readRequests(entry).map((request) =>
    "commands" in request ? { ...request, commands: request.commands.map(describe) } : request
  );
  return { requests };
}

/** Yields an object for each thing in a data directory. */
export function* contentsOf(directory: string): Generator<object> {
  if (!existsSync(path.join(directory, "log"))) {
    throw new Error(`Cannot find ${directory}/log. Give the data directory of a stopped server.`);
  }
  const storage = new Storage(systemWorld.files, directory, undefined, systemWorld.random);
  const { identity, hardState: { currentTerm: term, ...vote }, snapshot, entries } = storage;
  yield { kind: "server", ...identity, term, ...vote };
  for (const { kind, index, term, data, membership } of snapshotOf(storage)) {
    const about = kind === "state"
      ? { state: describe(data) }
      : kind === "session"
      ? { session: readSession(data).flat() }
      : membership;
    yield { file: "snapshot", kind, index, term, ...about };
  }
  for (const entry of entries) {
    const { kind, index, term } = entry;
    const isInSnapshot = snapshot !== undefined && index <= snapshot.index;
    yield { file: "log", kind, index, term, isInSnapshot, ...describeEntry(entry) };
  }
  storage.close();
}

function* snapshotOf(storage: Storage) {
  if (storage.snapshot) { for (const records of storage.readSnapshot()) yield* records; }
}

/** Returns a line of JSON. */
export const line = (content: object) =>
  JSON.stringify(content, function(this: Record<string, unknown>, key, value) {
    const raw = this[key]; // Bytes, before JSON.stringify made them an array of numbers.
    return raw instanceof Uint8Array ? shown(raw) : value;
  });

if (import.meta.main) {
  try {
    for (const content of contentsOf(process.argv[2] ?? "")) console.log(line(content));
  } catch (error) {
    console.error((error as Error).message);
    process.exitCode = 1;
  }
}
