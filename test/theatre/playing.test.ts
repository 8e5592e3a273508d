/** Proves that time passes as the visitor chooses, and that source and story follow it. */
import { describe, expect, test } from "bun:test";
import { DEFAULT_SCRIPT } from "./address.ts";
import { type Backstage } from "./backstage.ts";
import { type SourceIndex } from "./build/shape.ts";
import { makeEngine } from "./engine.ts";
import {
  type Changes,
  flow,
  linesThatRan,
  listMethod,
  mainMethod,
  methodsThatRan,
} from "./listing.ts";
import { Player, SPEEDS } from "./player.ts";
import { Run } from "./run.ts";
import { Scenes } from "./scenes.ts";
import { type Flight, type Script } from "./state.ts";
import { Storyteller, toldUpTo } from "./storyteller.ts";

const engine = makeEngine();
const script: Script = { world: "calm", seed: 1, servers: 3, acts: [] };
const open = () => new Storyteller(new Run(engine, script));
/** A player whose real time stands still, so that its budget never ends. */
const play = (speed: number) => {
  const player = new Player(open(), () => 0);
  player.speed = speed;
  player.play();
  return player;
};
const named = (name: string) => SPEEDS.findIndex((speed) => speed.name === name);

describe("the player", () => {
  test("lets simulated time pass at the speed chosen", () => {
    for (const [name, ms] of [["real time", 1000], ["1/100 of real time", 10]] as const) {
      const player = play(named(name));
      for (let frame = 0; frame < 100; frame += 1) player.tick(10);
      expect(player.timeMs).toBeCloseTo(ms, 6);
      expect(player.shown.nowMs).toBeLessThanOrEqual(ms);
      player.stepForward();
      expect(player.shown.nowMs).toBeGreaterThan(ms);
    }
  });

  test("shortens the time without a message in flight", () => {
    const player = play(named("1/50 of real time"));
    player.goTo(0);
    while (player.shown.flights.length > 0) player.stepForward();
    const before = player.timeMs;
    player.play();
    player.tick(100);
    expect(player.shown.flights).toEqual([]);
    expect(player.timeMs - before).toBeCloseTo(10, 6);
  });

  test("shows one event a second, and time in between", () => {
    const player = play(named("1 event a second"));
    for (let frame = 0; frame < 55; frame += 1) player.tick(100);
    expect(player.shown.event).toBe(5);
    const { nowMs } = player.shown;
    const at = player.timeMs;
    player.stepForward();
    expect(at).toBeCloseTo((nowMs + player.shown.nowMs) / 2, 6);
  });

  test("does not jump after a hidden page comes back", () => {
    const player = play(named("real time"));
    player.tick(60_000);
    expect(player.timeMs).toBeLessThanOrEqual(100);
  });

  test("stops at the event that it was told", () => {
    const player = play(named("real time"));
    player.stopAt = 7;
    for (let frame = 0; frame < 200; frame += 1) player.tick(20);
    expect(player.shown.event).toBe(7);
    expect(player.isPlaying).toBeFalse();
  });

  test("acts at the instant that it shows, although it has looked ahead", () => {
    const player = play(named("1 event a second"));
    for (let frame = 0; frame < 25; frame += 1) player.tick(100);
    expect(player.shown.event).toBe(2);
    expect(player.run.current.event).toBe(3);
    player.act({ kind: "kill", server: "a" });
    expect(player.shown.event).toBe(3);
    expect(player.run.script.acts).toEqual([{ event: 2, act: { kind: "kill", server: "a" } }]);
    expect(player.shown.servers[0]?.status).toBe("down");
    player.undo();
    expect(player.shown.event).toBe(2);
    expect(player.shown.servers[0]?.status).not.toBe("down");
  });

  test("one event forward and back again shows the same", () => {
    const player = new Player(open(), () => 0);
    player.goTo(40);
    const { hash } = player.shown;
    player.stepForward();
    expect(player.shown.event).toBe(41);
    player.stepBack();
    expect(player.shown.event).toBe(40);
    expect(player.shown.hash).toBe(hash);
  });

  test("hurries within its budget", () => {
    let now = 0;
    const player = new Player(open(), () => now += 1);
    let frames = 1;
    while (!player.hurry(100, 10)) frames += 1;
    expect(player.shown.event).toBe(100);
    expect(frames).toBeWithin(5, 20);
  });
});

