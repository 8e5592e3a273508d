/// <reference lib="dom" />
/**
 * Draws the card that guides the visitor: the text of a lesson in step with the run, the bug that
 * is planted, and what the judge says.
 */
import { type BugChoice, type LessonChoice, type PreparedPart } from "./backstage.ts";
import { type PromiseName, promises } from "./bugs.ts";
import { html, Keyed, say, set, show } from "./dom.ts";
import { type Instant, type ScriptedAct } from "./state.ts";

/** The subject of the card. */
export type Topic = {
  readonly lesson?: {
    readonly choice: LessonChoice;
    /** Its place in the list, from 1 on, and the length of the list. */
    readonly number: number;
    readonly count: number;
    readonly part: number;
    readonly prepared: PreparedPart;
  };
  readonly bug?: BugChoice;
  /** The bug that this seed showed before it was taken out. */
  readonly without?: BugChoice;
};

/** So many events lead to a verdict. */
const BEFORE = 40;

export type GuideActs = {
  goTo(event: number): void;
  /** Goes to an event and plays from there to another one. */
  watch(from: number, to: number): void;
  /** Plays until this event. */
  playTo(event: number): void;
  openPart(part: number): void;
  openNextLesson(): void;
  takeBugOut(): void;
  plantAgain(): void;
  openLessons(): void;
  openBugs(): void;
};

type Paragraph = PreparedPart["paragraphs"][number];
type Button = { readonly label: string; readonly isMain?: boolean; readonly act: () => void };

/** The content of the card: computed from the topic and the instant. */
type Card = {
  readonly kicker: string;
  readonly title: string;
  readonly text: string;
  readonly verdict: string;
  /** The promise of Figure 3 that is at stake. */
  readonly promise?: string;
  readonly steps: readonly { readonly isDone: boolean; readonly isNow: boolean; event: number }[];
  readonly buttons: readonly Button[];
  /** The parts of a lesson that has several. */
  readonly parts?: readonly PartLink[];
};
type PartLink = { readonly title: string; readonly isNow: boolean; readonly open: () => void };

/** Returns the paragraphs up to the first act that differs between two runs. */
export function paragraphsInStep(
  { script, paragraphs }: PreparedPart,
  acts: readonly ScriptedAct[],
): readonly Paragraph[] {
  const length = Math.max(acts.length, script.acts.length);
  for (let at = 0; at < length; at += 1) {
    const [mine, theirs] = [acts[at], script.acts[at]];
    if (JSON.stringify(mine) === JSON.stringify(theirs)) continue;
    const apart = Math.min(mine?.event ?? Infinity, theirs?.event ?? Infinity);
    return paragraphs.filter(({ event }) => event <= apart);
  }
  return paragraphs;
}

export class Guide {
  readonly root: HTMLElement;
  private readonly kicker = html("p", { class: "kicker" });
  private readonly title = html("h2", {});
  private readonly text = html("p", { class: "text" });
  private readonly verdict = html("p", { class: "verdict", role: "alert" });
  private readonly promise = html("p", { class: "promise" });
  private readonly steps: Keyed<Card["steps"][number], StepShape>;
  private readonly buttons: Keyed<Button, ButtonShape>;
  private readonly parts: Keyed<PartLink, PartShape>;
  private drawn:
    | { instant: Instant; topic: Topic; acts: unknown; isPlaying: boolean }
    | undefined;

  constructor(private readonly acts: GuideActs) {
    const [steps, buttons] = [html("div", { class: "dots" }), html("div", { class: "buttons" })];
    const parts = html("div", { class: "parts", role: "group", "aria-label": "Parts" });
    this.root = html(
      "section",
      { class: "guide", "aria-label": "The guide" },
      this.kicker,
      this.title,
      parts,
      html("div", { class: "words", "aria-live": "polite" }, this.text, this.verdict, this.promise),
      html("div", { class: "foot" }, steps, buttons),
    );
    this.steps = new Keyed(
      steps,
      () => new StepShape((event) => acts.goTo(event)),
      (shape, step) => shape.update(step),
    );
    this.parts = new Keyed(parts, () => new PartShape(), (shape, one) => shape.update(one));
    this.buttons = new Keyed(buttons, () => new ButtonShape(), (shape, one) => shape.update(one));
  }

  show(
    instant: Instant,
    topic: Topic,
    acts: readonly ScriptedAct[],
    isPlaying: boolean,
  ): void {
    const { drawn } = this;
    const isSame = drawn?.instant === instant && drawn.topic === topic && drawn.acts === acts
      && drawn.isPlaying === isPlaying;
    if (isSame) return;
    this.drawn = { instant, topic, acts, isPlaying };
    const card = topic.lesson
      ? this.lessonCard(instant, topic.lesson, acts, isPlaying)
      : this.worldCard(instant, topic);
    const [kicker, title, text] = [this.kicker, this.title, this.text];
    const texts = [[kicker, card.kicker], [title, card.title], [text, card.text]] as const;
    for (const [element, words] of texts) {
      say(element, words);
      show(element, words !== "");
    }
    say(this.verdict, card.verdict);
    say(this.promise, card.promise ?? "");
    show(this.verdict, card.verdict !== "");
    set(this.root, "class", card.verdict === "" ? "guide" : "guide broken");
    this.parts.show(card.parts ?? [], (_, at) => `${at}`);
    this.steps.show(card.steps, (_, at) => `${at}`);
    this.buttons.show(card.buttons, (_, at) => `${at}`);
  }

