/** The whole simulated cluster in its world, and the checks after every step of it. */
import { encodeRecord, type Entry, type NodeEvent } from "../../../raft.ts";
import { type Fault, type Operation } from "../../support/disk.ts";
import { pick, type Random, randomFrom } from "../../support/random.ts";
import { DATA, numberIn } from "../../support/wire.ts";
import { type Machine, type Packet, type Route, Simulation } from "../../support/world.ts";
import { tellEvent } from "../events.ts";
import { emptyReport, record, type Report } from "../report.ts";
import { Channels } from "./channels.ts";
import { Figure3 } from "./figure3.ts";
import { drawHostility, type Hostility } from "./hostility.ts";
import { isMajority, Lists, votersIn } from "./lists.ts";
import { Network } from "./network.ts";
import { judgePromise } from "./promises.ts";
import { Secrets } from "./secrets.ts";
import { isStorageError, Server, SNAPSHOT, type Subject } from "./server.ts";
import { readPacket, tellMessage } from "./story.ts";
import { Workload } from "./workload.ts";

/** A bound on every queue of a server. */
const QUEUE_BOUND = 2_000;
export type Trace = ((line: string) => void) | undefined;

export class Cluster {
  readonly simulation: Simulation;
  readonly hostility: Hostility;
  readonly report: Report;
  readonly network: Network;
  readonly channels: Channels;
  readonly secrets: Secrets;
  readonly workload: Workload;
  readonly servers: Server[];
  readonly names: readonly string[];
  readonly clients: readonly string[];
  /** Whether faults still occur. */
  isHostile = true;
  /** Until then the last membership change may still be granted. */
  changesUntil = 0;
  /** The first error that its place could not throw. */
  broken: unknown;
  /** The terms of the committed entries, by index, and the state after each command. */
  readonly committed: number[] = [0];
  readonly lists: Lists;
  /** The entries whose lists of members have been read. An entry never changes. */
  private readonly noted = new WeakSet<Entry>();
  private readonly states = new Map<string, number>();
  /** A judge for each founding of the cluster. There is one, unless `wipes` is on. */
  private readonly figures = new Map<number, Figure3>();
  private readonly byName: Map<string, Server>;
  /** The index of the last snapshot that was judged. */
  private readonly judged = new Map<string, number>();
  private readonly random: Random;

  constructor(
    seed: number,
    private readonly trace: Trace,
    readonly subject: Subject | undefined,
  ) {
    const simulation = this.simulation = new Simulation(seed);
    const random = this.random = randomFrom(seed + 1e9);
    const hostility = this.hostility = drawHostility(random);
    this.names = Array.from(
      { length: hostility.servers + hostility.spares },
      (_, i) => String.fromCharCode(97 + i),
    );
    this.lists = new Lists(this.names.slice(0, hostility.servers));
    this.clients = Array.from({ length: hostility.clients }, (_, i) => `client${i + 1}`);
    const report = this.report = emptyReport(this.names.length);
    this.network = new Network(simulation, randomFrom(seed + 2e9), hostility, report);
    this.channels = new Channels(
      hostility.datagramBytes,
      (what) => void (this.broken ??= new Error(what)),
    );
    this.secrets = new Secrets(this.names);
    this.workload = new Workload(
      simulation,
      randomFrom(seed + 3e9),
      hostility,
      report,
      this,
      (who, line) => this.tell(who, line),
    );
    this.servers = this.names.map((name) => this.makeServer(name));
    this.byName = new Map(this.servers.map((server) => [server.name, server]));
    simulation.syncMs = () =>
      this.isHostile && random() < hostility.slowSync
        ? random() * hostility.slowSyncMs
        : 0;
    simulation.watch = ({ machine, operation }) =>
      operation && record(report, `${simulation.now} ${machine.name} ${operation.what}`);
    simulation.route = (packet) => this.onPacket(packet);
    simulation.afterTurn = (machine) => this.judge(machine);
  }

