/** Links: sending, fates, reading, handlers, requests. */

import { expect, test } from "vitest";
import type { Client } from "../../src/client.js";
import {
  Busy,
  ClientClosed,
  InvalidData,
  Lost,
  RequestFailed,
  RequestTimeout,
  WindowFull,
} from "../../src/errors.js";
import type { Event, MessagesLost } from "../../src/events.js";
import type { Link } from "../../src/link.js";
import type { Message as Received } from "../../src/message.js";
import { type LinkMessage, make } from "../../src/protocol/messages.js";
import { after, client, FakeServer, failure, now, online, RUN, sleep, turns, virtualTime } from "../world.js";

virtualTime();

const stored = (seq: number) => make("stored", { to: "bob", run: RUN, seq });
const forbidden = (seq: number) =>
  make("error", { code: "forbidden", to: "bob", lane: "messages", run: RUN, seq });

async function acknowledged(server: FakeServer): Promise<number> {
  await sleep(0.1);
  return server.acknowledged;
}

// --- sending ----------------------------------------------------------------------------------------

test("a message is numbered and delivered", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const sent = await alice.link("bob").send({ hi: 1 });
    expect([sent.seq, sent.fate, sent.peer]).toEqual([1, "pending", "bob"]);
    const waiting = sent.delivered();
    expect(await server.newest("message")).toMatchObject({ data: { hi: 1 }, to: "bob", run: RUN, base: 1 });
    server.line.deliver(server.ack("bob", 1));
    await waiting;
    await sent.stored();
    expect([sent.fate, alice.link("bob").unsettled]).toEqual(["delivered", 0]);
  });
});

test("what is sent is the value of that moment", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const value = { list: [1] };
    const bytes = new Uint8Array([1, 2]);
    await alice.link("bob").send(value);
    await alice.link("bob").send(bytes);
    value.list.push(2);
    bytes[0] = 9;
    const [first, second] = await server.expect("message", 2);
    expect([first?.data, second?.data]).toEqual([{ list: [1] }, new Uint8Array([1, 2])]);
    server.line.deliver(server.ack("bob", 2));
  });
});

test("who waits at once asks for the acknowledgement", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const link = alice.link("bob");
    const waiting = link.send(1).then((sent) => sent.delivered());
    const first = await server.newest("message");
    await link.send(2);
    const second = await server.newest("message", 2);
    expect([first.ask, second.ask]).toEqual([true, false]);
    server.line.deliver(server.ack("bob", 2));
    await waiting;
  });
});

test("messages sent in a loop leave in one payload", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    let payloads = 0;
    const { took } = server;
    server.took = (line, payload) => {
      payloads += 1;
      took.call(server, line, payload);
    };
    const link = alice.link("bob");
    const nested = async (data: number) => {
      const sent = await link.send(data);
      return sent;
    };
    for (let number = 0; number < 20; number++) await link.send(number);
    for (let number = 0; number < 20; number++) await (async () => nested(number))();
    await server.expect("message", 40);
    expect(payloads).toBe(1);
    server.line.deliver(server.ack("bob", 40));
  });
});

test("stored, then delivered", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const sent = await alice.link("bob").send("x");
    await server.expect("message");
    server.line.deliver(stored(1));
    await sent.stored();
    expect([sent.fate, await sent.resolved()]).toEqual(["stored", "stored"]);
    let delivered = false;
    const waiting = sent.delivered().then(() => {
      delivered = true;
    });
    await turns();
    expect(delivered).toBe(false);
    server.line.deliver(server.ack("bob", 1));
    await waiting;
  });
});

test("stored is safe enough to leave", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    await alice.link("bob").send("x");
    await server.expect("message");
    server.line.deliver(stored(1));
  });
});

test("a refused message is lost", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const sent = await alice.link("bob").send("x");
    await server.expect("message");
    server.line.deliver(forbidden(1));
    for (const wait of [sent.delivered(), sent.stored()]) {
      const error = await failure(wait);
      expect(error).toBeInstanceOf(Lost);
      expect([error.reason, error.certain]).toEqual(["refused", true]);
    }
  });
});

