/** A client: one named process on a server, with its links and channels. */

import { parseAddress } from "./address.js";
import { Channel, timedOut } from "./channel.js";
import { Deferred, MAX_TIMER } from "./deferred.js";
import { Driver, type Token } from "./driver.js";
import {
  ClientClosed,
  CommandFailed,
  Conflict,
  InvalidData,
  Refused,
  Unreachable,
  Unsettled,
} from "./errors.js";
import type { Event, StateChanged } from "./events.js";
import { Link } from "./link.js";
import { type Body, encode, Sent, valueIn } from "./message.js";
import { Page } from "./page.js";
import { impossible, isId, sizeOf } from "./protocol/codec.js";
import { mayReconnect } from "./protocol/codes.js";
import type { Command } from "./protocol/commands.js";
import type { Answered, SessionEvent, State } from "./protocol/events.js";
import { MAX_CHANNEL, MAX_MESSAGE, MAX_PENDING, MAX_WATCHED } from "./protocol/limits.js";
import type { Link as Machine } from "./protocol/link.js";
import type { Ephemeral, Signal, Welcome } from "./protocol/messages.js";
import { obtain } from "./protocol/obtain.js";
import { DEFAULTS, type Options } from "./protocol/options.js";
import type { Settled, StoredNumber } from "./protocol/outbound.js";
import { Session } from "./protocol/session.js";
import { Requests } from "./requests.js";
import {
  EventStream,
  type Inbox,
  type Item,
  type MessageHandler,
  MessageStream,
  Post,
  Pump,
  type ReadOptions,
} from "./stream.js";
import type { Subscription } from "./subscription.js";
import { type Dial, dialler, type WebSocketConstructor } from "./transport.js";

/** Seconds that leaving a client waits for what is not safe yet. */
const CLOSE_TIMEOUT = 5;

/** Bytes a message needs beside its data, at most: names, numbers and keys at their limits. */
const ENVELOPE = 640;

/** How a client connects. */
export interface ClientOptions extends Partial<Options> {
  /** Its name on the server: one device or process has it at a time. */
  readonly clientId: string;
  /** A token, or a function that returns a fresh one: asked at every connect and before the old one ends. */
  readonly token?: Token;
  /** Seconds that leaving waits until everything sent is safe. Default: 5. */
  readonly closeTimeout?: number;
  /** The class to open WebSockets with, where the platform has none (Node before 22). */
  readonly WebSocket?: WebSocketConstructor;
  /** Whether a page resumes the session of the page before it (see `page.ts`). Default: true. */
  readonly resume?: boolean;
  /** @internal */
  readonly dial?: Dial;
}

/** One client process on a server. Made by `connect`; until it is closed it is online, or on its way back. */
export class Client {
  readonly url: string;
  readonly clientId: string;
  /** Seconds that `close` waits until everything sent is safe. */
  closeTimeout: number;
  /** @internal */
  readonly _session: Session;
  /** @internal */
  readonly _subscriptions = new Map<string, Subscription>();
  /** @internal */
  readonly _post = new Post();
  /** @internal */
  readonly _requests = new Requests(this);
  /** @internal */
  _onRequest: MessageHandler | null = null;
  private readonly _driver: Driver;
  private readonly _page: Page;
  private _opened: Deferred<void> | null = null;
  private _final: StateChanged | null = null; // how it ended
  private _leaving: (() => void) | null = null; // set: something may have become safe
  private _closing: Promise<void> | null = null;
  private readonly _links = new Map<string, Link>();
  private readonly _channels = new Map<string, Channel>();
  private _pump: Pump | null = null;
  private _names = 0;
  private _unsafe = 0; // numbered, and neither stored nor settled
  private _abandoned = 0; // of those, how many the end of the client has cut off
  private readonly _commandsWaiting: Deferred<void>[] = []; // for their answers, and from `MAX_PENDING` on for room
  private readonly _listeners = new Set<(event: Event) => unknown>();
  private readonly _events = new Set<EventStream<Event>>();

  /** Throws `RangeError` for a URL or a `clientId` that cannot be, `TypeError` where there is no
   * WebSocket. */
  constructor(url: string, options: ClientOptions) {
    const { clientId, token = "", closeTimeout = CLOSE_TIMEOUT, resume = true, dial } = options;
    this.url = parseAddress(url);
    this.clientId = clientId;
    this.closeTimeout = closeTimeout;
    this._session = new Session(clientId, { random: Math.random, options: { ...DEFAULTS, ...options } });
    const Socket = options.WebSocket ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
    if (!dial && !Socket) throw new TypeError("pass a { WebSocket }");
    const dials = dial ?? dialler(this.url, Socket as WebSocketConstructor);
    this._page = new Page(`duolink ${clientId} at ${this.url}`, resume);
    this._driver = new Driver(this._session, dials, token, this._page, {
      deliver: (event) => this._deliver(event),
      writable: () => this._admit(),
      report: (what, error) => this._report(what, error),
    });
  }

