/**
 * Tests the story of a run: it has the words of `bun cli.ts --test`, tells the events that
 * matter, and is quiet otherwise.
 */
import { describe, expect, test } from "bun:test";
import { narrator, plain } from "../../cli.ts";
import { type NodeEvent } from "../../raft.ts";
import { makeEngine } from "./engine.ts";
import { Run } from "./run.ts";
import type { Act, Instant, Script } from "./state.ts";
import { Storyteller } from "./storyteller.ts";

const engine = makeEngine();
const calm: Script = { world: "calm", seed: 1, servers: 3, acts: [] };

/** A run and its story. */
class Told {
  readonly run: Storyteller;

  constructor(script: Script) {
    this.run = new Storyteller(new Run(engine, script));
  }

  get now(): Instant {
    return this.run.current;
  }

  get texts(): readonly string[] {
    return this.run.story.map(({ text }) => text);
  }

  do(...acts: readonly Act[]): this {
    for (const act of acts) this.run.act(act);
    return this;
  }

  /** Goes on until a condition holds. */
  until(holds: (now: Instant) => boolean): this {
    for (let events = 0; events < 5000 && !holds(this.now); events += 1) this.run.forward();
    expect(holds(this.now)).toBe(true);
    return this;
  }

  pass(ms: number): this {
    const { nowMs } = this.now;
    return this.until((now) => now.nowMs >= nowMs + ms);
  }
}

const server = ({ servers }: Instant, name: string) => servers.find((one) => one.name === name);
const leads = (name: string) => (now: Instant) => server(now, name)?.role === "Leader";
const applied = (name: string, index: number) => (now: Instant) =>
  (server(now, name)?.lastApplied ?? 0) >= index;

/** A leads three servers, and x is 1. */
const led = () =>
  new Told(calm).pass(60).do({ kind: "elapse", server: "a" }).until(leads("a"))
    .until(applied("c", 1)).do({ kind: "propose", key: "x", value: 1 }).until(applied("c", 3));

/** Returns what `bun cli.ts --test` says about an event. */
function spoken(name: string, event: NodeEvent): readonly string[] {
  const said: string[] = [];
  narrator(name, (message) => said.push(...[message].flat().map(plain)))(event);
  return said;
}

describe("the story", () => {
  test("has the words of the command line", () => {
    const { texts } = led();
    const [campaign = "", starting = ""] = spoken("a", {
      type: "campaign",
      silentMs: 60,
      transfer: false,
    });
    const [silence = ""] = campaign.split("60");
    expect(texts.some((text) => text.startsWith(`a: ${silence}`))).toBe(true);
    expect(texts).toContain(`a: Switching to Candidate in term 1. ${starting}`);
    const [, voted = ""] = spoken("b", { type: "voted", candidate: "a" });
    expect(texts).toContain(`b: ${voted} in term 1`);
    const [leader = ""] = spoken("b", { type: "leader", from: undefined, to: "a" });
    expect(texts).toContain(`b: ${leader}`);
    const [committed = ""] = spoken("a", { type: "committed", commitIndex: 3 });
    expect(texts).toContain(`a: ${committed}`);
  });

  test("tells the end of a leader, votes one by one, and a snapshot in those words, too", () => {
    const told = new Told({ ...calm, servers: 5 }).pass(60).do({ kind: "elapse", server: "a" })
      .until(leads("a"));
    const [votes = ""] = spoken("a", { type: "votes", votes: 2, elected: false });
    expect(told.texts).toContain(`a: ${votes}`);
    told.until(applied("e", 1)).do({ kind: "partition", groups: [["a"], ["b", "c", "d", "e"]] })
      .until((now) => !leads("a")(now));
    const [stepped = ""] = spoken("a", { type: "role", from: "Leader", to: "Follower" });
    expect(told.texts).toContain("Network: split into a | b c d e");
    expect(told.texts).toContain(`a: ${stepped}`);
    const writes = Array.from({ length: 16 }, (): Act => ({ kind: "propose", key: "y" }));
    const long = led().do(...writes).until((now) => (server(now, "a")?.snapshotIndex ?? 0) > 0);
    const index = server(long.now, "a")?.snapshotIndex ?? 0;
    const [took = ""] = spoken("a", { type: "snapshot", index, size: 1, from: undefined });
    expect(long.texts).toContain(`a: ${took.split(",")[0]}`);
  });

  test("tells a crash, a restart, a lost disk and new members", () => {
    const told = led().do({ kind: "kill", server: "c" }, { kind: "restart", server: "c" })
      .pass(300).do({ kind: "wipe", server: "c" }, { kind: "restart", server: "c" })
      .until((now) => server(now, "a")?.members.every(({ votes }) => votes) === false);
    const texts = told.texts.slice(told.texts.indexOf("c: The process has died"));
    expect(texts.filter((text) => text.startsWith("c: ") || text.includes("Members"))).toEqual([
      "c: The process has died",
      "c: Starting server in term 1 as Follower",
      "c: New leader: a",
      "c: The process has died",
      "c: Its disk is lost, with all data on it",
      "c: Starting server in term 0 as Follower",
      "c: New leader: a",
      "a: Members: a, b, c (learner)",
    ]);
    const [listed = ""] = spoken("a", {
      type: "members",
      members: ["a", "b"].map((name) => ({ name, address: "", votes: true, disk: 0 })),
    });
    expect(listed).toBe("Members: a, b");
  });

  test("tells that an entry is overwritten, and an answer to the visitor's client", () => {
    const told = led().do({ kind: "partition", groups: [["a"], ["b", "c"]] }, {
      kind: "propose",
      key: "x",
      value: 2,
      at: "a",
    }).until((now) => server(now, "a")?.lastIndex === 4).pass(1000)
      .do({ kind: "elapse", server: "b" }).until(leads("b")).until(applied("c", 4))
      .do({ kind: "healAll" }).until(applied("a", 5));
    expect(told.texts).toContain("a: Entry 4 of term 1 is overwritten by one of term 2");
    expect(told.texts).toContain("a: Answers the client: x=1: done, as of 3");
  });

  test("stands at the event that it tells of, and is quiet while nothing changes", () => {
    const told = led();
    const { event = 0 } = told.run.story.find(({ text }) => text.includes("Switching to Leader"))
      ?? {};
    const { length } = told.texts;
    told.pass(5000);
    expect(told.texts.slice(length)).toEqual([]);
    expect(leads("a")(told.run.goTo(event))).toBe(true);
    expect(leads("a")(told.run.goTo(event - 1))).toBe(false);
  });
});
