/**
 * What tests of Part I share: a server in any state, its turns, messages with sensible defaults,
 * and a small cluster. Only the test moves time, and chance comes from a seed, so a test that fails
 * once always fails.
 */
import {
  type Configuration,
  type Entry,
  type IncomingSnapshot,
  type Message,
  type Name,
  type Position,
  type Progress,
  Raft,
  type Settings,
  type Snapshot,
  type Unsaved,
} from "../../raft.ts";
import { makeEntry, membersEntry } from "./entries.ts";
import { randomFrom } from "./random.ts";
export { membersEntry };

export type Of<Type extends Message["type"]> = Extract<Message, { type: Type }>;

/** The election timeout T: a follower that hears no leader for T to 1.5 T campaigns. */
export const T = 1_000;
export const HEARTBEAT = 100;
export const THREE = ["a", "b", "c"];
export const FIVE = ["a", "b", "c", "d", "e"];

/** Returns a configuration of voters and learners. */
export const configuration = (
  voters: readonly Name[],
  learners: readonly Name[] = [],
): Configuration =>
  [...voters, ...learners].map((name) => ({
    name,
    address: `${name}:1`,
    votes: voters.includes(name),
    disk: 0,
  }));

const defaults: Settings = {
  name: "a",
  disk: 0,
  founders: configuration(THREE),
  electionTimeoutMs: T,
  heartbeatMs: HEARTBEAT,
  batchBytes: 1_000,
  windowBytes: 10_000,
};

/** Returns the only element. Throws unless there is exactly one. */
export function one<Element>(elements: readonly Element[]): Element {
  const [first, ...rest] = elements;
  if (first === undefined || rest.length > 0) throw new Error(`${elements.length} are not one`);
  return first;
}

// ----------------------------------------- The log ---------------------------------------------

/** Returns an entry. Its command names its index and term, so different entries are never equal. */
export function entry(index: number, term: number, data = `${index} of term ${term}`): Entry {
  return makeEntry(index, term, "commands", Buffer.from(data));
}

/** Returns a log as the paper draws it, a row of terms after index `after`. */
export function entries(terms: readonly number[], after = 0): Entry[] {
  return terms.map((term, i) => entry(after + 1 + i, term));
}

export function termsOf(log: Raft | readonly Entry[]): number[] {
  const list = log instanceof Raft ? log.log.slice(log.log.baseIndex + 1) : log;
  return list.map(({ term }) => term);
}

// ------------------------------------ A server and its turns -----------------------------------

export type Options = Partial<Omit<Settings, "members">> & {
  /** The founding members. */
  members?: readonly Name[];
  /** The terms of the entries after the base, or from index 1 on. */
  log?: readonly number[];
  /** The last entry that a snapshot has replaced. */
  base?: Position;
  term?: number;
  commitIndex?: number;
  votedFor?: Name | undefined;
  /** Whether the server has heard of no other founder yet. By default all have shown empty logs. */
  isAlone?: boolean;
  now?: number;
  random?: () => number;
};

/** Returns a server that has just started from a disk with this log, term and vote. */
export function server(options: Options = {}): Raft {
  const { log = [], base = { index: 0, term: 0 }, votedFor, now = 0, ...rest } = options;
  const {
    random = () => 0.5,
    term = log.at(-1) ?? base.term,
    members = THREE,
    isAlone = false,
    commitIndex = 0,
    ...changed
  } = rest;
  const settings = { ...defaults, ...changed, founders: configuration(members) };
  const snapshot = {
    ...base,
    size: base.index === 0 ? 0 : 2_500,
    founding: base.index === 0 ? 0 : 1,
    members: settings.founders,
  };
  const disk = {
    currentTerm: term,
    votedFor,
    commitIndex,
    entries: entries(log, base.index),
    base,
    snapshot,
  };
  const raft = new Raft(settings, disk, now, random);
  for (const name of isAlone ? [] : raft.others) raft.foundings.set(name, 0);
  return raft;
}

/** Returns a server's snapshot of the state after an entry. */
export function snapshotOf(raft: Raft, index: number, size = 2_500): Snapshot {
  return {
    index,
    term: raft.log.at(index).term,
    size,
    founding: raft.founding,
    members: raft.log.membership(index).members,
  };
}

/** The outcome of one step. */
export type Turn = {
  /** The messages that left before the save. */
  early: readonly Message[];
  saved: Unsaved | undefined;
  late: readonly Message[];
  applied: readonly Entry[];
  reads: number;
};

