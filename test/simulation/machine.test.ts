/** Shows how to test a state machine of your own, and that common mistakes in one are found. */
import { expect, setDefaultTimeout, test } from "bun:test";
import { type StateMachine } from "../../raft.ts";
import { pick } from "../support/random.ts";
import { isThorough } from "../support/thorough.ts";
import { testMachine } from "./machine.ts";

setDefaultTimeout(240_000);

/** Counts points. It has a bug: its snapshot lacks the best score. */
class Points implements StateMachine {
  private total = 0;
  private best = 0;
  apply([points = 0]: Uint8Array) {
    this.total += points;
    this.best = Math.max(this.best, points);
    return Buffer.from(`${this.best}`);
  }
  query = () => Buffer.from(`${this.total} points, at best ${this.best}`);
  snapshot = () => [Buffer.from(`${this.total}`)];
  restore = () => (chunk: Uint8Array) => void (this.total = Number(`${Buffer.from(chunk)}`));
}

test("the bug of the machine above is found", () => {
  const create = () => new Points();
  const command = (random: () => number) => Uint8Array.of(256 * random());
  expect(() => testMachine({ create, command })).toThrow(/^Seed 1: . is in another state/);
});

const text = (bytes: Uint8Array) => Buffer.from(bytes).toString();

/** Counts the visits of each name, and knows the last one. It is right. */
class Visits implements StateMachine {
  protected counts = new Map<string, number>();
  protected last = "";

  apply(command: Uint8Array, _index: number, _isReplay: boolean): Uint8Array {
    this.last = text(command);
    const count = (this.counts.get(this.last) ?? 0) + 1;
    this.counts.set(this.last, count);
    return Buffer.from(`${count}`);
  }
  query(question: Uint8Array): Uint8Array {
    return Buffer.from(`${this.last} ${this.counts.get(text(question))}`);
  }
  snapshot(): Iterable<Uint8Array> {
    return [["last", this.last], ...this.counts].map((pair) => Buffer.from(JSON.stringify(pair)));
  }
  restore(): (chunk: Uint8Array) => void {
    this.forget();
    return (chunk) => {
      const [name, value] = JSON.parse(text(chunk));
      if (name === "last") this.last = value;
      else this.counts.set(name, value + (this.counts.get(name) ?? 0));
    };
  }
  protected forget() {
    this.counts.clear();
  }
}

const subjectOf = (create: () => StateMachine) => ({
  create,
  command: (random: () => number) => Buffer.from(pick(random, ["ann", "bob", "eve"])),
  question: (random: () => number) => Buffer.from(pick(random, ["ann", "bob", "eve"])),
});

test("a right machine passes, through restarts and snapshots", () => {
  const seeds = isThorough ? 20 : 1;
  const report = testMachine(subjectOf(() => new Visits()), { seeds });
  const { operations, restarts, snapshots, installs } = report;
  expect(Math.min(operations, restarts, snapshots, installs)).toBeGreaterThan(0);
});

const wrong: Record<string, () => StateMachine> = {
  "does something else in a replay": () =>
    new class extends Visits {
      override apply(command: Uint8Array, index: number, isReplay: boolean) {
        return isReplay ? new Uint8Array() : super.apply(command, index, isReplay);
      }
    }(),
  "answers with the time": () =>
    new class extends Visits {
      override query() {
        return Buffer.from(`${performance.now()}`);
      }
    }(),
  "shows later commands in its snapshot": () =>
    new class extends Visits {
      override snapshot() {
        return [0].values().flatMap(() => super.snapshot());
      }
    }(),
  "adds a snapshot to the state before it": () =>
    new class extends Visits {
      protected override forget() {}
    }(),
};

test.each(Object.keys(wrong))("a machine that %s is found", (what) => {
  const create = wrong[what] ?? (() => new Visits());
  expect(() => testMachine(subjectOf(create))).toThrow(/^Seed \d+: . is in another state/);
});
