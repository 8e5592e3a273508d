/**
 * Tests that clients of the key-value store get the right answers while its servers fail. Each
 * situation has the name that it has in MIT's distributed systems course (6.5840, the lab with the
 * fault-tolerant key-value service).
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { forSeeds } from "../support/random.ts";
import { slow } from "../support/thorough.ts";
import { linesOf } from "./journal.ts";
import { type Plan, serve, Service } from "./service.ts";
import { within } from "./stage.ts";

// No scenario takes long, but the machine may have much else to do.
setDefaultTimeout(120_000);

const snapshotBytes = 2000;
/** A log of more than this should have been replaced by a snapshot. */
const LOG_BYTES = 3 * snapshotBytes;

const serveAll = (seeds: number, plan: Plan) =>
  forSeeds(seeds, (_, seed) => {
    serve(seed, plan);
  });

/** Appends of one client, one after the other, in simulated time. */
function expectSpeed(what: string, options: { snapshotBytes?: number }): Service {
  const service = new Service(1, 3, options);
  const { stage } = service;
  stage.simulation.syncMs = () => 1;
  stage.leader();
  const user = service.user("client");
  const words = linesOf(", w", 1000);
  const from = stage.simulation.now;
  stage.settle(user.append("x", words));
  // Of these two are syncs, one after the other: an append waits for no heartbeat and no tick.
  within(`Milliseconds for ${what}`, (stage.simulation.now - from) / words.length, 10);
  expect(stage.settle(user.get("x"))).toBe(words.join(""));
  service.expectLinearizable();
  return service;
}

describe("the store", () => {
  test("basic", () => serveAll(1, { clients: 1 }));

  test("speed", () => {
    expectSpeed("an append", {});
  });

  test("concurrent", () => serveAll(1, { clients: 5 }));
  test("unreliable", () => serveAll(2, { clients: 5, isUnreliable: true }));

  test("unreliable, one key: every append is there once, in its client's order", () => {
    forSeeds(3, (_, seed) => {
      const service = new Service(seed, 3);
      const { stage } = service;
      stage.network = "unreliable";
      const names = linesOf("client", 5);
      const users = names.map((name) => service.user(name));
      const appends = users.map((user) => user.append("x", linesOf(`, ${user.name} word`, 10)));
      stage.settle(Promise.all(appends));
      const value = String(stage.settle(service.user("reader").get("x")));
      const words = value.split(", ").slice(1);
      expect(words).toHaveLength(50);
      for (const name of names) {
        expect(words.filter((word) => word.startsWith(name))).toEqual(linesOf(`${name} word`, 10));
      }
      service.expectLinearizable();
    });
  });
});

describe("the store, divided", () => {
  /** The leader and one follower on the one side, all others on the other, a client on each. */
  function divided(seed: number) {
    const service = new Service(seed, 5);
    const { stage } = service;
    const leader = stage.leader();
    const [friend = "", ...others] = stage.followers();
    const [few, many] = [service.user("few's client"), service.user("many's client")];
    stage.settle(few.put("x", "before"));
    stage.settle(many.put("y", "before"));
    stage.split([leader, friend, few.name], [...others, many.name]);
    return { service, stage, few, many };
  }

  test("one partition: progress in the majority", () => {
    forSeeds(3, (_, seed) => {
      const { service, stage, many } = divided(seed);
      stage.settle(many.put("x", "meanwhile"));
      expect(stage.settle(many.get("x"))).toBe("meanwhile");
      service.expectLinearizable();
    });
  });

  test("one partition: none in the minority, and completion after it heals", () => {
    forSeeds(3, (_, seed) => {
      const { service, stage, few, many } = divided(seed);
      let completed = 0;
      const count = () => void (completed += 1);
      const write = few.put("y", "from the few").then(count);
      const read = few.get("x").then(count);
      stage.run(5000);
      expect(completed).toBe(0);
      stage.settle(many.put("x", "meanwhile"));
      expect(stage.settle(many.get("y"))).toBe("before");
      expect(completed).toBe(0);
      const from = stage.simulation.now;
      stage.heal();
      stage.settle(Promise.all([write, read]));
      within("Milliseconds to completion after a partition", stage.simulation.now - from, 3000);
      expect(stage.settle(many.get("y"))).toBe("from the few");
      expect(stage.settle(few.get("x"))).toBe("meanwhile");
      service.expectLinearizable();
    });
  });

  test("many partitions, one client", () => serveAll(3, { clients: 1, isPartitioned: true }));
  slow("many partitions, many clients", () => serveAll(2, { clients: 5, isPartitioned: true }));
});

