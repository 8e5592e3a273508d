/**
 * What a lesson is, and how its events are found. A lesson tells in steps what to wait for, what to
 * say then, and what to do then. A rehearsal plays it once, quickly, and returns a script with the
 * numbers of the events. So a lesson holds no number of an event that a change could move.
 */
import type { Act, Engine, Instant, Script, ScriptedAct, World } from "../state.ts";
import type { Sign } from "./signs.ts";

/** An act, or the acts that fit the instant. */
export type Deed = Act | ((now: Instant) => readonly Act[]);

export type Step = {
  /** The event that this step waits for. It comes after the event of the step before. */
  readonly at: Sign;
  /** What the visitor reads then. A step without a text only prepares the scene. */
  readonly text?: string;
  /** The acts that follow that event immediately. */
  readonly then?: readonly Deed[];
};

/** One run of a lesson. */
export type Part = {
  readonly title: string;
  readonly scene: Omit<Script, "acts">;
  readonly steps: readonly Step[];
};

/** Returns a text without its line breaks. */
export const say = (text: TemplateStringsArray): string =>
  text.join("").replace(/\s+/g, " ").trim();

export type Lesson = {
  /** Its name in the page's address. */
  readonly id: string;
  readonly title: string;
  /** What it is about in the paper, such as "§5.2". */
  readonly cites: string;
  /** One sentence for the list of lessons. */
  readonly about: string;
  readonly parts: readonly Part[];
};

export type Paragraph = {
  readonly event: number;
  /** The event in words. */
  readonly words: string;
  readonly text: string;
};
export type Rehearsal = {
  readonly script: Script;
  /** In the order of their events. The page opens the lesson at the first one. */
  readonly paragraphs: readonly Paragraph[];
};

/** Events without the next step's sign: then the step is not found. */
const PATIENCE_EVENTS = 3_000;

/** Plays a part with the engine of its bug, and finds the event of each step. */
export function rehearse(engine: Engine, { title, scene, steps }: Part): Rehearsal {
  const stage = new Stage(engine.open(scene));
  const paragraphs: Paragraph[] = [];
  for (const { at, text, then = [] } of steps) {
    if (!stage.seek(at)) {
      const { event } = stage.now;
      throw new Error(`Cannot find in "${title}", after event ${event}: ${at.words}.`);
    }
    const { event } = stage.now;
    if (text !== undefined) paragraphs.push({ event, words: at.words, text });
    for (const deed of then) stage.do(deed);
  }
  return { script: { ...scene, acts: stage.acts }, paragraphs };
}

/** A world on its way forward, with the instants that no step has seen yet. */
class Stage {
  readonly acts: ScriptedAct[] = [];
  /** The instant of the last step. */
  now: Instant;
  /** The instant that the next one is compared with. */
  private before: Instant;
  private unseen: Instant[];

  constructor(private readonly world: World) {
    this.now = this.before = world.view();
    this.unseen = [this.now];
  }

  /** Goes on until the sign is seen. Returns false if it is not. */
  seek(sign: Sign): boolean {
    for (let tries = 0; tries < PATIENCE_EVENTS; tries += 1) {
      const now = this.unseen.shift() ?? this.next();
      if (!now) return false;
      const isSeen = sign.isSeen(now, this.before, this.now);
      this.before = now;
      if (!isSeen) continue;
      this.now = now;
      return true;
    }
    return false;
  }

  private next(): Instant | undefined {
    return this.world.forward() ? this.world.view() : undefined;
  }

  do(deed: Deed): void {
    const acts = typeof deed === "function" ? deed(this.world.view()) : [deed];
    for (const act of acts) {
      this.acts.push({ event: this.world.view().event, act });
      this.world.act(act);
      this.unseen.push(this.world.view());
    }
  }
}
