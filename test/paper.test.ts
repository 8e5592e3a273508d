/**
 * The Raft paper as a list of tests. Read it beside "In Search of an Understandable Consensus
 * Algorithm (Extended Version)". The tests follow its sections, with Figure 2 after §5.4. Each title
 * is a sentence of the paper, or a clause of one, and its test proves that claim. In a title, "..."
 * marks an omission and [brackets] an addition.
 *
 * In three places raft.ts follows Ongaro's thesis instead of the paper: a campaign begins with a
 * pre-vote (§9.6), a server that hears a leader does not vote (§4.2.3), and members change one at a
 * time (§4.1). The tests of members, and of all other refinements, are in `unit/`.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type Entry,
  type Message,
  type Name,
  Raft,
  type RoleName,
  Sessions,
  sizeOf,
} from "../raft.ts";
import {
  acknowledge,
  appendEntries,
  appendReply,
  candidate,
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
  grantPreVotes,
  grantVotes,
  HEARTBEAT,
  heartbeat,
  installSnapshot,
  leader,
  logOf,
  one,
  only,
  preCandidate,
  progress,
  propose,
  receiversOf,
  request,
  requestVote,
  roundOf,
  server,
  settledLeader,
  snapshotOf,
  step,
  T,
  termsOf,
  THREE,
  timeOut,
  to,
  turn,
  typesOf,
  voteReply,
  wait,
} from "./support/core.ts";
import { applyTo, isSameEntry, makeEntry } from "./support/entries.ts";
import { randomFrom } from "./support/random.ts";
import { PATIENCE_MS } from "./support/thorough.ts";
import { makeCommand, makeOpening } from "./support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

/**
 * One bad day of five servers, from a seed: every fourth message is lost, the others overtake each
 * other, servers crash and start again. Many sentences are about what never happens, so the day is
 * recorded once, and each of them is checked against the record.
 */
function badDay(seed: number) {
  const random = randomFrom(seed);
  const cluster = new Cluster(FIVE, { random, batchBytes: 100, windowBytes: 300 });
  const leaders = new Map<number, Set<Name>>();
  const termsSeen = new Map<Name, number[]>();
  const histories = new Map<number, Entry[][]>();
  const committed: Entry[] = [];
  const commitTerms = new Map<number, number>();
  const disagreements: string[] = [];
  const watch = (raft: Raft) => {
    const { name } = raft.settings;
    termsSeen.set(name, [...(termsSeen.get(name) ?? []), raft.currentTerm]);
    for (const e of raft.log.slice(1, raft.commitIndex)) {
      commitTerms.getOrInsert(e.index, raft.currentTerm);
      const first = committed[e.index - 1] ?? e;
      committed[e.index - 1] = first;
      if (!isSameEntry(first, e)) disagreements.push(`${name} at ${e.index}`);
    }
    if (raft.role.name !== "Leader") return;
    const { currentTerm: term } = raft;
    leaders.set(term, (leaders.get(term) ?? new Set()).add(name));
    histories.set(term, [...(histories.get(term) ?? []), raft.log.slice(1)]);
  };
  cluster.watch = watch;
  cluster.lost = () => random() < 0.25;
  cluster.next = (underWay) => Math.floor(random() * underWay);
  for (let i = 0; i < 150; i += 1) {
    const victim = FIVE[Math.floor(random() * 5)] ?? "a";
    const leading = cluster.leaders[0]?.settings.name ?? victim;
    if (random() < 0.2 && cluster.down.size < 2) cluster.crash(random() < 0.5 ? leading : victim);
    if (random() < 0.2) cluster.restart(...cluster.down);
    for (const raft of cluster.leaders) cluster.propose(raft.settings.name, `${i}`);
    cluster.advance(T / 4);
  }
  cluster.lost = () => false;
  cluster.restart(...cluster.down);
  cluster.advance(10 * T);
  return { cluster, leaders, termsSeen, histories, committed, commitTerms, disagreements };
}
let recorded: ReturnType<typeof badDay> | undefined;
function day() {
  recorded ??= badDay(20140619);
  return recorded;
}

test("the record of the bad day has many terms, commits and refusals", () => {
  expect(day().leaders.size).toBeGreaterThan(5);
  expect(day().committed.length).toBeGreaterThan(50);
  const refusals = only("AppendEntriesReply", day().cluster.sent).filter((m) => !m.success);
  expect(refusals.length).toBeGreaterThan(20);
});

describe("§5.1 Raft basics", () => {
  test("five is a typical number, which allows the system to tolerate two failures", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.crash("a", "b");
    expect(cluster.elect("c")).toBe(true);
    const index = cluster.propose("c");
    expect(cluster.at("c").commitIndex).toBe(index);
    cluster.crash("d"); // A third failure is one too many, so no command is committed.
    expect(cluster.propose("c")).toBe(index + 1);
    cluster.advance(5 * T);
    expect(cluster.at("c").commitIndex).toBe(index);
  });

  test("there is exactly one leader and all of the other servers are followers", () => {
    const cluster = new Cluster(FIVE);
    cluster.advance(20 * T); // "In normal operation".
    expect(cluster.up.map((raft) => raft.role.name).sort()).toEqual([
      ...Array<RoleName>(4).fill("Follower"),
      "Leader",
    ]);
  });

  test("Followers are passive: they issue no requests on their own", () => {
    const raft = follower();
    expect(wait(raft, T - 1)).toEqual([]);
    expect(wait(raft, 0)).toEqual([]);
  });

  test("but simply respond to requests from leaders and candidates", () => {
    const raft = follower();
    expect(one(step(raft, heartbeat(raft)))).toMatchObject({ type: "AppendEntriesReply", to: "b" });
    const fromCandidate = request(raft, 2, { from: "c" });
    expect(one(step(raft, fromCandidate))).toMatchObject({ type: "RequestVoteReply", to: "c" });
  });

  test("The leader handles all client requests", () => {
    const data = Buffer.from("x");
    expect(leader({ log: [1] }).propose("commands", data)).toBe(3); // 2 is the no-op.
    for (const raft of [server(), follower(), preCandidate(), candidate()]) {
      expect(raft.propose("commands", data)).toBeUndefined();
      expect(raft.read()).toBe(false);
      expect(raft.log.lastIndex).toBe(0);
    }
  });

  test("if a client contacts a follower, the follower redirects it to the leader", () => {
    expect(follower({}, "c").leader).toBe("c");
    expect(leader().leader).toBe("a");
    expect(candidate().leader).toBeUndefined();
  });

  test("Terms are numbered with consecutive integers", () => {
    const raft = server({ term: 7 });
    for (const term of [8, 9, 10]) {
      timeOut(raft);
      grantPreVotes(raft);
      expect(raft.currentTerm).toBe(term);
    }
  });

  test("If a candidate wins ..., then it serves as leader for the rest of the term", () => {
    const raft = settledLeader({ term: 5 });
    for (let i = 0; i < 50; i += 1) {
      wait(raft, HEARTBEAT);
      acknowledge(raft, "b");
      step(raft, voteReply(5, { from: "c" }));
      step(raft, voteReply(5, { from: "c", voteGranted: false }));
    }
    expect(raft.role.name).toBe("Leader");
    expect(raft.currentTerm).toBe(5);
  });

  test("split vote: the term will end with no leader; a new term ... will begin shortly", () => {
    const raft = candidate({ term: 5, members: FIVE });
    step(raft, voteReply(5, { from: "b" }));
    for (const from of ["c", "d", "e"]) step(raft, voteReply(5, { from, voteGranted: false }));
    expect(raft.role.name).toBe("Candidate");
    const since = raft.now;
    timeOut(raft);
    grantPreVotes(raft);
    expect(raft.currentTerm).toBe(6);
    expect(raft.now - since).toBeLessThan(2 * T);
  });

  test("Raft ensures that there is at most one leader in a given term", () => {
    for (const names of day().leaders.values()) expect(names.size).toBe(1);
  });

  test("in some situations a server may not observe an election or even entire terms", () => {
    const raft = follower({ term: 2 });
    step(raft, appendEntries(9, { from: "c" }));
    expect(raft.currentTerm).toBe(9);
    expect(raft.leader).toBe("c");
  });

  test("they allow servers to detect obsolete information such as stale leaders", () => {
    const raft = follower({ term: 5 }, "b");
    step(raft, appendEntries(4, { from: "c", entries: entries([4]) }));
    expect(raft.leader).toBe("b");
    expect(raft.log.lastIndex).toBe(0);
  });

  test("Each server stores a current term number, which increases monotonically over time", () => {
    for (const seen of day().termsSeen.values()) {
      expect(seen).toEqual(seen.toSorted((x, y) => x - y));
      expect(seen.at(-1)).toBeGreaterThan(5);
    }
  });

  test("Current terms are exchanged whenever servers communicate", () => {
    const raft = candidate({ term: 5 });
    expect(only("RequestVote", wait(raft, HEARTBEAT)).map((m) => m.term)).toEqual([5, 5]);
    expect(grantVotes(raft).map((m) => m.term)).toEqual([5, 5]);
    expect(step(raft, appendEntries(4)).map((m) => m.term)).toEqual([5]);
    expect(step(raft, requestVote(4)).map((m) => m.term)).toEqual([5]);
  });

  test("if one server's current term is smaller ..., then it updates its current term", () => {
    for (
      const message of [
        appendEntries(9),
        appendReply(9),
        appendReply(9, { success: false }),
        requestVote(9),
        voteReply(9, { voteGranted: false }),
        voteReply(9, { voteGranted: false, preVote: true }),
      ]
    ) {
      const raft = server({ term: 5, votedFor: "c" });
      step(raft, message);
      expect(raft.currentTerm).toBe(9);
    }
  });

  test("If a candidate ... discovers that its term is out of date, it immediately reverts", () => {
    const raft = candidate({ term: 5 });
    step(raft, voteReply(6, { voteGranted: false }));
    expect(raft.role.name).toBe("Follower");
    expect(raft.currentTerm).toBe(6);
  });

  test("If a ... leader discovers that its term is out of date, it immediately reverts", () => {
    const raft = leader({ term: 5 });
    step(raft, appendReply(6, { success: false }));
    expect(raft.role).toEqual({ name: "Follower", leader: undefined });
    expect(raft.currentTerm).toBe(6);
  });

  test("If a server receives a request with a stale term number, it rejects the request", () => {
    const raft = server({ term: 5 });
    expect(one(step(raft, requestVote(4)))).toMatchObject({ term: 5, voteGranted: false });
    expect(one(step(raft, appendEntries(4)))).toMatchObject({ term: 5, success: false });
  });

  test("the basic consensus algorithm requires only two types of RPCs", () => {
    const requests = ["AppendEntries", "RequestVote"];
    const types = [...requests, ...requests.map((type) => `${type}Reply`)].sort();
    expect([...new Set<string>(typesOf(day().cluster.sent))].sort()).toEqual(types);
  });

  test("Servers retry RPCs if they do not receive a response in a timely manner", () => {
    const asking = candidate();
    expect(wait(asking, HEARTBEAT - 1)).toEqual([]);
    expect(typesOf(wait(asking, 1))).toEqual(["RequestVote", "RequestVote"]);
    const leading = leader();
    expect(wait(leading, HEARTBEAT / 8 - 1)).toEqual([]);
    expect(typesOf(wait(leading, 1))).toEqual(["AppendEntries", "AppendEntries"]);
  });

  test("and they issue RPCs in parallel for best performance", () => {
    const raft = preCandidate({ members: FIVE });
    expect(receiversOf(grantPreVotes(raft))).toEqual(["b", "c", "d", "e"]);
    expect(receiversOf(grantVotes(raft))).toEqual(["b", "c", "d", "e"]);
  });
});

