/** A few servers as they are, on a simulated network and on disks that a test holds in its hands. */
import { expect } from "bun:test";
import {
  Client,
  type ClientOptions,
  type Configuration,
  KeyValueStore,
  type Name,
  Node,
  type NodeEvent,
  type NodeOptions,
  RaftError,
} from "../../raft.ts";
import { THREE } from "./core.ts";
import { SECRET } from "./wire.ts";
import { Simulation } from "./world.ts";

/** The names of the members; those of learners are in brackets. */
export const namesOf = (members: Configuration) =>
  members.map(({ name, votes }) => votes ? name : `(${name})`).join(" ");

/** Servers in a simulated world that are named like their machines. */
export class World {
  readonly simulation = new Simulation(1);
  readonly nodes = new Map<Name, Node>();
  readonly events = new Map<Name, NodeEvent[]>();

  start(name: Name, peers: readonly Name[], options: Partial<NodeOptions> = {}): Node {
    const events: NodeEvent[] = [];
    const machine = this.simulation.machine(name);
    const node = this.simulation.settle(
      Node.start({
        host: name,
        port: 1,
        name,
        peers: peers.map((peer) => `${peer}=${peer}:1`),
        machine: new KeyValueStore(),
        directory: "data",
        secret: SECRET,
        world: machine.boot(),
        onEvent: (event) => void events.push(event),
        ...options,
      }),
    );
    this.nodes.set(name, node);
    this.events.set(name, events);
    return node;
  }

  found(names: readonly Name[] = THREE, options: Partial<NodeOptions> = {}): this {
    for (const name of names) this.simulation.machine(name);
    for (const name of names) this.start(name, names.filter((other) => other !== name), options);
    this.until(() => this.leader() !== undefined);
    return this;
  }

  kill(name: Name): void {
    this.simulation.machine(name).kill();
    this.nodes.delete(name);
  }

  at(name: Name): Node {
    const node = this.nodes.get(name);
    if (!node) throw new Error(`${name} does not run`);
    return node;
  }

  leader(): Name | undefined {
    return [...this.nodes].find(([, node]) => node.status().role === "Leader")?.[0];
  }

  until(isSo: () => boolean): void {
    expect(this.simulation.run(60_000, isSo)).toBe(true);
  }

  /** All that run have these members. */
  agree(members: string): void {
    this.until(() =>
      [...this.nodes.values()].every((node) => namesOf(node.status().members) === members)
    );
  }

  change(name: Name, address?: string, via = this.leader() ?? "", force = false): void {
    this.simulation.settle(this.at(via).changeMembers(name, address, force));
  }

  client(options: Partial<ClientOptions> = {}): Client {
    const world = this.simulation.machine("client").boot();
    return this.simulation.settle(
      Client.connect({ servers: ["a:1"], secret: SECRET, world, ...options }),
    );
  }

  failure(promise: Promise<unknown>): RaftError {
    try {
      this.simulation.settle(promise);
    } catch (error) {
      if (error instanceof RaftError) return error;
    }
    throw new Error("it should have been rejected with a RaftError");
  }

  told(name: Name, type: NodeEvent["type"]): NodeEvent[] {
    return this.events.get(name)?.filter((event) => event.type === type) ?? [];
  }
}
