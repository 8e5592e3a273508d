/**
 * A server of the exhaustive search: the algorithm of Part I, built from plain data, given one
 * input, and taken apart again. The outcome depends on nothing else. So each step is worked out and
 * judged once, however many states of the cluster contain it.
 *
 * No promise of Raft rests on a clock, so here time is only a reason to act. A step begins at
 * instant 0, when everything that the server remembers happened. The search decides how much later
 * the input comes: immediately, when a heartbeat is due, when the leader counts as silent, or when
 * the election timer has run out. It may decide differently at each step.
 */
import {
  type Entry,
  type Message,
  type Name,
  Progress,
  Raft,
  type Role,
  type Settings,
  type Unsaved,
} from "../../../raft.ts";
import { configuration } from "../../support/core.ts";
import { makeEntry, membersEntry } from "../../support/entries.ts";
import { Violation } from "../judge.ts";
import { Lexicon, NO_PLACE, type Place, renamePlace } from "./lexicon.ts";

export const NAMES: readonly Name[] = ["a", "b", "c"];
const T = 1_000;
const HEARTBEAT = 100;

/** An entry without its index: its term, and the number of its command; a no-op has 0. */
export type Code = number;
const COMMANDS = 16;
export const termOf = (code: Code): number => Math.floor(code / COMMANDS);
export const codeOf = (term: number, command: number): Code => term * COMMANDS + command;
export const showCode = (code: Code): string =>
  code % COMMANDS === 0 ? `noop of term ${termOf(code)}` : `x${code % COMMANDS} of ${termOf(code)}`;

export type Disk = { term: number; votedFor: Place; log: readonly Code[] };
type Followed = {
  nextIndex: number;
  matchIndex: number;
  roundWhenMatched: number;
  mode: Progress["mode"];
  /** Whether a probe is due at once, because of a refusal in this turn. */
  isDue: boolean;
  sentRound: number;
  confirmedRound: number;
  ignoreUpToRound: number;
  /** Whether anything was sent since the follower last made progress. */
  hasTried: boolean;
};
/** `committed`, of a read, is how many entries were committed when it came: it has to see them. */
type Asked = { round: number; index: number; committed: number };
export type RoleState =
  | { name: "Follower"; leader: Place }
  | { name: "PreCandidate" | "Candidate"; votes: readonly Place[]; hasAsked: boolean }
  | {
    name: "Leader";
    followers: readonly (Followed | null)[];
    round: number;
    firstIndex: number;
    reads: readonly Asked[];
  };

/**
 * Without `turn`, the disk has all that the server knows. Within a turn, `turn` has the disk's
 * contents, the number of inputs and the messages that wait. A leader that has answered first is
 * between two turns and owes a save: its `turn` has no inputs yet.
 */
export type ServerState = Disk & {
  self: Place;
  commitIndex: number;
  lastApplied: number;
  campaigns: number;
  role: RoleState;
  turn: Turn | null;
};
type Turn = { disk: Disk; savedIndex: number; inputs: number; outbox: readonly number[] };
export const isWithinTurn = ({ turn }: ServerState): boolean => turn !== null && turn.inputs > 0;
export const owesSave = ({ turn }: ServerState): boolean => turn?.inputs === 0;

// ------------------------------------- The two vocabularies --------------------------------------

const knownEntries = new Map<number, Entry>();

function entryOf(index: number, code: Code): Entry {
  const key = code * 256 + index;
  const known = knownEntries.get(key);
  if (known) return known;
  const command = code % COMMANDS;
  const entry = command > 0
    ? makeEntry(index, termOf(code), "commands", Buffer.from(`${command}`))
    : firstOf(index, termOf(code));
  knownEntries.set(key, entry);
  return entry;
}

/**
 * A term begins with an entry that asks for nothing, or the log with one that lists the members.
 */
const firstOf = (index: number, term: number): Entry =>
  index === 1 ? membersEntry(index, term, configuration(NAMES)) : makeEntry(index, term, "noop");

export const codeOfEntry = ({ kind, term, data }: Entry): Code =>
  codeOf(term, kind === "commands" ? Number(data.toString()) : 0);
