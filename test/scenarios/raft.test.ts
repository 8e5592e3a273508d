/**
 * Tests the situations that most often break implementations of Raft. The names before a colon are
 * those of MIT's distributed systems course (6.5840, the Raft lab).
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Sentence } from "../simulation/full/story.ts";
import { type Operation } from "../support/disk.ts";
import { forSeeds, type Random, shuffle } from "../support/random.ts";
import { slow } from "../support/thorough.ts";
import { linesOf, Writers } from "./journal.ts";
import { drawFrom, type Stage, within } from "./stage.ts";

// A scenario takes a few seconds, but much longer on a busy machine.
setDefaultTimeout(120_000);

/** The longest election timeout. */
const ELECTION_MS = 2000;

/**
 * Expects that none of these servers leads after two election timeouts: a leader that was cut off
 * has stepped down.
 */
function expectNoLeader({ stage }: Writers, among: readonly string[]): void {
  stage.run(2 * ELECTION_MS);
  expect(stage.leaders(among)).toEqual([]);
}

describe("leader election", () => {
  test("initial election: one leader is elected, and keeps its term", () => {
    forSeeds(10, (_, seed) => {
      const { stage } = new Writers(seed, 3);
      const leader = stage.leader();
      const { term } = stage.status(leader);
      expect(term).toBeGreaterThan(0);
      stage.run(2 * ELECTION_MS);
      for (const name of stage.names) expect(stage.status(name)).toMatchObject({ term, leader });
    });
  });

  test("re-election: a former leader follows the new one, and a single server never leads", () => {
    forSeeds(10, (_, seed) => {
      const writers = new Writers(seed, 3);
      const { stage } = writers;
      const first = stage.leader();
      stage.disconnect(first);
      const second = stage.leader();
      const { term } = stage.status(second);
      // The old leader follows the new one when it returns, without another election.
      stage.connect(first);
      expect(stage.leader()).toBe(second);
      // A server alone cannot lead, neither the last leader nor another one.
      const other = stage.followers()[0] ?? "";
      stage.disconnect(second, other);
      expectNoLeader(writers, stage.names);
      stage.connect(other);
      const third = stage.leader();
      expect(stage.status(third).term).toBeGreaterThan(term);
      stage.connect(second);
      expect(stage.leader()).toBe(third);
    });
  });

  slow(
    "many elections: there is a leader with three of seven servers cut off, and with all seven",
    () => {
      forSeeds(5, (random, seed) => {
        const { stage } = new Writers(seed, 7);
        const led = new Set([stage.leader()]);
        for (let round = 0; round < 10; round += 1) {
          // In every other round the leader is cut off.
          const order = [
            ...round % 2 === 0 ? stage.leaders() : [],
            ...shuffle(random, stage.names),
          ];
          stage.disconnect(...[...new Set(order)].slice(0, 3));
          led.add(stage.leader());
          stage.connect(...stage.names);
          led.add(stage.leader());
        }
        expect(led.size).toBeGreaterThan(1);
      });
    },
  );
});

