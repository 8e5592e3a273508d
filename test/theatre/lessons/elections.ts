/** Lessons on elections (§5.2): the first one, and one that no candidate wins. */
import { calm, cutOneWay, elapse, healAll } from "./deeds.ts";
import { type Lesson, say } from "./lesson.ts";
import {
  becomesCandidate,
  commits,
  follows,
  grantsVote,
  leads,
  pass,
  receives,
  theStart,
  timerRunsOut,
} from "./signs.ts";

export const firstElection: Lesson = {
  id: "election",
  title: "A first election",
  cites: "§5.2",
  about: "Three new servers choose one of them to lead.",
  parts: [{
    title: "A first election",
    scene: calm(3, 16),
    steps: [
      {
        at: theStart,
        text: say`
          Three servers start with empty disks. All are followers in term 0, and none leads. The
          ring around a server is its election timer: it shrinks until the time is over. Each
          timer runs for a random time.`,
      },
      {
        at: receives("b", "a", "RequestVote"),
        text: say`
          The paper leaves out how a cluster begins. Here each server first asks the others
          whether they are new, too, in the form of a pre-vote. Otherwise servers with lost disks
          could begin a second cluster (raft.ts, section 11). Then they wait.`,
      },
      {
        at: timerRunsOut("b"),
        text: say`
          The timer of b runs out first. It has heard no leader, so it wants to lead. But it opens
          no term yet. It asks the others whether they would vote for it: a pre-vote (thesis
          §9.6). A later lesson shows what this question is good for.`,
      },
      {
        at: becomesCandidate("b"),
        text: say`
          One other server would vote for b, and b itself makes two of three. So b becomes a
          candidate. It opens term 1, votes for itself, writes both to its disk, and requests the
          votes of the others (Figure 2, RequestVote RPC).`,
      },
      {
        at: grantsVote("a", "b"),
        text: say`
          a has not voted in term 1, and the log of b is as up to date as its own: both are empty.
          So a votes for b. It writes the vote to its disk first, and only then answers. A server
          has one vote in each term.`,
      },
      {
        at: leads("b"),
        text: say`
          Two votes of three are a majority, so b leads term 1. Two majorities always share a
          server, and that server has one vote. So no other server can win term 1: this is
          Election Safety (Figure 3).`,
      },
      {
        at: follows("c", "b"),
        text: say`
          AppendEntries from b tells c that term 1 has a leader. c follows it and starts its timer
          again. From now on b sends such a message at short intervals, a heartbeat, and no timer
          runs out while they arrive.`,
      },
      {
        at: commits("b", 1),
        text: say`
          The first entry of the log lists the members a, b and c. It is on two disks of three, so
          it is committed: no later leader can be without it. The cluster is ready for commands.`,
      },
    ],
  }],
};

export const splitVote: Lesson = {
  id: "split-vote",
  title: "A split vote",
  cites: "§5.2",
  about: "Two candidates get half of the votes each. Chance ends the tie.",
  parts: [{
    title: "A split vote",
    scene: calm(4, 9),
    steps: [
      { at: theStart },
      {
        at: pass(60),
        text: say`
          Four servers, so a majority is three. We let the timers of b and c run out at the same
          time.`,
        then: [elapse("b"), elapse("c")],
      },
      {
        at: becomesCandidate("b"),
        text: say`
          b has three pre-votes of four. A pre-vote promises nothing, so a server may grant one to
          b and one to c. b opens term 1 and votes for itself. Its request will reach a first: we
          cut its way to d.`,
        then: [cutOneWay("b", "d"), cutOneWay("c", "a")],
      },
      {
        at: becomesCandidate("c"),
        text: say`
          c has three pre-votes, too. It opens the same term 1 and also votes for itself. Its
          request will reach d first: its way to a is cut. Now two servers want to lead one term,
          and a and d decide.`,
      },
      {
        at: grantsVote("a", "b"),
        text: say`
          a hears b first. a has one vote in term 1, and b gets it.`,
      },
      {
        at: grantsVote("d", "c"),
        text: say`
          d hears c first, so d votes for c. Each candidate has two votes of four.`,
      },
      {
        at: pass(100),
        text: say`
          All links work again, but it is too late. Each server has given its only vote in term 1,
          so no candidate can win this term.`,
        then: [healAll],
      },
      {
        at: pass(200),
        text: say`
          If all servers waited equally long, they would split the vote again and again. So each
          has drawn a new random timeout (§5.2). The rings show which one runs out first.`,
      },
      {
        at: becomesCandidate("c"),
        text: say`
          c is first, and well before the others. It opens term 2. A new term means a new vote for
          each server.`,
      },
      {
        at: leads("c"),
        text: say`
          c leads term 2. The split vote has cost some time and nothing else: at most one leader
          in a term, and in term 1 there was none.`,
      },
    ],
  }],
};
