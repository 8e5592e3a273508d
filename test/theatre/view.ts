/**
 * Looks at a simulated cluster, and returns what the theatre shows of it. Parts that have not
 * changed since the last look are the same objects, so that many instants need little memory.
 */
import {
  type Entry,
  type Message,
  type Name,
  type Raft,
  readRequests,
  type Role,
} from "../../raft.ts";
import { type Cluster } from "../simulation/core.ts";
import { keyNames, tellWrite } from "../simulation/core/clients.ts";
import { type Flight as Travelling } from "../simulation/core/flights.ts";
import { type Server } from "../simulation/core/server.ts";
import { tellContent } from "../simulation/core/words.ts";
import type {
  Act,
  Clog,
  EntryView,
  Flight,
  FollowerView,
  Happening,
  Instant,
  Link,
  MemberView,
  ServerView,
  Verdict,
} from "./state.ts";

// -------------------------------------------- Entries --------------------------------------------

const entryViews = new WeakMap<Entry, EntryView>();

/** Returns an entry as its cell shows it. An entry never changes, so it is read once. */
export function viewEntry(entry: Entry): EntryView {
  const known = entryViews.get(entry);
  if (known) return known;
  const { index, term, kind } = entry;
  const view = { index, term, kind, text: textOf(entry) };
  entryViews.set(entry, view);
  return view;
}

function textOf(entry: Entry): string {
  const { kind, membership } = entry;
  if (kind === "noop") return "no-op";
  if (kind === "members") {
    return membership?.members.map(({ name, votes }) => votes ? name : `(${name})`).join(" ") ?? "";
  }
  return readRequests(entry).map((request) =>
    "nonce" in request
      ? `session ${request.owner}`
      : request.commands.map((command) => tellCommand(command)).join(" ")
  ).join(" ");
}

function tellCommand(command: Uint8Array): string {
  const [key = 0, write = 0] = new Uint32Array(Uint8Array.from(command).buffer);
  return `${keyNames[key]}=${tellWrite(write)}`;
}

/** Returns the entries after the base, up to an index. */
const viewEntries = ({ log }: Raft, lastIndex = log.lastIndex): readonly EntryView[] =>
  log.slice(log.baseIndex + 1, lastIndex).map(viewEntry);

// -------------------------------------------- Servers --------------------------------------------

/** Returns whether two values are equal, element by element and field by field. */
export function isEqual(a: unknown, b: unknown): boolean {
  if (Object.is(a, b)) return true;
  if (typeof a !== "object" || typeof b !== "object" || a === null || b === null) return false;
  if (Array.isArray(a)) {
    return Array.isArray(b) && a.length === b.length && a.every((each, i) => isEqual(each, b[i]));
  }
  const [left, right] = [a, b] as [Record<string, unknown>, Record<string, unknown>];
  const keys = Object.keys(left);
  return keys.length === Object.keys(right).length
    && keys.every((key) => isEqual(left[key], right[key]));
}

/** Returns the old list if the new one is equal. */
const shareList = <T>(before: readonly T[], after: readonly T[]): readonly T[] =>
  isEqual(before, after) ? before : after;

/** Returns the new view of a server with all parts of the old one that are equal. */
function shareServer(before: ServerView | undefined, after: ServerView): ServerView {
  if (!before) return after;
  const shared = {
    ...after,
    entries: shareList(before.entries, after.entries),
    members: shareList(before.members, after.members),
    values: shareList(before.values, after.values),
    votesGranted: shareList(before.votesGranted, after.votesGranted),
  };
  return isEqual(before, shared) ? before : shared;
}

const valuesOf = (server: Server): ServerView["values"] =>
  [...server["machine"].values].sort(([a], [b]) => a - b)
    .map(([key, write]) => [keyNames[key] ?? "", tellWrite(write)]);

const viewMembers = ({ members }: Pick<Raft, "members">): readonly MemberView[] =>
  members.map(({ name, votes }) => ({ name, votes }));

/** Returns simulated time for a time of the server's clock, which may be fast or slow. */
const simulated = (server: Server, localMs: number) =>
  (localMs - server["originMs"]) / server["rate"];

