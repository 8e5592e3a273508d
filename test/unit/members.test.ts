/**
 * Tests that servers can be added and removed while others serve (thesis §4): one test for each
 * rule, first of the algorithm alone, then of whole servers, whose network and disks the test
 * controls.
 */
import { encode } from "@msgpack/msgpack";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  Client,
  clientKey,
  type Configuration,
  KeyValues,
  type Member,
  type Name,
  Node,
  type Raft,
  RaftError,
} from "../../raft.ts";
import {
  acknowledge,
  appendEntries,
  appendReply,
  candidate,
  Cluster,
  configuration,
  entries,
  FIVE,
  flush,
  follower,
  grantPreVotes,
  grantVotes,
  heartbeat,
  leader,
  membersEntry,
  one,
  only,
  preCandidate,
  progress,
  propose,
  removed,
  request,
  requestVote,
  roundOf,
  server,
  settledLeader,
  snapshotOf,
  step,
  T,
  THREE,
  timeOut,
  timeoutNow,
  to,
  turn,
  voteReply,
  wait,
} from "../support/core.ts";
import { namesOf, World } from "../support/nodes.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { Impostor, message, open, type Role, SECRET } from "../support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

const FOUR = [...THREE, "d"];
const namesIn = (raft: Raft) => namesOf(raft.members);

/** Sends a follower the next entry of its log, which holds these members. */
const append = (raft: Raft, members: Configuration, leaderCommit = 0) =>
  step(
    raft,
    appendEntries(raft.currentTerm, {
      prevLogIndex: raft.log.lastIndex,
      prevLogTerm: raft.log.lastTerm,
      leaderCommit,
      entries: [membersEntry(raft.log.lastIndex + 1, raft.currentTerm, members)],
    }),
  );

/** Returns a leader of `names` that has just added the learner `d`. No reply has arrived yet. */
function leaderAdding(names = THREE): Raft {
  const raft = settledLeader({ members: names });
  expect(raft.changeMembers("d", "d:1")).toEqual({ index: raft.log.lastIndex });
  turn(raft);
  return raft;
}

const commitOn = (raft: Raft, ...names: Name[]) => names.flatMap((name) => acknowledge(raft, name));

describe("a configuration", () => {
  test("is in force as soon as it is in the log, committed or not", () => {
    const raft = follower();
    append(raft, configuration(["a", "b"]));
    expect([namesIn(raft), raft.majority, raft.commitIndex]).toEqual(["a b", 2, 0]);
  });

  test("gives way to the one before it when its entry is truncated away", () => {
    const raft = follower();
    append(raft, configuration(FOUR));
    append(raft, configuration(["a", "b"]));
    expect(namesIn(raft)).toBe("a b");
    step(
      raft,
      appendEntries(2, { from: "c", prevLogIndex: 1, prevLogTerm: 1, entries: entries([2], 1) }),
    );
    expect(namesIn(raft)).toBe("a b c d");
    step(raft, appendEntries(3, { prevLogIndex: 0, entries: entries([3]) }));
    expect(namesIn(raft)).toBe("a b c");
  });

  test("belongs to a snapshot as of the snapshot's index, not as of the end of the log", () => {
    const raft = follower();
    append(raft, configuration(["a", "b"]));
    append(raft, configuration(["a"]), 1);
    expect(namesOf(raft.log.membership(0).members)).toBe("a b c");
    expect(namesOf(raft.log.membership(1).members)).toBe("a b");
    raft.onSnapshot(snapshotOf(raft, 1), 0);
    expect([
      namesOf(raft.snapshot.members),
      namesOf(raft.log.membership(1).members),
      namesIn(raft),
    ])
      .toEqual(["a b", "a b", "a"]);
    step(
      raft,
      appendEntries(2, { from: "c", prevLogIndex: 1, prevLogTerm: 1, entries: entries([2], 1) }),
    );
    expect(namesIn(raft)).toBe("a b");
  });

  test("that comes with a snapshot replaces the one in the log", () => {
    const raft = follower();
    append(raft, configuration(["a"]));
    raft.onSnapshot({ index: 9, term: 1, size: 10, founding: 1, members: configuration(FOUR) }, 0);
    expect(namesIn(raft)).toBe("a b c d");
  });

  test("decides which servers count, but every server's messages are handled (thesis §4.1)", () => {
    const raft = server({ members: ["a", "b"] });
    expect(one(step(raft, appendEntries(1, { from: "x", entries: entries([1]) })))).toMatchObject({
      to: "x",
      success: true,
      matchIndex: 1,
    });
    raft.tick(2 * T + raft.now);
    expect(only("RequestVoteReply", step(raft, request(raft, 5, { from: "y" })))).toMatchObject([
      { to: "y", voteGranted: true },
    ]);
  });
});

describe("a majority", () => {
  test("is one of the new configuration, even before that is committed", () => {
    const raft = settledLeader({ members: FOUR });
    raft.changeMembers("d", "");
    const index = raft.log.lastIndex;
    turn(raft);
    acknowledge(raft, "d");
    expect(raft.commitIndex).toBe(index - 1);
    acknowledge(raft, "c");
    expect(raft.commitIndex).toBe(index);
  });

  test("for an entry counts no learner (catalogue 38)", () => {
    const raft = leaderAdding();
    acknowledge(raft, "d");
    expect(raft.commitIndex).toBe(1);
    acknowledge(raft, "b");
    expect(raft.commitIndex).toBe(2);
  });

  test("of votes counts no learner, and no learner is asked (catalogue 38)", () => {
    const raft = follower();
    append(raft, configuration(THREE, ["d"]));
    expect(timeOut(raft).map((m) => m.to)).toEqual(["b", "c"]);
    const { campaigns: campaign, currentTerm } = raft;
    step(raft, voteReply(currentTerm + 1, { from: "d", preVote: true, campaign }));
    expect(raft.role.name).toBe("PreCandidate");
    step(raft, voteReply(currentTerm + 1, { from: "c", preVote: true, campaign }));
    expect(raft.role.name).toBe("Candidate");
    step(raft, voteReply(currentTerm + 1, { from: "d" }));
    expect(raft.role.name).toBe("Candidate");
    step(raft, voteReply(currentTerm + 1, { from: "b" }));
    expect(raft.role.name).toBe("Leader");
  });

  test("for a read or for CheckQuorum counts no learner (catalogue 38)", () => {
    const raft = leaderAdding();
    commitOn(raft, "b");
    flush(raft);
    raft.read();
    turn(raft);
    raft.receive(
      appendReply(1, { from: "d", matchIndex: 0, success: false, round: roundOf(raft) }),
      raft.now,
    );
    expect(flush(raft).reads).toBe(0);
    raft.receive(appendReply(1, { from: "c", matchIndex: 1, round: roundOf(raft) }), raft.now);
    expect(flush(raft).reads).toBe(1);
    raft.now += 2 * T;
    raft.receive(
      appendReply(1, { from: "d", matchIndex: 0, success: false, round: roundOf(raft) }),
      raft.now,
    );
    wait(raft, 1);
    expect(raft.role.name).toBe("Follower");
  });
});

