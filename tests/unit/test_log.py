"""The log: two formats, nothing from outside unescaped, and no floods."""

import io
import json
import logging
import math
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from duolink.server.log import MAX_KEYS, LimitedLog, configure, printable


@pytest.fixture(autouse=True)
def restored() -> Iterator[None]:
    """Leave logging as it was found."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def json_lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_json_lines_have_ecs_names():
    stream = io.StringIO()
    configure("info", "json", stream)
    structlog.get_logger("duolink.node").info("client came", **{"client.address": "192.0.2.1", "n": 3})
    (line,) = json_lines(stream)
    assert line.pop("@timestamp").endswith("Z")
    assert line == {
        "log.level": "info",
        "message": "client came",
        "ecs.version": "8.11",
        "log.logger": "duolink.node",
        "client.address": "192.0.2.1",
        "n": 3,
    }


def test_the_standard_librarys_logging_comes_out_the_same_way():
    stream = io.StringIO()
    configure("info", "json", stream)
    logging.getLogger("asyncio.slow").warning("odd %s", "thing")
    (line,) = json_lines(stream)
    assert (line["message"], line["log.level"], line["log.logger"]) == (
        "odd thing",
        "warning",
        "asyncio.slow",
    )


def test_an_exception_is_one_line_of_json():
    stream = io.StringIO()
    configure("info", "json", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger("x").exception("it failed")
    (line,) = json_lines(stream)
    assert "RuntimeError: broken" in line["error.stack_trace"]


def test_the_console_shows_lines_for_people():
    stream = io.StringIO()
    configure("info", "console", stream)
    structlog.get_logger("x").info("listening", port=8080)
    assert "listening" in stream.getvalue()
    assert "port=8080" in stream.getvalue()
    assert "\x1b" not in stream.getvalue(), "no colours into a file"


def test_the_console_shows_tracebacks():
    stream = io.StringIO()
    configure("info", "console", stream)
    try:
        raise RuntimeError("broken")
    except RuntimeError:
        structlog.get_logger("x").exception("it failed")
    assert "RuntimeError: broken" in stream.getvalue()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("stream", "is_json"), [(io.StringIO(), True), (Terminal(), False)])
def test_the_format_follows_the_stream(stream, is_json):
    configure("info", None, stream)
    structlog.get_logger("x").info("hello")
    assert stream.getvalue().startswith("{") == is_json


def test_without_a_stream_it_goes_to_standard_error(capsys):
    configure("info", "json")
    structlog.get_logger("x").info("hello")
    captured = capsys.readouterr()
    assert "hello" in captured.err
    assert captured.out == ""


def test_what_is_below_the_level_is_left_out():
    stream = io.StringIO()
    configure("warning", "json", stream)
    structlog.get_logger("x").info("chatter")
    logging.getLogger("x").info("chatter")
    structlog.get_logger("x").warning("news")
    assert [line["message"] for line in json_lines(stream)] == ["news"]


def test_configuring_again_replaces_the_first():
    first, second = io.StringIO(), io.StringIO()
    configure("info", "json", first)
    configure("info", "json", second)
    structlog.get_logger("x").info("once")
    assert first.getvalue() == ""
    assert len(json_lines(second)) == 1


@pytest.mark.parametrize("format", ["console", "json"])
def test_nobody_writes_lines_of_his_own(format):
    stream = io.StringIO()
    configure("info", format, stream)
    hostile = "x\nERROR forged\r\x1b[31m\u202e"
    structlog.get_logger("x").warning(hostile, client=hostile, raw=hostile.encode())
    logging.getLogger("x").warning("from %s", hostile)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert not any(c in stream.getvalue() for c in "\r\x1b\u202e")


def test_printable_text():
    assert printable("Zoë 你好 🙂") == "Zoë 你好 🙂"
    assert printable("a\nb\x00\x1b\u202e\u2028") == r"a\nb\x00\x1b\u202e\u2028"
    assert printable("\ud800") == r"\ud800"
    assert printable(b"a\xffb\n") == r"a\xffb\n"
    assert printable("x" * 600) == "x" * 500 + "…"
    assert printable(b"x" * 20, limit=10) == "x" * 10 + "…"
    assert printable("x" * 10, limit=10) == "x" * 10


class Lines:
    """Collects what a logger is told."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def warning(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


def test_a_flood_becomes_a_few_lines_and_a_summary():
    lines = Lines()
    log = LimitedLog(lines, lines=3, interval_s=60)
    for n in range(1000):
        log.warning("malformed", "bad message", n / 100, n=n)
    assert [fields["n"] for _, fields in lines.lines] == [0, 1, 2]
    log.flush(59.9)
    assert len(lines.lines) == 3
    log.flush(60.0)
    assert lines.lines[3:] == [("more of the same", {"key": "malformed", "suppressed": 997})]
    log.flush(math.inf)
    assert len(lines.lines) == 4


def test_a_new_interval_begins_with_the_summary_of_the_last():
    lines = Lines()
    log = LimitedLog(lines, lines=1, interval_s=10)
    for now in (0, 1, 2, 10):
        log.warning("k", f"event {now}", now)
    assert [event for event, _ in lines.lines] == ["event 0", "more of the same", "event 10"]


def test_keys_do_not_silence_each_other():
    lines = Lines()
    log = LimitedLog(lines, lines=1, interval_s=10)
    for key in ("a", "b", "a", "b"):
        log.warning(key, key, 0.0)
    assert [event for event, _ in lines.lines] == ["a", "b"]


def test_quiet_keys_need_no_summary():
    lines = Lines()
    log = LimitedLog(lines, lines=1, interval_s=10)
    log.warning("a", "a", 0.0)
    log.flush(math.inf)
    assert len(lines.lines) == 1


def test_the_table_of_keys_is_bounded_and_loses_no_count():
    lines = Lines()
    log = LimitedLog(lines, lines=1, interval_s=10)
    for n in range(MAX_KEYS + 10):
        log.warning(f"k{n}", "event", 0.0)
        log.warning(f"k{n}", "event", 0.0)
    log.flush(math.inf)
    assert sum(fields.get("suppressed", 0) for _, fields in lines.lines) == MAX_KEYS + 10
