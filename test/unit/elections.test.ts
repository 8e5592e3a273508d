/**
 * Tests the refinements of elections: pre-votes (thesis §9.6), CheckQuorum (thesis §6.2), votes on
 * a network that repeats and delays messages, and the full table of what a server in each role
 * makes of each message.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Message, Raft } from "../../raft.ts";
import {
  acknowledge,
  appendEntries,
  appendReply,
  candidate,
  Cluster,
  FIVE,
  flush,
  follower,
  grantPreVotes,
  grantVotes,
  HEARTBEAT,
  heartbeat,
  leader,
  one,
  only,
  preCandidate,
  propose,
  receiversOf,
  request,
  requestVote,
  roundOf,
  server,
  settledLeader,
  step,
  T,
  termsOf,
  THREE,
  timeOut,
  timeoutNow,
  turn,
  voteReply,
  wait,
} from "../support/core.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

describe("A campaign", () => {
  test("a candidate retries only with servers that have not granted their vote", () => {
    const raft = candidate({ members: FIVE });
    step(raft, voteReply(raft.currentTerm, { from: "c" }));
    expect(receiversOf(wait(raft, HEARTBEAT))).toEqual(["b", "d", "e"]);
  });

  test("a follower refuses a pre-vote if the candidate's log is out of date", () => {
    const raft = server({ log: [1, 2] });
    const preVoteRequest = requestVote(3, { preVote: true, lastLogIndex: 5, lastLogTerm: 1 });
    expect(one(step(raft, preVoteRequest))).toMatchObject({ voteGranted: false, preVote: true });
  });
});

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
 * - AppendEntries of our term, accepted or refused, makes any server but a leader a follower (§5.2).
 * - One vote wins with our own in a cluster of three: a pre-candidate becomes a candidate of term
 *   6, a candidate leads. Other replies promote no server.
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
    // A pre-vote for a term other than the next one was granted to an earlier campaign.
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
    if (what === "timeout now") return timeoutNow(term, { from }); // Here "c" leads no server.
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
  test("the table is whole: every message has a row, and every role a column", () => {
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

describe("Votes", () => {
  test("a vote that is delivered twice counts once", () => {
    const raft = candidate({ members: FIVE });
    for (let i = 0; i < 3; i += 1) step(raft, voteReply(1, { from: "b" }));
    expect(raft.role.name).toBe("Candidate");
    const asking = preCandidate({ members: FIVE });
    for (let i = 0; i < 3; i += 1) step(asking, voteReply(2, { from: "b", preVote: true }));
    expect(asking.role.name).toBe("PreCandidate");
  });

  test("a vote counts for its term, even as the reply to an earlier request", () => {
    const raft = candidate();
    wait(raft, HEARTBEAT);
    step(raft, voteReply(1, { campaign: 77 }));
    expect(raft.role.name).toBe("Leader");
  });

  test("a pre-vote counts only for its own campaign", () => {
    const raft = preCandidate();
    timeOut(raft);
    const granted = voteReply(2, { preVote: true, campaign: 1 });
    step(raft, granted);
    expect(raft.role.name).toBe("PreCandidate");
    step(raft, { ...granted, campaign: 2 });
    expect(raft.role.name).toBe("Candidate");
  });

  test("a pre-vote counts only for the proposed term", () => {
    const raft = preCandidate();
    const proposed = raft.currentTerm + 1;
    const granted = voteReply(proposed + 1, { preVote: true, campaign: raft.campaigns });
    step(raft, granted);
    expect(raft.role.name).toBe("PreCandidate");
    step(raft, { ...granted, term: proposed });
    expect(raft.role.name).toBe("Candidate");
  });

  test("a pre-vote does not count as a vote, and a vote does not count as a pre-vote", () => {
    const raft = candidate();
    step(raft, voteReply(1, { preVote: true, campaign: raft.campaigns }));
    step(raft, voteReply(2, { preVote: true, campaign: raft.campaigns }));
    expect(raft.role.name).toBe("Candidate");
    const asking = preCandidate({ term: 5 });
    step(asking, voteReply(5, { campaign: asking.campaigns }));
    expect(asking.role.name).toBe("PreCandidate");
  });

  test("a pre-vote that is granted changes neither the voter's term nor its election timer", () => {
    const raft = server({ term: 5 });
    raft.tick(T - 1);
    const { electionDueAt, heardAt } = raft;
    const preVoteRequest = requestVote(6, { preVote: true });
    for (const from of ["b", "c"]) {
      const reply = one(step(raft, { ...preVoteRequest, from }));
      expect(reply).toMatchObject({ voteGranted: true, term: 6, preVote: true });
    }
    expect(raft).toMatchObject({ currentTerm: 5, votedFor: undefined, electionDueAt, heardAt });
  });

  test("a refusal carries the voter's term, which the candidate adopts", () => {
    const raft = preCandidate({ term: 3 });
    const voter = server({ name: "b", term: 9 });
    const refusal = one(step(voter, requestVote(4, { from: "a", to: "b", preVote: true })));
    expect(refusal).toMatchObject({ voteGranted: false, term: 9 });
    step(raft, refusal);
    expect(raft).toMatchObject({ currentTerm: 9, role: { name: "Follower" } });
  });

  test("a reply echoes the id, the campaign and the kind of its request", () => {
    const preVoteRequest = requestVote(6, { from: "c", id: 33, campaign: 44, preVote: true });
    const again = { to: "c", id: 33, campaign: 44, preVote: true };
    expect(one(step(server(), preVoteRequest))).toMatchObject(again);
    expect(one(step(follower(), preVoteRequest))).toMatchObject(again);
  });

  test("a vote survives a change of role and a restart", () => {
    const raft = candidate({ term: 5 });
    step(raft, appendEntries(5));
    const restarted = server({ term: 5, votedFor: raft.saved.votedFor });
    for (const voter of [raft, restarted]) {
      voter.receive(request(voter, 5, { from: "c" }), 10 * T);
      expect(one(turn(voter))).toMatchObject({ voteGranted: false, term: 5 });
      expect(voter.votedFor).toBe("a");
    }
  });

  test("a vote whose reply was lost is granted again", () => {
    const raft = server();
    const voteRequest = requestVote(5);
    for (let i = 0; i < 3; i += 1) {
      expect(one(step(raft, voteRequest))).toMatchObject({ voteGranted: true });
    }
  });
});

describe("A server that grants a vote", () => {
  test("a pre-candidate gives up its own campaign", () => {
    const raft = preCandidate({ term: 5 });
    expect(one(step(raft, request(raft, 5, { from: "c" })))).toMatchObject({ voteGranted: true });
    step(raft, voteReply(6, { from: "b", preVote: true, campaign: raft.campaigns }));
    expect(raft.role.name).toBe("Follower");
    expect(raft.currentTerm).toBe(5);
  });

  test("a follower does not depose the leader that its vote has elected", () => {
    const voter = preCandidate({ term: 5 }); // "a" asks for pre-votes in term 6.
    const leading = candidate({ name: "c", term: 5 });
    step(leading, { ...one(step(voter, request(voter, 5, { from: "c" }), voter.now)), to: "c" });
    expect(leading.role.name).toBe("Leader");
    step(voter, voteReply(6, { from: "b", preVote: true, campaign: voter.campaigns }));
    const beat = one(only("AppendEntries", wait(leading, HEARTBEAT)).filter((m) => m.to === "a"));
    for (const reply of step(voter, beat)) step(leading, reply);
    expect(leading.role.name).toBe("Leader");
  });

  test("a follower forgets a silent leader, and may vote again in the next term", () => {
    const raft = follower({ term: 5, members: FIVE, random: () => 0.9 }, "b");
    raft.receive(request(raft, 5, { from: "c" }), T);
    expect(one(turn(raft))).toMatchObject({ voteGranted: true, term: 5 });
    expect(raft.hearsLeader()).toBe(false);
    raft.receive(request(raft, 6, { from: "d" }), T + 1);
    expect(one(turn(raft))).toMatchObject({ voteGranted: true, term: 6 });
  });
});

describe("A server that hears a leader does not help to depose it", () => {
  test("PreVote: a partitioned server that returns does not depose the leader (thesis §9.6)", () => {
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

  test("PreVote: a server that hears only the other followers does not depose the leader", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => m.from === "a" && m.to === "e";
    cluster.advance(20 * T);
    expect(cluster.leaders).toEqual([cluster.at("a")]);
    expect(cluster.at("a").currentTerm).toBe(1);
  });

  test("a follower refuses votes for T after it heard the leader (thesis §4.2.3)", () => {
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
    acknowledge(raft, "b"); // One of the four others: with the leader itself, two of five.
    expect(raft.role.name).toBe("Leader");
    raft.tick(since + T);
    expect(raft.role).toEqual({ name: "Follower", leader: undefined });
    expect(raft.electionDueAt).toBeGreaterThanOrEqual(raft.now + T);
    expect(turn(raft)).toEqual([]);
  });

  test("CheckQuorum: a leader that hears a majority stays leader", () => {
    const raft = settledLeader({ members: FIVE });
    for (let i = 0; i < 100; i += 1) {
      wait(raft, HEARTBEAT);
      acknowledge(raft, "b");
      const [round, hintIndex] = [roundOf(raft), raft.log.lastIndex];
      step(raft, appendReply(1, { from: "c", success: false, round, hintIndex }));
    }
    expect(raft.role.name).toBe("Leader");
  });

  test("CheckQuorum: a partitioned leader steps down, and the others elect another one", () => {
    const cluster = new Cluster(FIVE);
    cluster.elect("a");
    cluster.lost = (m) => ["a", "b"].includes(m.from) !== ["a", "b"].includes(m.to);
    cluster.advance(4 * T);
    const leading = one(cluster.leaders);
    expect(["c", "d", "e"]).toContain(leading.settings.name);
    expect(leading.currentTerm).toBeGreaterThan(1);
  });

  test("a stale AppendEntries is answered with the higher term, so that a leader can win again", () => {
    // "c" is ahead in term and refuses entries, but no server that hears the leader votes for it.
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
  test("is reset by the leader, and by a candidate that receives our vote", () => {
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

  test("is not reset by refused votes, or by messages of an earlier term", () => {
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

  test("is not reset by a second candidate after we have voted in its term", () => {
    const raft = server({ term: 5, votedFor: "c" });
    step(raft, requestVote(5, { from: "b" }), T / 2);
    expect(raft.electionDueAt).toBe(1.25 * T);
  });

  test("sets the time at which a server must be woken", () => {
    expect(server().wakeAt).toBe(1.25 * T);
    // To probe the port of a late leader.
    expect(follower({ now: 7 }).wakeAt).toBe(7 + 1.25 * HEARTBEAT);
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

describe("A single server", () => {
  const alone = { members: ["a"] };

  test("leads only after it has durably opened a new term", () => {
    const raft = server({ ...alone, log: [1, 3], term: 3, votedFor: "a", now: 7 });
    expect(raft.wakeAt).toBe(7);
    raft.tick(7);
    expect(raft.role.name).toBe("Candidate");
    const saved = { currentTerm: 4, votedFor: "a", commitIndex: 0, entries: [] };
    expect(flush(raft)).toMatchObject({ saved, applied: [] });
    expect(raft.role.name).toBe("Leader");
    expect(raft.commitIndex).toBe(0);
    expect(flush(raft).applied).toEqual([]); // Its first commit index must be durable, too.
    expect(termsOf(flush(raft).applied)).toEqual([1, 3, 4]);
  });

  test("begins a new term on every start", () => {
    const cluster = new Cluster(["a"]);
    for (const term of [1, 2, 3]) {
      cluster.advance(1);
      expect(cluster.at("a")).toMatchObject({ currentTerm: term, role: { name: "Leader" } });
      expect(termsOf(cluster.applied.get("a") ?? [])).toEqual([1, 2, 3].slice(0, term));
      cluster.restart("a");
    }
  });

  test("commits and answers reads as soon as it has saved", () => {
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

test("the events of an election tell its course, from the silent leader to the first commit", () => {
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

test("the reported silence does not include the time when the server led", () => {
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
