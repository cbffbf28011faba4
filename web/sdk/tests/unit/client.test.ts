/** The client's life: connecting, coming back, tokens, leaving. */

import { expect, test, vi } from "vitest";
import { Client, type ClientOptions } from "../../src/client.js";
import { ClientClosed, Refused, Unreachable, Unsettled } from "../../src/errors.js";
import type { Event } from "../../src/events.js";
import { make } from "../../src/protocol/messages.js";
import {
  after,
  client,
  complaints,
  FakeServer,
  failure,
  idle,
  now,
  online,
  sleep,
  turns,
  until,
  virtualTime,
} from "../world.js";

virtualTime();

test("it connects, and leaves nothing behind", async () => {
  const server = new FakeServer();
  let kept: Client | null = null;
  await online(
    server,
    async (alice) => {
      kept = alice;
      expect([alice.state, alice.clientId]).toEqual(["online", "alice"]);
    },
    { token: "secret" },
  );
  const alice = kept as unknown as Client;
  expect(alice.state).toBe("closed");
  expect(server.hellos.map((hello) => [hello.client_id, hello.token, hello.run])).toEqual([
    ["alice", "secret", 0],
  ]);
  expect(server.got.map((message) => message.type)).toEqual(["goodbye"]);
  expect(server.line.closedWith).toBe(1000);
  expect(() => alice.link("bob")).toThrow(ClientClosed);
  expect(await failure(alice.open())).toBeInstanceOf(ClientClosed);
  await alice.close();
});

test("a first connect gives up, and says why", async () => {
  const server = new FakeServer();
  server.failures = Array(9).fill("connection refused");
  const error = await failure(client(server).open());
  expect(error).toBeInstanceOf(Unreachable);
  expect(error.message).toBe("cannot reach ws://server/ws: connection refused");
  expect(server.dialled).toBe(5);
});

test("a dialler that throws is a failed attempt like others", async () => {
  const dial = () => {
    throw new TypeError("no such scheme here");
  };
  const alice = new Client("ws://server", { clientId: "alice", dial });
  expect((await failure(alice.open())).message).toContain("no such scheme here");
});

test("refused by the server", async () => {
  const server = new FakeServer();
  server.onHello = (line) => {
    line.deliver(make("error", { code: "duplicate", message: "alice is here", fatal: true }));
    line.end(3501, "duplicate");
    return true;
  };
  const error = await failure(client(server).open());
  expect(error).toBeInstanceOf(Refused);
  expect([error.code, error.error, server.dialled]).toEqual([3501, "duplicate", 1]);
});

test("it comes back with its session, and asks for a fresh token", async () => {
  const server = new FakeServer();
  const tokens = ["one", "two"];
  const heard: Event[] = [];
  await online(
    server,
    async (alice) => {
      alice.onEvent((event) => heard.push(event));
      alice.link("bob");
      await server.expect("watch");
      server.line.end(1006, "gone");
      await until(() => server.hellos.length === 2 && alice.state === "online");
      const [first, second] = server.hellos;
      expect([first?.token, first?.session, first?.watch]).toEqual(["one", "", undefined]);
      expect(second).toMatchObject({ token: "two", session: "s1", secret: "secret1", watch: ["bob"] });
      expect(second?.run).toBe(alice.welcome?.run);
      expect(heard.map((event) => event.kind === "state" && event.state)).toEqual(["reconnecting", "online"]);
    },
    { token: () => tokens.shift() ?? "" },
  );
});

test("it is offline when the resume window is over", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const events = alice.events();
    server.failures = Array(8).fill("no route");
    server.line.end();
    const states = [];
    for (let count = 0; count < 3; count++) {
      const { value } = await after(events.next());
      states.push(value?.kind === "state" && value.state);
    }
    expect(states).toEqual(["reconnecting", "offline", "online"]);
  });
});

test("callbacks of an earlier transport are ignored", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const old = server.line;
    old.end();
    await until(() => server.lines.length === 2 && alice.state === "online");
    old.open = true;
    old.deliver(make("goodbye", { code: 3500 }));
    old.user.closed(old, 3500, "late");
    old.user.gone(old);
    await turns();
    expect(alice.state).toBe("online");
  });
});

