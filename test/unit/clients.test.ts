/**
 * Tests what servers take from clients, which have keys but are not trusted, what clients take from
 * servers, and that messages larger than a datagram arrive in parts.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { Client, KeyValues, MAX_COMMAND_BYTES, type Name, Node } from "../../raft.ts";
import { THREE } from "../support/core.ts";
import { World } from "../support/nodes.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import {
  answerOf,
  askStore,
  DATA,
  End,
  HELLO,
  Impostor,
  message,
  open,
  type Role,
  SECRET,
} from "../support/wire.ts";
import { type Packet, Simulation } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

const KEY = Buffer.from("key");
const put = (via: Pick<Node, "propose" | "read">, value: Uint8Array) =>
  new KeyValues(via).put(KEY, value);
const get = (via: Pick<Node, "propose" | "read">) => new KeyValues(via).get(KEY);

/** Returns a client of this name, made by hand, that has a channel to a server. */
function visit(world: World, server: Name, name: string, role: Role = "client"): Impostor {
  const { simulation } = world;
  const to = { host: simulation.machine(server).ip, port: 1 };
  return new Impostor(simulation, to, { machine: `the machine of ${name}`, name, role }).connect();
}

/** Loses all packets between this server and the other ones. */
function cutOff(world: World, name: Name): void {
  const { simulation } = world;
  const ips = THREE.map((other) => simulation.machine(other).ip);
  const { ip } = simulation.machine(name);
  const isCut = ({ from: { host: from }, to: { host: to } }: Packet) =>
    [from, to].includes(ip) && [from, to].every((host) => ips.includes(host));
  simulation.route = (packet) => isCut(packet) ? [] : [{ afterMs: 1 }];
}

const heal = ({ simulation }: World) => simulation.route = () => [{ afterMs: 1 }];

describe("a server", () => {
  test("answers a client that asks for the status many times in a turn once", () => {
    const world = new World().found(["a"]);
    const [greedy, modest] = [visit(world, "a", "greedy"), visit(world, "a", "modest")];
    greedy.send(...Array.from({ length: 300 }, (_, id) => message("Inspect", id)));
    modest.send(message("Inspect", 7));
    world.simulation.run(50);
    for (const [visitor, id] of [[greedy, 299], [modest, 7]] as const) {
      expect(visitor.received.map(({ type, body }) => [type, body[1]])).toEqual([["Answer", id]]);
    }
  });

  test("lets 4,096 requests of a client wait, and those of other clients, too", () => {
    const world = new World().found();
    const { simulation } = world;
    const leader = world.leader() ?? "";
    simulation.settle(put(world.at(leader), Buffer.from("value")));
    const [greedy, modest] = [visit(world, leader, "greedy"), visit(world, leader, "modest")];
    const read = (id: number) => message("Read", id, askStore("get", KEY));
    cutOff(world, leader);
    for (let n = 0; n < 5; n += 1) {
      greedy.send(...Array.from({ length: 1000 }, (_, i) => read(1000 * n + i)));
    }
    simulation.run(20);
    modest.send(read(1));
    simulation.run(20);
    const { waiting } = world.at(leader) as unknown as { waiting: Map<string, Set<number>> };
    expect([...waiting.values()].map(({ size }) => size)).toEqual([4096, 1]);
    expect([...greedy.received, ...modest.received]).toEqual([]);
    heal(world);
    simulation.run(500);
    expect([greedy.received.length, modest.received.length]).toEqual([4096, 1]);
    expect(waiting.size).toBe(0);
    greedy.send(read(4999));
    simulation.run(50);
    const answers = new Set(greedy.received.map(({ body }) => answerOf(body[2] as Uint8Array)));
    expect([greedy.received.length, [...answers]]).toEqual([4097, ["value"]]);
  });

  test("takes no answer from a client to its own requests", () => {
    for (const role of ["client", "operator"] as const) {
      const world = new World().found();
      const { simulation } = world;
      simulation.settle(put(world.at("a"), Buffer.from("old")));
      const follower = THREE.find((name) => name !== world.leader()) ?? "";
      const node = world.at(follower);
      const liar = visit(world, follower, "liar", role);
      cutOff(world, follower);
      const settled: unknown[] = [];
      const written = put(node, Buffer.from("new")).finally(() => settled.push("put"));
      const read = get(node).finally(() => settled.push("get"));
      simulation.run(20);
      const ids = [...node["client"]["pending"].keys()];
      expect(ids.length).toBeGreaterThan(1);
      const lies = ids.flatMap((id) => [
        message("Answer", id, Buffer.from("9")),
        message("Outcomes", id, 0, Buffer.of(0xc4, 1, 1)),
        message("Refused", id, "the session has ended, or never was"),
        message("NotLeader", id, "liar", "liar=10.66.6.6:1"),
      ]);
      const to = new Set<string>();
      simulation.watch = ({ packet }) => void to.add(packet?.to.host ?? "");
      liar.send(...lies);
      simulation.run(200);
      expect(node.status().dropped).toMatchObject({ malformed: lies.length });
      expect(settled).toEqual([]);
      expect(to).not.toContain("10.66.6.6");
      heal(world);
      simulation.settle(written);
      expect(["old", "new"]).toContain(`${Buffer.from(simulation.settle(read) ?? [])}`);
      expect(`${Buffer.from(simulation.settle(get(node)) ?? [])}`).toBe("new");
    }
  });

  test("takes no message of Raft from a client, however it calls itself", () => {
    const world = new World().found();
    const { simulation } = world;
    const leader = world.leader() ?? "";
    const follower = THREE.find((name) => name !== leader) ?? "";
    const { term, lastIndex } = world.at(leader).status();
    const forged = [
      message("RequestVote", 1, 99, false, true, 1, 9, 99, 99),
      message("RequestVoteReply", 1, 99, false, 1, true),
      message("AppendEntries", 1, 99, 1, 0, 0, 99, Buffer.alloc(0)),
      message("AppendEntriesReply", 1, 99, 1, true, 9, 0, 0),
      message("TimeoutNow", 1, term),
      message("Removed", 1, 99),
      message("ReadIndex", 1),
    ];
    for (const [i, role] of (["client", "operator"] as const).entries()) {
      for (const name of [leader, follower]) {
        visit(world, name, follower, role).send(...forged);
        simulation.run(2000);
        expect(world.at(name).status().dropped["malformed"]).toBe((i + 1) * forged.length);
      }
    }
    expect(world.leader()).toBe(leader);
    expect(world.at(leader).status()).toMatchObject({ term, lastIndex });
  });
});

