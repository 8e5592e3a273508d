/**
 * Runs real servers in a simulated world. A scenario decides which servers run, which servers reach
 * each other, and how the network behaves. The properties of Figure 3 are checked after each turn.
 */
import { expect } from "bun:test";
import { Client, messages, Node, type NodeOptions, type StateMachine } from "../../raft.ts";
import { Figure3 } from "../simulation/full/figure3.ts";
import { readPacket, type Sentence } from "../simulation/full/story.ts";
import { type Keep, type Operation } from "../support/disk.ts";
import { coreOf, startNode } from "../support/nodes.ts";
import { pick, type Random } from "../support/random.ts";
import { SECRET } from "../support/wire.ts";
import { type Packet, type Route, Simulation } from "../support/world.ts";

/** The routes of a datagram whose receiver is reachable. */
const networks = {
  steady: (random: Random): Route[] => [{ afterMs: 0.1 + 0.9 * random() }],
  /** Loses some datagrams, repeats some, and reorders them. */
  unreliable: (random: Random): Route[] => {
    const afterMs = 27 * random();
    if (random() < 0.1) return [];
    return random() < 0.05 ? [{ afterMs }, { afterMs: 2 * afterMs }] : [{ afterMs }];
  },
  /** Slow enough that a crash finds entries in flight. */
  slow: (random: Random): Route[] => [{ afterMs: 1 + 19 * random() }],
  /** Unreliable, and a quarter of the datagrams is late by up to a few terms. */
  reordering: (random: Random): Route[] =>
    random() < 0.25 ? [{ afterMs: 200 + 2200 * random() }] : networks.unreliable(random),
};

/** The messages between servers since `count` was called. */
export type Traffic = {
  requests: number;
  replies: number;
  refusals: number;
  bytes: number;
  snapshotChunks: number;
};

type RunningServer<Machine> = { node: Node; machine: Machine };
const MAIN = "main";

export class Stage<Machine extends StateMachine> {
  readonly simulation: Simulation;
  readonly names: readonly string[];
  network: keyof typeof networks = "steady";
  /** Selects messages whose datagrams are lost, on any network. */
  lose: ((message: Sentence) => boolean) | undefined;
  private readonly running = new Map<string, RunningServer<Machine>>();
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
      const isLost = lose && readPacket(packet.bytes).some(lose);
      return isLost || !this.isOpen(packet) ? [] : networks[this.network](simulation.random);
    };
    simulation.afterTurn = ({ name }) => {
      if (this.broken) throw this.broken;
      const server = this.running.get(name);
      if (server) this.figure3.judge(name, server.node["core"]);
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
      if (this.running.get(name)?.node === node) this.broken ??= reason;
    });
    this.running.set(name, { node, machine });
  }

  /** Cuts the power: data that was not synced is lost, unless chance keeps it. */
  crash(name: string, keep: Keep = "nothing"): void {
    const machine = this.simulation.machine(name);
    machine.disk.fault = () => undefined;
    machine.powerCut(keep);
    this.running.delete(name);
  }

  /** Cuts the power just before such an operation of the disk. */
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
    return this.running.has(name);
  }

  server(name: string): RunningServer<Machine> {
    const server = this.running.get(name);
    if (!server) throw new Error(`Server ${name} does not run.`);
    return server;
  }

  status(name: string): ReturnType<Node["status"]> {
    return this.server(name).node.status();
  }

  // ------------------------------------------- Network -------------------------------------------

  /** Cuts each of these servers off from all others. They keep running. */
  disconnect(...names: readonly string[]): void {
    for (const name of names) this.sides.set(name, `${name} alone`);
  }

  connect(...names: readonly string[]): void {
    for (const name of names) this.sides.delete(name);
  }

  /**
   * Lets the servers of a group reach only each other. A client in no group reaches all servers.
   */
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

  /** Returns the servers that run and are not cut off. */
  get connected(): string[] {
    return this.names.filter((name) => this.isUp(name) && !this.sides.has(name));
  }

  /** Counts the messages between servers from now on. */
  count(): Traffic {
    const traffic = { requests: 0, replies: 0, refusals: 0, bytes: 0, snapshotChunks: 0 };
    this.simulation.watch = ({ packet }) => {
      const said = packet ? readPacket(packet.bytes) : [];
      const ofRaft = said.filter(({ type }) => type in messages);
      if (!packet || ofRaft.length === 0) return;
      traffic.bytes += packet.bytes.length;
      for (const { type, fields } of ofRaft) {
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

  /** Lets time pass until `isSo`. Throws after `limitMs`. */
  until(what: string, isSo: () => boolean, limitMs = 20_000): void {
    if (this.simulation.run(limitMs, isSo)) return;
    throw new Error(`Not within ${limitMs} ms of simulated time: ${what}.`);
  }

  settle<T>(promise: Promise<T>): T {
    return this.simulation.settle(promise, 120_000);
  }

  leaders(among: readonly string[] = this.connected): string[] {
    return among.filter((name) => coreOf(this.server(name).node).role.name === "Leader");
  }

  /** Waits until all these servers follow one leader among them, and returns its name. */
  leader(among: readonly string[] = this.connected): string {
    const isSettled = () => {
      const [first, ...more] = this.leaders(among);
      return first !== undefined && more.length === 0
        && among.every((name) => coreOf(this.server(name).node).leader === first);
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

/** Draws one element of a list that is not empty. */
export function drawFrom(random: Random, some: readonly string[]): string {
  return pick(random, some as [string, ...string[]]);
}

/** Expects that a scenario keeps its limit, and prints the measured value. */
export function within(what: string, measured: number, limit: number): void {
  const print = (value: number) => value.toLocaleString("en", { maximumFractionDigits: 2 });
  console.log(`${what}: ${print(measured)}, of at most ${print(limit)}`);
  expect(measured).toBeLessThanOrEqual(limit);
}
