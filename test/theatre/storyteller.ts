/**
 * Tells a run in the words of `bun cli.ts --test` (story.ts), instead of those of the simulator's
 * trace. It goes along with the run, and compares each new instant with the one before.
 */
import { type Steps } from "./backstage.ts";
import { type Act, type Instant, type Mark, type Script, type StoryLine } from "./state.ts";
import { tell } from "./story.ts";

export class Storyteller implements Steps {
  private readonly lines: StoryLine[] = [];
  /** The last event that has been told. */
  private told = 0;

  constructor(private readonly run: Steps) {}

  get current(): Instant {
    return this.run.current;
  }

  get script(): Script {
    return this.run.script;
  }

  get marks(): readonly Mark[] {
    return this.run.marks;
  }

  get lastEvent(): number {
    return this.run.lastEvent;
  }

  get isEnded(): boolean {
    return this.run.isEnded;
  }

  get story(): readonly StoryLine[] {
    return this.lines;
  }

  forward(): boolean {
    const before = this.run.current;
    if (!this.run.forward()) return false;
    this.add(before);
    return true;
  }

  goTo(event: number): Instant {
    this.run.goTo(Math.min(event, this.told));
    while (this.run.current.event < event && this.forward());
    return this.run.current;
  }

  act(act: Act): void {
    const before = this.run.current;
    this.run.act(act);
    this.forget(before.event);
    this.add(before);
  }

  undo(): void {
    this.run.undo();
    this.forget(this.run.current.event);
  }

  /** Tells the event after this instant, unless it has been told. */
  private add(before: Instant): void {
    const { current } = this.run;
    if (current.event <= this.told) return;
    this.told = current.event;
    const { event, nowMs: ms } = current;
    this.lines.push(...tell(current, before).map((text) => ({ event, ms, text })));
  }

  /** Drops the lines after an event. */
  private forget(event: number): void {
    this.told = event;
    while ((this.lines.at(-1)?.event ?? 0) > event) this.lines.pop();
  }
}

/** Returns how many lines have been told up to an event. The lines are in the order of events. */
export function toldUpTo(lines: readonly StoryLine[], event: number): number {
  let [low, high] = [0, lines.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if ((lines[middle]?.event ?? 0) <= event) low = middle + 1;
    else high = middle;
  }
  return low;
}
