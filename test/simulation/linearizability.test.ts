/**
 * Tests that the checker accepts every linearizable history, and rejects every other history.
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
 * Reads a drawing of a history. Each client has one line. A call starts at `[` and is answered at
 * `]`. Without `]` it has no answer.
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
  ["A history without calls."],
  ["A key that was never written has no value.", "a [get: none]"],
  ["A read sees the write before it.", "a [put 1] [get: 1]", "b              [get: 1]"],
  ["A read during a write may see that write.", "a [put 1         ]", "b     [get: 1]"],
  ["A read during a write need not see that write.", "a [put 1         ]", "b     [get: none]"],
  [
    "Of two concurrent writes the one that started first may come last.",
    "a [put 1   ]",
    "b   [put 2   ] [get: 1]",
  ],
  [
    "Of two concurrent writes the one that started last may come last.",
    "a [put 1   ]",
    "b   [put 2   ] [get: 2]",
  ],
  [
    "Of two reads during a write the first may miss it and the second see it.",
    "a [put 1                      ]",
    "b    [get: none] [get: 1]",
    "c         [get: 1      ]",
  ],
  ["A write without an answer takes effect late.", "a [put 1", "b          [get: none] [get: 1]"],
  [
    "A write without an answer never takes effect.",
    "a [put 1",
    "b          [put 2] [get: 2] [get: 2]",
  ],
  [
    "A write without an answer takes effect after a later write.",
    "a [put 1",
    "b          [put 2] [get: 2] [get: 1]",
  ],
  ["A read without an answer proves nothing.", "a [get", "b   [put 1] [get: 1]"],
  ["A delete reports that it found a value.", "a [put 1] [delete: true] [get: none]"],
  ["A delete reports that it found no value.", "a [delete: false] [put 1]"],
  [
    "Of two concurrent deletes one finds the value.",
    "a [put 1] [delete: false   ]",
    "b              [delete: true]",
  ],
  [
    "A delete without an answer explains why the value is gone.",
    "a [put 1] [delete",
    "b                     [get: 1] [get: none]",
  ],
  ["A compare-and-set finds the expected value.", "a [put 1] [cas 1 -> 2: true] [get: 2]"],
  [
    "A compare-and-set that finds another value changes nothing.",
    "a [put 1] [cas 3 -> 2: false] [get: 1]",
  ],
  [
    "A compare-and-set expects no value.",
    "a [cas none -> 1: true] [cas none -> 2: false] [get: 1]",
  ],
  [
    "Of two concurrent compare-and-sets one finds the expected value.",
    "a [put 1]",
    "b           [cas 1 -> 2: true ]",
    "c           [cas 1 -> 3: false]",
  ],
  [
    "Of two concurrent compare-and-sets one finds the value of the other.",
    "a [put 1]",
    "b           [cas 2 -> 3: true ]",
    "c           [cas 1 -> 2: true ]",
  ],
  [
    "A compare-and-set finds the value of another one without an answer.",
    "a [put 1] [cas 1 -> 2",
    "b                 [cas 2 -> 3: true]",
  ],
  [
    "Two calls without an answer take effect one after another, and a read sees the last.",
    "a [put 1",
    "b [cas 1 -> 2",
    "c [cas 2 -> 3",
    "d                  [get: none] [get: 3]",
  ],
  [
    "A compare-and-set fails because of a write without an answer.",
    "a [put 1] [put 2",
    "b                  [cas 1 -> 3: false] [get: 2]",
  ],
  [
    "Two writes of the same value are both read.",
    "a [put 1] [get: 1] [put 2] [get: 2] [put 1] [get: 1]",
  ],
];

const illegal: [sentence: string, ...lines: string[]][] = [
  [
    "A read misses a write that was answered before the read.",
    "a [put 1]",
    "b           [get: none]",
  ],
  [
    "A read sees an overwritten value.",
    "a [put 1] [put 2]",
    "b                   [get: 1]",
  ],
  ["A read sees a value that no client wrote.", "a [put 1] [get: 2]"],
  ["A read sees a write that started after the read.", "a          [put 1]", "b [get: 1]"],
  [
    "A later read sees an earlier value.",
    "a [put 1]  [put 2                     ]",
    "b                [get: 2] [get: 1]",
  ],
  [
    "Two clients see two writes in different orders.",
    "a [put 1                   ]",
    "b [put 2                   ]",
    "c   [get: 1] [get: 2]",
    "d   [get: 2] [get: 1]",
  ],
  [
    "A read sees a write, and a later read misses it.",
    "a [put 1                     ]",
    "b    [get: 1] [get: none]",
  ],
  [
    "A write without an answer takes effect twice.",
    "a [put 1",
    "b          [get: 1] [put 2] [get: 2] [get: 1]",
  ],
  ["A write without an answer takes effect before it started.", "a           [put 1", "b [get: 1]"],
  [
    "A later read misses a write without an answer that an earlier read has seen.",
    "a [put 1] [put 2",
    "b                   [get: 2] [get: 1]",
  ],
  [
    "Two compare-and-sets find the same value, so an update is lost.",
    "a [put 1]",
    "b           [cas 1 -> 2: true ]",
    "c           [cas 1 -> 3: true ]",
  ],
  [
    "A compare-and-set is applied twice.",
    "a [put 1] [cas 1 -> 2: true]",
    "b                             [put 1] [get: 1] [get: 2]",
  ],
  [
    "A compare-and-set without an answer is applied twice.",
    "a [put 1] [cas 1 -> 2",
    "b                         [get: 2] [put 1] [get: 2]",
  ],
  [
    "A compare-and-set fails although it finds the expected value.",
    "a [put 1] [cas 1 -> 2: false]",
  ],
  ["A failed compare-and-set sets its value.", "a [put 1] [cas 3 -> 2: false] [get: 2]"],
  [
    "A successful compare-and-set does not set its value.",
    "a [put 1] [cas 1 -> 2: true] [get: 1]",
  ],
  [
    "A compare-and-set that expects no value succeeds although there is one.",
    "a [put 1] [cas none -> 2: true]",
  ],
  ["A delete reports no value although there is one.", "a [put 1] [delete: false]"],
  ["A delete reports a value although the key has none.", "a [delete: true]"],
  ["Two deletes report the same value.", "a [put 1] [delete: true]", "b           [delete: true]"],
  ["A read sees a deleted value.", "a [put 1] [delete: true] [get: 1]"],
  [
    "A value returns after a delete without an answer.",
    "a [put 1] [delete",
    "b                  [get: none] [get: 1]",
  ],
  [
    "A call without an answer cannot take effect, because no call writes the value it expects.",
    "a [put 1",
    "b [cas 2 -> 3",
    "c                  [get: 3]",
  ],
  [
    "A call without an answer cannot use a write that started later.",
    "a            [put 1",
    "b [cas 1 -> 2",
    "c   [get: 2]",
  ],
  [
    "A wrong answer follows many right ones.",
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
    expect(checkLinearizable(draw(...lines))).toStartWith("The history of x is not linearizable");
  });
});

describe("the verdict", () => {
  test("names the key, the longest order, and the calls that cannot follow", () => {
    const y = draw("a [put 1] [put 2] [delete", "b          [get: 1      ] [get: 1]")
      .map((call) => ({ ...call, key: "y" }));
    const x = draw("a [put 1] [get: 1]");
    expect(checkLinearizable([...x, ...y])?.split("\n")).toEqual([
      "The history of y is not linearizable: no order includes more than 3 of the 4 answered calls. "
      + "The longest order, with the times of each call and its answer, ends with",
      "            2-9  a        put y 1 gives true",
      "          11-25  b        get y gives 1",
      "          10-17  a        put y 2 gives true",
      "then the value is 2. One of these must come next, but cannot:",
      "          26-34  b        get y gives 1",
      "The 1 unanswered writes, which may come at any time, do not help.",
    ]);
  });

  test("is an error if the search takes too long", () => {
    const writes = Array.from({ length: 20 }, (_, i) => `a [put ${10 + i}     ]`);
    expect(() => checkLinearizable(draw(...writes, "b          [get: 1]"), 10_000)).toThrow(
      "Cannot decide whether the history of x is linearizable: 10000 orders of its 21 calls",
    );
  });
});

// -------------------------------------- Random histories ----------------------------------------

const pick = <Element>(random: Random, list: readonly Element[]): Element | undefined =>
  list[Math.floor(random() * list.length)];

/** Applies a call to a real store, and returns the answer. */
function ask(store: KeyValueStore, { what, key, value, expected }: Call): Call["result"] {
  const parts = [key, value, expected].filter((part) => part !== undefined);
  const question = askStore(what, ...parts.map((part) => Buffer.from(part)));
  if (what !== "get") return answerOf(store.apply(question)) as boolean;
  return answerOf(store.query(question)) || undefined;
}

