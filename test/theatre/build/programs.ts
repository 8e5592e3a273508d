/**
 * Compiles the programs that the page runs: Part I, the changes that each bug makes to it, and the
 * simulation. A bug is the text that the catalogue plants in raft.ts, compiled in the same way.
 */
import path from "node:path";
import { plant, planted, stalePieces } from "../../catalogue.ts";
import { raft, root } from "../../project/lines.ts";
import { bundle } from "./bundle.ts";
import { compare, type Hunk } from "./diff.ts";
import { instrument, type Instrumented, markConstants } from "./instrument.ts";
import { type Cargo, type Planted } from "./shape.ts";
import { indexSource, LAST } from "./source.ts";

const raftFile = path.join(root, "raft.ts");
const entry = path.join(root, "test/theatre/build/entry.ts");

/**
 * Compiles the simulation as the body of a function: `$raft` returns what raft.ts exports under a
 * name, and `$export` takes the exports of the module. Returns the names that it uses, too.
 */
async function compileEngine(module: string): Promise<{ engine: string; names: string[] }> {
  const { exports } = new Bun.Transpiler({ loader: "ts" }).scan(raft.text);
  const engine = await bundle(entry, {
    sources: {
      [entry]: `import * as all from ${JSON.stringify(module)}; $export(all);`,
      [raftFile]: exports
        .map((name) => `export const ${name} = /* @__PURE__ */ $raft("${name}");`).join("\n"),
    },
  });
  const used = [...engine.matchAll(/\$raft\("(\w+)"\)/g)].map(([, name = ""]) => name);
  return { engine, names: [...new Set(used)].toSorted() };
}

/** Compiles a variant of raft.ts as the body of a function, which calls `$export` with `names`. */
async function compileRaft(source: string, names: readonly string[]): Promise<string[]> {
  const list = names.join(", ");
  const program = await bundle(entry, {
    sources: {
      [entry]: `import { ${list} } from ${JSON.stringify(raftFile)}; $export({ ${list} });`,
      [raftFile]: source,
    },
    isSmall: false,
  });
  return program.split("\n").filter((line) => !line.startsWith("// "));
}

/** Numbers the lines of a changed source: as in the original, and new lines after all others. */
function numberLines(hunks: readonly Hunk[], firstMark: number): (line: number) => number {
  const numbers: number[] = [];
  let mark = firstMark;
  let next = 1;
  for (const { at, removed, lines } of hunks) {
    for (; next < at; next += 1) numbers.push(next);
    for (const _ of lines) {
      numbers.push(mark);
      mark += 1;
    }
    next = at + removed;
  }
  return (line) => numbers[line - 1] ?? line - numbers.length - 1 + next;
}

const [partI, partII] = [raft.text.split("\n").slice(0, LAST), raft.text.split("\n").slice(LAST)];
/** The bundle has only those functions of Part II that the simulation calls. They get no marks. */
const machineRoom = markConstants(partII.join("\n"));

/** Adds marks to Part I, which may have a bug, and Part II without marks. */
function mark(text: readonly string[], numberOf: (line: number) => number): Instrumented {
  const { source, lastLines } = instrument(text.join("\n"), numberOf);
  return { source: `${source}\n${machineRoom}`, lastLines };
}

/**
 * Returns the bugs with these numbers. A bug that does not fit raft.ts any more is left out with a
 * warning, because the theatre must show a raft.ts that is being changed.
 */
const findBugs = (ids: readonly string[]) =>
  planted.filter((bug) => {
    if (!ids.includes(bug.id)) return false;
    const isStale = stalePieces(bug).length > 0;
    if (isStale) {
      console.error(`Bug ${bug.id} is left out: raft.ts lacks the text that it changes.`);
    }
    return !isStale;
  });

/** Compiles everything that the page carries. `bugs` are numbers of the catalogue. */
export async function load(module: string, bugs: readonly string[]): Promise<Cargo> {
  const { engine, names } = await compileEngine(module);
  const original = mark(partI, (line) => line);
  const program = await compileRaft(original.source, names);
  const firstMark = LAST + 1;
  const variants = findBugs(bugs).map(async (bug): Promise<Planted> => {
    const changed = plant(bug).split("\n").slice(0, -partII.length);
    const source = compare(partI, changed);
    const marked = mark(changed, numberLines(source, firstMark));
    const lastLines = [...marked.lastLines].filter(([line, last]) =>
      line >= firstMark && last > line
    );
    return {
      id: bug.id,
      program: compare(program, await compileRaft(marked.source, names)),
      source,
      firstMark,
      lastLines: Object.fromEntries(lastLines),
    };
  });
  const all = await Promise.all(variants);
  const added = all.map(({ source }) => source.reduce((sum, { lines }) => sum + lines.length, 0));
  return {
    raft: program,
    engine,
    source: { ...indexSource(), lastLines: Object.fromEntries(original.lastLines) },
    bugs: all,
    marks: firstMark + Math.max(0, ...added),
  };
}
