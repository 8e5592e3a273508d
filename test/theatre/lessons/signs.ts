/**
 * Signs: the named events that the steps of a lesson wait for. A sign compares two consecutive
 * instants, so a lesson finds its events again when other events come between them.
 */
import type { FlightType, Instant, ServerView } from "../state.ts";

export type Sign = {
  /** The event in words: "the election timer of b runs out". */
  readonly words: string;
  /**
   * Returns whether this event led from `before` to `now`. `since` is the instant of the step
   * before.
   */
  isSeen(now: Instant, before: Instant, since: Instant): boolean;
};

export const serverIn = ({ servers }: Instant, name: string): ServerView | undefined =>
  servers.find((server) => server.name === name);

/** Returns a sign that compares one server before and after the event. */
function ofServer(
  name: string,
  words: string,
  compare: (now: ServerView, before: ServerView) => boolean,
): Sign {
  return {
    words,
    isSeen(now, before) {
      const [one, other] = [serverIn(now, name), serverIn(before, name)];
      return one !== undefined && other !== undefined && compare(one, other);
    },
  };
}

// -------------------------------------- Time and the judge --------------------------------------

/** The run as it begins, before anything has happened. */
export const theStart: Sign = { words: "the run begins", isSeen: ({ event }) => event === 0 };

/** Some simulated time has passed since the step before. */
export const pass = (ms: number): Sign => ({
  words: `${ms} ms pass`,
  isSeen: (now, _before, since) => now.nowMs >= since.nowMs + ms,
});

/** The judge finds this promise, or this rule, broken. */
export const breaks = (promise: string): Sign => ({
  words: `the judge speaks: ${promise}`,
  isSeen: ({ verdict }) => verdict?.promise === promise,
});

// ------------------------------------------ Elections ------------------------------------------

const asks = ({ role }: ServerView) => role === "PreCandidate" || role === "Candidate";

export const timerRunsOut = (name: string): Sign =>
  ofServer(
    name,
    `the election timer of ${name} runs out`,
    (now, before) => asks(now) && now.role !== before.role && before.role !== "PreCandidate",
  );

export const becomesCandidate = (name: string): Sign =>
  ofServer(
    name,
    `${name} becomes a candidate in a new term`,
    (now, before) => now.role === "Candidate" && now.currentTerm > before.currentTerm,
  );

export const grantsVote = (voter: string, candidate: string): Sign =>
  ofServer(
    voter,
    `${voter} grants its vote to ${candidate}`,
    (now, before) =>
      now.votedFor === candidate
      && (before.votedFor !== candidate || now.currentTerm > before.currentTerm),
  );

export const leads = (name: string): Sign =>
  ofServer(
    name,
    `${name} becomes the leader`,
    (now, before) => now.role === "Leader" && before.role !== "Leader",
  );

/** One of these servers becomes the leader. */
export const anyLeads = (...names: readonly string[]): Sign => ({
  words: `${names.join(" or ")} becomes the leader`,
  isSeen: (now, before, since) => names.some((name) => leads(name).isSeen(now, before, since)),
});

export const follows = (name: string, leader: string): Sign =>
  ofServer(
    name,
    `${name} follows ${leader}`,
    (now, before) => now.leader === leader && before.leader !== leader,
  );

export const forgets = (name: string): Sign =>
  ofServer(
    name,
    `${name} gives up its leader`,
    (now, before) => now.leader === undefined && before.leader !== undefined,
  );

export const stepsDown = (name: string): Sign =>
  ofServer(
    name,
    `${name} stops leading`,
    (now, before) => now.status !== "down" && before.role === "Leader" && now.role !== "Leader",
  );

/** The server is in this term, or in a later one. */
export const isInTerm = (name: string, term: number): Sign =>
  ofServer(name, `${name} is in term ${term}`, (now) => now.currentTerm >= term);

// --------------------------------------------- Logs ---------------------------------------------

const termAt = ({ entries, baseIndex }: ServerView, index: number) =>
  entries[index - baseIndex - 1]?.term;
const hasText = ({ entries }: ServerView, text: string) =>
  entries.some((entry) => entry.text === text);

/** The server appends an entry with this text, such as `x=1`. */
export const appends = (name: string, text: string): Sign =>
  ofServer(
    name,
    `${name} appends ${text} to its log`,
    (now, before) => hasText(now, text) && !hasText(before, text),
  );

/** The server appends the entry of this index and term. */
export const gets = (name: string, index: number, term: number): Sign =>
  ofServer(
    name,
    `${name} appends entry ${index} of term ${term} to its log`,
    (now, before) => termAt(now, index) === term && termAt(before, index) !== term,
  );

