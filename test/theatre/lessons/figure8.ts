/** The lesson of Figure 8: an entry of an earlier term is not committed by counting its copies. */
import {
  calm,
  cut,
  elapse,
  elect,
  healAll,
  kill,
  partition,
  quietly,
  restart,
  transfer,
} from "./deeds.ts";
import { type Lesson, say, type Step } from "./lesson.ts";
import {
  breaks,
  commits,
  forgets,
  isInTerm,
  leads,
  matches,
  overwrites,
  pass,
  receives,
  saves,
} from "./signs.ts";

/** (a) to (c) of the figure. S1 is a, and S5 is e. */
const untilC: readonly Step[] = [
  ...elect("e", "a", "b", "c", "d"),
  { at: pass(50), then: [transfer("a")] },
  {
    at: leads("a"),
    text: say`
      Figure 8, with S1 to S5 as a to e. All logs have entry 1. a has just been elected for term
      2, and begins it with entry 2. We cut a off from all but b.`,
    then: [cut("a", "c"), cut("a", "d"), cut("a", "e")],
  },
  {
    at: saves("b", 2),
    text: say`
      (a) Entry 2 of term 2 is on a and b. That is no majority of five. Then a dies.`,
    then: [kill("a"), elapse("e")],
  },
  {
    at: leads("e"),
    text: say`
      (b) e is elected for term 3 with the votes of c, d and its own: none of them has entry 2. e
      appends another entry 2, of term 3. Before any other server gets it, e dies.`,
    then: [partition("a b c d", "e")],
  },
  { at: saves("e", 2), then: [kill("e"), healAll, cut("a", "d"), restart("a")] },
  { at: pass(20), then: [elapse("a")] },
  { at: isInTerm("a", 3), then: [elapse("a")] },
  {
    at: leads("a"),
    text: say`
      (c) a has started again and leads term 4, with the votes of b and c. It appends entry 3 of
      term 4, and sends c what c lacks: first entry 2.`,
  },
];

/** e has started again, and wants to lead once the others have given up a. */
const returnOfE: readonly Step[] = [
  { at: pass(20), then: [elapse("e")] },
  { at: isInTerm("e", 4) },
  { at: forgets("c"), then: [elapse("e")] },
];

export const figure8: Lesson = {
  id: "figure-8",
  title: "Figure 8",
  cites: "§5.4.2, Figure 8",
  about: "An entry of an earlier term is on a majority, and is overwritten.",
  parts: [
    {
      title: "The entry is overwritten",
      scene: calm(5, 11),
      steps: [
        ...untilC,
        {
          at: matches("a", "c", 2),
          text: say`
            Entry 2 of term 2 is now on a, b and c: a majority. But a does not commit it, because
            it is of an earlier term. Was that too careful? a dies again.`,
          then: [kill("a"), restart("e")],
        },
        ...returnOfE,
        {
          at: leads("e"),
          text: say`
            (d) e is back, and wins term 5 with the votes of c and d. Its last entry is of term 3,
            theirs are of terms 2 and 1, so its log is more up to date than theirs.`,
        },
        {
          at: overwrites("c", 2),
          text: say`
            e makes all logs equal to its own. c overwrites entry 2 of term 2, which was on a
            majority a moment ago. No server has applied it, and no client has an answer. So no
            promise is broken: it was right not to commit it.`,
        },
        {
          at: commits("e", 3),
          text: say`
            e commits its own entry of term 5, and with it entry 2 of term 3.`,
        },
      ],
    },
    {
      title: "It is committed for good",
      scene: calm(5, 11),
      steps: [
        ...quietly(untilC.slice(0, -1)),
        {
          at: leads("a"),
          text: say`
            Once more we are at (c) of the figure. a leads term 4, and has entry 2 of term 2 and
            entry 3 of term 4. It sends c what c lacks: first entry 2.`,
        },

        {
          at: matches("a", "c", 2),
          text: say`
            Entry 2 is on a, b and c, and this time a lives on. It still does not commit. It waits
            for entry 3, which is of its own term.`,
        },
        {
          at: commits("a", 3),
          text: say`
            (e) Entry 3 of term 4 is on a, b and c. a commits it, and with it all before it: entry
            2 is committed indirectly (§5.4.2). Then a dies, and e is back.`,
          then: [kill("a"), restart("e")],
        },
        ...returnOfE,
        {
          at: receives("e", "b", "RequestVoteReply", { success: false }),
          text: say`
            b and c refuse: their last entry is of term 4, that of e is of term 3. With d alone e
            has no majority. Every log with entry 3 also has entry 2, so no leader can be without
            it.`,
        },
        {
          at: overwrites("e", 2),
          text: say`
            A server with entry 3 leads, and the log of e is repaired. Its entry 2 of term 3 was
            never committed.`,
        },
      ],
    },
    {
      title: "Committed by counting (a bug)",
      scene: calm(5, 11, "14"),
      steps: [
        ...quietly(untilC.slice(0, -1)),
        {
          at: leads("a"),
          text: say`
            (c) again, now with a planted bug: a leader counts copies, and does not look at the
            term. a leads term 4, and sends entry 2 of term 2 to c.`,
        },

        {
          at: commits("a", 2),
          text: say`
            Entry 2 is on a, b and c, so a commits it. Then a dies, as in the first part.`,
          then: [kill("a"), restart("e")],
        },
        ...returnOfE,
        {
          at: breaks("Leader completeness"),
          text: say`
            e wins term 5. The judge speaks: entry 2 of term 2 was committed, and is not in the
            log of the new leader. In a moment e would overwrite it on b and c. Had it been a
            command, a client might already have its answer. The changed line is marked in the
            source.`,
        },
      ],
    },
  ],
};
