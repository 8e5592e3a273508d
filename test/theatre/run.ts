/**
 * Makes a run that can be stepped both ways. A world goes forward only, but a run keeps the
 * instants that it has seen, and replays its script from the seed to act in the past.
 */
import type { Act, Engine, Instant, Mark, Script, StoryLine, World } from "./state.ts";

/** The most instants that are kept. Others are replayed when they are visited again. */
const KEPT = 50_000;

export class Run {
  /** Instants in a row, the first one after `firstKept` events. */
  private instants: Instant[] = [];
  private firstKept = 0;
  private place = 0;
  /** The last event that was reached. */
  private reached = -1;
  private isOver = false;
  private world: World;
  /** The number of events of the world: at least that of the last kept instant. */
  private worldAt = -1;
  private acts: Script["acts"];
  private lines: StoryLine[] = [];
  /** The lines of an act, until it is known that it can be done. */
  private told: StoryLine[] | undefined;
  private marked: Mark[] = [];
  /** The number of events that were done again, which is the cost of steps back and of acts. */
  replayed = 0;

  /** Opens a script at event 0. The acts of the script are done when their events come. */
  constructor(
    private readonly engine: Engine,
    private readonly opening: Script,
    private readonly kept = KEPT,
  ) {
    this.acts = opening.acts;
    this.world = this.open();
    this.keep();
  }

  /** The instant that is shown. */
  get current(): Instant {
    const instant = this.instants[this.place - this.firstKept];
    if (!instant) throw new Error(`There is no event ${this.place}.`);
    return instant;
  }

  /** The number of the last event that has been reached. The timeline ends there for now. */
  get lastEvent(): number {
    return this.reached;
  }

  /**
   * Whether no event follows `lastEvent` without an act: the judge has spoken, the seed has ended,
   * or no server has anything to wait for, as when all are down.
   */
  get isEnded(): boolean {
    return this.isOver;
  }

  /** Everything that decides this run. A `Run` of it shows the same, event for event. */
  get script(): Script {
    return { ...this.opening, acts: this.acts };
  }

  /** The story up to `lastEvent`. Its first `current.storyLength` lines are told by now. */
  get story(): readonly StoryLine[] {
    return this.lines;
  }

  /** What the timeline marks, in order, up to `lastEvent`. */
  get marks(): readonly Mark[] {
    return this.marked;
  }

  /** Goes one event forward. Returns false at the end. */
  forward(): boolean {
    if (this.place === this.lastKept && !this.extend()) return false;
    this.place += 1;
    return true;
  }

  /** Goes one event back. Returns false at event 0. */
  back(): boolean {
    if (this.place === 0) return false;
    this.goTo(this.place - 1);
    return true;
  }

  /** Goes to an event, or as near as the run allows. Returns its instant. */
  goTo(event: number): Instant {
    if (event < this.firstKept) this.refill(Math.max(0, event - Math.floor(this.kept / 2)));
    while (this.lastKept < event && this.extend());
    this.place = Math.max(0, Math.min(event, this.lastKept));
    return this.current;
  }

  /**
   * Does something at the instant that is shown. It becomes the next event, and all that came after
   * this instant is dropped. Throws a sentence for the visitor if that cannot be done now.
   */
  act(act: Act): void {
    const { place } = this;
    if (this.current.verdict) throw new Error("The run has ended. Go back, and then do it.");
    this.catchUp(place);
    const told = this.tellingOf(() => this.world.act(act)); // If it throws, nothing has changed.
    this.cutAfter(place);
    this.lines.push(...told);
    this.acts = [...this.acts.filter(({ event }) => event < place), { event: place, act }];
    this.worldAt += 1;
    this.keep();
    this.place += 1;
  }

  /** Takes back the last act, and goes to the instant before it. Returns false without acts. */
  undo(): boolean {
    const last = this.acts.at(-1);
    if (!last) return false;
    this.goTo(last.event);
    this.acts = this.acts.slice(0, -1);
    this.cutAfter(this.place);
    return true;
  }

