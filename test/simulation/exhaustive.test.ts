/**
 * Tests that no order of messages breaks a promise in a few small worlds, and that the search finds
 * planted bugs. The search visits each state of a world, up to a maximum number of states.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { inCopy, planted } from "../catalogue.ts";
import { BOUNDS, commandOf, explore, report, SCENES, tellStory } from "../exhaustive.ts";
import { isThorough } from "../support/thorough.ts";
import type { Bounds } from "./exhaustive/cluster.ts";
import { HashSet, Queue } from "./exhaustive/lexicon.ts";
import { noSights, Search, type Sights } from "./exhaustive/search.ts";
import { unknownFields } from "./exhaustive/server.ts";
import { read, write } from "./exhaustive/story.ts";

setDefaultTimeout(300_000);
/** The thorough run visits ten times as many states. */
const FACTOR = isThorough ? 10 : 1;

type World = { name: string; after: keyof typeof SCENES; states: number; bounds: Partial<Bounds> };
const worlds: readonly World[] = [
  { name: "all inputs, from the beginning", after: "beginning", states: 100_000, bounds: {} },
  { name: "a leader is replaced", after: "succession", states: 50_000, bounds: {} },
  { name: "two leaders", after: "rivals", states: 50_000, bounds: { terms: 4 } },
  { name: "a leader that has already answered", after: "answered", states: 30_000, bounds: {} },
  { name: "two inputs in a turn", after: "elected", states: 30_000, bounds: { inputs: 2 } },
  {
    name: "servers request pre-votes",
    after: "beginning",
    states: 30_000,
    bounds: { preVotes: true },
  },
];

describe("no state breaks a promise:", () => {
  const sum: Sights = noSights();
  let states = 0;

  test.each(worlds.map((world) => [world.name, world] as const))("%s", (_, world) => {
    const search = new Search({ ...BOUNDS, ...world.bounds }, FACTOR * world.states);
    const found = explore(search, world.after);
    if (found) {
      throw new Error(
        `${found.sentence}\n${tellStory(found.path, search.bounds)}\n`
          + commandOf(found.path, search.bounds),
      );
    }
    expect(search.states).toBeGreaterThanOrEqual(FACTOR * world.states);
    states += search.states;
    for (const name of Object.keys(sum) as (keyof Sights)[]) sum[name] += search.sights[name];
    console.log(report(search));
  });

  test("every kind of state occurs", () => {
    expect(states).toBeGreaterThan(FACTOR * 200_000);
    for (const [name, count] of Object.entries(sum)) {
      expect(count, `states of the kind ${name}`).toBeGreaterThan(20);
    }
  });

  test("one term without commands, all of its states", () => {
    const bounds = { ...BOUNDS, terms: 1, commands: 0, reads: 0, beats: 0 };
    const search = new Search(bounds, 100_000);
    expect(explore(search)).toBeUndefined();
    expect(search.isComplete).toBe(true);
    expect(search.states).toBeGreaterThan(1_000);
  });
});

describe("the search", () => {
  test.each([
    ["in one term", { ...BOUNDS, terms: 1, commands: 0, reads: 0, beats: 0 }, 99],
    ["in seven steps", BOUNDS, 7],
  ])(
    "finds as much if it treats states that differ only in names as equal, %s",
    (_, bounds, deepest) => {
      const least = new Search(bounds, 200_000, deepest);
      const classes = new HashSet(200_000);
      const all = new Search(bounds, 200_000, deepest, classes);
      expect([explore(least), explore(all)]).toEqual([undefined, undefined]);
      expect([least.isComplete, all.isComplete]).toEqual([true, true]);
      expect(classes.size + 1).toBe(least.states); // `classes` does not contain the first state.
      expect(all.states).toBeGreaterThan(4 * least.states);
    },
  );

  test("knows every field of a server", () => {
    expect(unknownFields()).toEqual([]);
  });

  test("writes a path as it was read", () => {
    const path = "a.timer,0,2,5.late,b.propose.stay,7.die,c.crash,a.read,a.beat";
    expect(write(read(path))).toBe(path);
    expect(() => read("a.timer,d.crash")).toThrow("\"d.crash\" is no action");
  });

  test("replays every scene without a violation", () => {
    for (const [name, path] of Object.entries(SCENES)) {
      expect(tellStory(read(path), BOUNDS), name).toEndWith("No violation.");
    }
  });

  test("recognizes known states, and only those", () => {
    const set = new HashSet(1_000);
    const pairs = Array.from({ length: 1_000 }, (_, i) => [i % 10, Math.floor(i / 10)] as const);
    expect(pairs.filter(([low, high]) => set.add(low, high))).toHaveLength(999); // 0 0 is 1 0.
    expect(pairs.filter(([low, high]) => set.add(low, high))).toEqual([]);
    expect(set.size).toBe(999);
  });

  test("returns every queued state in order", () => {
    const queue = new Queue();
    for (let i = 0; i < 600_000; i += 1) queue.push(i);
    let wrong = 0;
    for (let i = 0; i < 600_000; i += 1) if (queue.shift() !== i) wrong += 1;
    expect(wrong).toBe(0);
    expect(queue.isEmpty).toBe(true);
  });
});

