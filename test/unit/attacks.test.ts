/**
 * Tests that attacks on earlier versions, and some on this one, have no effect on whole servers and
 * clients. In each test the same packets or messages do have it if they come from the right sender.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { clientKey, KeyValues } from "../../raft.ts";
import { THREE } from "../support/core.ts";
import { namesOf, World } from "../support/nodes.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import {
  askStore,
  commandsOf,
  type EndOptions,
  HELLO,
  Impostor,
  message,
  open,
  readOutcomes,
  SECRET,
  sequence,
  type Type,
  WELCOME,
  withClientKey,
} from "../support/wire.ts";
import type { Packet } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

const bytes = (text: string) => Buffer.from(text);
const [KEY, VALUE] = [bytes("key"), bytes("value")];
const ATTACKER = { host: "10.0.0.99", port: 9 };
const ofClient = (name: string): EndOptions => withClientKey(clientKey(SECRET, "raft", name));
const ipOf = ({ simulation }: World, name: string) => simulation.machine(name).ip;
const found = (...names: string[]) => new World().found(names.length > 0 ? names : THREE);

/** Connects to a server by hand. */
function enter(world: World, to: string, options: EndOptions & { machine?: string }): Impostor {
  return new Impostor(world.simulation, { host: ipOf(world, to), port: 1 }, options).connect();
}

/** Sends a message, and returns the fields of the answer. */
function ask(world: World, by: Impostor, ...[type, id, ...fields]: Parameters<typeof message>) {
  const before = by.received.length;
  by.send(message(type, id, ...fields));
  world.until(() => by.received.length > before);
  const { type: answer = "", body = [] } = by.received.at(-1) ?? {};
  return { type: answer, fields: body.slice(2) };
}

/** Records all packets from now on. */
function record({ simulation }: World): Packet[] {
  const all: Packet[] = [];
  simulation.watch = ({ packet }) => {
    if (packet && packet.from.host !== ATTACKER.host) all.push(packet);
  };
  return all;
}

/** Sends recorded packets to servers, every few milliseconds, until the result is called. */
function flood(world: World, packets: readonly Packet[], names: readonly string[]): () => void {
  const { simulation } = world;
  let cancel = () => {};
  const next = () => {
    for (const { bytes: packet } of packets) {
      for (const name of names) {
        const to = { host: ipOf(world, name), port: 1 };
        simulation.deliver({ from: ATTACKER, to, bytes: packet });
      }
    }
    cancel = simulation.plan(10 * simulation.random(), next);
  };
  next();
  return () => cancel();
}

const hellosOf = (packets: readonly Packet[]) =>
  packets.filter(({ bytes: [type] }) => type === HELLO);

/** Loses all packets to a server from the others, so its own requests get no answer. */
function cutOff(world: World, name: string): void {
  const { simulation, simulation: { route } } = world;
  const others = THREE.filter((other) => other !== name).map((other) => ipOf(world, other));
  simulation.route = (packet) => {
    const isCut = packet.to.host === ipOf(world, name) && others.includes(packet.from.host);
    return isCut ? [] : route(packet);
  };
}

/** Returns the id of the next request of a type that leaves a server. */
function nextRequest(world: World, from: string, type: Type): number {
  const { simulation } = world;
  let id: unknown;
  simulation.watch = ({ machine, packet }) => {
    if (machine.name !== from || !packet) return;
    id ??= open(packet.bytes).messages.find((each) => each.type === type)?.body[1];
  };
  world.until(() => id !== undefined);
  return Number(id);
}

const followerOf = (world: World) => THREE.find((name) => name !== world.leader()) ?? "";

/** Returns what a promise has resolved to so far. */
function watch(promise: Promise<Uint8Array>): string[] {
  const results: string[] = [];
  promise.then((value) => results.push(`${value}`), () => {});
  return results;
}

