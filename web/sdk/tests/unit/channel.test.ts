/** Channels: publishing, subscriptions, gaps, slow readers, presence, history, shared state. */

import { expect, test } from "vitest";
import type { Client } from "../../src/client.js";
import {
  Busy,
  ClientClosed,
  CommandFailed,
  CommandTimeout,
  Conflict,
  InvalidData,
} from "../../src/errors.js";
import type { Event } from "../../src/events.js";
import { make, type Publication, type Subscribe, type Subscribed } from "../../src/protocol/messages.js";
import type { Entry, StateSet } from "../../src/state.js";
import type { Subscription } from "../../src/subscription.js";
import {
  after,
  client,
  FakeServer,
  failure,
  type Line,
  online,
  sleep,
  turns,
  until,
  virtualTime,
} from "../world.js";

virtualTime();

const QUEUE = 1024; // of a subscription

/** Wait for the subscribe command of that number, and let its channel stand. */
async function subscribed(
  server: FakeServer,
  count: number,
  answer: Partial<Subscribed> = {},
): Promise<Subscribe> {
  const command = await server.newest("subscribe", count);
  const { id } = command;
  server.line.deliver(make("subscribed", { channel: "room", epoch: "e1", offset: 0, id, ...answer }));
  return command;
}

async function offsets(stream: Subscription, count: number): Promise<number[]> {
  const read = [];
  while (read.length < count) {
    const { value } = await after(stream.next());
    read.push(value?.offset as number);
  }
  return read;
}

test("a subscription carries publications", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("room");
    expect(alice.channel("room")).toBe(channel);
    const entering = channel.subscribe();
    const command = await subscribed(server, 1, { offset: 4 });
    expect(command.channels).toMatchObject([{ channel: "room", epoch: "", presence: false, state: false }]);
    const subscription = await entering;
    expect(subscription.position).toEqual({ epoch: "e1", offset: 4 });
    const bytes = new Uint8Array([0]);
    server.line.deliver(
      server.publication("room", 5, { a: 1 }, { time: 9 }),
      server.publication("room", 6, bytes, { binary: true }),
    );
    const first = (await subscription.next()).value as Entry;
    const second = (await subscription.next()).value as Entry;
    expect([first.data, first.sender, first.time, first.channel, first.kind]).toEqual([
      { a: 1 },
      "x",
      9,
      "room",
      "publication",
    ]);
    expect([second.data, second.binary, second.position]).toEqual([bytes, true, { epoch: "e1", offset: 6 }]);
    expect(subscription.position).toEqual(second.position);
    subscription.close();
    expect((await server.newest("subscribe", 2)).channels).toEqual([]);
    expect(await failure(subscription.next())).toBeInstanceOf(ClientClosed);
  });
});

test("iterating over a channel subscribes for the loop", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const reading = (async () => {
      for await (const item of alice.channel("room")) return item;
    })();
    await subscribed(server, 1);
    server.line.deliver(server.publication("room", 1, "x"));
    expect(await reading).toMatchObject({ data: "x" });
    expect((await server.newest("subscribe", 2)).channels).toEqual([]);
  });
});

test("iterating uses the subscription there is", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("room");
    const entering = channel.subscribe({ presence: true });
    expect((await subscribed(server, 1)).channels[0]?.presence).toBe(true);
    const subscription = await entering;
    expect(channel[Symbol.asyncIterator]()).toBe(subscription);
    expect(await failure(channel.subscribe())).toBeInstanceOf(Busy);
    const reading = subscription.next();
    expect(await failure(subscription.next())).toBeInstanceOf(Busy);
    server.line.deliver(server.publication("room", 1, "x"));
    await reading;
    subscription.close();
  });
});

test("a reconnect is not seen", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const entering = alice.channel("room").subscribe({ since: { epoch: "e1", offset: 3 } });
    const command = await subscribed(server, 1, { offset: 3, recovered: true });
    expect(command.channels).toMatchObject([{ epoch: "e1", offset: 3 }]);
    const stream = await entering;
    server.line.deliver(server.publication("room", 4, 4));
    await stream.next();
    server.line.end();
    await until(() => server.hellos.length === 2 && alice.state === "online");
    expect(server.hellos[1]?.subscriptions).toMatchObject([{ channel: "room", epoch: "e1", offset: 4 }]);
    server.line.deliver(
      make("subscribed", { channel: "room", epoch: "e1", offset: 4, recovered: true }),
      server.publication("room", 5, 5),
    );
    expect(await offsets(stream, 1)).toEqual([5]);
    stream.close();
  });
});

