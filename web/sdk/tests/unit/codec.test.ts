/** What the vectors do not say of the codec: sizes, ids, an application's values. */

import fc from "fast-check";
import { expect, test } from "vitest";
import {
  CLIENT,
  compareIds,
  DataError,
  depth,
  encode,
  encodeJson,
  isClientId,
  isId,
  isUser,
  Malformed,
  Raw,
  SERVER,
  sizeOf,
  utf8Length,
} from "../../src/protocol/codec.js";
import { make } from "../../src/protocol/messages.js";
import { payloads } from "../../src/protocol/payload.js";

test("sizes are those of UTF-8, and ids compare as its bytes", () => {
  fc.assert(
    fc.property(fc.string({ unit: "binary" }), fc.string({ unit: "binary" }), (one, other) => {
      const [a, b] = [Buffer.from(one), Buffer.from(other)];
      expect(utf8Length(one)).toBe(a.length);
      expect(Math.sign(compareIds(one, other))).toBe(Buffer.compare(a, b));
    }),
    { seed: 1 },
  );
  expect(["\u{1f600}", "\uffee", "b", "a", "ab"].sort(compareIds)).toEqual([
    "a",
    "ab",
    "b",
    "\uffee",
    "\u{1f600}",
  ]);
});

test("any JSON travels and comes back as it was", () => {
  fc.assert(
    fc.property(fc.jsonValue({ noUnicodeString: false, maxDepth: 8 }), (value) => {
      const data = encodeJson(value);
      const line = encode(make("message", { run: 1, seq: 1, base: 1, to: "b", data }));
      expect(line).not.toContain("\n");
      const [message] = CLIENT.text(line);
      expect(message).toMatchObject({ type: "message", seq: 1, lane: "messages" });
      expect(JSON.stringify((message as { data: unknown }).data)).toBe(data.text);
      expect(data.size).toBe(Buffer.byteLength(data.text));
    }),
    { seed: 1 },
  );
});

test("no bytes make the decoder throw", () => {
  const seeds = [
    '{"type":"ping","id":',
    '{"type":"message","to":"b","run":1,"seq":1,"base":1,"data":',
    "[{",
    '"\\ud',
  ];
  fc.assert(
    fc.property(
      fc.constantFrom("", ...seeds),
      fc.uint8Array({ maxLength: 64 }),
      fc.string(),
      (head, bytes, tail) => {
        const payload = Buffer.concat([Buffer.from(head), bytes, Buffer.from(tail)]);
        for (const items of [
          CLIENT.text(payload),
          CLIENT.binary(payload),
          SERVER.text(payload.toString("latin1")),
        ]) {
          expect(items.length).toBeGreaterThan(0);
        }
      },
    ),
    { seed: 1, numRuns: 2000 },
  );
});

test("depth is that of brackets outside of texts", () => {
  expect(depth('{"a":["[[[[\\"[[",{}]}')).toBe(3);
  const deep = (levels: number) => "[".repeat(levels) + "]".repeat(levels);
  expect(encodeJson(JSON.parse(deep(64)))).toBeInstanceOf(Raw);
  expect(() => encodeJson(JSON.parse(deep(65)))).toThrow(DataError);
  expect(() => encodeJson(JSON.parse(deep(5000)))).toThrow(DataError);
});

test("half a character does not travel, and what looks like one does", () => {
  for (const value of ["\ud800", { "\udfff": 1 }, ["x\ud83dx"]])
    expect(() => encodeJson(value)).toThrow(DataError);
  for (const value of ["\\ud800", "\ud83d\ude00", "\\\\udfff"]) expect(encodeJson(value)).toBeInstanceOf(Raw);
  const line = (text: string) => `{"type":"signal","to":"b","data":"${text}"}`;
  expect(CLIENT.text(line("\\ud83d\\ude00"))[0]).toMatchObject({ data: "\u{1f600}" });
  expect(CLIENT.text(line("\\\\ud800"))[0]).toMatchObject({ data: "\\ud800" });
  expect(CLIENT.text(line("\\\\\\ud800"))[0]).toBeInstanceOf(Malformed);
});

test("a field of the wire has no influence on what objects are", () => {
  const [message] = CLIENT.text('{"type":"signal","to":"b","data":1,"__proto__":{"polluted":true}}');
  expect((message as unknown as { polluted?: boolean }).polluted).toBe(undefined);
  expect(CLIENT.text('{"type":"constructor"}')[0]).toMatchObject({ code: "unknown_type" });
  expect(CLIENT.text('{"type":"__proto__"}')[0]).toMatchObject({ code: "unknown_type" });
});

test("names", () => {
  expect([isId("ä".repeat(64), 128), isId("ä".repeat(65), 128), isId("", 9), isId("a\x7f", 9)]).toEqual([
    true,
    false,
    false,
    false,
  ]);
  expect(["bob", "@bob", "$server"].map(isClientId)).toEqual([true, false, false]);
  expect(["bob", "@", "@b"].map(isUser)).toEqual([false, false, true]);
  expect(sizeOf({ ä: 1 })).toBe(8);
});

test("payloads are as few as the limits allow, in order", () => {
  const text = encodeJson("x".repeat(60_000));
  const ephemeral = (data: unknown, binary = false) => make("ephemeral", { to: "b", data, binary });
  const bytes = new Uint8Array([1, 2]);
  const messages = [
    ...Array.from({ length: 20 }, () => ephemeral(text)),
    ephemeral(bytes, true),
    ...Array.from({ length: 1025 }, (_, id) => make("ping", { id })),
  ];
  const sends = payloads(messages).map(({ payload }) => payload);
  expect(
    sends.map((payload) => (typeof payload === "string" ? payload.split("\n").length : "bytes")),
  ).toEqual([17, 3, "bytes", 1024, 1]);
  expect(sends.every((payload) => payload.length <= 1_048_576)).toBe(true);
  const decoded = sends.flatMap((payload) =>
    typeof payload === "string" ? CLIENT.text(payload) : CLIENT.binary(payload),
  );
  expect(decoded.map((message) => (message as { type: string }).type)).toEqual(
    messages.map(({ type }) => type),
  );
});
