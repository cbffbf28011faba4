/** The drawing board on the page: draws with mouse, pen, finger or keys, and shows everybody's strokes. */

import type { Board, Standing } from "./board.js";
import { draw, make } from "./elements.js";
import { HEIGHT, Pen, type Stroke, WIDTH } from "./strokes.js";

/** Units that an arrow key moves the pen; with Shift, a fifth of it. */
const KEY_STEP = 25;

/** Milliseconds between two looks of the others at a stroke that grows. */
const PREVIEW_EVERY = 60;

const ARROWS: { readonly [key: string]: readonly [number, number] } = {
  ArrowLeft: [-1, 0],
  ArrowRight: [1, 0],
  ArrowUp: [0, -1],
  ArrowDown: [0, 1],
};

export class Drawing {
  readonly element: HTMLElement;
  private readonly _surface: SVGSVGElement;
  private readonly _cursor = draw("circle", { r: "9", class: "cursor" });
  private readonly _lines = new Map<string, SVGPolylineElement>();
  private readonly _pen: Pen;
  private _name: string | null = null; // of the stroke that is being drawn
  private _previewed = -Infinity;
  private _at: [number, number] = [WIDTH / 2, HEIGHT / 2]; // of the keys' pen

  /** `say`: announce something to who does not see the board. */
  constructor(
    private readonly _board: () => Board,
    private readonly _colour: number,
    label: string,
    private readonly _say: (text: string) => void,
  ) {
    this._pen = new Pen(_colour);
    this._surface = draw("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, "aria-hidden": "true" });
    this._surface.append(this._cursor);
    this.element = make("div", {
      class: "board",
      tabindex: "0",
      role: "application",
      "aria-label": label,
      "aria-description":
        "Arrow keys move the pen, Shift makes small steps, Space puts it down and lifts it.",
    });
    this.element.append(this._surface);
    this._listen();
  }

  /** Show a stroke, or (null) show it no more. */
  show(name: string, stroke: Stroke | null, standing: Standing): void {
    let line = this._lines.get(name);
    if (!stroke) {
      line?.remove();
      this._lines.delete(name);
      return;
    }
    if (!line) {
      line = draw("polyline", { fill: "none" });
      this._lines.set(name, line);
      this._surface.insertBefore(line, this._cursor);
    }
    const [x = 0, y = 0] = stroke.points;
    // A point alone would not be seen: it becomes a dot.
    const points = stroke.points.length > 2 ? stroke.points : [x, y, x + 1, y];
    line.setAttribute("points", points.join(" "));
    line.setAttribute("class", `stroke ink-${stroke.colour} ${standing}`);
  }

  private _listen(): void {
    const surface = this._surface;
    surface.addEventListener("pointerdown", (event) => {
      if (event.button !== 0 || !event.isPrimary) return;
      surface.setPointerCapture(event.pointerId);
      this._begin(...this._place(event));
    });
    surface.addEventListener("pointermove", (event) => {
      if (!this._name || !event.isPrimary) return;
      const events = event.getCoalescedEvents?.() ?? [];
      for (const each of events.length ? events : [event]) this._move(...this._place(each));
    });
    for (const type of ["pointerup", "pointercancel"] as const) {
      surface.addEventListener(type, () => this._end());
    }
    this.element.addEventListener("keydown", (event) => this._key(event));
    this.element.addEventListener("blur", () => this._end());
  }

  private _place(event: PointerEvent): [number, number] {
    const box = this._surface.getBoundingClientRect();
    return [
      ((event.clientX - box.left) / box.width) * WIDTH,
      ((event.clientY - box.top) / box.height) * HEIGHT,
    ];
  }

  private _key(event: KeyboardEvent): void {
    const arrow = ARROWS[event.key];
    if (arrow) {
      const step = event.shiftKey ? KEY_STEP / 5 : KEY_STEP;
      const [x, y] = this._at;
      this._at = [
        Math.min(Math.max(x + arrow[0] * step, 0), WIDTH),
        Math.min(Math.max(y + arrow[1] * step, 0), HEIGHT),
      ];
      this._move(...this._at);
    } else if (event.key === " ") {
      if (this._name) this._end();
      else this._begin(...this._at);
      this._say(this._name ? "pen down" : "pen up");
    } else return;
    event.preventDefault();
    this._cursor.setAttribute("cx", String(this._at[0]));
    this._cursor.setAttribute("cy", String(this._at[1]));
    this._cursor.classList.toggle("down", this._name !== null);
  }

  private _begin(x: number, y: number): void {
    this._end();
    this._name = this._board().newName();
    if (!this._name) return this._say("Too many strokes wait for a connection.");
    this._pen.begin(x, y);
    this._grown();
  }

  private _move(x: number, y: number): void {
    if (!this._name) return;
    const full = this._pen.move(x, y);
    if (full) {
      this._board().add(this._name, full);
      this._name = this._board().newName();
      if (!this._name) this._pen.end();
    }
    this._grown();
  }

  private _grown(): void {
    const { stroke } = this._pen;
    if (!this._name || !stroke) return;
    this.show(this._name, stroke, "waiting");
    const now = performance.now();
    if (now - this._previewed < PREVIEW_EVERY) return;
    this._previewed = now;
    this._board().preview(this._name, stroke);
  }

  private _end(): void {
    const stroke = this._pen.end();
    const name = this._name;
    this._name = null;
    if (name && stroke) this._board().add(name, { ...stroke, colour: this._colour });
  }
}