test("a gap is named in its place", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    const entering = alice.channel("room").subscribe({ since: { epoch: "e0", offset: 3 } });
    await subscribed(server, 1, { offset: 8, gap: { reason: "evicted", first: 4, last: 8 } });
    const stream = await entering;
    server.line.deliver(server.publication("room", 9, 9));
    const gap = {
      kind: "gap",
      channel: "room",
      reason: "evicted",
      first: 4,
      last: 8,
      epoch: "e1",
      offset: 8,
    };
    expect((await stream.next()).value).toEqual(gap);
    expect(heard).toEqual([gap]);
    expect(stream.position).toEqual({ epoch: "e1", offset: 8 });
    expect(await offsets(stream, 1)).toEqual([9]);
    stream.close();
  });
});

test("a slow reader recovers what it had no room for", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const entering = alice.channel("room").subscribe();
    await subscribed(server, 1);
    const stream = await entering;
    for (let offset = 1; offset <= QUEUE + 4; offset++)
      server.line.deliver(server.publication("room", offset, offset));
    // What comes now is fetched later, although there is room again, and whatever the connection does.
    await offsets(stream, 2);
    server.line.deliver(server.publication("room", QUEUE + 5, 0));
    server.line.end();
    await until(() => server.hellos.length === 2 && alice.state === "online");
    server.line.deliver(
      make("subscribed", { channel: "room", epoch: "e1", offset: QUEUE + 5, recovered: true }),
      server.publication("room", QUEUE + 6, 0),
    );
    expect((await offsets(stream, QUEUE - 2)).at(-1)).toBe(QUEUE);
    const reading = offsets(stream, 2);
    // It gives the channel up, and wants it again from where it stands.
    const again = await subscribed(server, 3, { offset: QUEUE, recovered: true });
    expect(again.channels).toMatchObject([{ epoch: "e1", offset: QUEUE }]);
    server.line.deliver(server.publication("room", QUEUE + 1, 0), server.publication("room", QUEUE + 2, 0));
    expect(await reading).toEqual([QUEUE + 1, QUEUE + 2]);
    stream.close();
  });
});

test("a channel that is not allowed, from the beginning or any more", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    const refused = failure(alice.channel("room").subscribe());
    const { id } = await server.newest("subscribe");
    server.line.deliver(make("error", { code: "forbidden", channel: "room", id, message: "no" }));
    expect(await refused).toMatchObject({ name: "CommandFailed", code: "forbidden", detail: "no" });
    const entering = alice.channel("room").subscribe();
    await subscribed(server, 3);
    const subscription = await entering;
    server.line.deliver(make("unsubscribed", { channel: "room", code: "forbidden" }));
    expect(await failure(subscription.next())).toBeInstanceOf(CommandFailed);
    expect(heard.map((event) => event.kind)).toEqual(["subscription_ended", "subscription_ended"]);
    expect(alice._session.subscriptions.size).toBe(0);
  });
});

test("presence is followed", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    const entering = alice.channel("room").subscribe({ presence: true });
    await subscribed(server, 1);
    const subscription = await entering;
    server.line.deliver(
      make("presence_list", { channel: "room", clients: ["a", "b"] }),
      make("join", { channel: "room", client_id: "c" }),
      make("leave", { channel: "room", client_id: "a" }),
    );
    expect(subscription.present).toEqual(new Set(["b", "c"]));
    const change = { kind: "presence", channel: "room", joined: "", left: "" };
    expect(heard).toEqual([
      { ...change, present: new Set(["a", "b"]) },
      { ...change, present: new Set(["a", "b", "c"]), joined: "c" },
      { ...change, present: new Set(["b", "c"]), left: "a" },
    ]);
    subscription.close();
  });
});