describe("§5.2 Leader election", () => {
  test("Raft uses a heartbeat mechanism to trigger leader election", () => {
    const raft = follower();
    for (let i = 0; i < 100; i += 1) {
      wait(raft, HEARTBEAT);
      step(raft, heartbeat(raft));
    }
    expect(raft.role.name).toBe("Follower");
    expect(typesOf(wait(raft, 2 * T))).toEqual(["RequestVote", "RequestVote"]);
  });

  test("When servers start up, they begin as followers", () => {
    for (const votedFor of [undefined, "a", "b"]) {
      const raft = server({ log: [1, 3], term: 5, votedFor });
      expect(raft.role).toEqual({ name: "Follower", leader: undefined });
      expect(turn(raft)).toEqual([]);
    }
  });

  test("A server remains in follower state as long as it receives valid RPCs", () => {
    const raft = follower({ random: () => 0 });
    for (let i = 0; i < 10; i += 1) {
      expect(wait(raft, T - 1)).toEqual([]);
      step(raft, heartbeat(raft));
    }
    expect(raft.role.name).toBe("Follower");
  });

  test("... as long as it receives valid RPCs from a leader or candidate", () => {
    const raft = server({ random: () => 0 });
    for (let term = 1; term < 10; term += 1) {
      expect(wait(raft, T - 1)).toEqual([]);
      step(raft, requestVote(term));
    }
    expect(raft.role.name).toBe("Follower");
  });

  test("Leaders send periodic heartbeats (AppendEntries RPCs that carry no log entries)", () => {
    const raft = settledLeader();
    for (let i = 0; i < 20; i += 1) {
      const sent = only("AppendEntries", wait(raft, HEARTBEAT));
      expect(receiversOf(sent)).toEqual(["b", "c"]);
      expect(sent.flatMap((m) => m.entries)).toEqual([]);
      acknowledge(raft, "b");
    }
  });

  test("If a follower receives no communication ..., then it ... begins an election", () => {
    const raft = follower();
    raft.tick(raft.electionDueAt - 1);
    expect(turn(raft)).toEqual([]);
    expect(raft.role.name).toBe("Follower");
    raft.tick(raft.electionDueAt);
    expect(typesOf(turn(raft))).toEqual(["RequestVote", "RequestVote"]);
  });

  test("a follower increments its current term and transitions to candidate state", () => {
    const raft = follower({ term: 5 });
    timeOut(raft);
    grantPreVotes(raft);
    expect(raft.role.name).toBe("Candidate");
    expect(raft.currentTerm).toBe(6);
  });

  test("It then votes for itself", () => {
    const raft = candidate({ log: [1, 3] });
    expect(raft.votedFor).toBe("a");
    expect(raft.saved).toMatchObject({ currentTerm: 4, votedFor: "a" });
  });

  test("and issues RequestVote RPCs in parallel to each of the other servers", () => {
    const raft = preCandidate({ members: FIVE, log: [1, 3], term: 5 });
    const sent = grantPreVotes(raft);
    expect(receiversOf(sent)).toEqual(["b", "c", "d", "e"]);
    const expected = {
      type: "RequestVote",
      term: 6,
      preVote: false,
      lastLogIndex: 2,
      lastLogTerm: 3,
    };
    for (const message of sent) expect(message).toMatchObject(expected);
  });

  test("A candidate continues in this state until ... (a) it wins the election", () => {
    const raft = candidate({ members: FIVE });
    step(raft, voteReply(1, { from: "b" }));
    expect(raft.role.name).toBe("Candidate");
    step(raft, voteReply(1, { from: "c" }));
    expect(raft.role.name).toBe("Leader");
  });

  test("(b) another server establishes itself as leader", () => {
    const raft = candidate({ term: 5 });
    step(raft, appendEntries(5, { from: "c" }));
    expect(raft.role).toEqual({ name: "Follower", leader: "c" });
    expect(raft.votedFor).toBe("a");
  });

  test("or (c) a period of time goes by with no winner", () => {
    const raft = candidate({ term: 5 });
    raft.tick(raft.electionDueAt - 1);
    turn(raft);
    expect(raft.role.name).toBe("Candidate");
    timeOut(raft);
    expect(raft.role.name).toBe("PreCandidate");
    expect(raft.currentTerm).toBe(5);
    expect(raft.votedFor).toBe("a"); // The term is the same, so the vote is still a promise.
  });

  test.each([2, 3, 4, 5, 6, 7])(
    "A candidate wins an election if it receives votes from a majority: %p servers",
    (size) => {
      const members = [..."abcdefg"].slice(0, size);
      const raft = candidate({ members, term: 5 });
      for (const [i, from] of raft.others.entries()) {
        const votes = i + 1; // Its own vote, and those of the first i servers.
        expect(raft.role.name).toBe(votes > size / 2 ? "Leader" : "Candidate");
        step(raft, voteReply(5, { from }));
      }
      expect(raft.role.name).toBe("Leader");
    },
  );

  test("votes from a majority of the servers in the full cluster", () => {
    const raft = candidate({ members: FIVE });
    for (const from of ["a stranger", "another"]) step(raft, voteReply(1, { from }));
    expect(raft.role.name).toBe("Candidate");
  });

  test("for the same term", () => {
    const raft = candidate({ term: 5 });
    step(raft, voteReply(4, { from: "b" }));
    step(raft, voteReply(4, { from: "c" }));
    expect(raft.role.name).toBe("Candidate");
    step(raft, voteReply(5, { from: "b" }));
    expect(raft.role.name).toBe("Leader");
  });

  test("Each server will vote for at most one candidate in a given term", () => {
    const raft = server();
    expect(one(step(raft, requestVote(5, { from: "c" })))).toMatchObject({ voteGranted: true });
    expect(one(step(raft, requestVote(5, { from: "b" })))).toMatchObject({ voteGranted: false });
    expect(raft.votedFor).toBe("c");
    expect(one(step(raft, requestVote(6, { from: "b" })))).toMatchObject({ voteGranted: true });
  });

  test("on a first-come-first-served basis", () => {
    for (
      const [first, second] of [
        ["b", "c"],
        ["c", "b"],
      ] as const
    ) {
      const raft = server();
      raft.receive(requestVote(5, { from: first }), 0);
      raft.receive(requestVote(5, { from: second }), 0);
      const granted = only("RequestVoteReply", turn(raft)).filter((m) => m.voteGranted);
      expect(receiversOf(granted)).toEqual([first]);
    }
  });

  test("The majority rule ensures that at most one candidate can win the election", () => {
    for (let ballot = 0; ballot < 2 ** 3; ballot += 1) {
      const rivals = ["a", "b"].map((name) => candidate({ name, members: FIVE, term: 5 }));
      for (const [i, from] of ["c", "d", "e"].entries()) {
        const chosen = rivals[(ballot >> i) & 1];
        if (chosen) step(chosen, voteReply(5, { from, to: chosen.settings.name }));
      }
      expect(rivals.filter((raft) => raft.role.name === "Leader").length).toBe(1);
    }
  });

  test("It then sends heartbeat messages to all of the other servers", () => {
    const raft = candidate({ members: FIVE, log: [1] });
    const sent = only("AppendEntries", grantVotes(raft));
    expect(receiversOf(sent)).toEqual(["b", "c", "d", "e"]);
    // Ours carry the no-op, which commits what earlier terms have left (§8).
    for (const message of sent) expect(one(message.entries)).toMatchObject({ kind: "noop" });
  });

  test("to establish its authority and prevent new elections", () => {
    const rival = candidate({ name: "b", term: 5 });
    step(rival, one(to("b", only("AppendEntries", grantVotes(candidate({ term: 5 }))))));
    expect(rival.role).toEqual({ name: "Follower", leader: "a" });
    expect(rival.electionDueAt).toBeGreaterThanOrEqual(rival.now + T);
  });

  test.each([5, 6])(
    "If the leader's term ... is at least as large ... the candidate ... returns to follower: %p",
    (term) => {
      const raft = candidate({ term: 5 });
      expect(one(step(raft, appendEntries(term)))).toMatchObject({ success: true, term });
      expect(raft.role).toEqual({ name: "Follower", leader: "b" });
    },
  );

  test("If the term in the RPC is smaller ... the candidate rejects the RPC and continues", () => {
    const raft = candidate({ term: 5 });
    expect(one(step(raft, appendEntries(4)))).toMatchObject({ success: false, term: 5 });
    expect(raft.role.name).toBe("Candidate");
  });

  const splitVote = () => {
    const cluster = new Cluster(THREE, { random: () => 0.5 }); // So all servers time out together.
    cluster.now = 1.5 * T;
    for (const raft of cluster.up) raft.tick(cluster.now);
    for (const raft of cluster.up) cluster.flush(raft);
    cluster.settle();
    return cluster;
  };

  test("if many followers become candidates at the same time, votes could be split", () => {
    const { up } = splitVote();
    expect(up.map((raft) => raft.role.name)).toEqual(["Candidate", "Candidate", "Candidate"]);
    expect(up.map((raft) => raft.currentTerm)).toEqual([1, 1, 1]);
    expect(up.map((raft) => raft.votedFor)).toEqual(THREE);
  });

  test("each candidate will time out and start a new election by incrementing its term", () => {
    const cluster = splitVote();
    expect(cluster.elect("b")).toBe(true);
    expect(cluster.at("b").currentTerm).toBe(2);
    expect(cluster.leaders).toEqual([cluster.at("b")]);
  });

  test("and initiating another round of RequestVote RPCs", () => {
    const raft = candidate({ term: 5 });
    const expected = { type: "RequestVote", term: 6 };
    for (const message of timeOut(raft)) {
      expect(message).toMatchObject({ ...expected, preVote: true });
    }
    const sent = grantPreVotes(raft);
    expect(receiversOf(sent)).toEqual(["b", "c"]);
    for (const message of sent) expect(message).toMatchObject({ ...expected, preVote: false });
  });

  test("election timeouts are chosen randomly from a fixed interval", () => {
    for (
      const [chance, timeout] of [
        [0, T],
        [0.25, 1.125 * T],
        [0.998, 1.499 * T],
      ] as const
    ) {
      expect(server({ random: () => chance }).electionDueAt).toBe(timeout);
    }
  });

  test("randomized election timeouts ... ensure that split votes are rare", () => {
    let terms = 0;
    for (let seed = 1; seed <= 100; seed += 1) {
      const cluster = new Cluster(FIVE, { random: randomFrom(seed) });
      cluster.advance(2 * T);
      expect(cluster.leaders.length).toBe(1);
      terms += cluster.at("a").currentTerm;
    }
    expect(terms).toBe(100); // Without network delays, the first candidate always wins.
  });

  test("and that they are resolved quickly", () => {
    for (let seed = 1; seed <= 100; seed += 1) {
      const random = randomFrom(seed);
      const cluster = new Cluster(FIVE, { random });
      cluster.lost = () => random() < 0.3;
      cluster.advance(12 * T);
      expect(Math.max(...cluster.sent.map((m) => m.term))).toBeLessThan(8);
      expect(only("AppendEntries", cluster.sent).length).toBeGreaterThan(0);
    }
  });

  test("Each candidate restarts its randomized election timeout", () => {
    const timeouts = [0.1, 0.9, 0.3, 0.6];
    const raft = server({ random: () => timeouts.shift() ?? 0 });
    const drawn: number[] = [];
    for (let i = 0; i < 3; i += 1) {
      timeOut(raft);
      drawn.push(raft.electionDueAt - raft.now);
    }
    expect(drawn.map(Math.round)).toEqual([1.45 * T, 1.15 * T, 1.3 * T]);
    grantPreVotes(raft);
    expect(raft.electionDueAt - raft.now).toBe(T); // The real election draws another timeout.
  });

  test("and it waits for that timeout to elapse before starting the next election", () => {
    const raft = candidate({ term: 5 });
    const { electionDueAt: due } = raft;
    while (raft.now < due - HEARTBEAT) wait(raft, HEARTBEAT);
    expect(raft.role.name).toBe("Candidate");
    expect(raft.electionDueAt).toBe(due);
    wait(raft, HEARTBEAT);
    expect(raft.role.name).toBe("PreCandidate");
  });
});

