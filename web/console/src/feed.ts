/** The live feed: keeps the stream of samples and happenings open, and comes back when it breaks. */

import type { Api } from "./api/api.js";
import { Problem } from "./api/api.js";
import { EventStreamParser, type StreamEvent } from "./api/eventstream.js";
import type { Happening, ServerFacts, Stats } from "./api/shapes.js";

/** Milliseconds between two samples. */
export const INTERVAL = 1000;

/** Milliseconds without a byte after which the stream counts as lost: ten samples are missing. */
const SILENCE = 10_000;

/** Milliseconds until the first attempt to come back; doubled with each, up to the most. */
const FIRST_RETRY = 1000;
const MOST_RETRY = 15_000;

/** How the console stands with the API. */
export type Connection =
  | { state: "connecting" }
  | { state: "live" }
  /** `since`: of which time what is shown is; null: nothing was shown yet. */
  | { state: "lost"; since: number | null; reason: string; retryAt: number }
  | Refusal;

/** A token is needed (401), or this one does not allow it (403). Nothing is tried until `restart`. */
export interface Refusal {
  state: "refused";
  status: number;
  detail: string;
}

/** What a feed tells. */
export interface FeedUser {
  connection(connection: Connection): void;
  server(facts: ServerFacts): void;
  stats(sample: Stats): void;
  happened(happening: Happening): void;
}

export class Feed {
  private _stop = new AbortController();
  private _wake: (() => void) | null = null;
  private _lastId = "";
  private _heard: number | null = null;

  constructor(
    private readonly _api: Api,
    private readonly _user: FeedUser,
    private readonly _random: () => number = Math.random,
  ) {}

  /** Begin, or begin again, with the credentials there are now. */
  restart(): void {
    this._stop.abort();
    this._stop = new AbortController();
    void this._run(this._stop.signal);
  }

  /** Stop for good. */
  stop(): void {
    this._stop.abort();
  }

  /** Do not wait any longer before the next attempt: the network is back, or the tab is looked at again. */
  wake(): void {
    this._wake?.();
  }

  private async _run(signal: AbortSignal): Promise<void> {
    this._user.connection({ state: "connecting" });
    for (let attempt = 0; !signal.aborted; attempt += 1) {
      let reason = "the server ended the stream";
      try {
        if (await this._follow(signal)) attempt = 0;
      } catch (error) {
        if (signal.aborted) return;
        if (error instanceof Problem && (error.status === 401 || error.status === 403)) {
          this._user.connection({ state: "refused", status: error.status, detail: error.detail });
          return;
        }
        reason = error instanceof Error ? error.message : String(error);
      }
      if (signal.aborted) return;
      const most = Math.min(MOST_RETRY, FIRST_RETRY * 2 ** attempt);
      const delay = most * (0.5 + this._random() / 2);
      this._user.connection({ state: "lost", since: this._heard, reason, retryAt: Date.now() + delay });
      await this._sleep(delay, signal);
    }
  }

  /** Read one stream to its end. Returns whether it said anything; raises when it broke. */
  private async _follow(signal: AbortSignal): Promise<boolean> {
    const silence = new AbortController();
    const within = AbortSignal.any([signal, silence.signal]);
    const quiet = () => silence.abort(new Error(`nothing was heard for ${SILENCE / 1000} s`));
    let timer = setTimeout(quiet, SILENCE);
    let spoke = false;
    try {
      const body = await this._api.events(INTERVAL, this._lastId, within);
      const parser = new EventStreamParser();
      const reader = body
        .pipeThrough(new TextDecoderStream() as ReadableWritablePair<string, Uint8Array>)
        .getReader();
      for (;;) {
        const { done, value } = await reader.read();
        if (done) return spoke;
        clearTimeout(timer);
        timer = setTimeout(quiet, SILENCE);
        for (const event of parser.push(value)) {
          if (!spoke) this._user.connection({ state: "live" });
          spoke = true;
          this._take(event);
        }
      }
    } catch (error) {
      if (silence.signal.aborted) throw silence.signal.reason;
      if (spoke && !signal.aborted && !(error instanceof Problem)) return true;
      throw error;
    } finally {
      clearTimeout(timer);
      silence.abort(); // closes the connection, if it is open still
    }
  }

  private _take(event: StreamEvent): void {
    this._heard = Date.now();
    const content: unknown = JSON.parse(event.data);
    if (event.event === "stats") {
      this._user.stats(content as Stats);
    } else if (event.event === "server") {
      this._user.server(content as ServerFacts);
    } else if (event.event === "happened") {
      this._lastId = event.id;
      this._user.happened(content as Happening);
    }
  }

  private _sleep(delay: number, signal: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => this._wake?.(), delay);
      const awake = () => {
        clearTimeout(timer);
        signal.removeEventListener("abort", awake);
        this._wake = null;
        resolve();
      };
      this._wake = awake;
      signal.addEventListener("abort", awake);
    });
  }
}
