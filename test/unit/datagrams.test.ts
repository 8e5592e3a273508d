/**
 * Tests what Part II expects of UDP, with real sockets on the loopback interface: a closed port
 * costs an open one nothing, a probe tells them apart, and addresses are parsed and resolved. Each
 * test waits for events, so a busy machine only makes it slower.
 */
import {
  afterAll,
  afterEach,
  beforeAll,
  describe,
  expect,
  setDefaultTimeout,
  test,
} from "bun:test";
import dgram from "node:dgram";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { networkInterfaces, tmpdir } from "node:os";
import {
  type Address,
  Client,
  KeyValues,
  KeyValueStore,
  Node,
  parseServer,
  RaftError,
  type Socket,
  systemWorld,
} from "../../raft.ts";
import { PATIENCE_MS } from "../support/thorough.ts";

setDefaultTimeout(PATIENCE_MS);

const { datagrams } = systemWorld;
const HOST = "127.0.0.1";
/** How long a datagram that has not arrived may still be on its way. */
const LOST_MS = 10_000;
const closing: (() => void)[] = [];
afterEach(() => {
  for (const close of closing.splice(0)) close();
});

/** Returns a free port. The system hands out ports in turn, so this one stays free for a while. */
async function freePort(): Promise<number> {
  const socket = dgram.createSocket("udp4");
  await new Promise<void>((resolve) => socket.bind(0, HOST, resolve));
  const { port } = socket.address();
  await new Promise<void>((resolve) => socket.close(resolve));
  return port;
}

async function bind(port: number, receive: (bytes: Buffer) => void = () => {}): Promise<Socket> {
  const socket = await datagrams.bind({ host: HOST, port }, receive);
  closing.push(() => socket.close());
  return socket;
}

/** Binds a port. Returns it, and a promise of the first `count` texts that arrive there. */
async function expectTexts(count: number): Promise<{ port: number; texts: Promise<string[]> }> {
  const { promise: texts, resolve } = Promise.withResolvers<string[]>();
  const received: string[] = [];
  const port = await freePort();
  await bind(port, (bytes) => {
    received.push(bytes.toString());
    if (received.length === count) resolve(received);
  });
  const timer = setTimeout(() => resolve(received), LOST_MS);
  closing.push(() => clearTimeout(timer));
  return { port, texts };
}

async function rejection(promise: Promise<unknown>): Promise<RaftError> {
  const error = await promise.then(() => undefined, (reason: unknown) => reason);
  if (error instanceof RaftError) return error;
  throw new Error(`The promise must be rejected with a RaftError, not: ${error}`);
}

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

/**
 * Sends datagrams in a pattern, 20 times: D to a closed port, L to the open one; a point lets the
 * event loop turn. Resolves to the number of datagrams that the open port did not receive.
 */
async function countLost(pattern: string): Promise<number> {
  const rounds = 20;
  const sent = rounds * pattern.split("").filter((letter) => letter === "L").length;
  const { port, texts } = await expectTexts(sent);
  const closedPorts = [await freePort(), await freePort(), await freePort()];
  const socket = await bind(0);
  for (let round = 0; round < rounds; round += 1) {
    for (const [i, letter] of pattern.split("").entries()) {
      if (letter === ".") await turn();
      else {
        const to = letter === "L" ? port : closedPorts[i % closedPorts.length] ?? port;
        socket.send(Buffer.from(`${round}.${i}`), { host: HOST, port: to });
      }
    }
    for (let i = 0; i < 5; i += 1) await turn();
  }
  return sent - new Set(await texts).size;
}

describe("datagrams to a closed port cost an open port no datagram (catalogue 45)", () => {
  test.each(["DL", "LDL", "DDL", "DDLL", "LDDL", "DLDL", "D.L", "D.DL", "DD.L", "D.LDL"])(
    "when they leave in the order %p",
    async (pattern) => {
      expect(await countLost(pattern)).toBe(0);
    },
  );

  test("when they leave in the order DDDLL", async () => {
    expect(await countLost("DDDLL")).toBe(0);
  });

  test("when they leave in the order DLD.L", async () => {
    expect(await countLost("DLD.L")).toBe(0);
  });

  test("when fifty to each port leave in one turn", async () => {
    expect(await countLost("DL".repeat(50))).toBe(0);
  });
});

