/**
 * Simulates clients and their registers. Each write has a number of its own. The clients repeat
 * unanswered requests early, also at other servers, and have several commands in flight. Their
 * network duplicates and reorders messages, too.
 */
import { type Name } from "../../../raft.ts";
import { makeCommand } from "../../support/requests.ts";
import { type Call } from "../full/workload.ts";
import { Violation } from "../judge.ts";
import { type Journey } from "./flights.ts";
import { type Scene } from "./scene.ts";
import { type Reply, type Server } from "./server.ts";
import { tellReply } from "./words.ts";

/** The keys in words, as many as there are. */
export const keyNames = ["x", "y", "z", "w"] as const;
const KEYS = keyNames.length;
/** More than the writes of one client. */
const WRITES = 100_000;

/** Tells the number of a write: `5` for the fifth of k0, `k1.7` for the seventh of k1. */
export function tellWrite(write: number): string {
  const client = Math.floor(write / WRITES);
  return client === 0 ? `${write}` : `k${client}.${write % WRITES}`;
}

/** Tells the answer to a read. */
function tellValue(answer: Uint8Array): string {
  const [write = 0] = new Uint32Array(Uint8Array.from(answer).buffer);
  return write === 0 ? "never written" : `it is ${tellWrite(write)}`;
}

/**
 * Registers by key. A command is a key and the number of a write, and its answer is the previous
 * number. `apply` overwrites the command, and all answers use the same bytes, as a program may do.
 */
export class Machine {
  readonly values: Map<number, number>;
  private readonly applied: Set<number>;
  private readonly answer = new Uint32Array(1);

  /** Starts empty, or as a copy of another one. */
  constructor(from?: Machine) {
    this.values = new Map(from?.values);
    this.applied = new Set(from?.applied);
  }

  apply(command: Uint8Array): Uint8Array {
    const [key = 0, write = 0] = new Uint32Array(Uint8Array.from(command).buffer);
    if (this.applied.has(write)) {
      throw new Violation("A command is applied once", `command ${write} is repeated`);
    }
    this.applied.add(write);
    const before = this.values.get(key) ?? 0;
    this.values.set(key, write);
    command.fill(0xee);
    this.answer[0] = before;
    return new Uint8Array(this.answer.buffer);
  }

  query(question: Uint8Array): Uint8Array {
    return new Uint8Array(Uint32Array.of(this.values.get(question[0] ?? 0) ?? 0).buffer);
  }
}

/** `committed` is the number of committed entries at the first request. */
type Operation = {
  id: number;
  kind: "session" | "command" | "read";
  data: Buffer;
  sequence: number;
  committed: number;
  askAt: number;
  call: Call | undefined;
  /** The request in words. */
  text: string;
};

export class Client {
  /** The numbers of its writes. */
  readonly written = new Set<number>();
  private session: number | undefined;
  private sequence = 0;
  private lastId = 0;
  private readonly operations = new Map<number, Operation>();
  /** Past answers. A repeated answer must be the same. */
  private readonly answers = new Map<number, string>();
  private target: Server;
  private isDone = false;
  /** What this client does once its session is open. */
  private readonly waiting: (() => void)[] = [];

  constructor(
    readonly name: Name,
    private readonly scene: Scene,
    private readonly servers: readonly Server[],
  ) {
    this.target = scene.pick(servers);
    this.perform("session", Buffer.alloc(0), "session");
  }

  /** Does this once the session is open. */
  whenOpen(action: () => void): void {
    if (this.session === undefined) this.waiting.push(action);
    else action();
  }

  get isIdle(): boolean {
    return this.operations.size === 0;
  }

  /** Stops asking. Pending requests are repeated until they are answered. */
  finish(): void {
    this.isDone = true;
  }

  /** Repeats no request any more, but goes on in the same session. */
  forget(): void {
    for (const [id, { kind }] of this.operations) {
      if (kind !== "session") this.operations.delete(id);
    }
    this.waiting.length = 0;
  }

  /** Ends without waiting for the outcomes of its requests. */
  kill(): number {
    const unknown = this.operations.size;
    this.finish();
    this.operations.clear();
    return unknown;
  }

  live(): void {
    const { scene } = this;
    const { thinkMs, pipeline, reads } = scene.conditions;
    if (this.isDone) return;
    if (this.operations.size < pipeline) {
      scene.note({ kind: "client", client: this.name });
      if (scene.chance(reads)) this.read();
      else this.write();
    }
    scene.plan(thinkMs * 2 * scene.random(), () => this.live());
  }

  /** Reads any key, or this one, at any server, or at this one first. */
  read(key = Math.floor(this.scene.random() * KEYS), at?: Server): void {
    this.target = at ?? this.target;
    this.perform("read", Buffer.of(key), `read ${keyNames[key]}`, 0, this.begin("get", key));
  }

  /** Opens a session, which comes before all commands. */
  write(asked: { key?: number; write?: number | undefined; at?: Server | undefined } = {}): void {
    const { session, operations, scene } = this;
    if (session === undefined) return;
    const sequence = this.sequence += 1;
    const write = asked.write ?? Number.parseInt(this.name.slice(1)) * WRITES + sequence;
    const key = asked.key ?? Math.floor(scene.random() * KEYS);
    this.target = asked.at ?? this.target;
    this.written.add(write);
    const command = new Uint8Array(Uint32Array.of(key, write).buffer);
    const oldest = [...operations.values()].find(({ kind }) => kind === "command");
    const acknowledged = (oldest?.sequence ?? sequence) - 1;
    const data = makeCommand([session, sequence, acknowledged], command, this.name);
    const text = `${keyNames[key]}=${tellWrite(write)}`;
    this.perform("command", data, text, sequence, this.begin("put", key, write));
  }

