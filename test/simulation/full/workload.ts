/** Runs clients with short timeouts, and records the history of their calls. */
import { Client, clientKey, KeyValues, type Node, RaftError } from "../../../raft.ts";
import { carelessCaller } from "../../support/careless.ts";
import { pick, type Random } from "../../support/random.ts";
import { type Machine, type Simulation } from "../../support/world.ts";
import { type Report } from "../report.ts";
import { type Channels } from "./channels.ts";
import { type Hostility } from "./hostility.ts";
import { markReads } from "./marks.ts";
import { type Secrets } from "./secrets.ts";

/** A call with the instants of its start and end. An unanswered call never ends. */
export type Call = {
  who: string;
  what: "put" | "get" | "delete" | "cas";
  key: string;
  value: string | undefined;
  expected: string | undefined;
  invoked: number;
  returned: number;
  result: string | boolean | undefined;
};

/** The client or server of a call, and whether its program still runs. */
type Through = { who: string; store: KeyValues; isAlive: () => boolean };

/** New keys replace the old ones after a while, so that the history of a key stays short. */
const KEYS_LAST_MS = 4_000;
const bytes = (text: string | undefined) => text === undefined ? undefined : Buffer.from(text);

export class Workload {
  readonly history: Call[] = [];
  /** The first error that a client must never get. */
  broken: unknown;
  /** The index of the newest applied entry with commands. */
  newestApplied = 0;
  private instants = 0;
  private written = 0;
  private isOver = false;
  /** The running clients by name. */
  readonly clients = new Map<string, Client>();
  private readonly lastSeen = new Map<string, string | undefined>();

  constructor(
    private readonly simulation: Simulation,
    readonly random: Random,
    private readonly hostility: Hostility,
    private readonly report: Report,
    private readonly cluster: { readonly secrets: Secrets; readonly channels: Channels },
    private readonly tell: (who: string, line: () => string) => void,
  ) {}

  /** Stops new calls. */
  end(): void {
    this.isOver = true;
  }

  /** Runs a client on its own machine. The client is sometimes closed or killed, and restarted. */
  async beClient(name: string, servers: readonly string[]): Promise<void> {
    const { simulation, random, hostility } = this;
    const machine = simulation.machine(name);
    while (!this.isOver) {
      const client = await this.connect(machine, servers, hostility.timeoutMs);
      const { program } = machine;
      this.clients.set(name, client);
      const isAlive = () => machine.program === program;
      const through = { who: name, store: this.storeOf(client), isAlive };
      for (let i = 0; i < hostility.operationsUnderWay; i += 1) {
        void this.work(() => through, isAlive);
      }
      await this.sleep(hostility.electionTimeoutMs * 60 * random());
      if (random() < 0.5) client.close();
      machine.kill();
      this.clients.delete(name);
    }
  }

  /** Starts a client with the secret, or with a key of its own. */
  connect(machine: Machine, servers: readonly string[], timeoutMs: number): Promise<Client> {
    const { random, cluster: { secrets, channels } } = this;
    const world = machine.boot();
    channels.watch(machine, world);
    const secret = secrets.ofClient(random);
    const { name } = machine;
    const keys = secret.split("\n").map((line) => clientKey(line, "raft", name)).join("\n");
    return Client.connect({
      servers: servers.map((server) => `${server}=${server}:1`),
      timeoutMs,
      world,
      ...random() < 0.5 ? { clientKey: keys } : { secret, name: pick(random, ["operator", name]) },
    });
  }

  private storeOf(via: Pick<Client, "propose" | "read">): KeyValues {
    return new KeyValues(markReads(carelessCaller(via), () => this.newestApplied));
  }

  /** Makes calls on the servers themselves. */
  beServers(choose: () => { name: string; node: Node; isAlive: () => boolean } | undefined): void {
    void this.work(() => {
      const chosen = choose();
      return chosen
        && { who: chosen.name, store: this.storeOf(chosen.node), isAlive: chosen.isAlive };
    }, () => true);
  }

  private async work(choose: () => Through | undefined, goesOn: () => boolean): Promise<void> {
    const { hostility, random } = this;
    for (;;) {
      await this.sleep(-Math.log(1 - random()) * hostility.thinkMs);
      if (this.isOver || !goesOn()) return;
      const through = choose();
      if (!through) continue;
      // Commands of one turn are sent and answered together.
      const calls = random() < 0.8 ? 1 : 2 + Math.floor(4 * random());
      const all = Promise.all(Array.from({ length: calls }, () => this.call(through)));
      // A killed program never answers.
      await Promise.race([all, this.sleep(2 * hostility.timeoutMs)]);
    }
  }

  private sleep(ms: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.simulation.plan(ms, resolve);
    return promise;
  }

  private draw(who: string): Call {
    const { random, simulation } = this;
    const chance = random();
    const what = chance < 0.35 ? "get" : chance < 0.7 ? "put" : chance < 0.92 ? "cas" : "delete";
    const key = `${pick(random, ["x", "y"])}${Math.floor(simulation.now / KEYS_LAST_MS)}`;
    const writes = what === "put" || what === "cas";
    const value = writes ? `${this.written += 1}${"-".repeat(this.hostility.padding)}` : undefined;
    const expected = what === "cas" ? this.lastSeen.get(key) : undefined;
    return {
      who,
      what,
      key,
      value,
      expected,
      invoked: this.instants += 1,
      returned: Number.POSITIVE_INFINITY,
      result: undefined,
    };
  }

  private async call({ who, store, isAlive }: Through): Promise<void> {
    const call = this.draw(who);
    this.history.push(call);
    this.tell(who, () => `asks: ${tellCall(call)}`);
    try {
      const result = await perform(store, call);
      if (!isAlive()) return;
      Object.assign(call, { result, returned: this.instants += 1 });
      if (call.what === "get") this.lastSeen.set(call.key, call.result as string | undefined);
      else if (result !== false) this.lastSeen.set(call.key, call.value);
      this.report.operations += 1;
      this.tell(
        who,
        () => `is answered: ${tellCall(call)} gives ${String(result).replace(/-+$/, "-")}`,
      );
    } catch (error) {
      if (isAlive()) this.onFailure(call, error);
    }
  }

  private onFailure(call: Call, error: unknown): void {
    // No command is too large, and too few sessions are opened for one to be dropped.
    if (!(error instanceof RaftError) || error.code === "refused") {
      this.broken ??= error;
      return;
    }
    this.tell(call.who, () => `gives up: ${tellCall(call)}: ${error.code}`);
    this.report.unknown += 1;
    // A command may still be applied. A read, or a command without a session, has no effect.
    if (error.code !== "outcomeUnknown") this.history.splice(this.history.indexOf(call), 1);
  }
}

/** Makes a call. Resolves to its result. */
export async function perform(
  store: KeyValues,
  { what, key, value = "", expected }: Call,
): Promise<Call["result"]> {
  const at = Buffer.from(key);
  if (what === "get") {
    const found = await store.get(at);
    return found && Buffer.from(found).toString();
  }
  if (what === "delete") return store.delete(at);
  if (what === "cas") return store.cas(at, bytes(expected), Buffer.from(value));
  await store.put(at, Buffer.from(value));
  return true;
}

export function tellCall({ what, key, value, expected }: Call): string {
  const [before = "none", after] = [expected, value].map((text) => text?.replace(/-+$/, "-"));
  if (what === "cas") return `cas ${key} ${before} -> ${after}`;
  return after === undefined ? `${what} ${key}` : `${what} ${key} ${after}`;
}
