/**
 * # Raft
 *
 * Raft keeps one log identical on several servers. Each server applies its log, entry by entry, to
 * a deterministic state machine, so equal logs make equal states. Any majority of the servers can
 * go on when the others fail, and no acknowledged command is ever lost.
 *
 * One server leads. It appends the clients' commands to its log as entries, and copies them to the
 * followers. Once a majority has one of these entries on disk, that entry is committed, with all
 * entries before it: then the servers apply them, and the clients get their answers. A follower
 * that hears no leader starts an election, in a new term.
 *
 * Five promises hold at every moment, whether messages are lost, servers crash or power fails
 * (Figure 3):
 *
 *   Election Safety        at most one leader can be elected in a given term
 *   Leader Append-Only     a leader never overwrites or deletes entries of its own log
 *   Log Matching           two logs that agree on an entry's index and term agree up to it
 *   Leader Completeness    an entry committed in a term is in the logs of all later leaders
 *   State Machine Safety   no two servers ever apply different entries at the same index
 *
 * ## How to read this file
 *
 * Part I is the algorithm alone, without clock, socket, disk or randomness. A server takes an input
 * (a message, the time, a client's command), changes its state, and decides what to send, save and
 * apply. Read it beside Figure 2. A first reading ends after section 7.
 *
 * Part II is the machine room: datagrams, disk, timers, async code. It carries out what `Raft.step`
 * yields: what to send, what to save, what to apply. Everything impure enters through four
 * small interfaces, so the same code runs on a LAN and in a simulated world.
 *
 *   Part I    1 Vocabulary and messages   2 The log   3 A server's state
 *             4 What can happen to a server   5 Elections   6 Replication and commitment
 *             7 Invariants   8 Reads and leadership transfer   9 Snapshots   10 Members
 *             11 Lost disks and founding   12 Retransmission and closed ports   13 Sessions
 *   Part II   14 The wire   15 Stable storage   16 Datagrams   17 Channels
 *             18 A running node   19 Clients   20 A key-value store
 *
 * Citations: (§5.3) and (Figure 2) refer to "In Search of an Understandable Consensus Algorithm
 * (Extended Version)" by Ongaro and Ousterhout, 2014. (thesis §6.4) refers to Ongaro's
 * dissertation, "Consensus: Bridging Theory and Practice", 2014. (Ongaro, 2015) is his "bug in
 * single-server membership changes" on the list raft-dev. (Noise §4.3) refers to "The Noise
 * Protocol Framework" by Perrin, revision 34, 2018.
 */
import { decode, Decoder, Encoder } from "@msgpack/msgpack";
import { Database } from "bun:sqlite";
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPrivateKey,
  createPublicKey,
  diffieHellman,
  hkdfSync,
  type KeyObject,
  randomInt,
} from "node:crypto";
import dgram from "node:dgram";
import dns from "node:dns/promises";
import { once } from "node:events";
import fs from "node:fs";
import { isIPv6 } from "node:net";
import { networkInterfaces } from "node:os";
import path from "node:path";
import { crc32 } from "node:zlib";

// ==================================== Part I: The algorithm =====================================

// ---------------------------------- 1 Vocabulary and messages -----------------------------------
// Two requests and their replies do most of the work (§5): RequestVote and AppendEntries. Three
// rarer requests hand over leadership, send a snapshot, and tell a server that it was removed. The
// fields are those of Figures 2 and 13, by name; `candidateId` and `leaderId` are `from`. A field
// that both figures lack is explained where it first appears. One table yields the types, and in
// section 14 the encoding, decoding and checking of every field.

/** A server's name: `host:port` as its peers write it, or any other word that they agree on. */
export type Name = string;

export const entryKinds = ["noop", "session", "commands", "members"] as const;
/** An entry of the log (§5.3). */
export type Entry = {
  readonly index: number;
  readonly term: number;
  /**
   * "commands": requests of clients, for the state machine. "session": opens the session of a
   * client (section 13). "members": lists the members (section 10). "noop": changes nothing.
   * Committing it commits the entries before it.
   */
  readonly kind: (typeof entryKinds)[number];
  /** The commands, or the opening of a session. Opaque until it is applied. Else empty. */
  readonly data: Buffer;
  /** The members, in the kind "members". */
  readonly membership?: Membership;
};

export const messages = {
  RequestVote: [
    "term",
    "preVote", // Asks only whether a vote in this next term would be granted (thesis §9.6).
    "transfer", // A leader asked the candidate to take over (thesis §3.10).
    "campaign", // Tells the campaigns of a candidate apart.
    "voterDisk", // The disk that the candidate's log names for the voter (section 11).
    "lastLogIndex",
    "lastLogTerm",
  ],
  RequestVoteReply: ["term", "preVote", "campaign", "voteGranted"],
  AppendEntries: [
    "term",
    // Numbers all requests of a leader in its term. If a majority answers request n or later ones,
    // the sender was still the leader when it sent request n.
    "round",
    "prevLogIndex",
    "prevLogTerm",
    "leaderCommit",
    "entries",
  ],
  AppendEntriesReply: [
    "term",
    "round",
    "success",
    "matchIndex", // The last index known to match, durable on the follower.
    "hintIndex", // On failure, the last entry that could match,
    "hintTerm", // and its term.
  ],
  /** Asks the follower that is to take over to campaign at once (thesis §3.10). */
  TimeoutNow: ["term"],
  InstallSnapshot: [
    "term",
    "round",
    "lastIncludedIndex",
    "lastIncludedTerm",
    "size", // Of the whole snapshot, in bytes. It replaces `done`.
    "offset",
    "data",
  ],
  /** A follower whose log has the snapshot's last entry sends an AppendEntriesReply instead. */
  InstallSnapshotReply: [
    "term",
    "round",
    // True if no earlier chunk is missing. Also true for a chunk that the follower drops because it
    // is installing another snapshot.
    "success",
    "lastIncludedIndex",
    "offset", // How many bytes the follower has.
  ],
  /** Tells a former member that it has left the cluster. */
  Removed: ["term"],
} as const;

/**
 * The names of the fields that are booleans, strings or bytes, in every table of this file. The
 * field `entries` has entries. All other fields are numbers.
 */
const flags = ["preVote", "transfer", "voteGranted", "success", "votes", "force"] as const;
const texts = [
  "owner",
  "cluster",
  "from",
  "to",
  "leader",
  "name",
  "address",
  "servers",
  "reason",
  "role",
  "members",
] as const;
const blobs = [
  "data",
  "commands",
  "question",
  "answer",
  "outcomes",
  "head",
  "keyId",
  "key",
] as const;
type Value<Field> = Field extends (typeof flags)[number] ? boolean
  : Field extends (typeof texts)[number] ? string
  : Field extends (typeof blobs)[number] ? Uint8Array
  : Field extends "entries" ? readonly Entry[]
  : number;

type Table = Record<string, readonly string[]>;
type Fields<List extends readonly string[]> = { [Field in List[number]]: Value<Field> };
/**
 * The union of the messages in a table. `id` pairs a reply with its request, and is filled in by
 * the node (section 18). A received message also has two random numbers (section 11): `disk`
 * identifies its sender's disk, and `founding` the founding of its sender's cluster.
 */
type MessageOf<T extends Table> = {
  [Type in keyof T]:
    & { type: Type; from: Name; to: Name; id: number; disk?: number; founding?: number }
    & Fields<T[Type]>;
}[keyof T];
export type Message = MessageOf<typeof messages>;
type Of<Type extends Message["type"]> = Extract<Message, { type: Type }>;
type Reply = Of<"AppendEntriesReply" | "InstallSnapshotReply">;

const memberFields = [
  "name",
  "address", // Empty if it is not known.
  "votes", // A learner has no vote.
  "disk", // Votes and acknowledgements count from this disk alone. 0 until one is known.
] as const;
export type Member = Readonly<Fields<typeof memberFields>>;
/** All members, as an entry of the log lists them (thesis §4). */
export type Configuration = readonly Member[];
/** A configuration, and the random number of its cluster's founding (section 11). */
export type Membership = { readonly founding: number; readonly members: Configuration };

/** What a server reports to operators and to the program that embeds it. */
export type Event =
  | { type: "preVoteLost"; votes: number; needed: number }
  | { type: "campaign"; silentMs: number; transfer: boolean }
  | { type: "voted"; candidate: Name }
  | { type: "votes"; votes: number; elected: boolean }
  | { type: "role"; from: RoleName; to: RoleName }
  | { type: "leader"; from: Name | undefined; to: Name | undefined }
  | { type: "committed"; commitIndex: number }
  | { type: "snapshot"; index: number; size: number; from: Name | undefined }
  | { type: "lostDisk"; server: Name }
  | { type: "otherFounding"; server: Name }
  | Stuck;
/**
 * A batch of `bytes` from `index` on does not reach `server` after many attempts, although small
 * messages do. Or if a snapshot has replaced these entries, a chunk of it does not.
 */
export type Stuck = { type: "stuck"; server: Name; index: number; bytes: number };

/** Stops a server that has broken a rule: no answer is better than a wrong one. */
export function assert(condition: unknown, sentence: string): asserts condition {
  if (!condition) throw new Error(`Broken invariant: ${sentence}.`);
}

const NOTHING = Buffer.alloc(0);

// ------------------------------------------ 2 The log -------------------------------------------
// Entries are numbered from 1. The base is the entry before the first one that the log still has:
// the last one that was discarded (§7), or a no-op at index 0 that begins every log. So
// each entry has a predecessor to agree on (§5.3). Only this class turns an index into a place.

/** The bytes of an entry beside its data, on the wire and on the disk. */
const ENTRY_HEADER = 17;

/** Returns the size of an entry in bytes, or a little more for a list of members. */
export const sizeOf = ({ data, membership }: Pick<Entry, "data" | "membership">): number =>
  ENTRY_HEADER + data.length
  + (membership ? Buffer.byteLength(JSON.stringify(membership.members.map(Object.values))) : 0);

const noop = (index: number, term: number): Entry => ({ index, term, kind: "noop", data: NOTHING });

/** Returns the last number up to `high` that passes, or `low`. After one that fails, all fail. */
function lastWhere(low: number, high: number, passes: (number: number) => boolean): number {
  if (low >= high) return low;
  const middle = Math.ceil((low + high) / 2);
  return passes(middle) ? lastWhere(middle, high, passes) : lastWhere(low, middle - 1, passes);
}

/** A place of the log: an entry, and what follows from all entries up to it. */
type Slot = {
  readonly entry: Entry;
  /** Where the entry ends, in bytes, so that the size of a range is one subtraction. */
  readonly endOffset: number;
  /** The last list of members, and the index of its entry or of the snapshot that has it. */
  readonly membership: Membership & { readonly index: number };
};

export class Log {
  /** The last entry on this server's disk. Later ones are not acknowledged, counted or applied. */
  savedIndex = 0;
  baseIndex = 0;
  /** The base, and the entries after it. Truncating them restores the earlier list of members. */
  private slots: Slot[] = [];

  get lastIndex(): number {
    return this.baseIndex + this.slots.length - 1;
  }

  get lastTerm(): number {
    return this.at(this.lastIndex).term;
  }

  private slot(index: number): Slot {
    const slot = this.slots[index - this.baseIndex];
    // The message is made only on failure, because this runs for every entry.
    if (!slot) assert(false, `a log up to ${this.lastIndex} is not asked for ${index}`);
    return slot;
  }

  at(index: number): Entry {
    return this.slot(index).entry;
  }

  /**
   * Returns whether the entry at `index` has this `term`. True for every index before the base:
   * those entries are committed, so all logs agree on them.
   */
  matches(index: number, term: number): boolean {
    return index < this.baseIndex || this.slots[index - this.baseIndex]?.entry.term === term;
  }

  append(entry: Entry): void {
    assert(entry.index === this.lastIndex + 1, "a log has no gaps");
    assert(entry.term >= this.lastTerm, "terms never decrease along a log");
    const { endOffset, membership } = this.slot(this.lastIndex);
    this.slots.push({
      entry,
      endOffset: endOffset + sizeOf(entry),
      membership: entry.membership ? { index: entry.index, ...entry.membership } : membership,
    });
  }

  /** Returns the list of members that is in force if the log ends at `index`. */
  membership(index = this.lastIndex): Slot["membership"] {
    return this.slot(index).membership;
  }

  /**
   * AppendEntries, steps 3 and 4 (Figure 2). Only an entry that conflicts with a new one is
   * deleted, with all that follow it. Otherwise a delayed, shorter request would delete later
   * entries that this server has acknowledged.
   */
  merge(entries: readonly Entry[], commitIndex: number): void {
    for (const entry of entries) {
      if (this.matches(entry.index, entry.term)) continue;
      assert(entry.index > commitIndex, "a committed entry never changes");
      this.slots.splice(entry.index - this.baseIndex);
      this.savedIndex = Math.min(this.savedIndex, this.lastIndex);
      this.append(entry);
    }
  }

  slice(first: number, last = this.lastIndex): Entry[] {
    assert(first > this.baseIndex, "entries that a snapshot has replaced are not in the log");
    const slots = this.slots.slice(first - this.baseIndex, last + 1 - this.baseIndex);
    return slots.map(({ entry }) => entry);
  }

  /**
   * Returns the entries from `first` to `lastIndex` that fit into `bytes`. If there are any, it
   * returns at least one, because a larger one could never be sent otherwise.
   */
  batch(first: number, bytes: number, lastIndex = this.lastIndex): Entry[] {
    let last = first;
    while (last < lastIndex && this.bytes(first, last + 1) <= bytes) last += 1;
    return this.slice(first, Math.min(last, lastIndex));
  }

  /** Returns how many bytes the entries from `first` to `last` take. Discarded ones take none. */
  bytes(first: number, last: number): number {
    const end = (index: number) => this.slot(Math.max(index, this.baseIndex)).endOffset;
    return last < first ? 0 : end(last) - end(first - 1);
  }

  /**
   * Returns the last index, at or before `index`, whose entry has this `term` or an earlier one.
   * Returns an index before the base if no remaining entry qualifies.
   */
  lastUpTo(index: number, term: number): number {
    return lastWhere(
      Math.min(index, this.baseIndex - 1),
      Math.min(index, this.lastIndex),
      (each) => this.at(each).term <= term,
    );
  }

  /** Drops the entries up to `index`, all but the last `keepBytes` of them. */
  compact(index: number, keepBytes: number): void {
    let base = index;
    while (base > this.baseIndex && this.bytes(base, index) <= keepBytes) base -= 1;
    this.slots.splice(0, base - this.baseIndex);
    this.baseIndex = base;
  }

  /**
   * Discards the log and restarts it after a base that is durable. The members are those at the
   * base or at a later snapshot.
   */
  reset({ index, term }: Position, membership: Slot["membership"]): void {
    this.slots = [{ entry: noop(index, term), endOffset: 0, membership }];
    this.baseIndex = this.savedIndex = index;
  }
}

// -------------------------------------- 3 A server's state --------------------------------------
// The three blocks of Figure 2. The state that only a leader has is a part of its role, so a server
// that stops leading has no `nextIndex` left to misuse.

/** What a server is configured with. It never changes while the server runs. */
export type Settings = {
  name: Name;
  /** Identifies this server's disk: drawn at random when its data directory was created. */
  disk: number;
  /** The founding members. Empty for a server that joins an existing cluster. */
  founders: Configuration;
  /** T: a follower that hears no leader for a random time in [T, 1.5 T) campaigns (§5.2). */
  electionTimeoutMs: number;
  /** An idle leader sends a heartbeat this often. */
  heartbeatMs: number;
  /** Entries of one AppendEntries, in bytes. A single larger entry is sent alone. */
  batchBytes: number;
  /** Bytes in flight to one follower: beyond that, the leader waits for acknowledgements. */
  windowBytes: number;
};

/** What a leader knows of one follower. */
export class Progress {
  /** The highest entry known to be replicated on the follower, durably (Figure 2). */
  matchIndex = 0;
  /** The leader's round when `matchIndex` last rose. Later rounds were sent after that. */
  roundWhenMatched = 0;
  /**
   * probing: the logs may still differ before `nextIndex`, so one batch at a time is sent.
   * replicating: they agree, so batches are pipelined up to `windowBytes`.
   * snapshot: the follower needs entries that the log no longer has.
   */
  mode: "probing" | "replicating" | "snapshot" = "probing";
  /** When the timer of the next heartbeat or attempt was started. -Infinity: it has run out. */
  timerStartedAt = -Infinity;
  /** The last round that was sent. */
  sentRound = 0;
  /** The last round that was answered. The follower still followed us when it received it. */
  confirmedRound = 0;
  /**
   * How often a batch or chunk was tried without progress. Above 0, one batch or chunk is sent at a
   * time, and only the timer repeats it.
   */
  attempts = 0;
  /** As last reported. It is over once `matchIndex` has reached its index. */
  stuck: Stuck | undefined;
  /** How many bytes of the snapshot at `index` were sent, and how many have arrived. */
  snapshot = { index: 0, sent: 0, acknowledged: 0 };
  /**
   * A second limit beside the setting `windowBytes`: the smaller one counts. Infinity until a
   * refusal. A refusal makes the leader retransmit everything in flight, even if a packet was only
   * reordered, so a refusal lowers this limit to one batch. Each acknowledgement raises the limit
   * by twice the acknowledged bytes, so the limit triples in a round trip.
   */
  windowLimit = Infinity;
  /** The entry that a learner has to reach: the last one of the log at the instant `setAt`. */
  goal: { index: number; setAt: number };

  constructor(
    /** The next entry to send (Figure 2). While replicating it runs ahead of acknowledgements. */
    public nextIndex: number,
    /** When the follower was last heard, or since when it has been tracked. */
    public heardAt: number,
    /**
     * Replies to rounds up to this one are ignored. After this round the leader went back to an
     * earlier entry or chunk, or began to track the follower or to transfer its leadership.
     */
    public ignoreUpToRound = 0,
  ) {
    this.goal = { index: nextIndex - 1, setAt: heardAt };
  }
}

type Follower = { name: "Follower"; leader?: Name | undefined };
/** A pre-candidate only asks whether it could win: it changes no term (thesis §9.6). */
type Campaigner = {
  name: "PreCandidate" | "Candidate";
  /** A set of names, never a counter, because the network may deliver a vote twice (§5.2). */
  votes: Set<Name>;
  /** Whether a leader asked this server to campaign (thesis §3.10). */
  transfer: boolean;
};
type Leader = {
  name: "Leader";
  followers: Map<Name, Progress>;
  /** Counts the requests that were sent: the clock that orders reads (thesis §6.4). */
  round: number;
  /** The first entry of the term: a no-op, or the list of members in a new cluster. */
  firstIndex: number;
  /** Reads in order. Each waits until a later round is confirmed and `index` is applied. */
  reads: { round: number; index: number }[];
  /** The followers that may take over. The transfer is given up at `transferDeadline`. */
  transferTargets?: Name[];
  transferDeadline?: number;
};
export type Role = Follower | Campaigner | Leader;
export type RoleName = Role["name"];

/** What the disk keeps beside the log. Otherwise a server could vote twice in a term (§5.2). */
export type HardState = {
  currentTerm: number;
  votedFor: Name | undefined;
  /** The commit index as known at the last save. It may lag, and only rises. */
  commitIndex: number;
};

/** Why a server does not do what an operator asks. */
export type Refused = { readonly refused: string };

export type Position = { readonly index: number; readonly term: number };
/** The state after the entry at `index`, and the members then. The bytes are on the disk. */
export type Snapshot = Position & Membership & {
  /** In bytes. */
  readonly size: number;
};
/** A snapshot that this server is receiving. */
export type IncomingSnapshot = Position & {
  from: Name;
  leaderTerm: number;
  size: number;
  /** How many bytes have arrived. */
  offset: number;
  unwritten: Uint8Array[];
};
/** What a server remembers when it starts. */
export type Remembered = HardState & {
  /** The entries after `base`. */
  entries: readonly Entry[];
  base?: Position;
  snapshot?: Snapshot | undefined;
};

/** What a save writes: the hard state as it is now, and the entries after the last saved one. */
export type Unsaved = HardState & { entries: readonly Entry[] };
/** One act of a step, which the caller carries out (`Raft.step`). */
export type Effect =
  | { type: "send"; messages: readonly Message[] }
  | { type: "save"; unsaved: Unsaved }
  /** Apply the entries, then answer so many of the oldest reads. */
  | { type: "apply"; entries: readonly Entry[]; reads: number };

export class Raft {
  // Persistent state on all servers.
  currentTerm: number;
  votedFor: Name | undefined;
  readonly log = new Log();
  snapshot: Snapshot;
  /** The term, vote and commit index that the disk has. */
  saved: HardState;

  // Volatile state on all servers.
  commitIndex: number;
  lastApplied: number;
  role: Role = { name: "Follower" };

  // Times are milliseconds from an arbitrary origin. `now` is the time of the last input.
  /** When the last valid RPC of the leader arrived, or of the candidate that got our vote. */
  heardAt: number;
  electionDueAt: number;
  /** Counts campaigns: a pre-vote is valid for one campaign only. */
  campaigns = 0;
  /** When to ask for missing votes again. */
  private requestVotesAt: number;
  incoming: IncomingSnapshot | undefined;
  /** Set once this server was removed from the members. The node stops it once it does not lead. */
  isRemoved = false;
  /** Whether this server was a member at any time since its start. Only then can it be removed. */
  private wasMember = false;

  // State of the refinements in sections 11 and 12.
  /** The disk that each server used when it was last heard. */
  readonly disks: Map<Name, number>;
  /** The last founding above 0 that each server's disk has shown; 0 if the disk showed only 0. */
  readonly foundings = new Map<Name, number>();
  /**
   * Counts the rounds of RequestVote since the start, or since this server began to ask again. Each
   * also asks the other founders for their foundings, because every reply shows one.
   */
  private foundingQueries = 0;
  /** The servers of another founding that were reported. */
  private readonly reportedFoundings = new Set<Name>();
  /** When to probe the port of a leader that is late. */
  probeAt = 0;
  /** When the leader's port was first found closed. */
  portClosedAt = -Infinity;
  /** When a leader was last given up because its process had died. */
  leaderLostAt = -Infinity;

  /** Messages that the next step sends. */
  private outbox: Message[] = [];
  // For the caller to collect after each step, in any order.
  portProbes: Name[] = [];
  events: Event[] = [];
  readonly #random: () => number;

  /**
   * Continues from what the disk remembers, all of it durable. `random` gives from 0 to below 1.
   */
  constructor(
    readonly settings: Settings,
    remembered: Remembered,
    public now: number,
    random: () => number,
  ) {
    const { base = { index: 0, term: 0 } } = remembered;
    this.#random = random;
    this.disks = new Map([[settings.name, settings.disk]]);
    this.currentTerm = remembered.currentTerm;
    this.votedFor = remembered.votedFor;
    // Without a snapshot, the founders are the members before the first entry.
    this.snapshot = remembered.snapshot
      ?? { ...base, size: 0, founding: 0, members: settings.founders };
    this.lastApplied = this.snapshot.index;
    this.commitIndex = Math.max(remembered.commitIndex, this.lastApplied);
    this.log.reset(base, this.snapshot);
    for (const entry of remembered.entries) this.log.append(entry);
    this.log.savedIndex = this.log.lastIndex;
    this.saved = this.hardState;
    this.heardAt = this.requestVotesAt = this.electionDueAt = now;
    // The others may already have a leader, so wait for it. A lone server need not wait.
    if (this.majority > 1) this.resetElectionTimer();
  }

  // ------------------------------- 4 What can happen to a server --------------------------------
  // Inputs: time passes (`tick`), a message arrives (`receive`), a client asks (`propose`, `read`),
  // an operator asks (`transfer`, `changeMembers`), a snapshot is durable (`onSnapshot`), a port
  // was found closed (`onPortClosed`), a peer has restarted (`onRestarted`), perhaps with another
  // disk (`onHeard`). Inputs change only this object. Once all that has arrived was read, `step`
  // says what to send, save and apply.

  /**
   * Tells this server the time. Call it at `wakeAt`, after `receive` has got all messages that have
   * arrived. An earlier call does no harm.
   */
  tick(now: number): void {
    this.now = now;
    if (this.role.name !== "Leader") {
      if (now >= this.electionDueAt) this.campaign("PreCandidate");
      else if (this.leader !== undefined && now >= this.probeAt) this.probeLeader(this.leader);
    } else if (!this.hearsLeader() || (this.isRemoved && !this.transferTarget)) {
      // CheckQuorum: a leader that no majority answers steps down. Otherwise its clients would
      // never look for the next leader (thesis §6.2). A removed leader steps down after its
      // transfer.
      this.become({ name: "Follower" });
    }
  }

  /** When `tick` must be called next. */
  get wakeAt(): number {
    const { role, electionDueAt, probeAt, requestVotesAt, leader } = this;
    if (this.isRequestingVotes) return Math.min(electionDueAt, requestVotesAt);
    if (role.name !== "Leader") return leader ? Math.min(electionDueAt, probeAt) : electionDueAt;
    return Math.min(...role.followers.values().map((follower) => this.dueAt(role, follower)));
  }

  receive(message: Message, now: number): void {
    this.now = now;
    const { from, disk, founding = 0 } = message;
    if (disk !== undefined) this.onHeard(from, disk, founding);
    if (this.rejectsFounding(message)) return;
    // If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to
    // follower (§5.1). But a granted pre-vote names a term that has not begun, and a RequestVote is
    // sometimes ignored, term and all (`onRequestVote`).
    const { type, term } = message;
    const isGrantedPreVote = type === "RequestVoteReply" && message.preVote && message.voteGranted;
    const keepsTerm = type === "RequestVote" || isGrantedPreVote;
    if (term > this.currentTerm && !keepsTerm) this.adoptTerm(term);
    switch (type) {
      case "RequestVote":
        return this.onRequestVote(message);
      case "RequestVoteReply":
        return this.onRequestVoteReply(message);
      case "AppendEntries":
        return this.onAppendEntries(message);
      case "AppendEntriesReply":
        return this.onAppendEntriesReply(message);
      case "TimeoutNow":
        return this.onTimeoutNow(message);
      case "InstallSnapshot":
        return this.onInstallSnapshot(message);
      case "InstallSnapshotReply":
        return this.onInstallSnapshotReply(message);
      case "Removed":
        return this.onRemoved(message);
    }
    message satisfies never;
  }

  /**
   * Appends commands of clients, or a new session. Returns the index of the entry. The commands
   * have succeeded only once an entry of this term is applied at that index. Returns undefined if
   * this server does not lead, or is handing its leadership over.
   */
  propose(kind: Entry["kind"], data: Buffer = NOTHING): number | undefined {
    const { role, log, currentTerm: term } = this;
    if (role.name !== "Leader" || this.transferTarget) return undefined;
    log.append({ index: log.lastIndex + 1, term, kind, data });
    return log.lastIndex;
  }

  /**
   * Yields what this server has decided to do. The caller carries out each effect completely before
   * it asks for the next one, and gives no input until the step is done. A crash may leave
   * out the rest of the step, and then the server remembers only what it saved. Hence the order:
   *
   *   1. send   Entries promise nothing, so they travel to the followers while the leader writes
   *             to its own disk (thesis §10.2.1). Only their term must be durable, and the election
   *             has saved it. Otherwise a leader could crash, win the same term again, and send
   *             other entries for it. Chunks of a snapshot promise nothing, either. The first
   *             leader of a new cluster waits until entry 1 is durable: before that, its messages
   *             show founding 0. No server rejects 0, so a server of another founding would follow
   *             this leader and drop its own log (`joinFounding`).
   *   2. save   Term, vote and entries are "updated on stable storage before responding to RPCs"
   *             (Figure 2). One write covers all inputs since the last one.
   *   3. send   Votes and acknowledgements are promises. A server that voted for A, lost that vote
   *             in a crash and voted for B would give one term two leaders (§5.2). An entry
   *             that was acknowledged and then lost could be committed without a majority (§5.3).
   *   4. apply  Entries that are committed, and durable here, change the state machine in log order
   *             (§5.3). Only then are their clients answered, and reads that waited for them.
   *
   * The exception: a leader that has entries to apply leaves the save to a later step. The clients
   * of these entries get their answers without waiting for the disk, and one write then has their
   * next commands, too. A leader has no vote or acknowledgement to send in act 3, and until the
   * save it neither counts nor applies new entries.
   */
  *step(applyBytes = Infinity): Generator<Effect> {
    this.prepare();
    const outbox = this.outbox.splice(0);
    const isFoundingDurable = this.shownFounding > 0;
    const isEarly = ({ type }: Message) =>
      isFoundingDurable && (type === "AppendEntries" || type === "InstallSnapshot");
    yield { type: "send", messages: outbox.filter(isEarly) };
    const answersFirst = this.role.name === "Leader" && this.hasApplicable;
    if (this.isUnsaved && !answersFirst) {
      const entries = this.log.slice(this.log.savedIndex + 1);
      yield { type: "save", unsaved: { ...this.hardState, entries } };
      this.onSaved();
    }
    yield { type: "send", messages: outbox.filter((message) => !isEarly(message)) };
    const entries = this.log.batch(this.lastApplied + 1, applyBytes, this.applicableIndex);
    this.lastApplied += entries.length;
    yield { type: "apply", entries, reads: this.takeReads() };
  }

  /**
   * Returns whether the last step has left work: a leader answered first, and has not saved;
   * `applyBytes` was not enough; or the save let a lone server lead or commit, so it has a first
   * entry or a first commit index to save.
   */
  get needsStep(): boolean {
    return this.isUnsaved || this.hasApplicable;
  }

  /** Decides what every peer is sent, once for all inputs since the last step. */
  private prepare() {
    const { role, settings } = this;
    this.wasMember ||= this.member(settings.name) !== undefined;
    if (role.name === "Leader") {
      this.pruneRemoved(role);
      this.maybeLeave();
      for (const [name, follower] of role.followers) this.replicate(role, name, follower);
    } else if (this.isRequestingVotes && this.now >= this.requestVotesAt) this.requestVotes(role);
    this.checkInvariants();
  }

  private get hardState(): HardState {
    const { currentTerm, votedFor, commitIndex } = this;
    return { currentTerm, votedFor, commitIndex };
  }

  /**
   * Returns whether to save: the term, the vote or an entry is new. A new commit index alone is no
   * reason, except the first one (section 11, rule 2).
   */
  private get isUnsaved(): boolean {
    const { currentTerm, votedFor, commitIndex, saved, log } = this;
    return saved.currentTerm !== currentTerm || saved.votedFor !== votedFor
      || log.savedIndex < log.lastIndex || (saved.commitIndex === 0 && commitIndex > 0);
  }

  /**
   * Counts a candidate's vote for itself and a leader's copy of an entry, now that both are
   * durable.
   */
  private onSaved() {
    this.saved = this.hardState;
    this.log.savedIndex = this.log.lastIndex;
    if (this.role.name === "Candidate") this.countVote(this.role, this.settings.name);
    if (this.role.name === "Leader") this.advanceCommitIndex(this.role);
  }