  // --- life -----------------------------------------------------------------------------------------

  /** idle, connecting, online, reconnecting, offline or closed. */
  get state(): State {
    return this._session.state;
  }

  /** What the server said at the newest hello: limits, heartbeat, whether it stores. */
  get welcome(): Welcome | null {
    return this._session.welcome;
  }

  /** Why it is closed, as its methods throw it; null while it is not. */
  get ending(): ClientClosed | null {
    return this._ended ? this._ending() : null;
  }

  /** Connect. Throws `Unreachable` or `Refused`; a client can be opened once. */
  async open(): Promise<void> {
    if (this._opened || this._closing) throw new ClientClosed("opened already");
    this._opened = new Deferred();
    this._session.resume = await this._page.take();
    if (!this._closing) {
      this._page.listen({
        wake: () => this._driver.wake(),
        doubt: () => this._driver.doubt(),
        leaving: () => (this._ended ? null : this.welcome),
      });
      this._driver.start();
    }
    await this._opened.promise;
    if (!this._final) return;
    await this._release();
    throw this._failure(this._final);
  }

  /** Leave: wait up to `closeTimeout` seconds until everything sent is safe, send what acknowledgements are
   * owed, say goodbye, and release everything. Throws `Unsettled` when not everything was safe in time.
   * Repeating is harmless. */
  async close(): Promise<void> {
    this._closing ??= Promise.resolve().then(() => this._leave()); // not within a turn of the driver
    await this._closing;
    if (this._abandoned) throw new Unsettled(this._abandoned);
  }

  /** Cut the connection off, as a network would; the client comes back by itself. For tests and
   * demonstrations. */
  cut(): void {
    this._driver.cut();
  }

  private async _leave(): Promise<void> {
    let late = !(this.closeTimeout > 0) || this.state === "idle" || this.state === "connecting";
    const timer = setTimeout(
      () => {
        late = true;
        this._leaving?.();
      },
      Math.min(this.closeTimeout * 1000, MAX_TIMER),
    );
    while (!late && !this._allSafe()) {
      await new Promise<void>((resolve) => {
        this._leaving = resolve;
      });
    }
    clearTimeout(timer);
    this._leaving = null;
    await this._release();
  }

  private _allSafe(): boolean {
    if (this._ended) return true;
    if (this._unsafe || [...this._links.values()].some((link) => link._queued)) return false;
    return this.state === "online" || ![...this._session.links.values()].some((machine) => machine.owesAcks);
  }

  private async _release(): Promise<void> {
    await this._driver.stop();
    this._page.leave();
  }

  // --- links and channels ---------------------------------------------------------------------------

  /** Return the link to a peer. `watch` (default: true): hear of its state. Throws `RangeError` for what
   * cannot be a peer, or when as many peers are watched as the server allows (then pass `watch: false`),
   * `ClientClosed`. */
  link(peer: string, { watch = true }: { readonly watch?: boolean } = {}): Link {
    this._checkOpen();
    const session = this._session;
    session.link(peer);
    if (watch && !peer.startsWith("@") && !session.watched.has(peer)) {
      const most = this.welcome?.limits.watched ?? MAX_WATCHED;
      if (session.watched.size >= most) throw new RangeError(`${most} watched; pass watch: false`);
      session.watch(peer);
      this._flush();
    }
    return this._link(peer);
  }

  /** Hear no more of a peer's state; its link goes on. */
  unwatch(peer: string): void {
    this._session.unwatch(peer);
    this._flush();
  }

  /** Return a channel. Throws `RangeError` for what cannot be its name. */
  channel(name: string): Channel {
    return obtain(this._channels, name, () => {
      if (!isId(name, MAX_CHANNEL)) throw impossible("channel", name);
      return new Channel(this, name);
    });
  }

  /** Iterate over the messages of all peers that have no reader of their own, first contacts included. */
  messages(how: ReadOptions & { readonly losses: true }): MessageStream<Item>;
  messages(how?: ReadOptions): MessageStream;
  messages(how: ReadOptions = {}): MessageStream<Item> {
    return new MessageStream(this, null, how);
  }

  /** Hand the messages of all peers without a reader of their own to a function; see `Link.onMessage`. */
  onMessage(handler: MessageHandler | null): void {
    this._pump = this._replacePump(this._pump, null, handler);
  }

