#!/usr/bin/env bun
/**
 * Tests raft.ts on a LAN of five machines, which are network namespaces: three servers, a client
 * and a stranger. Each scenario injects a fault that is common on a LAN, and shows what the
 * programs print.
 *
 *   bun test/lan.ts [--only TEXT] [--seconds 10]
 *
 *   --only TEXT      only the scenarios with TEXT in their titles
 *   --seconds 10     how long traffic is recorded before it is replayed
 *
 * Needs Linux and root. The network is private, and disappears when the program ends.
 */
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import os from "node:os";
import path from "node:path";
import { Capture } from "./lan/capture.ts";
import { Machine, makeBridge, runInside, whyNoNetwork } from "./lan/network.ts";
import { replaysAfterRestart, replaysDuringElection, replaysTraffic } from "./lan/replay.ts";
import { check, type Lan, PORT, scenario, show, Trio, verdict } from "./lan/scene.ts";
import { readFlags } from "./support/flags.ts";
import { endAll, run } from "./support/processes.ts";

const flags = readFlags(import.meta.path, {
  only: { type: "string", default: "" },
  seconds: { type: "string", default: "10" },
});
const THIRD = 2;
const DIRECTORY = "RAFT_LAN_DIRECTORY";

async function servesClient(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const put = await trio.ask("put", "hello", "world");
  check("a client on a fourth machine puts a value", put.code === 0);
  const get = await trio.ask("get", "hello");
  check("the client gets it back", get.output === "world" && get.code === 0);
  const large = "x".repeat(60_000);
  await trio.ask("put", "large", large);
  check(
    "a value of 60,000 bytes passes, and no IP packet is fragmented",
    (await trio.ask("get", "large")).output === large && lan.capture.fragments === 0,
  );
  show("bun cli.ts status", (await trio.ask("status")).output);
}

/** Tests that the firewall rule in the README is enough. */
async function passesFirewall(lan: Lan): Promise<void> {
  const trio = new Trio(lan);
  const machines = [...lan.servers, lan.client];
  for (const machine of machines) machine.command("iptables", "-P", "INPUT", "DROP");
  for (const i of [0, 1, 2]) trio.start(i);
  const silent = await trio.ask("put", "key", "value");
  check("a put fails where the firewall lets nothing pass", silent.code !== 0);
  const allow = (machine: Machine, ...rule: string[]) =>
    machine.command("iptables", "-A", "INPUT", ...rule, "-j", "ACCEPT");
  for (const server of lan.servers) allow(server, "-p", "udp", "--dport", `${PORT}`);
  allow(lan.client, "-p", "udp", "--sport", `${PORT}`);
  const put = await trio.ask("put", "key", "value");
  check(
    `a put succeeds where only UDP to and from port ${PORT} of the servers may pass`,
    put.code === 0,
  );
  const large = await trio.ask("put", "large", "x".repeat(60_000));
  check("a put of 60,000 bytes succeeds, too", large.code === 0);
  for (const machine of machines) machine.command("iptables", "-F");
  for (const machine of machines) machine.command("iptables", "-P", "INPUT", "ACCEPT");
}

async function unplugsLeader(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const old = await trio.agreement();
  const others = [0, 1, 2].filter((i) => i !== old);
  lan.servers[old]?.unplug();
  const put = await trio.ask("put", "while one was away", "value");
  check("the leader's cable is pulled: the other two accept a put", put.code === 0);
  const leader = await trio.agreement(others);
  check(`one of the two leads: ${trio.addresses[leader]}`, leader !== old);
  show("bun cli.ts status", (await trio.ask("status")).output);
  const steps = await trio.line(old, /Switching state from Leader to Follower/);
  show(`${trio.addresses[old]}, the former leader, steps down`, steps);
  lan.servers[old]?.plug();
  await trio.convergence();
  check("plugged in again, the server follows and applies all that the others have applied", true);
  const leads = (await trio.agreement()) === leader;
  check("its return causes no election: the leader is the same", leads);
}

