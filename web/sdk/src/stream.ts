/** What an application iterates over: messages, each to one reader, and events, each to everybody. */

import type { Client } from "./client.js";
import { Busy } from "./errors.js";
import type { MessagesLost } from "./events.js";
import { Message } from "./message.js";
import { impossible } from "./protocol/codec.js";
import { obtain } from "./protocol/obtain.js";

/** Events kept for a reader that does not come; then the oldest go. */
const KEPT_EVENTS = 1024;

/** Items held for one peer that nobody reads. A run cannot send more than its window without being
 * acknowledged; only a sender that restarts again and again reaches this. */
const HELD = 4096;

export type Item = Message | MessagesLost;

/** Who takes messages: a stream or a handler. */
export interface Taker {
  /** There is something to take. */
  wake(): void;
}

/** What came from one peer, in order, until somebody takes it. */
export class Inbox {
  items: Item[] = [];
  taker: Taker | null = null;

  /** Hold an item. Returns the loss, if something older had to go for it. */
  put(item: Item): MessagesLost | null {
    const { items } = this;
    const last = items.at(-1);
    if (!(item instanceof Message) && last && !(last instanceof Message)) {
      const same = last.lane === item.lane && last.user === item.user && last.reason === item.reason;
      if (same && last.last + 1 === item.first) {
        items[items.length - 1] = { ...last, last: item.last };
        return null;
      }
    }
    items.push(item);
    if (items.length <= HELD) return null;
    const oldest = items.shift();
    if (!(oldest instanceof Message)) return null;
    const { sender: peer, lane, seq, user } = oldest;
    return { kind: "lost", peer, lane, first: seq, last: seq, reason: "overflow", user };
  }
}

/** A client's inboxes, and who takes from all of them at once. */
export class Post {
  readonly inboxes = new Map<string, Inbox>();
  taker: Taker | null = null;
  private _ready: Inbox[] = []; // one entry per item for the taker, in the order of arrival

  /** The inbox of a peer. */
  inbox(peer: string): Inbox {
    return obtain(this.inboxes, peer, () => new Inbox());
  }

  /** Hold an item and wake who takes it. */
  put(peer: string, item: Item): MessagesLost | null {
    const inbox = this.inbox(peer);
    const overflow = inbox.put(item);
    if (inbox.taker) inbox.taker.wake();
    else if (this.taker) {
      this._ready.push(inbox);
      this.taker.wake();
    }
    return overflow;
  }

  /** The next item of an inbox; of any that has no taker of its own, for null. */
  take(inbox: Inbox | null): Item | undefined {
    if (inbox) return inbox.items.shift();
    for (let ready = this._ready.shift(); ready; ready = this._ready.shift()) {
      if (!ready.taker && ready.items.length) return ready.items.shift();
    }
    return undefined;
  }

  /** Let somebody take. Throws `Busy` when somebody does. */
  claim(inbox: Inbox | null, taker: Taker): void {
    const place = inbox ?? this;
    if (place.taker) throw new Busy();
    place.taker = taker;
    if (!inbox) {
      this._ready = [...this.inboxes.values()].flatMap((each) =>
        each.taker ? [] : each.items.map(() => each),
      );
    }
    taker.wake();
  }

  /** Wake everybody: the client is closed. */
  wake(): void {
    for (const place of [this, ...this.inboxes.values()]) place.taker?.wake();
  }

  /** Stop taking; what is there waits for the next one. */
  release(inbox: Inbox | null, taker: Taker): void {
    const place = inbox ?? this;
    if (place.taker !== taker) return;
    place.taker = null;
    if (!inbox) this._ready = [];
    else if (this.taker && inbox.items.length) {
      this._ready.push(...inbox.items.map(() => inbox));
      this.taker.wake();
    }
  }
}

/** Wakes a stream. */
export class Bell implements Taker {
  private _waiter: (() => void) | null = null;

  /** Whether somebody waits. */
  get waiting(): boolean {
    return this._waiter !== null;
  }

  /** See `Taker`. */
  wake(): void {
    this._waiter?.();
    this._waiter = null;
  }

  /** Wait for `wake`. */
  wait(): Promise<void> {
    return new Promise((resolve) => {
      this._waiter = resolve;
    });
  }
}

/** How messages are read. `acks: "manual"`: a message is finished by its `ack()` only. `losses`: numbers
 * that will never come appear in their place, as `MessagesLost`. */
export interface ReadOptions {
  readonly acks?: "auto" | "manual";
  readonly losses?: boolean;
}

