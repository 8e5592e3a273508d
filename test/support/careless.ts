/**
 * State machines and clients that reuse their bytes. They overwrite their input once they have read
 * it, and their output at the next chance. So raft.ts must make its own copies.
 */
import { type Client, type StateMachine } from "../../raft.ts";

const NOISE = 0xee;

type Caller = Pick<Client, "propose" | "read">;

/** Overwrites an object and all that it holds, after the program has read it. */
export function spoil(given: unknown): void {
  if (typeof given !== "object" || given === null) return;
  for (const each of Object.values(given)) spoil(each);
  for (const key of Object.keys(given)) Reflect.deleteProperty(given, key);
  if (Array.isArray(given)) given.length = 0;
}

/** Returns a client that overwrites commands, questions and answers after their use. */
export function carelessCaller(via: Caller): Caller {
  const ask = async (what: keyof Caller, bytes: Uint8Array) => {
    const given = Uint8Array.from(bytes);
    const answered = via[what](given);
    given.fill(NOISE);
    const answer = await answered;
    const read = Uint8Array.from(answer);
    answer.fill(NOISE);
    return read;
  };
  return {
    propose: (command) => ask("propose", command),
    read: (question) => ask("read", question),
  };
}

/** Returns a state machine that overwrites its inputs, and at the next call its last outputs. */
export function carelessMachine(machine: StateMachine): StateMachine {
  const given: Uint8Array[] = [];
  const overwrite = () => {
    for (const bytes of given.splice(0)) bytes.fill(NOISE);
  };
  const give = (bytes: Uint8Array) => {
    const copy = Uint8Array.from(bytes);
    given.push(copy);
    return copy;
  };
  const answer = (bytes: Uint8Array, find: () => Uint8Array) => {
    overwrite();
    const found = find();
    const answered = give(found);
    found.fill(NOISE); // The machine may be part of another one.
    bytes.fill(NOISE);
    return answered;
  };
  return {
    apply: (command, ...rest) => answer(command, () => machine.apply(command, ...rest)),
    query: (question) => answer(question, () => machine.query(question)),
    snapshot() {
      overwrite();
      const chunks = machine.snapshot();
      return function*() {
        for (const chunk of chunks) {
          overwrite();
          yield give(chunk);
        }
      }();
    },
    restore() {
      overwrite();
      const take = machine.restore();
      return (chunk) => {
        take(chunk);
        chunk.fill(NOISE);
      };
    },
  };
}