  /**
   * The last entry that may be applied: committed, and durable here. The first commit index must be
   * durable, too (section 11, rule 2).
   */
  private get applicableIndex(): number {
    const mustWait = this.isInstalling || this.saved.commitIndex === 0;
    return mustWait ? this.lastApplied : Math.min(this.commitIndex, this.log.savedIndex);
  }

  private get hasApplicable(): boolean {
    return this.lastApplied < this.applicableIndex;
  }

  private send<Type extends Message["type"]>(
    type: Type,
    to: Name,
    fields: Fields<(typeof messages)[Type]>,
    id = 0,
  ) {
    // The signature checks the fields. The compiler cannot join them with their type here.
    const message: unknown = { type, from: this.settings.name, to, id, ...fields };
    this.outbox.push(message as Message);
  }

  // ---------------------------------------- 5 Elections -----------------------------------------
  // A follower that hears no leader asks the others for their votes, and leads if a majority grants
  // them (§5.2). Two refinements keep a server that was away from deposing a working leader: it
  // first asks whether it could win (PreVote, thesis §9.6), and a server that hears a leader
  // refuses (thesis §4.2.3).

  /** The leader that this server knows, which may be itself. */
  get leader(): Name | undefined {
    if (this.role.name === "Leader") return this.settings.name;
    return this.role.name === "Follower" ? this.role.leader : undefined;
  }

  /**
   * Returns whether there is a working leader: this follower heard it within T, or this leader
   * heard a majority within T.
   */
  hearsLeader(): boolean {
    const { role, now, settings } = this;
    // For a leader: the latest time such that a majority was heard then or later.
    const heardAt = role.name === "Leader"
      ? this.majorityValue(role, now, (f) => f.heardAt)
      : this.heardAt;
    return this.leader !== undefined && now < heardAt + settings.electionTimeoutMs;
  }

