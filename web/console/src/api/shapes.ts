/** What the operator's HTTP API answers: names, units and meaning are those of `/api/openapi.json`. Times are
 * milliseconds since 1970, durations milliseconds unless a name ends in `_s`. */

export interface ServerFacts {
  node: string;
  version: string;
  started: number;
  now: number;
  uptime_s: number;
  development: boolean;
  durable: boolean;
  database: string | null;
  ready: boolean;
  reasons: string[];
  draining: boolean;
  auth: string;
  limits: Record<string, unknown>;
}

/** Upper edge in seconds (null: no edge), and how many took at most so long, since the start. */
export type Bucket = [upper: number | null, total: number];

export interface Stats {
  time: number;
  uptime_s: number;
  connections: { websocket: number; tcp: number; http: number };
  sessions: { active: number; detached: number };
  messages: { received: number; sent: number };
  bytes: { received: number; sent: number };
  delivery: { count: number; buckets: Bucket[] };
  channels: number;
  subscriptions: number;
  mailboxes: { mailboxes: number; messages: number; bytes: number };
  slow_consumers: { held: number; closed: number };
  refusals: number;
  errors: number;
  loop_lag_ms: number;
  cpu_s: number;
  memory: number;
}

/** Something that happened to a client or to the server. */
export interface Happening {
  id: number;
  time: number;
  kind: string;
  client: string | null;
  user: string | null;
  address: string | null;
  detail: string;
}

/** One page of a list; `next` is the cursor of the page after it. */
export interface Page<T> {
  items: T[];
  next: string | null;
}

export interface ClientRow {
  client: string;
  user: string | null;
  /** "away": it has a mailbox, and no session. */
  state: "active" | "detached" | "away";
  transport: string | null;
  address: string | null;
  since: number | null;
  attached: number | null;
  generation: number | null;
  attachment: number | null;
  sent: number;
  received: number;
  bytes_sent: number;
  bytes_received: number;
  buffered: number;
  slow: boolean;
  subscriptions: number;
  mailbox: number | null;
}

export interface ClientFacts extends Omit<ClientRow, "mailbox"> {
  session: string | null;
  run: number | null;
  rtt_ms: number | null;
  last_seen: number | null;
  channels: { name: string; offset: number }[];
  links: { peer: string; lane: string; in_flight: number }[];
  mailbox: Mailbox | null;
  claims: Rights | null;
}

/** What waits for a client. */
export interface Mailbox {
  messages: number;
  bytes: number;
  oldest: number | null;
}

/** What a client's token allows: exact names, or beginnings that end in "*". */
export interface Rights {
  user: string | null;
  client: string | null;
  subscribe: string[];
  publish: string[];
  links: string[];
  expires: number | null;
  operator: boolean;
}

export interface ChannelRow {
  name: string;
  subscribers: number;
  epoch: string;
  offset: number;
  durable: boolean;
}

export interface ChannelFacts extends ChannelRow {
  retention: Record<string, number>;
  state_entries: number | null;
}

export interface Member {
  client: string;
  user: string | null;
  since: number;
}

/** A message of a channel: with `data`, or with `data_base64` when that is no JSON. A write to the shared state has
 * the `name` it changed. */
export interface Publication {
  offset: number;
  time: number;
  from: string;
  data?: unknown;
  data_base64?: string;
  name?: string;
  deleted?: boolean;
}

export interface PublicationPage {
  items: Publication[];
  epoch: string;
  next: number | null;
}

export interface StateEntry {
  name: string;
  value?: unknown;
  value_base64?: string;
  version: number;
}

export interface MailboxRow {
  /** A client, or "@" and a user. */
  client: string;
  messages: number;
  bytes: number;
  oldest: number | null;
  senders: number;
}

/** What became of a message by the time asked for. `certain`, of a lost one: it surely did not arrive. */
export interface SendOutcome {
  to: string;
  seq: number;
  state: "sent" | "stored" | "delivered" | "lost";
  reason?: string;
  certain?: boolean;
}

export interface PublishOutcome {
  epoch: string;
  offset: number;
}