describe("a socket", () => {
  test("has a receive buffer as large as the system allows, up to 4 MiB", async () => {
    const { receiveBufferBytes } = await bind(0);
    const limit = "/proc/sys/net/core/rmem_max";
    const allowed = existsSync(limit) ? Number(readFileSync(limit, "utf8")) : 0;
    expect(receiveBufferBytes).toBeGreaterThanOrEqual(Math.min(4 << 20, allowed));
  });

  test("carries 65,507 bytes, and silently loses larger or undeliverable datagrams", async () => {
    const { port, texts } = await expectTexts(2);
    const socket = await bind(0);
    socket.send(Buffer.alloc(65_508, "x"), { host: HOST, port });
    socket.send(Buffer.from("y"), { host: "255.255.255.255", port });
    socket.send(Buffer.alloc(65_507, "x"), { host: HOST, port });
    socket.send(Buffer.from("the end"), { host: HOST, port });
    expect((await texts).map(({ length }) => length)).toEqual([65_507, 7]);
  });

  test("passes the sender's address with each datagram, so that a reply reaches it", async () => {
    const { port, texts } = await expectTexts(1);
    const echo = await freePort();
    const replier = await datagrams.bind({ host: HOST, port: echo }, (bytes, from) => {
      replier.send(Buffer.from(`${bytes} back`), from);
    });
    closing.push(() => replier.close());
    // The reply must reach the first socket, which then sends the final text.
    const requester = dgram.createSocket("udp4");
    closing.push(() => requester.close());
    requester.on("message", (bytes) => requester.send(bytes, port, HOST));
    requester.send("there and", echo, HOST);
    expect(await texts).toEqual(["there and back"]);
  });

  test("gives each datagram a buffer of its own, which may be kept", async () => {
    const received: Buffer[] = [];
    const { promise, resolve } = Promise.withResolvers<void>();
    const port = await freePort();
    await bind(port, (bytes) => void (received.push(bytes) === 3 && resolve()));
    const socket = await bind(0);
    for (const text of ["one", "two", "three"]) {
      socket.send(Buffer.from(text), { host: HOST, port });
    }
    await promise;
    expect(received.map(String).toSorted()).toEqual(["one", "three", "two"]);
  });
});

/** Probes a port, and resolves when the probe is refused. */
function untilRefused(socket: Socket, port: number, host = HOST): Promise<void> {
  return new Promise((resolve) => socket.probePort({ host, port }, resolve));
}

/**
 * Returns whether a probe is refused. Silence alone proves nothing, so a second socket then probes
 * a closed port, twice: once it is refused, a refusal of the first probe would have arrived too.
 */
async function isRefused(socket: Socket, port: number, host = HOST): Promise<boolean> {
  let count = 0;
  socket.probePort({ host, port }, () => count += 1);
  for (let i = 0; i < 2; i += 1) await untilRefused(controlSocket, await freePort());
  return count > 0;
}

let controlSocket: Socket;
const openFiles = () => existsSync("/proc/self/fd") ? readdirSync("/proc/self/fd").length : 0;

/**
 * Resolves once no more than `limit` files are open: a socket is closed some turns after the call.
 */
async function untilOpenFiles(limit: number): Promise<void> {
  while (openFiles() > limit) await Bun.sleep(1);
}

describe("a probe", () => {
  beforeAll(async () => {
    controlSocket = await datagrams.bind({ host: HOST, port: 0 }, () => {});
  });
  afterAll(() => controlSocket.close());

  test("of a closed port is refused, every time", async () => {
    const socket = await bind(0);
    const port = await freePort();
    for (let i = 0; i < 5; i += 1) await untilRefused(socket, port);
  });

  test("of an open port delivers an empty datagram, and is not refused", async () => {
    const received = Promise.withResolvers<number>();
    const port = await freePort();
    await bind(port, ({ length }) => received.resolve(length));
    expect(await isRefused(await bind(0), port)).toBe(false);
    expect(await received.promise).toBe(0);
  });

  test("of a stopped process's port is refused only once that process is killed", async () => {
    const port = await freePort();
    const script = `const socket = require("node:dgram").createSocket("udp4");
      socket.bind(${port}, "${HOST}", () => console.log("here"));`;
    const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe" });
    closing.push(() => child.kill("SIGKILL"));
    await child.stdout.getReader().read();
    const socket = await bind(0);
    child.kill("SIGSTOP");
    expect(await isRefused(socket, port)).toBe(false);
    child.kill("SIGKILL");
    await child.exited;
    await untilRefused(socket, port);
  });

  test("of an unreachable address or an invalid port is not refused, and throws no error", async () => {
    const socket = await bind(0);
    expect(await isRefused(socket, 9, "255.255.255.255")).toBe(false);
    expect(await isRefused(socket, 9, "fe80::1%missing")).toBe(false);
    expect(await isRefused(socket, 0)).toBe(false);
    socket.send(Buffer.from("x"), { host: HOST, port: 0 }); // As in a reply to a forged source.
  });

  test("reaches an IPv6 address, too", async () => {
    if (!hasIPv6) return;
    await untilRefused(await bind(0), await freePort(), "::1");
  });

  test("leaves one socket open until the next, and calls nothing back after its own socket is closed", async () => {
    const socket = await datagrams.bind({ host: HOST, port: 0 }, () => {});
    const [port, closed] = [await freePort(), await freePort()];
    await bind(port);
    await untilRefused(controlSocket, closed); // Its last probe stays open, too.
    const before = openFiles();
    for (let i = 0; i < 20; i += 1) await untilRefused(socket, closed);
    await untilOpenFiles(before + 1);
    for (let i = 0; i < 20; i += 1) expect(await isRefused(socket, port)).toBe(false);
    await untilOpenFiles(before + 1);
    let late = 0;
    socket.probePort({ host: HOST, port: closed }, () => late += 1);
    socket.close();
    for (let i = 0; i < 2; i += 1) await untilRefused(controlSocket, closed);
    expect(late).toBe(0);
    await untilOpenFiles(before - 1);
  });
});

