/**
 * Judges a simulated cluster. After every step the judge sees the state of each server, and also
 * the durable content of each disk and all messages, which no server sees. The judge throws a
 * sentence at the first step that breaks a promise of Figure 3, or a rule that supports one. It
 * examines changes only, so that it can judge thousands of runs in minutes.
 */
import type {
  Configuration,
  Entry,
  HardState,
  Membership,
  Message,
  Name,
  Position,
  Progress,
  Raft,
  Role,
} from "../../raft.ts";
import { isSameEntry } from "../support/entries.ts";

/**
 * The durable effect of a save: a term, a vote, a commit index, and entries, which replace all
 * entries from the first one's index on.
 */
export type Saved = HardState & { entries: readonly Entry[] };

/** A broken promise, as a sentence that names the rule, the server and the facts. */
export class Violation extends Error {
  constructor(readonly rule: string, facts: string) {
    super(`${rule}: ${facts}.`);
  }

  /** The entries that the sentence names, with their terms where it tells them. */
  get entries(): readonly { index: number; term: number | undefined }[] {
    return [...this.message.matchAll(/entry (\d+)(?: of term (\d+))?/g)]
      .map(([, index, term]) => ({ index: Number(index), term: term ? Number(term) : undefined }));
  }
}

/** What a patient judge demands: the promises of Figure 3, and what clients rely on. */
const promises: readonly string[] = [
  "Election safety",
  "Log matching",
  "Leader completeness",
  "State machine safety",
  "Equal logs make equal states",
  "A committed entry never changes",
  "Reads are linearizable",
];

const show = (entry: Entry | undefined) =>
  entry ? `entry ${entry.index} of term ${entry.term}` : "no entry";

/** Returns whether two entries are equal, or both are missing. */
function isSame(a: Entry | undefined, b: Entry | undefined): boolean {
  if (a === b || !a || !b) return a === b;
  return isSameEntry(a, b);
}

/**
 * The durable content of a disk, apart from its server's memory. Entries that a snapshot has
 * replaced are still listed here, and a server that installs a snapshot holds all entries in it.
 */
class Disk {
  /** The number that the lists of members have for this disk. */
  id = 0;
  currentTerm = 0;
  votedFor: Name | undefined;
  commitIndex = 0;
  /** The entry at index 1 is at place 0. */
  readonly entries: Entry[] = [];
  /** A save that a kill interrupted: it may be durable or not. */
  pending: Saved | undefined;

  apply({ currentTerm, votedFor, commitIndex, entries }: Saved): void {
    Object.assign(this, { currentTerm, votedFor, commitIndex });
    const [first] = entries;
    if (first) this.entries.length = first.index - 1;
    for (const entry of entries) this.entries.push(entry);
  }

  install({ index, term }: Position, committed: readonly Entry[]): void {
    if (this.entries[index - 1]?.term === term) return;
    this.entries.splice(0, Infinity, ...committed.slice(0, index));
  }

  isWhatIsKnownTo({ currentTerm, votedFor, commitIndex, snapshot, log }: Raft): boolean {
    const { baseIndex } = log;
    return commitIndex === Math.max(this.commitIndex, snapshot.index)
      && currentTerm === this.currentTerm && votedFor === this.votedFor
      && log.lastIndex === this.entries.length
      && log.at(baseIndex).term === (this.entries[baseIndex - 1]?.term ?? 0)
      && this.entries.slice(baseIndex).every((entry) => isSame(entry, log.at(entry.index)));
  }
}

/** Reads the entry that lists the members: for each [name, address, has a vote, disk]. */
const rowsOf = ({ membership: listed }: Entry): Row[] =>
  listed?.members.map(({ name, address, votes, disk }) => [name, address, votes, disk]) ?? [];
type Row = [Name, string, boolean, number];
const isList = ({ kind }: Entry) => kind === "members";
/** The founding that a log belongs to. */
const foundingOf = ([first]: readonly Entry[]) => first?.membership?.founding ?? 0;
/** Returns a configuration, or that of an entry, as text. */
const textOf = (list: Entry | Configuration): string =>
  JSON.stringify(
    "data" in list
      ? rowsOf(list)
      : list.map(({ name, address, votes, disk }) => [name, address, votes, disk]),
  );
const votersIn = (entry: Entry): Name[] =>
  rowsOf(entry).filter(([, , votes]) => votes).map(([name]) => name);

/** Returns whether `some` contain a majority of the voters. */
const isMajority = (some: readonly Name[], voters: readonly Name[]) =>
  2 * voters.filter((name) => some.includes(name)).length > voters.length;

/** A leader's view of a follower. */
type Followed = {
  progress: Progress;
  matchIndex: number;
  nextIndex: number;
  /** The index at which sending last restarted. */
  begunAt: number;
  /** How many times in a row sending restarted at a lower index. */
  refusals: number;
  /** When the follower last replied. */
  heardAt: number;
  /** The latest round with a reply. */
  round: number;
};
/** The state of a server, and of the cluster, when a read arrived at that server. */
export type Question = {
  role: Role;
  /** The leader's latest round; 0 for a follower. */
  round: number;
  /** The number of committed entries. */
  committed: number;
};

/** Two refusals by a leader's port count only if they are further apart than this. */
const LEAST_APART_MS = 4;

/** A server as it was after its last step. */
class Server {
  disk = new Disk();
  /** The votes of this disk by term: durable ones, and those in replies that left. */
  votes = new Map<number, Name>();
  /** Lost disks, and the promises made on them: "term candidate" for each vote. */
  readonly lostDisks: Disk[] = [];
  readonly lostVotes = new Set<string>();
  raft: Raft | undefined;
  log: Entry[] = [];
  /** The voters by its log, now and before its last step. */
  voters: readonly Name[] = [];
  votersBefore: readonly Name[] = [];
  role: Role | undefined;
  currentTerm = 0;
  votedFor: Name | undefined;
  commitIndex = 0;
  lastApplied = 0;
  /** The list of members in force, and its entry. */
  members: Configuration = [];
  list: Entry | undefined;
  /** The last term that this server led. */
  ledTerm = 0;
  /** Members that have not yet been sent the first entry of the leader's term. */
  unopened = new Set<Name>();
  /** A leader's followers, and when they last answered. */
  followers = new Map<Name, Followed>();
  electionDueAt = 0;
  timerFrom = 0;
  /** The times at which the leader's port refused a probe, since the leader was last heard. */
  refusedAt: number[] = [];
  /** When the server gave up its leader because of refusals or a restart. */
  forgotAt = Number.NEGATIVE_INFINITY;
  campaigns = 0;
  /** The last election timeout drawn for a campaign. */
  drawnMs = 0;

