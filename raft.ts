/**
 * # Raft
 *
 * Raft keeps one log identical on several servers, so that any majority of them can go on when
 * the others fail, and nothing that was ever acknowledged is lost. Each server feeds its log,
 * entry by entry, to a deterministic state machine; equal logs make equal states.
 *
 * Five promises hold at every moment, whatever the network and the power supply do (Figure 3):
 *
 *   Election Safety        at most one leader can be elected in a given term
 *   Leader Append-Only     a leader never overwrites or deletes entries of its own log
 *   Log Matching           two logs that agree on an entry's index and term agree up to it
 *   Leader Completeness    an entry committed in a term is in the logs of all later leaders
 *   State Machine Safety   no two servers ever apply different entries at the same index
 *
 * ## How to read this file
 *
 * Part I is the algorithm, and nothing else: no clock, socket, disk or randomness. Things happen
 * to a server (a message arrives, time passes, a client proposes), plain functions change its
 * state, and what it decided is left for Part II to carry out: messages, log changes, committed
 * entries, events. Read it beside Figure 2; sections 7 and 9 can wait for a second reading.
 *
 * Part II is the machine room: datagrams, disk, timers, promises. One function there, `flush`,
 * turns decisions into facts, always in the same order. Everything impure enters through four
 * small interfaces, so the same code runs on a LAN and in a simulated world.
 *
 *   Part I    1 Vocabulary and messages   2 The log   3 A server's state
 *             4 What can happen to a server   5 Elections   6 Replication and commitment
 *             7 Reads and sessions   9 Members   10 Invariants
 *   Part II   11 The wire   12 Stable storage   13 Datagrams and RPC
 *             14 A running node, and its clients   15 A key-value store
 *
 * The members of a cluster are fixed when it is founded, and the log is kept from its first
 * entry: snapshots, which would be section 8, and changes of membership are not here.
 *
 * Citations: (§5.3) and (Figure 2) are of "In Search of an Understandable Consensus Algorithm
 * (Extended Version)", Ongaro and Ousterhout, 2014; (thesis §6.4) is of Ongaro's dissertation,
 * "Consensus: Bridging Theory and Practice", 2014.
 */
import { Database } from "bun:sqlite";
import { timingSafeEqual } from "node:crypto";
import dgram from "node:dgram";
import dns from "node:dns/promises";
import fs from "node:fs";
import { networkInterfaces } from "node:os";
import path from "node:path";
import { Decoder, Encoder } from "@msgpack/msgpack";

// ==================================== Part I: The algorithm ====================================

// ---------------------------------- 1 Vocabulary and messages ----------------------------------
// Servers talk in two requests and their replies (§5). The fields are those of Figure 2, by name;
// `candidateId` and `leaderId` are `from`. What Figure 2 does not have is explained here. One
// table yields the types, and in section 11 the encoding, the decoding and the check of every
// field.

/** A server's name: `host:port` as its peers write it, or any other word that they agree on. */
export type Name = string;

/**
 * One entry of the log. A "command" is for the state machine, a "session" opens one for a client,
 * a "noop" asks for nothing. The log file has two more kinds beside its entries (section 12).
 */
export type Entry = {
  readonly index: number;
  readonly term: number;
  readonly kind: "start" | "vote" | "noop" | "session" | "command";
  /** Opaque until it is applied: nobody on the way needs to decode it. */
  readonly data: Buffer;
  /**
   * The whole entry as the disk and the wire know it, encoded once, by the leader that took it.
   */
  readonly record: Buffer;
};

/** The kinds of field that messages are made of, and what each is in TypeScript. */
type FieldTypes = {
  natural: number;
  flag: boolean;
  text: string;
  bytes: Uint8Array;
  entries: readonly Entry[];
};
type Table = Record<string, Record<string, keyof FieldTypes>>;

export const messages = {
  // `preVote` only asks "would you?" about the term that a campaign would open; it binds nobody
  // (thesis §9.6). `campaign` tells a candidate's attempts apart; the reply repeats both.
  RequestVote: {
    term: "natural",
    preVote: "flag",
    campaign: "natural",
    lastLogIndex: "natural",
    lastLogTerm: "natural",
  },
  RequestVoteReply: { term: "natural", preVote: "flag", campaign: "natural", voteGranted: "flag" },
  // `round` counts the AppendEntries of a leader, so the reply, which repeats it, proves that the
  // leader was still followed after whatever came before that round was sent (thesis §6.4).
  AppendEntries: {
    term: "natural",
    round: "natural",
    prevLogIndex: "natural",
    prevLogTerm: "natural",
    leaderCommit: "natural",
    entries: "entries",
  },
  // `matchIndex`: up to here the logs agree, durably. If not `success`: the logs can agree at
  // `hintIndex`, where the follower's entry is of `hintTerm`, or before it, but nowhere behind.
  AppendEntriesReply: {
    term: "natural",
    round: "natural",
    success: "flag",
    matchIndex: "natural",
    hintIndex: "natural",
    hintTerm: "natural",
  },
} as const satisfies Table;

type Fields<T extends Table[string]> = { -readonly [Field in keyof T]: FieldTypes[T[Field]] };
/**
 * The union of the messages in a table. `id` is the RPC layer's: a reply repeats its request's.
 */
type MessageOf<T extends Table> = {
  [Type in keyof T]: { type: Type; from: Name; to: Name; id: number } & Fields<T[Type]>;
}[keyof T];
export type Message = MessageOf<typeof messages>;
type Of<Type extends Message["type"]> = Extract<Message, { type: Type }>;

/**
 * What a server tells about itself, for the people who watch it and the program that embeds it.
 */
export type Event =
  | { type: "preVoteLost"; votes: number; needed: number }
  | { type: "campaign"; silentMs: number }
  | { type: "voted"; candidate: Name }
  | { type: "votes"; votes: number; elected: boolean }
  | { type: "role"; from: RoleName; to: RoleName }
  | { type: "leader"; from: Name | undefined; to: Name | undefined }
  | { type: "committed"; commitIndex: number };

/** Stops a server that would otherwise go on wrongly: no answer is better than a wrong one. */
export function assert(condition: unknown, sentence: string): asserts condition {
  if (!condition) throw new Error(`Broken invariant: ${sentence}.`);
}

const NOTHING = Buffer.alloc(0);

// ------------------------------------------ 2 The log ------------------------------------------
// Entries are numbered from 1. The sentinel at 0, of term 0, is in every log, so the first entry
// has a predecessor to agree on like all others (§5.3). All arithmetic with indexes is done here.

export class Log {
  /** How far this log is on this server's disk. Nothing above it may be promised to anyone. */
  savedIndex = 0;
  private readonly entries: Entry[] = [
    { index: 0, term: 0, kind: "noop", data: NOTHING, record: NOTHING },
  ];
  /** `sizes[i]` is how many bytes entries 1 to i take, so a range of them is one subtraction. */
  private readonly sizes = [0];

  get lastIndex(): number {
    return this.entries.length - 1;
  }

  get lastTerm(): number {
    return this.at(this.lastIndex).term;
  }

  at(index: number): Entry {
    const entry = this.entries[index];
    assert(entry, `a log that ends at ${this.lastIndex} is not asked for entry ${index}`);
    return entry;
  }

  /** Whether there is an entry at `index`, and it is of `term`. */
  matches(index: number, term: number): boolean {
    return this.entries[index]?.term === term;
  }

  append(entry: Entry): void {
    assert(entry.index === this.lastIndex + 1, "a log has no gaps");
    assert(entry.term >= this.lastTerm, "terms never decrease along a log");
    this.sizes.push(this.bytes(1, this.lastIndex) + entry.record.length);
    this.entries.push(entry);
  }

  /**
   * AppendEntries, steps 3 and 4 (Figure 2). An entry that conflicts with a new one is deleted
   * with all that follow it. What agrees stays, and so does what comes behind it: a delayed,
   * shorter request must not delete the entries that a later one brought and we have
   * acknowledged.
   */
  merge(entries: readonly Entry[], commitIndex: number): void {
    for (const entry of entries) {
      if (this.matches(entry.index, entry.term)) continue;
      assert(entry.index > commitIndex, "a committed entry never changes");
      this.entries.length = Math.min(this.entries.length, entry.index);
      this.sizes.length = this.entries.length;
      this.savedIndex = Math.min(this.savedIndex, this.lastIndex);
      this.append(entry);
    }
  }

  slice(first: number, last = this.lastIndex): Entry[] {
    return this.entries.slice(first, last + 1);
  }

  /**
   * The entries from `first` on: as many as fit into `bytes`, but at least one if there is any.
   */
  batch(first: number, bytes: number): Entry[] {
    let last = first;
    while (last < this.lastIndex && this.bytes(first, last + 1) <= bytes) last += 1;
    return this.slice(first, last);
  }

  /** How many bytes the entries from `first` to `last` take, on the wire as on the disk. */
  bytes(first: number, last: number): number {
    return last < first ? 0 : (this.sizes[last] ?? 0) - (this.sizes[first - 1] ?? 0);
  }

  /** The last index, at or before `index`, whose entry is of `term` or an earlier one. */
  lastUpTo(index: number, term: number): number {
    let [low, high] = [0, Math.min(index, this.lastIndex)];
    while (low < high) {
      const middle = Math.ceil((low + high) / 2);
      if (this.at(middle).term <= term) low = middle;
      else high = middle - 1;
    }
    return low;
  }
}

// ------------------------------------- 3 A server's state --------------------------------------
// Figure 2's three blocks. What only a leader has is a part of its role, so that nothing else can
// touch it: a server that stops leading has no `nextIndex` left to misuse.

/** What a server is told once. Durations are in milliseconds, sizes in bytes. */
export type Settings = {
  name: Name;
  /** All members, this server included. */
  members: readonly Name[];
  /** T: who hears no leader for a time drawn from T to 2T calls an election (§5.2). */
  electionTimeoutMs: number;
  /** How often a leader speaks to a follower to which it has nothing to say. Well below T. */
  heartbeatMs: number;
  /** How much one AppendEntries carries, unless a single entry is larger. */
  batchBytes: number;
  /** How much may be on the way to one follower, unacknowledged. */
  windowBytes: number;
};

/** What a leader knows of one follower. */
export class Progress {
  /** The highest entry that the follower is known to have, durably. */
  matchIndex = 0;
  /** Where sending began when it last began anew: from here to `nextIndex` all is under way. */
  sentFrom: number;
  sentRound = 0;
  /** The latest round that it answered, so agreeing that we lead. */
  confirmedRound = 0;
  /** Refusals of rounds up to this one have been dealt with. */
  refusedRound = 0;

  /** `nextIndex`, the next entry to send, is optimism: it runs ahead of what is acknowledged. */
  constructor(
    public nextIndex: number,
    public heardAt: number,
    public sentAt = heardAt,
  ) {
    this.sentFrom = nextIndex;
  }
}

type Follower = { name: "Follower"; leader: Name | undefined };
/**
 * A pre-candidate only asks whether it could win; to the world it still is a follower. `votes` is
 * a set of names, never a counter, because the network delivers a vote twice (§5.2).
 */
type Campaigner = { name: "PreCandidate" | "Candidate"; votes: Set<Name>; askedAt: number };
/**
 * `round` counts the AppendEntries that were sent: it is the clock that orders reads.
 * `firstIndex` is the no-op with which the term begins. A read waits for a round later than its
 * own to be confirmed, and for `index` to be applied.
 */
type Leader = {
  name: "Leader";
  followers: Map<Name, Progress>;
  round: number;
  firstIndex: number;
  reads: { id: number; round: number; index: number }[];
};
export type Role = Follower | Campaigner | Leader;
export type RoleName = Role["name"];

/** What the disk must remember beside the log, or a server could vote twice in a term (§5.2). */
export type HardState = { currentTerm: number; votedFor: Name | undefined };

export class Raft {
  // Persistent state on all servers. `saved` is what the disk has of it, beside `log.savedIndex`.
  currentTerm: number;
  votedFor: Name | undefined;
  readonly log = new Log();
  saved: HardState;

  // Volatile state on all servers.
  commitIndex = 0;
  lastApplied = 0;