describe("a learner", () => {
  test("neither campaigns nor accepts a transfer, but votes for a candidate that asks it", () => {
    const raft = server({ name: "d", members: [] });
    append(raft, configuration(THREE, ["d"]));
    raft.tick(raft.now + 10 * T);
    turn(raft);
    expect([raft.role.name, raft.currentTerm]).toEqual(["Follower", 0]);
    expect(raft.leader).toBeUndefined(); // So it does not redirect clients to a silent leader.
    step(raft, heartbeat(raft));
    expect(step(raft, timeoutNow(raft.currentTerm))).toEqual([]);
    raft.tick(raft.now + 2 * T);
    expect(only("RequestVoteReply", step(raft, request(raft, 9)))).toMatchObject([
      { voteGranted: true },
    ]);
  });

  test("is promoted as soon as it has what the log had when it was added", () => {
    const raft = leaderAdding();
    const last = raft.log.lastIndex;
    propose(raft);
    commitOn(raft, "b", "c");
    acknowledge(raft, "d", last - 1);
    expect(namesIn(raft)).toBe("a b c (d)");
    acknowledge(raft, "d", last);
    expect([namesIn(raft), raft.log.lastIndex]).toEqual(["a b c d", last + 2]);
    acknowledge(raft, "d");
    acknowledge(raft, "b");
    expect(raft.commitIndex).toBe(last + 2);
  });

  /** Returns the members after 100 s of load. The learner has what the log had `lag` ms earlier. */
  function loaded(lag: (now: number) => number): string {
    const raft = leaderAdding();
    const ends: number[] = [];
    for (let now = 0; now < 100_000; now += 100) {
      raft.tick(raft.now + 100);
      for (let i = 0; i < 20; i += 1) propose(raft, "a command of forty bytes, which is just text");
      commitOn(raft, "b", "c");
      ends.push(raft.log.lastIndex);
      const then = ends[Math.floor((now - lag(now)) / 100)];
      if (then !== undefined) acknowledge(raft, "d", then);
    }
    return namesIn(raft);
  }

  test("is promoted under load if it is less than an election timeout late (thesis §4.2.1)", () => {
    expect(loaded(() => T / 2)).toBe("a b c d");
    expect(loaded(() => 2 * T)).toBe("a b c (d)");
    expect(loaded((now) => 2 * T + now / 2)).toBe("a b c (d)");
    expect(loaded((now) => Math.max(T / 2, 2 * T - now / 2))).toBe("a b c d");
  });

  test("is not promoted while it needs a snapshot (catalogue 305)", () => {
    const raft = leaderAdding();
    const goal = raft.log.lastIndex;
    for (let i = 0; i < 20; i += 1) propose(raft);
    commitOn(raft, "b", "c");
    raft.onSnapshot(snapshotOf(raft, raft.lastApplied), 0);
    acknowledge(raft, "d", goal);
    expect(namesIn(raft)).toBe("a b c (d)");
    acknowledge(raft, "d");
    expect(namesIn(raft)).toBe("a b c d");
  });

  test("is not promoted while another change is in progress", () => {
    const raft = leaderAdding();
    acknowledge(raft, "d");
    expect(namesIn(raft)).toBe("a b c (d)");
    commitOn(raft, "b");
    expect(namesIn(raft)).toBe("a b c (d)");
    acknowledge(raft, "d");
    expect(namesIn(raft)).toBe("a b c d");
  });

  test("is no target of a leadership transfer", () => {
    const raft = leaderAdding();
    expect(raft.transfer("d")).toEqual({ refused: "d has no vote here" });
    expect(raft.transfer()).toBeUndefined();
    expect(only("TimeoutNow", acknowledge(raft, "d"))).toEqual([]);
    expect(only("TimeoutNow", acknowledge(raft, "b"))).toHaveLength(1);
  });
});

describe("a change of the members", () => {
  test("waits until the change before it is committed (catalogue 36)", () => {
    const raft = leaderAdding();
    expect(raft.changeMembers("c", "")).toBeUndefined();
    expect(raft.changeMembers("e", "e:1")).toBeUndefined();
    commitOn(raft, "b");
    expect(raft.changeMembers("c", "")).toEqual({ index: 3 });
  });

  test("waits until an entry of the leader's own term is committed (catalogue 37)", () => {
    const raft = leader({ log: [1, 1] });
    expect(raft.changeMembers("d", "d:1")).toBeUndefined();
    commitOn(raft, "b");
    expect(raft.changeMembers("d", "d:1")).toEqual({ index: 4 });
  });

  test("needs a leader that is not handing over its leadership", () => {
    expect(follower().changeMembers("d", "d:1")).toBeUndefined();
    expect(candidate().changeMembers("d", "d:1")).toBeUndefined();
    const raft = settledLeader();
    raft.transfer("b");
    expect(raft.changeMembers("d", "d:1")).toBeUndefined();
  });

  test("that is requested twice is made once", () => {
    const raft = leaderAdding();
    expect(raft.changeMembers("d", "d:1")).toEqual({ index: 3 });
    expect(raft.log.at(3).kind).toBe("noop");
    expect(raft.changeMembers("x", "")).toEqual({ index: 4 });
    expect(raft.log.membership().index).toBe(2);
    commitOn(raft, "b");
    expect(raft.changeMembers("d", "")).toEqual({ index: 5 });
    expect(raft.changeMembers("d", "")).toEqual({ index: 6 });
    expect(raft.log.membership().index).toBe(5);
  });

  test("that was made before is answered by an entry that only a present leader commits", () => {
    const raft = settledLeader();
    const { commitIndex } = raft;
    const change = raft.changeMembers("x", "");
    turn(raft);
    expect(change).toEqual({ index: commitIndex + 1 });
    // Here another server may lead, and may have added x.
    expect(raft.commitIndex).toBe(commitIndex);
    acknowledge(raft, "b");
    expect(raft.commitIndex).toBe(commitIndex + 1);
  });

  test("that gives a member another address leaves its vote and its disk as they are", () => {
    const raft = settledLeader();
    const [before] = raft.members.filter(({ name }) => name === "c");
    expect(raft.changeMembers("c", "elsewhere:1")).toEqual({ index: 2 });
    const corrected = { ...before, address: "elsewhere:1" };
    expect(raft.members).toContainEqual(corrected as Member);
    expect(namesOf(raft.members)).toBe("a b c");
    expect(raft.changeMembers("c", "elsewhere:1")).toEqual({ index: 3 });
    expect(raft.log.membership().index).toBe(2);
  });

  test("that would leave no voter is refused, even if it is forced", () => {
    const raft = settledLeader({ members: ["a"] });
    for (const force of [false, true]) {
      expect(raft.changeMembers("a", "", force)).toEqual({
        refused: "no voter would be left",
      });
    }
  });

  test("that would leave no reachable majority is refused unless it is forced", () => {
    const raft = settledLeader();
    raft.now += T - 1;
    acknowledge(raft, "b");
    raft.now += 1;
    expect(raft.changeMembers("b", "")).toEqual({
      refused: "no working majority would be left: of 2 voters, c did not answer",
    });
    expect(raft.changeMembers("c", "")).toEqual({ index: 2 });
    expect(namesIn(raft)).toBe("a b");
    const elected = leader();
    acknowledge(elected, "b");
    expect(elected.changeMembers("b", "")).toEqual({
      refused: expect.stringMatching(/no working majority would be left: of 2 voters, c did/),
    });
    const forced = settledLeader();
    forced.now += T;
    acknowledge(forced, "b");
    expect(forced.changeMembers("b", "", true)).toEqual({ index: 2 });
  });
});

/** Returns a, b and c as an entry of the log names them, with these disks. */
const membersWithDisks = (...disks: readonly number[]): Configuration =>
  configuration(THREE).map((member, i) => ({ ...member, disk: disks[i] ?? 0 }));

/** Returns a follower of term 1 whose log names disk 1 for itself, 2 for "b" and 3 for "c". */
function namedFollower(): Raft {
  const raft = follower({ disk: 1, term: 1 });
  append(raft, membersWithDisks(1, 2, 3));
  return raft;
}

/** Returns that server as the leader of term 2, which has heard both followers. */
function namedLeader(): Raft {
  const raft = namedFollower();
  timeOut(raft);
  grantPreVotes(raft);
  grantVotes(raft);
  acknowledgeFromDisk(raft, "b", 2);
  acknowledgeFromDisk(raft, "c", 3);
  expect(raft.commitIndex).toBe(raft.log.lastIndex);
  return raft;
}

/** Acknowledges all entries up to `matchIndex`, from a disk. */
const acknowledgeFromDisk = (
  raft: Raft,
  from: Name,
  disk: number,
  matchIndex = raft.log.lastIndex,
) => step(raft, appendReply(raft.currentTerm, { from, disk, matchIndex, round: roundOf(raft) }));

