/**
 * Draws the faults of one seed. Each kind is on in some seeds and off in others, because a cluster
 * with all faults makes no progress, and some bugs appear only without faults.
 */
import { between, pick, type Random } from "../../support/random.ts";

/**
 * Chances are per datagram or disk operation. `EveryMs` is the average time between two events.
 */
export type Hostility = {
  servers: number;
  /** Servers that are no founders and may join. */
  spares: number;
  changeEveryMs: number;
  clients: number;
  electionTimeoutMs: number;
  heartbeatMs: number;
  latencyMs: number;
  jitterMs: number;
  turnMs: number;
  receiveBufferBytes: number;
  drift: number;
  loss: number;
  duplication: number;
  spike: number;
  spikeMs: number;
  replay: number;
  flip: number;
  clogEveryMs: number;
  partitionEveryMs: number;
  killEveryMs: number;
  powerCutEveryMs: number;
  blackoutEveryMs: number;
  pauseEveryMs: number;
  transferEveryMs: number;
  stopEveryMs: number;
  killAtOperation: number;
  killAtDatagram: number;
  diskFault: number;
  slowSync: number;
  slowSyncMs: number;
  bitFlip: number;
  diskLoss: number;
  /** Whether any number of disks may be lost, so that the cluster may end, or be founded again. */
  wipes: boolean;
  downMs: number;
  operationsUnderWay: number;
  thinkMs: number;
  timeoutMs: number;
  snapshotBytes: number;
  /** The share of port probes that an attacker refuses. */
  forgery: number;
  datagramBytes: number;
  /** The bytes that are added to each value, so that some messages travel in parts. */
  padding: number;
  /** The chance that an attacker answers a datagram with replayed or forged ones. */
  attack: number;
  /** The chance that a server is killed when a packet of a handshake leaves for it or leaves it. */
  killAtHandshake: number;
  /** How often a server gets the next step of a new secret. */
  rotateEveryMs: number;
  /** How often a channel has used up its packets, and is renewed. */
  renewEveryMs: number;
  /** How often the holder of a client's key says what it may not. */
  imposeEveryMs: number;
};

/** Draws the hostility of a seed. In one of ten all faults are on, in very few none. */
export function drawHostility(random: Random): Hostility {
  const mood = random();
  const share = mood < 0.03 ? 0 : mood < 0.13 ? 1 : between(random, 0.3, 0.8);
  const isOn = () => random() < share;
  const chance = (highest: number) => isOn() ? highest * random() : 0;
  const every = (low: number, high: number) =>
    isOn() ? between(random, low, high) : Number.POSITIVE_INFINITY;
  /** Crashes are on more often, because they matter most. */
  const often = (low: number, high: number) =>
    share > 0 && random() < 0.9 ? between(random, low, high) : every(low, high);
  const T = pick(random, [200, 300, 500, 1000]);
  const wipes = random() < 0.1;
  return {
    servers: random() < 0.04 ? 1 : pick(random, [2, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7]),
    spares: pick(random, [0, 1, 2, 2]),
    changeEveryMs: every(2 * T, 15 * T),
    clients: pick(random, [2, 3, 4]),
    electionTimeoutMs: T,
    heartbeatMs: T / pick(random, [3, 5, 8]),
    latencyMs: pick(random, [0.1, 1, T / 50]),
    jitterMs: pick(random, [0.1, 2, T / 20]),
    turnMs: pick(random, [0, 0.2, 2]),
    receiveBufferBytes: pick(random, [20_000, 200_000, 4 << 20]),
    drift: isOn() ? 0.1 : 0,
    loss: chance(0.3),
    duplication: chance(0.3),
    spike: chance(0.1),
    spikeMs: between(random, T / 10, 4 * T),
    replay: chance(0.02),
    flip: chance(0.01),
    clogEveryMs: every(2 * T, 10 * T),
    partitionEveryMs: every(5 * T, 20 * T),
    killEveryMs: often(4 * T, 20 * T),
    powerCutEveryMs: every(4 * T, 30 * T),
    blackoutEveryMs: every(15 * T, 60 * T),
    pauseEveryMs: every(4 * T, 20 * T),
    transferEveryMs: every(4 * T, 20 * T),
    stopEveryMs: every(6 * T, 30 * T),
    killAtOperation: chance(0.003),
    killAtDatagram: chance(0.001),
    diskFault: chance(0.003),
    slowSync: chance(0.1),
    slowSyncMs: between(random, 1, 2 * T),
    bitFlip: chance(0.3),
    diskLoss: wipes ? 0.4 : chance(0.3),
    wipes,
    downMs: pick(random, [T / 2, 3 * T, 10 * T]),
    operationsUnderWay: pick(random, [1, 2, 4]),
    thinkMs: pick(random, [100, 300, 1000]),
    timeoutMs: pick(random, [T, 3 * T, 10 * T]),
    snapshotBytes: pick(random, [200, 500, 1000, 2000]),
    forgery: chance(1),
    datagramBytes: pick(random, [1400, 1400, 1000]),
    padding: pick(random, [0, 0, 0, 100, 1500]),
    attack: chance(0.1),
    killAtHandshake: chance(0.02),
    rotateEveryMs: every(T, 10 * T),
    renewEveryMs: every(T, 10 * T),
    imposeEveryMs: every(T, 10 * T),
  };
}