  // Volatile state of the role.
  role: Role = { name: "Follower", leader: undefined };

  // Instants are milliseconds from an arbitrary origin. `now` is what the last input said it is.
  // `heardAt` is when the last valid RPC came: from the leader, or from who then got our vote.
  heardAt: number;
  electionDueAt: number;
  campaigns = 0;
  lastReadId = 0;

  // What this server has decided, for `flush` to carry out.
  outbox: Message[] = [];
  events: Event[] = [];
  readonly #random: () => number;

  /**
   * Continues from what the disk remembers, all of it durable. `random` gives from 0 to below 1.
   */
  constructor(
    readonly settings: Settings,
    disk: HardState & { entries: readonly Entry[] },
    public now: number,
    random: () => number,
  ) {
    this.#random = random;
    this.currentTerm = disk.currentTerm;
    this.votedFor = disk.votedFor;
    for (const entry of disk.entries) this.log.append(entry);
    this.log.savedIndex = this.log.lastIndex;
    this.saved = { currentTerm: disk.currentTerm, votedFor: disk.votedFor };
    this.heardAt = now;
    // Others may already have a leader, so wait for it; alone, there is none to wait for.
    this.electionDueAt = this.others.length > 0 ? this.drawElectionTimeout() : now;
  }

  // ------------------------------- 4 What can happen to a server -------------------------------
  // Inputs: time passes (`tick`), a message arrives (`receive`), a client wants something
  // (`propose`, `read`), a turn of the event loop ends (`prepare`), the disk has done its work
  // (`onSaved`). The outputs, `outbox`, `unsaved`, `takeCommitted`, `takeReads` and `events`, are
  // for `flush` alone.

  /** Time has passed. To be called at `wakeAt` or later, after what has arrived was received. */
  tick(now: number): void {
    this.now = now;
    if (this.role.name !== "Leader") {
      if (now >= this.electionDueAt) this.campaign("PreCandidate");
    } else if (!this.hearsLeader()) {
      // CheckQuorum: a leader that no majority answers must not believe for ever that it leads,
      // or its clients would never look for the next one (thesis §6.2).
      this.become({ name: "Follower", leader: undefined });
    }
  }

  /** When `tick` next has something to do. */
  get wakeAt(): number {
    const { role, settings, electionDueAt } = this;
    if (role.name === "Follower") return electionDueAt;
    if (role.name !== "Leader") return Math.min(electionDueAt, role.askedAt + settings.heartbeatMs);
    return Math.min(...role.followers.values().map((f) => f.sentAt + settings.heartbeatMs));
  }

  receive(message: Message, now: number): void {
    this.now = now;
    // If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to
    // follower (§5.1). A term that is only asked for is no such term; `onRequestVote` judges it.
    const { type, term } = message;
    const granted = type === "RequestVoteReply" && message.preVote && message.voteGranted;
    if (term > this.currentTerm && type !== "RequestVote" && !granted) this.adopt(term);
    switch (type) {
      case "RequestVote":
        return this.onRequestVote(message);
      case "RequestVoteReply":
        return this.onRequestVoteReply(message);
      case "AppendEntries":
        return this.onAppendEntries(message);
      case "AppendEntriesReply":
        return this.onAppendEntriesReply(message);
      default:
        message satisfies never;
    }
  }

  /**
   * A client's command, or a new session. Returns the index of its entry, which promises nothing:
   * it is done when that index is applied and the entry there still is of this term. Returns
   * undefined if this server does not lead.
   */
  propose(kind: Entry["kind"], data: Uint8Array): number | undefined {
    if (this.role.name !== "Leader") return undefined;
    this.log.append(makeEntry(this.log.lastIndex + 1, this.currentTerm, kind, data));
    return this.log.lastIndex;
  }

  /** A turn ends: says to every peer, once, what it lacks after all that has happened. */
  prepare(): void {
    const { role } = this;
    if (role.name === "Leader") {
      for (const [name, follower] of role.followers) this.replicate(role, name, follower);
    } else if (role.name !== "Follower") this.requestVotes(role);
    checkInvariants(this);
  }

  /** What the disk lacks, if anything: a changed term or vote, new entries. */
  get unsaved(): (HardState & { entries: Entry[] }) | undefined {
    const { currentTerm, votedFor, saved, log } = this;
    const changed = saved.currentTerm !== currentTerm || saved.votedFor !== votedFor;
    const entries = log.slice(log.savedIndex + 1);
    return changed || entries.length > 0 ? { currentTerm, votedFor, entries } : undefined;
  }

  /**
   * All that was unsaved is durable. Only now does a server count itself: a candidate its own
   * vote, a leader its own copy of an entry (thesis §10.2.1).
   */
  onSaved(): void {
    this.saved = { currentTerm: this.currentTerm, votedFor: this.votedFor };
    this.log.savedIndex = this.log.lastIndex;
    if (this.role.name === "Candidate") this.countVote(this.role, this.settings.name);
    if (this.role.name === "Leader") this.advanceCommitIndex(this.role);
  }

  /**
   * The entries that are committed and not yet applied, in order. The caller applies them now.
   */
  takeCommitted(): Entry[] {
    const entries = this.log.slice(this.lastApplied + 1, this.commitIndex);
    this.lastApplied = this.commitIndex;
    return entries;
  }

  private send<Type extends Message["type"]>(
    type: Type,
    { from: to, id }: { from: Name; id: number },
    fields: Fields<(typeof messages)[Type]>,
  ): void {
    // The compiler cannot see that the fields are those of the type: the signature does.
    const message: unknown = { type, from: this.settings.name, to, id, ...fields };
    this.outbox.push(message as Message);
  }

  // ---------------------------------------- 5 Elections ----------------------------------------
  // Who hears no leader asks the others for their votes, and leads if a majority grants them
  // (§5.2). Two refinements keep a server that was away from deposing a leader that works: it
  // first asks whether it could win (PreVote, thesis §9.6), and who hears a leader refuses
  // (thesis §4.2.3).

  /** The leader that this server knows of, itself included. */
  get leader(): Name | undefined {
    if (this.role.name === "Leader") return this.settings.name;
    return this.role.name === "Follower" ? this.role.leader : undefined;
  }

  /** Whether a leader was heard within T. A leader hears one as long as it hears a majority. */
  hearsLeader(): boolean {
    const { role, now, settings } = this;
    const heardAt =
      role.name === "Leader" ? this.reached(role, now, (f) => f.heardAt) : this.heardAt;
    return this.leader !== undefined && now < heardAt + settings.electionTimeoutMs;
  }

