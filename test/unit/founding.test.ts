/**
 * Tests that a cluster is founded once: first the rules of the algorithm alone, then servers that
 * lose their disks while the other founders are reachable or not.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { KeyValues, type Message, type Name, type Node, type Raft, Storage } from "../../raft.ts";
import {
  appendEntries,
  appendReply,
  candidate,
  configuration,
  entries,
  flush,
  HEARTBEAT,
  installSnapshot,
  leader,
  membersEntry,
  one,
  only,
  removed,
  requestVote,
  roundOf,
  server,
  step,
  T,
  THREE,
  timeOut,
  timeoutNow,
  turn,
  typesOf,
  voteReply,
  wait,
} from "../support/core.ts";
import { namesOf, World } from "../support/nodes.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { open } from "../support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

/** Returns a message as the wire delivers it: with its sender's disk and founding. */
const fromDisk = <M extends Message>(message: M, founding = 0, disk = 9): M => ({
  ...message,
  founding,
  disk,
});
const empty = (from: Name) => fromDisk(voteReply(0, { from, voteGranted: false, campaign: 0 }));
const emptyFounder = () => server({ isAlone: true, disk: 1 });
/** The founding entry, as a leader of this founding sends it in its first term. */
const first = (founding: number, term = 1) => membersEntry(1, term, configuration(THREE), founding);

/** Returns a follower of `b` in term 1 that has the founding entry, committed or not. */
function founded(isCommitted: boolean): Raft {
  const raft = server();
  const leaderCommit = isCommitted ? 1 : 0;
  step(raft, fromDisk(appendEntries(1, { entries: [first(5)], leaderCommit }), 5));
  expect([raft.founding, raft.commitIndex]).toEqual([5, leaderCommit]);
  return raft;
}

describe("an empty founder", () => {
  test("asks the other founders from its start on, and campaigns when all have shown empty logs", () => {
    const raft = emptyFounder();
    const requests = only("RequestVote", turn(raft));
    expect(requests.map(({ to, preVote }) => [to, preVote])).toEqual([["b", true], ["c", true]]);
    step(raft, empty("b"));
    timeOut(raft);
    expect(raft.role.name).toBe("Follower");
    step(raft, empty("c"));
    timeOut(raft);
    expect(raft.role.name).toBe("PreCandidate");
  });

  test("counts a founder as silent only after asking it for an election timeout", () => {
    const raft = emptyFounder();
    turn(raft);
    wait(raft, 10 * T); // Time passed, but only one question was asked.
    expect(raft.role.name).toBe("Follower");
    for (let ms = 0; ms <= T; ms += HEARTBEAT) {
      expect(only("RequestVote", wait(raft, HEARTBEAT))).toHaveLength(2);
    }
    timeOut(raft);
    expect(raft.role.name).toBe("PreCandidate");
    // With few heartbeats in an election timeout it asks more often, and must wait as long; also
    // with a heartbeat that does not divide the election timeout.
    for (const [heartbeatMs, intervalMs] of [[T / 2, T / 4], [T / 4.5, T / 4.5]] as const) {
      const eager = server({ isAlone: true, disk: 1, heartbeatMs });
      turn(eager);
      for (let ms = intervalMs; ms < T; ms += intervalMs) wait(eager, intervalMs);
      timeOut(eager);
      expect(eager.role.name).toBe("Follower");
      wait(eager, intervalMs);
      timeOut(eager);
      expect(eager.role.name).toBe("PreCandidate");
    }
  });

  test("asks for an election timeout again after a founder has lost its log (catalogue 302, 303)", () => {
    const raft = emptyFounder();
    turn(raft);
    for (let ms = 0; ms <= T; ms += HEARTBEAT) wait(raft, HEARTBEAT);
    // The leader b loses its disk before its log arrives. By then c, so far silent, may have it.
    step(raft, fromDisk(appendEntries(1, { prevLogIndex: 1, prevLogTerm: 1 }), 5));
    expect(raft.leader).toBe("b");
    raft.onHeard("b", 10, 0);
    raft.onRestarted("b", raft.now);
    for (let ms = 0; ms < T; ms += HEARTBEAT / 4) wait(raft, HEARTBEAT / 4);
    timeOut(raft);
    expect(raft.role.name).toBe("Follower");
    wait(raft, HEARTBEAT);
    timeOut(raft);
    expect(raft.role.name).toBe("PreCandidate");
  });

  test("votes for an empty candidate once it has looked for a log itself", () => {
    const raft = emptyFounder();
    const requestVotes = () => only("RequestVoteReply", step(raft, fromDisk(requestVote(1))));
    expect(one(requestVotes())).toMatchObject({ voteGranted: false });
    step(raft, empty("c"));
    expect(one(requestVotes())).toMatchObject({ voteGranted: true });
  });

  test("does not campaign once a founder has shown a log, in any order of the replies", () => {
    const raft = emptyFounder();
    for (const from of ["b", "c"]) step(raft, empty(from));
    step(raft, fromDisk(voteReply(7, { from: "c", voteGranted: false }), 5));
    step(raft, empty("c")); // This reply was sent earlier, by the same disk.
    for (let i = 0; i < 30; i += 1) timeOut(raft);
    expect(raft.role.name).toBe("Follower");
    const [reply] = only("RequestVoteReply", step(raft, fromDisk(requestVote(8))));
    expect(reply).toMatchObject({ voteGranted: false });
    // The disk with the log is lost.
    step(raft, fromDisk(voteReply(7, { from: "c", voteGranted: false }), 0, 10));
    timeOut(raft);
    expect(raft.role.name).toBe("PreCandidate");
  });

  test("gives up its campaign when a founder shows it a log", () => {
    const raft = candidate();
    step(raft, fromDisk(voteReply(1, { from: "c" }), 5));
    expect([raft.role.name, raft.log.lastIndex]).toEqual(["Candidate", 0]);
  });

  test("draws a founding at random when it is elected", () => {
    const [raft, other] = [candidate({ random: () => 0.25 }), candidate({ random: () => 0.75 })];
    for (const elected of [raft, other]) step(elected, fromDisk(voteReply(1, { from: "b" })));
    expect(raft.founding).toBeGreaterThan(0);
    expect(other.founding).not.toBe(raft.founding);
  });
});

