/**
 * Tests what a program that embeds a server may rely on: sizes, ownership of bytes, errors, and
 * how everything ends.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import { getEventListeners } from "node:events";
import {
  Client,
  KeyValues,
  MAX_ANSWER_BYTES,
  Node,
  type NodeEvent,
  type NodeOptions,
  RaftError,
  type StateMachine,
} from "../../raft.ts";
import { carelessCaller, carelessMachine, spoil } from "../support/careless.ts";
import { PATIENCE_MS } from "../support/thorough.ts";
import { End, SECRET } from "../support/wire.ts";
import { Simulation } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

const bytes = (text: string) => Buffer.from(text);
const text = (raw: Uint8Array) => Buffer.from(raw).toString();

/** Keeps the commands in order. Answers with their number and with the command or query itself. */
class Lines implements StateMachine {
  lines: string[] = [];
  apply(command: Uint8Array): Uint8Array {
    this.lines.push(text(command));
    return this.query(command);
  }
  query(question: Uint8Array): Uint8Array {
    return bytes(`${this.lines.length} ${text(question)}`);
  }
  snapshot(): Iterable<Uint8Array> {
    return this.lines.map(bytes);
  }
  restore(): (chunk: Uint8Array) => void {
    this.lines = [];
    return (chunk) => void this.lines.push(text(chunk));
  }
}

/** Returns a state machine whose answers have as many bytes as the command or query asks for. */
const sized = (): StateMachine => {
  const answer = (size: Uint8Array) => new Uint8Array(Number(text(size)));
  return { apply: answer, query: answer, snapshot: () => [], restore: () => () => {} };
};

/** A cluster whose servers' state machines and reasons to stop a test can see. */
class Cluster {
  readonly simulation = new Simulation(1);
  readonly nodes = new Map<string, Node>();
  readonly reasons: unknown[] = [];

  constructor(readonly names: readonly string[]) {
    for (const name of names) this.simulation.machine(name);
  }

  begin(name: string, options: Partial<NodeOptions> & { machine: StateMachine }): Promise<Node> {
    const peers = this.names.filter((other) => other !== name).map((peer) => `${peer}=${peer}:1`);
    return Node.start({
      host: name,
      port: 1,
      name,
      peers,
      directory: "data",
      secret: SECRET,
      world: this.simulation.machine(name).boot(),
      ...options,
    });
  }

  start(name: string, options: Partial<NodeOptions> & { machine: StateMachine }): Node {
    const node = this.simulation.settle(this.begin(name, options));
    node.stopped.catch((reason: unknown) => this.reasons.push(reason));
    this.nodes.set(name, node);
    return node;
  }

  kill(name: string): void {
    this.simulation.machine(name).kill();
    this.nodes.delete(name);
  }

  /** Waits until all servers follow one leader, and returns its name. */
  leader(): string {
    const nodes = [...this.nodes.values()];
    const leaders = () => new Set(nodes.map((node) => node.status().leader));
    const isSettled = () => leaders().size === 1 && !leaders().has(null);
    expect(this.simulation.run(60_000, isSettled)).toBe(true);
    return [...leaders()][0] ?? "";
  }

  connect(): Client {
    const world = this.simulation.machine("client").boot();
    const servers = this.names.map((name) => `${name}:1`);
    return this.simulation.settle(Client.connect({ servers, secret: SECRET, world }));
  }

  /** Returns the RaftError of a call that must fail. */
  errorOf(promise: Promise<unknown>): RaftError {
    const error = this.simulation.settle(promise.then(() => {}, (reason: unknown) => reason));
    expect(error).toBeInstanceOf(RaftError);
    return error as RaftError;
  }

  /** Waits until a server stops, and returns the reason. */
  reason(): RaftError {
    expect(this.simulation.run(60_000, () => this.reasons.length > 0)).toBe(true);
    expect(this.reasons[0]).toBeInstanceOf(RaftError);
    return this.reasons[0] as RaftError;
  }
}

function single(machine: StateMachine, options: Partial<NodeOptions> = {}) {
  const cluster = new Cluster(["a"]);
  return { cluster, node: cluster.start("a", { machine, ...options }) };
}

