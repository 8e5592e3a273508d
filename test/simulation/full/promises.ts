/** Checks that a promise is on the server's disk when the server sends it. */
import { messages } from "../../../raft.ts";
import { type Platter } from "./platter.ts";
import { type Sentence, tellMessage } from "./story.ts";

/** Throws if a message promises something that the sender's disk does not have. */
export function judgePromise(from: string, to: string, sentence: Sentence, disk: Platter): void {
  const wrong = whatIsMissing(from, to, sentence, disk);
  if (wrong === undefined) return;
  throw new Error(`${from} sends ${to} "${tellMessage(sentence)}", but ${wrong}`);
}

function whatIsMissing(from: string, to: string, { type, fields }: Sentence, disk: Platter):
  | string
  | undefined
{
  const term = Number(fields["term"]);
  if (!(type in messages) || fields["preVote"] === true) return undefined;
  if (disk.term < term) return `its disk has term ${disk.term}`;
  if (disk.term > term) return undefined; // The message is about an earlier term.
  const votedFor = `its disk has ${
    disk.votedFor === "" ? "no vote" : `a vote for ${disk.votedFor}`
  }`;
  if (type === "RequestVote" && disk.votedFor !== from) return votedFor;
  if (type === "RequestVoteReply" && fields["voteGranted"] === true && disk.votedFor !== to) {
    return votedFor;
  }
  const isShort = type === "AppendEntriesReply" && fields["success"] === true
    && disk.lastIndex < Number(fields["matchIndex"]);
  return isShort ? `its disk has entries up to ${disk.lastIndex} only` : undefined;
}