  constructor(readonly name: Name) {}

  hasVoted(term: number, candidate: Name): boolean {
    return this.votes.get(term) === candidate || this.lostVotes.has(`${term} ${candidate}`);
  }
}

/** Entries by index and term, as one number. */
const keyOf = ({ index, term }: { index: number; term: number }) => term * 2 ** 26 + index;

/**
 * One founding of a cluster. If a majority of the founders lose their disks, they may found it
 * again: that is another cluster, with promises of its own.
 */
class Founding {
  readonly leaders = new Map<number, { name: Name; role: Role }>();
  /** Every entry that any log ever held, with the term of its predecessor. */
  readonly known = new Map<number, { entry: Entry; prevTerm: number }>();
  /** The committed entries and the terms of their commitment. Index 1 is at place 0. */
  readonly committed: Entry[] = [];
  readonly committedIn: number[] = [];
  /** The state after each index, of the first server that applied it. */
  readonly states: (number | undefined)[] = [];
}

export class Judge {
  /**
   * Whether the judge overlooks broken rules that only support a promise, until a promise is broken.
   * A viewer then sees what the rule is good for.
   */
  isPatient = false;
  private readonly servers = new Map<Name, Server>();
  private readonly foundings = new Map<number, Founding>();
  /** The log of each candidate, by term and name. */
  private readonly candidates = new Map<string, { lastLogIndex: number; lastLogTerm: number }>();
  /**
   * `founders` are the first members; `others` may join. `maxReads` is the number of reads that the
   * clients may have in flight, which bounds the reads that wait in a server.
   */
  constructor(
    private readonly founders: readonly Name[],
    private readonly maxReads = 1000,
    others: readonly Name[] = [],
  ) {
    for (const name of [...founders, ...others]) this.addServer(name);
  }

  private demand(condition: boolean, rule: string, facts: () => string): asserts condition {
    if (condition || (this.isPatient && !promises.includes(rule))) return;
    throw new Violation(rule, facts());
  }

  /** Adds a server that may join. */
  addServer(name: Name): void {
    this.servers.set(name, new Server(name));
  }

  /** Returns the number of terms that had a leader. */
  get elections(): number {
    return [...this.foundings.values()].reduce((sum, { leaders }) => sum + leaders.size, 0);
  }

  /** Returns the number of foundings with a committed entry. */
  get founded(): number {
    return [...this.foundings.values()].filter(({ committed }) => committed.length > 0).length;
  }

  private foundingOf(identity: number): Founding {
    const founding = this.foundings.get(identity) ?? new Founding();
    this.foundings.set(identity, founding);
    return founding;
  }

  private of({ raft, disk }: Server): Founding {
    return this.foundingOf(raft?.founding ?? foundingOf(disk.entries));
  }

  /**
   * Returns the founding with the most committed entries. Without lost majorities it is the only
   * one.
   */
  private get main(): Founding {
    return [...this.foundings.values()].reduce(
      (most, other) => other.committed.length > most.committed.length ? other : most,
      this.foundingOf(0),
    );
  }

  get committed(): readonly Entry[] {
    return this.main.committed;
  }

  /** Returns the voters by a log, at first the founders. */
  private votersOf(log: readonly Entry[]): readonly Name[] {
    const last = log.findLast(({ kind }) => kind === "members");
    return last ? votersIn(last) : this.founders;
  }

  /** Returns the voters by the committed entries. */
  get voters(): readonly Name[] {
    return this.votersOf(this.committed);
  }

  /**
   * Returns whether these servers can work without the others. With the disks that the lists name,
   * they must be a majority by the committed entries and by all that may still be committed, and
   * they must include a learner that is about to be promoted.
   */
  canDoAlone(some: readonly Name[]): boolean {
    return isMajority(some, this.voters)
      && this.lists().every((entry) => {
        const named = rowsOf(entry).filter(([name, , , disk]) =>
          some.includes(name) && this.isNamed(name, disk)
        );
        return isMajority(named.map(([name]) => name), votersIn(entry))
          && rowsOf(entry).every(([name, , votes]) => votes || some.includes(name));
      });
  }

  /**
   * Returns whether the disk of this server may be lost. The others must be a majority with the
   * disks that they have, by the committed entries and by all that may still be committed; and the
   * founders with empty disks must be no majority, because they would found the cluster again.
   */
  canLoseDisk(lost: Name): boolean {
    const lists = this.lists();
    const empty = this.founders.filter((name) =>
      name === lost || this.at(name).disk.entries.length === 0
    );
    return lists.length > 0 && !isMajority(empty, this.founders) && this.isWhole()
      && lists.every((entry) => {
        // A learner may be promoted before its loss is noticed.
        const others = votersIn(entry).filter((name) => name !== lost);
        const isMember = rowsOf(entry).some(([name]) => name === lost);
        return !isMember || isMajority(others, [...others, lost]);
      });
  }

  /**
   * Returns whether every voter has the disk that the list names. Until then removals should wait.
   */
  isWhole(): boolean {
    return this.lists().every((entry) =>
      rowsOf(entry).every(([name, , votes, disk]) => !votes || this.isNamed(name, disk))
    );
  }

  /** A founder that was absent at the founding has no disk in the list yet. */
  private isNamed(name: Name, disk: number): boolean {
    return disk !== 0 && this.at(name).disk.id === disk;
  }

  /** Returns the lists of members that are committed, or may still be. */
  private lists(): Entry[] {
    const { main, main: { committed } } = this;
    // Before an entry is committed, the founding of any leader may prevail.
    const foundings = committed.length > 0 ? [main] : [...this.foundings.values()];
    const last = committed.findLast(({ kind }) => kind === "members");
    const lists = foundings.flatMap(({ known }) => [...known.values()]).map(({ entry }) => entry)
      .filter(({ kind, index }) => kind === "members" && index > committed.length);
    return [...last ? [last] : [], ...lists];
  }