/** Carries out a step. */
export function flush(raft: Raft): Turn {
  const sent: (readonly Message[])[] = [];
  const turn: Turn = { early: [], saved: undefined, late: [], applied: [], reads: 0 };
  for (const effect of raft.step()) {
    if (effect.type === "send") sent.push(effect.messages);
    else if (effect.type === "save") turn.saved = effect.unsaved;
    else ({ entries: turn.applied, reads: turn.reads } = effect);
  }
  [turn.early = [], turn.late = []] = sent;
  return turn;
}

/** Ends a turn. Returns the messages that the server sends. */
export function turn(raft: Raft): Message[] {
  const { early, late } = flush(raft);
  return [...early, ...late];
}

/** Delivers one message in a turn of its own. Returns the messages that the server sends. */
export function step(raft: Raft, message: Message, now = raft.now): Message[] {
  raft.receive(message, now);
  return turn(raft);
}

/** Lets time pass. Returns the messages that the server sends. */
export function wait(raft: Raft, ms: number): Message[] {
  raft.tick(raft.now + ms);
  return turn(raft);
}

/** Lets the election timeout elapse. Returns the messages that the server sends. */
export function timeOut(raft: Raft): Message[] {
  raft.tick(Math.max(raft.now, raft.electionDueAt));
  return turn(raft);
}

export function only<Type extends Message["type"]>(
  type: Type,
  sent: readonly Message[],
): Of<Type>[] {
  return sent.filter((m): m is Of<Type> => m.type === type);
}

export function to(name: Name, sent: readonly Message[]): Message[] {
  return sent.filter((m) => m.to === name);
}

// ------------------------------------------ Messages -------------------------------------------
// To "a" from "b", unless the test says otherwise.

type Rest<Type extends Message["type"]> = Partial<Omit<Of<Type>, "type" | "term">>;
const envelope = { from: "b", to: "a", id: 0 };

export function requestVote(term: number, rest: Rest<"RequestVote"> = {}): Of<"RequestVote"> {
  const fields = {
    preVote: false,
    transfer: false,
    campaign: 1,
    voterDisk: 0,
    lastLogIndex: 0,
    lastLogTerm: 0,
  };
  return { type: "RequestVote", ...envelope, term, ...fields, ...rest };
}

export function voteReply(
  term: number,
  rest: Rest<"RequestVoteReply"> = {},
): Of<"RequestVoteReply"> {
  const fields = { preVote: false, campaign: 1, voteGranted: true };
  return { type: "RequestVoteReply", ...envelope, term, ...fields, ...rest };
}

export function appendEntries(term: number, rest: Rest<"AppendEntries"> = {}): Of<"AppendEntries"> {
  const fields = { round: 1, prevLogIndex: 0, prevLogTerm: 0, leaderCommit: 0, entries: [] };
  return { type: "AppendEntries", ...envelope, term, ...fields, ...rest };
}

export function appendReply(
  term: number,
  rest: Rest<"AppendEntriesReply"> = {},
): Of<"AppendEntriesReply"> {
  const fields = { round: 1, success: true, matchIndex: 0, hintIndex: 0, hintTerm: 0 };
  return { type: "AppendEntriesReply", ...envelope, term, ...fields, ...rest };
}

export function installSnapshot(
  term: number,
  rest: Rest<"InstallSnapshot"> = {},
): Of<"InstallSnapshot"> {
  const fields = {
    round: 1,
    lastIncludedIndex: 5,
    lastIncludedTerm: 1,
    size: 30,
    offset: 0,
    data: Buffer.alloc(10),
  };
  return { type: "InstallSnapshot", ...envelope, term, ...fields, ...rest };
}

export function installReply(
  term: number,
  rest: Rest<"InstallSnapshotReply"> = {},
): Of<"InstallSnapshotReply"> {
  const fields = { round: 1, success: true, lastIncludedIndex: 5, offset: 0 };
  return { type: "InstallSnapshotReply", ...envelope, term, ...fields, ...rest };
}

export function removed(term: number, rest: Rest<"Removed"> = {}): Of<"Removed"> {
  return { type: "Removed", ...envelope, term, ...rest };
}

export function timeoutNow(term: number, rest: Rest<"TimeoutNow"> = {}): Of<"TimeoutNow"> {
  return { type: "TimeoutNow", ...envelope, term, ...rest };
}

