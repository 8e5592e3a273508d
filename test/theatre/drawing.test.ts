/** Proves the pure parts of the picture: colours, places, words, and what the panel offers. */
import { describe, expect, test } from "bun:test";
import {
  colourOf,
  contrast,
  difference,
  lightOf,
  NO_TERM,
  seenBy,
  TERM_COLOURS,
  VISIONS,
} from "./colours.ts";
import { HELP } from "./controls.ts";
import { makeEngine } from "./engine.ts";
import { arc, between, columnsInView, edgeOf, lane, progress, ringOf } from "./geometry.ts";
import { paragraphsInStep } from "./guide.ts";
import { KEYS } from "./keyboard.ts";
import { contentOf } from "./panel.ts";
import { Run } from "./run.ts";
import { type Act, type Flight, type FlightType, type Instant } from "./state.ts";
import { describeServer, describeStage, shortWords, tellAct, titleOf } from "./words.ts";

const engine = makeEngine();

describe("the colours of terms", () => {
  const seen = Object.values(VISIONS).map((vision) =>
    TERM_COLOURS.map((colour) => seenBy(vision, lightOf(colour)))
  );
  /** The smallest difference between terms that are so far apart, for any eyes. */
  const nearest = (apart: number) =>
    Math.min(
      ...seen.flatMap((colours) =>
        colours.map((colour, at) =>
          difference(colour, colours[(at + apart) % colours.length] ?? colour)
        )
      ),
    );

  test("differ for colour-blind eyes too, most of all those of consecutive terms", () => {
    expect(seen.length).toBe(4);
    expect(nearest(1)).toBeGreaterThan(14);
    expect(nearest(2)).toBeGreaterThan(8.5);
    expect(nearest(3)).toBeGreaterThan(11);
  });

  test("leave dark text readable", () => {
    const text = lightOf("#1b1d22");
    for (const colour of [...TERM_COLOURS, NO_TERM]) {
      expect(contrast(lightOf(colour), text)).toBeGreaterThan(4.5);
    }
  });

  test("repeat after the last one, and term 0 has none", () => {
    const count = TERM_COLOURS.length;
    expect(colourOf(0)).toBe(NO_TERM);
    expect(colourOf(1)).not.toBe(colourOf(2));
    expect(colourOf(count + 1)).toBe(colourOf(1));
  });
});

describe("the ring", () => {
  const sizes = [[360, 300], [560, 380], [640, 430], [900, 500], [1600, 960]] as const;

  test("fits into every stage, and no two servers touch", () => {
    for (const [width, height] of sizes) {
      for (let count = 1; count <= 9; count += 1) {
        const { places, radius } = ringOf(count, width, height);
        expect(places.length).toBe(count);
        for (const { x, y } of places) {
          expect(Math.min(x, width - x)).toBeGreaterThanOrEqual(radius + 8);
          expect(Math.min(y, height - y)).toBeGreaterThanOrEqual(radius + 8);
        }
        places.forEach((one, at) => {
          for (const other of places.slice(at + 1)) {
            const gap = Math.hypot(one.x - other.x, one.y - other.y) - 2 * radius;
            expect(gap, `${count} servers on ${width} x ${height}`).toBeGreaterThan(15);
          }
        });
      }
    }
  });

  test("gives each direction of a link a lane of its own", () => {
    const [a, b] = [{ x: 0, y: 0 }, { x: 100, y: 0 }];
    expect(lane(a, b, 20, 5)).toEqual([{ x: 20, y: 5 }, { x: 80, y: 5 }]);
    expect(lane(b, a, 20, 5)).toEqual([{ x: 80, y: -5 }, { x: 20, y: -5 }]);
  });

  test("moves a message from its sender to its receiver", () => {
    expect(progress(5, 10, 20)).toBe(0);
    expect(progress(15, 10, 20)).toBe(0.5);
    expect(progress(25, 10, 20)).toBe(1);
    expect(progress(10, 10, 10)).toBe(1);
    expect(between([{ x: 0, y: 0 }, { x: 10, y: 20 }], 0.5)).toEqual({ x: 5, y: 10 });
    expect(edgeOf(30, 10, { x: 1, y: 0 })).toBe(30);
    expect(edgeOf(30, 10, { x: 0, y: -1 })).toBe(10);
    expect(edgeOf(30, 10, { x: 0, y: 0 })).toBe(0);
  });

  test("draws a timer as an arc that begins at the top", () => {
    expect(arc(10, 0)).toBe("");
    expect(arc(10, 0.25)).toBe("M0 -10.0A10 10 0 0 1 10.0 -0.0");
    expect(arc(10, 0.75)).toBe("M0 -10.0A10 10 0 1 1 -10.0 0.0");
    // A full circle must not end where it begins: nothing would be drawn.
    expect(arc(10, 1)).toStartWith("M0 -10.0A10 10 0 1 1 -0.1");
  });
});

