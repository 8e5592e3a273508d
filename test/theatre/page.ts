/// <reference lib="dom" />
/** Starts the page: brings the programs and the runs to the views. */
import { type Backstage } from "./backstage.ts";
import { bugs } from "./bugs.ts";
import { lessons } from "./lessons/index.ts";
import { rehearse } from "./lessons/lesson.ts";
import { loadEngine, readCargo } from "./loader.ts";
import { Playhouse } from "./playhouse.ts";
import { Run } from "./run.ts";
import { type Engine } from "./state.ts";

const cargo = readCargo();
const engines = new Map<string | undefined, Engine>();

/** Returns the engine with this bug. It is loaded once. */
function engineWith(bug: string | undefined): Engine {
  const engine = engines.get(bug) ?? loadEngine(cargo, bug);
  engines.set(bug, engine);
  return engine;
}

const backstage: Backstage = {
  open: (script) => new Run(engineWith(script.bug), script),
  source: cargo.source,
  planted: cargo.bugs,
  bugs: bugs.filter(({ id }) => cargo.bugs.some((bug) => bug.id === id)),
  lessons,
  prepare: (id, part) => {
    const one = lessons.find((lesson) => lesson.id === id)?.parts[part];
    return one && rehearse(engineWith(one.scene.bug), one);
  },
};

new Playhouse(document.body, backstage);
