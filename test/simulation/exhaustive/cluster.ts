/**
 * Checks the rules between servers in the exhaustive search. The network is the set of all messages
 * that were ever sent. A message can arrive at any time, in any order, any number of times, or
 * never. The search tries each message in each state, which covers all of these cases.
 */
import type { Message } from "../../../raft.ts";
import { Violation } from "../judge.ts";
import { Lexicon } from "./lexicon.ts";
import {
  type Code,
  codeOfEntry,
  diskOf,
  messages,
  NAMES,
  type ServerState,
  showCode,
  termOf,
} from "./server.ts";

/** The limits of a search. */
export type Bounds = {
  terms: number;
  commands: number;
  reads: number;
  crashes: number;
  beats: number;
  /** The number of inputs in a turn. */
  inputs: number;
  /** If false, every pre-vote is granted without messages. */
  preVotes: boolean;
};

/** The past of a cluster, which crashes do not change. */
export type History = {
  /** All entries that were ever committed, and the terms of their commitment. */
  committed: readonly Code[];
  committedIn: readonly number[];
  /** How much of the bounds is used up. */
  commands: number;
  reads: number;
  crashes: number;
  beats: number;
};
export const histories = new Lexicon<History>(3n, (history) => history);
export const NO_HISTORY: History = {
  committed: [],
  committedIn: [],
  commands: 0,
  reads: 0,
  crashes: 0,
  beats: 0,
};

const MAJORITY = 2;

function demand(condition: boolean, rule: string, facts: () => string): asserts condition {
  if (!condition) throw new Violation(rule, facts());
}

const nameOf = ({ self }: ServerState) => NAMES[self] ?? "";

/** Committed entries are equal on all servers. Newly committed ones are durable on a majority. */
export function commit(
  history: History,
  server: ServerState,
  all: readonly ServerState[],
): History {
  const { log, commitIndex, role, term } = server;
  const { committed } = history;
  const known = committed.slice(0, commitIndex);
  const wrong = known.findIndex((code, i) => code !== log[i]);
  demand(
    wrong === -1,
    "A committed entry never changes",
    () =>
      `${nameOf(server)} has ${showCode(log[wrong] ?? 0)} at ${wrong + 1}, where `
      + `${showCode(committed[wrong] ?? 0)} is committed`,
  );
  if (commitIndex <= committed.length) return history;
  const codes = log.slice(committed.length, commitIndex);
  demand(
    role.name === "Leader" && termOf(codes.at(-1) ?? 0) === term,
    "Only a leader commits, and by an entry of its own term",
    () =>
      `${nameOf(server)}, a ${role.name} of term ${term}, commits ${showCode(codes.at(-1) ?? 0)}`,
  );
  for (let i = 0; i < commitIndex; i += 1) {
    const holders = all.filter((other) => diskOf(other).log[i] === log[i]).map(nameOf);
    demand(
      holders.length >= MAJORITY,
      "A committed entry is on a majority of disks",
      () =>
        `${nameOf(server)} commits ${showCode(log[i] ?? 0)} at ${i + 1}, which is durable on `
        + `${holders.join(" ") || "none"}`,
    );
  }
  const committedIn = [...history.committedIn, ...codes.map(() => term)];
  return { ...history, committed: [...committed, ...codes], committedIn };
}

/** Checks all rules between servers. `sent` has all messages that were ever sent. */
export function checkCluster(
  all: readonly ServerState[],
  sent: Iterable<number>,
  history: History,
): void {
  checkPromises([...sent].map(messages.at), all);
  for (const server of all) {
    for (const other of all) if (other.self > server.self) checkLogMatching(server, other);
    if (server.role.name !== "Leader") continue;
    checkCompleteness(server, history);
    checkFollowers(server, all);
  }
}

