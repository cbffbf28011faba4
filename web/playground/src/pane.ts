/** One participant on the page. */

import { colourOf, displayName } from "./address.js";
import { Drawing } from "./drawing.js";
import { clock, make } from "./elements.js";
import type { Entry } from "./eventlog.js";
import { explain, Participant, type ParticipantUser, type Peer, type Place } from "./participant.js";
import type { Line, Mark } from "./transcript.js";
import { MOST_LINES, MOST_TEXT } from "./transcript.js";

/** Entries of the log that are shown. */
const SHOWN_ENTRIES = 100;

/** What a mark looks like, and what it says. */
const MARKS: { readonly [mark in Mark]: readonly [sign: string, word: string] } = {
  queued: ["◌", "waits for a connection"],
  sent: ["·", "sent"],
  stored: ["✓", "stored"],
  delivered: ["✓✓", "delivered"],
  lost: ["✕", "lost"],
  unknown: ["?", "not known: the page was reloaded"],
};

const PEER_DOTS = { here: "good", reconnecting: "warn", away: "" } as const;

/** What a pane wants of the page. */
export interface PaneUser {
  /** It can talk now. */
  opened(pane: Pane): void;
  /** Somebody came or went. */
  peopleChanged(): void;
  /** Begin again under another name. */
  rename(pane: Pane): void;
  /** Take this token for everybody in this page. */
  useToken(token: string): void;
  /** A line was added or has another mark. */
  line(pane: Pane, line: Line): void;
}

export class Pane implements ParticipantUser {
  readonly element: HTMLElement;
  readonly participant: Participant;
  private _peer: Peer | null = null; // who is talked to
  private readonly _shown = new Map<Line, HTMLElement>();
  private readonly _peerButtons = new Map<string, HTMLButtonElement>();

  private readonly _state = make("span", { class: "badge state" });
  private readonly _stateDot = make("span", { class: "dot" });
  private readonly _stateWord = make("span");
  private readonly _trip = make("span", {
    class: "muted small numbers trip",
    title: "last round trip to the server",
  });
  private readonly _switch = make(
    "button",
    { type: "button", class: "switch", role: "switch", "aria-checked": "true" },
    "Network",
  );
  private readonly _peers = make("div", { class: "peers", role: "group", "aria-label": "Talk with" });
  private readonly _lines = make("ol");
  private readonly _talk = make("div", { class: "lines", role: "log", tabindex: "0" }, this._lines);
  private readonly _typing = make("p", { class: "typing muted small", "aria-live": "polite" });
  private readonly _field: HTMLInputElement;
  private readonly _send = make("button", { type: "submit", class: "primary" }, "Send");
  private readonly _count = make("output", { class: "count numbers", "aria-live": "off" }, "0");
  private readonly _countNote = make("p", { class: "muted small note" });
  private readonly _clear = make("button", { type: "button", class: "plain small" }, "Clear");
  private readonly _boardNote = make("span", { class: "muted small" });
  private readonly _drawing: Drawing;
  private readonly _entries = make("ol", { class: "entries mono", tabindex: "0" });
  private readonly _spoken = make("p", { class: "unseen", role: "status" });
  private readonly _ending = make("div", { class: "ending card", role: "alert", hidden: true });
  private readonly _plus: HTMLButtonElement;
  private readonly _minus: HTMLButtonElement;

  constructor(
    place: Place,
    readonly name: string,
    private readonly _user: PaneUser,
  ) {
    const shown = displayName(`:${name}`);
    const colour = colourOf(`:${name}`);
    this._field = make("input", {
      class: "field",
      type: "text",
      autocomplete: "off",
      maxlength: String(MOST_TEXT),
      "aria-label": `${shown}'s message`,
      placeholder: "Write a message",
    });
    this._switch.setAttribute("aria-label", `${shown}'s network`);
    this._entries.setAttribute("aria-label", `Events of ${shown}`);
    this._minus = make("button", { type: "button", "aria-label": `Subtract one, as ${shown}` }, "−");
    this._plus = make("button", { type: "button", "aria-label": `Add one, as ${shown}` }, "+");
    this._drawing = new Drawing(
      () => this.participant.board,
      colour,
      `Drawing board of ${shown}`,
      (text) => this._say(text),
    );
    this.element = this._layOut(shown, colour);
    this.participant = new Participant(place, name, this);
    this._restore();
    this._listen();
    this.connection();
  }

  /** Connect. `peers`: names to begin with. */
  open(peers: readonly string[]): void {
    void this.participant.open(peers);
  }

  /** Say something to whom is talked to, as if it had been typed. Returns whether it was taken. */
  say(text: string): boolean {
    const problem = this._peer ? this.participant.say(this._peer.id, text) : "Nobody to write to yet.";
    if (problem) this._typing.textContent = problem;
    return !problem;
  }

  // --- looks ----------------------------------------------------------------------------------------

