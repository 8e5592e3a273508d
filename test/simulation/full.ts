/**
 * Simulates whole servers and clients, with log files, recovery, wire format and retries, and with
 * the faults that a seed draws. After the faults a majority is healed, and must serve. Then all
 * servers are healed, and must agree.
 */
import { encodeRecord, KeyValues } from "../../raft.ts";
import { pick, type Random, randomFrom, shuffle } from "../support/random.ts";
import { Cluster, type Trace } from "./full/cluster.ts";
import { HOSTILE_MS, Nemesis } from "./full/nemesis.ts";
import { whatIsLeft } from "./full/quiet.ts";
import { type Server, type Subject } from "./full/server.ts";
import { checkLinearizable } from "./linearizability.ts";
import { type Report } from "./report.ts";

/** Runs one seed. Throws at a broken promise. A `subject` runs beside the store on each server. */
export function simulateFullStack(
  seed: number,
  { trace, subject }: { trace?: Trace; subject?: Subject } = {},
): Report {
  const cluster = new Cluster(seed, trace, subject);
  const { workload, simulation, names, servers, clients } = cluster;
  for (const server of servers) server.start();
  for (const client of clients) void workload.beClient(client, names);
  workload.beServers(() => {
    // Only a member can find the read index for a read.
    const [chosen] = shuffle(workload.random, cluster.up).filter(({ name, core }) =>
      core?.members.some((member) => member.name === name)
    );
    const { node } = chosen ?? {};
    const program = chosen?.machine.program;
    return chosen && node
      && { name: chosen.name, node, isAlive: () => chosen.machine.program === program };
  });
  new Nemesis(cluster, seed);
  cluster.run(HOSTILE_MS);
  workload.end();
  if (cluster.hostility.wipes) return healAfterLosses(cluster);
  healMajority(cluster, seed);
  healAll(cluster);
  const wrong = checkLinearizable(workload.history);
  if (wrong) throw new Error(wrong);
  cluster.report.changes = cluster.lists.count(cluster.committed);
  cluster.report.simulatedMs = simulation.now;
  return cluster.report;
}

/**
 * Heals a cluster that may have lost any number of disks. It may have no leader, or another
 * founding. But each founding keeps its promises, and no disk replaces entries that it saved as
 * committed.
 */
function healAfterLosses(cluster: Cluster): Report {
  const { servers, network, hostility, simulation, names, report } = cluster;
  cluster.isHostile = false;
  network.calmDown(names);
  cluster.tell("network", () => "IS HEALED, and disks were lost");
  for (const server of servers) heal(cluster, server);
  cluster.run(20 * hostility.electionTimeoutMs);
  report.refoundings = Math.max(0, cluster.founded - 1);
  report.simulatedMs = simulation.now;
  return report;
}

/** Heals a server with its disk and its network. */
function heal(cluster: Cluster, server: Server): void {
  server.mend();
  server.fullUntil = 0;
  if (server.machine.program) server.machine.program.pausedUntil = cluster.simulation.now;
  else cluster.revive(server);
}

/** Heals a majority only, which must be enough (TigerBeetle's rule). */
function healMajority(cluster: Cluster, seed: number): void {
  const { servers, network, hostility, simulation, names } = cluster;
  const random = randomFrom(seed + 5e9);
  const core = drawMajority(cluster, random);
  const rest = servers.filter((server) => !core.includes(server));
  cluster.isHostile = false;
  network.calmDown([...names, "probe"]);
  cluster.tell("network", () => `IS HEALED for ${core.map(({ name }) => name).join(" ")} alone`);
  for (const server of rest) isolate(cluster, server, pick(random, ["down", "deaf", "cut off"]));
  for (const server of core) heal(cluster, server);
  const limitMs = 10 * 2 * hostility.electionTimeoutMs;
  const isLed = () => core.some((server) => server.isLeader);
  if (!cluster.run(limitMs, isLed)) {
    throw new Error(`a healthy majority has no leader after ${limitMs} ms`);
  }
  checkService(cluster, limitMs);
  const terms = () => Math.max(...core.map((server) => server.core?.currentTerm ?? 0));
  const before = terms();
  cluster.run(limitMs / 2);
  if (terms() !== before) {
    throw new Error(
      `a healthy majority goes from term ${before} to ${terms()} at ${simulation.now}`,
    );
  }
}

