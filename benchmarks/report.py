"""Results as a terminal table, Markdown and a chart."""

import platform
from dataclasses import dataclass
from datetime import UTC, datetime
from html import escape
from pathlib import Path
from statistics import median
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from benchmarks.scenario import Scenario, Server

BEGIN: Final = "<!-- results: written by `make bench` -->"
END: Final = "<!-- end of results -->"


@dataclass(frozen=True, slots=True)
class Row:
    """The medians of one server under one scenario."""

    server: Server
    figure: float
    lowest: float
    highest: float
    ratio: float | None
    p50: float
    p95: float
    p99: float
    rate: float
    written: int
    """Bytes it wrote to a disk during the measurement, in the worst round."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario with all its servers."""

    scenario: Scenario
    rows: list[Row]

    @property
    def judged(self) -> float:
        """The number that `must` and `goal` bound."""
        row = self.rows[0]
        if row.ratio is None:
            return row.figure
        return row.ratio * (1 - self.scenario.slack / row.figure)

    @property
    def verdict(self) -> str:
        """`goal` reached, `must` kept, or `missed`; empty where nothing is asked."""
        scenario = self.scenario
        if scenario.must is None:
            return ""
        if self._wrote or not self._keeps(scenario.must):
            return "missed"
        return "goal" if scenario.goal is not None and self._keeps(scenario.goal) else "must"

    @property
    def sentence(self) -> str:
        """The verdict, and what was asked."""
        scenario = self.scenario
        if scenario.must is None:
            return ""
        sign = "≥" if scenario.more_is_better else "≤"
        asked = f"{sign} {scenario.must:g}"
        if scenario.slack:
            asked += f" × + {scenario.slack:,.0f} {scenario.unit}"
        if not scenario.relative:
            asked += f" {scenario.unit}"
        elif scenario.goal is None:
            asked = f"must {asked}"
        else:
            asked = f"must {asked}, goal {scenario.goal:g}"
        wrote = f", but wrote {self.rows[0].written:,} bytes" if self._wrote else ""
        return f"{_WORDS[self.verdict]} ({asked}{wrote})"

    @property
    def _wrote(self) -> bool:
        return self.scenario.writes_nothing and self.rows[0].written > 0

    def _keeps(self, bound: float) -> bool:
        return self.judged >= bound if self.scenario.more_is_better else self.judged <= bound


def summarise(scenario: Scenario, runs: dict[Server, list[dict[str, float]]]) -> Outcome:
    """Turn the rounds of one scenario into medians, and these into ratios to the second server."""
    keys = {server: server.figure or scenario.figure for server in scenario.servers}
    figures = {server: median(run[keys[server]] for run in runs[server]) for server in scenario.servers}
    reference = figures[scenario.servers[1]]
    rows = []
    for server in scenario.servers:
        results = runs[server]
        found = [run[keys[server]] for run in results]
        p50, p95, p99, rate = (
            median(run.get(name, 0.0) for run in results)
            for name in ("p50_us", "p95_us", "p99_us", "messages_per_second")
        )
        rows.append(
            Row(
                server=server,
                figure=figures[server],
                lowest=min(found),
                highest=max(found),
                ratio=figures[server] / reference if scenario.relative else None,
                p50=p50,
                p95=p95,
                p99=p99,
                rate=rate,
                written=int(max(run.get("written_bytes", 0) for run in results)),
            )
        )
    return Outcome(scenario, rows)


_STYLES: Final = {"": "none", "goal": "bold green", "must": "yellow", "missed": "bold red"}
_WORDS: Final = {"goal": "goal reached", "must": "must kept", "missed": "MISSED"}


