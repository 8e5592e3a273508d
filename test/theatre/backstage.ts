/** Declares what the picture needs from the rest of the theatre. The page's entry brings it. */
import { type PromiseName } from "./bugs.ts";
import { type Planted, type SourceIndex } from "./build/shape.ts";
import { type Act, type Instant, type Mark, type Script, type StoryLine } from "./state.ts";

/** A run that can be stepped both ways (run.ts). */
export interface Steps {
  readonly current: Instant;
  readonly script: Script;
  readonly story: readonly StoryLine[];
  readonly marks: readonly Mark[];
  /** The last event that has been reached, and whether the run ends there. */
  readonly lastEvent: number;
  readonly isEnded: boolean;
  /** Does the next event. Returns false at the end. */
  forward(): boolean;
  goTo(event: number): Instant;
  /**
   * Acts after the current event; what followed it is dropped. Throws a sentence for the visitor if
   * that is impossible now.
   */
  act(act: Act): void;
  /** Takes the last act back. */
  undo(): void;
}

/** A bug in the menu. */
export type BugChoice = {
  readonly id: string;
  readonly title: string;
  /** A sentence on the system that had it. */
  readonly about: string;
  /** The promise of Figure 3 that the broken rule protects, unless it is one itself. */
  readonly protects?: PromiseName;
  /** The scene that catches it. */
  readonly script: Script;
};

/** A lesson in the menu, and its parts. */
export type LessonChoice = {
  readonly id: string;
  readonly title: string;
  readonly cites: string;
  readonly about: string;
  readonly parts: readonly { readonly title: string }[];
};
/** A part of a lesson, ready to be played: its run, and the text at each event. */
export type PreparedPart = {
  readonly script: Script;
  readonly paragraphs: readonly { readonly event: number; readonly text: string }[];
};

export interface Backstage {
  /** Opens the run of a script at event 0. */
  open(script: Script): Steps;
  readonly source: SourceIndex;
  /** The changes of the source by each bug. */
  readonly planted: readonly Pick<Planted, "id" | "source" | "firstMark" | "lastLines">[];
  readonly bugs: readonly BugChoice[];
  readonly lessons: readonly LessonChoice[];
  /** Rehearses a part of a lesson: parts count from 0. Nothing if there is no such part. */
  prepare(lesson: string, part: number): PreparedPart | undefined;
}
