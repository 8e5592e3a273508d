/** Whole servers in a simulated world, whose network and disks a test controls. */
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
  type Raft,
  RaftError,
} from "../../raft.ts";
import { THREE } from "./core.ts";
import { SECRET } from "./wire.ts";
import { Simulation } from "./world.ts";

/** Returns the names of the members, with learners in brackets. */
export const namesOf = (members: Configuration) =>
  members.map(({ name, votes }) => votes ? name : `(${name})`).join(" ");

/** Returns what `status` makes a copy of, for conditions that are checked after every event. */
export const coreOf = (node: Node): Raft => node["core"];

/** Starts a server that has the name of its machine. */
export function startNode(
  simulation: Simulation,
  name: Name,
  peers: readonly Name[],
  options: Partial<NodeOptions>,
): Node {
  return simulation.settle(
    Node.start({
      host: name,
      port: 1,
      name,
      peers: peers.filter((peer) => peer !== name).map((peer) => `${peer}=${peer}:1`),
      machine: new KeyValueStore(),
      directory: "data",
      secret: SECRET,
      world: simulation.machine(name).boot(),
      ...options,
    }),
  );
}

/** A cluster whose servers have key-value stores and record their events. */
export class World {
  readonly simulation = new Simulation(1);
  readonly nodes = new Map<Name, Node>();
  readonly events = new Map<Name, NodeEvent[]>();

  start(name: Name, peers: readonly Name[], options: Partial<NodeOptions> = {}): Node {
    const events: NodeEvent[] = [];
    const onEvent = (event: NodeEvent) => void events.push(event);
    const node = startNode(this.simulation, name, peers, { onEvent, ...options });
    this.nodes.set(name, node);
    this.events.set(name, events);
    return node;
  }

  found(names: readonly Name[] = THREE, options: Partial<NodeOptions> = {}): this {
    for (const name of names) this.simulation.machine(name);
    for (const name of names) this.start(name, names, options);
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
    return [...this.nodes].find(([, node]) => coreOf(node).role.name === "Leader")?.[0];
  }

  until(isSo: () => boolean): void {
    expect(this.simulation.run(60_000, isSo)).toBe(true);
  }

  /** Waits until all running servers have these members. */
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

  eventsOf(name: Name, type: NodeEvent["type"]): NodeEvent[] {
    return this.events.get(name)?.filter((event) => event.type === type) ?? [];
  }
}
