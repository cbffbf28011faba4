/**
 * A client's end of everything: connection states, hello and resume, commands, links, channels.
 *
 * Like the rest of `protocol`, a machine without input and output. The driver tells it what happened, with
 * `now` (monotonic seconds), and then does what `take(now)` asks: open a transport, send payloads, close
 * it. One transport at a time: the driver drops what still comes from an earlier one.
 */

import { Backoff } from "./backoff.js";
import {
  compareIds,
  Decoder,
  encode,
  impossible,
  isClientId,
  isUser,
  Malformed,
  SERVER,
  utf8Length,
} from "./codec.js";
import {
  ABNORMAL,
  HEARTBEAT_LOST,
  HELLO_TIMEOUT,
  mayReconnect,
  NO_CODE,
  NORMAL,
  PROTOCOL_ERROR,
} from "./codes.js";
import { type Command, Commands } from "./commands.js";
import type { Action, Answered, SessionEvent, State, StateChanged } from "./events.js";
import { Heartbeat } from "./heartbeat.js";
import { MAX_LINKS, MAX_MESSAGE, MAX_UNNUMBERED, PROTOCOL, STABLE_AFTER } from "./limits.js";
import { keyOf, Link } from "./link.js";
import {
  type Ephemeral,
  type ErrorMessage,
  type Message,
  make,
  OF_SERVER,
  type Signal,
  type Welcome,
} from "./messages.js";
import { DEFAULTS, type Options } from "./options.js";
import type { PathChoice } from "./paths.js";
import { payloads } from "./payload.js";
import { SERVER as SERVER_PATH } from "./sending.js";
import { Subscriptions } from "./subscriptions.js";

/** Seconds below which no server may make its clients ping or wait. */
const SHORTEST_BEAT = 0.1;

/** What it takes to resume a session. */
export interface Resumption {
  readonly session: string;
  readonly secret: string;
}

/** How a session begins. `random` returns numbers in [0, 1). */
export interface SessionSettings {
  readonly random: () => number;
  readonly options?: Options;
  /** The session of the page before this one. Its run is not resumed: this is another process. */
  readonly resume?: Resumption | null;
  /** Makes the paths of each link, where there are others than the server's. */
  readonly paths?: () => PathChoice;
}

/** The machine behind a client. */
export class Session {
  readonly options: Options;
  state: State = "idle";
  welcome: Welcome | null = null;
  run = 0;
  readonly links = new Map<string, Link>();
  readonly subscriptions = new Subscriptions();
  readonly watched = new Set<string>();
  readonly commands = new Commands();
  /** What the first hello resumes; the welcome replaces it. */
  resume: Resumption | null;
  private readonly _random: () => number;
  private readonly _paths: SessionSettings["paths"];
  private readonly _backoff: Backoff;
  private _transport = false; // one is open
  private _online = false;
  private _onlineSince = Infinity;
  private _lostAt = Infinity;
  private _openAt = Infinity;
  private _resubscribeAt = Infinity;
  private _helloBy = Infinity;
  private _heartbeat: Heartbeat | null = null;
  private _watchChanged = false;
  private _nextId = 1;
  private _pings = 0;
  private _notBefore = 0; // seconds the server asked to wait at least, on the next reconnect
  private _spread = 0;
  private _earliest = 0; // the next attempt is not to come before
  private _goodbye = 0; // the code of the server's goodbye
  private _refusal = "";
  private _decoder = SERVER;
  private readonly _touched = new Set<Link>();
  private readonly _timers = new Map<Link, number>(); // what each link last said; stale for those touched
  private _out: Message[] = [];
  private _actions: Action[] = [];
  private _events: SessionEvent[] = [];

  constructor(
    readonly clientId: string,
    settings: SessionSettings,
  ) {
    if (!isClientId(clientId)) throw impossible("client id", clientId);
    const options = settings.options ?? DEFAULTS;
    this.options = options;
    this.resume = settings.resume ?? null;
    this._random = settings.random;
    this._paths = settings.paths;
    this._backoff = new Backoff(options.backoffInitial, options.backoffFactor, options.backoffCap);
  }

  // --- the application ------------------------------------------------------------------------------

  /** Begin to connect. */
  start(now: number): void {
    this._change("connecting");
    this._openAt = now;
  }