describe("a client", () => {
  test("reaches a server whose address a nearer one has now", () => {
    const world = new World().found();
    const { simulation } = world;
    const client = world.client({ servers: THREE.map((name) => `${name}=${name}:1`) });
    for (const name of THREE) simulation.settle(client.inspect(name));
    const [far, near] = [simulation.machine("b"), simulation.machine("c")];
    world.kill("b");
    world.kill("c");
    [far.ip, near.ip] = [near.ip, far.ip];
    simulation.route = ({ from, to }) => [
      { afterMs: [from.host, to.host].includes(far.ip) ? 10 : 1 },
    ];
    for (const name of ["b", "c"]) world.start(name, THREE);
    world.until(() => world.leader() !== undefined);
    for (const name of THREE) expect(simulation.settle(client.inspect(name)).name).toBe(name);
  });

  test("sends no copy of a command long after its outcome was unknown", () => {
    const world = new World().found();
    const { simulation } = world;
    const client = world.client({ servers: THREE.map((name) => `${name}=${name}:1`) });
    simulation.settle(put(client, Buffer.from("1")));
    for (const name of THREE) world.kill(name);
    simulation.run(2000);
    expect(world.failure(put(client, Buffer.from("2"))).code).toBe("outcomeUnknown");
    simulation.run(2000);
    for (const name of THREE) world.start(name, THREE);
    world.until(() => world.leader() !== undefined);
    // As the error advises, the client reads. Then it talks to each server.
    expect(`${simulation.settle(get(client))}`).toBe("1");
    for (const name of THREE) simulation.settle(client.inspect(name));
    simulation.run(1000);
    expect(`${simulation.settle(get(client))}`).toBe("1");
  });

  test("asks at most 64 servers, the last ones that a server has listed", () => {
    const simulation = new Simulation(1);
    let redirects = 0;
    redirectFrom(simulation, "a", "a", () => {
      redirects += 1;
      return Array.from({ length: 50 }, (_, i) => {
        const n = 50 * redirects + i;
        return `n${n}=10.1.${redirects}.${i}:1`;
      });
    });
    const client = ask(simulation, ["a:1"]);
    expect(redirects).toBeGreaterThan(1);
    const first = 50 * (redirects + 1) - 64;
    const last = Array.from({ length: 64 }, (_, i) => `n${first + i}`);
    expect(client["servers"]).toEqual(last);
  });

  test("asks each in turn, if two without a leader list the members in other orders", () => {
    const simulation = new Simulation(1);
    const asked: Name[] = [];
    for (const [name, order] of [["a", "abc"], ["b", "abc"], ["c", "acb"]] as const) {
      redirectFrom(simulation, name, "", () => {
        asked.push(name);
        return [...order].map((other) => `${other}=${simulation.machine(other).ip}:1`);
      });
    }
    ask(simulation, ["b=b:1", "c=c:1", "a=a:1"]);
    expect(asked.filter((name) => name === "a").length).toBeGreaterThan(3);
  });
});

