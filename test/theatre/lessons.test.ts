/**
 * Tests that every lesson comes to the events that it tells of, in their order, and that it ends as
 * its text says. If a change of raft.ts or of the simulation moves the events of a scene, another
 * seed of that scene brings them back.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import path from "node:path";
import { PATIENCE_MS } from "../support/thorough.ts";
import { load } from "./build/programs.ts";
import { lessons } from "./lessons/index.ts";
import { type Part, type Rehearsal, rehearse } from "./lessons/lesson.ts";
import { serverIn } from "./lessons/signs.ts";
import { loadEngine } from "./loader.ts";
import { Run } from "./run.ts";
import type { Instant } from "./state.ts";

setDefaultTimeout(PATIENCE_MS);

const parts = lessons.flatMap(({ id, parts }) =>
  parts.map((part, i): readonly [name: string, part: Part] => [`${id} ${i + 1}`, part])
);
const bugs = new Set(parts.flatMap(([, { scene }]) => scene.bug ?? []));
const cargo = await load(path.join(import.meta.dir, "engine.ts"), [...bugs]);

type Played = Rehearsal & { run: Run; end: Instant };
const played = new Map<string, Played>();
/** Returns a part, its run, and the instant of its last paragraph. */
function play(name: string): Played {
  const known = played.get(name);
  if (known) return known;
  const part = new Map(parts).get(name);
  if (!part) throw new Error(`There is no part ${name}.`);
  const engine = loadEngine(cargo, part.scene.bug);
  const rehearsal = rehearse(engine, part);
  const run = new Run(engine, rehearsal.script);
  const end = run.goTo(rehearsal.paragraphs.at(-1)?.event ?? 0);
  const made = { ...rehearsal, run, end };
  played.set(name, made);
  return made;
}

/** Returns the terms of a server's entries, or those of the log that it had at an event. */
const termsOf = (instant: Instant, name: string): string =>
  serverIn(instant, name)?.entries.map(({ term }) => term).join(" ") ?? "";
const namesWith = ({ servers }: Instant, index: number, term: number): string =>
  servers.filter(({ entries, baseIndex }) => entries[index - baseIndex - 1]?.term === term)
    .map(({ name }) => name).join(" ");
const leadersOf = ({ servers }: Instant): string =>
  servers.filter(({ role }) => role === "Leader")
    .map(({ name, currentTerm }) => `${name} ${currentTerm}`).join(", ");
/** Returns the value of x that each running server has. */
const valuesOf = ({ servers }: Instant): string =>
  servers.filter(({ status }) => status !== "down")
    .map(({ name, values }) => `${name} ${new Map(values).get("x") ?? "none"}`).join(", ");
const eventOf = ({ paragraphs }: Played, words: string): number => {
  const event = paragraphs.find((paragraph) => paragraph.words === words)?.event;
  if (event === undefined) throw new Error(`No paragraph is about: ${words}.`);
  return event;
};

describe("Every part of a lesson", () => {
  test.each(parts)("%s comes to its events in order", (name, { scene, steps }) => {
    const { paragraphs, run, end } = play(name);
    expect(paragraphs.map(({ words }) => words))
      .toEqual(steps.flatMap(({ at, text }) => text === undefined ? [] : at.words));
    // A run of the script comes to the same events as the rehearsal.
    for (const { event, words } of paragraphs) {
      const at = steps.find((step) => step.at.words === words && step.text !== undefined)?.at;
      const [now, before] = [run.goTo(event), run.goTo(Math.max(0, event - 1))];
      if (!words.endsWith("ms pass")) expect(at?.isSeen(now, before, before)).toBe(true);
    }
    // Without a bug, no promise breaks, also in the time after the lesson.
    if (scene.bug === undefined) expect(run.goTo(end.event + 200).verdict).toBeUndefined();
  });

  test("has paragraphs that are read in a quarter of a minute, and a title of its own", () => {
    const texts = parts.flatMap(([, { steps }]) => steps.flatMap(({ text }) => text ?? []));
    expect(texts.filter((text) => text.length > 330)).toEqual([]);
    expect(new Set(lessons.map(({ title }) => title)).size).toBe(lessons.length);
  });
});

