/**
 * Tests the page in a real browser, if one is installed: it loads, shows the same runs as the tests
 * on Bun, plays the lessons, catches the bugs, and obeys the keyboard. The short run has one test
 * of each kind.
 */
import { afterAll, beforeAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { pathToFileURL } from "node:url";
import { inCopy, planted } from "../catalogue.ts";
import {
  Browser,
  findBrowser,
  HOW_TO_INSTALL,
  type Look,
  type Page,
  printedAddress,
  startTheatre,
} from "../support/browser.ts";
import { isThorough, slow } from "../support/thorough.ts";
import { writeAddress } from "./address.ts";
import { bugs } from "./bugs.ts";
import { type Cargo } from "./build/shape.ts";
import { makeEngine } from "./engine.ts";
import { lessons } from "./lessons/index.ts";
import { rehearse } from "./lessons/lesson.ts";
import { loadEngine } from "./loader.ts";
import { drawPicture } from "./picture.ts";
import { Run } from "./run.ts";
import { type Script } from "./state.ts";

setDefaultTimeout(300_000);

/** An event after the end of each seed. */
const END = 200_000;

const script = (changes: Partial<Script>): Script => ({
  world: "calm",
  seed: 1,
  servers: 3,
  acts: [],
  ...changes,
});

/** The page, and what it shows. */
class Visit {
  constructor(readonly page: Page) {}

  /** Waits until a scene shows this event, and nothing is left to do. */
  async arrive(event: number): Promise<void> {
    await this.page.until(
      `document.body.dataset.event === "${event}" && document.querySelector(".wait").hidden`,
    );
  }

  event(): Promise<number> {
    return this.page.evaluate("Number(document.body.dataset.event)");
  }

  hash(): Promise<number> {
    return this.page.evaluate("Number(document.body.dataset.hash)");
  }

  /** Returns what the first element of a selector says. */
  text(selector: string): Promise<string> {
    return this.page.evaluate(
      `document.querySelector(${JSON.stringify(selector)})?.textContent ?? ""`,
    );
  }

  /** Returns the shapes of the stage and the cells of the logs, in any order. */
  picture(): Promise<string[]> {
    return this.page.evaluate(`[...document.querySelectorAll(".stage svg > g > *, .logs *")]
      .map((one) => one.outerHTML).sort()`);
  }

  address(): Promise<string> {
    return this.page.evaluate("location.hash");
  }

  /** Moves the focus with Tab until a button with this label has it, and presses Enter. */
  async pressButton(label: string): Promise<void> {
    for (let tabs = 0; tabs < MOST_TABS; tabs += 1) {
      await this.page.press("Tab");
      const text = await this.page.evaluate<string>(FOCUSED);
      if (text === label || text.startsWith(`${label} (`)) return await this.page.press("Enter");
    }
    throw new Error(`Cannot reach the button ${label} with the Tab key.`);
  }
}

const MOST_TABS = 300;
/** The label of the focused element. */
const FOCUSED = `(() => {
  const { activeElement: one } = document;
  return one?.getAttribute("aria-label") ?? one?.querySelector("b")?.textContent ?? one?.textContent
    ?? "";
})()`;

/** Returns what a page carries. */
function readCargo(page: string): Cargo {
  const [, text = ""] = /<script type="application\/json" id="cargo">(.*?)<\/script>/s.exec(page)
    ?? [];
  return JSON.parse(text) as Cargo;
}

if (findBrowser() === undefined) {
  console.log(`No browser: the theatre's page was not tested. ${HOW_TO_INSTALL}`);
} else {
  describe("the theatre in a browser", testInBrowser);
}

function testInBrowser(): void {
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-theatre-"));
  const server = startTheatre("--port", "0");
  let browser: Browser;
  let fromDisk = "";
  let fromServer = "";
  let cargo: Cargo;

  beforeAll(async () => {
    [browser, fromServer] = await Promise.all([Browser.start(), printedAddress(server)]);
    // The same page as a file. That `--out` writes the same is tested in command.test.ts.
    const page = await (await fetch(fromServer)).text();
    const file = path.join(directory, "theatre.html");
    await Bun.write(file, page);
    fromDisk = pathToFileURL(file).href;
    cargo = readCargo(page);
  });

  afterAll(async () => {
    server.kill();
    await browser[Symbol.asyncDispose]();
    rmSync(directory, { recursive: true, force: true });
  });

  /**
   * Opens a scene in a page of its own, and closes the page afterwards. Waits for the event of the
   * scene, unless that is after the end.
   */
  async function visit(
    scene: Parameters<typeof writeAddress>[0],
    see: (visit: Visit) => Promise<void>,
    look: Look = {},
  ): Promise<void> {
    const page = await browser.open(fromDisk + writeAddress(scene), look);
    try {
      const here = new Visit(page);
      if (scene.at !== undefined && scene.at !== END) await here.arrive(scene.at);
      await see(here);
      expect(page.errors).toEqual([]);
    } finally {
      await page.close();
    }
  }

  /** Returns a run on Bun: of raft.ts itself, or of the page's variant with a bug. */
  const runOnBun = (one: Script) =>
    new Run(one.bug === undefined ? makeEngine() : loadEngine(cargo, one.bug), one);

  test("loads from the server and from the disk, without an error or another request", async () => {
    for (const address of [fromServer, fromDisk]) {
      const page = await browser.open(address);
      await page.until(`document.querySelectorAll(".stage .server").length > 2`);
      expect(page.errors).toEqual([]);
      expect(page.requests).toEqual([address]);
      await page.close();
    }
  });

  test("has the same runs as the tests, event for event", async () => {
    const scenes = isThorough
      ? Array.from({ length: 12 }, (_, i) => script({ world: "seed", seed: i + 1 }))
      : [script({ world: "seed", seed: 2 })];
    const others = [script({ seed: 3, servers: 5 }), script({ world: "chance", seed: 4 })];
    for (const one of [...scenes, ...others]) {
      const at = 300;
      const { hash } = runOnBun(one).goTo(at);
      await visit({ script: one, at }, async (here) => expect(await here.hash()).toBe(hash));
    }
  });

  test("goes one event back and forward again to the same state and picture", async () => {
    const one = script({ servers: 5 });
    const run = runOnBun(one);
    await visit({ script: one, at: 200 }, async (here) => {
      const picture = await here.picture();
      await here.page.press("ArrowLeft");
      await here.arrive(199);
      const before = await here.picture();
      expect(before).not.toEqual(picture);
      expect(await here.hash()).toBe(run.goTo(199).hash);
      await here.page.press("ArrowRight");
      await here.arrive(200);
      expect(await here.picture()).toEqual(picture);
      expect(await here.hash()).toBe(run.goTo(200).hash);
      await here.page.click(".time .back");
      await here.arrive(199);
      expect(await here.picture()).toEqual(before);
    });
  });

  test("keeps the scene in the address, with what the visitor did", async () => {
    let [address, hash, event] = ["", 0, 0];
    await visit({ script: script({}), at: 150 }, async (here) => {
      for (const key of ["1", "k", "ArrowRight", "ArrowRight", "2", "k"]) {
        await here.page.press(key);
      }
      await here.arrive(154);
      for (const _ of "12345") await here.page.press("ArrowRight");
      await here.arrive(159);
      await here.page.until(`location.hash.includes("at=159")`);
      [address, hash, event] = [await here.address(), await here.hash(), await here.event()];
      expect(await here.page.evaluate(`document.querySelectorAll(".server.down").length`)).toBe(2);
    });
    const page = await browser.open(fromDisk + address);
    const other = new Visit(page);
    await other.arrive(event);
    expect(await other.hash()).toBe(hash);
    await page.close();
  });

  describe("a lesson tells its events in their order:", () => {
    const chosen = isThorough ? lessons : lessons.slice(0, 1);
    const parts = chosen.flatMap((lesson) =>
      lesson.parts.map((part, at) => ({ lesson, part, at, title: part.title }))
    );
    test.each(parts)("$title", async ({ lesson, part, at }) => {
      const rehearsed = rehearse(loadEngine(cargo, part.scene.bug), part);
      const run = runOnBun(rehearsed.script);
      const [first] = rehearsed.paragraphs;
      const scene = { script: rehearsed.script, lesson: lesson.id, part: at };
      await visit({ ...scene, at: first?.event ?? 0 }, async (here) => {
        expect(await here.text(".guide h2")).toContain(lesson.title);
        for (const _ of "faster") await here.page.press("+");
        for (const { event, text } of rehearsed.paragraphs) {
          if (event > await here.event()) await here.page.press("n");
          await here.arrive(event);
          expect(await here.text(".guide .text")).toBe(text);
          expect(await here.hash()).toBe(run.goTo(event).hash);
        }
      });
    });
  });

  describe("a planted bug is caught at its seed:", () => {
    const rows: string[] = [];
    const chosen = isThorough ? bugs : bugs.slice(0, 1);

    test.each(chosen.map((bug) => [`${bug.id}. ${bug.title}`, bug] as const))(
      "%s",
      async (_, bug) => {
        const { event, verdict } = runOnBun(bug.script).goTo(END);
        expect(verdict?.promise).toBe(bug.rule);
        const begin = performance.now();
        await visit({ script: bug.script, at: END }, async (here) => {
          await here.arrive(event);
          const ms = Math.round(performance.now() - begin);
          rows.push(`| ${bug.title} | ${bug.script.seed} | ${event} | ${ms} | ${bug.rule} |`);
          expect(await here.text(".guide .verdict")).toContain(verdict?.sentence ?? "no sentence");
          if (!isThorough) return;
          await here.pressButton("Same seed without the bug");
          await here.page.until(`!location.hash.includes("bug=")`);
          const { bug: _, ...without } = bug.script;
          // Without the bug the seed may end earlier.
          await here.arrive(runOnBun(without).goTo(event).event);
          expect(
            await here.page.evaluate(
              `document.querySelector(".guide .verdict").checkVisibility()`,
            ),
          ).toBe(false);
        });
      },
    );

    afterAll(() => {
      if (!isThorough) return;
      console.log("| bug | seed | caught at event | after ms | rule |\n|---|---|---|---|---|");
      console.log(rows.join("\n"));
    });
  });

  slow("a failing seed of the simulator names the command that shows it", async () => {
    const bug = planted.find(({ id }) => id === "5");
    await inCopy(bug, async (copy) => {
      const run = (...args: string[]) =>
        Bun.spawn([process.execPath, ...args], { cwd: copy, stdout: "pipe", stderr: "ignore" });
      const printed = await new Response(
        run("test/simulator.ts", "--mode", "core", "--seed", "24").stdout,
      ).text();
      const [, sentence = ""] = /^seed 24: (.+)$/m.exec(printed) ?? [];
      const [, command = ""] = /in a browser: bun (.+)$/m.exec(printed) ?? [];
      expect(sentence).not.toBe("");
      const file = path.join(copy, "theatre.html");
      const address = await printedAddress(run(...command.split(" "), "--out", file));
      const page = await browser.open(address);
      await page.until(`document.querySelector(".guide .verdict").checkVisibility()`);
      expect(await new Visit(page).text(".guide .verdict")).toContain(sentence);
      await page.close();
    });
  });

  slow("the README's picture is what the stage shows: bun test/theatre/picture.ts", async () => {
    const file = Bun.file(path.join(import.meta.dir, "picture.svg"));
    // Sizes depend on the fonts of the machine.
    const shapesOf = (picture: string) =>
      picture.match(/<text[^>]*>[^<]*|<(path|line|circle|rect)/g)
        ?.map((shape) => shape.replace(/ [^>]*>/, ">"));
    const drawn = shapesOf(await drawPicture());
    expect(drawn?.length).toBeGreaterThan(40);
    expect(drawn).toEqual(shapesOf(await file.text()));
  });

  slow("the Tab key reaches every control", async () => {
    await visit({ script: script({}), at: 150 }, async (here) => {
      await here.page.press("1");
      const count = await here.page.evaluate<number>(`(() => {
        const all = document.querySelectorAll("button, input, [tabindex]");
        const reachable = [...all].filter((one) =>
          one.tabIndex >= 0 && !one.disabled && one.checkVisibility());
        window.unreached = new Set(reachable);
        document.addEventListener("focusin", ({ target }) => window.unreached.delete(target));
        document.activeElement.blur();
        return reachable.length;
      })()`);
      expect(count).toBeGreaterThan(30);
      for (let tabs = 0; tabs < MOST_TABS; tabs += 1) await here.page.press("Tab");
      const unreached = await here.page.evaluate(
        `[...window.unreached].filter((one) => one.isConnected).map((one) => one.outerHTML)`,
      );
      expect(unreached).toEqual([]);
    });
  });

  slow("the keyboard alone can do all", async () => {
    await visit({ script: script({ seed: 3 }), at: 300 }, async (here) => {
      const { page } = here;
      const does = async (label: string, act: string) => {
        await here.pressButton(label);
        await page.until(`location.hash.includes(${JSON.stringify(act)})`);
      };
      const select = (server: number) => page.press(`${server}`);
      await does("Write x", ".propose.x");
      await does("Read x", ".read.x");
      await does("Add a server", ".addServer");
      await select(1);
      await does("Pause", ".pause.a");
      await does("Resume", ".resume.a");
      await does("Time out", ".elapse.a");
      await does("a → b", ".cut.a.b");
      await does("a → b", ".heal.a.b");
      await does("Isolate a", ".partition.");
      await page.press("Escape");
      await does("Heal all links", ".healAll");
      for (
        const [label, act] of [["Drop", "drop"], ["Delay 50 ms", "delay"], [
          "Duplicate",
          "duplicate",
        ]]
      ) {
        await page.press("m");
        await does(label ?? "", `.${act}.`);
      }
      await select(3);
      await does("Make leader", ".transfer.c");
      await select(2);
      await does("Remove", ".removeServer.b");
      await does("Kill", ".kill.b");
      await does("Wipe disk", ".wipe.b");
      await does("Restart", ".restart.b");
      await page.press("u");
      await page.until(`!location.hash.includes(".restart.b")`);
    });
  });

  slow("the keyboard opens lessons, bugs and worlds, and moves through time", async () => {
    await visit({ script: script({}), at: 20 }, async (here) => {
      const { page } = here;
      await page.press("l");
      await here.pressButton(lessons[1]?.title ?? "");
      await page.until(
        `document.querySelector(".guide h2").textContent.startsWith(${
          JSON.stringify(lessons[1]?.title)
        })`,
      );
      await page.press("o");
      await page.until(`document.querySelector("dialog.world").open`);
      await here.pressButton("Open");
      await page.until(`!document.querySelector("dialog.world").open`);
      for (const card of ["b", "s", "?"]) {
        await page.press(card);
        await page.until(`document.querySelector("dialog[open]")`);
        await page.press("Escape");
        // The focus leaves a closed card with the next frame.
        await page.until(`!document.activeElement.closest("dialog")`);
      }
      await page.press(" ");
      await page.until("Number(document.body.dataset.event) > 30");
      await page.press(" ");
      await page.press("Home");
      await here.arrive(0);
      await page.press("End");
      await page.until("Number(document.body.dataset.event) > 30");
    });
  });

  slow(
    "has no horizontal scroll bar in windows from 360 to 2,560 pixels, light and dark",
    async () => {
      for (const width of [360, 800, 1280, 2560]) {
        for (const isDark of [false, true]) {
          const look = { width, height: 800, isDark };
          await visit({ script: script({ servers: 7 }), at: 200 }, async ({ page }) => {
            const [inside, outside] = await page.evaluate<[number, number]>(
              "[document.documentElement.scrollWidth, innerWidth]",
            );
            expect(inside).toBeLessThanOrEqual(outside);
          }, look);
        }
      }
    },
  );

  slow("tells how fast it draws, and how fast it goes back", async () => {
    await visit({ script: script({ world: "chance", servers: 7 }), at: 0 }, async ({ page }) => {
      for (const _ of "123") await page.press("+");
      await page.press(" ");
      const frames = await page.evaluate<number>(`new Promise((resolve) => {
        const begin = performance.now();
        let count = 0;
        const next = (now) => {
          count += 1;
          if (now - begin < 5000) requestAnimationFrame(next);
          else resolve(count / (now - begin) * 1000);
        };
        requestAnimationFrame(next);
      })`);
      console.log(`7 servers in real time: ${frames.toFixed(1)} frames a second.`);
      expect(frames).toBeGreaterThan(0);
    });
    const far = script({ world: "chance", servers: 7 });
    await visit({ script: far, at: 12_000 }, async ({ page }) => {
      const ms = await page.evaluate<number>(`(async () => {
        const slider = document.querySelector(".time input[type=range]");
        const begin = performance.now();
        slider.value = 2000;
        slider.dispatchEvent(new Event("input"));
        while (document.body.dataset.event !== "2000") await new Promise(requestAnimationFrame);
        return performance.now() - begin;
      })()`);
      console.log(`10,000 events back: ${Math.round(ms)} ms.`);
      expect(ms).toBeGreaterThan(0);
    });
  });
}
