/// <reference lib="dom" />
/** Evaluates the programs that the page carries: Part I, with a bug or without, and its engine. */
import { Buffer } from "./build/buffer.ts";
import { patch } from "./build/diff.ts";
import { type Cargo } from "./build/shape.ts";
import { type Engine } from "./state.ts";

/** Reads what the page carries from its element `cargo`. */
export function readCargo(): Cargo {
  const text = document.querySelector("#cargo")?.textContent;
  if (!text) throw new Error("Cannot start: the page has lost its programs. Build it again.");
  return JSON.parse(text) as Cargo;
}

type Exports = Record<string, unknown>;

/** Evaluates the body of a function with these free names, and returns what it exports. */
function evaluate(program: string, names: Exports): Exports {
  let exported: Exports = {};
  const all = { ...names, Buffer, $export: (exports: Exports) => void (exported = exports) };
  new Function(...Object.keys(all), `"use strict";\n${program}`)(...Object.values(all));
  return exported;
}

/** Collects the marks of statements that run. */
class Marks {
  private readonly isSet: Uint8Array;
  private list: number[] = [];

  constructor(count: number) {
    this.isSet = new Uint8Array(count);
  }

  readonly add = (mark: number): void => {
    if (this.isSet[mark]) return;
    this.isSet[mark] = 1;
    this.list.push(mark);
  };

  /** Returns the marks since the last call, each once, in the order of their first run. */
  readonly take = (): readonly number[] => {
    const { list } = this;
    for (const mark of list) this.isSet[mark] = 0;
    this.list = [];
    return list;
  };
}

/** Returns the engine around Part I, with this bug if one is given. */
export function loadEngine(cargo: Cargo, bug?: string): Engine {
  const planted = cargo.bugs.find(({ id }) => id === bug);
  if (bug !== undefined && !planted) {
    throw new Error(`Cannot plant bug ${bug}: this page does not have it.`);
  }
  const marks = new Marks(cargo.marks);
  const program = patch(cargo.raft, planted?.program ?? []).join("\n");
  const raft = evaluate(program, { ran: marks.add });
  const module = evaluate(cargo.engine, { $raft: (name: string) => raft[name] });
  return (module as typeof import("./engine.ts")).makeEngine(marks.take);
}
