/** What the first two clients of a new room say to each other, so that a visitor finds them talking. Each line
 * but the first answers one that came over the link. */

import type { Pane } from "./pane.js";
import type { Line } from "./transcript.js";

const LINES = [
  "Hello Bob! Can you hear me?",
  "Loud and clear, Alice.",
  "Now switch my network off, write as me, and switch it on again.",
];

export class Greeting {
  private _next = 0;

  /** Say the first line. */
  begin(pane: Pane): void {
    this._say(pane);
  }

  /** Hear a line of any pane, and say the next one if it is the one that was said last. */
  answer(pane: Pane, line: Line): void {
    if (!line.mine && this._next && line.text === LINES[this._next - 1]) this._say(pane);
  }

  private _say(pane: Pane): void {
    const text = LINES[this._next];
    if (!text) return;
    this._next += 1;
    pane.say(text);
  }
}
