"""How the database finds what it is asked for: by an index, however much else there is."""

import importlib
import pkgutil
import re
from contextlib import closing
from typing import Any

import apsw
import pytest

from duolink.engines import sqlite
from duolink.engines.sqlite import schema
from duolink.engines.sqlite.rows import Rows

COLD = {
    ("keys", "_LOAD"),  # at the start, and after a failure: all keys are wanted
    ("channels", "_TOTALS"),  # the same: counts the channels
    ("holdings", "_DEEPEST"),  # in the order of its index, with a limit
}
PARTS = {"_HOLDINGS", "_SUMS", "_ACCOUNT", "_LAST", "_CURSORS", "_TABLES", "_META", "_PASSED"}
"""What statements are made of."""


def statements() -> list[Any]:
    """Every statement that a module names."""
    found = []
    for module in pkgutil.iter_modules(sqlite.__path__):
        if module.name in ("schema", "invariants"):
            continue
        for name, value in vars(importlib.import_module(f"{sqlite.__name__}.{module.name}")).items():
            texts: tuple[object, ...] = value if type(value) is tuple else (value,)
            if isinstance(value, Rows):
                texts = tuple(text for _, text in value._statements[-1:])
            for text in texts:
                if isinstance(text, str) and re.match(r"\s*(SELECT|WITH|INSERT|UPDATE|DELETE)\s", text):
                    found += [pytest.param(module.name, name, text, id=f"{module.name}{name}")]
    return [each for each in found if each.values[1] not in PARTS]


@pytest.fixture(scope="module")
def db() -> Any:
    with closing(apsw.Connection(":memory:")) as connection:
        schema.migrate(connection)
        yield connection


def scanned(db: apsw.Connection, text: str) -> list[str]:
    """Tables of the schema that are read from end to end, or that SQLite makes an index for by itself."""
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    numbered = [int(number) for number in re.findall(r"\?(\d+)", text)]
    bindings = (None,) * (max(numbered) if numbered else text.count("?"))
    plan = [row[3] for row in db.execute(f"EXPLAIN QUERY PLAN {text}", bindings)]
    found = [step for step in plan if "AUTOMATIC" in step]
    for step in plan:
        match = re.match(r"SCAN (\w+)", step)
        names = set(re.findall(rf"\b(\w+) AS {match[1]}\b", text)) | {match[1]} if match else set()
        if names & tables:
            found.append(step)
    return found


@pytest.mark.parametrize(("module", "name", "text"), statements())
def test_no_statement_reads_a_table_from_end_to_end(db, module, name, text):
    if (module, name) not in COLD:
        assert scanned(db, text) == []


def test_a_scan_is_noticed(db):
    assert scanned(db, "SELECT * FROM mail AS m WHERE body = ?")
    assert scanned(db, "SELECT * FROM mail WHERE seq = ?")
    assert len(statements()) > 40
