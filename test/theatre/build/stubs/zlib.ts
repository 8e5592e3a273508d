/** Stands in for `node:zlib`. The simulation uses only its checksum. */

/** For each byte, the remainder of that byte (the polynomial of IEEE 802.3, reversed). */
const remainders = Uint32Array.from({ length: 256 }, (_, byte) => {
  let rest = byte;
  for (let bit = 0; bit < 8; bit += 1) rest = rest & 1 ? 0xEDB88320 ^ (rest >>> 1) : rest >>> 1;
  return rest;
});

/** Returns the CRC-32 of the data, continued from the value of the data before. */
export function crc32(data: string | Uint8Array, value = 0): number {
  let rest = ~value;
  for (const byte of typeof data === "string" ? new TextEncoder().encode(data) : data) {
    rest = (remainders[(rest ^ byte) & 0xFF] ?? 0) ^ (rest >>> 8);
  }
  return ~rest >>> 0;
}
