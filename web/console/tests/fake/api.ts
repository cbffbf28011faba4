/** A server that keeps the contract of the operator's API, with invented clients: to work on the console, and to
 * test it, without a real one. Everything it says follows from its clock and its knobs. */

import type { IncomingMessage, ServerResponse } from "node:http";
import type {
  Bucket,
  ChannelRow,
  ClientFacts,
  Happening,
  MailboxRow,
  Page,
  ServerFacts,
  Stats,
} from "../../src/api/shapes.js";

const EDGES = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, null];

export interface Knobs {
  /** Demanded of every request. */
  token: string | null;
  ready: boolean;
  draining: boolean;
  durable: boolean;
  clients: number;
  channels: number;
  mailboxes: number;
}

export class FakeApi {
  readonly knobs: Knobs;
  /** "METHOD path?query", newest last. */
  readonly asked: string[] = [];
  private readonly _started = Date.now() - 3_725_000;
  private readonly _gone = new Set<string>();
  private readonly _happenings: Happening[] = [];
  private readonly _streams = new Set<ServerResponse>();
  private _published = 0;
  private _received = 0;
  private readonly _delays = EDGES.map(() => 0);

  constructor(knobs: Partial<Knobs> = {}) {
    this.knobs = {
      token: null,
      ready: true,
      draining: false,
      durable: true,
      clients: 250,
      channels: 30,
      mailboxes: 40,
      ...knobs,
    };
    for (let index = 0; index < 30; index += 1) this.happen(index % 4 ? "connected" : "refused", name(index));
  }

  /** Something happens, and every stream is told. */
  happen(kind: string, client: string | null, detail = ""): void {
    const id = this._started + this._happenings.length + 1;
    const happening = {
      id,
      time: Date.now(),
      kind,
      client,
      user: client,
      address: "192.0.2.7:50000",
      detail,
    };
    this._happenings.push(happening);
    for (const stream of this._streams) stream.write(event("happened", happening, id));
  }

  /** End every stream, as a drain does. */
  cut(): void {
    for (const stream of this._streams) stream.end();
    this._streams.clear();
  }

  server(): ServerFacts {
    const { ready, draining, durable } = this.knobs;
    return {
      node: "node-1",
      version: "0.1.0",
      started: this._started,
      now: Date.now(),
      uptime_s: (Date.now() - this._started) / 1000,
      development: this.knobs.token === null,
      durable,
      database: durable ? "duolink.db" : null,
      ready: ready && !draining,
      reasons: [...(ready ? [] : ["the engine is down"]), ...(draining ? ["draining"] : [])],
      draining,
      auth: this.knobs.token === null ? "none" : "jwt",
      limits: {},
    };
  }

  /** The next sample: waves of a period of a minute or two. */
  stats(): Stats {
    const uptime = (Date.now() - this._started) / 1000;
    const wave = (period: number, phase = 0) => 1 + Math.sin((uptime / period) * 2 * Math.PI + phase);
    this._received += Math.round(4000 + 3000 * wave(60));
    for (const [index] of EDGES.entries())
      this._delays[index] =
        (this._delays[index] ?? 0) + Math.round(50 * Math.min(1, (index + 1) / (3 + 2 * wave(90))));
    const total = this._delays.at(-1) ?? 0;
    const buckets = EDGES.map((upper, index): Bucket => [upper, Math.min(total, this._delays[index] ?? 0)]);
    const { clients, channels, mailboxes } = this.knobs;
    return {
      time: Date.now(),
      uptime_s: uptime,
      connections: { websocket: Math.round(clients * (0.5 + wave(120) / 4)), tcp: 12, http: 2 },
      sessions: { active: clients, detached: Math.round(5 * wave(45)) },
      messages: { received: this._received, sent: Math.round(this._received * 1.4) },
      bytes: { received: this._received * 120, sent: this._received * 150 },
      delivery: { count: total, buckets },
      channels,
      subscriptions: channels * 9,
      mailboxes: { mailboxes, messages: Math.round(mailboxes * 60 * wave(100)), bytes: mailboxes * 9000 },
      slow_consumers: { held: wave(30) > 1.9 ? 2 : 0, closed: 3 },
      refusals: 7 + Math.floor(uptime / 20),
      errors: 1,
      loop_lag_ms: 0.3 + wave(20),
      cpu_s: uptime * 0.2 + wave(70),
      memory: 130e6 + 4e6 * wave(300),
    };
  }