  /** The link to a peer, made when it is not there. With `user`: what the peer sends to that user. Throws
   * `RangeError` before the first welcome, for what cannot be a client, and for one
   * more than `MAX_LINKS`. */
  link(peer: string, user = ""): Link {
    const known = this.links.get(keyOf(peer, user));
    if (known) return known;
    const possible = isClientId(peer) || peer === "$server" || isUser(peer);
    if ((peer === this.clientId && !user) || !possible) {
      throw impossible("peer", peer);
    }
    if (!this.welcome) throw new RangeError("not open yet"); // no run, hence no numbers to give
    if (this.links.size >= MAX_LINKS) throw new RangeError("too many links");
    const { limits, durable } = this.welcome;
    const settings = {
      window: limits.window,
      windowBytes: limits.window_bytes,
      durable,
      user,
      paths: this._paths?.(),
    };
    const link = new Link(peer, this.run, settings);
    if (this._online) link.pathUp(SERVER_PATH, "server", 0);
    this.links.set(link.key, link);
    return link;
  }

  /** The application has given the link something to do: the next `take` looks at it. */
  touch(link: Link): void {
    this._touched.add(link);
  }

  /** Let no acknowledgement wait for company: the next timer may come late. */
  hurry(now: number): void {
    for (const link of this.links.values()) {
      if (!link.owesAcks) continue;
      link.hurry(now);
      this._touched.add(link);
    }
  }

  /** Hear of a peer's state. */
  watch(peer: string): void {
    if (this.watched.has(peer)) return;
    this.watched.add(peer);
    this._watchChanged = true;
  }

  /** Hear no more of it. */
  unwatch(peer: string): void {
    if (this.watched.delete(peer)) this._watchChanged = true;
  }

  /** Give a command; `answered` follows, over as many connections as it takes. A publish needs a key. Throws
   * `RangeError` when too many wait. */
  command(message: Command, context: unknown, now: number): void {
    message.id = this._id();
    this.commands.add(message, context);
    if (this._online) this._out.push(...this.commands.send(now, message.id));
  }

  /** Send at most once: now, or not at all. Returns whether it was sent. */
  send(message: Signal | Ephemeral): boolean {
    if (!this._online || this._out.length >= MAX_UNNUMBERED) return false;
    this._out.push(message);
    return true;
  }

  /** Leave: acknowledgements go out, then a goodbye, which ends the session. */
  close(now: number, code: number = NORMAL, reason = ""): void {
    if (this._online) {
      this.hurry(now);
      this._gather(now);
      this._out.push(make("goodbye", { code, reason }));
    }
    this._end({ kind: "state", state: "closed", code, reason, error: "" });
  }

  // --- the transport --------------------------------------------------------------------------------

  /** The transport that `open` asked for is there. */
  opened(token: string, now: number): void {
    if (this.state === "closed") {
      this._actions.push({ kind: "close", code: NORMAL, reason: "closed" });
      return;
    }
    this._transport = true;
    this._helloBy = now + this.options.helloTimeout;
    const hello = make("hello", { protocol: PROTOCOL, client_id: this.clientId, token, run: this.run });
    const resume = this.welcome ?? this.resume;
    if (resume) {
      hello.session = resume.session;
      hello.secret = resume.secret;
    }
    // A resumed session has the sets of before: it must hear even that one is empty now.
    if (this.subscriptions.size || resume) hello.subscriptions = this.subscriptions.hello();
    if (this.watched.size || resume) hello.watch = this._watchedList();
    // What makes a hello too large for one message is said after the welcome.
    this._watchChanged = utf8Length(encode(hello)) > MAX_MESSAGE;
    if (this._watchChanged) {
      hello.watch = undefined;
      if (utf8Length(encode(hello)) > MAX_MESSAGE) {
        hello.subscriptions = [];
        this.subscriptions.forgetAsked();
      }
    }
    this._out.push(hello);
  }

  /** The transport has ended, or could not be opened. */
  lost(code: number, reason: string, now: number): void {
    if (this.state === "closed") return;
    const wasOnline = this._online;
    this._online = this._transport = false;
    this._helloBy = Infinity;
    this._heartbeat = null;
    this._out = [];
    if (wasOnline) {
      for (const link of this.links.values()) {
        link.pathDown(SERVER_PATH);
        this._touched.add(link);
      }
      this._lostAt = now;
      if (now - this._onlineSince >= STABLE_AFTER) this._backoff.reset();
    }
    const error = this._refusal;
    this._refusal = "";
    if ((code === ABNORMAL || code === NO_CODE) && this._goodbye) code = this._goodbye;
    this._goodbye = 0;
    const first = this.state === "connecting";
    if (!mayReconnect(code)) {
      this._end({ kind: "state", state: "closed", code, reason, error });
      return;
    }
    if (first && this._backoff.attempts >= this.options.firstTries - 1) {
      this._end({ kind: "state", state: "closed", code, reason: reason || "unreachable", error });
      return;
    }
    if (this.state === "online") this._change("reconnecting", code, reason);
    this._earliest = now + Math.max(this._notBefore, this._random() * this._spread);
    this._notBefore = this._spread = 0;
    this._openAt = Math.max(now + this._backoff.next(this._random()), this._earliest);
  }