/** Replies as a server with a new, empty disk does: it refuses the entries first. */
function replaceDisk(raft: Raft, from: Name, disk: number): void {
  wait(raft, T / 10);
  step(raft, appendReply(raft.currentTerm, { from, disk, success: false, round: roundOf(raft) }));
  wait(raft, T / 10);
}

describe("a disk", () => {
  test("has a vote if the candidate's log names it", () => {
    for (const preVote of [false, true]) {
      const voteReplyTo = (voterDisk: number) =>
        one(
          step(
            server({ disk: 7, log: [1] }),
            requestVote(2, { preVote, voterDisk, lastLogIndex: 1, lastLogTerm: 1 }),
          ),
        );
      expect(voteReplyTo(7)).toMatchObject({ voteGranted: true });
      expect(voteReplyTo(6)).toMatchObject({ voteGranted: false });
      expect(voteReplyTo(0)).toMatchObject({ voteGranted: false });
    }
  });

  test("has a vote if the candidate's log is empty, because no vote was given before it", () => {
    const voteReplyTo = (log: number[]) =>
      one(step(server({ disk: 7, log, term: 1 }), requestVote(2)));
    expect(voteReplyTo([])).toMatchObject({ voteGranted: true });
    expect(voteReplyTo([1])).toMatchObject({ voteGranted: false });
  });

  test("is named in each request for its vote", () => {
    const requests = only("RequestVote", timeOut(namedFollower()));
    expect(requests.map(({ to, voterDisk }) => [to, voterDisk])).toEqual([["b", 2], ["c", 3]]);
  });

  test("is named by the first entry of the log if its server has replied by then", () => {
    const raft = candidate({ disk: 1 });
    step(raft, voteReply(1, { from: "b", disk: 2 }));
    expect([raft.log.lastIndex, raft.log.at(1).kind]).toEqual([1, "members"]);
    expect(raft.members).toEqual(membersWithDisks(1, 2, 0));
    acknowledgeFromDisk(raft, "b", 2);
    expect(raft.commitIndex).toBe(1);
  });

  test("that is not named counts neither for an entry, nor for a read, nor for CheckQuorum", () => {
    const raft = namedLeader();
    raft.changeMembers("d", "d:1"); // While this change is in progress, no disk can be named.
    const index = propose(raft);
    raft.read();
    raft.onHeard("b", 99, 1);
    turn(raft);
    raft.receive(
      appendReply(2, { from: "b", disk: 99, matchIndex: index, round: roundOf(raft) }),
      raft.now,
    );
    expect(flush(raft).reads).toBe(0);
    expect(raft.commitIndex).toBeLessThan(index);
    wait(raft, T / 2);
    acknowledgeFromDisk(raft, "b", 99);
    wait(raft, T / 2);
    expect(raft.role.name).toBe("Follower");
  });

  test("that replaces another one has acknowledged nothing", () => {
    const raft = namedLeader();
    expect(progress(raft, "b").matchIndex).toBe(2);
    const ignoreUpToRound = roundOf(raft);
    // This disk has earlier entries, from a request that was late.
    acknowledgeFromDisk(raft, "b", 99, 1);
    expect(progress(raft, "b")).toMatchObject({ matchIndex: 0, ignoreUpToRound });
  });

  test("that comes back in place of another one has acknowledged only its own entries", () => {
    const raft = namedLeader();
    raft.changeMembers("d", "d:1"); // While this change is in progress, no disk can be named.
    const index = propose(raft);
    turn(raft);
    replaceDisk(raft, "b", 99);
    acknowledgeFromDisk(raft, "b", 99);
    // The disk that the log names has no entry of this term after the no-op.
    raft.onHeard("b", 2, 1);
    propose(raft);
    raft.read();
    expect(flush(raft).reads).toBe(0);
    expect(raft.commitIndex).toBeLessThan(index);
    acknowledgeFromDisk(raft, "b", 2);
    expect(raft.commitIndex).toBe(raft.log.lastIndex);
  });

  test("that is not named neither leads nor becomes the target of a transfer", () => {
    const raft = follower({ disk: 9, term: 1 });
    append(raft, membersWithDisks(1, 2, 3));
    timeOut(raft);
    expect([raft.role.name, raft["outbox"]]).toEqual(["Follower", []]);
    step(raft, heartbeat(raft));
    expect(step(raft, timeoutNow(1))).toEqual([]);
    expect([raft.currentTerm, raft.leader]).toEqual([1, "b"]);
    const other = namedLeader();
    other.disks.set("b", 99);
    expect(other.transfer("b")).toEqual({ refused: "b has no vote here" });
    expect([other.transfer(), other.transferTarget]).toEqual([undefined, "c"]);
  });

  test("that is empty ignores a TimeoutNow to the disk before it", () => {
    const raft = follower({ disk: 9, term: 1 });
    expect(step(raft, timeoutNow(1))).toEqual([]);
    expect(raft).toMatchObject({ currentTerm: 1, role: { name: "Follower" } });
  });

  test("that is not named is no part of a reachable majority", () => {
    const raft = namedLeader();
    raft.disks.set("b", 99);
    expect(raft.changeMembers("c", "")).toEqual({
      refused: expect.stringContaining("b did not answer"),
    });
  });

  test("that replaces a lost one is named for a learner, which is promoted with the whole log", () => {
    const raft = namedLeader();
    replaceDisk(raft, "b", 99);
    step(raft, appendReply(2, { from: "b", disk: 99, round: roundOf(raft) }));
    expect(namesIn(raft)).toBe("a (b) c");
    expect(raft.members).toMatchObject(membersWithDisks(1, 99, 3).map(({ disk }) => ({ disk })));
    expect(raft.events).toContainEqual({ type: "lostDisk", server: "b" });
    // Its own acknowledgement does not commit that entry.
    acknowledgeFromDisk(raft, "b", 99);
    acknowledgeFromDisk(raft, "b", 99);
    expect(raft.commitIndex).toBeLessThan(raft.log.lastIndex);
    expect(namesIn(raft)).toBe("a (b) c");
    acknowledgeFromDisk(raft, "c", 3);
    acknowledgeFromDisk(raft, "b", 99);
    expect(namesIn(raft)).toBe("a b c");
    // Two of the three are a majority again, because this disk is named now.
    acknowledgeFromDisk(raft, "b", 99);
    expect(raft.commitIndex).toBe(raft.log.lastIndex);
  });

  test("that comes back after another one was named is named again, without being counted", () => {
    const raft = namedLeader();
    replaceDisk(raft, "b", 99);
    acknowledgeFromDisk(raft, "b", 99);
    acknowledgeFromDisk(raft, "c", 3);
    acknowledgeFromDisk(raft, "b", 99);
    acknowledgeFromDisk(raft, "b", 99);
    expect(namesIn(raft)).toBe("a b c");
    expect(raft.commitIndex).toBe(raft.log.lastIndex);
    // The disk of the beginning is back, with its log of two entries.
    raft.onHeard("b", 2, 1);
    const index = propose(raft);
    turn(raft);
    acknowledgeFromDisk(raft, "b", 2, 2);
    expect(namesIn(raft)).toBe("a (b) c");
    expect(raft.members).toMatchObject(membersWithDisks(1, 2, 3).map(({ disk }) => ({ disk })));
    acknowledgeFromDisk(raft, "b", 2);
    acknowledgeFromDisk(raft, "b", 2);
    expect(raft.commitIndex).toBeLessThan(index);
    acknowledgeFromDisk(raft, "c", 3);
    acknowledgeFromDisk(raft, "b", 2);
    expect(namesIn(raft)).toBe("a b c");
  });

  test("that replaces a lost one is named at its first refusal, before it has the log", () => {
    const raft = namedLeader();
    raft.onHeard("b", 99, 0);
    turn(raft);
    const round = roundOf(raft);
    step(raft, appendReply(2, { from: "b", disk: 99, success: false, round }));
    expect(namesIn(raft)).toBe("a (b) c");
  });

  test("is not named while the others are no majority, or another change is in progress", () => {
    const withoutC = namedLeader();
    for (let i = 0; i < 10; i += 1) {
      wait(withoutC, T / 20);
      acknowledgeFromDisk(withoutC, "b", 2);
    }
    wait(withoutC, T / 2 + 1);
    acknowledgeFromDisk(withoutC, "b", 99); // "c" is silent by now.
    propose(withoutC);
    turn(withoutC);
    acknowledgeFromDisk(withoutC, "b", 99);
    expect([withoutC.role.name, namesIn(withoutC)]).toEqual(["Leader", "a b c"]);
    const changing = namedLeader();
    changing.changeMembers("d", "d:1");
    turn(changing);
    replaceDisk(changing, "b", 99);
    acknowledgeFromDisk(changing, "b", 99, 0);
    expect(namesIn(changing)).toBe("a b c (d)");
  });

  test("that has lost a tail of its log is treated as replaced", () => {
    const raft = namedLeader();
    propose(raft);
    turn(raft);
    const round = roundOf(raft);
    acknowledgeFromDisk(raft, "b", 2);
    acknowledgeFromDisk(raft, "c", 3);
    const refuse = (fields: { round: number; hintIndex: number }) =>
      step(raft, appendReply(2, { from: "b", disk: 2, success: false, hintTerm: 1, ...fields }));
    // This refusal was sent before the acknowledgement, and arrives late.
    refuse({ round, hintIndex: 1 });
    expect(namesIn(raft)).toBe("a b c");
    wait(raft, T / 10);
    refuse({ round: roundOf(raft), hintIndex: raft.log.lastIndex });
    expect(namesIn(raft)).toBe("a b c");
    refuse({ round: roundOf(raft), hintIndex: 1 });
    expect(namesIn(raft)).toBe("a (b) c");
    expect(progress(raft, "b").matchIndex).toBe(0);
  });

  test("that has lost entries helps to commit them only after it has them again", () => {
    const raft = settledLeader({ members: FIVE });
    raft.changeMembers("f", "f:1"); // While this is not committed, no other change is possible.
    turn(raft);
    acknowledge(raft, "b");
    const { commitIndex, log: { lastIndex } } = raft;
    wait(raft, T / 10);
    step(raft, appendReply(1, { from: "b", round: roundOf(raft), success: false }));
    acknowledge(raft, "c");
    expect(raft.commitIndex).toBe(commitIndex);
    wait(raft, T / 10);
    acknowledge(raft, "b");
    expect(raft.commitIndex).toBe(lastIndex);
  });
});

