/**
 * Declares what the theatre shows and what its visitor can do. All of it is plain, immutable data:
 * a picture is a pure function of an `Instant`, and a scene is a `Script`.
 */
import type { Message, Name, RoleName } from "../../raft.ts";
import type { Fault } from "../simulation/core/scene.ts";

// ------------------------------------------ An instant -------------------------------------------

/** The state of a run after one event. Parts that did not change are those of earlier instants. */
export type Instant = {
  /** The number of events so far; 0 before the first one. */
  readonly event: number;
  /** Simulated milliseconds since the start. */
  readonly nowMs: number;
  /** A hash of everything that has happened. Equal hashes mean equal runs. */
  readonly hash: number;
  /** Whether chance may inject faults now. It is false once a seed heals its cluster. */
  readonly isHostile: boolean;
  /** All servers that have ever been started, in the order of their names. */
  readonly servers: readonly ServerView[];
  readonly flights: readonly Flight[];
  /** The links that lose all messages. */
  readonly cuts: readonly Link[];
  /** The links that hold messages back. */
  readonly clogs: readonly Clog[];
  /** The event itself. */
  readonly happened: Happening;
  /** The number of lines of the story up to and including this event. */
  readonly storyLength: number;
  /** The lines of raft.ts that ran in this event, each once, in the order of their first run. */
  readonly ran: readonly number[];
  /** The broken rule. The run ends with it. */
  readonly verdict?: Verdict;
};

/** "saving": the server waits for its disk, and reads no messages until then. */
export type Status = "up" | "down" | "paused" | "saving";

/** A server, in Figure 2's names. A server that is down shows what its disk has. */
export type ServerView = {
  readonly name: Name;
  readonly status: Status;
  /** The number of its disk, different for each disk of a run; 0 between a wipe and the restart. */
  readonly disk: number;
  /** False between a wipe and the restart, with an empty disk. */
  readonly hasDisk: boolean;
  /** Whether the server is a member by its own log. */
  readonly isMember: boolean;
  /** Whether its vote counts, by its own log. A member without a vote is a learner. */
  readonly votes: boolean;
  readonly role: RoleName;
  readonly currentTerm: number;
  readonly votedFor: Name | undefined;
  /** The leader that the server knows, perhaps itself. */
  readonly leader: Name | undefined;
  /** The servers that have granted a vote or pre-vote to this candidate; empty in other roles. */
  readonly votesGranted: readonly Name[];
  /** The simulated time at which the election timer was started, unless the server leads. */
  readonly electionFromMs?: number;
  /** The simulated time at which it runs out. */
  readonly electionDueMs?: number;
  readonly commitIndex: number;
  readonly lastApplied: number;
  /** The last entry that is durable. */
  readonly savedIndex: number;
  /** The last entry that the snapshot has replaced; 0 without a snapshot. */
  readonly snapshotIndex: number;
  /** The entry before the first one that the log still has. */
  readonly baseIndex: number;
  readonly baseTerm: number;
  readonly lastIndex: number;
  /** The entries after `baseIndex`: entry `index` is at place `index - baseIndex - 1`. */
  readonly entries: readonly EntryView[];
  /** A leader's view of its followers; undefined in other roles. */
  readonly followers: readonly FollowerView[] | undefined;
  /** The members by its own log, with their addresses left out. */
  readonly members: readonly MemberView[];
  /** The state machine: registers that have been written, such as `["x", "5"]`. */
  readonly values: readonly (readonly [key: string, value: string])[];
};

export type MemberView = { readonly name: Name; readonly votes: boolean };

export type EntryView = {
  readonly index: number;
  readonly term: number;
  readonly kind: "noop" | "session" | "commands" | "members";
  /** A few characters for its cell: `x=5`, `no-op`, `a b c`, `session k0`. */
  readonly text: string;
};

/** A leader's view of a follower. */
export type FollowerView = {
  readonly name: Name;
  readonly matchIndex: number;
  readonly nextIndex: number;
  readonly mode: "probing" | "replicating" | "snapshot";
  /** The simulated time at which the follower was last heard. */
  readonly heardMs: number;
};

/** A directed link between two servers. */
export type Link = { readonly from: Name; readonly to: Name };
export type Clog = Link & { readonly untilMs: number };

/**
 * The types of what travels. Besides Figure 2's messages: a client's request and its answer
 * ("Request", "Reply"), a follower's request for a read index and its answer ("ReadIndex",
 * "ReadIndexReply"), a probe of a port and its refusal ("Probe", "Refusal"), and the announcement
 * of a restart ("Restarted").
 */
export type FlightType =
  | Message["type"]
  | "Request"
  | "Reply"
  | "ReadIndex"
  | "ReadIndexReply"
  | "Probe"
  | "Refusal"
  | "Restarted";

/** A message in flight. `from` and `to` are servers, or clients, whose names begin with k. */
export type Flight = Link & {
  /** Numbers the flights of a run. Acts name a flight by it. */
  readonly id: number;
  readonly type: FlightType;
  /** Its content in a few words, such as `term 3, 4@2 to 6@3`. */
  readonly label: string;
  readonly term?: number;
  /** RequestVote and its reply: whether it is about a pre-vote. */
  readonly preVote?: boolean;
  /** Replies: whether the vote was granted, or the request accepted. */
  readonly success?: boolean;
  /** AppendEntries: the entries that it carries. Without entries it is a heartbeat. */
  readonly entries?: readonly EntryView[];
  /** Figure 2's other fields of the message, by name, as text. */
  readonly fields: readonly (readonly [name: string, value: string])[];
  readonly sentMs: number;
  /** When it arrives, or would have arrived. */
  readonly arriveMs: number;
  /** When it is lost on its way. It stays in the list until `arriveMs`. */
  readonly lostAtMs?: number;
};