test("a recorded removal has no effect on the member that was added again", () => {
  const world = found();
  const add = (directory: string) => {
    world.start("d", [...THREE, "d"], { join: true, directory });
    world.change("d", "d:1");
    world.agree("a b c d");
  };
  const remove = () => {
    const operator = world.client({ servers: ["a:1", "b:1", "c:1"] });
    world.simulation.settle(operator.changeMembers("d"));
    operator.close();
    world.until(() => world.eventsOf("d", "removed").length > 0);
    world.kill("d");
    world.agree("a b c");
  };
  add("first");
  const recorded = record(world);
  remove();
  const all = recorded.filter(({ from }) => from.host === ipOf(world, "client"));
  add("second");
  // Their processes fill all places that a server has for clients.
  for (let i = 0; i < 1100; i += 1) enter(world, world.leader() ?? "", ofClient(`client ${i}`));
  const stop = flood(world, all, THREE);
  world.simulation.run(1000);
  stop();
  for (const name of THREE) expect(namesOf(world.at(name).status().members)).toBe("a b c d");
  remove();
});

test("another client can neither use nor end a session", () => {
  const world = found();
  const leader = world.leader() ?? "";
  const [x, y] = ["x", "y"].map((name) =>
    enter(world, leader, { ...ofClient(name), machine: name })
  ) as [Impostor, Impostor];
  const opened = ask(world, y, "OpenSession", 1, 7);
  const session = Number(readOutcomes(opened.fields)[0]?.outcome);
  const put = (by: Impostor, n: number, acknowledged: number, value: string) => {
    const command = askStore("put", KEY, bytes(value));
    return ask(world, by, "Commands", 10 + n, ...commandsOf([session, n, acknowledged], command));
  };
  const stored = () => {
    const { fields: [answer] } = ask(world, y, "Read", 99, askStore("get", KEY));
    return `${(answer as Buffer).subarray(5)}`;
  };
  expect(put(x, 1, 0, "forged")).toEqual({
    type: "Refused",
    fields: ["the session has ended, or never was"],
  });
  expect(put(x, 2 ** 40, 2 ** 40 - 1, "forged").type).toBe("Refused");
  expect(put(y, 1, 0, "true").type).toBe("Outcomes");
  expect(stored()).toBe("true");
  // The owner's acknowledgement ends requests, in another process as well.
  const y2 = enter(world, leader, { ...ofClient("y"), machine: "y2", disk: 10 });
  expect(put(y2, 2 ** 40, 2 ** 40 - 1, "last").type).toBe("Outcomes");
  expect(put(y, 2, 0, "late").type).toBe("Refused");
  expect(stored()).toBe("last");
});

describe("a client cannot answer a server's own request", () => {
  const outcomes = [0, sequence([bytes("forged")])];
  test.each(
    [
      ["to propose", "Commands", "Outcomes", outcomes, "forged"],
      ["to read", "ReadIndex", "Answer", [bytes("0")], "\0"],
    ] as const,
  )("%s", (_, asked, type, fields, forged) => {
    const world = found();
    const follower = followerOf(world);
    const store = new KeyValues(world.at(follower));
    world.simulation.settle(store.put(KEY, VALUE));
    cutOff(world, follower);
    const results = asked === "Commands"
      ? watch(world.at(follower).propose(askStore("put", KEY, bytes("other"))))
      : watch(world.at(follower).read(askStore("get", bytes("none"))));
    const id = nextRequest(world, follower, asked);
    const client = enter(world, follower, { ...ofClient("x"), machine: "x" });
    for (const number of [id, id - 1, id + 1]) client.send(message(type, number, ...fields));
    world.simulation.run(100);
    expect(results).toEqual([]);
    expect(world.at(follower).status().dropped).toMatchObject({ malformed: 3 });
    // A server can.
    const server = enter(world, follower, {
      role: "peer",
      name: "z",
      secret: SECRET,
      machine: "z",
    });
    server.send(message(type, id, ...fields));
    world.simulation.run(100);
    expect(results).toEqual([forged]);
  });

  test("to learn addresses, so no datagram leaves for them", () => {
    const world = found();
    const follower = followerOf(world);
    cutOff(world, follower);
    watch(world.at(follower).propose(askStore("put", KEY, VALUE)));
    const id = nextRequest(world, follower, "OpenSession");
    const targets = new Set<string>();
    world.simulation.watch = ({ packet }) => {
      if (packet?.to.host.startsWith("10.9.")) targets.add(packet.to.host);
    };
    const list = (n: number) => Array.from({ length: 100 }, (_, i) => `s${i}=10.9.${n}.${i}:1`);
    const redirect = (n: number) => message("NotLeader", id, "", list(n).join());
    const client = enter(world, follower, { ...ofClient("x"), machine: "x" });
    for (let n = 0; n < 20; n += 1) client.send(redirect(n));
    world.simulation.run(500);
    expect(targets.size).toBe(0);
    // The client asks servers that a server lists, but not all of them.
    enter(world, follower, { role: "peer", name: "z", machine: "z" }).send(redirect(0));
    world.simulation.run(500);
    expect(targets.size).toBeGreaterThan(50);
    expect(targets.size).toBeLessThanOrEqual(64);
  });
});