describe("What the text of a lesson says holds at its end", () => {
  test("a first election: b leads term 1, and a and c follow it", () => {
    const { end } = play("election 1");
    expect(leadersOf(end)).toBe("b 1");
    expect(end.servers.map(({ leader }) => leader)).toEqual(["b", "b", "b"]);
  });

  test("a split vote: term 1 has no leader, and term 2 has one", () => {
    const lesson = play("split-vote 1");
    const leaders = lesson.run.marks.filter(({ kind }) => kind === "leader");
    expect(leaders.map(({ text }) => text)).toEqual(["c leads in term 2"]);
  });

  test("the leader dies: y=2 is in all logs, beneath the no-op of term 2", () => {
    const { end } = play("leader-dies 1");
    expect(end.servers.map(({ name }) => termsOf(end, name))).toEqual(Array(5).fill("1 1 1 1 2"));
    expect(leadersOf(end)).toBe("b 2");
  });

  test("Figure 7: the logs are first those of the figure, and in the end all equal g's", () => {
    const { paragraphs, run, end } = play("figure-7 1");
    const before = run.goTo(paragraphs[0]?.event ?? 0);
    expect(before.servers.map(({ name }) => `${name} ${termsOf(before, name)}`)).toEqual([
      "a 1 1 1 4 4 5 5 6 6",
      "b 1 1 1 4",
      "c 1 1 1 4 4 5 5 6 6 6 6",
      "d 1 1 1 4 4 5 5 6 6 6 7 7",
      "e 1 1 1 4 4 4 4",
      "f 1 1 1 2 2 2 3 3 3 3 3",
      "g 1 1 1 4 4 5 5 6 6 6",
    ]);
    expect(leadersOf(end)).toBe("g 8");
    expect(end.servers.map(({ name }) => termsOf(end, name)))
      .toEqual(Array(7).fill("1 1 1 4 4 5 5 6 6 6 8"));
  });

  test("Figure 8: entry 2 of term 2 is on a majority, and is overwritten", () => {
    const lesson = play("figure-8 1");
    const c = lesson.run.goTo(eventOf(lesson, "a learns that c has entry 2"));
    expect(namesWith(c, 2, 2)).toBe("a b c");
    expect(serverIn(c, "a")?.commitIndex).toBe(1);
    const { end } = lesson;
    expect(namesWith(end, 2, 2)).toBe("a"); // It is down.
    expect(namesWith(end, 2, 3)).toBe("b c d e");
  });

  test("Figure 8: with an entry of its own term, the old entry is committed for good", () => {
    const { end } = play("figure-8 2");
    expect(namesWith(end, 2, 3)).toBe("");
  });

  test("Figure 8: committed by counting, the entry is missing in the next leader", () => {
    const { end } = play("figure-8 3");
    expect(end.verdict?.sentence)
      .toBe("Leader completeness: e leads in term 5 without the committed entry 2 of term 2.");
  });

  test("a partition: x is 2 on all servers, and the term is 2", () => {
    const lesson = play("partition 1");
    const { end, run } = lesson;
    expect(namesWith(run.goTo(eventOf(lesson, "c commits entry 5")), 4, 1)).toBe("a b");
    expect(valuesOf(run.goTo(end.event + 300))).toBe("a 2, b 2, c 2, d 2, e 2");
  });

  test("a partition: with PreVote the term stays 1, without it the leader is deposed", () => {
    expect(leadersOf(play("partition 2").end)).toBe("a 1");
    const without = play("partition 3");
    expect(leadersOf(without.run.goTo(without.paragraphs[0]?.event ?? 0))).toBe("a 1");
    expect(serverIn(without.end, "a")?.currentTerm).toBeGreaterThan(3);
  });

  test("a read: the client reads 2, and with the bug the judge finds a stale read", () => {
    const { end } = play("stale-read 1");
    expect(end.flights.filter(({ type }) => type === "Reply").map(({ label }) => label))
      .toEqual(["read x: it is 2"]);
    expect(play("stale-read 2").end.verdict?.promise).toBe("Reads are linearizable");
  });

  test("a snapshot: c has the state without the entries", () => {
    const { end } = play("snapshot 1");
    const [a, c] = [serverIn(end, "a"), serverIn(end, "c")];
    expect(c?.values).toEqual(a?.values ?? []);
    expect(c?.baseIndex).toBeGreaterThan(3);
  });

  test("members: b, c and d are left, and one of them leads", () => {
    const { end } = play("members 1");
    const left = end.servers.filter(({ status }) => status === "up");
    expect(left.map(({ name, members }) => [name, members.map((member) => member.name).join(" ")]))
      .toEqual([["b", "b c d"], ["c", "b c d"], ["d", "b c d"]]);
  });

  test("a lost disk: c has a vote again, with another disk", () => {
    const { run, end, paragraphs } = play("lost-disk 1");
    const before = run.goTo(paragraphs[0]?.event ?? 0);
    expect(serverIn(end, "c")?.votes).toBe(true);
    expect(serverIn(end, "c")?.disk).not.toBe(serverIn(before, "c")?.disk);
    expect(termsOf(end, "c")).toBe(termsOf(end, "a"));
  });

  test("a durable vote: one leader in term 2, and with the bug there are two", () => {
    expect(leadersOf(play("durable-vote 1").end)).toBe("a 2");
    const { end } = play("durable-vote 2");
    expect(leadersOf(end)).toBe("a 2, b 2");
    expect(end.verdict?.promise).toBe("Election safety");
  });
});