  private at(name: Name): Server {
    const server = this.servers.get(name);
    if (!server) throw new Error(`there is no server ${name}`);
    return server;
  }

  // ----------------------------------------- Reports --------------------------------------------

  /** Reports that a server starts from its disk, for the first time or again. */
  started(name: Name, raft: Raft): void {
    const server = this.at(name);
    const { disk } = server;
    const { pending } = disk;
    if (pending && !disk.isWhatIsKnownTo(raft)) disk.apply(pending);
    disk.pending = undefined;
    disk.id = raft.settings.disk;
    this.demand(
      disk.isWhatIsKnownTo(raft),
      "Durable state survives",
      () =>
        `${name} starts in term ${raft.currentTerm} with a vote for ${raft.votedFor}, `
        + `${raft.log.lastIndex} entries and ${raft.commitIndex} committed; its disk had `
        + `term ${disk.currentTerm}, a vote for ${disk.votedFor}, `
        + `${disk.entries.length} entries and ${disk.commitIndex} committed`,
    );
    const { index } = raft.snapshot;
    const { committed } = this.of(server);
    const last = disk.entries[raft.commitIndex - 1];
    this.demand(
      isSame(last, committed[raft.commitIndex - 1]),
      "Only committed entries are saved as committed",
      () => `${name} starts with ${show(last)} as committed`,
    );
    Object.assign(server, {
      raft,
      role: raft.role,
      commitIndex: raft.commitIndex,
      lastApplied: index,
      log: [
        ...disk.entries.slice(0, raft.log.baseIndex),
        ...raft.log.slice(raft.log.baseIndex + 1),
      ],
      currentTerm: raft.currentTerm,
      votedFor: raft.votedFor,
      campaigns: raft.campaigns,
      electionDueAt: raft.electionDueAt,
      timerFrom: raft.heardAt,
      refusedAt: [],
      forgotAt: Number.NEGATIVE_INFINITY,
    });
    server.voters = server.votersBefore = this.votersOf(server.log);
    this.checkMembers(server, raft);
    this.checkDisk(server);
  }

  /** Reports that a server was killed or has stopped. Its disk stays. */
  stopped(name: Name): void {
    this.at(name).raft = undefined;
  }

  /** Reports that a server that is down loses its disk, with all promises on it. */
  lostDisk(name: Name): void {
    const server = this.at(name);
    server.lostDisks.push(server.disk);
    for (const [term, candidate] of server.votes) server.lostVotes.add(`${term} ${candidate}`);
    Object.assign(server, { disk: new Disk(), votes: new Map(), ledTerm: 0 });
  }

  /** Reports that a save begins: it may be durable from now on. */
  saving(name: Name, record: Saved): void {
    this.at(name).disk.pending = record;
  }

  /** Reports that the save is durable. */
  saved(name: Name): void {
    const server = this.at(name);
    const { disk } = server;
    if (!disk.pending) return;
    const { currentTerm, commitIndex, entries: [first] } = disk.pending;
    this.demand(
      currentTerm >= disk.currentTerm,
      "Terms never decrease",
      () => `the disk of ${name} goes from term ${disk.currentTerm} to ${currentTerm}`,
    );
    this.demand(
      commitIndex >= disk.commitIndex,
      "A saved commit index never decreases",
      () => `the one of ${name} goes from ${disk.commitIndex} to ${commitIndex}`,
    );
    this.demand(
      !first || first.index > disk.commitIndex || disk.commitIndex === 0,
      "Entries saved as committed are never replaced",
      () =>
        `${name} replaces ${show(first)}, and has saved ${disk.commitIndex} entries as committed`,
    );
    this.demand(
      !first || first.index <= disk.entries.length + 1,
      "A log has no gaps",
      () => `${show(first)} follows ${disk.entries.length} entries on the disk of ${name}`,
    );
    disk.apply(disk.pending);
    disk.pending = undefined;
    this.checkDisk(server);
  }

  /**
   * Reports that a snapshot is durable, a server's own or an installed one, before the log is
   * compacted. `state` is the digest of the state machine.
   */
  snapshotted(
    name: Name,
    position: Position & Partial<Membership>,
    state: number,
    installed = false,
  ): void {
    const server = this.at(name);
    const { index, term, founding } = position;
    const { committed, states } = founding === undefined
      ? this.of(server)
      : this.foundingOf(founding);
    this.demand(
      committed[index - 1]?.term === term,
      "A snapshot has only committed entries",
      () => `the snapshot of ${name} ends at entry ${index} of term ${term}`,
    );
    this.demand(
      states[index] === state,
      "Equal logs make equal states",
      () => `the snapshot of ${name} at ${index} differs from the state of the others`,
    );
    const list = committed.slice(0, index).findLast(isList);
    const { members } = position;
    this.demand(
      !list || !members || textOf(members) === textOf(list),
      "A snapshot has the members at its index",
      () => `the snapshot of ${name} at ${index} lists ${textOf(members ?? [])}`,
    );
    if (!installed) return;
    this.demand(
      index > server.lastApplied,
      "A state never goes back",
      () =>
        `${name} has applied ${server.lastApplied} entries, and installs a snapshot at ${index}`,
    );
    server.disk.install(position, committed);
    server.lastApplied = index;
  }

  private checkDisk(server: Server): void {
    const { currentTerm, votedFor } = server.disk;
    if (votedFor !== undefined) this.checkVote(server, currentTerm, votedFor);
  }

  private checkVote({ name, votes }: Server, term: number, candidate: Name): void {
    const before = votes.get(term) ?? candidate;
    this.demand(
      before === candidate,
      "One vote per term",
      () => `${name} votes for ${candidate} in term ${term}, and had voted for ${before}`,
    );
    this.demand(
      candidate === name || this.at(candidate).hasVoted(term, candidate),
      "Votes are for candidates",
      () => `${name} votes for ${candidate}, which did not campaign in term ${term}`,
    );
    votes.set(term, candidate);
  }