test("the columns in view include the last entry, and move seldom", () => {
  expect(columnsInView([0, 0, 0], 10)).toEqual({ first: 1, count: 10 });
  expect(columnsInView([10], 10)).toEqual({ first: 1, count: 10 });
  let moves = 0;
  let before = 1;
  for (let last = 1; last < 100; last += 1) {
    const { first, count } = columnsInView([last, 3], 10);
    expect(last).toBeLessThan(first + count);
    expect(last).toBeGreaterThanOrEqual(first);
    if (first !== before) moves += 1;
    before = first;
  }
  expect(moves).toBeLessThan(26);
  expect(moves).toBeGreaterThan(10);
});

/** A calm run of three servers that has a leader and a committed write. */
function calmRun(): Run {
  const run = new Run(engine, { world: "calm", seed: 1, servers: 3, acts: [] });
  const isLed = ({ servers }: Instant) => servers.some(({ role }) => role === "Leader");
  while (!isLed(run.current)) expect(run.forward()).toBeTrue();
  run.act({ kind: "propose", key: "x" });
  const isDone = ({ servers }: Instant) =>
    servers.every(({ entries, commitIndex }) =>
      entries.some(({ kind, index }) => kind === "commands" && index <= commitIndex)
    );
  while (!isDone(run.current)) expect(run.forward()).toBeTrue();
  return run;
}

describe("words", () => {
  const flight = (type: FlightType): Flight => ({
    ...{ id: 1, from: "a", to: "b", type, label: "", fields: [], sentMs: 0, arriveMs: 1 },
  });

  test("name the leader, the servers, cut links and messages of a stage", () => {
    const run = calmRun();
    const [leader] = run.current.servers.filter(({ role }) => role === "Leader");
    if (!leader) throw new Error("There is no leader.");
    const others = run.current.servers.filter((server) => server !== leader);
    run.act({ kind: "cut", from: leader.name, to: others[0]?.name ?? "" });
    const words = describeStage(run.current);
    expect(words).toContain(`${leader.name} leads term ${leader.currentTerm}.`);
    for (const server of run.current.servers) expect(words).toContain(describeServer(server));
    expect(words).toContain(`Cut links: ${leader.name} to ${others[0]?.name}.`);
    expect(describeServer(leader)).toMatch(/^[abc]: leader, term 1, .*committed [3-9]\.$/);
    // A leader that is removed leads until its removal is committed.
    const removed = { ...leader, isMember: false };
    expect(describeServer(removed)).toStartWith(`${leader.name}: leader, removed, `);
  });

  test("tell the messages apart", () => {
    const types: readonly FlightType[] = [
      ...["RequestVote", "RequestVoteReply", "AppendEntries", "AppendEntriesReply"] as const,
      ...["InstallSnapshot", "InstallSnapshotReply", "TimeoutNow", "Removed", "Request"] as const,
      ...["Reply", "ReadIndex", "ReadIndexReply", "Probe", "Refusal", "Restarted"] as const,
    ];
    const short = types.map((type) => shortWords(flight(type)));
    expect(new Set(short).size).toBe(types.length);
    for (const words of short) expect(words.length).toBeWithin(4, 13);
    expect(shortWords({ ...flight("RequestVote"), preVote: true })).toBe("pre-vote?");
    expect(shortWords({ ...flight("RequestVoteReply"), success: true })).toBe("vote: yes");
    expect(shortWords({ ...flight("AppendEntries"), entries: [] })).toBe("heartbeat");
    expect(titleOf({ ...flight("AppendEntries"), entries: [] })).toBe("AppendEntries (heartbeat)");
    expect(titleOf(flight("InstallSnapshotReply"))).toBe("InstallSnapshot reply");
  });
});

