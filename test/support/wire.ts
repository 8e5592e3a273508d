/**
 * Speaks the wire of sections 14 and 17 by hand: an implementation of its own, to hold the program
 * against. With it a test reads the packets of servers and clients, and sends any others.
 */
import { Decoder, encode, Encoder } from "@msgpack/msgpack";
import {
  createCipheriv,
  createDecipheriv,
  createHash,
  createHmac,
  createPublicKey,
  diffieHellman,
  generateKeyPairSync,
  type KeyObject,
} from "node:crypto";
import { type Address, Handshake, type Socket } from "../../raft.ts";
import { commandsOf, type Numbers, sequence } from "./requests.ts";
import type { Simulation } from "./world.ts";

export { commandsOf, makeCommand, makeOpening, sequence } from "./requests.ts";

const decoder = new Decoder();
/** Decodes values, one after the other. One decoder for all, because to make one takes a while. */
export const decodeMulti = (bytes: Uint8Array) => decoder.decodeMulti(bytes);

/** The secret of the simulated clusters. */
export const SECRET = "open sesame, and keep the forty thieves out";
export const VERSION = 6;

/** Each type of message under the lowest role that may send it. */
export const SENDERS = {
  client: ["OpenSession", "Commands", "Read", "Inspect", "Part"],
  operator: ["ChangeMembers", "Transfer", "ReadSnapshot"],
  peer: [
    "ReadIndex",
    "Answer",
    "Outcomes",
    "NotLeader",
    "Refused",
    "RequestVote",
    "RequestVoteReply",
    "AppendEntries",
    "AppendEntriesReply",
    "TimeoutNow",
    "InstallSnapshot",
    "InstallSnapshotReply",
    "Removed",
  ],
} as const;
export type Role = keyof typeof SENDERS;
/** Each type of message at its number. */
export const TYPES = [...SENDERS.client, ...SENDERS.operator, ...SENDERS.peer];
export type Type = (typeof TYPES)[number];
/** Returns a message: the number of its type, its id and its fields. */
export const message = (type: Type, id: unknown, ...fields: readonly unknown[]) => [
  TYPES.indexOf(type),
  id,
  ...fields,
];

export const [HELLO, WELCOME, DATA, HINT] = [1, 2, 3, 4];
const KINDS = ["probe", "hello", "welcome", "data", "hint"] as const;
export const [HELLO_HEADER, WELCOME_HEADER, DATA_HEADER] = [24, 7, 11];
const INTRODUCTION_BYTES = 900;

/** What an end of a channel tells the other one about itself, in the order of the wire. */
export type Introduction = {
  role: string;
  cluster: string;
  name: string;
  members: string;
  founding: number;
  disk: number;
  boot: number;
  attempt: number;
  channel: number;
};
const INTRODUCTION = [
  "role",
  "cluster",
  "name",
  "members",
  "founding",
  "disk",
  "boot",
  "attempt",
  "channel",
] as const;

function readIntroduction(payload: Uint8Array): Introduction {
  let list: unknown[] = [];
  try {
    const [values] = decodeMulti(payload);
    list = Array.isArray(values) ? values : [];
  } catch {} // A test may send anything.
  const fields = INTRODUCTION.map((field, i) => [field, list[i]]);
  return Object.fromEntries(fields) as Introduction;
}

const hash = (...parts: readonly Uint8Array[]) =>
  createHash("sha256").update(Buffer.concat(parts)).digest();
const hmac = (key: Uint8Array | string, ...parts: readonly Uint8Array[]) =>
  createHmac("sha256", key).update(Buffer.concat(parts)).digest();

/** Returns the id and the key of a name. The key is HKDF of RFC 5869 with the id as its salt. */
export function keyOf(secret: string, role: string, cluster: string, name: string) {
  const id = hmac(secret, Buffer.from(JSON.stringify([role, cluster, name]))).subarray(0, 16);
  const key = hmac(hmac(id, Buffer.from(secret)), Buffer.from("raft.ts\u0001"));
  return { id, key };
}

function nonceOf(n: number): Buffer {
  const nonce = Buffer.alloc(12);
  nonce.writeBigUInt64BE(BigInt(n), 4);
  return nonce;
}

