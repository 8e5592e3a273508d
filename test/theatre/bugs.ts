/**
 * Lists the famous bugs that a visitor can plant. They are bugs of the catalogue, which makes the
 * changed raft.ts. Each was in a published system, which its text names, and comes with a seed that
 * catches it early.
 */
import type { Script } from "./state.ts";

/** The promises of Figure 3. */
export const promises = {
  "Election Safety": "at most one leader can be elected in a given term",
  "Leader Append-Only": "a leader never overwrites or deletes entries in its log",
  "Log Matching": "two logs with an entry of the same index and term are identical up to it",
  "Leader Completeness": "a committed entry is in the logs of the leaders of all later terms",
  "State Machine Safety": "no two servers apply different entries at the same index",
} as const;
export type PromiseName = keyof typeof promises;

export type Bug = {
  /** Its number in the catalogue. */
  readonly id: string;
  readonly title: string;
  /** The mistake, and the system that had it. */
  readonly about: string;
  /** The rule that the judge finds broken. */
  readonly rule: string;
  /** The promise of Figure 3 that this rule protects. Without it, the bug breaks another one. */
  readonly protects?: PromiseName;
  /** The scene that catches it. */
  readonly script: Script;
};

type Told = Omit<Bug, "script"> & { readonly seed: number };

