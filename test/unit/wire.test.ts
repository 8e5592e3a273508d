/**
 * Tests that an endpoint accepts only messages that fit the tables of sections 1 and 14, from a
 * sender whose role may send them. The packets are valid: these senders have keys.
 */
import { encode } from "@msgpack/msgpack";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  clientMessages,
  encodeRecord,
  KeyValueStore,
  messages,
  Node,
  operatorMessages,
  partMessages,
  serverMessages,
  sizeOf,
} from "../../raft.ts";
import {
  connect,
  expectAccepted,
  expectDropped,
  listen,
  type Listener,
} from "../support/endpoints.ts";
import { makeEntry } from "../support/entries.ts";
import { forSeeds, isReplay, pick } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import {
  answerOf,
  askStore,
  commandsOf,
  type End,
  floats,
  Impostor,
  makeCommand,
  message,
  readOutcomes,
  type Role,
  SECRET,
  SENDERS,
  sequence,
  type Type,
  TYPES,
} from "../support/wire.ts";
import { Simulation } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

const ROLES = ["client", "operator", "peer"] as const;
const record = (
  index: number,
  term: number,
  kind: "logHead" | "hardState" | "noop" | "commands" = "noop",
) => Buffer.concat(encodeRecord(makeEntry(index, term, kind, Buffer.from("data"))));
const append = (entries: unknown) => message("AppendEntries", 77, 5, 1, 0, 0, 0, entries);
const install = (size: number, offset: number, data: unknown) =>
  message("InstallSnapshot", 77, 5, 1, 9, 4, size, offset, data);

const fieldsOf: Record<string, readonly string[]> = {
  ...clientMessages,
  ...operatorMessages,
  ...partMessages,
  ...serverMessages,
  ...messages,
};
/** Values for the fields that are not numbers, and for the numbers that must fit other fields. */
const values: Record<string, unknown> = {
  preVote: true,
  transfer: false,
  voteGranted: true,
  success: true,
  force: false,
  entries: record(1, 1),
  data: Buffer.alloc(8),
  question: Buffer.from("q"),
  commands: sequence([Buffer.from("c")]),
  outcomes: sequence([Buffer.from("o")]),
  answer: Buffer.from("a"),
  head: encode(message("Read", 77, null)),
  leader: "a",
  servers: "a=a:1",
  reason: "no",
  name: "d",
  address: "d:1",
  prevLogIndex: 0,
  size: 9,
};
/** Returns a valid message of this type. */
const valid = (type: Type): unknown[] =>
  message(type, 77, ...(fieldsOf[type] ?? []).map((field) => values[field] ?? 1));
/** A Part is no message yet, so an endpoint only keeps it. */
const countOf = (type: string) => type === "Part" ? 0 : 1;

/** Returns an endpoint, and an end that has a channel to it. */
function speaker(role: Role = "peer"): { b: Listener; end: End } {
  const b = listen(new Simulation(1), "b");
  return { b, end: connect(b, { role, name: "a" }) };
}

/** Encodes whole numbers as floats, too. */
const sealFloats = (end: End, bodies: readonly unknown[]) =>
  end.sealBytes(Buffer.concat([0, ...bodies].map((value) => floats.encode(value))));

const notNumbers = [
  Number.NaN,
  -0,
  1.5,
  2 ** 53,
  2 ** 48,
  -1,
  Number.POSITIVE_INFINITY,
  "1",
  "",
  null,
  true,
  [],
  [1],
  Buffer.from([1]),
];

describe("roles", () => {
  test.each(ROLES.flatMap((role) => TYPES.map((type) => [role, type] as const)))(
    "a %s's %s is accepted only if the table lets that role send it",
    (role, type) => {
      const { b, end } = speaker(role);
      const senders = ROLES.slice(ROLES.findIndex((each) => SENDERS[each].some((t) => t === type)));
      if (senders.includes(role)) expectAccepted(b, end.seal([valid(type)]), countOf(type));
      else expectDropped(b, end.seal([valid(type)]), "malformed");
    },
  );

  test("the table of this test lists every type of message", () => {
    expect(Object.keys(fieldsOf).toSorted()).toEqual([...TYPES].toSorted());
  });

  test("a message is from the server of the channel, or from one process of a client", () => {
    const { b, end } = speaker();
    expectAccepted(b, end.seal([valid("AppendEntriesReply")]));
    expect(b.accepted).toEqual([{
      type: "AppendEntriesReply",
      from: "a",
      to: "b",
      disk: 9,
      founding: 0,
      id: 77,
      term: 1,
      round: 1,
      success: true,
      matchIndex: 1,
      hintIndex: 1,
      hintTerm: 1,
    }]);
    const client = connect(b, { role: "client", name: "a", disk: 5 });
    expectAccepted(b, client.seal([valid("Inspect")]));
    expect(b.accepted).toMatchObject([{ type: "Inspect", from: "client a 5", disk: 5, id: 77 }]);
  });
});

