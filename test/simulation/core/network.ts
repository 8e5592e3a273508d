/** The network between the servers, and what becomes of each message on it. */
import { type Message, type Name } from "../../../raft.ts";
import { type Scene } from "./scene.ts";
import { type Request } from "./server.ts";
import { tellMessage } from "./words.ts";

const partitions = ["split", "one-way", "bridge", "ring", "alone", "random"] as const;
/** How many messages of any age are kept, to be sent once more. */
const REMEMBERED = 64;

export class Network {
  deliver: (message: Message) => void = () => {};
  hear: (name: Name, restarted: Name) => void = () => {};
  /** A follower's question reaches its leader. */
  ask: (name: Name, request: Request) => void = () => {};
  isRunning: (name: Name) => boolean = () => true;
  private readonly cut = new Set<string>();
  private readonly cloggedUntil = new Map<string, number>();
  private readonly remembered: Message[] = [];
  /** Between these nothing goes wrong any more. */
  private calm: ReadonlySet<Name> = new Set();

  constructor(private readonly scene: Scene) {}

  send(message: Message): void {
    const { scene } = this;
    const { report, conditions } = scene;
    const { from, to } = message;
    report.messagesSent += 1;
    if (this.cut.has(from + to)) return this.lose(message, "cut off");
    if (this.calm.has(from) && this.calm.has(to)) return this.carry(message, 0);
    if (scene.chance(conditions.loss)) return this.lose(message, "lost");
    const heldMs = Math.max(0, (this.cloggedUntil.get(from + to) ?? 0) - scene.now);
    this.carry(message, heldMs, heldMs > 0 ? " (held back)" : "");
    if (scene.chance(conditions.duplication)) {
      report.messagesDuplicated += 1;
      this.carry(message, heldMs, " (again)");
    }
    this.remember(message);
  }

  /**
   * One server asks whether another's process is there. A refusal takes its way back, if it is not,
   * and may be lost or late like a message. A forger need not know.
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

  /** The first word of a life, which may be lost, or late. */
  announce(from: Name): void {
    for (const to of this.scene.names) {
      if (to !== from) this.travel(from, to, () => this.hear(to, from));
    }
  }

  travel(from: Name, to: Name, arrive: () => void): void {
    const { scene } = this;
    const { latencyMs, jitterMs, loss, delay, delayMs } = scene.conditions;
    const isCalm = this.calm.has(from) && this.calm.has(to);
    if (this.cut.has(from + to) || (!isCalm && scene.chance(loss))) return;
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
    const isCalm = this.calm.size > 0;
    const lateMs = !isCalm && scene.chance(delay) ? scene.random() * delayMs : 0;
    const jitter = isCalm ? Math.min(jitterMs, scene.conditions.electionTimeoutMs / 20) : jitterMs;
    scene.tell(() => tellMessage(message) + how + (lateMs > 0 ? " (delayed)" : ""));
    scene.plan(heldMs + latencyMs + scene.random() * jitter + lateMs, () => this.deliver(message));
  }

  /** Old messages come once more, whatever has happened to both ends since. */
  private remember(message: Message): void {
    const { scene, remembered } = this;
    const { replay } = scene.conditions;
    if (replay === 0) return;
    const place = Math.floor(scene.random() * REMEMBERED);
    const old = remembered[place];
    if (!old || scene.chance(0.1)) remembered[place] = message;
    if (!old || !scene.chance(replay)) return;
    scene.report.messagesDuplicated += 1;
    scene.tell(() => `${tellMessage(old)} (an old one)`);
    scene.plan(scene.random() * 100, () => this.deliver(old));
  }

  /** One link holds back what it is given, for a while. */
  clog(): void {
    const { scene } = this;
    const [from = "", to = ""] = scene.shuffle(scene.names);
    const ms = scene.between(0, 6 * scene.conditions.electionTimeoutMs);
    scene.tell(() => `network  from ${from} to ${to} is clogged for ${Math.round(ms)} ms`);
    this.cloggedUntil.set(from + to, scene.now + ms);
  }

  partition(): void {
    const { scene } = this;
    const kind = scene.pick(partitions);
    const order = scene.shuffle(scene.names);
    const isOpen = this.drawOpen(kind, order.length);
    this.cut.clear();
    order.forEach((from, a) =>
      order.forEach((to, b) => void (a !== b && !isOpen(a, b) && this.cut.add(from + to)))
    );
    scene.report.partitions += 1;
    scene.tell(() => `network  is partitioned: ${kind}, ${order.join(" ")}`);
  }

  /** Whether a partition lets pass what the server at one place of the order says to another. */
  private drawOpen(
    kind: (typeof partitions)[number],
    size: number,
  ): (a: number, b: number) => boolean {
    const half = Math.floor(size / 2);
    const isFirst = (place: number) => place < half;
    switch (kind) {
      case "split":
        return (a, b) => isFirst(a) === isFirst(b);
      case "one-way":
        return (a, b) => isFirst(a) || !isFirst(b);
      case "bridge":
        return (a, b) => a === half || b === half || isFirst(a) === isFirst(b);
      case "ring":
        return (a, b) => (a + 1) % size === b || (b + 1) % size === a;
      case "alone":
        return (a, b) => a !== 0 && b !== 0;
      case "random":
        return () => this.scene.random() < 0.6;
      default:
        return kind satisfies never;
    }
  }

  mend(): void {
    if (this.cut.size > 0) this.scene.tell(() => "network  is whole again");
    this.cut.clear();
  }

  /** A server neither hears nor, unless it is only deaf, is heard. */
  isolate(name: Name, isDeaf = false): void {
    for (const other of this.scene.names) {
      this.cut.add(other + name);
      if (!isDeaf) this.cut.add(name + other);
    }
  }

  calmDown(names: readonly Name[]): void {
    this.calm = new Set(names);
    this.cut.clear();
    this.cloggedUntil.clear();
  }
}
