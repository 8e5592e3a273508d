/**
 * Simulates the algorithm of Part I alone, with the faults that a seed draws. Messages that the RPC
 * layer drops arrive here: repeated, in any order, of any age, from before a restart. So no layer
 * hides a bug of the algorithm. After the faults a majority is healed, and must serve. Then all
 * servers are healed, and must agree.
 */
import { type Name } from "../../raft.ts";
import { Client } from "./core/clients.ts";
import { Network } from "./core/network.ts";
import { type Fault, Scene, type Steps } from "./core/scene.ts";
import { Server } from "./core/server.ts";
import { Violation } from "./judge.ts";
import { checkLinearizable } from "./linearizability.ts";
import { type Report } from "./report.ts";

const HOSTILE_MS = 30_000;
/** Election timeouts after which a cluster without faults must have a leader. */
const PATIENCE = 10;

type Trace = ((line: string) => void) | undefined;

/** Runs one seed. Throws at a broken promise. */
export function simulateCore(seed: number, { trace }: { trace?: Trace } = {}): Report {
  const tell = trace
    && ((words: string, now: number) => trace(`${now.toFixed(1).padStart(8)} ms  ${words}`));
  const cluster = new Cluster(new Scene(seed, tell));
  cluster.planFaults();
  const steps = cluster.run();
  for (;;) {
    const { done, value } = steps.next();
    if (done) return value;
  }
}

/** A simulated cluster, its clients and its faults. */
export class Cluster {
  readonly network: Network;
  readonly servers: Server[];
  private clients: Client[] = [];
  /** The client of a visitor who acts. No fault replaces it. */
  visitor: Client | undefined;
  private clientsMade = 0;
  private partitions = 0;
  /** The longest election timeout. */
  private readonly timeoutMs: number;

  constructor(readonly scene: Scene) {
    this.network = new Network(scene);
    this.servers = scene.names.map((name) => new Server(name, scene, this.network));
    this.network.deliver = (m) => this.servers.find(({ name }) => name === m.to)?.receive(m);
    this.network.hear = (name, restarted) =>
      this.servers.find((server) => server.name === name)?.onRestarted(restarted);
    this.network.ask = (name, request) =>
      this.servers.find((server) => server.name === name)?.request(request);
    this.timeoutMs = 2 * scene.conditions.electionTimeoutMs;
    this.network.isRunning = (name) =>
      this.servers.some((server) => server.name === name && server.raft !== undefined);
    for (const server of this.servers) server.start();
    for (let i = 0; i < scene.conditions.clients; i += 1) this.addClient().live();
  }

  /** Runs a whole seed: first with the planned faults, then healed. Throws at a broken promise. */
  *run(): Steps<Report> {
    const { scene } = this;
    yield* scene.run(HOSTILE_MS);
    scene.isHostile = false;
    for (const client of this.clients) client.finish();
    if (scene.conditions.wipes) return yield* this.healAfterLosses();
    yield* this.healMajority();
    yield* this.healAll();
    if (scene.judge.voters.length > 2) {
      yield* this.rejoin();
      yield* this.failOver();
    }
    scene.judge.checkAll();
    scene.report.changes = scene.judge.committed.filter(({ kind }) => kind === "members").length;
    const wrong = checkLinearizable(scene.history);
    if (wrong) throw new Violation("The history of the clients is linearizable", wrong);
    scene.report.simulatedMs = scene.now;
    scene.report.elections = scene.judge.elections;
    return scene.report;
  }

  private addClient(): Client {
    this.clientsMade += 1;
    const client = new Client(`k${this.clientsMade}`, this.scene, this.servers);
    this.clients.push(client);
    return client;
  }

  /** Returns the visitor's client, which opens a session when it is first needed. */
  visit(): Client {
    return this.visitor ??= new Client("k0", this.scene, this.servers);
  }

  /** Adds a machine with a server that is no member yet. */
  addServer(name: Name): void {
    this.scene.addName(name);
    const server = new Server(name, this.scene, this.network);
    this.servers.push(server);
    server.start();
  }

  // ------------------------------------------- Faults --------------------------------------------

  /** Plans the faults that the conditions ask for, as long as the scene is hostile. */
  planFaults(): void {
    const { scene, network } = this;
    const { conditions } = scene;
    const T = conditions.electionTimeoutMs;
    this.every(conditions.clogEveryMs, () => network.clog());
    this.every(conditions.killEveryMs, () => this.strike("crash").crash("at any time"));
    this.every(
      conditions.pauseEveryMs,
      () => this.strike("pause").pause(scene.between(0, 4 * T)),
    );
    this.every(conditions.transferEveryMs, () => {
      this.noted("transfer", this.leading)?.transfer(scene.pick(scene.names));
    });
    this.every(conditions.changeEveryMs, () => this.noted("change", this.leading)?.change());
    this.every(conditions.partitionEveryMs, () => this.partition());
    this.every(conditions.blackoutEveryMs, () => {
      scene.note({ kind: "nemesis", what: "blackout", servers: scene.names });
      for (const server of this.servers) server.crash("with all others");
    });
    this.every(20 * T, () => this.replaceClient());
  }

