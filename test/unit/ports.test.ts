/**
 * Tests that a leader that crashed or restarted is replaced early: its followers find its port
 * closed, or learn of its restart, and campaign before the election timeout.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Name, Raft } from "../../raft.ts";
import {
  appendEntries,
  candidate,
  Cluster,
  FIVE,
  follower,
  HEARTBEAT,
  heartbeat,
  only,
  preCandidate,
  requestVote,
  server,
  settledLeader,
  step,
  T,
  timeOut,
  turn,
  wait,
} from "../support/core.ts";
import { randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("A leader that is late", () => {
  const LATE = 1.25 * HEARTBEAT;
  /** Returns a follower that has missed a heartbeat. */
  const followerOfLateLeader = (
    leader: Name = "b",
    options: Parameters<typeof follower>[0] = {},
  ) => {
    const raft = follower(options, leader);
    wait(raft, LATE);
    return raft;
  };
  const refuse = (raft: Raft, afterMs: number, peer: Name = "b") => {
    raft.onPortClosed(peer, raft.now + afterMs);
    return turn(raft);
  };
  /** Returns a follower that has given up its leader after two refusals. */
  const leaderless = (options: Parameters<typeof follower>[0] = {}) => {
    const raft = followerOfLateLeader("b", options);
    refuse(raft, 1);
    refuse(raft, 5);
    return raft;
  };

  test("is probed, then once per heartbeat until it is heard again", () => {
    const raft = follower();
    wait(raft, LATE - 1);
    expect(raft.portProbes).toEqual([]);
    wait(raft, 1);
    expect(raft.portProbes.splice(0)).toEqual(["b"]);
    expect(raft.wakeAt).toBe(raft.now + HEARTBEAT);
    wait(raft, HEARTBEAT - 1);
    expect(raft.portProbes).toEqual([]);
    wait(raft, 1);
    expect(raft.portProbes.splice(0)).toEqual(["b"]);
    step(raft, heartbeat(raft));
    expect(raft.wakeAt).toBe(raft.now + LATE);
    wait(raft, HEARTBEAT);
    expect(raft.portProbes).toEqual([]);
  });

  test("is probed only by its followers, which probe no other server", () => {
    const idle = [server(), leaderless(), preCandidate(), candidate(), settledLeader()];
    for (const raft of idle) {
      raft.portProbes = [];
      wait(raft, LATE);
      expect(raft.portProbes).toEqual([]);
    }
  });

  test("is probed again a moment after one refusal, which proves nothing", () => {
    const raft = followerOfLateLeader();
    raft.portProbes = [];
    const { electionDueAt, role } = raft;
    expect(refuse(raft, 1)).toEqual([]);
    expect(raft).toMatchObject({ electionDueAt, role, leader: "b", wakeAt: raft.now + 5 });
    expect(raft.hearsLeader()).toBe(true);
    wait(raft, 5);
    expect(raft.portProbes).toEqual(["b"]);
  });

  test("is given up after a second refusal: the follower campaigns after a short random wait", () => {
    for (const chance of [0, 0.5, 0.999]) {
      const raft = leaderless({ random: () => chance });
      expect(raft.role).toEqual({ name: "Follower", leader: undefined });
      expect(raft.hearsLeader()).toBe(false);
      const waitMs = raft.electionDueAt - raft.now;
      expect(waitMs).toBeCloseTo(chance * HEARTBEAT / 2, 9);
      const requests = only("RequestVote", timeOut(raft));
      expect(requests.map(({ to, preVote }) => [to, preVote])).toEqual([["b", true], ["c", true]]);
      expect(raft.currentTerm).toBe(1);
    }
  });

  test("is given up, and its follower votes for another candidate that asks first", () => {
    const raft = leaderless();
    const vote = { from: "c", lastLogIndex: 9, lastLogTerm: 1 };
    const [preVoteAnswer] = step(raft, requestVote(2, { ...vote, preVote: true }));
    expect(preVoteAnswer).toMatchObject({ voteGranted: true });
    const [voteAnswer] = step(raft, requestVote(2, vote));
    expect(voteAnswer).toMatchObject({ voteGranted: true });
    // The follower waits for that candidate as for any.
    expect(raft.electionDueAt).toBe(raft.now + 1.25 * T);
  });

  test("is not given up for refusals by another server, too early, or too close together", () => {
    const cases: ((raft: Raft) => void)[] = [
      (raft) => [1, 5, 5].forEach((ms) => refuse(raft, ms, "c")),
      (raft) => [1, 1, 1, 1, 1].forEach((ms) => refuse(raft, ms)),
      (raft) => {
        step(raft, heartbeat(raft));
        [1, 5, 5, LATE - 12].forEach((ms) => refuse(raft, ms));
      },
      (raft) => {
        refuse(raft, 1);
        step(raft, heartbeat(raft));
        refuse(raft, LATE);
      },
      (raft) => {
        step(raft, heartbeat(raft), raft.now + 10);
        refuse(raft, LATE);
        refuse(raft, 1, "c");
      },
    ];
    for (const provoke of cases) {
      const raft = followerOfLateLeader();
      provoke(raft);
      expect(raft.leader).toBe("b");
      expect(raft.electionDueAt).toBe(raft.heardAt + 1.25 * T);
    }
  });

  test("is given up only by its followers", () => {
    for (const raft of [server(), preCandidate(), candidate(), settledLeader(), leaderless()]) {
      const { role, electionDueAt } = raft;
      for (const ms of [LATE, 5, 5]) refuse(raft, ms, raft.leader ?? "b");
      expect(raft).toMatchObject({ role, electionDueAt });
    }
  });

  test("is followed as patiently as before once it is heard again", () => {
    const raft = leaderless();
    step(raft, appendEntries(1, { prevLogIndex: 0 }));
    expect(raft).toMatchObject({ leader: "b", electionDueAt: raft.now + 1.25 * T });
    expect(raft.hearsLeader()).toBe(true);
    refuse(raft, LATE); // Earlier refusals no longer count.
    expect(raft.leader).toBe("b");
  });

  test("is replaced by campaigns that are retried quickly, then back off", () => {
    const raft = followerOfLateLeader();
    raft.log.append({ index: 1, term: 1, kind: "noop", data: Buffer.alloc(0) }); // It may lead.
    refuse(raft, 1);
    refuse(raft, 5);
    const crashedAt = raft.now;
    const timeouts: number[] = [];
    const requestTimes: number[] = [];
    for (let woken = 0; raft.now < crashedAt + 3 * T; woken += 1) {
      expect(woken).toBeLessThan(100); // The retries do not flood the network.
      const { campaigns } = raft;
      raft.tick(raft.wakeAt);
      if (only("RequestVote", turn(raft)).length > 0) requestTimes.push(raft.now - crashedAt);
      if (raft.campaigns > campaigns) timeouts.push(raft.electionDueAt - raft.now);
    }
    const isFaster = timeouts.every((ms, i) => i === 0 || ms >= (timeouts[i - 1] ?? 0));
    expect(isFaster).toBe(true);
    expect(timeouts[0]).toBe(1.25 * HEARTBEAT);
    expect(timeouts.at(-1)).toBe(1.25 * T);
    const intervals = requestTimes.map((at, i) => at - (requestTimes[i - 1] ?? at)).slice(1);
    expect(Math.min(...intervals)).toBeGreaterThanOrEqual(HEARTBEAT / 4);
    expect(intervals[0]).toBe(HEARTBEAT / 4);
    expect(intervals.at(-1)).toBe(HEARTBEAT);
  });

  test("costs no election if a minority sees forged refusals, and one if a majority does", () => {
    for (const deceived of [["b", "c"], ["b", "c", "d"], ["b", "c", "d", "e"]]) {
      const cluster = new Cluster(FIVE, { random: randomFrom(deceived.length) });
      cluster.elect("a");
      cluster.advance(10 * HEARTBEAT);
      const index = cluster.propose("a");
      const { currentTerm } = cluster.at("a");
      cluster.lost = ({ from }) => from === "a"; // So that the leader is late.
      cluster.advance(1.3 * HEARTBEAT);
      for (const afterMs of [1, 6]) {
        for (const name of deceived) cluster.at(name).onPortClosed("a", cluster.now + afterMs);
      }
      cluster.advance(HEARTBEAT / 2); // Otherwise the leader's next message would end the doubt.
      cluster.lost = () => false;
      cluster.advance(10 * T);
      const [leading] = cluster.leaders;
      const elections = (leading?.currentTerm ?? 0) - currentTerm;
      expect(cluster.leaders.length).toBe(1);
      expect(elections).toBe(deceived.length > 2 ? 1 : 0);
      expect(new Set(cluster.up.map((raft) => raft.log.at(index).term))).toEqual(new Set([1]));
    }
  });
});

describe("A leader that has restarted", () => {
  test("is given up: a follower campaigns after a short random wait", () => {
    for (const chance of [0, 0.5, 0.999]) {
      const raft = follower({ random: () => chance });
      wait(raft, 1);
      raft.onRestarted("b", raft.now + 1);
      expect(turn(raft)).toEqual([]);
      expect(raft.role).toEqual({ name: "Follower", leader: undefined });
      expect(raft.hearsLeader()).toBe(false);
      expect(raft.electionDueAt - raft.now).toBeCloseTo(chance * HEARTBEAT / 2, 9);
      const requests = only("RequestVote", timeOut(raft));
      expect(requests.map(({ to, preVote }) => [to, preVote])).toEqual([["b", true], ["c", true]]);
    }
  });

  test("is told apart from other servers, whose restarts change nothing", () => {
    for (const raft of [server(), follower(), preCandidate(), candidate(), settledLeader()]) {
      const { role, electionDueAt, wakeAt } = raft;
      raft.onRestarted("c", raft.now);
      if (raft.leader !== "b") raft.onRestarted("b", raft.now);
      expect(raft.role).toBe(role);
      expect(raft).toMatchObject({ electionDueAt, wakeAt });
    }
  });
});