  /**
   * Draws a new timeout for every campaign, because otherwise two candidates would split the vote
   * again (§5.2). It is below 1.5 T, where the paper has 2 T: a lost pre-vote splits no vote, so a
   * smaller spread is enough, and a crashed leader is replaced sooner.
   */
  private resetElectionTimer(campaignTimeoutMs = this.settings.electionTimeoutMs) {
    this.electionDueAt = this.now + campaignTimeoutMs * (1 + this.#random() / 2);
  }

  private become(role: Role) {
    const { leader, role: before } = this;
    this.role = role;
    if (this.leader !== leader) this.events.push({ type: "leader", from: leader, to: this.leader });
    if (before.name === role.name) return;
    this.events.push({ type: "role", from: before.name, to: role.name });
    if (before.name !== "Leader") return;
    this.heardAt = this.now; // This server only now begins to wait for a leader.
    this.resetElectionTimer();
  }

  /** Enters a higher term as a follower that has not voted in it (§5.1). */
  private adoptTerm(term: number) {
    this.currentTerm = term;
    this.votedFor = undefined;
    this.become({ name: "Follower" });
  }

  /** Opens a campaign. A candidate, not a pre-candidate, opens a new term and votes for itself. */
  private campaign(name: Campaigner["name"], transfer = false) {
    this.resetElectionTimer(this.campaignTimeoutMs); // Section 12.
    // A server that may not lead doesn't campaign, but still forgets a silent leader. Otherwise it
    // would redirect clients there forever. It also asks for votes, so that a leader that has
    // removed it notices it (`trackRemoved`).
    if (!this.mayLead) {
      this.become({ name: "Follower" });
      if (this.wasMember && this.log.lastIndex > 0) this.requestVotes(this.role);
      return;
    }
    if (name === "Candidate") {
      this.currentTerm += 1;
      this.votedFor = this.settings.name;
      this.events.push({ type: "campaign", silentMs: this.now - this.heardAt, transfer });
    } else if (this.role.name === name) {
      this.events.push({ type: "preVoteLost", votes: this.role.votes.size, needed: this.majority });
    }
    const role: Campaigner = { name, votes: new Set(), transfer };
    this.campaigns += 1;
    this.requestVotesAt = this.now;
    this.become(role);
    // A pre-vote promises nothing. A vote for itself counts only when it is durable (`onSaved`).
    if (name === "PreCandidate") this.countVote(role, this.settings.name);
  }

  /**
   * Requests the votes that are missing, repeatedly, because a request or reply may be lost. Two
   * kinds of followers ask, too, and count no votes: a server that may not lead (`campaign`), and a
   * founder with an empty log, to learn the others' foundings (section 11).
   */
  private requestVotes(role: Role) {
    const { campaigns: campaign, log, settings, campaignTimeoutMs } = this;
    this.requestVotesAt = this.now + Math.min(settings.heartbeatMs, campaignTimeoutMs / 4);
    this.foundingQueries += 1; // Section 11.
    const { votes, transfer } = "votes" in role ? role : { votes: new Set(), transfer: false };
    const preVote = role.name !== "Candidate";
    const term = preVote ? this.currentTerm + 1 : this.currentTerm;
    const isMissing = ({ name }: Member) => name !== settings.name && !votes.has(name);
    for (const { name: to, disk: voterDisk } of this.voters.filter(isMissing)) {
      this.send("RequestVote", to, {
        term,
        preVote,
        transfer,
        campaign,
        voterDisk,
        lastLogIndex: log.lastIndex,
        lastLogTerm: log.lastTerm,
      });
    }
  }

  /**
   * RequestVote, receiver implementation (Figure 2). A pre-vote changes no term, vote or role here.
   */
  private onRequestVote(m: Of<"RequestVote">) {
    // A server that hears a leader neither votes nor adopts the candidate's term (thesis §4.2.3),
    // unless that leader asked for the election.
    if (this.hearsLeader() && !m.transfer) {
      this.trackRemoved(m.from); // Section 10.
      return this.replyVote(m, false);
    }
    if (!m.preVote && m.term > this.currentTerm) this.adoptTerm(m.term);
    // 1. Reply false if term < currentTerm (§5.1).
    const isCurrent = m.term >= this.currentTerm;
    // 2. If votedFor is null or candidateId, and candidate's log is at least as up-to-date as
    //    receiver's log, grant vote (§5.2, §5.4). Only a pre-vote may name a term above ours, where
    //    we have no vote yet.
    const hasNoVote = this.votedFor === undefined || m.term > this.currentTerm;
    const isFree = hasNoVote || this.votedFor === m.from;
    const voteGranted = isCurrent && isFree && this.isUpToDate(m)
      && this.mayVote(m); // Section 11.
    if (voteGranted && !m.preVote) {
      if (hasNoVote) this.events.push({ type: "voted", candidate: m.from });
      // This is a promise: the reply leaves only after the save (`step`, act 3).
      this.votedFor = m.from;
      // Having voted, stop campaigning and forget the old leader, to leave the candidate alone.
      this.become({ name: "Follower" });
      this.heardAt = this.now;
      this.resetElectionTimer();
    }
    this.replyVote(m, voteGranted);
  }

  /** The log whose last entry has the later term is more up-to-date, then the longer (§5.4.1). */
  private isUpToDate({ lastLogIndex, lastLogTerm }: Of<"RequestVote">): boolean {
    if (lastLogTerm !== this.log.lastTerm) return lastLogTerm > this.log.lastTerm;
    return lastLogIndex >= this.log.lastIndex;
  }

  private replyVote(m: Of<"RequestVote">, voteGranted: boolean) {
    // A granted pre-vote names the proposed term. A refusal names our own term: if that is higher,
    // the candidate adopts it, instead of proposing a term that is over.
    const term = m.preVote && voteGranted ? m.term : this.currentTerm;
    const { preVote, campaign } = m;
    this.send("RequestVoteReply", m.from, { term, preVote, campaign, voteGranted }, m.id);
  }

  private onRequestVoteReply(m: Of<"RequestVoteReply">) {
    const { role } = this;
    if (role.name !== "PreCandidate" && role.name !== "Candidate") return;
    if (!m.voteGranted || m.preVote !== (role.name === "PreCandidate")) return;
    // A vote counts for its term. A pre-vote promises nothing, so it counts for its campaign only.
    if (m.preVote && m.campaign !== this.campaigns) return;
    if (m.term === this.currentTerm + (m.preVote ? 1 : 0)) this.countVote(role, m.from);
  }

  /** Counts a vote. The voter has checked its own disk (`mayVote`). */
  private countVote(role: Campaigner, voter: Name) {
    if (role.votes.has(voter) || !this.member(voter)?.votes) return;
    role.votes.add(voter);
    const votes = role.votes.size;
    const elected = votes >= this.majority;
    if (role.name === "Candidate" && votes > 1) this.events.push({ type: "votes", votes, elected });
    if (!elected) return;
    if (role.name === "PreCandidate") this.campaign("Candidate");
    else this.lead();
  }

  private lead() {
    if (!this.mayLead) return; // An empty founder has meanwhile heard of a cluster (section 11).
    const firstIndex = this.log.lastIndex + 1;
    const role: Leader = { name: "Leader", followers: new Map(), round: 0, firstIndex, reads: [] };
    for (const name of this.others) this.trackFollower(role, name);
    this.become(role);
    // A term begins with a no-op, because entries of earlier terms are committed only below an
    // entry of the leader's own term (§5.4.2, §8). The first entry of all lists the members and
    // their disks (section 11). Sent at once, it is the first heartbeat, too.
    if (firstIndex > 1) this.propose("noop");
    else this.appendMembers(role, this.members.map((member) => this.withCurrentDisk(member)));
  }

  /** Starts to replicate to a server, and assumes nothing about its log. */
  private trackFollower(role: Leader, name: Name) {
    role.followers.set(name, new Progress(this.log.lastIndex + 1, this.now, role.round));
  }

  // -------------------------------- 6 Replication and commitment --------------------------------
  // The leader makes the followers' logs agree with its own (§5.3). Once a majority durably has an
  // entry of the leader's own term, that entry and all before it are committed, and may be applied
  // (§5.4.2). Heartbeats, new entries, retries and catching up are one act, `replicate`.

  /**
   * Sends a follower the entries from `nextIndex` on, or a heartbeat if one is due or a read waits
   * for it. A heartbeat names the last entry that was sent, so a follower that lacks it refuses.
   */
  private replicate(role: Leader, to: Name, follower: Progress) {
    const { log, settings } = this;
    const read = role.reads.at(-1);
    const readWaits = read !== undefined && follower.sentRound <= read.round;
    const isDue = this.now >= this.dueAt(role, follower);
    if (isDue) follower.timerStartedAt = this.now;
    if (follower.nextIndex <= log.baseIndex) follower.mode = "snapshot";
    if (follower.mode === "snapshot") {
      return this.sendSnapshot(role, to, follower, isDue, readWaits);
    }
    if (follower.mode === "probing") {
      if (isDue) this.appendEntries(role, to, follower, this.takeProbeBatch(to, follower));
      else if (readWaits) this.appendEntries(role, to, follower, []);
      return;
    }
    const window = Math.min(settings.windowBytes, follower.windowLimit);
    const hasRoom = () =>
      follower.nextIndex <= log.lastIndex
      && log.bytes(follower.matchIndex + 1, follower.nextIndex - 1) < window;
    if ((isDue || readWaits) && !hasRoom()) this.appendEntries(role, to, follower, []);
    while (hasRoom()) {
      const entries = log.batch(follower.nextIndex, settings.batchBytes);
      this.appendEntries(role, to, follower, entries);
      follower.nextIndex += entries.length;
    }
  }

  private appendEntries(role: Leader, to: Name, follower: Progress, entries: Entry[]) {
    const prevLogIndex = follower.nextIndex - 1;
    this.send("AppendEntries", to, {
      term: this.currentTerm,
      round: this.nextRound(role, follower),
      prevLogIndex,
      prevLogTerm: this.log.at(prevLogIndex).term,
      leaderCommit: this.commitIndex,
      entries,
    });
  }

  private nextRound(role: Leader, follower: Progress): number {
    // Every message is a heartbeat, too, and restarts the timer. But while `attempts` is above
    // 0, the timer runs to the next attempt, which a message for a read must not postpone.
    if (follower.attempts === 0) follower.timerStartedAt = this.now;
    return follower.sentRound = role.round += 1;
  }

  /** AppendEntries, receiver implementation (Figure 2). */
  private onAppendEntries(m: Of<"AppendEntries">) {
    // 1. Reply false if term < currentTerm (§5.1). Otherwise an old leader would never step down.
    if (m.term < this.currentTerm) return this.refuseEntries(m);
    this.follow(m);
    // 2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches
    //    prevLogTerm (§5.3).
    if (!this.log.matches(m.prevLogIndex, m.prevLogTerm)) return this.refuseEntries(m);
    // 3. If an existing entry conflicts with a new one, delete it and all that follow it.
    // 4. Append any new entries not already in the log.
    this.log.merge(m.entries, this.commitIndex);
    // 5. If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new
    //    entry). Our entries after that one may come from a leader that failed.
    const matchIndex = m.prevLogIndex + m.entries.length;
    this.commitTo(Math.min(m.leaderCommit, matchIndex));
    this.replyAppend(m, { success: true, matchIndex });
  }

  private replyAppend(
    m: Of<"AppendEntries" | "InstallSnapshot">,
    fields: Partial<Of<"AppendEntriesReply">>,
  ) {
    this.send("AppendEntriesReply", m.from, {
      term: this.currentTerm,
      round: this.replyRound(m),
      success: false,
      matchIndex: 0,
      hintIndex: 0,
      hintTerm: 0,
      ...fields,
    }, m.id);
  }

  /**
   * Returns 0 for a request of an earlier term: its sender may lead our term by now, and would
   * count the earlier round as one of this term.
   */
  private replyRound({ term, round }: Of<"AppendEntries" | "InstallSnapshot">): number {
    return term < this.currentTerm ? 0 : round;
  }

  private follow(m: Of<"AppendEntries" | "InstallSnapshot">) {
    const { from: leader } = m;
    assert(this.leader === undefined || this.leader === leader, "a term has at most one leader");
    this.become({ name: "Follower", leader });
    this.heardAt = this.now;
    this.probeAt = this.now + LATE_AFTER_HEARTBEATS * this.settings.heartbeatMs;
    this.resetElectionTimer();
    this.joinFounding(m);
  }

  /** Refuses with a hint, so that the leader skips a whole term in one round trip (§5.3). */
  private refuseEntries(m: Of<"AppendEntries">) {
    // Up to prevLogIndex the leader has no term above prevLogTerm, so our entries of higher terms
    // cannot match.
    const upTo = this.log.lastUpTo(m.prevLogIndex, m.prevLogTerm);
    const hintIndex = Math.max(upTo, this.log.baseIndex);
    const hintTerm = this.log.at(hintIndex).term;
    this.replyAppend(m, { hintIndex, hintTerm });
  }

  private onAppendEntriesReply(m: Of<"AppendEntriesReply">) {
    const { role, log } = this;
    if (role.name !== "Leader" || m.matchIndex > log.lastIndex) return; // It is late or malformed.
    const follower = this.recordReply(role, m);
    if (!follower) return;
    if (!m.success) return this.onRefusal(role, m, follower);
    // Replies overtake each other, and a follower keeps what it has, so `matchIndex` only rises.
    if (m.matchIndex > follower.matchIndex) {
      follower.windowLimit += 2 * log.bytes(follower.matchIndex + 1, m.matchIndex);
      follower.matchIndex = m.matchIndex;
      follower.roundWhenMatched = role.round;
      follower.attempts = 0;
    }
    follower.nextIndex = Math.max(follower.nextIndex, m.matchIndex + 1);
    // Success ends probing, or a snapshot. But while `attempts` is above 0 the mode stays, because
    // this may be the reply to a heartbeat, which does not show that the batch gets through.
    if (follower.attempts === 0) follower.mode = "replicating";
    this.advanceCommitIndex(role);
    this.updateMembership(role, m.from, follower); // Section 10.
    this.maybeTransfer(role, m.from, follower); // Section 8.
  }

  /** If AppendEntries fails because of log inconsistency: decrement nextIndex and retry (§5.3). */
  private onRefusal(role: Leader, m: Of<"AppendEntriesReply">, follower: Progress) {
    const { mode, nextIndex, matchIndex } = follower;
    const member = this.member(m.from);
    if (this.hasLostEntries(m, follower)) { // Section 11.
      this.trackFollower(role, m.from); // Even if it stays a voter, the lost entries do not count.
      return member && this.readmit(role, member);
    }
    const next = Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm)) + 1;
    if (mode === "probing" && next >= nextIndex) return; // This refusal is no news.
    follower.mode = "probing";
    follower.windowLimit = this.settings.batchBytes;
    follower.nextIndex = next;
    follower.attempts = 0;
    follower.timerStartedAt = -Infinity; // A probe is due.
    // All requests in flight after a lost one are refused, too. Only the first refusal is news.
    follower.ignoreUpToRound = role.round;
  }

  private recordReply(role: Leader, m: Reply) {
    const follower = role.followers.get(m.from);
    if (m.term < this.currentTerm || m.round > role.round) return undefined;
    if (!follower || m.round <= follower.ignoreUpToRound) return undefined;
    // Even a refusal confirms that the follower follows us, because it has our term.
    follower.heardAt = this.now;
    follower.confirmedRound = Math.max(follower.confirmedRound, m.round);
    const member = this.member(m.from);
    if (member && !this.usesNamedDisk(member)) this.readmit(role, member); // Section 11.
    return follower;
  }

  /**
   * If there exists an N such that N > commitIndex, a majority of matchIndex[i] >= N, and
   * log[N].term == currentTerm: set commitIndex = N (§5.3, §5.4). An entry of an earlier term may
   * be on a majority and still be overwritten, by a leader elected without it (Figure 8).
   */
  private advanceCommitIndex(role: Leader) {
    const n = this.majorityValue(role, this.log.savedIndex, (f) => f.matchIndex);
    if (this.log.matches(n, this.currentTerm)) this.commitTo(n);
  }

  private commitTo(index: number) {
    if (index <= this.commitIndex) return;
    this.commitIndex = index;
    this.events.push({ type: "committed", commitIndex: index });
  }

  // ---------------------------------------- 7 Invariants -----------------------------------------
  // These rules must hold whenever a step begins. They are checked in production too, because the
  // check costs little beside a datagram, and a server that breaks a rule must not say another
  // word. A first reading of Part I can end here.

  private checkInvariants() {
    const {
      log,
      role,
      saved,
      settings,
      snapshot,
      currentTerm,
      votedFor,
      commitIndex,
      lastApplied,
    } = this;
    assert(lastApplied <= commitIndex, "each applied entry is committed");
    assert(commitIndex <= log.lastIndex, "each committed entry is in the log");
    assert(log.savedIndex <= log.lastIndex, "each saved entry is in the log");
    assert(lastApplied <= log.savedIndex, "each applied entry is durable here");
    assert(log.baseIndex <= snapshot.index, "each discarded entry is in the snapshot");
    assert(snapshot.index <= lastApplied, "a snapshot includes only applied entries");
    assert(log.lastTerm <= currentTerm, "the log knows no later term than its server");
    assert(saved.currentTerm <= currentTerm, "the disk knows no later term than its server");
    const campaigned = role.name === "Candidate" || role.name === "Leader";
    assert(!campaigned || votedFor === settings.name, "a candidate has voted for itself");
    if (role.name !== "Leader") return;
    assert(saved.currentTerm === currentTerm, "a leader's term is durable");
    assert(saved.votedFor === settings.name, "a leader's vote for itself is durable");
    assert(
      log.matches(role.firstIndex, currentTerm),
      "the first entry of a leader is of its term",
    );
    for (const { matchIndex, nextIndex } of role.followers.values()) {
      assert(matchIndex < nextIndex, "no follower is sent what it has");
      assert(nextIndex <= log.lastIndex + 1, "no follower is sent what the leader does not have");
    }
  }

  // ------------------------------- 8 Reads and leadership transfer -------------------------------
  // A read changes nothing, so it needs no entry in the log. But a leader may have been replaced
  // without knowing it. So it asks a majority first, once for all reads that wait (ReadIndex,
  // thesis §6.4).

  /** Accepts a linearizable read. Returns false if this server does not lead. */
  read(): boolean {
    const { role } = this;
    if (role.name !== "Leader") return false;
    // The read must see every entry that was committed when it arrived. Until a leader has
    // committed its no-op it doesn't know which entries those are, but all of them are below the
    // no-op.
    const index = Math.max(this.commitIndex, role.firstIndex);
    role.reads.push({ round: role.round, index });
    return true;
  }

  /** Takes the oldest reads that may be answered now. Returns how many they are. */
  private takeReads(): number {
    const { role } = this;
    if (role.name !== "Leader" || role.reads.length === 0) return 0;
    // Only a round that was sent after a read arrived proves that we led when it arrived.
    const confirmed = this.majorityValue(role, Infinity, (f) => f.confirmedRound);
    const waiting = role.reads.findIndex((r) => r.round >= confirmed || r.index > this.lastApplied);
    return role.reads.splice(0, waiting === -1 ? role.reads.length : waiting).length;
  }

  /**
   * Defined during a transfer, while this leader takes no commands: any of the servers that may
   * take over, and once one was asked to campaign, that one (thesis §3.10).
   */
  get transferTarget(): Name | undefined {
    const { role, now } = this;
    return role.name === "Leader" && now < (role.transferDeadline ?? 0)
      ? role.transferTargets?.[0]
      : undefined;
  }

  /**
   * Hands leadership over by asking a server to campaign: `target`, or else the active voter that
   * is the first to show that it has the whole log. If that server does not lead within an election
   * timeout, this leader goes on. Returns a refusal if the transfer cannot begin.
   */
  transfer(target?: Name): Refused | undefined {
    const { role, now, settings: { electionTimeoutMs } } = this;
    if (role.name !== "Leader") return { refused: "it does not lead" };
    const voters = [...role.followers].filter(([name]) =>
      name === (target ?? name) && this.hasVote(name)
    );
    const active = voters.filter(([, follower]) => this.isRecentlyActive(follower));
    if (active.length === 0) {
      const why = voters.length > 0
        ? `was not heard for ${electionTimeoutMs} ms`
        : "has no vote here";
      return { refused: `${target ?? "every other server"} ${why}` };
    }
    for (const [, follower] of active) {
      follower.timerStartedAt = -Infinity; // A heartbeat is due.
      follower.ignoreUpToRound = role.round; // Only a reply to it shows that the follower lives.
    }
    role.transferTargets = active.map(([name]) => name);
    role.transferDeadline = now + electionTimeoutMs;
    return undefined;
  }

  private maybeTransfer(role: Leader, name: Name, { matchIndex }: Progress) {
    const isTarget = this.transferTarget && role.transferTargets?.includes(name);
    if (!isTarget || matchIndex < this.log.lastIndex) return;
    role.transferTargets = [name];
    this.send("TimeoutNow", name, { term: this.currentTerm });
  }

  private onTimeoutNow(m: Of<"TimeoutNow">) {
    // A TimeoutNow counts in its own term only, so once. The leader sends it only to a server that
    // has its whole log, so if our log is empty, our disk was lost after that, and this may be a
    // late copy. By the first copy we may have campaigned in term m.term + 1. A second campaign
    // would be in that term again, and late votes for the first one would elect us with an empty
    // log.
    if (m.term !== this.currentTerm || m.from !== this.leader) return;
    if (this.mayLead && this.log.lastIndex > 0) this.campaign("Candidate", true);
  }

  // ----------------------------------------- 9 Snapshots -----------------------------------------
  // A log cannot grow forever. Once the state after some entry is on the disk, the log up to that
  // entry can be discarded (§7). A follower that needs a discarded entry gets the snapshot, in
  // chunks (Figure 13). Chunks travel like entries: several are in flight, they are accepted in
  // order only, and an empty one is a heartbeat, which a follower refuses if an earlier chunk was
  // lost.

  /**
   * Returns whether to write a snapshot: the entries since the last one take more than `bytes`, and
   * more than the last one itself, so that snapshots cost no more than the log. A server that
   * receives a snapshot from its leader writes none. A leader that sends a snapshot has a higher
   * limit until the follower has caught up, because with a new snapshot the follower would start
   * again from scratch. If the caller's `factor` is higher than that, it counts. With factor 0, a
   * snapshot is due as soon as it would have a new entry.
   */
  isSnapshotDue(bytes: number, factor = 1): boolean {
    const { role, log, snapshot, incoming, settings, now } = this;
    const { currentTerm, commitIndex, leader } = this;
    const isReceiving = leader !== undefined && incoming?.leaderTerm === currentTerm
      && incoming.index > commitIndex;
    if (isReceiving) return false;
    // A follower that was sent this snapshot then needs the entries after it. A new snapshot would
    // leave only the last ones: a quarter of `bytes`.
    const isCatchingUp = ({ snapshot: { index, sent }, matchIndex, heardAt }: Progress) =>
      index === snapshot.index && sent > 0
      && log.bytes(matchIndex + 1, this.lastApplied) > bytes / 4
      && now < heardAt + 10 * settings.electionTimeoutMs;
    const isAwaited = role.name === "Leader" && role.followers.values().some(isCatchingUp);
    // Without the product if `factor` is 0, because `bytes` may be Infinity.
    const limit = factor && Math.max(bytes, snapshot.size) * Math.max(factor, isAwaited ? 4 : 1);
    return log.bytes(snapshot.index + 1, this.lastApplied) > limit;
  }

  /**
   * Replaces the log up to a snapshot that is durable and that the state machine has reached. The
   * last `keepBytes` of those entries stay, for followers that lag a little.
   */
  onSnapshot(snapshot: Snapshot, keepBytes: number): void {
    const { log } = this;
    const { index, term, size } = snapshot;
    const from = this.isInstalling ? this.incoming?.from : undefined;
    assert(index > this.snapshot.index, "a snapshot never takes the state back");
    this.snapshot = snapshot;
    this.incoming = undefined;
    this.events.push({ type: "snapshot", index, size, from });
    // Entries may have come meanwhile that are not on the disk. The snapshot has those up to
    // `index`. Later ones stay, and the next step saves them before it acknowledges them.
    if (log.matches(index, term)) {
      log.compact(index, index <= log.savedIndex ? keepBytes : 0);
      log.savedIndex = Math.max(log.savedIndex, index);
    } else log.reset(snapshot, snapshot); // 7. Discard the entire log.
    this.commitTo(index);
    this.lastApplied = Math.max(this.lastApplied, index);
  }

  /**
   * Returns whether a complete snapshot has arrived and the state machine is restoring it (Figure
   * 13, step 8). That takes many steps, and meanwhile no entry is applied.
   */
  get isInstalling(): boolean {
    return this.incoming !== undefined && this.incoming.offset === this.incoming.size;
  }

  /**
   * Sends chunks up to the window, which is one chunk after a loss. If a heartbeat is due or a read
   * waits, it sends at least one, which may be empty.
   */
  private sendSnapshot(
    role: Leader,
    to: Name,
    follower: Progress,
    isDue: boolean,
    readWaits: boolean,
  ) {
    const { snapshot, settings: { batchBytes, windowBytes } } = this;
    const { index: lastIncludedIndex, term: lastIncludedTerm, size } = snapshot;
    if (follower.snapshot.index !== lastIncludedIndex) {
      follower.snapshot = { index: lastIncludedIndex, sent: 0, acknowledged: 0 };
      follower.windowLimit = Infinity;
    }
    const sending = follower.snapshot;
    if (isDue && follower.attempts > 0 && this.isResponding(follower)) {
      sending.sent = sending.acknowledged;
      this.countAttempt(to, follower, batchBytes);
    }
    const window = follower.attempts > 0
      ? batchBytes
      : Math.min(windowBytes, follower.windowLimit);
    const end = Math.min(size, sending.acknowledged + window);
    // If a heartbeat is owed, the first turn of the loop sends even an empty chunk.
    for (let isOwed = isDue || readWaits; isOwed || sending.sent < end; isOwed = false) {
      // The node fills in the bytes when it sends.
      const data = Buffer.alloc(Math.max(0, Math.min(batchBytes, end - sending.sent)));
      this.send("InstallSnapshot", to, {
        term: this.currentTerm,
        round: this.nextRound(role, follower),
        lastIncludedIndex,
        lastIncludedTerm,
        size,
        offset: sending.sent,
        data,
      });
      sending.sent += data.length;
    }
  }

  /** InstallSnapshot, receiver implementation (Figure 13). The node writes the file. */
  private onInstallSnapshot(m: Of<"InstallSnapshot">) {
    const { from, term: leaderTerm, lastIncludedIndex: index, lastIncludedTerm: term, size } = m;
    const { log, currentTerm } = this;
    const reply = (success: boolean, offset: number) =>
      this.send("InstallSnapshotReply", m.from, {
        term: currentTerm,
        round: this.replyRound(m),
        success,
        lastIncludedIndex: index,
        offset,
      }, m.id);
    // 1. Reply immediately if term < currentTerm.
    if (m.term < currentTerm) return reply(false, 0);
    this.follow(m);
    // 6. If existing log entry has same index and term as snapshot's last included entry, retain
    //    log entries following it and reply. `matches` is also true before our base, where we have
    //    committed beyond this snapshot.
    if (log.matches(index, term)) {
      this.commitTo(index);
      return this.replyAppend(m, { success: true, matchIndex: index });
    }
    // 2. Create new snapshot file if first chunk. 5. Discard any existing or partial snapshot
    //    with a smaller index. Snapshots of two leaders may differ in their bytes.
    const isNew = this.incoming?.leaderTerm !== m.term || this.incoming.index < index;
    //    While a complete snapshot is being installed, a new one has to wait. A refusal would
    //    count as a loss.
    if (isNew && this.isInstalling) return reply(true, 0);
    if (isNew) this.incoming = { from, leaderTerm, index, term, size, offset: 0, unwritten: [] };
    const { incoming } = this;
    if (incoming?.index !== index) return; // A late chunk of an older snapshot.
    // 3. Write data into snapshot file at given offset. 4. Reply and wait for more.
    if (m.offset === incoming.offset && m.data.length > 0) {
      incoming.unwritten.push(m.data);
      incoming.offset += m.data.length;
    }
    reply(m.offset + m.data.length <= incoming.offset, incoming.offset);
  }

  private onInstallSnapshotReply(m: Of<"InstallSnapshotReply">) {
    const { role } = this;
    if (role.name !== "Leader") return;
    const follower = this.recordReply(role, m);
    const sending = follower?.snapshot;
    if (!follower || sending?.index !== m.lastIncludedIndex) return;
    if (m.offset > this.snapshot.size) return; // It is malformed.
    if (m.success) {
      if (m.offset <= sending.acknowledged) return;
      sending.sent = Math.max(sending.sent, m.offset);
      follower.windowLimit += 2 * (m.offset - sending.acknowledged);
      follower.attempts = 0;
    } else {
      // A chunk was lost, or the follower has restarted and lost all: send one chunk at a time.
      if (follower.attempts > 0 && m.offset >= sending.acknowledged) return; // It is no news.
      sending.sent = m.offset;
      follower.windowLimit = this.settings.batchBytes;
      follower.attempts = 1;
      follower.ignoreUpToRound = role.round;
    }
    sending.acknowledged = m.offset;
  }

  // ----------------------------------------- 10 Members ------------------------------------------
  // Servers are added and removed one at a time (thesis §4), by entries that list all members. Any
  // majority of one list then overlaps any majority of the next. So a list is in force as soon as
  // it is in a server's log, committed or not, until it is truncated away. Membership decides which
  // votes and acknowledgements are counted, never which messages are received (thesis §4.1).

  /** The members by this server's log. Empty for a server that has yet to join. */
  get members(): Configuration {
    return this.log.membership().members;
  }

  get others(): Name[] {
    return this.members.map(({ name }) => name).filter((name) => name !== this.settings.name);
  }

  private get voters(): Configuration {
    return this.members.filter(({ votes }) => votes);
  }

  private member(name: Name): Member | undefined {
    return this.members.find((member) => member.name === name);
  }

  /** Returns whether the list gives a server a vote, and that server uses the disk listed there. */
  private hasVote(name: Name, among = this.members): boolean {
    return among.some((each) => each.name === name && each.votes && this.usesNamedDisk(each));
  }

  get majority(): number {
    return majorityOf(this.voters);
  }

  /** Returns the greatest value that a majority of voters has reached. `own` is this server's. */
  private majorityValue(role: Leader, own: number, of: (follower: Progress) => number): number {
    const { voters } = this;
    const values = voters.map((member) => {
      if (!this.usesNamedDisk(member)) return -Infinity; // Section 11.
      const follower = role.followers.get(member.name); // None for the leader itself.
      return follower ? of(follower) : own;
    });
    return values.sort((a, b) => b - a)[majorityOf(voters) - 1] ?? 0;
  }

  /**
   * Returns whether a leader may change the members now. Each change waits for the one before it,
   * because majorities of lists that differ by two changes need not overlap. It also waits for an
   * entry of the leader's own term, because before that an earlier leader's change may still be
   * committed (Ongaro, 2015).
   */
  private get canChangeMembers(): boolean {
    const { role, log, commitIndex, transferTarget } = this;
    return role.name === "Leader" && !transferTarget
      && commitIndex >= Math.max(log.membership().index, role.firstIndex);
  }

  /**
   * Adds a server, corrects the address of a member, or removes a member if `address` is empty.
   * Returns the index of an entry: once that entry is applied, the change is committed. Returns
   * undefined if this server does not lead, or can't change the members now: a retry may succeed.
   * Otherwise returns a refusal. With `force` the voters that are left need not be reachable.
   */
  changeMembers(
    name: Name,
    address: string,
    force = false,
  ): { index: number } | Refused | undefined {
    const { role } = this;
    if (role.name !== "Leader") return undefined;
    const known = this.member(name);
    if (address === "" ? !known : known?.address === address) {
      // Our log has this change already, but another server may lead by now, or the change may not
      // be committed. Once a no-op after the change is applied, the change is committed, too.
      const index = this.propose("noop");
      return index === undefined ? undefined : { index };
    }
    // If our own removal was committed since the last step, we leave. Otherwise we could add
    // ourselves again.
    this.maybeLeave();
    if (this.isRemoved) return undefined;
    // This comes before `quorumProblem`, because a refusal must be final. Before an entry of this
    // term is committed, an earlier leader's entry may still make the change that was refused.
    if (!this.canChangeMembers) return undefined;
    // A new server is a learner first. With a vote, it would delay commitment until it caught up.
    const added = { name, votes: false, disk: 0, ...known, address };
    const others = this.members.filter((member) => member !== known);
    const next = address === "" ? others : [...others, added];
    const refused = this.quorumProblem(role, next, force);
    return refused === undefined ? { index: this.appendMembers(role, next) } : { refused };
  }

  /**
   * Returns whether a follower was heard within T. `heardAt` shows that only once a round is
   * confirmed, because it begins as the time when tracking began.
   */
  private isRecentlyActive({ confirmedRound, heardAt }: Progress): boolean {
    return confirmedRound > 0 && this.now < heardAt + this.settings.electionTimeoutMs;
  }

  /** Returns why the next members would have no working majority, or undefined. */
  private quorumProblem(role: Leader, next: Configuration, force: boolean): string | undefined {
    const voters = next.filter(({ votes }) => votes);
    if (voters.length === 0) return "no voter would be left";
    const isSilent = (voter: Member) => {
      const follower = role.followers.get(voter.name);
      return (follower && !this.isRecentlyActive(follower)) || !this.usesNamedDisk(voter);
    };
    const silent = voters.filter(isSilent).map(({ name }) => name);
    if (force || voters.length - silent.length >= majorityOf(voters)) return undefined;
    return `no working majority would be left: of ${voters.length} voters, ${silent.join(", ")} `
      + "did not answer";
  }

  private appendMembers(role: Leader, next: Configuration): number {
    const { log, currentTerm: term, others: before } = this;
    const index = log.lastIndex + 1;
    const membership = { founding: this.founding || drawId(this.#random), members: next };
    log.append({ index, term, kind: "members", data: NOTHING, membership });
    // Nothing is known of a new server, even if an earlier one had its name.
    for (const name of this.others) if (!before.includes(name)) this.trackFollower(role, name);
    return index;
  }

  /**
   * Promotes a learner that has caught up, or tells a former member that it is removed. A learner
   * has caught up once it needs less than an election timeout to reach the end that the log has
   * when that time begins (thesis §4.2.1). Under load, the end is always some entries ahead. One
   * that needs a snapshot has not caught up.
   */
  private updateMembership(role: Leader, name: Name, follower: Progress) {
    const { log, now, settings: { electionTimeoutMs } } = this;
    const { matchIndex, goal } = follower;
    const member = this.member(name);
    if (member?.votes || !this.canChangeMembers) return;
    const { index, members } = log.membership();
    if (!member) {
      if (matchIndex >= index) this.send("Removed", name, { term: this.currentTerm });
    } else if (matchIndex >= goal.index) {
      follower.goal = { index: log.lastIndex, setAt: now };
      const vote = (other: Member) => other === member ? { ...member, votes: true } : other;
      const isInTime = now < goal.setAt + electionTimeoutMs && matchIndex >= log.baseIndex;
      if (isInTime) this.appendMembers(role, members.map(vote));
    }
  }

  /**
   * Replicates again to a server that asks for votes although there is a leader: it may have missed
   * its removal, or `Removed`. It asks even if it may not lead, so that the leader learns of it.
   */
  private trackRemoved(name: Name) {
    const { role } = this;
    if (role.name === "Leader" && !role.followers.has(name)) this.trackFollower(role, name);
  }

  /** Stops replicating to removed servers that are silent. */
  private pruneRemoved(role: Leader) {
    for (const [name, { heardAt }] of role.followers) {
      const isSilent = this.now >= heardAt + 10 * this.settings.electionTimeoutMs;
      if (isSilent && !this.member(name)) role.followers.delete(name);
    }
  }

  /** A leader that is removed leads until that is committed, without counting itself. */
  private maybeLeave() {
    // If the members can change again, the removal is committed.
    if (this.isRemoved || this.member(this.settings.name) || !this.canChangeMembers) return;
    this.isRemoved = true;
    this.transfer();
  }

  private onRemoved(m: Of<"Removed">) {
    const isFromLeader = m.term === this.currentTerm && m.from === this.leader;
    if (isFromLeader && !this.member(this.settings.name)) this.isRemoved = this.wasMember;
  }

  // --------------------------------- 11 Lost disks and founding ----------------------------------
  // A vote or acknowledgement counts only from the disk that the log names for its server. Example:
  // C votes for A in term 2, then loses its disk. If the empty C could vote again in term 2, B
  // could win that term too: two leaders. So the leader readmits C as a learner, by an entry that
  // names its new disk and that is committed without counting C. C's new disk votes only for
  // candidates whose logs have this entry, and these logs also have everything that C's old disk
  // helped to commit. So the promises of the old disk no longer matter, and C gets its vote back by
  // a later entry.
  //
  // This has limits. If a majority of the disks is lost, the remaining servers cannot tell
  // committed entries from others. In this count, a founder that has no entry yet is one with a
  // lost disk. Example: A and B found the cluster while C is down, B loses its disk, C starts, and
  // A is silent. B and C are now a majority with empty disks, and found a second cluster. Another
  // limit: a disk that loses only some entries keeps its id, so its vote counts. Until a leader has
  // noticed the loss, and has committed the demotion of this server, the vote may elect a leader
  // that lacks a committed entry.
  //
  // A cluster is founded once. Entry 1 carries a random number, the founding, as all later lists of
  // members do. Every message shows its sender's founding, or 0 while its sender has no durable
  // entry. So empty founders wait as long as a server with a log may answer, and two clusters never
  // mix:
  //
  //   1. Before an empty founder campaigns, or votes for an empty candidate, every other founder
  //      must have shown an empty log, or have stayed silent through an election timeout of
  //      repeated questions. If one shows a log, the empty founder waits until a leader readmits
  //      it. If the server that has the log is lost for good, start that server again with an empty
  //      disk, because the empty founder waits until then.
  //   2. A server with a commit index above 0 ignores requests of other foundings. It saves its
  //      first commit index before it applies anything, so this survives a restart. A server with
  //      commit index 0 drops its log if a leader of another founding appears in a later term,
  //      because entry 1 of its log may never have reached a majority.

  /** Returns whether a member was never heard, or last used the disk that the log names for it. */
  usesNamedDisk({ name, disk }: Member): boolean {
    return (this.disks.get(name) ?? disk) === disk;
  }

  private withCurrentDisk(member: Member): Member {
    return { ...member, disk: this.disks.get(member.name) ?? member.disk };
  }

  /**
   * Demotes a member to learner, because its disk is new or has lost entries, and records the disk
   * that it uses now; or records the first disk of a new learner. Does nothing if the members
   * cannot change now, or if too few of the other voters are heard to commit the change.
   */
  private readmit(role: Leader, member: Member) {
    const learner = { ...this.withCurrentDisk(member), votes: false };
    const next = this.members.map((other) => other === member ? learner : other);
    if (!this.canChangeMembers || this.quorumProblem(role, next, false) !== undefined) return;
    this.appendMembers(role, next);
    if (member.disk > 0) this.events.push({ type: "lostDisk", server: member.name });
  }

  /**
   * Returns whether a follower has lost entries that it had acknowledged. In a request that was
   * sent after `matchIndex` rose, `prevLogIndex` is at least `matchIndex`. A follower that still
   * had those entries would never give a hint below `matchIndex`.
   */
  private hasLostEntries(m: Of<"AppendEntriesReply">, follower: Progress): boolean {
    return m.round > follower.roundWhenMatched && m.hintIndex < follower.matchIndex;
  }

  /**
   * Drops our log if the leader is of another founding. No entry of our log is known here to be
   * committed: once the commit index is above 0, `rejectsFounding` ignores such a leader. It lets
   * founding 0 pass, but a leader never shows 0 (`step`, act 1). A message without a founding says
   * nothing of it.
   */
  private joinFounding({ founding = this.founding }: Message) {
    if (this.founding === 0 || founding === this.founding) return;
    this.log.reset(this.snapshot, this.snapshot);
    this.foundingQueries = 0; // Now an empty founder, it asks for a whole timeout.
  }

  /**
   * Returns whether our disk may vote for a candidate: the candidate's log names it. An empty log
   * names no disk, and then we may vote by rule 1.
   */
  private mayVote({ voterDisk, lastLogIndex }: Of<"RequestVote">): boolean {
    return voterDisk === this.settings.disk || (lastLogIndex === 0 && this.mayFound);
  }

  /**
   * Returns whether this server may lead: it has a vote by the last list of members. While that
   * list is not committed, a vote by the list before is enough, because a removed leader must lead
   * until its removal is committed (thesis §4.2.2).
   */
  private get mayLead(): boolean {
    const { commitIndex, log, settings: { name } } = this;
    if (log.lastIndex === 0) return this.mayFound && this.member(name)?.votes === true;
    const { index } = log.membership();
    return this.hasVote(name)
      || (index > commitIndex && this.hasVote(name, log.membership(index - 1).members));
  }

  /** Returns whether this server repeats `requestVotes`: in a campaign, or as an empty founder. */
  private get isRequestingVotes(): boolean {
    const { role, leader, log, foundings } = this;
    if (role.name !== "Follower") return role.name !== "Leader";
    return log.lastIndex === 0 && leader === undefined
      && !this.others.every((name) => foundings.get(name) === 0);
  }

  /** The founding that this log belongs to; 0 while it is empty. */
  get founding(): number {
    return this.log.membership().founding;
  }

  /**
   * The founding that every message shows: 0 until it is durable. If a leader could show a founding
   * and then lose it in a crash, empty founders that saw it would wait for its log forever.
   */
  get shownFounding(): number {
    return this.log.savedIndex > 0 ? this.founding : 0;
  }

  /**
   * Records the disk that a peer uses and the founding that it shows. After this, the caller must
   * not deliver messages from an earlier disk of the peer (section 17), because what one disk has
   * acknowledged must not count for another.
   */
  onHeard(peer: Name, disk: number, founding: number): void {
    const { role, disks } = this;
    if (disks.get(peer) !== disk) {
      // An empty founder asks for a whole timeout again.
      if (this.foundings.delete(peer)) this.foundingQueries = 0;
      // What another disk has acknowledged does not count for this one, not even if the log names
      // this one again.
      const hasReplied = role.name === "Leader" && role.followers.get(peer)?.confirmedRound;
      if (hasReplied) this.trackFollower(role, peer);
    }
    disks.set(peer, disk);
    // A later 0 is ignored: it comes in a late message, or from a server that has dropped its log
    // for that of a leader.
    if (founding > 0 || !this.foundings.has(peer)) this.foundings.set(peer, founding);
  }

  /** Returns whether all other founders have shown an empty log, or were silent when asked. */
  private get mayFound(): boolean {
    const { electionTimeoutMs, heartbeatMs } = this.settings;
    // Until the first campaign, queries for foundings are at least this far apart.
    const intervalMs = Math.min(heartbeatMs, electionTimeoutMs / 4);
    const hasAskedEnough = (this.foundingQueries - 1) * intervalMs >= electionTimeoutMs;
    return this.others.every((name) => {
      const founding = this.foundings.get(name);
      return founding === undefined ? hasAskedEnough : founding === 0;
    });
  }

  /**
   * Returns whether to ignore a request of another founding. If our commit index is above 0, we
   * ignore it. If it is 0, we ignore a request whose term is not later than ours. Ours is the
   * current term if we follow a leader. Otherwise it is the term of our last entry, because a vote
   * for the sender may have raised our current term to its own. Replies pass, because their own
   * checks suffice.
   */
  private rejectsFounding({ type, from, term, founding = 0 }: Message): boolean {
    const { leader, commitIndex } = this;
    // With an empty log, the founding of our leader is ours.
    const own = this.founding || (leader !== undefined && this.foundings.get(leader)) || 0;
    if (type.endsWith("Reply") || founding === 0 || own === 0 || founding === own) return false;
    // A founder that voted, lost its disk and voted again may have given this term a leader of each
    // founding. While we know ours, we follow it.
    const ownTerm = leader === undefined ? this.log.lastTerm : this.currentTerm;
    if (commitIndex === 0) return term <= ownTerm;
    if (!this.reportedFoundings.has(from)) {
      this.events.push({ type: "otherFounding", server: from });
    }
    this.reportedFoundings.add(from);
    return true;
  }

  // ----------------------------- 12 Retransmission and closed ports ------------------------------
  // A datagram may be lost, so a leader retransmits. A crashed leader's port is closed, so a
  // follower may find out before the election timeout.

  /** Returns when the next heartbeat or retransmission to a follower is due. */
  private dueAt(role: Leader, follower: Progress): number {
    const { mode, snapshot, matchIndex, nextIndex, confirmedRound, attempts } = follower;
    const { heartbeatMs } = this.settings;
    const read = role.reads[0];
    const isInFlight = mode === "snapshot"
      ? snapshot.acknowledged < snapshot.sent
      : mode === "probing" || matchIndex < nextIndex - 1;
    const isAwaited = isInFlight || (read !== undefined && confirmedRound <= read.round);
    const isFast = isAwaited && this.isResponding(follower) && attempts < RETRANSMISSIONS;
    return follower.timerStartedAt + heartbeatMs / (isFast ? RETRANSMISSIONS : 1);
  }

  /** Returns whether a follower was heard within two heartbeats, or was never sent anything. */
  private isResponding({ sentRound, heardAt }: Progress): boolean {
    return sentRound === 0 || this.now < heardAt + 2 * this.settings.heartbeatMs;
  }

  /**
   * Returns the batch to probe a follower with, and counts the attempt. A silent follower gets a
   * heartbeat only.
   */
  private takeProbeBatch(to: Name, follower: Progress): Entry[] {
    const { log, settings } = this;
    const { nextIndex } = follower;
    if (nextIndex > log.lastIndex || !this.isResponding(follower)) return [];
    const entries = log.batch(nextIndex, settings.batchBytes);
    this.countAttempt(to, follower, log.bytes(nextIndex, nextIndex + entries.length - 1));
    return entries;
  }

  /** Counts an attempt. After many it reports that the path may lose datagrams of this size. */
  private countAttempt(server: Name, follower: Progress, bytes: number) {
    follower.attempts += 1;
    if (follower.attempts !== 2 * RETRANSMISSIONS) return;
    follower.stuck = { type: "stuck", server, index: follower.nextIndex, bytes };
    this.events.push(follower.stuck);
  }

  private probeLeader(leader: Name) {
    this.portProbes.push(leader);
    this.probeAt = this.now + this.settings.heartbeatMs;
  }

  /**
   * Gives up a late leader whose port is closed twice in a row, because its process has died, and
   * starts an election early. Forged notices of a closed port cost at most one ordinary election.
   */
  onPortClosed(peer: Name, now: number): void {
    const { heartbeatMs } = this.settings;
    this.now = now;
    const isLate = now >= this.heardAt + LATE_AFTER_HEARTBEATS * heartbeatMs;
    if (this.role.name !== "Follower" || this.leader !== peer || !isLate) return;
    if (this.portClosedAt <= this.heardAt) {
      this.portClosedAt = now;
      this.probeAt = now + PROBE_RETRY_MS;
    } else if (now >= this.portClosedAt + PROBE_RETRY_MS) this.giveUpLeader();
  }

  /**
   * Gives up a leader that has restarted, because it has restarted as a follower.
   */
  onRestarted(peer: Name, now: number): void {
    this.now = now;
    if (this.role.name === "Follower" && this.leader === peer) this.giveUpLeader();
  }

  private giveUpLeader() {
    this.become({ name: "Follower" });
    this.leaderLostAt = this.now;
    // The others find out at the same time, and would split the vote without a random delay.
    this.electionDueAt = this.now + this.#random() * this.settings.heartbeatMs / 2;
  }

  /**
   * How long a campaign lasts at least. After a leader was given up it is one heartbeat interval,
   * and grows to the election timeout. An empty founder is in no hurry: it counts its questions
   * (`mayFound`).
   */
  private get campaignTimeoutMs(): number {
    const { electionTimeoutMs, heartbeatMs } = this.settings;
    if (this.log.lastIndex === 0) return electionTimeoutMs;
    return Math.min(electionTimeoutMs, Math.max(heartbeatMs, this.now - this.leaderLostAt));
  }
}

/** Draws a number from 1 to 2 ** 48 - 1. Two draws are practically never equal. */
const drawId = (random: () => number) =>
  1 + Math.floor(random() * 2 ** 24) * 2 ** 24 + Math.floor(random() * (2 ** 24 - 1));

/** A leader counts as late after this many heartbeat intervals; one heartbeat may be delayed. */
const LATE_AFTER_HEARTBEATS = 1.25;
/** Retransmissions per heartbeat interval to a follower that responds. */
const RETRANSMISSIONS = 8;
/** When a closed port is probed again: a single notice may be an old one. */
const PROBE_RETRY_MS = 5;

const majorityOf = (voters: Configuration) => Math.floor(voters.length / 2) + 1;

// ------------------------------------------ 13 Sessions ------------------------------------------
// A client that gets no answer retries, perhaps on another server, and its command must still be
// applied only once (thesis §6.3). So it opens a session, and numbers its requests. The table of
// sessions is replicated like the state machine: the same entries give the same table on every
// server, and no clock ends a session.
//
// Example, in the order of events:
// 1. Client c opens session 17, and sends a command in it twice. The first copy is applied.
// 2. Session 17 ends.
// 3. A delayed copy of the request that opened session 17 arrives, and opens another session.
// 4. The second copy of the command arrives, for session 17. If the other session had the id 17,
//    too, the command would be applied again. So the leader draws each id.
//
// Errors and the state machine come first, because sessions use both.

/** Its `code` is for programs, its `message` for people. */
export class RaftError extends Error {
  override readonly name = "RaftError";

  constructor(readonly code: Failure, message: string, options?: ErrorOptions) {
    super(message, options);
  }
}
type Failure =
  /** The disk, the directory or a file in it cannot be used. */
  | "storage"
  /** The socket cannot be opened. */
  | "network"
  /** A mistake of the caller, in options or in the state machine. */
  | "usage"
  /** Nothing was done, for the reason that the message gives. */
  | "refused"
  /** No answer in time, and nothing was done. */
  | "timeout"
  /** Unknown whether it was done, or still will be. */
  | "outcomeUnknown"
  /** A command was applied, but its answer is too large to be sent. */
  | "applied"
  /** Its signal was aborted, and nothing was done. */
  | "aborted"
  /** The client was closed. */
  | "closed"
  /** The server has stopped. */
  | "stopped";

/** Throws a RaftError for a mistake that only the caller or operator can fix. */
export function ensure(
  condition: unknown,
  sentence: string,
  code: Failure = "usage",
): asserts condition {
  if (!condition) throw new RaftError(code, sentence);
}

/**
 * The state to replicate. It must be deterministic: the same commands in the same order give the
 * same answers. Each method finishes before it returns, because promises are not awaited. A method
 * may keep and change the bytes that it receives and the bytes that it returns.
 */
export interface StateMachine {
  /**
   * Applies a committed command and returns its answer, of at most MAX_ANSWER_BYTES. All commands
   * of an entry have its `index`. An error stops the server, at every start again, because the
   * command stays in the log. So a wrong command should get an answer that says so.
   *
   * `isReplay` is true if the disk knew at the start that the entry was committed: most likely,
   * this server has applied it before. The disk learns of a commit with the next write, so the last
   * entries before a stop may be applied again without `isReplay`.
   */
  apply(command: Uint8Array, index: number, isReplay: boolean): Uint8Array;
  /**
   * Answers a question about the state, with at most MAX_ANSWER_BYTES, and does not change it. An
   * error refuses the question.
   */
  query(question: Uint8Array): Uint8Array;
  /**
   * Returns the state as it is now, in chunks that take a moment each. Commands are applied between
   * two chunks, and must not show in the later ones.
   */
  snapshot(): Iterable<Uint8Array>;
  /** Forgets the state, and returns a function that takes another one, chunk by chunk. */
  restore(): (chunk: Uint8Array) => void;
}

/** The most sessions at a time. */
const MAX_SESSIONS = 10_000;
/** The most sessions of one owner. */
const MAX_SESSIONS_PER_OWNER = 1_000;

/** How many requests a session may have after those that its client has acknowledged. */
const MAX_UNACKNOWLEDGED = 4_096;
/**
 * Roughly the most bytes that their outcomes take. If less than MAX_ANSWER_BYTES is left, the next
 * request is refused. Within a request, a sentence replaces each answer that does not fit.
 */
const MAX_UNACKNOWLEDGED_BYTES = 16 << 20;
/** The memory that an outcome takes beside its answer, roughly. */
const OUTCOME_HEADER = 64;

/** The largest answer, in bytes. All servers refuse a larger one alike. */
export const MAX_ANSWER_BYTES = 64_000;

/** Commands that a client sends together. They are applied together, and only once. */
export type SessionRequest = {
  /**
   * Role and name of the client, such as "client alice" (section 17). No other owner can use the
   * session.
   */
  owner: string;
  session: number;
  /** Rises with each request of the client, also from one session to the next. */
  sequence: number;
  /** The client has, or has given up, the outcomes of all requests up to this one. */
  acknowledged: number;
  commands: readonly Uint8Array[];
};
const openingFields = ["owner", "nonce", "session"] as const;
/** Opens a session, unless its owner has one with the same nonce. */
export type Opening = Fields<typeof openingFields>;
/** The answer to a command that was applied; or if there is no room for it, a sentence. */
export type Outcome = Uint8Array | string;
/** What became of a request: an outcome for each command, or a refusal. */
export type RequestResult = readonly Outcome[] | Refused;
/** A record of a snapshot: a session, or outcomes of the session before it. */
export type SessionRecord =
  | [owner: string, session: number, nonce: number, acknowledged: number]
  | [sequence: number, outcomes: Outcome[]];

const tooLarge = ({ length }: Uint8Array, room = MAX_ANSWER_BYTES) =>
  `its answer has ${length} bytes, and there is room for ${room}. Ask for it in parts`;

/** Returns the result of a state machine's method. Refuses a wrong one, such as a promise. */
function checked<T>(what: string, result: T, isRight = result instanceof Uint8Array): T {
  if (isRight) return result;
  throw new RaftError(
    "usage",
    `Cannot use this state machine: ${what} is ${Object.prototype.toString.call(result)}. Return `
      + "what the interface StateMachine asks for, and no promise.",
  );
}

/** Describes what a state machine has thrown. That can be any value, even one without text. */
function describeThrown(thrown: unknown): string {
  try {
    return String(thrown);
  } catch {
    return "a value without text";
  }
}

/**
 * Values by owner and id, in bounds. An owner with too many loses its least recently used value. If
 * all together have too many, the owner with most loses one. Sessions from a log of version 5
 * (section 15) have the owner "", which has no bound of its own.
 */
export class FairTable<T extends { readonly owner: string; readonly id: number | string }> {
  /** Owners, and the values of each by id, both in the order of their last use. */
  readonly owners = new Map<string, Map<number | string, T>>();
  private size = 0;

  constructor(private readonly max: number, private readonly maxPerOwner: number) {}

  get(owner: string, id: number | string): T | undefined {
    return this.owners.get(owner)?.get(id);
  }

  /** Adds or replaces a value, as the one used most recently. Returns the value that is lost. */
  use(value: T): T | undefined {
    const { owner, id } = value;
    const values = this.owners.get(owner) ?? new Map<number | string, T>();
    this.owners.delete(owner);
    this.owners.set(owner, values);
    this.size += values.delete(id) ? 0 : 1;
    values.set(id, value);
    const isOver = owner !== "" && values.size > this.maxPerOwner;
    if (!isOver && this.size <= this.max) return undefined;
    const victims = isOver
      ? values
      : this.owners.values().reduce((most, each) => each.size > most.size ? each : most);
    const [oldest = value] = victims.values();
    this.delete(oldest);
    return oldest;
  }

  delete({ owner, id }: T): void {
    const values = this.owners.get(owner);
    if (!values?.delete(id)) return;
    this.size -= 1;
    if (values.size === 0) this.owners.delete(owner);
  }
}

type Session = {
  readonly owner: string;
  readonly id: number;
  /** The client's number for it, repeated in each retry of OpenSession. */
  readonly nonce: number;
  /** The client has, or has given up, the outcomes of all requests up to this one. */
  acknowledged: number;
  /** The outcomes of later requests, by their sequence number. */
  readonly outcomes: Map<number, Outcome[]>;
  /** The bytes that the outcomes take. */
  bytes: number;
};

const bytesOf = (outcome: Outcome) => OUTCOME_HEADER + outcome.length;

function* recordsOf(session: Session): Generator<SessionRecord> {
  const { owner, id, nonce, acknowledged, outcomes } = session;
  yield [owner, id, nonce, acknowledged];
  for (const [sequence, list] of outcomes) {
    for (const outcome of list) yield [sequence, [outcome]];
  }
}

export class Sessions {
  private readonly table = new FairTable<Session>(MAX_SESSIONS, MAX_SESSIONS_PER_OWNER);
  /** Sessions that a snapshot is written from. They are copied before they change. */
  private shared = new WeakSet<Session>();
  /** The session that was added last. In a snapshot its outcomes follow. */
  private newest: Session | undefined;

  /** Applies a request of the committed entry at `index`, unless it was applied before. */
  apply(
    index: number,
    request: SessionRequest | Opening,
    machine: Pick<StateMachine, "apply">,
    isReplay = false,
  ): RequestResult {
    if ("nonce" in request) return this.open(request);
    const { owner, session: id, sequence, acknowledged, commands } = request;
    let session = this.table.get(owner, id);
    if (!session) return { refused: "the session has ended, or never was" };
    if (commands.length === 0) return { refused: "it has no commands" };
    // Logs of version 5 (section 15) had no owners and no bounds, and are applied as they were
    // then.
    const isBounded = owner !== "";
    if (isBounded && acknowledged >= sequence) return { refused: "it acknowledges its own answer" };
    if (this.shared.delete(session)) session = { ...session, outcomes: new Map(session.outcomes) };
    this.table.use(session);
    // All outcomes that the client may still lack are kept, not only the latest: requests of a
    // session may be in flight together, and overtake each other.
    if (acknowledged > session.acknowledged) {
      session.acknowledged = acknowledged;
      for (const [earlier, outcomes] of session.outcomes) {
        if (earlier > acknowledged) continue;
        session.outcomes.delete(earlier);
        for (const outcome of outcomes) session.bytes -= bytesOf(outcome);
      }
    }
    if (sequence <= session.acknowledged) {
      return { refused: "the client has the answer, or has given it up" };
    }
    const known = session.outcomes.get(sequence);
    if (known) return known;
    const room = () => isBounded ? MAX_UNACKNOWLEDGED_BYTES - session.bytes : Infinity;
    const isAhead = isBounded && sequence > session.acknowledged + MAX_UNACKNOWLEDGED;
    if (isAhead || room() < MAX_ANSWER_BYTES) {
      return { refused: "the session is full until its client acknowledges answers" };
    }
    try {
      const outcomes = commands.map((command) => {
        const answer = checked("the answer of apply", machine.apply(command, index, isReplay));
        const limit = Math.max(0, Math.min(MAX_ANSWER_BYTES, room()));
        // A copy: the machine may use the bytes of its answer again.
        const outcome = answer.length > limit ? tooLarge(answer, limit) : Buffer.from(answer);
        session.bytes += bytesOf(outcome);
        return outcome;
      });
      session.outcomes.set(sequence, outcomes);
      return outcomes;
    } catch (error) {
      const what = `entry ${index}, request ${sequence} of session ${id}`;
      throw new RaftError(
        "usage",
        `Cannot apply ${what}: every start stops here again. Correct `
          + `the state machine, in the same way on all servers. It says: ${describeThrown(error)}`,
        { cause: error },
      );
    }
  }

  /**
   * Returns the sessions as they are now, record by record: the owners in the order of their last
   * use, and for each owner its sessions in the same order. So a server that restores them later
   * ends the same sessions as the other servers.
   */
  snapshot(): Iterable<SessionRecord> {
    const all = this.table.owners.values().flatMap((sessions) => sessions.values()).toArray();
    this.shared = new WeakSet(all);
    return all.values().flatMap(recordsOf);
  }

  /** Takes the next record of a snapshot. */
  restore(record: SessionRecord): void {
    if (record.length === 4) return this.add(...record);
    const [sequence, outcomes] = record;
    const { newest } = this;
    assert(newest, "a snapshot has a session before its outcomes");
    const known = newest.outcomes.get(sequence) ?? [];
    newest.outcomes.set(sequence, known);
    for (const outcome of outcomes) {
      known.push(outcome);
      newest.bytes += bytesOf(outcome);
    }
  }

  private add(owner: string, id: number, nonce: number, acknowledged = 0) {
    this.newest = { owner, id, nonce, acknowledged, outcomes: new Map(), bytes: 0 };
    this.table.use(this.newest);
  }

  /** Opens a session, unless this is a retry. The outcome is the id of the session. */
  private open({ owner, nonce, session }: Opening): RequestResult {
    const known = this.table.owners.get(owner)?.values().find((other) => other.nonce === nonce);
    if (!known) this.add(owner, session, nonce);
    return [Buffer.from(`${known?.id ?? session}`)];
  }
}

// ================================== Part II: The machine room ===================================

// ------------------------------------------ 14 The wire ------------------------------------------
// A message is MessagePack: an array of its type, its id and its fields. Numbers have at most 48
// bits. An entry of commands has one request in MessagePack, and the commands in it are a sequence
// of MessagePack values. The entry itself is a record with a fixed header, as on the disk.

/**
 * Requests of clients. A request may have several commands. The outcome of OpenSession is the id of
 * a session; a retry with the same `nonce` gets the same one.
 */
export const clientMessages = {
  OpenSession: ["nonce"],
  Commands: ["session", "sequence", "acknowledged", "commands"],
  Read: ["question"],
  Inspect: [],
} as const;
/**
 * Requests of operators. ChangeMembers adds a server or corrects its address; if `address` is
 * empty, it removes the server. Transfer makes `leader` hand over to `name`, or to any server if
 * `name` is empty. If another server leads by now, it hands nothing over. ReadSnapshot asks for
 * bytes of a snapshot that includes entry `index`. The answer has the index of the snapshot, or 0
 * until there is one, and the bytes at `offset`.
 */
export const operatorMessages = {
  ChangeMembers: ["name", "address", "force"],
  Transfer: ["leader", "name"],
  ReadSnapshot: ["index", "offset"],
} as const;
/**
 * Messages of servers, beside those of Part I: a follower's question for the commit index, and
 * replies. The outcomes of a request may need several messages. `first` is the place of a message's
 * first outcome among all of them, from 0 on. In NotLeader a text is empty if the server does not
 * know it.
 */
export const serverMessages = {
  ReadIndex: [],
  Answer: ["answer"],
  Outcomes: ["first", "outcomes"],
  NotLeader: ["leader", "servers"],
  Refused: ["reason"],
} as const;
/** A server asks itself whether it is up to date. Like a read, the question waits until it is. */
type OwnMessages = { Ready: [] };
export type ClientMessage = MessageOf<
  typeof clientMessages & typeof operatorMessages & typeof serverMessages & OwnMessages
>;
/**
 * A part of a message that is too large for one datagram: a piece of its largest field, which has
 * `size` bytes and this digest. `head` is the message with null in place of that field.
 */
export const partMessages = { Part: ["digest", "size", "offset", "data", "head"] } as const;
type Part = MessageOf<typeof partMessages>;
type AnyMessage = Message | ClientMessage | Part;

/**
 * The roles of the ends of channels, which are not those of Raft. A server is a peer. Each role may
 * send what the ones before it may, and more.
 */
export const roles = ["client", "operator", "peer"] as const;
export type ChannelRole = (typeof roles)[number];
/** The messages of each role. */
const tables: readonly Table[] = [
  { ...clientMessages, ...partMessages },
  operatorMessages,
  { ...serverMessages, ...messages },
];
/** Every type of message, by its number on the wire. */
const schema = tables.flatMap((table, level) =>
  Object.entries(table).map(([type, fields]) => ({ type, fields: ["id", ...fields], level }))
);
const numberOf = (type: string) => schema.findIndex((row) => row.type === type);

/** The version of packets, messages and logs. `recover` reads the logs of the one before, too. */
const VERSION = 6;
const MAX_DATAGRAM_BYTES = 65_507;
const encoder = new Encoder();
/**
 * Limits sizes, because the decoder allocates by the length in a header before it sees the bytes.
 * Nested array headers could claim gigabytes, hence 16.
 */
const decoder = new Decoder({
  maxStrLength: MAX_DATAGRAM_BYTES,
  maxBinLength: MAX_DATAGRAM_BYTES,
  maxArrayLength: 16,
  maxMapLength: 0,
  maxExtLength: 0,
});

/** Returns whether `text` may be the name of a server, of its host or of a cluster. */
const isShortName = (text: string) => text.isWellFormed() && Buffer.byteLength(text) <= 255;

/** The list that names a field, and so gives its type. Fields in no list are numbers. */
const listOf = new Map<string, unknown>(
  [flags, texts, blobs].flatMap((list) => list.map((field) => [field, list] as const)),
);

/** Refuses -0, too, which MessagePack can encode: it equals 0, but not in every comparison. */
const isNatural = (raw: unknown): raw is number =>
  typeof raw === "number" && raw < 2 ** 48 && Object.is(raw, Math.abs(Math.trunc(raw)));

/**
 * Returns the field's value, or undefined if it has the wrong type. The caller then drops the
 * datagram. Text with half a surrogate pair is refused, because encoding it again would change it.
 */
function readField(field: string, raw: unknown): unknown {
  const list = listOf.get(field);
  const bytes = Buffer.isBuffer(raw) ? raw : undefined; // The decoder returns slices of its Buffer.
  if (list === flags) return typeof raw === "boolean" ? raw : undefined;
  if (list === texts) {
    const text = bytes?.toString() ?? raw; // A text that came in parts was joined as bytes.
    return typeof text === "string" && text.isWellFormed() ? text : undefined;
  }
  if (list === blobs) return bytes;
  if (field === "entries") return bytes && readRecords(bytes);
  return isNatural(raw) ? raw : undefined;
}

function readFields<const List extends readonly string[]>(list: List, raw: unknown) {
  if (!Array.isArray(raw) || raw.length !== list.length) return undefined;
  const fields: Record<string, unknown> = {};
  for (const [i, field] of list.entries()) {
    fields[field] = readField(field, raw[i]);
    if (fields[field] === undefined) return undefined;
  }
  return fields as Fields<List>;
}

/**
 * Encodes values one after the other, without an array header, because the decoder refuses arrays
 * over 16.
 */
function encodeAll(values: readonly unknown[]): Buffer {
  const headerBytes = values.length < 16 ? 1 : values.length < 2 ** 16 ? 3 : 5;
  return Buffer.from(encoder.encodeSharedRef(values).subarray(headerBytes));
}

/** Decodes untrusted bytes. Invalid MessagePack decodes to one value that fits no schema. */
function decodeAll(bytes: Uint8Array): unknown[] {
  try {
    return [...decoder.decodeMulti(bytes)];
  } catch {
    return [undefined];
  }
}

/** The least data in a part, other than a last one. */
const MIN_PART_BYTES = 64;
/** The most bytes that a part takes beside its data and its head. */
const PART_HEADER = 48;

/** Encodes a message, in parts if it does not fit into `room` bytes. */
function encodeMessage(message: AnyMessage, room: number): Uint8Array[] {
  const number = numberOf(message.type);
  const values = [
    number,
    ...schema[number]?.fields.map((field) => {
      const value: unknown = message[field as keyof AnyMessage];
      return field === "entries" ? Buffer.concat((value as Entry[]).flatMap(encodeRecord)) : value;
    }) ?? [],
  ];
  const whole = encoder.encode(values);
  if (whole.length <= room) return [whole];
  const sizes = values.map((value) => (value as Uint8Array).length ?? 0);
  const largest = sizes.indexOf(Math.max(...sizes));
  const field = Buffer.from(values[largest] as Uint8Array);
  const head = encoder.encode(values.with(largest, null));
  const same = [numberOf("Part"), message.id, digestOf(field), field.length];
  const step = Math.max(MIN_PART_BYTES, room - head.length - PART_HEADER);
  return Array.from(
    { length: Math.ceil(field.length / step) },
    (_, i) => encoder.encode([...same, i * step, field.subarray(i * step, (i + 1) * step), head]),
  );
}

/** Identifies the bytes of a field, so that parts of a repeated message replace lost ones. */
const digestOf = (bytes: Uint8Array) => hash(bytes).readUIntBE(0, 6);

/** The fields of a message that come from its packet. */
type Sender = Pick<Message, "from" | "to" | "disk" | "founding">;

/** Returns undefined for a message that is malformed, or that the sender's role may not send. */
function decodeMessage(role: ChannelRole, sender: Sender, raw: unknown): AnyMessage | undefined {
  const [number, ...values] = Array.isArray(raw) ? raw : [];
  const { type, fields: list = [], level = 0 } = schema[isNatural(number) ? number : -1] ?? {};
  const fields = readFields(list, values);
  if (!type || !fields || level > roles.indexOf(role)) return undefined;
  // The schema lists these fields for this type.
  const m = { ...fields, ...sender, type } as unknown as AnyMessage;
  if (m.type === "InstallSnapshot" && (m.size === 0 || m.offset + m.data.length > m.size)) {
    return undefined;
  }
  if (m.type !== "AppendEntries") return m;
  // Entries must follow prevLogIndex without a gap, and cannot be of a later term than the leader.
  const fits = (e: Entry, i: number) =>
    e.index === m.prevLogIndex + 1 + i && e.term <= m.term && isEntry(e);
  return m.entries.every(fits) ? m : undefined;
}

/** Groups items in order, each group of at most `bytes`. A larger item is a group of its own. */
function* batches<T>(all: Iterable<T>, bytesOf: (one: T) => number, bytes: number): Generator<T[]> {
  let group: T[] = [];
  let left = bytes;
  for (const one of all) {
    const needed = bytesOf(one);
    if (needed > left && group.length > 0) {
      yield group;
      group = [];
      left = bytes;
    }
    group.push(one);
    left -= needed;
  }
  if (group.length > 0) yield group;
}

/** The most bytes that a command takes besides its own. */
const COMMAND_OVERHEAD = 5;

/** The fields of the request in an entry of kind "commands", in order. */
const requestFields = ["owner", ...clientMessages.Commands] as const;

/**
 * Decodes the request of an entry. A request with a malformed command is returned without commands,
 * and is later refused. Versions 4 and 5 had several requests in an entry, and no owners: version 4
 * packed them by hand, version 5 in MessagePack. An entry that opened a session was empty, and its
 * index was the id of the session.
 */
export function readRequests({ kind, index, data }: Entry): (SessionRequest | Opening)[] {
  const isOldOpening = kind === "session" && data.length === 0;
  const all = isOldOpening
    ? [[index, index]] // Nonce and session.
    : data[0] === 0
    ? unpackVersion4(data)
    : decodeAll(Buffer.from(data)); // A copy, because the machine may change the commands.
  return all.map((row) => {
    const raw = Array.isArray(row) && typeof row[0] === "number" ? ["", ...row] : row;
    const opening = readFields(openingFields, raw);
    if (opening) return opening;
    const request = readFields(requestFields, raw);
    assert(request, "the leader has encoded each request of an entry");
    const commands = decodeAll(request.commands);
    const isWhole = commands.every((command) => command instanceof Uint8Array);
    return { ...request, commands: isWhole ? commands : [] };
  });
}

/**
 * Splits an entry that version 4 has written. Later versions rewrite a log without decoding its
 * entries, so a log of version 6 may still have such entries. Each command in them follows session,
 * sequence and acknowledged (6 bytes each) and its length (4). Such an entry begins with a byte 0,
 * because a session is a small number in 6 bytes. No MessagePack array begins with 0.
 */
function unpackVersion4(data: Buffer): unknown[] {
  const rows: unknown[] = [];
  for (let at = 0; at < data.length;) {
    const numbers = [0, 6, 12].map((field) => data.readUIntBE(at + field, 6));
    const end = at + 22 + data.readUInt32BE(at + 18);
    rows.push([...numbers, encodeAll([data.subarray(at + 22, end)])]);
    at = end;
  }
  return rows;
}

/** A whole session in version 5 of the format, which had no owners. */
type OldSession = [id: number, acknowledged: number, [sequence: number, outcomes: Outcome[]][]];

/**
 * Decodes the data of a session's record in a snapshot: one `SessionRecord` in version 6, a whole
 * session in versions 4 and 5. A snapshot of version 4 stays until the next one replaces it. In it
 * the data is itself a sequence of records: first the session, with its id as the index and the
 * last acknowledged request as the term, then one for each answer. No MessagePack array begins as a
 * record does.
 */
export function readSession(data: Buffer): SessionRecord[] {
  const [session, ...answers] = readRecords(data) ?? [];
  const record: SessionRecord | OldSession = session
    ? [session.index, session.term, answers.map(({ index, data }) => [index, [data]])]
    : decode(data) as SessionRecord | OldSession;
  if (record.length !== 3) return [record];
  const [id, acknowledged, applied] = record;
  return [["", id, id, acknowledged], ...applied];
}

const recordKinds = [
  "logHead", // Begins a log: whose it is, and the position that it begins after.
  "hardState",
  "noop",
  "session", // Opens a session; in a snapshot, a `SessionRecord`.
  "commands",
  "metadata", // The first and the last record of a snapshot.
  "state",
  "members",
] as const;
/** A record of a file: an entry, or one of the kinds that only files have. */
type LogRecord = Omit<Entry, "kind"> & { readonly kind: (typeof recordKinds)[number] };

const isEntry = (record: LogRecord): record is Entry => entryKinds.some((k) => k === record.kind);

/**
 * Encodes a record in two pieces: kind (1 byte), term (6), index (6) and length of the data (4),
 * big-endian; and the data.
 */
export function encodeRecord({ kind, term, index, data, membership }: LogRecord): Buffer[] {
  const content = membership ? encodeMembers(membership) : data;
  const header = Buffer.alloc(ENTRY_HEADER);
  header[0] = recordKinds.indexOf(kind);
  header.writeUIntBE(term, 1, 6);
  header.writeUIntBE(index, 7, 6);
  header.writeUInt32BE(content.length, 13);
  return [header, content];
}

/** Returns the records that `bytes` consists of; undefined if they are anything else. */
function readRecords(bytes: Buffer): LogRecord[] | undefined {
  const records: LogRecord[] = [];
  let at = 0;
  while (at + ENTRY_HEADER <= bytes.length) {
    const kind = recordKinds[bytes.readUInt8(at)];
    const term = bytes.readUIntBE(at + 1, 6);
    const index = bytes.readUIntBE(at + 7, 6);
    const begin = at + ENTRY_HEADER;
    at = begin + bytes.readUInt32BE(begin - 4);
    const data = bytes.subarray(begin, at);
    if (kind === "members" || kind === "metadata") {
      const membership = readMembers(data);
      if (!membership) return undefined;
      records.push({ kind, term, index, data: NOTHING, membership });
    } else if (kind) records.push({ kind, term, index, data });
    else return undefined;
  }
  return at === bytes.length ? records : undefined;
}

/** Encodes the founding, then each member's fields in order. */
const encodeMembers = ({ founding, members }: Membership): Buffer =>
  encodeAll([founding, ...members.map((member) => memberFields.map((field) => member[field]))]);

function readMembers(bytes: Uint8Array): Membership | undefined {
  const [founding, ...rest] = decodeAll(bytes);
  const members = rest.map((raw) => readFields(memberFields, raw));
  const isWhole = isNatural(founding) && members.every((member) => member !== undefined);
  return isWhole ? { founding, members } : undefined;
}

// --------------------------------------- 15 Stable storage ---------------------------------------
// The file `log` is only appended to. Entries, terms and votes are records in it, so all that a
// step saves is durable, in order, after one sync. The records of one sync are a frame: marker,
// length and CRC-32 (4 bytes each), then the records. The marker is random, so no client can send a
// command whose bytes pass for a frame. Zeros follow the last frame. They are written in advance,
// in big steps, because a sync takes longer after the file has grown.
//
// Example: the power fails while frame 3 is written. The next start finds frame 3 incomplete and
// cuts it off, into `log.cut`: its save had not returned, so the server had promised nothing by it.
// If instead a bit of frame 2 flips, frame 3 is still intact. Frame 3 was written after frame 2 was
// synced, so frame 2 was damaged later. The server may have promised something by frame 2, and
// refuses to start. A flipped bit in the last frame passes for an incomplete write, so this frame
// is cut off, too. A log that is written again, as at each start, may have all its entries in one
// frame. If that were the last frame, one flipped bit would cut off everything. So a frame without
// entries follows it, and from then on only the last save is at risk. (A frame begins in the sector
// where the frame before it ends. We assume that a power failure leaves this sector as it was
// before the write, or as it is after it.)
//
// The file `snapshot` is a state, in frames too. All its records have the index and the term of the
// last entry that it includes. The first record lists the members. The same record ends the file,
// so a reader notices a missing end.
//
// A snapshot shortens the log in these steps. The power may fail after each of them.
// 1. The snapshot is written as `snapshot.new`, synced and renamed. The log still has everything.
// 2. The entries that stay are written to `log.new`, in slices. Saves go on in `log` meanwhile.
// 3. The frames of these saves are added. Now `log.new` has all that `log` has, and replaces it.

/** What each start names. The first one stores it. Later ones must name the same server. */
type StartOptions = {
  cluster: string;
  name: Name;
  /** The founding members. Empty for a server that joins an existing cluster. */
  members: readonly Name[];
};
type Identity = StartOptions & {
  /** Identifies this disk: drawn at the first start. */
  disk: number;
  /** Rises with each start. */
  boot: number;
};

const RESTORE =
  "Restore it. If a majority of the servers still has its data, you may start this one with an "
  + "empty directory instead.";

const FRAME_HEADER = 12;
const ZEROS = Buffer.alloc(FRAME_HEADER);
/** The zeros that a log gets at a time. */
const EXTENSION = Buffer.alloc(1 << 20);

/** Encodes a frame. Snapshots use marker 1. */
export function encodeFrame(records: readonly LogRecord[], marker = 1): Buffer {
  const frame = Buffer.concat([ZEROS, ...records.flatMap(encodeRecord)]);
  frame.writeUInt32BE(marker, 0);
  frame.writeUInt32BE(frame.length - FRAME_HEADER, 4);
  frame.writeUInt32BE(frameChecksum(frame), 8);
  return frame;
}

const frameChecksum = (frame: Buffer) =>
  crc32(frame.subarray(FRAME_HEADER), crc32(frame.subarray(0, 8)));

/** Yields frames until one is not whole, or has another marker than the first. */
function* readFrames(read: (at: number, length: number) => Buffer) {
  let end = 0;
  const marker = read(0, 4);
  for (;;) {
    // Zeros complete a header that the end of the file cuts short.
    const header = Buffer.concat([read(end, FRAME_HEADER)], FRAME_HEADER);
    const length = FRAME_HEADER + header.readUInt32BE(4);
    const frame = read(end, length);
    const isWhole = frame.length === length && header.indexOf(marker) === 0
      && frameChecksum(frame) === header.readUInt32BE(8);
    const records = isWhole && readRecords(frame.subarray(FRAME_HEADER));
    if (!records) return;
    yield { records, end: end += length };
  }
}

/**
 * Yields the records of a snapshot, frame by frame. Throws a RaftError, "storage", where `file` is
 * damaged.
 */
export function* readSnapshot(
  file: string,
  read: (at: number, length: number) => Buffer,
  advice = RESTORE,
): Generator<LogRecord[]> {
  let first: LogRecord | undefined;
  let last: LogRecord | undefined;
  let end = 0;
  for (const frame of readFrames(read)) {
    yield frame.records;
    first ??= frame.records[0];
    last = frame.records.at(-1);
    end = frame.end;
  }
  const isEnd = read(end, 1).length === 0;
  // Two records, and equal.
  const isWhole = isEnd && first !== last && Bun.deepEquals(first, last);
  ensure(isWhole, `Cannot use ${file}: it is damaged at byte ${end}. ${advice}`, "storage");
}

export class Storage {
  readonly identity: Identity;
  /** As last saved. */
  hardState: HardState = { currentTerm: 0, votedFor: undefined, commitIndex: 0 };
  /** The one in the file `snapshot`. */
  snapshot: Snapshot | undefined;
  // The log as this start has found it. Saves do not change them.
  base: Position = { index: 0, term: 0 };
  entries: Entry[] = [];
  /** The length of the incomplete frame that this start has cut off. */
  cutBytes = 0;
  private readonly release: () => void;
  private log: OpenFile | undefined;
  /** Begins each frame that this start writes to a log. */
  private readonly marker: number;
  /** Where the last frame of the log ends. */
  private end = 0;
  /** Where the zeros after it end. */
  private size = 0;
  /** The length of a snapshot that is being written or received. */
  private draftBytes = 0;

  /**
   * Opens a directory. A tool passes no `options`. Then the log and the snapshot stay as they are.
   */
  constructor(
    private readonly files: Files,
    private readonly directory: string,
    options: StartOptions | undefined,
    private readonly random: () => number,
  ) {
    this.marker = 1 + Math.floor(random() * 2 ** 31);
    this.release = this.withErrorContext("use", "", files.lock);
    try {
      if (this.find("/snapshot")) this.readHead();
      const log = this.find("/log");
      if (log) this.identity = this.recover(this.readChunk(0, log.size, "/log"));
      else {
        // The directory was made with `log.new` in it, which the first start renames to `log`.
        const isNew = !this.snapshot && this.find("/log.new");
        this.ensure(
          options && isNew,
          `it is missing, but this is not the first start. ${RESTORE}`,
        );
        const members = options.members.toSorted();
        this.identity = { ...options, members, disk: drawId(random), boot: 0 };
      }
      if (!options) return;
      const { name, cluster } = this.identity;
      this.ensure(
        name === options.name && cluster === options.cluster,
        `it belongs to server ${name} of cluster ${cluster}, not to ${options.name} of `
          + `${options.cluster}. Use another directory, or start that server: --name ${name}.`,
      );
      // Random, so that two servers that start from copies of one directory differ.
      this.identity.boot += 1 + Math.floor(random() * 2 ** 20);
      this.beginLog();
    } catch (error) {
      this.close();
      throw error;
    }
  }

  /**
   * Saves durably, with one sync, or two when the file grows. After an error nothing is certain,
   * and the server must stop.
   */
  save({ entries, ...hardState }: Unsaved): void {
    const { log, marker, size } = this;
    assert(log, "a server saves after its start");
    this.hardState = hardState;
    const frame = encodeFrame([this.hardStateRecord(), ...entries], marker);
    const end = this.end + frame.length;
    this.withErrorContext("write", "/log", () => {
      if (end + FRAME_HEADER > size) {
        // Recovery takes a log that does not end in zeros for a truncated one, so the zeros must be
        // durable before the frame is written. A gap before them reads as zeros, too.
        this.size = end + EXTENSION.length;
        log.write(EXTENSION, end);
      }
      log.write(frame, this.end);
    });
    this.end = end;
  }

  close(): void {
    this.log?.close();
    this.release();
  }

  /**
   * Writes to `snapshot.new`, which has no effect until `installDraft`. `at` 0 starts it again.
   * Returns where the bytes end.
   */
  writeDraft(at: number, bytes: Uint8Array): number {
    assert(at === 0 || at === this.draftBytes, "a snapshot has no gaps");
    return this.draftBytes = this.write(at, bytes, "/snapshot.new");
  }

  /** Replaces the snapshot by the draft. */
  installDraft(): Snapshot {
    this.withErrorContext("write", "/snapshot", (file) => this.files.rename(`${file}.new`, file));
    this.draftBytes = 0;
    return this.readHead();
  }

  /**
   * Yields the records of the draft, or else of the snapshot. Throws where it is damaged, with the
   * `advice`.
   */
  readSnapshot(advice?: string): Generator<LogRecord[]> {
    const name = this.draftBytes > 0 ? "/snapshot.new" : "/snapshot";
    return readSnapshot(
      `${this.directory}${name}`,
      (at, length) => this.readChunk(at, length, name),
      advice,
    );
  }

  readChunk(at: number, length: number, name = "/snapshot"): Buffer {
    return this.withErrorContext("read", name, (path) => {
      using file = this.files.open(path, "r");
      return file.read(at, length);
    });
  }

  /**
   * Makes this server the only member of a new cluster, after the majority of the old one is lost.
   * Keeps all its entries, and commits them. With a `snapshot` from elsewhere, this server is new,
   * and begins with that state. By its new founding this server refuses former members that return.
   * All lists of members get that founding, because a server that joins later receives the older
   * lists first. If they showed the old founding, that server would refuse the messages of this
   * one. If the power fails meanwhile, do it again: the new snapshot may be there without the new
   * log.
   */
  formNewCluster(
    snapshot: Iterable<LogRecord[]> = this.snapshot ? this.readSnapshot() : [],
  ): void {
    const { identity: { name, disk } } = this;
    const founding = drawId(this.random);
    const refound = <T extends LogRecord>(record: T) =>
      record.membership ? { ...record, membership: { ...record.membership, founding } } : record;
    let at = 0;
    for (const records of snapshot) at = this.writeDraft(at, encodeFrame(records.map(refound)));
    if (at > 0) {
      this.installDraft();
      this.dropReplacedEntries();
    }
    const { base, entries, hardState } = this;
    const index = base.index + entries.length + 1;
    const term = Math.max(hardState.currentTerm, base.term);
    const membership = { founding, members: [{ name, address: "", votes: true, disk }] };
    const last: Entry = { index, term, kind: "members", data: NOTHING, membership };
    this.entries = [...entries.map(refound), last];
    this.hardState = { ...hardState, currentTerm: term, commitIndex: index };
    this.beginLog();
  }

  /**
   * Writes the log again at each start, with the new identity, and removes unfinished files. What
   * was read must be synced again before the server promises anything by it. Example: the server
   * was killed between a write and its sync. The next start reads that frame from the page cache,
   * but a power failure would still lose it.
   */
  private beginLog() {
    // Earlier versions kept a replaced log as `log.old`.
    for (const name of ["/snapshot.new", "/log.old"]) {
      this.withErrorContext("remove", name, this.files.remove);
    }
    for (const _ of this.rewriteLog());
  }

  /**
   * Replaces the log by one that begins after the given position. Yields between slices, and adds
   * the saves made meanwhile at the end. If a received snapshot replaces the whole log, there are
   * no entries. Then it never yields, so no save can go into the old log meanwhile. Example: the
   * old log ends with entry 5, and the snapshot with entry 100. A save of entry 101 in the old log
   * would follow entry 5.
   */
  *rewriteLog(
    { index, term }: Position = this.base,
    entries: readonly Entry[] = this.entries,
    sliceBytes = EXTENSION.length,
  ): Generator<void> {
    const data = Buffer.from(JSON.stringify({ version: VERSION, ...this.identity }));
    const head = { index, term, kind: "logHead", data } as const;
    const { marker, end: savesBegin } = this;
    const hardState = this.hardStateRecord();
    let end = this.write(0, encodeFrame([head, hardState], marker), "/log.new");
    for (const slice of batches(entries, sizeOf, sliceBytes)) {
      yield;
      end = this.write(end, encodeFrame(slice, marker), "/log.new");
    }
    let rest = encodeFrame([hardState], marker);
    // Under load there are many saves to copy, and more come meanwhile. The loop ends, because it
    // copies much more between two yields than one save adds.
    for (let at = savesBegin; at < this.end;) {
      const saves = this.readChunk(at, Math.min(EXTENSION.length, this.end - at), "/log");
      rest = Buffer.concat([rest, saves]);
      at += saves.length;
      if (at === this.end) break;
      end = this.write(end, rest, "/log.new");
      rest = NOTHING;
      yield;
    }
    this.end = end + rest.length;
    this.size = this.write(end, Buffer.concat([rest, EXTENSION]), "/log.new");
    this.withErrorContext("write", "/log", (name) => {
      this.files.rename(`${name}.new`, name);
      const newLog = this.files.open(name, "r+");
      this.log?.close();
      this.log = newLog;
    });
  }

  private hardStateRecord(): LogRecord {
    const { currentTerm: term, votedFor = "", commitIndex: index } = this.hardState;
    return { index, term, kind: "hardState", data: Buffer.from(votedFor) };
  }

  /** Reads a log up to its last whole frame. Returns the identity in it. */
  private recover(log: Buffer): Identity {
    const framesIn = (bytes: Buffer) => readFrames((at, length) => bytes.subarray(at, at + length));
    let identity: Identity | undefined;
    let end = 0;
    for (const frame of framesIn(log)) {
      for (const record of frame.records) {
        const { kind, term, index, data } = record;
        if (kind === "logHead") {
          const { version, ...found } = JSON.parse(`${data}`);
          this.ensure(
            version === VERSION || version === 5,
            `another version of raft.ts (${version}) wrote it. Start that version, or the next `
              + "one, which rewrites it. Or use another directory.",
          );
          identity = found;
          this.base = { index, term };
        } else if (kind === "hardState") {
          const votedFor = `${data}` || undefined;
          this.hardState = { currentTerm: term, votedFor, commitIndex: index };
        } // A later entry replaces the one at its index, and all after that.
        else if (isEntry(record)) {
          this.entries.splice(index - this.base.index - 1, Infinity, record);
        }
      }
      end = frame.end;
    }
    this.ensure(
      identity,
      "it does not begin as a log of raft.ts. Restore it, or use another directory.",
    );
    const marker = log.subarray(0, 4);
    for (let at = log.indexOf(marker, end); at !== -1; at = log.indexOf(marker, at + 1)) {
      this.ensure(
        framesIn(log.subarray(at)).next().done,
        `it is damaged at byte ${end}. ${RESTORE}`,
      );
    }
    this.cutIncompleteFrame(log.subarray(end));
    this.dropReplacedEntries();
    return identity;
  }

  /**
   * Copies an incomplete frame after the last whole one to `log.cut`. `beginLog` then writes the
   * log without it.
   */
  private cutIncompleteFrame(rest: Buffer) {
    this.ensure(
      rest.subarray(-FRAME_HEADER).equals(ZEROS),
      `its end is missing: a log ends with zeros. ${RESTORE}`,
    );
    if (rest.indexOf(ZEROS) === 0) return;
    const torn = rest.subarray(0, FRAME_HEADER + rest.readUInt32BE(4));
    this.write(0, torn, "/log.cut");
    this.cutBytes = torn.length;
  }

  private readHead(): Snapshot {
    const [[head] = []] = this.readSnapshot();
    assert(head?.membership, "a snapshot begins with the members");
    const { index, term, membership } = head;
    return this.snapshot = { index, term, size: this.find("/snapshot")?.size ?? 0, ...membership };
  }

  /**
   * Discards the log if it lacks the last entry of the snapshot: then the leader sent the snapshot,
   * and it replaces the whole log (Figure 13, steps 6 and 7).
   */
  private dropReplacedEntries() {
    const { base, entries, snapshot = { index: 0, term: 0 } } = this;
    this.ensure(
      snapshot.index >= base.index,
      `it begins after entry ${base.index}, and ${this.directory}/snapshot ends before. ${RESTORE}`,
    );
    const last = [base, ...entries][snapshot.index - base.index];
    if (last?.term === snapshot.term) return;
    this.base = snapshot;
    this.entries = [];
  }

  private find(name: string) {
    return this.withErrorContext("read", name, this.files.find);
  }

  /** Writes durably, and returns where the bytes end. `at` 0 empties the file first. */
  private write(at: number, bytes: Uint8Array, name: string): number {
    this.withErrorContext("write", name, (path) => {
      using file = this.files.open(path, at === 0 ? "w" : "r+");
      file.write(bytes, at);
    });
    return at + bytes.length;
  }

  private ensure(condition: unknown, problem: string): asserts condition {
    ensure(condition, `Cannot use ${this.directory}/log: ${problem}`, "storage");
  }

  /** Rethrows an error with the operation, the file and a remedy. */
  private withErrorContext<T>(what: string, name: string, action: (file: string) => T): T {
    const file = `${this.directory}${name}`;
    try {
      return action(file);
    } catch (error) {
      const { message } = error as Error;
      const advice = /ENOSPC|EDQUOT/.test(message)
        ? " Make room on that disk, and start again."
        : /EACCES|EPERM|EROFS|EEXIST|ENOTDIR|unable to open/.test(message)
        ? " Use a directory that this user may write to."
        : "";
      throw new RaftError("storage", `Cannot ${what} ${file}: ${message}.${advice}`);
    }
  }
}

function syncDirectory(directory: string): void {
  const fd = fs.openSync(directory, "r");
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

/** Makes a data directory durably, unless it has a lock file: then it was made before. */
function createDirectory(directory: string): void {
  const topmostMade = fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
  const names = fs.readdirSync(directory);
  if (names.includes("lock")) return;
  // A running server still holds the deleted lock, but a second one can't see that.
  ensure(
    !names.some((name) => /^(log(\.old|\.cut)?|snapshot(\.new)?)$/.test(name)),
    `${directory}/lock was deleted, so a server may still be running there. Make sure that `
      + `none is, and then: touch ${directory}/lock`,
    "storage",
  );
  const log = path.resolve(directory, "log.new");
  fs.closeSync(fs.openSync(log, "a", 0o600));
  // A new file or directory is durable once the directory that has it is synced.
  const top = path.dirname(path.resolve(topmostMade ?? log));
  for (let at = log; at !== top;) syncDirectory(at = path.dirname(at));
}

/** The file system, as far as a server needs it. Each function may throw. */
const systemFiles = {
  /**
   * Locks a directory, until the returned function is called or this process ends. Makes the
   * directory if it is missing, with an empty `log.new` in it. The first start renames that to
   * `log`, so a directory without either has lost its log.
   */
  lock(directory: string) {
    createDirectory(directory);
    // Bun has no flock, but SQLite locks its files, and the kernel unlocks them with the process.
    const lock = new Database(`${directory}/lock`, { create: true });
    try {
      lock.run("PRAGMA journal_mode = MEMORY");
      lock.run("BEGIN EXCLUSIVE");
      // By its path, because to open and close the file once more would unlock it.
      fs.chmodSync(`${directory}/lock`, 0o600);
    } catch (error) {
      lock.close();
      const isHeld = (error as { code?: string }).code === "SQLITE_BUSY";
      throw isHeld ? new Error("a running server has it. Stop that one, or use another") : error;
    }
    return () => lock.close();
  },

  /**
   * Finds a file. One that can't be examined is an error, because it must not be taken for one that
   * is missing: a server that has lost its log is not a new one.
   */
  find: (file: string): { readonly size: number } | undefined =>
    fs.statSync(file, { throwIfNoEntry: false }),

  /** Opens a file: "r" to read it, "r+" to change it, "w" to write a new one in its place. */
  open: (file: string, flags: "r" | "r+" | "w") => openFile(fs.openSync(file, flags, 0o600)),

  /** Renames a file durably. */
  rename(from: string, to: string) {
    fs.renameSync(from, to);
    syncDirectory(path.dirname(to));
  },

  /** Removes a file, if it is there. */
  remove: (file: string) => fs.rmSync(file, { force: true }),
};

function openFile(fd: number) {
  let checkAt = performance.now() + 1000;
  const close = () => fs.closeSync(fd);
  return {
    /** Writes durably. Throws if the file was deleted more than a second ago. */
    write(bytes: Uint8Array, position: number) {
      // On a full disk, a write first returns a short count, and only the next one fails.
      for (let at = 0; at < bytes.length;) {
        at += fs.writeSync(fd, bytes, at, bytes.length - at, position + at);
      }
      fs.fdatasyncSync(fd);
      // Once a second, because fstat so soon after a sync takes half as long as the sync.
      if (performance.now() < checkAt) return;
      checkAt = performance.now() + 1000;
      ensure(
        fs.fstatSync(fd).nlink > 0,
        "the file was deleted while the server ran. If a majority of the servers still has its "
          + "data, start again with an empty directory",
      );
    },
    /** Returns the bytes at a position, and fewer than asked for where the file ends. */
    read(position: number, length: number): Buffer {
      const left = fs.fstatSync(fd).size - position;
      const bytes = Buffer.alloc(Math.max(0, Math.min(length, left)));
      let end = 0;
      // The system reads at most 2 GiB at a time.
      for (let count = 1; count > 0; end += count) {
        count = fs.readSync(fd, bytes, end, bytes.length - end, position + end);
      }
      return bytes.subarray(0, end);
    },
    close,
    [Symbol.dispose]: close,
  };
}

export type OpenFile = ReturnType<typeof openFile>;

// ----------------------------------------- 16 Datagrams ------------------------------------------
// Everything impure enters through four interfaces: clock, randomness, datagrams and files. This
// section implements the first three for real. Tests have simulated ones.

/** An IP address, or a name that resolves to one, and a port. */
export type Address = { host: string; port: number };
/** A server, by the name that peers and clients use. */
export type Server = Address & { name: Name };

/** An optional name, then the address: a host, in brackets or not, and a port. */
const SERVER = /^(?:([^=,\s]+)=)?((?:\[([^=,\s[\]]+)\]|([^=:,\s[\]]+)):(\d{1,5}))$/;
function readServer(text: string): Server | undefined {
  const [, name, address = "", inBrackets, word = "", digits] = SERVER.exec(text) ?? [];
  const port = Number(digits);
  const server = { name: name ?? address, host: inBrackets ?? word, port };
  const isServer = port >= 1 && port <= 65_535 && [server.name, server.host].every(isShortName);
  return isServer ? server : undefined;
}

/** Parses `HOST:PORT` or `NAME=HOST:PORT`, as in `[::1]:48000`. Throws a RaftError, "usage". */
export function parseServer(text: string): Server {
  const server = readServer(text);
  ensure(
    server,
    `"${text}" is not the address of a server. Write HOST:PORT, or NAME=HOST:PORT, `
      + "with a port from 1 to 65535; an IPv6 address as in [::1]:48000. "
      + "A name or host has at most 255 bytes.",
  );
  return server;
}

/** Accepts an IP address with or without a port. */
export const isLoopback = (address: string) => /^(127\.|::1$|\[::1\])/.test(address);
export const writeAddress = ({ host, port }: Address) =>
  `${isIPv6(host) ? `[${host}]` : host}:${port}`;

export const systemWorld = {
  clock: {
    /** Returns milliseconds since an arbitrary origin. They never decrease. */
    now: () => performance.now(),
    /** Returns a function that cancels the timer. */
    setTimer(delayMs: number, action: () => void) {
      const timer = setTimeout(action, delayMs);
      return () => clearTimeout(timer);
    },
    /** Acts after the event loop has read the sockets once more, and handled what it has read. */
    defer: (action: () => void) => void setImmediate(action),
  },
  /** Returns a number in [0, 1). */
  random: () => randomInt(2 ** 32) / 2 ** 32,
  datagrams: { resolve: resolveHost, bind: bindSocket },
  files: systemFiles,
};
export type World = typeof systemWorld;
export type Files = World["files"];
export type OnDatagram = (bytes: Buffer, from: Address) => void;

/** Resolves a host to an address in the family of `local`. Without `local`, prefers IPv4. */
async function resolveHost(host: string, local = ""): Promise<string> {
  const addresses = (await dns.lookup(host, { all: true })).map(({ address }) => address);
  // On Linux a socket at :: reaches IPv4 addresses as well.
  const reachesAll = local === "" || (local === "::" && process.platform === "linux");
  const found = addresses.find((address) => isIPv6(address) === isIPv6(local))
    ?? (reachesAll ? addresses[0] : undefined);
  if (found) return found;
  const family = isIPv6(local) ? "IPv6" : "IPv4";
  throw new Error(`${host} is ${addresses.join(", ")}, and ${local} reaches ${family} only`);
}

async function openSocket({ host, port }: Address): Promise<dgram.Socket> {
  const address = await resolveHost(host);
  const family = isIPv6(address) ? 6 : 4;
  // The kernel drops datagrams when the receive buffer is full, as it can be during a sync.
  const socket = dgram.createSocket({
    type: `udp${family}`,
    recvBufferSize: 4 << 20,
    lookup: (ip, _options, done) => done(null, ip, family), // Addresses are resolved already.
  });
  await once(socket.bind({ address, port }), "listening");
  // From now on an error means only that some receiver refused a datagram.
  return socket.on("error", () => {});
}

/**
 * Sends an empty datagram. A machine answers a datagram to a closed port with ICMP. Only a
 * connected socket learns which port that was, so each probe connects its own. An unreachable
 * machine or network is no refusal, because the process may be alive. Returns the socket, which
 * stays open until the next probe.
 */
function probePort({ host, port }: Address, onRefused: () => void): dgram.Socket {
  const socket = dgram.createSocket(isIPv6(host) ? "udp6" : "udp4");
  socket.on("error", ({ code }: Error & { code?: string }) => {
    if (code === "ECONNREFUSED") onRefused();
  });
  socket.on("connect", () => socket.send(NOTHING));
  if (port > 0) socket.connect(port, host);
  return socket;
}

/** The datagram that every path carries unfragmented: IPv6's smallest MTU, less its headers. */
const DATAGRAM_BYTES = 1232;
/**
 * What the loopback carries unfragmented. If everything of one turn fits one datagram, its receiver
 * needs one sync for it. Systems other than Linux send at most 9 KB by default.
 */
const LOOPBACK_BYTES = process.platform === "linux" ? 60_000 : 8192;
/** How often a datagram is sent if the sends fail. */
const SEND_TRIES = 5;

/** Binds a UDP socket. `onDatagram` may keep the buffers that it gets. */
async function bindSocket(at: Address, onDatagram: OnDatagram) {
  const socket = await openSocket(at).catch((error: Error) => {
    throw new RaftError(
      "network",
      `Cannot listen on ${writeAddress(at)}: ${bindProblem(at, error)}`,
    );
  });
  // A socket at :: reports an IPv4 address as ::ffff:10.0.0.1.
  socket.on(
    "message",
    (bytes, { address, port }) =>
      onDatagram(bytes, { host: address.replace(/^::ffff:(?=.*\.)/, ""), port }),
  );
  let isOpen = true;
  let probe: dgram.Socket | undefined;
  const { address } = socket.address();
  // After a send to a closed port, the kernel fails a *later* send on this socket, to any peer. A
  // retry succeeds, unless another refusal has arrived meanwhile.
  const send = (bytes: Buffer, to: Address, tries = SEND_TRIES): void => {
    const again = (error: unknown) => error && tries > 1 && send(bytes, to, tries - 1);
    if (isOpen && to.port > 0) socket.send(bytes, to.port, to.host, again);
  };
  return {
    address,
    receiveBufferBytes: socket.getRecvBufferSize(),
    /** Returns the size of datagrams that travel to `host` unfragmented. */
    datagramBytes: (host: string): number => isLoopback(host) ? LOOPBACK_BYTES : DATAGRAM_BYTES,
    /** Never throws: a datagram that cannot be sent is lost. */
    send,
    /** Calls `onRefused` if the port is closed. Any other result, or none, proves nothing. */
    probePort(to: Address, onRefused: () => void) {
      if (!isOpen) return;
      probe?.close();
      probe = probePort(to, onRefused);
    },
    /** Does nothing the second time. */
    close() {
      if (!isOpen) return;
      isOpen = false;
      probe?.close();
      socket.close();
    },
  };
}

export type Socket = Awaited<ReturnType<typeof bindSocket>>;

function bindProblem({ host }: Address, { code, message }: Error & { code?: string }): string {
  const own = Object.values(networkInterfaces()).flatMap((list) => list ?? [])
    .map(({ address }) => address).filter((address) => isIPv6(address) === isIPv6(host));
  const advice = `Use one of ${[...own, "or "].join(", ")}${isIPv6(host) ? "::" : "0.0.0.0"}.`;
  if (code === "EADDRINUSE") return "another process has that port. Stop it, or use another port.";
  if (code === "EADDRNOTAVAIL") return `no network interface has that address. ${advice}`;
  const isUnknown = /ENOTFOUND|EAI_AGAIN/.test(message);
  return isUnknown ? `the name does not resolve. ${advice}` : `${message}.`;
}

// ------------------------------------------ 17 Channels ------------------------------------------
// UDP loses, repeats, reorders and delays datagrams. Part I copes with that. But anyone can send a
// datagram, or repeat a recorded one. Part I needs to know that each message comes from the server
// that it names, and from the present disk of that server. And an operator's request must not take
// effect twice. So two machines first make a channel, by a handshake of two packets. All that then
// travels on it is encrypted, in numbered packets.
//
//   Hello     type, attempt, version, key id; then message 1 of the handshake
//   Welcome   type, channel; then message 2 of the handshake
//   Data      type, channel, number; then encrypted: the sender's founding, and messages
//   Hint      type, version; then the first 16 bytes of the packet that it answers
//
// The attempt numbers the handshakes that an end begins, so the echo in a Hint names one of them.
//
// Example: servers A and B, in the order of events.
// 1. A draws the id 7 for its end of a new channel, and sends a Hello. The key id tells B which
//    key A has used. In the encrypted part, A introduces itself: cluster, name, disk, boot, the 7.
//    An outsider cannot read the 7, so it cannot flood A with Welcomes ahead of the right one.
// 2. B draws 9 for its own end, and answers with a Welcome to 7 and its own introduction. The Hello
//    may be a recording, so it changes nothing else: for B the channel is half open.
// 3. A reads the Welcome, and immediately sends a Data packet to 9. No recording can contain it,
//    because its key depends on the Welcome. So it confirms the channel, and B sends on it, too.
// 4. Data packets have numbers. One that comes twice is dropped.
// 5. B restarts. It cannot read packets to 9, and answers one with a Hint. Anyone can forge a Hint,
//    so all that A does is send another Hello. The restarted B sends one, too.
// 6. The first of these channels that is confirmed tells A the higher boot of B. In that instant A
//    ends 7, so nothing that the earlier B has sent arrives any more.
// 7. A channel is renewed after a day or 2^23 packets, and both ends may begin one at the same
//    time. An end sends on the channel that it has confirmed last. Earlier ones stay for packets in
//    flight.

// Handshakes follow the Noise Protocol Framework, revision 34 (noiseprotocol.org), in its names.

/** The pattern NNpsk0: `-> psk, e` and `<- e, ee` (Noise §9.4). */
const PROTOCOL = "Noise_NNpsk0_25519_AESGCM_SHA256";
const TAG_BYTES = 16;

/** HASH (Noise §4.3). */
const hash = (...parts: Uint8Array[]): Buffer =>
  createHash("sha256").update(Buffer.concat(parts)).digest();

/** HKDF (Noise §4.3). Returns three outputs. Where Noise asks for two, they are the first two. */
function hkdf(chainingKey: Uint8Array, input: Uint8Array) {
  const all = Buffer.from(hkdfSync("sha256", input, chainingKey, NOTHING, 96));
  return [all.subarray(0, 32), all.subarray(32, 64), all.subarray(64)] as const;
}

/** Encodes `n` as AESGCM wants it: 32 bits of zeros, then 64 bits, big-endian (Noise §12.4). */
function nonceOf(n: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeUIntBE(n, 6, 6);
  return nonce;
}

/**
 * ENCRYPT (Noise §4.2). Returns the `header`, which is not encrypted, then the ciphertext. The
 * plaintext is in pieces. A key may encrypt with each `n` only once.
 */
export function encrypt(
  key: Uint8Array,
  n: number,
  ad: Uint8Array,
  plaintext: readonly Uint8Array[],
  header: Uint8Array = NOTHING,
): Buffer {
  const cipher = createCipheriv("aes-256-gcm", key, nonceOf(n)).setAAD(ad);
  const ciphertext = plaintext.map((piece) => cipher.update(piece));
  return Buffer.concat([header, ...ciphertext, cipher.final(), cipher.getAuthTag()]);
}

/**
 * DECRYPT (Noise §4.2), from `begin` on. Returns undefined for bytes that were not encrypted with
 * all of these.
 */
export function decrypt(
  key: Uint8Array,
  n: number,
  ad: Uint8Array,
  bytes: Buffer,
  begin = 0,
): Buffer | undefined {
  if (bytes.length < TAG_BYTES) return undefined;
  const decipher = createDecipheriv("aes-256-gcm", key, nonceOf(n)).setAAD(ad);
  decipher.setAuthTag(bytes.subarray(-TAG_BYTES));
  const plaintext = decipher.update(bytes.subarray(begin, -TAG_BYTES));
  try {
    decipher.final();
    return plaintext;
  } catch {
    return undefined;
  }
}

/** DH (Noise §12.1). For bytes that are no public key, the output is zeros. */
function dh(privateKey: KeyObject, key: Uint8Array): Buffer {
  try {
    const publicKey = createPublicKey({ key, format: "raw-public", asymmetricKeyType: "x25519" });
    return diffieHellman({ privateKey, publicKey });
  } catch {
    return Buffer.alloc(32);
  }
}

/**
 * HandshakeState with its SymmetricState (Noise §5.2, §5.3). Each k encrypts one payload, so its n
 * is 0.
 */
export class Handshake {
  /** InitializeSymmetric: the name of the protocol has 32 bytes, as h and ck do. */
  private ck: Buffer = Buffer.from(PROTOCOL);
  h = this.ck;
  private k: Buffer = NOTHING;
  /** The ephemeral private key of this end, once it has written. */
  private e: KeyObject | undefined;
  /** The ephemeral public key of the other end, once a message was read. */
  private re: Buffer | undefined;

  /** Initialize. The token psk comes before all others: MixKeyAndHash (Noise §9.1). */
  constructor(psk: Uint8Array, prologue: Uint8Array) {
    this.mixHash(prologue);
    const [ck, h, k] = hkdf(this.ck, psk);
    this.mixHash(h);
    [this.ck, this.k] = [ck, k];
  }

  /** WriteMessage. `key` is 32 random bytes, to be used once. */
  writeMessage(payload: Uint8Array, key: Uint8Array): Buffer {
    this.e = createPrivateKey({ key, format: "raw-private", asymmetricKeyType: "x25519" });
    const e = createPublicKey(this.e).export({ format: "raw-public" });
    this.mixTokens(e);
    const ciphertext = encrypt(this.k, 0, this.h, [payload]); // EncryptAndHash.
    this.mixHash(ciphertext);
    return Buffer.concat([e, ciphertext]);
  }

  /**
   * ReadMessage. A wrong message gives undefined and does no harm: the right one may still come.
   */
  readMessage(message: Buffer): Buffer | undefined {
    const { ck, h, k } = this;
    const [re, ciphertext] = [message.subarray(0, 32), message.subarray(32)];
    this.re = re;
    this.mixTokens(re);
    const payload = decrypt(this.k, 0, this.h, ciphertext); // DecryptAndHash.
    if (!payload) return void Object.assign(this, { ck, h, k });
    this.mixHash(ciphertext);
    return payload;
  }

  /** Split. Returns first the key of the end that wrote message 1, then that of the other end. */
  split() {
    return hkdf(this.ck, NOTHING);
  }

  private mixHash(data: Uint8Array) {
    this.h = hash(this.h, data);
  }

  private mixKey(input: Uint8Array) {
    [this.ck, this.k] = hkdf(this.ck, input);
  }

  /**
   * The token e of a pattern with a psk (Noise §9.2). In message 2 the token ee follows: there both
   * ends have sent a key.
   */
  private mixTokens(e: Uint8Array) {
    this.mixHash(e);
    this.mixKey(e);
    if (this.e && this.re) this.mixKey(dh(this.e, this.re));
  }
}

/** The key of an end of channels. To have it proves this role and name in this cluster. */
export type Credential = {
  readonly role: ChannelRole;
  readonly cluster: string;
  readonly name: Name;
  readonly id: Uint8Array;
  readonly key: Uint8Array;
  /** The text that it comes from: a secret, or a client key. */
  readonly secret: string;
};

/** Names a key in a Hello. Shows neither the key nor its owner. */
const keyIdOf = (secret: string, role: ChannelRole, cluster: string, name: Name) =>
  createHmac("sha256", secret).update(JSON.stringify([role, cluster, name])).digest()
    .subarray(0, 16);

/** Derives the key that a Hello names, so a server needs no table of clients. */
const deriveKey = (secret: string, id: Uint8Array) =>
  Buffer.from(hkdfSync("sha256", secret, id, "raft.ts", 32));

export function credentialOf(
  secret: string,
  role: ChannelRole,
  cluster: string,
  name: Name,
): Credential {
  ensure(
    [cluster, name].every(isShortName),
    "The name of the cluster or client is too long. Take one of at most 255 bytes.",
  );
  const id = keyIdOf(secret, role, cluster, name);
  return { role, cluster, name, id, key: deriveKey(secret, id), secret };
}

/**
 * Returns the secrets in a text, one a line. All are accepted, and the first one is used first. A
 * server at `address` needs at least one, unless that is a loopback address.
 */
export function secretsOf(text: string, address?: string): string[] {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  ensure(
    lines.every(({ length }) => length >= MIN_SECRET_LENGTH),
    `A secret has at least ${MIN_SECRET_LENGTH} characters. 'bun cli.ts secret' makes one.`,
  );
  ensure(
    lines.length > 0 || address === undefined || isLoopback(address),
    `Without a secret a server listens on loopback addresses only, not on ${address}, where `
      + "everyone could write to it. Make one for all: 'bun cli.ts secret > raft.secret', then "
      + "'--secret-file raft.secret'.",
  );
  return lines.length > 0 ? lines : [""];
}
const MIN_SECRET_LENGTH = 32;

/**
 * Returns the key of one client, for `ClientOptions.clientKey`. A client with it can use only this
 * name. The secret and the other keys can't be computed from it.
 */
export function clientKey(secret: string, cluster: string, name: Name): string {
  const { id, key } = credentialOf(secretsOf(secret)[0] ?? "", "client", cluster, name);
  return Buffer.from(encoder.encode([cluster, name, id, key])).toString("base64url");
}

function readClientKey(secret: string): Credential {
  const [raw] = decodeAll(Buffer.from(secret.trim(), "base64url"));
  const fields = readFields(["cluster", "name", "keyId", "key"], raw);
  ensure(
    fields?.keyId.length === 16 && fields.key.length === 32,
    "This is not a client key. 'bun cli.ts client-key NAME' prints one, on one line.",
  );
  const { cluster, name, keyId, key } = fields;
  return { role: "client", cluster, name, id: keyId, key, secret };
}

/** The encrypted part of a Hello or Welcome: its sender introduces itself. */
const introductionFields = [
  "role",
  "cluster",
  "name",
  "members", // The founders. Servers with other ones are refused.
  "founding",
  "disk", // A client has none: it draws a number for its process.
  "boot", // Rises with each start.
  "attempt", // Rises with each handshake that this boot begins; 0 in a Welcome.
  "channel", // The id of the channel at this end.
] as const;
type Introduction = Fields<typeof introductionFields> & { role: ChannelRole };
/** Room for the longest names. All introductions are padded to it, to hide the lengths of names. */
const INTRODUCTION_BYTES = 900;
const MAX_MEMBERS_BYTES = 256;

function readIntroduction(payload: Buffer | undefined): Introduction | undefined {
  const fields = payload && readFields(introductionFields, decodeAll(payload)[0]);
  const role = roles.find((each) => each === fields?.role);
  return role && fields && isShortName(fields.name) ? { ...fields, role } : undefined;
}

// Packets and their headers, in bytes. A Hello is larger than the Welcome that answers it, so a
// forged sender gains nothing.
const [HELLO, WELCOME, DATA, HINT] = [1, 2, 3, 4] as const;
const ECHO_BYTES = 16;
/** A Hint is the shortest packet. The basic header is the type (1 byte) and a number (6). */
const [HINT_BYTES, BASIC_HEADER, DATA_HEADER, HELLO_HEADER] = [2 + ECHO_BYTES, 7, 11, 24];
/** What a Data packet takes beside its messages: header, tag and founding. */
const DATA_OVERHEAD = DATA_HEADER + TAG_BYTES + 9;
/** A datagram has room for a Hello. */
const MIN_DATAGRAM_BYTES = HELLO_HEADER + 32 + INTRODUCTION_BYTES + TAG_BYTES;

// Handshakes.
/**
 * The least time between Hellos to a server. An endpoint has no timer: while there is no channel,
 * each `flush` with a message for the server repeats the Hello.
 */
const HELLO_EVERY_MS = 50;
/**
 * How long the first attempt waits for its Welcome. Then another one begins, with the next key.
 * After n failures, an attempt waits n + 1 times as long, up to MAX_PATIENCE times, because a round
 * trip may take longer.
 */
const ATTEMPT_MS = 500;
const MAX_PATIENCE = 8;
/**
 * Limits of rates: on average one Hello is read in READ_EVERY_MS, and one key agreement with a name
 * is made in AGREE_EVERY_MS. (They take 0.03 and 0.1 ms.) After a pause, as many as belong to
 * BURST_MS may come together.
 */
const READ_EVERY_MS = 0.5;
const AGREE_EVERY_MS = 5;
const BURST_MS = 250;
/**
 * An end that does not answer for so long may have lost the channel. A server may also have moved,
 * so its host name is resolved again, once in this time. A message that has waited so long for a
 * channel is dropped.
 */
const SILENT_MS = 1000;
const HINT_EVERY_MS = 1;

// Channels and their messages.
/** Confirmed channels of a `Remote`: the one that is sent on, and others with packets in flight. */
const MAX_CHANNELS = 3;
/**
 * Bounds of tables, in all and for one name: processes of clients with a channel, half-open
 * channels, and incomplete fields. With so many entries, `allowedAt` is pruned, too.
 */
const MAX_ENTRIES = 1024;
const MAX_ENTRIES_PER_NAME = 256;
/** A Data packet that this many later ones have overtaken may be dropped. */
const WINDOW = 1024;
/** A channel is renewed after so many packets, or so long. */
const RENEW_PACKETS = 2 ** 23;
const RENEW_MS = 86_400_000;
/**
 * Encoded messages that wait for a channel, each part counted. Beyond it the oldest are dropped.
 */
const MAX_QUEUED = 64;
/** The most messages in a datagram. */
const MAX_MESSAGES = 1024;
/** A command or answer of 64,000 bytes, and what MessagePack adds. */
const MAX_FIELD_BYTES = 66_000;

// Warnings.
const WARN_EVERY_MS = 60_000;
const MAX_WARNED = 100;

/** Returns the header of a packet: its type and a number, then zeros. */
function headerOf(type: number, number: number, length: number): Buffer {
  const header = Buffer.alloc(length);
  header[0] = type;
  header.writeUIntBE(number, 1, 6);
  return header;
}
const channelIn = (packet: Buffer) => packet.readUIntBE(1, 6);
const packetNumberIn = (packet: Buffer) => packet.readUInt32BE(BASIC_HEADER);

/** One end of a channel, from the first packet of its handshake on. */
class Channel {
  /** The introduction of the other end, once it was read. */
  other: Introduction | undefined;
  /** The id that the other end has drawn for it, once its introduction was read. */
  id = 0;
  sendKey: Uint8Array = NOTHING;
  receiveKey: Uint8Array = NOTHING;
  /** How many Data packets were sent: the number of the next one. */
  sent = 0;
  /** One more than the highest number received. */
  private next = 0;
  /**
   * One more than the highest number received, for each remainder of WINDOW. Example: after 1030,
   * slot 6 has 1031. So 1030 and 6 are not accepted: both may have come already.
   */
  private readonly seen = new Uint32Array(WINDOW);

  constructor(
    /** The id that this end has drawn for it. */
    readonly ownId: number,
    /** The role and name of the other end. */
    readonly owner: string,
    /** The secret, or client key, of the handshake. */
    readonly secret: string,
    /** The Hello or Welcome that we sent. */
    readonly opening: Buffer,
    readonly createdAt: number,
    /**
     * The other end. Until there is a Welcome, the server that was asked. Undefined in a channel
     * that the other end has begun, but not confirmed.
     */
    public remote?: Remote,
    /** Undefined once both messages were written and read. */
    public handshake?: Handshake,
  ) {}

  /** A slot only grows, so each number is accepted once. */
  accepts(number: number): boolean {
    return number >= (this.seen[number % WINDOW] ?? 0);
  }

  /** Records a number. Returns whether it is the highest so far. */
  record(number: number): boolean {
    this.seen[number % WINDOW] = number + 1;
    const isNewest = number >= this.next;
    if (isNewest) this.next = number + 1;
    return isNewest;
  }
}

/** The other end of channels: a server, or a process of a client or operator. */
class Remote {
  /** Its addresses on the command line. */
  configured: readonly Server[] = [];
  /** Its addresses in the log or in a redirect. */
  learned: readonly Server[] = [];
  /** The targets of Hellos: what both lists resolve to. Emptied when a channel is confirmed. */
  readonly addresses = new Map<string, Address>();
  /** Where the newest packet of a channel came from. */
  address: Address | undefined;
  /**
   * The address before that. Example: an outsider copies a packet, and the copy arrives first. For
   * one second, packets go to both addresses, and the next packet of the other end restores its
   * own. (If an outsider overtakes every packet of the other end, it still gets our packets, but
   * cannot read them.)
   */
  former: Address | undefined;
  /** When the address changed. */
  movedAt = -Infinity;
  /** The confirmed channels, the newest first. Messages leave on the first. */
  channels: Channel[] = [];
  /** The channel whose Hello has no Welcome yet. */
  begun: Channel | undefined;
  /** When a Hello was last sent to it. */
  helloAt = -Infinity;
  /**
   * How many attempts got no Welcome. It selects the key. A Welcome reduces it to the least number
   * that selects the same key.
   */
  failures = 0;
  /** Identifies its disk; 0 until a channel was confirmed. */
  disk = 0;
  /** Identifies its latest start; 0 until a channel was confirmed. */
  boot = 0;
  /** When the first channel of this boot was confirmed. */
  bootedAt = -Infinity;
  /** The last attempt of this boot that was confirmed. */
  attempt = 0;
  /** All disks that it has had. */
  readonly disks = new Set<number>();
  /** Encoded messages for the next packets to it, and when each was queued. */
  queue: { body: Uint8Array; at: number }[] = [];
  heardAt = -Infinity;
  /** When the first packet left that it has not answered. */
  unansweredSince = Infinity;
  resolvedAt = -Infinity;
  /** How long its last reply to an RPC took. */
  roundTripMs: number | undefined;
  /** The latest trouble with it, until it is heard, or until its host name resolves again. */
  lastWarning: EndpointEvent | undefined;

  /**
   * `id` is the name of a server. For a process of a client it has spaces, which no name of a
   * server has. Bounds are for each `owner`: a role and a name.
   */
  constructor(
    readonly role: ChannelRole,
    readonly id: string,
    readonly owner = ownerOf(id),
  ) {}

  /** Returns whether this attempt was confirmed, or a later one of the same boot. */
  hasConfirmed({ disk, boot, attempt }: Introduction): boolean {
    return disk === this.disk && boot === this.boot && attempt <= this.attempt;
  }

  /** Records where its newest packet came from. */
  moveTo(address: Address, now: number): void {
    const { host, port } = this.address ?? address;
    if (host !== address.host || port !== address.port) {
      [this.former, this.movedAt] = [this.address, now];
    }
    this.address = address;
  }
}

/** Returns role and name of the remote with this id. */
const ownerOf = (id: string) => id.includes(" ") ? id.slice(0, id.lastIndexOf(" ")) : `peer ${id}`;

export type EndpointEvent =
  /** The host name of a server does not resolve. */
  | { type: "unresolved"; server: Server; reason: string }
  /** A server has our secret, but another cluster name or other founders. */
  | { type: "foreign"; server: Name; address: Address; cluster: string; members: string }
  /** A Hello was made with another secret. */
  | { type: "unauthenticated"; address: Address }
  /** Another version of this program. */
  | { type: "version"; address: Address; version: number }
  /** Two servers use one name. */
  | { type: "twice"; server: Name; address: Address; other: Address };

/** Handles the events of an endpoint. Clients lack the optional handlers. */
type EndpointHandlers = {
  /** Ends a turn of the event loop if `schedule` was called in it. Calls the endpoint's `flush`. */
  onTurnEnd(): void;
  onMessage(message: Message | ClientMessage, sender: Remote): void;
  /** Returns the founding to show: 0 until it is durable. */
  founding(): number;
  onRestarted?(peer: Introduction): void;
  emit?(event: EndpointEvent): void;
};

/** A field of a message that comes in parts. */
type IncompleteField = {
  owner: string;
  id: string;
  bytes: Buffer;
  /** The offsets of the parts that have come. */
  offsets: Set<number>;
  /** How many bytes have not come. */
  missing: number;
};

/**
 * Exchanges messages with other ends through one socket. Messages wait until `flush`, and then
 * share datagrams.
 */
export class Endpoint {
  /** How many packets were dropped, by reason. */
  readonly dropped: Record<string, number> = {};
  /** When a packet was last dropped that was not made with a secret of ours. */
  unauthenticatedAt = -Infinity;
  /** Servers by name. */
  private readonly servers = new Map<Name, Remote>();
  /** Client: the name of the server that has answered at an address of the command line. */
  private readonly aliases = new Map<string, Name>();
  /** Processes of clients that have a channel. */
  private readonly clients = new FairTable<Remote>(MAX_ENTRIES, MAX_ENTRIES_PER_NAME);
  /** All channels by their id at this end. */
  private readonly channels = new Map<number, Channel>();
  /** Channels that others have begun and not confirmed, by the id at the other end. */
  private readonly halfOpen = new FairTable<Channel>(MAX_ENTRIES, MAX_ENTRIES_PER_NAME);
  /** When the next event of a kind is allowed. If that is long past, several may come together. */
  private readonly allowedAt = new Map<string, number>();
  private readonly incomplete = new FairTable<IncompleteField>(MAX_ENTRIES, MAX_ENTRIES_PER_NAME);
  /** Remotes with messages to send at the next `flush`. */
  private readonly queued = new Set<Remote>();
  private isScheduled = false;
  /** The keys to send Hellos with, tried in turn. A server derives other keys from the secrets. */
  private credentials: readonly Credential[] = [];
  /** Counts the handshakes that this boot has begun. A repeated Hello keeps its number. */
  private attempts = 0;

  constructor(
    private readonly world: World,
    readonly socket: Socket,
    readonly self: Identity & { readonly role: ChannelRole },
    private readonly handlers: EndpointHandlers,
    /** The largest datagram to send. Default: as the socket says. */
    private readonly datagramBytes?: number,
  ) {}

  private get now(): number {
    return this.world.clock.now();
  }

  /** Replaces the keys, and ends the channels of those that are gone. */
  rotate(credentials: readonly Credential[]): void {
    this.credentials = credentials;
    for (const channel of this.channels.values()) {
      if (credentials.every(({ secret }) => secret !== channel.secret)) this.end(channel);
    }
  }

  /** Records a server of the command line. Its name may be just its address. */
  async resolvePeer(server: Server): Promise<void> {
    const to = this.getOrAddServer(server.name);
    to.configured = [server];
    await this.resolveAddresses(to);
  }

  /** Records addresses that the log lists, or a redirect. */
  learnAddresses(servers: readonly Server[]): void {
    for (const [name, own] of Map.groupBy(servers, (server) => server.name)) {
      if (name === this.self.name) continue;
      this.aliases.delete(name);
      const to = this.getOrAddServer(name);
      if (Bun.deepEquals(own, to.learned)) continue;
      to.learned = own;
      void this.resolveAddresses(to);
    }
  }

  /**
   * Lists all addresses of the members for a client, in the syntax of `--peers`: those that their
   * packets came from, then those in the log. Only this server itself and clients on the loopback
   * get loopback ones.
   */
  addressesOf(members: Configuration, client: string): string {
    const isNear = client === this.self.name
      || isLoopback(this.find(client)?.address?.host ?? "");
    return members.flatMap(({ name, address }) => {
      const heard = this.servers.get(name)?.address;
      const all = new Set([heard ? writeAddress(heard) : address, address]);
      return [...all].filter((at) => at && (isNear || !isLoopback(at))).map((at) =>
        `${name}=${at}`
      );
    }).join();
  }

  /** Queues a message until `flush`. */
  send(message: Message | ClientMessage): void {
    const to = this.find(message.to);
    if (!to) return; // A client that is gone.
    const at = this.now;
    for (const body of encodeMessage(message, this.roomFor(to))) to.queue.push({ body, at });
    this.queued.add(to);
  }

  /** Returns how many bytes of messages a datagram to this remote can carry. */
  roomFor({ address }: Remote): number {
    const { socket, datagramBytes } = this;
    return (datagramBytes ?? socket.datagramBytes(address?.host ?? socket.address)) - DATA_OVERHEAD;
  }

  /** Ends this turn of the event loop with `onTurnEnd`, after everything that arrives in it. */
  schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    this.world.clock.defer(() => {
      this.isScheduled = false;
      this.handlers.onTurnEnd();
    });
  }

  flush(): void {
    for (const to of this.queued) this.transmit(to);
    this.queued.clear();
  }

  probePort(name: Name, onRefused: () => void): void {
    const address = this.servers.get(name)?.address;
    if (address) this.socket.probePort(address, onRefused);
  }

  receive(packet: Buffer, address: Address): void {
    if (packet.length === 0) return; // A probe of our port.
    const type = packet.length < HINT_BYTES ? undefined : packet[0]; // No packet is shorter.
    if (type === DATA) this.onData(packet, address);
    else if (type === HELLO) this.onHello(packet, address);
    else if (type === WELCOME) this.onWelcome(packet, address);
    else if (type === HINT) this.onHint(packet, address);
    else this.drop("malformed");
  }

  /** Describes a server for people. */
  peerStatus(asked: Name) {
    const server = this.getOrAddServer(asked);
    const { id: name, addresses, heardAt, roundTripMs = null, lastWarning = null } = server;
    const heardMs = Number.isFinite(heardAt) ? Math.round(this.now - heardAt) : null;
    const [resolved = ""] = addresses.keys();
    const address = server.address ? writeAddress(server.address) : resolved;
    return { name, address, heardMs, roundTripMs, lastWarning };
  }

  getOrAddServer(alias: Name): Remote {
    const name = this.aliases.get(alias) ?? alias;
    return this.servers.getOrInsertComputed(name, () => new Remote("peer", name));
  }

  private find(id: string): Remote | undefined {
    return id.includes(" ") ? this.clients.get(ownerOf(id), id) : this.getOrAddServer(id);
  }

  /** Returns the remote that introduces itself. */
  private remoteOf({ role, name, disk }: Introduction): Remote {
    const id = role === "peer" ? name : `${role} ${name} ${disk}`;
    return this.find(id) ?? new Remote(role, id);
  }

  // ------------------------------------------ Handshakes -----------------------------------------

  /** Resolves the addresses of a server, and begins a channel. */
  private async resolveAddresses(to: Remote): Promise<void> {
    to.resolvedAt = this.now;
    await Promise.all([...to.configured, ...to.learned].map(async (server) => {
      try {
        const host = await this.world.datagrams.resolve(server.host, this.socket.address);
        const address = { host, port: server.port };
        to.addresses.set(writeAddress(address), address);
        const { lastWarning: last } = to;
        const isSolved = last?.type === "unresolved" && last.server.host === server.host;
        if (isSolved) to.lastWarning = undefined;
        if (to.channels.length === 0) this.sendHello(to);
      } catch (error) {
        const { message: reason } = error as Error;
        this.warn({ type: "unresolved", server, reason }, to.id, to);
      }
    }));
  }

  /** Begins a channel with a server, or repeats the Hello at all its addresses. */
  private sendHello(to: Remote) {
    const { now } = this;
    if (to.role !== "peer" || now < to.helloAt + HELLO_EVERY_MS) return;
    const patienceMs = ATTEMPT_MS * Math.min(1 + to.failures, MAX_PATIENCE);
    if (to.begun && now >= to.begun.createdAt + patienceMs) {
      to.failures += 1;
      this.end(to.begun);
    }
    const begun = to.begun ??= this.beginChannel(to);
    for (const address of [...to.addresses.values(), to.address ?? []].flat()) {
      this.socket.send(begun.opening, address);
      to.helloAt = now;
    }
    // A silent server may have moved to a new address under the same host name.
    if (now >= to.resolvedAt + SILENT_MS) void this.resolveAddresses(to);
  }

  private beginChannel(to: Remote): Channel {
    const { credentials } = this;
    const credential = credentials[to.failures % credentials.length];
    assert(credential, "an endpoint has a key to begin a channel with");
    const ownId = drawId(this.world.random);
    const header = headerOf(HELLO, this.attempts += 1, HELLO_HEADER);
    header[BASIC_HEADER] = VERSION;
    header.set(credential.id, BASIC_HEADER + 1);
    const handshake = new Handshake(credential.key, header);
    const first = this.introduce(handshake, ownId, this.attempts);
    const hello = Buffer.concat([header, first]);
    const channel = new Channel(ownId, to.owner, credential.secret, hello, this.now, to, handshake);
    this.channels.set(ownId, channel);
    return channel;
  }

  /** Writes a message of a handshake. Its payload introduces this end. */
  private introduce(handshake: Handshake, channel: number, attempt: number): Buffer {
    const { self, handlers, world: { random } } = this;
    const introduction: Introduction = {
      ...self,
      members: shorten(self.members),
      founding: handlers.founding(),
      attempt,
      channel,
    };
    const fields = encoder.encode(introductionFields.map((field) => introduction[field]));
    const key = Uint8Array.from({ length: 32 }, () => 256 * random());
    return handshake.writeMessage(Buffer.concat([fields], INTRODUCTION_BYTES), key);
  }

  private onHello(hello: Buffer, address: Address) {
    const version = hello[BASIC_HEADER] ?? 0;
    if (version !== VERSION) {
      this.sendHint(hello, address);
      this.warn({ type: "version", address, version }, address.host);
      return this.drop("version");
    }
    // If this server read each Hello of a flood, no time would be left to empty the socket, and the
    // kernel would drop the packets of its peers.
    if (!this.admits("hello", READ_EVERY_MS, BURST_MS)) return this.drop("busy");
    const header = hello.subarray(0, HELLO_HEADER);
    const id = header.subarray(BASIC_HEADER + 1);
    for (const { secret } of this.credentials) {
      const handshake = new Handshake(deriveKey(secret, id), header);
      const other = readIntroduction(handshake.readMessage(hello.subarray(HELLO_HEADER)));
      // Only this role and name have the key of this id.
      if (!other || !keyIdOf(secret, other.role, other.cluster, other.name).equals(id)) continue;
      return this.answerHello(address, other, handshake, secret);
    }
    this.warn({ type: "unauthenticated", address }, address.host);
    this.drop("unauthenticated");
  }

  /** Answers with a Welcome. The channel counts once the sender confirms it. */
  private answerHello(
    address: Address,
    other: Introduction,
    handshake: Handshake,
    secret: string,
  ) {
    const { role, name } = other;
    const isReflected = role === "peer" && name === this.self.name;
    if (isReflected || this.self.role !== "peer") return this.drop("reflected");
    // A foreign sender gets a Welcome, too, so that both sides warn. It does not confirm.
    this.warnIfForeign(other, address);
    const remote = this.remoteOf(other);
    if (remote.hasConfirmed(other)) return this.drop("repeated");
    const { owner } = remote;
    // A recorded Hello takes one place and one key agreement, however often it is repeated.
    const same = this.halfOpen.get(owner, other.channel);
    if (same) return this.socket.send(same.opening, address);
    // A program with the secret can make up names, and each of them adds a limit to `allowedAt`.
    if (this.allowedAt.size >= MAX_ENTRIES) this.pruneRates();
    if (!this.admits(owner, AGREE_EVERY_MS, BURST_MS)) return this.drop("busy");
    const ownId = drawId(this.world.random);
    const second = this.introduce(handshake, ownId, 0);
    const welcome = Buffer.concat([headerOf(WELCOME, other.channel, BASIC_HEADER), second]);
    const channel = new Channel(ownId, owner, secret, welcome, this.now);
    Object.assign(channel, { other, id: other.channel });
    [channel.receiveKey, channel.sendKey] = handshake.split();
    this.channels.set(ownId, channel);
    const evicted = this.halfOpen.use(channel);
    if (evicted) this.end(evicted);
    this.socket.send(welcome, address);
  }

  /** Counts an event. Returns false if events of this kind come too often. */
  private admits(kind: string, everyMs: number, burstMs = 0): boolean {
    const { now } = this;
    const at = Math.max(this.allowedAt.get(kind) ?? -Infinity, now - burstMs);
    if (at <= now) this.allowedAt.set(kind, at + everyMs);
    return at <= now;
  }

  /** Forgets limits that allow a whole burst again. */
  private pruneRates() {
    for (const [kind, at] of this.allowedAt) {
      if (at < this.now - BURST_MS) this.allowedAt.delete(kind);
    }
  }

  private onWelcome(welcome: Buffer, address: Address) {
    const channel = this.channels.get(channelIn(welcome));
    const { remote: asked, handshake } = channel ?? {};
    if (!channel || !asked || !handshake) return this.drop("repeated");
    // A Welcome shows our id. If it is lost after an outsider has seen it, the outsider can forge
    // others with this id.
    if (!this.admits(`welcome ${asked.owner}`, AGREE_EVERY_MS, BURST_MS)) return this.drop("busy");
    const other = readIntroduction(handshake.readMessage(welcome.subarray(BASIC_HEADER)));
    if (other?.role !== "peer") return this.drop("unauthenticated");
    asked.begun = undefined;
    asked.failures %= this.credentials.length;
    Object.assign(channel, { other, id: other.channel, handshake: undefined });
    [channel.sendKey, channel.receiveKey] = handshake.split();
    // If another server than the asked one answers, and there is a working channel with it already,
    // this channel is ended. Example: B sends a Hello to C, which is dead. An outsider passes it on
    // to A, and sends A's Welcome to B from C's address. If B accepted it, B's messages for A would
    // go to C's address.
    const known = this.servers.get(other.name);
    const isReached = known !== asked && known?.channels.length
      && this.now < known.unansweredSince + SILENT_MS;
    if (isReached) this.end(channel);
    const to = isReached ? known : this.confirm(channel, other, address);
    if (!to) return;
    if (to !== asked) this.reassignAddress(asked, to, address);
    // A packet confirms the channel, even if no message waits.
    to.queue.push({ body: NOTHING, at: this.now });
    this.transmit(to);
  }

  /**
   * Takes a channel into use, now that the other end has proved that it is there. Returns that
   * remote, or undefined if the channel is refused.
   */
  private confirm(channel: Channel, other: Introduction, address: Address): Remote | undefined {
    const { role, name, disk, boot, attempt } = other;
    this.aliases.delete(name); // The name of a server is no alias of another one.
    this.halfOpen.delete(channel);
    const remote = this.remoteOf(other);
    const refusal = this.refusalOf(channel, remote, other, address);
    if (refusal) {
      this.end(channel);
      return void this.drop(refusal);
    }
    if (boot > remote.boot || disk !== remote.disk) { // Its first start, or another one.
      for (const old of remote.channels) this.end(old); // Their packets in flight are dropped.
      remote.disks.add(disk);
      Object.assign(remote, { disk, boot, bootedAt: this.now, attempt: 0 });
      if (role === "peer") this.handlers.onRestarted?.(other);
    }
    remote.attempt = Math.max(remote.attempt, attempt);
    channel.remote = remote;
    remote.moveTo(address, this.now);
    remote.addresses.clear(); // While it is heard, only its present address counts.
    remote.channels.unshift(channel);
    if (remote.queue.length > 0) { // Messages have waited for it.
      this.queued.add(remote);
      this.schedule();
    }
    for (const old of remote.channels.slice(MAX_CHANNELS)) this.end(old);
    this.recordHeard(remote);
    return remote;
  }

  /**
   * Returns why a channel is refused: the other end is of another cluster, or is outdated. Attempts
   * and boots are numbered, so an earlier one is outdated. Disks have no order. So a disk counts as
   * lost if another disk was confirmed during this handshake, or if another disk has replaced it
   * before. The exception to that: only one process at a time has an address, so if a replaced disk
   * answers at the address of the present one, the present one is gone. Example: A was started with
   * a wrong directory, and then again with the right one.
   */
  private refusalOf({ createdAt }: Channel, remote: Remote, other: Introduction, address: Address) {
    if (this.warnIfForeign(other, address)) return "foreign";
    const { name, disk, boot, attempt } = other;
    const isLate = attempt > 0 && remote.hasConfirmed(other); // It is 0 in a Welcome.
    const isElsewhere = !Bun.deepEquals(address, remote.address);
    const isLost = disk !== remote.disk
      && (createdAt < remote.bootedAt || (remote.disks.has(disk) && isElsewhere));
    const isEarlier = disk === remote.disk && boot < remote.boot;
    // The process at the other end took part in a handshake after another boot or disk of its name
    // was confirmed. So it is no recording: this process runs now, and probably the other one does,
    // too.
    if ((isLost || isEarlier) && createdAt > remote.bootedAt && remote.address) {
      this.warn({ type: "twice", server: name, address, other: remote.address }, name);
    }
    return isLate || isLost || isEarlier ? "outdated" : undefined;
  }

  /**
   * Returns whether the other end, a server or a client, is of another cluster. Warns if it is a
   * server.
   */
  private warnIfForeign({ cluster, role, name, members }: Introduction, address: Address): boolean {
    const own = shorten(this.self.members);
    // A server that joins a cluster has no list of founders.
    const differs = role === "peer" && own !== "" && members !== "" && members !== own;
    const isForeign = cluster !== this.self.cluster || differs;
    if (isForeign && role === "peer") {
      const event = { type: "foreign", server: name, address, cluster, members } as const;
      this.warn(event, name, this.getOrAddServer(name));
    }
    return isForeign;
  }

  private end(channel: Channel) {
    this.channels.delete(channel.ownId);
    const { remote } = channel;
    if (!remote) return;
    remote.channels = remote.channels.filter((other) => other !== channel);
    if (remote.begun === channel) remote.begun = undefined;
  }

  /**
   * Another server, `to`, has answered at an address of `asked`, so `asked` loses it. If `asked` is
   * only a word of a client's command line, which neither a channel nor the log has confirmed, it
   * becomes an alias of `to`.
   */
  private reassignAddress(asked: Remote, to: Remote, address: Address) {
    const isConfirmed = asked.boot !== 0 || asked.learned.length > 0;
    if (this.self.role === "peer" || isConfirmed) {
      asked.addresses.delete(writeAddress(address));
      if (Bun.deepEquals(asked.address, address)) asked.address = undefined;
      return;
    }
    to.configured = [...to.configured, ...asked.configured];
    to.queue.push(...asked.queue.splice(0));
    this.aliases.set(asked.id, to.id);
  }

  /** Answers a packet that this end cannot read. */
  private sendHint(packet: Buffer, address: Address) {
    if (!this.admits("hint", HINT_EVERY_MS)) return;
    const echo = packet.subarray(0, ECHO_BYTES);
    this.socket.send(Buffer.concat([Buffer.of(HINT, VERSION), echo]), address);
  }

  /** A Hint may be forged, so all it leads to is a Hello, or a warning. */
  private onHint(hint: Buffer, address: Address) {
    const [, version = 0] = hint;
    const echo = hint.subarray(2);
    for (const server of this.servers.values()) {
      const [channel] = server.channels;
      const isData = echo[0] === DATA && channel?.id === channelIn(echo);
      if (isData && packetNumberIn(echo) < channel.sent) this.sendHello(server);
      const isHello = server.begun?.opening.subarray(0, ECHO_BYTES).equals(echo);
      if (isHello && version !== VERSION) {
        this.warn({ type: "version", address, version }, address.host, server);
      }
    }
  }

  // ----------------------------------------- Data packets ----------------------------------------

  /** Sends the messages for a remote, if there is a channel. Begins one if it is needed. */
  private transmit(to: Remote) {
    const [channel] = to.channels;
    const { now } = this;
    // A message that has waited for a second is dropped: its sender repeats what it still wants.
    // Otherwise a command could be applied hours after the client was told that its outcome is
    // unknown.
    const queue = to.queue.splice(0).filter(({ at }) => now < at + SILENT_MS);
    // After a silence, a client first makes a new channel, because the server may have dropped the
    // old one. If the first copy of a command were lost with it, the server would see only the
    // retry. If it has also dropped the client's session, it refuses the retry, and the client
    // cannot tell whether the first copy was applied before. If the first copy itself is refused,
    // nothing was applied.
    if (!channel || (this.self.role !== "peer" && now >= to.heardAt + SILENT_MS)) {
      to.queue = queue.slice(-MAX_QUEUED);
      return this.sendHello(to);
    }
    const room = this.roomFor(to);
    // No group has more than MAX_MESSAGES, because the receiver takes no more of a packet.
    const bytesOf = ({ length }: Uint8Array) => Math.max(length, room / MAX_MESSAGES);
    for (const bodies of batches(queue.map(({ body }) => body), bytesOf, room)) {
      this.sendData(to, channel, bodies);
    }
    to.unansweredSince = Math.min(to.unansweredSince, now);
    const isOld = channel.sent >= RENEW_PACKETS || now >= channel.createdAt + RENEW_MS;
    if (isOld || now >= to.unansweredSince + SILENT_MS) this.sendHello(to);
  }

  private sendData({ address, former, movedAt }: Remote, channel: Channel, bodies: Uint8Array[]) {
    const { id, sendKey, sent } = channel;
    if (sent === 2 ** 32 - 1) return this.end(channel); // Its numbers are used up.
    const header = headerOf(DATA, id, DATA_HEADER);
    header.writeUInt32BE(sent, BASIC_HEADER);
    channel.sent += 1;
    const plaintext = [encoder.encode(this.handlers.founding()), ...bodies];
    const packet = encrypt(sendKey, sent, NOTHING, plaintext, header);
    if (address) this.socket.send(packet, address);
    if (former && this.now < movedAt + SILENT_MS) this.socket.send(packet, former);
  }

  private onData(packet: Buffer, address: Address) {
    const channel = this.channels.get(channelIn(packet));
    if (!channel?.other) {
      this.sendHint(packet, address);
      return this.drop("unknown");
    }
    const number = packetNumberIn(packet);
    if (!channel.accepts(number)) return this.drop("repeated");
    const plaintext = decrypt(channel.receiveKey, number, NOTHING, packet, DATA_HEADER);
    if (!plaintext) return this.drop("unauthenticated");
    const isNewest = channel.record(number);
    const from = channel.remote ?? this.confirm(channel, channel.other, address);
    if (!from) return;
    if (isNewest) from.moveTo(address, this.now);
    this.recordHeard(from);
    const [founding, ...bodies] = decodeAll(plaintext);
    if (!isNatural(founding)) return this.drop("malformed");
    const { role, id, disk } = from;
    const sender = { from: id, to: this.self.name, disk, founding };
    for (const body of bodies.slice(0, MAX_MESSAGES)) {
      let message = decodeMessage(role, sender, body);
      if (message?.type === "Part") {
        const whole = this.join(message, from);
        if (whole === "incomplete") continue;
        message = decodeMessage(role, sender, whole);
      }
      if (!message || message.type === "Part") this.drop("malformed");
      else this.handlers.onMessage(message, from);
    }
  }

  private recordHeard(from: Remote) {
    [from.heardAt, from.unansweredSince, from.lastWarning] = [this.now, Infinity, undefined];
    // If there are too many clients, the oldest of the name with most of them loses its channels.
    const evicted = from.role === "peer" ? undefined : this.clients.use(from);
    for (const channel of evicted?.channels ?? []) this.end(channel);
  }

  /**
   * Adds a part to its field. Returns "incomplete" while parts are missing, then the message, still
   * to be decoded. Returns undefined for a malformed part or message.
   */
  private join({ digest, size, offset, data, head }: Part, { id: from, owner }: Remote) {
    // All parts must be cut at the same offsets, which depend on the head's length. (They also
    // depend on the sender's room. If that has changed meanwhile, the digest is wrong, and a later
    // repetition is complete.)
    const id = `${from} ${digest} ${size} ${head.length}`;
    const end = offset + data.length;
    const isLarge = data.length >= MIN_PART_BYTES || end === size; // Small ones waste memory.
    if (size > MAX_FIELD_BYTES || end > size || !isLarge) return undefined;
    const field = this.incomplete.get(owner, id)
      ?? { owner, id, bytes: Buffer.alloc(size), offsets: new Set(), missing: size };
    if (!field.offsets.has(offset)) {
      field.offsets.add(offset);
      field.bytes.set(data, offset);
      field.missing -= data.length;
    }
    if (field.missing > 0) {
      this.incomplete.use(field);
      return "incomplete";
    }
    this.incomplete.delete(field);
    const { bytes } = field;
    const [values] = decodeAll(head);
    const isWhole = digestOf(bytes) === digest && Array.isArray(values);
    return isWhole ? values.map((value: unknown) => value ?? bytes) : undefined;
  }

  // ------------------------------------------- Warnings ------------------------------------------

  /**
   * Emits a warning at most once a minute for each subject. Those that outsiders can cause are left
   * out while `allowedAt` has MAX_WARNED limits.
   */
  private warn(event: EndpointEvent, subject: string, server?: Remote) {
    if (server) server.lastWarning = event;
    this.pruneRates();
    // Outsiders can cause only warnings without the name of a server.
    const isFull = this.allowedAt.size >= MAX_WARNED && !("server" in event);
    if (isFull || !this.admits(`${event.type} ${subject}`, WARN_EVERY_MS)) return;
    this.handlers.emit?.(event);
  }

  private drop(reason: string) {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + 1;
    if (reason === "unauthenticated") this.unauthenticatedAt = this.now;
  }
}

/** Lists names, as far as an introduction has room. */
const shorten = (members: readonly Name[]): string =>
  `${Buffer.from(members.join(", ")).subarray(0, MAX_MEMBERS_BYTES)}`;

// --------------------------------------- 18 A running node ---------------------------------------
// A node is a running server: the algorithm of Part I with a disk, a socket and a state machine. At
// the end of each turn of the event loop, one step carries out everything that arrived in it.
//
// Example: a client sends a command to A, the leader. A appends an entry, and notes the request by
// the entry's index (`append`). At the end of the turn, a step sends the entry to the followers B
// and C, and saves it (`endTurn`). Once B has acknowledged it, a step applies it, and A answers the
// request (`apply`).

export type NodeEvent =
  | Event
  | EndpointEvent
  /** The server has started with these members. `cutBytes` of an unfinished write were cut off. */
  | { type: "recovered"; cutBytes: number; members: Configuration }
  | { type: "members"; members: Configuration }
  /** The server is no longer a member, and stops after an election timeout. */
  | { type: "removed" };

/** Options of servers and clients alike. */
type CommonOptions = {
  /** The name of the cluster. Default: "raft". */
  cluster?: string;
  /**
   * The key of all servers and operators, of at least 32 characters. Only servers on loopback
   * addresses need none. Of several lines, all are accepted. A Hello uses the first, and after a
   * failure the next.
   */
  secret?: string;
  /** The timeout of a request. A command may first wait as long for a session. Default: 5000. */
  timeoutMs?: number;
  /**
   * The largest datagram to send, in bytes. Default: 1232, which fits every path of IPv6, and
   * on the loopback 60,000 on Linux and 8192 elsewhere. A larger message is sent in parts.
   */
  datagramBytes?: number;
  world?: World;
};

export type NodeOptions = CommonOptions & {
  /** Where this server listens: a name or an IP address of this machine. */
  host: string;
  port: number;
  /** The name that its peers use. Default: `host:port`. */
  name?: Name;
  /**
   * The other servers, each `HOST:PORT` or `NAME=HOST:PORT`. At their first start, this server and
   * they create the cluster together. Later starts use these addresses only to look for the
   * members.
   */
  peers: readonly string[];
  /** Waits to be added to the cluster of `peers` instead of founding one. */
  join?: boolean;
  /** Contains the log and the snapshot. Created if it doesn't exist. */
  directory: string;
  /** The state to replicate. */
  machine: StateMachine;
  /** As in `Settings`. Default: 1000. */
  electionTimeoutMs?: number;
  /** As in `Settings`. Default: 100. */
  heartbeatMs?: number;
  /** A log larger than this, and than the last snapshot, becomes a snapshot. Default: 8 MiB. */
  snapshotBytes?: number;
  /** Receives each event. An error that it throws stops the server. */
  onEvent?: (event: NodeEvent) => void;
};

/** The largest command or question, in bytes. */
export const MAX_COMMAND_BYTES = 64_000;
/** About what a packet, a message, an entry and a request take beside the commands, in bytes. */
const HEADROOM = 200;
/**
 * A turn applies about so many bytes of entries. `endTurn` raises the limit by the size of the
 * unsaved entries.
 */
const APPLY_BYTES = 64 << 10;
/** The slice of a snapshot or log that is written in a few milliseconds, between other work. */
const SLICE_BYTES = 128 << 10;
const SLICE_PAUSE_MS = 2;

function checkSize({ length }: Uint8Array): void {
  if (length <= MAX_COMMAND_BYTES) return;
  throw new RaftError(
    "refused",
    `Cannot send ${length} bytes: the limit is ${MAX_COMMAND_BYTES}. Nothing was sent. Split them.`,
  );
}

/** Refuses a size that no Hello fits, or that UDP does not carry. */
function checkDatagramBytes(bytes = MIN_DATAGRAM_BYTES): void {
  ensure(
    Number.isInteger(bytes) && bytes >= MIN_DATAGRAM_BYTES && bytes <= MAX_DATAGRAM_BYTES,
    `Cannot send datagrams of at most ${bytes} bytes. Choose a size from ${MIN_DATAGRAM_BYTES} to `
      + `${MAX_DATAGRAM_BYTES}.`,
  );
}

/** Addresses that stand for every interface of a machine. */
const ANY = ["0.0.0.0", "::"];

/** Requests of one client that may wait. More are dropped, and the client retries them. */
const MAX_WAITING = 4096;

function serverOf({ name, address }: Pick<Member, "name" | "address">): Server[] {
  const server = readServer(address);
  return server ? [{ ...server, name }] : [];
}

type ReadRequest = ClientMessage & { type: "Read" | "ReadIndex" | "Ready" };
/** A message to or from a client, without its sender, its receiver and its id. */
type Content<M = ClientMessage> = M extends ClientMessage ? Omit<M, "from" | "to" | "id"> : never;

/**
 * Returns the settings of a server's core. Throws a RaftError, "usage", if its times do not fit.
 */
function settingsOf(
  socket: Socket,
  {
    electionTimeoutMs = 1000,
    heartbeatMs = 100,
    datagramBytes = socket.datagramBytes(socket.address),
  }: NodeOptions,
  { name, disk, members }: Identity,
  servers: readonly Server[],
): Settings {
  ensure(
    heartbeatMs > 0 && 2 * heartbeatMs <= electionTimeoutMs,
    `With a heartbeat every ${heartbeatMs} ms and an election timeout of ${electionTimeoutMs} ms, `
      + "one lost heartbeat would cause an election. Make the timeout at least twice as long.",
  );
  const founders = members.map((founder) => {
    const server = servers.find((other) => other.name === founder);
    const isKnown = server && !ANY.includes(server.host);
    return { name: founder, address: isKnown ? writeAddress(server) : "", votes: true, disk: 0 };
  });
  return {
    name,
    disk,
    founders,
    electionTimeoutMs,
    heartbeatMs,
    batchBytes: datagramBytes - HEADROOM,
    // The followers' buffers are taken to be as large as ours. An eighth of one, because the kernel
    // counts more than the payload.
    windowBytes: socket.receiveBufferBytes / 8,
  };
}

export class Node {
  private readonly end = Promise.withResolvers<void>();
  /** Resolves when the server has stopped. Rejects with the reason if an error stopped it. */
  readonly stopped = this.end.promise;
  private readonly core: Raft;
  private readonly endpoint: Endpoint;
  private readonly client: Client;
  private sessions = new Sessions();
  /** The commit index that the disk knew at the start. */
  private readonly rememberedIndex: number;
  /** The option `snapshotBytes`. */
  private readonly snapshotThreshold: number;
  private readonly sliceBytes: number;
  /** The rest of the work on a snapshot that this server writes or installs. */
  private backgroundTask: Generator<void> | undefined;
  /** Leader: the request that waits for the entry at an index to be applied. */
  private readonly proposals = new Map<number, ClientMessage>();
  /** Leader: reads that wait for the core, in the order of `core.read`. */
  private readonly reads: ReadRequest[] = [];
  /** Follower: reads that came since the leader was last asked for its commit index. */
  private readonly followerReads: ReadRequest[] = [];
  private isAskingIndex = false;
  /** Follower: reads that wait until the entry at `index` is applied. */
  private readonly indexedReads: { index: number; reads: readonly ReadRequest[] }[] = [];
  private readiness: Promise<void> | undefined;
  /** The members as last reported to the program and the endpoint. */
  private members: Configuration;
  /**
   * The ids of commands, openings and reads that wait for a reply, by client, to ignore retries.
   */
  private readonly waiting = new Map<string, Set<number>>();
  /** The last request of each client for the status, in this turn. */
  private readonly inspections = new Map<string, ClientMessage>();
  /** Sender and id of the last request that began a leadership transfer, to know its retries. */
  private lastTransfer: string | undefined;
  /**
   * leaving: removed from the cluster, it still redirects clients for an election timeout.
   * transferring: told to stop, it first hands its leadership over.
   */
  private phase: "running" | "leaving" | "transferring" | "stopped" = "running";
  private leaderChanges = 0;
  private saves = 0;
  private saveMs = 0;
  /** The last ReadSnapshot: the entry that it needs, and its time. */
  private backup = { index: 0, at: -Infinity };
  private timerAt = Infinity;
  private cancelTimer = () => {};

  /**
   * Starts a server from its directory. Throws a RaftError: "usage" if the options contradict each
   * other, "network" if it cannot listen, "storage" if the directory is in use, damaged, not
   * writable, or of another server.
   */
  static async start(options: NodeOptions): Promise<Node> {
    const { host, port, peers, secret = "", cluster = "raft", world = systemWorld, join = false } =
      options;
    // An IPv6 address may have brackets.
    const at = parseServer(writeAddress({ host: host.replace(/^\[|\]$/g, ""), port }));
    const { name = at.name } = options;
    const servers = [{ ...at, name }, ...peers.map(parseServer)];
    const members = servers.map((server) => server.name);
    const distinct = new Set(servers.map(writeAddress)).size;
    ensure(
      Math.min(distinct, new Set(members).size) === members.length,
      `A server is listed twice, or its own peer: ${[name, ...peers].join(", ")}. List each once.`,
    );
    ensure(
      readServer(`${name}=any:1`) && isShortName(cluster), // Any address will do.
      "The name of the server or of the cluster is too long, or has a space, comma or equals sign. "
        + "Take one of at most 255 bytes.",
    );
    ensure(
      !join || peers.length > 0,
      "Cannot join a cluster without the addresses of some of its members. List them: --peers.",
    );
    checkDatagramBytes(options.datagramBytes);
    let node: Node | undefined;
    let storage: Storage | undefined;
    const socket = await world.datagrams.bind(
      at,
      (bytes, from) => node?.guard(() => node?.endpoint.receive(bytes, from)),
    );
    try {
      const { address } = socket;
      secretsOf(secret, address); // Throws if this address needs a secret.
      ensure(
        name !== at.name || !ANY.includes(address),
        `${address} stands for every address of this machine, so it cannot be a name. Give this `
          + "server the name that its peers use: --name HOST:PORT.",
      );
      const start = { cluster, name, members: join ? [] : members };
      storage = new Storage(world.files, options.directory, start, world.random);
      node = new Node(options, world, storage, socket, servers);
      return node;
    } catch (error) {
      storage?.close();
      socket.close();
      throw error;
    }
  }

  private constructor(
    private readonly options: NodeOptions,
    private readonly world: World,
    private readonly storage: Storage,
    socket: Socket,
    servers: readonly Server[],
  ) {
    const { timeoutMs = 5000, secret = "", datagramBytes } = options;
    const { identity, hardState, base, snapshot, cutBytes } = storage;
    this.rememberedIndex = hardState.commitIndex;
    this.snapshotThreshold = options.snapshotBytes ?? 8 << 20;
    // With small snapshots, as in tests, the slices are small, too, and inputs come between them.
    this.sliceBytes = Math.min(SLICE_BYTES, this.snapshotThreshold / 64);
    // From now on only the core holds the entries, so that compaction can free them.
    const entries = storage.entries.splice(0);
    const remembered = { ...hardState, base, entries, snapshot };
    const settings = settingsOf(socket, options, identity, servers);
    this.core = new Raft(settings, remembered, world.clock.now(), world.random);
    // Restores in one go: the server serves no client yet.
    for (const _ of snapshot ? this.restore() : []);
    this.endpoint = new Endpoint(
      world,
      socket,
      { ...identity, role: "peer" },
      {
        onTurnEnd: () => this.guard(() => this.endTurn()),
        onMessage: (message, sender) => this.onMessage(message, sender),
        founding: () => this.core.shownFounding,
        onRestarted: ({ name: peer, disk, founding }) => {
          this.core.onHeard(peer, disk, founding);
          this.core.onRestarted(peer, world.clock.now());
          this.endpoint.schedule();
        },
        emit: (event) => this.guard(() => this.emit(event)),
      },
      datagramBytes,
    );
    this.setSecret(secret);
    this.members = this.core.members;
    const names = new Set([...this.members, ...servers].map((server) => server.name));
    this.client = new Client(
      world,
      this.endpoint,
      [...names],
      timeoutMs,
      (request) => {
        // Requests of this server to itself need no datagram.
        if (request.to !== identity.name) return this.endpoint.send(request);
        this.guard(() => this.onClientMessage(request));
      },
    );
    this.emit({ type: "recovered", cutBytes, members: this.members });
    for (const peer of servers.slice(1)) void this.endpoint.resolvePeer(peer);
    this.endpoint.learnAddresses(this.members.flatMap(serverOf));
    this.endpoint.schedule();
  }

  /**
   * Replicates a command, applies it once, and resolves to its answer. A command that its session
   * refuses is moved to another session, once. Rejects with a RaftError:
   * - "refused" if the command has more than MAX_COMMAND_BYTES, or both sessions have refused it;
   * - "applied" if it was applied, but its answer has more than MAX_ANSWER_BYTES, or the session
   *   has no room for it;
   * - "timeout", "aborted", "stopped" or "closed" if it was not sent, or if one session has refused
   *   it and it was not sent in another;
   * - "outcomeUnknown" if it was sent, and no answer came, or if it was sent more than once before
   *   a copy was refused: another copy may have been applied, or may still be.
   */
  readonly propose = (command: Uint8Array, options?: CallOptions) =>
    this.client.propose(command, options);

  /**
   * Queries the state machine. The answer is linearizable: it reflects every command that any
   * server had answered before. Rejects with a RaftError: "refused" if question or answer is too
   * large or the state machine throws; "timeout", "aborted", "stopped" or "closed".
   */
  readonly read = (question: Uint8Array, { signal }: CallOptions = {}) =>
    this.client.read(question, { server: this.endpoint.self.name, signal });

  /**
   * Resolves once this server is up to date. The first use asks a leader for its commit index, and
   * the promise resolves when this server has applied all entries up to it. Later uses return the
   * same promise. Without a leader it waits forever. Rejects if the server stops before: with the
   * reason, or with a RaftError, "stopped".
   */
  get ready(): Promise<void> {
    return this.readiness ??= this.catchUp();
  }

  private async catchUp(): Promise<void> {
    const { client, endpoint: { self: { name } } } = this;
    try {
      await client.request({ type: "Ready" }, name, undefined, Infinity);
    } catch (error) {
      await this.stopped; // Rejects if there is a reason.
      throw error;
    }
  }

  /**
   * Adds a learner, which is promoted to voter once it has the log; corrects the address of a
   * member; or, if `address` is empty, removes a member. Resolves when the change is committed.
   * Rejects with a RaftError: "refused" if the name or address is malformed, if no voter would be
   * left, or if no majority would be reachable and `force` is not set; "outcomeUnknown" as in
   * `propose`.
   */
  readonly changeMembers = (name: Name, address = "", force = false) =>
    this.client.changeMembers(name, address, force);

  /**
   * Replaces the secret, which may have several lines, as in the option. Ends the channels that
   * were made with a line that is gone. To rotate a secret, put the new line second on all servers,
   * then first, then remove the old one.
   */
  setSecret(secret: string): void {
    const { self: { cluster, name }, socket: { address } } = this.endpoint;
    const lines = secretsOf(secret, address);
    this.endpoint.rotate(lines.map((line) => credentialOf(line, "peer", cluster, name)));
  }

  /**
   * Describes this server and its peers, for people. `silentMs` is the time since it heard a
   * leader, voted for a candidate or began to wait for a leader, `heardMs` the time since it heard
   * a peer, `unauthenticatedMs` the time since it dropped a packet of another secret.
   * `snapshotBytes` is the size of the last snapshot, not the option. Three values count from the
   * start: `saves` is the number of writes to the log, `saveMs` the time that they took together,
   * `leaderChanges` the number of leaders seen. Unknown values are null.
   */
  status() {
    const { core, members, endpoint, storage: { identity } } = this;
    const msSince = (time: number) =>
      Number.isFinite(time) ? Math.round(this.world.clock.now() - time) : null;
    const { role, currentTerm: term, votedFor, leader, log, commitIndex, lastApplied } = core;
    const { lastIndex, lastTerm } = log;
    const followers = role.name === "Leader" ? role.followers : undefined;
    const peers = members.filter(({ name }) => name !== identity.name).map((member) => {
      const { name, votes: isVoter } = member;
      const { matchIndex = null, stuck = null } = followers?.get(name) ?? {};
      return {
        isVoter,
        ...endpoint.peerStatus(name),
        matchIndex,
        stuck,
        founding: core.foundings.get(name) ?? null,
        usesNamedDisk: core.usesNamedDisk(member),
      };
    });
    return structuredClone({
      ...identity,
      ...core.settings,
      members,
      role: role.name,
      term,
      votedFor: votedFor ?? null,
      leader: leader ?? null,
      lastIndex,
      lastTerm,
      commitIndex,
      lastApplied,
      unsaved: lastIndex - log.savedIndex,
      snapshotIndex: core.snapshot.index,
      snapshotBytes: core.snapshot.size,
      proposals: this.proposals.size,
      leaderChanges: this.leaderChanges,
      saves: this.saves,
      saveMs: this.saveMs,
      votes: "votes" in role ? role.votes.size : null,
      needed: core.majority,
      founding: core.founding,
      silentMs: followers ? null : msSince(core.heardAt),
      logBytes: log.bytes(1, lastIndex),
      peers,
      dropped: endpoint.dropped,
      unauthenticatedMs: msSince(endpoint.unauthenticatedAt),
    });
  }

  /**
   * Hands leadership over, if this server leads, to `target` or to the first active voter that has
   * the whole log. Returns whether the transfer begins. If it succeeds, the event `leader`
   * follows. Without that event this leader goes on after an election timeout, but the other server
   * may still take over.
   */
  transfer(target?: Name): boolean {
    this.endpoint.schedule();
    return this.core.transfer(target) === undefined;
  }

  /**
   * Stops serving, and releases socket and directory. A leader first hands its leadership over, for
   * an election timeout at most; a second call stops it immediately. With a reason, `stopped`
   * rejects.
   */
  stop(reason?: unknown): Promise<void> {
    const { phase } = this;
    if (phase === "stopped") return this.stopped;
    const transfers = reason === undefined && phase !== "transferring" && this.transfer();
    this.phase = transfers ? "transferring" : "stopped";
    if (transfers) return this.stopped;
    if (reason === undefined) this.end.resolve();
    else this.end.reject(reason);
    this.cancelTimer();
    this.client.abandonAll("stopped");
    this.endpoint.socket.close();
    this.storage.close();
    // Ends the background task, so that the state machine's snapshot can clean up. Not now, because
    // that task may have called `stop`, and a generator cannot be ended while it runs.
    this.world.clock.defer(() => this.backgroundTask?.return(undefined));
    return this.stopped;
  }

  /** Lets `await using` stop the server at the end of a block. */
  readonly [Symbol.asyncDispose] = () => this.stop();

  /** Stops the server if `action` throws: after a storage error it can promise nothing. */
  private guard(action: () => void) {
    try {
      if (this.phase !== "stopped") action();
    } catch (error) {
      // Without a reason, `stop` would first hand leadership over.
      void this.stop(error ?? new Error("undefined was thrown"));
    }
  }

  private emit(event: NodeEvent) {
    // The requests of this server's program go to the new leader.
    if (event.type === "leader" && event.to !== undefined) {
      this.leaderChanges += 1;
      this.client.retryAll(event.to);
    }
    this.options.onEvent?.(structuredClone(event)); // A copy: the program may change it.
  }

  /** Ends a turn: carries out the core's next step, then what else the turn has brought. */
  private endTurn() {
    const { core, endpoint } = this;
    this.client.sendCommands();
    // Redirects clients before the step, which may apply another leader's entries at the indexes
    // that they wait for.
    if (core.role.name !== "Leader") this.redirectAll();
    // Chunks are written at once, before the step acknowledges them.
    if (core.incoming?.unwritten.length) this.runInSlices(this.receiveSnapshot(core.incoming));
    // The limit grows with the entries that this turn has brought. With a fixed limit, a follower
    // that gets more than that in each turn would fall further and further behind.
    const unsavedBytes = core.log.bytes(core.log.savedIndex + 1, core.log.lastIndex);
    for (const effect of core.step(APPLY_BYTES + unsavedBytes)) this.carryOut(effect);
    for (const request of this.inspections.values()) {
      this.answer(request, Buffer.from(JSON.stringify(this.status())));
    }
    this.inspections.clear();
    if (!this.isAskingIndex && this.followerReads.length > 0) void this.requestReadIndex();
    if (!this.backgroundTask && core.isSnapshotDue(this.snapshotThreshold, this.logLimitFactor())) {
      core.incoming = undefined; // The new snapshot overwrites one that has arrived in part.
      this.runInSlices(this.writeSnapshot());
    }
    endpoint.flush();
    for (const event of core.events.splice(0)) this.emit(event);
    for (const peer of core.portProbes.splice(0)) {
      endpoint.probePort(peer, () => {
        endpoint.schedule();
        core.onPortClosed(peer, this.world.clock.now());
      });
    }
    this.updateMembers();
    this.leaveIfRemoved();
    if (this.phase === "transferring" && !core.transferTarget) return void this.stop();
    if (core.needsStep) endpoint.schedule();
    this.setTimer();
  }

  /**
   * Returns the factor for the usual limit of the log. It is 0, so a snapshot follows immediately,
   * if a backup needs an entry that the last snapshot lacks. It is 4 during a backup, because with
   * a new snapshot the backup would start again.
   */
  private logLimitFactor() {
    const { core: { snapshot, lastApplied, settings }, backup: { index, at }, world } = this;
    if (snapshot.index < index && index <= lastApplied) return 0;
    return world.clock.now() < at + settings.electionTimeoutMs ? 4 : 1;
  }

  private carryOut(effect: Effect) {
    if (effect.type === "send") {
      for (const message of effect.messages) this.sendMessage(message);
      this.endpoint.flush();
    } else if (effect.type === "save") {
      const before = this.world.clock.now();
      this.storage.save(effect.unsaved);
      this.saves += 1;
      this.saveMs += this.world.clock.now() - before;
    } else {
      for (const entry of effect.entries) this.apply(entry);
      this.answerReads(effect.reads);
    }
  }

  private updateMembers() {
    const { core: { members }, members: before } = this;
    if (members === before) return;
    this.members = members;
    this.endpoint.learnAddresses(members.flatMap(serverOf));
    // A list from an installed snapshot may be equal to the one before, and a program need not know
    // that only a disk has changed. So the event is emitted only if a name, an address or a vote
    // has changed.
    const shown = (list: Configuration) => JSON.stringify(list, ["name", "address", "votes"]);
    if (shown(members) !== shown(before)) this.emit({ type: "members", members });
  }

  /** Stops after an election timeout, so that clients can still learn of the other servers. */
  private leaveIfRemoved() {
    const { isRemoved, role, settings } = this.core;
    if (!isRemoved || this.phase !== "running" || role.name === "Leader") return;
    this.phase = "leaving";
    this.emit({ type: "removed" });
    this.world.clock.setTimer(settings.electionTimeoutMs, () => void this.stop());
  }

  private setTimer() {
    const { clock } = this.world;
    // An earlier timer may stay: a tick before `wakeAt` does no harm.
    if (this.core.wakeAt >= this.timerAt) return;
    this.cancelTimer();
    this.timerAt = this.core.wakeAt;
    // If this process stood still, the timer fires before the socket is read, and one reading may
    // not empty the socket. So the tick comes after two, and a leader that was not silent is not
    // deposed.
    const tick = () => {
      this.timerAt = Infinity;
      this.core.tick(clock.now());
      this.endTurn();
    };
    const wake = () => clock.defer(() => clock.defer(() => this.guard(tick)));
    this.cancelTimer = clock.setTimer(Math.max(0, this.timerAt - clock.now()), wake);
  }

  /** Sends a message. A request's id is its time in µs, so its reply shows the round trip. */
  private sendMessage(message: Message) {
    if (!message.type.endsWith("Reply")) message.id = Math.floor(this.world.clock.now() * 1000);
    if (message.type === "InstallSnapshot") {
      message.data = this.storage.readChunk(message.offset, message.data.length);
    }
    this.endpoint.send(message);
  }

  private onMessage(message: Message | ClientMessage, sender: Remote) {
    this.endpoint.schedule();
    if (!("term" in message)) {
      // A server may be the client, too: it sends the requests of the program that embeds it. So a
      // request or reply from a server of another founding is dropped. Clients without a server
      // show 0.
      const [own, other = 0] = [this.core.shownFounding, message.founding];
      const isForeign = own > 0 && other > 0 && own !== other;
      return isForeign ? undefined : this.onClientMessage(message);
    }
    const now = this.world.clock.now();
    const { type, id } = message;
    if (type.endsWith("Reply")) sender.roundTripMs = Math.round(now - id / 1000);
    this.core.receive(message, now);
  }

  private onClientMessage(m: ClientMessage) {
    switch (m.type) {
      case "Inspect":
        return void this.inspections.set(m.from, m);
      case "ChangeMembers":
        return this.changeMembersFor(m);
      case "Transfer":
        return this.transferLeadership(m);
      case "ReadSnapshot":
        return this.answerBackup(m);
      case "Answer":
      case "Refused":
      case "NotLeader":
      case "Outcomes":
        return this.client.onAnswer(m);
    }
    const waiting = this.waiting.getOrInsertComputed(m.from, () => new Set());
    if (waiting.has(m.id) || waiting.size >= MAX_WAITING) return;
    waiting.add(m.id);
    if (m.type === "Commands") {
      // An entry that no AppendEntries can carry would hold up all later ones. `m.commands` is the
      // encoded list, so its length is in bytes.
      const isLarge = m.commands.length > MAX_COMMAND_BYTES + COMMAND_OVERHEAD;
      if (isLarge) this.refuse(m, "it is too large");
      else this.append("commands", clientMessages.Commands.map((field) => m[field]), m);
    } else if (m.type === "OpenSession") {
      this.append("session", [m.nonce, drawId(this.world.random)], m);
    } else if (this.core.read()) this.reads.push(m);
    else if (m.type !== "ReadIndex" && this.core.leader !== undefined) this.followerReads.push(m);
    else this.redirect(m);
  }

  /**
   * Asks the leader for its commit index, so that this follower can serve reads itself (thesis
   * §6.4). One such request is in flight at a time. Reads that arrive later wait for the next one,
   * because an index confirms only reads that came before it was asked for.
   */
  private async requestReadIndex(): Promise<void> {
    const reads = this.followerReads.splice(0);
    this.isAskingIndex = true;
    try {
      const index = Number(`${await this.client.request({ type: "ReadIndex" })}`);
      this.indexedReads.push({ index, reads });
    } catch {
      for (const read of reads) this.redirect(read);
    }
    this.isAskingIndex = false;
    this.endpoint.schedule();
  }

  /** Appends an entry with these values. The request is answered once the entry is applied. */
  private append(kind: Entry["kind"], values: readonly unknown[], request: ClientMessage) {
    const data = encodeAll([[ownerOf(request.from), ...values]]);
    const index = this.core.propose(kind, data);
    if (index !== undefined) this.proposals.set(index, request);
    else this.redirect(request);
  }

  private changeMembersFor(request: ClientMessage & { type: "ChangeMembers" }) {
    const { core } = this;
    const { name, address, force } = request;
    // The name must fit the syntax of `--peers`. A removal has no address, so any will do.
    const server = readServer(`${name}=${address || "any:1"}`);
    if (!server) return this.refuse(request, `"${name}=${address}" is not NAME=HOST:PORT`);
    const change = core.changeMembers(name, address, force);
    if (!change) return this.redirect(request);
    if ("refused" in change) return this.refuse(request, change.refused);
    this.proposals.set(change.index, request);
  }

  /**
   * Hands over, once per request: an attempt blocks writes for up to an election timeout, so a
   * retry does not start another. After the attempt, the answer to a retry is the name of the
   * leader: the next one, or still this server.
   */
  private transferLeadership(request: ClientMessage & { type: "Transfer" }) {
    const { core, endpoint: { self: { name } } } = this;
    const { leader, name: target, from, id } = request;
    if (core.role.name !== "Leader") return this.redirect(request);
    if (leader !== name) { // The server that should hand over does not lead: this one does.
      if (target && target !== name) return this.refuse(request, `${name} leads already`);
      return this.answer(request, Buffer.from(name));
    }
    const transfer = `${from} ${id}`; // The same for a retry.
    if (this.lastTransfer !== transfer) {
      if (core.transferTarget) return this.refuse(request, "it is handing over");
      const refusal = core.transfer(target || undefined);
      if (refusal) return this.refuse(request, refusal.refused);
      this.lastTransfer = transfer;
    }
    if (core.transferTarget) return this.redirect(request);
    this.answer(request, Buffer.from(name)); // The attempt has failed.
  }

  /**
   * Answers with a part of the snapshot. Until this server has applied entry `index`, it does not
   * answer, and the client keeps asking.
   */
  private answerBackup(request: ClientMessage & { type: "ReadSnapshot" }) {
    const { core: { snapshot, lastApplied } } = this;
    const { index, offset } = request;
    this.backup = { index, at: this.world.clock.now() };
    if (lastApplied < index) return;
    const snapshotIndex = snapshot.index < index ? 0 : snapshot.index;
    // Half of the largest answer leaves room for the index.
    const data = snapshotIndex ? this.storage.readChunk(offset, MAX_ANSWER_BYTES / 2) : NOTHING;
    this.answer(request, encodeAll([snapshotIndex, data]));
  }

  private apply(entry: Entry) {
    const { index } = entry;
    const isReplay = index <= this.rememberedIndex;
    const [applied] = readRequests(entry).map((request) =>
      this.sessions.apply(index, request, this.options.machine, isReplay)
    );
    const request = this.proposals.get(index);
    if (!request) return;
    this.proposals.delete(index);
    if (!applied) this.answer(request, NOTHING); // The change of members is committed.
    else if ("refused" in applied) this.refuse(request, applied.refused);
    else this.answerCommands(request, applied);
  }

  private answerCommands(request: ClientMessage, all: readonly Outcome[]) {
    const bytesOf = ({ length }: Outcome) => COMMAND_OVERHEAD + length;
    let first = 0;
    for (const outcomes of batches(all, bytesOf, this.core.settings.batchBytes)) {
      this.reply(request, { type: "Outcomes", first, outcomes: encodeAll(outcomes) });
      first += outcomes.length;
    }
  }

  /**
   * Does long work in slices, so that heartbeats go on between them. The first slice runs before
   * this returns. A task that still writes is abandoned first. That is safe between slices, because
   * a file that is not finished is never used. A task that restores is never abandoned: until it is
   * done, the core takes no chunk.
   */
  private runInSlices(task: Generator<void>) {
    this.backgroundTask?.return(undefined);
    this.backgroundTask = task;
    const next = (): void => {
      if (task !== this.backgroundTask) return;
      if (task.next().done) this.backgroundTask = undefined;
      else this.world.clock.setTimer(SLICE_PAUSE_MS, () => this.guard(next));
    };
    next();
  }

  /** Writes a snapshot of the present state. Later entries are applied between its slices. */
  private *writeSnapshot(): Generator<void> {
    const { core, core: { lastApplied }, storage, sessions, options: { machine } } = this;
    const { index, term } = core.log.at(lastApplied);
    const membership = core.log.membership(lastApplied);
    const head: LogRecord = { index, term, kind: "metadata", data: NOTHING, membership };
    const state = machine.snapshot();
    checked("the result of snapshot", state, Symbol.iterator in Object(state));
    const sessionRecords = sessions.snapshot();
    const record = (kind: "session" | "state", chunk: Uint8Array): LogRecord => {
      // A copy, because the state machine may reuse the bytes for its next chunk.
      return { index, term, kind, data: Buffer.from(checked("a chunk of snapshot", chunk)) };
    };
    function* records(): Generator<LogRecord> {
      yield head;
      for (const each of sessionRecords) yield record("session", encoder.encode(each));
      for (const chunk of state) yield record("state", chunk);
      yield head;
    }
    let at = 0;
    for (const group of batches(records(), sizeOf, this.sliceBytes)) {
      at = storage.writeDraft(at, encodeFrame(group));
      yield;
    }
    yield* this.switchSnapshot();
  }

  /** Writes the chunks of a snapshot that have arrived. After the last one, installs it. */
  private *receiveSnapshot({ unwritten, offset, from }: IncomingSnapshot): Generator<void> {
    const bytes = Buffer.concat(unwritten.splice(0));
    this.storage.writeDraft(offset - bytes.length, bytes);
    if (!this.core.isInstalling) return;
    // The usual advice, to restore the disk, would be wrong: if this draft is damaged, only the
    // draft is, and the next start removes it.
    yield* this.restore(
      `Server ${from} has sent it. Start this server again. If that fails, too, restart ${from}, `
        + "which then checks its own snapshot.",
    );
    yield* this.switchSnapshot();
  }

  /** Replaces sessions and state machine by those of the draft; at the start, of the snapshot. */
  private *restore(advice?: string): Generator<void> {
    const sessions = new Sessions();
    const take = this.options.machine.restore();
    checked("the result of restore", take, typeof take === "function");
    for (const slice of this.storage.readSnapshot(advice)) {
      for (const { kind, data } of slice) {
        if (kind === "session") { for (const each of readSession(data)) sessions.restore(each); }
        if (kind !== "state") continue;
        const result: unknown = take(data);
        ensure(
          !(result instanceof Promise),
          "Cannot restore this state machine: the function that restore returns is async. "
            + "Take each chunk before it returns.",
        );
      }
      yield;
    }
    this.sessions = sessions;
  }

  /**
   * Replaces the previous snapshot, on the disk and in memory. Then shortens the log. If it keeps
   * no entry, `rewriteLog` does not yield, so no save can go into the old log meanwhile.
   */
  private *switchSnapshot(): Generator<void> {
    const { core, storage, core: { log } } = this;
    core.onSnapshot(storage.installDraft(), this.snapshotThreshold / 4);
    this.endpoint.schedule();
    const entries = log.slice(log.baseIndex + 1, log.savedIndex);
    yield* storage.rewriteLog(log.at(log.baseIndex), entries, this.sliceBytes);
  }

  private answerReads(count: number) {
    const { core, indexedReads, reads } = this;
    assert(count <= reads.length, "every read belongs to a request");
    for (const read of reads.splice(0, count)) this.answerRead(read);
    const isReady = () =>
      !core.isInstalling && indexedReads[0] && indexedReads[0].index <= core.lastApplied;
    while (isReady()) indexedReads.shift()?.reads.forEach((read) => this.answerRead(read));
  }

  private answerRead(m: ReadRequest) {
    const { core: { lastApplied }, options: { machine } } = this;
    try {
      const answer = m.type === "Read"
        ? checked("the answer of query", machine.query(m.question))
        : Buffer.from(`${lastApplied}`); // At least the commit index when the question came.
      if (answer.length > MAX_ANSWER_BYTES) this.refuse(m, tooLarge(answer));
      else this.answer(m, answer);
    } catch (error) {
      this.refuse(m, describeThrown(error));
    }
  }

  /**
   * Redirects the clients that wait for this server as the leader: it may never commit for them.
   */
  private redirectAll() {
    const requests = [...this.proposals.values(), ...this.reads.splice(0)];
    this.proposals.clear();
    for (const request of requests) this.redirect(request);
  }

  private answer(request: ClientMessage, answer: Uint8Array) {
    this.reply(request, { type: "Answer", answer });
  }

  /** Refuses a request. A receiver would drop a text that is too large or malformed. */
  private refuse(request: ClientMessage, text: string) {
    const reason = `${Buffer.from(text).subarray(0, MAX_ANSWER_BYTES)}`;
    this.reply(request, { type: "Refused", reason });
  }

  /**
   * Names the leader, if this server knows it, and all members. A leader that cannot act yet names
   * itself, or the server that it hands over to, and the client asks again.
   */
  private redirect(request: ClientMessage) {
    const leader = this.core.transferTarget ?? this.core.leader ?? "";
    const servers = this.endpoint.addressesOf(this.members, request.from);
    this.reply(request, { type: "NotLeader", leader, servers });
  }

  private reply(request: ClientMessage, content: Content) {
    const { endpoint, endpoint: { self: { name: from } } } = this;
    const { from: to, id } = request;
    const waiting = this.waiting.get(to);
    waiting?.delete(id);
    if (waiting?.size === 0) this.waiting.delete(to);
    const message = { ...content, from, to, id };
    if (to === from) this.client.onAnswer(message);
    else endpoint.send(message);
  }
}

// ------------------------------------------ 19 Clients -------------------------------------------
// A client finds the leader, follows it when it changes, and retries requests that get no answer.
//
// Example: the client asks A, which names B as the leader (NotLeader). The client asks B. B copies
// the command to C, and crashes before it answers. The client asks the servers in turn. By then C
// leads, and appends the retry as another entry. When C applies that entry, its table of sessions
// already has an outcome for the sequence number. So C answers with this outcome, and does not
// apply the command again (thesis §6.3).

/** The most servers that a client may ask: the last ones that it has heard of. */
const MAX_SERVERS = 64;
/** How often timeouts and retries are checked. */
const TICK_MS = 10;
/** Time until the first retry of a request. Later retries follow after half of it. */
const RETRY_MS = 100;

export type ClientOptions = CommonOptions & {
  /** Some servers of the cluster, each `HOST:PORT` or `NAME=HOST:PORT`. */
  servers: readonly string[];
  /** The result of `clientKey`, in place of cluster, name and secret. May have several lines. */
  clientKey?: string;
  /** The name of an operator, a client with the secret. Default: "operator". */
  name?: Name;
};

/** Options of one call. */
export type CallOptions = {
  /** Ends the call when it is aborted. A command that was sent may still be applied. */
  signal?: AbortSignal | undefined;
};

/** The caller of `propose` or of another request. */
type Caller = {
  resolve(answer: Buffer): void;
  reject(error: unknown): void;
  /** The command that it proposed. Other requests leave it empty. */
  command: Buffer;
  /** Set once the command was moved to another session, which happens at most once. */
  wasMoved: boolean;
};

type PendingRequest = {
  id: number;
  content: Content;
  /** The only server that may be asked. Default: the `target` of the client. */
  server: Name | undefined;
  deadlineAt: number;
  /** One caller per command; other requests have one. Undefined once settled. */
  callers: (Caller | undefined)[];
  /** Callers that are not settled. */
  missing: number;
  /**
   * The server that it was last sent to. If that is still the `target` of the client when a retry
   * is due, this server has failed, and the client tries the next one. Undefined once a redirect
   * has named a leader.
   */
  triedServer: Name | undefined;
  retryAt: number;
  attempts: number;
};

const ABORTED = "The call was aborted";
const CLOSED = { closed: "The client was closed", stopped: "The server has stopped" };
const ADVICE = {
  outcomeUnknown:
    ": the request may have been carried out, or may still be. Check before you repeat it.",
  timeout: ". Check that a majority of the servers runs, with this secret and cluster.",
  aborted: ": nothing was done. Repeat it without this signal.",
  closed: ": nothing was done. Connect another one.",
  stopped: ": nothing was done. Start it again, or ask another one.",
};

/** A client of the cluster. It sends new commands in its current session. */
export class Client {
  private readonly pending = new Map<number, PendingRequest>();
  /**
   * Starts at random. Example: server A sends a request of its own program, with id 1, and
   * restarts. If A began at 1 again, the leader would take A's next request for a retry, and A
   * would take the old answer for the new one.
   */
  private lastId: number;
  /** The current session. While it is undefined, commands wait until another session opens. */
  private session: number | undefined;
  private isOpening = false;
  /** Commands that are in no request yet. */
  private commands: Caller[] = [];
  /** The sequence number of the last request of commands. It rises also across sessions. */
  private sequence = 0;
  /** The server to send to: the leader, as far as this client knows. */
  private target: Name;
  private isTicking = false;
  private closed: keyof typeof CLOSED | undefined;
  /** The founding of the cluster that has answered (section 11); 0 before that. */
  private founding = 0;
  /** Why the last reply of a server was no answer, in words. */
  private readonly lastReplies = new Map<Name, string>();

  /** Programs use `connect`. At the end of each turn, the owner calls `sendCommands`. */
  constructor(
    private readonly world: World,
    private readonly endpoint: Endpoint,
    private servers: readonly Name[],
    private readonly timeoutMs: number,
    private readonly send: (request: ClientMessage) => void,
  ) {
    this.lastId = Math.floor(world.random() * 2 ** 47);
    this.target = servers[0] ?? "";
  }

  /** Opens a socket and resolves the servers. Throws a RaftError, "usage" or "network". */
  static async connect(options: ClientOptions): Promise<Client> {
    const { secret = "", cluster = "raft", name = "operator", clientKey } = options;
    const { timeoutMs = 5000, world = systemWorld } = options;
    const credentials = clientKey === undefined
      ? secretsOf(secret).map((line) => credentialOf(line, "operator", cluster, name))
      : clientKey.trim().split("\n").map(readClientKey);
    const servers = options.servers.map(parseServer);
    ensure(servers.length > 0, "A client needs at least one server to ask.");
    checkDatagramBytes(options.datagramBytes);
    const [own] = credentials;
    assert(own, "a client has a key");
    const self = { ...own, members: [], disk: drawId(world.random), boot: 1 };
    // The socket has the family of the first server that resolves.
    const first = Promise.any(servers.map(({ host }) => world.datagrams.resolve(host)));
    const host = isIPv6(await first.catch(() => "")) ? "::" : "0.0.0.0";
    const socket = await world.datagrams.bind(
      { host, port: 0 },
      (bytes, from) => endpoint.receive(bytes, from),
    );
    const endpoint: Endpoint = new Endpoint(world, socket, self, {
      onTurnEnd() {
        client.sendCommands();
        endpoint.flush();
      },
      onMessage: (m) => client.onAnswer(m as ClientMessage),
      founding: () => 0,
    }, options.datagramBytes);
    endpoint.rotate(credentials);
    const names = servers.map((server) => server.name);
    const send = endpoint.send.bind(endpoint);
    const client: Client = new Client(world, endpoint, names, timeoutMs, send);
    await Promise.race(servers.map((server) => endpoint.resolvePeer(server)));
    return client;
  }

  /** As `Node.propose`. */
  propose(command: Uint8Array, { signal }: CallOptions = {}): Promise<Uint8Array> {
    return this.call(signal, (caller) => {
      checkSize(command);
      caller.command = Buffer.from(command);
      this.commands.push(caller);
    });
  }

  /** Begins a call, and ends it early if `signal` is aborted. */
  private call(signal: AbortSignal | undefined, begin: (caller: Caller) => void): Promise<Buffer> {
    let caller!: Caller;
    const called = new Promise<Buffer>((resolve, reject) => {
      caller = { resolve, reject, command: NOTHING, wasMoved: false };
      if (this.closed) throw this.failure(this.closed, CLOSED[this.closed]);
      if (signal?.aborted) throw this.failure("aborted", ABORTED);
      begin(caller);
      this.endpoint.schedule();
    });
    if (signal) {
      const abort = () => this.abort(caller);
      signal.addEventListener("abort", abort);
      const release = () => signal.removeEventListener("abort", abort);
      called.then(release, release);
    }
    return called;
  }

  /** Ends a call. A request with commands of other callers goes on. */
  private abort(caller: Caller) {
    const request = this.pending.values().find(({ callers }) => callers.includes(caller));
    caller.reject(this.failure("aborted", ABORTED, request));
    if (request) this.takeCaller(request, request.callers.indexOf(caller));
    this.commands = this.commands.filter((other) => other !== caller);
  }

  /** Sends the commands of this turn, in each request as many as fit one datagram. */
  sendCommands(): void {
    const { session } = this;
    if (this.commands.length === 0) return;
    if (session === undefined) return void this.openSession();
    // The sequence number of the session's first pending request, or of its next one. All requests
    // before it are settled, because `pending` is in the order of their numbers.
    const [firstPending = this.sequence + 1] = this.pending.values().flatMap(({ content }) =>
      content.type === "Commands" && content.session === session ? [content.sequence] : []
    );
    const target = this.endpoint.getOrAddServer(this.target);
    const room = Math.min(this.endpoint.roomFor(target) - HEADROOM, MAX_COMMAND_BYTES);
    const bytesOf = ({ command }: Caller) => COMMAND_OVERHEAD + command.length;
    for (const batch of batches(this.commands.splice(0), bytesOf, room)) {
      // While a request is unanswered, the session keeps all later outcomes, and gets full. A full
      // session refuses requests. For a request that was sent more than once, the outcome is then
      // unknown. So when it is half full, later requests go into another session.
      if (this.sequence - firstPending >= MAX_UNACKNOWLEDGED / 2) {
        this.commands.push(...batch);
        continue;
      }
      const sequence = this.sequence += 1;
      const commands = encodeAll(batch.map(({ command }) => command));
      const request = { session, sequence, acknowledged: firstPending - 1, commands };
      this.start({ type: "Commands", ...request }, batch);
    }
    if (this.commands.length > 0) void this.openSession();
  }

  private async openSession(): Promise<void> {
    if (this.isOpening) return;
    this.isOpening = true;
    const waiting = new Set(this.commands);
    try {
      const nonce = drawId(this.world.random);
      this.session = Number(`${await this.request({ type: "OpenSession", nonce })}`);
    } catch (error) {
      for (const { reject } of waiting) reject(error);
      // Later commands have not waited for the whole timeout. They wait for another attempt.
      this.commands = this.commands.filter((caller) => !waiting.has(caller));
    }
    this.isOpening = false;
    this.endpoint.schedule();
  }

  /**
   * As `Node.read`: answered by `server`, by default by the server that it takes for the leader.
   */
  async read(
    question: Uint8Array,
    { server, signal }: CallOptions & { server?: Name } = {},
  ): Promise<Uint8Array> {
    checkSize(question);
    return await this.request({ type: "Read", question: Buffer.from(question) }, server, signal);
  }

  /**
   * As `Node.changeMembers`. Requires the secret: a client key is not enough. A retry repeats the
   * change, so if another operator has reversed it meanwhile, it may be made twice.
   */
  async changeMembers(name: Name, address = "", force = false): Promise<void> {
    await this.request({ type: "ChangeMembers", name, address, force });
  }

  /**
   * Makes `leader` hand its leadership over to `name`, or to the first server that has its whole
   * log. Resolves to the name of the next leader. If another server leads, nothing is handed over:
   * resolves to the name of that server if it is `name`, or if `name` is empty. Requires the
   * secret. Rejects with a RaftError: "refused" if the transfer cannot begin, for example because
   * `name` is unreachable, or because a third server leads; "outcomeUnknown" if `leader` still
   * leads after an election timeout, because `name` may still take over, or if no answer came.
   */
  async transfer(leader: Name, name = ""): Promise<Name> {
    this.target = leader;
    const next = `${await this.request({ type: "Transfer", leader, name })}`;
    if (next !== leader) return next;
    throw new RaftError(
      "outcomeUnknown",
      `${leader} still leads: ${name || "the chosen server"} did not take over in time, `
        + "but still may. See which server leads before you repeat it.",
    );
  }

  /**
   * Returns the status of one server. Rejects with a RaftError, "timeout", if it is unreachable.
   */
  async inspect(server: Name): Promise<ReturnType<Node["status"]>> {
    const answer = await this.request({ type: "Inspect" }, server);
    const status: ReturnType<Node["status"]> = JSON.parse(`${answer}`);
    this.endpoint.learnAddresses(status.peers.flatMap(serverOf));
    return status;
  }

  /**
   * Yields the bytes of a snapshot of `server`, in order, each part with its offset. The snapshot
   * includes entry `index`: if the last one ends before it, the server first writes another. If it
   * replaces the snapshot meanwhile, offset 0 comes again, and the parts before it are void.
   * Requires the secret. Rejects with a RaftError, "timeout", if the server is unreachable or does
   * not get the entry.
   */
  async *readSnapshot(server: Name, index = 1): AsyncGenerator<{ offset: number; data: Buffer }> {
    for (let [offset, previousIndex] = [0, 0];;) {
      const answer = await this.request({ type: "ReadSnapshot", index, offset }, server);
      const [snapshotIndex, data] = decodeAll(answer) as [number, Buffer];
      if (offset > 0 && snapshotIndex !== previousIndex) offset = 0;
      else if (snapshotIndex === 0) {
        await new Promise<void>((resolve) => this.world.clock.setTimer(RETRY_MS, resolve));
      } else if (data.length === 0) return;
      else {
        yield { offset, data };
        offset += data.length;
        previousIndex = snapshotIndex;
      }
    }
  }

  /** Closes the socket, and rejects all pending requests. */
  close(): void {
    this.abandonAll("closed");
    this.endpoint.socket.close();
  }

  /** Rejects all pending requests, and all later ones. */
  abandonAll(code: keyof typeof CLOSED): void {
    this.closed = code;
    for (const request of this.pending.values()) this.abandon(request, CLOSED[code]);
    const error = this.failure(code, CLOSED[code]);
    for (const { reject } of this.commands.splice(0)) reject(error);
  }

  /** Lets `await using` close the client at the end of a block. */
  readonly [Symbol.asyncDispose] = async () => this.close();

  /** Sends each pending request again: to the new leader, unless it is for a certain server. */
  retryAll(leader: Name): void {
    this.target = leader;
    for (const request of this.pending.values()) this.transmit(request);
    this.endpoint.schedule();
  }

  /** Sends a request until there is an answer or a timeout. */
  request(
    content: Content,
    server?: Name,
    signal?: AbortSignal,
    timeoutMs?: number,
  ): Promise<Buffer> {
    return this.call(signal, (caller) => this.start(content, [caller], server, timeoutMs));
  }

  private start(
    content: Content,
    callers: Caller[],
    server?: Name,
    timeoutMs = this.timeoutMs,
  ) {
    ensure(
      this.endpoint.self.role !== "client" || !(content.type in operatorMessages),
      "A client key cannot change members or leader, nor take backups. Give the secret: "
        + "--secret-file.",
    );
    const id = this.lastId += 1;
    const request: PendingRequest = {
      id,
      content,
      server,
      deadlineAt: this.world.clock.now() + timeoutMs,
      callers,
      missing: callers.length,
      triedServer: undefined,
      retryAt: 0,
      attempts: 0,
    };
    this.pending.set(id, request);
    this.transmit(request);
    if (!this.isTicking) this.setTimer();
  }

  private transmit(request: PendingRequest) {
    const { id, content, server: to = this.target } = request;
    request.triedServer = to;
    request.attempts += 1;
    request.retryAt = this.world.clock.now() + (request.attempts === 1 ? RETRY_MS : RETRY_MS / 2);
    this.send({ ...content, from: this.endpoint.self.name, to, id });
  }

  /**
   * Retries requests that are due. If the target did not reply or named no leader, turns to the
   * next server.
   */
  private onTimer() {
    const now = this.world.clock.now();
    for (const request of this.pending.values()) {
      if (now >= request.deadlineAt) this.abandon(request, `No answer in ${this.timeoutMs} ms`);
      else if (now >= request.retryAt) {
        const next = this.servers.indexOf(this.target) + 1;
        if (!request.server && request.triedServer === this.target) {
          this.target = this.servers[next % this.servers.length] ?? "";
        }
        this.transmit(request);
        this.endpoint.schedule();
      }
    }
    this.setTimer();
  }

  private setTimer() {
    this.isTicking = this.pending.size > 0;
    if (this.isTicking) this.world.clock.setTimer(TICK_MS, () => this.onTimer());
  }

  onAnswer(answer: ClientMessage): void {
    const request = this.pending.get(answer.id);
    if (!request) return;
    const { from, type, founding = 0 } = answer;
    if (founding > 0 && this.founding > 0 && founding !== this.founding) {
      return void this.lastReplies.set(from, "is of another cluster");
    }
    // Trusts a founding only in an answer that has waited for a commit, because until a founding is
    // committed, another one may replace it (section 11). Redirects, refusals and answers to
    // Inspect do not wait for that. Neither do some answers to operators, so no answer to an
    // operator is trusted.
    const { content: { type: asked } } = request;
    const isAnswer = type === "Outcomes" || type === "Answer";
    const hasWaited = isAnswer && asked !== "Inspect" && !(asked in operatorMessages);
    if (hasWaited) this.founding ||= founding;
    this.lastReplies.delete(from);
    if (answer.type === "NotLeader") return this.onRedirect(request, answer);
    if (answer.type === "Answer") this.settle(request, 0, answer.answer);
    if (answer.type === "Refused") this.onRefusal(request, answer.reason);
    if (answer.type !== "Outcomes") return;
    // Only a leader sends outcomes. If it was slow, the client has turned to another server, and
    // now turns back.
    this.target = from;
    for (const [i, outcome] of decodeAll(answer.outcomes).entries()) {
      this.settle(request, answer.first + i, outcome);
    }
  }

  private settle(request: PendingRequest, position: number, outcome: unknown) {
    const caller = this.takeCaller(request, position);
    if (!caller) return;
    // A copy, because the outcome is a view of its datagram, or the state machine may still change
    // it.
    if (outcome instanceof Uint8Array) caller.resolve(Buffer.from(outcome));
    else caller.reject(new RaftError("applied", `The command was applied, but ${outcome}.`));
  }

  /** Takes a caller out of its request, to settle it. After the last one the request is over. */
  private takeCaller(request: PendingRequest, position: number): Caller | undefined {
    const caller = request.callers[position];
    if (!caller) return undefined;
    request.callers[position] = undefined;
    request.missing -= 1;
    if (request.missing === 0) this.pending.delete(request.id);
    return caller;
  }

  private onRefusal(request: PendingRequest, reason: string) {
    const { id, content, attempts, callers } = request;
    const isCommands = content.type === "Commands";
    if (isCommands && content.session === this.session) this.session = undefined;
    // A refused request that was sent once was not applied, so another session may apply it. If it
    // was sent twice, the first copy may have been applied and only the second refused.
    const isUnknown = isCommands && attempts > 1;
    const why = `The server refuses: ${reason}`;
    const error = isUnknown
      ? this.failure("outcomeUnknown", why)
      : new RaftError("refused", `${why}.`);
    this.pending.delete(id);
    for (const caller of callers) {
      if (!caller) continue;
      if (!isCommands || isUnknown || caller.wasMoved) caller.reject(error);
      else {
        caller.wasMoved = true;
        this.commands.push(caller);
      }
    }
    this.endpoint.schedule();
  }

  /** Follows a redirect at the next tick: during an election, servers may redirect in a circle. */
  private onRedirect(
    request: PendingRequest,
    { from, leader, servers }: ClientMessage & { type: "NotLeader" },
  ) {
    this.lastReplies.set(from, leader ? `says that ${leader} leads` : "knows no leader");
    // Without a leader there is an election. It takes a few round trips.
    request.retryAt = this.world.clock.now() + (leader === "" ? RETRY_MS / 4 : 0);
    const listed = servers.split(",").flatMap((server) => readServer(server) ?? []);
    // Known servers keep their places, so that the client asks each in turn.
    const names = new Set([...this.servers, ...listed.map(({ name }) => name)]);
    this.servers = [...names].slice(-MAX_SERVERS);
    const kept = listed.filter(({ name }) => this.servers.includes(name));
    this.endpoint.learnAddresses(kept);
    if (!this.servers.includes(leader)) return;
    request.triedServer = undefined;
    this.target = leader;
  }

  private abandon(request: PendingRequest, why: string) {
    const { id, server, callers } = request;
    // There may be no leader. So new commands are not sent before another session opens. If none
    // opens, they end with "timeout" instead of "outcomeUnknown".
    if (server === undefined) this.session = undefined;
    this.pending.delete(id);
    const error = this.failure(this.closed ?? "timeout", why, request);
    for (const caller of callers) caller?.reject(error);
  }

  /** Returns the error of a call. A write that was sent may still take effect. */
  private failure(code: keyof typeof ADVICE, why: string, sent?: PendingRequest): RaftError {
    const writes: unknown[] = ["Commands", "ChangeMembers", "Transfer"];
    const outcome = writes.includes(sent?.content.type) ? "outcomeUnknown" : code;
    const asked = sent?.server === undefined ? this.servers : [sent.server];
    const names = new Set(asked.map((name) => this.describe(name)));
    return new RaftError(outcome, `${why}${ADVICE[outcome]} Asked: ${[...names].join(", ")}.`);
  }

  /** Returns a server's name, and why it may not have answered. */
  describe(server: Name): string {
    const { name, heardMs, lastWarning } = this.endpoint.peerStatus(server);
    if (name === this.endpoint.self.name) return name;
    if (lastWarning?.type === "unresolved") return `${name} (${lastWarning.reason})`;
    if (lastWarning?.type === "foreign") return `${name} (it is of another cluster)`;
    if (lastWarning?.type === "version") return `${name} (it runs another version of raft.ts)`;
    if (heardMs === null) return `${name} (never heard)`;
    const reply = heardMs < this.timeoutMs ? this.lastReplies.get(name) : undefined;
    return `${name} (${reply ?? `last heard ${heardMs} ms ago`})`;
  }
}

// ------------------------------------- 20 A key-value store --------------------------------------
// The state machine that `cli.ts` serves, and an example of one. Keys and values are any bytes. The
// store keeps them in a Map, as Latin-1 strings: each byte is a character. A command or question
// has a verb (1 byte), then key, value and expected value as far as the verb has them, each after
// its length (4 bytes). An answer is whether it was done or found (1 byte), and the value if found.
// "list" and "keys" ask for one page of a list: they have a prefix and, after the first page, the
// last key of the page before, with the prefix cut off. The answer is whether more may follow, then
// keys and values; the values of "keys" are empty.

export const verbs = ["get", "put", "delete", "cas", "list", "keys"] as const;

function pack(first: number, ...parts: readonly (string | Uint8Array)[]): Buffer {
  const packed = Buffer.allocUnsafe(parts.reduce((sum, { length }) => sum + 4 + length, 1));
  let at = packed.writeUInt8(first);
  for (const part of parts) {
    at = packed.writeUInt32BE(part.length, at);
    if (typeof part === "string") packed.write(part, at, "latin1");
    else packed.set(part, at);
    at += part.length;
  }
  return packed;
}

/** Returns the parts that are whole. */
export function unpack(bytes: Uint8Array): string[] {
  // A Buffer is taken as it is, because to read `bytes.buffer` takes a while.
  const packed = Buffer.isBuffer(bytes)
    ? bytes
    : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length);
  const parts: string[] = [];
  for (let at = 1; at + 4 <= packed.length;) {
    const end = at + 4 + packed.readUInt32BE(at);
    if (end > packed.length) break;
    parts.push(packed.toString("latin1", at + 4, end));
    at = end;
  }
  return parts;
}

