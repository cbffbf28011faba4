import { createServer, type Server } from "node:http";
import type { AddressInfo } from "node:net";
import { afterEach, beforeEach, expect, test } from "vitest";
import { Api, Problem, Unreachable } from "../src/api/api.js";
import { Credentials } from "../src/api/credentials.js";
import { FakeApi } from "./fake/api.js";

let fake: FakeApi;
let server: Server;
let api: Api;

beforeEach(async () => {
  fake = new FakeApi();
  server = createServer((request, response) => void fake.handle(request, response));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  api = new Api(new Credentials(null), fetch, `http://127.0.0.1:${port}/api`);
});

afterEach(() => {
  fake.cut();
  server.closeAllConnections();
  server.close();
});

/** Answers as a server would, without one. */
const answering = (response: Response) => new Api(new Credentials(null), async () => response);

test("names travel whole, and what is not asked for does not", async () => {
  await api.clients({ prefix: "a b&c", state: "", after: "", limit: 5 });
  await expect(api.client("a/b?c#d")).rejects.toThrow(Problem);
  expect(fake.asked).toEqual(["GET /api/clients?prefix=a+b%26c&limit=5", "GET /api/clients/a%2Fb%3Fc%23d"]);
});

test("pages follow one another to the last", async () => {
  const seen: string[] = [];
  for (let after = ""; ; ) {
    const { items, next } = await api.clients({ after, limit: 100 });
    seen.push(...items.map(({ client }) => client));
    if (next === null) break;
    after = next;
  }
  expect(seen).toHaveLength(250);
  expect(new Set(seen).size).toBe(250);
});

test("the token is in a header, and nowhere else", async () => {
  fake.knobs.token = "the secret";
  await expect(api.server()).rejects.toMatchObject({ status: 401, detail: "a bearer token is needed" });
  api.credentials.use("the secret", false);
  expect((await api.server()).node).toBe("node-1");
  api.credentials.use("not an operator's", false);
  await expect(api.server()).rejects.toMatchObject({ status: 403 });
  expect(fake.asked.join()).not.toContain("secret");
});

test("a client is disconnected, with a reason; the next time it is not there", async () => {
  const { items } = await api.clients({ limit: 1 });
  const client = items[0]?.client ?? "";
  await expect(api.disconnect(client, { reason: "because", reconnect: true })).resolves.toBeUndefined();
  await expect(api.disconnect(client, { reason: "", reconnect: false })).rejects.toMatchObject({
    status: 404,
  });
});

test("an error that is no problem document is a problem all the same", async () => {
  const refusing = answering(new Response("<html>", { status: 502, statusText: "Bad Gateway" }));
  await expect(refusing.server()).rejects.toMatchObject({ status: 502, title: "Bad Gateway", detail: "" });
});

test("an answer that is no JSON is none", async () => {
  await expect(answering(new Response("<html>")).server()).rejects.toThrow(Unreachable);
});

test("nobody there: unreachable, not a problem", async () => {
  server.close();
  server.closeAllConnections();
  await expect(api.server()).rejects.toThrow(Unreachable);
});

test("who has gone hears his own reason", async () => {
  const gone = new AbortController();
  const reason = new Error("another page");
  const asked = api.clients({ limit: 1 }, { signal: gone.signal });
  gone.abort(reason);
  await expect(asked).rejects.toBe(reason);
});

test("an answer that does not come in time is not waited for", async () => {
  const silent = new Api(new Credentials(null), async (_, init) => {
    (init as { signal: AbortSignal }).signal.throwIfAborted();
    return new Response("{}");
  });
  const timeout = AbortSignal.timeout;
  AbortSignal.timeout = () => AbortSignal.abort(new Error("time is over"));
  try {
    await expect(silent.server()).rejects.toThrow("no answer within 10 s");
  } finally {
    AbortSignal.timeout = timeout;
  }
});
