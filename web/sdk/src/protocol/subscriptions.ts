/** A client's channels: what it wants, what it has, and where it stands in each. */

import { compareIds, impossible, isId } from "./codec.js";
import { MAX_CHANNEL, MAX_SUBSCRIPTIONS } from "./limits.js";
import {
  type ErrorMessage,
  type Gap,
  type Message,
  type MessageOf,
  make,
  type Position,
  type Publication,
  type Snapshot,
  type Subscribe,
  type Subscribed,
} from "./messages.js";

/** The subscription stands: everything after `offset` follows. `recovered`: nothing was missed; `gap`: what
 * was, and why; neither: it began now. `state`: the whole shared state at `offset`, one publication for
 * each name; null if it was not asked for, or what was missed follows. */
export interface ChannelJoined {
  readonly kind: "joined";
  readonly channel: string;
  readonly epoch: string;
  readonly offset: number;
  readonly recovered: boolean;
  readonly gap: Gap | null;
  readonly state: readonly Publication[] | null;
}

/** The server does not let this client have the channel; it is no longer wanted. */
export interface ChannelRefused {
  readonly kind: "refused";
  readonly channel: string;
  readonly code: string;
  readonly reason: string;
}

/** The channel's next publication. */
export interface Published {
  readonly kind: "published";
  readonly channel: string;
  readonly publication: Publication;
}

/** Who is there: the whole list (and how many more there are than it names), or one who joined or left. */
export interface PresenceEvent {
  readonly kind: "presence";
  readonly channel: string;
  readonly clients: readonly string[];
  readonly more: number;
  readonly joined: string;
  readonly left: string;
}

export type ChannelEvent = ChannelJoined | ChannelRefused | Published | PresenceEvent;

/** Where a subscription begins, and what it is told besides. */
export interface Wish {
  readonly epoch?: string;
  readonly offset?: number;
  readonly presence?: boolean;
  readonly state?: boolean;
}

class Wanted {
  epoch: string;
  offset: number;
  readonly presence: boolean;
  readonly state: boolean;
  joined = false;
  head: Subscribed | null = null; // it stands when the snapshot that comes with this is whole
  count = -1;
  entries: Publication[] = [];
  asked = -1; // the id of the command (0: hello) whose answer counts; -1: not asked yet

  constructor(wish: Wish) {
    this.epoch = wish.epoch ?? "";
    this.offset = wish.offset ?? 0;
    this.presence = wish.presence ?? false;
    this.state = wish.state ?? false;
  }
}

/** The full desired set, and the positions in it.
 *
 * A publication that is not the next one shows a hole: the channel is given up and wanted again from its
 * position, so that the server closes the hole or names it. With `state`, who has a position has the
 * shared state as of there: the position moves to that of a snapshot when all of it has come. */
export class Subscriptions {
  /** Milliseconds until what could not be served should be asked for again; 0: none. */
  retryAfter = 0;
  changed = false;
  maximum = MAX_SUBSCRIPTIONS;
  private readonly _wanted = new Map<string, Wanted>();
  private _sent = new Set<string>(); // the set as the server last heard it
  private readonly _rejoin = new Set<string>();
  private readonly _postponed = new Set<string>(); // the server could not serve them now

  /** How many channels are wanted. */
  get size(): number {
    return this._wanted.size;
  }

  /** Subscribe, from a position or from now on. `state`: hear the shared state first, unless everything
   * behind the position follows. Throws `RangeError` for what cannot be a channel, or one more than
   * the server takes. */
  want(channel: string, wish: Wish = {}): void {
    if (!isId(channel, MAX_CHANNEL)) throw impossible("channel", channel);
    if (!this._wanted.has(channel) && this._wanted.size >= this.maximum) {
      throw new RangeError("too many channels");
    }
    this._wanted.set(channel, new Wanted(wish));
    if (this._sent.has(channel)) this._rejoin.add(channel);
    this.changed = true;
  }

  /** Unsubscribe. */
  drop(channel: string): void {
    if (this._wanted.delete(channel)) this.changed = true;
  }

  /** The full set for a hello: every channel is answered anew. */
  hello(): Position[] {
    this.changed = false;
    this._rejoin.clear();
    this._sent = new Set(this._wanted.keys());
    for (const wanted of this._wanted.values()) {
      wanted.joined = false;
      wanted.head = null;
      wanted.asked = 0;
    }
    return this._positions(this._wanted.keys());
  }

  /** The hello could not carry the set: it is yet to be said. */
  forgetAsked(): void {
    this._sent.clear();
    for (const wanted of this._wanted.values()) wanted.asked = -1;
    this.changed = true;
  }

