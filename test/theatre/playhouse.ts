/// <reference lib="dom" />
/**
 * Puts the page together: it lets time pass, hands each frame to the views, and turns clicks and
 * keys into acts.
 */
import { type Backstage } from "./backstage.ts";
import { Controls } from "./controls.ts";
import { html, say, set, show } from "./dom.ts";
import { type Frame, NOTHING, type Selection } from "./frame.ts";
import { Guide } from "./guide.ts";
import { Inspector } from "./inspector.ts";
import { onKey } from "./keyboard.ts";
import { leaderOf, Logs } from "./logs.ts";
import { Narration } from "./narration.ts";
import { type Player, SPEEDS } from "./player.ts";
import { Scenes } from "./scenes.ts";
import { Source } from "./source.ts";
import { Stage } from "./stage.ts";
import { type Script } from "./state.ts";
import { Timeline } from "./timeline.ts";
import { tellAct } from "./words.ts";

/** A run that hurries takes this much of each frame. */
const WORK_MS = 40;
const NOTICE_MS = 6000;
/** While the run plays, panel, story and source change this often. */
const TEXT_MS = 120;

export class Playhouse {
  private readonly scenes: Scenes;
  private selection: Selection = NOTHING;
  private lastFrameMs = 0;
  private lastTextMs = 0;
  private writtenAddress = "";
  private noticeUntilMs = 0;
  private readonly still = matchMedia("(prefers-reduced-motion: reduce)");
  private readonly stage: Stage;
  private readonly logs: Logs;
  private readonly inspector: Inspector;
  private readonly narration: Narration;
  private readonly source: Source;
  private readonly timeline: Timeline;
  private readonly guide: Guide;
  private readonly controls: Controls;
  private readonly notice = html("p", { class: "notice", role: "status", hidden: true });
  private readonly wait = html("p", { class: "wait", hidden: true });

  constructor(private readonly root: HTMLElement, private readonly backstage: Backstage) {
    const select = (selection: Selection) => this.select(selection);
    const goTo = (event: number) => this.goTo(event);
    this.stage = new Stage(select);
    this.logs = new Logs(select);
    this.scenes = new Scenes(
      backstage,
      (sentence) => this.tell(sentence),
      (name, script) => this.onOpened(name, script),
      () => performance.now(),
    );
    this.inspector = new Inspector(select, (act) => this.scenes.act(act));
    this.narration = new Narration(goTo);
    this.source = new Source(backstage.source, () => this.toggle("wide"));
    this.timeline = new Timeline({
      playOrPause: () => this.playOrPause(),
      stepBack: () => this.step(-1),
      stepForward: () => this.step(1),
      goTo,
      changeSpeed: (by) => this.changeSpeed(by),
      undo: () => this.undo(),
    });
    this.guide = new Guide({
      goTo,
      watch: (from, to) => {
        goTo(from);
        this.playTo(to);
      },
      playTo: (event) => this.playTo(event),
      openPart: (part) => this.scenes.openPart(part),
      openNextLesson: () => this.scenes.openNextLesson(),
      takeBugOut: () => this.scenes.takeBugOut(),
      plantAgain: () => this.scenes.plantAgain(),
      openLessons: () => this.controls.open("lessons"),
      openBugs: () => this.controls.open("bugs"),
    });
    this.controls = new Controls(backstage.lessons, backstage.bugs, {
      openLesson: (id) => this.scenes.openLesson(id),
      openBug: (id) => this.scenes.openBug(id),
      openScript: (script) => this.scenes.open({ script }),
      address: () => new URL(this.scenes.address, location.href).href,
      project: () => this.toggle("project"),
      changeTheme: () => this.changeTheme(),
    });
    this.assemble();
  }

  private get player(): Player {
    return this.scenes.player;
  }

  private assemble(): void {
    const { stage, logs, inspector, narration, source, timeline, guide, controls } = this;
    this.stage.root.append(this.wait);
    const side = html("aside", {}, guide.root, narration.root, source.root);
    const views = [inspector.root, stage.root, logs.root, side];
    this.root.append(controls.root, ...views, timeline.root, this.notice);
    document.addEventListener("keydown", (event) => onKey(event, this, this.controls));
    addEventListener("hashchange", () => {
      if (location.hash !== this.writtenAddress) this.scenes.openAddress(location.hash);
    });
    this.scenes.openAddress(location.hash);
    requestAnimationFrame((now) => this.frame(now));
  }

  /** Hears of a new scene. */
  private onOpened(name: string, script: Script): void {
    this.selection = NOTHING;
    this.source.plant(script.bug, this.backstage.planted);
    this.controls.show(name, script);
    document.title = `${name}: the theatre of raft.ts`;
    this.draw();
  }

  /** Keeps the browser's address up to date, so that a reload comes back to the same instant. */
  private writeAddress(): void {
    const { address } = this.scenes;
    if (address === this.writtenAddress) return;
    this.writtenAddress = address;
    history.replaceState(undefined, "", address);
  }

  // -------------------------------------------- Time --------------------------------------------

  private frame(nowMs: number): void {
    const elapsed = nowMs - this.lastFrameMs;
    this.lastFrameMs = nowMs;
    const { player, scenes: { target } } = this;
    if (target !== undefined && !player.hurry(target, WORK_MS)) this.drawWait();
    else {
      this.scenes.target = undefined;
      player.tick(elapsed);
      this.draw();
    }
    if (this.noticeUntilMs < nowMs) show(this.notice, false);
    requestAnimationFrame((now) => this.frame(now));
  }

