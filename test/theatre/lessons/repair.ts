/** The lesson of Figure 7: a new leader makes the followers' logs equal to its own. */
import {
  calm,
  elapse,
  elect,
  forget,
  healAll,
  kill,
  partition,
  restart,
  transfer,
  write,
} from "./deeds.ts";
import { type Lesson, say, type Step } from "./lesson.ts";
import { allSave, commits, leads, overwrites, pass, receives, saves } from "./signs.ts";

const isolate = (...names: readonly string[]) =>
  partition([..."abcdefg"].filter((other) => !names.includes(other)).join(" "));

/** After this time a follower of a silent leader grants a vote. */
const TIMEOUT_MS = 1000;

/** Brings the logs of a to f, and of g, the next leader, to what Figure 7 shows. */
const figure7: readonly Step[] = [
  // Term 1: g leads, and all have three entries.
  ...elect("g", "a", "b", "c", "d", "e", "f"),
  { at: pass(50), then: [write("x", 1)] },
  { at: allSave(3, "a", "b", "c", "d", "e", "f"), then: [transfer("f")] },
  // Terms 2 and 3: f leads twice, and its entries reach no other server.
  { at: leads("f"), then: [isolate("f"), write("y", 2, "f"), write("y", 3, "f")] },
  { at: saves("f", 6), then: [forget, kill("f"), healAll, restart("f")] },
  { at: pass(60), then: [elapse("f")] },
  {
    at: leads("f"),
    then: [isolate("f"), ...[4, 5, 6, 7].map((value) => write("y", value, "f"))],
  },
  { at: saves("f", 11), then: [forget, kill("f"), healAll] },
  // Term 4: all but f get entry 4, all but b entry 5, and e alone 6 and 7.
  { at: pass(60), then: [elapse("e")] },
  { at: leads("e") },
  { at: allSave(4, "a", "b", "c", "d", "g"), then: [isolate("b"), write("z", 8, "e")] },
  {
    at: allSave(5, "a", "c", "d", "g"),
    then: [isolate("b", "e"), write("z", 9, "e"), write("z", 10, "e")],
  },
  { at: saves("e", 7), then: [forget] },
  // Term 5: g leads, without b.
  { at: pass(TIMEOUT_MS), then: [kill("e"), elapse("g")] },
  { at: leads("g"), then: [write("w", 11, "g")] },
  { at: allSave(7, "a", "c", "d"), then: [transfer("c")] },
  // Term 6: a, d and g get entry 9, d and g entry 10, and c alone 11.
  { at: leads("c"), then: [write("w", 12, "c")] },
  { at: allSave(9, "a", "d", "g"), then: [isolate("a", "b"), write("w", 13, "c")] },
  { at: allSave(10, "d", "g"), then: [isolate("c"), write("w", 14, "c")] },
  { at: saves("c", 11), then: [forget] },
  // Term 7: d leads, and its entries reach no other server.
  { at: pass(TIMEOUT_MS), then: [kill("c"), healAll, restart("e"), restart("f"), elapse("d")] },
  { at: leads("d"), then: [isolate("d"), write("x", 15, "d")] },
  {
    at: saves("d", 12),
    then: [forget, kill("d"), healAll, ...[..."cdef"].map((name) => restart(name))],
  },
];

export const repair: Lesson = {
  id: "figure-7",
  title: "Figure 7: logs are repaired",
  cites: "§5.3, Figure 7",
  about: "A new leader meets followers that lack entries, or have wrong ones.",
  parts: [{
    title: "Figure 7's logs are repaired",
    scene: calm(7, 45),
    steps: [
      ...figure7,
      {
        at: pass(60),
        text: say`
          These are the logs of Figure 7. The number in a cell is the entry's term. The figure's
          leader is g. a and b lack entries, c and d have some that no other server has, and e and
          f do both. Crashes of earlier leaders have left them so.`,
        then: [elapse("g")],
      },
      {
        at: leads("g"),
        text: say`
          g wins term 8 with votes of a, b, e and f. c and d refuse: their logs are more up to
          date than that of g. g appends a no-op of term 8, and supposes that each follower has
          all before it: nextIndex is 11 for each.`,
      },
      {
        at: overwrites("d", 11),
        text: say`
          d agrees with g up to entry 10. Then it had two entries of term 7, which no other server
          has. The first conflicts with the no-op of g, so d deletes it and all after it, and
          appends the no-op (AppendEntries, step 3 in Figure 2). The same happens in c.`,
      },
      {
        at: receives("g", "b", "AppendEntriesReply", { success: false }),
        text: say`
          b refuses: it has no entry 10, which the new entry could follow. In the paper, the
          leader decreases nextIndex by one and tries again. Here b also gives a hint where the
          logs may agree, so that the leader skips a whole term at once (end of §5.3).`,
      },
      {
        at: overwrites("e", 6),
        text: say`
          e has learned where it agrees with g: up to entry 5. Its own entries 6 and 7 of term 4
          were on no other server. e deletes them.`,
      },
      {
        at: overwrites("f", 4),
        text: say`
          f agrees only up to entry 3. All after that is of terms 2 and 3, when f led and no other
          server got its entries. None of them was committed, so they may be overwritten.`,
      },
      {
        at: commits("g", 11),
        text: say`
          The no-op is on four disks of seven. It is committed, and with it all entries before it.
          The leader itself has never deleted or changed an entry: Leader Append-Only (Figure 3).`,
      },
      {
        at: pass(300),
        text: say`
          All seven logs are equal. For this, the leader needed no special messages: AppendEntries
          and its check of the entry before (Log Matching) are enough.`,
      },
    ],
  }],
};
