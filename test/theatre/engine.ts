/**
 * Opens worlds: the simulation of the tests, with the algorithm of one variant of raft.ts, event by
 * event. A page that plants a bug evaluates this module's bundle with the variant.
 */
import { Cluster } from "../simulation/core.ts";
import { type Conditions } from "../simulation/core/conditions.ts";
import { Scene, type Steps } from "../simulation/core/scene.ts";
import { Violation } from "../simulation/judge.ts";
import { checkAct, perform } from "./acts.ts";
import type { Act, Engine, Instant, Script, Tell, Verdict, World } from "./state.ts";
import { namesIn, Viewer } from "./view.ts";

/**
 * Makes an engine. `takeRan` returns the lines of raft.ts that ran since its last call, if the
 * variant was built to tell them.
 */
export const makeEngine = (takeRan: () => readonly number[] = () => []): Engine => ({
  open: (script, tell) => new SimulatedWorld(script, tell, takeRan),
});

const ELECTION_TIMEOUT_MS = 1000;
/** Long enough to see an entry that is not durable yet, and to kill its server before it is. */
const SAVE_MS = 6;

/** The conditions of a world without faults: a network of 20 to 40 ms, so that flights are seen. */
const calm = (servers: number): Conditions => ({
  servers,
  spares: 0,
  changeEveryMs: Number.POSITIVE_INFINITY,
  electionTimeoutMs: ELECTION_TIMEOUT_MS,
  heartbeatMs: ELECTION_TIMEOUT_MS / 5,
  // One entry in a message, so that each is seen on its way.
  batchBytes: 30,
  windowBytes: 300,
  latencyMs: 20,
  jitterMs: 20,
  turnMs: 2,
  keepsOrder: true,
  drift: 0,
  loss: 0,
  duplication: 0,
  delay: 0,
  delayMs: 0,
  replay: 0,
  clogEveryMs: Number.POSITIVE_INFINITY,
  partitionEveryMs: Number.POSITIVE_INFINITY,
  killEveryMs: Number.POSITIVE_INFINITY,
  blackoutEveryMs: Number.POSITIVE_INFINITY,
  pauseEveryMs: Number.POSITIVE_INFINITY,
  transferEveryMs: Number.POSITIVE_INFINITY,
  killInTurn: 0,
  diskLoss: 0,
  wipes: false,
  slowSave: 0,
  slowSaveMs: 0,
  saveMs: SAVE_MS,
  downMs: 2 * ELECTION_TIMEOUT_MS,
  clients: 0,
  pipeline: 1,
  thinkMs: ELECTION_TIMEOUT_MS,
  reads: 0.3,
  snapshotBytes: 700,
  snapshotMs: 50,
  forgery: 0,
});

/** The same with faults, one every few election timeouts, and two clients that work. */
const chance = (servers: number): Conditions => ({
  ...calm(servers),
  keepsOrder: false,
  loss: 0.02,
  duplication: 0.02,
  delay: 0.02,
  delayMs: ELECTION_TIMEOUT_MS,
  clogEveryMs: 12 * ELECTION_TIMEOUT_MS,
  partitionEveryMs: 10 * ELECTION_TIMEOUT_MS,
  killEveryMs: 8 * ELECTION_TIMEOUT_MS,
  pauseEveryMs: 12 * ELECTION_TIMEOUT_MS,
  transferEveryMs: 20 * ELECTION_TIMEOUT_MS,
  diskLoss: 0.1,
  slowSave: 0.02,
  slowSaveMs: ELECTION_TIMEOUT_MS / 2,
  clients: 2,
});

function openScene({ world, seed, servers }: Opening, tell: Tell): Scene {
  if (world === "seed") return new Scene(seed, tell);
  if (!(servers >= 1 && servers <= 7)) {
    throw new Error(`Cannot simulate ${servers} servers. Choose 1 to 7.`);
  }
  return new Scene(seed, tell, world === "calm" ? calm(servers) : chance(servers));
}
type Opening = Omit<Script, "acts">;

class SimulatedWorld implements World {
  private readonly scene: Scene;
  private readonly cluster: Cluster;
  private readonly viewer: Viewer;
  /** The steps of a seed, until a visitor acts. */
  private steps: Steps<unknown> | undefined;
  private event = 0;
  private storyLength = 0;
  private verdict: Verdict | undefined;
  /** The act, if the last event was one. */
  private acted: Act | undefined;

  constructor(
    script: Opening,
    tell: Tell | undefined,
    private readonly takeRan: () => readonly number[],
  ) {
    takeRan();
    const count: Tell = (words, nowMs) => {
      this.storyLength += 1;
      tell?.(words, nowMs);
    };
    const { world } = script;
    this.scene = openScene(script, count);
    this.scene.flights.isWatched = true;
    this.cluster = new Cluster(this.scene);
    this.scene.isHostile = world !== "calm";
    this.scene.judge.isPatient = world === "calm";
    if (world !== "calm") this.cluster.planFaults();
    if (world === "seed") this.steps = this.cluster.run();
    this.viewer = new Viewer(this.cluster);
  }

  forward(): boolean {
    const { scene } = this;
    if (this.verdict) return false;
    this.takeRan(); // After a replay, what ran in it.
    this.acted = undefined;
    try {
      // A step without an effect, as when a stopped timer runs out, is not an event.
      do {
        if (!this.step()) return false;
      } while (!scene.occurred);
    } catch (error) {
      this.judge(error);
    }
    this.event += 1;
    return true;
  }

  private step(): boolean {
    const { scene, steps } = this;
    return steps ? !steps.next().done : scene.next();
  }

  act(act: Act): void {
    if (this.verdict) return;
    // From now on the checks of a seed's last phases would blame Raft for what the visitor does.
    checkAct(act, this.cluster);
    this.takeRan();
    this.scene.occurred = undefined;
    this.steps = undefined;
    try {
      perform(act, this.cluster);
    } catch (error) {
      this.judge(error);
    }
    this.acted = act;
    this.event += 1;
  }

  private judge(error: unknown): void {
    if (!(error instanceof Error)) throw error;
    this.scene.tell(() => error.message);
    const { names, occurred, judge: { committed } } = this.scene;
    const isRule = error instanceof Violation;
    // A server that breaks an invariant of its own is the one that the event was about.
    const own = occurred && "server" in occurred
      ? occurred.server
      : occurred?.kind === "message"
      ? occurred.flight.to
      : "";
    this.verdict = {
      promise: isRule ? error.rule : "A server that breaks an invariant stops",
      sentence: error.message,
      servers: isRule ? namesIn(error.message, names) : names.filter((name) => name === own),
      entries: isRule
        ? error.entries.map(({ index, term }) => ({
          index,
          term: term ?? committed[index - 1]?.term ?? 0,
        }))
        : [],
    };
  }

  view(): Instant {
    const { event, storyLength, verdict } = this;
    const ran = this.takeRan();
    return this.viewer.view({ event, storyLength, ran, verdict, act: this.acted });
  }
}
