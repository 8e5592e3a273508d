/**
 * Tests that channels carry each message from the end that it names, at most once, against every
 * fault of the network and every attack on it; and that they heal wherever packets get through.
 */
import { encode } from "@msgpack/msgpack";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { createHash } from "node:crypto";
import {
  clientKey,
  type ClientMessage,
  credentialOf,
  decrypt as decryptWith,
  encrypt as encryptWith,
  Handshake,
  type Message,
  type Node,
} from "../../raft.ts";
import { appendEntries, configuration, voteReply } from "../support/core.ts";
import {
  addressOf,
  answer,
  begin,
  connect,
  expectAccepted,
  expectDropped,
  idsOf,
  last,
  listen,
  type Listener,
  messagesTo,
  pair,
  send,
  sentOf,
  tablesOf,
  totalDropped,
} from "../support/endpoints.ts";
import { makeEntry } from "../support/entries.ts";
import { World } from "../support/nodes.ts";
import { forSeeds, isReplay, pick, type Random, randomFrom, shuffle } from "../support/random.ts";
import { isThorough, PATIENCE_MS } from "../support/thorough.ts";
import {
  channelIn,
  DATA,
  End,
  type EndOptions,
  headerOf,
  HELLO,
  HINT,
  keyOf,
  message,
  numberIn,
  SECRET,
  VERSION,
  WELCOME,
  withClientKey,
} from "../support/wire.ts";
import { type Packet, Simulation } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

const NOTHING = Buffer.alloc(0);
const OTHER_SECRET = "a secret that is another one than ours";
const hex = (text: string) => Buffer.from(text, "hex");
const vote = message("RequestVoteReply", 7, 1, false, 1, true);
const inspect = message("Inspect", 7);
const A = { role: "peer", name: "a" } as const;

const flipped = (packet: Buffer, at: number, bits = 1): Buffer => {
  const copy = Buffer.from(packet);
  copy[at] = (copy[at] ?? 0) ^ bits;
  return copy;
};

const serverB = (options: Parameters<typeof listen>[2] = {}) =>
  listen(new Simulation(1), "b", options);

/** Returns the peer that an endpoint knows by this name. */
const peerOf = ({ endpoint }: Listener, name: string) => endpoint.getOrAddServer(name);
const channelTo = (from: Listener, name: string) => {
  const [channel] = peerOf(from, name).channels;
  if (!channel) throw new Error(`There is no channel to ${name}.`);
  return channel;
};
const clientsOf = ({ endpoint }: Listener, owner: string) => endpoint["clients"].owners.get(owner);

describe("the handshake", () => {
  // The published test vector of cacophony and of snow for this protocol.
  const prologue = hex("4a6f686e2047616c74");
  const psk = hex("54686973206973206d7920417573747269616e20706572737065637469766521");
  const ephemerals = [
    hex("893e28b9dc6ca8d611ab664754b8ceb7bac5117349a4439a6b0569da977c464a"),
    hex("bbdb4cdbd309f1a1f2e1456967fe288cadd6f712d65dc7b7793d5e63da6b375b"),
  ] as const;
  const hash = hex("9f3b1f9afd7767767b5b9d1069844a6154fdbdcc36dfb3e31c0fffc5c973d530");
  const first = {
    payload: hex("4c756477696720766f6e204d69736573"),
    ciphertext: hex(
      "ca35def5ae56cec33dc2036731ab14896bc4c75dbb07a61f879f8e3afa4c79447c37a89fc17813788d30df2d"
        + "59501d6066f5f8aecc3406bbd9829f2d24a531b1",
    ),
  };
  const second = {
    payload: hex("4d757272617920526f746862617264"),
    ciphertext: hex(
      "95ebc60d2b1fa672c1f46a8aa265ef51bfe38e7ccb39ec5be34069f1448088432f29d79368ef9de4e1ae7a36"
        + "2fb05bf0ad668e026bf5714554497b3a720461",
    ),
  };
  /** Messages after the handshake, in turn from the first and the second end. */
  const transport = [
    ["462e20412e20486179656b", "7c01e898a6201f36aecee532e29cd0b7f8ffa29d3366ad0dce39a6"],
    ["4361726c204d656e676572", "a9ff535aace3db6a1da1a7fb00fe2de2622bb373abad9fb42c00e0"],
    [
      "4a65616e2d426170746973746520536179",
      "6cfc49a3e65472edc2d0152abe5ce950170a8a47c959f30bd48b5f0aacf29adbfd",
    ],
    [
      "457567656e2042f6686d20766f6e2042617765726b",
      "9bc86e6d974ed21ba04604a94aa68de21677eb409ead070c0cd569b069ee19ba142aa4c1a9",
    ],
  ] as const;

  test("gives the published bytes at both ends", () => {
    const [a, b] = [new Handshake(psk, prologue), new Handshake(psk, prologue)];
    expect(a.writeMessage(first.payload, ephemerals[0])).toEqual(first.ciphertext);
    expect(b.readMessage(first.ciphertext)).toEqual(first.payload);
    expect(b.writeMessage(second.payload, ephemerals[1])).toEqual(second.ciphertext);
    expect(a.readMessage(second.ciphertext)).toEqual(second.payload);
    expect([a.h, b.h]).toEqual([hash, hash]);
    expect(a.split()).toEqual(b.split());
    for (const [i, [payload, ciphertext]] of transport.entries()) {
      const key = a.split()[i % 2] ?? NOTHING;
      const n = Math.floor(i / 2);
      expect(encryptWith(key, n, NOTHING, [hex(payload)])).toEqual(hex(ciphertext));
      expect(decryptWith(key, n, NOTHING, hex(ciphertext))).toEqual(hex(payload));
    }
  });

  test("fails with another key, another prologue or a changed bit, and can still succeed", () => {
    for (
      const b of [
        new Handshake(hash, prologue),
        new Handshake(psk, Buffer.concat([prologue, Buffer.of(0)])),
      ]
    ) expect(b.readMessage(first.ciphertext)).toBeUndefined();
    const [a, b] = [new Handshake(psk, prologue), new Handshake(psk, prologue)];
    a.writeMessage(first.payload, ephemerals[0]);
    for (let at = 0; at < first.ciphertext.length; at += 1) {
      expect(b.readMessage(flipped(first.ciphertext, at))).toBeUndefined();
      expect(b.readMessage(first.ciphertext.subarray(0, at))).toBeUndefined();
    }
    expect(b.readMessage(first.ciphertext)).toEqual(first.payload);
    for (let at = 0; at < second.ciphertext.length; at += 1) {
      // X25519 ignores the highest bit of a public key, but the hash does not.
      expect(a.readMessage(flipped(second.ciphertext, at, 0x80))).toBeUndefined();
      expect(a.readMessage(second.ciphertext.subarray(0, at))).toBeUndefined();
    }
    expect(a.readMessage(second.ciphertext)).toEqual(second.payload);
  });

  test("goes on after a public key that gives the same shared secret with every key", () => {
    for (const point of [Buffer.alloc(32), Buffer.concat([Buffer.of(1)], 32)]) {
      const a = new Handshake(psk, prologue);
      a.writeMessage(first.payload, ephemerals[0]);
      expect(a.readMessage(Buffer.concat([point, Buffer.alloc(16)]))).toBeUndefined();
      expect(a.readMessage(second.ciphertext)).toEqual(second.payload);
    }
  });

  test("makes the keys that an implementation of its own makes, from either side", () => {
    const b = serverB();
    const beginner = connect(b, A);
    expectAccepted(b, beginner.seal([vote]));
    send(b, "a", 5);
    expect(messagesTo(beginner, b)).toMatchObject([{ type: "RequestVoteReply" }]);
    expect(beginner.other).toMatchObject({
      ...b.storage.identity,
      members: "a, b, c",
      role: "peer",
      founding: 0,
      attempt: 0,
    });
    void b.endpoint.resolvePeer({ name: "c", host: "10.0.0.88", port: 1 });
    b.simulation.run(1);
    const hello = last(sentOf(b, HELLO));
    const answerer = answer(b, hello, { name: "c" });
    expect(answerer.other).toMatchObject({ name: "b", boot: b.storage.identity.boot });
    expect(b.endpoint["channels"].keys().toArray()).toContain(answerer.other?.channel ?? 0);
    expectAccepted(b, answerer.seal([vote]));
    expect(b.accepted).toMatchObject([{ from: "c", to: "b" }]);
    expect(b.restarted).toEqual(["a", "c"]);
  });

  test("shows neither names, nor the cluster, nor keys, nor messages", () => {
    const cluster = "cluster of secrets";
    const [simulation, members] = [new Simulation(1), ["alice", "bernard"]];
    const [a, b] = ["alice", "bernard"].map((name) =>
      listen(simulation, name, { cluster, members })
    ) as [Listener, Listener];
    void a.endpoint.resolvePeer(addressOf("bernard"));
    simulation.run(10);
    a.endpoint.send({
      ...voteReply(1, { from: "alice", to: "bernard" }),
      type: "Refused",
      reason: "a reason of one",
    });
    a.endpoint.flush();
    simulation.run(10);
    expect(b.accepted).toMatchObject([{ type: "Refused", reason: "a reason of one" }]);
    const bytes = Buffer.concat([...a.sent, ...b.sent].map((packet) => packet.bytes));
    for (const text of [...members, cluster, "reason", SECRET.slice(0, 9), "peer"]) {
      expect(bytes.includes(text)).toBe(false);
    }
  });

  test("has a Hello larger than the Welcome, whose sizes don't depend on names", () => {
    const sizes = [["a", "b"], ["a much longer name".replaceAll(" ", "-"), "b"]].map((names) => {
      const simulation = new Simulation(1);
      const [a, b] = names.map((name) => listen(simulation, name, { members: names }));
      void a?.endpoint.resolvePeer(addressOf("b"));
      simulation.run(10);
      return [a, b].map((each) => each?.sent[0]?.bytes.length);
    });
    const [[hello = 0, welcome = 0] = []] = sizes;
    expect(hello).toBeGreaterThan(welcome);
    expect(hello).toBeLessThanOrEqual(1232);
    expect(welcome).toBeGreaterThan(100);
    expect(sizes[1]).toEqual([hello, welcome]);
  });

  const wrongIntroductions: [string, unknown][] = [
    ["role", "server"],
    ["role", ""],
    ["role", 1],
    ["cluster", 1],
    ["name", "ü".repeat(128)],
    ["name", "a\uD800"],
    ["name", null],
    ["members", 5],
    ["founding", -1],
    ["disk", 2 ** 48],
    ["disk", "9"],
    ["boot", 1.5],
    ["boot", true],
    ["attempt", -1],
    ["channel", 2 ** 48],
    ["channel", null],
  ];
  const introduce = (self: object) =>
    Buffer.concat([encode(Object.values<unknown>({ ...self }))], 900);

  test.each(wrongIntroductions)("with %s %p is dropped, at either end", (field, value) => {
    const b = serverB();
    const name = field === "name" && typeof value === "string" ? value : "a";
    const hand = new End({ ...A, ...keyOf(SECRET, "peer", "raft", name) });
    expectDropped(b, hand.hello(introduce({ ...hand.self, [field]: value })), "unauthenticated");
    void b.endpoint.resolvePeer({ name: "a", host: "10.0.0.77", port: 1 });
    b.simulation.run(1);
    const other = new End(A);
    const wrong = introduce({ ...other.self, [field]: value });
    expectDropped(b, other.onHello(last(sentOf(b, HELLO)), wrong), "unauthenticated");
    expect(b.restarted).toEqual([]);
    // The next Hello may have a right answer.
    b.simulation.run(1000);
    send(b, "a");
    answer(b, last(sentOf(b, HELLO)), A);
    expect(b.restarted).toEqual(["a"]);
  });

  test("with missing or additional fields, or anything but an array, is dropped", () => {
    const b = serverB();
    const hand = new End(A);
    const fields = Object.values(hand.self);
    for (const wrong of [fields.slice(0, -1), [...fields, 0], [], 1, null, "role", [fields]]) {
      const payload = Buffer.concat([encode(wrong)], 900);
      expectDropped(b, hand.hello(payload), "unauthenticated");
    }
    expectDropped(b, hand.hello(NOTHING), "unauthenticated");
    expectAccepted(b, connect(b, A).seal([vote]));
  });

  test("with a role, name or cluster that its key is not for is dropped (catalogue 43)", () => {
    const b = serverB();
    const keys: [string, string, string, string][] = [
      ["client", "raft", "a", SECRET],
      ["operator", "raft", "a", SECRET],
      ["peer", "raft", "c", SECRET],
      ["peer", "other", "a", SECRET],
      ["peer", "raft", "a", OTHER_SECRET],
      ["peer", "raft", "a", ""],
    ];
    for (const [role, cluster, name, secret] of keys) {
      const forged = new End({ ...A, ...keyOf(secret, role, cluster, name) });
      expectDropped(b, forged.hello(), "unauthenticated");
      // The id of the right key with another key.
      const { id } = keyOf(SECRET, "peer", "raft", "a");
      const { key } = keyOf(secret, role, cluster, name);
      expectDropped(b, new End({ ...A, id, key }).hello(), "unauthenticated");
    }
    expectAccepted(b, connect(b, A).seal([vote]));
  });

  test("with a client or another secret at the end that answers is dropped", () => {
    const b = serverB();
    void b.endpoint.resolvePeer({ name: "a", host: "10.0.0.77", port: 1 });
    for (const role of ["client", "operator"]) {
      b.simulation.run(5000);
      send(b, "a");
      const welcome = new End({ role, name: "a" }).onHello(last(sentOf(b, HELLO)));
      expectDropped(b, welcome, "unauthenticated");
    }
    b.simulation.run(5000);
    send(b, "a");
    const hello = last(sentOf(b, HELLO));
    expect(() => new End({ ...A, secret: OTHER_SECRET }).onHello(hello)).toThrow();
    const welcome = new End({ ...A, ...keyOf(OTHER_SECRET, "peer", "raft", "b") });
    expect(() => welcome.onHello(hello)).toThrow();
    answer(b, hello, A);
    expect(b.restarted).toEqual(["a"]);
  });
});

