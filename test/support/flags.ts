/** Flags of the programs in this directory. */
import { readFileSync } from "node:fs";
import path from "node:path";
import { parseArgs, type ParseArgsConfig } from "node:util";

/** What a program is for, and how it is called, is the first comment in its file. */
function helpOf(file: string): string {
  const [, comment = ""] = /\/\*\*\n(.*?)\n \*\//s.exec(readFileSync(file, "utf8")) ?? [];
  return comment.replace(/^ \* ?/gm, "");
}

/** The values of a program's flags. Ends it if it is asked for help, or told what it does not know. */
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
