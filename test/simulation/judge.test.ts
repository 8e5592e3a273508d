/**
 * Tests that the judge finds a violation of each of its rules. A judge that cannot find violations
 * is worthless. So each test makes a correct server break a rule, and the judge must name that
 * rule.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import path from "node:path";
import { type Entry, type Message, type Name, Raft } from "../../raft.ts";
import {
  appendEntries,
  appendReply,
  configuration,
  entries,
  entry,
  membersEntry,
  requestVote,
  server,
  T,
  THREE,
  voteReply,
} from "../support/core.ts";
import { makeEntry } from "../support/entries.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { Judge, type Saved, Violation } from "./judge.ts";

setDefaultTimeout(PATIENCE_MS);

/** A few servers, whose steps are all reported to the judge. */
class Court {
  readonly judge: Judge;
  private readonly rafts = new Map<Name, Raft>();
  readonly wire: Message[] = [];

  constructor(readonly names: readonly Name[] = THREE) {
    this.judge = new Judge(names, 5);
    for (const name of names) this.start(name);
  }

  at(name: Name): Raft {
    const raft = this.rafts.get(name);
    if (!raft) throw new Error(`there is no server ${name}`);
    return raft;
  }

  /** Starts a server with this content of its disk, which the judge must know already. */
  start(name: Name, log: readonly number[] = [], term = log.at(-1) ?? 0, votedFor?: Name): Raft {
    let chance = 0.1 + 0.2 * this.names.indexOf(name);
    const random = () => chance = (chance + 0.37) % 1;
    const raft = server({ name, members: this.names, log, term, votedFor, random });
    this.rafts.set(name, raft);
    this.judge.started(name, raft);
    return raft;
  }

  save(name: Name, record: Partial<Saved>): void {
    const { commitIndex = 0 } = this.rafts.get(name)?.saved ?? {};
    this.judge.saving(name, {
      currentTerm: 0,
      votedFor: undefined,
      commitIndex,
      entries: [],
      ...record,
    });
    this.judge.saved(name);
  }

  /** Saves a disk's content, reports it to the judge, and starts a server with it. */
  startWith(name: Name, log: readonly number[], term = log.at(-1) ?? 0, votedFor?: Name): Raft {
    this.save(name, { currentTerm: term, votedFor, entries: entries(log) });
    return this.start(name, log, term, votedFor);
  }

  /** Restarts a server with the content of its disk. */
  restart(name: Name): Raft {
    const { settings, saved, log, now } = this.at(name);
    const disk = { ...saved, entries: log.slice(1, log.savedIndex) };
    const raft = new Raft(settings, disk, now, () => 0.5);
    this.rafts.set(name, raft);
    this.judge.started(name, raft);
    return raft;
  }

  turn(name: Name): void {
    const { judge } = this;
    const raft = this.at(name);
    for (const effect of raft.step()) {
      judge.stepped(name);
      if (effect.type === "send") this.send(effect.messages);
      else if (effect.type === "save") this.save(name, effect.unsaved);
      else for (const applied of effect.entries) judge.applied(name, applied, applied.index);
    }
    judge.stepped(name);
    judge.turned(name);
    if (raft.needsStep) this.turn(name);
  }

  private send(messages: readonly Message[]): void {
    for (const message of messages) this.judge.sent(message);
    this.wire.push(...messages);
  }

  receive(message: Message): void {
    const raft = this.at(message.to);
    raft.receive(message, raft.now);
    this.judge.received(message);
  }

  /** Delivers all messages, except those to servers that are away. */
  deliverAll(away: readonly Name[] = []): void {
    for (let message = this.wire.shift(); message; message = this.wire.shift()) {
      if (away.includes(message.to)) continue;
      this.receive(message);
      this.turn(message.to);
    }
  }

  tick(name: Name, now = this.at(name).electionDueAt): void {
    this.at(name).tick(now);
    this.judge.ticked(name);
  }

