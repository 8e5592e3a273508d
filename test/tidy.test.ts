/** Keeps the shape of the project: lines, columns, functions, the line between the two parts. */
import { describe, expect, test } from "bun:test";
import { readFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";

/** How many lines of code each part of raft.ts may have, by section. */
const BUDGET: [part: string, sections: number[], lines: number][] = [
  ["Part I", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10], 470],
  ["wire", [11], 90],
  ["storage", [12], 120],
  ["datagrams and RPC", [13], 120],
  ["node and client", [14], 160],
  ["key-value store", [15], 40],
];
const CEILING = 1000;
const COLUMNS = 100;
const FUNCTION_LINES = 50;
const PART_II = "Part II: The machine room";

const root = path.join(import.meta.dir, "..");
const parse = (file: string) =>
  ts.createSourceFile(file, readFileSync(path.join(root, file), "utf8"), ts.ScriptTarget.Latest,
    true);
const raft = parse("raft.ts");
const lineOf = (position: number) => raft.getLineAndCharacterOfPosition(position).line + 1;

/** The lines that hold a token: neither blank nor comment, as `cloc` counts them. */
function codeLines(): number[] {
  const lines = new Set<number>();
  const visit = (node: ts.Node): void => {
    if (ts.isJSDoc(node)) return;
    const children = node.getChildren(raft);
    for (const child of children) visit(child);
    if (children.length > 0 || node.getWidth(raft) === 0) return;
    for (let line = lineOf(node.getStart(raft)); line <= lineOf(node.getEnd()); line += 1) {
      lines.add(line);
    }
  };
  visit(raft);
  return [...lines];
}

/** All nodes of a file, outermost first. */
function nodes(file: ts.SourceFile): ts.Node[] {
  const found: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    found.push(node);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** On which line each section begins, by the banners. */
const banners = raft.text.split("\n").flatMap((text, i) => {
  const section = /^\s*\/\/ -+ (\d+)\b.* -+$/.exec(text)?.[1];
  return section ? [{ section: Number(section), line: i + 1 }] : [];
});
const partII = raft.text.slice(0, raft.text.indexOf(`${PART_II} =`)).split("\n").length;

describe("raft.ts", () => {
  const lines = codeLines();

  test("stays within its budget of lines of code", () => {
    const sectionOf = (line: number) => banners.findLast((banner) => banner.line < line)?.section;
    const table = BUDGET.map(([part, sections, budget]) => {
      const count = lines.filter((line) => sections.includes(sectionOf(line) ?? 1)).length;
      return { part, lines: count, budget };
    });
    table.push({ part: "all", lines: lines.length, budget: CEILING });
    for (const row of table) {
      console.log(`${row.part.padEnd(18)} ${String(row.lines).padStart(5)} of ${row.budget}`);
    }
    expect(lines.length).toBeLessThan(CEILING);
  });

  test("has its sections in order, and the line between the parts before section 11", () => {
    const order = banners.map(({ section }) => section);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(new Set(order).size).toBeGreaterThan(12);
    expect(banners.filter(({ line }) => line > partII)[0]?.section).toBe(11);
  });

  test("Part I is deterministic: it has no await, no Promise, and nothing of the outside world", () => {
    const foreign = /^(Promise|Date|Math\.random|performance|process|console|Bun|fs|dgram|dns)$/;
    const guilty = nodes(raft).filter((node) =>
      lineOf(node.getStart(raft)) < partII && !ts.isImportDeclaration(node)
      && (ts.isAwaitExpression(node) || node.kind === ts.SyntaxKind.AsyncKeyword
        || (ts.isIdentifier(node) && foreign.test(node.text)
          && !ts.isImportClause(node.parent) && !ts.isImportSpecifier(node.parent)))
    );
    expect(guilty.map((node) => `${lineOf(node.getStart(raft))}: ${node.getText(raft)}`)).toEqual(
      [],
    );
  });

  test("has no long functions", () => {
    const long = nodes(raft).filter(ts.isFunctionLike).map((node) => {
      const first = lineOf(node.getStart(raft));
      return { first, length: lineOf(node.getEnd()) - first + 1 };
    });
    expect(long.length).toBeGreaterThan(50);
    expect(long.filter(({ length }) => length > FUNCTION_LINES)).toEqual([]);
  });
});

describe("all sources", () => {
  const files = ["raft.ts", "cli.ts"];

  test(`have no line over ${COLUMNS} columns`, () => {
    const wide = files.flatMap((file) =>
      parse(file).text.split("\n").flatMap((text, i) =>
        [...text].length > COLUMNS ? [`${file}:${i + 1}`] : []
      )
    );
    expect(wide).toEqual([]);
  });

  test("have no `any`, and no `!` that silences the compiler", () => {
    const loose = files.flatMap((name) => {
      const file = parse(name);
      return nodes(file).filter((node) =>
        node.kind === ts.SyntaxKind.AnyKeyword || ts.isNonNullExpression(node)
      ).map((node) => `${name}: ${node.getText(file)}`);
    });
    expect(loose).toEqual([]);
  });
});
