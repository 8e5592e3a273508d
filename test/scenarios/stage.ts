/**
 * The stage of the scenarios: real servers in a simulated world. A scenario decides which servers
 * run, which reach each other, and what the network does. The promises of Figure 3 are judged after
 * every turn of a server.
 */
import { expect } from "bun:test";
import { Client, Node, type NodeOptions, type StateMachine } from "../../raft.ts";
import { Figure3 } from "../simulation/full/figure3.ts";
import { readDatagram, type Sentence } from "../simulation/full/story.ts";
import { type Keep, type Operation } from "../support/disk.ts";
import { startNode } from "../support/nodes.ts";
import { pick, type Random } from "../support/random.ts";
import { SECRET } from "../support/wire.ts";
import { type Packet, type Route, Simulation } from "../support/world.ts";

/** What becomes of a datagram that has a way to where it is going. */
const networks = {
  steady: (random: Random): Route[] => [{ afterMs: 0.1 + 0.9 * random() }],
  /** Some are lost, some come twice, and they overtake each other. */
  unreliable: (random: Random): Route[] => {
    const afterMs = 27 * random();
    if (random() < 0.1) return [];
    return random() < 0.05 ? [{ afterMs }, { afterMs: 2 * afterMs }] : [{ afterMs }];
  },
  /** So slow that a crash meets entries on their way. */
  slow: (random: Random): Route[] => [{ afterMs: 1 + 19 * random() }],
  /** Unreliable, and a quarter is so late that whole terms may have gone by. */
  reordering: (random: Random): Route[] =>
    random() < 0.25 ? [{ afterMs: 200 + 2200 * random() }] : networks.unreliable(random),
};

/** What servers have said to each other while somebody counted. */
export type Traffic = {
  requests: number;
  replies: number;
  refusals: number;
  bytes: number;
  snapshotChunks: number;
};

type Life<Machine> = { node: Node; machine: Machine };
const MAIN = "main";

export class Stage<Machine extends StateMachine> {
  readonly simulation: Simulation;
  readonly names: readonly string[];
  network: keyof typeof networks = "steady";
  /** Datagrams with what this says of are lost, whatever the network is. */
  lose: ((said: Sentence) => boolean) | undefined;
  private readonly lives = new Map<string, Life<Machine>>();
  private readonly sides = new Map<string, string>();
  private readonly figure3 = new Figure3();
  private broken: unknown;

  constructor(
    seed: number,
    size: number,
    private readonly create: () => Machine,
    private readonly options: Partial<NodeOptions> = {},
  ) {
    const simulation = this.simulation = new Simulation(seed);
    this.names = Array.from({ length: size }, (_, i) => String.fromCharCode(97 + i));
    for (const name of this.names) simulation.machine(name);
    simulation.route = (packet) => {
      const { lose } = this;
      const isLost = lose && readDatagram(packet.bytes).said.some(lose);
      return isLost || !this.isOpen(packet) ? [] : networks[this.network](simulation.random);
    };
    simulation.afterTurn = ({ name }) => {
      if (this.broken) throw this.broken;
      const life = this.lives.get(name);
      if (life) this.figure3.judge(name, life.node["core"]);
    };
    for (const name of this.names) this.start(name);
  }

  get random(): Random {
    return this.simulation.random;
  }

  // ------------------------------------------- Servers -------------------------------------------

  start(name: string): void {
    const machine = this.create();
    const options = { machine, timeoutMs: 2000, ...this.options };
    const node = startNode(this.simulation, name, this.names, options);
    node.stopped.catch((reason: unknown) => {
      if (this.lives.get(name)?.node === node) this.broken ??= reason;
    });
    this.lives.set(name, { node, machine });
  }

  /** The power fails: what was not synced is forgotten, unless chance keeps it. */
  crash(name: string, keep: Keep = "nothing"): void {
    const machine = this.simulation.machine(name);
    machine.disk.fault = () => undefined;
    machine.powerCut(keep);
    this.lives.delete(name);
  }

  /** The power fails just before its disk does such a thing. */
  crashBefore(name: string, isIt: (operation: Operation) => boolean): void {
    const { disk } = this.simulation.machine(name);
    disk.fault = (operation) => {
      if (this.isUp(name) && isIt(operation)) this.crash(name);
      return undefined;
    };
  }

  restart(...names: readonly string[]): void {
    for (const name of names) if (this.isUp(name)) this.crash(name);
    for (const name of names) this.start(name);
  }

