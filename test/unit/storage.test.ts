/**
 * Tests that a restarted server still has all that it promised: after a kill, a power cut, or a
 * failure of the disk.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, statSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import {
  encodeFrame,
  encodeRecord,
  type Entry,
  type Files,
  type HardState,
  type Position,
  RaftError,
  readRequests,
  Storage,
  systemWorld,
} from "../../raft.ts";
import { configuration } from "../support/core.ts";
import { Disk, type Fault, type Keep, type Operation } from "../support/disk.ts";
import { type LogRecord, makeEntry, membersEntry } from "../support/entries.ts";
import { forSeeds, isReplay, type Random, randomFrom } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { makeCommandOfVersion5 } from "../support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

const founder = { cluster: "test", name: "a", members: ["a", "b", "c"] };
const LOG = "data/log";

/** What the disk must remember. */
type State = HardState & { entries: readonly Entry[] };
const show = ({ currentTerm, votedFor, commitIndex, entries }: State) => ({
  currentTerm,
  votedFor,
  commitIndex,
  entries: entries.map(({ index, term, kind, data }) =>
    `${index} of term ${term}: ${kind} ${data.toString("hex")}`
  ),
});
const remembered = ({ hardState, entries }: Storage) => show({ ...hardState, entries });
const NOTHING: State = { currentTerm: 0, votedFor: undefined, commitIndex: 0, entries: [] };

/**
 * Returns the state after `change` is saved: its entries replace the entries from their index on.
 */
function after(before: State, change: State): State {
  const first = change.entries[0]?.index ?? before.entries.length + 1;
  return { ...change, entries: [...before.entries.slice(0, first - 1), ...change.entries] };
}

const command = (index: number, term: number, data: string | Uint8Array) =>
  makeEntry(index, term, "commands", Buffer.from(data));

const start = (disk: Disk, random = randomFrom(7), identity = founder) =>
  new Storage(disk.files(), "data", identity, random);

/** Returns the error that an action throws. Fails if it throws none. */
function errorOf(action: () => unknown): RaftError {
  try {
    action();
  } catch (error) {
    expect(error).toBeInstanceOf(RaftError);
    if (error instanceof RaftError) return error;
  }
  throw new Error("The action must throw.");
}

function expectRefusal(action: () => unknown, sentence: string): void {
  const { code, message } = errorOf(action);
  expect(code).toBe("storage");
  expect(message).toContain(sentence);
}

/**
 * Draws what a server saves in one turn: perhaps a new term, a vote, more entries, or entries that
 * replace others.
 */
function drawChange(random: Random, before: State): State {
  const draw = (n: number) => Math.floor(random() * n);
  const isNewTerm = random() < 0.3;
  const currentTerm = before.currentTerm + (isNewTerm || before.currentTerm === 0 ? 1 : 0);
  const kept = currentTerm === before.currentTerm ? before.votedFor : undefined;
  const votedFor = kept ?? [undefined, "a", "b", "a rather long name: ünïcödé"][draw(4)];
  const isConflict = isNewTerm && random() < 0.5;
  const first = isConflict ? 1 + draw(before.entries.length + 1) : before.entries.length + 1;
  const entries = Array.from(
    { length: draw(4) },
    (_, i) =>
      makeEntry(
        first + i,
        currentTerm,
        (["noop", "session", "commands"] as const)[draw(3)] ?? "noop",
        Uint8Array.from({ length: draw(2) * draw(900) }, () => draw(256)),
      ),
  );
  const commitIndex = before.commitIndex + draw(2);
  return { currentTerm, votedFor, commitIndex, entries };
}

const faults: Fault[] = [0, 0.5, 1].flatMap((share) => [
  { code: "ENOSPC", share } as const,
  { code: "EIO", share } as const,
]);
const keeps: Keep[] = ["nothing", "everything", "parts"];

/**
 * Returns where the frames of a log end: each begins with marker, length and checksum, of 4 bytes
 * each.
 */
function frameEnds(log: Buffer = Buffer.alloc(0)): number[] {
  const ends: number[] = [];
  for (let at = 0; at + 12 <= log.length && log.readUInt32BE(at) !== 0; ends.push(at)) {
    at += 12 + log.readUInt32BE(at + 4);
  }
  return ends;
}

/** Returns a log with one frame for each change, where the frames end, and the state after each. */
function smallLog(changes: State[]): { bytes: Buffer; ends: number[]; states: State[] } {
  const disk = new Disk(randomFrom(1));
  const storage = start(disk);
  const states = [NOTHING, NOTHING]; // A new log has two frames.
  for (const change of changes) {
    storage.save(change);
    states.push(after(states.at(-1) ?? NOTHING, change));
  }
  const log = disk.read(LOG) ?? Buffer.alloc(0);
  const ends = frameEnds(log);
  return { bytes: log.subarray(0, ends.at(-1)), ends, states };
}

const fourFrames = () =>
  smallLog([
    { currentTerm: 1, votedFor: "b", commitIndex: 0, entries: [] },
    {
      currentTerm: 1,
      votedFor: "b",
      commitIndex: 0,
      entries: [command(1, 1, "one"), command(2, 1, "two")],
    },
    { currentTerm: 3, votedFor: "c", commitIndex: 0, entries: [command(2, 3, "other")] },
    { currentTerm: 3, votedFor: "c", commitIndex: 0, entries: [command(3, 3, "last")] },
  ]);

/** Returns a log as it is on a disk: with zeros after the last frame. */
const padded = (bytes: Uint8Array) => Buffer.concat([bytes, Buffer.alloc(500)]);

function recover(bytes: Uint8Array): { disk: Disk; storage: Storage } {
  const disk = new Disk(randomFrom(1));
  disk.put(LOG, bytes);
  return { disk, storage: start(disk) };
}

/** A boot number is random, but greater than the last one. */
function expectNextBoot(last: number, next: number): void {
  expect(next).toBeWithin(last + 1, last + 2 ** 20 + 1);
}

