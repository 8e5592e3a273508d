/** What the README says of the code must be true of the code. */
import { expect, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { codeBySection, root } from "./lines.ts";

const readme = readFileSync(path.join(root, "README.md"), "utf8");

test("the README's numbers are those of raft.ts", () => {
  const counts = codeBySection();
  const total = [...counts.values()].reduce((sum, count) => sum + count, 0);
  expect(readme).toContain(`one TypeScript file, ${total.toLocaleString("en")} lines of code`);
  const guide = [...readme.matchAll(/^\| (\d+) [^|]+\| (\d+) \|/gm)].map(([, section, lines]) => [
    Number(section),
    Number(lines),
  ]);
  expect(new Map(guide as [number, number][])).toEqual(counts);
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
    expect(printed).toBe("after adding Uint8Array(1) [ 5 ]\nread Uint8Array(1) [ 5 ]\n");
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