  private _layOut(shown: string, colour: number): HTMLElement {
    this._state.append(this._stateDot, this._stateWord);
    const head = make(
      "header",
      { class: "pane-head" },
      make("span", { class: `avatar ink-${colour}`, "aria-hidden": "true" }, shown.charAt(0)),
      make("h2", {}, shown),
      this._state,
      this._trip,
      make("span", { class: "spring" }),
      this._switch,
    );
    const composer = make("form", { class: "composer" }, this._field, this._send);
    composer.addEventListener("submit", (event) => {
      event.preventDefault();
      const text = this._field.value.trim();
      if (text && this.say(text)) this._field.value = "";
    });
    const counter = make(
      "section",
      { class: "counter", "aria-label": `Shared counter, as ${shown} sees it` },
      make("h3", {}, "Counter"),
      make("div", { class: "count-row" }, this._minus, this._count, this._plus),
      this._countNote,
      make("p", { class: "muted small about" }, "In the channel's state, written by compare-and-set."),
    );
    const board = make(
      "section",
      { class: "drawing", "aria-label": `Shared board, as ${shown} sees it` },
      make(
        "div",
        { class: "drawing-head" },
        make("h3", {}, "Board"),
        this._boardNote,
        make("span", { class: "spring" }),
        this._clear,
      ),
      this._drawing.element,
      make("p", { class: "muted small about" }, "Each stroke is a name in the channel's state."),
    );
    const log = make(
      "details",
      { class: "log", open: matchMedia("(min-width: 52rem)").matches },
      make("summary", {}, "What the link does"),
      this._entries,
    );
    return make(
      "section",
      { class: "pane card", id: `pane-${this.name}`, "aria-label": shown },
      head,
      this._ending,
      this._peers,
      this._talk,
      this._typing,
      composer,
      make("div", { class: "shared" }, counter, board),
      log,
      this._spoken,
    );
  }

  private _say(text: string): void {
    this._spoken.textContent = text;
  }

  // --- ParticipantUser ------------------------------------------------------------------------------

  opened(): void {
    this._user.opened(this);
  }

  connection(): void {
    const { participant } = this;
    if (!participant) return; // while it is being made
    const { state } = participant.client;
    const on = participant.network.on;
    const word = state === "idle" ? "connecting" : state;
    const kind = state === "online" ? "good" : state === "closed" || state === "offline" ? "bad" : "warn";
    if (this._stateWord.textContent !== word) {
      this._stateWord.textContent = word;
      this._say(`${displayName(participant.id)}: ${word}`);
    }
    this._state.dataset.state = kind;
    this._stateDot.dataset.state = kind;
    this._switch.setAttribute("aria-checked", String(on));
    this.element.classList.toggle("off", !on);
    const trip = participant.roundTrip;
    this._trip.textContent = trip !== null && state === "online" ? `${(trip * 1000).toFixed(1)} ms` : "";
    const usable = participant.client.welcome !== null && state !== "closed";
    for (const control of [this._field, this._send, this._plus, this._minus]) control.disabled = !usable;
    this._clear.disabled = state !== "online";
    this.counter();
    this._user.peopleChanged();
  }

  peer(peer: Peer): void {
    let button = this._peerButtons.get(peer.id);
    if (!button) {
      button = make("button", { type: "button", class: "peer", "aria-pressed": "false" });
      button.addEventListener("click", () => this._talkTo(peer));
      this._peerButtons.set(peer.id, button);
      this._peers.append(button);
      if (!this._peer) this._talkTo(peer);
    }
    const dot = make("span", { class: "dot", "data-state": PEER_DOTS[peer.state] });
    const unread = peer.unread ? [make("span", { class: "badge unread" }, `${peer.unread} new`)] : [];
    button.replaceChildren(
      dot,
      make("span", {}, peer.name),
      make("span", { class: "muted small" }, peer.state),
      ...unread,
    );
    if (peer === this._peer) this._typing.textContent = peer.typing ? `${peer.name} is typing …` : "";
    this._user.peopleChanged();
  }

  line(line: Line): void {
    if (!line.mine && line.peer !== this._peer?.id && !this._shown.has(line)) {
      const peer = this.participant.peers.get(line.peer);
      if (peer) {
        peer.unread += 1;
        this.peer(peer);
      }
    }
    this._show(line);
    this._user.line(this, line);
  }

  entry(entry: Entry): void {
    const time = make("time", { class: "muted" }, clock(entry.at));
    const row = make("li", {}, time, " ", make("b", {}, entry.what), ` ${entry.detail}`);
    const atEnd = isAtEnd(this._entries);
    this._entries.append(row);
    if (this._entries.childElementCount > SHOWN_ENTRIES) this._entries.firstElementChild?.remove();
    if (atEnd) this._entries.scrollTop = this._entries.scrollHeight;
  }