test("without the key of a follower its name and huge numbers do not silence it", () => {
  const world = found();
  const [leader, follower] = [world.leader() ?? "", followerOf(world)];
  const huge = { role: "peer", name: follower, boot: 2 ** 48 - 1, attempt: 2 ** 48 - 1 };
  const { id = bytes(""), key = bytes("") } = ofClient("x");
  const to = { host: ipOf(world, leader), port: 1 };
  for (
    const own of [{ id, key }, { key }, { secret: "an outsider's guess of our secret, too long" }]
  ) {
    const impostor = new Impostor(world.simulation, to, { ...huge, ...own });
    expect(() => impostor.connect()).toThrow("There was no welcome.");
  }
  // A packet of the present channel, with other numbers.
  const all = record(world);
  world.simulation.run(300);
  const sent = all.find(({ from, to: at }) =>
    from.host === ipOf(world, follower) && at.host === to.host
  );
  for (let n = 1; n <= 1024; n += 1) {
    const forged = Buffer.from(sent?.bytes ?? []);
    forged.writeUInt32BE(2 ** 32 - n, 7);
    world.simulation.deliver({ from: ATTACKER, to, bytes: forged });
  }
  const heardMs = () =>
    world.at(leader).status().peers.find(({ name }) => name === follower)?.heardMs ?? Infinity;
  world.simulation.run(3000);
  expect(heardMs()).toBeLessThan(500);
  expect(world.at(leader).status().dropped).toMatchObject({ unauthenticated: 1024 + 3 });
  // With the secret it is another server of this name, which the first one is told apart from.
  enter(world, leader, huge);
  world.simulation.run(3000);
  expect(heardMs()).toBeGreaterThan(2000);
  expect(world.eventsOf(leader, "twice")).not.toEqual([]);
});
test("a client that makes up disks takes no more than its share of the memory", () => {
  const world = found("a");
  const other = enter(world, "a", { ...ofClient("y"), machine: "y" });
  const endpoint = world.at("a")["endpoint"];
  let last = other;
  for (let disk = 1; disk <= 1500; disk += 1) {
    world.simulation.run(5);
    last = enter(world, "a", { ...ofClient("x"), disk });
    last.send(message("Inspect", disk));
    if (disk % 500 > 0) continue;
    world.simulation.run(10);
    const { channels, clients, halfOpen } = endpoint as unknown as Record<
      "channels" | "clients" | "halfOpen",
      { size: number }
    >;
    expect(clients.size).toBe(257);
    expect(channels.size).toBe(257);
    expect(halfOpen.size).toBe(0);
    expect(world.at("a")["waiting"].size).toBe(0);
  }
  for (const each of [last, other]) expect(ask(world, each, "Inspect", 1).type).toBe("Answer");
});

test("many Inspects in a datagram get one answer", () => {
  const world = found("a");
  const client = enter(world, "a", ofClient("x"));
  const all = Array.from({ length: 300 }, (_, id) => message("Inspect", id));
  client.send(...all);
  world.simulation.run(100);
  expect(client.received.map(({ type }) => type)).toEqual(["Answer"]);
  client.send(...all);
  world.simulation.run(100);
  expect(client.received).toHaveLength(2);
});

