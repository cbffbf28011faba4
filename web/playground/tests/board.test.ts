import { type Channel, CommandFailed, CommandTimeout } from "duolink";
import { afterEach, beforeEach, describe, expect, test, vi } from "vitest";
import { Board, type Standing } from "../src/board.js";
import { MOST_STROKES, MOST_WAITING, type Stroke } from "../src/strokes.js";

const STROKE: Stroke = { colour: 1, points: [1, 2, 30, 40] };

class FakeChannel {
  readonly calls: unknown[][] = [];
  failures: Error[] = [];

  async set(name: string, value: unknown): Promise<number> {
    this.calls.push(["set", name, value]);
    const failure = this.failures.shift();
    if (failure) throw failure;
    return this.calls.length;
  }

  async delete(name: string): Promise<void> {
    this.calls.push(["delete", name]);
  }

  ephemeral(data: unknown): boolean {
    this.calls.push(["ephemeral", data]);
    return true;
  }
}

function start(ready: () => Promise<void> = async () => {}) {
  const channel = new FakeChannel();
  const shown = new Map<string, Standing>();
  const failed: unknown[] = [];
  const board = new Board(channel as unknown as Channel, ready, {
    stroke: (name, stroke, standing) => void (stroke ? shown.set(name, standing) : shown.delete(name)),
    failed: (what, error) => failed.push([what, error]),
  });
  return { board, channel, shown, failed };
}

beforeEach(() => void vi.useFakeTimers());
afterEach(() => void vi.useRealTimers());
const turns = () => vi.advanceTimersByTimeAsync(0);

describe("drawing", () => {
  test("shows a stroke at once, and as stored when the server has it", async () => {
    const { board, channel, shown } = start();
    const name = board.newName() as string;
    board.add(name, STROKE);
    expect([shown.get(name), board.waiting]).toEqual(["waiting", 1]);
    await turns();
    expect(channel.calls).toEqual([["set", name, STROKE]]);
    expect([shown.get(name), board.waiting]).toEqual(["stored", 0]);
  });

  test("waits for a connection, in order and within bounds", async () => {
    let connect = () => {};
    const ready = new Promise<void>((resolve) => {
      connect = resolve;
    });
    const { board, channel } = start(() => ready);
    const names: string[] = [];
    for (let name = board.newName(); name; name = board.newName()) {
      names.push(name);
      board.add(name, STROKE);
    }
    expect([names.length, new Set(names).size, channel.calls]).toEqual([MOST_WAITING, MOST_WAITING, []]);
    connect();
    await turns();
    expect(channel.calls.map(([, name]) => name)).toEqual(names);
  });

  test("is repeated when nobody knows whether it was done, and taken back when it was refused", async () => {
    const { board, channel, shown, failed } = start();
    channel.failures = [new CommandTimeout("late"), new CommandFailed("uncertain")];
    board.add("stroke/a", STROKE);
    await turns();
    expect([channel.calls.length, shown.get("stroke/a"), failed]).toEqual([3, "stored", []]);
    channel.failures = [new CommandFailed("state_full")];
    board.add("stroke/b", STROKE);
    await turns();
    expect([shown.has("stroke/b"), failed.length, board.waiting]).toEqual([false, 1, 0]);
  });

  test("takes the oldest away when there are too many", async () => {
    const { board, channel } = start();
    board.replace(Array.from({ length: MOST_STROKES }, (_, n) => [`stroke/${n}`, STROKE, n + 1] as const));
    board.add("stroke/new", STROKE);
    await turns();
    expect(channel.calls.at(-1)).toEqual(["delete", "stroke/0"]);
  });

  test("shows the others only the end of a long line", () => {
    const { board, channel } = start();
    board.preview("stroke/a", { colour: 1, points: new Array(400).fill(5) });
    const [, data] = channel.calls[0] as [string, Stroke];
    expect(data.points).toHaveLength(80);
  });
});

describe("what the channel says", () => {
  test("is shown if it is a stroke", () => {
    const { board, shown } = start();
    board.set("stroke/a", STROKE, 1);
    board.set("counter", 3, 2);
    board.set("stroke/bad", { points: "<img>" }, 3);
    expect([...shown.keys()]).toEqual(["stroke/a"]);
    board.deleted("stroke/a");
    board.deleted("counter");
    expect(shown.size).toBe(0);
  });

  test("replaces everything that is stored, and nothing that waits", async () => {
    const { board, shown } = start(() => new Promise(() => {}));
    board.set("stroke/a", STROKE, 1);
    board.add("stroke/mine", STROKE);
    board.replace([["stroke/b", STROKE, 7]]);
    expect([...shown]).toEqual([
      ["stroke/mine", "waiting"],
      ["stroke/b", "stored"],
    ]);
  });

  test("may be a line that is being drawn: it is seen for a while, and not beside the whole one", async () => {
    const { board, shown } = start();
    board.previewed({ stroke: "stroke/a", ...STROKE });
    board.previewed({ stroke: "counter", ...STROKE });
    board.previewed("nonsense");
    expect([...shown]).toEqual([["stroke/a", "preview"]]);
    board.set("stroke/a", STROKE, 1);
    board.previewed({ stroke: "stroke/a", ...STROKE });
    await vi.advanceTimersByTimeAsync(60_000);
    expect([...shown]).toEqual([["stroke/a", "stored"]]);
    board.previewed({ stroke: "stroke/b", ...STROKE });
    await vi.advanceTimersByTimeAsync(60_000);
    expect(shown.has("stroke/b")).toBe(false);
  });

  test("shows a bounded number of those", () => {
    const { board, shown } = start();
    for (let n = 0; n < 100; n++) board.previewed({ stroke: `stroke/${n}`, ...STROKE });
    expect(shown.size).toBe(16);
  });
});
