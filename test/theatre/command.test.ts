/** Tests the command that builds and serves the theatre: its help, and what it says of mistakes. */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { root } from "../project/lines.ts";
import { printedAddress, startTheatre as start } from "../support/browser.ts";
import { PATIENCE_MS, slow } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

async function run(...args: string[]) {
  const child = start(...args);
  const [output, errors] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
  ]);
  return { output, errors, code: await child.exited };
}

describe("bun test/theatre.ts", () => {
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-theatre-"));
  afterAll(() => rmSync(directory, { recursive: true, force: true }));

  test("--help lists its flags", async () => {
    const { output, code } = await run("--help");
    for (const flag of ["--port", "--out", "--seed"]) expect(output).toContain(flag);
    expect(code).toBe(0);
  });

  test("refuses wrong flags, and a port that is in use", async () => {
    using server = Bun.serve({ hostname: "127.0.0.1", port: 0, fetch: () => new Response() });
    const mistakes = [
      [["--port", "x"], "Cannot use --port x: it is not a number from 0 to 65535.\n", 2],
      [["--seed", "-"], "Cannot use --seed -: it is not a number from 0 to 9007199254740991.\n", 2],
      [["--prot", "1"], "Unknown option '--prot'. See 'bun test/theatre.ts --help'.\n", 2],
      [
        ["--port", `${server.port}`],
        `Cannot listen on 127.0.0.1:${server.port}: the port is in use. `
        + "Choose another one with --port.\n",
        1,
      ],
    ] as const;
    const runs = mistakes.map(async ([args, errors, code]) =>
      expect(await run(...args)).toEqual({ output: "", errors, code })
    );
    await Promise.all(runs);
  });

  slow("refuses a file that it cannot write, and writes the same page as it serves", async () => {
    const missing = path.join(directory, "missing/theatre.html");
    expect(await run("--out", missing)).toEqual({
      output: "",
      errors: `Cannot write ${missing}: ENOENT. Name a file in a directory that exists.\n`,
      code: 1,
    });
    const file = path.join(directory, "theatre.html");
    const { output, code } = await run("--out", file, "--seed", "7");
    expect(output).toBe(`file://${file}#world=seed&seed=7&servers=5&at=200000\n`);
    expect(code).toBe(0);
    const written = readFileSync(file, "utf8");
    const server = start("--port", "0");
    const served = await (await fetch(await printedAddress(server))).text();
    server.kill();
    expect(served === written).toBe(true);
    expect(written).not.toContain(root);
  });
});
