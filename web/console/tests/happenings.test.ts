import { expect, test } from "vitest";
import type { Happening } from "../src/api/shapes.js";
import { Happenings } from "../src/model/happenings.js";

const happening = (id: number, kind = "connected", client: string | null = "alice"): Happening => ({
  id,
  time: id,
  kind,
  client,
  user: null,
  address: null,
  detail: "",
});

const ids = (found: Happening[]) => found.map(({ id }) => id);

test("happenings are kept once, the newest of them, and found newest first", () => {
  const happenings = new Happenings(3);
  expect([1, 2, 2, 1, 3, 4].map((id) => happenings.add(happening(id)))).toEqual([
    true,
    true,
    false,
    false,
    true,
    true,
  ]);
  expect(ids(happenings.matching({}, 10))).toEqual([4, 3, 2]);
  expect(ids(happenings.matching({}, 2))).toEqual([4, 3]);
});

test("they are filtered by kind, by part of a client's name in any case, or by the whole of it", () => {
  const happenings = new Happenings();
  for (const [id, kind, client] of [
    [1, "connected", "Alice"],
    [2, "ended", "alice-2"],
    [3, "draining", null],
    [4, "connected", "bob"],
  ] as const)
    happenings.add(happening(id, kind, client));
  expect(ids(happenings.matching({ kind: "connected" }, 10))).toEqual([4, 1]);
  expect(ids(happenings.matching({ client: "ALICE" }, 10))).toEqual([2, 1]);
  expect(ids(happenings.matching({ client: "alice-2", exactly: true }, 10))).toEqual([2]);
  expect(ids(happenings.matching({ client: "alice", exactly: true }, 10))).toEqual([]);
  expect(ids(happenings.matching({ kind: "ended", client: "bob" }, 10))).toEqual([]);
  expect(happenings.kinds()).toEqual(["connected", "draining", "ended"]);
});
