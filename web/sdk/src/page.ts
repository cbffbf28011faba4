/**
 * What a page does to a client that lives in it: it sleeps, it is hidden and its timers become slow, it is
 * reloaded. Outside a page (in a worker, in Node) there is less of that, or nothing.
 *
 * A reload is a new process: it has forgotten what it had numbered, so it presents no run and gets a new
 * one (docs/protocol.md §5). But it may resume the *session* of the page before it, with that one's
 * secret: its connection is replaced without a probe, and a channel sees no leave and join if the new page
 * subscribes to it before it opens its client. The secret lies
 * in `sessionStorage` only between two pages: it is written when a page goes and consumed when the next
 * one reads it. "Duplicate tab" copies that storage, so a session belongs to the page that holds a Web
 * Lock of its name; who does not get the lock, or has no Web Locks, begins a new session, and the server
 * decides about the name.
 */

import type { Resumption } from "./protocol/session.js";

/** Milliseconds a new page waits for the lock of the one before it, which the browser is about to release. */
const LOCK_PATIENCE = 500;

/** Further requests for one lock, if the browser fails the first: in some pages, none ever comes through. */
const LOCK_RETRIES = 2;

/** What a page tells the driver. */
export interface PageUser {
  /** It woke up, or the network is back. */
  wake(): void;
  /** There may be no network. */
  doubt(): void;
  /** It goes, for now or for good: return what the next one may resume. */
  leaving(): Resumption | null;
}

/** The page a client lives in. `name` tells its clients apart. */
export class Page {
  private readonly _left = new AbortController();
  private _release?: () => void;
  private _session = "";

  /** `resume`: sessions go from page to page. */
  constructor(
    private readonly _name: string,
    private readonly _resume: boolean,
  ) {}

  /** Whether timers may come very late here: then nothing should wait for one. */
  get slow(): boolean {
    return globalThis.document?.visibilityState === "hidden";
  }

  /** Begin to listen. */
  listen(user: PageUser): void {
    const { document, navigator } = globalThis;
    const page = globalThis as unknown as Partial<EventTarget>;
    const connection = (navigator as { connection?: Partial<EventTarget> } | undefined)?.connection;
    const on = (target: Partial<EventTarget> | undefined, type: string, listener: () => void) =>
      target?.addEventListener?.(type, listener, { signal: this._left.signal });
    const wake = () => user.wake();
    const doubt = () => user.doubt();
    on(page, "online", wake);
    on(page, "offline", doubt);
    on(page, "pageshow", () => {
      this._consume(); // from the back/forward cache: nobody else may resume what lives on
      wake();
    });
    on(page, "pagehide", () => this._keep(user.leaving()));
    on(document, "visibilitychange", () => this.slow || wake());
    on(document, "resume", wake);
    on(connection, "change", doubt);
  }

  /** Listen no more: the client is closed, and its session with it. */
  leave(): void {
    this._left.abort();
    this._release?.();
    this._session = "";
  }

  /** Take over, once, what the page before this one has left; null: nothing, or another page has it. */
  async take(): Promise<Resumption | null> {
    const kept = this._consume();
    const own = kept && this._own(kept.session, { signal: AbortSignal.timeout(LOCK_PATIENCE) });
    return (await own) ? kept : null;
  }

  /** This page's client has a session now. It waits for the lock as long as it takes: nobody else can have
   * it, and a page that gave up, because the browser was busy, would lose its session to a duplicate. */
  began(session: string): void {
    if (session !== this._session) void this._own(session);
  }

  private get _storage(): Storage | null {
    try {
      return this._resume && globalThis.document ? globalThis.sessionStorage : null;
    } catch {
      return null; // a sandboxed page has none
    }
  }

  private get _locks(): LockManager | undefined {
    return globalThis.navigator?.locks;
  }

  private _keep(resumption: Resumption | null): void {
    if (!resumption || !this._locks) return;
    const { session, secret } = resumption;
    try {
      this._storage?.setItem(this._name, JSON.stringify({ session, secret }));
    } catch {
      // Full, or forbidden: the next page begins a new session.
    }
  }

  private _consume(): Resumption | null {
    const text = this._storage?.getItem(this._name);
    if (!text) return null;
    this._storage?.removeItem(this._name);
    try {
      const { session, secret } = JSON.parse(text);
      return typeof session === "string" && typeof secret === "string" ? { session, secret } : null;
    } catch {
      return null;
    }
  }

  /** Hold the lock of a session until the page or the client is gone. Returns whether it was free. A request
   * is made again when the browser fails it: Chromium does, if it would grant it while the page is in
   * `window.open` ("callback is no longer runnable"), and who went on without would lose its session. */
  private async _own(session: string, options: LockOptions = {}): Promise<boolean> {
    const locks = this._locks;
    if (!locks || !this._storage) return false;
    this._release?.();
    this._session = session;
    return new Promise((resolve) => {
      const held = () =>
        new Promise<void>((release) => {
          resolve(true);
          this._release = release;
          if (session !== this._session) release(); // the client has gone on meanwhile
        });
      const ask = (more: number): unknown =>
        locks
          .request(`duolink ${session}`, options, held)
          .catch(() => (more ? ask(more - 1) : resolve(false)));
      ask(LOCK_RETRIES);
    });
  }
}
