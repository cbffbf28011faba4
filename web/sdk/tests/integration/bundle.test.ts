/** The built module against a real server: what shortens its names must not change a word of the wire. */

import { existsSync } from "node:fs";
import { afterEach, beforeEach, describe, expect, test } from "vitest";
import type { Client, ClientOptions, Event } from "../../src/index.js";
import { canServe, Server, WebSocket } from "./server.js";

const MODULE = new URL("../../dist/duolink.js", import.meta.url);

describe.skipIf(!canServe || !existsSync(MODULE))("the built module", () => {
  let server: Server;
  let built: typeof import("../../src/index.js");
  const clients: Client[] = [];

  async function client(clientId: string, options: Partial<ClientOptions> = {}): Promise<Client> {
    const made = await built.connect(server.url, { clientId, WebSocket, backoffInitial: 0.1, ...options });
    clients.push(made);
    return made;
  }

  const subscribing = (bob: Client) =>
    bob
      .channel("doc")
      .subscribe()
      .then(
        () => new Error("it stands"),
        (error: Error) => error,
      );

  beforeEach(async () => {
    built = await import(MODULE.href);
    server = new Server();
    await server.start();
  });

  afterEach(async () => {
    for (const each of clients.splice(0)) await each.close().catch(() => {});
    await server.end();
  });

  test("links: texts, bytes, requests, signals, a cut, and what waits for a peer", async () => {
    const [alice, bob] = [await client("alice"), await client("bob")];
    const link = alice.link("bob");
    const states = alice.events();
    const received: unknown[] = [];
    bob.onMessage((message) => received.push([message.sender, message.lane, message.seq, message.data]));
    const bytes = new Uint8Array([0, 10, 255]);
    const sent = await link.send({ text: "ä 😀" }, { expires: 60, collapse: "one" });
    await sent.delivered();
    await (await link.send(bytes, { lane: "bulk" })).delivered();
    alice.cut();
    await (await link.send(null)).delivered();
    expect(received).toEqual([
      ["alice", "messages", 1, { text: "ä 😀" }],
      ["alice", "bulk", 1, bytes],
      ["alice", "messages", 2, null],
    ]);
    expect([sent.fate, sent.seq, link.unsettled]).toEqual(["delivered", 1, 0]);
    const heard: Event[] = [];
    for await (const event of states) {
      heard.push(event);
      if (event.kind === "state" && event.state === "online") break;
    }
    expect(heard.map((event) => event.kind)).toContain("state");

    bob.onRequest((message) => {
      if (message.data === 0) throw new built.RequestFailed("no");
      return [message.data];
    });
    expect(await link.request(21, { timeout: 10 })).toEqual([21]);
    const failure = await link.request(0).catch((error: unknown) => error);
    expect(failure).toBeInstanceOf(built.RequestFailed);
    expect([(failure as Error).name, (failure as Error).message]).toEqual(["RequestFailed", "no"]);

    const signal = new Promise((resolve) => bob.link("alice").onSignal(resolve));
    const ephemeral = new Promise((resolve) => bob.link("alice").onEphemeral(resolve));
    expect([link.signal({ sdp: "x" }), link.ephemeral("now")]).toEqual([true, true]);
    expect(await Promise.all([signal, ephemeral])).toEqual([{ sdp: "x" }, "now"]);

    const reading = (async () => {
      for await (const event of bob.events()) if (event.kind === "handler_failed") return event.what;
      return "nothing";
    })();
    await (await link.send("late", { lane: "bulk" })).delivered();
    await bob.close();
    expect(await reading).toBe("nothing"); // it ends with the client
    expect((await subscribing(bob)).name).toBe("ClientClosed");
    const waiting = await link.send("stored");
    await waiting.stored();
    expect(waiting.fate).toBe("stored");
    const next = await client("bob");
    for await (const message of next.messages()) {
      expect(message.data).toBe("stored");
      break;
    }
    await waiting.delivered();
  });

  test("channels: publications, bytes, history, presence, shared state, conflicts", async () => {
    const [alice, bob] = [await client("alice"), await client("bob")];
    const [doc, his] = [alice.channel("doc"), bob.channel("doc")];
    const subscription = await his.subscribe({ state: true, presence: true });
    const { offset } = await doc.publish({ hi: 1 }, { key: "k" });
    expect((await doc.publish({ hi: 1 }, { key: "k" })).offset).toBe(offset);
    const version = await doc.set("title", new Uint8Array([7]), { expect: 0 });
    const conflict = await doc.set("title", "B", { expect: 0 }).catch((error: unknown) => error);
    expect(conflict).toBeInstanceOf(built.Conflict);
    expect(conflict).toMatchObject({ name: "Conflict", code: "conflict", version });
    const first = (await subscription.next()).value;
    expect(first).toMatchObject({ kind: "publication", data: { hi: 1 }, sender: "alice", offset });
    expect((await subscription.next()).value).toMatchObject({ kind: "set", name: "title", version });
    expect(subscription.state.get("title")?.value).toEqual(new Uint8Array([7]));
    expect((await doc.state()).get("title")?.version).toBe(version);
    await doc.delete("title");
    expect((await subscription.next()).value).toMatchObject({ kind: "deleted", name: "title" });
    const page = await doc.history({ limit: 10 });
    expect(page.publications.map((entry) => entry.kind)).toEqual(["publication", "set", "deleted"]);
    expect([page.gap, page.top.offset]).toEqual([null, offset + 2]);
    expect(await doc.presence()).toEqual(["bob"]);
    const ephemeral = new Promise((resolve) => his.onEphemeral((data, sender) => resolve([data, sender])));
    doc.ephemeral(new Uint8Array([1]));
    expect(await ephemeral).toEqual([new Uint8Array([1]), "alice"]);
    bob.cut();
    await doc.publish("after the cut");
    expect((await subscription.next()).value).toMatchObject({ data: "after the cut" });
    subscription.close();
  });
});
