/**
 * Marks reads, so that their answers can be judged. A client adds a mark after the key: the index
 * of the latest entry that any server had applied when the read started.
 */
import { type Client } from "../../../raft.ts";

/** A question: the verb (1 byte), then length (4 bytes) and content of the key, and of the mark. */
const KEY_AT = 5;

const endOfKey = (question: Buffer) => KEY_AT + question.readUInt32BE(1);

/** Returns the same client, but with a mark on each question. */
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

/** Returns the mark of a question, or 0 if it has none. */
export function readMark(question: Uint8Array): number {
  const bytes = Buffer.from(question);
  return Number(bytes.toString("latin1", endOfKey(bytes) + 4));
}
