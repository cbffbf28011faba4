"""Metrics: plain counts in, Prometheus text out."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from duolink.server.metrics import KINDS, MAX_LABELS, Counts, Gauges, LagSampler, make_registry, render

NOTHING = Gauges()


def scrape(counts: Counts, gauges: Gauges = NOTHING) -> dict[str, float]:
    """Return every sample of a scrape as `name{label=value}` → number."""
    content_type, body = render(make_registry(counts, lambda: gauges))
    assert content_type.startswith("text/plain")
    samples: dict[str, float] = {}
    for family in text_string_to_metric_families(body.decode()):
        for sample in family.samples:
            labels = ",".join(f"{k}={v}" for k, v in sorted(sample.labels.items()))
            name = f"{sample.name}{{{labels}}}"
            assert name not in samples
            samples[name] = sample.value
    return samples


def test_every_integer_is_exported_once():
    counts = Counts()
    names = [n for n in Counts.__slots__ if isinstance(getattr(counts, n), int)]
    for value, name in enumerate(names, 1001):
        setattr(counts, name, value)
    values = list(scrape(counts).values())
    for value, name in enumerate(names, 1001):
        assert values.count(value) == 1, name


def test_messages_are_labelled_by_kind_and_direction():
    counts = Counts()
    for kind in KINDS:
        setattr(counts, f"{kind}_in", 1)
        setattr(counts, f"{kind}_out", 2)
    samples = scrape(counts)
    for kind in KINDS:
        assert samples[f"duolink_messages_total{{direction=in,kind={kind}}}"] == 1
        assert samples[f"duolink_messages_total{{direction=out,kind={kind}}}"] == 2


def test_gauges_are_asked_for_at_every_scrape():
    samples = scrape(Counts(), Gauges(connections=3, sessions_active=2, sessions_detached=1, channels=4))
    assert samples["duolink_connections{}"] == 3
    assert samples["duolink_sessions{state=active}"] == 2
    assert samples["duolink_sessions{state=detached}"] == 1
    assert samples["duolink_channels{}"] == 4


def test_rare_events_are_counted_by_label():
    counts = Counts()
    counts.error("malformed")
    counts.error("malformed")
    counts.close(3001)
    counts.refusal("origin")
    counts.resume("resumed")
    counts.recovery("gap")
    samples = scrape(counts)
    assert samples["duolink_errors_total{code=malformed}"] == 2
    assert samples["duolink_closes_total{code=3001}"] == 1
    assert samples["duolink_handshake_refusals_total{reason=origin}"] == 1
    assert samples["duolink_resumes_total{result=resumed}"] == 1
    assert samples["duolink_recoveries_total{result=gap}"] == 1


def test_a_peer_cannot_make_a_scrape_grow():
    counts = Counts()
    for code in range(3000, 5000):
        counts.close(code)
    counts.close(3000)
    assert len(counts.closes) == MAX_LABELS + 1
    assert counts.closes["other"] == 2000 - MAX_LABELS
    assert counts.closes["3000"] == 2
    assert sum(counts.closes.values()) == 2001


def test_labels_cannot_break_the_format():
    counts = Counts()
    counts.error('a"b\\c\nd')
    assert scrape(counts)['duolink_errors_total{code=a"b\\c\nd}'] == 1


def test_the_histogram_of_lag_is_cumulative():
    counts = Counts()
    for seconds in (0.0, 0.001, 0.002, 0.3, 9.0):
        counts.lag(seconds)
    samples = scrape(counts)
    assert samples["duolink_loop_lag_seconds_bucket{le=0.001}"] == 2
    assert samples["duolink_loop_lag_seconds_bucket{le=0.005}"] == 3
    assert samples["duolink_loop_lag_seconds_bucket{le=5.0}"] == 4
    assert samples["duolink_loop_lag_seconds_bucket{le=+Inf}"] == 5
    assert samples["duolink_loop_lag_seconds_count{}"] == 5
    assert samples["duolink_loop_lag_seconds_sum{}"] == pytest.approx(9.303)
    assert samples["duolink_loop_lag_last_seconds{}"] == 9.0


def test_process_and_interpreter_are_there_too():
    samples = scrape(Counts())
    assert any(name.startswith("process_resident_memory_bytes") for name in samples)
    assert any(name.startswith("python_gc_collections_total") for name in samples)


def test_openmetrics_is_spoken_when_asked_for():
    content_type, body = render(
        make_registry(Counts(), Gauges), "application/openmetrics-text; version=1.0.0"
    )
    assert content_type.startswith("application/openmetrics-text")
    assert body.endswith(b"# EOF\n")


class ManualLoop:
    """The two methods of an event loop the sampler uses, with a clock moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[tuple[float, Callable[[], None], asyncio.Event]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        timer = Timer()
        self.timers.append((when, callback, timer))  # type: ignore[arg-type]
        return timer

    def run(self, late: float) -> None:
        when, callback, timer = self.timers.pop(0)
        self.now = when + late
        if not timer.cancelled:  # type: ignore[attr-defined]
            callback()


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


def test_the_sampler_records_how_late_its_timer_is():
    loop, counts = ManualLoop(), Counts()
    sampler = LagSampler(loop, counts, 0.5)  # type: ignore[arg-type]
    sampler.start()
    loop.run(late=0.02)
    assert counts.lag_last == pytest.approx(0.02)
    loop.run(late=0.0)
    assert counts.lag_last == pytest.approx(0.0)
    assert loop.timers[0][0] == pytest.approx(loop.now + 0.5)
    sampler.stop()
    sampler.stop()
    loop.run(late=1.0)
    assert sum(counts.lag_buckets) == 2
    assert not loop.timers
