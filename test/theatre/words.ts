/** Tells what the stage shows in words: for its labels, and for readers that don't see it. */
import {
  type Act,
  type Flight,
  type Happening,
  type Instant,
  type Script,
  type ServerView,
} from "./state.ts";

export function roleOf({ role, status, isMember, votes }: ServerView): string {
  if (status === "down") return "down";
  if (!isMember) return role === "Leader" ? "leader, removed" : "non-member";
  if (!votes) return "learner";
  return {
    Follower: "follower",
    PreCandidate: "pre-candidate",
    Candidate: "candidate",
    Leader: "leader",
  }[role];
}

const isCampaigning = ({ role }: ServerView) => role === "PreCandidate" || role === "Candidate";

/** Returns the note beside a server: its vote, or the votes that it has. */
export function voteOf(server: ServerView): string {
  const { role, votesGranted, votedFor, status, name } = server;
  if (status === "down") return votedFor === undefined ? "" : `voted ${votedFor}`;
  if (isCampaigning(server)) {
    const kind = role === "Candidate" ? "votes" : "pre-votes";
    return `${votesGranted.length} of ${majorityOf(server)} ${kind}`;
  }
  if (role === "Leader" || votedFor === undefined) return "";
  return votedFor === name ? "voted itself" : `voted ${votedFor}`;
}

/** Returns why a server does not work as usual, in a word or two. */
export function troubleOf({ status, hasDisk }: ServerView): string {
  const words: string[] = [];
  if (status === "paused") words.push("paused");
  if (status === "saving") words.push("saving");
  if (!hasDisk) words.push("empty disk");
  return words.join(", ");
}

/** Returns how many granted votes a candidate needs: more than half of the members that vote. */
export function majorityOf({ members }: ServerView): number {
  return Math.floor(members.filter(({ votes }) => votes).length / 2) + 1;
}

/** The shape of a message: what it asks, what it answers. */
export type Family = "vote" | "append" | "snapshot" | "client" | "other";

export function familyOf({ type }: Flight): Family {
  if (type === "RequestVote" || type === "RequestVoteReply" || type === "TimeoutNow") return "vote";
  if (type === "AppendEntries" || type === "AppendEntriesReply") return "append";
  if (type === "InstallSnapshot" || type === "InstallSnapshotReply") return "snapshot";
  if (type === "Request" || type === "Reply") return "client";
  return "other";
}

/** Returns the label of a message on its way. */
export function shortWords(flight: Flight): string {
  const { type, entries = [], success, preVote } = flight;
  const [first] = entries;
  switch (type) {
    case "RequestVote":
      return preVote ? "pre-vote?" : "vote?";
    case "RequestVoteReply":
      return `${preVote ? "pre-vote" : "vote"}: ${success ? "yes" : "no"}`;
    case "AppendEntries":
      if (!first) return "heartbeat";
      return entries.length === 1 ? `entry ${first.index}` : `${entries.length} entries`;
    case "AppendEntriesReply": {
      const match = field(flight, "matchIndex");
      return success ? `has ${match || "it"}` : "no match";
    }
    case "InstallSnapshot":
      return "snapshot";
    case "InstallSnapshotReply":
      return success ? "got it" : "refused";
    case "TimeoutNow":
      return "take over";
    case "Removed":
      return "removed";
    case "Request":
      return "request";
    case "Reply":
      return "answer";
    case "ReadIndex":
      return "read index?";
    case "ReadIndexReply":
      return "read index";
    case "Probe":
      return "alive?";
    case "Refusal":
      return "port closed";
    case "Restarted":
      return "restarted";
    default:
      return type satisfies never;
  }
}

export function field({ fields }: Flight, name: string): string {
  return fields.find(([one]) => one === name)?.[1] ?? "";
}

/** The name that a reader of the paper knows. */
export function titleOf({ type, preVote, entries }: Flight): string {
  if (type === "RequestVote" && preVote) return "RequestVote (PreVote)";
  if (type === "RequestVoteReply" && preVote) return "RequestVote reply (PreVote)";
  if (type === "AppendEntries" && entries?.length === 0) return "AppendEntries (heartbeat)";
  return type.replace(/Reply$/, " reply");
}

const list = (words: readonly string[]) => words.join(", ");

