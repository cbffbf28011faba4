/** Interleavings and inputs that once went wrong in the client; each test names its own. */

import { expect, test } from "vitest";
import { RequestFailed } from "../../src/errors.js";
import { CLIENT, Malformed } from "../../src/protocol/codec.js";
import { make } from "../../src/protocol/messages.js";
import { after, client, FakeServer, failure, online, sleep, turns, virtualTime } from "../world.js";

virtualTime();

/** Notes the malformed lines of a client instead of throwing. */
class Tolerant extends FakeServer {
  bad: string[] = [];
  override took(line: never, payload: string | Uint8Array): void {
    for (const each of typeof payload === "string" ? payload.split("\n") : [payload]) {
      const [message] = typeof each === "string" ? CLIENT.text(each) : CLIENT.binary(each);
      if (message instanceof Malformed) this.bad.push(String(each));
      else super.took(line, each);
    }
  }
}
const quick = { closeTimeout: 0 };
const leave = (error: Error) => {
  if (error.name !== "Unsettled") throw error;
};
const isRange = (error: Error) => void expect(error).toBeInstanceOf(RangeError);

test("a failure whose text is cut within a character is answered", async () => {
  const server = new FakeServer();
  await online(
    server,
    async (alice) => {
      const got: unknown[] = [];
      alice.onMessage((m) => void got.push(m.data));
      alice.onRequest(() => {
        throw new RequestFailed(`${"x".repeat(122)}😀`);
      });
      server.line.deliver(server.message("bob", 1, 1, { request: "r" }), server.message("bob", 2, 2));
      await sleep(3);
      expect(got).toEqual([2]);
      expect(server.all("message").map((m) => m.reply)).toEqual(["r"]);
    },
    quick,
  ).catch(leave);
});

test.each([
  ["request", Number.POSITIVE_INFINITY],
  ["send", Number.NaN],
  ["send", 1e14],
] as const)("the time of a %s may be %s: for ever, or refused", async (what, time) => {
  const server = new Tolerant();
  await online(
    server,
    async (alice) => {
      const link = alice.link("bob", { watch: false });
      if (what === "send") link.send(1, { expires: time }).catch(isRange);
      else link.request(1, { timeout: time }).catch(() => {});
      await turns();
      expect(server.bad).toEqual([]);
    },
    quick,
  ).catch(leave);
});

test("half a character is no collapse key", async () => {
  const server = new Tolerant();
  await online(
    server,
    async (alice) => {
      alice
        .link("bob", { watch: false })
        .send(1, { collapse: "Plan 😀".slice(0, 6) })
        .catch(isRange);
      await turns();
      expect(server.bad).toEqual([]);
    },
    quick,
  ).catch(leave);
});

test("half a character is no key", async () => {
  await online(new Tolerant(), async (alice) => {
    const work = alice.channel("c").publish(1, { key: "😀".slice(0, 1), timeout: 1 });
    expect((await failure(work)).name).toBe("RangeError");
  });
});

test("who closes may wait for ever", async () => {
  const server = new FakeServer();
  const alice = client(server, { closeTimeout: Number.POSITIVE_INFINITY });
  await after(alice.open());
  const sent = await alice.link("bob", { watch: false }).send(1);
  const closing = alice.close().catch((error) => error);
  await sleep(3);
  server.line.deliver(server.ack("bob", 1));
  expect([await after(closing), sent.fate]).toEqual([undefined, "delivered"]);
});

test("a request to one's own user comes to oneself and is not answered", async () => {
  const server = new FakeServer();
  await online(
    server,
    async (alice) => {
      const got: unknown[] = [];
      const reading = (async () => {
        for await (const message of alice.messages()) got.push(message.data);
      })();
      const error = reading.then(
        () => null,
        (reason) => reason,
      );
      await turns();
      server.line.deliver(
        server.message("alice", 1, 1, { user: "@alice", request: "r" }),
        server.message("alice", 2, 2, { user: "@alice" }),
      );
      await sleep(3);
      expect(got).toEqual([1, 2]);
      void error;
    },
    quick,
  );
});

test("a refresh without an answer does not follow a fresher hello", async () => {
  let n = 0;
  const server = new FakeServer({ expires: 1_400_000 });
  await online(
    server,
    async () => {
      expect((await server.newest("refresh")).token).toBe("t1");
      server.line.end();
      await sleep(5);
      expect(server.hellos.at(-1)?.token).toBe("t2");
      expect(server.all("refresh").map((m) => m.token)).toEqual(["t1"]);
    },
    { token: () => `t${n++}` },
  );
});

