/// <reference lib="dom" />
/**
 * Draws the logs: a row for each server, a cell for each entry in the colour of its term, and where
 * the server has committed, applied and saved. The leader's followers also show how far the leader
 * knows their logs.
 */
import { type Name } from "../../raft.ts";
import { colourOf } from "./colours.ts";
import { html, Keyed, say, set, show } from "./dom.ts";
import { type Frame, type Select, type Selection } from "./frame.ts";
import { type Columns, columnsInView } from "./geometry.ts";
import { type EntryView, type FollowerView, type Instant, type ServerView } from "./state.ts";

/** Widths in rem: of a cell with its gap, and of the words beside the cells. */
const [CELL, BESIDE, NARROW_BESIDE] = [3.1, 19.5, 3.2];
/** Below this width the facts stand under the cells. */
const NARROW_PX = 640;

/** A row of the logs: a server, and what the leader knows of its log. */
type Row = {
  readonly server: ServerView;
  readonly known: FollowerView | undefined;
  readonly columns: Columns;
  readonly selection: Selection;
  readonly accused: readonly { readonly index: number; readonly term: number }[];
};

export class Logs {
  readonly root: HTMLElement;
  private readonly heads = html("div", { class: "cells" });
  private readonly rows: Keyed<Row, RowShape>;
  private readonly list = html("div", { class: "rows" });
  private readonly earlier = button("◂", "Earlier entries", () => this.shift(-8));
  private readonly later = button("▸", "Later entries", () => this.shift(8));
  private readonly newest = button("Newest", "The newest entries", () => this.pin(undefined));
  private room = 12;
  /** The first index in view, if the visitor has chosen it. */
  private pinned: number | undefined;
  private frame: Frame | undefined;
  private drawn:
    | { instant: Instant; selection: Selection; first: number; room: number }
    | undefined;

  constructor(select: Select) {
    this.rows = new Keyed(
      this.list,
      (name) => new RowShape(name, select),
      (shape, row) => shape.update(row),
    );
    const tools = html("div", { class: "tools" }, this.earlier, this.later, this.newest);
    this.root = html(
      "section",
      { class: "logs", "aria-label": "The logs" },
      html("div", { class: "row heads" }, html("span", { class: "who" }), this.heads, tools),
      this.list,
      legend(),
    );
    new ResizeObserver(() => this.resize()).observe(this.root);
  }

  private resize(): void {
    const width = this.root.clientWidth;
    if (width === 0) return;
    const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    const beside = width < NARROW_PX ? NARROW_BESIDE : BESIDE;
    this.room = Math.max(4, Math.floor((width / rem - beside - 2.2) / CELL));
    if (this.frame) this.show(this.frame);
  }

  private shift(by: number): void {
    this.pin(Math.max(1, (this.drawn?.first ?? 1) + by));
  }

  private pin(first: number | undefined): void {
    this.pinned = first;
    if (this.frame) this.show(this.frame);
  }

  show(frame: Frame): void {
    this.frame = frame;
    const { instant, selection } = frame;
    const { servers, verdict } = instant;
    const usual = columnsInView(servers.map(({ lastIndex }) => lastIndex), this.room);
    if (this.pinned !== undefined && this.pinned >= usual.first) this.pinned = undefined;
    const columns = { ...usual, first: this.pinned ?? usual.first };
    const { first } = columns;
    const { drawn, room } = this;
    const isSame = drawn?.instant === instant && drawn.selection === selection
      && drawn.first === first && drawn.room === room;
    if (isSame) return;
    this.drawn = { instant, selection, first, room };
    set(this.earlier, "disabled", first === 1);
    set(this.later, "disabled", first >= usual.first);
    show(this.newest, this.pinned !== undefined);
    const leader = leaderOf(instant);
    const rows = servers.map((server) => ({
      server,
      known: leader?.followers?.find(({ name }) => name === server.name),
      columns,
      selection,
      accused: verdict?.entries ?? [],
    }));
    this.showHeads(columns);
    this.rows.show(rows, ({ server }) => server.name);
  }

  private showHeads({ first, count }: Columns): void {
    while (this.heads.children.length < count) this.heads.append(html("span", { class: "head" }));
    while (this.heads.children.length > count) this.heads.lastElementChild?.remove();
    for (let at = 0; at < count; at += 1) {
      const head = this.heads.children[at];
      if (head) say(head, `${first + at}`);
    }
  }
}

/** Returns the leader of the highest term, which is the one whose view of the others counts. */
export function leaderOf({ servers }: Instant): ServerView | undefined {
  return servers.filter(({ role, status }) => role === "Leader" && status !== "down")
    .toSorted((a, b) => b.currentTerm - a.currentTerm)[0];
}

class RowShape {
  readonly root: HTMLElement;
  private readonly who = html("button", { class: "who", type: "button" });
  private readonly cells = html("div", { class: "cells" });
  private readonly facts = html("span", { class: "facts" });
  private readonly view = html("span", { class: "facts known" });

