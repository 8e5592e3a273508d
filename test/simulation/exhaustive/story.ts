/**
 * Writes a path through the states, as words that replay it and as a story to read. An action is
 * the number of the message that arrives, counted from 0 in the order of first sending, or a server
 * and what happens to it: `a.timer`, `7`, `7.late.stay`, `b.propose.die`.
 */
import type { Message } from "../../../raft.ts";
import { type Bounds, checkCluster, histories, NO_HISTORY, showEntries } from "./cluster.ts";
import { type Action, type State, succeed } from "./search.ts";
import {
  diskOf,
  FRESH,
  type Input,
  messages,
  NAMES,
  owesSave,
  servers,
  type ServerState,
  showCode,
  step,
} from "./server.ts";

const isDelivery = ({ kind }: { kind: Input["kind"] }) =>
  kind === "deliver" || kind === "deliverLate";

export function write(path: readonly Action[]): string {
  return path.map((action) => {
    const { kind, end, at } = action;
    const what = isDelivery(action) ? `${at}` : `${NAMES[at]}.${kind}`;
    return what + (kind === "deliverLate" ? ".late" : "") + (end === "flush" ? "" : `.${end}`);
  }).join(",");
}

export function read(text: string): Action[] {
  return text.split(",").filter((word) => word !== "").map((word) => {
    const found =
      /^(?:(\d+)(\.late)?|([abc])\.(timer|beat|propose|read|turn|crash))(?:\.(stay|die))?$/
        .exec(word);
    if (!found) throw new Error(`"${word}" is no action`);
    const [, number, late, name = "", kind = late ? "deliverLate" : "deliver", end = "flush"] =
      found;
    return {
      kind: kind as Action["kind"],
      end: end as Action["end"],
      at: number === undefined ? NAMES.indexOf(name) : Number(number),
    };
  });
}

/** Returns the initial state. */
export const beginning = (): State => ({
  servers: NAMES.map((_, at) => servers.numberOf(FRESH(at))),
  history: histories.numberOf(NO_HISTORY),
  sent: [],
  depth: 0,
  number: 0,
  last: 0,
});

/** Follows a path, and tells each step. Throws if it ends in a violation. */
export function follow(
  path: readonly Action[],
  bounds: Bounds,
  tell: (line: string) => void = () => {},
): State {
  let state = beginning();
  for (const { kind, end, at } of path) {
    const history = histories.at(state.history);
    const number = isDelivery({ kind }) ? state.sent[at] : undefined;
    if (isDelivery({ kind }) && number === undefined) throw new Error(`message ${at} is not sent`);
    const place = number === undefined ? at : NAMES.indexOf(messages.at(number).to);
    const server = servers.at(state.servers[place] ?? -1);
    const arguments_: Partial<Record<Input["kind"], number>> = {
      propose: history.commands + 1,
      read: history.committed.length,
    };
    const input = { kind, number: number ?? arguments_[kind] ?? 0 };
    tell(`${NAMES[place]}  ${tellInput(server, input)}${ENDINGS[end]}`);
    const made = step(server, input, end, bounds.preVotes);
    const next = succeed(state, server, input, end, made) ?? state;
    for (const [i, sent] of next.sent.entries()) {
      if (i >= state.sent.length) tell(`     sends ${i}: ${tellMessage(messages.at(sent))}`);
    }
    tell(`     is now ${tellServer(servers.at(made.next))}`);
    state = next;
    const all = state.servers.map((one) => servers.at(one));
    checkCluster(all, state.sent, histories.at(state.history));
  }
  return state;
}

// --------------------------------------------- Words --------------------------------------------

const ENDINGS = {
  flush: "",
  stay: ", and its turn goes on",
  die: ", and it loses power before it has saved",
};

function tellInput(server: ServerState, { kind, number }: Input): string {
  const { role } = server;
  const { log } = diskOf(server);
  if (kind === "deliver") return `receives ${tellMessage(messages.at(number))}`;
  if (kind === "deliverLate") {
    return `has heard no leader for T, and receives ${tellMessage(messages.at(number))}`;
  }
  if (kind === "timer") return role.name === "Leader" ? "hears no majority" : "hears no leader";
  if (kind === "beat") return "owes a heartbeat";
  if (kind === "propose") return `is given command x${number}`;
  if (kind === "read") return `is asked what the state is, after ${number} committed entries`;
  if (kind === "turn") return "has a turn without an input";
  return `loses power, and comes back with ${log.length} entries`;
}

export function tellMessage(m: Message): string {
  const { type, from, to, term } = m;
  const head = `${type} of term ${term} from ${from} to ${to}`;
  if (type === "RequestVote") {
    const { preVote, lastLogIndex, lastLogTerm } = m;
    return `${preVote ? "pre-vote " : ""}${head}, last entry ${lastLogIndex} of ${lastLogTerm}`;
  }
  if (type === "RequestVoteReply") {
    return `${m.preVote ? "pre-vote " : ""}${head}: ${m.voteGranted ? "yes" : "no"}`;
  }
  if (type === "AppendEntries") {
    const { round, prevLogIndex, prevLogTerm, leaderCommit } = m;
    return `${head}, round ${round}, after ${prevLogIndex} of ${prevLogTerm}: `
      + `[${showEntries(m)}], committed ${leaderCommit}`;
  }
  if (type !== "AppendEntriesReply") return head;
  const { round, success, matchIndex, hintIndex, hintTerm } = m;
  return `${head}, round ${round}: `
    + (success ? `yes, up to ${matchIndex}` : `no, perhaps at ${hintIndex} of ${hintTerm}`);
}

function tellServer(server: ServerState): string {
  const { term, votedFor, log, commitIndex, role } = server;
  const vote = votedFor === -1 ? "" : `, voted for ${NAMES[votedFor]}`;
  return `${role.name} of term ${term}${vote}, log [${log.map(showCode).join(", ")}], `
    + `committed ${commitIndex}` + (owesSave(server) ? ", and owes a save" : "");
}
