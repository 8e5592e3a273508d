/**
 * Simulates a server: the algorithm of Part I, with a list of records as its disk. The server takes
 * the same step as a node, and may be killed between any two acts of a step.
 */
import { crc32 } from "node:zlib";
import {
  type Effect,
  type Entry,
  type Message,
  type Name,
  type Position,
  Raft,
  readRequests,
  type Remembered,
  Sessions,
} from "../../../raft.ts";
import { configuration } from "../../support/core.ts";
import { makeOpening } from "../../support/requests.ts";
import { tellEvent } from "../events.ts";
import { type Question, type Saved, Violation } from "../judge.ts";
import { Machine } from "./clients.ts";
import { type Network } from "./network.ts";
import { type Scene } from "./scene.ts";
import { type State } from "./snapshots.ts";
import { tellReply } from "./words.ts";

/** A client's request, or a follower's for a read index, with its reply function. */
export type Request = {
  client: Name;
  id: number;
  kind: "session" | "command" | "read" | "index";
  data: Buffer;
  /** The request in words. */
  text: string;
  reply(reply: Reply): void;
};
export type Reply =
  | { type: "Answer"; answer: Uint8Array; index: number }
  | { type: "NotLeader"; leader: Name | undefined }
  | { type: "Refused"; reason: string };

/** Work that takes a while, and ends with a later turn. */
type Work = { complete: (raft: Raft) => void; isDone: boolean };

export class Server {
  raft: Raft | undefined;
  /** The algorithm as it was when the server stopped, for a viewer. Not used by the server. */
  stopped: Raft | undefined;
  /** The disk: a number, the records of the log after its base, and a snapshot. */
  private disk = 0;
  private records: Saved[] = [];
  private base: Position = { index: 0, term: 0 };
  private kept: State | undefined;
  /** The chunks received so far, and the snapshot that is being written or installed. */
  private draft = Buffer.alloc(0);
  private work: Work | undefined;
  private unfinished: Saved | undefined;
  /** The number of starts. Plans of an earlier run are dropped. */
  private life = 0;
  private rate = 1;
  private originMs = 0;
  /** Counts the pauses and their ends that a visitor asked for: they cancel earlier plans. */
  private pauses = 0;
  private inbox: (() => void)[] = [];
  /** The disks of the others, as heard since the start. */
  private heardDisks = new Map<Name, number>();
  /** Why this server reads no messages: it is paused, or waits for its disk. */
  private busy: "" | "paused" | "saving" = "";
  /** Whether a save is in progress during the pause. */
  private isSavePaused = false;
  private isScheduled = false;
  private isTickDue = false;
  private wakesAt = Number.POSITIVE_INFINITY;
  private sessions = new Sessions();
  private machine = new Machine();
  private state = 0;
  private readonly proposals = new Map<number, Request & { term: number }>();
  private readonly underWay = new Set<string>();
  private questions: (Request & { asked: Question })[] = [];
  /** Reads at a follower that wait until `index` is applied. */
  private awaited: (Request & { asked: Question; index: number })[] = [];

  constructor(
    readonly name: Name,
    private readonly scene: Scene,
    private readonly network: Network,
  ) {}

  get isLeader(): boolean {
    return this.raft?.role.name === "Leader";
  }

  /** Returns the time of its own clock, which may be fast or slow, and starts at any value. */
  private get localNow(): number {
    return this.originMs + this.scene.now * this.rate;
  }

  private later(ms: number, action: () => void): void {
    this.scene.plan(ms, this.ofThisLife(action));
  }

  private ofThisLife(action: () => void): () => void {
    const { life } = this;
    return () => {
      if (this.life === life) action();
    };
  }

  // ------------------------------------- Starts and crashes --------------------------------------

