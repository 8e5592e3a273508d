/**
 * Tests that whole servers and clients keep Raft's promises to their users. The tests control the
 * simulated network and disks.
 */
import { describe, expect, setDefaultTimeout, test } from "bun:test";
import {
  Client,
  clientKey,
  type ClientMessage,
  type ClientOptions,
  type Entry,
  type HardState,
  KeyValues,
  KeyValueStore,
  MAX_COMMAND_BYTES,
  messages,
  Node,
  type NodeEvent,
  type NodeOptions,
  RaftError,
  Sessions,
  type StateMachine,
  Storage,
  type World,
} from "../../raft.ts";
import { whatIsLeft } from "../simulation/full/quiet.ts";
import { configuration } from "../support/core.ts";
import { Disk, type Keep } from "../support/disk.ts";
import { applyTo, makeEntry, openingEntry } from "../support/entries.ts";
import { coreOf, startNode } from "../support/nodes.ts";
import { forSeeds, isReplay, type Random, randomFrom } from "../support/random.ts";
import { isThorough, PATIENCE_MS } from "../support/thorough.ts";
import {
  answerOf,
  askStore,
  commandsOf,
  type EndOptions,
  Impostor,
  makeCommand,
  message,
  open,
  readOutcomes,
  SECRET,
} from "../support/wire.ts";
import { type Happening, type Machine, type Packet, Simulation } from "../support/world.ts";

setDefaultTimeout(PATIENCE_MS);

const bytes = (text: string) => Buffer.from(text);
const text = (raw: Uint8Array) => Buffer.from(raw).toString();
const ENDED = "refused: the session has ended, or never was";
const ITSELF = "refused: it acknowledges its own answer";
const SEEN = "refused: the client has the answer, or has given it up";

/** Keeps the commands in order, and answers with their number and the command. */
class Diary implements StateMachine {
  readonly lines: string[] = [];
  apply(command: Uint8Array): Uint8Array {
    this.lines.push(text(command));
    if (text(command) === "throw") throw new Error("This command is too much for me.");
    return bytes(`${this.lines.length} ${text(command)}`);
  }
  query(): Uint8Array {
    return bytes(this.lines.join());
  }
  snapshot(): Iterable<Uint8Array> {
    return this.lines.map(bytes);
  }
  restore(): (chunk: Uint8Array) => void {
    this.lines.length = 0;
    return (chunk) => void this.lines.push(text(chunk));
  }
}

type RunningServer = { node: Node; machine: StateMachine; events: NodeEvent[]; reasons: unknown[] };

/** Servers named after their machines, with their state machines and their events. */
class Cluster {
  readonly simulation: Simulation;
  readonly running = new Map<string, RunningServer>();

  constructor(
    seed: number,
    readonly names: readonly string[] = ["a", "b", "c"],
    readonly create: () => StateMachine = () => new Diary(),
    private readonly options: Partial<NodeOptions> = {},
  ) {
    this.simulation = new Simulation(seed);
    for (const name of names) this.simulation.machine(name);
    for (const name of names) this.start(name);
  }

  start(name: string, options: Partial<NodeOptions> = {}): Node {
    const [machine, events, reasons]: [StateMachine, NodeEvent[], unknown[]] = [
      this.create(),
      [],
      [],
    ];
    const node = startNode(this.simulation, name, this.names, {
      machine,
      onEvent: (event) => void events.push(event),
      ...this.options,
      ...options,
    });
    node.stopped.catch((reason: unknown) => reasons.push(reason));
    this.running.set(name, { node, machine, events, reasons });
    return node;
  }

  kill(name: string, keep?: Keep): void {
    if (keep) this.machine(name).powerCut(keep);
    else this.machine(name).kill();
    this.running.delete(name);
  }

  machine(name: string): Machine {
    return this.simulation.machine(name);
  }

  server(name: string): RunningServer {
    const server = this.running.get(name);
    if (!server) throw new Error(`Server ${name} does not run.`);
    return server;
  }

  /** Waits until all running servers follow one leader, and returns its name. */
  leader(): string {
    const leaders = () =>
      [...this.running].filter(([, { node }]) => coreOf(node).role.name === "Leader")
        .map(([name]) => name);
    const isSettled = () => {
      const [one, ...more] = leaders();
      const running = [...this.running.values()];
      return one !== undefined && more.length === 0
        && running.every(({ node }) => coreOf(node).leader === one);
    };
    expect(this.simulation.run(60_000, isSettled)).toBe(true);
    return leaders()[0] ?? "";
  }

  follower(): string {
    const leader = this.leader();
    return [...this.running.keys()].find((name) => name !== leader) ?? "";
  }

  connect(
    name: string,
    servers = this.names.map((server) => `${server}:1`),
    timeoutMs = 5000,
  ): Client {
    const world = this.simulation.machine(name).boot();
    return this.simulation.settle(
      Client.connect({ servers, secret: SECRET, name, timeoutMs, world }),
    );
  }

  /** Returns a program on a machine of its own that has a channel to a server, made by hand. */
  visitor(server: string, options: EndOptions = {}): Impostor {
    const to = { host: this.machine(server).ip, port: 1 };
    const machine = `a visitor of ${server}`;
    return new Impostor(this.simulation, to, { machine, ...options }).connect();
  }

  lines(name: string): string[] {
    const { machine } = this.server(name);
    return machine instanceof Diary ? machine.lines : [];
  }
}

/** Returns a server without peers, which leads. */
function single() {
  const cluster = new Cluster(1, ["a"]);
  cluster.leader();
  return { simulation: cluster.simulation, server: cluster.server("a") };
}

/** Returns the RaftError that a promise rejects with, or undefined if it resolves. */
function failureOf(simulation: Simulation, promise: Promise<unknown>): RaftError | undefined {
  try {
    simulation.settle(promise);
  } catch (error) {
    if (error instanceof RaftError) return error;
    throw error;
  }
  return undefined;
}

const codeOf = (simulation: Simulation, promise: Promise<unknown>): string =>
  failureOf(simulation, promise)?.code ?? "none";