const packRequest = (verb: (typeof verbs)[number], ...parts: (string | Uint8Array)[]) =>
  pack(verbs.indexOf(verb), ...parts);

/** The most keys in a block. More would make each insertion move too many. */
const BLOCK_KEYS = 512;
/** How many keys each question sorts, until all are sorted. This takes a few milliseconds. */
const KEYS_PER_QUESTION = 500;

/**
 * The keys of a map in order, in blocks of neighbours. Sorting a million keys at once would block
 * the server, so each question takes some from the map's iterator. An unfinished iterator keeps the
 * memory of deleted keys, so it must come to its end even without more questions. Each new key of
 * the map is one more key for the iterator. So each new key also takes two from it.
 */
class SortedKeys {
  /** No block is empty, unless it is the only one. */
  private readonly blocks: string[][] = [[]];

  constructor(private readonly unsorted: Iterator<string>) {}

  /** Takes the next keys of the map. Returns whether it has no more. */
  take(count: number): boolean {
    for (; count > 0; count -= 1) {
      const { done, value } = this.unsorted.next();
      if (done) return true;
      this.add(value);
    }
    return false;
  }

  add(key: string): void {
    const { number, block, at } = this.find(key);
    if (block[at] === key) return;
    block.splice(at, 0, key);
    if (block.length <= BLOCK_KEYS) return;
    this.blocks.splice(number + 1, 0, block.splice(BLOCK_KEYS / 2));
  }