describe("a removed server", () => {
  const leaderRemoving = (name: Name) => {
    const raft = settledLeader({ members: FOUR });
    expect(raft.changeMembers(name, "")).toEqual({ index: 2 });
    return { raft, sent: turn(raft) };
  };

  test("receives the entry that removes it, and Removed once that is committed", () => {
    const { raft, sent } = leaderRemoving("d");
    expect(one(only("AppendEntries", to("d", sent))).entries).toHaveLength(1);
    commitOn(raft, "b", "c");
    expect(only("Removed", acknowledge(raft, "d", 1))).toEqual([]);
    expect(only("Removed", acknowledge(raft, "d"))).toMatchObject([{ to: "d", term: 1 }]);
    // Here the removal is not committed.
    expect(only("Removed", acknowledge(leaderRemoving("d").raft, "d"))).toEqual([]);
  });

  test("is sent nothing more after ten election timeouts of silence", () => {
    const { raft } = leaderRemoving("d");
    for (let i = 0; i < 9; i += 1) {
      raft.now += T;
      commitOn(raft, "b", "c");
    }
    progress(raft, "d");
    raft.now += T;
    commitOn(raft, "b", "c");
    wait(raft, 0);
    expect(() => progress(raft, "d")).toThrow();
  });

  test("knows its removal when its own leader says so, in its term, and its log agrees", () => {
    const raft = follower({ name: "d", members: FOUR });
    step(raft, removed(1, { to: "d" }));
    // This message is from an earlier removal, before the server was added again.
    expect(raft.isRemoved).toBe(false);
    append(raft, configuration(THREE));
    step(raft, removed(1, { from: "c", to: "d" }));
    expect(raft.isRemoved).toBe(false);
    step(raft, removed(1, { to: "d" }));
    expect(raft.isRemoved).toBe(true);
  });

  test("that restarts to be added again ignores an earlier Removed", () => {
    const raft = server({ name: "d", members: THREE });
    step(raft, heartbeat(raft));
    step(raft, removed(0, { to: "d" }));
    expect(raft.isRemoved).toBe(false);
  });

  test("does not campaign once its removal is committed (catalogue 39)", () => {
    const raft = follower({ name: "d", members: FOUR });
    append(raft, configuration(THREE), 1);
    raft.tick(raft.now + 10 * T);
    turn(raft);
    expect([raft.role.name, raft.currentTerm]).toEqual(["Follower", 1]);
  });

  test("that may not lead asks for pre-votes, so that a new leader tells it of its removal", () => {
    const removedVoter = follower({ name: "d", members: FOUR });
    append(removedVoter, configuration(THREE), 2);
    const learner = follower({ name: "d", members: FOUR });
    append(learner, configuration(THREE, ["d"]));
    for (const raft of [removedVoter, learner]) {
      const asked = only("RequestVote", timeOut(raft)).map(({ to, preVote }) => [to, preVote]);
      expect(asked).toEqual([["a", true], ["b", true], ["c", true]]);
    }
    // A server that waits to be added again is silent.
    const waiting = server({ name: "d", log: [1], commitIndex: 1 });
    expect(timeOut(waiting)).toEqual([]);
  });

  test("may lead until its removal is committed, but does not count itself (thesis §4.2.2)", () => {
    const raft = follower({ name: "a", members: ["a", "b"] });
    append(raft, configuration(["b"]));
    expect(timeOut(raft).map((m) => m.to)).toEqual(["b"]);
    step(raft, voteReply(raft.currentTerm + 1, { preVote: true, campaign: raft.campaigns }));
    step(raft, voteReply(raft.currentTerm));
    expect(raft.role.name).toBe("Leader");
    acknowledge(raft, "b");
    expect([raft.commitIndex, raft.isRemoved]).toEqual([2, true]);
  });

  test("campaigns even if its log no longer shows that it ever had a vote", () => {
    const raft = follower({ name: "a", members: ["b"] });
    append(raft, configuration(["a", "b"]));
    append(raft, configuration(["b"]));
    expect([raft.commitIndex, namesOf(raft.log.membership(0).members)]).toEqual([0, "b"]); // As after a restart.
    expect(timeOut(raft).map((m) => m.to)).toEqual(["b"]);
  });

  test("that missed its removal gets no vote, but is sent the log", () => {
    const { raft } = leaderRemoving("d");
    commitOn(raft, "b", "c");
    for (let i = 0; i < 10; i += 1) {
      raft.now += T;
      commitOn(raft, "b", "c");
    }
    const sent = step(
      raft,
      requestVote(2, { from: "d", preVote: true, lastLogIndex: 1, lastLogTerm: 1 }),
    );
    expect(only("RequestVoteReply", sent)).toMatchObject([{ to: "d", voteGranted: false }]);
    expect([raft.role.name, raft.currentTerm]).toEqual(["Leader", 1]);
    expect(only("AppendEntries", to("d", [...sent, ...wait(raft, T / 10)]))).not.toEqual([]);
    expect(only("Removed", acknowledge(raft, "d"))).toHaveLength(1);
  });

  test("that is added again starts with nothing acknowledged, because it may have a new disk", () => {
    const { raft } = leaderRemoving("d");
    commitOn(raft, "b", "c");
    acknowledge(raft, "d");
    const late = appendReply(1, { from: "d", matchIndex: 2, round: roundOf(raft) });
    raft.changeMembers("d", "d:2");
    turn(raft);
    step(raft, late);
    expect(progress(raft, "d").matchIndex).toBe(0);
    acknowledge(raft, "d", 2);
    expect(progress(raft, "d").matchIndex).toBe(2);
  });

  test("that leads continues until its removal is committed, without counting itself", () => {
    const { raft } = leaderRemoving("a");
    expect(propose(raft)).toBe(3);
    turn(raft);
    acknowledge(raft, "b");
    expect([raft.majority, raft.commitIndex]).toEqual([2, 1]);
    expect([raft.isRemoved, raft.role.name]).toEqual([false, "Leader"]);
    acknowledge(raft, "c");
    expect([raft.commitIndex, raft.isRemoved]).toEqual([3, true]);
  });

  test("that leads then hands over, and steps down if the transfer fails", () => {
    const { raft } = leaderRemoving("a");
    commitOn(raft, "b", "c");
    expect([raft.transferTarget, raft.role.name]).toEqual(["b", "Leader"]);
    expect(only("TimeoutNow", acknowledge(raft, "b"))).toMatchObject([{ to: "b" }]);
    commitOn(raft, "c", "d");
    raft.tick(raft.now + T - 1);
    expect(raft.role.name).toBe("Leader");
    commitOn(raft, "c", "d");
    raft.tick(raft.now + 1);
    expect(raft.role.name).toBe("Follower");
    raft.tick(raft.now + 10 * T);
    expect(raft.role.name).toBe("Follower");
  });

  test("that leads is not added again before it has handed over", () => {
    const { raft } = leaderRemoving("a");
    for (const from of ["b", "c"]) {
      raft.receive(appendReply(1, { from, round: roundOf(raft), matchIndex: 2 }), raft.now);
    }
    expect(raft.commitIndex).toBe(2);
    expect(raft.changeMembers("a", "a:1")).toBeUndefined(); // In the same turn.
    expect([raft.isRemoved, raft.transferTarget]).toEqual([true, "b"]);
  });

  test("that leads is not added again by force, even if no other server is heard", () => {
    const { raft } = leaderRemoving("a");
    for (const from of ["b", "c"]) {
      raft.receive(appendReply(1, { from, round: roundOf(raft), matchIndex: 2 }), raft.now);
    }
    raft.now += 2 * T;
    expect(raft.changeMembers("a", "a:1", true)).toBeUndefined();
    expect([raft.isRemoved, raft.transferTarget]).toEqual([true, undefined]);
  });

  test("that is a voter by its own log alone gets no vote from the others", () => {
    const raft = preCandidate({ name: "d", members: FOUR, log: [1] });
    const others = settledLeader();
    const preVote = only("RequestVote", turn(raft))[0] ?? request(raft, 2, { from: "d" });
    expect(only("RequestVoteReply", step(others, { ...preVote, to: "a" }))).toMatchObject([
      { voteGranted: false },
    ]);
  });
});

