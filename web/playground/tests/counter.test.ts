import { CommandFailed, Conflict } from "duolink";
import { describe, expect, test } from "vitest";
import { Counter, isUncertain, MOST_TRIES, MOST_WAITING, numberIn } from "../src/counter.js";

/** A name on a server, as one client sees it: `seen` catches up with what others have written. */
class Shared {
  value = 0;
  version = 0;
  view = { value: 0, version: 0 };
  readonly writes: [number, number][] = [];
  /** Called before each write: another client may be faster, or the server may refuse. */
  before: () => void = () => {};
  private _online: Promise<void> = Promise.resolve();
  private _connect = () => {};

  offline(): void {
    this._online = new Promise((resolve) => {
      this._connect = resolve;
    });
  }

  online(): void {
    this._connect();
  }

  ready(): Promise<void> {
    return this._online;
  }

  read() {
    return this.view;
  }

  async write(value: number, expect: number): Promise<number> {
    this.before();
    this.writes.push([value, expect]);
    if (expect !== this.version) throw new Conflict(this.version);
    return this.other(value);
  }

  async seen(): Promise<void> {
    this.view = { value: this.value, version: this.version };
  }

  /** Write, as whoever. */
  other(value: number): number {
    this.value = value;
    this.version += 1;
    return this.version;
  }
}

function start(shared = new Shared()) {
  const failed: [number, unknown][] = [];
  let changes = 0;
  let settle: (() => void) | null = null;
  const counter: Counter = new Counter(shared, {
    changed: () => {
      changes += 1;
      if (!counter.waiting) settle?.();
    },
    failed: (delta, error) => failed.push([delta, error]),
  });
  const settled = () =>
    new Promise<void>((resolve) => {
      settle = resolve;
      if (!counter.waiting) resolve();
    });
  return { shared, counter, failed, settled, changes: () => changes };
}

describe("adding", () => {
  test("writes the sum, expecting the version that was read", async () => {
    const { shared, counter, settled } = start();
    counter.add(1);
    await settled();
    counter.add(2);
    await settled();
    expect(shared.writes).toEqual([
      [1, 0],
      [3, 1],
    ]);
    expect(counter.conflicts).toBe(0);
  });

  test("collects what is added without a connection into one write", async () => {
    const { shared, counter, settled } = start();
    shared.offline();
    for (const delta of [1, 1, -1, 1]) counter.add(delta);
    await Promise.resolve();
    expect([counter.waiting, shared.writes]).toEqual([2, []]);
    shared.online();
    await settled();
    expect(shared.writes).toEqual([[2, 0]]);
  });

  test("is bounded", () => {
    const { shared, counter } = start();
    shared.offline();
    for (let i = 0; i < MOST_WAITING + 5; i++) counter.add(1);
    expect(counter.waiting).toBe(MOST_WAITING);
  });
});

describe("a conflict", () => {
  test("is resolved by adding to what is there now: nothing is lost, nothing counts twice", async () => {
    const { shared, counter, settled, failed } = start();
    let others = 3;
    shared.before = () => {
      if (others-- > 0) shared.other(shared.value + 10);
    };
    counter.add(1);
    await settled();
    expect([shared.value, counter.conflicts, failed]).toEqual([31, 3, []]);
  });

  test("that does not end is given up, and said", async () => {
    const { shared, counter, settled, failed } = start();
    shared.before = () => void shared.other(shared.value + 1);
    counter.add(5);
    await settled();
    expect(shared.writes).toHaveLength(MOST_TRIES);
    await Promise.resolve();
    expect(failed).toEqual([[5, new Conflict(MOST_TRIES)]]);
    shared.before = () => {};
    counter.add(1);
    await settled();
    expect(shared.value).toBe(MOST_TRIES + 1); // it goes on
  });
});

test("what nobody knows is not done again", async () => {
  const { shared, counter, settled, failed } = start();
  shared.before = () => {
    shared.before = () => {};
    throw new CommandFailed("uncertain");
  };
  counter.add(1);
  await settled();
  await Promise.resolve();
  expect([shared.writes, failed.length, counter.waiting]).toEqual([[], 1, 0]);
  expect(isUncertain(failed[0]?.[1])).toBe(true);
  expect(isUncertain(new CommandFailed("forbidden"))).toBe(false);
});

test("what is no number counts as nothing", () => {
  expect([3, -2, 1.5, "3", null, Number.NaN, 2 ** 60].map(numberIn)).toEqual([3, -2, 0, 0, 0, 0, 0]);
});
