/** Tests the lists of the key-value store: order, prefixes, pages, and changes between two pages. */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { KeyValues, KeyValueStore, MAX_ANSWER_BYTES } from "../../raft.ts";
import { World } from "../support/nodes.ts";
import { pick, type Random, randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

const bytes = (text: string) => Buffer.from(text, "latin1");
const text = (raw: Uint8Array) => Buffer.from(raw).toString("latin1");

/** A store without servers, with a copy of its content, and the answers to its questions. */
class Watched {
  readonly store = new KeyValueStore();
  readonly values = new Map<string, string>();
  readonly pages: Uint8Array[] = [];
  /** Called between two pages. */
  onPage = () => {};
  readonly calls = new KeyValues({
    propose: async (command) => this.store.apply(command),
    read: async (question) => {
      if (this.pages.length > 0) this.onPage();
      const page = this.store.query(question);
      this.pages.push(page);
      return page;
    },
  });

  async put(key: string, value: string) {
    await this.calls.put(bytes(key), bytes(value));
    this.values.set(key, value);
  }

  async delete(key: string) {
    expect(await this.calls.delete(bytes(key))).toBe(this.values.delete(key));
  }

  async list(prefix: string, keysOnly = false) {
    const pairs: string[][] = [];
    for await (const pair of this.calls.list({ prefix: bytes(prefix), keysOnly })) {
      pairs.push(pair.map(text));
      for (const each of pair) each.fill(0xee); // The program may overwrite what it gets.
    }
    return pairs;
  }

  /** Returns what a list must show. */
  expected(prefix: string, keysOnly = false) {
    return [...this.values.keys()].filter((key) => key.startsWith(prefix))
      .sort((a, b) => Buffer.compare(bytes(a), bytes(b)))
      .map((key) => [key, keysOnly ? "" : this.values.get(key) ?? ""]);
  }
}

/** Draws a key of any bytes, of a few letters, or of a number that grows. */
function drawKey(random: Random, n: number): string {
  const kind = random();
  if (kind < 0.3) return `row ${String(n).padStart(7, "0")}`;
  const letters = kind < 0.6 ? "ab\0\xff" : "";
  return Array.from(
    { length: Math.floor(7 * random()) },
    () => letters ? pick(random, [...letters]) : String.fromCharCode(256 * random()),
  ).join("");
}

describe("a list", () => {
  test("has the keys with a prefix in the order of their bytes, after any changes", async () => {
    for (const seed of [1, 2, 3, 4, 5, 6]) {
      const random = randomFrom(seed);
      const watched = new Watched();
      for (let round = 0; round < 6; round += 1) {
        for (let i = 0; i < 700; i += 1) {
          await watched.put(drawKey(random, 1000 * round + i), `${i}`);
          const known = [...watched.values.keys()];
          if (random() < (round > 2 ? 0.9 : 0.2)) await watched.delete(pick(random, known));
        }
        // The list is read to its end, or only begun, while the keys are put in order.
        for (const prefix of ["", "a", "ab", "\xff", "row 0", "none"]) {
          const keysOnly = random() < 0.3;
          if (random() < 0.3) await watched.calls.list({ prefix: bytes(prefix) }).next();
          else {expect(await watched.list(prefix, keysOnly)).toEqual(
              watched.expected(prefix, keysOnly),
            );}
        }
      }
    }
  });

  test("is empty again after all keys were deleted, and fills again", async () => {
    const watched = new Watched();
    const keys = Array.from({ length: 3000 }, (_, i) => `${i}`);
    for (const key of keys) await watched.put(key, "");
    expect(await watched.list("")).toHaveLength(3000);
    for (const key of keys) await watched.delete(key);
    expect(await watched.list("")).toEqual([]);
    for (const key of keys) await watched.put(key, "");
    expect(await watched.list("29")).toEqual(watched.expected("29"));
  });

  test("shows a restored state", async () => {
    const [watched, other] = [new Watched(), new Watched()];
    await other.put("new", "1");
    await watched.put("old", "1");
    expect(await watched.list("")).toEqual([["old", "1"]]);
    const take = watched.store.restore();
    for (const chunk of other.store.snapshot()) take(chunk);
    expect(await watched.list("")).toEqual([["new", "1"]]);
  });

  test("has pages that fit an answer, which show each unchanged key once", async () => {
    for (const seed of [1, 2, 3]) {
      const random = randomFrom(seed);
      const watched = new Watched();
      for (let i = 0; i < 2500; i += 1) await watched.put(`stays ${i}`, "x".repeat(100));
      for (let i = 0; i < 500; i += 1) await watched.put(`comes ${i}`, "x".repeat(100));
      watched.onPage = () => {
        for (let i = 0; i < 30; i += 1) {
          const key = `comes ${Math.floor(1000 * random())}`;
          void (random() < 0.5 ? watched.put(key, "") : watched.delete(key));
        }
      };
      const keys = (await watched.list("")).map(([key = ""]) => key);
      expect(keys).toEqual([...new Set(keys)].sort());
      expect(keys.filter((key) => key.startsWith("stays"))).toHaveLength(2500);
      expect(await watched.list("stays")).toHaveLength(2500);
      expect(watched.pages.length).toBeGreaterThan(5);
      for (const page of watched.pages) expect(page.length).toBeLessThanOrEqual(MAX_ANSWER_BYTES);
    }
  });

  test("puts few keys in order with each page, so that a large store is not blocked", async () => {
    const watched = new Watched();
    for (let i = 0; i < 20_000; i += 1) await watched.put(`${i * 7919 % 20_000}`, "");
    expect(await watched.list("1999")).toEqual(watched.expected("1999"));
    expect(watched.pages.length).toBeGreaterThan(20);
    // New keys help, so that a list that was only begun does not keep deleted keys forever.
    const begun = new Watched();
    for (let i = 0; i < 2000; i += 1) await begun.put(`${i}`, "");
    await begun.calls["via"].read(Buffer.of(4, 0, 0, 0, 0));
    for (let i = 2000; i < 4000; i += 1) await begun.put(`${i}`, "");
    expect(await begun.list("")).toEqual(begun.expected(""));
    expect(begun.pages.length).toBeLessThan(5);
  });

  test("has the largest keys and values, through a client and through each server", () => {
    const world = new World().found();
    const { simulation } = world;
    const room = 64_000 - 9;
    const largest = [Buffer.alloc(room, "k"), Buffer.alloc(room - 1, "k")];
    const store = new KeyValues(world.client());
    simulation.settle(store.put(bytes("a"), Buffer.alloc(room - 1, "v")));
    for (const [i, key] of largest.entries()) {
      simulation.settle(store.put(key, Buffer.alloc(i, "v")));
    }
    for (const via of [world.client(), ...world.nodes.values()]) {
      const list = async (prefix: Buffer) => {
        const sizes: number[][] = [];
        for await (const pair of new KeyValues(via).list({ prefix })) {
          sizes.push(pair.map(({ length }) => length));
        }
        return sizes;
      };
      const both = [[room - 1, 1], [room, 0]];
      expect(simulation.settle(list(bytes("")))).toEqual([[1, room - 1], ...both]);
      expect(simulation.settle(list(Buffer.alloc(room - 1, "k")))).toEqual(both);
    }
  });
});
