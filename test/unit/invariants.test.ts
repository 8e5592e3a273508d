/** Tests that a server stops at the first sign that an invariant of the paper is broken. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  appendEntries,
  entries,
  follower,
  heartbeat,
  leader,
  step,
  turn,
} from "../support/core.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("A server with a broken invariant stops", () => {
  test("a committed entry never changes", () => {
    const raft = follower({ log: [1, 1, 1] });
    step(raft, heartbeat(raft, { leaderCommit: 2 }));
    const wrong = appendEntries(2, { prevLogIndex: 1, prevLogTerm: 1, entries: entries([2], 1) });
    expect(() => step(raft, wrong)).toThrow("a committed entry never changes");
  });

  test("a term has at most one leader", () => {
    const raft = follower({}, "b");
    const rival = heartbeat(raft, { from: "c" });
    expect(() => step(raft, rival)).toThrow("a term has at most one leader");
    expect(() => step(leader(), appendEntries(1))).toThrow("a term has at most one leader");
  });

  test.each([
    ["each applied entry is committed", { lastApplied: 1 }],
    ["each committed entry is in the log", { commitIndex: 9 }],
    ["the log knows no later term than its server", { currentTerm: 0 }],
    ["a candidate has voted for itself", { votedFor: "c" }],
  ])("%s", (sentence, damage) => {
    const raft = leader();
    Object.assign(raft, damage);
    expect(() => turn(raft)).toThrow(sentence);
  });
});