  start(): void {
    const { scene, name } = this;
    if (this.raft) return;
    const { conditions, judge } = scene;
    // An interrupted write may be complete.
    if (this.unfinished && scene.chance(0.5)) this.records.push(this.unfinished);
    this.life += 1;
    Object.assign(this, {
      unfinished: undefined,
      inbox: [],
      heardDisks: new Map(),
      busy: "",
      isSavePaused: false,
      isScheduled: false,
      isTickDue: false,
      wakesAt: Number.POSITIVE_INFINITY,
      work: undefined,
    });
    this.restore(this.kept);
    this.rate = 1 + conditions.drift * scene.between(-1, 1);
    this.originMs = scene.random() * 1e6;
    const { electionTimeoutMs, heartbeatMs, batchBytes, windowBytes } = conditions;
    const founders = scene.founders.includes(name) ? scene.founders : [];
    this.disk ||= scene.makeDisk();
    const settings = {
      name,
      disk: this.disk,
      founders: configuration(founders),
      electionTimeoutMs,
      heartbeatMs,
      batchBytes,
      windowBytes,
    };
    const { currentTerm, entries, ...rest } = this.recover();
    this.raft = new Raft(settings, { currentTerm, entries, ...rest }, this.localNow, scene.random);
    judge.started(name, this.raft);
    scene.mix(1, this.index, currentTerm, entries.length);
    scene.tell(() => `${name}  starts in term ${currentTerm}, ${entries.length} entries`);
    this.network.announce(name);
    this.schedule();
  }

  private restore(from?: State): void {
    this.sessions = new Sessions();
    for (const session of from?.sessions ?? []) this.sessions.restore(session);
    this.machine = new Machine(from?.machine);
    this.state = from?.state ?? 0;
  }

  /** Reads the disk: every record replaces earlier ones that conflict with it. */
  private recover(): Remembered {
    const entries: Entry[] = [];
    for (const { entries: [first, ...rest] } of this.records) {
      if (!first) continue;
      entries.length = first.index - 1 - this.base.index;
      entries.push(first, ...rest);
    }
    const { currentTerm = 0, votedFor, commitIndex = 0 } = this.records.at(-1) ?? {};
    const snapshot = this.kept?.snapshot;
    const { index, term } = snapshot ?? this.base;
    const last = index === this.base.index ? this.base : entries[index - this.base.index - 1];
    if (last?.term !== term) {
      // The snapshot was installed, but the log not yet compacted.
      [this.base, this.records] = [{ index, term }, [{
        currentTerm,
        votedFor,
        commitIndex,
        entries: [],
      }]];
      entries.length = 0;
    }
    return { currentTerm, votedFor, commitIndex, entries, base: this.base, snapshot };
  }

  kill(why: string): void {
    if (!this.raft) return;
    const { scene, name } = this;
    this.life += 1;
    [this.stopped, this.raft] = [this.raft, undefined];
    for (const waiting of [this.proposals, this.underWay]) waiting.clear();
    [this.questions, this.awaited] = [[], []];
    scene.judge.stopped(name);
    scene.report.crashes += 1;
    scene.mix(2, this.index);
    scene.tell(() => `${name}  is killed ${why}`);
  }

  /** Replaces the disk by an empty one. */
  loseDisk(): void {
    const { scene, name } = this;
    Object.assign(this, {
      stopped: undefined,
      disk: 0,
      records: [],
      base: { index: 0, term: 0 },
      kept: undefined,
      unfinished: undefined,
      draft: Buffer.alloc(0),
    });
    scene.judge.lostDisk(name);
    scene.report.lostDisks += 1;
    scene.tell(() => `${name}  loses its disk`);
  }

  /** Kills the server, and restarts it after a while. */
  crash(why: string): void {
    const { scene, name } = this;
    if (!this.raft) return;
    this.kill(why);
    const { diskLoss, wipes } = scene.conditions;
    const isLost = scene.chance(diskLoss) && (wipes || scene.judge.canLoseDisk(name));
    if (isLost && scene.isHostile) this.loseDisk();
    const { life } = this;
    const restart = () => {
      if (this.life !== life || !scene.isHostile) return;
      scene.note({ kind: "restarted", server: name });
      scene.report.restarts += 1;
      this.start();
    };
    scene.plan(scene.random() * scene.conditions.downMs, restart);
  }

  pause(ms: number): void {
    const { scene, name } = this;
    if (!this.raft || this.busy !== "") return;
    this.busy = "paused";
    scene.report.pauses += 1;
    scene.tell(() => `${name}  is paused for ${Math.round(ms)} ms`);
    const { pauses } = this;
    this.later(ms, () => {
      if (this.pauses !== pauses) return;
      scene.note({ kind: "resumed", server: name });
      this.resume();
    });
  }

