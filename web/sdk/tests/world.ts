/** A world for clients: virtual time, and a server that does what a test says. */

import { afterEach, beforeEach, expect, vi } from "vitest";
import { Client, type ClientOptions } from "../src/client.js";
import { CLIENT, Malformed } from "../src/protocol/codec.js";
import { MAX_MESSAGE, MAX_PAYLOAD, WINDOW, WINDOW_BYTES } from "../src/protocol/limits.js";
import {
  type Ack,
  type Hello,
  type LinkMessage,
  type Message,
  type MessageOf,
  make,
  type Publication,
  type Type,
  type Welcome,
} from "../src/protocol/messages.js";
import { payloads } from "../src/protocol/payload.js";
import type { Dial, Transport, TransportUser } from "../src/transport.js";

export const RUN = 1_800_000_000_000;

/** What was complained of on the console. */
export const complaints: string[] = [];

/** Play the tests of a file in virtual time; no timer may be left over. */
export function virtualTime(): void {
  beforeEach(() => {
    vi.useFakeTimers({ toFake: ["setTimeout", "clearTimeout", "Date", "performance"], now: 1_000_000_000 });
    vi.spyOn(Math, "random").mockReturnValue(0.5);
    complaints.length = 0;
    for (const method of ["warn", "error"] as const) {
      vi.spyOn(console, method).mockImplementation((text) => void complaints.push(String(text)));
    }
  });
  afterEach(() => {
    const left = vi.getTimerCount();
    vi.useRealTimers();
    vi.restoreAllMocks();
    expect(left, "timers left over").toBe(0);
  });
}

/** Let time pass. */
export async function sleep(seconds: number): Promise<void> {
  await vi.advanceTimersByTimeAsync(seconds * 1000);
}

/** Let everything happen that is due now. */
export async function turns(count = 200): Promise<void> {
  for (let turn = 0; turn < count; turn++) await null;
}

/** Let time pass until it is so; a test that waits for an hour fails. */
export async function until(condition: () => boolean): Promise<void> {
  await turns();
  for (let step = 0; !condition(); step++) {
    if (step > 360_000) throw new Error("it will not happen");
    await vi.advanceTimersByTimeAsync(10);
  }
}

/** Await what needs time to pass. */
export async function after<T>(work: Promise<T>): Promise<T> {
  let done = false;
  const end = () => {
    done = true;
  };
  work.then(end, end);
  await until(() => done);
  return work;
}

/** What a promise is rejected with, after the time that takes. */
export async function failure(work: Promise<unknown>): Promise<Error & Record<string, unknown>> {
  return after(
    work.then(
      () => {
        throw new Error("it did not fail");
      },
      (error) => error,
    ),
  );
}

/** The clock of clients, in seconds. */
export function now(): number {
  return performance.now() / 1000;
}

/** One transport of a client, and the server's end of it. */
export class Line implements Transport {
  congested = false;
  open = true;
  closedWith: number | null = null;

  constructor(
    readonly server: FakeServer,
    readonly user: TransportUser,
  ) {}

  send(payload: string | Uint8Array): void {
    if (this.open && this.closedWith === null) queueMicrotask(() => this.server.took(this, payload));
  }

  close(code: number): void {
    if (this.closedWith !== null) return;
    this.closedWith = code;
    queueMicrotask(() => this.gone());
  }

  abort(): void {
    queueMicrotask(() => this.end(1006, "cut off"));
  }

  /** Have the client receive messages, in one payload where they fit. */
  deliver(...messages: Message[]): void {
    for (const { payload } of payloads(messages)) {
      if (this.open && this.closedWith === null) this.user.received(this, payload);
    }
  }

  /** The connection ends. */
  end(code = 1006, reason = ""): void {
    if (!this.open) return;
    if (this.closedWith === null) this.user.closed(this, code, reason);
    this.gone();
  }

  private gone(): void {
    if (!this.open) return;
    this.open = false;
    this.user.gone(this);
  }
}

interface Settings extends Partial<Welcome> {
  /** Pass link messages between the clients and tell who is there. */
  relay?: boolean;
  window?: number;
}

/** Accepts every hello, remembers what it got, and otherwise does nothing by itself. */
export class FakeServer {
  got: Message[] = [];
  hellos: Hello[] = [];
  lines: Line[] = [];
  failures: string[] = []; // for the next attempts
  dialled = 0;
  onHello: (line: Line, hello: Hello) => boolean = () => false;
  private readonly clients = new Map<string, Line>();

  constructor(private readonly settings: Settings = {}) {}

