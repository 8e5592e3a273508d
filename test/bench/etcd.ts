/**
 * Implements etcd's `Put` and `Range` over gRPC, which is protocol buffers in HTTP/2. The JSON
 * gateway is simpler, but costs etcd another hop, which would be unfair.
 */
import http2 from "node:http2";
import type { Store } from "./load.ts";

/** Encodes a field of a protocol buffer: its number, its length, its bytes. */
function field(number: number, bytes: Uint8Array): Buffer {
  const length: number[] = [];
  for (let rest = bytes.length; length.length === 0 || rest > 0; rest >>>= 7) {
    length.push(rest > 127 ? (rest & 127) | 128 : rest & 127);
  }
  return Buffer.concat([Buffer.from([(number << 3) | 2, ...length]), bytes]);
}

/** Encodes an uncompressed gRPC message. */
function frame(...fields: Buffer[]): Buffer {
  const message = Buffer.concat(fields);
  const prefix = Buffer.alloc(5);
  prefix.writeUInt32BE(message.length, 1);
  return Buffer.concat([prefix, message]);
}

const CONNECTIONS = 4;

export class Etcd implements Store {
  private readonly sessions: http2.ClientHttp2Session[];
  private inFlight = 0;

  constructor(server: string) {
    this.sessions = Array.from({ length: CONNECTIONS }, () => http2.connect(`http://${server}`));
  }

  put(key: Uint8Array, value: Uint8Array): Promise<unknown> {
    return this.call("/etcdserverpb.KV/Put", frame(field(1, key), field(2, value)));
  }

  /** Reads a value. Linearizable, which is etcd's default. */
  get(key: Uint8Array): Promise<unknown> {
    return this.call("/etcdserverpb.KV/Range", frame(field(1, key)));
  }

  private async call(path: string, body: Buffer): Promise<void> {
    // If only one call is in flight at a time, all calls use the first connection.
    const session = this.sessions[this.inFlight % CONNECTIONS];
    if (!session) throw new Error("Cannot find a connection to etcd.");
    this.inFlight += 1;
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const stream = session.request({
      ":method": "POST",
      ":path": path,
      "content-type": "application/grpc",
      te: "trailers",
    });
    let status: unknown;
    const take = (headers: http2.IncomingHttpHeaders) => status = headers["grpc-status"] ?? status;
    stream.on("response", take).on("trailers", take).on("data", () => {}).on("error", reject);
    stream.on("end", () => status === "0" ? resolve() : reject(new Error(`status ${status}`)));
    stream.end(body);
    await promise.finally(() => this.inFlight -= 1);
  }
}