test("the end of the client ends subscriptions", async () => {
  const server = new FakeServer();
  const alice = client(server);
  await after(alice.open());
  const entering = failure(alice.channel("other").subscribe());
  const reading = alice.channel("room")[Symbol.asyncIterator]().next();
  await server.expect("subscribe");
  await after(alice.close());
  expect(await entering).toBeInstanceOf(ClientClosed);
  expect((await reading).done).toBe(true);
});

test("too many subscriptions, and impossible names", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    alice._session.subscriptions.maximum = 0;
    expect(await failure(alice.channel("room").subscribe())).toBeInstanceOf(RangeError);
    for (const name of ["", "a\n", "x".repeat(256), "ä".repeat(128)]) {
      expect(() => alice.channel(name)).toThrow(RangeError);
    }
  });
});

// --- commands ---------------------------------------------------------------------------------------

test("publish returns the position, and goes on over a reconnect with its key", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const publishing = alice.channel("room").publish({ x: 1 }, { key: "mine" });
    const first = await server.newest("publish");
    expect(first).toMatchObject({ channel: "room", data: { x: 1 }, key: "mine", age: 0 });
    server.line.end();
    const again = await server.newest("publish", 2);
    expect(again.key).toBe("mine");
    expect(again.age).toBeGreaterThan(0);
    server.line.deliver(make("published", { id: again.id, epoch: "e", offset: 3 }));
    expect(await publishing).toEqual({ epoch: "e", offset: 3 });
    expect(await failure(alice.channel("room").publish(1, { key: "k".repeat(65) }))).toBeInstanceOf(
      RangeError,
    );
  });
});

test("publish that fails", async () => {
  const server = new FakeServer();
  let last: Promise<unknown> = Promise.resolve();
  await online(server, async (alice) => {
    const channel = alice.channel("room");
    const publishing = failure(channel.publish("x"));
    const { id } = await server.newest("publish");
    server.line.deliver(make("error", { code: "uncertain", id }));
    expect(await publishing).toMatchObject({ name: "CommandFailed", code: "uncertain" });
    expect(await failure(channel.publish("x", { timeout: 2 }))).toBeInstanceOf(CommandTimeout);
    for (const command of server.all("publish")) expect(alice._session.commands.has(command.id)).toBe(false);
    last = failure(channel.publish("x"));
    await turns();
  });
  expect(await last).toBeInstanceOf(ClientClosed);
});

test("more commands than may be pending wait", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("room");
    const all = Array.from({ length: 1026 }, (_, number) => channel.publish(number));
    const late = failure(channel.publish("too late", { timeout: 0.5 }));
    await server.expect("publish", 1024);
    expect(await late).toBeInstanceOf(CommandTimeout);
    expect(server.all("publish")).toHaveLength(1024);
    for (let count = 0; count < 1026; count++) {
      const { id } = await server.expect("publish", count + 1).then((got) => got[count] as { id: number });
      server.line.deliver(make("published", { id, epoch: "e", offset: count + 1 }));
    }
    expect((await Promise.all(all)).at(-1)?.offset).toBe(1026);
  });
});

test("history", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("room");
    let asking = channel.history({ limit: 2, since: { epoch: "e0", offset: 5 } });
    const query = await server.newest("history");
    expect(query).toMatchObject({ epoch: "e0", offset: 5, limit: 2, last: false });
    const { id } = query;
    server.line.deliver(
      make("history_page", {
        id,
        channel: "room",
        epoch: "e1",
        offset: 9,
        count: 2,
        gap: { reason: "epoch", first: 0, last: 0 },
      }),
      server.publication("room", 1, "a", { page: id }),
      server.publication("room", 2, "b", { page: id }),
    );
    const page = await asking;
    expect(page.publications.map((entry) => entry.data)).toEqual(["a", "b"]);
    expect(page.top).toEqual({ epoch: "e1", offset: 9 });
    expect(page.gap).toMatchObject({ kind: "gap", channel: "room", reason: "epoch", epoch: "e1", offset: 9 });
    asking = channel.history();
    const newest = await server.newest("history", 2);
    expect([newest.last, newest.limit]).toEqual([true, 100]);
    server.line.deliver(make("history_page", { id: newest.id, channel: "room", epoch: "e1", offset: 0 }));
    expect(await asking).toMatchObject({ publications: [], gap: null });
    expect(await failure(channel.history({ limit: 1001 }))).toBeInstanceOf(RangeError);
  });
});

