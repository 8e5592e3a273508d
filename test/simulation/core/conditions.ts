/**
 * Draws the faults of one seed. Each kind is on in some seeds and off in others, because a cluster
 * with all faults makes no progress, and some bugs appear only without faults.
 */
import { type Random } from "../../support/random.ts";

/** Chances are per message or per turn. `EveryMs` is the average time between two events. */
export type Conditions = {
  servers: number;
  /** Servers that are no founders and may join. */
  spares: number;
  changeEveryMs: number;
  electionTimeoutMs: number;
  heartbeatMs: number;
  batchBytes: number;
  windowBytes: number;
  latencyMs: number;
  jitterMs: number;
  turnMs: number;
  drift: number;
  /** Whether the messages of a link arrive in the order of sending. */
  keepsOrder: boolean;
  loss: number;
  duplication: number;
  delay: number;
  delayMs: number;
  replay: number;
  clogEveryMs: number;
  partitionEveryMs: number;
  killEveryMs: number;
  blackoutEveryMs: number;
  pauseEveryMs: number;
  transferEveryMs: number;
  killInTurn: number;
  diskLoss: number;
  /** Whether any number of disks may be lost, so that the cluster may end, or be founded again. */
  wipes: boolean;
  slowSave: number;
  slowSaveMs: number;
  /** How long every other save takes. */
  saveMs: number;
  downMs: number;
  clients: number;
  pipeline: number;
  thinkMs: number;
  reads: number;
  snapshotBytes: number;
  snapshotMs: number;
  /** The share of port probes that an attacker refuses. */
  forgery: number;
};

/** Draws the conditions of a seed. In one of ten all faults are on, in very few none. */
export function drawConditions(random: Random): Conditions {
  const between = (low: number, high: number) => low + (high - low) * random();
  const pick = (...list: number[]) => list[Math.floor(random() * list.length)] ?? 0;
  const mood = random();
  const share = mood < 0.03 ? 0 : mood < 0.13 ? 1 : between(0.3, 0.8);
  const chance = (highest: number) => random() < share ? highest * random() : 0;
  const every = (low: number, high: number) =>
    random() < share ? between(low, high) : Number.POSITIVE_INFINITY;
  /** Crashes are on more often, because they matter most. */
  const often = (low: number, high: number) =>
    share > 0 && random() < 0.9 ? between(low, high) : every(low, high);
  const T = pick(300, 400, 600, 1000);
  const batchBytes = pick(30, 100, 300, 1000);
  const wipes = random() < 0.1;
  return {
    servers: random() < 0.04 ? 1 : pick(2, 3, 3, 3, 3, 3, 4, 5, 5, 5, 6, 7),
    spares: pick(0, 1, 2, 2),
    changeEveryMs: every(2 * T, 15 * T),
    electionTimeoutMs: T,
    heartbeatMs: T / pick(3, 5, 8),
    batchBytes,
    windowBytes: batchBytes * pick(1, 3, 10),
    latencyMs: pick(0.1, 1, T / 50),
    jitterMs: pick(0.1, 2, T / 20, T / 5),
    turnMs: pick(0, 0.2, 2, 10),
    drift: random() < share ? 0.1 : 0,
    keepsOrder: false,
    loss: chance(0.3),
    duplication: chance(0.3),
    delay: chance(0.1),
    delayMs: pick(0.5, 2, 5) * T,
    replay: chance(0.1),
    clogEveryMs: every(2 * T, 10 * T),
    partitionEveryMs: every(3 * T, 15 * T),
    killEveryMs: often(3 * T, 20 * T),
    blackoutEveryMs: every(15 * T, 50 * T),
    pauseEveryMs: every(2 * T, 10 * T),
    transferEveryMs: every(2 * T, 10 * T),
    killInTurn: chance(0.01),
    diskLoss: wipes ? 0.5 : chance(0.5),
    wipes,
    slowSave: chance(0.1),
    slowSaveMs: pick(0.05, 0.5, 3) * T,
    saveMs: 0,
    downMs: pick(0.1, 1, 5) * T,
    clients: pick(1, 2, 3, 5),
    pipeline: pick(1, 2, 5),
    thinkMs: pick(0.05, 0.2, 0.5) * T,
    reads: pick(0.2, 0.5, 0.8),
    snapshotBytes: pick(200, 1000, 4000),
    snapshotMs: pick(0, 0.02, 0.5, 2) * T,
    forgery: chance(1),
  };
}
