/**
 * Lessons on a divided network: its majority goes on, a server returns, an old leader must not
 * answer.
 */
import {
  calm,
  elapse,
  elect,
  electAndWrite,
  healAll,
  partition,
  pause,
  quietly,
  read,
  resume,
  write,
} from "./deeds.ts";
import { type Lesson, say, type Step } from "./lesson.ts";
import {
  answersRead,
  appends,
  applies,
  breaks,
  commits,
  follows,
  isInTerm,
  leads,
  overwrites,
  pass,
  receives,
  stepsDown,
  timerRunsOut,
} from "./signs.ts";

export const divided: Lesson = {
  id: "partition",
  title: "A partition",
  cites: "§5.2, thesis §6.2 and §9.6",
  about:
    "The majority goes on. A server that returns must not disturb it: with and without PreVote.",
  parts: [
    {
      title: "The majority goes on",
      scene: calm(5, 1),
      steps: [
        ...electAndWrite("b", "a", "b", "c", "d", "e"),
        {
          at: pass(100),
          text: say`
            a leads, and x is 1. Now the network splits: a and b on one side, c, d and e on the
            other. A client on the side of a writes x=2.`,
          then: [partition("a b", "c d e"), write("x", 2, "a")],
        },
        {
          at: appends("b", "x=2"),
          text: say`
            a appends the entry, and b too. That is two disks of five, and there it stays: a
            cannot commit it, so the client gets no answer.`,
        },
        {
          at: stepsDown("a"),
          text: say`
            For a whole election timeout no majority has answered a. It stops leading, so that its
            clients look for another leader: CheckQuorum (thesis §6.2).`,
        },
        {
          at: leads("c"),
          text: say`
            On the other side a timer has run out, and c has won term 2 with three votes of five.
            This side can do all that the whole cluster could.`,
        },
        {
          at: appends("c", "x=2"),
          text: say`
            The client has had no answer, so it repeats its command, at c. The copies on a and b
            don't matter.`,
        },
        {
          at: commits("c", 5),
          text: say`
            c commits the command on its three disks, and the client has its answer.`,
        },
        {
          at: pass(100),
          text: say`
            The network heals. Two logs have different entries at index 4.`,
          then: [healAll],
        },
        {
          at: overwrites("a", 4),
          text: say`
            a sees the higher term, and follows c. Its own entry 4 of term 1 was never committed.
            It is replaced by that of c.`,
        },
      ],
    },
    {
      title: "A server returns",
      scene: calm(5, 1),
      steps: [
        ...elect("a", "b", "c", "d", "e"),
        {
          at: pass(50),
          text: say`
            a leads term 1. This time e alone is cut off.`,
          then: [partition("a b c d", "e")],
        },
        {
          at: timerRunsOut("e"),
          text: say`
            e hears no leader, and its timer runs out. It asks for pre-votes, but no server hears
            it. Without a majority of pre-votes it opens no term. Its term stays 1.`,
        },
        {
          at: pass(3000),
          text: say`
            e has asked again and again. It is still in term 1. Now it comes back.`,
          then: [healAll],
        },
        {
          at: follows("e", "a"),
          text: say`
            e hears the leader, which has the same term, and simply follows it. The others have
            noticed nothing.`,
        },
      ],
    },
    {
      title: "The same without PreVote",
      scene: calm(5, 1, "11"),
      steps: [
        ...elect("a", "b", "c", "d", "e"),
        {
          at: pass(50),
          text: say`
            The same again, with a changed algorithm: a server whose timer runs out becomes a
            candidate at once, as in the paper's Figure 2. Again e is cut off.`,
          then: [partition("a b c d", "e")],
        },
        {
          at: isInTerm("e", 2),
          text: say`
            The timer of e runs out. It opens term 2 and votes for itself. No server hears it.`,
        },
        {
          at: isInTerm("e", 4),
          text: say`
            Each further timeout opens another term. The others work on in term 1, and know
            nothing of it.`,
        },
        { at: pass(100), text: "Now e comes back.", then: [healAll] },
        {
          at: stepsDown("a"),
          text: say`
            The leader hears of a higher term. By the paper's rule it must step down (§5.1),
            though it works well and e can't win: the log of e may lack entries. The clients have
            to wait for a new election.`,
        },
        {
          at: isInTerm("b", 5),
          text: say`
            No promise is broken: this is a disturbance, not a fault. It repeats with each server
            that returns. PreVote prevents it (thesis §9.6).`,
        },
      ],
    },
  ],
};

/** Until the read reaches the old leader. */
const staleRead: readonly Step[] = [
  ...electAndWrite("b", "a", "b", "c"),
  {
    at: pass(100),
    text: say`
      a leads term 1, and x is 1. Now the machine of a is cut off, and stands still for some
      seconds, as a virtual machine does while it moves to another host. a does not notice.`,
    then: [partition("a", "b c"), pause("a")],
  },
  { at: pass(1000), then: [elapse("b")] },
  {
    at: leads("b"),
    text: say`
      b has heard no heartbeat, has asked c, and leads term 2. In the memory of a, a still leads
      term 1.`,
    then: [write("x", 2, "b")],
  },
  {
    at: applies("b", 5),
    text: say`
      A client writes x=2. b commits it with c, and the client has its answer. From now on no
      client may read x=1.`,
  },
  {
    at: pass(300),
    text: say`
      A client asks a for x. Its request waits in front of the sleeping machine.`,
    then: [read("x", "a")],
  },
  {
    at: receives("a", "k0", "Request"),
    text: say`
      Now a goes on, and the first thing that it sees is the request. To a, no time has passed.`,
    then: [resume("a")],
  },
];

export const reads: Lesson = {
  id: "stale-read",
  title: "A read that would be stale",
  cites: "§8, thesis §6.4",
  about: "A leader that was replaced does not know it. So it asks before it answers.",
  parts: [
    {
      title: "The leader asks first",
      scene: calm(3, 3),
      steps: [
        ...staleRead,
        {
          at: stepsDown("a"),
          text: say`
            a believes that it leads, but it does not answer yet. First a majority must confirm
            it, by answering a heartbeat that was sent after the read arrived (ReadIndex). No
            answer can come. Then a sees that no server has answered it for too long, and stops
            leading.`,
        },
        {
          at: answersRead("b", "c"),
          text: say`
            The client was sent away, and asks another server. b makes sure with a round of
            heartbeats that it leads. Then the client has its answer: x is 2. A read adds nothing
            to the log.`,
        },
      ],
    },
    {
      title: "It answers at once (a bug)",
      scene: calm(3, 3, "25"),
      steps: [
        ...quietly(staleRead.slice(0, -1)),
        {
          at: receives("a", "k0", "Request"),
          text: say`
            The same scene: b leads term 2, and x=2 is committed. a has slept, and believes that
            it leads. The client's read waits at a. With a planted bug, a leader does not ask a
            majority before it answers. Now a goes on.`,
          then: [resume("a")],
        },

        {
          at: breaks("Reads are linearizable"),
          text: say`
            a answers at once: x is 1. But the client was told before that x=2 is done. This is a
            stale read, and the judge finds it. Databases with many users have had this bug.`,
        },
      ],
    },
  ],
};
