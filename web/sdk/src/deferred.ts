/** An answer that will come, or not. */

/** A promise with its ends in reach. The first end counts; a rejection that nobody awaits is nobody's
 * business. */
export class Deferred<T> {
  done = false;
  readonly promise: Promise<T>;
  private _resolve!: (value: T) => void;
  private _reject!: (error: unknown) => void;

  constructor() {
    this.promise = new Promise((resolve, reject) => {
      this._resolve = resolve;
      this._reject = reject;
    });
    this.promise.catch(() => {});
  }

  resolve(value: T): void {
    this.done = true;
    this._resolve(value);
  }

  reject(error: unknown): void {
    this.done = true;
    this._reject(error);
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
