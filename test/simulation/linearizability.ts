/**
 * Decides whether one store explains what clients saw: every call took effect at one instant
 * between its question and its answer (Herlihy and Wing, 1990). A call without an answer may have
 * taken effect at any later instant, or never.
 *
 * It searches for an order of the calls that keeps two rules: a call that was answered before
 * another began comes first, and each answer is what the store would have answered at that place
 * (Wing and Gong, 1993). Two orders of the same calls that leave the same value have the same
 * future, so only one of them is followed (Lowe, 2017). Each key is searched alone.
 */
import { type Call, tellCall } from "./full/workload.ts";

/** Undefined: there is no value. */
type Value = string | undefined;

/**
 * A call, its bit in the sets of calls, and the bit of an earlier one for which it can stand in.
 */
type Candidate = { call: Call; bit: bigint; twin: bigint };

/**
 * Calls that are in order, by the last of them. `value` is what they leave, `open` how many
 * answered calls are still to come, and `from` where in the list of answered ones the first of
 * those is.
 */
type Order = {
  last: Call | undefined;
  before: Order | undefined;
  done: bigint;
  value: Value;
  open: number;
  from: number;
};

/**
 * Orders of one key that may be looked at. A history that needs more proves nothing, and says so.
 */
const BOUND = 1_000_000;
const LINES = 8;

/** Why no single store can have given these answers, in lines to be read; undefined if one can. */
export function checkLinearizable(history: readonly Call[], bound = BOUND): string | undefined {
  for (const [key, calls] of Map.groupBy(history, (call) => call.key)) {
    const search = new Search(calls);
    const longest = search.findStuck(key, bound);
    if (longest) return search.explain(key, longest);
  }
  return undefined;
}

/** What the store answers when it has a value, and what it has afterwards. */
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
      throw new Error(`The store knows no ${what satisfies never}`);
  }
}

const isAnswered = ({ returned }: Call) => returned !== Number.POSITIVE_INFINITY;

/** Where an answered call gives its answer, and an unanswered one changes something. */
function fits(call: Call, value: Value): boolean {
  const { result, after } = apply(call, value);
  return isAnswered(call) ? result === call.result : after !== value;
}

/** Its answer says that it has changed nothing. */
const isObservation = ({ what, result }: Call) => what === "get" || result === false;

class Search {
  private readonly answered: Candidate[] = [];
  private readonly unanswered: Candidate[] = [];
  /** The bits of all unanswered calls. */
  private optional = 0n;
  /** Values that some call tells apart from others. All others are one and the same to everyone. */
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

  /** The longest order, if none has a place for every answered call. */
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
          `Whether the history of ${key} is linearizable is unknown after `
            + `${bound} orders of its ${this.answered.length + this.unanswered.length} calls. `
            + "Make fewer calls at a time, or raise the bound.",
        );
      }
    }
    return longest;
  }

  /**
   * Whether what can follow this order could not follow any of those that were seen. One that has
   * placed the same answered calls, and of the unanswered ones no other than this, has more left.
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
   * The orders with one more call, the most promising last. Three kinds are left out, because what
   * they lead to can be had without them:
   *
   * - If a call that changes nothing can come now, it need not come later.
   * - Who was never answered need not come before a call that needs none of it: it can come after
   *   that, or never. So it comes only where the next call would not fit without it.
   * - Of two unanswered calls that do the same, the one that was asked first comes first.
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
      `What clients saw of ${key} is not linearizable: no order has a place for more than `
      + `${all - longest.open} of the ${all} answered calls. Such an order, numbered by when `
      + "each was asked and answered, ends with",
      ...calls.slice(-LINES).map(tellLine),
      `then there is ${longest.value ?? "no value"}, and one of these must come next, but cannot:`,
      ...waiting.map(({ call }) => tellLine(call)),
      "Writes that were never answered, and may come at any time, do not help: there are "
      + `${this.unanswered.length}.`,
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