const told: readonly Told[] = [
  // Elections.
  {
    id: "1",
    title: "A vote leaves before it is on the disk",
    about:
      "A voter that crashes right after its reply has forgotten the vote, and may give the term "
      + "to another candidate. In RobustMQ votes were answered from memory that a power cut erases "
      + "(pull request 2039, 2026).",
    rule: "A vote is durable before it is given",
    protects: "Election Safety",
    seed: 10,
  },
  {
    id: "3",
    title: "A candidate that steps down forgets its vote",
    about: "Its term has not changed, so it has voted already: for itself. Now it may vote "
      + "again. Microsoft's CCF had this (issue 5891, 2024) until a second leader of the same "
      + "term could be shown (pull request 8094, 2026).",
    rule: "One vote per term",
    protects: "Election Safety",
    seed: 23,
  },
  {
    id: "5",
    title: "A voter does not look at the candidate's log",
    about:
      "Then a server that lacks committed entries can win, and its followers delete them (§5.4.1). "
      + "jgroups-raft granted votes without a look at the log (issue 14, 2015).",
    rule: "A vote is for a log that is at least as up to date",
    protects: "Leader Completeness",
    seed: 24,
  },
  {
    id: "6",
    title: "A vote that arrives twice is counted twice",
    about: "Networks duplicate messages, so votes must be a set of names, not a counter. The "
      + "Raft sample of Microsoft's Coyote keeps this bug on purpose, to show that a tester "
      + "finds it.",
    rule: "A leader has the votes of a majority",
    protects: "Election Safety",
    seed: 14,
  },
  {
    id: "7",
    title: "A pre-vote is counted as a vote",
    about: "A pre-vote is only an opinion: a server may give it to many candidates. "
      + "Canonical's C-Raft, the library of dqlite, could count a late one as a vote (issue "
      + "196, 2021).",
    rule: "A leader has the votes of a majority",
    protects: "Election Safety",
    seed: 10,
  },
  {
    id: "9",
    title: "A vote of an earlier term is counted",
    about:
      "A late reply says that a server voted for the candidate in a term that is over. In this "
      + "term it may have voted for another one. little-raft counted such votes (issue 44, 2025).",
    rule: "A leader has the votes of a majority",
    protects: "Election Safety",
    seed: 14,
  },
  {
    id: "11",
    title: "A server that returns campaigns at once (no PreVote)",
    about:
      "A server that was cut off has raised its term again and again. When it is back, its higher "
      + "term deposes a leader that works well (thesis §9.6). Consul's users saw this in 2016 "
      + "(issue 1782).",
    rule: "A returning server does not depose a working leader",
    seed: 2,
  },
  {
    id: "12",
    title: "A leader that is cut off leads on (no CheckQuorum)",
    about:
      "Its clients wait for answers that cannot come, and never look for the new leader (thesis "
      + "§6.2). In etcd leaders began to step down only after issue 3866 (2015).",
    rule: "A leader without a majority steps down",
    seed: 2,
  },
  // Replication.
  {
    id: "14",
    title: "Old entries are committed by counting (Figure 8)",
    about: "A leader of a later term may still overwrite an entry of an earlier term, even "
      + "if a majority has it. LogCabin, by an author of Raft, had this in 2013 (issue 44), and "
      + "Canonical's C-Raft when it was reported in 2021 (issue 220).",
    rule: "Only a leader commits, and by an entry of its own term",
    protects: "Leader Completeness",
    seed: 24,
  },
  {
    id: "16",
    title: "A follower cuts its log although nothing conflicts",
    about:
      "A delayed message with fewer entries makes it delete newer ones, which it has acknowledged "
      + "and the leader may have committed. A fuzzer found this in akka-raft (issue 66, 2015), a "
      + "reader in willemt/raft (issue 37, 2017).",
    rule: "Only conflicting entries are deleted",
    protects: "Leader Completeness",
    seed: 2,
  },
  {
    id: "17",
    title: "A follower does not compare the previous entry",
    about:
      "It appends entries after a predecessor of another term, so two logs agree in one entry and "
      + "differ before it (§5.3). akka-raft's followers did not check it (issue 32, 2015).",
    rule: "Log matching",
    protects: "Log Matching",
    seed: 24,
  },
  {
    id: "18",
    title: "A follower commits more than the request confirms",
    about:
      "The end of its log may still differ from the leader's, and yet it applies those entries. "
      + "Atomix Copycat had this (issue 265, 2017), and RabbitMQ's Ra with some sequences of "
      + "requests (pull request 508, 2025).",
    rule: "A request commits only entries that it confirms",
    protects: "State Machine Safety",
    seed: 2,
  },
  {
    id: "20",
    title: "Entries are acknowledged before they are on the disk",
    about: "The leader counts copies that a crash takes away, so a committed entry can be "
      + "lost. Reported for TiKV in 2016 (issue 994), for Zeebe in 2019 (issue 4160), and for "
      + "YugabyteDB in 2026 (issue 32875).",
    rule: "Only durable entries are acknowledged",
    protects: "Leader Completeness",
    seed: 2,
  },
  // Reads.
  {
    id: "25",
    title: "A leader answers a read without asking a majority",
    about:
      "It may have been replaced without knowing it, and then it answers with old data. Jepsen "
      + "found this in etcd in 2014 (issue 741): read \"foo\" after \"bar\" was written.",
    rule: "A read waits for a later round",
    seed: 3,
  },
  {
    id: "26",
    title: "A new leader answers a read too early",
    about:
      "Until an entry of its own term is committed, it cannot know all that is committed (§8). "
      + "etcd's ReadIndex had this in 2017 (issue 7331).",
    rule: "Reads are linearizable",
    seed: 18,
  },
  {
    id: "58",
    title: "A late acknowledgement confirms a later round",
    about:
      "It proves that the leader led when its own request was sent, not when the read came. Late "
      + "acknowledgements let etcd answer reads with old data (issue 20418, found by pausing "
      + "processes, explained in 2026).",
    rule: "A read waits for a later round",
    seed: 3,
  },
  // Members and disks.
  {
    id: "37",
    title: "A new leader changes the members too early",
    about:
      "A change of an earlier leader may still win, and then two majorities need not overlap. An "
      + "author of Raft announced this hole in single-server changes in 2015; Copycat closed it "
      + "then (issue 23).",
    rule: "No change before an entry of the leader's term is committed",
    protects: "Election Safety",
    seed: 19,
  },
  {
    id: "42",
    title: "A server with a new, empty disk votes as before",
    about:
      "It has forgotten its votes and its entries, and helps to elect a leader without committed "
      + "ones. etcd forbids it: a member that lost its data must be removed first (issue 6982, "
      + "2016).",
    rule: "Leader completeness",
    protects: "Leader Completeness",
    seed: 46,
  },
];

export const bugs: readonly Bug[] = told.map(({ seed, ...bug }) => ({
  ...bug,
  script: { world: "seed", seed, servers: 3, bug: bug.id, acts: [] },
}));