  delete(key: string): void {
    const { number, block, at } = this.find(key);
    if (block[at] === key) block.splice(at, 1);
    if (block.length === 0 && this.blocks.length > 1) this.blocks.splice(number, 1);
  }

  /** Yields all keys from `first` on. */
  *from(first: string): Generator<string> {
    const { number, block, at } = this.find(first);
    yield* block.slice(at);
    for (const next of this.blocks.slice(number + 1)) yield* next;
  }

  /** Returns the place of a key in the last block whose first key is not larger. */
  private find(key: string) {
    const { blocks } = this;
    const number = lastWhere(0, blocks.length - 1, (i) => (blocks[i]?.[0] ?? "") <= key);
    const block = blocks[number] ?? [];
    const at = 1 + lastWhere(-1, block.length - 1, (i) => (block[i] ?? "") < key);
    return { number, block, at };
  }
}

export class KeyValueStore implements StateMachine {
  private readonly values = new Map<string, string>();
  /** The keys in order, once they have been listed. */
  private keys: SortedKeys | undefined;

  apply(command: Uint8Array): Uint8Array {
    const [key = "", value, expected] = unpack(command);
    const verb = verbs[command[0] ?? -1];
    const before = this.values.get(key);
    if (verb === "delete") {
      this.keys?.delete(key);
      return pack(Number(this.values.delete(key)));
    }
    const mayWrite = verb === "put" || (verb === "cas" && before === expected);
    if (!mayWrite || value === undefined) return pack(0);
    this.values.set(key, value);
    // The key is added here only if the iterator has ended. Otherwise the iterator has just given
    // it, or will.
    if (before === undefined && this.keys?.take(2)) this.keys.add(key);
    return pack(1);
  }