  /** The commands that tell the server of the change: one, or two when a channel must be given up first to
   * begin again. */
  commands(nextId: number): Subscribe[] {
    if (!this.changed) return [];
    this.changed = false;
    const commands: Subscribe[] = [];
    const channels = [...this._wanted.keys()];
    if (channels.some((channel) => this._rejoin.has(channel))) {
      const kept = channels.filter((channel) => this._sent.has(channel) && !this._rejoin.has(channel));
      commands.push(make("subscribe", { id: nextId, channels: this._positions(kept) }));
      this._sent = new Set(kept);
    }
    const id = nextId + commands.length;
    for (const [channel, wanted] of this._wanted) if (!this._sent.has(channel)) wanted.asked = id;
    commands.push(make("subscribe", { id, channels: this._positions(channels) }));
    this._sent = new Set(channels);
    this._rejoin.clear();
    return commands;
  }

  private _positions(channels: Iterable<string>): Position[] {
    return [...channels].map((channel) => {
      const { epoch, offset, presence, state } = this._wanted.get(channel) as Wanted;
      return { channel, epoch, offset, presence, state };
    });
  }

  /** Take what the server says of a channel. Returns what the application should hear, if anything. */
  receive(message: Message): ChannelEvent | null {
    switch (message.type) {
      case "publication":
        return this._publication(message);
      case "subscribed":
        return this._subscribed(message);
      case "snapshot":
        return this._snapshot(message);
      case "presence_list":
        return presence(message.channel, { clients: message.clients, more: message.more });
      case "join":
        return presence(message.channel, { joined: message.client_id });
      case "leave":
        return presence(message.channel, { left: message.client_id });
      case "unsubscribed":
        return this._unsubscribed(message);
      case "error":
        return this._refused(message);
    }
    return null;
  }

  private _publication(publication: Publication): Published | ChannelJoined | null {
    const wanted = this._wanted.get(publication.channel);
    if (publication.state) return this._entry(wanted, publication);
    if (!wanted?.joined || publication.offset <= wanted.offset) return null;
    if (publication.offset !== wanted.offset + 1) {
      this.want(publication.channel, wanted);
      return null;
    }
    wanted.offset = publication.offset;
    return { kind: "published", channel: publication.channel, publication };
  }

  private _asked(channel: string, id: number): Wanted | null {
    const wanted = this._wanted.get(channel);
    return !wanted || wanted.joined || wanted.asked !== id ? null : wanted;
  }

  private _subscribed(message: Subscribed): ChannelJoined | null {
    const wanted = this._asked(message.channel, message.id);
    if (!wanted) return null;
    if (!wanted.state || message.recovered) return join(wanted, message, null);
    wanted.head = message;
    wanted.count = -1;
    wanted.entries = [];
    return null;
  }

  private _snapshot(message: Snapshot): ChannelJoined | null {
    const wanted = this._wanted.get(message.channel);
    if (!wanted?.head || wanted.head.id !== message.id) return null;
    wanted.count = message.count;
    return pictured(wanted);
  }

  private _entry(wanted: Wanted | undefined, publication: Publication): ChannelJoined | null {
    if (!wanted?.head || wanted.count < 0) return null;
    wanted.entries.push(publication);
    return pictured(wanted);
  }

  private _refused(error: ErrorMessage): ChannelRefused | null {
    if (!this._asked(error.channel, error.id)) return null;
    if (error.retry_after) {
      this._postponed.add(error.channel);
      this.retryAfter = error.retry_after;
      return null;
    }
    return this._forget(error.channel, error.code, error.message);
  }

  private _unsubscribed(message: MessageOf<"unsubscribed">): ChannelRefused | null {
    const wanted = this._wanted.get(message.channel);
    if (!wanted) return null;
    if (!message.resubscribe) {
      return this._forget(message.channel, message.code, "unsubscribed");
    }
    this.want(message.channel, wanted);
    return null;
  }

  /** Ask again for what the server could not serve. */
  retry(): void {
    this.retryAfter = 0;
    for (const channel of [...this._postponed].sort(compareIds)) {
      const wanted = this._wanted.get(channel);
      if (wanted && !wanted.joined) this.want(channel, wanted);
    }
    this._postponed.clear();
  }

  private _forget(channel: string, code: string, reason: string): ChannelRefused {
    this._wanted.delete(channel);
    this._rejoin.delete(channel);
    this.changed = true; // what is under way may have it begin again
    return { kind: "refused", channel, code, reason };
  }
}

function pictured(wanted: Wanted): ChannelJoined | null {
  const { head, entries } = wanted;
  if (!head || entries.length < wanted.count) return null;
  wanted.head = null;
  wanted.entries = [];
  return join(wanted, head, entries);
}

function join(wanted: Wanted, message: Subscribed, state: readonly Publication[] | null): ChannelJoined {
  wanted.joined = true;
  const { channel, epoch, offset, recovered, gap } = message;
  wanted.epoch = epoch;
  wanted.offset = offset;
  return { kind: "joined", channel, epoch, offset, recovered, gap, state };
}

function presence(channel: string, change: Partial<PresenceEvent>): PresenceEvent {
  return { kind: "presence", channel, clients: [], more: 0, joined: "", left: "", ...change };
}
