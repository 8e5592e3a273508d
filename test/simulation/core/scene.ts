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
import { type Flight, Flights } from "./flights.ts";
import { Snapshots } from "./snapshots.ts";

/** Takes a line of the story, and its time. */
export type Tell = ((words: string, nowMs: number) => void) | undefined;
/** The steps of a run: it pauses after each event, and in the end returns its result. */
export type Steps<Result = void> = Generator<void, Result>;

/** What an event was, for a viewer. */
export type Occurrence =
  | { kind: "message"; flight: Flight }
  | {
    kind: "timer" | "turn" | "disk" | "snapshot" | "resumed" | "restarted";
    server: Name;
  }
  | { kind: "client"; client: Name }
  | { kind: "nemesis"; what: Fault; servers: readonly Name[] }
  | { kind: "phase"; what: string };
export type Fault =
  | "clog"
  | "crash"
  | "pause"
  | "transfer"
  | "change"
  | "partition"
  | "mend"
  | "blackout"
  | "client";

export class Scene {
  now = 0;
  readonly random: Random;
  readonly conditions: Conditions;
  /** All machines. */
  readonly names: Name[];
  /** The first members. */
  readonly founders: readonly Name[];
  readonly report: Report;
  readonly judge: Judge;
  readonly snapshots = new Snapshots();
  /** All calls of clients, with their answers. */
  readonly history: Call[] = [];
  /** Whether faults still occur. */
  isHostile = true;
  /** What travels. */
  readonly flights = new Flights(this);
  /** What the event was; undefined if nothing happened, as when a timer was stopped before. */
  occurred: Occurrence | undefined;
  private readonly agenda = new Agenda();
  private disks = 0;
  private hash = 0x811C9DC5;

  /** Draws the conditions from the seed if none are given. */
  constructor(seed: number, private readonly listener: Tell, conditions?: Conditions) {
    this.random = randomFrom(seed);
    this.conditions = conditions ?? drawConditions(this.random);
    const { servers, spares } = this.conditions;
    this.names = [..."abcdefghi"].slice(0, servers + spares);
    this.founders = this.names.slice(0, servers);
    this.report = emptyReport(this.names.length);
    this.judge = new Judge(this.founders, undefined, this.names.slice(servers));
  }

  /** Adds a machine. Its server may join the cluster. */
  addName(name: Name): void {
    this.names.push(name);
    this.judge.addServer(name);
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
    this.listener?.(words(), this.now);
  }

  /** Adds facts and the time to the hash. */
  mix(...facts: number[]): void {
    for (const fact of [this.now * 1000, ...facts]) {
      this.hash = Math.imul(this.hash ^ (fact | 0), 0x01000193);
      this.hash ^= this.hash >>> 15;
    }
    this.report.hash = this.hash >>> 0;
  }

  /** Notes what the event is. The first note counts: the others are its consequences. */
  note(occurrence: Occurrence): void {
    this.occurred ??= occurrence;
  }

  /** Plans an action. Returns a function that cancels it. */
  plan(afterMs: number, action: () => void): () => void {
    return this.planAt(this.now + afterMs, action);
  }

  /** Plans an action at a time. A sum of differences would not be exactly that time. */
  planAt(at: number, action: () => void): () => void {
    return this.agenda.add(at, action);
  }

  /** Does the next event, unless it is later than `end`. Returns whether there was one. */
  next(end = Number.MAX_VALUE): boolean {
    this.occurred = undefined;
    while (this.agenda.nextAt <= end) {
      const { at, action } = this.agenda.takeFirst();
      if (!action) continue; // It was cancelled.
      this.now = at;
      action();
      return true;
    }
    return false;
  }

  /** Lets time pass until `isEnough`, at most `ms`. Returns whether it was enough. */
  *run(ms: number, isEnough: () => boolean = () => false): Steps<boolean> {
    const end = this.now + ms;
    while (!isEnough()) {
      if (!this.next(end)) {
        this.now = end;
        return false;
      }
      yield;
    }
    return true;
  }

  /** Pauses after the begin of a phase, which counts as an event. */
  *begin(what: string): Steps {
    this.occurred = { kind: "phase", what };
    yield;
  }
}