  readonly dial: Dial = (user) => {
    this.dialled += 1;
    const line = new Line(this, user);
    const trouble = this.failures.shift();
    if (trouble === undefined) this.lines.push(line);
    queueMicrotask(() => (trouble === undefined ? user.opened(line) : line.end(1006, trouble)));
    return line;
  };

  /** The newest connection. */
  get line(): Line {
    return this.lines.at(-1) as Line;
  }

  took(line: Line, payload: string | Uint8Array): void {
    for (const message of typeof payload === "string" ? CLIENT.text(payload) : CLIENT.binary(payload)) {
      if (message instanceof Malformed) throw new Error(message.reason);
      this.handle(line, message);
    }
  }

  private handle(line: Line, message: Message): void {
    if (message.type === "hello") {
      this.hellos.push(message);
      if (this.onHello(line, message)) return;
      this.clients.set(message.client_id, line);
      line.deliver(this.welcome(message));
      return;
    }
    this.got.push(message);
    if (message.type === "ping") line.deliver(make("pong", { id: message.id }));
    else if (message.type === "watch") {
      const here = message.clients.filter((peer) => this.clients.has(peer));
      const peers = here.map((peer) => make("peer", { client_id: peer, state: "here", run: RUN }));
      line.deliver(make("watching", { id: message.id }), ...peers);
    } else if (this.settings.relay && "to" in message && "from" in message) this.passOn(line, message);
  }

  private passOn(line: Line, message: Message & { to: string; from: string }): void {
    const target = this.clients.get(message.to);
    message.from = [...this.clients].find(([, other]) => other === line)?.[0] ?? "";
    message.to = "";
    if (target) queueMicrotask(() => target.deliver(message));
  }

  welcome(hello: Hello): Welcome {
    const { relay: _, window = WINDOW, ...fields } = this.settings;
    return make("welcome", {
      client_id: hello.client_id,
      session: "s1",
      secret: `secret${this.hellos.length}`,
      generation: 1,
      attachment: this.hellos.length,
      run: hello.run || RUN,
      resumed: Boolean(hello.session),
      durable: false,
      heartbeat: { interval: 30_000, timeout: 10_000, misses: 3 },
      limits: {
        message: MAX_MESSAGE,
        payload: MAX_PAYLOAD,
        subscriptions: 128,
        watched: 2,
        window,
        window_bytes: WINDOW_BYTES,
      },
      time: 1_000_000,
      ...fields,
    });
  }

  /** What it has got of a type. */
  all<T extends Type>(type: T): MessageOf<T>[] {
    return this.got.filter((message): message is MessageOf<T> => message.type === type);
  }

  /** Return the messages of a type when there are that many. */
  async expect<T extends Type>(type: T, count = 1): Promise<MessageOf<T>[]> {
    await until(() => this.all(type).length >= count);
    return this.all(type);
  }

  /** The newest message of a type, when there are that many. */
  async newest<T extends Type>(type: T, count = 1): Promise<MessageOf<T>> {
    return (await this.expect(type, count)).at(-1) as MessageOf<T>;
  }

  /** The highest number acknowledged. */
  get acknowledged(): number {
    return Math.max(0, ...this.all("ack").map((ack) => ack.seq));
  }

  // --- what a peer would say ------------------------------------------------------------------------

  message(from: string, seq: number, data: unknown, fields: Partial<LinkMessage> = {}): LinkMessage {
    return make("message", { run: 7, seq, base: 1, from, data, ...fields });
  }

  ack(from: string, seq: number, fields: Partial<Ack> = {}): Ack {
    return make("ack", { run: RUN, seq, from, ...fields });
  }

  publication(
    channel: string,
    offset: number,
    data: unknown,
    fields: Partial<Publication> = {},
  ): Publication {
    return make("publication", { channel, offset, from: "x", data, ...fields });
  }
}

/** Whether nothing is left of a client: no socket, no timer. */
export function idle(client: Client): boolean {
  const driver = client as unknown as {
    _driver: { _sockets: Set<unknown>; _timer: unknown; _dialling: unknown };
  };
  const { _sockets, _timer, _dialling } = driver._driver;
  return !_sockets.size && _timer === null && !_dialling;
}

/** A client of a server in this world, not open yet. */
export function client(server: FakeServer, options: Partial<ClientOptions> = {}): Client {
  return new Client("ws://server", { clientId: "alice", dial: server.dial, ...options });
}

/** Use an open client; it is closed at the end. */
export async function online(
  server: FakeServer,
  use: (alice: Client) => Promise<void>,
  options: Partial<ClientOptions> = {},
): Promise<void> {
  const alice = client(server, options);
  await after(alice.open());
  await use(alice);
  await after(alice.close());
  expect(idle(alice), "something is left of the client").toBe(true);
}