describe("a socket that cannot be bound fails with the reason", () => {
  test("if another process has the port", async () => {
    const port = await freePort();
    await bind(port);
    const { code, message } = await rejection(bind(port));
    expect(code).toBe("network");
    expect(message).toBe(
      `Cannot listen on ${HOST}:${port}: another process has that port. `
        + "Stop it, or use another port.",
    );
  });

  test("if no interface has the address, with the addresses that they have", async () => {
    const { code, message } = await rejection(
      datagrams.bind({ host: "203.0.113.7", port: 9 }, () => {}),
    );
    expect(code).toBe("network");
    expect(message).toStartWith(
      "Cannot listen on 203.0.113.7:9: no network interface has that "
        + "address. Use one of ",
    );
    expect(message).toContain(`${HOST}, `);
    expect(message).toEndWith("or 0.0.0.0.");
  });

  test("if the name does not resolve", async () => {
    const { code, message } = await rejection(
      datagrams.bind({ host: "missing.invalid", port: 9 }, () => {}),
    );
    expect(code).toBe("network");
    expect(message).toStartWith("Cannot listen on missing.invalid:9: ");
  });
});

describe("an address", () => {
  test.each([
    ["10.0.0.1:48000", { name: "10.0.0.1:48000", host: "10.0.0.1", port: 48_000 }],
    ["localhost:1", { name: "localhost:1", host: "localhost", port: 1 }],
    ["a=10.0.0.1:65535", { name: "a", host: "10.0.0.1", port: 65_535 }],
    ["[::1]:48000", { name: "[::1]:48000", host: "::1", port: 48_000 }],
    ["a=[fe80::1%eth0]:1", { name: "a", host: "fe80::1%eth0", port: 1 }],
  ])("%s is parsed", (text, server) => {
    expect(parseServer(text)).toEqual(server);
  });

  test.each([
    "",
    "a",
    "a:",
    ":1",
    "a:0",
    "a:65536",
    "a:-1",
    "a:1.5",
    "a:1e3",
    "a:99999",
    "::1:1",
    "[::1]",
    "[]:1",
    "[::1:1",
    "::1]:1",
    "[[::1]]:1",
    "=a:1",
    "a=b=c:1",
    "a b:1",
    "a:1,b:1",
    "a:1 ",
  ])("%p is refused with the right format", (text) => {
    expect(() => parseServer(text)).toThrow(
      `"${text}" is not the address of a server. Write HOST:PORT, or NAME=HOST:PORT, with a port `
        + "from 1 to 65535; an IPv6 address as in [::1]:48000.",
    );
  });

  test("with a name or host of more than 255 bytes is refused with that limit", () => {
    const [long, longest] = ["ü".repeat(128), `${"ü".repeat(127)}!`];
    expect(parseServer(`${longest}=${longest}:1`)).toMatchObject({ name: longest, host: longest });
    for (const text of [`${long}=a:1`, `${long}:1`, `a=${long}:1`]) {
      expect(() => parseServer(text)).toThrow("A name or host has at most 255 bytes.");
    }
  });

  test("resolves to IPv4 if possible, and to the family of the local address", async () => {
    expect(await datagrams.resolve("localhost")).toBe("127.0.0.1");
    expect(await datagrams.resolve("localhost", "10.0.0.1")).toBe("127.0.0.1");
    expect(await datagrams.resolve("::1")).toBe("::1");
    expect(await datagrams.resolve("::1", "fe80::1")).toBe("::1");
    const message = (host: string, local: string) =>
      datagrams.resolve(host, local).then(() => "resolved", (error: Error) => error.message);
    expect(await message("::1", "127.0.0.1")).toBe("::1 is ::1, and 127.0.0.1 reaches IPv4 only");
    expect(await message("10.0.0.1", "::1")).toBe(
      "10.0.0.1 is 10.0.0.1, and ::1 reaches IPv6 only",
    );
    // On Linux a socket at :: reaches both families, and prefers IPv6.
    const isLinux = process.platform === "linux";
    expect(await message("::1", "::")).toBe("resolved");
    expect(await message("10.0.0.1", "::"))
      .toBe(isLinux ? "resolved" : "10.0.0.1 is 10.0.0.1, and :: reaches IPv6 only");
    expect(await message("missing.invalid", "127.0.0.1")).toMatch(/ENOTFOUND|EAI_AGAIN/);
  });
});

