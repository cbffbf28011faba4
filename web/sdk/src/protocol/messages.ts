/**
 * The messages of the wire: one table of fields per type, from which the types, the decoder and the encoder
 * are made. What the fields mean stands in docs/protocol.md §4.
 *
 * A message is a plain object with all its fields, those that were absent at their defaults. Times are
 * milliseconds, integers lie in 0 … 2⁵³−1. `data` is the value that came, parsed once; bytes in a binary
 * payload; on the way out it may be a `Raw`: a JSON text made before.
 */

import {
  MAX_CHANNEL,
  MAX_CLIENT_ID,
  MAX_HISTORY_PAGE,
  MAX_KEY,
  MAX_STATE_NAME,
  MAX_TOKEN,
} from "./limits.js";

/** A value that is not what its field wants. */
export class Invalid extends Error {}

type Read<T> = (value: unknown) => T;
/** A field that must be there. */
interface Needed<T> {
  readonly read: Read<T>;
  readonly needed: true;
}
/** A field that has a value when it is absent, and is not written then. */
interface Optional<T> {
  readonly read: Read<T>;
  readonly initial: T;
  write?(value: T): unknown;
}
type Field = Needed<unknown> | Optional<unknown>;
type Fields = Readonly<Record<string, Field>>;
type Value<F> = F extends { readonly read: Read<infer T> } ? T : never;
type ObjectOf<S extends Fields> = { -readonly [K in keyof S]: Value<S[K]> };
type NeededKeys<S extends Fields> = { [K in keyof S]: S[K] extends Needed<unknown> ? K : never }[keyof S];
type Given<S extends Fields> = Pick<ObjectOf<S>, NeededKeys<S>> & Partial<ObjectOf<S>>;

// --- what a field may hold ------------------------------------------------------------------------

const only =
  <T>(fits: (value: T) => boolean): Read<T> =>
  (value) => {
    if (fits(value as T)) return value as T;
    throw new Invalid();
  };

const integer = (least: number, most = Infinity): Read<number> =>
  only((value) => Number.isSafeInteger(value) && value >= least && value <= most);

/** A text of `least` … `most` characters (code points). */
const text = (most = Infinity, least = 0): Read<string> =>
  only(
    (value) =>
      typeof value === "string" &&
      value.length >= least &&
      (value.length <= most || (value.length <= 2 * most && [...value].length <= most)),
  );

const boolean: Read<boolean> = only((value) => typeof value === "boolean");

const anything: Read<unknown> = (value) => value;

const array = (most: number): Read<readonly unknown[]> =>
  only((value) => Array.isArray(value) && value.length <= most);

const list = <T>(read: Read<T>, most = Infinity): Read<readonly T[]> => {
  const values = array(most);
  return (value) => values(value).map(read);
};

const object: Read<Record<string, unknown>> = only(
  (value) => typeof value === "object" && value !== null && !Array.isArray(value),
);

const struct =
  <S extends Fields>(fields: S): Read<ObjectOf<S>> =>
  (value) =>
    readFields(fields, object(value)) as ObjectOf<S>;

const needed = <T>(read: Read<T>): Needed<T> => ({ read, needed: true });
const optional = <T>(read: Read<T>, initial: T, write?: (value: T) => unknown): Optional<T> =>
  write ? { read, initial, write } : { read, initial };
/** A field that may be absent altogether. */
const maybe = <T>(read: Read<T>, write?: (value: T) => unknown): Optional<T | undefined> =>
  optional<T | undefined>(read, undefined, write && ((value) => value && write(value)));

const key = text(MAX_KEY);
const clientId = text(MAX_CLIENT_ID, 1);
const channelName = text(MAX_CHANNEL, 1);

const n = optional(integer(0), 0);
const N = needed(integer(0));
const N1 = needed(integer(1));
const s = optional(text(), "");
const S = needed(text());
const k = optional(key, "");
const b = optional(boolean, false);
const B = needed(boolean);
const lane = optional(text(16), "messages");
const data = optional(anything, undefined);

// --- parts of messages ----------------------------------------------------------------------------

const POSITION = { channel: needed(channelName), epoch: k, offset: n, presence: b, state: b };
const GAP = { reason: S, first: n, last: n };

const heartbeat = struct({ interval: N, timeout: N, misses: N });
const maxima = struct({
  message: N,
  payload: N,
  subscriptions: N,
  watched: N,
  window: N,
  window_bytes: N,
});

/** One channel a client wants, and where it stands: an empty epoch means from now on. */
export type Position = ObjectOf<typeof POSITION>;
/** Publications that cannot be had: `first` … `last`, or an unknown number after another epoch. */
export type Gap = ObjectOf<typeof GAP>;
/** Numbers `first` … `last` that ended as lost at the receiver. */
export type LostRange = readonly [first: number, last: number, reason: string];