  private checkUpToDate({ name, disk }: Server, term: number, to: Name): void {
    const candidate = this.candidates.get(`${term} ${to}`);
    const last = disk.entries.at(-1);
    // An entry of the candidate's own term was saved after the vote.
    if (!candidate || !last || last.term >= term || disk.currentTerm > term) return;
    const { lastLogTerm, lastLogIndex } = candidate;
    this.demand(
      lastLogTerm > last.term || (lastLogTerm === last.term && lastLogIndex >= last.index),
      "A vote is for a log that is at least as up to date",
      () =>
        `${name} has ${show(last)}, and votes in term ${term} for ${to}, whose last entry is `
        + `${lastLogIndex} of term ${lastLogTerm}`,
    );
  }

  /** Reports that a message leaves a server. */
  sent(m: Message): void {
    const server = this.at(m.from);
    const { disk: { currentTerm, votedFor, entries }, name } = server;
    const isPromise = m.type === "RequestVoteReply"
      ? m.voteGranted && !m.preVote
      : m.type !== "RequestVote" || !m.preVote;
    if (!isPromise) return;
    this.demand(
      currentTerm >= m.term,
      "A term is durable before a message of that term leaves",
      () => `${name} sends ${m.type} of term ${m.term}, and its disk has term ${currentTerm}`,
    );
    const isLatest = currentTerm === m.term;
    if (m.type === "RequestVoteReply") {
      this.demand(
        !isLatest || votedFor === m.to,
        "A vote is durable before it is given",
        () => `${name} votes for ${m.to} in term ${m.term}, and its disk has ${votedFor}`,
      );
      this.checkVote(server, m.term, m.to);
      this.checkUpToDate(server, m.term, m.to);
    } else if (m.type === "RequestVote") {
      this.checkVote(server, m.term, name);
      this.candidates.set(`${m.term} ${name}`, m);
    } else if (m.type === "AppendEntries") {
      for (const entry of m.entries) this.checkEntry(name, entry);
      const first = server.raft?.role.name === "Leader" ? server.raft.role.firstIndex : 0;
      if (m.entries.some(({ index }) => index === first)) server.unopened.delete(m.to);
    } else if (m.type === "AppendEntriesReply" && m.success) {
      // In a turn that ends in a later term, an accepted entry may already be overwritten.
      this.demand(
        !isLatest || entries.length >= m.matchIndex,
        "Only durable entries are acknowledged",
        () => `${name} acknowledges ${m.matchIndex} entries, and its disk has ${entries.length}`,
      );
      if (isLatest) this.checkAcknowledgement(server, m.term, m.matchIndex);
    }
  }

  /** Checks an acknowledged entry. While a leader leads, its log is the truth of its term. */
  private checkAcknowledgement(server: Server, term: number, matchIndex: number): void {
    const { name, disk } = server;
    const { name: leader = "", role } = this.of(server).leaders.get(term) ?? {};
    const { raft, log } = this.servers.get(leader) ?? {};
    if (matchIndex === 0 || !raft || raft.role !== role) return;
    const [own, theirs] = [disk.entries[matchIndex - 1], log?.[matchIndex - 1]];
    this.demand(
      isSame(own, theirs),
      "An acknowledged entry equals the leader's",
      () => `${name} acknowledges ${show(own)} to ${leader}, which has ${show(theirs)}`,
    );
  }

  /** Reports that a server has received a message. Called before the server does anything else. */
  received(m: Message): void {
    const server = this.at(m.to);
    const { raft, name } = server;
    if (!raft) return;
    const { role, currentTerm, commitIndex, now } = raft;
    this.checkTimer(server, raft, m);
    const isLeaders = m.type === "AppendEntries" || m.type === "InstallSnapshot";
    if (isLeaders && m.term === currentTerm) server.refusedAt = [];
    if (m.type === "AppendEntries") {
      const confirmed = Math.min(m.leaderCommit, m.prevLogIndex + m.entries.length);
      this.demand(
        commitIndex <= Math.max(server.commitIndex, confirmed),
        "A request commits only entries that it confirms",
        () => `a request that confirms ${confirmed} entries makes ${name} commit ${commitIndex}`,
      );
    }
    const follower = server.followers.get(m.from);
    if (m.type === "AppendEntriesReply" && !m.success && role.name === "Leader" && follower) {
      // A refusal may also restart sending at a later entry, which has not been sent yet.
      const { nextIndex } = role.followers.get(m.from) ?? follower;
      if (nextIndex > follower.nextIndex) follower.begunAt = follower.nextIndex = nextIndex;
    }
    this.stepped(name);
    const isAnswer = m.type === "AppendEntriesReply" || m.type === "InstallSnapshotReply";
    if (role.name !== "Leader" || !isAnswer || m.term !== currentTerm || !follower) return;
    follower.heardAt = now;
    follower.round = Math.max(follower.round, m.round);
  }

  /** Reports that a server found the port of `peer` closed. */
  refused(name: Name, peer: Name): void {
    const server = this.at(name);
    const { raft, role, refusedAt, timerFrom } = server;
    if (!raft) return;
    const leader = role?.name === "Follower" ? role.leader : undefined;
    const isLate = raft.now - timerFrom >= raft.settings.heartbeatMs;
    if (leader === peer && isLate) refusedAt.push(raft.now);
    if (raft.role === role) {
      this.demand(
        raft.electionDueAt === server.electionDueAt,
        "Only a lost leader hastens an election",
        () => `${name} does when the port of ${peer} is closed`,
      );
      return this.stepped(name);
    }
    const lastingMs = (refusedAt.at(-1) ?? 0) - (refusedAt[0] ?? 0);
    this.demand(
      leader === peer && refusedAt.length > 1 && lastingMs > LEAST_APART_MS,
      "A follower gives up its leader after two refusals if that leader is late",
      () =>
        `${name} last heard its leader ${leader} ${
          raft.now - timerFrom
        } ms ago, and found the port `
        + `of ${peer} closed, ${refusedAt.length} times in ${lastingMs} ms`,
    );
    server.forgotAt = raft.now;
    this.stepped(name);
  }