const place = (name: Name | undefined): Place =>
  name === undefined ? NO_PLACE : NAMES.indexOf(name);
const nameAt = (at: Place): Name | undefined => NAMES[at];

/** All that a message says, in a form that can be compared. */
type Plain = readonly (number | boolean | string | readonly Code[])[];

function plain(message: Message): Plain {
  const { type, from, to, id: _, ...fields } = message;
  const values = Object.values(fields).map((value) =>
    Array.isArray(value) ? value.map(codeOfEntry) : value
  );
  return [place(from), place(to), type, ...values];
}

const renamePlain = ([from, to, ...rest]: Plain, renaming: readonly Place[]): Plain => [
  renamePlace(renaming, Number(from)),
  renamePlace(renaming, Number(to)),
  ...rest,
];

const plainMessages = new Lexicon<Plain>(1n, renamePlain);
const messageList: Message[] = [];

/** Every message that was ever sent, by number. */
export const messages = {
  hashes: plainMessages,
  numberOf(message: Message): number {
    const number = plainMessages.numberOf(plain(message));
    messageList[number] ??= message;
    return number;
  },
  at(number: number): Message {
    const message = messageList[number];
    if (!message) throw new Error(`no message has the number ${number}`);
    return message;
  },
};

function renameRole(role: RoleState, renaming: readonly Place[]): RoleState {
  const rename = (at: Place) => renamePlace(renaming, at);
  if (role.name === "Follower") return { ...role, leader: rename(role.leader) };
  if (role.name !== "Leader") return { ...role, votes: role.votes.map(rename).sort() };
  const followers = NAMES.map((_, at) => role.followers[renaming.indexOf(at)] ?? null);
  return { ...role, followers };
}

function renameServer(state: ServerState, renaming: readonly Place[]): ServerState {
  const renameDisk = <D extends Disk>(disk: D): D => ({
    ...disk,
    votedFor: renamePlace(renaming, disk.votedFor),
  });
  const renameOutbox = (numbers: readonly number[]) =>
    numbers.map((n) => plainMessages.numberOf(renamePlain(plainMessages.at(n), renaming))).sort();
  const turn = state.turn
    && {
      ...state.turn,
      disk: renameDisk(state.turn.disk),
      outbox: renameOutbox(state.turn.outbox),
    };
  return {
    ...renameDisk(state),
    self: renamePlace(renaming, state.self),
    role: renameRole(state.role, renaming),
    turn,
  };
}

/** Every state of a server that was ever met, by number. */
export const servers = new Lexicon<ServerState>(2n, renameServer);

// ----------------------------------- Together, and apart again -----------------------------------

const settings: readonly Settings[] = NAMES.map((name) => ({
  name,
  disk: 0,
  founders: configuration(NAMES),
  electionTimeoutMs: T,
  heartbeatMs: HEARTBEAT,
  batchBytes: 1,
  windowBytes: 1_000,
}));

const entriesOf = (log: readonly Code[]) => log.map((code, i) => entryOf(i + 1, code));
const codesOf = (list: readonly Entry[]) => list.map(codeOfEntry);

function restoreRole(role: RoleState): Role {
  if (role.name === "Follower") return { name: "Follower", leader: nameAt(role.leader) };
  if (role.name !== "Leader") {
    const votes = new Set(role.votes.map((at) => NAMES[at] ?? ""));
    return { name: role.name, votes, transfer: false };
  }
  const followers = new Map<Name, Progress>();
  for (const [at, followed] of role.followers.entries()) {
    if (!followed) continue;
    const { isDue, hasTried, ...fields } = followed;
    const timerStartedAt = isDue ? Number.NEGATIVE_INFINITY : 0;
    const progress = Object.assign(new Progress(followed.nextIndex, 0), fields, {
      timerStartedAt,
      attempts: Number(hasTried),
    });
    followers.set(NAMES[at] ?? "", progress);
  }
  const reads = role.reads.map(({ round, index }) => ({ round, index }));
  return { name: "Leader", followers, round: role.round, firstIndex: role.firstIndex, reads };
}

