/**
 * Plays a run: lets simulated time pass, event by event. The player looks one event ahead, so that
 * it knows until when the messages of the shown instant travel.
 */
import { type Steps } from "./backstage.ts";
import { type Act, type Instant } from "./state.ts";

/** Simulated time by real time, or a fixed number of events each second. */
export type Speed = { readonly name: string; readonly factor: number; readonly events?: number };
export const SPEEDS: readonly Speed[] = [
  { name: "1 event a second", factor: 0, events: 1 },
  { name: "4 events a second", factor: 0, events: 4 },
  { name: "1/200 of real time", factor: 1 / 200 },
  { name: "1/100 of real time", factor: 1 / 100 },
  { name: "1/50 of real time", factor: 1 / 50 },
  { name: "1/20 of real time", factor: 1 / 20 },
  { name: "1/10 of real time", factor: 1 / 10 },
  { name: "1/4 of real time", factor: 1 / 4 },
  { name: "real time", factor: 1 },
];
export const USUAL_SPEED = 5;
/** While no message is in flight, time passes so many times faster, but never beyond real time. */
const IDLE = 5;

/**
 * A real pause longer than this, such as that of a hidden page, does not count as time of the run.
 */
const LONGEST_FRAME_MS = 100;

export class Player {
  isPlaying = false;
  speed = USUAL_SPEED;
  /** The player pauses at this event. */
  stopAt = Number.POSITIVE_INFINITY;
  /** The instant on the stage. */
  shown: Instant;
  /** The simulated time on the stage: that of the instant, or up to the next event. */
  timeMs: number;

  /** `clock` is real time, to stop in time for the next frame. */
  constructor(readonly run: Steps, private readonly clock: () => number) {
    this.shown = run.current;
    this.timeMs = this.shown.nowMs;
  }

  /** Lets real time pass. Works at most `budgetMs`; then simulated time waits. */
  tick(elapsedMs: number, budgetMs = 5): void {
    if (!this.isPlaying) return;
    const deadline = this.clock() + budgetMs;
    const { events } = SPEEDS[this.speed] ?? {};
    let left = Math.min(elapsedMs, LONGEST_FRAME_MS);
    while (this.isPlaying && left > 0) {
      const ahead = this.lookAhead();
      if (!ahead) return this.pause();
      const { factor } = this;
      // At a number of events a second the time until the next event is stretched or shrunk.
      const gap = ahead.nowMs - this.shown.nowMs;
      const needed = events
        ? 1000 / events - this.share * (1000 / events)
        : (ahead.nowMs - this.timeMs) / factor;
      if (needed > left) {
        if (events) this.share += (left * events) / 1000;
        this.timeMs = events ? this.shown.nowMs + gap * this.share : this.timeMs + left * factor;
        return;
      }
      left -= Math.max(0, needed);
      this.put(ahead);
      if (ahead.event >= this.stopAt || this.clock() > deadline) left = 0;
      if (ahead.event >= this.stopAt) this.pause();
    }
  }

  /** Simulated time by real time at the shown instant. */
  private get factor(): number {
    const { factor } = SPEEDS[this.speed] ?? { factor: 1 };
    return this.shown.flights.length > 0 ? factor : Math.min(1, factor * IDLE);
  }

  /** The share of the way to the next event that is over, at a number of events a second. */
  private share = 0;

  private lookAhead(): Instant | undefined {
    if (this.run.current.event === this.shown.event && !this.run.forward()) return undefined;
    return this.run.current;
  }

  private put(instant: Instant): void {
    this.shown = instant;
    this.timeMs = instant.nowMs;
    this.share = 0;
  }

  play(): void {
    this.isPlaying = true;
  }

  pause(): void {
    this.isPlaying = false;
    this.stopAt = Number.POSITIVE_INFINITY;
  }

  stepForward(): void {
    this.pause();
    const ahead = this.lookAhead();
    if (ahead) this.put(ahead);
  }

  stepBack(): void {
    if (this.shown.event > 0) this.goTo(this.shown.event - 1);
  }

  goTo(event: number): void {
    this.pause();
    this.put(this.run.goTo(Math.max(0, event)));
  }

  /**
   * Goes forward to an event, for at most `budgetMs`. Returns whether it has come there, or to the
   * end.
   */
  hurry(event: number, budgetMs: number): boolean {
    const deadline = this.clock() + budgetMs;
    while (this.run.current.event < event && this.clock() < deadline) {
      if (!this.run.forward()) event = this.run.current.event;
    }
    this.put(this.run.current);
    return this.shown.event >= event;
  }

  /** Acts at the shown instant. */
  act(act: Act): void {
    if (this.run.current.event !== this.shown.event) this.run.goTo(this.shown.event);
    this.run.act(act);
    this.put(this.run.current);
  }

  undo(): void {
    this.run.undo();
    this.put(this.run.current);
  }
}
