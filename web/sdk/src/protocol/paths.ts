/**
 * Which way a link's messages travel: trust, promotion, and one choice per lane.
 *
 * A path is `server` (trusted while the connection stands), `direct` or `turn` (data channels, trusted as
 * long as their pings are answered). Each sender chooses its own outbound path; receivers accept any, so
 * the two sides never have to agree, and a choice that turns out wrong costs repeats, not messages.
 */

/** Seconds between pings on a path in use: two fit into the time trust lasts. */
const PING_EVERY = 3;
/** Seconds between pings on a path held in reserve: below the shortest common UDP NAT timeout (30 s). */
const PING_IDLE = 15;
/** Seconds a path is trusted after its last answer: two pings and half a second. */
const TRUST = 6.5;
/** Seconds after the last answer during which a path that lapsed still gets copies of small messages. */
const LAPSE = 2 * TRUST;
/** Answers in a row before a path carries messages. */
const PROMOTE_AFTER = 2;
/** How much better (and by how much at least) another path must be to change to it; against flapping. */
const ADVANTAGE = 0.2;
const ADVANTAGE_SECONDS = 0.005;
/** Pings of one path without answer that are remembered. */
const MAX_OUTSTANDING = 16;

export type PathKind = "server" | "direct" | "turn";

const PREFERENCE: Readonly<Record<PathKind, number>> = { direct: 0, turn: 1, server: 2 };

/** A ping to be sent on a path. */
export interface PingPath {
  readonly path: string;
  readonly id: number;
}

/** What is known of one path: `roundTrip` in s, `throughput` in bytes/s (null: unmeasured). */
export class Path {
  answers = 0;
  answeredAt = -Infinity;
  roundTrip: number | null = null;
  throughput: number | null = null;
  nextPing: number;
  private _pings = 0;
  private readonly _sent = new Map<number, number>();

  constructor(
    readonly name: string,
    readonly kind: PathKind,
    now: number,
  ) {
    this.nextPing = kind === "server" ? Infinity : now;
  }

  /** Whether what is sent here may be expected to arrive. */
  trusted(now: number): boolean {
    return this.kind === "server" || now < this.answeredAt + TRUST;
  }

  /** Whether it may carry messages: trusted, after enough answers in a row. */
  proven(now: number): boolean {
    return this.kind === "server" || (this.answers >= PROMOTE_AFTER && this.trusted(now));
  }

  /** Make the ping that is due. */
  ping(now: number, inUse: boolean): PingPath {
    if (now >= this.answeredAt + TRUST) this.answers = 0;
    this._pings += 1;
    this._sent.set(this._pings, now);
    if (this._sent.size > MAX_OUTSTANDING) this._sent.delete(this._sent.keys().next().value as number);
    this.nextPing = now + (inUse || this.answers < PROMOTE_AFTER ? PING_EVERY : PING_IDLE);
    return { path: this.name, id: this._pings };
  }

  /** An answer came. One to a ping never sent, or answered before, says nothing. */
  pong(ping: number, now: number): void {
    const sent = this._sent.get(ping);
    if (sent === undefined) return;
    this._sent.delete(ping);
    this.answers = this.trusted(now) || !this.answers ? this.answers + 1 : 1;
    this.answeredAt = now;
    if (this.answers < PROMOTE_AFTER) this.nextPing = now; // prove it quickly
    this.observe(now - sent);
  }

  /** Take a measurement; smoothed as TCP does (RFC 6298 §2.3, α = 1/8). */
  observe(roundTrip: number, throughput: number | null = null): void {
    this.roundTrip = smooth(this.roundTrip, roundTrip);
    if (throughput !== null) this.throughput = smooth(this.throughput, throughput);
  }

  /** When trust in it ends, and when it gets no copies any more. */
  get ends(): readonly number[] {
    return this.kind === "server" ? [] : [this.answeredAt + TRUST, this.answeredAt + LAPSE];
  }
}

function smooth(known: number | null, measured: number): number {
  return known === null ? measured : known + (measured - known) / 8;
}