/** Starts a server, made by hand, that answers each request by naming a leader and servers. */
function redirectFrom(
  simulation: Simulation,
  name: Name,
  leader: Name,
  list: () => readonly string[],
): void {
  const end = new End({ role: "peer", name, founding: 5 });
  const { datagrams } = simulation.machine(name).boot();
  const socket = simulation.settle(datagrams.bind({ host: name, port: 1 }, (packet, from) => {
    if (packet[0] === HELLO) socket.send(end.onHello(packet), from);
    if (packet[0] !== DATA) return;
    for (const { body } of end.open(packet).messages) {
      socket.send(end.seal([message("NotLeader", body[1], leader, list().join())]), from);
    }
  }));
}

/** Lets a new client read until it gives up. */
function ask(simulation: Simulation, servers: string[]): Client {
  const world = simulation.machine("client").boot();
  const options = { servers, secret: SECRET, timeoutMs: 3000, world };
  const client = simulation.settle(Client.connect(options));
  client.read(KEY).catch(() => {});
  simulation.run(5000);
  return client;
}

test("requests go to the leader, although answers take longer than the time until a retry", () => {
  const world = new World();
  const { simulation } = world;
  simulation.route = () => [{ afterMs: 80 }];
  world.found(THREE, { electionTimeoutMs: 3000, heartbeatMs: 300 });
  const node = world.at(world.leader() ?? "");
  const client = world.client({ servers: THREE.map((name) => `${name}=${name}:1`) });
  const timeOf = (call: Promise<unknown>) => {
    const startedAt = simulation.now;
    simulation.settle(call);
    return simulation.now - startedAt;
  };
  for (const via of [client, node]) simulation.settle(put(via, Buffer.of(1))); // In new sessions.
  for (let n = 0; n < 3; n += 1) {
    expect(timeOf(put(client, Buffer.of(n)))).toBeLessThan(350);
    expect(timeOf(put(node, Buffer.of(n)))).toBeLessThan(200);
    expect(timeOf(get(node))).toBeLessThan(200);
  }
});

test("thousands of small requests and answers of a turn arrive at once, in large datagrams", () => {
  const world = new World().found(["a"], { datagramBytes: 60_000 });
  const { simulation } = world;
  simulation.route = () => [{ afterMs: 1 }];
  const client = world.client({ datagramBytes: 60_000 });
  simulation.settle(get(client));
  const startedAt = simulation.now;
  const reads = Array.from({ length: 4000 }, () => client.read(askStore("get", KEY)));
  simulation.settle(Promise.all(reads));
  expect(simulation.now - startedAt).toBeLessThan(10);
});

test("commands of one turn that together fit the largest datagram are all applied", () => {
  const world = new World().found(["a"], { datagramBytes: 65_507 });
  const client = world.client({ datagramBytes: 65_507 });
  const value = Buffer.alloc(300);
  const written = Array.from({ length: 1000 }, () => put(client, value));
  expect(world.simulation.settle(Promise.all(written))).toHaveLength(1000);
});

test("a command that waits for a session has its own timeout, however long others have waited", () => {
  const world = new World().found();
  const { simulation } = world;
  for (const name of THREE) world.kill(name);
  const client = world.client({ servers: THREE.map((name) => `${name}:1`), timeoutMs: 5000 });
  const waited: number[] = [];
  for (const runMs of [4900, 20_000]) {
    const beganAt = simulation.now;
    put(client, Buffer.of(1)).catch(() => waited.push(simulation.now - beganAt));
    simulation.run(runMs);
  }
  expect(waited).toHaveLength(2);
  for (const ms of waited) expect(ms).toBeGreaterThanOrEqual(5000);
});

test("more commands of one turn than a session takes are all applied once", () => {
  const world = new World().found(["a"]);
  const { simulation } = world;
  // Lost requests are sent twice, and a second copy must not be refused.
  simulation.route = () => simulation.random() < 0.1 ? [] : [{ afterMs: 1 }];
  const client = world.client({ datagramBytes: 972, timeoutMs: 60_000 });
  const store = new KeyValues(client);
  const value = Buffer.alloc(700); // So that each command is a request of its own.
  const created = Array.from(
    { length: 6000 },
    (_, i) => store.cas(Buffer.from(`${i}`), undefined, value),
  );
  expect(simulation.settle(Promise.all(created)).every((isDone) => isDone)).toBeTrue();
});

