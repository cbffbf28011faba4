import { expect, test } from "vitest";
import { nextOrder, orderText, parseOrder, sorted, Trail } from "../src/model/paging.js";

test("a trail leads back through the pages one came by", () => {
  const trail = new Trail();
  trail.forward("", "c");
  trail.forward("c", "f");
  expect(trail.back("f")).toBe("c");
  expect(trail.back("c")).toBe("");
  expect(trail.back("")).toBeNull();
});

test("a page that was opened by its address has the first one before it", () => {
  expect(new Trail().back("m")).toBe("");
});

test("a trail does not grow without end", () => {
  const trail = new Trail();
  for (let page = 0; page < 5000; page += 1) trail.forward(`${page}`, `${page + 1}`);
  expect(trail.back("5000")).toBe("4999");
  expect(trail.back("2")).toBe("");
});

test("a column's head goes through its orders, and back to the list's own", () => {
  const first = nextOrder(null, "sent", true);
  const second = nextOrder(first, "sent", true);
  expect([first, second, nextOrder(second, "sent", true)]).toEqual([
    { key: "sent", descending: true },
    { key: "sent", descending: false },
    null,
  ]);
  expect(nextOrder(first, "client", false)).toEqual({ key: "client", descending: false });
});

test.each(["", "sent", "-sent"])("the order %j is written as it is read", (text) => {
  expect(orderText(parseOrder(text))).toBe(text);
});

test("rows are sorted by value; without one they come last; equal ones stay in order", () => {
  const rows = [
    { name: "a", value: 2 },
    { name: "b", value: null },
    { name: "c", value: 10 },
    { name: "d", value: 2 },
  ];
  const names = (descending: boolean) =>
    sorted(rows, (row) => row.value, descending)
      .map(({ name }) => name)
      .join("");
  expect([names(false), names(true)]).toEqual(["adcb", "cadb"]);
  expect(rows.map(({ name }) => name).join("")).toBe("abcd");
  expect(sorted(["b", "B", "a"], (text) => text, false)).toEqual(["B", "a", "b"]);
});
