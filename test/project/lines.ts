/** Reads the structure of raft.ts with TypeScript's own parser: its nodes, sections and parts. */
import { readFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";

export const root = path.join(import.meta.dir, "../..");
export const parse = (file: string) =>
  ts.createSourceFile(
    file,
    readFileSync(path.join(root, file), "utf8"),
    ts.ScriptTarget.Latest,
    true,
  );
export const raft = parse("raft.ts");
export const lineOf = (position: number) => raft.getLineAndCharacterOfPosition(position).line + 1;

/** Returns all nodes of a file, outermost first. */
export function nodes(file: ts.SourceFile): ts.Node[] {
  const found: ts.Node[] = [];
  const visit = (node: ts.Node): void => {
    found.push(node);
    ts.forEachChild(node, visit);
  };
  visit(file);
  return found;
}

/** The section banners of raft.ts, each with its line, number and title. */
export const banners = raft.text.split("\n").flatMap((text, i) => {
  const [, section, title = ""] = /^\s*\/\/ -+ (\d+) (.+?) -+$/.exec(text) ?? [];
  return section === undefined ? [] : [{ section: Number(section), title, line: i + 1 }];
});
export const partII =
  raft.text.slice(0, raft.text.indexOf("Part II: The machine room =")).split("\n").length;
