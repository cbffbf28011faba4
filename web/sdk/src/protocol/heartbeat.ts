/** When to ping, and when a peer is lost. One machine for every transport. */

/** What a heartbeat asks of its driver. */
export type Beat = "ping" | "lost";

/** Seconds between pings and, no longer than these, for an answer; unanswered pings in a row that mean lost. A peer that falls
 * silent is lost after at most `misses × interval + timeout` seconds. */
export interface Pace {
  readonly interval: number;
  readonly timeout: number;
  readonly misses: number;
}

/** Watches one peer. Every message from it is a sign of life. */
export class Heartbeat {
  private _due: number;
  private _deadline = Infinity;
  private _missed = 0;
  private _lost = false;

  constructor(
    readonly pace: Pace,
    now: number,
  ) {
    this._due = now + pace.interval;
  }

  /** The peer gave a sign of life at that time (which may lie in the past). */
  alive(at: number): void {
    this._due = at + this.pace.interval;
    this._deadline = Infinity;
    this._missed = 0;
  }

  /** Something makes the peer doubtful (the machine slept, the network changed): ping at once, and take one
   * missed answer for a loss. */
  suspect(now: number): void {
    this._due = now;
    this._deadline = Infinity;
    this._missed = this.pace.misses - 1;
  }

  /** Return what is due now, or null. After `lost` nothing is due any more. */
  poll(now: number): Beat | null {
    if (this._lost) return null;
    if (now >= this._deadline) {
      this._deadline = Infinity;
      this._missed += 1;
      if (this._missed >= this.pace.misses) {
        this._lost = true;
        return "lost";
      }
    }
    if (now < this._due) return null;
    this._deadline = now + this.pace.timeout;
    // Keep the rhythm, so that detection has its bound; but not after a long sleep.
    const late = now - this._due;
    this._due = now + this.pace.interval - (late < this.pace.interval ? late : 0);
    this._due = Math.max(this._due, this._deadline);
    return "ping";
  }

  /** Return the time at which `poll` has something to say; infinity after `lost`. */
  nextTimer(): number {
    return this._lost ? Infinity : Math.min(this._due, this._deadline);
  }
}
