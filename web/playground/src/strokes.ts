/** What a drawing board is made of: strokes, bounded in length and number. Pure. */

/** The board's own coordinates; what is shown may be of any size. */
export const WIDTH = 1000;
export const HEIGHT = 500;

/** Points of one stroke; a longer one is cut in two. With 4 digits each, a stroke stays below 2 KiB. */
export const MOST_POINTS = 200;

/** Strokes of a board; the oldest go. Together they stay below half of what a channel's state may hold. */
export const MOST_STROKES = 200;

/** Strokes a pen may be ahead of the server: what is drawn without a connection. */
export const MOST_WAITING = 100;

/** Units between two points: closer ones are left out. */
const STEP = 4;

/** A line: the number of its colour, 1 … 8, and x, y, x, y … */
export interface Stroke {
  readonly colour: number;
  readonly points: readonly number[];
}

/** Return a stroke that came from outside, if it is one. */
export function readStroke(data: unknown): Stroke | null {
  const { colour, points } = (data ?? {}) as { colour?: unknown; points?: unknown };
  if (!isWithin(colour, 1, 8) || !Array.isArray(points)) return null;
  if (points.length < 2 || points.length % 2 || points.length > 2 * MOST_POINTS) return null;
  if (!points.every((each, index) => isWithin(each, 0, index % 2 ? HEIGHT : WIDTH))) return null;
  return { colour, points };
}

function isWithin(value: unknown, least: number, most: number): value is number {
  return Number.isInteger(value) && (value as number) >= least && (value as number) <= most;
}

/** Collects the points of the stroke that is being drawn. */
export class Pen {
  private _points: number[] = [];

  constructor(private readonly _colour: number) {}

  /** The stroke so far; null while the pen is up. */
  get stroke(): Stroke | null {
    return this._points.length ? { colour: this._colour, points: [...this._points] } : null;
  }

  /** Put the pen down. */
  begin(x: number, y: number): void {
    this._points = place(x, y);
  }

  /** Move the pen. Returns a stroke that has become as long as one may be; the pen goes on from its end. */
  move(x: number, y: number): Stroke | null {
    const [lastX = 0, lastY = 0] = this._points.slice(-2);
    if (!this._points.length) return null;
    const [newX, newY] = place(x, y);
    if (Math.abs(newX - lastX) + Math.abs(newY - lastY) < STEP) return null;
    this._points.push(newX, newY);
    if (this._points.length < 2 * MOST_POINTS) return null;
    const full = this.stroke;
    this._points = [newX, newY];
    return full;
  }

  /** Lift the pen. Returns what was drawn. */
  end(): Stroke | null {
    const { stroke } = this;
    this._points = [];
    return stroke;
  }
}

/** Return a point as it is sent: whole units, on the board. */
function place(x: number, y: number): [number, number] {
  return [clamp(x, WIDTH), clamp(y, HEIGHT)];
}

function clamp(value: number, most: number): number {
  return Math.min(Math.max(Math.round(value), 0), most);
}

/** Return the names of the oldest strokes beyond what a board may have. `strokes`: name and version. */
export function excess(strokes: Iterable<readonly [string, number]>, most: number = MOST_STROKES): string[] {
  const sorted = [...strokes].sort(([, a], [, b]) => a - b);
  return sorted.slice(0, Math.max(sorted.length - most, 0)).map(([name]) => name);
}
