/// <reference lib="dom" />
/** Draws the head of the page, and its cards: lessons, bugs, world, share, and the card of keys. */
import { type BugChoice, type LessonChoice } from "./backstage.ts";
import { type Attributes, html, say, set } from "./dom.ts";
import { type Script, type WorldKind } from "./state.ts";

export const HELP: readonly (readonly [keys: string, does: string])[] = [
  ["Space", "play or pause"],
  ["→  ←", "one event forward, one event back"],
  ["Home  End", "to the start, to the last event so far"],
  ["+  -", "faster, slower"],
  ["n", "the lesson goes on"],
  ["1 to 7", "select a server, in the order of the ring"],
  ["m", "select the next message in flight"],
  ["e", "select the newest entry of the selected server, or of the leader"],
  [",  .", "the entry before, the entry after"],
  ["Esc", "select nothing, close a card"],
  ["k", "kill or restart the selected server"],
  ["u", "undo the last act"],
  ["Tab  Enter", "reach and press every button"],
  ["l  b  o", "lessons, bugs, world"],
  ["s", "share: the address of this scene"],
  ["w", "the source wide, comments beside code"],
  ["p", "large, for a projector"],
  ["t", "light or dark"],
  ["?", "this card"],
];

const worldNames: Readonly<Record<WorldKind, readonly [name: string, about: string]>> = {
  calm: ["Calm", "Nothing fails unless you make it fail."],
  chance: ["Chance", "The seed draws crashes, cuts, delays and losses. Clients work."],
  seed: ["Seed of the tests", "The run of the project's simulator for this seed, event for event."],
};

export type ControlActs = {
  openLesson(id: string): void;
  openBug(id: string): void;
  openScript(script: Script): void;
  /** The address of the present scene. */
  address(): string;
  project(): void;
  changeTheme(): void;
};

export type CardName = "lessons" | "bugs" | "world" | "share" | "help";

export class Controls {
  readonly root: HTMLElement;
  private readonly scene = html("p", { class: "scene" });
  private readonly cards = new Map<CardName, HTMLDialogElement>();
  private readonly address = html("input", {
    type: "text",
    readonly: true,
    "aria-label": "Address",
  });
  private readonly copied = html("span", { class: "copied", role: "status" });
  private readonly form: WorldForm;
  private script: Script | undefined;

  constructor(
    lessons: readonly LessonChoice[],
    bugs: readonly BugChoice[],
    private readonly acts: ControlActs,
  ) {
    this.form = new WorldForm((script) => {
      this.close();
      acts.openScript(script);
    });
    this.add(
      "lessons",
      "Lessons",
      lessonList(lessons, (id) => this.pick(() => acts.openLesson(id))),
    );
    this.add("bugs", "Plant a bug", bugList(bugs, (id) => this.pick(() => acts.openBug(id))));
    this.add("world", "The world", this.form.root);
    this.add("share", "Share this scene", this.shareCard());
    this.add("help", "Keys and signs", helpCard());
    const open = (name: CardName, label: string, help: string) =>
      html("button", { type: "button", title: help, click: () => this.open(name) }, label);
    const icon = (sign: string, label: string, act: () => void) =>
      html(
        "button",
        { type: "button", class: "icon", "aria-label": label, title: label, click: act },
        sign,
      );
    this.root = html(
      "header",
      { class: "top" },
      html("h1", {}, "raft.ts ", html("span", {}, "theatre")),
      this.scene,
      html(
        "nav",
        { "aria-label": "Menu" },
        open("lessons", "Lessons", "Prepared scenes with text (l)"),
        open("bugs", "Bugs", "Plant a famous bug (b)"),
        open("world", "World", "Seed, servers and chance (o)"),
        open("share", "Share", "The address of this scene (s)"),
        icon("⤢", "Large, for a projector (p)", () => acts.project()),
        icon("◐", "Light or dark (t)", () => acts.changeTheme()),
        icon("?", "Keys (?)", () => this.open("help")),
      ),
      ...this.cards.values(),
    );
  }

  /** Names the scene in the head. */
  show(name: string, script: Script): void {
    say(this.scene, name);
    this.script = script;
  }

  get isOpen(): boolean {
    return [...this.cards.values()].some(({ open }) => open);
  }

  open(name: CardName): void {
    this.close();
    if (name === "share") {
      this.address.value = this.acts.address();
      say(this.copied, "");
    }
    if (name === "world" && this.script) this.form.fill(this.script);
    this.cards.get(name)?.showModal();
    // The first choice has the focus, not the button that closes the card.
    const first = this.cards.get(name)?.querySelector("li button, input:checked");
    if (first instanceof HTMLElement) first.focus();
    if (name === "share") this.address.select();
  }

  close(): void {
    for (const card of this.cards.values()) card.close();
  }

  private pick(act: () => void): void {
    this.close();
    act();
  }

