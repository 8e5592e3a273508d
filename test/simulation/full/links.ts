/** The network between the machines: what becomes of each datagram, link by link. */
import { type Random } from "../../support/random.ts";
import { type Packet, type Route, type Simulation } from "../../support/world.ts";
import { type Report } from "../report.ts";
import { between, type Hostility, pick, shuffle } from "./hostility.ts";

export type Fate = { routes: Route[]; why: string };

const partitions = ["split", "one-way", "bridge", "ring", "alone", "random"] as const;
type Partition = (typeof partitions)[number];
/** How many of the datagrams that were sent last may be sent once more. */
const REMEMBERED = 64;

export class Links {
  private readonly cut = new Set<string>();
  private readonly cloggedUntil = new Map<string, number>();
  private readonly remembered: Packet[] = [];
  /** Between these nothing goes wrong any more. */
  private calm: ReadonlySet<string> = new Set();

  constructor(
    private readonly simulation: Simulation,
    private readonly random: Random,
    private readonly hostility: Hostility,
    private readonly report: Report,
  ) {}

  /** Decides about a datagram that leaves now. */
  fateOf(from: string, to: string, packet: Packet): Fate {
    const link = `${from} ${to}`;
    if (this.cut.has(link)) return this.lose("cut off");
    if (this.calm.has(from) && this.calm.has(to)) return { routes: [this.route(0)], why: "" };
    const { random, hostility, report } = this;
    if (random() < hostility.loss) return this.lose("lost");
    const heldMs = Math.max(0, (this.cloggedUntil.get(link) ?? 0) - this.simulation.now);
    const why = [heldMs > 0 ? "held" : ""];
    const routes = [this.route(heldMs)];
    if (random() < hostility.duplication) {
      routes.push(this.route(heldMs));
      report.messagesDuplicated += 1;
      why.push("twice");
    }
    if (random() < hostility.flip) {
      routes[0] = { afterMs: routes[0]?.afterMs ?? 0, bytes: this.damage(packet.bytes) };
      why.push("damaged");
    }
    this.replay(packet);
    return { routes, why: why.filter((word) => word !== "").join(", ") };
  }

  private lose(why: string): Fate {
    this.report.messagesLost += 1;
    return { routes: [], why };
  }

  private route(heldMs: number): Route {
    const { random, hostility } = this;
    const spikeMs = random() < hostility.spike ? random() * hostility.spikeMs : 0;
    const late = heldMs > 0 || this.calm.size === 0 ? spikeMs : 0;
    return { afterMs: heldMs + hostility.latencyMs + random() * hostility.jitterMs + late };
  }

  private damage(bytes: Buffer): Buffer {
    const damaged = Buffer.from(bytes);
    const at = Math.floor(this.random() * damaged.length);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << Math.floor(this.random() * 8));
    return damaged;
  }

  /** Somebody recorded an old datagram, and sends it again, much later. */
  private replay(packet: Packet): void {
    const { random, hostility, remembered, simulation } = this;
    if (hostility.replay === 0) return;
    const place = Math.floor(random() * REMEMBERED);
    const old = remembered[place];
    if (!old || random() < 0.1) remembered[place] = packet;
    if (old && random() < hostility.replay) {
      this.report.messagesDuplicated += 1;
      simulation.deliver(old, random() * 20 * hostility.electionTimeoutMs);
    }
  }

  /** One link holds back what it is given, for a while. */
  clog(from: string, to: string): void {
    const ms = between(this.random, 0, 6 * this.hostility.electionTimeoutMs);
    this.cloggedUntil.set(`${from} ${to}`, this.simulation.now + ms);
  }

  /** Draws a partition of the servers, and whom of them each client still reaches. */
  partition(servers: readonly string[], clients: readonly string[]): Partition {
    const { random } = this;
    const kind = pick(random, partitions);
    const order = shuffle(random, servers);
    const isOpen = this.drawOpen(kind, order);
    this.cut.clear();
    for (const from of servers) {
      for (const to of servers) {
        if (from !== to && !isOpen(order.indexOf(from), order.indexOf(to))) this.cutLink(from, to);
      }
    }
    const share = random() < 0.5 ? 0 : random();
    for (const client of clients) {
      for (const server of servers.filter(() => random() < share)) {
        this.cutLink(client, server);
        this.cutLink(server, client);
      }
    }
    this.report.partitions += 1;
    return kind;
  }

  /** Whether a partition lets pass what the server at one place of `order` says to another. */
  private drawOpen(kind: Partition, order: readonly string[]): (a: number, b: number) => boolean {
    const size = order.length;
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

  cutLink(from: string, to: string): void {
    this.cut.add(`${from} ${to}`);
  }

  mend(): void {
    this.cut.clear();
  }

  /** From now on nothing goes wrong between these. */
  calmDown(names: Iterable<string>): void {
    this.calm = new Set(names);
    this.cut.clear();
    this.cloggedUntil.clear();
  }
}
