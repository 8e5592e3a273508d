/**
 * Tests that the judge finds each kind of broken promise. A judge that can't find anything is
 * worth nothing. So a lawful server breaks each rule here, and the judge must name that rule.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import path from "node:path";
import { type Message, type Name, Raft } from "../../raft.ts";
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

/** A few servers, each step of which the judge is told about. */
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
    if (!raft) throw new Error(`there is no ${name}`);
    return raft;
  }

  /** Starts a server with this on its disk, from where the judge must know it. */
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

  /** Gives a server another past: one that it was told of before it started. */
  given(name: Name, log: readonly number[], term = log.at(-1) ?? 0, votedFor?: Name): Raft {
    this.save(name, { currentTerm: term, votedFor, entries: entries(log) });
    return this.start(name, log, term, votedFor);
  }

  /** Starts a server again with what its disk has. */
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

  /** Everything arrives, but nothing at who is away. */
  settle(away: readonly Name[] = []): void {
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
    // A leader that has heard from no majority for so long steps down.
    const leaders = this.names.filter((other) => this.at(other).role.name === "Leader");
    for (const one of [...leaders, name]) {
      this.tick(one, now);
      this.turn(one);
    }
    this.settle(away);
    if (this.at(name).role.name !== "Leader") throw new Error(`${name} is not elected`);
    return this.at(name);
  }

  propose(name: Name, away: readonly Name[] = []): void {
    this.at(name).propose("commands", Buffer.from("x"));
    this.turn(name);
    this.settle(away);
  }
}

/** Takes the last entries of a log away, which no server ever does. */
function shorten({ log }: Raft, lastIndex: number): void {
  log["entries"].length = lastIndex + 1;
  log["endOffsets"].length = lastIndex + 1;
  log.savedIndex = Math.min(log.savedIndex, lastIndex);
}

const broken = new Set<string>();

/** Demands that the judge names this rule. */
function expectBroken(rule: string, act: () => void): void {
  try {
    act();
  } catch (error) {
    if (!(error instanceof Violation)) throw error;
    expect(error.message).toStartWith(`${rule}: `);
    broken.add(rule);
    return;
  }
  throw new Error(`the judge has not found: ${rule}`);
}

function led(): Court {
  const court = new Court();
  court.elect("a");
  court.propose("a");
  return court;
}

function progressOf({ role }: Raft, name: Name) {
  const found = role.name === "Leader" ? role.followers.get(name) : undefined;
  if (!found) throw new Error(`${name} is not followed`);
  return found;
}

test("A lawful history is accepted", () => {
  const court = led();
  court.propose("a", ["c"]);
  court.elect("b");
  court.propose("b");
  court.judge.checkAll();
  court.at("b").tick(court.at("b").now + 200);
  court.turn("b");
  court.settle();
  court.judge.checkAgreement();
  expect(court.judge.committed.map(({ term }) => term)).toEqual([1, 1, 1, 2, 2]);
  expect(court.judge.elections).toBe(2);
});