describe("a cluster", () => {
  test("elects a leader, and replicates commands proposed to any server", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    for (const name of cluster.names) {
      const answer = simulation.settle(cluster.server(name).node.propose(bytes(`from ${name}`)));
      expect(text(answer)).toMatch(new RegExp(`^\\d from ${name}$`));
    }
    simulation.run(500);
    for (const name of cluster.names) {
      const answer = simulation.settle(cluster.server(name).node.read(bytes("")));
      expect(text(answer)).toBe("from a,from b,from c");
      expect(cluster.lines(name)).toEqual(["from a", "from b", "from c"]);
    }
  });

  test("elects another leader after each of two leaders in five has died", () => {
    forSeeds(20, (_, seed) => {
      const cluster = new Cluster(seed, ["a", "b", "c", "d", "e"]);
      for (let dead = 0; dead < 2; dead += 1) cluster.kill(cluster.leader());
      const { simulation } = cluster;
      const { node } = cluster.server(cluster.leader());
      expect(text(simulation.settle(node.propose(bytes("x"))))).toBe("1 x");
    });
  });

  test("has names of at most 255 bytes, for each server and for itself", () => {
    const [long, longest] = ["ü".repeat(128), `${"ü".repeat(127)}!`];
    const start = (options: Partial<NodeOptions>) => () =>
      new Cluster(1, ["a"], undefined, options);
    for (const options of [{ name: long }, { cluster: long }]) {
      expect(start(options)).toThrow("is too long, or has a space, comma or equals sign.");
    }
    expect(start({ name: longest, cluster: longest })).not.toThrow();
    const cluster = new Cluster(1);
    const { node } = cluster.server(cluster.leader());
    const { code } = failureOf(cluster.simulation, node.changeMembers(long, "d:1")) ?? {};
    expect(code).toBe("refused");
  });

  test("emits events about the leader, each server's role and the commit index", () => {
    const cluster = new Cluster(1);
    const leader = cluster.leader();
    const eventsOf = (name: string, types: string[]) =>
      cluster.server(name).events.filter(({ type }) => types.includes(type));
    expect(eventsOf(leader, ["recovered"])).toEqual([{
      type: "recovered",
      cutBytes: 0,
      members: configuration(cluster.names),
    }]);
    expect(eventsOf(leader, ["role"])).toEqual([
      { type: "role", from: "Follower", to: "PreCandidate" },
      { type: "role", from: "PreCandidate", to: "Candidate" },
      { type: "role", from: "Candidate", to: "Leader" },
    ]);
    for (const name of cluster.names) {
      expect(eventsOf(name, ["leader"]).at(-1)).toMatchObject({ from: undefined, to: leader });
    }
    cluster.simulation.settle(cluster.server(leader).node.propose(bytes("x")));
    cluster.simulation.run(500);
    for (const name of cluster.names) {
      const commits = eventsOf(name, ["committed"]).map((event) =>
        event.type === "committed" ? event.commitIndex : 0
      );
      expect(commits).toEqual(commits.toSorted((x, y) => x - y));
      expect(commits.at(-1)).toBe(3); // The term's no-op, a session and the command.
    }
    cluster.kill(leader);
    const next = cluster.leader();
    expect(next).not.toBe(leader);
    expect(eventsOf(next, ["leader"]).at(-1)).toMatchObject({ to: next });
  });

  test("finds all completed commands again after kills and power cuts of all its servers", () => {
    forSeeds(20, (random, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const done: string[] = [];
      for (let round = 0; round < 3; round += 1) {
        for (let i = 0; i < 3; i += 1) {
          const { node } = cluster.server(cluster.names[i] ?? "");
          const line = `${round}.${i}`;
          simulation.settle(node.propose(bytes(line)));
          done.push(line);
        }
        const keep = random() < 0.3 ? undefined : random() < 0.5 ? "nothing" : "parts";
        for (const name of cluster.names) cluster.kill(name, keep);
        for (const name of cluster.names) cluster.start(name);
      }
      const { node } = cluster.server("a");
      expect(text(simulation.settle(node.read(bytes(""))))).toBe(done.join());
    });
  });

  test("of one server begins a new, durable term at each start, and serves immediately", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    for (let [term, last] = [1, 0]; term <= 5; term += 1) {
      const { node } = cluster.server("a");
      const before = simulation.now;
      expect(text(simulation.settle(node.propose(bytes("x"))))).toBe(`${term} x`);
      expect(simulation.now - before).toBeLessThan(100);
      const { boot, ...status } = node.status();
      expect(status).toMatchObject({ term, role: "Leader", leader: "a" });
      expect(boot).toBeWithin(last + 1, last + 2 ** 20 + 1);
      last = boot;
      cluster.kill("a", "nothing");
      expect(durable(cluster.machine("a")).currentTerm).toBe(term);
      cluster.start("a");
    }
  });

  test("keeps its leader after a follower's pause: the follower first reads what has arrived", () => {
    forSeeds(20, (random, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const leader = cluster.leader();
      const follower = cluster.follower();
      const { term } = cluster.server(leader).node.status();
      const { events } = cluster.server(follower);
      simulation.run(500);
      events.length = 0;
      cluster.machine(follower).pause(2500 + 5000 * random());
      simulation.run(10_000);
      expect(events.filter(({ type }) => type !== "committed")).toEqual([]);
      expect(cluster.server(leader).node.status()).toMatchObject({ term, role: "Leader" });
    });
  });

  test("replaces a leader that pauses, which then follows without another election", () => {
    forSeeds(20, (_, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const leader = cluster.leader();
      cluster.machine(leader).pause(5000);
      simulation.run(4500);
      const others = cluster.names.filter((name) => name !== leader);
      const { term, leader: next } = cluster.server(others[0] ?? "").node.status();
      expect(others).toContain(next ?? "");
      simulation.run(5000);
      for (const name of cluster.names) {
        expect(cluster.server(name).node.status()).toMatchObject({ term, leader: next });
      }
    });
  });

  /**
   * Returns the time that the next command takes after the leader fails: in fifty clusters, and the
   * median.
   */
  function failLeaders(
    fail: (cluster: Cluster, leader: string, random: Random) => void,
    connect: (cluster: Cluster, other: string) => Pick<Node, "propose">,
  ) {
    const tookMs: number[] = [];
    forSeeds(50, (random, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const leader = cluster.leader();
      const other = cluster.follower();
      const proposer = connect(cluster, other);
      simulation.settle(proposer.propose(bytes("x")));
      simulation.run(1000 + 7 * (seed % 100));
      const { now } = simulation;
      fail(cluster, leader, random);
      expect(text(simulation.settle(proposer.propose(bytes("y"))))).toBe("2 y");
      tookMs.push(simulation.now - now);
      expect(cluster.server(other).node.status().term).toBeLessThan(4);
    });
    tookMs.sort((a, b) => a - b);
    return { medianMs: tookMs[Math.floor(tookMs.length / 2)], tookMs };
  }

  const otherNode = (cluster: Cluster, name: string) => cluster.server(name).node;

  test("replaces a killed leader long before an election timeout", () => {
    const { medianMs, tookMs } = failLeaders((cluster, leader) => cluster.kill(leader), otherNode);
    expect(medianMs).toBeLessThan(150);
    expect(tookMs.at(-1)).toBeLessThan(1000);
  });

  test("replaces a leader that restarts as fast as a killed one", () => {
    const { medianMs, tookMs } = failLeaders((cluster, leader, random) => {
      cluster.kill(leader);
      cluster.simulation.run(100 * random());
      cluster.start(leader);
    }, otherNode);
    expect(medianMs).toBeLessThan(200); // The server was dead for 50 of them.
    expect(tookMs.at(-1)).toBeLessThan(1000);
  });

  test("hardly delays a client when its leader is killed", () => {
    const connect = (cluster: Cluster) => cluster.connect("client");
    const { medianMs } = failLeaders((cluster, leader) => cluster.kill(leader), connect);
    expect(medianMs).toBeLessThan(190);
  });

  test("replaces a leader that loses power, stops or is cut off after an election timeout", () => {
    const { medianMs, tookMs } = failLeaders((cluster, leader, random) => {
      const { simulation } = cluster;
      const { ip } = cluster.machine(leader);
      const kindOfFailure = random();
      if (kindOfFailure < 0.3) cluster.kill(leader, "parts");
      else if (kindOfFailure < 0.6) cluster.machine(leader).pause(60_000);
      else simulation.route = (p) => [p.from.host, p.to.host].includes(ip) ? [] : [{ afterMs: 1 }];
    }, otherNode);
    expect(tookMs[0]).toBeGreaterThan(1000 - 101); // Counted from the last heartbeat.
    expect(medianMs).toBeLessThan(1150);
  });

  test("receives the first entry of a term as soon as its leader is elected", () => {
    forSeeds(10, (_, seed) => {
      const cluster = new Cluster(seed, ["a", "b", "c", "d", "e"]);
      const { simulation } = cluster;
      const old = cluster.leader();
      simulation.settle(cluster.server(old).node.propose(bytes("x")));
      simulation.run(500);
      cluster.kill(old);
      const place = messages.AppendEntries.indexOf("entries") + 2;
      const sent = new Map<string, number>();
      let electedAt = 0;
      simulation.afterTurn = ({ name }) => {
        const isNew = electedAt === 0 && cluster.server(name).node.status().role === "Leader";
        if (isNew) electedAt = simulation.now;
      };
      simulation.watch = ({ packet }) => {
        const { types, bodies } = packet ? open(packet.bytes) : { types: [], bodies: [] };
        const isFull = types.some((type, i) =>
          type === "AppendEntries" && (bodies[i]?.[place] as Buffer).length > 0
        );
        const to = packet?.to.host ?? "";
        if (isFull && !sent.has(to)) sent.set(to, simulation.now);
      };
      expect(simulation.run(5000, () => electedAt > 0)).toBe(true);
      expect([...sent.values()]).toEqual(Array(4).fill(electedAt));
    });
  });

  test("serves every request that a paused candidate finds together with its votes", () => {
    let elected = 0;
    forSeeds(10, (_, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const old = cluster.leader();
      simulation.settle(cluster.server(old).node.propose(bytes("x")));
      const visitors = new Map(cluster.names.map((name) => [name, cluster.visitor(name)]));
      const receivedFrom = (name: string) =>
        visitors.get(name)?.received.map(({ type, body: [, id, ...fields] }) => {
          const outcomes = type === "Outcomes" ? readOutcomes(fields) : [];
          const all = outcomes.map(({ outcome }) => outcome).join();
          return `${id} ${type} ${type === "Answer" ? text(fields[0] as Buffer) : all}`.trim();
        }) ?? [];
      visitors.get(old)?.send(message("OpenSession", 1, 7));
      simulation.run(300);
      const session = Number(receivedFrom(old)[0]?.split(" ")[2]);
      // The candidate pauses after it has asked for votes, and then finds votes and requests.
      cluster.kill(old);
      let winner = "";
      simulation.afterTurn = ({ name }) => {
        if (winner !== "" || cluster.server(name).node.status().role !== "Candidate") return;
        winner = name;
        cluster.machine(name).pause(400);
      };
      expect(simulation.run(5000, () => winner !== "")).toBe(true);
      const read = (id: number) => message("Read", id, bytes(""));
      // This read arrives before the votes, so the server does not lead yet.
      simulation.route = ({ from }) => {
        const isServer = cluster.names.includes(simulation.machineAt(from.host)?.name ?? "");
        return [{ afterMs: isServer ? 1 : 0.1 }];
      };
      visitors.get(winner)?.send(read(2));
      simulation.run(50);
      const isSplit = [...cluster.running].some(([name, { node }]) =>
        name !== winner && node.status().role !== "Follower"
      );
      if (isSplit) return; // The votes are split, so another server may win the next election.
      elected += 1;
      const command = (id: number, line: string) =>
        message("Commands", id, ...commandsOf([session, id, 0], bytes(line)));
      visitors.get(winner)?.send(
        read(10),
        command(11, "y"),
        message("OpenSession", 12, 8),
        read(13),
      );
      simulation.run(2);
      visitors.get(winner)?.send(command(14, "z"), command(11, "y"), read(10));
      simulation.run(1000);
      expect(receivedFrom(winner).toSorted()).toEqual([
        "10 Answer x,y,z",
        "11 Outcomes 2 y",
        expect.stringMatching(/^12 Outcomes [0-9]+$/),
        "13 Answer x,y,z",
        "14 Outcomes 3 z",
        "2 NotLeader",
      ]);
      expect(cluster.lines(winner)).toEqual(["x", "y", "z"]);
      expect(whatIsLeft(cluster.server(winner).node)).toBe("");
    });
    if (!isReplay) expect(elected).toBeGreaterThan(5);
  });

  test("answers the waiting clients of a leader that steps down", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const { ip } = cluster.machine(leader);
    const visitor = cluster.visitor(leader);
    // A client that sends once, and a leader that hears no other server.
    simulation.route = ({ from, to }) => {
      const isCut = [from.host, to.host].includes(ip);
      return isCut && ![from.host, to.host].includes(visitor.address.host) ? [] : [{ afterMs: 1 }];
    };
    visitor.send(message("OpenSession", 41, 7), message("Read", 42, bytes("")));
    simulation.run(50);
    expect(visitor.received).toEqual([]);
    simulation.run(2500);
    const received = visitor.received.map(({ type, body: [, id] }) => `${type} ${id}`);
    expect(received.toSorted()).toEqual(["NotLeader 41", "NotLeader 42"]);
  });

  test("is not blocked by a dead peer whose closed port loses datagrams to others", () => {
    forSeeds(20, (random, seed) => {
      const cluster = new Cluster(seed);
      cluster.kill("c");
      const { simulation } = cluster;
      const dead = cluster.machine("c").ip;
      const refused = new Set<string>();
      let lost = 0;
      simulation.route = ({ from, to }) => {
        const isLost = refused.delete(from.host) && random() < 0.5;
        if (to.host === dead) refused.add(from.host);
        lost += isLost ? 1 : 0;
        return isLost || to.host === dead ? [] : [{ afterMs: random() }];
      };
      for (let i = 1; i <= 5; i += 1) {
        const { node } = cluster.server(i % 2 ? "a" : "b");
        expect(text(simulation.settle(node.propose(bytes("x")), 20_000))).toBe(`${i} x`);
      }
      expect(lost).toBeGreaterThan(0);
    });
  });

  test("hears no more of a stopped server, which frees its port and its directory", () => {
    const cluster = new Cluster(1, ["a", "b", "c"]);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const { node, reasons } = cluster.server(leader);
    simulation.settle(node.propose(bytes("in time")));
    const command = node.propose(bytes("too late"));
    const stopped = node.stop();
    expect(codeOf(simulation, command)).toBe("outcomeUnknown");
    simulation.settle(stopped);
    const happenings: Happening[] = [];
    simulation.watch = (happening) => void happenings.push(happening);
    simulation.run(3000);
    expect(happenings.filter(({ machine }) => machine.name === leader)).toEqual([]);
    expect(reasons).toEqual([]);
    cluster.start(leader);
    expect(cluster.names).toContain(cluster.leader());
  });

  test("hands over before its leader stops, so that no command waits for an election", () => {
    const cluster = new Cluster(1, ["a", "b", "c"]);
    const { simulation } = cluster;
    for (let i = 1; i <= 5; i += 1) {
      const leader = cluster.leader();
      const { node } = cluster.server(cluster.follower());
      simulation.settle(node.propose(bytes("before")));
      const startedAt = simulation.now;
      simulation.settle(cluster.server(leader).node.stop());
      simulation.settle(node.propose(bytes("after")));
      expect(simulation.now - startedAt).toBeLessThan(400); // In simulated time.
      cluster.start(leader);
    }
    cluster.leader();
    simulation.run(500);
    expect(cluster.lines("a").length).toBe(10);
  });

  test("does not hand over to a server that has just died, when its leader stops", () => {
    const names = ["a", "b", "c", "d", "e"];
    for (const place of [0, 1, 2, 3]) {
      const cluster = new Cluster(1, names);
      const { simulation } = cluster;
      const leader = cluster.leader();
      simulation.run(500);
      const [dead = ""] = names.filter((name) => name !== leader).slice(place);
      const { ip } = cluster.machine(dead);
      let isAnswering = false;
      simulation.route = ({ from, bytes: sealed }) => {
        isAnswering ||= from.host === ip && open(sealed).types.includes("AppendEntriesReply");
        return [{ afterMs: 1 }];
      };
      expect(simulation.run(1000, () => isAnswering)).toBe(true);
      cluster.kill(dead); // Its last answer is still in flight.
      const { node } = cluster.server(names.find((name) => ![leader, dead].includes(name)) ?? "");
      const startedAt = simulation.now;
      simulation.settle(cluster.server(leader).node.stop());
      simulation.settle(node.propose(bytes("after")));
      expect(simulation.now - startedAt).toBeLessThan(200);
    }
  });

  test("lets a leader stop without a handover if none succeeds, or if stop is called twice", () => {
    const cluster = new Cluster(1, ["a", "b", "c"]);
    const { simulation } = cluster;
    const [leader, follower] = [cluster.leader(), cluster.follower()];
    simulation.run(500); // So the leader has heard both followers.
    cluster.names.filter((name) => name !== leader).forEach((name) => cluster.kill(name));
    const { node } = cluster.server(leader);
    const startedAt = simulation.now;
    simulation.settle(node.stop());
    expect(simulation.now - startedAt).toBeGreaterThan(0);
    expect(simulation.now - startedAt).toBeLessThanOrEqual(1100);
    for (const name of cluster.names) cluster.start(name);
    expect(cluster.names).toContain(follower);
    const stopping = cluster.server(cluster.leader()).node;
    void stopping.stop();
    const second = simulation.now;
    simulation.settle(stopping.stop());
    expect(simulation.now).toBe(second);
  });

  test("elects a leader after all its servers moved to new addresses together", () => {
    const cluster = new Cluster(3);
    cluster.leader();
    cluster.names.forEach((name, i) => cluster.machine(name).ip = `10.0.9.${i}`);
    cluster.simulation.run(30_000);
    cluster.leader();
  });

  test("frees the port and the directory of a server that cannot start", () => {
    const { simulation, names } = new Cluster(1, []);
    const world = simulation.machine("a").boot();
    const options = {
      host: "a",
      port: 1,
      name: "a",
      peers: names,
      directory: "data",
      secret: SECRET,
      world,
      machine: new Diary(),
    };
    const onEvent = () => {
      throw new Error("Cannot handle this event.");
    };
    expect(() => simulation.settle(Node.start({ ...options, onEvent }))).toThrow(
      "handle this event",
    );
    simulation.settle(simulation.settle(Node.start(options)).stop());
  });

  test("refuses a server with contradictory options, a taken port or a directory in use", () => {
    const simulation = new Simulation(1);
    const machine = new Diary();
    const world = simulation.machine("a").boot();
    const start = (options: Partial<NodeOptions>) =>
      codeOf(
        simulation,
        Node.start({
          host: "a",
          port: 1,
          peers: ["b:1"],
          directory: "data",
          secret: SECRET,
          machine,
          world,
          ...options,
        }),
      );
    expect(start({ peers: ["b:1", "b:1"] })).toBe("usage");
    expect(start({ peers: ["a:1"] })).toBe("usage");
    expect(start({ name: "b:1" })).toBe("usage");
    expect(start({ peers: ["b=c:1", "d=c:1"] })).toBe("usage"); // Two names for one peer.
    expect(start({ peers: ["b=a:1"] })).toBe("usage"); // Another name for itself.
    expect(start({ host: "" })).toBe("usage");
    for (const port of [0, -1, 1.5, 65_536, Number.NaN]) expect(start({ port })).toBe("usage");
    expect(start({ peers: ["b"] })).toBe("usage");
    const socket = simulation.settle(world.datagrams.bind({ host: "a", port: 1 }, () => {}));
    expect(start({})).toBe("network");
    socket.close();
    expect(start({})).toBe("none"); // The failed start has released the directory.
    expect(start({ port: 2 })).toBe("storage");
  });
});

