/**
 * Tests how the page is built: the difference of two texts, the marks of statements, the stand-ins
 * for modules of Node, and the index of the source.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import path from "node:path";
import { crc32 } from "node:zlib";
import { raft } from "../project/lines.ts";
import { forSeeds, pick, type Random } from "../support/random.ts";
import { PATIENCE_MS, slow } from "../support/thorough.ts";
import { bugs } from "./bugs.ts";
import { Buffer as Bytes } from "./build/buffer.ts";
import { compare, patch } from "./build/diff.ts";
import { instrument } from "./build/instrument.ts";
import { load } from "./build/programs.ts";
import { indexSource, LAST } from "./build/source.ts";
import { crc32 as checksum } from "./build/stubs/zlib.ts";
import { loadEngine } from "./loader.ts";
import { type Script } from "./state.ts";

setDefaultTimeout(PATIENCE_MS);

const draw = <Element>(random: Random, most: number, make: () => Element): Element[] =>
  Array.from({ length: Math.floor(random() * most) }, make);

describe("the difference of two texts", () => {
  test("makes the one of the other, and has no line that both have in the same order", () => {
    forSeeds(300, (random) => {
      const before = draw(random, 30, () => pick(random, ["a", "b", "c", "{", "}"]));
      const after = before.flatMap((line) =>
        random() < 0.2 ? draw(random, 3, () => pick(random, ["a", "d", "}"])) : [line]
      );
      const hunks = compare(before, after);
      expect(patch(before, hunks)).toEqual(after);
      for (const { at, removed, lines } of hunks) {
        const gone = before.slice(at - 1, at - 1 + removed);
        expect(lines.filter((line) => gone.includes(line))).toEqual([]);
      }
    });
  });

  test("is nothing for equal texts, and one hunk for one changed line", () => {
    expect(compare(["a", "b"], ["a", "b"])).toEqual([]);
    expect(compare(["a", "b", "c"], ["a", "x", "y", "c"])).toEqual([
      { at: 2, removed: 1, lines: ["x", "y"] },
    ]);
  });
});

describe("the marks of statements", () => {
  /** Runs a function `f` with marks, and returns the lines that ran. */
  const runMarked = (source: string, ...args: number[]): number[] => {
    const lines = source.split("\n").length;
    const marked = instrument(source, (line) => line);
    expect(marked.source.split("\n").length).toBe(lines);
    const marks: number[] = [];
    const program = new Bun.Transpiler({ loader: "ts" }).transformSync(marked.source);
    const ran = (mark: number) => marks.push(mark);
    const made: unknown = new Function("ran", `${program}; return f;`)(ran);
    if (typeof made !== "function") throw new Error("The source has no function f.");
    made(...args);
    return [...new Set(marks)];
  };
  const source = [
    "function f(x: number) {",
    "  if (x > 1)",
    "    return 1;",
    "  else if (x === 1)",
    "    return 2;",
    "  for (const y of [1])",
    "    [y].map((z) => z);",
    "  switch (x) {",
    "    case 0:",
    "      return [x].map(",
    "        (z) => z);",
    "    default:",
    "      return 4;",
    "  }",
    "}",
  ].join("\n");

  test("tell which branch ran", () => {
    expect(runMarked(source, 2)).toEqual([2, 3]);
    expect(runMarked(source, 1)).toEqual([2, 4, 5]);
    expect(runMarked(source, 0)).toEqual([2, 4, 6, 7, 8, 10, 11]);
    expect(runMarked(source, -1)).toEqual([2, 4, 6, 7, 8, 13]);
  });

  test("end where their statement ends, or its head", () => {
    const { lastLines } = instrument(source, (line) => line);
    expect(Object.fromEntries(lastLines)).toMatchObject({ 2: 2, 3: 3, 6: 6, 8: 8, 10: 11 });
  });

  test("cover Part I", () => {
    const partI = raft.text.split("\n").slice(0, LAST).join("\n");
    expect(instrument(partI, (line) => line).lastLines.size).toBeGreaterThan(600);
  });
});

slow(
  "the marks of a planted line follow all others, and the rest of Part I keeps its own",
  async () => {
    const [bug] = bugs.filter(({ id }) => id === "14");
    if (!bug) throw new Error("Bug 14 is not in the menu.");
    const cargo = await load(path.join(import.meta.dir, "engine.ts"), [bug.id]);
    const [planted] = cargo.bugs;
    const { lines } = cargo.source;
    expect(planted?.firstMark).toBe(lines.length + 1);
    const added = planted?.source.flatMap((hunk) => hunk.lines) ?? [];
    expect(patch(lines, planted?.source ?? [])).toEqual(expect.arrayContaining(added));
    const run = (script: Script) => {
      const world = loadEngine(cargo, script.bug).open(script);
      const marks = new Set<number>();
      for (let event = 0; event < 1500 && world.forward(); event += 1) {
        for (const mark of world.view().ran) marks.add(mark);
      }
      return marks;
    };
    const { bug: _, ...without } = bug.script;
    const [changed, original] = [run(bug.script), run(without)];
    const isNew = (mark: number) => mark > lines.length;
    expect([...changed].filter(isNew).length).toBeGreaterThan(0);
    expect([...original].filter(isNew)).toEqual([]);
    // Until the bug shows, both run the same lines, apart from those that it replaces.
    const replaced = planted?.source.flatMap(({ at, removed }) =>
      Array.from({ length: removed }, (_, i) => at + i)
    );
    const missing = [...changed].filter((mark) => !isNew(mark) && !original.has(mark));
    expect(missing).toEqual([]);
    expect(replaced?.some((line) => original.has(line))).toBe(true);
    expect(replaced?.some((line) => changed.has(line))).toBe(false);
  },
);

