/**
 * Tests that a command is applied once, however often it is sent (thesis §6.3), and that a table of
 * sessions restored from a snapshot answers every later command as the original does: both get the
 * same random histories, and are compared answer by answer.
 */
import { encode } from "@msgpack/msgpack";
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Entry, FairTable, readSession, type SessionRecord, Sessions } from "../../raft.ts";
import { applyTo, makeEntry, openingEntry } from "../support/entries.ts";
import { forSeeds, isReplay, type Random, randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { makeCommand, makeCommandOfVersion5 } from "../support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

const MAX_SESSIONS = 10_000;
const MAX_SESSIONS_PER_OWNER = 1_000;
const MAX_UNACKNOWLEDGED = 4_096;
const MAX_UNACKNOWLEDGED_BYTES = 16 << 20;
const ENDED = "refused: the session has ended, or never was";
const SEEN = "refused: the client has the answer, or has given it up";
const FULL = "refused: the session is full until its client acknowledges answers";

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
  for (const record of sessions.snapshot()) copy.sessions.restore(record);
  return copy;
};

const contents = ({ sessions }: Replica) => JSON.stringify([...sessions.snapshot()]);

const apply = ({ sessions, machine }: Replica, entry: Entry): string[] =>
  applyTo(sessions, entry, machine);

/**
 * A client as the table knows it. Serial numbers overtake each other, and acknowledged ones come
 * again.
 */
type Client = { owner: string; id: number; sequence: number; acknowledged: number };

const newClient = (id: number, owner = "client"): Client => ({
  owner,
  id,
  sequence: 0,
  acknowledged: 0,
});

function drawCommand(client: Client, random: Random): Buffer {
  const back = Math.floor(8 * random() ** 2);
  client.sequence += random() < 0.6 ? 1 : 0;
  const sequence = Math.max(0, client.sequence + (random() < 0.1 ? 2 : 0) - back);
  if (random() < 0.3) {
    client.acknowledged = Math.max(client.acknowledged, client.sequence - Math.floor(5 * random()));
  }
  const acknowledged = random() < 0.5 ? 0 : client.acknowledged;
  const numbers = [client.id, sequence, acknowledged] as const;
  const command = Buffer.from(`${client.id}:${sequence}`);
  if (client.owner === "") return makeCommandOfVersion5(numbers, command);
  // Now and then another client uses the session.
  return makeCommand(numbers, command, random() < 0.05 ? "thief" : client.owner);
}

/**
 * Draws the next entry of a history: mostly commands of a few old and new clients, or a new
 * session.
 */
function drawEntry(index: number, clients: Client[], random: Random): Entry {
  if (random() < 0.3) {
    const owner = `owner ${Math.floor(20 * random() ** 2)}`;
    clients.push(newClient(index, owner));
    // Some clients open their session again.
    return openingEntry(index, owner, random() < 0.1 ? index - 1 : index);
  }
  const draw = () => {
    const place = random() < 0.5 ? random() * 40 : clients.length * random();
    return clients[Math.floor(place)] ?? newClient(1e9);
  };
  const commands = Array.from({ length: 1 + 3 * random() }, () => drawCommand(draw(), random));
  return makeEntry(index, 1, "commands", Buffer.concat(commands));
}

const empty = (): Replica => ({ sessions: new Sessions(), machine: new Counter() });

/** Returns a table with that many sessions, of twenty owners. */
function filled(sessions: number, clients: Client[]): Replica {
  const replica = empty();
  for (let index = 1; index <= sessions; index += 1) {
    const owner = `owner ${index % 20}`;
    clients.push(newClient(index, owner));
    apply(replica, openingEntry(index, owner));
  }
  return replica;
}