function viewFollowers(server: Server, role: Role): readonly FollowerView[] | undefined {
  if (role.name !== "Leader") return undefined;
  return [...role.followers].map(([name, { matchIndex, nextIndex, mode, heardAt }]) => ({
    name,
    matchIndex,
    nextIndex,
    mode,
    heardMs: simulated(server, heardAt),
  }));
}

/** Returns what a running server has in its memory. */
function viewRunning(server: Server, raft: Raft): ServerView {
  const { name } = server;
  const { role, log, currentTerm, votedFor, leader, commitIndex, lastApplied, snapshot } = raft;
  const { baseIndex, lastIndex, savedIndex } = log;
  const members = viewMembers(raft);
  const own = members.find((member) => member.name === name);
  const isLeader = role.name === "Leader";
  return {
    name,
    status: server["busy"] || "up",
    disk: server["disk"],
    hasDisk: true,
    isMember: own !== undefined,
    votes: own?.votes === true,
    role: role.name,
    currentTerm,
    votedFor,
    leader,
    votesGranted: "votes" in role ? [...role.votes] : [],
    ...(isLeader ? {} : {
      electionFromMs: simulated(server, raft.heardAt),
      electionDueMs: simulated(server, raft.electionDueAt),
    }),
    commitIndex,
    lastApplied,
    savedIndex,
    snapshotIndex: snapshot.index,
    baseIndex,
    baseTerm: log.at(baseIndex).term,
    lastIndex,
    entries: viewEntries(raft),
    followers: viewFollowers(server, role),
    members,
    values: valuesOf(server),
  };
}

/** Returns the disk of a stopped server, given its state when it stopped. */
function viewStopped(server: Server, raft: Raft): ServerView {
  const { log, saved, snapshot } = raft;
  const { electionFromMs: _from, electionDueMs: _due, ...rest } = viewRunning(server, raft);
  const lastIndex = Math.max(log.savedIndex, log.baseIndex);
  const members = viewMembers({ members: raft.log.membership(lastIndex).members });
  const own = members.find(({ name }) => name === server.name);
  return {
    ...rest,
    status: "down",
    isMember: own !== undefined,
    votes: own?.votes === true,
    role: "Follower",
    currentTerm: saved.currentTerm,
    votedFor: saved.votedFor,
    leader: undefined,
    votesGranted: [],
    commitIndex: Math.max(saved.commitIndex, snapshot.index),
    lastApplied: snapshot.index,
    savedIndex: lastIndex,
    lastIndex,
    entries: viewEntries(raft, lastIndex),
    followers: undefined,
    members,
    values: [],
  };
}

/** Returns a stopped server whose disk was replaced by an empty one. */
function viewEmpty({ name }: Server, founders: readonly Name[]): ServerView {
  return {
    name,
    status: "down",
    disk: 0,
    hasDisk: false,
    isMember: founders.includes(name),
    votes: founders.includes(name),
    role: "Follower",
    currentTerm: 0,
    votedFor: undefined,
    leader: undefined,
    votesGranted: [],
    commitIndex: 0,
    lastApplied: 0,
    savedIndex: 0,
    snapshotIndex: 0,
    baseIndex: 0,
    baseTerm: 0,
    lastIndex: 0,
    entries: [],
    followers: undefined,
    members: [],
    values: [],
  };
}

// -------------------------------------------- Messages -------------------------------------------

const hidden = new Set(["type", "from", "to", "id", "entries", "data"]);

function viewFlight({ content, ...flight }: Travelling): Flight {
  if ("tell" in content) {
    return { ...flight, type: content.type, label: content.tell(), fields: [] };
  }
  const m: Message = content;
  const success = "voteGranted" in m ? m.voteGranted : "success" in m ? m.success : undefined;
  return {
    ...flight,
    type: m.type,
    label: tellContent(m),
    term: m.term,
    ...("preVote" in m ? { preVote: m.preVote } : {}),
    ...(success === undefined ? {} : { success }),
    ...("entries" in m ? { entries: m.entries.map(viewEntry) } : {}),
    fields: Object.entries(m).filter(([name]) => !hidden.has(name))
      .map(([name, value]) => [name, `${value}`]),
  };
}