function restore(state: ServerState): Raft {
  const own = settings[state.self];
  if (!own) throw new Error(`there is no server ${state.self}`);
  const { turn, role } = state;
  const { commitIndex, lastApplied, campaigns } = state;
  // That a commit index is saved changes nothing here, as what it covers is never in doubt.
  const disk = {
    currentTerm: state.term,
    votedFor: nameAt(state.votedFor),
    commitIndex,
    entries: entriesOf(state.log),
  };
  const raft = new Raft(own, disk, 0, () => 0.5);
  // Every founder has shown an empty log, or the elections could not begin all at once.
  for (const name of raft.others) raft.foundings.set(name, 0);
  raft["requestVotesAt"] = role.name !== "Follower" && role.name !== "Leader" && role.hasAsked
    ? HEARTBEAT
    : 0;
  Object.assign(raft, { lastApplied, campaigns, role: restoreRole(role) });
  if (!turn) return raft;
  raft.saved = { currentTerm: turn.disk.term, votedFor: nameAt(turn.disk.votedFor), commitIndex };
  raft.log.savedIndex = turn.savedIndex;
  raft["outbox"] = turn.outbox.map(messages.at);
  return raft;
}

function captureRole(raft: Raft, asked: readonly number[]): RoleState {
  const { role, now } = raft;
  if (role.name === "Follower") return { name: "Follower", leader: place(role.leader) };
  if (role.name !== "Leader") {
    return {
      name: role.name,
      votes: [...role.votes].map(place).sort(),
      hasAsked: raft["requestVotesAt"] > now,
    };
  }
  const followers = NAMES.map((name) => {
    const progress = role.followers.get(name);
    if (!progress) return null;
    const {
      nextIndex,
      matchIndex,
      roundWhenMatched,
      mode,
      sentRound,
      confirmedRound,
      ignoreUpToRound,
    } = progress;
    return {
      nextIndex,
      matchIndex,
      roundWhenMatched,
      mode,
      isDue: progress.timerStartedAt === Number.NEGATIVE_INFINITY,
      sentRound,
      confirmedRound,
      ignoreUpToRound,
      hasTried: progress.attempts > 0,
    };
  });
  const reads = role.reads.map(({ round, index }, i) => ({
    round,
    index,
    committed: asked[i] ?? 0,
  }));
  return { name: "Leader", followers, round: role.round, firstIndex: role.firstIndex, reads };
}

/**
 * What this check knows of a server. A field that it does not know would be lost in every step. No
 * server is asked here to take a snapshot, to hand over or to change the members, no port is
 * probed, and no restart is reported, as all elections begin at once. `goal`, `snapshot` and
 * `stuck` make no difference either. `windowLimit` only delays entries, as a loss does.
 */
const FIELDS: readonly [what: string, of: (raft: Raft) => object, fields: string][] = [
  [
    "a server",
    (raft) => raft,
    "campaigns commitIndex currentTerm disks electionDueAt events foundingQueries "
    + "foundings heardAt incoming isRemoved lastApplied leaderLostAt log now outbox "
    + "portClosedAt portProbes probeAt reportedFoundings requestVotesAt role saved settings snapshot votedFor "
    + "wasMember",
  ],
  ["a log", (raft) => raft.log, "baseIndex savedIndex slots"],
  [
    "what a leader knows of a follower",
    () => new Progress(1, 0),
    "attempts confirmedRound goal heardAt ignoreUpToRound matchIndex mode nextIndex roundWhenMatched "
    + "sentRound snapshot stuck timerStartedAt windowLimit",
  ],
];

/** Returns the fields of a server that this check does not know. */
export function unknownFields(): string[] {
  const raft = restore(FRESH(0));
  return FIELDS.flatMap(([what, of, fields]) => {
    const found = Object.keys(of(raft)).sort().join(" ");
    return found === fields ? [] : [`${what} has ${found}, and not ${fields}`];
  });
}