  /** Adds a call to the history. A call and an answer at the same instant have no order. */
  private begin(what: "get" | "put", key: number, write?: number): Call {
    const call: Call = {
      who: this.name,
      what,
      key: `${key}`,
      value: write?.toString(),
      expected: undefined,
      invoked: this.scene.now,
      returned: Number.POSITIVE_INFINITY,
      result: undefined,
    };
    this.scene.history.push(call);
    return call;
  }

  /** Handles the answer to a read: the number of a write, or 0. */
  private end(call: Call, answer: Uint8Array): void {
    const [write = 0] = new Uint32Array(Uint8Array.from(answer).buffer);
    call.returned = this.scene.now;
    call.result = call.what === "put" || (write === 0 ? undefined : `${write}`);
  }

  private perform(
    kind: Operation["kind"],
    data: Buffer,
    text: string,
    sequence = 0,
    call?: Call,
  ): void {
    this.lastId += 1;
    const committed = this.scene.judge.committed.length;
    const operation = { id: this.lastId, kind, data, text, sequence, committed, askAt: 0, call };
    this.operations.set(this.lastId, operation);
    this.ask(operation);
  }

  private ask(operation: Operation): void {
    const { scene, target } = this;
    const { name: client } = this;
    const { id, kind, data, text } = operation;
    const reply = (reply: Reply) => {
      const isRead = kind === "read" && reply.type === "Answer";
      const tell = () => `${text}: ${isRead ? tellValue(reply.answer) : tellReply(reply)}`;
      const content = { type: "Reply", tell } as const;
      const journey = { from: target.name, to: client, content };
      this.travel(journey, () => this.onReply(operation, target, reply));
    };
    scene.tell(() => `${client} -> ${target.name}  ${kind} ${id}`);
    const content = { type: "Request", tell: () => text } as const;
    const journey = { from: client, to: target.name, content };
    this.travel(journey, () => target.request({ client, id, kind, data, text, reply }));
    const retryMs = scene.conditions.electionTimeoutMs * scene.between(0.3, 1);
    const askAt = operation.askAt = scene.now + retryMs;
    scene.plan(retryMs, () => {
      if (!this.operations.has(id) || operation.askAt !== askAt) return;
      scene.note({ kind: "client", client });
      this.target = scene.pick(this.servers);
      this.ask(operation);
    });
  }

  /** Sends a message between a client and a server. It may be lost, late or duplicated, too. */
  private travel(journey: Journey, arrive: () => void): void {
    const { scene } = this;
    const { loss, duplication, delay, delayMs, latencyMs, jitterMs } = scene.conditions;
    const isHostile = scene.isHostile;
    if (isHostile && scene.chance(loss)) {
      return scene.flights.lose(journey, latencyMs + jitterMs / 2);
    }
    for (let copies = isHostile && scene.chance(duplication) ? 2 : 1; copies > 0; copies -= 1) {
      const lateMs = isHostile && scene.chance(delay) ? scene.random() * delayMs : 0;
      scene.flights.add(journey, latencyMs + scene.random() * jitterMs + lateMs, arrive);
    }
  }

  private onReply(operation: Operation, from: Server, reply: Reply): void {
    const { scene } = this;
    const { id, kind } = operation;
    // If any number of disks may be lost, another founding may answer a client.
    const { wipes } = scene.conditions;
    if (reply.type === "Answer" && !wipes) this.checkAnswer(operation, reply.answer, reply.index);
    if (!this.operations.has(id)) return;
    if (reply.type === "NotLeader") return this.onRedirect(operation, from, reply.leader);
    if (reply.type === "Refused") {
      if (wipes) return void this.operations.delete(id);
      throw new Violation(
        "No pending request is refused",
        `${from.name} refuses ${kind} ${operation.sequence} of ${this.name}: ${reply.reason}`,
      );
    }
    scene.tell(() => `${from.name} -> ${this.name}  ${kind} ${id} is done, as of ${reply.index}`);
    this.operations.delete(id);
    if (operation.call) this.end(operation.call, reply.answer);
    scene.report.operations += 1;
    if (kind !== "session") return;
    this.session = Number(Buffer.from(reply.answer).toString());
    for (const action of this.waiting.splice(0)) action();
  }

  private checkAnswer({ id, kind, committed }: Operation, bytes: Uint8Array, index: number): void {
    const answer = Buffer.from(bytes).toString("hex");
    const before = this.answers.get(id);
    if (kind !== "command") return;
    if (before === undefined && index <= committed) {
      throw new Violation(
        "A command takes effect after its request",
        `${this.name} gets an answer at entry ${index}, and ${committed} were committed before`,
      );
    }
    if (before !== undefined && before !== answer) {
      throw new Violation(
        "A repeated command has the same answer",
        `${this.name} gets ${answer} for command ${id}, and got ${before} before`,
      );
    }
    this.answers.set(id, answer);
  }

  private onRedirect(operation: Operation, from: Server, leader: Name | undefined): void {
    const { scene, servers } = this;
    if (from === this.target) {
      this.target = servers.find(({ name }) => name === leader) ?? scene.pick(servers);
    }
    const againMs = scene.conditions.electionTimeoutMs / 10;
    const askAt = operation.askAt = scene.now + againMs;
    scene.plan(againMs, () => {
      if (!this.operations.has(operation.id) || operation.askAt !== askAt) return;
      scene.note({ kind: "client", client: this.name });
      this.ask(operation);
    });
  }
}
