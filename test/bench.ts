#!/usr/bin/env bun
/**
 * Measures how fast raft.ts is on this machine: three processes, real datagrams, and every commit
 * synced to a real disk on a majority. The table also has the limits of the machine itself.
 *
 *   bun test/bench.ts                    raft.ts alone, in less than three minutes
 *   bun test/bench.ts --against etcd     with etcd in the same run, if it is installed
 *   bun test/bench.ts --against FILE     with another version of raft.ts in the same run
 *
 *   --rounds 3       measurements of each row; the table has their medians
 *   --ms 700         length of a measurement, after a warm-up of a third of that
 *   --kills 5        how many times a leader is killed, and how many times it is paused
 *   --rows TEXT      only rows with TEXT in their names, such as "leader: commits, 64 in flight"
 *   --directory DIR  place of the servers' data, which must be on a disk
 *   --json           print all figures of all rounds
 *
 * Other reports, instead of the table:
 *
 *   --growth         cost of a commit with more servers, larger values, a long log, a large state
 *   --loss           cost of lost datagrams (Linux, as root or with user namespaces)
 *   --minutes M      elections under full load for M minutes; there should be none
 *   --commands N     length of the longest log, and the most keys (default: a million)
 *
 * Rounds are interleaved: the first round of each system, then the second, so that other load on
 * the machine affects all systems alike. Compare figures within a run, not between runs.
 *
 * `test/bench/server.ts` is a server for other benchmarks. Its first comment explains its requests.
 */
import { existsSync, rmSync } from "node:fs";
import path from "node:path";
import {
  chooseDirectory,
  Contestant,
  endAllProcesses,
  etcd,
  ETCD_HELP,
  etcdVersion,
  fileSystem,
  type Kind,
  measureBare,
  type Operation,
  ours,
  type Stat,
} from "./bench/contestants.ts";
import {
  type Finding,
  measureGrowth,
  measureLoss,
  measureSteadiness,
  type Plan,
} from "./bench/growth.ts";
import { commits, roundTrips, syncs } from "./bench/limits.ts";
import { type Figures, median } from "./bench/load.ts";
import { readFlags } from "./support/flags.ts";

const flags = readFlags(import.meta.path, {
  against: { type: "string" },
  rounds: { type: "string", default: "3" },
  ms: { type: "string", default: "700" },
  kills: { type: "string", default: "5" },
  rows: { type: "string", default: "" },
  directory: { type: "string" },
  json: { type: "boolean", default: false },
  growth: { type: "boolean", default: false },
  loss: { type: "boolean", default: false },
  minutes: { type: "string", default: "0" },
  commands: { type: "string", default: "1000000" },
});
const [rounds, ms, kills] = [Number(flags.rounds), Number(flags.ms), Number(flags.kills)];
/**
 * A new process compiles its frequent functions on the shared cores. In the first 10 seconds the
 * slowest commits of a hundred take three times as long as later. The compiler counts calls, so a
 * warm-up with few operations in flight is best.
 */
const WARM_UP_MS = 16_000;
const BARE = "a commit without disk and network";
/**
 * After a kill the kernel refuses datagrams to the leader's port. A paused leader is as silent as a
 * machine that has lost its power, so the others wait for an election timeout: a second, as in
 * etcd.
 */
const FAILOVERS = {
  SIGKILL: "kill -9 of the leader to the next commit",
  SIGSTOP: "silence of the leader to the next commit",
} as const;
type Signal = keyof typeof FAILOVERS;
const signals = (Object.keys(FAILOVERS) as Signal[]).filter((signal) =>
  FAILOVERS[signal].includes(flags.rows)
);

type Row = Operation & {
  /** Unique in the table. */
  name: string;
  /** Unique among the rows with the same place of the load. */
  what: string;
};
const rows = (["leader", "client", "follower"] as const).flatMap((via): Row[] => {
  const row = (op: Operation["op"], noun: string) => (inFlight: number) => {
    const what = `${noun}, ${inFlight} in flight`;
    return { via, op, inFlight, what, name: `${via}: ${what}` };
  };
  return [
    ...(via === "follower" ? [] : [1, 16, 64, 256, 1024].map(row("put", "commits"))),
    ...[1, 256].map(row("get", "linearizable reads")),
  ];
});

/** One measurement. */
type Sample = Figures & {
  row: string;
  contestant: string;
  round: number;
  /** The leader's work meanwhile, and the CPU time of all servers. */
  counts: Counts;
  /** By how much the term grew. */
  elections: number;
};
type Done = Pick<Stat, "datagrams" | "sentBytes" | "syncs" | "writtenBytes">;
type Counts = Done & { cpuMs: number; leaderCPUMs: number; waitedMs: number };
const samples: Sample[] = [];
const bare: { contestant: string; round: number; cpuUs: number }[] = [];
const failovers: { contestant: string; signal: Signal; round: number; ms: number }[] = [];
const limits: { what: string; round: number; figures: Figures }[] = [];