  /** Pauses until `goOn`. A save that is complete by then is noticed then. */
  stop(): void {
    const { scene, name, busy } = this;
    if (!this.raft || busy === "paused") return;
    this.isSavePaused = busy === "saving";
    this.busy = "paused";
    this.pauses += 1;
    scene.tell(() => `${name}  is paused`);
  }

  /** Ends a pause now. */
  goOn(): void {
    const { scene, name } = this;
    if (!this.raft || this.busy !== "paused") return;
    this.pauses += 1;
    scene.tell(() => `${name}  goes on`);
    if (this.isSavePaused) this.busy = "saving";
    else this.resume();
  }

  /** Lets its clock jump to the instant at which it would look for another leader. */
  elapse(): void {
    const { scene, name, raft } = this;
    if (!raft) return;
    const { electionDueAt, settings, role } = raft;
    const dueAt = role.name === "Leader" ? raft.now + settings.electionTimeoutMs : electionDueAt;
    this.originMs += Math.max(0, dueAt - this.localNow);
    scene.tell(() => `${name}  has a clock that jumps ahead`);
    if (this.busy === "") this.tick();
    else this.isTickDue = true;
  }

  /** Resumes: messages that have arrived are read before a late tick judges any silence. */
  private resume(): void {
    this.busy = "";
    const { life } = this;
    for (const action of this.inbox.splice(0)) action();
    if (this.isScheduled) this.flush();
    const isAlive = this.life === life && this.busy === "";
    if (isAlive && this.isTickDue) this.tick();
  }

  private get index(): number {
    return this.scene.names.indexOf(this.name);
  }

  // -------------------------------------------- Inputs -------------------------------------------

  private input(action: (raft: Raft) => void): void {
    const act = () => {
      if (!this.raft) return;
      action(this.raft);
      this.schedule();
    };
    if (!this.raft) return;
    if (this.busy === "") act();
    else this.inbox.push(act);
  }

  receive(message: Message): void {
    const { from, disk = 0 } = message;
    this.input((raft) => {
      // `Endpoint` drops the messages of a lost disk.
      if (disk < (this.heardDisks.get(from) ?? 0)) return;
      this.heardDisks.set(from, disk);
      raft.receive(message, this.localNow);
      this.scene.judge.received(message);
      this.scene.mix(
        3,
        this.index,
        message.term,
        raft.currentTerm,
        raft.commitIndex,
        raft.log.lastIndex,
        message.from.charCodeAt(0),
      );
    });
  }

  /** Handles the announcement of a peer's restart. */
  onRestarted(peer: Name): void {
    this.input((raft) => {
      raft.onRestarted(peer, this.localNow);
      this.scene.judge.restarted(this.name, peer);
    });
  }

  private onRefused(peer: Name): void {
    this.input((raft) => {
      raft.onPortClosed(peer, this.localNow);
      this.scene.judge.refused(this.name, peer);
    });
  }

  request(request: Request): void {
    this.input((raft) => {
      const { kind, client, id, data } = request;
      const call = `${client} ${id}`;
      if (this.underWay.has(call)) return;
      if (kind === "read" || kind === "index") {
        const isLed = kind === "read" && raft.leader !== undefined;
        if (!raft.read()) return isLed ? this.askIndex(request) : this.redirect(request);
        this.questions.push({ ...request, asked: this.scene.judge.asked(this.name) });
      } else {
        const draw = () => Math.floor(this.scene.random() * 2 ** 47);
        const index = kind === "command"
          ? raft.propose("commands", data)
          : raft.propose("session", makeOpening(draw(), client, 1));
        if (index === undefined) return this.redirect(request);
        this.underWay.add(call);
        this.proposals.set(index, { ...request, term: raft.currentTerm });
      }
      this.scene.judge.stepped(this.name);
    });
  }

