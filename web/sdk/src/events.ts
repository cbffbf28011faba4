/** What a client tells its application besides messages: `client.events()` and `client.onEvent()` carry it
 * all, and `kind` tells one from the other. */

import type { PeerState } from "./protocol/codes.js";
import type { StateChanged } from "./protocol/events.js";

export type { State, StateChanged } from "./protocol/events.js";

/** A watched peer is here, reconnecting or away now. `restarted`: a new process answers to its name. */
export interface PeerChanged {
  readonly kind: "peer";
  readonly peer: string;
  readonly state: PeerState;
  readonly restarted: boolean;
}

/** Numbers `first` … `last` from a peer will never come. `reason` is a `LossReason`. `user`: they were sent
 * to this user (`@bob`), whose messages are numbered by themselves. */
export interface MessagesLost {
  readonly kind: "lost";
  readonly peer: string;
  readonly lane: string;
  readonly first: number;
  readonly last: number;
  readonly reason: string;
  readonly user: string;
}

/** Publications of a channel were missed and cannot be had. `reason` is `epoch` (the log was lost, an
 * unknown number with it), `evicted` or `overflow`; `first` … `last` are missing, and the stream goes on
 * after `offset` of `epoch`. */
export interface ChannelGap {
  readonly kind: "gap";
  readonly channel: string;
  readonly reason: string;
  readonly first: number;
  readonly last: number;
  readonly epoch: string;
  readonly offset: number;
}

/** Who is subscribed to a channel: the whole set now, and who joined or left (both empty: a snapshot). */
export interface PresenceChanged {
  readonly kind: "presence";
  readonly channel: string;
  readonly present: ReadonlySet<string>;
  readonly joined: string;
  readonly left: string;
}

/** The server does not let this client have the channel (any more). */
export interface SubscriptionEnded {
  readonly kind: "subscription_ended";
  readonly channel: string;
  readonly code: string;
  readonly reason: string;
}

/** A handler of the application threw. The message it was given counts as delivered. */
export interface HandlerFailed {
  readonly kind: "handler_failed";
  readonly what: string;
  readonly error: unknown;
}

/** Something that should not happen, and that nobody waits for: for the log. */
export interface Trouble {
  readonly kind: "trouble";
  readonly code: string;
  readonly reason: string;
}

export type Event =
  | StateChanged
  | PeerChanged
  | MessagesLost
  | ChannelGap
  | PresenceChanged
  | SubscriptionEnded
  | HandlerFailed
  | Trouble;
