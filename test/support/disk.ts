/**
 * A directory on a disk in memory. It keeps what was synced. At a power cut it forgets the rest,
 * wholly or in parts. It fails when a test wants it to.
 */
import type { Files, OpenFile } from "../../raft.ts";
import type { Random } from "./random.ts";

export type Operation = {
  what: "create" | "write" | "sync" | "rename" | "remove";
  file: string;
};
/** How an operation fails, and which share of it, from 0 to 1, is done nevertheless. */
export type Fault = { code: "ENOSPC" | "EIO"; share: number };
/** The share of unsynced writes that survives a power cut. "parts": any sectors of any writes. */
export type Keep = "nothing" | "everything" | "parts";

/** The number of zeros at the end of a file that a reader sees. More would only cost time. */
const ZEROS_SHOWN = 64;
/** How many zeros a log gets in advance. */
const ZEROS_IN_ADVANCE = 1 << 20;
/** The most files open at a time: the log, and the next log or a file for one read or write. */
const MAX_OPEN = 2;

/** Bytes that can be written at any offset. They grow in big steps, to be copied rarely. */
class Bytes {
  private space: Buffer = Buffer.alloc(0);
  length = 0;

  get all(): Buffer {
    return this.space.subarray(0, this.length);
  }

  patch(at: number, bytes: Uint8Array): void {
    const length = Math.max(this.length, at + bytes.length);
    if (length > this.space.length) {
      const larger = Buffer.alloc(2 * length);
      larger.set(this.all);
      this.space = larger;
    }
    this.space.set(bytes, at);
    this.length = length;
  }

  copy(): Bytes {
    const copy = new Bytes();
    copy.patch(0, this.all);
    return copy;
  }
}

const NOTHING = new Uint8Array();
/** Returns whether the first byte is zero, and each other byte is equal to the one before. */
const isZeros = (bytes: Uint8Array) =>
  bytes[0] === 0 && Buffer.compare(bytes.subarray(1), bytes.subarray(0, -1)) === 0;

class Content {
  /** The content in the page cache, the content on the platters, and the writes between the two. */
  seen = new Bytes();
  durable = new Bytes();
  unsynced: { at: number; bytes: Uint8Array; length: number }[] = [];
  /** The length of the file, with zeros at its end, and the length that is durable. */
  size = 0;
  durableSize = 0;

  /** Returns a copy of what a reader sees from `at` on. */
  read(at = 0, length = Number.POSITIVE_INFINITY): Buffer {
    const { seen, size } = this;
    const end = Math.min(at + length, size, seen.length + ZEROS_SHOWN);
    const copy = Buffer.alloc(Math.max(0, end - at));
    copy.set(seen.all.subarray(at, end));
    return copy;
  }

  /**
   * Writes bytes. The zeros that a log gets in advance only change its length, to save time. Fewer
   * zeros after other bytes may be the end of a command.
   */
  write(at: number, bytes: Uint8Array): void {
    this.size = Math.max(this.size, at + bytes.length);
    if (bytes.length > ZEROS_SHOWN && at >= this.seen.length && isZeros(bytes)) return;
    const { length } = bytes;
    const end = length - ZEROS_IN_ADVANCE;
    const isPast = end >= 0 && at + end >= this.seen.length;
    const kept = new Uint8Array(
      isPast && isZeros(bytes.subarray(end)) ? bytes.subarray(0, end) : bytes,
    );
    this.seen.patch(at, kept);
    this.unsynced.push({ at, bytes: kept, length });
  }

  sync(): void {
    for (const { at, bytes } of this.unsynced) this.durable.patch(at, bytes);
    this.unsynced = [];
    this.durableSize = this.size;
  }

