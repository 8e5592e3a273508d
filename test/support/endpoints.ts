/** Endpoints in a simulation that record what they send and accept, and ends made by hand. */
import { expect } from "bun:test";
import {
  type ChannelRole,
  type ClientMessage,
  type Credential,
  credentialOf,
  Endpoint,
  type EndpointEvent,
  type Message,
  Storage,
} from "../../raft.ts";
import { voteReply } from "./core.ts";
import { DATA, End, type EndOptions, SECRET, WELCOME } from "./wire.ts";
import { type Packet, Simulation } from "./world.ts";

export const MEMBERS = ["a", "b", "c"];
export const addressOf = (name: string) => ({ name, host: name, port: 1 });

type ListenOptions = {
  members?: readonly string[];
  secrets?: readonly string[];
  cluster?: string;
  role?: ChannelRole;
  credentials?: readonly Credential[];
  machine?: string;
  founding?: number;
  datagramBytes?: number;
};

export type Listener = {
  simulation: Simulation;
  endpoint: Endpoint;
  accepted: (Message | ClientMessage)[];
  events: EndpointEvent[];
  restarted: string[];
  sent: Packet[];
  storage: Storage;
  ip: string;
  receive: (bytes: Buffer, host?: string) => void;
};

/** Starts an endpoint on a simulated machine. */
export function listen(
  simulation: Simulation,
  name: string,
  {
    members = MEMBERS,
    secrets = [SECRET],
    cluster = "raft",
    role = "peer",
    credentials = secrets.map((line) => credentialOf(line, role, cluster, name)),
    machine = name,
    founding = 0,
    datagramBytes = 1232,
  }: ListenOptions = {},
): Listener {
  const { ip } = simulation.machine(machine);
  const world = simulation.machine(machine).boot();
  const storage = new Storage(world.files, "data", { cluster, name, members }, world.random);
  const accepted: (Message | ClientMessage)[] = [];
  const events: EndpointEvent[] = [];
  const restarted: string[] = [];
  const sent: Packet[] = [];
  const own = { host: ip, port: 1 };
  const receive = (bytes: Buffer, from: { host: string; port: number }) =>
    endpoint.receive(bytes, from);
  const socket = simulation.settle(world.datagrams.bind({ host: machine, port: 1 }, receive));
  const recording = {
    ...socket,
    send(bytes: Buffer, to: { host: string; port: number }) {
      sent.push({ bytes: Buffer.from(bytes), from: own, to });
      socket.send(bytes, to);
    },
  };
  const endpoint: Endpoint = new Endpoint(world, recording, { ...storage.identity, role }, {
    onTurnEnd: () => endpoint.flush(),
    onMessage: (message) => void accepted.push(message),
    founding: () => founding,
    onRestarted: (peer) => void restarted.push(peer.name),
    emit: (event) => void events.push(event),
  }, datagramBytes);
  endpoint.rotate(credentials);
  return {
    simulation,
    endpoint,
    accepted,
    events,
    restarted,
    sent,
    storage,
    ip,
    receive: (bytes, host = "10.0.0.77") => {
      receive(bytes, { host, port: 1 });
      endpoint.flush();
    },
  };
}

/** Returns two servers that have a channel. */
export function pair(seed = 1, options: ListenOptions = {}) {
  const simulation = new Simulation(seed);
  const [a, b] = [listen(simulation, "a", options), listen(simulation, "b", options)];
  void a.endpoint.resolvePeer(addressOf("b"));
  void b.endpoint.resolvePeer(addressOf("a"));
  simulation.run(50);
  for (const each of [a, b]) each.sent.length = 0;
  return { simulation, a, b };
}

/** Sends a vote with this id from one server to another. */
export function send({ endpoint }: Listener, to: string, id = 1): void {
  endpoint.send(voteReply(1, { from: endpoint.self.name, to, id }));
  endpoint.flush();
}

export const idsOf = ({ accepted }: Listener): number[] => accepted.map(({ id }) => id);

export const totalDropped = ({ endpoint }: Listener): number =>
  Object.values(endpoint.dropped).reduce((sum, n) => sum + n, 0);

/** Returns the packets of a type among those that an endpoint has sent. */
export const sentOf = ({ sent }: Listener, type: number): Buffer[] =>
  sent.map(({ bytes }) => bytes).filter((bytes) => bytes[0] === type);

export function last(packets: readonly Buffer[]): Buffer {
  const packet = packets.at(-1);
  if (!packet) throw new Error("There is no such packet.");
  return packet;
}

