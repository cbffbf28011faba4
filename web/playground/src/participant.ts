/** One client of the room, without its looks: what it says, hears, counts and draws. */

import {
  Client,
  ClientClosed,
  type Event,
  type Message,
  Refused,
  type StateSet,
  type Subscription,
  type WebSocketConstructor,
  WindowFull,
} from "duolink";
import { channelOf, clientIdOf, displayName } from "./address.js";
import { Board, type Standing } from "./board.js";
import { Counter, numberIn } from "./counter.js";
import { type Entry, EventLog } from "./eventlog.js";
import { NetworkSwitch } from "./network.js";
import type { Stroke } from "./strokes.js";
import { type Line, Transcript } from "./transcript.js";

/** Name of the counter in the channel's state. */
const COUNTER = "counter";

/** Peers that a pane knows: more would be no conversation. */
const MOST_PEERS = 12;

/** Milliseconds between two signs that somebody types, and after which the last one is forgotten. */
const TYPING_EVERY = 1_000;
const TYPING_LIFE = 3_000;

/** Milliseconds between two measurements of the round trip to the server, and before the first: a page that
 * is just being shown would measure itself. */
const MEASURE_EVERY = 10_000;
const MEASURE_FIRST = 500;

/** Somebody to talk to. */
export interface Peer {
  readonly id: string;
  readonly name: string;
  state: "here" | "reconnecting" | "away";
  typing: boolean;
  unread: number;
}

/** What a participant tells its pane. */
export interface ParticipantUser {
  /** It is online for the first time, and knows its first peers. */
  opened(): void;
  /** The state of the connection, or the round trip, has changed. */
  connection(): void;
  /** A peer is new or has changed. */
  peer(peer: Peer): void;
  line(line: Line): void;
  entry(entry: Entry): void;
  counter(): void;
  stroke(name: string, stroke: Stroke | null, standing: Standing): void;
  /** The client is closed for good. */
  ended(ending: Error): void;
}

/** Where a participant connects. `token`: what to show to a server that wants one; may be empty. */
export interface Place {
  readonly url: string;
  readonly room: string;
  readonly WebSocket: WebSocketConstructor;
  token(): string;
}

export class Participant {
  readonly id: string;
  readonly client: Client;
  readonly network: NetworkSwitch;
  readonly peers = new Map<string, Peer>();
  readonly transcript: Transcript;
  readonly log: EventLog;
  readonly counter: Counter;
  readonly board: Board;
  /** Seconds of the last round trip to the server; null: not measured. */
  roundTrip: number | null = null;
  private _subscription: Subscription | null = null;
  private _connected: (() => void)[] = []; // those who wait for a connection
  private readonly _seen = new Set<() => void>(); // those who wait for a version of the counter
  private readonly _typingEnds = new Map<string, ReturnType<typeof setTimeout>>();
  private _typedAt = -Infinity;
  private _measuring: ReturnType<typeof setTimeout> | undefined;

  constructor(
    readonly place: Place,
    readonly name: string,
    private readonly _user: ParticipantUser,
  ) {
    this.id = clientIdOf(place.room, name);
    this.network = new NetworkSwitch(place.WebSocket);
    this.client = new Client(place.url, {
      clientId: this.id,
      token: () => place.token(),
      WebSocket: this.network.WebSocket,
      firstTries: Number.MAX_SAFE_INTEGER, // a page that is looked at does not give up
      backoffCap: 5,
    });
    this.transcript = new Transcript((line) => _user.line(line));
    this.log = new EventLog((entry) => _user.entry(entry));
    this.counter = new Counter(
      {
        ready: () => this._whenOnline(),
        read: () => this.count,
        write: (value, expect) => this._channel().set(COUNTER, value, { expect }),
        seen: (version) => this._whenSeen(version),
      },
      {
        changed: () => _user.counter(),
        failed: (delta, error) => this.log.add("counter", `${delta} given up: ${String(error)}`),
      },
    );
    this.board = new Board(this._channel(), () => this._whenOnline(), {
      stroke: (name, stroke, standing) => _user.stroke(name, stroke, standing),
      failed: (what, error) => this.log.add("board", `${what}: ${String(error)}`),
    });
    this.client.onEvent((event) => this._happened(event));
  }

