/** A link, as an application sees it: what this client sends to one peer and takes from it. */

import type { Client } from "./client.js";
import { Deferred, MAX_TIMER } from "./deferred.js";
import { InvalidData, Lost, RequestTimeout, WindowFull } from "./errors.js";
import { type Body, Message, Sent } from "./message.js";
import { checkKey } from "./protocol/codec.js";
import type { PeerState } from "./protocol/codes.js";
import { keyOf, type LinkEvent, type Link as Machine, type Submission } from "./protocol/link.js";
import { type LinkMessage, make } from "./protocol/messages.js";
import { obtain } from "./protocol/obtain.js";
import {
  EventStream,
  type Item,
  type MessageHandler,
  MessageStream,
  type Pump,
  type ReadOptions,
} from "./stream.js";

/** Takes data that was sent at most once; a promise is awaited. */
export type DataHandler = (data: unknown) => unknown;

/** Seconds a request waits for its answer when its caller does not say. */
const REQUEST_TIMEOUT = 30;

/** Answers per lane that may wait for room: four windows. A peer that asks and asks and never takes an
 * answer would cost the memory; beyond it answers are dropped, and its requests time out. */
const MAX_ANSWERS = 1024;

/** How a message is sent. `lane`: `messages` or `bulk`. `expires`: seconds after which it is lost, if it is
 * not delivered by then: here, or in the mailbox that has stored it. `collapse`: a key; in a mailbox this
 * message replaces an older one with the same key, which is lost then (`replaced`): the newest position,
 * the latest status. */
export interface SendOptions {
  readonly lane?: string;
  readonly expires?: number;
  readonly collapse?: string;
}

/** How a request is sent. `timeout`: seconds it waits for its answer. */
export interface RequestOptions {
  readonly timeout?: number;
  readonly lane?: string;
}

/** A message that waits for room in the window. */
interface Waiting {
  readonly body: Body;
  readonly how: Submission;
  readonly sent: Deferred<Sent>;
}

/** This client's end of the link to `peer`. Made by `client.link(peer)`. A peer `@bob` is the user bob:
 * what is sent there goes to every client of his, each once and in order, and is delivered when the first
 * has finished with it; answers come from those clients, by their own names. */
export class Link implements AsyncIterable<Message> {
  private readonly _queues = new Map<string, Waiting[]>(); // lane → those who wait for room, in order
  private readonly _states = new Set<EventStream<PeerState>>();
  private _pump: Pump | null = null;
  /** @internal */
  _onRequest: MessageHandler | null = null;
  /** @internal */
  _onEphemeral: DataHandler | null = null;
  /** @internal */
  _onSignal: DataHandler | null = null;

  /** @internal */
  constructor(
    private readonly _client: Client,
    readonly peer: string,
  ) {}

  // --- the peer -------------------------------------------------------------------------------------

  /** `here`, `reconnecting` or `away`, as last heard; `away` for a peer that is not watched. */
  get state(): PeerState {
    return this._client._session.links.get(this.peer)?.state ?? "away";
  }

  /** Iterate over the peer's states: the one now, then every change. */
  states(): EventStream<PeerState> {
    return new EventStream(this._states, this._client._ended, this.state);
  }

  /** How many messages to the peer are neither delivered nor lost. */
  get unsettled(): number {
    return this._client._session.links.get(this.peer)?.unsettled ?? 0;
  }

  // --- sending --------------------------------------------------------------------------------------

  /** Send JSON data or bytes; waits for room in the window, fairly. Resolves once the message has its
   * number: from then on it goes its way. What it resolves to tells what becomes of it. Throws
   * `InvalidData` for what cannot travel, `ClientClosed`. */
  async send(data: unknown, options: SendOptions = {}): Promise<Sent> {
    return this._number(this._encode(data), this._how(options));
  }

  /** As `send`, but throws `WindowFull` where that would wait. */
  trySend(data: unknown, options: SendOptions = {}): Sent {
    const body = this._encode(data);
    const how = this._how(options);
    this._client._checkOpen();
    if (!this._hasRoom(body, how)) throw new WindowFull("no room");
    return this._submit(body, how);
  }