test("what was said to a closed subscription does not reach the next one", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    const channel = alice.channel("c");
    const opening = channel.subscribe({ since: { epoch: "e", offset: 4 }, presence: true });
    const { id } = await server.newest("subscribe");
    const stands = { channel: "c", epoch: "e", recovered: true };
    server.line.deliver(make("subscribed", { ...stands, id, offset: 4 }));
    const old = await opening;
    const next: ReturnType<typeof channel.subscribe>[] = [];
    alice.onEvent((event) => {
      if (event.kind !== "presence" || next.length) return;
      old.close();
      next.push(channel.subscribe({ since: { epoch: "e", offset: 2 } })); // look at the last ones again
    });
    server.line.deliver(make("join", { channel: "c", client_id: "bob" }), server.publication("c", 5, 5));
    await sleep(1);
    const again = server.all("subscribe").at(-1)?.id ?? 0;
    const missed = [3, 4, 5].map((each) => server.publication("c", each, each));
    server.line.deliver(make("subscribed", { ...stands, id: again, offset: 2 }), ...missed);
    const got: unknown[] = [];
    const following = await (next[0] ?? Promise.reject(new Error("the listener was not called")));
    for (const _ of missed) got.push((await following.next()).value?.offset);
    following.close();
    expect(got).toEqual([3, 4, 5]);
  });
});

test("a request to a user is not refused by a client without a handler: another one may have it", async () => {
  const server = new FakeServer();
  await online(server, async (alice) => {
    alice.onMessage(() => {});
    server.line.deliver(server.message("bob", 1, 1, { user: "@alice", request: "r" }));
    await sleep(3);
    expect(server.all("message")).toEqual([]);
    expect(server.acknowledged).toBe(1);
  });
});

test("a server that takes small messages may say large ones", async () => {
  const server = new FakeServer();
  const plain = server.welcome.bind(server);
  server.welcome = (hello) => {
    const welcome = plain(hello);
    return { ...welcome, limits: { ...welcome.limits, message: 1024 } };
  };
  await online(server, async (alice) => {
    const got: unknown[] = [];
    alice.onMessage(({ data }) => void got.push(data));
    server.line.deliver(server.message("bob", 1, "x".repeat(5000)));
    await turns();
    expect(got).toEqual(["x".repeat(5000)]);
  });
});

test("nothing is told after `closed`, though a handler closes the client in the middle of a turn", async () => {
  const server = new FakeServer();
  const alice = client(server);
  await after(alice.open());
  const heard: string[] = [];
  alice.onEvent((event) => void heard.push(event.kind === "state" ? event.state : event.kind));
  let closing = Promise.resolve();
  alice.onMessage(() => {
    closing = alice.close();
  });
  const skip = make("skip", { run: 7, seq: 2, last: 2, base: 1, reason: "expired", from: "bob" });
  server.line.deliver(server.message("bob", 1, 1), skip);
  await turns();
  await after(closing);
  expect(heard).toEqual(["lost", "closed"]);
});

test("an unknown lane is refused at once though the connection is congested", async () => {
  const server = new FakeServer();
  await online(
    server,
    async (alice) => {
      const link = alice.link("bob", { watch: false });
      server.line.congested = true;
      const ends: unknown[] = [];
      const end = (at: number) => (value: unknown) => {
        ends[at] = value;
      };
      link.send(1, { lane: "mesages" }).then(end(0), end(0));
      link.send(2).then(end(1), end(1));
      await turns();
      server.line.congested = false;
      let thrown: unknown = null;
      await sleep(1).catch((error) => {
        thrown = error;
      });
      expect([thrown, ends[0] instanceof RangeError, Boolean(ends[1])]).toEqual([null, true, true]);
    },
    quick,
  ).catch(leave);
});

test("who waits for room gets what expires", async () => {
  const server = new FakeServer();
  await online(
    server,
    async (alice) => {
      const link = alice.link("bob", { watch: false });
      const big = "x".repeat(64_000);
      for (let i = 0; i < 16; i++) link.trySend(big, { expires: 1 });
      await turns();
      let done = false;
      link.send(big).then(
        () => {
          done = true;
        },
        () => {},
      );
      await sleep(1.5);
      expect(done).toBe(true);
    },
    quick,
  ).catch(leave);
});

test("a page of history has no fraction", async () => {
  await online(new Tolerant(), async (alice) => {
    expect((await failure(alice.channel("c").history({ limit: 1.5, timeout: 1 }))).name).toBe("RangeError");
  });
});

test("an offset that is none is not sent", async () => {
  const server = new Tolerant();
  await online(server, async (alice) => {
    alice
      .channel("c")
      .subscribe({ since: { epoch: "e", offset: Number.NaN } })
      .catch(() => {});
    await turns();
    expect(server.bad).toEqual([]);
  });
});

test("an asynchronous listener may fail", async () => {
  const rejections: unknown[] = [];
  const note = (error: unknown) => void rejections.push(error);
  process.on("unhandledRejection", note);
  const alice = client(new FakeServer());
  alice.onEvent(async () => {
    throw new Error("mine");
  });
  await after(alice.open());
  await after(alice.close());
  await new Promise((resolve) => setImmediate(resolve));
  process.off("unhandledRejection", note);
  expect(rejections).toEqual([]);
});
