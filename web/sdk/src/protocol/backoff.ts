/**
 * When to try again: exponential backoff with full jitter (M. Brooker, "Exponential Backoff And Jitter", AWS
 * Architecture Blog, 2015).
 */

import { impossible } from "./codec.js";

/** Delays before reconnect attempts: `random × min(cap, initial × factorⁿ)`, n = 0, 1, 2 … */
export class Backoff {
  attempts = 0;

  constructor(
    readonly initial = 1,
    readonly factor = 2,
    readonly cap = 30,
  ) {
    if (!(initial > 0 && initial <= cap && factor >= 1)) {
      throw impossible("backoff", initial);
    }
  }

  /** Count an attempt and return the seconds to wait before it; `random` lies in [0, 1). */
  next(random: number): number {
    return random * Math.min(this.initial * this.factor ** this.attempts++, this.cap);
  }

  /** A connection has lasted, or the network is another one: begin again. */
  reset(): void {
    this.attempts = 0;
  }
}