  /** Returns a leader, the first one if several servers lead in different terms. */
  get leading(): Server | undefined {
    return this.servers.find(({ isLeader }) => isLeader);
  }

  /** Notes a fault of a server, and returns the server. */
  private noted<Struck extends Server | undefined>(what: Fault, server: Struck): Struck {
    if (server) this.scene.note({ kind: "nemesis", what, servers: [server.name] });
    return server;
  }

  private strike(what: Fault): Server {
    return this.noted(what, this.victim());
  }

  /** Repeats an action at random intervals while faults occur. */
  private every(ms: number, action: () => void): void {
    if (ms === Number.POSITIVE_INFINITY) return;
    this.scene.plan(2 * ms * this.scene.random(), () => {
      if (!this.scene.isHostile) return;
      action();
      this.every(ms, action);
    });
  }

  /** Returns any server, but more often the leader, whose faults matter most. */
  private victim(): Server {
    const leader = this.servers.find(({ isLeader }) => isLeader);
    return leader && this.scene.chance(0.5) ? leader : this.scene.pick(this.servers);
  }

  private partition(): void {
    const { scene, network } = this;
    const number = this.partitions += 1;
    network.partition();
    scene.plan(scene.between(0.5, 8) * scene.conditions.electionTimeoutMs, () => {
      if (scene.isHostile && this.partitions === number) network.mend();
    });
  }

  private replaceClient(): void {
    this.scene.note({ kind: "nemesis", what: "client", servers: [] });
    const [old] = this.clients.splice(Math.floor(this.scene.random() * this.clients.length), 1);
    this.scene.report.unknown += old?.kill() ?? 0;
    this.addClient().live();
  }

  /**
   * Heals a cluster that may have lost any number of disks. It may have no leader, or another
   * founding. But the judge checks that no server replaces entries that it saved as committed, and
   * that each founding keeps its promises.
   */
  private *healAfterLosses(): Steps<Report> {
    const { scene, network } = this;
    scene.tell(() => "network  is healed, and disks were lost");
    network.calmDown(scene.names);
    for (const server of this.servers) server.heal();
    yield* scene.begin("healed");
    yield* scene.run(20 * this.timeoutMs);
    scene.judge.checkAll();
    scene.report.refoundings = Math.max(0, scene.judge.founded - 1);
    scene.report.simulatedMs = scene.now;
    scene.report.elections = scene.judge.elections;
    return scene.report;
  }

  // ------------------------------------------- Healing -------------------------------------------

  /** Heals a majority only, which must be enough (TigerBeetle's rule). */
  private *healMajority(): Steps {
    const { scene, network, timeoutMs } = this;
    const core = this.drawMajority();
    scene.tell(() => `network  is healed for ${core.map(({ name }) => name).join(" ")} alone`);
    network.calmDown(scene.names);
    for (const server of this.servers) if (!core.includes(server)) this.isolate(server);
    for (const server of core) server.heal();
    yield* scene.begin("majority");
    const isLed = () => core.some(({ isLeader }) => isLeader);
    yield* this.expect(PATIENCE * timeoutMs, isLed, "A healthy majority has a leader");
    // A message in flight may still bring a later term.
    yield* scene.run(6 * timeoutMs);
    yield* this.expect(PATIENCE * timeoutMs, isLed, "A healthy majority has a leader");
    yield* this.checkService(core);
    const termOf = () => Math.max(...core.map(({ raft }) => raft?.currentTerm ?? 0));
    const term = termOf();
    yield* scene.run(PATIENCE * timeoutMs / 2);
    if (termOf() !== term) {
      throw new Violation("A healthy majority keeps its term", `from ${term} to ${termOf()}`);
    }
  }

  /** Returns a majority of the members, even if any of the pending changes is committed. */
  private drawMajority(): readonly Server[] {
    const core: Server[] = [];
    const names = () => core.map(({ name }) => name);
    for (const server of this.scene.shuffle(this.servers)) {
      if (this.scene.judge.canDoAlone(names())) break;
      core.push(server);
    }
    return core;
  }

  /** Isolates a server. A deaf one still sends, and must not disrupt the others. */
  private isolate(server: Server): void {
    const how = this.scene.pick(["down", "deaf", "cut off"]);
    if (how === "down") server.kill("for good");
    this.network.isolate(server.name, how === "deaf");
  }

  private *expect(ms: number, isSo: () => boolean, sentence: string): Steps {
    if (yield* this.scene.run(ms, isSo)) return;
    throw new Violation(sentence, `not in ${Math.round(ms)} ms, at ${this.describe()}`);
  }