  /** As `Node.askIndex`, with a question of its own for each read. */
  private askIndex(request: Request): void {
    const { name, network, scene: { judge }, raft: { leader = "" } = {} } = this;
    const asked = judge.asked(name);
    const onReply = (reply: Reply) =>
      this.input(() => {
        if (reply.type !== "Answer") return this.redirect(request);
        this.awaited.push({ ...request, asked, index: reply.index });
      });
    const { life } = this;
    const reply = (answer: Reply) => {
      const content = { type: "ReadIndexReply", tell: () => tellReply(answer) } as const;
      network.travel(leader, name, content, () => this.life === life && onReply(answer));
    };
    const question: Request = { ...request, client: name, kind: "index", reply };
    const content = { type: "ReadIndex", tell: () => request.text } as const;
    network.travel(name, leader, content, () => network.ask(leader, question));
  }

  /** Hands over to the named server, or to the best one if the name is its own. */
  transfer(heir: Name): void {
    this.input((raft) => {
      const { refused } = raft.transfer(heir === this.name ? undefined : heir) ?? {};
      const but = refused === undefined ? "" : `, and refuses: ${refused}`;
      this.scene.tell(() => `${this.name}  is told to hand over to ${heir}${but}`);
      if (refused === undefined) this.scene.report.transfers += 1;
    });
  }

  /** Adds or removes a server, as an operator asks. Calls `retry` if it must be asked again. */
  changeMembers(who: Name, adds: boolean, retry: () => void): void {
    this.input((raft) => {
      if (!this.changeMember(raft, who, adds)) retry();
    });
  }

  /** Returns whether this is decided. A leader cannot decide before it has committed an entry. */
  private changeMember(raft: Raft, who: Name, adds: boolean): boolean {
    const { scene, name } = this;
    const outcome = raft.changeMembers(who, adds ? `${who}:1` : "");
    scene.tell(() =>
      `${name}  is asked to ${adds ? "add" : "remove"} ${who}: ${JSON.stringify(outcome)}`
    );
    scene.judge.stepped(name);
    return outcome !== undefined;
  }

  /** Adds or removes a server, perhaps itself. */
  change(): void {
    this.input((raft) => {
      const { scene } = this;
      // The remaining servers may need the removed one.
      if (!scene.isHostile || !scene.judge.isWhole()) return;
      const isMember = (one: Name) => raft.members.some((member) => member.name === one);
      const [strangers, members] = [
        scene.names.filter((one) => !isMember(one)),
        scene.names.filter(isMember),
      ];
      const adds = strangers.length > 0 && scene.chance(0.5);
      const who = scene.pick(adds ? strangers : members);
      this.changeMember(raft, who, adds);
    });
  }

  private redirect(request: Request): void {
    request.reply({ type: "NotLeader", leader: this.raft?.leader });
  }

  private tick(): void {
    const { raft, scene } = this;
    if (!raft) return;
    this.isTickDue = false;
    this.wakesAt = Number.POSITIVE_INFINITY;
    raft.tick(this.localNow);
    scene.judge.ticked(this.name);
    this.flush();
  }

  private setTimer(raft: Raft): void {
    if (raft.wakeAt >= this.wakesAt) return;
    const wakesAt = this.wakesAt = raft.wakeAt;
    const wake = () => {
      if (this.wakesAt !== wakesAt) return;
      this.scene.note({ kind: "timer", server: this.name });
      if (this.busy === "") this.tick();
      else this.isTickDue = true;
    };
    this.later(Math.max(0, (wakesAt - this.localNow) / this.rate), wake);
  }

  // -------------------------------------------- A turn -------------------------------------------

  private schedule(): void {
    if (this.isScheduled) return;
    this.isScheduled = true;
    // Messages that arrive until then share the turn.
    this.later(this.scene.random() * this.scene.conditions.turnMs, () => {
      if (this.busy !== "" || !this.isScheduled) return;
      this.scene.note({ kind: "turn", server: this.name });
      this.flush();
    });
  }

  private dies(when: string): boolean {
    const { scene } = this;
    if (!scene.isHostile || !scene.chance(scene.conditions.killInTurn)) return false;
    this.crash(when);
    return true;
  }

  /** Ends a turn, as `Node.flush`. */
  private flush(): void {
    const { raft } = this;
    if (!raft) return;
    this.isScheduled = false;
    this.receiveSnapshot(raft);
    if (this.work?.isDone) this.complete(raft, this.work.complete);
    if (this.raft !== raft) return;
    // A leader applies one entry a turn, so that it often answers before it saves.
    this.carryOut(raft, raft.step(this.isLeader ? 1 : undefined));
  }