async function killsLeader(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const old = await trio.agreement();
  await trio.ask("put", "before", "the leader is killed");
  await trio.program(old).kill();
  const put = await trio.ask("put", "after", "the leader is killed");
  check("the leader is killed by kill -9: the other two accept a put", put.code === 0);
  const next = await trio.agreement([0, 1, 2].filter((i) => i !== old));
  show(
    `${trio.addresses[next]} finds the leader's port closed, and waits for less than a second`,
    await trio.line(next, /No valid RPC received in the last \d{1,3} milliseconds/),
  );
  trio.start(old);
  await trio.convergence();
  check("restarted, the server applies all that the others have applied", true);
  const gets = [await trio.ask("get", "before"), await trio.ask("get", "after")];
  check("both values are there", gets.every(({ output }) => output === "the leader is killed"));
}

/** Tests a misconfigured third server: the other two must serve, and both sides must say why. */
async function misconfigures(
  lan: Lan,
  wrong: Record<string, string>,
  ours: RegExp,
  its: RegExp,
): Promise<void> {
  const trio = new Trio(lan);
  for (const i of [0, 1]) trio.start(i);
  trio.start(THIRD, wrong);
  const leader = await trio.agreement([0, 1]);
  let unanswered = 0;
  for (let i = 0; i < 10; i += 1) { // Any of the three may greet each new client first.
    const { code, errors } = await trio.ask("put", `key ${i}`, "value");
    if (code === 0) continue;
    unanswered += 1;
    show("bun cli.ts put", errors);
  }
  check("the other two elect a leader and accept ten puts", unanswered === 0);
  // A follower exchanges messages only with its leader, so it may not know of the third server.
  show(
    `${trio.addresses[leader]}, the leader, says of the third server`,
    await trio.line(leader, ours),
  );
  show("the third server says of the others", await trio.line(THIRD, its));
  show("bun cli.ts status", (await trio.ask("status")).output);
  const own = trio.program(THIRD).output;
  check(
    "the third server runs, and neither follows nor leads",
    trio.program(THIRD).isRunning && !/ (New leader:|Voted for|Switching)/.test(own),
  );
}

async function otherSecret(lan: Lan): Promise<void> {
  const warning = (from: number) =>
    new RegExp(`WARNING.* from 10\\.0\\.0\\.${from}:${PORT}: wrong secret`);
  await misconfigures(lan, { "secret-file": lan.secrets[1] }, warning(3), warning(1));
}

async function otherCluster(lan: Lan): Promise<void> {
  const warning = /WARNING.* has other founding members or another cluster name/;
  await misconfigures(lan, { cluster: "other" }, warning, warning);
}

async function otherPeers(lan: Lan): Promise<void> {
  const peers = `10.0.0.1:${PORT},10.0.0.7:${PORT}`;
  await misconfigures(
    lan,
    { peers },
    /WARNING.*10\.0\.0\.3.*10\.0\.0\.7/,
    /WARNING.*10\.0\.0\.1.*10\.0\.0\.2/,
  );
}

async function otherSecretOfClient(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const words = ["put", "key", "value", "--peers", trio.addresses.join(","), "--timeout", "2000"];
  const put = await lan.stranger.run(...words, "--secret-file", lan.secrets[1]);
  check("a put of a client with another secret, on a fifth machine, fails", put.code !== 0);
  show("the client says", put.errors);
  show("a server says", await trio.line(0, /WARNING.*10\.0\.0\.5/));
  const sent = lan.capture.frames.filter(({ to }) => to.startsWith(lan.stranger.address));
  check("no datagram was sent to the client", sent.length === 0);
}

async function ownKey(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const file = path.join(lan.directory, "client.key");
  const { output } = await run("client-key", "alice", "--secret-file", lan.secrets[0]);
  writeFileSync(file, output, { mode: 0o600 });
  const words = ["--peers", trio.addresses.join(","), "--client-key-file", file];
  const put = await lan.stranger.run("put", "key", "value", ...words);
  const get = await lan.stranger.run("get", "key", ...words);
  check(
    "a client with a key of its own, and no secret, puts a value and gets it",
    put.code === 0 && get.output === "value",
  );
}