describe("What a disk holds", () => {
  test("survives, with its term, its vote and its entries", () => {
    const rule = "What is durable survives";
    for (const [log, term, vote] of [[[1, 1], 2, "b"], [[1, 1], 3, "a"], [[1], 3, "b"]] as const) {
      const court = new Court();
      court.save("b", { currentTerm: 3, votedFor: "b" });
      court.save("b", { currentTerm: 3, votedFor: "b", entries: entries([1, 1]) });
      expectBroken(rule, () => court.start("b", log, term, vote));
    }
  });

  test("may or may not have what was being written, but nothing in between", () => {
    const record = { currentTerm: 1, votedFor: "a", commitIndex: 0, entries: entries([1, 1]) };
    for (const log of [[], [1, 1]]) {
      const court = new Court();
      court.judge.saving("a", record);
      court.start("a", log, log.length > 0 ? 1 : 0, log.length > 0 ? "a" : undefined);
    }
    const court = new Court();
    court.judge.saving("a", record);
    expectBroken("What is durable survives", () => court.start("a", [1], 1, "a"));
  });

  test("has no earlier term than before, and no gap", () => {
    const court = new Court();
    court.given("a", [1], 3);
    expectBroken("Terms never go back", () => court.save("a", { currentTerm: 2 }));
    expectBroken(
      "A log has no gaps",
      () => court.save("a", { currentTerm: 3, entries: [entry(3, 3)] }),
    );
  });

  test("is what the leader has, as far as that is acknowledged to it", () => {
    const court = led();
    const { log } = court.at("c");
    const other = makeEntry(log.lastIndex, 1, "commands", Buffer.from("another"));
    court.judge.sent(appendReply(1, { from: "c", to: "a", matchIndex: log.lastIndex }));
    court.save("c", { currentTerm: 1, votedFor: "a", entries: [other] });
    expectBroken(
      "What is acknowledged is what the leader has",
      () => court.judge.sent(appendReply(1, { from: "c", to: "a", matchIndex: log.lastIndex })),
    );
  });

  test("has one vote per term, for a candidate", () => {
    const court = new Court();
    for (const name of ["a", "b"]) court.save(name, { currentTerm: 1, votedFor: name });
    court.save("c", { currentTerm: 1, votedFor: "a" });
    expectBroken("One vote per term", () => court.save("c", { currentTerm: 1, votedFor: "b" }));
    expectBroken(
      "Votes are for candidates",
      () => court.save("c", { currentTerm: 2, votedFor: "b" }),
    );
  });

  test("is what its server believes", () => {
    const rule = "What a server believes durable is durable";
    const court = new Court();
    const raft = court.given("a", [1, 1], 1);
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

describe("What leaves a server", () => {
  test("is of a term that is durable", () => {
    const rule = "No word of a term that is not durable";
    const { judge } = new Court();
    const ends = { from: "a", to: "b" };
    for (const make of [requestVote, voteReply, appendEntries, appendReply]) {
      expectBroken(rule, () => judge.sent(make(1, ends)));
    }
    judge.sent(requestVote(1, { ...ends, preVote: true }));
    judge.sent(voteReply(1, { ...ends, preVote: true }));
  });

  test("is a vote only if the disk has it, and no other in that term", () => {
    const court = new Court();
    court.given("b", [], 1, "b");
    court.given("c", [], 1, "c");
    court.given("a", [], 1);
    expectBroken(
      "A vote is durable before it is given",
      () => court.judge.sent(voteReply(1, { from: "a", to: "b" })),
    );
    court.save("a", { currentTerm: 1, votedFor: "b" });
    court.judge.sent(voteReply(1, { from: "a", to: "b" }));
    court.save("a", { currentTerm: 2 });
    expectBroken("One vote per term", () => court.judge.sent(voteReply(1, { from: "a", to: "c" })));
  });

  test("is no vote for a log that is less up to date", () => {
    const rule = "A vote is for a log that is at least as up to date";
    for (const last of [{ lastLogIndex: 9, lastLogTerm: 1 }, { lastLogIndex: 1, lastLogTerm: 2 }]) {
      const court = new Court();
      court.save("b", { currentTerm: 3, votedFor: "b" });
      court.judge.sent(requestVote(3, { from: "b", to: "a", ...last }));
      court.given("a", [1, 2], 3, "b");
      expectBroken(rule, () => court.judge.sent(voteReply(3, { from: "a", to: "b" })));
    }
  });

  test("acknowledges what is durable", () => {
    const court = new Court();
    court.given("a", [1, 1], 1);
    court.judge.sent(appendReply(1, { from: "a", to: "b", matchIndex: 2 }));
    expectBroken(
      "Only what is durable is acknowledged",
      () => court.judge.sent(appendReply(1, { from: "a", to: "b", matchIndex: 3 })),
    );
  });

  test("are the entries that all others have under that index and term", () => {
    const court = led();
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

describe("A server", () => {
  test("goes to no earlier term, and keeps its vote", () => {
    const court = new Court();
    court.save("a", { currentTerm: 3, votedFor: "a" });
    const raft = court.start("a", [], 3, "a");
    for (const vote of [undefined, "b"]) {
      raft.votedFor = vote;
      expectBroken("One vote per term", () => court.judge.stepped("a"));
    }
    raft.currentTerm = 2;
    expectBroken("Terms never go back", () => court.judge.stepped("a"));
  });

  test("starts its election timer anew for a leader and for its vote only", () => {
    const rule = "Nothing else postpones an election";
    for (const message of [appendEntries(1), voteReply(2), requestVote(2, { preVote: true })]) {
      for (const field of ["electionDueAt", "heardAt"] as const) {
        const court = new Court();
        const raft = court.given("a", [1], 2);
        raft[field] += 1;
        expectBroken(rule, () => court.judge.received(message));
      }
    }
  });

  test("forgets its leader when that is late, and twice not there, and for no other refusal", () => {
    const forgetting = (refused: (court: Court, raft: Raft) => void) => {
      const court = new Court();
      court.elect("b");
      const raft = court.at("a");
      raft.now += T / 2;
      court.judge.stepped("a");
      return () => refused(court, raft);
    };
    const forget = (raft: Raft) => void (raft.role = { name: "Follower", leader: undefined });
    const rule = "A leader is forgotten when it is late, and twice not there";
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
      "Nothing else hastens an election",
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

  test("forgets its leader when that has started again, and when nobody else has", () => {
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
    const rule = "A leader is forgotten when it has started again, and nobody else";
    expectBroken(rule, hearing("c", forget));
    expectBroken(rule, hearing("b", () => {}));
    expectBroken(
      "Nothing else hastens an election",
      hearing("c", (raft) => void (raft.electionDueAt -= 1)),
    );
    hearing("b", forget)();
    hearing("c", () => {})();
  });

  test("draws a timeout from T to 1.5T for every campaign", () => {
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

describe("A log", () => {
  test("has at each index what is meant for it", () => {
    const court = new Court();
    court.at("a").log["entries"].push(entry(2, 1));
    expectBroken("A log has no gaps", () => court.judge.stepped("a"));
  });

  test("has the entries that all others have, behind the ones that they have", () => {
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
    const court = led();
    const raft = court.at("a");
    const lost = raft.log.slice(2);
    shorten(raft, 1);
    for (const { index } of lost) raft.log.append(entry(index, 1, "another"));
    expectBroken("Leader append-only", () => court.judge.stepped("a"));
  });

  test("loses only what conflicts, and nothing that is committed", () => {
    const shorter = led();
    shorten(shorter.at("b"), 1);
    expectBroken("Only what conflicts is deleted", () => shorter.judge.stepped("b"));

    const replaced = led();
    shorten(replaced.at("b"), 1);
    replaced.at("b").log.append(entry(2, 2));
    expectBroken("A committed entry never changes", () => replaced.judge.stepped("b"));
  });

  test("is looked at in whole at the end", () => {
    const court = led();
    court.at("b").log["entries"][1] = entry(1, 2);
    court.judge.stepped("b");
    expectBroken("A committed entry never changes", () => court.judge.checkAll());
  });

  test("is the same in all servers in the end, and applied", () => {
    const rule = "In a healed cluster all catch up";
    const court = led();
    court.at("a").tick(court.at("a").now + 200);
    court.turn("a");
    court.settle();
    court.judge.checkAgreement();
    court.propose("a", ["c"]);
    expectBroken(rule, () => court.judge.checkAgreement());
    court.judge.stopped("c");
    expectBroken(rule, () => court.judge.checkAgreement());
  });
});

describe("A leader", () => {
  test("is the only one in its term, and elected once", () => {
    const court = led();
    const { role } = court.at("a");
    court.at("b").role = structuredClone(role);
    expectBroken("Election safety", () => court.judge.stepped("b"));
    court.at("a").role = structuredClone(role);
    expectBroken("Election safety", () => court.judge.stepped("a"));
  });

  test("has the votes of a majority, by their disks", () => {
    const court = new Court();
    court.tick("a");
    court.turn("a");
    const raft = court.at("a");
    raft["campaign"]("Candidate");
    court.turn("a");
    raft["lead"]();
    expectBroken("A leader has the votes of a majority", () => court.judge.stepped("a"));
  });

  test("has all that was committed in earlier terms", () => {
    const court = led();
    expectBroken(
      "What is saved as committed is never replaced",
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

  test("that no majority answers steps down", () => {
    const court = led();
    const raft = court.at("a");
    raft.now += 2 * T;
    court.judge.ticked("a");
    raft.now += 1;
    expectBroken("A leader that no majority answers steps down", () => court.judge.ticked("a"));
  });

  test("remembers of its followers what they have, and sends nothing else", () => {
    const court = led();
    const raft = court.at("a");
    const b = progressOf(raft, "b");
    b.matchIndex -= 1;
    expectBroken("What a follower has it keeps", () => court.judge.stepped("a"));
    b.matchIndex += 1;
    b.nextIndex = b.matchIndex;
    expectBroken("No follower is sent what it has", () => court.judge.stepped("a"));
  });

  test("needs a round trip per term to find where a follower's log agrees", () => {
    const court = new Court();
    for (const name of THREE) court.given(name, [1, 1, 1, 1, 1, 1, 1, 1], 1);
    const raft = court.elect("a", ["c"]);
    const c = progressOf(raft, "c");
    expectBroken("A conflict costs a round trip per term", () => {
      for (; c.nextIndex > 1; c.nextIndex -= 1) court.judge.stepped("a");
    });
  });

  test("bounds what waits in it, and what is under way", () => {
    const court = led();
    const raft = court.at("a");
    for (let i = 0; i < 5; i += 1) raft.read();
    court.judge.stepped("a");
    raft.read();
    expectBroken("Queues are bounded", () => court.judge.stepped("a"));
    const window = led();
    const { log, settings } = window.at("a");
    const b = progressOf(window.at("a"), "b");
    const large = Buffer.alloc(settings.windowBytes);
    for (let i = 0; i < 2; i += 1) window.at("a").propose("commands", large);
    b.nextIndex = log.lastIndex;
    window.judge.stepped("a");
    b.nextIndex = log.lastIndex + 1;
    expectBroken("The window is bounded", () => window.judge.stepped("a"));
  });

  test("lets no more messages wait than it sends in a turn", () => {
    const court = new Court();
    court.at("a")["outbox"] = Array.from({ length: 2_000 }, () => appendEntries(0));
    expectBroken("Queues are bounded", () => court.judge.stepped("a"));
  });
});

describe("What is committed", () => {
  test("stays so, and is in the log", () => {
    const court = led();
    const raft = court.at("a");
    raft.commitIndex = raft.log.lastIndex + 1;
    expectBroken("Only what is in the log is committed", () => court.judge.stepped("a"));
    raft.commitIndex = 1;
    expectBroken("What is committed stays committed", () => court.judge.stepped("a"));
  });

  test("is so by a leader of the entry's own term", () => {
    const court = new Court();
    for (const name of THREE) court.given(name, [1, 1], 1);
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
    expectBroken("What is committed is on a majority of disks", () => court.judge.stepped("a"));
  });

  test("is the same for all", () => {
    const court = led();
    court.propose("a", ["c"]);
    const raft = court.at("c");
    raft.log.append(entry(3, 2));
    raft.commitIndex = 3;
    expectBroken("A committed entry never changes", () => court.judge.stepped("c"));
  });

  test("is in the log of every leader of a later term", () => {
    const court = led();
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

  test("is never more than the request that tells it vouches for", () => {
    const court = led();
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
      "No request commits what it does not vouch for",
      () => court.judge.received(message),
    );
  });

  test("is applied once, in order, and makes the same state", () => {
    const court = led();
    const [first, second] = court.judge.committed;
    if (!first || !second) throw new Error("too little is committed");
    const raft = court.restart("c");
    raft.commitIndex = 2;
    for (const wrong of [second, makeEntry(1, 1, "commands", second.data)]) {
      const rule = wrong === second ? "All is applied, once and in order" : "State machine safety";
      expectBroken(rule, () => court.judge.applied("c", wrong, 1));
    }
    expectBroken("Equal logs make equal states", () => court.judge.applied("c", first, 2));
    court.judge.applied("c", first, 1);
    expectBroken("All is applied, once and in order", () => court.judge.applied("c", first, 1));
  });

  test("is all that is applied", () => {
    const court = led();
    court.at("b").lastApplied = court.at("b").commitIndex + 1;
    expectBroken(
      "Only what is committed is applied, and never again",
      () => court.judge.stepped("b"),
    );
  });
});

describe("A snapshot", () => {
  test("is of what is committed, and of the state that all have there", () => {
    const court = led();
    const { log } = court.at("c");
    court.judge.snapshotted("c", log.at(1), 1);
    expectBroken("Equal logs make equal states", () => court.judge.snapshotted("c", log.at(1), 2));
    for (const position of [{ index: 1, term: 7 }, { index: 9, term: 1 }]) {
      expectBroken(
        "Only what is committed is in a snapshot",
        () => court.judge.snapshotted("c", position, position.index),
      );
    }
  });

  test("takes nobody back, and is what a log begins with", () => {
    const court = led();
    const raft = court.restart("c");
    court.judge.snapshotted("c", raft.log.at(2), 2, true);
    expectBroken("No state goes back", () => court.judge.snapshotted("c", raft.log.at(1), 1, true));
    raft.log.reset(2, 7);
    expectBroken("A log begins with what is committed", () => court.judge.stepped("c"));
  });

  test("has the members as they were at its index", () => {
    const court = led();
    court.judge.snapshotted("c", { ...court.at("c").log.at(2), members: court.at("c").members }, 2);
    const members = configuration(["a", "b"]);
    expectBroken(
      "A snapshot has the members as of its index",
      () => court.judge.snapshotted("c", { ...court.at("c").log.at(2), members }, 2),
    );
  });
});

test("A leader sends the first entry of its term before the turn ends", () => {
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
  expectBroken("The first entry of a term leaves with the election", () => court.judge.turned("a"));
});

describe("What is saved as committed", () => {
  test("only rises, is committed, and keeps its founding", () => {
    const court = led();
    expectBroken(
      "A saved commit index only rises",
      () => court.save("c", { currentTerm: 1, votedFor: "a", commitIndex: 0 }),
    );
    const { log, currentTerm } = court.at("b");
    log.reset(0, 0);
    log.append(membersEntry(1, currentTerm, configuration(THREE), 99));
    expectBroken("A founding that is fixed is never replaced", () => court.judge.stepped("b"));
    const other = new Court();
    other.save("a", { currentTerm: 1, commitIndex: 1, entries: entries([1]) });
    expectBroken(
      "Only what is committed is saved as that",
      () => other.judge.started("a", server({ name: "a", log: [1], commitIndex: 1 })),
    );
  });
});

describe("Members", () => {
  const list = (raft: Raft, ...names: Name[]) =>
    raft.log.append(
      membersEntry(raft.log.lastIndex + 1, raft.currentTerm, configuration(names), raft.founding),
    );

  test("come and go one at a time, when the change before is committed", () => {
    const [court, other] = [led(), led()];
    list(court.at("a"), "a");
    expectBroken("One vote comes or goes at a time", () => court.judge.stepped("a"));
    list(other.at("a"), "a", "b");
    other.judge.stepped("a");
    list(other.at("a"), "a");
    expectBroken("One change at a time", () => other.judge.stepped("a"));
  });

  test("do not come or go before the leader has committed an entry of its own term", () => {
    const court = led();
    const raft = court.at("a");
    Object.assign(raft.role, { firstIndex: raft.commitIndex + 1 });
    list(raft, "a", "b");
    expectBroken(
      "No change before an entry of the own term is committed",
      () => court.judge.stepped("a"),
    );
  });

  test("are those of the last list in the log, committed or not", () => {
    const court = led();
    const { log } = court.at("a");
    list(court.at("a"), "a", "b");
    court.judge.stepped("a");
    log["configurations"].pop();
    expectBroken("The last list of members in the log is in force", () => court.judge.stepped("a"));
  });

  test("only campaign if they have a vote", () => {
    const court = led();
    court.at("a").changeMembers("c", "");
    court.turn("a");
    court.settle();
    court.propose("a");
    const raft = court.at("c");
    raft.campaigns += 1;
    expectBroken("Who has no vote does not campaign", () => court.judge.stepped("c"));
  });
});

describe("A read", () => {
  test("sees all that was committed, after a round that was sent later, by the same leader", () => {
    const court = led();
    const question = court.judge.asked("a");
    expectBroken("A read waits for a round of its own", () => court.judge.answered("a", question));
    court.propose("a");
    court.judge.answered("a", question);
    const { length: committed } = court.judge.committed;
    expectBroken(
      "Reads are linearizable",
      () => court.judge.answered("a", { ...question, committed: committed + 1 }),
    );
    court.elect("b");
    expectBroken(
      "Only who leads, and still does, answers reads",
      () => court.judge.answered("a", question),
    );
  });

  test("at a follower sees the same, and no state that is half installed", () => {
    const court = led();
    const raft = court.at("b");
    court.tick("a", raft.now + 200);
    court.turn("a");
    court.settle();
    const question = court.judge.asked("b");
    court.judge.answered("b", question);
    const committed = court.judge.committed.length + 1;
    expectBroken(
      "Reads are linearizable",
      () => court.judge.answered("b", { ...question, committed }),
    );
    raft.incoming = { from: "a", leaderTerm: 1, index: 9, term: 1, size: 4, offset: 4, chunks: [] };
    expectBroken(
      "No read sees a state that is half installed",
      () => court.judge.answered("b", question),
    );
  });
});

afterAll(() => {
  const source = readFileSync(path.join(import.meta.dir, "judge.ts"), "utf8");
  // A rule is the first text behind the condition of a demand.
  const rules = source.split("demand(").slice(2).map((text) =>
    /"([A-Z][^"]* [^"]*)"/.exec(text)?.[1]
  );
  expect([...broken].sort()).toEqual([...new Set(rules.map(String))].sort());
});
