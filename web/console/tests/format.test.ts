import { expect, test } from "vitest";
import * as format from "../src/format.js";

test.each([
  [0, "0"],
  [7, "7"],
  [999, "999"],
  [1234, "1.23k"],
  [12_345, "12.3k"],
  [123_456, "123k"],
  [1e6, "1M"],
  [0.5, "0.5"],
  [2.499, "2.5"],
  [1e20, "100,000,000T"],
])("short(%d) is %s", (value, text) => {
  expect(format.short(value)).toBe(text);
});

test.each([
  [0, "0 B"],
  [1023, "1,023 B"],
  [1024, "1 KiB"],
  [1536, "1.5 KiB"],
  [130e6, "124 MiB"],
])("bytes(%d) is %s", (value, text) => {
  expect(format.bytes(value)).toBe(text);
});

test.each([
  [0, "0 ms"],
  [0.04, "0.04 ms"],
  [0.456, "0.46 ms"],
  [12.34, "12.3 ms"],
  [999.6, "1,000 ms"],
  [1500, "1.5 s"],
  [125_000, "2 min 5 s"],
])("milliseconds(%d) is %s", (value, text) => {
  expect(format.milliseconds(value)).toBe(text);
});

test.each([
  [0, "0 s"],
  [59.9, "59 s"],
  [60, "1 min"],
  [3661, "1 h 1 min"],
  [90_000, "1 d 1 h"],
  [-5, "0 s"],
])("duration(%d) is %s", (value, text) => {
  expect(format.duration(value)).toBe(text);
});

test("what is not known is a dash", () => {
  const { count, short, bytes, perSecond, bytesPerSecond, percent, milliseconds, duration } = format;
  for (const each of [count, short, bytes, perSecond, bytesPerSecond, percent, milliseconds, duration]) {
    for (const nothing of [null, undefined, Number.NaN, Number.POSITIVE_INFINITY])
      expect(each(nothing)).toBe("–");
  }
  expect([format.ago(null, 0), format.clock(null, 0)]).toEqual(["–", "–"]);
});

test("times are said as long ago as they are, and of the clock with the day if it is another one", () => {
  const now = new Date(2026, 10, 27, 12, 0, 0).getTime();
  expect(format.ago(now - 500, now)).toBe("just now");
  expect(format.ago(now + 5000, now)).toBe("just now");
  expect(format.ago(now - 65_000, now)).toBe("1 min 5 s ago");
  expect(format.clock(now - 61_000, now)).toBe("11:58:59");
  expect(format.clock(now - 86_400_000, now)).toBe("2026-11-26 12:00:00");
});

test("data is one line that ends somewhere", () => {
  expect(format.line({ a: [1, "x"] }, 50)).toBe('{"a":[1,"x"]}');
  expect(format.line("text as it is", 50)).toBe("text as it is");
  expect(format.line("x".repeat(50), 10)).toBe("xxxxxxxxx…");
  expect(format.line(undefined, 10)).toBe("–");
});