  /** Answer the requests of peers whose link has no such handler. See `Link.onRequest`. */
  onRequest(handler: MessageHandler | null): void {
    this._onRequest = handler;
    if (!handler) return;
    for (const link of this._links.values())
      if (!link._onRequest) this._requests.serveHeld(link.peer, handler);
  }

  // --- events ---------------------------------------------------------------------------------------

  /** Iterate over what happens from now on; ends when the client is closed. */
  events(): EventStream<Event> {
    return new EventStream(this._events, this._ended);
  }

  /** Have a function called for every event. Returns a function that stops it. */
  onEvent(listener: (event: Event) => unknown): () => void {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  // --- for links, channels and streams --------------------------------------------------------------

  /** @internal Whether it is closed. */
  get _ended(): boolean {
    return this._session.state === "closed";
  }

  /** @internal */
  _now(): number {
    return this._driver.now();
  }

  /** @internal Throw `ClientClosed` (or what it is in detail) when the client cannot be used; `early`: it may
   * be used before it is open. */
  _checkOpen(early = false): void {
    if (this._ended) throw this._ending();
    if (!early && !this._session.welcome) throw new ClientClosed("not open yet");
  }

  /** @internal Whether an iteration ends because the client is closed: quietly by its own user, else by
   * throwing. */
  _streamEnded(): boolean {
    if (!this._ended) return false;
    const ending = this._ending();
    if (ending instanceof Refused) throw ending;
    return true;
  }

  private _ending(): ClientClosed {
    const final = this._final;
    if (final && !mayReconnect(final.code)) return new Refused(final.code, final.reason, final.error);
    return new ClientClosed();
  }

  private _failure(final: StateChanged): Error {
    const ending = this._ending();
    if (ending instanceof Refused || this._closing) return ending;
    return new Unreachable(this.url, final.reason || "no answer");
  }

  /** @internal */
  get _congested(): boolean {
    return this._driver.congested;
  }

  /** @internal */
  _flush(): void {
    if (this._opened && !this._ended) this._driver.flush();
  }

  /** @internal */
  _touched(machine: Machine): void {
    this._session.touch(machine);
    this._flush();
  }

  /** @internal */
  _numbered(machine: Machine): void {
    this._unsafe += 1;
    this._touched(machine);
  }

  private _admit(): void {
    for (const link of this._links.values()) link._admit();
  }

  /** @internal */
  _encode(value: unknown): Body {
    const body = encode(value);
    const most = (this.welcome?.limits.message ?? MAX_MESSAGE) - ENVELOPE;
    const size = sizeOf(body);
    if (size > most) throw new InvalidData(`${size} bytes; at most ${most}`);
    return body;
  }

  /** @internal */
  _sendOnce(message: Signal | Ephemeral): boolean {
    this._checkOpen();
    if (this._congested || !this._session.send(message)) return false;
    this._flush();
    return true;
  }

  /** @internal Give the server a command; return its answer. Throws `CommandFailed`, `CommandTimeout`,
   * `ClientClosed`. */
  async _command(message: Command, patience: number): Promise<Answered> {
    this._checkOpen();
    const answer = new Deferred<Answered>();
    const stop = answer.expire(patience, () => timedOut(patience));
    const waiting = this._commandsWaiting;
    const turn = new Deferred<void>();
    if (waiting.push(turn) <= MAX_PENDING) turn.resolve();
    try {
      await Promise.race([turn.promise, answer.promise]);
      this._checkOpen();
      this._session.command(message, answer, this._now());
      this._flush();
      const answered = await answer.promise;
      const refusal = answered.answer;
      if (refusal.type !== "error") return answered;
      if (this._ended) throw this._ending();
      if (refusal.code === "conflict") throw new Conflict(refusal.version);
      throw new CommandFailed(refusal.code, refusal.message);
    } finally {
      stop();
      waiting.splice(waiting.indexOf(turn), 1);
      waiting[MAX_PENDING - 1]?.resolve();
      this._session.commands.forget(answer);
    }
  }

  /** @internal A name that no other request or command of this run has. */
  _newName(): string {
    this._names += 1;
    return `${this._session.run.toString(16)}-${this._names.toString(16)}`;
  }

  /** @internal Call an application's function; what it throws is reported. Returns what to wait for, if
   * anything. */
  _call(what: string, work: () => unknown): Promise<void> | null {
    try {
      const result = work();
      if (typeof (result as PromiseLike<unknown> | null)?.then !== "function") return null;
      return Promise.resolve(result).then(
        () => {},
        (error) => this._report(what, error),
      );
    } catch (error) {
      this._report(what, error);
      return null;
    }
  }

  /** @internal */
  _replacePump(pump: Pump | null, inbox: Inbox | null, handler: MessageHandler | null): Pump | null {
    pump?.stop();
    if (!handler) return null;
    this._checkOpen();
    const next = new Pump(this, inbox, handler);
    this._post.claim(inbox, next);
    return next;
  }

  private _link(peer: string): Link {
    return obtain(this._links, peer, () => new Link(this, peer));
  }

  /** @internal */
  _put(peer: string, item: Item): void {
    const overflow = this._post.put(peer, item);
    if (overflow) this._tell(overflow);
  }

  /** @internal A number has ended. */
  _settled({ entry, reason, certain }: Settled): void {
    const sent = entry.context;
    if (!(sent instanceof Sent)) return;
    this._isSafe(sent, Boolean(reason));
    sent._become(reason ? "lost" : "delivered", reason, certain);
  }

  /** @internal A mailbox has a number. */
  _stored({ entry }: StoredNumber): void {
    const sent = entry.context;
    if (!(sent instanceof Sent) || sent._safe) return;
    this._isSafe(sent, false);
    sent._become("stored");
  }

  private _isSafe(sent: Sent, lost: boolean): void {
    if (sent._safe) return;
    sent._safe = true;
    this._unsafe -= 1;
    if (lost && this._ended) this._abandoned += 1;
  }

  // --- what happened --------------------------------------------------------------------------------

  private _deliver(event: SessionEvent): void {
    switch (event.kind) {
      case "link":
        this._link(event.peer)._event(event.event, event.user);
        break;
      case "state":
        this._changed(event);
        break;
      case "answered":
        (event.context as Deferred<Answered>).resolve(event);
        break;
      case "ephemeral":
        this._ephemeral(event.ephemeral);
        break;
      case "signal": {
        const handler = this._links.get(event.signal.from)?._onSignal;
        if (handler) void this._call("signal handler", () => handler(valueIn(event.signal.data)));
        break;
      }
      case "trouble":
        this._trouble(event.code, event.reason);
        break;
      default:
        this._subscriptions.get(event.channel)?._event(event);
    }
    this._leaving?.();
  }

  /** What nobody keeps: without a handler it is dropped. */
  private _ephemeral({ channel, from, data }: Ephemeral): void {
    const handler = channel ? this._channels.get(channel)?._onEphemeral : this._links.get(from)?._onEphemeral;
    if (handler) void this._call("ephemeral handler", () => handler(valueIn(data), from));
  }

  private _changed(change: StateChanged): void {
    if (change.state === "closed") {
      this._final = change;
      this._end();
    } else if (change.state === "online" && this.welcome) this._page.began(this.welcome.session);
    this._tell(change);
    if (change.state === "closed") for (const stream of this._events) stream._end();
    if (change.state !== "connecting") this._opened?.resolve();
  }

  /** Tell everybody who waits. */
  private _end(): void {
    const ending = this._ending();
    this._requests.end(ending);
    for (const link of this._links.values()) link._end(ending);
    for (const subscription of this._subscriptions.values()) subscription._end(ending);
    this._post.wake();
  }

  /** @internal */
  _tell(event: Event): void {
    for (const listener of [...this._listeners]) {
      (async () => listener(event))().catch((error) => this._log("event listener", error));
    }
    for (const stream of this._events) stream._put(event);
  }

  /** @internal */
  _trouble(code: string, reason: string): void {
    console.warn(`duolink: ${this.clientId}: ${code}: ${reason}`);
    this._tell({ kind: "trouble", code, reason });
  }

  /** @internal An application's function threw: say so, and go on. */
  _report(what: string, error: unknown): void {
    this._log(what, error);
    this._tell({ kind: "handler_failed", what, error });
  }

  private _log(what: string, error: unknown): void {
    console.error(`duolink: a ${what} of ${this.clientId} failed:`, error);
  }
}

/** Connect to a server and return the client, online.
 *
 *     const client = await connect("wss://example.org", { clientId: "alice", token: () => fetchToken() });
 *     const sent = await client.link("bob").send({ hi: 1 });
 *     await sent.delivered();
 *     await client.close();
 *
 * `url` is `ws://` or `wss://` (without a path: `/ws`). Throws `Unreachable`, `Refused`, and `RangeError`
 * for a URL or a `clientId` that cannot be. */
export async function connect(url: string, options: ClientOptions): Promise<Client> {
  const client = new Client(url, options);
  await client.open();
  return client;
}