  /** The platform says the network is back or another one, or the machine woke up: do not wait for timers,
   * and begin the backoff anew, for the platform may say so before it is true. */
  networkChanged(now: number): void {
    if (this._heartbeat) return this._heartbeat.suspect(now);
    this._backoff.reset();
    if (this._openAt < Infinity) this._openAt = Math.max(now, this._earliest);
  }

  /** The transport saw a control frame. */
  alive(now: number): void {
    this._heartbeat?.alive(now);
  }

  /** A payload came on the transport. */
  received(payload: string | Uint8Array, now: number): void {
    this._heartbeat?.alive(now);
    const messages =
      typeof payload === "string" ? this._decoder.text(payload) : this._decoder.binary(payload);
    for (const message of messages) {
      if (this._transport && this.state !== "closed") this._receive(message, now);
    }
  }

  private _receive(message: Message | Malformed, now: number): void {
    if (message instanceof Malformed) return this._trouble(message.code, message.reason);
    switch (message.type) {
      case "message":
      case "skip":
      case "probe":
        if (this._online) this._toLink(message.from, message, now, message.user);
        return;
      case "ack":
        if (this._online) this._toLink(message.from, message, now);
        return;
      case "wait":
      case "stored":
        return this._toLink(message.to, message, now);
      case "peer":
        return this._toLink(message.client_id, message, now);
      case "welcome":
        return this._welcomed(message, now);
      case "goodbye":
        this._spread = message.spread / 1000;
        this._goodbye = message.code;
        return;
      case "error":
        return this._error(message, now);
      case "ping":
        // Before its welcome a client says nothing but hello.
        if (this._online) this._out.push(make("pong", { id: message.id }));
        return;
      case "signal":
        this._events.push({ kind: "signal", signal: message });
        return;
      case "ephemeral":
        this._events.push({ kind: "ephemeral", ephemeral: message });
        return;
      case "published":
      case "refreshed":
        return this._answered(this.commands.answer(message.id, message));
      case "history_page":
        return this._answered(this.commands.page(message));
      case "publication":
        if (message.page) return this._answered(this.commands.entry(message));
        break;
      case "presence_list":
        if (message.id) return this._answered(this.commands.answer(message.id, message));
        break;
    }
    const event = this.subscriptions.receive(message);
    if (event) this._events.push(event);
  }

  private _welcomed(welcome: Welcome, now: number): void {
    if (this._online || !this._transport) return;
    if (this.run && welcome.run !== this.run) {
      this._trouble("run", "it changed");
      this._drop(PROTOCOL_ERROR, "another run", now);
      return;
    }
    this.welcome = welcome;
    this.run = welcome.run;
    this._online = true;
    this._onlineSince = now;
    this._helloBy = this._lostAt = Infinity;
    this._spread = welcome.reconnect_spread / 1000;
    const { heartbeat, limits } = welcome;
    const interval = Math.max(heartbeat.interval / 1000, SHORTEST_BEAT);
    const timeout = Math.min(Math.max(heartbeat.timeout / 1000, SHORTEST_BEAT), interval);
    this._heartbeat = new Heartbeat({ interval, timeout, misses: Math.max(heartbeat.misses, 1) }, now);
    this.subscriptions.maximum = limits.subscriptions;
    this._decoder = limits.message <= MAX_MESSAGE ? SERVER : new Decoder(OF_SERVER, limits.message);
    for (const link of this.links.values()) {
      link.adapt(limits.window, limits.window_bytes, welcome.durable);
      link.pathUp(SERVER_PATH, "server", now);
      this._touched.add(link);
    }
    this._out.push(...this.commands.send(now));
    this._change("online");
  }

  private _toLink(peer: string, message: Message, now: number, user = ""): void {
    // What came for the user this client belongs to is a stream of its own.
    let link = this.links.get(keyOf(peer, user));
    if (!link) {
      const watched = message.type === "peer" && this.watched.has(peer);
      if (!watched && message.type !== "message" && message.type !== "skip" && message.type !== "probe")
        return;
      try {
        link = this.link(peer, user);
      } catch (error) {
        return this._trouble("peer", (error as Error).message);
      }
    }
    link.receive(message, SERVER_PATH, now);
    this._touched.add(link);
  }

