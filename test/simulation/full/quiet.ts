/**
 * Lists the tables of a server or a client that are not empty. Once every request is answered, all
 * tables must be empty. Otherwise an entry stays forever, and the table grows.
 */
import { type Client, Node } from "../../../raft.ts";

type Sizes = Record<string, number>;

/** Returns the size of each table of a client. */
const clientTables = (client: Client): Sizes => ({
  operations: client["pending"].size,
  commands: client["commands"].length,
});

/** Returns the size of each table of a server. */
function tablesOf(node: Node): Sizes {
  const core = node["core"];
  const { role, portProbes, events, incoming } = core;
  const endpoint = node["endpoint"];
  const clients = endpoint["clients"].owners.values().flatMap((ids) => ids.values());
  const peers = [...endpoint["servers"].values(), ...clients];
  // A few messages wait for the first channel of a server that may never start.
  const reachable = peers.filter(({ channels }) => channels.length > 0);
  const sum = (sizes: number[]) => sizes.reduce((total, size) => total + size, 0);
  return {
    ...clientTables(node["client"]),
    proposals: node["proposals"].size,
    readRequests: node["reads"].length,
    followerReads: node["followerReads"].length,
    indexedReads: node["indexedReads"].length,
    askedIndexes: Number(node["isAskingIndex"]),
    backgroundTask: Number(node["backgroundTask"] !== undefined),
    reads: role.name === "Leader" ? role.reads.length : 0,
    outbox: core["outbox"].length,
    portProbes: portProbes.length,
    events: events.length,
    chunks: incoming?.unwritten.length ?? 0,
    queued: endpoint["queued"].size,
    waiting: node["waiting"].size,
    queue: sum(reachable.map(({ queue }) => queue.length)),
  };
}

/** Returns the tables of a server or a client that are not empty, with their sizes. */
export const whatIsLeft = (of: Node | Client): string =>
  Object.entries(of instanceof Node ? tablesOf(of) : clientTables(of))
    .filter(([, size]) => size > 0).map(([table, size]) => `${size} ${table}`).join(", ");
