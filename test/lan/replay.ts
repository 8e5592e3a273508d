/**
 * Tests an attacker without the secret that records all datagrams and replays them from their
 * original addresses. The servers must not change, and may answer with greetings only.
 */
import { readFileSync } from "node:fs";
import { open, type Opened } from "../support/wire.ts";
import type { Frame } from "./capture.ts";
import { check, type Lan, PORT, Trio } from "./scene.ts";

const BURST = 50;
const PAUSE_MS = 10;
const SETTLE_MS = 1000;

/** Selects the datagrams to servers. Empty ones only probe a port, and are not counted. */
const toServers = (frames: readonly Frame[]) =>
  frames.filter(({ to, payload }) => to.endsWith(`:${PORT}`) && payload.length > 0);

/** Runs puts and gets, and returns the datagrams that the servers received meanwhile. */
async function record(lan: Lan, trio: Trio): Promise<Frame[]> {
  const from = lan.capture.frames.length;
  const endsAt = performance.now() + lan.recordMs;
  let commands = 0;
  for (; performance.now() < endsAt; commands += 2) {
    await trio.ask("put", `key ${commands % 10}`, `value ${commands}`);
    await trio.ask("get", `key ${commands % 10}`);
  }
  await Bun.sleep(SETTLE_MS); // Until nothing of it is in flight.
  const frames = toServers(lan.capture.frames.slice(from));
  const kinds = Object.entries(countTypes(frames, lan)).map(([type, n]) => `${n} ${type}`);
  console.log(
    `  Recorded ${frames.length} datagrams to the servers in `
      + `${lan.recordMs / 1000} s: ${kinds.join(", ")}.`,
  );
  check(
    "the recording has messages of clients, of a leader and of followers",
    ["AppendEntries", "AppendEntriesReply", "OpenSession", "Commands", "Read"].every((type) =>
      kinds.some((kind) => kind.endsWith(` ${type}`))
    ),
  );
  return frames;
}

async function replay(lan: Lan, frames: readonly Frame[], settleMs = SETTLE_MS): Promise<void> {
  for (const [i, frame] of frames.entries()) {
    lan.capture.replay(frame);
    if (i % BURST === 0) await Bun.sleep(PAUSE_MS);
  }
  await Bun.sleep(settleMs);
}

function read({ payload }: Frame, lan: Lan): Opened {
  return open(payload, readFileSync(lan.secrets[0], "utf8").trim());
}

/** Counts the messages of each type. A datagram without messages is an "introduction". */
function countTypes(frames: readonly Frame[], lan: Lan): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const frame of frames) {
    const { types } = read(frame, lan);
    for (const type of types.length > 0 ? types : ["introduction"]) {
      counts[type] = (counts[type] ?? 0) + 1;
    }
  }
  return counts;
}

const REPLIES = [
  "RequestVoteReply",
  "AppendEntriesReply",
  "InstallSnapshotReply",
  "Answer",
  "NotLeader",
  "Refused",
  "Outcomes",
];
const REQUESTS = [
  "RequestVote",
  "AppendEntries",
  "InstallSnapshot",
  "OpenSession",
  "Commands",
  "Read",
  "ReadIndex",
  "Inspect",
  "ChangeMembers",
  "Transfer",
];

/**
 * Counts the replies that answer a replayed request. A reply echoes its request's id, so each id
 * may have as many replies as there were original requests. A further reply answers a replayed one.
 */