/** Returns the heartbeat of a leader whose log equals the follower's. */
export function heartbeat(raft: Raft, rest: Rest<"AppendEntries"> = {}): Of<"AppendEntries"> {
  const { lastIndex: prevLogIndex, lastTerm: prevLogTerm } = raft.log;
  return appendEntries(raft.currentTerm, { prevLogIndex, prevLogTerm, ...rest });
}

/** Returns the request of a candidate whose log equals the receiver's. */
export function request(
  raft: Raft,
  term: number,
  rest: Rest<"RequestVote"> = {},
): Of<"RequestVote"> {
  const { lastIndex: lastLogIndex, lastTerm: lastLogTerm } = raft.log;
  return requestVote(term, { lastLogIndex, lastLogTerm, ...rest });
}

// ------------------------------------ A server in each role ------------------------------------
// Unless told otherwise, the term is the one after the log's last, as after an election.

function withTerm(options: Options): Options & { term: number } {
  return { term: (options.log?.at(-1) ?? options.base?.term ?? 0) + 1, ...options };
}

/** Returns a follower that has just heard its leader, by default "b". */
export function follower(options: Options = {}, leader: Name = "b"): Raft {
  const raft = server(withTerm(options));
  step(raft, heartbeat(raft, { from: leader }));
  return raft;
}

export function preCandidate(options: Options = {}): Raft {
  const raft = server(withTerm(options));
  timeOut(raft);
  return raft;
}

/** Returns just enough other servers for a majority. */
function supporters(raft: Raft): Name[] {
  return raft.others.slice(0, raft.majority - 1);
}

/** Grants the pending pre-vote, so that the campaign begins. */
export function grantPreVotes(raft: Raft): Message[] {
  const { campaigns: campaign } = raft;
  for (const from of supporters(raft)) {
    raft.receive(voteReply(raft.currentTerm + 1, { from, preVote: true, campaign }), raft.now);
  }
  return turn(raft);
}

export function grantVotes(raft: Raft): Message[] {
  for (const from of supporters(raft)) {
    raft.receive(voteReply(raft.currentTerm, { from }), raft.now);
  }
  return turn(raft);
}

export function candidate(options: Options = {}): Raft {
  const withDefault = withTerm(options);
  const raft = preCandidate({ ...withDefault, term: withDefault.term - 1 });
  grantPreVotes(raft);
  return raft;
}

/** Returns a leader that was just elected: its no-op is saved and sent, but not acknowledged. */
export function leader(options: Options = {}): Raft {
  const raft = candidate(options);
  grantVotes(raft);
  return raft;
}

/** Returns a leader whose no-op is committed and on every server. */
export function settledLeader(options: Options = {}): Raft {
  const raft = leader(options);
  for (const name of raft.others) acknowledge(raft, name);
  return raft;
}

/** A leader that has answered first: it has sent the entry at `index`, and not yet saved it. */
export function unsavedLeader(): { raft: Raft; index: number } {
  const raft = leader();
  const [from = ""] = raft.others;
  acknowledge(raft, from); // The first commit index is saved before anything is answered.
  propose(raft);
  flush(raft);
  const matchIndex = raft.log.lastIndex;
  raft.receive(appendReply(1, { from, matchIndex, round: roundOf(raft) }), raft.now);
  const index = propose(raft);
  flush(raft);
  return { raft, index };
}

/** Delivers a follower's acknowledgement of the latest round, and of entries up to `matchIndex`. */
export function acknowledge(raft: Raft, from: Name, matchIndex = raft.log.lastIndex): Message[] {
  return step(raft, appendReply(raft.currentTerm, { from, matchIndex, round: roundOf(raft) }));
}

export function roundOf({ role }: Raft): number {
  if (role.name !== "Leader") throw new Error(`a ${role.name} has no rounds`);
  return role.round;
}

export function progress({ role }: Raft, name: Name): Progress {
  const found = role.name === "Leader" ? role.followers.get(name) : undefined;
  if (!found) throw new Error(`${name} is not followed here`);
  return found;
}

/** Proposes a client's command to a leader. Returns its index. */
export function propose(raft: Raft, data = "command"): number {
  const index = raft.propose("commands", Buffer.from(data));
  if (index === undefined) throw new Error(`a ${raft.role.name} takes no commands`);
  return index;
}

// ----------------------------------------- A cluster -------------------------------------------

/**
 * Returns the bytes of a server's snapshot: all applied entries, which are the state, and its name,
 * so that two servers have different bytes for the same state.
 */
const writeState = (of: Name, applied: readonly Entry[]) =>
  Buffer.from(
    JSON.stringify([of, applied.map((e) => ({ ...e, data: e.data.toString("latin1") }))]),
  );
