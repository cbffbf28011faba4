/** The last ten minutes: one row of numbers per sample, ready to be drawn. */

import type { Stats } from "../api/shapes.js";
import { between, type Percentile, percentile } from "./percentiles.js";
import { Ring } from "./ring.js";

/** Seconds that plots show, and rows that are kept for them: one sample a second. */
export const SPAN = 600;

/** Seconds over which percentiles are taken: one second of a quiet server has too few deliveries to speak of. */
export const WINDOW = 10;

/** Seconds without a sample after which a line is broken off instead of drawn across. */
const GAP = 3.5;

/** Seconds by which a server's clock must have been turned back for what was drawn to be given up. */
const TURNED_BACK = 60;

export const SERIES = [
  "websocket",
  "tcp",
  "http",
  "connections",
  "active",
  "detached",
  "messages_received",
  "messages_sent",
  "bytes_received",
  "bytes_sent",
  "p50",
  "p90",
  "p99",
  "channels",
  "subscriptions",
  "mailboxes",
  "mailbox_messages",
  "mailbox_bytes",
  "slow_held",
  "slow_closed",
  "refusals",
  "errors",
  "loop_lag",
  "cpu",
  "memory",
] as const;

export type Series = (typeof SERIES)[number];

/** Null: not known at that time. `connections` are those of clients; rates are per second, latencies and lag in ms, cpu in percent of one core. */
export type Row = Record<Series, number | null>;

/** How fast a total grew, per second. Null: it began again, or no time has passed. */
export function rate(earlier: number, later: number, seconds: number): number | null {
  return seconds > 0 && later >= earlier ? (later - earlier) / seconds : null;
}

const milliseconds = (value: Percentile | null) => (value ? value.seconds * 1000 : null);

/** Deliveries and their percentiles between two samples. */
export function latency(earlier: Stats, later: Stats): Record<"p50" | "p90" | "p99", Percentile | null> {
  const buckets = between(earlier.delivery.buckets, later.delivery.buckets) ?? [];
  return { p50: percentile(buckets, 0.5), p90: percentile(buckets, 0.9), p99: percentile(buckets, 0.99) };
}

/** Whether `later` is of the same process as `earlier`, and after it. */
export const follows = (earlier: Stats, later: Stats): boolean =>
  later.time > earlier.time && later.uptime_s > earlier.uptime_s;

/** One row: `previous` is the sample before, `window` the oldest one within WINDOW; null at the beginning. */
export function derive(sample: Stats, previous: Stats | null, window: Stats | null): Row {
  const seconds = previous ? sample.uptime_s - previous.uptime_s : 0;
  const per = (total: (stats: Stats) => number) =>
    previous ? rate(total(previous), total(sample), seconds) : null;
  const { websocket, tcp, http } = sample.connections;
  const cpu = per((stats) => stats.cpu_s);
  const delays = window ? latency(window, sample) : null;
  return {
    websocket,
    tcp,
    http,
    connections: websocket + tcp,
    active: sample.sessions.active,
    detached: sample.sessions.detached,
    messages_received: per((stats) => stats.messages.received),
    messages_sent: per((stats) => stats.messages.sent),
    bytes_received: per((stats) => stats.bytes.received),
    bytes_sent: per((stats) => stats.bytes.sent),
    p50: milliseconds(delays?.p50 ?? null),
    p90: milliseconds(delays?.p90 ?? null),
    p99: milliseconds(delays?.p99 ?? null),
    channels: sample.channels,
    subscriptions: sample.subscriptions,
    mailboxes: sample.mailboxes.mailboxes,
    mailbox_messages: sample.mailboxes.messages,
    mailbox_bytes: sample.mailboxes.bytes,
    slow_held: sample.slow_consumers.held,
    slow_closed: per((stats) => stats.slow_consumers.closed),
    refusals: per((stats) => stats.refusals),
    errors: per((stats) => stats.errors),
    loop_lag: sample.loop_lag_ms,
    cpu: cpu === null ? null : cpu * 100,
    memory: sample.memory,
  };
}

const EMPTY = Object.fromEntries(SERIES.map((name) => [name, null])) as Row;

export interface Extremes {
  now: number | null;
  min: number | null;
  max: number | null;
}

export class Timeline {
  private readonly _times: Ring<number>;
  private readonly _rows: Ring<Row>;
  private readonly _window: Ring<Stats> = new Ring(WINDOW + 1);

  constructor(capacity: number = SPAN) {
    this._times = new Ring(capacity);
    this._rows = new Ring(capacity);
  }

  get length(): number {
    return this._times.length;
  }

  /** The newest sample. */
  get sample(): Stats | null {
    return this._window.at(-1) ?? null;
  }

  /** The newest row. */
  get row(): Row {
    return this._rows.at(-1) ?? EMPTY;
  }

  /** What the newest percentiles are of; `beyond` tells that one lies above the histogram's last edge. */
  get latency(): ReturnType<typeof latency> {
    const [first, last] = [this._window.at(0), this._window.at(-1)];
    return first && last ? latency(first, last) : { p50: null, p90: null, p99: null };
  }

  /** Take a sample. One that is not newer than the last is dropped, unless the clock was turned back; after
   * those of another process, lines begin again. */
  add(sample: Stats): void {
    const last = this.sample;
    if (last && sample.time < last.time - TURNED_BACK * 1000) return this._restart(sample);
    if (last && sample.time <= last.time) return;
    const joined = last !== null && follows(last, sample);
    if (last && (!joined || sample.time - last.time > GAP * 1000)) {
      this._push(Math.max(last.time + 1, (this.newest ?? 0) * 1000 + 1), EMPTY);
    }
    const first = this._window.at(0);
    const holed = first !== undefined && sample.time - first.time > (WINDOW + GAP) * 1000;
    if (!joined || holed) this._window.clear(); // over a hole, old deliveries would be called new
    const row = derive(sample, joined ? last : null, this._window.at(0) ?? null);
    this._push(sample.time, row);
    this._window.push(sample);
  }

  /** Times in seconds, oldest first. */
  times(): number[] {
    return this._times.toArray();
  }

  /** The time of a row, in seconds. */
  time(index: number | null): number | undefined {
    return index === null ? undefined : this._times.at(index);
  }

  /** The time of the newest row, in seconds. */
  get newest(): number | undefined {
    return this._times.at(-1);
  }

  /** The values of a series, beside `times`. */
  column(name: Series): (number | null)[] {
    return this._rows.toArray().map((row) => row[name]);
  }

  /** A series at a row of `times`. */
  value(name: Series, index: number | null): number | null {
    return index === null ? null : (this._rows.at(index)?.[name] ?? null);
  }

  /** The newest, smallest and largest value of a series within the span. */
  extremes(name: Series): Extremes {
    const result: Extremes = { now: this.row[name], min: null, max: null };
    for (let index = 0; index < this._rows.length; index += 1) {
      const value = this._rows.at(index)?.[name] ?? null;
      if (value === null) continue;
      if (result.min === null || value < result.min) result.min = value;
      if (result.max === null || value > result.max) result.max = value;
    }
    return result;
  }

  private _restart(sample: Stats): void {
    for (const ring of [this._times, this._rows, this._window]) ring.clear();
    this.add(sample);
  }

  private _push(time: number, row: Row): void {
    this._times.push(time / 1000);
    this._rows.push(row);
  }
}