  query(question: Uint8Array): Uint8Array {
    const [key = "", after] = unpack(question);
    const verb = verbs[question[0] ?? -1];
    if (verb === "list" || verb === "keys") return this.list(verb, key, after);
    const value = this.values.get(key);
    return value === undefined ? pack(0) : pack(1, value);
  }

  /** Returns a page. Until all keys are sorted, it is empty and says that more pages follow. */
  private list(verb: "list" | "keys", prefix: string, after: string | undefined): Buffer {
    const keys = this.keys ??= new SortedKeys(this.values.keys());
    if (!keys.take(KEYS_PER_QUESTION)) return pack(1);
    const page: string[] = [];
    let bytes = 1;
    // The next key in order after any key is that key and a zero byte.
    for (const key of keys.from(after === undefined ? prefix : `${prefix}${after}\0`)) {
      if (!key.startsWith(prefix)) break;
      const value = verb === "keys" ? "" : this.values.get(key) ?? "";
      bytes += 8 + key.length + value.length;
      if (bytes > MAX_ANSWER_BYTES && page.length > 0) return pack(1, ...page);
      page.push(key, value);
    }
    return pack(0, ...page);
  }

  /** Copies the map, not its strings: a pause of some 30 ms per million keys. */
  snapshot(): Iterable<Uint8Array> {
    return new Map(this.values).entries().map(([key, value]) => pack(1, key, value));
  }