describe("the panel", () => {
  const labels = (instant: Instant, selection: Parameters<typeof contentOf>[1]) =>
    contentOf(instant, selection).groups.flatMap(({ choices }) => choices)
      .map(({ label, does }) => `${label}: ${does.kind === "select" ? "select" : tellAct(does)}`);

  test("shows a server in Figure 2's names, and a leader's view of the others", () => {
    const { current } = calmRun();
    const leading = current.servers.find(({ role }) => role === "Leader");
    const leader = leading?.name ?? "";
    const facts = contentOf(current, { kind: "server", name: leader }).facts;
    const value = (name: string) => facts.find((fact) => fact.name === name)?.value;
    expect(value("currentTerm")).toBe("1");
    expect(value("votedFor")).toBe(leader);
    expect(value("commitIndex")).toBe(`${leading?.commitIndex}`);
    expect(value("lastApplied")).toBe(`${leading?.lastApplied}`);
    const others = leading?.followers?.map(({ name, matchIndex }) => `${name}:${matchIndex}`);
    expect(others?.length).toBe(2);
    expect(value("matchIndex[]")).toBe(others?.join(" ") ?? "");
    expect(value("nextIndex[]")).toMatch(/^[abc]:\d+ [abc]:\d+$/);
  });

  test("offers what fits: kill or restart, pause or resume, cut or heal", () => {
    const run = new Run(engine, { world: "calm", seed: 1, servers: 3, acts: [] });
    const a = { kind: "server", name: "a" } as const;
    expect(labels(run.current, a)).toContain("Kill: kill a");
    expect(labels(run.current, a)).toContain("a → b: cut a to b");
    const acts: readonly Act[] = [{ kind: "pause", server: "a" }, {
      kind: "cut",
      from: "a",
      to: "b",
    }];
    for (const act of acts) run.act(act);
    expect(labels(run.current, a)).toContain("Resume: resume a");
    expect(labels(run.current, a)).toContain("a → b: heal a to b");
    expect(labels(run.current, a)).toContain("b → a: cut b to a");
    run.act({ kind: "kill", server: "a" });
    expect(labels(run.current, a)).toContain("Restart: restart a");
    expect(labels(run.current, a)).not.toContain("Kill: kill a");
    expect(labels(run.current, { kind: "link", from: "a", to: "b" })).toEqual([
      "a → b: heal a to b",
      "b → a: cut b to a",
    ]);
  });

  test("tells where an entry is, and follows a message until it arrives", () => {
    const run = calmRun();
    const entry = contentOf(run.current, { kind: "entry", server: "a", index: 1 });
    const value = (name: string) => entry.facts.find((fact) => fact.name === name)?.value;
    expect(value("same entry at")).toBe("a b c");
    expect(value("committed at")).toBe("a b c");
    expect(value("another entry at")).toBe("none");
    while (run.current.flights.length === 0) expect(run.forward()).toBeTrue();
    const id = run.current.flights[0]?.id ?? -1;
    expect(labels(run.current, { kind: "flight", id })).toContain(`Drop: drop message ${id}`);
    run.act({ kind: "drop", flight: id });
    while (run.current.flights.some((one) => one.id === id)) expect(run.forward()).toBeTrue();
    expect(contentOf(run.current, { kind: "flight", id }).title).toBe("Delivered");
  });
});

test("the card of keys lists every key", () => {
  const names: Readonly<Record<string, string>> = {
    " ": "Space",
    ArrowLeft: "←",
    ArrowRight: "→",
    Escape: "Esc",
    "=": "+", // The same key, without Shift.
  };
  const listed = HELP.flatMap(([keys]) => keys.split("  "));
  expect(KEYS.length).toBeGreaterThan(20);
  expect(KEYS.filter((key) => !listed.includes(names[key] ?? key))).toEqual([]);
});

test("a lesson's text ends where the visitor goes another way", () => {
  const script = {
    ...{ world: "calm", seed: 1, servers: 3 } as const,
    acts: [{ event: 10, act: { kind: "kill", server: "a" } }] as const,
  };
  const paragraphs = [5, 10, 20].map((event) => ({ event, text: `${event}` }));
  const eventsWith = (acts: Parameters<typeof paragraphsInStep>[1]) =>
    paragraphsInStep({ script, paragraphs }, acts).map(({ event }) => event);
  expect(eventsWith(script.acts)).toEqual([5, 10, 20]);
  expect(eventsWith([{ event: 7, act: { kind: "healAll" } }])).toEqual([5]);
  expect(eventsWith([...script.acts, { event: 15, act: { kind: "healAll" } }])).toEqual([5, 10]);
});