export function encrypt(key: Uint8Array, n: number, ad: Uint8Array, plaintext: Uint8Array) {
  const cipher = createCipheriv("aes-256-gcm", key, nonceOf(n)).setAAD(ad);
  return Buffer.concat([cipher.update(plaintext), cipher.final(), cipher.getAuthTag()]);
}

/** Throws if another key, number or `ad` has made the bytes. */
export function decrypt(key: Uint8Array, n: number, ad: Uint8Array, bytes: Buffer): Buffer {
  const decipher = createDecipheriv("aes-256-gcm", key, nonceOf(n)).setAAD(ad);
  decipher.setAuthTag(bytes.subarray(-16));
  return Buffer.concat([decipher.update(bytes.subarray(0, -16)), decipher.final()]);
}

/** Noise_NNpsk0_25519_AESGCM_SHA256: one end of a handshake. */
class Noise {
  private ck: Buffer = Buffer.from("Noise_NNpsk0_25519_AESGCM_SHA256");
  private h = this.ck;
  private k: Buffer = Buffer.alloc(32);
  private readonly e = generateKeyPairSync("x25519");
  private re: KeyObject | undefined;
  private isSent = false;

  constructor(prologue: Uint8Array, psk: Uint8Array) {
    this.h = hash(this.h, prologue);
    this.h = hash(this.h, this.mix(psk, true));
  }

  private mix(input: Uint8Array, hasMiddle = false): Buffer {
    const seed = hmac(this.ck, input);
    const all = [hmac(seed, Buffer.of(1))];
    for (const n of [2, 3]) all.push(hmac(seed, all.at(-1) ?? seed, Buffer.of(n)));
    const [ck = seed, second = seed, third = seed] = all;
    [this.ck, this.k] = [ck, hasMiddle ? third : second];
    return second;
  }

  private mixPublic(raw: Uint8Array): void {
    this.h = hash(this.h, raw);
    this.mix(raw);
  }

  private agree(): void {
    const { re: publicKey, e: { privateKey } } = this;
    if (publicKey && this.isSent) this.mix(diffieHellman({ privateKey, publicKey }));
  }

  write(payload: Uint8Array): Buffer {
    const { x = "" } = this.e.publicKey.export({ format: "jwk" });
    const raw = Buffer.from(x, "base64url");
    this.isSent = true;
    this.mixPublic(raw);
    this.agree();
    const ciphertext = encrypt(this.k, 0, this.h, payload);
    this.h = hash(this.h, ciphertext);
    return Buffer.concat([raw, ciphertext]);
  }

  read(bytes: Buffer): Buffer {
    const raw = bytes.subarray(0, 32);
    const key = { kty: "OKP", crv: "X25519", x: raw.toString("base64url") };
    this.re = createPublicKey({ key, format: "jwk" });
    this.mixPublic(raw);
    this.agree();
    const payload = decrypt(this.k, 0, this.h, bytes.subarray(32));
    this.h = hash(this.h, bytes.subarray(32));
    return payload;
  }

  /** Returns the keys of the end that has begun and of the other one. */
  split(): [Buffer, Buffer] {
    const second = this.mix(Buffer.alloc(0));
    return [this.ck, second];
  }
}

/** Returns the header of a packet: its type and the number of a channel, then zeros. */
export function headerOf(type: number, channel: number, length: number): Buffer {
  const header = Buffer.alloc(length);
  header.writeUInt8(type);
  header.writeUIntBE(channel, 1, 6);
  return header;
}
export const channelIn = (packet: Buffer): number => packet.readUIntBE(1, 6);
export const numberIn = (packet: Buffer): number => packet.readUInt32BE(7);

// --------------------------------- Packets of servers and clients --------------------------------

/** The key of packets to one end of a channel, and both ends. */
type Way = { key: Uint8Array; sender: Introduction; receiver: Introduction; channel: Role };

/** Keeps the entries that were used last. */
class Recent<Value> extends Map<unknown, Value> {
  override get(key: unknown): Value | undefined {
    const value = super.get(key);
    if (value !== undefined) this.set(key, value);
    return value;
  }

  override set(key: unknown, value: Value): this {
    this.delete(key);
    super.set(key, value);
    const [oldest] = this.keys();
    if (this.size > 20_000) this.delete(oldest);
    return this;
  }
}