describe("what a server finds at its start", () => {
  test("in an empty directory: no term, no vote, no entry, and a first boot", () => {
    const { hardState, entries, identity, cutBytes } = start(new Disk(randomFrom(1)));
    expect(show({ ...hardState, entries })).toEqual(show(NOTHING));
    expect(identity).toMatchObject(founder);
    expectNextBoot(0, identity.boot);
    expect(cutBytes).toBe(0);
  });

  test("every completed save, after any sequence of saves, kills and power cuts", () => {
    let [starts, cuts, conflicts] = [0, 0, 0];
    forSeeds(600, (random) => {
      const disk = new Disk(random);
      let storage = start(disk, random);
      let known = NOTHING;
      for (let step = 0; step < 20; step += 1) {
        if (random() < 0.7) {
          const change = drawChange(random, known);
          if ((change.entries[0]?.index ?? Infinity) <= known.entries.length) conflicts += 1;
          storage.save(change);
          known = after(known, change);
          continue;
        }
        if (random() < 0.3) storage.close();
        else if (random() < 0.5) disk.kill();
        else disk.powerCut((["nothing", "everything", "parts"] as const)[Math.floor(random() * 3)]);
        const { boot, disk: id } = storage.identity;
        storage = start(disk, random);
        expect(remembered(storage)).toEqual(show(known));
        expect(storage.identity).toMatchObject({ ...founder, disk: id });
        expectNextBoot(boot, storage.identity.boot);
        starts += 1;
        cuts += storage.cutBytes;
      }
    });
    // A run without restarts proves nothing. Between two saves there is nothing to cut.
    expect(cuts).toBe(0);
    if (!isReplay) expect(Math.min(starts, conflicts)).toBeGreaterThan(100);
  });

  test("a last command that ends in zeros, as the zeros after it are no part of the log", () => {
    const disk = new Disk(randomFrom(1));
    const entries = [command(1, 1, Buffer.alloc(60_000))];
    const saved = { currentTerm: 1, votedFor: "b", commitIndex: 0, entries };
    start(disk).save(saved);
    disk.kill();
    expect(remembered(start(disk))).toEqual(show(saved));
  });

  test("an interrupted save as a whole, or not at all", () => {
    const outcomes = { lost: 0, kept: 0, cut: 0 };
    forSeeds(600, (random) => {
      const disk = new Disk(random);
      let storage = start(disk, random);
      let known = NOTHING;
      for (let run = 0; run < 6; run += 1) {
        for (let saves = Math.floor(random() * 4); saves > 0; saves -= 1) {
          const change = drawChange(random, known);
          storage.save(change);
          known = after(known, change);
        }
        // The server is killed during the sync: the frame is written, but perhaps not durable.
        const last = drawChange(random, known);
        disk.fault = ({ what }) => {
          if (what === "sync") disk.powerCut("parts");
          return undefined;
        };
        expectRefusal(() => storage.save(last), "killed");
        disk.fault = () => undefined;
        storage = start(disk, random);
        const whole = JSON.stringify(show(after(known, last)));
        const isKept = JSON.stringify(remembered(storage)) === whole;
        if (isKept) known = after(known, last);
        expect(remembered(storage)).toEqual(show(known));
        outcomes[isKept ? "kept" : storage.cutBytes > 0 ? "cut" : "lost"] += 1;
      }
    });
    if (!isReplay) expect(Math.min(...Object.values(outcomes))).toBeGreaterThan(10);
  });

  test("no entry that followed a replaced entry", () => {
    const disk = new Disk(randomFrom(1));
    const storage = start(disk);
    const old = [1, 2, 3].map((index) => command(index, 1, `old ${index}`));
    storage.save({ currentTerm: 1, votedFor: undefined, commitIndex: 0, entries: old });
    storage.save({
      currentTerm: 2,
      votedFor: "b",
      commitIndex: 0,
      entries: [command(2, 2, "new")],
    });
    disk.powerCut("nothing");
    const { entries } = start(disk);
    expect(entries.map(({ data }) => data.toString())).toEqual(["old 1", "new"]);
  });

  test("thousands of entries in order, also from the log that replaces the first one", () => {
    const disk = new Disk(randomFrom(1));
    const entries = Array.from({ length: 2500 }, (_, i) => command(i + 1, 1, `command ${i}`));
    start(disk).save({ currentTerm: 1, votedFor: "a", commitIndex: 0, entries });
    for (let run = 0; run < 3; run += 1) {
      disk.powerCut("nothing");
      expect(remembered(start(disk))).toEqual(
        show({ currentTerm: 1, votedFor: "a", commitIndex: 0, entries }),
      );
    }
  });
});

/**
 * Returns what a start keeps of an unfinished write: as many bytes as its header claims, unless the
 * header is all zeros. The bytes after that may be from an earlier use of the file.
 */
function torn(rest: Buffer): Buffer {
  const header = Buffer.concat([rest], 12);
  return header.equals(Buffer.alloc(12))
    ? Buffer.alloc(0)
    : rest.subarray(0, 12 + header.readUInt32BE(4));
}

