/**
 * Decides whether a history is linearizable: a single store could have given the answers, with
 * every call taking effect at one instant between its start and its answer (Herlihy and Wing,
 * 1990). A call without an answer may take effect at any later instant, or never.
 *
 * Searches for an order of the calls that follows two rules. A call that was answered before
 * another one began comes first. And each answer is the store's answer at that place in the order
 * (Wing and Gong, 1993). Two orders of the same calls that leave the same value have the same
 * continuations, so the search follows only one of them (Lowe, 2017). Each key has a search of its
 * own.
 */
import { type Call, tellCall } from "./full/workload.ts";

/** Undefined if the key has no value. */
type Value = string | undefined;

type Candidate = {
  call: Call;
  /** The bit of this call in sets of calls. */
  bit: bigint;
  /** The bit of an earlier unanswered call that does the same, or 0. */
  twin: bigint;
};

/** An order of some calls: the last call after the order before it. */
type Order = {
  last: Call | undefined;
  before: Order | undefined;
  /** The set of the calls in this order. */
  done: bigint;
  /** The value after the last call. */
  value: Value;
  /** The number of answered calls that are not yet in this order. */
  open: number;
  /** The place of the first of these in the list of answered calls. */
  from: number;
};

/** The largest number of orders to visit for one key. With more the result is unknown: an error. */
const BOUND = 1_000_000;
/** The number of calls that an explanation shows. */
const LINES = 8;

/** Explains why a history is not linearizable. Returns undefined if it is. */
export function checkLinearizable(history: readonly Call[], bound = BOUND): string | undefined {
  for (const [key, calls] of Map.groupBy(history, (call) => call.key)) {
    const search = new Search(calls);
    const longest = search.findStuck(key, bound);
    if (longest) return search.explain(key, longest);
  }
  return undefined;
}

/** Returns the answer of a store with the value `before`, and its value afterwards. */
function apply(
  { what, value, expected }: Call,
  before: Value,
): { result: Value | boolean; after: Value } {
  switch (what) {
    case "get":
      return { result: before, after: before };
    case "put":
      return { result: true, after: value };
    case "delete":
      return { result: before !== undefined, after: undefined };
    case "cas":
      return before === expected
        ? { result: true, after: value }
        : { result: false, after: before };
    default:
      throw new Error(`there is no call ${what satisfies never}`);
  }
}

const isAnswered = ({ returned }: Call) => returned !== Number.POSITIVE_INFINITY;

/** Returns whether an answered call gives its answer here, or an unanswered one has an effect. */
function fits(call: Call, value: Value): boolean {
  const { result, after } = apply(call, value);
  return isAnswered(call) ? result === call.result : after !== value;
}

/** Returns whether the answer shows that the call has changed nothing. */
const isObservation = ({ what, result }: Call) => what === "get" || result === false;

class Search {
  private readonly answered: Candidate[] = [];
  private readonly unanswered: Candidate[] = [];
  /** The bits of all unanswered calls. */
  private optional = 0n;
  /** Numbers of the values that some answer depends on. No call distinguishes the other values. */
  private readonly names = new Map<Value, number>([[undefined, 0]]);

  constructor(calls: readonly Call[]) {
    const name = (value: Value) => this.names.set(value, this.names.get(value) ?? this.names.size);
    for (const { what, result, expected } of calls) {
      if (what === "get" && typeof result !== "boolean") name(result);
      if (what === "cas") name(expected);
    }
    const twins = new Map<string, bigint>();
    calls.toSorted((a, b) => a.invoked - b.invoked).forEach((call, i) => {
      const bit = 1n << BigInt(i);
      if (isAnswered(call)) this.answered.push({ call, bit, twin: 0n });
      else if (call.what !== "get") {
        const { what, value, expected } = call;
        const kind = `${what} ${this.nameOf(value)} ${this.nameOf(expected)}`;
        this.unanswered.push({ call, bit, twin: twins.get(kind) ?? 0n });
        twins.set(kind, bit);
        this.optional |= bit;
      }
    });
  }

  private nameOf(value: Value): number {
    return this.names.get(value) ?? -1;
  }

  /** Returns the longest order if none includes every answered call, and undefined otherwise. */
  findStuck(key: string, bound: number): Order | undefined {
    const start: Order = {
      last: undefined,
      before: undefined,
      done: 0n,
      value: undefined,
      open: this.answered.length,
      from: 0,
    };
    const seen = new Map<string, bigint[]>();
    const unexplored = [start];
    let longest = start;
    let orders = 0;
    for (let order = unexplored.pop(); order; order = unexplored.pop()) {
      if (order.open === 0) return undefined;
      if (order.open < longest.open) longest = order;
      const next = this.extend(order).filter((candidate) => this.isNew(candidate, seen));
      unexplored.push(...next);
      orders += next.length;
      if (orders > bound) {
        throw new Error(
          `Cannot decide whether the history of ${key} is linearizable: ${bound} orders of its `
            + `${this.answered.length + this.unanswered.length} calls are not enough. `
            + "Make fewer concurrent calls, or raise the bound.",
        );
      }
    }
    return longest;
  }