describe("§5.3 Log replication", () => {
  test("The leader appends the command to its log as a new entry", () => {
    const raft = settledLeader({ log: [1, 1], term: 4 });
    expect(propose(raft, "x = 3")).toBe(4);
    expect(raft.log.at(4)).toMatchObject({ index: 4, term: 4, kind: "commands" });
    expect(raft.log.at(4).data.toString()).toBe("x = 3");
  });

  test("then issues AppendEntries RPCs in parallel to each of the other servers", () => {
    const raft = settledLeader({ members: FIVE });
    const index = propose(raft, "x = 3");
    const sent = only("AppendEntries", turn(raft));
    expect(receiversOf(sent)).toEqual(["b", "c", "d", "e"]);
    for (const message of sent) expect(one(message.entries)).toEqual(raft.log.at(index));
  });

  test("When the entry has been safely replicated, the leader applies the entry", () => {
    const raft = settledLeader({ members: FIVE });
    propose(raft, "x = 3");
    expect(flush(raft).applied).toEqual([]);
    const reply = appendReply(1, { round: roundOf(raft), matchIndex: 2 });
    raft.receive({ ...reply, from: "b" }, raft.now);
    expect(flush(raft).applied).toEqual([]);
    raft.receive({ ...reply, from: "c" }, raft.now);
    expect(one(flush(raft).applied).data.toString()).toBe("x = 3");
    expect(flush(raft).applied).toEqual([]);
  });

  test("the leader retries AppendEntries RPCs indefinitely", () => {
    const raft = settledLeader({ log: [1, 1] });
    for (let i = 0; i < 100; i += 1) {
      expect(to("c", wait(raft, HEARTBEAT)).length).toBe(1);
      acknowledge(raft, "b");
    }
  });

  test("until all followers eventually store all log entries", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.lost = (m) => m.to === "c";
    for (let i = 0; i < 20; i += 1) cluster.propose("a", `${i}`);
    cluster.advance(10 * T);
    expect(cluster.applied.get("a")?.length).toBe(21);
    expect(cluster.at("c").log.lastIndex).toBe(1);
    cluster.lost = () => false;
    cluster.advance(2 * HEARTBEAT);
    expect(logOf(cluster.at("c"))).toEqual(logOf(cluster.at("a")));
  });

  test("Each log entry stores ... the term number when [it] was received by the leader", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.propose("a");
    cluster.elect("b");
    cluster.propose("b");
    for (const raft of cluster.up) expect(termsOf(raft)).toEqual([1, 1, 2, 2]);
  });

  test("Each log entry also has an integer index identifying its position in the log", () => {
    const indexes = day()
      .cluster.at("a")
      .log.slice(1)
      .map((e) => e.index);
    expect(indexes).toEqual(indexes.map((_, i) => i + 1));
  });

  test("Raft guarantees that committed entries are durable", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    const index = cluster.propose("a", "x = 3");
    cluster.crash(...FIVE);
    cluster.restart("c", "d", "e");
    expect(cluster.elect("d")).toBe(true);
    for (const raft of cluster.up) expect(raft.log.at(index).data.toString()).toBe("x = 3");
  });

  test("and will eventually be executed by all of the available state machines", () => {
    const commands = day().cluster.at("a").log.slice(1);
    expect(day().cluster.at("a").lastApplied).toBe(commands.length);
    for (const raft of day().cluster.up) expect(raft.lastApplied).toBe(commands.length);
  });

  test.each([2, 3, 4, 5, 6, 7])(
    "A log entry is committed once the leader ... has replicated it on a majority of %p",
    (size) => {
      const raft = settledLeader({ members: [..."abcdefg"].slice(0, size) });
      const index = propose(raft);
      turn(raft);
      for (const [i, from] of raft.others.entries()) {
        expect(raft.commitIndex).toBe(i + 1 > size / 2 ? index : index - 1);
        acknowledge(raft, from);
      }
      expect(raft.commitIndex).toBe(index);
    },
  );

  test("This also commits all preceding entries, including ... created by previous leaders", () => {
    const raft = leader({ log: [1, 2, 3] });
    raft.receive(appendReply(4, { matchIndex: 4 }), raft.now);
    expect(termsOf(flush(raft).applied)).toEqual([1, 2, 3, 4]);
  });

  test("it includes that index in future AppendEntries RPCs (including heartbeats)", () => {
    const raft = leader({ log: [1] });
    acknowledge(raft, "b");
    const beats = only("AppendEntries", wait(raft, HEARTBEAT));
    expect(beats.map((m) => m.leaderCommit)).toEqual([2, 2]);
    propose(raft);
    const sent = only("AppendEntries", turn(raft));
    // No reply from c confirms that its log agrees.
    expect(sent.map((m) => m.leaderCommit)).toEqual([2]);
    expect(one(only("AppendEntries", acknowledge(raft, "c", 2))).leaderCommit).toBe(2);
  });

  test("so that the other servers eventually find out", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    const index = cluster.propose("a");
    cluster.advance(2 * HEARTBEAT);
    expect(cluster.up.map((raft) => raft.commitIndex)).toEqual([index, index, index]);
  });

  test("Once a follower learns that a log entry is committed, it applies the entry", () => {
    const raft = follower({ log: [1, 1, 2], term: 2 });
    raft.receive(heartbeat(raft, { leaderCommit: 2 }), raft.now);
    expect(flush(raft).applied.map((e) => e.index)).toEqual([1, 2]);
    raft.receive(heartbeat(raft, { leaderCommit: 3 }), raft.now);
    expect(flush(raft).applied.map((e) => e.index)).toEqual([3]);
  });

  test("If two entries ... have the same index and term, then they store the same command", () => {
    const known = new Map<string, Entry>();
    for (const log of [...day().histories.values()].flat()) {
      for (const e of log) {
        const first = known.getOrInsert(`${e.index} of ${e.term}`, e);
        if (!isSameEntry(first, e)) throw new Error(`two entries ${e.index} of ${e.term}`);
      }
    }
    expect(known.size).toBeGreaterThan(50);
  });

  test("then the logs are identical in all preceding entries", () => {
    // If an entry always has the same predecessor, it always has the same predecessors.
    const predecessors = new Map<string, number>();
    for (const log of [...day().histories.values()].flat()) {
      for (const [i, e] of log.entries()) {
        const before = log[i - 1]?.term ?? 0;
        const known = predecessors.getOrInsert(`${e.index} of ${e.term}`, before);
        if (known !== before) throw new Error(`two logs differ below ${e.index} of ${e.term}`);
      }
    }
    expect(predecessors.size).toBeGreaterThan(50);
  });

  test("log entries never change their position in the log", () => {
    const raft = follower({ log: [1, 1] });
    const before = raft.log.slice(1);
    step(raft, appendEntries(2, { prevLogIndex: 2, prevLogTerm: 1, entries: entries([2], 2) }));
    expect(raft.log.slice(1)).toEqual([...before, entry(3, 2)]);
  });

  test("the leader includes the index and term of the entry ... that immediately precedes", () => {
    const raft = settledLeader({ log: [1, 3], term: 7 });
    propose(raft);
    for (const message of only("AppendEntries", turn(raft))) {
      expect(message).toMatchObject({ prevLogIndex: 3, prevLogTerm: 7 });
    }
  });

  test("If the follower does not find an entry ..., then it refuses the new entries", () => {
    for (
      const previous of [
        { prevLogIndex: 4, prevLogTerm: 2 }, // Missing entries.
        { prevLogIndex: 3, prevLogTerm: 3 }, // Entries of another term.
        { prevLogIndex: 2, prevLogTerm: 2 },
      ]
    ) {
      const raft = follower({ log: [1, 1, 2], term: 5 });
      const news = entries([5], previous.prevLogIndex);
      const reply = one(step(raft, appendEntries(5, { ...previous, entries: news })));
      expect(reply).toMatchObject({ type: "AppendEntriesReply", success: false, term: 5 });
      expect(termsOf(raft)).toEqual([1, 1, 2]);
    }
  });

  test("the initial empty state of the logs satisfies the Log Matching Property", () => {
    const raft = follower({ term: 3 });
    const reply = one(step(raft, appendEntries(3, { entries: entries([1, 1, 3]) })));
    expect(reply).toMatchObject({ success: true, matchIndex: 3 });
    expect(termsOf(raft)).toEqual([1, 1, 3]);
  });

  test("the follower's log is identical to its own log up through the new entries", () => {
    // The follower's later entries may differ from the leader's, so the reply does not cover them.
    const raft = follower({ log: [1, 1, 2, 2, 2], term: 3 });
    const previous = { prevLogIndex: 1, prevLogTerm: 1 };
    const reply = one(step(raft, appendEntries(3, { ...previous, entries: entries([1], 1) })));
    expect(reply).toMatchObject({ success: true, matchIndex: 2 });
  });

  test("During normal operation, ... the AppendEntries consistency check never fails", () => {
    const cluster = new Cluster(FIVE, { batchBytes: 100 });
    cluster.elect("a");
    for (let i = 0; i < 100; i += 1) {
      cluster.propose("a", `${i}`);
      if (i % 10 === 0) cluster.advance(HEARTBEAT);
    }
    const replies = only("AppendEntriesReply", cluster.sent);
    expect(replies.length).toBeGreaterThan(400);
    expect(replies.filter((m) => !m.success)).toEqual([]);
  });

  test("conflicting entries in follower logs will be overwritten with ... the leader's log", () => {
    const raft = follower({ log: [1, 1, 2, 2], term: 4 });
    const previous = { prevLogIndex: 2, prevLogTerm: 1 };
    step(raft, appendEntries(4, { ...previous, entries: entries([3, 3, 4], 2) }));
    expect(termsOf(raft)).toEqual([1, 1, 3, 3, 4]);
    expect(raft.log.savedIndex).toBe(5);
  });

  test("the overwriting entries are saved again, from the first one that differs", () => {
    const raft = follower({ log: [1, 1, 2, 2], term: 4 });
    const previous = { prevLogIndex: 1, prevLogTerm: 1 };
    raft.receive(appendEntries(4, { ...previous, entries: entries([1, 3], 1) }), raft.now);
    expect(flush(raft).saved?.entries).toEqual([entry(3, 3)]);
  });

  test("all nextIndex values [begin at] the index just after the last one in its log", () => {
    const raft = candidate({ log: [1, 2, 2], members: FIVE });
    for (const message of only("AppendEntries", grantVotes(raft))) {
      expect(message).toMatchObject({ prevLogIndex: 3, prevLogTerm: 2 });
    }
  });

  test("After a rejection, the leader decrements nextIndex and retries", () => {
    const raft = leader({ log: [1, 1, 2] });
    const refusal = appendReply(3, { success: false, hintIndex: 2, hintTerm: 1 });
    const retry = one(only("AppendEntries", step(raft, refusal)));
    expect(retry).toMatchObject({ to: "b", prevLogIndex: 2, prevLogTerm: 1 });
    expect(termsOf(retry.entries)).toEqual([2, 3]);
  });

  test("AppendEntries will succeed, which removes any conflicting entries ... and appends", () => {
    const raft = follower({ log: [1, 2, 2, 2], term: 4 });
    const previous = { prevLogIndex: 1, prevLogTerm: 1 };
    const reply = one(step(raft, appendEntries(4, { ...previous, entries: entries([3], 1) })));
    expect(reply).toMatchObject({ success: true, matchIndex: 2 });
    expect(termsOf(raft)).toEqual([1, 3]);
  });

  test("it will remain that way for the rest of the term", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    for (let i = 0; i < 20; i += 1) {
      cluster.propose("a", `${i}`);
      for (const raft of cluster.up) expect(logOf(raft)).toEqual(logOf(cluster.at("a")));
      expect(cluster.at("a").currentTerm).toBe(1);
    }
  });

  test("the follower can include the term of the conflicting entry", () => {
    const raft = follower({ log: [1, 2, 2, 4, 4], term: 6 });
    const refuse = (prevLogIndex: number, prevLogTerm: number) =>
      one(step(raft, appendEntries(6, { prevLogIndex, prevLogTerm })));
    expect(refuse(5, 5)).toMatchObject({ success: false, hintIndex: 5, hintTerm: 4 });
    expect(refuse(5, 3)).toMatchObject({ success: false, hintIndex: 3, hintTerm: 2 });
    expect(refuse(9, 5)).toMatchObject({ success: false, hintIndex: 5, hintTerm: 4 });
  });

  test("one AppendEntries RPC will be required for each term with conflicting entries", () => {
    const row = (...terms: number[]) => terms.flatMap((term) => Array<number>(50).fill(term));
    const [leading, following] = pair(row(1, 3, 5, 7), row(1, 2, 4, 6), 9);
    expect(converge(leading, following)).toBeLessThanOrEqual(5);
    expect(logOf(following)).toEqual(logOf(leading));
  });

  test("A leader never overwrites or deletes entries in its own log", () => {
    for (const history of day().histories.values()) {
      for (const [i, log] of history.entries()) {
        const before = history[i - 1] ?? [];
        expect(log.length).toBeGreaterThanOrEqual(before.length);
        for (const [j, e] of before.entries()) if (log[j] !== e) throw new Error("overwritten");
      }
    }
  });

  test("Raft can accept, replicate, and apply ... as long as a majority ... are up", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.crash("d", "e");
    const index = cluster.propose("a");
    cluster.advance(2 * HEARTBEAT);
    for (const raft of cluster.up) expect(raft.lastApplied).toBe(index);
  });

  test("a new entry can be replicated with a single round of RPCs to a majority", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    const before = cluster.sent.length;
    const index = cluster.propose("a");
    expect(cluster.at("a").lastApplied).toBe(index);
    expect(cluster.sent.length - before).toBe(8); // Four requests, four replies.
  });

  test("and a single slow follower will not impact performance", () => {
    const raft = settledLeader();
    for (let i = 0; i < 100; i += 1) {
      const index = propose(raft, "x".repeat(1_000));
      expect(to("b", turn(raft)).length).toBe(1);
      acknowledge(raft, "b");
      expect(raft.commitIndex).toBe(index);
    }
  });
});

