"""One connection: what came in is decoded and dispatched, what goes out is collected and written once.

`stages.HANDLERS` says what each message means. Everything for the far end is appended to `lines`, and
written as one text payload when the read that caused it is over (or at the end of the turn, for what
timers and engines cause).
"""

from collections.abc import Iterable
from math import inf
from typing import TYPE_CHECKING, Any, Final

from duolink.protocol import limits
from duolink.protocol.codec import encode
from duolink.protocol.codes import CloseCode, ErrorCode, may_reconnect
from duolink.protocol.heartbeat import Beat, Heartbeat
from duolink.protocol.messages import Error, Goodbye, LinkMessage, Message, Ping
from duolink.server.happenings import Kind
from duolink.server.nowire import GONE
from duolink.server.ratelimit import Effort, Throttle
from duolink.server.registry import Cause, Session
from duolink.server.stages import HANDLERS, Stage
from duolink.server.timers import Timer
from duolink.server.wire import Wire

if TYPE_CHECKING:
    from duolink.server.channel import Line
    from duolink.server.node import Node
    from duolink.server.recovery import Recoveries

FLUSH_AT: Final = 64 * 1024
"""Bytes of outgoing lines that are written without waiting for the end of the turn: with one more
message of the largest size a payload stays below `limits.MAX_PAYLOAD`."""

CHECK_EVERY: Final = 16 * 1024
"""Bytes written between two looks at how much the kernel has not taken: a look per write costs more
than the write's own Python."""

ERROR_BUDGET: Final = 16
"""Bad lines in `ERROR_WINDOW` that are answered; one more ends the connection. A client with a bug is told
what it is; a fuzzer is sent away."""

ERROR_WINDOW: Final = 10.0
"""Seconds."""


