/**
 * Tests that the secret of a running cluster can be replaced, line by line, and that no request
 * fails meanwhile.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { type Client, clientKey, KeyValues, type Name, type Node } from "../../raft.ts";
import { THREE } from "../support/core.ts";
import { World } from "../support/nodes.ts";
import { forSeeds, shuffle } from "../support/random.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { SECRET } from "../support/wire.ts";

setDefaultTimeout(PATIENCE_MS);

const NEXT = "abracadabra, and forty more thieves keep out";
const BOTH = `${NEXT}\n${SECRET}`;
const STEPS = [`${SECRET}\n${NEXT}`, BOTH, NEXT];
/** The longest time that one write may take, in simulated milliseconds. */
const PAUSE_MS = 300;

const put = (via: Pick<Node, "propose" | "read">, key: number) =>
  new KeyValues(via).put(Buffer.from(`${key}`), Buffer.from("value"));

/** Writes again and again. Records how long each write took, and the errors. */
function load(world: World, via: Client | Node) {
  const [tookMs, errors]: [number[], unknown[]] = [[], []];
  let isOver = false;
  const work = async () => {
    for (let key = 0; !isOver; key += 1) {
      const { now } = world.simulation;
      await put(via, key).catch((error: unknown) => errors.push(error));
      tookMs.push(world.simulation.now - now);
      await new Promise<void>((resolve) => world.simulation.plan(5, resolve));
    }
  };
  const working = work();
  return {
    tookMs,
    errors,
    stop() {
      isOver = true;
      world.simulation.settle(working);
    },
  };
}

const statusOf = (world: World, name: Name) => world.at(name).status();

describe("a secret that is replaced in three steps, each on one server after the other", () => {
  test("fails no write, delays none for long, and causes no election", () => {
    forSeeds(5, (random) => {
      const world = new World().found();
      const { simulation } = world;
      const servers = THREE.map((name) => `${name}=${name}:1`);
      const [term, leader = ""] = [statusOf(world, "a").term, world.leader()];
      const follower = THREE.find((name) => name !== leader) ?? "";
      const loads = [world.at(leader), world.at(follower)].map((via) => load(world, via));
      for (const secret of STEPS) {
        for (const name of shuffle(random, THREE)) {
          world.at(name).setSecret(secret);
          simulation.run(300 * random());
        }
        // Clients get the new line once all servers accept it.
        const client = world.client({
          servers,
          secret: secret === NEXT ? NEXT : BOTH,
          world: simulation.machine(`client ${STEPS.indexOf(secret)}`).boot(),
        });
        if (loads.length === 2) loads.push(load(world, client));
        else simulation.settle(put(client, 7));
      }
      simulation.run(1000);
      for (const { stop, errors, tookMs } of loads) {
        stop();
        expect(errors).toEqual([]);
        expect(tookMs.length).toBeGreaterThan(50);
        expect(Math.max(...tookMs)).toBeLessThan(PAUSE_MS);
      }
      expect(statusOf(world, leader)).toMatchObject({ role: "Leader", term });
    });
  });

  test("shuts a client with only the old line out at the last step, and not before", () => {
    const world = new World().found(["a"]);
    const { simulation } = world;
    const client = world.client({ timeoutMs: 1000 });
    for (const [i, secret] of STEPS.entries()) {
      world.at("a").setSecret(secret);
      simulation.run(500); // After a second without an answer it would make another channel first.
      const written = put(client, i);
      if (secret !== NEXT) simulation.settle(written);
      else expect(world.failure(written).code).toBe("outcomeUnknown");
    }
    expect(world.failure(client.inspect("a")).code).toBe("timeout");
    expect(statusOf(world, "a").dropped["unauthenticated"]).toBeGreaterThan(0);
    client.close();
    const { unauthenticatedMs } = statusOf(world, "a");
    expect(unauthenticatedMs).toBeWithin(0, 1000);
    simulation.run(5000);
    expect(statusOf(world, "a").unauthenticatedMs).toBe((unauthenticatedMs ?? 0) + 5000);
    simulation.settle(put(world.client({ secret: NEXT }), 9));
  });

  test("shuts a server with only the old line out at the last step, until it has the new one", () => {
    const world = new World().found();
    const { simulation } = world;
    const leader = world.leader() ?? "";
    const [late = "", other = ""] = THREE.filter((name) => name !== leader);
    for (const secret of STEPS) {
      for (const name of [leader, other]) world.at(name).setSecret(secret);
    }
    simulation.settle(put(world.at(leader), 1));
    simulation.run(5000);
    expect(statusOf(world, late)).toMatchObject({ leader: null });
    world.at(late).setSecret(NEXT);
    world.until(() => statusOf(world, late).leader !== null);
    world.until(() => statusOf(world, late).lastIndex === statusOf(world, leader).lastIndex);
  });
});

describe("the key of a client", () => {
  test("may have two lines, and the second one is tried if the first one opens nothing", () => {
    const world = new World().found();
    const { simulation } = world;
    const keys = [SECRET, NEXT].map((secret) => clientKey(secret, "raft", "alice"));
    const servers = THREE.map((name) => `${name}=${name}:1`);
    const client = world.client({ servers, clientKey: `${keys.join("\n")}\n` });
    const { stop, errors, tookMs } = load(world, client);
    simulation.run(500);
    expect(tookMs.length).toBeGreaterThan(20);
    for (const secret of STEPS) {
      for (const name of THREE) world.at(name).setSecret(secret);
      simulation.run(200);
    }
    simulation.run(1500);
    const changed = tookMs.length;
    simulation.run(500);
    stop();
    expect(errors).toEqual([]);
    expect(tookMs.length).toBeGreaterThan(changed + 20);
    // Only the first request after the last step has to wait for the second line.
    const slow = tookMs.filter((ms) => ms > PAUSE_MS);
    expect(slow).toHaveLength(1);
    expect(slow[0]).toBeLessThan(1500);
  });

  test("is of one secret: with a line of another one it opens nothing", () => {
    const world = new World().found(["a"]);
    const stranger = world.client({ clientKey: clientKey(NEXT, "raft", "alice"), timeoutMs: 500 });
    expect(world.failure(put(stranger, 1)).code).toBe("timeout");
  });
});
