/** Computes where things stand on the stage. Angles begin at the top and go clockwise. */

export type Point = { readonly x: number; readonly y: number };

/** Where the words of a server stand, away from the lines. "top": above the line to the right. */
export type Side = "top" | "below" | "left" | "right";

/** Where the servers of a ring stand, and how large they are. */
export type Ring = {
  readonly radius: number;
  readonly places: readonly Point[];
  readonly sides: readonly Side[];
  /** Where clients stand: beside the ring. */
  readonly clients: Point;
  /** Whether there is room for the role of a leader or candidate only. */
  readonly isTight: boolean;
  /** The size of words: 1 for the usual page. */
  readonly scale: number;
};

/** On a stage that is narrower than this, the words of all servers stand below them. */
const NARROW = 470;

/** Room for the words above, below and beside the ring, on a page of the usual size. */
const [ABOVE, BELOW, BESIDE] = [30, 54, 126];

/** Places `count` servers on an ellipse that fills a stage of this size. */
export function ringOf(count: number, width: number, height: number, scale = 1): Ring {
  const isNarrow = width < NARROW * scale;
  const fit = Math.min(width * 0.9, height) / (count > 7 ? 15 : count > 5 ? 12.5 : 10);
  const radius = Math.round(Math.max(20, Math.min(76, fit)));
  const circle = Array.from({ length: count }, (_, at) => {
    // Two servers stand side by side.
    const angle = (count === 2 ? -Math.PI / 2 : 0) + (2 * Math.PI * at) / count;
    return count === 1 ? { x: 0, y: 0 } : { x: Math.sin(angle), y: -Math.cos(angle) };
  });
  const sides = circle.map((point) => isNarrow ? "below" : sideOf(point));
  const ys = circle.map(({ y }) => y);
  const [top, bottom] = [Math.min(0, ...ys), Math.max(0, ...ys)];
  const [above, beside] = [isNarrow ? 24 : ABOVE * scale, isNarrow ? 24 : BESIDE * scale];
  const room = Math.max(radius, height - 2 * radius - above - BELOW * scale);
  const down = bottom - top < 0.1 ? room / 2 : room / (bottom - top);
  const across = Math.max(radius, Math.min(width / 2 - radius - beside, down * 1.6));
  const middle = bottom - top < 0.1 ? above + radius + room / 2 : radius + above - top * down;
  return {
    radius,
    places: circle.map(({ x, y }) => ({ x: width / 2 + x * across, y: middle + y * down })),
    sides,
    // Below a narrow ring there is no room beside the words.
    clients: { x: 40 * scale, y: isNarrow ? 52 : height - 26 * scale },
    isTight: isNarrow && count > 5,
    scale,
  };
}

/** Returns where the lines to the others do not go. */
function sideOf({ x, y }: Point): Side {
  if (y < -0.75) return "top";
  if (y > 0.4 || Math.abs(x) < 0.1) return "below";
  return x < 0 ? "left" : "right";
}

/** The part of the line between two servers that is outside of both, moved aside by `lane`. */
export function lane(from: Point, to: Point, radius: number, aside: number): [Point, Point] {
  const length = Math.hypot(to.x - from.x, to.y - from.y) || 1;
  const [along, across] = [(to.x - from.x) / length, (to.y - from.y) / length];
  const gap = Math.min(radius, length / 2);
  const shift = { x: -across * aside, y: along * aside };
  return [
    { x: from.x + along * gap + shift.x, y: from.y + across * gap + shift.y },
    { x: to.x - along * gap + shift.x, y: to.y - across * gap + shift.y },
  ];
}

export function between([from, to]: readonly [Point, Point], share: number): Point {
  return { x: from.x + (to.x - from.x) * share, y: from.y + (to.y - from.y) * share };
}

/** Returns the share of a flight that is over at `nowMs`, from 0 to 1. */
export function progress(nowMs: number, sentMs: number, arriveMs: number): number {
  if (arriveMs <= sentMs) return 1;
  return Math.min(1, Math.max(0, (nowMs - sentMs) / (arriveMs - sentMs)));
}

/** Returns an SVG path of an arc from the top, clockwise, over a share of the circle. */
export function arc(radius: number, share: number): string {
  if (share <= 0) return "";
  const whole = Math.min(share, 0.998);
  const angle = 2 * Math.PI * whole;
  const [x, y] = [radius * Math.sin(angle), -radius * Math.cos(angle)];
  const isLarge = whole > 0.5 ? 1 : 0;
  return `M0 ${(-radius).toFixed(1)}A${radius} ${radius} 0 ${isLarge} 1 ${x.toFixed(1)} ${
    y.toFixed(1)
  }`;
}

/** Returns how far from the middle of a box, in this direction, its edge is. */
export function edgeOf(halfWidth: number, halfHeight: number, along: Point): number {
  const [x, y] = [Math.abs(along.x), Math.abs(along.y)];
  // A message to its own sender has no direction.
  if (x === 0 && y === 0) return 0;
  return Math.min(x > 0 ? halfWidth / x : Infinity, y > 0 ? halfHeight / y : Infinity);
}

/** The columns of the logs that are in view: indexes from `first` on. */
export type Columns = { readonly first: number; readonly count: number };

/** The logs move by this many columns at once, because a step for each entry would be restless. */
const STEP = 4;

/** Chooses the columns that matter: up to the last entry of any log, and as far back as fits. */
export function columnsInView(lastIndexes: readonly number[], room: number): Columns {
  const count = Math.max(1, room);
  const beyond = Math.max(1, ...lastIndexes) - count;
  const step = Math.min(STEP, count);
  return { first: beyond <= 0 ? 1 : Math.ceil(beyond / step) * step + 1, count };
}