/** Makes a channel by hand to an endpoint, and confirms it. */
export function connect(to: Listener, options: EndOptions = {}, host?: string): End {
  const end = begin(to, options, host);
  to.receive(end.seal(), host);
  return end;
}

/** Makes a channel by hand to an endpoint, and does not confirm it yet. */
export function begin(to: Listener, options: EndOptions = {}, host?: string): End {
  const end = new End(options);
  to.sent.length = 0;
  to.receive(end.hello(), host);
  end.onWelcome(last(sentOf(to, WELCOME)));
  to.sent.length = 0;
  return end;
}

/** Lets an endpoint that says hello have a channel to an end made by hand. */
export function answer(from: Listener, hello: Buffer, options: EndOptions, host?: string): End {
  const end = new End({ role: "peer", ...options });
  from.receive(end.onHello(hello), host);
  return end;
}

/** Expects that a packet is counted, neither accepted nor answered, and that it throws no error. */
export function expectDropped(by: Listener, packet: Buffer, reason?: string, host?: string): void {
  const { accepted, sent, endpoint: { dropped } } = by;
  const before = { total: totalDropped(by), reason: dropped[reason ?? ""] ?? 0 };
  accepted.length = sent.length = 0;
  by.receive(packet, host);
  const types = sent.map(({ bytes }) => bytes[0]);
  expect({ accepted, types }).toEqual({ accepted: [], types: [] });
  expect({ total: totalDropped(by), ...dropped }).toMatchObject({ total: before.total + 1 });
  if (reason) expect(dropped).toMatchObject({ [reason]: before.reason + 1 });
}

/**
 * Expects that a packet is accepted. Otherwise a test of dropped packets would pass if all were
 * dropped.
 */
export function expectAccepted(by: Listener, packet: Buffer, count = 1, host?: string): void {
  const before = totalDropped(by);
  by.accepted.length = 0;
  by.receive(packet, host);
  expect(by.accepted).toHaveLength(count);
  expect(totalDropped(by)).toBe(before);
}

/** Returns the messages that an endpoint has sent to an end since then. */
export const messagesTo = (end: End, from: Listener) =>
  sentOf(from, DATA).flatMap((packet) => end.open(packet).messages);

/** Returns the tables of an endpoint as plain data: all that a packet may change, but counters. */
export function tablesOf({ endpoint }: { endpoint: Endpoint }) {
  const { servers, aliases, clients, channels, halfOpen, incomplete, queued, attempts } =
    withPrivate(
      endpoint,
    );
  const peers = [
    ...servers.values(),
    ...[...clients.owners.values()].flatMap((all) => [...all.values()]),
  ];
  return {
    peers: [...new Set(peers)].map((peer) => ({
      id: peer.id,
      addresses: [...peer.addresses.keys()],
      candidates: [...peer.configured, ...peer.learned]
        .map(({ name, host, port }) => `${name}=${host}:${port}`),
      channels: peer.channels.map(({ ownId }) => ownId),
      begun: peer.begun?.ownId,
      failures: peer.failures,
      disk: peer.disk,
      times: [peer.boot, peer.attempt, peer.heardAt],
      disks: [...peer.disks],
      waiting: peer.queue.length,
      address: peer.address && `${peer.address.host}:${peer.address.port}`,
      warning: peer.lastWarning?.type,
    })),
    aliases: [...aliases].map((pair) => pair.join(" ")),
    channels: [...channels.values()].map((channel) => ({
      id: channel.ownId,
      peer: channel.remote?.id,
      sent: channel.sent,
      next: channel["next"],
      seen: Bun.hash(channel["seen"]).toString(),
      h: channel.handshake?.h.toString("hex"),
    })),
    halfOpen: [...halfOpen.owners].map(([owner, all]) => [owner, ...all.keys()]),
    incomplete: [...incomplete.owners.values()].map((all) => [...all.keys()].map(String)),
    queued: [...queued].map(({ id }) => id),
    attemptsMade: attempts,
  };
}

const withPrivate = (endpoint: Endpoint) => ({
  servers: endpoint["servers"],
  aliases: endpoint["aliases"],
  clients: endpoint["clients"],
  channels: endpoint["channels"],
  halfOpen: endpoint["halfOpen"],
  incomplete: endpoint["incomplete"],
  queued: endpoint["queued"],
  attempts: endpoint["attempts"],
});