describe("the entries of version 5, which knew no owners and no bounds", () => {
  const version5 = (id: number, sequence: number, acknowledged: number, text: string) =>
    makeCommandOfVersion5([id, sequence, acknowledged], Buffer.from(text));

  test("have several requests, which are all applied", () => {
    const replica = empty();
    for (const index of [1, 2]) apply(replica, makeEntry(index, 1, "session"));
    const data = Buffer.concat([version5(1, 1, 0, "x"), version5(2, 1, 0, "y")]);
    expect(apply(replica, makeEntry(3, 1, "commands", data))).toEqual(["1 x", "2 y"]);
  });

  /** Numbers of 6 bytes, the length of the data (4 bytes), the data. */
  function packed(numbers: readonly number[], data: string, kind: readonly number[] = []): Buffer {
    const bytes = Buffer.alloc(6 * numbers.length + 4);
    for (const [i, number] of numbers.entries()) bytes.writeUIntBE(number, 6 * i, 6);
    bytes.writeUInt32BE(data.length, 6 * numbers.length);
    return Buffer.concat([Buffer.from(kind), bytes, Buffer.from(data)]);
  }

  test("are as version 4 packed them, if version 5 only took them over", () => {
    const replica = empty();
    for (const index of [1, 2]) apply(replica, makeEntry(index, 1, "session"));
    const data = Buffer.concat([packed([1, 1, 0], "x"), packed([2, 1, 0], "y")]);
    expect(apply(replica, makeEntry(3, 1, "commands", data))).toEqual(["1 x", "2 y"]);
    expect(apply(replica, makeEntry(4, 1, "commands", version5(2, 1, 0, "y")))).toEqual(["2 y"]);
  });

  test("give the same sessions from the log as from a snapshot of version 4", () => {
    const replayed = empty();
    apply(replayed, makeEntry(2, 1, "session"));
    apply(replayed, makeEntry(3, 1, "commands", packed([2, 6, 5], "x")));
    // The record of a session with its id and the last acknowledged request, then the answers.
    const data = Buffer.concat([packed([5, 2], "", [3]), packed([1, 6], "1 x", [4])]);
    const restored = new Sessions();
    for (const record of readSession(data)) restored.restore(record);
    expect([...restored.snapshot()]).toEqual([...replayed.sessions.snapshot()]);
  });

  test("are applied as version 5 applied them, also after its bounds were reached", () => {
    const replica = empty();
    const applyOne = (data: Buffer) => apply(replica, makeEntry(20_000, 1, "commands", data))[0];
    for (let index = 1; index <= 10_001; index += 1) {
      apply(replica, makeEntry(index, 1, "session"));
    }
    expect(applyOne(version5(1, 1, 0, "x"))).toBe(ENDED);
    for (let sequence = 1; sequence <= 5_000; sequence += 1) {
      expect(applyOne(version5(2, sequence, 0, "x"))).toBe(`${sequence} x`);
    }
    expect(applyOne(version5(2, 1, 0, "x"))).toBe("1 x");
    expect(applyOne(version5(2, 6_000, 7_000, "x"))).toBe(SEEN);
    expect(applyOne(version5(2, 6_500, 0, "x"))).toBe(SEEN);
  });

  test("give the same sessions from the log as from a snapshot of version 5", () => {
    const replayed = empty();
    for (const index of [1, 2, 3]) apply(replayed, makeEntry(index, 1, "session"));
    apply(replayed, makeEntry(4, 1, "commands", version5(2, 6, 5, "x")));
    apply(replayed, makeEntry(5, 1, "commands", version5(2, 7, 5, "y")));
    apply(replayed, makeEntry(6, 1, "commands", version5(1, 1, 0, "z")));
    // As version 5 wrote them: [id, acknowledged, [sequence, outcomes][]] each.
    const sessions = [
      [3, 0, []],
      [2, 5, [[6, [Buffer.from("1 x")]], [7, [Buffer.from("2 y")]]]],
      [1, 0, [[1, [Buffer.from("3 z")]]]],
    ];
    const restored = { sessions: new Sessions(), machine: replayed.machine.copy() };
    for (const session of sessions) {
      for (const record of readSession(Buffer.from(encode(session)))) {
        restored.sessions.restore(record);
      }
    }
    for (const { sessions } of [replayed, restored]) {
      expect(recordsOf(sessions)).toEqual([
        ["", 3, 3, 0],
        ["", 2, 2, 5],
        [6, ["1 x"]],
        [7, ["2 y"]],
        ["", 1, 1, 0],
        [1, ["3 z"]],
      ]);
    }
  });

  test("give sessions that no client of this version can use", () => {
    const replica = empty();
    apply(replica, makeEntry(1, 1, "session"));
    const command = makeCommand([1, 1, 0], Buffer.from("x"), "client client 1");
    expect(apply(replica, makeEntry(2, 1, "commands", command))).toEqual([ENDED]);
  });
});

