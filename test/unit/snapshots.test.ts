/**
 * Tests the refinements of log compaction: when a snapshot is due, how its chunks are pipelined and
 * retransmitted, and that a compacted log answers as the whole log does.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Message, Raft, sizeOf } from "../../raft.ts";
import {
  acknowledge,
  appendEntries,
  appendReply,
  chunks,
  Cluster,
  compacted,
  configuration,
  entries,
  entry,
  fallBehind,
  FIVE,
  flush,
  follower,
  HEARTBEAT,
  heartbeat,
  installReply,
  installSnapshot,
  leader,
  one,
  only,
  progress,
  roundOf,
  server,
  snapshotOf,
  step,
  T,
  termsOf,
  THREE,
  to,
  turn,
  wait,
} from "../support/core.ts";
import { randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("A snapshot", () => {
  test("some of the log is kept for followers that lag a little", () => {
    const two = sizeOf(entry(1, 1)) * 2;
    expect(compacted(4, two).log.baseIndex).toBe(2);
    expect(compacted(4, two - 1).log.baseIndex).toBe(3);
    expect(compacted(4, 1e9).log.baseIndex).toBe(0);
  });

  test("a follower that keeps up is sent entries, however short the log is", () => {
    const cluster = new Cluster(THREE, { batchBytes: 100 });
    cluster.elect("a");
    cluster.snapshotBytes = 0;
    for (let i = 0; i < 30; i += 1) cluster.propose("a");
    cluster.advance(T);
    expect(only("InstallSnapshot", cluster.sent)).toEqual([]);
    for (const name of THREE) expect(cluster.at(name).log.baseIndex).toBeGreaterThan(5);
  });

  test("a larger snapshot makes the next one due later, to bound the cost of snapshots", () => {
    const raft = compacted(5);
    const bytes = raft.log.bytes(6, raft.lastApplied);
    for (const [size, isDue] of [[bytes - 1, true], [bytes, false]] as const) {
      raft.snapshot = { ...raft.snapshot, size };
      expect(raft.isSnapshotDue(bytes - 1)).toBe(isDue);
    }
  });

  test("a snapshot that is being sent is not replaced too soon", () => {
    const raft = compacted(5);
    expect(raft.isSnapshotDue(10)).toBe(false);
    raft.snapshot = { ...raft.snapshot, size: 10 };
    expect(raft.isSnapshotDue(10)).toBe(true);
    fallBehind(raft, "c");
    const bytes = raft.log.bytes(6, raft.lastApplied);
    expect(raft.isSnapshotDue(bytes / 2)).toBe(false);
    expect(raft.isSnapshotDue(bytes / 5)).toBe(true); // It is replaced in the end.
    expect(raft.isSnapshotDue(bytes / 5, 4)).toBe(true); // A backup meanwhile makes no difference.
    raft.now += 11 * T; // A follower that is gone does not count.
    expect(raft.isSnapshotDue(bytes / 2)).toBe(true);
  });

  test("a follower that has installed a snapshot can catch up before the next one is taken", () => {
    const raft = compacted(5);
    raft.snapshot = { ...raft.snapshot, size: 10 };
    fallBehind(raft, "c");
    const bytes = raft.log.bytes(6, raft.lastApplied);
    acknowledge(raft, "c", 5);
    expect(progress(raft, "c").mode).toBe("replicating");
    expect(raft.isSnapshotDue(bytes / 2)).toBe(false);
    expect(raft.isSnapshotDue(bytes / 5)).toBe(true);
    acknowledge(raft, "c", raft.lastApplied);
    expect(raft.isSnapshotDue(bytes / 2)).toBe(true);
  });

  test("no snapshot is taken while one is being received", () => {
    const raft = follower({ log: [1, 1, 1], term: 2 });
    step(raft, heartbeat(raft, { leaderCommit: 3 }));
    expect(raft.isSnapshotDue(10)).toBe(true);
    step(raft, installSnapshot(2));
    expect(raft.isSnapshotDue(10)).toBe(false);
    step(raft, appendEntries(3, { from: "c", prevLogIndex: 3, prevLogTerm: 1 }));
    // The old leader is gone, and will not send the rest.
    expect(raft.isSnapshotDue(10)).toBe(true);
  });

  test("a chunk from another leader discards a partial snapshot (catalogue 35)", () => {
    const raft = follower({ term: 2 });
    step(raft, installSnapshot(2));
    const other = { from: "c", offset: 10 };
    expect(one(step(raft, installSnapshot(3, other)))).toMatchObject({ success: false, offset: 0 });
    expect(raft.incoming).toMatchObject({ leaderTerm: 3, offset: 0, unwritten: [] });
  });

  test("a complete snapshot is installed before the next one is received from its beginning", () => {
    for (const next of [{ lastIncludedIndex: 8 }, { from: "c" }]) {
      const raft = follower({ term: 2 });
      for (const chunk of chunks()) step(raft, chunk);
      const term = "from" in next ? 3 : 2;
      const early = { ...next, round: 7, size: 50 };
      const { incoming } = raft;
      for (const offset of [0, 10]) {
        const [reply] = step(raft, installSnapshot(term, { ...early, offset }));
        expect(reply).toMatchObject({ success: true, offset: 0, round: 7 });
        expect(raft.incoming).toBe(incoming);
      }
      raft.onSnapshot(
        { index: 5, term: 1, size: 30, founding: 1, members: configuration(THREE) },
        0,
      );
      const later = { ...next, lastIncludedIndex: 8, size: 50, offset: 20 };
      expect(one(step(raft, installSnapshot(term, later)))).toMatchObject({
        success: false,
        offset: 0,
      });
    }
  });

  test("a received snapshot keeps only later entries of those that have come meanwhile", () => {
    for (const keepBytes of [0, 1_000]) {
      const raft = follower({ log: [1, 1, 1], term: 2 });
      for (const chunk of chunks()) step(raft, chunk);
      const late = { prevLogIndex: 3, prevLogTerm: 1, entries: entries([1, 1, 2], 3) };
      raft.receive(appendEntries(2, { ...late, leaderCommit: 6 }), raft.now);
      expect([raft.log.savedIndex, raft.log.lastIndex]).toEqual([3, 6]);
      raft.onSnapshot(
        { index: 5, term: 1, size: 30, founding: 1, members: configuration(THREE) },
        keepBytes,
      );
      // The file of the log has none of the entries that the snapshot has.
      expect([raft.log.baseIndex, raft.log.savedIndex, raft.log.lastIndex]).toEqual([5, 5, 6]);
      const { saved, late: sent, applied } = flush(raft);
      expect(saved?.entries.map(({ index }) => index)).toEqual([6]);
      expect(one(sent)).toMatchObject({ success: true, matchIndex: 6 });
      expect(applied.map(({ index }) => index)).toEqual([6]);
    }
  });

  test("a round of chunks confirms reads and leadership as a round of entries does", () => {
    const raft = compacted(5);
    fallBehind(raft, "b");
    fallBehind(raft, "c");
    raft.read();
    const sent = only("InstallSnapshot", turn(raft));
    expect(sent.map((m) => [m.to, m.data.length])).toEqual([["b", 0], ["c", 0]]);
    const round = roundOf(raft);
    raft.receive(installReply(2, { from: "c", round, offset: 2500 }), raft.now);
    expect(flush(raft).reads).toBe(1);
    for (let i = 0; i < 5; i += 1) {
      wait(raft, T / 2);
      step(raft, installReply(2, { from: "c", round: roundOf(raft), offset: 2500 }));
    }
    expect(raft.role.name).toBe("Leader");
  });
});

describe("The window of a snapshot", () => {
  const settings = { batchBytes: 400, windowBytes: 1000 };
  const places = (sent: readonly Message[]) =>
    only("InstallSnapshot", sent).map((m) => [m.offset, m.data.length]);
  const accept = (raft: Raft, offset: number, round = roundOf(raft)) =>
    places(step(raft, installReply(2, { from: "c", round, offset })));
  const refuse = (raft: Raft, offset: number, round = roundOf(raft)) =>
    places(step(raft, installReply(2, { from: "c", success: false, round, offset })));

  test("several chunks are in flight, and each acknowledgement makes room for more", () => {
    const raft = compacted(5, 0, settings);
    expect(places(fallBehind(raft, "c"))).toEqual([[0, 400], [400, 400], [800, 200]]);
    expect(places(turn(raft))).toEqual([]);
    expect(accept(raft, 400)).toEqual([[1000, 400]]);
    expect(accept(raft, 1400)).toEqual([[1400, 400], [1800, 400], [2200, 200]]);
    expect(accept(raft, 800)).toEqual([]); // This chunk was overtaken.
    expect(accept(raft, 2400)).toEqual([[2400, 100]]);
    expect(accept(raft, 2500)).toEqual([]);
  });

  test("a heartbeat asks for the chunks in flight, and a refusal restarts where the follower is", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    expect(places(to("c", wait(raft, HEARTBEAT)))).toEqual([[1000, 0]]);
    // One chunk at a time, until one is acknowledged.
    expect(refuse(raft, 400)).toEqual([[400, 400]]);
    expect(accept(raft, 800)).toEqual([[800, 400], [1200, 400], [1600, 200]]);
  });

  test("a window that shrinks after refused entries still asks for the chunks in flight", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    expect(accept(raft, 400)).toEqual([[1000, 400]]);
    for (let failures = 1; failures <= 2; failures += 1) {
      wait(raft, HEARTBEAT);
      const refusal = { from: "c", success: false, round: roundOf(raft), hintIndex: 0 };
      step(raft, appendReply(2, refusal));
    }
    expect(places(to("c", wait(raft, HEARTBEAT)))).toEqual([[1400, 0]]);
  });

  test("chunks refused after a lost one are retransmitted once", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    accept(raft, 400);
    const round = roundOf(raft);
    expect(refuse(raft, 400, round - 1)).toEqual([[400, 400]]);
    expect(refuse(raft, 400, round)).toEqual([]);
  });

  test("a follower that lost its partial snapshot receives all of it again", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    accept(raft, 1000);
    expect(refuse(raft, 0)).toEqual([[0, 400]]);
    expect(refuse(raft, 0)).toEqual([]);
    expect(places(to("c", wait(raft, HEARTBEAT / 8)))).toEqual([[0, 400]]);
    expect(accept(raft, 400)).toEqual([[400, 400], [800, 400], [1200, 200]]);
  });

  test("a newer snapshot is sent from its beginning, and replies about the old one are ignored", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    accept(raft, 800);
    raft.onSnapshot(snapshotOf(raft, 7), 0);
    const [first] = only("InstallSnapshot", to("c", turn(raft)));
    expect(first).toMatchObject({ lastIncludedIndex: 7, offset: 0 });
    expect(accept(raft, 2000)).toEqual([]);
    expect(progress(raft, "c").snapshot).toMatchObject({ index: 7, acknowledged: 0 });
  });

  test("an acknowledgement past the end of the snapshot is ignored", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    expect(accept(raft, 2501)).toEqual([]);
    expect(progress(raft, "c").snapshot.acknowledged).toBe(0);
  });

  test("once the follower has the snapshot, it is sent the entries after it", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    const done = appendReply(2, { from: "c", round: roundOf(raft), matchIndex: 5 });
    expect(only("AppendEntries", to("c", step(raft, done)))[0]).toMatchObject({
      prevLogIndex: 5,
      prevLogTerm: 2,
    });
  });
});

describe("A compacted log", () => {
  test("a follower accepts an AppendEntries that begins below its snapshot (catalogue 48)", () => {
    const raft = follower({ base: { index: 5, term: 2 }, log: [2], term: 3 });
    const late = appendEntries(3, {
      prevLogIndex: 2,
      prevLogTerm: 1,
      leaderCommit: 8,
      entries: entries([1, 1, 2, 2, 3], 2),
    });
    expect(one(step(raft, late))).toMatchObject({ success: true, matchIndex: 7 });
    expect(termsOf(raft)).toEqual([2, 3]);
    const all = appendEntries(3, { prevLogIndex: 0, entries: entries([1, 1, 1]) });
    expect(one(step(raft, all))).toMatchObject({ success: true, matchIndex: 3 });
    expect(termsOf(raft)).toEqual([2, 3]);
    expect(raft.commitIndex).toBe(7);
  });

  test("an AppendEntries of an earlier term that begins below the snapshot is refused", () => {
    const raft = follower({ base: { index: 5, term: 2 }, log: [2], term: 3 });
    for (const [prevLogIndex, prevLogTerm] of [[0, 0], [3, 1], [5, 1], [6, 1], [9, 9]] as const) {
      const stale = appendEntries(2, { from: "c", prevLogIndex, prevLogTerm });
      expect(one(step(raft, stale))).toMatchObject({ success: false, term: 3 });
    }
  });

  test("a hint below its log makes a leader send the snapshot (catalogue 22)", () => {
    for (const [hintIndex, hintTerm] of [[0, 0], [3, 1], [4, 1], [6, 1], [8, 1]] as const) {
      const raft = leader({ base: { index: 5, term: 2 }, log: [2, 2, 2], term: 3 });
      const reply = appendReply(3, { success: false, round: roundOf(raft), hintIndex, hintTerm });
      expect(to("b", step(raft, reply))[0]).toMatchObject({ type: "InstallSnapshot", offset: 0 });
      expect(progress(raft, "b").nextIndex).toBeLessThanOrEqual(5);
    }
  });

  test.each([0, 1, 5])(
    "with %d entries kept, a server answers as one with the whole log",
    (kept) => {
      const random = randomFrom(kept);
      const draw = (n: number) => Math.floor(random() * n);
      for (let run = 0; run < 200; run += 1) {
        const terms = Array.from({ length: 12 }, () => 1 + draw(4)).sort((a, b) => a - b);
        const whole = server({ log: terms }).log;
        const { log } = server({ log: terms });
        log.compact(3 + draw(3), kept * sizeOf(entry(1, 1)) - 1);
        log.compact(6 + draw(4), kept * sizeOf(entry(1, 1)) - 1);
        const { baseIndex } = log;
        for (let index = baseIndex; index <= 13; index += 1) {
          const term = draw(5);
          const [before, now] = [whole, log].map((l) => l.lastUpTo(index, term));
          expect(now).toBe(Math.max(before ?? 0, baseIndex - 1));
          expect(log.matches(index, term)).toBe(whole.matches(index, term));
          if (index === baseIndex) continue;
          const last = index + draw(13 - index);
          expect(log.slice(index, last)).toEqual(whole.slice(index, last));
          if (index > 12) continue;
          expect(log.bytes(index, last)).toBe(whole.bytes(index, last));
          expect(log.batch(index, 100)).toEqual(whole.batch(index, 100));
        }
      }
    },
  );

  test("a leader change in the middle of a snapshot does no harm", () => {
    const cluster = new Cluster(THREE, { batchBytes: 50, windowBytes: 100 });
    cluster.elect("a");
    cluster.crash("c");
    for (let i = 0; i < 50; i += 1) cluster.propose("a", `${i}`);
    cluster.advance(T);
    for (const name of ["a", "b"]) cluster.takeSnapshot(cluster.at(name), 0);
    const bytes = ["a", "b"].map((name) => cluster.snapshots.get(name));
    expect(bytes[0]?.snapshot).toEqual(bytes[1]?.snapshot ?? snapshotOf(cluster.at("a"), 0));
    expect(bytes[0]?.bytes.equals(bytes[1]?.bytes ?? Buffer.alloc(0))).toBe(false);
    cluster.restart("c");
    const isLate = (m: Message) => m.type === "InstallSnapshot" && m.offset > m.size / 2;
    cluster.lost = isLate;
    cluster.advance(T);
    expect(cluster.at("c").incoming?.offset).toBeGreaterThan(300);
    cluster.lost = (m) => m.from === "a" || m.to === "a";
    cluster.elect("b");
    cluster.lost = () => false;
    cluster.advance(2 * T);
    expect(cluster.at("b").leader).toBe("b");
    expect(cluster.applied.get("c")).toEqual(cluster.applied.get("b") ?? []);
    expect(cluster.at("c").snapshot.index).toBeGreaterThan(0);
  });

  test("on a bad day with many snapshots, every server applies all commands once", () => {
    let installs = 0;
    for (let seed = 1; seed <= 30; seed += 1) {
      const random = randomFrom(seed);
      const cluster = new Cluster(FIVE, { random, batchBytes: 100, windowBytes: 300 });
      cluster.snapshotBytes = 150;
      cluster.watch = (raft) => {
        const applied = cluster.applied.get(raft.settings.name) ?? [];
        expect(applied.length).toBe(raft.lastApplied);
        expect(applied.at(-1)?.index ?? 0).toBe(raft.lastApplied);
        installs += raft.events.splice(0).filter((e) => e.type === "snapshot" && e.from).length;
      };
      cluster.lost = () => random() < 0.1;
      cluster.next = (underWay) => Math.floor(random() * Math.min(underWay, 3));
      for (let i = 0; i < 60; i += 1) {
        const victim = FIVE[Math.floor(random() * 5)] ?? "a";
        if (random() < 0.2 && cluster.down.size < 2) cluster.crash(victim);
        if (random() < 0.1) cluster.restart(...cluster.down);
        for (const raft of cluster.leaders) cluster.propose(raft.settings.name, `${i}`);
        cluster.advance(T / 4);
      }
      cluster.lost = () => false;
      cluster.restart(...cluster.down);
      cluster.advance(10 * T);
      const [first] = cluster.applied.values();
      expect(first?.length).toBeGreaterThan(20);
      for (const applied of cluster.applied.values()) expect(applied).toEqual(first ?? []);
    }
    expect(installs).toBeGreaterThan(30);
  });
});