describe("the stand-in for Buffer", () => {
  /** Calls the same with Node's Buffer and with the stand-in. Both must give the same bytes. */
  const both = (call: (Kind: typeof Bytes) => unknown) => {
    const ours = call(Bytes);
    const node = call(Buffer as unknown as typeof Bytes);
    const plain = (value: unknown) => value instanceof Uint8Array ? [...value] : value;
    expect(plain(ours)).toEqual(plain(node));
  };

  test("gives the same bytes, texts and numbers", () => {
    forSeeds(100, (random) => {
      const bytes = Uint8Array.from(draw(random, 20, () => Math.floor(random() * 256)));
      const text = String.fromCodePoint(...draw(random, 9, () => Math.floor(random() * 0xD000)));
      const number = Math.floor(random() * 2 ** 48);
      both((Kind) => Kind.from(text));
      both((Kind) => Kind.byteLength(text));
      both((Kind) => Kind.from(text).toString());
      both((Kind) => Kind.from(bytes).toString("hex"));
      both((Kind) => Kind.concat([bytes, Kind.of(1, 2), bytes]).subarray(1));
      both((Kind) => Kind.alloc(bytes.length, Uint8Array.of(1, 2, 3)));
      both((Kind) => Kind.from(Uint8Array.of(7, ...bytes).buffer, 1, bytes.length));
      both((Kind) => Kind.from(bytes).equals(Kind.from(bytes).subarray(0, 5)));
      both((Kind) => {
        const written = Kind.alloc(20);
        written.writeUIntBE(number, 3, 6);
        written.writeUInt32BE(number % 2 ** 32, 12);
        const read = [written.readUIntBE(3, 6), written.readUInt32BE(12), written.readUInt8(13)];
        return [...written, ...read];
      });
    });
  });

  test("copies bytes, shares buffers, and stays what it is in a part", () => {
    both((Kind) => {
      const source = Uint8Array.of(1, 2, 3);
      const [copy, shared] = [Kind.from(source), Kind.from(source.buffer)];
      source[0] = 9;
      return [...copy, ...shared, Kind.isBuffer(copy.subarray(1)), Kind.isBuffer(source)];
    });
  });

  test("refuses to read beyond its end", () => {
    expect(() => Bytes.alloc(3).readUInt32BE(0)).toThrow(RangeError);
    expect(() => Buffer.alloc(3).readUInt32BE(0)).toThrow(RangeError);
  });
});

test("the stand-in for crc32 gives the same checksums", () => {
  forSeeds(50, (random) => {
    const bytes = Uint8Array.from(draw(random, 50, () => Math.floor(random() * 256)));
    expect(checksum(bytes)).toBe(crc32(bytes));
    expect(checksum(bytes, checksum("before"))).toBe(crc32(bytes, crc32("before")));
  });
});

describe("the index of the source", () => {
  const { lines, sections, methods } = indexSource();

  test("has the sections of Part I, one after the other", () => {
    expect(sections.map(({ number }) => number)).toEqual(
      Array.from({ length: 13 }, (_, i) => i + 1),
    );
    for (const [i, { first, last, readWith, comment }] of sections.entries()) {
      expect(first).toBeLessThan(last);
      expect(sections[i + 1]?.first ?? LAST + 1).toBe(last + 1);
      expect(readWith).not.toBe("");
      expect(comment).not.toBe("");
    }
  });

  test("has each method with its comment, and covers all its lines once", () => {
    expect(methods.length).toBeGreaterThan(120);
    for (const { first, last, passages } of methods) {
      const covered = passages.reduce((sum, passage) => sum + passage.last - passage.first + 1, 0);
      const comments = lines.slice(first - 1, last).filter((line) =>
        /^\s*(\/\/|\/\*\*|\*(\s|\/|$))/.test(line)
      );
      expect(covered + comments.length).toBe(last - first + 1);
    }
  });

  test("names what a method's comments cite, and where it is", () => {
    const method = methods.find(({ name }) => name === "Log.merge");
    expect(method).toMatchObject({ section: 2, cited: ["Figure 2"] });
    expect(method?.passages[0]?.comment).toStartWith("AppendEntries, steps 3 and 4 (Figure 2).");
    expect(lines[(method?.passages[0]?.first ?? 0) - 1]).toStartWith("  merge(");
  });
});
