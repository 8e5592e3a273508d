/** Injects faults at random times: kills, pauses, cuts and repairs. */
import { RaftError } from "../../../raft.ts";
import { pick, type Random, randomFrom } from "../../support/random.ts";
import { type Cluster } from "./cluster.ts";
import { Impostor } from "./impostor.ts";
import { PORT, type Server } from "./server.ts";

export const HOSTILE_MS = 30_000;

export class Nemesis {
  private readonly random: Random;

  constructor(private readonly cluster: Cluster, seed: number) {
    this.random = randomFrom(seed + 4e9);
    const { hostility } = cluster;
    this.every(hostility.killEveryMs, () => this.onVictim((s) => cluster.crash(s, "killed")));
    this.every(
      hostility.powerCutEveryMs,
      () => this.onVictim((s) => cluster.crash(s, "power cut")),
    );
    this.every(hostility.blackoutEveryMs, () => {
      for (const server of cluster.up) cluster.crash(server, "power cut");
    });
    this.every(hostility.pauseEveryMs, () => this.onVictim((s) => this.pause(s)));
    this.every(hostility.changeEveryMs, () => this.change());
    this.every(hostility.transferEveryMs, () => this.transfer());
    this.every(hostility.stopEveryMs, () => this.onVictim((s) => this.stop(s)));
    this.every(hostility.clogEveryMs, () => this.clog());
    this.every(hostility.partitionEveryMs, () => this.partition());
    this.every(hostility.rotateEveryMs, () => this.rotate());
    this.every(hostility.renewEveryMs, () => this.onVictim((s) => this.renew(s)));
    const impostor = new Impostor(cluster, this.random);
    this.every(hostility.imposeEveryMs, () => {
      cluster.report.forgeries += 1;
      void impostor.speak();
    });
  }

  private every(ms: number, act: () => void): void {
    if (ms === Number.POSITIVE_INFINITY) return;
    const { simulation } = this.cluster;
    simulation.plan(-Math.log(1 - this.random()) * ms, () => {
      if (!this.cluster.isHostile) return;
      act();
      this.every(ms, act);
    });
  }

  /** Picks a server. Picks the leader more often, because its faults matter most. */
  private onVictim(act: (server: Server) => void): void {
    const { up } = this.cluster;
    const leader = up.find((server) => server.isLeader);
    if (leader && this.random() < 0.4) act(leader);
    else if (up.length > 0) act(pick(this.random, up));
  }

  private pause(server: Server): void {
    const { report, hostility } = this.cluster;
    const ms = this.random() * 4 * hostility.electionTimeoutMs;
    report.pauses += 1;
    this.cluster.tell(server.name, () => `IS PAUSED for ${Math.round(ms)} ms`);
    server.machine.pause(ms);
  }

  /** Asks the leader to hand over. */
  private transfer(): void {
    const { cluster, random } = this;
    const leader = cluster.up.find((server) => server.isLeader);
    const { name } = pick(random, cluster.servers);
    const heir = random() < 0.5 ? undefined : name;
    if (!leader?.node?.transfer(heir)) return;
    cluster.report.transfers += 1;
    cluster.tell(leader.name, () => `IS TOLD to hand over to ${heir ?? "the best follower"}`);
  }

  /** Asks any server to add or to remove a server. */
  private change(): void {
    const { cluster, random } = this;
    const { node, name } = pick(random, cluster.servers);
    const { timeoutMs, electionTimeoutMs: T } = cluster.hostility;
    // A removal that is pending when only a majority is healed might remove a server that it needs.
    if (!node || cluster.simulation.now + timeoutMs + 10 * T > HOSTILE_MS) return;
    if (!cluster.lists.isWhole(cluster.committed, cluster.diskOf)) return;
    const isMember = (one: string) => node.status().members.some((member) => member.name === one);
    const strangers = cluster.names.filter((one) => !isMember(one));
    const adds = strangers.length > 0 && random() < 0.5;
    const candidates = adds ? strangers : cluster.names.filter(isMember);
    if (candidates.length === 0) return;
    const who = pick(random, candidates);
    cluster.tell(name, () => `IS ASKED to ${adds ? "add" : "remove"} ${who}`);
    cluster.changesUntil = cluster.simulation.now + timeoutMs + 10 * T;
    node.changeMembers(who, adds ? `${who}:${PORT}` : "").then(
      () => cluster.tell(name, () => `HAS SEEN ${who} ${adds ? "added" : "removed"}`),
      (error: unknown) => {
        cluster.tell(name, () => `HAS NOT ${adds ? "added" : "removed"} ${who}: ${String(error)}`);
        if (!(error instanceof RaftError)) cluster.broken ??= error;
      },
    );
  }

  /** Stops a server as SIGTERM does, sometimes twice. A leader hands over first. */
  private stop({ name, node, isLeader }: Server): void {
    const { cluster } = this;
    if (!node) return;
    if (isLeader) cluster.report.transfers += 1;
    cluster.tell(name, () => "IS TOLD TO STOP");
    void node.stop().catch(() => {}); // `stopped` reports the error.
    if (this.random() < 0.2) void node.stop().catch(() => {});
  }

  /** Replaces the secret of one server. */
  private rotate(): void {
    const { cluster, cluster: { secrets, servers } } = this;
    const name = secrets.advance(this.random);
    cluster.report.rotations += 1;
    cluster.tell(name, () => "GETS ANOTHER SECRET");
    servers.find((server) => server.name === name)?.node?.setSecret(secrets.of(name));
  }

  /** Uses up the packets of a channel, so that it is renewed, or its numbers, so that it ends. */
  private renew({ name, node }: Server): void {
    const { cluster, random } = this;
    const channels = node?.["endpoint"]["channels"].values().filter(({ sent }) => sent > 0) ?? [];
    const all = [...channels];
    if (all.length === 0) return;
    const channel = pick(random, all);
    channel.sent = Math.max(channel.sent, pick(random, [2 ** 23, 2 ** 32 - 3]));
    cluster.report.renewals += 1;
    cluster.tell(name, () => `HAS SENT ${channel.sent} packets to ${channel.other?.name}`);
  }

  private clog(): void {
    const { names, clients, network } = this.cluster;
    const all = [...names, ...clients];
    const [from, to] = [pick(this.random, all), pick(this.random, all)];
    network.clog(from, to);
    this.cluster.tell(from, () => `HAS ITS LINK TO ${to} CLOGGED`);
  }

  private partition(): void {
    const { cluster, random } = this;
    const { names, clients, network } = cluster;
    if (random() < 0.4) {
      network.mend();
      cluster.tell("network", () => "IS MENDED");
    } else if (names.length > 1) {
      const kind = network.partition(names, clients);
      cluster.tell("network", () => `IS PARTITIONED: ${kind}`);
    }
  }
}