describe("an answer that is too large", () => {
  const large = `${MAX_ANSWER_BYTES + 1}`;
  const sentence =
    `its answer has ${large} bytes, and there is room for ${MAX_ANSWER_BYTES}. Ask for `
    + "it in parts.";

  test("is refused with its size, and the caller learns that a command was applied", () => {
    const cluster = new Cluster(["a", "b", "c"]);
    for (const name of cluster.names) cluster.start(name, { machine: sized() });
    cluster.leader();
    for (const via of [...cluster.nodes.values(), cluster.connect()]) {
      const write = cluster.errorOf(via.propose(bytes(large)));
      expect(write.code).toBe("applied");
      expect(write.message).toBe(`The command was applied, but ${sentence}`);
      const read = cluster.errorOf(via.read(bytes(large)));
      expect(read.code).toBe("refused");
      expect(read.message).toBe(`The server refuses: ${sentence}`);
      for (const answered of [via.propose, via.read]) {
        const answer = cluster.simulation.settle(answered.call(via, bytes(`${MAX_ANSWER_BYTES}`)));
        expect(answer.length).toBe(MAX_ANSWER_BYTES);
      }
    }
    expect(cluster.reasons).toEqual([]);
  });

  test("is refused again when the command is repeated, which is applied only once", () => {
    let applied = 0;
    const apply = () => {
      applied += 1;
      return new Uint8Array(MAX_ANSWER_BYTES + 1);
    };
    const { cluster } = single({ ...sized(), apply });
    const client = cluster.connect();
    cluster.simulation.run(2000);
    let losses = 0;
    cluster.simulation.route = ({ from }) => {
      const isLost = applied > 0 && from.port === 1 && losses < 3;
      losses += Number(isLost);
      return isLost ? [] : [{ afterMs: 1 }];
    };
    expect(cluster.errorOf(client.propose(bytes("x"))).code).toBe("applied");
    expect([applied, losses]).toEqual([1, 3]);
  });
});

describe("buffers", () => {
  test("that the program or the server overwrites after a call change nothing, on any server", () => {
    const cluster = new Cluster(["a", "b", "c"]);
    const machines = new Map<string, Lines>();
    const start = (name: string) => {
      const machine = new Lines();
      machines.set(name, machine);
      return cluster.start(name, {
        machine: carelessMachine(machine),
        snapshotBytes: 3000,
        onEvent: spoil,
      });
    };
    for (const name of cluster.names) start(name);
    const leader = cluster.leader();
    const [lagging = "", other = ""] = cluster.names.filter((name) => name !== leader);
    cluster.kill(lagging); // So it receives a snapshot later, and then the log.
    const callees = [cluster.nodes.get(leader), cluster.nodes.get(other), cluster.connect()];
    const callers = callees.map((via) => carelessCaller(via as Client));
    const expected: string[] = [];
    const settle = (answers: Promise<Uint8Array>[]) =>
      cluster.simulation.settle(Promise.all(answers)).map(text);
    for (let round = 0; round < 30; round += 1) {
      for (const { propose, read } of callers) {
        const lines = ["one", "two"].map((word) => `${word} of ${round} ${".".repeat(40)}`);
        const { length } = expected;
        expected.push(...lines);
        expect(settle(lines.map((line) => propose(bytes(line)))))
          .toEqual(lines.map((line, i) => `${length + i + 1} ${line}`));
        expect(settle(lines.map((line) => read(bytes(line)))))
          .toEqual(lines.map((line) => `${expected.length} ${line}`));
      }
      if (round === 20) start(lagging);
      for (const node of cluster.nodes.values()) spoil(node.status());
    }
    cluster.simulation.run(2000);
    for (const name of cluster.names) expect(machines.get(name)?.lines).toEqual(expected);
    // The answers that sessions keep are those that clients received.
    const kept = [...cluster.nodes.values()].map((node) =>
      structuredClone([...node["sessions"].snapshot()])
    );
    for (const sessions of kept) expect(sessions).toEqual(kept[0] ?? []);
    cluster.kill(other);
    start(other); // It restarts from its own snapshot and log.
    cluster.simulation.run(2000);
    expect(machines.get(other)?.lines).toEqual(expected);
    expect(cluster.reasons).toEqual([]);
  });
});

