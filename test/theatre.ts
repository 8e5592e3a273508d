#!/usr/bin/env bun
/**
 * Builds the theatre, a page that runs Part I of raft.ts in a browser, and serves it on loopback.
 *
 *   bun test/theatre.ts [--port 48080] [--seed N]
 *   bun test/theatre.ts --out FILE.html [--seed N]
 *
 *   --port 48080      the port, at 127.0.0.1; 0 takes any free one
 *   --out FILE.html   writes the page into one file, which needs no server and no network
 *   --seed N          the address opens the run of 'bun test/simulator.ts --mode core --seed N', at
 *                     its end or where the judge speaks
 */
import path from "node:path";
import { pathToFileURL } from "node:url";
import { readFlags } from "./support/flags.ts";
import { writeAddress } from "./theatre/address.ts";

const HOST = "127.0.0.1";
const MAX_PORT = 65_535;
/** An event after the end of every seed: the page stops at the end, or where the judge speaks. */
const END = 200_000;

const flags = readFlags(import.meta.path, {
  port: { type: "string", default: "48080" },
  out: { type: "string" },
  seed: { type: "string" },
});

/** Ends the program with an error about its usage, or about the machine. */
function fail(sentence: string, code: number): never {
  console.error(sentence);
  process.exit(code);
}

/** Returns a flag's number. */
function numberOf(flag: "port" | "seed", text: string, most: number): number {
  const value = Number(text);
  if (/^\d+$/.test(text) && value <= most) return value;
  fail(`Cannot use --${flag} ${text}: it is not a number from 0 to ${most}.`, 2);
}

/** Builds the page. The compiler is loaded only then, so that mistakes are reported at once. */
const build = async () => (await import("./theatre/build/html.ts")).buildPage();

const codeOf = (error: unknown) => (error as NodeJS.ErrnoException).code ?? String(error);

async function write(out: string, scene: string): Promise<void> {
  const file = path.resolve(out);
  const page = await build();
  try {
    await Bun.write(file, page, { createPath: false });
  } catch (error) {
    fail(`Cannot write ${out}: ${codeOf(error)}. Name a file in a directory that exists.`, 1);
  }
  console.log(`${pathToFileURL(file)}${scene}`);
}

async function serve(port: number, scene: string): Promise<void> {
  const page = Promise.withResolvers<string>();
  const headers = { "content-type": "text/html; charset=utf-8", "cache-control": "no-store" };
  const fetch = async (request: Request) =>
    new URL(request.url).pathname === "/"
      ? new Response(await page.promise, { headers })
      : new Response("Not found", { status: 404 });
  try {
    const server = Bun.serve({ hostname: HOST, port, fetch });
    page.resolve(build());
    await page.promise;
    console.log(
      `Open http://${HOST}:${server.port}/${scene} in a browser. Ctrl-C ends the server.`,
    );
  } catch (error) {
    if (codeOf(error) !== "EADDRINUSE") throw error;
    fail(
      `Cannot listen on ${HOST}:${port}: the port is in use. Choose another one with --port.`,
      1,
    );
  }
}

const port = numberOf("port", flags.port, MAX_PORT);
const seed = flags.seed === undefined
  ? undefined
  : numberOf("seed", flags.seed, Number.MAX_SAFE_INTEGER);
const scene = seed === undefined
  ? ""
  : writeAddress({ script: { world: "seed", seed, servers: 5, acts: [] }, at: END });
if (flags.out === undefined) await serve(port, scene);
else await write(flags.out, scene);
