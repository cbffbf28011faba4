/**
 * A counter that several clients share: a name in a channel's state, written by compare-and-set.
 *
 * What is added while one write is under way, or while there is no connection, is collected and becomes one
 * write. Another client may be faster: then the server answers `Conflict`, nothing has been done, and the sum
 * is made anew from what is there now. So no addition is lost and none counts twice.
 */

import { CommandFailed, CommandTimeout, Conflict } from "duolink";

/** Conflicts in a row after which it is not tried again: somebody else writes without end. */
export const MOST_TRIES = 50;

/** The largest sum of clicks that may wait. */
export const MOST_WAITING = 1_000;

/** A number and the version it has in the state; 0 and 0 where it is not there. */
export interface Versioned {
  readonly value: number;
  readonly version: number;
}

/** The name in the shared state. */
export interface SharedNumber {
  /** Return when there is a connection. Throws when there will be none. */
  ready(): Promise<void>;
  /** What this client has seen last. */
  read(): Versioned;
  /** Write if it has that version still; return the new one. Throws as `Channel.set` does. */
  write(value: number, expect: number): Promise<number>;
  /** Return when this client has seen that version, or the log that it belonged to is lost. */
  seen(version: number): Promise<void>;
}

export class Counter {
  /** What is added and not written yet. */
  waiting = 0;
  /** How often another client was faster. */
  conflicts = 0;
  private _busy = false;

  /** `changed`: something above has; `failed`: so much was given up, and why. */
  constructor(
    private readonly _shared: SharedNumber,
    private readonly _user: { changed(): void; failed(delta: number, error: unknown): void },
  ) {}

  /** Add; it is written when there is a connection. */
  add(delta: number): void {
    const sum = this.waiting + delta;
    if (Math.abs(sum) > MOST_WAITING) return;
    this.waiting = sum;
    this._user.changed();
    void this._write();
  }

  private async _write(): Promise<void> {
    if (this._busy) return;
    this._busy = true;
    let tries = 0;
    while (this.waiting) {
      let delta = this.waiting;
      try {
        await this._shared.ready();
        delta = this.waiting; // with what was added in the meantime
        const { value, version } = this._shared.read();
        const written = await this._shared.write(value + delta, version);
        tries = 0;
        await this._shared.seen(written);
        this._done(delta);
      } catch (error) {
        if (error instanceof Conflict && ++tries < MOST_TRIES) {
          this.conflicts += 1;
          this._user.changed();
          await this._shared.seen(error.version);
        } else {
          // Refused, or nobody knows whether it was done (`uncertain`): doing it again might count it twice.
          this._done(delta);
          this._user.failed(delta, error);
        }
      }
    }
    this._busy = false;
  }

  private _done(delta: number): void {
    this.waiting -= delta;
    this._user.changed();
  }
}

/** Return the number in a state's value; 0 for what is none. */
export function numberIn(value: unknown): number {
  return typeof value === "number" && Number.isSafeInteger(value) ? value : 0;
}

/** Tell whether nobody knows if a command was done. */
export function isUncertain(error: unknown): boolean {
  return error instanceof CommandTimeout || (error instanceof CommandFailed && error.code === "uncertain");
}