// -------------------------------------- Figure 7 and 8 ----------------------------------------

/** Returns a newly elected leader of `term` with one log, and a follower "b" with another. */
function pair(log: number[], followersLog: number[], term: number): [Raft, Raft] {
  const leading = leader({ log, term });
  leading.tick(leading.now + HEARTBEAT); // The first request, with the no-op, was lost.
  const following = server({ name: "b", log: followersLog, term: term - 1, now: leading.now });
  return [leading, following];
}

/** Exchanges messages until both servers are silent. Returns the number of round trips. */
function converge(leading: Raft, following: Raft): number {
  let requests = to("b", turn(leading));
  let roundTrips = 0;
  for (; requests.length > 0 && roundTrips < 1_000; roundTrips += 1) {
    const replies = requests.flatMap((m) => step(following, m, leading.now));
    requests = replies.flatMap((m) => to("b", step(leading, m)));
  }
  return roundTrips;
}

describe("Figure 7: When the leader at the top comes to power, it is possible that", () => {
  const top = [1, 1, 1, 4, 4, 5, 5, 6, 6, 6];
  test.each(
    [
      ["(a)", "A follower may be missing entries", [1, 1, 1, 4, 4, 5, 5, 6, 6], 2],
      ["(b)", "A follower may be missing entries", [1, 1, 1, 4], 2],
      ["(c)", "may have extra uncommitted entries", [...top, 6], 1],
      ["(d)", "may have extra uncommitted entries", [...top, 7, 7], 1],
      ["(e)", "or both", [1, 1, 1, 4, 4, 4, 4], 2],
      ["(f)", "or both", [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3], 2],
    ] as const,
  )("%s %s", (_case, _sentence, log, roundTrips) => {
    const [leading, following] = pair(top, [...log], 8);
    // Where entry 10 is missing, one request is refused, and the next one is accepted.
    expect(converge(leading, following)).toBe(roundTrips);
    expect(termsOf(following)).toEqual([...top, 8]);
    expect(logOf(following)).toEqual(logOf(leading));
    expect(leading.commitIndex).toBe(11);
  });
});

describe("Figure 8: why a leader cannot determine commitment using ... older terms", () => {
  const S = ["S1", "S2", "S3", "S4", "S5"];
  const carries = (term: number) => (m: Message) =>
    m.type === "AppendEntries" && m.entries.some((e) => e.term === term);

  /** Plays steps (a) to (c). The entries at index 2 and 3 are the no-ops of their terms. */
  const playToStepC = () => {
    // An entry is as large as a batch, so that S1 can replicate index 2 without index 3.
    const cluster = new Cluster(S, { log: [1], batchBytes: 1 });
    cluster.lost = (m) => m.type === "AppendEntries" && m.to !== "S2";
    expect(cluster.elect("S1")).toBe(true); // (a) S1 is leader, partially replicates index 2.
    cluster.crash("S1");
    cluster.lost = (m) => m.type === "AppendEntries";
    expect(cluster.elect("S5")).toBe(true); // (b) and accepts a different entry at index 2.
    cluster.crash("S5");
    cluster.restart("S1");
    cluster.lost = (m) => carries(4)(m) || (m.type === "AppendEntries" && m.to === "S4");
    expect(cluster.elect("S1")).toBe(true); // (c) S1 is elected, and continues replication.
    cluster.advance(4 * HEARTBEAT); // S1 sends index 3, which is lost, and then heartbeats.
    return cluster;
  };
  const logs = (cluster: Cluster) => S.map((name) => termsOf(cluster.at(name)));

  test("(b) S5 is elected leader for term 3 with votes from S3, S4, and itself", () => {
    const cluster = playToStepC();
    const votes = only("RequestVoteReply", cluster.sent).filter((m) => m.to === "S5" && !m.preVote);
    expect(votes.filter((m) => m.voteGranted).map((m) => [m.from, m.term])).toEqual([
      ["S3", 3],
      ["S4", 3],
    ]);
  });

  test("(c) the log entry from term 2 [is] on a majority ..., but it is not committed", () => {
    const cluster = playToStepC();
    expect(logs(cluster)).toEqual([[1, 2, 4], [1, 2], [1, 2], [1], [1, 3]]);
    for (const name of ["S2", "S3"]) {
      // S1 knows that index 2 is on a majority, and still does not commit it.
      expect(progress(cluster.at("S1"), name).matchIndex).toBe(2);
    }
    for (const raft of cluster.up) expect(raft.commitIndex).toBeLessThan(2);
  });

  test("(d) S5 could be elected leader (...) and overwrite the entry", () => {
    const cluster = playToStepC();
    cluster.crash("S1");
    cluster.restart("S5");
    cluster.lost = () => false;
    expect(cluster.elect("S5")).toBe(true);
    expect(logs(cluster)).toEqual([
      [1, 2, 4],
      [1, 3, 5],
      [1, 3, 5],
      [1, 3, 5],
      [1, 3, 5],
    ]);
    expect(cluster.at("S5").commitIndex).toBe(3);
  });

  test("(e) then this entry is committed (S5 cannot win an election)", () => {
    const cluster = playToStepC();
    cluster.lost = (m) => m.to === "S4";
    cluster.advance(2 * HEARTBEAT);
    expect(logs(cluster)).toEqual([[1, 2, 4], [1, 2, 4], [1, 2, 4], [1], [1, 3]]);
    expect(cluster.at("S1").commitIndex).toBe(3);
    cluster.crash("S1");
    cluster.restart("S5");
    cluster.lost = () => false;
    expect(cluster.elect("S5", 10)).toBe(false);
    expect(cluster.elect("S3")).toBe(true);
    cluster.advance(2 * HEARTBEAT);
    expect(termsOf(cluster.at("S5")).slice(0, 3)).toEqual([1, 2, 4]);
  });

  test("At this point all preceding entries in the log are committed as well", () => {
    const cluster = playToStepC();
    cluster.lost = (m) => m.to === "S4";
    cluster.advance(2 * HEARTBEAT);
    expect(termsOf(cluster.applied.get("S1") ?? [])).toEqual([1, 2, 4]);
  });
});

