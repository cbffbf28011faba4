/** All that the console knows of its server, and who wants to hear when that changes. */

import { Api } from "./api/api.js";
import type { Credentials } from "./api/credentials.js";
import type { Happening, ServerFacts, Stats } from "./api/shapes.js";
import { type Connection, Feed, type FeedUser, type Refusal } from "./feed.js";
import { Happenings } from "./model/happenings.js";
import { Timeline } from "./model/timeline.js";

/** Milliseconds between two looks at readiness, which the stream tells only at its beginning. */
const SERVER_LOOK = 5000;

/** Happenings after which readiness may be another one. */
const TELLING = new Set(["draining", "engine_failed", "engine_recovered"]);

export class Operations implements FeedUser {
  readonly timeline = new Timeline();
  readonly happenings = new Happenings();
  readonly api: Api;
  facts: ServerFacts | null = null;
  standing: Connection = { state: "connecting" };
  /** Why a token is asked for; until one has opened the stream. */
  refusal: Refusal | null = null;
  /** Counts the times that listeners were told. */
  published = 0;
  private readonly _feed: Feed;
  private readonly _listeners = new Set<() => void>();
  private _changed = false;
  private _planned = false;
  private _looking = false;
  private _lookedAt = 0;

  constructor(readonly credentials: Credentials) {
    this.api = new Api(credentials);
    this._feed = new Feed(this.api, this);
  }

  start(): void {
    this._feed.restart();
    document.addEventListener("visibilitychange", () => {
      if (document.hidden) return;
      this._feed.wake();
      this._publish();
    });
    addEventListener("online", () => this._feed.wake());
  }

  /** Come in with this token. */
  signIn(token: string, keep: boolean): void {
    this.credentials.use(token, keep);
    this._feed.restart();
  }

  signOut(): void {
    this.credentials.forget();
    this._feed.stop();
    this.connection({ state: "refused", status: 401, detail: "" });
  }

  /** A request was answered by 401 or 403 in general, not for one thing. */
  refused(status: number, detail: string): void {
    if (this.standing.state === "refused") return;
    this._feed.stop();
    this.connection({ state: "refused", status, detail });
  }

  /** Try to connect now. */
  retry(): void {
    this._feed.wake();
  }

  /** `listener` is called once for all that changed in a turn, and not while the tab is hidden. */
  subscribe(listener: () => void): () => void {
    this._listeners.add(listener);
    return () => this._listeners.delete(listener);
  }

  connection(connection: Connection): void {
    this.standing = connection;
    if (connection.state === "refused") this.refusal = connection;
    if (connection.state === "live") this.refusal = null;
    this._change();
  }

  server(facts: ServerFacts): void {
    this.facts = facts;
    this._lookedAt = Date.now();
    this._change();
  }

  stats(sample: Stats): void {
    this.timeline.add(sample);
    if (Date.now() - this._lookedAt >= SERVER_LOOK) void this._look();
    this._change();
  }

  happened(happening: Happening): void {
    if (this.happenings.add(happening) && TELLING.has(happening.kind)) void this._look();
    this._change();
  }

  private async _look(): Promise<void> {
    if (this._looking || document.hidden) return;
    this._looking = true;
    this._lookedAt = Date.now();
    try {
      this.server(await this.api.server());
    } catch {
      // The stream breaks for the same reason, and the feed says so.
    } finally {
      this._looking = false;
    }
  }

  private _change(): void {
    this._changed = true;
    if (this._planned) return;
    this._planned = true;
    queueMicrotask(() => {
      this._planned = false;
      this._publish();
    });
  }

  private _publish(): void {
    if (!this._changed || document.hidden) return;
    this._changed = false;
    this.published += 1;
    for (const listener of [...this._listeners]) listener();
  }
}