describe("agreement", () => {
  test("basic agreement: each line is on all servers before the next one", () => {
    const writers = new Writers(1, 3);
    for (const [i, line] of linesOf("line", 3).entries()) {
      expect(writers.holders(line)).toEqual([]);
      expect(writers.agree(line)).toBe(i + 1);
    }
  });

  test("RPC bytes: a command is sent to each peer once", () => {
    const writers = new Writers(1, 3);
    writers.agree("small");
    const traffic = writers.stage.count();
    const large = linesOf("x".repeat(5000), 10);
    const sent = large.reduce((sum, line) => sum + line.length, 0);
    for (const line of large) writers.agree(line);
    expect(traffic.bytes).toBeGreaterThan(2 * sent);
    within("Bytes for 10 commands of 5,000 bytes to 2 peers", traffic.bytes, 2 * sent * 1.2);
  });

  test("follower failure: a commit needs one of the two followers", () => {
    const writers = new Writers(1, 3);
    const { stage } = writers;
    writers.openSessions();
    const [firstFollower = "", secondFollower = ""] = stage.followers();
    stage.disconnect(firstFollower);
    writers.agree("with one follower");
    stage.run(ELECTION_MS);
    writers.agree("still with one follower");
    const leader = stage.leader();
    stage.disconnect(secondFollower);
    writers.proposeUncommitted(leader, "with no follower");
  });

  test("leader failure: the next leader commits, and a single server commits nothing", () => {
    const writers = new Writers(1, 3);
    const { stage } = writers;
    writers.openSessions();
    const first = stage.leader();
    stage.disconnect(first);
    writers.agree("under the second leader");
    stage.run(ELECTION_MS);
    writers.agree("still under the second leader");
    stage.disconnect(stage.leader());
    for (const name of stage.names) writers.proposeUncommitted(name, `at ${name}`);
  });

  test("fail agree: a follower that was cut off catches up", () => {
    const writers = new Writers(1, 3);
    const { stage } = writers;
    writers.agree("before");
    const disconnected = stage.followers()[0] ?? "";
    stage.disconnect(disconnected);
    for (const line of linesOf("meanwhile", 2)) writers.agree(line);
    stage.run(ELECTION_MS);
    for (const line of linesOf("later", 2)) writers.agree(line);
    const { term } = stage.status(stage.leader());
    stage.connect(disconnected);
    expect(writers.agree("after")).toBe(6);
    expect(writers.holders("meanwhile 1")).toEqual([...stage.names]);
    expect(stage.status(disconnected).term).toBe(term);
  });

  test("fail no agree: a minority commits nothing, and a later majority continues", () => {
    forSeeds(5, (_, seed) => {
      const writers = new Writers(seed, 5);
      const { stage } = writers;
      writers.openSessions();
      const leader = stage.leader();
      const disconnected = stage.followers().slice(0, 3);
      stage.disconnect(...disconnected);
      writers.proposeUncommitted(leader, "among two of five");
      stage.connect(...disconnected);
      writers.agree("among five again");
      writers.agree("and again");
      writers.expectSameLines();
    });
  });

  test("concurrent starts: each command has a place of its own", () => {
    const writers = new Writers(1, 3);
    const { stage } = writers;
    writers.openSessions();
    const lines = linesOf("at once", 5);
    const places = stage.settle(writers.propose(stage.leader(), ...lines))
      .map((outcome) => outcome.status === "fulfilled" ? outcome.value : 0);
    expect(places.toSorted()).toEqual([4, 5, 6, 7, 8]);
    lines.forEach((line, i) => expect(writers.lines[(places[i] ?? 0) - 1]).toBe(line));
    writers.expectSameLines();
  });

  test("rejoin of a partitioned leader: its uncommitted lines are replaced", () => {
    forSeeds(5, (_, seed) => {
      const writers = new Writers(seed, 3);
      const { stage } = writers;
      writers.openSessions();
      const first = stage.leader();
      const lostLines = linesOf("to a leader without followers", 3);
      stage.disconnect(first);
      const before = stage.status(first).lastIndex;
      writers.proposeUncommitted(first, ...lostLines);
      expect(stage.status(first).lastIndex).toBe(before + lostLines.length);
      writers.agree("under the second leader");
      const second = stage.leader();
      stage.disconnect(second);
      stage.connect(first);
      writers.agree("with the first one back");
      stage.connect(second);
      writers.agree("with all");
      writers.expectSameLines();
      for (const line of lostLines) expect(writers.holders(line)).toEqual([]);
    });
  });

  test("backup: a leader replaces long wrong logs in few round trips", () => {
    const writers = new Writers(1, 5);
    const { stage } = writers;
    writers.openSessions();
    // Two logs are wrong, in different ways, and the right one differs from both at the beginning.
    const first = stage.leader();
    const [friend = "", ...rest] = stage.followers();
    stage.disconnect(...rest);
    writers.proposeUncommitted(first, ...linesOf("lost with the first leader", 50));
    stage.disconnect(first, friend);
    stage.connect(...rest);
    writers.propose(stage.leader(), ...linesOf("kept", 50));
    stage.until("the servers agree", () => writers.holders("kept 50").length === 3);
    const second = stage.leader();
    const [third = "", fourth = ""] = stage.followers();
    stage.disconnect(third);
    stage.disconnect(fourth);
    writers.proposeUncommitted(second, ...linesOf("lost with the second leader", 50));
    stage.disconnect(second);
    stage.connect(first, friend, third);
    const traffic = stage.count();
    writers.agree("one right log for two wrong ones");
    writers.propose(stage.leader(), ...linesOf("kept, too", 50));
    stage.until("the servers agree", () => writers.holders("kept, too 50").length === 3);
    stage.connect(...stage.names);
    writers.agree("one right log for all");
    writers.expectSameLines();
    expect(writers.lines).toHaveLength(5 + 50 + 1 + 50 + 1);
    // The first leader and its friend refuse. The second leader's log is right up to the entry that
    // the new leader probes, so its wrong end is overwritten without a refusal.
    expect(traffic.refusals).toBeGreaterThanOrEqual(2);
    within("Refusals until four followers have the right log", traffic.refusals, 3 * 4);
  });

  test("count: limits on requests for an election, for agreement, and for idle servers", () => {
    const writers = new Writers(1, 3);
    const { stage } = writers;
    const election = stage.count();
    stage.leader();
    within("Requests until a leader is elected", election.requests, 30);
    stage.run(1000);
    writers.openSessions();
    const lines = linesOf("line", 10);
    const agreement = stage.count();
    for (const line of lines) stage.settle(writers.propose(stage.leader(), line));
    within("Requests for 10 commands, one after the other", agreement.requests, 2 * (10 + 1));
    const burst = stage.count();
    stage.settle(writers.propose(stage.leader(), ...linesOf("more", 10)));
    within("Requests for 10 commands at once", burst.requests, 4);
    const idle = stage.count();
    stage.run(1000);
    within("Requests of idle servers in a second", idle.requests, 2 * 10);
  });
});

