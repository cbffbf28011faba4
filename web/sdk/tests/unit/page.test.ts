/** What a page does to its client: sleep, hidden timers, reloads, copied tabs. */

import { afterEach, beforeEach, expect, test, vi } from "vitest";
import type { Client } from "../../src/client.js";
import { after, client, FakeServer, now, online, sleep, turns, until, virtualTime } from "../world.js";

virtualTime();

/** The browser: storage of one tab, and locks of all. */
class Browser {
  storage = new Map<string, string>();
  readonly held = new Set<string>();
  readonly window = new EventTarget();
  readonly document = Object.assign(new EventTarget(), { visibilityState: "visible" });

  readonly sessionStorage = {
    getItem: (name: string) => this.storage.get(name) ?? null,
    setItem: (name: string, value: string) => void this.storage.set(name, value),
    removeItem: (name: string) => void this.storage.delete(name),
  };

  /** Seconds the browser takes to give a lock that is free. */
  busy = 0;

  /** Requests for a lock that it lets fall. */
  failing = 0;

  readonly locks = {
    request: async (name: string, { signal }: { signal?: { until: number } }, work: () => Promise<void>) => {
      if (this.failing && this.failing--) throw new Error("the provided callback is no longer runnable");
      for (let begun = now(); now() < begun + this.busy || this.held.has(name); ) {
        await new Promise((resolve) => setTimeout(resolve, 50));
        if (signal && now() >= signal.until) throw new DOMException("too late", "TimeoutError");
      }
      this.held.add(name);
      await work();
      this.held.delete(name);
    },
  };

  fire(type: string, on: EventTarget = this.window): void {
    on.dispatchEvent(new Event(type));
  }

  show(state: "visible" | "hidden"): void {
    this.document.visibilityState = state;
    this.fire("visibilitychange", this.document);
  }

  /** The page is gone: its locks are free, its timers do not fire. */
  unload(page: Client): void {
    this.fire("pagehide");
    const { _page, _driver } = page as unknown as { _page: { leave(): void }; _driver: { _disarm(): void } };
    _page.leave();
    _driver._disarm();
  }
}

let browser: Browser;

beforeEach(() => {
  browser = new Browser();
  vi.stubGlobal("document", browser.document);
  vi.stubGlobal("navigator", { locks: browser.locks });
  vi.spyOn(AbortSignal, "timeout").mockImplementation(
    (ms) => ({ until: now() + ms / 1000 }) as unknown as AbortSignal, // on the virtual clock
  );
  vi.stubGlobal("sessionStorage", browser.sessionStorage);
  vi.stubGlobal("addEventListener", browser.window.addEventListener.bind(browser.window));
  vi.stubGlobal("removeEventListener", browser.window.removeEventListener.bind(browser.window));
});

afterEach(() => {
  vi.unstubAllGlobals();
});

async function opened(server: FakeServer, options = {}): Promise<Client> {
  const page = client(server, options);
  await after(page.open());
  await turns();
  return page;
}

test("a reloaded page resumes the session as a new process, and its full sets replace those of before", async () => {
  const server = new FakeServer();
  const before = await opened(server);
  expect(browser.storage.size).toBe(0); // nothing that a copied tab could find
  browser.unload(before);
  expect(browser.storage.size).toBe(1);
  const page = await opened(server);
  expect(server.hellos[1]).toMatchObject({
    session: "s1",
    secret: "secret1",
    run: 0,
    subscriptions: [],
    watch: [],
  });
  expect(browser.storage.size).toBe(0); // consumed
  expect(browser.held.size).toBe(1);
  await after(page.close());
  await turns();
  expect(browser.held.size).toBe(0);
});

test("what a page subscribes to before it opens its client goes with the hello", async () => {
  const server = new FakeServer();
  const page = client(server);
  const early = page.channel("doc").subscribe();
  await turns();
  expect(server.hellos).toEqual([]); // it does not even begin by itself
  await after(page.open());
  await turns();
  expect(server.hellos[0]).toMatchObject({ subscriptions: [{ channel: "doc" }] });
  await after(page.close());
  await expect(early).rejects.toThrow("closed");
  await expect(page.channel("doc").subscribe()).rejects.toThrow("closed");
});

test("a copied tab does not resume what the original lives on", async () => {
  const server = new FakeServer();
  const before = await opened(server);
  browser.fire("pagehide"); // into the back/forward cache …
  const copy = new Map(browser.storage);
  browser.fire("pageshow"); // … and back
  expect(browser.storage.size).toBe(0);
  browser.storage = copy; // of the tab that was copied meanwhile
  const began = now();
  const page = await opened(server);
  expect(now() - began).toBeGreaterThan(0.4); // it has waited for the lock
  expect(server.hellos[1]).toMatchObject({ session: "", secret: "", run: 0 });
  await after(page.close());
  await after(before.close());
});