/** The paths of one link, and which of them a lane takes. */
export interface PathChoice {
  /** Whether a path is open. */
  has(name: string): boolean;
  /** Whether there is any. */
  readonly some: boolean;
  /** The open paths, oldest first. */
  names(): string[];
  /** A path is there; what was known of an earlier one of that name is forgotten. */
  open(name: string, kind: PathKind, now: number): void;
  /** A path is gone. */
  close(name: string): void;
  /** An answer to a ping came on a path. */
  pong(name: string, ping: number, now: number): void;
  /** Return the paths to send a lane's messages on, the best first. */
  choose(lane: string, now: number): readonly string[];
  /** Return the pings that are due. */
  poll(now: number): PingPath[];
  /** When there is something to do. */
  nextTimer(now: number): number;
}

/** Any number of paths, and the choice for each lane. */
export class Paths implements PathChoice {
  private readonly _paths = new Map<string, Path>();
  private readonly _chosen = new Map<string, string>();

  /** Whether a path is open. */
  has(name: string): boolean {
    return this._paths.has(name);
  }

  /** An open path. */
  get(name: string): Path | undefined {
    return this._paths.get(name);
  }

  /** Whether there is any. */
  get some(): boolean {
    return this._paths.size > 0;
  }

  /** The open paths, oldest first. */
  names(): string[] {
    return [...this._paths.keys()];
  }

  /** A path is there; what was known of an earlier one of that name is forgotten. */
  open(name: string, kind: PathKind, now: number): void {
    this._paths.set(name, new Path(name, kind, now));
  }

  /** A path is gone. */
  close(name: string): void {
    this._paths.delete(name);
  }

  /** Return the paths to send a lane's messages on, the best first: none (nothing is open), one, or two while
   * trust in the one in use has lapsed and it may yet answer. */
  choose(lane: string, now: number): readonly string[] {
    const paths = [...this._paths.values()];
    const first = paths[0];
    if (!first) {
      this._chosen.delete(lane);
      return [];
    }
    if (paths.length === 1) {
      this._chosen.set(lane, first.name); // nothing to weigh
      return [first.name];
    }
    const current = this._paths.get(this._chosen.get(lane) ?? "");
    const proven = paths
      .filter((path) => path.proven(now))
      .sort((one, other) => PREFERENCE[one.kind] - PREFERENCE[other.kind]);
    const best = proven[0];
    if (!best) {
      const only = (current ?? first).name;
      this._chosen.set(lane, only);
      return [only];
    }
    let choice = current && proven.includes(current) ? current : best;
    for (const path of proven) if (better(path, choice, lane)) choice = path;
    if (current && !current.trusted(now) && now < current.answeredAt + LAPSE) {
      return [choice.name, current.name];
    }
    this._chosen.set(lane, choice.name);
    return [choice.name];
  }

  /** An answer to a ping came on a path. */
  pong(name: string, ping: number, now: number): void {
    this._paths.get(name)?.pong(ping, now);
  }

  /** Return the pings that are due. */
  poll(now: number): PingPath[] {
    const used = new Set(this._chosen.values());
    return [...this._paths.values()]
      .filter((path) => now >= path.nextPing)
      .map((path) => path.ping(now, used.has(path.name)));
  }

  /** When the next ping is due, or trust in a path in use ends. */
  nextTimer(now: number): number {
    let timer = Infinity;
    const used = new Set(this._chosen.values());
    for (const path of this._paths.values()) {
      timer = Math.min(timer, path.nextPing);
      if (used.has(path.name)) timer = Math.min(timer, ...path.ends.filter((end) => end > now));
    }
    return timer;
  }
}

/** Whether a lane should leave `current` for `path`. What costs the server nothing is preferred as long as
 * it is not slower; the other way it takes a clear advantage. */
function better(path: Path, current: Path, lane: string): boolean {
  if (path === current) return false;
  if (lane === "bulk" && path.throughput !== null && current.throughput !== null) {
    return path.throughput > current.throughput * (1 + ADVANTAGE);
  }
  const preferred = PREFERENCE[path.kind] < PREFERENCE[current.kind];
  if (path.roundTrip === null || current.roundTrip === null) return preferred;
  const gain = current.roundTrip - path.roundTrip;
  if (preferred) return gain >= -ADVANTAGE_SECONDS / 2;
  return gain > ADVANTAGE_SECONDS && gain > current.roundTrip * ADVANTAGE;
}
