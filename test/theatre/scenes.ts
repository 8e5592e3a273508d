/**
 * Opens scenes: worlds, lessons, bugs and addresses. A scene is a run with its player, and what the
 * guide says about it.
 */
import { DEFAULT_SCRIPT, readAddress, type Scene, writeAddress } from "./address.ts";
import { type Backstage, type PreparedPart } from "./backstage.ts";
import { paragraphsInStep, type Topic } from "./guide.ts";
import { Player } from "./player.ts";
import { type Act, type Script, type ScriptedAct } from "./state.ts";
import { Storyteller } from "./storyteller.ts";
import { sceneName } from "./words.ts";

/** An event after the end of each seed: the run goes on until the judge speaks, or ends. */
const END = 200_000;

export class Scenes {
  player: Player;
  topic: Topic = {};
  /** The event that the run hurries to. */
  target: number | undefined;
  private lesson: { id: string; part: number } | undefined;
  private readonly prepared = new Map<string, PreparedPart | undefined>();

  /** `tell` shows a sentence; `opened` is told of a new scene; `clock` is real time. */
  constructor(
    private readonly backstage: Backstage,
    private readonly tell: (sentence: string) => void,
    private readonly opened: (name: string, script: Script) => void,
    private readonly clock: () => number,
  ) {
    this.player = this.makePlayer(DEFAULT_SCRIPT);
  }

  private makePlayer(script: Script): Player {
    return new Player(new Storyteller(this.backstage.open(script)), this.clock);
  }

  /** Tries something, and tells a mistake. */
  private attempt<Value>(act: () => Value): Value | undefined {
    try {
      return act();
    } catch (error) {
      this.tell(error instanceof Error ? error.message : String(error));
      return undefined;
    }
  }

  openAddress(hash: string): void {
    const scene = readAddress(hash);
    if ("mistake" in scene) {
      this.tell(scene.mistake);
      this.open({ script: DEFAULT_SCRIPT });
    } else this.open(scene);
  }

  open({ script, at = 0, lesson, part = 0 }: Scene, topic: Topic = {}): void {
    const { speed } = this.player;
    this.player = this.attempt(() => this.makePlayer(script)) ?? this.makePlayer(DEFAULT_SCRIPT);
    this.player.speed = speed;
    const bug = this.backstage.bugs.find(({ id }) => id === script.bug);
    this.topic = { ...topic, ...this.lessonTopic(lesson, part), ...(bug ? { bug } : {}) };
    this.lesson = lesson === undefined ? undefined : { id: lesson, part };
    this.target = at > 0 ? at : undefined;
    const name = this.topic.lesson?.choice.title ?? bug?.title ?? sceneName(script);
    this.opened(name, this.player.run.script);
  }

  /** Returns the address of the shown instant. */
  get address(): string {
    const { run: { script }, shown: { event } } = this.player;
    const lesson = this.lesson ? { lesson: this.lesson.id, part: this.lesson.part } : {};
    return writeAddress({ script, ...(event > 0 ? { at: event } : {}), ...lesson });
  }

  // ------------------------------------------- Lessons -------------------------------------------

  private lessonTopic(id: string | undefined, part: number): Pick<Topic, "lesson"> {
    const { lessons } = this.backstage;
    const at = lessons.findIndex((lesson) => lesson.id === id);
    const choice = lessons[at];
    const prepared = choice && this.prepare(choice.id, part);
    if (!choice || !prepared) return {};
    return { lesson: { choice, number: at + 1, count: lessons.length, part, prepared } };
  }

  /** Rehearses a part of a lesson, once. */
  private prepare(id: string, part: number): PreparedPart | undefined {
    const key = `${id} ${part}`;
    if (!this.prepared.has(key)) {
      this.prepared.set(key, this.attempt(() => this.backstage.prepare(id, part)));
    }
    return this.prepared.get(key);
  }

  openLesson(id: string, part = 0): void {
    const { lesson } = this.lessonTopic(id, part);
    if (!lesson) return;
    const { script, paragraphs: [first] } = lesson.prepared;
    this.open({ script, lesson: id, part, ...(first ? { at: first.event } : {}) });
  }

  openPart(part: number): void {
    if (this.lesson) this.openLesson(this.lesson.id, part);
  }

  openNextLesson(): void {
    const next = this.backstage.lessons[this.topic.lesson?.number ?? 0];
    if (next) this.openLesson(next.id);
  }

  /** Opens the next part of the lesson, or after its last part the next lesson. */
  openNext(): void {
    const { topic: { lesson }, player: { run } } = this;
    if (!lesson) return;
    const { choice, part, prepared } = lesson;
    // After an act of the visitor the lesson cannot go on. The guide asks for an undo.
    const inStep = paragraphsInStep(prepared, run.script.acts);
    if (inStep.length < prepared.paragraphs.length) return;
    if (part + 1 < choice.parts.length) this.openPart(part + 1);
    else this.openNextLesson();
  }

  /** Returns the event of the lesson's next paragraph. */
  get nextParagraph(): number | undefined {
    const { topic: { lesson }, player: { shown, run } } = this;
    if (!lesson) return undefined;
    return paragraphsInStep(lesson.prepared, run.script.acts)
      .find(({ event }) => event > shown.event)?.event;
  }

  // -------------------------------------------- Bugs --------------------------------------------

  /** Opens the scene of a bug where the judge speaks. */
  openBug(id: string): void {
    const bug = this.backstage.bugs.find((one) => one.id === id);
    if (bug) this.open({ script: bug.script, at: END });
  }

  takeBugOut(): void {
    const { topic: { bug: without }, player: { run, shown } } = this;
    const { bug: _, ...script } = run.script;
    this.open({ script, at: shown.event }, without ? { without } : {});
  }

  plantAgain(): void {
    const { without } = this.topic;
    if (without) this.openBug(without.id);
  }

  // -------------------------------------------- Acts --------------------------------------------

  act(act: Act): void {
    this.target = undefined;
    this.attempt(() => this.player.act(act));
  }

  /** Returns the last act, if the visitor did it. The acts of a lesson stay. */
  get undoable(): Act | undefined {
    const { acts } = this.player.run.script;
    const given = this.topic.lesson?.prepared.script.acts ?? [];
    return begins(given, acts) ? undefined : acts.at(-1)?.act;
  }

  undo(): void {
    if (!this.undoable) return;
    this.player.undo();
    const { player: { run, shown }, lesson, topic } = this;
    // With nothing of the visitor's left, the lesson gets its own future back.
    const prepared = topic.lesson?.prepared;
    if (lesson && prepared && begins(prepared.script.acts, run.script.acts)) {
      this.open({ script: prepared.script, at: shown.event, lesson: lesson.id, part: lesson.part });
    }
  }
}

/** Returns whether a list of acts begins with these. */
function begins(all: readonly ScriptedAct[], first: readonly ScriptedAct[]): boolean {
  return JSON.stringify(all.slice(0, first.length)) === JSON.stringify(first);
}
