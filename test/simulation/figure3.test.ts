/**
 * Tests that the judge of the full stack finds and names a violation of each property of Figure 3.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Raft, type RoleName } from "../../raft.ts";
import { emptyLog, makeEntry } from "../support/entries.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { Figure3 } from "./full/figure3.ts";

setDefaultTimeout(PATIENCE_MS);

/**
 * Returns the part of a server that the judge reads. The log has one entry for each of the terms.
 */
function server(
  terms: readonly number[],
  fields: Partial<Record<"currentTerm" | "commitIndex" | "lastApplied", number>> = {},
  role: RoleName = "Follower",
) {
  const log = emptyLog();
  terms.forEach((term, i) => log.append(makeEntry(i + 1, term, "noop")));
  const core = {
    log,
    role: { name: role },
    currentTerm: terms.at(-1) ?? 0,
    commitIndex: 0,
    lastApplied: 0,
    ...fields,
  };
  return core as unknown as Raft; // The judge does not read the other fields.
}

/** Commits after a first look: the judge skips entries committed before it first saw a server. */
function commit(judge: Figure3, name: string, core: Raft, index: number): void {
  judge.judge(name, core);
  core.commitIndex = index;
  judge.judge(name, core);
}

describe("the judge of the full stack", () => {
  test("accepts equal logs, and leaders with all committed entries", () => {
    const judge = new Figure3();
    commit(judge, "a", server([1, 1], {}, "Leader"), 2);
    commit(judge, "b", server([1, 1]), 1);
    commit(judge, "b", server([1, 1, 2], {}, "Leader"), 3);
  });

  test("names two leaders of a term", () => {
    const judge = new Figure3();
    judge.judge("a", server([1], {}, "Leader"));
    expect(() => judge.judge("b", server([1], {}, "Leader"))).toThrow("Election Safety");
  });

  test("names a leader that deletes an entry", () => {
    const [judge, core] = [new Figure3(), server([1, 1], {}, "Leader")];
    judge.judge("a", core);
    core.log.merge([makeEntry(2, 2, "noop")], 0);
    expect(() => judge.judge("a", core)).toThrow("Leader Append-Only");
  });

  test("names entries that differ at an equal index and term, or before it", () => {
    const judge = new Figure3();
    judge.judge("a", server([1, 2]));
    const other = server([1]);
    other.log.append(makeEntry(2, 2, "commands", Buffer.from("other")));
    expect(() => judge.judge("b", other)).toThrow("Log Matching");
    expect(() => judge.judge("c", server([2, 2]))).toThrow("Log Matching");
  });

  test("names a leader that lacks an entry committed in an earlier term", () => {
    const judge = new Figure3();
    commit(judge, "a", server([1, 1]), 2);
    expect(() => judge.judge("b", server([1], { currentTerm: 2 }, "Leader")))
      .toThrow("Leader Completeness");
  });

  test("names a server that commits a different entry, or one that it lacks", () => {
    const judge = new Figure3();
    commit(judge, "a", server([1]), 1);
    expect(() => commit(judge, "b", server([2]), 1)).toThrow("State Machine Safety");
    expect(() => commit(judge, "c", server([1]), 2)).toThrow("c commits entry 2");
  });

  test.each(["currentTerm", "commitIndex", "lastApplied"] as const)(
    "names a %s that decreases",
    (what) => {
      const [judge, core] = [new Figure3(), server([1, 2], { commitIndex: 2, lastApplied: 2 })];
      judge.judge("a", core);
      core[what] -= 1;
      expect(() => judge.judge("a", core)).toThrow(`a's ${what} decreases`);
    },
  );
});