describe("a state machine", () => {
  const promise = (() => Promise.resolve()) as () => never;
  const start = (wrong: object, options: Partial<NodeOptions> = {}) =>
    single(Object.assign(new Lines(), wrong), options);

  test("whose apply returns no bytes, or a promise, stops the server at the first command", () => {
    for (const [answer, type] of [[Promise.resolve(), "Promise"], ["text", "String"]] as const) {
      const { cluster, node } = start({ apply: () => answer });
      cluster.simulation.settle(node.propose(bytes("x")).catch(() => {}));
      expect(cluster.reason().message).toEndWith(
        "It says: RaftError: Cannot use this state "
          + `machine: the answer of apply is [object ${type}]. Return what the interface `
          + "StateMachine asks for, and no promise.",
      );
    }
  });

  test("whose apply throws a value without text stops the server, which names the entry", () => {
    const apply = () => {
      throw Object.create(null);
    };
    const { cluster, node } = start({ apply });
    cluster.simulation.settle(node.propose(bytes("x")).catch(() => {}));
    expect(cluster.reason().message).toMatch(
      /^Cannot apply entry 3.*It says: a value without text$/,
    );
  });

  test("whose query throws, or returns a promise, fails that query only", () => {
    const query = (question: Uint8Array) => {
      if (text(question) === "throw") throw new Error("No such question");
      if (text(question) === "long") throw new Error("ü".repeat(40_000));
      if (text(question) === "half") throw new Error("half of a character: \ud800");
      if (text(question) === "no text") throw Object.create(null);
      if (text(question) === "symbol") throw Symbol("No such question");
      return text(question) === "promise" ? promise() : bytes("fine");
    };
    const { cluster, node } = start({ query });
    const client = cluster.connect();
    for (const via of [node, client]) {
      const thrown = cluster.errorOf(via.read(bytes("throw")));
      expect(thrown.code).toBe("refused");
      expect(thrown.message).toBe("The server refuses: Error: No such question.");
      const promised = cluster.errorOf(via.read(bytes("promise")));
      expect(promised.message).toContain("the answer of query is [object Promise]");
      for (const [question, reason] of [["long", "üü"], ["half", "half of a character: \ufffd"]]) {
        const { code, message } = cluster.errorOf(via.read(bytes(question ?? "")));
        expect(code).toBe("refused");
        expect(message).toStartWith(`The server refuses: Error: ${reason}`);
      }
      const odd = [["no text", "a value without text"], [
        "symbol",
        "Symbol(No such question)",
      ]];
      for (const [question, reason] of odd) {
        const { code, message } = cluster.errorOf(via.read(bytes(question ?? "")));
        expect(code).toBe("refused");
        expect(message).toBe(`The server refuses: ${reason}.`);
      }
      expect(text(cluster.simulation.settle(via.read(bytes("x"))))).toBe("fine");
    }
    expect(cluster.reasons).toEqual([]);
  });

  test("whose snapshot is a promise, or has chunks that are not bytes, stops the server", () => {
    const wrongMethods = [
      [promise, "the result of snapshot is [object Promise]"],
      [() => undefined, "the result of snapshot is [object Undefined]"],
      [async function*() {}, "the result of snapshot is [object AsyncGenerator]"],
      [() => ["text"], "a chunk of snapshot is [object String]"],
      [() => bytes("x"), "a chunk of snapshot is [object Number]"],
    ] as const;
    for (const [snapshot, sentence] of wrongMethods) {
      const { cluster, node } = start({ snapshot }, { snapshotBytes: 100 });
      const commands = Array.from({ length: 9 }, () => node.propose(bytes("x".repeat(30))));
      cluster.simulation.settle(Promise.allSettled(commands));
      expect(cluster.reason().message).toContain(sentence);
    }
  });

  test("whose restore is asynchronous is refused at the start", () => {
    const { cluster, node } = start({}, { snapshotBytes: 300 });
    const commands = Array.from({ length: 9 }, () => node.propose(bytes("x".repeat(30))));
    cluster.simulation.settle(Promise.all(commands));
    expect(cluster.simulation.run(5000, () => node.status().snapshotIndex > 0)).toBe(true);
    cluster.kill("a");
    const wrongMethods = [
      [promise, "the result of restore is [object Promise]"],
      [() => promise, "the function that restore returns is async"],
    ] as const;
    for (const [restore, sentence] of wrongMethods) {
      const machine = Object.assign(new Lines(), { restore });
      const error = cluster.errorOf(cluster.begin("a", { machine }));
      expect(error.code).toBe("usage");
      expect(error.message).toContain(sentence);
    }
  });
});

