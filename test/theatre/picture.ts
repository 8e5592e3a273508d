/// <reference lib="dom" />
/**
 * Draws the picture of the README: opens the theatre at a scene in a browser, and writes what its
 * stage shows into an SVG file, which needs no style sheet.
 *
 *   bun test/theatre/picture.ts
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { Browser } from "../support/browser.ts";
import { readFlags } from "../support/flags.ts";
import { writeAddress } from "./address.ts";
import { buildPage } from "./build/html.ts";
import { makeEngine } from "./engine.ts";
import { calm, cut, elapse, elect, kill, write } from "./lessons/deeds.ts";
import { type Part, rehearse } from "./lessons/lesson.ts";
import { applies, forgets, gets, leads, pass } from "./lessons/signs.ts";

/** The leader e has died, the link between c and d is cut, and b leads and sends an entry. */
const PART: Part = {
  title: "The picture",
  scene: calm(5, 14),
  steps: [
    ...elect("e", "a", "b", "c", "d"),
    { at: pass(100), then: [write("x", 5)] },
    { at: applies("a", 3) },
    { at: pass(20), then: [kill("e"), cut("c", "d")] },
    { at: forgets("a"), then: [elapse("b")] },
    { at: leads("b") },
    { at: gets("c", 4, 2), text: "The first follower has the entry." },
  ],
};
const [WIDTH, HEIGHT] = [900, 800];

/** Returns the stage as a text. It runs in the page, so it uses nothing from outside. */
function copyStage(): string {
  const properties = [
    ["fill", "rgb(0, 0, 0)"],
    ["fill-opacity", "1"],
    ["stroke", "none"],
    ["stroke-width", "1px"],
    ["stroke-dasharray", "none"],
    ["stroke-linecap", "butt"],
    ["opacity", "1"],
    ["font-family", ""],
    ["font-size", ""],
    ["font-weight", "400"],
    ["text-anchor", "start"],
    ["dominant-baseline", "auto"],
    ["paint-order", "normal"],
  ] as const;
  const ownOnly = new Set(["opacity", "dominant-baseline"]);
  const shapes = /^(path|line|circle|rect|text|tspan|g|svg)$/;

  /** Writes a node with those styles that it does not have from its parent. */
  const write = (node: Element, outer: Map<string, string>): string => {
    const style = getComputedStyle(node);
    const isUnseen = style.fill === "none" || style.fill === "rgba(0, 0, 0, 0)";
    if (isUnseen && /none|rgba\(0, 0, 0, 0\)/.test(style.stroke) && node.tagName !== "g") return "";
    if (style.display === "none" || style.visibility === "hidden") return "";
    if (!shapes.test(node.tagName)) return "";
    const inner = new Map(outer);
    const isDropped = (name: string) =>
      /^(class|style|id|role|tabindex|aria-.*|data-.*|hidden)$/.test(name)
      || properties.some(([property]) => property === name);
    const attributes = [...node.attributes].filter(({ name }) => !isDropped(name))
      .map(({ name, value }) => [name, value]);
    for (const [name, usual] of properties) {
      const value = style.getPropertyValue(name);
      if (value === (ownOnly.has(name) ? usual : outer.get(name) ?? usual)) continue;
      inner.set(name, value);
      attributes.push([name, value.replaceAll("\"", "'")]);
    }
    const content = [...node.childNodes].map((child) =>
      child instanceof Element ? write(child, inner) : escape(child.textContent ?? "")
    ).join("");
    const words = attributes.map(([name, value]) => ` ${name}="${value}"`).join("");
    const isEmpty = content === "";
    if (isEmpty && /^(g|text|tspan)$/.test(node.tagName)) return "";
    return `<${node.tagName}${words}${isEmpty ? "/>" : `>${content}</${node.tagName}>`}`;
  };
  const escape = (text: string) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;");

  const stage = document.querySelector(".stage svg");
  if (!stage) throw new Error("The page has no stage.");
  const drawn = write(stage, new Map());
  const [, , width = 0, height = 0] = (stage.getAttribute("viewBox") ?? "").split(" ").map(Number);
  const paper = getComputedStyle(document.body).backgroundColor;
  return drawn.replace("<svg", `<svg xmlns="http://www.w3.org/2000/svg"`)
    .replace(">", `>\n<rect width="${width}" height="${height}" rx="12" fill="${paper}"/>\n`)
    .replaceAll("><g", ">\n<g") + "\n";
}

/** Draws the picture. */
export async function drawPicture(): Promise<string> {
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-picture-"));
  try {
    const file = path.join(directory, "theatre.html");
    writeFileSync(file, await buildPage());
    await using browser = await Browser.start();
    const look = { width: WIDTH, height: HEIGHT };
    const { script, paragraphs: [last] } = rehearse(makeEngine(), PART);
    const at = last?.event ?? 0;
    const page = await browser.open(`${pathToFileURL(file)}${writeAddress({ script, at })}`, look);
    await page.until(`document.body.dataset.event === "${at}"`);
    // Colours that change have arrived.
    await page.until("document.getAnimations().length === 0");
    return await page.evaluate<string>(`(${copyStage})()`);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

if (import.meta.main) {
  readFlags(import.meta.path, {});
  writeFileSync(path.join(import.meta.dir, "picture.svg"), await drawPicture());
}