  /** A new timeout for every campaign, or the same two candidates split the vote again (§5.2). */
  private drawElectionTimeout(): number {
    this.electionDueAt = this.now + this.settings.electionTimeoutMs * (1 + this.#random());
    return this.electionDueAt;
  }

  private become(role: Role): void {
    const { leader, role: before } = this;
    this.role = role;
    if (this.leader !== leader) this.events.push({ type: "leader", from: leader, to: this.leader });
    if (before.name === role.name) return;
    this.events.push({ type: "role", from: before.name, to: role.name });
    if (before.name === "Leader") this.drawElectionTimeout();
  }

  /**
   * A higher term is a fact that nobody can undo. In it this server follows, and has not voted.
   */
  private adopt(term: number): void {
    this.currentTerm = term;
    this.votedFor = undefined;
    this.become({ name: "Follower", leader: undefined });
  }

  /**
   * Opens a campaign. A candidate, not a pre-candidate, opens a new term and votes for itself.
   */
  private campaign(name: Campaigner["name"]): void {
    if (name === "Candidate") {
      this.currentTerm += 1;
      this.votedFor = this.settings.name;
      this.events.push({ type: "campaign", silentMs: this.now - this.heardAt });
    } else if (this.role.name === name) {
      this.events.push({ type: "preVoteLost", votes: this.role.votes.size, needed: this.majority });
    }
    const role: Campaigner = { name, votes: new Set(), askedAt: Number.NEGATIVE_INFINITY };
    this.campaigns += 1;
    this.become(role);
    this.drawElectionTimeout();
    // A real vote for oneself counts when it is durable (`onSaved`), a pre-vote binds nobody.
    if (name === "PreCandidate") this.countVote(role, this.settings.name);
  }

  /** Asks those whose vote is missing, again and again: a request or its reply may be lost. */
  private requestVotes(role: Campaigner): void {
    if (this.now < role.askedAt + this.settings.heartbeatMs) return;
    role.askedAt = this.now;
    const { campaigns: campaign, log } = this;
    const { lastIndex: lastLogIndex, lastTerm: lastLogTerm } = log;
    const preVote = role.name === "PreCandidate";
    const term = preVote ? this.currentTerm + 1 : this.currentTerm;
    for (const from of this.others.filter((name) => !role.votes.has(name))) {
      const fields = { term, preVote, campaign, lastLogIndex, lastLogTerm };
      this.send("RequestVote", { from, id: 0 }, fields);
    }
  }

  /**
   * RequestVote, receiver implementation (Figure 2). A pre-vote changes nothing at the receiver.
   */
  private onRequestVote(m: Of<"RequestVote">): void {
    // Who hears a leader neither votes nor takes the candidate's term for a fact (thesis §4.2.3).
    if (this.hearsLeader()) return this.replyVote(m, false);
    if (!m.preVote && m.term > this.currentTerm) this.adopt(m.term);
    // 1. Reply false if term < currentTerm (§5.1).
    if (m.term < this.currentTerm) return this.replyVote(m, false);
    // 2. If votedFor is null or candidateId, and candidate's log is at least as up-to-date as
    //    receiver's log, grant vote (§5.2, §5.4). In a term that is only proposed nobody has voted.
    const free = this.votedFor === undefined || this.votedFor === m.from;
    if (!free && m.term === this.currentTerm) return this.replyVote(m, false);
    if (!this.isUpToDate(m)) return this.replyVote(m, false);
    if (!m.preVote) {
      // A vote is a promise. We may make it once per term, and must remember it through a crash,
      // or two candidates could each count us: the reply leaves only when the disk has it (§5.2).
      if (this.votedFor === undefined) this.events.push({ type: "voted", candidate: m.from });
      this.votedFor = m.from;
      this.heardAt = this.now;
      this.drawElectionTimeout();
    }
    this.replyVote(m, true);
  }

  /**
   * The log whose last entry is of the later term wins; in the same term, the longer (§5.4.1).
   */
  private isUpToDate({ lastLogIndex, lastLogTerm }: Of<"RequestVote">): boolean {
    if (lastLogTerm !== this.log.lastTerm) return lastLogTerm > this.log.lastTerm;
    return lastLogIndex >= this.log.lastIndex;
  }

  private replyVote(m: Of<"RequestVote">, voteGranted: boolean): void {
    // A granted pre-vote is about the term that was proposed. A refusal tells our own, which the
    // asker adopts if it is higher: it would otherwise go on asking for a term that is over.
    const term = m.preVote && voteGranted ? m.term : this.currentTerm;
    const { preVote, campaign } = m;
    this.send("RequestVoteReply", m, { term, preVote, campaign, voteGranted });
  }

  private onRequestVoteReply(m: Of<"RequestVoteReply">): void {
    const { role } = this;
    if (role.name !== "PreCandidate" && role.name !== "Candidate") return;
    if (!m.voteGranted || m.preVote !== (role.name === "PreCandidate")) return;
    // A vote counts in its term, whichever request it answers. A pre-vote counts in its campaign:
    // nobody is bound by it, so an answer to an earlier one says nothing about now.
    const counts = m.preVote ? m.campaign === this.campaigns : m.term === this.currentTerm;
    if (counts) this.countVote(role, m.from);
  }

  private countVote(role: Campaigner, voter: Name): void {
    if (role.votes.has(voter) || !this.members.includes(voter)) return;
    role.votes.add(voter);
    const votes = role.votes.size;
    const elected = votes >= this.majority;
    if (role.name === "Candidate" && votes > 1) this.events.push({ type: "votes", votes, elected });
    if (!elected) return;
    if (role.name === "PreCandidate") this.campaign("Candidate");
    else this.lead();
  }

  private lead(): void {
    const firstIndex = this.log.lastIndex + 1;
    const followers = this.others.map(
      (name) => [name, new Progress(firstIndex, this.now)] as const,
    );
    this.become({ name: "Leader", followers: new Map(followers), round: 0, firstIndex, reads: [] });
    // An entry of an earlier term is only ever committed beneath one of our own (§5.4.2), so a
    // term begins with one that asks for nothing (§8). Sent at once, it is the first heartbeat
    // too.
    this.propose("noop", NOTHING);
  }

  // ------------------------------- 6 Replication and commitment --------------------------------
  // The leader's log is the truth, and followers are brought to agree with it (§5.3). An entry is
  // committed, and may be applied, once a majority has it durably and the leader of its own term
  // counted them (§5.4.2). Heartbeat, new entries, catch-up and retry are one act, `replicate`.

  /**
   * Sends what one follower lacks, as far as the window allows, or a heartbeat if one is due or a
   * read waits for it. A heartbeat is a question too: it names the last entry sent, so a follower
   * that lost something refuses it, and sending begins anew. There is no other retry.
   */
  private replicate(role: Leader, to: Name, follower: Progress): void {
    const { log, settings } = this;
    const read = role.reads.at(-1);
    const due = this.now >= follower.sentAt + settings.heartbeatMs;
    let owed = due || (read !== undefined && follower.sentRound <= read.round);
    // While nothing says that the logs agree where sending began, one batch is enough of a
    // question.
    const window = follower.matchIndex >= follower.sentFrom - 1 ? settings.windowBytes : 1;
    const first = Math.max(follower.matchIndex + 1, follower.sentFrom);
    while (
      follower.nextIndex <= log.lastIndex &&
      log.bytes(first, follower.nextIndex - 1) < window
    ) {
      const entries = log.batch(follower.nextIndex, settings.batchBytes);
      this.sendAppendEntries(role, to, follower, entries);
      owed = false;
    }
    if (owed) this.sendAppendEntries(role, to, follower, []);
  }

  private sendAppendEntries(role: Leader, from: Name, follower: Progress, entries: Entry[]): void {
    const { currentTerm: term, commitIndex: leaderCommit } = this;
    const prevLogIndex = follower.nextIndex - 1;
    const prevLogTerm = this.log.at(prevLogIndex).term;
    role.round += 1;
    follower.sentRound = role.round;
    follower.sentAt = this.now;
    follower.nextIndex += entries.length;
    const fields = { term, round: role.round, prevLogIndex, prevLogTerm, leaderCommit, entries };
    this.send("AppendEntries", { from, id: 0 }, fields);
  }

  /** AppendEntries, receiver implementation (Figure 2). */
  private onAppendEntries(m: Of<"AppendEntries">): void {
    // 1. Reply false if term < currentTerm (§5.1). A leader that is not told never steps down.
    if (m.term < this.currentTerm) return this.refuseEntries(m);
    this.follow(m.from); // Only this term's leader could have sent it.
    // 2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches
    // prevLogTerm.
    if (!this.log.matches(m.prevLogIndex, m.prevLogTerm)) return this.refuseEntries(m);
    // 3. If an existing entry conflicts with a new one, delete it and all that follow it.
    // 4. Append any new entries not already in the log.
    this.log.merge(m.entries, this.commitIndex);
    // 5. If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new
    // entry).
    //    That is never past what this very request vouches for: what we have behind it may come
    //    from a leader that failed.
    const matchIndex = m.prevLogIndex + m.entries.length;
    this.commitTo(Math.min(m.leaderCommit, matchIndex));
    const { currentTerm: term } = this;
    const fields = { term, round: m.round, success: true, matchIndex, hintIndex: 0, hintTerm: 0 };
    this.send("AppendEntriesReply", m, fields);
  }

  private follow(leader: Name): void {
    assert(this.leader === undefined || this.leader === leader, "a term has at most one leader");
    if (this.leader === undefined) this.become({ name: "Follower", leader });
    this.heardAt = this.now;
    this.drawElectionTimeout();
  }

  /** Refuses in such a way that the leader can skip a whole term in one round trip (§5.3). */
  private refuseEntries(m: Of<"AppendEntries">): void {
    // Where the logs agree, the entry's term is at most prevLogTerm: terms do not decrease.
    const hintIndex = this.log.lastUpTo(m.prevLogIndex, m.prevLogTerm);
    const hintTerm = this.log.at(hintIndex).term;
    const { currentTerm: term } = this;
    const fields = { term, round: m.round, success: false, matchIndex: 0, hintIndex, hintTerm };
    this.send("AppendEntriesReply", m, fields);
  }

  private onAppendEntriesReply(m: Of<"AppendEntriesReply">): void {
    const { role, log } = this;
    if (role.name !== "Leader" || m.term < this.currentTerm) return;
    const follower = role.followers.get(m.from);
    if (!follower || m.round > role.round || m.matchIndex > log.lastIndex) return;
    // Even a refusal is of our term, so it agrees that we lead.
    follower.heardAt = this.now;
    follower.confirmedRound = Math.max(follower.confirmedRound, m.round);
    if (m.success) {
      // Replies overtake each other, and what a follower has it keeps: never go back.
      follower.matchIndex = Math.max(follower.matchIndex, m.matchIndex);
      follower.nextIndex = Math.max(follower.nextIndex, m.matchIndex + 1);
      this.advanceCommitIndex(role);
    } else if (m.round > follower.refusedRound) {
      // All that is under way behind a lost request will be refused as well: begin anew only
      // once.
      follower.refusedRound = role.round;
      const hint = log.lastUpTo(m.hintIndex, m.hintTerm);
      follower.nextIndex = Math.max(follower.matchIndex, hint) + 1;
      follower.sentFrom = follower.nextIndex;
    }
  }

  /**
   * If there exists an N such that N > commitIndex, a majority of matchIndex[i] >= N, and
   * log[N].term
   * == currentTerm: set commitIndex = N (§5.3, §5.4). An entry of an earlier term may be on a
   * majority and yet be overwritten, by a leader that was elected without it (Figure 8).
   */
  private advanceCommitIndex(role: Leader): void {
    const n = this.reached(role, this.log.savedIndex, (f) => f.matchIndex);
    if (this.log.matches(n, this.currentTerm)) this.commitTo(n);
  }

  private commitTo(index: number): void {
    if (index <= this.commitIndex) return;
    this.commitIndex = index;
    this.events.push({ type: "committed", commitIndex: index });
  }

  // ----------------------------------- 7 Reads and sessions ------------------------------------
  // A read changes nothing, so it needs no entry in the log. But a leader may have been replaced
  // and not know it, so it asks a majority, once for all reads that wait (ReadIndex, thesis
  // §6.4). Sessions, the other half of what clients need, are a class of their own below.

  /** Registers a linearizable read. Returns its id for `takeReads`; undefined if not leading. */
  read(): number | undefined {
    const { role } = this;
    if (role.name !== "Leader") return undefined;
    // All that was committed when the read came must be applied when it is served. A leader that
    // has committed nothing in its own term cannot know what that is, but all of it is below its
    // no-op.
    const index = Math.max(this.commitIndex, role.firstIndex);
    this.lastReadId += 1;
    role.reads.push({ id: this.lastReadId, round: role.round, index });
    return this.lastReadId;
  }

  /** The reads that may now be answered from the state machine as it is. */
  takeReads(): number[] {
    const { role } = this;
    if (role.name !== "Leader") return [];
    // Only a round that was sent after a read came proves that we led when it came.
    const confirmed = this.reached(role, Number.POSITIVE_INFINITY, (f) => f.confirmedRound);
    const waiting = role.reads.findIndex((r) => r.round >= confirmed || r.index > this.lastApplied);
    const ready = role.reads.splice(0, waiting === -1 ? role.reads.length : waiting);
    return ready.map((read) => read.id);
  }

  // ----------------------------------------- 9 Members -----------------------------------------
  // Membership decides what is counted, never what is heard (thesis §4.1). Elections, commitment,
  // reads and CheckQuorum all count with `majority` and `reached`.

  get members(): readonly Name[] {
    return this.settings.members;
  }

  get others(): Name[] {
    return this.members.filter((name) => name !== this.settings.name);
  }

  get majority(): number {
    return Math.floor(this.members.length / 2) + 1;
  }

  /** The greatest value that a majority of the members has reached; `own` is this server's. */
  private reached(role: Leader, own: number, of: (follower: Progress) => number): number {
    const values = [own, ...role.followers.values().map(of)].sort((a, b) => b - a);
    return values[this.majority - 1] ?? 0;
  }
}

// ----------------------------------- 7, continued: Sessions ------------------------------------
// A client that gets no answer must ask again, perhaps another server, and its command must still
// be applied only once (thesis §6.3). So it opens a session, by an entry whose index is the
// session's id, and numbers its commands. The table of sessions is replicated like the state
// machine: the same entries make the same table everywhere, and no clock has a say in it.

/**
 * What is replicated. It must be deterministic: equal commands, in equal order, equal answers.
 */
export interface StateMachine {
  /** Applies a committed command and returns its answer. If it throws, the server stops. */
  apply(command: Uint8Array, index: number): Uint8Array;
  /** Answers a question about the state, without changing it. */
  query(question: Uint8Array): Uint8Array;
}

/** How many sessions are kept. Beyond that, the one that was used least recently ends. */
const MAX_SESSIONS = 10_000;

export class Sessions {
  private readonly open = new Map<
    number,
    { acknowledged: number; answers: Map<number, Uint8Array> }
  >();

  /** Applies a committed entry. Returns the answer, or a sentence that says why there is none. */
  apply(entry: Entry, machine: StateMachine): Uint8Array | string {
    if (entry.kind === "command") return this.applyCommand(entry, machine);
    if (entry.kind === "noop") return NOTHING;
    this.open.set(entry.index, { acknowledged: 0, answers: new Map() });
    const [oldest = 0] = this.open.keys();
    if (this.open.size > MAX_SESSIONS) this.open.delete(oldest);
    return Buffer.from(String(entry.index));
  }

