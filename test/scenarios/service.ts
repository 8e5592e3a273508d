/**
 * Runs a key-value store with users, and checks that a single store could have given the answers.
 */
import { expect } from "bun:test";
import { type Client, KeyValues, KeyValueStore } from "../../raft.ts";
import { type Call, perform } from "../simulation/full/workload.ts";
import { checkLinearizable } from "../simulation/linearizability.ts";
import { linesOf } from "./journal.ts";
import { drawFrom, Stage } from "./stage.ts";

type Arguments = Pick<Call, "what" | "key"> & Partial<Pick<Call, "value" | "expected">>;
type Answer = Call["result"];

/** A user of the store, with one call at a time. */
export class User {
  readonly store: KeyValues;
  /** The value that this user last saw or wrote for each key. */
  private readonly known = new Map<string, string | undefined>();

  constructor(
    readonly name: string,
    via: Pick<Client, "propose" | "read">,
    private readonly history: Call[],
    private readonly nextInstant: () => number,
  ) {
    this.store = new KeyValues(via);
  }

  /** Calls the store, and records the call's start, end and result in the history. */
  async call({ what, key, value, expected }: Arguments): Promise<Answer> {
    const call: Call = {
      who: this.name,
      what,
      key,
      value,
      expected,
      invoked: this.nextInstant(),
      returned: Number.POSITIVE_INFINITY,
      result: undefined,
    };
    this.history.push(call);
    const result = await perform(this.store, call);
    Object.assign(call, { result, returned: this.nextInstant() });
    if (what === "get") this.known.set(key, result as string | undefined);
    else if (result === true) this.known.set(key, value);
    return result;
  }

  put(key: string, value: string): Promise<Answer> {
    return this.call({ what: "put", key, value });
  }

  get(key: string): Promise<Answer> {
    return this.call({ what: "get", key });
  }

  /** Replaces the value that this user last saw or wrote. */
  replace(key: string, value: string): Promise<Answer> {
    return this.call({ what: "cas", key, value, expected: this.known.get(key) });
  }

  /** Appends words to a value while other users may append to it, too. */
  async append(key: string, words: readonly string[]): Promise<void> {
    for (const word of words) {
      while (!(await this.replace(key, (this.known.get(key) ?? "") + word))) await this.get(key);
    }
  }
}

export class Service {
  readonly stage: Stage<KeyValueStore>;
  readonly history: Call[] = [];
  private instants = 0;

  constructor(seed: number, size: number, options: { snapshotBytes?: number } = {}) {
    this.stage = new Stage(seed, size, () => new KeyValueStore(), options);
  }

  /** Returns a user on a machine with this name, whose calls have no short timeout. */
  user(name: string): User {
    return this.userVia(name, this.stage.client(name));
  }

  /** Returns a user in the program of a server. */
  userAt(server: string): User {
    return this.userVia(`at ${server}`, this.stage.server(server).node);
  }

  private userVia(name: string, via: Pick<Client, "propose" | "read">): User {
    return new User(name, via, this.history, () => this.instants += 1);
  }

  /** Reads, writes and replaces values until `isOver`. */
  async work(user: User, keys: readonly string[], isOver: () => boolean): Promise<void> {
    const { random, simulation } = this.stage;
    for (let i = 1; !isOver(); i += 1) {
      const { promise, resolve } = Promise.withResolvers<void>();
      simulation.plan(40 * random(), resolve);
      await promise;
      const [key, chance, value] = [drawFrom(random, keys), random(), `${user.name}, ${i}`];
      if (chance < 0.4) await user.get(key);
      else if (chance < 0.7) await user.put(key, value);
      else await user.replace(key, value);
    }
  }

  expectLinearizable(): void {
    expect(checkLinearizable(this.history)).toBeUndefined();
  }

  get answered(): number {
    return this.history.filter(({ returned }) => Number.isFinite(returned)).length;
  }
}

export type Plan = {
  clients: number;
  servers?: number;
  isUnreliable?: boolean;
  isPartitioned?: boolean;
  restarts?: boolean;
  isShared?: boolean;
  snapshotBytes?: number;
};

const ROUNDS = 3;
const CALM_MS = 2000;
/** Partitioned servers need time for elections. */
const DIVIDED_MS = 5000;

/** Plays rounds: clients use the store, each with its own key or all with the same keys. */
export function serve(seed: number, plan: Plan): void {
  const { clients, servers = 5, isUnreliable, isShared, snapshotBytes } = plan;
  const service = new Service(seed, servers, snapshotBytes === undefined ? {} : { snapshotBytes });
  const { stage } = service;
  if (isUnreliable) stage.network = "unreliable";
  stage.leader();
  const users = linesOf("client", clients).map((name) => service.user(name));
  const keys = users.map(({ name }) => `key of ${name}`);
  for (let round = 0; round < ROUNDS; round += 1) {
    playRound(
      service,
      plan,
      (isOver) =>
        users.map((user, i) => service.work(user, isShared ? keys : keys.slice(i, i + 1), isOver)),
    );
    const reader = service.userAt(stage.leader());
    for (const key of keys) stage.settle(reader.get(key));
  }
  service.expectLinearizable();
  expectUsed(service, plan);
}

/**
 * Plays a round. The servers are partitioned again and again if the plan says so, while clients
 * work. At the end the partition heals, or all servers restart, and every call must be answered.
 */
function playRound(
  { stage }: Service,
  { isPartitioned, restarts }: Plan,
  begin: (isOver: () => boolean) => Promise<void>[],
): void {
  let isOver = false;
  const ended = begin(() => isOver);
  const endsAt = stage.simulation.now + (isPartitioned ? DIVIDED_MS : CALM_MS);
  while (stage.simulation.now < endsAt) {
    if (isPartitioned) divide(stage);
    stage.run(Math.min(endsAt - stage.simulation.now, 1000 + 200 * stage.random()));
  }
  isOver = true;
  stage.heal();
  if (restarts) stage.restart(...stage.names);
  stage.settle(Promise.all(ended));
}

/** Partitions the servers at random into two sides. Clients reach both. */
function divide(stage: Stage<KeyValueStore>): void {
  const isLeft = new Map(stage.names.map((name) => [name, stage.random() < 0.5]));
  stage.split(
    stage.names.filter((name) => isLeft.get(name)),
    stage.names.filter((name) => !isLeft.get(name)),
  );
}

/** Expects that the run proves something: it has calls, and snapshots if the plan has them. */
function expectUsed({ stage, answered }: Service, plan: Plan): void {
  const { clients, isPartitioned, snapshotBytes } = plan;
  expect(answered).toBeGreaterThan((isPartitioned ? 10 : 30) * clients);
  stage.run(1000); // A snapshot that is being written is finished by then.
  for (const name of stage.names) {
    const { logBytes, snapshotIndex } = stage.status(name);
    if (snapshotBytes === undefined) expect(snapshotIndex).toBe(0);
    else {
      expect(snapshotIndex).toBeGreaterThan(0);
      expect(logBytes).toBeLessThan(4 * snapshotBytes);
    }
  }
}