  /** Reports that a server noticed the restart of another one. */
  restarted(name: Name, peer: Name): void {
    const server = this.at(name);
    const { raft, role } = server;
    if (!raft) return;
    const leader = role?.name === "Follower" ? role.leader : undefined;
    const isForgotten = raft.role !== role;
    this.demand(
      isForgotten === (leader === peer),
      "A follower gives up its leader if and only if that leader has restarted",
      () => `${name}, whose leader is ${leader}, notices that ${peer} has restarted`,
    );
    this.demand(
      isForgotten || raft.electionDueAt === server.electionDueAt,
      "Only a lost leader hastens an election",
      () => `${name} does when it notices that ${peer} has restarted`,
    );
    if (isForgotten) server.forgotAt = raft.now;
    this.stepped(name);
  }

  /** Reports that a read arrives at a leader or follower. */
  asked(name: Name): Question {
    const server = this.at(name);
    const { role } = server.raft ?? {};
    if (!role) throw new Error(`${name} does not run`);
    const round = role.name === "Leader" ? role.round : 0;
    return { role, round, committed: this.of(server).committed.length };
  }

  /**
   * Reports that a server answers a read from its current state. The log orders all commands, so
   * reads are linearizable if they see all entries that were committed at their arrival.
   */
  answered(name: Name, { role, round, committed }: Question): void {
    const { raft, followers, lastApplied, voters } = this.at(name);
    this.demand(
      role.name !== "Leader" || raft?.role === role,
      "Only a leader that still leads answers reads",
      () => `${name} no longer leads as it did when the read arrived`,
    );
    this.demand(
      !raft?.isInstalling,
      "No read sees a half installed snapshot",
      () => `${name} answers a read while it installs the snapshot at ${raft?.incoming?.index}`,
    );
    this.demand(
      lastApplied >= committed,
      "Reads are linearizable",
      () =>
        `${name} answers a read at entry ${lastApplied}, and ${committed} entries were committed `
        + "when the read arrived",
    );
    if (role.name !== "Leader") return; // A follower's read waits for a round of the leader.
    const confirmed = [...followers].filter(([, follower]) => follower.round > round)
      .map(([follower]) => follower);
    this.demand(
      isMajority([name, ...confirmed], voters),
      "A read waits for a later round",
      () =>
        `${name} got a read after round ${round}; ${confirmed.length} followers confirmed later ones`,
    );
  }

  /** Reports a tick of a server, which has received all messages that arrived before. */
  ticked(name: Name): void {
    this.stepped(name);
    const { raft, followers, voters } = this.at(name);
    if (raft?.role.name !== "Leader") return;
    const heard = voters.map((voter) =>
      voter === name ? raft.now : followers.get(voter)?.heardAt ?? 0
    );
    const heardAt = heard.sort((a, b) => b - a)[Math.floor(voters.length / 2)] ?? raft.now;
    this.demand(
      raft.now - heardAt <= 2 * raft.settings.electionTimeoutMs,
      "A leader without a majority steps down",
      () =>
        `${name} leads in term ${raft.currentTerm}, and no majority replied for `
        + `${Math.round(raft.now - heardAt)} ms`,
    );
  }

  /**
   * Reports that a server has applied an entry. `state` is the digest of its state machine
   * afterwards.
   */
  applied(name: Name, entry: Entry, state: number): void {
    const server = this.at(name);
    const { committed, states } = this.of(server);
    this.checkLog(server);
    this.checkCommitted(server);
    this.demand(
      entry.index === server.lastApplied + 1,
      "Entries are applied once and in order",
      () => `${name} applies ${show(entry)} after ${server.lastApplied}`,
    );
    const before = committed[entry.index - 1];
    this.demand(
      isSame(before, entry),
      "State machine safety",
      () => `${name} applies ${show(entry)} where ${show(before)} is committed`,
    );
    const expected = states[entry.index] ??= state;
    this.demand(
      state === expected,
      "Equal logs make equal states",
      () => `after ${show(entry)} the state of ${name} differs from that of the others`,
    );
    server.lastApplied = entry.index;
  }

  /** Reports that a server has processed a message, a tick or a request, or has ended its turn. */
  stepped(name: Name): void {
    const server = this.at(name);
    const { raft } = server;
    if (!raft) return;
    this.checkTerm(server, raft);
    server.votersBefore = server.voters;
    this.checkLog(server);
    this.checkMembers(server, raft);
    this.checkCampaign(server, raft);
    this.checkLeader(server, raft);
    this.checkCommitted(server);
    this.checkQueues(server, raft);
    this.checkFollowers(server, raft);
    const { lastApplied, commitIndex } = raft;
    this.demand(
      lastApplied >= server.lastApplied && lastApplied <= commitIndex,
      "Only committed entries are applied, and only once",
      () =>
        `${name} has applied ${server.lastApplied} entries, and claims ${lastApplied}, with `
        + `${commitIndex} committed`,
    );
    const { role, electionDueAt, heardAt, campaigns } = raft;
    Object.assign(server, { role, electionDueAt, timerFrom: heardAt, campaigns });
  }

  /** Reports that a server has ended its turn and sent its messages. */
  turned(name: Name): void {
    const { raft, unopened } = this.at(name);
    // If a leader's own saved vote elected it, its first entry is sent in the next turn.
    if (raft?.role.name !== "Leader" || raft["isUnsaved"]) return;
    this.demand(
      unopened.size === 0,
      "A new leader sends its first entry in the same turn",
      () =>
        `${name}, the leader of term ${raft.currentTerm}, has not sent it to `
        + [...unopened].join(", "),
    );
  }

  // ----------------------------------------- The rules ------------------------------------------

