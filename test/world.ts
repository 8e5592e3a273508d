/**
 * A world in memory, from one seed: a clock that only moves when it is told to, a network that
 * does with each datagram what a test says, and machines whose disks forget what was not synced.
 * Servers and clients in it are the real ones. The same seed gives the same run, event by event.
 */
import { drainMicrotasks } from "bun:jsc";
import { type Address, RaftError, type Receive, type Socket, type World } from "../raft.ts";
import { Disk, type Keep, type Operation } from "./disk.ts";
import { type Random, randomFrom } from "./random.ts";

export type Packet = { from: Address; to: Address; bytes: Buffer };
/** Each route brings the datagram once; without any it is lost. `bytes` replaces what was sent. */
export type Route = { afterMs: number; bytes?: Buffer };
/** What a test may watch: all that leaves a machine, and all that its disk has done, in order. */
export type Happening = { machine: Machine; packet?: Packet; operation?: Operation };

type Plan = { at: number; action: () => void };

/** Plans in the order of their instants, and of their making where these are equal. */
class Agenda {
  private plans: Plan[] = [];

  get nextAt(): number {
    return this.plans[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  add(at: number, action: () => void): () => void {
    const plan = { at, action };
    this.plans.splice(this.plans.findLastIndex((other) => other.at <= at) + 1, 0, plan);
    return () => void (this.plans = this.plans.filter((other) => other !== plan));
  }

  /** Does what is due. What that adds waits for the next turn; what it cancels is not done. */
  act(now: number): void {
    for (const plan of this.plans.filter(({ at }) => at <= now)) {
      if (!this.plans.includes(plan)) continue;
      this.plans.splice(this.plans.indexOf(plan), 1);
      plan.action();
      drainMicrotasks();
    }
  }
}

/** A running program: the queues of its event loop, and the ports that it holds. */
class Program {
  readonly timers = new Agenda();
  inbox: (() => void)[] = [];
  deferred: (() => void)[] = [];
  readonly ports = new Map<number, Receive>();
  pausedUntil = Number.NEGATIVE_INFINITY;

  get dueAt(): number {
    const isIdle = this.inbox.length + this.deferred.length === 0;
    return Math.max(this.pausedUntil, isIdle ? this.timers.nextAt : Number.NEGATIVE_INFINITY);
  }

  /** One turn, in the order of Bun's event loop: timers, then what has arrived, then the end. */
  turn(now: number): void {
    this.timers.act(now);
    for (const phase of ["inbox", "deferred"] as const) {
      for (const action of this[phase].splice(0)) {
        action();
        drainMicrotasks();
      }
    }
  }
}

export class Machine {
  readonly disk: Disk;
  program: Program | undefined;

  constructor(private readonly simulation: Simulation, readonly name: string, public ip: string) {
    this.disk = new Disk(simulation.random,
      (operation) => simulation.watch({ machine: this, operation }));
  }

  /** Starts a program: what it gets is the world as it sees it, until it is killed. */
  boot(): World {
    const { simulation } = this;
    const program = this.program = new Program();
    return {
      clock: {
        now: () => simulation.now,
        setTimer: (delayMs, action) => program.timers.add(simulation.now + delayMs, action),
        defer: (action) => void program.deferred.push(action),
      },
      random: simulation.random,
      files: this.disk.files(),
      datagrams: {
        resolve: (host) => simulation.resolve(host),
        bind: ({ port }, receive) => this.bind(program, port, receive),
      },
    };
  }

  /** `kill -9`. The disk keeps what was written. */
  kill(): void {
    this.program = undefined;
    this.disk.kill();
  }

  powerCut(keep: Keep = "parts"): void {
    this.program = undefined;
    this.disk.powerCut(keep);
  }

  /** SIGSTOP, and SIGCONT after that time: meanwhile timers fall due, and datagrams queue. */
  pause(ms: number): void {
    if (this.program) this.program.pausedUntil = this.simulation.now + ms;
  }

  private async bind(program: Program, wanted: number, receive: Receive): Promise<Socket> {
    let port = wanted === 0 ? 32_768 : wanted;
    while (wanted === 0 && program.ports.has(port)) port += 1;
    if (program.ports.has(port)) throw new RaftError("network", `Port ${port} is taken.`);
    program.ports.set(port, receive);
    return {
      address: this.ip,
      receiveBufferBytes: 4 << 20,
      datagramBytes: 1400,
      send: (bytes, to) => {
        const isOpen = this.program === program && program.ports.get(port) === receive;
        const packet = { from: { host: this.ip, port }, to, bytes: Buffer.from(bytes) };
        if (isOpen && bytes.length <= 65_507) this.simulation.send(this, packet);
      },
      close: () => void program.ports.delete(port),
    };
  }
}

export class Simulation {
  now = 0;
  readonly random: Random;
  /** What becomes of a datagram. By default it takes up to a millisecond. */
  route: (packet: Packet) => Route[] = () => [{ afterMs: 0.1 + 0.9 * this.random() }];
  watch: (happening: Happening) => void = () => {};
  private readonly machines = new Map<string, Machine>();
  private readonly network = new Agenda();

  constructor(seed: number) {
    this.random = randomFrom(seed);
  }

  /** The machine of that name. It is known by it on the network, too. */
  machine(name: string): Machine {
    const made = this.machines.get(name)
      ?? new Machine(this, name, `10.0.0.${this.machines.size + 1}`);
    this.machines.set(name, made);
    return made;
  }

  async resolve(host: string): Promise<string> {
    const machine = [...this.machines.values()].find(({ name, ip }) => [name, ip].includes(host));
    if (!machine) throw new Error(`ENOTFOUND: ${host}`);
    return machine.ip;
  }

  send(machine: Machine, packet: Packet): void {
    this.watch({ machine, packet });
    for (const { afterMs, bytes } of this.route(packet)) {
      this.deliver(bytes ? { ...packet, bytes } : packet, afterMs);
    }
  }

  /** Brings a datagram to whoever has that port when it arrives: also one that nobody sent. */
  deliver(packet: Packet, afterMs = 0): void {
    this.network.add(this.now + afterMs, () => {
      const machine = [...this.machines.values()].find(({ ip }) => ip === packet.to.host);
      const program = machine?.program;
      const arrive = () =>
        program?.ports.get(packet.to.port)?.(Buffer.from(packet.bytes), packet.from);
      program?.inbox.push(arrive);
    });
  }

  /** Lets time pass until `isEnough`, but no longer than `ms`. Returns whether it was enough. */
  run(ms: number, isEnough: () => boolean = () => false): boolean {
    const end = this.now + ms;
    for (drainMicrotasks(); !isEnough();) {
      const programs = [...this.machines.values()].flatMap(({ program }) => program ?? []);
      const dueAt = Math.min(this.network.nextAt, ...programs.map((program) => program.dueAt));
      this.now = Math.max(this.now, Math.min(dueAt, end));
      if (dueAt > end) return false;
      this.network.act(this.now);
      for (const program of programs) if (program.dueAt <= this.now) program.turn(this.now);
    }
    return true;
  }

  /** Lets time pass until the promise is settled. Returns what it resolves to, or throws. */
  settle<T>(promise: Promise<T>, limitMs = 60_000): T {
    const outcomes: ({ value: T } | { error: unknown })[] = [];
    promise.then((value) => outcomes.push({ value }), (error) => outcomes.push({ error }));
    this.run(limitMs, () => outcomes.length > 0);
    const [outcome] = outcomes;
    if (!outcome) throw new Error(`Nothing came of it in ${limitMs} ms of simulated time.`);
    if ("error" in outcome) throw outcome.error;
    return outcome.value;
  }
}
