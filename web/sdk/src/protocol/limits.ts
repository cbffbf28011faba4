/**
 * Every maximum of the protocol that a client needs; the reasons are in `duolink/protocol/limits.py`. A limit
 * that a server may set otherwise travels in `welcome.limits`; the value here is the default. Bytes are those
 * of UTF-8, times are seconds.
 */

/** Version of the wire named in `hello.protocol`. */
export const PROTOCOL = 1;
/** Largest integer on the wire: what a number holds exactly. */
export const MAX_INTEGER = Number.MAX_SAFE_INTEGER;
/** Bytes of one message on the wire, its envelope included. */
export const MAX_MESSAGE = 64 * 1024;
/** Bytes of one payload, that is of several messages joined by newlines. */
export const MAX_PAYLOAD = 16 * MAX_MESSAGE;
/** Messages in one payload. */
export const MAX_BATCH = 1024;
/** Nesting of user data. */
export const MAX_DEPTH = 64;
/** Bytes of a client id. */
export const MAX_CLIENT_ID = 128;
/** Bytes of a channel name. */
export const MAX_CHANNEL = 255;
/** Characters of a token. */
export const MAX_TOKEN = 8 * 1024;
/** Characters of an idempotency key or a request id. */
export const MAX_KEY = 64;
/** Bytes of a name in a channel's shared state. */
export const MAX_STATE_NAME = 255;
/** Channels of one client. */
export const MAX_SUBSCRIPTIONS = 128;
/** Peers whose state one client hears. */
export const MAX_WATCHED = 256;
/** Bytes of a close reason: a control frame's 125 less the code (RFC 6455 §5.5). */
export const MAX_REASON = 123;
/** Unsafe numbers a sender may have on one lane of a link. */
export const WINDOW = 256;
/** Bytes of unsafe bodies on one lane of a link; one message always fits. */
export const WINDOW_BYTES = 1024 * 1024;
/** Independent sequences of a link. `ephemeral` is unnumbered. */
export const LANES: readonly string[] = ["messages", "bulk"];
/** Seconds an acknowledgement may wait for reverse traffic to ride on. */
export const ACK_DELAY = 0.02;
/** Messages after which an acknowledgement leaves at once. */
export const ACK_EVERY = 32;
/** Lost ranges a receiver remembers until `base` has passed them; as many as an `ack` lists. */
export const MAX_LOST = 1024;
/** Seconds a receiver leaves a gap open before it asks for the missing numbers. */
export const GAP_PULL = 1;
/** Seconds without an acknowledgement after which a sender asks for one. */
export const PROBE_AFTER = 2;
/** Longest time between two such questions. */
export const PROBE_CAP = 30;
/** Seconds after which a sender asks a durable server to store what has not been acknowledged. */
export const STORE_AFTER = 0.25;
/** Seconds a session survives without a connection. */
export const RESUME_WINDOW = 30;
/** Seconds from the opened transport to a welcome. */
export const HELLO_TIMEOUT = 10;
/** Publications of one history answer. */
export const MAX_HISTORY_PAGE = 1000;
/** Links one client keeps in one run; beyond the bound strangers are not heard. */
export const MAX_LINKS = 16384;
/** Commands of one client without an answer yet. */
export const MAX_PENDING = 1024;
/** Signals and ephemeral messages beyond which a turn takes no more. */
export const MAX_UNNUMBERED = 1024;
/** Attempts of a first connect before it gives up; a session that has been online does not. */
export const FIRST_TRIES = 5;
/** Seconds online after which the backoff begins anew. */
export const STABLE_AFTER = 10;
/** Seconds by which wall and monotonic clock may drift apart between two looks before the machine is taken
 * to have slept. */
export const CLOCK_JUMP = 5;
