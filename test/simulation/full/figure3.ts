/**
 * Checks the five properties of Figure 3 after every turn of a server, from the server's memory.
 * The judge of the core alone checks more rules. This one is independent of it, for whole servers.
 */
import type { Entry, Raft } from "../../../raft.ts";
import { isSameEntry } from "../../support/entries.ts";

/** A server since its last start. Entries before the base of its log may be missing. */
type Seen = {
  core: Raft;
  log: Entry[];
  currentTerm: number;
  commitIndex: number;
  lastApplied: number;
  ledTerm: number;
};

export class Figure3 {
  private readonly leaders = new Map<number, string>();
  /** Every entry that was ever in a log, by term and index, with the term of its predecessor. */
  private readonly known = new Map<string, { entry: Entry; prevTerm: number }>();
  private readonly servers = new Map<string, Seen>();
  private readonly committed: Entry[] = [];

  /** Returns whether an entry was ever committed. */
  get isUsed(): boolean {
    return this.committed.length > 0;
  }

  /** Throws at a broken promise. */
  judge(name: string, core: Raft): void {
    const { currentTerm, commitIndex, lastApplied } = core;
    let seen = this.servers.get(name);
    if (seen?.core !== core) {
      // Entries that were saved as committed are checked again, because the server may have crashed
      // before the judge saw them.
      seen = { core, log: [], currentTerm, commitIndex: 0, lastApplied, ledTerm: 0 };
      this.servers.set(name, seen);
    }
    for (const what of ["currentTerm", "commitIndex", "lastApplied"] as const) {
      if (core[what] < seen[what]) {
        throw new Error(`${name}'s ${what} decreases from ${seen[what]} to ${core[what]}`);
      }
    }
    this.judgeLog(name, seen);
    this.judgeLeader(name, seen);
    this.judgeCommitted(name, seen);
    Object.assign(seen, { currentTerm, commitIndex, lastApplied });
  }

  /** Log Matching and Leader Append-Only. Unchanged objects are unchanged entries. */
  private judgeLog(name: string, { core, log, currentTerm, ledTerm }: Seen): void {
    const now = core.log;
    let same = Math.min(log.length, now.lastIndex);
    while (same > now.baseIndex && log[same - 1] !== now.at(same)) same -= 1;
    const isLeader = core.role.name === "Leader" && ledTerm === currentTerm
      && core.currentTerm === currentTerm;
    if (isLeader && same < log.length) {
      throw new Error(`Leader Append-Only: the leader ${name} changes its log after ${same}`);
    }
    log.length = Math.max(same, now.baseIndex);
    for (let index = log.length + 1; index <= now.lastIndex; index += 1) {
      const entry = now.at(index);
      const prevTerm = now.at(index - 1).term;
      const key = `${entry.term} ${index}`;
      const before = this.known.get(key);
      if (!before) this.known.set(key, { entry, prevTerm });
      else if (before.prevTerm !== prevTerm || !isSameEntry(before.entry, entry)) {
        throw new Error(
          `Log Matching: entry ${index} of term ${entry.term} in ${name}, or the entry before it, `
            + "differs from that of other servers",
        );
      }
      log.push(entry);
    }
  }

  /** Election Safety and Leader Completeness: a new leader has all committed entries. */
  private judgeLeader(name: string, seen: Seen): void {
    const { core, log } = seen;
    const { currentTerm } = core;
    if (core.role.name !== "Leader" || seen.ledTerm === currentTerm) return;
    seen.ledTerm = currentTerm;
    const leader = this.leaders.get(currentTerm) ?? name;
    this.leaders.set(currentTerm, leader);
    if (leader !== name) {
      throw new Error(`Election Safety: ${leader} and ${name} lead in term ${currentTerm}`);
    }
    const missing = this.committed.findIndex(({ term }, i) =>
      i + 1 > core.log.baseIndex && term < currentTerm && log[i]?.term !== term
    );
    if (missing === -1) return;
    throw new Error(
      `Leader Completeness: ${name} leads in term ${currentTerm}, without entry ${missing + 1}, `
        + `which was committed in term ${this.committed[missing]?.term}`,
    );
  }

  /** State Machine Safety: servers commit the same entry at an index. */
  private judgeCommitted(name: string, { core, log, commitIndex }: Seen): void {
    const first = Math.max(commitIndex, core.log.baseIndex) + 1;
    for (let index = first; index <= core.commitIndex; index += 1) {
      const entry = log[index - 1];
      if (!entry) throw new Error(`${name} commits entry ${index}, and its log has none`);
      const other = this.committed[index - 1] ??= entry;
      if (other.term === entry.term && isSameEntry(other, entry)) continue;
      throw new Error(
        `State Machine Safety: ${name} commits entry ${index} of term ${entry.term}, `
          + `and another server the one of term ${other.term}`,
      );
    }
  }
}