if (isThorough) describe("finds", findPlantedBugs);

function findPlantedBugs(): void {
  type Plant = { id: string; flags: string; sentence: string };
  const alone = "--commands 0 --reads 0 --crashes 0 --beats 0";
  const plants: readonly Plant[] = [
    { id: "1", flags: "", sentence: "A term is durable before a message of that term leaves" },
    { id: "3", flags: "", sentence: "One vote per term" },
    { id: "4", flags: `${alone} --commands 1 --after longer`, sentence: "Leader completeness" },
    { id: "5", flags: "", sentence: "Leader completeness" },
    {
      id: "14",
      flags: `${alone} --after figure8`,
      sentence: "Only a leader commits, and by an entry of its own term",
    },
    { id: "16", flags: "", sentence: "Only conflicting entries are deleted" },
    { id: "17", flags: `${alone} --commands 1 --after longer`, sentence: "Log matching" },
    { id: "19", flags: "", sentence: "A follower keeps the entries that it has acknowledged" },
    { id: "20", flags: "", sentence: "Only durable entries are acknowledged" },
    {
      id: "25",
      flags: `${alone} --reads 1 --after gap`,
      sentence: "Reads are linearizable",
    },
    {
      id: "26",
      flags: `${alone} --reads 1 --after succession`,
      sentence: "Reads are linearizable",
    },
    {
      id: "60",
      flags: "--inputs 2 --after answered",
      sentence: "A committed entry is on a majority of disks",
    },
    { id: "70", flags: "", sentence: "A vote is durable before it is given" },
  ];
  const rows = plants.map((plant) =>
    [planted.find(({ id }) => id === plant.id)?.name ?? `no. ${plant.id}`, plant] as const
  );

  test.each(rows)("%s", async (name, { id, flags, sentence }) => {
    const bug = planted.find((one) => one.id === id);
    if (!bug) throw new Error(`the catalogue has no bug ${id}`);
    const run = async (directory: string, args: string) => {
      const child = Bun.spawn([process.execPath, "test/exhaustive.ts", ...args.split(/ +/)], {
        cwd: directory,
        stdout: "pipe",
        stderr: "pipe",
      });
      const output = await new Response(child.stdout).text();
      return { output, code: await child.exited };
    };
    await inCopy(bug, async (directory) => {
      const { output, code } = await run(directory, `--states 250000 ${flags}`.trim());
      expect(output).toContain(`VIOLATION  ${sentence}: `);
      expect(code).toBe(1);
      const [states] = output.split(" ");
      const [, steps] = /^after (\d+) steps/m.exec(output) ?? [];
      console.log(`${id}. ${name} ${states} states, ${steps} steps`);
      // The command that the story ends with tells the same again.
      const [, replay = ""] = /bun test\/exhaustive\.ts (--replay .*)$/m.exec(output) ?? [];
      const again = await run(directory, replay);
      expect(again.output).toContain(`VIOLATION  ${sentence}: `);
      expect(again.code).toBe(1);
    });
  });
}