function readState(bytes: Uint8Array): Entry[] {
  const [, rows]: [Name, (Entry & { data: string })[]] = JSON.parse(Buffer.from(bytes).toString());
  return rows.map((row) => ({ ...row, data: Buffer.from(row.data, "latin1") }));
}

/** Servers in one process. A message takes no time, unless a test loses it. */
export class Cluster {
  now = 0;
  readonly applied = new Map<Name, Entry[]>();
  /** All messages that were ever sent, including lost ones. */
  readonly sent: Message[] = [];
  /** Decides which messages are lost. */
  lost: (message: Message) => boolean = () => false;
  /** Picks the message in flight that arrives next: the oldest, unless a test reorders. */
  next: (underWay: number) => number = () => 0;
  /** Called with a server after each of its turns. */
  watch: (raft: Raft) => void = () => {};
  readonly down = new Set<Name>();
  /** The size of a log at which a snapshot is taken. */
  snapshotBytes = Number.POSITIVE_INFINITY;
  /** The snapshot on each server's disk. */
  readonly snapshots = new Map<Name, { snapshot: Snapshot; bytes: Buffer }>();
  private readonly drafts = new WeakMap<IncomingSnapshot, Uint8Array[]>();
  private readonly servers = new Map<Name, Raft>();
  private readonly wire: Message[] = [];
  private readonly options: Options;

  constructor(names: readonly Name[], options: Options = {}) {
    this.options = { random: randomFrom(1), ...options, members: names };
    for (const name of names) this.begin(name);
  }

  private begin(name: Name, options: Options = {}): void {
    this.servers.set(name, server({ now: this.now, ...this.options, ...options, name }));
    this.applied.set(name, []);
  }

  /** Starts a new server that knows no members. */
  join(name: Name): void {
    this.begin(name, { members: [], log: [], term: 0 });
  }

  /** Asks the leader for a change. Returns its answer. */
  change(leader: Name, name: Name, address = ""): ReturnType<Raft["changeMembers"]> {
    const raft = this.at(leader);
    const outcome = raft.changeMembers(name, address);
    this.flush(raft);
    this.settle();
    return outcome;
  }

  at(name: Name): Raft {
    const raft = this.servers.get(name);
    if (!raft) throw new Error(`there is no ${name}`);
    return raft;
  }

  get up(): Raft[] {
    return [...this.servers.values()].filter((raft) => !this.down.has(raft.settings.name));
  }

  get leaders(): Raft[] {
    return this.up.filter((raft) => raft.role.name === "Leader");
  }

  /** Ends a server's turn: sends its messages, and applies its committed entries. */
  flush(raft: Raft): void {
    const { early, late, applied } = flush(raft);
    const { name } = raft.settings;
    for (const m of only("InstallSnapshot", [...early, ...late])) {
      const { bytes } = this.snapshots.get(name) ?? {};
      m.data = Buffer.from(bytes?.subarray(m.offset, m.offset + m.data.length) ?? []);
    }
    this.wire.push(...early, ...late);
    this.sent.push(...early, ...late);
    this.applied.get(name)?.push(...applied);
    this.receiveSnapshot(raft);
    if (raft.isSnapshotDue(this.snapshotBytes)) this.takeSnapshot(raft);
    this.watch(raft);
    if (raft.needsStep) this.flush(raft);
  }

  /** Returns the members in the snapshot with these bytes, on any server. */
  private membersOf(bytes: Buffer): Configuration {
    const origin = [...this.snapshots.values()].find((other) => other.bytes.equals(bytes));
    return origin?.snapshot.members ?? [];
  }

  takeSnapshot(raft: Raft, keepBytes = this.snapshotBytes / 4): void {
    const { name } = raft.settings;
    const bytes = writeState(name, this.applied.get(name) ?? []);
    const snapshot = snapshotOf(raft, raft.lastApplied, bytes.length);
    this.snapshots.set(name, { snapshot, bytes });
    raft.onSnapshot(snapshot, keepBytes);
  }

  private receiveSnapshot(raft: Raft): void {
    const { name } = raft.settings;
    const { incoming } = raft;
    if (!incoming) return;
    const chunks = this.drafts.get(incoming) ?? [];
    chunks.push(...incoming.unwritten.splice(0));
    this.drafts.set(incoming, chunks);
    if (incoming.offset < incoming.size) return;
    const bytes = Buffer.concat(chunks);
    const { index, term, size } = incoming;
    const snapshot = { index, term, size, founding: raft.founding, members: this.membersOf(bytes) };
    this.applied.set(name, readState(bytes));
    this.snapshots.set(name, { snapshot, bytes });
    raft.onSnapshot(snapshot, 0);
  }

