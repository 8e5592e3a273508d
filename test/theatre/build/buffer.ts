/**
 * Stands in for Node's Buffer in a browser: what Part I and the simulation call, and no more. The
 * results are the same, byte for byte.
 */

const encoder = new TextEncoder();
const decoder = new TextDecoder();

class Bytes extends Uint8Array {
  /** Returns the text of these bytes: UTF-8 or hexadecimal. */
  override toString(encoding: "utf8" | "hex" = "utf8"): string {
    if (encoding === "utf8") return decoder.decode(this);
    return Array.from(this, (byte) => byte.toString(16).padStart(2, "0")).join("");
  }

  equals(other: Uint8Array): boolean {
    return this.length === other.length && this.every((byte, i) => byte === other[i]);
  }

  readUInt8(offset = 0): number {
    return this.readUIntBE(offset, 1);
  }

  readUInt32BE(offset = 0): number {
    return this.readUIntBE(offset, 4);
  }

  readUIntBE(offset: number, length: number): number {
    if (offset + length > this.length) throw new RangeError("Cannot read: the bytes end before.");
    let value = 0;
    for (const byte of this.subarray(offset, offset + length)) value = value * 256 + byte;
    return value;
  }

  writeUInt32BE(value: number, offset = 0): number {
    return this.writeUIntBE(value, offset, 4);
  }

  writeUIntBE(value: number, offset: number, length: number): number {
    let rest = value;
    for (let at = offset + length - 1; at >= offset; at -= 1) {
      this[at] = rest % 256;
      rest = Math.floor(rest / 256);
    }
    return offset + length;
  }
}

/** Returns bytes of this size: zeros, or a pattern that is repeated. */
function alloc(size: number, pattern: Uint8Array = Uint8Array.of(0)): Bytes {
  return new Bytes(size).map((_, i) => pattern[i % pattern.length] ?? 0) as Bytes;
}

/** Returns the bytes of a text, a copy of other bytes, or a part of a buffer, which it shares. */
function from(data: string | Uint8Array | ArrayBuffer, offset?: number, length?: number): Bytes {
  if (data instanceof ArrayBuffer) return new Bytes(data, offset, length);
  return new Bytes(typeof data === "string" ? encoder.encode(data) : data);
}

function concat(list: readonly Uint8Array[]): Bytes {
  const all = new Bytes(list.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const bytes of list) {
    all.set(bytes, at);
    at += bytes.length;
  }
  return all;
}

export const Buffer = {
  alloc,
  from,
  concat,
  of: (...bytes: number[]): Bytes => new Bytes(bytes),
  byteLength: (text: string): number => encoder.encode(text).length,
  isBuffer: (value: unknown): boolean => value instanceof Bytes,
};
