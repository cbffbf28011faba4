"""What the server counts, and how Prometheus reads it.

The hot path increments plain integers of one `Counts`; label objects exist only while a scrape is
answered. Labels are words of this program (kinds, codes, reasons), never a user, client, channel or
address, and every label set is bounded.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

KINDS: Final = ("message", "ack", "channel", "ephemeral", "signal", "session")
"""Kinds of messages: link messages, their acks (with skips, probes), channel traffic, ephemeral, signals,
and everything about sessions (hello, ping, watch, …)."""

MAX_LABELS: Final = 64
"""Values of one label; what comes after them counts as `other`. A peer chooses close codes, and must not
choose how large a scrape is."""

LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0)
"""Upper bounds (seconds) of the loop lag histogram; beyond 0.1 s pings start to suffer."""


DELIVERY_BUCKETS: Final = (
    0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0,
)  # fmt: skip
"""Upper bounds (seconds) of the delivery histogram: from one machine to a network that had to be waited
for."""


class Gauges(Struct, frozen=True):
    """What there is now; the node makes one when it is asked."""

    connections: int = 0
    sessions_active: int = 0
    sessions_detached: int = 0
    channels: int = 0
    subscriptions: int = 0
    links: int = 0
    mailbox_messages: int = 0
    mailbox_bytes: int = 0
    mailboxes: int = 0
    """Mailboxes with messages."""
    buffered_bytes: int = 0
    """Bytes waiting to be sent, over all connections."""
    slow: int = 0
    """Connections that have so much waiting that their senders wait."""
    bytes_received: int = 0
    """Bytes of payloads that came on the connections that are open."""


class Counts:
    """Everything counted since the start. Increment the integers directly; the methods are for what is rare
    enough to afford a dictionary."""

    __slots__ = (
        "ack_in",
        "ack_out",
        "api_requests",
        "bytes_in",
        "bytes_out",
        "channel_in",
        "channel_out",
        "closes",
        "connections",
        "delivered",
        "delivery_buckets",
        "delivery_sum",
        "duplicates",
        "ephemeral_in",
        "ephemeral_out",
        "errors",
        "heartbeats_lost",
        "jwks_fetches",
        "lag_buckets",
        "lag_last",
        "lag_sum",
        "lost",
        "message_in",
        "message_out",
        "publications",
        "rate_limited",
        "recoveries",
        "refusals",
        "resumes",
        "session_in",
        "session_out",
        "signal_in",
        "signal_out",
        "stored",
        "waits",
        "writes",
    )

    def __init__(self) -> None:
        # Messages by kind and direction; in: accepted from clients, out: written to one client.
        self.message_in = self.message_out = 0
        self.ack_in = self.ack_out = 0
        self.channel_in = self.channel_out = 0
        self.ephemeral_in = self.ephemeral_out = 0
        self.signal_in = self.signal_out = 0
        self.session_in = self.session_out = 0
        # Payload bytes (in: on connections that have ended; the others count for themselves), and writes to a
        # transport (a write may carry many messages).
        self.bytes_in = self.bytes_out = self.writes = 0
        self.connections = 0
        self.publications = 0
        self.duplicates = 0  # link messages that had come before
        self.waits = self.stored = 0  # answers to senders whose receiver is away
        self.delivered = self.lost = 0  # numbers settled
        self.rate_limited = self.heartbeats_lost = 0
        self.errors: dict[str, int] = {}
        self.closes: dict[str, int] = {}
        self.refusals: dict[str, int] = {}
        self.resumes: dict[str, int] = {}
        self.recoveries: dict[str, int] = {}
        self.lag_buckets = [0] * (len(LAG_BUCKETS) + 1)
        self.lag_sum = self.lag_last = 0.0
        self.delivery_buckets = [0] * (len(DELIVERY_BUCKETS) + 1)
        self.delivery_sum = 0.0
        self.api_requests: dict[tuple[str, int], int] = {}
        self.jwks_fetches: dict[str, int] = {}

    def error(self, code: str) -> None:
        """Count an `error` message sent."""
        _count(self.errors, code)

    def close(self, code: int) -> None:
        """Count a connection that ended with this close code."""
        _count(self.closes, str(int(code)))

    def refusal(self, reason: str) -> None:
        """Count an opening handshake refused: `origin`, `rate`, `connections`, `malformed`, …"""
        _count(self.refusals, reason)

    def resume(self, result: str) -> None:
        """Count a hello that named a session: `resumed` or `new`."""
        _count(self.resumes, result)

    def recovery(self, result: str) -> None:
        """Count a subscription that named a position: `complete` or `gap`."""
        _count(self.recoveries, result)

    def delivery(self, seconds: float) -> None:
        """Record how long a message took to be acknowledged by its receiver."""
        self.delivery_buckets[bisect_left(DELIVERY_BUCKETS, seconds)] += 1
        self.delivery_sum += seconds

    def deliveries(self) -> Iterator[tuple[float | None, int]]:
        """Yield (upper bound in seconds, how many took at most that long); the last bound is None."""
        total = 0
        for bound, count in zip((*DELIVERY_BUCKETS, None), self.delivery_buckets, strict=True):
            total += count
            yield bound, total

    def api_request(self, route: str, status: int) -> None:
        """Count an answer of the API; `route` is a path of its table."""
        key = route, status
        self.api_requests[key] = self.api_requests.get(key, 0) + 1

    def jwks_fetch(self, result: str) -> None:
        """Count a fetch of keys: `ok` or `failed`."""
        _count(self.jwks_fetches, result)

    def lag(self, seconds: float) -> None:
        """Record how late the event loop was."""
        self.lag_buckets[bisect_left(LAG_BUCKETS, seconds)] += 1
        self.lag_sum += seconds
        self.lag_last = seconds


def _count(counts: dict[str, int], label: str) -> None:
    if label not in counts and len(counts) >= MAX_LABELS:
        label = "other"
    counts[label] = counts.get(label, 0) + 1


class NodeCollector(Collector):
    """Turns counts and gauges into metrics when Prometheus asks."""

    def __init__(self, counts: Counts, gauges: Callable[[], Gauges]) -> None:
        self._counts = counts
        self._gauges = gauges

    def collect(self) -> Iterator[Metric]:
        """Yield every metric of the node."""
        now = self._gauges()
        yield from self._now(now)
        yield from self._traffic(now)
        yield from self._events()
        yield from self._http()

    def _now(self, now: Gauges) -> Iterator[Metric]:
        sessions = GaugeMetricFamily("duolink_sessions", "Sessions by state.", labels=["state"])
        sessions.add_metric(["active"], now.sessions_active)
        sessions.add_metric(["detached"], now.sessions_detached)
        yield GaugeMetricFamily("duolink_connections", "Connections open now.", value=now.connections)
        yield sessions
        yield GaugeMetricFamily("duolink_channels", "Channels with a subscriber.", value=now.channels)
        yield GaugeMetricFamily("duolink_subscriptions", "Subscriptions.", value=now.subscriptions)
        yield GaugeMetricFamily("duolink_links", "Ways from a client to a peer.", value=now.links)
        yield GaugeMetricFamily(
            "duolink_mailbox_messages", "Messages kept for clients that are away.", value=now.mailbox_messages
        )
        yield GaugeMetricFamily(
            "duolink_mailbox_bytes",
            "Bytes of messages kept for clients that are away.",
            value=now.mailbox_bytes,
        )
        yield GaugeMetricFamily(
            "duolink_send_buffer_bytes", "Bytes waiting to be sent.", value=now.buffered_bytes
        )
        yield GaugeMetricFamily(
            "duolink_mailboxes", "Mailboxes that have messages or losses.", value=now.mailboxes
        )
        yield GaugeMetricFamily(
            "duolink_slow_consumers", "Connections so far behind that their senders wait.", value=now.slow
        )

    def _traffic(self, now: Gauges) -> Iterator[Metric]:
        counts = self._counts
        messages = CounterMetricFamily(
            "duolink_messages", "Messages by kind and direction.", labels=["kind", "direction"]
        )
        for kind in KINDS:
            for direction in ("in", "out"):
                messages.add_metric([kind, direction], getattr(counts, f"{kind}_{direction}"))
        yield messages
        size = CounterMetricFamily("duolink_bytes", "Payload bytes by direction.", labels=["direction"])
        size.add_metric(["in"], counts.bytes_in + now.bytes_received)
        size.add_metric(["out"], counts.bytes_out)
        yield size
        settled = CounterMetricFamily(
            "duolink_settled", "Link messages settled by their end.", labels=["result"]
        )
        settled.add_metric(["delivered"], counts.delivered)
        settled.add_metric(["lost"], counts.lost)
        yield settled
        for name, text, value in (
            ("writes", "Writes to transports.", counts.writes),
            ("connections_opened", "Connections accepted.", counts.connections),
            ("publications", "Messages published to channels.", counts.publications),
            ("duplicates", "Link messages that had come before and were dropped.", counts.duplicates),
            ("waits", "Senders told to keep messages for an absent receiver.", counts.waits),
            ("stored", "Link messages stored in a mailbox.", counts.stored),
            ("rate_limited", "Pauses of reading by a rate limit.", counts.rate_limited),
            ("heartbeats_lost", "Connections whose heartbeat was lost.", counts.heartbeats_lost),
        ):
            yield CounterMetricFamily(f"duolink_{name}", text, value=value)

    def _events(self) -> Iterator[Metric]:
        counts = self._counts
        for name, text, label, values in (
            ("errors", "Errors sent to clients.", "code", counts.errors),
            ("closes", "Connections ended, by close code.", "code", counts.closes),
            ("handshake_refusals", "Opening handshakes refused.", "reason", counts.refusals),
            ("resumes", "Hellos that named a session.", "result", counts.resumes),
            ("recoveries", "Subscriptions that named a position.", "result", counts.recoveries),
        ):
            family = CounterMetricFamily(f"duolink_{name}", text, labels=[label])
            for value in sorted(values):
                family.add_metric([value], values[value])
            yield family
        yield GaugeMetricFamily(
            "duolink_loop_lag_last_seconds", "Lateness of the event loop, last sample.", value=counts.lag_last
        )
        total, buckets = 0, []
        for bound, count in zip((*map(str, LAG_BUCKETS), "+Inf"), counts.lag_buckets, strict=True):
            total += count
            buckets.append((bound, float(total)))
        yield HistogramMetricFamily(
            "duolink_loop_lag_seconds",
            "Lateness of the event loop.",
            buckets=buckets,
            sum_value=counts.lag_sum,
        )
        yield HistogramMetricFamily(
            "duolink_delivery_seconds",
            "From a message's arrival to its receiver's acknowledgement; about one a second of each link.",
            buckets=[("+Inf" if bound is None else str(bound), n) for bound, n in counts.deliveries()],
            sum_value=counts.delivery_sum,
        )

    def _http(self) -> Iterator[Metric]:
        requests = CounterMetricFamily(
            "duolink_api_requests", "Requests to the operator's API.", labels=["route", "status"]
        )
        for (route, status), count in sorted(self._counts.api_requests.items()):
            requests.add_metric([route, str(status)], count)
        yield requests
        fetches = CounterMetricFamily(
            "duolink_jwks_fetches", "Fetches of the keys at auth.jwks_url.", labels=["result"]
        )
        for result in sorted(self._counts.jwks_fetches):
            fetches.add_metric([result], self._counts.jwks_fetches[result])
        yield fetches


def make_registry(counts: Counts, gauges: Callable[[], Gauges]) -> CollectorRegistry:
    """Return a registry of its own with the node's metrics and those of process and interpreter."""
    registry = CollectorRegistry()
    registry.register(NodeCollector(counts, gauges))
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    GCCollector(registry=registry)
    return registry


def render(registry: CollectorRegistry, accept: str = "") -> tuple[str, bytes]:
    """Return (content type, body) of a scrape, in the format the `Accept` header asks for."""
    encode, content_type = choose_encoder(accept)
    return content_type, encode(registry)


class LagSampler:
    """Measures how late timers of an event loop are, once per interval, into `Counts.lag`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, counts: Counts, interval_s: float = 0.5) -> None:
        self._loop = loop
        self._counts = counts
        self._interval = interval_s
        self._due = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to sample."""
        self._due = self._loop.time() + self._interval
        self._timer = self._loop.call_at(self._due, self._sample)

    def stop(self) -> None:
        """Stop; nothing stays scheduled."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _sample(self) -> None:
        self._counts.lag(max(0.0, self._loop.time() - self._due))
        self.start()
