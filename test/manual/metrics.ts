/**
 * Turns `status --json` into metrics for Prometheus. Run it each minute, and let the node exporter
 * collect the file:
 *
 *   bun cli.ts status --json --peers db1:48000 | bun test/manual/metrics.ts > raft.prom
 *
 * A name after `raft_` is that of etcd, where it means the same.
 */
import type { Status } from "../../cli.ts";

/** A metric: its type, its meaning, and its values for a server, with further labels. */
type Metric = {
  name: string;
  type: "gauge" | "counter" | "summary";
  help: string;
  samples: (status: Status) => readonly Sample[];
};
type Sample = { value: number; labels?: Record<string, string>; suffix?: string };

const one = (of: (status: Status) => number | boolean) => (status: Status) => [
  { value: Number(of(status)) },
];

const METRICS: readonly Metric[] = [
  {
    name: "server_has_leader",
    type: "gauge",
    help: "Whether the server knows a leader.",
    samples: one(({ leader }) => leader !== null),
  },
  {
    name: "server_is_leader",
    type: "gauge",
    help: "Whether the server leads.",
    samples: one(({ role }) => role === "Leader"),
  },
  {
    name: "server_is_learner",
    type: "gauge",
    help: "Whether the server has no vote.",
    samples: one(({ name, members }) => !members.some((each) => each.name === name && each.votes)),
  },
  {
    name: "server_leader_changes_seen_total",
    type: "counter",
    help: "Leaders that the server has seen since its start.",
    samples: one(({ leaderChanges }) => leaderChanges),
  },
  {
    name: "server_proposals_pending",
    type: "gauge",
    help: "Requests of clients whose entries are not committed yet.",
    samples: one(({ proposals }) => proposals),
  },
  {
    name: "server_proposals_committed_total",
    type: "gauge",
    help: "Index of the last committed entry.",
    samples: one(({ commitIndex }) => commitIndex),
  },
  {
    name: "server_proposals_applied_total",
    type: "gauge",
    help: "Index of the last applied entry.",
    samples: one(({ lastApplied }) => lastApplied),
  },
  {
    name: "server_term",
    type: "gauge",
    help: "The server's current term.",
    samples: one(({ term }) => term),
  },
  {
    name: "disk_wal_fsync_duration_seconds",
    type: "summary",
    help: "Synced writes to the log, and the time that they took.",
    samples: ({ saves, saveMs }) => [
      { suffix: "_sum", value: saveMs / 1000 },
      { suffix: "_count", value: saves },
    ],
  },
  {
    name: "network_peer_round_trip_time_seconds",
    type: "gauge",
    help: "The last round trip to a peer.",
    samples: ({ peers }) =>
      peers.flatMap(({ name: To, roundTripMs }) =>
        roundTripMs === null ? [] : [{ labels: { To }, value: roundTripMs / 1000 }]
      ),
  },
  {
    name: "log_size_in_bytes",
    type: "gauge",
    help: "Size of the entries in the log.",
    samples: one(({ logBytes }) => logBytes),
  },
  {
    name: "snapshot_size_in_bytes",
    type: "gauge",
    help: "Size of the snapshot; 0 without one.",
    samples: one(({ snapshotBytes }) => snapshotBytes),
  },
  {
    name: "network_dropped_datagrams_total",
    type: "counter",
    help: "Datagrams that were dropped, by reason.",
    samples: ({ dropped }) =>
      Object.entries(dropped).map(([reason, value]) => ({ labels: { reason }, value })),
  },
];

const escaped = (text: string) =>
  text.replaceAll("\\", "\\\\").replaceAll("\"", "\\\"").replaceAll("\n", "\\n");

/** Returns the metrics of all servers that have answered, in Prometheus' text format. */
export function metricsOf(statuses: readonly Status[]): string {
  const lines = METRICS.flatMap(({ name, type, help, samples }) => [
    `# HELP raft_${name} ${help}`,
    `# TYPE raft_${name} ${type}`,
    ...statuses.flatMap((status) =>
      samples(status).map(({ value, labels, suffix = "" }) => {
        const all = Object.entries({ server: status.name, ...labels })
          .map(([label, text]) => `${label}="${escaped(text)}"`);
        return `raft_${name}${suffix}{${all.join()}} ${value}`;
      })
    ),
  ]);
  return `${lines.join("\n")}\n`;
}

if (import.meta.main) {
  const { statuses } = JSON.parse(await Bun.stdin.text());
  if (!statuses) throw new Error("Cannot read a status. Pipe 'bun cli.ts status --json' in.");
  await Bun.write(Bun.stdout, metricsOf(statuses));
}
