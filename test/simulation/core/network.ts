/** Simulates the network between servers: decides whether and when each message arrives. */
import { type Message, type Name } from "../../../raft.ts";
import { Links } from "../links.ts";
import { type Scene } from "./scene.ts";
import { type Request } from "./server.ts";
import { tellMessage } from "./words.ts";

export class Network extends Links<Message> {
  deliver: (message: Message) => void = () => {};
  hear: (name: Name, restarted: Name) => void = () => {};
  /** Delivers a follower's request for a read index to its leader. */
  ask: (name: Name, request: Request) => void = () => {};
  isRunning: (name: Name) => boolean = () => true;

  constructor(private readonly scene: Scene) {
    super(scene.random);
  }

  send(message: Message): void {
    const { scene } = this;
    const { report, conditions } = scene;
    const { from, to } = message;
    report.messagesSent += 1;
    if (this.isCut(from, to)) return this.lose(message, "cut off");
    if (this.isCalm(from, to)) return this.carry(message, 0);
    if (scene.chance(conditions.loss)) return this.lose(message, "lost");
    const heldMs = this.heldMs(from, to, scene.now);
    this.carry(message, heldMs, heldMs > 0 ? " (held back)" : "");
    if (scene.chance(conditions.duplication)) {
      report.messagesDuplicated += 1;
      this.carry(message, heldMs, " (again)");
    }
    this.replay(message);
  }

  /**
   * Probes another server's port. If its process is down, a refusal returns, which may be lost or
   * late like a message. An attacker may forge a refusal in any case.
   */
  probePort(from: Name, to: Name, onRefused: () => void): void {
    const { scene } = this;
    const { conditions, report } = scene;
    scene.tell(() => `${from} -> ${to}  knocks`);
    this.travel(from, to, () => {
      if (this.isRunning(to)) return;
      report.refusals += 1;
      scene.tell(() => `${to} -> ${from}  refuses`);
      this.travel(to, from, onRefused);
    });
    if (!scene.isHostile || !scene.chance(conditions.forgery)) return;
    report.forgeries += 1;
    scene.tell(() => `${to} -> ${from}  refuses (forged)`);
    scene.plan(scene.random() * 2 * conditions.heartbeatMs, onRefused);
  }

  /** Announces a restart, in a message that may be lost or late. */
  announce(from: Name): void {
    for (const to of this.scene.names) {
      if (to !== from) this.travel(from, to, () => this.hear(to, from));
    }
  }

  travel(from: Name, to: Name, arrive: () => void): void {
    const { scene } = this;
    const { latencyMs, jitterMs, loss, delay, delayMs } = scene.conditions;
    const isCalm = this.isCalm(from, to);
    if (this.isCut(from, to) || (!isCalm && scene.chance(loss))) return;
    const lateMs = !isCalm && scene.chance(delay) ? scene.random() * delayMs : 0;
    scene.plan(latencyMs + scene.random() * jitterMs + lateMs, arrive);
  }

  private lose(message: Message, why: string): void {
    this.scene.report.messagesLost += 1;
    this.scene.tell(() => `${tellMessage(message)} (${why})`);
  }

  private carry(message: Message, heldMs: number, how = ""): void {
    const { scene } = this;
    const { latencyMs, jitterMs, delay, delayMs } = scene.conditions;
    const isCalm = this.isAnyCalm;
    const lateMs = !isCalm && scene.chance(delay) ? scene.random() * delayMs : 0;
    const jitter = isCalm ? Math.min(jitterMs, scene.conditions.electionTimeoutMs / 20) : jitterMs;
    scene.tell(() => tellMessage(message) + how + (lateMs > 0 ? " (delayed)" : ""));
    scene.plan(heldMs + latencyMs + scene.random() * jitter + lateMs, () => this.deliver(message));
  }

  /** Sometimes sends an old message again. */
  private replay(message: Message): void {
    const { scene } = this;
    const old = this.recall(message, scene.conditions.replay);
    if (!old) return;
    scene.report.messagesDuplicated += 1;
    scene.tell(() => `${tellMessage(old)} (an old one)`);
    scene.plan(scene.random() * 100, () => this.deliver(old));
  }

  /** Makes one link delay its messages for a while. */
  clog(): void {
    const { scene } = this;
    const [from = "", to = ""] = scene.shuffle(scene.names);
    const ms = scene.between(0, 6 * scene.conditions.electionTimeoutMs);
    scene.tell(() => `network  from ${from} to ${to} is clogged for ${Math.round(ms)} ms`);
    this.clogLink(from, to, scene.now + ms);
  }

  partition(): void {
    const { scene } = this;
    const { kind, order } = this.divide(scene.names);
    scene.report.partitions += 1;
    scene.tell(() => `network  is partitioned: ${kind}, ${order.join(" ")}`);
  }

  override mend(): boolean {
    const wasCut = super.mend();
    if (wasCut) this.scene.tell(() => "network  is whole again");
    return wasCut;
  }

  /** Isolates a server. A deaf one can still send. */
  isolate(name: Name, isDeaf = false): void {
    for (const other of this.scene.names) {
      this.cutLink(other, name);
      if (!isDeaf) this.cutLink(name, other);
    }
  }
}
