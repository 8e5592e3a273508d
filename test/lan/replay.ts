/**
 * An attacker without the secret records everything, and sends it again from the old addresses. It
 * must change nothing, and earn nothing but greetings.
 */
import { readFileSync } from "node:fs";
import { open, type Opened } from "../support/wire.ts";
import type { Frame } from "./capture.ts";
import { check, type Lan, PORT, Trio } from "./scene.ts";

const BURST = 50;
const PAUSE_MS = 10;
const SETTLE_MS = 1000;

/** But for knocks, which say nothing and are not counted. */
const toServers = (frames: readonly Frame[]) =>
  frames.filter(({ to, payload }) => to.endsWith(`:${PORT}`) && payload.length > 0);

/** What all sent while clients put and got, to the servers. */
async function record(lan: Lan, trio: Trio): Promise<Frame[]> {
  const from = lan.capture.frames.length;
  const endsAt = performance.now() + lan.recordMs;
  let commands = 0;
  for (; performance.now() < endsAt; commands += 2) {
    await trio.ask("put", `key ${commands % 10}`, `value ${commands}`);
    await trio.ask("get", `key ${commands % 10}`);
  }
  await Bun.sleep(SETTLE_MS); // So that nothing of it is on its way any more.
  const frames = toServers(lan.capture.frames.slice(from));
  const kinds = Object.entries(countTypes(frames, lan)).map(([type, n]) => `${n} ${type}`);
  console.log(
    `  ${frames.length} datagrams to the servers were recorded in `
      + `${lan.recordMs / 1000} s: ${kinds.join(", ")}.`,
  );
  check(
    "clients, a leader and followers are all in the recording",
    ["AppendEntries", "AppendEntriesReply", "OpenSession", "Commands", "Read"].every((type) =>
      kinds.some((kind) => kind.endsWith(` ${type}`))
    ),
  );
  return frames;
}

async function replay(lan: Lan, frames: readonly Frame[], settleMs = SETTLE_MS): Promise<void> {
  for (const [i, frame] of frames.entries()) {
    lan.capture.again(frame);
    if (i % BURST === 0) await Bun.sleep(PAUSE_MS);
  }
  await Bun.sleep(settleMs);
}

function read({ payload }: Frame, lan: Lan): Opened {
  return open(payload, readFileSync(lan.secrets[0], "utf8").trim());
}

/** How many messages of each type; a datagram without any is an "introduction". */
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
 * How many replies answer no request that was really sent. A reply repeats its request's id: of
 * each id there may be as many replies as there were requests, and one more is to a replayed one.
 */
function unasked(frames: readonly Frame[], lan: Lan): number {
  const requests = new Map<string, number>();
  let count = 0;
  for (const frame of frames) {
    const { kind, envelope: [, from, to], bodies, types } = read(frame, lan);
    for (const [i, type] of types.entries()) {
      const id = bodies[i]?.[1];
      const [asker, asked] = REPLIES.includes(type) ? [to, from] : [from, to];
      const call = `${kind} ${asker} ${asked} ${id}`;
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

const LASTING = [
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
  return JSON.stringify(all.map((status) => [status.name, ...LASTING.map((key) => status[key])]));
}

const droppedBy = async (trio: Trio) => {
  const sums: Record<string, number> = {};
  for (const { dropped } of (await trio.statuses()).values()) {
    for (const [reason, n] of Object.entries(dropped)) sums[reason] = (sums[reason] ?? 0) + n;
  }
  return sums;
};

/** Replays all of it, as it was and then backwards, and checks that nothing comes of it. */
async function inVain(lan: Lan, trio: Trio, frames: readonly Frame[]): Promise<void> {
  const clients = new Set(frames.map(({ from }) => from).filter((a) => !a.endsWith(`:${PORT}`)));
  const outputs = () => [0, 1, 2].map((i) => trio.program(i).output).join();
  const [state, output, before] = [await stateOf(trio), outputs(), await droppedBy(trio)];
  await Bun.sleep(PAUSE_MS);
  const began = lan.capture.frames.length;
  await replay(lan, [...frames, ...frames.toReversed()]);
  const after = await droppedBy(trio);
  const grown = Object.entries(after).map(([reason, n]) => [reason, n - (before[reason] ?? 0)]);
  console.log(
    `  ${2 * frames.length} datagrams were sent once more. The servers' counts of what `
      + `they dropped have grown: ${grown.map(([reason, n]) => `${reason} by ${n}`).join(", ")}.`,
  );
  await Bun.sleep(PAUSE_MS); // Until the eavesdropper has seen all that came before the answer.
  const live = toServers(lan.capture.frames.slice(began));
  // Who is asked for the counts is first asked by somebody that knows no boot yet. And a server
  // greets whoever seems to speak to it, which may be an earlier life of another server.
  const boots = new Map([...(await trio.statuses()).values()].map((s) => [s.name, s.boot]));
  const vain = live.filter((frame) => {
    const [, , to, , , toBoot] = read(frame, lan).envelope;
    return toBoot !== boots.get(`${to}`);
  });
  check(
    `each of them was dropped, beside ${vain.length} that were meant for nobody now`,
    grown.reduce((sum, [, n]) => sum + Number(n), 0) === 2 * frames.length + vain.length,
  );
  check(`no server has changed in any of ${LASTING.join(", ")}`, await stateOf(trio) === state);
  check("no server has told of anything: no election, no other leader", outputs() === output);
  const back = lan.capture.frames.slice(began).filter(({ to }) => clients.has(to));
  const types = countTypes(back, lan);
  console.log(
    `  What came back to the ${clients.size} clients of the recording: `
      + `${JSON.stringify(types)}`,
  );
  check(
    "greetings have come back to them, and nothing else",
    back.length > 0 && Object.keys(types).join() === "Greeting",
  );
}

/** Nobody has answered what was not asked, since `began`. */
function checkAnswers(lan: Lan, began: number): void {
  const frames = lan.capture.frames.slice(began);
  check(
    `of ${frames.length} datagrams that the machines sent, none answers a replayed one`,
    unasked(frames, lan) === 0,
  );
}

export async function replayed(lan: Lan): Promise<void> {
  const began = lan.capture.frames.length;
  const trio = await Trio.start(lan);
  await inVain(lan, trio, await record(lan, trio));
  checkAnswers(lan, began);
  check("and the cluster takes a put", (await trio.ask("put", "key", "value")).code === 0);
}

/** Heartbeats of a dead leader, as many as you like, must not keep the others from electing. */
export async function replayedInAnElection(lan: Lan): Promise<void> {
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
  console.log(`  Meanwhile ${count} recorded datagrams were sent to the other two.`);
  check(`the leader is killed, and ${trio.addresses[leader]} is elected`, count > 0);
  await trio.line(leader, /Switching state from Candidate to Leader/);
  checkAnswers(lan, began);
}

export async function replayedLater(lan: Lan): Promise<void> {
  const trio = await Trio.start(lan);
  const frames = await record(lan, trio);
  await Promise.all([0, 1, 2].map((i) => trio.program(i).kill()));
  const began = lan.capture.frames.length;
  for (const i of [0, 1, 2]) trio.start(i);
  await trio.convergence();
  await inVain(lan, trio, frames);
  checkAnswers(lan, began);
}
