/// <reference lib="dom" />
/**
 * Draws the ring: servers with role, term, vote and election timer, and the messages between them.
 * Each frame moves the elements that exist, and makes only new ones.
 */
import { type Name } from "../../raft.ts";
import { html, Keyed, say, set, show, svg } from "./dom.ts";
import { FlightShape } from "./flights.ts";
import { type Frame, type Select } from "./frame.ts";
import { between, lane, type Point, type Ring, ringOf } from "./geometry.ts";
import { ServerShape } from "./servers.ts";
import { type Flight, type Instant } from "./state.ts";
import { describeStage, tellHappening } from "./words.ts";

/** Each direction of a link has its own lane, so that requests and replies pass each other. */
const LANE = 7;
/** On a narrower stage the labels of messages shrink. */
const ROOMY = 560;
/** The size of the page's words, in pixels, that the shapes are drawn for. */
const USUAL_REM = 14.4;

/** Two servers, and the directions that their link is cut in or delays. */
type Pair = {
  readonly a: Name;
  readonly b: Name;
  readonly there: LinkState;
  readonly back: LinkState;
  readonly isSelected: boolean;
};
type LinkState = "open" | "cut" | "clogged";

export class Stage {
  readonly root: HTMLElement;
  private readonly happening = html("p", { class: "happening", role: "status" });
  private readonly description = html("p", { class: "unseen", id: "stage-words" });
  private readonly canvas = svg("svg", { role: "group", "aria-label": "The servers" });
  private readonly links: Keyed<Pair, LinkShape>;
  private readonly flights: Keyed<Flight, FlightShape>;
  private readonly servers: Keyed<Instant["servers"][number], ServerShape>;
  private readonly clients = svg(
    "g",
    { class: "clients" },
    svg("rect", { x: -27, y: -14, width: 54, height: 28, rx: 8 }),
    svg("text", { y: 4 }, "clients"),
  );
  private size = { width: 640, height: 460, scale: 1 };
  private ring: Ring = ringOf(0, 640, 460);
  private frame: Frame | undefined;
  private drawn: Instant | undefined;
  private described: Instant | undefined;

  constructor(select: Select) {
    const [links, flights, servers] = [svg("g"), svg("g"), svg("g")];
    this.canvas.append(links, this.clients, servers, flights);
    this.canvas.addEventListener("click", (event) => {
      if (event.target === this.canvas) select({ kind: "none" });
    });
    this.root = html(
      "main",
      { class: "stage", "aria-label": "The stage", "aria-describedby": "stage-words" },
      this.happening,
      this.canvas,
      this.description,
    );
    this.links = new Keyed(
      links,
      (key) => new LinkShape(key, select),
      (shape, pair) => shape.update(pair, this.placeOf(pair.a), this.placeOf(pair.b), this.ring),
    );
    this.flights = new Keyed(
      flights,
      () => new FlightShape(select),
      (shape, flight) => this.moveFlight(shape, flight),
    );
    this.servers = new Keyed(
      servers,
      (name) => new ServerShape(name, select),
      (shape, server) => {
        if (this.frame) {
          const at = this.frame.instant.servers.indexOf(server);
          const side = this.ring.sides[at] ?? "below";
          shape.update(server, this.placeOf(server.name), side, this.ring, this.frame);
        }
      },
    );
    new ResizeObserver(() => this.resize()).observe(this.canvas);
  }

  private resize(): void {
    const { width, height } = this.canvas.getBoundingClientRect();
    if (width === 0 || height === 0) return;
    const rem = Number.parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.size = { width, height, scale: rem / USUAL_REM };
    set(this.canvas, "viewBox", `0 0 ${Math.round(width)} ${Math.round(height)}`);
    if (this.frame) this.show(this.frame);
  }

  private placeOf(name: Name): Point {
    const at = this.frame?.instant.servers.findIndex((server) => server.name === name) ?? -1;
    return this.ring.places[at] ?? this.ring.clients;
  }

  show(frame: Frame): void {
    this.frame = frame;
    const { instant } = frame;
    const { servers, flights } = instant;
    this.ring = ringOf(servers.length, this.size.width, this.size.height, this.size.scale);
    this.links.show(pairsOf(frame), ({ a, b }) => `${a} ${b}`);
    this.servers.show(servers, ({ name }) => name);
    this.flights.show(flights, ({ id }) => `${id}`);
    const hasClients = flights.some(({ type }) => type === "Request" || type === "Reply");
    set(this.clients, "class", hasClients ? "clients busy" : "clients");
    const { clients: { x, y }, scale } = this.ring;
    set(this.clients, "transform", `translate(${x} ${y}) scale(${scale.toFixed(2)})`);
    if (this.drawn === instant) return;
    this.drawn = instant;
    // A screen reader would never end while the run plays.
    set(this.happening, "aria-live", "off");
    say(this.happening, tellHappening(instant.happened));
  }