function progress(text: string): void {
  const { isTTY } = process.stderr;
  process.stderr.write(isTTY ? `\r\x1b[2K${text}` : `${text}\n`);
}

function opponent(): Kind[] {
  if (flags.against === undefined) return [];
  if (flags.against !== "etcd") {
    if (!existsSync(flags.against)) throw new Error(`Cannot find ${flags.against}.`);
    return [ours(flags.against, path.resolve(flags.against))];
  }
  const version = etcdVersion();
  if (version === undefined) throw new Error(ETCD_HELP);
  return [etcd(version)];
}

const difference = (before: Stat, after: Stat): Done => ({
  datagrams: after.datagrams - before.datagrams,
  sentBytes: after.sentBytes - before.sentBytes,
  syncs: after.syncs - before.syncs,
  writtenBytes: after.writtenBytes - before.writtenBytes,
});

async function measureLimits(round: number, directory: string): Promise<void> {
  progress(`round ${round} of ${rounds}: the limits of the machine`);
  const add = (what: string, figures: Figures) => limits.push({ what, round, figures });
  add("UDP, to a process and back", await roundTrips());
  add("append and fdatasync, one process", await syncs(directory, 1));
  add("append and fdatasync, three processes at once", await syncs(directory, 3));
  add("three such processes and UDP, without Raft", await commits(directory));
}

async function measureRow(row: Row, contestant: Contestant, round: number): Promise<void> {
  progress(`round ${round} of ${rounds}: ${contestant.kind.name}, ${row.name}`);
  await contestant.measure(row, ms / 3);
  const [before, cpuBefore] = [await contestant.stat(), contestant.cpu()];
  const figures = await contestant.measure(row, ms);
  const [after, cpuAfter] = [await contestant.stat(), contestant.cpu()];
  const cpu = {
    cpuMs: cpuAfter.all - cpuBefore.all,
    leaderCPUMs: cpuAfter.leader - cpuBefore.leader,
    waitedMs: cpuAfter.waited - cpuBefore.waited,
  };
  samples.push({
    row: row.name,
    contestant: contestant.kind.name,
    round,
    ...figures,
    counts: { ...difference(before, after), ...cpu },
    elections: after.term - before.term,
  });
}

async function measureFailovers(contestant: Contestant, signal: Signal): Promise<void> {
  const { name } = contestant.kind;
  for (let i = 1; i <= kills; i += 1) {
    progress(`${signal} to the leader of ${name}, ${i} of ${kills}`);
    const ms = await contestant.failover(signal);
    failovers.push({ contestant: name, signal, round: i, ms });
    await Bun.sleep(300 + 37 * i); // Vary the time since the last heartbeat.
  }
}

const wantedOf = ({ hasLoadInside }: Kind) =>
  rows.filter(({ name, via }) => name.includes(flags.rows) && (hasLoadInside || via !== "leader"));

async function warmUp(contestant: Contestant, round: number): Promise<void> {
  progress(`round ${round} of ${rounds}: ${contestant.kind.name} warms up`);
  const via = contestant.kind.hasLoadInside ? "leader" : "client";
  await contestant.measure({ via, op: "put", inFlight: 1 }, WARM_UP_MS / 2);
  await contestant.measure({ via: "client", op: "put", inFlight: 1 }, WARM_UP_MS / 4);
  await contestant.measure({ via: "client", op: "get", inFlight: 16 }, WARM_UP_MS / 4);
}

async function measureAll(kinds: readonly Kind[], directory: string): Promise<void> {
  for (let round = 1; round <= rounds; round += 1) {
    await measureLimits(round, directory);
    for (const kind of BARE.includes(flags.rows) ? kinds.filter((each) => each.bare) : []) {
      progress(`round ${round} of ${rounds}: ${kind.name}, ${BARE}`);
      bare.push({ contestant: kind.name, round, cpuUs: await measureBare(kind, directory, ms) });
    }
    for (const kind of kinds.filter((each) => wantedOf(each).length > 0)) {
      const contestant = await Contestant.start(kind, directory);
      await warmUp(contestant, round);
      for (const row of wantedOf(kind)) await measureRow(row, contestant, round);
      await contestant.end();
    }
  }
  for (const kind of signals.length > 0 ? kinds : []) {
    const contestant = await Contestant.start(kind, directory);
    for (const signal of signals) await measureFailovers(contestant, signal);
    await contestant.end();
  }
}