  private applyCommand(entry: Entry, machine: StateMachine): Uint8Array | string {
    const [id, sequence, acknowledged] = readCommand(entry.data);
    const session = this.open.get(id);
    if (!session) return "the session has ended, or never was";
    this.open.delete(id); // To the end of the map: no session was used more recently.
    this.open.set(id, session);
    // What the client has seen is forgotten. All else is kept, not only the latest answer:
    // commands of a session may be under way together, and overtake each other.
    for (; session.acknowledged < acknowledged; session.acknowledged += 1) {
      session.answers.delete(session.acknowledged + 1);
    }
    if (sequence <= session.acknowledged) return "the client has already seen the answer";
    const answer =
      session.answers.get(sequence) ??
      machine.apply(entry.data.subarray(COMMAND_HEADER), entry.index);
    session.answers.set(sequence, answer);
    return answer;
  }
}

// ---------------------------------------- 10 Invariants ----------------------------------------
// What must be true of a server whenever a turn ends. It is checked in production too: it costs
// little beside a datagram, and a server that breaks a rule must not say another word.

export function checkInvariants(raft: Raft): void {
  const { log, role, saved, settings, currentTerm, votedFor, commitIndex, lastApplied } = raft;
  assert(lastApplied <= commitIndex, "only what is committed is applied");
  assert(commitIndex <= log.lastIndex, "only what is in the log is committed");
  assert(log.savedIndex <= log.lastIndex, "only what is in the log is saved");
  assert(log.lastTerm <= currentTerm, "the log knows no later term than its server");
  assert(saved.currentTerm <= currentTerm, "the disk knows no later term than its server");
  const campaigned = role.name === "Candidate" || role.name === "Leader";
  assert(!campaigned || votedFor === settings.name, "a candidate has voted for itself");
  if (role.name !== "Leader") return;
  assert(saved.currentTerm === currentTerm, "a leader's term is durable");
  assert(saved.votedFor === settings.name, "a leader's vote for itself is durable");
  assert(log.matches(role.firstIndex, currentTerm), "a leader's term begins with its no-op");
  for (const { matchIndex, nextIndex } of role.followers.values()) {
    assert(matchIndex < nextIndex, "no follower is sent what it has");
    assert(nextIndex <= log.lastIndex + 1, "no follower is sent what the leader does not have");
  }
}

// ================================== Part II: The machine room ==================================

// ----------------------------------------- 11 The wire -----------------------------------------
// A datagram is a code that authenticates the rest (16 bytes), the version of this format (1),
// the kind of the sender (1), then MessagePack: an envelope, and any number of messages. Numbers
// are at most 48 bits wide. An entry is encoded once, by the leader that accepts it: the bytes
// that its datagrams carry are the bytes that every disk keeps.

/**
 * What clients ask of servers, and what servers answer. Texts are empty where nothing is known.
 */
export const clientMessages = {
  OpenSession: {},
  Command: { data: "bytes" },
  Read: { question: "bytes" },
  Inspect: {},
  Answer: { answer: "bytes" },
  NotLeader: { leader: "text", address: "text" },
  Refused: { reason: "text" },
} as const satisfies Table;
export type ClientMessage = MessageOf<typeof clientMessages>;
type Unaddressed<M = ClientMessage> = M extends ClientMessage
  ? Omit<M, "from" | "to" | "id">
  : never;

/** The only answer to a datagram that was not meant for this server in its present life. */
const greetings = { Greeting: { asked: "text", members: "text" } } as const satisfies Table;
type Greeting = MessageOf<typeof greetings>;
type AnyMessage = Message | ClientMessage | Greeting;

/** Peers and clients have keys of their own, so that no client can forge an AppendEntries. */
export type Kind = "peer" | "client";
const layouts = {
  peer: Object.entries<Table[string]>({ ...messages, ...greetings }),
  client: Object.entries<Table[string]>({ ...clientMessages, ...greetings }),
};
const kinds = ["peer", "client"] as const;

/** Who speaks to whom. `boot` counts the starts of a server, `disk` is drawn at the first one. */
const envelopeTable = {
  cluster: "text",
  from: "text",
  to: "text",
  disk: "natural",
  boot: "natural",
  toBoot: "natural",
  sequence: "natural",
} as const satisfies Table[string];
type Envelope = Fields<typeof envelopeTable>;

const VERSION = 1;
const MAC_BYTES = 16;
const MAX_DATAGRAM_BYTES = 65_507;
const encoder = new Encoder();
/** Believes no claim of a size that a datagram could not hold: it would allocate by it. */
const decoder = new Decoder({
  maxStrLength: MAX_DATAGRAM_BYTES,
  maxBinLength: MAX_DATAGRAM_BYTES,
  maxArrayLength: 16,
  maxMapLength: 0,
  maxExtLength: 0,
});

/**
 * Reads a field of each kind. Undefined is not a value: the datagram that holds it is dropped.
 */
const readers: { [Kind in keyof FieldTypes]: (raw: unknown) => FieldTypes[Kind] | undefined } = {
  natural: (raw) => (isNatural(raw) ? raw : undefined),
  flag: (raw) => (typeof raw === "boolean" ? raw : undefined),
  text: (raw) => (typeof raw === "string" && raw.isWellFormed() ? raw : undefined),
  bytes: (raw) => (raw instanceof Uint8Array ? raw : undefined),
  entries: (raw) => (raw instanceof Uint8Array ? readRecords(asBuffer(raw)) : undefined),
};

function isNatural(raw: unknown): raw is number {
  return Number.isInteger(raw) && Number(raw) >= 0 && Number(raw) < 2 ** 48 && !Object.is(raw, -0);
}

function asBuffer(bytes: Uint8Array): Buffer {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
}

function writeFields(table: Table[string], values: Record<string, unknown>): unknown[] {
  return Object.entries(table).map(([field, kind]) => {
    const value = values[field];
    return kind === "entries" ? Buffer.concat((value as Entry[]).map((e) => e.record)) : value;
  });
}

function readFields<T extends Table[string]>(table: T, raw: unknown): Fields<T> | undefined {
  const fields = Object.entries(table);
  if (!Array.isArray(raw) || raw.length !== fields.length) return undefined;
  const values: Record<string, unknown> = {};
  for (const [i, [field, kind]] of fields.entries()) {
    const value = readers[kind](raw[i]);
    if (value === undefined) return undefined;
    values[field] = value;
  }
  return values as Fields<T>;
}

/** A message is [its place in the table of its kind, id, its fields in order]. */
function encodeMessage(kind: Kind, message: AnyMessage): Uint8Array {
  const number = layouts[kind].findIndex(([type]) => type === message.type);
  return encoder.encode([
    number,
    message.id,
    ...writeFields(layouts[kind][number]?.[1] ?? {}, message),
  ]);
}

function decodeMessage(kind: Kind, envelope: Envelope, raw: unknown): AnyMessage | undefined {
  if (!Array.isArray(raw)) return undefined;
  const [number, id, ...rest] = raw;
  const layout = layouts[kind][number];
  const fields = layout && readFields(layout[1], rest);
  if (!fields || !isNatural(id)) return undefined;
  const message = { ...fields, type: layout[0], from: envelope.from, to: envelope.to, id };
  // The table has made sure of every field; what remains is what it cannot say.
  const known = message as unknown as AnyMessage;
  return known.type === "AppendEntries" && !isCoherent(known) ? undefined : known;
}

/** Entries must be entries, follow on prevLogIndex without a gap, and be of no later term. */
function isCoherent({ term, prevLogIndex, entries }: Of<"AppendEntries">): boolean {
  return entries.every(
    (entry, i) =>
      entry.kind !== "start" &&
      entry.kind !== "vote" &&
      entry.index === prevLogIndex + 1 + i &&
      entry.term <= term,
  );
}

/** A key from a secret, for one kind of sender in one cluster. */
export function deriveKey(secret: string, kind: Kind, cluster: string): Bun.CryptoHasher {
  const derive = new Bun.CryptoHasher("sha256", secret);
  return new Bun.CryptoHasher("sha256", derive.update(`raft.ts ${kind} ${cluster}`).digest());
}
type Keys = Partial<Record<Kind, Bun.CryptoHasher>>;

function authenticate(key: Bun.CryptoHasher, sealed: Buffer): Buffer {
  return key.copy().update(sealed.subarray(MAC_BYTES)).digest().subarray(0, MAC_BYTES);
}

function seal(keys: Keys, kind: Kind, envelope: Envelope, bodies: Uint8Array[]): Buffer {
  const header = encoder.encode(writeFields(envelopeTable, envelope));
  const prefix = Buffer.alloc(MAC_BYTES + 2);
  prefix[MAC_BYTES] = VERSION;
  prefix[MAC_BYTES + 1] = kinds.indexOf(kind);
  const sealed = Buffer.concat([prefix, header, ...bodies]);
  const key = keys[kind];
  assert(key, "nobody speaks as a kind whose key it does not have");
  authenticate(key, sealed).copy(sealed);
  return sealed;
}

type Opened = { kind: Kind; envelope: Envelope; messages: AnyMessage[] };

/**
 * What a datagram says, or in a word why it is dropped. Nothing is decoded before the code is
 * right.
 */
function open(keys: Keys, sealed: Buffer): Opened | string {
  const kind = kinds[sealed[MAC_BYTES + 1] ?? -1];
  if (sealed.length <= MAC_BYTES + 2 || sealed[MAC_BYTES] !== VERSION || !kind) return "foreign";
  const key = keys[kind];
  if (!key || !timingSafeEqual(authenticate(key, sealed), sealed.subarray(0, MAC_BYTES))) {
    return "unauthenticated";
  }
  try {
    const [header, ...bodies] = decoder.decodeMulti(sealed.subarray(MAC_BYTES + 2));
    const envelope = readFields(envelopeTable, header);
    if (!envelope) return "malformed";
    const decoded = bodies.map((body) => decodeMessage(kind, envelope, body));
    const messages = decoded.filter((message) => message !== undefined);
    return messages.length === bodies.length ? { kind, envelope, messages } : "malformed";
  } catch {
    return "malformed"; // This is how the decoder says that the bytes are not MessagePack.
  }
}

const RECORD_HEADER = 17;
const recordKinds = ["start", "vote", "noop", "session", "command"] as const;

/** A record is kind (1 byte), term (6), index (6), length of the data (4), data; big-endian. */
export function makeEntry(
  index: number,
  term: number,
  kind: Entry["kind"],
  data: Uint8Array,
): Entry {
  const record = Buffer.allocUnsafe(RECORD_HEADER + data.length);
  record[0] = recordKinds.indexOf(kind);
  record.writeUIntBE(term, 1, 6);
  record.writeUIntBE(index, 7, 6);
  record.writeUInt32BE(data.length, 13);
  record.set(data, RECORD_HEADER);
  return { index, term, kind, data: record.subarray(RECORD_HEADER), record };
}

/** The records that `bytes` consists of; undefined if it is anything else. */
export function readRecords(bytes: Buffer): Entry[] | undefined {
  const records: Entry[] = [];
  for (let at = 0; at < bytes.length; ) {
    if (at + RECORD_HEADER > bytes.length) return undefined;
    const kind = recordKinds[bytes[at] ?? -1];
    const end = at + RECORD_HEADER + bytes.readUInt32BE(at + 13);
    if (kind === undefined || end > bytes.length) return undefined;
    const term = bytes.readUIntBE(at + 1, 6);
    const index = bytes.readUIntBE(at + 7, 6);
    const [data, record] = [bytes.subarray(at + RECORD_HEADER, end), bytes.subarray(at, end)];
    records.push({ index, term, kind, data, record });
    at = end;
  }
  return records;
}

/**
 * A command's data: session, sequence and acknowledged (6 bytes each), then the command itself.
 */
const COMMAND_HEADER = 18;

export function makeCommand(header: [number, number, number], command: Uint8Array): Buffer {
  const data = Buffer.allocUnsafe(COMMAND_HEADER + command.length);
  for (const [i, number] of header.entries()) data.writeUIntBE(number, 6 * i, 6);
  data.set(command, COMMAND_HEADER);
  return data;
}

function readCommand(data: Buffer): [session: number, sequence: number, acknowledged: number] {
  return [data.readUIntBE(0, 6), data.readUIntBE(6, 6), data.readUIntBE(12, 6)];
}

// -------------------------------------- 12 Stable storage --------------------------------------
// One file, `log`, that is only ever appended to: entries, terms and votes are records in it, so
// a single sync makes all of a turn durable, in order. What one sync covers is one frame: marker,
// length and CRC-32 (4 bytes each), records. If the power fails, the last frame may be torn, but
// it was not yet promised to anyone. A damaged frame with a good one behind it was synced, and
// promised: that is not ours to repair. The marker is random, so no client can forge a frame.

/** What went wrong, for programs: `code` is stable, `message` is for people. */
export class RaftError extends Error {
  constructor(
    readonly code: "storage" | "network" | "usage" | "refused" | "timeout" | "outcomeUnknown",
    message: string,
  ) {
    super(message);
  }
}

/**
 * The file system, as far as a server needs it. All calls may throw; none may do half of its
 * work.
 */
export interface Files {
  /**
   * Makes the directory if there is none, and holds it for this process: a second call throws
   * until the returned function is called, or the process ends in whatever way.
   */
  lock(directory: string): () => void;
  read(file: string): Buffer | undefined;
  /** Creates an empty file in place of any that is there. */
  create(file: string): WritableFile;
  /** Durable when it returns. */
  rename(from: string, to: string): void;
}
export interface WritableFile {
  write(bytes: Uint8Array, position: number): void;
  /**
   * Extends the file with zeros, so that a sync after a later write has no new length to store.
   */
  extend(size: number): void;
  sync(): void;
  close(): void;
}

/**
 * Whose data a directory holds. `id` tells clusters apart, `disk` is drawn at the first start.
 */
export type Identity = {
  cluster: string;
  id: string;
  name: Name;
  members: readonly Name[];
  disk: number;
  boot: number;
};

const LOG_MAGIC = Buffer.from("raft.ts\n");
const LOG_HEADER_BYTES = 16; // the magic, the marker, the CRC-32 of both
const FRAME_HEADER_BYTES = 12;
const EXTEND_BYTES = 4 << 20;
const ENTRIES_PER_FRAME = 1000;

export class Storage {
  readonly identity: Identity;
  hardState: HardState = { currentTerm: 0, votedFor: undefined };
  readonly entries: Entry[] = [];
  /** How much of an unfinished write was cut off the log at this start, and kept as `log.cut`. */
  cutBytes = 0;
  private readonly file: WritableFile;
  private readonly marker = Buffer.alloc(4);
  private end = LOG_HEADER_BYTES;
  private size = 0;

