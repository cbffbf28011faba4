"""The server's log: lines for people or for machines, and never a flood.

`configure` sets up structlog, and the standard library's logging beneath it, to write to standard error.
JSON lines use the field names of the Elastic Common Schema. Text that came from outside is escaped
and cut, so that nobody writes lines of his own into the log.
"""

import logging
import sys
from collections import OrderedDict
from collections.abc import MutableMapping
from typing import Any, Final, Literal, TextIO

import structlog

MAX_TEXT: Final = 500
"""Characters of one value in a log line; an SDP or a token has no place there."""

MAX_KEYS: Final = 1024
"""Keys a `LimitedLog` remembers; the oldest is summed up and forgotten."""

ECS_VERSION: Final = "8.11"
"""Version of the Elastic Common Schema the field names follow."""

Level = Literal["debug", "info", "warning", "error"]


def printable(text: str | bytes, limit: int = MAX_TEXT) -> str:
    r"""Return text that came from outside as it may appear in a log or an error: at most `limit` characters,
    control and direction characters as escapes (`\x0a`, `\u202e`)."""
    if isinstance(text, bytes):
        text = text[: limit + 1].decode("utf-8", "backslashreplace")
    cut = text[:limit]
    if not cut.isprintable():
        cut = "".join(
            c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in cut
        )
    return cut + "…" if len(text) > limit else cut


def configure(
    level: Level = "info",
    format: Literal["console", "json"] | None = None,
    stream: TextIO | None = None,
) -> None:
    """Send all logging of this process to `stream` (standard error), at `level` and above.

    `format` None means `console` on a terminal, else `json`.
    """
    stream = stream if stream is not None else sys.stderr
    if format is None:
        format = "console" if stream.isatty() else "json"
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="@timestamp"),
        escape,
    ]
    if format == "json":
        last: list[Any] = [structlog.processors.format_exc_info, ecs, structlog.processors.JSONRenderer()]
    else:
        console = structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), timestamp_key="@timestamp", exception_formatter=_plain_traceback
        )
        last = [console]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    root = logging.getLogger()
    for old in [h for h in root.handlers if getattr(h, "duolink", False)]:
        root.removeHandler(old)
    handler.duolink = True  # type: ignore[attr-defined]
    root.addHandler(handler)
    root.setLevel(level.upper())
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )


def _plain_traceback(stream: TextIO, exc_info: Any) -> None:
    structlog.dev.plain_traceback(stream, exc_info)


def escape(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Make every text of a log event harmless (structlog processor)."""
    for key, value in event.items():
        if isinstance(value, str | bytes):
            event[key] = printable(value)
    return event


def ecs(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Rename structlog's fields to those of ECS (structlog processor)."""
    renamed: dict[str, Any] = {
        "@timestamp": event.pop("@timestamp", None),
        "log.level": event.pop("level", None),
        "message": event.pop("event", ""),
        "ecs.version": ECS_VERSION,
        "log.logger": event.pop("logger", None),
    }
    if "exception" in event:
        renamed["error.stack_trace"] = event.pop("exception")
    return {**{k: v for k, v in renamed.items() if v is not None}, **event}


class _Window:
    __slots__ = ("lines", "since", "suppressed")

    def __init__(self, since: float) -> None:
        self.since = since
        self.lines = 0
        self.suppressed = 0


class LimitedLog:
    """A logger for what strangers can cause: per key at most `lines` lines in an interval, then one line that
    says how many were left out (`suppressed`).

    A key is the kind of event (an error code), or the kind with an address. Time is an argument (monotonic
    seconds). Call `flush` now and then, and with `now=inf` at the end, to write summaries that
    are due though nothing more happened.
    """

    def __init__(self, logger: Any, lines: int = 5, interval_s: float = 60.0) -> None:
        self._logger = logger
        self._lines = lines
        self._interval = interval_s
        self._windows: OrderedDict[str, _Window] = OrderedDict()

    def warning(self, key: str, event: str, now: float, **fields: Any) -> None:
        """Write a warning, or count it as suppressed."""
        window = self._windows.get(key)
        if window is not None and now - window.since >= self._interval:
            self._end(key)
            window = None
        if window is None:
            if len(self._windows) >= MAX_KEYS:
                self._end(next(iter(self._windows)))
            window = self._windows[key] = _Window(now)
        if window.lines < self._lines:
            window.lines += 1
            self._logger.warning(event, **fields)
        else:
            window.suppressed += 1

    def flush(self, now: float) -> None:
        """Sum up and forget every key whose interval is over. Windows begin in the order of the table."""
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now - window.since < self._interval:
                return
            self._end(key)

    def _end(self, key: str) -> None:
        window = self._windows.pop(key)
        if window.suppressed:
            self._logger.warning("more of the same", key=key, suppressed=window.suppressed)