describe("recovery of a log", () => {
  const { bytes, ends, states } = fourFrames();
  const [firstEnd = 0, first = 0] = ends; // A new log has two frames.
  const [lastBegin = 0, end = 0] = ends.slice(-2);

  test("keeps all whole frames, and saves the rest in log.cut", () => {
    for (let length = first; length <= bytes.length; length += 1) {
      const whole = ends.findLastIndex((frameEnd) => frameEnd <= length);
      const log = padded(bytes.subarray(0, length));
      const rest = torn(log.subarray(ends[whole]));
      const { disk, storage } = recover(log);
      expect(remembered(storage)).toEqual(show(states[whole] ?? NOTHING));
      expect(storage.cutBytes).toBe(rest.length);
      storage.close();
      disk.powerCut("nothing");
      expect(disk.read("data/log.cut")).toEqual(rest.length > 0 ? rest : undefined);
    }
  });

  test("refuses a log that does not end with zeros, and leaves it alone", () => {
    for (let length = first; length < bytes.length + 12; length += 1) {
      const cut = padded(bytes).subarray(0, length);
      const disk = new Disk(randomFrom(1));
      disk.put(LOG, cut);
      expectRefusal(
        () => start(disk),
        `Cannot use ${LOG}: its end is missing: a log ends with zeros.`,
      );
      expect(disk.read(LOG)).toEqual(cut);
    }
    const { storage } = recover(padded(bytes).subarray(0, bytes.length + 12));
    expect(remembered(storage)).toEqual(show(states.at(-1) ?? NOTHING));
  });

  test("finds zeros at the end even if the power failed while the log grew", () => {
    let grown = 0;
    forSeeds(100, (random) => {
      const disk = new Disk(random);
      const storage = start(disk, random);
      const promise = { currentTerm: 1, votedFor: "a", commitIndex: 0 };
      /** Saves an entry that leaves so many bytes free in the file. */
      const fill = (index: number, countdown: number) => {
        const end = frameEnds(disk.read(LOG)).at(-1) ?? 0;
        const records = [makeEntry(0, 1, "hardState", Buffer.from("a")), command(index, 1, "")];
        const empty = encodeFrame(records).length;
        const length = disk.durableSize(LOG) - end - empty - countdown;
        storage.save({ ...promise, entries: [command(index, 1, Buffer.alloc(length, 7))] });
      };
      fill(1, 500);
      const size = disk.durableSize(LOG);
      let syncs = 1 + Math.floor(random() * 2);
      disk.fault = ({ what }) => {
        syncs -= what === "sync" ? 1 : 0;
        if (syncs === 0) disk.powerCut("parts");
        return undefined;
      };
      // The entry ends a few bytes before the end of the file, at its end, or after it.
      throws(() => fill(2, Math.floor(random() * 40) - 20));
      disk.fault = () => undefined;
      disk.powerCut("parts");
      if (disk.durableSize(LOG) > size) grown += 1;
      expect([1, 2]).toContain(start(disk, random).entries.length);
    });
    if (!isReplay) expect(grown).toBeGreaterThan(10);
  }, 60_000);

  test("refuses a log without its first frame, and leaves it alone", () => {
    for (let length = 0; length < firstEnd; length += 1) {
      const disk = new Disk(randomFrom(1));
      disk.put(LOG, bytes.subarray(0, length));
      disk.put(`${LOG}.old`, bytes); // Another program's file may have this name, too.
      expectRefusal(
        () => start(disk),
        `Cannot use ${LOG}: it does not begin as a log of raft.ts. Restore it, or use another `
          + "directory.",
      );
      expect(disk.read(LOG)).toEqual(bytes.subarray(0, length));
      expect(disk.read(`${LOG}.old`)).toEqual(bytes);
    }
  });

  test("reads a log of version 5, which named no owners, and writes it again", () => {
    const disk = new Disk(randomFrom(1));
    const stored = { version: 5, ...founder, id: "0123456789abcdef", disk: 7, boot: 1 };
    const head = makeEntry(0, 0, "logHead", Buffer.from(JSON.stringify(stored)));
    const commands = [[2, 1, 0] as const, [2, 2, 1] as const].map((numbers) =>
      makeCommandOfVersion5(numbers, Buffer.from(`${numbers}`))
    );
    const records = [
      head,
      makeEntry(0, 4, "hardState", Buffer.from("b")),
      membersEntry(1, 4, configuration(founder.members), 9),
      makeEntry(2, 4, "session"),
      makeEntry(3, 4, "commands", Buffer.concat(commands)),
    ];
    disk.put(LOG, padded(encodeFrame(records)));
    for (let run = 0; run < 2; run += 1) {
      const storage = start(disk);
      expect(storage.hardState).toEqual({ currentTerm: 4, votedFor: "b", commitIndex: 0 });
      expect(storage.entries.map(({ kind }) => kind)).toEqual(["members", "session", "commands"]);
      expect(storage.entries[0]?.membership).toEqual({
        founding: 9,
        members: configuration(founder.members),
      });
      const requests = storage.entries.flatMap(readRequests);
      const first = { owner: "", session: 2 };
      expect(requests).toEqual([
        { owner: "", nonce: 2, session: 2 },
        { ...first, sequence: 1, acknowledged: 0, commands: [Buffer.from("2,1,0")] },
        { ...first, sequence: 2, acknowledged: 1, commands: [Buffer.from("2,2,1")] },
      ]);
      storage.close();
    }
    expect(disk.read(LOG)?.toString("latin1")).toContain("\"version\":6");
  });

  test("ends at the last frame of a log that version 5 wrote over an older one", () => {
    const older = encodeFrame([makeEntry(0, 9, "hardState", Buffer.alloc(99, "b"))], 7);
    const whole = Buffer.concat([bytes, ...Array(20).fill(older), Buffer.alloc(500)]);
    for (const length of [end, end - 3]) {
      const log = Buffer.from(whole).fill(0, length, end + 12);
      const disk = new Disk(randomFrom(1));
      disk.put(LOG, log);
      disk.put(`${LOG}.old`, log);
      const storage = start(disk);
      expect(remembered(storage)).toEqual(show(states.at(length === end ? -1 : -2) ?? NOTHING));
      expect(storage.cutBytes).toBe(length === end ? 0 : end - lastBegin);
      expect(disk.read(`${LOG}.old`)).toBeUndefined();
    }
  });

  test("refuses a log of any other version, and leaves it alone", () => {
    const founded = { ...founder, id: "", disk: 1, boot: 1 };
    for (const version of [undefined, 4, 7, "5"]) {
      const disk = new Disk(randomFrom(1));
      const head = makeEntry(0, 0, "logHead", Buffer.from(JSON.stringify({ version, ...founded })));
      const log = encodeFrame([head]);
      disk.put(LOG, log);
      expectRefusal(
        () => start(disk),
        `Cannot use ${LOG}: another version of raft.ts (${version}) wrote it. Start that version, or `
          + "the next one, which rewrites it. Or use another directory.",
      );
      expect(disk.read(LOG)).toEqual(log);
    }
  });

  test("cuts a last frame with any part missing, because nothing was promised by it", () => {
    const previous = show(states.at(-2) ?? NOTHING);
    const zeros = Buffer.alloc(100);
    for (let at = lastBegin; at < end; at += 1) {
      const head = Buffer.concat([bytes.subarray(0, at), Buffer.alloc(end - at), zeros]);
      const tail = Buffer.from(head).fill(0, lastBegin);
      bytes.copy(tail, at + 1, at + 1);
      const garbage = Buffer.concat([bytes.subarray(0, at), Buffer.alloc(end - at, 0xAA), zeros]);
      for (const log of [head, tail, garbage]) {
        const { disk, storage } = recover(log);
        expect(remembered(storage)).toEqual(previous);
        const rest = torn(log.subarray(lastBegin));
        expect(storage.cutBytes).toBe(rest.length);
        if (rest.length > 0) expect(disk.read("data/log.cut")).toEqual(rest);
      }
    }
  });

  test("is followed by saves that last, even after a cut", () => {
    const { disk, storage } = recover(padded(bytes.subarray(0, end - 3)));
    const change = {
      currentTerm: 4,
      votedFor: "a",
      commitIndex: 0,
      entries: [command(3, 4, "new last")],
    };
    storage.save(change);
    disk.powerCut("nothing");
    const restarted = start(disk);
    expect(remembered(restarted)).toEqual(show(after(states.at(-2) ?? NOTHING, change)));
    expect(restarted.cutBytes).toBe(0);
  });

  test("fails if log.cut cannot be saved, and leaves no file open", () => {
    const disk = new Disk(randomFrom(1));
    disk.put(LOG, padded(bytes.subarray(0, end - 3)));
    for (const what of ["create", "write", "sync"] as const) {
      disk.fault = (operation) =>
        operation.what === what && operation.file === "data/log.cut"
          ? { code: "EIO", share: 0.5 }
          : undefined;
      // The simulated disk refuses to unlock a directory with an open file.
      expectRefusal(() => start(disk), "data/log.cut");
    }
    disk.fault = () => undefined;
    expect(start(disk).cutBytes).toBeGreaterThan(0);
  });

  test("refuses a flipped bit in the entries that a start has written again", () => {
    const { disk, storage } = recover(padded(bytes));
    storage.close();
    const rewritten = disk.read(LOG) ?? Buffer.alloc(0);
    const [begin = 0, entriesEnd = 0] = frameEnds(rewritten);
    expect(entriesEnd - begin).toBeGreaterThan(50);
    for (let at = begin; at < entriesEnd; at += 1) {
      const flipped = Buffer.from(rewritten);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8));
      const damaged = new Disk(randomFrom(1));
      damaged.put(LOG, flipped);
      expectRefusal(() => start(damaged), `Cannot use ${LOG}: it is damaged at byte ${begin}.`);
    }
  });

  test("refuses a flipped bit before a whole frame, and cuts the last frame for one", () => {
    let [refused, cut] = [0, 0];
    const log = padded(bytes);
    const next = end + 12; // Includes the zeros where the next frame would begin.
    for (let bit = 0; bit < next * 8; bit += 1) {
      const flipped = Buffer.from(log);
      flipped[bit >> 3] = (flipped[bit >> 3] ?? 0) ^ (1 << (bit & 7));
      const disk = new Disk(randomFrom(1));
      disk.put(LOG, flipped);
      if (bit >> 3 < lastBegin) {
        expectRefusal(() => start(disk), LOG);
        expect(disk.read(LOG)).toEqual(flipped);
        refused += 1;
      } else {
        const known = bit >> 3 < end ? states.at(-2) : states.at(-1);
        const storage = start(disk);
        expect(remembered(storage)).toEqual(show(known ?? NOTHING));
        expect(storage.cutBytes).toBeGreaterThan(0);
        cut += 1;
      }
    }
    expect([refused, cut]).toEqual([lastBegin * 8, (next - lastBegin) * 8]);
  });

  test("refuses a log with a missing frame in the middle", () => {
    for (const [i, begin] of ends.slice(0, -2).entries()) {
      const hole = Buffer.from(bytes).fill(0, begin, ends[i + 1]);
      const disk = new Disk(randomFrom(1));
      disk.put(LOG, hole);
      expectRefusal(
        () => start(disk),
        `Cannot use ${LOG}: it is damaged at byte ${begin}. Restore it.`,
      );
      expect(disk.read(LOG)).toEqual(hole);
    }
  });

  test("releases the directory when it refuses a log, so that the log can be repaired", () => {
    const disk = new Disk(randomFrom(1));
    disk.put(LOG, Buffer.from(bytes).fill(0, first, first + 1));
    expectRefusal(() => start(disk), "damaged");
    disk.put(LOG, padded(bytes));
    expect(remembered(start(disk))).toEqual(show(states.at(-1) ?? NOTHING));
  });

  test("is not deceived by commands that look like frames and records", () => {
    // A client may have read an old log, which has another marker, and send it as a command.
    const logAsCommand = Buffer.concat([bytes, ...encodeRecord(command(9, 9, "forged")), bytes]);
    const disk = new Disk(randomFrom(1));
    const storage = start(disk, randomFrom(99));
    const kept = {
      currentTerm: 5,
      votedFor: "a",
      commitIndex: 0,
      entries: [command(1, 5, logAsCommand)],
    };
    storage.save(kept);
    const end = frameEnds(disk.read(LOG)).at(-1) ?? 0;
    storage.save({ ...kept, entries: [command(2, 5, logAsCommand)] });
    const log = disk.read(LOG) ?? Buffer.alloc(0);
    for (let length = end; length < end + logAsCommand.length; length += 7) {
      const cut = recover(padded(log.subarray(0, length)));
      expect(remembered(cut.storage)).toEqual(show(kept));
      expect(cut.storage.cutBytes).toBe(torn(padded(log.subarray(end, length))).length);
    }
    expect(remembered(recover(log).storage).entries).toHaveLength(2);
  });
});

