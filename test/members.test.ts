/**
 * Servers that come and go (thesis §4): one test for each rule, first of the algorithm alone, then
 * of servers as they are, on a network and on disks that a test holds in its hands.
 */
import { describe, expect, test } from "bun:test";
import { type Configuration, type Name, type Raft } from "../raft.ts";
import { acknowledge, appendEntries, appendReply, candidate, Cluster, configuration, entries, flush,
  follower, heartbeat, leader, membersEntry, one, only, preCandidate, progress, propose, removed,
  request, requestVote, roundOf, server, settledLeader, snapshotOf, step, T, THREE, timeOut,
  timeoutNow, to, turn, voteReply, wait } from "./core.ts";

const FOUR = [...THREE, "d"];
const namesOf = (members: Configuration) =>
  members.map(({ name, votes }) => votes ? name : `(${name})`).join(" ");
const namesIn = (raft: Raft) => namesOf(raft.members);

/** The entry at `index`, as a request brings it to a follower of term 1 that has all before it. */
const append = (raft: Raft, members: Configuration, leaderCommit = 0) =>
  step(raft,
    appendEntries(raft.currentTerm, { prevLogIndex: raft.log.lastIndex,
      prevLogTerm: raft.log.lastTerm, leaderCommit,
      entries: [membersEntry(raft.log.lastIndex + 1, raft.currentTerm, members)] }));

