/** One server of the simulated cluster, through all its restarts. */
import { crc32 } from "node:zlib";
import {
  KeyValueStore,
  Node,
  type NodeEvent,
  RaftError,
  type StateMachine,
} from "../../../raft.ts";
import { carelessMachine, spoil } from "../../support/careless.ts";
import { type Random, randomFrom } from "../../support/random.ts";
import { type Machine } from "../../support/world.ts";
import { type Channels } from "./channels.ts";
import { type Hostility } from "./hostility.ts";
import { readMark } from "./marks.ts";
import { lastFrameAt, Platter } from "./platter.ts";
import { type Secrets } from "./secrets.ts";

const LOG = "data/log";
export const SNAPSHOT = "data/snapshot";
export const PORT = 1;

/** Marks the last chunk of a state. */
const END = Buffer.of(0);
/** Marks the chunks of a machine under test. */
const TESTED = 2;

/** A state machine under test. Its commands and questions depend on `random` alone. */
export type Subject = {
  create(): StateMachine;
  command(random: Random): Uint8Array;
  /** Default: the empty question. */
  question?(random: Random): Uint8Array;
};

/** The state machine of a server, with the state after each command. */
class Ledger implements StateMachine {
  readonly store = new KeyValueStore();
  /** The machine under test, which gets a question and a command with each command of the store. */
  private readonly tested: StateMachine | undefined;
  private hash = 0;
  private index = 0;
  /** The number of applied commands of the entry at `index`. */
  private count = 0;
  /** Whether the state is incomplete, because chunks are still to be restored. */
  private isPartial = false;

  /** `onApplied` receives the hash of all applied commands up to a place, with their answers. */
  constructor(
    private readonly listener: Pick<Listener, "onApplied" | "onBroken">,
    private readonly subject: Subject | undefined,
  ) {
    this.tested = subject?.create();
  }

  apply(command: Uint8Array, index: number, isReplay: boolean): Uint8Array {
    if (this.isPartial) this.listener.onBroken(`applies entry ${index} to a state that is partial`);
    const answer = this.store.apply(command);
    this.hash = crc32(answer, crc32(command, this.hash));
    if (this.subject && this.tested) {
      const random = randomFrom(this.hash);
      const found = this.tested.query(this.subject.question?.(random) ?? new Uint8Array());
      const applied = this.tested.apply(this.subject.command(random), index, isReplay);
      this.hash = crc32(applied, crc32(found, this.hash));
    }
    [this.count, this.index] = [index === this.index ? this.count + 1 : 1, index];
    this.listener.onApplied(index, `command ${this.count} of entry ${index}`, this.hash);
    return answer;
  }

  /**
   * Answers a read, and judges it: it must see all entries applied anywhere when its client asked.
   */
  query(question: Uint8Array): Uint8Array {
    const known = readMark(question);
    if (this.isPartial) this.listener.onBroken("answers a read from a state that is partial");
    if (known > this.index) {
      this.listener.onBroken(`answers a read as of entry ${this.index}, and ${known} was applied`);
    }
    return this.store.query(question);
  }

  /** Returns the state at the call, even if the chunks are taken later. */
  snapshot(): Iterable<Uint8Array> {
    const [head, rest] = [Buffer.from(`${this.hash} ${this.index}`), this.store.snapshot()];
    const tested = this.tested?.snapshot() ?? [];
    return function*() {
      yield head;
      for (const chunk of tested) yield Buffer.concat([Buffer.of(TESTED), chunk]);
      yield* rest;
      yield END;
    }();
  }

  restore(): (chunk: Uint8Array) => void {
    const restoreStore = this.store.restore();
    const restoreTested = this.tested?.restore();
    let isFirst = true;
    this.isPartial = true;
    return (chunk) => {
      if (isFirst) [this.hash = 0, this.index = 0] = `${Buffer.from(chunk)}`.split(" ").map(Number);
      else if (END.equals(chunk)) this.isPartial = false;
      else if (chunk[0] === TESTED) restoreTested?.(Uint8Array.from(chunk.subarray(1)));
      else restoreStore(chunk);
      isFirst = false;
    };
  }
}

/** Calls of a server to its cluster. */
export type Listener = {
  onEvent(event: NodeEvent): void;
  onApplied(index: number, place: string, hash: number): void;
  /** Reports a broken promise. */
  onBroken(what: string): void;
  /** Reports that the server stopped with an error, or did not start. */
  onStopped(reason: unknown): void;
  /** Reports that the server stopped as told. */
  onEnded(): void;
};

