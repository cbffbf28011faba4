import { describe, expect, test } from "vitest";
import {
  channelOf,
  clientIdOf,
  colourOf,
  displayName,
  freeName,
  NAMES,
  queryOf,
  readAddress,
} from "../src/address.js";

describe("an address", () => {
  test("without anything is a new room with two clients", () => {
    const { room, names, fresh } = readAddress("");
    expect(room).toMatch(/^[a-z2-9]{5}$/);
    expect([names, fresh]).toEqual([["alice", "bob"], true]);
    expect(readAddress("").room).not.toBe(room);
  });

  test("names a room, and who lives in the page", () => {
    expect(readAddress(queryOf("x7k2m"))).toEqual({ room: "x7k2m", names: ["alice", "bob"], fresh: false });
    expect(readAddress(queryOf("x7k2m", "carol")).names).toEqual(["carol"]);
    expect(readAddress(queryOf("x7k2m", "carol", "dave")).names).toEqual(["carol", "dave"]);
    expect(readAddress("?room=r&as=alice,bob,carol").names).toEqual(["alice", "bob"]);
  });

  test.each(["?room=<b>", "?room=UPPER", "?room=", `?room=${"x".repeat(17)}`])(
    "with an impossible room is a new one: %s",
    (query) => {
      expect(readAddress(query, () => "new")).toMatchObject({ room: "new", fresh: true });
    },
  );

  test("with an unknown name has the usual two", () => {
    expect(readAddress("?room=r&as=mallory").names).toEqual(["alice", "bob"]);
  });
});

test("client ids belong to one user, so that one token is good for all of them", () => {
  expect(clientIdOf("r", "bob")).toBe("playground:r:bob");
  expect(channelOf("r")).toBe("playground:r");
});

test("a stranger is called by its id", () => {
  expect(displayName("playground:r:bob")).toBe("Bob");
  expect(displayName("mallory")).toBe("mallory");
  expect([colourOf("playground:r:bob"), colourOf("mallory")]).toEqual([2, 8]);
});

test("the next name is one that nobody has", () => {
  expect(freeName([])).toBe("alice");
  expect(freeName(["playground:r:alice", "bob"])).toBe("carol");
  expect(freeName(NAMES)).toBe("heidi");
});
