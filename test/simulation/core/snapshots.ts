/** What stands for a state on disks and in messages: bytes that tell it from all others. */
import { type Sessions, type Snapshot } from "../../../raft.ts";
import { Violation } from "../judge.ts";
import { type Machine } from "./clients.ts";

/** Everything as it was after an entry. `state` is the digest of it. */
export type State = {
  snapshot: Snapshot;
  sessions: ReturnType<Sessions["snapshot"]>;
  machine: Machine;
  state: number;
  bytes: Buffer;
};

export class Snapshots {
  private readonly all: State[] = [];

  /** Makes bytes for a state. No two snapshots have the same, not even of the same state. */
  keep({ snapshot, ...rest }: Omit<State, "bytes">): State {
    const bytes = Buffer.alloc(
      snapshot.size,
      new Uint8Array(Uint32Array.of(this.all.length).buffer),
    );
    const kept = { snapshot, ...rest, bytes };
    this.all.push(kept);
    return kept;
  }

  /** Which state these bytes are. */
  find(bytes: Buffer): State {
    const kept = this.all[new Uint32Array(Uint8Array.from(bytes.subarray(0, 4)).buffer)[0] ?? 0];
    if (!kept?.bytes.equals(bytes)) {
      throw new Violation("A snapshot comes as it was sent", `not one of ${bytes.length} bytes`);
    }
    return kept;
  }
}
