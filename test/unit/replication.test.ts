/**
 * Tests that replication is fast and bounded on a network that loses messages: the window of bytes
 * in flight, retransmission, and the order of sending and saving (thesis §10.2.1).
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Message, Raft, sizeOf } from "../../raft.ts";
import {
  acknowledge,
  appendReply,
  candidate,
  Cluster,
  flush,
  follower,
  HEARTBEAT,
  leader,
  logOf,
  type Of,
  one,
  only,
  preCandidate,
  progress,
  propose,
  receiversOf,
  roundOf,
  settledLeader,
  step,
  T,
  THREE,
  to,
  turn,
  typesOf,
  unsavedLeader,
  voteReply,
  wait,
} from "../support/core.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("Retransmission", () => {
  test("a follower that acknowledged, or is silent, is sent one heartbeat per interval", () => {
    const leading = settledLeader();
    propose(leading);
    turn(leading);
    acknowledge(leading, "b");
    const receiversAfter = (ms: number) => receiversOf(wait(leading, ms));
    const quarters = Array.from({ length: 12 }, () => receiversAfter(HEARTBEAT / 4));
    const both = ["b", "c"];
    const onlyC = Array.from({ length: 3 }, () => ["c"]); // Quickly for two intervals.
    expect(quarters).toEqual([...onlyC, both, ...onlyC, ["b"], [], [], ["c"], ["b"]]);
  });

  test("a heartbeat is not retransmitted if nothing waits for its reply", () => {
    const leading = settledLeader();
    expect(receiversOf(wait(leading, HEARTBEAT))).toEqual(["b", "c"]);
    expect(wait(leading, HEARTBEAT - 1)).toEqual([]);
    leading.read();
    expect(receiversOf(turn(leading))).toEqual(["b", "c"]);
    acknowledge(leading, "b");
    expect(wait(leading, HEARTBEAT / 8)).toEqual([]); // A majority has confirmed the read.
    acknowledge(leading, "c");
    leading.read();
    expect(receiversOf(turn(leading))).toEqual(["b", "c"]);
    expect(receiversOf(wait(leading, HEARTBEAT / 8))).toEqual(["b", "c"]);
  });

  test("a leader applies no entry that only its followers have saved", () => {
    const { raft, index } = unsavedLeader();
    for (const from of ["b", "c"]) {
      raft.receive(appendReply(1, { from, matchIndex: index, round: roundOf(raft) }), raft.now);
    }
    expect(raft.commitIndex).toBe(index);
    const { saved, applied } = flush(raft); // A turn with nothing to apply saves.
    expect(saved?.entries).toEqual([raft.log.at(index)]);
    expect(applied.map((e) => e.index)).toEqual([index]);
  });
});

describe("The window to a follower", () => {
  /** A command whose record is 100 bytes long. */
  const hundred = "x".repeat(83);
  const small = { batchBytes: 300, windowBytes: 900 };
  const fill = (raft: Raft, count: number) => {
    for (let i = 0; i < count; i += 1) propose(raft, hundred);
    return only("AppendEntries", to("b", turn(raft)));
  };
  const sizes = (sent: Of<"AppendEntries">[]) => sent.map((m) => m.entries.length);

  test("one request carries batchBytes", () => {
    expect(sizes(fill(settledLeader(small), 7))).toEqual([3, 3, 1]);
  });

  test("an entry that is larger than a batch goes alone", () => {
    const raft = settledLeader({ batchBytes: 300, windowBytes: 9_000 });
    propose(raft, "x".repeat(1_000));
    expect(sizes(fill(raft, 4))).toEqual([1, 3, 1]);
  });

  test("at most windowBytes are in flight", () => {
    const raft = settledLeader(small);
    expect(sizes(fill(raft, 100))).toEqual([3, 3, 3]);
    expect(sizes(fill(raft, 1))).toEqual([]);
    const more = only("AppendEntries", to("b", acknowledge(raft, "b", 4)));
    expect(more.map((m) => [m.prevLogIndex, m.entries.length])).toEqual([[10, 3]]);
  });

  test("until the logs are known to match, one batch at a time is sent as a probe", () => {
    const raft = leader({ ...small, log: [1, 1, 1] });
    expect(sizes(fill(raft, 20))).toEqual([]);
    expect(sizes(only("AppendEntries", acknowledge(raft, "b", 4)))).toEqual([3, 3, 3]);
  });

  test("a full window does not stop heartbeats", () => {
    const raft = settledLeader(small);
    fill(raft, 100);
    const beat = one(only("AppendEntries", to("b", wait(raft, HEARTBEAT))));
    // The heartbeat names the last entry in flight, so a follower that missed an entry refuses it.
    expect(beat).toMatchObject({ prevLogIndex: 10, entries: [] });
  });

  test("a lost datagram is retransmitted within a heartbeat", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.lost = (m) => m.to === "b";
    cluster.propose("a");
    cluster.lost = () => false;
    expect(cluster.at("b").log.lastIndex).toBe(1);
    cluster.advance(HEARTBEAT);
    expect(logOf(cluster.at("b"))).toEqual(logOf(cluster.at("a")));
  });

  test("a lost datagram is retransmitted sooner when a later one is refused", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.lost = (m) => m.to === "b";
    cluster.propose("a");
    cluster.lost = () => false;
    cluster.propose("a");
    expect(logOf(cluster.at("b"))).toEqual(logOf(cluster.at("a")));
  });

  test("the next reply makes up for a lost one", () => {
    const raft = settledLeader();
    propose(raft);
    turn(raft);
    propose(raft);
    turn(raft);
    acknowledge(raft, "b", 3);
    expect(raft.commitIndex).toBe(3);
  });

  test("the window opens again, step by step, after a retransmission is acknowledged", () => {
    const raft = settledLeader(small);
    fill(raft, 1); // Lost.
    wait(raft, HEARTBEAT);
    const refusal = { success: false, hintIndex: 1, hintTerm: 1, round: roundOf(raft) };
    const retry = one(only("AppendEntries", step(raft, appendReply(1, refusal))));
    expect(retry.entries.map((e) => e.index)).toEqual([2]);
    acknowledge(raft, "b", 2);
    expect(sizes(fill(raft, 100))).toEqual([3, 3]);
    expect(sizes(only("AppendEntries", acknowledge(raft, "b", 8)))).toEqual([3, 3, 3]);
  });

  test("several refusals cause one restart of sending", () => {
    const raft = settledLeader(small);
    const sent = fill(raft, 9);
    expect(sizes(sent)).toEqual([3, 3, 3]);
    const [, second, third] = sent.map((m) => m.round);
    const hint = { success: false, hintIndex: 1, hintTerm: 1 };
    const restart = step(raft, appendReply(1, { ...hint, round: second ?? 0 }));
    expect(only("AppendEntries", restart).map((m) => m.prevLogIndex)).toEqual([1]);
    expect(step(raft, appendReply(1, { ...hint, round: third ?? 0 }))).toEqual([]);
    // The probe may be lost again. Then it is sent once per interval, and a further refusal changes
    // nothing.
    const refused = () => step(raft, appendReply(1, { ...hint, round: roundOf(raft) }));
    expect(refused()).toEqual([]);
    const [again] = only("AppendEntries", to("b", wait(raft, HEARTBEAT / 8)));
    expect(again).toMatchObject({ prevLogIndex: 1 });
    expect(again?.entries.length).toBe(sent[0]?.entries.length);
    expect(refused()).toEqual([]);
    expect(sizes(only("AppendEntries", to("b", acknowledge(raft, "b", 4))))).toEqual([3, 3]);
  });

  test(
    "a refusal at an earlier index restarts sending, and a contradicting refusal does not",
    () => {
      // b has an entry of term 2 at index 2, so refusals may name entry 2 or 1 in turn. If entry 2
      // is always lost, the leader must not go back and forth in each round trip.
      const raft = leader({ log: [1, 1, 3, 3] });
      const refuse = (hintIndex: number, hintTerm: number) => {
        const refusal = { success: false, hintIndex, hintTerm, round: roundOf(raft) };
        return only("AppendEntries", to("b", step(raft, appendReply(4, refusal))));
      };
      for (const back of [2, 1]) expect(one(refuse(back, back)).prevLogIndex).toBe(back);
      for (let i = 0; i < 3; i += 1) {
        expect([refuse(2, 2), refuse(1, 1), refuse(2, 2), refuse(1, 1)].flat()).toEqual([]);
        const [probe] = only("AppendEntries", to("b", wait(raft, HEARTBEAT / 8)));
        expect(probe?.prevLogIndex).toBe(1);
      }
    },
  );

  test(
    "an entry that a path always loses is sent rarely, alone, and reported once",
    () => {
      const cluster = new Cluster(THREE, { batchBytes: 300, windowBytes: 9_000 });
      cluster.elect("a");
      const raft = cluster.at("a");
      const isLarge = (m: Message) =>
        m.type === "AppendEntries" && m.entries.some((e) => sizeOf(e) > 1_000);
      cluster.lost = isLarge;
      const index = cluster.propose("a", "x".repeat(5_000));
      cluster.sent.length = 0;
      for (let i = 0; i < 100; i += 1) {
        cluster.propose("a", "small");
        raft.read();
        cluster.flush(raft);
        cluster.settle();
        cluster.advance(HEARTBEAT / 10);
      }
      cluster.advance(9 * T);
      // In 10 s two followers are sent 200 heartbeats, and for each read 2 more.
      expect(cluster.sent.filter(isLarge).length).toBeLessThan(300);
      expect(cluster.sent.length).toBeLessThan(1_500);
      expect(only("AppendEntries", cluster.sent).every((m) => m.entries.length < 4)).toBe(true);
      expect(raft.role.name).toBe("Leader");
      const bytes = sizeOf(raft.log.at(index));
      expect(raft.events.filter((event) => event.type === "stuck")).toEqual(
        ["b", "c"].map((server) => ({ type: "stuck", server, index, bytes })),
      );
      expect(progress(raft, "b").stuck).toMatchObject({ index, bytes });
      cluster.lost = () => false;
      cluster.advance(2 * HEARTBEAT);
      for (const other of ["b", "c"]) expect(logOf(cluster.at(other))).toEqual(logOf(raft));
      expect(progress(raft, "b")).toMatchObject({ attempts: 0, matchIndex: index + 100 });
    },
  );

  test("a chunk that a path always loses is sent as rarely, and reported once", () => {
    const cluster = new Cluster(THREE, { batchBytes: 300, windowBytes: 9_000 });
    cluster.elect("a");
    cluster.crash("c");
    for (let i = 0; i < 50; i += 1) cluster.propose("a", "x".repeat(100));
    const raft = cluster.at("a");
    cluster.takeSnapshot(raft, 0);
    const isLarge = (m: Message) => m.type === "InstallSnapshot" && m.data.length > 200;
    cluster.lost = isLarge;
    cluster.restart("c");
    cluster.sent.length = 0;
    cluster.advance(10 * T);
    expect(cluster.sent.filter(isLarge).length).toBeWithin(20, 200);
    expect(cluster.sent.length).toBeLessThan(1_000);
    const { nextIndex: index } = progress(raft, "c");
    const event = { type: "stuck", server: "c", index, bytes: 300 } as const;
    expect(raft.events.filter((event) => event.type === "stuck")).toEqual([event]);
    expect(progress(raft, "c").stuck).toEqual(event);
    cluster.lost = () => false;
    cluster.advance(2 * HEARTBEAT);
    expect(cluster.at("c").log.lastIndex).toBe(raft.log.lastIndex);
  });

  test("nextIndex never falls to matchIndex or below", () => {
    const raft = settledLeader({ log: [1, 1, 1] });
    const wrong = { success: false, hintIndex: 0, hintTerm: 0, round: roundOf(raft) };
    expect(one(step(raft, appendReply(2, wrong)))).toMatchObject({ prevLogIndex: 4, entries: [] });
    expect(progress(raft, "b")).toMatchObject({ matchIndex: 4, nextIndex: 5 });
  });

  test("a reply to a round that was not sent, or from a server that is no member, is ignored", () => {
    const raft = settledLeader({ log: [1] });
    const before = structuredClone(progress(raft, "b"));
    for (
      const wrong of [
        { round: roundOf(raft) + 1, matchIndex: 2 },
        { round: roundOf(raft), matchIndex: 3 },
        { round: roundOf(raft), from: "a stranger", matchIndex: 2 },
      ]
    ) {
      step(raft, appendReply(2, wrong), raft.now + 1);
      expect(structuredClone(progress(raft, "b"))).toEqual(before);
    }
  });
});