test("an expired message is lost, and does not leave", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.end();
    await turns();
    const sent = await alice.link("bob").send("x", { expires: 0.1 });
    expect((await failure(sent.delivered())).message).toBe("lost: expired");
    await sleep(2);
    expect(server.got.filter(({ type }) => type === "message" || type === "skip")).toEqual([]);
  });
});

test("the window makes senders wait in turn", async () => {
  const server = new FakeServer({ window: 2 });
  await online(server, async (alice) => {
    const link = alice.link("bob");
    await link.send(1);
    await link.send(2);
    expect(() => link.trySend("no room")).toThrow(WindowFull);
    const numbered: number[] = [];
    const waiting = [3, 4, 5].map((each) => link.send(each).then((sent) => numbered.push(sent.seq)));
    await turns();
    expect(numbered).toEqual([]);
    server.line.deliver(server.ack("bob", 1));
    await turns();
    expect([numbered, link.unsettled]).toEqual([[3], 2]);
    expect(() => link.trySend("overtakes")).toThrow(WindowFull); // who waits goes first
    server.line.deliver(server.ack("bob", 3));
    await Promise.all(waiting);
    expect((await server.expect("message", 5)).map((message) => message.data)).toEqual([1, 2, 3, 4, 5]);
    server.line.deliver(server.ack("bob", 5));
    expect(link.trySend("now").seq).toBe(6);
    await server.expect("message", 6);
    server.line.deliver(server.ack("bob", 6));
  });
});

test("a turn without end does not fill the memory with what is sent at most once", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const link = alice.link("bob");
    const left = Array.from({ length: 2000 }, () => link.ephemeral(1)).filter(Boolean);
    expect([left.length, link.signal(1)]).toEqual([1024, false]);
    await turns();
    expect([link.signal(1), link.ephemeral(1)]).toEqual([true, true]);
  });
});

test("a congested transport makes senders wait, until it has sent", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const link = alice.link("bob");
    server.line.congested = true;
    let numbered = false;
    const waiting = link.send("x").then(() => {
      numbered = true;
    });
    await sleep(1);
    expect([numbered, link.ephemeral("typing")]).toEqual([false, false]);
    server.line.congested = false;
    await sleep(0.1);
    expect(numbered).toBe(true);
    await waiting;
    server.line.deliver(server.ack("bob", 1));
  });
});

test("lanes have rooms of their own", async () => {
  const server = new FakeServer({ window: 1 });
  await online(server, async (alice) => {
    const link = alice.link("bob");
    const sent = [await link.send("m"), await link.send("b", { lane: "bulk" })];
    expect(sent.map((each) => each.seq)).toEqual([1, 1]);
    expect(() => link.trySend("x", { lane: "none" })).toThrow(RangeError);
    await server.expect("message", 2);
    server.line.deliver(server.ack("bob", 1), server.ack("bob", 1, { lane: "bulk" }));
  });
});

test("what cannot travel is said at once", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const link = alice.link("bob");
    const circle: unknown[] = [];
    circle.push(circle);
    let deep: unknown = 1;
    for (let level = 0; level < 65; level++) deep = [deep];
    for (const value of [
      undefined,
      () => 1,
      1n,
      circle,
      deep,
      "\ud800",
      "x".repeat(70_000),
      new Uint8Array(70_000),
    ]) {
      expect(await failure(link.send(value))).toBeInstanceOf(InvalidData);
    }
    expect(() => link.trySend("x", { collapse: "k".repeat(65) })).toThrow(RangeError);
    await turns();
    expect(server.all("message")).toEqual([]);
    for (const peer of ["alice", "", "$nobody", "@", "a\tb"])
      expect(() => alice.link(peer)).toThrow(RangeError);
    alice.link("carol");
    expect(() => alice.link("dave")).toThrow(/pass watch: false/); // two are watched, as many as may be
    expect(alice.link("dave", { watch: false }).peer).toBe("dave");
  });
});

test("a message to a user is sent like others, and nobody is watched", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    await alice.link("@bob").send("hi", { expires: 60, collapse: "k" });
    expect(await server.newest("message")).toMatchObject({ to: "@bob", ttl: 60_000, collapse: "k" });
    expect(server.all("watch")).toEqual([]);
    server.line.deliver(server.ack("@bob", 1));
  });
});