export const diskOf = ({ turn, term, votedFor, log }: ServerState): Disk =>
  turn?.disk ?? { term, votedFor, log };

/** Returns a server that starts for the first time. */
export const FRESH = (self: Place): ServerState =>
  start(self, { term: 0, votedFor: NO_PLACE, log: [] });

function start(self: Place, { term, votedFor, log }: Disk): ServerState {
  return {
    term,
    votedFor,
    log,
    self,
    commitIndex: 0,
    lastApplied: 0,
    campaigns: 0,
    role: { name: "Follower", leader: NO_PLACE },
    turn: null,
  };
}

// -------------------------------------------- A step ---------------------------------------------

/**
 * What happens to a server. `number` is a message, a command, or how many entries a read has to
 * see.
 */
export type Input = {
  kind: "deliver" | "deliverLate" | "timer" | "beat" | "propose" | "read" | "turn" | "crash";
  number: number;
};
/** The turn ends as it should, or with a power cut before it saves; or it goes on. */
export type End = "flush" | "die" | "stay";

/**
 * The outcome of a step. `lived` is the state whose decisions count: `next`, without a power cut.
 */
export type Step = {
  next: number;
  lived: number;
  sent: readonly number[];
  truncated: boolean;
  deposed: boolean;
  refused: boolean;
  reads: number;
  early: number;
};

function demand(condition: boolean, rule: string, facts: () => string): asserts condition {
  if (!condition) throw new Violation(rule, facts());
}

/** Hands a server its input. */
function give(raft: Raft, { kind, number }: Input, preVotes: boolean): void {
  if (kind === "deliver") raft.receive(messages.at(number), 0);
  else if (kind === "deliverLate") {
    raft.receive(messages.at(number), T);
    raft.now = 0; // A due heartbeat is a separate input, and a few of them are enough.
  } else if (kind === "propose") raft.propose("commands", Buffer.from(`${number}`));
  else if (kind === "read") raft.read();
  else if (kind === "turn") return; // The last turn left work to do.
  else if (kind === "beat") raft.tick(HEARTBEAT);
  else {
    raft.tick(2 * T);
    if (preVotes || raft.role.name !== "PreCandidate") return;
    // A pre-vote binds no server, so it may be granted at any time without a request.
    const [from = ""] = raft.others;
    raft.receive({
      type: "RequestVoteReply",
      from,
      to: raft.settings.name,
      id: 0,
      term: raft.currentTerm + 1,
      preVote: true,
      campaign: raft.campaigns,
      voteGranted: true,
    }, 2 * T);
  }
}

/**
 * Numbers the rounds of a turn from the same start for each follower, so that the order of
 * followers does not matter. The rounds of two followers are never compared.
 */
function alignRounds({ role }: Raft, outbox: readonly Message[], before: number): void {
  if (role.name !== "Leader") return;
  role.round = before;
  for (const [name, follower] of role.followers) {
    let round = before;
    for (const m of outbox) {
      if (m.type !== "AppendEntries" || m.to !== name || m.round <= before) continue;
      round += 1;
      m.round = round;
      follower.sentRound = round;
    }
    role.round = Math.max(role.round, round);
  }
}

export function step(before: ServerState, input: Input, end: End, preVotes: boolean): Step {
  if (input.kind === "crash") return crash(before);
  const disk = diskOf(before);
  const asked = before.role.name === "Leader" ? before.role.reads.map((r) => r.committed) : [];
  if (input.kind === "read") asked.push(input.number);
  const raft = restore(before);
  give(raft, input, preVotes);
  const inputs = (before.turn?.inputs ?? 0) + 1;
  const result = {
    sent: [],
    truncated: checkLog(before, codesOf(raft.log.slice(1))),
    deposed: before.role.name === "Leader" && raft.role.name !== "Leader",
    refused: input.kind === "deliver" && raft.hearsLeader(),
    reads: 0,
    early: 0,
  };
  if (end === "stay") {
    const turn = {
      disk,
      savedIndex: raft.log.savedIndex,
      inputs,
      outbox: raft["outbox"].map(messages.numberOf).sort(),
    };
    const next = checked(before, capture(raft, asked, preVotes, turn));
    return { ...result, next, lived: next };
  }
  return { ...result, ...flush(raft, before, disk, asked, end, preVotes) };
}

