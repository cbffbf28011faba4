/** The operator's HTTP API, as functions. Every call takes a signal and raises one of three things: `Problem`
 * (the server says no), `Unreachable` (nobody answered, or not in time), or the signal's reason. */

import type { Credentials } from "./credentials.js";
import type {
  ChannelFacts,
  ChannelRow,
  ClientFacts,
  ClientRow,
  MailboxRow,
  Member,
  Page,
  PublicationPage,
  PublishOutcome,
  SendOutcome,
  ServerFacts,
  StateEntry,
} from "./shapes.js";

/** Milliseconds until a request counts as unanswered. */
const PATIENCE = 10_000;

/** The server's answer is an error (RFC 9457). */
export class Problem extends Error {
  constructor(
    readonly status: number,
    readonly title: string,
    readonly detail: string,
  ) {
    super(detail || title || `status ${status}`);
  }
}

/** No answer. */
export class Unreachable extends Error {}

type Query = Record<string, string | number | boolean | null | undefined>;

export interface Call {
  signal?: AbortSignal | undefined;
}

export interface MessageToSend {
  to: string;
  data: unknown;
  key?: string | undefined;
  ttl_ms?: number | undefined;
  wait?: "sent" | "stored" | "delivered";
  timeout_ms?: number;
}

export class Api {
  constructor(
    readonly credentials: Credentials,
    private readonly _fetch: typeof fetch = (...given) => fetch(...given),
    private readonly _base = "/api",
  ) {}

  server(call: Call = {}): Promise<ServerFacts> {
    return this._get("/server", {}, call);
  }

  clients(query: { state?: string; prefix?: string; after?: string; limit: number }, call: Call = {}) {
    return this._get<Page<ClientRow>>("/clients", query, call);
  }

  client(client: string, call: Call = {}): Promise<ClientFacts> {
    return this._get(`/clients/${encodeURIComponent(client)}`, {}, call);
  }

  /** Cut a client off; `reconnect`: with a code that lets it come back. */
  async disconnect(
    client: string,
    how: { reason?: string | undefined; reconnect: boolean },
    call: Call = {},
  ): Promise<void> {
    await this._write("DELETE", `/clients/${encodeURIComponent(client)}`, how, call);
  }

  send(message: MessageToSend, call: Call = {}): Promise<SendOutcome> {
    return this._write("POST", "/messages", message, call, PATIENCE + (message.timeout_ms ?? 0));
  }

  channels(query: { prefix?: string; present?: boolean; after?: string; limit: number }, call: Call = {}) {
    return this._get<Page<ChannelRow>>("/channels", query, call);
  }

  channel(name: string, call: Call = {}): Promise<ChannelFacts> {
    return this._get(`/channels/${encodeURIComponent(name)}`, {}, call);
  }

  presence(name: string, query: { after?: string; limit: number }, call: Call = {}): Promise<Page<Member>> {
    return this._get(`/channels/${encodeURIComponent(name)}/presence`, query, call);
  }

  /** A page of the channel's log, from `from` on, or with `reverse` back from it (default: the newest). */
  history(name: string, query: { from?: number; limit: number; reverse: boolean }, call: Call = {}) {
    return this._get<PublicationPage>(`/channels/${encodeURIComponent(name)}/history`, query, call);
  }

  state(name: string, query: { after?: string; limit: number }, call: Call = {}): Promise<Page<StateEntry>> {
    return this._get(`/channels/${encodeURIComponent(name)}/state`, query, call);
  }

  publish(
    name: string,
    body: { data: unknown; key?: string | undefined },
    call: Call = {},
  ): Promise<PublishOutcome> {
    return this._write("POST", `/channels/${encodeURIComponent(name)}/messages`, body, call);
  }

  mailboxes(query: { order: "depth" | "name"; after?: string; limit: number }, call: Call = {}) {
    return this._get<Page<MailboxRow>>("/mailboxes", query, call);
  }

  /** Open the stream of samples and happenings: those after `lastId`, or ("") all that are kept. Its body may be
   * read for as long as the signal allows. */
  async events(interval: number, lastId: string, signal: AbortSignal): Promise<ReadableStream<Uint8Array>> {
    const headers: Record<string, string> = { accept: "text/event-stream" };
    if (lastId) headers["last-event-id"] = lastId;
    const since = lastId ? "" : "&since=0";
    const response = await this._ask("GET", `/events?interval=${interval}${since}`, { headers }, signal);
    if (!response.body) throw new Unreachable("the stream has no body");
    return response.body;
  }

  private async _get<T>(path: string, query: Query, { signal }: Call): Promise<T> {
    const given = Object.entries(query).filter(
      ([, value]) => value !== undefined && value !== "" && value !== null,
    );
    const text = new URLSearchParams(given.map(([name, value]) => [name, String(value)])).toString();
    return this._timed(signal, PATIENCE, async (within) => {
      return (await this._ask("GET", text ? `${path}?${text}` : path, {}, within)).json();
    });
  }

  private _write<T>(
    method: string,
    path: string,
    body: unknown,
    { signal }: Call,
    patience = PATIENCE,
  ): Promise<T> {
    const headers = { "content-type": "application/json" };
    return this._timed(signal, patience, async (within) => {
      const response = await this._ask(method, path, { headers, body: JSON.stringify(body) }, within);
      return response.status === 204 ? undefined : response.json();
    });
  }

  /** Do it within `patience`; a caller who has gone hears his own reason, everyone else Problem or Unreachable. */
  private async _timed<T>(
    signal: AbortSignal | undefined,
    patience: number,
    work: (signal: AbortSignal) => Promise<T>,
  ): Promise<T> {
    const timeout = AbortSignal.timeout(patience);
    try {
      return await work(signal ? AbortSignal.any([signal, timeout]) : timeout);
    } catch (error) {
      if (timeout.aborted) throw new Unreachable(`no answer within ${patience / 1000} s`);
      if (error instanceof SyntaxError) throw new Unreachable("the answer is not JSON");
      throw error;
    }
  }

  private async _ask(
    method: string,
    path: string,
    init: RequestInit,
    signal: AbortSignal,
  ): Promise<Response> {
    const headers = new Headers(init.headers);
    const { token } = this.credentials;
    if (token) headers.set("authorization", `Bearer ${token}`);
    let response: Response;
    try {
      response = await this._fetch(this._base + path, {
        ...init,
        method,
        headers,
        signal,
        cache: "no-store",
        credentials: "omit",
        redirect: "error",
      });
    } catch (error) {
      if (signal.aborted) throw signal.reason;
      throw new Unreachable("the server cannot be reached", { cause: error }); // browsers do not say why
    }
    if (!response.ok) throw await problem(response);
    return response;
  }
}

async function problem(response: Response): Promise<Problem> {
  try {
    const { title, detail } = await response.json();
    return new Problem(response.status, text(title), text(detail));
  } catch {
    return new Problem(response.status, response.statusText, "");
  }
}

const text = (value: unknown): string => (typeof value === "string" ? value : "");
