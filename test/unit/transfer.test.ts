/** Tests that a leader hands over its leadership without an election timeout (thesis §3.10). */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  acknowledge,
  Cluster,
  FIVE,
  follower,
  HEARTBEAT,
  leader,
  one,
  only,
  propose,
  receiversOf,
  request,
  settledLeader,
  step,
  T,
  timeoutNow,
  turn,
  wait,
} from "../support/core.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("Leadership transfer (thesis §3.10)", () => {
  test("without a name, the target is the first follower that answers and has the whole log", () => {
    const raft = settledLeader();
    const index = propose(raft);
    turn(raft);
    acknowledge(raft, "c", index);
    propose(raft);
    expect(raft.transfer()).toBeUndefined();
    turn(raft);
    expect(only("TimeoutNow", acknowledge(raft, "b", index))).toEqual([]);
    expect(only("TimeoutNow", acknowledge(raft, "c"))).toMatchObject([{ to: "c", term: 1 }]);
    expect(raft.transferTarget).toBe("c");
    expect(only("TimeoutNow", acknowledge(raft, "b"))).toEqual([]);
  });

  test("a follower that has just died is not chosen, even if it has the whole log", () => {
    for (const alive of ["b", "c"]) {
      const raft = settledLeader();
      expect(raft.transfer()).toBeUndefined();
      expect(receiversOf(turn(raft))).toEqual(["b", "c"]);
      expect(only("TimeoutNow", acknowledge(raft, alive))).toMatchObject([{ to: alive }]);
    }
  });

  test("a follower that was silent for an election timeout is refused", () => {
    const raft = settledLeader();
    for (let waited = 0; waited < T; waited += HEARTBEAT) {
      wait(raft, HEARTBEAT);
      acknowledge(raft, "c");
    }
    expect(raft.transfer("b")).toEqual({ refused: `b was not heard for ${T} ms` });
    expect(raft.propose("commands", Buffer.from("command"))).toBe(2);
    expect([raft.transfer("c"), raft.transferTarget]).toEqual([undefined, "c"]);
    const young = leader();
    expect(young.transfer("b")).toEqual({ refused: `b was not heard for ${T} ms` });
    expect(young.transfer()).toEqual({ refused: `every other server was not heard for ${T} ms` });
  });

  test("TimeoutNow follows the target's reply to a heartbeat that is sent immediately", () => {
    const raft = settledLeader();
    raft.transfer("b");
    expect(receiversOf(turn(raft))).toEqual(["b"]);
    expect(only("TimeoutNow", acknowledge(raft, "c"))).toEqual([]);
    expect(only("TimeoutNow", acknowledge(raft, "b")).length).toBe(1);
  });

  test("the target campaigns without a pre-vote, and others vote although they hear a leader", () => {
    const raft = follower({ term: 1, log: [1] });
    const [toB, toC] = only("RequestVote", step(raft, timeoutNow(1)));
    expect(raft).toMatchObject({ currentTerm: 2, role: { name: "Candidate" } });
    expect([toB, toC]).toMatchObject([{ preVote: false, transfer: true }, { transfer: true }]);
    const other = follower();
    const fromC = request(other, 2, { from: "c" });
    expect(one(step(other, fromC))).toMatchObject({ voteGranted: false, term: 1 });
    expect(one(step(other, { ...fromC, transfer: true }))).toMatchObject({ voteGranted: true });
  });

  test("the leader votes for the target if the target's log is up to date", () => {
    const raft = settledLeader();
    raft.transfer("b");
    step(raft, request(raft, 2, { transfer: true }));
    expect(raft).toMatchObject({ currentTerm: 2, votedFor: "b", role: { name: "Follower" } });
    const ahead = settledLeader();
    const shortLog = request(ahead, 2, { transfer: true, lastLogIndex: 0, lastLogTerm: 0 });
    expect(only("RequestVoteReply", step(ahead, shortLog))).toMatchObject([{ voteGranted: false }]);
  });

  test("TimeoutNow counts once, in its own term, and only from the leader", () => {
    const raft = follower({ term: 1, log: [1] });
    step(raft, timeoutNow(1, { from: "c" }));
    expect(raft.role.name).toBe("Follower");
    step(raft, timeoutNow(1));
    step(raft, timeoutNow(1));
    expect(raft).toMatchObject({ currentTerm: 2, role: { name: "Candidate" } });
  });

  test("a leader accepts no command during a transfer, and accepts them if it fails", () => {
    const raft = settledLeader();
    raft.transfer("b");
    expect(raft.propose("commands", Buffer.from("late"))).toBeUndefined();
    for (let waited = 0; waited < T; waited += HEARTBEAT) {
      wait(raft, HEARTBEAT);
      acknowledge(raft, "c");
    }
    expect(raft.transferTarget).toBeUndefined();
    expect(raft.role.name).toBe("Leader");
    propose(raft);
  });

  test("only a leader hands over, and only to a voter", () => {
    expect(follower().transfer()).toEqual({ refused: "it does not lead" });
    expect(settledLeader().transfer("a stranger")).toEqual({
      refused: "a stranger has no vote here",
    });
    expect(settledLeader().transfer("a")).toEqual({ refused: "a has no vote here" });
    const alone = new Cluster(["a"]);
    alone.advance(1);
    expect(alone.at("a").transfer()).toEqual({ refused: "every other server has no vote here" });
  });

  test("a cluster changes its leader without waiting for an election timeout", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    const { now } = cluster;
    for (const target of ["c", "a", "e"]) {
      const [leader] = cluster.leaders;
      leader?.transfer(target);
      if (leader) cluster.flush(leader);
      cluster.settle();
      expect(cluster.leaders.map((raft) => raft.settings.name)).toEqual([target]);
    }
    expect(cluster.now).toBe(now);
  });
});
