/**
 * Judges the channels: each message is delivered at most once, from the server or client that it
 * names, to the one that it was meant for. It compares what programs give to their endpoints with
 * what endpoints give to their programs, so it needs to know nothing of packets and keys.
 */
import { Encoder } from "@msgpack/msgpack";
import {
  type ClientMessage,
  encodeRecord,
  Endpoint,
  type Message,
  type World,
} from "../../../raft.ts";
import { channelIn, DATA, numberIn, open, SENDERS } from "../../support/wire.ts";
import { type Machine } from "../../support/world.ts";
import { fieldsOf } from "./story.ts";

type AnyMessage = Message | ClientMessage;
type Content = string | bigint;

/** What an endpoint tells the judge of its world. */
type Listener = {
  onStarted(endpoint: Endpoint): void;
  /** A client learns that its word for a server leads to another one. */
  onAlias(word: string, name: string): void;
  onSent(endpoint: Endpoint, message: AnyMessage): void;
  onDelivered(endpoint: Endpoint, message: AnyMessage): void;
  onRestarted(endpoint: Endpoint, name: string, disk: number, boot: number): void;
};
const listeners = new WeakMap<World, Listener>();

/** Listens to the endpoints of watched worlds, as they hide their handlers. */
function tap(): void {
  const { send, receive } = Endpoint.prototype;
  const reassignAddress = Endpoint.prototype["reassignAddress"];
  const known = new WeakSet<Endpoint>();
  const listenerOf = (endpoint: Endpoint): Listener | undefined => {
    const listener = listeners.get(endpoint["world"]);
    if (!listener || known.has(endpoint)) return listener;
    known.add(endpoint);
    listener.onStarted(endpoint);
    const handlers = endpoint["handlers"];
    const { onMessage, onRestarted } = handlers;
    handlers.onMessage = (message, sender) => {
      listener.onDelivered(endpoint, message);
      onMessage.call(handlers, message, sender);
    };
    handlers.onRestarted = (peer) => {
      listener.onRestarted(endpoint, peer.name, peer.disk, peer.boot);
      onRestarted?.call(handlers, peer);
    };
    return listener;
  };
  Endpoint.prototype.send = function(message) {
    listenerOf(this)?.onSent(this, message);
    send.call(this, message);
  };
  Endpoint.prototype["reassignAddress"] = function(asked, to, address) {
    reassignAddress.call(this, asked, to, address);
    const isAlias = this["aliases"].get(asked.id) === to.id;
    if (isAlias) listenerOf(this)?.onAlias(asked.id, to.id);
  };
  Endpoint.prototype.receive = function(packet, address) {
    listenerOf(this);
    receive.call(this, packet, address);
  };
}
tap();

/** Returns the name of an endpoint as the `from` and `to` of messages. */
const idOf = ({ self: { role, name, disk } }: Endpoint) =>
  role === "peer" ? name : `${role} ${name} ${disk}`;

/** One run of a server or client. */
class Program {
  endpoint: Endpoint | undefined;
  /** How many more times each content may be delivered, by its receiver. */
  private readonly sent = new Map<string, Map<Content, number>>();
  /** The words for each server, beside its name. */
  readonly aliases = new Map<string, Set<string>>();
  /** The last run of each sender that was heard here. */
  readonly newest = new Map<string, Program>();
  readonly restarted = new Set<Program>();

  /** `others` are the programs that ran when this one started. */
  constructor(
    readonly order: number,
    readonly isAlive: () => boolean,
    private readonly others: ReadonlySet<Program>,
  ) {}

  /** Returns whether another program ran at the same time as this one. */
  hasMet(other: Program): boolean {
    return other.order > this.order || this.others.has(other);
  }

  maySend(type: string): boolean {
    const { role = "peer" } = this.endpoint?.self ?? {};
    const allowed: readonly string[] = role === "client"
      ? SENDERS.client
      : [...SENDERS.client, ...SENDERS.operator];
    return role === "peer" || allowed.includes(type);
  }

  add(to: string, content: Content): void {
    const counts = this.sent.get(to) ?? new Map<Content, number>();
    this.sent.set(to, counts.set(content, (counts.get(content) ?? 0) + 1));
  }

  /** Returns how many more times a content may be delivered to each word for a receiver. */
  private countsOf(to: string, content: Content) {
    return [to, ...this.aliases.get(to) ?? []].flatMap((word) => {
      const counts = this.sent.get(word);
      const count = counts?.get(content);
      return counts && count !== undefined ? [{ counts, count }] : [];
    });
  }

  hasSent(to: string, content: Content): boolean {
    return this.countsOf(to, content).length > 0;
  }

  /** Counts a delivery. Returns false if there were as many already. */
  take(to: string, content: Content): boolean {
    const left = this.countsOf(to, content).find(({ count }) => count > 0);
    left?.counts.set(content, left.count - 1);
    return left !== undefined;
  }
}