/** Whether this machine has IPv6. Without it, binding an IPv6 address fails with a RaftError. */
const hasIPv6 = Object.values(networkInterfaces()).flat().some((own) => own?.address === "::1");

test("a server and a client talk over IPv6", async () => {
  const directory = mkdtempSync(`${tmpdir()}/raft-ipv6-`);
  closing.push(() => rmSync(directory, { recursive: true }));
  const port = await freePort();
  const starting = Node.start({
    host: "::1",
    port,
    peers: [],
    directory,
    machine: new KeyValueStore(),
  });
  if (!hasIPv6) {
    expect((await rejection(starting)).message).toStartWith(`Cannot listen on [::1]:${port}: `);
    return;
  }
  const node = await starting;
  closing.push(() => void node.stop());
  expect(node.status().name).toBe(`[::1]:${port}`);
  const client = await Client.connect({ servers: [`[::1]:${port}`] });
  closing.push(() => client.close());
  const values = new KeyValues(client);
  await values.put(Buffer.from("key"), Buffer.from("value"));
  expect(await values.get(Buffer.from("key"))).toEqual(new Uint8Array(Buffer.from("value")));
});

test.skipIf(!hasIPv6 || process.platform !== "linux")(
  "a server at :: exchanges datagrams with IPv4 addresses, and shows them as IPv4",
  async () => {
    const sender = Promise.withResolvers<Address>();
    const [everywhere, ipv4] = [{ host: "::", port: await freePort() }, {
      host: "127.0.0.1",
      port: 0,
    }];
    const socket = await datagrams.bind(everywhere, (_, from) => sender.resolve(from));
    const echo = Promise.withResolvers<string>();
    const other = await datagrams.bind(ipv4, (bytes) => echo.resolve(`${bytes}`));
    closing.push(() => socket.close(), () => other.close());
    other.send(Buffer.from("hello"), { host: "127.0.0.1", port: everywhere.port });
    const from = await sender.promise;
    expect(from.host).toBe("127.0.0.1");
    socket.send(Buffer.from("hello back"), from);
    expect(await echo.promise).toBe("hello back");
  },
);

test("an IPv6 address that no interface has is refused, with those that they have", async () => {
  const { code, message } = await rejection(
    datagrams.bind({ host: "2001:db8::1", port: 9 }, () => {}),
  );
  expect(code).toBe("network");
  if (!hasIPv6) return;
  expect(message).toStartWith(
    "Cannot listen on [2001:db8::1]:9: no network interface has that "
      + "address. Use one of ::1, ",
  );
  expect(message).toEndWith("or ::.");
  expect(message).not.toContain(HOST);
});

test("a client can be closed before the end of its block, which closes it again", async () => {
  await using client = await Client.connect({ servers: [`127.0.0.1:${await freePort()}`] });
  client.close();
  expect(await rejection(client.read(new Uint8Array()))).toMatchObject({ code: "closed" });
});

test("a client that is closed right after a request throws no later error", async () => {
  const script = `import { Client } from ${JSON.stringify(`${import.meta.dir}/../../raft.ts`)};
    const client = await Client.connect({ servers: ["127.0.0.1:${await freePort()}"] });
    const asked = client.read(new Uint8Array()).catch((error) => error.code);
    client.close();
    console.log(await asked);`;
  const child = Bun.spawn([process.execPath, "-e", script], { stdout: "pipe", stderr: "pipe" });
  const [out, err, code] = await Promise.all([
    new Response(child.stdout).text(),
    new Response(child.stderr).text(),
    child.exited,
  ]);
  expect({ out, err, code }).toEqual({ out: "closed\n", err: "", code: 0 });
});
