/**
 * Marks on reads. A client of the simulator adds to a question, after the key, the index of the
 * newest entry that any server had applied by then, so that the server that answers can be judged.
 */
import { type Client } from "../../../raft.ts";

/** The verb (1 byte), then the length of the key (4 bytes) and the key, then those of the mark. */
const KEY_AT = 5;

const endOfKey = (question: Buffer) => KEY_AT + question.readUInt32BE(1);

/** The same way to a store, with a mark on each of its questions. */
export const markReads = (
  via: Pick<Client, "propose" | "read">,
  newest: () => number,
): Pick<Client, "propose" | "read"> => ({
  propose: (command) => via.propose(command),
  read(question) {
    const mark = Buffer.from(`....${newest()}`);
    mark.writeUInt32BE(mark.length - 4);
    return via.read(Buffer.concat([question, mark]));
  },
});

/** The mark of a question, or 0 if it has none. */
export function readMark(question: Uint8Array): number {
  const bytes = Buffer.from(question);
  return Number(bytes.toString("latin1", endOfKey(bytes) + 4));
}