/** Returns the values of a message in the order of the wire. */
function valuesOf(message: AnyMessage): unknown[] {
  return (fieldsOf.get(message.type) ?? []).map((field) => {
    const value: unknown = message[field as keyof AnyMessage];
    return field === "entries" ? Buffer.concat((value as []).flatMap(encodeRecord)) : value;
  });
}

const sizeOf = (value: unknown) => {
  if (typeof value === "string") return Buffer.byteLength(value);
  return value instanceof Uint8Array ? value.length : 0;
};

/** One for all messages, because each call of `encode` would make another one. */
const encoder = new Encoder();

/**
 * Returns two keys of a message: of all of it, and of the content whose deliveries are counted. If
 * the message comes in parts, only its largest field is counted, because a repetition may fill holes.
 */
function contentsOf(message: AnyMessage, datagramBytes: number) {
  const { type, id } = message;
  const values = valuesOf(message);
  const bytes = encoder.encode([type, id, ...values]);
  const whole = Bun.hash(bytes);
  if (bytes.length < datagramBytes - PACKET_OVERHEAD) return { whole, counted: whole };
  const [largest] = values.toSorted((a, b) => sizeOf(b) - sizeOf(a));
  return { whole, counted: `${type} ${Bun.hash(encoder.encode(largest))}` };
}
/** At least what a packet takes beside its messages. */
const PACKET_OVERHEAD = 60;

export class Channels {
  private readonly programs = new Set<Program>();
  private readonly byId = new Map<string, Program[]>();
  /** The packets of each channel by number. A channel has its number at the receiver. */
  private readonly used = new Map<number, Map<number, number | bigint>>();

  constructor(
    private readonly datagramBytes: number,
    private readonly onBroken: (what: string) => void,
  ) {}

  /** Watches the program that a machine has just started. An impostor is in truth this `id`. */
  watch(machine: Machine, world: World, id?: string): void {
    const { program } = machine;
    const running = [...this.programs].filter((other) => other.isAlive());
    const isAlive = () => machine.program === program;
    const own = new Program(this.programs.size, isAlive, new Set(running));
    this.programs.add(own);
    listeners.set(world, {
      onStarted: (endpoint) => this.onStarted(own, endpoint, id),
      onAlias: (word, name) => {
        own.aliases.set(name, new Set([...own.aliases.get(name) ?? [], word]));
      },
      onSent: (_, message) => this.onSent(own, message),
      onDelivered: (endpoint, message) => this.onDelivered(own, idOf(endpoint), message),
      onRestarted: (endpoint, ...peer) => this.onRestarted(own, idOf(endpoint), ...peer),
    });
  }

  /** Checks that no key encrypts two packets with the same number. One may go to two addresses. */
  onPacket(packet: Buffer): void {
    if (packet[0] !== DATA) return;
    const [channel, number] = [channelIn(packet), numberIn(packet)];
    const used = this.used.get(channel) ?? new Map<number, number | bigint>();
    this.used.set(channel, used);
    const hash = Bun.hash(packet);
    if ((used.get(number) ?? hash) !== hash) {
      this.onBroken(`${open(packet).from} uses the number ${number} twice`);
    }
    used.set(number, hash);
  }

  private onStarted(program: Program, endpoint: Endpoint, id = idOf(endpoint)): void {
    program.endpoint = endpoint;
    this.byId.set(id, [...this.byId.get(id) ?? [], program]);
  }

  private onSent(program: Program, message: AnyMessage): void {
    const { whole, counted } = contentsOf(message, this.datagramBytes);
    if (counted !== whole) program.add(message.to, whole);
    program.add(message.to, counted);
  }

  private onDelivered(program: Program, own: string, message: AnyMessage): void {
    const { from, type } = message;
    const tell = (what: string) => this.onBroken(`${own} gets ${type} from ${from}, ${what}`);
    const { whole, counted } = contentsOf(message, this.datagramBytes);
    const senders = (this.byId.get(from) ?? []).filter((sender) => sender.hasSent(own, whole));
    const oldest = program.newest.get(from)?.order ?? 0;
    const sender = senders.find((each) =>
      each.order >= oldest && program.hasMet(each) && each.take(own, counted)
    );
    if (senders.length === 0) return tell("which never sent it");
    if (!sender) return tell("again, or late from a run that is over");
    if (!sender.maySend(type)) return tell("which may not send it");
    program.newest.set(from, sender);
  }

  private onRestarted(
    program: Program,
    own: string,
    name: string,
    disk: number,
    boot: number,
  ): void {
    const tell = (what: string) => this.onBroken(`${own} takes ${name} for restarted, ${what}`);
    const peer = this.byId.get(name)?.find(({ endpoint }) =>
      endpoint?.self.disk === disk && endpoint.self.boot === boot
    );
    if (!peer) return tell("which it is not");
    if (peer.order < (program.newest.get(name)?.order ?? 0)) return tell("and heard it since");
    if (!program.hasMet(peer)) return tell("by a packet of a run that was over");
    if (program.restarted.has(peer)) return tell("twice");
    program.restarted.add(peer);
    program.newest.set(name, peer);
  }
}