  /** Drops unsynced writes, except those that reached the platters by chance. */
  forget(keep: Keep, random: Random): void {
    const sector = [1, 16, 512][Math.floor(random() * 3)] ?? 512;
    for (const { at, bytes, length } of keep === "nothing" ? [] : this.unsynced) {
      for (let i = 0, next = 0; i < length; i = next) {
        next = i + sector - ((at + i) % sector);
        const isKept = keep === "everything" || random() < 0.5;
        if (!isKept) continue;
        // After `bytes` there are zeros. An empty patch says how far they reach.
        this.durable.patch(at + i, i < bytes.length ? bytes.subarray(i, next) : NOTHING);
      }
    }
    this.unsynced = [];
    this.seen = this.durable.copy();
    // The file may have any length between the durable one and the last one.
    const share = keep === "parts" ? 1.5 * random() - 0.25 : Number(keep === "everything");
    const growth = Math.max(0, this.size - this.durableSize);
    const kept = Math.floor(growth * Math.min(1, Math.max(0, share)));
    this.durableSize = this.size = Math.max(this.seen.length, this.durableSize + kept);
  }
}

/** One directory on one disk. It outlives programs and power cuts. */
export class Disk {
  fault: (operation: Operation) => Fault | undefined = () => undefined;
  /** Decides whether a read fails. */
  isUnreadable: (file: string) => boolean = () => false;
  private names = new Map<string, Content>();
  private durableNames = new Map<string, Content>();
  private renamed: Map<string, Content>[] = [];
  private life = 0;
  private lockedIn = -1;
  /** The files that the running program has open. */
  private readonly handles = new Set<OpenFile>();

  constructor(
    private readonly random: Random,
    private readonly watch: (operation: Operation) => void = () => {},
  ) {}

  /** Returns the file system for a program that starts now. It fails once the program is dead. */
  files(): Files {
    const life = this.life;
    return {
      lock: (directory) => {
        this.alive(life);
        if (this.lockedIn === life) throw new Error("a running server has it");
        this.lockedIn = life;
        const isUsed = this.names.keys().some((file) => file.startsWith(`${directory}/`));
        for (const name of isUsed ? [] : ["log.new", "lock"]) {
          this.put(`${directory}/${name}`, new Uint8Array());
        }
        return () => this.unlock(life);
      },
      find: (file) => {
        this.checkRead(life, file);
        return this.names.get(file);
      },
      open: (file, flags) => {
        if (flags === "w") return this.create(life, file);
        this.checkRead(life, file);
        const content = this.names.get(file);
        if (!content) throw new Error("ENOENT: no such file");
        return this.handle(life, file, content);
      },
      rename: (from, to) => {
        this.act(life, { what: "rename", file: to }, () => this.rename(from, to), (share) => {
          if (share > 0.5) this.rename(from, to);
        });
        this.syncNames();
      },
      remove: (file) => {
        const remove = () =>
          void (this.names.delete(file) && this.renamed.push(new Map(this.names)));
        this.act(life, { what: "remove", file }, remove, (share) => share > 0.5 && remove());
      },
    };
  }

  read(file: string): Buffer | undefined {
    return this.names.get(file)?.read();
  }

  /** Returns the content of a file that would survive a power cut now. */
  durable(file: string): Buffer | undefined {
    return this.durableNames.get(file)?.durable.all;
  }

  /** Returns the length of a file that would survive a power cut now. */
  durableSize(file: string): number {
    return this.durableNames.get(file)?.durableSize ?? 0;
  }

  /** Returns the content that has this name now. */
  inode(file: string): unknown {
    return this.durableNames.get(file);
  }

  /** Writes a file durably, as a test wants it. */
  put(file: string, bytes: Uint8Array): void {
    const content = new Content();
    content.write(0, bytes);
    content.sync();
    this.names.set(file, content);
    this.durableNames.set(file, content);
  }

  /** Flips one bit, in the page cache and on the platters. A second flip undoes the first. */
  flip(file: string, at: number, bit: number): void {
    const content = this.names.get(file);
    for (const bytes of [content?.seen, content?.durable]) {
      bytes?.patch(at, Uint8Array.of((bytes.all[at] ?? 0) ^ (1 << bit)));
    }
  }