describe("scenes", () => {
  const acts = [60, 90].map((event) => ({ event, act: { kind: "kill", server: "a" } as const }));
  const lesson = { id: "deaths", title: "Deaths", cites: "", about: "", parts: [{ title: "One" }] };
  const bug = { id: "1", title: "A bug", about: "", script: { ...script, bug: "1", seed: 7 } };
  const backstage: Backstage = {
    open: (opening) => new Run(engine, opening),
    source: { lines: [], sections: [], methods: [], lastLines: {} },
    planted: [],
    bugs: [bug],
    lessons: [lesson],
    prepare: () => ({
      script: { ...script, acts },
      paragraphs: [50, 100].map((event) => ({ event, text: `Event ${event}.` })),
    }),
  };
  const openScenes = () => {
    const told: string[] = [];
    const scenes = new Scenes(backstage, (sentence) => told.push(sentence), () => {}, () => 0);
    const arrive = () => scenes.player.hurry(scenes.target ?? 0, Infinity);
    return { scenes, told, arrive };
  };

  test("a lesson opens at its first paragraph, and its acts cannot be undone", () => {
    const { scenes, arrive } = openScenes();
    scenes.openLesson("deaths");
    arrive();
    expect(scenes.player.shown.event).toBe(50);
    expect(scenes.nextParagraph).toBe(100);
    expect(scenes.undoable).toBeUndefined();
  });

  test("a lesson goes on after the visitor's own acts are undone", () => {
    const { scenes, arrive } = openScenes();
    scenes.openLesson("deaths");
    arrive();
    scenes.act({ kind: "pause", server: "b" });
    expect(scenes.nextParagraph).toBeUndefined();
    expect(scenes.undoable).toEqual({ kind: "pause", server: "b" });
    scenes.undo();
    arrive();
    expect(scenes.player.shown.event).toBe(50);
    expect(scenes.nextParagraph).toBe(100);
    expect(scenes.player.run.script.acts).toEqual(acts);
  });

  test("an address opens the same instant, and a damaged one tells its mistake", () => {
    const { scenes, told, arrive } = openScenes();
    scenes.openAddress("#world=calm&seed=5&servers=3&acts=40.kill.b&at=70");
    arrive();
    const { hash } = scenes.player.shown;
    const { address } = scenes;
    scenes.openAddress("#servers=99");
    expect(told).toEqual([expect.stringMatching(/^Cannot open this address: /)]);
    expect(scenes.player.run.script).toEqual(DEFAULT_SCRIPT);
    scenes.openAddress(address);
    arrive();
    expect(scenes.player.shown.hash).toBe(hash);
  });

  test("a bug can be taken out of its seed, and planted again", () => {
    const { scenes } = openScenes();
    scenes.openBug("1");
    expect(scenes.topic.bug).toBe(bug);
    scenes.takeBugOut();
    expect(scenes.player.run.script.bug).toBeUndefined();
    expect(scenes.player.run.script.seed).toBe(7);
    expect(scenes.topic.bug).toBeUndefined();
    scenes.plantAgain();
    expect(scenes.player.run.script.bug).toBe("1");
  });

  test("an act that is impossible leaves the run as it is, and says why", () => {
    const { scenes, told } = openScenes();
    scenes.act({ kind: "transfer", to: "b" });
    expect(told).toEqual([expect.stringMatching(/^No server leads now\./)]);
    expect(scenes.player.shown.event).toBe(0);
    expect(scenes.player.run.script.acts).toEqual([]);
  });
});

