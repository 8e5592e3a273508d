/**
 * Tells a run as a story: one or two lines for an event that matters, none for the others. The
 * words are those of `bun cli.ts --test`, so a reader of the one can read the other. A line is
 * found by comparing two instants, so it stands at the very event that the picture shows.
 */
import type { Act, EntryView, Instant, Link, MemberView, ServerView } from "./state.ts";

/** Returns the lines that the event between two consecutive instants is worth. */
export function tell(now: Instant, before: Instant): readonly string[] {
  const lines = [...tellHappening(now, before)];
  for (const server of now.servers) {
    const earlier = before.servers.find(({ name }) => name === server.name);
    const of = (words: readonly string[]) => words.map((word) => `${server.name}: ${word}`);
    lines.push(...of(earlier ? tellServer(server, earlier, now.nowMs) : tellStart(server)));
  }
  if (now.verdict && !before.verdict) {
    lines.push(`The judge finds a broken rule. ${now.verdict.sentence}`);
  }
  return lines;
}

/** The visitor's client. Answers to the clients of chance would fill the story. */
const VISITOR = "k0";

// ---------------------------------------- What happened -----------------------------------------

function tellHappening(now: Instant, before: Instant): readonly string[] {
  const { happened } = now;
  switch (happened.kind) {
    case "act":
      return tellAct(happened.act, now);
    case "phase":
      return [happened.what];
    case "nemesis": {
      const isCut = now.cuts.length !== before.cuts.length || happened.what === "partition";
      return isCut ? [tellNetwork(now)] : [];
    }
    case "message": {
      const { type, from, to, label } = happened.flight;
      return type === "Reply" && to === VISITOR ? [`${from}: Answers the client: ${label}`] : [];
    }
    default:
      return [];
  }
}

/** Tells what the visitor did. What a server makes of it is told with the server. */
function tellAct(act: Act, now: Instant): readonly string[] {
  switch (act.kind) {
    case "cut":
      return [`Network: no message gets from ${act.from} to ${act.to}`];
    case "heal":
      return [`Network: messages get from ${act.from} to ${act.to} again`];
    case "healAll":
    case "partition":
      return [tellNetwork(now)];
    case "propose":
      return [`Client: writes ${act.key}${act.value === undefined ? "" : `=${act.value}`}`];
    case "read":
      return [`Client: reads ${act.key}${act.at === undefined ? "" : ` at ${act.at}`}`];
    case "elapse":
      return [`${act.server}: its election timer is made to run out`];
    case "transfer":
      return [`The leader is told to hand over to ${act.to}`];
    case "addServer":
      return [`The leader is told to add ${act.server ?? "a server"}`];
    case "removeServer":
      return [`The leader is told to remove ${act.server}`];
    case "drop":
    case "delay":
    case "duplicate":
      return [`Network: a message is ${DONE[act.kind]}`];
    default:
      return [];
  }
}
const DONE = { drop: "lost", delay: "delayed", duplicate: "duplicated" } as const;

function tellNetwork({ cuts, servers }: Instant): string {
  if (cuts.length === 0) return "Network: all links work again";
  const groups = groupsOf(servers.map(({ name }) => name), cuts);
  return groups.length > 1
    ? `Network: split into ${groups.map((group) => group.join(" ")).join(" | ")}`
    : `Network: ${cuts.length} links are cut`;
}

/** Returns the groups of servers between which no message gets through, either way. */
function groupsOf(names: readonly string[], cuts: readonly Link[]): readonly string[][] {
  const isCut = (a: string, b: string) => cuts.some(({ from, to }) => from === a && to === b);
  const groups: string[][] = [];
  for (const name of names) {
    const near = groups.filter((group) =>
      group.some((other) => !isCut(name, other) || !isCut(other, name))
    );
    for (const group of near) groups.splice(groups.indexOf(group), 1);
    groups.push([...near.flat(), name]);
  }
  return groups;
}

// ------------------------------------------- A server -------------------------------------------

function tellStart({ role, currentTerm }: ServerView): readonly string[] {
  return [`Starting server in term ${currentTerm} as ${shown(role)}`];
}

