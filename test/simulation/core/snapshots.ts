/** Gives every state unique bytes, which represent the state on disks and in messages. */
import { type SessionRecord, type Snapshot } from "../../../raft.ts";
import { Violation } from "../judge.ts";
import { type Machine } from "./clients.ts";

/** All state after an entry. `state` is its digest. */
export type State = {
  snapshot: Snapshot;
  sessions: readonly SessionRecord[];
  machine: Machine;
  state: number;
  bytes: Buffer;
};

export class Snapshots {
  private readonly all: State[] = [];

  /** Returns bytes for a state. Two snapshots have different bytes, even of the same state. */
  keep({ snapshot, ...rest }: Omit<State, "bytes">): State {
    const bytes = Buffer.alloc(
      snapshot.size,
      new Uint8Array(Uint32Array.of(this.all.length).buffer),
    );
    const kept = { snapshot, ...rest, bytes };
    this.all.push(kept);
    return kept;
  }

  /** Returns the state with these bytes. */
  find(bytes: Buffer): State {
    const kept = this.all[new Uint32Array(Uint8Array.from(bytes.subarray(0, 4)).buffer)[0] ?? 0];
    if (!kept?.bytes.equals(bytes)) {
      throw new Violation(
        "A snapshot arrives as it was sent",
        `one of ${bytes.length} bytes differs`,
      );
    }
    return kept;
  }
}
