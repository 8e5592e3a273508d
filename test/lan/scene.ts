/** Supports the scenarios on a LAN: three servers, a client and a report. */
import { mkdirSync } from "node:fs";
import path from "node:path";
import { endAll, eventually, type Program, type Status } from "../support/processes.ts";
import type { Capture } from "./capture.ts";
import type { Machine } from "./network.ts";

export const PORT = 48_000;

/** The machines of one run. */
export type Lan = {
  servers: readonly [Machine, Machine, Machine];
  client: Machine;
  stranger: Machine;
  capture: Capture;
  directory: string;
  /** The files of two different secrets. The servers have the first. */
  secrets: readonly [string, string];
  /** How long traffic is recorded before it is replayed. */
  recordMs: number;
};

let failed = 0;
let passed = 0;

export function check(what: string, holds: boolean): void {
  console.log(`  ${holds ? "PASS" : "FAIL"}  ${what}`);
  if (holds) passed += 1;
  else failed += 1;
}

/** Prints what a program has printed, for the reader of the report. */
export function show(what: string, lines: string): void {
  console.log(`  ${what}:`);
  for (const line of lines.trim().split("\n")) console.log(`    ${line}`);
  console.log();
}

/** Runs one scenario. An error counts as a failed check, and the next scenario begins. */
export async function scenario(title: string, act: () => Promise<void>): Promise<void> {
  console.log(`\n${title}\n`);
  try {
    await act();
  } catch (error) {
    check(`the scenario completes: ${(error as Error).message}`, false);
  } finally {
    await endAll();
  }
}

/** Prints the result, and returns the exit code. A run without any check has not passed. */
export function verdict(): number {
  console.log(`\n${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/** Three servers, numbered from 0 like their machines. */
export class Trio {
  private static count = 0;
  private readonly directory: string;
  private readonly programs = new Map<number, Program>();
  readonly addresses: string[];

  constructor(private readonly lan: Lan) {
    this.directory = path.join(lan.directory, `cluster-${Trio.count += 1}`);
    mkdirSync(this.directory);
    this.addresses = lan.servers.map(({ address }) => `${address}:${PORT}`);
  }

  /** Starts three servers, and waits until they agree on a leader. */
  static async start(lan: Lan): Promise<Trio> {
    const trio = new Trio(lan);
    for (const i of [0, 1, 2]) trio.start(i);
    await trio.agreement();
    return trio;
  }

  /** Starts server `i`. `flags` replace the common ones. */
  start(i: number, flags: Record<string, string> = {}): Program {
    const machine = this.lan.servers[i];
    if (!machine) throw new Error(`There is no machine ${i}.`);
    const all = {
      host: machine.address,
      port: `${PORT}`,
      peers: this.addresses.filter((_, other) => other !== i).join(","),
      "secret-file": this.lan.secrets[0],
      data: path.join(this.directory, `${i}`),
      ...flags,
    };
    const program = machine.start(
      ...Object.entries(all).flatMap(([flag, value]) => [`--${flag}`, value]),
    );
    this.programs.set(i, program);
    return program;
  }

  program(i: number): Program {
    const program = this.programs.get(i);
    if (!program) throw new Error(`Server ${i} was never started.`);
    return program;
  }

  /** Runs a command of the client, which knows all servers. */
  ask(...words: string[]) {
    return this.lan.client.run(
      ...words,
      "--peers",
      this.addresses.join(","),
      "--secret-file",
      this.lan.secrets[0],
      "--timeout",
      "20000",
    );
  }

  /** Returns the statuses of the servers that answer, by their names. */
  async statuses(): Promise<Map<string, Status>> {
    const all = await this.lan.client.inspect(this.lan.secrets[0], this.addresses);
    return new Map(all.map((status) => [status.name, status]));
  }

  /** Waits until these servers agree on a leader among them, and returns its number. */
  agreement(among = [0, 1, 2]): Promise<number> {
    const names = among.map((i) => this.addresses[i] ?? "");
    return eventually(`${names.join(", ")} agree on a leader`, async () => {
      const statuses = await this.statuses();
      const all = names.map((name) => statuses.get(name));
      const leads = all.find((status) => status?.role === "Leader");
      const agree = all.every((s) => s && s.leader === leads?.name && s.term === leads?.term);
      return leads && agree ? this.addresses.indexOf(leads.name) : undefined;
    }, 60_000);
  }

  /** Waits until all three agree on a leader and have applied the same entries. */
  async convergence(): Promise<void> {
    await this.agreement();
    await eventually("all have applied the same entries", async () => {
      const all = [...(await this.statuses()).values()];
      const applied = new Set(all.map(({ lastApplied }) => lastApplied));
      return (all.length === 3 && applied.size === 1) || undefined;
    }, 60_000);
  }

  /** Waits until a server prints a matching line, and returns that line. */
  line(i: number, pattern: RegExp): Promise<string> {
    return eventually(
      `server ${i} prints ${pattern}`,
      () => this.program(i).output.split("\n").find((line) => pattern.test(line)),
      60_000,
    );
  }
}
