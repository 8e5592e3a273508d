/**
 * A world in memory, from one seed: its clock moves only when it is told to, its network does with
 * each datagram what the test says, and its disks forget what was not synced. The servers and
 * clients in it are the real ones. The same seed gives the same run, event by event.
 */
import { drainMicrotasks } from "bun:jsc";
import { isIP } from "node:net";
import { type Address, type OnDatagram, RaftError, type Socket, type World } from "../../raft.ts";
import { Agenda } from "./agenda.ts";
import { Disk, type Keep, type Operation } from "./disk.ts";
import { type Random, randomFrom } from "./random.ts";

/** A datagram. A port probe is empty, and `onRefused` is called if the port is closed. */
export type Packet = { from: Address; to: Address; bytes: Buffer; onRefused?: () => void };
/** One arrival of a datagram: without a route it is lost. `bytes` replaces its content. */
export type Route = { afterMs: number; bytes?: Buffer };
/** What a test may watch: each datagram that leaves a machine, each operation of its disk. */
export type Happening = { machine: Machine; packet?: Packet; operation?: Operation };

/** Does what is due. Plans added meanwhile wait for the next turn; cancelled ones are dropped. */
function act(agenda: Agenda, now: number): void {
  const due = [];
  while (agenda.nextAt <= now) due.push(agenda.takeFirst());
  for (const plan of due) {
    if (plan.action === undefined) continue;
    plan.action();
    drainMicrotasks();
  }
}

/** How a machine's clock differs from the simulation's: where it began, and how fast it is. */
export type Drift = { startedAt: number; rate: number };
/** The shortest timer. Rounding could make a shorter one fire again at the same instant. */
const FINEST_MS = 0.01;

/** A running program: the queues of its event loop, and the ports that it holds. */
class Program {
  readonly timers = new Agenda();
  inbox: (() => void)[] = [];
  inboxBytes = 0;
  deferred: (() => void)[] = [];
  readonly ports = new Map<number, OnDatagram>();
  pausedUntil = Number.NEGATIVE_INFINITY;
  /** How long the current turn has been blocked: its effects are that much later. */
  lag = 0;

  constructor(readonly drift: Drift) {}

  get dueAt(): number {
    const isIdle = this.inbox.length + this.deferred.length === 0;
    return Math.max(this.pausedUntil, isIdle ? this.timers.nextAt : Number.NEGATIVE_INFINITY);
  }

  /** Runs one turn in the order of Bun's event loop: timers, arrivals, deferred actions. */
  turn(now: number, turnMs: number): void {
    this.lag = turnMs;
    act(this.timers, now);
    for (const phase of ["inbox", "deferred"] as const) {
      const actions = this[phase];
      if (actions.length === 0) continue;
      this[phase] = [];
      if (phase === "inbox") this.inboxBytes = 0;
      for (const action of actions) {
        action();
        drainMicrotasks();
      }
    }
    if (this.lag > 0) this.pausedUntil = Math.max(this.pausedUntil, now + this.lag);
    this.lag = 0;
  }
}

export class Machine {
  readonly disk: Disk;
  drift: Drift = { startedAt: 0, rate: 1 };
  receiveBufferBytes = 4 << 20;
  datagramBytes = 1400;
  /** How long every turn of the event loop takes. Meanwhile arrivals gather. */
  turnMs = 0;
  program: Program | undefined;
  /** A machine without power has no kernel that could refuse a datagram to a closed port. */
  private hasPower = true;

  constructor(private readonly simulation: Simulation, readonly name: string, public ip: string) {
    this.disk = new Disk(simulation.random, (operation) => {
      if (operation.what === "sync") this.block(simulation.syncMs(this));
      simulation.watch({ machine: this, operation });
    });
  }