  /** Removes a file durably, without the program. */
  lose(file: string): void {
    this.names.delete(file);
    this.durableNames.delete(file);
  }

  /** Replaces the disk by an empty one. */
  wipe(): void {
    this.kill();
    [this.names, this.durableNames, this.renamed] = [new Map(), new Map(), []];
  }

  /** Kills the program. Its writes stay in the page cache. */
  kill(): void {
    this.life += 1;
    this.lockedIn = -1;
    this.handles.clear();
  }

  powerCut(keep: Keep = "parts"): void {
    this.kill();
    const survives = () => keep === "everything" || (keep === "parts" && this.random() < 0.5);
    for (const names of this.renamed) if (survives()) this.durableNames = names;
    this.renamed = [];
    this.names = new Map(this.durableNames);
    for (const content of this.names.values()) content.forget(keep, this.random);
  }

  private alive(life: number): void {
    if (life !== this.life) throw new Error("this program was killed");
  }

  private checkRead(life: number, file: string): void {
    this.alive(life);
    if (this.isUnreadable(file)) throw Object.assign(new Error("EIO: read"), { code: "EIO" });
  }

  /** Unlocks the directory, once the program has closed all its files. */
  private unlock(life: number): void {
    if (this.lockedIn !== life) return;
    if (this.handles.size > 0) {
      throw new Error(`The lock is released with ${this.handles.size} files open.`);
    }
    this.lockedIn = -1;
  }

  private create(life: number, file: string): OpenFile {
    const content = new Content();
    const made = () => void this.renamed.push(new Map(this.names.set(file, content)));
    this.act(life, { what: "create", file }, made, (share) => share > 0.5 && made());
    return this.handle(life, file, content);
  }

  private handle(life: number, file: string, content: Content): OpenFile {
    /** Throws if the handle is closed: its number may belong to another file by then. */
    const check = () => {
      this.alive(life);
      if (!this.handles.has(handle)) throw new Error(`EBADF: ${file} is closed`);
    };
    const act = (what: Operation["what"], whole: () => void, part: (share: number) => void) => {
      check();
      this.act(life, { what, file }, whole, part);
    };
    const close = () => {
      if (life !== this.life) return; // The kernel has closed it.
      check();
      this.handles.delete(handle);
    };
    const handle: OpenFile = {
      write: (bytes, at) => {
        const write = (share: number) =>
          content.write(at, bytes.subarray(0, Math.floor(bytes.length * share)));
        act("write", () => write(1), write);
        // After a failed sync Linux takes the pages for clean: to try again would prove nothing.
        const fail = () => {
          const { seen, size } = content;
          content.forget("parts", this.random);
          Object.assign(content, { seen, size });
        };
        act("sync", () => content.sync(), fail);
      },
      read: (at, length) => {
        check();
        this.checkRead(life, file);
        return content.read(at, length);
      },
      close,
      [Symbol.dispose]: close,
    };
    if (this.handles.size >= MAX_OPEN) throw new Error(`EMFILE: ${file} is one too many`);
    this.handles.add(handle);
    return handle;
  }

  private syncNames(): void {
    this.durableNames = new Map(this.names);
    this.renamed = [];
  }

  private rename(from: string, to: string): void {
    const content = this.names.get(from);
    if (!content) throw new Error("ENOENT: no such file");
    this.names.set(to, content).delete(from);
    this.renamed.push(new Map(this.names));
  }

  private act(
    life: number,
    operation: Operation,
    whole: () => void,
    part: (share: number) => unknown,
  ): void {
    this.alive(life);
    const fault = this.fault(operation);
    this.alive(life); // The test may have killed the program just now, before this operation.
    if (fault) {
      part(fault.share);
      throw Object.assign(new Error(`${fault.code}: ${operation.what}`), { code: fault.code });
    }
    whole();
    this.watch(operation);
  }
}
