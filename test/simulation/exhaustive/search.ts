/** Visits every state of a cluster of three, nearest first, in steps from the beginning. */
import { type Bounds, checkCluster, commit, histories, type History } from "./cluster.ts";
import { HashSet, Lexicon, type Place, Queue, RENAMINGS } from "./lexicon.ts";
import {
  type End,
  type Input,
  isWithinTurn,
  messages,
  NAMES,
  owesSave,
  servers,
  type ServerState,
  type Step,
  step,
} from "./server.ts";

const WAYS = RENAMINGS.length;
const KINDS = [
  "deliver",
  "deliverLate",
  "timer",
  "beat",
  "propose",
  "read",
  "turn",
  "crash",
] as const;
const ENDS = ["flush", "die", "stay"] as const;

/** An action. `at` is the number of a message, in the order of first sending, or a server. */
export type Action = { kind: Input["kind"]; end: End; at: number };
const encode = ({ kind, end, at }: Action) => at * 32 + KINDS.indexOf(kind) * 4 + ENDS.indexOf(end);
const decode = (code: number): Action => ({
  kind: KINDS[(code % 32) >> 2] ?? "crash",
  end: ENDS[code % 4] ?? "flush",
  at: code >> 5,
});

/** A state of the cluster, in numbers of the vocabularies. `sent` only ever grows. */
export type State = {
  servers: readonly number[];
  history: number;
  sent: readonly number[];
  depth: number;
  number: number;
  last: number;
};

/** The numbers of distinct states of each kind. */
export const noSights = () => ({
  twoLeaders: 0,
  committed: 0,
  committedInTwoTerms: 0,
  truncated: 0,
  crashed: 0,
  diedBeforeSave: 0,
  longTurns: 0,
  /** A leader has answered its clients first, and owes a save. */
  answeredFirst: 0,
  readsAnswered: 0,
  deposed: 0,
  refusedForLeader: 0,
  /** The last step was a message that had arrived before, or one that a later one had overtaken. */
  duplicated: 0,
  overtaken: 0,
});
export type Sights = ReturnType<typeof noSights>;

type Hashes = Pick<Lexicon<unknown>, "low" | "high">;

export class Search {
  readonly sights = noSights();
  /**
   * How many states have their highest term at 0, 1, 2, ... and how many are so many steps away.
   */
  readonly byTerm: number[] = [];
  readonly byDepth: number[] = [];
  transitions = 0;
  private readonly seen: HashSet;
  private readonly queue = new Queue();
  private readonly parents: Uint32Array;
  private readonly actions: Uint32Array;
  /** What a server does, by its number, and by action and message. */
  private readonly steps: (Map<number, Step> | undefined)[] = [];
  private readonly lows = new Uint32Array(WAYS);
  private readonly highs = new Uint32Array(WAYS);
  /** The state whose steps are being tried, and the last action tried. */
  private current: State | undefined;
  private attempted = 0;

  /**
   * With `classes` the search visits states that differ only in names as different ones, and collects
   * in `classes` what remains when names are ignored.
   */
  constructor(
    readonly bounds: Bounds,
    private readonly most: number,
    readonly deepest = Number.POSITIVE_INFINITY,
    private readonly classes?: HashSet,
  ) {
    this.seen = new HashSet(most);
    this.parents = new Uint32Array(most + 1);
    this.actions = new Uint32Array(most + 1);
  }

  get states(): number {
    return this.seen.size;
  }

  /** All states that are at most this many steps away were visited. */
  completeDepth = 0;

  /** Whether all states up to `deepest` were visited. */
  get isComplete(): boolean {
    return this.queue.isEmpty;
  }

  /** Visits states. Throws the first violation, and `path` then returns the way to it. */
  run(start: State): void {
    this.seen.add(1, 1);
    this.visit({ ...start, depth: 0, number: 0, last: 0 });
    while (!this.queue.isEmpty && this.states < this.most) {
      const state = this.shift();
      this.completeDepth = state.depth;
      if (state.depth < this.deepest) this.expand(state);
    }
  }

  /** Returns the actions up to the last one that was tried. */
  path(): Action[] {
    const codes = [this.attempted];
    for (let at = this.current?.number ?? 0; at > 0; at = this.parents[at] ?? 0) {
      codes.push(this.actions[at] ?? 0);
    }
    return codes.reverse().map(decode);
  }

  // ---------------------------------------- What can happen --------------------------------------

  /**
   * Returns the possible actions. During a turn there are no others: the order would not matter.
   */
  private expand(state: State): void {
    this.current = state;
    this.addUp(state);
    const all = state.servers.map((number) => servers.at(number));
    const history = histories.at(state.history);
    const open = all.findIndex(isWithinTurn);
    for (let at = 0; at < state.sent.length; at += 1) this.deliver(state, all, at, open);
    for (const server of all) {
      if (open === -1 || open === server.self) this.act(state, server, history);
    }
  }