describe("Promises are sent after the save", () => {
  test("AppendEntries of a durable term may leave before its entries are saved", () => {
    const raft = settledLeader();
    propose(raft);
    const { early, saved, late } = flush(raft);
    expect(typesOf(early)).toEqual(["AppendEntries", "AppendEntries"]);
    expect(saved?.entries.length).toBe(1);
    expect(late).toEqual([]);
  });

  test("a RequestVote leaves after the save, because it implies a vote for its sender", () => {
    const raft = preCandidate();
    raft.receive(voteReply(2, { preVote: true, campaign: raft.campaigns }), raft.now);
    const { early, saved, late } = flush(raft);
    expect(early).toEqual([]);
    expect(saved).toMatchObject({ currentTerm: 2, votedFor: "a" });
    expect(typesOf(late)).toEqual(["RequestVote", "RequestVote"]);
  });

  test("a leader counts itself only up to its last saved entry", () => {
    const { raft, index } = unsavedLeader();
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex: index }), raft.now);
    expect(raft.commitIndex).toBe(index - 1);
    flush(raft);
    expect(raft.commitIndex).toBe(index);
  });

  test("a majority of followers commits without the leader's own save", () => {
    const { raft, index } = unsavedLeader();
    for (const from of ["b", "c"]) {
      raft.receive(appendReply(1, { from, round: roundOf(raft), matchIndex: index }), raft.now);
    }
    expect(raft.commitIndex).toBe(index);
  });

  test("a turn without input saves and sends nothing", () => {
    for (const raft of [follower(), preCandidate(), candidate(), leader()]) {
      const idle = { early: [], saved: undefined, late: [], applied: [], reads: 0 };
      expect(flush(raft)).toEqual(idle);
    }
  });
});
