/**
 * Models the links between simulated machines, for both simulators: cut links, links that delay
 * messages, links without faults, and old messages that are sent again.
 */
import { pick, type Random, shuffle } from "../support/random.ts";

const partitions = ["split", "one-way", "bridge", "ring", "alone", "random"] as const;
export type Partition = (typeof partitions)[number];
/** The number of old messages that are kept, to be sent again. */
const REMEMBERED = 64;

function endsOf(link: string): readonly [from: string, to: string] {
  const [from = "", to = ""] = link.split(" ");
  return [from, to];
}

export class Links<Sent> {
  private readonly cut = new Set<string>();
  private readonly cloggedUntil = new Map<string, number>();
  private readonly remembered: Sent[] = [];
  /** No fault occurs between these machines. */
  private calm: ReadonlySet<string> = new Set();

  constructor(protected readonly random: Random) {}

  isCut(from: string, to: string): boolean {
    return this.cut.has(`${from} ${to}`);
  }

  isCalm(from: string, to: string): boolean {
    return this.calm.has(from) && this.calm.has(to);
  }

  get isAnyCalm(): boolean {
    return this.calm.size > 0;
  }

  /** Returns how long a link delays a message that is sent now. */
  heldMs(from: string, to: string, now: number): number {
    return Math.max(0, (this.cloggedUntil.get(`${from} ${to}`) ?? 0) - now);
  }

  cutLink(from: string, to: string): void {
    this.cut.add(`${from} ${to}`);
  }

  healLink(from: string, to: string): void {
    this.cut.delete(`${from} ${to}`);
  }

  /** Returns the links that are cut, each as its two ends. */
  get cutLinks(): (readonly [from: string, to: string])[] {
    return [...this.cut].map(endsOf);
  }

  /** Returns the links that delay messages, with the time until which they do so. */
  cloggedLinks(now: number): (readonly [from: string, to: string, until: number])[] {
    return [...this.cloggedUntil].filter(([, until]) => until > now)
      .map(([link, until]) => [...endsOf(link), until]);
  }

  /** Makes a link delay its messages. */
  clogLink(from: string, to: string, until: number): void {
    this.cloggedUntil.set(`${from} ${to}`, until);
  }

  /** Draws a partition of the machines, which replaces the last one. */
  divide(names: readonly string[]): { kind: Partition; order: readonly string[] } {
    const kind = pick(this.random, partitions);
    const order = shuffle(this.random, names);
    const isOpen = this.drawOpen(kind, order.length);
    this.cut.clear();
    for (const [a, from] of order.entries()) {
      for (const [b, to] of order.entries()) {
        if (a !== b && !isOpen(a, b)) this.cutLink(from, to);
      }
    }
    return { kind, order };
  }

  /** Returns a predicate: whether messages pass from one place in the order to another. */
  private drawOpen(kind: Partition, size: number): (a: number, b: number) => boolean {
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
        return () => this.random() < 0.6;
      default:
        return kind satisfies never;
    }
  }

  /** Ends a partition. Returns whether there was one. */
  mend(): boolean {
    const wasCut = this.cut.size > 0;
    this.cut.clear();
    return wasCut;
  }

  /** Ends the delays of all links. */
  unclog(): void {
    this.cloggedUntil.clear();
  }

  /** Ends all faults between these machines. */
  calmDown(names: Iterable<string>): void {
    this.calm = new Set(names);
    this.cut.clear();
    this.cloggedUntil.clear();
  }

  /** Keeps a message. Returns an old message with this probability, to be sent again. */
  recall(sent: Sent, probability: number): Sent | undefined {
    if (probability === 0) return undefined;
    const place = Math.floor(this.random() * REMEMBERED);
    const old = this.remembered[place];
    if (!old || this.random() < 0.1) this.remembered[place] = sent;
    return old && this.random() < probability ? old : undefined;
  }
}