describe("recorded handshakes", () => {
  test("of processes that have ended lock out none of the same name", () => {
    const world = found();
    const { simulation } = world;
    const recorded = record(world);
    const put = (machine: string) => {
      const servers = THREE.map((name) => `${name}=${name}:1`);
      const client = world.client({ servers, world: simulation.machine(machine).boot() });
      const begun = simulation.now;
      simulation.settle(new KeyValues(client).put(KEY, bytes(machine)));
      client.close();
      return simulation.now - begun;
    };
    const usual = Math.max(...["p1", "p2", "p3", "p4"].map(put));
    // After their restart servers know none of the processes.
    for (const name of THREE) world.kill(name);
    for (const name of THREE) world.start(name, THREE);
    world.until(() => world.leader() !== undefined);
    const fromClients = hellosOf(recorded).filter(({ from: { port } }) => port !== 1);
    expect(fromClients.length).toBeGreaterThan(8);
    const stop = flood(world, fromClients, THREE);
    simulation.run(100);
    for (const machine of ["q1", "q2", "q3"]) expect(put(machine)).toBeLessThan(usual + 1000);
    stop();
  });

  test("of earlier boots keep no servers apart that start together", () => {
    const world = new World();
    const recorded = record(world);
    world.found();
    const restart = () => {
      for (const name of THREE) world.kill(name);
      for (const name of THREE) world.start(name, THREE);
      const isElected = () => world.leader() !== undefined;
      return world.simulation.run(5000, isElected);
    };
    for (let n = 0; n < 3; n += 1) expect(restart()).toBe(true);
    const stop = flood(world, hellosOf(recorded), THREE);
    expect(restart()).toBe(true);
    stop();
  });
});

test("Hellos for a dead server, passed on to a living one, do not part the living ones", () => {
  const world = found();
  const { simulation, simulation: { route } } = world;
  const dead = followerOf(world);
  const living = THREE.filter((name) => name !== dead);
  world.kill(dead);
  const client = world.client({ servers: living.map((name) => `${name}=${name}:1`) });
  const store = new KeyValues(client);
  simulation.settle(store.put(KEY, VALUE));
  const termOf = () => world.at(living[0] ?? "").status().term;
  const term = termOf();
  let passedOn = 0;
  // It sees each packet and sends some of its own, but drops none.
  simulation.route = (packet) => {
    const { from, to: { host }, bytes: [type] } = packet;
    const other = living.find((name) => ipOf(world, name) !== from.host) ?? "";
    if (type === HELLO && host === ipOf(world, dead)) {
      simulation.deliver({ ...packet, from: ATTACKER, to: { host: ipOf(world, other), port: 1 } });
    }
    if (type === WELCOME && host === ATTACKER.host) {
      const to = { host: ipOf(world, open(packet.bytes).to ?? ""), port: 1 };
      simulation.deliver({ ...packet, from: { host: ipOf(world, dead), port: 1 }, to });
      passedOn += 1;
    }
    return route(packet);
  };
  for (let n = 0; n < 60; n += 1) {
    simulation.settle(store.put(KEY, VALUE));
    simulation.run(300);
  }
  expect(passedOn).toBeGreaterThan(10);
  expect(termOf()).toBe(term);
  // The dead server returns to its place.
  simulation.route = route;
  world.start(dead, THREE);
  world.agree("a b c");
});

test("copies of packets from another address, some ahead of them, divert nothing", () => {
  const world = found();
  const { simulation, simulation: { random, route } } = world;
  const termOf = () => world.at(world.leader() ?? "").status().term;
  const term = termOf();
  let ahead = 0;
  simulation.route = (packet) => {
    const [{ afterMs = 0 } = {}] = route(packet);
    const copyMs = 10 * random() ** 3;
    if (copyMs < afterMs) ahead += 1;
    simulation.deliver({ ...packet, from: ATTACKER }, copyMs);
    return [{ afterMs }];
  };
  const client = world.client({ servers: THREE.map((name) => `${name}=${name}:1`) });
  const store = new KeyValues(client);
  for (let n = 0; n < 100; n += 1) {
    const begun = simulation.now;
    simulation.settle(store.put(KEY, VALUE));
    expect(simulation.now).toBeLessThan(begun + 1000);
    simulation.run(100);
  }
  expect(ahead).toBeGreaterThan(500);
  expect(termOf()).toBe(term);
});
