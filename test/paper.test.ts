/**
 * The Raft paper as a list of tests: the title of a test is a sentence, or a clause of one, of "In
 * Search of an Understandable Consensus Algorithm (Extended Version)", and the test is what it
 * claims. What follows Figure 8 is not in the paper, or only in the thesis; its titles are ours.
 *
 * Where we know better than the paper's text, the test says so: a campaign begins with a pre-vote
 * (thesis §9.6), and who hears a leader does not vote (thesis §4.2.3).
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type Entry,
  Log,
  makeEntry,
  type Message,
  type Name,
  Raft,
  type RoleName,
  Sessions,
} from "../raft.ts";
import {
  acknowledge,
  appendEntries,
  appendReply,
  candidate,
  Cluster,
  configuration,
  entries,
  entry,
  FIVE,
  flush,
  follower,
  grantPreVotes,
  grantVotes,
  HEARTBEAT,
  heartbeat,
  installReply,
  installSnapshot,
  leader,
  type Of,
  one,
  only,
  preCandidate,
  progress,
  propose,
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
  timeoutNow,
  to,
  turn,
  voteReply,
  wait,
} from "./support/core.ts";
import { randomFrom } from "./support/random.ts";
import { PATIENCE_MS } from "./support/thorough.ts";
import { makeCommand } from "./support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

const typesOf = (sent: readonly Message[]) => sent.map((m) => m.type);
const receiversOf = (sent: readonly Message[]) => sent.map((m) => m.to);
const sameLog = (x: Raft, y: Raft) => expect(x.log.slice(1)).toEqual(y.log.slice(1));

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
      if (!first.record.equals(e.record)) disagreements.push(`${name} at ${e.index}`);
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

test("the bad day was bad, and yet work was done", () => {
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
    cluster.crash("d"); // A third failure is one too many, and no command gets past it.
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
    const asked = request(raft, 2, { from: "c" });
    expect(one(step(raft, asked))).toMatchObject({ type: "RequestVoteReply", to: "c" });
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

  test("but who has answered, or is silent, hears of its leader once in a heartbeat", () => {
    const leading = settledLeader();
    propose(leading);
    turn(leading);
    acknowledge(leading, "b");
    const asked = (ms: number) => receiversOf(wait(leading, ms));
    const quarters = Array.from({ length: 12 }, () => asked(HEARTBEAT / 4));
    const both = ["b", "c"];
    const onlyC = Array.from({ length: 4 }, () => ["c"]);
    expect(quarters).toEqual([
      ["c"],
      ["c"],
      ["c"],
      both,
      ...onlyC.slice(1),
      both,
      [],
      [],
      [],
      both,
    ]);
  });

  test("nor is a heartbeat retransmitted that nothing waits for", () => {
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

  test("a candidate asks again only those that have not granted their vote", () => {
    const raft = candidate({ members: FIVE });
    step(raft, voteReply(raft.currentTerm, { from: "c" }));
    expect(receiversOf(wait(raft, HEARTBEAT))).toEqual(["b", "d", "e"]);
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
    const asked = { type: "RequestVote", term: 6, preVote: false, lastLogIndex: 2, lastLogTerm: 3 };
    for (const message of sent) expect(message).toMatchObject(asked);
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
        const votes = i + 1; // Its own, and those of the i that came before.
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
    const cluster = new Cluster(THREE, { random: () => 0.5 }); // So all time out at once.
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
    const asked = { type: "RequestVote", term: 6 };
    for (const message of timeOut(raft)) expect(message).toMatchObject({ ...asked, preVote: true });
    const sent = grantPreVotes(raft);
    expect(receiversOf(sent)).toEqual(["b", "c"]);
    for (const message of sent) expect(message).toMatchObject({ ...asked, preVote: false });
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
    expect(terms).toBe(100); // With no delays on the way, the first to ask always wins.
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
    expect(raft.electionDueAt - raft.now).toBe(T); // The election proper draws its own.
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
    sameLog(cluster.at("c"), cluster.at("a"));
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
    expect(sent.map((m) => m.leaderCommit)).toEqual([2]); // Nothing says that c agrees at all.
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
        if (!first.record.equals(e.record)) throw new Error(`two entries ${e.index} of ${e.term}`);
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
        { prevLogIndex: 4, prevLogTerm: 2 }, // Missing.
        { prevLogIndex: 3, prevLogTerm: 3 }, // Of another term.
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
    // What the follower has behind them nobody has vouched for, so the reply does not.
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

  test("what overwrites is saved anew, from the first entry that changed", () => {
    const raft = follower({ log: [1, 1, 2, 2], term: 4 });
    const previous = { prevLogIndex: 1, prevLogTerm: 1 };
    raft.receive(appendEntries(4, { ...previous, entries: entries([1, 3], 1) }), raft.now);
    expect(raft.unsaved?.entries).toEqual([entry(3, 3)]);
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
      for (const raft of cluster.up) sameLog(raft, cluster.at("a"));
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
    sameLog(following, leading);
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

/** A leader that was just elected in `term`, with a log, and a follower, "b", with another. */
function pair(log: number[], followersLog: number[], term: number): [Raft, Raft] {
  const leading = leader({ log, term });
  leading.tick(leading.now + HEARTBEAT); // The first request, which brought the no-op, was lost.
  const following = server({ name: "b", log: followersLog, term: term - 1, now: leading.now });
  return [leading, following];
}

/** Lets the two talk until there is nothing to say. Returns the number of round trips. */
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
    // Where entry 10 is missing, one request is refused, and the next one fits.
    expect(converge(leading, following)).toBe(roundTrips);
    expect(termsOf(following)).toEqual([...top, 8]);
    sameLog(following, leading);
    expect(leading.commitIndex).toBe(11);
  });
});

describe("Figure 8: why a leader cannot determine commitment using ... older terms", () => {
  const S = ["S1", "S2", "S3", "S4", "S5"];
  const carries = (term: number) => (m: Message) =>
    m.type === "AppendEntries" && m.entries.some((e) => e.term === term);

  /** The steps (a) to (c). The entries at index 2 and 3 are the no-ops with which terms begin. */
  const untilC = () => {
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
    cluster.advance(4 * HEARTBEAT); // S1 sends index 3 in vain, and then heartbeats.
    return cluster;
  };
  const logs = (cluster: Cluster) => S.map((name) => termsOf(cluster.at(name)));

  test("(b) S5 is elected leader for term 3 with votes from S3, S4, and itself", () => {
    const cluster = untilC();
    const votes = only("RequestVoteReply", cluster.sent).filter((m) => m.to === "S5" && !m.preVote);
    expect(votes.filter((m) => m.voteGranted).map((m) => [m.from, m.term])).toEqual([
      ["S3", 3],
      ["S4", 3],
    ]);
  });

  test("(c) the log entry from term 2 [is] on a majority ..., but it is not committed", () => {
    const cluster = untilC();
    expect(logs(cluster)).toEqual([[1, 2, 4], [1, 2], [1, 2], [1], [1, 3]]);
    for (const name of ["S2", "S3"]) {
      expect(progress(cluster.at("S1"), name).matchIndex).toBe(2); // S1 knows it, and yet waits.
    }
    for (const raft of cluster.up) expect(raft.commitIndex).toBeLessThan(2);
  });

  test("(d) S5 could be elected leader (...) and overwrite the entry", () => {
    const cluster = untilC();
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
    const cluster = untilC();
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
    const cluster = untilC();
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
        expect(log[e.index - 1]?.record.equals(e.record)).toBe(true);
        checked += 1;
      }
    }
    expect(checked).toBeGreaterThan(100);
  });

  /** The first term whose leader is known to have had the entry committed. */
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

  test("§5.4.1 the same holds for a pre-vote, or a campaign would begin that cannot win", () => {
    const raft = server({ log: [1, 2] });
    const ask = requestVote(3, { preVote: true, lastLogIndex: 5, lastLogTerm: 1 });
    expect(one(step(raft, ask))).toMatchObject({ voteGranted: false, preVote: true });
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
    for (const raft of day().cluster.up) sameLog(raft, day().cluster.at("a"));
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
    expect(raft.unsaved).toEqual({ currentTerm: 2, votedFor: "b", commitIndex: 0, entries: [] });
    const voting = flush(raft);
    expect(voting.saved).toMatchObject({ currentTerm: 2, votedFor: "b" });
    expect(voting.early).toEqual([]);
    expect(typesOf(voting.late)).toEqual(["RequestVoteReply"]);
    raft.receive(heartbeat(raft, { entries: entries([2], 1) }), 0);
    const appending = flush(raft);
    expect(appending.saved?.entries).toEqual([entry(2, 2)]);
    expect(appending.early).toEqual([]);
    expect(typesOf(appending.late)).toEqual(["AppendEntriesReply"]);
    expect(raft.unsaved).toBeUndefined();
  });

  test("Updated on stable storage: also a vote in a term that is durable already", () => {
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
      expect(raft.unsaved).toBeUndefined();
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

  test("5. a heartbeat vouches for what is at its prevLogIndex, and not for more", () => {
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
    expect(raft.votedFor).toBeUndefined(); // The term is a fact all the same.
    expect(one(step(raft, { ...short, lastLogIndex: 2 }))).toMatchObject({ voteGranted: true });
  });
});

