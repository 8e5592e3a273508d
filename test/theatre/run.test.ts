/**
 * Tests the engine of the theatre: a run does what the simulator does, event for event; it goes
 * back and forward over the same instants; a visitor's acts are a part of it, and can be undone.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { readFileSync } from "node:fs";
import path from "node:path";
import { simulateCore } from "../simulation/core.ts";
import { pick, type Random, randomFrom } from "../support/random.ts";
import { isThorough, PATIENCE_MS } from "../support/thorough.ts";
import { bugs } from "./bugs.ts";
import { load } from "./build/programs.ts";
import { makeEngine } from "./engine.ts";
import { loadEngine } from "./loader.ts";
import { Run } from "./run.ts";
import { type Act, type Engine, type Instant, type Script, type ServerView } from "./state.ts";
import { isEqual, namesIn, Viewer } from "./view.ts";

setDefaultTimeout(PATIENCE_MS);

const engine = makeEngine();
const calm: Script = { world: "calm", seed: 1, servers: 3, acts: [] };
const open = (changes: Partial<Script> = {}, kept?: number) =>
  new Run(engine, { ...calm, ...changes }, kept);

const leaderOf = ({ servers }: Instant): ServerView | undefined =>
  servers.find(({ role }) => role === "Leader");
const nameOfLeader = (run: Run): string => leaderOf(run.current)?.name ?? "";
const at = ({ current }: Run, name: string): ServerView => {
  const server = current.servers.find((one) => one.name === name);
  if (!server) throw new Error(`There is no server ${name}.`);
  return server;
};

/** Goes forward until something is so. */
function playUntil(run: Run, isSo: (now: Instant) => boolean, most = 20_000): void {
  for (let i = 0; !isSo(run.current); i += 1) {
    if (i === most || !run.forward()) throw new Error("It was never so.");
  }
}

/** Opens a calm world and plays until a server leads and has committed its first entry. */
function openLed(changes: Partial<Script> = {}): Run {
  const run = open(changes);
  playUntil(run, (now) => (leaderOf(now)?.commitIndex ?? 0) > 0);
  return run;
}

describe("a seed", () => {
  test("ends with the hash and at the time of the simulator", () => {
    for (const seed of isThorough ? [2, 3, 4, 5, 6] : [3, 4]) {
      const { hash, simulatedMs, servers } = simulateCore(seed);
      const run = open({ world: "seed", seed });
      while (run.forward());
      expect(run.current).toMatchObject({ hash });
      expect(run.current.nowMs).toBeLessThanOrEqual(simulatedMs);
      expect(run.current.servers).toHaveLength(servers);
      expect(run.isEnded).toBe(true);
      expect(run.current.verdict).toBeUndefined();
    }
  });

  test("tells the story of the simulator", () => {
    const lines: string[] = [];
    simulateCore(3, { trace: (line) => lines.push(line) });
    const run = open({ world: "seed", seed: 3 });
    while (run.forward());
    expect(run.story.map(({ ms, text }) => `${ms.toFixed(1).padStart(8)} ms  ${text}`))
      .toEqual(lines);
    expect(run.current.storyLength).toBe(lines.length);
  });

  test("is not held to its healthy end once a visitor has acted", () => {
    const run = open({ world: "seed", seed: 3 });
    while (run.forward());
    const end = run.lastEvent;
    run.goTo(end - 200);
    for (const { name } of run.current.servers) run.act({ kind: "kill", server: name });
    for (let i = 0; i < 500; i += 1) run.forward();
    expect(run.current.verdict).toBeUndefined();
  });
});

