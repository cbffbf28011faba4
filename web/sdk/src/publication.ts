/** What a channel's log is made of, as an application sees it. */

import { valueIn } from "./message.js";
import type { Publication as Wire } from "./protocol/messages.js";

/** A place in a channel's log: everything up to and including `offset` of `epoch`. */
export interface Position {
  readonly epoch: string;
  readonly offset: number;
}

/** One entry of a channel's log: something published, or (`StateSet`, `StateDeleted`) a write to the
 * channel's shared state. */
export class Publication<T = unknown> {
  /** `publication`, `set` or `deleted`. */
  readonly kind: "publication" | "set" | "deleted" = "publication";

  /** @internal */
  constructor(
    /** @internal */
    readonly _wire: Wire,
    /** The life of the log it belongs to. */
    readonly epoch: string,
  ) {}

  /** The value: what the JSON says, or bytes (a `Uint8Array`). */
  get data(): T {
    return valueIn(this._wire.data) as T;
  }

  /** Whether it is bytes. */
  get binary(): boolean {
    return this._wire.binary;
  }

  /** The channel's name. */
  get channel(): string {
    return this._wire.channel;
  }

  /** The name in the shared state that it writes to; empty for what is just published. */
  get name(): string {
    return this._wire.name;
  }

  /** Who published it; the server's word. */
  get sender(): string {
    return this._wire.from;
  }

  /** When, in milliseconds since 1970, by the server's clock. */
  get time(): number {
    return this._wire.time;
  }

  /** Its place in the log. */
  get offset(): number {
    return this._wire.offset;
  }

  /** Where a subscription goes on that has seen this. */
  get position(): Position {
    return { epoch: this.epoch, offset: this.offset };
  }
}