describe("persistence", () => {
  test("persist 1: crashes of all servers, of the leader, and of a follower", () => {
    const writers = new Writers(1, 3);
    const { stage } = writers;
    writers.agree("first");
    stage.restart(...stage.names);
    writers.agree("after a crash of all");
    const first = stage.leader();
    stage.restart(first);
    writers.agree("after a crash of the leader");
    const second = stage.leader();
    stage.crash(second);
    writers.agree("without a leader that has crashed");
    stage.start(second);
    writers.agree("with that server again");
    const follower = stage.followers()[0] ?? "";
    stage.crash(follower);
    writers.agree("without a follower that has crashed");
    stage.start(follower);
    expect(writers.agree("last")).toBe(7);
    writers.expectSameLines();
  });

  slow("persist 2: majorities that alternate", () => {
    forSeeds(3, (random, seed) => {
      const writers = new Writers(seed, 5);
      const { stage } = writers;
      for (let round = 1; round <= 5; round += 1) {
        writers.agree(`all ${round}`);
        const [a = "", b = "", ...others] = shuffle(random, stage.names);
        stage.crash(a);
        stage.crash(b);
        writers.agree(`three ${round}`);
        for (const name of others) stage.crash(name);
        // Only one of these three has the last line.
        stage.start(a);
        stage.start(b);
        stage.run(ELECTION_MS);
        stage.start(others[0] ?? "");
        expect(stage.leader()).toBe(others[0] ?? "");
        writers.agree(`another three ${round}`);
        for (const name of others.slice(1)) stage.start(name);
      }
      expect(writers.agree("the end")).toBe(16);
      writers.expectSameLines();
    });
  });

  test("persist 3: a partitioned leader crashes with one follower", () => {
    forSeeds(5, (_, seed) => {
      const writers = new Writers(seed, 3);
      const { stage } = writers;
      writers.agree("all");
      const leader = stage.leader();
      const [disconnected = "", other = ""] = stage.followers();
      stage.disconnect(disconnected);
      writers.agree("two");
      stage.crash(leader);
      stage.crash(other);
      stage.connect(disconnected);
      stage.start(leader);
      writers.agree("another two");
      expect(writers.holders("two")).toContain(disconnected);
      stage.start(other);
      expect(writers.agree("all again")).toBe(4);
      writers.expectSameLines();
    });
  });

  /**
   * Proposes lines to all servers, and crashes the leaders while the lines are in flight. At least
   * three servers run.
   */
  function crashLeaders(writers: Writers, random: Random, turns: number): number {
    const { stage } = writers;
    let crashes = 0;
    for (let turn = 0; turn < turns; turn += 1) {
      const running = stage.names.filter((name) => stage.isUp(name));
      const leaders = stage.leaders(running);
      for (const name of running) {
        void writers.propose(name, `${turn} at ${name} ${"x".repeat(1200)}`);
      }
      stage.run(random() < 0.1 ? (ELECTION_MS / 4) * random() : 13 * random());
      for (const name of leaders) {
        stage.crash(name, "parts");
        crashes += 1;
      }
      const down = stage.names.filter((name) => !stage.isUp(name));
      if (down.length > 2) stage.start(drawFrom(random, down));
      if (leaders.length === 0) stage.run(ELECTION_MS / 20);
    }
    return crashes;
  }

  test("persist 3, during a save: a follower that crashes before a sync has promised nothing", () => {
    forSeeds(5, (_, seed) => {
      const writers = new Writers(seed, 3);
      const { stage } = writers;
      writers.openSessions();
      const leader = stage.leader();
      const [crashing = "", disconnected = ""] = stage.followers();
      stage.disconnect(disconnected);
      stage.crashBefore(crashing, ({ what }) => what === "sync");
      writers.proposeUncommitted(leader, "on one disk");
      expect(stage.isUp(crashing)).toBe(false);
      stage.disconnect(leader);
      stage.start(crashing);
      stage.connect(disconnected);
      writers.agree("on two others");
      stage.connect(leader);
      writers.expectSameLines();
      expect(writers.lines).not.toContain("on one disk");
    });
  });

  /**
   * Plays Figure 8 up to (c). Example: a has brought an entry to b. Then c, in the next term, has
   * its no-op at that index, on its own disk only, and is down. Then a or b leads, and has brought
   * the first entry to all running servers, but no entry of its own term.
   */
  function playFigure8(seed: number) {
    const writers = new Writers(seed, 5);
    const { stage } = writers;
    const line = `of an earlier term ${"x".repeat(1300)}`; // As large as a datagram.
    writers.openSessions();
    const first = stage.leader();
    const [friend = "", ...others] = stage.followers();
    stage.disconnect(...others);
    writers.proposeUncommitted(first, line);
    const { lastIndex } = stage.status(first);
    expect(stage.status(friend)).toMatchObject({ lastIndex, commitIndex: lastIndex - 1 });
    stage.crash(first);
    stage.disconnect(friend);
    stage.connect(...others);
    stage.lose = ({ type }) => type === "AppendEntries";
    const [second = ""] = lead(stage, others);
    stage.crash(second);
    stage.start(first);
    stage.connect(friend);
    const isOfItsOwnTerm = ({ type, fields: { prevLogIndex, entries } }: Sentence) =>
      type === "AppendEntries" && Number(prevLogIndex) >= lastIndex
      && (entries as Uint8Array).length > 0;
    stage.lose = isOfItsOwnTerm;
    const [third = ""] = lead(stage, stage.connected);
    stage.run(ELECTION_MS / 2);
    for (const name of stage.connected) {
      expect(stage.status(name).lastIndex).toBeGreaterThanOrEqual(lastIndex);
      // It is not committed, although it is on four servers.
      expect(stage.status(name).commitIndex).toBeLessThan(lastIndex);
    }
    return { writers, stage, line, second, third, rest: others.filter((n) => n !== second) };
  }

  /** Waits for a leader among these servers whose own entry is on its disk. */
  function lead(stage: Writers["stage"], among: readonly string[]): string[] {
    const done = () =>
      stage.leaders(among).filter((name) => {
        const { unsaved, term, lastTerm } = stage.status(name);
        return unsaved === 0 && term === lastTerm;
      });
    stage.until(`one of ${among.join(" ")} leads`, () => done().length > 0);
    return done();
  }

  test("figure 8 (d): an entry of an earlier term is overwritten, although it is on a majority", () => {
    forSeeds(5, (_, seed) => {
      const { writers, stage, line, second, third, rest } = playFigure8(seed);
      stage.crash(third);
      stage.lose = undefined;
      stage.disconnect(...stage.names);
      stage.connect(second, ...rest);
      stage.start(second);
      writers.agree("another line");
      expect(stage.leader()).toBe(second);
      stage.start(third);
      stage.heal();
      writers.expectSameLines();
      expect(writers.lines).not.toContain(line);
    });
  });

  test("figure 8 (e): an entry of an earlier term is safe after an entry of the leader's own term", () => {
    forSeeds(5, (_, seed) => {
      const { writers, stage, line, second, third } = playFigure8(seed);
      stage.lose = undefined;
      writers.agree("another line");
      stage.crash(third);
      stage.start(second);
      writers.agree("a third line");
      stage.start(third);
      writers.expectSameLines();
      expect(writers.lines).toContain(line);
    });
  });

  test("figure 8: leaders crash again and again on a slow network", () => {
    forSeeds(2, (random, seed) => {
      const writers = new Writers(seed, 5);
      const { stage } = writers;
      stage.network = "slow";
      writers.agree("before");
      expect(crashLeaders(writers, random, 300)).toBeGreaterThan(10);
      for (const name of stage.names.filter((n) => !stage.isUp(n))) stage.start(name);
      writers.agree("after");
      writers.expectSameLines();
    });
  });
});