type Shape = {
  calls: number;
  clients: number;
  /** The probability that an answer is lost, at each step. */
  lost: number;
  /** The number of different values. If undefined, every write has a value of its own. */
  values?: number;
};

/**
 * Returns a random history of a real store, which is linearizable. A call starts, takes effect and
 * is answered at different times. If its answer is lost, it may take effect later, or never.
 */
function drawHistory(random: Random, { calls, clients, lost, values }: Shape): Call[] {
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

/** Replaces one answer by another possible answer. */
function changeAnswer(
  random: Random,
  history: readonly Call[],
  kinds: readonly Call["what"][] = ["get", "cas", "delete"],
): Call[] {
  const values = [undefined, ...history.flatMap(({ value }) => value ?? [])];
  const answered = history.filter(({ returned }) => returned !== NEVER);
  const chosen = pick(random, answered.filter(({ what }) => kinds.includes(what)));
  const others = values.filter((value) => value !== chosen?.result);
  return history.map((call) => {
    if (call !== chosen) return call;
    return { ...call, result: call.what === "get" ? pick(random, others) : !call.result };
  });
}

/** Replaces all answers by random ones. */
function inventAnswers(random: Random, history: readonly Call[]): Call[] {
  const values = [undefined, ...history.flatMap(({ value }) => value ?? [])];
  return history.map((call) => {
    if (call.returned === NEVER || call.what === "put") return call;
    return { ...call, result: call.what === "get" ? pick(random, values) : random() < 0.5 };
  });
}

/** Decides whether a history is linearizable by trying all orders. */
function isLinearizable(calls: readonly Call[], value: string | undefined): boolean {
  if (calls.every(({ returned }) => returned === NEVER)) return true;
  return calls.some((call) => {
    const others = calls.filter((other) => other !== call);
    if (others.some(({ returned }) => returned < call.invoked)) return false;
    const isFound = call.what === "cas" ? value === call.expected : value !== undefined;
    const result = call.what === "get" ? value : call.what === "put" || isFound;
    if (call.returned !== NEVER && result !== call.result) return false;
    const changes = call.what === "put" || call.what === "delete"
      || (call.what === "cas" && isFound);
    return isLinearizable(others, changes ? call.value : value);
  });
}

describe("random histories", () => {
  test("of at most seven calls get the same verdict as from trying all orders", () => {
    const verdicts = { legal: 0, illegal: 0 };
    forSeeds(500, (random) => {
      const shape = {
        calls: 2 + Math.floor(random() * 6),
        clients: 1 + Math.floor(random() * 5),
        lost: pick(random, [0, 0.05, 0.2]) ?? 0,
        values: 1 + Math.floor(random() * 3),
      };
      const honest = drawHistory(random, shape);
      for (const history of [honest, changeAnswer(random, honest), inventAnswers(random, honest)]) {
        const isLegal = isLinearizable(history, undefined);
        verdicts[isLegal ? "legal" : "illegal"] += 1;
        expect({ history, isLegal: checkLinearizable(history) === undefined })
          .toEqual({ history, isLegal });
      }
      expect(isLinearizable(honest, undefined)).toBe(true);
    });
    if (isReplay) return;
    expect(verdicts.legal).toBeGreaterThan(500);
    expect(verdicts.illegal).toBeGreaterThan(400);
  });

  test(
    "of hundreds of calls are accepted, and rejected with one wrong answer",
    () => {
      const count = { unanswered: 0, changes: 0, found: 0 };
      forSeeds(60, (random) => {
        const shape = { calls: 300, clients: 1 + Math.floor(random() * 10), lost: random() * 0.05 };
        const histories = [
          drawHistory(random, { ...shape, values: 5 }),
          drawHistory(random, shape),
        ] as const;
        for (const history of histories) {
          count.unanswered += history.filter(({ returned }) => returned === NEVER).length;
          expect(checkLinearizable(history)).toBeUndefined();
        }
        // If every write has a value of its own, almost every wrong read is a violation.
        const [, history] = histories;
        for (let changes = 0; changes < 3; changes += 1) {
          count.changes += 1;
          if (checkLinearizable(changeAnswer(random, history, ["get"]))) count.found += 1;
        }
      });
      if (isReplay) return;
      expect(count.unanswered).toBeGreaterThan(1000);
      expect(count.found).toBeGreaterThan(0.9 * count.changes);
    },
    60_000,
  );
});