describe("a cluster", () => {
  test("grows from one server to five and shrinks to two, without any of the first ones", () => {
    const cluster = new Cluster(["a"]);
    cluster.advance(T);
    for (const name of ["b", "c", "d", "e"]) {
      cluster.join(name);
      cluster.change("a", name, `${name}:1`);
      cluster.advance(T);
      cluster.propose("a", `with ${name}`);
    }
    expect(namesIn(cluster.at("a"))).toBe("a b c d e");
    for (const name of ["a", "b", "c"]) {
      const [leading] = cluster.leaders;
      cluster.change(leading?.settings.name ?? "", name);
      cluster.advance(2 * T);
      expect(cluster.at(name).isRemoved).toBe(true);
      cluster.crash(name);
      cluster.advance(4 * T);
    }
    const raft = one(cluster.leaders);
    expect(namesIn(raft)).toBe("d e");
    cluster.propose(raft.settings.name, "still here");
    cluster.advance(T);
    for (const name of ["d", "e"]) {
      expect(
        cluster.applied.get(name)?.filter(({ kind }) => kind === "commands")
          .map(({ data }) => `${data}`),
      ).toEqual(["with b", "with c", "with d", "with e", "still here"]);
    }
  });

  test("brings a new server up to date with a snapshot that contains the members", () => {
    const cluster = new Cluster(THREE);
    cluster.snapshotBytes = 200;
    cluster.elect("a");
    cluster.change("a", "c");
    cluster.join("d");
    cluster.crash("d");
    cluster.change("a", "d", "d:1");
    for (let i = 0; i < 30; i += 1) cluster.propose("a", `command ${i}`);
    cluster.restart("d");
    const seen = new Set<string>();
    cluster.watch = (raft) => raft === cluster.at("d") && seen.add(namesOf(raft.snapshot.members));
    cluster.advance(T);
    expect([...seen].slice(0, 2)).toEqual(["", "a b (d)"]);
    expect(namesIn(cluster.at("d"))).toBe("a b d");
    expect(cluster.applied.get("d")).toEqual(cluster.applied.get("a") ?? []);
  });

  test("loses no entry in the counterexample that Ongaro published in 2015", () => {
    // Two partitioned leaders append one change each, to different majorities of four.
    const cluster = new Cluster(FOUR);
    cluster.elect("a");
    cluster.lost = (m) => m.from === "a" || m.to === "a";
    cluster.change("a", "e", "e:1");
    expect(cluster.elect("b")).toBe(true);
    cluster.lost = (m) => m.from === "b" || m.to === "b" || m.from === "a" || m.to === "a";
    cluster.change("b", "a");
    const index = cluster.at("b").commitIndex;
    expect(namesIn(cluster.at("b"))).toBe("b c d");
    cluster.lost = () => false;
    cluster.advance(20 * T);
    expect(cluster.leaders).toHaveLength(1);
    for (const raft of cluster.up) expect(raft.commitIndex).toBeGreaterThanOrEqual(index);
    const logs = FOUR.map((name) =>
      cluster.applied.get(name)?.map((entry) => JSON.stringify(entry))
    );
    for (const log of logs) {
      expect(logs[0]?.slice(0, log?.length)).toEqual(log?.slice(0, logs[0]?.length));
    }
  });
});

// ------------------------------------- Servers as they are --------------------------------------

const put = (node: Pick<Node, "propose" | "read">, key: string, value = "value") =>
  new KeyValues(node).put(Buffer.from(key), Buffer.from(value));
const get = async (node: Pick<Node, "propose" | "read">, key: string) => {
  const value = await new KeyValues(node).get(Buffer.from(key));
  return value && Buffer.from(value).toString();
};

