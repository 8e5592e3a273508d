/**
 * Tests that a command is applied once, however often it is sent (thesis §6.3), and that a table of
 * sessions restored from a snapshot answers every later command as the original does: both get the
 * same random histories, and are compared answer by answer.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Entry, readSession, Sessions } from "../../raft.ts";
import { applyTo, makeEntry, packed } from "../support/entries.ts";
import { forSeeds, isReplay, type Random, randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { makeCommand } from "../support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

const MAX_SESSIONS = 10_000;
const ENDED = "refused: the session has ended, or never was";
const SEEN = "refused: the client has already seen the answer";

/**
 * Counts the commands it applies. Each answer tells the count, so a command applied twice shows.
 */
class Counter {
  constructor(private count = 0) {}

  apply(command: Uint8Array): Uint8Array {
    this.count += 1;
    return Buffer.from(`${this.count} ${Buffer.from(command)}`);
  }

  copy(): Counter {
    return new Counter(this.count);
  }
}

type Replica = { sessions: Sessions; machine: Counter };

const restored = ({ sessions, machine }: Replica): Replica => {
  const copy = { sessions: new Sessions(), machine: machine.copy() };
  for (const session of sessions.snapshot()) copy.sessions.restore(session);
  return copy;
};

const apply = ({ sessions, machine }: Replica, entry: Entry): string[] =>
  applyTo(sessions, entry, machine);

/**
 * A client as the table knows it. Serial numbers overtake each other, and acknowledged ones come
 * again.
 */
type Client = { id: number; sequence: number; acknowledged: number };

function drawCommand(client: Client, random: Random): Buffer {
  const back = Math.floor(8 * random() ** 2);
  client.sequence += random() < 0.6 ? 1 : 0;
  const sequence = Math.max(0, client.sequence + (random() < 0.1 ? 2 : 0) - back);
  if (random() < 0.3) {
    client.acknowledged = Math.max(client.acknowledged, client.sequence - Math.floor(5 * random()));
  }
  const acknowledged = random() < 0.2 ? 0 : client.acknowledged;
  return makeCommand([client.id, sequence, acknowledged], Buffer.from(`${client.id}:${sequence}`));
}

/**
 * Draws the next entry of a history: mostly commands of a few old and new clients, or a new
 * session.
 */
function drawEntry(index: number, clients: Client[], random: Random): Entry {
  if (random() < 0.3) {
    clients.push({ id: index, sequence: 0, acknowledged: 0 });
    return makeEntry(index, 1, "session");
  }
  const draw = () => {
    const place = random() < 0.5 ? random() * 40 : clients.length * random();
    return clients[Math.floor(place)] ?? { id: 1e9, sequence: 1, acknowledged: 0 };
  };
  const commands = Array.from({ length: 1 + 3 * random() }, () => drawCommand(draw(), random));
  return makeEntry(index, 1, "commands", Buffer.concat(commands));
}

/** Returns a table with that many sessions, some with a command applied. */
function filled(sessions: number, clients: Client[]): Replica {
  const replica = { sessions: new Sessions(), machine: new Counter() };
  for (let index = 1; index <= sessions; index += 1) {
    clients.push({ id: index, sequence: 0, acknowledged: 0 });
    apply(replica, makeEntry(index, 1, "session"));
  }
  return replica;
}

test("the table applies all requests of one entry, as earlier versions put them together", () => {
  const replica = filled(2, []);
  const requests = [[1, "x"], [2, "y"]] as const;
  const version5 = requests.map(([id, text]) => makeCommand([id, 1, 0], Buffer.from(text)));
  expect(apply(replica, makeEntry(3, 1, "commands", Buffer.concat(version5)))).toEqual([
    "1 x",
    "2 y",
  ]);
  const version4 = requests.map(([id, text]) => packed([id, 2, 0], 6, text));
  expect(apply(replica, makeEntry(4, 1, "commands", Buffer.concat(version4)))).toEqual([
    "3 x",
    "4 y",
  ]);
});

