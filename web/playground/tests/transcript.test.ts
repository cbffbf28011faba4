import { Lost, type Message, type Sent } from "duolink";
import { describe, expect, test } from "vitest";
import { type Line, MOST_LINES, MOST_TEXT, Transcript, textOf } from "../src/transcript.js";

/** A promise, from outside. */
class Ending {
  resolve!: () => void;
  reject!: (error: Error) => void;
  readonly promise = new Promise<void>((resolve, reject) => {
    this.resolve = resolve;
    this.reject = reject;
  });
}

/** A message on its way, whose end the test decides. */
class FakeSent {
  readonly peer = "bob";
  fate = "pending";
  private readonly _stored = new Ending();
  private readonly _delivered = new Ending();

  constructor(readonly seq: number) {}

  stored(): Promise<void> {
    return this._stored.promise;
  }

  delivered(): Promise<void> {
    return this._delivered.promise;
  }

  become(fate: string): void {
    this.fate = fate;
    this._stored.resolve();
    if (fate === "delivered") this._delivered.resolve();
  }

  lose(error: Error): void {
    this.fate = "lost";
    this._stored.reject(error);
    this._delivered.reject(error);
    this._delivered.promise.catch(() => {});
  }
}

function start() {
  const marks: string[] = [];
  let now = 1000;
  const transcript = new Transcript(
    (line) => marks.push(line.mark),
    () => now,
  );
  const send = (seq = 1, online = true) => {
    const sent = new FakeSent(seq);
    return { sent, line: transcript.sent(sent as unknown as Sent, "hi", online) };
  };
  const pass = (ms: number) => {
    now += ms;
  };
  return { transcript, marks, send, pass };
}

const settle = () => new Promise<void>((resolve) => setTimeout(resolve));
const message = (seq: number, data: unknown = { text: `${seq}` }, run = 1) =>
  ({ sender: "bob", run, seq, data }) as unknown as Message;

describe("what is sent", () => {
  test("is sent, stored, delivered, in this order, and says how long that took", async () => {
    const { marks, send, pass } = start();
    const { sent, line } = send();
    pass(5);
    sent.become("stored");
    await settle();
    pass(20);
    sent.become("delivered");
    await settle();
    expect(marks).toEqual(["sent", "stored", "delivered"]);
    expect(line.took).toBe(25);
  });

  test("is not called stored when it is delivered at once", async () => {
    const { marks, send } = start();
    send().sent.become("delivered");
    await settle();
    expect(marks).toEqual(["sent", "delivered"]);
  });

  test("waits without a connection, and is sent when there is one", async () => {
    const { transcript, marks, send } = start();
    send(1, false);
    const { sent } = send(2, true);
    sent.become("delivered");
    await settle();
    transcript.online();
    transcript.online();
    expect(marks).toEqual(["queued", "sent", "delivered", "sent"]);
    expect(transcript.lines.map((line) => line.mark)).toEqual(["sent", "delivered"]);
  });

  test("may be lost: for certain, or perhaps", async () => {
    const { send } = start();
    const [a, b, c] = [send(1), send(2), send(3)];
    a.sent.lose(new Lost("mailbox_full"));
    b.sent.lose(new Lost("superseded", false));
    c.sent.lose(new Error("closed"));
    await settle();
    expect([a.line.mark, a.line.reason]).toEqual(["lost", "mailbox_full"]);
    expect([b.line.mark, c.line.mark]).toEqual(["unknown", "unknown"]);
  });
});

describe("what is received", () => {
  test("is added once, whatever comes again", () => {
    const { transcript } = start();
    expect(transcript.received(message(1))?.text).toBe("1");
    expect(transcript.received(message(1))).toBeNull();
    expect(transcript.received(message(1, { text: "another run" }, 2))?.run).toBe(2);
    expect(transcript.lines).toHaveLength(2);
  });

  test("may be anything", () => {
    expect([{ text: "a" }, "b", { text: 1 }, null, 3, new Uint8Array(4)].map((data) => textOf(data))).toEqual(
      ["a", "b", '{"text":1}', "null", "3", "4 bytes"],
    );
  });

  test("is bounded in length and number", () => {
    const { transcript } = start();
    for (let seq = 1; seq <= MOST_LINES + 10; seq++) transcript.received(message(seq));
    expect([transcript.lines.length, transcript.lines[0]?.seq]).toEqual([MOST_LINES, 11]);
    expect(transcript.received(message(999, "x".repeat(MOST_TEXT + 1)))?.text).toHaveLength(MOST_TEXT);
  });
});

describe("over a reload", () => {
  test("lines stay, and what had no end is not known", () => {
    const { transcript, send } = start();
    send(1);
    transcript.received(message(1));
    const next = start().transcript;
    next.restore(transcript.toText());
    expect(next.lines.map(({ mine, mark }) => [mine, mark])).toEqual([
      [true, "unknown"],
      [false, "delivered"],
    ]);
    expect(next.received(message(1))).toBeNull(); // it came again: the server had not heard of its end
    expect(next.with("bob")).toHaveLength(2);
    expect(next.with("carol")).toHaveLength(0);
  });

  test.each(["", "{", "null", "3", '[1, null, {"peer": 1}]'])("what is no transcript is left: %s", (text) => {
    const { transcript } = start();
    transcript.restore(text);
    expect(transcript.lines).toEqual([]);
  });

  test("a mark that cannot be is no line", () => {
    const { transcript, send } = start();
    send(1);
    const [line] = JSON.parse(transcript.toText()) as Line[];
    const next = start().transcript;
    next.restore(JSON.stringify([{ ...line, mark: "<b>" }, line]));
    expect(next.lines).toHaveLength(1);
  });
});