describe("time", () => {
  test("goes back and forward over the same instants, kept or replayed", () => {
    const run = open({ world: "chance", servers: 5 }, 100);
    const all: Instant[] = [run.current];
    for (let i = 0; i < 1000; i += 1) {
      run.forward();
      all.push(run.current);
    }
    for (const event of [1000, 999, 0, 1, 400, 399, 350, 900, 120, 1000]) {
      expect(run.goTo(event)).toEqual(all[event] as Instant);
      if (event > 0 && run.back()) expect(run.current).toEqual(all[event - 1] as Instant);
      if (run.forward()) expect(run.current).toEqual(all[Math.max(1, event)] as Instant);
    }
    expect(run.replayed).toBeGreaterThan(0);
    expect(run.lastEvent).toBe(1000);
  });

  test("goes 10,000 events back without replaying one, and acts there after one replay", () => {
    const run = open({ world: "chance", servers: 7 });
    const { event } = run.goTo(12_000);
    expect(event).toBe(12_000);
    expect(run.goTo(2000).event).toBe(2000);
    expect(run.replayed).toBe(0);
    run.act({ kind: "healAll" });
    expect(run.replayed).toBe(2000);
    expect(run.lastEvent).toBe(2001);
  });

  test("has no event without an effect", () => {
    const run = open({ world: "chance", servers: 3 });
    for (let i = 0; i < 2000; i += 1) {
      run.forward();
      expect(run.current.event).toBe(i + 1);
    }
    const kinds = new Set<string>();
    for (let event = 1; event <= 2000; event += 1) {
      const { happened } = run.goTo(event);
      kinds.add(happened.kind);
      expect(happened).not.toEqual({ kind: "phase", what: "check" });
    }
    for (const kind of ["message", "timer", "turn", "client", "nemesis"]) {
      expect(kinds).toContain(kind);
    }
  });
});

describe("a picture", () => {
  test("shows each server as it is, though only the one is looked at that an event touched", () => {
    for (const world of ["seed", "chance"] as const) {
      const stage = engine.open({ world, seed: 3, servers: 5 });
      stage.view();
      const { cluster } = stage as unknown as { cluster: ConstructorParameters<typeof Viewer>[0] };
      for (let event = 1; event <= 2500 && stage.forward(); event += 1) {
        const quick = stage.view();
        const known = { event, storyLength: 0, ran: [], verdict: undefined, act: undefined };
        const slow = new Viewer(cluster).view(known);
        for (const [i, server] of quick.servers.entries()) {
          if (isEqual(server, slow.servers[i])) continue;
          expect(server).toEqual(slow.servers[i] as ServerView);
        }
        if (!isEqual(quick.flights, slow.flights)) expect(quick.flights).toEqual(slow.flights);
      }
    }
  });

  test("shares unchanged parts with the instant before", () => {
    const run = openLed();
    const before = run.current;
    run.forward();
    const same = run.current.servers.filter((server, i) => server === before.servers[i]);
    expect(same.length).toBeGreaterThan(1);
  });

  test("has the election timer in simulated time, also on a clock that drifts", () => {
    for (const script of [calm, { ...calm, world: "seed", seed: 5 } as const]) {
      const run = open(script);
      playUntil(run, ({ servers }) => servers.some(({ role }) => role === "PreCandidate"));
      const first = run.current.servers.find(({ role }) => role === "PreCandidate")?.name ?? "";
      const { nowMs } = run.current;
      run.back();
      expect(at(run, first).electionDueMs).toBeCloseTo(nowMs);
      expect(at(run, first).electionFromMs).toBeCloseTo(0);
    }
  });

  test("shows what the disk has of a server that is down", () => {
    const run = openLed();
    const name = nameOfLeader(run);
    run.act({ kind: "propose", key: "x" });
    playUntil(run, () => at(run, name).lastIndex > at(run, name).savedIndex);
    const { savedIndex, currentTerm, entries } = at(run, name);
    run.act({ kind: "kill", server: name });
    expect(at(run, name)).toMatchObject({
      status: "down",
      role: "Follower",
      currentTerm,
      lastIndex: savedIndex,
      followers: undefined,
    });
    expect(at(run, name).entries).toEqual(entries.slice(0, savedIndex));
    run.act({ kind: "wipe", server: name });
    expect(at(run, name)).toMatchObject({ status: "down", hasDisk: false, entries: [], disk: 0 });
    run.act({ kind: "restart", server: name });
    expect(at(run, name)).toMatchObject({ status: "up", hasDisk: true, currentTerm: 0 });
  });
});