  private makeServer(name: string): Server {
    const machine = this.simulation.machine(name);
    const { hostility, random } = this;
    machine.drift = { startedAt: -1000 * random(), rate: 1 + hostility.drift * (2 * random() - 1) };
    machine.turnMs = hostility.turnMs;
    machine.receiveBufferBytes = hostility.receiveBufferBytes;
    machine.datagramBytes = hostility.datagramBytes;
    const founders = this.names.slice(0, hostility.servers);
    const server: Server = new Server(machine, founders, hostility, this, {
      onEvent: (event) => this.onEvent(server, event),
      onApplied: (index, place, hash) => this.onApplied(server, index, place, hash),
      onBroken: (what) => void (this.broken ??= new Error(`${name} ${what}`)),
      onStopped: (reason) => this.onStopped(server, reason),
      onEnded: () => {
        this.tell(server.name, () => "HAS STOPPED");
        server.machine.kill();
        if (this.isHostile) this.reviveLater(server);
        else this.revive(server); // It was told to stop while faults still occurred.
      },
    });
    machine.disk.fault = (operation) => this.onOperation(server, operation);
    return server;
  }

  tell(who: string, line: () => string): void {
    if (!this.trace) return;
    const at = this.simulation.now.toFixed(3).padStart(10);
    this.trace(`${at} ms  ${who.padEnd(8)} ${line()}`);
  }

  get up(): Server[] {
    return this.servers.filter((server) => server.isUp);
  }

  /** Lets time pass until `isEnough`. Returns whether it was enough. Throws at a broken promise. */
  run(ms: number, isEnough: () => boolean = () => false): boolean {
    const isBroken = () => this.broken !== undefined || this.workload.broken !== undefined;
    const was = this.simulation.run(ms, () => isBroken() || isEnough());
    if (isBroken()) throw this.broken ?? this.workload.broken;
    return was;
  }

  // ------------------------------------ Crashes and restarts -------------------------------------

  crash(server: Server, how: "killed" | "power cut"): void {
    if (!server.isUp) return;
    const { report, random, hostility } = this;
    report.crashes += 1;
    this.noteMembers(server);
    if (how === "killed") server.machine.kill();
    else {
      report.powerCuts += 1;
      server.machine.powerCut(pick(random, ["nothing", "parts", "parts", "everything"]));
    }
    this.tell(server.name, () => `IS ${how.toUpperCase()}`);
    if (random() < hostility.bitFlip && server.flipBit(random)) {
      report.diskFaults += 1;
      this.tell(
        server.name,
        () => `HAS A BIT FLIPPED at byte ${server.damage?.at} of ${server.damage?.file}`,
      );
    }
    this.loseDisk(server);
    this.reviveLater(server);
  }

  private loseDisk(server: Server): void {
    const { lists, committed, report, random, hostility } = this;
    if (!this.isHostile || server.damage || random() >= hostility.diskLoss) return;
    // The remaining servers may need the removed one.
    if (this.simulation.now < this.changesUntil) return;
    for (const each of this.servers) each.readPlatter(hostility.wipes ? [] : committed);
    if (!hostility.wipes && !lists.canLoseDisk(server.name, committed, this.diskOf)) return;
    server.loseDisk();
    report.lostDisks += 1;
    this.tell(server.name, () => "HAS LOST ITS DISK");
  }

  readonly diskOf = (name: string) => {
    const { disk = 0, lastIndex = 0 } = this.byName.get(name)?.platter ?? {};
    return { disk, isEmpty: lastIndex === 0 };
  };

  private reviveLater(server: Server): void {
    const ms = -Math.log(1 - this.random()) * this.hostility.downMs;
    this.simulation.plan(ms, () => this.isHostile && this.revive(server));
  }

  revive(server: Server): void {
    if (server.isUp) return;
    this.report.restarts += 1;
    this.tell(server.name, () => "STARTS");
    server.start();
  }

  /** Handles a server that stopped. Only a failed or damaged disk is a valid reason. */
  private onStopped(server: Server, reason: unknown): void {
    const mayStop = (server.isFaulted || server.damage) && isStorageError(reason);
    if (!mayStop) this.broken ??= new Error(`${server.name} stops: ${String(reason)}`);
    this.tell(server.name, () => `STOPS: ${String(reason)}`);
    server.machine.kill();
    server.mend();
    this.reviveLater(server);
  }