/** Election safety and one vote per term, for all votes that were sent or are on disks. */
function checkPromises(sent: readonly Message[], all: readonly ServerState[]): void {
  const leaders = new Map<number, string>();
  const votes = new Map<string, string>();
  const lead = (term: number, name: string) => {
    const other = leaders.get(term) ?? name;
    demand(other === name, "Election safety", () => `${name} and ${other} lead in term ${term}`);
    leaders.set(term, name);
  };
  const vote = (term: number, voter: string, candidate: string) => {
    const before = votes.get(`${term} ${voter}`) ?? candidate;
    demand(
      before === candidate,
      "One vote per term",
      () => `${voter} votes for ${candidate} in term ${term}, and had voted for ${before}`,
    );
    votes.set(`${term} ${voter}`, candidate);
  };
  const campaigned = (term: number, name: string) =>
    sent.some((m) => m.type === "RequestVote" && !m.preVote && m.term === term && m.from === name);
  for (const m of sent) {
    if (m.type === "AppendEntries") lead(m.term, m.from);
    else if (m.type === "RequestVote" && !m.preVote) vote(m.term, m.from, m.from);
    else if (m.type === "RequestVoteReply" && !m.preVote && m.voteGranted) {
      vote(m.term, m.from, m.to);
    }
  }
  for (const server of all) {
    const { term, votedFor } = diskOf(server);
    const candidate = NAMES[votedFor];
    if (candidate !== undefined) {
      vote(term, nameOf(server), candidate);
      demand(
        candidate === nameOf(server) || campaigned(term, candidate),
        "Votes are for candidates",
        () => `${nameOf(server)} votes for ${candidate}, which did not campaign in term ${term}`,
      );
    }
    if (server.role.name !== "Leader") continue;
    lead(server.term, nameOf(server));
    const voters = NAMES.filter((name) => votes.get(`${server.term} ${name}`) === nameOf(server));
    demand(
      voters.length >= MAJORITY,
      "A leader has the votes of a majority",
      () =>
        `in term ${server.term} ${nameOf(server)} has the votes of ${
          voters.join(" ") || "no server"
        }`,
    );
  }
}

/** Log matching: logs that agree on an entry's term are equal up to that entry. */
function checkLogMatching(one: ServerState, other: ServerState): void {
  const { length } = one.log.slice(0, other.log.length);
  const agree = (i: number) => termOf(one.log[i] ?? -1) === termOf(other.log[i] ?? -1);
  let last = length - 1;
  while (last >= 0 && !agree(last)) last -= 1;
  for (let i = 0; i <= last; i += 1) {
    demand(
      one.log[i] === other.log[i],
      "Log matching",
      () =>
        `${nameOf(one)} and ${nameOf(other)} have entry ${last + 1} of the same term, and before `
        + `it, at ${i + 1}, ${showCode(one.log[i] ?? 0)} and ${showCode(other.log[i] ?? 0)}`,
    );
  }
}

/** Entries committed in a term are in the logs of the leaders of all later terms. */
function checkCompleteness(leader: ServerState, { committed, committedIn }: History): void {
  for (const [i, code] of committed.entries()) {
    if ((committedIn[i] ?? 0) >= leader.term) continue;
    demand(
      leader.log[i] === code,
      "Leader completeness",
      () =>
        `${nameOf(leader)} leads in term ${leader.term} without ${showCode(code)}, committed at `
        + `${i + 1} in term ${committedIn[i]}`,
    );
  }
}

/** Entries up to a matchIndex are on the follower's disk, unless its term is later. */
function checkFollowers(leader: ServerState, all: readonly ServerState[]): void {
  if (leader.role.name !== "Leader") return;
  for (const [at, followed] of leader.role.followers.entries()) {
    const follower = all[at];
    if (!followed || !follower || follower.term > leader.term) continue;
    const { log } = diskOf(follower);
    for (let i = 0; i < followed.matchIndex; i += 1) {
      demand(
        log[i] === leader.log[i],
        "A follower has the entries that its leader counts",
        () =>
          `${nameOf(leader)} counts ${followed.matchIndex} entries in ${nameOf(follower)}, and `
          + `entry ${i + 1} on its disk is another`,
      );
    }
  }
}

/** Returns the entries of a message in words. */
export const showEntries = (m: Message): string =>
  m.type === "AppendEntries" ? m.entries.map((e) => showCode(codeOfEntry(e))).join(", ") : "";