  /** Terms never decrease, a vote never changes, and a server knows which state is durable. */
  private checkTerm(server: Server, raft: Raft): void {
    const { name, disk } = server;
    const { currentTerm, votedFor, saved, log } = raft;
    const { savedIndex } = log;
    this.demand(
      currentTerm >= server.currentTerm,
      "Terms never decrease",
      () => `${name} goes from term ${server.currentTerm} to ${currentTerm}`,
    );
    const before = currentTerm === server.currentTerm ? server.votedFor : undefined;
    this.demand(
      before === undefined || votedFor === before,
      "One vote per term",
      () => `${name} had voted for ${before} in term ${currentTerm}, and now for ${votedFor}`,
    );
    [server.currentTerm, server.votedFor] = [currentTerm, votedFor];
    this.demand(
      saved.currentTerm === disk.currentTerm && saved.votedFor === disk.votedFor
        && (savedIndex === log.baseIndex
          || isSame(disk.entries[savedIndex - 1], log.at(savedIndex))),
      "A server believes only durable state to be durable",
      () =>
        `${name} believes in term ${saved.currentTerm}, a vote for ${saved.votedFor} and `
        + `${savedIndex} entries; its disk has term ${disk.currentTerm}, a vote for `
        + `${disk.votedFor} and ${disk.entries.length} entries`,
    );
  }

  /**
   * Only a message from the leader, or a vote for a candidate, resets the election timer.
   */
  private checkTimer(server: Server, raft: Raft, m: Message): void {
    const { name } = server;
    const isSame = raft.electionDueAt === server.electionDueAt
      && raft.heardAt === server.timerFrom;
    if (isSame || raft.campaigns !== server.campaigns) return;
    const reply = raft["outbox"].at(-1);
    const isVote = m.type === "RequestVote" && !m.preVote && raft.votedFor === m.from
      && reply?.type === "RequestVoteReply" && reply.voteGranted;
    const isLeader = (m.type === "AppendEntries" || m.type === "InstallSnapshot")
      && m.term === raft.currentTerm;
    const steppedDown = server.role?.name === "Leader" && raft.role.name !== "Leader";
    // A candidate with an empty log gives up once it has installed a snapshot.
    const gaveUp = m.type === "RequestVoteReply" && server.role?.name === "PreCandidate"
      && raft.role.name === "Follower";
    this.demand(
      isVote || isLeader || steppedDown || gaveUp,
      "Only a leader or a granted vote postpones an election",
      () => `${name} resets its timer after ${m.type} of term ${m.term} from ${m.from}`,
    );
  }

  /** Every campaign draws its own timeout. Otherwise two candidates may split the votes forever. */
  private checkCampaign(server: Server, { campaigns, electionDueAt, now, settings }: Raft): void {
    if (campaigns === server.campaigns) return;
    // A member may be needed until its removal is committed, so the previous list counts, too.
    const { log, commitIndex } = server;
    const changedAt = log.findLast(({ kind }) => kind === "members")?.index ?? 0;
    const before = changedAt > commitIndex ? this.votersOf(log.slice(0, changedAt - 1)) : [];
    this.demand(
      [...server.voters, ...before].includes(server.name),
      "Only a voter campaigns",
      () => `${server.name} campaigns, and the voters are ${server.voters.join(", ")}`,
    );
    const drawnMs = electionDueAt - now;
    const T = settings.electionTimeoutMs;
    const { name, forgotAt } = server;
    const least = now < forgotAt + T ? settings.heartbeatMs : T;
    this.demand(
      drawnMs > 0.999 * least && drawnMs < 1.501 * T,
      "An election timeout is from T to 1.5T",
      () => `the timeout of ${name} is ${drawnMs} ms, and T is ${T} ms`,
    );
    this.demand(
      Math.abs(drawnMs - server.drawnMs) > 1e-6,
      "A timeout is drawn for every campaign",
      () => `two campaigns of ${name} have the same timeout, ${drawnMs} ms`,
    );
    server.drawnMs = drawnMs;
  }

  /** Log matching, leader append-only, and no entry deleted without a conflict. */
  private checkLog(server: Server): void {
    const { raft, log, name } = server;
    if (!raft) return;
    const { committed } = this.of(server);
    const { baseIndex } = raft.log;
    const { term } = raft.log.at(baseIndex);
    if (baseIndex > 0 && log[baseIndex - 1]?.term !== term) {
      // Only a snapshot can have replaced this entry, so all entries up to it are committed.
      this.demand(
        committed[baseIndex - 1]?.term === term,
        "A log begins after a committed entry",
        () => `the log of ${name} begins after entry ${baseIndex} of term ${term}`,
      );
      log.splice(0, Infinity, ...committed.slice(0, baseIndex));
      server.voters = this.votersOf(log);
    }
    if (foundingOf(log) > 0 && raft.founding !== foundingOf(log)) {
      this.demand(
        server.commitIndex === 0 && server.disk.commitIndex === 0,
        "A fixed founding is never replaced",
        () => `${name} drops its founding with ${log.length} entries for another one`,
      );
      log.length = 0;
    }
    let common = Math.min(log.length, raft.log.lastIndex);
    while (common > baseIndex && log[common - 1] !== raft.log.at(common)) common -= 1;
    if (common < log.length) this.checkTruncation(server, raft, common);
    const isLonger = common < raft.log.lastIndex;
    if (log.length === common && !isLonger) return;
    log.length = common;
    for (let index = common + 1; index <= raft.log.lastIndex; index += 1) {
      const entry = raft.log.at(index);
      this.demand(
        entry.index === index,
        "A log has no gaps",
        () => `${name} has ${show(entry)} there`,
      );
      this.checkEntry(name, entry, raft.log.at(index - 1).term);
      if (entry.kind === "members") this.checkChange(server, raft, entry);
      log.push(entry);
    }
    server.voters = this.votersOf(log);
  }

  /** Only one change is pending at a time, including the changes of earlier leaders. */
  private checkChange(
    { log, name, role: before }: Server,
    { role, commitIndex }: Raft,
    entry: Entry,
  ): void {
    const [old, next] = [this.votersOf(log), votersIn(entry)];
    const changed = [...old, ...next].filter((one) => !old.includes(one) || !next.includes(one));
    this.demand(
      next.length > 0 && changed.length <= 1,
      "A change adds or removes one voter",
      () =>
        `${show(entry)} of ${name} replaces ${old.join(", ")} by ${next.join(", ") || "no voter"}`,
    );
    if (role.name !== "Leader" || role !== before) return;
    const last = log.findLastIndex(({ kind }) => kind === "members") + 1;
    this.demand(
      commitIndex >= last,
      "One change at a time",
      () => `${name} lists the members in ${show(entry)}, and entry ${last} is not committed`,
    );
    this.demand(
      commitIndex >= role.firstIndex,
      "No change before an entry of the leader's term is committed",
      () => `${name} lists the members in ${show(entry)}, and has committed ${commitIndex}`,
    );
  }

