import { expect, test } from "vitest";
import { EventStreamParser, StreamTooLarge } from "../src/api/eventstream.js";

const STREAM = 'event: stats\nid: 7\ndata: {"a":1}\n\n: a comment\n\ndata: one\ndata: two\n\n';
const EVENTS = [
  { event: "stats", data: '{"a":1}', id: "7" },
  { event: "message", data: "one\ntwo", id: "7" },
];

test("the same events come out, wherever the stream is cut", () => {
  for (let cut = 0; cut <= STREAM.length; cut += 1) {
    const parser = new EventStreamParser();
    expect([...parser.push(STREAM.slice(0, cut)), ...parser.push(STREAM.slice(cut))]).toEqual(EVENTS);
  }
});

test.each(["\r", "\r\n"])("lines may end in %j, cut in two or not", (end) => {
  const text = STREAM.replaceAll("\n", end);
  for (let cut = 0; cut <= text.length; cut += 1) {
    const parser = new EventStreamParser();
    const events = [
      ...parser.push(text.slice(0, cut)),
      ...parser.push(text.slice(cut)),
      ...parser.push("x:y\n"),
    ];
    expect(events).toEqual(EVENTS);
  }
});

test("a byte order mark at the beginning is none of the first field", () => {
  expect(new EventStreamParser().push("\ufeffdata: x\n\n")).toEqual([
    { event: "message", data: "x", id: "" },
  ]);
});

test("an event without data is none, and its name does not stay", () => {
  const parser = new EventStreamParser();
  expect(parser.push("event: stats\n\ndata: x\n\n")).toEqual([{ event: "message", data: "x", id: "" }]);
});

test("one space after the colon is dropped, and only one; a field without a colon is empty", () => {
  expect(new EventStreamParser().push("data:  x\ndata\ndata:y\n\n")[0]?.data).toBe(" x\n\ny");
});

test("an event that is not complete is not given out", () => {
  const parser = new EventStreamParser();
  expect(parser.push("data: x\n")).toEqual([]);
  expect(parser.push("\n")).toHaveLength(1);
});

test("what grows without end is refused: a line, or an event", () => {
  const line = new EventStreamParser();
  expect(() => line.push("x".repeat(2 << 20))).toThrow(StreamTooLarge);
  const event = new EventStreamParser();
  const endless = () => {
    for (let round = 0; round < 2000; round += 1) event.push(`data: ${"x".repeat(1000)}\n`);
  };
  expect(endless).toThrow(StreamTooLarge);
});