describe("two servers with one name", () => {
  type Directory = "an empty directory" | "a copy of the directory";

  /** Starts a second server with this name on another machine. */
  function startSecond(cluster: Cluster, of: string, kind: Directory): Node {
    const second = cluster.machine("second");
    const log = cluster.machine(of).disk.read("data/log");
    if (kind === "a copy of the directory") second.disk.put("data/log", log ?? Buffer.alloc(0));
    const peers = cluster.names.filter((name) => name !== of).map((name) => `${name}=${name}:1`);
    return cluster.simulation.settle(
      Node.start({
        host: "second",
        port: 1,
        name: of,
        peers,
        directory: "data",
        secret: SECRET,
        machine: cluster.create(),
        world: second.boot(),
      }),
    );
  }

  test.each(["an empty directory", "a copy of the directory"] as const)(
    "with %s: the later one is the member, and the others report the older one",
    (kind) => {
      forSeeds(isThorough ? 6 : 2, (_, seed) => {
        const cluster = new Cluster(seed);
        const { simulation } = cluster;
        const leader = cluster.leader();
        const name = seed % 2 === 0 ? leader : cluster.follower();
        simulation.settle(cluster.server(leader).node.propose(bytes("before")));
        simulation.run(500); // So that each disk has the whole log.
        const others = cluster.names.filter((other) => other !== name);
        const reportsOfTwo = () =>
          others.map((other) =>
            cluster.server(other).events.filter(({ type }) => type === "twice")
          );
        const older = cluster.server(name).node;
        const newer = startSecond(cluster, name, kind);
        const from = (machine: string) => ({ host: cluster.machine(machine).ip, port: 1 });
        simulation.run(10_000);
        const report = {
          type: "twice",
          server: name,
          address: from(name),
          other: from("second"),
        } as const;
        expect(reportsOfTwo()).toEqual([[report], [report]]);
        const isSame = newer.status().disk === older.status().disk;
        expect(isSame).toBe(kind === "a copy of the directory");
        const lost = others.flatMap((other) =>
          cluster.server(other).events.filter(({ type }) => type === "lostDisk")
        );
        expect(lost).toEqual(isSame ? [] : [{ type: "lostDisk", server: name }]);
        // The older server has no leader and no followers, and the others remain one cluster.
        expect(older.status()).toMatchObject({ leader: null });
        const rest = others.map((other) => cluster.server(other).node);
        const [leading = newer] = rest.filter((node) => node.status().role === "Leader");
        simulation.settle(leading.propose(bytes("after")));
        expect(text(simulation.settle(newer.read(bytes(""))))).toBe("before,after");
        const { disk, leader: now } = newer.status();
        expect(leading.status().name).toBe(now ?? "");
        for (const node of rest) {
          expect(node.status()).toMatchObject({ leader: now });
          expect(node.status().members.find((member) => member.name === name)).toMatchObject({
            disk,
            votes: true,
          });
        }
        simulation.run(60_000);
        expect(reportsOfTwo()).toEqual([[report, report], [report, report]]);
      });
    },
  );
});

describe("a server that was started with a wrong directory, and then with its own", () => {
  /** Restarts a server with an empty directory for some time, and then with its own again. */
  function mistake(cluster: Cluster, name: string): Node {
    cluster.kill(name);
    cluster.start(name, { directory: "wrong" });
    cluster.simulation.run(5000);
    cluster.kill(name);
    return cluster.start(name);
  }
  const eventsOf = (cluster: Cluster, wanted: NodeEvent["type"]) =>
    [...cluster.running.values()].flatMap(({ events }) =>
      events.filter(({ type }) => type === wanted)
    );

  test("is a member again, although the leader has named the other disk meanwhile", () => {
    for (let seed = 1; seed <= 6; seed += 1) {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const name = seed % 2 === 0 ? cluster.leader() : cluster.follower();
      simulation.settle(cluster.server(name).node.propose(bytes("before")));
      const node = mistake(cluster, name);
      simulation.run(5000);
      simulation.settle(node.propose(bytes("after")));
      expect(text(simulation.settle(node.read(bytes(""))))).toBe("before,after");
      const { disk } = node.status();
      for (const { node: each } of cluster.running.values()) {
        expect(each.status().members.find((member) => member.name === name)).toMatchObject({
          disk,
          votes: true,
        });
      }
      expect(eventsOf(cluster, "lostDisk")).toHaveLength(2);
      expect(eventsOf(cluster, "twice")).toEqual([]);
    }
  });

  test("is counted at once if its disk is needed for a majority", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const [name, other] = [cluster.leader(), cluster.follower()];
    simulation.settle(cluster.server(name).node.propose(bytes("before")));
    cluster.kill(other);
    const node = mistake(cluster, name);
    simulation.settle(node.propose(bytes("after")));
    expect(text(simulation.settle(node.read(bytes(""))))).toBe("before,after");
    expect(eventsOf(cluster, "lostDisk")).toEqual([]);
    expect(eventsOf(cluster, "twice")).toEqual([]);
  });
});

describe("a server that others on the network could reach", () => {
  /** Tries to start a server at this address. Returns the error, if there is one. */
  function tryStart(ip: string, options: Partial<NodeOptions> = {}) {
    const simulation = new Simulation(1);
    const machine = simulation.machine("a");
    machine.ip = ip;
    const started = Node.start({
      host: "a",
      port: 1,
      peers: [],
      directory: "data",
      machine: new Diary(),
      world: machine.boot(),
      ...options,
    });
    return failureOf(simulation, started);
  }

  test("does not start if its timeouts contradict each other", () => {
    const wrong = [[501, 1000], [0, 1000], [-1, 1000], [Number.NaN, 1000], [100, Number.NaN]];
    for (const [heartbeatMs = 0, electionTimeoutMs = 0] of wrong) {
      const { code, message } = tryStart("127.0.0.1", { heartbeatMs, electionTimeoutMs }) ?? {};
      expect(code).toBe("usage");
      expect(message).toStartWith(
        `With a heartbeat every ${heartbeatMs} ms and an election timeout of `
          + `${electionTimeoutMs} ms, one lost heartbeat would cause an election`,
      );
    }
    expect(tryStart("127.0.0.1", { heartbeatMs: 500, electionTimeoutMs: 1000 })).toBeUndefined();
  });

  test("does not start without a secret, and the error says how to make one", () => {
    for (const ip of ["10.0.0.1", "192.168.1.7", "0.0.0.0", "::", "fe80::1", "2001:db8::127"]) {
      const { code, message } = tryStart(ip, { name: "a" }) ?? {};
      expect([ip, code]).toEqual([ip, "usage"]);
      expect(message).toContain(`loopback addresses only, not on ${ip}`);
      expect(message).toContain(
        "'bun cli.ts secret > raft.secret', then '--secret-file raft.secret'",
      );
      expect(tryStart(ip, { name: "a", secret: SECRET })).toBeUndefined();
    }
    for (const ip of ["127.0.0.1", "127.9.9.9", "::1"]) expect(tryStart(ip)).toBeUndefined();
  });

  test("releases its port, and leaves its directory alone, if it does not start", () => {
    const simulation = new Simulation(1);
    const machine = simulation.machine("a");
    const options = {
      host: "a",
      port: 1,
      peers: [],
      directory: "data",
      machine: new Diary(),
      world: machine.boot(),
    };
    expect(codeOf(simulation, Node.start(options))).toBe("usage");
    expect(machine.disk.read("data/log")).toBeUndefined();
    expect(codeOf(simulation, Node.start({ ...options, secret: SECRET }))).toBe("none");
  });

  test("needs a name that its peers know if it listens on every address of its machine", () => {
    for (const [ip, host] of [["0.0.0.0", "0.0.0.0"], ["::", "::"], ["::", "[::]"]] as const) {
      const { code, message } = tryStart(ip, { host, secret: SECRET }) ?? {};
      expect(code).toBe("usage");
      expect(message).toContain("cannot be a name. Give this server the name that its peers use");
      expect(tryStart(ip, { host, secret: SECRET, name: "10.0.0.1:1" })).toBeUndefined();
    }
  });

  test("is named as its address is written, also for IPv6", () => {
    for (const host of ["::1", "[::1]"]) {
      const simulation = new Simulation(1);
      const machine = simulation.machine("a");
      machine.ip = "::1";
      const options = {
        port: 48000,
        peers: ["[::1]:48001"],
        directory: "data",
        machine: new Diary(),
        world: machine.boot(),
      };
      const { name, members } = simulation.settle(Node.start({ host, ...options })).status();
      expect(name).toBe("[::1]:48000");
      expect(members.map(({ address }) => address)).toEqual(["[::1]:48000", "[::1]:48001"]);
    }
  });

  test("serves clients with the secret or the client key, and no others", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const connect = (options: Partial<ClientOptions>) =>
      simulation.settle(
        Client.connect({
          servers: [`${leader}:1`],
          timeoutMs: 500,
          world: simulation.machine("client").boot(),
          ...options,
        }),
      );
    const key = clientKey(SECRET, "raft", "alice");
    for (const right of [{ secret: SECRET }, { clientKey: key }]) {
      simulation.settle(connect(right).propose(bytes("x")));
    }
    const wrongOptions = [
      {},
      { secret: "another".repeat(9) },
      { secret: SECRET, cluster: "other" },
      {
        clientKey: clientKey(SECRET, "other", "alice"),
      },
      { secret: key },
    ];
    for (const wrong of wrongOptions) {
      const error = failureOf(simulation, connect(wrong).propose(bytes("y")));
      expect(error?.code).toBe("timeout");
      expect(error?.message).toBe(
        "No answer in 500 ms. Check that a majority of the servers runs, "
          + `with this secret and cluster. Asked: ${leader}:1 (never heard).`,
      );
    }
    expect(cluster.lines(leader)).toEqual(["x", "x"]);
    const { events, node } = cluster.server(leader);
    const address = { host: simulation.machine("client").ip, port: expect.any(Number) };
    expect(events.filter(({ type }) => type === "unauthenticated")).toEqual([
      { type: "unauthenticated", address },
    ]);
    expect(node.status().dropped["unauthenticated"]).toBeGreaterThan(4);
  });

  test("rejects a client key that is malformed", () => {
    const simulation = new Simulation(1);
    const world = simulation.machine("client").boot();
    const key = clientKey(SECRET, "raft", "alice");
    for (const wrong of ["", "secret", key.slice(1), key.slice(0, -3), `${key}\n${SECRET}`]) {
      const connected = Client.connect({ servers: ["a:1"], clientKey: wrong, world });
      const { code, message } = failureOf(simulation, connected) ?? {};
      expect([code, message]).toEqual([
        "usage",
        "This is not a client key. 'bun cli.ts client-key NAME' prints one, on one line.",
      ]);
    }
  });

  test("takes no empty secret, neither at its start nor later", () => {
    for (const secret of ["", "\n", "short"]) {
      expect(tryStart("10.0.0.1", { name: "a", secret })?.code).toBe("usage");
    }
    const cluster = new Cluster(1, ["a"]);
    const client = cluster.connect("client");
    cluster.simulation.settle(client.propose(bytes("before")));
    expect(() => cluster.server("a").node.setSecret("\n")).toThrow("loopback addresses only");
    cluster.simulation.settle(client.propose(bytes("after")));
    const stranger = cluster.simulation.settle(
      Client.connect({
        servers: ["a:1"],
        timeoutMs: 500,
        world: cluster.simulation.machine("stranger").boot(),
      }),
    );
    expect(codeOf(cluster.simulation, stranger.read(bytes("")))).toBe("timeout");
  });

  test("rejects a secret with a line of fewer than 32 characters", () => {
    for (const secret of ["x".repeat(31), `${SECRET}\nshort`]) {
      expect(tryStart("10.0.0.1", { name: "a", secret })).toMatchObject({
        code: "usage",
        message: "A secret has at least 32 characters. 'bun cli.ts secret' makes one.",
      });
    }
    const padded = `\n ${"x".repeat(32)} \r\n\n`;
    expect(tryStart("10.0.0.1", { name: "a", secret: padded })).toBeUndefined();
  });
});

describe("a server's status", () => {
  test("shows a leader's view of its followers, and a follower's view of its leader", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const leader = cluster.leader();
    simulation.settle(cluster.server(leader).node.propose(bytes("x".repeat(1000))));
    simulation.run(500);
    const of = (name: string) => cluster.server(name).node.status();
    const { peers, lastTerm, lastIndex, logBytes, term, ...rest } = of(leader);
    expect([lastTerm, lastIndex]).toEqual([term, 3]);
    expect(logBytes).toBeWithin(1000, 1300);
    expect(rest).toMatchObject({
      votedFor: leader,
      unsaved: 0,
      votes: null,
      needed: 2,
      silentMs: null,
    });
    const others = cluster.names.filter((name) => name !== leader);
    expect(peers.map(({ name }) => name)).toEqual(others);
    for (const { name, heardMs, roundTripMs, ...peer } of peers) {
      expect(peer).toEqual({
        address: `${cluster.machine(name).ip}:1`,
        matchIndex: 3,
        lastWarning: null,
        isVoter: true,
        founding: of(leader).founding,
        usesNamedDisk: true,
        stuck: null,
      });
      // A heartbeat and its answer take up to a millisecond each.
      expect(heardMs).toBeWithin(0, 103);
      expect(roundTripMs).toBeWithin(0, 5);
      expect(of(name).silentMs).toBeWithin(0, 102);
      expect(of(name).peers.map(({ matchIndex }) => matchIndex)).toEqual([null, null]);
    }
  });

  test("shows why there is no leader: silent peers, unresolved names, and the votes", () => {
    const cluster = new Cluster(3);
    const { simulation } = cluster;
    for (const name of ["a", "c"]) cluster.kill(name);
    const node = cluster.start("a", { peers: ["b=b:1", "c=ghost:1"] });
    expect(cluster.leader()).toBe("b"); // So b writes the addresses in the log.
    cluster.kill("b");
    simulation.run(10_000);
    const { role, votes, needed, silentMs, peers } = node.status();
    expect([role, votes, needed]).toEqual(["PreCandidate", 1, 2]);
    expect(silentMs).toBeWithin(9000, 12_000);
    expect(peers).toMatchObject([
      { name: "b", address: `${cluster.machine("b").ip}:1`, lastWarning: null, matchIndex: null },
      // The log has the right address, although the option has a wrong one.
      {
        name: "c",
        address: `${cluster.machine("c").ip}:1`,
        lastWarning: { type: "unresolved", reason: "ENOTFOUND: ghost" },
        heardMs: null,
        roundTripMs: null,
      },
    ]);
    expect(peers[0]?.heardMs).toBeWithin(9900, 10_200);
  });

  test("shows an entry that is too large to arrive, as an event does", () => {
    const large = { datagramBytes: 8000 };
    const cluster = new Cluster(1, ["a", "b", "c"], () => new Diary(), large);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const [receiver = ""] = cluster.names.filter((name) => name !== leader);
    const { ip } = cluster.machine(receiver);
    simulation.route = ({ to, bytes: { length } }) =>
      to.host === ip && length > 1400 ? [] : [{ afterMs: 1 }];
    const { node, events } = cluster.server(leader);
    simulation.settle(node.propose(Buffer.alloc(5000)));
    simulation.run(5000);
    const { lastIndex: index, peers, logBytes } = node.status();
    const [stuck] = peers.flatMap((peer) => peer.name === receiver ? peer.stuck ?? [] : []);
    expect(stuck).toMatchObject({ server: receiver, index });
    expect(stuck?.bytes).toBeWithin(5000, logBytes);
    expect(events.filter(({ type }) => type === "stuck")).toEqual(stuck ? [stuck] : []);
  });

  test("reaches a client unchanged, with null for unknown values", () => {
    const cluster = new Cluster(1, ["a", "b"]);
    const client = cluster.connect("client");
    cluster.kill("b");
    cluster.kill("a");
    cluster.start("a");
    const status = cluster.simulation.settle(client.inspect("a"));
    const { silentMs, ...known } = JSON.parse(JSON.stringify(cluster.server("a").node.status()));
    expect(status).toMatchObject(known);
    expect(status.silentMs).toBeWithin(0, silentMs + 1);
    expect(status.leader).toBeNull();
    expect(status.peers).toEqual([{
      name: "b",
      address: `${cluster.machine("b").ip}:1`,
      lastWarning: null,
      heardMs: null,
      roundTripMs: null,
      matchIndex: null,
      isVoter: true,
      founding: null,
      usesNamedDisk: true,
      stuck: null,
    }]);
  });

  test("reports once that a name does not resolve, although two kinds of peers have it", () => {
    const simulation = new Simulation(1);
    const peers = ["ghost=ghost:1"];
    const events: NodeEvent[] = [];
    simulation.settle(
      Node.start({
        host: "a",
        port: 1,
        name: "a",
        peers,
        directory: "data",
        secret: SECRET,
        machine: new Diary(),
        onEvent: (event) => void events.push(event),
        world: simulation.machine("a").boot(),
      }),
    );
    simulation.run(10_000);
    expect(events.filter(({ type }) => type === "unresolved")).toEqual([
      {
        type: "unresolved",
        server: { name: "ghost", host: "ghost", port: 1 },
        reason: "ENOTFOUND: ghost",
      },
    ]);
  });
});