  private describe(): string {
    return this.servers.map(({ name, raft }) =>
      raft
        ? `${name} ${raft.role.name} term ${raft.currentTerm} ${raft.lastApplied}/`
          + `${raft.commitIndex}/${raft.log.lastIndex}`
        : `${name} down`
    ).join(", ");
  }

  /** Checks that a write, a read and all pending requests succeed. */
  private *checkService(core: readonly Server[]): Steps {
    const probe = this.addClient();
    const limitMs = PATIENCE * this.timeoutMs + this.catchUpMs(core);
    const isIdle = () => this.clients.every((client) => client.isIdle);
    yield* this.expect(limitMs, isIdle, "A healthy majority answers");
    probe.write();
    probe.read();
    yield* this.expect(limitMs, isIdle, "A healthy majority answers");
  }

  /** Returns the time that it takes to send a whole log, one large entry after another. */
  private catchUpMs(servers: readonly Server[]): number {
    const { latencyMs, jitterMs, turnMs, batchBytes, snapshotMs } = this.scene.conditions;
    const entries = Math.max(...servers.map(({ raft }) => raft?.log.lastIndex ?? 0));
    const chunks = Math.max(...servers.map(({ raft }) => raft?.snapshot.size ?? 0)) / batchBytes;
    return 2 * (entries + chunks) * (latencyMs + jitterMs + turnMs) + 4 * snapshotMs;
  }

  /** Heals all servers. They must end with equal, committed logs and equal states. */
  private *healAll(): Steps {
    const { scene, network, servers } = this;
    scene.tell(() => "network  is healed");
    network.calmDown(scene.names);
    for (const server of servers) server.heal();
    yield* scene.begin("healed");
    yield* this.agree();
    scene.judge.checkAgreement(this.members.map(({ name }) => name));
    const states = new Set(this.members.map(({ contents }) => contents));
    if (states.size > 1) {
      throw new Violation("Equal logs make equal states", [...states].join("; "));
    }
  }

  private *agree(): Steps {
    const limitMs = 2 * PATIENCE * this.timeoutMs + this.catchUpMs(this.servers);
    yield* this.expect(limitMs, () => this.isAgreed, "Healthy servers agree");
  }

  /** Returns the voters and learners. Other servers need not have the log. */
  private get members(): readonly Server[] {
    const { voters } = this.scene.judge;
    return this.servers.filter(({ name }) => voters.includes(name));
  }

  /** Returns whether all servers agree, and all learners have been promoted. */
  private get isAgreed(): boolean {
    const { length } = this.scene.judge.committed;
    const leader = this.servers.find(({ isLeader }) => isLeader);
    return leader?.raft?.members.every(({ votes }) => votes) === true
      && this.members.every(({ raft }) =>
        raft?.lastApplied === length && raft.log.lastIndex === length
      );
  }

  /** Checks that a returning server does not depose a working leader (thesis §9.6). */
  private *rejoin(): Steps {
    const { scene, network, timeoutMs } = this;
    yield* scene.run(timeoutMs);
    yield* this.agree();
    const leader = this.leader;
    const term = leader.raft?.currentTerm;
    const away = scene.pick(this.members.filter((server) => server !== leader));
    scene.tell(() => `network  ${away.name} is cut off`);
    network.isolate(away.name);
    yield* scene.begin("rejoin");
    yield* scene.run(3 * timeoutMs);
    scene.tell(() => `network  ${away.name} is back`);
    network.mend();
    yield* scene.run(2 * timeoutMs);
    if (!leader.isLeader || leader.raft?.currentTerm !== term) {
      throw new Violation(
        "A returning server does not depose a working leader",
        `${leader.name} led in term ${term} until ${away.name} returned: ${this.describe()}`,
      );
    }
  }

  /** Checks that an isolated leader steps down, and that the other servers elect another one. */
  private *failOver(): Steps {
    const { scene, network, servers, timeoutMs } = this;
    const leader = this.leader;
    scene.tell(() => `network  the leader ${leader.name} is cut off`);
    network.isolate(leader.name);
    yield* scene.begin("failover");
    const isLed = () => servers.some((server) => server !== leader && server.isLeader);
    yield* this.expect(PATIENCE * timeoutMs, isLed, "The other servers replace an isolated leader");
    yield* this.expect(timeoutMs, () => !leader.isLeader, "An isolated leader steps down");
    network.mend();
    yield* this.agree();
    scene.judge.checkAgreement(this.members.map(({ name }) => name));
  }

  private get leader(): Server {
    const leader = this.servers.find(({ isLeader }) => isLeader);
    if (!leader) throw new Violation("Healthy servers have a leader", this.describe());
    return leader;
  }
}
