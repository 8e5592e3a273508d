/** Lessons on the log (§5.3): a command is committed, and a leader dies. */
import {
  calm,
  elapse,
  elect,
  electAndWrite,
  healAll,
  kill,
  partition,
  restart,
  write,
} from "./deeds.ts";
import { type Lesson, say } from "./lesson.ts";
import {
  appends,
  applies,
  becomesCandidate,
  commits,
  forgets,
  gets,
  leads,
  matches,
  pass,
  receives,
} from "./signs.ts";

export const replication: Lesson = {
  id: "replication",
  title: "Replication and commitment",
  cites: "§5.3",
  about: "A command travels to the disks of a majority, and then it is safe.",
  parts: [{
    title: "Replication and commitment",
    scene: calm(5, 47),
    steps: [
      ...elect("a", "b", "c", "d", "e"),
      {
        at: pass(100),
        text: say`
          Five servers, and a leads term 1. A client sends its first command. First it opens a
          session, so that a command that it repeats takes effect only once (thesis §6.3).`,
        then: [write("x", 1)],
      },
      {
        at: appends("a", "x=1"),
        text: say`
          The command x=1 reaches the leader, and a appends it to its own log. The cell is pale
          and dashed: the entry is not committed, and not even on the disk of a yet. Nothing is
          promised to the client so far.`,
      },
      {
        at: receives("b", "a", "AppendEntries", { empty: false }),
        text: say`
          a sends the entry to all followers at once. The message also names the entry before it,
          by index and term. b has that one, so its log agrees with the leader's up to there, and
          b may append (§5.3).`,
      },
      {
        at: matches("a", "b", 3),
        text: say`
          b has written the entry to its disk before it answered. The answer is a promise: b will
          still have the entry after a crash. a notes it in matchIndex.`,
      },
      {
        at: commits("a", 3),
        text: say`
          The entry is on three disks of five. That is a majority, so a commits it: commitIndex
          rises. Every later leader needs votes from a majority, and one of these three is in it.`,
      },
      {
        at: applies("a", 3),
        text: say`
          a applies the command to its state machine: x is 1. Only now does the client get its
          answer.`,
      },
      {
        at: applies("b", 3),
        text: say`
          The followers learn the new commitIndex with the next message of the leader, and apply
          the entry, too. Equal logs make equal states.`,
      },
      {
        at: pass(200),
        text: say`
          Now e is cut off, and the client writes again.`,
        then: [partition("a b c d", "e"), write("y", 2)],
      },
      {
        at: commits("a", 4),
        text: say`
          Four servers are more than a majority. y=2 is committed without e, and as fast as
          before. A slow or dead minority costs no time.`,
      },
      {
        at: pass(100),
        text: say`
          The network heals. The leader has not forgotten e: nextIndex says which entry e lacks.`,
        then: [healAll],
      },
      {
        at: commits("e", 4),
        text: say`
          e has the missing entry, and knows that it is committed. All five logs are equal.`,
      },
    ],
  }],
};

export const leaderDies: Lesson = {
  id: "leader-dies",
  title: "The leader dies",
  cites: "§5.2, §5.4.1",
  about: "Nothing that was committed is lost, because not every server can be elected.",
  parts: [{
    title: "The leader dies",
    scene: calm(5, 17),
    steps: [
      ...electAndWrite("b", "a", "b", "c", "d", "e"),
      {
        at: pass(100),
        text: say`
          a leads term 1. All five servers have x=1. Now the client writes y=2, but messages of a
          reach only b and c.`,
        then: [partition("a b c", "d e"), write("y", 2, "a")],
      },
      {
        at: commits("a", 4),
        text: say`
          y=2 is on the disks of a, b and c: committed. The client gets its answer. d and e have
          not heard of it.`,
      },
      {
        at: pass(20),
        text: say`
          The process of a dies. Its disk keeps the log.`,
        then: [kill("a"), healAll],
      },
      {
        at: forgets("d"),
        text: say`
          The heartbeats of a have stopped. Each follower probes the port of a, and finds it
          closed twice: the process is gone. So no follower waits for the whole election timeout
          (raft.ts, section 12). If a machine loses power, its port is silent, and the timeout
          decides.`,
        then: [elapse("d")],
      },
      {
        at: receives("d", "b", "RequestVoteReply", { success: false }),
        text: say`
          d wants to lead, but b refuses: b has entry 4, and the log of d ends with entry 3. The
          log with the later last term is more up to date; with equal terms, the longer one
          (§5.4.1). c refuses for the same reason. e alone is no majority.`,
        then: [elapse("b")],
      },
      {
        at: becomesCandidate("b"),
        text: say`
          b asks as well. Its log has all that was committed, so no server has a reason to refuse.`,
      },
      {
        at: leads("b"),
        text: say`
          b leads term 2. Entry 4 was on a majority, and each majority that elects shares a server
          with it. That server refuses all candidates without entry 4. This is Leader Completeness
          (Figure 3).`,
      },
      {
        at: gets("d", 4, 1),
        text: say`
          d gets y=2 from its new leader. After it comes a no-op of term 2, with which b begins
          its term.`,
      },
      {
        at: commits("b", 5),
        text: say`
          The no-op is committed, and with it everything before it. Now b also knows for sure
          which entries of earlier terms are committed (§8).`,
      },
      {
        at: pass(60),
        text: say`
          a starts again. It has kept its term, its vote and its log on the disk, and nothing
          else. It does not know that it has led.`,
        then: [restart("a")],
      },
      {
        at: gets("a", 5, 2),
        text: say`
          a follows b and gets what it has missed. A server that returns needs no repair by hand.`,
      },
    ],
  }],
};