  /** Tells the stage in words. The page does so when the run pauses, because it takes a while. */
  describe({ instant }: Frame): void {
    set(this.happening, "aria-live", "polite");
    if (this.described === instant) return;
    this.described = instant;
    say(this.description, describeStage(instant));
  }

  private moveFlight(shape: FlightShape, flight: Flight): void {
    if (!this.frame) return;
    const [from, to] = [this.placeOf(flight.from), this.placeOf(flight.to)];
    const path = lane(from, to, this.ring.radius + 12, LANE);
    const { width } = this.size;
    const isDense = this.frame.instant.flights.length > 22;
    shape.update(
      flight,
      path,
      this.frame,
      isDense,
      this.ring.scale * Math.max(0.82, Math.min(1, width / ROOMY)),
    );
  }

  focusServer(name: Name): void {
    this.servers.get(name)?.root.focus();
  }
}

function pairsOf({ instant: { servers, cuts, clogs }, selection }: Frame): Pair[] {
  const isOf = (from: Name, to: Name) => (link: { from: Name; to: Name }) =>
    link.from === from && link.to === to;
  const stateOf = (from: Name, to: Name): LinkState =>
    cuts.some(isOf(from, to)) ? "cut" : clogs.some(isOf(from, to)) ? "clogged" : "open";
  return servers.flatMap(({ name: a }, at) =>
    servers.slice(at + 1).map(({ name: b }) => ({
      a,
      b,
      there: stateOf(a, b),
      back: stateOf(b, a),
      isSelected: selection.kind === "link" && selection.from === a && selection.to === b,
    }))
  );
}

/** The line between two servers, with a red lane for each direction that is cut. */
class LinkShape {
  readonly root: SVGGElement;
  private readonly line = svg("line", { class: "wire" });
  private readonly hit = svg("line", { class: "hit" });
  private readonly lanes = [new LaneShape(), new LaneShape()] as const;

  constructor(key: string, select: Select) {
    const [from = "", to = ""] = key.split(" ");
    this.hit.addEventListener("click", () => select({ kind: "link", from, to }));
    const [there, back] = this.lanes;
    this.root = svg("g", { class: "link" }, this.line, there.root, back.root, this.hit);
  }

  update({ there, back, isSelected }: Pair, a: Point, b: Point, { radius }: Ring): void {
    set(this.root, "class", isSelected ? "link selected" : "link");
    placeLine(this.line, [a, b]);
    placeLine(this.hit, [a, b]);
    const isWhole = there === "cut" && back === "cut";
    set(this.line, "class", isWhole ? "wire severed" : "wire");
    const [first, second] = this.lanes;
    first.update(isWhole ? "whole" : there, lane(a, b, radius + 10, isWhole ? 0 : LANE));
    second.update(isWhole ? "open" : back, lane(b, a, radius + 10, LANE));
  }
}

/** One direction of a link that is not open: dashes, with a sign in the middle. */
class LaneShape {
  private readonly line = svg("line");
  private readonly sign = svg("path", { d: "M-6-6L6 6M-6 6L6-6" });
  private readonly head = svg("path", { class: "head", d: "M5 0L-5-5V5Z" });
  readonly root = svg("g", { class: "lane" }, this.line, this.sign, this.head);

  update(state: LinkState | "whole", path: [Point, Point]): void {
    show(this.root, state !== "open");
    if (state === "open") return;
    set(this.root, "class", `lane ${state}`);
    placeLine(this.line, path);
    const [from, to] = path;
    const angle = (Math.atan2(to.y - from.y, to.x - from.x) * 180) / Math.PI;
    // Lines cross in the middle: the sign of a single lane stands nearer to its sender.
    const { x, y } = between(path, state === "whole" ? 0.5 : 0.38);
    set(this.sign, "transform", `translate(${x.toFixed(1)} ${y.toFixed(1)})`);
    set(
      this.head,
      "transform",
      `translate(${to.x.toFixed(1)} ${to.y.toFixed(1)}) rotate(${angle})`,
    );
  }
}

function placeLine(line: SVGLineElement, [from, to]: readonly [Point, Point]): void {
  set(line, "x1", from.x.toFixed(1));
  set(line, "y1", from.y.toFixed(1));
  set(line, "x2", to.x.toFixed(1));
  set(line, "y2", to.y.toFixed(1));
}