  /** Carries out the rest of a step. A kill may come between two acts, and a save may be slow. */
  private carryOut(raft: Raft, step: Iterator<Effect, void>): void {
    const { value: effect } = step.next();
    this.scene.judge.stepped(this.name);
    if (!effect) return this.finish(raft);
    if (effect.type === "save") return this.save(raft, effect.unsaved, step);
    if (effect.type === "send") {
      for (const message of effect.messages) {
        if (this.dies("while it sends")) return;
        this.send(message);
      }
    } else {
      for (const entry of effect.entries) this.apply(entry);
      for (const asker of this.questions.splice(0, effect.reads)) this.answerRead(raft, asker);
    }
    this.carryOut(raft, step);
  }

  private save(raft: Raft, unsaved: Saved, step: Iterator<Effect, void>): void {
    const { scene, name } = this;
    if (this.dies("before it saves")) return;
    this.unfinished = unsaved;
    scene.judge.saving(name, unsaved);
    const finish = () => {
      this.records.push(unsaved);
      this.unfinished = undefined;
      scene.judge.saved(name);
      if (!this.dies("when it has saved")) this.carryOut(raft, step);
    };
    const { slowSave, slowSaveMs, saveMs } = scene.conditions;
    const isSlow = scene.isHostile && scene.chance(slowSave);
    if (!isSlow && saveMs === 0) return finish();
    this.busy = "saving";
    const ms = isSlow ? scene.random() * slowSaveMs : saveMs;
    if (isSlow) scene.tell(() => `${name}  saves slowly, for ${Math.round(ms)} ms`);
    this.later(ms, () => {
      scene.note({ kind: "disk", server: name });
      if (this.busy === "paused") {
        this.isSavePaused = false;
        return void this.inbox.unshift(finish);
      }
      finish();
      if (this.raft === raft) this.resume();
    });
  }

  /** Handles the other results of a turn. */
  private finish(raft: Raft): void {
    const { scene, name } = this;
    const isReady = ({ index }: { index: number }) =>
      !raft.isInstalling && index <= raft.lastApplied;
    const ready = this.awaited.filter(isReady);
    this.awaited = this.awaited.filter((asker) => !isReady(asker));
    for (const asker of ready) this.answerRead(raft, asker);
    if (raft.role.name !== "Leader") this.redirectAll();
    scene.judge.stepped(name);
    for (const event of raft.events.splice(0)) {
      scene.tell(() => `${name}  ${tellEvent(event, raft.currentTerm)}`);
    }
    for (const leader of raft.portProbes.splice(0)) {
      this.network.probePort(name, leader, this.ofThisLife(() => this.onRefused(leader)));
    }
    if (raft.isRemoved && !this.isLeader) return this.crash("by its removal");
    if (!this.work && raft.isSnapshotDue(scene.conditions.snapshotBytes)) this.writeSnapshot(raft);
    if (raft.needsStep) this.schedule();
    scene.judge.turned(name);
    this.setTimer(raft);
  }

  private send(message: Message): void {
    if (message.type === "InstallSnapshot") {
      const { offset, data } = message;
      message.data = this.kept?.bytes.subarray(offset, offset + data.length) ?? data;
    }
    message.disk = this.disk;
    message.founding = this.raft?.shownFounding ?? 0;
    this.scene.judge.sent(message);
    this.network.send(message);
  }

  private apply(entry: Entry): void {
    const { scene, sessions } = this;
    const [applied = []] = readRequests(entry).map((request) =>
      sessions.apply(entry.index, request, this.machine)
    );
    const refusal = "refused" in applied ? applied.refused : undefined;
    const [outcome = ""] = "refused" in applied ? [] : applied;
    const answer = Buffer.from(refusal ?? outcome);
    this.state = crc32(answer, this.state + sessions["table"]["size"] >>> 0);
    scene.judge.applied(this.name, entry, this.state);
    scene.mix(4, this.index, entry.index, entry.term, this.state);
    const asker = this.proposals.get(entry.index);
    if (!asker) return;
    this.proposals.delete(entry.index);
    this.underWay.delete(`${asker.client} ${asker.id}`);
    const { index } = entry;
    if (asker.term !== entry.term) this.redirect(asker);
    else if (refusal !== undefined) asker.reply({ type: "Refused", reason: refusal });
    else asker.reply({ type: "Answer", answer, index });
  }

