/** The strokes of a room, as one client sees them: in the channel's state, and those that are still on their
 * way there. What is being drawn is shown to the others at once, at most once; the whole stroke follows. */

import type { Channel } from "duolink";
import { isUncertain } from "./counter.js";
import { excess, MOST_WAITING, readStroke, type Stroke } from "./strokes.js";

/** Names in the state that are strokes. */
const PREFIX = "stroke/";

/** Strokes of others that are being drawn, at once; more are seen when they are done. */
const MOST_PREVIEWS = 16;

/** Milliseconds after which a stroke that does not go on is not shown any more: its end was lost. */
const PREVIEW_LIFE = 5_000;

/** What is shown of a stroke: it is safe, waits for the server, or is being drawn by another client. */
export type Standing = "stored" | "waiting" | "preview";

export interface BoardUser {
  /** A stroke is new, or stands differently; null: it is gone. */
  stroke(name: string, stroke: Stroke | null, standing: Standing): void;
  failed(what: string, error: unknown): void;
}

export class Board {
  private readonly _stored = new Map<string, number>(); // name → version
  private readonly _waiting = new Map<string, Stroke>();
  private readonly _previews = new Map<string, ReturnType<typeof setTimeout>>();
  private _sending = false;

  /** `ready`: returns when there is a connection, throws when there will be none. */
  constructor(
    private readonly _channel: Channel,
    private readonly _ready: () => Promise<void>,
    private readonly _user: BoardUser,
  ) {}

  /** Strokes that are not safe yet. */
  get waiting(): number {
    return this._waiting.size;
  }

  /** Strokes on the board. */
  get size(): number {
    return this._stored.size + this._waiting.size;
  }

  /** Return a name for a new stroke, or null where too many wait for a connection. */
  newName(): string | null {
    if (this._waiting.size >= MOST_WAITING) return null;
    const random = crypto.getRandomValues(new Uint32Array(3));
    return PREFIX + Array.from(random, (word) => word.toString(36)).join("");
  }

  /** Show the others how a stroke grows: the end of it is enough. */
  preview(name: string, stroke: Stroke): void {
    this._channel.ephemeral({ stroke: name, colour: stroke.colour, points: stroke.points.slice(-80) });
  }

  /** Add a stroke that is done. */
  add(name: string, stroke: Stroke): void {
    this._waiting.set(name, stroke);
    this._user.stroke(name, stroke, "waiting");
    void this._send();
  }

  private async _send(): Promise<void> {
    if (this._sending) return;
    this._sending = true;
    for (let next = this._first(); next; next = this._first()) {
      const [name, stroke] = next;
      try {
        await this._ready();
        await this._channel.set(name, stroke);
        if (this._waiting.has(name)) this._keep(name, stroke, Infinity);
        for (const old of excess(this._stored)) await this._channel.delete(old);
      } catch (error) {
        if (isUncertain(error)) continue; // to write the same once more does no harm
        this._waiting.delete(name);
        this._user.stroke(name, null, "waiting");
        this._user.failed("stroke", error);
      }
    }
    this._sending = false;
  }

  private _first(): [string, Stroke] | undefined {
    return this._waiting.entries().next().value;
  }

  /** Wipe the board, for everybody. */
  async clear(): Promise<void> {
    try {
      await Promise.all(Array.from(this._stored.keys(), (name) => this._channel.delete(name)));
    } catch (error) {
      this._user.failed("clear", error);
    }
  }

  // --- what the channel says ------------------------------------------------------------------------

  /** A name of the state was set. */
  set(name: string, value: unknown, version: number): void {
    const stroke = name.startsWith(PREFIX) ? readStroke(value) : null;
    if (stroke) this._keep(name, stroke, version);
  }

  private _keep(name: string, stroke: Stroke, version: number): void {
    this._waiting.delete(name);
    this._forget(name);
    this._stored.set(name, version);
    this._user.stroke(name, stroke, "stored");
  }

  /** A name of the state was deleted. */
  deleted(name: string): void {
    if (this._stored.delete(name)) this._user.stroke(name, null, "stored");
  }

  /** The whole state: at the beginning, and after a gap. `names`: name, value and version. */
  replace(state: Iterable<readonly [string, unknown, number]>): void {
    const given = [...state];
    const names = new Set(given.map(([name]) => name));
    for (const name of [...this._stored.keys()]) if (!names.has(name)) this.deleted(name);
    for (const [name, value, version] of given) this.set(name, value, version);
  }

  /** Somebody draws. */
  previewed(data: unknown): void {
    const { stroke: name } = (data ?? {}) as { stroke?: unknown };
    const stroke = readStroke(data);
    if (!stroke || typeof name !== "string" || !name.startsWith(PREFIX)) return;
    if (this._stored.has(name) || this._waiting.has(name)) return;
    if (!this._previews.has(name) && this._previews.size >= MOST_PREVIEWS) return;
    clearTimeout(this._previews.get(name));
    const over = () => {
      this._previews.delete(name);
      this._user.stroke(name, null, "preview");
    };
    this._previews.set(name, setTimeout(over, PREVIEW_LIFE));
    this._user.stroke(name, stroke, "preview");
  }

  private _forget(name: string): void {
    clearTimeout(this._previews.get(name));
    this._previews.delete(name);
  }
}
