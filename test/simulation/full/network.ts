/** Simulates the network between machines: decides whether and when each datagram arrives. */
import { between, pick, type Random } from "../../support/random.ts";
import { HINT, VERSION } from "../../support/wire.ts";
import { type Packet, type Route, type Simulation } from "../../support/world.ts";
import { Links, type Partition } from "../links.ts";
import { type Report } from "../report.ts";
import { type Hostility } from "./hostility.ts";

export type Fate = { routes: Route[]; why: string };

/** The packets of each type that an attacker keeps. */
const RECORDINGS = 64;
/** What a Hint has of the packet that it answers. */
const ECHO_BYTES = 16;

export class Network extends Links<Packet> {
  private readonly recordings = new Map<number, Packet[]>();

  constructor(
    private readonly simulation: Simulation,
    random: Random,
    private readonly hostility: Hostility,
    private readonly report: Report,
  ) {
    super(random);
  }

  /** Returns the routes of a datagram that leaves now. */
  fateOf(from: string, to: string, packet: Packet): Fate {
    if (this.isCut(from, to)) return this.lose("cut off");
    if (this.isCalm(from, to)) return { routes: [this.route(0)], why: "" };
    const { random, hostility, report } = this;
    if (random() < hostility.loss) return this.lose("lost");
    const heldMs = this.heldMs(from, to, this.simulation.now);
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
    const late = heldMs > 0 || !this.isAnyCalm ? spikeMs : 0;
    return { afterMs: heldMs + hostility.latencyMs + random() * hostility.jitterMs + late };
  }

  private damage(bytes: Buffer): Buffer {
    const damaged = Buffer.from(bytes);
    const at = Math.floor(this.random() * damaged.length);
    damaged[at] = (damaged[at] ?? 0) ^ (1 << Math.floor(this.random() * 8));
    return damaged;
  }

  /** Delivers a recorded datagram again, sometimes, much later. */
  private replay(packet: Packet): void {
    const { random, hostility, simulation } = this;
    const old = this.recall(packet, hostility.replay);
    if (!old) return;
    this.report.messagesDuplicated += 1;
    simulation.deliver(old, random() * 20 * hostility.electionTimeoutMs);
  }

  /**
   * Answers a packet as an attacker does that reads and sends all packets, but has no key. Returns
   * what it sent, if it did.
   */
  attack(packet: Packet): string | undefined {
    const { random, hostility, simulation } = this;
    if (hostility.attack === 0) return undefined;
    const recording = this.record(packet);
    if (random() >= hostility.attack) return undefined;
    const [what, forged] = this.forge(packet, recording);
    const isLate = random() < 0.5;
    const lateMs = isLate ? 20 * hostility.electionTimeoutMs : 2 * hostility.latencyMs;
    this.report.forgeries += 1;
    simulation.deliver(forged, random() * lateMs);
    return what;
  }

  /** Keeps some packets of each type. Returns one of any type. */
  private record(packet: Packet): Packet {
    const { random, recordings } = this;
    const [type = 0] = packet.bytes;
    const ofType = recordings.get(type) ?? [];
    recordings.set(type, ofType);
    if (ofType.length < RECORDINGS) ofType.push(packet);
    else if (random() < 0.1) ofType[Math.floor(random() * RECORDINGS)] = packet;
    return pick(random, pick(random, [...recordings.values()]));
  }

  private forge(packet: Packet, recording: Packet): [what: string, forged: Packet] {
    const { random } = this;
    const { from, to, bytes: old } = recording;
    const seen = packet.bytes;
    const kinds = {
      "a recording": () => recording,
      "a recording, to another receiver": () => ({ ...recording, to: packet.from }),
      "its own packet": () => ({ ...recording, from: to, to: from }),
      "a hint": () => {
        const echo = pick(random, [seen, old, this.noise(ECHO_BYTES)]).subarray(0, ECHO_BYTES);
        const bytes = Buffer.concat([Buffer.of(HINT, pick(random, [VERSION, 1])), echo]);
        return { from: packet.to, to: packet.from, bytes };
      },
      "a beginning with another end": () => {
        const at = Math.floor(random() * seen.length);
        const end = pick(random, [old.subarray(at), this.noise(seen.length - at)]);
        return { ...packet, bytes: Buffer.concat([seen.subarray(0, at), end]) };
      },
      "another channel": () => {
        const bytes = Buffer.from(seen);
        old.copy(bytes, 1, 1, 7);
        return { ...packet, bytes };
      },
    };
    const [what, make] = pick(random, Object.entries(kinds));
    return [what, make()];
  }

  private noise(length: number): Buffer {
    return Buffer.from(Array.from({ length }, () => Math.floor(256 * this.random())));
  }

  /** Makes one link delay its datagrams for a while. */
  clog(from: string, to: string): void {
    const ms = between(this.random, 0, 6 * this.hostility.electionTimeoutMs);
    this.clogLink(from, to, this.simulation.now + ms);
  }

  /** Draws a partition of the servers, and which of them each client still reaches. */
  partition(servers: readonly string[], clients: readonly string[]): Partition {
    const { random } = this;
    const { kind } = this.divide(servers);
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
}