  constructor(private readonly name: Name, private readonly select: Select) {
    this.root = html(
      "div",
      { class: "row" },
      this.who,
      this.cells,
      html("div", { class: "beside" }, this.facts, this.view),
    );
    this.who.addEventListener("click", () => select({ kind: "server", name }));
    this.cells.addEventListener("click", (event) => this.choose(event));
  }

  private choose({ target }: Event): void {
    const index = target instanceof Element && target.closest("[data-index]");
    if (!index) return;
    const at = Number(index.getAttribute("data-index"));
    this.select({ kind: "entry", server: this.name, index: at });
  }

  update(row: Row): void {
    const { server, known, columns, selection } = row;
    const { name, status, role, currentTerm, lastIndex, commitIndex, lastApplied, savedIndex } =
      server;
    const isLeader = role === "Leader" && status !== "down";
    const isSelected = selection.kind === "server" && selection.name === name;
    set(this.root, "class", `row ${status}${isSelected ? " selected" : ""}`);
    set(this.root, "style", `--term: ${colourOf(currentTerm)}`);
    say(this.who, isLeader ? `${name} ♛` : name);
    const { first, count } = columns;
    while (this.cells.children.length < count) this.cells.append(makeCell());
    while (this.cells.children.length > count) this.cells.lastElementChild?.remove();
    for (let at = 0; at < count; at += 1) {
      const cell = this.cells.children[at];
      if (cell) dressCell(cell, first + at, row);
    }
    const isBehind = lastIndex > 0 && lastIndex < first;
    const last = lastIndex === 0 ? "empty log" : isBehind ? `ends at ${lastIndex}` : "";
    const shown = [
      last,
      `commit ${commitIndex}`,
      lastApplied === commitIndex ? "" : `applied ${lastApplied}`,
      savedIndex === lastIndex ? "" : `durable ${savedIndex}`,
      server.snapshotIndex > 0 ? `snapshot ${server.snapshotIndex}` : "",
    ];
    say(this.facts, shown.filter((word) => word !== "").join(" · "));
    say(
      this.view,
      known ? `match ${known.matchIndex} · next ${known.nextIndex} · ${known.mode}` : "",
    );
  }
}

function makeCell(): HTMLElement {
  return html("span", { class: "cell" }, html("b"), html("i"));
}

/** Shows the entry at an index, or a gap. */
function dressCell(cell: Element, index: number, row: Row): void {
  const { server, known, selection, accused } = row;
  const entry = server.entries[index - server.baseIndex - 1];
  const isBase = index <= server.baseIndex;
  const classes = ["cell"];
  if (isBase) classes.push("base");
  else if (!entry) classes.push("none");
  if (isBase) classes.push("committed");
  if (entry) {
    classes.push(index <= server.commitIndex ? "committed" : "pending");
    if (index === server.commitIndex) classes.push("commit");
    if (index <= server.lastApplied) classes.push("applied");
    if (index > server.savedIndex) classes.push("volatile");
  }
  if (entry && accused.some((one) => one.index === index)) classes.push("accused");
  if (known?.matchIndex === index) classes.push("match");
  if (known?.nextIndex === index) classes.push("next");
  const isChosen = selection.kind === "entry" && selection.index === index;
  if (isChosen) classes.push(selection.server === server.name ? "selected" : "beside-selected");
  set(cell, "class", classes.join(" "));
  const [number, text] = [cell.children[0], cell.children[1]];
  if (!number || !text) return;
  const isLastOfBase = index === server.baseIndex;
  const term = entry?.term ?? (isLastOfBase ? server.baseTerm : undefined);
  say(number, term === undefined ? "" : `${term}`);
  say(text, entry ? cellText(entry) : isLastOfBase ? "snap" : "");
  set(cell, "style", term === undefined ? undefined : `--term: ${colourOf(term)}`);
  set(cell, "data-index", entry ? index : undefined);
  const words = entry && `Entry ${index} of term ${entry.term}: ${entry.text}`;
  set(cell, "title", words ?? (isBase ? "In the snapshot" : undefined));
}

/** Returns what fits into a cell: a command, or the kind of another entry. */
function cellText({ kind, text }: EntryView): string {
  return { commands: text, members: "config", session: "session", noop: "no-op" }[kind];
}

function button(text: string, label: string, act: () => void): HTMLButtonElement {
  return html("button", { type: "button", "aria-label": label, title: label, click: act }, text);
}

/** Explains the signs of the cells. */
function legend(): HTMLElement {
  const sample = (classes: string, words: string) =>
    html(
      "span",
      {},
      html(
        "span",
        { class: `cell sample ${classes}`, style: `--term: ${colourOf(1)}` },
        html("b", {}, "1"),
      ),
      words,
    );
  return html(
    "p",
    { class: "legend", "aria-label": "Legend" },
    html("span", {}, "the number is the term"),
    sample("committed commit", "commit index"),
    sample("pending", "not committed"),
    sample("pending volatile", "not yet durable"),
    sample("committed applied", "applied"),
    sample("committed match", "matchIndex"),
    sample("none next", "nextIndex"),
  );
}
