/// <reference lib="dom" />
/**
 * Makes and changes elements. The page is built once. Then each frame sets only values that differ
 * from the last frame, so that playing stays smooth.
 */

const SVG = "http://www.w3.org/2000/svg";

/** Attributes of an element. `undefined` removes one; a function becomes a listener. */
export type Attributes = Readonly<
  Record<string, string | number | boolean | undefined | ((event: Event) => void)>
>;
type Child = Node | string;

export function html<Tag extends keyof HTMLElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[Tag] {
  return fill(document.createElement(tag), attributes, children);
}

export function svg<Tag extends keyof SVGElementTagNameMap>(
  tag: Tag,
  attributes: Attributes = {},
  ...children: Child[]
): SVGElementTagNameMap[Tag] {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill<Made extends Element>(made: Made, attributes: Attributes, children: Child[]): Made {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") made.addEventListener(name, value);
    else set(made, name, value);
  }
  made.append(...children);
  return made;
}

/** The present attributes and text of each element, because asking the document is slow. */
const present = new WeakMap<Node, Map<string, string>>();

function isNew(node: Node, name: string, value: string): boolean {
  let known = present.get(node);
  if (!known) present.set(node, known = new Map());
  if (known.get(name) === value) return false;
  known.set(name, value);
  return true;
}

/** Sets an attribute. `false` and `undefined` remove it, `true` sets it without a value. */
export function set(
  node: Element,
  name: string,
  value: string | number | boolean | undefined,
): void {
  const text = value === undefined || value === false ? "\0" : value === true ? "" : `${value}`;
  if (!isNew(node, name, text)) return;
  if (text === "\0") node.removeAttribute(name);
  else node.setAttribute(name, text);
}

export function say(node: Element, text: string): void {
  if (isNew(node, "\0text", text)) node.textContent = text;
}

export function show(node: Element, isVisible: boolean): void {
  set(node, "hidden", !isVisible);
  // SVG elements have no attribute `hidden` of their own.
  if (node instanceof SVGElement) set(node, "display", isVisible ? undefined : "none");
}

/** Keeps one element for each key, in the order of the list; makes and removes what it must. */
export class Keyed<Item, Made extends { readonly root: Element }> {
  private readonly made = new Map<string, Made>();

  constructor(
    private readonly parent: Element,
    private readonly make: (key: string) => Made,
    private readonly update: (made: Made, item: Item, at: number) => void,
  ) {}

  show(items: readonly Item[], keyOf: (item: Item, at: number) => string): void {
    const keys = items.map(keyOf);
    this.drop(new Set(keys));
    items.forEach((item, at) => {
      const key = keys[at] ?? "";
      let one = this.made.get(key);
      if (!one) this.made.set(key, one = this.make(key));
      this.update(one, item, at);
      const there = this.parent.children[at];
      if (there !== one.root) this.parent.insertBefore(one.root, there ?? null);
    });
  }

  /** Removes the other elements before any is moved, so that the kept ones keep the focus. */
  private drop(kept: ReadonlySet<string>): void {
    for (const [key, one] of this.made) {
      if (kept.has(key)) continue;
      one.root.remove();
      this.made.delete(key);
    }
  }

  get(key: string): Made | undefined {
    return this.made.get(key);
  }
}