  /** Takes a directory, which is made if there is none, for the founder or whoever was there. */
  static open(
    files: Files,
    directory: string,
    founder: Omit<Identity, "id" | "disk" | "boot">,
    random: () => number,
  ): Storage {
    const release = attempt(`use ${directory}`, () => files.lock(directory));
    try {
      return new Storage(files, directory, founder, random, release);
    } catch (error) {
      release();
      throw error;
    }
  }

  private constructor(
    private readonly files: Files,
    private readonly directory: string,
    founder: Omit<Identity, "id" | "disk" | "boot">,
    random: () => number,
    private readonly release: () => void,
  ) {
    const log = path.join(directory, "log");
    const found = attempt(`read ${log}`, () => files.read(log));
    const before = found ? this.recover(found) : foundCluster(founder, random);
    if (before.name !== founder.name || before.cluster !== founder.cluster) {
      const owner = `server ${before.name} of cluster ${before.cluster}`;
      throw new RaftError(
        "storage",
        `${directory} holds the data of ${owner}, not of ${founder.name} of ${founder.cluster}. ` +
          "Choose another --data, or start that server.",
      );
    }
    this.identity = { ...before, boot: before.boot + 1 };
    this.marker.writeUInt32BE(1 + Math.floor(random() * (2 ** 32 - 1)));
    this.file = attempt(`write ${log}`, () => this.rewrite(log));
  }

  /**
   * Writes all that is known to a new file and puts it in the place of the old one. What was read
   * at the start is not yet durable: if a crash came between write and sync, it may only be in
   * the page cache. It is written again, and synced, before anything is promised (thesis §3.8).
   */
  private rewrite(log: string): WritableFile {
    const file = this.files.create(`${log}.new`);
    const header = Buffer.concat([LOG_MAGIC, this.marker]);
    file.write(Buffer.concat([header, checksum(header)]), 0);
    const start = Buffer.from(JSON.stringify(this.identity));
    this.writeFrame(file, [makeEntry(0, 0, "start", start).record, this.voteRecord()]);
    for (let i = 0; i < this.entries.length; i += ENTRIES_PER_FRAME) {
      const entries = this.entries.slice(i, i + ENTRIES_PER_FRAME);
      this.writeFrame(
        file,
        entries.map((entry) => entry.record),
      );
    }
    file.sync();
    this.files.rename(`${log}.new`, log);
    return file;
  }

  /**
   * Makes all of it durable, by one sync. After an error nothing is certain: the server must
   * stop.
   */
  save({ currentTerm, votedFor, entries }: HardState & { entries: readonly Entry[] }): void {
    const before = this.hardState;
    const records = entries.map((entry) => entry.record);
    this.hardState = { currentTerm, votedFor };
    if (before.currentTerm !== currentTerm || before.votedFor !== votedFor) {
      records.unshift(this.voteRecord());
    }
    attempt(
      `write ${this.directory}/log, and a server must not promise what it cannot keep`,
      () => {
        this.writeFrame(this.file, records);
        this.file.sync();
      },
    );
  }

  close(): void {
    this.file.close();
    this.release();
  }

  private voteRecord(): Buffer {
    const { currentTerm, votedFor = "" } = this.hardState;
    return makeEntry(0, currentTerm, "vote", Buffer.from(votedFor)).record;
  }

  private writeFrame(file: WritableFile, records: Buffer[]): void {
    const frame = Buffer.concat([Buffer.alloc(FRAME_HEADER_BYTES), ...records]);
    const body = frame.subarray(FRAME_HEADER_BYTES);
    this.marker.copy(frame);
    frame.writeUInt32BE(body.length, 4);
    checksum(body).copy(frame, 8);
    if (this.end + frame.length > this.size) {
      this.size = this.end + frame.length + EXTEND_BYTES;
      file.extend(this.size);
    }
    file.write(frame, this.end);
    this.end += frame.length;
  }

  /** Reads a log from its beginning to the last whole frame. Returns whose it is. */
  private recover(log: Buffer): Identity {
    const header = log.subarray(0, LOG_HEADER_BYTES - 4);
    const isLog = log.subarray(0, LOG_MAGIC.length).equals(LOG_MAGIC);
    if (!isLog || !checksum(header).equals(log.subarray(header.length, LOG_HEADER_BYTES))) {
      throw this.damaged("does not begin like a log of raft.ts");
    }
    const marker = header.subarray(LOG_MAGIC.length);
    let identity: Identity | undefined;
    let at = LOG_HEADER_BYTES;
    for (let frame = readFrame(log, at, marker); frame; frame = readFrame(log, at, marker)) {
      for (const record of frame.records) {
        if (record.kind === "start") identity = JSON.parse(record.data.toString());
        else this.replay(record);
      }
      at = frame.end;
    }
    const rest = log.subarray(at);
    if (!rest.equals(Buffer.alloc(rest.length))) this.cut(log, at, marker);
    if (!identity) throw this.damaged("does not say whose it is");
    return identity;
  }

  private replay(record: Entry): void {
    if (record.kind === "vote") {
      const votedFor = record.data.length > 0 ? record.data.toString() : undefined;
      this.hardState = { currentTerm: record.term, votedFor };
      return;
    }
    if (record.index > this.entries.length + 1)
      throw this.damaged(`lacks entry ${record.index - 1}`);
    this.entries.length = record.index - 1; // An entry takes the place of all that conflicts with it.
    this.entries.push(record);
  }

  /**
   * What follows the last whole frame is a write that was never finished, or else it is damage.
   */
  private cut(log: Buffer, end: number, marker: Buffer): void {
    for (let at = log.indexOf(marker, end + 1); at !== -1; at = log.indexOf(marker, at + 1)) {
      if (!readFrame(log, at, marker)) continue;
      throw this.damaged(`is damaged at byte ${end}, though all is well again at byte ${at}`);
    }
    const rest = log.subarray(end);
    this.cutBytes = rest.length;
    const file = this.files.create(path.join(this.directory, "log.cut"));
    file.write(rest, 0);
    file.close();
  }

  private damaged(how: string): RaftError {
    return new RaftError(
      "storage",
      `${this.directory}/log ${how}. Nothing was changed. A majority of the other servers has all ` +
        "that was acknowledged: restore this file, or replace this server by a new one.",
    );
  }
}

function foundCluster(
  founder: Omit<Identity, "id" | "disk" | "boot">,
  random: () => number,
): Identity {
  const disk = 1 + Math.floor(random() * (2 ** 48 - 1));
  // A digest of name and members: servers that were given different lists are different clusters.
  // Those of one member would otherwise be too much alike.
  const members = founder.members.toSorted();
  const seed = JSON.stringify([founder.cluster, ...members, members.length === 1 ? disk : 0]);
  const id = new Bun.CryptoHasher("sha256").update(seed).digest("hex").slice(0, 16);
  return { ...founder, members, id, disk, boot: 0 };
}

function checksum(bytes: Uint8Array): Buffer {
  const sum = Buffer.alloc(4);
  sum.writeUInt32BE(Bun.hash.crc32(bytes));
  return sum;
}

function readFrame(
  log: Buffer,
  at: number,
  marker: Buffer,
): { records: Entry[]; end: number } | undefined {
  const start = at + FRAME_HEADER_BYTES;
  if (start > log.length || !log.subarray(at, at + 4).equals(marker)) return undefined;
  const end = start + log.readUInt32BE(at + 4);
  const body = log.subarray(start, end);
  if (end > log.length || !checksum(body).equals(log.subarray(at + 8, start))) return undefined;
  const records = readRecords(body);
  return records && { records, end };
}

/** Turns what the system says into a sentence that says what could not be done. */
function attempt<T>(what: string, action: () => T): T {
  try {
    return action();
  } catch (error) {
    if (error instanceof RaftError) throw error;
    throw new RaftError("storage", `Cannot ${what}: ${(error as Error).message}.`);
  }
}

export const systemFiles: Files = {
  lock(directory) {
    const made = fs.mkdirSync(directory, { recursive: true, mode: 0o700 });
    // A new directory is durable when its parent is synced, and so on up to the first one made.
    const stop = path.dirname(path.resolve(made ?? directory));
    for (let at = path.resolve(directory); made && at !== stop; ) {
      at = path.dirname(at);
      syncDirectory(at);
    }
    // Bun has no flock, but SQLite locks its files, and the kernel unlocks them with the process.
    const lock = new Database(path.join(directory, "lock"), { create: true });
    try {
      lock.run("PRAGMA journal_mode = MEMORY");
      lock.run("BEGIN EXCLUSIVE");
    } catch (error) {
      lock.close();
      if ((error as { code?: string }).code !== "SQLITE_BUSY") throw error;
      const use = `${directory} is in use by a running server.`;
      throw new RaftError("storage", `${use} Stop that server, or choose another --data.`);
    }
    return () => lock.close();
  },
  read(file) {
    return fs.existsSync(file) ? fs.readFileSync(file) : undefined;
  },
  create(file) {
    const fd = fs.openSync(file, "w", 0o600);
    return {
      write(bytes, position) {
        // A full disk shows itself by a short count before it is an error.
        for (let at = 0; at < bytes.length; ) {
          at += fs.writeSync(fd, bytes, at, bytes.length - at, position + at);
        }
      },
      extend: (size) => fs.ftruncateSync(fd, size),
      sync: () => fs.fdatasyncSync(fd),
      close: () => fs.closeSync(fd),
    };
  },
  rename(from, to) {
    fs.renameSync(from, to);
    syncDirectory(path.dirname(to));
  },
};

function syncDirectory(directory: string): void {
  const fd = fs.openSync(directory, "r");
  fs.fsyncSync(fd);
  fs.closeSync(fd);
}

// ------------------------------------ 13 Datagrams and RPC -------------------------------------
// UDP loses, repeats, reorders and delays, and anyone can send it. Here it becomes what Part I
// expects: messages that a member of this cluster meant for this server in its present life, each
// delivered at most once. A datagram names the boot of its receiver, so what was recorded before
// a restart is worthless after it. Who has the wrong name or boot for us is greeted, and learns.

/** An IP address, or a name that resolves to one, and a port. */
export type Address = { host: string; port: number };
/** A server as its peers and its clients know it. */
export type Server = Address & { name: Name };

/**
 * Reads `HOST:PORT`, or `NAME=HOST:PORT`. Throws a RaftError, "usage", that says what is wrong.
 */
export function parseServer(text: string): Server {
  const match = /^(?:(?<name>[^=,\s]+)=)?(?<host>[^=:,\s]+):(?<port>\d+)$/.exec(text);
  const { name, host = "", port = "" } = match?.groups ?? {};
  if (!match || Number(port) < 1 || Number(port) > 65_535) {
    const want = "Write HOST:PORT or NAME=HOST:PORT, with a port from 1 to 65535.";
    throw new RaftError("usage", `"${text}" is not the address of a server. ${want}`);
  }
  return { name: name ?? `${host}:${port}`, host, port: Number(port) };
}

/** Milliseconds from an arbitrary origin that never go back. */
export interface Clock {
  now(): number;
  /** Returns a function that cancels it. */
  setTimer(delayMs: number, action: () => void): () => void;
  /** Runs the action when what has arrived by then was received. */
  defer(action: () => void): void;
}
export interface Socket {
  readonly receiveBufferBytes: number;
  /** Never throws: what cannot be sent is lost, as datagrams are. */
  send(bytes: Buffer, to: Address): void;
  close(): void;
}
export interface Datagrams {
  /** Finds the IP address of a host. */
  resolve(host: string): Promise<string>;
  /** Each datagram comes in a buffer of its own, which the receiver may keep. */
  bind(at: Address, receive: (bytes: Buffer, from: Address) => void): Promise<Socket>;
}
/** The four ways in which anything impure gets in. `random` yields numbers in [0, 1). */
export type World = { clock: Clock; random: () => number; datagrams: Datagrams; files: Files };

export const systemWorld: World = {
  clock: {
    now: () => performance.now(),
    setTimer(delayMs, action) {
      const timer = setTimeout(action, delayMs);
      return () => clearTimeout(timer);
    },
    defer: (action) => void setImmediate(action),
  },
  random: () => (crypto.getRandomValues(new Uint32Array(1))[0] ?? 0) / 2 ** 32,
  datagrams: {
    resolve: async (host) => (await dns.lookup(host, 4)).address,
    bind: bindSocket,
  },
  files: systemFiles,
};

/** The kernel drops what its buffer cannot hold while we sync, so ask for a large one. */
const RECEIVE_BUFFER_BYTES = 4 << 20;

async function bindSocket(
  { host, port }: Address,
  receive: (bytes: Buffer, from: Address) => void,
): Promise<Socket> {
  const socket = dgram.createSocket({
    type: "udp4",
    recvBufferSize: RECEIVE_BUFFER_BYTES,
    lookup: (address, _options, done) => done(null, address, 4), // We resolve names ourselves.
  });
  const { address } = await dns.lookup(host, 4).catch(() => ({ address: undefined }));
  try {
    if (!address) throw { code: "ENOTFOUND" };
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ address, port, exclusive: true }, resolve);
    });
  } catch (error) {
    throw new RaftError("network", `Cannot listen on ${host}:${port}: ${whyNot(error)}`);
  }
  socket.removeAllListeners("error");
  socket.on("error", () => {}); // A refusal by some peer's port; it says nothing about this socket.
  socket.on("message", (bytes, from) => receive(bytes, { host: from.address, port: from.port }));
  return {
    receiveBufferBytes: socket.getRecvBufferSize(),
    send(bytes, to) {
      // If nobody listens at one peer, the kernel fails the *next* send, to whomever. Once more
      // helps.
      socket.send(bytes, to.port, to.host, (error) => {
        if (error) socket.send(bytes, to.port, to.host, () => {});
      });
    },
    close: () => void socket.close(),
  };
}

