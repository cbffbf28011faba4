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

from benchmarks.scenario import DUOLINK, SEPARATE, Scenario, Server

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


@dataclass(frozen=True, slots=True)
class Outcome:
    """One scenario with all its servers."""

    scenario: Scenario
    rows: list[Row]

    @property
    def judged(self) -> float:
        """The number that `must` and `goal` bound."""
        row = self.rows[0]
        return row.figure if row.ratio is None else row.ratio

    @property
    def verdict(self) -> str:
        """`goal` reached, `must` kept, or `missed`; empty where nothing is asked."""
        scenario = self.scenario
        if scenario.must is None or scenario.goal is None:
            return ""
        if self.judged <= scenario.goal:
            return "goal"
        return "must" if self.judged <= scenario.must else "missed"

    @property
    def sentence(self) -> str:
        """The verdict, and what was asked."""
        scenario = self.scenario
        if not self.verdict:
            return ""
        if not scenario.relative:
            return f"{_WORDS[self.verdict]} (≤ {scenario.must:g} {scenario.unit})"
        return f"{_WORDS[self.verdict]} (must ≤ {scenario.must:g}, goal {scenario.goal:g})"


def summarise(scenario: Scenario, runs: dict[Server, list[dict[str, float]]]) -> Outcome:
    """Turn the rounds of one scenario into medians, and these into ratios to the second server."""
    key = "kib" if not scenario.messages else "cpu_us"
    figures = {server: median(run[key] for run in runs[server]) for server in scenario.servers}
    reference = figures[scenario.servers[1]]
    rows = []
    for server in scenario.servers:
        results = runs[server]
        p50, p95, p99, rate = (
            median(run.get(name, 0.0) for run in results)
            for name in ("p50_us", "p95_us", "p99_us", "messages_per_second")
        )
        rows.append(
            Row(
                server=server,
                figure=figures[server],
                lowest=min(run[key] for run in results),
                highest=max(run[key] for run in results),
                ratio=figures[server] / reference if scenario.relative else None,
                p50=p50,
                p95=p95,
                p99=p99,
                rate=rate,
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
    names = [scenario.unit, "spread", *(("ratio", "p50 µs", "p99 µs", "msg/s") if scenario.messages else ())]
    for name in names:
        result.add_column(f"  {name}", justify="right", no_wrap=True)
    for row in outcome.rows:
        cells = [f"{row.figure:.2f}", f"{row.lowest:.2f}–{row.highest:.2f}"]
        if row.ratio is not None:
            cells += [f"{row.ratio:.2f}", *(f"{value:,.0f}" for value in (row.p50, row.p99, row.rate))]
        result.add_row(row.server.name, *cells)
    return result


def markdown(outcomes: list[Outcome], rounds: int, pairs: int, load: float) -> str:
    """The results as a block for docs/performance.md. `load`: the load average before the first round."""
    today = datetime.now(UTC).date().isoformat()
    lines = [
        f"{today}, {_processor()}, Linux {platform.release().split('-')[0]}, CPython "
        f"{platform.python_version()}; {rounds} rounds, {pairs} pairs, load average {load:.1f} before.",
        "",
        "| load | server | cost | ratio | p50 µs | p95 µs | p99 µs | verdict |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for outcome in outcomes:
        for row in outcome.rows:
            first = row is outcome.rows[0]
            cells = [
                outcome.scenario.title if first else "",
                f"**{row.server.name}**" if first else row.server.name,
                f"{row.figure:.2f} {outcome.scenario.unit} ({row.lowest:.2f}–{row.highest:.2f})",
                "" if row.ratio is None else f"{row.ratio:.2f}",
                *(f"{value:,.0f}" if value else "" for value in (row.p50, row.p95, row.p99)),
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
_COLOURS: Final = {DUOLINK: "#2563eb", SEPARATE: "#93b4f5"}
_OTHER: Final = "#9ca3af"


def chart(outcomes: list[Outcome]) -> str:
    """The results as bars in an SVG; each load has its own scale."""
    parts = []
    y = 10
    for outcome in outcomes:
        y += 22
        title = escape(f"{outcome.scenario.title}: {outcome.scenario.unit} {_per(outcome.scenario)}")
        parts.append(f'<text x="10" y="{y}" font-weight="bold">{title}</text>')
        y += 8
        longest = max(row.figure for row in outcome.rows)
        for row in outcome.rows:
            width = max(1.0, (_WIDTH - _LEFT - 120) * row.figure / longest)
            middle = y + _BAR - 5
            label = f"{row.figure:.2f}" + ("" if row.ratio is None else f"  ×{row.ratio:.2f}")
            parts += [
                f'<text x="{_LEFT - 8}" y="{middle}" text-anchor="end">{escape(row.server.name)}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{width:.1f}" height="{_BAR}" rx="2" '
                f'fill="{_COLOURS.get(row.server, _OTHER)}"/>',
                f'<text x="{_LEFT + width + 6:.1f}" y="{middle}">{label}</text>',
            ]
            y += _BAR + _GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {y + 10}" width="{_WIDTH}" '
        f'font-family="sans-serif" font-size="13" fill="#1f2937">\n'
        f'<rect width="{_WIDTH}" height="{y + 10}" fill="#ffffff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _per(scenario: Scenario) -> str:
    return "of server CPU per message" if scenario.messages else "of server memory per connection"
