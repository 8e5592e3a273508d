/**
 * Chooses the part of raft.ts that ran in an event, and lists it: each comment beside its code, the
 * lines that ran, and the lines that a planted bug strikes and adds.
 */
import { type Method, type Planted, type SourceIndex } from "./build/shape.ts";
import { type Happening } from "./state.ts";

export type Changes = Pick<Planted, "source" | "firstMark" | "lastLines">;
export type ListedLine = {
  /** The line of raft.ts; undefined for a planted one. */
  readonly number: number | undefined;
  readonly text: string;
  readonly state: "same" | "struck" | "planted";
  readonly hasRun: boolean;
};
/** A comment and the code beside it. */
export type Pair = { readonly comment: string; readonly code: readonly ListedLine[] };

/** The heart of a server's turn. It is shown if nothing more special ran. */
export const HEART = "Raft.step";
/** Methods through which nearly every event goes: they tell little about it. */
const plumbing = new Set([
  ...["tick", "receive", "prepare", "onSaved", "hardState", "checkInvariants", "onHeard", "dueAt"],
  ...["wakeAt", "leader", "others", "voters", "member", "members", "founding", "send"],
  ...["pruneRemoved", "maybeLeave", "maybeTransfer", "trackRemoved", "takeReads", "majority"],
  ...[
    "resetElectionTimer",
    "hearsLeader",
    "applicableIndex",
    "withCurrentDisk",
  ],
  ...["majorityValue", "campaignTimeoutMs", "isRecentlyActive", "quorumProblem", "recordReply"],
  ...["updateMembership", "rejectsFounding", "usesNamedDisk", "countAttempt", "nextRound"],
]);

/** Returns whether a method only asks or finds something. */
export function isPlumbing(name: string): boolean {
  const own = name.replace("Raft.", "");
  return name !== HEART
    && (!name.startsWith("Raft.") || plumbing.has(own) || /^(is|has|may|can|needs)[A-Z]/.test(own));
}

/** Returns the marks that ran, with all lines of their statements. */
export function linesThatRan(
  { lastLines }: Pick<SourceIndex, "lastLines">,
  changes: Changes | undefined,
  ran: readonly number[],
): ReadonlySet<number> {
  const all = new Set<number>();
  for (const mark of ran) {
    const last = changes?.lastLines[mark] ?? lastLines[mark] ?? mark;
    for (let line = mark; line <= last; line += 1) all.add(line);
  }
  return all;
}

/** Returns the line of raft.ts at which each planted mark stands. */
function placesOf({ source, firstMark }: Changes): ReadonlyMap<number, number> {
  const places = new Map<number, number>();
  let mark = firstMark;
  for (const { at, lines } of source) for (const _ of lines) places.set(mark++, at);
  return places;
}

/** Returns the methods that ran, in the order of their first lines that ran. */
export function methodsThatRan(
  { methods }: Pick<SourceIndex, "methods">,
  changes: Changes | undefined,
  ran: readonly number[],
): Method[] {
  const places = changes ? placesOf(changes) : new Map<number, number>();
  const found = new Set<Method>();
  for (const mark of ran) {
    const line = places.get(mark) ?? mark;
    const around = methods.filter(({ first, last }) => first <= line && line <= last);
    // Of nested functions the inner one.
    const inner = around.toSorted((a, b) => (a.last - a.first) - (b.last - b.first))[0];
    if (inner) found.add(inner);
  }
  return [...found];
}

/** Returns the method that tells the most about an event. */
export function mainMethod(
  ran: readonly Method[],
  changes: Changes | undefined,
  lines: ReadonlySet<number>,
  happened: Happening,
): Method | undefined {
  const handler = happened.kind === "message" ? `Raft.on${happened.flight.type}` : "";
  const weight = ({ name, first, last }: Method) => {
    const isPlanted = changes?.source.some(({ at }) => first <= at && at <= last) ?? false;
    let count = 0;
    for (let line = first; line <= last; line += 1) if (lines.has(line)) count += 1;
    const rank = isPlumbing(name) ? -2000 : name === HEART ? -1000 : 0;
    return (isPlanted ? 1e6 : 0) + (name === handler ? 1e4 : 0) + rank + count;
  };
  return ran.toSorted((a, b) => weight(b) - weight(a))[0];
}

/** Lists a method: its comments, each beside its code. */
export function listMethod(
  { lines }: Pick<SourceIndex, "lines">,
  { passages }: Pick<Method, "passages">,
  changes: Changes | undefined,
  ran: ReadonlySet<number>,
): Pair[] {
  return passages.map(({ comment, first, last }) => {
    const code: ListedLine[] = [];
    for (let number = first; number <= last; number += 1) {
      code.push(...plantedAt(number, changes, ran));
      const isStruck = changes?.source.some(({ at, removed }) =>
        at <= number && number < at + removed
      ) ?? false;
      const state = isStruck ? "struck" : "same";
      const text = lines[number - 1] ?? "";
      code.push({ number, text, state, hasRun: !isStruck && ran.has(number) });
    }
    return { comment, code: withoutMargin(code) };
  });
}

function plantedAt(
  line: number,
  changes: Changes | undefined,
  ran: ReadonlySet<number>,
): ListedLine[] {
  if (!changes) return [];
  const listed: ListedLine[] = [];
  let mark = changes.firstMark;
  for (const { at, lines } of changes.source) {
    for (const text of lines) {
      const hasRun = ran.has(mark);
      if (at === line) listed.push({ number: undefined, text, state: "planted", hasRun });
      mark += 1;
    }
  }
  return listed;
}

/** Removes the indentation that all lines share, and empty lines at the end. */
function withoutMargin(code: readonly ListedLine[]): ListedLine[] {
  const kept = code.slice(0, code.findLastIndex(({ text }) => text.trim() !== "") + 1);
  const margins = kept.filter(({ text }) => text.trim() !== "")
    .map(({ text }) => text.search(/\S/));
  const margin = Math.min(...margins, 2);
  return kept.map((line) => ({ ...line, text: line.text.slice(margin) }));
}

/** Returns a comment as text that flows: the lines of a paragraph are joined, lists are kept. */
export function flow(comment: string): string {
  return comment.split("\n").reduce((text, line) => {
    if (text === "") return line.trim();
    const isApart = line.trim() === "" || text.endsWith("\n") || /^\s*(\d+\.|-|\*|•) /.test(line);
    return isApart ? `${text}\n${line.trim()}` : `${text} ${line.trim()}`;
  }, "");
}