describe("malformed messages are dropped and counted, without an error or an answer", () => {
  test.each(TYPES)(
    "a %s is accepted alone, with others, and with its numbers as floats",
    (type) => {
      const { b, end } = speaker();
      const count = countOf(type);
      expectAccepted(b, end.seal([valid(type)]), count);
      expectAccepted(b, sealFloats(end, [valid(type)]), count);
      expectAccepted(b, end.seal([valid(type), valid("Inspect"), valid(type)]), 1 + 2 * count);
    },
  );

  test("entries, also none, and an empty last chunk are accepted", () => {
    const { b, end } = speaker();
    for (
      const body of [
        append(Buffer.concat([record(1, 4), record(2, 5)])),
        append(Buffer.alloc(0)),
        install(30, 20, Buffer.alloc(10)),
        install(30, 30, Buffer.alloc(0)),
      ]
    ) expectAccepted(b, end.seal([body]));
    expectAccepted(b, end.seal([]), 0);
  });

  test("a malformed message does not take the others of its packet with it", () => {
    const { b, end } = speaker();
    b.receive(end.seal([valid("Inspect"), ["?"], valid("TimeoutNow")]));
    expect(b.accepted.map(({ type }) => type)).toEqual(["Inspect", "TimeoutNow"]);
    expect(b.endpoint.dropped).toEqual({ malformed: 1 });
  });

  test("random bytes", () => {
    const { b, end } = speaker();
    forSeeds(1000, (random) => {
      const bytes = Buffer.from(Array.from({ length: random() * 200 }, () => random() * 256));
      b.accepted.length = b.sent.length = 0;
      b.receive(end.sealBytes(bytes));
      b.receive(end.sealBytes(Buffer.concat([Buffer.of(0), bytes])));
      expect({ accepted: b.accepted, sent: b.sent }).toEqual({ accepted: [], sent: [] });
    });
    expectAccepted(b, end.seal([valid("Inspect")]));
  });

  test("a valid message with a changed byte or a missing end is another one, or dropped", () => {
    const { b, end } = speaker();
    for (const type of TYPES) {
      const whole = sequence([0, valid(type)]);
      for (let at = 0; at < whole.length; at += 1) {
        for (const change of [1, 0x10, 0x80, 0xFF]) {
          const damaged = Buffer.from(whole);
          damaged[at] = (damaged[at] ?? 0) ^ change;
          b.receive(end.sealBytes(damaged));
        }
        if (at > 1) expectDropped(b, end.sealBytes(whole.subarray(0, at)), "malformed");
      }
    }
    expectAccepted(b, end.seal([valid("Inspect")]));
  });

  test("a message that claims a huge size", () => {
    const { b, end } = speaker();
    const claims = [
      "ddffffffff",
      "dcffff",
      "dfffffffff",
      "deffff",
      "dbffffffff",
      "c6ffffffff",
      "c9ffffffff01",
      "dd7fffffff",
      "9f".repeat(2000),
      "91".repeat(50_000),
      "81".repeat(2000),
    ];
    for (const claim of claims) {
      const bytes = Buffer.from(claim, "hex");
      const founding = encode(0);
      for (const parts of [[bytes], [founding, bytes], [bytes, founding]]) {
        expectDropped(b, end.sealBytes(Buffer.concat(parts)), "malformed");
      }
    }
  });

  test("claims of nested arrays, without allocating memory for them", () => {
    const { b, end } = speaker();
    const before = process.memoryUsage().rss;
    // Two hundred nested arrays that claim half a million elements each.
    const nested = Buffer.from("dd0007ffff".repeat(200), "hex");
    expectDropped(b, end.sealBytes(nested), "malformed");
    expectDropped(b, end.seal([message("Part", 1, 1, 2, 0, Buffer.alloc(2), nested)]), "malformed");
    expect((process.memoryUsage().rss - before) / 2 ** 20).toBeLessThan(100);
  });

  test("more than a thousand messages in a packet", () => {
    const { b, end } = speaker();
    b.receive(end.seal(Array.from({ length: 5000 }, () => valid("Inspect"))));
    expect(b.accepted.length).toBeLessThanOrEqual(1024);
    expect(b.accepted.length).toBeGreaterThan(1000);
  });

  test.each(TYPES)("a value other than a natural number for one in %p (catalogue 44)", (type) => {
    const { b, end } = speaker();
    const body = valid(type);
    for (let at = 1; at < body.length; at += 1) {
      if (typeof body[at] !== "number") continue;
      for (const wrong of notNumbers) {
        expectDropped(b, sealFloats(end, [body.with(at, wrong)]), "malformed");
      }
    }
    expectAccepted(b, end.seal([body]), countOf(type));
  });

  test.each(TYPES)("a value of a wrong type anywhere in %p", (type) => {
    const { b, end } = speaker();
    const body = valid(type);
    const wrongs = [null, true, 1, "text", Buffer.from("bytes"), [1], undefined, new Date(0)];
    for (let at = 1; at < body.length; at += 1) {
      for (const wrong of wrongs) {
        if (typeof wrong === typeof body[at] && typeof wrong !== "object") continue;
        // The bytes of a blob are free, and those of a text may have come in parts.
        if (
          wrong instanceof Buffer && typeof body[at] !== "boolean" && typeof body[at] !== "number"
        ) {
          continue;
        }
        expectDropped(b, end.seal([body.with(at, wrong)]), "malformed");
      }
    }
  });

  test.each(TYPES)("ill-formed text for one in %p", (type) => {
    const { b, end } = speaker();
    const body = valid(type);
    for (let at = 2; at < body.length; at += 1) {
      if (typeof body[at] !== "string") continue;
      for (const wrong of ["a\uD800", "\uDFFF"]) {
        expectDropped(b, end.seal([body.with(at, wrong)]), "malformed");
      }
    }
    expectAccepted(b, end.seal([body]), countOf(type));
  });

  test.each(TYPES)("a %s with a missing or an additional field", (type) => {
    const { b, end } = speaker();
    const body = valid(type);
    for (let length = 0; length < body.length; length += 1) {
      expectDropped(b, end.seal([body.slice(0, length)]), "malformed");
    }
    expectDropped(b, end.seal([[...body, 0]]), "malformed");
  });

  test("messages that are no arrays", () => {
    const { b, end } = speaker();
    for (const body of [null, 0, "Inspect", [], {}, Buffer.from([0]), true]) {
      expectDropped(b, end.seal([body]), "malformed");
    }
  });

  test("a founding that is no natural number", () => {
    const { b, end } = speaker();
    for (const wrong of notNumbers) {
      const plaintext = [wrong, valid("Inspect")].map((value) => floats.encode(value));
      expectDropped(b, end.sealBytes(Buffer.concat(plaintext)), "malformed");
    }
    expectDropped(b, end.sealBytes(Buffer.alloc(0)), "malformed");
  });

  test("a chunk that reaches beyond the end of its snapshot", () => {
    const { b, end } = speaker();
    for (const [size, offset] of [[30, 21], [9, 0], [0, 2 ** 47]] as const) {
      expectDropped(b, end.seal([install(size, offset, Buffer.alloc(10))]), "malformed");
    }
  });

  test("a chunk of an empty snapshot, because every snapshot has bytes", () => {
    const { b, end } = speaker();
    expectDropped(b, end.seal([install(0, 0, Buffer.alloc(0))]), "malformed");
    expectAccepted(b, end.seal([install(1, 0, Buffer.alloc(0))]));
  });

  test("an unknown type of message", () => {
    const { b, end } = speaker();
    const wrongs = [
      TYPES.length,
      99,
      -1,
      0.5,
      2 ** 32,
      Number.NaN,
      null,
      true,
      "RequestVote",
      "length",
      "map",
      "__proto__",
      "constructor",
    ];
    for (const type of wrongs) {
      expectDropped(b, end.seal([valid("RequestVote").with(0, type)]), "malformed");
      expectDropped(b, end.seal([[type]]), "malformed");
    }
  });

  test("a type that is no number, but converts to the key of one", () => {
    const { b, end } = speaker();
    for (const type of ["0", [0], [[0]]]) {
      expectDropped(b, end.seal([valid("OpenSession").with(0, type)]), "malformed");
    }
    expectDropped(b, sealFloats(end, [valid("OpenSession").with(0, -0)]), "malformed");
  });

  test("entries with a gap, of a later term than the leader's, or of a kind not in a log", () => {
    const { b, end } = speaker();
    const good = record(1, 4);
    const wrong = [
      [record(2, 4)],
      [record(0, 4)],
      [good, record(3, 4)],
      [good, good],
      [record(2, 4), good],
      [record(1, 6)],
      [good, record(2, 6)],
      [record(1, 4, "logHead")],
      [good, record(2, 4, "hardState")],
    ].map((records) => Buffer.concat(records));
    for (const entries of wrong) expectDropped(b, end.seal([append(entries)]), "malformed");
    expectAccepted(b, end.seal([append(Buffer.concat([good, record(2, 5)]))]));
  });

  test("entries whose bytes are not whole records", () => {
    const { b, end } = speaker();
    const whole = Buffer.concat([record(1, 4), record(2, 4)]);
    for (let length = 1; length < whole.length; length += 1) {
      if (length === whole.length / 2) continue;
      expectDropped(b, end.seal([append(whole.subarray(0, length))]), "malformed");
    }
    const unknown = Buffer.from(whole).fill(5, 0, 1);
    const long = Buffer.from(whole).fill(0xFF, 13, 17);
    for (const entries of [unknown, long, Buffer.concat([whole, Buffer.from([2])])]) {
      expectDropped(b, end.seal([append(entries)]), "malformed");
    }
  });
});

