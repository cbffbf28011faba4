/** A subscription to a channel: everything published to it, in order. */

import type { Client } from "./client.js";
import { Deferred } from "./deferred.js";
import { Busy, ClientClosed, CommandFailed } from "./errors.js";
import type { ChannelGap } from "./events.js";
import { impossible, isCount, sizeOf } from "./protocol/codec.js";
import type { Publication as Wire } from "./protocol/messages.js";
import type { ChannelEvent, ChannelJoined, PresenceEvent } from "./protocol/subscriptions.js";
import type { Position } from "./publication.js";
import { type Entry, entryOf, SharedState, type StateSet } from "./state.js";
import { Bell } from "./stream.js";

/** Publications (and their bytes) a subscription holds for a slow reader. Beyond them it stops taking, and
 * recovers from its position when the reader has caught up: nothing is dropped silently. */
const QUEUE = 1024;
const QUEUE_BYTES = 4 * 1024 * 1024;

/** How a subscription begins. `since`: go on after that position; `presence`: hear who joins and leaves;
 * `state`: follow the shared state, which begins now. */
export interface SubscribeOptions {
  readonly since?: Position | undefined;
  readonly presence?: boolean;
  readonly state?: boolean;
}

interface Queued {
  readonly item: Entry | ChannelGap;
  readonly size: number;
  /** The shared state after a gap. */
  readonly snapshot: readonly Wire[];
}

/** Everything published to a channel, in order: an asynchronous iterator over its entries, with a gap
 * (`kind: "gap"`) in the place of what was missed and cannot be had. Reconnecting is not seen. Leaving the
 * loop, or `close`, unsubscribes.
 *
 * Writes to the channel's shared state are entries, too. With `state: true`, `state` is what they make. */
export class Subscription implements AsyncIterableIterator<Entry | ChannelGap> {
  /** Who is subscribed, with `presence: true`. */
  present: ReadonlySet<string> = new Set();
  /** The position of the last item the application took; where another subscription would go on. */
  position: Position;
  private readonly _presence: boolean;
  private readonly _shared: SharedState | null;
  private readonly _items: Queued[] = [];
  private _bytes = 0;
  private _queued: Position; // up to where it is in `_items` or beyond
  private _behind = false; // the reader is too slow: what comes now is fetched later
  private readonly _bell = new Bell();
  private _joined = new Deferred<void>();
  private _standing = false;
  private _started = false;
  private _failure: Error | null = null;

  /** @internal */
  constructor(
    private readonly _client: Client,
    readonly channel: string,
    { since, presence = false, state = false }: SubscribeOptions,
  ) {
    if (since && (state || !isCount(since.offset))) {
      throw impossible("since", since.offset);
    }
    this._presence = presence;
    this._shared = state ? new SharedState() : null;
    this.position = this._queued = since ?? { epoch: "", offset: 0 };
  }

  /** The shared state at `position`: name → the write that has set it. It changes while items are taken
   * (and is another one after a gap). Empty without `state: true`. */
  get state(): ReadonlyMap<string, StateSet> {
    return this._shared?.values ?? new Map();
  }

  // --- life -----------------------------------------------------------------------------------------

  private _start(): void {
    const client = this._client;
    client._checkOpen(true);
    if (client._subscriptions.has(this.channel)) throw new Busy();
    this._want(this._queued);
    this._started = true;
    client._subscriptions.set(this.channel, this);
  }

  private _want({ epoch, offset }: Position): void {
    const wish = { epoch, offset, presence: this._presence, state: this._shared !== null };
    this._client._session.subscriptions.want(this.channel, wish);
    this._client._flush();
  }

  /** @internal Subscribe, and return when the subscription stands. `expire`: make the wait end. */
  async _open(expire?: (joined: Deferred<void>) => () => void): Promise<this> {
    this._start();
    const stop = expire?.(this._joined);
    try {
      await this._joined.promise;
    } catch (error) {
      this.close();
      throw error;
    } finally {
      stop?.();
    }
    return this;
  }