/** Returns the records of a snapshot, with the outcomes as text. */
const recordsOf = (sessions: Sessions) =>
  [...sessions.snapshot()].map((record) =>
    record.length === 2
      ? [record[0], record[1].map((outcome) => `${Buffer.from(outcome as Uint8Array)}`)]
      : record
  );

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
      seen.evicted += clients.length - original.sessions["table"]["size"];
      expect(original.sessions["table"]["size"]).toBe(MAX_SESSIONS);
      const whole = contents(original);
      for (const copy of copies) expect(contents(copy) === whole).toBe(true);
    });
    if (!isReplay) expect(Math.min(...Object.values(seen))).toBeGreaterThan(50);
  });

  test("end in the order of their last use, which the snapshot keeps", () => {
    const original = empty();
    for (let index = 1; index <= MAX_SESSIONS; index += 1) {
      apply(original, openingEntry(index, `owner ${index}`));
    }
    const use = (id: number, index: number) =>
      makeEntry(
        index,
        1,
        "commands",
        makeCommand([id, index, index - 1], Buffer.from("x"), `owner ${id}`),
      );
    // The first session is used before the snapshot, the second one after it.
    apply(original, use(1, 20_000));
    const copy = restored(original);
    for (const replica of [original, copy]) {
      apply(replica, use(2, 20_001));
      apply(replica, use(1, 20_002));
      for (let index = 20_003; index < 20_003 + MAX_SESSIONS - 1; index += 1) {
        apply(replica, openingEntry(index, `owner ${index}`));
      }
      expect(apply(replica, use(1, 40_000))[0]).toEndWith(" x");
      expect(apply(replica, use(2, 40_001))).toEqual([ENDED]);
    }
  });
});

describe("a snapshot of sessions", () => {
  test("does not show later commands", () => {
    const replica = filled(3, []);
    const use = (index: number, sequence: number, acknowledged: number) => {
      const numbers = [1, sequence, acknowledged] as const;
      const command = makeCommand(numbers, Buffer.from(`#${sequence}`), "owner 1");
      apply(replica, makeEntry(index, 1, "commands", command));
    };
    for (const sequence of [1, 2]) use(sequence + 3, sequence, 0);
    const before = contents(replica);
    const [first, second] = [replica.sessions.snapshot(), replica.sessions.snapshot()];
    use(6, 3, 1);
    use(7, 4, 3);
    const third = replica.sessions.snapshot();
    use(8, 5, 4);
    apply(replica, openingEntry(9, "owner 1"));
    for (const records of [first, second]) expect(JSON.stringify([...records])).toBe(before);
    expect([...third].filter((record) => record.length === 2)).toEqual([[4, [
      Buffer.from("4 #4"),
    ]]]);
  });

  test("of the largest session is made of small records, each when it is asked for", () => {
    const sessions = new Sessions();
    const answers = Array.from({ length: 255 }, () => Buffer.alloc(64_000));
    const machine = { apply: () => answers[0] ?? Buffer.alloc(0) };
    applyTo(sessions, openingEntry(1), machine);
    const commands = answers.map(() => encode(Buffer.of(1)));
    const data = Buffer.from(encode(["client", 1, 1, 0, Buffer.concat(commands)]));
    applyTo(sessions, makeEntry(2, 1, "commands", data), machine);
    const records = [...sessions.snapshot()];
    expect(records).toHaveLength(1 + answers.length);
    const sizes = records.map((record) => encode(record).length);
    expect(Math.max(...sizes)).toBeLessThan(64_100);
    expect(sizes.reduce((a, b) => a + b)).toBeGreaterThan(15 << 20);
    const later: SessionRecord[] = [];
    for (const record of sessions.snapshot()) {
      // A session that changes meanwhile does not change in the snapshot.
      const next = makeCommand([1, 2, 1], Buffer.of(1));
      if (later.length === 0) applyTo(sessions, makeEntry(3, 1, "commands", next), machine);
      later.push(record);
    }
    expect(later).toEqual(records);
  });
});