  private deliver(state: State, all: readonly ServerState[], at: number, open: Place): void {
    const number = state.sent[at] ?? 0;
    const message = messages.at(number);
    const place = NAMES.indexOf(message.to);
    const server = all[place];
    if (!server || (open !== -1 && open !== place)) return;
    this.take(state, server, { kind: "deliver", number }, at);
    // Only who hears a leader asks what time it is when a message comes.
    const hears = server.role.name === "Leader"
      || (server.role.name === "Follower" && server.role.leader !== -1);
    if (hears && message.type === "RequestVote") {
      this.take(state, server, { kind: "deliverLate", number }, at);
    }
  }

  private act(state: State, server: ServerState, history: History): void {
    const { bounds } = this;
    const { self: at, role, term, campaigns } = server;
    const leads = role.name === "Leader";
    const calls = term < bounds.terms && campaigns < 2 * bounds.terms;
    if (leads || calls) this.take(state, server, { kind: "timer", number: 0 }, at);
    if (leads && history.beats < bounds.beats && !isWithinTurn(server)) {
      this.take(state, server, { kind: "beat", number: 0 }, at);
    }
    if (leads && history.commands < bounds.commands) {
      this.take(state, server, { kind: "propose", number: history.commands + 1 }, at);
    }
    if (leads && history.reads < bounds.reads) {
      this.take(state, server, { kind: "read", number: history.committed.length }, at);
    }
    if (owesSave(server)) this.take(state, server, { kind: "turn", number: 0 }, at);
    if (history.crashes < bounds.crashes && !isWithinTurn(server)) {
      this.take(state, server, { kind: "crash", number: 0 }, at);
    }
  }

  /** Tries an input with every continuation of the turn. */
  private take(state: State, server: ServerState, input: Input, at: number): void {
    const { bounds } = this;
    const whole = this.attempt(state, server, input, "flush", at);
    if (input.kind === "crash" || input.kind === "beat") return;
    const inputs = (server.turn?.inputs ?? 0) + 1;
    const canStay = inputs < bounds.inputs && input.kind !== "turn";
    if (canStay) this.attempt(state, server, input, "stay", at);
    // What left before the save is all that there is to tell such a crash from one between turns.
    const canCrash = histories.at(state.history).crashes < bounds.crashes;
    if (canCrash && whole.early > 0) this.attempt(state, server, input, "die", at);
  }

  private attempt(state: State, server: ServerState, input: Input, end: End, at: number): Step {
    this.attempted = encode({ kind: input.kind, end, at });
    this.transitions += 1;
    const step = this.stepOf(state.servers[server.self] ?? 0, server, input, end);
    const next = succeed(state, server, input, end, step);
    if (!next) return step;
    if (!this.isNew(state, next, server.self)) return step;
    const all = next.servers.map((number) => servers.at(number));
    checkCluster(all, next.sent, histories.at(next.history));
    this.note(step, all, next, input, end, at);
    this.visit({ ...next, number: this.states - 1, last: this.attempted });
    return step;
  }

  private stepOf(number: number, server: ServerState, input: Input, end: End): Step {
    const steps = this.steps[number] ??= new Map();
    const key = encode({ kind: input.kind, end, at: input.number });
    const known = steps.get(key);
    if (known) return known;
    const made = step(server, input, end, this.bounds.preVotes);
    steps.set(key, made);
    return made;
  }

  // ------------------------------------- Which states are new ------------------------------------

  /** The hash of a set is the sum of those of its members, once for each renaming. */
  private addUp(state: State): void {
    this.lows.fill(0);
    this.highs.fill(0);
    for (const number of state.servers) this.addTo(this.lows, this.highs, servers, number, 1);
    for (const number of state.sent) this.addTo(this.lows, this.highs, messages.hashes, number, 1);
  }

  private addTo(
    lows: Uint32Array,
    highs: Uint32Array,
    to: Hashes,
    number: number,
    sign: number,
  ): void {
    const { low, high } = to;
    for (let way = 0; way < WAYS; way += 1) {
      lows[way] = (lows[way] ?? 0) + sign * (low[number * WAYS + way] ?? 0);
      highs[way] = (highs[way] ?? 0) + sign * (high[number * WAYS + way] ?? 0);
    }
  }

  private readonly nextLows = new Uint32Array(WAYS);
  private readonly nextHighs = new Uint32Array(WAYS);

  /** Returns the least hash of all renamings of a state, which stands for all of them. */
  private isNew(before: State, after: State, changed: Place): boolean {
    const { nextLows: lows, nextHighs: highs } = this;
    lows.set(this.lows);
    highs.set(this.highs);
    this.addTo(lows, highs, servers, before.servers[changed] ?? 0, -1);
    this.addTo(lows, highs, servers, after.servers[changed] ?? 0, 1);
    for (let i = before.sent.length; i < after.sent.length; i += 1) {
      this.addTo(lows, highs, messages.hashes, after.sent[i] ?? 0, 1);
    }
    const at = after.history * WAYS;
    const addTo = (set: HashSet, low: number, high: number) =>
      set.add((low + (histories.low[at] ?? 0)) >>> 0, (high + (histories.high[at] ?? 0)) >>> 0);
    let [low = 0] = lows;
    let [high = 0] = highs;
    for (let way = 1; way < WAYS; way += 1) {
      const [otherLow = 0, otherHigh = 0] = [lows[way], highs[way]];
      if (otherHigh > high || (otherHigh === high && otherLow >= low)) continue;
      [low, high] = [otherLow, otherHigh];
    }
    if (!this.classes) return addTo(this.seen, low, high);
    addTo(this.classes, low, high);
    return addTo(this.seen, lows[0] ?? 0, highs[0] ?? 0);
  }