test("a page keeps its session however long a busy browser takes to give it the lock", async () => {
  const server = new FakeServer();
  browser.busy = 2;
  const before = await opened(server);
  expect(browser.held.size).toBe(0);
  await sleep(3);
  expect(browser.held.size).toBe(1);
  await after(before.close());
  await turns();
  expect(browser.held.size).toBe(0);
});

test("a request for the lock that the browser lets fall is made again", async () => {
  const server = new FakeServer();
  browser.failing = 2; // as Chromium does, if it would grant it in the middle of `window.open`
  browser.unload(await opened(server));
  browser.failing = 2;
  const page = await opened(server);
  expect(server.hellos[1]).toMatchObject({ session: "s1", secret: "secret1" });
  expect(browser.held.size).toBe(1);
  await after(page.close());
});

test("a browser that lets every request for a lock fall is not asked for ever", async () => {
  const server = new FakeServer();
  browser.failing = Number.POSITIVE_INFINITY;
  const before = await opened(server);
  browser.unload(before);
  const page = await opened(server);
  expect(server.hellos[1]).toMatchObject({ session: "", run: 0 });
  await after(page.close());
});

test("a lock that comes after its client has gone is given back", async () => {
  const server = new FakeServer();
  browser.busy = 2;
  await after((await opened(server)).close());
  await sleep(3);
  expect(browser.held.size).toBe(0);
});

test.each([
  ["without Web Locks", () => vi.stubGlobal("navigator", {})],
  [
    "in a page that may not store",
    () => {
      browser.sessionStorage.setItem = () => {
        throw new DOMException("full", "QuotaExceededError");
      };
    },
  ],
  [
    "with rubbish in the storage",
    () => {
      browser.sessionStorage.setItem = (name) => void browser.storage.set(name, "{");
    },
  ],
])("%s a new session begins", async (_, spoil) => {
  spoil();
  const server = new FakeServer();
  const before = await opened(server);
  browser.unload(before);
  const page = await opened(server);
  expect(server.hellos[1]).toMatchObject({ session: "", run: 0 });
  await after(page.close());
});

test("who does not want it is not resumed, and a client that was closed neither", async () => {
  const server = new FakeServer();
  browser.unload(await opened(server, { resume: false }));
  expect(browser.storage.size).toBe(0);
  const page = await opened(server);
  await after(page.close());
  browser.fire("pagehide");
  expect(browser.storage.size).toBe(0);
});

test("a page that wakes up asks for life", async () => {
  const server = new FakeServer();
  await online(server, async () => {
    for (const [count, wake] of [
      () => browser.show("visible"),
      () => browser.fire("pageshow"),
      () => browser.fire("online"),
      () => browser.fire("offline"),
      () => browser.fire("resume", browser.document),
    ].entries()) {
      wake();
      await turns();
      expect(server.all("ping")).toHaveLength(count + 1);
    }
    browser.show("hidden");
    await turns();
    expect(server.all("ping")).toHaveLength(5);
  });
});

test("a network that is back is used at once", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.failures = ["no route", "no route", "no route"];
    server.line.end();
    await until(() => server.dialled === 4);
    const began = now();
    browser.fire("offline"); // changes nothing: it knows
    await turns();
    expect(server.dialled).toBe(4);
    browser.fire("online");
    await until(() => alice.state === "online");
    expect(now() - began).toBeLessThan(0.1);
  });
});

test("a page whose connection has ended in its sleep comes back at once", async () => {
  const server = new FakeServer();
  await online(server, async () => {
    for (const [slept, atOnce] of [
      [0.1, true],
      [9, true], // the browser was busy
      [11, false], // long after it woke up, a loss is a loss
    ] as const) {
      browser.fire("pageshow");
      await sleep(slept);
      const [began, dialled] = [now(), server.dialled];
      server.line.end(); // the browser tells it after the waking
      await until(() => server.dialled > dialled);
      expect(now() - began < 0.01).toBe(atOnce);
    }
  });
});

test("in a hidden page acknowledgements do not wait for a slow timer", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    alice.onMessage(() => {});
    server.line.deliver(server.message("bob", 1, "x"));
    await turns();
    expect(server.acknowledged).toBe(0);
    await sleep(0.1);
    browser.show("hidden");
    server.line.deliver(server.message("bob", 2, "x"));
    await turns();
    expect(server.acknowledged).toBe(2);
  });
});
