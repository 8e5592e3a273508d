/**
 * Sends a server of a running cluster datagrams of every hostile class: 20,000 of each, a million
 * with `CI`, or as many as `RAFT_HOSTILE` says. Each must be dropped without an error, without an
 * answer larger than the datagram, and without a change of the server's state or a leak of memory.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { tablesOf } from "../support/endpoints.ts";
import { World } from "../support/nodes.ts";
import { pick, type Random, randomFrom } from "../support/random.ts";
import { isThorough } from "../support/thorough.ts";
import {
  DATA,
  End,
  headerOf,
  HELLO,
  HINT,
  Impostor,
  message,
  type Role,
  SENDERS,
  TYPES,
  VERSION,
  WELCOME,
} from "../support/wire.ts";
import type { Packet } from "../support/world.ts";

setDefaultTimeout(3_600_000);

const COUNT = Number(process.env["RAFT_HOSTILE"] ?? (isThorough ? 1_000_000 : 20_000));
const MANY = COUNT.toLocaleString("en");
const PEERS = ["a", "b", "c"];
const OUTSIDER = { host: "10.9.9.9", port: 9 };
/** How much the heap may have grown, with all that is not collected yet. */
const MAX_GROWTH = 16 << 20;

/** Returns the content of an object, for a comparison. Functions have no state of their own. */
const plain = (value: unknown): string =>
  JSON.stringify(value, (_, part: unknown) => {
    if (part instanceof Map) return [...part];
    if (part instanceof Set) return [...part].map(plain).toSorted();
    return part;
  });

/** A running cluster whose server `a` is attacked, and everything that was sent in it. */
function cluster() {
  const world = new World();
  const { simulation } = world;
  const history: Packet[] = [];
  simulation.watch = ({ packet }) => void (packet && history.push(packet));
  world.found();
  const serve = () => {
    for (const node of world.nodes.values()) {
      simulation.settle(node.propose(Buffer.from("x")), 20_000);
    }
  };
  for (let n = 0; n < 5; n += 1) serve();
  const to = { host: simulation.machine("a").ip, port: 1 };
  const ends = (["client", "operator", "peer"] as const).map((role) =>
    new Impostor(simulation, to, { role, name: `hand-${role}`, machine: `hand ${role}` }).connect()
  );
  simulation.run(50);
  return { world, simulation, history, to, ends: ends.map(({ end }) => end), serve };
}
type Cluster = ReturnType<typeof cluster>;

const stateOf = ({ world }: Cluster) => plain(world.at("a")["core"]);
const endpointOf = ({ world }: Cluster) => world.at("a")["endpoint"];

/** Returns the tables, without the handshakes and names that were never confirmed. */
function confirmed(all: Cluster) {
  const tables = tablesOf({ endpoint: endpointOf(all) });
  const peers = tables.peers.filter(({ candidates, disk }) => candidates.length > 0 || disk > 0);
  return plain({ ...tables, peers, channels: [], halfOpen: [] });
}

/** Attacks `a`, or another end. The clock goes on, but nothing else happens meanwhile. */
function attack(
  all: Cluster,
  next: (random: Random, n: number) => Buffer,
  endpoint = endpointOf(all),
): Record<string, number> {
  const { simulation } = all;
  const random = randomFrom(1);
  const answers: Record<string, number> = {};
  let sent: Packet[] = [];
  const { route } = simulation;
  simulation.route = () => [];
  simulation.watch = ({ packet }) => void (packet && sent.push(packet));
  const before = stateOf(all);
  const channels = endpoint["channels"].size;
  Bun.gc(true);
  const { heapUsed, external } = process.memoryUsage();
  for (let n = 0; n < COUNT; n += 1) {
    const packet = next(random, n);
    sent = [];
    endpoint.receive(packet, OUTSIDER);
    simulation.now += 0.01;
    let bytes = 0;
    for (const answer of sent) {
      bytes += answer.bytes.length;
      const kind = ["probe", "hello", "welcome", "data", "hint"][answer.bytes[0] ?? 0] ?? "?";
      answers[kind] = (answers[kind] ?? 0) + 1;
    }
    if (bytes > packet.length) expect(bytes).toBeLessThanOrEqual(packet.length);
  }
  expect(stateOf(all)).toBe(before);
  expect(endpoint["channels"].size).toBeLessThan(channels + 50);
  Bun.gc(true);
  const after = process.memoryUsage();
  expect(after.heapUsed + after.external - heapUsed - external).toBeLessThan(MAX_GROWTH);
  [simulation.watch, simulation.route] = [() => {}, route];
  return answers;
}

