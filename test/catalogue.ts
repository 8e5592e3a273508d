/**
 * The bugs that our tests must catch, and the program that plants them. A test suite is worth what
 * it catches. So each bug is planted alone in a copy of the project, by replacing exact pieces of
 * raft.ts, and a command must fail there.
 *
 * Bugs 1 to 50 were found in published implementations of Raft, or break a rule of the paper. From
 * 51 on they are mistakes that this implementation invites.
 *
 *   bun test/catalogue.ts --check            which pieces raft.ts no longer has exactly once
 *   bun test/catalogue.ts --hunt [NUMBER]    the seeds that each bug needs, from seed 1, as a table
 *   bun test/catalogue.ts --thorough         the bugs that only the thorough run catches
 *
 * The thorough run (`CI=1 bun test`) plants all bugs. The short run plants none, but it runs the same
 * seeds and small tests, so it would catch each of them, except for these:
 */
export const onlyThorough: readonly string[] = ["53"];

import {
  cpSync,
  globSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import os from "node:os";
import path from "node:path";
import { SHORT_SEEDS } from "./support/thorough.ts";

const root = path.join(import.meta.dir, "..");
const COPIED = ["raft.ts", "cli.ts", "package.json", "tsconfig.json", "test"];

/**
 * Text of raft.ts that occurs exactly once there, and its replacement. The layout does not matter:
 * the formatter may break either line elsewhere, and add a comma before a closing bracket.
 */
type Change = readonly [before: string, after: string];
/** The simulator, in one of its modes, at the first seed that is known to catch the bug. */
type Simulator = { mode: "core" | "full"; seed: number };
/** A smaller test, by its file and its title, or a part of both. */
type SmallTest = { file: string; title: string };
export type Catcher = Simulator | SmallTest;

type Planted = {
  id: string;
  name: string;
  changes: readonly Change[];
  caughtBy: readonly Catcher[];
};

// ------------------------------------------- The bugs -------------------------------------------

/** How a leader begins where no log is. */
const MEMBERS_FIRST =
  "    else this.appendMembers(role, this.members.map((member) => this.withCurrentDisk(member)));\n";

export const planted: readonly Planted[] = [
  // Elections.
  {
    id: "1",
    name: "A vote is answered before it is durable.",
    changes: [[
      `type === "AppendEntries" || type === "InstallSnapshot";`,
      `type === "RequestVoteReply"
        || type === "AppendEntries" || type === "InstallSnapshot";`,
    ]],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "node", title: "neither a vote, nor a RequestVote, nor an" },
    ],
  },
  {
    id: "2",
    name: "The vote is kept when the term changes.",
    changes: [["    this.votedFor = undefined;\n", ""]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "3",
    name: "The vote is cleared when the role changes within a term.",
    changes: [[
      "    this.role = role;\n",
      `    const steppedDown = role.name === "Follower" && this.role.name !== "Follower";
    if (steppedDown) this.votedFor = undefined;
    this.role = role;\n`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "4",
    name: "\"Up to date\" compares length before term.",
    changes: [[
      "if (lastLogTerm !== this.log.lastTerm) return lastLogTerm > this.log.lastTerm;\n"
      + "    return lastLogIndex >= this.log.lastIndex;",
      "if (lastLogIndex !== this.log.lastIndex) return lastLogIndex > this.log.lastIndex;\n"
      + "    return lastLogTerm >= this.log.lastTerm;",
    ]],
    caughtBy: [{ mode: "core", seed: 29 }],
  },
  {
    id: "5",
    name: "\"Up to date\" is left out.",
    changes: [["isFree && this.isUpToDate(m) &&", "isFree &&"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "6",
    name: "A duplicated vote reply is counted twice.",
    changes: [
      [
        "if (role.votes.has(voter) || !this.member(voter)?.votes)",
        "if (!this.member(voter)?.votes)",
      ],
      [
        "role.votes.add(voter);",
        "role.votes.add(role.votes.has(voter) && voter !== this.settings.name ? `${voter} again` : voter);",
      ],
    ],
    caughtBy: [{ mode: "core", seed: 5 }],
  },
  {
    id: "7",
    name: "A pre-vote reply is counted as a vote.",
    changes: [
      [` || m.preVote !== (role.name === "PreCandidate")) return;`, ") return;"],
      ["    if (m.preVote && m.campaign !== this.campaigns) return;\n", ""],
      [
        "if (m.term === this.currentTerm + (m.preVote ?",
        `if (m.term === this.currentTerm + (role.name === "PreCandidate" ?`,
      ],
    ],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "8",
    name: "The election timeout is drawn once, not per campaign.",
    changes: [["(1 + this.#random() / 2)", "(1 + (this.drawn ??= this.#random()) / 2)"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "9",
    name: "A vote reply of an earlier term is counted.",
    changes: [["if (m.term === this.currentTerm + (", "if (m.term <= this.currentTerm + ("]],
    caughtBy: [{ mode: "core", seed: 9 }],
  },
  {
    id: "10",
    name: "A candidate or leader does not step down for a higher term.",
    changes: [[
      `&& !isProposed) this.adopt`,
      `&& !isProposed
      && this.role.name !== "Candidate" && this.role.name !== "Leader") this.adopt`,
    ]],
    caughtBy: [{ mode: "core", seed: 2 }],
  },
  {
    id: "11",
    name: "PreVote is left out: a server that rejoins deposes a healthy leader.",
    changes: [[
      `this.electionDueAt) this.campaign("PreCandidate")`,
      `this.electionDueAt) this.campaign("Candidate")`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "12",
    name: "CheckQuorum is left out: a leader cut off stays leader for ever.",
    changes: [["} else if (!this.hearsLeader() || (", "} else if ((now < 0) || ("]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "13a",
    name: "Refused votes postpone the election timer.",
    changes: [[
      `private replyVote(m: Of<"RequestVote">, voteGranted: boolean): void {`,
      `private replyVote(m: Of<"RequestVote">, voteGranted: boolean): void {
    if (!voteGranted) this.resetElectionTimer();`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "13b",
    name: "Messages of an old term postpone the election timer.",
    changes: [[
      "const { type, term } = message;",
      "const { type, term } = message;\n    if (term < this.currentTerm) this.resetElectionTimer();",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },

  // Replication.
  {
    id: "14",
    name: "An entry of an earlier term is committed by counting (Figure 8).",
    changes: [[
      "if (this.log.matches(n, this.currentTerm)) this.commitTo(n);",
      "this.commitTo(n);",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "15",
    name: "The no-op at the start of a term is left out.",
    changes: [[
      `if (firstIndex > 1) this.propose("noop");`,
      "if (firstIndex > 1) return;",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "16",
    name: "The log is truncated although nothing conflicts.",
    changes: [[
      "this.matches(entry.index, entry.term)) continue;",
      "this.matches(entry.index, entry.term) && entry.index <= commitIndex) continue;",
    ]],
    caughtBy: [{ mode: "core", seed: 2 }],
  },
  {
    id: "17",
    name: "The previous entry's term is not compared.",
    changes: [[
      "if (!this.log.matches(m.prevLogIndex, m.prevLogTerm))",
      "if (m.prevLogIndex > this.log.lastIndex)",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "18",
    name: "`commitIndex` follows `leaderCommit` past the entries of the request.",
    changes: [[
      "Math.min(m.leaderCommit, matchIndex)",
      "Math.min(m.leaderCommit, this.log.lastIndex)",
    ]],
    caughtBy: [{ mode: "core", seed: 14 }],
  },
  {
    id: "19",
    name: "`matchIndex` goes back when acknowledgements are reordered.",
    changes: [["if (m.matchIndex > follower.matchIndex) {", "{"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "20",
    name: "An acknowledgement is sent before the entries are durable.",
    changes: [[
      `type === "AppendEntries" || type === "InstallSnapshot";`,
      `type === "AppendEntriesReply"
        || type === "AppendEntries" || type === "InstallSnapshot";`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "21",
    name: "`commitIndex` goes back.",
    changes: [[
      "if (index <= this.commitIndex) return;",
      "if (index === this.commitIndex) return;",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "22",
    name: "`nextIndex` backs up past the start of the log.",
    changes: [[
      "Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm)) + 1;",
      "Math.min(nextIndex - 1, this.log.lastUpTo(m.hintIndex, m.hintTerm));",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "23",
    name: "After one lost datagram the window never opens again.",
    changes: [[
      "Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm)) + 1;",
      "Math.max(nextIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm) + 1);",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "24",
    name: "A conflict costs one round trip per entry.",
    changes: [[
      "const upTo = this.log.lastUpTo(m.prevLogIndex, m.prevLogTerm);",
      "const upTo = Math.min(m.prevLogIndex - 1, this.log.lastIndex);",
    ], [
      "log.lastUpTo(m.hintIndex, m.hintTerm)",
      "m.hintIndex",
    ]],
    caughtBy: [
      { file: "paper", title: "one AppendEntries RPC will be required for each term" },
    ],
  },

  // Reads and clients.
  {
    id: "25",
    name: "A read is served from a leader's state without a round.",
    changes: [["r.round >= confirmed || ", ""]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "26",
    name: "A read is served before an entry of the own term is committed.",
    changes: [["Math.max(this.commitIndex, role.firstIndex)", "this.commitIndex"]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "27",
    name: "A retried command is applied twice.",
    changes: [["const known = session.applied.get(sequence);", "const known = undefined;"]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "28",
    name: "A command is answered when it is logged, not when it is applied.",
    changes: [[
      "if (index !== undefined) this.proposals.set(",
      `if (kind === "commands" && index !== undefined) {
      for (const { request, first, count } of shares) {
        const answers = Array.from({ length: count },
          () => ({ kind: "answer", data: Buffer.of(1) }));
        if (request.type === "Commands") this.answerCommands(request, first, answers);
      }
    } else if (index !== undefined) this.proposals.set(`,
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "29",
    name: "A follower answers a read from its own state at once.",
    changes: [[
      "this.followerReads.push(m);",
      "this.answerRead(m);",
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "30",
    name: "A session is forgotten at different points of the log on different servers.",
    changes: [[
      "const applied = this.sessions.apply(",
      `const now = this.world.clock.now();
    if (now > (this.forgetAt ??= now + 4000)) {
      this.forgetAt = undefined;
      this.sessions["open"].clear();
    }
    const applied = this.sessions.apply(`,
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },

  // Storage and wire.
  {
    id: "40",
    name: "A storage error is ignored and the node goes on.",
    changes: [[
      "log.file.write(Buffer.concat([frame, NO_FRAME]), log.end); log.file.sync();",
      "log.file.write(Buffer.concat([frame, NO_FRAME]), log.end); try { log.file.sync(); } catch {}",
    ]],
    caughtBy: [
      { mode: "full", seed: 2 },
      { file: "node", title: "a server whose disk fails at a sync stops with the" },
    ],
  },
  {
    id: "41",
    name: "A record damaged in the middle of the log is silently dropped with all that follows.",
    changes: [["this.ensure(framesIn(log.subarray(at)).next().done,", "this.ensure(true,"]],
    caughtBy: [
      { mode: "full", seed: 2 },
      { file: "storage", title: "refuses a flipped bit before a whole frame, and" },
    ],
  },
  {
    id: "42",
    name: "A wiped node comes back as the voter it was: it votes.",
    changes: [[
      "this.isUpToDate(m) && this.mayVote(m);",
      "this.isUpToDate(m);",
    ]],
    caughtBy: [
      { mode: "core", seed: 19 },
      { file: "members", title: "elects no leader with a server that restarted" },
    ],
  },
  {
    id: "42b",
    name: "A wiped node comes back as the voter it was: it is counted.",
    changes: [["      if (!this.usesNamedDisk(member)) return -Infinity;\n", ""]],
    caughtBy: [
      { mode: "core", seed: 19 },
      { file: "members", title: "that is not named counts neither for an entry, nor" },
    ],
  },
  {
    id: "43",
    name: "An authentication code is not checked for one kind of message.",
    changes: [[
      "if (!code || !timingSafeEqual(",
      `if (!code || kind === "client" && !timingSafeEqual(`,
    ]],
    caughtBy: [{
      file: "wire",
      title: "the code is checked for every type of message of every kind",
    }],
  },
  {
    id: "44a",
    name: "A term of `NaN`, `-0`, `1.5` or `2 ** 53` is accepted.",
    changes: [[
      "return isNatural && Number(raw) < 2 ** 48 ? raw : undefined;",
      `return typeof raw === "number" || isNatural ? raw : undefined;`,
    ]],
    caughtBy: [{ file: "wire", title: "a value other than a natural number for one in" }],
  },
  {
    id: "44b",
    name: "A message with a missing field is accepted.",
    changes: [[
      "raw.length !== list.length) return undefined;\n  const fields",
      "raw.length > list.length) return undefined;\n  learnAddresses = learnAddresses.slice(0, raw.length) as never;\n"
      + "  const fields",
    ]],
    caughtBy: [{ file: "wire", title: "missing or additional fields, and messages that" }],
  },
  {
    id: "45",
    name: "A send error loses the datagram of a healthy peer.",
    changes: [["const SEND_TRIES = 5;", "const SEND_TRIES = 1;"]],
    caughtBy: [{ file: "datagrams", title: "datagrams to a closed port cost an open port no" }],
  },
  {
    id: "46",
    name: "What was read from the page cache at start is promised again without a sync.",
    changes: [[
      "log.file.write(Buffer.concat([frame, NO_FRAME]), log.end); log.file.sync();",
      "log.file.write(Buffer.concat([frame, NO_FRAME]), log.end); if (this.log) log.file.sync();",
    ]],
    caughtBy: [
      { mode: "full", seed: 2 },
      { file: "storage", title: "writes and syncs what it read before any promise" },
    ],
  },
  {
    id: "47",
    name: "A reordered command of a session is taken for a duplicate and lost.",
    changes: [[
      "if (sequence <= session.acknowledged) return",
      `const newest = Math.max(session.acknowledged, ...session.applied.keys());
    if (sequence <= newest && !session.applied.has(sequence)) return`,
    ]],
    caughtBy: [
      { mode: "full", seed: 56 },
      { file: "node", title: "a command that was overtaken by a later one is no duplicate" },
    ],
  },
  {
    id: "49",
    name: "A datagram recorded before a restart is accepted after it.",
    changes: [[
      " || toBoot !== this.self.boot) return \"misaddressed\";",
      ") return \"misaddressed\";",
    ]],
    caughtBy: [{ file: "wire", title: "a datagram from before the receiver's restart has" }],
  },
  {
    id: "50",
    name: "After a pause, a server judges its leader silent before reading what has arrived.",
    changes: [["clock.defer(() => clock.defer(() => this.guard(tick)))", "this.guard(tick)"]],
    caughtBy: [{ file: "node", title: "keeps its leader after a follower's pause: the" }],
  },

  // Mistakes that this implementation in particular invites.
  {
    id: "51",
    name: "A start is not counted: the boot stays what it was.",
    changes: [[
      "this.identity.boot += 1 + Math.floor(random() * 2 ** 20);",
      "this.identity.boot = Math.max(1, this.identity.boot);",
    ]],
    caughtBy: [{ mode: "full", seed: 5 }],
  },
  {
    id: "52",
    name: "A retry is a new command: it gets another sequence number.",
    changes: [[
      `this.start({ type: "Commands", ...request }, batch);`,
      `const next = () => this.sequence += 1;
      this.start({ type: "Commands", ...request, get sequence() { return next(); } }, batch);`,
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "53",
    name: "A client acknowledges answers that it still waits for.",
    changes: [["acknowledged: oldest - 1", "acknowledged: sequence - 1"]],
    caughtBy: [{ mode: "full", seed: 56 }],
  },
  {
    id: "54",
    name: "A torn frame is taken for a whole one: its checksum is not compared.",
    changes: [[" && frameChecksum(frame) === header.readUInt32BE(8)", ""]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "55",
    name: "A datagram is heard as often as the network repeats it.",
    changes: [["return sequence > (from.seen[", "return sequence >= (from.seen["]],
    caughtBy: [{ file: "wire", title: "however often it arrives" }],
  },
  {
    id: "56",
    name: "A server's timer, once it has gone off, is not set again.",
    changes: [["      this.wakesAt = Infinity;\n", ""]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "57",
    name: "An entry that takes the place of a saved one counts as saved.",
    changes: [["    this.savedIndex = Math.min(this.savedIndex, this.lastIndex);\n", ""]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "58",
    name: "A late acknowledgement confirms the latest round instead of its own.",
    changes: [["Math.max(follower.confirmedRound, m.round)", "follower.sentRound"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "59",
    name: "A read is confirmed by the round that was under way when it came.",
    changes: [["r.round >= confirmed", "r.round > confirmed"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "60",
    name: "A leader counts its own copy of an entry before its disk has it.",
    changes: [[
      "this.majorityValue(role, this.log.savedIndex,",
      "this.majorityValue(role, this.log.lastIndex,",
    ]],
    caughtBy: [{ mode: "full", seed: 12 }],
  },
  {
    id: "61",
    name: "The term is read back at a start, the vote is not.",
    changes: [["votedFor: `${data}` || undefined", "votedFor: undefined"]],
    caughtBy: [{ mode: "full", seed: 42 }],
  },
  {
    id: "62",
    name: "What an overwritten entry left behind it comes back at a start.",
    changes: [[
      "this.entries.splice(index - this.base.index - 1, Infinity, record);",
      "this.entries[index - this.base.index - 1] = record;",
    ]],
    caughtBy: [{ file: "storage", title: "no entry that followed a replaced entry" }],
  },
  {
    id: "63",
    name: "A client never turns to another server than the one that does not answer.",
    changes: [[`this.servers[next % this.servers.length] ?? ""`, `this.target || \`\${next}\``]],
    caughtBy: [{ mode: "full", seed: 7 }],
  },
  {
    id: "64",
    name: "A refusal takes `nextIndex` back below what the follower is known to have.",
    changes: [[
      "Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm))",
      "this.log.lastUpTo(m.hintIndex, m.hintTerm)",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "65",
    name: "After a refusal the leader pipelines, although the logs may still differ.",
    changes: [[
      "follower.mode = \"probing\";\n    follower.nextIndex = next;",
      "follower.mode = \"replicating\";\n    follower.nextIndex = next;",
    ]],
    caughtBy: [{ file: "replication", title: "several refusals cause one restart of sending" }],
  },
  {
    id: "66",
    name: "A granted pre-vote is taken for a term that has begun.",
    changes: [[`type === "RequestVote" || isGrantedPreVote;`, `type === "RequestVote";`]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "67",
    name: "A read is answered before what was committed when it came is applied.",
    changes: [[" || r.index > this.lastApplied", ""]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "68",
    name: "The sizes of the entries that were cut off stay, and batches are measured wrongly.",
    changes: [["    this.endOffsets.splice(first - this.baseIndex);\n", ""]],
    caughtBy: [{ file: "log", title: "the log answers as a plain list does" }],
  },
  {
    id: "69",
    name: "A client is answered when another leader's entry is applied in place of its own.",
    changes: [
      ["for (const request of [...this.proposals.values()].flat()) this.redirect(request);", ""],
      ["    this.proposals.clear();\n", ""],
    ],
    caughtBy: [{ mode: "full", seed: 31 }],
  },
  {
    id: "70",
    name: "A vote binds the memory, but only a changed term makes it to the disk.",
    changes: [[" || saved.votedFor !== votedFor\n", "\n"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },

  // Snapshots.
  {
    id: "31",
    name: "The log is compacted before the snapshot is durable.",
    changes: [["file.write(bytes, at); file.sync();", "file.write(bytes, at);"]],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "storage", title: "that is interrupted at any operation loses nothing" },
    ],
  },
  {
    id: "32",
    name: "The snapshot leaves out the client sessions.",
    changes: [["const session of open) yield", "const session of []) yield"]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "33",
    name: "The snapshot leaves out the members.",
    changes: [[
      "members: core.membersAt(lastApplied)",
      "members: []",
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "34",
    name: "An old snapshot takes the state back in time.",
    changes: [[
      "if (log.matches(index, term)) {",
      "if (log.matches(index, term) && index > log.baseIndex) {",
    ]],
    caughtBy: [{ mode: "core", seed: 8 }],
  },
  {
    id: "35",
    name: "Chunks of two snapshots are mixed.",
    changes: [[
      "this.incoming?.leaderTerm !== m.term || this.incoming.index < index",
      "this.incoming === undefined || this.incoming.index < index",
    ]],
    caughtBy: [{
      file: "snapshots",
      title: "a chunk from another leader discards a partial snapshot",
    }],
  },
  {
    id: "48",
    name: "An AppendEntries that begins below the snapshot is refused for ever.",
    changes: [["return index < this.baseIndex || this", "return this"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "71",
    name: "Entries are applied to a state that is only half restored.",
    changes: [[
      "    return this.isInstalling ? this.lastApplied : Math.min(",
      "    return Math.min(",
    ]],
    caughtBy: [{ file: "paper", title: "8. Reset state machine using snapshot contents" }],
  },
  {
    id: "72",
    name: "A snapshot that is being installed gives way to the next one, half restored as it is.",
    changes: [["    if (isNew && this.isInstalling) return reply(true, 0);\n", ""]],
    caughtBy: [{
      file: "snapshots",
      title: "a complete snapshot is installed before the next one",
    }],
  },
  {
    id: "73",
    name: "A snapshot has what was applied while it was written.",
    changes: [["    if (this.old && !this.old.has(key)) this.old.set(key, before);\n", ""]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "74",
    name: "A log that a received snapshot has superseded is there again at a start.",
    changes: [[
      "    if (last?.term !== snapshot.term) [this.base, this.entries] = [snapshot, []];\n",
      "",
    ]],
    caughtBy: [{ file: "storage", title: "that was received replaces a log without the" }],
  },
  {
    id: "75",
    name: "A follower's read joins the question to the leader that was sent before it came.",
    changes: [["const reads = this.followerReads.splice(0);", ""], [
      "this.awaited.push({ index, reads });",
      "this.awaited.push({ index, reads: this.followerReads.splice(0) });",
    ], ["of reads) this.redirect(read);", "of this.followerReads.splice(0)) this.redirect(read);"]],
    caughtBy: [
      { file: "node", title: "that arrives while a request for the read index is" },
    ],
  },
  {
    id: "76",
    name: "A follower answers a read when the leader has told the index, applied or not.",
    changes: [["awaited[0] && awaited[0].index <= core.lastApplied", "awaited[0]"]],
    caughtBy: [
      { mode: "full", seed: 5 },
      { file: "node", title: "waits until the follower has every entry that was" },
    ],
  },

  // Members.
  {
    id: "36",
    name: "Two membership changes are in flight at once.",
    changes: [[
      "commitIndex >= Math.max(configurationIndex, role.firstIndex)",
      "commitIndex >= role.firstIndex",
    ]],
    caughtBy: [
      { mode: "core", seed: 8 },
      { file: "members", title: "waits until the change before it is committed" },
    ],
  },
  {
    id: "37",
    name: "A membership change before an entry of the own term is committed.",
    changes: [[
      "commitIndex >= Math.max(configurationIndex, role.firstIndex)",
      "commitIndex >= configurationIndex",
    ]],
    caughtBy: [
      { mode: "core", seed: 9 },
      { file: "members", title: "waits until an entry of the leader's own term is" },
    ],
  },
  {
    id: "38",
    name: "A server without a vote is counted in a majority.",
    changes: [["const values = voters.map(", "const values = this.members.map("]],
    caughtBy: [
      { mode: "core", seed: 8 },
      { file: "members", title: "for an entry counts no learner (catalogue 38)" },
    ],
  },
  {
    id: "39",
    name: "A removed server keeps campaigning.",
    changes: [[
      `    if (!this.mayLead) return this.become({ name: "Follower", leader: undefined });\n`,
      "",
    ]],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "members", title: "does not campaign once its removal is committed" },
    ],
  },
  {
    id: "77",
    name: "A list of members stays in force when its entry is truncated away.",
    changes: [[
      "    this.configurations = this.configurations.filter(({ index }) => index < first);\n",
      "",
    ]],
    caughtBy: [{ file: "members", title: "gives way to the one before it when its entry is" }],
  },
  {
    id: "78",
    name: "A snapshot has the members of the end of the log, not of its own index.",
    changes: [["core.membersAt(lastApplied)", "core.members"]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "79",
    name: "Who is to be removed gives up before that is committed, and is needed.",
    changes: [["[this.members, before].some", "[this.members].some"]],
    caughtBy: [
      { mode: "core", seed: 3 },
      { file: "members", title: "may lead until its removal is committed, but does" },
    ],
  },
  {
    id: "80",
    name: "Who was never heard in this term is taken for a part of a working majority.",
    changes: [["return confirmedRound > 0 && this.now", "return this.now"]],
    caughtBy: [
      { file: "members", title: "that would leave no reachable majority is refused" },
    ],
  },
  {
    id: "81",
    name: "An answer of a server that was removed counts for the next one of that name.",
    changes: [[
      "if (!follower || m.round <= follower.ignoreUpToRound) return",
      "if (!follower) return",
    ]],
    caughtBy: [{ file: "members", title: "that is added again starts with nothing" }],
  },
  {
    id: "82",
    name: "A server takes entries of a cluster before it remembers which one it has joined.",
    changes: [[
      "this.identity.id = id; for (const _ of this.rewriteLog());",
      "this.identity.id = id;",
    ]],
    caughtBy: [{ file: "members", title: "saves its cluster before it acknowledges an entry" }],
  },
  {
    id: "83",
    name: "A leader that has removed itself counts itself until that is committed.",
    changes: [[
      "return values.sort((a, b) => b - a)[majorityOf(voters) - 1] ?? 0;",
      "if (!this.member(this.settings.name)?.votes) values.push(own);\n"
      + "    return values.sort((a, b) => b - a)[majorityOf(voters) - 1] ?? 0;",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "84",
    name: "Who starts again is given the answers to what it asked before.",
    changes: [["    if (calls && calls !== to.calls) return;\n", ""]],
    caughtBy: [{ file: "node", title: "a restarted server gets no answers to its earlier" }],
  },
  {
    id: "85",
    name: "A new disk is named and keeps the vote of the lost one.",
    changes: [[
      "{ ...this.withCurrentDisk(member), votes: false }",
      "this.withCurrentDisk(member)",
    ]],
    caughtBy: [
      { file: "members", title: "that replaces a lost one is named for a learner" },
    ],
  },
  {
    id: "86",
    name: "Disks that do not count are taken for a part of a working majority.",
    changes: [[
      "(follower && !this.recentActive(follower)) || !this.usesNamedDisk(voter);",
      "follower && !this.recentActive(follower);",
    ]],
    caughtBy: [{ file: "members", title: "that is not named is no part of a reachable" }],
  },
  {
    id: "87",
    name: "A server leads with a disk that its log does not name.",
    changes: [[
      "return member?.votes === true && this.usesNamedDisk(member);",
      "return member?.votes === true;",
    ]],
    caughtBy: [
      { mode: "core", seed: 417 },
      { file: "members", title: "that is not named neither leads nor becomes the" },
    ],
  },
  {
    id: "88",
    name: "A disk that has lost a tail of its log is sent nothing any more.",
    changes: [[
      "return member && this.readmit(role, member);",
      "return;",
    ]],
    caughtBy: [
      { file: "members", title: "that has lost a tail of its log is treated as" },
    ],
  },
  {
    id: "89",
    name: "A server returns to a disk that it has lost.",
    changes: [["boot < from.boot : from.ended.has(disk)", "boot < from.boot : false"]],
    caughtBy: [{ file: "wire", title: "a new disk, in a datagram for our present boot" }],
  },
  {
    id: "90",
    name: "Two starts of one copied directory are the same life.",
    changes: [["1 + Math.floor(random() * 2 ** 20)", "1"]],
    caughtBy: [{ file: "storage", title: "from copies of one directory draws different boot" }],
  },
  {
    id: "91",
    name: "What a lost disk had acknowledged is taken for what the new one has.",
    changes: [["    this.trackFollower(role, member.name);\n", ""]],
    caughtBy: [
      { file: "members", title: "that replaces another one has acknowledged nothing" },
    ],
  },
  // A leader whose port is closed.
  {
    id: "92",
    name: "A single refusal is taken for the end of the leader.",
    changes: [["if (this.portClosedAt <= this.heardAt) {", "if (now < this.heardAt) {"]],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "ports", title: "is probed again a moment after one refusal" },
    ],
  },
  {
    id: "93",
    name: "A refusal counts though the leader was heard since.",
    changes: [["this.portClosedAt <= this.heardAt", "this.portClosedAt < 0"]],
    caughtBy: [
      { mode: "core", seed: 3 },
      { file: "ports", title: "refusals by another server, too early, or too close" },
    ],
  },
  {
    id: "94",
    name: "A refusal of anybody counts as one of the leader.",
    changes: [["this.leader !== peer || !isLate", "!isLate"]],
    caughtBy: [{ file: "ports", title: "refusals by another server, too early, or too close" }],
  },
  {
    id: "95",
    name: "A refusal counts though the leader is heard.",
    changes: [["this.leader !== peer || !isLate", "this.leader !== peer"]],
    caughtBy: [{ file: "ports", title: "refusals by another server, too early, or too close" }],
  },
  {
    id: "96",
    name: "Who finds the leader gone campaigns without a pre-vote.",
    changes: [[
      "    this.leaderLostAt = this.now;\n",
      "    this.leaderLostAt = this.now;\n"
      + "    return this.campaign(\"Candidate\");\n",
    ]],
    caughtBy: [{ file: "ports", title: "costs no election if a minority sees forged refusals" }],
  },
  {
    id: "97",
    name: "A knock that is lost is not repeated.",
    changes: [["this.probeAt = this.now + this.settings.heartbeatMs;", "this.probeAt = Infinity;"]],
    caughtBy: [{ file: "ports", title: "is probed, then once per heartbeat until it is" }],
  },
  {
    id: "98",
    name: "Who finds the leader gone is impatient for ever.",
    changes: [[
      "Math.max(heartbeatMs, this.now - this.leaderLostAt)",
      "this.leaderLostAt > 0 ? heartbeatMs : Infinity",
    ]],
    caughtBy: [{ file: "ports", title: "is replaced by campaigns that are retried quickly" }],
  },
  {
    id: "99",
    name: "A machine that cannot be reached is taken for one that refuses.",
    changes: [["if (code === \"ECONNREFUSED\") onRefused();", "onRefused();"]],
    caughtBy: [{ file: "datagrams", title: "of an unreachable address or an invalid port is" }],
  },
  {
    id: "100",
    name: "A read that is repeated is another read.",
    changes: [["if (m.calls.has(m.id)) return;", "if (!isQuestion && m.calls.has(m.id)) return;"]],
    caughtBy: [{ file: "node", title: "that its client repeats is one read, on a follower" }],
  },
  {
    id: "101",
    name: "A round of an earlier term is taken for one of this term.",
    changes: [["const round = m.term < this.currentTerm ? 0 : m.round;", "const { round } = m;"]],
    caughtBy: [{ file: "reads", title: "a request of an earlier term confirms nothing" }],
  },
  {
    id: "102",
    name: "An empty disk leads because the lost one was asked to.",
    changes: [[
      "if (this.mayLead && this.log.lastIndex > 0) this.campaign",
      "if (this.mayLead) this.campaign",
    ]],
    caughtBy: [{ file: "members", title: "that is empty ignores a TimeoutNow to the disk" }],
  },
  {
    id: "103",
    name: "A session that is opened is not the latest, so the one before it is not used again.",
    changes: [["    this.use(index, {", "    this.open.set(index, {"]],
    caughtBy: [{ file: "node", title: "a session that is used again becomes the most" }],
  },
  {
    id: "104",
    name: "What an earlier life has asked keeps the next one from asking.",
    changes: [[
      "seen: new Float64Array(SEEN), calls: new Set() }",
      "seen: new Float64Array(SEEN) }",
    ]],
    caughtBy: [{ file: "wire", title: "a sender's pending requests are forgotten after" }],
  },
  {
    id: "105",
    name: "All requests of an entry get the answer to the first.",
    changes: [["applied[i] ?? {}", "applied[0] ?? {}"]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "106",
    name: "What a client sends is applied as a command, whatever it is.",
    changes: [["isWhole ? commands : []", "commands"]],
    caughtBy: [{ file: "wire", title: "refuses malformed commands, and applies the ones" }],
  },
  {
    id: "107",
    name: "Commands share an entry that no datagram carries.",
    changes: [[
      "batches(this.batch.splice(0), sizeOf, this.entryBytes)",
      "batches(this.batch.splice(0), sizeOf, Infinity)",
    ]],
    caughtBy: [{ file: "wire", title: "answers each command of a turn, in shared entries" }],
  },
  {
    id: "108",
    name: "A leader that has started again is waited for.",
    changes: [["this.receiver.onRestarted?.(of.name);", ""]],
    caughtBy: [{ file: "node", title: "replaces a leader that restarts as fast" }],
  },
  {
    id: "109",
    name: "Whoever starts again is taken for the leader.",
    changes: [[
      "if (this.role.name === \"Follower\" && this.leader === peer) this.giveUpLeader();",
      "if (peer !== \"\" && this.role.name === \"Follower\") this.giveUpLeader();",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "110",
    name: "Outcomes say wrongly which commands they are of.",
    changes: [["first += outcomes.length;", "first += 1;"]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "111",
    name: "All commands of a turn are asked in one message, however large.",
    changes: [[
      "const room = this.endpoint.roomFor(target) - overhead;",
      "const room = Infinity;",
    ]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "112",
    name: "All outcomes of what was asked together go in one message, however large.",
    changes: [["batches(all, sizeOf, this.core.settings.batchBytes)", "[all]"]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "113",
    name: "A client that has heard one outcome waits for no other.",
    changes: [["if (request.missing === 0) this.pending", "this.pending"]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "114",
    name: "Requests share entries by their number, not by their size.",
    changes: [["REQUEST_OVERHEAD + commands.length", "REQUEST_OVERHEAD"]],
    caughtBy: [{ file: "wire", title: "answers each command of a turn, in shared entries" }],
  },
  {
    id: "115",
    name: "Commands wait for a session that was opened as their client was closed.",
    changes: [[
      "for (const { reject } of this.commands.splice(0)) reject(error); this.endpoint.socket",
      "this.endpoint.socket",
    ]],
    caughtBy: [{ file: "node", title: "rejects its command if its node stops as soon as" }],
  },
  {
    id: "116",
    name: "A server that is removed stops before its clients know anybody else.",
    changes: [[
      "clock.setTimer(settings.electionTimeoutMs, () => void this.stop())",
      "clock.setTimer(0, () => void this.stop())",
    ]],
    caughtBy: [{ file: "members", title: "gives its clients the addresses of the other" }],
  },
  {
    id: "117",
    name: "Clients are told who leads only, and so nothing by who does not know that.",
    changes: [[
      "this.endpoint.addressesOf(this.members,",
      "this.endpoint.addressesOf(this.members.filter(({ name }) => name === leader),",
    ]],
    caughtBy: [{ file: "members", title: "gives its clients the addresses of the other" }],
  },
  // What is there to be fast.
  {
    id: "118",
    name: "A log is written over another with its marker: what that one had comes back.",
    changes: [["const marker = 1 + (this.log?.marker", "const marker = (this.log?.marker"]],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "storage", title: "is followed by a log that overwrites an older one" },
    ],
  },
  {
    id: "119",
    name: "A leader applies what its followers have, but its own disk has not yet.",
    changes: [["Math.min(this.commitIndex, this.log.savedIndex)", "this.commitIndex"]],
    caughtBy: [
      { mode: "core", seed: 50 },
      {
        file: "replication",
        title: "a leader applies no entry that only its followers have saved",
      },
    ],
  },
  {
    id: "120",
    name: "A request that was lost is sent again only at the next heartbeat.",
    changes: [[
      "(isFast ? RETRANSMISSIONS : 1)",
      "1",
    ]],
    caughtBy: [{ file: "paper", title: "Servers retry RPCs if they do not receive a response" }],
  },
  {
    id: "123",
    name: "A heartbeat is retransmitted although nothing waits for its answer.",
    changes: [[
      "isInFlight || (read !== undefined && confirmedRound <= read.round)",
      "isInFlight || confirmedRound < follower.sentRound",
    ]],
    caughtBy: [{ file: "replication", title: "a heartbeat is not retransmitted if nothing waits" }],
  },
  {
    id: "121",
    name: "A leader syncs in each of its turns, before it gives the answers that it has.",
    changes: [[`this.role.name === "Leader" && this.hasApplicable`, "false"]],
    caughtBy: [{ file: "node", title: "a leader has one sync for all commands that" }],
  },
  {
    id: "122",
    name: "A log is made anew although a file that is of no use any more could be written over.",
    changes: [["if (isSmall) this.files.link(name, `${name}.old`);", ""]],
    caughtBy: [{ file: "storage", title: "is followed by a log that overwrites an older one" }],
  },
  // Real files.
  {
    id: "124",
    name: "A file that was renamed is not durable, as its directory is not synced.",
    changes: [[
      "    fs.renameSync(from, to);\n    syncDirectory(path.dirname(to));",
      "    fs.renameSync(from, to);",
    ]],
    caughtBy: [{ file: "files", title: "syncs the directory before a rename or a removal" }],
  },
  {
    id: "125",
    name: "A file that was removed comes back, as its directory is not synced.",
    changes: [[
      "    fs.rmSync(file, { force: true });\n    syncDirectory(path.dirname(file));",
      "    fs.rmSync(file, { force: true });",
    ]],
    caughtBy: [{ file: "files", title: "syncs the directory before a rename or a removal" }],
  },
  {
    id: "126",
    name: "A new data directory is not durable, as its parents are not synced.",
    changes: [[
      "for (let at = log; at !== top;) syncDirectory(at = path.dirname(at));",
      "syncDirectory(directory);",
    ]],
    caughtBy: [{ file: "files", title: "makes a new directory durable, with all parents" }],
  },
  {
    id: "127",
    name: "A short write counts as a whole one.",
    changes: [[
      "        at += fs.writeSync(fd, bytes, at, bytes.length - at, position + at);",
      "        fs.writeSync(fd, bytes, at, bytes.length - at, position + at);\n        at = bytes.length;",
    ]],
    caughtBy: [{ file: "files", title: "is written whole" }],
  },
  {
    id: "128",
    name: "A sync returns before the disk has anything.",
    changes: [["      fs.fdatasyncSync(fd);\n", ""]],
    caughtBy: [{ file: "files", title: "when a save returns" }],
  },
  {
    id: "129",
    name: "A start writes over the log.old that it finds, which may be the log itself.",
    changes: [[`["/snapshot.new", "/log.old"]`, `["/snapshot.new"]`]],
    caughtBy: [{ file: "storage", title: "is followed by a start that removes log.old" }],
  },
  {
    id: "130",
    name: "The log that was replaced stays open.",
    changes: [[
      "[this.log, this.next] = [next, this.log];",
      "this.log = next; this.next = undefined;",
    ]],
    caughtBy: [{ file: "files", title: "alternates between two files" }],
  },
  {
    id: "131",
    name: "The directory is released while the log is still open.",
    changes: [[
      "for (const log of [this.log, this.next]) log?.file.close(); this.release();",
      "this.release(); for (const log of [this.log, this.next]) log?.file.close();",
    ]],
    caughtBy: [{ file: "storage", title: "is refused while another server uses the directory" }],
  },
  {
    id: "132",
    name: "The lock is let go as soon as the server has it.",
    changes: [["    return () => lock.close();", "    lock.close();\n    return () => {};"]],
    caughtBy: [{ file: "storage", title: "are locked against a second server" }],
  },
  {
    id: "133",
    name: "A second server starts because the lock file of the first was deleted.",
    changes: [["ensure(!names.some(", "ensure(true || !names.some("]],
    caughtBy: [{ file: "files", title: "without its lock file admits no second server" }],
  },
  {
    id: "134",
    name: "A log grows in the same sync as the frame that needs the room.",
    changes: [["      log.file.sync(); // So that", "      // So that"]],
    caughtBy: [{ file: "storage", title: "finds zeros at the end even if the power failed" }],
  },
  {
    id: "135",
    name: "A log that was cut off between two frames is taken for a whole one.",
    changes: [["rest.subarray(-FRAME_HEADER).equals(NO_FRAME)", "true"]],
    caughtBy: [{ file: "storage", title: "refuses a log that does not end with zeros, and" }],
  },
  {
    id: "136",
    name: "A server that has lost its log starts as a new one.",
    changes: [[
      `const isNew = !this.snapshot && this.find("/log.new");`,
      "const isNew = !this.snapshot;",
    ]],
    caughtBy: [{ file: "files", title: "is refused if its log is missing" }],
  },
  {
    id: "137",
    name: "A server writes on in a log that was deleted.",
    changes: [["ensure(fs.fstatSync(fd).nlink > 0,", "ensure(true,"]],
    caughtBy: [{ file: "files", title: "that is deleted under a running server" }],
  },
  {
    id: "138",
    name: "An error while a snapshot is read is no storage error, and names no file.",
    changes: [[
      `return this.withErrorContext("read", name, (path) => {
        using file = this.files.open(path, "r");
        return file.read(at, length);
      });`,
      `using file = this.files.open(\`\${this.directory}\${name}\`, "r");
      return file.read(at, length);`,
    ]],
    caughtBy: [{ file: "storage", title: "that cannot be read causes an error with its name" }],
  },
  // Sending again, and handing over.
  {
    id: "139",
    name: "A refusal without news is answered at once, in every round trip.",
    changes: [[
      "if (mode === \"probing\" && next >= nextIndex) return;",
      "",
    ]],
    caughtBy: [{ file: "replication", title: "a refusal at an earlier index restarts sending" }],
  },
  {
    id: "140",
    name: "A refusal that leads back further waits for the retransmission interval.",
    changes: [[
      "follower.sentAt = -Infinity; // A probe is due.",
      "",
    ]],
    caughtBy: [{ file: "replication", title: "a refusal at an earlier index restarts sending" }],
  },
  {
    id: "141",
    name:
      "A heartbeat that succeeds opens the window, so a batch that is always lost is sent in every round trip.",
    changes: [[
      "if (follower.attempts === 0) follower.mode",
      "follower.mode",
    ]],
    caughtBy: [
      { file: "replication", title: "an entry that a path always loses is sent rarely" },
    ],
  },
  {
    id: "142",
    name: "A part of a snapshot that is always lost takes a whole window with it.",
    changes: [[
      "follower.attempts > 0 ? settings.batchBytes : settings.windowBytes",
      "settings.windowBytes",
    ]],
    caughtBy: [{ file: "snapshots", title: "a follower that lost its partial snapshot" }],
  },
  {
    id: "143",
    name: "The window stays closed after an entry that was lost twice has arrived.",
    changes: [[
      "follower.roundWhenMatched = role.round;\n      follower.attempts = 0;",
      "follower.roundWhenMatched = role.round;",
    ]],
    caughtBy: [{ file: "replication", title: "several refusals cause one restart of sending" }],
  },
  {
    id: "144",
    name: "A chunk that was lost counts as lost for good.",
    changes: [[
      "follower.attempts = 0;\n    } else {",
      "} else {",
    ]],
    caughtBy: [{ file: "snapshots", title: "a follower that lost its partial snapshot" }],
  },
  {
    id: "145",
    name: "A request to hand over that is repeated begins another attempt.",
    changes: [[
      "const isRetry = last?.calls === request.calls && last.id === request.id;",
      "const isRetry = core.transferTarget !== undefined;",
    ]],
    caughtBy: [{ file: "members", title: "makes one attempt, however often it is repeated" }],
  },
  {
    id: "146",
    name: "A second request to hand over ends the attempt that is under way.",
    changes: [[`if (core.transferTarget) return this.refuse(request, "it is handing over");`, ""]],
    caughtBy: [{ file: "members", title: "is refused while another transfer is in progress" }],
  },
  {
    id: "147",
    name: "A server hands over to one that was not heard for an election timeout.",
    changes: [["voters.filter(([, follower]) => this.recentActive(follower))", "voters"]],
    caughtBy: [
      { file: "members", title: "to a server silent for an election timeout is" },
      { file: "transfer", title: "a follower that was silent for an election timeout is refused" },
    ],
  },
  {
    id: "148",
    name: "Without a name the first server of the list is to lead, even if it has just died.",
    changes: [[
      "role.transferCandidates?.includes(m.from)",
      "role.transferCandidates?.[0] === m.from",
    ]],
    caughtBy: [
      { file: "node", title: "does not hand over to a server that has just died" },
      { file: "transfer", title: "a follower that has just died is not chosen" },
    ],
  },
  {
    id: "149",
    name: "An answer from before a server died shows that it can lead.",
    changes: [["follower.ignoreUpToRound = role.round; // Only a reply", "// Only a reply"]],
    caughtBy: [{ file: "node", title: "does not hand over to a server that has just died" }],
  },
  {
    id: "150",
    name: "Several servers are asked to lead at once.",
    changes: [["        role.transferCandidates = [m.from];\n", ""]],
    caughtBy: [{
      file: "transfer",
      title: "the first follower that answers and has the whole log",
    }],
  },
  {
    id: "151",
    name: "A server that has just led has received nothing for as long as it led.",
    changes: [["this.heardAt = this.now; // A leader hears", "// A leader hears"]],
    caughtBy: [{ file: "elections", title: "the reported silence does not include the time" }],
  },
  {
    id: "152",
    name: "What a path always loses is never told.",
    changes: [[
      "if (follower.attempts !== 2 * RETRANSMISSIONS) return;",
      "if (follower.attempts > 0) return;",
    ]],
    caughtBy: [
      { file: "node", title: "shows an entry that is too large to arrive, as an" },
      { file: "replication", title: "a chunk that a path always loses is sent as rarely" },
    ],
  },

  // Sessions, reads, members, acknowledgements, and known correspondents.
  {
    id: "153",
    name: "A snapshot lists the sessions in another order than that of their last use.",
    changes: [[
      "return [...this.open].map(",
      "return [...this.open].toSorted(([a], [b]) => a - b).map(",
    ]],
    caughtBy: [{ file: "sessions", title: "answer every later command as the original does" }],
  },
  {
    id: "154",
    name: "The acknowledged mark of a session goes back with a command that was overtaken.",
    changes: [[
      "if (acknowledged > session.acknowledged) {",
      "if (acknowledged !== session.acknowledged) {",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "155",
    name: "A state machine that changes a command changes the log.",
    changes: [["decodeAll(Buffer.from(request.commands))", "decodeAll(request.commands)"]],
    caughtBy: [{ file: "embedding", title: "that the program or the server overwrites after a" }],
  },
  {
    id: "156",
    name: "A follower answers reads from a state that is half installed.",
    changes: [[
      "const isReady = () => !core.isInstalling && awaited",
      "const isReady = () => awaited",
    ]],
    caughtBy: [{ file: "node", title: "that are only partly installed answer no read" }],
  },
  {
    id: "157",
    name: "A leader tells a follower an index for its reads that is one too low.",
    changes: [[
      "        : Buffer.from(`${lastApplied}`);",
      "        : Buffer.from(`${lastApplied - 1}`);",
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "158",
    name: "A server that lost the lead tells others an index for their reads.",
    changes: [[
      "else if (m.type === \"Read\" && this.core.leader !== undefined) this.followerReads.push(m);",
      "else if (m.type === \"ReadIndex\" && this.core.leader !== undefined) this.answerRead(m);\n"
      + "    else if (m.type === \"Read\" && this.core.leader !== undefined) this.followerReads.push(m);",
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "159",
    name: "A reply of an earlier term confirms a round of this one.",
    changes: [[
      "if (m.term < this.currentTerm || m.round > role.round)",
      "if (m.round > role.round)",
    ]],
    caughtBy: [{ mode: "core", seed: 18 }],
  },
  {
    id: "160",
    name: "A list of members is in force when it is committed, not as soon as it is in the log.",
    changes: [[
      "return this.membersAt(this.log.lastIndex);",
      "return this.membersAt(this.commitIndex);",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "161",
    name: "A log that a snapshot replaces keeps its lists of members.",
    changes: [[
      "    this.endOffsets = [0];\n    this.configurations = [];\n",
      "    this.endOffsets = [0];\n",
    ]],
    caughtBy: [
      { mode: "core", seed: 8 },
      { file: "members", title: "that comes with a snapshot replaces the one in the" },
    ],
  },
  {
    id: "162",
    name: "A follower acknowledges all of its log, beyond the entries of the request, too.",
    changes: [[
      "    this.acknowledge(m, matchIndex);\n",
      "    this.acknowledge(m, this.log.lastIndex);\n",
    ]],
    caughtBy: [{
      file: "paper",
      title: "the follower's log is identical to its own log up through the new entries",
    }],
  },
  {
    id: "163",
    name:
      "A new leader begins after its own first entry, which leaves with the next heartbeat only.",
    changes: [
      [
        "    for (const name of this.others) this.trackFollower(role, name);\n    this.become(role);\n",
        "    this.become(role);\n",
      ],
      [
        MEMBERS_FIRST,
        `${MEMBERS_FIRST}    for (const name of this.others) this.trackFollower(role, name);\n`,
      ],
    ],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "node", title: "receives the first entry of a term as soon as its" },
    ],
  },
  {
    id: "164",
    name: "A datagram that was overtaken takes its sender back to an earlier address.",
    changes: [["if (sequence > from.newest) {", "if (sequence > 0) {"]],
    caughtBy: [{ file: "wire", title: "a datagram that was overtaken does not take its" }],
  },
  {
    id: "165",
    name: "Strangers push out servers.",
    changes: [[
      "this.known.entries().filter(([, { places }]) => places.length === 0)",
      "this.known.entries()",
    ]],
    caughtBy: [{ file: "wire", title: "heard before thousands of strangers" }],
  },
  {
    id: "166",
    name: "The clients' key makes operators.",
    changes: [[
      "if (!code || !timingSafeEqual(code, sealed.subarray(0, MAC_BYTES))) return",
      `const other = kind === "operator" ? keys.get("client") : undefined;
  const codes = [code, other && authenticate(other, sealed)];
  const fits = codes.some((one) => one && timingSafeEqual(one, sealed.subarray(0, MAC_BYTES)));
  if (!fits) return`,
    ]],
    caughtBy: [{ file: "wire", title: "a whole operator ChangeMembers has no effect" }],
  },
  {
    id: "167",
    name: "A call that is answered stays in the table of calls.",
    changes: [["    calls.delete(id);\n", ""]],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "node", title: "although datagrams are lost or repeated, servers" },
    ],
  },
  {
    id: "168",
    name: "The reads that are answered are the ones that came last, not first.",
    changes: [["of reads.splice(0, count)", "of reads.splice(-count || Infinity)"]],
    caughtBy: [{ file: "node", title: "reads are answered in their order, each after a" }],
  },
  {
    id: "169",
    name: "A late reply takes back the round that a follower has confirmed.",
    changes: [["Math.max(follower.confirmedRound, m.round)", "Number(m.round)"]],
    caughtBy: [{ file: "reads", title: "a late reply to an earlier round does not revoke a" }],
  },
  // Founding.
  {
    id: "170",
    name: "An empty founder campaigns before the others have said that they are empty.",
    changes: [
      [
        "return this.mayFound && this.member(name)?.votes === true;",
        "return this.member(name)?.votes === true;",
      ],
    ],
    caughtBy: [{ file: "founding", title: "campaigns when all have shown empty logs" }],
  },
  {
    id: "171",
    name: "An empty founder votes for an empty candidate before it has looked itself.",
    changes: [
      ["(lastLogIndex === 0 && this.mayFound)", "(lastLogIndex === 0)"],
    ],
    caughtBy: [{ file: "founding", title: "votes for an empty candidate once it has looked" }],
  },
  {
    id: "172",
    name: "An empty founder takes a pause for the silence of all others.",
    changes: [
      ["this.foundingQueries > electionTimeoutMs / heartbeatMs", "this.now > electionTimeoutMs"],
    ],
    caughtBy: [{ file: "founding", title: "counts a founder as silent only after asking it" }],
  },
  {
    id: "173",
    name: "A late word from the time when a log was empty hides that it is not.",
    changes: [
      ["if (founding > 0 || !this.foundings.has(peer)) this", "this"],
    ],
    caughtBy: [{ file: "founding", title: "does not campaign once a founder has shown a log" }],
  },
  {
    id: "174",
    name: "A server whose founding is fixed takes the entries of another one.",
    changes: [
      ["    if (this.rejectsFounding(message)) return;\n", ""],
    ],
    caughtBy: [{ file: "founding", title: "once fixed, accepts nothing of another founding" }],
  },
  {
    id: "175",
    name: "Two foundings whose entries have equal terms are taken for one log.",
    changes: [
      ["this.log.reset(0, 0);\n    this.foundingQueries = 0;", ""],
    ],
    caughtBy: [{ file: "founding", title: "before it is fixed, gives way to a founding of a" }],
  },
  {
    id: "176",
    name: "The first commit index waits for the next entry to be saved.",
    changes: [
      [" || (saved.commitIndex === 0 && commitIndex > 0)", ""],
    ],
    caughtBy: [{ file: "founding", title: "is fixed by the first commit index" }],
  },
  {
    id: "177",
    name: "A restart forgets what was saved as committed.",
    changes: [
      [
        "this.commitIndex = Math.max(disk.commitIndex, this.lastApplied);",
        "this.commitIndex = this.lastApplied;",
      ],
    ],
    caughtBy: [{ file: "founding", title: "found another cluster if that founder is" }],
  },
  {
    id: "178",
    name: "Each list of members draws another founding.",
    changes: [
      ["this.founding || drawId(this.#random)", "drawId(this.#random)"],
    ],
    caughtBy: [{ file: "founding", title: "is kept by each later list of members" }],
  },
  {
    id: "179",
    name: "An acknowledgement is refused, because its sender has joined another founding since.",
    changes: [
      ["type.endsWith(\"Reply\") || founding === 0", "founding === 0"],
    ],
    caughtBy: [{ file: "founding", title: "an acknowledgement does not count if its sender" }],
  },
  {
    id: "180",
    name: "Sessions of before stay when a snapshot is installed.",
    changes: [[
      "    const sessions = new Sessions();\n    const take",
      "    const { sessions } = this;\n    const take",
    ]],
    caughtBy: [{ file: "node", title: "that are installed replace all sessions of the" }],
  },
  {
    id: "181",
    name: "An entry is saved in the log that a received snapshot replaces, where it does not fit.",
    changes: [[
      "this.append(next, [start, this.voteRecord()]);",
      "this.append(next, [start, this.voteRecord()]); yield;",
    ]],
    caughtBy: [{ file: "storage", title: "that was received replaces the log before the next" }],
  },
];

// ----------------------------------------- Planting them ----------------------------------------

/** Matches a piece of source in any layout. */
function patternOf(piece: string): RegExp {
  const tokens = piece.match(/\w+|[^\w\s]/g) ?? [];
  const pattern = tokens.map((token, i) => {
    if (/\w/.test(token)) return /\w/.test(tokens[i - 1] ?? "") ? `\\s+${token}` : `\\s*${token}`;
    return `${/[)\]}]/.test(token) ? "\\s*,?" : ""}\\s*${RegExp.escape(token)}`;
  });
  return new RegExp(pattern.join("").replace(/^\\s\*/, ""), "g");
}

/** Returns the pieces of raft.ts that a bug replaces and that do not occur exactly once. */
export function stalePieces({ changes }: Planted, source = readSource()): string[] {
  return changes.map(([before]) => before)
    .filter((text) => [...source.matchAll(patternOf(text))].length !== 1);
}

const readSource = () => readFileSync(path.join(root, "raft.ts"), "utf8");

/** A copy of the project, with a bug in it or without. Deletes it after use. */
export async function inCopy<T>(
  bug: Planted | undefined,
  use: (directory: string) => Promise<T>,
): Promise<T> {
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-catalogue-"));
  try {
    for (const name of COPIED) {
      cpSync(path.join(root, name), path.join(directory, name), { recursive: true });
    }
    symlinkSync(path.join(root, "node_modules"), path.join(directory, "node_modules"));
    let source = readSource();
    for (const [before, after] of bug?.changes ?? []) {
      const [match, ...others] = source.matchAll(patternOf(before));
      if (!match || others.length > 0) {
        throw new Error(`Bug ${bug?.id} is stale: raft.ts must have this exactly once:\n${before}`);
      }
      source = source.slice(0, match.index) + after.trim()
        + source.slice(match.index + match[0].length);
    }
    new Bun.Transpiler({ loader: "ts" }).transformSync(source); // What does not parse is no bug.
    writeFileSync(path.join(directory, "raft.ts"), source);
    return await use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Two commands run at a time: that is how many cores the machine is believed to have. */
const AT_ONCE = 2;
const DEADLINE_MS = 300_000;
let running = 0;
const queue: (() => void)[] = [];

/** Runs a command, thorough by default, so that it has every test. */
async function run(directory: string, args: readonly string[], CI = "1") {
  if (running >= AT_ONCE) await new Promise<void>((resolve) => queue.push(resolve));
  running += 1;
  try {
    const child = Bun.spawn([process.execPath, ...args], {
      cwd: directory,
      stdout: "pipe",
      stderr: "pipe",
      timeout: DEADLINE_MS,
      env: { ...process.env, NO_COLOR: "1", CI },
    });
    const texts = [new Response(child.stdout).text(), new Response(child.stderr).text()];
    const output = (await Promise.all(texts)).join("\n");
    return { output, code: await child.exited };
  } finally {
    running -= 1;
    queue.shift()?.();
  }
}

/** A planted text that the language does not understand proves nothing about the tests. */
const BROKEN = /SyntaxError|ReferenceError|TypeError|Cannot find (module|package)|Unhandled error/;

/** What a command has said: that all is well, or a sentence about what is not, and its seed. */
export type Verdict = { passed: boolean; sentence: string; seed?: number };

const patternFor = (title: string) => title.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Returns the one test file of that name, as an argument of `bun test` that means no other file. */
function pathOf(file: string): string {
  const found = globSync(`test/**/${file}.test.ts`, { cwd: root });
  if (found.length !== 1) throw new Error(`There must be one ${file}.test.ts, not: ${found}`);
  return `./${found[0]}`;
}

export async function runTest(directory: string, { file, title }: SmallTest): Promise<Verdict> {
  const { output, code } = await run(directory, [
    "test",
    pathOf(file),
    "-t",
    patternFor(title),
    "--timeout",
    "60000",
  ]);
  const count = (what: string) => Number(new RegExp(`^ *(\\d+) ${what}$`, "m").exec(output)?.[1]);
  const passed = code === 0 && count("pass") > 0 && count("fail") === 0;
  const failed = code !== 0 && count("fail") > 0 && !BROKEN.test(output);
  if (!passed && !failed) throw new Error(`"${file}: ${title}" has not really run:\n${output}`);
  return { passed, sentence: `${file}.test.ts: ${title}` };
}

/** Runs seeds until one catches something. */
export async function simulate(
  directory: string,
  mode: Simulator["mode"],
  from: number,
  seeds: number,
): Promise<Verdict> {
  const args = ["test/simulator.ts", "--mode", mode, "--from", `${from}`, "--seeds", `${seeds}`];
  const { output, code } = await run(directory, args);
  const violations = [...output.matchAll(/^seed (\d+): (.+)$/gm)]
    .map(([, seed, sentence = ""]) => ({ seed: Number(seed), sentence }))
    .sort((a, b) => a.seed - b.seed);
  const [first] = violations;
  if (code === 0 && !first) return { passed: true, sentence: "no violation" };
  if (code === 1 && first && !BROKEN.test(first.sentence)) return { passed: false, ...first };
  throw new Error(`"bun ${args.join(" ")}" has not really run (exit code ${code}):\n${output}`);
}

/** Returns the bugs that the short run would not catch: it has none of their seeds and small tests. */
export async function findOnlyThorough(): Promise<string[]> {
  const small = planted.flatMap(({ caughtBy }) => caughtBy).filter((by) => "file" in by);
  const files = new Set(small.map(({ file }) => pathOf(file)));
  const pattern = small.map(({ title }) => patternFor(title)).join("|");
  const { output } = await run(root, ["test", ...files, "-t", pattern], "");
  let file = "";
  const passed = output.split("\n").flatMap((line) => {
    file = /^(test\/.*\.ts):$/.exec(line)?.[1] ?? file;
    const title = /^\(pass\) (.*?)(?: \[[\d.]+ms\])?$/.exec(line)?.[1];
    return title === undefined ? [] : [{ file: `./${file}`, title: title.replaceAll(" > ", " ") }];
  });
  const isInShortRun = (catcher: Catcher) =>
    "mode" in catcher
      ? catcher.seed <= SHORT_SEEDS
      : passed.some(({ file, title }) =>
        file === pathOf(catcher.file) && title.includes(catcher.title)
      );
  return planted.filter(({ caughtBy }) => !caughtBy.some(isInShortRun)).map(({ id }) => id);
}

// ------------------------------------------ By hand --------------------------------------------

const MOST_SEEDS = 2000;

/** How many seeds, from 1 on, a mode needs to catch a bug; undefined if that is too many. */
async function hunt(directory: string, mode: Simulator["mode"]): Promise<Verdict | undefined> {
  for (
    let from = 1, seeds = 1;
    from <= MOST_SEEDS;
    from += seeds, seeds = Math.min(2 * seeds, 64)
  ) {
    const verdict = await simulate(directory, mode, from, seeds);
    if (!verdict.passed) return verdict;
  }
  return undefined;
}

async function report(bug: Planted): Promise<number[]> {
  return await inCopy(bug, async (directory) => {
    const needed: number[] = [];
    const lines: string[] = [];
    for (const catcher of bug.caughtBy) {
      const verdict = "mode" in catcher
        ? await hunt(directory, catcher.mode)
        : await runTest(directory, catcher);
      const by = "mode" in catcher ? `${catcher.mode} simulation` : `${catcher.file}.test.ts`;
      const isCaught = verdict?.passed === false;
      if ("mode" in catcher) needed.push(isCaught ? verdict.seed ?? 0 : Infinity);
      lines.push(
        `| ${bug.id} | ${bug.name} | ${by} | ${verdict?.seed ?? ""} | `
          + `${isCaught ? verdict.sentence : "NOT CAUGHT"} |`,
      );
    }
    console.log(lines.join("\n"));
    return needed;
  });
}

async function huntAll(ids: readonly string[]): Promise<void> {
  const bugs = planted.filter(({ id }) => ids.length === 0 || ids.includes(id));
  console.log("| no. | bug | caught by | seeds needed | because |\n|---|---|---|---|---|");
  const needed = (await Promise.all(bugs.map(report))).flat().sort((a, b) => a - b);
  console.log(
    `\n${needed.length} hunts in the simulator: median `
      + `${needed[Math.floor(needed.length / 2)]} seeds, most ${needed.at(-1)}.`,
  );
}

if (import.meta.main) {
  const [order, ...ids] = process.argv.slice(2);
  if (order === "--hunt") await huntAll(ids);
  else if (order === "--check") {
    const stale = planted.flatMap((bug) => stalePieces(bug).map((text) => `${bug.id}: ${text}`));
    console.log(stale.join("\n") || "Every piece occurs exactly once.");
    process.exitCode = stale.length === 0 ? 0 : 1;
  } else if (order === "--thorough") {
    const found = await findOnlyThorough();
    const names = planted.filter(({ id }) => found.includes(id)).map(({ id, name }) =>
      `${id}. ${name}`
    );
    console.log(names.join("\n") || "None: the short run has a seed or a test for every bug.");
  } else console.log("bun test/catalogue.ts --check | --hunt [NUMBER]... | --thorough");
}