describe("sessions that are restored from a snapshot", () => {
  test("answer every later command as the original does, evictions included", () => {
    const seen = { ended: 0, seen: 0, repeated: 0, evicted: 0 };
    forSeeds(8, (random) => {
      const clients: Client[] = [];
      const begin = MAX_SESSIONS - Math.floor(60 * random());
      const original = filled(begin, clients);
      const copies: Replica[] = [];
      const answers = new Set<string>();
      for (let index = begin + 1; index <= begin + 600; index += 1) {
        // Takes a snapshot now and then, of the original or of an earlier copy.
        if (random() < 0.005) {
          const from = copies[Math.floor((copies.length + 1) * random())] ?? original;
          copies.push(restored(from));
        }
        const entry = drawEntry(index, clients, random);
        const outcomes = apply(original, entry);
        for (const copy of copies) expect(apply(copy, entry).join("\n")).toBe(outcomes.join("\n"));
        for (const outcome of outcomes) {
          if (outcome === ENDED) seen.ended += 1;
          else if (outcome === SEEN) seen.seen += 1;
          else if (answers.has(outcome)) seen.repeated += 1;
          answers.add(outcome);
        }
      }
      seen.evicted += clients.length - original.sessions["open"].size;
      expect(original.sessions["open"].size).toBe(MAX_SESSIONS);
      const whole = JSON.stringify(original.sessions.snapshot());
      for (const { sessions } of copies) {
        expect(JSON.stringify(sessions.snapshot()) === whole).toBe(true);
      }
    });
    if (!isReplay) expect(Math.min(...Object.values(seen))).toBeGreaterThan(50);
  });

  test("end in the order of their last use, which the snapshot keeps", () => {
    const clients: Client[] = [];
    const original = filled(MAX_SESSIONS, clients);
    const use = (id: number, index: number) =>
      makeEntry(index, 1, "commands", makeCommand([id, index, 0], Buffer.from("x")));
    // The first session is used before the snapshot, the second one after it.
    apply(original, use(1, 20_000));
    const copy = restored(original);
    for (const replica of [original, copy]) {
      apply(replica, use(2, 20_001));
      apply(replica, use(1, 20_002));
      for (let index = 20_003; index < 20_003 + MAX_SESSIONS - 1; index += 1) {
        apply(replica, makeEntry(index, 1, "session"));
      }
      expect(apply(replica, use(1, 40_000))[0]).not.toBe(ENDED);
      expect(apply(replica, use(2, 40_001))).toEqual([ENDED]);
    }
  });

  test("are read as version 4 packed them: the session, then each answer", () => {
    const [session, answers] = [
      packed([3, 5, 9], 1),
      [6, 7].map((n) => packed([6, 0, n], 1, `${n}`)),
    ];
    expect(readSession(Buffer.concat([session, ...answers]))).toEqual([
      9,
      5,
      [[6, [Buffer.from("6")]], [7, [Buffer.from("7")]]],
    ]);
    expect(readSession(session)).toEqual([9, 5, []]);
  });
});