  elect(name: Name, away: readonly Name[] = []): Raft {
    const now = Math.max(...this.names.map((n) => this.at(n).now)) + 2 * T;
    for (const other of this.names) this.at(other).now = now;
    // A leader steps down because no majority has replied for so long.
    const leaders = this.names.filter((other) => this.at(other).role.name === "Leader");
    for (const one of [...leaders, name]) {
      this.tick(one, now);
      this.turn(one);
    }
    this.deliverAll(away);
    if (this.at(name).role.name !== "Leader") throw new Error(`${name} is not elected`);
    return this.at(name);
  }

  propose(name: Name, away: readonly Name[] = []): void {
    this.at(name).propose("commands", Buffer.from("x"));
    this.turn(name);
    this.deliverAll(away);
  }
}

/** Replaces the entry at an index, or appends one, which may be wrong there. */
function replaceEntry({ log }: Raft, index: number, entry: Entry): void {
  log["slots"][index] = { ...log["slot"](index - 1), entry };
}

/** Removes the last entries of a log, which a correct server never does. */
function shorten({ log }: Raft, lastIndex: number): void {
  log["slots"].length = lastIndex + 1;
  log.savedIndex = Math.min(log.savedIndex, lastIndex);
}

const broken = new Set<string>();

/** Expects the judge to name this rule. */
function expectBroken(rule: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    expect(error.message).toStartWith(`${rule}: `);
    broken.add(rule);
    return;
  }
  throw new Error(`the judge did not find: ${rule}`);
}

function electedCourt(): Court {
  const court = new Court();
  court.elect("a");
  court.propose("a");
  return court;
}

function progressOf({ role }: Raft, name: Name) {
  const found = role.name === "Leader" ? role.followers.get(name) : undefined;
  if (!found) throw new Error(`there is no follower ${name}`);
  return found;
}

test("the judge accepts a correct history", () => {
  const court = electedCourt();
  court.propose("a", ["c"]);
  court.elect("b");
  court.propose("b");
  court.judge.checkAll();
  court.at("b").tick(court.at("b").now + 200);
  court.turn("b");
  court.deliverAll();
  court.judge.checkAgreement();
  expect(court.judge.committed.map(({ term }) => term)).toEqual([1, 1, 1, 2, 2]);
  expect(court.judge.elections).toBe(2);
});

describe("a disk", () => {
  test("keeps its term, its vote and its entries", () => {
    const rule = "Durable state survives";
    for (const [log, term, vote] of [[[1, 1], 2, "b"], [[1, 1], 3, "a"], [[1], 3, "b"]] as const) {
      const court = new Court();
      court.save("b", { currentTerm: 3, votedFor: "b" });
      court.save("b", { currentTerm: 3, votedFor: "b", entries: entries([1, 1]) });
      expectBroken(rule, () => court.start("b", log, term, vote));
    }
  });

  test("has all of an interrupted save or nothing of it", () => {
    const record = { currentTerm: 1, votedFor: "a", commitIndex: 0, entries: entries([1, 1]) };
    for (const log of [[], [1, 1]]) {
      const court = new Court();
      court.judge.saving("a", record);
      court.start("a", log, log.length > 0 ? 1 : 0, log.length > 0 ? "a" : undefined);
    }
    const court = new Court();
    court.judge.saving("a", record);
    expectBroken("Durable state survives", () => court.start("a", [1], 1, "a"));
  });

  test("never has an earlier term or a gap", () => {
    const court = new Court();
    court.startWith("a", [1], 3);
    expectBroken("Terms never decrease", () => court.save("a", { currentTerm: 2 }));
    expectBroken(
      "A log has no gaps",
      () => court.save("a", { currentTerm: 3, entries: [entry(3, 3)] }),
    );
  });

  test("has the leader's entries up to the acknowledged index", () => {
    const court = electedCourt();
    const { log } = court.at("c");
    const other = makeEntry(log.lastIndex, 1, "commands", Buffer.from("another"));
    court.judge.sent(appendReply(1, { from: "c", to: "a", matchIndex: log.lastIndex }));
    court.save("c", { currentTerm: 1, votedFor: "a", entries: [other] });
    expectBroken(
      "An acknowledged entry equals the leader's",
      () => court.judge.sent(appendReply(1, { from: "c", to: "a", matchIndex: log.lastIndex })),
    );
  });

  test("has one vote in a term, and for a candidate", () => {
    const court = new Court();
    for (const name of ["a", "b"]) court.save(name, { currentTerm: 1, votedFor: name });
    court.save("c", { currentTerm: 1, votedFor: "a" });
    expectBroken("One vote per term", () => court.save("c", { currentTerm: 1, votedFor: "b" }));
    expectBroken(
      "Votes are for candidates",
      () => court.save("c", { currentTerm: 2, votedFor: "b" }),
    );
  });

  test("has all that its server believes durable", () => {
    const rule = "A server believes only durable state to be durable";
    const court = new Court();
    const raft = court.startWith("a", [1, 1], 1);
    raft.log.append(entry(3, 1));
    court.judge.stepped("a");
    raft.log.savedIndex = 3;
    expectBroken(rule, () => court.judge.stepped("a"));
    raft.log.savedIndex = 2;
    raft.saved.currentTerm = 2;
    expectBroken(rule, () => court.judge.stepped("a"));
    raft.saved = { currentTerm: 1, votedFor: "a", commitIndex: 0 };
    expectBroken(rule, () => court.judge.stepped("a"));
  });
});