  client(index: number): ClientFacts {
    const client = name(index);
    const now = Date.now();
    return {
      client,
      user: index % 3 ? client : `user of ${client}`,
      state: index % 9 === 4 ? "detached" : "active",
      transport: index % 7 ? "websocket" : "tcp",
      address: `192.0.2.${index % 250}:${40_000 + index}`,
      since: now - 1000 * (60 + index * 11),
      attached: now - 1000 * (30 + index * 7),
      generation: 1_790_000_000_000 + index,
      attachment: (index % 4) + 1,
      sent: index * 91,
      received: index * 57,
      bytes_sent: index * 9100,
      bytes_received: index * 6200,
      buffered: index % 31 === 5 ? 300_000 : 0,
      slow: index % 31 === 5,
      subscriptions: index % 5,
      mailbox: index % 6 ? null : { messages: index, bytes: index * 140, oldest: now - index * 60_000 },
      session: `s${index.toString(16).padStart(12, "0")}`,
      run: 1_790_000_100_000 + index,
      rtt_ms: index % 5 ? 12.4 : null,
      last_seen: now - 900,
      channels: Array.from({ length: index % 5 }, (_, each) => ({ name: channel(each), offset: each * 10 })),
      links: Array.from({ length: index % 4 }, (_, each) => ({
        peer: name(index + each + 1),
        lane: "messages",
        in_flight: each,
      })),
      claims: {
        user: client,
        client: null,
        subscribe: ["*"],
        publish: ["news/*"],
        links: ["*"],
        expires: null,
        operator: false,
      },
    };
  }

  /** Answers a request below `/api`; returns false for any other. */
  handle(request: IncomingMessage, response: ServerResponse): boolean {
    const url = new URL(request.url ?? "/", "http://localhost");
    if (!url.pathname.startsWith("/api/")) return false;
    this.asked.push(`${request.method} ${url.pathname}${url.search}`);
    const { token } = this.knobs;
    const given = request.headers.authorization;
    if (token !== null && given !== `Bearer ${token}`) {
      const forbidden = given === "Bearer not an operator's";
      problem(
        response,
        forbidden ? 403 : 401,
        forbidden ? "the token is not an operator's" : "a bearer token is needed",
      );
      return true;
    }
    let text = "";
    request.on("data", (chunk) => {
      text += chunk;
    });
    request.on("end", () => {
      const parts = url.pathname.slice("/api/".length).split("/").map(decodeURIComponent);
      const body: unknown = text ? JSON.parse(text) : null;
      this._answer(`${request.method} ${parts[0]}`, parts, url.searchParams, body, request, response);
    });
    return true;
  }

