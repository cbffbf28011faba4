"""Every maximum of the protocol, with its reason.

A limit a server may set otherwise travels in `welcome.limits`; the value here is the default.
"""

from typing import Final

PROTOCOL: Final = 1
"""Version of the wire named in `hello.protocol`. A server answers another one with `version`."""

MAX_INTEGER: Final = 2**53 - 1
"""Largest integer on the wire: what a JavaScript number holds exactly."""

MAX_MESSAGE: Final = 64 * 1024
"""Bytes of one message on the wire, its JSON envelope included. Large enough for an SDP offer with
all candidates (10 KiB), small enough that one message cannot delay a ping noticeably. Peers:
Centrifugo 64 KiB, Ably 64 KiB, LiveKit 15 KiB, Socket.IO 1 MB."""

MAX_PAYLOAD: Final = 16 * MAX_MESSAGE
"""Bytes of one frame, that is of several messages joined by newlines: a client that comes back
may send its whole window in one write."""

MAX_BATCH: Final = 1024
"""Messages in one frame; what a turn of the loop may take without delaying others."""

MAX_DEPTH: Final = 64
"""Nesting of user data. JSON parsers recurse; 64 is far above what people nest by hand."""

MAX_CLIENT_ID: Final = 128
"""UTF-8 bytes of a client id: room for a UUID, a user name and a device name."""

MAX_CHANNEL: Final = 255
"""UTF-8 bytes of a channel name (Centrifugo: 255)."""

MAX_TOKEN: Final = 8 * 1024
"""Characters of a token; a JWT with many claims stays below 4 KiB."""

MAX_KEY: Final = 64
"""Characters of an idempotency key or a request id: a UUID with a prefix."""

MAX_STATE_NAME: Final = 255
"""UTF-8 bytes of a name in a channel's shared state: as a channel's."""

MAX_STATE_KEYS: Final = 1000
"""Names in one channel's shared state: a snapshot is one burst to every newcomer."""

MAX_STATE_BYTES: Final = 1024 * 1024
"""Bytes of their names and values together: the send buffer of a connection."""

MAX_SUBSCRIPTIONS: Final = 128
"""Channels of one client (Centrifugo: 128)."""

MAX_WATCHED: Final = 256
"""Peers whose state one client hears, and to whom it may wait to send."""

MAX_REASON: Final = 123
"""Bytes of a close reason: a control frame's 125 less the code (RFC 6455 §5.5)."""

WINDOW: Final = 256
"""Unsafe numbers a sender may have on one lane of a link. 256 × 64 B fill a 100 ms path at 2,560
messages/s; a slow receiver costs its sender, not the server, the memory."""

WINDOW_BYTES: Final = 1024 * 1024
"""Bytes of unsafe bodies on one lane of a link; one message always fits."""

LANES: Final = ("messages", "bulk")
"""Independent sequences of a link. `ephemeral` is unnumbered."""

ACK_DELAY: Final = 0.020
"""Seconds an acknowledgement may wait for reverse traffic to ride on."""

ACK_EVERY: Final = 32
"""Messages after which an acknowledgement leaves at once: 1/8 of the window."""

MAX_LOST: Final = 1024
"""Lost ranges that a receiver or its mailbox remembers until `base` has passed them, and that an `ack` lists:
eight windows of which every second number is lost. Beyond, the oldest become one that is `unclear`."""

GAP_PULL: Final = 1.0
"""Seconds a receiver leaves a gap open before it asks for the missing numbers."""

PROBE_AFTER: Final = 2.0
"""Seconds without an acknowledgement after which a sender asks for one."""

PROBE_CAP: Final = 30.0
"""Longest time between two such questions: the heartbeat's interval."""

STORE_AFTER: Final = 0.250
"""Seconds after which a sender asks a durable server to store what has not been acknowledged: longer than a
round trip around the earth, shorter than a person waits."""

RESUME_WINDOW: Final = 30.0
"""Seconds a session survives without a connection."""

HELLO_TIMEOUT: Final = 10.0
"""Seconds from the opened transport to a whole `hello`."""

MAX_RUN_SKEW: Final = 86_400_000
"""Milliseconds a presented run may lie ahead of the server's wall clock: a day of clock error. More
would let one hello push a client's runs towards the largest integer for good."""

PUBLISH_KEY_LIFE: Final = 300.0
"""Seconds an engine keeps the answer to a publish under its key (Centrifugo: 5 min)."""

MAX_HISTORY_PAGE: Final = 1000
"""Publications of one history answer."""

MAX_LINKS: Final = 16384
"""Links one client keeps in one run: a few KiB each, for what it has numbered and taken must not be
forgotten. A stranger's first message makes one; beyond the bound strangers are not heard."""

MAX_PENDING: Final = 1024
"""Commands of one client without an answer yet."""

MAX_UNNUMBERED: Final = 1024
"""Signals and ephemeral messages of one turn beyond which no more is taken: a loop that never lets go of its
turn would fill the memory, for nothing has left yet that could be slow."""

FIRST_TRIES: Final = 5
"""Attempts of a first connect before it gives up; a session that has been online does not."""

STABLE_AFTER: Final = 10.0
"""Seconds online after which the backoff begins anew."""

CLOCK_JUMP: Final = 5.0
"""Seconds by which wall and monotonic clock may drift apart between two looks before the machine is
taken to have slept."""
