/** What travels on a link, from both sides: a `Message` that came, the fate of one that was `Sent`. */

import type { Deferred } from "./deferred.js";
import { InvalidData, Lost } from "./errors.js";
import type { Link } from "./link.js";
import { DataError, encodeJson, type Raw } from "./protocol/codec.js";
import type { LinkMessage } from "./protocol/messages.js";
import type { Outgoing } from "./protocol/outbound.js";

/** What became of a message. */
export type Fate = "pending" | "stored" | "delivered" | "lost";

/** A message from a peer. It is delivered, for its sender, when this side has finished with it: the handler
 * returned, the loop asked for the next one, or `ack` was called. */
export class Message<T = unknown> {
  private _finished = false;
  private _answered = false;

  /** @internal `arrived`: when it came, on the client's clock. */
  constructor(
    private readonly _raw: LinkMessage,
    /** The link it came by. */
    readonly link: Link,
    private readonly _arrived: number,
  ) {}

  /** The value: what the JSON says, or bytes (a `Uint8Array`). */
  get data(): T {
    return valueIn(this._raw.data) as T;
  }

  /** Whether it is bytes. */
  get binary(): boolean {
    return this._raw.binary;
  }

  /** Who sent it; the server's word. */
  get sender(): string {
    return this.link.peer;
  }

  /** Its number within the sender's run and lane. */
  get seq(): number {
    return this._raw.seq;
  }

  /** The life of the sending process. */
  get run(): number {
    return this._raw.run;
  }

  /** `messages` or `bulk`. */
  get lane(): string {
    return this._raw.lane;
  }

  /** The user it was sent to (`@bob`), if not to this client alone; else empty. */
  get user(): string {
    return this._raw.user;
  }

  /** Whether it is a request that has no answer yet. */
  get wantsAnswer(): boolean {
    return Boolean(this._raw.request) && !this._answered;
  }

  /** Whether it is a request whose deadline has certainly passed (it began before the arrival). */
  get overdue(): boolean {
    const { deadline } = this._raw;
    return deadline > 0 && this.link._now() > this._arrived + deadline / 1000;
  }

  /** Finish with it: its sender hears `delivered`. Repeating is harmless. A request that has no answer by
   * then is answered with a failure; not one to a user, which another of his clients may answer. */
  ack(): void {
    if (this._finished) return;
    this._finished = true;
    if (this.wantsAnswer && !this.user) this.fail("no_handler");
    this.link._finish(this._raw);
  }

  /** Answer a request; it leaves when the window has room. Throws `RangeError` for what is no open request,
   * `InvalidData` for a value that cannot travel. */
  reply(value: unknown): void {
    this._answer(value, false);
  }

  /** Answer a request with a failure: it throws `RequestFailed(text)` there. */
  fail(text: string): void {
    this._answer(text, true);
  }

  private _answer(value: unknown, failed: boolean): void {
    if (!this.wantsAnswer) throw new RangeError("not wanted");
    const body = this.link._encode(value);
    this._answered = true;
    this.link._reply(this._raw.request, this._raw.lane, body, failed);
  }
}

/** A numbered message, and what becomes of it. It goes its way whether or not anybody waits. */
export class Sent {
  private _fate: Fate = "pending";
  private _reason = "";
  private _certain = true;
  private _waiters: (() => void)[] = [];
  /** @internal The number behind it. */
  _entry!: Outgoing;
  /** @internal It is stored or settled. */
  _safe = false;
  /** @internal The answer to a request: fails with it. */
  _answer: Deferred<unknown> | null = null;

  /** @internal */
  constructor(
    /** To whom. */
    readonly peer: string,
  ) {}

  /** Its number. */
  get seq(): number {
    return this._entry.seq;
  }

  /** `pending`, `stored`, `delivered` or `lost`. */
  get fate(): Fate {
    return this._fate;
  }

  /** Return its fate when it is not pending any more. */
  async resolved(): Promise<Fate> {
    while (this._fate === "pending") await this._change();
    return this._fate;
  }

  /** Return when a mailbox has it, or it is delivered. Throws `Lost`. */
  async stored(): Promise<void> {
    await this.resolved();
    this._throw();
  }

  /** Return when the other application has finished with it. Throws `Lost`. */
  async delivered(): Promise<void> {
    if (!this._entry.copies) this._entry.ask = true; // has not left yet: it can ask to be acknowledged at once
    while (this._fate === "pending" || this._fate === "stored") await this._change();
    this._throw();
  }

  private _change(): Promise<void> {
    return new Promise((resolve) => this._waiters.push(resolve));
  }

  private _throw(): void {
    if (this._fate === "lost") throw new Lost(this._reason, this._certain);
  }

  /** @internal */
  _become(fate: Fate, reason = "", certain = true): void {
    this._fate = fate;
    this._reason = reason;
    this._certain = certain;
    if (fate === "lost") this._answer?.reject(new Lost(reason, certain));
    const waiters = this._waiters;
    this._waiters = [];
    for (const wake of waiters) wake();
  }
}

/** A value as it travels: JSON text, or bytes. */
export type Body = Raw | Uint8Array;

/** Return a value as it travels: bytes for an `ArrayBuffer` or a view of one, else JSON. Throws
 * `InvalidData`. */
export function encode(value: unknown): Body {
  if (value instanceof ArrayBuffer) return new Uint8Array(value.slice(0));
  if (ArrayBuffer.isView(value)) {
    return new Uint8Array(value.buffer, value.byteOffset, value.byteLength).slice();
  }
  try {
    return encodeJson(value);
  } catch (error) {
    throw error instanceof DataError ? new InvalidData(error.message) : error;
  }
}

/** Return a received value; absent data is null. */
export function valueIn(data: unknown): unknown {
  return data === undefined ? null : data;
}