describe("an act", () => {
  test("pauses a server that waits for its disk, and the save counts after the pause", () => {
    const run = open();
    const find = () =>
      run.current.servers.find(({ status, lastIndex, savedIndex }) =>
        status === "saving" && lastIndex > savedIndex
      )?.name ?? "";
    playUntil(run, () => find() !== "");
    const server = find();
    const { event, nowMs } = run.current;
    const { savedIndex } = at(run, server);
    run.act({ kind: "pause", server });
    run.act({ kind: "resume", server });
    expect(at(run, server).status).toBe("saving"); // It is not done yet.
    run.goTo(event);
    run.act({ kind: "pause", server });
    playUntil(run, (now) => now.nowMs > nowMs + 100);
    expect(at(run, server)).toMatchObject({ status: "paused", savedIndex });
    run.act({ kind: "resume", server });
    expect(at(run, server).savedIndex).toBeGreaterThan(savedIndex);
    expect(run.current.verdict).toBeUndefined();
  });

  test("kills, restarts, pauses and resumes a server", () => {
    const run = openLed();
    const server = nameOfLeader(run);
    run.act({ kind: "pause", server });
    expect(at(run, server).status).toBe("paused");
    playUntil(
      run,
      (now) => now.servers.some((one) => one.name !== server && one.role === "Leader"),
    );
    run.act({ kind: "resume", server });
    expect(at(run, server).status).not.toBe("paused");
    playUntil(run, () => at(run, server).role === "Follower");
    run.act({ kind: "kill", server });
    const { nowMs } = run.current;
    playUntil(run, (now) => now.nowMs > nowMs + 20_000);
    expect(at(run, server).status).toBe("down");
    run.act({ kind: "restart", server });
    playUntil(run, () => at(run, server).leader !== undefined);
    expect(run.current.verdict).toBeUndefined();
  });

  test("cuts and heals links, one way too", () => {
    const run = openLed();
    const from = nameOfLeader(run);
    const to = run.current.servers.find(({ name }) => name !== from)?.name ?? "";
    run.act({ kind: "cut", from, to });
    expect(run.current.cuts).toEqual([{ from, to }]);
    const { nowMs } = run.current;
    const find = () =>
      run.current.flights.find((one) =>
        one.from === from && one.sentMs > nowMs
        && one.to === to
      );
    playUntil(run, () => find() !== undefined);
    const { sentMs, lostAtMs } = find() ?? {};
    expect(lostAtMs).toBeGreaterThan(sentMs ?? Number.POSITIVE_INFINITY);
    run.act({ kind: "heal", from, to });
    expect(run.current.cuts).toEqual([]);
    run.act({ kind: "partition", groups: [["a", "b"]] });
    expect(run.current.cuts).toHaveLength(4);
    run.act({ kind: "healAll" });
    expect(run.current.cuts).toEqual([]);
  });

  test("drops, delays and duplicates a message in flight", () => {
    const run = openLed();
    const inFlight = () => run.current.flights.filter(({ lostAtMs }) => lostAtMs === undefined);
    playUntil(run, () => inFlight().length > 2);
    const [one, two, three] = inFlight();
    if (!one || !two || !three) throw new Error("There are too few messages.");
    run.act({ kind: "drop", flight: one.id });
    run.act({ kind: "delay", flight: two.id, ms: 500 });
    run.act({ kind: "duplicate", flight: three.id });
    const arrivals: number[] = [];
    for (let i = 0; i < 300; i += 1) {
      run.forward();
      const { happened, nowMs } = run.current;
      if (happened.kind !== "message") continue;
      const { id, content } = { id: happened.flight.id, content: happened.flight.label };
      if (id === two.id) expect(nowMs).toBeCloseTo(two.arriveMs + 500);
      if (content === three.label && happened.flight.to === three.to) arrivals.push(nowMs);
      expect(id).not.toBe(one.id);
    }
    expect(arrivals.length).toBeGreaterThan(1);
  });

  test("writes and reads, and each write has a number of its own", () => {
    const run = open();
    run.act({ kind: "propose", key: "x", value: 5 }); // Before the client has a session.
    run.act({ kind: "propose", key: "y" });
    playUntil(run, ({ servers }) => servers.every(({ values }) => values.length === 2));
    expect(run.current.servers.map(({ values }) => values))
      .toEqual(Array.from({ length: 3 }, () => [["x", "5"], ["y", "6"]]));
    expect(at(run, nameOfLeader(run)).entries.map(({ text }) => text).toSorted())
      .toEqual(["a b c", "session k0", "x=5", "y=6"]);
    expect(() => run.act({ kind: "propose", key: "x", value: 5 })).toThrow("Cannot write 5 again");
    const follower = run.current.servers.find(({ role }) => role === "Follower")?.name ?? "";
    run.act({ kind: "read", key: "x", at: follower });
    expect(run.current.flights.some(({ type, to }) => type === "Request" && to === follower))
      .toBe(true);
    playUntil(run, ({ happened }) =>
      happened.kind === "message" && happened.flight.type === "Reply"
      && happened.flight.from === follower && happened.flight.label.includes("x"));
  });

  test("hands over, adds a server and removes one", () => {
    const run = openLed();
    const old = nameOfLeader(run);
    const next = run.current.servers.find(({ name }) => name !== old)?.name ?? "";
    run.act({ kind: "transfer", to: next }); // The leader has not heard it yet.
    expect(run.story.at(-1)?.text).toContain("and refuses");
    const { nowMs } = run.current;
    playUntil(run, (now) => now.nowMs > nowMs + 1000);
    run.act({ kind: "transfer", to: next });
    playUntil(run, () => at(run, next).role === "Leader");
    run.act({ kind: "addServer" });
    playUntil(run, () => at(run, "d").votes);
    run.act({ kind: "removeServer", server: old });
    playUntil(run, () => at(run, old).status === "down");
    expect(at(run, next).members.map(({ name }) => name)).not.toContain(old);
    expect(run.current.verdict).toBeUndefined();
  });

  test("adds a server though the leader dies that was asked", () => {
    const run = open();
    playUntil(run, (now) => leaderOf(now) !== undefined);
    const server = nameOfLeader(run);
    run.act({ kind: "addServer" }); // The leader has committed nothing, and cannot decide.
    run.act({ kind: "kill", server });
    playUntil(run, () => at(run, "d").votes);
    expect(nameOfLeader(run)).not.toBe(server);
  });

  test("makes an election timer run out, and PreVote keeps the leader", () => {
    const run = openLed();
    const name = nameOfLeader(run);
    const { currentTerm } = at(run, name);
    const other = run.current.servers.find((server) => server.name !== name)?.name ?? "";
    run.act({ kind: "elapse", server: other });
    expect(at(run, other).role).toBe("PreCandidate");
    const { nowMs } = run.current;
    playUntil(run, (now) => now.nowMs > nowMs + 5000);
    expect(at(run, name)).toMatchObject({ role: "Leader", currentTerm });
  });

  test("may wipe a majority, which found a new cluster, and no server is to blame", () => {
    const run = openLed();
    run.act({ kind: "propose", key: "x" });
    playUntil(run, ({ servers }) => servers.every(({ values }) => values.length === 1));
    run.act({ kind: "wipe", server: "a" });
    run.act({ kind: "wipe", server: "b" });
    run.act({ kind: "kill", server: "c" });
    // Otherwise a late message could show the empty servers the old founding, and they would wait.
    playUntil(run, ({ flights }) => flights.length === 0);
    run.act({ kind: "restart", server: "a" });
    run.act({ kind: "restart", server: "b" });
    run.act({ kind: "propose", key: "x" }); // In a session that the new cluster does not know.
    playUntil(run, (now) => (leaderOf(now)?.lastApplied ?? 0) > 1);
    const { nowMs } = run.current;
    playUntil(run, (now) => now.nowMs > nowMs + 1000);
    expect(run.current.verdict).toBeUndefined();
  });

  test("ends a pause of chance, whose own end does not end the visitor's pause later", () => {
    const run = open({ world: "chance", seed: 6 });
    const pausedBy = ({ happened }: Instant) =>
      happened.kind === "nemesis" && happened.what === "pause" ? happened.servers[0] ?? "" : "";
    playUntil(run, (now) => pausedBy(now) !== "");
    const server = pausedBy(run.current);
    expect(at(run, server).status).toBe("paused");
    run.act({ kind: "resume", server });
    run.act({ kind: "pause", server });
    const { nowMs } = run.current;
    playUntil(run, (now) => now.nowMs > nowMs + 4000 || at(run, server).status !== "paused");
    expect(at(run, server).status).toBe("paused");
  });

  test("keeps the visitor's session though chance replaces clients", () => {
    const run = open({ world: "chance", servers: 1 });
    playUntil(run, (now) => leaderOf(now) !== undefined);
    for (let seconds = 0; seconds < 400; seconds += 20) {
      run.act({ kind: "propose", key: "x" });
      playUntil(run, ({ nowMs }) => nowMs > seconds * 1000);
    }
    expect(run.current.verdict).toBeUndefined();
    expect(run.story.filter(({ text }) => text.startsWith("k0 -> a  session"))).toHaveLength(1);
  });

  test("that cannot be done says why, and changes nothing", () => {
    const run = open();
    const impossible: Act[] = [
      { kind: "transfer", to: "a" },
      { kind: "addServer" },
      { kind: "kill", server: "q" },
      { kind: "delay", flight: 1, ms: Number.NaN },
      { kind: "propose", key: "x", value: 1.5 },
    ];
    const before = run.current;
    for (const act of impossible) expect(() => run.act(act)).toThrow(/\.$/);
    expect(run.current).toBe(before);
    expect(run.script.acts).toEqual([]);
    expect(() => open({ servers: 8 })).toThrow("Choose 1 to 7");
  });
});