describe("a message", () => {
  test("has a durable term", () => {
    const rule = "A term is durable before a message of that term leaves";
    const { judge } = new Court();
    const ends = { from: "a", to: "b" };
    for (const make of [requestVote, voteReply, appendEntries, appendReply]) {
      expectBroken(rule, () => judge.sent(make(1, ends)));
    }
    judge.sent(requestVote(1, { ...ends, preVote: true }));
    judge.sent(voteReply(1, { ...ends, preVote: true }));
  });

  test("grants a vote only if that vote is durable and the only one in its term", () => {
    const court = new Court();
    court.startWith("b", [], 1, "b");
    court.startWith("c", [], 1, "c");
    court.startWith("a", [], 1);
    expectBroken(
      "A vote is durable before it is given",
      () => court.judge.sent(voteReply(1, { from: "a", to: "b" })),
    );
    court.save("a", { currentTerm: 1, votedFor: "b" });
    court.judge.sent(voteReply(1, { from: "a", to: "b" }));
    court.save("a", { currentTerm: 2 });
    expectBroken("One vote per term", () => court.judge.sent(voteReply(1, { from: "a", to: "c" })));
  });

  test("grants no vote to a candidate whose log is less up to date", () => {
    const rule = "A vote is for a log that is at least as up to date";
    for (const last of [{ lastLogIndex: 9, lastLogTerm: 1 }, { lastLogIndex: 1, lastLogTerm: 2 }]) {
      const court = new Court();
      court.save("b", { currentTerm: 3, votedFor: "b" });
      court.judge.sent(requestVote(3, { from: "b", to: "a", ...last }));
      court.startWith("a", [1, 2], 3, "b");
      expectBroken(rule, () => court.judge.sent(voteReply(3, { from: "a", to: "b" })));
    }
  });

  test("acknowledges only durable entries", () => {
    const court = new Court();
    court.startWith("a", [1, 1], 1);
    court.judge.sent(appendReply(1, { from: "a", to: "b", matchIndex: 2 }));
    expectBroken(
      "Only durable entries are acknowledged",
      () => court.judge.sent(appendReply(1, { from: "a", to: "b", matchIndex: 3 })),
    );
  });

  test("has the entries that all others have at that index and term", () => {
    const court = electedCourt();
    const other = makeEntry(2, 1, "commands", Buffer.from("y"));
    const message = appendEntries(1, {
      from: "a",
      to: "b",
      prevLogIndex: 1,
      prevLogTerm: 1,
      entries: [other],
    });
    expectBroken("Log matching", () => court.judge.sent(message));
  });
});

