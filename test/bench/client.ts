#!/usr/bin/env bun
/**
 * Runs a client in its own process, controlled by HTTP on PORT like `server.ts`.
 *
 *   bun test/bench/client.ts PORT raft SERVER,... [RAFT]    over UDP
 *   bun test/bench/client.ts PORT etcd SERVER,...           over gRPC
 *
 * The first SERVER should be the leader. With `&at=follower` the second one answers the reads.
 */
import path from "node:path";
import { Etcd } from "./etcd.ts";
import { endWithParent, load, type Store } from "./load.ts";

const [, , port = "", kind = "", list = "", file = ""] = Bun.argv;
const servers = list.split(",");
const [leader = "", follower = ""] = servers;
type Stores = { leader: Store; follower: Store };

async function connectRaft(): Promise<Stores> {
  const raft: typeof import("../../raft.ts") = await import(
    file === "" ? "../../raft.ts" : path.resolve(file)
  );
  const client = await raft.Client.connect({ servers, cluster: "bench" });
  const propose: typeof client.propose = (command) => client.propose(command);
  // In an older RAFT the second argument is the name itself.
  const server: unknown = client.read.length > 1 ? follower : { server: follower };
  const read: typeof client.read = (question) => client.read(question, server as object);
  return { leader: new raft.KeyValues(client), follower: new raft.KeyValues({ propose, read }) };
}

const stores = kind === "etcd"
  ? { leader: new Etcd(leader), follower: new Etcd(follower) }
  : await connectRaft();

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  idleTimeout: 0,
  routes: {
    "/stat": Response.json({}),
    "/bench": async ({ url }) => {
      const { searchParams } = new URL(url);
      const store = searchParams.get("at") === "follower" ? stores.follower : stores.leader;
      return Response.json(await load(searchParams, store));
    },
  },
});

endWithParent();