/** Returns an act of any kind. It may be one that cannot be done. */
function drawAct(random: Random, { servers, flights }: Instant): Act {
  const names = servers.map(({ name }) => name);
  const [server, from, to] = [pick(random, names), pick(random, names), pick(random, names)];
  const flight = flights[Math.floor(random() * flights.length)]?.id ?? 0;
  const ofServer = ["kill", "restart", "pause", "resume", "wipe", "elapse"] as const;
  return pick<Act>(random, [
    { kind: pick(random, ofServer), server },
    { kind: pick(random, ["cut", "heal"] as const), from, to },
    { kind: "healAll" },
    { kind: "partition", groups: [[from, to]] },
    { kind: pick(random, ["drop", "duplicate"] as const), flight },
    { kind: "delay", flight, ms: 100 },
    { kind: "propose", key: "z" },
    { kind: "read", key: "z", at: server },
    { kind: "transfer", to },
    { kind: "addServer" },
    { kind: "removeServer", server },
    { kind: "forget" },
  ]);
}

/** Returns a run with acts of all kinds, at any time. */
function actAtRandom(seed: number): Run {
  const random = randomFrom(seed);
  const run = open({ seed, servers: 1 + seed % 7, world: seed % 2 ? "calm" : "chance" });
  for (let i = 0; i < 60; i += 1) {
    run.goTo(Math.max(0, run.current.event + Math.floor(random() * 80) - 20));
    try {
      run.act(drawAct(random, run.current));
    } catch (error) {
      expect(`${error}`).toMatch(/No server leads|there are 9 already/);
    }
  }
  return run;
}