describe("a founding", () => {
  test("is kept by each later list of members", () => {
    let chance = 0.1;
    const raft = candidate({ random: () => chance += 0.01 });
    step(raft, fromDisk(voteReply(1, { from: "b" })));
    const { founding } = raft;
    step(raft, fromDisk(appendReply(1, { from: "b", round: 1, matchIndex: 1 }), founding));
    expect(raft.changeMembers("d", "d:1")).toEqual({ index: 2 });
    expect(raft.founding).toBe(founding);
  });

  test("is shown to others only once it is durable", () => {
    const raft = candidate();
    raft.receive(voteReply(1), raft.now);
    expect([raft.founding > 0, raft.shownFounding]).toEqual([true, 0]);
    // Without the founding in a message, the entry must not leave, either.
    const { early, late } = flush(raft);
    expect(early).toEqual([]);
    expect(typesOf(late)).toEqual(["AppendEntries", "AppendEntries"]);
    expect(raft.shownFounding).toBe(raft.founding);
  });

  test("is fixed on a leader before it answers the first command", () => {
    const raft = leader();
    raft.receive(appendReply(1, { matchIndex: 1, round: roundOf(raft) }), raft.now);
    const { saved, applied } = flush(raft);
    expect(saved).toMatchObject({ commitIndex: 1 });
    expect(applied.map(({ index }) => index)).toEqual([1]);
  });

  test("is fixed by the first commit index, which is saved immediately", () => {
    const raft = founded(false);
    raft.receive(
      fromDisk(appendEntries(1, { prevLogIndex: 1, prevLogTerm: 1, leaderCommit: 1 }), 5),
      1,
    );
    expect(flush(raft).saved).toMatchObject({ commitIndex: 1, entries: [] });
    raft.receive(
      fromDisk(
        appendEntries(1, {
          prevLogIndex: 1,
          prevLogTerm: 1,
          leaderCommit: 2,
          entries: entries([1], 1),
        }),
        5,
      ),
      2,
    );
    // The commit index as the follower knows it by then.
    expect(flush(raft).saved).toMatchObject({ commitIndex: 2 });
  });

  test("once fixed, accepts nothing of another founding, in any term, at any index", () => {
    const others: Message[] = [
      requestVote(9, { lastLogIndex: 9, lastLogTerm: 9 }),
      appendEntries(9, { entries: [first(6, 9)] }),
      appendEntries(9, { prevLogIndex: 1, prevLogTerm: 1, entries: entries([9], 1) }),
      installSnapshot(9),
      timeoutNow(1),
      removed(9),
    ];
    for (const message of others) {
      const raft = founded(true);
      for (let i = 0; i < 2; i += 1) {
        expect(step(raft, fromDisk({ ...message, from: "c" }, 6))).toEqual([]);
      }
      const { currentTerm, founding, leader, log: { lastIndex } } = raft;
      expect([currentTerm, founding, leader, lastIndex]).toEqual([1, 5, "b", 1]);
      expect(raft.events.filter(({ type }) => type === "otherFounding"))
        .toEqual([{ type: "otherFounding", server: "c" }]);
    }
  });

  test("before it is fixed, gives way to a founding of a later term, from its first entry on", () => {
    const raft = founded(false);
    const later = (prevLogIndex: number, list = entries([2], prevLogIndex)) =>
      one(
        step(
          raft,
          fromDisk(
            appendEntries(2, {
              from: "c",
              prevLogIndex,
              prevLogTerm: Math.min(prevLogIndex, 1),
              entries: list,
            }),
            6,
          ),
        ),
      );
    // Under the other founding, an entry of the same index and term is a different entry.
    expect(later(1)).toMatchObject({ success: false, hintIndex: 0 });
    expect(later(0, [first(6)])).toMatchObject({ success: true, matchIndex: 1 });
    expect([raft.founding, raft.log.lastIndex]).toEqual([6, 1]);
  });

  test("before it is fixed, keeps its leader against another founding of the same term", () => {
    const raft = founded(false);
    const other = fromDisk(appendEntries(1, { from: "c", entries: [first(6)] }), 6);
    expect(step(raft, other)).toEqual([]);
    expect([raft.founding, raft.leader]).toEqual([5, "b"]);
    // Without its leader it keeps the entries of that term, which may be committed.
    raft.onRestarted("b", raft.now);
    expect(raft.leader).toBeUndefined();
    expect(step(raft, other)).toEqual([]);
    expect([raft.founding, raft.leader]).toEqual([5, undefined]);
  });

  test("outlives its leader's crash if its entry has reached another server", () => {
    const world = new World();
    const { simulation } = world;
    const blocked = new Set<string>();
    // The founding entry reaches one follower, and no acknowledgement comes back.
    simulation.route = ({ bytes: sealed, to }) => {
      const { types } = open(sealed);
      if (types.includes("AppendEntriesReply")) return [];
      if (types.includes("AppendEntries")) {
        if (blocked.size === 0) {
          blocked.add(THREE.find((n) => simulation.machine(n).ip === to.host)!);
        }
        if (simulation.machine([...blocked][0] ?? "").ip !== to.host) return [];
      }
      return [{ afterMs: 1 }];
    };
    world.found();
    const crashed = world.leader() ?? "";
    const [successor = ""] = blocked;
    world.until(() => world.at(successor).status().lastIndex > 0);
    const { founding, commitIndex } = world.at(successor).status();
    expect(commitIndex).toBe(0);
    world.kill(crashed);
    simulation.route = () => [{ afterMs: 1 }];
    world.until(() => world.leader() === successor);
    world.until(() => [...world.nodes.values()].every((n) => n.status().commitIndex > 1));
    for (const node of world.nodes.values()) expect(node.status().founding).toBe(founding);
  });

  test("ends with its leader's crash if its entry has reached no other server", () => {
    const world = new World();
    const { simulation } = world;
    simulation.route = ({ bytes: sealed }) =>
      open(sealed).types.includes("AppendEntries") ? [] : [{ afterMs: 1 }];
    world.found();
    const crashed = world.leader() ?? "";
    const old = world.at(crashed).status().founding;
    world.kill(crashed);
    simulation.route = () => [{ afterMs: 1 }];
    world.until(() => world.leader() !== undefined);
    simulation.settle(
      new KeyValues(world.at(world.leader() ?? "")).put(Buffer.of(1), Buffer.of(2)),
    );
    const { founding, lastIndex } = world.at(world.leader() ?? "").status();
    expect(founding).not.toBe(old);
    const back = world.start(crashed, THREE.filter((name) => name !== crashed));
    expect(back.status().founding).toBe(old);
    world.until(() => back.status().founding === founding && back.status().lastIndex >= lastIndex);
  });
});