  private _answer(
    what: string,
    [, second, third]: string[],
    query: URLSearchParams,
    body: unknown,
    request: IncomingMessage,
    response: ServerResponse,
  ): void {
    if (what === "GET server") return json(response, this.server());
    if (what === "GET stats") return json(response, this.stats());
    if (what === "GET events") return this._stream(query, request, response);
    const clients = Array.from({ length: this.knobs.clients }, (_, index) => this.client(index));
    const here = clients.filter(({ client }) => !this._gone.has(client));
    const channels = Array.from({ length: this.knobs.channels }, (_, index) => this._channel(index));
    if (what === "GET clients" && second === undefined) {
      const state = query.get("state");
      const rows = here
        .filter((row) => row.client.startsWith(query.get("prefix") ?? "") && (!state || row.state === state))
        .map((row) => ({ ...row, mailbox: row.mailbox?.messages ?? null }));
      return json(
        response,
        page(rows, (row) => row.client, query),
      );
    }
    if (what === "GET clients") {
      const found = here.find(({ client }) => client === second);
      return found ? json(response, found) : problem(response, 404, "there is no such client");
    }
    if (what === "DELETE clients" && second !== undefined) {
      if (!here.some(({ client }) => client === second))
        return problem(response, 404, "there is no such client");
      this._gone.add(second);
      this.happen("disconnected", second, (body as { reason: string }).reason);
      response.writeHead(204).end();
      return;
    }
    if (what === "POST messages") {
      const { to, wait } = body as { to: string; wait?: string };
      return json(response, { to, seq: 1, state: wait ?? "sent" });
    }
    if (what === "GET mailboxes") {
      const rows = Array.from({ length: this.knobs.mailboxes }, (_, index): MailboxRow => {
        const messages = (this.knobs.mailboxes - index) * 37;
        const client = index % 5 ? name(index) : `@user-${index}`;
        return {
          client,
          messages,
          bytes: messages * 150,
          oldest: Date.now() - index * 90_000,
          senders: 1 + (index % 3),
        };
      });
      return json(
        response,
        query.get("order") === "depth"
          ? { items: rows.slice(0, 100), next: null }
          : page(rows, (row) => row.client, query),
      );
    }
    if (what === "GET channels" && second === undefined) {
      return json(
        response,
        page(
          channels.filter((row) => row.name.startsWith(query.get("prefix") ?? "")),
          (row) => row.name,
          query,
        ),
      );
    }
    const found = channels.find((row) => row.name === second);
    if (!found) return problem(response, 404, "there is nothing at this path");
    if (what === "POST channels") {
      this._published += 1;
      return json(response, { epoch: found.epoch, offset: found.offset + 1 });
    }
    const now = Date.now();
    switch (third) {
      case undefined:
        return json(response, {
          ...found,
          retention: { history_count: 1000, history_age_s: 3600 },
          state_entries: 3,
        });
      case "presence":
        return json(
          response,
          page(here.slice(0, found.subscribers), (row) => row.client, query),
        );
      case "state": {
        const entries = ["title", "cursor", "options"].map((key, index) => ({
          name: key,
          value: { text: `${key} of it`, size: index },
          version: index + 1,
        }));
        return json(
          response,
          page(entries, (row) => row.name, query),
        );
      }
      case "history": {
        const from = Number(query.get("from") ?? found.offset);
        const limit = Number(query.get("limit") ?? 100);
        const offsets = Array.from({ length: Math.min(limit, from) }, (_, index) => from - index);
        const items = offsets.map((offset) => ({
          offset,
          time: now - (found.offset - offset) * 1300,
          from: name(offset % 7),
          data: { text: `<b>message ${offset}</b>`, n: offset },
        }));
        return json(response, { items, epoch: found.epoch, next: from > limit ? from - limit : null });
      }
      default:
        return problem(response, 404, "there is nothing at this path");
    }
  }

  private _channel(index: number): ChannelRow {
    const { durable } = this.knobs;
    return {
      name: channel(index),
      subscribers: (index * 7) % 40,
      epoch: "e1",
      offset: 400 + index + this._published,
      durable,
    };
  }

  private _stream(query: URLSearchParams, request: IncomingMessage, response: ServerResponse): void {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-store" });
    const last = Number(request.headers["last-event-id"] ?? query.get("since") ?? Number.POSITIVE_INFINITY);
    response.write(event("server", this.server()));
    for (const happening of this._happenings)
      if (happening.id > last) response.write(event("happened", happening, happening.id));
    const sample = () => response.write(event("stats", this.stats()));
    sample();
    const timer = setInterval(sample, Number(query.get("interval") ?? 1000));
    this._streams.add(response);
    response.on("close", () => {
      clearInterval(timer);
      this._streams.delete(response);
    });
  }
}

const NAMES = ["alice", "bob", "carol", "dave", "erin", "frank", "grace", "heidi"];

const name = (index: number): string => `${NAMES[index % NAMES.length]}-${String(index).padStart(4, "0")}`;

const channel = (index: number): string =>
  `${["news", "rooms", "doc"][index % 3]}/${String(index).padStart(3, "0")}`;

const event = (kind: string, content: unknown, id?: number): string =>
  `event: ${kind}\n${id === undefined ? "" : `id: ${id}\n`}data: ${JSON.stringify(content)}\n\n`;

function page<T>(rows: T[], nameOf: (row: T) => string, query: URLSearchParams): Page<T> {
  const limit = Number(query.get("limit") ?? 100);
  const after = query.get("after") ?? "";
  const rest = rows
    .toSorted((left, right) => (nameOf(left) < nameOf(right) ? -1 : 1))
    .filter((row) => nameOf(row) > after);
  const items = rest.slice(0, limit);
  const last = items.at(-1);
  return { items, next: rest.length > limit && last ? nameOf(last) : null };
}

function json(response: ServerResponse, content: unknown, status = 200, type = "application/json"): void {
  response
    .writeHead(status, { "content-type": type, "cache-control": "no-store" })
    .end(JSON.stringify(content));
}

function problem(response: ServerResponse, status: number, detail: string): void {
  json(response, { type: "about:blank", title: "", status, detail }, status, "application/problem+json");
}
