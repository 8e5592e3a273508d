/**
 * Tests that reads are linearizable by ReadIndex: one round of heartbeats and no log entry (thesis
 * §6.4).
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Name, Raft } from "../../raft.ts";
import {
  appendEntries,
  appendReply,
  FIVE,
  flush,
  follower,
  grantPreVotes,
  grantVotes,
  HEARTBEAT,
  installSnapshot,
  propose,
  receiversOf,
  roundOf,
  settledLeader,
  step,
  timeOut,
  turn,
  wait,
} from "../support/core.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("ReadIndex (thesis §6.4)", () => {
  const startRead = (raft: Raft) => {
    if (!raft.read()) throw new Error("only a leader reads");
  };
  /** Confirms a round, and returns how many reads are answered. */
  const confirm = (raft: Raft, round: number, rest: { from?: Name; success?: boolean } = {}) => {
    const { lastIndex } = raft.log;
    const how = rest.success === false ? { hintIndex: lastIndex } : { matchIndex: lastIndex };
    raft.receive(appendReply(raft.currentTerm, { round, ...how, ...rest }), raft.now);
    return flush(raft).reads;
  };

  test("an acknowledgement of an earlier round does not confirm a read", () => {
    const raft = settledLeader();
    // This round left before the read, so it does not prove that the leader led when the read came.
    wait(raft, HEARTBEAT);
    const earlier = roundOf(raft);
    startRead(raft);
    turn(raft);
    expect(confirm(raft, earlier)).toBe(0);
    expect(confirm(raft, earlier, { from: "c" })).toBe(0);
    expect(confirm(raft, earlier + 1)).toBe(1);
  });

  test("a round stays valid while a later one is in flight", () => {
    const raft = settledLeader();
    startRead(raft);
    turn(raft);
    const round = roundOf(raft);
    wait(raft, HEARTBEAT);
    expect(roundOf(raft)).toBeGreaterThan(round);
    expect(confirm(raft, round)).toBe(1);
  });

  test("a request of an earlier term confirms nothing, even if it is answered in this term", () => {
    const raft = settledLeader({ log: [1], term: 5 });
    startRead(raft);
    turn(raft);
    const fields = { from: "a", to: "b", prevLogIndex: 1, prevLogTerm: 1, round: roundOf(raft) };
    const b = follower({ name: "b", log: [1], term: 5 }, "a");
    const [late] = step(b, appendEntries(4, fields));
    const [chunk] = step(b, installSnapshot(4, { ...fields, lastIncludedIndex: 9 }));
    for (const answer of [late, chunk]) {
      expect(answer).toMatchObject({ term: 5, round: 0, success: false });
      if (answer) raft.receive(answer, raft.now);
      expect(flush(raft).reads).toBe(0);
    }
    expect(confirm(raft, roundOf(raft))).toBe(1);
  });

  test("a refusal of our term confirms a read, because a follower sent it", () => {
    const raft = settledLeader();
    startRead(raft);
    turn(raft);
    expect(confirm(raft, roundOf(raft), { success: false })).toBe(1);
  });

  test("a read waits until all entries that were committed when it arrived are applied", () => {
    const raft = settledLeader();
    const [, , matchIndex = 0] = [propose(raft), propose(raft), propose(raft)];
    turn(raft);
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex }), raft.now);
    startRead(raft);
    const applyOne = () => [...raft.step(1)].at(-1);
    expect(applyOne()).toMatchObject({ type: "apply", entries: [{}], reads: 0 });
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex }), raft.now);
    expect(applyOne()).toMatchObject({ type: "apply", entries: [{}], reads: 0 });
    expect(applyOne()).toMatchObject({ type: "apply", entries: [{}], reads: 1 });
    expect(raft.lastApplied).toBe(matchIndex);
  });

  test("a read does not wait for later proposals", () => {
    const raft = settledLeader();
    startRead(raft);
    propose(raft);
    turn(raft);
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex: 1 }), raft.now);
    expect(flush(raft).reads).toBe(1);
  });

  test("many reads share one round", () => {
    const raft = settledLeader();
    for (let i = 0; i < 3; i += 1) startRead(raft);
    expect(receiversOf(turn(raft))).toEqual(["b", "c"]);
    expect(confirm(raft, roundOf(raft))).toBe(3);
  });

  test("later reads wait for a later round", () => {
    const raft = settledLeader();
    startRead(raft);
    turn(raft);
    const round = roundOf(raft);
    startRead(raft);
    expect(receiversOf(turn(raft))).toEqual(["b", "c"]);
    expect(confirm(raft, round)).toBe(1);
    expect(confirm(raft, roundOf(raft))).toBe(1);
  });

  test("a late reply to an earlier round does not revoke a follower's confirmation", () => {
    const raft = settledLeader({ members: FIVE });
    const early = roundOf(raft);
    startRead(raft);
    turn(raft);
    expect(confirm(raft, roundOf(raft), { from: "b" })).toBe(0);
    expect(confirm(raft, early, { from: "b" })).toBe(0);
    expect(confirm(raft, roundOf(raft), { from: "c" })).toBe(1);
  });

  test("a lost round is retransmitted within a heartbeat", () => {
    const raft = settledLeader();
    startRead(raft);
    turn(raft);
    expect(receiversOf(wait(raft, HEARTBEAT))).toEqual(["b", "c"]);
    expect(confirm(raft, roundOf(raft))).toBe(1);
  });

  test("a read is dropped when the leader steps down, and is not answered in a later term", () => {
    const raft = settledLeader();
    startRead(raft);
    turn(raft);
    step(raft, appendReply(2, { success: false }));
    timeOut(raft);
    grantPreVotes(raft);
    grantVotes(raft);
    expect(raft).toMatchObject({ currentTerm: 3, role: { name: "Leader" } });
    wait(raft, HEARTBEAT);
    expect(confirm(raft, roundOf(raft))).toBe(0);
  });
});
