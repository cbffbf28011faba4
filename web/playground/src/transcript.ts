/** What was said in one pane: lines with their marks, bounded, and kept over a reload of the page. */

import { Lost, type Message, type Sent } from "duolink";

/** Lines that are kept; the oldest go. */
export const MOST_LINES = 200;

/** Characters of a text; a longer one is cut. */
export const MOST_TEXT = 2_000;

/** What became of a line of one's own. `queued`: there is no connection; `unknown`: the page that had sent it
 * is gone, and nobody heard the end. */
export type Mark = "queued" | "sent" | "stored" | "delivered" | "lost" | "unknown";

export interface Line {
  /** The client at the other end. */
  readonly peer: string;
  readonly mine: boolean;
  readonly text: string;
  /** When it was sent or came, in milliseconds since 1970. */
  readonly at: number;
  /** The run and the number of what came: who sees them again sees a repeat. */
  readonly run: number;
  readonly seq: number;
  mark: Mark;
  /** Milliseconds from sending to the last mark. */
  took: number;
  reason: string;
}

const MARKS: readonly Mark[] = ["queued", "sent", "stored", "delivered", "lost", "unknown"];

export class Transcript {
  readonly lines: Line[] = [];

  /** `changed` hears of every line that is new or has another mark. */
  constructor(
    private readonly _changed: (line: Line) => void,
    private readonly _clock: () => number = Date.now,
  ) {}

  /** Add what this client sends, and follow it to its end. */
  sent(sent: Sent, text: string, online: boolean): Line {
    const line = this._line(sent.peer, true, text, 0, sent.seq, online ? "sent" : "queued");
    this._add(line);
    void this._follow(line, sent);
    return line;
  }

  private async _follow(line: Line, sent: Sent): Promise<void> {
    try {
      await sent.stored();
      if (sent.fate === "stored") this._mark(line, "stored");
      await sent.delivered();
      this._mark(line, "delivered");
    } catch (error) {
      line.reason = error instanceof Lost ? error.reason : "closed";
      this._mark(line, error instanceof Lost && error.certain ? "lost" : "unknown");
    }
  }

  private _mark(line: Line, mark: Mark): void {
    line.mark = mark;
    line.took = this._clock() - line.at;
    this._changed(line);
  }

  /** Add what came. A message that has been seen (by the page before this one) is not added again. */
  received(message: Message): Line | null {
    const { sender, run, seq } = message;
    const same = (line: Line) => !line.mine && line.peer === sender && line.run === run && line.seq === seq;
    if (this.lines.some(same)) return null;
    const line = this._line(sender, false, textOf(message.data), run, seq, "delivered");
    this._add(line);
    return line;
  }

  /** There is a connection: what waited for one has left. */
  online(): void {
    for (const line of this.lines) {
      if (line.mark !== "queued") continue;
      line.mark = "sent";
      this._changed(line);
    }
  }

  /** The lines with one peer. */
  with(peer: string): Line[] {
    return this.lines.filter((line) => line.peer === peer);
  }

  /** Write it down for the next page. */
  toText(): string {
    return JSON.stringify(this.lines);
  }

  /** Take what the page before this one wrote down; what is no transcript is left. */
  restore(text: string): void {
    let kept: unknown;
    try {
      kept = JSON.parse(text);
    } catch {
      return;
    }
    if (!Array.isArray(kept)) return;
    for (const line of kept.slice(-MOST_LINES)) if (isLine(line)) this.lines.push(line);
    for (const line of this.lines) if (line.mark === "queued" || line.mark === "sent") line.mark = "unknown";
  }

  private _line(peer: string, mine: boolean, text: string, run: number, seq: number, mark: Mark): Line {
    const at = this._clock();
    return { peer, mine, text: text.slice(0, MOST_TEXT), at, run, seq, mark, took: 0, reason: "" };
  }

  private _add(line: Line): void {
    this.lines.push(line);
    if (this.lines.length > MOST_LINES) this.lines.shift();
    this._changed(line);
  }
}

/** Return what to show of a message's data: anybody may have sent anything. */
export function textOf(data: unknown): string {
  if (typeof data === "string") return data;
  if (data instanceof Uint8Array) return `${data.length} bytes`;
  const { text } = (data ?? {}) as { text?: unknown };
  return typeof text === "string" ? text : JSON.stringify(data);
}

function isLine(value: unknown): value is Line {
  const line = (value ?? {}) as Partial<Line>;
  const numbers = [line.at, line.run, line.seq, line.took].every((each) => typeof each === "number");
  const texts = [line.peer, line.text, line.reason].every((each) => typeof each === "string");
  return numbers && texts && typeof line.mine === "boolean" && MARKS.some((mark) => mark === line.mark);
}
