/**
 * Bundles modules for the browser. The modules of Bun and Node become empty there, apart from the
 * few functions that the simulation calls.
 */
import type { BunPlugin } from "bun";
import path from "node:path";

const stubs = path.join(import.meta.dir, "stubs");
/** The modules of Node that have a stand-in. */
const REPLACED: Record<string, string> = {
  "node:zlib": path.join(stubs, "zlib.ts"),
  "node:path": path.join(stubs, "path.ts"),
};

const foreign: BunPlugin = {
  name: "modules of Bun and Node",
  setup(build) {
    build.onResolve({ filter: /^(node|bun):/ }, ({ path: name }) => {
      const file = REPLACED[name];
      return file === undefined ? { path: name, namespace: "empty" } : { path: file };
    });
    build.onLoad({ filter: /./, namespace: "empty" }, () => ({
      contents: "module.exports = {};",
      loader: "js",
    }));
  },
};

/** Bundles a file into one script. `sources` replaces the text of files, or adds files. */
export async function bundle(
  entry: string,
  { sources = {}, isSmall = true }: { sources?: Record<string, string>; isSmall?: boolean } = {},
): Promise<string> {
  const { success, logs, outputs } = await Bun.build({
    entrypoints: [entry],
    files: sources,
    target: "browser",
    format: "esm",
    minify: { whitespace: isSmall, syntax: isSmall, identifiers: false },
    define: { "process.env": "{}", "process.platform": "\"browser\"" },
    plugins: [foreign],
    throw: false,
  });
  const [output] = outputs;
  if (!success || !output) {
    throw new Error(`Cannot bundle ${entry}: ${logs.map(String).join("\n")}`);
  }
  return await output.text();
}