test("a terminal close ends everything", async () => {
  const server = new FakeServer();
  const alice = client(server);
  await after(alice.open());
  const link = alice.link("bob");
  const sent = await link.send("x");
  await server.expect("message");
  const reading = failure(link.messages().next());
  const asking = failure(link.request("q"));
  const events = alice.events();
  const states = link.states();
  await turns();
  server.line.deliver(make("error", { code: "superseded", fatal: true }));
  server.line.end(3502, "a newer process");
  expect(await reading).toBeInstanceOf(Refused);
  expect((await asking).name).toMatch(/Refused|Lost/);
  expect(await failure(sent.delivered())).toMatchObject({ reason: "superseded", certain: false });
  const heard = [];
  for await (const event of events) heard.push(event);
  expect(heard.at(-1)).toEqual({
    kind: "state",
    state: "closed",
    code: 3502,
    reason: "a newer process",
    error: "superseded",
  });
  for await (const state of states) expect(state).toBe("away");
  expect(await failure(link.send("y"))).toBeInstanceOf(Refused);
  expect(await failure(alice.messages().next())).toBeInstanceOf(Refused);
  expect(alice.ending).toBeInstanceOf(Refused);
  expect(await failure(alice.close())).toMatchObject({ name: "Unsettled", count: 2 });
});

test("leaving waits for what is not safe", async () => {
  const server = new FakeServer();
  const alice = client(server);
  await after(alice.open());
  const sent = await alice.link("bob").send("x");
  await server.expect("message");
  const began = now();
  const leaving = alice.close();
  await sleep(3);
  expect(alice.state).toBe("online");
  server.line.deliver(server.ack("bob", 1));
  await after(leaving);
  expect(now() - began).toBeLessThan(3.1);
  expect(sent.fate).toBe("delivered");
});

test("leaving gives up after its time", async () => {
  const server = new FakeServer();
  const alice = client(server, { closeTimeout: 2 });
  await after(alice.open());
  const link = alice.link("bob");
  const sent = [await link.send(1), await link.send(2), await link.send(3)];
  const began = now();
  const error = await failure(alice.close());
  expect(error).toBeInstanceOf(Unsettled);
  expect(error.count).toBe(3);
  expect(now() - began).toBeGreaterThanOrEqual(2);
  expect(now() - began).toBeLessThan(2.5);
  expect(sent.map((each) => each.fate)).toEqual(["lost", "lost", "lost"]);
  expect(await failure(alice.close())).toBeInstanceOf(Unsettled); // the same answer, whoever asks again
});

test("leaving sends the acknowledgements it owes", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("bob", 1, "hi"));
    for await (const message of alice.messages()) {
      expect(message.data).toBe("hi");
      break;
    }
  });
  expect(server.got.map((message) => message.type)).toEqual(["ack", "goodbye"]);
  expect(server.acknowledged).toBe(1);
});

test("leaving while reconnecting comes back to acknowledge", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    server.line.deliver(server.message("bob", 1, "hi"));
    for await (const _ of alice.messages()) break;
    server.line.end();
  });
  expect(server.got.map((message) => message.type)).toEqual(["ack", "goodbye"]);
  expect(server.hellos.length).toBe(2);
});

test("a client that is closed while it opens leaves nothing", async () => {
  const server = new FakeServer();
  server.onHello = () => true; // never answered
  const alice = client(server);
  const opening = failure(alice.open());
  await turns();
  await after(alice.close());
  expect(await opening).toBeInstanceOf(ClientClosed);
  expect([alice.state, idle(alice)]).toEqual(["closed", true]);
});

test("a client that is closed before it is opened cannot be opened", async () => {
  const alice = client(new FakeServer());
  await after(alice.close());
  expect(await failure(alice.open())).toBeInstanceOf(ClientClosed);
});

test("a server that never says welcome", async () => {
  const server = new FakeServer();
  server.onHello = () => true;
  const error = await failure(client(server).open());
  expect(error.message).toContain("no welcome");
  expect(server.lines.map((line) => line.closedWith)).toEqual(Array(5).fill(3004));
});

test("a dial that hangs is given up", async () => {
  const server = new FakeServer();
  const aborted: string[] = [];
  const dial = () => ({ congested: false, send() {}, close() {}, abort: () => void aborted.push("cut") });
  const error = await failure(client(server, { dial }).open());
  expect(error.message).toContain("no connection within 10 s");
  expect(aborted.length).toBeGreaterThanOrEqual(5);
});

