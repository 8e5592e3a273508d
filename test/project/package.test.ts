/**
 * Tests that raft.ts works in other projects, copied or installed as a package, and passes their
 * type checks.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { slow } from "../support/thorough.ts";
import { root } from "./lines.ts";

setDefaultTimeout(300_000);

/** A program with the most common exports, which keeps its data in its own directory. */
const program = (from: string) => `
import { Client, KeyValues, KeyValueStore, MAX_ANSWER_BYTES, Node, type NodeEvent,
  RaftError } from "${from}";

const events: NodeEvent[] = [];
await using node = await Node.start({ host: "127.0.0.1", port: 48008, peers: [],
  directory: import.meta.dir + "/data", machine: new KeyValueStore(),
  onEvent: (event) => void events.push(event) });
await using client = await Client.connect({ servers: ["127.0.0.1:48008"] });
const store = new KeyValues(client);
await store.put(Buffer.from("key"), Buffer.from("value"));
const value: Uint8Array | undefined = await new KeyValues(node).get(Buffer.from("key"));
const { name } = new RaftError("usage", "A sentence.");
console.log(Buffer.from(value ?? "").toString(), MAX_ANSWER_BYTES, name, events.length > 0);
`;

const directory = mkdtempSync(path.join(os.tmpdir(), "raft-package-"));
const copied = path.join(directory, "copied");
const installed = path.join(directory, "installed");

async function run(cwd: string, ...command: string[]): Promise<string> {
  const child = Bun.spawn(command, { cwd, stdout: "pipe", stderr: "pipe" });
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  await child.exited;
  return output + errors;
}

/** Returns the errors of tsc in a project with `strict` and no other checks. */
function check(project: string): Promise<string> {
  const compilerOptions = {
    strict: true,
    target: "ESNext",
    module: "Preserve",
    types: ["bun-types"],
    allowImportingTsExtensions: true,
    skipLibCheck: true,
    noEmit: true,
  };
  writeFileSync(path.join(project, "tsconfig.json"), JSON.stringify({ compilerOptions }));
  const tsc = path.join(root, "node_modules/typescript/bin/tsc");
  return run(project, process.execPath, tsc, "--project", ".");
}

beforeAll(async () => {
  for (const project of [copied, installed]) {
    const modules = path.join(project, "node_modules");
    mkdirSync(modules, { recursive: true });
    for (const name of ["@msgpack", "@types", "bun-types", "undici-types"]) {
      symlinkSync(path.join(root, "node_modules", name), path.join(modules, name));
    }
  }
  cpSync(path.join(root, "raft.ts"), path.join(copied, "raft.ts"));
  writeFileSync(path.join(copied, "program.ts"), program("./raft.ts"));
  await run(root, process.execPath, "pm", "pack", "--filename", path.join(directory, "raft.tgz"));
  const packageDirectory = path.join(installed, "node_modules/raft.ts");
  mkdirSync(packageDirectory);
  await run(
    directory,
    "tar",
    "-xzf",
    "raft.tgz",
    "--strip-components",
    "1",
    "-C",
    packageDirectory,
  );
  writeFileSync(path.join(installed, "program.ts"), program("raft.ts"));
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

describe("tsc accepts raft.ts", () => {
  slow("copied, under `strict` alone", async () => {
    expect(await check(copied)).toBe("");
  });

  slow("as a package, with its types", async () => {
    expect(await check(installed)).toBe("");
  });
});

test("a program runs with raft.ts as a package, and with a copy of it", async () => {
  for (const project of [installed, copied]) {
    expect(await run(project, process.execPath, "program.ts")).toBe("value 64000 RaftError true\n");
  }
});

test("the package contains the source and the command line, and no tests", async () => {
  const packed = await run(directory, "tar", "-tzf", "raft.tgz");
  const files = packed.trim().split("\n").map((file) => file.replace("package/", ""));
  expect(files.toSorted()).toEqual(["README.md", "cli.ts", "package.json", "raft.ts"]);
  const command = path.join(installed, "node_modules/raft.ts/cli.ts");
  expect(await run(installed, process.execPath, command, "--version")).toBe("0.1.0\n");
});
