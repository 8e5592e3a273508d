/** What the scenarios on a LAN share: three servers, a client, and a report to read. */
import { mkdirSync } from "node:fs";
import path from "node:path";
import { endAll, eventually, type Program, type Status } from "../support/processes.ts";
import type { Capture } from "./capture.ts";
import type { Machine } from "./network.ts";

export const PORT = 48_000;

/** The machines of one run. `secrets` are files, of two secrets that do not fit. */
export type Lan = {
  servers: readonly [Machine, Machine, Machine];
  client: Machine;
  stranger: Machine;
  capture: Capture;
  directory: string;
  secrets: readonly [string, string];
  recordMs: number;
};

let failed = 0;
let passed = 0;

export function check(what: string, holds: boolean): void {
  console.log(`  ${holds ? "PASS" : "FAIL"}  ${what}`);
  if (holds) passed += 1;
  else failed += 1;
}

/** Lines that somebody printed, for the reader. */
export function show(who: string, lines: string): void {
  console.log(`  ${who}:`);
  for (const line of lines.trim().split("\n")) console.log(`    ${line}`);
  console.log();
}

/** Runs one scenario; whatever it throws is a failure of it, and the next one begins. */
export async function scenario(title: string, act: () => Promise<void>): Promise<void> {
  console.log(`\n${title}\n`);
  try {
    await act();
  } catch (error) {
    check(`It goes on to its end: ${(error as Error).message}`, false);
  } finally {
    await endAll();
  }
}

/** Says how it went. Returns the exit code: what has checked nothing has not passed. */
export function verdict(): number {
  console.log(`\n${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/** Three servers, by the number of their machine, from 0. Flags may differ from the common ones. */
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

  /** Three that agree on a leader. */
  static async start(lan: Lan): Promise<Trio> {
    const trio = new Trio(lan);
    for (const i of [0, 1, 2]) trio.start(i);
    await trio.agreement();
    return trio;
  }

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

  /** A command of the client's, asked of all servers. */
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

  /** What the servers say of themselves, those that answer. */
  async statuses(): Promise<Map<string, Status>> {
    const all = await this.lan.client.inspect(this.lan.secrets[0], this.addresses);
    return new Map(all.map((status) => [status.name, status]));
  }

  /** Waits until these agree on a leader among them, and tells its number. */
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

  /** Waits until all three agree, and have applied the same. */
  async convergence(): Promise<void> {
    await this.agreement();
    await eventually("all have applied the same", async () => {
      const all = [...(await this.statuses()).values()];
      const applied = new Set(all.map(({ lastApplied }) => lastApplied));
      return (all.length === 3 && applied.size === 1) || undefined;
    }, 60_000);
  }

  /** Waits for a line of a server's, and returns it. */
  line(i: number, pattern: RegExp): Promise<string> {
    return eventually(
      `server ${i} prints ${pattern}`,
      () => this.program(i).output.split("\n").find((line) => pattern.test(line)),
      60_000,
    );
  }
}