  // ----------------------------------------- The world ------------------------------------------

  private open(): World {
    this.worldAt = -1;
    const world = this.engine.open(this.opening, (text, ms) => {
      const event = this.worldAt + 1;
      // A replay repeats lines of the story.
      if (this.told) this.told.push({ event, ms, text });
      else if (event > this.reached) this.lines.push({ event, ms, text });
    });
    this.worldAt = 0;
    return world;
  }

  /** Returns the lines that an action tells. */
  private tellingOf(action: () => void): readonly StoryLine[] {
    const told: StoryLine[] = [];
    this.told = told;
    try {
      action();
    } finally {
      this.told = undefined;
    }
    return told;
  }

  private get lastKept(): number {
    return this.firstKept + this.instants.length - 1;
  }

  /** Does the event after the last kept one. Returns false at the end. */
  private extend(): boolean {
    if (this.isOver && this.lastKept === this.reached) return false;
    this.catchUp(this.lastKept);
    if (!this.step()) {
      this.isOver = true;
      this.worldAt = Number.POSITIVE_INFINITY; // It may have let time pass, in search of an event.
      return false;
    }
    this.keep();
    return true;
  }

  /** Does the next event of the world, which may be an act of the script. */
  private step(): boolean {
    const next = this.acts.find(({ event }) => event === this.worldAt);
    const isDone = next ? this.tryAct(next.act) : this.world.forward();
    if (!isDone) return next ? this.step() : false;
    this.worldAt += 1;
    return true;
  }

  /** Drops an act of the script that cannot be done, as in an address that was changed by hand. */
  private tryAct(act: Act): boolean {
    try {
      this.world.act(act);
      return true;
    } catch {
      this.acts = this.acts.filter((other) => other.act !== act);
      return false;
    }
  }

  /** Brings the world to an event, from the seed if the world is past it. */
  private catchUp(event: number): void {
    if (this.worldAt > event) this.world = this.open();
    while (this.worldAt < event && this.step()) this.replayed += 1;
  }

  /** Keeps the present instant of the world. */
  private keep(): void {
    const instant = this.world.view();
    const before = this.instants.at(-1);
    this.instants.push(instant);
    if (instant.event > this.reached) {
      this.reached = instant.event;
      if (before) this.marked.push(...marksOf(before, instant));
    }
    if (this.instants.length <= this.kept) return;
    const dropped = Math.ceil(this.kept / 2);
    this.instants.splice(0, dropped);
    this.firstKept += dropped;
  }

  /** Keeps instants from an earlier event on. */
  private refill(event: number): void {
    this.catchUp(event);
    [this.instants, this.firstKept] = [[], event];
    this.keep();
  }

  /** Drops all that came after an event. */
  private cutAfter(event: number): void {
    this.instants.length = event - this.firstKept + 1;
    const { storyLength } = this.current;
    this.lines.length = storyLength;
    this.marked = this.marked.filter((mark) => mark.event <= event);
    this.reached = event;
    this.isOver = false;
  }
}

/** Returns what the timeline marks at an instant, given the one before. */
function marksOf(
  before: Instant,
  { event, nowMs: ms, servers, happened, verdict }: Instant,
): Mark[] {
  const marks: Mark[] = [];
  const mark = (kind: Mark["kind"], text: string) => marks.push({ event, ms, kind, text });
  if (happened.kind === "act") mark("act", happened.act.kind);
  for (const [i, server] of servers.entries()) {
    const old = before.servers[i];
    if (server === old) continue;
    const { name, role, currentTerm, status } = server;
    const led = old?.role === "Leader" && old.currentTerm === currentTerm;
    if (role === "Leader" && !led) mark("leader", `${name} leads in term ${currentTerm}`);
    if (status === "down" && old?.status !== "down") mark("crash", `${name} is down`);
  }
  if (verdict) mark("verdict", verdict.promise);
  return marks;
}
