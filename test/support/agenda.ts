/** Plans in simulated time, in the order of their instants, then in the order of adding. */

/** An action at an instant. A plan that is cancelled has none. */
type Plan = { at: number; order: number; action: (() => void) | undefined };

const isBefore = (a: Plan, b: Plan) => a.at < b.at || (a.at === b.at && a.order < b.order);

/** A heap of plans. */
export class Agenda {
  private readonly plans: Plan[] = [];
  private added = 0;

  get nextAt(): number {
    return this.plans[0]?.at ?? Number.POSITIVE_INFINITY;
  }

  /** Adds a plan. Returns a function that cancels it. */
  add(at: number, action: () => void): () => void {
    const plan: Plan = { at, order: this.added += 1, action };
    this.rise(plan);
    return () => void (plan.action = undefined);
  }

  /** Removes the first plan. */
  takeFirst(): Plan {
    const [first] = this.plans;
    const last = this.plans.pop();
    if (!first || !last) throw new Error("There is no plan.");
    if (first !== last) this.sink(last);
    while (this.plans[0] && this.plans[0].action === undefined) this.takeFirst();
    return first;
  }

  private rise(plan: Plan): void {
    let at = this.plans.length;
    for (; at > 0; at = (at - 1) >> 1) {
      const parent = this.plans[(at - 1) >> 1];
      if (!parent || isBefore(parent, plan)) break;
      this.plans[at] = parent;
    }
    this.plans[at] = plan;
  }

  private sink(plan: Plan): void {
    const { plans } = this;
    let at = 0;
    for (;;) {
      const [left, right] = [plans[2 * at + 1], plans[2 * at + 2]];
      const isRight = left && right && isBefore(right, left);
      const child = isRight ? right : left;
      if (!child || isBefore(plan, child)) break;
      plans[at] = child;
      at = 2 * at + (isRight ? 2 : 1);
    }
    plans[at] = plan;
  }
}
