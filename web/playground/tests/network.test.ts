import type { WebSocketConstructor, WebSocketLike } from "duolink";
import { describe, expect, test, vi } from "vitest";
import { NetworkSwitch } from "../src/network.js";

/** What a socket's far end would see, and tell. */
class FakeSocket implements WebSocketLike {
  static made: FakeSocket[] = [];
  binaryType = "blob";
  readyState = 1;
  bufferedAmount = 7;
  readonly sent: unknown[] = [];
  closed: unknown[] | null = null;
  private readonly _listeners = new Map<string, (event: unknown) => void>();

  constructor(
    readonly url: string,
    readonly protocols: string,
  ) {
    FakeSocket.made.push(this);
  }

  send(data: unknown): void {
    this.sent.push(data);
  }

  close(...how: unknown[]): void {
    this.closed = how;
  }

  addEventListener(type: string, listener: (event: unknown) => void): void {
    this._listeners.set(type, listener);
  }

  tell(type: string, event: unknown = {}): void {
    this._listeners.get(type)?.(event);
  }
}

function open(network: NetworkSwitch) {
  const heard: [string, unknown][] = [];
  const socket = new network.WebSocket("ws://x/ws", "duolink");
  for (const type of ["open", "message", "error", "close"]) {
    socket.addEventListener(type, (event: unknown) => heard.push([type, event]));
  }
  return { socket, heard, real: FakeSocket.made.at(-1) as FakeSocket };
}

const made = () => new NetworkSwitch(FakeSocket as unknown as WebSocketConstructor);

describe("a network that is on", () => {
  test("carries everything both ways", () => {
    const { socket, heard, real } = open(made());
    expect([real.url, real.protocols]).toEqual(["ws://x/ws", "duolink"]);
    socket.binaryType = "arraybuffer";
    expect([real.binaryType, socket.binaryType, socket.readyState, socket.bufferedAmount]).toEqual([
      "arraybuffer",
      "arraybuffer",
      1,
      7,
    ]);
    real.tell("open");
    real.tell("message", { data: "in" });
    socket.send("out");
    socket.close(3000, "done");
    real.tell("close", { code: 3000 });
    expect(real.sent).toEqual(["out"]);
    expect(real.closed).toEqual([3000, "done"]);
    expect(heard).toEqual([
      ["open", {}],
      ["message", { data: "in" }],
      ["close", { code: 3000 }],
    ]);
  });
});

describe("a network that is switched off", () => {
  test("breaks off what is open, at once and for good", () => {
    const network = made();
    const { socket, heard, real } = open(network);
    real.tell("open");
    heard.length = 0;
    network.on = false;
    expect(real.closed).toEqual([]); // without a code: a page can do no more
    expect(socket.readyState).toBe(3);
    expect(heard.map(([type]) => type)).toEqual(["error", "close"]);
    expect(heard[1]?.[1]).toMatchObject({ code: 1006 });
    real.tell("message", { data: "late" });
    real.tell("close", { code: 1005 });
    socket.send("late");
    network.on = true;
    expect(heard).toHaveLength(2);
    expect(real.sent).toEqual([]);
  });

  test("lets nothing be opened, and tells so later, as a platform does", () => {
    vi.useFakeTimers();
    const network = made();
    network.on = false;
    const before = FakeSocket.made.length;
    const { heard, socket } = open(network);
    expect(FakeSocket.made).toHaveLength(before);
    expect([heard, socket.readyState]).toEqual([[], 0]);
    vi.runAllTimers();
    expect(heard.map(([type]) => type)).toEqual(["error", "close"]);
    socket.close();
    vi.runAllTimers();
    expect(heard).toHaveLength(2);
    vi.useRealTimers();
  });

  test("opens again when it is on", () => {
    const network = made();
    network.on = false;
    network.on = true;
    const { real, heard } = open(network);
    real.tell("open");
    expect(heard).toEqual([["open", {}]]);
  });

  test("is another one's business", () => {
    const [mine, other] = [made(), made()];
    const { heard } = open(other);
    mine.on = false;
    expect(heard).toEqual([]);
    expect([mine.on, other.on]).toEqual([false, true]);
  });
});