// ------------------------------------------- The viewer ------------------------------------------

/** What the world knows of an instant. */
type Known = Pick<Instant, "event" | "storyLength" | "ran"> & {
  verdict: Verdict | undefined;
  act: Act | undefined;
};

export class Viewer {
  private servers: readonly ServerView[] = [];
  /** The event of the last look. */
  private viewed = -1;
  private flights: readonly Flight[] = [];
  private flightsAt = -1;
  private flightsUntilMs = 0;
  private readonly flightViews = new WeakMap<Travelling, Flight>();
  private cuts: readonly Link[] = [];
  private clogs: readonly Clog[] = [];

  constructor(private readonly cluster: Cluster) {}

  view({ event, storyLength, ran, verdict, act }: Known): Instant {
    const { scene, network } = this.cluster;
    const isTouched = this.touchedSince(event);
    const views = this.cluster.servers.map((server, i) => {
      const before = this.servers[i];
      return before && !isTouched(server.name) ? before : this.viewServer(server, before);
    });
    this.viewed = event;
    const isSame = views.length === this.servers.length
      && views.every((view, i) => view === this.servers[i]);
    if (!isSame) this.servers = views;
    this.cuts = shareList(this.cuts, network.cutLinks.map(([from, to]) => ({ from, to })));
    this.clogs = shareList(
      this.clogs,
      network.cloggedLinks(scene.now).map(([from, to, untilMs]) => ({ from, to, untilMs })),
    );
    this.viewFlights();
    return {
      event,
      nowMs: scene.now,
      hash: scene.report.hash,
      isHostile: scene.isHostile,
      servers: this.servers,
      flights: this.flights,
      cuts: this.cuts,
      clogs: this.clogs,
      happened: this.happening(event, act),
      storyLength,
      ran,
      ...(verdict ? { verdict } : {}),
    };
  }

  /** Returns which servers may have changed since the last look. */
  private touchedSince(event: number): (name: Name) => boolean {
    const { occurred } = this.cluster.scene;
    if (event !== this.viewed + 1 || !occurred) return () => true;
    if (occurred.kind === "message") return (name) => name === occurred.flight.to;
    if (occurred.kind === "client") return () => false;
    return "server" in occurred ? (name) => name === occurred.server : () => true;
  }

  private happening(event: number, act: Act | undefined): Happening {
    const { occurred } = this.cluster.scene;
    if (event === 0) return { kind: "start" };
    if (act) return { kind: "act", act };
    if (!occurred) return { kind: "phase", what: "check" };
    if (occurred.kind !== "message") return occurred;
    return { kind: "message", flight: this.flightOf(occurred.flight) };
  }

  private viewServer(server: Server, before: ServerView | undefined): ServerView {
    const { raft, stopped } = server;
    if (raft) return shareServer(before, viewRunning(server, raft));
    if (stopped) return shareServer(before, viewStopped(server, stopped));
    return shareServer(before, viewEmpty(server, this.cluster.scene.founders));
  }

  private flightOf(flight: Travelling): Flight {
    const view = this.flightViews.get(flight) ?? viewFlight(flight);
    this.flightViews.set(flight, view);
    return view;
  }

  private viewFlights(): void {
    const { flights, now } = this.cluster.scene;
    if (flights.changes === this.flightsAt && now < this.flightsUntilMs) return;
    this.flights = flights.all.map((flight) => this.flightOf(flight));
    this.flightsAt = flights.changes;
    this.flightsUntilMs = flights.nextLostMs;
  }
}

/** The nouns that follow the article "a" in the sentences of the judge. */
const NOUNS = "later|leader|majority|read|request|server|snapshot|vote|working";
const ARTICLE = new RegExp(`\\ba (?=(${NOUNS})\\b)`, "g");

/** Returns the servers that a sentence of the judge names. The article "a" is no name. */
export function namesIn(sentence: string, names: readonly Name[]): readonly Name[] {
  const facts = sentence.slice(sentence.indexOf(":") + 1).replaceAll(ARTICLE, "");
  return names.filter((name) => new RegExp(`\\b${name}\\b`).test(facts));
}
