/** What the vectors do not say of links: bounds, and what a database has forgotten. */

import { expect, test } from "vitest";
import { Inbound } from "../../src/protocol/inbound.js";
import { Link as Machine } from "../../src/protocol/link.js";
import { make } from "../../src/protocol/messages.js";
import { Outbound } from "../../src/protocol/outbound.js";

test("what is remembered of ended runs is bounded", () => {
  const link = new Machine("bob", 1);
  link.pathUp("server", "server", 0);
  const message = (run: number) => make("message", { run, seq: 1, base: 1, from: "bob", data: 1 });
  for (let run = 1; run <= 9; run++) link.receive(message(run), "server", 0);
  link.finish(message(1), 0);
  expect(link.owesAcks).toBe(false);
  link.finish(message(5), 0);
  expect(link.owesAcks).toBe(true);
});

test("a run of lost numbers that no window holds is passed at once", () => {
  const inbound = new Inbound("messages", 7, 1, 4, 1000);
  const far = 2 ** 52;
  expect(inbound.begin(far, 0)).toMatchObject([{ first: 1, last: far - 1, reason: "gone" }]);
  expect(inbound.ack("bob", 1)).toMatchObject({ seq: far - 1, lost: [[1, far - 1, "gone"]], by: 1 });
});

test("what is stored nowhere any more ends as lost, once its receiver says so", () => {
  const outbound = new Outbound("bob", "messages", 1, 256, 1000);
  for (let count = 0; count < 3; count++) outbound.submit("x");
  outbound.transmit(1, 3, 0, true, true);
  outbound.store(3);
  expect(outbound.forgotten(1)).toEqual([]);
  const skips = outbound.transmit(1, 3, 0, true);
  expect(skips).toMatchObject([{ type: "skip", seq: 2, last: 3, reason: "storage_lost" }]);
  const lost = [[2, 3, "storage_lost"]] as const;
  const settled = outbound.acknowledge(make("ack", { run: 1, seq: 3, to: "a", lost, by: 5 }));
  expect(settled.map(({ reason, certain }) => [reason, certain])).toEqual([
    ["", true],
    ["storage_lost", false],
    ["storage_lost", false],
  ]);
});