def table(outcome: Outcome) -> Table:
    """One scenario for a terminal of 80 columns."""
    scenario = outcome.scenario
    title = Text(f"{scenario.title}  ", "bold").append(outcome.sentence, _STYLES[outcome.verdict])
    result = Table(
        title=title,
        title_justify="left",
        title_style="none",
        box=box.SIMPLE_HEAD,
        padding=0,
        show_edge=False,
        min_width=78,
    )
    result.add_column("server", no_wrap=True)
    names = ["ratio"] * scenario.relative
    if scenario.messages:
        names += ["p50 µs", "p99 µs", *["msg/s"] * (scenario.figure != "messages_per_second")]
    for name in (scenario.unit, "spread", *names):
        result.add_column(f"  {name}", justify="right", no_wrap=True)
    for row in outcome.rows:
        values = {"ratio": row.ratio, "p50 µs": row.p50, "p99 µs": row.p99, "msg/s": row.rate}
        cells = [_whole(values[name]) if name != "ratio" else f"{row.ratio:.2f}" for name in names]
        result.add_row(row.server.name, _number(row.figure), _spread(row), *cells)
    return result


def _number(value: float) -> str:
    """A figure with as many digits as mean something."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"


def _spread(row: Row) -> str:
    return f"{_number(row.lowest)}–{_number(row.highest)}"


def _whole(value: float | None) -> str:
    return f"{value:,.0f}" if value else ""


def markdown(outcomes: list[Outcome], rounds: int, pairs: int, load: float) -> str:
    """The results as a block for docs/performance.md. `load`: the load average before the first round."""
    today = datetime.now(UTC).date().isoformat()
    lines = [
        f"{today}, {_processor()}, Linux {platform.release().split('-')[0]}, CPython "
        f"{platform.python_version()}; {rounds} rounds, {pairs} pairs, load average {load:.1f} before.",
        "",
        "| load | server | figure | ratio | p50 µs | p95 µs | p99 µs | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        for row in outcome.rows:
            first = row is outcome.rows[0]
            cells = [
                outcome.scenario.title if first else "",
                f"**{row.server.name}**" if first else row.server.name,
                f"{_number(row.figure)} {outcome.scenario.unit} ({_spread(row)})",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                *(_whole(value) for value in (row.p50, row.p95, row.p99)),
                outcome.sentence if first else "",
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write_markdown(path: Path, block: str) -> None:
    """Put the block between the markers of a document. Raises ValueError when they are missing."""
    text = path.read_text()
    head, begin, rest = text.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{path} has no place for the results: {BEGIN} … {END}")
    path.write_text(f"{head}{BEGIN}\n\n{block}\n{END}{tail}")


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


# --- the chart -----------------------------------------------------------------------------

_WIDTH: Final = 760
_LEFT: Final = 230
_BAR: Final = 18
_GAP: Final = 6
_COLOUR: Final = "#2563eb"
_LIGHT: Final = "#93b4f5"
_OTHER: Final = "#9ca3af"


def chart(outcomes: list[Outcome]) -> str:
    """The results as bars in an SVG; each load has its own scale."""
    parts = []
    y = 10
    for outcome in outcomes:
        y += 22
        title = escape(f"{outcome.scenario.title}: {outcome.scenario.unit} {outcome.scenario.meaning}")
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{title}</text>')
        y += 8
        longest = max(row.figure for row in outcome.rows)
        for row in outcome.rows:
            width = max(1.0, (_WIDTH - _LEFT - 120) * row.figure / longest)
            middle = y + _BAR - 5
            label = _number(row.figure) + ("" if row.ratio is None else f"  ×{row.ratio:.2f}")
            parts += [
                f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(row.server.name)}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" '
                f'fill="{_colour(outcome, row)}"/>',
                f'<text x="{_LEFT + width + 6:.1f}" y="{middle}">{label}</text>',
            ]
            y += _BAR + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 10}" width="{_WIDTH}" '
        f'font-family="sans-serif" font-size="13" fill="#1f2937">\n'
        f'<rect width="{_WIDTH}" height="{y + 10}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _colour(outcome: Outcome, row: Row) -> str:
    """What is judged stands out; other ways to run duolink are of its family."""
    if row is outcome.rows[0]:
        return _COLOUR
    return _LIGHT if row.server.protocol == "duolink" else _OTHER
