/** The story of a run in lines that people read. */
import { type Event, type Message } from "../../../raft.ts";

export function tellMessage(m: Message): string {
  return `${m.from} -> ${m.to}  ${tellContent(m)}`;
}

function tellContent(m: Message): string {
  switch (m.type) {
    case "RequestVote": {
      const ask = m.preVote ? "pre-vote, would-be" : "RequestVote,";
      return `${ask} term ${m.term}, last ${m.lastLogIndex}@${m.lastLogTerm}`;
    }
    case "RequestVoteReply": {
      const vote = m.preVote ? "pre-vote" : "vote";
      return `${vote} ${m.voteGranted ? "granted" : "refused"}, term ${m.term}`;
    }
    case "AppendEntries": {
      const [first] = m.entries;
      const last = m.entries.at(-1);
      const what = first && last
        ? `${first.index}@${first.term} to ${last.index}@${last.term}`
        : "nothing";
      return `AppendEntries ${m.round} of term ${m.term}: ${what} after `
        + `${m.prevLogIndex}@${m.prevLogTerm}, committed ${m.leaderCommit}`;
    }
    case "AppendEntriesReply":
      return m.success
        ? `AppendEntries ${m.round} done, term ${m.term}: same up to ${m.matchIndex}`
        : `AppendEntries ${m.round} refused, term ${m.term}: try ${m.hintIndex}@${m.hintTerm}`;
    case "TimeoutNow":
      return `TimeoutNow of term ${m.term}`;
    case "InstallSnapshot":
      return `InstallSnapshot ${m.round} of term ${m.term}: ${m.offset} and on of ${m.size} bytes, `
        + `up to ${m.lastIncludedIndex}@${m.lastIncludedTerm}`;
    case "InstallSnapshotReply":
      return `InstallSnapshot ${m.round} ${m.success ? "done" : "refused"}, term ${m.term}: `
        + `has ${m.offset} bytes of that up to ${m.lastIncludedIndex}`;
    case "Removed":
      return `Removed, as of term ${m.term}`;
    default:
      return m satisfies never;
  }
}

/** A decision in words; undefined for what its consequences tell. */
export function tellEvent(event: Event, term: number): string | undefined {
  switch (event.type) {
    case "preVoteLost":
      return `would not be elected: ${event.votes} of ${event.needed} pre-votes`;
    case "campaign":
      return `heard nobody for ${Math.round(event.silentMs)} ms, and campaigns in term ${term}`;
    case "voted":
      return `votes for ${event.candidate} in term ${term}`;
    case "votes":
      return `has ${event.votes} votes in term ${term}${event.elected ? ", and is elected" : ""}`;
    case "role":
      return `was ${event.from}, is ${event.to} in term ${term}`;
    case "leader":
      return event.to === undefined
        ? `has no leader any more, it was ${event.from}`
        : `has ${event.to} for its leader in term ${term}`;
    case "committed":
      return `has committed up to ${event.commitIndex}`;
    case "snapshot":
      return event.from === undefined
        ? `has a snapshot up to ${event.index}`
        : `has the snapshot of ${event.from}, up to ${event.index}`;
    case "lostDisk":
      return `finds that ${event.server} has lost its disk`;
    case "stuck":
      return `finds that entry ${event.index} never reaches ${event.server}`;
    case "otherFounding":
      return `finds that ${event.server} is of another founding`;
    default:
      return event satisfies never;
  }
}
