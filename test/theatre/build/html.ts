/** Puts the page together: one file, with its style, its programs and its script inside. */
import path from "node:path";
import { bugs } from "../bugs.ts";
import { lessons } from "../lessons/index.ts";
import { bundle } from "./bundle.ts";
import { load } from "./programs.ts";

const directory = path.join(import.meta.dir, "..");
const file = (name: string) => path.join(directory, name);
const read = (name: string) => Bun.file(file(name)).text();

/** The bugs that the page can plant, by their numbers in the catalogue. */
const plantable = () => {
  const inLessons = lessons.flatMap(({ parts }) => parts).flatMap(({ scene }) => scene.bug ?? []);
  return [...new Set([...bugs.map(({ id }) => id), ...inLessons])];
};

/** Replaces a tag of the page, which occurs once. */
function replaceTag(page: string, tag: string, content: string): string {
  const [before, after, ...others] = page.split(tag);
  if (before === undefined || after === undefined || others.length > 0) {
    throw new Error(`Cannot build the page: index.html does not have ${tag} once.`);
  }
  return before + content + after;
}

/** Builds the page. The same sources give the same bytes. */
export async function buildPage(): Promise<string> {
  const [page, style, script, cargo] = await Promise.all([
    read("index.html"),
    read("style.css"),
    bundle(file("page.ts")),
    load(file("engine.ts"), plantable()),
  ]);
  // Within a script, only a closing tag or the start of a comment could end it early.
  const data = JSON.stringify(cargo).replaceAll("<", "\\u003c");
  const code = script.replaceAll("</script", "<\\/script").replaceAll("<!--", "<\\!--");
  const styled = replaceTag(
    page,
    `<link rel="stylesheet" href="style.css">`,
    `<style>\n${style}</style>`,
  );
  return replaceTag(
    styled,
    `<script type="module" src="page.ts"></script>`,
    `<script type="application/json" id="cargo">${data}</script>\n`
      + `<script type="module">\n${code}</script>`,
  );
}
