/**
 * Tests what an operator does to a cluster of real processes in use: restarts, changes of the
 * members, and a new server that needs a large snapshot.
 *
 *   bun test/operations.ts [--only TEXT]    all parts, or those with TEXT in their titles
 *
 * A client writes one value after another meanwhile. Every acknowledged value must be in the store
 * at the end. The report has the longest time between two acknowledgements.
 */
import { mkdirSync } from "node:fs";
import path from "node:path";
import { Client, KeyValues, RaftError } from "../raft.ts";
import { readFlags } from "./support/flags.ts";
import {
  bytes,
  endAll,
  eventually,
  freePorts,
  Program,
  temporaryDirectory,
  text,
} from "./support/processes.ts";

/** A cluster whose servers join and leave. A server's name is its address. */
class Fleet {
  readonly directory = temporaryDirectory();
  readonly cluster = `operations-${crypto.randomUUID().slice(0, 8)}`;
  readonly programs = new Map<string, Program>();
  /** The servers that clients know: all that were ever started. */
  readonly known: string[] = [];

  constructor(private readonly timing: readonly string[] = []) {}

  get running(): string[] {
    return [...this.programs].filter(([, { isRunning }]) => isRunning).map(([name]) => name);
  }

  /**
   * Starts a server, which founds the cluster if it is one of `founders`, and joins it otherwise.
   */
  start(name: string, founders: readonly string[]): Program {
    const [host = "", port = ""] = name.split(":");
    const others = founders.filter((other) => other !== name);
    const peers = others.length > 0 ? ["--peers", others.join(",")] : [];
    const join = founders.includes(name) ? [] : ["--join"];
    const data = path.join(this.directory, port);
    mkdirSync(this.directory, { recursive: true });
    const program = new Program([
      "--host",
      host,
      "--port",
      port,
      "--data",
      data,
      "--cluster",
      this.cluster,
      ...peers,
      ...join,
      ...this.timing,
    ]);
    this.programs.set(name, program);
    if (!this.known.includes(name)) this.known.push(name);
    return program;
  }

  connect(timeoutMs = 30_000): Promise<Client> {
    return Client.connect({ servers: this.known, cluster: this.cluster, timeoutMs });
  }

  /** Waits until all running servers follow one leader, and returns its name. */
  leader(): Promise<string> {
    return eventually("all follow one leader", async () => {
      const client = await this.connect(1000);
      const all = await Promise.all(
        this.running.map((name) => client.inspect(name).catch(() => undefined)),
      );
      client.close();
      const leads = all.find((status) => status?.role === "Leader");
      return leads && all.every((status) => status?.leader === leads.name) ? leads.name : undefined;
    }, 60_000);
  }

  /** Stops a server by SIGTERM, and waits for its end. */
  async stop(name: string): Promise<void> {
    this.programs.get(name)?.signal("SIGTERM");
    await this.programs.get(name)?.exited;
  }
}

/** Writes one value after another, and records each acknowledged value and its time. */
class Writer {
  private readonly acknowledged = new Map<string, string>();
  private readonly instants: number[] = [];
  readonly failures: string[] = [];
  private isDone = false;
  private readonly work: Promise<void>;

  private constructor(private readonly client: Client) {
    this.work = this.write();
  }

  static async start(fleet: Fleet): Promise<Writer> {
    return new Writer(await fleet.connect());
  }

  private async write(): Promise<void> {
    const store = new KeyValues(this.client);
    for (let n = 0; !this.isDone; n += 1) {
      const [key, value] = [`key ${n % 1000}`, `${n}`];
      try {
        await store.put(bytes(key), bytes(value));
        this.acknowledged.set(key, value);
        this.instants.push(performance.now());
      } catch (error) {
        if (!(error instanceof RaftError)) throw error;
        this.failures.push(error.message);
        this.acknowledged.delete(key); // The outcome is unknown.
      }
    }
  }

  /** Returns the longest time without an acknowledgement since `since`. */
  gap(since: number): number {
    const instants = [since, ...this.instants.filter((at) => at > since), performance.now()];
    return Math.max(...instants.map((at, i) => at - (instants[i - 1] ?? at)));
  }

  get count(): number {
    return this.instants.length;
  }

  /** Returns the percentiles of the times between two acknowledgements since `since`. */
  latency(since: number): string {
    const instants = this.instants.filter((at) => at > since);
    const times = instants.map((at, i) => at - (instants[i - 1] ?? at)).slice(1)
      .sort((a, b) => a - b);
    const at = (share: number) =>
      (times[Math.floor(share * times.length)] ?? Number.NaN).toFixed(2);
    return `p50 ${at(0.5)} ms, p99 ${at(0.99)} ms`;
  }

  /** Stops writing, and reports how many acknowledged values are lost. */
  async end(): Promise<string> {
    this.isDone = true;
    await this.work;
    const store = new KeyValues(this.client);
    const lost: string[] = [];
    for (const [key, value] of this.acknowledged) {
      if (text(await store.get(bytes(key))) !== value) lost.push(key);
    }
    this.client.close();
    const lines = [
      `${this.count} writes acknowledged, ${this.failures.length} failed, `
      + `${lost.length} lost`,
      ...this.failures.slice(0, 3),
    ];
    if (lost.length + this.failures.length > 0) process.exitCode = 1;
    return lines.join("\n  ");
  }
}

const names = async (count: number) => (await freePorts(count)).map((port) => `127.0.0.1:${port}`);

