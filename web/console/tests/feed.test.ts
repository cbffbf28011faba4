import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test, vi } from "vitest";
import { Api } from "../src/api/api.js";
import { Credentials } from "../src/api/credentials.js";
import type { Happening, ServerFacts, Stats } from "../src/api/shapes.js";
import { type Connection, Feed, type FeedUser } from "../src/feed.js";
import { FakeApi } from "./fake/api.js";

/** Remembers what it was told, and lets one wait for it. */
class Listener implements FeedUser {
  readonly states: Connection[] = [];
  readonly samples: Stats[] = [];
  readonly happenings: Happening[] = [];
  facts: ServerFacts | null = null;

  connection(connection: Connection): void {
    this.states.push(connection);
  }
  server(facts: ServerFacts): void {
    this.facts = facts;
  }
  stats(sample: Stats): void {
    this.samples.push(sample);
  }
  happened(happening: Happening): void {
    this.happenings.push(happening);
  }
  get state(): string | undefined {
    return this.states.at(-1)?.state;
  }
}

let fake: FakeApi;
let server: Server;
let listener: Listener;
let feed: Feed;
let credentials: Credentials;

beforeEach(async () => {
  fake = new FakeApi();
  server = createServer((request, response) => void fake.handle(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  credentials = new Credentials(null);
  listener = new Listener();
  feed = new Feed(new Api(credentials, fetch, `http://127.0.0.1:${port}/api`), listener);
});

afterEach(() => {
  feed.stop();
  fake.cut();
  server.closeAllConnections();
  server.close();
});

const until = (holds: () => boolean) =>
  vi.waitFor(() => expect(holds()).toBe(true), { timeout: 5000, interval: 5 });

test("a feed tells the server, a sample at once, and what has happened", async () => {
  feed.restart();
  await until(() => listener.samples.length > 0);
  expect(listener.facts?.node).toBe("node-1");
  expect(listener.states.map(({ state }) => state)).toEqual(["connecting", "live"]);
  const before = listener.happenings.length;
  fake.happen("connected", "eve");
  await until(() => listener.happenings.length > before);
  expect(listener.happenings.at(-1)?.client).toBe("eve");
});

test("a stream that ends is lost, and comes back where it was, at once when it is woken", async () => {
  feed.restart();
  await until(() => listener.samples.length > 0);
  const known = listener.happenings.length;
  fake.cut();
  await until(() => listener.state === "lost");
  expect(listener.states.at(-1)).toMatchObject({
    since: expect.any(Number),
    reason: "the server ended the stream",
  });
  fake.happen("connected", "eve");
  feed.wake();
  await until(() => listener.happenings.length > known);
  expect(listener.state).toBe("live");
  expect(listener.happenings.slice(known).map(({ client }) => client)).toEqual(["eve"]); // and nothing twice
});

test("without a valid token it asks for one, and tries nothing until then", async () => {
  fake.knobs.token = "the secret";
  feed.restart();
  await until(() => listener.state === "refused");
  expect(listener.states.at(-1)).toMatchObject({ status: 401, detail: "a bearer token is needed" });
  feed.wake();
  expect(fake.asked).toHaveLength(1);
  credentials.use("the secret", false);
  feed.restart();
  await until(() => listener.state === "live");
});

/** A feed whose every attempt fails, under a clock that is moved by hand. */
function failing(random: () => number) {
  let attempts = 0;
  const refusing = new Api(new Credentials(null), async () => {
    attempts += 1;
    throw new TypeError("nobody is there");
  });
  return { feed: new Feed(refusing, listener, random), attempts: () => attempts };
}

test("attempts become rarer, up to one in fifteen seconds", async () => {
  vi.useFakeTimers();
  try {
    const { feed, attempts } = failing(() => 1);
    feed.restart();
    const waits: number[] = [];
    for (let round = 1; round <= 7; round += 1) {
      await vi.advanceTimersByTimeAsync(0);
      expect(attempts()).toBe(round);
      const last = listener.states.at(-1);
      if (last?.state !== "lost") throw new Error("it is not lost");
      expect(last).toMatchObject({ since: null, reason: "the server cannot be reached" });
      waits.push(last.retryAt - Date.now());
      await vi.advanceTimersByTimeAsync(waits.at(-1) ?? 0);
    }
    expect(waits).toEqual([1000, 2000, 4000, 8000, 15_000, 15_000, 15_000]);
    feed.stop();
    await vi.advanceTimersByTimeAsync(60_000);
    expect(attempts()).toBe(8);
  } finally {
    vi.useRealTimers();
  }
});

test("a stream that falls silent is given up after ten seconds", async () => {
  vi.useFakeTimers();
  try {
    const silent = new Api(new Credentials(null), async (_, init) => {
      const { signal } = init as { signal: AbortSignal };
      const body = new ReadableStream<Uint8Array>({
        start(controller) {
          controller.enqueue(new TextEncoder().encode('event: stats\ndata: {"time":1}\n\n'));
          signal.addEventListener("abort", () => controller.error(signal.reason));
        },
      });
      return new Response(body);
    });
    const feed = new Feed(silent, listener, () => 1);
    feed.restart();
    await vi.advanceTimersByTimeAsync(5000);
    expect(listener.state).toBe("live");
    await vi.advanceTimersByTimeAsync(5001);
    expect(listener.states.at(-1)).toMatchObject({ state: "lost", reason: "nothing was heard for 10 s" });
    feed.stop();
  } finally {
    vi.useRealTimers();
  }
});