  /** Unsubscribe. */
  close(): void {
    if (this._client._subscriptions.get(this.channel) === this) {
      this._client._subscriptions.delete(this.channel);
      this._client._session.subscriptions.drop(this.channel);
      this._client._flush();
    }
    this._fail(new ClientClosed("unsubscribed"));
  }

  // --- reading --------------------------------------------------------------------------------------

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<Entry | ChannelGap, undefined>> {
    if (this._bell.waiting) throw new Busy();
    if (!this._started && !this._failure) this._start();
    while (!this._items.length) {
      if (this._failure) {
        if (this._failure instanceof ClientClosed && this._client._streamEnded()) return DONE;
        throw this._failure;
      }
      if (this._behind) {
        this._behind = false;
        this._want(this._queued);
      }
      await this._bell.wait();
    }
    const { item, size, snapshot } = this._items.shift() as Queued;
    this._bytes -= size;
    if (item.kind === "gap") {
      this.position = { epoch: item.epoch, offset: item.offset };
      this._shared?.replace(snapshot, item.epoch);
    } else {
      this.position = item.position;
      this._shared?.apply(item);
    }
    return { value: item, done: false };
  }

  /** The loop was left. */
  async return(): Promise<IteratorResult<Entry | ChannelGap, undefined>> {
    this.close();
    return DONE;
  }

  /** Whether the reader has room for an item; from the first for which there is none it is behind. */
  private _hasRoom(size: number): boolean {
    const { length } = this._items;
    this._behind = length >= QUEUE || (length > 0 && this._bytes + size > QUEUE_BYTES);
    return !this._behind;
  }

  private _put(item: Entry | ChannelGap, size: number, snapshot: readonly Wire[] = []): void {
    this._bytes += size;
    this._items.push({ item, size, snapshot });
    this._bell.wake();
  }

  private _fail(failure: Error): void {
    if (this._failure) return;
    this._failure = failure;
    this._bell.wake();
    this._joined.reject(failure);
  }

  /** @internal The client is closed. */
  _end(ending: Error): void {
    this._fail(ending);
  }

  // --- what happened --------------------------------------------------------------------------------

  /** @internal */
  _event(event: ChannelEvent): void {
    switch (event.kind) {
      case "published":
        return this._published(event.publication);
      case "joined":
        return this._joinedAt(event);
      case "presence":
        return this._presenceChanged(event);
      case "refused": {
        const { channel, code, reason } = event;
        this._client._subscriptions.delete(channel);
        this._fail(new CommandFailed(code, reason));
        this._client._tell({ kind: "subscription_ended", channel, code, reason });
      }
    }
  }

  private _published(wire: Wire): void {
    if (this._behind || !this._standing) return; // or it was said to the one before
    const size = sizeOf(wire.data);
    if (!this._hasRoom(size)) return;
    const { epoch } = this._queued;
    this._queued = { epoch, offset: wire.offset };
    this._put(entryOf(wire, epoch), size);
  }

  private _joinedAt({ epoch, offset, gap, state }: ChannelJoined): void {
    if (this._behind) return; // it asks again, from where its reader is
    const snapshot = state ?? [];
    if (gap) {
      const size = snapshot.reduce((sum, wire) => sum + sizeOf(wire.data), 0);
      if (snapshot.length && !this._hasRoom(size)) return;
      const item = { kind: "gap", channel: this.channel, ...gap, epoch, offset } as const;
      this._put(item, size, snapshot);
      this._client._tell(item);
    } else if (!this._standing && !this._items.length) {
      this.position = { epoch, offset };
      this._shared?.replace(snapshot, epoch);
    }
    this._queued = { epoch, offset };
    this._standing = true;
    this._joined.resolve();
  }

  private _presenceChanged({ clients, joined, left }: PresenceEvent): void {
    const present = new Set(joined || left ? this.present : clients);
    if (joined) present.add(joined);
    if (left) present.delete(left);
    this.present = present;
    this._client._tell({ kind: "presence", channel: this.channel, present, joined, left });
  }
}

const DONE = { value: undefined, done: true } as const;
