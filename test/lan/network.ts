/**
 * Simulates machines on a LAN by network namespaces, which are plugged into one bridge. They are
 * private to this run, and end with it, even if it is killed.
 */
import { readlinkSync } from "node:fs";
import path from "node:path";
import { Program, type Status } from "../support/processes.ts";

/** Runs a command in a private network. All processes in there end with this one. */
const PRIVATE = [
  "unshare",
  ...(process.getuid?.() === 0 ? [] : ["--map-root-user"]),
  "--net",
  "--mount",
  "--mount-proc",
  "--pid",
  "--fork",
  "--kill-child",
];

/** Returns why this machine cannot simulate a LAN, and the next step; undefined if it can. */
export function whyNoNetwork(): string | undefined {
  for (const tool of ["unshare", "nsenter", "ip", "iptables"]) {
    if (!Bun.which(tool)) {
      return `Cannot find '${tool}'. Run it on Linux with util-linux, iproute2 and iptables.`;
    }
  }
  const probe = Bun.spawnSync([...PRIVATE, "true"]);
  if (probe.success) return undefined;
  return `Cannot make a private network. Run it as root. (${`${probe.stderr}`.trim()})`;
}

/** Runs this program again in the private network, and returns its exit code. */
export async function runInside(env: Record<string, string>): Promise<number> {
  const child = Bun.spawn([...PRIVATE, process.execPath, ...process.argv.slice(1)], {
    env: { ...process.env, ...env },
    stdio: ["inherit", "inherit", "inherit"],
    ipc: () => {}, // The child ends when this channel closes, even if this process is killed.
  });
  for (const end of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.on(end, () => child.kill("SIGKILL"));
  }
  return await child.exited;
}

function command(...words: string[]): string {
  const { success, stdout, stderr } = Bun.spawnSync(words);
  if (!success) throw new Error(`${words.join(" ")}: ${stderr}`);
  return stdout.toString();
}
const ip = (...args: string[]) => command("ip", ...args);

export function makeBridge(): void {
  ip("link", "add", "lan0", "type", "bridge");
  ip("link", "set", "lan0", "up");
}

/** A machine and its cable to the bridge. */
export class Machine {
  readonly address: string;
  /** The interface number of the bridge's end of the cable. */
  readonly port: number;
  private readonly via: string[];

  private constructor(private readonly number: number, holder: number) {
    this.address = `10.0.0.${number}`;
    this.via = ["nsenter", `--net=/proc/${holder}/ns/net`];
    const cable = ["type", "veth", "peer", "name", "eth0", "netns", `${holder}`];
    ip("link", "add", `port${number}`, ...cable);
    ip("link", "set", `port${number}`, "master", "lan0", "up");
    for (
      const line of [`addr add ${this.address}/24 dev eth0`, "link set eth0 up", "link set lo up"]
    ) command(...this.via, "ip", ...line.split(" "));
    const [{ ifindex }] = JSON.parse(ip("-json", "link", "show", `port${number}`));
    this.port = ifindex;
  }

  static async create(number: number): Promise<Machine> {
    const holder = Bun.spawn(["unshare", "--net", "sleep", "infinity"]).pid;
    const ours = readlinkSync("/proc/self/ns/net");
    while (readlinkSync(`/proc/${holder}/ns/net`) === ours) await Bun.sleep(5);
    return new Machine(number, holder);
  }

  /** Starts `bun cli.ts` with these arguments on this machine. */
  start(...args: string[]): Program {
    return new Program(args, {}, this.via);
  }

  /** Runs `bun cli.ts` with these arguments on this machine, and waits for its end. */
  async run(...args: string[]): Promise<{ code: number; output: string; errors: string }> {
    const program = this.start(...args);
    const code = await program.exited;
    await program.closed;
    return { code, output: program.output.trim(), errors: program.errors.trim() };
  }

  /** Runs a system command on this machine. */
  command(...words: string[]): string {
    return command(...this.via, ...words);
  }

  /** Returns the statuses of servers, asked from this machine. */
  async inspect(secretFile: string, servers: readonly string[]): Promise<Status[]> {
    const script = path.join(import.meta.dir, "inspect.ts");
    const words = [...this.via, process.execPath, script, secretFile, ...servers];
    const child = Bun.spawn(words, { stdio: ["ignore", "pipe", "inherit"] });
    return JSON.parse(await new Response(child.stdout).text());
  }

  unplug(): void {
    ip("link", "set", `port${this.number}`, "down");
  }

  plug(): void {
    ip("link", "set", `port${this.number}`, "up");
  }
}