  restore(): (chunk: Uint8Array) => void {
    this.values.clear();
    this.keys = undefined;
    return (chunk) => {
      const [key, value] = unpack(chunk);
      assert(key !== undefined && value !== undefined, "a snapshot of a store is made of pairs");
      this.values.set(key, value);
    };
  }
}

const wasDone = ([isDone]: Uint8Array) => isDone === 1;

/**
 * The store as a program uses it, through a node or a client. Rejects as `propose` and `read` do.
 */
export class KeyValues {
  constructor(private readonly via: Pick<Client, "propose" | "read">) {}

  put(key: Uint8Array, value: Uint8Array, options?: CallOptions): Promise<void> {
    return this.via.propose(packRequest("put", key, value), options).then(() => {});
  }

  async get(key: Uint8Array, options?: CallOptions): Promise<Uint8Array | undefined> {
    const [value] = unpack(await this.via.read(packRequest("get", key), options));
    return value === undefined ? undefined : Buffer.from(value, "latin1");
  }

  /**
   * Yields the keys that begin with `prefix`, by default all, and their values, in the order of the
   * keys' bytes. It reads page by page: a page is linearizable, and later ones may show later
   * writes. With `keysOnly`, no values are read, and all are empty.
   */
  async *list(
    { prefix = NOTHING, keysOnly = false, signal }: CallOptions & {
      prefix?: Uint8Array;
      keysOnly?: boolean;
    } = {},
  ): AsyncGenerator<[key: Uint8Array, value: Uint8Array]> {
    const verb = keysOnly ? "keys" : "list";
    const begin = Buffer.from(prefix).toString("latin1");
    let after: string[] = []; // The last key, without the prefix, once there is one.
    for (let isMore = true; isMore;) {
      const page = await this.via.read(packRequest(verb, begin, ...after), { signal });
      isMore = page[0] === 1;
      const parts = unpack(page);
      while (parts.length > 0) {
        const [key = "", value = ""] = parts.splice(0, 2);
        after = [key.slice(begin.length)];
        yield [Buffer.from(key, "latin1"), Buffer.from(value, "latin1")];
      }
    }
  }

  /** Deletes a key. Resolves to whether it had a value. */
  delete(key: Uint8Array, options?: CallOptions): Promise<boolean> {
    return this.via.propose(packRequest("delete", key), options).then(wasDone);
  }

  /**
   * Compares and sets: puts `value` if the key has the value `expected`. If `expected` is
   * undefined, puts it only if the key has no value. Resolves to whether it did.
   */
  cas(
    key: Uint8Array,
    expected: Uint8Array | undefined,
    value: Uint8Array,
    options?: CallOptions,
  ): Promise<boolean> {
    const parts = expected ? [key, value, expected] : [key, value];
    return this.via.propose(packRequest("cas", ...parts), options).then(wasDone);
  }
}
