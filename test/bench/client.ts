#!/usr/bin/env bun
/**
 * A client in a process of its own, told by HTTP on PORT what to do, as `server.ts` is.
 *
 *   bun test/bench/client.ts PORT raft SERVER,... [RAFT]    over UDP
 *   bun test/bench/client.ts PORT etcd SERVER               over gRPC; SERVER should lead
 */
import path from "node:path";
import { Etcd } from "./etcd.ts";
import { endWithParent, load, type Store } from "./load.ts";

const [, , port = "", kind = "", servers = "", file = ""] = Bun.argv;

async function connectRaft(): Promise<Store> {
  const raft: typeof import("../../raft.ts") = await import(
    file === "" ? "../../raft.ts" : path.resolve(file)
  );
  const client = await raft.Client.connect({ servers: servers.split(","), cluster: "bench" });
  return new raft.KeyValues(client);
}

const store = kind === "etcd" ? new Etcd(servers) : await connectRaft();

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  idleTimeout: 0,
  routes: {
    "/stat": Response.json({}),
    "/bench": async ({ url }) => Response.json(await load(new URL(url).searchParams, store)),
  },
});

endWithParent();