  counter(): void {
    const { participant } = this;
    if (!participant) return;
    const { value, version, by } = participant.count;
    const { waiting, conflicts } = participant.counter;
    this._count.textContent = String(value);
    const parts = version ? [`version ${version}, by ${by}`] : ["not set yet"];
    if (conflicts) parts.push(`${conflicts} ${conflicts === 1 ? "conflict" : "conflicts"}, resolved`);
    if (waiting) parts.unshift(`${waiting > 0 ? "+" : "−"}${Math.abs(waiting)} waiting`);
    this._countNote.textContent = parts.join(" · ");
    const strokes = participant.board.waiting;
    this._boardNote.textContent = strokes
      ? `${strokes} ${strokes === 1 ? "stroke waits" : "strokes wait"}`
      : "";
  }

  stroke(...stroke: Parameters<ParticipantUser["stroke"]>): void {
    this._drawing.show(...stroke);
    this.counter();
  }

  ended(ending: Error): void {
    this.connection();
    const { text, code } = explain(ending, displayName(this.participant.id));
    const actions: HTMLElement[] = [];
    if (code === "unauthorized") actions.push(this._tokenForm());
    else {
      const again = make("button", { type: "button", class: "primary" }, "Take another name");
      again.addEventListener("click", () => this._user.rename(this));
      actions.push(again);
    }
    this._ending.replaceChildren(make("p", {}, text), ...actions);
    this._ending.hidden = false;
  }

  // --- talking --------------------------------------------------------------------------------------

  private _talkTo(peer: Peer): void {
    this._peer = peer;
    peer.unread = 0;
    for (const [id, button] of this._peerButtons) {
      button.setAttribute("aria-pressed", String(id === peer.id));
    }
    this._talk.setAttribute(
      "aria-label",
      `${displayName(this.participant.id)}'s conversation with ${peer.name}`,
    );
    this._field.placeholder = `Write to ${peer.name}`;
    this._shown.clear();
    this._lines.replaceChildren();
    for (const line of this.participant.transcript.with(peer.id)) this._show(line);
    this.peer(peer);
  }

  private _show(line: Line): void {
    if (line.peer !== this._peer?.id) return;
    const item = this._shown.get(line);
    if (item) {
      item.replaceWith(this._draw(line));
      return;
    }
    const atEnd = isAtEnd(this._talk) || line.mine;
    this._lines.append(this._draw(line));
    for (const old of this._shown.keys()) {
      if (this._shown.size <= MOST_LINES) break;
      this._shown.get(old)?.remove();
      this._shown.delete(old);
    }
    if (atEnd) this._talk.scrollTop = this._talk.scrollHeight;
  }

  private _draw(line: Line): HTMLElement {
    const text = make("span", { class: "text" }, line.text);
    const item = make("li", { class: line.mine ? "line mine" : "line" }, text);
    if (line.mine) {
      const [sign, word] = MARKS[line.mark];
      const took = line.took && line.mark === "delivered" ? ` in ${duration(line.took)}` : "";
      const reason = line.reason && line.mark === "lost" ? `: ${line.reason}` : "";
      item.dataset.mark = line.mark;
      item.append(
        make(
          "span",
          { class: "mark small", title: `number ${line.seq}` },
          make("span", { class: "sign", "aria-hidden": "true" }, sign),
          ` ${word}${took}${reason}`,
        ),
      );
    }
    this._shown.set(line, item);
    return item;
  }

  private _listen(): void {
    this._switch.addEventListener("click", () => {
      this.participant.switchNetwork(!this.participant.network.on);
    });
    this._field.addEventListener("input", () => {
      if (this._peer && this._field.value) this.participant.types(this._peer.id);
    });
    for (const [button, delta] of [
      [this._plus, 1],
      [this._minus, -1],
    ] as const) {
      button.addEventListener("click", () => this.participant.counter.add(delta));
    }
    this._clear.addEventListener("click", () => void this.participant.board.clear());
  }

  private _tokenForm(): HTMLElement {
    const field = make("input", {
      class: "field",
      type: "password",
      autocomplete: "off",
      "aria-label": "Token",
    });
    const form = make(
      "form",
      { class: "composer" },
      field,
      make("button", { type: "submit", class: "primary" }, "Connect"),
    );
    form.addEventListener("submit", (event) => {
      event.preventDefault();
      if (field.value.trim()) this._user.useToken(field.value.trim());
    });
    return form;
  }

  // --- over a reload --------------------------------------------------------------------------------

  private get _key(): string {
    return `duolink playground ${this.participant.id}`;
  }

  /** Texts, no secrets: the SDK keeps what belongs to the session by itself. */
  private _restore(): void {
    try {
      const kept = sessionStorage.getItem(this._key);
      sessionStorage.removeItem(this._key);
      if (kept) this.participant.transcript.restore(kept);
    } catch {
      // No storage here: a reload begins with an empty pane.
    }
  }

  /** Write down what was said, for the page after this one. */
  keep(): void {
    try {
      sessionStorage.setItem(this._key, this.participant.transcript.toText());
    } catch {
      // None here, or it is full.
    }
  }
}

function isAtEnd(element: HTMLElement): boolean {
  return element.scrollHeight - element.scrollTop - element.clientHeight < 40;
}

function duration(milliseconds: number): string {
  return milliseconds < 1000 ? `${milliseconds} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}