function tellServer(now: ServerView, before: ServerView, nowMs: number): readonly string[] {
  const lostDisk = before.hasDisk && !now.hasDisk ? ["Its disk is lost, with all data on it"] : [];
  if (before.status !== "down" && now.status === "down") {
    return [now.isMember ? "The process has died" : "No member any more: stops", ...lostDisk];
  }
  if (now.status === "down") return lostDisk;
  if (before.status === "down") return [...lostDisk, ...tellStart(now)];
  return [
    ...tellStatus(now, before),
    ...tellCampaign(now, before, nowMs),
    ...tellVotes(now, before),
    ...tellLeader(now, before),
    ...tellLog(now, before),
    ...tellMembers(now, before),
  ];
}

function tellStatus(now: ServerView, before: ServerView): readonly string[] {
  if (now.status === "paused" && before.status !== "paused") return ["The process is paused"];
  if (now.status !== "paused" && before.status === "paused") return ["The process goes on"];
  return [];
}

/** A pre-candidate only asks whether it could win: in the story it is still a follower. */
const shown = (role: ServerView["role"]) => (role === "PreCandidate" ? "Follower" : role);

function tellCampaign(now: ServerView, before: ServerView, nowMs: number): readonly string[] {
  if (now.role === "PreCandidate" && before.role === "Follower") {
    const silentMs = Math.round(nowMs - (before.electionFromMs ?? nowMs));
    return [
      `No valid RPC received in the last ${silentMs} milliseconds. Asking for pre-votes...`,
    ];
  }
  if (now.role === "Candidate" && now.currentTerm > before.currentTerm) {
    return [`Switching to Candidate in term ${now.currentTerm}. Starting vote...`];
  }
  return [];
}

function tellVotes(now: ServerView, before: ServerView): readonly string[] {
  const isNew = now.votedFor !== before.votedFor || now.currentTerm !== before.currentTerm;
  if (isNew && now.votedFor !== undefined && now.votedFor !== now.name) {
    return [`Voted for ${now.votedFor} in term ${now.currentTerm}`];
  }
  const votes = now.votesGranted.length;
  const hasMore = now.role === "Candidate" && votes > Math.max(1, before.votesGranted.length);
  return hasMore && before.role === "Candidate" ? [`Received ${votes} votes`] : [];
}

function tellLeader(now: ServerView, before: ServerView): readonly string[] {
  if (now.role === "Leader" && before.role !== "Leader") {
    return [`Received a majority of votes. Switching to Leader of term ${now.currentTerm}`];
  }
  const lines = before.role === "Leader" && now.role !== "Leader"
    ? [`Switching state from Leader to ${shown(now.role)}`]
    : [];
  const isNew = now.leader !== undefined && now.leader !== before.leader;
  return isNew ? [...lines, `New leader: ${now.leader}`] : lines;
}

// ------------------------------------- The log and the members -------------------------------------

function tellLog(now: ServerView, before: ServerView): readonly string[] {
  const lines: string[] = [];
  const replaced = findReplaced(now, before);
  if (replaced) {
    const [old, by] = replaced;
    lines.push(
      `Entry ${old.index} of term ${old.term} is ${
        by ? `overwritten by one of term ${by.term}` : "deleted"
      }`,
    );
  }
  if (now.snapshotIndex > before.snapshotIndex) {
    const isOwn = before.lastApplied >= now.snapshotIndex;
    const from = isOwn
      ? "Took a snapshot"
      : `Installed a snapshot from ${now.leader ?? "a leader"}`;
    lines.push(`${from} at index ${now.snapshotIndex}`);
  } else if (now.role === "Leader" && now.commitIndex > before.commitIndex) {
    lines.push(`Committed all entries up to ${now.commitIndex}`);
  }
  return lines;
}

/** Returns the first entry that the log has lost, and the one in its place. */
function findReplaced(
  now: ServerView,
  before: ServerView,
): readonly [EntryView, EntryView | undefined] | undefined {
  if (now.entries === before.entries) return undefined;
  for (const old of before.entries) {
    if (old.index <= now.baseIndex) continue;
    const by = now.entries[old.index - now.baseIndex - 1];
    if (by?.term !== old.term) return [old, by];
  }
  return undefined;
}

const list = (members: readonly MemberView[]) =>
  members.map(({ name, votes }) => (votes ? name : `${name} (learner)`)).join(", ");

function tellMembers(now: ServerView, before: ServerView): readonly string[] {
  if (now.role !== "Leader" || now.members === before.members) return [];
  const members = list(now.members);
  return members === list(before.members) ? [] : [`Members: ${members}`];
}