  // --- life -----------------------------------------------------------------------------------------

  /** Connect, and take part; goes on until the client is closed for good. `peers`: names to begin with. */
  async open(peers: readonly string[]): Promise<void> {
    const channel = this._channel();
    channel.onEphemeral((data) => this.board.previewed(data));
    // Before the client is open: so a reloaded page is still there for the others.
    const standing = channel.subscribe({ state: true, presence: true });
    standing.catch(() => {}); // thrown again below
    try {
      await this.client.open();
      this.client.onMessage((message) => this._received(message));
      for (const name of peers) this.meet(clientIdOf(this.place.room, name));
      for (const line of this.transcript.lines) this.meet(line.peer);
      this._user.opened();
      await this._follow(await standing);
    } catch (error) {
      this._user.ended(this.client.ending ?? (error as Error));
    }
  }

  /** Whether there is a connection. */
  get online(): boolean {
    return this.client.state === "online";
  }

  /** Switch the network. Back on, the platform would say `online`: the SDK comes back at once then. */
  switchNetwork(on: boolean): void {
    this.log.add("network", on ? "switched on" : "switched off");
    this.network.on = on;
    if (on) globalThis.dispatchEvent(new globalThis.Event("online"));
    this._user.connection();
  }

  // --- talking --------------------------------------------------------------------------------------

  /** Get to know a peer. */
  meet(id: string): Peer | null {
    const known = this.peers.get(id);
    if (known || id === this.id || this.peers.size >= MOST_PEERS) return known ?? null;
    const link = this.client.link(id);
    const peer: Peer = { id, name: displayName(id), state: link.state, typing: false, unread: 0 };
    this.peers.set(id, peer);
    link.onEphemeral((data) => this._typing(peer, (data as { typing?: unknown } | null)?.typing === true));
    this._user.peer(peer);
    return peer;
  }

  /** Say something. Returns what is wrong with it, or nothing. */
  say(peer: string, text: string): string {
    try {
      const sent = this.client.link(peer).trySend({ text });
      this.transcript.sent(sent, text, this.online);
      this._typedAt = -Infinity;
      return "";
    } catch (error) {
      if (error instanceof WindowFull) return "Too many messages wait; this one was not taken.";
      return error instanceof Error ? error.message : String(error);
    }
  }

  /** Let a peer know that something is being written. */
  types(peer: string): void {
    const now = performance.now();
    if (now - this._typedAt < TYPING_EVERY || !this.online) return;
    this._typedAt = now;
    this.client.link(peer).ephemeral({ typing: true });
  }

  private _received(message: Message): void {
    const peer = this.meet(message.sender);
    if (!this.transcript.received(message) || !peer) return;
    this._typing(peer, false);
  }

  private _typing(peer: Peer, typing: boolean): void {
    clearTimeout(this._typingEnds.get(peer.id));
    if (typing)
      this._typingEnds.set(
        peer.id,
        setTimeout(() => this._typing(peer, false), TYPING_LIFE),
      );
    if (peer.typing === typing) return;
    peer.typing = typing;
    this._user.peer(peer);
  }

  // --- the channel ----------------------------------------------------------------------------------

  private _channel() {
    return this.client.channel(channelOf(this.place.room));
  }

  /** Follow the channel: counter, board, and who is here. */
  private async _follow(subscription: Subscription): Promise<void> {
    this._subscription = subscription;
    this._replaced(subscription.state);
    for (const id of subscription.present) this.meet(id);
    for await (const item of subscription) {
      if (item.kind === "gap") this._replaced(subscription.state);
      else if (item.kind === "set") this.board.set(item.name, item.value, item.version);
      else if (item.kind === "deleted") this.board.deleted(item.name);
      this._looked();
    }
  }