test("presence as a question, and what is outside the log", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("room");
    const asking = channel.presence();
    const { id } = await server.newest("presence");
    // As UTF-8, and not as UTF-16, would have it.
    server.line.deliver(
      make("presence_list", { channel: "room", clients: ["b", "\u{1f600}", "\uffee", "a"], id }),
    );
    expect(await asking).toEqual(["a", "b", "\uffee", "\u{1f600}"]);
    const heard: unknown[] = [];
    channel.onEphemeral((data, sender) => heard.push([data, sender]));
    server.line.deliver(make("ephemeral", { channel: "room", from: "bob", data: 7 }));
    expect(heard).toEqual([[7, "bob"]]);
    expect(channel.ephemeral("here")).toBe(true);
    expect((await server.newest("ephemeral")).channel).toBe("room");
  });
});

// --- shared state -----------------------------------------------------------------------------------

function value(offset: number, name: string, data: unknown, fields: Partial<Publication> = {}): Publication {
  return make("publication", { channel: "doc", offset, name, data, from: "bob", ...fields });
}

/** Wait for the subscribe command of that number, and let its channel stand with a snapshot. */
async function followed(
  server: FakeServer,
  count: number,
  offset: number,
  entries: Publication[],
  answer: Partial<Subscribed> = {},
): Promise<Subscribe> {
  const command = await server.newest("subscribe", count);
  expect(command.channels[0]?.state).toBe(true);
  const { id } = command;
  const head = make("subscribed", { channel: "doc", epoch: "e1", offset, id, ...answer });
  const snapshot = make("snapshot", { channel: "doc", count: entries.length, id });
  const states = entries.map((entry) => ({ ...entry, state: true }));
  server.line.deliver(head, ...(head.recovered ? [] : [snapshot]), ...states);
  return command;
}

async function follow(
  alice: Client,
  server: FakeServer,
  offset: number,
  entries: Publication[],
): Promise<Subscription> {
  const entering = alice.channel("doc").subscribe({ state: true });
  await followed(server, 1, offset, entries);
  return entering;
}

function held(subscription: Subscription): Record<string, [unknown, number]> {
  return Object.fromEntries(
    [...subscription.state].map(([name, entry]) => [name, [entry.value, entry.version]]),
  );
}

test("the state is there when the subscription stands, and changes as items are taken", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const subscription = await follow(alice, server, 9, [
      value(3, "title", { text: "a" }, { time: 5 }),
      value(8, "lock", "bob"),
    ]);
    const title = subscription.state.get("title") as StateSet;
    expect([title.value, title.version, title.sender, title.time, title.name]).toEqual([
      { text: "a" },
      3,
      "bob",
      5,
      "title",
    ]);
    expect(subscription.position).toEqual({ epoch: "e1", offset: 9 });
    server.line.deliver(
      value(10, "title", { text: "b" }),
      server.publication("doc", 11, "hi"),
      value(12, "lock", undefined, { deleted: true }),
    );
    expect(held(subscription).title).toEqual([{ text: "a" }, 3]); // nothing was taken
    const first = (await subscription.next()).value as StateSet;
    expect([first.kind, first.value, first.version]).toEqual(["set", { text: "b" }, 10]);
    expect(subscription.state.get("title")).toBe(first);
    const second = (await subscription.next()).value as Entry;
    expect([second.kind, second.data, second.name]).toEqual(["publication", "hi", ""]);
    expect(subscription.state.has("lock")).toBe(true);
    const third = (await subscription.next()).value as Entry;
    expect([third.kind, third.name, third.data]).toEqual(["deleted", "lock", null]);
    expect([...subscription.state.keys()]).toEqual(["title"]);
    subscription.close();
  });
});

