/** Declares what the picture is a function of. */
import { type Name } from "../../raft.ts";
import { type Instant } from "./state.ts";

/** The thing that the visitor has chosen, to see more of it. */
export type Selection =
  | { readonly kind: "none" }
  | { readonly kind: "server"; readonly name: Name }
  | { readonly kind: "flight"; readonly id: number }
  | { readonly kind: "link"; readonly from: Name; readonly to: Name }
  | { readonly kind: "entry"; readonly server: Name; readonly index: number };

export const NOTHING: Selection = { kind: "none" };

export type Frame = {
  readonly instant: Instant;
  /** The simulated time, up to the next event. */
  readonly timeMs: number;
  readonly selection: Selection;
};

/** Tells that the visitor chooses something. */
export type Select = (selection: Selection) => void;