/** Returns the state that a server would find if its power failed now. */
function durable(machine: Machine): HardState & { entries: Entry[]; has(line: string): boolean } {
  const disk = new Disk(randomFrom(1));
  const log = machine.disk.durable("data/log");
  const zeros = Math.min(12, machine.disk.durableSize("data/log") - (log?.length ?? 0));
  if (log) disk.put("data/log", Buffer.concat([log, Buffer.alloc(zeros)]));
  const founder = { cluster: "raft", name: machine.name, members: ["a", "b", "c"] };
  const { hardState, entries } = new Storage(disk.files(), "data", founder, randomFrom(1));
  return { ...hardState, entries, has: (line) => entries.some(({ data }) => data.includes(line)) };
}

describe("no promise leaves before the sync", () => {
  /** Compares a message with what its sender's disk holds as the message leaves. */
  function checkPromise(
    cluster: Cluster,
    machine: Machine,
    type: string,
    fields: unknown[],
    to: unknown,
    counts: Record<string, number>,
  ): void {
    const disk = durable(machine);
    const [, , term = 0] = fields as number[];
    const count = (what: string) => counts[what] = (counts[what] ?? 0) + 1;
    if (type === "RequestVote" && fields[3] === false) {
      count("RequestVote");
      expect([disk.currentTerm, disk.votedFor]).toEqual([term, machine.name]);
    } else if (type === "RequestVoteReply" && fields[3] === false && fields[5] === true) {
      count("vote");
      expect([disk.currentTerm, disk.votedFor]).toEqual([term, String(to)]);
    } else if (type === "AppendEntriesReply" && fields[4] === true) {
      count("acknowledgement");
      expect(disk.currentTerm).toBe(term);
      expect(disk.entries.length).toBeGreaterThanOrEqual(Number(fields[5]));
    } else if (type === "AppendEntries") {
      expect(disk.currentTerm).toBe(term);
      const records = Buffer.from(fields[7] as Uint8Array);
      const last = records.length > 0 ? Number(fields[4]) + 1 : 0;
      count(disk.entries.length < last ? "early" : "heartbeat");
    } else if (type === "Outcomes") {
      for (const { outcome } of readOutcomes(fields.slice(2))) {
        const [, line = ""] = outcome.split(" ");
        count("answer");
        const holders = cluster.names.filter((name) => durable(cluster.machine(name)).has(line));
        expect(holders.length).toBeGreaterThan(1);
      }
    }
  }

  test("neither a vote, nor a RequestVote, nor an acknowledgement, nor an answer does", () => {
    const counts: Record<string, number> = {};
    forSeeds(12, (random, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      simulation.watch = ({ machine, packet }) => {
        if (!packet) return;
        for (const { type, body } of open(packet.bytes).messages) {
          checkPromise(cluster, machine, type, body, open(packet.bytes).to, counts);
        }
      };
      simulation.route = () => random() < 0.1 ? [] : [{ afterMs: 3 * random() }];
      const client = cluster.connect("client");
      for (let n = 0; n < 6; n += 1) {
        const commands = ["x", "y", "z"].map((word) => client.propose(bytes(`${word}${n}`)));
        const outcomes = simulation.settle(Promise.allSettled(commands));
        counts["done"] = (counts["done"] ?? 0)
          + outcomes.filter(({ status }) => status === "fulfilled").length;
        if (random() < 0.7) continue;
        const leader = cluster.leader();
        cluster.kill(leader, "parts");
        cluster.start(leader);
      }
    });
    for (const what of ["RequestVote", "vote", "acknowledgement", "early", "answer", "done"]) {
      if (!isReplay) expect(counts[what] ?? 0, what).toBeGreaterThan(10);
    }
  });

  test.each(["write", "sync"] as const)(
    "a server whose disk fails at a %s stops with the reason, and sends nothing more",
    (what) => {
      forSeeds(30, (random, seed) => {
        const cluster = new Cluster(seed);
        const { simulation } = cluster;
        if (seed % 3 > 0) cluster.leader(); // Otherwise the disk fails during the first election.
        const victim = seed % 3 === 1 ? cluster.leader() : cluster.names[seed % 2] ?? "a";
        const after: unknown[] = [];
        let failures = 0;
        cluster.machine(victim).disk.fault = (operation) => {
          if (operation.what !== what) return undefined;
          failures += 1;
          simulation.watch = ({ machine, packet }) =>
            void (machine.name === victim && packet && after.push(open(packet.bytes).types));
          return { code: "EIO", share: random() };
        };
        const other = cluster.names.find((name) => name !== victim) ?? "";
        const command = cluster.server(other).node.propose(bytes("x"));
        expect(text(simulation.settle(command))).toBe("1 x");
        simulation.run(3000);
        expect(failures).toBe(1); // The server does not use a failed disk again.
        expect(after).toEqual([]);
        const { reasons } = cluster.server(victim);
        expect(reasons).toHaveLength(1);
        expect(reasons[0]).toMatchObject({ code: "storage" });
        expect(reasons[0]).toBeInstanceOf(RaftError);
        // With the disk repaired, the server restarts with all that it had promised.
        cluster.machine(victim).disk.fault = () => undefined;
        cluster.kill(victim, "parts");
        cluster.start(victim);
        simulation.run(3000);
        expect(cluster.lines(victim)).toEqual(["x"]);
      });
    },
  );

  test("a leader has one sync for all commands that arrived during the turn before", () => {
    const order: string[] = [];
    let leading: StateMachine | undefined;
    class Slow extends Diary {
      override apply(command: Uint8Array): Uint8Array {
        if (this === leading) order.push(text(command).charAt(0));
        return super.apply(command);
      }
    }
    const cluster = new Cluster(1, ["a", "b"], () => new Slow());
    const { simulation } = cluster;
    simulation.route = () => [{ afterMs: 0.5 }];
    const name = cluster.leader();
    const { node, machine } = cluster.server(name);
    leading = machine;
    simulation.settle(node.propose(bytes("to open the session")));
    cluster.machine(name).disk.fault = ({ what }) => {
      if (what === "sync") order.push(what);
      return undefined;
    };
    cluster.machine(cluster.follower()).turnMs = 5; // So it acknowledges several entries at a time.
    const proposeTwo = async (letter: string) => {
      await node.propose(bytes(letter.repeat(40_000))); // A turn applies two of these at most.
      await node.propose(bytes(letter.toUpperCase()));
    };
    order.length = 0;
    simulation.settle(Promise.all(["x", "y", "z"].map(proposeTwo)));
    expect(order.join(" ")).toBe("sync x y z sync X Y Z");
  });

  test("a follower under load applies as much as it saves, however much a turn brings", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    simulation.route = () => [{ afterMs: 0.5 }]; // Keeps the order, so the whole window is used.
    const { node } = cluster.server(cluster.leader());
    const name = cluster.follower();
    const follower = coreOf(cluster.server(name).node);
    cluster.machine(name).turnMs = 5; // Meanwhile up to ten entries arrive.
    const data = makeCommand([1, 1, 0], bytes("x".repeat(30_000)));
    const backlogs = Array.from({ length: 100 }, () => {
      for (let i = 0; i < 2; i += 1) coreOf(node).propose("commands", data);
      node["endpoint"].schedule();
      simulation.run(1);
      return follower.commitIndex - follower.lastApplied;
    });
    expect(follower.commitIndex).toBeGreaterThan(100);
    expect(Math.max(...backlogs)).toBeLessThan(30);
  });

  test("a state machine that throws stops its server, with its error, at every start", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const { node, reasons } = cluster.server("a");
    simulation.settle(node.propose(bytes("x")));
    const session = node["client"]["session"];
    expect(codeOf(simulation, node.propose(bytes("throw")))).toBe("outcomeUnknown");
    const sentence = `Cannot apply entry 4, request 2 of session ${session}: every start stops `
      + "here again. Correct the state machine, in the same way on all servers. It says: Error: This "
      + "command is too much for me.";
    const cause = new Error("This command is too much for me.");
    expect(reasons).toEqual([new RaftError("usage", sentence, { cause })]);
    cluster.kill("a");
    cluster.start("a");
    simulation.run(2000);
    expect(cluster.server("a").reasons).toEqual(reasons);
    const happenings: unknown[] = [];
    simulation.watch = (happening) => void happenings.push(happening);
    simulation.run(1000);
    expect(happenings).toEqual([]);
  });
});

describe("a command is applied once", () => {
  test("although datagrams are lost or repeated, servers crash, and clients retry", () => {
    const counts = { done: 0, unknown: 0, kills: 0, duplicates: 0 };
    forSeeds(40, (random, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      simulation.route = () => {
        const copies = random() < 0.15 ? 0 : random() < 0.2 ? 2 : 1;
        counts.duplicates += copies === 2 ? 1 : 0;
        return Array.from(
          { length: copies },
          () => ({ afterMs: random() < 0.1 ? 300 * random() : random() }),
        );
      };
      const clients = ["x", "y"].map((name) => cluster.connect(name));
      const answers = new Map<string, string>();
      for (let round = 0; round < 6; round += 1) {
        const lines = clients.flatMap((client, n) =>
          [0, 1, 2, 3, 4].map(async (k) => {
            const line = `${n}.${round}.${k}`;
            answers.set(line, text(await client.propose(bytes(line))));
          })
        );
        simulation.run(50 * random());
        if (random() < 0.4) {
          const victim = cluster.names[Math.floor(random() * 3)] ?? "a";
          cluster.kill(victim, random() < 0.5 ? "parts" : undefined);
          simulation.run(1000 * random());
          cluster.start(victim);
          counts.kills += 1;
        }
        for (const outcome of simulation.settle(Promise.allSettled(lines))) {
          if (outcome.status === "fulfilled") counts.done += 1;
          else if (["outcomeUnknown", "timeout"].includes(outcome.reason.code)) counts.unknown += 1;
          // In particular no command may be taken for another one's repetition.
          else throw outcome.reason;
        }
      }
      simulation.route = () => [{ afterMs: random() }];
      simulation.settle(cluster.server(cluster.leader()).node.propose(bytes("the end")));
      simulation.run(1000);
      const history = cluster.lines("a");
      for (const name of cluster.names) expect(cluster.lines(name)).toEqual(history);
      expect(new Set(history).size).toBe(history.length);
      for (const [line, answer] of answers) {
        expect(answer).toBe(`${history.indexOf(line) + 1} ${line}`);
      }
      const all = [...cluster.names.map((name) => cluster.server(name).node), ...clients];
      expect(all.map(whatIsLeft)).toEqual(all.map(() => ""));
    });
    if (isReplay) return;
    expect(counts.done).toBeGreaterThan(0.9 * 40 * 6 * 10);
    expect(Math.min(counts.kills, counts.duplicates)).toBeGreaterThan(10);
  });

  const session = openingEntry(1);
  type Fields = readonly [session: number, sequence: number, acknowledged: number, data: Buffer];
  const command = (index: number, [session, sequence, acknowledged, data]: Fields) =>
    makeEntry(index, 1, "commands", makeCommand([session, sequence, acknowledged], data));
  const openFirst = (machine: StateMachine = new Diary()) => {
    const sessions = new Sessions();
    applyTo(sessions, session, machine);
    return (index: number, fields: Fields) => applyTo(sessions, command(index, fields), machine)[0];
  };

  test("a repeated command gets its first answer, even after later commands", () => {
    const apply = openFirst();
    expect(apply(2, [1, 1, 0, bytes("x")])).toBe("1 x");
    expect(apply(3, [1, 2, 0, bytes("y")])).toBe("2 y");
    expect(apply(4, [1, 1, 0, bytes("x")])).toBe("1 x");
  });

  test("a command that was overtaken by a later one is no duplicate (catalogue 47)", () => {
    const apply = openFirst();
    expect(apply(2, [1, 3, 0, bytes("third")])).toBe("1 third");
    expect(apply(3, [1, 1, 0, bytes("first")])).toBe("2 first");
    expect(apply(4, [1, 2, 1, bytes("second")])).toBe("3 second");
  });

  test("a command is refused if it is repeated after the client has seen its answer", () => {
    const machine = new Diary();
    const apply = openFirst(machine);
    apply(2, [1, 1, 0, bytes("x")]);
    apply(3, [1, 2, 1, bytes("y")]);
    expect(apply(4, [1, 1, 0, bytes("x")])).toBe(SEEN);
    expect(machine.lines).toEqual(["x", "y"]);
  });

  test("commands without a session or with a seen answer are refused, and the rest applied", () => {
    const machine = new Diary();
    const sessions = new Sessions();
    applyTo(sessions, session, machine);
    const of = (numbers: [number, number, number], data: string) =>
      makeCommand(numbers, bytes(data));
    const data = Buffer.concat([
      of([1, 1, 0], "a"),
      of([7, 1, 0], "b"),
      of([1, 3, 0], ""),
      of([1, 1, 0], "a"),
      of([1, 1, 1], "c"),
      of([1, 2, 1], "d"),
      of([1, 1, 0], "a"),
    ]);
    const outcomes = applyTo(sessions, makeEntry(2, 1, "commands", data), machine);
    expect(outcomes).toEqual(["1 a", ENDED, "2 ", "1 a", ITSELF, "3 d", SEEN]);
    expect(machine.lines).toEqual(["a", "", "d"]);
  });

  test("an entry with a request that cannot be decoded stops the server", () => {
    const machine = new Diary();
    const whole = makeCommand([1, 1, 0], bytes("x"));
    const apply = (data: Buffer) =>
      applyTo(new Sessions(), makeEntry(2, 1, "commands", data), machine);
    for (let length = 1; length < whole.length; length += 1) {
      const part = whole.subarray(0, length);
      for (const data of [part, Buffer.concat([whole, part])]) {
        expect(() => apply(data)).toThrow("the leader has encoded each request of an entry");
      }
    }
  });

  test("a session that is used again becomes the most recently used one", () => {
    const sessions = new Sessions();
    const machine = new Diary();
    const open = (index: number) => applyTo(sessions, openingEntry(index), machine);
    const use = (id: number, sequence: number) =>
      applyTo(sessions, command(30_000, [id, sequence, 0, bytes("y")]), machine)[0];
    open(1);
    use(1, 1);
    open(2);
    use(1, 2);
    for (let index = 3; index <= 1_001; index += 1) open(index);
    expect(use(1, 3)).toEndWith(" y");
    expect(use(2, 1)).toBe(ENDED);
  });
});

