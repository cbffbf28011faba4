/** What a client's session asks of its driver, and what it tells the application. */

import type { LinkEvent } from "./link.js";
import type { Ephemeral, Message, Publication, Signal } from "./messages.js";
import type { Send } from "./payload.js";
import type { ChannelEvent } from "./subscriptions.js";

/** What an application hears of its connection. */
export type State = "idle" | "connecting" | "online" | "reconnecting" | "offline" | "closed";

/** Open a transport, then call `opened` or `lost`. */
export interface Open {
  readonly kind: "open";
}

/** Close the transport; nothing is expected of it any more. */
export interface Close {
  readonly kind: "close";
  readonly code: number;
  readonly reason: string;
}

/** Send a payload to a peer on one of the link's other paths. */
export interface Carry {
  readonly kind: "carry";
  readonly peer: string;
  readonly path: string;
  readonly payload: string | Uint8Array;
}

export type Action = Open | Send | Close | Carry;

/** `code` is the close code that led here, 0 where there is none; `error` the server's error code. */
export interface StateChanged {
  readonly kind: "state";
  readonly state: State;
  readonly code: number;
  readonly reason: string;
  readonly error: string;
}

/** What happened on the link to a peer. `user`: on that of what the peer sends to this user. */
export interface FromLink {
  readonly kind: "link";
  readonly peer: string;
  readonly event: LinkEvent;
  readonly user: string;
}

/** The answer to a command: a message, or an `error`. `context` is what the command was given with. */
export interface Answered {
  readonly kind: "answered";
  readonly context: unknown;
  readonly answer: Message;
  readonly publications: readonly Publication[];
}

export interface SignalReceived {
  readonly kind: "signal";
  readonly signal: Signal;
}

export interface EphemeralReceived {
  readonly kind: "ephemeral";
  readonly ephemeral: Ephemeral;
}

/** The server said something it must not say, or refused something nobody waits for: for the log. */
export interface ProtocolTrouble {
  readonly kind: "trouble";
  readonly code: string;
  readonly reason: string;
}

export type SessionEvent =
  | StateChanged
  | FromLink
  | ChannelEvent
  | Answered
  | SignalReceived
  | EphemeralReceived
  | ProtocolTrouble;
