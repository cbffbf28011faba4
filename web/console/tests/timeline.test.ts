import { describe, expect, test } from "vitest";
import type { Stats } from "../src/api/shapes.js";
import { derive, rate, Timeline, WINDOW } from "../src/model/timeline.js";

/** A sample at a second since the start, of a server that receives `speed` messages a second. */
function sample(second: number, changes: Partial<Stats> = {}, speed = 100): Stats {
  const received = second * speed;
  return {
    time: 1_000_000 + second * 1000,
    uptime_s: second,
    connections: { websocket: 3, tcp: 2, http: 1 },
    sessions: { active: 5, detached: 1 },
    messages: { received, sent: received * 2 },
    bytes: { received: received * 10, sent: received * 20 },
    delivery: {
      count: second * 10,
      buckets: [
        [0.001, 0],
        [0.01, second * 10],
        [null, second * 10],
      ],
    },
    channels: 4,
    subscriptions: 8,
    mailboxes: { mailboxes: 1, messages: second, bytes: 100 },
    slow_consumers: { held: 0, closed: 0 },
    refusals: 0,
    errors: 0,
    loop_lag_ms: 0.5,
    cpu_s: second * 0.25,
    memory: 1e8,
    ...changes,
  };
}

describe("rates", () => {
  test("are per second, whatever lies between the samples", () => {
    expect(rate(100, 400, 2)).toBe(150);
    const row = derive(sample(4), sample(2), null);
    expect([row.messages_received, row.messages_sent, row.cpu]).toEqual([100, 200, 25]);
  });

  test("are not known for a total that began again, or without time", () => {
    expect(rate(400, 100, 2)).toBeNull();
    expect(rate(100, 400, 0)).toBeNull();
    expect(derive(sample(1), null, null).messages_received).toBeNull();
  });
});

describe("the timeline", () => {
  test("keeps as many samples as it may, in order", () => {
    const timeline = new Timeline(5);
    for (let second = 1; second <= 20; second += 1) timeline.add(sample(second));
    expect(timeline.times()).toEqual([1016, 1017, 1018, 1019, 1020]);
    expect(timeline.column("mailbox_messages")).toEqual([16, 17, 18, 19, 20]);
    expect(timeline.extremes("mailbox_messages")).toEqual({ now: 20, min: 16, max: 20 });
    expect([timeline.value("mailbox_messages", 1), timeline.value("mailbox_messages", null)]).toEqual([
      17,
      null,
    ]);
  });

  test("takes a sample once", () => {
    const timeline = new Timeline();
    timeline.add(sample(2));
    timeline.add(sample(2));
    timeline.add(sample(1));
    expect(timeline.length).toBe(1);
  });

  test("begins again when the server's clock was turned back", () => {
    const timeline = new Timeline();
    for (const second of [100, 101]) timeline.add(sample(second));
    timeline.add(sample(1, { uptime_s: 102 }));
    expect(timeline.times()).toEqual([1001]);
  });

  test("breaks its lines off where samples are missing", () => {
    const timeline = new Timeline();
    for (const second of [1, 2, 8, 9]) timeline.add(sample(second));
    expect(timeline.column("connections")).toEqual([5, 5, null, 5, 5]);
    const times = timeline.times();
    expect(times).toEqual(times.toSorted((left, right) => left - right));
    expect(timeline.column("messages_received")).toEqual([null, 100, null, 100, 100]); // the total tells the mean
  });

  test("begins again with another process: no negative rate, no old percentile", () => {
    const timeline = new Timeline();
    for (const second of [100, 101, 102]) timeline.add(sample(second));
    timeline.add(sample(103, { uptime_s: 0.5, messages: { received: 5, sent: 5 } }));
    expect(timeline.row.messages_received).toBeNull();
    expect(timeline.row.p50).toBeNull();
    timeline.add(sample(104, { uptime_s: 1.5, messages: { received: 25, sent: 5 } }));
    expect(timeline.row.messages_received).toBe(20);
  });

  test("takes percentiles over the last seconds, not since the start", () => {
    const timeline = new Timeline();
    const slow = (second: number, after: number): Stats["delivery"] => {
      const late = Math.max(0, second - after) * 10;
      const quick = Math.min(second, after) * 10;
      return {
        count: quick + late,
        buckets: [
          [0.001, quick],
          [1, quick + late],
          [null, quick + late],
        ],
      };
    };
    for (let second = 1; second <= 30; second += 1)
      timeline.add(sample(second, { delivery: slow(second, 30) }));
    expect(timeline.row.p50).toBeCloseTo(0.5);
    for (let second = 31; second <= 31 + WINDOW; second += 1)
      timeline.add(sample(second, { delivery: slow(second, 30) }));
    expect(timeline.row.p50).toBeGreaterThan(400);
    expect(timeline.latency.p50?.seconds).toBeGreaterThan(0.4);
  });

  test("has no values before its first sample", () => {
    const timeline = new Timeline();
    expect([timeline.row.connections, timeline.sample, timeline.latency.p99]).toEqual([null, null, null]);
    expect(timeline.extremes("cpu")).toEqual({ now: null, min: null, max: null });
  });
});