export class Server {
  platter: Platter;
  /** The platters of its lost disks, with the promises on them. */
  readonly lostPlatters: Platter[] = [];
  node: Node | undefined;
  ledger: Ledger | undefined;
  /** Whether its disk has failed since the start: then it must send nothing more. */
  isFaulted = false;
  /** Until then its disk is full. */
  fullUntil = 0;
  /** The bit of its log or snapshot that is flipped while it is down. */
  damage: { file: string; at: number; bit: number } | undefined;

  constructor(
    readonly machine: Machine,
    private readonly founders: readonly string[],
    private readonly hostility: Hostility,
    private readonly cluster: {
      readonly secrets: Secrets;
      readonly channels: Channels;
      readonly subject: Subject | undefined;
    },
    private readonly listener: Listener,
  ) {
    this.platter = new Platter(machine.name);
  }

  get name(): string {
    return this.machine.name;
  }

  get isUp(): boolean {
    return this.machine.program !== undefined;
  }

  get isLeader(): boolean {
    return this.core?.role.name === "Leader";
  }

  get core() {
    return this.isUp ? this.node?.["core"] : undefined;
  }

  /** Starts the program, which runs at the machine's next turn. */
  start(): void {
    const { listener, founders, hostility } = this;
    const { electionTimeoutMs, heartbeatMs, timeoutMs, snapshotBytes } = hostility;
    [this.node, this.isFaulted] = [undefined, false];
    const world = this.machine.boot();
    this.cluster.channels.watch(this.machine, world);
    const { program } = this.machine;
    const isAlive = () => this.machine.program === program;
    const stop = (reason: unknown) => isAlive() && listener.onStopped(reason);
    const ledger = this.ledger = new Ledger({
      onApplied: (index, place, hash) => isAlive() && listener.onApplied(index, place, hash),
      onBroken: (what) => isAlive() && listener.onBroken(what),
    }, this.cluster.subject);
    const machine = carelessMachine(ledger);
    const onEvent = (event: NodeEvent) => {
      if (isAlive()) listener.onEvent(event);
      spoil(event);
    };
    world.clock.defer(() =>
      Node.start({
        host: this.name,
        port: PORT,
        name: this.name,
        machine,
        directory: "data",
        electionTimeoutMs,
        heartbeatMs,
        timeoutMs,
        snapshotBytes,
        secret: this.cluster.secrets.of(this.name),
        world,
        join: !founders.includes(this.name),
        peers: founders.filter((name) => name !== this.name)
          .map((name) => `${name}=${name}:${PORT}`),
        onEvent,
      }).then((node) => {
        if (isAlive()) this.node = node;
        if (this.damage) stop(new Error("it should have found its disk damaged, and started"));
        node.stopped.then(() => isAlive() && listener.onEnded(), stop);
      }, stop)
    );
  }

  /** Reads what has become durable. A damaged file is not read, because it will be repaired. */
  readPlatter(committed: readonly number[]): void {
    if (!this.damage) {
      this.platter.read(this.machine.disk, { log: LOG, snapshot: SNAPSHOT }, committed);
    }
  }

  /** Flips a synced bit, in a log before its last frame. The next start must detect it. */
  flipBit(random: Random): boolean {
    const { disk } = this.machine;
    const file = random() < 0.5 ? LOG : SNAPSHOT;
    const durable = disk.durable(file) ?? Buffer.alloc(0);
    const end = file === LOG ? lastFrameAt(durable) : durable.length;
    const isSeen = disk.read(file)?.subarray(0, end).equals(durable.subarray(0, end));
    if (this.damage || end === 0 || !isSeen) return false;
    this.damage = { file, at: Math.floor(random() * end), bit: Math.floor(random() * 8) };
    this.flip(this.damage);
    return true;
  }

  /** Replaces its disk by an empty one. */
  loseDisk(): void {
    this.lostPlatters.push(this.platter);
    this.platter = new Platter(this.name);
    this.machine.disk.wipe();
  }

  /**
   * Returns whether it has an entry on the disk with this number, or had before the disk was lost.
   */
  hasEntry(index: number, term: number, named: number | undefined): boolean {
    return [this.platter, ...this.lostPlatters].some((platter) =>
      platter.disk === (named ?? platter.disk) && platter.has(index, term)
    );
  }

  private flip({ file, at, bit }: NonNullable<Server["damage"]>): void {
    this.machine.disk.flip(file, at, bit);
  }

  mend(): void {
    if (this.damage) this.flip(this.damage);
    this.damage = undefined;
  }
}

export const isStorageError = (reason: unknown): boolean =>
  reason instanceof RaftError && reason.code === "storage";
