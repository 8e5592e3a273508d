/**
 * Tests that the checker of linearizability is right in both directions: it accepts every history
 * that one store explains, and rejects every other.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { KeyValueStore } from "../../raft.ts";
import { forSeeds, isReplay, type Random } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { answerOf, askStore } from "../support/wire.ts";
import { type Call } from "./full/workload.ts";
import { checkLinearizable } from "./linearizability.ts";

setDefaultTimeout(PATIENCE_MS);

const NEVER = Number.POSITIVE_INFINITY;

/**
 * Reads a history that is drawn: a line per client, `[` where it asks and `]` where it is answered,
 * which it never is if that is missing.
 *
 *     a  [put 1]    [get: 1]
 *     b      [cas 1 -> 2: true ]
 */
function draw(...lines: string[]): Call[] {
  return lines.flatMap((line) =>
    [...line.matchAll(/\[([^\][]+)(\]?)/g)].map(({ index, 0: all, 1: text = "", 2: end }) => {
      const [, what, args = "", result] = /^(\w+)([^:]*)(?:: *(.*?))? *$/.exec(text) ?? [];
      const [first, second] = args.split("->").map((word) => valueOf(word.trim()));
      const returned = end === "" ? NEVER : index + all.length;
      const isCas = what === "cas";
      return {
        who: line.slice(0, 1),
        what: what as Call["what"],
        key: "x",
        value: isCas ? second : first,
        expected: isCas ? first : undefined,
        invoked: index,
        returned,
        result: end === "" ? undefined : what === "put" ? true : resultOf(result),
      };
    })
  );
}

const valueOf = (word: string | undefined) => word === "" || word === "none" ? undefined : word;
const resultOf = (word: string | undefined) =>
  word === "true" || word === "false" ? word === "true" : valueOf(word);

const legal: [sentence: string, ...lines: string[]][] = [
  ["Nothing happened."],
  ["A key that was never written has no value.", "a [get: none]"],
  ["A read sees the write before it.", "a [put 1] [get: 1]", "b              [get: 1]"],
  ["A read under way with a write may see it.", "a [put 1         ]", "b     [get: 1]"],
  ["A read under way with a write need not see it.", "a [put 1         ]", "b     [get: none]"],
  [
    "Two writes at once may come in either order: the one that was asked first comes last.",
    "a [put 1   ]",
    "b   [put 2   ] [get: 1]",
  ],
  [
    "Two writes at once may come in either order: the one that was asked last comes last.",
    "a [put 1   ]",
    "b   [put 2   ] [get: 2]",
  ],
  [
    "Reads at once with a write see it one after the other.",
    "a [put 1                      ]",
    "b    [get: none] [get: 1]",
    "c         [get: 1      ]",
  ],
  ["A write without an answer is seen late.", "a [put 1", "b          [get: none] [get: 1]"],
  ["A write without an answer is seen never.", "a [put 1", "b          [put 2] [get: 2] [get: 2]"],
  [
    "A write without an answer comes after a write that was answered.",
    "a [put 1",
    "b          [put 2] [get: 2] [get: 1]",
  ],
  ["A read without an answer says nothing.", "a [get", "b   [put 1] [get: 1]"],
  ["A delete tells that there was a value.", "a [put 1] [delete: true] [get: none]"],
  ["A delete tells that there was none.", "a [delete: false] [put 1]"],
  [
    "Of two deletes at once one finds the value.",
    "a [put 1] [delete: false   ]",
    "b              [delete: true]",
  ],
  [
    "A delete without an answer explains that the value is gone.",
    "a [put 1] [delete",
    "b                     [get: 1] [get: none]",
  ],
  ["A compare and set finds what it expects.", "a [put 1] [cas 1 -> 2: true] [get: 2]"],
  [
    "A compare and set that finds something else changes nothing.",
    "a [put 1] [cas 3 -> 2: false] [get: 1]",
  ],
  [
    "A compare and set expects that there is no value.",
    "a [cas none -> 1: true] [cas none -> 2: false] [get: 1]",
  ],
  [
    "Of two that compare and set at once, one finds its value.",
    "a [put 1]",
    "b           [cas 1 -> 2: true ]",
    "c           [cas 1 -> 3: false]",
  ],
  [
    "Two that compare and set at once, one after the other's value.",
    "a [put 1]",
    "b           [cas 2 -> 3: true ]",
    "c           [cas 1 -> 2: true ]",
  ],
  [
    "A compare and set without an answer is seen by a later one.",
    "a [put 1] [cas 1 -> 2",
    "b                 [cas 2 -> 3: true]",
  ],
  [
    "Calls without an answer follow one another, unseen, to what is seen.",
    "a [put 1",
    "b [cas 1 -> 2",
    "c [cas 2 -> 3",
    "d                  [get: none] [get: 3]",
  ],
  [
    "A compare and set fails because of a write without an answer.",
    "a [put 1] [put 2",
    "b                  [cas 1 -> 3: false] [get: 2]",
  ],
  [
    "The same value is written twice and read after each.",
    "a [put 1] [get: 1] [put 2] [get: 2] [put 1] [get: 1]",
  ],
];

