/**
 * Defines the state machine of the scenarios, a journal of lines on which the servers agree, and
 * the clients that write to it.
 */
import { expect } from "bun:test";
import { type Client, type NodeOptions, RaftError, type StateMachine } from "../../raft.ts";
import { Stage } from "./stage.ts";

const bytes = (text: string) => Buffer.from(text);
const text = (raw: Uint8Array) => Buffer.from(raw).toString();

/** The number of lines in a snapshot, which has only the last ones. */
const SHOWN = 20;

/** Answers each line with its number in the journal, and passes both to `onLine`. */
export class Journal implements StateMachine {
  length = 0;
  private readonly last: string[] = [];

  constructor(private readonly onLine: (place: number, line: string) => void) {}

  apply(command: Uint8Array): Uint8Array {
    this.length += 1;
    this.take(text(command));
    return bytes(String(this.length));
  }

  query(): Uint8Array {
    return bytes(String(this.length));
  }

  snapshot(): Iterable<Uint8Array> {
    const before = this.length - this.last.length;
    return this.last.map((line, i) => bytes(`${before + i + 1} ${line}`));
  }

  restore(): (chunk: Uint8Array) => void {
    this.last.length = this.length = 0;
    return (chunk) => {
      const [, place, line = ""] = /^(\d+) (.*)$/.exec(text(chunk)) ?? [];
      this.length = Number(place);
      this.take(line);
    };
  }

  private take(line: string): void {
    this.onLine(this.length, line);
    this.last.push(line);
    if (this.last.length > SHOWN) this.last.shift();
  }
}

/** Servers that keep a journal together: the same lines at the same places, and each line once. */
export class Writers {
  readonly stage: Stage<Journal>;
  /** All lines that any server has ever applied, in order. */
  readonly lines: string[] = [];
  /** Proposes the lines that must be committed, without a timeout. */
  private client: Client | undefined;
  private readonly places = new Map<string, number>();

  constructor(seed: number, size: number, options: Partial<NodeOptions> = {}) {
    const onLine = (place: number, line: string) => this.checkLine(place, line);
    this.stage = new Stage(seed, size, () => new Journal(onLine), options);
  }

  /** Checks a line that a server applies. An error stops that server, and the scenario. */
  private checkLine(place: number, line: string): void {
    const known = this.lines[place - 1] ??= line;
    const first = this.places.get(line) ?? place;
    this.places.set(line, first);
    if (known !== line) throw new Error(`Line ${place} is both "${known}" and "${line}".`);
    if (first !== place) throw new Error(`"${line}" is line ${first} as well as ${place}.`);
  }

  /** Returns the running servers that have applied a line. */
  holders(line: string): string[] {
    const place = this.places.get(line) ?? Number.POSITIVE_INFINITY;
    return this.stage.names.filter((name) =>
      this.stage.isUp(name) && this.stage.server(name).machine.length >= place
    );
  }

  /** Proposes lines to one server, which may be unable to commit them. */
  propose(name: string, ...lines: readonly string[]): Promise<PromiseSettledResult<number>[]> {
    const { node } = this.stage.server(name);
    return Promise.allSettled(
      lines.map(async (line) => Number(text(await node.propose(bytes(line))))),
    );
  }

  /**
   * Proposes a line to the leader of the connected servers. Waits until they all have it at the
   * place that was answered, except for those that crash, and returns the place.
   */
  agree(line: string, among: readonly string[] = this.stage.connected): number {
    const { stage } = this;
    this.client ??= stage.client("client");
    this.client.retryAll(stage.leader(among));
    const place = Number(text(stage.settle(this.client.propose(bytes(line)))));
    const haveLine = () =>
      among.filter((name) => stage.isUp(name)).length <= this.holders(line).length;
    stage.until(`${among.join(" ")} have "${line}"`, haveLine);
    expect(this.lines[place - 1]).toBe(line);
    return place;
  }

  /** Lets each server propose a line, so that it has a session of its own. */
  openSessions(): void {
    const { stage } = this;
    stage.leader();
    for (const name of stage.names) {
      const [outcome] = stage.settle(this.propose(name, `${name} is here`));
      expect(outcome).toMatchObject({ status: "fulfilled" });
    }
  }

  /** Proposes lines to a server that cannot commit them, and expects an error for each. */
  proposeUncommitted(name: string, ...lines: readonly string[]): void {
    const proposed = lines.map((line) => {
      const outcome = this.propose(name, line);
      this.stage.run(1); // Each line gets an entry of its own.
      return outcome;
    });
    for (const [outcome] of proposed.map((each) => this.stage.settle(each))) {
      if (!outcome) throw new Error("each line has an outcome");
      expect(outcome.status).toBe("rejected");
      const { reason } = outcome as PromiseRejectedResult;
      expect(reason).toBeInstanceOf(RaftError);
      expect(["outcomeUnknown", "timeout"]).toContain(reason.code);
    }
    for (const line of lines) expect(this.holders(line)).toEqual([]);
  }

  /** Waits until all servers have all lines. */
  expectSameLines(): void {
    const { stage } = this;
    stage.leader();
    const haveAll = () =>
      stage.names.every((name) => stage.server(name).machine.length === this.lines.length);
    stage.until("all servers have all lines", haveAll);
  }
}

/** Returns `count` different lines. */
export const linesOf = (what: string, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${what} ${i + 1}`);