  // --------------------------------------- Keeping them ------------------------------------------

  private visit(state: State): void {
    const { queue } = this;
    this.parents[state.number] = this.current?.number ?? 0;
    this.actions[state.number] = state.last;
    this.byDepth[state.depth] = (this.byDepth[state.depth] ?? 0) + 1;
    for (const number of state.servers) queue.push(number);
    for (const value of [state.history, state.depth, state.number, state.last, state.sent.length]) {
      queue.push(value);
    }
    for (const number of state.sent) queue.push(number);
  }

  private shift(): State {
    const { queue } = this;
    const numbers = NAMES.map(() => queue.shift());
    const [history, depth, number, last] = [
      queue.shift(),
      queue.shift(),
      queue.shift(),
      queue.shift(),
    ];
    const sent: number[] = [];
    for (let left = queue.shift(); left > 0; left -= 1) sent.push(queue.shift());
    return { servers: numbers, history, sent, depth, number, last };
  }

  private note(
    step: Step,
    all: readonly ServerState[],
    state: State,
    input: Input,
    end: End,
    at: number,
  ): void {
    const { sights, byTerm } = this;
    const { committed, committedIn, crashes } = histories.at(state.history);
    const leaders = new Set(all.filter(({ role }) => role.name === "Leader").map((s) => s.term));
    const term = Math.max(...all.map((server) => server.term));
    byTerm[term] = (byTerm[term] ?? 0) + 1;
    if (leaders.size > 1) sights.twoLeaders += 1;
    if (committed.length > 0) sights.committed += 1;
    if (new Set(committedIn).size > 1) sights.committedInTwoTerms += 1;
    if (step.truncated) sights.truncated += 1;
    if (crashes > 0) sights.crashed += 1;
    if (end === "die") sights.diedBeforeSave += 1;
    if (all.some(isWithinTurn)) sights.longTurns += 1;
    if (all.some(owesSave)) sights.answeredFirst += 1;
    if (step.reads > 0) sights.readsAnswered += 1;
    if (step.deposed) sights.deposed += 1;
    this.noteArrival(state, input, at);
    const isVote = input.kind === "deliver" && messages.at(input.number).type === "RequestVote";
    if (isVote && step.refused) sights.refusedForLeader += 1;
  }

  /** Records whether a message arrived before, or later than a successor. */
  private noteArrival(state: State, { kind }: Input, at: number): void {
    if (kind !== "deliver" && kind !== "deliverLate") return;
    const { from, to } = messages.at(state.sent[at] ?? -1);
    const earlier: number[] = [];
    for (let number = this.current?.number ?? 0; number > 0; number = this.parents[number] ?? 0) {
      const action = decode(this.actions[number] ?? 0);
      if (action.kind === "deliver" || action.kind === "deliverLate") earlier.push(action.at);
    }
    const isLater = (other: number) => {
      const message = messages.at(state.sent[other] ?? -1);
      return other > at && message.from === from && message.to === to;
    };
    if (earlier.includes(at)) this.sights.duplicated += 1;
    if (earlier.some(isLater)) this.sights.overtaken += 1;
  }
}

/** Returns the state after a step, or undefined if nothing changes. */
export function succeed(state: State, server: ServerState, input: Input, end: End, step: Step):
  | State
  | undefined
{
  const { self } = server;
  const news = step.sent.filter((number) => !state.sent.includes(number));
  if (step.next === state.servers[self] && news.length === 0) return undefined;
  const numbers = state.servers.with(self, step.next);
  const before = histories.at(state.history);
  const after = servers.at(step.lived);
  const isCommit = after.commitIndex > 0
    && (after.commitIndex !== server.commitIndex || step.truncated);
  const all = () => state.servers.with(self, step.lived).map((number) => servers.at(number));
  const spent = spend(before, input, end);
  const then = isCommit ? commit(spent, after, all()) : spent;
  const history = then === before ? state.history : histories.numberOf(then);
  const sent = news.length === 0 ? state.sent : [...state.sent, ...news];
  return { ...state, servers: numbers, history, sent, depth: state.depth + 1 };
}

function spend(history: History, { kind }: Input, end: End): History {
  const crashes = history.crashes + 1;
  if (kind === "crash") return { ...history, crashes };
  const cut = end === "die" ? { ...history, crashes } : history;
  if (kind === "propose") return { ...cut, commands: cut.commands + 1 };
  if (kind === "read") return { ...cut, reads: cut.reads + 1 };
  return kind === "beat" ? { ...cut, beats: cut.beats + 1 } : cut;
}