const illegal: [sentence: string, ...lines: string[]][] = [
  [
    "A read does not see a write that was answered before it.",
    "a [put 1]",
    "b           [get: none]",
  ],
  [
    "A read sees a value that was overwritten.",
    "a [put 1] [put 2]",
    "b                   [get: 1]",
  ],
  ["A read sees what nobody wrote.", "a [put 1] [get: 2]"],
  ["A read sees a write that is asked only after it.", "a          [put 1]", "b [get: 1]"],
  [
    "Reads go back in time.",
    "a [put 1]  [put 2                     ]",
    "b                [get: 2] [get: 1]",
  ],
  [
    "Two clients see two writes in two orders.",
    "a [put 1                   ]",
    "b [put 2                   ]",
    "c   [get: 1] [get: 2]",
    "d   [get: 2] [get: 1]",
  ],
  [
    "Reads see a write, then that there was none.",
    "a [put 1                     ]",
    "b    [get: 1] [get: none]",
  ],
  [
    "A write without an answer is seen twice, with another in between.",
    "a [put 1",
    "b          [get: 1] [put 2] [get: 2] [get: 1]",
  ],
  ["A write without an answer is seen before it was asked.", "a           [put 1", "b [get: 1]"],
  [
    "A write without an answer is seen, and then what was before it.",
    "a [put 1] [put 2",
    "b                   [get: 2] [get: 1]",
  ],
  [
    "An update is lost: two that compare and set find the same value.",
    "a [put 1]",
    "b           [cas 1 -> 2: true ]",
    "c           [cas 1 -> 3: true ]",
  ],
  [
    "A compare and set is applied twice.",
    "a [put 1] [cas 1 -> 2: true]",
    "b                             [put 1] [get: 1] [get: 2]",
  ],
  [
    "A compare and set without an answer is applied twice.",
    "a [put 1] [cas 1 -> 2",
    "b                         [get: 2] [put 1] [get: 2]",
  ],
  ["A compare and set fails although it finds what it expects.", "a [put 1] [cas 1 -> 2: false]"],
  ["A compare and set that failed has put its value.", "a [put 1] [cas 3 -> 2: false] [get: 2]"],
  [
    "A compare and set that succeeded has not put its value.",
    "a [put 1] [cas 1 -> 2: true] [get: 1]",
  ],
  ["A compare and set that expects no value finds one.", "a [put 1] [cas none -> 2: true]"],
  ["A delete finds nothing although there is a value.", "a [put 1] [delete: false]"],
  ["A delete finds a value although there is none.", "a [delete: true]"],
  ["Two deletes find one value.", "a [put 1] [delete: true]", "b           [delete: true]"],
  ["A value is there after it was deleted.", "a [put 1] [delete: true] [get: 1]"],
  [
    "A delete without an answer explains that the value is gone, but not that it is there again.",
    "a [put 1] [delete",
    "b                  [get: none] [get: 1]",
  ],
  [
    "Calls without an answer lack one to follow one another.",
    "a [put 1",
    "b [cas 2 -> 3",
    "c                  [get: 3]",
  ],
  [
    "Calls without an answer would have to come before they were asked.",
    "a            [put 1",
    "b [cas 1 -> 2",
    "c   [get: 2]",
  ],
  [
    "What is wrong at the end is found behind much that is right.",
    "a [put 1] [put 2   ] [put 3]",
    "b    [get: 1   ]  [get: 2]   [get: 1]",
  ],
];

