/** Lessons on snapshots (§7), members (§6), and disks that are lost. */
import {
  addServer,
  calm,
  electAndWrite,
  kill,
  removeServer,
  restart,
  wipe,
  write,
} from "./deeds.ts";
import { type Lesson, say } from "./lesson.ts";
import {
  anyLeads,
  catchesUp,
  commits,
  gets,
  installs,
  lists,
  pass,
  receives,
  stops,
  takesSnapshot,
} from "./signs.ts";

/** Sixteen writes, more than a log may have without a snapshot. */
const values = Array.from({ length: 16 }, (_, i) => i + 2);

export const slowFollower: Lesson = {
  id: "snapshot",
  title: "A slow follower gets a snapshot",
  cites: "§7, Figure 13",
  about: "Logs are cut, so a follower that was away may need the state instead of the entries.",
  parts: [{
    title: "A slow follower gets a snapshot",
    scene: calm(3, 1),
    steps: [
      ...electAndWrite("c", "a", "b", "c"),
      {
        at: pass(100),
        text: say`
          a leads, and all three logs are equal. Now c is down for a while, and the client keeps
          writing.`,
        then: [kill("c")],
      },
      { at: pass(50), then: values.map((value) => write("y", value, "a")) },
      {
        at: takesSnapshot("a"),
        text: say`
          The log of a has grown. Most of it is of no use any more: sixteen writes to y have left
          one value. So a writes a snapshot, which is the state after some entry, and drops the
          log up to there (§7). Each server does so on its own.`,
      },
      { at: pass(300), text: "c starts again. Its log ends at entry 3.", then: [restart("c")] },
      {
        at: receives("c", "a", "InstallSnapshot"),
        text: say`
          c lacks entry 4 and all after it, but a has dropped entry 4. So it sends its snapshot,
          in chunks. Each names the last entry that the snapshot includes, by index and term
          (Figure 13).`,
      },
      {
        at: installs("c"),
        text: say`
          c has all chunks. It replaces its state and its log by the snapshot. It has the last
          value of y, and has never seen those before it.`,
      },
      {
        at: catchesUp("c", "a"),
        text: say`
          The entries after the snapshot come as usual. c has the same log as the others, with
          another beginning.`,
      },
    ],
  }],
};

export const members: Lesson = {
  id: "members",
  title: "A server is added, and one removed",
  cites: "§6, thesis §4",
  about: "The members change one at a time, by entries of the log itself.",
  parts: [{
    title: "A server is added, and one removed",
    scene: calm(3, 1),
    steps: [
      ...electAndWrite("c", "a", "b", "c"),
      {
        at: pass(100),
        text: say`
          Three servers, and a leads. We want to replace the machine of a by a new one, d, while
          the cluster works. First we add d.`,
        then: [addServer("d")],
      },
      {
        at: lists("a", "a b c d*"),
        text: say`
          The leader appends an entry that lists a, b, c and d. A list counts as soon as it is in
          a server's log, committed or not (§6). d is a learner: it gets the log, but has no vote.
          With a vote, d would delay commitment until it has caught up.`,
      },
      {
        at: gets("a", 5, 1),
        text: say`
          d has answered, and a has learned the number of its disk. A second list records it,
          because only this disk will count as that of d. The lesson on a lost disk shows why.`,
      },
      {
        at: gets("d", 3, 1),
        text: say`
          d gets the log from its first entry on.`,
      },
      {
        at: lists("a", "a b c d"),
        text: say`
          d has reached the end of the log in less than an election timeout, so it has caught up
          (thesis §4.2.1). A third list gives it a vote. A majority is now three of four. Only one
          server changes at a time: so a majority of the old list and one of the new list always
          share a server (thesis §4.1).`,
      },
      {
        at: commits("a", 6),
        text: say`
          The list is committed. Now we remove a, though it leads.`,
        then: [removeServer("a")],
      },
      {
        at: lists("a", "b c d"),
        text: say`
          a appends a list without itself. It still leads, because a leader must commit this
          entry, but it no longer counts its own disk (thesis §4.2.2).`,
      },
      {
        at: commits("a", 7),
        text: say`
          Two of b, c and d have the entry: committed. a hands over to one that has the whole log.`,
      },
      {
        at: anyLeads("b", "c", "d"),
        text: say`
          A new server leads. The old one has asked it to campaign at once, without waiting for a
          timeout (thesis §3.10). So there is hardly a moment without a leader.`,
      },
      {
        at: stops("a"),
        text: say`
          a is no member any more, and stops. b, c and d tolerate one failure, as before.`,
      },
    ],
  }],
};

export const lostDisk: Lesson = {
  id: "lost-disk",
  title: "A disk is lost",
  cites: "raft.ts, section 11",
  about: "A server with an empty disk has broken its promises. It must not vote as before.",
  parts: [{
    title: "A disk is lost",
    scene: calm(3, 1),
    steps: [
      ...electAndWrite("c", "a", "b", "c"),
      {
        at: pass(100),
        text: say`
          a leads term 1 by the votes of b and c. The paper takes for granted that disks keep what
          was written. Now the disk of c breaks, and c gets a new, empty one.`,
        then: [wipe("c"), restart("c")],
      },
      {
        at: pass(5),
        text: say`
          c has forgotten its term, its vote and all entries. If it went on as before, it could
          vote in term 1 once more, for another server: two leaders. And an entry that was
          committed thanks to c may now be on a minority.`,
      },
      {
        at: lists("a", "a b c*"),
        text: say`
          Each disk has a number. a sees that c uses another disk than the log says. So it appends
          a list in which c is a learner with its new disk. c has no vote, and a and b commit this
          entry without it.`,
      },
      {
        at: gets("c", 3, 1),
        text: say`
          c gets the log again from scratch, as a new server does.`,
      },
      {
        at: lists("a", "a b c"),
        text: say`
          c has caught up, and a gives it back its vote by another entry. The new disk votes
          only for candidates whose logs have that entry. They also have everything that the old
          disk helped to commit, so its lost promises no longer matter.`,
      },
      {
        at: commits("c", 5),
        text: say`
          All three logs are equal again. If a majority of the disks is lost at once, no protocol
          can help.`,
      },
    ],
  }],
};
