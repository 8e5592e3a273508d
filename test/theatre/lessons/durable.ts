/** The lesson on durable votes: what follows if a server forgets one. */
import { calm, elapse, elect, healAll, kill, partition, quietly, restart } from "./deeds.ts";
import { type Lesson, say, type Step } from "./lesson.ts";
import { breaks, follows, grantsVote, leads, pass, waits } from "./signs.ts";

/** c is the voter. First b wants to lead term 2, and later a. */
const twoCandidates: readonly Step[] = [
  ...elect("c", "a", "b"),
  {
    at: pass(50),
    text: say`
      All are in term 1, which c has led until now. c has just started again, as a follower. a is
      cut off. The timer of b runs out.`,
    then: [kill("c"), restart("c"), partition("b c", "a"), elapse("b")],
  },
  {
    at: grantsVote("c", "b"),
    text: say`
      b has opened term 2, and c has decided to vote for it. The vote is in the memory of c. Now
      it must go to the disk.`,
  },
];

export const durableVote: Lesson = {
  id: "durable-vote",
  title: "Why a vote must be durable",
  cites: "Figure 2, §5.2",
  about: "A server that forgets its vote in a crash can elect two leaders in one term.",
  parts: [
    {
      title: "The vote is saved first",
      scene: calm(3, 26),
      steps: [
        ...twoCandidates,
        {
          at: waits("c"),
          text: say`
            c waits for its disk before it answers: "Updated on stable storage before responding
            to RPCs" (Figure 2). At this moment the power fails at c.`,
          then: [kill("c")],
        },
        {
          at: pass(50),
          text: say`
            c starts again. Its disk knows nothing of term 2. But b has had no answer, either. So
            nothing is forgotten that was promised. Now a wants to lead.`,
          then: [restart("c"), partition("a c", "b"), elapse("a")],
        },
        {
          at: grantsVote("c", "a"),
          text: say`
            a has opened term 2 as well, and c votes for it. To b it never said a word.`,
        },
        {
          at: leads("a"),
          text: say`
            a leads term 2, and b is still a candidate with one vote of three, its own. There is
            one leader in this term.`,
          then: [healAll],
        },
        {
          at: follows("b", "a"),
          text: say`
            b hears that its term has a leader, and follows it.`,
        },
      ],
    },
    {
      title: "The answer leaves first (a bug)",
      scene: calm(3, 26, "1"),
      steps: [
        ...quietly(twoCandidates.slice(0, -1)),
        {
          at: grantsVote("c", "b"),
          text: say`
            The same scene, now with a planted bug: a server answers before its vote is on the
            disk. c has just decided to vote for b.`,
        },

        {
          at: waits("c"),
          text: say`
            The answer has left, while the vote is still on its way to the disk. That saves a few
            milliseconds. At this moment the power fails at c.`,
          then: [kill("c")],
        },
        {
          at: leads("b"),
          text: say`
            The answer reaches b. Two votes of three: b leads term 2. Meanwhile c starts again,
            and its disk knows nothing of this vote.`,
          then: [partition("a c", "b"), restart("c")],
        },
        { at: pass(50), then: [elapse("a")] },
        {
          at: grantsVote("c", "a"),
          text: say`
            a opens term 2, too, and asks c. For c it is the first request in this term. So it
            votes for a: the second vote in one term.`,
        },
        {
          at: breaks("Election safety"),
          text: say`
            a and b lead term 2. Election Safety is broken (Figure 3). Each could commit other
            entries at the same places, and clients would see two histories. So a server saves its
            vote before it answers, though that costs a disk write in each election.`,
        },
      ],
    },
  ],
};