/** Returns an endpoint with a channel, one half-open handshake and one attempt, and packets. */
function busy() {
  const b = serverB();
  const data = connect(b, A);
  void b.endpoint.resolvePeer({ name: "c", host: "10.0.0.88", port: 1 });
  b.simulation.run(1);
  const hello = new End({ ...A, boot: 2, attempt: 2 });
  const welcome = new End({ role: "peer", name: "c" }).onHello(last(sentOf(b, HELLO)));
  send(b, "a");
  const hint = Buffer.concat([Buffer.of(HINT, VERSION), last(sentOf(b, DATA)).subarray(0, 16)]);
  b.sent.length = 0;
  return { b, packets: { hello: hello.hello(), welcome, data: data.seal([vote]), hint } };
}

describe("an invalid packet changes nothing, and throws no error", () => {
  test.each(["hello", "welcome", "data", "hint"] as const)(
    "that is any truncation of a %s, or has any of its bits flipped",
    (kind) => {
      const { b, packets } = busy();
      const packet = packets[kind];
      const before = tablesOf(b);
      const tryOut = (bytes: Buffer) => {
        const count = totalDropped(b);
        b.sent.length = 0;
        b.endpoint["allowedAt"].clear(); // Each one is read.
        b.receive(bytes, "10.9.9.9");
        b.endpoint.flush();
        // A packet of another version or for an unknown channel may be answered by a Hint.
        for (const answered of b.sent) {
          expect(answered.bytes[0]).toBe(HINT);
          expect(answered.bytes.length).toBeLessThanOrEqual(bytes.length);
        }
        return totalDropped(b) - count;
      };
      for (let at = 0; at < packet.length; at += 1) {
        const isCut = kind !== "hint" || at < 18;
        if (at > 0 && isCut) expect(tryOut(packet.subarray(0, at))).toBe(1);
        for (let bit = 0; bit < 8; bit += 1) {
          // The Hint's version, and the bytes that follow channel and number, are not looked at.
          if (kind === "hint" && (at === 1 || at >= 9)) continue;
          tryOut(flipped(packet, at, 1 << bit));
        }
      }
      tryOut(Buffer.concat([packet, Buffer.of(0)]).subarray(kind === "hint" ? packet.length : 0));
      expect(tablesOf(b)).toEqual(before);
      expect(b.accepted).toEqual([]);
      expect(b.restarted).toEqual(["a"]);
      b.endpoint["allowedAt"].clear();
      b.receive(packet, "10.9.9.9");
      expect(tablesOf(b)).not.toEqual(before);
    },
  );

  test("of random bytes of any length, even with a valid type or channel", () => {
    const { b } = busy();
    const before = tablesOf(b);
    const numbers = [...b.endpoint["channels"].keys()];
    forSeeds(1000, (random) => {
      const bytes = Buffer.from(Array.from({ length: 1 + random() * 1300 }, () => random() * 256));
      b.receive(bytes);
      for (const type of [HELLO, WELCOME, DATA, HINT]) {
        b.receive(Buffer.concat([headerOf(type, pick(random, numbers), 7), bytes]));
      }
    });
    b.receive(Buffer.alloc(65_507, 0x91));
    expect(tablesOf(b)).toEqual(before);
    expect(b.accepted).toEqual([]);
  });

  test("without bytes is a probe, and not even counted", () => {
    const { b } = busy();
    const before = [totalDropped(b), tablesOf(b)];
    b.receive(NOTHING);
    b.endpoint.flush();
    expect({ accepted: b.accepted, sent: b.sent }).toEqual({ accepted: [], sent: [] });
    expect([totalDropped(b), tablesOf(b)]).toEqual(before);
  });

  test("that comes back to its sender", () => {
    const { b } = busy();
    b.simulation.run(1);
    const end = connect(b, { ...A, attempt: 9 });
    send(b, "a");
    const data = last(sentOf(b, DATA));
    void b.endpoint.resolvePeer({ name: "d", host: "10.0.0.99", port: 1 });
    b.simulation.run(1);
    const hello = last(sentOf(b, HELLO));
    const before = tablesOf(b);
    expectDropped(b, hello, "reflected");
    b.simulation.run(5);
    b.receive(data);
    expect(sentOf(b, HINT)).toHaveLength(1); // Its number is that of the other end.
    // Our number in the header does not make it a packet of the other end.
    const own = Buffer.concat([headerOf(DATA, end.other?.channel ?? 0, 7), data.subarray(7)]);
    expectDropped(b, Buffer.concat([own.subarray(0, 7), flipped(own, 7).subarray(7)]));
    expectDropped(b, end.seal([vote], 7).fill(0, 20));
    expect(tablesOf(b)).toEqual(before);
    expect(b.accepted).toEqual([]);
  });
});

describe("recorded packets", () => {
  test("a repeated Hello gets the same Welcome, and none once its channel is confirmed", () => {
    const b = serverB();
    const end = new End({ ...A, attempt: 5 });
    const hello = end.hello();
    for (let i = 0; i < 3; i += 1) b.receive(hello);
    const [welcome, ...others] = sentOf(b, WELCOME);
    expect(others).toEqual([welcome, welcome].map((each) => each ?? NOTHING));
    end.onWelcome(welcome ?? NOTHING);
    b.receive(end.seal());
    const before = tablesOf(b);
    expectDropped(b, hello, "repeated");
    b.simulation.run(10_000);
    expectDropped(b, hello, "repeated", "10.9.9.9");
    for (const attempt of [0, 1, 4, 5]) {
      expectDropped(b, new End({ ...A, attempt }).hello(), "repeated");
    }
    expect(tablesOf(b)).toEqual(before);
    expectAccepted(b, connect(b, { ...A, attempt: 6 }).seal([vote]));
    expect(b.restarted).toEqual(["a"]);
  });

  test("a Hello that is overtaken by a later one counts until that one is confirmed", () => {
    const b = serverB();
    const [early, late] = [5, 6].map((attempt) => new End({ ...A, attempt })) as [End, End];
    b.receive(late.hello());
    late.onWelcome(last(sentOf(b, WELCOME)));
    b.receive(early.hello());
    early.onWelcome(last(sentOf(b, WELCOME)));
    b.receive(late.seal());
    expectDropped(b, early.seal([vote]), "outdated");
    expectDropped(b, early.hello(), "repeated");
    expectAccepted(b, late.seal([vote]));
  });

  test("a Welcome counts once, and only for the Hello that it answers", () => {
    const b = serverB();
    const hellos: Buffer[] = [];
    for (const [name, host] of [["a", "10.0.0.77"], ["c", "10.0.0.88"]] as const) {
      void b.endpoint.resolvePeer({ name, host, port: 1 });
      b.simulation.run(1);
      hellos.push(last(sentOf(b, HELLO)));
    }
    const [toA = NOTHING] = hellos;
    const welcome = new End(A).onHello(toA);
    // The header leads to another handshake.
    const { ownId = 0 } = peerOf(b, "c").begun ?? {};
    const misled = Buffer.concat([headerOf(WELCOME, ownId, 7), welcome.subarray(7)]);
    expectDropped(b, misled, "unauthenticated");
    b.receive(welcome);
    expect(b.restarted).toEqual(["a"]);
    const before = tablesOf(b);
    expectDropped(b, welcome, "repeated");
    expectDropped(b, misled, "unauthenticated");
    expect(tablesOf(b)).toEqual(before);
  });

  test("a flood of forged Welcomes does not keep out a server that starts again", () => {
    const simulation = new Simulation(1);
    const a = listen(simulation, "a");
    simulation.machine("b");
    lose(simulation, () => false);
    // An outsider sees each packet, and sends Welcomes with its number that arrive before others.
    const open = new Map<string, number>();
    simulation.watch = ({ packet }) => {
      const type = packet?.bytes[0];
      if (packet && type === HELLO) open.set(packet.from.host, channelIn(packet.bytes));
      if (packet && type === WELCOME) open.set(packet.to.host, channelIn(packet.bytes));
    };
    const flood = () => {
      for (const [host, number] of open) {
        const bytes = Buffer.concat([headerOf(WELCOME, number, 7), Buffer.alloc(948, 7)]);
        const packet = { from: { host: "10.9.9.9", port: 1 }, to: { host, port: 1 }, bytes };
        for (let n = 0; n < 20; n += 1) simulation.deliver(packet, n / 20);
      }
      simulation.run(1);
    };
    void a.endpoint.resolvePeer(addressOf("b"));
    for (let ms = 0; ms < 1000; ms += 1) {
      if (ms % 10 === 0) send(a, "b", ms);
      flood();
    }
    const b = listen(simulation, "b");
    for (let ms = 0; ms < 100; ms += 1) {
      send(a, "b", ms);
      flood();
    }
    expect(a.restarted).toEqual(["b"]);
    expect(idsOf(b)).toContain(99 - 2);
  });

  test("a message is accepted once, in any order, and not if it is too old to tell", () => {
    const b = serverB();
    const end = connect(b, A);
    const packets = Array.from({ length: 3000 }, (_, i) => end.seal([vote.with(1, i)]));
    const at = (i: number) => packets[i] ?? NOTHING;
    const random = randomFrom(1);
    for (let begin = 0; begin < 1000; begin += 100) {
      for (const packet of shuffle(random, packets.slice(begin, begin + 100))) {
        expectAccepted(b, packet);
      }
    }
    for (const i of [0, 500, 999]) expectDropped(b, at(i), "repeated");
    for (const i of [2999, 1999, 2000, 2500]) expectAccepted(b, at(i));
    // 951 and 975 have the places of 2999 and 1999 in the window.
    for (const i of [2999, 1999, 2000, 2500, 999, 951, 975]) expectDropped(b, at(i), "repeated");
  });

  test("the last number of a channel is accepted once", () => {
    const { simulation, a, b } = pair();
    channelTo(a, "b").sent = 2 ** 32 - 3;
    const held: Buffer[] = [];
    for (let id = 1; id <= 5; id += 1) send(a, "b", id);
    held.push(...sentOf(a, DATA));
    simulation.run(200);
    const accepted = idsOf(b).length;
    for (const packet of [...held, ...held]) b.receive(packet, a.ip);
    expect(idsOf(b)).toHaveLength(accepted);
    const used = sentOf(a, DATA).map((packet) => `${channelIn(packet)} ${numberIn(packet)}`);
    expect(new Set(used).size).toBe(used.length);
    // The channel has ended, and another one follows it.
    send(a, "b", 6);
    simulation.run(200);
    expect(idsOf(b)).toContain(6);
    expect(channelTo(a, "b").sent).toBeLessThan(100);
  });
});