describe("§5.4 Safety", () => {
  const up = (log: number[], lastLogIndex: number, lastLogTerm: number) => {
    const raft = server({ log, term: 5 });
    const reply = one(step(raft, requestVote(6, { lastLogIndex, lastLogTerm })));
    return only("RequestVoteReply", [reply])[0]?.voteGranted;
  };

  test("§5.4.1 all the committed entries ... are present on each new leader", () => {
    let checked = 0;
    for (const [term, [log = []]] of day().histories) {
      for (const e of day().committed.filter((e) => committedIn(e) < term)) {
        expect(isSameEntry(log[e.index - 1] ?? e, e)).toBe(true);
        checked += 1;
      }
    }
    expect(checked).toBeGreaterThan(100);
  });

  /** The first term whose leader is known to have had the committed entry. */
  const committedIn = (e: Entry) => day().commitTerms.get(e.index) ?? Number.POSITIVE_INFINITY;

  test("§5.4.1 the RPC includes information about the candidate's log", () => {
    const raft = preCandidate({ log: [1, 3, 3], term: 8 });
    for (const message of grantPreVotes(raft)) {
      expect(message).toMatchObject({ lastLogIndex: 3, lastLogTerm: 3 });
    }
  });

  test("§5.4.1 the voter denies its vote if its own log is more up-to-date", () => {
    expect(up([1, 2], 1, 1)).toBe(false);
    expect(up([1, 2], 2, 2)).toBe(true);
    expect(up([], 0, 0)).toBe(true);
    expect(up([1], 0, 0)).toBe(false);
  });

  test("§5.4.1 comparing the index and term of the last entries in the logs", () => {
    for (
      const [index, term] of [
        [0, 0],
        [1, 1],
        [2, 1],
        [9, 1],
        [1, 2],
        [2, 2],
        [3, 2],
        [4, 2],
        [1, 3],
        [9, 3],
      ] as const
    ) {
      expect(up([1, 2, 2], index, term)).toBe(term * 100 + index >= 203);
    }
  });

  test("§5.4.1 the log with the later term is more up-to-date", () => {
    expect(up([1, 2, 2, 2], 1, 3)).toBe(true);
    expect(up([3], 4, 2)).toBe(false);
  });

  test("§5.4.1 whichever log is longer is more up-to-date", () => {
    expect(up([1, 2, 2], 4, 2)).toBe(true);
    expect(up([1, 2, 2], 2, 2)).toBe(false);
  });

  test("§5.4.2 future leaders will attempt to finish replicating the entry", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => m.type === "AppendEntries" && m.to !== "b";
    const index = cluster.propose("a", "x = 3");
    expect(cluster.at("a").commitIndex).toBeLessThan(index);
    cluster.crash("a");
    cluster.lost = () => false;
    cluster.elect("b");
    cluster.advance(2 * HEARTBEAT);
    for (const raft of cluster.up) {
      expect(raft.log.at(index)).toMatchObject({ term: 1 });
      expect(raft.lastApplied).toBe(index + 1);
    }
  });

  test("§5.4.2 Raft never commits log entries from previous terms by counting replicas", () => {
    const raft = leader({ log: [1, 2], term: 4 });
    for (const from of ["b", "c"]) acknowledge(raft, from, 2);
    expect(raft.commitIndex).toBe(0);
  });

  test("§5.4.2 then all prior entries are committed indirectly", () => {
    const raft = leader({ log: [1, 2], term: 4 });
    acknowledge(raft, "b", 2);
    raft.receive(appendReply(4, { matchIndex: 3 }), raft.now);
    expect(termsOf(flush(raft).applied)).toEqual([1, 2, 4]);
  });

  test("§5.4.2 log entries retain their original term numbers", () => {
    const [leading, following] = pair([1, 2, 3], [], 9);
    converge(leading, following);
    expect(termsOf(following)).toEqual([1, 2, 3, 9]);
  });

  test("§5.4.3 The voter must have accepted the committed entry ... before voting", () => {
    const raft = server({ log: [1], term: 1 });
    step(raft, request(raft, 2, { from: "c" }));
    const late = heartbeat(raft, { entries: entries([1], 1) });
    expect(one(step(raft, { ...late, term: 1 }))).toMatchObject({ success: false, term: 2 });
    expect(raft.log.lastIndex).toBe(1);
  });

  test("§5.4.3 all servers will apply exactly the same set of log entries", () => {
    expect(day().disagreements).toEqual([]);
    for (const raft of day().cluster.up) expect(logOf(raft)).toEqual(logOf(day().cluster.at("a")));
    expect(day().committed).toEqual(day().cluster.at("b").log.slice(1));
  });

  test("§5.4.3 Raft requires servers to apply entries in log index order", () => {
    for (const list of day().cluster.applied.values()) {
      expect(list.map((e) => e.index)).toEqual(list.map((_, i) => i + 1));
    }
  });
});

describe("Figure 2: State", () => {
  test("Persistent state: Updated on stable storage before responding to RPCs", () => {
    const raft = server({ log: [1], term: 1 });
    raft.receive(request(raft, 2), 0);
    const voting = flush(raft);
    expect(voting.saved).toEqual({ currentTerm: 2, votedFor: "b", commitIndex: 0, entries: [] });
    expect(voting.early).toEqual([]);
    expect(typesOf(voting.late)).toEqual(["RequestVoteReply"]);
    raft.receive(heartbeat(raft, { entries: entries([2], 1) }), 0);
    const appending = flush(raft);
    expect(appending.saved?.entries).toEqual([entry(2, 2)]);
    expect(appending.early).toEqual([]);
    expect(typesOf(appending.late)).toEqual(["AppendEntriesReply"]);
    expect(raft.needsStep).toBe(false);
  });

  test("Updated on stable storage: ... also a vote in a term that is already durable", () => {
    const raft = server({ term: 5 });
    raft.receive(requestVote(5), 0);
    expect(flush(raft).saved).toEqual({
      currentTerm: 5,
      votedFor: "b",
      commitIndex: 0,
      entries: [],
    });
    expect(raft.saved).toMatchObject({ currentTerm: 5, votedFor: "b" });
  });

  test("currentTerm ... (initialized to 0 on first boot, increases monotonically)", () => {
    const raft = server();
    expect(raft.currentTerm).toBe(0);
    step(raft, appendEntries(3));
    step(raft, appendEntries(2));
    step(raft, requestVote(1));
    expect(raft.currentTerm).toBe(3);
  });

  test("votedFor: candidateId that received vote in current term (or null if none)", () => {
    const raft = server();
    expect(raft.votedFor).toBeUndefined();
    step(raft, requestVote(1, { from: "b" }));
    expect(raft.votedFor).toBe("b");
    step(raft, appendEntries(2, { from: "c" }));
    expect(raft.votedFor).toBeUndefined();
  });

  test("log[] ... (first index is 1)", () => {
    expect(server().log.lastIndex).toBe(0);
    expect(
      leader()
        .log.slice(1)
        .map((e) => e.index),
    ).toEqual([1]);
  });

  test("commitIndex and lastApplied: initialized to 0, increase monotonically", () => {
    const raft = follower({ log: [1, 1, 1] });
    expect([raft.commitIndex, raft.lastApplied]).toEqual([0, 0]);
    for (
      const [leaderCommit, then] of [
        [2, 2],
        [1, 2],
        [0, 2],
        [3, 3],
        [2, 3],
      ] as const
    ) {
      step(raft, heartbeat(raft, { leaderCommit }));
      expect([raft.commitIndex, raft.lastApplied]).toEqual([then, then]);
    }
  });

  test("nextIndex[] ... (initialized to leader last log index + 1)", () => {
    const raft = candidate({ log: [1, 1, 1] });
    for (const from of ["b", "c"]) raft.receive(voteReply(2, { from }), raft.now);
    expect(["b", "c"].map((name) => progress(raft, name).nextIndex)).toEqual([4, 4]);
  });

  test("matchIndex[] ... (initialized to 0, increases monotonically)", () => {
    const raft = leader({ log: [1, 1, 1] });
    expect(progress(raft, "b").matchIndex).toBe(0);
    acknowledge(raft, "b", 4);
    acknowledge(raft, "b", 2);
    expect(progress(raft, "b").matchIndex).toBe(4);
    step(raft, appendReply(2, { round: roundOf(raft), success: false, hintIndex: 1, hintTerm: 1 }));
    expect(progress(raft, "b").matchIndex).toBe(4);
    acknowledge(raft, "b", 4);
    expect(progress(raft, "b")).toMatchObject({ matchIndex: 4, nextIndex: 5 });
  });

  test("Reinitialized after election", () => {
    const raft = settledLeader({ log: [1, 1, 1] });
    expect(progress(raft, "b").matchIndex).toBe(4);
    step(raft, appendEntries(9, { from: "c" }));
    timeOut(raft);
    grantPreVotes(raft);
    grantVotes(raft);
    expect(progress(raft, "b").matchIndex).toBe(0);
  });
});