  /** Send a request and return its answer's data. Throws `RequestTimeout` after `timeout` seconds,
   * `RequestFailed` with the other side's words, `Lost` when it was not delivered, `ClientClosed`. */
  async request<T = unknown>(data: unknown, options: RequestOptions = {}): Promise<T> {
    const { timeout = REQUEST_TIMEOUT, lane = "messages" } = options;
    const body = this._encode(data);
    const requests = this._client._requests;
    const [name, answer] = requests.begin();
    const late = () => new RequestTimeout(`no answer within ${timeout} s`);
    const stop = answer.expire(timeout, late);
    const deadline = Math.trunc(Math.min(Math.max(timeout * 1000, 1), MAX_TIMER));
    try {
      const numbered = this._number(body, { lane, expires: this._expiry(timeout), request: name, deadline });
      const first = await Promise.race([numbered, answer.promise]);
      if (first instanceof Sent) {
        first._answer = answer;
        if (first.fate === "lost") await first.stored(); // throws
      }
      return (await answer.promise) as T;
    } catch (error) {
      throw error instanceof Lost && error.reason === "expired" ? late() : error;
    } finally {
      stop();
      this._withdraw(name);
      requests.forget(name);
    }
  }

  /** Send at most once, unnumbered: typing, cursors. Returns whether it left: not while the client is offline or
   * its connection is congested, nor more than 1,024 in one turn. */
  ephemeral(data: unknown): boolean {
    const body = this._encode(data);
    return this._client._sendOnce(make("ephemeral", { to: this.peer, data: body, binary: isBinary(body) }));
  }

  /** Send an SDP or ICE message, at most once. Returns whether it left. */
  signal(data: unknown): boolean {
    const body = this._encode(data);
    if (isBinary(body)) throw new InvalidData("not JSON");
    return this._client._sendOnce(make("signal", { to: this.peer, data: body }));
  }

  /** @internal */
  _encode(value: unknown): Body {
    return this._client._encode(value);
  }

  /** @internal */
  _now(): number {
    return this._client._now();
  }

  private _how({ lane = "messages", expires, collapse = "" }: SendOptions): Submission {
    return { lane, expires: this._expiry(expires), collapse: checkKey(collapse) };
  }

  private _expiry(seconds = Infinity): number {
    return seconds < 1e9 ? this._now() + seconds : Infinity; // beyond is for ever: the wire has no such number
  }

  private _queue(how: Submission): Waiting[] {
    return obtain(this._queues, how.lane ?? "messages", () => []);
  }

  private _hasRoom(body: Body, how: Submission, first = false): boolean {
    const room = this._machine().hasRoom(isBinary(body) ? body.length : body.size, how.lane); // checks the lane
    return room && !this._client._congested && (first || !this._queue(how).length);
  }

  private _number(body: Body, how: Submission): Sent | Promise<Sent> {
    this._client._checkOpen();
    if (this._hasRoom(body, how)) return this._submit(body, how);
    const sent = new Deferred<Sent>();
    this._queue(how).push({ body, how, sent });
    return sent.promise;
  }

  /** A request that still waits for room is not wanted any more. */
  private _withdraw(request: string): void {
    for (const [lane, queue] of this._queues) {
      this._queues.set(
        lane,
        queue.filter((waiting) => waiting.how.request !== request),
      );
    }
    this._admit(); // who was withdrawn at the head makes way
  }

  private _submit(body: Body, how: Submission): Sent {
    const machine = this._machine();
    const sent = new Sent(this.peer);
    sent._entry = machine.submit(body, { ...how, binary: isBinary(body), context: sent });
    this._client._numbered(machine);
    return sent;
  }

  /** @internal Answer a request: now, or when there is room. Nobody waits for it here; too many are
   * dropped. */
  _reply(request: string, lane: string, body: Body, failed: boolean): void {
    if (this._client._ended || this.peer === this._client.clientId) return; // to oneself leads no link
    const how = { lane, reply: request, failed };
    const queue = this._queue(how);
    if (this._hasRoom(body, how)) this._submit(body, how);
    else if (queue.length >= MAX_ANSWERS) {
      this._client._trouble("overflow", `answer to ${this.peer}`);
    } else queue.push({ body, how, sent: new Deferred() });
  }