  isUp(name: string): boolean {
    return this.lives.has(name);
  }

  life(name: string): Life<Machine> {
    const life = this.lives.get(name);
    if (!life) throw new Error(`${name} does not run.`);
    return life;
  }

  status(name: string): ReturnType<Node["status"]> {
    return this.life(name).node.status();
  }

  // ------------------------------------------- Network -------------------------------------------

  /** Cuts these off, each from everybody. They go on running. */
  disconnect(...names: readonly string[]): void {
    for (const name of names) this.sides.set(name, `${name} alone`);
  }

  connect(...names: readonly string[]): void {
    for (const name of names) this.sides.delete(name);
  }

  /** Who is named together reaches each other. A client that is not named reaches everyone. */
  split(...groups: readonly (readonly string[])[]): void {
    groups.forEach((group, side) => group.forEach((name) => this.sides.set(name, `${side}`)));
  }

  heal(): void {
    this.sides.clear();
  }

  private isOpen({ from, to }: Packet): boolean {
    const [a, b] = [from, to].map(({ host }) => {
      const { name = "" } = this.simulation.machineAt(host) ?? {};
      return this.sides.get(name) ?? (this.names.includes(name) ? MAIN : undefined);
    });
    return a === undefined || b === undefined || a === b;
  }

  /** The servers that run, and are not cut off. */
  get connected(): string[] {
    return this.names.filter((name) => this.isUp(name) && !this.sides.has(name));
  }

  /** Counts, from now on, what servers say to each other. */
  count(): Traffic {
    const traffic = { requests: 0, replies: 0, refusals: 0, bytes: 0, snapshotChunks: 0 };
    this.simulation.watch = ({ packet }) => {
      const { kind, said } = packet ? readDatagram(packet.bytes) : { kind: "client", said: [] };
      if (!packet || kind !== "peer") return;
      traffic.bytes += packet.bytes.length;
      for (const { type, fields } of said.filter(({ type }) => type !== "Greeting")) {
        traffic[type.endsWith("Reply") ? "replies" : "requests"] += 1;
        if (type === "AppendEntriesReply" && fields["success"] === false) traffic.refusals += 1;
        if (type === "InstallSnapshot") traffic.snapshotChunks += 1;
      }
    };
    return traffic;
  }

  // -------------------------------------------- Time ---------------------------------------------

  run(ms: number): void {
    this.simulation.run(ms);
  }

  /** Lets time pass until it is so, but not for ever. */
  until(what: string, isSo: () => boolean, limitMs = 20_000): void {
    if (this.simulation.run(limitMs, isSo)) return;
    throw new Error(`It does not happen in ${limitMs} ms of simulated time that ${what}.`);
  }

  settle<T>(promise: Promise<T>): T {
    return this.simulation.settle(promise, 120_000);
  }

  leaders(among: readonly string[] = this.connected): string[] {
    return among.filter((name) => this.status(name).role === "Leader");
  }

  /** The one leader of these, after as long as it takes until all of them follow it. */
  leader(among: readonly string[] = this.connected): string {
    const isSettled = () => {
      const [one, ...more] = this.leaders(among);
      return one !== undefined && more.length === 0
        && among.every((name) => this.status(name).leader === one);
    };
    this.until(`${among.join(" ")} have one leader`, isSettled);
    return this.leaders(among)[0] ?? "";
  }

  followers(): string[] {
    const leader = this.leader();
    return this.connected.filter((name) => name !== leader);
  }

  client(name: string, timeoutMs = 120_000, servers = this.names): Client {
    const world = this.simulation.machine(name).boot();
    return this.simulation.settle(
      Client.connect({
        servers: servers.map((s) => `${s}=${s}:1`),
        secret: SECRET,
        timeoutMs,
        world,
      }),
    );
  }
}

/** One of those that there are, which are some. */
export function drawFrom(random: Random, some: readonly string[]): string {
  return pick(random, some as [string, ...string[]]);
}

/** Demands that a scenario keeps its limit, and tells what it needed. */
export function within(what: string, measured: number, limit: number): void {
  const tell = (value: number) => value.toLocaleString("en", { maximumFractionDigits: 2 });
  console.log(`${what}: ${tell(measured)}, of at most ${tell(limit)}`);
  expect(measured).toBeLessThanOrEqual(limit);
}
