/// <reference lib="dom" />
/** Turns keys into what the visitor means. Each key is listed on the help card (controls.ts). */
import { type CardName } from "./controls.ts";

/** The acts that keys stand for. */
export interface Keyboard {
  playOrPause(): void;
  step(by: -1 | 1): void;
  goTo(event: number): void;
  goToEnd(): void;
  goOn(): void;
  changeSpeed(by: number): void;
  selectServer(at: number): void;
  selectNextFlight(): void;
  select(selection: { readonly kind: "none" }): void;
  selectEntry(by: number): void;
  killOrRestart(): void;
  undo(): void;
  toggle(layout: "wide" | "project"): void;
  changeTheme(): void;
}
export interface Cards {
  readonly isOpen: boolean;
  open(name: CardName): void;
}

const meanings: Readonly<Record<string, (page: Keyboard, cards: Cards) => void>> = {
  " ": (page) => page.playOrPause(),
  ArrowRight: (page) => page.step(1),
  ArrowLeft: (page) => page.step(-1),
  Home: (page) => page.goTo(0),
  End: (page) => page.goToEnd(),
  "+": (page) => page.changeSpeed(1),
  "=": (page) => page.changeSpeed(1),
  "-": (page) => page.changeSpeed(-1),
  n: (page) => page.goOn(),
  m: (page) => page.selectNextFlight(),
  e: (page) => page.selectEntry(0),
  ",": (page) => page.selectEntry(-1),
  ".": (page) => page.selectEntry(1),
  Escape: (page) => page.select({ kind: "none" }),
  k: (page) => page.killOrRestart(),
  u: (page) => page.undo(),
  l: (_, cards) => cards.open("lessons"),
  b: (_, cards) => cards.open("bugs"),
  o: (_, cards) => cards.open("world"),
  s: (_, cards) => cards.open("share"),
  "?": (_, cards) => cards.open("help"),
  w: (page) => page.toggle("wide"),
  p: (page) => page.toggle("project"),
  t: (page) => page.changeTheme(),
};

/** All keys that mean something, apart from digits. */
export const KEYS: readonly string[] = Object.keys(meanings);

export function onKey(event: KeyboardEvent, page: Keyboard, cards: Cards): void {
  const { key, target } = event;
  if (event.ctrlKey || event.metaKey || event.altKey || cards.isOpen) return;
  // A card that has just closed may still have the focus for a moment.
  const isField = target instanceof HTMLInputElement && target.closest("dialog")?.open !== false;
  // The slider moves by events itself; other fields take all keys.
  if (isField && (target.type !== "range" || /^(Arrow|Home|End|Page)/.test(key))) return;
  // A button that has the focus takes the space bar.
  if (key === " " && target instanceof HTMLButtonElement) return;
  const digit = /^[1-9]$/.test(key) ? Number(key) : 0;
  if (digit > 0) page.selectServer(digit - 1);
  else if (Object.hasOwn(meanings, key)) meanings[key]?.(page, cards);
  else return;
  event.preventDefault();
}