describe("Figure 2: AppendEntries RPC", () => {
  test("term: currentTerm, for leader to update itself", () => {
    expect(one(step(server({ term: 8 }), appendEntries(3)))).toMatchObject({ term: 8 });
    expect(one(step(server({ term: 8 }), appendEntries(9)))).toMatchObject({ term: 9 });
  });

  test("1. Reply false if term < currentTerm", () => {
    const raft = server({ log: [1], term: 5 });
    const stale = appendEntries(4, { prevLogIndex: 1, prevLogTerm: 1, entries: entries([4], 1) });
    const reply = one(step(raft, { ...stale, leaderCommit: 2 }));
    expect(reply).toMatchObject({ success: false, term: 5 });
    expect(raft).toMatchObject({ commitIndex: 0, leader: undefined });
    expect(termsOf(raft)).toEqual([1]);
  });

  test("2. Reply false if log doesn't contain an entry at prevLogIndex whose term matches", () => {
    const raft = server({ log: [1, 2], term: 3 });
    for (
      const [prevLogIndex, prevLogTerm, success] of [
        [0, 0, true],
        [1, 1, true],
        [1, 2, false],
        [2, 2, true],
        [2, 1, false],
        [2, 3, false],
        [3, 2, false],
        [3, 3, false],
      ] as const
    ) {
      const reply = one(step(raft, appendEntries(3, { prevLogIndex, prevLogTerm })));
      expect(reply).toMatchObject({ success });
    }
  });

  test("3. If an existing entry conflicts ..., delete [it] and all that follow it", () => {
    const raft = follower({ log: [1, 1, 2, 2, 2], term: 3 });
    const previous = { prevLogIndex: 1, prevLogTerm: 1 };
    step(raft, appendEntries(3, { ...previous, entries: entries([1, 3], 1) }));
    expect(termsOf(raft)).toEqual([1, 1, 3]);
  });

  test("3. ... only if: a delayed, shorter request deletes nothing", () => {
    const raft = follower({ log: [1, 1, 3, 3, 3], term: 3 });
    const before = raft.log.slice(1);
    for (const news of [[], [1], [1, 3]]) {
      const previous = { prevLogIndex: 1, prevLogTerm: 1 };
      const late = appendEntries(3, { ...previous, entries: entries(news, 1) });
      expect(one(step(raft, late))).toMatchObject({ success: true, matchIndex: 1 + news.length });
      expect(raft.log.slice(1)).toEqual(before);
      expect(flush(raft).saved).toBeUndefined();
    }
  });

  test("4. Append any new entries not already in the log", () => {
    const raft = follower({ log: [1, 1], term: 3 });
    step(raft, appendEntries(3, { entries: entries([1, 1, 3, 3]) }));
    expect(termsOf(raft)).toEqual([1, 1, 3, 3]);
    step(raft, appendEntries(3, { entries: entries([1, 1, 3, 3]) }));
    expect(termsOf(raft)).toEqual([1, 1, 3, 3]);
  });

  test("5. set commitIndex = min(leaderCommit, index of last new entry)", () => {
    for (
      const [leaderCommit, commitIndex] of [
        [0, 0],
        [2, 2],
        [3, 3],
        [4, 3],
        [9, 3],
      ] as const
    ) {
      // The entries 4 and 5 may come from a leader that failed: the request does not reach them.
      const raft = follower({ log: [1, 1, 1, 2, 2], term: 3 });
      const previous = { prevLogIndex: 1, prevLogTerm: 1, leaderCommit };
      step(raft, appendEntries(3, { ...previous, entries: entries([1, 1], 1) }));
      expect(raft.commitIndex).toBe(commitIndex);
    }
  });

  test("5. ... a heartbeat commits up to its prevLogIndex, and no further", () => {
    const raft = follower({ log: [1, 1, 2], term: 3 });
    step(raft, appendEntries(3, { prevLogIndex: 2, prevLogTerm: 1, leaderCommit: 3 }));
    expect(raft.commitIndex).toBe(2);
  });

  test("5. If leaderCommit > commitIndex: a refused request commits nothing", () => {
    const raft = follower({ log: [1, 1, 2], term: 3 });
    step(raft, appendEntries(3, { prevLogIndex: 3, prevLogTerm: 3, leaderCommit: 3 }));
    expect(raft.commitIndex).toBe(0);
  });
});

describe("Figure 2: RequestVote RPC", () => {
  test("term: currentTerm, for candidate to update itself", () => {
    expect(one(step(server({ term: 8 }), requestVote(3)))).toMatchObject({ term: 8 });
    expect(one(step(server({ term: 8 }), requestVote(9)))).toMatchObject({ term: 9 });
  });

  test("1. Reply false if term < currentTerm", () => {
    const raft = server({ term: 5 });
    expect(one(step(raft, requestVote(4)))).toMatchObject({ voteGranted: false, term: 5 });
    expect(raft.votedFor).toBeUndefined();
  });

  test("2. If votedFor is null or candidateId, ... grant vote", () => {
    for (
      const [votedFor, voteGranted] of [
        [undefined, true],
        ["b", true],
        ["c", false],
        ["a", false],
      ] as const
    ) {
      const raft = server({ term: 5, votedFor });
      expect(one(step(raft, requestVote(5)))).toMatchObject({ voteGranted, term: 5 });
      expect(raft.votedFor).toBe(votedFor ?? "b");
    }
  });

  test("2. ... and candidate's log is at least as up-to-date as receiver's log", () => {
    const raft = server({ log: [1, 1], term: 5, votedFor: "b" });
    const short = requestVote(6, { lastLogIndex: 1, lastLogTerm: 1 });
    expect(one(step(raft, short))).toMatchObject({ voteGranted: false, term: 6 });
    expect(raft.votedFor).toBeUndefined(); // The higher term is adopted in any case.
    expect(one(step(raft, { ...short, lastLogIndex: 2 }))).toMatchObject({ voteGranted: true });
  });
});

describe("Figure 2: Rules for Servers", () => {
  test("All Servers: If commitIndex > lastApplied: ... apply log[lastApplied]", () => {
    const raft = follower({ log: [1, 1, 1] });
    raft.receive(heartbeat(raft, { leaderCommit: 2 }), raft.now);
    expect(flush(raft).applied.map((e) => e.index)).toEqual([1, 2]);
    expect(raft.lastApplied).toBe(2);
    expect(flush(raft).applied).toEqual([]);
  });

  test("All Servers: If RPC ... contains term T > currentTerm: ... convert to follower", () => {
    for (const advanceTo of [preCandidate, candidate, leader]) {
      const raft = advanceTo({ term: 5 });
      step(raft, appendReply(7, { success: false }));
      expect(raft).toMatchObject({ currentTerm: 7, role: { name: "Follower" } });
      expect(raft.votedFor).toBeUndefined();
    }
  });

  test("Followers: Respond to RPCs from candidates and leaders", () => {
    const raft = server();
    expect(typesOf(step(raft, requestVote(1)))).toEqual(["RequestVoteReply"]);
    expect(typesOf(step(raft, appendEntries(1)))).toEqual(["AppendEntriesReply"]);
    // Its request was read, but not counted.
    const fromStranger = requestVote(2, { from: "not a member", id: 77 });
    expect(one(step(raft, fromStranger))).toMatchObject({ to: "not a member", id: 77 });
  });

  test("Followers: If election timeout elapses without receiving ...: convert to candidate", () => {
    for (const raft of [server({ term: 4 }), follower({ term: 4 })]) {
      timeOut(raft);
      expect(raft.role.name).toBe("PreCandidate");
      grantPreVotes(raft);
      expect(raft.role.name).toBe("Candidate");
    }
  });

  test("Candidates: Increment currentTerm, Vote for self, Reset election timer, Send", () => {
    const raft = preCandidate({ term: 4, log: [1] });
    wait(raft, HEARTBEAT);
    const sent = grantPreVotes(raft);
    expect(raft).toMatchObject({ currentTerm: 5, votedFor: "a" });
    expect(raft.electionDueAt).toBe(raft.now + 1.25 * T);
    const expected = { term: 5, preVote: false, lastLogIndex: 1, lastLogTerm: 1 };
    expect(sent).toMatchObject([
      { to: "b", ...expected },
      { to: "c", ...expected },
    ]);
  });

  test("Candidates: If votes received from majority of servers: become leader", () => {
    const raft = candidate();
    step(raft, voteReply(1, { voteGranted: false, from: "b" }));
    expect(raft.role.name).toBe("Candidate");
    step(raft, voteReply(1, { from: "c" }));
    expect(raft.role.name).toBe("Leader");
  });

  test("Candidates: If AppendEntries RPC received from new leader: convert to follower", () => {
    for (const raft of [preCandidate({ term: 5 }), candidate({ term: 5 })]) {
      step(raft, appendEntries(5));
      expect(raft.role).toEqual({ name: "Follower", leader: "b" });
    }
  });

  test("Candidates: If election timeout elapses: start new election", () => {
    const raft = candidate({ term: 5 });
    timeOut(raft);
    grantPreVotes(raft);
    expect(raft).toMatchObject({ currentTerm: 6, role: { name: "Candidate" } });
  });

  test("Leaders: Upon election: send initial ... AppendEntries RPCs ... to each server", () => {
    const sent = grantVotes(candidate({ members: FIVE }));
    expect(typesOf(sent)).toEqual(Array(4).fill("AppendEntries"));
  });

  test("Leaders: repeat during idle periods to prevent election timeouts", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.advance(50 * T);
    expect(cluster.leaders).toEqual([cluster.at("a")]);
    expect(cluster.at("a").currentTerm).toBe(1);
  });

  test("Leaders: If command received from client: append entry to local log", () => {
    const raft = leader();
    const index = propose(raft, "x = 3");
    expect(raft.log.at(index)).toMatchObject({ term: 1, kind: "commands" });
    expect(flush(raft).saved?.entries).toEqual([raft.log.at(index)]);
  });

  test("Leaders: send AppendEntries RPC with log entries starting at nextIndex", () => {
    const raft = settledLeader({ log: [1, 1] });
    propose(raft);
    turn(raft); // nextIndex runs ahead optimistically: entries in flight are not sent again.
    propose(raft);
    const sent = to("b", turn(raft));
    expect(only("AppendEntries", sent).flatMap((m) => m.entries.map((e) => e.index))).toEqual([5]);
  });

  test("Leaders: If successful: update nextIndex and matchIndex for follower", () => {
    const raft = leader({ log: [1, 1] });
    acknowledge(raft, "b", 3);
    expect(progress(raft, "b")).toMatchObject({ matchIndex: 3, nextIndex: 4 });
    expect(progress(raft, "c")).toMatchObject({ matchIndex: 0 });
  });

  test("Leaders: If AppendEntries fails ...: decrement nextIndex and retry", () => {
    const raft = leader({ log: [1, 1, 1] });
    const refusal = appendReply(2, { success: false, hintIndex: 0, hintTerm: 0 });
    const retry = one(only("AppendEntries", step(raft, refusal)));
    expect(retry).toMatchObject({ prevLogIndex: 0, prevLogTerm: 0 });
    expect(termsOf(retry.entries)).toEqual([1, 1, 1, 2]);
  });

  test("Leaders: If there exists an N such that N > commitIndex ...: set commitIndex = N", () => {
    const raft = settledLeader({ members: FIVE });
    for (let i = 0; i < 4; i += 1) propose(raft); // Entries 2 to 5.
    turn(raft);
    for (
      const [from, matchIndex, commitIndex] of [
        ["b", 5, 1],
        ["c", 3, 3],
        ["d", 4, 4],
        ["e", 2, 4],
        ["e", 5, 5],
      ] as const
    ) {
      acknowledge(raft, from, matchIndex);
      expect(raft.commitIndex).toBe(commitIndex);
    }
  });

  test("Leaders: ... and log[N].term == currentTerm", () => {
    const raft = leader({ log: [2, 3], term: 4 });
    for (
      const [matchIndex, commitIndex] of [
        [1, 0],
        [2, 0],
        [3, 3],
      ] as const
    ) {
      acknowledge(raft, "b", matchIndex);
      expect(raft.commitIndex).toBe(commitIndex);
    }
  });
});

