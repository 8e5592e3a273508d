/// <reference lib="dom" />
/**
 * Draws a message in flight: a label in the colour of its term, with a tail towards its sender and
 * an arrow towards its receiver. The shape of the label tells what the message is about.
 */
import { colourOf } from "./colours.ts";
import { say, set, show, svg } from "./dom.ts";
import { type Frame, type Select } from "./frame.ts";
import { between, edgeOf, type Point, progress } from "./geometry.ts";
import { type Flight } from "./state.ts";
import { familyOf, shortWords, titleOf } from "./words.ts";

/** The tail covers this share of the way. */
const TAIL = 0.16;
const [HEIGHT, PADDING] = [21, 14];

/** The widths of words, in the font of the labels. Each is measured once. */
const widths = new Map<string, number>();
const pen = document.createElement("canvas").getContext("2d");

function widthOf(words: string): number {
  let width = widths.get(words);
  if (width === undefined) {
    if (pen) pen.font = `550 11.5px ${getComputedStyle(document.body).fontFamily}`;
    widths.set(words, width = pen?.measureText(words).width ?? words.length * 6.4);
  }
  return width;
}

export class FlightShape {
  readonly root: SVGGElement;
  private readonly tail = svg("line", { class: "tail" });
  private readonly box = svg("rect", { height: HEIGHT, y: -HEIGHT / 2 });
  private readonly inner = svg("rect", { class: "inner", height: HEIGHT - 5, y: 2.5 - HEIGHT / 2 });
  private readonly head = svg("path", { class: "head", d: "M7 0L-2-5.5V5.5Z" });
  private readonly words = svg("text", { y: 4 });
  private readonly lost = svg("path", { class: "lost", d: "M-8-8L8 8M-8 8L8-8" });
  private readonly label = svg("g", {}, this.head, this.box, this.inner, this.words, this.lost);
  private flight: Flight | undefined;

  constructor(select: Select) {
    this.root = svg("g", { class: "flight" }, this.tail, this.label);
    this.root.addEventListener("click", () => {
      if (this.flight) select({ kind: "flight", id: this.flight.id });
    });
  }

  update(
    flight: Flight,
    path: [Point, Point],
    frame: Frame,
    isDense: boolean,
    scale: number,
  ): void {
    const { selection, timeMs } = frame;
    const isSelected = selection.kind === "flight" && selection.id === flight.id;
    const lostAtMs = flight.lostAtMs ?? Infinity;
    const isLost = timeMs >= lostAtMs;
    const share = progress(Math.min(timeMs, lostAtMs), flight.sentMs, flight.arriveMs);
    // A message that the paper does not have is an arrow without words.
    const isSmall = !isSelected && (isDense || familyOf(flight) === "other");
    if (this.flight !== flight) this.dress(flight);
    const state = `${isSelected ? " selected" : ""}${isLost ? " gone" : ""}${
      isSmall ? " small" : ""
    }`;
    set(this.root, "class", `flight ${familyOf(flight)}${isReply(flight) ? " reply" : ""}${state}`);
    this.move(flight, path, share, isSmall ? 0 : scale);
    show(this.lost, isLost);
    // A lost message fades until it would have arrived.
    const rest = isLost
      ? 1 - progress(timeMs, lostAtMs, Math.max(flight.arriveMs, lostAtMs + 1))
      : 1;
    set(this.root, "opacity", rest.toFixed(2));
  }

  /** Writes the parts that stay the same while the message travels. */
  private dress(flight: Flight): void {
    this.flight = flight;
    const text = shortWords(flight);
    const width = widthOf(text) + PADDING;
    say(this.words, text);
    for (const [box, inset] of [[this.box, 0], [this.inner, 2.5]] as const) {
      set(box, "width", width - 2 * inset);
      set(box, "x", -width / 2 + inset);
      set(box, "rx", familyOf(flight) === "vote" ? HEIGHT / 2 - inset : 4 - inset / 2);
    }
    set(this.root, "style", `--term: ${flight.term === undefined ? "" : colourOf(flight.term)}`);
    set(this.root, "aria-label", `${titleOf(flight)} from ${flight.from} to ${flight.to}`);
  }

  /** `scale` is the size of the label, or 0 for an arrow alone. */
  private move(flight: Flight, path: [Point, Point], share: number, scale: number): void {
    const at = between(path, share);
    const start = between(path, Math.max(0, share - TAIL));
    const place = `translate(${at.x.toFixed(1)} ${at.y.toFixed(1)})`;
    set(this.label, "transform", `${place} scale(${scale === 0 ? 1 : scale.toFixed(2)})`);
    set(this.tail, "x1", start.x.toFixed(1));
    set(this.tail, "y1", start.y.toFixed(1));
    set(this.tail, "x2", at.x.toFixed(1));
    set(this.tail, "y2", at.y.toFixed(1));
    const [from, to] = path;
    const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
    const along = { x: (to.x - from.x) / length, y: (to.y - from.y) / length };
    const half = (widthOf(shortWords(flight)) + PADDING) / 2;
    const far = scale === 0 ? 3 : edgeOf(half, HEIGHT / 2, along) + 2;
    const angle = (Math.atan2(along.y, along.x) * 180) / Math.PI;
    const tip = `${(along.x * far).toFixed(1)} ${(along.y * far).toFixed(1)}`;
    set(this.head, "transform", `translate(${tip}) rotate(${angle.toFixed(1)})`);
  }
}

const isReply = ({ type }: Flight) => type.endsWith("Reply") || type === "Refusal";