/** Loses the packets that `isLost` selects. All others take a millisecond. */
function lose(simulation: Simulation, isLost: (packet: Packet) => boolean): void {
  simulation.route = (packet) => isLost(packet) ? [] : [{ afterMs: 1 }];
}

describe("a channel heals", () => {
  test.each([[100], [500], [1500]])("where a packet takes %d ms", (afterMs) => {
    const simulation = new Simulation(1);
    simulation.route = () => [{ afterMs }];
    const [a, b] = [listen(simulation, "a"), listen(simulation, "b")];
    void a.endpoint.resolvePeer(addressOf("b"));
    const isAccepted = () => {
      send(a, "b");
      return simulation.run(50, () => b.accepted.length > 0);
    };
    const begun = simulation.now;
    while (!isAccepted()) expect(simulation.now).toBeLessThan(begun + 30_000);
  });

  test("when both ends send a Hello in the same moment, with packets lost and late", () => {
    let [hellos, channels] = [0, 0];
    forSeeds(100, (random, seed) => {
      const simulation = new Simulation(seed);
      const [a, b] = [listen(simulation, "a"), listen(simulation, "b")];
      simulation.route = () => random() < 0.3 ? [] : [{ afterMs: 40 * random() }];
      for (const [from, to] of [[a, "b"], [b, "a"]] as const) {
        void from.endpoint.resolvePeer(addressOf(to));
        send(from, to);
      }
      for (let id = 2; id <= 60; id += 1) {
        simulation.run(20);
        send(a, "b", id);
        send(b, "a", id);
      }
      simulation.route = () => [{ afterMs: 1 }];
      simulation.run(10);
      for (const [from, to] of [[a, b], [b, a]] as const) {
        send(from, to.endpoint.self.name, 100);
        simulation.run(10);
        expect(idsOf(to)).toContain(100);
        expect(to.restarted).toEqual([from.endpoint.self.name]);
        expect(new Set(idsOf(to)).size).toBe(idsOf(to).length);
        channels = Math.max(channels, to.endpoint["channels"].size);
      }
      hellos += sentOf(a, HELLO).length + sentOf(b, HELLO).length;
    });
    if (isReplay) return;
    expect(hellos).toBeGreaterThan(200);
    expect(channels).toBeGreaterThan(1);
    expect(channels).toBeLessThanOrEqual(6);
  });

  test.each([[WELCOME, "Welcome"], [HELLO, "Hello"]] as const)(
    "after a lost %p, a %s, by repeating the Hello",
    (type) => {
      const simulation = new Simulation(1);
      const [a, b] = [listen(simulation, "a"), listen(simulation, "b")];
      let lost = 0;
      lose(simulation, ({ bytes }) => bytes[0] === type && (lost += 1) <= 3);
      void a.endpoint.resolvePeer(addressOf("b"));
      for (let id = 1; id <= 20; id += 1) {
        send(a, "b", id);
        simulation.run(20);
      }
      expect(lost).toBe(4);
      expect(idsOf(b)).toEqual(Array.from({ length: 20 }, (_, i) => i + 1));
      expect(sentOf(a, HELLO)).toHaveLength(4);
      expect(new Set(sentOf(a, HELLO).map((hello) => `${hello}`)).size).toBe(1);
      expect(b.restarted).toEqual(["a"]);
    },
  );

  test("after a lost confirmation, by the next message of either end", () => {
    for (const next of ["a", "b"] as const) {
      const simulation = new Simulation(1);
      const [a, b] = [listen(simulation, "a"), listen(simulation, "b")];
      let isLost = true;
      lose(simulation, ({ bytes }) => isLost && bytes[0] === DATA);
      void a.endpoint.resolvePeer(addressOf("b"));
      simulation.run(10);
      isLost = false;
      // One end has a channel, and the other one does not know it yet.
      expect([a.restarted, b.restarted]).toEqual([["b"], []]);
      void b.endpoint.resolvePeer(addressOf("a"));
      send(next === "a" ? a : b, next === "a" ? "b" : "a", 7);
      simulation.run(10);
      expect(idsOf(next === "a" ? b : a)).toEqual([7]);
      expect([a.restarted, b.restarted]).toEqual([["b"], ["a"]]);
    }
  });

  test("after a partition of an hour, by a message of either end", () => {
    const { simulation, a, b } = pair();
    lose(simulation, () => true);
    for (let minute = 0; minute < 60; minute += 1) {
      simulation.run(60_000);
      send(a, "b", 1);
      send(b, "a", 1);
    }
    lose(simulation, () => false);
    a.accepted.length = b.accepted.length = 0;
    send(a, "b", 2);
    simulation.run(5);
    expect(idsOf(b)).toContain(2);
    send(b, "a", 3);
    simulation.run(5);
    expect(idsOf(a)).toContain(3);
    expect([a.restarted, b.restarted]).toEqual([["b"], ["a"]]);
  });

  test("and accepts no message twice or of an earlier boot, in a storm of all these faults together", () => {
    const counts = { accepted: 0, repeated: 0, late: 0, restarts: 0 };
    forSeeds(isThorough ? 300 : 30, (random, seed) => {
      const simulation = new Simulation(seed);
      const history: Packet[] = [];
      simulation.watch = ({ packet }) => void (packet && history.push(packet));
      simulation.route = () => {
        if (random() < 0.2) return [];
        const afterMs = random() < 0.1 ? 3000 * random() : 5 * random();
        return random() < 0.2 ? [{ afterMs }, { afterMs: 3000 * random() }] : [{ afterMs }];
      };
      const names = ["a", "b"] as const;
      const boots = { a: 0, b: 0 };
      const known: Listener[] = [];
      const start = (name: "a" | "b"): Listener => {
        boots[name] += 1;
        const one = listen(simulation, name);
        known.push(one);
        void one.endpoint.resolvePeer(addressOf(name === "a" ? "b" : "a"));
        return one;
      };
      const running = { a: start("a"), b: start("b") };
      const run = (turns: number, isWild: boolean) => {
        for (let n = 0; n < turns; n += 1) {
          simulation.run(10);
          for (const name of names) {
            // An id tells the boot that has sent the message.
            const id = boots[name] * 1e6 + Math.floor(simulation.now * 10);
            send(running[name], name === "a" ? "b" : "a", id);
            if (!isWild || random() >= 0.005) continue;
            simulation.machine(name).kill();
            if (random() < 0.3) simulation.machine(name).disk.wipe();
            running[name] = start(name);
            counts.restarts += 1;
          }
          if (isWild) simulation.deliver(pick(random, history));
        }
      };
      run(500, true);
      for (const one of known) {
        const ids = idsOf(one);
        expect(new Set(ids).size).toBe(ids.length);
        const senders = ids.map((id) => Math.floor(id / 1e6));
        expect(senders).toEqual(senders.toSorted((x, y) => x - y));
        counts.accepted += ids.length;
        counts.repeated += one.endpoint.dropped["repeated"] ?? 0;
        counts.late += one.endpoint.dropped["unknown"] ?? 0;
      }
      simulation.route = () => [{ afterMs: 1 }];
      run(30, false);
      const { a, b } = running;
      a.accepted.length = b.accepted.length = 0;
      run(30, false);
      expect(a.accepted.length).toBeGreaterThanOrEqual(29);
      expect(b.accepted.length).toBeGreaterThanOrEqual(29);
      const events = known.flatMap((one) => one.events);
      expect(events.filter(({ type }) => type === "twice")).toEqual([]);
    });
    if (isReplay) return;
    for (const [what, n] of Object.entries(counts)) expect(n, what).toBeGreaterThan(100);
  });
});

