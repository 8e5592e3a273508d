/** Counts the events of a simulated run. A seed gives the same numbers on every machine. */
import { crc32 } from "node:zlib";

/** In the full mode `messages` are datagrams. */
export type Report = {
  servers: number;
  simulatedMs: number;
  messagesSent: number;
  messagesLost: number;
  messagesDuplicated: number;
  crashes: number;
  powerCuts: number;
  restarts: number;
  pauses: number;
  partitions: number;
  /** Port probes that were refused, and what attackers sent: refusals, packets and messages. */
  refusals: number;
  forgeries: number;
  /** Handshakes that were begun, and channels that had used up their packets. */
  handshakes: number;
  renewals: number;
  /** Replacements of a server's secret. */
  rotations: number;
  /** Messages that travelled in parts, by their parts. */
  parts: number;
  diskFaults: number;
  /** Starts with an empty disk instead of a lost one. */
  lostDisks: number;
  /** Foundings of the cluster after the first one. */
  refoundings: number;
  elections: number;
  /** Changes of the members: additions, promotions and removals. */
  changes: number;
  /** Snapshots that servers took themselves, and snapshots installed from a leader. */
  snapshots: number;
  installs: number;
  /** Requests to a leader to hand over. */
  transfers: number;
  /** Client operations that were answered, and those whose outcome is unknown. */
  operations: number;
  unknown: number;
  /** A hash of all events, in order. */
  hash: number;
};

export const emptyReport = (servers = 0): Report => ({
  servers,
  simulatedMs: 0,
  messagesSent: 0,
  messagesLost: 0,
  messagesDuplicated: 0,
  crashes: 0,
  powerCuts: 0,
  restarts: 0,
  pauses: 0,
  partitions: 0,
  refusals: 0,
  forgeries: 0,
  handshakes: 0,
  renewals: 0,
  rotations: 0,
  parts: 0,
  diskFaults: 0,
  lostDisks: 0,
  refoundings: 0,
  elections: 0,
  changes: 0,
  snapshots: 0,
  installs: 0,
  transfers: 0,
  operations: 0,
  unknown: 0,
  hash: 0,
});

/** Adds an event to the hash. */
export function record(report: Report, happened: string | Uint8Array): void {
  report.hash = crc32(happened, report.hash);
}

/** Adds a seed's report to the sum of the seeds before it. */
export function addReport(sum: Report, { hash, ...counts }: Report): void {
  for (const [name, count] of Object.entries(counts)) sum[name as keyof typeof counts] += count;
  record(sum, String(hash));
}
