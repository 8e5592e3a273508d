/**
 * Tests an attacker without the secret that records all datagrams and replays them from their
 * original addresses. The recording shows no name, key or value, and replaying it changes nothing.
 */
import { readFileSync } from "node:fs";
import { DATA, HELLO, HINT, WELCOME } from "../support/wire.ts";
import type { Frame } from "./capture.ts";
import { check, type Lan, PORT, Trio } from "./scene.ts";

const BURST = 50;
const PAUSE_MS = 10;
const SETTLE_MS = 1000;
const KEY = "the name of a key";
const VALUE = "a value of that key";

/** Selects the datagrams to servers. Empty ones only probe a port, and are not counted. */
const toServers = (frames: readonly Frame[]) =>
  frames.filter(({ to, payload }) => to.endsWith(`:${PORT}`) && payload.length > 0);

const kinds = new Map([[HELLO, "hello"], [WELCOME, "welcome"], [DATA, "data"], [HINT, "hint"]]);
const kindOf = ({ payload }: Frame) => kinds.get(payload[0] ?? 0) ?? "unknown";
const count = (frames: readonly Frame[], kind: string) =>
  frames.filter((frame) => kindOf(frame) === kind).length;
const describe = (frames: readonly Frame[]) =>
  [...Map.groupBy(frames, kindOf)].map(([kind, { length }]) => `${length} ${kind}`).join(", ");

/** Checks that no datagram has a name, a key, a value or the secret, in its plain bytes. */
function checkSecrecy(lan: Lan, trio: Trio, frames: readonly Frame[]): void {
  const secret = readFileSync(lan.secrets[0], "utf8").trim();
  const words = [KEY, VALUE, secret, "operator", ...trio.addresses];
  const isOpen = ({ payload }: Frame) => words.some((word) => payload.includes(word));
  check(
    "no datagram shows a name, a key, a value or the secret",
    frames.length > 0 && !frames.some(isOpen),
  );
}

/** Runs puts and gets, and returns the datagrams that the servers received meanwhile. */
async function record(lan: Lan, trio: Trio): Promise<Frame[]> {
  const from = lan.capture.frames.length;
  const endsAt = performance.now() + lan.recordMs;
  let commands = 0;
  for (; performance.now() < endsAt; commands += 2) {
    await trio.ask("put", `${KEY} ${commands % 10}`, `${VALUE} ${commands}`);
    await trio.ask("get", `${KEY} ${commands % 10}`);
  }
  await Bun.sleep(SETTLE_MS); // Until nothing of it is in flight.
  const all = lan.capture.frames.slice(from);
  const frames = toServers(all);
  console.log(
    `  Recorded ${frames.length} datagrams to the servers in ${lan.recordMs / 1000} s, with `
      + `${commands} commands: ${describe(frames)}.`,
  );
  check(
    "the recording has handshakes of clients, and data of clients and of servers",
    count(frames, "hello") >= commands && count(frames, "data") > 2 * commands,
  );
  checkSecrecy(lan, trio, all.filter(({ payload }) => payload.length > 0));
  return frames;
}

async function replay(lan: Lan, frames: readonly Frame[], settleMs = SETTLE_MS): Promise<void> {
  for (const [i, frame] of frames.entries()) {
    lan.capture.replay(frame);
    if (i % BURST === 0) await Bun.sleep(PAUSE_MS);
  }
  await Bun.sleep(settleMs);
}

const COMPARED = [
  "disk",
  "boot",
  "role",
  "term",
  "votedFor",
  "leader",
  "lastIndex",
  "lastTerm",
  "commitIndex",
  "lastApplied",
  "unsaved",
  "logBytes",
] as const;

async function stateOf(trio: Trio): Promise<string> {
  const all = [...(await trio.statuses()).values()];
  return JSON.stringify(all.map((status) => [status.name, ...COMPARED.map((key) => status[key])]));
}

const droppedBy = async (trio: Trio) => {
  const sums: Record<string, number> = {};
  for (const { dropped } of (await trio.statuses()).values()) {
    for (const [reason, n] of Object.entries(dropped)) sums[reason] = (sums[reason] ?? 0) + n;
  }
  return sums;
};

/** Replays the datagrams in their order and then backwards, and checks that they have no effect. */
async function expectNoEffect(lan: Lan, trio: Trio, frames: readonly Frame[]): Promise<void> {
  const clients = new Set(frames.map(({ from }) => from).filter((a) => !a.endsWith(`:${PORT}`)));
  const outputs = () => [0, 1, 2].map((i) => trio.program(i).output).join();
  const [state, output, before] = [await stateOf(trio), outputs(), await droppedBy(trio)];
  await Bun.sleep(PAUSE_MS);
  const began = lan.capture.frames.length;
  const replayed = [...frames, ...frames.toReversed()];
  await replay(lan, replayed);
  const after = await droppedBy(trio);
  const grown = Object.entries(after).map(([reason, n]) => [reason, n - (before[reason] ?? 0)]);
  console.log(
    `  Replayed ${replayed.length} datagrams. The servers' counts of dropped datagrams `
      + `have grown: ${grown.map(([reason, n]) => `${reason} by ${n}`).join(", ")}.`,
  );
  // A server that has restarted may answer a Hello of a client that it doesn't know any more.
  check(
    "the servers dropped all data of the recording",
    grown.reduce((sum, [, n]) => sum + Number(n), 0) >= count(replayed, "data"),
  );
  check(`no server has changed in any of ${COMPARED.join(", ")}`, await stateOf(trio) === state);
  check("no server has printed anything, so there was no election", outputs() === output);
  const back = lan.capture.frames.slice(began).filter(({ to }) => clients.has(to));
  const bytesOf = (list: readonly Frame[]) =>
    list.reduce((sum, { payload }) => sum + payload.length, 0);
  const sent = bytesOf(replayed.filter(({ from }) => clients.has(from)));
  console.log(
    `  The ${clients.size} clients of the recording received: ${describe(back) || "nothing"}.`,
  );
  check(
    `the clients received no data, and ${bytesOf(back)} bytes for the ${sent} in their names`,
    count(back, "data") === 0 && bytesOf(back) < sent,
  );
}

export async function replaysTraffic(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  await expectNoEffect(lan, trio, await record(lan, trio));
  check("the cluster accepts a put", (await trio.ask("put", "key", "value")).code === 0);
}

/** Tests that replayed heartbeats of a dead leader do not prevent an election. */
export async function replaysDuringElection(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const old = await trio.agreement();
  const frames = (await record(lan, trio)).filter(({ to }) => to !== trio.addresses[old]);
  await trio.program(old).kill();
  let [replayed, isOver] = [0, false];
  const replaying = (async () => {
    for (; !isOver; replayed += frames.length) await replay(lan, frames, 0);
  })();
  const leader = await trio.agreement([0, 1, 2].filter((i) => i !== old)).finally(() => {
    isOver = true;
  });
  await replaying;
  console.log(`  Replayed ${replayed} datagrams to the other two meanwhile.`);
  check(`the leader is killed, and ${trio.addresses[leader]} is elected`, replayed > 0);
  await trio.line(leader, /Switching state from Candidate to Leader/);
}

export async function replaysAfterRestart(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const frames = await record(lan, trio);
  await Promise.all([0, 1, 2].map((i) => trio.program(i).kill()));
  for (const i of [0, 1, 2]) trio.start(i);
  await trio.convergence();
  await expectNoEffect(lan, trio, frames);
}