function whyNot(error: unknown): string {
  const { code, message } = error as { code?: string; message?: string };
  const own = Object.values(networkInterfaces()).flatMap((list = []) => list);
  const addresses = own.filter(({ family }) => family === "IPv4").map(({ address }) => address);
  const use = `Use one of ${addresses.join(", ")}, or 0.0.0.0.`;
  if (code === "ENOTFOUND") return `the name does not resolve to an address. ${use}`;
  if (code === "EADDRNOTAVAIL") return `no network interface has that address. ${use}`;
  if (code === "EADDRINUSE")
    return "another process has that port. Stop it, or use another --port.";
  if (code === "EACCES") return "this user may not use that port. Use one from 1024 on.";
  return message ?? "the system does not say why.";
}

/** How many of the last datagrams of a sender are told apart. It must exceed any reordering. */
const SEEN = 1024;
const MAX_CORRESPONDENTS = 4096;
const RESOLVE_EVERY_MS = 5000;
const GREET_EVERY_MS = 10;
/**
 * What an Ethernet frame holds, less the headers: a fragmented datagram is lost with any
 * fragment.
 */
const DATAGRAM_BYTES = 1400;
const ENVELOPE_BYTES = 150;

/** Somebody that we exchange datagrams with. */
class Correspondent {
  address: Address | undefined;
  disk = 0;
  boot = 0;
  sent = 0;
  heardAt = Number.NEGATIVE_INFINITY;
  resolvedAt = Number.NEGATIVE_INFINITY;
  greetedAt = Number.NEGATIVE_INFINITY;
  told = "";
  bodies: Uint8Array[] = [];
  bytes = 0;
  private newest = 0;
  private readonly seen = new Float64Array(SEEN);

  constructor(
    readonly kind: Kind,
    readonly name: Name,
    public server?: Server,
  ) {}

  /** Whether it can be the sender: nobody returns to an earlier life, or with another disk. */
  recognises({ boot, disk }: Envelope): boolean {
    if (boot < this.boot || (this.disk !== 0 && disk !== this.disk)) return false;
    if (boot > this.boot) {
      this.boot = boot;
      this.disk = disk;
      this.newest = 0;
      this.seen.fill(0);
    }
    return true;
  }

  /** Accepts every sequence number once: a slot of `seen` only ever grows. */
  accepts(sequence: number, from: Address): boolean {
    if (sequence <= (this.seen[sequence % SEEN] ?? 0)) return false;
    this.seen[sequence % SEEN] = sequence;
    if (sequence > this.newest) {
      this.newest = sequence;
      this.address = from; // Where its newest datagram came from is where it is.
    }
    return true;
  }
}

/** What an endpoint does with what it has authenticated. */
export type Receiver = {
  onMessage(message: Message | ClientMessage): void;
  onGreeting(): void;
  tell(event: EndpointEvent): void;
};
export type EndpointEvent =
  | { type: "unresolved"; server: Server }
  | { type: "foreign"; server: Name; members: string };

/** One socket and all that are known on it. Messages are packed into datagrams until `flush`. */
export class Endpoint {
  /** Datagrams that were dropped, by reason. */
  readonly dropped: Record<string, number> = {};
  private readonly known = new Map<string, Correspondent>();
  private readonly queued = new Set<Correspondent>();

  constructor(
    private readonly world: World,
    private readonly socket: Socket,
    private readonly keys: Keys,
    private readonly self: Omit<Identity, "cluster">,
    private readonly receiver: Receiver,
  ) {}

  /** Says where a server is, and says hello: its greeting tells its boot before it is needed. */
  async introduce(kind: Kind, server: Server): Promise<void> {
    const correspondent = this.meet(kind, server.name);
    correspondent.server = server;
    await this.resolve(correspondent, server);
    this.transmit(correspondent);
  }

  send(kind: Kind, message: Message | ClientMessage): void {
    const to = this.meet(kind, message.to);
    const body = encodeMessage(kind, message);
    if (to.bytes + body.length > DATAGRAM_BYTES - ENVELOPE_BYTES) this.transmit(to);
    to.bodies.push(body);
    to.bytes += body.length;
    this.queued.add(to);
  }

  flush(): void {
    for (const correspondent of this.queued) this.transmit(correspondent);
    this.queued.clear();
  }

  receive(sealed: Buffer, from: Address): void {
    const opened = open(this.keys, sealed);
    if (typeof opened === "string") return this.drop(opened);
    const { kind, envelope, messages } = opened;
    if (envelope.from === this.self.name) return this.drop("reflected");
    const sender = this.meet(kind, envelope.from);
    if (!sender.recognises(envelope)) return this.drop("outdated");
    const [greeting] = messages.filter((message) => message.type === "Greeting");
    const meant = envelope.to === this.self.name && envelope.toBoot === this.self.boot;
    if (!meant || (!greeting && envelope.cluster !== this.self.id)) {
      this.drop("misaddressed");
      return greeting ? undefined : this.greet(sender, envelope, from);
    }
    if (!sender.accepts(envelope.sequence, from)) return this.drop("repeated");
    sender.heardAt = this.world.clock.now();
    if (greeting) return this.onGreeting(sender, envelope, greeting);
    for (const message of messages) {
      if (message.type !== "Greeting") this.receiver.onMessage(message);
    }
  }

  /** A greeting tells who we are to one who has it wrong, but not more often than needed. */
  private greet(to: Correspondent, { to: asked }: Envelope, address: Address): void {
    const now = this.world.clock.now();
    if (now < to.greetedAt + GREET_EVERY_MS) return;
    to.greetedAt = now;
    const { name: from } = this.self;
    const members = this.self.members.join(", ");
    const message = { type: "Greeting", from, to: to.name, id: 0, asked, members } as const;
    this.socket.send(this.seal(to, [encodeMessage(to.kind, message)]), address);
  }

  private onGreeting(
    from: Correspondent,
    { cluster }: Envelope,
    { asked, members }: Greeting,
  ): void {
    if (this.self.id === "") this.self.id = cluster; // A client joins the cluster it finds.
    if (cluster !== this.self.id)
      return this.tell(from, { type: "foreign", server: from.name, members });
    // A client may know a server by an address and not by its name. Both now mean the same.
    this.known.set(`${from.kind} ${asked}`, from);
    this.receiver.onGreeting();
  }

  private meet(kind: Kind, name: Name): Correspondent {
    const key = `${kind} ${name}`;
    const met = this.known.get(key) ?? new Correspondent(kind, name);
    if (this.known.has(key)) return met;
    this.known.set(key, met);
    if (this.known.size > MAX_CORRESPONDENTS) {
      const [oldest] = this.known.entries().filter(([, { server }]) => !server);
      if (oldest) this.known.delete(oldest[0]);
    }
    return met;
  }

  private transmit(to: Correspondent): void {
    const { bodies } = to;
    to.bodies = [];
    to.bytes = 0;
    const silentSince = Math.max(to.heardAt, to.resolvedAt);
    if (to.server && this.world.clock.now() > silentSince + RESOLVE_EVERY_MS) {
      void this.resolve(to, to.server);
    }
    if (to.address) this.socket.send(this.seal(to, bodies), to.address);
  }

  private seal(to: Correspondent, bodies: Uint8Array[]): Buffer {
    const { id: cluster, name: from, disk, boot } = this.self;
    to.sent += 1;
    const { name, boot: toBoot, sent: sequence } = to;
    const envelope = { cluster, from, to: name, disk, boot, toBoot, sequence };
    return seal(this.keys, to.kind, envelope, bodies);
  }

  /** A peer whose name does not resolve, or no longer to where it is, may come back any time. */
  private async resolve(correspondent: Correspondent, server: Server): Promise<void> {
    correspondent.resolvedAt = this.world.clock.now();
    try {
      const host = await this.world.datagrams.resolve(server.host);
      correspondent.address = { host, port: server.port };
      correspondent.told = "";
    } catch {
      this.tell(correspondent, { type: "unresolved", server });
    }
  }

  private tell(about: Correspondent, event: EndpointEvent): void {
    if (about.told === event.type) return;
    about.told = event.type;
    this.receiver.tell(event);
  }

  private drop(reason: string): void {
    this.dropped[reason] = (this.dropped[reason] ?? 0) + 1;
  }
}

/** The requests that are under way: numbers them, knows their replies, and how long they took. */
export class Calls<What> {
  private lastId = 0;
  private readonly pending = new Map<number, { what: What; sentAt: number }>();

  start(what: What, sentAt: number): number {
    this.lastId += 1;
    this.pending.set(this.lastId, { what, sentAt });
    return this.lastId;
  }

  /** The request that a reply belongs to. Undefined for a second reply, and for one too late. */
  finish(id: number): { what: What; sentAt: number } | undefined {
    const call = this.pending.get(id);
    this.pending.delete(id);
    return call;
  }

  /** Gives up the requests that were sent before an instant. They are in the order of sending. */
  expire(before: number): void {
    for (const [id, { sentAt }] of this.pending) {
      if (sentAt >= before) return;
      this.pending.delete(id);
    }
  }
}

// ----------------------------- 14 A running node, and its clients ------------------------------
// A node is a server that runs: the algorithm of Part I, with a disk, a socket and a state
// machine. What has arrived in one turn of the event loop is carried out together, by one
// `flush`.

export type NodeEvent =
  | Event
  | EndpointEvent
  | { type: "listening"; cutBytes: number }
  | { type: "slow"; peer: Name; ms: number }
  | { type: "otherMembers"; members: readonly Name[] };

export type NodeOptions = {
  /** Where this server listens; a host name or an IP address of this machine. */
  host: string;
  port: number;
  /** By what name its peers know it. Default: `host:port`. */
  name?: Name;
  /** The other servers, each `HOST:PORT` or `NAME=HOST:PORT`. */
  peers: readonly string[];
  directory: string;
  machine: StateMachine;
  /** Servers and clients of one cluster agree on its name. Default: "raft". */
  cluster?: string;
  /** Servers and clients of one cluster agree on it. Default: "", which keeps nobody out. */
  secret?: string;
  /** Default: 1000. */
  electionTimeoutMs?: number;
  /** Default: 100. At most half of the election timeout. */
  heartbeatMs?: number;
  /** How long `propose` and `read` wait. Default: 5000. */
  timeoutMs?: number;
  onEvent?: (event: NodeEvent) => void;
  world?: World;
};

