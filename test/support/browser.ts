/**
 * Drives a real browser for the tests, by the DevTools protocol over a WebSocket: it opens pages,
 * presses keys, clicks, evaluates, and collects what goes wrong.
 */
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import os from "node:os";
import path from "node:path";

const NAMES = [
  "chromium-headless-shell",
  "chrome-headless-shell",
  "chromium",
  "chromium-browser",
  "google-chrome",
];
const LIMIT_MS = 60_000;
const POLL_MS = 20;

/** Returns the browser's file: that of RAFT_BROWSER, or the first one in PATH. */
export function findBrowser(): string | undefined {
  const chosen = process.env["RAFT_BROWSER"];
  if (chosen) return existsSync(chosen) ? chosen : undefined;
  return NAMES.map((name) => Bun.which(name)).find((file) => file !== null) ?? undefined;
}

/** Says how to get a browser. */
export const HOW_TO_INSTALL =
  "On Debian: apt-get install chromium-headless-shell. Elsewhere set RAFT_BROWSER to a Chromium.";

type Fields = Record<string, unknown>;
type Answer = { id?: number; method?: string; params?: Fields; sessionId?: string } & {
  result?: Fields;
  error?: { message: string };
};
type Waiter = { resolve: (result: Fields) => void; reject: (error: Error) => void };

/** A running browser. */
export class Browser {
  private lastId = 0;
  private readonly waiting = new Map<number, Waiter>();
  private readonly pages = new Map<string, Page>();

  private constructor(
    private readonly child: Bun.Subprocess,
    private readonly directory: string,
    private readonly socket: WebSocket,
  ) {
    socket.onmessage = ({ data }) => this.receive(JSON.parse(String(data)) as Answer);
    socket.onclose = () => {
      for (const { reject } of this.waiting.values()) reject(new Error("The browser has ended."));
    };
  }

  static async start(): Promise<Browser> {
    const file = findBrowser();
    if (!file) throw new Error(`Cannot find a browser. ${HOW_TO_INSTALL}`);
    const directory = mkdtempSync(path.join(os.tmpdir(), "raft-browser-"));
    const child = Bun.spawn([
      file,
      "--headless",
      "--no-sandbox",
      "--disable-gpu",
      "--hide-scrollbars",
      "--no-first-run",
      "--remote-debugging-port=0",
      `--user-data-dir=${directory}`,
      "about:blank",
    ], { stdout: "ignore", stderr: "pipe", detached: true });
    process.once("exit", () => kill(child));
    try {
      const socket = new WebSocket(await readAddress(child.stderr));
      await new Promise((resolve, reject) => {
        socket.onopen = resolve;
        socket.onerror = () => reject(new Error("Cannot connect to the browser."));
      });
      return new Browser(child, directory, socket);
    } catch (error) {
      await end(child, directory);
      throw error;
    }
  }

  /** Opens a page, and waits until it has loaded. */
  async open(url: string, look: Look = {}): Promise<Page> {
    const { targetId } = await this.send("Target.createTarget", { url: "about:blank" });
    const { sessionId } = await this.send("Target.attachToTarget", { targetId, flatten: true });
    const id = String(sessionId);
    const page = new Page(
      (method, params) => this.send(method, params, id),
      () => this.close(String(targetId), id),
    );
    this.pages.set(id, page);
    await page.load(url, look);
    return page;
  }

  private async close(targetId: string, sessionId: string): Promise<void> {
    await this.send("Target.closeTarget", { targetId });
    this.pages.delete(sessionId);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.close();
    await end(this.child, this.directory);
  }

  private send(method: string, params: Fields = {}, sessionId?: string): Promise<Fields> {
    const id = this.lastId += 1;
    const { promise, resolve, reject } = Promise.withResolvers<Fields>();
    this.waiting.set(id, { resolve, reject });
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    return promise;
  }

  private receive({ id, method, params = {}, sessionId = "", result, error }: Answer): void {
    if (method) return this.pages.get(sessionId)?.note(method, params);
    const waiter = this.waiting.get(id ?? 0);
    this.waiting.delete(id ?? 0);
    if (error) waiter?.reject(new Error(error.message));
    else waiter?.resolve(result ?? {});
  }
}

/** Reads the address for the DevTools protocol, which the browser prints at its start. */
async function readAddress(stream: ReadableStream<Uint8Array>): Promise<string> {
  let printed = "";
  const decoder = new TextDecoder();
  for await (const bytes of stream) {
    printed += decoder.decode(bytes, { stream: true });
    const [, address] = /DevTools listening on (\S+)/.exec(printed) ?? [];
    if (address) return address;
  }
  throw new Error(`Cannot start the browser:\n${printed}`);
}

/** Kills the whole process group of the browser, because its file may be a script. */
function kill({ pid }: Bun.Subprocess): void {
  try {
    process.kill(-pid, "SIGKILL");
  } catch {} // It has ended.
}

async function end(child: Bun.Subprocess, directory: string): Promise<void> {
  kill(child);
  await child.exited;
  // Its own children may still write for a moment.
  rmSync(directory, { recursive: true, force: true, maxRetries: 20, retryDelay: 50 });
}

/** How a page is shown. */
export type Look = { width?: number; height?: number; isDark?: boolean };

/** The codes of keys that have no text. */
const CODES: Record<string, number> = {
  Tab: 9,
  Enter: 13,
  Escape: 27,
  " ": 32,
  PageUp: 33,
  PageDown: 34,
  End: 35,
  Home: 36,
  ArrowLeft: 37,
  ArrowUp: 38,
  ArrowRight: 39,
  ArrowDown: 40,
};
const SHIFT = 8;