describe("a new server", () => {
  test("joins through any server, receives the log, is promoted, and serves", () => {
    const world = new World().found();
    const { simulation } = world;
    simulation.settle(put(world.at("a"), "before"));
    const node = world.start("d", THREE, { join: true });
    simulation.run(5000);
    expect(node.status()).toMatchObject({ role: "Follower", term: 0, members: [], founding: 0 });
    for (const via of THREE) world.change("d", "d:1", via);
    world.agree("a b c d");
    expect(simulation.settle(get(node, "before"))).toBe("value");
    expect(node.status()).toMatchObject({ needed: 3, founding: world.at("a").status().founding });
    const named = configuration(FOUR).map(({ disk: _, ...member }) => member);
    expect(world.eventsOf("d", "members").at(-1)).toMatchObject({ members: named });
    for (const name of THREE) expect(world.eventsOf(name, "lostDisk")).toEqual([]);
  });

  test("saves the founding before it acknowledges an entry, and restarts without peers", () => {
    const world = new World().found();
    const { simulation } = world;
    const founding = encode(world.at("a").status().founding);
    let acknowledged = 0;
    simulation.watch = ({ machine, packet }) => {
      if (machine.name !== "d" || !packet) return;
      if (!open(packet.bytes).types.includes("AppendEntriesReply")) return;
      acknowledged += 1;
      expect(machine.disk.durable("data/log")?.includes(founding)).toBe(true);
    };
    world.start("d", ["b"], { join: true });
    world.change("d", "d:1");
    world.agree("a b c d");
    expect(acknowledged).toBeGreaterThan(1);
    simulation.machine("d").powerCut("nothing");
    // The server knows the members by now, so it needs no peers, and founds no cluster.
    world.start("d", [], {});
    world.agree("a b c d");
    world.kill("a");
    world.kill("b");
    const restarted = world.start("a", [], {});
    world.until(() => world.leader() !== undefined);
    simulation.settle(put(restarted, "after"));
    expect(simulation.settle(get(world.at("d"), "after"))).toBe("value");
  });

  test("does not join a cluster of another name, or one that it was not added to", () => {
    const world = new World().found();
    const node = world.start("d", THREE, { join: true, cluster: "another" });
    const promise = world.at("a").changeMembers("d", "d:1");
    world.simulation.settle(promise);
    world.simulation.run(5000);
    expect(node.status()).toMatchObject({ founding: 0, members: [], lastIndex: 0 });
    world.kill("d");
    expect(() => world.start("e", [], { join: true })).toThrow(/without the addresses of some/);
  });

  test("that leads is found by clients at its address in the log", () => {
    const world = new World().found(["a"]);
    const client = world.client();
    world.simulation.settle(put(client, "x"));
    world.start("d", ["a"], { join: true });
    world.change("d", "d:1");
    world.agree("a d");
    world.at("a").transfer("d");
    world.until(() => world.leader() === "d");
    expect(world.simulation.settle(get(client, "x"))).toBe("value");
  });

  test("with a removed server's name and another disk is accepted", () => {
    const world = new World().found();
    world.until(() => world.leader() !== undefined);
    const removedName = THREE.find((name) => name !== world.leader()) ?? "";
    world.change(removedName);
    world.until(() => world.eventsOf(removedName, "removed").length > 0);
    world.kill(removedName);
    world.start(removedName, THREE.filter((name) => name !== removedName), {
      join: true,
      directory: "new",
    });
    world.change(removedName, `${removedName}:1`);
    world.until(() => world.at(removedName).status().members.length === 3);
    world.until(() => world.at(removedName).status().members.every(({ votes }) => votes));
    expect(world.at(removedName).status().lastApplied).toBeGreaterThan(2);
  });
});

describe("the addresses of servers", () => {
  const at = (world: World, name: Name) => `${world.simulation.machine(name).ip}:1`;
  const others = (name: Name) => THREE.filter((other) => other !== name);
  /** Restarts a server at another address, with these peers. */
  function move(world: World, name: Name, ip: string, peers: readonly string[]): void {
    world.kill(name);
    world.simulation.machine(name).ip = ip;
    world.start(name, [], { peers });
  }
  function lead(world: World, name: Name): void {
    const peersOfLeader = () => world.at(world.leader() ?? name).status().peers;
    world.until(() => world.leader() !== undefined);
    world.until(() =>
      peersOfLeader().every(({ heardMs, matchIndex }) => heardMs !== null && matchIndex)
    );
    world.at(world.leader() ?? "").transfer(name);
    world.until(() => world.leader() === name);
  }

  test("that listen on 0.0.0.0 are not in the log, but clients of the others find the leader", () => {
    const world = new World().found(THREE, { host: "0.0.0.0" });
    const leader = world.leader() ?? "";
    const { members } = world.at(leader).status();
    expect(members.find(({ name }) => name === leader)?.address).toBe("");
    for (const other of others(leader)) {
      const client = world.client({ servers: [`${other}=${at(world, other)}`] });
      world.simulation.settle(put(client, other));
      client.close();
    }
  });

  test("are updated when a server moves and leads, before the log has the new address", () => {
    const world = new World();
    for (const name of THREE) world.simulation.machine(name);
    const peersOf = (name: Name) => others(name).map((peer) => `${peer}=${at(world, peer)}`);
    for (const name of THREE) world.start(name, [], { peers: peersOf(name) });
    const old = `c=${at(world, "c")}`;
    move(world, "c", "10.0.9.3", peersOf("c"));
    lead(world, "c");
    const { members } = world.at("a").status();
    const { address } = members.find(({ name }) => name === "c") ?? {};
    expect([old.slice(2), "c:1"]).toContain(address ?? "");
    // Covers the servers' own clients, clients that know another server, and clients with an old
    // address.
    for (const name of ["a", "b"]) world.simulation.settle(put(world.at(name), name));
    for (const servers of [[`a=${at(world, "a")}`], [old, `b=${at(world, "b")}`]]) {
      const client = world.client({ servers });
      world.simulation.settle(put(client, "x"));
      expect(world.simulation.settle(client.inspect("c"))).toMatchObject({ role: "Leader" });
      client.close();
    }
    world.change("c", "10.0.9.3:1");
    const corrected = world.at("c").status().members;
    expect(corrected.find(({ name }) => name === "c")).toMatchObject({
      address: "10.0.9.3:1",
      votes: true,
    });
    expect(world.at("c").status().needed).toBe(2);
  });

  test("may all change together, or be exchanged, and a client needs to know only one", () => {
    // Each server is named after its first address.
    const world = new World();
    const names = THREE.map((name) => at(world, name));
    const machineOf = new Map(THREE.map((name, i) => [names[i] ?? "", name]));
    const startAll = (addressOf: (name: Name) => string) => {
      for (const name of names) {
        const peers = names.filter((other) => other !== name)
          .map((other) => `${other}=${addressOf(other)}`);
        const machine = machineOf.get(name) ?? "";
        world.start(machine, [], { name, peers, host: addressOf(name).split(":")[0] ?? "" });
      }
    };
    startAll((name) => name);
    world.until(() => world.leader() !== undefined);
    const moves: ((i: number) => string)[] = [
      (i) => `10.0.9.${i}`,
      (i) => `10.0.0.${1 + (i + 1) % 3}`,
    ];
    for (const ipOf of moves) {
      for (const name of THREE) world.kill(name);
      THREE.forEach((name, i) => world.simulation.machine(name).ip = ipOf(i));
      startAll((name) => at(world, machineOf.get(name) ?? ""));
      world.until(() => world.leader() !== undefined);
      for (const name of THREE) {
        const client = world.client({ servers: [at(world, name)] });
        world.simulation.settle(put(client, "x", name));
        expect(world.simulation.settle(get(client, "x"))).toBe(name);
        client.close();
      }
    }
  });
});

describe("the event \"members\"", () => {
  test("is emitted when the members change, and not when a snapshot lists them", () => {
    const world = new World().found(THREE, { snapshotBytes: 500 });
    for (let n = 0; n < 100; n += 1) world.simulation.settle(put(world.at("a"), `key ${n % 5}`));
    for (const name of THREE) {
      expect(world.eventsOf(name, "snapshot").length).toBeGreaterThan(2);
      expect(world.eventsOf(name, "members")).toEqual([]);
    }
    world.change("d", "d:1");
    world.until(() => world.eventsOf("a", "members").length > 0);
    expect(world.eventsOf("a", "members")).toHaveLength(1);
  });
});

