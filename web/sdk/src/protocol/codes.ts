/** Close codes, error codes and loss reasons: numbers and words that decide what happens next. */

/** Why a connection ended (RFC 6455 §7.4; 3000 and up are ours). The range decides whether the other side
 * comes back: see `mayReconnect`. */
export const CloseCode = {
  NORMAL: 1000,
  GOING_AWAY: 1001,
  PROTOCOL_ERROR: 1002,
  /** What a WebSocket reports for a close frame without a code (RFC 6455 §7.1.5). */
  NO_CODE: 1005,
  /** Never on the wire: the transport just ended. */
  ABNORMAL: 1006,
  POLICY_VIOLATION: 1008,
  MESSAGE_TOO_BIG: 1009,
  INTERNAL_ERROR: 1011,
  SERVICE_RESTART: 1012,
  TRY_AGAIN_LATER: 1013,
  /** The outgoing buffer reached its bound; resume and recover. */
  SLOW_CONSUMER: 3001,
  /** Three pings in a row had no answer. */
  HEARTBEAT_LOST: 3002,
  /** Come back with a fresh token. */
  TOKEN_EXPIRED: 3003,
  /** No whole `hello`, or no `welcome`, within the deadline. */
  HELLO_TIMEOUT: 3004,
  /** Not admitted now. */
  OVERLOADED: 3005,
  /** A newer connection of the same session took over. */
  REPLACED_CONNECTION: 3006,
  IDLE_TIMEOUT: 3007,
  /** From here on: do not come back. The token is missing, invalid, or of another client. */
  UNAUTHORIZED: 3500,
  /** The client id is in use by a connection that answers. */
  DUPLICATE: 3501,
  /** A newer process of the same client took over: this one is fenced. */
  SUPERSEDED: 3502,
  WRONG_VERSION: 3503,
  BAD_HELLO: 3504,
  /** The application or an operator sent this client away. */
  DISCONNECTED: 3505,
} as const;

const RECONNECT: readonly number[] = [1000, 1001, 1005, 1006, 1011, 1012, 1013];

/** Whether a client whose connection ended with `code` tries again: 1000, 1001, 1005, 1006, 1011–1013 and
 * 3000–3499 yes, everything else no. */
export function mayReconnect(code: number): boolean {
  return RECONNECT.includes(code) || (code >= 3000 && code <= 3499);
}

/** Why a number ended as `lost`; an error code that ended the client may stand there, too. */
export type LossReason =
  | "expired"
  | "replaced"
  | "mailbox_full"
  | "refused"
  | "poison"
  | "cancelled"
  /** A newer run began before the older one was complete. */
  | "sender_restarted"
  | "superseded"
  /** The sender left before the end was known. */
  | "closed"
  /** Settled as lost while this receiver was away; only the sender knows why. */
  | "gone";

/** How a link reports its peer. */
export type PeerState = "here" | "reconnecting" | "away";

const STATES: readonly string[] = ["here", "reconnecting", "away"];

/** Whether a word of the server's is a peer's state; a newer server may have others. */
export function isPeerState(word: string): word is PeerState {
  return STATES.includes(word);
}