class Connection:
    """One connection of a node. It is the `WireUser` of its wire."""

    __slots__ = (
        "_checked",
        "_deadline",
        "_effort",
        "_errors",
        "_errors_since",
        "_expires",
        "_framed",
        "_handlers",
        "_hard",
        "_heartbeat",
        "_idle_mark",
        "_look",
        "_paused_until",
        "_pinged",
        "_seen_told",
        "_size",
        "_soft",
        "_throttle",
        "_timer",
        "_unchecked",
        "_welcomed",
        "asked",
        "bytes_received",
        "dirty",
        "extra",
        "frame",
        "full",
        "in_flight",
        "kind",
        "last_seen",
        "lines",
        "node",
        "payloads",
        "peer_address",
        "probed",
        "proven",
        "recoveries",
        "rtt",
        "sent",
        "session",
        "stage",
        "storing",
        "wire",
    )

    def __init__(self, node: "Node", wire: Wire, throttle: Throttle | None) -> None:
        now = node.now
        self.node = node
        self.wire = wire
        self.kind = wire.kind
        self.frame = wire.frame
        self.peer_address = wire.peer_address
        self.stage = Stage.NEW
        self._handlers = HANDLERS[Stage.NEW]
        self.session: Session | None = None
        self.lines: list[bytes] = []
        self.dirty = False
        """Whether something waits to be flushed."""
        self.full = False
        """Whether it holds so much that nobody should send it more than it must have."""
        self.in_flight = 0
        """Commands that wait for the engine."""
        self.storing = 0
        """Link messages that wait for the disk."""
        self.payloads = 0
        """Payloads received."""
        self.asked = ""
        """The client id its hello has asked for, if a client can have it."""
        self.extra = 0
        """Messages received beyond one in each payload."""
        self.bytes_received = 0
        """Bytes of payloads received."""
        self.sent = 0
        """Messages written."""
        self.rtt = 0.0
        """Seconds the last ping took to be answered; 0: none was yet."""
        self.probed = False
        """Whether somebody wants to know if it lives."""
        self.proven = -inf
        """When it last answered somebody who wanted to know, or said hello."""
        self.recoveries: Recoveries | None = None
        self.last_seen = now
        self._seen_told = now  # how much of it the heartbeat knows
        self._welcomed = 0  # payloads that came before the welcome
        self._idle_mark = 0  # payloads at the last look for idleness
        self._paused_until = 0.0
        self._framed: list[bytes] = []
        self._size = 0
        self._unchecked = 0  # bytes written since the last look at how much the kernel has not taken …
        self._checked = 0  # … and before it
        self._pinged = 0.0
        self._hard = node.config.wire.send_buffer
        self._soft = self._hard // 4
        self._look = min(CHECK_EVERY, self._soft)
        self._throttle = throttle
        self._effort: Effort | None = None
        self._errors = 0
        self._errors_since = now
        self._heartbeat: Heartbeat | None = None
        self._deadline = now + node.config.wire.hello_timeout_s
        self._expires = inf
        self._timer: Timer | None = node.timers.at(self._deadline, self._tick)

    # --- the wire's calls --------------------------------------------------------------------

    def received(self, payload: bytes, binary: bool) -> None:
        """See `WireUser.received`."""
        node = self.node
        node.batching = True
        self.last_seen = node.now
        self.payloads += 1
        self.bytes_received += len(payload)
        messages = node.decoder.binary(payload) if binary else node.decoder.text(payload)
        try:
            if len(messages) == 1:
                message = messages[0]
                if type(message) is LinkMessage and self.session is not None:
                    node.links.message(self, message, b"" if binary else payload)
                else:
                    self._handlers[type(message)](self, message)
            else:
                self._received_several(messages, payload)
        except Exception:
            self._broken()
        if self._throttle is not None:
            self._slow_down(len(messages), len(payload))

    def _received_several(self, messages: list[Any], payload: bytes) -> None:
        links_message = self.node.links.message
        self.extra += len(messages) - 1
        for message, line in zip(messages, payload.split(b"\n"), strict=False):
            if type(message) is LinkMessage and self.session is not None:
                links_message(self, message, line)
            else:
                self._handlers[type(message)](self, message)

    def batch_ended(self) -> None:
        """See `WireUser.batch_ended`: everything that the read caused is written now."""
        self.node.flush()

    def alive(self) -> None:
        """See `WireUser.alive`."""
        node = self.node
        self.last_seen = node.now
        if self._pinged:
            self.rtt, self._pinged = node.clock.monotonic() - self._pinged, 0.0
        if self.probed:
            node.greeter.answered(self)

    def writable(self) -> None:
        """See `WireUser.writable`."""
        self._check()

    def closed(self, code: int, reason: str) -> None:
        """See `WireUser.closed`: nothing of the connection stays."""
        self._leave_session(Cause.LOST, code)
        self._close_stage()
        self.node.forget(self, code)
        self.wire = GONE
        self.lines, self._framed = [], []

    # --- sending -----------------------------------------------------------------------------

    def send(self, line: bytes) -> None:
        """Append an encoded message to what goes out."""
        self.lines.append(line)
        self._size += len(line)
        if not self.dirty:
            self.dirty = True
            node = self.node
            node.dirty.append(self)
            if not node.batching:
                node.wake()
        elif self._size > FLUSH_AT:
            self.flush()

    def send_binary(self, payload: bytes) -> None:
        """Append the payload of a binary frame, behind what was sent before."""
        self.sent += 1 + len(self.lines)
        self._frame_lines_so_far()
        self._framed.append(self.frame(payload, True))
        self._size += len(payload)
        if not self.dirty:
            self.dirty = True
            self.node.dirty.append(self)
            self.node.wake()
        elif self._size > FLUSH_AT:
            self.flush()

    def extend(self, lines: "Iterable[Line]") -> None:
        """Append encoded publications."""
        for line in lines:
            (self.send_binary if line.binary else self.send)(line.data)

    def tell(self, message: Message) -> None:
        """Encode a message and append it."""
        self.send(encode(message))

    def write(self, frame: bytes, messages: int = 1) -> None:
        """Write a prepared frame of so many messages at once. Only when nothing waits to be flushed."""
        self.wire.write(frame)
        self.sent += messages
        self._unchecked += len(frame)
        if self._unchecked > self._look or self.full:
            self._check()

    def flush(self) -> None:
        """Write everything that was appended, as one payload."""
        self.dirty = False
        lines = self.lines
        count = len(lines)
        self.sent += count
        if count == 1 and not self._framed:
            data = self.frame(lines[0])
            lines.clear()
        elif self._framed or count > limits.MAX_BATCH:
            self._frame_lines_so_far()
            data = b"".join(self._framed)
            self._framed = []
        elif count:
            data = self.frame(b"\n".join(lines))
            lines.clear()
        else:
            return
        self._size = 0
        size = len(data)
        counts = self.node.counts
        counts.writes += 1
        counts.bytes_out += size
        self.wire.write(data)
        self._unchecked += size
        if self._unchecked > self._look or self.full:
            self._check()

    def relieve(self) -> None:
        """Write what waits and look whether the far end takes it, before more is sent."""
        self.flush()
        self._check()

    def frame_lines(self, lines: "list[Line]") -> bytes:
        """Frame publications as this kind of wire writes them, for everyone with a wire of the kind."""
        if len(lines) == 1:
            return self.frame(lines[0].data, lines[0].binary)
        if not any(line.binary for line in lines):
            return self.frame(b"\n".join([line.data for line in lines]))
        frames = []
        texts: list[bytes] = []
        for line in lines:
            if not line.binary:
                texts.append(line.data)
                continue
            if texts:
                frames.append(self.frame(b"\n".join(texts)))
                texts = []
            frames.append(self.frame(line.data, True))
        if texts:
            frames.append(self.frame(b"\n".join(texts)))
        return b"".join(frames)

    def _frame_lines_so_far(self) -> None:
        lines, self.lines = self.lines, []
        for start in range(0, len(lines), limits.MAX_BATCH):
            self._framed.append(self.frame(b"\n".join(lines[start : start + limits.MAX_BATCH])))

    def _check(self) -> None:
        """Look how much the far end has not taken: at most `send_buffer` may wait for it."""
        self._checked += self._unchecked
        self._unchecked = 0
        buffered = self.wire.buffered()
        if buffered > self._hard:
            if self.stage is not Stage.CLOSING:
                self.happened("slow_consumer", f"{buffered} bytes waited to be sent")
                self.end(CloseCode.SLOW_CONSUMER, "too slow: resume and recover")
        elif buffered > self._soft:
            self.full = True
        elif self.full and self.stage is Stage.OPEN:
            self.full = False
            if self.recoveries is not None:
                self.recoveries.run()
            if self.session is not None and self.session.party is not None:
                self.node.links.drained(self.session.party)

    # --- errors ------------------------------------------------------------------------------

    def error(self, code: ErrorCode, text: str, **fields: Any) -> None:
        """Answer with a typed error."""
        node = self.node
        node.counts.error(code)
        node.log.warning(code, "bad message", node.now, address=self.peer_address, problem=text)
        self.tell(Error(code=code, message=text, **fields))

    def offend(self, code: ErrorCode, text: str, **fields: Any) -> None:
        """Answer something no honest client sends; too many of them end the connection."""
        self.error(code, text, **fields)
        node = self.node
        if node.now - self._errors_since > ERROR_WINDOW:
            self._errors, self._errors_since = 0, node.now
        self._errors += 1
        if self._errors > ERROR_BUDGET:
            self.end(CloseCode.POLICY_VIOLATION, "too many bad messages")

    def forged(self, message: Any) -> None:
        """A client named a sender or user, which only the server does."""
        self.offend(
            ErrorCode.FORBIDDEN,
            "`from` and `user` are the server's to set",
            to=message.to[: limits.MAX_CLIENT_ID],
            lane=getattr(message, "lane", ""),
            run=getattr(message, "run", 0),
            seq=getattr(message, "seq", 0),
        )

    def _broken(self) -> None:
        node = self.node
        node.log.warning("internal", "a message broke the node", node.now, exc_info=True)
        error = Error(code=ErrorCode.INTERNAL, message="an internal error", fatal=True)
        self.end(CloseCode.INTERNAL_ERROR, "internal error", error=error)

    # --- life --------------------------------------------------------------------------------

    def greeting(self) -> None:
        """A hello has come and is being decided."""
        self.stage = Stage.GREETING
        self._handlers = HANDLERS[Stage.GREETING]

    def opened(self, session: Session, throttle: Throttle | None, expires: float) -> None:
        """The connection carries the session from now on; its token ends at `expires` (monotonic)."""
        node = self.node
        self.stage = Stage.OPEN
        self._handlers = HANDLERS[Stage.OPEN]
        self.session = session
        self._welcomed = self._idle_mark = self.payloads
        if throttle:
            self._throttle = throttle if self._throttle is None else self._throttle + throttle
        self.proven = node.now
        self._heartbeat = Heartbeat(node.pace, node.now)
        self._seen_told = node.now
        self._deadline = node.now + (node.config.wire.idle_timeout_s or inf)
        self.expires_at(expires)

    def expires_at(self, expires: float) -> None:
        """The token ends at that monotonic time."""
        self._expires = expires
        self._schedule()

    def end(
        self,
        code: CloseCode,
        reason: str,
        *,
        error: Error | None = None,
        spread: int = 0,
        leaving: bool = False,
    ) -> None:
        """Close in order: an error if there is one, `goodbye`, and the wire's own close. The session waits to
        be resumed if the code lets its client come back, unless it is `leaving`."""
        if self.stage is Stage.CLOSING:
            return
        if error is not None:
            self.node.counts.error(error.code)
            self.tell(error)
        self.tell(Goodbye(code=code, reason=reason, spread=spread))
        self._leave_session(Cause.LOST if may_reconnect(code) and not leaving else Cause.LEFT, code)
        self._close_stage()
        self.flush()
        self.wire.close(code, reason[: limits.MAX_REASON])

    def fence(self, code: CloseCode, reason: str, error: Error | None = None) -> None:
        """Close a connection whose session another one carries now, or has replaced."""
        self.session = None
        self.end(code, reason, error=error)

    def _leave_session(self, cause: Cause, code: int) -> None:
        session, self.session = self.session, None
        if session is None or session.connection is not self:
            return
        node = self.node
        if self.confirmed:
            session.confirm()
        node.channels.detached(session, self)
        node.session_lost(session, code)
        if cause is Cause.LOST:
            node.happenings.add(
                "detached", session.client_id, session.user, self.peer_address, f"closed with {int(code)}"
            )
        node.sessions.move(session, cause, node.now)
        if cause is Cause.LOST:
            node.links.detached(session)
        if self.probed:
            node.greeter.gone(self, session.client_id)

    def _close_stage(self) -> None:
        """Nothing counts any more, and nothing is kept."""
        self.stage = Stage.CLOSING
        self._handlers = HANDLERS[Stage.CLOSING]
        # A wire that goes away in the middle of a read may not tell the end of it.
        self.node.batching = False
        self.node.wake()
        self.full = True
        self._throttle = None
        self._heartbeat = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.recoveries is not None:
            recoveries, self.recoveries = self.recoveries, None
            recoveries.close()

    @property
    def bytes_sent(self) -> int:
        """Bytes of frames written."""
        return self._checked + self._unchecked

    @property
    def received_messages(self) -> int:
        """Messages received, of any kind."""
        return self.payloads + self.extra

    def happened(self, kind: Kind, detail: str) -> None:
        """Let the operator know of something that happened to this connection's client."""
        session = self.session
        client, user = (session.client_id, session.user) if session is not None else (None, None)
        self.node.happenings.add(kind, client, user, self.peer_address, detail)

    @property
    def confirmed(self) -> bool:
        """Whether a payload has come since `welcome`: the client knows its new secret."""
        return self.payloads > self._welcomed

    # --- time --------------------------------------------------------------------------------

    def _schedule(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        beat = self._heartbeat.next_timer() if self._heartbeat is not None else inf
        when = min(beat, self._deadline, self._expires)
        self._timer = self.node.timers.at(when, self._tick) if when < inf else None

    def _tick(self, now: float) -> None:
        """Something may be due: the heartbeat, a deadline, the token's end."""
        self._timer = None
        if self.stage is not Stage.OPEN:
            self.end(CloseCode.HELLO_TIMEOUT, "no hello in time")
            return
        if now >= self._expires:
            self.end(CloseCode.TOKEN_EXPIRED, "the token has expired")
            return
        if now >= self._deadline and not self._still_used(now):
            self.end(CloseCode.IDLE_TIMEOUT, "idle")
            return
        heartbeat = self._heartbeat
        assert heartbeat is not None
        if self.last_seen > self._seen_told:
            self._seen_told = self.last_seen
            heartbeat.alive(self.last_seen)
        beat = heartbeat.poll(now)
        if beat is Beat.LOST:
            self.node.counts.heartbeats_lost += 1
            self.end(CloseCode.HEARTBEAT_LOST, "no answer to pings")
            return
        if beat is Beat.PING:
            self.ping()
        self._schedule()

    def _still_used(self, now: float) -> bool:
        used = self.payloads > self._idle_mark
        self._idle_mark = self.payloads
        self._deadline = now + self.node.config.wire.idle_timeout_s
        return used

    def ping(self) -> None:
        """Ask for a sign of life, as this wire can."""
        self._pinged = self.node.clock.monotonic()
        if not self.wire.ping():
            self.tell(Ping())

    def afford(self, effort: float) -> bool:
        """Whether it may cause so much now (see `ratelimit.EFFORT_BURST`); that is counted then."""
        now = self.node.now
        if self._effort is None:
            self._effort = Effort(now)
        return self._effort.afford(effort, now)

    def exhaust(self, what: str) -> None:
        """It causes too much: send it away for a while."""
        node, text = self.node, f"too many changes of {what}"
        node.counts.rate_limited += 1
        node.log.warning(
            "effort", "a client causes too much", node.now, address=self.peer_address, problem=text
        )
        error = Error(code=ErrorCode.OVERLOADED, message=text, retry_after=1000, fatal=True)
        self.end(CloseCode.OVERLOADED, text, error=error)

    # --- rate limits -------------------------------------------------------------------------

    def _slow_down(self, messages: int, size: int) -> None:
        """Count what came; pause reading while the sender is in debt. What has been read is processed."""
        assert self._throttle is not None
        node = self.node
        pause = self._throttle.take(messages, size, node.clock.monotonic())
        if pause > 0:
            node.counts.rate_limited += 1
            if not self._paused_until:
                self.wire.pause_reading()
                node.timers.at(node.clock.monotonic() + pause, self._read_again)
            self._paused_until = node.clock.monotonic() + pause

    def _read_again(self, now: float) -> None:
        if now < self._paused_until:  # what had been parsed already made more debt
            self.node.timers.at(self._paused_until, self._read_again)
            return
        self._paused_until = 0.0
        self.wire.resume_reading()