describe("Sessions (thesis §6.3)", () => {
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
    const apply = (kind: Entry["kind"], data: Uint8Array = Buffer.alloc(0)) => {
      index += 1;
      return applyTo(sessions, makeEntry(index, 1, kind, data), machine).join();
    };
    return {
      sessions,
      /** Opens a session: its id is the index of its entry, unless a session is found. */
      open: (owner = "client", nonce = index + 1) => {
        index += 1;
        return Number(applyTo(sessions, openingEntry(index, owner, nonce), machine).join());
      },
      command: (id: number, sequence: number, acknowledged = 0, owner = "client") => {
        const data = Buffer.from(`#${sequence}`);
        return apply("commands", makeCommand([id, sequence, acknowledged], data, owner));
      },
      noop: () => apply("noop"),
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
    applyTo(sessions, openingEntry(1), machine);
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

  test("a command of another owner's session is an error, and is not applied", () => {
    const { open, command, applied } = counting();
    const [mine, other] = [open("mine"), open("other")];
    expect(command(mine, 1, 0, "other")).toBe(ENDED);
    expect(command(other, 1, 0, "")).toBe(ENDED);
    // In particular, it takes no sequence number and acknowledges nothing.
    expect(command(mine, 9, 8, "other")).toBe(ENDED);
    expect(applied()).toBe(0);
    expect(command(mine, 1, 0, "mine")).toBe("#1 1");
  });

  test("a repeated opening finds its session, and its commands are not applied again", () => {
    const { open, command, applied } = counting();
    const id = open("client", 1e9);
    expect(command(id, 1)).toBe("#1 1");
    expect(open("client", 1e9)).toBe(id);
    expect(command(id, 1)).toBe("#1 1");
    expect(open("client", 1e9 + 1)).not.toBe(id);
    expect(open("other", 1e9)).not.toBe(id);
    expect(applied()).toBe(1);
  });

  test("a late opening of a session that has ended gets another id", () => {
    const { open, command } = counting();
    const id = open("client", 1e9);
    for (let i = 0; i < MAX_SESSIONS_PER_OWNER; i += 1) open();
    expect(command(id, 1)).toBe(ENDED);
    const late = open("client", 1e9);
    expect(late).not.toBe(id);
    expect(command(id, 1)).toBe(ENDED);
    expect(command(late, 1)).toBe("#1 1");
  });

  test("a request that acknowledges its own answer is refused, and has no effect", () => {
    const { open, command, applied } = counting();
    const id = open();
    command(id, 1);
    for (const acknowledged of [2, 3, 2 ** 48 - 1]) {
      expect(command(id, 2, acknowledged)).toBe("refused: it acknowledges its own answer");
    }
    expect(command(id, 1)).toBe("#1 1");
    expect(command(id, 2, 1)).toBe("#2 2");
    expect(applied()).toBe(2);
  });

  test("a new request is refused while the client acknowledges too few, and no answer is lost", () => {
    const { open, command, applied } = counting();
    const id = open();
    for (let n = 1; n <= MAX_UNACKNOWLEDGED; n += 1) expect(command(id, n)).toBe(`#${n} ${n}`);
    const next = MAX_UNACKNOWLEDGED + 1;
    expect(command(id, next)).toBe(FULL);
    for (let n = 1; n <= MAX_UNACKNOWLEDGED; n += 1) expect(command(id, n)).toBe(`#${n} ${n}`);
    expect(applied()).toBe(MAX_UNACKNOWLEDGED);
    expect(command(id, next, 1)).toBe(`#${next} ${next}`);
    expect(command(id, next + 1, 1)).toBe(FULL);
    expect(command(id, 2 ** 47, 1)).toBe(FULL);
    expect(command(id, 2, 1)).toBe("#2 2");
    expect(command(id, next + 1, next)).toBe(`#${next + 1} ${next + 1}`);
  });

  test("a request is refused because of earlier ones, and never because of later ones", () => {
    const { open, command } = counting();
    const id = open();
    for (let n = 2; n <= MAX_UNACKNOWLEDGED; n += 1) command(id, n);
    expect(command(id, MAX_UNACKNOWLEDGED + 1)).toBe(FULL);
    expect(command(id, 1)).toBe(`#1 ${MAX_UNACKNOWLEDGED}`);
  });

  /** Returns a function that applies commands in one session, with answers of these lengths. */
  const withAnswers = () => {
    const sessions = new Sessions();
    let index = 1;
    applyTo(sessions, openingEntry(index), { apply: () => Buffer.alloc(0) });
    return (sequence: number, acknowledged: number, lengths: readonly number[]) => {
      index += 1;
      const left = [...lengths];
      const commands = Buffer.concat(lengths.map(() => encode(Buffer.of(1))));
      const data = Buffer.from(encode(["client", 1, sequence, acknowledged, commands]));
      return applyTo(sessions, makeEntry(index, 1, "commands", data), {
        apply: () => Buffer.alloc(left.shift() ?? 0, "a"),
      });
    };
  };

  test("a new request is refused while the unacknowledged answers take too much memory", () => {
    const apply = withAnswers();
    const large = "a".repeat(64_000);
    let sequence = 0;
    for (; sequence < 2 * MAX_UNACKNOWLEDGED_BYTES / 64_000; sequence += 1) {
      const [answer] = apply(sequence + 1, 0, [64_000]);
      if (answer === FULL) break;
      expect(answer === large).toBe(true); // A request of one command always has its answer.
    }
    expect(sequence).toBe(Math.floor(MAX_UNACKNOWLEDGED_BYTES / 64_064));
    expect(apply(1, 0, [])[0]).toBe("refused: it has no commands");
    for (let n = 1; n <= sequence; n += 1) expect(apply(n, 0, [5])[0] === large).toBe(true);
    expect(apply(sequence + 1, 1, [64_000])[0] === large).toBe(true);
    expect(apply(sequence + 2, 1, [5])).toEqual([FULL]);
    expect(apply(sequence + 2, sequence + 1, [5])).toEqual(["aaaaa"]);
  });

  test("of a request with more answers than there is room, the rest is applied without", () => {
    const apply = withAnswers();
    const answers = apply(1, 0, [...Array.from({ length: 300 }, () => 60_000), 5, 0]);
    const fitting = Math.floor(MAX_UNACKNOWLEDGED_BYTES / 60_064);
    expect(answers.slice(0, fitting).every((answer) => answer.length === 60_000)).toBe(true);
    expect(answers[fitting]).toMatch(
      /^applied: its answer has 60000 bytes, and there is room for [0-9]+. Ask for it in parts$/,
    );
    expect(answers.slice(-2)).toEqual(["aaaaa", ""]); // These two fit again.
    expect(apply(1, 0, [7]).slice(-1)).toEqual([""]);
    expect(apply(2, 0, [5])).toEqual([FULL]);
    expect(apply(2, 1, [5])).toEqual(["aaaaa"]);
  });

  test("beyond its bound an owner loses its own least recently used session", () => {
    const { open, command } = counting();
    const other = open("other");
    const ids = Array.from({ length: MAX_SESSIONS_PER_OWNER }, () => open());
    const [first = 0, second = 0, third = 0] = ids;
    command(first, 1);
    command(third, 1);
    open();
    expect(command(second, 1)).toBe(ENDED);
    for (const id of [first, third]) expect(command(id, 2)).toStartWith("#2");
    expect(command(other, 1, 0, "other")).toStartWith("#1");
  });

  /** Returns a full table: "small" has one session, "many" has a hundred, all others two each. */
  const fullTable = () => {
    const all = counting();
    const small = all.open("small");
    const many = Array.from({ length: 100 }, () => all.open("many"));
    const others = Array.from({ length: MAX_SESSIONS - 101 }, (_, i) => all.open(`${i >> 1}`));
    return { ...all, small, many, others };
  };

  test("beyond the bound in all, the owner with most loses its least recently used one", () => {
    const { open, command, small, many, others } = fullTable();
    command(many[0] ?? 0, 1, 0, "many");
    for (let i = 0; i < 98; i += 1) open("new");
    // Of the hundred sessions of "many", those that were used lately remain.
    expect(many.map((id) => command(id, 2, 0, "many") !== ENDED)).toEqual(
      many.map((_, i) => i === 0 || i >= 51),
    );
    expect(command(small, 1, 0, "small")).toStartWith("#1");
    for (const i of [0, 1, 9_000]) {
      expect(command(others[i] ?? 0, 1, 0, `${i >> 1}`)).not.toBe(ENDED);
    }
  });

  test("equal logs end equal sessions", () => {
    const [original, copy] = [fullTable(), fullTable()];
    const answers = [original, copy].map(({ open, command }) => {
      const random = randomFrom(7);
      const used: string[] = [];
      for (let i = 0; i < 3_000; i += 1) {
        const owner = Math.floor(20 * random());
        if (random() < 0.5) open(`${owner}`);
        else used.push(command(102 + 2 * owner, i, 0, `${owner}`));
      }
      return used;
    });
    expect(answers[0]).toEqual(answers[1] ?? []);
    const errors = answers[0]?.filter((answer) => answer.startsWith("refused")).length ?? 0;
    expect(errors).toBeGreaterThan(100);
    expect(errors).toBeLessThan(1_400);
  });
});

describe("a table with fair bounds", () => {
  const add = (table: FairTable<{ owner: string; id: number }>, ...values: string[]) => {
    for (const value of values) {
      const [owner = "", id] = value.split(":");
      table.use({ owner, id: Number(id) });
    }
    return [...table.owners].map(([owner, ids]) => `${owner}:${[...ids.keys()]}`).join(" ");
  };

  test("evicts from the owner that is over its bound, and else from the owner with most", () => {
    expect(add(new FairTable(9, 2), "a:1", "b:1", "a:2", "a:3")).toBe("b:1 a:2,3");
    expect(add(new FairTable(3, 2), "a:1", "a:2", "b:1", "c:1")).toBe("a:2 b:1 c:1");
  });

  test("evicts the least recently used value, and forgets an owner with its last value", () => {
    expect(add(new FairTable(9, 2), "a:1", "a:2", "a:1", "a:3")).toBe("a:1,3");
    expect(add(new FairTable(2, 2), "a:1", "b:1", "a:1", "c:1")).toBe("a:1 c:1");
  });

  test("never evicts for a value that it has already", () => {
    const table = new FairTable<{ owner: string; id: number }>(2, 1);
    expect(add(table, "a:1", "b:1", "a:1", "b:1", "a:1")).toBe("b:1 a:1");
  });
});
