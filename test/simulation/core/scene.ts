/**
 * Provides all parts of a core simulation with time, chance, the agenda, the judge and the story.
 */
import { type Name } from "../../../raft.ts";
import { Agenda } from "../../support/agenda.ts";
import { between, pick, type Random, randomFrom, shuffle } from "../../support/random.ts";
import { type Call } from "../full/workload.ts";
import { Judge } from "../judge.ts";
import { emptyReport, type Report } from "../report.ts";
import { type Conditions, drawConditions } from "./conditions.ts";
import { Snapshots } from "./snapshots.ts";

export type Trace = ((line: string) => void) | undefined;

export class Scene {
  now = 0;
  readonly random: Random;
  readonly conditions: Conditions;
  readonly names: readonly Name[];
  /** The first members. */
  readonly founders: readonly Name[];
  readonly report: Report;
  readonly judge: Judge;
  readonly snapshots = new Snapshots();
  /** All calls of clients, with their answers. */
  readonly history: Call[] = [];
  /** Whether faults still occur. */
  isHostile = true;
  private readonly agenda = new Agenda();
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

  /** Returns the number of a new disk. */
  makeDisk(): number {
    return this.disks += 1;
  }

  chance(probability: number): boolean {
    return probability > 0 && this.random() < probability;
  }

  between(low: number, high: number): number {
    return between(this.random, low, high);
  }

  pick<Element>(list: readonly Element[]): Element {
    return pick(this.random, list);
  }

  shuffle<Element>(list: readonly Element[]): Element[] {
    return shuffle(this.random, list);
  }

  /** Adds a line to the story, if there is a reader. */
  tell(words: () => string): void {
    this.trace?.(`${this.now.toFixed(1).padStart(8)} ms  ${words()}`);
  }

  /** Adds facts and the time to the hash. */
  mix(...facts: number[]): void {
    for (const fact of [this.now * 1000, ...facts]) {
      this.hash = Math.imul(this.hash ^ (fact | 0), 0x01000193);
      this.hash ^= this.hash >>> 15;
    }
    this.report.hash = this.hash >>> 0;
  }

  plan(afterMs: number, action: () => void): void {
    this.agenda.add(this.now + afterMs, action);
  }

  /** Lets time pass until `isEnough`, at most `ms`. Returns whether it was enough. */
  run(ms: number, isEnough: () => boolean = () => false): boolean {
    const end = this.now + ms;
    while (!isEnough()) {
      if (this.agenda.nextAt > end) {
        this.now = end;
        return false;
      }
      const { at, action } = this.agenda.takeFirst();
      this.now = at;
      action?.();
    }
    return true;
  }
}