describe("a script", () => {
  test("gives the same run again, event for event, with acts of all kinds", () => {
    const kinds = new Set<string>();
    for (let seed = 1; seed <= (isThorough ? 50 : 7); seed += 1) {
      const run = actAtRandom(seed);
      const text = JSON.stringify(run.script);
      const again = new Run(engine, JSON.parse(text) as Script);
      for (const { act } of run.script.acts) kinds.add(act.kind);
      for (let event = 0; event <= run.lastEvent; event += 1) {
        const [one, other] = [run.goTo(event), again.goTo(event)];
        if (!isEqual(one, other)) expect(other).toEqual(one);
      }
      expect(again.story).toEqual(run.story);
      expect(again.marks).toEqual(run.marks);
      expect(JSON.stringify(again.script)).toBe(text);
      expect(run.current.verdict).toBeUndefined();
    }
    expect(kinds.size).toBe(19);
  });

  test("loses its last act when it is undone, with all later events", () => {
    const run = openLed();
    const { event } = run.current;
    const plain = Array.from({ length: 50 }, (_, i) => run.goTo(event + 1 + i));
    run.goTo(event);
    run.act({ kind: "kill", server: nameOfLeader(run) });
    run.act({ kind: "healAll" });
    for (let i = 0; i < 20; i += 1) run.forward();
    expect(run.script.acts.map(({ act }) => act.kind)).toEqual(["kill", "healAll"]);
    expect(run.undo()).toBe(true);
    expect(run.current.event).toBe(event + 1);
    expect(run.undo()).toBe(true);
    expect(run.undo()).toBe(false);
    expect(run.current.event).toBe(event);
    for (const instant of plain) expect(run.goTo(instant.event)).toEqual(instant);
  });

  test("loses the acts of the future when something is done in the past", () => {
    const run = openLed();
    const { event } = run.current;
    run.goTo(event + 40);
    run.act({ kind: "kill", server: "a" });
    run.goTo(event);
    run.act({ kind: "kill", server: "b" });
    expect(run.script.acts).toEqual([{ event, act: { kind: "kill", server: "b" } }]);
    expect(run.marks.filter(({ kind }) => kind === "crash").map(({ text }) => text))
      .toEqual(["b is down"]);
  });

  test("leaves out an act that cannot be done", () => {
    const acts = [
      { event: 2, act: { kind: "transfer", to: "a" } },
      { event: 2, act: { kind: "kill", server: "a" } },
    ] as const;
    const run = open({ acts });
    run.goTo(3);
    expect(run.current.happened).toEqual({ kind: "act", act: { kind: "kill", server: "a" } });
    expect(run.script.acts).toEqual([acts[1]]);
  });
});

