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
import { type Random } from "../../support/random.ts";
import { SECRET } from "../../support/wire.ts";
import { type Machine } from "../../support/world.ts";
import { type Hostility } from "./hostility.ts";
import { readMark } from "./marks.ts";
import { lastFrameAt, Platter } from "./platter.ts";

const LOG = "data/log";
export const SNAPSHOT = "data/snapshot";
export const PORT = 1;

/** The last chunk of a state. */
const END = Buffer.of(0);

/** What a server has applied: its state, and after which commands it was in which state. */
class Ledger implements StateMachine {
  readonly store = new KeyValueStore();
  private hash = 0;
  private index = 0;
  /** How many commands of the entry at `index` were applied. */
  private count = 0;
  /** Whether a part of its state is missing, because not all chunks of it were restored yet. */
  private isPartial = false;

  /** `onApplied` is told the hash of all that was applied up to a place, answers included. */
  constructor(private readonly listener: Pick<Listener, "onApplied" | "onBroken">) {}

  apply(command: Uint8Array, index: number): Uint8Array {
    if (this.isPartial) this.listener.onBroken(`applies entry ${index} to a state that is partial`);
    const answer = this.store.apply(command);
    this.hash = crc32(answer, crc32(command, this.hash));
    [this.count, this.index] = [index === this.index ? this.count + 1 : 1, index];
    this.listener.onApplied(index, `command ${this.count} of entry ${index}`, this.hash);
    return answer;
  }

  /** Judges the read, too: it sees all that was applied anywhere when its client asked. */
  query(question: Uint8Array): Uint8Array {
    const known = readMark(question);
    if (this.isPartial) this.listener.onBroken("answers a read from a state that is partial");
    if (known > this.index) {
      this.listener.onBroken(`answers a read as of entry ${this.index}, and ${known} was applied`);
    }
    return this.store.query(question);
  }

  /** As it is when it is asked, however late the chunks are taken. */
  snapshot(): Iterable<Uint8Array> {
    const [head, rest] = [Buffer.from(`${this.hash} ${this.index}`), this.store.snapshot()];
    return function*() {
      yield head;
      yield* rest;
      yield END;
    }();
  }

  restore(): (chunk: Uint8Array) => void {
    const restoreStore = this.store.restore();
    let isFirst = true;
    this.isPartial = true;
    return (chunk) => {
      if (isFirst) [this.hash = 0, this.index = 0] = `${Buffer.from(chunk)}`.split(" ").map(Number);
      else if (END.equals(chunk)) this.isPartial = false;
      else restoreStore(chunk);
      isFirst = false;
    };
  }
}

/** What the cluster wants to know of a server. */
export type Listener = {
  onEvent(event: NodeEvent): void;
  onApplied(index: number, place: string, hash: number): void;
  /** It does what no server may do. */
  onBroken(what: string): void;
  /** It stopped by itself, or did not start. */
  onStopped(reason: unknown): void;
  /** It was told to stop, and has. */
  onEnded(): void;
};

export class Server {
  platter: Platter;
  /** What it had promised on disks that it has lost. */
  readonly lostPlatters: Platter[] = [];
  node: Node | undefined;
  ledger: Ledger | undefined;
  /** Whether its disk has failed in this life: then it must not say another word. */
  isFaulted = false;
  /** Until then nothing more fits on its disk. */
  fullUntil = 0;
  /** Where a bit of its log, or of its snapshot, is flipped while it is down. */
  damage: { file: string; at: number; bit: number } | undefined;

  constructor(
    readonly machine: Machine,
    private readonly founders: readonly string[],
    private readonly hostility: Hostility,
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

  /** Starts the program: it runs at the machine's next turn. */
  start(): void {
    const { listener, founders, hostility } = this;
    const { electionTimeoutMs, heartbeatMs, timeoutMs, snapshotBytes } = hostility;
    [this.node, this.isFaulted] = [undefined, false];
    const world = this.machine.boot();
    const { program } = this.machine;
    const isAlive = () => this.machine.program === program;
    const stop = (reason: unknown) => isAlive() && listener.onStopped(reason);
    const ledger = this.ledger = new Ledger({
      onApplied: (index, place, hash) => isAlive() && listener.onApplied(index, place, hash),
      onBroken: (what) => isAlive() && listener.onBroken(what),
    });
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
        secret: SECRET,
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

  /** Takes what has become durable into account. What is damaged is not read: it will be mended. */
  readPlatter(committed: readonly number[]): void {
    if (!this.damage) {
      this.platter.read(this.machine.disk, { log: LOG, snapshot: SNAPSHOT }, committed);
    }
  }

  /**
   * Flips a bit of what was synced, of a log before its last frame; whoever starts must find out.
   */
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

  /** Whatever its disk remembered is gone, and it starts with another one. */
  loseDisk(): void {
    this.lostPlatters.push(this.platter);
    this.platter = new Platter(this.name);
    this.machine.disk.wipe();
  }

  /** Whether it has an entry on the disk that has this number, or had, before that was lost. */
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
