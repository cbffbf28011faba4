"""The server as a whole: what it is, and samples of what it does."""

import os
import resource
import sys
import time
from typing import Final, Literal

import msgspec
from starlette.responses import Response

from duolink.protocol.codes import CloseCode
from duolink.server import answers
from duolink.server.api import documents as doc
from duolink.server.api.arguments import Ask
from duolink.server.api.backend import Backend
from duolink.server.happenings import Happened

FRESH: Final = 0.2
"""Seconds a sample is given again: a look at every connection (2 ms for 20,000) is not made for each
reader."""

_SLOW: Final = str(int(CloseCode.SLOW_CONSUMER))
_PAGE_SIZE: Final = os.sysconf("SC_PAGE_SIZE")


class Overview:
    """Answers `/api/server`, `/api/stats` and `/api/happenings`."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._sample: tuple[float, bytes] = -1.0, b""

    async def server(self, ask: Ask) -> Response:
        """What it is."""
        return answers.json(self.info())

    async def stats(self, ask: Ask) -> Response:
        """A sample."""
        return answers.encoded(self.sample())

    async def happenings(self, ask: Ask) -> Response:
        """The ring."""
        found = self._backend.node.happenings.after(ask.query["after"], ask.query["limit"])
        items = [happening(each) for each in found]
        return answers.json(doc.Happenings(items=items, next=items[-1].id if items else None))

    def info(self) -> doc.ServerInfo:
        """Return what it is."""
        backend = self._backend
        node, config = backend.node, backend.config
        reasons = list(backend.not_ready())
        auth: Literal["none", "jwt", "external"] = "jwt"
        if config.auth.external:
            auth = "external"
        elif config.development:
            auth = "none"
        return doc.ServerInfo(
            node=node.name,
            version=backend.version,
            started=backend.started_wall,
            now=node.clock.wall_ms(),
            uptime_s=round(backend.uptime, 3),
            development=config.development,
            durable=node.durable,
            database=config.storage.database,
            ready=not reasons,
            reasons=reasons,
            draining=node.draining,
            auth=auth,
            limits=doc.ClientLimits(**msgspec.structs.asdict(node.greeter.told_limits())),
        )

    def sample(self) -> bytes:
        """Return a sample, encoded; at most `FRESH` old."""
        now = self._backend.node.clock.monotonic()
        made, body = self._sample
        if not body or now - made >= FRESH:
            body = doc.encode(self._measure())
            self._sample = now, body
        return body

    def _measure(self) -> doc.Stats:
        backend = self._backend
        node, counts = backend.node, backend.counts
        gauges = node.gauges(buffered=False)
        transports = backend.transports()
        buckets = list(counts.deliveries())
        return doc.Stats(
            time=node.clock.wall_ms(),
            uptime_s=round(backend.uptime, 3),
            connections=doc.ConnectionCounts(
                websocket=transports.websocket, tcp=transports.tcp, http=transports.http
            ),
            sessions=doc.SessionCounts(active=gauges.sessions_active, detached=gauges.sessions_detached),
            messages=doc.Totals(
                received=counts.message_in + counts.channel_in + counts.ephemeral_in,
                sent=counts.message_out + counts.channel_out + counts.ephemeral_out,
            ),
            bytes=doc.Totals(received=counts.bytes_in + gauges.bytes_received, sent=counts.bytes_out),
            delivery=doc.DeliveryTimes(count=buckets[-1][1], buckets=buckets),
            channels=gauges.channels,
            subscriptions=gauges.subscriptions,
            mailboxes=doc.MailboxTotals(
                mailboxes=gauges.mailboxes, messages=gauges.mailbox_messages, bytes=gauges.mailbox_bytes
            ),
            slow_consumers=doc.SlowConsumers(held=gauges.slow, closed=counts.closes.get(_SLOW, 0)),
            refusals=sum(counts.refusals.values()),
            errors=sum(counts.errors.values()),
            loop_lag_ms=round(counts.lag_last * 1000, 3),
            cpu_s=round(time.process_time(), 3),
            memory=resident(),
        )


def happening(happened: Happened) -> doc.Happening:
    """Return an event as a document."""
    return doc.Happening(**happened._asdict())


def resident() -> int:
    """Return the resident bytes of this process; where the system does not say, the most it ever had."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * _PAGE_SIZE
    except (OSError, ValueError, IndexError):
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
