/** Parser of `text/event-stream` (WHATWG HTML §9.2.6), for a stream that is read with fetch: an EventSource
 * cannot carry a bearer token in a header. */

export interface StreamEvent {
  event: string;
  data: string;
  /** The last id the stream has named, or "". */
  id: string;
}

/** Characters of one line or one event: far above a sample, far below what would hurt a tab. */
const MOST = 1 << 20;

/** Raised for a line or an event that is larger than anything the API sends. */
export class StreamTooLarge extends Error {}

/** Give it text as it comes, get whole events. */
export class EventStreamParser {
  private _rest = "";
  private _afterReturn = false; // the last chunk ended in CR: an LF to come belongs to it
  private _begun = false;
  private _event = "";
  private _data: string[] = [];
  private _size = 0;
  private _id = "";

  /** Returns the events that end in `text`. Raises StreamTooLarge. */
  push(text: string): StreamEvent[] {
    if (!this._begun && text) {
      this._begun = true;
      if (text.startsWith("\ufeff")) text = text.slice(1);
    }
    if (this._afterReturn && text) {
      this._afterReturn = false;
      if (text.startsWith("\n")) text = text.slice(1);
    }
    if (text.endsWith("\r")) this._afterReturn = true;
    const lines = (this._rest + text).split(/\r\n|\r|\n/);
    this._rest = lines.pop() ?? "";
    const events: StreamEvent[] = [];
    for (const line of lines) {
      const event = this._line(line);
      if (event) events.push(event);
    }
    if (this._rest.length + this._size > MOST)
      throw new StreamTooLarge(`more than ${MOST} characters in one event`);
    return events;
  }

  private _line(line: string): StreamEvent | null {
    if (line === "") return this._dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return null; // a comment
    const field = colon < 0 ? line : line.slice(0, colon);
    let value = colon < 0 ? "" : line.slice(colon + 1);
    if (value.startsWith(" ")) value = value.slice(1);
    if (field === "event") this._event = value;
    else if (field === "id" && !value.includes("\0")) this._id = value;
    else if (field === "data") {
      this._data.push(value);
      this._size += value.length + 1;
    }
    return null;
  }

  private _dispatch(): StreamEvent | null {
    const { _event: event, _data: data } = this;
    this._event = "";
    this._data = [];
    this._size = 0;
    return data.length ? { event: event || "message", data: data.join("\n"), id: this._id } : null;
  }
}
