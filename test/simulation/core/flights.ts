/**
 * Lists what travels in a core simulation, so that a viewer can show it, and drop, delay or
 * duplicate a message in flight. The simulation itself only adds to the list.
 */
import { type Message, type Name } from "../../../raft.ts";
import { type Scene } from "./scene.ts";

/** What travels besides the messages of the algorithm, with its content in words. */
export type Other = {
  type: "Request" | "Reply" | "ReadIndex" | "ReadIndexReply" | "Probe" | "Refusal" | "Restarted";
  tell(): string;
};

export type Flight = {
  readonly id: number;
  readonly from: Name;
  readonly to: Name;
  readonly content: Message | Other;
  readonly sentMs: number;
  readonly arriveMs: number;
  /** When the message is lost. It never arrives, but is listed until `arriveMs`. */
  readonly lostAtMs?: number;
};
export type Journey = Pick<Flight, "from" | "to" | "content">;
type Airborne = { flight: Flight; arrive: () => void; cancel: () => void };

export class Flights {
  /** Whether a viewer looks at the list. Otherwise it stays empty, which is faster. */
  isWatched = false;
  private readonly airborne = new Map<number, Airborne>();
  private lost: Flight[] = [];
  private lastId = 0;
  /** Counts the changes of the list. */
  changes = 0;

  constructor(private readonly scene: Scene) {}

  /** Returns all messages in flight, and the lost ones that would not have arrived yet. */
  get all(): readonly Flight[] {
    const { now } = this.scene;
    this.lost = this.lost.filter(({ arriveMs }) => arriveMs > now);
    return [...this.airborne.values().map(({ flight }) => flight), ...this.lost]
      .sort((a, b) => a.id - b.id);
  }

  /** Returns when the next lost message leaves the list. */
  get nextLostMs(): number {
    return Math.min(...this.lost.map(({ arriveMs }) => arriveMs));
  }

  /** Sends something that arrives after a time. */
  add(journey: Journey, afterMs: number, arrive: () => void): void {
    if (!this.isWatched) return void this.scene.plan(afterMs, arrive);
    const { now } = this.scene;
    this.lastId += 1;
    this.launch({ id: this.lastId, ...journey, sentMs: now, arriveMs: now + afterMs }, arrive);
  }

  private launch(flight: Flight, arrive: () => void): void {
    const { scene, airborne } = this;
    this.changes += 1;
    const cancel = scene.planAt(flight.arriveMs, () => {
      this.changes += 1;
      airborne.delete(flight.id);
      scene.note({ kind: "message", flight });
      arrive();
    });
    airborne.set(flight.id, { flight, arrive, cancel });
  }

  /** Shows something that is lost on its way. It would have taken so long. */
  lose(journey: Journey, afterMs: number): void {
    if (!this.isWatched) return;
    const { now } = this.scene;
    this.lastId += 1;
    this.changes += 1;
    const flight = { id: this.lastId, ...journey, sentMs: now, arriveMs: now + afterMs };
    this.lost.push({ ...flight, lostAtMs: now + afterMs / 2 });
    if (this.lost.length > 1000) this.lost.shift();
  }

  // ----------------------------------- What a visitor can do ------------------------------------

  private take(id: number): Airborne | undefined {
    const taken = this.airborne.get(id);
    taken?.cancel();
    this.airborne.delete(id);
    if (taken) this.changes += 1;
    return taken;
  }

  drop(id: number): void {
    const { flight } = this.take(id) ?? {};
    if (flight) this.lost.push({ ...flight, lostAtMs: this.scene.now });
  }

  delay(id: number, ms: number): void {
    const { flight, arrive } = this.take(id) ?? {};
    if (flight && arrive) this.launch({ ...flight, arriveMs: flight.arriveMs + ms }, arrive);
  }

  /** Sends a copy, which arrives later than the message itself. */
  duplicate(id: number): void {
    const { flight, arrive } = this.airborne.get(id) ?? {};
    if (!flight || !arrive) return;
    const { arriveMs, sentMs } = flight;
    this.add(flight, arriveMs - this.scene.now + (arriveMs - sentMs) / 2, arrive);
  }
}