/** Entries up to this index are on the server's disk. */
export const saves = (name: string, index: number): Sign =>
  ofServer(
    name,
    `${name} has entry ${index} on its disk`,
    (now, before) => now.savedIndex >= index && before.savedIndex < index,
  );

/** Entries up to this index are on the disks of all these servers. */
export const allSave = (index: number, ...names: readonly string[]): Sign => ({
  words: `${names.join(", ")} have entry ${index} on their disks`,
  isSeen: (now) => names.every((name) => (serverIn(now, name)?.savedIndex ?? 0) >= index),
});

/** An entry of one term is replaced by one of another term. */
export const overwrites = (name: string, index: number): Sign =>
  ofServer(name, `${name} overwrites entry ${index}`, (now, before) => {
    const [after, earlier] = [termAt(now, index), termAt(before, index)];
    return after !== undefined && earlier !== undefined && after !== earlier;
  });

export const commits = (name: string, index: number): Sign =>
  ofServer(
    name,
    `${name} commits entry ${index}`,
    (now, before) => now.commitIndex >= index && before.commitIndex < index,
  );

/** All these servers know that the entries up to this index are committed. */
export const allCommit = (index: number, ...names: readonly string[]): Sign => ({
  words: `${names.join(", ")} know that entry ${index} is committed`,
  isSeen: (now) => names.every((name) => (serverIn(now, name)?.commitIndex ?? 0) >= index),
});

export const applies = (name: string, index: number): Sign =>
  ofServer(
    name,
    `${name} applies entry ${index}`,
    (now, before) => now.lastApplied >= index && before.lastApplied < index,
  );

/** The leader learns that the follower durably has the entries up to this index. */
export const matches = (leader: string, follower: string, index: number): Sign =>
  ofServer(leader, `${leader} learns that ${follower} has entry ${index}`, (now, before) => {
    const match = ({ followers = [] }: ServerView) =>
      followers.find(({ name }) => name === follower)?.matchIndex ?? 0;
    return match(now) >= index && match(before) < index;
  });

// ------------------------------------------ Messages -------------------------------------------

/** What a message must be, beside its type and its ends. */
type Trait = { readonly success?: boolean; readonly empty?: boolean };

/** A message is received. */
export const receives = (
  to: string,
  from: string,
  type: FlightType,
  { success, empty }: Trait = {},
): Sign => ({
  words: `${to} receives ${
    success === undefined ? "" : success ? "a positive " : "a negative "
  }${type} from ${from}`,
  isSeen({ happened }) {
    if (happened.kind !== "message") return false;
    const { flight } = happened;
    return flight.from === from && flight.to === to && flight.type === type
      && (success === undefined || flight.success === success)
      && (empty === undefined || (flight.entries?.length === 0) === empty);
  },
});

/** The server sends a client the value that it has read. */
export const answersRead = (...servers: readonly string[]): Sign => ({
  words: `${servers.join(" or ")} answers a read`,
  isSeen: ({ flights }, before) =>
    flights.some((flight) =>
      servers.includes(flight.from) && flight.type === "Reply" && flight.label.startsWith("read")
      && !before.flights.some(({ id }) => id === flight.id)
    ),
});

// ------------------------------ Snapshots, members, starts and disks ------------------------------

export const takesSnapshot = (name: string): Sign =>
  ofServer(
    name,
    `${name} has a snapshot and drops the beginning of its log`,
    (now, before) => now.baseIndex > before.baseIndex,
  );

export const installs = (name: string): Sign =>
  ofServer(
    name,
    `${name} installs a snapshot`,
    (now, before) => now.snapshotIndex > before.lastApplied,
  );

/** The follower has applied all that this leader has in its log. */
export const catchesUp = (name: string, leader: string): Sign => ({
  words: `${name} has the whole log of ${leader}`,
  isSeen: (now) => serverIn(now, name)?.lastApplied === serverIn(now, leader)?.lastIndex,
});

export const lists = (name: string, members: string): Sign => {
  const text = (server: ServerView) =>
    server.members.map((member) => member.name + (member.votes ? "" : "*")).join(" ");
  return ofServer(
    name,
    `${name} has the members ${members}`,
    (now, before) => text(now) === members && text(before) !== members,
  );
};

/** The server has stopped reading messages until its disk is done. */
export const waits = (name: string): Sign =>
  ofServer(
    name,
    `${name} waits for its disk`,
    (now, before) => now.status === "saving" && before.status !== "saving",
  );

export const stops = (name: string): Sign =>
  ofServer(
    name,
    `${name} stops`,
    (now, before) => now.status === "down" && before.status !== "down",
  );
