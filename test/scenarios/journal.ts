/**
 * The state machine of the scenarios: a journal of the lines that the servers have agreed on, and
 * clients that write to it.
 */
import { expect } from "bun:test";
import { type Client, type NodeOptions, RaftError, type StateMachine } from "../../raft.ts";
import { Stage } from "./stage.ts";

const bytes = (text: string) => Buffer.from(text);
const text = (raw: Uint8Array) => Buffer.from(raw).toString();

/** How many of the last lines a snapshot has: enough to see where it ends. */
const SHOWN = 20;

/** Counts its lines, and answers which number each has. Who watches over it is told all of them. */
export class Journal implements StateMachine {
  length = 0;
  private readonly last: string[] = [];

  constructor(private readonly witness: (place: number, line: string) => void) {}

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
    this.witness(this.length, line);
    this.last.push(line);
    if (this.last.length > SHOWN) this.last.shift();
  }
}

/** Servers that keep a journal together: the same lines at the same places, and each line once. */
export class Writers {
  readonly stage: Stage<Journal>;
  /** All lines that any server has ever applied, in order, and which number each has. */
  readonly story: string[] = [];
  /** Who is in no hurry, and proposes what is to be agreed on. */
  private scribe: Client | undefined;
  private readonly places = new Map<string, number>();

  constructor(seed: number, size: number, options: Partial<NodeOptions> = {}) {
    const witness = (place: number, line: string) => this.witness(place, line);
    this.stage = new Stage(seed, size, () => new Journal(witness), options);
  }

  /** What is thrown here stops the server, and the scenario. */
  private witness(place: number, line: string): void {
    const known = this.story[place - 1] ??= line;
    const first = this.places.get(line) ?? place;
    this.places.set(line, first);
    if (known !== line) throw new Error(`Line ${place} is both "${known}" and "${line}".`);
    if (first !== place) throw new Error(`"${line}" is line ${first} as well as ${place}.`);
  }

  /** The running servers that have applied a line. */
  holders(line: string): string[] {
    const place = this.places.get(line) ?? Number.POSITIVE_INFINITY;
    return this.stage.names.filter((name) =>
      this.stage.isUp(name) && this.stage.life(name).machine.length >= place
    );
  }

  /** Proposes lines to one server, which may not be able to do anything about it. */
  propose(name: string, ...lines: readonly string[]): Promise<PromiseSettledResult<number>[]> {
    const { node } = this.stage.life(name);
    return Promise.allSettled(
      lines.map(async (line) => Number(text(await node.propose(bytes(line))))),
    );
  }

  /**
   * A line is proposed to the leader of those that are connected; soon all of them have it, unless
   * they crash, at the place that was answered. Returns the place.
   */
  agree(line: string, among: readonly string[] = this.stage.connected): number {
    const { stage } = this;
    this.scribe ??= stage.client("scribe");
    this.scribe.retryAll(stage.leader(among));
    const place = Number(text(stage.settle(this.scribe.propose(bytes(line)))));
    const haveIt = () =>
      among.filter((name) => stage.isUp(name)).length <= this.holders(line).length;
    stage.until(`${among.join(" ")} have "${line}"`, haveIt);
    expect(this.story[place - 1]).toBe(line);
    return place;
  }

  /** Each server takes its first line, so that it has a session of its own from now on. */
  greet(): void {
    const { stage } = this;
    stage.leader();
    for (const name of stage.names) {
      const [outcome] = stage.settle(this.propose(name, `${name} is here`));
      expect(outcome).toMatchObject({ status: "fulfilled" });
    }
  }

  /** Lines that nobody can commit now, proposed to one server. It says in time that it cannot. */
  doom(name: string, ...lines: readonly string[]): void {
    const proposed = lines.map((line) => {
      const outcome = this.propose(name, line);
      this.stage.run(1); // So that each has an entry for itself.
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

  /** In the end all servers have the whole story. */
  expectOneStory(): void {
    const { stage } = this;
    stage.leader();
    const haveAll = () =>
      stage.names.every((name) => stage.life(name).machine.length === this.story.length);
    stage.until("all have the whole story", haveAll);
  }
}

/** That many different lines. */
export const linesOf = (what: string, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${what} ${i + 1}`);