  private _error(error: ErrorMessage, now: number): void {
    if (error.fatal) {
      this._refusal = error.code;
      this._notBefore = error.retry_after / 1000;
    } else if (this.commands.has(error.id)) {
      this._answered(this.commands.answer(error.id, error));
    } else if (error.channel) {
      const event = this.subscriptions.receive(error);
      const wait = this.subscriptions.retryAfter;
      if (event) this._events.push(event);
      else if (wait) this._resubscribeAt = now + wait / 1000;
    } else if (error.to && error.seq) this._toLink(error.to, error, now);
    else this._trouble(error.code, error.message);
  }

  private _answered(answered: Answered | null): void {
    if (answered) this._events.push(answered);
  }

  private _trouble(code: string, reason: string): void {
    this._events.push({ kind: "trouble", code, reason });
  }

  // --- time, and what leaves ------------------------------------------------------------------------

  /** Return, and forget, what the application should hear. */
  events(): SessionEvent[] {
    const events = this._events;
    this._events = [];
    return events;
  }

  /** Return what the driver is to do now. */
  take(now: number): Action[] {
    this._time(now);
    if (this.state !== "closed") this._gather(now);
    if (this._transport) this._actions.push(...payloads(this._out));
    this._out = [];
    const actions = this._actions;
    this._actions = [];
    if (this.state === "closed") this._transport = false;
    return actions;
  }

  /** When `take` has something to do, if nothing happens before; infinity: never. */
  nextTimer(now: number): number {
    if (this.state === "closed") return Infinity;
    let timer = Math.min(this._openAt, this._helloBy, this._resubscribeAt);
    if (this._heartbeat) timer = Math.min(timer, this._heartbeat.nextTimer());
    if (this.state === "reconnecting") timer = Math.min(timer, this._lostAt + this.options.resumeWindow);
    if (this._touched.size) timer = Math.min(timer, now);
    for (const each of this._timers.values()) timer = Math.min(timer, each);
    return timer;
  }

  private _time(now: number): void {
    if (now >= this._openAt) {
      this._openAt = Infinity;
      this._actions.push({ kind: "open" });
    }
    if (now >= this._resubscribeAt) {
      this._resubscribeAt = Infinity;
      this.subscriptions.retry();
    }
    if (now >= this._helloBy) this._drop(HELLO_TIMEOUT, "no welcome", now);
    if (this.state === "reconnecting" && now >= this._lostAt + this.options.resumeWindow)
      this._change("offline");
    const beat = this._heartbeat?.poll(now);
    if (beat === "ping") {
      this._pings += 1;
      this._out.push(make("ping", { id: this._pings }));
    } else if (beat === "lost") this._drop(HEARTBEAT_LOST, "the server does not answer", now);
  }

  private _gather(now: number): void {
    if (this._online) {
      for (const command of this.subscriptions.commands(this._nextId)) {
        this._id();
        this._out.push(command);
      }
      if (this._watchChanged) {
        this._watchChanged = false;
        this._out.push(make("watch", { id: this._id(), clients: this._watchedList() }));
      }
    }
    for (const link of this.links.values()) {
      if (!this._touched.has(link) && (this._timers.get(link) ?? Infinity) > now) continue;
      for (const [path, message] of link.take(now)) {
        if (path === SERVER_PATH) this._out.push(message);
        else {
          for (const { payload } of payloads([message])) {
            this._actions.push({ kind: "carry", peer: link.peer, path, payload });
          }
        }
      }
      this._fromLink(link, link.events());
      this._timers.set(link, link.nextTimer(now));
    }
    this._touched.clear();
  }

  private _fromLink(link: Link, events: ReturnType<Link["events"]>): void {
    const { peer, user } = link;
    for (const event of events) this._events.push({ kind: "link", peer, event, user });
  }

  private _watchedList(): string[] {
    return [...this.watched].sort(compareIds);
  }

  private _id(): number {
    return this._nextId++;
  }

  private _drop(code: number, reason: string, now: number): void {
    this._actions.push({ kind: "close", code, reason });
    this.lost(code, reason, now);
  }

  private _change(state: State, code = 0, reason = ""): void {
    this.state = state;
    this._events.push({ kind: "state", state, code, reason, error: "" });
  }

  private _end(change: StateChanged): void {
    if (this.state === "closed") return;
    if (this._transport) {
      this._actions.push(...payloads(this._out));
      this._actions.push({ kind: "close", code: change.code, reason: change.reason });
    }
    this._out = [];
    this._online = false;
    this._openAt = this._helloBy = Infinity;
    this._heartbeat = null;
    this.state = "closed";
    for (const link of this.links.values()) {
      this._fromLink(link, link.events());
      this._fromLink(link, link.abandon(change.error || "closed"));
    }
    this._events.push(...this.commands.abandon(change.reason), change);
  }
}
