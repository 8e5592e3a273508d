/** Makes the requests of clients by hand, as they are on the wire and in the log. */
import { encode } from "@msgpack/msgpack";

/** Values in a row, without the header of an array. */
export const sequence = (values: readonly unknown[]): Buffer =>
  Buffer.concat(values.map((value) => encode(value)));

/** The numbers of a request: its session, its own, and the last that was acknowledged. */
export type Numbers = readonly [session: number, sequence: number, acknowledged: number];

/** The fields of a request with these commands. */
export const commandsOf = (numbers: Numbers, ...commands: Uint8Array[]) =>
  [...numbers, sequence(commands)] as const;

/** The data of an entry that opens a session. */
export const makeOpening = (session: number, owner = "client", nonce = session): Buffer =>
  Buffer.from(encode([owner, nonce, session]));

/** A request with one command as it is in the log. */
export const makeCommand = (numbers: Numbers, command: Uint8Array, owner = "client"): Buffer =>
  Buffer.from(encode([owner, ...commandsOf(numbers, command)]));