  private lessonCard(
    instant: Instant,
    { choice, number, count, part, prepared }: NonNullable<Topic["lesson"]>,
    acts: readonly ScriptedAct[],
    isPlaying: boolean,
  ): Card {
    const { event } = instant;
    const paragraphs = paragraphsInStep(prepared, acts);
    const at = paragraphs.findLastIndex((one) => one.event <= event);
    const next = paragraphs[at + 1];
    const before = paragraphs[at - 1];
    const isOwn = paragraphs.length < prepared.paragraphs.length && !next;
    const buttons: Button[] = [];
    if (before) buttons.push({ label: "Back", act: () => this.acts.goTo(before.event) });
    if (next) {
      buttons.push({
        label: isPlaying ? "Skip" : "Go on",
        isMain: true,
        act: () => this.acts.playTo(next.event),
      });
    }
    if (!next && part + 1 < choice.parts.length) {
      const label = `Part ${part + 2}: ${choice.parts[part + 1]?.title ?? ""}`;
      buttons.push({ label, isMain: true, act: () => this.acts.openPart(part + 1) });
    } else if (!next && number < count) {
      buttons.push({ label: "Next lesson", isMain: true, act: () => this.acts.openNextLesson() });
    }
    const parts = choice.parts.map(({ title }, i) => ({
      title: `${i + 1}. ${title}`,
      isNow: i === part,
      open: () => this.acts.openPart(i),
    }));
    return {
      kicker: `Lesson ${number} of ${count} · ${choice.cites}`,
      title: choice.title,
      ...(parts.length > 1 ? { parts } : {}),
      text: isOwn && event > (paragraphs[at]?.event ?? 0)
        ? "You went another way than the lesson. Undo (u) leads back to it."
        : paragraphs[at]?.text ?? choice.about,
      verdict: instant.verdict ? sentence(instant) : "",
      steps: paragraphs.map((one, i) => ({ event: one.event, isDone: i < at, isNow: i === at })),
      buttons,
    };
  }

  private worldCard(instant: Instant, { bug, without }: Topic): Card {
    const { verdict, event } = instant;
    const steps: Card["steps"] = [];
    if (bug) {
      const watch: Button[] = verdict
        ? [{ label: "Replay the end", act: () => this.acts.watch(event - BEFORE, event) }]
        : [];
      return {
        kicker: `Planted bug ${bug.id}`,
        title: bug.title,
        text: bug.about,
        promise: promiseAt(instant, bug),
        verdict: verdict ? sentence(instant) : "",
        steps,
        buttons: [...watch, {
          label: "Same seed without the bug",
          isMain: true,
          act: () => this.acts.takeBugOut(),
        }],
      };
    }
    if (without) {
      return {
        kicker: "The same seed without the bug",
        title: verdict ? verdict.promise : "No promise is broken here",
        text:
          `The bug was: ${without.title}. Without it the judge has nothing to say at this event.`,
        verdict: verdict ? sentence(instant) : "",
        steps,
        buttons: [{
          label: "Plant the bug again",
          isMain: true,
          act: () => this.acts.plantAgain(),
        }],
      };
    }
    const welcome =
      "Every server here runs Part I of the file that you can read below. Press play. "
      + "Then select a server and kill it, cut a link, or write a value, and watch the others "
      + "repair it.";
    return {
      kicker: event === 0
        ? "Welcome"
        : "Your acts become part of the run. The key ? explains keys and signs.",
      title: event === 0 ? "This is the real raft.ts, in slow motion" : verdict?.promise ?? "",
      text: event === 0 ? welcome : "",
      verdict: verdict ? sentence(instant) : "",
      steps,
      buttons: [
        { label: "Begin with a lesson", isMain: true, act: () => this.acts.openLessons() },
        { label: "Plant a bug", act: () => this.acts.openBugs() },
      ],
    };
  }
}

/** Returns the promise of Figure 3 that is broken, or that the broken rule protects. */
function promiseAt({ verdict }: Instant, { protects }: BugChoice): string {
  if (!verdict) return "";
  const own = promiseNames.find((name) => name.toLowerCase() === verdict.promise.toLowerCase());
  const name = own ?? protects;
  if (!name) return "";
  return `Figure 3, ${name}: ${promises[name]}.`;
}

const promiseNames = Object.keys(promises) as readonly PromiseName[];

function sentence({ verdict }: Instant): string {
  return verdict ? `The judge finds a broken rule. ${verdict.sentence}` : "";
}

class StepShape {
  readonly root = html("button", { type: "button", class: "dot" });
  private event = 0;

  constructor(goTo: (event: number) => void) {
    this.root.addEventListener("click", () => goTo(this.event));
  }

  update({ isDone, isNow, event }: Card["steps"][number]): void {
    this.event = event;
    set(this.root, "class", `dot${isDone ? " done" : ""}${isNow ? " now" : ""}`);
    set(this.root, "aria-label", `Go to event ${event} of the lesson`);
    set(this.root, "aria-current", isNow ? "step" : undefined);
  }
}

class PartShape {
  readonly root = html("button", { type: "button", class: "plain" });
  private open: () => void = () => {};

  constructor() {
    this.root.addEventListener("click", () => this.open());
  }

  update({ title, isNow, open }: PartLink): void {
    this.open = open;
    say(this.root, title);
    set(this.root, "aria-current", isNow ? "true" : undefined);
  }
}

class ButtonShape {
  readonly root = html("button", { type: "button" });
  private act: () => void = () => {};

  constructor() {
    this.root.addEventListener("click", () => this.act());
  }

  update({ label, isMain = false, act }: Button): void {
    this.act = act;
    say(this.root, label);
    set(this.root, "class", isMain ? "main" : undefined);
  }
}
