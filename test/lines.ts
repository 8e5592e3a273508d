/** Counts what raft.ts is made of, with TypeScript's own eyes: for the budget and for the README. */
import { readFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";

export const root = path.join(import.meta.dir, "..");
export const parse = (file: string) =>
  ts.createSourceFile(file, readFileSync(path.join(root, file), "utf8"), ts.ScriptTarget.Latest,
    true);
export const raft = parse("raft.ts");
export const lineOf = (position: number) => raft.getLineAndCharacterOfPosition(position).line + 1;

/** The lines that hold a token: neither blank nor comment, as `cloc` counts them. */
export function codeLines(): number[] {
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
export function nodes(file: ts.SourceFile): ts.Node[] {
  const found: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    found.push(node);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** On which line each section begins, or is continued, by the banners. */
export const banners = raft.text.split("\n").flatMap((text, i) => {
  const [, begins, continued] =
    /^\s*\/\/ -+ (?:(\d+) |.*\(section (\d+), continued\)).* -+$/.exec(text) ?? [];
  const section = Number(begins ?? continued);
  return section > 0 ? [{ section, line: i + 1, isFirst: begins !== undefined }] : [];
});
export const partII =
  raft.text.slice(0, raft.text.indexOf("Part II: The machine room =")).split("\n").length;

/** How many lines of code each section has. */
export function codeBySection(): Map<number, number> {
  const counts = new Map<number, number>();
  for (const line of codeLines()) {
    const section = banners.findLast((banner) => banner.line < line)?.section ?? 1;
    counts.set(section, (counts.get(section) ?? 0) + 1);
  }
  return counts;
}
