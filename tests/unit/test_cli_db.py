"""`duolink db`: checks, backups, and giving space back."""

import os
import re
import stat
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import apsw
import pytest
from click.testing import CliRunner
from tests.contract.conftest import ManualClock

from duolink.cli import db as module
from duolink.cli.main import cli
from duolink.engines.base import Draft, Retention
from duolink.engines.memory import AtOnce
from duolink.engines.sqlite import database
from duolink.engines.sqlite.database import Database
from duolink.engines.sqlite.engines import sqlite_engines
from duolink.engines.sqlite.inline import Inline


@pytest.fixture
def path(tmp_path):
    return tmp_path / "duolink.db"


def serve(path: Path) -> Any:
    return sqlite_engines(str(path), clock=ManualClock(), new_epoch=lambda: "epoch", runner=Inline(AtOnce()))


def fill(engines: Any, entries: int = 10) -> None:
    keep = Retention(10_000, 3600.0, 1 << 30)
    engines.registry.issue_run("alice", "alice", 1, lambda _: None)
    for number in range(entries):
        engines.log.append("room", Draft("alice", bytes(1000), name=f"n{number % 3}"), keep, lambda _: None)


def run(*arguments: object) -> Any:
    return CliRunner().invoke(cli, ["db", *map(str, arguments)])


@pytest.mark.parametrize("serving", [True, False])
def test_check_says_what_is_there_whether_a_server_runs_or_not(path, serving):
    engines = serve(path)
    fill(engines)
    if not serving:
        engines.close()
    result = run("check", "--database", path)
    assert result.exit_code == 0, result.output
    assert "is well: 1 clients, 1 channels, 10 entries, 3 values of shared state" in result.stdout
    if serving:
        fill(engines)  # it was not disturbed
        engines.close()


def test_check_finds_what_is_wrong_and_says_so(path):
    engines = serve(path)
    fill(engines)
    engines.close()
    with closing(Database(str(path))) as database:
        database.writer.execute("DELETE FROM entries WHERE offset = 5")
    result = run("check", "--database", path)
    assert result.exit_code == 1
    assert "1 channels whose history has holes" in result.stdout
    assert result.stderr == f"Error: {path} is damaged.\n"


def test_check_finds_a_damaged_page(path):
    engines = serve(path)
    fill(engines, 200)
    engines.close()
    with open(path, "r+b") as file:
        file.seek(20 * 4096)
        file.write(b"\xff" * 4096 * 10)
    result = run("check", "--database", path)
    assert result.exit_code == 1 and result.stderr == f"Error: {path} is damaged.\n"
    assert result.stdout


@pytest.mark.parametrize("command", [["check"], ["backup", "copy.db"], ["vacuum"]])
def test_what_is_no_database_is_told_in_one_line(path, command):
    result = run(*command, "--database", path)
    assert (result.exit_code, result.stderr) == (2, f"Error: {path} does not exist.\n")
    assert not path.exists()
    path.write_bytes(b"something else" * 1000)
    result = run(*command, "--database", path)
    assert (result.exit_code, result.stderr) == (2, f"Error: {path} is not a database.\n")


@pytest.mark.parametrize("serving", [True, False])
def test_a_backup_is_a_whole_database_as_of_one_moment(path, tmp_path, serving, monkeypatch):
    monkeypatch.setattr(module, "BACKUP_PAGES", 5)
    engines, target = serve(path), tmp_path / "copy.db"
    fill(engines, 50)
    if serving:  # the server goes on writing while it is copied
        monkeypatch.setattr(module, "_progress", progress_that(lambda: fill(engines, 5)))
    else:
        engines.close()
    result = run("backup", target, "--database", path)
    assert result.exit_code == 0, result.output
    assert re.fullmatch(rf"{target}: [0-9.]+ MB\.\n", result.stdout)
    assert stat.S_IMODE(os.stat(target).st_mode) == 0o600
    if serving:
        assert engines.problem() == ""
        engines.close()
    assert run("check", "--database", target).exit_code == 0
    with closing(serve(target)) as copy:
        pages: list[Any] = []
        copy.log.read("room", "", 0, 100, pages.append)
        assert [entry.offset for entry in pages[0].entries] == list(range(1, 51))


def progress_that(act: Any) -> Any:
    """What shows progress, and does something each time."""

    @contextmanager
    def progress(text: str) -> Any:
        yield lambda text: act()

    return progress


def test_a_backup_overwrites_nothing_and_leaves_nothing_half_done(path, tmp_path, monkeypatch):
    engines, target = serve(path), tmp_path / "copy.db"
    engines.close()
    target.write_text("precious")
    result = run("backup", target, "--database", path)
    assert (result.exit_code, result.stderr) == (2, f"Error: {target} cannot be created: File exists.\n")
    assert target.read_text() == "precious"
    target.unlink()
    monkeypatch.setattr(os, "fsync", raising_full)
    result = run("backup", target, "--database", path)
    assert (result.exit_code, result.stderr) == (
        2,
        f"Error: {target} cannot be written: No space left on device.\n",
    )
    assert not target.exists()


def raising_full(descriptor: int) -> None:
    raise OSError(28, "No space left on device")


def test_vacuum_gives_space_back_and_refuses_while_a_server_runs(path):
    engines = serve(path)
    fill(engines, 500)
    result = run("vacuum", "--database", path)
    assert result.exit_code == 2 and "is in use by another server" in result.stderr
    engines.close()
    with closing(Database(str(path))) as database:
        database.writer.execute("DELETE FROM entries; UPDATE channels SET first = top + 1, lowest = top + 1")
    before = path.stat().st_size
    result = run("vacuum", "--database", path)
    assert result.exit_code == 0, result.output
    assert path.stat().st_size < before / 2
    assert re.search(r": 2\.\d MB freed, 0\.\d MB left\.", result.stdout)
    assert run("check", "--database", path).exit_code == 0


def test_vacuum_does_not_hold_the_database_in_memory(path, monkeypatch):
    monkeypatch.setattr(database, "WRITE_CACHE", 1 << 20)
    serve(path).close()
    with closing(Database(str(path))) as opened, opened.writer as db:
        rows = ((offset, bytes(1000)) for offset in range(8000))
        db.executemany("INSERT INTO entries VALUES (1, ?, 0, 0, 0, '', '', ?)", rows)
    apsw.memory_high_water(True)
    before = apsw.memory_used()
    assert run("vacuum", "--database", path).exit_code == 0
    assert path.stat().st_size > 8_000_000
    assert apsw.memory_high_water() - before < 5 << 20
    assert sorted(os.listdir(path.parent)) == [path.name, f"{path.name}-lock"]
