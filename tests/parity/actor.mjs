/**
 * One client of a scenario, on the TypeScript SDK: in Node and in a page. It does what it is told, and tells what
 * it sees; `tests/parity/python_actor.py` is the same on the Python SDK. The vocabulary is that of
 * `spec/scenarios/README.md`.
 */

/** Fields of errors that mean the same in both SDKs. */
const TOLD = ["code", "error", "reason", "certain", "count", "version"];

/** What is told of an error. Texts are the SDKs' own. */
function described(error) {
  const told = { name: error.name };
  for (const field of TOLD) if (error[field] !== undefined) told[field] = error[field];
  if (error.name === "RequestFailed") told.text = error.message;
  if (!(error.name in ERRORS)) told.text = String(error.stack ?? error);
  return told;
}

/** The language's own error for an impossible argument has another name in Python. */
const ERRORS = Object.fromEntries(
  [
    "Busy ClientClosed CommandFailed CommandTimeout Conflict InvalidData Lost Refused RequestFailed",
    "RequestTimeout Unreachable Unsettled WindowFull",
  ]
    .join(" ")
    .split(" ")
    .map((name) => [name, true]),
);

/** Data from a scenario. */
function data(value) {
  if (value === null || typeof value !== "object" || typeof value.$bytes !== "string") return value;
  return Uint8Array.from(value.$bytes.match(/../g) ?? [], (pair) => Number.parseInt(pair, 16));
}

/** Data for the history. */
function plain(value) {
  if (!(value instanceof Uint8Array)) return value;
  return { $bytes: [...value].map((byte) => byte.toString(16).padStart(2, "0")).join("") };
}

export class Actor {
  /** `record` takes what happens, as an object that JSON can carry. */
  constructor(sdk, WebSocket, record) {
    this.sdk = sdk;
    this.WebSocket = WebSocket;
    this.records = 0;
    this.tell = (event, fields) => {
      this.records += 1;
      record({ event, ...fields });
    };
    this.subscriptions = new Map();
    this.reading = Promise.resolve();
    this.letRead = () => {};
  }

  /** Do something; returns its result, or what is told of the error. */
  async do(verb, how) {
    try {
      return { result: (await this[`do_${verb}`](how)) ?? null };
    } catch (error) {
      return { error: described(error) };
    }
  }

  async do_connect({ url, client, tokens, answer, close_timeout, options }) {
    const { Client } = this.sdk;
    const { backoff_initial, backoff_cap, first_tries, hello_timeout, resume_window } = options;
    this.client = new Client(url, {
      clientId: client,
      token: () => (tokens.length > 1 ? tokens.shift() : tokens[0]),
      closeTimeout: close_timeout,
      backoffInitial: backoff_initial,
      backoffCap: backoff_cap,
      firstTries: first_tries,
      helloTimeout: hello_timeout,
      resumeWindow: resume_window,
      ...(this.WebSocket ? { WebSocket: this.WebSocket } : {}),
    });
    this.client.onEvent((event) => this.event(event));
    if (answer) this.do_answer({ how: answer }); // before the first request can come
    await this.client.open();
    void this.read();
  }

  event({ kind, ...fields }) {
    const { welcome } = this.client;
    if (fields.present) fields.present = [...fields.present].sort();
    if (kind === "handler_failed") fields.error = fields.error.name;
    this.tell(kind, fields);
    if (kind === "state" && fields.state === "online") {
      const { run, resumed, durable } = welcome;
      this.tell("welcome", { run, resumed, durable });
    }
  }

  /** Take messages and losses, in their order; one that is held back is not finished. */
  async read() {
    try {
      for await (const item of this.client.messages({ losses: true })) {
        if (item instanceof this.sdk.Message) {
          const { sender, run, lane, seq, user } = item;
          this.tell("message", { peer: sender, run, lane, seq, user, data: plain(item.data) });
        } else {
          const { peer, lane, first, last, reason, user } = item;
          this.tell("loss", { peer, lane, first, last, reason, user });
        }
        await this.reading;
      }
      this.tell("end", { error: "" });
    } catch (error) {
      this.tell("end", { error: error.name });
    }
  }

