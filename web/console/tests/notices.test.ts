import { expect, test } from "vitest";
import type { ServerFacts } from "../src/api/shapes.js";
import type { Connection } from "../src/feed.js";
import { notices } from "../src/model/notices.js";

const GOOD: ServerFacts = {
  node: "n",
  version: "0.1.0",
  started: 0,
  now: 0,
  uptime_s: 0,
  development: false,
  durable: true,
  database: "duolink.db",
  ready: true,
  reasons: [],
  draining: false,
  auth: "jwt",
  limits: {},
};
const LIVE: Connection = { state: "live" };
const names = (connection: Connection, facts: ServerFacts | null) =>
  notices(connection, facts, 0).map(({ name }) => name);

test("of a server that is well there is nothing to say", () => {
  expect(names(LIVE, GOOD)).toEqual([]);
  expect(names({ state: "connecting" }, null)).toEqual([]);
});

test("reasons for not being ready are said; a drain is no second reason", () => {
  const [unready] = notices(LIVE, { ...GOOD, ready: false, reasons: ["the engine is down", "x"] }, 0);
  expect(unready).toMatchObject({ level: "bad", text: "The engine is down; x." });
  expect(names(LIVE, { ...GOOD, ready: false, draining: true, reasons: ["draining"] })).toEqual(["draining"]);
  expect(
    names(LIVE, { ...GOOD, ready: false, draining: true, reasons: ["draining", "the engine is down"] }),
  ).toEqual(["draining", "unready"]);
  expect(names(LIVE, { ...GOOD, ready: false })).toEqual(["unready"]);
});

test("a server that keeps nothing says so", () => {
  expect(names(LIVE, { ...GOOD, durable: false })).toEqual(["memory"]);
});

test("when the API is gone it is said of when the numbers are, and that comes first", () => {
  const since = new Date(2026, 10, 27, 12, 3, 4).getTime();
  const lost: Connection = { state: "lost", since, reason: "nobody answers", retryAt: 0 };
  const found = notices(lost, { ...GOOD, durable: false }, since);
  expect(found.map(({ name }) => name)).toEqual(["lost", "memory"]);
  expect(found[0]?.text).toBe("Nobody answers. What is shown is of 12:03:04. The console goes on trying.");
  expect(notices({ ...lost, since: null }, null, since)[0]?.text).not.toContain("What is shown");
});
