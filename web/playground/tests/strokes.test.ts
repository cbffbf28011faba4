import { describe, expect, test } from "vitest";
import { excess, HEIGHT, MOST_POINTS, Pen, readStroke, type Stroke, WIDTH } from "../src/strokes.js";

describe("a pen", () => {
  test("collects whole points on the board, and leaves out those that are too close", () => {
    const pen = new Pen(2);
    pen.begin(-5, 10.4);
    pen.move(1, 11);
    pen.move(WIDTH + 50, HEIGHT + 50);
    expect(pen.end()).toEqual({ colour: 2, points: [0, 10, WIDTH, HEIGHT] });
    expect([pen.end(), pen.stroke, pen.move(1, 1)]).toEqual([null, null, null]);
  });

  test("cuts a line that is too long, and goes on from where it was", () => {
    const pen = new Pen(1);
    const full: Stroke[] = [];
    pen.begin(0, 0);
    for (let i = 1; i <= 2 * MOST_POINTS; i++) {
      const stroke = pen.move((i * 10) % WIDTH, 10 + (i % 2) * 100);
      if (stroke) full.push(stroke);
    }
    const rest = pen.end();
    expect(full).toHaveLength(2);
    for (const stroke of full) expect(stroke.points).toHaveLength(2 * MOST_POINTS);
    expect(full[1]?.points.slice(0, 2)).toEqual(full[0]?.points.slice(-2));
    expect(rest?.points.slice(0, 2)).toEqual(full[1]?.points.slice(-2));
    for (const stroke of full) expect(readStroke(stroke)).toEqual(stroke);
  });
});

describe("what came from outside", () => {
  const good = { colour: 8, points: [0, 0, WIDTH, HEIGHT] };

  test("is a stroke", () => {
    expect(readStroke({ ...good, more: 1 })).toEqual(good);
  });

  test.each([
    null,
    "stroke",
    {},
    { ...good, colour: 9 },
    { ...good, colour: "1); }" },
    { ...good, points: [] },
    { ...good, points: [1] },
    { ...good, points: [1, 2, 3] },
    { ...good, points: [1, HEIGHT + 1] },
    { ...good, points: [-1, 2] },
    { ...good, points: [1.5, 2] },
    { ...good, points: ["1", 2] },
    { ...good, points: new Array(2 * MOST_POINTS + 2).fill(1) },
  ])("is none: %j", (data) => {
    expect(readStroke(data)).toBeNull();
  });
});

test("the oldest strokes are in excess", () => {
  const strokes = [
    ["c", 3],
    ["a", 1],
    ["d", Infinity],
    ["b", 2],
  ] as const;
  expect(excess(strokes, 2)).toEqual(["a", "b"]);
  expect(excess(strokes, 4)).toEqual([]);
});