/** Restarts the leader three times, and reports how long the client waits. */
async function restartLeaders(signal: "SIGTERM" | "SIGKILL"): Promise<string[]> {
  const fleet = new Fleet();
  const founders = await names(3);
  for (const name of founders) fleet.start(name, founders);
  await fleet.leader();
  const writer = await Writer.start(fleet);
  await eventually("the client writes", () => writer.count > 100 ? true : undefined);
  const gaps: string[] = [];
  for (let round = 0; round < 3; round += 1) {
    const leader = await fleet.leader();
    const since = performance.now();
    fleet.programs.get(leader)?.signal(signal);
    await fleet.programs.get(leader)?.exited;
    fleet.start(leader, founders);
    await fleet.leader();
    const count = writer.count;
    await eventually("the client writes again", () => writer.count > count + 50 ? true : undefined);
    gaps.push(`${writer.gap(since).toFixed(0)} ms`);
  }
  return [
    `longest gap between two acknowledgements, for each leader: ${gaps.join(", ")}`,
    await writer.end(),
  ];
}

/** Adds a server at `address`, or removes it if there is no address. */
async function change(fleet: Fleet, name: string, address = ""): Promise<void> {
  const client = await fleet.connect();
  // A change is refused while another one is in progress, such as the promotion of a new server.
  await eventually(`${name} is ${address === "" ? "removed" : "added"}`, async () => {
    try {
      await client.changeMembers(name, address);
      return true;
    } catch (error) {
      if (error instanceof RaftError && error.code === "refused") return undefined;
      throw error;
    }
  }, 60_000);
  client.close();
}

/** Starts and adds a server, and waits until it is a voter. */
async function join(fleet: Fleet, name: string): Promise<void> {
  fleet.start(name, fleet.known.filter((other) => other !== name));
  await change(fleet, name, name);
  const client = await fleet.connect(2000);
  await eventually(`${name} is a voter`, async () => {
    const status = await client.inspect(name).catch(() => undefined);
    return status?.members.find((member) => member.name === name)?.votes === true || undefined;
  }, 60_000);
  client.close();
}

async function leave(fleet: Fleet, name: string): Promise<void> {
  await change(fleet, name);
  await fleet.programs.get(name)?.exited; // A removed server stops.
}

/** Grows a cluster from one server to five, replaces each of them, and shrinks it to three. */
async function growAndShrink(): Promise<string[]> {
  const fleet = new Fleet();
  const all = await names(10);
  const [first = "", ...others] = all;
  fleet.start(first, [first]);
  await fleet.leader();
  const writer = await Writer.start(fleet);
  const lines: string[] = [];
  const step = async (what: string, act: () => Promise<void>) => {
    const since = performance.now();
    await act();
    lines.push(`${what}: longest gap ${writer.gap(since).toFixed(0)} ms`);
  };
  for (const name of others.slice(0, 4)) await step(`${name} joins`, () => join(fleet, name));
  for (const name of others.slice(4, 9)) {
    const leader = await fleet.leader();
    const old = all.slice(0, 5).filter((one) => fleet.running.includes(one));
    const leaves = old.includes(leader) ? leader : old[0] ?? "";
    await step(
      `${name} joins, ${leaves}${leaves === leader ? ", the leader," : ""} leaves`,
      async () => {
        await join(fleet, name);
        await leave(fleet, leaves);
      },
    );
  }
  for (const name of fleet.running.slice(0, 2)) {
    await step(`${name} leaves`, () => leave(fleet, name));
  }
  lines.push(`${fleet.running.length} servers run, and none of them is one of the first five`);
  return [...lines, await writer.end()];
}

const MEBIBYTE = 1 << 20;
const VALUE_BYTES = 50_000;

/** Adds an empty server to a cluster with a state of 100 MiB. */
async function installLargeSnapshot(): Promise<string[]> {
  const fleet = new Fleet();
  const [first = "", second = "", third = "", fourth = ""] = await names(4);
  const founders = [first, second, third];
  for (const name of founders) fleet.start(name, founders);
  await fleet.leader();
  const client = await fleet.connect(60_000);
  const store = new KeyValues(client);
  const count = Math.ceil(100 * MEBIBYTE / VALUE_BYTES);
  for (let n = 0; n < count; n += 8) {
    await Promise.all(
      Array.from(
        { length: Math.min(8, count - n) },
        (_, i) =>
          store.put(bytes(`large ${n + i}`), crypto.getRandomValues(Buffer.alloc(VALUE_BYTES))),
      ),
    );
  }
  client.close();
  const writer = await Writer.start(fleet);
  const calmSince = performance.now();
  await Bun.sleep(5000);
  const before = writer.latency(calmSince);
  const since = performance.now();
  await join(fleet, fourth);
  const seconds = (performance.now() - since) / 1000;
  return [
    `${
      (count * VALUE_BYTES / MEBIBYTE).toFixed(0)
    } MiB reached the new server, which became a voter, in `
    + `${seconds.toFixed(1)} s: ${(count * VALUE_BYTES / MEBIBYTE / seconds).toFixed(0)} MiB/s`,
    `commits before: ${before}; meanwhile: ${writer.latency(since)}, longest gap `
    + `${writer.gap(since).toFixed(0)} ms`,
    await writer.end(),
  ];
}

const parts: [title: string, run: () => Promise<string[]>][] = [
  ["rolling restart, SIGTERM", () => restartLeaders("SIGTERM")],
  ["rolling restart, kill -9", () => restartLeaders("SIGKILL")],
  ["grow from 1 to 5, replace all, shrink to 3", growAndShrink],
  ["a new server gets a state of 100 MiB", installLargeSnapshot],
];

const { only = "" } = readFlags(import.meta.path, { only: { type: "string" } });
for (const [title, run] of parts.filter(([title]) => title.includes(only))) {
  console.log(title);
  try {
    for (const line of await run()) console.log(`  ${line}`);
  } catch (error) {
    console.log(`  FAILED: ${String(error)}`);
    process.exitCode = 1;
  } finally {
    await endAll();
  }
}
