/** Tells a run as a story in lines that people read: each message, and each decision. */
import {
  clientMessages,
  messages,
  operatorMessages,
  partMessages,
  serverMessages,
} from "../../../raft.ts";
import { channelIn, decodeMulti, numberIn, open, TYPES } from "../../support/wire.ts";

/** The fields of each type of message. */
export const fieldsOf = new Map<string, readonly string[]>(
  Object.entries({
    ...clientMessages,
    ...operatorMessages,
    ...serverMessages,
    ...messages,
    ...partMessages,
  }),
);

/**
 * A message, or a packet of a handshake, with its fields by name. A part has the fields of its
 * message, except the one that it is a part of.
 */
export type Sentence = {
  type: string;
  id: number;
  fields: Record<string, unknown>;
  part?: { offset: number; bytes: number; size: number };
};

function readMessage([number, id, ...values]: readonly unknown[]): Sentence {
  const type = TYPES[Number(number)] ?? "?";
  const names = fieldsOf.get(type) ?? [];
  const fields = Object.fromEntries(names.map((name, i) => [name, values[i]]));
  if (type !== "Part") return { type, id: Number(id), fields };
  const [offset, size] = [Number(fields["offset"]), Number(fields["size"])];
  const [head] = decodeMulti(fields["head"] as Uint8Array);
  const part = { offset, bytes: (fields["data"] as Uint8Array).length, size };
  return { ...readMessage(head as unknown[]), part };
}

/** Reads a packet of a simulated server or client. */
export function readPacket(packet: Buffer): Sentence[] {
  const { kind, bodies, sender, receiver } = open(packet);
  if (kind === "data") {
    if (bodies.length > 0) return bodies.map(readMessage);
    return [{ type: "empty", id: numberIn(packet), fields: { channel: channelIn(packet) } }];
  }
  const echo = packet.subarray(2);
  if (kind === "hint") return [{ type: kind, id: channelIn(echo), fields: { kind: echo[0] } }];
  return [{
    type: kind,
    id: sender?.channel ?? 0,
    fields: { ...sender, other: receiver?.channel },
  }];
}

/** Counts the records in the `entries` of an AppendEntries: each has its length at byte 13. */
function countEntries(raw: unknown): number {
  if (!(raw instanceof Uint8Array)) return 0;
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
  let count = 0;
  for (let at = 0; at + 17 <= bytes.length; at += 17 + bytes.readUInt32BE(at + 13)) count += 1;
  return count;
}

/** Returns the number of a channel in a short form. */
const tellChannel = (number: unknown) => `#${Number(number).toString(36).slice(-4)}`;

/** Returns a message in words. */
export function tellMessage({ type, id, fields: f, part }: Sentence): string {
  if (part) {
    const end = part.offset + part.bytes;
    return `${type} ${id}, a part: bytes ${part.offset} to ${end} of ${part.size}`;
  }
  const ask = f["preVote"] === true ? "PreVote" : "Vote";
  switch (type) {
    case "hello":
      return `Hello ${f["attempt"]} for channel ${tellChannel(id)}: ${f["role"]} ${f["name"]}, `
        + `boot ${f["boot"]} of disk ${f["disk"]}`;
    case "welcome":
      return `Welcome to channel ${tellChannel(f["other"])}, here ${tellChannel(id)}: `
        + `boot ${f["boot"]} of disk ${f["disk"]}`;
    case "hint":
      return `Hint: I have no channel ${tellChannel(id)}`;
    case "empty":
      return `packet ${id} of channel ${tellChannel(f["channel"])}, without a message`;
    case "RequestVote":
      return `Request${ask} for term ${f["term"]}: my log ends at ${f["lastLogIndex"]} `
        + `(term ${f["lastLogTerm"]})`;
    case "RequestVoteReply":
      return `${ask} ${f["voteGranted"] === true ? "granted" : "refused"}, term ${f["term"]}`;
    case "AppendEntries": {
      const count = countEntries(f["entries"]);
      const what = count === 0 ? "heartbeat" : count === 1 ? "1 entry" : `${count} entries`;
      return `AppendEntries of term ${f["term"]}: ${what} after ${f["prevLogIndex"]} `
        + `(term ${f["prevLogTerm"]}), committed ${f["leaderCommit"]}, round ${f["round"]}`;
    }
    case "AppendEntriesReply":
      return f["success"] === true
        ? `AppendEntries round ${f["round"]} done: we agree up to ${f["matchIndex"]}, `
          + `term ${f["term"]}`
        : `AppendEntries round ${f["round"]} refused, term ${f["term"]}: try ${f["hintIndex"]} `
          + `(term ${f["hintTerm"]})`;
    case "InstallSnapshot":
      return `InstallSnapshot of term ${f["term"]}: bytes ${f["offset"]} and on of ${f["size"]}, `
        + `the state after ${f["lastIncludedIndex"]}, round ${f["round"]}`;
    case "InstallSnapshotReply":
      return `InstallSnapshot round ${f["round"]} ${f["success"] === true ? "done" : "refused"}, `
        + `term ${f["term"]}: I have ${f["offset"]} bytes of ${f["lastIncludedIndex"]}`;
    case "NotLeader":
      return `NotLeader ${id}: ${f["leader"] === "" ? "no leader is known" : `${f["leader"]} is`}`;
    default:
      return `${type} ${id}`;
  }
}