describe("a server", () => {
  test("never goes to an earlier term, and keeps its vote", () => {
    const court = new Court();
    court.save("a", { currentTerm: 3, votedFor: "a" });
    const raft = court.start("a", [], 3, "a");
    for (const vote of [undefined, "b"]) {
      raft.votedFor = vote;
      expectBroken("One vote per term", () => court.judge.stepped("a"));
    }
    raft.currentTerm = 2;
    expectBroken("Terms never decrease", () => court.judge.stepped("a"));
  });

  test("resets its election timer only for a leader or a granted vote", () => {
    const rule = "Only a leader or a granted vote postpones an election";
    for (const message of [appendEntries(1), voteReply(2), requestVote(2, { preVote: true })]) {
      for (const field of ["electionDueAt", "heardAt"] as const) {
        const court = new Court();
        const raft = court.startWith("a", [1], 2);
        raft[field] += 1;
        expectBroken(rule, () => court.judge.received(message));
      }
    }
  });

  test("gives up its leader after two refusals of a late leader's port, and no others", () => {
    const forgetting = (refused: (court: Court, raft: Raft) => void) => {
      const court = new Court();
      court.elect("b");
      const raft = court.at("a");
      raft.now += T / 2;
      court.judge.stepped("a");
      return () => refused(court, raft);
    };
    const forget = (raft: Raft) => void (raft.role = { name: "Follower", leader: undefined });
    const rule = "A follower gives up its leader after two refusals if that leader is late";
    expectBroken(
      rule,
      forgetting((court, raft) => {
        forget(raft);
        court.judge.refused("a", "b");
      }),
    );
    expectBroken(
      rule,
      forgetting((court, raft) => {
        court.judge.refused("a", "b");
        raft.now += 5;
        forget(raft);
        court.judge.refused("a", "c");
      }),
    );
    expectBroken(
      "Only a lost leader hastens an election",
      forgetting((court, raft) => {
        raft.electionDueAt -= 1;
        court.judge.refused("a", "b");
      }),
    );
    forgetting((court, raft) => {
      court.judge.refused("a", "b");
      raft.now += 5;
      forget(raft);
      raft.electionDueAt = raft.now + 1;
      court.judge.refused("a", "b");
    })();
  });

  test("gives up its leader when that leader has restarted, and no other server", () => {
    const hearing = (peer: string, change: (raft: Raft) => void) => () => {
      const court = new Court();
      court.elect("b");
      change(court.at("a"));
      court.judge.restarted("a", peer);
    };
    const forget = (raft: Raft) => {
      raft.role = { name: "Follower", leader: undefined };
      raft.electionDueAt = raft.now + 1;
    };
    const rule = "A follower gives up its leader if and only if that leader has restarted";
    expectBroken(rule, hearing("c", forget));
    expectBroken(rule, hearing("b", () => {}));
    expectBroken(
      "Only a lost leader hastens an election",
      hearing("c", (raft) => void (raft.electionDueAt -= 1)),
    );
    hearing("b", forget)();
    hearing("c", () => {})();
  });

  test("draws an election timeout from T to 1.5T for every campaign", () => {
    const court = new Court();
    court.tick("a");
    const raft = court.at("a");
    raft.campaigns += 1;
    expectBroken("A timeout is drawn for every campaign", () => court.judge.stepped("a"));
    for (const ms of [0.9 * T, 1.6 * T]) {
      raft.electionDueAt = raft.now + ms;
      expectBroken("An election timeout is from T to 1.5T", () => court.judge.stepped("a"));
    }
  });
});

