/// <reference lib="dom" />
/** Draws the story: the lines up to the present, the newest one at the bottom. */
import { html, Keyed, say, set } from "./dom.ts";
import { type Instant, type StoryLine } from "./state.ts";
import { toldUpTo } from "./storyteller.ts";

/** Older lines leave the page; going back brings them again. */
const LINES = 120;

type Numbered = StoryLine & { readonly at: number; readonly isNow: boolean };

export class Narration {
  readonly root: HTMLElement;
  private readonly list = html("ol", { tabindex: 0, "aria-label": "The story so far" });
  private readonly empty = html("p", { class: "empty" }, "Nothing to tell yet: press play.");
  private readonly lines: Keyed<Numbered, LineShape>;
  private drawn: Instant | undefined;

  constructor(goTo: (event: number) => void) {
    this.lines = new Keyed(
      this.list,
      () => new LineShape(goTo),
      (shape, line) => shape.update(line),
    );
    this.root = html(
      "section",
      { class: "story", "aria-label": "The story" },
      html("h2", {}, "The story"),
      this.empty,
      this.list,
    );
  }

  show(instant: Instant, story: readonly StoryLine[]): void {
    if (this.drawn === instant) return;
    this.drawn = instant;
    const { event } = instant;
    const length = toldUpTo(story, event);
    const first = Math.max(0, length - LINES);
    const lines = story.slice(first, length)
      .map((line, at) => ({ ...line, at: first + at, isNow: line.event === event }));
    const last = lines.at(-1);
    // Between two lines the last one stays bright.
    if (last) lines.splice(-1, 1, { ...last, isNow: true });
    this.lines.show(lines, ({ at }) => `${at}`);
    this.empty.hidden = lines.length > 0;
    this.list.scrollTop = this.list.scrollHeight;
  }
}

class LineShape {
  private readonly time = html("span", { class: "ms" });
  private readonly words = html("span", {});
  private readonly button = html(
    "button",
    { type: "button", class: "plain" },
    this.time,
    this.words,
  );
  readonly root = html("li", {}, this.button);
  private event = 0;

  constructor(goTo: (event: number) => void) {
    this.button.addEventListener("click", () => goTo(this.event));
    set(this.button, "title", "Go to this event");
  }

  update({ event, ms, text, isNow }: Numbered): void {
    this.event = event;
    say(this.time, Math.round(ms).toLocaleString("en"));
    say(this.words, text);
    set(this.root, "class", isNow ? "now" : undefined);
  }
}
