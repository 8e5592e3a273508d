/** Tells the messages of the core in words, for the story of a run. */
import { type Message } from "../../../raft.ts";
import { type Reply } from "./server.ts";

export function tellMessage(m: Message): string {
  return `${m.from} -> ${m.to}  ${tellContent(m)}`;
}

/** Tells the reply to a client's request, or to a request for a read index. */
export function tellReply(reply: Reply): string {
  if (reply.type === "Answer") return `done, as of ${reply.index}`;
  return reply.type === "NotLeader" ? `ask ${reply.leader ?? "another"}` : "refused";
}

export function tellContent(m: Message): string {
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