test("what was not acknowledged is sent again on the next connection", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    await alice.link("bob").send("x");
    await server.expect("message");
    server.line.end();
    const again = await server.newest("message", 2);
    expect([again.seq, again.run, again.data]).toEqual([1, RUN, "x"]);
    server.line.deliver(server.ack("bob", 1));
  });
});

test("a sender is told of a server that cannot store", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    await alice.link("bob").send("x");
    await server.expect("message");
    server.line.deliver(make("wait", { to: "bob", run: RUN, seq: 1, code: "unavailable" }));
    expect(heard).toMatchObject([{ kind: "trouble", code: "unavailable" }]);
    server.line.deliver(server.ack("bob", 1, { received: 0 }));
  });
});

// --- reading ----------------------------------------------------------------------------------------

test("asking for the next message finishes the one before", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("bob", 1, "one"), server.message("bob", 2, "two"));
    const stream = alice.link("bob").messages();
    const { value: first } = await stream.next();
    expect([first?.data, first?.sender, first?.seq, first?.run, first?.lane]).toEqual([
      "one",
      "bob",
      1,
      7,
      "messages",
    ]);
    expect(await acknowledged(server)).toBe(0);
    await stream.next();
    expect(await acknowledged(server)).toBe(1);
    stream.close();
    expect(await acknowledged(server)).toBe(2);
    expect(await stream.next()).toEqual({ value: undefined, done: true });
  });
});

test("leaving the loop finishes the message, and what comes then waits for the next reader", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2));
    const link = alice.link("bob");
    for await (const message of link) {
      expect(message.data).toBe(1);
      break;
    }
    expect(await acknowledged(server)).toBe(1);
    for await (const message of link) {
      expect(message.data).toBe(2);
      break;
    }
  });
});

test("manual acknowledgements, in any order, move the cursor when there is no hole", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2));
    const stream = alice.link("bob").messages({ acks: "manual" });
    const [one, two] = [(await stream.next()).value, (await stream.next()).value];
    two?.ack();
    expect(await acknowledged(server)).toBe(0);
    one?.ack();
    one?.ack();
    expect(await acknowledged(server)).toBe(2);
    stream.close();
    expect(() => alice.messages({ acks: "never" as "auto" })).toThrow(RangeError);
  });
});

test("a repeat is acknowledged again, and not handed over", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const seen: unknown[] = [];
    alice.onMessage((message) => seen.push(message.data));
    server.line.deliver(server.message("bob", 1, "once"));
    await acknowledged(server);
    server.line.deliver(server.message("bob", 1, "once"));
    await acknowledged(server);
    expect([seen, server.all("ack").length]).toEqual([["once"], 2]);
  });
});

test("one reader at a time", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const link = alice.link("bob");
    const stream = link.messages();
    const waiting = stream.next();
    expect(await failure(stream.next())).toBeInstanceOf(Busy);
    expect(await failure(link.messages().next())).toBeInstanceOf(Busy);
    expect(() => link.onMessage(() => {})).toThrow(Busy);
    stream.close();
    expect((await waiting).done).toBe(true);
  });
});

test("messages without a reader of their own go to the reader of all", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("carol", 1, "first contact"));
    const own = alice.link("bob").messages();
    const waiting = own.next();
    const all = alice.messages();
    server.line.deliver(server.message("bob", 1, "for its own"), server.message("dave", 1, "another"));
    expect((await waiting).value?.data).toBe("for its own");
    expect([(await all.next()).value?.sender, (await all.next()).value?.sender]).toEqual(["carol", "dave"]);
    own.close();
    server.line.deliver(server.message("bob", 2, "left to all"));
    expect((await all.next()).value?.data).toBe("left to all");
    all.close();
  });
});

test("bytes come as bytes", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const bytes = new Uint8Array([0, 10, 255]);
    server.line.deliver(server.message("bob", 1, bytes, { binary: true }));
    for await (const message of alice.link("bob")) {
      expect([message.binary, message.data]).toEqual([true, bytes]);
      break;
    }
    for (const value of [bytes.buffer, new DataView(bytes.buffer, 1, 2)]) await alice.link("bob").send(value);
    const sent = (await server.expect("message", 2)).map((message) => message.data);
    expect(sent).toEqual([bytes, new Uint8Array([10, 255])]);
    server.line.deliver(server.ack("bob", 2));
  });
});