describe("a restart", () => {
  test.each(["a", "b"] as const)("of %s is healed within a round trip, by a Hint", (name) => {
    const { simulation, a, b } = pair();
    lose(simulation, () => false);
    const [victim, other] = name === "a" ? [a, b] : [b, a];
    simulation.machine(name).kill();
    const restarted = listen(simulation, name);
    const otherName = other.endpoint.self.name;
    const before = victim.accepted.length;
    send(other, name, 1);
    simulation.run(4); // That message, the Hint, the Hello, the Welcome.
    expect(sentOf(restarted, HINT)).toHaveLength(1);
    send(other, name, 2);
    simulation.run(1);
    expect(idsOf(restarted)).toEqual([2]);
    send(restarted, otherName, 3);
    simulation.run(1);
    expect(idsOf(other)).toEqual([3]);
    expect(other.restarted).toEqual([otherName === "a" ? "b" : "a", name]);
    expect(restarted.restarted).toEqual([otherName]);
    simulation.run(10_000);
    expect([other.restarted.length, restarted.restarted.length]).toEqual([2, 1]);
    expect(victim.accepted).toHaveLength(before);
  });

  test("is learned of before either end has a message to send", () => {
    const { simulation, a } = pair();
    simulation.machine("b").kill();
    const restarted = listen(simulation, "b");
    void restarted.endpoint.resolvePeer(addressOf("a"));
    simulation.run(10);
    expect(a.restarted).toEqual(["b", "b"]);
    expect(restarted.restarted).toEqual(["a"]);
    simulation.run(10_000);
    expect([...a.restarted, ...restarted.restarted]).toEqual(["b", "b", "a"]);
    expect([...a.accepted, ...restarted.accepted]).toEqual([]);
  });

  test("ends the earlier channels in the instant of its confirmation (catalogue 49)", () => {
    const b = serverB();
    const earlier = connect(b, { ...A, boot: 5 });
    const [first, second, late] = [1, 2, 3].map((id) => earlier.seal([vote.with(1, id)]));
    const next = begin(b, { ...A, boot: 6 });
    // A handshake that is not confirmed changes nothing.
    expectAccepted(b, first ?? NOTHING);
    expect(b.restarted).toEqual(["a"]);
    b.receive(next.seal());
    expect(b.restarted).toEqual(["a", "a"]);
    b.receive(second ?? NOTHING);
    b.receive(late ?? NOTHING);
    expect(idsOf(b)).toEqual([1]);
    expectAccepted(b, next.seal([vote]));
    expect(b.accepted).toMatchObject([{ from: "a", disk: 9 }]);
  });

  test("with another disk replaces the earlier one, which is refused from any other address", () => {
    const b = serverB();
    const lost = connect(b, { ...A, disk: 1, boot: 9 });
    const late = lost.seal([vote]);
    const second = connect(b, { ...A, disk: 2, boot: 4 });
    expect(b.restarted).toEqual(["a", "a"]);
    b.receive(late);
    expect(b.accepted).toEqual([]);
    expectAccepted(b, second.seal([vote]));
    expect(b.accepted).toMatchObject([{ disk: 2 }]);
    const third = connect(b, { ...A, disk: 3, boot: 1 });
    for (const [disk, boot] of [[1, 9], [1, 10], [1, 2 ** 47], [2, 4], [2, 5], [3, 0]] as const) {
      b.simulation.run(600);
      b.sent.length = 0;
      const end = begin(b, { ...A, disk, boot, attempt: 50 }, "10.8.8.8");
      expectDropped(b, end.seal([vote]), "outdated", "10.8.8.8");
    }
    expect(b.restarted).toEqual(["a", "a", "a"]);
    expectAccepted(b, third.seal([vote]));
    expect(b.accepted).toMatchObject([{ disk: 3 }]);
  });

  test("with a disk that was replaced is accepted at the address of the present disk", () => {
    const b = serverB();
    const recorded = new End({ ...A, disk: 1, boot: 9 });
    const hello = recorded.hello();
    connect(b, { ...A, disk: 1, boot: 9, attempt: 2 });
    b.simulation.run(1);
    const late = begin(b, { ...A, disk: 1, boot: 9, attempt: 3 });
    b.simulation.run(1);
    const wrong = connect(b, { ...A, disk: 2, boot: 4 });
    b.simulation.run(600);
    // A recording confirms no channel. A handshake that began before the replacement is too late.
    b.receive(hello);
    expectDropped(b, late.seal([vote]), "outdated");
    expect(b.restarted).toEqual(["a", "a"]);
    const back = connect(b, { ...A, disk: 1, boot: 10 });
    expect(b.restarted).toEqual(["a", "a", "a"]);
    b.receive(wrong.seal([vote]));
    expect(b.accepted).toEqual([]);
    expectAccepted(b, back.seal([vote]));
    expect(b.accepted).toMatchObject([{ disk: 1 }]);
    expect(b.events).toEqual([]);
  });

  test("with another disk ends handshakes of disks that are only met later, from either end", () => {
    const b = serverB();
    void b.endpoint.resolvePeer({ name: "a", host: "10.7.7.7", port: 1 });
    b.simulation.run(1);
    const hello = last(sentOf(b, HELLO));
    const late = begin(b, { ...A, disk: 1, boot: 9 });
    const welcome = new End({ ...A, disk: 3, boot: 9 }).onHello(hello);
    b.simulation.run(1);
    const present = connect(b, { ...A, disk: 2, boot: 4 });
    expectDropped(b, late.seal([vote]), "outdated");
    expectDropped(b, welcome, "outdated");
    expectAccepted(b, present.seal([vote]));
    expect(b.restarted).toEqual(["a"]);
    expect(b.events).toEqual([]);
    // A later handshake of the lost disk would still be that of a new one.
    b.simulation.run(1);
    expectAccepted(b, connect(b, { ...A, disk: 1, boot: 9, attempt: 2 }).seal([vote]));
  });

  test("of a server again and again, each time with a new disk, is no second server", () => {
    const { simulation, b } = pair();
    const disks = new Set<number>();
    for (let id = 1; id <= 5; id += 1) {
      simulation.machine("a").kill();
      simulation.machine("a").disk.wipe();
      const restarted = listen(simulation, "a");
      disks.add(restarted.storage.identity.disk);
      void restarted.endpoint.resolvePeer(addressOf("b"));
      simulation.run(20);
      b.accepted.length = 0;
      send(restarted, "b", id);
      send(b, "a", id);
      simulation.run(2000);
      expect(b.accepted).toMatchObject([{ from: "a", id, disk: restarted.storage.identity.disk }]);
      expect(restarted.accepted).toMatchObject([{ from: "b", id }]);
    }
    expect(disks.size).toBe(5);
    expect(b.events).toEqual([]);
  });

  const seconds: [how: string, older: EndOptions, newer: EndOptions][] = [
    ["with a disk each", { disk: 1, boot: 7 }, { disk: 2, boot: 3 }],
    ["with copies of one directory", { boot: 7 }, { boot: 8 }],
  ];
  test.each(seconds)(
    "of two servers with one name, %s, the older one is never confirmed, and reported if alive",
    (_, older, newer) => {
      const b = serverB();
      const recorded = new End({ ...A, ...older, attempt: 3 });
      const hello = recorded.hello();
      connect(b, { ...A, ...older }, "10.8.8.8");
      connect(b, { ...A, ...newer }, "10.9.9.9");
      const before = tablesOf(b);
      // A recording never confirms.
      for (let n = 0; n < 10; n += 1) {
        b.simulation.run(1000);
        b.receive(hello, "10.7.7.7");
      }
      expect(b.events).toEqual([]);
      const { peers } = before;
      expect(tablesOf(b)).toMatchObject({ peers });
      b.simulation.run(1000);
      const alive = begin(b, { ...A, ...older, attempt: 9 }, "10.8.8.8");
      expectDropped(b, alive.seal([vote]), "outdated", "10.8.8.8");
      const from = (host: string) => ({ host, port: 1 });
      const report = { type: "twice", server: "a", address: from("10.8.8.8") } as const;
      expect(b.events).toEqual([{ ...report, other: from("10.9.9.9") }]);
      expect(tablesOf(b)).toMatchObject({ peers });
      // The warning is repeated once a minute.
      for (let n = 10; n < 100; n += 1) {
        b.simulation.run(1000);
        const again = begin(b, { ...A, ...older, attempt: n }, "10.8.8.8");
        expectDropped(b, again.seal(), "outdated", "10.8.8.8");
      }
      expect(b.events).toHaveLength(2);
      expectAccepted(b, connect(b, { ...A, ...newer, attempt: 2 }, "10.9.9.9").seal([vote]));
    },
  );

  test("of a client's process, which has another id, leaves its other processes alone", () => {
    const b = serverB();
    const ends = [1, 2, 3].map((disk) => {
      b.simulation.run(600);
      return connect(b, { role: "client", name: "x", disk });
    });
    for (const end of ends) expectAccepted(b, end.seal([inspect]));
    expect(b.restarted).toEqual([]);
  });
});

describe("a Hint", () => {
  /** Returns two servers, and a Hint that echoes the newest packet from `a` to `b`. */
  function hinted() {
    const { simulation, a, b } = pair();
    lose(simulation, () => false);
    send(a, "b", 1);
    simulation.run(1);
    const packet = last(sentOf(a, DATA));
    a.sent.length = 0;
    const hint = (echo: Buffer, version = VERSION) =>
      Buffer.concat([Buffer.of(HINT, version), echo], 18);
    return { simulation, a, b, packet, hint };
  }

  test("that is forged leads to one handshake, and the channel stays in use", () => {
    const { simulation, a, b, packet, hint } = hinted();
    for (let n = 0; n < 1000; n += 1) a.receive(hint(packet), "10.9.9.9");
    expect(a.sent.map(({ bytes, to }) => [bytes[0], to.host])).toEqual([[HELLO, b.ip]]);
    send(a, "b", 2);
    simulation.run(1);
    expect(idsOf(b)).toEqual([1, 2]);
    const isOnChannel = ({ bytes }: { bytes: Buffer }) =>
      bytes[0] === DATA && channelIn(bytes) === channelIn(packet);
    expect(a.sent.filter(isOnChannel).length).toBe(1);
    simulation.run(100);
    send(a, "b", 3);
    simulation.run(1);
    expect(idsOf(b)).toEqual([1, 2, 3]);
    expect([a.restarted, b.restarted]).toEqual([["b"], ["a"]]);
    expect([...a.events, ...b.events]).toEqual([]);
  });

  test("is ignored unless it echoes a packet of the present channel", () => {
    const { a, packet, hint } = hinted();
    const header = headerOf(DATA, channelIn(packet), 11);
    const wrong = [
      hint(Buffer.alloc(16)),
      hint(packet.subarray(0, 1)),
      hint(headerOf(DATA, channelIn(packet) + 1, 11)),
      hint(headerOf(HELLO, channelIn(packet), 11)),
      hint(headerOf(WELCOME, channelIn(packet), 11)),
      hint(headerOf(HINT, channelIn(packet), 11)),
    ];
    for (const number of [numberIn(packet) + 1, 2 ** 32 - 1]) {
      const later = Buffer.from(header);
      later.writeUInt32BE(number, 7);
      wrong.push(hint(later));
    }
    const before = tablesOf(a);
    for (const each of wrong) a.receive(each, "10.9.9.9");
    expect(a.sent).toEqual([]);
    expect(tablesOf(a)).toEqual(before);
    a.receive(hint(packet), "10.9.9.9");
    expect(sentOf(a, HELLO)).toHaveLength(1);
  });

  test("for a channel that has been replaced is ignored", () => {
    const { simulation, a, b, packet, hint } = hinted();
    a.receive(hint(packet), "10.9.9.9");
    simulation.run(100);
    send(b, "a", 9);
    simulation.run(1);
    a.sent.length = 0;
    a.receive(hint(packet), "10.9.9.9");
    expect(a.sent).toEqual([]);
  });

  test("is smaller than what it answers, never answered, and sent at a limited rate", () => {
    const b = serverB();
    const unknown = (length: number) => headerOf(DATA, 4711, 1000).subarray(0, length);
    b.receive(unknown(28));
    expect(b.sent.map(({ bytes }) => bytes.length)).toEqual([18]);
    for (let n = 0; n < 100; n += 1) b.receive(unknown(28));
    expect(b.sent).toHaveLength(1);
    for (let ms = 0; ms < 100; ms += 1) {
      b.simulation.run(1);
      for (let n = 0; n < 10; n += 1) b.receive(unknown(1000));
    }
    expect(b.sent.length).toBeGreaterThan(50);
    expect(b.sent.length).toBeLessThanOrEqual(101);
    for (let length = 1; length < 28; length += 1) {
      b.simulation.run(1);
      b.sent.length = 0;
      b.receive(unknown(length));
      for (const { bytes } of b.sent) expect(bytes.length).toBeLessThanOrEqual(length);
    }
    const hint = Buffer.concat([Buffer.of(HINT, VERSION), unknown(16)]);
    b.simulation.run(1);
    expect(() => expectDropped(b, hint)).toThrow(); // It is ignored without a count.
    expect(b.sent).toEqual([]);
  });
});

