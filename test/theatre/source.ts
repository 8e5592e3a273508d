/// <reference lib="dom" />
/** Draws the source: the handler that ran, with the comments of raft.ts beside its code. */
import { type Backstage } from "./backstage.ts";
import { type Method, type SourceIndex } from "./build/shape.ts";
import { html, Keyed, say, set, show } from "./dom.ts";
import { type Frame } from "./frame.ts";
import {
  type Changes,
  flow,
  HEART,
  isPlumbing,
  linesThatRan,
  listMethod,
  mainMethod,
  methodsThatRan,
  type Pair,
} from "./listing.ts";
import { type Instant } from "./state.ts";

/** So many names of methods stand above the source. */
const NAMES = 9;

export class Source {
  readonly root: HTMLElement;
  private readonly title = html("h2", {}, "raft.ts");
  private readonly section = html("p", { class: "section" });
  private readonly names: Keyed<Method, NameShape>;
  private readonly rows: Keyed<Pair, RowShape>;
  private readonly text = html("div", { class: "text", tabindex: 0, role: "region" });
  private changes: Changes | undefined;
  private drawn: Instant | undefined;
  /** The method that the visitor has chosen, until the next event. */
  private chosen: Method | undefined;
  private shown: Method | undefined;
  private ran: readonly Method[] = [];
  private lines: ReadonlySet<number> = new Set();

  constructor(private readonly index: SourceIndex, widen: () => void) {
    const names = html("div", { class: "names" });
    this.names = new Keyed(
      names,
      () => new NameShape((one) => this.choose(one)),
      (shape, one) => shape.update(one, one === this.shown),
    );
    this.rows = new Keyed(this.text, () => new RowShape(), (shape, pair) => shape.update(pair));
    const wide = html("button", { type: "button", class: "plain", click: widen }, "Wide");
    set(wide, "title", "Show comments beside the code (w)");
    set(this.text, "aria-label", "The source that ran");
    this.root = html(
      "section",
      { class: "source", "aria-label": "The source" },
      html("header", {}, this.title, wide),
      this.section,
      names,
      this.text,
    );
  }

  /** Shows the source with this bug planted, or without one. */
  plant(bug: string | undefined, planted: Backstage["planted"]): void {
    this.changes = planted.find(({ id }) => id === bug);
    this.drawn = undefined;
    this.shown = undefined;
    this.chosen = undefined;
  }

  private choose(method: Method): void {
    this.chosen = method;
    this.list();
  }

  show({ instant }: Frame): void {
    if (this.drawn === instant) return;
    this.drawn = instant;
    this.chosen = undefined;
    const { ran, happened } = instant;
    this.lines = linesThatRan(this.index, this.changes, ran);
    const methods = methodsThatRan(this.index, this.changes, ran);
    const main = mainMethod(methods, this.changes, this.lines, happened);
    this.ran = methods;
    // Where the judge speaks, the planted lines are shown, although they may have run earlier.
    const bug = instant.verdict && this.planted();
    // In an event without source of Part I, such as a cut link, no line has run.
    const heart = this.index.methods.find(({ name }) => name === HEART);
    this.shown = bug ?? main ?? this.planted() ?? heart;
    this.list();
  }

  /** Returns the method that the bug changes. */
  private planted(): Method | undefined {
    const [change] = this.changes?.source ?? [];
    return change
      && this.index.methods.find(({ first, last }) => first <= change.at && change.at <= last);
  }

  private list(): void {
    if (this.chosen) this.shown = this.chosen;
    const { shown } = this;
    if (!shown) return;
    const section = this.index.sections.find(({ number }) => number === shown.section);
    say(this.title, `raft.ts: ${shown.name.replace("Raft.", "")}`);
    const cited = shown.cited.length > 0 ? shown.cited.join(", ") : section?.readWith ?? "";
    const place = section ? `Section ${section.number}, ${section.title}` : "";
    say(this.section, cited && section ? `${place}. Beside the paper: ${cited}` : place);
    const telling = this.ran.filter((one) => one === shown || !isPlumbing(one.name));
    const others = telling.includes(shown) ? telling : [shown, ...telling];
    const names = others.slice(0, NAMES);
    this.names.show(
      names.includes(shown) ? names : [...names.slice(1), shown],
      ({ name, first }) => `${name} ${first}`,
    );
    const pairs = listMethod(this.index, shown, this.changes, this.lines);
    this.rows.show(pairs, (_, at) => `${shown.first} ${at}`);
    this.bringIntoView();
  }

  /** Scrolls to the first line that ran, or that is planted. */
  private bringIntoView(): void {
    const target = this.text.querySelector(".planted") ?? this.text.querySelector(".run");
    if (!(target instanceof HTMLElement)) return;
    const { top, bottom } = target.getBoundingClientRect();
    const view = this.text.getBoundingClientRect();
    if (top >= view.top && bottom <= view.bottom) return;
    this.text.scrollTop += top - view.top - view.height / 3;
  }
}

class NameShape {
  readonly root = html("button", { type: "button", class: "plain" });
  private method: Method | undefined;

  constructor(choose: (method: Method) => void) {
    this.root.addEventListener("click", () => {
      if (this.method) choose(this.method);
    });
  }

  update(method: Method, isShown: boolean): void {
    this.method = method;
    say(this.root, method.name.replace("Raft.", ""));
    set(this.root, "aria-current", isShown ? "true" : undefined);
  }
}

/** Writes a comment. Names in it that stand between backticks become code. */
function writeProse(element: HTMLElement, text: string): void {
  if (element.dataset["text"] === text) return;
  element.dataset["text"] = text;
  const pieces = text.split("`").map((piece, at) => at % 2 ? html("code", {}, piece) : piece);
  element.replaceChildren(...pieces);
}

/** A comment, and the code beside or below it. */
class RowShape {
  private readonly comment = html("p", { class: "comment" });
  private readonly code = html("pre", {});
  readonly root = html("div", { class: "pair" }, this.comment, this.code);

  update({ comment, code }: Pair): void {
    writeProse(this.comment, flow(comment));
    show(this.comment, comment !== "");
    while (this.code.children.length < code.length) this.code.append(html("code", {}));
    while (this.code.children.length > code.length) this.code.lastElementChild?.remove();
    code.forEach(({ text, state, hasRun, number }, at) => {
      const line = this.code.children[at];
      if (!line) return;
      const words = text.trimStart();
      say(line, words === "" ? " " : words);
      set(line, "style", `--indent: ${text.length - words.length}`);
      set(line, "class", `${state}${hasRun ? " run" : ""}`);
      set(line, "data-line", number);
    });
  }
}
