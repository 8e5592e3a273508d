/**
 * Tests that a server makes the right calls of the operating system, in the right order, and obeys
 * their outcomes. Each call of `node:fs` is recorded, and fails when a test wants it to.
 */
import { afterEach, describe, expect, mock, setDefaultTimeout, spyOn, test } from "bun:test";
import fs from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { encodeFrame, type Entry, Storage, systemWorld } from "../../raft.ts";
import { makeEntry } from "../support/entries.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

const founder = { cluster: "test", name: "a", members: ["a", "b", "c"] };
const { files } = systemWorld;
const open = (directory: string) => new Storage(files, directory, founder, systemWorld.random);
const command = (index: number, data: string | Buffer) =>
  makeEntry(index, 1, "commands", Buffer.from(data));
const promise = { currentTerm: 1, votedFor: "b", commitIndex: 0 };
const save = (storage: Storage, ...entries: Entry[]) => storage.save({ ...promise, entries });

/** A call and its file: for a descriptor, the path that was opened. */
type Call = { what: string; file: string; to?: string };
const byDescriptor = [
  "writeSync",
  "fdatasyncSync",
  "fsyncSync",
  "closeSync",
  "readSync",
] as const;
const byPath = ["openSync", "renameSync", "rmSync", "mkdirSync"] as const;

const directories: string[] = [];
function fresh(): string {
  const directory = fs.mkdtempSync(path.join(tmpdir(), "raft-files-"));
  directories.push(directory);
  return directory;
}
afterEach(() => {
  mock.restore();
  for (const directory of directories.splice(0)) {
    fs.rmSync(directory, { recursive: true, force: true });
  }
});

/** Records every call, unless `before` throws. `opened` has the files that are open. */
function watch(before: (call: Call) => void = () => {}) {
  const calls: Call[] = [];
  const opened = new Map<number, string>();
  const note = (call: Call) => {
    before(call);
    calls.push(call);
  };
  for (const what of byDescriptor) {
    const original = fs[what] as (fd: number, ...rest: unknown[]) => unknown;
    const watched = (fd: number, ...rest: unknown[]) => {
      note({ what, file: opened.get(fd) ?? "" });
      const result = original(fd, ...rest);
      if (what === "closeSync") opened.delete(fd);
      return result;
    };
    spyOn(fs, what).mockImplementation(watched as never);
  }
  for (const what of byPath) {
    const original = fs[what] as (file: string, ...rest: unknown[]) => unknown;
    const watched = (file: string, ...rest: unknown[]) => {
      note({ what, file, to: `${rest[0]}` });
      const result = original(file, ...rest);
      if (what === "openSync") opened.set(Number(result), file);
      return result;
    };
    spyOn(fs, what).mockImplementation(watched as never);
  }
  return { calls, opened };
}

/** Returns the calls for one file since the last time. */
const take = (calls: Call[], file: string) =>
  calls.splice(0).filter((call) => call.file === file).map(({ what }) => what);

