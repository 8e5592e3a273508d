/// <reference lib="dom" />
/** Draws the panel: facts of the selection, and buttons for the acts. */
import { colourOf } from "./colours.ts";
import { html, Keyed, say, set, show } from "./dom.ts";
import { type Frame, NOTHING, type Select, type Selection } from "./frame.ts";
import { type Choice, contentOf, type Fact, type Group } from "./panel.ts";
import { type Act, type Instant } from "./state.ts";

export class Inspector {
  readonly root: HTMLElement;
  private readonly title = html("h2", {});
  private readonly subtitle = html("p", { class: "subtitle" });
  private readonly close = html("button", {
    class: "close",
    type: "button",
    "aria-label": "Select nothing",
    title: "Select nothing (Esc)",
  }, "×");
  private readonly facts: Keyed<Fact, FactShape>;
  private readonly groups: Keyed<Group, GroupShape>;
  private drawn: { instant: Instant; selection: Selection } | undefined;

  constructor(select: Select, act: (act: Act) => void) {
    const [facts, groups] = [html("dl", {}), html("div", { class: "groups" })];
    this.close.addEventListener("click", () => select(NOTHING));
    this.root = html(
      "section",
      { class: "panel", "aria-label": "The selection" },
      html("header", {}, this.title, this.close),
      this.subtitle,
      facts,
      groups,
    );
    const choose = ({ does }: Choice) =>
      does.kind === "select" ? select(does.selection) : act(does);
    this.facts = new Keyed(facts, () => new FactShape(), (shape, one) => shape.update(one));
    this.groups = new Keyed(
      groups,
      () => new GroupShape(choose),
      (shape, group) => shape.update(group),
    );
  }

  show({ instant, selection }: Frame): void {
    if (this.drawn?.instant === instant && this.drawn.selection === selection) return;
    this.drawn = { instant, selection };
    const { title, subtitle, term, facts, groups } = contentOf(instant, selection);
    say(this.title, title);
    say(this.subtitle, subtitle);
    show(this.close, selection.kind !== "none");
    const style = term === undefined ? undefined : `--term: ${colourOf(term)}`;
    set(this.root, "style", style);
    const classes = ["panel", term === undefined ? "" : "coloured"];
    if (selection.kind !== "none") classes.push("chosen");
    set(this.root, "class", classes.join(" ").trim());
    this.facts.show(facts, ({ name }) => name);
    this.groups.show(groups, (group) => group.title);
  }
}

class FactShape {
  private readonly name = html("dt", {});
  private readonly value = html("dd", {});
  readonly root = html("div", {}, this.name, this.value);

  update({ name, value }: Fact): void {
    say(this.name, name);
    say(this.value, value);
  }
}

class GroupShape {
  private readonly title = html("h3", {});
  private readonly list = html("div", { class: "choices" });
  readonly root = html("div", { class: "group" }, this.title, this.list);
  private readonly choices: Keyed<Choice, ChoiceShape>;

  constructor(choose: (choice: Choice) => void) {
    this.choices = new Keyed(
      this.list,
      () => new ChoiceShape(choose),
      (shape, one) => shape.update(one),
    );
  }

  update({ title, choices }: Group): void {
    say(this.title, title);
    // A button that changes its meaning, such as Pause and Resume, keeps its place and the focus.
    this.choices.show(choices, (_, at) => `${at}`);
  }
}

class ChoiceShape {
  readonly root = html("button", { type: "button" });
  private choice: Choice | undefined;

  constructor(choose: (choice: Choice) => void) {
    this.root.addEventListener("click", () => {
      if (this.choice) choose(this.choice);
    });
  }

  update(choice: Choice): void {
    this.choice = choice;
    say(this.root, choice.label);
    set(this.root, "title", choice.help);
    set(this.root, "class", choice.tone);
    set(this.root, "disabled", choice.isDisabled ?? false);
    set(this.root, "aria-pressed", choice.tone === "on" ? "true" : undefined);
  }
}
