/**
 * Tests that a backup of a running cluster is a whole snapshot with the state at its index, and that
 * a server made of it is a cluster of its own.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type Client,
  clientKey,
  type ClientOptions,
  type Name,
  type Node,
  type NodeOptions,
  readRequests,
  readSnapshot,
  type StateMachine,
  Storage,
} from "../../raft.ts";
import { THREE } from "../support/core.ts";
import { namesOf, World } from "../support/nodes.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { SECRET } from "../support/wire.ts";
import { type Simulation } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

/** Keeps all commands, in order. */
class Diary implements StateMachine {
  pages: Uint8Array[] = [];
  apply(command: Uint8Array): Uint8Array {
    this.pages.push(Buffer.from(command));
    return command.subarray(0, 1);
  }
  query(): Uint8Array {
    return Buffer.from(`${this.pages.length}`);
  }
  snapshot(): Iterable<Uint8Array> {
    return [...this.pages];
  }
  restore(): (chunk: Uint8Array) => void {
    this.pages = [];
    return (chunk) => void this.pages.push(Buffer.from(chunk));
  }
}

/** Cuts a server off from the others, but not from the client. Returns a function that ends it. */
function cutFromServers(simulation: Simulation, name: string): () => void {
  const { ip } = simulation.machine(name);
  const { ip: client } = simulation.machine("client");
  const { route } = simulation;
  simulation.route = (packet) => {
    const ends = [packet.from.host, packet.to.host];
    return ends.includes(ip) && !ends.includes(client) ? [] : route(packet);
  };
  return () => void (simulation.route = route);
}

/** A cluster of diaries that writes a snapshot only for a backup. */
function found(options: Partial<NodeOptions> = {}) {
  const world = new World();
  const { simulation } = world;
  for (const name of THREE) simulation.machine(name);
  for (const name of THREE) {
    world.start(name, THREE, { machine: new Diary(), snapshotBytes: Infinity, ...options });
  }
  world.until(() => world.leader() !== undefined);
  const client = (more: Partial<ClientOptions> = {}) =>
    world.client({ servers: THREE.map((name) => `${name}:1`), ...more });
  const name = world.leader() ?? "";
  return { world, simulation, client, name, leader: world.at(name) };
}

/** A command of 1,000 bytes, so that a few make a snapshot of many parts. */
const page = (number: number) => Buffer.alloc(1000, number);
const write = (node: Node, from: number, to: number) =>
  Promise.all(Array.from({ length: to - from }, (_, i) => node.propose(page(from + i))));

/** Takes a backup as `cli.ts backup` does. Calls `between` after each part. */
async function take(client: Client, server: Name, index?: number, between = async () => {}) {
  let bytes = Buffer.alloc(0);
  const offsets: number[] = [];
  for await (const { offset, data } of client.readSnapshot(server, index)) {
    offsets.push(offset);
    bytes = Buffer.concat([bytes.subarray(0, offset), data]);
    await between();
  }
  return { bytes, offsets };
}

const reader = (bytes: Buffer) => (at: number, length: number) => bytes.subarray(at, at + length);
/** Returns the index of a backup and the pages in it. Throws if it is damaged. */
function contents(bytes: Buffer) {
  const records = [...readSnapshot("backup", reader(bytes))].flat();
  const states = records.filter(({ kind }) => kind === "state");
  return { index: records[0]?.index ?? 0, pages: states.map(({ data }) => data) };
}

/** Returns the commands in the log of a server up to an entry. */
function commandsUpTo(node: Node, index: number): Buffer[] {
  const { log } = node["core"];
  return log.slice(1, index).filter(({ kind }) => kind === "commands").flatMap(readRequests)
    .flatMap((request) =>
      "commands" in request ? request.commands.map((each) => Buffer.from(each)) : []
    );
}