describe("Sessions (thesis §6.3)", () => {
  test("a client that claims to have seen 2^48 answers costs no more than any other", () => {
    const sessions = new Sessions();
    const machine = { apply: () => new Uint8Array(), query: () => new Uint8Array() };
    applyTo(sessions, makeEntry(1, 1, "session"), machine);
    const command = makeCommand([1, 1, 2 ** 48 - 1], new Uint8Array());
    expect(applyTo(sessions, makeEntry(2, 1, "commands", command), machine)).toEqual([SEEN]);
  });

  /** Returns a table whose machine counts: an answer tells how many commands were applied. */
  const counting = () => {
    let applied = 0;
    const machine = {
      apply: (command: Uint8Array) => {
        applied += 1;
        return Buffer.from(`${Buffer.from(command)} ${applied}`);
      },
      query: () => new Uint8Array(),
    };
    const sessions = new Sessions();
    let index = 0;
    const apply = (kind: Entry["kind"], data: Uint8Array) => {
      index += 1;
      return applyTo(sessions, makeEntry(index, 1, kind, data), machine).join();
    };
    return {
      /** Opens a session: its id is the index of its entry. */
      open: () => {
        apply("session", new Uint8Array());
        return index;
      },
      command: (id: number, sequence: number, acknowledged = 0) =>
        apply("commands", makeCommand([id, sequence, acknowledged], Buffer.from(`#${sequence}`))),
      noop: () => apply("noop", new Uint8Array()),
      applied: () => applied,
    };
  };

  test("an empty answer is an answer like any other", () => {
    const sessions = new Sessions();
    let applied = 0;
    const apply = () => {
      applied += 1;
      return new Uint8Array();
    };
    const machine = { apply, query: apply };
    applyTo(sessions, makeEntry(1, 1, "session"), machine);
    const command = makeCommand([1, 1, 0], new Uint8Array());
    for (const index of [2, 3]) {
      expect(applyTo(sessions, makeEntry(index, 1, "commands", command), machine)).toEqual([""]);
    }
    expect(applied).toBe(1);
  });

  test("commands of a session that arrive out of order are all applied", () => {
    const { open, command } = counting();
    const id = open();
    expect([3, 1, 2].map((sequence) => command(id, sequence))).toEqual(["#3 1", "#1 2", "#2 3"]);
    expect([1, 2, 3].map((sequence) => command(id, sequence))).toEqual(["#1 2", "#2 3", "#3 1"]);
  });

  test("an acknowledged answer is dropped, and its command is still not applied again", () => {
    const { open, command, applied } = counting();
    const id = open();
    for (const sequence of [1, 2, 3]) command(id, sequence);
    expect(command(id, 4, 2)).toBe("#4 4");
    for (const sequence of [1, 2]) expect(command(id, sequence)).toStartWith("refused: ");
    expect(command(id, 3)).toBe("#3 3");
    expect(applied()).toBe(4);
  });

  test("an acknowledgement is not revoked by a delayed request", () => {
    const { open, command, applied } = counting();
    const id = open();
    command(id, 1);
    command(id, 2, 1);
    command(id, 3, 0);
    expect(command(id, 1)).toStartWith("refused: ");
    expect(applied()).toBe(3);
  });

  test("each session has its own sequence numbers", () => {
    const { open, command } = counting();
    const [first, second] = [open(), open()];
    expect([first, second].map((id) => command(id, 1))).toEqual(["#1 1", "#1 2"]);
  });

  test("a command of an unknown session is an error, and is not applied", () => {
    const { open, command, noop, applied } = counting();
    const id = open();
    expect(noop()).toBe("");
    expect(command(id + 1, 1)).toStartWith("refused: ");
    expect(command(0, 1)).toStartWith("refused: ");
    expect(applied()).toBe(0);
  });

  const MAX = 10_000;
  const fullTable = () => {
    const all = counting();
    const [first, second, third] = [all.open(), all.open(), all.open()];
    for (let i = 3; i < MAX; i += 1) all.open();
    all.command(first, 1);
    all.command(third, 1);
    return { ...all, ids: [first, second, third] };
  };

  test("beyond the limit, the least recently used session ends", () => {
    const { open, command, ids } = fullTable();
    expect(ids.map((id) => command(id, 2))).not.toContainEqual(expect.stringMatching("refused"));
    const fourth = (ids.at(-1) ?? 0) + 1;
    open();
    expect(command(fourth, 1)).toStartWith("refused: ");
    expect(ids.map((id) => command(id, 3))).not.toContainEqual(expect.stringMatching("refused"));
  });

  test("equal logs end equal sessions", () => {
    const [original, copy] = [fullTable(), fullTable()];
    const answers = [original, copy].map(({ open, command, ids }) => {
      const random = randomFrom(7);
      const used: string[] = [];
      for (let i = 0; i < 3_000; i += 1) {
        if (random() < 0.5) open();
        else used.push(command(Math.ceil(random() * (MAX + i)), i));
      }
      return [...used, ...ids.map((id) => command(id, 9))];
    });
    expect(answers[0]).toEqual(answers[1] ?? []);
    const errors = answers[0]?.filter((answer) => answer.startsWith("refused")).length ?? 0;
    expect(errors).toBeGreaterThan(100);
    expect(errors).toBeLessThan(1_400);
  });
});
