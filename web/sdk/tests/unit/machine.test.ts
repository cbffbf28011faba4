/** What the vectors do not say of links: bounds, and what a database has forgotten. */

import { expect, test } from "vitest";
import { encode } from "../../src/protocol/codec.js";
import { pathDown, pathUp, receivedOn } from "../../src/protocol/direct.js";
import { Inbound } from "../../src/protocol/inbound.js";
import { MAX_LOST } from "../../src/protocol/limits.js";
import { Link as Machine } from "../../src/protocol/link.js";
import { make } from "../../src/protocol/messages.js";
import { Outbound } from "../../src/protocol/outbound.js";
import { Paths } from "../../src/protocol/paths.js";
import { Session } from "../../src/protocol/session.js";

test("what is remembered of ended runs is bounded", () => {
  const link = new Machine("bob", 1);
  link.pathUp("server", "server", 0);
  const message = (run: number) => make("message", { run, seq: 1, base: 1, from: "bob", data: 1 });
  for (let run = 1; run <= 9; run++) link.receive(message(run), "server", 0);
  link.finish(message(1), 0);
  expect(link.owesAcks).toBe(false);
  link.finish(message(5), 0);
  expect(link.owesAcks).toBe(true);
});

test("a run of lost numbers that no window holds is passed at once", () => {
  const inbound = new Inbound("messages", 7, 1, 4, 1000);
  inbound.message(make("message", { run: 7, seq: 1, base: 1, data: 1 }), 0);
  inbound.finish(1, 0);
  const far = 2 ** 52;
  expect(inbound.begin(far, 0)).toMatchObject([{ first: 2, last: far - 1, reason: "gone" }]);
  expect(inbound.ack("bob", 1)).toMatchObject({ seq: far - 1, lost: [[2, far - 1, "gone"]], by: 1 });
});

test("more separate losses than an acknowledgement lists hold nothing up, and none passes for delivered", () => {
  const inbound = new Inbound("messages", 7, 1, 8, 1000);
  const numbers = 3 * MAX_LOST;
  for (let seq = 1; seq <= numbers; seq++) {
    const skip = make("skip", { run: 7, seq, last: seq, base: 1, reason: `r${seq % 2}` });
    expect(inbound.skip(skip, 0)).toMatchObject([{ first: seq, last: seq }]);
  }
  const { seq, lost } = inbound.ack("bob", 1);
  const told = numbers - MAX_LOST + 1;
  expect([seq, lost.length, lost[0]]).toEqual([numbers, MAX_LOST, [1, told, "unclear"]]);
  expect(lost[1]).toEqual([told + 1, told + 1, `r${(told + 1) % 2}`]);
});

test("what is stored nowhere any more ends as lost, once its receiver says so", () => {
  const outbound = new Outbound("bob", "messages", 1, 256, 1000);
  for (let count = 0; count < 3; count++) outbound.submit("x");
  outbound.transmit(1, 3, 0, true, true);
  outbound.store(3);
  expect(outbound.forgotten(1)).toEqual([]);
  const skips = outbound.transmit(1, 3, 0, true);
  expect(skips).toMatchObject([{ type: "skip", seq: 2, last: 3, reason: "storage_lost" }]);
  const lost = [[2, 3, "storage_lost"]] as const;
  const settled = outbound.acknowledge(make("ack", { run: 1, seq: 3, to: "a", lost, by: 5 }));
  expect(settled.map(({ reason, certain }) => [reason, certain])).toEqual([
    ["", true],
    ["storage_lost", false],
    ["storage_lost", false],
  ]);
});

test("a data channel is one more path, until what comes there claims a name", () => {
  const session = new Session("alice", { random: () => 0, paths: () => new Paths() });
  session.start(0);
  session.take(0);
  session.opened("", 0);
  const heartbeat = { interval: 30_000, timeout: 10_000, misses: 3 };
  const limits = {
    message: 65_536,
    payload: 1_048_576,
    subscriptions: 1,
    watched: 1,
    window: 9,
    window_bytes: 99,
  };
  const names = { client_id: "alice", session: "s", secret: "x", generation: 1, attachment: 1, run: 1 };
  const welcome = { ...names, resumed: false, durable: false, heartbeat, limits, time: 0 };
  session.received(encode(make("welcome", welcome)), 0);
  pathUp(session, "bob", "d1", "direct", 0);
  const carried = () => session.take(0).filter((action) => action.kind === "carry");
  expect(carried().map(({ path }) => path)).toEqual(["d1"]); // its first ping
  receivedOn(session, "bob", "d1", encode(make("ping", { id: 7 })), 0);
  expect(carried().map(({ payload }) => payload)).toEqual([encode(make("pong", { id: 7 }))]);
  session.events();
  receivedOn(
    session,
    "bob",
    "d1",
    encode(make("message", { run: 3, seq: 1, base: 1, from: "eve", data: 1 })),
    0,
  );
  session.take(0);
  expect(session.events()).toMatchObject([{ kind: "link", peer: "bob", event: { kind: "path_failed" } }]);
  pathUp(session, "bob", "d2", "direct", 0);
  pathDown(session, "bob", "d2");
  expect(carried()).toEqual([]);
});

test("a skip that overtakes its number on another path makes no loss certain", () => {
  for (const server of [true, false]) {
    const outbound = new Outbound("bob", "messages", 7, 8, 1000);
    outbound.meet(3);
    outbound.submit("x", false, 1);
    outbound.transmit(1, 1, 0, true);
    expect(outbound.expire(1)).toEqual([]);
    expect(outbound.transmit(1, 1, 1, server)).toMatchObject([{ type: "skip" }]);
    const lost = [[1, 1, "expired"]] as const;
    const settled = outbound.acknowledge(make("ack", { run: 7, seq: 1, to: "a", lost, by: 3 }));
    expect(settled).toMatchObject([{ reason: "expired", certain: server }]);
  }
});