/** Describes a server as a sentence or two. */
export function describeServer(server: ServerView): string {
  const { name, currentTerm, status, lastIndex, commitIndex, leader } = server;
  const parts = [`${name}: ${roleOf(server)}, term ${currentTerm}`];
  const trouble = troubleOf(server);
  if (trouble) parts.push(trouble);
  const vote = voteOf(server);
  const isAsking = isCampaigning(server) && status !== "down";
  if (vote) parts.push(isAsking ? `${vote}, from ${server.votesGranted.join(" ")}` : vote);
  if (status !== "down" && leader !== undefined && leader !== name) parts.push(`follows ${leader}`);
  parts.push(`last entry ${lastIndex}, committed ${commitIndex}`);
  return `${list(parts)}.`;
}

/** Describes the whole stage, for a screen reader. */
export function describeStage({ servers, flights, cuts, verdict, nowMs, event }: Instant): string {
  const leaders = servers.filter(({ role, status }) => role === "Leader" && status !== "down");
  const led = leaders.length === 0
    ? "There is no leader."
    : `${leaders.map((one) => `${one.name} leads term ${one.currentTerm}`).join("; ")}.`;
  const sentences = [
    `Event ${event}, ${Math.round(nowMs)} ms.`,
    led,
    ...servers.map(describeServer),
  ];
  if (cuts.length > 0) {
    sentences.push(`Cut links: ${list(cuts.map(({ from, to }) => `${from} to ${to}`))}.`);
  }
  if (flights.length > 0) {
    const shown = flights.slice(0, 8).map((one) => `${titleOf(one)} from ${one.from} to ${one.to}`);
    const more = flights.length - shown.length;
    sentences.push(`In flight: ${list(shown)}${more > 0 ? ` and ${more} more` : ""}.`);
  }
  if (verdict) sentences.push(verdict.sentence);
  return sentences.join(" ");
}

const nemesis: Readonly<Record<string, string>> = {
  clog: "Chance holds messages back",
  crash: "Chance kills",
  pause: "Chance pauses",
  transfer: "An operator hands over leadership",
  change: "An operator changes the members",
  partition: "Chance cuts the network",
  mend: "The network heals",
  blackout: "Chance kills several servers",
  client: "A client acts",
};

/** Tells what an event was, for the line above the stage. */
export function tellHappening(happened: Happening): string {
  switch (happened.kind) {
    case "start":
      return "Nothing has happened yet";
    case "message": {
      const { flight } = happened;
      return `${titleOf(flight)} reaches ${flight.to} from ${flight.from}`;
    }
    case "timer":
      return `A timer of ${happened.server} runs out`;
    case "turn":
      return `${happened.server} sends, saves and applies`;
    case "disk":
      return `The disk of ${happened.server} is done`;
    case "snapshot":
      return `${happened.server} works on a snapshot`;
    case "resumed":
      return `${happened.server} resumes`;
    case "restarted":
      return `${happened.server} restarts`;
    case "client":
      return `Client ${happened.client} sends`;
    case "nemesis": {
      const names = happened.servers.join(" ");
      return `${nemesis[happened.what] ?? happened.what}${names ? `: ${names}` : ""}`;
    }
    case "act":
      return `You: ${tellAct(happened.act)}`;
    case "phase":
      return happened.what;
    default:
      return happened satisfies never;
  }
}

/** Tells an act, for the list of acts and the undo button. */
export function tellAct(act: Act): string {
  switch (act.kind) {
    case "kill":
    case "restart":
    case "pause":
    case "resume":
      return `${act.kind} ${act.server}`;
    case "wipe":
      return `wipe the disk of ${act.server}`;
    case "elapse":
      return `let the timer of ${act.server} run out`;
    case "cut":
    case "heal":
      return `${act.kind} ${act.from} to ${act.to}`;
    case "healAll":
      return "heal all links";
    case "partition":
      return `partition ${act.groups.map((group) => group.join(" ")).join(" | ")}`;
    case "drop":
    case "duplicate":
      return `${act.kind} message ${act.flight}`;
    case "delay":
      return `delay message ${act.flight} by ${act.ms} ms`;
    case "propose":
      return act.value === undefined ? `write ${act.key}` : `write ${act.key} = ${act.value}`;
    case "read":
      return `read ${act.key}${act.at === undefined ? "" : ` at ${act.at}`}`;
    case "forget":
      return "the client gives up its requests";
    case "transfer":
      return `hand over to ${act.to}`;
    case "addServer":
      return `add ${act.server ?? "a server"}`;
    case "removeServer":
      return `remove ${act.server}`;
    default:
      return act satisfies never;
  }
}

/** Names a script in a few words. */
export function sceneName({ world, seed, servers }: Script): string {
  if (world === "seed") return `Seed ${seed} of the tests`;
  const count = servers === 1 ? "one server" : `${servers} servers`;
  return world === "calm" ? `Calm world, ${count}` : `World of chance, ${count}, seed ${seed}`;
}