/** Expects that the cluster still serves. */
function expectService({ world, simulation, serve }: Cluster): void {
  simulation.run(3000);
  const { commitIndex } = world.at("a").status();
  serve();
  simulation.run(500);
  const states = [...world.nodes.values()].map((node) => node.status().lastApplied);
  expect(new Set(states).size).toBe(1);
  expect(states[0]).toBeGreaterThanOrEqual(commitIndex + PEERS.length);
}

const bytesOf = (random: Random, length: number) =>
  Buffer.from(Array.from({ length }, () => 256 * random()));

/** Returns packets of each type that `a` would accept now. */
function acceptable(all: Cluster): Buffer[] {
  const [, , peer] = all.ends;
  const sent = all.history.filter(({ from }) => from.host === all.to.host);
  const own = sent.findLast(({ bytes }) => bytes[0] === DATA)?.bytes ?? Buffer.alloc(16);
  return [
    new End({ role: "peer", name: "hand-peer", attempt: 9 }).hello(),
    new End({ role: "client", name: "hand-client", attempt: 9 }).hello(),
    peer?.seal([message("TimeoutNow", 1, 99)]) ?? Buffer.alloc(0),
    Buffer.concat([Buffer.of(HINT, VERSION), own.subarray(0, 16)]),
  ];
}

describe(`a server that receives ${MANY} datagrams`, () => {
  test("of random bytes, half of them with a valid header, answers with Hints at most", () => {
    const all = cluster();
    const numbers = [...endpointOf(all)["channels"].keys()];
    const before = confirmed(all);
    const answers = attack(all, (random, n) => {
      const bytes = bytesOf(random, 1 + random() * (random() < 0.1 ? 1400 : 60));
      if (n % 2 === 0) return bytes;
      const type = pick(random, [HELLO, WELCOME, DATA, HINT]);
      return Buffer.concat([headerOf(type, pick(random, numbers), 7), bytes]);
    });
    expect(Object.keys(answers)).toEqual(["hint"]);
    expect(confirmed(all)).toBe(before);
    expectService(all);
  });

  test("that are cut off or have flipped bits answers with Hints at most", () => {
    const all = cluster();
    const packets = acceptable(all);
    const before = confirmed(all);
    const answers = attack(all, (random, n) => {
      const packet = Buffer.from(pick(random, packets));
      const isHint = packet[0] === HINT;
      if (n % 2 === 0) return packet.subarray(0, 1 + random() * (packet.length - 1));
      // The last bytes of a Hint, and its version, have no effect.
      const at = Math.floor(random() * (isHint ? 7 : packet.length));
      packet.writeUInt8((packet[at] ?? 0) ^ (1 << (random() * 8)), at);
      if (isHint && at === 1) packet.writeUInt8(DATA, 2);
      return isHint && at < 3 ? packet.fill(0xFF, 3, 9) : packet;
    });
    expect(Object.keys(answers)).toEqual(["hint"]);
    expect(confirmed(all)).toBe(before);
    // The whole ones are not without effect, once Hellos are read again.
    all.simulation.now += 300;
    for (const packet of packets) {
      const tables = plain(tablesOf({ endpoint: endpointOf(all) }));
      endpointOf(all).receive(packet, OUTSIDER);
      expect(plain(tablesOf({ endpoint: endpointOf(all) }))).not.toBe(tables);
    }
    expectService(all);
  });

  test("with valid keys and wrong fields answers nothing", () => {
    const all = cluster();
    const wrong = [null, true, "\uD800", -1, 2 ** 48, 1.5, [], [[]], {}, new Date(0)];
    const roles = ["client", "operator", "peer"] as const;
    const answers = attack(all, (random) => {
      const i = Math.floor(3 * random());
      const [role, end] = [roles[i] as Role, all.ends[i]];
      const type = pick(random, TYPES);
      if (!end) throw new Error("There are three ends.");
      const kind = Math.floor(4 * random());
      const fields = Array.from({ length: 12 * random() }, () => pick(random, wrong));
      const body = message(type, random() < 0.5 ? 1 : pick(random, wrong), ...fields);
      if (kind === 0) return end.seal([[...body, null]]);
      if (kind === 1) return end.sealBytes(bytesOf(random, 1 + random() * 100).fill(0xC1, 0, 1));
      // A message that only a higher role may send.
      const higher = TYPES.filter((each) =>
        roles.slice(0, i + 1).every((own) => !SENDERS[own].some((one) => one === each))
      );
      if (kind === 2 && role !== "peer") return end.seal([message(pick(random, higher), 1)]);
      const hello = new End({ role, name: `hand-${role}`, attempt: 99 });
      return random() < 0.1 ? hello.hello(bytesOf(random, 900).fill(0xC1, 0, 1)) : end.seal([null]);
    });
    expect(answers).toEqual({});
    expectService(all);
  });

  test.each(["this boot", "earlier boots"])("that were recorded in %s changes nothing", (when) => {
    const all = cluster();
    const { world, simulation, history } = all;
    if (when !== "this boot") {
      for (let n = 0; n < 3; n += 1) {
        for (const name of PEERS) {
          world.kill(name);
          world.start(name, PEERS);
          simulation.run(1000);
        }
        all.serve();
      }
    }
    const records = history.map(({ bytes }) => bytes).filter(({ length }) => length > 0);
    const before = confirmed(all);
    const answers = attack(all, (random) => pick(random, records));
    // A Hello that a peer has sent to another server may be new here, so it is answered once.
    expect(new Set(Object.keys(answers)).isSubsetOf(new Set(["hint", "welcome"]))).toBe(true);
    expect(answers["welcome"] ?? 0).toBeLessThan(COUNT / 2);
    expect(confirmed(all)).toBe(before);
    expectService(all);
  });

  test("that it has sent itself changes nothing", () => {
    const all = cluster();
    const own = all.history.filter(({ from, bytes }) =>
      from.host === all.to.host && bytes.length > 0
    );
    const before = confirmed(all);
    const answers = attack(all, (random) => pick(random, own).bytes);
    expect(Object.keys(answers)).toEqual(["hint"]);
    expect(confirmed(all)).toBe(before);
    expectService(all);
  });
});