  /**
   * The last list in a log is in force, committed or not (thesis §4.1). Without a list, the
   * founders are the members. The judge reads the list from the entry itself.
   */
  private checkMembers(server: Server, { members, settings }: Raft): void {
    const list = server.log.findLast(isList);
    if (list === server.list && members === server.members) return;
    const expected = textOf(list ?? settings.founders);
    this.demand(
      textOf(members) === expected,
      "The last list of members in the log is in force",
      () => `${server.name} uses ${textOf(members)}, and the last list is ${expected}`,
    );
    Object.assign(server, { list, members });
  }

  private checkTruncation(server: Server, { role, log, currentTerm }: Raft, common: number): void {
    const { name } = server;
    this.demand(
      server.role !== role || role.name !== "Leader",
      "Leader append-only",
      () => `${name}, the leader of term ${currentTerm}, deletes ${show(server.log[common])}`,
    );
    // An entry that is replaced by an equal one is not lost.
    const now = (at: number) => at < log.lastIndex ? log.at(at + 1) : undefined;
    let at = common;
    while (at < server.log.length && isSame(server.log[at], now(at))) at += 1;
    const lost = server.log[at];
    if (!lost) return;
    this.demand(
      now(at) !== undefined,
      "Only conflicting entries are deleted",
      () => `${name} deletes ${show(lost)} and has no other entry in its place`,
    );
    this.demand(
      !isSame(lost, this.of(server).committed[at]),
      "A committed entry never changes",
      () => `${name} deletes ${show(lost)}, and has ${show(now(at))} in its place`,
    );
  }

  /** In all logs, entries of equal index and term are equal, and so are their predecessors. */
  private checkEntry(name: Name, entry: Entry, prevTerm?: number): void {
    const key = keyOf(entry);
    const founding = this.of(this.at(name));
    const known = founding.known.get(key);
    if (!known) {
      if (prevTerm !== undefined) founding.known.set(key, { entry, prevTerm });
      return;
    }
    this.demand(
      isSame(entry, known.entry),
      "Log matching",
      () => `${show(entry)} of ${name} differs from that of the others`,
    );
    this.demand(
      prevTerm === undefined || prevTerm === known.prevTerm,
      "Log matching",
      () =>
        `before ${
          show(entry)
        } ${name} has an entry of term ${prevTerm}, and others have one of term `
        + `${known.prevTerm}`,
    );
  }

  /** A term has one leader (election safety), which has all committed entries (completeness). */
  private checkLeader(server: Server, { role, currentTerm, log }: Raft): void {
    if (role.name !== "Leader") return;
    if (role === server.role && currentTerm === server.ledTerm) return;
    const { name } = server;
    const { leaders, committed, committedIn } = this.of(server);
    server.ledTerm = currentTerm;
    server.followers = new Map();
    const list = server.log.findLast(isList);
    const members = list ? rowsOf(list).map(([member]) => member) : this.founders;
    server.unopened = new Set(members.filter((member) => member !== name));
    const other = leaders.get(currentTerm) ?? { name, role };
    this.demand(
      other.role === role,
      "Election safety",
      () => `${name} and ${other.name} lead in term ${currentTerm}`,
    );
    leaders.set(currentTerm, other);
    const voters = this.names((voter) => voter.hasVoted(currentTerm, name));
    this.demand(
      isMajority(voters, server.votersBefore),
      "A leader has the votes of a majority",
      () =>
        `in term ${currentTerm} ${name} has the votes of ${
          voters.join(", ") || "no server"
        }, and the `
        + `voters are ${server.votersBefore.join(", ")}`,
    );
    // With late votes a server may lead in a term that is over. It need not have the entries of
    // later terms.
    const count = committedIn.findLastIndex((term) => term < currentTerm) + 1;
    const missing = committed[count - 1];
    this.demand(
      !missing || log.matches(missing.index, missing.term),
      "Leader completeness",
      () => `${name} leads in term ${currentTerm} without the committed ${show(missing)}`,
    );
  }

  private names(isOne: (server: Server) => boolean): Name[] {
    return [...this.servers.values()].filter(isOne).map(({ name }) => name);
  }

  /**
   * Committed entries stay committed, and are equal on all servers. Newly committed entries are
   * durable on a majority.
   */
  private checkCommitted(server: Server): void {
    const { raft, name } = server;
    if (!raft || raft.commitIndex === server.commitIndex) return;
    const { commitIndex, log } = raft;
    const { committed: known } = this.of(server);
    this.demand(
      commitIndex > server.commitIndex,
      "Committed entries stay committed",
      () => `${name} had ${server.commitIndex} committed entries, and now has ${commitIndex}`,
    );
    this.demand(
      commitIndex <= log.lastIndex,
      "Only entries in the log are committed",
      () => `${name} has ${log.lastIndex} entries, and ${commitIndex} committed ones`,
    );
    const isFirst = commitIndex > known.length;
    this.demand(
      !isFirst || log.matches(commitIndex, server.ledTerm),
      "Only a leader commits, and by an entry of its own term",
      () =>
        `${name}, last a leader in term ${server.ledTerm}, commits ${show(log.at(commitIndex))}`,
    );
    const first = Math.max(server.commitIndex, log.baseIndex) + 1;
    for (let index = first; index <= commitIndex; index += 1) {
      const entry = log.at(index);
      if (index > known.length) this.commit(server, entry);
      const committed = known[index - 1];
      this.demand(
        isSame(committed, entry),
        "A committed entry never changes",
        () => `${name} has committed ${show(entry)}, and others ${show(committed)}`,
      );
    }
    server.commitIndex = commitIndex;
  }

  /**
   * Returns the servers with this entry on the disk that the log names, even if that disk is lost.
   */
  private holders(entry: Entry, log: readonly Entry[]): Name[] {
    const list = log.findLast(({ kind }) => kind === "members");
    const named = new Map(list ? rowsOf(list).map(([name, , , disk]) => [name, disk]) : []);
    return this.names(({ name, disk, lostDisks }) =>
      [disk, ...lostDisks].some(({ id, entries }) =>
        id === (named.get(name) ?? id) && foundingOf(entries) === foundingOf(log)
        && isSame(entries[entry.index - 1], entry)
      )
    );
  }

