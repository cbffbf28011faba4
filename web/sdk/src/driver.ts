/** The driver of a session: callbacks feed the machine, one timer wakes it, one flush per turn carries out
 * what it asks. */

import { CommandFailed } from "./errors.js";
import type { Page } from "./page.js";
import { ABNORMAL } from "./protocol/codes.js";
import type { Action, SessionEvent } from "./protocol/events.js";
import { CLOCK_JUMP } from "./protocol/limits.js";
import { type Message, make } from "./protocol/messages.js";
import type { Session } from "./protocol/session.js";
import type { Dial, Transport, TransportUser } from "./transport.js";

/** A token, or what returns a fresh one whenever the client connects or the old one is about to end. */
export type Token = string | (() => string | Promise<string>);

/** Seconds from the decision to connect to the open transport: token, name, TCP, TLS and upgrade. */
const CONNECT_TIMEOUT = 10;

/** Seconds for the far end to close after this one has; then nobody waits for it. */
const CLOSE_TIMEOUT = 2;

/** Longest time in seconds between two comparisons of the clocks: a machine that wakes up asks for life
 * this soon. */
const CLOCK_LOOK = 5;

/** Seconds before its end at which a token is replaced; a quarter of its life if that is shorter. */
const REFRESH_MARGIN = 60;

/** Seconds after a page woke up within which it hears that its connection had ended meanwhile: it comes back
 * at once. Browsers close those of pages they freeze or keep for "back", and say so after the waking; a busy one
 * takes its time. */
const WAKING = 10;

/** Seconds between two looks at a congested transport: no event tells that a WebSocket has sent. */
const DRAIN_LOOK = 0.05;

/** A flush waits until nothing more was asked for in so many microtasks, and for so many at most: so a loop of
 * `await link.send(x)` makes payloads of many messages, and not one of each. It costs less than a microsecond, and
 * no time that a timer would see. */
const QUIET = 8;
const HOPS = 1024;

/** What a driver tells its client. */
export interface DriverUser {
  /** An event of the session. */
  deliver(event: SessionEvent): void;
  /** Applications may go on sending. */
  writable(): void;
  /** Something went wrong in the background. */
  report(what: string, error: unknown): void;
}

/** Runs a session. */
export class Driver implements TransportUser {
  private _transport: Transport | null = null;
  private readonly _sockets = new Set<Transport>(); // not gone yet: the current one, and those that are closing
  private _dialling: Transport | null = null;
  private _attempt = 0; // counts openings; one that was given up knows it by that
  private _openBy = Infinity;
  private _freshToken = "";
  private _onlineAt = 0;
  private _renewAt = Infinity;
  private _timer: ReturnType<typeof setTimeout> | null = null;
  private _timerAt = Infinity;
  private _flushes = 0; // asked for since the flush was planned
  private _flushing = false;
  private _congested = false;
  private _wokeBefore = 0; // a connection lost before then was lost by the sleep
  private _gone: (() => void) | null = null;
  private _clocks: number;

  constructor(
    readonly session: Session,
    private readonly _dial: Dial,
    private readonly _token: Token,
    private readonly _page: Page,
    private readonly _user: DriverUser,
  ) {
    this._clocks = this._difference();
  }

  // --- the application's side -----------------------------------------------------------------------

  /** Whether the transport holds more than it should: no new messages now. */
  get congested(): boolean {
    if (this._transport?.congested && !this._congested) {
      this._congested = true;
      this._arm(this.now() + DRAIN_LOOK);
    }
    return this._congested;
  }

  /** The machine's clock. */
  now(): number {
    return performance.now() / 1000;
  }

  /** Begin to connect. */
  start(): void {
    this.session.start(this.now());
    this.flush();
  }

  /** Have what the application gave the session sent, together with the rest of this turn. */
  flush(): void {
    this._flushes += 1;
    if (this._flushing) return;
    this._flushing = true;
    this._hop(QUIET, HOPS);
  }

  private _hop(quiet: number, left: number): void {
    const flushes = this._flushes;
    queueMicrotask(() => {
      if (quiet && left) return this._hop(this._flushes > flushes ? QUIET : quiet - 1, left - 1);
      this._flushing = false;
      this._turn();
    });
  }

  /** Cut the connection off as a network would: the session resumes on another one. */
  cut(): void {
    this._transport?.abort();
  }

  /** The network is back, or another one, or the page woke up: ask for life, or come back now. */
  wake(): void {
    const now = this.now();
    this._wokeBefore = now + WAKING;
    this.session.networkChanged(now);
    this._turn();
  }

  /** The platform says that there is no network: see whether that is so. */
  doubt(): void {
    if (this.session.state === "online") this.wake();
  }

  /** Leave in order, and return when nothing is left: no timer, no socket. */
  async stop(): Promise<void> {
    this.session.close(this.now());
    this._turn();
    this._giveUpOpening();
    if (this._sockets.size) {
      await new Promise<void>((resolve) => {
        const timer = setTimeout(resolve, CLOSE_TIMEOUT * 1000);
        this._gone = () => {
          clearTimeout(timer);
          resolve();
        };
      });
    }
    for (const transport of [...this._sockets]) transport.abort();
    this._disarm();
  }

  // --- the machine's turn ---------------------------------------------------------------------------

  /** Let the machine do what is due, carry out what it asks, tell what happened. */
  private _turn(): void {
    const session = this.session;
    const now = this.now();
    this._lookAtClocks(now);
    this._lookAtDeadlines(now);
    if (this._page.slow) session.hurry(now);
    for (const action of session.take(now)) this._act(action);
    for (const event of session.events()) {
      if (event.kind === "state" && event.state === "online") {
        this._onlineAt = now;
        this._planRenewal(session.welcome?.expires ?? 0);
      }
      if (event.kind === "answered" && event.context === this) this._renewed(event.answer);
      else this._user.deliver(event);
    }
    if (session.state === "closed") this._disarm();
    else this._arm(Math.min(session.nextTimer(now), this._openBy, this._renewAt, now + CLOCK_LOOK));
  }