describe("a server that is removed", () => {
  test("stops with the event \"removed\", and hands over first if it leads", () => {
    for (const isLeader of [false, true]) {
      const world = new World().found([...THREE, "d", "e"]);
      const { simulation } = world;
      const leader = world.leader() ?? "";
      const removedName = isLeader ? leader : leader === "e" ? "d" : "e";
      const node = world.at(removedName);
      const { term } = node.status();
      world.change(removedName);
      simulation.settle(node.stopped);
      world.nodes.delete(removedName);
      expect(world.eventsOf(removedName, "removed")).toHaveLength(1);
      world.until(() => world.leader() !== undefined);
      simulation.settle(put([...world.nodes.values()][0] ?? node, "x"));
      const next = world.at(world.leader() ?? "").status();
      expect([next.term, next.members.length, next.needed]).toEqual([
        term + Number(isLeader),
        4,
        3,
      ]);
      // After a restart it waits to be added again, and disturbs nothing.
      world.start(removedName, [], {});
      simulation.run(20_000);
      expect(world.at(world.leader() ?? "").status().term).toBe(next.term);
      expect(world.at(removedName).status()).toMatchObject({ role: "Follower", votes: null });
      expect(world.eventsOf(removedName, "removed")).toEqual([]);
    }
  });

  test("gives its clients the addresses of the other members before it stops", () => {
    const world = new World().found();
    const [removedName = "", client] = [
      world.leader(),
      world.client({ servers: [`${world.leader()}:1`] }),
    ];
    const { stopped } = world.at(removedName);
    world.simulation.settle(put(client, "x"));
    world.change(removedName);
    world.until(() => world.eventsOf(removedName, "removed").length > 0);
    expect(world.simulation.settle(get(client, "x"))).toBe("value");
    world.simulation.settle(stopped);
    expect(world.eventsOf(removedName, "removed")).toHaveLength(1);
    world.simulation.settle(put(client, "x", "next"));
    expect(world.simulation.settle(get(client, "x"))).toBe("next");
  });

  test("while it is down learns of its removal when it restarts, and deposes no leader", () => {
    const world = new World().found();
    const leader = world.leader() ?? "";
    const removedName = THREE.find((name) => name !== leader) ?? "";
    world.kill(removedName);
    world.simulation.run(500);
    world.change(removedName);
    world.simulation.run(30_000); // The leader no longer sends to it.
    const { term } = world.at(leader).status();
    const { stopped } = world.start(removedName, THREE.filter((name) => name !== removedName));
    world.simulation.settle(stopped);
    expect(world.eventsOf(removedName, "removed")).toHaveLength(1);
    expect(world.at(leader).status()).toMatchObject({ role: "Leader", term });
  });
});

describe("a transfer request", () => {
  const others = (leader: Name) => THREE.filter((name) => name !== leader);
  const servers = THREE.map((name) => `${name}:1`);

  test("is answered by the new leader: the target, or the follower with most of the log", () => {
    const world = new World().found();
    const [client, leader = ""] = [world.client(), world.leader()];
    const [target = ""] = others(leader);
    expect(world.simulation.settle(client.transfer(leader, target))).toBe(target);
    expect(world.leader()).toBe(target);
    const next = world.simulation.settle(client.transfer(target));
    expect([others(target).includes(next), world.leader()]).toEqual([true, next]);
  });

  test("that is repeated because its answer was lost causes no second transfer", () => {
    const world = new World().found();
    const [client, leader = ""] = [world.client(), world.leader()];
    const answer = client.transfer(leader);
    world.until(() => world.leader() !== leader && world.leader() !== undefined);
    const next = world.leader();
    const { term } = world.at(next ?? "").status();
    const { ip } = world.simulation.machine("client");
    world.simulation.route = ({ to }) => to.host === ip ? [] : [{ afterMs: 1 }];
    world.simulation.run(1000);
    world.simulation.route = () => [{ afterMs: 1 }];
    expect(world.simulation.settle(answer)).toBe(next as Name);
    expect(world.at(next ?? "").status()).toMatchObject({ role: "Leader", term });
  });

  test("makes one attempt, however often it is repeated, and reports its failure", () => {
    const world = new World().found();
    const { simulation } = world;
    const [client, leader = ""] = [world.client({ servers }), world.leader()];
    const [target = ""] = others(leader);
    simulation.run(500);
    world.kill(target);
    // What the client sends in the last 200 ms of the attempt arrives after its end.
    const { ip } = simulation.machine("client");
    const startedAt = simulation.now;
    simulation.route = ({ from }) =>
      from.host === ip && simulation.now > startedAt + 800
        ? [{ afterMs: 1 }, { afterMs: 400 }].slice(simulation.now > startedAt + 900 ? 0 : 1)
        : [{ afterMs: 1 }];
    const { message, code } = world.failure(client.transfer(leader, target));
    expect([code, message]).toEqual([
      "outcomeUnknown",
      `${leader} still leads: ${target} did not take over in time, but still may. `
      + "See which server leads before you repeat it.",
    ]);
    const failedAt = simulation.now;
    expect(failedAt - startedAt).toBeLessThan(1400);
    for (let i = 0; i < 20; i += 1) {
      simulation.settle(put(world.at(leader), `${i}`));
      simulation.run(20);
    }
    expect(simulation.now - failedAt).toBeLessThan(600);
    expect(world.at(leader).status().role).toBe("Leader");
  });

  test("is refused while another transfer is in progress", () => {
    const world = new World().found();
    const { simulation } = world;
    const [first, leader = ""] = [world.client({ servers }), world.leader()];
    const [target = "", other = ""] = others(leader);
    simulation.run(500);
    world.kill(target);
    const failed = first.transfer(leader, target).catch((error: RaftError) => error.message);
    simulation.run(100);
    const second = simulation.settle(
      Client.connect({
        servers: ["a:1", "b:1", "c:1"],
        secret: SECRET,
        world: simulation.machine("another").boot(),
      }),
    );
    expect(world.failure(second.transfer(leader, other)).message).toContain("it is handing over");
    expect(simulation.settle(failed)).toContain(`${target} did not take over in time`);
    expect(simulation.settle(second.transfer(leader, other))).toBe(other);
  });

  test("to a server silent for an election timeout is refused, and delays no command", () => {
    const world = new World().found();
    const { simulation } = world;
    const [client, leader = ""] = [world.client({ servers }), world.leader()];
    const [target = "", other = ""] = others(leader);
    world.kill(target);
    simulation.run(1500);
    const startedAt = simulation.now;
    const { code, message } = world.failure(client.transfer(leader, target));
    expect([code, message]).toEqual([
      "refused",
      `The server refuses: ${target} was not heard for 1000 ms.`,
    ]);
    simulation.settle(put(world.at(leader), "x"));
    expect(simulation.now - startedAt).toBeLessThan(100);
    expect(simulation.settle(client.transfer(leader))).toBe(other);
  });

  test("is refused if the target has no vote, or if another server leads", () => {
    const world = new World().found();
    const [client, leader = ""] = [world.client(), world.leader()];
    const [target = "", other = ""] = others(leader);
    const refusal = (promise: Promise<unknown>) => world.failure(promise).message;
    expect(refusal(client.transfer(leader, "ghost"))).toContain("ghost has no vote here");
    expect(refusal(client.transfer(target, other))).toContain(`${leader} leads already`);
    expect(world.leader()).toBe(leader);
    const withKey = world.client({ clientKey: clientKey(SECRET, "raft", "alice") });
    expect(world.failure(withKey.transfer(leader))).toMatchObject({ code: "usage" });
  });
});