describe("a start", () => {
  test("writes and syncs what it read before any promise is made (catalogue 46)", () => {
    const disk = new Disk(randomFrom(1));
    const storage = start(disk);
    const change = {
      currentTerm: 1,
      votedFor: "b",
      commitIndex: 0,
      entries: [command(1, 1, "in the cache")],
    };
    disk.fault = ({ what }) => {
      if (what === "sync") disk.kill(); // After the write, before the sync.
      return undefined;
    };
    expectRefusal(() => storage.save(change), "killed");
    disk.fault = () => undefined;
    // The page cache has the frame, so this start reads it and may promise by it. Then the power
    // fails.
    expect(remembered(start(disk))).toEqual(show(change));
    disk.powerCut("nothing");
    expect(remembered(start(disk))).toEqual(show(change));
  });

  test("syncs its new file before that replaces the old one", () => {
    const done: string[] = [];
    const disk = new Disk(randomFrom(1), ({ what, file }) => done.push(`${what} ${file}`));
    start(disk);
    expect(done.slice(-3)).toEqual(["write data/log.new", "sync data/log.new", `rename ${LOG}`]);
  });

  test("saves a greater boot number each time, however the last run ended", () => {
    forSeeds(50, (random) => {
      const disk = new Disk(random);
      for (let [run, before] = [1, 0]; run < 10; run += 1) {
        const { boot } = start(disk, random).identity;
        expectNextBoot(before, boot);
        before = boot;
        if (random() < 0.5) disk.kill();
        else disk.powerCut(random() < 0.5 ? "nothing" : "parts");
      }
    });
    const drawingZero = new Disk(randomFrom(1));
    const { boot } = start(drawingZero).identity;
    drawingZero.kill();
    expect(start(drawingZero, () => 0).identity.boot).toBe(boot + 1);
  });

  test("from copies of one directory draws different boot numbers, with one disk number", () => {
    forSeeds(50, (random) => {
      const disk = new Disk(random);
      const { disk: id, boot } = start(disk, random).identity;
      const boots = [1, 2, 3].map(() => {
        const copy = new Disk(random);
        copy.put(LOG, disk.read(LOG) ?? Buffer.alloc(0));
        const { identity } = start(copy, random);
        expect(identity.disk).toBe(id);
        expectNextBoot(boot, identity.boot);
        return identity.boot;
      });
      expect(new Set(boots).size).toBe(3);
    });
  });

  test("is refused if the log is lost, but not if the first start was cut short", () => {
    for (const keep of keeps) {
      for (let n = 0; n < 12; n += 1) {
        const disk = new Disk(randomFrom(n));
        let countdown = n;
        disk.fault = () => {
          if (countdown === 0) disk.powerCut(keep);
          countdown -= 1;
          return undefined;
        };
        const wasCut = throws(() => start(disk));
        disk.fault = () => undefined;
        expect(wasCut).toBe(n < 8);
        disk.powerCut(keep);
        expect(remembered(start(disk))).toEqual(show(NOTHING));
        disk.lose(LOG);
        disk.kill();
        expectRefusal(
          () => start(disk),
          `Cannot use ${LOG}: it is missing, but this is not the first start.`,
        );
      }
    }
  });

  test("is refused while another server uses the directory", () => {
    const disk = new Disk(randomFrom(1));
    const storage = start(disk);
    expectRefusal(() => start(disk), "Cannot use data: a running server has it");
    storage.close();
    expectNextBoot(storage.identity.boot, start(disk).identity.boot);
  });

  test("is refused for another server or cluster, and names the owner of the directory", () => {
    const disk = new Disk(randomFrom(1));
    start(disk).close();
    const before = disk.read(LOG);
    for (const other of [{ ...founder, name: "b" }, { ...founder, cluster: "other" }]) {
      expectRefusal(
        () => start(disk, randomFrom(1), other),
        `Cannot use ${LOG}: it belongs to server a of cluster test, not to ${other.name} of `
          + `${other.cluster}. Use another directory, or start that server: --name a.`,
      );
    }
    expect(disk.read(LOG)).toEqual(before);
  });

  test("remembers the founding members, even if it is given another list later", () => {
    const disk = new Disk(randomFrom(1));
    start(disk);
    disk.kill();
    const later = start(disk, randomFrom(2), { ...founder, members: ["a", "x"] });
    expect(later.identity.members).toEqual(founder.members);
  });

  test("lists the founding members in the same order, however they were given", () => {
    const members = (list: string[]) =>
      start(new Disk(randomFrom(1)), randomFrom(1), { ...founder, members: list }).identity.members;
    expect(members(["c", "a", "b"])).toEqual(["a", "b", "c"]);
  });
});