/**
 * The largest command or question, in bytes: what one datagram holds beside envelope and record.
 */
export const MAX_COMMAND_BYTES = 64_000;

/** Who asked, and with which request: what it takes to answer. */
type Asker = { from: Name; id: number };

export class Node {
  /** Resolves when the server has stopped; rejects when it had to, with the reason. */
  readonly stopped: Promise<void>;
  /** Reaches the leader, wherever it is. */
  readonly client: Client;
  private readonly core: Raft;
  private readonly endpoint: Endpoint;
  private readonly sessions = new Sessions();
  private readonly calls = new Calls<Name>();
  /** Clients that wait for the entry at an index, and the term in which it was proposed. */
  private readonly proposals = new Map<number, Asker & { term: number }>();
  private readonly questions = new Map<number, Asker & { question: Uint8Array }>();
  private readonly slow = new Set<Name>();
  private readonly end = Promise.withResolvers<void>();
  private isStopping = false;
  private isScheduled = false;
  private wakesAt = Number.POSITIVE_INFINITY;
  private cancelTimer = () => {};

  /**
   * Starts a server with what its directory remembers. Throws a RaftError: "usage" if the options
   * contradict each other, "network" if it cannot listen, "storage" if the directory is in use,
   * of another server, damaged or not writable.
   */
  static async start(options: NodeOptions): Promise<Node> {
    const { host, port, cluster = "raft", world = systemWorld } = options;
    const name = options.name ?? `${host}:${port}`;
    const peers = options.peers.map(parseServer);
    const members = [name, ...peers.map((peer) => peer.name)];
    if (new Set(members).size < members.length) {
      const list = members.join(", ");
      throw new RaftError("usage", `Every server must be listed once, without this one: ${list}.`);
    }
    let node: Node | undefined;
    const socket = await world.datagrams.bind({ host, port }, (bytes, from) =>
      node?.guard(() => node?.endpoint.receive(bytes, from)),
    );
    try {
      const founder = { cluster, name, members };
      const storage = Storage.open(world.files, options.directory, founder, world.random);
      node = new Node(options, peers, world, socket, storage);
      return node;
    } catch (error) {
      socket.close();
      throw error;
    }
  }

  private constructor(
    private readonly options: NodeOptions,
    private readonly peers: readonly Server[],
    private readonly world: World,
    private readonly socket: Socket,
    private readonly storage: Storage,
  ) {
    const { electionTimeoutMs = 1000, heartbeatMs = 100, timeoutMs = 5000, secret = "" } = options;
    const { identity, hardState, entries } = storage;
    const { name, members, cluster } = identity;
    const settings = {
      name,
      members,
      electionTimeoutMs,
      heartbeatMs,
      batchBytes: DATAGRAM_BYTES - ENVELOPE_BYTES - 50,
      windowBytes: socket.receiveBufferBytes / 4, // The kernel counts much more than the payload.
    };
    const { clock, random } = world;
    this.core = new Raft(settings, { ...hardState, entries }, clock.now(), random);
    const keys = {
      peer: deriveKey(secret, "peer", cluster),
      client: deriveKey(secret, "client", cluster),
    };
    this.endpoint = new Endpoint(world, socket, keys, identity, {
      onMessage: (message) => this.onMessage(message),
      onGreeting: () => this.client.askAgain(),
      tell: (event) => options.onEvent?.(event),
    });
    this.client = new Client(clock, name, [...members], timeoutMs, {
      send: (message) => {
        if (message.to === name) this.onClientMessage(message);
        else this.endpoint.send("client", message);
        this.schedule();
      },
      introduce: (server) => void this.endpoint.introduce("client", server),
      close: () => {},
    });
    this.stopped = this.end.promise;
    this.tell({ type: "listening", cutBytes: storage.cutBytes });
    for (const peer of peers) {
      void this.endpoint.introduce("peer", peer);
      void this.endpoint.introduce("client", peer);
    }
    this.schedule();
  }

  get name(): Name {
    return this.storage.identity.name;
  }

  /**
   * Replicates a command, applies it once, and resolves to its answer. Rejects with a RaftError:
   * "refused" if it is too large, "outcomeUnknown" if there was no answer in time. Such a command
   * may have been applied, or may be yet.
   */
  propose(command: Uint8Array): Promise<Uint8Array> {
    return this.client.propose(command);
  }

  /**
   * Asks the state machine, and resolves to an answer that reflects every command that was
   * answered before (it is linearizable). Rejects with a RaftError: "timeout", or "refused".
   */
  read(question: Uint8Array): Promise<Uint8Array> {
    return this.client.read(question);
  }

  status() {
    const { core, storage, endpoint } = this;
    const { currentTerm: term, commitIndex, lastApplied, leader, members, log } = core;
    const { name, cluster, boot } = storage.identity;
    const role = core.role.name === "PreCandidate" ? "Follower" : core.role.name;
    const { dropped } = endpoint;
    const { lastIndex } = log;
    return {
      name,
      cluster,
      role,
      term,
      leader,
      lastIndex,
      commitIndex,
      lastApplied,
      members,
      boot,
      dropped,
    };
  }

  /** Stops serving, and lets go of socket and directory. What was acknowledged is on the disk. */
  stop(): Promise<void> {
    if (!this.isStopping) this.close();
    this.end.resolve();
    return this.stopped;
  }

  private close(): void {
    this.isStopping = true;
    this.cancelTimer();
    this.client.close();
    this.socket.close();
    this.storage.close();
  }

  /**
   * Whatever goes wrong in here, in the storage above all, ends the server: it might break
   * promises.
   */
  private guard(action: () => void): void {
    if (this.isStopping) return;
    try {
      action();
    } catch (error) {
      this.close();
      this.end.reject(error);
    }
  }

  private tell(event: NodeEvent): void {
    this.options.onEvent?.(event);
  }

  /** One flush for all that arrives in this turn of the event loop. */
  private schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    this.world.clock.defer(() => this.guard(() => this.flush()));
  }

  /**
   * Turns decisions into facts, and is the only place that does. The order is what makes them
   * safe: a promise leaves this server only after the disk has what it promises.
   */
  private flush(): void {
    const { core, endpoint, storage } = this;
    this.isScheduled = false;
    core.prepare();
    // 1. Send what promises nothing: new entries, while they are not yet on this disk, if the
    // term
    //    that they belong to is (thesis §10.2.1).
    const isEarly = (m: Message) => m.type === "AppendEntries" && m.term === core.saved.currentTerm;
    const { early = [], promises = [] } = Object.groupBy(core.outbox.splice(0), (message) =>
      isEarly(message) ? "early" : "promises",
    );
    for (const message of early) this.send(message);
    endpoint.flush();
    // 2. Save: one sync for everything.
    const { unsaved } = core;
    if (unsaved) storage.save(unsaved);
    core.onSaved();
    // 3. Send what is a promise: votes, acknowledgements.
    for (const message of promises) this.send(message);
    endpoint.flush();
    // 4. Apply what is committed, and answer clients.
    for (const entry of core.takeCommitted()) this.apply(entry);
    for (const id of core.takeReads()) this.answerQuestion(id);
    if (core.role.name !== "Leader") this.redirectAll();
    endpoint.flush();
    for (const event of core.events.splice(0)) this.onEvent(event);
    if (core.unsaved) this.schedule(); // Saving made it a leader, and a leader has something to say.
    this.setTimer();
  }

  private setTimer(): void {
    const { clock } = this.world;
    if (this.core.wakeAt >= this.wakesAt) return;
    this.cancelTimer();
    this.wakesAt = this.core.wakeAt;
    this.cancelTimer = clock.setTimer(Math.max(0, this.wakesAt - clock.now()), () => {
      this.wakesAt = Number.POSITIVE_INFINITY;
      // After a pause the timer is first, and what arrived meanwhile still unread. It takes a
      // whole turn to read it; to judge the leader's silence before that would depose it for
      // nothing.
      clock.defer(() => clock.defer(() => this.guard(() => this.onTimer())));
    });
  }

  private onTimer(): void {
    const now = this.world.clock.now();
    this.calls.expire(now - this.core.settings.electionTimeoutMs);
    this.core.tick(now);
    this.flush();
  }

  private send(message: Message): void {
    const isRequest = !message.type.endsWith("Reply");
    const id = isRequest ? this.calls.start(message.to, this.world.clock.now()) : message.id;
    this.endpoint.send("peer", { ...message, id });
  }

  private onMessage(message: Message | ClientMessage): void {
    if (!isPeerMessage(message)) this.onClientMessage(message);
    else if (!message.type.endsWith("Reply") || this.isAwaited(message)) {
      this.core.receive(message, this.world.clock.now());
    }
    this.schedule();
  }

  private isAwaited({ from, id }: Message): boolean {
    const call = this.calls.finish(id);
    if (call?.what !== from) return false;
    const ms = Math.round(this.world.clock.now() - call.sentAt);
    const isSlow = ms > this.core.settings.heartbeatMs;
    if (isSlow && !this.slow.has(from)) this.tell({ type: "slow", peer: from, ms });
    if (isSlow) this.slow.add(from);
    else this.slow.delete(from);
    return true;
  }

  private onClientMessage(message: ClientMessage): void {
    switch (message.type) {
      case "OpenSession":
        return this.accept(message, this.core.propose("session", NOTHING));
      case "Command": {
        const isWhole = message.data.length >= COMMAND_HEADER;
        if (!isWhole) return this.answer(message, { type: "Refused", reason: "it is no command" });
        return this.accept(message, this.core.propose("command", message.data));
      }
      case "Read": {
        const id = this.core.read();
        if (id === undefined) return this.redirect(message);
        this.questions.set(id, message);
        return;
      }
      case "Inspect":
        return this.answer(message, {
          type: "Answer",
          answer: Buffer.from(JSON.stringify(this.status())),
        });
      default:
        return this.client.onAnswer(message);
    }
  }

  private accept({ from, id }: Asker, index: number | undefined): void {
    if (index === undefined) this.redirect({ from, id });
    else this.proposals.set(index, { from, id, term: this.core.currentTerm });
  }

  private apply(entry: Entry): void {
    const answer = this.sessions.apply(entry, this.options.machine);
    const asker = this.proposals.get(entry.index);
    if (!asker) return;
    this.proposals.delete(entry.index);
    // Another leader's entry has taken its place: the client must ask again.
    if (asker.term !== entry.term) this.redirect(asker);
    else if (typeof answer === "string") this.answer(asker, { type: "Refused", reason: answer });
    else this.answer(asker, { type: "Answer", answer });
  }

  private answerQuestion(id: number): void {
    const asker = this.questions.get(id);
    this.questions.delete(id);
    if (!asker) return;
    this.answer(asker, { type: "Answer", answer: this.options.machine.query(asker.question) });
  }

  /**
   * Who does not lead cannot keep clients waiting: what they asked for may never be committed.
   */
  private redirectAll(): void {
    for (const asker of [...this.proposals.values(), ...this.questions.values()])
      this.redirect(asker);
    this.proposals.clear();
    this.questions.clear();
  }

  private redirect(asker: Asker): void {
    const { leader = "" } = this.core;
    const server = this.peers.find(({ name }) => name === leader);
    const address = server ? `${server.host}:${server.port}` : "";
    this.answer(asker, { type: "NotLeader", leader, address });
  }

  private answer({ from: to, id }: Asker, answer: Unaddressed): void {
    const message = { ...answer, from: this.name, to, id };
    if (to === this.name) this.client.onAnswer(message);
    else this.endpoint.send("client", message);
    this.schedule();
  }

  private onEvent(event: Event): void {
    if (event.type === "leader" && event.to !== undefined) this.client.follow(event.to);
    this.tell(event);
  }
}

function isPeerMessage(message: Message | ClientMessage): message is Message {
  return message.type in messages;
}

