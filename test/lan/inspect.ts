/** Prints the statuses of the servers that answer: bun inspect.ts SECRET-FILE SERVER... */
import { readFileSync } from "node:fs";
import { Client, parseServer } from "../../raft.ts";

const [file = "", ...servers] = process.argv.slice(2);
const secret = readFileSync(file, "utf8").trim();
const client = await Client.connect({ servers, secret, timeoutMs: 2000 });
const ask = (server: string) => client.inspect(parseServer(server).name).catch(() => undefined);
const all = await Promise.all(servers.map(ask));
console.log(JSON.stringify(all.filter((status) => status !== undefined)));
client.close();