describe("bounds", () => {
  test("limits of rates are forgotten, so clients with ever other names fill no memory", () => {
    const b = serverB();
    for (let n = 0; n < 3000; n += 1) {
      b.simulation.run(1);
      connect(b, { role: "client", name: `x${n}` });
    }
    expect(b.endpoint["allowedAt"].size).toBeLessThan(1100);
    expect(totalDropped(b)).toBe(0);
  });

  const client = (name: string, disk: number, more: EndOptions = {}) =>
    ({ role: "client", name, disk, ...more }) as const;

  test("recorded Hellos of many processes of a name leave a place for another one", () => {
    const b = serverB();
    const hellos = Array.from({ length: 600 }, (_, i) => new End(client("x", i)).hello());
    for (let n = 0; n < 2; n += 1) {
      for (const hello of hellos) {
        b.simulation.run(5);
        b.receive(hello);
        expect(b.endpoint["halfOpen"].owners.get("client x")?.size).toBeLessThanOrEqual(256);
      }
    }
    expect(b.endpoint["channels"].size).toBe(256);
    expectAccepted(b, connect(b, client("x", 1000)).seal([inspect]));
    expectAccepted(b, connect(b, { ...A, name: "x" }).seal([vote]));
  });

  test("a name agrees on keys fifty times in a row, and two hundred times a second", () => {
    const b = serverB();
    const hellos = Array.from({ length: 500 }, (_, i) => new End(client("x", i)).hello());
    for (const hello of hellos) b.receive(hello);
    expect(sentOf(b, WELCOME)).toHaveLength(51);
    expect(b.endpoint.dropped).toEqual({ busy: 449 });
    b.sent.length = 0;
    b.simulation.run(50);
    for (const hello of hellos.slice(51, 100)) b.receive(hello);
    expect(sentOf(b, WELCOME)).toHaveLength(10);
    // Other names have budgets of their own.
    expectAccepted(b, connect(b, client("y", 1)).seal([inspect]));
    expectAccepted(b, connect(b, A).seal([vote]));
  });

  test("two thousand Hellos a second are read, and a burst, with any content", () => {
    const b = serverB();
    const a = connect(b, A);
    const garbage = Buffer.from(new End(client("x", 1)).hello()).fill(7, 24);
    for (let n = 0; n < 2000; n += 1) b.receive(garbage);
    expect(b.endpoint.dropped).toEqual({ unauthenticated: 500, busy: 1500 });
    b.simulation.run(10);
    for (let n = 0; n < 2000; n += 1) b.receive(garbage);
    expect(b.endpoint.dropped).toEqual({ unauthenticated: 520, busy: 3480 });
    expectAccepted(b, a.seal([vote]));
    b.simulation.run(1);
    expectAccepted(b, connect(b, client("x", 1)).seal([inspect]));
  });

  test("of more than a thousand handshakes the name with most loses some", () => {
    const b = serverB();
    const honest = begin(b, client("honest", 1));
    for (let name = 0; name < 6; name += 1) {
      for (let disk = 1; disk <= 200; disk += 1) {
        b.simulation.run(5);
        begin(b, client(`greedy ${name}`, disk));
      }
    }
    expect(b.endpoint["channels"].size).toBe(1024);
    expectAccepted(b, honest.seal([inspect]));
  });

  test("a handshake may be confirmed seconds later, unless a later one of its sender was", () => {
    const b = serverB();
    const slow = begin(b, client("x", 1));
    b.simulation.run(5000);
    expectAccepted(b, slow.seal([inspect]));
    const overtaken = begin(b, client("x", 2));
    b.simulation.run(5000);
    expectAccepted(b, connect(b, client("x", 2, { attempt: 2 })).seal([inspect]));
    expectDropped(b, overtaken.seal([inspect]), "outdated");
  });

  test("recorded Hellos of earlier boots leave a place for the present one", () => {
    const b = serverB();
    const hellos = [1, 2, 3, 4].map((boot) => new End({ ...A, boot }).hello());
    connect(b, { ...A, boot: 5 });
    for (const hello of hellos) b.receive(hello);
    for (let attempt = 2; attempt < 20; attempt += 1) {
      b.simulation.run(100);
      for (const hello of hellos) b.receive(hello);
      expectAccepted(b, connect(b, { ...A, boot: 5, attempt }).seal([vote]));
    }
  });

  test("a client that opens hundreds of processes ends only channels of its own", () => {
    const b = serverB();
    const [other, peer] = [connect(b, client("y", 1)), connect(b, A)];
    const ends = Array.from({ length: 400 }, (_, i) => {
      b.simulation.run(5);
      return connect(b, client("x", i));
    });
    expect(clientsOf(b, "client x")?.size).toBe(256);
    expect(b.endpoint["channels"].size).toBe(258);
    expectAccepted(b, other.seal([inspect]));
    expectAccepted(b, peer.seal([vote]));
    for (const [i, end] of ends.entries()) {
      b.accepted.length = 0;
      b.receive(end.seal([inspect]));
      expect(b.accepted).toHaveLength(i < 144 ? 0 : 1);
    }
  });

  test("a process sends nothing on a channel that others of its name may have taken", () => {
    const simulation = new Simulation(1);
    const [x, b] = [listen(simulation, "x", { role: "client" }), listen(simulation, "b")];
    lose(simulation, () => false);
    void x.endpoint.resolvePeer(addressOf("b"));
    simulation.run(10);
    const ask = (id: number) => {
      x.endpoint.send({ type: "Inspect", from: "x", to: "b", id });
      x.endpoint.flush();
      simulation.run(3); // The Hello, the Welcome, the packet.
    };
    ask(1);
    for (let disk = 1; disk <= 256; disk += 1) {
      simulation.run(10);
      connect(b, client("x", disk));
    }
    ask(2);
    expect(idsOf(b)).toEqual([1, 2]);
    expect(b.endpoint.dropped).toEqual({});
  });

  test("of more than a thousand processes, the client with most loses some", () => {
    const b = serverB();
    const few = [1, 2, 3].map((disk) => connect(b, client("few", disk)));
    for (let name = 0; name < 6; name += 1) {
      for (let disk = 1; disk <= 200; disk += 1) {
        b.simulation.run(5);
        connect(b, client(`many ${name}`, disk));
      }
    }
    const sizes = [...b.endpoint["clients"].owners.values()].map(({ size }) => size);
    expect(sizes.reduce((sum, size) => sum + size, 0)).toBe(1024);
    expect(Math.min(...sizes.filter((size) => size !== 3))).toBeGreaterThan(100);
    expect(b.endpoint["channels"].size).toBe(1024);
    for (const end of few) expectAccepted(b, end.seal([inspect]));
  });

  test("a process that begins again and again keeps three channels", () => {
    const b = serverB();
    for (const options of [A, client("x", 1)]) {
      const ends = [1, 2, 3, 4, 5, 6].map((attempt) => connect(b, { ...options, attempt }));
      const accepted = ends.map((end) => {
        b.accepted.length = 0;
        b.receive(end.seal([inspect]));
        return b.accepted.length;
      });
      expect(accepted).toEqual([0, 0, 0, 1, 1, 1]);
    }
    expect(b.endpoint["channels"].size).toBe(6);
  });

  test("messages for an absent server or a lost client do not gather", () => {
    const b = serverB();
    void b.endpoint.resolvePeer({ name: "a", host: "10.0.0.77", port: 1 });
    b.simulation.run(1);
    for (let id = 0; id < 1000; id += 1) {
      send(b, "a", id);
      send(b, "client x 5", id);
    }
    expect(peerOf(b, "a").queue.length).toBeLessThanOrEqual(64);
    answer(b, last(sentOf(b, HELLO)), A);
    expect(b.endpoint["clients"].owners.size).toBe(0);
  });

  test("warnings name each address, up to a hundred of them a minute", () => {
    const b = serverB();
    const forged = new End({ ...A, secret: OTHER_SECRET }).hello();
    for (let n = 0; n < 1000; n += 1) {
      b.simulation.run(1);
      b.receive(forged, `10.1.${n >> 8}.${n & 255}`);
    }
    for (let n = 0; n < 10; n += 1) b.receive(forged, "10.1.0.0");
    expect(b.endpoint.dropped).toEqual({ unauthenticated: 1010 });
    const hosts = b.events.map((event) => event.type === "unauthenticated" && event.address.host);
    expect(new Set(hosts).size).toBe(hosts.length);
    expect(hosts.length).toBeLessThanOrEqual(100);
    expect(hosts.length).toBeGreaterThan(90);
    b.simulation.run(60_000);
    b.receive(forged, "10.2.2.2");
    expect(b.events.at(-1)).toMatchObject({ address: { host: "10.2.2.2" } });
    expect(b.sent).toEqual([]);
  });
});

describe("a renewal", () => {
  const renewals: [string, (a: Listener) => void][] = [
    ["many packets", (a) => channelTo(a, "b").sent = 2 ** 23],
    ["a day", (a) => void a.simulation.run(86_400_000)],
  ];
  test.each(renewals)("after %s loses and repeats no message", (_, age) => {
    const { simulation, a, b } = pair();
    send(a, "b", 1);
    simulation.run(5);
    const old = channelTo(a, "b");
    age(a);
    for (let id = 2; id <= 200; id += 1) {
      send(a, "b", id);
      send(b, "a", id);
      simulation.run(1);
    }
    simulation.run(50);
    const all = Array.from({ length: 200 }, (_, i) => i + 1);
    expect(idsOf(b).toSorted((x, y) => x - y)).toEqual(all);
    expect(idsOf(a).toSorted((x, y) => x - y)).toEqual(all.slice(1));
    expect(channelTo(a, "b")).not.toBe(old);
    expect(channelTo(a, "b").sent).toBeLessThan(300);
    // It is no restart.
    expect([a.restarted, b.restarted]).toEqual([["b"], ["a"]]);
    expect([...a.events, ...b.events]).toEqual([]);
  });

  test("uses no number of a key twice, and ends a channel that has no more", () => {
    const { simulation, a, b } = pair();
    lose(simulation, ({ bytes }) => bytes[0] === HELLO);
    const { channels } = peerOf(a, "b"); // One that each end has begun.
    for (const channel of channels) channel.sent = 2 ** 32 - 5;
    for (let id = 1; id <= 20; id += 1) send(a, "b", id);
    simulation.run(10);
    expect(idsOf(b)).toHaveLength(4 * channels.length);
    expect(peerOf(a, "b").channels).toEqual([]);
    lose(simulation, () => false);
    for (let id = 21; id <= 40; id += 1) {
      simulation.run(20);
      send(a, "b", id);
    }
    simulation.run(10);
    expect(idsOf(b)).toContain(40);
    const used = sentOf(a, DATA).map((packet) => `${channelIn(packet)} ${numberIn(packet)}`);
    expect(new Set(used).size).toBe(used.length);
  });
});