describe("a log", () => {
  test("has an entry of this index at each index", () => {
    const court = new Court();
    replaceEntry(court.at("a"), court.at("a").log.lastIndex + 1, entry(2, 1));
    expectBroken("A log has no gaps", () => court.judge.stepped("a"));
  });

  test("has equal entries and equal predecessors at an equal index and term", () => {
    const fresh = new Court();
    fresh.at("a").log.append(entry(1, 1));
    fresh.judge.stepped("a");
    fresh.at("b").log.append(entry(1, 1, "another"));
    expectBroken("Log matching", () => fresh.judge.stepped("b"));

    const chained = new Court();
    for (const log of [[1, 2], [2, 2]]) {
      const raft = chained.at(log[0] === 1 ? "a" : "b");
      for (const each of entries(log)) raft.log.append(each);
    }
    chained.judge.stepped("a");
    expectBroken("Log matching", () => chained.judge.stepped("b"));
  });

  test("of a leader only grows", () => {
    const court = electedCourt();
    const raft = court.at("a");
    const lost = raft.log.slice(2);
    shorten(raft, 1);
    for (const { index } of lost) raft.log.append(entry(index, 1, "another"));
    expectBroken("Leader append-only", () => court.judge.stepped("a"));
  });

  test("loses only conflicting entries, and no committed ones", () => {
    const shorter = electedCourt();
    shorten(shorter.at("b"), 1);
    expectBroken("Only conflicting entries are deleted", () => shorter.judge.stepped("b"));

    const replaced = electedCourt();
    shorten(replaced.at("b"), 1);
    replaced.at("b").log.append(entry(2, 2));
    expectBroken("A committed entry never changes", () => replaced.judge.stepped("b"));
  });

  test("is checked as a whole at the end", () => {
    const court = electedCourt();
    replaceEntry(court.at("b"), 1, entry(1, 2));
    court.judge.stepped("b");
    expectBroken("A committed entry never changes", () => court.judge.checkAll());
  });

  test("is equal on all servers in the end, and applied", () => {
    const rule = "In a healed cluster all servers catch up";
    const court = electedCourt();
    court.at("a").tick(court.at("a").now + 200);
    court.turn("a");
    court.deliverAll();
    court.judge.checkAgreement();
    court.propose("a", ["c"]);
    expectBroken(rule, () => court.judge.checkAgreement());
    court.judge.stopped("c");
    expectBroken(rule, () => court.judge.checkAgreement());
  });
});