  // ------------------------------------------ Snapshots ------------------------------------------

  /** Begins slow work. Newer work cancels it. */
  private begin(complete: (raft: Raft) => void): void {
    const work: Work = this.work = { complete, isDone: false };
    this.later(this.scene.random() * this.scene.conditions.snapshotMs, () => {
      work.isDone = true;
      this.scene.note({ kind: "snapshot", server: this.name });
      this.schedule();
    });
  }

  private complete(raft: Raft, complete: (raft: Raft) => void): void {
    this.work = undefined;
    complete(raft);
    if (this.raft === raft) this.scene.judge.stepped(this.name);
  }

  private writeSnapshot(raft: Raft): void {
    const { scene, state } = this;
    const { lastApplied: index } = raft;
    const { term } = raft.log.at(index);
    const members = raft.log.membership(index).members;
    const size = Math.ceil(scene.between(4, 6 * scene.conditions.batchBytes));
    const kept = scene.snapshots.keep({
      snapshot: { index, term, size, founding: raft.founding, members },
      state,
      sessions: [...this.sessions.snapshot()],
      machine: new Machine(this.machine),
    });
    this.begin((later) => {
      scene.report.snapshots += 1;
      this.switchSnapshot(later, kept);
    });
  }

  /** As `Node.receiveSnapshot`. */
  private receiveSnapshot(raft: Raft): void {
    const { incoming } = raft;
    if (!incoming?.unwritten.length) return;
    const bytes = Buffer.concat(incoming.unwritten.splice(0));
    this.work = undefined;
    if (incoming.offset === bytes.length) this.draft = Buffer.alloc(0);
    if (this.draft.length + bytes.length !== incoming.offset) {
      throw new Violation("A snapshot has no gaps", `${this.name} has ${this.draft.length} bytes`);
    }
    this.draft = Buffer.concat([this.draft, bytes]);
    if (!raft.isInstalling) return;
    this.begin((later) => {
      const kept = this.scene.snapshots.find(this.draft);
      this.scene.report.installs += 1;
      this.restore(kept);
      this.switchSnapshot(later, kept);
    });
  }

  /** Makes a snapshot durable, then compacts the log. A kill may come between the two. */
  private switchSnapshot(raft: Raft, kept: State): void {
    const { scene, name } = this;
    const { log } = raft;
    this.kept = kept;
    scene.judge.snapshotted(name, kept.snapshot, kept.state, raft.isInstalling);
    scene.mix(5, this.index, kept.snapshot.index, kept.state);
    if (this.dies("before it cuts its log")) return;
    raft.onSnapshot(kept.snapshot, scene.conditions.snapshotBytes / 4);
    const { saved } = raft;
    const { index, term } = log.at(log.baseIndex);
    this.base = { index, term };
    this.records = [{ ...saved, entries: log.slice(index + 1, log.savedIndex) }];
  }

  private answerRead({ lastApplied: index }: Raft, { asked, kind, data, reply }:
    & Request
    & { asked: Question }): void
  {
    this.scene.judge.answered(this.name, asked);
    const answer = kind === "read" ? this.machine.query(data) : data;
    reply({ type: "Answer", answer, index });
  }

  private redirectAll(): void {
    const waiting = [...this.proposals.values(), ...this.questions];
    for (const map of [this.proposals, this.underWay]) map.clear();
    this.questions = [];
    for (const asker of waiting) this.redirect(asker);
  }

  // ------------------------------------------ At the end -----------------------------------------

  /** Ends a pause or a slow save. */
  heal(): void {
    if (!this.raft) this.start();
    else if (this.busy === "paused") this.resume();
  }

  /** Returns all answers that clients could get from this server. */
  get contents(): string {
    return JSON.stringify([...this.sessions.snapshot(), ...this.machine.values]);
  }
}
