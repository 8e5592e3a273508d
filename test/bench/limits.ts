#!/usr/bin/env bun
/**
 * Measures the limits of the machine, without Raft: the round trip of a datagram to another
 * process, a sync of 150 bytes, and both together, which is a commit if the leader never changes
 * and nothing fails.
 *
 * This file is also the program of the other process: `limits.ts echo`, `limits.ts sync DIRECTORY`,
 * or `limits.ts follow DIRECTORY`.
 */
import dgram from "node:dgram";
import fs from "node:fs";
import path from "node:path";
import { endWithParent, type Figures, figures } from "./load.ts";

/** About the size of a command of 100 bytes in the log and on the wire. */
const BYTES = 150;
const TRIES = 2000;

async function bind(): Promise<dgram.Socket> {
  const socket = dgram.createSocket("udp4");
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.bind(0, "127.0.0.1", resolve);
  await promise;
  return socket;
}

/** Runs this file as a program. Resolves to its first message. */
async function start(...args: string[]): Promise<{ said: unknown; child: Bun.Subprocess }> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const child = Bun.spawn([process.execPath, import.meta.path, ...args], {
    stdio: ["ignore", "ignore", "inherit"],
    ipc: resolve,
    onExit: (_, code) => reject(new Error(`limits.ts ${args.join(" ")} ended with ${code}`)),
  });
  return { said: await promise, child };
}

/** Measures UDP on the loopback, one datagram at a time. */
export async function roundTrips(): Promise<Figures> {
  const { said: port, child } = await start("echo");
  const socket = await bind();
  const latencies: number[] = [];
  const beganAt = performance.now();
  while (latencies.length < TRIES) {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const sentAt = performance.now();
    socket.once("message", resolve).send(Buffer.alloc(BYTES), Number(port), "127.0.0.1");
    // A lost datagram is sent again, and the wait counts.
    while (await Promise.race([promise, Bun.sleep(1000)]) === undefined) {
      socket.send(Buffer.alloc(BYTES), Number(port), "127.0.0.1");
    }
    latencies.push(performance.now() - sentAt);
  }
  socket.close();
  child.kill();
  await child.exited;
  return figures(latencies, 0, performance.now() - beganAt);
}

/** Measures appends with syncs, in several processes at once. The file has room, like a log. */
export async function syncs(directory: string, processes: number): Promise<Figures> {
  const started = await Promise.all(
    Array.from({ length: processes }, () => start("sync", directory)),
  );
  return started[0]?.said as Figures;
}

/**
 * Measures commits by a leader that never changes. The leader sends to two followers, all three
 * append and sync, and the commit is complete when the leader and one follower have synced.
 */
export async function commits(directory: string): Promise<Figures> {
  const followers = await Promise.all([1, 2].map(() => start("follow", directory)));
  const [socket, file] = [await bind(), openFile(directory)];
  let last = -1;
  let onAnswer = () => {};
  socket.on("message", (bytes) => {
    last = Math.max(last, bytes.readUInt32BE());
    onAnswer();
  });
  const latencies: number[] = [];
  let beganAt = 0;
  for (let i = 0; i < 2 * TRIES; i += 1) {
    if (i === TRIES) beganAt = performance.now(); // The first half is the warm-up.
    const sentAt = performance.now();
    const bytes = Buffer.alloc(BYTES, 1);
    bytes.writeUInt32BE(i);
    const send = () => {
      for (const { said: port } of followers) socket.send(bytes, Number(port), "127.0.0.1");
    };
    send();
    file.append(bytes);
    while (last < i) {
      const answer = new Promise<boolean>((resolve) => onAnswer = () => resolve(true));
      if (!await Promise.race([answer, Bun.sleep(1000)])) send(); // Retransmit, as above.
    }
    if (i >= TRIES) latencies.push(performance.now() - sentAt);
  }
  const elapsedMs = performance.now() - beganAt;
  for (const { child } of followers) child.kill();
  await Promise.all(followers.map(({ child }) => child.exited));
  socket.close();
  file.remove();
  return figures(latencies, 0, elapsedMs);
}

function openFile(directory: string) {
  const name = path.join(directory, `sync-${process.pid}`);
  const fd = fs.openSync(name, "w");
  fs.ftruncateSync(fd, 2 * TRIES * BYTES);
  fs.fsyncSync(fd);
  let end = 0;
  return {
    append(bytes: Buffer) {
      end += fs.writeSync(fd, bytes, 0, bytes.length, end);
      fs.fdatasyncSync(fd);
    },
    remove() {
      fs.closeSync(fd);
      fs.rmSync(name);
    },
  };
}

function measureSyncs(directory: string): Figures {
  const file = openFile(directory);
  const latencies: number[] = [];
  const beganAt = performance.now();
  for (let i = 0; i < TRIES; i += 1) {
    const writtenAt = performance.now();
    file.append(Buffer.alloc(BYTES, 1));
    latencies.push(performance.now() - writtenAt);
  }
  file.remove();
  return figures(latencies, 0, performance.now() - beganAt);
}

if (import.meta.main) {
  endWithParent();
  const [, , what, directory = ""] = Bun.argv;
  if (what === "sync") {
    process.send?.(measureSyncs(directory));
    process.disconnect?.();
  } else {
    const socket = await bind();
    const file = what === "follow" ? openFile(directory) : undefined;
    socket.on("message", (bytes, from) => {
      file?.append(bytes);
      socket.send(bytes, from.port, from.address);
    });
    process.send?.(socket.address().port);
  }
}