describe("a leader", () => {
  test("is the only one of its term, and is elected once", () => {
    const court = electedCourt();
    const { role } = court.at("a");
    court.at("b").role = structuredClone(role);
    expectBroken("Election safety", () => court.judge.stepped("b"));
    court.at("a").role = structuredClone(role);
    expectBroken("Election safety", () => court.judge.stepped("a"));
  });

  test("has the durable votes of a majority", () => {
    const court = new Court();
    court.tick("a");
    court.turn("a");
    const raft = court.at("a");
    raft["campaign"]("Candidate");
    court.turn("a");
    raft["lead"]();
    expectBroken("A leader has the votes of a majority", () => court.judge.stepped("a"));
  });

  test("has all entries that were committed in earlier terms", () => {
    const court = electedCourt();
    expectBroken(
      "Entries saved as committed are never replaced",
      () => court.save("c", { currentTerm: 2, entries: [entry(1, 2)] }),
    );
    court.judge.lostDisk("c");
    court.save("c", { currentTerm: 2, votedFor: "c", commitIndex: 0 });
    court.save("b", { currentTerm: 2, votedFor: "c" });
    const raft = court.start("c", [], 2, "c");
    raft.log.append(membersEntry(1, 2, configuration(THREE), court.at("a").founding));
    raft["lead"]();
    expectBroken("Leader completeness", () => court.judge.stepped("c"));
  });

  test("steps down if no majority replies", () => {
    const court = electedCourt();
    const raft = court.at("a");
    raft.now += 2 * T;
    court.judge.ticked("a");
    raft.now += 1;
    expectBroken("A leader without a majority steps down", () => court.judge.ticked("a"));
  });

  test("never lowers a matchIndex, and sends no entry up to it", () => {
    const court = electedCourt();
    const raft = court.at("a");
    const b = progressOf(raft, "b");
    b.matchIndex -= 1;
    expectBroken(
      "A follower keeps the entries that it has acknowledged",
      () => court.judge.stepped("a"),
    );
    b.matchIndex += 1;
    b.nextIndex = b.matchIndex;
    expectBroken(
      "A leader sends no entry that the follower has acknowledged",
      () => court.judge.stepped("a"),
    );
  });

  test("needs a round trip for each term to find the last entry that matches", () => {
    const court = new Court();
    for (const name of THREE) court.startWith(name, [1, 1, 1, 1, 1, 1, 1, 1], 1);
    const raft = court.elect("a", ["c"]);
    const c = progressOf(raft, "c");
    expectBroken("A conflict costs a round trip per term", () => {
      for (; c.nextIndex > 1; c.nextIndex -= 1) court.judge.stepped("a");
    });
  });

  test("bounds its waiting reads and the bytes in flight", () => {
    const court = electedCourt();
    const raft = court.at("a");
    for (let i = 0; i < 5; i += 1) raft.read();
    court.judge.stepped("a");
    raft.read();
    expectBroken("Queues are bounded", () => court.judge.stepped("a"));
    const window = electedCourt();
    const { log, settings } = window.at("a");
    const b = progressOf(window.at("a"), "b");
    const large = Buffer.alloc(settings.windowBytes);
    for (let i = 0; i < 2; i += 1) window.at("a").propose("commands", large);
    b.nextIndex = log.lastIndex;
    window.judge.stepped("a");
    b.nextIndex = log.lastIndex + 1;
    expectBroken("The window is bounded", () => window.judge.stepped("a"));
  });

  test("bounds its unsent messages", () => {
    const court = new Court();
    court.at("a")["outbox"] = Array.from({ length: 2_000 }, () => appendEntries(0));
    expectBroken("Queues are bounded", () => court.judge.stepped("a"));
  });
});

describe("a committed entry", () => {
  test("stays committed, and is in the log", () => {
    const court = electedCourt();
    const raft = court.at("a");
    raft.commitIndex = raft.log.lastIndex + 1;
    expectBroken("Only entries in the log are committed", () => court.judge.stepped("a"));
    raft.commitIndex = 1;
    expectBroken("Committed entries stay committed", () => court.judge.stepped("a"));
  });

  test("was committed by a leader of its own term", () => {
    const court = new Court();
    for (const name of THREE) court.startWith(name, [1, 1], 1);
    court.at("b").commitIndex = 2;
    expectBroken(
      "Only a leader commits, and by an entry of its own term",
      () => court.judge.stepped("b"),
    );
  });

  test("is on a majority of disks", () => {
    const court = new Court();
    court.elect("a");
    court.at("a").propose("commands", Buffer.from("x"));
    court.turn("a");
    court.at("a").commitIndex = 2;
    expectBroken("A committed entry is on a majority of disks", () => court.judge.stepped("a"));
  });

  test("is equal on all servers", () => {
    const court = electedCourt();
    court.propose("a", ["c"]);
    const raft = court.at("c");
    raft.log.append(entry(3, 2));
    raft.commitIndex = 3;
    expectBroken("A committed entry never changes", () => court.judge.stepped("c"));
  });

  test("is in the log of every leader of a later term", () => {
    const court = electedCourt();
    const raft = court.at("a");
    raft.propose("commands", Buffer.from("x"));
    court.turn("a");
    court.save("b", { currentTerm: 1, votedFor: "a", entries: raft.log.slice(3) });
    for (const name of ["c", "b"]) court.save(name, { currentTerm: 2, votedFor: "c" });
    const { log } = court.at("c");
    expect(log.lastIndex).toBe(2);
    Object.assign(court.at("c").saved, { currentTerm: 2, votedFor: "c" });
    court.restart("c")["lead"]();
    court.judge.stepped("c");
    raft.commitIndex = 3;
    expectBroken("Leader completeness", () => court.judge.stepped("a"));
  });

  test("is confirmed by the request that reports its commitment", () => {
    const court = electedCourt();
    const raft = court.at("b");
    const { commitIndex } = raft;
    raft.commitIndex = commitIndex + 1;
    const message = appendEntries(1, {
      from: "a",
      to: "b",
      prevLogIndex: commitIndex,
      prevLogTerm: 1,
      leaderCommit: commitIndex + 1,
    });
    expectBroken(
      "A request commits only entries that it confirms",
      () => court.judge.received(message),
    );
  });

  test("is applied once and in order, and produces the same state on all servers", () => {
    const court = electedCourt();
    const [first, second] = court.judge.committed;
    if (!first || !second) throw new Error("too little is committed");
    const raft = court.restart("c");
    raft.commitIndex = 2;
    for (const wrong of [second, makeEntry(1, 1, "commands", second.data)]) {
      const rule = wrong === second
        ? "Entries are applied once and in order"
        : "State machine safety";
      expectBroken(rule, () => court.judge.applied("c", wrong, 1));
    }
    expectBroken("Equal logs make equal states", () => court.judge.applied("c", first, 2));
    court.judge.applied("c", first, 1);
    expectBroken("Entries are applied once and in order", () => court.judge.applied("c", first, 1));
  });

  test("is the only kind that is applied", () => {
    const court = electedCourt();
    court.at("b").lastApplied = court.at("b").commitIndex + 1;
    expectBroken(
      "Only committed entries are applied, and only once",
      () => court.judge.stepped("b"),
    );
  });
});