describe("an error in onEvent", () => {
  const failure = new Error("Cannot handle this event.");
  const throwAt = (type: NodeEvent["type"]) => (event: NodeEvent) => {
    if (event.type === type) throw failure;
  };

  test("rejects the start, and releases the port and the directory", () => {
    const cluster = new Cluster(["a"]);
    const { simulation } = cluster;
    const started = cluster.begin("a", { machine: new Lines(), onEvent: throwAt("recovered") });
    expect(simulation.settle(started.catch((error: unknown) => error))).toBe(failure);
    cluster.start("a", { machine: new Lines() });
  });

  test("stops a running server, for every kind of event", () => {
    for (const type of ["leader", "committed", "unauthenticated", "unresolved"] as const) {
      const cluster = new Cluster(["a", "b"]);
      const { simulation } = cluster;
      cluster.start("b", { machine: new Lines() });
      cluster.start("a", {
        machine: new Lines(),
        onEvent: throwAt(type),
        peers: type === "unresolved" ? ["b=ghost:1"] : ["b=b:1"],
      });
      simulation.run(3000);
      const to = { host: simulation.machine("a").ip, port: 1 };
      const foreign = new End({ secret: "another" }).hello();
      simulation.deliver({ from: { host: "10.9.9.9", port: 9 }, to, bytes: foreign });
      expect(simulation.run(60_000, () => cluster.reasons.length > 0)).toBe(true);
      expect(cluster.reasons).toEqual([failure]);
    }
  });

  test("stops the server with a reason, even if undefined was thrown (catalogue 298)", () => {
    const cluster = new Cluster(["a"]);
    const onEvent = (event: NodeEvent) => {
      if (event.type === "committed") throw undefined;
    };
    cluster.start("a", { machine: new Lines(), onEvent });
    cluster.simulation.run(3000);
    expect(cluster.reasons).toEqual([new Error("undefined was thrown")]);
  });
});

