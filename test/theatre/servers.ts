/// <reference lib="dom" />
/** Draws a server of the ring. */
import { type Name } from "../../raft.ts";
import { colourOf } from "./colours.ts";
import { say, set, show, svg } from "./dom.ts";
import { type Frame, type Select } from "./frame.ts";
import { arc, type Point, type Ring, type Side } from "./geometry.ts";
import { type Happening, type ServerView } from "./state.ts";
import { describeServer, roleOf, troubleOf, voteOf } from "./words.ts";

const CROWN = "M-13 0L-15-13L-7-6L0-16L7-6L15-13L13 0Z";
const PAUSE = "M-6-8V8M6-8V8";

export class ServerShape {
  readonly root: SVGGElement;
  private readonly halo = svg("circle", { class: "halo" });
  private readonly disc = svg("circle", { class: "disc" });
  private readonly ring = svg("circle", { class: "outline" });
  private readonly track = svg("circle", { class: "track" });
  private readonly timer = svg("path", { class: "timer" });
  private readonly crown = svg("path", { class: "crown", d: CROWN });
  private readonly sign = svg("path", { class: "sign", d: PAUSE });
  private readonly name = svg("text", { class: "name" });
  private readonly term = svg("text", { class: "term" });
  private readonly role = svg("text", { class: "role" });
  private readonly note = svg("text", { class: "note" });

  constructor(name: Name, select: Select) {
    this.root = svg(
      "g",
      { class: "server", tabindex: 0, role: "button", "data-server": name },
      ...[this.halo, this.track, this.timer, this.disc, this.ring, this.crown, this.sign],
      ...[this.name, this.term, this.role, this.note],
    );
    const choose = () => select({ kind: "server", name });
    this.root.addEventListener("click", choose);
    this.root.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      event.stopPropagation();
      choose();
    });
    say(this.name, name);
  }

  update(server: ServerView, place: Point, side: Side, ring: Ring, frame: Frame): void {
    const { radius, scale } = ring;
    const { selection, instant: { happened, verdict } } = frame;
    const isSelected = selection.kind === "server" && selection.name === server.name;
    const isLeader = server.role === "Leader" && server.status !== "down";
    const classes = ["server", server.status, server.role.toLowerCase()];
    if (isSelected) classes.push("selected");
    if (!server.isMember) classes.push("stranger");
    if (server.isMember && !server.votes) classes.push("learner");
    if (touches(happened, server.name)) classes.push("touched");
    if (verdict?.servers.includes(server.name)) classes.push("accused");
    set(this.root, "class", classes.join(" "));
    set(this.root, "transform", `translate(${place.x.toFixed(1)} ${place.y.toFixed(1)})`);
    set(this.root, "aria-label", describeServer(server));
    set(this.root, "aria-pressed", isSelected ? "true" : "false");
    set(this.root, "style", `--term: ${colourOf(server.currentTerm)}; --radius: ${radius}px`);
    this.size(radius);
    show(this.crown, isLeader);
    set(this.crown, "transform", `translate(0 ${-radius - 5}) scale(${radius > 34 ? 1 : 0.75})`);
    show(this.sign, server.status === "paused");
    set(this.sign, "transform", `translate(${radius * 0.72} ${-radius * 0.72}) scale(0.8)`);
    this.showTimer(server, radius, frame.timeMs);
    this.write(server, ring);
    this.placeWords(side, radius, scale);
  }

  private size(radius: number): void {
    set(this.halo, "r", radius + 16);
    set(this.disc, "r", radius);
    set(this.ring, "r", radius);
    set(this.track, "r", radius + 7);
  }

  private showTimer(server: ServerView, radius: number, nowMs: number): void {
    const { electionFromMs: from, electionDueMs: due, status } = server;
    const isRunning = from !== undefined && due !== undefined && status !== "down";
    show(this.track, isRunning);
    show(this.timer, isRunning);
    if (!isRunning) return;
    const share = due > from ? Math.min(1, Math.max(0, (due - nowMs) / (due - from))) : 0;
    set(this.timer, "d", arc(radius + 7, share));
    set(this.timer, "class", share < 0.25 ? "timer late" : "timer");
  }

  private write(server: ServerView, { radius, isTight }: Ring): void {
    say(this.term, `term ${server.currentTerm}`);
    const role = roleOf(server);
    const isPlain = isTight && role === "follower";
    say(this.role, isPlain ? "" : role);
    say(this.note, troubleOf(server) || (isPlain ? "" : voteOf(server)));
    set(this.name, "y", (radius * 0.08).toFixed(1));
    set(this.term, "y", (radius * 0.52).toFixed(1));
  }

  /** Puts role and note on the side that the ring gives them. */
  private placeWords(side: Side, radius: number, scale: number): void {
    const line = 17 * scale;
    const far = radius + 18;
    const anchor = side === "left" ? "end" : side === "below" ? "middle" : "start";
    const x = { left: -far, right: far, top: far - 6, below: 0 }[side];
    // A timer runs around the disc.
    const y = { left: 0, right: 0, top: line / 2 - radius * 0.75, below: radius + 10 + line }[side];
    for (const [words, top] of [[this.role, y], [this.note, y + line]] as const) {
      set(words, "x", x.toFixed(1));
      set(words, "y", top.toFixed(1));
      set(words, "style", `text-anchor: ${anchor}`);
    }
  }
}

/** Returns whether this event happened at the server. */
function touches(happened: Happening, name: Name): boolean {
  switch (happened.kind) {
    case "message":
      return happened.flight.to === name;
    case "timer":
    case "turn":
    case "disk":
    case "snapshot":
    case "resumed":
    case "restarted":
      return happened.server === name;
    case "nemesis":
      return happened.servers.includes(name);
    case "act":
      return "server" in happened.act && happened.act.server === name;
    default:
      return false;
  }
}
