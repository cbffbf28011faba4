import { expect, test } from "vitest";
import { Ring } from "../src/model/ring.js";

test("a ring keeps the newest, in the order they came", () => {
  const ring = new Ring<number>(3);
  for (let value = 1; value <= 8; value += 1) {
    ring.push(value);
    const newest = [value - 2, value - 1, value].filter((each) => each > 0);
    expect(ring.toArray()).toEqual(newest);
    expect(newest.map((_, index) => ring.at(index))).toEqual(newest);
    expect(ring.at(-1)).toBe(value);
    expect(ring.at(-newest.length)).toBe(newest[0]);
    expect([ring.at(newest.length), ring.at(-newest.length - 1)]).toEqual([undefined, undefined]);
  }
});

test("an emptied ring begins again", () => {
  const ring = new Ring<number>(2);
  for (const value of [1, 2, 3]) ring.push(value);
  ring.clear();
  expect([ring.length, ring.at(-1)]).toEqual([0, undefined]);
  ring.push(4);
  expect(ring.toArray()).toEqual([4]);
});

test("a ring that could hold nothing is refused", () => {
  expect(() => new Ring(0)).toThrow(RangeError);
  expect(() => new Ring(Number.NaN)).toThrow(RangeError);
});
