/**
 * Keeps the project in shape: columns, length of functions, no `any`, and the line between the two
 * parts.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import ts from "typescript";
import { PATIENCE_MS } from "../support/thorough.ts";
import { banners, lineOf, nodes, parse, partII, raft } from "./lines.ts";

setDefaultTimeout(PATIENCE_MS);

const COLUMNS = 100;
const FUNCTION_LINES = 60;

describe("raft.ts", () => {
  test("has its sections in order, with section 14 as the first of Part II", () => {
    const order = banners.map(({ section }) => section);
    expect(order).toEqual(order.toSorted((a, b) => a - b));
    expect(new Set(order).size).toBeGreaterThan(12);
    expect(banners.filter(({ line }) => line > partII)[0]?.section).toBe(14);
  });

  test("Part I is deterministic: it has no await, no Promise and no input from outside", () => {
    const foreign = /^(Promise|Date|Math\.random|performance|process|console|Bun|fs|dgram|dns)$/;
    const offenders = nodes(raft).filter((node) =>
      lineOf(node.getStart(raft)) < partII && !ts.isImportDeclaration(node)
      && (ts.isAwaitExpression(node) || node.kind === ts.SyntaxKind.AsyncKeyword
        || (ts.isIdentifier(node) && foreign.test(node.text)
          && !ts.isImportClause(node.parent) && !ts.isImportSpecifier(node.parent)))
    );
    expect(offenders.map((node) => `${lineOf(node.getStart(raft))}: ${node.getText(raft)}`))
      .toEqual(
        [],
      );
  });

  test("Part I uses nothing that Part II declares", () => {
    const declared = new Set(
      raft.statements.filter((statement) => lineOf(statement.getStart(raft)) > partII)
        .flatMap((statement): readonly ts.Node[] =>
          ts.isVariableStatement(statement)
            ? [...statement.declarationList.declarations]
            : [statement]
        )
        .flatMap((node) => "name" in node ? (node.name as ts.Identifier).text : []),
    );
    expect(declared.size).toBeGreaterThan(100);
    const offenders = nodes(raft).filter((node) =>
      ts.isIdentifier(node) && declared.has(node.text) && lineOf(node.getStart(raft)) < partII
      && (ts.isCallExpression(node.parent) || ts.isNewExpression(node.parent)
        || ts.isTypeReferenceNode(node.parent) || ts.isTypeQueryNode(node.parent))
    );
    expect(offenders.map((node) => `${lineOf(node.getStart(raft))}: ${node.getText(raft)}`))
      .toEqual(
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
