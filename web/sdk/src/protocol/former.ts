/**
 * What a link has taken of its peer's earlier runs, until their mailbox has heard of it.
 *
 * A new run ends the ones before it: nothing more is taken of them. But its first message may come while the
 * application still works at the last ones of theirs, or may overtake the acknowledgement. Whoever keeps them
 * would hand them to this client's next process, though this one has finished with them.
 */

import type { Inbound } from "./inbound.js";

/** Ended lanes that are remembered, the latest: two runs with both lanes, for each of thousands of links. A
 * peer that restarts all the time, while nobody finishes with anything, must not cost the memory. */
export const MAX_FORMER = 4;

/** The ended lanes of one link. */
export class Former {
  /** The oldest first. */
  lanes: Inbound[] = [];

  /** These have ended. */
  end(lanes: Iterable<Inbound>): void {
    for (const inbound of lanes) {
      inbound.pullAt = Infinity;
      this.lanes.push(inbound);
    }
    this.lanes = this.lanes.slice(-MAX_FORMER);
  }

  /** The one of that run, if it is remembered. */
  get(run: number, lane: string): Inbound | undefined {
    return this.lanes.find((inbound) => inbound.run === run && inbound.lane === lane);
  }

  /** Something of theirs came once more: whoever sends it has not heard how far they are. */
  again(run: number, lane: string, now: number): void {
    const inbound = this.get(run, lane);
    if (inbound) inbound.ackAt = now;
  }
}