describe("a running server", () => {
  /** Returns a cluster of one server, and a client that speaks to it by hand. */
  function singleServer(seed: number, role: Role = "client") {
    const simulation = new Simulation(seed);
    const node = simulation.settle(
      Node.start({
        host: "a",
        port: 1,
        name: "a",
        peers: [],
        directory: "data",
        secret: SECRET,
        machine: new KeyValueStore(),
        timeoutMs: 500,
        world: simulation.machine("a").boot(),
      }),
    );
    const reasons: unknown[] = [];
    node.stopped.catch((reason: unknown) => reasons.push(reason));
    const to = { host: simulation.machine("a").ip, port: 1 };
    const client = new Impostor(simulation, to, { role, name: "x" }).connect();
    simulation.route = () => [{ afterMs: 1 }]; // Packets of a turn arrive in one turn.
    simulation.run(50);
    return { simulation, node, client, reasons };
  }

  const isServing = ({ simulation, node, reasons }: ReturnType<typeof singleServer>) => {
    expect(reasons).toEqual([]);
    const answer = simulation.settle(node.propose(askStore("delete", Buffer.from("k"))));
    expect(answerOf(answer)).toBe(false);
  };

  test("is neither stopped nor moved to another term by anything that a client sends", () => {
    let dropped = 0;
    forSeeds(100, (random, seed) => {
      const server = singleServer(seed);
      const { term } = server.node.status();
      const any = () =>
        pick<unknown>(random, [
          0,
          1,
          -1,
          2 ** 47,
          2 ** 53,
          1.5,
          Number.NaN,
          null,
          true,
          "",
          "a",
          "\uD800",
          [],
          [1, 2],
          makeCommand([1, 1, 0], Buffer.alloc(1)),
          makeCommand([2, 1, 0], Buffer.alloc(0)),
          encode("x"),
          Buffer.alloc(0),
          Buffer.alloc(900, random() * 256),
        ]);
      for (let i = 0; i < 60; i += 1) {
        const fields = Array.from({ length: random() * 5 }, any);
        const type = Math.floor(random() * (TYPES.length + 1));
        server.client.send([type, random() < 0.8 ? i : any(), ...fields]);
      }
      server.simulation.run(50);
      dropped += server.node.status().dropped["malformed"] ?? 0;
      expect(server.node.status().term).toBe(term);
      isServing(server);
    });
    if (!isReplay) expect(dropped).toBeGreaterThan(100);
  });

  /** Sends requests of one turn. Returns the type and the content of each answer. */
  function sendRequests(
    { simulation, client }: ReturnType<typeof singleServer>,
    requests: readonly unknown[][],
  ): string[] {
    client.received.length = 0;
    for (const request of requests) client.send(request);
    simulation.run(50);
    return requests.map(([, id]) => {
      const answers = client.received.filter(({ body }) => body[1] === id);
      const [first] = answers;
      const content = first?.body[2] ?? "nothing";
      if (first?.type !== "Outcomes") {
        return `${first?.type} ${Buffer.from(content as string | Uint8Array)}`;
      }
      const parts = answers.flatMap(({ body }) => readOutcomes(body.slice(2)));
      expect(parts.map(({ place }) => place)).toEqual(parts.map((_, place) => place));
      return `${first.type} ${parts.map(({ outcome }) => outcome).join()}`;
    });
  }

  const openSession = (server: ReturnType<typeof singleServer>) =>
    Number(sendRequests(server, [message("OpenSession", 1, 4711)])[0]?.replace("Outcomes ", ""));

  test("answers each command of a turn, with one entry for each request", () => {
    const server = singleServer(1);
    const session = openSession(server);
    const before = server.node.status().lastIndex;
    // The last command for each key finds the value that the first one has put there.
    const put = (i: number) => askStore("put", Buffer.of(i), Buffer.alloc(100));
    const cas = (i: number) =>
      askStore("cas", Buffer.of(i), Buffer.of(i), i % 3 === 0 ? Buffer.of(i) : Buffer.alloc(100));
    const commands = Array.from({ length: 200 }, (_, i) => i < 100 ? put(i) : cas(i - 100));
    // Some commands are sent alone, some with others.
    const ends = [1, 2, 3, 10, 11, ...Array.from({ length: 47 }, (_, i) => 16 + 4 * i)];
    const spans = ends.map((end, i) => [ends[i - 1] ?? 0, end] as const);
    const requests = spans.map(([begin, end]) =>
      message(
        "Commands",
        10 + begin,
        ...commandsOf([session, end, 0], ...commands.slice(begin, end)),
      )
    );
    const outcomes = commands.map((_, i) => i < 100 || (i - 100) % 3 !== 0 ? "\x01" : "\0");
    expect(sendRequests(server, requests)).toEqual(
      spans.map(([begin, end]) => `Outcomes ${outcomes.slice(begin, end).join()}`),
    );
    expect(server.node.status().lastIndex - before).toBe(requests.length);
    for (const entry of server.node["core"].log.slice(before + 1)) {
      expect(Buffer.concat(encodeRecord(entry)).length).toBe(sizeOf(entry));
    }
  });

  test("refuses malformed commands, and applies the ones that came with them", () => {
    const server = singleServer(1);
    const session = openSession(server);
    const whole = sequence([Buffer.from("x")]);
    const wrong = Array.from({ length: whole.length }, (_, length) => whole.subarray(0, length));
    wrong.push(...wrong.slice(1).map((part) => Buffer.concat([whole, part])));
    wrong.push(...[1, "x", null, [whole], { x: whole }].map((value) => sequence([value, whole])));
    const good = sequence([askStore("put", Buffer.from("k"), Buffer.from("v"))]);
    const all = [good, ...wrong, good];
    const answers = sendRequests(
      server,
      all.map((commands, i) => message("Commands", 10 + i, session, i + 1, 0, commands)),
    );
    expect(answers).toEqual([
      "Outcomes \x01",
      ...wrong.map(() => "Refused it has no commands"),
      "Outcomes \x01",
    ]);
    expect(server.reasons).toEqual([]);
  });

  test("is not delayed by a client that claims to have seen a huge number of answers", () => {
    const server = singleServer(1);
    const session = openSession(server);
    // The real limit is 2**47, but then a failure of this test would take forever.
    const seen = 1e8;
    server.client.send(
      message("Commands", 2, ...commandsOf([session, seen + 1, seen], Buffer.from("x"))),
    );
    const begin = performance.now();
    server.simulation.run(50);
    expect(performance.now() - begin).toBeLessThan(200);
    isServing(server);
  });

  test("is not stopped by a redirection to an invalid address", () => {
    const server = singleServer(1, "peer");
    const operation = server.node.read(askStore("get", Buffer.from("k")));
    for (let id = 0; id < 5; id += 1) {
      server.client.send(message("NotLeader", id, "elsewhere", "no address"));
    }
    server.simulation.run(50);
    server.simulation.settle(operation);
    isServing(server);
  });
});
