/** A client that uses its key to speak as others, or to say what a client may not. */
import { type ClientMessage, credentialOf, Endpoint, type Message } from "../../../raft.ts";
import { appendEntries, appendReply, requestVote, voteReply } from "../../support/core.ts";
import { pick, type Random } from "../../support/random.ts";
import { type Cluster } from "./cluster.ts";
import { PORT } from "./server.ts";

const NAME = "impostor";
const FAR = 2 ** 40;

/** Returns messages that would do harm, if a server took them. */
function forge(random: Random, from: string, to: string): (Message | ClientMessage)[] {
  const envelope = { from, to, id: Math.floor(FAR * random()) };
  const term = Math.floor(100 * random());
  return [
    appendEntries(term, { ...envelope, leaderCommit: FAR }),
    appendReply(term, { ...envelope, matchIndex: FAR }),
    requestVote(term, { ...envelope, lastLogIndex: FAR, lastLogTerm: FAR }),
    voteReply(term, envelope),
    { ...envelope, type: "ChangeMembers", name: to, address: "", force: true },
    { ...envelope, type: "Transfer", leader: to, name: "" },
    { ...envelope, type: "ReadIndex" },
    { ...envelope, type: "NotLeader", leader: from, servers: "" },
  ];
}

export class Impostor {
  private began = 0;

  constructor(private readonly cluster: Cluster, private readonly random: Random) {}

  /** Says what it may not to a server, in its own name or in that of another one. */
  async speak(): Promise<void> {
    const { random, cluster: { simulation, channels, secrets, names, clients, diskOf } } = this;
    const [to, server] = [pick(random, names), pick(random, names)];
    const own = { role: "client", name: NAME, disk: this.began += 1, boot: 1 } as const;
    const claim = pick(random, [
      own,
      { ...own, name: pick(random, clients) },
      { ...own, role: "operator", name: "operator" } as const,
      { role: "peer", name: server, disk: diskOf(server).disk, boot: FAR } as const,
    ]);
    const machine = simulation.machine(NAME);
    const world = machine.boot();
    channels.watch(machine, world, claim === own ? undefined : `${NAME} ${own.disk}`);
    const at = { host: NAME, port: 0 };
    const socket = await world.datagrams.bind(at, (bytes, from) => endpoint.receive(bytes, from));
    const self = { cluster: "raft", members: names, ...claim };
    const endpoint: Endpoint = new Endpoint(world, socket, self, {
      onTurnEnd: () => endpoint.flush(),
      onMessage() {},
      founding: () => 0,
    });
    const secret = secrets.ofClient(random).split("\n")[0] ?? "";
    endpoint.rotate([credentialOf(secret, "client", "raft", NAME)]);
    await endpoint.resolvePeer({ name: to, host: to, port: PORT });
    for (const message of forge(random, claim.name, to)) endpoint.send(message);
    endpoint.schedule();
  }
}