  private draw(): void {
    const { player, selection, scenes: { topic, target, undoable } } = this;
    const { shown: instant, run, isPlaying } = player;
    // With less motion, messages go from event to event.
    const timeMs = this.still.matches ? instant.nowMs : player.timeMs;
    const frame: Frame = { instant, timeMs, selection };
    set(this.root, "data-event", instant.event);
    set(this.root, "data-hash", instant.hash);
    this.stage.show(frame);
    this.logs.show(frame);
    this.timeline.show(player, run.marks, undoable && tellAct(undoable));
    this.guide.show(instant, topic, run.script.acts, isPlaying);
    // A reader cannot follow text that changes faster, and text costs more than pictures.
    const now = performance.now();
    if (!isPlaying || now - this.lastTextMs > TEXT_MS) {
      this.lastTextMs = now;
      this.inspector.show(frame);
      this.source.show(frame);
      this.narration.show(instant, run.story);
    }
    show(this.wait, false);
    if (isPlaying || target !== undefined) return;
    this.stage.describe(frame);
    this.writeAddress();
  }

  /** Shows how far the run has hurried. The rest of the picture waits until it is there. */
  private drawWait(): void {
    const { shown: { event } } = this.player;
    set(this.root, "data-event", event);
    show(this.wait, true);
    say(this.wait, `Running: event ${event.toLocaleString("en")}`);
  }

  playOrPause(): void {
    const { player } = this;
    this.scenes.target = undefined;
    if (player.isPlaying) player.pause();
    else player.play();
  }

  step(by: -1 | 1): void {
    this.scenes.target = undefined;
    if (by > 0) this.player.stepForward();
    else this.player.stepBack();
  }

  goTo(event: number): void {
    this.player.pause();
    // Far ahead there may be much to compute: the frames do it piece by piece.
    if (event > this.player.run.lastEvent) this.scenes.target = event;
    else {
      this.scenes.target = undefined;
      this.player.goTo(event);
    }
  }

  goToEnd(): void {
    this.goTo(this.player.run.lastEvent);
  }

  /** Plays until an event, or goes there at once if the run already plays. */
  private playTo(event: number): void {
    if (this.player.isPlaying) return this.goTo(event);
    this.player.stopAt = event;
    this.player.play();
  }

  /** Lets the lesson go on to its next paragraph, or after the last one to the next part. */
  goOn(): void {
    const { nextParagraph } = this.scenes;
    if (nextParagraph !== undefined) this.playTo(nextParagraph);
    else this.scenes.openNext();
  }

  changeSpeed(by: number): void {
    const { player } = this;
    player.speed = Math.max(0, Math.min(SPEEDS.length - 1, player.speed + by));
  }

  // -------------------------------------------- Acts --------------------------------------------

  /** Kills the selected server, or restarts it. */
  killOrRestart(): void {
    const { selection } = this;
    if (selection.kind !== "server") return this.tell("Select a server first: press 1 to 7.");
    const { name } = selection;
    const server = this.player.shown.servers.find((one) => one.name === name);
    this.scenes.act({ kind: server?.status === "down" ? "restart" : "kill", server: name });
  }

  undo(): void {
    this.scenes.undo();
  }

  // ----------------------------------- Selection and the page -----------------------------------

  select(selection: Selection): void {
    this.selection = selection;
    // A message is easier to look at while it waits.
    if (selection.kind === "flight") this.player.pause();
  }

  selectServer(at: number): void {
    const server = this.player.shown.servers[at];
    if (!server) return;
    this.select({ kind: "server", name: server.name });
    this.stage.focusServer(server.name);
  }

  selectNextFlight(): void {
    const { flights } = this.player.shown;
    const { selection } = this;
    const at = selection.kind === "flight"
      ? flights.findIndex(({ id }) => id === selection.id)
      : -1;
    const next = flights[at + 1] ?? flights[0];
    if (next) this.select({ kind: "flight", id: next.id });
  }

  /** Selects the newest entry of the selected server, or moves from the selected entry. */
  selectEntry(by: number): void {
    const { player: { shown }, selection } = this;
    const chosen = "name" in selection ? selection.name : leaderOf(shown)?.name;
    const name = selection.kind === "entry" ? selection.server : chosen;
    const server = shown.servers.find((one) => one.name === name) ?? shown.servers[0];
    if (!server || server.lastIndex <= server.baseIndex) return;
    const from = selection.kind === "entry" && by !== 0 ? selection.index + by : server.lastIndex;
    const index = Math.max(server.baseIndex + 1, Math.min(server.lastIndex, from));
    this.select({ kind: "entry", server: server.name, index });
  }

  /** Switches a layout of the page on or off. */
  toggle(layout: "wide" | "project"): void {
    const { classList } = document.documentElement;
    classList.toggle(layout);
  }

  changeTheme(): void {
    const { documentElement: page } = document;
    const isDark = page.dataset["theme"] === undefined
      ? matchMedia("(prefers-color-scheme: dark)").matches
      : page.dataset["theme"] === "dark";
    set(page, "data-theme", isDark ? "light" : "dark");
  }

  /** Shows a sentence for a few seconds. */
  private tell(sentence: string): void {
    say(this.notice, sentence);
    show(this.notice, true);
    this.noticeUntilMs = performance.now() + NOTICE_MS;
  }
}
