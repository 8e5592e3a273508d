/**
 * Rotates the secret of a cluster as an operator does: the new line is second everywhere, then
 * first, then alone. A server gets the next step once all servers have the present one.
 */
import { pick, type Random } from "../../support/random.ts";

const STEPS = 3;
const line = (number: number) => `the secret number ${number} of a simulated cluster`;

function linesAt(step: number): string {
  const [old, next] = [line(Math.floor(step / STEPS)), line(Math.floor(step / STEPS) + 1)];
  return [old, `${old}\n${next}`, `${next}\n${old}`][step % STEPS] ?? old;
}

export class Secrets {
  private readonly steps: Map<string, number>;

  constructor(servers: readonly string[]) {
    this.steps = new Map(servers.map((name) => [name, 0]));
  }

  private get lowest(): number {
    return Math.min(...this.steps.values());
  }

  /** Returns the lines of a server's file. */
  of(server: string): string {
    return linesAt(this.steps.get(server) ?? 0);
  }

  /** Gives a server its next lines. Returns its name. */
  advance(random: Random): string {
    const { lowest } = this;
    const late = [...this.steps].filter(([, step]) => step === lowest).map(([name]) => name);
    const server = pick(random, late);
    this.steps.set(server, lowest + 1);
    return server;
  }

  /** Returns the lines of a client's file, which may be those of a server, or old and new. */
  ofClient(random: Random): string {
    const old = Math.floor(this.lowest / STEPS);
    if (random() < 0.5) return this.of(pick(random, [...this.steps.keys()]));
    return [line(old), line(old + 1)].join("\n");
  }
}
