/** A WebSocket as a transport. */

import { expect, test } from "vitest";
import { dialler, type Transport, type TransportUser, type WebSocketLike } from "../../src/transport.js";

/** A socket that does what a test says. */
class Socket extends EventTarget implements WebSocketLike {
  binaryType = "blob";
  readyState = 0;
  bufferedAmount = 0;
  readonly did: unknown[] = [];

  constructor(
    readonly url: string,
    readonly protocols: string,
  ) {
    super();
    Socket.newest = this;
  }

  static newest: Socket;

  send(data: string | Uint8Array): void {
    this.did.push(data);
  }

  close(code?: number, reason?: string): void {
    // As a browser does (HTML, WebSocket.close).
    if (code !== undefined && code !== 1000 && !(code >= 3000 && code <= 4999))
      throw new Error("InvalidAccessError");
    if (Buffer.byteLength(reason ?? "") > 123) throw new Error("SyntaxError");
    this.did.push(["close", code, reason]);
  }

  fire(type: string, fields: object = {}): void {
    if (type === "open") this.readyState = 1;
    if (type === "close") this.readyState = 3;
    this.dispatchEvent(Object.assign(new Event(type), fields));
  }
}

function dial(): { transport: Transport; socket: Socket; heard: unknown[] } {
  const heard: unknown[] = [];
  const user: TransportUser = {
    opened: () => heard.push("opened"),
    received: (_, payload) => heard.push(payload),
    closed: (_, code, reason) => heard.push(["closed", code, reason]),
    gone: () => heard.push("gone"),
  };
  const transport = dialler("ws://server/ws", Socket)(user);
  return { transport, socket: Socket.newest, heard };
}

test("it carries texts and bytes, and says how it ended", () => {
  const { transport, socket, heard } = dial();
  expect([socket.url, socket.protocols, socket.binaryType]).toEqual([
    "ws://server/ws",
    "duolink",
    "arraybuffer",
  ]);
  socket.fire("open");
  transport.send("text");
  transport.send(new Uint8Array([1]));
  socket.fire("message", { data: "text" });
  socket.fire("message", { data: new Uint8Array([2]).buffer });
  socket.fire("close", { code: 3001, reason: "slow" });
  expect(socket.did).toEqual(["text", new Uint8Array([1])]);
  expect(heard).toEqual(["opened", "text", new Uint8Array([2]), ["closed", 3001, "slow"], "gone"]);
});

test("one that could not be opened says why, if it knows", () => {
  const { socket, heard } = dial();
  socket.fire("error", { message: "connection refused" });
  expect(heard).toEqual([["closed", 1006, "connection refused"], "gone"]); // Node's tells no close
  socket.fire("close", { code: 1006, reason: "" });
  expect(heard).toEqual([["closed", 1006, "connection refused"], "gone", "gone"]);
});

test("after it was closed only the end is told, and codes that a browser refuses are not named", () => {
  for (const [code, said] of [
    [1000, ["close", 1000, "bye"]],
    [3002, ["close", 3002, "bye"]],
    [1002, ["close", undefined, undefined]],
  ] as const) {
    const { transport, socket, heard } = dial();
    socket.fire("open");
    transport.close(code, "bye");
    transport.send("too late");
    socket.fire("message", { data: "too late" });
    socket.fire("close", { code, reason: "" });
    expect(socket.did).toEqual([said]);
    expect(heard).toEqual(["opened", "gone"]);
  }
  const { transport } = dial();
  transport.close(3002, "ä€😀".repeat(50)); // too long a reason is cut
});

test("nothing is sent to a socket that the browser has closed but not yet told of", () => {
  const { transport, socket } = dial();
  socket.fire("open");
  for (const state of [2, 3]) {
    socket.readyState = state;
    transport.send("too late");
  }
  expect(socket.did).toEqual([]);
});

test("one that is cut off does not wait for the far end", () => {
  const { transport, socket, heard } = dial();
  socket.fire("open");
  transport.abort();
  expect(heard).toEqual(["opened", ["closed", 1006, "cut off"], "gone"]);
  transport.abort();
  socket.fire("close", { code: 1000, reason: "late" });
  expect(new Set(heard.slice(3))).toEqual(new Set(["gone"]));
});

test("a payload that is too large ends it for good", () => {
  const { socket, heard } = dial();
  socket.fire("open");
  socket.fire("message", { data: "x".repeat(1024 * 1024 + 1) });
  expect(heard.slice(1)).toEqual([["closed", 1009, "too large"], "gone"]);
});

test("it is congested from one payload on, until a quarter is left", () => {
  const { transport, socket } = dial();
  const states = [1_048_576, 1_048_577, 262_145, 262_144, 1_000_000].map((amount) => {
    socket.bufferedAmount = amount;
    return transport.congested;
  });
  expect(states).toEqual([false, true, true, false, false]);
});
