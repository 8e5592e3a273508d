/**
 * Visits all states of a small world: three servers, a few terms and entries. In every state the
 * search tries all possible next steps. Any message that was ever sent may arrive, once, several
 * times or never, in any order. Timers expire. The power fails between two steps, or between the
 * early sends of a step and its save. The simulator runs a few long histories. This search runs all
 * short ones, and prints the shortest history of a violation.
 *
 *   bun test/exhaustive.ts --states 10000000 [--depth N]
 *     --terms N --commands N --reads N --crashes N --beats N    the most of each kind
 *     --inputs N     the most inputs in one turn of a server
 *     --pre-votes    candidates ask for pre-votes first; otherwise they campaign directly
 *     --after PATH   start at the end of a path, or of a scene such as "figure8"
 *   bun test/exhaustive.ts --replay PATH [the same flags]    prints the steps of a path
 */
import type { Bounds } from "./simulation/exhaustive/cluster.ts";
import { type Action, Search } from "./simulation/exhaustive/search.ts";
import { messages, servers } from "./simulation/exhaustive/server.ts";
import { follow, read, write } from "./simulation/exhaustive/story.ts";
import { Violation } from "./simulation/judge.ts";
import { readFlags } from "./support/flags.ts";

export const BOUNDS: Bounds = {
  terms: 3,
  commands: 2,
  reads: 1,
  crashes: 1,
  beats: 1,
  inputs: 1,
  preVotes: false,
};

/** Named paths. A search may start at the end of one of them. */
export const SCENES = {
  beginning: "",
  /** "a" has just been elected by "b", and its first message is still in flight. */
  elected: "a.timer,0,2",
  /** "a" leads in term 1, and "b", elected by "c", in term 2. No other server has their entries. */
  rivals: "a.timer,0,2,b.timer,6,7",
  /** As `rivals`, but "a" has two entries, and "b" one of a later term. */
  longer: "a.timer,0,2,a.propose,b.timer,6,7",
  /** As `rivals`, and then "a" learns of term 2, but gets no entry: (b) in Figure 8. */
  figure8: "a.timer,0,2,b.timer,6,7,5.late",
  /** The first entry of "a" is committed, and "b", which has it, leads in term 2. */
  succession: "a.timer,0,2,3,5,b.timer,7,8",
  /** As `succession`, and then "c", which lacks that entry, refuses the next one. */
  gap: "a.timer,0,2,3,5,b.timer,7,8,10",
  /** "a" has sent a second entry to "b" and "c", and has not yet saved it. */
  answered: "a.timer,0,2,3,5.stay,a.propose",
} as const;

/** A violation, and the path to it. */
export type Found = { sentence: string; path: Action[] };

/** Visits states up to the limits of the search. Returns the shortest path to a violation. */
export function explore(search: Search, after = ""): Found | undefined {
  const before = read(SCENES[after as keyof typeof SCENES] ?? after);
  const start = follow(before, search.bounds);
  try {
    search.run(start);
    return undefined;
  } catch (error) {
    const sentence = error instanceof Error ? error.message : String(error);
    return { sentence, path: [...before, ...search.path()] };
  }
}

const flagsOf = (bounds: Bounds) =>
  Object.entries({
    terms: bounds.terms,
    commands: bounds.commands,
    reads: bounds.reads,
    crashes: bounds.crashes,
    beats: bounds.beats,
    inputs: bounds.inputs,
  })
    .map(([name, value]) => `--${name} ${value}`).join(" ")
  + (bounds.preVotes ? " --pre-votes" : "");

const count = (value: number) => value.toLocaleString("en-US");

export function report(search: Search): string {
  const { sights, byTerm, byDepth, completeDepth, bounds, isComplete, deepest } = search;
  const pairs = Object.entries(sights).map(([what, states]) =>
    `  ${what.padEnd(22)} `
    + `${count(states).padStart(12)}`
  );
  const rows = (list: readonly number[]) =>
    Array.from(list, (states, i) => `${i}: ${count(states ?? 0)}`).join("  ");
  // Two hashes of 64 bits are equal by chance. The least of six is, a little more often.
  const chance = (36 / 11) * search.states ** 2 / 2 ** 65;
  return [
    `${count(search.states)} distinct states, ${count(search.transitions)} steps; `
    + (!isComplete ? "not all states" : deepest === Infinity
      ? "all states"
      : `all states up to ${deepest} steps away`),
    `bounds: ${flagsOf(bounds)}`,
    `complete up to ${completeDepth} steps${isComplete ? "" : ", and partly one step further"}`,
    `by steps:  ${rows(byDepth)}`,
    `by term:   ${rows(byTerm)}`,
    `${count(servers.size)} states of a server, ${count(messages.hashes.size)} messages`,
    `probability that two states were confused: ${chance.toExponential(1)}`,
    "states with these events or contents:",
    ...pairs,
  ].join("\n");
}

/** Returns the command that replays a path. */
export const commandOf = (path: readonly Action[], bounds: Bounds): string =>
  `bun test/exhaustive.ts --replay ${write(path)} ${flagsOf(bounds)}`;

/** Returns the steps of a path as text, and its violation, if any. */
export function tellStory(path: readonly Action[], bounds: Bounds): string {
  const lines: string[] = [];
  try {
    follow(path, bounds, (line) => lines.push(line));
    lines.push("No violation.");
  } catch (error) {
    lines.push(error instanceof Violation ? `VIOLATION  ${error.message}` : String(error));
  }
  return lines.join("\n");
}

function main(): number {
  const number = { type: "string" } as const;
  const values = readFlags(import.meta.path, {
    states: { ...number, default: "100000" },
    depth: number,
    terms: number,
    commands: number,
    reads: number,
    crashes: number,
    beats: number,
    inputs: number,
    "pre-votes": { type: "boolean" },
    after: { ...number, default: "" },
    replay: number,
  });
  const of = (name: Exclude<keyof Bounds, "preVotes">) => Number(values[name] ?? BOUNDS[name]);
  const bounds = {
    terms: of("terms"),
    commands: of("commands"),
    reads: of("reads"),
    crashes: of("crashes"),
    beats: of("beats"),
    inputs: of("inputs"),
    preVotes: values["pre-votes"] ?? false,
  };
  if (values.replay !== undefined) {
    const story = tellStory(read(values.replay), bounds);
    console.log(story);
    return story.endsWith("No violation.") ? 0 : 1;
  }
  const search = new Search(bounds, Number(values.states), Number(values.depth ?? Infinity));
  const startedAt = performance.now();
  const found = explore(search, values.after);
  console.log(report(search));
  const { rss } = process.memoryUsage();
  const seconds = (performance.now() - startedAt) / 1000;
  console.log(`${seconds.toFixed(1)} s, ${Math.round(rss / 2 ** 20)} MiB`);
  if (!found) return 0;
  console.log(
    `\nVIOLATION  ${found.sentence}\nafter ${found.path.length} steps:\n\n`
      + `${tellStory(found.path, bounds)}\n\nTo run this path again: ${
        commandOf(found.path, bounds)
      }`,
  );
  return 1;
}

if (import.meta.main) process.exitCode = main();