// ------------------------------------------ The table ------------------------------------------

const [FIRST, COLUMN] = [48, 42];
type Cell = { text: string; speed: number };
const NOTHING: Cell = { text: "", speed: Number.NaN };

function milliseconds(us: number): string {
  return us < 10_000 ? `${(us / 1000).toFixed(2)} ms` : `${(us / 1000).toFixed(0)} ms`;
}

function perSecond(n: number): string {
  return n < 10_000 ? `${Math.round(n)}/s` : `${(n / 1000).toFixed(n < 100_000 ? 1 : 0)} k/s`;
}

const latency = (all: readonly Figures[]) =>
  [median(all.map((f) => f.p50_us)), median(all.map((f) => f.p99_us))].map(milliseconds)
    .join(", p99 ");
const samplesOf = ({ name }: Row, contestant: string) =>
  samples.filter((sample) => sample.row === name && sample.contestant === contestant);

/** Returns the cell of a contestant in a row. A larger `speed` is better. */
function cell(row: Row, contestant: string): Cell {
  const own = samplesOf(row, contestant);
  if (own.length === 0) return NOTHING;
  const total = (of: (sample: Sample) => number) => own.reduce((sum, s) => sum + of(s), 0);
  const [failed, elections] = [total((s) => s.bad), total((s) => s.elections)];
  const notes = [
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(elections > 0 ? [`${elections} elections`] : []),
  ].map((note) => `, ${note}`).join("");
  const cpu = median(own.map(({ counts, ops }) => counts.cpuMs * 1000 / ops));
  const used = Number.isFinite(cpu) ? `, ${cpu.toFixed(0)} µs CPU` : "";
  const perSecondMedian = median(own.map((s) => s.per_s));
  return row.inFlight > 1
    ? {
      speed: perSecondMedian,
      text: `${perSecond(perSecondMedian)}, p99 ${
        milliseconds(median(own.map((s) => s.p99_us)))
      }${used}${notes}`,
    }
    : { speed: 1 / median(own.map((s) => s.p50_us)), text: `${latency(own)}${used}${notes}` };
}

function failoverCell(contestant: string, signal: Signal): Cell {
  const own = failovers.filter((f) => f.contestant === contestant && f.signal === signal)
    .map((f) => f.ms);
  if (own.length === 0) return NOTHING;
  const [least, most] = [Math.min(...own), Math.max(...own)];
  const text = `${median(own).toFixed(0)} ms (${least.toFixed(0)} to ${most.toFixed(0)})`;
  return { text, speed: 1 / median(own) };
}

function bareCell(contestant: string): Cell {
  const own = bare.filter((b) => b.contestant === contestant).map((b) => b.cpuUs);
  if (own.length === 0) return NOTHING;
  return { text: `${median(own).toFixed(1)} µs CPU`, speed: 1 / median(own) };
}

/** Returns a line of the table, or nothing if all cells are empty. */
function line(name: string, cells: readonly Cell[]): string[] {
  if (cells.every(({ text }) => text === "")) return [];
  const ratio = (cells[0]?.speed ?? Number.NaN) / (cells[1]?.speed ?? Number.NaN);
  const times = Number.isFinite(ratio) ? `${ratio.toFixed(2)}x` : "";
  const columns = cells.map(({ text }) => text.padEnd(COLUMN)).join("");
  return [`${name.padEnd(FIRST)}${columns}${times}`.trimEnd()];
}

const PLACES = {
  leader: "load in the leader",
  client: "load in a client",
  follower: "load in a client of a follower",
};

/** Returns a line with the cost of one commit for the leader. */
function costs(row: Row, contestant: string): string[] {
  const own = samplesOf(row, contestant);
  if (own.length === 0 || row.op !== "put" || row.via !== "leader") return [];
  const each = (of: (counts: Counts) => number) =>
    median(own.map(({ counts, ops }) => of(counts) / ops));
  const datagrams = each((c) => c.datagrams);
  const bytes = (each((c) => c.sentBytes) / datagrams).toFixed(0);
  const [syncs, written] = [
    each((c) => c.syncs).toFixed(3),
    each((c) => c.writtenBytes).toFixed(0),
  ];
  return [
    `${`  ${row.inFlight} in flight`.padEnd(FIRST)}${datagrams.toFixed(3)} datagrams of `
    + `${bytes} B, ${syncs} syncs, ${written} B written, `
    + `${each((c) => c.leaderCPUMs * 1000).toFixed(0)} µs CPU`,
  ];
}