describe("is linearizable:", () => {
  test.each(legal)("%s", (_, ...lines) => {
    expect(checkLinearizable(draw(...lines))).toBeUndefined();
  });
});

describe("is not linearizable:", () => {
  test.each(illegal)("%s", (_, ...lines) => {
    expect(checkLinearizable(draw(...lines))).toStartWith("What clients saw of x is not");
  });
});

describe("the verdict", () => {
  test("names the key, and tells how far an order goes and what cannot follow", () => {
    const y = draw("a [put 1] [put 2] [delete", "b          [get: 1      ] [get: 1]")
      .map((call) => ({ ...call, key: "y" }));
    const x = draw("a [put 1] [get: 1]");
    expect(checkLinearizable([...x, ...y])?.split("\n")).toEqual([
      "What clients saw of y is not linearizable: no order has a place for more than 3 of the 4 "
      + "answered calls. Such an order, numbered by when each was asked and answered, ends with",
      "            2-9  a        put y 1 gives true",
      "          11-25  b        get y gives 1",
      "          10-17  a        put y 2 gives true",
      "then there is 2, and one of these must come next, but cannot:",
      "          26-34  b        get y gives 1",
      "Writes that were never answered, and may come at any time, do not help: there are 1.",
    ]);
  });

  test("is not given, but refused, if it takes too long", () => {
    const writes = Array.from({ length: 20 }, (_, i) => `a [put ${10 + i}     ]`);
    expect(() => checkLinearizable(draw(...writes, "b          [get: 1]"), 10_000)).toThrow(
      "Whether the history of x is linearizable is unknown after 10000 orders of its 21 calls.",
    );
  });
});

// ------------------------------------------ By chance -------------------------------------------

const pick = <Element>(random: Random, list: readonly Element[]): Element | undefined =>
  list[Math.floor(random() * list.length)];

/** The store itself, with a call for a command. */
function ask(store: KeyValueStore, { what, key, value, expected }: Call): Call["result"] {
  const parts = [key, value, expected].filter((part) => part !== undefined);
  const question = askStore(what, ...parts.map((part) => Buffer.from(part)));
  if (what !== "get") return answerOf(store.apply(question)) as boolean;
  return answerOf(store.query(question)) || undefined;
}

/** `values`: how many there are, or every write has its own if it is not given. */
type Shape = { calls: number; clients: number; lost: number; values?: number };

/**
 * A history of a real store, so a legal one. Each call is asked, happens, and is answered at
 * instants of their own, unless the answer is lost; then it happens later or never.
 */
function live(random: Random, { calls, clients, lost, values }: Shape): Call[] {
  const store = new KeyValueStore();
  const history: Call[] = [];
  const busy: { call: Call; hasHappened: boolean }[] = [];
  const recent = [undefined as string | undefined];
  let late: Call[] = [];
  for (let now = 0; history.length < calls || busy.length > 0; now += 1) {
    const chosen = busy[Math.floor(random() * clients)];
    if (!chosen) {
      if (history.length === calls) continue;
      const call = drawCall(random, history.length, now, recent.slice(-3), values);
      history.push(call);
      busy.push({ call, hasHappened: false });
      if (call.value !== undefined) recent.push(call.value);
    } else if (random() < lost) {
      if (!chosen.hasHappened) late.push(chosen.call);
      busy.splice(busy.indexOf(chosen), 1);
    } else if (!chosen.hasHappened) {
      chosen.call.result = ask(store, chosen.call);
      chosen.hasHappened = true;
    } else {
      chosen.call.returned = now;
      busy.splice(busy.indexOf(chosen), 1);
    }
    late = late.filter((call) => random() > 0.02 || void ask(store, call));
  }
  for (const call of history) if (call.returned === NEVER) call.result = undefined;
  return history;
}