function countReplayAnswers(frames: readonly Frame[], lan: Lan): number {
  const requests = new Map<string, number>();
  let count = 0;
  for (const frame of frames) {
    const { channel, envelope: [, from, to], bodies, types } = read(frame, lan);
    for (const [i, type] of types.entries()) {
      const id = bodies[i]?.[1];
      const [asker, asked] = REPLIES.includes(type) ? [to, from] : [from, to];
      const call = `${channel} ${asker} ${asked} ${id}`;
      const open = requests.get(call) ?? 0;
      if (REQUESTS.includes(type)) requests.set(call, open + 1);
      else if (REPLIES.includes(type)) {
        requests.set(call, open - 1);
        if (open < 1) count += 1;
      }
    }
  }
  return count;
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
  await replay(lan, [...frames, ...frames.toReversed()]);
  const after = await droppedBy(trio);
  const grown = Object.entries(after).map(([reason, n]) => [reason, n - (before[reason] ?? 0)]);
  console.log(
    `  Replayed ${2 * frames.length} datagrams. The servers' counts of dropped datagrams `
      + `have grown: ${grown.map(([reason, n]) => `${reason} by ${n}`).join(", ")}.`,
  );
  await Bun.sleep(PAUSE_MS); // Until all frames before the answer are captured.
  const live = toServers(lan.capture.frames.slice(began));
  // Some original datagrams are dropped, too. A new client does not know a server's boot number
  // when it asks for the counts. And a server greets the sender of a replayed datagram at its
  // former boot.
  const boots = new Map([...(await trio.statuses()).values()].map((s) => [s.name, s.boot]));
  const misaddressed = live.filter((frame) => {
    const [, , to, , , toBoot] = read(frame, lan).envelope;
    return toBoot !== boots.get(`${to}`);
  });
  check(
    `the servers dropped each of them, and ${misaddressed.length} original ones for another boot`,
    grown.reduce((sum, [, n]) => sum + Number(n), 0) === 2 * frames.length + misaddressed.length,
  );
  check(`no server has changed in any of ${COMPARED.join(", ")}`, await stateOf(trio) === state);
  check("no server has printed anything, so there was no election", outputs() === output);
  const back = lan.capture.frames.slice(began).filter(({ to }) => clients.has(to));
  const types = countTypes(back, lan);
  console.log(
    `  The ${clients.size} clients of the recording received: `
      + `${JSON.stringify(types)}`,
  );
  check(
    "the clients received greetings, and nothing else",
    back.length > 0 && Object.keys(types).join() === "Greeting",
  );
}

/** Checks that no datagram that was sent since `began` answers a replayed one. */
function checkAnswers(lan: Lan, began: number): void {
  const frames = lan.capture.frames.slice(began);
  check(
    `of ${frames.length} datagrams that the machines sent, none answers a replayed one`,
    countReplayAnswers(frames, lan) === 0,
  );
}

export async function replaysTraffic(lan: Lan): Promise<void> {
  const began = lan.capture.frames.length;
  const trio = await Trio.start(lan);
  await expectNoEffect(lan, trio, await record(lan, trio));
  checkAnswers(lan, began);
  check("the cluster accepts a put", (await trio.ask("put", "key", "value")).code === 0);
}

/** Tests that replayed heartbeats of a dead leader do not prevent an election. */
export async function replaysDuringElection(lan: Lan): Promise<void> {
  const began = lan.capture.frames.length;
  const trio = await Trio.start(lan);
  const old = await trio.agreement();
  const frames = (await record(lan, trio)).filter(({ to }) => to !== trio.addresses[old]);
  await trio.program(old).kill();
  let [count, isOver] = [0, false];
  const replaying = (async () => {
    for (; !isOver; count += frames.length) await replay(lan, frames, 0);
  })();
  const leader = await trio.agreement([0, 1, 2].filter((i) => i !== old)).finally(() => {
    isOver = true;
  });
  await replaying;
  console.log(`  Replayed ${count} datagrams to the other two meanwhile.`);
  check(`the leader is killed, and ${trio.addresses[leader]} is elected`, count > 0);
  await trio.line(leader, /Switching state from Candidate to Leader/);
  checkAnswers(lan, began);
}

export async function replaysAfterRestart(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const frames = await record(lan, trio);
  await Promise.all([0, 1, 2].map((i) => trio.program(i).kill()));
  const began = lan.capture.frames.length;
  for (const i of [0, 1, 2]) trio.start(i);
  await trio.convergence();
  await expectNoEffect(lan, trio, frames);
  checkAnswers(lan, began);
}