test("after a gap the state is another one, and who does not read keeps the one before", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const subscription = await follow(alice, server, 4, [value(4, "a", 1)]);
    server.onHello = (line: Line, hello) => {
      line.deliver(
        server.welcome(hello),
        make("subscribed", {
          channel: "doc",
          epoch: "e2",
          offset: 20,
          gap: { reason: "epoch", first: 0, last: 0 },
        }),
        make("snapshot", { channel: "doc", count: 1 }),
        value(18, "b", 2, { state: true }),
        value(21, "c", 4),
      );
      return true;
    };
    server.line.end();
    await until(() => server.hellos.length === 2 && alice.state === "online");
    expect(held(subscription)).toEqual({ a: [1, 4] });
    expect((await subscription.next()).value?.kind).toBe("gap");
    expect([held(subscription), subscription.position]).toEqual([
      { b: [2, 18] },
      { epoch: "e2", offset: 20 },
    ]);
    await subscription.next();
    expect(held(subscription)).toEqual({ b: [2, 18], c: [4, 21] });
    subscription.close();
  });
});

test("set and delete are commands that go on over a reconnect", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("doc");
    const setting = channel.set("title", { text: "a" }, { expect: 0 });
    const first = await server.newest("set");
    expect(first).toMatchObject({
      channel: "doc",
      name: "title",
      expect: 0,
      data: { text: "a" },
      deleted: false,
    });
    server.line.end();
    const again = await server.newest("set", 2);
    expect([again.key, again.expect]).toEqual([first.key, 0]);
    expect(again.age).toBeGreaterThan(0);
    server.line.deliver(make("published", { id: again.id, epoch: "e", offset: 12 }));
    expect(await setting).toBe(12);
    const deleting = channel.delete("title", { key: "mine" });
    const command = await server.newest("set", 3);
    expect([command.deleted, command.key, command.data, command.expect]).toEqual([
      true,
      "mine",
      undefined,
      undefined,
    ]);
    server.line.deliver(make("published", { id: command.id, epoch: "e", offset: 13 }));
    expect(await deleting).toBe(undefined);
    const icon = failure(channel.set("icon", new Uint8Array([0, 10])));
    const binary = await server.newest("set", 4);
    expect([binary.binary, binary.data]).toEqual([true, new Uint8Array([0, 10])]);
    server.line.deliver(make("error", { code: "state_full", id: binary.id }));
    expect(await icon).toMatchObject({ name: "CommandFailed", code: "state_full" });
  });
});

test("a conflict names the version that is there", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    for (const [count, version, text] of [
      [1, 7, "version 7"],
      [2, 0, "version 0"],
    ] as const) {
      const writing = failure(alice.channel("doc").set("title", 1, { expect: 3 }));
      const { id } = await server.newest("set", count);
      server.line.deliver(make("error", { code: "conflict", id, version }));
      const error = await writing;
      expect(error).toBeInstanceOf(Conflict);
      expect(error).toBeInstanceOf(CommandFailed);
      expect([error.version, error.code]).toEqual([version, "conflict"]);
      expect(error.message).toContain(text);
    }
  });
});

test("what cannot be written is said at once", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("doc");
    for (const name of ["", "\n", "x".repeat(256)]) {
      expect(await failure(channel.set(name, 1))).toBeInstanceOf(RangeError);
      expect(await failure(channel.delete(name))).toBeInstanceOf(RangeError);
    }
    for (const expected of [-1, 1.5, Number.NaN]) {
      expect(await failure(channel.set("a", 1, { expect: expected }))).toBeInstanceOf(RangeError);
    }
    expect(await failure(channel.set("a", "x".repeat(70_000)))).toBeInstanceOf(InvalidData);
    const since = { epoch: "e", offset: 1 };
    expect(await failure(channel.subscribe({ state: true, since }))).toBeInstanceOf(RangeError);
    expect(server.all("set")).toEqual([]);
  });
});

test("the state can be looked at without staying", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("doc");
    const looking = channel.state();
    await followed(server, 1, 4, [value(4, "a", 1)]);
    const found = await looking;
    expect([...found].map(([name, entry]) => [name, entry.value])).toEqual([["a", 1]]);
    expect((await server.newest("subscribe", 2)).channels).toEqual([]);
    expect(await failure(channel.state({ timeout: 2 }))).toBeInstanceOf(CommandTimeout);
    await sleep(0);
    const subscription = channel.subscribe({ state: true });
    await followed(server, 5, 4, []);
    expect(await failure(channel.state())).toBeInstanceOf(Busy);
    (await subscription).close();
  });
});