describe("servers that lose their disks", () => {
  /** Returns a cluster after `b` and `c` have started again with empty disks. */
  function loseTwoDisks(isReachable: boolean): World {
    const world = new World().found();
    const { simulation } = world;
    for (let i = 0; i < 5; i += 1) {
      simulation.settle(new KeyValues(world.at("a")).put(Buffer.of(i), Buffer.of(i)));
    }
    world.until(() => world.at("a").status().commitIndex > 5);
    const { ip } = simulation.machine("a");
    if (!isReachable) {
      simulation.route = ({ from, to }) =>
        [from.host, to.host].includes(ip) ? [] : [{ afterMs: 1 }];
    }
    for (const name of ["b", "c"]) {
      world.kill(name);
      simulation.machine(name).disk.wipe();
      world.start(name, THREE.filter((other) => other !== name));
    }
    return world;
  }
  const last = (world: World, name: Name) => world.at(name).status().lastIndex;

  test("do not found the cluster again while a reachable founder shows its log", () => {
    const world = loseTwoDisks(true);
    const before = last(world, "a");
    world.simulation.run(60_000);
    expect(world.leader()).toBeUndefined();
    expect(THREE.map((name) => last(world, name))).toEqual([before, 0, 0]);
    const [a, b] = [world.at("a").status(), world.at("b").status()];
    expect(b.peers).toMatchObject([{ name: "a", founding: a.founding }, {
      name: "c",
      founding: 0,
    }]);
    expect(a.peers).toMatchObject([{ usesNamedDisk: false }, { usesNamedDisk: false }]);
  });

  test("found another cluster if that founder is unreachable, which then refuses its log", () => {
    const world = loseTwoDisks(false);
    const { simulation } = world;
    world.until(() => ["b", "c"].includes(world.leader() ?? ""));
    const other = world.leader() ?? "";
    for (let i = 0; i < 20; i += 1) {
      simulation.settle(new KeyValues(world.at(other)).put(Buffer.of(i), Buffer.of(7)));
    }
    const { founding, term } = world.at("a").status();
    for (let run = 0; run < 2; run += 1) {
      const before = last(world, "a");
      simulation.route = () => [{ afterMs: 1 }];
      simulation.run(30_000);
      expect(world.at("a").status()).toMatchObject({ founding, lastIndex: before, term });
      expect(world.eventsOf("a", "otherFounding").length).toBeGreaterThan(0);
      expect(world.at(other).status()).toMatchObject({ role: "Leader" });
      expect(world.at(other).status().founding).not.toBe(founding);
      world.kill("a");
      world.start("a", ["b", "c"]);
    }
    // With an empty disk, `a` joins the new cluster.
    world.kill("a");
    simulation.machine("a").disk.wipe();
    world.start("a", ["b", "c"]);
    world.until(() => world.at("a").status().founding === world.at(other).status().founding);
  });
});

