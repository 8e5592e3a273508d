/** Tests that the README is true of the code: sections, messages, commands, files, programs. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { clientMessages, KeyValueStore, messages, Node, operatorMessages } from "../../raft.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { banners, root } from "./lines.ts";

setDefaultTimeout(PATIENCE_MS);

const raftFile = path.join(root, "raft.ts");
const readme = readFileSync(path.join(root, "README.md"), "utf8");

/** Returns the section of the README with this title. */
const section = (title: string) =>
  readme.split("\n## ").find((text) => text.startsWith(`${title}\n`)) ?? "";

test("the README's reading guide lists the sections of raft.ts", () => {
  const rows = [...section("Reading guide").matchAll(/^\| (\d+) (.+?) +\| /gm)]
    .map(([, number, title]) => [Number(number), title]);
  expect(rows).toEqual(banners.map(({ section, title }) => [section, title]));
});

test("the README's messages are those of raft.ts, each with its number and its fields", () => {
  const listed = [...section("The wire").matchAll(/\| (\d+) ([A-Z]\w+) \| ([^|\n]*)(?=\|)/g)].map((
    [, number, type, fields = ""],
  ) => [Number(number), type, fields.match(/\w+/g) ?? []]);
  const greeting = ["Greeting", ["asked", "members", "cluster"]] as const;
  const inOrder = (table: Record<string, readonly string[]>) =>
    [...Object.entries(table), greeting].map(([type, fields], i) => [i, type, [...fields]]);
  const order = (list: unknown[][]) => list.map((row) => JSON.stringify(row)).toSorted();
  const all = [messages, clientMessages, operatorMessages];
  expect(order(listed)).toEqual(order(all.flatMap(inOrder)));
});

test("every command, flag, file and directory of the README exists", () => {
  const help = Bun.spawnSync([process.execPath, path.join(root, "cli.ts"), "--help"]).stdout
    .toString();
  const lines = readme.match(/(?<=bun cli\.ts )[^\n`')]*/g) ?? [];
  const commands = lines.flatMap((line) => /^[a-z][a-z-]*/.exec(line) ?? []);
  const flags = lines.flatMap((line) => line.match(/--[a-z-]+/g) ?? []);
  expect(new Set(flags).size).toBeGreaterThan(5);
  expect(new Set(commands).size).toBeGreaterThan(3);
  expect(flags.filter((flag) => !help.includes(flag))).toEqual([]);
  expect(commands.filter((command) => !help.includes(`cli.ts ${command}`))).toEqual([]);
  const files = readme.match(/\btest(\/[\w-]+)+(\.test)?(\.ts)?/g) ?? [];
  expect(files.length).toBeGreaterThan(8);
  expect(files.filter((file) => !existsSync(path.join(root, file)))).toEqual([]);
  // Each directory of tests is named.
  const directories = globSync("test/*/**/*.test.ts", { cwd: root })
    .map((file) => file.split(path.sep).slice(0, 2).join("/"));
  expect(new Set(directories).difference(new Set(files))).toEqual(new Set());
});

describe("the README's programs", () => {
  const programs = [...readme.matchAll(/^```ts\n(.*?)^```/gms)].map(([, program = ""]) => program);
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-readme-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  /** Runs a program of the README with these changes, and returns its output. */
  async function run(program: string, changes: Record<string, string>): Promise<string> {
    let here = program;
    for (const [text, other] of Object.entries({ "./raft.ts": raftFile, ...changes })) {
      expect(here).toContain(text);
      here = here.replace(text, other);
    }
    const file = path.join(directory, "program.ts");
    writeFileSync(file, here);
    const child = Bun.spawn([process.execPath, file], { stdout: "pipe", stderr: "inherit" });
    const printed = await new Response(child.stdout).text();
    expect(await child.exited).toBe(0);
    return printed;
  }

  test("a counter prints 5, and the next time 10", async () => {
    const changes = {
      "port: 48010": "port: 48009",
      "raft-data/counter": path.join(directory, "counter"),
    };
    expect(await run(programs[0] ?? "", changes)).toBe("after adding 5\nread 5\n");
    expect(await run(programs[0] ?? "", changes)).toBe("after adding 10\nread 10\n");
  });

  test("a client of the store prints what it has put", async () => {
    await using _node = await Node.start({
      host: "127.0.0.1",
      port: 48007,
      peers: [],
      directory: path.join(directory, "store"),
      machine: new KeyValueStore(),
    });
    expect(await run(programs[1] ?? "", { "127.0.0.1:48000": "127.0.0.1:48007" })).toBe("world\n");
  });
});