/** Cuts the field at a place of a message into parts of so many bytes. */
function partsOf(body: readonly unknown[], at: number, step = 1000, change: unknown[] = []) {
  const field = Buffer.from(body[at] as string | Uint8Array);
  const digest = createHash("sha256").update(field).digest().readUIntBE(0, 6);
  const head = encode(body.with(at, null));
  return Array.from({ length: Math.ceil(field.length / step) }, (_, i) => {
    const data = field.subarray(i * step, (i + 1) * step);
    const fields = [digest, field.length, i * step, data, head];
    return message("Part", body[1], ...fields.map((value, n) => change[n] ?? value));
  });
}

const bytesOf = (random: Random, length: number) =>
  Buffer.from(Array.from({ length }, () => 256 * random()));

describe("a message in parts", () => {
  const question = (random: Random, length = 20_000) => message("Read", 7, bytesOf(random, length));

  test("of any type is whole at the other end, in packets of the allowed size", () => {
    const { simulation, a, b } = pair();
    const data = bytesOf(randomFrom(1), 60_000);
    const envelope = { from: "a", to: "b", id: 5 } as const;
    const all: (Message | ClientMessage)[] = [
      appendEntries(3, { ...envelope, entries: [makeEntry(1, 3, "commands", data)] }),
      {
        type: "InstallSnapshot",
        ...envelope,
        term: 3,
        round: 1,
        lastIncludedIndex: 9,
        lastIncludedTerm: 3,
        size: 2 ** 40,
        offset: 77,
        data,
      },
      { type: "Answer", ...envelope, answer: data },
      { type: "Read", ...envelope, question: data },
      { type: "Outcomes", ...envelope, first: 3, outcomes: data },
      { type: "Refused", ...envelope, reason: "für ".repeat(10_000) },
      { type: "NotLeader", ...envelope, leader: "c", servers: "a=ä:1,".repeat(900) },
    ];
    for (const each of all) {
      b.accepted.length = 0;
      a.endpoint.send(each);
      a.endpoint.flush();
      simulation.run(5);
      expect(b.accepted).toEqual([expect.objectContaining(each)]);
    }
    expect(Math.max(...a.sent.map(({ bytes }) => bytes.length))).toBeLessThanOrEqual(1232);
    expect(Math.max(...a.sent.map(({ bytes }) => bytes.length))).toBeGreaterThan(1150);
    expect(b.endpoint["incomplete"].owners.size).toBe(0);
    expect(totalDropped(b)).toBe(0);
  });

  test("is put together in any order, once, and a repetition fills its holes", () => {
    let sends = 0;
    forSeeds(30, (random) => {
      const b = serverB();
      const end = connect(b, A);
      const body = question(random);
      const parts = partsOf(body, 2, 200 + Math.floor(2000 * random()));
      for (; b.accepted.length === 0 && sends < 1000; sends += 1) {
        // A repetition has another id, and often lacks other parts.
        const again = parts.map((part) => part.with(1, 8 + sends));
        for (const part of shuffle(random, again)) {
          if (random() < 0.7) b.receive(end.seal([part]));
        }
      }
      expect(b.accepted).toMatchObject([{ type: "Read", question: body[2] }]);
      expect(totalDropped(b)).toBe(0);
    });
    if (!isReplay) expect(sends).toBeGreaterThan(45);
    expect(sends).toBeLessThan(1000);
  });

  test("that is sent again with a longer head is cut elsewhere, and parts of both do not mix", () => {
    const { simulation, a, b } = pair();
    const data = bytesOf(randomFrom(1), 10_000);
    const sendRound = (round: number) => {
      const entries = [makeEntry(1, 3, "commands", data)];
      a.endpoint.send(appendEntries(3, { from: "a", to: "b", id: 5, round, entries }));
      a.endpoint.flush();
      simulation.run(5);
    };
    let packets = 0;
    simulation.route = () => (packets += 1) % 2 === 0 ? [] : [{ afterMs: 1 }];
    sendRound(127);
    expect(b.accepted).toEqual([]);
    simulation.route = () => [{ afterMs: 1 }];
    sendRound(128); // MessagePack needs another byte for it.
    expect(b.accepted).toMatchObject([{ type: "AppendEntries", round: 128 }]);
    expect(totalDropped(b)).toBe(0);
  });

  test("with parts of another field, or with a wrong digest or size, is dropped", () => {
    const random = randomFrom(1);
    const [body, other] = [question(random), question(random)];
    const parts = partsOf(body, 2);
    const [digest, size] = [parts[0]?.[2], parts[0]?.[3]];
    // The last part is one of another field, which claims to be of this one.
    const foreign = partsOf(other, 2, 1000, [digest, size]);
    const mixed = [...parts.slice(0, -1), ...foreign.slice(-1)];
    for (const wrong of [mixed, partsOf(body, 2, 1000, [4711])]) {
      const b = serverB();
      const end = connect(b, A);
      for (const part of wrong) b.receive(end.seal([part]));
      expect(b.accepted).toEqual([]);
      expect(b.endpoint.dropped).toEqual({ malformed: 1 });
      // Its right parts make it whole afterwards.
      for (const part of parts) b.receive(end.seal([part]));
      expect(b.accepted).toMatchObject([{ type: "Read", question: body[2] }]);
    }
  });

  test("is malformed if a part is too short, too large, or beyond the end", () => {
    const b = serverB();
    const end = connect(b, A);
    const [head, data] = [encode(message("Read", 7, null)), Buffer.alloc(100)];
    const wrong: unknown[][] = [
      [1, 66_001, 0, data, head],
      [1, 2 ** 47, 0, data, head],
      [1, 99, 0, data, head],
      [1, 1000, 901, data, head],
      [1, 1000, 2 ** 47, data, head],
      [1, 1000, 0, data.subarray(0, 63), head],
      [1, 1000, 0, NOTHING, head],
    ];
    for (const fields of wrong) {
      expectDropped(b, end.seal([message("Part", 7, ...fields)]), "malformed");
    }
    expect(b.endpoint["incomplete"].owners.size).toBe(0);
  });

  test("has a head that is checked like any message, and by the sender's role", () => {
    const b = serverB();
    const [peer, client] = [connect(b, A), connect(b, { role: "client", name: "x" })];
    const field = Buffer.alloc(64);
    const head = (body: unknown) =>
      partsOf([0, 7, field], 2, 64, [, , , , encode(body)] as unknown[]);
    const reads = [
      null,
      7,
      [],
      [null, 7, null],
      message("Read", null, null),
      message("Read", 7, null, null),
      message("Read", 7),
      message("Part", 7, null),
      ["Read", 7, null],
    ];
    for (const body of reads) {
      expectDropped(b, peer.seal(head(body)), "malformed");
    }
    for (const type of ["Answer", "ReadIndex", "AppendEntries"] as const) {
      expectDropped(b, client.seal(head(message(type, 7, null))), "malformed");
    }
    const changes = message("ChangeMembers", 7, null, "", false);
    expectDropped(b, client.seal(head(changes)), "malformed");
    expectAccepted(b, peer.seal(head(changes)));
    // Parts of parts are no message.
    const nested = message("Part", 7, 1, 64, 0, null, encode(message("Read", 7, null)));
    b.accepted.length = 0;
    b.receive(peer.seal(head(nested)));
    expect(b.accepted).toEqual([]);
    expectAccepted(b, client.seal(head(message("Read", 7, null))));
  });

  test("is forgotten in favor of newer ones of its sender, and not of other senders'", () => {
    const b = serverB();
    const random = randomFrom(1);
    const client = (name: string) => connect(b, { role: "client", name });
    const honest = client("honest");
    const body = question(random);
    const [first, ...rest] = partsOf(body, 2);
    b.receive(honest.seal([first]));
    const size = () => [...b.endpoint["incomplete"].owners.values()].map((all) => all.size);
    for (let name = 0; name < 5; name += 1) {
      const greedy = client(`greedy ${name}`);
      for (let n = 0; n < 400; n += 1) {
        b.receive(greedy.seal([message("Part", n, n, 66_000, 0, Buffer.alloc(64), encode(null))]));
      }
      expect(Math.max(...size())).toBeLessThanOrEqual(256);
    }
    expect(size().reduce((sum, n) => sum + n, 0)).toBe(1024);
    for (const part of rest) b.receive(honest.seal([part]));
    expect(b.accepted).toMatchObject([{ type: "Read", question: body[2] }]);
  });

  test("keeps no more bytes than its field has, also if its sender repeats parts", () => {
    const b = serverB();
    const end = connect(b, { role: "client", name: "x" });
    const head = encode(message("Read", 7, null));
    for (let round = 1; round <= 20; round += 1) {
      for (let offset = 0; offset < 2000; offset += 7) {
        const data = Buffer.alloc(64 * round);
        b.receive(end.seal([message("Part", 7, 1, 30_000, offset, data, head)]));
      }
    }
    const [field] = b.endpoint["incomplete"].owners.get("client x")?.values() ?? [];
    expect(field?.bytes).toHaveLength(30_000);
    expect(field?.offsets.size).toBeGreaterThan(100);
    expect(field?.offsets.size).toBeLessThan(30_000 / 64);
  });

  test("of one sender is not completed by parts of another one, even of the same name", () => {
    const b = serverB();
    const body = question(randomFrom(1));
    const parts = partsOf(body, 2);
    const ends = [["x", 1], ["y", 1], ["x", 2]].map(([name, disk]) =>
      connect(b, { role: "client", name, disk } as EndOptions)
    );
    for (const [i, part] of parts.entries()) b.receive(ends[i % 3]?.seal([part]) ?? NOTHING);
    expect(b.accepted).toEqual([]);
    for (const part of parts) for (const end of ends) b.receive(end.seal([part]));
    const senders = b.accepted.map(({ from }) => from);
    expect(senders.toSorted()).toEqual(["client x 1", "client x 2", "client y 1"]);
  });
});

