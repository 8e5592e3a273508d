/** Simulates the network between servers: decides whether and when each message arrives. */
import { type Message, type Name } from "../../../raft.ts";
import { Links } from "../links.ts";
import { type Other } from "./flights.ts";
import { type Scene } from "./scene.ts";
import { type Request } from "./server.ts";
import { tellMessage } from "./words.ts";

const ends = ({ from, to }: Message) => ({ from, to });

export class Network extends Links<Message> {
  deliver: (message: Message) => void = () => {};
  hear: (name: Name, restarted: Name) => void = () => {};
  /** Delivers a follower's request for a read index to its leader. */
  ask: (name: Name, request: Request) => void = () => {};
  isRunning: (name: Name) => boolean = () => true;

  /** When the last message of each link arrives. */
  private readonly lastArrivals = new Map<string, number>();

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
    this.travel(from, to, { type: "Probe", tell: () => "is the port open?" }, () => {
      if (this.isRunning(to)) return;
      report.refusals += 1;
      scene.tell(() => `${to} -> ${from}  refuses`);
      this.travel(to, from, { type: "Refusal", tell: () => "the port is closed" }, onRefused);
    });
    if (!scene.isHostile || !scene.chance(conditions.forgery)) return;
    report.forgeries += 1;
    scene.tell(() => `${to} -> ${from}  refuses (forged)`);
    const content = { type: "Refusal", tell: () => "the port is closed (forged)" } as const;
    const lateMs = scene.random() * 2 * conditions.heartbeatMs;
    scene.flights.add({ from: to, to: from, content }, lateMs, onRefused);
  }

  /** Announces a restart, in a message that may be lost or late. */
  announce(from: Name): void {
    for (const to of this.scene.names) {
      if (to === from) continue;
      this.travel(
        from,
        to,
        { type: "Restarted", tell: () => "restarted" },
        () => this.hear(to, from),
      );
    }
  }

  /** Carries other traffic than the algorithm's messages. It is never duplicated. */
  travel(from: Name, to: Name, content: Other, arrive: () => void): void {
    const { scene } = this;
    const { latencyMs, jitterMs, loss, delay, delayMs } = scene.conditions;
    const isCalm = this.isCalm(from, to);
    if (this.isCut(from, to) || (!isCalm && scene.chance(loss))) {
      return scene.flights.lose({ from, to, content }, latencyMs + jitterMs / 2);
    }
    const lateMs = !isCalm && scene.chance(delay) ? scene.random() * delayMs : 0;
    const afterMs = latencyMs + scene.random() * jitterMs + lateMs;
    scene.flights.add({ from, to, content }, afterMs, arrive);
  }

  private lose(message: Message, why: string): void {
    this.scene.report.messagesLost += 1;
    this.scene.tell(() => `${tellMessage(message)} (${why})`);
    const { latencyMs, jitterMs } = this.scene.conditions;
    this.scene.flights.lose({ ...ends(message), content: message }, latencyMs + jitterMs / 2);
  }

  private carry(message: Message, heldMs: number, how = ""): void {
    const { scene } = this;
    const { latencyMs, jitterMs, delay, delayMs } = scene.conditions;
    const isCalm = this.isAnyCalm;
    const lateMs = !isCalm && scene.chance(delay) ? scene.random() * delayMs : 0;
    const jitter = isCalm ? Math.min(jitterMs, scene.conditions.electionTimeoutMs / 20) : jitterMs;
    scene.tell(() => tellMessage(message) + how + (lateMs > 0 ? " (delayed)" : ""));
    const afterMs = heldMs + latencyMs + scene.random() * jitter + lateMs;
    this.fly(message, afterMs);
  }

  private fly(message: Message, afterMs: number): void {
    const { scene } = this;
    const waitMs = scene.conditions.keepsOrder ? this.waitMs(message, scene.now + afterMs) : 0;
    const journey = { ...ends(message), content: message };
    scene.flights.add(journey, afterMs + waitMs, () => this.deliver(message));
  }

  /** Returns how much later a message must arrive so that those of its link keep their order. */
  private waitMs(message: Message, arriveMs: number): number {
    const link = `${message.from} ${message.to}`;
    const waitMs = Math.max(0, (this.lastArrivals.get(link) ?? 0) + 1 - arriveMs);
    this.lastArrivals.set(link, arriveMs + waitMs);
    return waitMs;
  }

  /** Sometimes sends an old message again. */
  private replay(message: Message): void {
    const { scene } = this;
    const old = this.recall(message, scene.conditions.replay);
    if (!old) return;
    scene.report.messagesDuplicated += 1;
    scene.tell(() => `${tellMessage(old)} (an old one)`);
    this.fly(old, scene.random() * 100);
  }

  /** Makes one link delay its messages for a while. */
  clog(): void {
    const { scene } = this;
    const [from = "", to = ""] = scene.shuffle(scene.names);
    scene.note({ kind: "nemesis", what: "clog", servers: [from, to] });
    const ms = scene.between(0, 6 * scene.conditions.electionTimeoutMs);
    scene.tell(() => `network  from ${from} to ${to} is clogged for ${Math.round(ms)} ms`);
    this.clogLink(from, to, scene.now + ms);
  }

  partition(): void {
    const { scene } = this;
    const { kind, order } = this.divide(scene.names);
    scene.report.partitions += 1;
    scene.note({ kind: "nemesis", what: "partition", servers: order });
    scene.tell(() => `network  is partitioned: ${kind}, ${order.join(" ")}`);
  }

  override mend(): boolean {
    const wasCut = super.mend();
    if (wasCut) this.scene.note({ kind: "nemesis", what: "mend", servers: [] });
    if (wasCut) this.scene.tell(() => "network  is whole again");
    return wasCut;
  }

  /** Ends a partition and all delays of links. */
  healLinks(): void {
    this.mend();
    this.unclog();
  }

  /** Isolates a server. A deaf one can still send. */
  isolate(name: Name, isDeaf = false): void {
    for (const other of this.scene.names) {
      this.cutLink(other, name);
      if (!isDeaf) this.cutLink(name, other);
    }
  }
}
