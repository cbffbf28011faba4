/** The SDK against a real server, over real sockets. */

import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Client, Event, Link, State } from "../../src/index.js";
import { Conflict } from "../../src/index.js";
import { Command, canServe, Server } from "./server.js";

/** Resolve when a client is in a state. */
async function becomes(client: Client, state: State): Promise<void> {
  if (client.state === state) return;
  for await (const event of client.events()) if (event.kind === "state" && event.state === state) return;
}

/** Read that many messages. */
async function read(link: Link, count: number): Promise<unknown[]> {
  const data: unknown[] = [];
  for await (const message of link) if (data.push(message.data) === count) break;
  return data;
}

function numbers(count: number, first = 0): number[] {
  return Array.from({ length: count }, (_, index) => first + index);
}

describe.skipIf(!canServe)("a real server", () => {
  let server: Server;

  beforeEach(async () => {
    server = new Server();
    await server.start();
  });

  afterEach(async () => {
    await server.end();
  });

  test("two clients talk, ask and answer", async () => {
    const [alice, bob] = [await server.client("alice"), await server.client("bob")];
    const link = alice.link("bob");
    const reading = read(bob.link("alice"), 3);
    const bytes = new Uint8Array([0, 10, 255]);
    for (const data of [{ text: "ä € 😀" }, bytes, null]) await (await link.send(data)).delivered();
    expect(await reading).toEqual([{ text: "ä € 😀" }, bytes, null]);
    bob.onRequest(async (message) => ({ twice: 2 * (message.data as number) }));
    expect(await link.request(21)).toEqual({ twice: 42 });
    expect(link.state).toBe("here");
    await alice.close();
    await bob.close();
  });

  test("whatever is cut, every message arrives once and in order", async () => {
    const [alice, bob] = [await server.client("alice"), await server.client("bob")];
    const reading = read(bob.link("alice"), 2000);
    const link = alice.link("bob");
    for (let number = 0; number < 2000; number++) {
      await link.send(number);
      if (number % 400 === 200) alice.cut();
      if (number % 400 === 350) bob.cut();
      if (number % 100 === 99) await new Promise((resolve) => setImmediate(resolve));
    }
    expect(await reading).toEqual(numbers(2000));
    await alice.close();
    expect(link.unsettled).toBe(0);
  });

  test("a server that is killed and started again loses nothing", async () => {
    const [alice, bob] = [await server.client("alice"), await server.client("bob")];
    const heard: Event[] = [];
    alice.onEvent((event) => heard.push(event));
    const reading = read(bob.link("alice"), 600);
    const link = alice.link("bob");
    for (const number of numbers(200)) await link.send(number);
    await server.stop("SIGKILL");
    const sending = (async () => {
      for (const number of numbers(400, 200)) await link.send(number);
    })();
    await becomes(alice, "reconnecting");
    await server.start();
    await sending;
    expect(await reading).toEqual(numbers(600));
    expect(heard.some((event) => event.kind === "lost")).toBe(false);
    await alice.close();
  });

  test("what is sent to who is absent is stored, over a restart, and comes later", async () => {
    const early = await server.client("bob");
    await early.close(); // known, and away
    const alice = await server.client("alice");
    const sent = await alice.link("bob").send("kept");
    await sent.stored();
    expect(sent.fate).toBe("stored");
    await alice.close(); // stored is safe
    await server.stop("SIGKILL");
    await server.start();
    const bob = await server.client("bob");
    expect(await read(bob.link("alice"), 1)).toEqual(["kept"]);
    const again = await server.client("alice");
    const delivered = await again.link("bob").send("and live");
    const reading = read(bob.link("alice"), 1);
    await delivered.delivered();
    expect(await reading).toEqual(["and live"]);
  });

  test("a server that drains sends its clients to the next one", async () => {
    const [alice, bob] = [await server.client("alice"), await server.client("bob")];
    const link = alice.link("bob");
    const reading = read(bob.link("alice"), 2);
    await (await link.send(1)).delivered();
    const states: Event[] = [];
    alice.onEvent((event) => event.kind === "state" && states.push(event));
    expect(await server.stop("SIGTERM")).toBe(0);
    await becomes(alice, "reconnecting");
    expect(states[0]).toMatchObject({ state: "reconnecting", code: 1012 });
    await server.start();
    await (await link.send(2)).delivered();
    expect(await reading).toEqual([1, 2]);
  });

  test("a message to a user reaches each of his clients", async () => {
    const phone = await server.client("bob:phone");
    const laptop = await server.client("bob:laptop");
    const alice = await server.client("alice");
    const readings = [phone, laptop].map((client) => read(client.link("alice"), 2));
    for (const data of ["one", "two"]) await (await alice.link("@bob").send(data)).delivered();
    expect(await Promise.all(readings)).toEqual([
      ["one", "two"],
      ["one", "two"],
    ]);
  });

  test("a channel is recovered over a cut, and its state is shared", async () => {
    const [alice, bob] = [await server.client("alice"), await server.client("bob")];
    const doc = alice.channel("doc");
    await doc.set("title", "Plan", { expect: 0 });
    const subscription = await bob.channel("doc").subscribe({ state: true, presence: true });
    expect([...subscription.state.values()].map((entry) => [entry.name, entry.value])).toEqual([
      ["title", "Plan"],
    ]);
    bob.cut();
    await becomes(bob, "reconnecting");
    const version = await doc.set("title", "B");
    for (const number of numbers(50)) await doc.publish(number);
    expect(await doc.set("title", "C", { expect: 1 }).catch((error) => error)).toBeInstanceOf(Conflict);
    const items = [];
    for await (const item of subscription)
      if (items.push(item.kind === "gap" ? "gap" : item.data) === 51) break;
    expect(items).toEqual(["B", ...numbers(50)]);
    expect(subscription.state.get("title")?.version).toBe(version);
    expect((await doc.history({ limit: 10 })).publications.map((entry) => entry.data)).toEqual(
      numbers(10, 40),
    );
    await doc.delete("title");
    expect((await alice.channel("doc").state()).size).toBe(0);
  });

  test("two clients of one name: the second is refused, unless it resumes as the next page does", async () => {
    const first = await server.client("alice");
    expect(await server.client("alice").catch((error) => error)).toMatchObject({
      name: "Refused",
      code: 3501,
    });
    const { session, secret, run } = first.welcome ?? {};
    const watcher = await server.client("watcher");
    const subscription = await watcher.channel("room").subscribe({ presence: true });
    await first.channel("room").subscribe();
    await expect.poll(() => subscription.present.has("alice")).toBe(true);
    const changes: Event[] = [];
    watcher.onEvent((event) => event.kind === "presence" && event.left && changes.push(event));
    const page = await server.resumed("alice", { session: session ?? "", secret: secret ?? "" });
    expect(page.welcome).toMatchObject({ session, resumed: true });
    expect(page.welcome?.run).toBeGreaterThan(run ?? Infinity); // another process
    const again = await page.channel("room").subscribe();
    const link = watcher.link("alice");
    const reading = read(page.link("watcher"), 1);
    await (await link.send("to the new page")).delivered();
    expect(await reading).toEqual(["to the new page"]);
    expect(subscription.present.has("alice")).toBe(true);
    again.close();
    // The page before it would be gone; if it lives on (a copied tab that had no lock), it is fenced.
    await expect.poll(() => first.state).toBe("closed");
    expect(first.ending).toMatchObject({ name: "Refused", code: 3502 });
  });

  test("the SDK in Python and this one understand each other", async () => {
    const bob = await server.client("bob");
    const reading = read(bob.link("python"), 200);
    const sender = new Command("send", "python", "bob", "--json", "--url", server.url);
    sender.process.stdin?.end(
      numbers(200)
        .map((number) => `${JSON.stringify({ number })}\n`)
        .join(""),
    );
    expect(await reading).toEqual(numbers(200).map((number) => ({ number })));
    expect(await sender.ended).toBe(0);
    const listener = new Command("listen", "python", "--json", "--url", server.url);
    const link = bob.link("python");
    for (const number of numbers(200)) await link.send(`ü ${number}`);
    const heard = (line: string) => line.startsWith("{") && JSON.parse(line).data;
    await listener.says((lines) => lines.filter(heard).length >= 200);
    expect(listener.lines.filter(heard).map(heard)).toEqual(numbers(200).map((number) => `ü ${number}`));
    await listener.stop("SIGTERM");
  });
});