/** Carries out a step, or before a power cut only its first effect. */
function flush(
  raft: Raft,
  before: ServerState,
  disk: Disk,
  asked: readonly number[],
  end: End,
  preVotes: boolean,
): Pick<Step, "next" | "lived" | "sent" | "reads" | "early"> {
  const round = raft.role.name === "Leader" ? raft.role.round : 0;
  const sent: (readonly Message[])[] = [];
  let [saved, reads] = [disk, 0];
  for (const effect of raft.step()) {
    if (effect.type === "send") {
      const hasEntries = effect.messages.some(({ type }) => type === "AppendEntries");
      if (hasEntries) alignRounds(raft, effect.messages, round);
      for (const m of effect.messages) checkPromise(m, saved);
      sent.push(effect.messages);
    } else if (effect.type === "save") saved = save(saved, effect.unsaved);
    else reads = effect.reads;
    if (end === "die") break;
  }
  checkReads(raft, asked.slice(0, reads));
  // After a power cut the messages that left still tell of all that was decided until then.
  const { savedIndex, lastIndex } = raft.log;
  const owes = end === "die" || savedIndex < lastIndex;
  const turn = owes ? { disk: saved, savedIndex, inputs: 0, outbox: [] } : null;
  const lived = checked(before, capture(raft, asked.slice(reads), preVotes, turn));
  const next = end === "die" ? servers.numberOf(start(before.self, saved)) : lived;
  if (!owes) checkSaved(raft, saved);
  demand(
    end === "die" || ((!owes || raft.role.name === "Leader") && raft["outbox"].length === 0),
    "A turn comes to an end",
    () => `${raft.settings.name} has something left to do`,
  );
  const numbers = sent.flat().map(messages.numberOf);
  return { next, lived, sent: numbers, reads, early: sent[0]?.length ?? 0 };
}

function checkReads(raft: Raft, answered: readonly number[]): void {
  for (const committed of answered) {
    demand(
      raft.lastApplied >= committed,
      "Reads are linearizable",
      () =>
        `one is answered as of entry ${raft.lastApplied}, and ${committed} were committed `
        + "when it came",
    );
  }
}

function capture(
  raft: Raft,
  asked: readonly number[],
  preVotes: boolean,
  turn: Turn | null,
): ServerState {
  return {
    term: raft.currentTerm,
    votedFor: place(raft.votedFor),
    log: codesOf(raft.log.slice(1)),
    self: place(raft.settings.name),
    commitIndex: raft.commitIndex,
    lastApplied: raft.lastApplied, // The number of a campaign matters only to pre-votes.
    campaigns: preVotes || turn?.inputs ? raft.campaigns : 0,
    role: captureRole(raft, asked),
    turn,
  };
}

/** Returns a server that lost power between two turns and restarted from its disk. */
function crash(before: ServerState): Step {
  const next = servers.numberOf(start(before.self, diskOf(before)));
  return {
    next,
    lived: next,
    sent: [],
    truncated: false,
    deposed: false,
    refused: false,
    reads: 0,
    early: 0,
  };
}

/** Returns the disk after a save. */
function save(disk: Disk, unsaved: Unsaved): Disk {
  const { currentTerm: term, votedFor, entries: [first, ...rest] } = unsaved;
  const log = first
    ? [...disk.log.slice(0, first.index - 1), ...codesOf([first, ...rest])]
    : disk.log;
  return { term, votedFor: place(votedFor), log };
}

// ------------------------------------ What one server may do -------------------------------------

/** Memory equals disk after a turn; otherwise a power cut would undo decisions. */
function checkSaved(raft: Raft, disk: Disk): void {
  const name = raft.settings.name;
  demand(
    disk.term === raft.currentTerm && disk.votedFor === place(raft.votedFor),
    "A server believes only durable state to be durable",
    () =>
      `${name} is in term ${raft.currentTerm} and voted for ${raft.votedFor}, and its disk `
      + `has term ${disk.term} and ${nameAt(disk.votedFor)}`,
  );
  demand(
    disk.log.join() === codesOf(raft.log.slice(1)).join(),
    "A server believes only durable state to be durable",
    () => `the log of ${name} is not what is on its disk`,
  );
}