/** Returns a note if other programs use the machine, which affects the systems differently. */
function busyNote(contestant: string): string[] {
  const own = samples.filter((sample) => sample.contestant === contestant);
  const share = median(own.map(({ counts }) => counts.waitedMs / ms));
  if (!(share > 0.1)) return [];
  return [
    "",
    `The leader waited for a CPU ${(share * 100).toFixed(0)} % of the time, because the machine is`,
    "busy. A busy machine favours the system with more threads, so compare CPU times instead.",
  ];
}

function limitLines(): string[] {
  return [...new Set(limits.map(({ what }) => what))].map((what) => {
    const all = limits.filter((limit) => limit.what === what).map((limit) => limit.figures);
    return `  ${what}`.padEnd(FIRST) + latency(all);
  });
}

function table(names: readonly string[], directory: string): string {
  const section = (via: Operation["via"]) => {
    const lines = rows.filter((row) => row.via === via).flatMap((row) =>
      line(`  ${row.what}`, names.map((name) => cell(row, name)))
    );
    return lines.length > 0
      ? [PLACES[via], ...lines]
      : [];
  };
  const spent = rows.flatMap((row) => costs(row, names[0] ?? ""));
  return [
    `Three processes, UDP on the loopback, values of 100 bytes, synced to ${fileSystem(directory)}`,
    `in ${path.dirname(directory)}. Medians of ${rounds} rounds. Latencies are p50 and p99; CPU is`,
    "of all three servers, for each operation.",
    "",
    "The limits of the machine",
    ...limitLines(),
    "",
    "".padEnd(FIRST) + names.map((name) => name.padEnd(COLUMN)).join("").trimEnd(),
    ...section("leader"),
    ...section("client"),
    ...section("follower"),
    ...signals.flatMap((signal) =>
      line(FAILOVERS[signal], names.map((name) => failoverCell(name, signal)))
    ),
    ...line(BARE, names.map(bareCell)),
    ...(spent.length > 0
      ? ["", "The cost of one commit for the leader, with the load in the leader"]
      : []),
    ...spent,
    ...busyNote(names[0] ?? ""),
    ...(flags.against === "etcd" ? ["", ...ETCD_NOTE] : []),
  ].join("\n");
}

const ETCD_NOTE = [
  "etcd is the installed package with its defaults. Its client is a Bun process, like that of",
  "raft.ts, and speaks gRPC on four connections to the leader. Load inside etcd's leader would need",
  "Go. A ratio above 1 favours raft.ts.",
];

let directory = "";
async function end(code: number): Promise<never> {
  await endAllProcesses();
  if (directory !== "") rmSync(directory, { recursive: true, force: true });
  process.exit(code);
}
for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(signal, () => void end(1));

/** Runs a command in a private network, where no other datagrams are dropped. */
const PRIVATE = ["unshare", ...(process.getuid?.() === 0 ? [] : ["--map-root-user"]), "--net"];
const IS_INSIDE = "RAFT_BENCH_HAS_OWN_NETWORK";

async function runPrivately(): Promise<number> {
  return await Bun.spawn([...PRIVATE, process.execPath, ...Bun.argv.slice(1)], {
    stdio: ["ignore", "inherit", "inherit"],
    env: { ...process.env, [IS_INSIDE]: "yes" },
  }).exited;
}

async function runGrowth(): Promise<void> {
  const findings: Finding[] = [];
  const found = (finding: Finding) => {
    findings.push(finding);
    progress("");
    if (!flags.json) console.log(`${finding.part.padEnd(11)}${finding.what}: ${finding.text}`);
  };
  const plan: Plan = { directory, ms, commands: Number(flags.commands), progress, found };
  if (flags.growth) await measureGrowth(plan);
  if (flags.loss) await measureLoss(plan);
  if (Number(flags.minutes) > 0) await measureSteadiness(plan, Number(flags.minutes));
  if (flags.json) console.log(JSON.stringify(findings, null, 1));
}

try {
  if (flags.loss && !process.env[IS_INSIDE]) await end(await runPrivately());
  const isGrowth = flags.growth || flags.loss || Number(flags.minutes) > 0;
  if (isGrowth) {
    directory = chooseDirectory(flags.directory);
    await runGrowth();
    await end(0);
  }
  const kinds = [ours(), ...opponent()];
  directory = chooseDirectory(flags.directory);
  await measureAll(kinds, directory);
  progress("");
  const names = kinds.map(({ name }) => name);
  const place = { fileSystem: fileSystem(directory), directory: path.dirname(directory) };
  console.log(
    flags.json
      ? JSON.stringify({ ...place, ms, limits, samples, failovers, bare }, null, 1)
      : table(names, directory),
  );
  await end(0);
} catch (error) {
  console.error((error as Error).message);
  await end(1);
}