describe("the store, restarted", () => {
  const restarts = true;
  test("persist, one client", () => serveAll(2, { clients: 1, restarts }));
  slow("persist, concurrent", () => serveAll(2, { clients: 5, restarts }));
  test("persist, concurrent, unreliable", () =>
    serveAll(2, { clients: 5, restarts, isUnreliable: true }));
  slow("persist, partitions", () => serveAll(2, { clients: 5, restarts, isPartitioned: true }));
  test("persist, partitions, unreliable", () =>
    serveAll(2, { clients: 5, restarts, isPartitioned: true, isUnreliable: true }));
  slow("persist, partitions, unreliable, random keys", () =>
    serveAll(2, {
      clients: 15,
      servers: 7,
      restarts,
      isPartitioned: true,
      isUnreliable: true,
      isShared: true,
    }));
});

describe("the store, with snapshots", () => {
  test("snapshot RPC: who lags behind gets a snapshot, and serves nothing old", () => {
    forSeeds(3, (_, seed) => {
      const service = new Service(seed, 3, { snapshotBytes });
      const { stage } = service;
      const leader = stage.leader();
      const [other = "", behind = ""] = stage.followers();
      const user = service.user("client");
      stage.settle(user.put("a", "old"));
      stage.split([leader, other, user.name], [behind]);
      for (const key of linesOf("key", 50)) stage.settle(user.put(key, key));
      stage.settle(user.put("a", "new"));
      stage.run(1000);
      expect(stage.status(leader).snapshotIndex).toBeGreaterThan(stage.status(behind).lastIndex);
      for (const name of [leader, other]) {
        expect(stage.status(name).logBytes).toBeLessThan(LOG_BYTES);
      }
      // Now it is needed: without it there is no majority.
      const traffic = stage.count();
      const early = service.userAt(behind).get("a");
      stage.split([leader, behind, user.name], [other]);
      expect(stage.settle(early)).toBe("new");
      stage.settle(user.put("b", "later"));
      expect(stage.settle(user.get("key 1"))).toBe("key 1");
      expect(traffic.snapshotChunks).toBeGreaterThan(0);
      stage.heal();
      for (const name of stage.names) {
        expect(stage.settle(service.userAt(name).get("a"))).toBe("new");
        expect(stage.settle(service.userAt(name).get("b"))).toBe("later");
        expect(stage.settle(service.userAt(name).get("key 50"))).toBe("key 50");
      }
      service.expectLinearizable();
    });
  });

  test("snapshot size: as small as the state, however much was written", () => {
    const service = new Service(1, 3, { snapshotBytes });
    const { stage } = service;
    const user = service.user("client");
    for (let i = 0; i < 200; i += 1) stage.settle(user.put("x", `value ${i}`));
    stage.run(1000);
    for (const name of stage.names) {
      const { snapshotIndex, logBytes } = stage.status(name);
      expect(snapshotIndex).toBeGreaterThan(100);
      within(`${name}'s log`, logBytes, LOG_BYTES);
      within(`${name}'s snapshot`, stage.life(name).node["core"].snapshot.size, 500);
    }
    service.expectLinearizable();
  });

  test("speed", () => {
    const { stage } = expectSpeed("an append, with snapshots", { snapshotBytes });
    expect(stage.status(stage.leader()).snapshotIndex).toBeGreaterThan(0);
  });

  const restarts = true;
  test("recover, one client", () => serveAll(2, { clients: 1, restarts, snapshotBytes }));
  slow("recover, many clients", () => serveAll(1, { clients: 20, restarts, snapshotBytes }));
  test("unreliable", () => serveAll(2, { clients: 5, isUnreliable: true, snapshotBytes }));
  test("unreliable, recover", () =>
    serveAll(2, { clients: 5, restarts, isUnreliable: true, snapshotBytes }));
  test("unreliable, recover, partitions", () =>
    serveAll(2, { clients: 5, restarts, isUnreliable: true, isPartitioned: true, snapshotBytes }));
  slow("unreliable, recover, partitions, random keys", () =>
    serveAll(2, {
      clients: 15,
      servers: 7,
      restarts,
      isUnreliable: true,
      isPartitioned: true,
      isShared: true,
      snapshotBytes,
    }));
});