describe("stable storage", () => {
  test("has written and synced a frame to the log when a save returns", () => {
    const directory = fresh();
    const { calls } = watch();
    const storage = open(directory);
    for (let index = 1; index <= 3; index += 1) {
      calls.splice(0);
      save(storage, command(index, `number ${index}`));
      expect(take(calls, `${directory}/log`)).toEqual(["writeSync", "fdatasyncSync"]);
    }
    storage.close();
  });

  test("fails if a sync fails", () => {
    const directory = fresh();
    let isFailing = false;
    watch(({ what }) => {
      if (isFailing && what === "fdatasyncSync") throw new Error("EIO: i/o error, fdatasync");
    });
    const storage = open(directory);
    isFailing = true;
    expect(() => save(storage)).toThrow(`Cannot write ${directory}/log: EIO`);
    isFailing = false;
    storage.close();
  });

  test("extends the log by zeros, durably, before it writes there", () => {
    const directory = fresh();
    const log = () => fs.readFileSync(`${directory}/log`);
    const storage = open(directory);
    const before = log();
    const seen: Buffer[] = [];
    const { calls } = watch(({ what }) => {
      if (what === "fdatasyncSync") seen.push(log());
    });
    save(storage, command(1, Buffer.alloc(5 << 20, 7)));
    expect(calls.map(({ what }) => what)).toEqual([
      "writeSync",
      "fdatasyncSync",
      "writeSync",
      "fdatasyncSync",
    ]);
    const [zeros, frame] = seen;
    expect(zeros?.equals(Buffer.concat([before], zeros.length))).toBe(true);
    expect(frame?.length).toBe(zeros?.length ?? 0);
    expect(frame?.subarray(-(1 << 20)).every((byte) => byte === 0)).toBe(true);
    storage.close();
  });

  test("syncs each slice of a snapshot, the last one before the rename", () => {
    const directory = fresh();
    const { calls } = watch();
    const storage = open(directory);
    calls.splice(0);
    const listed = { founding: 1, members: [] };
    const frame = encodeFrame([{ ...makeEntry(1, 1, "metadata"), membership: listed }]);
    storage.writeDraft(0, frame);
    storage.writeDraft(frame.length, frame);
    storage.installDraft();
    const done = calls.filter(({ file }) => file === `${directory}/snapshot.new`);
    expect(done.map(({ what }) => what).filter((what) => what !== "readSync")).toEqual([
      "openSync",
      "writeSync",
      "fdatasyncSync",
      "closeSync",
      "openSync",
      "writeSync",
      "fdatasyncSync",
      "closeSync",
      "renameSync",
    ]);
    storage.close();
  });

  test("syncs the directory before a rename returns", () => {
    const directory = fresh();
    const [a, b] = [`${directory}/a`, `${directory}/b`];
    const { calls, opened } = watch();
    files.open(a, "w").close();
    calls.splice(0);
    files.rename(a, b);
    const name = path.basename(directory);
    expect(calls.map(({ what, file }) => `${what} ${path.basename(file)}`)).toEqual([
      "renameSync a",
      `openSync ${name}`,
      `fsyncSync ${name}`,
      `closeSync ${name}`,
    ]);
    expect(opened.size).toBe(0);
  });

  test("makes a new directory durable, with all parents that it created", () => {
    const top = fresh();
    const names: string[][] = [];
    const { calls, opened } = watch(({ what, file }) => {
      if (what === "fsyncSync" && file.endsWith("/z")) names.push(fs.readdirSync(file));
    });
    files.lock(`${top}/x/y/z`)();
    const synced = calls.filter(({ what }) => what === "fsyncSync").map(({ file }) => file);
    expect(new Set(synced)).toEqual(new Set([top, `${top}/x`, `${top}/x/y`, `${top}/x/y/z`]));
    expect(opened.size).toBe(0);
    // `log.new` marks the first start, so it is durable before the lock file exists.
    expect(names).toEqual([["log.new"]]);
    expect(fs.readdirSync(`${top}/x/y/z`).toSorted()).toEqual(["lock", "log.new"]);
  });
});

describe("a file", () => {
  test("is written whole, even if the system writes fewer bytes than it was given", () => {
    const file = `${fresh()}/file`;
    const write = fs.writeSync as (...all: unknown[]) => number;
    let writes = 0;
    spyOn(fs, "writeSync").mockImplementation(
      ((fd: number, bytes: Buffer, at: number, length: number, position: number) => {
        writes += 1;
        return write(fd, bytes, at, Math.min(7, length), position);
      }) as never,
    );
    const handle = files.open(file, "w");
    const text = "a text that is written in pieces of seven bytes";
    handle.write(Buffer.from("0123456789"), 0);
    handle.write(Buffer.from(text), 10);
    expect(fs.readFileSync(file, "utf8")).toBe(`0123456789${text}`);
    expect(writes).toBe(2 + 7);
    handle.close();
  });

  test("is read from an offset, up to its end", () => {
    const file = `${fresh()}/file`;
    fs.writeFileSync(file, "0123456789");
    const handle = files.open(file, "r");
    const read = (at: number, length: number) => handle.read(at, length).toString();
    expect([read(0, 3), read(8, 5), read(10, 5), read(50, 5)]).toEqual(["012", "89", "", ""]);
    // No memory is allocated for a length that a damaged header claims.
    expect(read(8, 2 ** 45)).toBe("89");
    handle.close();
    expect(files.find(file)?.size).toBe(10);
    expect(files.find(`${file}.other`)).toBeUndefined();
  });
});