  private _replaced(state: ReadonlyMap<string, StateSet>): void {
    this.board.replace(Array.from(state, ([name, set]) => [name, set.value, set.version] as const));
    this._looked();
  }

  /** The state has changed: whoever waits for that looks. */
  private _looked(): void {
    for (const look of [...this._seen]) look();
    this._user.counter();
  }

  /** The counter as it was seen last. */
  get count(): { readonly value: number; readonly version: number; readonly by: string } {
    const set = this._subscription?.state.get(COUNTER);
    if (!set) return { value: 0, version: 0, by: "" };
    return { value: numberIn(set.value), version: set.version, by: displayName(set.sender) };
  }

  private _whenSeen(version: number): Promise<void> {
    const epoch = this._subscription?.position.epoch;
    return new Promise((resolve) => {
      const look = () => {
        if (this.count.version < version && this._subscription?.position.epoch === epoch) return;
        this._seen.delete(look);
        resolve();
      };
      this._seen.add(look);
      look();
    });
  }

  /** How many are in the room. */
  get present(): ReadonlySet<string> {
    return this._subscription?.present ?? new Set();
  }

  // --- what happened --------------------------------------------------------------------------------

  private _happened(event: Event): void {
    if (event.kind === "peer") {
      const peer = this.peers.get(event.peer);
      if (peer) {
        peer.state = event.state;
        this._user.peer(peer);
      }
    }
    if (event.kind === "presence" && this._subscription) for (const id of event.present) this.meet(id);
    this.log.take(event, this.client);
    if (event.kind !== "state") return;
    clearTimeout(this._measuring);
    if (event.state === "online") {
      this.transcript.online();
      for (const go of this._connected.splice(0)) go();
      this._measureLater(MEASURE_FIRST);
    }
    this._user.connection();
    if (event.state === "closed") for (const go of this._connected.splice(0)) go();
  }

  /** Return when there is a connection; throws when there will be none. */
  private async _whenOnline(): Promise<void> {
    if (this.client.ending) throw this.client.ending;
    if (this.online) return;
    await new Promise<void>((resolve) => this._connected.push(resolve));
    await this._whenOnline();
  }

  /** Take the time of a question that costs the server nothing, now and then. */
  private async _measure(): Promise<void> {
    const connection = this.client.welcome?.attachment;
    const start = performance.now();
    try {
      await this._channel().history({ limit: 0 });
    } catch {
      return; // closed
    }
    if (connection !== this.client.welcome?.attachment) return; // cut off in between: it says nothing
    this.roundTrip = (performance.now() - start) / 1000;
    this.log.add("round trip", `${(this.roundTrip * 1000).toFixed(1)} ms`);
    this._user.connection();
    this._measureLater();
  }

  private _measureLater(milliseconds: number = MEASURE_EVERY): void {
    clearTimeout(this._measuring);
    this._measuring = setTimeout(() => {
      if (globalThis.document?.visibilityState === "hidden") this._measureLater();
      else if (this.online) void this._measure();
    }, milliseconds);
  }
}

/** Tell why a client has ended, in a sentence for a person. */
export function explain(ending: Error, name: string): { readonly text: string; readonly code: string } {
  if (!(ending instanceof Refused)) {
    return { text: ending instanceof ClientClosed ? "This client is closed." : ending.message, code: "" };
  }
  if (ending.error === "duplicate") {
    return { text: `${name} is here already, in another window or tab.`, code: ending.error };
  }
  if (ending.error === "unauthorized") {
    return { text: "This server wants to see a token.", code: ending.error };
  }
  return {
    text: `The server has closed this client: ${ending.error || ending.code} ${ending.reason}`,
    code: "",
  };
}