describe("A backup", () => {
  test("has the state at its index, while commands go on, and includes the wanted entry", () => {
    const { world, simulation, client, leader } = found();
    const operator = client();
    simulation.settle(write(leader, 0, 30));
    simulation.settle(take(operator, "b"));
    simulation.settle(write(leader, 30, 50));
    const asked = leader.status().commitIndex;
    const later: Promise<unknown>[] = [];
    const backup = take(operator, "b", asked, async () => {
      later.push(write(leader, 100, 103));
    });
    const { bytes, offsets } = simulation.settle(backup);
    simulation.settle(Promise.all(later));
    expect(offsets.length).toBeGreaterThan(1);
    const { index, pages } = contents(bytes);
    expect(index).toBeGreaterThanOrEqual(asked);
    expect(pages).toEqual(commandsUpTo(world.at("b"), index));
    expect(pages.length).toBeGreaterThanOrEqual(50);
  });

  test("of a small state includes the wanted entry, too", () => {
    const { simulation, client, name, leader } = found();
    const operator = client();
    for (let count = 1; count <= 3; count += 1) {
      simulation.settle(write(leader, count, count + 1));
      const { commitIndex } = leader.status();
      const { bytes } = simulation.settle(take(operator, name, commitIndex));
      expect(contents(bytes)).toMatchObject({ index: commitIndex, pages: { length: count } });
    }
  });

  test("without an index is the last snapshot, as it is", () => {
    const { simulation, client, name, leader } = found();
    const operator = client();
    simulation.settle(write(leader, 0, 50));
    const { bytes } = simulation.settle(take(operator, name));
    simulation.settle(write(leader, 50, 60));
    expect(simulation.settle(take(operator, name)).bytes).toEqual(bytes);
    expect(contents(bytes).pages.length).toBe(50);
  });

  test("begins again if the server replaces the snapshot meanwhile", () => {
    const { simulation, client, name, leader } = found();
    const operator = client();
    simulation.settle(write(leader, 0, 100));
    let replaced = 0;
    const backup = take(operator, name, 1, async () => {
      if (replaced > 0) return;
      await write(leader, 100, 130);
      replaced = leader.status().commitIndex;
      await take(operator, name, replaced);
    });
    const { bytes, offsets } = simulation.settle(backup);
    expect(offsets.filter((offset) => offset === 0).length).toBe(2);
    expect(contents(bytes)).toMatchObject({ index: replaced, pages: { length: 130 } });
  });

  test("does not begin again for each snapshot that the load makes due", () => {
    const { simulation, client, name, leader } = found({ snapshotBytes: 64 << 10 });
    simulation.settle(write(leader, 0, 200));
    const { commitIndex } = leader.status();
    const load = async () => {
      await write(leader, 0, 80);
      await new Promise<void>((resolve) => simulation.plan(200, resolve));
    };
    const { bytes, offsets } = simulation.settle(take(client(), name, commitIndex, load));
    expect(80_000 * (offsets.length - 1)).toBeGreaterThan(bytes.length); // So one was due.
    expect(offsets.filter((offset) => offset === 0).length).toBe(1);
  });

  test("waits for a server that lags, and ends with a timeout if it stays so", () => {
    const { simulation, world, client, name, leader } = found();
    const operator = client();
    const last = THREE.find((other) => other !== name) ?? "";
    const heal = cutFromServers(simulation, last);
    simulation.settle(write(leader, 0, 5));
    const { commitIndex } = leader.status();
    expect(world.failure(take(operator, last, commitIndex)).code).toBe("timeout");
    const backup = take(operator, last, commitIndex);
    simulation.run(1000);
    heal();
    expect(contents(simulation.settle(backup).bytes).pages.length).toBe(5);
  });

  /** A cluster whose leader has sent a part of its snapshot to a follower that lags. */
  function sendHalf() {
    const cluster = found({ snapshotBytes: 20_000 });
    const { world, simulation, client, name, leader } = cluster;
    const last = THREE.find((other) => other !== name) ?? "";
    simulation.settle(write(leader, 0, 15));
    world.until(() => world.at(last).status().commitIndex === leader.status().commitIndex);
    world.kill(last);
    simulation.settle(write(leader, 15, 200));
    simulation.settle(take(client(), name, leader.status().commitIndex));
    const node = world.start(last, THREE, { machine: new Diary(), snapshotBytes: 20_000 });
    world.until(() => (node["core"].incoming?.offset ?? 0) > 10_000);
    return { ...cluster, node, last };
  }

  test("of a server that lacks the rest of a snapshot has its own state, if the leader died", () => {
    const { world, simulation, client, last } = sendHalf();
    for (const other of THREE) if (other !== last) world.kill(other);
    expect(contents(simulation.settle(take(client(), last)).bytes).pages.length).toBe(15);
  });

  test("does no harm if the leader goes on with its snapshot meanwhile", () => {
    const { world, simulation, client, node, last } = sendHalf();
    const heal = cutFromServers(simulation, last);
    const { term } = node.status();
    world.until(() => node.status().leader === null);
    simulation.syncMs = ({ name }) => name === last ? 20 : 0;
    const backup = take(client(), last);
    world.until(() => node["backgroundTask"] !== undefined);
    heal();
    world.until(() => node.status().leader !== null);
    expect(node["backgroundTask"]).toBeDefined();
    expect(contents(simulation.settle(backup).bytes).pages.length).toBeGreaterThanOrEqual(15);
    world.until(() => node.status().snapshotIndex > 100);
    expect(node.status()).toMatchObject({ term, role: "Follower" });
  });

  test("is for operators: a client key is refused", () => {
    const { world, client } = found();
    const error = world.failure(take(client({ clientKey: clientKey(SECRET, "raft", "al") }), "a"));
    expect(`${error.code} ${error.message}`).toMatch(/^usage A client key cannot .*backups/);
  });
});