describe("rotation", () => {
  const NEW = "another secret, which follows the first one";
  const use = ({ endpoint }: Listener, ...lines: string[]) => {
    const { cluster, name } = endpoint.self;
    endpoint.rotate(lines.map((line) => credentialOf(line, "peer", cluster, name)));
  };

  test("with the new line second, then first, then alone, loses at most the packets in flight", () => {
    forSeeds(20, (random, seed) => {
      const { simulation, a, b } = pair(seed);
      lose(simulation, () => false);
      let id = 0;
      for (const lines of [[SECRET, NEW], [NEW, SECRET], [NEW]]) {
        for (const each of shuffle(random, [a, b])) {
          use(each, ...lines);
          for (let n = 0; n < 100; n += 1) {
            id += 1;
            send(a, "b", id);
            send(b, "a", id);
            simulation.run(20 * random());
          }
        }
      }
      simulation.run(100);
      const all = Array.from({ length: id }, (_, i) => i + 1);
      const missing = [a, b].flatMap((each) => all.filter((one) => !idsOf(each).includes(one)));
      expect(missing.length).toBeLessThanOrEqual(2);
      expect([a.restarted, b.restarted]).toEqual([["b"], ["a"]]);
      expect([...a.events, ...b.events]).toEqual([]);
    });
  });

  test("ends the channels of a removed line immediately, and no others", () => {
    const b = serverB();
    use(b, SECRET, NEW);
    const old = connect(b, { role: "client", name: "x", disk: 1 });
    const next = connect(b, { role: "client", name: "x", disk: 2, secret: NEW });
    const half = begin(b, { role: "client", name: "x", disk: 3 });
    for (const end of [old, next]) expectAccepted(b, end.seal([inspect]));
    use(b, NEW, SECRET);
    for (const end of [old, next]) expectAccepted(b, end.seal([inspect]));
    use(b, NEW);
    b.accepted.length = 0;
    for (const end of [old, half]) b.receive(end.seal([inspect]));
    expect(b.accepted).toEqual([]);
    expectAccepted(b, next.seal([inspect]));
    b.simulation.run(1000);
    expectDropped(b, new End({ role: "client", name: "x", disk: 1, attempt: 2 }).hello());
  });

  test("of a line that the other end lacks tries the next line after a second", () => {
    const simulation = new Simulation(1);
    const [a, b] = [listen(simulation, "a"), listen(simulation, "b")];
    use(a, NEW, SECRET);
    void a.endpoint.resolvePeer(addressOf("b"));
    for (let id = 1; id < 100; id += 1) {
      send(a, "b", id);
      simulation.run(20);
    }
    expect(idsOf(b).length).toBeGreaterThan(40);
    expect(b.events).toMatchObject([{ type: "unauthenticated" }]);
  });

  test("tries the next line as soon after a long outage as before it", () => {
    const { simulation, a, b } = pair(1);
    let isCut = true;
    lose(simulation, () => isCut);
    let id = 0;
    const talk = (ms: number) => {
      for (const end = id + ms / 20; id < end; simulation.run(20)) send(a, "b", id += 1);
    };
    talk(78_000);
    isCut = false;
    talk(10_000);
    expect(idsOf(b)).toContain(id - 1);
    use(b, NEW);
    use(a, SECRET, "a third secret, which only one of them has", NEW);
    talk(3000);
    expect(idsOf(b)).toContain(id - 1);
  });
});

describe("other clusters, versions and keys", () => {
  const foreign = (server: string, { ip }: Listener, cluster: string, members: string) =>
    ({ type: "foreign", server, address: { host: ip, port: 1 }, cluster, members }) as const;

  test.each([
    ["names", { cluster: "other" }, ["a, b, c", "a, b, c"]],
    ["founders", { members: ["b", "x"] }, ["a, b, c", "b, x"]],
  ])(
    "servers of clusters with other %s tell each other, and exchange no message",
    (_, own, lists) => {
      for (const isMutual of [false, true]) {
        const simulation = new Simulation(1);
        const [a, b] = [listen(simulation, "a"), listen(simulation, "b", own)];
        void a.endpoint.resolvePeer(addressOf("b"));
        if (isMutual) void b.endpoint.resolvePeer(addressOf("a"));
        for (let id = 1; id <= 5; id += 1) {
          send(a, "b", id);
          if (isMutual) send(b, "a", id);
          simulation.run(100);
        }
        expect([a.accepted, b.accepted, a.restarted, b.restarted]).toEqual([[], [], [], []]);
        const [toB = "", toA = ""] = lists;
        const { cluster } = b.endpoint.self;
        expect(a.events).toEqual([foreign("b", b, cluster, toA)]);
        expect(b.events).toEqual([foreign("a", a, "raft", toB)]);
        expect(a.endpoint.peerStatus("b").lastWarning?.type).toBe("foreign");
        expect(a.endpoint["channels"].size).toBeLessThanOrEqual(isMutual ? 6 : 1);
      }
    },
  );

  test("a server of another cluster with the name of one of ours leaves our channel alone", () => {
    const { simulation, a, b } = pair();
    const stranger = begin(b, { ...A, cluster: "other", boot: 2 ** 40 }, "10.9.9.9");
    expectDropped(b, stranger.seal([vote]), "foreign", "10.9.9.9");
    send(a, "b", 1);
    send(b, "a", 2);
    simulation.run(5);
    expect([idsOf(a), idsOf(b)]).toEqual([[2], [1]]);
    expect(b.restarted).toEqual(["a"]);
    expect(b.events).toMatchObject([{ type: "foreign", cluster: "other" }]);
  });

  test("founders are told apart also after they have founded clusters, but not from joiners", () => {
    for (const founding of [0, 4711]) {
      const b = serverB({ founding });
      const end = begin(b, { ...A, members: "a, x", founding });
      expectDropped(b, end.seal([vote]), "foreign");
      expectAccepted(b, begin(b, { ...A, members: "", founding, attempt: 2 }).seal([vote]));
    }
  });

  test("an end of another version is told so, on both sides", () => {
    const b = serverB();
    b.receive(new End({ ...A, version: VERSION - 1 }).hello(), "10.9.9.9");
    expect(b.sent.map(({ bytes }) => bytes.length)).toEqual([18]);
    expect(b.sent[0]?.bytes[1]).toBe(VERSION);
    const warning = { type: "version", address: { host: "10.9.9.9", port: 1 } } as const;
    expect(b.events).toEqual([{ ...warning, version: VERSION - 1 }]);
    void b.endpoint.resolvePeer({ name: "c", host: "10.8.8.8", port: 1 });
    b.simulation.run(1);
    const hello = last(sentOf(b, HELLO));
    const hint = (version: number, echo: Buffer) =>
      Buffer.concat([Buffer.of(HINT, version), echo.subarray(0, 16)]);
    b.receive(hint(VERSION, hello), "10.8.8.8");
    b.receive(hint(VERSION + 1, flipped(hello, 3)), "10.8.8.8");
    expect(b.events).toHaveLength(1);
    b.receive(hint(VERSION + 1, hello), "10.8.8.8");
    const address = { host: "10.8.8.8", port: 1 };
    expect(b.events.slice(1)).toEqual([{ type: "version", address, version: VERSION + 1 }]);
    expect(b.endpoint.peerStatus("c").lastWarning?.type).toBe("version");
    // A forged one does not keep the right answer out.
    answer(b, hello, { name: "c" }, "10.8.8.8");
    expect(b.restarted).toEqual(["c"]);
  });

  test("a client key speaks for its client and cluster alone", () => {
    const own = withClientKey(clientKey(SECRET, "raft", "x"));
    const b = serverB();
    expectAccepted(b, connect(b, own).seal([inspect]));
    expect(b.accepted).toMatchObject([{ from: "client x 9" }]);
    for (const claim of [{ name: "y" }, { role: "operator" }, { role: "peer" }, { cluster: "b" }]) {
      expectDropped(b, new End({ ...own, ...claim }).hello(), "unauthenticated");
      // The id of the other name, with the key of this one.
      const { role = "client", cluster = "raft", name = "x" } = { ...own, ...claim };
      const { id } = keyOf(SECRET, role, cluster, name);
      expectDropped(b, new End({ ...own, ...claim, id }).hello(), "unauthenticated");
    }
    const foreigner = begin(b, { ...withClientKey(clientKey(SECRET, "other", "x")), disk: 8 });
    expectDropped(b, foreigner.seal([inspect]), "foreign");
    expectDropped(b, new End(withClientKey(clientKey(OTHER_SECRET, "raft", "x"))).hello());
    const keys = [["raft", "x"], ["raft", "y"], ["other", "x"]].map(([cluster = "", name = ""]) =>
      clientKey(SECRET, cluster, name)
    );
    expect(new Set(keys).size).toBe(3);
    expect(clientKey(SECRET, "raft", "x")).toBe(clientKey(SECRET, "raft", "x"));
    expect(Buffer.from(keys.join("")).includes(SECRET)).toBe(false);
    const [long, longest] = ["ü".repeat(128), `${"ü".repeat(127)}!`];
    expect(() => clientKey(SECRET, "raft", long)).toThrow("Take one of at most 255 bytes.");
    expect(() => clientKey(SECRET, long, "x")).toThrow("Take one of at most 255 bytes.");
    expect(() => clientKey(SECRET, longest, longest)).not.toThrow();
  });

  test("a client accepts only servers of its cluster", () => {
    const simulation = new Simulation(1);
    const client = listen(simulation, "x", { role: "client" });
    void client.endpoint.resolvePeer({ name: "s", host: "10.0.0.77", port: 1 });
    simulation.run(1);
    const hello = last(sentOf(client, HELLO));
    // Another client of the same name has the same key, but says what it is.
    expectDropped(client, new End({ role: "client", name: "x" }).onHello(hello), "unauthenticated");
    simulation.run(1001);
    send(client, "s");
    const server = answer(client, last(sentOf(client, HELLO)), A);
    expectAccepted(client, server.seal([message("Answer", 7, Buffer.from("x"))]));
    // And it answers no Hello.
    expectDropped(client, new End(A).hello());
    expectDropped(client, new End({ role: "client", name: "x" }).hello());
  });
});