/** A promise is durable when it leaves. */
function checkPromise(m: Message, disk: Disk): void {
  const isProposed = (m.type === "RequestVote" && m.preVote)
    || (m.type === "RequestVoteReply" && m.preVote && m.voteGranted);
  if (isProposed) return;
  demand(
    disk.term >= m.term,
    "A term is durable before a message of that term leaves",
    () => `${m.from} sends ${m.type} of term ${m.term}, and its disk is in term ${disk.term}`,
  );
  if (disk.term > m.term) return;
  const candidate = m.type === "RequestVote" ? m.from : m.to;
  const isVote = m.type === "RequestVote" || (m.type === "RequestVoteReply" && m.voteGranted);
  demand(
    !isVote || m.type === "RequestVoteReply" && m.preVote
      || disk.votedFor === place(candidate),
    "A vote is durable before it is given",
    () =>
      `${m.from} votes for ${candidate} in term ${m.term}, and its disk has `
      + `${nameAt(disk.votedFor)}`,
  );
  demand(
    m.type !== "AppendEntriesReply" || !m.success || disk.log.length >= m.matchIndex,
    "Only durable entries are acknowledged",
    () => `${m.from} acknowledges more than the ${disk.log.length} entries on its disk`,
  );
}

/**
 * Judges deletions: only of conflicting entries, never by a leader. Returns whether there were any.
 */
function checkLog({ log, self }: ServerState, after: readonly Code[]): boolean {
  const kept = log.findIndex((code, i) => after[i] !== code);
  if (kept === -1) return false;
  demand(
    after.length > kept,
    "Only conflicting entries are deleted",
    () => `${nameAt(self)} deletes entry ${kept + 1}, and has nothing instead of it`,
  );
  return true;
}

/** Terms and commitment only grow, a vote stays in its term, and a leader only appends. */
function checked(before: ServerState, after: ServerState): number {
  const name = nameAt(before.self);
  demand(
    after.term >= before.term,
    "Terms never decrease",
    () => `${name} goes from term ${before.term} to ${after.term}`,
  );
  const isSameTerm = after.term === before.term;
  demand(
    !isSameTerm || before.votedFor === NO_PLACE || after.votedFor === before.votedFor,
    "One vote per term",
    () =>
      `${name} had voted for ${nameAt(before.votedFor)} in term ${after.term}, and now for `
      + `${nameAt(after.votedFor)}`,
  );
  demand(
    after.commitIndex >= before.commitIndex,
    "Committed entries stay committed",
    () => `${name} goes from ${before.commitIndex} committed entries to ${after.commitIndex}`,
  );
  demand(
    after.commitIndex <= after.log.length,
    "Only entries in the log are committed",
    () => `${name} has ${after.log.length} entries, and ${after.commitIndex} committed ones`,
  );
  const leads = before.role.name === "Leader" && after.role.name === "Leader" && isSameTerm;
  if (leads) checkFollowed(before.role, after.role);
  demand(
    !leads || before.log.every((code, i) => after.log[i] === code),
    "Leader append-only",
    () => `${name}, the leader of term ${after.term}, changes its log`,
  );
  return servers.numberOf(after);
}

/** Replies overtake each other, and what a follower has it keeps. */
function checkFollowed(before: RoleState, after: RoleState): void {
  if (before.name !== "Leader" || after.name !== "Leader") return;
  for (const [at, followed] of after.followers.entries()) {
    const known = before.followers[at]?.matchIndex ?? 0;
    demand(
      !followed || followed.matchIndex >= known,
      "A follower keeps the entries that it has acknowledged",
      () =>
        `its leader knew of ${known} entries in ${nameAt(at)}, and now of `
        + `${followed?.matchIndex}`,
    );
  }
}
