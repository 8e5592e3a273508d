/** What a simulated run did, in numbers. A seed gives the same numbers on every machine. */
import { crc32 } from "node:zlib";

/** `messages` are datagrams, or in the core-only mode the messages themselves. */
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
  /** Knocks that were refused, and those of them that a living server would not have refused. */
  refusals: number;
  forgeries: number;
  diskFaults: number;
  /** How often a server had to start with an empty disk. */
  lostDisks: number;
  /** How often servers with empty disks founded the cluster again. */
  refoundings: number;
  elections: number;
  /** Of the members: who was added, got a vote, or was removed. */
  changes: number;
  /** Taken by a server itself, and installed from its leader. */
  snapshots: number;
  installs: number;
  /** How often a leader was asked to hand over. */
  transfers: number;
  /** Client operations that were answered, and those of which nobody knows what became of them. */
  operations: number;
  unknown: number;
  /** Of everything that happened, in order. */
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

/** Makes the hash depend on what just happened, and on all that happened before. */
export function record(report: Report, happened: string | Uint8Array): void {
  report.hash = crc32(happened, report.hash);
}

/** Seeds and their sum: counts add up, and the hashes become one, in the order of the seeds. */
export function addReport(sum: Report, { hash, ...counts }: Report): void {
  for (const [name, count] of Object.entries(counts)) sum[name as keyof typeof counts] += count;
  record(sum, String(hash));
}