const RETRY_TICK_MS = 50;
const RETRY_MS = 100;
const MAX_RETRY_MS = 1000;
/** How often a request goes where an answer pointed it, before it waits: two servers may err. */
const MAX_HOPS = 3;

/** Something a client wants, until it is answered or its time is over. */
type Operation = {
  readonly ask: Unaddressed;
  /** The one server that it is for, or else the leader. */
  readonly only: Name | undefined;
  readonly deadlineAt: number;
  readonly resolve: (answer: Uint8Array) => void;
  readonly reject: (error: RaftError) => void;
  askAgainAt: number;
  tries: number;
  hops: number;
};

/** What a client needs of the network; a node gives its own client a shorter way to itself. */
type Via = { send(message: ClientMessage): void; introduce(server: Server): void; close(): void };

export type ClientOptions = {
  servers: readonly string[];
  cluster?: string;
  secret?: string;
  timeoutMs?: number;
  world?: World;
};

/**
 * Finds the leader, follows it when it changes, and repeats what is not answered. All its
 * commands are in one session, so each is applied once, however often it had to be sent (thesis
 * §6.3).
 */
export class Client {
  private readonly operations = new Set<Operation>();
  private readonly calls = new Calls<Operation>();
  private session: number | undefined;
  private opening: Promise<Uint8Array> | undefined;
  private sequence = 0;
  private readonly outstanding = new Set<number>();
  private target: Name | undefined;
  private cancelTimer: (() => void) | undefined;

  constructor(
    private readonly clock: Clock,
    private readonly name: Name,
    private readonly servers: Name[],
    private readonly timeoutMs: number,
    private readonly via: Via,
  ) {
    this.target = servers[0];
  }

  /** Opens a socket, and looks for the servers. Throws a RaftError, "usage" or "network". */
  static async connect(options: ClientOptions): Promise<Client> {
    const { cluster = "raft", secret = "", timeoutMs = 5000, world = systemWorld } = options;
    const servers = options.servers.map(parseServer);
    const draw = () => 1 + Math.floor(world.random() * (2 ** 32 - 1));
    const name = `client ${draw().toString(36)}${draw().toString(36)}`;
    const socket = await world.datagrams.bind({ host: "0.0.0.0", port: 0 }, (bytes, from) =>
      endpoint.receive(bytes, from),
    );
    const self = { id: "", name, members: [], disk: draw(), boot: 1 };
    const keys = { client: deriveKey(secret, "client", cluster) };
    const endpoint: Endpoint = new Endpoint(world, socket, keys, self, {
      onMessage: (message) => isPeerMessage(message) || client.onAnswer(message),
      onGreeting: () => client.askAgain(),
      tell: () => {}, // A server that is not there is told by the operation that needs it.
    });
    let isScheduled = false;
    const flush = () => {
      isScheduled = false;
      endpoint.flush();
    };
    const client: Client = new Client(
      world.clock,
      name,
      servers.map((s) => s.name),
      timeoutMs,
      {
        send(message) {
          endpoint.send("client", message);
          if (!isScheduled) world.clock.defer(flush);
          isScheduled = true;
        },
        introduce: (server) => void endpoint.introduce("client", server),
        close: () => socket.close(),
      },
    );
    await Promise.any(servers.map((server) => endpoint.introduce("client", server)));
    return client;
  }

  /** As `Node.propose`. */
  async propose(command: Uint8Array): Promise<Uint8Array> {
    const session = this.session ?? (await this.openSession());
    this.sequence += 1;
    const { sequence } = this;
    this.outstanding.add(sequence);
    // Commands are outstanding in the order of their numbers: all below the first are answered.
    const [oldest = sequence] = this.outstanding;
    try {
      const data = makeCommand([session, sequence, oldest - 1], command);
      return await this.perform({ type: "Command", data });
    } catch (error) {
      // The session may have ended. The next command opens another one, but this one isn't
      // repeated: in another session it might be applied a second time.
      if ((error as RaftError).code === "refused" && this.session === session)
        this.session = undefined;
      throw error;
    } finally {
      this.outstanding.delete(sequence);
    }
  }

  /** As `Node.read`. */
  read(question: Uint8Array): Promise<Uint8Array> {
    return this.perform({ type: "Read", question });
  }

  /**
   * What one server tells about itself. Rejects with a RaftError, "timeout", if it is not there.
   */
  async inspect(server: Name): Promise<ReturnType<Node["status"]>> {
    return JSON.parse(asBuffer(await this.perform({ type: "Inspect" }, server)).toString());
  }

  /** Gives up whatever is not answered. */
  close(): void {
    this.cancelTimer?.();
    this.via.close();
    for (const operation of [...this.operations]) this.giveUp(operation, "The client was closed");
  }

  /** Goes to another server with everything that is not answered. */
  follow(leader: Name): void {
    this.target = leader;
    this.askAgain();
  }

  askAgain(): void {
    for (const operation of this.operations) this.ask(operation);
  }

  /** An answer has come, or a hint where to ask. */
  onAnswer(answer: ClientMessage): void {
    const operation = this.calls.finish(answer.id)?.what;
    if (!operation || !this.operations.has(operation)) return; // Another answer was faster.
    if (answer.type === "NotLeader") return this.onRedirect(operation, answer);
    this.operations.delete(operation);
    if (answer.type === "Answer") operation.resolve(answer.answer);
    if (answer.type !== "Refused") return;
    operation.reject(new RaftError("refused", `The server refused: ${answer.reason}.`));
  }

  private onRedirect(
    operation: Operation,
    { leader, address }: { leader: Name; address: string },
  ): void {
    operation.hops += 1;
    if (leader === "" || operation.hops > MAX_HOPS) return; // In a moment they may know better.
    if (address !== "" && !this.servers.includes(leader)) {
      this.servers.push(leader);
      this.via.introduce({ ...parseServer(address), name: leader });
    }
    this.target = leader;
    this.ask(operation);
  }

  private async openSession(): Promise<number> {
    this.opening ??= this.perform({ type: "OpenSession" });
    try {
      this.session = Number(asBuffer(await this.opening).toString());
      return this.session;
    } finally {
      this.opening = undefined;
    }
  }

  private perform(ask: Unaddressed, only?: Name): Promise<Uint8Array> {
    const { promise, resolve, reject } = Promise.withResolvers<Uint8Array>();
    const bytes =
      "data" in ask
        ? ask.data.length - COMMAND_HEADER
        : "question" in ask
          ? ask.question.length
          : 0;
    if (bytes > MAX_COMMAND_BYTES) {
      const limit = `at most ${MAX_COMMAND_BYTES} fit into a datagram`;
      reject(new RaftError("refused", `The command has ${bytes} bytes, and ${limit}. Split it.`));
      return promise;
    }
    const deadlineAt = this.clock.now() + this.timeoutMs;
    const operation = { ask, only, deadlineAt, resolve, reject, askAgainAt: 0, tries: 0, hops: 0 };
    this.operations.add(operation);
    this.ask(operation);
    this.cancelTimer ??= this.clock.setTimer(RETRY_TICK_MS, () => this.onTimer());
    return promise;
  }

  private ask(operation: Operation): void {
    const to = operation.only ?? this.target ?? "";
    const now = this.clock.now();
    operation.askAgainAt = now + Math.min(RETRY_MS * 2 ** operation.tries, MAX_RETRY_MS);
    const id = this.calls.start(operation, now);
    this.via.send({ ...operation.ask, from: this.name, to, id });
  }

  /** One timer for all operations: they are asked again, at the next server, or given up. */
  private onTimer(): void {
    const now = this.clock.now();
    this.calls.expire(now - this.timeoutMs);
    const due = [...this.operations].filter((operation) => now >= operation.askAgainAt);
    if (due.some(({ only }) => only === undefined)) {
      const next = this.servers.indexOf(this.target ?? "") + 1;
      this.target = this.servers[next % this.servers.length];
    }
    for (const operation of this.operations) {
      if (now >= operation.deadlineAt)
        this.giveUp(operation, `No answer within ${this.timeoutMs} ms`);
    }
    for (const operation of due) {
      if (!this.operations.has(operation)) continue;
      operation.tries += 1;
      operation.hops = 0;
      this.ask(operation);
    }
    const isIdle = this.operations.size === 0;
    this.cancelTimer = isIdle
      ? undefined
      : this.clock.setTimer(RETRY_TICK_MS, () => this.onTimer());
  }

  private giveUp(operation: Operation, why: string): void {
    this.operations.delete(operation);
    const asked = operation.only ?? this.servers.join(", ");
    const unknown = "the command may have been applied, or may be yet. Ask before you repeat it.";
    operation.reject(
      operation.ask.type === "Command"
        ? new RaftError("outcomeUnknown", `${why}: ${unknown} Asked: ${asked}.`)
        : new RaftError("timeout", `${why}. Does a majority of the servers run? Asked: ${asked}.`),
    );
  }
}

// ------------------------------------ 15 A key-value store -------------------------------------
// The state machine that `cli.ts` serves, and an example of one. Keys and values are any bytes. A
// command is MessagePack: what to do, the key, a value, the value that is expected. So is the
// answer: whether it was done, and the value that is there.

export class KeyValueStore implements StateMachine {
  /** By the key's bytes as Latin-1, which has a character for each of them. */
  private readonly values = new Map<string, Uint8Array>();

  apply(command: Uint8Array): Uint8Array {
    const { verb, key, value, expected } = readRequest(command);
    const before = this.values.get(key);
    const matches = before
      ? Buffer.compare(before, expected ?? NOTHING) === 0 && expected
      : !expected;
    if (value && (verb === "put" || (verb === "cas" && matches))) {
      this.values.set(key, value.slice()); // The command's buffer is the log's.
      return writeAnswer(true, value);
    }
    return writeAnswer(verb === "delete" && this.values.delete(key), before);
  }

  query(question: Uint8Array): Uint8Array {
    const value = this.values.get(readRequest(question).key);
    return writeAnswer(value !== undefined, value);
  }
}

/**
 * The store as a program uses it, through a node or a client. Rejects as `propose` and `read` do.
 */
export class KeyValues {
  constructor(private readonly via: Pick<Client, "propose" | "read">) {}

  async put(key: Uint8Array, value: Uint8Array): Promise<void> {
    await this.via.propose(encoder.encode(["put", key, value]));
  }

  async get(key: Uint8Array): Promise<Uint8Array | undefined> {
    return readAnswer(await this.via.read(encoder.encode(["get", key]))).value;
  }

  /** Resolves to whether there was a value. */
  async delete(key: Uint8Array): Promise<boolean> {
    return readAnswer(await this.via.propose(encoder.encode(["delete", key]))).done;
  }

  /**
   * Compare and set: puts `value` if the present one is `expected`, undefined meaning none.
   * Resolves to whether it did, and to the value that is there now.
   */
  async cas(
    key: Uint8Array,
    expected: Uint8Array | undefined,
    value: Uint8Array,
  ): Promise<{ done: boolean; value: Uint8Array | undefined }> {
    return readAnswer(
      await this.via.propose(encoder.encode(["cas", key, value, expected ?? null])),
    );
  }
}

/** A client can send anything, and no command may stop a server: nonsense asks for nothing. */
function readRequest(bytes: Uint8Array) {
  const [verb, key, value, expected] = readArray(bytes);
  return {
    verb,
    key: key instanceof Uint8Array ? asBuffer(key).toString("latin1") : "",
    value: value instanceof Uint8Array ? value : undefined,
    expected: expected instanceof Uint8Array ? expected : undefined,
  };
}

function readArray(bytes: Uint8Array): unknown[] {
  try {
    const decoded = decoder.decode(bytes);
    return Array.isArray(decoded) ? decoded : [];
  } catch {
    return [];
  }
}

function writeAnswer(done: boolean, value: Uint8Array | undefined): Uint8Array {
  return encoder.encode([done, value ?? null]);
}

function readAnswer(bytes: Uint8Array): { done: boolean; value: Uint8Array | undefined } {
  const [done, value] = readArray(bytes);
  return { done: done === true, value: value instanceof Uint8Array ? value : undefined };
}