describe("an unreliable network", () => {
  test("unreliable agree: every line is committed although datagrams are lost", () => {
    const writers = new Writers(1, 5);
    const { stage } = writers;
    stage.network = "unreliable";
    writers.openSessions();
    const lines = linesOf("line", 250);
    const proposed = lines.map((line, i) => {
      // Several lines are in flight at a time, through all servers, and overtake each other.
      stage.run(10 * stage.random());
      return writers.propose(stage.names[i % 5] ?? "", line);
    });
    for (const outcome of stage.settle(Promise.all(proposed)).flat()) {
      expect(outcome).toMatchObject({ status: "fulfilled" });
    }
    stage.network = "steady";
    expect(writers.agree("the end")).toBe(5 + lines.length + 1);
    writers.expectSameLines();
  });

  slow("figure 8 unreliable: leaders are cut off again and again, and datagrams are late", () => {
    forSeeds(3, (random, seed) => {
      const writers = new Writers(seed, 5);
      const { stage } = writers;
      stage.network = "unreliable";
      writers.openSessions();
      const counts = { cutOff: 0 };
      for (let turn = 0; turn < 300; turn += 1) {
        if (turn === 60) stage.network = "reordering";
        const leaders = stage.leaders(stage.names);
        for (const name of stage.names) void writers.propose(name, `${turn} at ${name}`);
        stage.run(random() < 0.1 ? (ELECTION_MS / 4) * random() : 13 * random());
        if (leaders.length === 0) stage.run(ELECTION_MS / 20);
        else if (random() < 0.5) stage.disconnect(...leaders);
        counts.cutOff += leaders.length;
        const disconnected = stage.names.filter((name) => !stage.connected.includes(name));
        if (disconnected.length > 2) stage.connect(drawFrom(random, disconnected));
      }
      expect(counts.cutOff).toBeGreaterThan(10);
      stage.connect(...stage.names);
      writers.agree("after");
      stage.network = "steady";
      writers.expectSameLines();
    });
  });

  /** Crashes, restarts, disconnects and reconnects servers while three clients work. */
  function churn(seed: number, random: Random, network: Stage<never>["network"]): void {
    const writers = new Writers(seed, 5);
    const { stage } = writers;
    stage.network = network;
    const done: string[] = [];
    let isOver = false;
    const work = async (name: string) => {
      const client = stage.client(name, 10_000);
      for (let i = 1; !isOver; i += 1) {
        const line = `${i} of ${name}`;
        await client.propose(Buffer.from(line)).then(() => done.push(line), () => {});
      }
    };
    const ended = Promise.all(linesOf("client", 3).map(work));
    for (let turn = 0; turn < 20; turn += 1) {
      const name = () => drawFrom(random, stage.names);
      if (random() < 0.2) stage.disconnect(name());
      if (random() < 0.5) [name()].filter((n) => !stage.isUp(n)).forEach((n) => stage.start(n));
      else if (random() < 0.5) stage.connect(name());
      if (random() < 0.2) [name()].filter((n) => stage.isUp(n)).forEach((n) => stage.crash(n));
      stage.run(0.7 * ELECTION_MS);
    }
    isOver = true;
    stage.connect(...stage.names);
    for (const name of stage.names) if (!stage.isUp(name)) stage.start(name);
    stage.settle(ended);
    stage.network = "steady";
    writers.agree("the end");
    writers.expectSameLines();
    expect(done.length).toBeGreaterThan(20);
    const committed = new Set(writers.lines);
    expect(done.filter((line) => !committed.has(line))).toEqual([]);
  }

  test("reliable churn: no completed command is lost", () =>
    forSeeds(3, (random, seed) => churn(seed, random, "slow")));
  slow(
    "unreliable churn: no completed command is lost",
    () => forSeeds(3, (random, seed) => churn(seed, random, "unreliable")),
  );
});

