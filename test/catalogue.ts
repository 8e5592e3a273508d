/**
 * Lists the bugs that the tests must catch, and plants them. A test suite is worth the bugs that it
 * catches. So each bug is planted alone in a copy of the project, by replacing exact pieces of
 * raft.ts, and a test must fail in that copy.
 *
 * Bugs 1 to 50 were found in published implementations of Raft, or break a rule of the paper. Bugs
 * from 51 on are mistakes that this implementation invites.
 *
 *   bun test/catalogue.ts --check            lists pieces that do not occur exactly once in raft.ts
 *   bun test/catalogue.ts --hunt [NUMBER]    prints how many seeds each bug needs, from seed 1 on
 *   bun test/catalogue.ts --thorough         lists the bugs that only the thorough run catches
 *
 * The thorough run (`CI=1 bun test`) plants all bugs. The short run (`bun test`) plants none, but it
 * includes the seeds and small tests that catch them, except for the bugs listed here.
 */
export const onlyThorough: readonly string[] = [];

import { globSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { SHORT_SEEDS } from "./support/thorough.ts";

const root = path.join(import.meta.dir, "..");
const COPIED = ["README.md", "raft.ts", "cli.ts", "package.json", "tsconfig.json", "test"];

/**
 * A piece of raft.ts that occurs exactly once there, and its replacement. The layout does not matter:
 * the formatter may break lines elsewhere, and add a comma before a closing bracket.
 */
type Change = readonly [before: string, after: string];
/** A mode of the simulator, and the first seed that is known to catch the bug. */
type Simulator = { mode: "core" | "full"; seed: number };
/** A small test: its file, without the folder and extension, and its title or a part of it. */
type SmallTest = { file: string; title: string };
export type Catcher = Simulator | SmallTest;

export type Planted = {
  id: string;
  name: string;
  changes: readonly Change[];
  caughtBy: readonly Catcher[];
};

// ------------------------------------------- The bugs -------------------------------------------

/** Text of raft.ts that appends the first entry of an empty log. */
const MEMBERS_FIRST =
  "    else this.appendMembers(role, this.members.map((member) => this.withCurrentDisk(member)));\n";

export const planted: readonly Planted[] = [
  // Elections.
  {
    id: "1",
    name: "A server grants a vote before the vote is durable",
    changes: [[
      `(type === "AppendEntries" || type === "InstallSnapshot");`,
      `(type === "RequestVoteReply"
        || type === "AppendEntries" || type === "InstallSnapshot");`,
    ]],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "node", title: "neither a vote, nor a RequestVote, nor an" },
    ],
  },
  {
    id: "2",
    name: "A server keeps its vote when its term changes",
    changes: [["    this.votedFor = undefined;\n", ""]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "3",
    name: "A server forgets its vote when its role changes within a term",
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
    name: "A voter compares the lengths of two logs before their last terms",
    changes: [[
      "if (lastLogTerm !== this.log.lastTerm) return lastLogTerm > this.log.lastTerm;\n"
      + "    return lastLogIndex >= this.log.lastIndex;",
      "if (lastLogIndex !== this.log.lastIndex) return lastLogIndex > this.log.lastIndex;\n"
      + "    return lastLogTerm >= this.log.lastTerm;",
    ]],
    caughtBy: [
      { mode: "core", seed: 126 },
      { file: "paper", title: "the log with the later term is more up-to-date" },
    ],
  },
  {
    id: "5",
    name: "A voter does not check that the candidate's log is up to date",
    changes: [["isFree && this.isUpToDate(m) &&", "isFree &&"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "6",
    name: "A candidate counts a duplicated vote twice",
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
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "7",
    name: "A candidate counts a pre-vote as a vote",
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
    name: "A server draws its election timeout once instead of for each campaign",
    changes: [["(1 + this.#random() / 2)", "(1 + (this.drawn ??= this.#random()) / 2)"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "9",
    name: "A candidate counts a vote of an earlier term",
    changes: [["if (m.term === this.currentTerm + (", "if (m.term <= this.currentTerm + ("]],
    caughtBy: [{ mode: "core", seed: 14 }],
  },
  {
    id: "10",
    name: "A candidate or leader does not step down for a higher term",
    changes: [[
      `&& !keepsTerm) this.adopt`,
      `&& !keepsTerm
      && this.role.name !== "Candidate" && this.role.name !== "Leader") this.adopt`,
    ]],
    caughtBy: [{ mode: "core", seed: 2 }],
  },
  {
    id: "11",
    name: "A server that rejoins campaigns without a pre-vote and deposes a healthy leader",
    changes: [[
      `this.electionDueAt) this.campaign("PreCandidate")`,
      `this.electionDueAt) this.campaign("Candidate")`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "12",
    name: "A leader that is cut off does not step down (no CheckQuorum)",
    changes: [["} else if (!this.hearsLeader() || (", "} else if ((now < 0) || ("]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "13a",
    name: "A server resets its election timer when it refuses a vote",
    changes: [[
      `private replyVote(m: Of<"RequestVote">, voteGranted: boolean) {`,
      `private replyVote(m: Of<"RequestVote">, voteGranted: boolean) {
    if (!voteGranted) this.resetElectionTimer();`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "13b",
    name: "A server resets its election timer for a message of an earlier term",
    changes: [[
      "const { type, term } = message;",
      "const { type, term } = message;\n    if (term < this.currentTerm) this.resetElectionTimer();",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },

  // Replication.
  {
    id: "14",
    name: "The leader commits an entry of an earlier term by counting copies (Figure 8)",
    changes: [[
      "if (this.log.matches(n, this.currentTerm)) this.commitTo(n);",
      "this.commitTo(n);",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "15",
    name: "A new leader appends no no-op",
    changes: [[
      `if (firstIndex > 1) this.propose("noop");`,
      "if (firstIndex > 1) return;",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "16",
    name: "A follower truncates its log although no entry conflicts",
    changes: [[
      "this.matches(entry.index, entry.term)) continue;",
      "this.matches(entry.index, entry.term) && entry.index <= commitIndex) continue;",
    ]],
    caughtBy: [{ mode: "core", seed: 2 }],
  },
  {
    id: "17",
    name: "A follower does not compare the term of the previous entry",
    changes: [[
      "if (!this.log.matches(m.prevLogIndex, m.prevLogTerm))",
      "if (m.prevLogIndex > this.log.lastIndex)",
    ]],
    caughtBy: [{ mode: "core", seed: 18 }],
  },
  {
    id: "18",
    name: "A follower's `commitIndex` follows `leaderCommit` past the entries of the request",
    changes: [[
      "Math.min(m.leaderCommit, matchIndex)",
      "Math.min(m.leaderCommit, this.log.lastIndex)",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "19",
    name: "`matchIndex` decreases when acknowledgements arrive out of order",
    changes: [["if (m.matchIndex > follower.matchIndex) {", "{"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "20",
    name: "A follower acknowledges entries before they are durable",
    changes: [[
      `(type === "AppendEntries" || type === "InstallSnapshot");`,
      `(type === "AppendEntriesReply"
        || type === "AppendEntries" || type === "InstallSnapshot");`,
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "21",
    name: "`commitIndex` decreases",
    changes: [[
      "if (index <= this.commitIndex) return;",
      "if (index === this.commitIndex) return;",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "22",
    name: "`nextIndex` backs up past the start of the log",
    changes: [[
      "Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm)) + 1;",
      "Math.min(nextIndex - 1, this.log.lastUpTo(m.hintIndex, m.hintTerm));",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "23",
    name: "`nextIndex` never decreases, so that one lost datagram closes the window forever",
    changes: [[
      "Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm)) + 1;",
      "Math.max(nextIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm) + 1);",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "24",
    name: "A conflict costs one round trip for each entry",
    changes: [[
      "const upTo = this.log.lastUpTo(m.prevLogIndex, m.prevLogTerm);",
      "const upTo = Math.min(m.prevLogIndex - 1, this.log.lastIndex);",
    ], [
      "this.log.lastUpTo(m.hintIndex, m.hintTerm)",
      "m.hintIndex",
    ]],
    caughtBy: [
      { file: "paper", title: "one AppendEntries RPC will be required for each term" },
    ],
  },

  // Reads and clients.
  {
    id: "25",
    name: "The leader answers a read without a round of heartbeats",
    changes: [["r.round >= confirmed || ", ""]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "26",
    name: "The leader answers a read before an entry of its own term is committed",
    changes: [["Math.max(this.commitIndex, role.firstIndex)", "this.commitIndex"]],
    caughtBy: [{ mode: "core", seed: 15 }],
  },
  {
    id: "27",
    name: "A server applies a retried command twice",
    changes: [["const known = session.outcomes.get(sequence);", "const known = undefined;"]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "28",
    name: "The leader answers a command when it is in the log, before it is applied",
    changes: [[
      "if (index !== undefined) this.proposals.set(",
      `if (kind === "commands" && index !== undefined) {
      if (request.type !== "Commands") return;
      this.answerCommands(request, decodeAll(request.commands).map(() => Buffer.of(1)));
    } else if (index !== undefined) this.proposals.set(`,
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "29",
    name: "A follower answers a read from its own state without asking the leader",
    changes: [[
      "this.followerReads.push(m);",
      "this.answerRead(m);",
    ]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "30",
    name: "Servers forget a session at different points of the log",
    changes: [[
      "const [applied] = readRequests(entry)",
      `const now = this.world.clock.now();
    if (now > (this.forgetAt ??= now + 4000)) {
      this.forgetAt = undefined;
      this.sessions = new Sessions();
    }
    const [applied] = readRequests(entry)`,
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },

  // Storage and wire.
  {
    id: "40",
    name: "A server ignores a storage error and goes on",
    changes: [[
      "log.write(frame, this.end); }); this.end = end;",
      "try { log.write(frame, this.end); } catch {} }); this.end = end;",
    ]],
    caughtBy: [
      { mode: "full", seed: 2 },
      { file: "node", title: "a server whose disk fails at a sync stops with the" },
    ],
  },
  {
    id: "41",
    name:
      "A start silently drops a damaged record in the middle of the log, and all that follows it",
    changes: [["this.ensure(framesIn(log.subarray(at)).next().done,", "this.ensure(true,"]],
    caughtBy: [
      { mode: "full", seed: 2 },
      { file: "storage", title: "refuses a flipped bit before a whole frame, and" },
    ],
  },
  {
    id: "42",
    name: "A server with a wiped disk votes as before",
    changes: [[
      "this.isUpToDate(m) && this.mayVote(m);",
      "this.isUpToDate(m);",
    ]],
    caughtBy: [
      { mode: "core", seed: 20 },
      { file: "members", title: "elects no leader with a server that restarted" },
    ],
  },
  {
    id: "42b",
    name: "A server with a wiped disk is counted in majorities as before",
    changes: [["      if (!this.usesNamedDisk(member)) return -Infinity;\n", ""]],
    caughtBy: [
      { mode: "core", seed: 9 },
      { file: "members", title: "that is not named counts neither for an entry, nor" },
    ],
  },
  {
    id: "43",
    name: "A server accepts a name that the key of its sender is not for",
    changes: [
      ["!keyIdOf(secret, other.role, other.cluster, other.name).equals(id)", "id.length === 0"],
    ],
    caughtBy: [
      { file: "channels", title: "with a role, name or cluster that its key is not for" },
      { mode: "full", seed: 2 },
    ],
  },
  {
    id: "44a",
    name: "A server accepts a term of `NaN`, `-0`, `1.5` or `2 ** 53`",
    changes: [[
      `typeof raw === "number" && raw < 2 ** 48 && Object.is(raw, Math.abs(Math.trunc(raw)));`,
      `typeof raw === "number";`,
    ]],
    caughtBy: [{ file: "wire", title: "a value other than a natural number for one in" }],
  },
  {
    id: "44b",
    name: "A server accepts a message with a missing field",
    changes: [[
      "raw.length !== list.length) return undefined;\n  const fields",
      "raw.length > list.length) return undefined;\n  list = list.slice(0, raw.length) as never;\n"
      + "  const fields",
    ]],
    caughtBy: [{ file: "wire", title: "a Read with a missing or an additional field" }],
  },
  {
    id: "45",
    name: "A send error costs a healthy peer its datagram",
    changes: [["const SEND_TRIES = 5;", "const SEND_TRIES = 1;"]],
    caughtBy: [{ file: "datagrams", title: "datagrams to a closed port cost an open port no" }],
  },
  {
    id: "46",
    name: "A restarted server repeats promises that it read from the page cache, without a sync",
    changes: [
      [
        "this.cutIncompleteFrame(log.subarray(end));",
        `this.cutIncompleteFrame(log.subarray(end));
        Object.assign(this, { end, size: log.length, marker: log.readUInt32BE(0) });`,
      ],
      [
        "for (const _ of this.rewriteLog()); }",
        `if (this.end > 0) this.log = this.files.open(\`\${this.directory}/log\`, "r+");
        else for (const _ of this.rewriteLog()); }`,
      ],
    ],
    caughtBy: [{ file: "storage", title: "writes and syncs what it read before any promise" }],
  },
  {
    id: "47",
    name: "A server takes a reordered command of a session for a duplicate and drops it",
    changes: [[
      "if (sequence <= session.acknowledged) {",
      `const newest = Math.max(session.acknowledged, ...session.outcomes.keys());
    if (sequence <= newest && !session.outcomes.has(sequence)) {`,
    ]],
    caughtBy: [
      { file: "node", title: "a command that was overtaken by a later one is no duplicate" },
    ],
  },
  {
    id: "49",
    name:
      "A server accepts what its sender's earlier boot has sent, after the later one was confirmed",
    changes: [
      ["      for (const old of remote.channels) this.end(old);", ""],
    ],
    caughtBy: [
      { file: "channels", title: "ends the earlier channels in the instant" },
      { mode: "full", seed: 2 },
    ],
  },
  {
    id: "50",
    name:
      "After a pause, a server gives up its leader before it reads the datagrams that have arrived",
    changes: [["clock.defer(() => clock.defer(() => this.guard(tick)))", "this.guard(tick)"]],
    caughtBy: [{ file: "node", title: "keeps its leader after a follower's pause: the" }],
  },

  // Mistakes that this implementation invites.
  {
    id: "51",
    name: "A start does not increase the boot number",
    changes: [[
      "this.identity.boot += 1 + Math.floor(random() * 2 ** 20);",
      "this.identity.boot = Math.max(1, this.identity.boot);",
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "52",
    name: "A client gives a retry a new sequence number, so that it is another command",
    changes: [[
      `this.start({ type: "Commands", ...request }, batch);`,
      `const next = () => this.sequence += 1;
      this.start({ type: "Commands", ...request, get sequence() { return next(); } }, batch);`,
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "53",
    name: "A client acknowledges answers that it still waits for",
    changes: [["acknowledged: firstPending - 1", "acknowledged: sequence - 1"]],
    caughtBy: [
      { mode: "full", seed: 62 },
      { file: "node", title: "keeps an answer that was lost, while later requests are answered" },
    ],
  },
  {
    id: "54",
    name: "A start accepts a torn frame, because it does not compare the checksum",
    changes: [[" && frameChecksum(frame) === header.readUInt32BE(8)", ""]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "55",
    name: "A server processes a packet as often as the network repeats it",
    changes: [
      ["if (!channel.accepts(number)) return this.drop(\"repeated\");", ""],
    ],
    caughtBy: [
      { file: "channels", title: "a message is accepted once, in any order" },
      { mode: "full", seed: 1 },
    ],
  },
  {
    id: "56",
    name: "A server does not set its timer again after the timer has fired",
    changes: [["      this.timerAt = Infinity;\n", ""]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "57",
    name: "The log counts an entry as saved because it replaced a saved one",
    changes: [["    this.savedIndex = Math.min(this.savedIndex, this.lastIndex);\n", ""]],
    caughtBy: [{ mode: "core", seed: 15 }],
  },
  {
    id: "58",
    name: "A late acknowledgement confirms the latest round instead of its own",
    changes: [["Math.max(follower.confirmedRound, m.round)", "follower.sentRound"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "59",
    name: "The leader confirms a read by a round that began before the read arrived",
    changes: [["r.round >= confirmed", "r.round > confirmed"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "60",
    name: "The leader counts its own copy of an entry before its disk has it",
    changes: [[
      "this.majorityValue(role, this.log.savedIndex,",
      "this.majorityValue(role, this.log.lastIndex,",
    ]],
    caughtBy: [
      { mode: "full", seed: 34 },
      { file: "replication", title: "a leader counts itself only up to its last saved entry" },
    ],
  },
  {
    id: "61",
    name: "A start reads back the term, but not the vote",
    changes: [["const votedFor = `${data}` || undefined;", "const votedFor = undefined;"]],
    caughtBy: [{ mode: "full", seed: 4 }],
  },
  {
    id: "62",
    name: "A start restores the entries that followed an overwritten entry",
    changes: [[
      "this.entries.splice(index - this.base.index - 1, Infinity, record);",
      "this.entries[index - this.base.index - 1] = record;",
    ]],
    caughtBy: [{ file: "storage", title: "no entry that followed a replaced entry" }],
  },
  {
    id: "63",
    name: "A client never turns from a server that does not answer to another one",
    changes: [[`this.servers[next % this.servers.length] ?? ""`, `this.target || \`\${next}\``]],
    caughtBy: [{ mode: "full", seed: 4 }],
  },
  {
    id: "64",
    name: "A refusal takes `nextIndex` back below `matchIndex`",
    changes: [[
      "Math.max(matchIndex, this.log.lastUpTo(m.hintIndex, m.hintTerm))",
      "this.log.lastUpTo(m.hintIndex, m.hintTerm)",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "65",
    name: "After a refusal the leader pipelines, although the logs may still differ",
    changes: [[
      "follower.mode = \"probing\";\n    follower.windowLimit = this.settings.batchBytes;",
      "follower.mode = \"replicating\";\n    follower.windowLimit = this.settings.batchBytes;",
    ]],
    caughtBy: [{ file: "replication", title: "several refusals cause one restart of sending" }],
  },
  {
    id: "66",
    name: "A granted pre-vote makes a server adopt a term that has not begun",
    changes: [[`type === "RequestVote" || isGrantedPreVote;`, `type === "RequestVote";`]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "67",
    name: "A leader answers a read before it has applied the entries that the read must see",
    changes: [[" || r.index > this.lastApplied", ""]],
    caughtBy: [{ mode: "core", seed: 15 }],
  },
  {
    id: "68",
    name: "The log forgets the sizes of earlier entries and measures batches wrongly",
    changes: [["endOffset: endOffset + sizeOf(entry)", "endOffset: sizeOf(entry)"]],
    caughtBy: [{ file: "log", title: "the log answers as a plain list does" }],
  },
  {
    id: "69",
    name: "A client gets the answer to another leader's entry at the same index",
    changes: [
      ["[...this.proposals.values(), ...this.reads.splice(0)]", "this.reads.splice(0)"],
      ["    this.proposals.clear();\n", ""],
    ],
    caughtBy: [
      { mode: "full", seed: 83 },
      { file: "node", title: "answers the waiting clients of a leader that steps down" },
    ],
  },
  {
    id: "70",
    name: "A server saves its vote only when its term has changed",
    changes: [[" || saved.votedFor !== votedFor\n", "\n"]],
    caughtBy: [{ mode: "core", seed: 5 }],
  },

  // Snapshots.
  {
    id: "31",
    name: "A server compacts the log before the snapshot is durable",
    changes: [
      [
        "this.files.rename(`${file}.new`, file)); this.draftBytes = 0; return this.readHead();",
        "file); return this.readHead();",
      ],
      [
        "this.log = newLog; }); }",
        `this.log = newLog;
          const file = \`\${this.directory}/snapshot\`;
          if (this.draftBytes > 0) this.files.rename(\`\${file}.new\`, file);
          this.draftBytes = 0;
        }); }`,
      ],
    ],
    caughtBy: [
      { file: "storage", title: "that is interrupted at any operation loses nothing" },
    ],
  },
  {
    id: "32",
    name: "A snapshot omits the client sessions",
    changes: [["const each of sessionRecords) yield", "const each of []) yield"]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "33",
    name: "A snapshot omits the members",
    changes: [[
      "core.log.membership(lastApplied);",
      "{ ...core.log.membership(lastApplied), members: [] };",
    ]],
    caughtBy: [{ mode: "full", seed: 1 }],
  },
  {
    id: "34",
    name: "An old snapshot takes the state back in time",
    changes: [[
      "if (log.matches(index, term)) {\n      this.commitTo(",
      "if (log.matches(index, term) && index > log.baseIndex) {\n      this.commitTo(",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "35",
    name: "A follower mixes the chunks of two leaders' snapshots",
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
    name: "A follower always refuses an AppendEntries that begins below its snapshot",
    changes: [["return index < this.baseIndex || this", "return this"]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "71",
    name: "A server applies entries to a state that is only half restored",
    changes: [[
      "const mustWait = this.isInstalling || this.saved",
      "const mustWait = this.saved",
    ]],
    caughtBy: [{ file: "paper", title: "8. Reset state machine using snapshot contents" }],
  },
  {
    id: "72",
    name: "A newer snapshot replaces one that is only half installed",
    changes: [["    if (isNew && this.isInstalling) return reply(true, 0);\n", ""]],
    caughtBy: [{
      file: "snapshots",
      title: "a complete snapshot is installed before the next one",
    }],
  },
  {
    id: "73",
    name: "A snapshot includes commands that were applied while it was written",
    changes: [["return new Map(this.values).entries()", "return this.values.entries()"]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "74",
    name: "A start brings back the log that a received snapshot has replaced",
    changes: [[
      "    this.base = snapshot;\n    this.entries = [];\n",
      "",
    ]],
    caughtBy: [{ file: "storage", title: "that was received replaces a log without the" }],
  },
  {
    id: "75",
    name: "A follower's read uses a ReadIndex request that was sent before the read arrived",
    changes: [["const reads = this.followerReads.splice(0);", ""], [
      "this.indexedReads.push({ index, reads });",
      "this.indexedReads.push({ index, reads: this.followerReads.splice(0) });",
    ], ["of reads) this.redirect(read);", "of this.followerReads.splice(0)) this.redirect(read);"]],
    caughtBy: [
      { file: "node", title: "that arrives while a request for the read index is" },
    ],
  },
  {
    id: "76",
    name: "A follower answers a read before it has applied the entries up to the read index",
    changes: [["indexedReads[0] && indexedReads[0].index <= core.lastApplied", "indexedReads[0]"]],
    caughtBy: [
      { mode: "full", seed: 2 },
      { file: "node", title: "waits until the follower has every entry that was" },
    ],
  },

  // Members.
  {
    id: "36",
    name: "The leader begins a membership change before the previous one is committed",
    changes: [[
      "commitIndex >= Math.max(log.membership().index, role.firstIndex)",
      "commitIndex >= role.firstIndex",
    ]],
    caughtBy: [
      { mode: "core", seed: 9 },
      { file: "members", title: "waits until the change before it is committed" },
    ],
  },
  {
    id: "37",
    name: "The leader begins a membership change before an entry of its own term is committed",
    changes: [[
      "commitIndex >= Math.max(log.membership().index, role.firstIndex)",
      "commitIndex >= log.membership().index",
    ]],
    caughtBy: [
      { mode: "core", seed: 9 },
      { file: "members", title: "waits until an entry of the leader's own term is" },
    ],
  },
  {
    id: "38",
    name: "The leader counts a learner in a majority",
    changes: [["const values = voters.map(", "const values = this.members.map("]],
    caughtBy: [
      { mode: "core", seed: 3 },
      { file: "members", title: "for an entry counts no learner (catalogue 38)" },
    ],
  },
  {
    id: "39",
    name: "A removed server keeps campaigning",
    changes: [[
      "if (!this.mayLead) {\n      this.become",
      "if (this.log.lastIndex < 0) {\n      this.become",
    ]],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "members", title: "does not campaign once its removal is committed" },
    ],
  },
  {
    id: "77",
    name: "A list of members stays in force after its entry was truncated",
    changes: [[
      "      this.slots.splice(entry.index - this.baseIndex);\n",
      "      const { membership } = this.slot(this.lastIndex);\n"
      + "      this.slots.splice(entry.index - this.baseIndex);\n"
      + "      Object.assign(this.slot(this.lastIndex), { membership });\n",
    ]],
    caughtBy: [{ file: "members", title: "gives way to the one before it when its entry is" }],
  },
  {
    id: "78",
    name: "A snapshot has the members at the end of the log instead of those at its own index",
    changes: [["core.log.membership(lastApplied)", "core.log.membership()"]],
    caughtBy: [{ mode: "full", seed: 4 }],
  },
  {
    id: "79",
    name: "A server stops campaigning before its removal is committed, although it is still needed",
    changes: [["(index > commitIndex && this.hasVote(", "(false && this.hasVote("]],
    caughtBy: [
      { file: "members", title: "may lead until its removal is committed, but does" },
    ],
  },
  {
    id: "80",
    name: "The leader takes a server that never replied in this term for reachable",
    changes: [["return confirmedRound > 0 && this.now", "return this.now"]],
    caughtBy: [
      { file: "members", title: "that would leave no reachable majority is refused" },
    ],
  },
  {
    id: "81",
    name: "The leader counts a reply of a removed server for the next server of that name",
    changes: [[
      "if (!follower || m.round <= follower.ignoreUpToRound) return",
      "if (!follower) return",
    ]],
    caughtBy: [{ file: "members", title: "that is added again starts with nothing" }],
  },
  {
    id: "82",
    name: "A founder founds a cluster together with a server that lists other founders",
    changes: [
      ["= cluster !== this.self.cluster || differs;", "= cluster !== this.self.cluster;"],
    ],
    caughtBy: [{ file: "channels", title: "founders are told apart also after they have" }],
  },
  {
    id: "83",
    name: "A leader that removes itself counts itself until the removal is committed",
    changes: [[
      "return values.sort((a, b) => b - a)[majorityOf(voters) - 1] ?? 0;",
      "if (!this.member(this.settings.name)?.votes) values.push(own);\n"
      + "    return values.sort((a, b) => b - a)[majorityOf(voters) - 1] ?? 0;",
    ]],
    caughtBy: [{ mode: "core", seed: 8 }],
  },
  {
    id: "84",
    name: "A client numbers its requests from 1 after each start",
    changes: [["this.lastId = Math.floor(world.random() * 2 ** 47);", "this.lastId = 0;"]],
    caughtBy: [{ file: "node", title: "a restarted server gets no answers to its earlier" }],
  },
  {
    id: "85",
    name: "The leader readmits a new disk with the vote of the lost one",
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
    name: "The leader takes a disk that the log does not name for part of a reachable majority",
    changes: [[
      "(follower && !this.isRecentlyActive(follower)) || !this.usesNamedDisk(voter);",
      "follower && !this.isRecentlyActive(follower);",
    ]],
    caughtBy: [{ file: "members", title: "that is not named is no part of a reachable" }],
  },
  {
    id: "87",
    name: "A server leads with a disk that its log does not name",
    changes: [[
      "each.votes && this.usesNamedDisk(each)",
      "each.votes",
    ]],
    caughtBy: [
      { mode: "core", seed: 169 },
      { file: "members", title: "that is not named neither leads nor becomes the" },
    ],
  },
  {
    id: "88",
    name: "The leader sends nothing more to a disk that has lost the tail of its log",
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
    name: "A server confirms a channel with a disk that its sender has lost",
    changes: [
      [
        "(createdAt < remote.bootedAt || (remote.disks.has(disk) && isElsewhere))",
        "createdAt < remote.bootedAt",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "with another disk replaces the earlier one, which is refused" },
    ],
  },
  {
    id: "296",
    name: "After a start with a wrong directory, a server is refused with its own",
    changes: [[
      "remote.disks.has(disk) && isElsewhere",
      "remote.disks.has(disk)",
    ]],
    caughtBy: [
      { file: "channels", title: "with a disk that was replaced is accepted at the address of" },
      { file: "node", title: "is counted at once if its disk is needed for a majority" },
    ],
  },
  {
    id: "90",
    name: "Two starts from copies of one directory get the same boot number",
    changes: [["1 + Math.floor(random() * 2 ** 20)", "1"]],
    caughtBy: [{ file: "storage", title: "from copies of one directory draws different boot" }],
  },
  {
    id: "91",
    name: "The leader credits a new disk with the entries that the lost one acknowledged",
    changes: [["if (hasReplied) this.trackFollower(role, peer);", ""]],
    caughtBy: [
      { file: "members", title: "that replaces another one has acknowledged nothing" },
    ],
  },
  {
    id: "280",
    name:
      "The leader credits a disk that comes back with what another one has acknowledged meanwhile",
    changes: [
      ["if (hasReplied) this.trackFollower(role, peer);", ""],
      [
        "if (member.disk > 0) this.events.push({ type: \"lostDisk\"",
        "this.trackFollower(role, member.name);\n"
        + "    if (member.disk > 0) this.events.push({ type: \"lostDisk\"",
      ],
    ],
    caughtBy: [{ file: "members", title: "that comes back in place of another one has" }],
  },
  {
    id: "285",
    name: "The leader names a new disk only after it has acknowledged entries",
    changes: [
      ["if (member && !this.usesNamedDisk(member)) this.readmit(role, member); // Section 11.", ""],
      [
        "if (member?.votes || !this.canChangeMembers) return;",
        "if (member && !this.usesNamedDisk(member)) return this.readmit(role, member);\n"
        + "    if (member?.votes || !this.canChangeMembers) return;",
      ],
    ],
    caughtBy: [{ file: "members", title: "is named at its first refusal, before it has the" }],
  },
  {
    id: "278",
    name: "A former leader confirms a change by a list that another leader has replaced",
    changes: [[
      "const index = this.propose(\"noop\");",
      "const { index } = this.log.membership();",
    ]],
    caughtBy: [{ file: "members", title: "by an entry that only a present leader commits" }],
  },
  {
    id: "279",
    name: "A leader counts entries that a follower has lost, as long as it cannot demote it",
    changes: [["this.trackFollower(role, m.from); // Even", "// Even"]],
    caughtBy: [{ file: "members", title: "that has lost entries helps to commit them only after" }],
  },
  {
    id: "281",
    name: "A name with half a character gets into the log, and no follower takes that entry",
    changes: [["text.isWellFormed() && Buffer.byteLength(text)", "Buffer.byteLength(text)"]],
    caughtBy: [{ file: "members", title: "is refused for a name or host that no other server" }],
  },
  {
    id: "282",
    name: "The host of a member makes an entry of the log too large for every message",
    changes: [["[server.name, server.host].every", "[server.name].every"]],
    caughtBy: [{ file: "members", title: "is refused for a name or host that no other server" }],
  },
  {
    id: "283",
    name: "A server on the loopback hides the address of a new leader from its own program",
    changes: [["client === this.self.name\n      || isLoopback(", "isLoopback("]],
    caughtBy: [{ file: "channels", title: "a loopback address is for the server itself" }],
  },
  {
    id: "284",
    name: "A refusal with a long or malformed reason is dropped, so the client sees a timeout",
    changes: [["`${Buffer.from(text).subarray(0, MAX_ANSWER_BYTES)}`", "text"]],
    caughtBy: [{ file: "embedding", title: "whose query throws, or returns a promise" }],
  },
  {
    id: "295",
    name: "A query that throws a value without text stops the server",
    changes: [["this.refuse(m, describeThrown(error));", "this.refuse(m, `${error}`);"]],
    caughtBy: [{ file: "embedding", title: "whose query throws, or returns a promise" }],
  },
  {
    id: "270",
    name: "A leader adds itself again in the turn that commits its removal",
    changes: [[
      "this.maybeLeave();\n    if (this.isRemoved) return undefined;",
      "",
    ]],
    caughtBy: [{ file: "members", title: "is not added again before it has handed over" }],
  },
  {
    id: "294",
    name: "A leader adds itself again by force, as no other server takes over",
    changes: [["if (this.isRemoved) return undefined;", ""]],
    caughtBy: [{ file: "members", title: "that leads is not added again by force" }],
  },
  {
    id: "271",
    name: "A Hello still goes to an address where another server has answered, and faster",
    changes: [["if (Bun.deepEquals(asked.address, address)) asked.address = undefined;", ""]],
    caughtBy: [{ file: "clients", title: "whose address a nearer one has now" }],
  },
  {
    id: "272",
    name: "A removed server that may not lead never asks a new leader whether it was removed",
    changes: [[
      "if (this.wasMember && this.log.lastIndex > 0) this.requestVotes(this.role);",
      "",
    ]],
    caughtBy: [{ file: "members", title: "that may not lead asks for pre-votes, so that a" }],
  },
  {
    id: "273",
    name: "A client stays with another server after a slow answer of the leader",
    changes: [["this.target = from;\n    for (const [i, outcome]", "for (const [i, outcome]"]],
    caughtBy: [{ file: "clients", title: "requests go to the leader, although" }],
  },
  {
    id: "274",
    name: "A slow answer of one server to its own read turns its program's commands to another one",
    changes: [["!request.server && request.triedServer", "request.triedServer"]],
    caughtBy: [{ file: "clients", title: "requests go to the leader, although" }],
  },

  // Closed ports.
  {
    id: "92",
    name: "A follower gives up its leader after a single refusal by the leader's port",
    changes: [["if (this.portClosedAt <= this.heardAt) {", "if (now < this.heardAt) {"]],
    caughtBy: [
      { mode: "core", seed: 1 },
      { file: "ports", title: "is probed again a moment after one refusal" },
    ],
  },
  {
    id: "93",
    name: "A refusal counts although the leader was heard after it",
    changes: [["this.portClosedAt <= this.heardAt", "this.portClosedAt < 0"]],
    caughtBy: [
      { mode: "core", seed: 3 },
      { file: "ports", title: "refusals by another server, too early, or too close" },
    ],
  },
  {
    id: "94",
    name: "A follower takes a refusal by another server's port for one by its leader's",
    changes: [["this.leader !== peer || !isLate", "!isLate"]],
    caughtBy: [{ file: "ports", title: "refusals by another server, too early, or too close" }],
  },
  {
    id: "95",
    name: "A refusal counts although the leader is not late",
    changes: [["this.leader !== peer || !isLate", "this.leader !== peer"]],
    caughtBy: [{ file: "ports", title: "refusals by another server, too early, or too close" }],
  },
  {
    id: "96",
    name: "A follower that has lost its leader campaigns without a pre-vote",
    changes: [[
      "    this.leaderLostAt = this.now;\n",
      "    this.leaderLostAt = this.now;\n"
      + "    return this.campaign(\"Candidate\");\n",
    ]],
    caughtBy: [{ file: "ports", title: "costs no election if a minority sees forged refusals" }],
  },
  {
    id: "97",
    name: "A follower does not repeat a lost probe of its leader's port",
    changes: [["this.probeAt = this.now + this.settings.heartbeatMs;", "this.probeAt = Infinity;"]],
    caughtBy: [{ file: "ports", title: "is probed, then once per heartbeat until it is" }],
  },
  {
    id: "98",
    name: "A follower that has lost its leader never backs off to the election timeout",
    changes: [[
      "Math.max(heartbeatMs, this.now - this.leaderLostAt)",
      "this.leaderLostAt > 0 ? heartbeatMs : Infinity",
    ]],
    caughtBy: [{ file: "ports", title: "is replaced by campaigns that are retried quickly" }],
  },
  {
    id: "99",
    name: "A server takes an unreachable machine for a closed port",
    changes: [["if (code === \"ECONNREFUSED\") onRefused();", "onRefused();"]],
    caughtBy: [{ file: "datagrams", title: "of an unreachable address or an invalid port is" }],
  },
  {
    id: "100",
    name: "A server takes a repeated read request for another read",
    changes: [
      ["if (waiting.has(m.id) || waiting.size", "if (waiting.size"],
    ],
    caughtBy: [
      { file: "node", title: "that its client repeats is one read, on a follower" },
    ],
  },
  {
    id: "101",
    name: "A reply to a request of an earlier term confirms a round of this term",
    changes: [["return term < this.currentTerm ? 0 : round;", "return round;"]],
    caughtBy: [{ file: "reads", title: "a request of an earlier term confirms nothing" }],
  },
  {
    id: "102",
    name: "A server with an empty disk obeys a TimeoutNow that was meant for its lost disk",
    changes: [[
      "if (this.mayLead && this.log.lastIndex > 0) this.campaign",
      "if (this.mayLead) this.campaign",
    ]],
    caughtBy: [{ file: "members", title: "that is empty ignores a TimeoutNow to the disk" }],
  },
  {
    id: "103",
    name: "A session that is used does not become the most recently used one",
    changes: [[
      "this.size += values.delete(id) ? 0 : 1;",
      "this.size += values.has(id) ? 0 : 1;",
    ]],
    caughtBy: [{ file: "node", title: "a session that is used again becomes the most" }],
  },
  {
    id: "104",
    name: "A second request of a client is taken for a retry of the first",
    changes: [["if (waiting.has(m.id) ||", "if (waiting.size > 0 ||"]],
    caughtBy: [{ file: "node", title: "that its client repeats is one read, on a follower" }],
  },
  {
    id: "105",
    name: "A server applies only the first request of an earlier version's entry",
    changes: [[
      "return all.map((row) =>",
      "return all.slice(0, 1).map((row) =>",
    ]],
    caughtBy: [{ file: "sessions", title: "have several requests, which are all applied" }],
  },
  {
    id: "106",
    name: "A server applies the commands of a malformed request",
    changes: [["isWhole ? commands : []", "commands"]],
    caughtBy: [{ file: "wire", title: "refuses malformed commands, and applies the ones" }],
  },
  {
    id: "107",
    name: "A datagram has less room for headers than they take",
    changes: [
      ["HEADROOM = 200", "HEADROOM = 20"],
    ],
    caughtBy: [
      { file: "node", title: "commands of one turn are sent together, and" },
    ],
  },
  {
    id: "108",
    name: "A follower waits for a leader that has restarted",
    changes: [
      ["if (role === \"peer\") this.handlers.onRestarted?.(other);", ""],
    ],
    caughtBy: [
      { file: "node", title: "replaces a leader that restarts as fast" },
    ],
  },
  {
    id: "109",
    name: "A follower gives up its leader when another server has restarted",
    changes: [[
      "if (this.role.name === \"Follower\" && this.leader === peer) this.giveUpLeader();",
      "if (peer !== \"\" && this.role.name === \"Follower\") this.giveUpLeader();",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "110",
    name: "A reply assigns outcomes to the wrong commands",
    changes: [["first += outcomes.length;", "first += 1;"]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "111",
    name: "A client sends all commands of a turn in one message, however large",
    changes: [[
      "const room = Math.min(this.endpoint.roomFor(target) - HEADROOM, MAX_COMMAND_BYTES);",
      "const room = Infinity;",
    ]],
    caughtBy: [
      { file: "node", title: "commands of one turn are sent together, and" },
    ],
  },
  {
    id: "112",
    name: "A server sends all outcomes of a request in one message, however large",
    changes: [["batches(all, bytesOf, this.core.settings.batchBytes)", "[all]"]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "113",
    name: "A client stops waiting after the first outcome of a request",
    changes: [["if (request.missing === 0) this.pending", "this.pending"]],
    caughtBy: [{ file: "node", title: "commands of one turn are sent together, and" }],
  },
  {
    id: "115",
    name: "Commands wait forever for a session that was opened as their client was closed",
    changes: [[
      "const error = this.failure(code, CLOSED[code]); for (const { reject } of this.commands.splice(0)) reject(error);",
      "",
    ]],
    caughtBy: [{ file: "node", title: "rejects its command if its node stops as soon as" }],
  },
  {
    id: "116",
    name: "A removed server stops before its clients know any other server",
    changes: [[
      "clock.setTimer(settings.electionTimeoutMs, () => void this.stop())",
      "clock.setTimer(0, () => void this.stop())",
    ]],
    caughtBy: [{ file: "members", title: "gives its clients the addresses of the other" }],
  },
  {
    id: "117",
    name: "A redirect lists the leader only, and nothing if the leader is unknown",
    changes: [[
      "this.endpoint.addressesOf(this.members,",
      "this.endpoint.addressesOf(this.members.filter(({ name }) => name === leader),",
    ]],
    caughtBy: [{ file: "members", title: "gives its clients the addresses of the other" }],
  },

  // Performance.
  {
    id: "118",
    name: "All logs have the same marker, so a command may pass for a frame",
    changes: [["this.marker = 1 + Math.floor(random() * 2 ** 31);", "this.marker = 1;"]],
    caughtBy: [{ file: "storage", title: "is not deceived by commands that look like frames" }],
  },
  {
    id: "119",
    name: "The leader applies an entry that its followers have saved, but its own disk has not",
    changes: [["Math.min(this.commitIndex, this.log.savedIndex)", "this.commitIndex"]],
    caughtBy: [
      {
        file: "replication",
        title: "a leader applies no entry that only its followers have saved",
      },
    ],
  },
  {
    id: "120",
    name: "The leader retransmits a lost request only at the next heartbeat",
    changes: [[
      "(isFast ? RETRANSMISSIONS : 1)",
      "1",
    ]],
    caughtBy: [{ file: "paper", title: "Servers retry RPCs if they do not receive a response" }],
  },
  {
    id: "123",
    name: "The leader retransmits a heartbeat although nothing waits for the reply",
    changes: [[
      "isInFlight || (read !== undefined && confirmedRound <= read.round)",
      "isInFlight || confirmedRound < follower.sentRound",
    ]],
    caughtBy: [{ file: "replication", title: "a heartbeat is not retransmitted if nothing waits" }],
  },
  {
    id: "121",
    name: "The leader syncs in each turn, before it gives the answers that are ready",
    changes: [[`this.role.name === "Leader" && this.hasApplicable`, "false"]],
    caughtBy: [{ file: "node", title: "a leader has one sync for all commands that" }],
  },
  {
    id: "122",
    name: "A server prepares no space, so each save makes its log longer",
    changes: [["this.size = end + EXTENSION.length;", "this.size = end + FRAME_HEADER;"]],
    caughtBy: [{ file: "storage", title: "grow in big steps, with zeros at their end" }],
  },

  // Files.
  {
    id: "124",
    name: "A renamed file is not durable, because its directory is not synced",
    changes: [[
      "    fs.renameSync(from, to);\n    syncDirectory(path.dirname(to));",
      "    fs.renameSync(from, to);",
    ]],
    caughtBy: [{ file: "files", title: "syncs the directory before a rename returns" }],
  },
  {
    id: "125",
    name: "A new log goes on after its zeros, where a start looks for no frame",
    changes: [
      [
        `EXTENSION]), "/log.new");`,
        `EXTENSION]), "/log.new"); this.end = this.size;`,
      ],
    ],
    caughtBy: [{ file: "storage", title: "every completed save, after any sequence of saves" }],
  },
  {
    id: "126",
    name: "A new data directory is not durable, because its parents are not synced",
    changes: [[
      "for (let at = log; at !== top;) syncDirectory(at = path.dirname(at));",
      "syncDirectory(directory);",
    ]],
    caughtBy: [{ file: "files", title: "makes a new directory durable, with all parents" }],
  },
  {
    id: "127",
    name: "A file counts a short write as a complete one",
    changes: [[
      "        at += fs.writeSync(fd, bytes, at, bytes.length - at, position + at);",
      "        fs.writeSync(fd, bytes, at, bytes.length - at, position + at);\n        at = bytes.length;",
    ]],
    caughtBy: [{ file: "files", title: "is written whole" }],
  },
  {
    id: "128",
    name: "A sync returns before the disk has the data",
    changes: [["      fs.fdatasyncSync(fd);\n", ""]],
    caughtBy: [{ file: "files", title: "when a save returns" }],
  },
  {
    id: "129",
    name: "A new log lacks the saves that were made while it was written",
    changes: [["rest = Buffer.concat([rest, saves]);", ""]],
    caughtBy: [{ file: "storage", title: "is followed by all saves made during the rewriting" }],
  },
  {
    id: "277",
    name:
      "A start takes a flipped bit in the entries that the last start has written for a torn write",
    changes: [["let rest = encodeFrame([hardState], marker);", "let rest = NOTHING;"]],
    caughtBy: [{ file: "storage", title: "in the entries that a start has written again" }],
  },
  {
    id: "130",
    name: "A server leaves the replaced log open",
    changes: [[
      "this.log?.close(); this.log = newLog;",
      "this.log = newLog;",
    ]],
    caughtBy: [{ file: "files", title: "is in another file each time, the only open one" }],
  },
  {
    id: "131",
    name: "A server releases its directory while the log is still open",
    changes: [[
      "this.log?.close(); this.release();",
      "this.release(); this.log?.close();",
    ]],
    caughtBy: [{ file: "storage", title: "is refused while another server uses the directory" }],
  },
  {
    id: "132",
    name: "A server releases its lock as soon as it has it",
    changes: [["    return () => lock.close();", "    lock.close();\n    return () => {};"]],
    caughtBy: [{ file: "storage", title: "are locked against a second server" }],
  },
  {
    id: "133",
    name: "A second server starts because the lock file of the first was deleted",
    changes: [["ensure(!names.some(", "ensure(true || !names.some("]],
    caughtBy: [{ file: "files", title: "without its lock file admits no second server" }],
  },
  {
    id: "134",
    name: "A log grows only after the frame that needs the room",
    changes: [
      ["        log.write(EXTENSION, end);\n", ""],
      [
        "log.write(frame, this.end);",
        `log.write(frame, this.end);
        if (this.size > size) log.write(EXTENSION, end);`,
      ],
    ],
    caughtBy: [{ file: "storage", title: "finds zeros at the end even if the power failed" }],
  },
  {
    id: "135",
    name: "A start accepts a log that was cut off between two frames",
    changes: [["rest.subarray(-FRAME_HEADER).equals(ZEROS)", "true"]],
    caughtBy: [{ file: "storage", title: "refuses a log that does not end with zeros, and" }],
  },
  {
    id: "136",
    name: "A server that has lost its log starts as a new one",
    changes: [[
      `const isNew = !this.snapshot && this.find("/log.new");`,
      "const isNew = !this.snapshot;",
    ]],
    caughtBy: [{ file: "files", title: "is refused if its log is missing" }],
  },
  {
    id: "137",
    name: "A server keeps writing to a log that was deleted",
    changes: [["ensure(fs.fstatSync(fd).nlink > 0,", "ensure(true,"]],
    caughtBy: [{ file: "files", title: "that is deleted under a running server" }],
  },
  {
    id: "138",
    name: "A failed read of a snapshot is not reported as a storage error with the file's name",
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

  // Retransmission and leadership transfer.
  {
    id: "139",
    name: "The leader answers a refusal without news at once, in every round trip",
    changes: [[
      "if (mode === \"probing\" && next >= nextIndex) return;",
      "",
    ]],
    caughtBy: [{ file: "replication", title: "a refusal at an earlier index restarts sending" }],
  },
  {
    id: "140",
    name: "After a refusal the leader waits for the retransmission interval before it probes again",
    changes: [[
      "follower.timerStartedAt = -Infinity; // A probe is due.",
      "",
    ]],
    caughtBy: [{ file: "replication", title: "a refusal at an earlier index restarts sending" }],
  },
  {
    id: "141",
    name:
      "A successful heartbeat opens the window, so a batch that never arrives is sent too often",
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
    name: "A snapshot chunk that never arrives makes the leader retransmit a whole window",
    changes: [[
      "follower.attempts > 0\n      ? batchBytes\n      : Math.min(windowBytes, follower.windowLimit)",
      "windowBytes",
    ]],
    caughtBy: [{ file: "snapshots", title: "a follower that lost its partial snapshot" }],
  },
  {
    id: "143",
    name: "The window stays closed after an entry that was lost twice has arrived",
    changes: [[
      "follower.roundWhenMatched = role.round;\n      follower.attempts = 0;",
      "follower.roundWhenMatched = role.round;",
    ]],
    caughtBy: [{ file: "replication", title: "several refusals cause one restart of sending" }],
  },
  {
    id: "144",
    name: "The window stays closed after a snapshot chunk that was lost has arrived",
    changes: [[
      "follower.attempts = 0;\n    } else {",
      "} else {",
    ]],
    caughtBy: [{ file: "snapshots", title: "a follower that lost its partial snapshot" }],
  },
  {
    id: "145",
    name: "A repeated transfer request begins another attempt",
    changes: [[
      "if (this.lastTransfer !== transfer) {",
      "if (!core.transferTarget) {",
    ]],
    caughtBy: [{ file: "members", title: "makes one attempt, however often it is repeated" }],
  },
  {
    id: "146",
    name: "A second transfer request ends the attempt in progress",
    changes: [[`if (core.transferTarget) return this.refuse(request, "it is handing over");`, ""]],
    caughtBy: [{ file: "members", title: "is refused while another transfer is in progress" }],
  },
  {
    id: "147",
    name: "A leader hands over to a server that was silent for an election timeout",
    changes: [["voters.filter(([, follower]) => this.isRecentlyActive(follower))", "voters"]],
    caughtBy: [
      { file: "members", title: "to a server silent for an election timeout is" },
      { file: "transfer", title: "a follower that was silent for an election timeout is refused" },
    ],
  },
  {
    id: "148",
    name:
      "A leader without a named target hands over to the first server, even if it has just died",
    changes: [[
      "role.transferTargets?.includes(name)",
      "role.transferTargets?.[0] === name",
    ]],
    caughtBy: [
      { file: "node", title: "does not hand over to a server that has just died" },
      { file: "transfer", title: "a follower that has just died is not chosen" },
    ],
  },
  {
    id: "149",
    name: "A reply from before a server died makes it a transfer target",
    changes: [["follower.ignoreUpToRound = role.round; // Only a reply", "// Only a reply"]],
    caughtBy: [{ file: "node", title: "does not hand over to a server that has just died" }],
  },
  {
    id: "150",
    name: "A leader asks several servers to lead at the same time",
    changes: [["        role.transferTargets = [name];\n", ""]],
    caughtBy: [{
      file: "transfer",
      title: "the first follower that answers and has the whole log",
    }],
  },
  {
    id: "151",
    name: "A former leader counts its time as leader as silence",
    changes: [["this.heardAt = this.now; // This server only", "// A leader hears"]],
    caughtBy: [{ file: "elections", title: "the reported silence does not include the time" }],
  },
  {
    id: "152",
    name: "The leader never reports an entry or chunk that a path always loses",
    changes: [[
      "if (follower.attempts !== 2 * RETRANSMISSIONS) return;",
      "if (follower.attempts > 0) return;",
    ]],
    caughtBy: [
      { file: "node", title: "shows an entry that is too large to arrive, as an" },
      { file: "replication", title: "a chunk that a path always loses is sent as rarely" },
    ],
  },

  // Sessions, reads, members, acknowledgements and peers.
  {
    id: "153",
    name: "A snapshot does not list the sessions in the order of their last use",
    changes: [[
      "(sessions) => sessions.values())",
      "(sessions) => [...sessions.values()].toSorted((a, b) => a.id - b.id))",
    ]],
    caughtBy: [{ file: "sessions", title: "answer every later command as the original does" }],
  },
  {
    id: "154",
    name: "A session's acknowledged mark decreases when a command is overtaken",
    changes: [[
      "if (acknowledged > session.acknowledged) {",
      "if (acknowledged !== session.acknowledged) {",
    ]],
    caughtBy: [{ mode: "core", seed: 3 }],
  },
  {
    id: "182",
    name: "A client sends commands in the session of another one",
    changes: [
      [
        "let session = this.table.get(owner, id);",
        "let session = [...this.table.owners.values()].find((all) => all.has(id))?.get(id);",
      ],
    ],
    caughtBy: [
      { file: "sessions", title: "a command of another owner's session" },
    ],
  },
  {
    id: "183",
    name: "A repeated request opens a second session",
    changes: [[
      ".find((other) => other.nonce === nonce)",
      ".find((other) => other.id === session)",
    ]],
    caughtBy: [{ file: "sessions", title: "a repeated opening finds its session" }],
  },
  {
    id: "184",
    name: "A session keeps any number of answers that are not acknowledged",
    changes: [[
      "if (isAhead || room() < MAX_ANSWER_BYTES) {",
      "if (room() < MAX_ANSWER_BYTES) {",
    ]],
    caughtBy: [{
      file: "sessions",
      title: "a new request is refused while the client acknowledges",
    }],
  },
  {
    id: "185",
    name: "A full session forgets its oldest answer",
    changes: [[
      "return { refused: \"the session is full until its client acknowledges answers\" };",
      "for (const [oldest] of [...session.outcomes].slice(0, 1)) session.outcomes.delete(oldest);",
    ]],
    caughtBy: [{
      file: "sessions",
      title: "a new request is refused while the client acknowledges",
    }],
  },
  {
    id: "186",
    name: "A session counts answers as kept that were dropped",
    changes: [["for (const outcome of outcomes) session.bytes -= bytesOf(outcome);", ""]],
    caughtBy: [{
      file: "sessions",
      title: "a new request is refused while the unacknowledged answers",
    }],
  },
  {
    id: "187",
    name: "A request that acknowledges its own answer ends its session",
    changes: [[
      "if (isBounded && acknowledged >= sequence) return { refused: \"it acknowledges its own answer\" };",
      "",
    ]],
    caughtBy: [{
      file: "sessions",
      title: "a request that acknowledges its own answer is refused",
    }],
  },
  {
    id: "188",
    name: "Beyond the bound in all, the owner with fewest sessions loses one",
    changes: [["each.size > most.size ? each : most", "each.size < most.size ? each : most"]],
    caughtBy: [{ file: "sessions", title: "beyond the bound in all, the owner with most" }],
  },
  {
    id: "189",
    name: "One owner takes the sessions of the others",
    changes: [[
      "const isOver = owner !== \"\" && values.size > this.maxPerOwner;",
      "const isOver = false;",
    ]],
    caughtBy: [{ file: "sessions", title: "beyond its bound an owner loses its own" }],
  },
  {
    id: "190",
    name: "A snapshot shows answers that came after it",
    changes: [[
      "if (this.shared.delete(session)) session = { ...session, outcomes: new Map(session.outcomes) };",
      "",
    ]],
    caughtBy: [{ file: "sessions", title: "does not show later commands" }],
  },
  {
    id: "191",
    name: "The bounds hold for the entries of version 5, too",
    changes: [["const isBounded = owner !== \"\";", "const isBounded = true;"]],
    caughtBy: [{ file: "sessions", title: "are applied as version 5 applied them" }],
  },
  {
    id: "192",
    name: "A client acknowledges no answer while a request of an earlier session is pending",
    changes: [[
      "content.type === \"Commands\" && content.session === session ?",
      "content.type === \"Commands\" ?",
    ]],
    caughtBy: [{ file: "node", title: "acknowledges the answers of a session as soon as" }],
  },
  {
    id: "193",
    name: "A client sends so many requests in one session that the servers refuse some",
    changes: [[
      "if (this.sequence - firstPending >= MAX_UNACKNOWLEDGED / 2) {",
      "if (firstPending < 0) {",
    ]],
    caughtBy: [{ file: "node", title: "that sends thousands of requests during an outage" }],
  },
  {
    id: "155",
    name: "A state machine that modifies a command modifies the log",
    changes: [["decodeAll(Buffer.from(data))", "decodeAll(data)"]],
    caughtBy: [{ file: "embedding", title: "that the program or the server overwrites after a" }],
  },
  {
    id: "156",
    name: "A follower answers reads from a state that is half installed",
    changes: [[
      "const isReady = () => !core.isInstalling && indexedReads",
      "const isReady = () => indexedReads",
    ]],
    caughtBy: [{ file: "node", title: "that are only partly installed answer no read" }],
  },
  {
    id: "157",
    name: "The leader gives a follower a read index that is one too low",
    changes: [[
      "        : Buffer.from(`${lastApplied}`);",
      "        : Buffer.from(`${lastApplied - 1}`);",
    ]],
    caughtBy: [
      { mode: "full", seed: 46 },
      { file: "node", title: "waits until the follower has every entry that was committed" },
    ],
  },
  {
    id: "158",
    name: "A former leader answers a ReadIndex request",
    changes: [[
      "else if (m.type !== \"ReadIndex\" && this.core.leader !== undefined) this.followerReads.push(m);",
      "else if (m.type === \"ReadIndex\" && this.core.leader !== undefined) this.answerRead(m);\n"
      + "    else if (m.type !== \"ReadIndex\" && this.core.leader !== undefined) this.followerReads.push(m);",
    ]],
    caughtBy: [{ mode: "full", seed: 2 }],
  },
  {
    id: "159",
    name: "A reply of an earlier term confirms a round of this term",
    changes: [[
      "if (m.term < this.currentTerm || m.round > role.round)",
      "if (m.round > role.round)",
    ]],
    caughtBy: [{ mode: "core", seed: 36 }],
  },
  {
    id: "160",
    name: "A list of members takes effect when it is committed, not when it is appended",
    changes: [[
      "return this.log.membership().members;",
      "return this.log.membership(this.commitIndex).members;",
    ]],
    caughtBy: [{ mode: "core", seed: 1 }],
  },
  {
    id: "161",
    name: "A log that a snapshot replaces keeps its lists of members",
    changes: [[
      "endOffset: 0, membership }]",
      "endOffset: 0, membership: this.slots.at(-1)?.membership ?? membership }]",
    ]],
    caughtBy: [
      { mode: "core", seed: 8 },
      { file: "members", title: "that comes with a snapshot replaces the one in the" },
    ],
  },
  {
    id: "162",
    name: "A follower acknowledges entries that follow those of the request",
    changes: [[
      "{ success: true, matchIndex });",
      "{ success: true, matchIndex: this.log.lastIndex });",
    ]],
    caughtBy: [{
      file: "paper",
      title: "the follower's log is identical to its own log up through the new entries",
    }],
  },
  {
    id: "163",
    name: "A new leader's first entry is not sent until the next heartbeat",
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
    name: "A packet that was overtaken takes its sender back to an earlier address",
    changes: [
      ["const isNewest = number >= this.next;", "const isNewest = true;"],
    ],
    caughtBy: [
      { file: "channels", title: "a packet that was overtaken does not take its" },
    ],
  },
  {
    id: "165",
    name: "A client with many processes ends the channels of other clients",
    changes: [
      [
        ": this.owners.values().reduce((most, each) => each.size > most.size ? each : most);",
        ": this.owners.values().reduce((first) => first);",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "of more than a thousand processes, the client with most" },
    ],
  },
  {
    id: "166",
    name: "A server accepts any message with any key",
    changes: [
      ["if (!type || !fields || level > roles.indexOf(role))", "if (!type || !fields)"],
    ],
    caughtBy: [
      { file: "wire", title: "a client's ChangeMembers is accepted only if the" },
      { mode: "full", seed: 2 },
    ],
  },
  {
    id: "167",
    name: "A request that was answered is still taken for one that waits",
    changes: [
      ["    waiting?.delete(id);\n", ""],
    ],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "node", title: "although datagrams are lost or repeated, servers" },
    ],
  },
  {
    id: "168",
    name: "A server answers the last reads that arrived instead of the first",
    changes: [["of reads.splice(0, count)", "of reads.splice(-count || Infinity)"]],
    caughtBy: [{ file: "node", title: "reads are answered in their order, each after a" }],
  },
  {
    id: "169",
    name: "A late reply lowers the round that a follower has confirmed",
    changes: [["Math.max(follower.confirmedRound, m.round)", "Number(m.round)"]],
    caughtBy: [{ file: "reads", title: "a late reply to an earlier round does not revoke a" }],
  },

  // Founding a cluster.
  {
    id: "170",
    name: "An empty founder campaigns before all other founders have shown empty logs",
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
    name: "An empty founder votes for an empty candidate before it has asked the other founders",
    changes: [
      ["(lastLogIndex === 0 && this.mayFound)", "(lastLogIndex === 0)"],
    ],
    caughtBy: [{ file: "founding", title: "votes for an empty candidate once it has looked" }],
  },
  {
    id: "172",
    name: "An empty founder takes its own pause for the silence of the others",
    changes: [
      [
        "(this.foundingQueries - 1) * intervalMs >= electionTimeoutMs",
        "this.now > electionTimeoutMs",
      ],
    ],
    caughtBy: [{ file: "founding", title: "counts a founder as silent only after asking it" }],
  },
  {
    id: "173",
    name: "A late report that a log was empty replaces the report that it no longer is",
    changes: [
      ["if (founding > 0 || !this.foundings.has(peer)) this", "this"],
    ],
    caughtBy: [{ file: "founding", title: "does not campaign once a founder has shown a log" }],
  },
  {
    id: "174",
    name: "A server whose founding is fixed accepts the entries of another founding",
    changes: [
      ["    if (this.rejectsFounding(message)) return;\n", ""],
    ],
    caughtBy: [{ file: "founding", title: "once fixed, accepts nothing of another founding" }],
  },
  {
    id: "175",
    name: "A server that joins another founding keeps the entries of its former one",
    changes: [
      ["this.log.reset(this.snapshot, this.snapshot);\n    this.foundingQueries = 0;", ""],
    ],
    caughtBy: [{ file: "founding", title: "before it is fixed, gives way to a founding of a" }],
  },
  {
    id: "176",
    name: "A server does not save its first commit index until it saves the next entry",
    changes: [
      [" || (saved.commitIndex === 0 && commitIndex > 0)", ""],
    ],
    caughtBy: [{ file: "founding", title: "is fixed by the first commit index" }],
  },
  {
    id: "177",
    name: "A restart forgets the saved commit index",
    changes: [
      [
        "this.commitIndex = Math.max(remembered.commitIndex, this.lastApplied);",
        "this.commitIndex = this.lastApplied;",
      ],
    ],
    caughtBy: [{ file: "founding", title: "found another cluster if that founder is" }],
  },
  {
    id: "178",
    name: "Each list of members draws another founding",
    changes: [
      ["this.founding || drawId(this.#random)", "drawId(this.#random)"],
    ],
    caughtBy: [{ file: "founding", title: "is kept by each later list of members" }],
  },
  {
    id: "179",
    name:
      "The leader ignores an acknowledgement because its sender has joined another founding since",
    changes: [
      ["type.endsWith(\"Reply\") || founding === 0", "founding === 0"],
    ],
    caughtBy: [{ file: "founding", title: "an acknowledgement counts although its sender has" }],
  },
  {
    id: "180",
    name: "The sessions from before a snapshot stay when the snapshot is installed",
    changes: [[
      "    const sessions = new Sessions();\n    const take",
      "    const { sessions } = this;\n    const take",
    ]],
    caughtBy: [{ file: "node", title: "that are installed replace all sessions of the" }],
  },
  {
    id: "181",
    name: "A server saves an entry in the old log while a received snapshot replaces that log",
    changes: [[
      `encodeFrame([head, hardState], marker), "/log.new");`,
      `encodeFrame([head, hardState], marker), "/log.new"); yield;`,
    ]],
    caughtBy: [{ file: "storage", title: "that was received replaces the log before the next" }],
  },
  {
    id: "114",
    name: "A leader answers the first command before its founding is fixed.",
    changes: [[
      "this.isInstalling || this.saved.commitIndex === 0;",
      "this.isInstalling;",
    ]],
    caughtBy: [{ file: "founding", title: "is fixed on a leader before it answers" }],
  },

  {
    id: "265",
    name: "A leader shows a new founding before the first entry is durable",
    changes: [["isFoundingDurable && (type", "(type"]],
    caughtBy: [{ file: "founding", title: "is shown to others only once it is durable" }],
  },
  {
    id: "266",
    name: "A message shows a founding that the disk does not have yet",
    changes: [["return this.log.savedIndex > 0 ? this.founding : 0;", "return this.founding;"]],
    caughtBy: [{ file: "founding", title: "is shown to others only once it is durable" }],
  },
  // Channels.
  {
    id: "194",
    name: "A channel uses a number again after a packet without messages",
    changes: [
      ["channel.sent += 1;", "channel.sent += Math.sign(Buffer.concat(bodies).length);"],
    ],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "channels", title: "after many packets loses and repeats no message" },
    ],
  },
  {
    id: "195",
    name: "A server takes a channel into use before it is confirmed",
    changes: [
      [
        "const evicted = this.halfOpen.use(channel);",
        "const evicted = this.halfOpen.use(channel);\n    this.confirm(channel, other, address);",
      ],
    ],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "channels", title: "ends the earlier channels in the instant" },
    ],
  },
  {
    id: "196",
    name: "A server accepts the Welcome of a client",
    changes: [
      ["if (other?.role !== \"peer\")", "if (!other)"],
    ],
    caughtBy: [
      { file: "channels", title: "with a client or another secret at the end that answers" },
    ],
  },
  {
    id: "197",
    name: "A Hint ends the channel that it is about",
    changes: [
      [
        "if (isData && packetNumberIn(echo) < channel.sent) this.sendHello(server);",
        "if (isData && packetNumberIn(echo) < channel.sent) { this.end(channel); this.sendHello(server); }",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "that is forged leads to one handshake, and the" },
    ],
  },
  {
    id: "198",
    name: "A Hint counts with any echo",
    changes: [
      ["channel?.id === channelIn(echo)", "channel !== undefined"],
    ],
    caughtBy: [
      { file: "channels", title: "is ignored unless it echoes a packet of the" },
    ],
  },
  {
    id: "199",
    name: "A part of another field of the same size is accepted",
    changes: [
      [
        "`${from} ${digest} ${size} ${head.length}`",
        "`${from} ${size} ${head.length}`",
      ],
      ["digestOf(bytes) === digest && Array.isArray(values)", "Array.isArray(values)"],
    ],
    caughtBy: [
      { file: "channels", title: "with parts of another field, or with a wrong" },
      { mode: "full", seed: 1 },
    ],
  },
  {
    id: "200",
    name: "The field of a message in parts is not compared with its digest",
    changes: [
      ["digestOf(bytes) === digest && Array.isArray(values)", "Array.isArray(values)"],
    ],
    caughtBy: [
      { file: "channels", title: "with parts of another field, or with a wrong" },
    ],
  },
  {
    id: "201",
    name: "A repetition of a message in parts begins again",
    changes: [
      ["private join({ digest, size,", "private join({ id: number, digest, size,"],
      ["${digest} ${size} ${head.length}`", "${digest} ${size} ${head.length} ${number}`"],
    ],
    caughtBy: [
      { file: "channels", title: "is put together in any order, once, and a" },
    ],
  },
  {
    id: "202",
    name: "A message in parts is delivered again with each repeated part",
    changes: [
      ["    this.incomplete.delete(field);\n", ""],
    ],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "channels", title: "is put together in any order, once, and a" },
    ],
  },
  {
    id: "203",
    name: "The parts of a sender complete a field of another sender",
    changes: [
      [
        "const field = this.incomplete.get(owner, id)",
        "const field = this.incomplete.get(\"all\", id)",
      ],
      ["?? { owner, id, bytes:", "?? { owner: \"all\", id, bytes:"],
      ["`${from} ${digest} ${size} ${head.length}`", "`${digest} ${size} ${head.length}`"],
    ],
    caughtBy: [
      { file: "channels", title: "of one sender is not completed by parts of another" },
    ],
  },
  {
    id: "204",
    name: "Fields that lack parts are kept without a bound",
    changes: [
      [
        "new FairTable<IncompleteField>(MAX_ENTRIES, MAX_ENTRIES_PER_NAME)",
        "new FairTable<IncompleteField>(Infinity, Infinity)",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "is forgotten in favor of newer ones of its" },
    ],
  },
  {
    id: "205",
    name: "A server confirms a channel with an earlier boot of its sender",
    changes: [
      ["const isEarlier = disk === remote.disk && boot < remote.boot;", "const isEarlier = false;"],
    ],
    caughtBy: [
      { file: "channels", title: "with another disk replaces the earlier one, which is refused" },
      { mode: "full", seed: 219 },
    ],
  },
  {
    id: "206",
    name: "A server takes a renewed channel for a restart",
    changes: [
      ["if (boot > remote.boot ||", "if (boot >= remote.boot ||"],
    ],
    caughtBy: [
      { mode: "full", seed: 1 },
      { file: "channels", title: "is learned of before either end has a message" },
    ],
  },
  {
    id: "207",
    name: "A server answers a Hello that it has confirmed",
    changes: [
      ["if (remote.hasConfirmed(other)) return this.drop(\"repeated\");", ""],
    ],
    caughtBy: [
      { file: "channels", title: "a repeated Hello gets the same Welcome, and none" },
    ],
  },
  {
    id: "208",
    name: "A server answers a repeated Hello with another Welcome",
    changes: [
      ["if (same) return this.socket.send(same.opening, address);", ""],
    ],
    caughtBy: [
      { file: "channels", title: "a repeated Hello gets the same Welcome, and none" },
    ],
  },
  {
    id: "209",
    name: "The handshake does not cover the header of the Hello",
    changes: [
      ["new Handshake(credential.key, header)", "new Handshake(credential.key, NOTHING)"],
      [
        "new Handshake(deriveKey(secret, id), header)",
        "new Handshake(deriveKey(secret, id), NOTHING)",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "makes the keys that an implementation of its own" },
    ],
  },
  {
    id: "210",
    name: "A server answers its own Hello",
    changes: [
      [
        "const isReflected = role === \"peer\" && name === this.self.name;",
        "const isReflected = false;",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "that comes back to its sender" },
    ],
  },
  {
    id: "211",
    name: "A channel of a removed secret stays",
    changes: [
      [
        "if (credentials.every(({ secret }) => secret !== channel.secret)) this.end(channel);",
        "void channel;",
      ],
    ],
    caughtBy: [
      { file: "secrets", title: "shuts a client with only the old line out" },
    ],
  },
  {
    id: "212",
    name: "A server accepts only the first line of its secret",
    changes: [
      [
        "for (const { secret } of this.credentials)",
        "for (const { secret } of this.credentials.slice(0, 1))",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "ends the channels of a removed line immediately, and" },
    ],
  },
  {
    id: "213",
    name: "A client tries only the first line of its key",
    changes: [
      ["credentials[to.failures % credentials.length]", "credentials[0]"],
    ],
    caughtBy: [
      { file: "secrets", title: "may have two lines, and the second one is tried" },
    ],
  },
  {
    id: "286",
    name: "After an outage each key is tried as long as the attempts of the outage were",
    changes: [
      ["asked.failures %= this.credentials.length;", ""],
    ],
    caughtBy: [
      { file: "channels", title: "tries the next line as soon after a long outage" },
    ],
  },
  {
    id: "214",
    name: "A name may have any number of handshakes that are not confirmed",
    changes: [
      [
        "new FairTable<Channel>(MAX_ENTRIES, MAX_ENTRIES_PER_NAME)",
        "new FairTable<Channel>(Infinity, Infinity)",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "recorded Hellos of many processes of a name" },
    ],
  },
  {
    id: "215",
    name: "Each Hello makes a server agree on keys",
    changes: [
      ["if (!this.admits(owner, AGREE_EVERY_MS, BURST_MS)) return this.drop(\"busy\");", ""],
    ],
    caughtBy: [
      { file: "channels", title: "a name agrees on keys fifty times in a row" },
    ],
  },
  {
    id: "216",
    name: "A channel is never renewed",
    changes: [
      [
        "const isOld = channel.sent >= RENEW_PACKETS || now >= channel.createdAt + RENEW_MS;",
        "const isOld = false;",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "after many packets loses and repeats no message" },
    ],
  },
  {
    id: "217",
    name: "The numbers of a channel begin again after the last one",
    changes: [
      [
        "if (sent === 2 ** 32 - 1) return this.end(channel);",
        "if (sent === 2 ** 32 - 1) channel.sent = 0;",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "uses no number of a key twice" },
      { mode: "full", seed: 11 },
    ],
  },
  {
    id: "218",
    name: "A channel accepts a number that it has forgotten",
    changes: [
      [
        "return number >= (this.seen[number % WINDOW] ?? 0);",
        "return number + 1 !== this.seen[number % WINDOW];",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "a message is accepted once, in any order, and" },
    ],
  },
  {
    id: "219",
    name: "A packet counts as received before its key is checked",
    changes: [
      [
        "if (!channel.accepts(number)) return this.drop(\"repeated\");",
        "if (!channel.accepts(number)) return this.drop(\"repeated\");\n    channel.record(number);",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "random bytes of any length, even with a valid" },
    ],
  },
  {
    id: "220",
    name: "A Hello ends the channels in use",
    changes: [
      [
        "Object.assign(channel, { other, id: other.channel });",
        "Object.assign(channel, { other, id: other.channel });\n    for (const old of remote.channels) this.end(old);",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "a process that begins again and again keeps" },
    ],
  },
  {
    id: "221",
    name: "Messages for a server that is away gather without a bound",
    changes: [
      ["queue.slice(-MAX_QUEUED)", "queue"],
    ],
    caughtBy: [
      { file: "channels", title: "messages for an absent server or a lost client" },
    ],
  },
  {
    id: "289",
    name: "A server remembers the rate limit of each name that a client ever had",
    changes: [["if (this.allowedAt.size >= MAX_ENTRIES) this.pruneRates();", ""]],
    caughtBy: [{ file: "channels", title: "limits of rates are forgotten, so clients" }],
  },
  {
    id: "291",
    name: "A failure to open a session ends commands that have only begun to wait",
    changes: [
      [
        "for (const { reject } of waiting) reject(error);",
        "for (const { reject } of this.commands.splice(0)) reject(error);",
      ],
    ],
    caughtBy: [
      { file: "clients", title: "a command that waits for a session has its own timeout" },
    ],
  },
  {
    id: "290",
    name: "The program of a former member writes to a cluster of another founding",
    changes: [["return isForeign ? undefined : this.", "return this."]],
    caughtBy: [{ file: "founding", title: "answers no program of former members" }],
  },
  {
    id: "288",
    name: "A client sends a command hours after it has told that the outcome is unknown",
    changes: [[
      "to.queue.splice(0).filter(({ at }) => now < at + SILENT_MS)",
      "to.queue.splice(0)",
    ]],
    caughtBy: [
      { file: "clients", title: "sends no copy of a command long after its outcome was unknown" },
    ],
  },
  {
    id: "222",
    name: "Messages that wait for a channel stay when the other end begins it",
    changes: [
      ["if (remote.queue.length > 0) { // Messages have waited for it.", "if (false) {"],
    ],
    caughtBy: [
      { mode: "full", seed: 11 },
    ],
  },
  {
    id: "223",
    name: "Hints are sent at any rate",
    changes: [
      ["    if (!this.admits(\"hint\", HINT_EVERY_MS)) return;\n", ""],
    ],
    caughtBy: [
      { file: "channels", title: "is smaller than what it answers, never answered" },
    ],
  },
  {
    id: "224",
    name: "A handshake is confirmed after a later one of the same boot",
    changes: [
      [
        "const isLate = attempt > 0 && remote.hasConfirmed(other);",
        "const isLate = false;",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "a handshake may be confirmed seconds later, unless" },
    ],
  },
  {
    id: "225",
    name: "The handshakes of one name use up those of all others",
    changes: [
      ["this.admits(owner, AGREE_EVERY_MS", "this.admits(\"all\", AGREE_EVERY_MS"],
    ],
    caughtBy: [
      { file: "channels", title: "a name agrees on keys fifty times in a row" },
    ],
  },
  {
    id: "226",
    name: "A server sends another server what an outsider has led to it",
    changes: [
      [
        "if (isReached) this.end(channel);\n    const to = isReached ? known : this.confirm(channel, other, address);",
        "const to = this.confirm(channel, other, address);",
      ],
    ],
    caughtBy: [
      { file: "channels", title: "a Hello that an outsider has led to another server" },
    ],
  },
  {
    id: "227",
    name: "A client gives up the name of a server whose address another server has taken",
    changes: [
      ["if (this.self.role === \"peer\" || isConfirmed) {", "if (this.self.role === \"peer\") {"],
    ],
    caughtBy: [
      { file: "channels", title: "a server is reached although another one has its" },
    ],
  },
  {
    id: "228",
    name: "A repetition of a message that is cut elsewhere is put together with the first copy",
    changes: [
      ["${digest} ${size} ${head.length}`", "${digest} ${size}`"],
    ],
    caughtBy: [{ file: "channels", title: "that is sent again with a longer head is cut" }],
  },
  {
    id: "229",
    name: "After a loss the leader sends a whole window again, and most of it was sent before",
    changes: [[
      "follower.windowLimit = this.settings.batchBytes;\n    follower.nextIndex = next;",
      "follower.nextIndex = next;",
    ]],
    caughtBy: [{ file: "replication", title: "the window opens again, step by step" }],
  },
  {
    id: "230",
    name: "A packet carries more messages than its receiver takes",
    changes: [["Math.max(length, room / MAX_MESSAGES)", "length"]],
    caughtBy: [{ file: "clients", title: "thousands of small requests and answers" }],
  },
  {
    id: "231",
    name: "A client asks each server that any server names",
    changes: [["[...names].slice(-MAX_SERVERS)", "[...names]"]],
    caughtBy: [{ file: "clients", title: "asks at most 64 servers" }],
  },
  {
    id: "232",
    name: "All requests of a client wait, however many",
    changes: [["waiting.has(m.id) || waiting.size >= MAX_WAITING", "waiting.has(m.id)"]],
    caughtBy: [{ file: "clients", title: "lets 4,096 requests of a client wait" }],
  },
  {
    id: "233",
    name: "The status is told as often in a turn as a client asks",
    changes: [["this.inspections.set(m.from, m)", "this.inspections.set(`${m.id}`, m)"]],
    caughtBy: [{ file: "clients", title: "asks for the status many times" }],
  },
  {
    id: "234",
    name: "A client takes answers of another cluster",
    changes: [["founding !== this.founding) {", "founding < 0) {"]],
    caughtBy: [{ file: "node", title: "stays with the cluster that has answered first" }],
  },
  {
    id: "235",
    name: "A server that recovers commits none of its entries",
    changes: [["currentTerm: term, commitIndex: index };", "currentTerm: term };"]],
    caughtBy: [{ file: "founding", title: "keeps its entries when a former leader speaks first" }],
  },
  {
    id: "236",
    name: "A server whose secret is emptied serves everyone",
    changes: [[
      "secretsOf(secret, address);\n    this.endpoint",
      "secretsOf(secret);\n    this.endpoint",
    ]],
    caughtBy: [{ file: "node", title: "takes no empty secret" }],
  },
  {
    id: "237",
    name: "A late handshake of a lost disk replaces the present disk",
    changes: [["createdAt < remote.bootedAt || (remote", "(remote"]],
    caughtBy: [
      { file: "channels", title: "with another disk ends handshakes of disks that are only met" },
    ],
  },
  {
    id: "299",
    name: "A follower under load applies less than it saves, so its backlog grows",
    changes: [["core.step(APPLY_BYTES + unsavedBytes)", "core.step(APPLY_BYTES)"]],
    caughtBy: [{ file: "node", title: "a follower under load applies as much as it saves" }],
  },
  {
    id: "304",
    name: "A follower that has installed a snapshot is sent the next one before it can catch up",
    changes: [[
      "sent > 0 && log.bytes(matchIndex + 1, this.lastApplied) > bytes / 4",
      "sent > 0 && matchIndex < snapshot.index",
    ]],
    caughtBy: [{ file: "snapshots", title: "that has installed a snapshot can catch up before" }],
  },
  {
    id: "300",
    name: "A learner must have the whole log, and never has it under load",
    changes: [["matchIndex >= goal.index", "matchIndex >= log.lastIndex"]],
    caughtBy: [{ file: "members", title: "is promoted under load if it is less than" }],
  },
  {
    id: "301",
    name: "A learner is promoted, however long it takes to reach its goal",
    changes: [["now < goal.setAt + electionTimeoutMs && matchIndex", "matchIndex"]],
    caughtBy: [{ file: "members", title: "is promoted under load if it is less than" }],
  },
  {
    id: "305",
    name: "A learner that needs a snapshot gets a vote",
    changes: [["electionTimeoutMs && matchIndex >= log.baseIndex", "electionTimeoutMs"]],
    caughtBy: [{ file: "members", title: "is not promoted while it needs a snapshot" }],
  },
  {
    id: "297",
    name: "A server that receives a damaged snapshot says that its own disk must be restored",
    changes: [["this.storage.readSnapshot(advice)", "this.storage.readSnapshot()"]],
    caughtBy: [{ file: "node", title: "that arrive damaged stop the server, with an error that" }],
  },
  {
    id: "298",
    name: "A program that throws undefined stops its server as if an operator had asked for it",
    changes: [["this.stop(error ?? new Error(\"undefined was thrown\"))", "this.stop(error)"]],
    caughtBy: [{ file: "embedding", title: "even if undefined was thrown" }],
  },
  {
    id: "238",
    name: "A received snapshot keeps its last entry, although that is not on the disk",
    changes: [["index <= log.savedIndex ? keepBytes : 0", "keepBytes"]],
    caughtBy: [
      { file: "snapshots", title: "keeps only later entries of those that have come" },
    ],
  },
  {
    id: "239",
    name: "A received snapshot discards entries, and their acknowledgement leaves later",
    changes: [[
      "if (log.matches(index, term)) {\n      log.compact(",
      "if (index <= log.savedIndex && log.matches(index, term)) {\n      log.compact(",
    ]],
    caughtBy: [
      { file: "snapshots", title: "keeps only later entries of those that have come" },
    ],
  },
  {
    id: "240",
    name: "A server without a leader drops its log for another founding of the same term",
    changes: [[
      "if (commitIndex === 0) return term",
      "if (commitIndex === 0) return leader !== undefined && term",
    ]],
    caughtBy: [{
      file: "founding",
      title: "keeps its leader against another founding of the same term",
    }],
  },
  {
    id: "302",
    name: "An empty founder counts questions that it asked before another founder lost its log",
    changes: [[
      "if (this.foundings.delete(peer)) this.foundingQueries = 0;",
      "this.foundings.delete(peer);",
    ]],
    caughtBy: [{ file: "founding", title: "asks for an election timeout again after" }],
  },
  {
    id: "303",
    name:
      "An empty founder asks in a hurry after a leader's restart, and waits too short for the others",
    changes: [["if (this.log.lastIndex === 0) return electionTimeoutMs;", ""]],
    caughtBy: [{ file: "founding", title: "asks for an election timeout again after" }],
  },
  {
    id: "241",
    name:
      "An empty founder with few heartbeats in an election timeout waits too short for the others",
    changes: [["Math.min(heartbeatMs, electionTimeoutMs / 4)", "heartbeatMs"]],
    caughtBy: [{
      file: "founding",
      title: "counts a founder as silent only after asking it for an",
    }],
  },

  // Calls and the store.
  {
    id: "242",
    name: "A list lacks the keys that were put after the first list",
    changes: [["    if (before === undefined && this.keys?.take(2)) this.keys.add(key);\n", ""]],
    caughtBy: [{ file: "lists", title: "in the order of their bytes, after any" }],
  },
  {
    id: "243",
    name: "A list shows deleted keys",
    changes: [["      this.keys?.delete(key);\n", ""]],
    caughtBy: [{ file: "lists", title: "in the order of their bytes, after any" }],
  },
  {
    id: "244",
    name: "A list shows the keys before a restore",
    changes: [[
      "    this.values.clear();\n    this.keys = undefined;\n",
      "    this.values.clear();\n",
    ]],
    caughtBy: [{ file: "lists", title: "shows a restored state" }],
  },
  {
    id: "245",
    name: "A page begins with the last key of the page before",
    changes: [["`${prefix}${after}\\0`", "prefix + after"]],
    caughtBy: [{ file: "lists", title: "which show each unchanged key once" }],
  },
  {
    id: "246",
    name: "A list of the keys with a prefix loses its place after a page",
    changes: [["after = [key.slice(begin.length)]", "after = [key]"]],
    caughtBy: [{ file: "lists", title: "which show each unchanged key once" }],
  },
  {
    id: "247",
    name: "An empty block of keys hides the keys of others",
    changes: [["block.length === 0 && this.blocks.length > 1", "block.length < 0"]],
    caughtBy: [{ file: "lists", title: "is empty again after all keys were deleted" }],
  },
  {
    id: "248",
    name: "The first list of a large store puts all keys in order at once",
    changes: [["keys.take(KEYS_PER_QUESTION)", "keys.take(Infinity)"]],
    caughtBy: [{ file: "lists", title: "puts few keys in order with each page" }],
  },
  {
    id: "249",
    name: "An aborted command that was sent is said to have done nothing",
    changes: [[
      `this.failure("aborted", ABORTED, request)`,
      `this.failure("aborted", ABORTED)`,
    ]],
    caughtBy: [{ file: "embedding", title: "has an unknown outcome, or none if it is" }],
  },
  {
    id: "250",
    name: "An aborted command that waits for a session is sent later",
    changes: [["    this.commands = this.commands.filter((other) => other !== caller);\n", ""]],
    caughtBy: [{ file: "embedding", title: "is aborted before its session is open" }],
  },
  {
    id: "251",
    name: "An aborted request is retried until its timeout",
    changes: [["if (request) this.takeCaller(request, request.callers.indexOf(caller));", ""]],
    caughtBy: [{ file: "embedding", title: "has an unknown outcome, or none if it is" }],
  },
  {
    id: "252",
    name: "An answered call leaves its listener on the signal",
    changes: [["      called.then(release, release);\n", "      called.catch(release);\n"]],
    caughtBy: [{ file: "embedding", title: "leaves no listener when it is answered" }],
  },
  {
    id: "253",
    name: "An aborted command takes the others of its request with it",
    changes: [[
      "if (request) this.takeCaller(request, request.callers.indexOf(caller));",
      "if (request) this.abandon(request, ABORTED);",
    ]],
    caughtBy: [{ file: "embedding", title: "leaves the commands of its request" }],
  },
  {
    id: "254",
    name: "A server is ready before it has applied the committed entries",
    changes: [[
      "m.type !== \"ReadIndex\" && this.core.leader !== undefined) this.followerReads.push(m);",
      "m.type === \"Ready\") this.answerRead(m);\n"
      + "    else if (m.type === \"Read\" && this.core.leader !== undefined) this.followerReads.push(m);",
    ]],
    caughtBy: [{ file: "embedding", title: "has applied every committed entry, and not before" }],
  },
  {
    id: "255",
    name: "A server that no leader has answered in time is never ready",
    changes: [[
      `{ type: "Ready" }, name, undefined, Infinity)`,
      `{ type: "Ready" }, name)`,
    ]],
    caughtBy: [{ file: "embedding", title: "has applied every committed entry, and not before" }],
  },
  {
    id: "256",
    name: "A new command is applied as a replay",
    changes: [["index <= this.rememberedIndex", "this.rememberedIndex > 0"]],
    caughtBy: [{ file: "embedding", title: "which entries the disk knew as committed" }],
  },

  // Backups.
  {
    id: "257",
    name: "A new cluster keeps the old founding in its snapshot",
    changes: [["encodeFrame(records.map(refound))", "encodeFrame(records)"]],
    caughtBy: [{ file: "founding", title: "is joined although its snapshot is larger" }],
  },
  {
    id: "258",
    name: "A new cluster keeps the old founding in its entries",
    changes: [["[...entries.map(refound), last]", "[...entries, last]"]],
    caughtBy: [{ file: "founding", title: "is joined although its log is larger" }],
  },
  {
    id: "259",
    name: "A backup has parts of two snapshots",
    changes: [[
      "offset > 0 && snapshotIndex !== previousIndex",
      "offset > 0 && snapshotIndex === 0",
    ]],
    caughtBy: [{ file: "backups", title: "begins again if the server replaces the snapshot" }],
  },
  {
    id: "260",
    name: "A server sends a snapshot that lacks the entry that was asked for",
    changes: [["snapshot.index < index ? 0 : snapshot.index", "snapshot.index"]],
    caughtBy: [{ file: "backups", title: "of a small state includes" }],
  },
  {
    id: "261",
    name: "A server under load replaces a snapshot as soon as it is read",
    changes: [[
      "at + settings.electionTimeoutMs ? 4 : 1;",
      "at + settings.electionTimeoutMs ? 1 : 1;",
    ]],
    caughtBy: [{ file: "backups", title: "does not begin again for each snapshot" }],
  },
  {
    id: "262",
    name: "A server made of a backup begins in term 0",
    changes: [["Math.max(hardState.currentTerm, base.term)", "hardState.currentTerm"]],
    caughtBy: [{ file: "backups", title: "is a cluster of its own with that state" }],
  },
  {
    id: "263",
    name: "A server that lacks the entry writes a snapshot without it",
    changes: [[
      "if (snapshot.index < index && index <= lastApplied) return 0;",
      "if (snapshot.index < index) return 0;",
    ], ["if (lastApplied < index) return;", ""]],
    caughtBy: [{ file: "backups", title: "waits for a server that lags" }],
  },
  {
    id: "264",
    name: "A client sends the commands of one turn in one session, however many they are",
    changes: [[
      "if (this.sequence - firstPending >= MAX_UNACKNOWLEDGED / 2) {",
      "if (before - firstPending >= MAX_UNACKNOWLEDGED / 2) {",
    ], [
      "for (const batch of batches(this.commands.splice(0), bytesOf, room)) {",
      `const before = this.sequence;
    for (const batch of batches(this.commands.splice(0), bytesOf, room)) {`,
    ]],
    caughtBy: [{ file: "clients", title: "more commands of one turn than a session takes" }],
  },
  {
    id: "275",
    name: "A follower that has half a snapshot of a dead leader never writes one of its own",
    changes: [["const isReceiving = leader !== undefined && ", "const isReceiving = "]],
    caughtBy: [{ file: "backups", title: "lacks the rest of a snapshot has its own state" }],
  },
  {
    id: "276",
    name: "A part of a received snapshot is continued in the file of the server's own snapshot",
    changes: [["core.incoming = undefined; // The new", "// The new"]],
    caughtBy: [{ file: "backups", title: "goes on with its snapshot meanwhile" }],
  },
  {
    id: "287",
    name: "A server adds all saves that were made during a long rewriting of its log in one go",
    changes: [["Math.min(EXTENSION.length, this.end - at)", "this.end - at"]],
    caughtBy: [{ file: "storage", title: "many saves made during the rewriting, in slices" }],
  },
  {
    id: "267",
    name: "A server that stops leaves the state machine's snapshot half written",
    changes: [["() => this.backgroundTask?.return(undefined)", "() => {}"]],
    caughtBy: [{ file: "embedding", title: "end a snapshot that the state machine is writing" }],
  },
  {
    id: "268",
    name: "A client sends more commands together than a server takes",
    changes: [[
      "Math.min(this.endpoint.roomFor(target) - HEADROOM, MAX_COMMAND_BYTES)",
      "this.endpoint.roomFor(target) - HEADROOM",
    ]],
    caughtBy: [{ file: "clients", title: "together fit the largest datagram" }],
  },
  {
    id: "269",
    name: "A client asks only the first 64 servers that it has heard of, even after they are gone",
    changes: [
      ["[...names].slice(-MAX_SERVERS)", "[...names].slice(0, MAX_SERVERS)"],
    ],
    caughtBy: [{ file: "clients", title: "asks at most 64 servers" }],
  },
  {
    id: "292",
    name: "A redirect moves the servers that it lists to the end, so that others have no turn",
    changes: [[
      "const names = new Set([...this.servers, ...listed.map(({ name }) => name)]);",
      "const own = listed.map(({ name }) => name);\n"
      + "    const names = new Set([...this.servers.filter((name) => !own.includes(name)), ...own]);",
    ]],
    caughtBy: [{ file: "clients", title: "list the members in other orders" }],
  },
  {
    id: "293",
    name: "A client takes the founding of a leader that answers a transfer before it is committed",
    changes: [[
      "asked !== \"Inspect\" && !(asked in operatorMessages)",
      "asked !== \"Inspect\"",
    ]],
    caughtBy: [{ file: "node", title: "may ask for a transfer before its cluster is founded" }],
  },
];

// ------------------------------------------- Planting -------------------------------------------

/** Matches a piece of source in any layout. */
function patternOf(piece: string): RegExp {
  const tokens = piece.match(/\w+|[^\w\s]/g) ?? [];
  const pattern = tokens.map((token, i) => {
    if (/\w/.test(token)) return /\w/.test(tokens[i - 1] ?? "") ? `\\s+${token}` : `\\s*${token}`;
    return `${/[)\]}]/.test(token) ? "\\s*,?" : ""}\\s*${RegExp.escape(token)}`;
  });
  return new RegExp(pattern.join("").replace(/^\\s\*/, ""), "g");
}

/** Returns the pieces that a bug replaces but that do not occur exactly once in raft.ts. */
export function stalePieces({ changes }: Planted, source = readSource()): string[] {
  return changes.map(([before]) => before)
    .filter((text) => [...source.matchAll(patternOf(text))].length !== 1);
}

const readSource = () => readFileSync(path.join(root, "raft.ts"), "utf8");

/** Returns raft.ts with a bug. */
export function plant({ id, changes }: Planted, source = readSource()): string {
  let changed = source;
  for (const [before, after] of changes) {
    const [match, ...others] = changed.matchAll(patternOf(before));
    if (!match || others.length > 0) {
      throw new Error(
        `Cannot plant bug ${id}: this does not occur exactly once in raft.ts:\n${before}`,
      );
    }
    changed = changed.slice(0, match.index) + after.trim()
      + changed.slice(match.index + match[0].length);
  }
  return changed;
}

/** Calls `use` with a copy of the project, which may have a bug. Deletes the copy afterwards. */
export async function inCopy<T>(
  bug: Planted | undefined,
  use: (directory: string) => Promise<T>,
): Promise<T> {
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-catalogue-"));
  try {
    // A program copies, because the functions of node:fs may still be watched by another test.
    const { success } = Bun.spawnSync(["cp", "-R", ...COPIED, directory], { cwd: root });
    if (!success) throw new Error(`Cannot copy the project to ${directory}.`);
    symlinkSync(path.join(root, "node_modules"), path.join(directory, "node_modules"));
    const source = bug ? plant(bug) : readSource();
    new Bun.Transpiler({ loader: "ts" }).transformSync(source); // Throws if it does not parse.
    writeFileSync(path.join(directory, "raft.ts"), source);
    return await use(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

/** The number of commands that run at the same time. The machine needs as many cores. */
const CONCURRENCY = 2;
const DEADLINE_MS = 300_000;
let running = 0;
const queue: (() => void)[] = [];

/** Runs a command. With `CI` set, which is the default, it has every test. */
async function run(directory: string, args: readonly string[], CI = "1") {
  if (running >= CONCURRENCY) await new Promise<void>((resolve) => queue.push(resolve));
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

/** Matches an error that shows that the planted text is broken, which proves nothing of the tests. */
const BROKEN = /SyntaxError|ReferenceError|TypeError|Cannot find (module|package)|Unhandled error/;

/** The result of a command: whether it passed, a sentence about it, and the seed that failed. */
export type Verdict = { passed: boolean; sentence: string; seed?: number };

const patternFor = (title: string) => title.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

/** Returns the path of the test file with this name, as an argument of `bun test`. */
function pathOf(file: string): string {
  const found = globSync(`test/**/${file}.test.ts`, { cwd: root });
  if (found.length !== 1) throw new Error(`There must be exactly one ${file}.test.ts: ${found}`);
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
  if (!passed && !failed) throw new Error(`"${file}: ${title}" did not run:\n${output}`);
  return { passed, sentence: `${file}.test.ts: ${title}` };
}

/** Runs seeds of the simulator, and returns its first violation if it finds any. */
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
  throw new Error(`"bun ${args.join(" ")}" did not run (exit code ${code}):\n${output}`);
}

/** Returns the bugs that the short run misses: it includes none of their seeds and small tests. */
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
      ? catcher.seed <= SHORT_SEEDS[catcher.mode]
      : passed.some(({ file, title }) =>
        file === pathOf(catcher.file) && title.includes(catcher.title)
      );
  return planted.filter(({ caughtBy }) => !caughtBy.some(isInShortRun)).map(({ id }) => id);
}

// ---------------------------------------- Command line ------------------------------------------

const MOST_SEEDS = 2000;

/** Runs seeds from 1 on until one catches the bug. Returns undefined after `MOST_SEEDS`. */
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
  // A bug that does not run at all must not end the hunt for the others.
  const hunted = bugs.map((bug) =>
    report(bug).catch((error: Error) => {
      console.log(`| ${bug.id} | ${bug.name} | | | DOES NOT RUN: ${error.message} |`);
      process.exitCode = 1;
      return [];
    })
  );
  const needed = (await Promise.all(hunted)).flat().sort((a, b) => a - b);
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
