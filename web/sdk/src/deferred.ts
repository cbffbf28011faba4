/** An answer that will come, or not. */

/** A promise with its ends in reach. The first end counts; a rejection that nobody awaits is nobody's
 * business. */
export class Deferred<T> {
  readonly promise: Promise<T>;
  resolve!: (value: T) => void;
  reject!: (error: unknown) => void;

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this.resolve = resolve;
      this.reject = reject;
    });
    this.promise.catch(() => {});
  }

  /** Reject it with what `error` makes, if it has no end within so many seconds. Returns a function that
   * stops that. */
  expire(seconds: number, error: () => Error): () => void {
    const timer = setTimeout(() => this.reject(error()), Math.min(seconds * 1000, MAX_TIMER));
    return () => clearTimeout(timer);
  }
}

/** Milliseconds of the longest timer there is: 2³¹−1, that is 24 days. */
export const MAX_TIMER = 2 ** 31 - 1;