async function everyAddress(lan: Lan): Promise<void> {
  const trio = new Trio(lan);
  const names = ["one", "two", "three"];
  const named = names.map((name, i) => `${name}=${trio.addresses[i]}`);
  trio.addresses.splice(0, 3, ...named);
  const nameless = trio.start(0, { host: "0.0.0.0" });
  check("--host 0.0.0.0 without --name is wrong usage", (await nameless.exited) === 2);
  await nameless.closed;
  show("the server says", nameless.errors);
  names.forEach((name, i) => trio.start(i, { host: "0.0.0.0", name }));
  const put = await trio.ask("put", "key", "value");
  check(
    "three named servers on 0.0.0.0 elect a leader and accept a put",
    put.code === 0,
  );
  show("bun cli.ts status", (await trio.ask("status")).output);
}

async function noSecret(lan: Lan): Promise<void> {
  const { address } = lan.servers[0];
  const data = path.join(lan.directory, "no-secret");
  const { code, errors } = await lan.servers[0].run(
    "--host",
    address,
    "--port",
    `${PORT}`,
    "--data",
    data,
  );
  check("a server without a secret refuses to listen on an address of the LAN", code === 2);
  show("the server says", errors);
}

/** Makes a secret as a user does. */
async function makeSecret(file: string): Promise<string> {
  const { output } = await run("secret");
  writeFileSync(file, `${output}\n`, { mode: 0o600 });
  return file;
}

async function makeLan(directory: string): Promise<Lan> {
  makeBridge();
  const servers = [
    await Machine.create(1),
    await Machine.create(2),
    await Machine.create(3),
  ] as const;
  const [client, stranger] = [await Machine.create(4), await Machine.create(5)];
  const capture = new Capture([...servers, client, stranger]);
  const secrets = [
    await makeSecret(path.join(directory, "raft.secret")),
    await makeSecret(path.join(directory, "other.secret")),
  ] as const;
  return {
    servers,
    client,
    stranger,
    capture,
    directory,
    secrets,
    recordMs: Number(flags.seconds) * 1000,
  };
}

const SCENARIOS: [title: string, act: (lan: Lan) => Promise<void>][] = [
  ["Three servers, one secret", servesClient],
  ["Servers and client behind firewalls", passesFirewall],
  ["A leader without a network", unplugsLeader],
  ["A leader without power", killsLeader],
  ["A server with another secret", otherSecret],
  ["A server of another cluster", otherCluster],
  ["A server with another list of peers", otherPeers],
  ["A client with another secret", otherSecretOfClient],
  ["A client with a key of its own instead of the secret", ownKey],
  ["Servers on every address of their machines", everyAddress],
  ["A server without a secret", noSecret],
  ["Recorded traffic, replayed at the servers that sent it", replaysTraffic],
  ["Recorded traffic, replayed while an election is due", replaysDuringElection],
  ["Recorded traffic, replayed after a restart of the servers", replaysAfterRestart],
];

async function inside(directory: string): Promise<number> {
  for (const end of ["SIGINT", "disconnect"]) process.on(end, () => process.exit(1));
  const lan = await makeLan(directory);
  for (const [title, act] of SCENARIOS) {
    if (title.includes(flags.only)) await scenario(title, () => act(lan));
  }
  await endAll();
  return verdict();
}

async function outside(): Promise<number> {
  const why = whyNoNetwork();
  if (why) console.error(why);
  if (why) return 1;
  const directory = mkdtempSync(path.join(os.tmpdir(), "raft-lan-"));
  try {
    return await runInside({ [DIRECTORY]: directory });
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
}

const directory = process.env[DIRECTORY];
process.exit(await (directory ? inside(directory) : outside()));