  /** Delivers messages until no server sends another one. */
  settle(): void {
    for (let delivered = 0; this.wire.length > 0; delivered += 1) {
      if (delivered > 5_000) throw new Error("the servers never stop talking");
      const message = one(this.wire.splice(this.next(this.wire.length), 1));
      if (this.down.has(message.to) || this.down.has(message.from) || this.lost(message)) continue;
      const raft = this.at(message.to);
      raft.receive(message, this.now);
      this.flush(raft);
    }
  }

  /** Lets time pass. Every server wakes when it asks to. */
  advance(ms: number): void {
    const end = this.now + ms;
    for (let woken = 0; this.now < end; woken += 1) {
      if (woken > ms) throw new Error("the servers never sleep");
      this.now = Math.min(end, ...this.up.map((raft) => Math.max(raft.wakeAt, this.now)));
      for (const raft of this.up.filter((r) => r.wakeAt <= this.now)) {
        raft.tick(this.now);
        this.flush(raft);
      }
      this.settle();
    }
  }

  /**
   * Lets 2 T pass without messages, so that a leader steps down. Then `name` alone
   * campaigns until it wins or has used up its attempts. Returns whether it leads.
   */
  elect(name: Name, attempts = 5): boolean {
    const raft = this.at(name);
    for (let i = 0; i < attempts && raft.role.name !== "Leader"; i += 1) {
      this.now += 2 * T;
      for (const waking of [...this.leaders, raft]) {
        waking.tick(this.now);
        this.flush(waking);
      }
      this.settle();
    }
    return raft.role.name === "Leader";
  }

  /** Proposes a command to the leader `name`, and delivers all messages. Returns its index. */
  propose(name: Name, data = "command"): number {
    const raft = this.at(name);
    const index = propose(raft, data);
    this.flush(raft);
    this.settle();
    return index;
  }

  crash(...names: Name[]): void {
    for (const name of names) this.down.add(name);
  }

  /** Restarts servers from their disks. */
  restart(...names: Name[]): void {
    for (const name of names) {
      const { settings, saved, log } = this.at(name);
      const { snapshot, bytes } = this.snapshots.get(name) ?? {};
      const { index, term } = log.at(log.baseIndex);
      const disk = {
        ...saved,
        entries: log.slice(index + 1, log.savedIndex),
        snapshot,
        base: { index, term },
      };
      const random = this.options.random ?? randomFrom(1);
      this.servers.set(name, new Raft(settings, disk, this.now, random));
      this.applied.set(name, bytes ? readState(bytes) : []);
      this.down.delete(name);
    }
  }
}

// ------------------------------------------ Snapshots ------------------------------------------

/** Returns a leader of three with a compacted log. Up to `kept` bytes of old entries remain. */
export function compacted(index = 5, kept = 0, settings: Parameters<typeof leader>[0] = {}): Raft {
  const raft = settledLeader({ log: [1, 1, 1, 1], ...settings });
  for (let i = 0; i < 3; i += 1) propose(raft);
  turn(raft);
  acknowledge(raft, "b");
  raft.onSnapshot(snapshotOf(raft, index), kept);
  return raft;
}

/** Lets a follower refuse with an empty log. Returns the chunks that its leader sends. */
export function fallBehind(raft: Raft, name: Name): Of<"InstallSnapshot">[] {
  progress(raft, name).matchIndex = 0;
  const { currentTerm } = raft;
  const round = roundOf(raft);
  return only(
    "InstallSnapshot",
    step(raft, appendReply(currentTerm, { from: name, success: false, round })),
  );
}

/** Returns all chunks of a snapshot of 30 bytes. */
export const chunks = (term = 2, rest: Partial<Of<"InstallSnapshot">> = {}) =>
  [0, 10, 20].map((offset) => installSnapshot(term, { offset, ...rest }));

// ---------------------------------------- What was sent ----------------------------------------

/** Returns the types of messages, in their order. */
export const typesOf = (sent: readonly Message[]) => sent.map((m) => m.type);
/** Returns the receivers of messages, in their order. */
export const receiversOf = (sent: readonly Message[]) => sent.map((m) => m.to);
/** Returns the entries of a log that was never compacted. */
export const logOf = (raft: Raft) => raft.log.slice(1);