  private add(name: CardName, title: string, content: HTMLElement): void {
    const card = html("dialog", { class: `card ${name}`, "aria-label": title });
    const close = html(
      "button",
      { type: "button", class: "close", "aria-label": "Close", click: () => card.close() },
      "×",
    );
    card.append(html("header", {}, html("h2", {}, title), close), content);
    card.addEventListener("click", (event) => {
      if (event.target === card) card.close();
    });
    this.cards.set(name, card);
  }

  private shareCard(): HTMLElement {
    const copy = html("button", { type: "button", class: "main" }, "Copy");
    copy.addEventListener("click", () => {
      this.address.select();
      const isCopied = document.execCommand("copy");
      say(this.copied, isCopied ? "Copied." : "Press Ctrl-C to copy it.");
    });
    return html(
      "div",
      {},
      html(
        "p",
        {},
        "The address holds seed, settings and everything that you did. On the same build of this "
          + "page it shows the same scene, event for event.",
      ),
      html("div", { class: "copy" }, this.address, copy),
      this.copied,
    );
  }
}

/** Returns an item of a list: a button with a title, and spans of these classes. */
function choice(
  attributes: Attributes,
  title: string,
  spans: Readonly<Record<string, string>>,
): HTMLElement {
  const words = Object.entries(spans).map(([name, text]) => html("span", { class: name }, text));
  const button = html("button", { type: "button", ...attributes }, html("b", {}, title), ...words);
  return html("li", {}, button);
}

function lessonList(lessons: readonly LessonChoice[], open: (id: string) => void): HTMLElement {
  const items = lessons.map(({ id, title, cites, about }) =>
    choice({ "data-lesson": id, click: () => open(id) }, title, { cites, about })
  );
  return html("ol", { class: "choices" }, ...items);
}

function bugList(bugs: readonly BugChoice[], open: (id: string) => void): HTMLElement {
  const items = bugs.map(({ id, title, about }) =>
    choice({ "data-bug": id, click: () => open(id) }, title, { about })
  );
  return html("ul", { class: "choices" }, ...items);
}

function helpCard(): HTMLElement {
  const rows = HELP.map(([keys, does]) =>
    html("div", {}, html("dt", {}, ...kbd(keys)), html("dd", {}, does))
  );
  const meanings = signs.map(([sign, meaning]) =>
    html("div", {}, html("dt", {}, sign), html("dd", {}, meaning))
  );
  return html(
    "div",
    {},
    html("dl", { class: "keys" }, ...rows),
    html("h3", {}, "Signs of the stage"),
    html("dl", { class: "keys signs" }, ...meanings),
  );
}

/** The signs of the stage, for the card of keys. */
const signs: readonly (readonly [sign: string, meaning: string])[] = [
  ["Colour", "the term, which also stands as a number: of servers, messages and entries"],
  ["Crown", "the leader"],
  ["Ring", "the election timer, which runs down"],
  ["Dashes", "a candidate; dots: a server that is down"],
  ["Pill", "a message about votes; a box carries entries; a double box a snapshot"],
  ["Pale", "a reply; an arrow without words: a message that Figure 2 does not have"],
  ["Red dots", "a cut link, one way if there is an arrow; amber: a link that holds messages back"],
];

const kbd = (keys: string) => keys.split("  ").map((key) => html("kbd", {}, key));

/** Asks for world, servers and seed. */
class WorldForm {
  readonly root: HTMLFormElement;
  private readonly servers = html("input", { type: "number", min: 1, max: 7, required: true });
  private readonly seed = html("input", { type: "number", min: 0, step: 1, required: true });
  private readonly worlds: readonly HTMLInputElement[];

  constructor(open: (script: Script) => void) {
    const kinds: readonly WorldKind[] = ["calm", "chance", "seed"];
    this.worlds = kinds.map((kind) => html("input", { type: "radio", name: "world", value: kind }));
    const options = this.worlds.map((input, at) => {
      const [name, about] = worldNames[kinds[at] ?? "calm"];
      return html(
        "label",
        { class: "option" },
        input,
        html("b", {}, name),
        html("span", {}, about),
      );
    });
    this.root = html(
      "form",
      { class: "world", method: "dialog" },
      html("fieldset", {}, html("legend", {}, "Faults"), ...options),
      html("label", {}, "Servers ", this.servers),
      html("label", {}, "Seed ", this.seed),
      html("button", { type: "submit", class: "main" }, "Open"),
    );
    for (const input of this.worlds) input.addEventListener("change", () => this.adapt());
    this.root.addEventListener("submit", (event) => {
      event.preventDefault();
      open({
        world: this.world,
        seed: this.seed.valueAsNumber,
        servers: this.servers.valueAsNumber,
        acts: [],
      });
    });
  }

  private get world(): WorldKind {
    const value = this.worlds.find(({ checked }) => checked)?.value;
    return value === "chance" || value === "seed" ? value : "calm";
  }

  /** A seed of the tests draws its own number of servers. */
  private adapt(): void {
    set(this.servers, "disabled", this.world === "seed");
  }

  fill({ world, seed, servers }: Script): void {
    for (const input of this.worlds) input.checked = input.value === world;
    this.servers.value = `${servers}`;
    this.seed.value = `${seed}`;
    this.adapt();
  }
}