/** The ways by the number of the channel at the receiver. Each Welcome to a Hello has its own. */
const ways = new Recent<Way[]>();
/** The ends that have begun a channel, by the public key in the Hello. */
const beginners = new Recent<Introduction>();
const publicKeyIn = (noise: Uint8Array) => Buffer.from(noise.subarray(0, 32)).toString("hex");
/** The fields that came in parts, each by its message. */
const fields = new Recent<Map<number, Uint8Array>>();
/** The payloads of a handshake, in their order. */
const payloads = new WeakMap<Handshake, Introduction[]>();

/** Listens to each handshake of this process, because nothing else ever has its keys. */
function tap(): void {
  const { readMessage: read, writeMessage: write, split } = Handshake.prototype;
  const note = (handshake: Handshake, payload: Uint8Array, noise: Uint8Array) => {
    const all = payloads.get(handshake) ?? [];
    payloads.set(handshake, all);
    const introduction = readIntroduction(payload);
    if (all.push(introduction) === 1) beginners.set(publicKeyIn(noise), introduction);
  };
  Handshake.prototype.writeMessage = function(payload, privateKey) {
    const noise = write.call(this, payload, privateKey);
    note(this, payload, noise);
    return noise;
  };
  Handshake.prototype.readMessage = function(bytes) {
    const payload = read.call(this, bytes);
    if (payload) note(this, payload, bytes);
    return payload;
  };
  Handshake.prototype.split = function() {
    const keys = split.call(this);
    const [beginner, answerer] = payloads.get(this) ?? [];
    const [first, second] = keys;
    if (beginner && answerer && first && second) {
      const channel = beginner.role as Role;
      const there = { key: first, sender: beginner, receiver: answerer, channel };
      const back = { key: second, sender: answerer, receiver: beginner, channel };
      ways.set(answerer.channel, [there]);
      ways.set(beginner.channel, [...ways.get(beginner.channel) ?? [], back]);
    }
    return keys;
  };
}
tap();

export type Message = { type: string; body: unknown[] };
export type Opened = {
  kind: (typeof KINDS)[number];
  /** The messages of a data packet as they travel, and their types. */
  bodies: unknown[][];
  types: string[];
  /** The messages of a data packet. One in parts is here once all of its parts were opened. */
  messages: Message[];
  /** The founding that the sender names. */
  founding?: unknown;
  /** The names of sender and receiver, and the role of the end that began the channel. */
  from?: string;
  to?: string;
  channel?: Role;
  sender?: Introduction;
  receiver?: Introduction;
};

const typeOf = ([number]: readonly unknown[]) => TYPES[Number(number)] ?? "?";

/** Returns the message that a part completes. */
function join(packet: Buffer, body: readonly unknown[]): Message[] {
  const [, id, digest, size, offset, data, head] = body;
  const key = `${channelIn(packet)} ${id} ${digest}`;
  const parts = fields.get(key) ?? new Map<number, Uint8Array>();
  fields.set(key, parts.set(Number(offset), data as Uint8Array));
  const inOrder = [...parts].toSorted(([a], [b]) => a - b).map(([, part]) => part);
  const field = Buffer.concat(inOrder);
  if (field.length < Number(size)) return [];
  const [values] = decodeMulti(head as Uint8Array);
  const whole = (values as unknown[]).map((value) => value ?? field);
  return [{ type: typeOf(whole), body: whole }];
}

function readPlaintext(packet: Buffer, plaintext: Uint8Array) {
  const [founding, ...rest] = decodeMulti(plaintext);
  const bodies = rest as unknown[][];
  const types = bodies.map(typeOf);
  const messages = bodies.flatMap((body) =>
    typeOf(body) === "Part" ? join(packet, body) : [{ type: typeOf(body), body }]
  );
  return { founding, bodies, types, messages };
}

/**
 * Reads a packet between servers and clients of this process. Throws if none of their channels has
 * its number.
 */