/** A leader of `names` to which `d` was just added, without a vote. Nobody has answered. */
function adding(names = THREE): Raft {
  const raft = settledLeader({ members: names });
  expect(raft.changeMembers("d", "d:1")).toBe(raft.log.lastIndex);
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

  test("is gone when its entry is truncated away, and the one before it is in force again", () => {
    const raft = follower();
    append(raft, configuration(FOUR));
    append(raft, configuration(["a", "b"]));
    expect(namesIn(raft)).toBe("a b");
    step(raft,
      appendEntries(2, { from: "c", prevLogIndex: 1, prevLogTerm: 1, entries: entries([2], 1) }));
    expect(namesIn(raft)).toBe("a b c d");
    step(raft, appendEntries(3, { prevLogIndex: 0, entries: entries([3]) }));
    expect(namesIn(raft)).toBe("a b c");
  });

  test("is a part of the snapshot, as of its index, not of the end of the log", () => {
    const raft = follower();
    append(raft, configuration(["a", "b"]));
    append(raft, configuration(["a"]), 1);
    expect(namesOf(raft.membersAt(0))).toBe("a b c");
    expect(namesOf(raft.membersAt(1))).toBe("a b");
    raft.onSnapshot(snapshotOf(raft, 1), 0);
    expect([namesOf(raft.snapshot.members), namesOf(raft.membersAt(1)), namesIn(raft)])
      .toEqual(["a b", "a b", "a"]);
    step(raft,
      appendEntries(2, { from: "c", prevLogIndex: 1, prevLogTerm: 1, entries: entries([2], 1) }));
    expect(namesIn(raft)).toBe("a b");
  });

  test("that comes with a snapshot takes the place of all before", () => {
    const raft = follower();
    append(raft, configuration(["a"]));
    raft.onSnapshot({ index: 9, term: 1, size: 10, members: configuration(FOUR) }, 0);
    expect(namesIn(raft)).toBe("a b c d");
  });

  test("decides what is counted, never what is heard (thesis §4.1)", () => {
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
  test("of a configuration that is not committed yet is one of the new, not of the old", () => {
    const raft = settledLeader({ members: FOUR });
    raft.changeMembers("d", "");
    const index = raft.log.lastIndex;
    turn(raft);
    acknowledge(raft, "d");
    expect(raft.commitIndex).toBe(index - 1);
    acknowledge(raft, "c");
    expect(raft.commitIndex).toBe(index);
  });

  test("of entries counts no learner (catalogue 38)", () => {
    const raft = adding();
    acknowledge(raft, "d");
    expect(raft.commitIndex).toBe(1);
    acknowledge(raft, "b");
    expect(raft.commitIndex).toBe(2);
  });

  test("of votes counts no learner, and learners are not asked (catalogue 38)", () => {
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

  test("of confirmations, for a read or for CheckQuorum, counts no learner (catalogue 38)", () => {
    const raft = adding();
    commitOn(raft, "b");
    flush(raft);
    raft.read();
    turn(raft);
    raft.receive(appendReply(1, { from: "d", matchIndex: 0, success: false, round: roundOf(raft) }),
      raft.now);
    expect(flush(raft).reads).toEqual([]);
    raft.receive(appendReply(1, { from: "c", matchIndex: 1, round: roundOf(raft) }), raft.now);
    expect(flush(raft).reads).toHaveLength(1);
    raft.now += 2 * T;
    raft.receive(appendReply(1, { from: "d", matchIndex: 0, success: false, round: roundOf(raft) }),
      raft.now);
    wait(raft, 1);
    expect(raft.role.name).toBe("Follower");
  });
});

describe("a learner", () => {
  test("neither campaigns nor takes leadership over, and yet votes for who asks", () => {
    const raft = server({ name: "d", members: [] });
    append(raft, configuration(THREE, ["d"]));
    raft.tick(raft.now + 10 * T);
    expect(turn(raft)).toEqual([]);
    expect([raft.role.name, raft.currentTerm]).toEqual(["Follower", 0]);
    step(raft, heartbeat(raft));
    expect(step(raft, timeoutNow(raft.currentTerm))).toEqual([]);
    raft.tick(raft.now + 2 * T);
    expect(only("RequestVoteReply", step(raft, request(raft, 9)))).toMatchObject([
      { voteGranted: true },
    ]);
  });

  test("gets a vote by itself when it has almost all of the log, and not before", () => {
    const raft = settledLeader({ windowBytes: 200, batchBytes: 100 });
    for (let i = 0; i < 20; i += 1) propose(raft, `command ${i}`);
    commitOn(raft, "b", "c");
    raft.changeMembers("d", "d:1");
    turn(raft);
    commitOn(raft, "b", "c");
    const last = raft.log.lastIndex;
    for (let matchIndex = 1; raft.log.bytes(matchIndex + 1, last) > 200; matchIndex += 1) {
      acknowledge(raft, "d", matchIndex);
      expect(namesIn(raft)).toBe("a b c (d)");
    }
    acknowledge(raft, "d", last);
    expect([namesIn(raft), raft.log.lastIndex]).toEqual(["a b c d", last + 1]);
    acknowledge(raft, "d");
    acknowledge(raft, "b");
    expect(raft.commitIndex).toBe(last + 1);
  });

  test("waits for its vote as long as another change is under way", () => {
    const raft = adding();
    acknowledge(raft, "d");
    expect(namesIn(raft)).toBe("a b c (d)");
    commitOn(raft, "b");
    expect(namesIn(raft)).toBe("a b c (d)");
    acknowledge(raft, "d");
    expect(namesIn(raft)).toBe("a b c d");
  });

  test("whose entries only a snapshot has gets no vote for what it has of the log", () => {
    const raft = adding();
    commitOn(raft, "b", "c");
    flush(raft);
    raft.onSnapshot(snapshotOf(raft, raft.lastApplied), 0);
    acknowledge(raft, "d", 0);
    expect(namesIn(raft)).toBe("a b c (d)");
  });

  test("is no heir", () => {
    const raft = adding();
    expect(raft.transfer("d")).toBe(false);
    expect(raft.transfer()).toBe(true);
    expect(raft.heir).not.toBe("d");
  });
});

describe("a change", () => {
  test("waits for the one before it to be committed (catalogue 36)", () => {
    const raft = adding();
    expect(raft.changeMembers("c", "")).toBeUndefined();
    expect(raft.changeMembers("e", "e:1")).toBeUndefined();
    commitOn(raft, "b");
    expect(raft.changeMembers("c", "")).toBe(3);
  });

  test("waits for an entry of the leader's own term to be committed (catalogue 37)", () => {
    const raft = leader({ log: [1, 1] });
    expect(raft.changeMembers("d", "d:1")).toBeUndefined();
    commitOn(raft, "b");
    expect(raft.changeMembers("d", "d:1")).toBe(4);
  });

  test("is the leader's alone, and not while it hands over", () => {
    expect(follower().changeMembers("d", "d:1")).toBeUndefined();
    expect(candidate().changeMembers("d", "d:1")).toBeUndefined();
    const raft = settledLeader();
    raft.transfer("b");
    expect(raft.changeMembers("d", "d:1")).toBeUndefined();
  });

  test("that is asked for twice is made once", () => {
    const raft = adding();
    expect(raft.changeMembers("d", "d:1")).toBe(2);
    commitOn(raft, "b");
    expect(raft.changeMembers("d", "d:1")).toBe(2);
    expect(raft.changeMembers("x", "")).toBe(2);
    expect(raft.log.lastIndex).toBe(2);
    raft.changeMembers("d", "");
    expect(raft.changeMembers("d", "")).toBe(3);
    expect(raft.log.lastIndex).toBe(3);
  });

  test("that would give a name to two servers is refused", () => {
    expect(settledLeader().changeMembers("c", "elsewhere:1")).toBe("c is a member already, at c:1");
  });

  test("that would leave nobody who votes is refused, forced or not", () => {
    const raft = settledLeader({ members: ["a"] });
    for (const force of [false, true]) {
      expect(raft.changeMembers("a", "", force)).toBe("nobody would be left who has a vote");
    }
  });

  test("that would leave no majority that is heard is refused with the reason, or forced", () => {
    const raft = settledLeader();
    raft.now += T - 1;
    acknowledge(raft, "b");
    raft.now += 1;
    expect(raft.changeMembers("b", "")).toBe("of the 2 left who have a vote, c cannot be heard, " +
      "and the rest is no majority");
    expect(raft.changeMembers("c", "")).toBe(2);
    expect(namesIn(raft)).toBe("a b");
    const forced = settledLeader();
    forced.now += T;
    acknowledge(forced, "b");
    expect(forced.changeMembers("b", "", true)).toBe(2);
  });
});

describe("a removed server", () => {
  const removing = (name: Name) => {
    const raft = settledLeader({ members: FOUR });
    expect(raft.changeMembers(name, "")).toBe(2);
    return { raft, sent: turn(raft) };
  };

  test("is sent the entry that removes it, and told when it has it and that is committed", () => {
    const { raft, sent } = removing("d");
    expect(one(only("AppendEntries", to("d", sent))).entries).toHaveLength(1);
    commitOn(raft, "b", "c");
    expect(only("Removed", acknowledge(raft, "d", 1))).toEqual([]);
    expect(only("Removed", acknowledge(raft, "d"))).toMatchObject([{ to: "d", term: 1 }]);
    expect(only("Removed", acknowledge(removing("d").raft, "d"))).toEqual([]); // Not committed.
  });

  test("is not sent anything any more when it was silent for ten election timeouts", () => {
    const { raft } = removing("d");
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

  test("is done when its leader says so, in its term, and its log does", () => {
    const raft = follower({ name: "d", members: FOUR });
    step(raft, removed(1, { to: "d" }));
    expect(raft.isRemoved).toBe(false); // An old one, from before it was added again.
    append(raft, configuration(THREE));
    step(raft, removed(1, { from: "c", to: "d" }));
    expect(raft.isRemoved).toBe(false);
    step(raft, removed(1, { to: "d" }));
    expect(raft.isRemoved).toBe(true);
  });

  test("does not campaign any more (catalogue 39)", () => {
    const raft = follower({ name: "d", members: FOUR });
    append(raft, configuration(THREE));
    raft.tick(raft.now + 10 * T);
    expect([turn(raft), raft.role.name]).toEqual([[], "Follower"]);
  });

  test("that has missed it gets no vote, and the log of the leader that it asks", () => {
    const { raft } = removing("d");
    commitOn(raft, "b", "c");
    for (let i = 0; i < 10; i += 1) {
      raft.now += T;
      commitOn(raft, "b", "c");
    }
    const sent = step(raft,
      requestVote(2, { from: "d", preVote: true, lastLogIndex: 1, lastLogTerm: 1 }));
    expect(only("RequestVoteReply", sent)).toMatchObject([{ to: "d", voteGranted: false }]);
    expect([raft.role.name, raft.currentTerm]).toEqual(["Leader", 1]);
    expect(only("AppendEntries", to("d", [...sent, ...wait(raft, T / 10)]))).not.toEqual([]);
    expect(only("Removed", acknowledge(raft, "d"))).toHaveLength(1);
  });

  test("that is added again may be another: what was known of it does not count", () => {
    const { raft } = removing("d");
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

  test("that leads goes on until that is committed, without counting itself", () => {
    const { raft } = removing("a");
    expect(propose(raft)).toBe(3);
    turn(raft);
    acknowledge(raft, "b");
    expect([raft.majority, raft.commitIndex]).toEqual([2, 1]);
    expect([raft.isRemoved, raft.role.name]).toEqual([false, "Leader"]);
    acknowledge(raft, "c");
    expect([raft.commitIndex, raft.isRemoved]).toEqual([3, true]);
  });

  test("that leads then hands over, and if nobody takes over, steps down", () => {
    const { raft } = removing("a");
    commitOn(raft, "b", "c");
    expect([raft.heir, raft.role.name]).toEqual(["b", "Leader"]);
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

  test("that has a vote by its own log only does not win with it", () => {
    const raft = preCandidate({ name: "d", members: FOUR, log: [1] });
    const others = settledLeader();
    const asked = only("RequestVote", turn(raft))[0] ?? request(raft, 2, { from: "d" });
    expect(only("RequestVoteReply", step(others, { ...asked, to: "a" }))).toMatchObject([
      { voteGranted: false },
    ]);
  });
});

describe("a cluster", () => {
  test("grows from one server to five and shrinks to one, and every one of the first is gone", () => {
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
      expect(cluster.applied.get(name)?.filter(({ kind }) => kind === "command")
        .map(({ data }) => `${data}`)).toEqual(["with b", "with c", "with d", "with e",
          "still here"]);
    }
  });

  test("brings up a new server with a snapshot, which has the members", () => {
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

  test("loses nothing in the case of which Ongaro warned in 2015", () => {
    // Two leaders, each cut off, append one change each, to different majorities of four.
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
    const logs = FOUR.map((name) => cluster.applied.get(name)?.map(({ record }) => `${record}`));
    for (const log of logs) {
      expect(logs[0]?.slice(0, log?.length)).toEqual(log?.slice(0, logs[0]?.length));
    }
  });
});