  /** @internal Number those who wait, as long as there is room. */
  _admit(): void {
    if (this._client._ended) return; // what the end has settled makes no room
    for (const queue of this._queues.values()) {
      for (let next = queue[0]; next && this._hasRoom(next.body, next.how, true); next = queue[0]) {
        queue.shift();
        next.sent.resolve(this._submit(next.body, next.how));
      }
    }
  }

  /** @internal Whether somebody waits for room. */
  get _queued(): boolean {
    return [...this._queues.values()].some((queue) => queue.length > 0);
  }

  private _machine(): Machine {
    return this._client._session.link(this.peer);
  }

  // --- receiving ------------------------------------------------------------------------------------

  [Symbol.asyncIterator](): MessageStream {
    return this.messages();
  }

  /** Iterate over what the peer sends; one reader at a time. */
  messages(how: ReadOptions & { readonly losses: true }): MessageStream<Item>;
  messages(how?: ReadOptions): MessageStream;
  messages(how: ReadOptions = {}): MessageStream<Item> {
    return new MessageStream(this._client, this._client._post.inbox(this.peer), how);
  }

  /** Hand every message to a function, one after the other; each is finished when the function has returned
   * or thrown, or its promise is settled. null: stop. */
  onMessage(handler: MessageHandler | null): void {
    this._pump = this._client._replacePump(this._pump, this._client._post.inbox(this.peer), handler);
  }

  /** Answer requests with what a function returns; throwing answers with a failure. Requests run side by
   * side. null: stop. */
  onRequest(handler: MessageHandler | null): void {
    this._onRequest = handler;
    if (handler) this._client._requests.serveHeld(this.peer, handler);
  }

  /** Hand the data of what was sent at most once to a function. */
  onEphemeral(handler: DataHandler | null): void {
    this._onEphemeral = handler;
  }

  /** Hand the data of the peer's signals to a function. */
  onSignal(handler: DataHandler | null): void {
    this._onSignal = handler;
  }

  // --- what happened --------------------------------------------------------------------------------

  /** @internal */
  _event(event: LinkEvent, user: string): void {
    const client = this._client;
    switch (event.kind) {
      case "received":
        return this._received(event.message);
      case "settled":
        client._settled(event);
        return this._admit();
      case "stored":
        client._stored(event);
        return this._admit();
      case "lost": {
        const { lane, first, last, reason } = event;
        const loss = { kind: "lost", peer: this.peer, lane, first, last, reason, user } as const;
        client._put(this.peer, loss);
        return client._tell(loss);
      }
      case "peer":
        for (const stream of this._states) stream._put(event.state);
        return client._tell({ ...event, peer: this.peer });
      case "storage_trouble":
        return client._trouble(event.code, `to ${this.peer}`);
      case "path_failed":
        return client._trouble("path", `${event.path} to ${this.peer}: ${event.reason}`);
    }
  }

  private _received(raw: LinkMessage): void {
    const client = this._client;
    if (raw.reply) {
      client._requests.answered(raw);
      return this._finish(raw);
    }
    const message = new Message(raw, this, this._now());
    const handler = raw.request ? (this._onRequest ?? client._onRequest) : null;
    if (handler) client._requests.serve(message, handler);
    else client._put(this.peer, message);
  }

  /** @internal */
  _finish(raw: LinkMessage): void {
    const client = this._client;
    const machine = client._session.links.get(keyOf(this.peer, raw.user));
    if (!machine || client._ended) return;
    machine.finish(raw, this._now());
    client._touched(machine);
  }

  /** @internal The client is closed. */
  _end(ending: Error): void {
    for (const queue of this._queues.values()) for (const { sent } of queue.splice(0)) sent.reject(ending);
    for (const stream of this._states) stream._end();
  }
}

function isBinary(body: Body): body is Uint8Array {
  return body instanceof Uint8Array;
}