  private commit(server: Server, entry: Entry): void {
    const { name, ledTerm, log, voters, votersBefore } = server;
    const { committed, committedIn } = this.of(server);
    const before = log.slice(0, log.findLastIndex(({ kind }) => kind === "members"));
    const holders = this.holders(entry, log);
    // A leader may commit and change the members in one step. The previous members count then.
    this.demand(
      isMajority(holders, voters) || isMajority(this.holders(entry, before), votersBefore),
      "A committed entry is on a majority of disks",
      () =>
        `${name} commits ${show(entry)}, which is durable on ${holders.join(", ") || "none"} of `
        + `${voters.join(", ")}`,
    );
    for (const { raft, name: leader } of this.servers.values()) {
      const isLater = raft?.role.name === "Leader" && raft.currentTerm > ledTerm
        && raft.founding === server.raft?.founding;
      this.demand(
        !isLater || raft.log.matches(entry.index, entry.term),
        "Leader completeness",
        () => `${leader}, the leader of a later term, lacks ${show(entry)}, which ${name} commits`,
      );
    }
    committed.push(entry);
    committedIn.push(ledTerm);
  }

  /** A server's queues are bounded. Otherwise a slow peer could exhaust a fast server. */
  private checkQueues({ name }: Server, raft: Raft): void {
    const { role } = raft;
    const { length } = raft["outbox"];
    const limit = 1000 + 100 * this.servers.size;
    this.demand(
      length <= limit,
      "Queues are bounded",
      () => `${length} messages wait in ${name}`,
    );
    if (role.name !== "Leader") return;
    this.demand(
      role.reads.length <= this.maxReads,
      "Queues are bounded",
      () => `${role.reads.length} reads wait in ${name}`,
    );
  }

  /** A follower's matchIndex never decreases, and the bytes in flight are bounded. */
  private checkFollowers(server: Server, raft: Raft): void {
    if (raft.role.name !== "Leader") return;
    for (const [to, progress] of raft.role.followers) {
      this.checkFollower(server, raft, to, progress);
    }
  }

  private checkFollower(
    server: Server,
    { log, now, settings }: Raft,
    to: Name,
    progress: Progress,
  ): void {
    const { name, followers } = server;
    const { matchIndex, nextIndex } = progress;
    const before = followers.get(to);
    // A removed member that is added again may be another server of that name.
    const known = before?.progress === progress
      ? before
      : {
        progress,
        matchIndex,
        nextIndex,
        begunAt: nextIndex,
        refusals: 0,
        heardAt: now,
        round: 0,
      };
    followers.set(to, known);
    this.demand(
      matchIndex >= known.matchIndex,
      "A follower keeps the entries that it has acknowledged",
      () => `in ${name} the matchIndex of ${to} goes from ${known.matchIndex} to ${matchIndex}`,
    );
    this.demand(
      nextIndex > matchIndex,
      "A leader sends no entry that the follower has acknowledged",
      () => `${name} sends entry ${nextIndex} to ${to}, which has acknowledged ${matchIndex}`,
    );
    if (nextIndex < known.nextIndex) this.checkRefusal(server, to, nextIndex, known);
    if (matchIndex > known.matchIndex) known.refusals = 0;
    known.matchIndex = matchIndex;
    known.nextIndex = nextIndex;
    const first = Math.max(matchIndex + 1, known.begunAt);
    // The last batch left while the window was open, and a batch has at least one entry.
    const last = log.bytes(nextIndex - 1, nextIndex - 1);
    const bytes = log.bytes(first, nextIndex - 1) - Math.max(settings.batchBytes, last);
    this.demand(
      bytes < settings.windowBytes,
      "The window is bounded",
      () => `${name} has entries ${first} to ${nextIndex - 1} in flight to ${to}`,
    );
  }

  /** A conflict costs one round trip for each term, not for each entry. */
  private checkRefusal(
    { name, raft, log }: Server,
    to: Name,
    nextIndex: number,
    known: Followed,
  ): void {
    if (nextIndex < known.begunAt && raft?.role.name === "Leader") {
      known.refusals += 1;
      const skipped = log.slice(nextIndex - 1, raft.role.firstIndex);
      const terms = skipped.filter(({ term }, i) => term !== skipped[i - 1]?.term).length;
      this.demand(
        known.refusals <= terms + 2,
        "A conflict costs a round trip per term",
        () => `${to} has refused ${name} ${known.refusals} times for ${terms} terms`,
      );
    }
    known.begunAt = nextIndex;
  }

  /** Checks all logs, not only the changes. Called at the end and from time to time. */
  checkAll(): void {
    for (const server of this.servers.values()) {
      this.checkLog(server);
      const { raft, name } = server;
      const first = (raft?.log.baseIndex ?? 0) + 1;
      for (let index = first; raft && index <= raft.log.lastIndex; index += 1) {
        const entry = raft.log.at(index);
        this.checkEntry(name, entry, raft.log.at(index - 1).term);
        const committed = index <= raft.commitIndex ? this.of(server).committed[index - 1] : entry;
        this.demand(
          isSame(entry, committed),
          "A committed entry never changes",
          () => `${name} has ${show(entry)} where ${show(committed)} is committed`,
        );
      }
    }
  }

  /** Checks that all members of a healed cluster have committed and applied equal logs. */
  checkAgreement(members: readonly Name[] = this.founders): void {
    for (const { name, raft } of members.map((member) => this.at(member))) {
      const { lastIndex = 0 } = raft?.log ?? {};
      this.demand(
        raft?.commitIndex === this.committed.length && raft.lastApplied === raft.commitIndex
          && lastIndex === raft.commitIndex,
        "In a healed cluster all servers catch up",
        () =>
          `${this.committed.length} entries are committed; ${name} has ${lastIndex}, of those `
          + `${raft?.commitIndex} committed and ${raft?.lastApplied} applied`,
      );
    }
  }
}