describe("snapshots", () => {
  const options = { snapshotBytes: 2000 };
  /**
   * Room for the log at the last snapshot, for a tail for slow followers, and for later entries.
   */
  const LOG_BYTES = 3 * options.snapshotBytes;

  function expectSmallLogs({ stage }: Writers): void {
    for (const name of stage.names.filter((n) => stage.isUp(n))) {
      expect(stage.status(name).logBytes).toBeLessThan(LOG_BYTES);
    }
  }

  test("snapshot basic: every server takes snapshots, and keeps a small log", () => {
    const writers = new Writers(1, 3, options);
    for (const line of linesOf("line", 100)) writers.agree(line);
    writers.stage.run(1000);
    for (const name of writers.stage.names) {
      expect(writers.stage.status(name).snapshotIndex).toBeGreaterThan(20);
    }
    expectSmallLogs(writers);
    writers.expectSameLines();
  });

  /** Lets one server miss more entries than the others' logs keep, again and again. */
  function install(
    seed: number,
    random: Random,
    failure: "cut off" | "crashed",
    network: Stage<never>["network"],
  ): void {
    const writers = new Writers(seed, 3, options);
    const { stage } = writers;
    stage.network = network;
    writers.agree("first");
    const traffic = stage.count();
    for (let round = 1; round <= 6; round += 1) {
      const leader = stage.leader();
      const victim = round % 3 === 0 ? leader : stage.followers()[0] ?? "";
      if (failure === "cut off") stage.disconnect(victim);
      else stage.crash(victim, "parts");
      const nextLeader = stage.leader();
      const before = stage.status(nextLeader).snapshotIndex;
      const lines = linesOf(`round ${round}, line`, 80 + Math.floor(40 * random()));
      for (let i = 0; i < lines.length; i += 5) {
        void writers.propose(nextLeader, ...lines.slice(i, i + 5));
        stage.until("the servers agree", () => writers.holders(lines[i] ?? "").length >= 2);
      }
      stage.until("a snapshot is taken", () => stage.status(nextLeader).snapshotIndex > before);
      expectSmallLogs(writers);
      if (failure === "cut off") stage.connect(victim);
      else stage.start(victim);
      writers.agree(`round ${round} is over`);
    }
    expect(traffic.snapshotChunks).toBeGreaterThan(6);
    stage.network = "steady";
    writers.expectSameLines();
  }

  test("snapshot install: a server that was cut off gets a snapshot", () =>
    forSeeds(3, (random, seed) => install(seed, random, "cut off", "steady")));
  slow(
    "snapshot install unreliable: the same on an unreliable network",
    () => forSeeds(3, (random, seed) => install(seed, random, "cut off", "unreliable")),
  );
  test("snapshot install crash: a server that was down gets a snapshot", () =>
    forSeeds(3, (random, seed) => install(seed, random, "crashed", "steady")));
  slow(
    "snapshot install uncrash: the same on an unreliable network",
    () => forSeeds(3, (random, seed) => install(seed, random, "crashed", "unreliable")),
  );

  test("snapshot all crash: a server crashes during its snapshot, then all servers do", () => {
    forSeeds(5, (random, seed) => {
      const writers = new Writers(seed, 3, options);
      const { stage } = writers;
      let [place, crashesInSnapshot] = [0, 0];
      for (let round = 1; round <= 5; round += 1) {
        const isDue = ({ file }: Operation) => file.includes("snapshot") && random() < 0.2;
        stage.crashBefore(drawFrom(random, stage.names), isDue);
        for (const line of linesOf(`round ${round}, line`, 60 + Math.floor(20 * random()))) {
          expect(writers.agree(line)).toBe(place += 1);
        }
        crashesInSnapshot += stage.names.filter((name) => !stage.isUp(name)).length;
        stage.restart(...stage.names);
        expect(writers.agree(`after crash ${round}`)).toBe(place += 1);
      }
      expect(crashesInSnapshot).toBeGreaterThan(1);
      expectSmallLogs(writers);
      writers.expectSameLines();
    });
  });

  test("snapshot init: entries after a snapshot survive the next crash", () => {
    const writers = new Writers(1, 3, options);
    const { stage } = writers;
    for (const line of linesOf("line", 80)) writers.agree(line);
    stage.run(1000);
    stage.restart(...stage.names);
    const { snapshotIndex } = stage.status("a");
    expect(snapshotIndex).toBeGreaterThan(0);
    expect(writers.agree("after a crash")).toBe(81);
    stage.restart(...stage.names);
    expect(stage.status("a").snapshotIndex).toBe(snapshotIndex);
    expect(writers.agree("after another")).toBe(82);
    writers.expectSameLines();
  });
});
