/** Tells the events of a simulated server in words, for the story of a run. */
import { type NodeEvent } from "../../raft.ts";

/** Returns an event in words. */
export function tellEvent(event: NodeEvent, term: number): string {
  switch (event.type) {
    case "preVoteLost":
      return `loses the pre-vote with ${event.votes} of ${event.needed} pre-votes`;
    case "campaign":
      return `heard no leader for ${Math.round(event.silentMs)} ms, and campaigns in term ${term}`;
    case "voted":
      return `votes for ${event.candidate} in term ${term}`;
    case "votes":
      return event.elected ? `is elected with ${event.votes} votes` : `has ${event.votes} votes`;
    case "role":
      return `was ${event.from}, is ${event.to} in term ${term}`;
    case "leader":
      return event.to === undefined
        ? `has lost its leader ${event.from}`
        : `follows ${event.to} in term ${term}`;
    case "committed":
      return `has committed up to ${event.commitIndex}`;
    case "snapshot":
      return event.from === undefined
        ? `has a snapshot of all up to ${event.index}`
        : `has the snapshot of ${event.from}, of all up to ${event.index}`;
    case "recovered":
      return `recovered${event.cutBytes > 0 ? `, and cut off ${event.cutBytes} bytes` : ""}`;
    case "unresolved":
    case "foreign":
      return `${event.type}: ${JSON.stringify(event.server)}`;
    case "unauthenticated":
      return `rejects a datagram from ${event.address.host}:${event.address.port}`;
    case "version":
      return `rejects version ${event.version} of ${event.address.host}:${event.address.port}`;
    case "members":
      return `has the members ${
        event.members.map((m) => m.name + (m.votes ? "" : " (learner)")).join(", ")
      }`;
    case "twice":
      return `has a duplicate server ${event.server} at ${event.address.host}:${event.address.port}`;
    case "lostDisk":
      return `finds that ${event.server} has lost its disk`;
    case "stuck":
      return `cannot get entry ${event.index} to ${event.server}`;
    case "otherFounding":
      return `hears ${event.server}, which belongs to another founding`;
    case "removed":
      return "has been removed";
    default:
      return event satisfies never;
  }
}