test("a token that never comes is given up, and may come too late", async () => {
  const server = new FakeServer();
  const late: ((token: string) => void)[] = [];
  const token = () => new Promise<string>((resolve) => late.push(resolve));
  const error = await failure(client(server, { token }).open());
  expect(error.message).toContain("no connection within 10 s");
  for (const resolve of late) resolve("at last");
  await turns();
  expect(server.dialled).toBe(0);
});

test("a token is refreshed before its end", async () => {
  const server = new FakeServer({ expires: 1_000_000 + 600_000 }); // ten minutes of life
  let count = 0;
  const token = async () => `token${++count}`;
  await online(
    server,
    async (alice) => {
      const began = now();
      const refresh = await server.newest("refresh");
      expect(refresh.token).toBe("token2");
      expect(now() - began).toBeCloseTo(540, -1);
      server.line.deliver(make("refreshed", { id: refresh.id, expires: 1_000_000 + 540_000 + 240_000 }));
      const renewed = now();
      const again = await server.newest("refresh", 2);
      expect(now() - renewed).toBeCloseTo(180, -1);
      server.line.deliver(make("error", { code: "unauthorized", id: again.id }));
      await turns();
      expect(alice.state).toBe("online");
      expect(complaints).toHaveLength(1);
    },
    { token },
  );
});

test("a token function that throws is reported", async () => {
  const token = () => {
    throw new Error("the vault is shut");
  };
  const alice = client(new FakeServer(), { token });
  const heard: Event[] = [];
  alice.onEvent((event) => heard.push(event));
  expect((await failure(alice.open())).message).toContain("the vault is shut");
  expect(heard.some((event) => event.kind === "handler_failed")).toBe(true);
});

test("a machine that slept asks for life", async () => {
  const server = new FakeServer();
  await online(server, async () => {
    await sleep(1);
    expect(server.got).toEqual([]);
    vi.setSystemTime(Date.now() + 3_600_000); // the monotonic clock stood still meanwhile
    const began = now();
    await server.expect("ping");
    expect(now() - began).toBeLessThanOrEqual(5.1);
  });
});

test("a server that falls silent is lost, and found again", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const line = server.line;
    line.send = () => {};
    await until(() => alice.state === "reconnecting");
    expect(line.closedWith).toBe(3002);
    await until(() => alice.state === "online");
  });
});

test("a listener that throws breaks nothing", async () => {
  const server = new FakeServer();
  const alice = client(server);
  const heard: string[] = [];
  alice.onEvent(() => {
    throw new Error("broken");
  });
  const stop = alice.onEvent((event) => event.kind === "state" && heard.push(event.state));
  await after(alice.open());
  expect(heard).toEqual(["connecting", "online"]);
  stop();
  await after(alice.close());
  expect(heard).toHaveLength(2);
  expect(complaints.length).toBeGreaterThan(0);
});

test("what the server must not say is told, and goes on", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    server.line.user.received(
      server.line,
      '{"type":"dance"}\n{"type":"error","code":"limit","message":"no"}',
    );
    expect(heard).toEqual([
      { kind: "trouble", code: "unknown_type", reason: "dance" },
      { kind: "trouble", code: "limit", reason: "no" },
    ]);
    expect(alice.state).toBe("online");
  });
});

test("a client that was cut comes back", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    alice.cut();
    await until(() => alice.state === "reconnecting");
    await until(() => alice.state === "online");
    expect(server.hellos[1]).toMatchObject({ session: "s1", secret: "secret1" });
  });
});

test("an impossible client, address or socket is said at once", () => {
  const make = (url: string, options: Partial<ClientOptions> = {}) =>
    new Client(url, { clientId: "alice", dial: new FakeServer().dial, ...options });
  for (const clientId of ["", "@bob", "$server", "a\nb", "x".repeat(129), "\ud800"]) {
    expect(() => make("ws://server", { clientId })).toThrow(RangeError);
  }
  const secrets = ["ws://a:b@server", "ws://server?token=1", "ws://server/?JWT=1", "ws://server/#x"];
  for (const url of ["server", "http://server", "tcp://server:1", ...secrets]) {
    expect(() => make(url)).toThrow(RangeError);
  }
  expect(make("ws://server").url).toBe("ws://server/ws");
  expect(make("wss://server:8/live?a=1").url).toBe("wss://server:8/live?a=1");
  vi.stubGlobal("WebSocket", undefined);
  expect(() => new Client("ws://server", { clientId: "alice" })).toThrow(TypeError);
  vi.unstubAllGlobals();
});