describe("A server made of a backup", () => {
  /** Makes the server d of a backup, as `cli.ts restore` does, and cuts its power. */
  function restore(simulation: Simulation, bytes: Buffer): void {
    const { disk } = simulation.machine("d");
    const start = { cluster: "raft", name: "d", members: [] };
    const storage = new Storage(disk.files(), "data", start, simulation.random);
    storage.formNewCluster(readSnapshot("backup", reader(bytes)));
    storage.close();
    disk.powerCut("nothing");
  }

  test("is a cluster of its own with that state, and others join it", () => {
    const { world, simulation, client, name, leader } = found();
    simulation.settle(write(leader, 0, 70));
    const { bytes } = simulation.settle(take(client(), name));
    const before = leader.status();
    for (const other of THREE) world.kill(other);
    restore(simulation, bytes);
    const diary = new Diary();
    const d = world.start("d", [], { machine: diary });
    expect(diary.pages).toEqual(contents(bytes).pages);
    expect(diary.pages.length).toBe(70);
    simulation.settle(d.propose(page(7)));
    const { founding, term, snapshotIndex, members } = d.status();
    expect(snapshotIndex).toBe(contents(bytes).index);
    expect([founding === before.founding, term > before.term]).toEqual([false, true]);
    expect(namesOf(members)).toBe("d");

    const copy = new Diary();
    world.start("e", ["d"], { machine: copy, join: true });
    world.change("e", "e:1", "d");
    world.agree("d e");
    simulation.run(1000);
    expect(copy.pages.length).toBe(71);
    // Former members, with their old directories, stay apart.
    for (const other of THREE) world.start(other, THREE, { machine: new Diary() });
    world.change("a", "a:1", "d");
    simulation.run(5000);
    expect(world.at("a").status().founding).toBe(before.founding);
    expect(d.status()).toMatchObject({ founding, role: "Leader" });
  });

  test("is made again after a failure, and has no term before it is whole", () => {
    const { world, simulation, client, name, leader } = found();
    simulation.settle(write(leader, 0, 20));
    const { bytes } = simulation.settle(take(client(), name));
    for (const other of THREE) world.kill(other);
    const { disk } = simulation.machine("d");
    let failures = 0;
    for (let whole = false; !whole;) {
      let countdown = failures;
      disk.fault = () => {
        countdown -= 1;
        return countdown < 0 ? { code: "ENOSPC", share: 0.5 } : undefined;
      };
      try {
        restore(simulation, bytes);
        whole = true;
      } catch {
        failures += 1;
      }
      disk.fault = () => undefined;
      disk.powerCut("nothing");
      const start = { cluster: "raft", name: "d", members: [] };
      const storage = new Storage(disk.files(), "data", start, simulation.random);
      expect(storage.hardState.currentTerm > 0).toBe(whole);
      storage.close();
    }
    expect(failures).toBeGreaterThan(10);
    const diary = new Diary();
    const d = world.start("d", [], { machine: diary });
    expect(diary.pages).toEqual(contents(bytes).pages);
    world.until(() => d.status().role === "Leader");
  });

  test("knows the sessions of clients: a command that comes again is not applied again", () => {
    const { world, simulation, client, name, leader } = found();
    const writer = client();
    simulation.settle(writer.propose(page(1)));
    const { bytes } = simulation.settle(take(writer, name, leader.status().commitIndex));
    const { log } = leader["core"];
    const entry = log.slice(1, log.lastIndex).findLast(({ kind }) => kind === "commands");
    for (const other of THREE) world.kill(other);
    restore(simulation, bytes);
    const diary = new Diary();
    const d = world.start("d", [], { machine: diary });
    world.until(() => d.status().role === "Leader");
    d["core"].propose("commands", entry?.data ?? Buffer.alloc(0));
    const { lastIndex } = d.status();
    simulation.settle(d.propose(page(2)));
    expect(d.status().lastApplied).toBeGreaterThan(lastIndex);
    expect(diary.pages.map(([first]) => first)).toEqual([1, 2]);
  });
});
