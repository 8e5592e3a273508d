/** Does in a simulated cluster what a visitor of the theatre asks. */
import type { Name } from "../../raft.ts";
import { type Cluster } from "../simulation/core.ts";
import { type Server } from "../simulation/core/server.ts";
import { type Act, keys } from "./state.ts";

const OPERATOR = "operator";
const MOST_SERVERS = 9;
/** How often an operator asks for a change, each time after a heartbeat. */
const MOST_TRIES = 100;

const find = ({ servers }: Cluster, name: Name | undefined): Server | undefined =>
  servers.find((server) => server.name === name);

/** Returns the first name that no server has. */
const unusedName = ({ scene: { names } }: Cluster): Name =>
  [..."abcdefghi"].find((name) => !names.includes(name)) ?? "";

/** Returns the servers that an act names. */
function namedIn(act: Act): readonly Name[] {
  switch (act.kind) {
    case "cut":
    case "heal":
      return [act.from, act.to];
    case "partition":
      return act.groups.flat();
    case "transfer":
      return [act.to];
    case "propose":
    case "read":
      return act.at === undefined ? [] : [act.at];
    case "healAll":
    case "forget":
    case "drop":
    case "duplicate":
    case "delay":
    case "addServer":
      return [];
    default:
      return [act.server];
  }
}

/** Throws a sentence for the visitor if an act cannot be done. Changes nothing. */
export function checkAct(act: Act, cluster: Cluster): void {
  const { names } = cluster.scene;
  const unknown = namedIn(act).find((name) => !names.includes(name));
  if (unknown !== undefined) throw new Error(`There is no server ${unknown}.`);
  const needsLeader = act.kind === "transfer" || act.kind === "addServer"
    || act.kind === "removeServer";
  if (needsLeader && !cluster.leading) {
    throw new Error("No server leads now. Wait until one does, because only a leader can do that.");
  }
  if (act.kind === "addServer" && names.length === MOST_SERVERS && act.server === undefined) {
    throw new Error(`Cannot add a server: there are ${MOST_SERVERS} already.`);
  }
  if (act.kind === "addServer" && act.server !== undefined && !/^[a-i]$/.test(act.server)) {
    throw new Error(`Cannot add a server ${act.server}. Choose a letter from a to i.`);
  }
  if (act.kind === "delay" && !(act.ms > 0 && act.ms < 1e9)) {
    throw new Error(`Cannot delay a message by ${act.ms} ms.`);
  }
  if (act.kind !== "propose" || act.value === undefined) return;
  if (!Number.isInteger(act.value) || act.value < 1 || act.value > 9999) {
    throw new Error(`Cannot write ${act.value}. Choose a number from 1 to 9999.`);
  }
  if (cluster.visitor?.written.has(act.value)) {
    throw new Error(
      `Cannot write ${act.value} again: the judge tells writes apart by their numbers.`,
    );
  }
}

/** Does what a visitor asks. An act without an effect is allowed. */
export function perform(act: Act, cluster: Cluster): void {
  const { network, scene } = cluster;
  switch (act.kind) {
    case "cut":
      return network.cutLink(act.from, act.to);
    case "heal":
      return network.healLink(act.from, act.to);
    case "healAll":
      return network.healLinks();
    case "partition":
      return partition(cluster, act.groups);
    case "drop":
      return scene.flights.drop(act.flight);
    case "duplicate":
      return scene.flights.duplicate(act.flight);
    case "delay":
      return scene.flights.delay(act.flight, act.ms);
    case "propose":
      return propose(cluster, act);
    case "read":
      return cluster.visit().read(keys.indexOf(act.key), find(cluster, act.at));
    case "forget":
      return cluster.visitor?.forget();
    case "transfer":
      return cluster.leading?.transfer(act.to);
    case "addServer":
      return addServer(cluster, act.server ?? unusedName(cluster));
    case "removeServer":
      return changeMembers(cluster, act.server, false);
    default:
      return handle(act, cluster);
  }
}

/** Does what happens to one server. */
function handle(
  { kind, server: name }: Extract<Act, { kind: ServerAct }>,
  cluster: Cluster,
): void {
  const server = find(cluster, name);
  if (!server) return;
  if (kind === "kill") return server.kill("by the visitor");
  if (kind === "restart") return server.start();
  if (kind === "pause") return server.stop();
  if (kind === "resume") return server.goOn();
  if (kind === "elapse") return server.elapse();
  server.kill("by the visitor");
  const { scene } = cluster;
  // If too many disks are lost, the cluster may end, and answers of its clients with it.
  scene.conditions.wipes ||= !scene.judge.canLoseDisk(name);
  server.loseDisk();
}
type ServerAct = "kill" | "restart" | "pause" | "resume" | "elapse" | "wipe";

/** Cuts all links between the groups. A server in no group is alone. */
function partition({ network, scene }: Cluster, groups: readonly (readonly Name[])[]): void {
  const groupOf = (name: Name) => groups.find((group) => group.includes(name)) ?? name;
  network.mend();
  for (const from of scene.names) {
    for (const to of scene.names) {
      if (from !== to && groupOf(from) !== groupOf(to)) network.cutLink(from, to);
    }
  }
}

function propose(cluster: Cluster, act: Extract<Act, { kind: "propose" }>): void {
  const visitor = cluster.visit();
  const write = act.value ?? Math.max(0, ...visitor.written) + 1;
  visitor.written.add(write);
  const key = keys.indexOf(act.key);
  visitor.whenOpen(() => visitor.write({ key, write, at: find(cluster, act.at) }));
}

function addServer(cluster: Cluster, name: Name): void {
  if (!find(cluster, name)) cluster.addServer(name);
  changeMembers(cluster, name, true);
}

/** Asks the leader, as an operator does, and again as long as no leader can decide. */
function changeMembers(cluster: Cluster, who: Name, adds: boolean, tries = MOST_TRIES): void {
  const { scene, leading } = cluster;
  const retry = () => {
    if (tries === 0) return;
    scene.plan(scene.conditions.heartbeatMs, () => {
      scene.note({ kind: "client", client: OPERATOR });
      changeMembers(cluster, who, adds, tries - 1);
    });
  };
  if (leading) leading.changeMembers(who, adds, retry);
  else retry();
}