test("entries are sent few times more, although some are lost and overtaken", () => {
  const world = new World().found();
  const { simulation } = world;
  const client = world.client({ servers: THREE.map((name) => `${name}=${name}:1`) });
  simulation.settle(put(client, Buffer.of(1)));
  const random = () => simulation.random();
  simulation.route = () => random() < 0.01 ? [] : [{ afterMs: 0.5 + 0.2 * random() }];
  let packets = 0;
  simulation.watch = ({ packet }) => {
    packets += packet && open(packet.bytes).types.includes("AppendEntries") ? 1 : 0;
  };
  const values = Array.from({ length: 3000 }, () => put(client, Buffer.alloc(100)));
  simulation.settle(Promise.all(values));
  // Two followers, and less than ten commands in a packet.
  expect(packets).toBeLessThan(6 * 2 * 3000 / 10);
});

describe("with the smallest datagrams", () => {
  const options = { datagramBytes: 972, snapshotBytes: 100_000 };

  /** Returns a cluster and a client whose network loses and reorders packets. */
  function start() {
    const world = new World();
    const { simulation } = world;
    const sizes = new Set<number>();
    simulation.watch = ({ packet }) => void sizes.add(packet?.bytes.length ?? 0);
    simulation.route = () =>
      simulation.random() < 0.05 ? [] : [{ afterMs: 5 * simulation.random() }];
    world.found(THREE, options);
    const servers = THREE.map((name) => `${name}=${name}:1`);
    const client = world.client({ servers, datagramBytes: 972, timeoutMs: 20_000 });
    return { world, simulation, client, sizes };
  }
  const large = (fill: number) => Buffer.alloc(MAX_COMMAND_BYTES - 100, fill);

  test("large commands and answers arrive in parts, although some are lost", () => {
    const { world, simulation, client, sizes } = start();
    for (const via of [client, world.at("a"), world.at("b"), world.at("c")]) {
      for (let n = 0; n < 3; n += 1) {
        const value = large(n);
        simulation.settle(put(via, value));
        expect(Buffer.from(simulation.settle(get(via)) ?? [])).toEqual(value);
      }
    }
    expect(Math.max(...sizes)).toBe(972);
  });

  test("many commands and answers of a turn share packets, and each arrives once", () => {
    const { simulation, client, sizes } = start();
    const values = new KeyValues(client);
    const words = Array.from({ length: 200 }, (_, i) => Buffer.from(`${i}`.padEnd(i, "x")));
    const created = words.map((word) => values.cas(word, undefined, word));
    expect(simulation.settle(Promise.all(created))).toEqual(words.map(() => true));
    const found = simulation.settle(Promise.all(words.map((word) => values.get(word))));
    expect(found.map((value) => Buffer.from(value ?? []))).toEqual(words);
    expect(Math.max(...sizes)).toBeLessThanOrEqual(972);
  });

  test("a snapshot is installed in chunks, and few chunks are sent more than once", () => {
    const { world, simulation, client, sizes } = start();
    const down = THREE.find((name) => name !== world.leader()) ?? "";
    world.kill(down);
    const values = new KeyValues(client);
    for (let n = 0; n < 12; n += 1) {
      simulation.settle(values.put(Buffer.of(n), Buffer.alloc(30_000, n)));
    }
    world.until(() => world.at(world.leader() ?? "").status().snapshotIndex > 5);
    const started = simulation.now;
    let [chunks, needed] = [0, 0];
    simulation.watch = ({ packet }) => {
      sizes.add(packet?.bytes.length ?? 0);
      chunks += packet && open(packet.bytes).types.includes("InstallSnapshot") ? 1 : 0;
    };
    world.start(down, THREE, options);
    world.until(() => world.eventsOf(down, "snapshot").length > 0);
    const restored = new KeyValues(world.at(down));
    for (let n = 0; n < 12; n += 1) {
      const value = simulation.settle(restored.get(Buffer.of(n)));
      expect(Buffer.from(value ?? [])).toEqual(Buffer.alloc(30_000, n));
    }
    for (const event of world.eventsOf(down, "snapshot")) {
      needed += event.type === "snapshot" ? event.size / 700 : 0;
    }
    expect(chunks).toBeLessThan(5 * needed);
    expect(simulation.now - started).toBeLessThan(20_000);
    expect(Math.max(...sizes)).toBe(972);
  });

  test("a server or a client with smaller ones, or larger than UDP carries, does not start", () => {
    const world = new World();
    for (const datagramBytes of [971, 0, -1, 1000.5, Number.NaN, 65_508]) {
      const wanted = `Cannot send datagrams of at most ${datagramBytes} bytes. Choose a size from `
        + "972 to 65507.";
      expect(() => world.start("a", [], { datagramBytes })).toThrow(wanted);
      expect(() => world.client({ datagramBytes })).toThrow(wanted);
    }
    world.start("a", [], { datagramBytes: 65_507 });
  });
});
