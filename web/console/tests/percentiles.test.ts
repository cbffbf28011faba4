import { expect, test } from "vitest";
import type { Bucket } from "../src/api/shapes.js";
import { between, percentile } from "../src/model/percentiles.js";

const EDGES = [0.001, 0.01, 0.1, null];
const buckets = (...totals: number[]) =>
  totals.map((total, index): Bucket => [EDGES[index] as number | null, total]);

test("a percentile lies in its bucket, as far in as its rank", () => {
  const even = buckets(0, 100, 100, 100);
  expect(percentile(even, 0.5)?.seconds).toBeCloseTo(0.0055);
  expect(percentile(even, 1)?.seconds).toBeCloseTo(0.01);
  expect(percentile(buckets(50, 50, 100, 100), 0.75)?.seconds).toBeCloseTo(0.055);
  expect(percentile(buckets(10, 10, 10, 10), 0.5)?.seconds).toBeCloseTo(0.0005);
});

test("a percentile on the edge of an empty bucket is that of the one before", () => {
  expect(percentile(buckets(50, 50, 100, 100), 0.5)).toEqual({ seconds: 0.001, beyond: false });
});

test("what took longer than the last edge is somewhere beyond it", () => {
  expect(percentile(buckets(1, 1, 1, 100), 0.99)).toEqual({ seconds: 0.1, beyond: true });
});

test("without deliveries there is no percentile", () => {
  expect(percentile(buckets(0, 0, 0, 0), 0.5)).toBeNull();
  expect(percentile([], 0.5)).toBeNull();
});

test("two samples are subtracted bucket by bucket", () => {
  expect(between(buckets(1, 2, 3, 4), buckets(1, 5, 7, 9))).toEqual(buckets(0, 3, 4, 5));
});

test("samples of different histograms have no difference", () => {
  expect(between(buckets(1, 2, 3, 4), buckets(0, 2, 3, 4))).toBeNull(); // it began again
  expect(between(buckets(1, 2, 3), buckets(1, 2, 3, 4))).toBeNull();
  expect(between([[0.5, 1]], [[0.6, 1]])).toBeNull();
});

test("percentiles rise with their share", () => {
  const some = buckets(13, 40, 77, 90);
  const values = Array.from(
    { length: 101 },
    (_, share) => percentile(some, share / 100)?.seconds ?? Number.NaN,
  );
  expect(values).toEqual(values.toSorted((left, right) => left - right));
});
