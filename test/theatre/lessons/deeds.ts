/** What the visitor does in a lesson, and beginnings that several lessons share. */
import type { Act, Key, Script } from "../state.ts";
import type { Deed, Step } from "./lesson.ts";
import { allCommit, applies, leads, pass, theStart } from "./signs.ts";

/** A world where only Raft and the visitor act. */
export const calm = (servers: number, seed: number, bug?: string): Omit<Script, "acts"> => ({
  world: "calm",
  seed,
  servers,
  ...(bug === undefined ? {} : { bug }),
});

type On = (server: string) => Act;
export const kill: On = (server) => ({ kind: "kill", server });
export const restart: On = (server) => ({ kind: "restart", server });
export const pause: On = (server) => ({ kind: "pause", server });
export const resume: On = (server) => ({ kind: "resume", server });
export const wipe: On = (server) => ({ kind: "wipe", server });
export const elapse: On = (server) => ({ kind: "elapse", server });
export const addServer: On = (server) => ({ kind: "addServer", server });
export const removeServer: On = (server) => ({ kind: "removeServer", server });

export const transfer = (to: string): Act => ({ kind: "transfer", to });

export const healAll: Act = { kind: "healAll" };
/** Cuts the links between groups, such as "a b" and "c d e". */
export const partition = (...groups: readonly string[]): Act => ({
  kind: "partition",
  groups: groups.map((group) => group.split(" ")),
});
/** Cuts the link both ways. */
export const cut = (a: string, b: string): Deed => () => [
  { kind: "cut", from: a, to: b },
  { kind: "cut", from: b, to: a },
];
export const cutOneWay = (from: string, to: string): Act => ({ kind: "cut", from, to });
export const write = (key: Key, value: number, at?: string): Act => ({
  kind: "propose",
  key,
  value,
  ...(at === undefined ? {} : { at }),
});
/** The client gives up its commands without an answer. Otherwise it would repeat them. */
export const forget: Act = { kind: "forget" };
export const read = (key: Key, at: string): Act => ({ kind: "read", key, at });

/** Returns the same steps without their texts, for a part that begins like the one before. */
export const quietly = (steps: readonly Step[]): readonly Step[] =>
  steps.map(({ at, then = [] }) => ({ at, then }));

/** New servers have told each other by then that their disks are empty. */
const GREETING_MS = 60;

/** Elects `name` in a new cluster, unseen, and waits until the last of the others follows. */
export const elect = (name: string, ...others: readonly string[]): readonly Step[] => [
  { at: theStart },
  { at: pass(GREETING_MS), then: [elapse(name)] },
  { at: leads(name) },
  { at: allCommit(1, name, ...others) },
];

/** The first server is elected. Then the client writes x=1, and `observer` has applied that. */
export const electAndWrite = (
  observer: string,
  ...names: [string, ...string[]]
): readonly Step[] => [
  ...elect(...names),
  { at: pass(50), then: [write("x", 1)] },
  { at: applies(observer, 3) },
];
