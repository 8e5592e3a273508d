#!/usr/bin/env bun
/**
 * What this machine gives to anybody, without Raft: how long a datagram takes to another process
 * and back, and how long 150 bytes take to the disk. Nothing here that waits for both is faster.
 *
 * As a program it is the other process: `limits.ts echo`, or `limits.ts sync DIRECTORY`.
 */
import dgram from "node:dgram";
import fs from "node:fs";
import path from "node:path";
import { endWithParent, type Figures, figures } from "./load.ts";

/** About a command of 100 bytes, with what the log and the wire add to it. */
const BYTES = 150;
const TRIES = 2000;

async function bind(): Promise<dgram.Socket> {
  const socket = dgram.createSocket("udp4");
  const { promise, resolve } = Promise.withResolvers<void>();
  socket.bind(0, "127.0.0.1", resolve);
  await promise;
  return socket;
}

/** Runs this file as a program. Resolves when it says its first word. */
async function start(...args: string[]): Promise<{ said: unknown; child: Bun.Subprocess }> {
  const { promise, resolve, reject } = Promise.withResolvers<unknown>();
  const child = Bun.spawn([process.execPath, import.meta.path, ...args], {
    stdio: ["ignore", "ignore", "inherit"],
    ipc: resolve,
    onExit: (_, code) => reject(new Error(`limits.ts ${args.join(" ")} ended with ${code}`)),
  });
  return { said: await promise, child };
}

/** UDP on the loopback, one datagram at a time. */
export async function roundTrips(): Promise<Figures> {
  const { said: port, child } = await start("echo");
  const socket = await bind();
  const latencies: number[] = [];
  const beganAt = performance.now();
  while (latencies.length < TRIES) {
    const { promise, resolve } = Promise.withResolvers<unknown>();
    const sentAt = performance.now();
    socket.once("message", resolve).send(Buffer.alloc(BYTES), Number(port), "127.0.0.1");
    // One that was lost is sent again, and its wait counts.
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

/** Append and sync, in as many processes at once. The file has room, as a log of raft.ts has. */
export async function syncs(directory: string, processes: number): Promise<Figures> {
  const started = await Promise.all(
    Array.from({ length: processes }, () => start("sync", directory)),
  );
  return started[0]?.said as Figures;
}

function measureSyncs(directory: string): Figures {
  const file = path.join(directory, `sync-${process.pid}`);
  const fd = fs.openSync(file, "w");
  fs.ftruncateSync(fd, TRIES * BYTES);
  fs.fsyncSync(fd);
  const latencies: number[] = [];
  const beganAt = performance.now();
  for (let i = 0; i < TRIES; i += 1) {
    const writtenAt = performance.now();
    fs.writeSync(fd, Buffer.alloc(BYTES, 1), 0, BYTES, i * BYTES);
    fs.fdatasyncSync(fd);
    latencies.push(performance.now() - writtenAt);
  }
  fs.closeSync(fd);
  fs.rmSync(file);
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
    socket.on("message", (bytes, from) => socket.send(bytes, from.port, from.address));
    process.send?.(socket.address().port);
  }
}