describe("a failing disk", () => {
  /** Starts twice with saves between; the n-th operation of the disk fails. Returns the states. */
  function runTwice(disk: Disk, random: Random): { completed: State; attempted: State } {
    let completed = NOTHING;
    let attempted = NOTHING;
    const live = () => {
      for (let run = 0; run < 2; run += 1) {
        const storage = start(disk, random);
        for (let save = 0; save < 3; save += 1) {
          const change = drawChange(random, completed);
          attempted = after(completed, change);
          storage.save(change);
          completed = attempted;
        }
        storage.close();
      }
    };
    expect(errorOf(live).code).toBe("storage");
    return { completed, attempted };
  }

  test("stops the server at any operation, and every completed save is found again", () => {
    const failed = new Set<string>();
    let cases = 0;
    forSeeds(4, (random, seed) => {
      for (const fault of faults) {
        for (const keep of keeps) {
          for (let n = 0; n < 12; n += 1) {
            const disk = new Disk(random);
            let operations = 0;
            disk.fault = (operation: Operation) => {
              operations += 1;
              if (operations !== n + 1) return undefined;
              failed.add(operation.what);
              return fault;
            };
            const { completed, attempted } = runTwice(disk, randomFrom(seed));
            disk.fault = () => undefined;
            disk.powerCut(keep);
            const found = remembered(start(disk, random));
            const isWhole = JSON.stringify(found) === JSON.stringify(show(attempted));
            expect(found).toEqual(show(isWhole ? attempted : completed));
            cases += 1;
          }
        }
      }
    });
    if (isReplay) return;
    expect([...failed].sort()).toEqual(["create", "remove", "rename", "sync", "write"]);
    expect(cases % (18 * 12)).toBe(0);
  });

  test("is reported with the file and the system's message", () => {
    const disk = new Disk(randomFrom(1));
    const storage = start(disk);
    disk.fault = () => ({ code: "EIO", share: 0 });
    const change = { currentTerm: 1, votedFor: "a", commitIndex: 0, entries: [] };
    expectRefusal(() => storage.save(change), `Cannot write ${LOG}`);
    expectRefusal(() => storage.save(change), "EIO");
  });

  test("is reported with the advice to make room if it is full", () => {
    const disk = new Disk(randomFrom(1));
    disk.fault = () => ({ code: "ENOSPC", share: 0 });
    expectRefusal(() => start(disk), "Make room on that disk, and start again.");
  });

  test("at a start releases the directory, so that the next start can use it", () => {
    const disk = new Disk(randomFrom(1));
    disk.fault = () => ({ code: "ENOSPC", share: 0 });
    expectRefusal(() => start(disk), "ENOSPC");
    disk.fault = () => undefined;
    expectNextBoot(0, start(disk).identity.boot); // The failed start has left no data.
  });
});

