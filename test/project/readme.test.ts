/** What the README says of the code must be true of the code. */
import { expect, test } from "bun:test";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { clientMessages, messages, operatorMessages } from "../../raft.ts";
import { banners, root } from "./lines.ts";

const readme = readFileSync(path.join(root, "README.md"), "utf8");

test("the README's reading guide lists the sections of raft.ts", () => {
  const guide = readme.slice(readme.indexOf("| section | read it with |"));
  const rows = [...guide.matchAll(/^\| (\d+) (.+?) +\| /gm)].map(([, section, title]) => [
    Number(section),
    title,
  ]);
  expect(rows).toEqual(banners.map(({ section, title }) => [section, title]));
});

test("the README's messages are those of raft.ts, each with its number and its fields", () => {
  const section = readme.split("\n## ").find((text) => text.startsWith("The wire")) ?? "";
  const told = [...section.matchAll(/\| (\d+) ([A-Z]\w+) \| ([^|\n]*)(?=\|)/g)].map((
    [, number, type, fields = ""],
  ) => [Number(number), type, fields.match(/\w+/g) ?? []]);
  const greeting = ["Greeting", ["asked", "members", "cluster"]] as const;
  const inOrder = (table: Record<string, readonly string[]>) =>
    [...Object.entries(table), greeting].map(([type, fields], i) => [i, type, [...fields]]);
  const order = (list: unknown[][]) => list.map((row) => JSON.stringify(row)).toSorted();
  const all = [messages, clientMessages, operatorMessages];
  expect(order(told)).toEqual(order(all.flatMap(inOrder)));
});

test("every command, flag and file of the README is there", () => {
  const help = Bun.spawnSync([process.execPath, path.join(root, "cli.ts"), "--help"]).stdout
    .toString();
  const lines = readme.match(/(?<=bun cli\.ts )[^\n`')]*/g) ?? [];
  const commands = lines.flatMap((line) => /^[a-z][a-z-]*/.exec(line) ?? []);
  const flags = lines.flatMap((line) => line.match(/--[a-z-]+/g) ?? []);
  expect(new Set(flags).size).toBeGreaterThan(5);
  expect(new Set(commands).size).toBeGreaterThan(3);
  expect(flags.filter((flag) => !help.includes(flag))).toEqual([]);
  expect(commands.filter((command) => !help.includes(`cli.ts ${command}`))).toEqual([]);
  const files = readme.match(/\btest\/[\w./-]+\.ts/g) ?? [];
  expect(files.length).toBeGreaterThan(3);
  expect(files.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
});

test("the README's program runs, and prints what it should", async () => {
  const program = /^```ts\n(.*?)^```/ms.exec(readme)?.[1] ?? "";
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-readme-"));
  try {
    const file = path.join(directory, "program.ts");
    const here = program
      .replace("./raft.ts", path.join(root, "raft.ts"))
      .replace("port: 48010", "port: 48009")
      .replace("\"raft-data/counter\"", JSON.stringify(path.join(directory, "counter")));
    expect(here).not.toContain("raft-data"); // Or it would find what an earlier run has left.
    writeFileSync(file, here);
    const child = Bun.spawn([process.execPath, file], { stdout: "pipe", stderr: "inherit" });
    const printed = await new Response(child.stdout).text();
    expect(await child.exited).toBe(0);
    expect(printed).toBe("after adding 5\nread 5\n");
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