  do_hold() {
    this.reading = new Promise((resolve) => {
      this.letRead = resolve;
    });
  }

  do_read() {
    this.letRead();
    this.reading = Promise.resolve();
  }

  do_watch({ peer }) {
    this.client.link(peer).onEphemeral((value) => this.tell("ephemeral", { from: peer, data: plain(value) }));
  }

  async do_send({ to, items, name, lane = "messages", expires, collapse = "", wait = true }) {
    const link = this.client.link(to);
    const how = { lane, expires, collapse };
    for (const value of items) {
      const sent = wait ? await link.send(data(value), how) : link.trySend(data(value), how);
      const { run } = this.client.welcome;
      this.tell("sent", { name, to, run, lane, seq: sent.seq, data: value });
      void this.follow(sent, { name, to, run, lane, seq: sent.seq });
    }
  }

  /** Tell what becomes of a message. */
  async follow(sent, which) {
    try {
      if ((await sent.resolved()) === "stored") this.tell("fate", { ...which, fate: "stored" });
      await sent.delivered();
      this.tell("fate", { ...which, fate: "delivered" });
    } catch (error) {
      const { name, reason, certain } = error;
      if (name === "Lost") this.tell("fate", { ...which, fate: "lost", reason, certain });
    }
  }

  async do_request({ to, data: value, timeout }) {
    return plain(await this.client.link(to).request(data(value), { timeout }));
  }

  do_answer({ how }) {
    const { RequestFailed } = this.sdk;
    const answers = {
      echo: (message) => ({ echo: plain(message.data) }),
      fail: () => {
        throw new RequestFailed("no");
      },
      crash: () => {
        throw new TypeError("a fault of the application");
      },
      never: () => new Promise(() => {}),
    };
    this.client.onRequest((message) => {
      this.tell("request", { peer: message.sender, data: plain(message.data) });
      return answers[how](message);
    });
  }

  do_ephemeral({ to, channel, data: value }) {
    const target = to ? this.client.link(to) : this.client.channel(channel);
    return target.ephemeral(data(value));
  }

  async do_subscribe({ channel: name, presence = false, state = false }) {
    const channel = this.client.channel(name);
    channel.onEphemeral((value, from) =>
      this.tell("ephemeral", { from, channel: name, data: plain(value) }),
    );
    const subscription = await channel.subscribe({ presence, state });
    this.subscriptions.set(name, subscription);
    this.map(name, subscription);
    void this.take(name, subscription);
  }

  map(channel, { state }) {
    const there = [...state].map(([name, { value, version }]) => [name, { value: plain(value), version }]);
    this.tell("map", { channel, map: Object.fromEntries(there) });
  }

  async take(channel, subscription) {
    try {
      for await (const item of subscription) {
        if (item.kind === "gap") {
          this.tell("entry", { channel, kind: "gap", reason: item.reason });
        } else {
          const { kind, epoch, offset, sender, name } = item;
          const value = kind === "deleted" ? null : plain(item.data);
          this.tell("entry", { channel, kind, epoch, offset, sender, name, data: value });
        }
        this.map(channel, subscription);
        await this.reading;
      }
    } catch (error) {
      this.tell("channel_end", { channel, error: error.name });
    }
  }

  do_unsubscribe({ channel }) {
    this.subscriptions.get(channel).close();
    this.subscriptions.delete(channel);
  }

  async do_publish({ channel, items }) {
    for (const value of items) await this.client.channel(channel).publish(data(value));
  }

  async do_set({ channel, key, data: value, expect }) {
    return this.client.channel(channel).set(key, data(value), { expect });
  }

  async do_delete({ channel, key, expect }) {
    await this.client.channel(channel).delete(key, { expect });
  }

  async do_history({ channel, limit }) {
    const page = await this.client.channel(channel).history({ limit });
    return page.publications.map((each) => plain(each.data));
  }

  async do_members({ channel }) {
    return this.client.channel(channel).presence();
  }

  async do_close() {
    await this.client.close();
  }

  /** How many records there are: who has so many has all. */
  do_flush() {
    return this.records;
  }
}
