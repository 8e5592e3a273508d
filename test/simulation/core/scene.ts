/** What all parts of a core simulation share: time, chance, the agenda, the judge and the story. */
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
  /** Who of them are the members at first. */
  readonly founders: readonly Name[];
  readonly report: Report;
  readonly judge: Judge;
  readonly snapshots = new Snapshots();
  /** What clients asked, and were answered. */
  readonly history: Call[] = [];
  /** Whether faults still happen. */
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

  /** The number of a disk that nobody had before. */
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
    this.agenda.add(this.now + afterMs, action);
  }

  /** Lets time pass until `isEnough`, but no longer than `ms`. Returns whether it was enough. */
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