describe("a snapshot", () => {
  const SNAPSHOT = "data/snapshot";
  const record = (kind: LogRecord["kind"], data: string, index: number, term: number): LogRecord =>
    makeEntry(index, term, kind, Buffer.from(data));
  const members = configuration(founder.members, ["d"]);

  /** Writes the state after an entry, slice by slice, and returns its length. */
  function write(storage: Storage, { index, term }: Position, states: readonly string[]): number {
    let at = 0;
    const head = { ...record("metadata", "", index, term), membership: { founding: 7, members } };
    for (const slice of [head, ...states.map((s) => record("state", s, index, term)), head]) {
      const frame = encodeFrame([slice]);
      storage.writeDraft(at, frame);
      at += frame.length;
    }
    return at;
  }

  /**
   * Takes a snapshot of all entries up to `index`, and rewrites the log with the entries after the
   * base.
   */
  function take(storage: Storage, { index, term }: Position, entries: Entry[], base = index): void {
    write(storage, { index, term }, ["this", "and that"]);
    storage.installDraft();
    const rest = entries.filter((entry) => entry.index > base);
    for (const _ of storage.rewriteLog({ index: base, term }, rest, 1)) {
      storage.save({ ...storage.hardState, entries: [] }); // The server saves meanwhile.
    }
  }

  const states = (storage: Storage) =>
    [...storage.readSnapshot()].flat().filter(({ kind }) => kind === "state").map(({ data }) =>
      `${data}`
    );
  const fiveEntries = [1, 2, 3, 4, 5].map((index) => command(index, 1, `number ${index}`));
  const storageWithFive = (disk: Disk, random?: Random) => {
    const storage = start(disk, random);
    storage.save({ currentTerm: 2, votedFor: "b", commitIndex: 0, entries: fiveEntries });
    return storage;
  };
  const indexes = ({ entries }: Storage) => entries.map(({ index }) => index);

  test("is found again, with the log after its base, the term and the vote", () => {
    const disk = new Disk(randomFrom(1));
    take(storageWithFive(disk), { index: 4, term: 1 }, fiveEntries, 3);
    disk.powerCut("nothing");
    for (let run = 0; run < 2; run += 1) {
      const storage = start(disk);
      const size = disk.read(SNAPSHOT)?.length ?? 0;
      expect(storage.snapshot).toEqual({ index: 4, term: 1, size, founding: 7, members });
      expect(states(storage)).toEqual(["this", "and that"]);
      expect(storage.base).toMatchObject({ index: 3, term: 1 });
      expect(indexes(storage)).toEqual([4, 5]);
      expect(storage.hardState).toMatchObject({ currentTerm: 2, votedFor: "b" });
      const change = {
        currentTerm: 3,
        votedFor: "c",
        commitIndex: 0,
        entries: [command(5, 3, "other")],
      };
      if (run === 0) storage.save({ ...storage.hardState, entries: [] });
      else storage.save(change);
      disk.powerCut("nothing");
    }
    const storage = start(disk);
    expect(storage.entries.map(({ term }) => term)).toEqual([1, 3]);
    expect(storage.hardState).toMatchObject({ currentTerm: 3, votedFor: "c" });
  });

  test("that is interrupted at any operation loses nothing (catalogue 31)", () => {
    const found = new Set<string>();
    forSeeds(20, (random, seed) => {
      for (const keep of keeps) {
        for (let n = 0; n < 40; n += 1) {
          const disk = new Disk(random);
          const storage = storageWithFive(disk, randomFrom(seed));
          let countdown = n;
          disk.fault = () => {
            if (countdown === 0) disk.powerCut(keep);
            countdown -= 1;
            return undefined;
          };
          try {
            take(storage, { index: 4, term: 1 }, fiveEntries, 3);
            storage.save({
              currentTerm: 2,
              votedFor: "b",
              commitIndex: 0,
              entries: [command(6, 2, "more")],
            });
          } catch {} // The server was killed.
          disk.fault = () => undefined;
          if (countdown >= 0) disk.powerCut(keep);
          const restarted = start(disk, randomFrom(seed));
          const { snapshot: { index } = { index: 0 } } = restarted;
          expect([0, 4]).toContain(index);
          expect([0, index === 0 ? 0 : 3]).toContain(restarted.base.index);
          const first = restarted.base.index + 1;
          expect(indexes(restarted).slice(0, 6 - first)).toEqual([1, 2, 3, 4, 5].slice(first - 1));
          expect(restarted.hardState).toMatchObject({ currentTerm: 2, votedFor: "b" });
          expect(index === 0 ? [] : states(restarted)).toEqual(
            index === 0 ? [] : ["this", "and that"],
          );
          expect(disk.read(`${SNAPSHOT}.new`)).toBeUndefined();
          found.add(`${index} ${restarted.base.index} ${restarted.entries.at(-1)?.index}`);
        }
      }
    });
    if (isReplay) return;
    // Before the rename, between the rename and the new log, after both, and after the last save.
    expect([...found].sort()).toEqual(["0 0 5", "4 0 5", "4 3 5", "4 3 6"]);
  });

  test("stops the server when the disk fails, and every completed save is found again", () => {
    const failed = new Set<string>();
    for (const fault of faults) {
      for (let n = 0; n < 24; n += 1) {
        const disk = new Disk(randomFrom(n));
        const storage = storageWithFive(disk);
        let countdown = n;
        disk.fault = ({ what, file }) => {
          countdown -= 1;
          if (countdown === -1) failed.add(`${what} ${file}`);
          return countdown === -1 ? fault : undefined;
        };
        const { code } = errorOf(() => take(storage, { index: 4, term: 1 }, fiveEntries, 3));
        expect(code).toBe("storage");
        disk.fault = () => undefined;
        disk.powerCut("parts");
        const restarted = start(disk);
        expect(indexes(restarted)).toEqual([1, 2, 3, 4, 5].slice(restarted.base.index));
      }
    }
    expect([...failed].sort()).toEqual([
      "create data/log.new",
      "create data/snapshot.new",
      "rename data/log",
      "rename data/snapshot",
      "sync data/log",
      "sync data/log.new",
      "sync data/snapshot.new",
      "write data/log",
      "write data/log.new",
      "write data/snapshot.new",
    ]);
  });

  /**
   * Rewrites the log with all entries, and saves changes meanwhile. Leaves the new log unfinished
   * when `draw` returns none.
   */
  function rewrite(
    storage: Storage,
    known: State,
    draw: (before: State) => State | undefined,
  ): State {
    let now = known;
    for (const _ of storage.rewriteLog({ index: 0, term: 0 }, known.entries, 500)) {
      const change = draw(now);
      if (!change) break;
      storage.save(change);
      now = after(now, change);
    }
    return now;
  }

  /** Cuts the power in the middle of a save or of a rewritten log. */
  function interrupt(
    disk: Disk,
    storage: Storage,
    known: State,
    keep: Keep,
    countdown: number,
  ): void {
    disk.fault = () => {
      if (countdown === 0) disk.powerCut(keep);
      countdown -= 1;
      return undefined;
    };
    const restarted = () => rewrite(storage, known, () => ({ ...known, entries: [] }));
    expectRefusal(() => {
      for (;;) restarted();
    }, "killed");
    disk.fault = () => undefined;
  }

  test("is followed by a log in a new file, and no entry of the old one returns", () => {
    let [rewritten, starts] = [0, 0];
    forSeeds(300, (random) => {
      const disk = new Disk(random);
      let storage = start(disk, random);
      let known = NOTHING;
      for (let step = 0; step < 30; step += 1) {
        const draw = random();
        if (draw < 0.5) {
          const change = drawChange(random, known);
          storage.save(change);
          known = after(known, change);
        } else if (draw < 0.8) {
          const before = disk.inode(LOG);
          known = rewrite(
            storage,
            known,
            (before) => random() < 0.96 ? drawChange(random, before) : undefined,
          );
          if (disk.inode(LOG) !== before) rewritten += 1;
        } else {
          const keep = keeps[Math.floor(random() * 3)] ?? "parts";
          interrupt(disk, storage, known, keep, Math.floor(random() * 16));
          storage = start(disk, random);
          expect(remembered(storage)).toEqual(show(known));
          starts += 1;
        }
      }
    });
    if (!isReplay) expect(Math.min(rewritten, starts)).toBeGreaterThan(300);
  });

  test("is followed by all saves made during the rewriting, even if that is abandoned", () => {
    for (const isLeft of [false, true]) {
      const disk = new Disk(randomFrom(1));
      const storage = storageWithFive(disk);
      write(storage, { index: 2, term: 1 }, ["two"]);
      storage.installDraft();
      const slices = storage.rewriteLog({ index: 2, term: 1 }, fiveEntries.slice(2), 1);
      slices.next();
      storage.save({
        currentTerm: 3,
        votedFor: "c",
        commitIndex: 0,
        entries: [command(4, 3, "another")],
      });
      slices.next();
      storage.save({
        currentTerm: 3,
        votedFor: "c",
        commitIndex: 0,
        entries: [command(5, 3, "and more")],
      });
      if (isLeft) slices.return(undefined);
      else expect([...slices]).toEqual([]);
      storage.save({
        currentTerm: 3,
        votedFor: "c",
        commitIndex: 0,
        entries: [command(6, 3, "the last")],
      });
      disk.powerCut("nothing");
      const restarted = start(disk);
      expect(restarted.base.index).toBe(isLeft ? 0 : 2);
      expect(restarted.entries.slice(-4).map(({ data }) => `${data}`)).toEqual([
        "number 3",
        "another",
        "and more",
        "the last",
      ]);
      expect(restarted.hardState).toMatchObject({ currentTerm: 3, votedFor: "c" });
    }
  });

  test("is followed by many saves made during the rewriting, in slices", () => {
    const disk = new Disk(randomFrom(1));
    const storage = storageWithFive(disk);
    write(storage, { index: 2, term: 1 }, ["two"]);
    storage.installDraft();
    const slices = storage.rewriteLog({ index: 2, term: 1 }, fiveEntries.slice(2), 1);
    slices.next();
    let last = 5;
    const save = (bytes: number) => {
      last += 1;
      const entry = makeEntry(last, 3, "commands", Buffer.alloc(bytes, last));
      storage.save({ currentTerm: 3, votedFor: "c", commitIndex: 0, entries: [entry] });
    };
    for (let i = 0; i < 40; i += 1) save(100_000);
    let longest = 0;
    let before = 0;
    while (!slices.next().done) {
      const { length } = disk.read(`${LOG}.new`) ?? Buffer.alloc(0);
      longest = Math.max(longest, length - before);
      before = length;
      save(10_000); // Between the slices the server goes on.
    }
    expect(longest).toBeWithin(1 << 20, 1.1 * 2 ** 20);
    expect(before).toBeGreaterThan(3_000_000);
    save(10);
    disk.powerCut("nothing");
    const restarted = start(disk);
    expect(restarted.base.index).toBe(2);
    expect(restarted.entries.map(({ index }) => index)).toEqual(
      Array.from({ length: last - 2 }, (_, i) => i + 3),
    );
    const hasAll = ({ index, data }: { index: number; data: Buffer }) =>
      data.every((byte) => byte === index);
    expect(restarted.entries.slice(3).every(hasAll)).toBe(true);
  });

  test("that was received replaces a log without the snapshot's last entry", () => {
    for (const position of [{ index: 9, term: 2 }, { index: 4, term: 2 }]) {
      const disk = new Disk(randomFrom(1));
      const storage = storageWithFive(disk);
      write(storage, position, ["theirs"]);
      expect(storage.installDraft()).toMatchObject(position);
      disk.powerCut("nothing"); // The log is not rewritten yet.
      const restarted = start(disk);
      expect([restarted.base, restarted.entries]).toMatchObject([position, []]);
      expect(restarted.hardState).toMatchObject({ currentTerm: 2, votedFor: "b" });
      expect(states(restarted)).toEqual(["theirs"]);
    }
  });

  test("that was received replaces the log before the next entry is saved", () => {
    for (const position of [{ index: 9, term: 2 }, { index: 4, term: 2 }]) {
      const disk = new Disk(randomFrom(1));
      const storage = storageWithFive(disk);
      write(storage, position, ["theirs"]);
      storage.installDraft();
      const slices = storage.rewriteLog(position, [], 1);
      slices.next();
      const next = command(position.index + 1, 2, "after it");
      storage.save({ ...storage.hardState, entries: [next] });
      disk.powerCut("nothing");
      const restarted = start(disk);
      expect(restarted.base).toMatchObject(position);
      expect(indexes(restarted)).toEqual([next.index]);
    }
  });

  test("that is unfinished is removed by the next start", () => {
    const disk = new Disk(randomFrom(1));
    write(storageWithFive(disk), { index: 4, term: 1 }, ["much"]);
    expect(disk.read(`${SNAPSHOT}.new`)).toBeDefined();
    disk.kill();
    expect(start(disk).snapshot).toBeUndefined();
    expect(disk.read(`${SNAPSHOT}.new`)).toBeUndefined();
  });

  test("is written without gaps, and a new one begins at offset 0 (catalogue 35)", () => {
    const storage = storageWithFive(new Disk(randomFrom(1)));
    const size = write(storage, { index: 3, term: 1 }, ["a long one, that will not be kept"]);
    for (const at of [size - 1, size + 1]) {
      expect(() => storage.writeDraft(at, Buffer.alloc(1))).toThrow("a snapshot has no gaps");
    }
    write(storage, { index: 4, term: 1 }, ["another"]);
    expect(storage.installDraft().index).toBe(4);
    expect(states(storage)).toEqual(["another"]);
    storage.close(); // In all tests the simulated disk demands that every file is closed by now.
  });

  test("can be read in chunks", () => {
    const disk = new Disk(randomFrom(1));
    const storage = storageWithFive(disk);
    take(storage, { index: 4, term: 1 }, fiveEntries);
    const whole = disk.read(SNAPSHOT) ?? Buffer.alloc(0);
    write(storage, { index: 5, term: 1 }, ["the next one, in the making"]);
    const pieces = [storage.readChunk(0, 7), storage.readChunk(7, 50), storage.readChunk(57, 5000)];
    expect(Buffer.concat(pieces).equals(whole)).toBe(true);
  });

  test("with a flipped bit or a missing end is refused with its name, and left alone", () => {
    const disk = new Disk(randomFrom(1));
    take(storageWithFive(disk), { index: 4, term: 1 }, fiveEntries);
    const [log, whole] = [LOG, SNAPSHOT].map((file) => disk.read(file) ?? Buffer.alloc(0));
    const damaged = [...Array(whole?.length ?? 0).keys()].flatMap((at) => {
      const flipped = Buffer.from(whole ?? []);
      flipped[at] = (flipped[at] ?? 0) ^ (1 << (at % 8));
      return [flipped, Buffer.from(whole?.subarray(0, at) ?? [])];
    });
    damaged.push(Buffer.concat([whole ?? Buffer.alloc(0), Buffer.alloc(1)]));
    for (const bytes of damaged) {
      const broken = new Disk(randomFrom(1));
      broken.put(LOG, log ?? bytes);
      broken.put(SNAPSHOT, bytes);
      expectRefusal(() => states(start(broken)), `Cannot use ${SNAPSHOT}: it is damaged at byte`);
      expect(broken.read(SNAPSHOT)?.equals(bytes)).toBe(true);
    }
    expect(damaged.length).toBeGreaterThan(100);
  });

  test("that cannot be read causes an error with its name, at each read", () => {
    const disk = new Disk(randomFrom(1));
    const storage = storageWithFive(disk);
    take(storage, { index: 4, term: 1 }, fiveEntries);
    const error = { code: "storage", message: "Cannot read data/snapshot: EIO: read." };
    /** Repeats the action, each time with a later read failing, until it succeeds. */
    const failures = (action: () => unknown): number => {
      for (let n = 0;; n += 1) {
        let countdown = n;
        disk.isUnreadable = (file) => {
          // The file may be open under its earlier name.
          if (file.startsWith(SNAPSHOT)) countdown -= 1;
          return countdown === -1;
        };
        try {
          action();
          return n;
        } catch (thrown) {
          expect(thrown).toMatchObject(error);
        }
      }
    };
    expect(failures(() => storage.readChunk(0, 10))).toBe(2);
    // Two reads for each of four frames.
    expect(failures(() => states(storage))).toBeGreaterThan(8);
    storage.close();
    // Each failed start has released the directory, so the last one succeeds.
    expect(failures(() => start(disk).close())).toBeGreaterThan(3);
  });

  test("that does not fit its log, or has no log, is refused", () => {
    const disk = new Disk(randomFrom(1));
    const storage = storageWithFive(disk);
    take(storage, { index: 2, term: 1 }, fiveEntries);
    const old = disk.read(SNAPSHOT) ?? Buffer.alloc(0);
    take(storage, { index: 4, term: 1 }, fiveEntries);
    const log = disk.read(LOG) ?? Buffer.alloc(0);
    for (
      const [content, sentence] of [
        [
          { [LOG]: log, [SNAPSHOT]: old },
          `Cannot use ${LOG}: it begins after entry 4, and ${SNAPSHOT} ends before.`,
        ],
        [
          { [LOG]: log },
          `Cannot use ${LOG}: it begins after entry 4, and ${SNAPSHOT} ends before.`,
        ],
        [{ [SNAPSHOT]: old }, `${LOG}: it is missing`],
        [{ [SNAPSHOT]: old, [`${LOG}.new`]: log }, `${LOG}: it is missing`],
      ] as const
    ) {
      const mixedDisk = new Disk(randomFrom(1));
      for (const [file, bytes] of Object.entries(content)) mixedDisk.put(file, bytes);
      expectRefusal(() => start(mixedDisk), sentence);
    }
  });
});