/** Messages of one peer, or of all without a reader of their own: an asynchronous iterator.
 *
 * Asking for the next message, or leaving the loop, finishes the one before (`acks: "manual"`: only
 * `message.ack()` does). Ends when the client is closed, by throwing if the server closed it. */
export class MessageStream<T extends Item = Message> implements AsyncIterableIterator<T> {
  private _claimed = false;
  private _closed = false;
  private _current: Message | null = null;
  private readonly _bell = new Bell();
  private readonly _manual: boolean;
  private readonly _losses: boolean;

  /** @internal */
  constructor(
    private readonly _client: Client,
    private readonly _inbox: Inbox | null,
    how: ReadOptions,
  ) {
    const acks = how.acks ?? "auto";
    if (acks !== "auto" && acks !== "manual") throw impossible("acks", acks);
    this._manual = acks === "manual";
    this._losses = how.losses ?? false;
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    if (this._bell.waiting) throw new Busy();
    if (!this._claimed && !this._closed) {
      this._client._checkOpen();
      this._client._post.claim(this._inbox, this._bell);
      this._claimed = true;
    }
    this._finish();
    while (!this._closed && !this._client._streamEnded()) {
      const item = this._client._post.take(this._inbox);
      if (!item) await this._bell.wait();
      else if (item instanceof Message) {
        if (!this._manual) this._current = item;
        return { value: item as T, done: false };
      } else if (this._losses) return { value: item as T, done: false };
    }
    return { value: undefined, done: true };
  }

  /** The loop was left. */
  async return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return { value: undefined, done: true };
  }

  /** Leave: finish the current message; what comes now waits for the next reader. */
  close(): void {
    this._finish();
    this._closed = true;
    if (this._claimed) this._client._post.release(this._inbox, this._bell);
    this._claimed = false;
    this._bell.wake();
  }

  private _finish(): void {
    const message = this._current;
    this._current = null;
    message?.ack();
  }
}

/** Takes a message; a promise is awaited. */
export type MessageHandler = (message: Message) => unknown;

/** Hands messages to a handler, one after the other; each is finished when the handler has. */
export class Pump implements Taker {
  private _busy = false;
  private _stopped = false;

  constructor(
    private readonly _client: Client,
    private readonly _inbox: Inbox | null,
    private readonly _handler: MessageHandler,
  ) {}

  /** See `Taker`. */
  wake(): void {
    while (!this._busy && !this._stopped && !this._client._ended) {
      const item = this._client._post.take(this._inbox);
      if (!item) return;
      if (item instanceof Message) this._handle(item);
    }
  }

  private _handle(message: Message): void {
    const running = this._client._call("message handler", () => this._handler(message));
    if (!running) return message.ack();
    this._busy = true;
    void running.then(() => {
      message.ack();
      this._busy = false;
      this.wake();
    });
  }

  /** Take no more. */
  stop(): void {
    this._stopped = true;
    this._client._post.release(this._inbox, this);
  }
}

/** Events from now on: an asynchronous iterator. Ends, after the last one, when the client is closed. Who
 * does not read it to its end closes it. */
export class EventStream<T> implements AsyncIterableIterator<T> {
  private readonly _events: T[];
  private readonly _bell = new Bell();
  private _ended = false;

  /** @internal */
  constructor(
    private readonly _streams: Set<EventStream<T>>,
    ended: boolean,
    ...first: T[]
  ) {
    this._events = first;
    if (ended) this._ended = true;
    else _streams.add(this);
  }

  /** @internal Add an event. */
  _put(event: T): void {
    this._events.push(event);
    if (this._events.length > KEPT_EVENTS) this._events.shift();
    this._bell.wake();
  }

  /** @internal No more will come. */
  _end(): void {
    this._ended = true;
    this._bell.wake();
  }

  [Symbol.asyncIterator](): this {
    return this;
  }

  async next(): Promise<IteratorResult<T, undefined>> {
    if (this._bell.waiting) throw new Busy();
    while (!this._events.length && !this._ended) await this._bell.wait();
    if (this._events.length) return { value: this._events.shift() as T, done: false };
    return { value: undefined, done: true };
  }

  /** The loop was left. */
  async return(): Promise<IteratorResult<T, undefined>> {
    this.close();
    return { value: undefined, done: true };
  }

  /** Hear no more. */
  close(): void {
    this._streams.delete(this);
    this._events.length = 0;
    this._end();
  }
}
