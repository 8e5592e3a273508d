/**
 * Simulates clients and their registers. Each write has a number of its own. The clients repeat
 * unanswered requests early, also at other servers, and have several commands in flight. Their
 * network duplicates and reorders messages, too.
 */
import { type Name } from "../../../raft.ts";
import { makeCommand } from "../../support/wire.ts";
import { type Call } from "../full/workload.ts";
import { Violation } from "../judge.ts";
import { type Scene } from "./scene.ts";
import { type Reply, type Server } from "./server.ts";

const KEYS = 4;

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
};

export class Client {
  private session: number | undefined;
  private sequence = 0;
  private lastId = 0;
  private readonly operations = new Map<number, Operation>();
  /** Past answers. A repeated answer must be the same. */
  private readonly answers = new Map<number, string>();
  private target: Server;
  private isDone = false;

  constructor(
    readonly name: Name,
    private readonly scene: Scene,
    private readonly servers: readonly Server[],
  ) {
    this.target = scene.pick(servers);
    this.perform("session", Buffer.alloc(0));
  }

  get isIdle(): boolean {
    return this.operations.size === 0;
  }

  /** Stops asking. Pending requests are repeated until they are answered. */
  finish(): void {
    this.isDone = true;
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
      if (scene.chance(reads)) this.read();
      else this.write();
    }
    scene.plan(thinkMs * 2 * scene.random(), () => this.live());
  }

  read(): void {
    const key = Math.floor(this.scene.random() * KEYS);
    this.perform("read", Buffer.of(key), 0, this.begin("get", key));
  }

  /** Opens a session, which comes before all commands. */
  write(): void {
    const { session, operations, scene } = this;
    if (session === undefined) return;
    const sequence = this.sequence += 1;
    const write = Number.parseInt(this.name.slice(1)) * 100_000 + sequence;
    const key = Math.floor(scene.random() * KEYS);
    const command = new Uint8Array(Uint32Array.of(key, write).buffer);
    const oldest = [...operations.values()].find(({ kind }) => kind === "command");
    const acknowledged = (oldest?.sequence ?? sequence) - 1;
    const data = makeCommand([session, sequence, acknowledged], command, this.name);
    this.perform("command", data, sequence, this.begin("put", key, write));
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

  private perform(kind: Operation["kind"], data: Buffer, sequence = 0, call?: Call): void {
    this.lastId += 1;
    const committed = this.scene.judge.committed.length;
    const operation = { id: this.lastId, kind, data, sequence, committed, askAt: 0, call };
    this.operations.set(this.lastId, operation);
    this.ask(operation);
  }

  private ask(operation: Operation): void {
    const { scene, target } = this;
    const { id, kind, data } = operation;
    const request = {
      client: this.name,
      id,
      kind,
      data,
      reply: (reply: Reply) => this.travel(() => this.onReply(operation, target, reply)),
    };
    scene.tell(() => `${this.name} -> ${target.name}  ${kind} ${id}`);
    this.travel(() => target.request(request));
    const retryMs = scene.conditions.electionTimeoutMs * scene.between(0.3, 1);
    const askAt = operation.askAt = scene.now + retryMs;
    scene.plan(retryMs, () => {
      if (!this.operations.has(id) || operation.askAt !== askAt) return;
      this.target = scene.pick(this.servers);
      this.ask(operation);
    });
  }

  /** Sends a message between a client and a server. It may be lost, late or duplicated, too. */
  private travel(arrive: () => void): void {
    const { scene } = this;
    const { loss, duplication, delay, delayMs, latencyMs, jitterMs } = scene.conditions;
    const isHostile = scene.isHostile;
    if (isHostile && scene.chance(loss)) return;
    for (let copies = isHostile && scene.chance(duplication) ? 2 : 1; copies > 0; copies -= 1) {
      const lateMs = isHostile && scene.chance(delay) ? scene.random() * delayMs : 0;
      scene.plan(latencyMs + scene.random() * jitterMs + lateMs, arrive);
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
    if (kind === "session") this.session = Number(Buffer.from(reply.answer).toString());
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
      if (this.operations.has(operation.id) && operation.askAt === askAt) this.ask(operation);
    });
  }
}
