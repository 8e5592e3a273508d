/** Makes the index of Part I that the source view shows: sections, methods and their comments. */
import { readFileSync } from "node:fs";
import path from "node:path";
import ts from "typescript";
import { banners, lineOf, nodes, partII, raft, root } from "../../project/lines.ts";
import { type Method, type Passage, type Section, type SourceIndex } from "./shape.ts";

/** The last line of Part I. */
export const LAST = partII - 1;

const lines = raft.text.split("\n").slice(0, LAST);
const isComment = (line: string) => /^\s*(\/\/|\/\*\*|\*(\s|\/|$))/.test(line);

/** Returns the words of the comments on these lines, without the signs of comments. */
const wordsOf = (first: number, last: number) =>
  lines.slice(first - 1, last).filter(isComment)
    .map((line) => line.replace(/^\s*(\/\/ ?|\/\*\* ?|\* ?)/, "").replace(/\s*\*\/$/, ""))
    .filter((line) => line !== "/").join("\n").trim();

const citation =
  /(?:thesis )?§\d+(?:\.\d+)*(?:, §\d+(?:\.\d+)*)*|Figures? \d+(?:(?:, | and )\d+)*/g;
const citationsIn = (text: string) => [...new Set(text.replace(/\s+/g, " ").match(citation))];

/** Returns what to read with each section, from the table of the README. */
function readingGuide(): Map<number, string> {
  const readme = readFileSync(path.join(root, "README.md"), "utf8");
  const rows = readme.matchAll(/^\| (\d+) [^|]+\| ([^|]+) \|$/gm);
  return new Map([...rows].map(([, number, text = ""]) => [Number(number), text.trim()]));
}

function sections(): Section[] {
  const guide = readingGuide();
  const ours = banners.filter(({ line }) => line <= LAST);
  return ours.map(({ section: number, title, line }, i) => {
    const length = lines.slice(line).findIndex((text) => !isComment(text));
    return {
      number,
      title,
      first: line,
      last: (ours[i + 1]?.line ?? LAST + 1) - 1,
      comment: wordsOf(line + 1, line + length),
      readWith: guide.get(number) ?? "",
    };
  });
}

/** Returns a method's name, with that of its class, or nothing if it has no name of its own. */
function nameOf(node: ts.Node): string | undefined {
  if (ts.isFunctionDeclaration(node)) return node.name?.text;
  const isMember = ts.isMethodDeclaration(node) || ts.isAccessor(node)
    || ts.isConstructorDeclaration(node);
  if (isMember && ts.isClassDeclaration(node.parent)) {
    const own = ts.isConstructorDeclaration(node) ? "constructor" : node.name.getText(raft);
    return `${node.parent.name?.text}.${own}`;
  }
  if (!ts.isVariableStatement(node)) return undefined;
  const [declared] = node.declarationList.declarations;
  const isFunction = declared?.initializer && ts.isArrowFunction(declared.initializer);
  return isFunction ? declared.name.getText(raft) : undefined;
}

/** Cuts a method where a comment has lines of its own. */
function passagesOf(first: number, last: number): Passage[] {
  const passages: Passage[] = [];
  let at = first;
  while (at <= last) {
    const begin = at;
    while (at <= last && isComment(lines[at - 1] ?? "")) at += 1;
    const code = at;
    while (at <= last && !isComment(lines[at - 1] ?? "")) at += 1;
    passages.push({ comment: wordsOf(begin, code - 1), first: code, last: at - 1 });
  }
  return passages;
}

function methods(all: readonly Section[]): Method[] {
  return nodes(raft).flatMap((node) => {
    const name = nameOf(node);
    const last = lineOf(node.getEnd());
    if (name === undefined || last > LAST) return [];
    let first = lineOf(node.getStart(raft));
    while (isComment(lines[first - 2] ?? "") && !/^\s*\/\//.test(lines[first - 2] ?? "")) {
      first -= 1;
    }
    const section = all.findLast((one) => one.first <= first)?.number ?? 0;
    const cited = citationsIn(wordsOf(first, last));
    return [{ name, section, first, last, passages: passagesOf(first, last), cited }];
  });
}

/** Returns the index, without the ends of statements. */
export function indexSource(): Omit<SourceIndex, "lastLines"> {
  const all = sections();
  return { lines, sections: all, methods: methods(all) };
}