  /** Decides, before an operation of a disk, whether it fails, or whether the server is killed. */
  private onOperation(server: Server, { what, file }: Operation): Fault | undefined {
    const { random, hostility, report } = this;
    if (what === "rename" && file === SNAPSHOT) this.judgeBeforeCut(server);
    if (!this.isHostile) return undefined;
    if (random() < hostility.killAtOperation) {
      this.tell(server.name, () => `is about to ${what}`);
      this.crashSomehow(server);
      return undefined;
    }
    const isFull = this.simulation.now < server.fullUntil && what !== "sync";
    if (!isFull && random() >= hostility.diskFault) return undefined;
    if (!isFull && random() < 0.3) server.fullUntil = this.simulation.now + hostility.downMs;
    report.diskFaults += 1;
    server.isFaulted = true;
    this.tell(server.name, () => `CANNOT ${what.toUpperCase()}`);
    return { code: isFull ? "ENOSPC" : "EIO", share: random() };
  }

  // ------------------------------------------ Judgement ------------------------------------------

  private onPacket(packet: Packet): Route[] {
    const { simulation, report, hostility } = this;
    const from = simulation.machineAt(packet.from.host)?.name ?? packet.from.host;
    const to = simulation.machineAt(packet.to.host)?.name ?? packet.to.host;
    report.messagesSent += 1;
    record(report, `${simulation.now} ${from} ${to}`);
    record(report, packet.bytes);
    const server = this.byName.get(from);
    if (packet.bytes.length === 0) return this.onKnock(from, to, packet);
    if (server?.isFaulted) throw new Error(`${from} says something after its disk has failed`);
    this.channels.onPacket(packet.bytes);
    const said = readPacket(packet.bytes);
    report.handshakes += said.filter(({ type }) => type === "hello").length;
    report.parts += said.filter(({ part }) => part).length;
    if (server) {
      server.readPlatter(this.hostility.wipes ? [] : this.committed);
      for (const sentence of said) judgePromise(from, to, sentence, server.platter);
    }
    for (const { fields } of said) {
      const { entries } = fields;
      if (entries instanceof Uint8Array) this.lists.read(Buffer.from(entries));
    }
    const { routes, why } = this.network.fateOf(from, to, packet);
    for (const sentence of said) {
      this.tell(from, () => `> ${to}: ${tellMessage(sentence)}${why && ` (${why})`}`);
    }
    if (!this.isHostile) return routes;
    const attack = this.network.attack(packet);
    if (attack) this.tell(from, () => `> ${to}: AN ATTACKER ANSWERS: ${attack}`);
    if (server && this.random() < hostility.killAtDatagram) this.crashSomehow(server);
    const isHandshake = packet.bytes[0] !== DATA || numberIn(packet.bytes) === 0;
    if (isHandshake && this.random() < hostility.killAtHandshake) {
      const victim = this.random() < 0.5 ? server : this.byName.get(to);
      if (victim) this.crashSomehow(victim);
    }
    return routes;
  }

  private crashSomehow(server: Server): void {
    this.crash(server, this.random() < 0.5 ? "killed" : "power cut");
  }

  /** Handles a port probe or its refusal. Sometimes a refusal is forged. */
  private onKnock(from: string, to: string, packet: Packet): Route[] {
    const { simulation, report, hostility, network } = this;
    const { onRefused } = packet;
    const { routes, why } = network.fateOf(from, to, packet);
    const what = onRefused ? "knocks" : "REFUSES";
    this.tell(from, () => `> ${to}: ${what}${why && ` (${why})`}`);
    if (!onRefused) report.refusals += 1;
    else if (this.isHostile && this.random() < hostility.forgery) {
      report.forgeries += 1;
      this.tell(from, () => `> ${to}: A REFUSAL IS FORGED`);
      simulation.plan(this.random() * 2 * hostility.heartbeatMs, onRefused);
    }
    return routes;
  }

  private onEvent(server: Server, event: NodeEvent): void {
    record(this.report, `${server.name} ${event.type}`);
    if (event.type === "role" && event.to === "Leader") this.report.elections += 1;
    if (event.type === "snapshot") {
      this.report[event.from === undefined ? "snapshots" : "installs"] += 1;
    }
    this.tell(server.name, () => `${tellEvent(event, server.core?.currentTerm ?? 0)}`);
  }

  /** State Machine Safety: servers that have applied the same entries are in the same state. */
  private onApplied(server: Server, index: number, place: string, hash: number): void {
    const { workload, hostility } = this;
    // Another founding may have applied fewer entries, and answers its clients from those.
    if (!hostility.wipes) workload.newestApplied = Math.max(workload.newestApplied, index);
    const key = `${place} ${server.core?.founding}`;
    const expected = this.states.get(key) ?? hash;
    this.states.set(key, expected);
    if (hash === expected) return;
    this.broken ??= new Error(`${server.name} is in another state than others after ${place}`);
  }