describe("a request to change the members", () => {
  test("needs the secret: the client key is not enough", () => {
    const world = new World().found(["a"]);
    const withKey = world.client({ clientKey: clientKey(SECRET, "raft", "alice") });
    expect(world.failure(withKey.changeMembers("d", "d:1"))).toMatchObject({
      code: "usage",
      message: expect.stringMatching(
        /^A client key cannot change members or leader/,
      ),
    });
    world.simulation.settle(put(withKey, "x"));
    world.simulation.settle(world.client().changeMembers("d", "d:1"));
    expect(namesOf(world.at("a").status().members)).toBe("a (d)");
  });

  test("is malformed if a client sends it, and carried out if an operator does", () => {
    const world = new World().found(["a"]);
    const { simulation } = world;
    const to = { host: simulation.machine("a").ip, port: 1 };
    const ask = (role: Role) => {
      new Impostor(simulation, to, { role }).connect().send(
        message("ChangeMembers", 1, "d", "d:1", false),
      );
      simulation.run(100);
      const { dropped, members } = world.at("a").status();
      return [dropped, namesOf(members)];
    };
    expect(ask("client")).toEqual([{ malformed: 1 }, "a"]);
    expect(ask("operator")).toEqual([{ malformed: 1 }, "a (d)"]);
  });

  test("that is refused states the reason, and changes nothing", () => {
    const world = new World().found();
    const leader = world.leader() ?? "";
    const [first = "", second = ""] = THREE.filter((name) => name !== leader);
    world.kill(first);
    world.simulation.run(500);
    world.simulation.run(1000);
    const refused = world.failure(world.at(leader).changeMembers(second));
    expect(refused).toMatchObject({
      code: "refused",
      message: "The server refuses: no working majority would be left: "
        + `of 2 voters, ${first} did not answer.`,
    });
    for (const [name, address] of [["", "d:1"], ["d", "d"], ["d=", "d:1"], ["d", "d:70000"]]) {
      const { code, message } = world.failure(world.at(leader).changeMembers(name ?? "", address));
      const why = `"${name}=${address}" is not NAME=HOST:PORT`;
      expect([code, message]).toEqual(["refused", `The server refuses: ${why}.`]);
    }
    expect(world.at(leader).status().lastIndex).toBe(1);
    world.change(first);
    expect(namesOf(world.at(leader).status().members)).toBe(
      THREE.filter((name) => name !== first).join(" "),
    );
  });

  test("is refused for a name or host that no other server would read from the log", () => {
    const world = new World().found();
    const leader = world.at(world.leader() ?? "");
    const long = "x".repeat(70_000);
    for (const [name, host] of [["\ud800", "d"], ["d", "\ud800"], ["d", long], [long, "d"]]) {
      expect(world.failure(leader.changeMembers(name ?? "", `${host}:1`))).toMatchObject({
        code: "refused",
        message: expect.stringContaining("The server refuses: "),
      });
    }
    world.simulation.settle(put(leader, "x"));
    world.agree("a b c");
  });

  test("is carried out once, even if it is repeated and sent through every server", () => {
    const world = new World().found();
    const { simulation } = world;
    simulation.route = () =>
      simulation.random() < 0.3 ? [] : [{ afterMs: 1 }, { afterMs: 20 * simulation.random() }];
    world.start("d", THREE, { join: true });
    for (let i = 0; i < 3; i += 1) {
      for (const via of THREE) world.change("d", "d:1", via);
    }
    world.agree("a b c d");
    world.change("d");
    for (const via of THREE) world.change("d", "", via);
    world.until(() => world.eventsOf("d", "removed").length > 0);
    simulation.run(2000);
    const lists = world.eventsOf("a", "members").map((event) =>
      event.type === "members" ? namesOf(event.members) : ""
    );
    expect(lists).toEqual(["a b c (d)", "a b c d", "a b c"]);
  });

  test("is answered even if it has to wait for another change", () => {
    const world = new World().found();
    for (const name of ["d", "e"]) world.start(name, THREE, { join: true });
    const leader = world.at(world.leader() ?? "");
    const changes = ["d", "e"].map((name) => leader.changeMembers(name, `${name}:1`));
    world.simulation.settle(Promise.all(changes));
    world.until(() => leader.status().members.every(({ votes }) => votes));
    expect(leader.status()).toMatchObject({ needed: 3, peers: { length: 4 } });
  });
});

describe("a server that has lost its disk", () => {
  /** Kills a server, and starts it again with the same options and an empty directory. */
  function restartWithEmptyDisk(world: World, name: Name): void {
    world.kill(name);
    world.simulation.machine(name).disk.wipe();
    world.start(name, THREE.filter((other) => other !== name));
  }

  const followerName = (world: World) => THREE.find((name) => name !== world.leader()) ?? "";

  test("returns as a learner, is promoted again, and has all its data", () => {
    for (const isLeader of [false, true]) {
      const world = new World().found();
      const { simulation } = world;
      simulation.settle(put(world.at("a"), "before"));
      const lost = isLeader ? world.leader() ?? "" : followerName(world);
      const { disk } = world.at(lost).status();
      restartWithEmptyDisk(world, lost);
      expect(world.at(lost).status().disk).not.toBe(disk);
      world.until(() => world.leader() !== undefined && world.leader() !== lost);
      world.until(() => world.eventsOf(lost, "members").length > 1);
      expect(
        world.eventsOf(lost, "members").map((event) =>
          event.type === "members" ? namesOf(event.members) : ""
        ),
      ).toEqual([THREE.map((name) => name === lost ? `(${name})` : name).join(" "), "a b c"]);
      const leader = world.leader() ?? "";
      expect(world.eventsOf(leader, "lostDisk")).toMatchObject([{ server: lost }]);
      expect(simulation.settle(get(world.at(lost), "before"))).toBe("value");
      // It is a voter again, so another server may fail.
      world.kill(THREE.find((name) => name !== lost && name !== leader) ?? "");
      simulation.settle(put(world.at(lost), "after"));
    }
  });

  test("elects no leader with a server that restarted meanwhile (catalogue 42)", () => {
    const world = new World().found();
    const { simulation } = world;
    simulation.settle(put(world.at("a"), "x"));
    // Only the leader and the server that loses its disk have the last entries.
    const leader = world.leader() ?? "";
    const [lost = "", late = ""] = THREE.filter((name) => name !== leader);
    for (let n = 0; n < 20; n += 1) simulation.settle(put(world.at(leader), `key ${n}`));
    world.kill(leader);
    world.kill(late);
    restartWithEmptyDisk(world, lost);
    world.start(late, THREE.filter((name) => name !== late));
    simulation.run(20_000);
    for (const name of [late, lost]) expect(world.eventsOf(name, "campaign")).toEqual([]);
    world.start(leader, THREE.filter((name) => name !== leader));
    const hasLost = (name: Name) => world.eventsOf(name, "lostDisk").length > 0;
    world.until(() => [leader, late].some(hasLost));
    expect(simulation.settle(get(world.at(lost), "key 19"))).toBe("value");
  });

  test("joins under its old name after its removal, even if another server missed the removal", () => {
    const names = [...FOUR, "e"];
    const world = new World().found(names);
    const leader = world.leader() ?? "";
    const [lost = "", absent = ""] = names.filter((name) => name !== leader);
    world.kill(absent);
    world.change(lost);
    world.until(() => world.eventsOf(lost, "removed").length > 0);
    world.kill(lost);
    world.simulation.machine(lost).disk.wipe();
    world.start(absent, []);
    world.start(lost, [leader], { join: true });
    world.change(lost, `${lost}:1`);
    const isLostVoter = ({ name, votes }: Member) => name === lost && votes;
    world.until(() =>
      [...world.nodes.values()].every((node) => node.status().members.some(isLostVoter))
    );
  });
});

describe("all servers of a cluster", () => {
  test("are replaced under load, and no write is lost", () => {
    const world = new World().found(THREE, { snapshotBytes: 2000 });
    const { simulation } = world;
    const client = world.client({
      servers: THREE.map((name) => `${name}=${name}:1`),
      timeoutMs: 30_000,
    });
    const written: string[] = [];
    const work = async () => {
      for (let i = 0; written.length < 1000; i += 1) {
        await put(client, `${i}`, "x".repeat(30));
        written.push(`${i}`);
      }
    };
    void work();
    for (const [i, removedName] of THREE.entries()) {
      const name = `n${i}`;
      world.start(name, ["a", "b", "c", "n0", "n1"].filter((peer) => world.nodes.has(peer)), {
        join: true,
        snapshotBytes: 2000,
      });
      world.change(name, `${name}:1`);
      world.until(() => world.at(name).status().members.some((m) => m.name === name && m.votes));
      world.until(() => world.leader() !== undefined);
      const { stopped } = world.at(removedName);
      world.change(removedName);
      simulation.settle(stopped);
      world.nodes.delete(removedName);
      world.until(() => world.leader() !== undefined);
    }
    world.until(() => written.length === 1000);
    world.agree("n0 n1 n2");
    const stored = written.map((key) => simulation.settle(get(world.at("n1"), key)));
    expect(new Set(stored)).toEqual(new Set(["x".repeat(30)]));
    expect(world.eventsOf("n2", "snapshot").length).toBeGreaterThan(0);
  });
});