/** Returns whether a packet has messages of Raft, and not only those of clients. */
const isOfRaft = (packet: Buffer) => open(packet).types.some((type) => type in messages);

test("a restarted server gets no answers to its earlier requests (full seed 32379)", () => {
  const cluster = new Cluster(1);
  const { simulation } = cluster;
  const leader = cluster.leader();
  const requester = cluster.names.find((name) => name !== leader) ?? "";
  // No server answers the leader, so its clients have to wait.
  const { ip } = cluster.machine(leader);
  simulation.route = ({ to, bytes: packet }) =>
    to.host === ip && isOfRaft(packet) ? [] : [{ afterMs: 1 }];
  const [session, sequence, acknowledged, commands] = commandsOf([999, 1, 0], bytes("x"));
  const fields = { session, sequence, acknowledged, commands };
  cluster.server(requester).node["client"].request({ type: "Commands", ...fields }).catch(() => {});
  simulation.run(250);
  cluster.kill(requester);
  cluster.start(requester);
  // If ids began at 1 after each start, this request would have the id of the earlier one.
  const done = cluster.server(requester).node.propose(bytes("x"));
  simulation.run(250);
  expect(cluster.server(leader).node.status()).toMatchObject({ role: "Leader", commitIndex: 1 });
  simulation.route = () => [{ afterMs: 1 }];
  expect(text(simulation.settle(done))).toBe("1 x");
});

test("commands of one turn are sent together, and answered in as many parts as necessary", () => {
  /** Returns a state machine whose answers are longer than its commands. */
  const longAnswers = (): StateMachine => {
    const diary = new Diary();
    const apply = (command: Uint8Array) => bytes(`${text(diary.apply(command))} `.repeat(9));
    return {
      apply,
      query: () => diary.query(),
      snapshot: () => diary.snapshot(),
      restore: () => diary.restore(),
    };
  };
  let parts = 0;
  forSeeds(10, (random, seed) => {
    const cluster = new Cluster(seed, ["a", "b", "c"], longAnswers);
    const { simulation } = cluster;
    cluster.leader();
    const client = cluster.connect("client");
    simulation.settle(client.propose(bytes("first")));
    const requestIds = new Set<unknown>();
    simulation.watch = ({ packet }) => {
      const { types, bodies } = packet ? open(packet.bytes) : { types: [], bodies: [] };
      types.forEach((type, i) => {
        const [, id, ...fields] = bodies[i] ?? [];
        if (type === "Commands") requestIds.add(id);
        const outcomes = type === "Outcomes" ? readOutcomes(fields) : [];
        if ((outcomes[0]?.place ?? 0) > 0) parts += 1;
        expect(packet?.bytes.length).toBeLessThanOrEqual(1400);
      });
      expect(types).not.toContain("Part"); // Each batch fits one datagram.
    };
    simulation.route = () => random() < 0.1 ? [] : [{ afterMs: 3 * random() }];
    const lines = Array.from({ length: 100 }, (_, i) => `${i}:${"x".repeat(40 * random())}`);
    const answers = simulation.settle(
      Promise.all(lines.map((line) => client.propose(bytes(line)))),
    );
    expect(answers.map((answer) => text(answer).split(" ")[1])).toEqual(lines);
    expect(requestIds.size).toBeLessThan(10);
    simulation.watch = () => {}; // The answer to this read needs a larger datagram.
    const known = text(simulation.settle(client.read(bytes("")))).split(",");
    expect(known.toSorted()).toEqual(["first", ...lines].toSorted());
  });
  if (!isReplay) expect(parts).toBeGreaterThan(10);
});

test("reads are answered in their order, each after a round of its own", () => {
  const cluster = new Cluster(1);
  const { simulation } = cluster;
  const leader = cluster.leader();
  const { node } = cluster.server(leader);
  simulation.settle(node.propose(bytes("x")));
  simulation.run(500);
  // Replies to the leader are held, and delivered one by one.
  const { ip } = cluster.machine(leader);
  const held: Packet[] = [];
  simulation.route = (packet) => {
    const isReply = packet.to.host === ip
      && open(packet.bytes).types.includes("AppendEntriesReply");
    if (isReply) held.push(packet);
    return isReply ? [] : [{ afterMs: 1 }];
  };
  const answered: number[] = [];
  for (const place of [0, 1, 2]) {
    void node.read(bytes("")).then(() => answered.push(place));
    simulation.run(2.5);
  }
  const seen = new Set<number>();
  for (const packet of held.splice(0)) {
    simulation.deliver(packet);
    simulation.run(0.1);
    expect(answered).toEqual([0, 1, 2].slice(0, answered.length));
    seen.add(answered.length);
  }
  expect(seen).toContain(1);
  expect(seen).toContain(2);
});

describe("a follower's read", () => {
  /**
   * Returns a cluster with one value everywhere, and functions to write to the leader and to read
   * from the watched follower.
   */
  function watchedFollower() {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const [watched = "", other = ""] = cluster.names.filter((name) => name !== leader);
    const ipOf = (name: string) => cluster.machine(name).ip;
    simulation.settle(cluster.server(other).node.propose(bytes("x")));
    simulation.run(200);
    expect(cluster.lines(watched)).toEqual(["x"]);
    const write = (value: string) =>
      simulation.settle(cluster.server(leader).node.propose(bytes(value)));
    const answers: string[] = [];
    const read = () => {
      cluster.server(watched).node.read(bytes("")).then(
        (answer) => answers.push(text(answer)),
        (error: RaftError) => answers.push(error.code),
      );
    };
    return { cluster, simulation, leader, watched, ipOf, write, read, answers };
  }

  test("is answered from the follower's state, and asks the leader only for the read index", () => {
    const { simulation, leader, watched, ipOf, read, answers } = watchedFollower();
    const requests: string[] = [];
    simulation.route = ({ from, to, bytes: sealed }) => {
      const isHop = from.host === ipOf(watched) && to.host === ipOf(leader);
      if (isHop && !isOfRaft(sealed)) requests.push(...open(sealed).types);
      return [{ afterMs: 1 }];
    };
    for (let n = 0; n < 20; n += 1) read();
    simulation.run(100);
    expect(answers).toEqual(Array.from({ length: 20 }, () => "x"));
    expect(requests).toEqual(["ReadIndex"]); // One request for all reads of a turn.
  });

  test("waits until the follower has every entry that was committed when the read arrived", () => {
    const { simulation, watched, ipOf, write, read, answers } = watchedFollower();
    write("y"); // It opens a session, so that the next write is a single entry.
    simulation.run(200);
    simulation.route = (packet) =>
      isOfRaft(packet.bytes) && packet.to.host === ipOf(watched) ? [] : [{ afterMs: 1 }];
    write("z");
    read();
    simulation.run(300);
    expect(answers).toEqual([]);
    simulation.route = () => [{ afterMs: 1 }];
    simulation.run(300);
    expect(answers).toEqual(["x,y,z"]);
  });

  test("that arrives while a request for the read index is in flight needs another one", () => {
    const { simulation, leader, watched, ipOf, write, read, answers } = watchedFollower();
    let heldMs = 200;
    simulation.route = (packet) => {
      const isAnswer = packet.from.host === ipOf(leader) && packet.to.host === ipOf(watched);
      if (isOfRaft(packet.bytes) && packet.to.host === ipOf(watched)) return [];
      return [{ afterMs: isAnswer ? heldMs : 1 }];
    };
    // The follower keeps its leader, and receives no entries from it.
    read();
    simulation.run(50);
    write("y");
    read();
    simulation.run(200);
    expect(answers).toEqual(["x"]);
    heldMs = 1;
    simulation.run(200);
    expect(answers).toEqual(["x"]);
    simulation.route = () => [{ afterMs: 1 }];
    simulation.run(300);
    expect(answers).toEqual(["x", "x,y"]);
  });

  test("that its client repeats is one read, on a follower as on a leader", () => {
    const { cluster, simulation, leader, watched } = watchedFollower();
    const client = cluster.connect("client");
    simulation.settle(client.read(bytes("")));
    simulation.run(50); // A repetition of that read may still be in flight.
    // The leader is not confirmed, and the follower gets no read index.
    simulation.route = ({ bytes: sealed }) => {
      const { types } = open(sealed);
      const isLost = types.includes("AppendEntriesReply") || types.includes("ReadIndex");
      return isLost ? [] : [{ afterMs: 1 }];
    };
    const reads = [leader, watched].map((server) => client.read(bytes(""), { server }));
    simulation.run(50);
    // This read arrives while the request for the read index is in flight.
    reads.push(client.read(bytes(""), { server: watched }));
    simulation.run(500);
    const [atLeader, atFollower] = [cluster.server(leader).node, cluster.server(watched).node];
    expect(atLeader["reads"].length).toBe(1);
    expect(atFollower["followerReads"].length).toBe(1);
    simulation.route = () => [{ afterMs: 1 }];
    expect(simulation.settle(Promise.all(reads)).map(text)).toEqual(["x", "x", "x"]);
    for (const node of [atLeader, atFollower]) expect(node["waiting"].size).toBe(0);
  });

  test("fails if the leader is unreachable or unknown", () => {
    const { simulation, watched, ipOf, read, answers } = watchedFollower();
    simulation.route = ({ from, to }) =>
      [from.host, to.host].includes(ipOf(watched)) ? [] : [{ afterMs: 1 }];
    read();
    simulation.run(3000);
    read();
    simulation.run(6000);
    expect(answers).toEqual(["timeout", "timeout"]);
  });
});

