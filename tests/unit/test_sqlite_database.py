"""The database file: who may open it, and what is said to those who may not."""

import os
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from duolink.engines.sqlite import schema
from duolink.engines.sqlite.database import Database, DatabaseError, open_read_only


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "test.db")


def make(path: str, *statements: str) -> None:
    """Make a database that is not ours, or not quite."""
    with closing(apsw.Connection(path)) as db:
        for statement in statements:
            db.execute(statement)


def refused(path: str) -> str:
    with pytest.raises(DatabaseError) as refusal:
        Database(path)
    assert not os.path.exists(f"{path}-wal")
    text = str(refusal.value)
    assert "\n" not in text and text.startswith(path) and text.endswith(".")
    return text


def test_a_new_database_has_the_newest_format_and_is_its_owners_alone(path):
    with closing(Database(path)) as database:
        assert database.writer.pragma("user_version") == schema.VERSION
        assert database.writer.pragma("application_id") == schema.APPLICATION_ID
        assert database.writer.pragma("synchronous") == 2  # FULL
        assert database.writer.pragma("journal_mode") == "wal"
        for name in (path, f"{path}-wal", f"{path}-shm", f"{path}-lock"):
            assert stat.S_IMODE(os.stat(name).st_mode) == 0o600


def test_an_empty_file_becomes_a_database(path):
    Path(path).touch()
    with closing(Database(path)) as database:
        assert database.writer.pragma("user_version") == schema.VERSION


def test_a_second_server_is_refused_and_told_who_is_there_until_the_first_lets_go(path):
    first = Database(path)
    link = f"{path}.link"
    os.symlink(path, link)
    for name in (path, link):
        with pytest.raises(DatabaseError, match=f"in use by another server .process {os.getpid()}"):
            Database(name)
    first.writer.execute("INSERT INTO meta VALUES ('still', 'locked')")  # the first one goes on
    first.close()
    Database(path).close()


def test_another_process_is_refused_too(path):
    program = (
        "import sys\nfrom duolink.engines.sqlite.database import Database, DatabaseError\n"
        "try: Database(sys.argv[1])\nexcept DatabaseError as error: print(error)"
    )
    with closing(Database(path)):
        ran = subprocess.run(
            [sys.executable, "-c", program, path], capture_output=True, text=True, timeout=60
        )
    assert ran.stdout == f"{path} is in use by another server (process {os.getpid()}).\n"


def test_a_server_that_was_killed_leaves_no_lock_and_loses_no_commit(path):
    program = (
        "import os, sys\nfrom duolink.engines.sqlite.database import Database\n"
        "database = Database(sys.argv[1])\ndatabase.writer.execute(\"INSERT INTO meta VALUES ('a', 1)\")\n"
        "os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", program, path], timeout=60)
    assert os.path.getsize(f"{path}-wal")
    with closing(open_read_only(path)) as db:
        assert db.execute("SELECT value FROM meta WHERE name = 'a'").get == 1
    with closing(Database(path)) as database:
        assert database.writer.execute("SELECT value FROM meta WHERE name = 'a'").get == 1


def test_a_newer_format_is_refused(path):
    Database(path).close()
    make(path, f"PRAGMA user_version = {schema.VERSION + 1}")
    assert f"a newer duolink (format {schema.VERSION + 1};" in refused(path)


@pytest.mark.parametrize(
    "statement", ["CREATE TABLE t (a)", "PRAGMA application_id = 42", "PRAGMA user_version = 1"]
)
def test_a_database_of_another_program_is_refused_and_left_as_it_is(path, statement):
    make(path, statement)
    before = Path(path).read_bytes()
    assert "another program" in refused(path)
    assert Path(path).read_bytes() == before


def test_what_is_no_database_is_refused_and_left_as_it_is(path):
    with open(path, "wb") as file:
        file.write(b"not a database at all\n" * 1000)
    assert refused(path) == f"{path} is not a database."
    assert Path(path).read_bytes().startswith(b"not a database at all")


def test_a_damaged_first_page_is_refused(path):
    Database(path).close()
    with open(path, "r+b") as file:
        file.seek(100)
        file.write(b"\xff" * 500)
    assert "is damaged; restore a backup" in refused(path)


def test_a_folder_that_is_not_there_or_is_none_is_told(tmp_path):
    assert "No such file or directory" in refused(str(tmp_path / "nowhere" / "test.db"))
    (tmp_path / "file").touch()
    assert "Not a directory" in refused(str(tmp_path / "file" / "test.db"))


def test_where_a_folder_stands_nothing_can_be_opened(path):
    os.mkdir(path)
    assert "cannot be opened" in refused(path)


def test_a_file_that_another_program_has_locked_is_refused(path, monkeypatch):
    monkeypatch.setattr("duolink.engines.sqlite.database.BUSY", 1)
    Database(path).close()
    with closing(apsw.Connection(path)) as other:
        other.pragma("locking_mode", "exclusive")
        other.execute("BEGIN EXCLUSIVE; CREATE TABLE t (a)")
        with pytest.raises(DatabaseError, match="locked by another program"):
            Database(path)


def test_migrations_run_once_each_and_one_that_fails_leaves_the_version_before_it(path):
    first, second = ("CREATE TABLE a (x)",), ("CREATE TABLE b (x)", "INSERT INTO b VALUES (1)")
    with closing(apsw.Connection(path)) as db:
        with pytest.raises(apsw.SQLError):
            schema.migrate(db, (first, ("CREATE TABLE c (x)", "INSERT INTO nowhere VALUES (1)")))
        assert db.pragma("user_version") == 1
        assert db.table_exists("main", "a") and not db.table_exists("main", "c")
        schema.migrate(db, (first, second))
        schema.migrate(db, (first, second))
        assert db.pragma("user_version") == 2
        assert db.execute("SELECT count(*) FROM b").get == 1


def test_to_look_at_a_database_it_must_be_there_and_ours(path):
    with pytest.raises(DatabaseError, match="does not exist"):
        open_read_only(path)
    Path(path).touch()
    with pytest.raises(DatabaseError, match="not been used"):
        open_read_only(path)
    with open(path, "wb") as file:
        file.write(b"x" * 4096)
    with pytest.raises(DatabaseError, match="is not a database"):
        open_read_only(path)


def test_a_reader_reads_and_cannot_write(path):
    with closing(Database(path)) as database, closing(database.reader()) as reader:
        database.writer.execute("INSERT INTO meta VALUES ('a', 1)")
        assert reader.execute("SELECT value FROM meta WHERE name = 'a'").get == 1
        with pytest.raises(apsw.ReadOnlyError):
            reader.execute("DELETE FROM meta")