  /** Judges before the log is compacted, because entries committed in this turn may go. */
  private judgeBeforeCut(server: Server): void {
    try {
      this.judge(server.machine);
    } catch (error) {
      this.broken ??= error;
    }
  }

  private judge({ name }: Machine): void {
    const server = this.byName.get(name);
    if (!server?.isUp) return;
    if (server.isFaulted) throw new Error(`${name} goes on after its disk has failed`);
    const { core } = server;
    if (!core) return;
    const { wipes } = this.hostility;
    server.readPlatter(wipes ? [] : this.committed);
    this.noteMembers(server);
    const figure3 = this.figures.get(core.founding) ?? new Figure3();
    this.figures.set(core.founding, figure3);
    figure3.judge(name, core);
    if (wipes) return this.judgeQueues(server); // Each founding has committed entries of its own.
    this.judgeCommitted(server, core);
    this.judgeSnapshot(server);
    this.judgeQueues(server);
  }

  /** Returns how many foundings have committed an entry. */
  get founded(): number {
    return [...this.figures.values()].filter(({ isUsed }) => isUsed).length;
  }

  /** Returns the lists of members in a log. */
  private noteMembers({ core }: Server): void {
    if (!core) return;
    const { log } = core;
    let { index } = log.membership();
    for (let end = Infinity; log.baseIndex < index && index < end;) {
      const entry = log.at(index);
      if (!this.noted.has(entry)) this.lists.read(Buffer.concat(encodeRecord(entry)));
      this.noted.add(entry);
      end = index;
      // The members at the base may be those of a snapshot that is later than the base.
      ({ index } = log.membership(end - 1));
    }
  }

  /** Returns the voters by the committed entries. */
  get members(): Server[] {
    const voters = this.lists.votersAfter(this.committed);
    return this.servers.filter(({ name }) => voters.includes(name));
  }

  /** Committed entries are durable on a majority of a list that was in force in this turn. */
  private judgeCommitted(
    { name }: Server,
    { log, commitIndex }: NonNullable<Server["core"]>,
  ): void {
    const { committed, servers, lists } = this;
    if (commitIndex < committed.length) return;
    const isThere = (index: number, term: number) => log.matches(index, term);
    const possible = lists.possibleAfter(committed, isThere);
    for (let index = committed.length; index <= commitIndex; index += 1) {
      const { term } = log.at(index);
      for (const server of servers) server.readPlatter(committed);
      const holders = ({ disks }: { disks: ReadonlyMap<string, number> }) =>
        servers.filter((server) => server.hasEntry(index, term, disks.get(server.name)))
          .map((server) => server.name);
      committed.push(term);
      if (possible.some((list) => isMajority(holders(list), list.voters))) continue;
      throw new Error(
        `${name} takes entry ${index} of term ${term} for committed, but it is `
          + `durable on ${
            possible.map((list) => `${holders(list).join(", ")} of ${list.voters.join(", ")}`)
              .join(", or on ")
          }`,
      );
    }
  }

  /** A snapshot has the members at its index. A server that is yet to join may know none. */
  private judgeSnapshot({ name, platter: { snapshotIndex, snapshotList } }: Server): void {
    if (this.judged.get(name) === snapshotIndex) return;
    this.judged.set(name, snapshotIndex);
    const voters = votersIn(snapshotList).toSorted().join(", ");
    const expected = this.lists.votersAfter(this.committed.slice(0, snapshotIndex + 1));
    const isUnknown = voters === "" && expected === this.lists.founders;
    if (snapshotIndex === 0 || isUnknown || voters === expected.toSorted().join(", ")) return;
    throw new Error(
      `the snapshot that ${name} has of ${snapshotIndex} lists ${voters}, and `
        + `${expected.join(", ")} were the members`,
    );
  }

  private judgeQueues({ name, node, core }: Server): void {
    if (!node || !core) return;
    const { role } = core;
    const reads = role.name === "Leader" ? role.reads.length : 0;
    const queues = {
      reads,
      proposals: node["proposals"].size,
      readRequests: node["reads"].length,
      outbox: core["outbox"].length,
      events: core.events.length,
    };
    for (const [queue, length] of Object.entries(queues)) {
      if (length > QUEUE_BOUND) throw new Error(`${name} has ${length} ${queue}, more and more`);
    }
  }
}