describe("snapshots", () => {
  const options = { snapshotBytes: 20_000 };
  const line = (i: number) => `${i} ${"x".repeat(1000)}`;
  const withSnapshots = (seed: number) =>
    new Cluster(seed, ["a", "b", "c"], () => new Diary(), options);

  function propose(cluster: Cluster, lines: number, name: string): void {
    const { node } = cluster.server(name);
    const proposed = Array.from({ length: lines }, (_, i) => node.propose(bytes(line(i))));
    cluster.simulation.settle(Promise.all(proposed));
  }

  /** Appends so many lines through the leader, and leaves time for snapshots of them. */
  function grow(cluster: Cluster, lines: number): void {
    for (let left = lines; left > 0; left -= 25) {
      propose(cluster, Math.min(left, 25), cluster.leader());
      cluster.simulation.run(500);
    }
  }

  /** Returns a cluster that has taken snapshots while one of its servers was down. */
  function withOneDown(seed: number) {
    const cluster = withSnapshots(seed);
    cluster.leader();
    const down = cluster.follower();
    cluster.kill(down);
    grow(cluster, 60);
    return { cluster, simulation: cluster.simulation, down, leader: cluster.leader() };
  }

  /** Records the messages that leave a machine: type, time and receiver. */
  function listen(simulation: Simulation, name: string) {
    const outgoing: { type: string; at: number; to: string }[] = [];
    simulation.watch = ({ machine, packet }) => {
      if (!packet || machine.name !== name) return;
      const to = simulation.machineAt(packet.to.host)?.name ?? "";
      for (const type of open(packet.bytes).types) outgoing.push({ type, at: simulation.now, to });
    };
    return outgoing;
  }

  const longestPause = (instants: readonly number[]) =>
    Math.max(...instants.slice(1).map((at, i) => at - (instants[i] ?? at)));
  const snapshotsOf = (cluster: Cluster, name: string) =>
    cluster.server(name).events.filter((event) => event.type === "snapshot");
  const expectAgreement = (cluster: Cluster) => {
    cluster.leader();
    cluster.simulation.run(2000);
    for (const name of cluster.names) expect(cluster.lines(name)).toEqual(cluster.lines("a"));
  };

  test("replace the log on every server, and are where a restart begins", () => {
    const cluster = withSnapshots(1);
    grow(cluster, 100);
    for (let round = 0; round < 3; round += 1) {
      cluster.simulation.run(1000);
      const before = cluster.names.map((name) => cluster.server(name).node.status());
      for (const name of cluster.names) cluster.kill(name, "nothing");
      for (const [i, name] of cluster.names.entries()) {
        const { snapshotIndex = 0, logBytes = 0 } = before[i] ?? {};
        cluster.start(name);
        const { node } = cluster.server(name);
        expect(snapshotIndex).toBeGreaterThan(50);
        expect(logBytes).toBeLessThan(80_000);
        expect(node.status()).toMatchObject({
          snapshotIndex,
          lastApplied: snapshotIndex,
          logBytes,
        });
        expect(cluster.lines(name).length).toBeGreaterThan(50);
      }
      grow(cluster, 1);
      expectAgreement(cluster);
      expect(cluster.lines("a")).toHaveLength(101 + round);
    }
  });

  test("bring a server that was down up to date, in parallel chunks, even if some are lost", () => {
    forSeeds(5, (random, seed) => {
      const { cluster, simulation, down, leader } = withOneDown(seed);
      simulation.route = () =>
        random() < 0.1 ? [] : [{ afterMs: 1 + 5 * random() }, { afterMs: 20 * random() }];
      const outgoing = listen(simulation, leader);
      cluster.start(down);
      expect(simulation.run(20_000, () => snapshotsOf(cluster, down).length > 0)).toBe(true);
      expect(snapshotsOf(cluster, down)[0]).toMatchObject({ from: leader });
      const chunks = outgoing.filter(({ type }) => type === "InstallSnapshot");
      const together = chunks.filter(({ at }) => at === chunks[0]?.at);
      expect(together.length).toBeGreaterThan(10);
      simulation.route = () => [{ afterMs: random() }];
      grow(cluster, 1);
      expectAgreement(cluster);
    });
  });

  test("are installed while the cluster serves, without an election", () => {
    const cluster = withSnapshots(1);
    const { simulation } = cluster;
    const down = cluster.follower();
    cluster.kill(down);
    grow(cluster, 300);
    const leader = cluster.leader();
    const { term } = cluster.server(leader).node.status();
    for (const name of cluster.names) cluster.machine(name).turnMs = 3;
    cluster.start(down);
    const outgoing = listen(simulation, down);
    let [done, sent] = [0, 0];
    simulation.run(20_000, () => {
      // One command after the other: each is committed before the next one is proposed.
      if (sent === done) {
        sent += 1;
        void cluster.server(leader).node.propose(bytes("x")).then(() => done += 1);
      }
      return snapshotsOf(cluster, down).length > 0;
    });
    expect(snapshotsOf(cluster, down)).toHaveLength(1);
    expect(done).toBeGreaterThan(20);
    // The last chunk came long before, and heartbeats were answered during the installation.
    const answers = outgoing.filter(({ type }) => type === "InstallSnapshotReply").map(({ at }) =>
      at
    );
    expect(simulation.now - (answers[0] ?? 0)).toBeGreaterThan(300);
    expect(longestPause([...answers, simulation.now])).toBeLessThan(200);
    expectAgreement(cluster);
    expect(cluster.server(leader).node.status()).toMatchObject({ term, role: "Leader" });
  });

  test("that are installed replace all sessions of the server", () => {
    const { cluster, simulation, down, leader } = withOneDown(1);
    const node = cluster.start(down);
    // A session that ended on the other servers while this one was down.
    applyTo(node["sessions"], openingEntry(1e9), new Diary());
    expect(simulation.run(20_000, () => snapshotsOf(cluster, down).length > 0)).toBe(true);
    expectAgreement(cluster);
    const table = (name: string) =>
      JSON.stringify([...cluster.server(name).node["sessions"].snapshot()]);
    expect(table(down)).toEqual(table(leader));
  });

  test("of the largest session are written in slices, and restored", () => {
    const large = Buffer.alloc(60_000, "a");
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const { node } = cluster.server("a");
    simulation.settle(node.propose(bytes("x")));
    const sessions = node["sessions"];
    applyTo(sessions, openingEntry(1), new Diary());
    for (let sequence = 1; sequence <= 300; sequence += 1) {
      const request = makeCommand([1, sequence, 0], bytes("x"));
      applyTo(sessions, makeEntry(2, 1, "commands", request), { apply: () => large });
    }
    const records = [...sessions.snapshot()];
    expect(records.length).toBeGreaterThan(270);
    // Each slice is one write of at most 128 KiB and the header of a frame.
    const writes: number[] = [];
    const storage = node["storage"];
    const { writeDraft } = storage;
    Object.assign(storage, {
      writeDraft(at: number, frame: Uint8Array) {
        writes.push(frame.length);
        return writeDraft.call(storage, at, frame);
      },
    });
    let slices = 0;
    for (const _ of node["writeSnapshot"]()) expect(writes.length).toBeLessThanOrEqual(slices += 1);
    expect(Math.max(...writes)).toBeLessThanOrEqual((128 << 10) + 12);
    expect(slices).toBeGreaterThan((16 << 20) / (128 << 10));
    cluster.kill("a");
    cluster.start("a");
    expect([...cluster.server("a").node["sessions"].snapshot()]).toEqual(records);
  });

  test("that are only partly installed answer no read, even an early one", () => {
    /** Answers a query with the number of lines. */
    class Count extends Diary {
      override query(): Uint8Array {
        return bytes(`${this.lines.length}`);
      }
    }
    const longTimeout = { ...options, timeoutMs: 60_000 };
    const cluster = new Cluster(1, ["a", "b", "c"], () => new Count(), longTimeout);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const down = cluster.follower();
    grow(cluster, 25);
    simulation.run(500);
    // The leader sends a read index to the follower, which is held like all its messages.
    const [from, to] = [cluster.machine(leader).ip, cluster.machine(down).ip];
    const held: Packet[] = [];
    simulation.route = (packet) => {
      if (packet.from.host !== from || packet.to.host !== to) return [{ afterMs: 1 }];
      if (open(packet.bytes).types.includes("Answer")) held.push(packet);
      return [];
    };
    const { node } = cluster.server(down);
    const answers: string[] = [];
    void node.read(bytes("")).then((answer) => answers.push(text(answer)));
    simulation.run(20);
    expect(held).toHaveLength(1);
    const { node: other } = cluster.server(leader);
    for (let i = 0; i < 300; i += 25) {
      simulation.settle(
        Promise.all(Array.from({ length: 25 }, () => other.propose(bytes(line(i))))),
      );
    }
    simulation.run(500);
    simulation.route = (packet) =>
      packet.from.host === from && open(packet.bytes).types.includes("Answer")
        ? []
        : [{ afterMs: 1 }];
    expect(simulation.run(20_000, () => node["core"].isInstalling)).toBe(true);
    for (const packet of held) simulation.deliver(packet);
    simulation.run(3);
    expect(node["core"].isInstalling).toBe(true);
    expect(answers).toEqual([]);
    simulation.run(20_000, () => answers.length > 0);
    expect(answers).toHaveLength(1);
    expect(Number(answers[0])).toBeGreaterThan(25);
  });

  test("are written in slices, between which heartbeats are sent", () => {
    const cluster = withSnapshots(1);
    const { simulation } = cluster;
    const leader = cluster.leader();
    grow(cluster, 300);
    simulation.run(5000);
    const { length } = snapshotsOf(cluster, leader);
    const { term, lastIndex } = cluster.server(leader).node.status();
    cluster.machine(leader).turnMs = 3;
    const outgoing = listen(simulation, leader);
    const isWriting = () => cluster.server(leader).node["backgroundTask"] !== undefined;
    for (let i = 0; i < 1000 && !isWriting(); i += 1) propose(cluster, 10, leader);
    const from = simulation.now;
    simulation.run(10_000, () => !isWriting());
    const beats = outgoing.filter(({ type, at }) => type === "AppendEntries" && at >= from);
    expect(snapshotsOf(cluster, leader).length).toBeGreaterThan(length);
    expect(simulation.now - from).toBeGreaterThan(500);
    for (const name of cluster.names.filter((other) => other !== leader)) {
      const instants = beats.filter(({ to }) => to === name).map(({ at }) => at);
      expect(longestPause([from, ...instants, simulation.now])).toBeLessThan(200);
    }
    expect(cluster.server(leader).node.status()).toMatchObject({ term, role: "Leader" });
    expect(cluster.server(leader).node.status().snapshotIndex).toBeGreaterThan(lastIndex);
  });

  test("that a crashed leader has sent in part are sent again by the next leader", () => {
    forSeeds(5, (random, seed) => {
      const { cluster, simulation, down, leader } = withOneDown(seed);
      const outgoing = listen(simulation, leader);
      cluster.start(down);
      const chunks = 1 + 80 * random();
      const isUnderWay = () =>
        outgoing.filter(({ type }) => type === "InstallSnapshot").length >= chunks;
      expect(simulation.run(20_000, isUnderWay)).toBe(true);
      cluster.kill(leader);
      grow(cluster, 1);
      cluster.start(leader);
      grow(cluster, 1);
      expectAgreement(cluster);
      expect(cluster.lines(down)).toHaveLength(62);
    });
  });

  test("are not sent to a server that is only a little behind", () => {
    const cluster = withSnapshots(1);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const lagging = cluster.follower();
    grow(cluster, 18);
    cluster.kill(lagging);
    grow(cluster, 4);
    expect(snapshotsOf(cluster, leader)).toHaveLength(1);
    const { entries } = durable(cluster.machine(lagging));
    expect(cluster.server(leader).node.status().snapshotIndex).toBeGreaterThan(entries.length);
    const outgoing = listen(simulation, leader);
    cluster.start(lagging);
    expectAgreement(cluster);
    expect(outgoing.filter(({ type }) => type === "InstallSnapshot")).toEqual([]);
  });

  test("that arrive damaged stop the server, with an error that names the sender's disk", () => {
    const cluster = withSnapshots(1);
    const { simulation } = cluster;
    const down = cluster.follower();
    cluster.kill(down);
    grow(cluster, 100);
    const leader = cluster.leader();
    const { disk } = cluster.machine(leader);
    disk.flip("data/snapshot", 10_000, 3);
    const node = cluster.start(down);
    expect(failureOf(simulation, node.stopped)?.message).toMatch(
      new RegExp(
        "^Cannot use data/snapshot\\.new: it is damaged at byte \\d+\\. Server "
          + `${leader} has sent it\\. Start this server again\\. If that fails, too, restart ${leader}, `
          + "which then checks its own snapshot\\.$",
      ),
    );
    cluster.kill(leader);
    expect(() => cluster.start(leader)).toThrow(
      /^Cannot use data\/snapshot: it is damaged at byte \d+\. Restore it\./,
    );
    cluster.kill(down);
    cluster.start(down); // The third server leads now, and sends its own snapshot.
    cluster.running.delete(leader);
    const third = cluster.leader();
    expect(simulation.run(60_000, () => cluster.lines(down).length === cluster.lines(third).length))
      .toBe(true);
    expect(cluster.lines(down)).toEqual(cluster.lines(third));
    expect(cluster.lines(down).length).toBeGreaterThanOrEqual(100);
  });

  test("that cannot be read stop the server, with the file's name, when it sends or starts", () => {
    const cluster = withSnapshots(1);
    const { simulation } = cluster;
    const down = cluster.follower();
    cluster.kill(down);
    grow(cluster, 100);
    const leader = cluster.leader();
    const { node } = cluster.server(leader);
    const { disk } = cluster.machine(leader);
    disk.isUnreadable = (file) => file.startsWith("data/snapshot"); // Also under its earlier name.
    cluster.start(down);
    const error = { code: "storage", message: "Cannot read data/snapshot: EIO: read." };
    expect(failureOf(simulation, node.stopped)).toMatchObject(error);
    cluster.kill(leader);
    expect(() => cluster.start(leader)).toThrow(error.message);
    disk.isUnreadable = () => false;
    cluster.kill(leader);
    cluster.start(leader);
    expectAgreement(cluster);
  });

  test("contain the sessions in the order of their use, with their answers", () => {
    const machine = new Diary();
    const before = new Sessions();
    const apply = (
      sessions: Sessions,
      index: number,
      numbers: [number, number, number],
      data: string,
    ) =>
      applyTo(
        sessions,
        makeEntry(index, 1, "commands", makeCommand(numbers, bytes(data))),
        machine,
      )[0];
    for (const index of [1, 2, 3]) applyTo(before, openingEntry(index), machine);
    apply(before, 4, [1, 1, 0], "x");
    apply(before, 5, [1, 3, 1], "z");
    const records = before.snapshot();
    apply(before, 6, [2, 1, 0], "later"); // The snapshot must not contain this command.
    const after = new Sessions();
    for (const record of records) after.restore(record);
    expect(machine.lines).toEqual(["x", "z", "later"]);
    expect(apply(after, 7, [1, 3, 1], "z")).toBe("2 z");
    expect(apply(after, 8, [1, 1, 0], "x")).toBe(SEEN);
    expect(apply(after, 9, [2, 1, 0], "y")).toBe("4 y");
    expect([...after["table"].owners.get("client")?.keys() ?? []]).toEqual([3, 1, 2]);
  });
});

