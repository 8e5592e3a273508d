/// <reference lib="dom" />
/** Draws time: play and pause, steps, speed, and a slider over the run with marks. */
import { html, Keyed, say, set, show } from "./dom.ts";
import { type Player, SPEEDS } from "./player.ts";
import { type Mark } from "./state.ts";

/** The visitor's acts on time. */
export type TimeActs = {
  playOrPause(): void;
  stepBack(): void;
  stepForward(): void;
  goTo(event: number): void;
  changeSpeed(by: number): void;
  undo(): void;
};

const PLAY = "M3 1.5V14.5L14 8Z";
const PAUSE = "M3 2H6.5V14H3ZM9.5 2H13V14H9.5Z";
const BACK = "M10.5 2V14L3.5 8ZM12 2H13.5V14H12Z";
const FORWARD = "M5.5 2V14L12.5 8ZM2.5 2H4V14H2.5Z";
const START = "M2 2H4V14H2ZM13.5 2V14L5 8Z";

function icon(path: string): string {
  return `<svg viewBox="0 0 16 16" aria-hidden="true"><path d="${path}"/></svg>`;
}

function iconButton(path: string, label: string, act: () => void, name: string): HTMLButtonElement {
  const made = html("button", { type: "button", "aria-label": label, title: label, class: name });
  made.innerHTML = icon(path);
  made.addEventListener("click", act);
  return made;
}

export class Timeline {
  readonly root: HTMLElement;
  private readonly play: HTMLButtonElement;
  private readonly slider = html("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 1,
    value: 0,
    "aria-label": "Events of the run",
  });
  private readonly marks: Keyed<Mark, MarkShape>;
  private readonly fill = html("i", { class: "fill" });
  private readonly now = html("output", { class: "now" });
  private readonly speed = html("output", {
    class: "speed-name",
    title: "Faster while no message is in flight",
  });
  private readonly undo: HTMLButtonElement;
  private length = 1;
  private drawn = "";

  constructor(acts: TimeActs) {
    this.play = iconButton(PLAY, "Play (space)", () => acts.playOrPause(), "play");
    const marks = html("div", { class: "marks" });
    this.marks = new Keyed(
      marks,
      () => new MarkShape((event) => acts.goTo(event)),
      (shape, mark) => shape.update(mark, this.length),
    );
    this.slider.addEventListener("input", () => acts.goTo(Number(this.slider.value)));
    this.undo = html("button", { type: "button", class: "undo", click: () => acts.undo() }, "Undo");
    const change = (by: number, sign: string, label: string) =>
      html(
        "button",
        { type: "button", "aria-label": label, title: label, click: () => acts.changeSpeed(by) },
        sign,
      );
    this.root = html(
      "footer",
      { class: "time", "aria-label": "Time" },
      html(
        "div",
        { class: "steps" },
        iconButton(START, "To the start (Home)", () => acts.goTo(0), "start"),
        iconButton(BACK, "One event back (←)", () => acts.stepBack(), "back"),
        this.play,
        iconButton(FORWARD, "One event forward (→)", () => acts.stepForward(), "forward"),
      ),
      html(
        "div",
        { class: "speed", role: "group", "aria-label": "Speed" },
        change(-1, "−", "Slower (-)"),
        this.speed,
        change(1, "+", "Faster (+)"),
      ),
      html("div", { class: "track" }, html("i", { class: "rail" }), this.fill, marks, this.slider),
      this.now,
      this.undo,
    );
  }

  /** `undoable` is the last act in words, if the visitor can undo it. */
  show(player: Player, marks: readonly Mark[], undoable: string | undefined): void {
    const { shown, isPlaying, run: { lastEvent, isEnded }, speed, timeMs } = player;
    // A run that goes on has some room after its present.
    this.length = isEnded ? Math.max(1, lastEvent) : Math.max(20, lastEvent * 1.04);
    set(this.slider, "max", Math.round(this.length));
    if (Number(this.slider.value) !== shown.event) this.slider.value = `${shown.event}`;
    const ms = Math.floor(timeMs).toLocaleString("en");
    set(this.slider, "aria-valuetext", `event ${shown.event}, ${Math.round(shown.nowMs)} ms`);
    set(this.fill, "style", `width: ${((100 * shown.event) / this.length).toFixed(2)}%`);
    say(this.now, `${ms} ms · event ${shown.event.toLocaleString("en")}`);
    say(this.speed, SPEEDS[speed]?.name ?? "");
    show(this.undo, undoable !== undefined);
    set(this.undo, "title", `Undo: ${undoable ?? ""} (u)`);
    const icons = isPlaying ? "pause" : "play";
    if (this.play.dataset["icon"] !== icons) {
      this.play.dataset["icon"] = icons;
      this.play.innerHTML = icon(isPlaying ? PAUSE : PLAY);
      set(this.play, "aria-label", isPlaying ? "Pause (space)" : "Play (space)");
      set(this.play, "title", isPlaying ? "Pause (space)" : "Play (space)");
    }
    const key = `${marks.length} ${this.length}`;
    if (key === this.drawn) return;
    this.drawn = key;
    this.marks.show(marks, ({ event, kind, text }) => `${event} ${kind} ${text}`);
  }
}

class MarkShape {
  readonly root = html("button", { type: "button", class: "mark", tabindex: -1 });
  private event = 0;

  constructor(goTo: (event: number) => void) {
    this.root.addEventListener("click", () => goTo(this.event));
  }

  update({ event, kind, text, ms }: Mark, length: number): void {
    this.event = event;
    const words = `${Math.round(ms).toLocaleString("en")} ms: ${text}`;
    set(this.root, "class", `mark ${kind}`);
    set(this.root, "title", words);
    set(this.root, "aria-label", words);
    set(this.root, "style", `left: ${((100 * event) / length).toFixed(2)}%`);
  }
}
