#!/usr/bin/env bun
/**
 * A small program that embeds raft.ts, with the load inside. `test/bench.ts` measures it.
 *
 *   bun test/bench/server.ts INDEX BASE DIRECTORY [RAFT [SERVERS]]
 *
 * It is server INDEX, from 0, of three on this machine, or of SERVERS. It speaks UDP on port BASE +
 * INDEX, and is controlled by HTTP on port BASE + 20 + INDEX:
 *
 *   GET /stat    whether it leads, its term, and its use of disk and network so far
 *   GET /put     200 once a command is committed, 503 if its outcome is unknown
 *   GET /bench?op=put|get&inflight=N&ms=D&size=S    the result of `load`, inside this process
 *
 * RAFT is another version of raft.ts, to be compared with this one.
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
const countedFile = (file: File): File => ({
  ...file,
  write(bytes, position) {
    counts.writtenBytes += bytes.length;
    file.write(bytes, position);
  },
  sync() {
    counts.syncs += 1;
    file.sync();
  },
});

const { files, datagrams } = raft.systemWorld;
/** Earlier versions open files for writing by `create`, and `open` may find none. */
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