describe("a snapshot", () => {
  test("has only committed entries, and the state of all other servers", () => {
    const court = electedCourt();
    const { log } = court.at("c");
    court.judge.snapshotted("c", log.at(1), 1);
    expectBroken("Equal logs make equal states", () => court.judge.snapshotted("c", log.at(1), 2));
    for (const position of [{ index: 1, term: 7 }, { index: 9, term: 1 }]) {
      expectBroken(
        "A snapshot has only committed entries",
        () => court.judge.snapshotted("c", position, position.index),
      );
    }
  });

  test("never takes a state back, and precedes the log", () => {
    const court = electedCourt();
    const raft = court.restart("c");
    court.judge.snapshotted("c", raft.log.at(2), 2, true);
    expectBroken(
      "A state never goes back",
      () => court.judge.snapshotted("c", raft.log.at(1), 1, true),
    );
    raft.log.reset({ index: 2, term: 7 }, raft.snapshot);
    expectBroken("A log begins after a committed entry", () => court.judge.stepped("c"));
  });

  test("has the members at its index", () => {
    const court = electedCourt();
    court.judge.snapshotted("c", { ...court.at("c").log.at(2), members: court.at("c").members }, 2);
    const members = configuration(["a", "b"]);
    expectBroken(
      "A snapshot has the members at its index",
      () => court.judge.snapshotted("c", { ...court.at("c").log.at(2), members }, 2),
    );
  });
});

test("a new leader sends the first entry of its term in the same turn", () => {
  const court = new Court();
  const raft = court.at("a");
  court.tick("a", 2 * T);
  court.turn("a");
  const isElected = () => court.at("a").role.name === "Leader";
  for (let m = court.wire.shift(); m && !isElected(); m = court.wire.shift()) {
    court.receive(m);
    if (!isElected()) court.turn(m.to);
  }
  for (const effect of raft.step()) if (effect.type === "save") court.save("a", effect.unsaved);
  expectBroken(
    "A new leader sends its first entry in the same turn",
    () => court.judge.turned("a"),
  );
});