const positions = list(struct(POSITION), 1024);
const writePositions = (value: readonly Position[]) => value.map((each) => writeFields(POSITION, each));
const gap = optional<Gap | null>(
  (value) => (value === null ? null : struct(GAP)(value)),
  null,
  (value) => value && writeFields(GAP, value),
);
/** Up to where a mailbox has everything; only a mailbox says it. */
const kept = maybe(integer(0));
const lost = optional(
  list((value): LostRange => {
    const [first, last, reason] = array(Infinity)(value);
    return [integer(1)(first), integer(1)(last), text(1024)(reason)];
  }, 1024),
  [],
);

// --- the table ------------------------------------------------------------------------------------

/** The fields of every type. */
export const FIELDS = {
  // Sessions.
  hello: {
    protocol: N,
    client_id: needed(clientId),
    token: optional(text(MAX_TOKEN), ""),
    session: k,
    secret: k,
    run: n,
    features: optional(list(text(1024), 32), []),
    // The full desired sets, so that coming back costs one round trip; absent: keep what the session has.
    subscriptions: maybe(positions, writePositions),
    watch: maybe(list(clientId, 1024)),
  },
  welcome: {
    client_id: S,
    session: S,
    secret: S,
    generation: N,
    attachment: N,
    run: N,
    resumed: B,
    durable: B,
    heartbeat: needed(heartbeat),
    limits: needed(maxima),
    time: N,
    reconnect_spread: n,
    expires: n,
    server: s,
  },
  goodbye: { code: optional(integer(0), 1000), reason: optional(text(1024), ""), spread: n },
  refresh: { id: N, token: needed(text(MAX_TOKEN)) },
  refreshed: { id: N, expires: n },
  ping: { id: n },
  pong: { id: n },
  error: {
    code: S,
    message: s,
    id: n,
    to: s,
    lane: s,
    run: n,
    seq: n,
    channel: s,
    version: n,
    retry_after: n,
    fatal: b,
  },
  // Links.
  message: {
    run: N1,
    seq: N1,
    base: N1,
    to: s,
    from: s,
    lane,
    ack_run: n,
    ack: n,
    ask: b,
    request: k,
    deadline: n,
    reply: k,
    failed: b,
    store: b,
    ttl: n,
    collapse: k,
    user: s,
    binary: b,
    data,
  },
  ack: { run: N1, seq: N, to: s, from: s, lane, received: n, want: b, limit: n, lost, by: n, kept, user: s },
  skip: {
    run: N1,
    seq: N1,
    last: N1,
    base: N1,
    reason: needed(text(1024)),
    to: s,
    from: s,
    lane,
    store: b,
    user: s,
  },
  probe: { run: N1, seq: N, base: N1, to: s, from: s, lane, start: n, lost, user: s },
  wait: { to: S, run: N1, seq: N1, last: n, lane, probe: b, code: s },
  stored: { to: S, run: N1, seq: N1, lane },
  watch: { id: N, clients: needed(list(clientId, 1024)) },
  watching: { id: N },
  peer: { client_id: S, state: S, run: n, generation: n, attachment: n },
  signal: { data: needed(anything), to: s, from: s, generation: n, run: n },
  ephemeral: { data, to: s, from: s, channel: optional(text(MAX_CHANNEL), ""), binary: b },
  // Channels.
  subscribe: { id: N, channels: { ...needed(positions), write: writePositions } },
  subscribing: { id: N },
  subscribed: { channel: S, epoch: S, offset: N, id: n, recovered: b, gap },
  unsubscribed: { channel: S, code: S, resubscribe: b },
  publish: { id: N, channel: needed(channelName), key: k, age: n, binary: b, data },
  set: {
    id: N,
    channel: needed(channelName),
    name: needed(text(MAX_STATE_NAME, 1)),
    key: k,
    age: n,
    expect: maybe(integer(0)),
    deleted: b,
    binary: b,
    data,
  },
  published: { id: N, epoch: S, offset: N },
  publication: {
    channel: S,
    offset: N,
    from: s,
    time: n,
    page: n,
    name: s,
    deleted: b,
    state: b,
    binary: b,
    data,
  },
  snapshot: { channel: S, count: N, id: n },
  history: {
    id: N,
    channel: needed(channelName),
    epoch: k,
    offset: n,
    limit: optional(integer(0, MAX_HISTORY_PAGE), 100),
    last: b,
  },
  history_page: { id: N, channel: S, epoch: S, offset: N, count: n, gap },
  presence: { id: N, channel: needed(channelName) },
  presence_list: { channel: S, clients: needed(list(text())), id: n, more: n },
  join: { channel: S, client_id: S },
  leave: { channel: S, client_id: S },
};