describe("the judge's sentence", () => {
  test("names servers, and tells them from the article a", () => {
    const names = ["a", "b", "c"];
    expect(namesIn("Election safety: a and c lead in term 2.", names)).toEqual(["a", "c"]);
    expect(namesIn("Rule: b got a read after round 1.", names)).toEqual(["b"]);
    const judge = readFileSync(path.join(import.meta.dir, "../simulation/judge.ts"), "utf8");
    const articles = [...judge.matchAll(/`[^`]*`/g)].join("\n").match(/\ba [a-z]+/g) ?? [];
    expect(articles.length).toBeGreaterThan(5);
    for (const words of articles) expect(namesIn(`Rule: ${words}.`, names)).toEqual([]);
  });
});

describe("the bugs of the menu", () => {
  /** Returns the world at its end, or after so many events. */
  function play(engine: Engine, script: Script, most = Number.POSITIVE_INFINITY): Instant {
    const world = engine.open(script);
    for (let event = 0; event < most && world.forward(); event += 1);
    return world.view();
  }

  test("are caught at their seeds by the rules that they name, not without the bug", async () => {
    const chosen = isThorough ? bugs : bugs.slice(0, 3);
    const cargo = await load(path.join(import.meta.dir, "engine.ts"), chosen.map(({ id }) => id));
    const healthy = loadEngine(cargo);
    for (const { id, rule, script } of chosen) {
      const { verdict, servers, event } = play(loadEngine(cargo, id), script);
      expect([id, verdict?.promise]).toEqual([id, rule]);
      expect(verdict?.sentence).toStartWith(`${rule}: `);
      const names = servers.map(({ name }) => name);
      expect(names).toEqual(expect.arrayContaining(verdict?.servers.slice() ?? []));
      expect(verdict?.servers.length).toBeGreaterThan(0);
      const named = verdict?.sentence.match(/entry \d+/g) ?? [];
      expect(verdict?.entries.map(({ index }) => `entry ${index}`)).toEqual(named);
      for (const { term } of verdict?.entries ?? []) expect(term).toBeGreaterThan(0);
      // The simulator's own tests run the whole seed.
      expect(event).toBeGreaterThan(50);
      expect(play(healthy, script, event).verdict).toBeUndefined();
    }
    expect(bugs.length).toBeGreaterThan(14);
  });
});
