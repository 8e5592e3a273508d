/**
 * Adds a mark to each statement: `ran(7)` says that the statement on line 7 ran. The mark stands on
 * the line of its statement, so no line moves.
 */
import ts from "typescript";

/** The source with its marks, and for each mark the last line of its statement. */
export type Instrumented = { source: string; lastLines: Map<number, number> };

/** Returns the source with marks. `numberOf` gives a line its mark. */
export function instrument(source: string, numberOf: (line: number) => number): Instrumented {
  const file = parse(source);
  const lineAt = (position: number) => file.getLineAndCharacterOfPosition(position).line + 1;
  const insertions: Insertion[] = [];
  const lastLines = new Map<number, number>();

  const markFor = (node: ts.Node): string => {
    const mark = numberOf(lineAt(node.getStart(file)));
    const last = numberOf(lineAt(ownEnd(node)));
    lastLines.set(mark, Math.max(lastLines.get(mark) ?? 0, last));
    return `ran(${mark})`;
  };
  const visit = (node: ts.Node): void => {
    const start = node.getStart(file);
    if (isBodyOfArrow(node)) {
      insertions.push({ at: start, text: `(${markFor(node)},` }, { at: node.getEnd(), text: ")" });
    } else if (isLoneStatement(node)) {
      insertions.push({ at: start, text: `{${markFor(node)};` }, { at: node.getEnd(), text: "}" });
    } else if (isListedStatement(node)) {
      insertions.push({ at: start, text: `${markFor(node)};` });
    }
    ts.forEachChild(node, visit);
  };
  ts.forEachChild(file, visit);
  return { source: insert(source, insertions), lastLines };
}

/** Marks the constants as pure, so that the bundle leaves out those that nothing uses. */
export function markConstants(source: string): string {
  const file = parse(source);
  const insertions = constantCalls(file)
    .map((call) => ({ at: call.getStart(file), text: "/* @__PURE__ */ " }));
  return insert(source, insertions);
}

const parse = (source: string) =>
  ts.createSourceFile("raft.ts", source, ts.ScriptTarget.Latest, true);

type Insertion = { at: number; text: string };

/** Inserts texts. Of two at the same place, the one that was added first comes first. */
function insert(source: string, insertions: readonly Insertion[]): string {
  const pieces: string[] = [];
  let from = 0;
  for (const { at, text } of insertions.toSorted((a, b) => a.at - b.at)) {
    pieces.push(source.slice(from, at), text);
    from = at;
  }
  return [...pieces, source.slice(from)].join("");
}

/** Returns the calls whose results are constants of the module. */
const constantCalls = (file: ts.SourceFile): ts.Node[] =>
  file.statements.filter(ts.isVariableStatement)
    .flatMap(({ declarationList }) => declarationList.declarations)
    .flatMap(({ initializer }) =>
      initializer && (ts.isCallExpression(initializer) || ts.isNewExpression(initializer))
        ? [initializer]
        : []
    );

const isBodyOfArrow = (node: ts.Node) =>
  ts.isArrowFunction(node.parent) && node.parent.body === node && !ts.isBlock(node);

const isDeclared = (node: ts.Node) =>
  ts.isFunctionDeclaration(node) || ts.isClassDeclaration(node) || ts.isTypeAliasDeclaration(node)
  || ts.isInterfaceDeclaration(node) || ts.isEmptyStatement(node);

/** Returns whether this is a statement of a block or of a case, within a function. */
const isListedStatement = (node: ts.Node) =>
  ts.isStatement(node) && !ts.isBlock(node) && !isDeclared(node)
  && (ts.isBlock(node.parent) || ts.isCaseOrDefaultClause(node.parent));

/** Returns whether this is the body of an `if`, an `else` or a loop, without braces. */
const isLoneStatement = (node: ts.Node) =>
  ts.isStatement(node) && !ts.isBlock(node)
  && (ts.isIfStatement(node.parent) || ts.isIterationStatement(node.parent, false));

/** Returns where a statement ends, or the head of a statement that contains others. */
function ownEnd(node: ts.Node): number {
  if (ts.isIfStatement(node)) return node.expression.getEnd();
  if (ts.isForOfStatement(node) || ts.isWhileStatement(node)) return node.expression.getEnd();
  if (ts.isForStatement(node)) return (node.incrementor ?? node.condition ?? node).getStart();
  if (ts.isSwitchStatement(node)) return node.expression.getEnd();
  if (ts.isDoStatement(node) || ts.isTryStatement(node)) return node.getStart();
  const inner = firstFunction(node);
  return inner ? inner.getStart() : node.getEnd();
}

/** Returns the body of the first function within a statement, whose statements have own marks. */
function firstFunction(node: ts.Node): ts.Node | undefined {
  return ts.forEachChild(
    node,
    (child): ts.Node | undefined =>
      ts.isArrowFunction(child) && ts.isBlock(child.body) ? child.body : firstFunction(child),
  );
}