describe("recovery after the majority is lost forever", () => {
  const usedDisk = (): Disk => {
    const disk = new Disk(randomFrom(5));
    const storage = start(disk);
    storage.save({
      currentTerm: 4,
      votedFor: "b",
      commitIndex: 0,
      entries: [command(1, 3, "one"), command(2, 4, "two")],
    });
    storage.close();
    return disk;
  };
  const inspect = (disk: Disk) => new Storage(disk.files(), "data", undefined, randomFrom(9));

  test("begins with a look at a directory that changes nothing", () => {
    const disk = usedDisk();
    const before = disk.read(LOG);
    const storage = inspect(disk);
    const { disk: id, boot } = start(new Disk(randomFrom(5))).identity;
    // A look is no start, so the boot number is the last start's.
    expect(storage.identity).toMatchObject({ name: "a", cluster: "test", disk: id, boot });
    expect(remembered(storage)).toMatchObject({ currentTerm: 4, entries: { length: 2 } });
    storage.close();
    expect(disk.read(LOG)).toEqual(before as Buffer);
    expectRefusal(() => inspect(new Disk(randomFrom(1))), "data/log: it is missing");
  });

  const foundingIn = ({ entries }: Storage) => entries.at(-1)?.membership?.founding;

  test("makes a server a cluster of its own: with all entries, all committed, and one member", () => {
    const disk = usedDisk();
    const storage = inspect(disk);
    storage.formNewCluster();
    storage.close();
    disk.powerCut("nothing");
    const recovered = start(disk);
    const { identity, hardState, entries } = recovered;
    expect(identity).toMatchObject({ name: "a", cluster: "test", members: ["a", "b", "c"] });
    expect(hardState).toEqual({ currentTerm: 4, votedFor: "b", commitIndex: 3 });
    expect(entries.map(({ index, term, kind }) => [index, term, kind])).toEqual([
      [1, 3, "commands"],
      [2, 4, "commands"],
      [3, 4, "members"],
    ]);
    expect(entries.at(-1)?.membership?.members).toEqual([
      { name: "a", address: "", votes: true, disk: identity.disk },
    ]);
    expect(foundingIn(recovered)).toBeGreaterThan(0);
  });

  test("draws another founding each time", () => {
    const foundings = [1, 2, 3].map((seed) => {
      const storage = new Storage(usedDisk().files(), "data", undefined, randomFrom(seed));
      storage.formNewCluster();
      return foundingIn(storage);
    });
    expect(new Set(foundings).size).toBe(3);
  });

  test("leaves either the old server or the new cluster, wherever the power fails", () => {
    const found = new Set<string>();
    for (const keep of keeps) {
      for (let n = 0; n < 12; n += 1) {
        const disk = usedDisk();
        const storage = inspect(disk);
        let countdown = n;
        disk.fault = () => {
          countdown -= 1;
          return countdown < 0 ? { code: "EIO", share: 0.5 } : undefined;
        };
        if (throws(() => storage.formNewCluster())) storage.close();
        disk.fault = () => undefined;
        disk.powerCut(keep);
        const { hardState: { commitIndex }, entries } = start(disk);
        found.add(`${commitIndex} ${entries.length}`);
      }
    }
    expect([...found].sort()).toEqual(["0 2", "3 3"]);
  });
});