test("losses are told, in their place", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    const skip = (seq: number, last: number) =>
      make("skip", { run: 7, seq, last, base: 1, reason: "expired", from: "bob" });
    server.line.deliver(
      server.message("bob", 1, "one"),
      skip(2, 2),
      skip(3, 4),
      server.message("bob", 5, "five"),
    );
    const stream = alice.link("bob").messages({ losses: true });
    const items = [await stream.next(), await stream.next(), await stream.next()].map(({ value }) => value);
    expect(items[1]).toEqual({
      kind: "lost",
      peer: "bob",
      lane: "messages",
      first: 2,
      last: 4,
      reason: "expired",
      user: "",
    });
    expect([items[0], items[2]].map((item) => (item as Received).data)).toEqual(["one", "five"]);
    expect(
      heard.reduce((sum, event) => sum + (event.kind === "lost" ? event.last - event.first + 1 : 0), 0),
    ).toBe(3);
    stream.close();
  });
});

test("losses of what was sent to the user are told as that, and run into no others", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const skip = (seq: number, user = "") =>
      make("skip", { run: 7, seq, last: seq, base: seq, reason: "expired", from: "bob", user });
    server.line.deliver(skip(1), skip(2, "@me"));
    const stream = alice.link("bob").messages({ losses: true });
    const losses = [await stream.next(), await stream.next()].map(({ value }) => value as MessagesLost);
    expect(losses.map(({ first, last, user }) => [first, last, user])).toEqual([
      [1, 1, ""],
      [2, 2, "@me"],
    ]);
    stream.close();
  });
});

test("what is finished of an ended run is acknowledged as that run's", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const stream = alice.link("bob").messages();
    server.line.deliver(server.message("bob", 1, "old", { run: 7 }));
    await stream.next();
    server.line.deliver(server.message("bob", 1, "new", { run: 9 }));
    await stream.next(); // finishes the old one
    stream.close();
    expect((await server.expect("ack", 2)).map((ack) => [ack.run, ack.seq]).sort()).toEqual([
      [7, 1],
      [9, 1],
    ]);
    server.line.deliver(server.message("bob", 1, "old", { run: 7 })); // it has not heard
    expect((await server.newest("ack", 3)).run).toBe(7);
  });
});

test("what nobody reads is bounded", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    for (let run = 1; run <= 4098; run++) server.line.deliver(server.message("bob", 1, run, { run }));
    const stream = alice.link("bob").messages();
    expect((await stream.next()).value?.data).toBe(3);
    stream.close();
    const where = { peer: "bob", lane: "messages", user: "" };
    const overflow = { kind: "lost", ...where, first: 1, last: 1, reason: "overflow" };
    expect(heard).toEqual([overflow, overflow]);
  });
});

// --- handlers ---------------------------------------------------------------------------------------

test("a handler gets messages in order and finishes them", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const seen: unknown[] = [];
    server.line.deliver(server.message("bob", 1, 1));
    const link = alice.link("bob");
    link.onMessage((message) => seen.push(message.data));
    server.line.deliver(server.message("bob", 2, 2));
    expect([seen, await acknowledged(server)]).toEqual([[1, 2], 2]);
    link.onMessage(null);
    server.line.deliver(server.message("bob", 3, 3));
    expect(await acknowledged(server)).toBe(2);
    const stream = link.messages();
    expect((await stream.next()).value?.data).toBe(3);
    stream.close();
  });
});

test("an asynchronous handler runs one message at a time", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const trace: unknown[] = [];
    alice.onMessage(async (message) => {
      trace.push(["in", message.data]);
      await new Promise((resolve) => setTimeout(resolve, 1000));
      trace.push(["out", message.data]);
    });
    server.line.deliver(server.message("bob", 1, 1), server.message("bob", 2, 2));
    expect(await acknowledged(server)).toBe(0);
    await sleep(3);
    expect(trace).toEqual([
      ["in", 1],
      ["out", 1],
      ["in", 2],
      ["out", 2],
    ]);
    expect(await acknowledged(server)).toBe(2);
  });
});

