/** Close codes, error codes and loss reasons: numbers and words that decide what happens next. */

// Why a connection ended (RFC 6455 §7.4; 3000 and up are ours), as far as a client says or asks it; all of them stand
// in docs/protocol.md §5. The range decides whether the other side comes back: see `mayReconnect`.

export const NORMAL = 1000;
export const PROTOCOL_ERROR = 1002;
/** What a WebSocket reports for a close frame without a code (RFC 6455 §7.1.5). */
export const NO_CODE = 1005;
/** Never on the wire: the transport just ended. */
export const ABNORMAL = 1006;
export const MESSAGE_TOO_BIG = 1009;
/** Three pings in a row had no answer. */
export const HEARTBEAT_LOST = 3002;
/** No `welcome` within the deadline. */
export const HELLO_TIMEOUT = 3004;

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
  /** It was stored, and the server has another database now, or an older one. */
  | "storage_lost"
  | "poison"
  | "cancelled"
  /** A newer run began before the older one was complete. */
  | "sender_restarted"
  | "superseded"
  /** The sender left before the end was known. */
  | "closed"
  /** Settled while this receiver was away: as lost, or an earlier process of it had finished with it. */
  | "gone"
  /** Among more separate losses than can be told apart: lost, or delivered. */
  | "unclear";

/** How a link reports its peer. */
export type PeerState = "here" | "reconnecting" | "away";

const STATES: readonly string[] = ["here", "reconnecting", "away"];

/** Whether a word of the server's is a peer's state; a newer server may have others. */
export function isPeerState(word: string): word is PeerState {
  return STATES.includes(word);
}