describe("a log that is rewritten many times while the server runs", () => {
  test("is in another file each time, the only open one, and always has every entry", () => {
    const directory = fresh();
    const { opened } = watch();
    const storage = open(directory);
    const entries: Entry[] = [];
    const add = () => {
      const entry = command(entries.length + 1, `number ${entries.length + 1}`);
      entries.push(entry);
      save(storage, entry);
    };
    const inodes: number[] = [];
    for (let time = 0; time < 6; time += 1) {
      add();
      for (const _ of storage.rewriteLog({ index: 0, term: 0 }, [...entries], 20)) add();
      add();
      inodes.push(fs.statSync(`${directory}/log`).ino);
      expect(opened.size).toBe(1);
      const copy = `${fresh()}/copy`;
      fs.cpSync(directory, copy, { recursive: true });
      const found = open(copy);
      expect(found.entries.map(({ data }) => `${data}`)).toEqual(
        entries.map(({ data }) => `${data}`),
      );
      expect([found.hardState, found.cutBytes]).toEqual([promise, 0]);
      found.close();
    }
    for (let i = 1; i < 6; i += 1) expect(inodes[i]).not.toBe(inodes[i - 1] ?? 0);
    storage.close();
    expect(opened.size).toBe(0);
  });
});

describe("a directory that is incomplete", () => {
  const usedDirectory = (): string => {
    const directory = fresh();
    const storage = open(directory);
    save(storage, command(1, "one"));
    storage.close();
    return directory;
  };

  test("is usable if its first start was cut short, at any call", () => {
    let n = 0;
    for (let isDone = false; !isDone; n += 1) {
      const directory = `${fresh()}/data`;
      let left = n;
      watch(({ what }) => {
        left -= 1;
        // Closing always succeeds: the kernel does it when a process ends.
        if (left < 0 && what !== "closeSync") throw new Error("EIO: simulated power failure");
      });
      try {
        open(directory).close();
        isDone = true;
      } catch {}
      mock.restore();
      const storage = open(directory);
      expect(storage.entries).toEqual([]);
      storage.close();
    }
    expect(n).toBeGreaterThan(20);
  });

  test("is refused if its log is missing, with or without other files of a server", () => {
    for (const others of [[], ["log.cut"], ["snapshot.new"]]) {
      const directory = usedDirectory();
      fs.renameSync(`${directory}/log`, `${directory}/elsewhere`);
      for (const name of others) fs.copyFileSync(`${directory}/elsewhere`, `${directory}/${name}`);
      const before = fs.readdirSync(directory);
      expect(() => open(directory)).toThrow(
        `Cannot use ${directory}/log: it is missing, but this is not the first start.`,
      );
      expect(fs.readdirSync(directory)).toEqual(before);
    }
  });

  /** Saves a second later. By then the server notices a deleted file. */
  function saveLater(storage: Storage): void {
    const later = performance.now() + 1000;
    using _ = spyOn(performance, "now").mockReturnValue(later);
    save(storage, command(2, "two"));
  }

  test("that is deleted under a running server soon makes a save fail", () => {
    const directory = usedDirectory();
    const storage = open(directory);
    fs.rmSync(directory, { recursive: true });
    expect(() => saveLater(storage)).toThrow(
      `Cannot write ${directory}/log: the file was deleted while the server ran. If a `
        + "majority of the servers still has its data, start again with an empty directory.",
    );
    storage.close();
  }, 60_000);

  test(
    "without its lock file admits no second server until the operator makes that file again",
    () => {
      const directory = usedDirectory();
      const storage = open(directory);
      fs.rmSync(`${directory}/lock`);
      expect(() => open(directory)).toThrow(
        `Cannot use ${directory}: ${directory}/lock was deleted, `
          + "so a server may still be running there. Make sure that none is, and then: touch "
          + `${directory}/lock.`,
      );
      save(storage, command(2, "two"));
      storage.close();
      expect(() => open(directory)).toThrow("was deleted");
      fs.writeFileSync(`${directory}/lock`, "");
      const restarted = open(directory);
      expect(restarted.entries).toHaveLength(2);
      // If the operator is wrong, the first server stops within a second.
      fs.rmSync(`${directory}/lock`);
      fs.writeFileSync(`${directory}/lock`, "");
      const second = open(directory);
      expect(() => saveLater(restarted)).toThrow("the file was deleted while the server ran");
      restarted.close();
      second.close();
    },
    60_000,
  );
});