test("a handler that throws is reported, and the message finished", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const failures: unknown[] = [];
    alice.onEvent((event) => event.kind === "handler_failed" && failures.push(event.error));
    alice.link("bob").onMessage(() => {
      throw "now";
    });
    alice.link("carol").onMessage(async () => {
      await null;
      throw "later";
    });
    server.line.deliver(server.message("bob", 1, 1), server.message("carol", 1, 2));
    await sleep(0.1);
    expect(new Set(server.all("ack").map((ack) => ack.to))).toEqual(new Set(["bob", "carol"]));
    expect(failures).toEqual(["now", "later"]);
  });
});

test("a handler that is running at the end did not finish", async () => {
  const server = new FakeServer();
  let end = () => {};
  await online(server, async (alice) => {
    alice.onMessage(
      () =>
        new Promise<void>((resolve) => {
          end = resolve;
        }),
    );
    server.line.deliver(server.message("bob", 1, 1));
  });
  end();
  await turns();
  expect(server.acknowledged).toBe(0);
});

// --- requests ---------------------------------------------------------------------------------------

async function couple(use: (alice: Client, bob: Client) => Promise<void>): Promise<void> {
  const server = new FakeServer({ relay: true });
  await online(server, (alice) => online(server, (bob) => use(alice, bob), { clientId: "bob" }));
}

test("request and answer", async () => {
  await couple(async (alice, bob) => {
    bob.onRequest(async (message) => {
      await null;
      return { twice: 2 * (message.data as number) };
    });
    const link = alice.link("bob");
    expect(await after(link.request(4))).toEqual({ twice: 8 });
    bob.link("alice").onRequest(() => new Uint8Array([1]));
    expect(await after(link.request("bytes"))).toEqual(new Uint8Array([1]));
    bob.link("alice").onRequest(() => undefined);
    expect(await after(link.request("nothing"))).toBe(null);
  });
});

test("a request that fails there", async () => {
  await couple(async (alice, bob) => {
    const failures: unknown[] = [];
    bob.onEvent((event) => event.kind === "handler_failed" && failures.push(event.error));
    const ask = () => failure(alice.link("bob").request("x"));
    bob.onRequest(() => {
      throw new Error("a secret");
    });
    const hidden = await ask();
    expect(hidden).toBeInstanceOf(RequestFailed);
    expect(hidden.message).toBe("the handler failed");
    bob.onRequest(async () => {
      throw new RequestFailed("no such thing");
    });
    expect((await ask()).message).toBe("no such thing");
    bob.onRequest(async () => () => "what cannot travel");
    expect((await ask()).message).toBe("the handler failed");
    expect(failures).toHaveLength(2);
  });
});

test("a request nobody answers, or somebody by hand", async () => {
  await couple(async (alice, bob) => {
    const link = alice.link("bob");
    bob.onMessage(() => {});
    expect((await failure(link.request("x"))).message).toBe("no_handler");
    bob.onMessage((message) => message.reply("by hand"));
    expect(await after(link.request("x"))).toBe("by hand");
    bob.onMessage((message) => {
      message.reply(1);
      message.reply(2); // throws, and is reported
    });
    expect(await after(link.request("x"))).toBe(1);
    bob.onMessage(null);
    const asking = link.request("x");
    await turns();
    bob.onRequest(() => "late");
    expect(await after(asking)).toBe("late");
  });
});

test("a request times out, and its late answer is dropped", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const began = now();
    expect(await failure(alice.link("bob").request("x", { timeout: 2 }))).toBeInstanceOf(RequestTimeout);
    expect(now() - began).toBeLessThan(2.1);
    const message = await server.newest("message");
    expect(message.deadline).toBe(2000);
    server.line.deliver(
      server.ack("bob", 1),
      server.message("bob", 1, "too late", { reply: message.request }),
    );
    expect(await acknowledged(server)).toBe(1);
    expect((alice._requests as unknown as { _waiting: Map<string, unknown> })._waiting.size).toBe(0);
  });
});

test("a request that waits for room times out, and is withdrawn", async () => {
  const server = new FakeServer({ window: 1 });
  await online(server, async (alice) => {
    const link = alice.link("bob");
    await link.send("first");
    const asking = failure(link.request("x", { timeout: 1 }));
    const behind = link.send("behind");
    expect(await asking).toBeInstanceOf(RequestTimeout);
    server.line.deliver(server.ack("bob", 1));
    expect((await after(behind)).seq).toBe(2);
    expect((await server.newest("message", 2)).data).toBe("behind");
    server.line.deliver(server.ack("bob", 2));
  });
});

