/** Tells a run as a story in lines that people read: each message, and each decision. */
import { Decoder } from "@msgpack/msgpack";
import { type Channel, clientMessages, messages, operatorMessages } from "../../../raft.ts";

const decoder = new Decoder();
const MAC_VERSION_AND_CHANNEL = 18;
const greetings = { Greeting: ["asked", "members", "cluster"] };
const tables: Record<Channel, [type: string, fields: readonly string[]][]> = {
  peer: Object.entries({ ...messages, ...greetings }),
  client: Object.entries({ ...clientMessages, ...greetings }),
  operator: Object.entries({ ...operatorMessages, ...greetings }),
};
const channels = ["peer", "client", "operator"] as const;

/** The content of a datagram, with the fields of its messages by name. */
export type Said = { channel: Channel; from: string; to: string; said: Sentence[] };
export type Sentence = { type: string; id: number; fields: Record<string, unknown> };

/** Reads a datagram of a correct sender, without checking its code. */
export function readDatagram(sealed: Buffer): Said {
  const channel = channels[sealed[MAC_VERSION_AND_CHANNEL - 1] ?? -1] ?? "peer";
  const [envelope, ...bodies] = [
    ...decoder.decodeMulti(sealed.subarray(MAC_VERSION_AND_CHANNEL)),
  ] as unknown[][];
  const said = bodies.map(([number, id, ...values]) => {
    const [type, names] = tables[channel][Number(number)] ?? ["?", []];
    return {
      type,
      id: Number(id),
      fields: Object.fromEntries(names.map((n, i) => [n, values[i]])),
    };
  });
  return { channel, from: String(envelope?.[1]), to: String(envelope?.[2]), said };
}

/** Counts the records in the `entries` of an AppendEntries: each has its length at byte 13. */
function countEntries(raw: unknown): number {
  if (!(raw instanceof Uint8Array)) return 0;
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength);
  let count = 0;
  for (let at = 0; at + 17 <= bytes.length; at += 17 + bytes.readUInt32BE(at + 13)) count += 1;
  return count;
}

/** Returns a message in words. */
export function tellMessage({ type, id, fields: f }: Sentence): string {
  const ask = f["preVote"] === true ? "PreVote" : "Vote";
  switch (type) {
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
