/** Seals and opens datagrams as section 14 describes them, without a line of raft.ts. */
import { decodeMulti, encode, Encoder } from "@msgpack/msgpack";
import { createHmac } from "node:crypto";
import type { Channel } from "../../raft.ts";

/** The secret of the simulated clusters. */
export const SECRET = "open sesame";
export const CHANNELS = ["peer", "client", "operator"] as const;
/** The number of each message in the table of its channel. */
export const TYPES = {
  peer: [
    "RequestVote",
    "RequestVoteReply",
    "AppendEntries",
    "AppendEntriesReply",
    "TimeoutNow",
    "InstallSnapshot",
    "InstallSnapshotReply",
    "Removed",
    "Greeting",
  ],
  client: [
    "OpenSession",
    "Commands",
    "Read",
    "ReadIndex",
    "Inspect",
    "Answer",
    "NotLeader",
    "Refused",
    "Outcomes",
    "Greeting",
  ],
  operator: ["ChangeMembers", "Transfer", "Answer", "NotLeader", "Refused", "Greeting"],
};

export type Envelope = {
  cluster: unknown;
  from: unknown;
  to: unknown;
  disk: unknown;
  boot: unknown;
  toBoot: unknown;
  sequence: unknown;
  founding?: unknown;
};

export const inOrder = (
  e: Envelope,
) => [
  e.cluster,
  e.from,
  e.to,
  e.disk,
  e.boot,
  e.toBoot,
  e.sequence,
  "founding" in e ? e.founding : 0,
];

/** Encodes whole numbers as floats, too, because only floats have a -0. */
export const floats = new Encoder({ forceIntegerToFloat: true });

function codeOf(channel: Channel, secret: string, rest: Uint8Array): Buffer {
  const purpose = channel === "peer" ? "raft.ts peer" : `raft.ts ${channel} raft`;
  const key = createHmac("sha256", secret).update(purpose).digest();
  return createHmac("sha256", key).update(rest).digest().subarray(0, 16);
}

/** A code (16 bytes), the version (1), the channel (1), an envelope and messages in MessagePack. */
export function seal(
  channel: Channel,
  parts: readonly Uint8Array[],
  { secret = SECRET, as = channel } = {},
): Buffer {
  const rest = Buffer.concat([Buffer.from([6, CHANNELS.indexOf(as)]), ...parts]);
  return Buffer.concat([codeOf(channel, secret, rest), rest]);
}

export type Opened = {
  channel: Channel;
  envelope: unknown[];
  bodies: unknown[][];
  types: string[];
};

/** Reads a datagram of a server. Throws if it is not sealed with this secret. */
export function open(sealed: Buffer, secret = SECRET): Opened {
  if (sealed.length === 0) return { channel: "peer", envelope: [], bodies: [], types: [] };
  const channel = CHANNELS[sealed[17] ?? -1] ?? "peer";
  if (!codeOf(channel, secret, sealed.subarray(16)).equals(sealed.subarray(0, 16))) {
    throw new Error("This datagram is not sealed with our secret.");
  }
  const [envelope = [], ...bodies] = [...decodeMulti(sealed.subarray(18))] as unknown[][];
  return {
    channel,
    envelope,
    bodies,
    types: bodies.map(([type]) => TYPES[channel][Number(type)] ?? "?"),
  };
}

/** Values in a row, without the header of an array. */
export const sequence = (values: readonly unknown[]): Buffer =>
  Buffer.concat(values.map((value) => encode(value)));

type Numbers = readonly [session: number, sequence: number, acknowledged: number];

/** The fields of a request with these commands. */
export const commandsOf = (numbers: Numbers, ...commands: Uint8Array[]) =>
  [...numbers, sequence(commands)] as const;

/** The data of an entry that opens a session. */
export const makeOpening = (session: number, owner = "client", nonce = session): Buffer =>
  Buffer.from(encode([owner, nonce, session]));

/** A request with one command as it is in the log. */
export const makeCommand = (numbers: Numbers, command: Uint8Array, owner = "client"): Buffer =>
  Buffer.from(encode([owner, ...commandsOf(numbers, command)]));

/** The same as version 5 had it. Several in a row were an entry. */
export const makeCommandOfVersion5 = (numbers: Numbers, command: Uint8Array): Buffer =>
  Buffer.from(encode(commandsOf(numbers, command)));

/** Reads the outcomes of commands that were sent together, each with its place. */
export const readOutcomes = ([first, outcomes]: readonly unknown[]) =>
  [...decodeMulti(outcomes as Uint8Array)].map((outcome, i) => ({
    place: Number(first) + i,
    outcome: Buffer.from(outcome as Uint8Array).toString(),
  }));

const VERBS = ["get", "put", "delete", "cas"] as const;

/** Returns a request to the store: a verb (1 byte), then each part after its length (4 bytes). */
export function askStore(verb: (typeof VERBS)[number], ...parts: readonly Uint8Array[]): Buffer {
  const framed = parts.map((part) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(part.length);
    return Buffer.concat([length, part]);
  });
  return Buffer.concat([Buffer.of(VERBS.indexOf(verb)), ...framed]);
}

/** Reads an answer of the store: whether it was done, or the value that was found. */
export const answerOf = (answer: Uint8Array): boolean | string =>
  answer.length > 1 ? Buffer.from(answer.subarray(5)).toString("latin1") : answer[0] === 1;

/** Returns a datagram from an unknown client, with any number of messages. */
export function fromClient(
  to: { clusterId: string; name: string; boot: number },
  bodies: readonly unknown[],
  sequence: number,
  name = "client 9",
): Buffer {
  const header = inOrder({
    cluster: to.clusterId,
    from: name,
    to: to.name,
    disk: 9,
    boot: 1,
    toBoot: to.boot,
    sequence,
  });
  return seal("client", [header, ...bodies].map((part) => encode(part)));
}