describe("§5.5 Follower and candidate crashes", () => {
  test("if the crashed server restarts, then the RPC will complete successfully", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.crash("c");
    const index = cluster.propose("a");
    cluster.advance(5 * T);
    cluster.restart("c");
    cluster.advance(2 * HEARTBEAT);
    expect(cluster.at("c").log.lastIndex).toBe(index);
  });

  test(
    "If a server crashes after completing an RPC but before responding, then it will receive "
      + "the same RPC again after it restarts",
    () => {
      const cluster = new Cluster(THREE);
      cluster.elect("a");
      cluster.lost = (m) => m.from === "c";
      const index = cluster.propose("a");
      expect(cluster.at("c").log.lastIndex).toBe(index);
      cluster.crash("c");
      cluster.lost = () => false;
      cluster.restart("c");
      cluster.sent.length = 0;
      cluster.advance(2 * HEARTBEAT);
      expect(to("c", only("AppendEntries", cluster.sent)).length).toBeGreaterThan(0);
      expect(progress(cluster.at("a"), "c").matchIndex).toBe(index);
    },
  );

  test("Raft RPCs are idempotent, so this causes no harm", () => {
    for (const message of [appendEntries(2, { entries: entries([1, 2]) }), requestVote(2)]) {
      const raft = server({ term: 1 });
      const reply = step(raft, message);
      const { log, votedFor } = structuredClone({ log: logOf(raft), votedFor: raft.votedFor });
      expect(step(raft, message)).toEqual(reply);
      expect({ log: logOf(raft), votedFor: raft.votedFor }).toEqual({ log, votedFor });
    }
  });

  test("log entries already present in its log, it ignores ... in the new request", () => {
    const raft = follower({ log: [1, 1], term: 2 });
    raft.receive(appendEntries(2, { entries: entries([1, 1, 2]) }), raft.now);
    expect(flush(raft).saved?.entries).toEqual([entry(3, 2)]);
  });
});

describe("§5.6 Timing and availability", () => {
  test("broadcastTime << electionTimeout: Raft will ... elect and maintain a steady leader", () => {
    const cluster = new Cluster(FIVE);
    cluster.advance(10 * T);
    const leading = one(cluster.leaders);
    const { currentTerm } = leading;
    cluster.advance(100 * T);
    expect(cluster.leaders).toEqual([leading]);
    expect(leading.currentTerm).toBe(currentTerm);
  });

  test("When the leader crashes, the system will be unavailable for roughly the election timeout", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.crash("a");
    cluster.advance(0.9 * T);
    expect(cluster.leaders).toEqual([]);
    cluster.advance(2.1 * T);
    expect(cluster.leaders.length).toBe(1);
  });
});

describe("§7 Log compaction", () => {
  test("the entire log up to that point is discarded", () => {
    const raft = compacted();
    expect(raft.log).toMatchObject({ baseIndex: 5, lastIndex: 8 });
    expect(() => raft.log.at(4)).toThrow("Broken invariant");
    expect(() => raft.log.slice(5)).toThrow("Broken invariant");
    expect(termsOf(raft)).toEqual([2, 2, 2]);
  });

  test("Each server takes snapshots independently, covering just the committed entries", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.snapshotBytes = 200;
    const due: number[] = [];
    cluster.watch = (raft) => due.push(raft.commitIndex - raft.snapshot.index);
    cluster.lost = (m) => m.type === "AppendEntriesReply";
    for (let i = 0; i < 20; i += 1) cluster.propose("a");
    expect(cluster.snapshots.size).toBe(0); // Nothing was committed.
    cluster.lost = () => false;
    for (let i = 0; i < 20; i += 1) cluster.propose("a");
    cluster.advance(T);
    expect([...cluster.snapshots.keys()].sort()).toEqual(THREE);
    expect(Math.min(...due)).toBeGreaterThanOrEqual(0);
    for (const name of THREE) expect(cluster.at(name).log.baseIndex).toBeGreaterThan(15);
  });

  test(
    "the last included index ... the last included term ... are preserved to support the "
      + "AppendEntries consistency check for the first log entry following the snapshot",
    () => {
      const base = { index: 5, term: 3 };
      const raft = follower({ base, term: 4 });
      const [first] = entries([4], 5);
      const wrong = appendEntries(4, { prevLogIndex: 5, prevLogTerm: 2, entries: entries([4], 5) });
      expect(one(step(raft, wrong))).toMatchObject({ success: false, hintIndex: 5, hintTerm: 3 });
      const right = appendEntries(4, { prevLogIndex: 5, prevLogTerm: 3, entries: entries([4], 5) });
      expect(one(step(raft, right))).toMatchObject({ success: true, matchIndex: 6 });
      expect(raft.log.slice(6)).toEqual([first ?? entry(0, 0)]);
      const leading = leader({ base });
      const [sent] = only("AppendEntries", wait(leading, HEARTBEAT));
      expect(sent).toMatchObject({ prevLogIndex: 5, prevLogTerm: 3 });
    },
  );

  test("(and the election restriction)", () => {
    const raft = server({ base: { index: 5, term: 3 }, term: 4 });
    const replyTo = (lastLogIndex: number, lastLogTerm: number) =>
      one(step(raft, requestVote(5, { preVote: true, lastLogIndex, lastLogTerm })));
    expect(replyTo(4, 3)).toMatchObject({ voteGranted: false });
    expect(replyTo(9, 2)).toMatchObject({ voteGranted: false });
    expect(replyTo(5, 3)).toMatchObject({ voteGranted: true });
  });

  test("the snapshot also includes the latest configuration (catalogue 33)", () => {
    const snapshot = { index: 5, term: 3, size: 10, founding: 1, members: configuration(FIVE) };
    const { settings } = server();
    const disk = {
      currentTerm: 3,
      votedFor: undefined,
      commitIndex: 0,
      entries: [],
      base: snapshot,
      snapshot,
    };
    const raft = new Raft(settings, disk, 0, () => 0.5);
    expect(raft.members).toEqual(configuration(FIVE));
    expect(compacted().members).toEqual(configuration(THREE));
  });

  test(
    "it may delete all log entries up through the last included index, as well as any prior "
      + "snapshot",
    () => {
      const raft = compacted(5);
      raft.onSnapshot(snapshotOf(raft, 7), 0);
      expect(raft.snapshot.index).toBe(7);
      expect(raft.log.baseIndex).toBe(7);
      expect(() => raft.onSnapshot(snapshotOf(raft, 7), 0)).toThrow("never takes the state back");
    },
  );

  test("the leader must occasionally send snapshots to followers that lag behind", () => {
    const raft = compacted(5);
    expect(fallBehind(raft, "c").map((m) => [m.to, m.offset, m.data.length])).toEqual([
      ["c", 0, 1000],
      ["c", 1000, 1000],
      ["c", 2000, 500],
    ]);
  });

  test(
    "This happens when the leader has already discarded the next log entry that it needs to "
      + "send",
    () => {
      for (
        const [matchIndex, isSnapshot] of [[3, true], [4, true], [5, false], [6, false]] as const
      ) {
        const raft = compacted(5);
        Object.assign(progress(raft, "c"), { matchIndex: 0, nextIndex: 1 });
        const reply = appendReply(2, {
          from: "c",
          success: false,
          round: roundOf(raft),
          hintIndex: matchIndex,
          hintTerm: matchIndex > 4 ? 2 : 1,
        });
        const sent = to("c", step(raft, reply));
        expect(sent.some((m) => m.type === "InstallSnapshot")).toBe(isSnapshot);
        expect(sent.some((m) => m.type === "AppendEntries")).toBe(!isSnapshot);
      }
    },
  );

  test(
    "an exceptionally slow follower or a new server ... would not: the leader ... [brings it] "
      + "up-to-date",
    () => {
      const cluster = new Cluster(THREE, { batchBytes: 100, windowBytes: 300 });
      cluster.elect("a");
      cluster.snapshotBytes = 300;
      cluster.crash("c");
      for (let i = 0; i < 50; i += 1) cluster.propose("a", `${i}`);
      cluster.restart("c");
      cluster.advance(2 * T);
      const installs = to("c", only("InstallSnapshot", cluster.sent));
      expect(installs.length).toBeGreaterThan(10);
      expect(cluster.applied.get("c")).toEqual(cluster.applied.get("a") ?? []);
      expect(cluster.at("c").commitIndex).toBe(cluster.at("a").commitIndex);
      // Later snapshots of its own begin with the installed one.
      for (let i = 0; i < 50; i += 1) cluster.propose("a", `${i}`);
      cluster.advance(T);
      cluster.restart("c");
      cluster.advance(2 * T);
      expect(cluster.applied.get("c")).toEqual(cluster.applied.get("a") ?? []);
    },
  );

  test(
    "the follower discards its entire log; it ... may possibly have uncommitted entries that "
      + "conflict with the snapshot",
    () => {
      for (const log of [[1, 1], [1, 1, 1, 1, 1, 1, 1]]) {
        const raft = follower({ log, term: 3 });
        step(raft, heartbeat(raft, { prevLogIndex: 1, prevLogTerm: 1, leaderCommit: 1 }));
        for (const chunk of chunks(3, { lastIncludedTerm: 2 })) step(raft, chunk);
        expect(raft.incoming).toMatchObject({ index: 5, offset: 30 });
        raft.onSnapshot(
          { index: 5, term: 2, size: 30, founding: 1, members: configuration(THREE) },
          1e9,
        );
        expect(raft.events).toContainEqual({ type: "snapshot", index: 5, size: 30, from: "b" });
        expect(raft.log).toMatchObject({ baseIndex: 5, lastIndex: 5, lastTerm: 2, savedIndex: 5 });
        expect(raft).toMatchObject({ commitIndex: 5, lastApplied: 5, incoming: undefined });
        expect(flush(raft)).toMatchObject({ saved: undefined, applied: [] });
      }
    },
  );

  test(
    "a snapshot that describes a prefix of its log ...: entries following the snapshot are "
      + "still valid and must be retained",
    () => {
      const raft = follower({ log: [1, 1, 1, 1, 1, 1, 2], term: 3 });
      const [first] = chunks(3);
      expect(one(step(raft, first ?? installSnapshot(3)))).toMatchObject({
        type: "AppendEntriesReply",
        success: true,
        matchIndex: 5,
      });
      expect(raft.incoming).toBeUndefined();
      expect(termsOf(raft)).toEqual([1, 1, 1, 1, 1, 1, 2]);
      // The snapshot is committed, so these entries are applied.
      expect(raft).toMatchObject({ commitIndex: 5, lastApplied: 5 });
    },
  );

  test("take a snapshot when the log reaches a fixed size in bytes", () => {
    const raft = settledLeader();
    const length = sizeOf(entry(1, 1, "command"));
    for (let i = 1; i <= 12; i += 1) {
      propose(raft);
      turn(raft);
      acknowledge(raft, "b");
      const bytes = raft.log.bytes(1, raft.lastApplied);
      expect(raft.isSnapshotDue(10 * length)).toBe(bytes > 10 * length);
    }
    expect(raft.isSnapshotDue(10 * length)).toBe(true);
    raft.onSnapshot(snapshotOf(raft, raft.lastApplied), 5 * length);
    expect(raft.isSnapshotDue(0)).toBe(false); // Entries that were kept do not count again.
  });
});

