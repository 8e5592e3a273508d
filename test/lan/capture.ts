/**
 * Captures every frame that passes the bridge, and can replay it to its receiver from its original
 * address. Bun has no raw sockets, so this file calls those of the C library.
 */
import { dlopen, FFIType } from "bun:ffi";
import type { Machine } from "./network.ts";

const { i32, i64_fast, u64_fast, ptr } = FFIType;
const message = { args: [i32, ptr, u64_fast, i32, ptr], returns: i64_fast } as const;
const { symbols: libc } = dlopen("libc.so.6", {
  socket: { args: [i32, i32, i32], returns: i32 },
  recvfrom: { args: [...message.args, ptr], returns: i64_fast },
  sendto: { args: [...message.args, i32], returns: i64_fast },
});

const [AF_PACKET, SOCK_RAW, MSG_DONTWAIT, ALL_PROTOCOLS] = [17, 3, 0x40, 0x0003];
const OUTGOING = 4;
const IPV4 = 0x0800;
const POLL_MS = 2;
const networkOrder = (short: number) => ((short & 0xff) << 8) | (short >> 8);

/** A UDP datagram as it was on the cable. Fragments are not captured. */
export type Frame = {
  readonly bytes: Buffer;
  readonly payload: Buffer;
  readonly from: string;
  readonly to: string;
};

/** Returns the unfragmented IPv4 UDP datagram in an Ethernet frame, if the frame contains one. */
function readFrame(bytes: Buffer): Frame | undefined {
  const [isIPv4, isUdp] = [bytes.readUInt16BE(12) === IPV4, bytes[23] === 17];
  if (!isIPv4 || !isUdp || (bytes.readUInt16BE(20) & 0x3fff) !== 0) return undefined;
  const udp = 14 + ((bytes[14] ?? 0) & 15) * 4;
  const host = (at: number) => [...bytes.subarray(at, at + 4)].join(".");
  const payload = bytes.subarray(udp + 8, udp + bytes.readUInt16BE(udp + 4));
  // A sender leaves the checksum to its network card, but a veth pair has none. The value 0 means
  // that there is no checksum. With a wrong one the receiver's kernel drops the replayed frame.
  const copy = Buffer.from(bytes);
  copy.writeUInt16BE(0, udp + 6);
  return {
    bytes: copy,
    payload,
    from: `${host(26)}:${bytes.readUInt16BE(udp)}`,
    to: `${host(30)}:${bytes.readUInt16BE(udp + 2)}`,
  };
}

export class Capture {
  /** All frames that the machines have sent, without the replayed ones. */
  readonly frames: Frame[] = [];
  /** How many fragments of datagrams they have sent. */
  fragments = 0;
  private readonly socket = libc.socket(AF_PACKET, SOCK_RAW, networkOrder(ALL_PROTOCOLS));
  private readonly buffer = Buffer.alloc(65_536);
  /** A `sockaddr_ll`: the interface is at byte 4, the direction of the frame at byte 10. */
  private readonly address = Buffer.alloc(20);
  /** The bridge's port to each address. */
  private readonly ports: Map<string, number>;

  constructor(machines: readonly Machine[]) {
    this.ports = new Map(machines.map(({ address, port }) => [address, port]));
    if (this.socket < 0) throw new Error("Cannot open a raw socket. Run it as root.");
    setInterval(() => this.poll(), POLL_MS).unref();
  }

  /** Sends a captured frame once more, to its receiver only. */
  replay({ bytes, to }: Frame): void {
    const address = Buffer.alloc(20);
    address.writeUInt16LE(AF_PACKET, 0);
    address.writeInt32LE(this.ports.get(to.replace(/:.*/, "")) ?? 0, 4);
    const sent = libc.sendto(this.socket, bytes, bytes.length, 0, address, address.length);
    if (Number(sent) !== bytes.length) throw new Error(`Cannot replay a frame to ${to}.`);
  }

  /**
   * Reads the frames that have passed. Each passes two ports, and is kept only where it came in.
   */
  private poll(): void {
    const ports = new Set(this.ports.values());
    const length = Buffer.from(Uint32Array.of(this.address.length).buffer);
    for (;;) {
      const size = Number(
        libc.recvfrom(
          this.socket,
          this.buffer,
          this.buffer.length,
          MSG_DONTWAIT,
          this.address,
          length,
        ),
      );
      if (size < 0) return;
      if (this.address[10] === OUTGOING || !ports.has(this.address.readInt32LE(4))) continue;
      const isIPv4 = this.buffer.readUInt16BE(12) === IPV4;
      if (isIPv4 && (this.buffer.readUInt16BE(20) & 0x3fff) !== 0) this.fragments += 1;
      const frame = readFrame(Buffer.from(this.buffer.subarray(0, size)));
      if (frame) this.frames.push(frame);
    }
  }
}