type Table = typeof FIELDS;
/** The name of a type of message. */
export type Type = keyof Table;
/** The message of a type, with all its fields. */
export type MessageOf<T extends Type> = T extends Type ? { readonly type: T } & ObjectOf<Table[T]> : never;
/** Any message. */
export type Message = MessageOf<Type>;

export type Hello = MessageOf<"hello">;
/** The answer to an accepted hello. */
export type Welcome = MessageOf<"welcome">;
/** A typed refusal. */
export type ErrorMessage = MessageOf<"error">;
/** Number `seq` of a lane of the sender's `run`. Everything below `base` is settled. */
export type LinkMessage = MessageOf<"message">;
/** The receiver's cursors for one lane of the run it names. */
export type Ack = MessageOf<"ack">;
/** Numbers `seq` … `last` will not come: they end as lost, in sequence. */
export type Skip = MessageOf<"skip">;
/** The sender has sent up to `seq` and asks for an acknowledgement at once. */
export type Probe = MessageOf<"probe">;
/** The server handed these numbers to nobody. */
export type Wait = MessageOf<"wait">;
/** A durable mailbox has everything up to `seq`. */
export type Stored = MessageOf<"stored">;
/** The state of a client. */
export type Peer = MessageOf<"peer">;
/** An SDP or ICE message, at most once. */
export type Signal = MessageOf<"signal">;
/** Unnumbered data, at most once. */
export type Ephemeral = MessageOf<"ephemeral">;
/** One entry of a channel's log. */
export type Publication = MessageOf<"publication">;
export type Subscribe = MessageOf<"subscribe">;
export type Subscribed = MessageOf<"subscribed">;
export type Snapshot = MessageOf<"snapshot">;
export type HistoryPage = MessageOf<"history_page">;

const LINK_TYPES = ["message", "ack", "skip", "probe", "ping", "pong"];

/** What a client may send. */
export const OF_CLIENT: ReadonlySet<string> = /* @__PURE__ */ new Set([
  ...LINK_TYPES,
  ...["hello", "goodbye", "refresh", "watch", "signal", "ephemeral"],
  ...["subscribe", "publish", "set", "history", "presence"],
]);

/** What a server may send: all but what only a client does. */
export const OF_SERVER: ReadonlySet<string> = new Set(
  Object.keys(FIELDS).filter(
    (type) =>
      !["hello", "refresh", "watch", "subscribe", "publish", "set", "history", "presence"].includes(type),
  ),
);

/** What a peer may send over a data channel. Nothing there may say who it is from: identity is what the server
 * stamped on the signals. */
export const OF_PEER: ReadonlySet<string> = /* @__PURE__ */ new Set(LINK_TYPES);

/** The messages whose user data may be bytes. */
export type Carrier = MessageOf<"message" | "ephemeral" | "publish" | "set" | "publication">;

/** Whether a message's user data may be bytes. */
export function isCarrier(message: Message): message is Carrier {
  return "binary" in FIELDS[message.type];
}

// --- making, reading, writing ---------------------------------------------------------------------

const DEFAULTS: Record<string, Record<string, unknown>> = {};
for (const type in FIELDS) {
  const fields: Fields = FIELDS[type as Type];
  DEFAULTS[type] = { type };
  for (const name in fields) DEFAULTS[type][name] = (fields[name] as Partial<Optional<unknown>>).initial;
}

/** Make a message: what is not given has its default. */
export function make<T extends Type>(type: T, given: Given<Table[T]>): MessageOf<T> {
  return { ...DEFAULTS[type], ...given } as unknown as MessageOf<T>;
}

/** Make a message of what a line says. Throws `Invalid`; unknown fields are ignored. */
export function read(type: Type, line: Record<string, unknown>): Message {
  return { type, ...readFields(FIELDS[type], line) } as Message;
}

/** Return what is written of a message, without what has its default, and without `data`. */
export function write(message: Message): Record<string, unknown> {
  return { type: message.type, ...writeFields(FIELDS[message.type], message, "data") };
}

function readFields(fields: Fields, object: Record<string, unknown>): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const name in fields) {
    const field = fields[name] as Field;
    const value = object[name];
    if (value !== undefined) result[name] = field.read(value);
    else if ("initial" in field) result[name] = field.initial;
    else throw new Invalid();
  }
  return result;
}

function writeFields(fields: Fields, object: object, without = ""): Record<string, unknown> {
  const result: Record<string, unknown> = {};
  for (const name in fields) {
    const field = fields[name] as Field & { write?: (value: unknown) => unknown };
    const value = (object as Record<string, unknown>)[name];
    if (name === without || ("initial" in field && isInitial(field.initial, value))) continue;
    result[name] = field.write ? field.write(value) : value;
  }
  return result;
}

function isInitial(initial: unknown, value: unknown): boolean {
  return value === initial || (Array.isArray(initial) && !(value as unknown[]).length);
}
