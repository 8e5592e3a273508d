/**
 * Tests that the simulator or a small test catches each bug of the catalogue. The thorough run plants
 * all bugs, one at a time. The short run checks that raft.ts still has the text that each replaces.
 */
import { afterAll, describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  type Catcher,
  findOnlyThorough,
  inCopy,
  onlyThorough,
  planted,
  runTest,
  simulate,
  stalePieces,
} from "../catalogue.ts";
import { isThorough } from "../support/thorough.ts";

/** A change to the simulator may move a bug to a later seed, but not far from the known one. */
const MORE_SEEDS = 200;
// Tests wait for each other, because no more commands run at a time than the machine has cores.
setDefaultTimeout(900_000);

const commandOf = (catcher: Catcher) =>
  "mode" in catcher
    ? `bun test/simulator.ts --mode ${catcher.mode} --seed ${catcher.seed}`
    : `CI=1 bun test ${catcher.file} -t "${catcher.title}"`;

describe("the catalogue", () => {
  test("has consecutive numbers, and each bug once", () => {
    const ids = planted.map(({ id }) => id);
    expect(new Set(ids).size).toBe(ids.length);
    const numbers = new Set(ids.map((id) => Number.parseInt(id, 10)));
    expect([...numbers].toSorted((a, b) => a - b)).toEqual(
      Array.from({ length: Math.max(50, ...numbers) }, (_, i) => i + 1),
    );
  });

  test("fits raft.ts: each text that a bug replaces occurs there exactly once", () => {
    expect(planted.flatMap((bug) => stalePieces(bug).map((text) => `${bug.id}: ${text}`))).toEqual(
      [],
    );
    expect(planted.filter(({ caughtBy }) => caughtBy.length === 0)).toEqual([]);
    if (!isThorough) console.log(`CI=1 bun test plants these ${planted.length} bugs.`);
  });
});

// Without `CI` these hundreds of tests are not even listed as skipped.
if (isThorough) {
  test("the short run catches the same bugs, except for those that the catalogue lists", async () => {
    expect(await findOnlyThorough()).toEqual([...onlyThorough]);
  });

  describe("without a planted bug", () => {
    // Every command that catches a bug, once. A command that fails without the bug proves nothing.
    const catchers = new Map(
      planted.flatMap(({ caughtBy }) => caughtBy.map((catcher) => [commandOf(catcher), catcher])),
    );

    test.concurrent.each([...catchers])("%s passes", async (_, catcher) => {
      const verdict = await inCopy(undefined, (directory) =>
        "mode" in catcher
          ? simulate(directory, catcher.mode, catcher.seed, 1)
          : runTest(directory, catcher));
      expect(verdict).toMatchObject({ passed: true });
    });
  });

  describe("a planted bug is caught:", () => {
    const moved: string[] = [];

    test.concurrent.each(planted.map((bug) => [`${bug.id}. ${bug.name}`, bug] as const))(
      "%s",
      async (_, bug) => {
        await inCopy(bug, async (directory) => {
          for (const catcher of bug.caughtBy) {
            const verdict = "mode" in catcher
              ? await simulate(directory, catcher.mode, catcher.seed, MORE_SEEDS)
              : await runTest(directory, catcher);
            if (verdict.passed) {
              throw new Error(
                `Bug ${bug.id} is not caught: ${
                  commandOf(catcher)
                } passes, and so do the next seeds. `
                  + `Look for a seed: bun test/catalogue.ts --hunt ${bug.id}`,
              );
            }
            if ("mode" in catcher && verdict.seed !== catcher.seed) {
              moved.push(`Bug ${bug.id} has moved from seed ${catcher.seed} to ${verdict.seed}.`);
            }
          }
        });
      },
    );

    afterAll(() => {
      if (moved.length > 0) console.log(moved.join("\n"));
    });
  });
}