  private _act(action: Action): void {
    if (action.kind === "send") this._transport?.send(action.payload);
    else if (action.kind === "open") void this._open();
    else if (action.kind === "close") {
      const transport = this._transport;
      this._transport = null;
      if (transport) transport.close(action.code, action.reason);
      else this._giveUpOpening();
    }
  }

  private _difference(): number {
    return (Date.now() - performance.now()) / 1000;
  }

  private _lookAtClocks(now: number): void {
    const clocks = this._difference();
    if (Math.abs(clocks - this._clocks) > CLOCK_JUMP) this.session.networkChanged(now);
    this._clocks = clocks;
  }

  private _lookAtDeadlines(now: number): void {
    if (now >= this._openBy) {
      this._giveUpOpening();
      this.session.lost(ABNORMAL, `no connection within ${CONNECT_TIMEOUT} s`, now);
    }
    if (now >= this._renewAt) {
      this._renewAt = Infinity;
      if (this.session.state === "online") void this._renew();
    }
    if (this._congested && !this._transport?.congested) {
      this._congested = false;
      this._user.writable();
    } else if (this._congested) this._arm(now + DRAIN_LOOK);
  }

  private _arm(at: number): void {
    if (this._timer !== null) {
      if (this._timerAt <= at) return; // it fires early, and is armed anew then
      clearTimeout(this._timer);
    }
    this._timerAt = at;
    const late = Math.max(Math.ceil((at - this.now()) * 1000), 0);
    this._timer = setTimeout(() => {
      this._timer = null;
      this._turn();
      this._user.writable(); // what has expired has made room
    }, late);
  }

  private _disarm(): void {
    if (this._timer !== null) clearTimeout(this._timer);
    this._timer = null;
  }

  // --- opening --------------------------------------------------------------------------------------

  private async _open(): Promise<void> {
    this._attempt += 1;
    const attempt = this._attempt;
    this._openBy = this.now() + CONNECT_TIMEOUT;
    try {
      const token = await this._ask();
      if (attempt !== this._attempt) return;
      this._freshToken = token;
    } catch (error) {
      if (attempt !== this._attempt) return;
      this._user.report("token", error); // the application's own
      return this._failed(`no token: ${explain(error)}`);
    }
    try {
      this._dialling = this._dial(this);
      this._sockets.add(this._dialling);
    } catch (error) {
      this._failed(explain(error));
    }
  }

  private async _ask(): Promise<string> {
    return (typeof this._token === "function" ? await this._token() : this._token) || "";
  }

  private _giveUpOpening(): void {
    this._attempt += 1;
    this._openBy = Infinity;
    const dialling = this._dialling;
    this._dialling = null;
    dialling?.abort();
  }

  private _failed(reason: string): void {
    this._giveUpOpening();
    this.session.lost(ABNORMAL, reason, this.now());
    this._turn();
  }

  // --- renewing the token ---------------------------------------------------------------------------

  /** The token ends at that time of the server's clock, in milliseconds; 0: never. */
  private _planRenewal(expires: number): void {
    this._renewAt = Infinity;
    const welcome = this.session.welcome;
    if (!expires || typeof this._token !== "function" || !welcome) return;
    const now = this.now();
    const life = (expires - welcome.time) / 1000 - (now - this._onlineAt);
    if (life > 0) this._renewAt = now + life - Math.min(REFRESH_MARGIN, life / 4);
  }

  private async _renew(): Promise<void> {
    try {
      const token = await this._ask();
      if (this.session.state === "closed") return;
      this.session.command(make("refresh", { id: 0, token }), this, this.now());
      this.flush();
    } catch (error) {
      this._user.report("token", error); // the application's own; at the token's end the server hangs up
    }
  }

  private _renewed(answer: Message): void {
    if (answer.type === "refreshed") {
      this._planRenewal(answer.expires);
      this._arm(this._renewAt);
    } else if (this.session.state !== "closed" && answer.type === "error") {
      this._user.report("token", new CommandFailed(answer.code, answer.message));
    }
  }

  // --- TransportUser --------------------------------------------------------------------------------

  /** See `TransportUser`. */
  opened(transport: Transport): void {
    if (transport !== this._dialling) return transport.abort();
    this._dialling = null;
    this._openBy = Infinity;
    this._transport = transport;
    this.session.commands.forget(this); // a refresh: the hello has a fresher token
    this.session.opened(this._freshToken, this.now());
    this._turn();
  }

  /** See `TransportUser`. */
  received(transport: Transport, payload: string | Uint8Array): void {
    if (transport !== this._transport) return;
    this.session.received(payload, this.now());
    this._turn();
  }

  /** See `TransportUser`. */
  closed(transport: Transport, code: number, reason: string): void {
    if (transport === this._dialling) {
      this._dialling = null;
      return this._failed(reason || "no connection");
    }
    if (transport !== this._transport) return;
    this._transport = null;
    const now = this.now();
    this.session.lost(code, reason, now);
    if (now < this._wokeBefore) {
      this._wokeBefore = 0; // once
      this.session.networkChanged(now);
    }
    this._turn();
  }

  /** See `TransportUser`. */
  gone(transport: Transport): void {
    this._sockets.delete(transport);
    if (!this._sockets.size) this._gone?.();
  }
}

/** What a person wants to read of an error. */
function explain(error: unknown): string {
  return String((error as Error | null)?.message ?? error);
}
