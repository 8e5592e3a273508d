/** Tests that the README is true of the code: sections, messages, commands, files, programs. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { existsSync, globSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import {
  clientMessages,
  KeyValueStore,
  messages,
  Node,
  operatorMessages,
  partMessages,
  serverMessages,
} from "../../raft.ts";
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

/** Returns the cells of the table that contains `word`, row by row, without the line below the head. */
const table = (word: string) => {
  const [text = ""] = readme.split("\n\n").filter((part) => part.includes(word) && part[0] === "|");
  const [head, , ...rows] = text.trim().split("\n").map((row) =>
    row.split("|").slice(1, -1).map((cell) => cell.trim())
  );
  return { head: head ?? [], rows };
};

test("the README's messages are those of raft.ts, each with its role, number and fields", () => {
  const { head, rows } = table("0 OpenSession");
  const listed = rows.flatMap((cells) =>
    head.flatMap((role, i) => {
      const [, number, type] = /^(\d+) (\w+)$/.exec(cells[i] ?? "") ?? [];
      const fields = cells[i + 1]?.match(/\w+/g) ?? [];
      return type ? [[Number(number), type, role.split(",")[0], [...fields]]] : [];
    })
  );
  const tables = [
    ["client", { ...clientMessages, ...partMessages }],
    ["operator", operatorMessages],
    ["peer", { ...serverMessages, ...messages }],
  ] as const;
  const expected = tables.flatMap(([role, types]) =>
    Object.entries(types).map(([type, fields]) => [type, role, [...fields]])
  ).map((row, i) => [i, ...row]);
  expect(listed.toSorted(([a], [b]) => Number(a) - Number(b))).toEqual(expected);
});

test("the README's bounds, and the version, are those of raft.ts", () => {
  const source = readFileSync(raftFile, "utf8");
  const numberAfter = (before: string) => {
    const [, number = "", shift = "0"] =
      new RegExp(`${before}([\\d_.]+)(?: << (\\d+))?[;,]`).exec(source) ?? [];
    return Number(number.replaceAll("_", "")) * 2 ** Number(shift);
  };
  const words = (value: number) =>
    value % 2 ** 20 === 0 ? `${value / 2 ** 20} MiB` : value.toLocaleString("en");
  const constant = (name: string) => words(numberAfter(`const ${name} = `));
  const [readMs = 0, agreeMs = 0, burstMs = 0] = ["READ_EVERY_MS", "AGREE_EVERY_MS", "BURST_MS"]
    .map((name) => numberAfter(`const ${name} = `));
  const pair = (name: string) => `${constant(`${name}_PER_NAME`)}; ${constant(name)}`;
  expect(Object.fromEntries(table("| what | bound |").rows)).toEqual({
    "processes of clients with a channel: of one name; in all": pair("MAX_ENTRIES"),
    "channels of a server, or of one process": constant("MAX_CHANNELS"),
    "unconfirmed handshakes: of one name; in all": pair("MAX_ENTRIES"),
    [`Hellos that are read in a second, beside a burst of ${burstMs / readMs}`]: words(
      1000 / readMs,
    ),
    "handshakes of a name in a second": `${words(1000 / agreeMs)}, and ${
      words(burstMs / agreeMs)
    } at once`,
    "messages that lack parts: of one name; in all": pair("MAX_ENTRIES"),
    "bytes of such a message": constant("MAX_FIELD_BYTES"),
    "messages in a datagram": constant("MAX_MESSAGES"),
    "messages that wait for a first channel": constant("MAX_QUEUED"),
    "bytes of a name": words(numberAfter("Buffer\\.byteLength\\(text\\) <= ")),
    "values in an array of MessagePack": words(numberAfter("maxArrayLength: ")),
    "requests of one process that wait": constant("MAX_WAITING"),
    "answers to Inspect, for each process in a turn": "1",
    "sessions: of one name; in all": `${constant("MAX_SESSIONS_PER_OWNER")}; ${
      constant("MAX_SESSIONS")
    }`,
    "answers that a session has not acknowledged": `${constant("MAX_UNACKNOWLEDGED")} requests; ${
      constant("MAX_UNACKNOWLEDGED_BYTES")
    }`,
    "servers that a client may ask": constant("MAX_SERVERS"),
    "warnings in a minute": constant("MAX_WARNED"),
  });
  expect(section("The wire")).toContain(` The version is ${constant("VERSION")}. `);
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
  const files = readme.match(/\btest(\/[\w-]+)+(\.test)?(\.\w+)?/g) ?? [];
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