/** What an event was. */
export type Happening =
  /** Before the first event. */
  | { readonly kind: "start" }
  /** A message reached its receiver, which may be down. */
  | { readonly kind: "message"; readonly flight: Flight }
  /** A server's timer ran out: of an election, a heartbeat or a retransmission. */
  | { readonly kind: "timer"; readonly server: Name }
  /** A server ended its turn: it sent, saved and applied. */
  | { readonly kind: "turn"; readonly server: Name }
  /** A slow save or the work on a snapshot was done, or a pause was over. */
  | { readonly kind: "disk" | "snapshot" | "resumed" | "restarted"; readonly server: Name }
  /** A client sent a request, again or for the first time. */
  | { readonly kind: "client"; readonly client: Name }
  /** Chance injected a fault. */
  | { readonly kind: "nemesis"; readonly what: Fault; readonly servers: readonly Name[] }
  /** The visitor did something. */
  | { readonly kind: "act"; readonly act: Act }
  /** A phase of a seed began: faults end, and the cluster is healed. */
  | { readonly kind: "phase"; readonly what: string };

/** What the judge said. */
export type Verdict = {
  /** The promise of Figure 3, or the rule that supports one: `Election safety`. */
  readonly promise: string;
  /** The whole sentence, as the simulator prints it. */
  readonly sentence: string;
  /** The servers that it names. */
  readonly servers: readonly Name[];
  /** The entries that it names. */
  readonly entries: readonly { readonly index: number; readonly term: number }[];
};

/** A line of the story: what `--trace` prints, without the time. */
export type StoryLine = { readonly event: number; readonly ms: number; readonly text: string };

/** A mark of the timeline. */
export type Mark = {
  readonly event: number;
  readonly ms: number;
  readonly kind: "leader" | "crash" | "act" | "verdict";
  readonly text: string;
};

// ------------------------------------------- A script --------------------------------------------

/**
 * "seed": what `simulateCore(seed)` does in the tests, event for event. "calm": no faults, and no
 * client before the visitor writes or reads. "chance": as calm, with faults that the seed draws,
 * and clients that work.
 */
export const worlds = ["calm", "chance", "seed"] as const;
export type WorldKind = (typeof worlds)[number];

/** Everything that decides a run. The browser's address holds it. */
export type Script = {
  readonly world: WorldKind;
  readonly seed: number;
  /** From 1 to 7. A world "seed" ignores it: the seed draws its own number. */
  readonly servers: number;
  /** The `id` of a planted bug (bugs.ts). The engine must be the one of that variant. */
  readonly bug?: string;
  /** What the visitor did, in order. An act follows the event with this number. */
  readonly acts: readonly ScriptedAct[];
};
export type ScriptedAct = { readonly event: number; readonly act: Act };

/** The registers of the state machine. */
export const keys = ["x", "y", "z", "w"] as const;
export type Key = (typeof keys)[number];

/** What a visitor can do. An act that has no effect, such as killing a dead server, is allowed. */
export type Act =
  /** Ends a server's process. It stays down until `restart` (or until chance restarts it). */
  | { readonly kind: "kill" | "restart"; readonly server: Name }
  | { readonly kind: "pause" | "resume"; readonly server: Name }
  /** Kills a server and replaces its disk by an empty one. */
  | { readonly kind: "wipe"; readonly server: Name }
  /** Lets a server's clock jump to the instant at which its election timer runs out. */
  | { readonly kind: "elapse"; readonly server: Name }
  /** Cuts or heals a link in one direction. */
  | { readonly kind: "cut" | "heal"; readonly from: Name; readonly to: Name }
  | { readonly kind: "healAll" }
  /** Cuts all links between the groups, both ways. A server in no group is alone. */
  | { readonly kind: "partition"; readonly groups: readonly (readonly Name[])[] }
  /** `flight` is the id of a message in flight. */
  | { readonly kind: "drop" | "duplicate"; readonly flight: number }
  | { readonly kind: "delay"; readonly flight: number; readonly ms: number }
  /** The visitor's client k0 writes. Without `value` it writes the next unused number. */
  | { readonly kind: "propose"; readonly key: Key; readonly value?: number; readonly at?: Name }
  /** The client k0 reads, at this server first. */
  | { readonly kind: "read"; readonly key: Key; readonly at?: Name }
  /** The client k0 gives up its unanswered requests. */
  | { readonly kind: "forget" }
  /** The leader hands over to this server. */
  | { readonly kind: "transfer"; readonly to: Name }
  /** The leader adds this server, which is started, or the next unused name; or removes one. */
  | { readonly kind: "addServer"; readonly server?: Name }
  | { readonly kind: "removeServer"; readonly server: Name };

// ------------------------------------------- An engine -------------------------------------------

/**
 * The simulation around one variant of raft.ts (engine.ts). A page that plants a bug evaluates the
 * engine's bundle with the variant, so that all modules see the same raft.ts.
 */
export interface Engine {
  /**
   * Opens a world at event 0. It goes forward only; `Run` adds the way back. `tell` takes the lines
   * of the story, in the event that causes them.
   */
  open(script: Omit<Script, "acts">, tell?: Tell): World;
}
export type Tell = (text: string, nowMs: number) => void;

/** A world that goes forward, event by event. */
export interface World {
  /** Does the next event. Returns false if none is left: after a verdict, or at a seed's end. */
  forward(): boolean;
  /**
   * Does what the visitor asks, which is an event of its own. Throws an `Error` with a sentence for
   * the visitor if that cannot be done; then nothing has happened.
   */
  act(act: Act): void;
  /** Returns the state after the last event. */
  view(): Instant;
}