describe("a saved commit index", () => {
  test("never decreases, is true, and fixes the founding", () => {
    const court = electedCourt();
    expectBroken(
      "A saved commit index never decreases",
      () => court.save("c", { currentTerm: 1, votedFor: "a", commitIndex: 0 }),
    );
    const { log, snapshot, currentTerm } = court.at("b");
    log.reset(snapshot, snapshot);
    log.append(membersEntry(1, currentTerm, configuration(THREE), 99));
    expectBroken("A fixed founding is never replaced", () => court.judge.stepped("b"));
    const other = new Court();
    other.save("a", { currentTerm: 1, commitIndex: 1, entries: entries([1]) });
    expectBroken(
      "Only committed entries are saved as committed",
      () => other.judge.started("a", server({ name: "a", log: [1], commitIndex: 1 })),
    );
  });
});

describe("members", () => {
  const list = (raft: Raft, ...names: Name[]) =>
    raft.log.append(
      membersEntry(raft.log.lastIndex + 1, raft.currentTerm, configuration(names), raft.founding),
    );

  test("change one at a time, after the previous change is committed", () => {
    const [court, other] = [electedCourt(), electedCourt()];
    list(court.at("a"), "a");
    expectBroken("A change adds or removes one voter", () => court.judge.stepped("a"));
    list(other.at("a"), "a", "b");
    other.judge.stepped("a");
    list(other.at("a"), "a");
    expectBroken("One change at a time", () => other.judge.stepped("a"));
  });

  test("change only after the leader has committed an entry of its own term", () => {
    const court = electedCourt();
    const raft = court.at("a");
    Object.assign(raft.role, { firstIndex: raft.commitIndex + 1 });
    list(raft, "a", "b");
    expectBroken(
      "No change before an entry of the leader's term is committed",
      () => court.judge.stepped("a"),
    );
  });

  test("are those of the last list in the log, committed or not", () => {
    const court = electedCourt();
    const { log } = court.at("a");
    list(court.at("a"), "a", "b");
    court.judge.stepped("a");
    const membership = log.membership(log.lastIndex - 1);
    Object.assign(log["slot"](log.lastIndex), { membership });
    expectBroken("The last list of members in the log is in force", () => court.judge.stepped("a"));
  });

  test("campaign only if they are voters", () => {
    const court = electedCourt();
    court.at("a").changeMembers("c", "");
    court.turn("a");
    court.deliverAll();
    court.propose("a");
    const raft = court.at("c");
    raft.campaigns += 1;
    expectBroken("Only a voter campaigns", () => court.judge.stepped("c"));
  });
});

describe("a read", () => {
  test("sees all committed entries, after a later round of the same leader", () => {
    const court = electedCourt();
    const question = court.judge.asked("a");
    expectBroken("A read waits for a later round", () => court.judge.answered("a", question));
    court.propose("a");
    court.judge.answered("a", question);
    const { length: committed } = court.judge.committed;
    expectBroken(
      "Reads are linearizable",
      () => court.judge.answered("a", { ...question, committed: committed + 1 }),
    );
    court.elect("b");
    expectBroken(
      "Only a leader that still leads answers reads",
      () => court.judge.answered("a", question),
    );
  });

  test("on a follower sees all committed entries, and no half installed snapshot", () => {
    const court = electedCourt();
    const raft = court.at("b");
    court.tick("a", raft.now + 200);
    court.turn("a");
    court.deliverAll();
    const question = court.judge.asked("b");
    court.judge.answered("b", question);
    const committed = court.judge.committed.length + 1;
    expectBroken(
      "Reads are linearizable",
      () => court.judge.answered("b", { ...question, committed }),
    );
    raft.incoming = {
      from: "a",
      leaderTerm: 1,
      index: 9,
      term: 1,
      size: 4,
      offset: 4,
      unwritten: [],
    };
    expectBroken(
      "No read sees a half installed snapshot",
      () => court.judge.answered("b", question),
    );
  });
});

afterAll(() => {
  const source = readFileSync(path.join(import.meta.dir, "judge.ts"), "utf8");
  // A rule is the first text after the condition of a demand.
  const rules = source.split("demand(").slice(2).map((text) =>
    /"([A-Z][^"]* [^"]*)"/.exec(text)?.[1]
  );
  expect([...broken].sort()).toEqual([...new Set(rules.map(String))].sort());
});