test(`a client that receives ${MANY} datagrams of all these classes stays as it is`, () => {
  const all = cluster();
  const { world, simulation, history } = all;
  simulation.watch = ({ packet }) => void (packet && history.push(packet));
  const client = world.client();
  for (let n = 0; n < 5; n += 1) simulation.settle(client.propose(Buffer.alloc(3000)));
  const { ip } = simulation.machine("client");
  const records = history.filter(({ bytes }) => bytes.length > 0);
  const own = records.filter(({ from, to }) => from.host === ip || to.host === ip);
  expect(own.length).toBeGreaterThan(20);
  const endpoint = client["endpoint"];
  const numbers = [...endpoint["channels"].keys()];
  const before = plain(tablesOf({ endpoint }));
  const answers = attack(all, (random, n) => {
    const packet = Buffer.from(pick(random, n % 2 === 0 ? own : records).bytes);
    const kind = Math.floor(4 * random());
    if (kind === 0) return packet;
    if (kind === 1) return packet.subarray(0, 1 + random() * (packet.length - 1));
    if (kind === 2) {
      const at = Math.floor(random() * packet.length);
      packet.writeUInt8((packet[at] ?? 0) ^ (1 << (random() * 8)), at);
      return packet;
    }
    const type = pick(random, [HELLO, WELCOME, DATA]);
    return Buffer.concat([headerOf(type, pick(random, numbers), 7), bytesOf(random, 60)]);
  }, endpoint);
  expect(Object.keys(answers)).toEqual(["hint"]);
  expect(plain(tablesOf({ endpoint }))).toBe(before);
  expect(client["pending"].size).toBe(0);
  simulation.run(3000);
  simulation.settle(client.propose(Buffer.from("x")));
});