test("an acknowledgement counts although its sender has joined another founding", () => {
  const raft = candidate();
  step(raft, fromDisk(voteReply(1, { from: "b" })));
  step(raft, fromDisk(appendReply(1, { from: "b", round: 1, matchIndex: 1 }), 77));
  expect(raft.commitIndex).toBe(1);
});

describe("a server that forms a new cluster, because the majority of the old one is lost", () => {
  /** Makes a server the only member of a new cluster, as `cli.ts recover` does, and starts it. */
  function recover(world: World, name: Name): Node {
    const { simulation } = world;
    world.kill(name);
    const { disk } = simulation.machine(name);
    const storage = new Storage(disk.files(), "data", undefined, simulation.random);
    storage.formNewCluster();
    storage.close();
    return world.start(name, []);
  }

  const put = (node: Node, key: number) => new KeyValues(node).put(Buffer.of(key), Buffer.of(7));
  const has = async (node: Node, key: number) =>
    await new KeyValues(node).get(Buffer.of(key)) !== undefined;

  /** Kills `b` and `c` of a cluster with one write, and forms a new cluster of `a`. */
  function recoverAlone() {
    const world = new World().found();
    const { simulation } = world;
    simulation.settle(put(world.at("a"), 1));
    simulation.run(500);
    const { founding: old } = world.at("a").status();
    for (const name of ["b", "c"]) world.kill(name);
    return { world, simulation, a: recover(world, "a"), old };
  }

  test("takes nothing from former members that return, and gives them nothing", () => {
    const { world, simulation, a, old } = recoverAlone();
    simulation.settle(put(a, 2));
    const { founding, term, lastIndex } = a.status();
    expect(founding).not.toBe(old);
    // The former members follow a leader of their own, which sends to `a`, too.
    for (const name of ["b", "c"]) world.start(name, THREE);
    world.until(() => THREE.every((name) => world.at(name).status().leader !== null));
    simulation.settle(put(world.at("b"), 3));
    simulation.run(10_000);
    expect(a.status()).toMatchObject({ founding, term, lastIndex, role: "Leader" });
    expect(world.eventsOf("a", "otherFounding").length).toBeGreaterThan(0);
    // As a learner of the new cluster, `b` is sent its log.
    world.change("b", "b:1", "a");
    simulation.run(10_000);
    expect(world.eventsOf("b", "otherFounding")).toEqual([{ type: "otherFounding", server: "a" }]);
    expect(namesOf(a.status().members)).toBe("a (b)");
    expect(a.status().peers).toMatchObject([{ name: "b", founding: old, isVoter: false }]);
    for (const name of ["b", "c"]) expect(world.at(name).status().founding).toBe(old);
    const found = [a, world.at("b")].map((node) =>
      [1, 2, 3].filter((key) => simulation.settle(has(node, key)))
    );
    expect(found).toEqual([[1, 2], [1, 3]]);
  });

  test("answers no program of former members, and they follow their own leader", () => {
    const { world, simulation, a } = recoverAlone();
    world.until(() => a.status().role === "Leader");
    // Before `b` knows a leader, its program asks `a`, the first server of its list.
    for (const name of ["b", "c"]) world.start(name, THREE);
    simulation.settle(put(world.at("b"), 2));
    simulation.run(1000);
    const found = ["a", "b", "c"].map((name) => simulation.settle(has(world.at(name), 2)));
    expect(found).toEqual([false, true, true]);
  });

  test("is joined by servers with empty disks, also by former members", () => {
    const { world, simulation, a } = recoverAlone();
    simulation.machine("b").disk.wipe();
    for (const name of ["b", "d"]) {
      world.start(name, ["a"], { join: true });
      world.change(name, `${name}:1`, "a");
    }
    world.agree("a b d");
    world.start("c", THREE); // It still has the old log.
    simulation.run(10_000);
    const { founding } = a.status();
    for (const name of ["b", "d"]) {
      expect(world.at(name).status()).toMatchObject({ founding, leader: "a" });
      expect(simulation.settle(has(world.at(name), 1))).toBe(true);
    }
    expect(world.at("c").status().leader).toBeNull();
  });

  for (const [what, snapshotBytes] of [["log", 1 << 20], ["snapshot", 10_000]] as const) {
    test(`is joined although its ${what} is larger than a message`, () => {
      const world = new World().found(THREE, { snapshotBytes });
      const { simulation } = world;
      for (let i = 0; i < 50; i += 1) {
        const store = new KeyValues(world.at("a"));
        simulation.settle(store.put(Buffer.of(i), Buffer.alloc(1000)));
      }
      simulation.run(500);
      expect(world.at("a").status().snapshotIndex > 0).toBe(what === "snapshot");
      for (const name of THREE) world.kill(name);
      const a = recover(world, "a");
      world.start("d", ["a"], { join: true });
      world.change("d", "d:1", "a");
      world.agree("a d");
      expect(world.at("d").status().founding).toBe(a.status().founding);
      expect(simulation.settle(has(world.at("d"), 49))).toBe(true);
    });
  }

  test("keeps its entries when a former leader speaks first, although none was committed", () => {
    const world = new World();
    const { simulation } = world;
    // The founding entry reaches `a`, and no acknowledgement comes back.
    simulation.route = ({ bytes }) =>
      open(bytes).types.includes("AppendEntriesReply") ? [] : [{ afterMs: 1 }];
    world.found();
    const former = world.leader() ?? "";
    const last = THREE.find((name) => name !== former) ?? "";
    world.until(() => world.at(last).status().lastIndex === 1);
    const before = world.at(last).status();
    expect(before.commitIndex).toBe(0);
    const node = recover(world, last);
    const message = appendEntries(9, { from: former, entries: [first(before.founding, 9)] });
    node["core"].receive(fromDisk(message, before.founding), simulation.now);
    simulation.run(3000);
    const { founding, role, lastIndex } = node.status();
    expect([founding === before.founding, role]).toEqual([false, "Leader"]);
    expect(lastIndex).toBe(3); // The founding, its replacement, and the leader's no-op.
  });
});
