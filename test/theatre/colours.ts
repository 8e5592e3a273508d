/**
 * Gives each term a colour. The same colour fills the server that is in the term, the cells of its
 * entries, and its messages. The number of the term always stands beside its colour.
 */

/**
 * The fills, in the order of the terms. Dark text is readable on all of them. Consecutive terms
 * stay apart for eyes without red, green or blue cones (the test computes what they see).
 */
export const TERM_COLOURS: readonly string[] = [
  "#8cc0f0", // blue
  "#ef9a56", // orange
  "#f4e486", // yellow
  "#9a86d6", // violet
  "#a8e3c6", // mint
  "#c86f92", // rose
];

/** No term: a server that has not yet heard of an election. */
export const NO_TERM = "#e4e1d9";

export function colourOf(term: number): string {
  if (term <= 0) return NO_TERM;
  return TERM_COLOURS[(term - 1) % TERM_COLOURS.length] ?? NO_TERM;
}

/** Red, green and blue, each from 0 to 1 and proportional to light. */
export type Light = readonly [number, number, number];

export function lightOf(hex: string): Light {
  const channel = (at: number) => {
    const value = Number.parseInt(hex.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return [channel(1), channel(3), channel(5)];
}

/** How colours look to eyes that lack one kind of cones (Machado, Oliveira and Fernandes, 2009). */
export const VISIONS: Readonly<Record<string, readonly Light[]>> = {
  full: [[1, 0, 0], [0, 1, 0], [0, 0, 1]],
  protanopia: [
    [0.152286, 1.052583, -0.204868],
    [0.114503, 0.786281, 0.099216],
    [-0.003882, -0.048116, 1.051998],
  ],
  deuteranopia: [
    [0.367322, 0.860646, -0.227968],
    [0.280085, 0.672501, 0.047413],
    [-0.01182, 0.04294, 0.968881],
  ],
  tritanopia: [
    [1.255528, -0.076749, -0.178779],
    [-0.078411, 0.930809, 0.147602],
    [0.004733, 0.691367, 0.3039],
  ],
};

export function seenBy(vision: readonly Light[], [red, green, blue]: Light): Light {
  const row = ([r, g, b]: Light) => Math.min(1, Math.max(0, r * red + g * green + b * blue));
  const [first = [0, 0, 0], second = [0, 0, 0], third = [0, 0, 0]] = vision;
  return [row(first), row(second), row(third)];
}

/** Returns the place of a colour in Oklab, where distances are as people judge them. */
function oklab([r, g, b]: Light): Light {
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

/** Returns how different two colours look, from 0 (equal) to 100 (black and white). */
export function difference(a: Light, b: Light): number {
  const [x, y, z] = oklab(a);
  const [u, v, w] = oklab(b);
  return 100 * Math.hypot(x - u, y - v, z - w);
}

/** Returns the contrast of two colours as WCAG defines it: text needs 4.5, a shape 3. */
export function contrast(a: Light, b: Light): number {
  const luminance = ([r, g, blue]: Light) => 0.2126 * r + 0.7152 * g + 0.0722 * blue;
  const [dark = 0, bright = 0] = [luminance(a), luminance(b)].toSorted((x, y) => x - y);
  return (bright + 0.05) / (dark + 0.05);
}
