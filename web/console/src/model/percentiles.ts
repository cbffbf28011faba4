/** Percentiles from the totals of a histogram. */

import type { Bucket } from "../api/shapes.js";

/** A percentile in seconds. `beyond`: it is somewhere above that, where the histogram has no edge any more. */
export interface Percentile {
  seconds: number;
  beyond: boolean;
}

/** What fell into each bucket between two samples, cumulative. Null: the histogram is another one (its edges
 * changed, or it began again). */
export function between(earlier: Bucket[], later: Bucket[]): Bucket[] | null {
  if (earlier.length !== later.length) return null;
  const result: Bucket[] = [];
  for (const [index, [upper, total]] of later.entries()) {
    const before = earlier[index];
    if (!before || before[0] !== upper || before[1] > total) return null;
    result.push([upper, total - before[1]]);
  }
  return result;
}

/** The value below which `share` (0…1) of a cumulative histogram lies, linear within its bucket. Null: nothing is
 * in it. */
export function percentile(buckets: Bucket[], share: number): Percentile | null {
  const total = buckets.at(-1)?.[1] ?? 0;
  if (total <= 0) return null;
  const rank = share * total;
  let lower = 0;
  let below = 0;
  for (const [upper, count] of buckets) {
    if (count >= rank && count > below) {
      if (upper === null) return { seconds: lower, beyond: true };
      return {
        seconds: lower + (upper - lower) * Math.max(0, (rank - below) / (count - below)),
        beyond: false,
      };
    }
    if (upper !== null) lower = upper;
    below = count;
  }
  return { seconds: lower, beyond: true };
}