test("a request that is lost", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const asking = failure(alice.link("bob").request("x"));
    await server.expect("message");
    server.line.deliver(forbidden(1));
    expect((await asking).message).toBe("lost: refused");
  });
});

test("an overdue request is not begun", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("bob", 1, "x", { request: "r", deadline: 1000 }));
    await sleep(2);
    const begun: unknown[] = [];
    alice.onRequest((message) => begun.push(message));
    expect(await server.newest("message")).toMatchObject({ failed: true, reply: "r", ack: 1 });
    expect(begun).toEqual([]);
    server.line.deliver(server.ack("bob", 1));
  });
});

test("answers wait for room, and are dropped when nobody takes them", async () => {
  const server = new FakeServer({ window: 1 });
  await online(server, async (alice) => {
    const troubles: string[] = [];
    alice.onEvent((event) => event.kind === "trouble" && troubles.push(event.code));
    alice.onRequest((message) => message.data);
    const requests: LinkMessage[] = [];
    for (let seq = 1; seq <= 1027; seq++) {
      requests.push(server.message("bob", seq, seq, { request: `r${seq}`, deadline: 9000, base: seq }));
    }
    for (const request of requests) server.line.deliver(request);
    await turns();
    expect(server.all("message").map((message) => message.reply)).toEqual(["r1"]);
    expect(troubles).toEqual(["overflow", "overflow"]); // one is out, and 1,024 wait
    server.line.deliver(server.ack("bob", 1));
    expect((await server.newest("message", 2)).reply).toBe("r2");
    alice.closeTimeout = 0;
    server.line.end(3505, "that is enough");
    await turns();
  }).catch((error) => expect(error.name).toBe("Unsettled"));
});

// --- at most once, and the peer ---------------------------------------------------------------------

test("ephemeral messages and signals", async () => {
  await couple(async (alice, bob) => {
    const heard: unknown[] = [];
    const failures: unknown[] = [];
    bob.onEvent((event) => event.kind === "handler_failed" && failures.push(event));
    const link: Link = bob.link("alice");
    link.onEphemeral((data) => heard.push(data));
    link.onSignal(async (data) => heard.push(data));
    const there = alice.link("bob");
    expect([
      there.ephemeral({ typing: true }),
      there.ephemeral(new Uint8Array([1])),
      there.signal({ sdp: "…" }),
    ]).toEqual([true, true, true]);
    expect(() => there.signal(new Uint8Array(1))).toThrow(InvalidData);
    await turns();
    expect(heard).toEqual([{ typing: true }, new Uint8Array([1]), { sdp: "…" }]);
    link.onEphemeral(() => {
      throw new Error("broken");
    });
    there.ephemeral(1);
    await turns();
    expect(failures).toHaveLength(1);
    bob.cut();
    await turns();
    expect(link.ephemeral("nobody there")).toBe(false);
  });
});

test("the state of a peer", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const link = alice.link("bob");
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    const states = link.states();
    for (const state of ["here", "reconnecting", "here", "of a later version"]) {
      server.line.deliver(make("peer", { client_id: "bob", state, run: 3, generation: 1, attachment: 1 }));
    }
    const seen = [await states.next(), await states.next(), await states.next(), await states.next()];
    expect(seen.map(({ value }) => value)).toEqual(["away", "here", "reconnecting", "here"]);
    expect([link.state, heard.length]).toEqual(["here", 3]);
    const waiting = states.next();
    expect(await failure(states.next())).toBeInstanceOf(Busy);
    states.close();
    expect((await waiting).done).toBe(true);
    alice.unwatch("bob");
    expect((await server.newest("watch", 2)).clients).toEqual([]);
  });
});

test("who waits for room hears of the end", async () => {
  const server = new FakeServer({ window: 1 });
  const alice = client(server, { closeTimeout: 0 });
  await after(alice.open());
  await alice.link("bob").send("first");
  const waiting = failure(alice.link("bob").send("second"));
  expect(await failure(alice.close())).toMatchObject({ name: "Unsettled", count: 1 });
  expect(await waiting).toBeInstanceOf(ClientClosed);
});
