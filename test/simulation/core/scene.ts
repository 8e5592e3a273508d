/** What all parts of a simulated run share: time, chance, the agenda, the judge and the story. */
import { type Name } from "../../../raft.ts";
import { type Random, randomFrom } from "../../support/random.ts";
import { type Call } from "../full/workload.ts";
import { Judge } from "../judge.ts";
import { emptyReport, type Report } from "../report.ts";
import { type Conditions, drawConditions } from "./conditions.ts";
import { Snapshots } from "./snapshots.ts";

export type Trace = ((line: string) => void) | undefined;
type Plan = { at: number; order: number; action: () => void };

export class Scene {
  now = 0;
  readonly random: Random;
  readonly conditions: Conditions;
  readonly names: readonly Name[];
  /** Who of them are the members at first. */
  readonly founders: readonly Name[];
  readonly report: Report;
  readonly judge: Judge;
  readonly snapshots = new Snapshots();
  /** What clients asked, and were answered. */
  readonly history: Call[] = [];
  /** Whether faults still happen. */
  isHostile = true;
  private readonly heap: Plan[] = [];
  private planned = 0;
  private disks = 0;
  private hash = 0x811C9DC5;

  constructor(seed: number, private readonly trace: Trace) {
    this.random = randomFrom(seed);
    this.conditions = drawConditions(this.random);
    const { servers, spares } = this.conditions;
    this.names = [..."abcdefghi"].slice(0, servers + spares);
    this.founders = this.names.slice(0, servers);
    this.report = emptyReport(this.names.length);
    this.judge = new Judge(this.founders, undefined, this.names.slice(servers));
  }

  /** The number of a disk that nobody had before. */
  makeDisk(): number {
    return this.disks += 1;
  }

  chance(probability: number): boolean {
    return probability > 0 && this.random() < probability;
  }

  between(low: number, high: number): number {
    return low + (high - low) * this.random();
  }

  pick<Element>(list: readonly Element[]): Element {
    const picked = list[Math.floor(this.random() * list.length)];
    if (picked === undefined) throw new Error("there is nothing to pick from");
    return picked;
  }

  shuffle<Element>(list: readonly Element[]): Element[] {
    const keyed = list.map((element) => ({ element, key: this.random() }));
    return keyed.sort((a, b) => a.key - b.key).map(({ element }) => element);
  }

  /** Tells what happens now. Nothing is put into words for nobody. */
  tell(words: () => string): void {
    this.trace?.(`${this.now.toFixed(1).padStart(8)} ms  ${words()}`);
  }

  /** Makes the hash depend on what happens now, and on all that has happened before. */
  mix(...facts: number[]): void {
    for (const fact of [this.now * 1000, ...facts]) {
      this.hash = Math.imul(this.hash ^ (fact | 0), 0x01000193);
      this.hash ^= this.hash >>> 15;
    }
    this.report.hash = this.hash >>> 0;
  }

  plan(afterMs: number, action: () => void): void {
    const plan = { at: this.now + afterMs, order: this.planned, action };
    this.planned += 1;
    const { heap } = this;
    let place = heap.length;
    while (place > 0) {
      const parent = (place - 1) >> 1;
      const above = heap[parent];
      if (!above || !isBefore(plan, above)) break;
      heap[place] = above;
      place = parent;
    }
    heap[place] = plan;
  }

  private next(): Plan | undefined {
    const { heap } = this;
    const [first] = heap;
    const last = heap.pop();
    if (!last || heap.length === 0) return first;
    let place = 0;
    for (;;) {
      const left = heap[2 * place + 1];
      const right = heap[2 * place + 2];
      const least = right && left && isBefore(right, left) ? right : left;
      if (!least || !isBefore(least, last)) break;
      heap[place] = least;
      place = 2 * place + (least === right ? 2 : 1);
    }
    heap[place] = last;
    return first;
  }

  /** Lets time pass until `isEnough`, but no longer than `ms`. Returns whether it was enough. */
  run(ms: number, isEnough: () => boolean = () => false): boolean {
    const end = this.now + ms;
    while (!isEnough()) {
      const [first] = this.heap;
      if (!first || first.at > end) {
        this.now = end;
        return false;
      }
      this.next();
      this.now = first.at;
      first.action();
    }
    return true;
  }
}

const isBefore = (a: Plan, b: Plan) => a.at < b.at || (a.at === b.at && a.order < b.order);