export function open(packet: Buffer): Opened {
  const kind = KINDS[packet[0] ?? 0];
  if (!kind) throw new Error(`${packet[0]} is not the type of a packet.`);
  const nothing: Opened = { kind, bodies: [], types: [], messages: [] };
  if (kind === "probe" || kind === "hint") return nothing;
  const noise = packet.subarray(HELLO_HEADER);
  const beginner = kind === "hello" ? beginners.get(publicKeyIn(noise)) : undefined;
  if (beginner) return { ...nothing, sender: beginner, from: beginner.name };
  const all = ways.get(channelIn(packet)) ?? [];
  const [way] = all;
  if (!way) throw new Error("No channel of this process has this number.");
  if (kind === "welcome") return { ...nothing, ...endsOf(all.at(-1) ?? way) };
  for (const each of all) {
    const plaintext = tryDecrypt(each.key, packet);
    if (plaintext) return { ...nothing, ...endsOf(each), ...readPlaintext(packet, plaintext) };
  }
  throw new Error("No key of this channel has made this packet.");
}

function endsOf({ sender, receiver, channel }: Way) {
  return { sender, receiver, channel, from: sender.name, to: receiver.name };
}

function tryDecrypt(key: Uint8Array, packet: Buffer): Buffer | undefined {
  try {
    return decrypt(key, numberIn(packet), Buffer.alloc(0), packet.subarray(DATA_HEADER));
  } catch {
    return undefined;
  }
}

// ---------------------------------------- Packets made by hand -----------------------------------

export type EndOptions = Partial<Introduction> & {
  secret?: string;
  /** Replaces the key that the secret, role, cluster and name give. */
  id?: Uint8Array;
  key?: Uint8Array;
  version?: number;
};

/** Returns the options of a client with a line of `client-key`. */
export function withClientKey(line: string): EndOptions {
  const [cluster, name, id, key] = [...decodeMulti(Buffer.from(line, "base64url"))][0] as [
    string,
    string,
    Uint8Array,
    Uint8Array,
  ];
  return { role: "client", cluster, name, id, key };
}

/** One end of a channel. It says what it is told to, true or not, valid or not. */
export class End {
  static #channels = 0;

  readonly self: Introduction;
  readonly options: EndOptions;
  other: Introduction | undefined;
  sendKey: Buffer = Buffer.alloc(0);
  receiveKey: Buffer = Buffer.alloc(0);
  /** How many data packets it has sealed. */
  sent = 0;
  private noise: Noise | undefined;

  constructor(options: EndOptions = {}) {
    this.options = options;
    const { role = "client", cluster = "raft", name = "client-9", members = "" } = options;
    const { founding = 0, disk = 9, boot = 1, attempt = 1 } = options;
    const channel = options.channel ?? 2 ** 40 + (End.#channels += 1);
    this.self = { role, cluster, name, members, founding, disk, boot, attempt, channel };
  }

  private introduce(overrides: object): Buffer {
    const self = { ...this.self, ...overrides };
    return Buffer.concat([encode(INTRODUCTION.map((key) => self[key]))], INTRODUCTION_BYTES);
  }

  /** Begins a handshake. */
  hello(payload = this.introduce({})): Buffer {
    const { secret = SECRET, version = VERSION, id, key } = this.options;
    const { role, cluster, name, channel } = this.self;
    const own = keyOf(secret, role, cluster, name);
    const header = headerOf(HELLO, channel, HELLO_HEADER);
    header.writeUInt8(version, 7);
    header.set(id ?? own.id, 8);
    this.noise = new Noise(header, key ?? own.key);
    return Buffer.concat([header, this.noise.write(payload)]);
  }

  /** Ends the handshake that it has begun. Throws if the Welcome answers another one. */
  onWelcome(welcome: Buffer): Introduction {
    if (!this.noise) throw new Error("There was no hello.");
    const other = readIntroduction(this.noise.read(welcome.subarray(WELCOME_HEADER)));
    [this.sendKey, this.receiveKey] = this.noise.split();
    return this.other = other;
  }

  /** Answers a Hello. Throws if it was made with another key than those of our secret. */
  onHello(hello: Buffer, payload = this.introduce({ attempt: 0 })): Buffer {
    const { secret = SECRET } = this.options;
    const header = hello.subarray(0, HELLO_HEADER);
    const key = hmac(hmac(header.subarray(8), Buffer.from(secret)), Buffer.from("raft.ts\u0001"));
    this.noise = new Noise(header, this.options.key ?? key);
    this.other = readIntroduction(this.noise.read(hello.subarray(HELLO_HEADER)));
    const second = this.noise.write(payload);
    [this.receiveKey, this.sendKey] = this.noise.split();
    return Buffer.concat([headerOf(WELCOME, this.other.channel, WELCOME_HEADER), second]);
  }

  /** Returns messages in a data packet. */
  seal(bodies: readonly unknown[] = [], number = this.sent): Buffer {
    return this.sealBytes(sequence([this.self.founding, ...bodies]), number);
  }

  /** Returns any plaintext in a data packet. */
  sealBytes(plaintext: Uint8Array, number = this.sent): Buffer {
    const header = headerOf(DATA, this.other?.channel ?? 0, DATA_HEADER);
    header.writeUInt32BE(number, 7);
    this.sent = number + 1;
    return Buffer.concat([header, encrypt(this.sendKey, number, Buffer.alloc(0), plaintext)]);
  }

  /** Reads a data packet. Throws if the other end has not sealed it. */
  open(packet: Buffer) {
    const ciphertext = packet.subarray(DATA_HEADER);
    const plaintext = decrypt(this.receiveKey, numberIn(packet), Buffer.alloc(0), ciphertext);
    return readPlaintext(packet, plaintext);
  }
}

/** A program on a machine of a simulation that speaks by hand, with one server. */
export class Impostor {
  readonly end: End;
  readonly address: Address;
  /** The packets that it got, and the messages in those of data. */
  readonly packets: Buffer[] = [];
  readonly received: Message[] = [];
  private readonly socket: Socket;

