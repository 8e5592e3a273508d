/** Proves that an address holds a whole scene, and that a damaged one is refused with a reason. */
import { describe, expect, test } from "bun:test";
import { pick, randomFrom } from "../support/random.ts";
import { DEFAULT_SCRIPT, readAddress, type Scene, writeAddress } from "./address.ts";
import { type Act, type Script } from "./state.ts";

const acts: readonly Act[] = [
  { kind: "kill", server: "a" },
  { kind: "restart", server: "b" },
  { kind: "pause", server: "c" },
  { kind: "resume", server: "c" },
  { kind: "wipe", server: "d" },
  { kind: "elapse", server: "e" },
  { kind: "cut", from: "a", to: "b" },
  { kind: "heal", from: "b", to: "a" },
  { kind: "healAll" },
  { kind: "forget" },
  { kind: "partition", groups: [["a", "b"], ["c", "d", "e"]] },
  { kind: "partition", groups: [] },
  { kind: "partition", groups: [[]] },
  { kind: "partition", groups: [["a"], [], ["b"]] },
  { kind: "drop", flight: 17 },
  { kind: "duplicate", flight: 0 },
  { kind: "delay", flight: 18, ms: 12.5 },
  { kind: "propose", key: "x" },
  { kind: "propose", key: "y", value: 0 },
  { kind: "propose", key: "x", at: "a" },
  { kind: "propose", key: "x", value: 12, at: "a" },
  { kind: "read", key: "z" },
  { kind: "read", key: "w", at: "b" },
  { kind: "transfer", to: "b" },
  { kind: "addServer" },
  { kind: "addServer", server: "f" },
  { kind: "removeServer", server: "a" },
  // No name of today needs these characters, but they are the separators of an address.
  { kind: "kill", server: "a.b,c&d=e#f/g+h%i j~'(ü)" },
];

const roundTrip = (scene: Scene) => readAddress(writeAddress(scene));

describe("an address", () => {
  test("holds each act exactly", () => {
    for (const act of acts) {
      const scene = { script: { ...DEFAULT_SCRIPT, acts: [{ event: 3, act }] } };
      expect(roundTrip(scene)).toEqual(scene);
    }
  });

  test("holds whole scenes, and is written the same way again", () => {
    const random = randomFrom(1);
    const draw = (below: number) => Math.floor(random() * below);
    for (let round = 0; round < 300; round++) {
      const script: Script = {
        world: pick(random, ["calm", "chance", "seed"]),
        seed: draw(2 ** 40),
        servers: 1 + draw(7),
        ...(draw(2) ? { bug: pick(random, ["21", "8a"]) } : {}),
        acts: Array.from({ length: draw(9) }, () => ({ event: draw(99), act: pick(random, acts) })),
      };
      const scene: Scene = {
        script,
        ...(draw(2) ? { at: draw(1e6) } : {}),
        ...(draw(2) ? { lesson: "figure-8", part: draw(3) } : {}),
      };
      expect(roundTrip(scene)).toEqual(scene);
      const address = writeAddress(scene);
      expect(address).toMatch(/^#[\w.,=&%/+-]*$/);
      const again = readAddress(address);
      expect("script" in again && writeAddress(again)).toBe(address);
    }
  });

  test("is short and readable", () => {
    const script: Script = {
      world: "calm",
      seed: 7,
      servers: 5,
      acts: [
        { event: 120, act: { kind: "kill", server: "b" } },
        { event: 310, act: { kind: "partition", groups: [["a", "b"], ["c"]] } },
        { event: 311, act: { kind: "addServer" } },
      ],
    };
    expect(writeAddress({ script, at: 402 })).toBe(
      "#world=calm&seed=7&servers=5&acts=120.kill.b,310.partition./a+b/c,311.addServer&at=402",
    );
  });

  test("without anything opens the usual scene", () => {
    expect(readAddress("")).toEqual({ script: DEFAULT_SCRIPT });
    expect(readAddress("#")).toEqual({ script: DEFAULT_SCRIPT });
  });

  test("that is damaged opens no scene and says why", () => {
    const mistakes: readonly (readonly [string, RegExp])[] = [
      ["#world=wild", /the world is "wild", not one of calm, chance, seed/],
      ["#seed=-1", /the seed is "-1"/],
      ["#seed=1.5", /the seed is 1.5; it must be a whole number/],
      ["#seed=", /the seed is ""/],
      ["#seed=1e3", /the seed is "1e3"/],
      ["#servers=8", /number of servers is "8"; it must be a number from 1 to 7/],
      ["#servers=0", /number of servers/],
      ["#at=soon", /the event is "soon"/],
      ["#bug=%E0%A4%A", /is not encoded/],
      ["#acts=5.explode.a", /an act is "explode"/],
      ["#acts=5.toString", /an act is "toString"/],
      ["#acts=x.kill.a", /an act's event is "x"/],
      ["#acts=5.kill", /lacks "server"/],
      ["#acts=5.kill.a.b", /too many parts/],
      ["#acts=5.propose.q", /"key" is "q"/],
      ["#acts=5.delay.1.NaN", /"ms" is "NaN"/],
      ["#acts=", /an act is ""/],
    ];
    for (const [address, reason] of mistakes) {
      const read = readAddress(address);
      expect("mistake" in read ? read.mistake : "no mistake").toMatch(reason);
    }
  });
});