  /**
   * Returns whether this order may have new continuations. It has none if an order was seen with the
   * same answered calls, the same value, and a subset of its unanswered calls.
   */
  private isNew(order: Order, seen: Map<string, bigint[]>): boolean {
    const { last, before, done, value } = order;
    const needs = last && before && !isAnswered(last) ? this.nameOf(before.value) : "";
    const used = done & this.optional;
    const identity = `${(done ^ used).toString(16)} ${this.nameOf(value)} ${needs}`;
    const others = seen.get(identity) ?? [];
    if (others.some((other) => (other & used) === other)) return false;
    seen.set(identity, [...others.filter((other) => (other & used) !== used), used]);
    return true;
  }

  /**
   * Returns the orders with one more call, the most promising last. Three kinds of orders are
   * omitted, because other orders lead to the same results:
   *
   * - If a call that changes nothing can come now, it need not come later.
   * - An unanswered call comes only directly before a call that does not fit without it. In other
   *   orders it can come later, or never.
   * - Of two unanswered calls that do the same, the earlier one comes first.
   */
  private extend(order: Order): Order[] {
    const { value, last, before, done } = order;
    const spare = last && before && !isAnswered(last) ? before : undefined;
    const mayFollow = ({ call }: Candidate) =>
      fits(call, value) && !(spare && fits(call, spare.value));
    const { waiting, firstReturn } = this.wait(order);
    const answered = waiting.filter(mayFollow);
    const observation = answered.find(({ call }) => isObservation(call));
    if (observation) return [this.append(order, observation)];
    const unanswered = this.unanswered.filter((candidate) =>
      candidate.call.invoked <= firstReturn && (done & candidate.bit) === 0n
      && (done & candidate.twin) === candidate.twin && mayFollow(candidate)
    );
    answered.sort((a, b) => b.call.returned - a.call.returned);
    return [...unanswered, ...answered].map((candidate) => this.append(order, candidate));
  }

  /** Returns the answered calls that can come next: no open call was answered before they began. */
  private wait({ done, from }: Order): { waiting: Candidate[]; firstReturn: number } {
    const waiting: Candidate[] = [];
    let firstReturn = Number.POSITIVE_INFINITY;
    for (let i = from; i < this.answered.length; i += 1) {
      const candidate = this.answered[i];
      if (!candidate || candidate.call.invoked > firstReturn) break;
      if ((done & candidate.bit) !== 0n) continue;
      waiting.push(candidate);
      firstReturn = Math.min(firstReturn, candidate.call.returned);
    }
    return { waiting, firstReturn };
  }

  private append(order: Order, { call, bit }: Candidate): Order {
    const done = order.done | bit;
    const isDone = (candidate: Candidate | undefined) => candidate && (done & candidate.bit) !== 0n;
    let { from } = order;
    while (isDone(this.answered[from])) from += 1;
    return {
      last: call,
      before: order,
      done,
      value: apply(call, order.value).after,
      open: order.open - (isAnswered(call) ? 1 : 0),
      from,
    };
  }

  explain(key: string, longest: Order): string {
    const calls: Call[] = [];
    for (let order: Order | undefined = longest; order?.last; order = order.before) {
      calls.unshift(order.last);
    }
    const { waiting } = this.wait(longest);
    const all = this.answered.length;
    return [
      `The history of ${key} is not linearizable: no order includes more than `
      + `${all - longest.open} of the ${all} answered calls. The longest order, with the times of `
      + "each call and its answer, ends with",
      ...calls.slice(-LINES).map(tellLine),
      `then the value is ${longest.value ?? "missing"}. One of these must come next, but cannot:`,
      ...waiting.map(({ call }) => tellLine(call)),
      `The ${this.unanswered.length} unanswered writes, which may come at any time, do not help.`,
    ].join("\n");
  }
}

function tellLine(call: Call): string {
  const { who, invoked, returned, result } = call;
  const at = (instant: number) => Number(instant.toFixed(1));
  const when = `${at(invoked)}-${isAnswered(call) ? at(returned) : "never"}`.padStart(15);
  const answer = isAnswered(call) ? `gives ${result ?? "no value"}` : "has no answer";
  return `${when}  ${who.padEnd(8)} ${tellCall(call)} ${answer}`;
}
