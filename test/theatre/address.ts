/**
 * Writes a scene as the part of an address after `#`, and reads it back. Every visitor of the
 * address sees the same run, event for event:
 *
 *   #world=calm&seed=7&servers=5&acts=120.kill.b,310.propose.x.5&at=402
 */
import { type Act, keys, type Script, worlds } from "./state.ts";

/** A script, the event that is shown, and the lesson that it belongs to. Parts count from 0. */
export type Scene = {
  readonly script: Script;
  readonly at?: number;
  readonly lesson?: string;
  readonly part?: number;
};

export const DEFAULT_SCRIPT: Script = { world: "calm", seed: 1, servers: 5, acts: [] };

type Kind = Act["kind"];
type Format = "name" | "number" | "key" | "groups";
/** The fields of each act, in the order of the address. Those with `?` may be left out. */
const fields: Readonly<Record<Kind, readonly (readonly [field: string, format: Format])[]>> = {
  kill: [["server", "name"]],
  restart: [["server", "name"]],
  pause: [["server", "name"]],
  resume: [["server", "name"]],
  wipe: [["server", "name"]],
  elapse: [["server", "name"]],
  cut: [["from", "name"], ["to", "name"]],
  heal: [["from", "name"], ["to", "name"]],
  healAll: [],
  forget: [],
  partition: [["groups", "groups"]],
  drop: [["flight", "number"]],
  duplicate: [["flight", "number"]],
  delay: [["flight", "number"], ["ms", "number"]],
  propose: [["key", "key"], ["value?", "number"], ["at?", "name"]],
  read: [["key", "key"], ["at?", "name"]],
  transfer: [["to", "name"]],
  addServer: [["server?", "name"]],
  removeServer: [["server", "name"]],
};

/** A mistake in an address, as a sentence. */
class Mistake extends Error {}

// -------------------------------------------- Writing --------------------------------------------

/** Escapes also the separators of acts and their parts. */
const escape = (text: string) =>
  encodeURIComponent(text).replace(/[.~!*'()]/g, (one) => `%${one.charCodeAt(0).toString(16)}`);

function writeValue(value: unknown): string {
  if (value === undefined) return "";
  if (!Array.isArray(value)) return escape(`${value}`);
  // A group begins with a slash, so that no group and an empty one differ.
  return value.map((group: readonly string[]) => `/${group.map(escape).join("+")}`).join("");
}

function writeAct(event: number, act: Act): string {
  const values = new Map<string, unknown>(Object.entries(act));
  const parts = fields[act.kind].map(([field]) => writeValue(values.get(field.replace("?", ""))));
  return [event, act.kind, ...parts].join(".").replace(/\.+$/, "");
}

export function writeAddress({ script, at, lesson, part }: Scene): string {
  const { world, seed, servers, bug, acts } = script;
  const parts = [`world=${world}`, `seed=${seed}`, `servers=${servers}`];
  if (bug !== undefined) parts.push(`bug=${escape(bug)}`);
  if (lesson !== undefined) parts.push(`lesson=${escape(lesson)}`);
  if (part !== undefined) parts.push(`part=${part}`);
  if (acts.length > 0) parts.push(`acts=${acts.map((one) => writeAct(one.event, one.act))}`);
  if (at !== undefined) parts.push(`at=${at}`);
  return `#${parts.join("&")}`;
}

// -------------------------------------------- Reading --------------------------------------------

function readText(text: string): string {
  try {
    return decodeURIComponent(text);
  } catch {
    throw new Mistake(`"${text}" is not encoded as an address must be`);
  }
}

function readNumber(text: string, what: string, low = 0, high = Number.MAX_SAFE_INTEGER): number {
  const value = Number(text);
  if (!/^\d+(\.\d+)?$/.test(text) || value < low || value > high) {
    throw new Mistake(`${what} is "${text}"; it must be a number from ${low} to ${high}`);
  }
  return value;
}

function readInteger(text: string, what: string, low?: number, high?: number): number {
  const value = readNumber(text, what, low, high);
  if (!Number.isInteger(value)) throw new Mistake(`${what} is ${text}; it must be a whole number`);
  return value;
}

function readOneOf<Word extends string>(text: string, words: readonly Word[], what: string): Word {
  const found = words.find((word) => word === text);
  if (found === undefined) {
    throw new Mistake(`${what} is "${text}", not one of ${words.join(", ")}`);
  }
  return found;
}

function readValue(text: string, format: Format, what: string): unknown {
  if (format === "number") return readNumber(readText(text), what);
  if (format === "key") return readOneOf(text, keys, what);
  if (format === "name") return readText(text);
  return text.split("/").slice(1).map((group) =>
    group === "" ? [] : group.split("+").map(readText)
  );
}

function readAct(text: string): { event: number; act: Act } {
  const [event = "", kindText = "", ...parts] = text.split(".");
  const kind = readOneOf(kindText, Object.keys(fields) as Kind[], "an act");
  const known = fields[kind];
  if (parts.length > known.length) throw new Mistake(`the act "${text}" has too many parts`);
  const act: Record<string, unknown> = { kind };
  known.forEach(([field, format], at) => {
    const part = parts[at] ?? "";
    const [name = "", isOptional] = [field.replace("?", ""), field.endsWith("?")];
    if (part !== "" || format === "groups") act[name] = readValue(part, format, `"${name}"`);
    else if (!isOptional) throw new Mistake(`the act "${text}" lacks "${name}"`);
  });
  // The table has checked each field.
  return { event: readInteger(event, "an act's event"), act: act as Act };
}

function readScene(hash: string): Scene {
  const given = new Map<string, string>();
  for (const part of hash.replace(/^#/, "").split("&").filter((one) => one !== "")) {
    const [name = "", ...rest] = part.split("=");
    given.set(name, rest.join("="));
  }
  const read = <Value>(name: string, reader: (text: string) => Value, otherwise: Value): Value => {
    const text = given.get(name);
    return text === undefined ? otherwise : reader(text);
  };
  const bug = read<string | undefined>("bug", readText, undefined);
  const lesson = read<string | undefined>("lesson", readText, undefined);
  const at = read<number | undefined>("at", (text) => readInteger(text, "the event"), undefined);
  const part = read<number | undefined>("part", (text) => readInteger(text, "the part"), undefined);
  const script: Script = {
    world: read("world", (text) => readOneOf(text, worlds, "the world"), DEFAULT_SCRIPT.world),
    seed: read("seed", (text) => readInteger(text, "the seed"), DEFAULT_SCRIPT.seed),
    servers: read(
      "servers",
      (text) => readInteger(text, "the number of servers", 1, 7),
      DEFAULT_SCRIPT.servers,
    ),
    ...(bug === undefined ? {} : { bug }),
    acts: read("acts", (text) => text.split(",").map(readAct), []),
  };
  return {
    script,
    ...(at === undefined ? {} : { at }),
    ...(lesson === undefined ? {} : { lesson }),
    ...(part === undefined ? {} : { part }),
  };
}

/** Reads an address. One that holds a mistake opens no scene; the sentence says which mistake. */
export function readAddress(hash: string): Scene | { readonly mistake: string } {
  try {
    return readScene(hash);
  } catch (error) {
    if (!(error instanceof Mistake)) throw error;
    return {
      mistake: `Cannot open this address: ${error.message}. Correct the address or start again.`,
    };
  }
}