/** Returns whether the action throws. */
function throws(action: () => void): boolean {
  try {
    action();
    return false;
  } catch {
    return true;
  }
}

describe("real files", () => {
  const directories: string[] = [];
  const freshDirectory = () => {
    const directory = mkdtempSync(path.join(tmpdir(), "raft-storage-"));
    directories.push(directory);
    return path.join(directory, "cluster", "a");
  };
  afterAll(() => {
    for (const directory of directories) rmSync(directory, { recursive: true, force: true });
  });
  const open = (directory: string, files: Files = systemWorld.files) =>
    new Storage(files, directory, founder, systemWorld.random);
  const change = {
    currentTerm: 2,
    votedFor: "c",
    commitIndex: 0,
    entries: [command(1, 2, "x".repeat(5000))],
  };

  test("keep the saves of a restarted server, and its cut tail in log.cut", () => {
    const directory = freshDirectory();
    const storage = open(directory);
    storage.save(change);
    storage.save({ ...change, entries: [command(2, 2, "torn")] });
    storage.close();
    const log = readFileSync(`${directory}/log`);
    const end = log.findLastIndex((byte) => byte !== 0) + 1;
    writeFileSync(`${directory}/log`, log.fill(0, end - 1));
    const restarted = open(directory);
    expect(remembered(restarted)).toEqual(show(change));
    expectNextBoot(storage.identity.boot, restarted.identity.boot);
    expect(readFileSync(`${directory}/log.cut`).length).toBe(restarted.cutBytes);
    expect(restarted.cutBytes).toBeGreaterThan(0);
    restarted.close();
  });

  test("are readable by their owner only: modes 0600, in a directory of mode 0700", () => {
    const directory = freshDirectory();
    const before = process.umask(0);
    try {
      open(directory).close();
      const log = readFileSync(`${directory}/log`);
      const [end = 0] = frameEnds(log).slice(-1);
      writeFileSync(`${directory}/log`, log.fill("torn", end, end + 4));
      expect(statSync(`${directory}/log`).mode & 0o777).toBe(0o600);
      const storage = open(directory);
      expect(storage.cutBytes).toBeGreaterThan(0);
      for (const made of [directory, path.dirname(directory)]) {
        expect(statSync(made).mode & 0o777).toBe(0o700);
      }
      for (const file of ["log", "log.cut", "lock"]) {
        expect([file, statSync(`${directory}/${file}`).mode & 0o777]).toEqual([file, 0o600]);
      }
      expect(existsSync(`${directory}/log.new`)).toBe(false);
      storage.close();
    } finally {
      process.umask(before);
    }
  });

  test("grow in big steps, with zeros at their end", () => {
    const directory = freshDirectory();
    const storage = open(directory);
    const sizes = new Set<number>();
    for (let index = 1; index <= 40; index += 1) {
      const entries = [command(index, 1, "x".repeat(60_000))];
      storage.save({ currentTerm: 1, votedFor: undefined, commitIndex: 0, entries });
      sizes.add(statSync(`${directory}/log`).size);
    }
    storage.close();
    // A sync of a file that has grown must store its new length, too, so growth must be rare.
    expect(sizes.size).toBeLessThanOrEqual(3);
    expect(Math.min(...sizes)).toBeGreaterThan(1 << 20);
    const log = readFileSync(`${directory}/log`);
    expect(log.subarray(40 * 61_000).every((byte) => byte === 0)).toBe(true);
    const restarted = open(directory);
    expect([restarted.entries.length, restarted.cutBytes]).toEqual([40, 0]);
    restarted.close();
  });

  test("are locked against a second server, in any process, until kill -9", async () => {
    const directory = freshDirectory();
    const storage = open(directory);
    expectRefusal(() => open(directory), "a running server has it");
    storage.close();
    const raft = JSON.stringify(path.join(import.meta.dir, "../../raft.ts"));
    // The process keeps its storage, because the garbage collector would release the lock. It ends
    // after ten seconds, even if this test fails.
    const script = `import { Storage, systemWorld } from ${raft};
      const founder = ${JSON.stringify(founder)};
      const storage = new Storage(systemWorld.files, ${JSON.stringify(directory)}, founder,
        systemWorld.random);
      console.log("held");
      setTimeout(() => storage.close(), 10_000);`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    try {
      const { value } = await child.stdout.getReader().read();
      expect(Buffer.from(value ?? []).toString()).toContain("held");
      expectRefusal(() => open(directory), "a running server has it");
    } finally {
      child.kill("SIGKILL");
      await child.exited;
    }
    const restarted = open(directory);
    // The other process has started here, too, so this is the third start.
    expect(restarted.identity.boot).toBeGreaterThanOrEqual(storage.identity.boot + 2);
    expect(restarted.identity.boot).toBeLessThanOrEqual(storage.identity.boot + 2 * 2 ** 20);
    restarted.close();
  });

  test("in a directory that cannot be used are refused with the file's name", () => {
    const directory = freshDirectory();
    open(directory).close();
    for (const file of [`${directory}/log`, `${directory}/log/below`]) {
      const { message } = errorOf(() => open(file));
      expect(message).toStartWith(`Cannot use ${file}: E`);
      expect(message).toEndWith("Use a directory that this user may write to.");
    }
  });
});