describe("a client", () => {
  test("that knows a single server finds the leader by its redirection", () => {
    forSeeds(10, (_, seed) => {
      const cluster = new Cluster(seed);
      const client = cluster.connect("client", [`${cluster.follower()}:1`]);
      const before = cluster.simulation.now;
      expect(text(cluster.simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
      expect(text(cluster.simulation.settle(client.read(bytes(""))))).toBe("x");
      expect(cluster.simulation.now - before).toBeLessThan(100);
    });
  });

  test("tries the next server when one does not answer, and follows a new leader", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    for (let n = 1; n <= 3; n += 1) {
      expect(text(simulation.settle(client.propose(bytes("x"))))).toBe(`${n} x`);
      const leader = cluster.leader();
      cluster.kill(leader);
      expect(text(simulation.settle(client.read(bytes(""))))).toBe("x,".repeat(n).slice(0, -1));
      cluster.start(leader);
    }
  });

  test("learns in time that an outcome is unknown, or that there is no answer", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client", ["a:1", "b:1", "c:1"], 800);
    cluster.leader();
    simulation.settle(client.propose(bytes("x")));
    cluster.kill(cluster.follower());
    cluster.kill(cluster.follower());
    const before = simulation.now;
    expect(codeOf(simulation, client.propose(bytes("y")))).toBe("outcomeUnknown");
    expect(simulation.now - before).toBeWithin(790, 850);
    expect(codeOf(simulation, client.read(bytes("")))).toBe("timeout");
    // The client got no session.
    expect(codeOf(simulation, client.propose(bytes("z")))).toBe("timeout");
    const [dead] = cluster.names.filter((name) => !cluster.running.has(name));
    expect(codeOf(simulation, client.inspect(`${dead}:1`))).toBe("timeout");
    const [alive] = cluster.running.keys();
    expect(simulation.settle(client.inspect(`${alive}:1`))).toMatchObject({ name: alive });
  });

  test("that gets no answer reports the state of each server", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client", ["a:1", "b:1", "c:1", "ghost:1"], 2000);
    simulation.settle(client.propose(bytes("x")));
    for (const name of ["a", "b"]) cluster.kill(name);
    simulation.run(5000); // The third server notices that it has lost the others.
    simulation.settle(client.inspect("c"));
    const messageOf = (promise: Promise<unknown>) => failureOf(simulation, promise)?.message;
    expect(messageOf(client.propose(bytes("y")))).toMatch(
      /^No answer in 2000 ms: the request may have been carried out, or may still be\. Check before you repeat it\. Asked: a \(last/,
    );
    expect(messageOf(client.read(bytes("")))).toMatch(
      /^No answer in 2000 ms\. Check that a majority of the servers runs, with this secret and cluster\. Asked: a \(last heard \d+ ms ago\), b \(last heard \d+ ms ago\), c \(knows no leader\), ghost:1 \(ENOTFOUND: ghost\)\.$/,
    );
    expect(messageOf(client.inspect("b:1"))).toMatch(/\. Asked: b \(last heard \d+ ms ago\)\.$/);
    // An operator's requests have a key of their own, and so a peer of their own.
    const operator = cluster.connect("operator", ["c:1"], 2000);
    simulation.run(3000);
    expect(messageOf(operator.changeMembers("d", "d:1"))).toContain("c (knows no leader)");
  });

  test("of a single server leaves the client its session", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    simulation.settle(client.propose(bytes("x")));
    const session = client["session"];
    const dead = cluster.follower();
    cluster.kill(dead);
    expect(codeOf(simulation, client.inspect(`${dead}:1`))).toBe("timeout");
    expect(client["session"]).toBe(session);
  });

  test("stays with the cluster that has answered first, and reports a server of another one", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client", ["a:1", "stranger:1"], 3000);
    simulation.settle(client.propose(bytes("x")));
    const machine = new Diary();
    const stranger = simulation.settle(
      Node.start({
        host: "stranger",
        port: 1,
        peers: [],
        directory: "data",
        secret: SECRET,
        machine,
        world: simulation.machine("stranger").boot(),
      }),
    );
    const messageOf = (promise: Promise<unknown>) => failureOf(simulation, promise)?.message;
    const report = "stranger:1 (is of another cluster)";
    expect(messageOf(client.inspect("stranger:1"))).toContain(`Asked: ${report}.`);
    for (const name of cluster.names) cluster.kill(name);
    expect(messageOf(client.read(bytes("")))).toContain(report);
    expect(messageOf(client.propose(bytes("y")))).toContain(report);
    expect(machine.lines).toEqual([]);
    expect(stranger.status().role).toBe("Leader");
  });

  test("may ask for a status before its cluster is founded", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client", ["a:1", "b:1", "c:1"]);
    const before = cluster.server(cluster.leader()).node.status().founding;
    expect(simulation.settle(client.inspect("a:1"))).toMatchObject({ founding: before });
    // All servers lose their disks, and found another cluster.
    for (const name of cluster.names) cluster.kill(name);
    for (const name of cluster.names) {
      cluster.machine(name).disk.wipe();
      cluster.start(name);
    }
    expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
    expect(simulation.settle(client.inspect("a:1")).founding).not.toBe(before);
  });

  test("may ask for a transfer before its cluster is founded", () => {
    const cluster = new Cluster(1);
    const { simulation, names } = cluster;
    const client = cluster.connect("client");
    const statusOf = (name: string) => cluster.server(name).node.status();
    const leads = (name: string) => statusOf(name).role === "Leader";
    simulation.run(60_000, () => names.some(leads));
    const leader = names.find(leads) ?? "";
    const others = names.filter((name) => name !== leader);
    // The leader alone has an entry. Without it the others found another cluster.
    for (const name of others) cluster.kill(name);
    expect(simulation.settle(client.transfer(others[0] ?? ""))).toBe(leader);
    const { founding, commitIndex } = statusOf(leader);
    expect(commitIndex).toBe(0);
    cluster.kill(leader);
    for (const name of others) cluster.start(name);
    expect(statusOf(cluster.leader()).founding).not.toBe(founding);
    expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
  });

  test("uses a cluster that has a leader, even if it knows a server of another one", () => {
    for (let seed = 1; seed <= 20; seed += 1) {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      cluster.leader();
      // This server has a wrong list of founders, so it belongs to a cluster that never has a
      // majority.
      simulation.settle(
        Node.start({
          host: "d",
          port: 1,
          peers: ["a:1", "x:1"],
          directory: "data",
          secret: SECRET,
          machine: new Diary(),
          world: simulation.machine("d").boot(),
        }),
      );
      const client = cluster.connect("client", ["a:1", "d:1"]);
      expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
      expect(simulation.settle(client.inspect("d:1"))).toMatchObject({ founding: 0, leader: null });
    }
  });

  test("cannot propose a command larger than MAX_COMMAND_BYTES, which is never logged", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    const large = Buffer.alloc(MAX_COMMAND_BYTES + 1);
    expect(codeOf(simulation, client.propose(large))).toBe("refused");
    expect(codeOf(simulation, client.read(large))).toBe("refused");
    const close = Buffer.alloc(MAX_COMMAND_BYTES - 100, 0x41);
    expect(simulation.settle(client.propose(close)).length).toBe(close.length + 2);
    simulation.run(500);
    for (const name of cluster.names) expect(cluster.lines(name)).toHaveLength(1);
  });

  test("may propose a command of MAX_COMMAND_BYTES", () => {
    const cluster = new Cluster(1, ["a"]);
    const largest = Buffer.alloc(MAX_COMMAND_BYTES, 0x41);
    const client = cluster.connect("client");
    cluster.simulation.settle(client.propose(largest).catch(() => {})); // The answer is too large.
    expect(cluster.lines("a")).toEqual([text(largest)]);
  });

  /** Opens so many sessions of a client that its first one ends. */
  function openSessions(cluster: Cluster, client: Client): void {
    for (let nonce = 1; nonce <= 1_000; nonce += 1) {
      client.request({ type: "OpenSession", nonce }).catch(() => {});
    }
    cluster.simulation.run(50);
  }

  test("whose session has ended sends its commands once more, in another session", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
    openSessions(cluster, client);
    const done = ["y", "z"].map((line) => client.propose(bytes(line)));
    expect(simulation.settle(Promise.all(done)).map(text)).toEqual(["2 y", "3 z"]);
    expect(cluster.lines("a")).toEqual(["x", "y", "z"]);
  });

  test("whose sessions end again and again is refused in the end", () => {
    const { simulation, server } = single();
    const { node } = server;
    const asked: number[] = [];
    // Behaves as if thousands of clients opened sessions before each command.
    const get = (_owner: string, session: number) => void asked.push(session);
    Object.assign(node["sessions"]["table"], { get });
    expect(failureOf(simulation, node.propose(bytes("x")))).toEqual(
      new RaftError("refused", "The server refuses: the session has ended, or never was."),
    );
    expect(new Set(asked).size).toBe(2);
  });

  /** Lets the session of a client take as much memory as it may. */
  function fillSession(node: Node, client: Client): void {
    const { owners } = node["sessions"]["table"];
    for (const sessions of owners.values()) {
      const session = sessions.get(client["session"] ?? 0);
      if (session) session.bytes = 16 << 20;
    }
  }

  test("whose session is full has its commands applied once, in another session", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const { node } = cluster.server("a");
    const client = cluster.connect("client");
    expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
    const full = client["session"];
    fillSession(node, client);
    const done = Array.from({ length: 20 }, (_, i) => {
      const answer = client.propose(bytes(`${i}`));
      simulation.run(0.3);
      return answer;
    });
    const answers = simulation.settle(Promise.all(done)).map(text);
    expect(answers.map((answer) => answer.split(" ")[1])).toEqual(answers.map((_, i) => `${i}`));
    expect(cluster.lines("a").toSorted()).toEqual(
      ["x", ...answers.map((_, i) => `${i}`)].toSorted(),
    );
    expect(client["session"]).not.toBe(full);
    expect(whatIsLeft(client)).toBe("");
  });

  test("whose session is full when it repeats a command reports an unknown outcome", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const { node } = cluster.server("a");
    const client = cluster.connect("client");
    expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
    fillSession(node, client);
    const { route } = simulation;
    simulation.route = ({ from }) => from.host === cluster.machine("a").ip ? [] : [{ afterMs: 1 }];
    const done = client.propose(bytes("y"));
    simulation.run(150); // The first refusal is lost, so the client repeats the command.
    simulation.route = route;
    const error = failureOf(simulation, done);
    expect(error?.code).toBe("outcomeUnknown");
    expect(error?.message).toStartWith("The server refuses: the session is full until");
    // Later commands are applied.
    expect(text(simulation.settle(client.propose(bytes("z"))))).toBe("2 z");
    expect(cluster.lines("a")).toEqual(["x", "z"]);
  });

  test("that sends thousands of requests during an outage has all of them applied once", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    simulation.settle(client.propose(bytes("first")));
    cluster.kill("a");
    const done = Array.from({ length: 4_500 }, (_, i) => {
      const answer = client.propose(bytes(`${i}`));
      simulation.run(0.1);
      return answer;
    });
    cluster.start("a");
    const answers = simulation.settle(Promise.all(done)).map(text);
    expect(answers.map((answer) => answer.split(" ")[1])).toEqual(answers.map((_, i) => `${i}`));
    expect(cluster.lines("a")).toHaveLength(1 + answers.length);
    expect(whatIsLeft(client)).toBe("");
  });

  test("acknowledges the answers of a session as soon as that has no pending request", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    simulation.settle(client.propose(bytes("x")));
    // A request of an earlier session stays pending.
    client.request({
      type: "Commands",
      session: 1,
      sequence: 1,
      acknowledged: 0,
      commands: bytes(""),
    }, "unknown")
      .catch(() => {});
    for (const line of ["y", "z"]) simulation.settle(client.propose(bytes(line)));
    const { owners } = cluster.server("a").node["sessions"]["table"];
    const [sessions] = owners.values();
    const [session] = sessions?.values() ?? [];
    expect([...session?.outcomes.keys() ?? []]).toEqual([3]);
  });

  test("keeps an answer that was lost, while later requests are answered", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    simulation.settle(client.propose(bytes("x")));
    const { ip } = simulation.machine("client");
    const { route } = simulation;
    simulation.route = (packet) => packet.to.host === ip ? [] : route(packet);
    const first = client.propose(bytes("y"));
    simulation.run(50);
    const second = client.propose(bytes("z"));
    simulation.run(10);
    simulation.route = route;
    expect(simulation.settle(Promise.all([first, second])).map(text)).toEqual(["2 y", "3 z"]);
  });

  test("that repeats the opening of a session finds it, on another leader, too", () => {
    const cluster = new Cluster(1);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    const open = () => simulation.settle(client.request({ type: "OpenSession", nonce: 7 }));
    const session = text(open());
    cluster.kill(cluster.leader());
    expect(text(open())).toBe(session);
    const other = cluster.connect("other");
    const answer = simulation.settle(other.request({ type: "OpenSession", nonce: 7 }));
    expect(text(answer)).not.toBe(session);
  });

  test("cannot use the session of another client", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const [victim, thief] = [cluster.connect("victim"), cluster.connect("thief")];
    simulation.settle(victim.propose(bytes("x")));
    thief["session"] = victim["session"];
    thief["sequence"] = victim["sequence"];
    expect(text(simulation.settle(thief.propose(bytes("y"))))).toBe("2 y"); // In its own session.
    expect(thief["session"]).not.toBe(victim["session"]);
    expect(text(simulation.settle(victim.propose(bytes("z"))))).toBe("3 z");
    expect(cluster.lines("a")).toEqual(["x", "y", "z"]);
  });

  test("whose session has ended after a command was sent reports an unknown outcome", () => {
    const cluster = new Cluster(1, ["a"]);
    const { simulation } = cluster;
    const client = cluster.connect("client");
    expect(text(simulation.settle(client.propose(bytes("x"))))).toBe("1 x");
    const { route } = simulation;
    simulation.route = ({ from }) => from.host === cluster.machine("a").ip ? [] : [{ afterMs: 1 }];
    const done = client.propose(bytes("y"));
    simulation.run(20);
    expect(cluster.lines("a")).toEqual(["x", "y"]);
    openSessions(cluster, client);
    simulation.route = route;
    const error = failureOf(simulation, done);
    expect(error?.code).toBe("outcomeUnknown");
    expect(error?.message).toStartWith(
      "The server refuses: the session has ended, or never was: "
        + "the request may have been carried out",
    );
    expect(cluster.lines("a")).toEqual(["x", "y"]);
  });

  test("that is closed rejects its pending requests", () => {
    const cluster = new Cluster(1);
    const client = cluster.connect("client");
    const read = client.read(bytes(""));
    client.close();
    const error = failureOf(cluster.simulation, read);
    expect(error?.code).toBe("closed");
    expect(error?.message).toStartWith("The client was closed: nothing was done. Connect another");
  });

  test("rejects its command if its node stops as soon as the session opens", () => {
    const { simulation, server: { node } } = single();
    const { onAnswer } = node["client"];
    Object.assign(node["client"], {
      onAnswer(answer: ClientMessage) {
        onAnswer.call(node["client"], answer);
        void node.stop();
      },
    });
    expect(codeOf(simulation, node.propose(bytes("x")))).toBe("stopped");
  });

  test("that is closed, or whose node has stopped, rejects every request immediately", () => {
    const { simulation, server } = single();
    const { node } = server;
    simulation.settle(node.propose(bytes("before")));
    const pending = node.propose(bytes("while it stops"));
    void node.stop();
    expect(codeOf(simulation, pending)).toBe("stopped"); // This command was not even sent.
    expect(codeOf(simulation, node.propose(bytes("after")))).toBe("stopped");
    const error = failureOf(simulation, node.read(bytes("")));
    expect(error?.code).toBe("stopped");
    expect(error?.message).toStartWith("The server has stopped: nothing was done. Start it again");
    const client = new Cluster(1).connect("client");
    client.close();
    expect(codeOf(simulation, client.propose(bytes("x")))).toBe("closed");
    expect(codeOf(simulation, client.read(bytes("")))).toBe("closed");
  });

  test("that was silent is still served after thousands of others have come and gone", () => {
    const { simulation } = single();
    const [old, others] = [simulation.machine("old").boot(), simulation.machine("others").boot()];
    const connect = (world: World) =>
      simulation.settle(Client.connect({ servers: ["a:1"], secret: SECRET, world }));
    const early = connect(old);
    for (let i = 0; i < 300; i += 1) simulation.settle(early.read(bytes("")));
    for (let i = 0; i < 4200; i += 1) {
      const visitor = connect(others);
      simulation.settle(visitor.read(bytes("")));
      visitor.close();
    }
    simulation.settle(early.read(bytes("")));
  });

  test("finds its servers again after they have moved to new addresses one by one", () => {
    // Either a redirection has given it their names meanwhile, or it has only its first addresses.
    forSeeds(20, (_, seed) => {
      const cluster = new Cluster(seed);
      const { simulation } = cluster;
      const client = cluster.connect("client");
      simulation.settle(client.propose(bytes("before")));
      for (const name of cluster.names) {
        cluster.leader();
        cluster.kill(name);
        cluster.machine(name).ip = `10.0.1.${cluster.names.indexOf(name)}`;
        cluster.start(name);
      }
      cluster.leader();
      simulation.settle(client.propose(bytes("after")));
      for (const name of cluster.names) {
        simulation.settle(cluster.server(name).node.propose(bytes(name)));
      }
    });
  });

  test("that repeats a command in flight does not make the log longer", () => {
    const cluster = new Cluster(5);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const { node } = cluster.server(leader);
    simulation.settle(node.propose(bytes("first")));
    const before = node.status().lastIndex;
    const others = cluster.names.filter((name) => name !== leader);
    for (const name of others) cluster.machine(name).pause(900);
    simulation.settle(node.propose(bytes("asked four times")));
    expect(node.status().lastIndex).toBe(before + 1);
  });

  test("gets its own answers although other processes use its key", () => {
    const { simulation } = single();
    const key = clientKey(SECRET, "raft", "alice");
    const clients = ["x", "y", "z"].map((name) =>
      simulation.settle(
        Client.connect({
          servers: ["a:1"],
          clientKey: key,
          world: simulation.machine(name).boot(),
        }),
      )
    );
    for (let n = 1; n <= 5; n += 1) {
      const done = clients.map((client, i) => client.propose(bytes(`${i}`)));
      const answers = simulation.settle(Promise.all(done)).map(text);
      expect(answers.map((answer) => answer.split(" ")[1])).toEqual(["0", "1", "2"]);
    }
  });

  test("that is another program cannot make the leader log what fits into no AppendEntries", () => {
    const cluster = new Cluster(6);
    const { simulation } = cluster;
    const leader = cluster.leader();
    const { node } = cluster.server(leader);
    const visitor = cluster.visitor(leader).send(message("OpenSession", 1, 7));
    simulation.run(100);
    const [opened] = readOutcomes(visitor.received[0]?.body.slice(2) ?? []);
    const session = Number(opened?.outcome);
    const before = node.status().lastIndex;
    const commands = commandsOf([session, 1, 0], Buffer.alloc(MAX_COMMAND_BYTES + 3));
    visitor.send(message("Commands", 2, ...commands));
    simulation.settle(node.propose(bytes("what follows it")));
    simulation.run(10);
    expect(visitor.received.at(-1)).toMatchObject({
      type: "Refused",
      body: [expect.any(Number), 2, "it is too large"],
    });
    const { commitIndex, lastIndex } = node.status();
    expect([commitIndex, lastIndex]).toEqual([before + 2, before + 2]);
  });

  test("cannot connect to an empty list of servers", () => {
    const simulation = new Simulation(1);
    const world = simulation.machine("client").boot();
    expect(codeOf(simulation, Client.connect({ servers: [], world }))).toBe("usage");
  });
});

