"""`duolink db`: looks after the database of a server."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from duolink.cli.options import EXIT_LOST, EXIT_USAGE, Failed

if TYPE_CHECKING:
    import apsw

BACKUP_PAGES: Final = 2000
"""Pages copied between two updates of the progress note."""

database_option = click.option(
    "--database",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="DUOLINK_STORAGE_DATABASE",
    default="duolink.db",
    show_default=True,
    show_envvar=True,
    help="The file.",
)


@click.group()
def db() -> None:
    """Check, back up or shrink the database of a server.

    Exit codes: 0 done, 1 faults were found, 2 it could not be done.
    """


@db.command()
@database_option
def check(database: Path) -> None:
    """Read all of a database and look for faults; a server may be using it."""
    from duolink.engines.sqlite.database import open_read_only
    from duolink.engines.sqlite.invariants import check as look

    faults: list[str] = []
    with _refusals(database):
        connection = open_read_only(str(database))
        try:
            with _progress(f"checking {database}") as note:
                for checked, found in look(connection):
                    note(f"checking {database}: no {checked}" if not found else f"checking {database}")
                    faults += found
            counts = [] if faults else _counts(connection)
        finally:
            connection.close(True)
    for fault in faults:
        click.echo(fault)
    if faults:
        raise Failed(f"{database} is damaged.", EXIT_LOST)
    click.echo(f"{database} is well: {', '.join(counts)}.")


@db.command()
@database_option
@click.argument("target", type=click.Path(path_type=Path))
def backup(database: Path, target: Path) -> None:
    """Copy a database to TARGET, as of one moment; a server may be using it. TARGET must not exist."""
    import apsw

    from duolink.engines.sqlite.database import open_read_only

    with _refusals(database):
        source = open_read_only(str(database))
        try:
            try:
                os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            except OSError as error:
                raise Failed(f"{target} cannot be created: {error.strerror}.", EXIT_USAGE) from None
            try:
                _copy(source, target)
            except BaseException as error:
                target.unlink()
                if isinstance(error, apsw.FullError):
                    raise Failed(f"{target} cannot be written: the disk is full.", EXIT_USAGE) from None
                if isinstance(error, OSError):
                    raise Failed(f"{target} cannot be written: {error.strerror}.", EXIT_USAGE) from None
                raise
        finally:
            source.close(True)
    click.echo(f"{target}: {_megabytes(target.stat().st_size)}.")


@db.command()
@database_option
def vacuum(database: Path) -> None:
    """Give the space that a database does not need any more back to the disk. The server must not be
    running, and the disk needs room for two copies of what is left."""
    from duolink.engines.sqlite.database import Database

    if not database.exists():
        raise Failed(f"{database} does not exist.", EXIT_USAGE)
    with _refusals(database):
        opened = Database(str(database))
        try:
            before = database.stat().st_size
            with _progress(f"rewriting {database}"):
                _rewrite(opened.writer, database)
        finally:
            opened.close()
    after = database.stat().st_size
    click.echo(f"{database}: {_megabytes(max(before - after, 0))} freed, {_megabytes(after)} left.")


def _rewrite(connection: "apsw.Connection", database: Path) -> None:
    """Write everything anew: into a temporary file beside the database (in memory, as the server has it, a
    large one would not fit), then into the log, then back."""
    connection.pragma("temp_store", "file")
    connection.pragma("temp_store_directory", str(database.absolute().parent))
    connection.execute("VACUUM")


def _copy(source: "apsw.Connection", target: Path) -> None:
    """Copy all pages and have them on disk."""
    import apsw

    copy = apsw.Connection(str(target), apsw.SQLITE_OPEN_READWRITE)
    try:
        copy.pragma("synchronous", "off")  # what counts is the sync at the end
        with source, _progress(f"copying to {target}") as note:  # a transaction: what is copied is one moment
            source.execute("SELECT count(*) FROM meta").fetchall()
            with copy.backup("main", source, "main") as pages:
                while not pages.done:
                    pages.step(BACKUP_PAGES)
                    copied = pages.page_count - pages.remaining
                    note(f"copying to {target}: {copied} of {pages.page_count} pages")
    finally:
        copy.close(True)
    for path in (target, target.absolute().parent):  # the file, and that it is there
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _counts(connection: "apsw.Connection") -> list[str]:
    counted = []
    for table in ("clients", "channels", "entries", "state", "mail"):
        name = {"state": "values of shared state", "mail": "messages in mailboxes"}.get(table, table)
        counted.append(f"{connection.execute(f'SELECT count(*) FROM {table}').get:,} {name}")
    return counted


@contextmanager
def _refusals(database: Path) -> Iterator[None]:
    """Let what is wrong with a database end the command."""
    import apsw

    from duolink.engines.sqlite.database import DatabaseError, refusal

    try:
        yield
    except DatabaseError as error:
        raise Failed(str(error), EXIT_USAGE) from None
    except apsw.Error as error:
        raise Failed(str(refusal(str(database), error)), EXIT_USAGE) from None
    except OSError as error:
        raise Failed(f"{database}: {error.strerror}.", EXIT_USAGE) from None


@contextmanager
def _progress(text: str) -> Iterator[Callable[[str], Any]]:
    """Show on a terminal what is being done; yields what changes it."""
    from rich.console import Console

    with Console(stderr=True).status(text) as status:
        yield status.update


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