function drawCall(
  random: Random,
  number: number,
  invoked: number,
  recent: readonly (string | undefined)[],
  values: number | undefined,
): Call {
  const what = pick(random, ["get", "get", "put", "put", "cas", "cas", "delete"] as const) ?? "get";
  const fresh = values === undefined ? number : Math.floor(random() * values);
  return {
    who: "a",
    what,
    key: "x",
    invoked,
    returned: NEVER,
    result: undefined,
    value: what === "put" || what === "cas" ? `${fresh}` : undefined,
    expected: what === "cas" ? pick(random, recent) : undefined,
  };
}

/** Changes one answer to another that such a call can have. */
function lie(
  random: Random,
  history: readonly Call[],
  liars: readonly Call["what"][] = ["get", "cas", "delete"],
): Call[] {
  const values = [undefined, ...history.flatMap(({ value }) => value ?? [])];
  const answered = history.filter(({ returned }) => returned !== NEVER);
  const liar = pick(random, answered.filter(({ what }) => liars.includes(what)));
  const others = values.filter((value) => value !== liar?.result);
  return history.map((call) => {
    if (call !== liar) return call;
    return { ...call, result: call.what === "get" ? pick(random, others) : !call.result };
  });
}

/** Answers that have nothing to do with any store. */
function invent(random: Random, history: readonly Call[]): Call[] {
  const values = [undefined, ...history.flatMap(({ value }) => value ?? [])];
  return history.map((call) => {
    if (call.returned === NEVER || call.what === "put") return call;
    return { ...call, result: call.what === "get" ? pick(random, values) : random() < 0.5 };
  });
}

/** Tries every order there is, and has no other idea. */
function isExplained(calls: readonly Call[], value: string | undefined): boolean {
  if (calls.every(({ returned }) => returned === NEVER)) return true;
  return calls.some((call) => {
    const others = calls.filter((other) => other !== call);
    if (others.some(({ returned }) => returned < call.invoked)) return false;
    const isFound = call.what === "cas" ? value === call.expected : value !== undefined;
    const result = call.what === "get" ? value : call.what === "put" || isFound;
    if (call.returned !== NEVER && result !== call.result) return false;
    const changes = call.what === "put" || call.what === "delete"
      || (call.what === "cas" && isFound);
    return isExplained(others, changes ? call.value : value);
  });
}

describe("random histories", () => {
  test("of at most seven calls have the verdict that trying all orders gives", () => {
    const verdicts = { legal: 0, illegal: 0 };
    forSeeds(500, (random) => {
      const shape = {
        calls: 2 + Math.floor(random() * 6),
        clients: 1 + Math.floor(random() * 5),
        lost: pick(random, [0, 0.05, 0.2]) ?? 0,
        values: 1 + Math.floor(random() * 3),
      };
      const honest = live(random, shape);
      for (const history of [honest, lie(random, honest), invent(random, honest)]) {
        const isLegal = isExplained(history, undefined);
        verdicts[isLegal ? "legal" : "illegal"] += 1;
        expect({ history, isLegal: checkLinearizable(history) === undefined })
          .toEqual({ history, isLegal });
      }
      expect(isExplained(honest, undefined)).toBe(true);
    });
    if (isReplay) return;
    expect(verdicts.legal).toBeGreaterThan(500);
    expect(verdicts.illegal).toBeGreaterThan(400);
  });

  test(
    "of hundreds of calls, that a store has answered, are legal, and with one lie are not",
    () => {
      const count = { unanswered: 0, lies: 0, found: 0 };
      forSeeds(60, (random) => {
        const shape = { calls: 300, clients: 1 + Math.floor(random() * 10), lost: random() * 0.05 };
        const histories = [live(random, { ...shape, values: 5 }), live(random, shape)] as const;
        for (const history of histories) {
          count.unanswered += history.filter(({ returned }) => returned === NEVER).length;
          expect(checkLinearizable(history)).toBeUndefined();
        }
        // Where every write has a value of its own, a read of another value is hardly ever
        // explained.
        const [, history] = histories;
        for (let lies = 0; lies < 3; lies += 1) {
          count.lies += 1;
          if (checkLinearizable(lie(random, history, ["get"]))) count.found += 1;
        }
      });
      if (isReplay) return;
      expect(count.unanswered).toBeGreaterThan(1000);
      expect(count.found).toBeGreaterThan(0.9 * count.lies);
    },
    60_000,
  );
});