describe("Figure 13: InstallSnapshot RPC", () => {
  test("1. Reply immediately if term < currentTerm", () => {
    const raft = follower({ term: 5 });
    const reply = one(step(raft, installSnapshot(4, { from: "c", round: 7 })));
    expect(reply).toMatchObject({
      type: "InstallSnapshotReply",
      to: "c",
      term: 5,
      round: 0,
      success: false,
    });
    expect(raft).toMatchObject({ leader: "b", incoming: undefined });
  });

  test("2. Create new snapshot file if first chunk (offset is 0)", () => {
    const raft = follower({ term: 2 });
    expect(one(step(raft, installSnapshot(2)))).toMatchObject({
      success: true,
      offset: 10,
      lastIncludedIndex: 5,
    });
    expect(raft.incoming).toMatchObject({ index: 5, term: 1, size: 30, offset: 10 });
  });

  test("3. Write data into snapshot file at given offset", () => {
    const raft = follower({ term: 2 });
    const written: Uint8Array[] = [];
    for (const offset of [0, 20, 10, 0, 20, 10]) {
      const data = Buffer.alloc(10, `${offset}`);
      const isNext = offset === raft.incoming?.offset || !raft.incoming;
      const { offset: received = 0 } = raft.incoming ?? {};
      const reply = one(step(raft, installSnapshot(2, { offset, data })));
      expect(reply).toMatchObject({
        success: offset <= received,
        offset: isNext ? offset + 10 : received,
      });
      written.push(...raft.incoming?.unwritten.splice(0) ?? []);
    }
    expect(Buffer.concat(written).toString()).toBe("0000000000101010101020202020" + "20");
  });

  test("4. Reply and wait for more data chunks if done is false", () => {
    const raft = follower({ term: 2 });
    for (const [i, chunk] of chunks().entries()) {
      expect(one(step(raft, chunk))).toMatchObject({ success: true, offset: 10 * (i + 1) });
      expect(raft.commitIndex).toBe(0);
    }
    // An empty chunk is a heartbeat: it asks whether all chunks before it have arrived.
    const empty = { data: Buffer.alloc(0) };
    const replyTo = (offset: number) => one(step(raft, installSnapshot(2, { offset, ...empty })));
    expect(replyTo(30)).toMatchObject({ success: true, offset: 30 });
    expect(replyTo(40)).toMatchObject({ success: false, offset: 30 });
  });

  test("5. Save snapshot file, discard any existing or partial snapshot with a smaller index", () => {
    const raft = follower({ term: 2 });
    step(raft, installSnapshot(2));
    step(raft, installSnapshot(2, { lastIncludedIndex: 8, size: 20 }));
    expect(raft.incoming).toMatchObject({ index: 8, offset: 10, size: 20 });
    // A chunk of the old snapshot arrives late. It must not get into the new one (catalogue 35).
    expect(step(raft, installSnapshot(2, { offset: 10 }))).toEqual([]);
    expect(raft.incoming).toMatchObject({ index: 8, offset: 10, size: 20 });
  });

  test("8. Reset state machine using snapshot contents", () => {
    const raft = follower({ log: [1, 1], term: 2 });
    for (const chunk of chunks()) step(raft, chunk);
    expect(raft.isInstalling).toBe(true);
    // Other servers send entries after the snapshot meanwhile; they wait for the installation.
    const rest = entries([1, 1, 1, 2], 2);
    const all = { prevLogIndex: 2, prevLogTerm: 1, entries: rest, leaderCommit: 6 };
    raft.receive(appendEntries(2, all), raft.now);
    expect(flush(raft).applied).toEqual([]);
    expect(raft).toMatchObject({ commitIndex: 6, lastApplied: 0 });
    raft.onSnapshot(
      { index: 5, term: 1, size: 30, founding: 1, members: configuration(THREE) },
      1e9,
    );
    expect(raft).toMatchObject({ isInstalling: false, commitIndex: 6, lastApplied: 5 });
    expect(flush(raft).applied.map(({ index }) => index)).toEqual([6]);
  });

  test(
    "6. If existing log entry has same index and term as snapshot's last included entry, "
      + "retain log entries following it and reply",
    () => {
      const raft = follower({ log: [1, 1, 1, 1], term: 2 });
      for (const chunk of chunks().slice(0, 2)) step(raft, chunk);
      const rest = appendEntries(2, {
        prevLogIndex: 4,
        prevLogTerm: 1,
        entries: entries([1, 2], 4),
      });
      step(raft, rest);
      expect(one(step(raft, installSnapshot(2, { offset: 20 })))).toMatchObject({
        type: "AppendEntriesReply",
        matchIndex: 5,
      });
      expect(raft.log.lastIndex).toBe(6);
      expect(raft.commitIndex).toBe(5);
    },
  );

  test(
    "[an old snapshot does not take the state back] (catalogue 34)",
    () => {
      const base = { index: 7, term: 2 };
      const raft = follower({ base, log: [2, 2], term: 3 });
      for (const lastIncludedIndex of [3, 6, 7]) {
        const old = { lastIncludedIndex, lastIncludedTerm: lastIncludedIndex === 7 ? 2 : 1 };
        for (const chunk of chunks(3, old)) {
          expect(one(step(raft, chunk))).toMatchObject({
            type: "AppendEntriesReply",
            success: true,
            matchIndex: lastIncludedIndex,
          });
        }
      }
      expect(raft.incoming).toBeUndefined();
      expect(raft).toMatchObject({ commitIndex: 7, lastApplied: 7 });
      expect(raft.log).toMatchObject({ baseIndex: 7, lastIndex: 9 });
    },
  );

  test(
    "this gives the follower a sign of life with each chunk, so it can reset its election timer",
    () => {
      const raft = follower({ term: 2 });
      for (let i = 0; i < 10; i += 1) {
        raft.now += 0.9 * T;
        step(raft, installSnapshot(2, { data: Buffer.alloc(0) }));
        expect(raft.electionDueAt).toBeGreaterThanOrEqual(raft.now + T);
      }
      expect(raft.hearsLeader()).toBe(true);
    },
  );
});

describe("§8 Client interaction", () => {
  test(
    "If it receives a command whose serial number has already been executed, it responds "
      + "immediately without re-executing the request",
    () => {
      const applied: string[] = [];
      const machine = {
        apply(command: Uint8Array) {
          applied.push(`${Buffer.from(command)}`);
          return Buffer.from(`answer ${applied.length}`);
        },
        query: () => new Uint8Array(),
      };
      const sessions = new Sessions();
      let index = 0;
      const apply = (kind: "session" | "commands", data: Uint8Array) => {
        index += 1;
        return applyTo(sessions, makeEntry(index, 1, kind, data), machine);
      };
      const session = 7;
      apply("session", makeOpening(session));
      const command = (serial: number) =>
        apply("commands", makeCommand([session, serial, 0], Buffer.from(`command ${serial}`)));
      expect([1, 2, 1, 2].flatMap(command)).toEqual([
        "answer 1",
        "answer 2",
        "answer 1",
        "answer 2",
      ]);
      expect(applied).toEqual(["command 1", "command 2"]);
    },
  );

  test("each leader commit[s] a blank no-op entry into the log at the start of its term", () => {
    const raft = leader({ log: [1, 1] });
    expect(raft.log.at(3)).toMatchObject({ kind: "noop", term: 2 });
    raft.read();
    turn(raft);
    const clash = { success: false, hintIndex: 1, hintTerm: 1, round: roundOf(raft) };
    for (const from of ["b", "c"]) raft.receive(appendReply(2, { ...clash, from }), raft.now);
    // A majority follows, but no entry of this term is committed.
    expect(flush(raft).reads).toBe(0);
    const round = roundOf(raft);
    raft.receive(appendReply(2, { from: "b", round, matchIndex: 3 }), raft.now);
    expect(flush(raft)).toMatchObject({ reads: 1 });
    expect(raft.lastApplied).toBe(3);
  });

  test("a leader must check whether it has been deposed before processing a read-only request", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => m.from === "a" || m.to === "a";
    const old = cluster.at("a");
    expect(old.read()).toBe(true);
    cluster.flush(old);
    cluster.elect("b");
    expect(flush(old).reads).toBe(0);
    cluster.lost = () => false;
    cluster.advance(2 * HEARTBEAT);
    expect(flush(old).reads).toBe(0);
    expect(old.leader).toBe("b");
  });

  test("exchange heartbeat messages with a majority of the cluster before responding", () => {
    const raft = settledLeader({ members: FIVE });
    raft.read();
    const { early, reads } = flush(raft);
    expect(receiversOf(early)).toEqual(["b", "c", "d", "e"]);
    expect(reads).toBe(0);
    const rounds = only("AppendEntries", early).map((m) => m.round);
    const answered = ["b", "c", "d"].map((from, i) => {
      const reply = { from, round: rounds[i] ?? 0, matchIndex: raft.log.lastIndex };
      raft.receive(appendReply(1, reply), raft.now);
      return flush(raft).reads;
    });
    expect(answered).toEqual([0, 1, 0]);
  });
});