describe("addresses", () => {
  test("a Hello that an outsider has led to another server changes no address for long", () => {
    const { simulation, a, b } = pair();
    const { ip } = simulation.machine("c");
    void b.endpoint.resolvePeer(addressOf("c"));
    simulation.run(1);
    a.receive(last(sentOf(b, HELLO)), b.ip);
    b.receive(last(sentOf(a, WELCOME)), ip);
    b.sent.length = 0;
    send(b, "a", 1);
    expect(b.sent.map(({ to: { host } }) => host)).toEqual([a.ip]);
    simulation.run(5);
    expect(idsOf(a)).toEqual([1]);
    // Its own address is resolved again.
    simulation.run(1000);
    send(b, "c", 2);
    simulation.run(5);
    expect(b.sent.at(-1)?.to.host).toBe(ip);
  });

  test("a packet that was overtaken does not take its sender back to an earlier address", () => {
    const b = serverB();
    for (const options of [A, { role: "client", name: "a", disk: 9 }]) {
      const end = connect(b, options, "10.1.1.1");
      const id = options === A ? "a" : "client a 9";
      const [late, early, afterMove] = [1, 2, 3].map(() => end.seal([inspect])) as [
        Buffer,
        Buffer,
        Buffer,
      ];
      const arrivals = [
        [early, "10.1.1.1", "10.1.1.1"],
        [afterMove, "10.2.2.2", "10.2.2.2"],
        [late, "10.1.1.1", "10.2.2.2"],
        [early, "10.1.1.1", "10.2.2.2"],
        [flipped(end.seal([]), 20), "10.1.1.1", "10.2.2.2"],
      ] as const;
      b.accepted.length = 0;
      for (const [packet, host, expected] of arrivals) {
        b.receive(packet, host);
        b.sent.length = 0;
        send(b, id);
        // For a second after it has moved, it is sent to at both addresses.
        const former = expected === "10.1.1.1" ? [] : ["10.1.1.1"];
        expect(b.sent.map(({ to }) => to.host)).toEqual([expected, ...former]);
      }
      expect(b.accepted).toHaveLength(3);
    }
  });

  test("a loopback address is for the server itself, and for clients on the loopback", () => {
    const b = serverB();
    const members = configuration(["a", "b"]).map((member) => ({
      ...member,
      address: member.name === "a" ? "127.0.0.7:1" : "10.5.5.5:1",
    }));
    let disk = 0;
    const addressesFor = (host: string) => {
      disk += 1;
      b.simulation.run(600);
      connect(b, { role: "client", name: "x", disk }, host);
      return b.endpoint.addressesOf(members, `client x ${disk}`);
    };
    expect(b.endpoint.addressesOf(members, "b")).toBe("a=127.0.0.7:1,b=10.5.5.5:1");
    const a = connect(b, A, "127.0.0.9");
    expect(addressesFor("127.0.0.1")).toBe("a=127.0.0.9:1,a=127.0.0.7:1,b=10.5.5.5:1");
    expect(addressesFor("::1")).toBe("a=127.0.0.9:1,a=127.0.0.7:1,b=10.5.5.5:1");
    expect(addressesFor("10.9.9.9")).toBe("b=10.5.5.5:1");
    b.receive(a.seal(), "10.6.6.6");
    expect(addressesFor("10.9.9.9")).toBe("a=10.6.6.6:1,b=10.5.5.5:1");
    expect(addressesFor("::1")).toBe("a=10.6.6.6:1,a=127.0.0.7:1,b=10.5.5.5:1");
  });

  test("a name that does not resolve is reported once, and retried until it resolves", () => {
    const simulation = new Simulation(1);
    const a = listen(simulation, "a");
    void a.endpoint.resolvePeer(addressOf("b"));
    const sendSome = () => {
      send(a, "b");
      simulation.run(1100);
    };
    for (let i = 0; i < 3; i += 1) sendSome();
    const warning = { type: "unresolved", server: addressOf("b"), reason: "ENOTFOUND: b" } as const;
    expect(a.events).toEqual([warning]);
    expect(a.endpoint.peerStatus("b")).toEqual({
      name: "b",
      address: "",
      heardMs: null,
      roundTripMs: null,
      lastWarning: warning,
    });
    const b = listen(simulation, "b");
    for (let i = 0; i < 3; i += 1) sendSome();
    expect(b.accepted.length).toBeGreaterThan(0);
    const known = { address: `${b.ip}:1`, lastWarning: null };
    expect(a.endpoint.peerStatus("b")).toMatchObject(known);
  });

  test("a silent server is sought at all its addresses, and one that is heard at that one", () => {
    const simulation = new Simulation(1);
    const [a, b] = [listen(simulation, "a"), listen(simulation, "b")];
    lose(simulation, ({ to }) => to.host === b.ip);
    a.endpoint.learnAddresses(
      ["b", "10.7.7.7", "10.8.8.8"].map((host) => ({ ...addressOf("b"), host })),
    );
    simulation.run(60);
    const hosts = () => {
      a.sent.length = 0;
      send(a, "b");
      simulation.run(60);
      return [...new Set(a.sent.map(({ to }) => to.host))].toSorted();
    };
    expect(hosts()).toEqual([b.ip, "10.7.7.7", "10.8.8.8"].toSorted());
    // The server moves to the last of them.
    simulation.machine("b").ip = "10.8.8.8";
    hosts();
    expect(b.restarted).toEqual(["a"]);
    expect(hosts()).toEqual(["10.8.8.8"]);
    // It moves on, and is found again because it sends.
    simulation.machine("b").ip = "10.4.4.4";
    send(b, "a");
    simulation.run(5);
    expect(hosts()).toEqual(["10.4.4.4", "10.8.8.8"]);
    simulation.run(1000);
    expect(hosts()).toEqual(["10.4.4.4"]);
  });

  test("a server that moves while it is silent is found under its name", () => {
    const { simulation, a, b } = pair();
    simulation.machine("b").ip = "10.4.4.4";
    for (let id = 1; id <= 40; id += 1) {
      send(a, "b", id);
      simulation.run(100);
    }
    expect(idsOf(b)).toContain(40);
    expect(a.endpoint.peerStatus("b").address).toBe("10.4.4.4:1");
  });

  test.each([true, false])(
    "a server is reached although another one has its earlier address (configured: %p)",
    (isConfigured) => {
      const simulation = new Simulation(1);
      const client = listen(simulation, "x", { role: "client" });
      const [b, c] = [listen(simulation, "b"), listen(simulation, "c")];
      // The server at the earlier address of b is always the first to answer.
      const isFar = ({ to, from }: Packet) => [to, from].some(({ host }) => host === b.ip);
      simulation.route = (packet) => [{ afterMs: isFar(packet) ? 40 : 1 }];
      if (isConfigured) void client.endpoint.resolvePeer({ ...addressOf("b"), host: "c" });
      client.endpoint.learnAddresses(["c", "b"].map((host) => ({ ...addressOf("b"), host })));
      for (let id = 1; id <= 100; id += 1) {
        send(client, "b", id);
        simulation.run(100);
      }
      expect(c.endpoint.dropped["malformed"]).toBeUndefined();
      expect(b.endpoint.dropped["malformed"]).toBeGreaterThan(50);
    },
  );

  test("a client finds a server by any word for it, and follows the word to its name", () => {
    const simulation = new Simulation(1);
    const client = listen(simulation, "x", { role: "client" });
    const b = listen(simulation, "b");
    void client.endpoint.resolvePeer({ name: "b:1", host: "b", port: 1 });
    const ask = (to: string) => {
      const before = b.accepted.length;
      client.endpoint.send({ type: "Inspect", from: "x", to, id: 1 });
      client.endpoint.flush();
      simulation.run(60);
      return b.accepted.length - before;
    };
    expect(ask("b:1")).toBe(1);
    expect(client.endpoint.peerStatus("b:1").name).toBe("b");
    expect([ask("b:1"), ask("b")]).toEqual([1, 1]);
    expect(b.endpoint["clients"].owners.size).toBe(1);
  });
});

/** Returns a status as it must be `ms` later if no message was accepted and no timer was reset. */
function later(
  { silentMs, peers, dropped: _, unauthenticatedMs: __, ...rest }: ReturnType<Node["status"]>,
  ms: number,
) {
  const add = (before: number | null) => before === null ? null : before + ms;
  const silent = peers.map((peer) => ({ ...peer, heardMs: add(peer.heardMs) }));
  return { ...rest, silentMs: add(silentMs), peers: silent };
}

describe("a recording of all traffic of a cluster", () => {
  const RECORDER = "10.9.9.9";

  /** Returns servers that have served for a while, and all packets to servers meanwhile. */
  function recorded() {
    const world = new World();
    const { simulation } = world;
    const history: Packet[] = [];
    simulation.watch = ({ packet }) => {
      if (packet && packet.to.port === 1 && packet.bytes.length > 0) history.push(packet);
    };
    world.found();
    const client = world.client();
    for (let i = 0; i < 10; i += 1) {
      for (const node of world.nodes.values()) simulation.settle(node.propose(Buffer.alloc(9)));
      simulation.settle(client.propose(Buffer.alloc(3000)));
      simulation.settle(client.read(Buffer.from("x")).catch(() => {}));
    }
    simulation.settle(client.inspect("a:1"));
    simulation.run(50);
    simulation.watch = () => {};
    const kinds = new Set(history.map(({ bytes }) => bytes[0]));
    expect([...kinds].toSorted()).toEqual([HELLO, WELCOME, DATA]);
    expect(history.length).toBeGreaterThan(200);
    return { world, simulation, history };
  }

  /**
   * Sends the recording to servers, in its order and backwards, while no other packet arrives, and
   * expects that no server changes. The packets come from their senders, or from the recorder.
   */
  function expectNoEffect(
    { world, simulation, history }: ReturnType<typeof recorded>,
    servers: readonly string[],
  ): void {
    simulation.route = () => [];
    simulation.run(20);
    const answers: Packet[] = [];
    simulation.watch = ({ packet }) => void (packet?.to.host === RECORDER && answers.push(packet));
    const stateOf = (ms: number) =>
      servers.map((name) => later(structuredClone(world.at(name).status()), ms));
    const before = stateOf(200);
    const events = structuredClone([...world.events.values()]);
    let n = 0;
    for (const packet of [...history, ...history.toReversed()]) {
      n += 1;
      for (const name of servers) {
        const to = { host: simulation.machine(name).ip, port: 1 };
        const from = n % 2 === 0 ? packet.from : { host: RECORDER, port: 9 };
        simulation.deliver({ ...packet, from, to }, (n * 150) / (2 * history.length));
      }
    }
    simulation.run(200);
    expect(stateOf(0)).toEqual(before);
    expect([...world.events.values()]).toEqual(events);
    // A data packet for an unknown channel earns a Hint, and a Hello that may be new a Welcome.
    expect(new Set(answers.map(({ bytes }) => bytes[0])).isSubsetOf(new Set([HINT, WELCOME])))
      .toBe(true);
    expect(answers.length).toBeLessThan(history.length);
    simulation.watch = () => {};
    simulation.route = () => [{ afterMs: 1 }];
    for (const name of servers) simulation.settle(world.at(name).propose(Buffer.alloc(9)));
  }

  test("changes nothing in it", () => {
    const all = recorded();
    expectNoEffect(all, ["a", "b", "c"]);
  });

  test("changes nothing after a restart of a server, or of all (catalogue 49)", () => {
    const all = recorded();
    for (const name of ["a", "b", "c"]) {
      all.world.kill(name);
      all.world.start(name, ["a", "b", "c"]);
      expectNoEffect(all, [name]);
    }
    all.simulation.run(3000);
    expectNoEffect(all, ["a", "b", "c"]);
  });

  test("changes nothing after a server has lost its disk, which is no event then", () => {
    for (const lost of ["a", "b", "c"]) {
      const all = recorded();
      const { world, simulation } = all;
      world.kill(lost);
      simulation.machine(lost).disk.wipe();
      const restarted = world.start(lost, ["a", "b", "c"]);
      const isMemberAgain = () =>
        [...world.nodes.values()].every((node) =>
          node.status().members.every(({ name, votes, disk }) =>
            name !== lost || (votes && disk === restarted.status().disk)
          )
        );
      expect(simulation.run(20_000, isMemberAgain)).toBe(true);
      simulation.run(5000);
      expectNoEffect(all, ["a", "b", "c"]);
    }
  });
});
