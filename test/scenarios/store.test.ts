/**
 * Tests that clients of the key-value store get the right answers while its servers fail. The names
 * before a colon are those of MIT's distributed systems course (6.5840, the lab with the
 * fault-tolerant key-value service).
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { forSeeds } from "../support/random.ts";
import { slow } from "../support/thorough.ts";
import { linesOf } from "./journal.ts";
import { type Plan, serve, Service } from "./service.ts";
import { within } from "./stage.ts";

// A scenario takes a few seconds, but much longer on a busy machine.
setDefaultTimeout(120_000);

const snapshotBytes = 2000;
/** A longer log must have been replaced by a snapshot. */
const LOG_BYTES = 3 * snapshotBytes;

const serveAll = (seeds: number, plan: Plan) =>
  forSeeds(seeds, (_, seed) => {
    serve(seed, plan);
  });

/** Measures the sequential appends of one client, in simulated time. */
function expectSpeed(what: string, options: { snapshotBytes?: number }): Service {
  const service = new Service(1, 3, options);
  const { stage } = service;
  stage.simulation.syncMs = () => 1;
  stage.leader();
  const user = service.user("client");
  const words = linesOf(", w", 1000);
  const from = stage.simulation.now;
  stage.settle(user.append("x", words));
  // Two syncs take 2 of these milliseconds. An append waits for no heartbeat and no timer.
  within(`Milliseconds for ${what}`, (stage.simulation.now - from) / words.length, 10);
  expect(stage.settle(user.get("x"))).toBe(words.join(""));
  service.expectLinearizable();
  return service;
}

describe("the store", () => {
  test("basic: one client", () => serveAll(1, { clients: 1 }));

  test("speed: an append takes a few milliseconds", () => {
    expectSpeed("an append", {});
  });

  test("concurrent: five clients", () => serveAll(1, { clients: 5 }));
  test("unreliable: five clients on an unreliable network", () =>
    serveAll(2, { clients: 5, isUnreliable: true }));

  test("unreliable, one key: every append takes effect once, in its client's order", () => {
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

describe("the store with a partition", () => {
  /**
   * Returns a store with the leader and one follower on one side, all others on the other side, and
   * a client on each.
   */
  function partitioned(seed: number) {
    const service = new Service(seed, 5);
    const { stage } = service;
    const leader = stage.leader();
    const [follower = "", ...others] = stage.followers();
    const [minority, majority] = [
      service.user("minority's client"),
      service.user("majority's client"),
    ];
    stage.settle(minority.put("x", "before"));
    stage.settle(majority.put("y", "before"));
    stage.split([leader, follower, minority.name], [...others, majority.name]);
    return { service, stage, minority, majority };
  }

  test("one partition: the majority's client is served", () => {
    forSeeds(3, (_, seed) => {
      const { service, stage, majority } = partitioned(seed);
      stage.settle(majority.put("x", "meanwhile"));
      expect(stage.settle(majority.get("x"))).toBe("meanwhile");
      service.expectLinearizable();
    });
  });

  test("one partition: the minority's client is answered only after the partition heals", () => {
    forSeeds(3, (_, seed) => {
      const { service, stage, minority, majority } = partitioned(seed);
      let completed = 0;
      const count = () => void (completed += 1);
      const write = minority.put("y", "from the minority").then(count);
      const read = minority.get("x").then(count);
      stage.run(5000);
      expect(completed).toBe(0);
      stage.settle(majority.put("x", "meanwhile"));
      expect(stage.settle(majority.get("y"))).toBe("before");
      expect(completed).toBe(0);
      const from = stage.simulation.now;
      stage.heal();
      stage.settle(Promise.all([write, read]));
      within("Milliseconds to completion after a partition", stage.simulation.now - from, 3000);
      expect(stage.settle(majority.get("y"))).toBe("from the minority");
      expect(stage.settle(minority.get("x"))).toBe("meanwhile");
      service.expectLinearizable();
    });
  });

  test("many partitions, one client", () => serveAll(3, { clients: 1, isPartitioned: true }));
  slow("many partitions, many clients", () => serveAll(2, { clients: 5, isPartitioned: true }));
});

describe("the store with restarts", () => {
  const restarts = true;
  test("persist, one client", () => serveAll(2, { clients: 1, restarts }));
  slow("persist, concurrent", () => serveAll(2, { clients: 5, restarts }));
  slow(
    "persist, concurrent, unreliable",
    () => serveAll(2, { clients: 5, restarts, isUnreliable: true }),
  );
  slow("persist, partitions", () => serveAll(2, { clients: 5, restarts, isPartitioned: true }));
  slow(
    "persist, partitions, unreliable",
    () => serveAll(2, { clients: 5, restarts, isPartitioned: true, isUnreliable: true }),
  );
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

describe("the store with snapshots", () => {
  test("snapshot RPC: a slow server gets a snapshot, and never answers with old values", () => {
    forSeeds(3, (_, seed) => {
      const service = new Service(seed, 3, { snapshotBytes });
      const { stage } = service;
      const leader = stage.leader();
      const [other = "", lagging = ""] = stage.followers();
      const user = service.user("client");
      stage.settle(user.put("a", "old"));
      stage.split([leader, other, user.name], [lagging]);
      for (const key of linesOf("key", 50)) stage.settle(user.put(key, key));
      stage.settle(user.put("a", "new"));
      stage.run(1000);
      expect(stage.status(leader).snapshotIndex).toBeGreaterThan(stage.status(lagging).lastIndex);
      for (const name of [leader, other]) {
        expect(stage.status(name).logBytes).toBeLessThan(LOG_BYTES);
      }
      // Without this server there is no majority now, so it must get a snapshot.
      const traffic = stage.count();
      const early = service.userAt(lagging).get("a");
      stage.split([leader, lagging, user.name], [other]);
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

  test("snapshot size: log and snapshot stay as small as the state after many writes", () => {
    const service = new Service(1, 3, { snapshotBytes });
    const { stage } = service;
    const user = service.user("client");
    for (let i = 0; i < 200; i += 1) stage.settle(user.put("x", `value ${i}`));
    stage.run(1000);
    for (const name of stage.names) {
      const { snapshotIndex, logBytes } = stage.status(name);
      expect(snapshotIndex).toBeGreaterThan(100);
      within(`${name}'s log`, logBytes, LOG_BYTES);
      within(`${name}'s snapshot`, stage.server(name).node["core"].snapshot.size, 500);
    }
    service.expectLinearizable();
  });

  test("speed: an append takes a few milliseconds with snapshots, too", () => {
    const { stage } = expectSpeed("an append, with snapshots", { snapshotBytes });
    expect(stage.status(stage.leader()).snapshotIndex).toBeGreaterThan(0);
  });

  const restarts = true;
  test("recover, one client", () => serveAll(2, { clients: 1, restarts, snapshotBytes }));
  slow("recover, many clients", () => serveAll(1, { clients: 20, restarts, snapshotBytes }));
  test("unreliable", () => serveAll(2, { clients: 5, isUnreliable: true, snapshotBytes }));
  test("unreliable, recover", () =>
    serveAll(2, { clients: 5, restarts, isUnreliable: true, snapshotBytes }));
  slow(
    "unreliable, recover, partitions",
    () =>
      serveAll(2, { clients: 5, restarts, isUnreliable: true, isPartitioned: true, snapshotBytes }),
  );
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