/** A page in the browser. */
export class Page {
  /** Exceptions, and errors in the console. */
  readonly errors: string[] = [];
  /** The addresses that the page has loaded from. */
  readonly requests: string[] = [];

  constructor(
    private readonly send: (method: string, params?: Fields) => Promise<Fields>,
    readonly close: () => Promise<void>,
  ) {}

  async load(url: string, { width = 1280, height = 800, isDark = false }: Look): Promise<void> {
    for (const domain of ["Page", "Runtime", "Log", "Network"]) await this.send(`${domain}.enable`);
    await this.send("Emulation.setDeviceMetricsOverride", {
      width,
      height,
      deviceScaleFactor: 1,
      mobile: false,
    });
    await this.send("Emulation.setEmulatedMedia", {
      features: [{ name: "prefers-color-scheme", value: isDark ? "dark" : "light" }],
    });
    await this.send("Page.navigate", { url });
    await this.until(`location.href !== "about:blank" && document.readyState === "complete"`);
  }

  /** Takes note of an event of the protocol. */
  note(method: string, params: Fields): void {
    const { exceptionDetails, type, args, entry, request } = params as {
      exceptionDetails?: { text: string; exception?: { description?: string } };
      type?: string;
      args?: { value?: unknown; description?: string }[];
      entry?: { level: string; text: string; url?: string };
      request?: { url: string };
    };
    if (method === "Runtime.exceptionThrown" && exceptionDetails) {
      this.errors.push(exceptionDetails.exception?.description ?? exceptionDetails.text);
    } else if (method === "Runtime.consoleAPICalled" && (type === "error" || type === "assert")) {
      this.errors.push((args ?? []).map((arg) => arg.description ?? String(arg.value)).join(" "));
    } else if (method === "Log.entryAdded" && entry?.level === "error") {
      this.errors.push(`${entry.text} ${entry.url ?? ""}`);
    } else if (method === "Network.requestWillBeSent" && request) {
      this.requests.push(request.url);
    }
  }

  /** Evaluates an expression in the page. A promise is awaited. */
  async evaluate<Value>(expression: string): Promise<Value> {
    const { result, exceptionDetails } = await this.send("Runtime.evaluate", {
      expression,
      awaitPromise: true,
      returnByValue: true,
      userGesture: true,
    }) as { result: { value: Value }; exceptionDetails?: { exception?: { description?: string } } };
    if (exceptionDetails) {
      throw new Error(`${expression}: ${exceptionDetails.exception?.description}`);
    }
    return result.value;
  }

  /** Waits until an expression is true. */
  async until(expression: string): Promise<void> {
    const deadline = performance.now() + LIMIT_MS;
    while (!await this.evaluate<boolean>(`Boolean(${expression})`)) {
      if (performance.now() > deadline) {
        const text = await this.evaluate<string>("document.body.innerText");
        const errors = this.errors.join("\n");
        throw new Error(`The page never had ${expression}.\n${errors}\nIt shows:\n${text}`);
      }
      await Bun.sleep(POLL_MS);
    }
  }

  /** Presses a key, such as "ArrowRight", "a" or "Shift+Tab". */
  async press(name: string): Promise<void> {
    const isShifted = name.startsWith("Shift+");
    const key = isShifted ? name.slice("Shift+".length) : name;
    const isText = key.length === 1 || key === "Enter";
    const event = {
      key,
      code: key === " " ? "Space" : key,
      windowsVirtualKeyCode: CODES[key] ?? key.toUpperCase().charCodeAt(0),
      modifiers: isShifted ? SHIFT : 0,
      ...isText && { text: key === "Enter" ? "\r" : key },
    };
    await this.send("Input.dispatchKeyEvent", {
      type: isText ? "keyDown" : "rawKeyDown",
      ...event,
    });
    await this.send("Input.dispatchKeyEvent", { type: "keyUp", ...event, text: undefined });
  }

  /** Clicks into the middle of the first element that a selector matches. */
  async click(selector: string): Promise<void> {
    const place = await this.evaluate<{ x: number; y: number } | undefined>(`(() => {
      const element = document.querySelector(${JSON.stringify(selector)});
      element?.scrollIntoView({ block: "nearest", behavior: "instant" });
      const box = element?.getBoundingClientRect();
      return box && { x: box.x + box.width / 2, y: box.y + box.height / 2 };
    })()`);
    if (!place) throw new Error(`Cannot click ${selector}: the page has no such element.`);
    for (const type of ["mouseMoved", "mousePressed", "mouseReleased"]) {
      const button = type === "mouseMoved" ? "none" : "left";
      await this.send("Input.dispatchMouseEvent", { type, ...place, button, clickCount: 1 });
    }
  }

  /** Writes what the page shows into a PNG file. */
  async screenshot(file: string): Promise<void> {
    const { data } = await this.send("Page.captureScreenshot", { format: "png" });
    await Bun.write(file, Buffer.from(String(data), "base64"));
  }
}

/** Starts `bun test/theatre.ts` in a process of its own. */
export const startTheatre = (...args: string[]) =>
  Bun.spawn([process.execPath, path.join(import.meta.dir, "../theatre.ts"), ...args], {
    stdout: "pipe",
    stderr: "pipe",
  });

/** Returns the address that the program prints. */
export async function printedAddress(
  { stdout }: { stdout: ReadableStream<Uint8Array> },
): Promise<string> {
  let printed = "";
  for await (const bytes of stdout) {
    printed += Buffer.from(bytes).toString();
    const [address] = /(http|file):\S+/.exec(printed) ?? [];
    if (address) return address;
  }
  throw new Error(`bun test/theatre.ts printed no address, but: ${printed}`);
}