/** Returns a majority of the members, even if any of the pending changes is committed. */
function drawMajority(cluster: Cluster, random: Random): Server[] {
  const { servers, lists, committed, diskOf } = cluster;
  const core: Server[] = [];
  const names = () => core.map(({ name }) => name);
  for (const server of shuffle(random, servers)) {
    if (lists.canDoAlone(names(), committed, diskOf)) break;
    core.push(server);
  }
  return core;
}

/** Isolates a server. A deaf one still sends, and must not disrupt the others. */
function isolate(cluster: Cluster, server: Server, how: "down" | "deaf" | "cut off"): void {
  if (how === "down" && server.isUp) server.machine.kill();
  for (const { name } of cluster.servers) {
    cluster.network.cutLink(name, server.name);
    if (how === "cut off") cluster.network.cutLink(server.name, name);
  }
}

/** Checks that a write and a read succeed. */
function checkService(cluster: Cluster, limitMs: number): void {
  const { simulation, names, workload } = cluster;
  const done: string[] = [];
  const use = async () => {
    const client = await workload.connect(simulation.machine("probe"), names, 10 * limitMs);
    const store = new KeyValues(client);
    await store.put(Buffer.from("probe"), Buffer.from("works"));
    done.push(Buffer.from(await store.get(Buffer.from("probe")) ?? "").toString());
  };
  use().catch((error: unknown) => void done.push(String(error)));
  const searchMs = 1000 * names.length; // The client tries one server after another.
  cluster.run(limitMs + searchMs, () => done.length > 0);
  if (done[0] !== "works") {
    throw new Error(`a healthy majority does not serve: ${done[0] ?? "no answer"}`);
  }
}

/** Heals all servers. They must end with equal, committed logs and equal states. */
function healAll(cluster: Cluster): void {
  const { servers, network, hostility, names } = cluster;
  network.calmDown([...names, "probe"]);
  cluster.tell("network", () => "IS HEALED");
  for (const server of servers) heal(cluster, server);
  const limitMs = 20 * 2 * hostility.electionTimeoutMs + 10_000;
  const isAgreed = () =>
    new Set(cluster.members.map(progressOf)).size === 1 && isDone(cluster.members);
  if (!cluster.run(limitMs, isAgreed)) {
    throw new Error(`healthy servers do not agree: ${servers.map(progressOf).join("; ")}`);
  }
  const { members } = cluster;
  const base = Math.max(...members.map(({ core }) => core?.log.baseIndex ?? 0));
  const contents = members.map(({ node, core, ledger }) =>
    JSON.stringify([
      core?.log.slice(base + 1).map((entry) =>
        Buffer.concat(encodeRecord(entry)).toString("latin1")
      ),
      [...node?.["sessions"].snapshot() ?? []],
      [...ledger?.store["values"] ?? []].sort().map(([key, value]) => `${key} ${value}`),
    ])
  );
  if (new Set(contents).size > 1) {
    throw new Error("healthy servers have different logs or states");
  }
  calmDown(cluster);
}

/**
 * Checks that members and clients keep no data of calls that are over. (A removed server that
 * missed its removal may wait for entries forever.)
 */
function calmDown(cluster: Cluster): void {
  const { members, hostility, workload } = cluster;
  const left = () =>
    [...members.map(({ name, node }) => [name, node] as const), ...workload.clients]
      .map(([name, of]) => `${name}: ${of ? whatIsLeft(of) : ""}`)
      .filter((line) => !line.endsWith(": "));
  if (cluster.run(3 * hostility.timeoutMs + 10_000, () => left().length === 0)) return;
  throw new Error(`an idle cluster still keeps ${left().join("; ")}`);
}

function progressOf({ name, core }: Server): string {
  if (!core) return `${name} is down`;
  return `${core.log.lastIndex} entries, ${core.lastApplied} applied, term ${core.currentTerm}`;
}

/** Returns whether all entries are applied, and all learners have been promoted. */
const isDone = (members: readonly Server[]) =>
  members.every(({ core }) =>
    core && core.lastApplied === core.log.lastIndex && core.members.every(({ votes }) => votes)
  );
