"""`make bench`: what a message costs a duolink server, beside others (docs/performance.md)."""

import json
import os
import sys
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks import report
from benchmarks.build import BUILD, BuildError, build
from benchmarks.database import filled
from benchmarks.measurement import Cores, MeasurementError, measure
from benchmarks.scenario import SCENARIOS, Scenario, Server

DOCS: Final = Path(__file__).parent.parent / "docs"
BUSY: Final = 0.5
"""Load average from which others on the machine disturb the figures."""

Runs = dict[Scenario, dict[Server, list[dict[str, float]]]]


@click.command()
@click.option("--quick", is_flag=True, help="One short round as a smoke test; judges and writes nothing.")
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1), help="Rounds per server.")
@click.option("--pairs", default=8, show_default=True, type=click.IntRange(1), help="Pairs of clients.")
@click.option(
    "--only", multiple=True, type=click.Choice([s.name for s in SCENARIOS]), help="Measure only this load."
)
@click.option("--no-docs", is_flag=True, help="Leave docs/performance.md and its chart as they are.")
def main(quick: bool, rounds: int, pairs: int, only: tuple[str, ...], no_docs: bool) -> None:
    """Measure server CPU per message, latency and memory, and print a table.

    Exit code 1: a server failed, or duolink missed what it must keep.
    """
    errors = Console(stderr=True)
    scenarios = [s for s in SCENARIOS if not only or s.name in only]
    rounds = 1 if quick else rounds
    try:
        cores = Cores.choose()
        load = os.getloadavg()[0]
        with errors.status("Building the peers and the load generator"):
            build()
        share = 0.1 if quick else 1.0
        for messages in {server.holding(share) for scenario in scenarios for server in scenario.servers} - {
            0
        }:
            with errors.status(f"Filling a database with {messages:,} messages, unless it is there"):
                filled(messages)
        if load > BUSY:
            errors.print("[yellow]This machine is busy: the figures will be noisy.")
        os.sched_setaffinity(0, {cores.load})
        runs = _measure_all(scenarios, cores, rounds, pairs, share, errors)
    except (BuildError, MeasurementError) as error:
        errors.print(f"[red]{error}", markup=True, highlight=False)
        sys.exit(1)
    outcomes = [report.summarise(scenario, runs[scenario]) for scenario in scenarios]
    for outcome in outcomes:
        Console().print(report.table(outcome))
    _write_json(runs)
    if quick:
        return
    if not (no_docs or only):
        report.write_markdown(DOCS / "performance.md", report.markdown(outcomes, rounds, pairs, load))
        (DOCS / "performance.svg").write_text(report.chart(outcomes))
    if any(outcome.verdict == "missed" for outcome in outcomes):
        sys.exit(1)


def _measure_all(
    scenarios: list[Scenario], cores: Cores, rounds: int, pairs: int, share: float, errors: Console
) -> Runs:
    """Take the servers in turn, round after round, so that what disturbs one disturbs all."""
    runs: Runs = {scenario: {server: [] for server in scenario.servers} for scenario in scenarios}
    total = rounds * sum(len(scenario.servers) for scenario in scenarios)
    columns = (TextColumn("{task.description:45}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=errors, auto_refresh=False) as progress:
        task = progress.add_task("", total=total)
        for scenario in scenarios:
            for _ in range(rounds):
                for server in scenario.servers:
                    progress.update(task, description=f"{scenario.name}: {server.name}", refresh=True)
                    runs[scenario][server].append(measure(scenario, server, cores, pairs, share))
                    progress.advance(task)
    return runs


def _write_json(runs: Runs) -> None:
    """Keep every single measurement."""
    results = [
        {"scenario": scenario.name, "server": server.name, "rounds": rounds}
        for scenario, servers in runs.items()
        for server, rounds in servers.items()
    ]
    (BUILD / "results.json").write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