describe("the story", () => {
  test("is told once, also after steps back, and forgets what an act has made undone", () => {
    const run = open();
    run.goTo(200);
    const { story: [...first] } = run;
    expect(first.length).toBeGreaterThan(5);
    expect(first.some(({ text }) => /Switching to Leader of term 1/.test(text))).toBeTrue();
    run.goTo(10);
    while (run.current.event < 200) run.forward();
    expect(run.story).toEqual(first);
    run.goTo(190);
    run.act({ kind: "kill", server: "a" });
    expect(run.story.at(-1)).toEqual({
      event: 191,
      ms: run.current.nowMs,
      text: "a: The process has died",
    });
    run.undo();
    run.goTo(200);
    expect(run.story).toEqual(first);
  });

  test("is cut at an event", () => {
    const lines = [1, 3, 3, 9].map((event) => ({ event, ms: 0, text: "" }));
    expect([0, 1, 2, 3, 8, 9].map((event) => toldUpTo(lines, event))).toEqual([0, 1, 1, 3, 3, 4]);
  });
});

describe("the source", () => {
  const lines = [
    "/** Replies. */",
    "  private onRequestVote(m) {",
    "    // 1. Reply false.",
    "    if (m.term < this.currentTerm) {",
    "      return no;",
    "    }",
    "    // 2. Grant",
    "    // the vote.",
    "    return yes;",
    "  }",
    "  step() {",
    "    save();",
    "  }",
  ];
  const method = (
    name: string,
    first: number,
    last: number,
    passages: [string, number, number][],
  ) => ({
    ...{ name, section: 5, first, last, cited: [] },
    passages: passages.map(([comment, start, end]) => ({ comment, first: start, last: end })),
  });
  const vote = method("Raft.onRequestVote", 1, 10, [
    ["Replies.", 2, 2],
    ["1. Reply false.", 4, 6],
    ["2. Grant\nthe vote.", 9, 10],
  ]);
  const step = method("Raft.step", 11, 13, [["", 11, 13]]);
  const index: SourceIndex = { lines, sections: [], methods: [vote, step], lastLines: { 4: 5 } };
  const changes: Changes = {
    source: [{ at: 4, removed: 3, lines: ["    if (false) return no;"] }],
    firstMark: 100,
    lastLines: {},
  };
  const message = (type: Flight["type"]) => ({
    kind: "message" as const,
    flight: {
      ...{ id: 1, from: "a", to: "b", type, label: "", fields: [], sentMs: 0, arriveMs: 1 },
    },
  });

  test("shows the handler of a message first, with all lines of what ran", () => {
    const ran = linesThatRan(index, undefined, [12, 4, 9]);
    expect([...ran]).toEqual([12, 4, 5, 9]);
    const methods = methodsThatRan(index, undefined, [12, 4, 9]);
    expect(methods).toEqual([step, vote]);
    expect(mainMethod(methods, undefined, ran, message("RequestVote"))).toBe(vote);
    expect(mainMethod([step], undefined, ran, message("RequestVote"))).toBe(step);
  });

  test("stands with its comments beside the code, without a margin", () => {
    const [head, first, second] = listMethod(index, vote, undefined, new Set([4, 5]));
    expect(head?.comment).toBe("Replies.");
    expect(first?.code.map(({ text, hasRun }) => [text, hasRun])).toEqual([
      ["  if (m.term < this.currentTerm) {", true],
      ["    return no;", true],
      ["  }", false],
    ]);
    expect(second?.code.map(({ number }) => number)).toEqual([9, 10]);
  });

  test("strikes what a bug removes, and shows what it plants", () => {
    const marks = [100, 9];
    const ran = linesThatRan(index, changes, marks);
    expect(methodsThatRan(index, changes, marks)).toEqual([vote]);
    const [, changed] = listMethod(index, vote, changes, ran);
    expect(changed?.code.map(({ state, hasRun }) => [state, hasRun])).toEqual([
      ["planted", true],
      ["struck", false],
      ["struck", false],
      ["struck", false],
    ]);
    expect(mainMethod([step, vote], changes, ran, { kind: "turn", server: "a" })).toBe(vote);
  });

  test("lets the lines of a comment flow, but not those of a list", () => {
    expect(flow("One\ntwo.")).toBe("One two.");
    expect(flow("Rules:\n1. a\n   b\n2. c")).toBe("Rules:\n1. a b\n2. c");
  });
});
