/** The shape of the data that the page carries: programs, bugs, and the source with its index. */
import { type Hunk } from "./diff.ts";

/** A section of raft.ts. */
export type Section = {
  number: number;
  title: string;
  /** The first and last line. */
  first: number;
  last: number;
  /** What the section says first. */
  comment: string;
  /** What to read it with, from the reading guide of the README. */
  readWith: string;
};

/** A comment and the lines of code after it, up to the next comment. */
export type Passage = { comment: string; first: number; last: number };

/** A function, method or getter of Part I. */
export type Method = {
  /** As in "Raft.onRequestVote". */
  name: string;
  section: number;
  /** The lines, with the comment above it. */
  first: number;
  last: number;
  /** The comment above and the code; then each comment within the code and the code after it. */
  passages: readonly Passage[];
  /** The sections and figures of the paper and the thesis that its comments name. */
  cited: readonly string[];
};

/** Part I of raft.ts. The mark of a statement is the number of its first line. */
export type SourceIndex = {
  /** The text. Line 1 is at 0. */
  lines: readonly string[];
  sections: readonly Section[];
  methods: readonly Method[];
  /** The last line of each statement that has a mark, or of its head, by its mark. */
  lastLines: Readonly<Record<number, number>>;
};

/** A bug that can be planted. */
export type Planted = {
  /** Its number in the catalogue. */
  id: string;
  /** What it changes in the compiled program. */
  program: readonly Hunk[];
  /** What it changes in raft.ts. The marks of new lines count on from `firstMark`, in order. */
  source: readonly Hunk[];
  firstMark: number;
  lastLines: Readonly<Record<number, number>>;
};

/** Everything that the page carries beside its own code. */
export type Cargo = {
  /** The compiled Part I, by line. */
  raft: readonly string[];
  /** The compiled simulation with its judge. */
  engine: string;
  source: SourceIndex;
  bugs: readonly Planted[];
  /** The number of marks that any program uses. */
  marks: number;
};
