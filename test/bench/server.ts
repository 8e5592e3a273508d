#!/usr/bin/env bun
/**
 * Runs a server with raft.ts and the load in one process. `test/bench.ts` measures it.
 *
 *   bun test/bench/server.ts INDEX BASE DIRECTORY [RAFT [SERVERS]]
 *
 * INDEX counts from 0 to the number of SERVERS on this machine (default: 3). The server speaks UDP
 * on port BASE + INDEX, and serves HTTP on port BASE + 20 + INDEX:
 *
 *   GET /stat    whether it leads, its term, and its use of disk and network since its start
 *   GET /put     200 when a command is committed, 503 if the outcome is unknown
 *   GET /bench?op=put|get&inflight=N&ms=D&size=S    the figures of `load` in this process
 *
 * RAFT is the file of another version of raft.ts.
 */
import path from "node:path";
import type { World } from "../../raft.ts";
import { endWithParent, load } from "./load.ts";

const [, , index = "", base = "", directory = "", file = "", servers = "3"] = Bun.argv;
const raft: typeof import("../../raft.ts") = await import(
  file === "" ? "../../raft.ts" : path.resolve(file)
);
const addresses = Array.from(
  { length: Number(servers) },
  (_, i) => `127.0.0.1:${Number(base) + i}`,
);
const counts = { datagrams: 0, sentBytes: 0, syncs: 0, writtenBytes: 0 };

type File = ReturnType<World["files"]["open"]>;
/** Counts a sync for each write, also of earlier versions, which had a method for each. */
const countedFile = (file: File): File => ({
  ...file,
  write(bytes, position) {
    counts.writtenBytes += bytes.length;
    counts.syncs += 1;
    file.write(bytes, position);
  },
});

const { files, datagrams } = raft.systemWorld;
/** Earlier versions have `create` for new files, and their `open` may return undefined. */
const openers = Object.entries<unknown>({ ...files }).filter(([name]) =>
  /^(open|create)$/.test(name)
)
  .map(([name, action]) => {
    const open = action as (...how: unknown[]) => File | undefined;
    return [name, (...how: unknown[]) => {
      const file = open(...how);
      return file && countedFile(file);
    }];
  });
const world: World = {
  ...raft.systemWorld,
  files: { ...files, ...Object.fromEntries(openers) },
  datagrams: {
    ...datagrams,
    async bind(at, receive) {
      const socket = await datagrams.bind(at, receive);
      const send: typeof socket.send = (bytes, to) => {
        counts.datagrams += 1;
        counts.sentBytes += bytes.length;
        socket.send(bytes, to);
      };
      return { ...socket, send };
    },
  },
};

const node = await raft.Node.start({
  host: "127.0.0.1",
  port: Number(base) + Number(index),
  peers: addresses.filter((_, i) => i !== Number(index)),
  directory,
  cluster: "bench",
  machine: new raft.KeyValueStore(),
  world,
});
const store = new raft.KeyValues(node);
async function put(): Promise<Response> {
  try {
    await store.put(Buffer.from("k000000"), Buffer.from("1"));
    return Response.json({});
  } catch (error) {
    return Response.json({ error: (error as Error).message }, { status: 503 });
  }
}

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(base) + 20 + Number(index),
  idleTimeout: 0,
  routes: {
    "/stat": () => {
      const { role, term, commitIndex } = node.status();
      return Response.json({
        leader: role === "Leader",
        term,
        commitIndex,
        ...counts,
        memoryBytes: process.memoryUsage.rss(),
      });
    },
    "/put": put,
    "/bench": async ({ url }) => Response.json(await load(new URL(url).searchParams, store)),
  },
});

endWithParent();
node.stopped.catch((error) => {
  console.error(error);
  process.exit(1);
});