describe("the key-value store", () => {
  const key = bytes("key");
  const [one, two, three] = [bytes("1"), bytes("2"), bytes("3")];
  type Asked = Parameters<typeof askStore>;

  test.each<[string, Asked[], boolean[]]>([
    ["put puts", [["put", key, one], ["cas", key, two, one]], [true, true]],
    ["delete tells whether there was a value", [
      ["delete", key],
      ["put", key, one],
      ["delete", key],
      ["delete", key],
    ], [false, true, true, false]],
    ["cas puts only if the expected value is there", [
      ["put", key, one],
      ["cas", key, two, bytes("0")],
      ["cas", key, three, one],
      ["cas", key, two, three],
    ], [true, false, true, true]],
    ["cas that expects nothing creates, once", [["cas", key, one], ["cas", key, two]], [
      true,
      false,
    ]],
    ["cas that expects a value does not create", [["cas", key, one, bytes("")]], [false]],
    ["an empty value is a value, an empty key a key", [
      ["put", bytes(""), bytes("")],
      ["cas", bytes(""), one],
      ["cas", bytes(""), one, bytes("")],
      ["delete", bytes("")],
    ], [true, false, true, true]],
  ])("%s", (_, commands, answers) => {
    const store = new KeyValueStore();
    expect(commands.map((fields) => answerOf(store.apply(askStore(...fields))))).toEqual(answers);
  });

  test("distinguishes keys by their bytes, even if these are no text", () => {
    const store = new KeyValueStore();
    const words = ["__proto__", "constructor", "toString", "no key"].map((word) => bytes(word));
    const keys = [[0], [0, 0], [0xFF], [0xC3, 0xBF], [0xC3], [0xED, 0xA0, 0x80], [], ...words].map((
      raw,
    ) => Buffer.from(raw));
    for (const anyKey of keys) expect(answerOf(store.query(askStore("get", anyKey)))).toBe(false);
    for (const [n, anyKey] of keys.entries()) store.apply(askStore("put", anyKey, bytes(`${n}`)));
    for (const [n, anyKey] of keys.entries()) {
      expect(answerOf(store.query(askStore("get", anyKey)))).toBe(`${n}`);
    }
  });

  test("keeps a copy of a value, not a view of the command's buffer", () => {
    const store = new KeyValueStore();
    const command = askStore("put", key, bytes("kept"));
    store.apply(command);
    command.fill(0);
    expect(answerOf(store.query(askStore("get", key)))).toBe("kept");
  });

  test("answers malformed commands without applying them, and never throws", () => {
    const store = new KeyValueStore();
    store.apply(askStore("put", key, one));
    const whole = askStore("put", key, two);
    const beginnings = Array.from(whole, (_, length) => whole.subarray(0, length));
    const unknown = Buffer.concat([Buffer.of(9), whole.subarray(1)]);
    const malformed = [
      ...beginnings,
      unknown,
      askStore("get", key),
      askStore("cas", key, two),
      askStore("cas", key, two),
      askStore("delete"),
    ];
    for (const command of malformed) {
      expect([command, answerOf(store.apply(command))]).toEqual([command, false]);
      store.query(command);
    }
    forSeeds(2000, (random) => {
      const raw = Uint8Array.from({ length: random() * 30 }, () => random() * 256);
      store.apply(raw);
      store.query(raw);
    });
    expect(answerOf(store.query(askStore("get", key)))).toBe("1");
  });

  test("writes a snapshot as of its beginning, although commands are applied meanwhile", () => {
    forSeeds(200, (random) => {
      const draw = (n: number) => Math.floor(random() * n);
      const change = (store: KeyValueStore) => {
        const verb = (["put", "put", "delete", "cas"] as const)[draw(4)] ?? "put";
        store.apply(askStore(verb, bytes(`${draw(20)}`), bytes(`${draw(1000)}`)));
      };
      const store = new KeyValueStore();
      for (let i = 0; i < 30; i += 1) change(store);
      void [...store.snapshot()].length;
      store.snapshot(); // This snapshot is never read.
      const before = new Map(store["values"]);
      const chunks: Uint8Array[] = [];
      for (const chunk of store.snapshot()) {
        chunks.push(chunk);
        for (let i = draw(3); i > 0; i -= 1) change(store);
      }
      const restored = new KeyValueStore();
      change(restored);
      const restore = restored.restore();
      for (const chunk of chunks) restore(chunk);
      const sorted = ({ values }: { values: Map<string, string> }) =>
        [...values].map(([key, value]) => `${key}: ${value}`).sort();
      expect(sorted({ values: restored["values"] })).toEqual(sorted({ values: before }));
    });
  });

  test("is served by a cluster: put, get, delete, cas", () => {
    const cluster = new Cluster(1, ["a", "b", "c"], () => new KeyValueStore());
    const { simulation } = cluster;
    const values = new KeyValues(cluster.connect("client"));
    const get = () => {
      const value = simulation.settle(values.get(key));
      return value && text(value);
    };
    expect(get()).toBeUndefined();
    simulation.settle(values.put(key, bytes("1")));
    expect(get()).toBe("1");
    expect(simulation.settle(values.cas(key, bytes("0"), bytes("2")))).toBe(false);
    expect(simulation.settle(values.cas(key, bytes("1"), bytes("2")))).toBe(true);
    expect(get()).toBe("2");
    expect(simulation.settle(values.delete(key))).toBe(true);
    expect(simulation.settle(values.delete(key))).toBe(false);
    expect(simulation.settle(values.cas(key, undefined, bytes("3")))).toBe(true);
    expect(get()).toBe("3");
  });

  test("takes any bytes as keys and values: empty, words of JavaScript, or no text", () => {
    const cluster = new Cluster(1, ["a", "b", "c"], () => new KeyValueStore());
    const { simulation } = cluster;
    const values = new KeyValues(cluster.connect("client"));
    const unusual = [
      Buffer.alloc(0),
      bytes("__proto__"),
      bytes("constructor"),
      Buffer.from([0xFF, 0xC3, 0]),
    ];
    for (const anyKey of unusual) {
      expect(simulation.settle(values.get(anyKey))).toBeUndefined();
      simulation.settle(values.put(anyKey, anyKey));
      expect(simulation.settle(values.get(anyKey))).toEqual(Uint8Array.from(anyKey));
      expect(simulation.settle(values.cas(anyKey, anyKey, Buffer.alloc(0)))).toBe(true);
      expect(simulation.settle(values.get(anyKey))).toEqual(new Uint8Array());
    }
    for (const anyKey of unusual) expect(simulation.settle(values.delete(anyKey))).toBe(true);
    const large = Buffer.alloc(MAX_COMMAND_BYTES);
    const before = cluster.server("a").node.status().lastIndex;
    for (const put of [() => values.put(large, key), () => values.put(key, large)]) {
      const { code, message } = failureOf(simulation, put()) ?? {};
      expect(code).toBe("refused");
      expect(message).toMatch(
        /^Cannot send \d+ bytes: the limit is 64000\. Nothing was sent\. Split them\.$/,
      );
    }
    expect(cluster.server("a").node.status().lastIndex).toBe(before);
  });
});