  constructor(
    private readonly simulation: Simulation,
    readonly to: Address,
    options: EndOptions & { machine?: string } = {},
  ) {
    const { machine = "impostor", ...rest } = options;
    this.end = new End(rest);
    const at = simulation.machine(machine);
    const world = at.boot();
    const bound = world.datagrams.bind({ host: at.ip, port: 0 }, (packet) => {
      this.packets.push(packet);
      if (packet[0] === WELCOME && !this.end.other) this.end.onWelcome(packet);
      else if (packet[0] === DATA && channelIn(packet) === this.end.self.channel) {
        this.received.push(...this.end.open(packet).messages);
      }
    });
    this.socket = simulation.settle(bound);
    this.address = { host: at.ip, port: 32_768 };
  }

  /** Sends any packet. */
  sendPacket(packet: Buffer): this {
    this.socket.send(packet, this.to);
    return this;
  }

  /** Makes a channel and confirms it. Throws if it gets no Welcome. */
  connect(): this {
    this.sendPacket(this.end.hello());
    const isWelcome = this.simulation.run(1000, () => this.end.other !== undefined);
    if (!isWelcome) throw new Error("There was no welcome.");
    return this.send();
  }

  /** Sends messages in one packet. */
  send(...bodies: readonly unknown[]): this {
    return this.sendPacket(this.end.seal(bodies));
  }
}

// ------------------------------------ Commands and the store -------------------------------------

/** Encodes whole numbers as floats, too, because only floats have a -0. */
export const floats = new Encoder({ forceIntegerToFloat: true });

/** The same as version 5 had it. Several in a row were an entry. */
export const makeCommandOfVersion5 = (numbers: Numbers, command: Uint8Array): Buffer =>
  Buffer.from(encode(commandsOf(numbers, command)));

/** Reads the outcomes of commands that were sent together, each with its place. */
export const readOutcomes = ([first, outcomes]: readonly unknown[]) =>
  [...decodeMulti(outcomes as Uint8Array)].map((outcome, i) => ({
    place: Number(first) + i,
    outcome: Buffer.from(outcome as Uint8Array).toString(),
  }));

const VERBS = ["get", "put", "delete", "cas"] as const;

/** Returns a request to the store: a verb (1 byte), then each part after its length (4 bytes). */
export function askStore(verb: (typeof VERBS)[number], ...parts: readonly Uint8Array[]): Buffer {
  const framed = parts.map((part) => {
    const length = Buffer.alloc(4);
    length.writeUInt32BE(part.length);
    return Buffer.concat([length, part]);
  });
  return Buffer.concat([Buffer.of(VERBS.indexOf(verb)), ...framed]);
}

/** Reads an answer of the store: whether it was done, or the value that was found. */
export const answerOf = (answer: Uint8Array): boolean | string =>
  answer.length > 1 ? Buffer.from(answer.subarray(5)).toString("latin1") : answer[0] === 1;
