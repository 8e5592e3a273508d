#!/usr/bin/env bun
/**
 * Measures the CPU time of raft.ts itself: three servers in one process, with function calls for
 * datagrams and with empty syncs. A busy machine affects this figure little.
 *
 *   bun test/bench/bare.ts IN_FLIGHT MS DIRECTORY [RAFT]
 */
import path from "node:path";
import type { World } from "../../raft.ts";
import { eventually } from "../support/processes.ts";
import { endWithParent, load } from "./load.ts";

const [, , inFlight = "1024", ms = "1000", directory = "", file = ""] = Bun.argv;
const raft: typeof import("../../raft.ts") = await import(
  file === "" ? "../../raft.ts" : path.resolve(file)
);

type Datagrams = World["datagrams"];
const receivers = new Map<number, Parameters<Datagrams["bind"]>[1]>();
const datagrams: Datagrams = {
  resolve: (host) => Promise.resolve(host),
  bind({ host, port }, receive) {
    receivers.set(port, receive);
    return Promise.resolve({
      address: host,
      receiveBufferBytes: 8 << 20,
      datagramBytes: () => 60_000,
      send: (bytes, to) => void setImmediate(() => receivers.get(to.port)?.(bytes, { host, port })),
      probePort() {},
      close: () => void receivers.delete(port),
    });
  },
};
const { files } = raft.systemWorld;
const world: World = {
  ...raft.systemWorld,
  datagrams,
  files: { ...files, open: (...how) => ({ ...files.open(...how), sync() {} }) },
};

const ports = [1, 2, 3];
const nodes = await Promise.all(
  ports.map((port) =>
    raft.Node.start({
      host: "127.0.0.1",
      port,
      directory: path.join(directory, `${port}`),
      world,
      peers: ports.filter((other) => other !== port).map((other) => `127.0.0.1:${other}`),
      machine: new raft.KeyValueStore(),
    })
  ),
);
endWithParent();
const leader = await eventually(
  "there is a leader",
  () => nodes.find((node) => node.status().role === "Leader"),
);
const store = new raft.KeyValues(leader);
const run = (lasting: number) =>
  load(new URLSearchParams({ inflight: inFlight, ms: `${lasting}` }), store);
await run(Number(ms));
const before = process.cpuUsage();
const { ops } = await run(Number(ms));
const { user, system } = process.cpuUsage(before);
console.log(JSON.stringify({ ops, cpuUs: (user + system) / ops }));
process.exit();