describe("a call with a signal", () => {
  /** Starts a, which alone is a majority, and a client. No packet of the client arrives in time. */
  function start() {
    const cluster = new Cluster(["a"]);
    const { simulation } = cluster;
    const machine = new Lines();
    const node = cluster.start("a", { machine });
    const client = cluster.connect();
    simulation.settle(client.propose(bytes("first")));
    let packets = 0;
    simulation.watch = ({ machine: { name }, packet }) => {
      if (packet && name === "client") packets += 1;
    };
    /** Makes a call, and aborts it after `afterMs`. Returns its error and its signal. */
    const aborted = (call: (signal: AbortSignal) => Promise<unknown>, afterMs?: number) => {
      const controller = new AbortController();
      const { signal } = controller;
      if (afterMs === undefined) controller.abort();
      const called = call(signal);
      called.catch(() => {});
      if (afterMs) simulation.run(afterMs);
      controller.abort();
      const { code, message } = cluster.errorOf(called);
      expect(getEventListeners(signal, "abort")).toEqual([]);
      return { code, message };
    };
    return { cluster, simulation, machine, node, client, aborted, packets: () => packets };
  }

  test("that is aborted before it was sent does nothing, and says so", () => {
    const { simulation, machine, node, client, aborted, packets } = start();
    for (const via of [node, client]) {
      for (const afterMs of [undefined, 0]) {
        expect(aborted((signal) => via.propose(bytes("x"), { signal }), afterMs)).toEqual({
          code: "aborted",
          message: expect.stringMatching(
            /^The call was aborted: nothing was done\. .* Asked: a\b.*\.$/,
          ),
        });
      }
      expect(aborted((signal) => via.read(bytes("x"), { signal })).code).toBe("aborted");
    }
    simulation.run(3000);
    expect(machine.lines).toEqual(["first"]);
    expect(packets()).toBe(0);
  });

  test("that is aborted before its session is open does nothing", () => {
    const { cluster, simulation, machine, aborted } = start();
    const late = cluster.connect();
    simulation.route = () => [{ afterMs: 300 }];
    const { code } = aborted((signal) => late.propose(bytes("x"), { signal }), 200);
    expect(code).toBe("aborted");
    simulation.run(20_000);
    expect(machine.lines).toEqual(["first"]);
  });

  test("that is aborted later has an unknown outcome, or none if it is a read", () => {
    const { simulation, machine, client, aborted, packets } = start();
    simulation.route = () => [];
    expect(aborted((signal) => client.propose(bytes("x"), { signal }), 300)).toEqual({
      code: "outcomeUnknown",
      message: expect.stringMatching(
        /^The call was aborted: the request may have been carried out/,
      ),
    });
    expect(aborted((signal) => client.read(bytes("x"), { signal }), 300).code).toBe("aborted");
    // No request is retried.
    const before = packets();
    expect(before).toBeGreaterThan(4);
    simulation.run(2000);
    expect(packets()).toBe(before);
    // The session goes on.
    simulation.route = () => [{ afterMs: 1 }];
    expect(text(simulation.settle(client.propose(bytes("y"))))).toBe("2 y");
    expect(machine.lines).toEqual(["first", "y"]);
  });

  test("leaves the commands of its request to their callers", () => {
    const { simulation, machine, client } = start();
    simulation.route = () => [];
    const controller = new AbortController();
    const { signal } = controller;
    const calls = ["x", "y"].map((word) =>
      client.propose(bytes(word), word === "x" ? { signal } : {}).catch(({ code }) => bytes(code))
    );
    simulation.run(200);
    controller.abort();
    simulation.route = () => [{ afterMs: 1 }];
    expect(simulation.settle(Promise.all(calls)).map(text)).toEqual(["outcomeUnknown", "3 y"]);
    expect(machine.lines).toEqual(["first", "x", "y"]);
  });

  test("leaves no listener when it is answered, and ends only calls with its own signal", () => {
    const { simulation, client, node, aborted } = start();
    const { signal } = new AbortController();
    const answered = simulation.settle(Promise.all([
      client.propose(bytes("x"), { signal }),
      node.propose(bytes("x"), { signal }),
      client.read(bytes("x"), { signal }),
      node.read(bytes("x"), { signal }),
    ]));
    expect(answered).toHaveLength(4);
    expect(getEventListeners(signal, "abort")).toEqual([]);
    const other = client.read(bytes("z"));
    expect(aborted((each) => client.read(bytes("x"), { signal: each }), 0).code).toBe("aborted");
    expect(text(simulation.settle(other))).toBe("3 z");
  });

  test("is a call of the store, too", () => {
    const { client, aborted, node } = start();
    const [key, value] = [bytes("k"), bytes("v")];
    for (const store of [new KeyValues(client), new KeyValues(node)]) {
      const calls = [
        (signal: AbortSignal) => store.get(key, { signal }),
        (signal: AbortSignal) => store.put(key, value, { signal }),
        (signal: AbortSignal) => store.delete(key, { signal }),
        (signal: AbortSignal) => store.cas(key, undefined, value, { signal }),
        (signal: AbortSignal) => store.list({ prefix: key, signal }).next(),
      ];
      for (const call of calls) expect(aborted(call).code).toBe("aborted");
    }
  });
});

describe("`ready`", () => {
  test("resolves once the server has applied every committed entry, and not before", () => {
    const cluster = new Cluster(["a", "b", "c"]);
    const { simulation } = cluster;
    const machines = new Map(cluster.names.map((name) => [name, new Lines()]));
    const start = (name: string, machine = new Lines()) => {
      machines.set(name, machine);
      return cluster.start(name, { machine });
    };
    const first = start("a");
    let isReady = false;
    void first.ready.then(() => isReady = true);
    simulation.run(20_000); // Longer than a request waits.
    expect(isReady).toBe(false);
    for (const name of ["b", "c"]) start(name);
    const leader = cluster.leader();
    for (const node of cluster.nodes.values()) simulation.settle(node.ready);
    const late = cluster.names.find((name) => name !== leader) ?? "";
    cluster.kill(late);
    const client = simulation.settle(Client.connect({
      servers: cluster.names.map((name) => `${name}=${name}:1`),
      secret: SECRET,
      world: simulation.machine("client").boot(),
    }));
    for (let i = 0; i < 20; i += 1) simulation.settle(client.propose(bytes(`${i}`)));
    // The messages with entries are slow, and heartbeats are not.
    simulation.route = ({ bytes: { length } }) => [{ afterMs: length > 500 ? 400 : 1 }];
    const machine = new Lines();
    const node = start(late, machine);
    expect(node.ready).toBe(node.ready);
    simulation.run(60_000, () => node.status().leader !== null);
    expect(machine.lines.length).toBeLessThan(20);
    simulation.settle(node.ready);
    expect(machine.lines).toHaveLength(20);
  });

  test("rejects if the server stops before, or has stopped", () => {
    const cluster = new Cluster(["a", "b"]);
    const node = cluster.start("a", { machine: new Lines() });
    const { ready } = node;
    ready.catch(() => {});
    cluster.simulation.run(1000);
    void node.stop();
    expect(cluster.errorOf(ready).code).toBe("stopped");
    const next = cluster.start("b", { machine: new Lines() });
    void next.stop();
    expect(cluster.errorOf(next.ready).code).toBe("stopped");
  });
});