describe("Figure 2: Rules for Servers", () => {
  test("All Servers: If commitIndex > lastApplied: ... apply log[lastApplied]", () => {
    const raft = follower({ log: [1, 1, 1] });
    raft.receive(heartbeat(raft, { leaderCommit: 2 }), raft.now);
    expect(raft.takeApplicable().map((e) => e.index)).toEqual([1, 2]);
    expect(raft.lastApplied).toBe(2);
    expect(raft.takeApplicable()).toEqual([]);
  });

  test("... but a leader none that only its followers have on their disks yet", () => {
    const raft = settledLeader();
    raft.takeApplicable();
    const index = propose(raft);
    raft.prepare();
    for (const from of ["b", "c"]) {
      raft.receive(appendReply(1, { from, matchIndex: index, round: roundOf(raft) }), raft.now);
    }
    expect(raft.commitIndex).toBe(index);
    expect([raft.hasApplicable, raft.takeApplicable()]).toEqual([false, []]);
    raft.onSaved();
    expect(raft.takeApplicable().map((e) => e.index)).toEqual([index]);
  });

  test("All Servers: If RPC ... contains term T > currentTerm: ... convert to follower", () => {
    for (const bring of [preCandidate, candidate, leader]) {
      const raft = bring({ term: 5 });
      step(raft, appendReply(7, { success: false }));
      expect(raft).toMatchObject({ currentTerm: 7, role: { name: "Follower" } });
      expect(raft.votedFor).toBeUndefined();
    }
  });

  test("Followers: Respond to RPCs from candidates and leaders", () => {
    const raft = server();
    expect(typesOf(step(raft, requestVote(1)))).toEqual(["RequestVoteReply"]);
    expect(typesOf(step(raft, appendEntries(1)))).toEqual(["AppendEntriesReply"]);
    const strange = requestVote(2, { from: "not a member", id: 77 }); // Heard, if not counted.
    expect(one(step(raft, strange))).toMatchObject({ to: "not a member", id: 77 });
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
    const asked = { term: 5, preVote: false, lastLogIndex: 1, lastLogTerm: 1 };
    expect(sent).toMatchObject([
      { to: "b", ...asked },
      { to: "c", ...asked },
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
    turn(raft); // nextIndex is optimism: what is under way is not sent again.
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
    for (let i = 0; i < 4; i += 1) propose(raft); // The entries 2 to 5.
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

// ------------------------------ Every message, role and term ----------------------------------

/**
 * What a server of term 5 makes of each message, by the rules and not by the code. It is one of
 * "a", "b" and "c"; "b" is the leader that a follower may have, AppendEntries come from "b", and
 * all else is from "c", whose log is equal. A cell is the state afterwards, then the reply:
 *
 *   =      nothing changes               no5  yes5    a vote is refused, granted, in term 5
 *   F6c    Follower, term 6, voted c     fail5  ok5   entries are refused, taken, in term 5
 *   !      cannot be: two leaders of one term, so the server stops rather than go on
 *
 * - A stale request is refused with our term, a stale reply is nothing (§5.1).
 * - A higher term is adopted, and with it goes the vote (§5.1), but not from a RequestVote while
 *   we hear a leader, or lead and hear a majority (thesis §4.2.3), and not from a pre-vote or the
 *   reply that grants it: that term is only proposed (thesis §9.6).
 * - We vote once per term (§5.2), and grant a pre-vote if in that term we would vote.
 * - AppendEntries of our term, taken or refused, makes a follower of who does not lead (§5.2).
 * - One vote wins with our own in a cluster of three: a pre-candidate becomes a candidate of term
 *   6, a candidate leads. Other replies make nobody more than he is.
 */
const TABLE = `
  message       term | follower of b | follower    | pre-candidate | candidate  | leader
  pre-vote?        4 | =   no5       | =   no5     | =   no5       | =   no5    | =   no5
  pre-vote?        5 | =   no5       | =   yes5    | =   yes5      | =   no5    | =   no5
  pre-vote?        6 | =   no5       | =   yes6    | =   yes6      | =   yes6   | =   no5
  vote?            4 | =   no5       | =   no5     | =   no5       | =   no5    | =   no5
  vote?            5 | =   no5       | F5c yes5    | F5c yes5      | =   no5    | =   no5
  vote?            6 | =   no5       | F6c yes6    | F6c yes6      | F6c yes6   | =   no5
  pre-vote: yes    4 | =             | =           | =             | =          | =
  pre-vote: yes    5 | =             | =           | =             | =          | =
  pre-vote: yes    6 | =             | =           | C6a           | =          | =
  pre-vote: no     4 | =             | =           | =             | =          | =
  pre-vote: no     5 | =             | =           | =             | =          | =
  pre-vote: no     6 | F6-           | F6-         | F6-           | F6-        | F6-
  vote: yes        4 | =             | =           | =             | =          | =
  vote: yes        5 | =             | =           | =             | L5a        | =
  vote: yes        6 | F6-           | F6-         | F6-           | F6-        | F6-
  vote: no         4 | =             | =           | =             | =          | =
  vote: no         5 | =             | =           | =             | =          | =
  vote: no         6 | F6-           | F6-         | F6-           | F6-        | F6-
  entries fit      4 | =   fail5     | =   fail5   | =   fail5     | =   fail5  | =   fail5
  entries fit      5 | =   ok5       | =   ok5     | F5- ok5       | F5a ok5    | !
  entries fit      6 | F6- ok6       | F6- ok6     | F6- ok6       | F6- ok6    | F6- ok6
  entries clash    4 | =   fail5     | =   fail5   | =   fail5     | =   fail5  | =   fail5
  entries clash    5 | =   fail5     | =   fail5   | F5- fail5     | F5a fail5  | !
  entries clash    6 | F6- fail6     | F6- fail6   | F6- fail6     | F6- fail6  | F6- fail6
  entries: ok      4 | =             | =           | =             | =          | =
  entries: ok      5 | =             | =           | =             | =          | =
  entries: ok      6 | F6-           | F6-         | F6-           | F6-        | F6-
  entries: fail    4 | =             | =           | =             | =          | =
  entries: fail    5 | =             | =           | =             | =          | =
  entries: fail    6 | F6-           | F6-         | F6-           | F6-        | F6-
  timeout now      4 | =             | =           | =             | =          | =
  timeout now      5 | =             | =           | =             | =          | =
  timeout now      6 | F6-           | F6-         | F6-           | F6-        | F6-`;

/** A leader of three whose log was replaced by a snapshot, but for `kept` bytes of it. */
function compacted(index = 5, kept = 0, settings: Parameters<typeof leader>[0] = {}): Raft {
  const raft = settledLeader({ log: [1, 1, 1, 1], ...settings });
  for (let i = 0; i < 3; i += 1) propose(raft);
  turn(raft);
  acknowledge(raft, "b");
  raft.onSnapshot(snapshotOf(raft, index), kept);
  return raft;
}

/** What a follower that has `matchIndex` entries, and no more, makes its leader send. */
function fallBehind(raft: Raft, name: Name): Of<"InstallSnapshot">[] {
  progress(raft, name).matchIndex = 0;
  const { currentTerm } = raft;
  const round = roundOf(raft);
  return only(
    "InstallSnapshot",
    step(raft, appendReply(currentTerm, { from: name, success: false, round })),
  );
}

/** All chunks of a snapshot of 30 bytes. */
const chunks = (term = 2, rest: Partial<Of<"InstallSnapshot">> = {}) =>
  [0, 10, 20].map((offset) => installSnapshot(term, { offset, ...rest }));

describe("§7 Log compaction", () => {
  test("the entire log up to that point is discarded", () => {
    const raft = compacted();
    expect(raft.log).toMatchObject({ baseIndex: 5, lastIndex: 8 });
    expect(() => raft.log.at(4)).toThrow("Broken invariant");
    expect(() => raft.log.slice(5)).toThrow("Broken invariant");
    expect(termsOf(raft)).toEqual([2, 2, 2]);
  });

  test("(but some of it is kept for followers that are a little behind)", () => {
    const two = entry(1, 1).record.length * 2;
    expect(compacted(4, two).log.baseIndex).toBe(2);
    expect(compacted(4, two - 1).log.baseIndex).toBe(3);
    expect(compacted(4, 1e9).log.baseIndex).toBe(0);
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
    const asked = (lastLogIndex: number, lastLogTerm: number) =>
      one(step(raft, requestVote(5, { preVote: true, lastLogIndex, lastLogTerm })));
    expect(asked(4, 3)).toMatchObject({ voteGranted: false });
    expect(asked(9, 2)).toMatchObject({ voteGranted: false });
    expect(asked(5, 3)).toMatchObject({ voteGranted: true });
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

  test("... a follower that keeps up is sent entries, however short the log is", () => {
    const cluster = new Cluster(THREE, { batchBytes: 100 });
    cluster.elect("a");
    cluster.snapshotBytes = 0;
    for (let i = 0; i < 30; i += 1) cluster.propose("a");
    cluster.advance(T);
    expect(only("InstallSnapshot", cluster.sent)).toEqual([]);
    for (const name of THREE) expect(cluster.at(name).log.baseIndex).toBeGreaterThan(5);
  });

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
      // And its own later snapshots begin with what was installed.
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
      expect(raft).toMatchObject({ commitIndex: 5, lastApplied: 5 }); // It is committed, so applied.
    },
  );

  test("take a snapshot when the log reaches a fixed size in bytes", () => {
    const raft = settledLeader();
    const { length } = entry(1, 1, "command").record;
    for (let i = 1; i <= 12; i += 1) {
      propose(raft);
      turn(raft);
      acknowledge(raft, "b");
      const bytes = raft.log.bytes(1, raft.lastApplied);
      expect(raft.isSnapshotDue(10 * length)).toBe(bytes > 10 * length);
    }
    expect(raft.isSnapshotDue(10 * length)).toBe(true);
    raft.onSnapshot(snapshotOf(raft, raft.lastApplied), 5 * length);
    expect(raft.isSnapshotDue(0)).toBe(false); // What is kept of it does not count again.
  });

  test("(which is larger when the last snapshot was, or they would cost more than the log)", () => {
    const raft = compacted(5);
    const bytes = raft.log.bytes(6, raft.lastApplied);
    for (const [size, isDue] of [[bytes - 1, true], [bytes, false]] as const) {
      raft.snapshot = { ...raft.snapshot, size };
      expect(raft.isSnapshotDue(bytes - 1)).toBe(isDue);
    }
  });

  test("(and while one is being sent, it is not replaced too soon by the next)", () => {
    const raft = compacted(5);
    expect(raft.isSnapshotDue(10)).toBe(false);
    raft.snapshot = { ...raft.snapshot, size: 0 };
    expect(raft.isSnapshotDue(10)).toBe(true);
    fallBehind(raft, "c");
    const bytes = raft.log.bytes(6, raft.lastApplied);
    expect(raft.isSnapshotDue(bytes / 2)).toBe(false);
    expect(raft.isSnapshotDue(bytes / 5)).toBe(true); // Though not for ever.
    raft.now += 11 * T; // Nor for one that is gone.
    expect(raft.isSnapshotDue(bytes / 2)).toBe(true);
  });

  test("(nor taken while one is being received)", () => {
    const raft = follower({ log: [1, 1, 1], term: 2 });
    step(raft, heartbeat(raft, { leaderCommit: 3 }));
    expect(raft.isSnapshotDue(10)).toBe(true);
    step(raft, installSnapshot(2));
    expect(raft.isSnapshotDue(10)).toBe(false);
    step(raft, appendEntries(3, { from: "c", prevLogIndex: 3, prevLogTerm: 1 }));
    expect(raft.isSnapshotDue(10)).toBe(true); // That leader is gone, and will not send the rest.
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
      const { offset: has = 0 } = raft.incoming ?? {};
      const reply = one(step(raft, installSnapshot(2, { offset, data })));
      expect(reply).toMatchObject({ success: offset <= has, offset: isNext ? offset + 10 : has });
      written.push(...raft.incoming?.chunks.splice(0) ?? []);
    }
    expect(Buffer.concat(written).toString()).toBe("0000000000101010101020202020" + "20");
  });

  test("4. Reply and wait for more data chunks if done is false", () => {
    const raft = follower({ term: 2 });
    for (const [i, chunk] of chunks().entries()) {
      expect(one(step(raft, chunk))).toMatchObject({ success: true, offset: 10 * (i + 1) });
      expect(raft.commitIndex).toBe(0);
    }
    // An empty chunk is a heartbeat, and asks whether all before it has come.
    const empty = { data: Buffer.alloc(0) };
    const asked = (offset: number) => one(step(raft, installSnapshot(2, { offset, ...empty })));
    expect(asked(30)).toMatchObject({ success: true, offset: 30 });
    expect(asked(40)).toMatchObject({ success: false, offset: 30 });
  });

  test("5. Save snapshot file, discard any existing or partial snapshot with a smaller index", () => {
    const raft = follower({ term: 2 });
    step(raft, installSnapshot(2));
    step(raft, installSnapshot(2, { lastIncludedIndex: 8, size: 20 }));
    expect(raft.incoming).toMatchObject({ index: 8, offset: 10, size: 20 });
    // One of the old ones was late. No chunk of it may get into the new one (catalogue 35).
    expect(step(raft, installSnapshot(2, { offset: 10 }))).toEqual([]);
    expect(raft.incoming).toMatchObject({ index: 8, offset: 10, size: 20 });
  });

  test("... and one of another leader, whose bytes may be others (catalogue 35)", () => {
    const raft = follower({ term: 2 });
    step(raft, installSnapshot(2));
    const other = { from: "c", offset: 10 };
    expect(one(step(raft, installSnapshot(3, other)))).toMatchObject({ success: false, offset: 0 });
    expect(raft.incoming).toMatchObject({ leaderTerm: 3, offset: 0, chunks: [] });
  });

  test("8. Reset state machine using snapshot contents (in which time nothing is applied)", () => {
    const raft = follower({ log: [1, 1], term: 2 });
    for (const chunk of chunks()) step(raft, chunk);
    expect(raft.isInstalling).toBe(true);
    // Even if others send what it would have had to apply before.
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

  test("(nor does the next one take the place of a whole one: it waits, and begins anew)", () => {
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
    "... as to any snapshot of what is committed: an old one does not take the state back "
      + "(catalogue 34)",
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

  test("a round of chunks confirms reads and leadership like any other", () => {
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

  test("several chunks are under way, and each acknowledgement makes room for more", () => {
    const raft = compacted(5, 0, settings);
    expect(places(fallBehind(raft, "c"))).toEqual([[0, 400], [400, 400], [800, 200]]);
    expect(places(turn(raft))).toEqual([]);
    expect(accept(raft, 400)).toEqual([[1000, 400]]);
    expect(accept(raft, 1400)).toEqual([[1400, 400], [1800, 400], [2200, 200]]);
    expect(accept(raft, 800)).toEqual([]); // It was overtaken.
    expect(accept(raft, 2400)).toEqual([[2400, 100]]);
    expect(accept(raft, 2500)).toEqual([]);
  });

  test("a heartbeat asks for what was sent, and a refusal begins anew where the follower is", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    expect(places(to("c", wait(raft, HEARTBEAT)))).toEqual([[1000, 0]]);
    expect(refuse(raft, 400)).toEqual([[400, 400]]); // One at a time until one is acknowledged.
    expect(accept(raft, 800)).toEqual([[800, 400], [1200, 400], [1600, 200]]);
  });

  test("that shrinks after refusals of entries asks for the chunks that were sent before", () => {
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

  test("what is refused behind one lost chunk is sent once", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    accept(raft, 400);
    const round = roundOf(raft);
    expect(refuse(raft, 400, round - 1)).toEqual([[400, 400]]);
    expect(refuse(raft, 400, round)).toEqual([]);
  });

  test("a follower that has lost what it had gets all of it again", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    accept(raft, 1000);
    expect(refuse(raft, 0)).toEqual([[0, 400]]);
    expect(refuse(raft, 0)).toEqual([]);
    expect(places(to("c", wait(raft, HEARTBEAT / 8)))).toEqual([[0, 400]]);
    expect(accept(raft, 400)).toEqual([[400, 400], [800, 400], [1200, 200]]);
  });

  test("a newer snapshot is sent from its beginning, and answers about the old one are void", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    accept(raft, 800);
    raft.onSnapshot(snapshotOf(raft, 7), 0);
    const [first] = only("InstallSnapshot", to("c", turn(raft)));
    expect(first).toMatchObject({ lastIncludedIndex: 7, offset: 0 });
    expect(accept(raft, 2000)).toEqual([]);
    expect(progress(raft, "c").snapshot).toMatchObject({ index: 7, acknowledged: 0 });
  });

  test("nobody can acknowledge more than there is", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    expect(accept(raft, 2501)).toEqual([]);
    expect(progress(raft, "c").snapshot.acknowledged).toBe(0);
  });

  test("when the follower has it, entries follow, from the next one on", () => {
    const raft = compacted(5, 0, settings);
    fallBehind(raft, "c");
    const done = appendReply(2, { from: "c", round: roundOf(raft), matchIndex: 5 });
    expect(only("AppendEntries", to("c", step(raft, done)))[0]).toMatchObject({
      prevLogIndex: 5,
      prevLogTerm: 2,
    });
  });
});

describe("A log that was replaced", () => {
  test("an AppendEntries that begins below the snapshot matches there (catalogue 48)", () => {
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

  test("a deposed leader that asks below the snapshot is refused, and hurts nobody", () => {
    const raft = follower({ base: { index: 5, term: 2 }, log: [2], term: 3 });
    for (const [prevLogIndex, prevLogTerm] of [[0, 0], [3, 1], [5, 1], [6, 1], [9, 9]] as const) {
      const stale = appendEntries(2, { from: "c", prevLogIndex, prevLogTerm });
      expect(one(step(raft, stale))).toMatchObject({ success: false, term: 3 });
    }
  });

  test("a hint of what the leader no longer has makes it send the snapshot (catalogue 22)", () => {
    for (const [hintIndex, hintTerm] of [[0, 0], [3, 1], [4, 1], [6, 1], [8, 1]] as const) {
      const raft = leader({ base: { index: 5, term: 2 }, log: [2, 2, 2], term: 3 });
      const reply = appendReply(3, { success: false, round: roundOf(raft), hintIndex, hintTerm });
      expect(to("b", step(raft, reply))[0]).toMatchObject({ type: "InstallSnapshot", offset: 0 });
      expect(progress(raft, "b").nextIndex).toBeLessThanOrEqual(5);
    }
  });

  test.each([0, 1, 5])("whatever it lacks, it gives the same answers (%d kept)", (kept) => {
    const random = randomFrom(kept);
    const draw = (n: number) => Math.floor(random() * n);
    for (let run = 0; run < 200; run += 1) {
      const terms = Array.from({ length: 12 }, () => 1 + draw(4)).sort((a, b) => a - b);
      const whole = server({ log: terms }).log;
      const { log } = server({ log: terms });
      log.compact(3 + draw(3), kept * entry(1, 1).record.length - 1);
      log.compact(6 + draw(4), kept * entry(1, 1).record.length - 1);
      const { baseIndex } = log;
      for (let index = baseIndex; index <= 13; index += 1) {
        const term = draw(5);
        const [before, now] = [whole, log].map((l) => l.lastUpTo(index, term));
        expect(now).toBe(Math.max(before ?? 0, baseIndex - 1));
        expect(log.matches(index, term)).toBe(whole.matches(index, term));
        if (index === baseIndex) continue;
        const last = index + draw(13 - index);
        expect(log.bytes(index, last)).toBe(whole.bytes(index, last));
        expect(log.slice(index, last)).toEqual(whole.slice(index, last));
        if (index <= 12) expect(log.batch(index, 100)).toEqual(whole.batch(index, 100));
      }
    }
  });

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

  test("a bad day with many snapshots ends well, and all of it was applied once", () => {
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

describe("every message in every role at a lower, an equal and a higher term", () => {
  const [heading = [], ...rows] = TABLE.trim()
    .split("\n")
    .map((line) => line.split("|").map((cell) => cell.trim().replace(/ +/g, " ")));
  const roles: Record<string, (options: { log: number[]; term: number }) => Raft> = {
    "follower of b": follower,
    follower: server,
    "pre-candidate": preCandidate,
    candidate,
    leader,
  };

  const make = (what: string, term: number, raft: Raft): Message => {
    const from = "c";
    // A pre-vote of a term that is not the next one was granted to an earlier campaign.
    const campaign = raft.campaigns - (term > 5 ? 0 : 1);
    const voteGranted = what.endsWith("yes");
    if (what === "pre-vote?") return request(raft, term, { from, preVote: true });
    if (what === "vote?") return request(raft, term, { from });
    if (what.startsWith("pre-vote:")) {
      return voteReply(term, { from, preVote: true, campaign, voteGranted });
    }
    if (what.startsWith("vote:")) return voteReply(term, { from, campaign, voteGranted });
    if (what === "entries fit") return { ...heartbeat(raft), term };
    if (what === "entries clash") return { ...heartbeat(raft), term, prevLogTerm: 2 };
    if (what === "timeout now") return timeoutNow(term, { from }); // "c" is nobody's leader here.
    return appendReply(term, { from, success: what.endsWith("ok") });
  };
  const show = (raft: Raft) => `${raft.role.name[0]}${raft.currentTerm}${raft.votedFor ?? "-"}`;
  const showReply = (m: Message | undefined) => {
    if (m?.type === "RequestVoteReply") return `${m.voteGranted ? "yes" : "no"}${m.term}`;
    if (m?.type === "AppendEntriesReply") return `${m.success ? "ok" : "fail"}${m.term}`;
    return "";
  };

  const cells = rows.flatMap(([message = "", ...row]) =>
    row.map((expected, i) => [message, heading[i + 1] ?? "", expected] as const)
  );
  test("the table is whole", () => {
    expect(cells.length).toBe(11 * 3 * 5);
  });

  test.each(cells)("%s, at a %s: %s", (row, role, expected) => {
    const raft = (roles[role] ?? server)({ log: [1, 1], term: 5 });
    const before = show(raft);
    const [, what = "", term] = row.match(/^(.*) (\d)$/) ?? [];
    const message = make(what, Number(term), raft);
    if (expected === "!") return expect(() => step(raft, message)).toThrow("at most one leader");
    const [state, reply = ""] = expected.split(" ");
    const replies = step(raft, message).filter((m) => m.type.endsWith("Reply"));
    expect(replies.map(showReply)).toEqual(reply ? [reply] : []);
    expect(receiversOf(replies)).toEqual(reply ? [message.from] : []);
    expect(show(raft)).toBe(state === "=" ? before : String(state));
    if (message.type === "AppendEntries" && message.term >= 5) expect(raft.leader).toBe("b");
  });
});

// -------------------------------- What the paper does not say ----------------------------------

describe("Votes", () => {
  test("a vote that the network delivers twice counts once", () => {
    const raft = candidate({ members: FIVE });
    for (let i = 0; i < 3; i += 1) step(raft, voteReply(1, { from: "b" }));
    expect(raft.role.name).toBe("Candidate");
    const asking = preCandidate({ members: FIVE });
    for (let i = 0; i < 3; i += 1) step(asking, voteReply(2, { from: "b", preVote: true }));
    expect(asking.role.name).toBe("PreCandidate");
  });

  test("a vote counts in its term, whichever request it answers", () => {
    const raft = candidate();
    wait(raft, HEARTBEAT);
    step(raft, voteReply(1, { campaign: 77 }));
    expect(raft.role.name).toBe("Leader");
  });

  test("a pre-vote counts in its campaign: an earlier answer says nothing about now", () => {
    const raft = preCandidate();
    timeOut(raft);
    const granted = voteReply(2, { preVote: true, campaign: 1 });
    step(raft, granted);
    expect(raft.role.name).toBe("PreCandidate");
    step(raft, { ...granted, campaign: 2 });
    expect(raft.role.name).toBe("Candidate");
  });

  test("a pre-vote counts for the term that was proposed, and for no other", () => {
    const raft = preCandidate();
    const proposed = raft.currentTerm + 1;
    const granted = voteReply(proposed + 1, { preVote: true, campaign: raft.campaigns });
    step(raft, granted);
    expect(raft.role.name).toBe("PreCandidate");
    step(raft, { ...granted, term: proposed });
    expect(raft.role.name).toBe("Candidate");
  });

  test("a pre-vote is no vote, and a vote no pre-vote", () => {
    const raft = candidate();
    step(raft, voteReply(1, { preVote: true, campaign: raft.campaigns }));
    step(raft, voteReply(2, { preVote: true, campaign: raft.campaigns }));
    expect(raft.role.name).toBe("Candidate");
    const asking = preCandidate({ term: 5 });
    step(asking, voteReply(5, { campaign: asking.campaigns }));
    expect(asking.role.name).toBe("PreCandidate");
  });

  test("a pre-vote changes nothing at the receiver", () => {
    const raft = server({ term: 5 });
    raft.tick(T - 1);
    const { electionDueAt, heardAt } = raft;
    const ask = requestVote(6, { preVote: true });
    for (const from of ["b", "c"]) {
      const reply = one(step(raft, { ...ask, from }));
      expect(reply).toMatchObject({ voteGranted: true, term: 6, preVote: true });
    }
    expect(raft).toMatchObject({ currentTerm: 5, votedFor: undefined, electionDueAt, heardAt });
  });

  test("a refusal tells the voter's own term, and the asker adopts it", () => {
    const raft = preCandidate({ term: 3 });
    const voter = server({ name: "b", term: 9 });
    const refusal = one(step(voter, requestVote(4, { from: "a", to: "b", preVote: true })));
    expect(refusal).toMatchObject({ voteGranted: false, term: 9 });
    step(raft, refusal);
    expect(raft).toMatchObject({ currentTerm: 9, role: { name: "Follower" } });
  });

  test("the reply repeats what was asked, so that it counts there and nowhere else", () => {
    const ask = requestVote(6, { from: "c", id: 33, campaign: 44, preVote: true });
    const again = { to: "c", id: 33, campaign: 44, preVote: true };
    expect(one(step(server(), ask))).toMatchObject(again);
    expect(one(step(follower(), ask))).toMatchObject(again);
  });

  test("a vote outlives the role in which it was given, and a restart", () => {
    const raft = candidate({ term: 5 });
    step(raft, appendEntries(5));
    const restarted = server({ term: 5, votedFor: raft.saved.votedFor });
    for (const voter of [raft, restarted]) {
      voter.receive(request(voter, 5, { from: "c" }), 10 * T);
      expect(one(turn(voter))).toMatchObject({ voteGranted: false, term: 5 });
      expect(voter.votedFor).toBe("a");
    }
  });

  test("a vote that was lost on the way is given again", () => {
    const raft = server();
    const ask = requestVote(5);
    for (let i = 0; i < 3; i += 1) {
      expect(one(step(raft, ask))).toMatchObject({ voteGranted: true });
    }
  });
});

describe("Who grants a vote", () => {
  test("gives up its own pre-campaign: the vote forestalls it", () => {
    const raft = preCandidate({ term: 5 });
    expect(one(step(raft, request(raft, 5, { from: "c" })))).toMatchObject({ voteGranted: true });
    step(raft, voteReply(6, { from: "b", preVote: true, campaign: raft.campaigns }));
    expect(raft.role.name).toBe("Follower");
    expect(raft.currentTerm).toBe(5);
  });

  test("does not depose, by its own late campaign, the leader that its vote has made", () => {
    const voter = preCandidate({ term: 5 }); // "a", which asks for pre-votes in term 6.
    const leading = candidate({ name: "c", term: 5 });
    step(leading, { ...one(step(voter, request(voter, 5, { from: "c" }), voter.now)), to: "c" });
    expect(leading.role.name).toBe("Leader");
    step(voter, voteReply(6, { from: "b", preVote: true, campaign: voter.campaigns }));
    const beat = one(only("AppendEntries", wait(leading, HEARTBEAT)).filter((m) => m.to === "a"));
    for (const reply of step(voter, beat)) step(leading, reply);
    expect(leading.role.name).toBe("Leader");
  });

  test("has not heard a leader by it: a silent one is forgotten, and the next vote is free", () => {
    const raft = follower({ term: 5, members: FIVE, random: () => 0.9 }, "b");
    raft.receive(request(raft, 5, { from: "c" }), T);
    expect(one(turn(raft))).toMatchObject({ voteGranted: true, term: 5 });
    expect(raft.hearsLeader()).toBe(false);
    raft.receive(request(raft, 6, { from: "d" }), T + 1);
    expect(one(turn(raft))).toMatchObject({ voteGranted: true, term: 6 });
  });
});

describe("Who hears a leader does not help to depose it", () => {
  test("PreVote: a server that was away does not disturb when it returns (thesis §9.6)", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => m.to === "e" || m.from === "e";
    cluster.advance(20 * T);
    expect(cluster.at("e")).toMatchObject({ currentTerm: 1, role: { name: "PreCandidate" } });
    cluster.lost = () => false;
    cluster.advance(5 * T);
    expect(cluster.leaders).toEqual([cluster.at("a")]);
    expect(cluster.up.map((raft) => raft.currentTerm)).toEqual([1, 1, 1, 1, 1]);
    expect(cluster.at("e").leader).toBe("a");
  });

  test("a server that hears only the others, not the leader, does not disturb either", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => m.from === "a" && m.to === "e";
    cluster.advance(20 * T);
    expect(cluster.leaders).toEqual([cluster.at("a")]);
    expect(cluster.at("a").currentTerm).toBe(1);
  });

  test("a follower refuses for T after it heard the leader, then votes (thesis §4.2.3)", () => {
    const raft = follower({ random: () => 0.9 });
    raft.receive(request(raft, 9, { from: "c" }), T - 1);
    expect(one(turn(raft))).toMatchObject({ voteGranted: false, term: 1 });
    raft.receive(request(raft, 9, { from: "c" }), T);
    expect(one(turn(raft))).toMatchObject({ voteGranted: true, term: 9 });
  });

  test("a leader refuses a candidate while it is in touch with its majority", () => {
    const raft = settledLeader();
    const { now } = raft;
    raft.receive(request(raft, 9, { from: "c" }), now + T - 1);
    expect(only("RequestVoteReply", turn(raft))).toMatchObject([{ voteGranted: false, term: 1 }]);
    expect(raft.role.name).toBe("Leader");
    raft.receive(request(raft, 9, { from: "c" }), now + T);
    expect(raft).toMatchObject({ currentTerm: 9, role: { name: "Follower" } });
  });

  test("CheckQuorum: a leader that hears no majority for T steps down (thesis §6.2)", () => {
    const raft = settledLeader({ members: FIVE });
    const since = raft.now;
    raft.tick(since + T - 1);
    acknowledge(raft, "b"); // One of four: with itself that is two of five.
    expect(raft.role.name).toBe("Leader");
    raft.tick(since + T);
    expect(raft.role).toEqual({ name: "Follower", leader: undefined });
    expect(raft.electionDueAt).toBeGreaterThanOrEqual(raft.now + T);
    expect(turn(raft)).toEqual([]);
  });

  test("CheckQuorum: a leader that hears a majority does not", () => {
    const raft = settledLeader({ members: FIVE });
    for (let i = 0; i < 100; i += 1) {
      wait(raft, HEARTBEAT);
      acknowledge(raft, "b");
      const [round, hintIndex] = [roundOf(raft), raft.log.lastIndex];
      step(raft, appendReply(1, { from: "c", success: false, round, hintIndex }));
    }
    expect(raft.role.name).toBe("Leader");
  });

  test("a leader cut off steps down, and the others go on", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => ["a", "b"].includes(m.from) !== ["a", "b"].includes(m.to);
    cluster.advance(4 * T);
    const leading = one(cluster.leaders);
    expect(["c", "d", "e"]).toContain(leading.settings.name);
    expect(leading.currentTerm).toBeGreaterThan(1);
  });

  test("a stale AppendEntries is answered with the higher term, or a cluster is wedged", () => {
    // "c" is ahead in term, so it takes no entries; nobody who hears the leader would vote for it.
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.at("c").receive(appendEntries(7, { from: "b", to: "c" }), cluster.now);
    cluster.advance(10 * T);
    const leading = one(cluster.leaders);
    expect(leading.currentTerm).toBeGreaterThan(7);
    for (const raft of cluster.up) expect(raft.leader).toBe(leading.settings.name);
  });
});

describe("The election timer", () => {
  test("is postponed by the leader, and by a candidate that gets our vote", () => {
    for (
      const message of [
        appendEntries(5),
        appendEntries(5, { prevLogIndex: 8, prevLogTerm: 5 }),
        requestVote(5),
        requestVote(6),
      ]
    ) {
      const raft = server({ term: 5 });
      step(raft, message, T / 2);
      expect(raft.electionDueAt).toBe(T / 2 + 1.25 * T);
    }
  });

  test("and by nothing else: refused votes and messages of an old term do not postpone it", () => {
    for (
      const message of [
        requestVote(5, { lastLogIndex: 1, lastLogTerm: 1 }),
        requestVote(9, { lastLogIndex: 1, lastLogTerm: 1 }),
        requestVote(4, { lastLogIndex: 9, lastLogTerm: 4 }),
        requestVote(6, { lastLogIndex: 9, lastLogTerm: 5, preVote: true }),
        appendEntries(4, { prevLogIndex: 2, prevLogTerm: 2 }),
        appendReply(5),
        appendReply(6),
        voteReply(5),
        voteReply(6, { voteGranted: false }),
      ]
    ) {
      const raft = server({ log: [1, 2], term: 5 });
      step(raft, message, T / 2);
      expect(raft.electionDueAt).toBe(1.25 * T);
    }
  });

  test("nor a second candidate of a term in which we have voted", () => {
    const raft = server({ term: 5, votedFor: "c" });
    step(raft, requestVote(5, { from: "b" }), T / 2);
    expect(raft.electionDueAt).toBe(1.25 * T);
  });

  test("a server says when it wants to be woken", () => {
    expect(server().wakeAt).toBe(1.25 * T);
    expect(follower({ now: 7 }).wakeAt).toBe(7 + 1.25 * HEARTBEAT); // To knock at a late leader.
    const asking = preCandidate();
    expect(asking.wakeAt).toBe(asking.now + HEARTBEAT);
    const leading = settledLeader();
    expect(leading.wakeAt).toBe(leading.now + HEARTBEAT);
    leading.tick(leading.now + 30);
    propose(leading);
    turn(leading);
    expect(leading.wakeAt).toBe(leading.now + HEARTBEAT / 8);
  });
});

describe("A leader that is late, and whose port is closed", () => {
  const LATE = 1.25 * HEARTBEAT;
  /** The leader has not been heard for so long that a heartbeat is missing. */
  const doubting = (leader: Name = "b", options: Parameters<typeof follower>[0] = {}) => {
    const raft = follower(options, leader);
    wait(raft, LATE);
    return raft;
  };
  const refuse = (raft: Raft, afterMs: number, peer: Name = "b") => {
    raft.onPortClosed(peer, raft.now + afterMs);
    return turn(raft);
  };
  /** What knows its leader to be gone. */
  const bereft = (options: Parameters<typeof follower>[0] = {}) => {
    const raft = doubting("b", options);
    refuse(raft, 1);
    refuse(raft, 5);
    return raft;
  };

  test("is knocked at when it is late, and then once in a heartbeat until it is heard", () => {
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

  test("but nobody is knocked at who does not lead, and nobody knocks who follows nobody", () => {
    const idle = [server(), bereft(), preCandidate(), candidate(), settledLeader()];
    for (const raft of idle) {
      raft.portProbes = [];
      wait(raft, LATE);
      expect(raft.portProbes).toEqual([]);
    }
  });

  test("one refusal makes sure of nothing, but is worth another knock a moment later", () => {
    const raft = doubting();
    raft.portProbes = [];
    const { electionDueAt, role } = raft;
    expect(refuse(raft, 1)).toEqual([]);
    expect(raft).toMatchObject({ electionDueAt, role, leader: "b", wakeAt: raft.now + 5 });
    expect(raft.hearsLeader()).toBe(true);
    wait(raft, 5);
    expect(raft.portProbes).toEqual(["b"]);
  });

  test("a second makes a follower forget it, and campaign after a short random wait", () => {
    for (const chance of [0, 0.5, 0.999]) {
      const raft = bereft({ random: () => chance });
      expect(raft.role).toEqual({ name: "Follower", leader: undefined });
      expect(raft.hearsLeader()).toBe(false);
      const waitMs = raft.electionDueAt - raft.now;
      expect(waitMs).toBeCloseTo(chance * HEARTBEAT / 2, 9);
      const asked = only("RequestVote", timeOut(raft));
      expect(asked.map(({ to, preVote }) => [to, preVote])).toEqual([["b", true], ["c", true]]);
      expect(raft.currentTerm).toBe(1);
    }
  });

  test("and vote for whoever found out before", () => {
    const raft = bereft();
    const vote = { from: "c", lastLogIndex: 9, lastLogTerm: 1 };
    const [pre] = step(raft, requestVote(2, { ...vote, preVote: true }));
    expect(pre).toMatchObject({ voteGranted: true });
    const [real] = step(raft, requestVote(2, vote));
    expect(real).toMatchObject({ voteGranted: true });
    expect(raft.electionDueAt).toBe(raft.now + 1.25 * T); // It waits for that one as for any.
  });

  test("refusals of somebody else, too early, too close, or before a word of it do nothing", () => {
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
    for (const happens of cases) {
      const raft = doubting();
      happens(raft);
      expect(raft.leader).toBe("b");
      expect(raft.electionDueAt).toBe(raft.heardAt + 1.25 * T);
    }
  });

  test("and neither does any to who follows nobody, asks for votes, or leads", () => {
    for (const raft of [server(), preCandidate(), candidate(), settledLeader(), bereft()]) {
      const { role, electionDueAt } = raft;
      for (const ms of [LATE, 5, 5]) refuse(raft, ms, raft.leader ?? "b");
      expect(raft).toMatchObject({ role, electionDueAt });
    }
  });

  test("any word of it makes a follower of who had forgotten it, as patient as before", () => {
    const raft = bereft();
    step(raft, appendEntries(1, { prevLogIndex: 0 }));
    expect(raft).toMatchObject({ leader: "b", electionDueAt: raft.now + 1.25 * T });
    expect(raft.hearsLeader()).toBe(true);
    refuse(raft, LATE); // What was refused before does not count any more.
    expect(raft.leader).toBe("b");
  });

  test("who finds out first asks again soon, and less and less so", () => {
    const raft = bereft();
    const goneAt = raft.now;
    const patience: number[] = [];
    const asking: number[] = [];
    for (let woken = 0; raft.now < goneAt + 3 * T; woken += 1) {
      expect(woken).toBeLessThan(100); // It does not storm.
      const { campaigns } = raft;
      raft.tick(raft.wakeAt);
      if (only("RequestVote", turn(raft)).length > 0) asking.push(raft.now - goneAt);
      if (raft.campaigns > campaigns) patience.push(raft.electionDueAt - raft.now);
    }
    const isFaster = patience.every((ms, i) => i === 0 || ms >= (patience[i - 1] ?? 0));
    expect(isFaster).toBe(true);
    expect(patience[0]).toBe(1.25 * HEARTBEAT);
    expect(patience.at(-1)).toBe(1.25 * T);
    const gaps = asking.map((at, i) => at - (asking[i - 1] ?? at)).slice(1);
    expect(Math.min(...gaps)).toBeGreaterThanOrEqual(HEARTBEAT / 4);
    expect(gaps[0]).toBe(HEARTBEAT / 4);
    expect(gaps.at(-1)).toBe(HEARTBEAT);
  });

  test("whoever forges that for a minority causes nothing, for a majority one election", () => {
    for (const deceived of [["b", "c"], ["b", "c", "d"], ["b", "c", "d", "e"]]) {
      const cluster = new Cluster(FIVE, { random: randomFrom(deceived.length) });
      cluster.elect("a");
      cluster.advance(10 * HEARTBEAT);
      const index = cluster.propose("a");
      const { currentTerm } = cluster.at("a");
      cluster.lost = ({ from }) => from === "a"; // So that it is late.
      cluster.advance(1.3 * HEARTBEAT);
      for (const afterMs of [1, 6]) {
        for (const name of deceived) cluster.at(name).onPortClosed("a", cluster.now + afterMs);
      }
      cluster.advance(HEARTBEAT / 2); // Or its next word would end the doubt at once.
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

describe("A leader that has started again", () => {
  test("leads no more: a follower campaigns after a short random wait, however fresh it was", () => {
    for (const chance of [0, 0.5, 0.999]) {
      const raft = follower({ random: () => chance });
      wait(raft, 1);
      raft.onRestarted("b", raft.now + 1);
      expect(turn(raft)).toEqual([]);
      expect(raft.role).toEqual({ name: "Follower", leader: undefined });
      expect(raft.hearsLeader()).toBe(false);
      expect(raft.electionDueAt - raft.now).toBeCloseTo(chance * HEARTBEAT / 2, 9);
      const asked = only("RequestVote", timeOut(raft));
      expect(asked.map(({ to, preVote }) => [to, preVote])).toEqual([["b", true], ["c", true]]);
    }
  });

  test("but nobody else who has changes anything", () => {
    for (const raft of [server(), follower(), preCandidate(), candidate(), settledLeader()]) {
      const { role, electionDueAt, wakeAt } = raft;
      raft.onRestarted("c", raft.now);
      if (raft.leader !== "b") raft.onRestarted("b", raft.now);
      expect(raft.role).toBe(role);
      expect(raft).toMatchObject({ electionDueAt, wakeAt });
    }
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

  test("what is under way is bounded by windowBytes", () => {
    const raft = settledLeader(small);
    expect(sizes(fill(raft, 100))).toEqual([3, 3, 3]);
    expect(sizes(fill(raft, 1))).toEqual([]);
    const more = only("AppendEntries", to("b", acknowledge(raft, "b", 4)));
    expect(more.map((m) => [m.prevLogIndex, m.entries.length])).toEqual([[10, 3]]);
  });

  test("until it is known that the logs agree, one batch is enough of a question", () => {
    const raft = leader({ ...small, log: [1, 1, 1] });
    expect(sizes(fill(raft, 20))).toEqual([]);
    expect(sizes(only("AppendEntries", acknowledge(raft, "b", 4)))).toEqual([3, 3, 3]);
  });

  test("heartbeats do not queue behind data: a full window does not stop them", () => {
    const raft = settledLeader(small);
    fill(raft, 100);
    const beat = one(only("AppendEntries", to("b", wait(raft, HEARTBEAT))));
    // It asks for the last entry that is under way: who has lost something must refuse it.
    expect(beat).toMatchObject({ prevLogIndex: 10, entries: [] });
  });

  test("a lost datagram is recovered from within a heartbeat", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.lost = (m) => m.to === "b";
    cluster.propose("a");
    cluster.lost = () => false;
    expect(cluster.at("b").log.lastIndex).toBe(1);
    cluster.advance(HEARTBEAT);
    sameLog(cluster.at("b"), cluster.at("a"));
  });

  test("or sooner, when what was sent behind it is refused", () => {
    const cluster = new Cluster(THREE);
    cluster.elect("a");
    cluster.lost = (m) => m.to === "b";
    cluster.propose("a");
    cluster.lost = () => false;
    cluster.propose("a");
    sameLog(cluster.at("b"), cluster.at("a"));
  });

  test("a reply that was lost is made good by the next", () => {
    const raft = settledLeader();
    propose(raft);
    turn(raft);
    propose(raft);
    turn(raft);
    acknowledge(raft, "b", 3);
    expect(raft.commitIndex).toBe(3);
  });

  test("and then the window opens again", () => {
    const raft = settledLeader(small);
    fill(raft, 1); // Lost.
    wait(raft, HEARTBEAT);
    const refusal = { success: false, hintIndex: 1, hintTerm: 1, round: roundOf(raft) };
    const retry = one(only("AppendEntries", step(raft, appendReply(1, refusal))));
    expect(retry.entries.map((e) => e.index)).toEqual([2]);
    acknowledge(raft, "b", 2);
    expect(sizes(fill(raft, 100))).toEqual([3, 3, 3]);
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
    // The probe may be lost again. Then it is sent once per interval, and a refusal is no news.
    const refused = () => step(raft, appendReply(1, { ...hint, round: roundOf(raft) }));
    expect(refused()).toEqual([]);
    const [again] = only("AppendEntries", to("b", wait(raft, HEARTBEAT / 8)));
    expect(again).toMatchObject({ prevLogIndex: 1 });
    expect(again?.entries.length).toBe(sent[0]?.entries.length);
    expect(refused()).toEqual([]);
    expect(sizes(only("AppendEntries", to("b", acknowledge(raft, "b", 4))))).toEqual([3, 3]);
  });

  test(
    "a refusal that leads back further is answered at once, and one that contradicts it is not",
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
    "an entry that a path always loses is sent a few times per heartbeat, alone, and told once",
    () => {
      const cluster = new Cluster(THREE, { batchBytes: 300, windowBytes: 9_000 });
      cluster.elect("a");
      const raft = cluster.at("a");
      const isLarge = (m: Message) =>
        m.type === "AppendEntries" && m.entries.some((e) => e.record.length > 1_000);
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
      const { length: bytes } = raft.log.at(index).record;
      expect(raft.events.filter((event) => event.type === "stuck")).toEqual(
        ["b", "c"].map((server) => ({ type: "stuck", server, index, bytes })),
      );
      expect(progress(raft, "b").stuck).toMatchObject({ index, bytes });
      cluster.lost = () => false;
      cluster.advance(2 * HEARTBEAT);
      for (const other of ["b", "c"]) sameLog(cluster.at(other), raft);
      expect(progress(raft, "b")).toMatchObject({ attempts: 0, matchIndex: index + 100 });
    },
  );

  test("so is a part of a snapshot", () => {
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
    const told = { type: "stuck", server: "c", index, bytes: 300 } as const;
    expect(raft.events.filter((event) => event.type === "stuck")).toEqual([told]);
    expect(progress(raft, "c").stuck).toEqual(told);
    cluster.lost = () => false;
    cluster.advance(2 * HEARTBEAT);
    expect(cluster.at("c").log.lastIndex).toBe(raft.log.lastIndex);
  });

  test("nextIndex never falls to what the follower is known to have", () => {
    const raft = settledLeader({ log: [1, 1, 1] });
    const lie = { success: false, hintIndex: 0, hintTerm: 0, round: roundOf(raft) };
    expect(one(step(raft, appendReply(2, lie)))).toMatchObject({ prevLogIndex: 4, entries: [] });
    expect(progress(raft, "b")).toMatchObject({ matchIndex: 4, nextIndex: 5 });
  });

  test("a reply from the future, or from a stranger, is nothing", () => {
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

describe("What is a promise goes out after the save", () => {
  test("AppendEntries of a durable term may go before it, with the leader's own entries", () => {
    const raft = settledLeader();
    propose(raft);
    const { early, saved, late } = flush(raft);
    expect(typesOf(early)).toEqual(["AppendEntries", "AppendEntries"]);
    expect(saved?.entries.length).toBe(1);
    expect(late).toEqual([]);
  });

  test("a RequestVote may not: the vote for oneself is in it", () => {
    const raft = preCandidate();
    raft.receive(voteReply(2, { preVote: true, campaign: raft.campaigns }), raft.now);
    const { early, saved, late } = flush(raft);
    expect(early).toEqual([]);
    expect(saved).toMatchObject({ currentTerm: 2, votedFor: "a" });
    expect(typesOf(late)).toEqual(["RequestVote", "RequestVote"]);
  });

  test("a leader counts itself only as far as its last saved entry", () => {
    const raft = settledLeader();
    const index = propose(raft);
    raft.prepare();
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex: index }), raft.now);
    expect(raft.commitIndex).toBe(index - 1);
    raft.onSaved();
    expect(raft.commitIndex).toBe(index);
  });

  test("but a majority of others commits without it", () => {
    const raft = settledLeader();
    const index = propose(raft);
    raft.prepare();
    for (const from of ["b", "c"]) {
      raft.receive(appendReply(1, { from, round: roundOf(raft), matchIndex: index }), raft.now);
    }
    expect(raft.commitIndex).toBe(index);
  });

  test("a turn in which nothing happened saves and sends nothing", () => {
    for (const raft of [follower(), preCandidate(), candidate(), leader()]) {
      const quiet = { early: [], saved: undefined, late: [], applied: [], reads: 0 };
      expect(flush(raft)).toEqual(quiet);
    }
  });
});

describe("A single server", () => {
  const alone = { members: ["a"] };

  test("leads only after it has durably opened a new term", () => {
    const raft = server({ ...alone, log: [1, 3], term: 3, votedFor: "a", now: 7 });
    expect(raft.wakeAt).toBe(7);
    raft.tick(7);
    raft.prepare();
    expect(raft.role.name).toBe("Candidate");
    expect(raft.unsaved).toEqual({ currentTerm: 4, votedFor: "a", commitIndex: 0, entries: [] });
    raft.onSaved();
    expect(raft.role.name).toBe("Leader");
    expect(raft.commitIndex).toBe(0);
    expect(termsOf(flush(raft).applied)).toEqual([1, 3, 4]);
  });

  test("opens another on every start", () => {
    const cluster = new Cluster(["a"]);
    for (const term of [1, 2, 3]) {
      cluster.advance(1);
      expect(cluster.at("a")).toMatchObject({ currentTerm: term, role: { name: "Leader" } });
      expect(termsOf(cluster.applied.get("a") ?? [])).toEqual([1, 2, 3].slice(0, term));
      cluster.restart("a");
    }
  });

  test("commits, and answers reads, as soon as it has saved", () => {
    const cluster = new Cluster(["a"]);
    cluster.advance(1);
    const raft = cluster.at("a");
    const index = propose(raft);
    raft.read();
    expect(raft.commitIndex).toBe(index - 1);
    const { applied, reads } = flush(raft);
    expect(applied.map((e) => e.index)).toEqual([index]);
    expect(reads).toBe(1);
    cluster.advance(10 * T);
    expect(raft.role.name).toBe("Leader");
  });
});

describe("Leadership transfer (thesis §3.10)", () => {
  test("without a name, the first follower that answers and has all of the log is asked", () => {
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

  test("a follower that has just died is not asked, even if it has all of the log", () => {
    for (const alive of ["b", "c"]) {
      const raft = settledLeader();
      expect(raft.transfer()).toBeUndefined();
      expect(receiversOf(turn(raft))).toEqual(["b", "c"]);
      expect(only("TimeoutNow", acknowledge(raft, alive))).toMatchObject([{ to: alive }]);
    }
  });

  test("a follower that was not heard for an election timeout is no heir", () => {
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

  test("it is asked by the next heartbeat's answer, which is sent at once", () => {
    const raft = settledLeader();
    raft.transfer("b");
    expect(receiversOf(turn(raft))).toEqual(["b"]);
    expect(only("TimeoutNow", acknowledge(raft, "c"))).toEqual([]);
    expect(only("TimeoutNow", acknowledge(raft, "b")).length).toBe(1);
  });

  test("it campaigns without a pre-vote, and others vote although they hear a leader", () => {
    const raft = follower({ term: 1, log: [1] });
    const [toB, toC] = only("RequestVote", step(raft, timeoutNow(1)));
    expect(raft).toMatchObject({ currentTerm: 2, role: { name: "Candidate" } });
    expect([toB, toC]).toMatchObject([{ preVote: false, transfer: true }, { transfer: true }]);
    const other = follower();
    const asked = request(other, 2, { from: "c" });
    expect(one(step(other, asked))).toMatchObject({ voteGranted: false, term: 1 });
    expect(one(step(other, { ...asked, transfer: true }))).toMatchObject({ voteGranted: true });
  });

  test("the leader votes for its heir as well, if its log is as up to date", () => {
    const raft = settledLeader();
    raft.transfer("b");
    step(raft, request(raft, 2, { transfer: true }));
    expect(raft).toMatchObject({ currentTerm: 2, votedFor: "b", role: { name: "Follower" } });
    const ahead = settledLeader();
    const refused = request(ahead, 2, { transfer: true, lastLogIndex: 0, lastLogTerm: 0 });
    expect(only("RequestVoteReply", step(ahead, refused))).toMatchObject([{ voteGranted: false }]);
  });

  test("TimeoutNow counts once, in its term, and from the leader", () => {
    const raft = follower({ term: 1, log: [1] });
    step(raft, timeoutNow(1, { from: "c" }));
    expect(raft.role.name).toBe("Follower");
    step(raft, timeoutNow(1));
    step(raft, timeoutNow(1));
    expect(raft).toMatchObject({ currentTerm: 2, role: { name: "Candidate" } });
  });

  test("nothing is taken on meanwhile, and all goes on if it fails", () => {
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

  test("there must be something to hand over, and somebody to take it", () => {
    expect(follower().transfer()).toEqual({ refused: "it does not lead" });
    expect(settledLeader().transfer("a stranger")).toEqual({
      refused: "a stranger has no vote here",
    });
    expect(settledLeader().transfer("a")).toEqual({ refused: "a has no vote here" });
    const alone = new Cluster(["a"]);
    alone.advance(1);
    expect(alone.at("a").transfer()).toEqual({ refused: "every other server has no vote here" });
  });

  test("a cluster changes its leader without waiting for anybody's silence", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    const { now } = cluster;
    for (const heir of ["c", "a", "e"]) {
      const [leader] = cluster.leaders;
      leader?.transfer(heir);
      if (leader) cluster.flush(leader);
      cluster.settle();
      expect(cluster.leaders.map((raft) => raft.settings.name)).toEqual([heir]);
    }
    expect(cluster.now).toBe(now);
  });
});

describe("ReadIndex (thesis §6.4)", () => {
  const ask = (raft: Raft) => {
    if (!raft.read()) throw new Error("only a leader reads");
  };
  /** A follower confirms a round, in a turn whose answers we want. */
  const confirm = (raft: Raft, round: number, rest: { from?: Name; success?: boolean } = {}) => {
    const { lastIndex } = raft.log;
    const how = rest.success === false ? { hintIndex: lastIndex } : { matchIndex: lastIndex };
    raft.receive(appendReply(raft.currentTerm, { round, ...how, ...rest }), raft.now);
    return flush(raft).reads;
  };

  test("a read sends a round at once, and is answered when a majority confirms it", () => {
    const raft = settledLeader({ members: FIVE });
    ask(raft);
    const sent = flush(raft);
    expect(receiversOf(sent.early)).toEqual(["b", "c", "d", "e"]);
    expect(sent.reads).toBe(0);
    const rounds = only("AppendEntries", sent.early).map((m) => m.round);
    expect(confirm(raft, rounds[0] ?? 0, { from: "b" })).toBe(0);
    expect(confirm(raft, rounds[1] ?? 0, { from: "c" })).toBe(1);
    expect(confirm(raft, rounds[2] ?? 0, { from: "d" })).toBe(0);
  });

  test("an acknowledgement of an earlier round does not confirm it", () => {
    const raft = settledLeader();
    wait(raft, HEARTBEAT); // Under way when the read comes, so it proves nothing about then.
    const earlier = roundOf(raft);
    ask(raft);
    turn(raft);
    expect(confirm(raft, earlier)).toBe(0);
    expect(confirm(raft, earlier, { from: "c" })).toBe(0);
    expect(confirm(raft, earlier + 1)).toBe(1);
  });

  test("it stays valid while a later round is under way", () => {
    const raft = settledLeader();
    ask(raft);
    turn(raft);
    const round = roundOf(raft);
    wait(raft, HEARTBEAT);
    expect(roundOf(raft)).toBeGreaterThan(round);
    expect(confirm(raft, round)).toBe(1);
  });

  test("a request of an earlier term confirms nothing, though it is answered in this one", () => {
    const raft = settledLeader({ log: [1], term: 5 });
    ask(raft);
    turn(raft);
    const asked = { from: "a", to: "b", prevLogIndex: 1, prevLogTerm: 1, round: roundOf(raft) };
    const b = follower({ name: "b", log: [1], term: 5 }, "a");
    const [late] = step(b, appendEntries(4, asked));
    const [chunk] = step(b, installSnapshot(4, { ...asked, lastIncludedIndex: 9 }));
    for (const answer of [late, chunk]) {
      expect(answer).toMatchObject({ term: 5, round: 0, success: false });
      if (answer) raft.receive(answer, raft.now);
      expect(flush(raft).reads).toBe(0);
    }
    expect(confirm(raft, roundOf(raft))).toBe(1);
  });

  test("a refusal of our term confirms as well: it is from a follower", () => {
    const raft = settledLeader();
    ask(raft);
    turn(raft);
    expect(confirm(raft, roundOf(raft), { success: false })).toBe(1);
  });

  test("it waits until an entry of the leader's own term is committed", () => {
    const raft = leader({ log: [1, 1] });
    ask(raft);
    turn(raft);
    const clash = { hintIndex: 1, hintTerm: 1, round: roundOf(raft), success: false };
    for (const from of ["b", "c"]) raft.receive(appendReply(2, { ...clash, from }), raft.now);
    expect(flush(raft).reads).toBe(0);
    expect(raft.commitIndex).toBe(0);
    expect(confirm(raft, roundOf(raft))).toBe(1);
    expect(raft.lastApplied).toBe(3);
  });

  test("it waits until all that was committed when it came is applied", () => {
    const raft = settledLeader();
    const index = propose(raft);
    turn(raft);
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex: index }), raft.now);
    ask(raft);
    raft.prepare();
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex: index }), raft.now);
    expect(raft.takeReads()).toBe(0);
    raft.takeApplicable();
    expect(raft.takeReads()).toBe(1);
  });

  test("it does not wait for what was proposed later", () => {
    const raft = settledLeader();
    ask(raft);
    propose(raft);
    turn(raft);
    raft.receive(appendReply(1, { round: roundOf(raft), matchIndex: 1 }), raft.now);
    expect(flush(raft).reads).toBe(1);
  });

  test("many reads share one round", () => {
    const raft = settledLeader();
    for (let i = 0; i < 3; i += 1) ask(raft);
    expect(receiversOf(turn(raft))).toEqual(["b", "c"]);
    expect(confirm(raft, roundOf(raft))).toBe(3);
  });

  test("reads that came later wait for a later round", () => {
    const raft = settledLeader();
    ask(raft);
    turn(raft);
    const round = roundOf(raft);
    ask(raft);
    expect(receiversOf(turn(raft))).toEqual(["b", "c"]);
    expect(confirm(raft, round)).toBe(1);
    expect(confirm(raft, roundOf(raft))).toBe(1);
  });

  test("a late reply to an earlier round takes back nothing that a follower has confirmed", () => {
    const raft = settledLeader({ members: FIVE });
    const early = roundOf(raft);
    ask(raft);
    turn(raft);
    expect(confirm(raft, roundOf(raft), { from: "b" })).toBe(0);
    expect(confirm(raft, early, { from: "b" })).toBe(0);
    expect(confirm(raft, roundOf(raft), { from: "c" })).toBe(1);
  });

  test("a lost round is asked again within a heartbeat", () => {
    const raft = settledLeader();
    ask(raft);
    turn(raft);
    expect(receiversOf(wait(raft, HEARTBEAT))).toEqual(["b", "c"]);
    expect(confirm(raft, roundOf(raft))).toBe(1);
  });

  test("it is dropped when the leader steps down, and not answered in a later term", () => {
    const raft = settledLeader();
    ask(raft);
    turn(raft);
    step(raft, appendReply(2, { success: false }));
    timeOut(raft);
    grantPreVotes(raft);
    grantVotes(raft);
    expect(raft).toMatchObject({ currentTerm: 3, role: { name: "Leader" } });
    wait(raft, HEARTBEAT);
    expect(confirm(raft, roundOf(raft))).toBe(0);
  });

  test("a leader that was replaced and does not know it answers no read", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => m.from === "a" || m.to === "a";
    const old = cluster.at("a");
    ask(old);
    cluster.flush(old);
    cluster.elect("b");
    expect(old.takeReads()).toBe(0);
    cluster.lost = () => false;
    cluster.advance(2 * HEARTBEAT);
    expect(old.takeReads()).toBe(0);
    expect(old.leader).toBe("b");
  });
});

describe("Sessions (thesis §6.3)", () => {
  test("a client that claims to have seen 2^48 answers costs no more than any other", () => {
    const sessions = new Sessions();
    const machine = { apply: () => new Uint8Array(), query: () => new Uint8Array() };
    sessions.apply(makeEntry(1, 1, "session", new Uint8Array()), machine);
    const command = makeCommand([1, 1, 2 ** 48 - 1], new Uint8Array());
    expect(sessions.apply(makeEntry(2, 1, "commands", command), machine)).toEqual([
      expect.objectContaining({ kind: "refusal" }),
    ]);
  });

  /** A counter: what it answers tells how often it was asked. */
  const counting = () => {
    let applied = 0;
    const machine = {
      apply: (command: Uint8Array) => {
        applied += 1;
        return Buffer.from(`${Buffer.from(command)} ${applied}`);
      },
      query: () => new Uint8Array(),
    };
    const sessions = new Sessions();
    let index = 0;
    const apply = (kind: Entry["kind"], data: Uint8Array) => {
      index += 1;
      const [outcome] = sessions.apply(makeEntry(index, 1, kind, data), machine);
      if (!outcome) return ""; // An entry that asks for nothing.
      return `${outcome.kind === "answer" ? "" : "error: "}${outcome.data}`;
    };
    return {
      /** Opens a session: its id is the index of its entry. */
      open: () => {
        apply("session", new Uint8Array());
        return index;
      },
      command: (id: number, sequence: number, acknowledged = 0) =>
        apply("commands", makeCommand([id, sequence, acknowledged], Buffer.from(`#${sequence}`))),
      noop: () => apply("noop", new Uint8Array()),
      applied: () => applied,
    };
  };

  test("a retried command is applied once, and its first answer is repeated", () => {
    const { open, command, applied } = counting();
    const id = open();
    expect(command(id, 1)).toBe("#1 1");
    expect(command(id, 2)).toBe("#2 2");
    expect(command(id, 1)).toBe("#1 1");
    expect(command(id, 2)).toBe("#2 2");
    expect(applied()).toBe(2);
  });

  test("an empty answer is an answer too", () => {
    const sessions = new Sessions();
    let applied = 0;
    const apply = () => {
      applied += 1;
      return new Uint8Array();
    };
    const machine = { apply, query: apply };
    sessions.apply(makeEntry(1, 1, "session", new Uint8Array()), machine);
    const command = makeCommand([1, 1, 0], new Uint8Array());
    for (const index of [2, 3]) sessions.apply(makeEntry(index, 1, "commands", command), machine);
    expect(applied).toBe(1);
  });

  test("commands of a session that overtake each other are all applied", () => {
    const { open, command } = counting();
    const id = open();
    expect([3, 1, 2].map((sequence) => command(id, sequence))).toEqual(["#3 1", "#1 2", "#2 3"]);
    expect([1, 2, 3].map((sequence) => command(id, sequence))).toEqual(["#1 2", "#2 3", "#3 1"]);
  });

  test("an acknowledged answer is forgotten, and the command still is not applied again", () => {
    const { open, command, applied } = counting();
    const id = open();
    for (const sequence of [1, 2, 3]) command(id, sequence);
    expect(command(id, 4, 2)).toBe("#4 4");
    for (const sequence of [1, 2]) expect(command(id, sequence)).toStartWith("error: ");
    expect(command(id, 3)).toBe("#3 3");
    expect(applied()).toBe(4);
  });

  test("an acknowledgement is not taken back by a request that was overtaken", () => {
    const { open, command, applied } = counting();
    const id = open();
    command(id, 1);
    command(id, 2, 1);
    command(id, 3, 0);
    expect(command(id, 1)).toStartWith("error: ");
    expect(applied()).toBe(3);
  });

  test("sessions do not share their sequences", () => {
    const { open, command } = counting();
    const [first, second] = [open(), open()];
    expect([first, second].map((id) => command(id, 1))).toEqual(["#1 1", "#1 2"]);
  });

  test("a command of an unknown session is an error, and is not applied", () => {
    const { open, command, noop, applied } = counting();
    const id = open();
    expect(noop()).toBe("");
    expect(command(id + 1, 1)).toStartWith("error: ");
    expect(command(0, 1)).toStartWith("error: ");
    expect(applied()).toBe(0);
  });

  const MAX = 10_000;
  const crowd = () => {
    const all = counting();
    const [first, second, third] = [all.open(), all.open(), all.open()];
    for (let i = 3; i < MAX; i += 1) all.open();
    all.command(first, 1);
    all.command(third, 1);
    return { ...all, ids: [first, second, third] };
  };

  test("beyond the limit the session ends that was used least recently", () => {
    const { open, command, ids } = crowd();
    expect(ids.map((id) => command(id, 2))).not.toContainEqual(expect.stringMatching("error"));
    const fourth = (ids.at(-1) ?? 0) + 1;
    open();
    expect(command(fourth, 1)).toStartWith("error: ");
    expect(ids.map((id) => command(id, 3))).not.toContainEqual(expect.stringMatching("error"));
  });

  test("equal logs end equal sessions", () => {
    const [here, there] = [crowd(), crowd()];
    const answers = [here, there].map(({ open, command, ids }) => {
      const random = randomFrom(7);
      const used: string[] = [];
      for (let i = 0; i < 3_000; i += 1) {
        if (random() < 0.5) open();
        else used.push(command(Math.ceil(random() * (MAX + i)), i));
      }
      return [...used, ...ids.map((id) => command(id, 9))];
    });
    expect(answers[0]).toEqual(answers[1] ?? []);
    const errors = answers[0]?.filter((answer) => answer.startsWith("error")).length ?? 0;
    expect(errors).toBeGreaterThan(100);
    expect(errors).toBeLessThan(1_400);
  });
});

test("the log is the same as a plain list, whatever is appended, cut off, compacted", () => {
  for (let seed = 1; seed <= 30; seed += 1) {
    const random = randomFrom(seed);
    const draw = (n: number) => Math.floor(random() * n);
    const log = new Log();
    let [list, base, term]: [Entry[], number, number] = [[], 0, 1];
    const last = () => base + list.length;
    const bytesOf = (from: number, to: number) =>
      list.filter(({ index }) => index >= from && index <= to)
        .reduce((sum, { record }) => sum + record.length, 0);
    for (let i = 0; i < 60; i += 1) {
      const act = draw(4);
      if (act === 0) {
        term += 1;
        const at = base + 1 + draw(list.length + 1);
        const merged = Array.from(
          { length: draw(3) },
          (_, j) => entry(at + j, term, "x".repeat(draw(30))),
        );
        log.merge(merged, base);
        if (merged.length > 0) list = [...list.filter(({ index }) => index < at), ...merged];
      } else if (act === 1 && draw(3) === 0) {
        const [index, keep] = [base + draw(list.length + 1), draw(200)];
        log.compact(index, keep);
        const isKept = (e: Entry) => e.index > index || bytesOf(e.index, index) <= keep;
        list = list.filter(isKept);
        base = (list[0]?.index ?? index + 1) - 1;
      } else if (act === 2 && draw(20) === 0) {
        [list, base] = [[], last() + draw(5)];
        log.reset(base, term);
      } else {
        list.push(entry(last() + 1, term, "x".repeat(draw(30))));
        log.append(list.at(-1) ?? entry(1, 1));
      }
      expect(log).toMatchObject({ baseIndex: base, lastIndex: last() });
      expect(log.slice(base + 1)).toEqual(list);
      const [from, to] = [base + 1 + draw(list.length + 1), base + draw(list.length + 1)];
      expect(log.bytes(from, to)).toBe(bytesOf(from, to));
      for (const { index, term: its } of list) expect(log.matches(index, its)).toBe(true);
      expect(log.matches(last() + 1, term)).toBe(false);
      const wanted = draw(term + 1);
      const upTo = list.findLast((e) => e.index <= to && e.term <= wanted)?.index ?? base;
      expect(Math.max(base, log.lastUpTo(to, wanted))).toBe(upTo);
      if (from <= last()) expect(log.batch(from, 0)).toHaveLength(1);
    }
  }
});

describe("A server that would go on wrongly stops", () => {
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
    ["only what is committed is applied", { lastApplied: 1 }],
    ["only what is in the log is committed", { commitIndex: 9 }],
    ["the log knows no later term than its server", { currentTerm: 0 }],
    ["a candidate has voted for itself", { votedFor: "c" }],
  ])("%s", (sentence, damage) => {
    const raft = leader();
    Object.assign(raft, damage);
    expect(() => turn(raft)).toThrow(sentence);
  });
});

test("a server tells the story of its election", () => {
  const raft = follower({ now: 100 });
  timeOut(raft);
  grantPreVotes(raft);
  grantVotes(raft);
  acknowledge(raft, "b");
  expect(raft.events).toEqual([
    { type: "leader", from: undefined, to: "b" },
    { type: "leader", from: "b", to: undefined },
    { type: "role", from: "Follower", to: "PreCandidate" },
    { type: "campaign", silentMs: 1.25 * T, transfer: false },
    { type: "role", from: "PreCandidate", to: "Candidate" },
    { type: "votes", votes: 2, elected: true },
    { type: "leader", from: undefined, to: "a" },
    { type: "role", from: "Candidate", to: "Leader" },
    { type: "committed", commitIndex: 1 },
  ]);
});

test("a server that has just led was not without a leader for as long as it led", () => {
  const raft = settledLeader();
  for (let waited = 0; waited < 10 * T; waited += T / 2) {
    wait(raft, T / 2);
    acknowledge(raft, "b");
  }
  timeOut(raft);
  wait(raft, T); // No majority has answered for an election timeout, so it steps down.
  timeOut(raft);
  grantPreVotes(raft);
  const campaigns = raft.events.filter((event) => event.type === "campaign");
  expect(campaigns.map(({ silentMs }) => silentMs)).toEqual([1.25 * T, 1.25 * T]);
});
