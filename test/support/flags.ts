/** Reads the flags of the programs in `test/`. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { parseArgs, type ParseArgsConfig } from "node:util";

/** Returns the first comment of a program's file: what it is for, and how to call it. */
function helpOf(file: string): string {
  const [, comment = ""] = /\/\*\*\n(.*?)\n \*\//s.exec(readFileSync(file, "utf8")) ?? [];
  return comment.replace(/^ \* ?/gm, "");
}

/** Returns the values of a program's flags. Exits after `--help`, or if a flag is unknown. */
export function readFlags<Options extends NonNullable<ParseArgsConfig["options"]>>(
  file: string,
  options: Options,
) {
  if (Bun.argv.slice(2).some((word) => word === "--help" || word === "-h")) {
    console.log(helpOf(file));
    process.exit(0);
  }
  try {
    return parseArgs({ args: Bun.argv.slice(2), options }).values;
  } catch (error) {
    const [sentence] = (error as Error).message.split(". ");
    console.error(`${sentence}. See 'bun test/${path.basename(file)} --help'.`);
    process.exit(2);
  }
}