  /** Starts a program. Returns its world, which works until the program is killed. */
  boot(): World {
    const { simulation } = this;
    const program = this.program = new Program(this.drift);
    this.hasPower = true;
    const { startedAt, rate } = program.drift;
    return {
      clock: {
        now: () => (simulation.now + program.lag - startedAt) * rate,
        setTimer: (delayMs, action) => {
          const inMs = Math.max(FINEST_MS, delayMs / rate);
          return program.timers.add(simulation.now + program.lag + inMs, action);
        },
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

  /** Kills the program as `kill -9` does. The disk keeps all writes. */
  kill(): void {
    this.program = undefined;
    this.disk.kill();
  }

  powerCut(keep: Keep = "parts"): void {
    this.program = undefined;
    this.hasPower = false;
    this.disk.powerCut(keep);
  }

  /** Sends SIGSTOP, and later SIGCONT. Meanwhile timers fall due, and datagrams queue. */
  pause(ms: number): void {
    if (this.program) this.program.pausedUntil = this.simulation.now + ms;
  }

  /** Blocks the program, so that its further effects are later. */
  block(ms: number): void {
    if (this.program) this.program.lag += ms;
  }

  private async bind(program: Program, wanted: number, receive: OnDatagram): Promise<Socket> {
    let port = wanted === 0 ? 32_768 : wanted;
    while (wanted === 0 && program.ports.has(port)) port += 1;
    if (program.ports.has(port)) throw new RaftError("network", `Port ${port} is taken.`);
    program.ports.set(port, receive);
    return {
      address: this.ip,
      receiveBufferBytes: this.receiveBufferBytes,
      datagramBytes: () => this.datagramBytes,
      send: (bytes, to) => {
        const isOpen = this.program === program && program.ports.get(port) === receive;
        const packet = { from: { host: this.ip, port }, to, bytes: Buffer.from(bytes) };
        if (isOpen && bytes.length <= 65_507) this.depart(program, packet);
      },
      probePort: (to, refused) => {
        const isOpen = () => this.program === program && program.ports.get(port) === receive;
        const onRefused = () => void (isOpen() && program.inbox.push(() => isOpen() && refused()));
        const packet = { from: { host: this.ip, port }, to, bytes: Buffer.alloc(0), onRefused };
        if (isOpen()) this.depart(program, packet);
      },
      close: () => void program.ports.delete(port),
    };
  }

  /** Sends a datagram: after the block of a blocked program, if that still runs. */
  private depart(program: Program, packet: Packet): void {
    const { simulation } = this;
    if (program.lag === 0) return simulation.send(this, packet);
    simulation.plan(program.lag, () => {
      if (this.program === program) simulation.send(this, packet);
    });
  }

  /** Queues a datagram for the program's next turn, unless the buffer is full. */
  arrive(packet: Packet): void {
    const { program } = this;
    if (packet.onRefused && this.hasPower && !program?.ports.has(packet.to.port)) {
      return this.simulation.refuse(packet, packet.onRefused);
    }
    if (!program || program.inboxBytes + packet.bytes.length > this.receiveBufferBytes) return;
    program.inboxBytes += packet.bytes.length;
    const { bytes, from, to } = packet;
    program.inbox.push(() => program.ports.get(to.port)?.(Buffer.from(bytes), from));
  }
}

export class Simulation {
  now = 0;
  readonly random: Random;
  /** Decides how a datagram travels. By default it takes up to a millisecond. */
  route: (packet: Packet) => Route[] = () => [{ afterMs: 0.1 + 0.9 * this.random() }];
  watch: (happening: Happening) => void = () => {};
  /** Decides how long a sync takes. Meanwhile the machine's program is blocked. */
  syncMs: (machine: Machine) => number = () => 0;
  /** Called after each turn of a machine's program. */
  afterTurn: (machine: Machine) => void = () => {};
  private readonly machines = new Map<string, Machine>();
  private readonly network = new Agenda();

  constructor(seed: number) {
    this.random = randomFrom(seed);
  }

  /** Returns the machine with this name, which is also its host name. */
  machine(name: string): Machine {
    const known = this.machines.get(name);
    if (known) return known;
    const made = new Machine(this, name, `10.0.0.${this.machines.size + 1}`);
    this.machines.set(name, made);
    return made;
  }

  /** Plans an action of the world, outside all programs. Returns a function that cancels it. */
  plan(afterMs: number, action: () => void): () => void {
    return this.network.add(this.now + afterMs, action);
  }

  async resolve(host: string): Promise<string> {
    if (isIP(host)) return host;
    const machine = this.machines.get(host);
    if (!machine) throw new Error(`ENOTFOUND: ${host}`);
    return machine.ip;
  }

  send(machine: Machine, packet: Packet): void {
    this.watch({ machine, packet });
    for (const { afterMs, bytes } of this.route(packet)) {
      this.deliver(bytes ? { ...packet, bytes } : packet, afterMs);
    }
  }

  /** Delivers a datagram, which may be a forged one. */
  deliver(packet: Packet, afterMs = 0): void {
    this.plan(afterMs, () => this.machineAt(packet.to.host)?.arrive(packet));
  }

  /** Sends a kernel's refusal for a closed port, by the route of a datagram. */
  refuse({ from: to, to: from }: Packet, onRefused: () => void): void {
    const routes = this.route({ from, to, bytes: Buffer.alloc(0) });
    for (const { afterMs } of routes) this.plan(afterMs, onRefused);
  }

  machineAt(ip: string): Machine | undefined {
    return this.machines.values().find((machine) => machine.ip === ip);
  }

  /** Lets time pass until `isEnough`, at most `ms`. Returns whether it was enough. */
  run(ms: number, isEnough: () => boolean = () => false): boolean {
    const end = this.now + ms;
    for (drainMicrotasks(); !isEnough();) {
      let dueAt = this.network.nextAt;
      for (const { program } of this.machines.values()) {
        if (program) dueAt = Math.min(dueAt, program.dueAt);
      }
      this.now = Math.max(this.now, Math.min(dueAt, end));
      if (dueAt > end) return false;
      act(this.network, this.now);
      for (const machine of this.machines.values()) {
        const { program } = machine;
        if (!program || program.dueAt > this.now) continue;
        program.turn(this.now, machine.turnMs);
        this.afterTurn(machine);
      }
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