test("`apply` learns which entries the disk knew as committed at the start", () => {
  const cluster = new Cluster(["a"]);
  const { simulation } = cluster;
  const told: string[] = [];
  const start = () => {
    const machine = new Lines();
    const apply = machine.apply.bind(machine);
    const node = cluster.start("a", {
      machine: Object.assign(machine, {
        apply: (command: Uint8Array, _: number, isReplay: boolean) => {
          told.push(`${text(command)} ${isReplay}`);
          return apply(command);
        },
      }),
    });
    simulation.settle(node.ready);
    return node;
  };
  const node = start();
  for (const word of ["x", "y", "z"]) simulation.settle(node.propose(bytes(word)));
  expect(told.splice(0)).toEqual(["x false", "y false", "z false"]);
  cluster.kill("a");
  simulation.settle(start().propose(bytes("new")));
  // The commit of z was not on the disk yet.
  expect(told).toEqual(["x true", "y true", "z false", "new false"]);
});

describe("a stopped node and a closed client", () => {
  test("fail every call with their code, and a command in flight with outcomeUnknown", () => {
    const cluster = new Cluster(["a"]);
    const { simulation } = cluster;
    const node = cluster.start("a", { machine: new Lines() });
    const client = cluster.connect();
    const ends = [[client, () => client.close(), "closed"], [
      node,
      () => node.stop(),
      "stopped",
    ]] as const;
    for (const [via, end, code] of ends) {
      simulation.settle(via.propose(bytes("x")));
      simulation.route = () => [];
      const [sent, pendingRead] = [via.propose(bytes("y")), via.read(bytes(""))];
      if (code === "closed") simulation.run(50);
      const answered = [sent, pendingRead].map((promise) =>
        promise.then(() => "", ({ code }) => code)
      );
      void end();
      const codes = simulation.settle(Promise.all(answered));
      expect(codes).toEqual(code === "closed" ? ["outcomeUnknown", code] : [code, code]);
      expect(cluster.errorOf(via.propose(bytes("z"))).code).toBe(code);
      expect(cluster.errorOf(via.read(bytes(""))).code).toBe(code);
      simulation.route = () => [{ afterMs: 1 }];
    }
  });

  test("end a snapshot that the state machine is writing, and may itself stop the server", () => {
    for (const isStoppedByMachine of [false, true]) {
      const cluster = new Cluster(["a"]);
      const { simulation } = cluster;
      const events: string[] = [];
      function* snapshot() {
        events.push("begun");
        try {
          for (let count = 1;; count += 1) {
            if (isStoppedByMachine && count === 100) void node.stop();
            yield bytes("x");
          }
        } finally {
          events.push("ended");
        }
      }
      const machine = Object.assign(new Lines(), { snapshot });
      const node = cluster.start("a", { machine, snapshotBytes: 1000 });
      simulation.settle(node.propose(Buffer.alloc(2000)));
      simulation.run(100);
      expect(events[0]).toBe("begun");
      if (!isStoppedByMachine) void node.stop();
      simulation.settle(node.stopped);
      simulation.run(1);
      expect(events).toEqual(["begun", "ended"]);
    }
  });

  test("result from the end of a block with `await using`", () => {
    const cluster = new Cluster(["a"]);
    const { simulation } = cluster;
    const useAndLeave = async () => {
      await using node = await cluster.begin("a", { machine: new Lines() });
      await using client = cluster.connect();
      await client.propose(bytes("x"));
      return { node, client };
    };
    const { node, client } = simulation.settle(useAndLeave());
    simulation.settle(node.stopped);
    expect(cluster.errorOf(node.read(bytes(""))).code).toBe("stopped");
    expect(cluster.errorOf(client.read(bytes(""))).code).toBe("closed");
  });

  test("throw errors named RaftError", () => {
    const { name, message } = new RaftError("usage", "A sentence.");
    expect(`${new RaftError("usage", message)}`).toBe("RaftError: A sentence.");
    expect(name).toBe("RaftError");
  });
});
