"""A database that is locked, or whose connection is lost: every row comes once, in order, or one line says why not."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
import types
from itertools import count

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.errors import DataError, RemoteError
from hfx_plugins.sources.sql import Sql

LOCK = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
time.sleep(float(sys.argv[2]))
"""
ROWS = [(number, number // 3, f"text {number} 100%") for number in range(1, 61)]


@pytest.fixture
def database(tmp_path):
    path = str(tmp_path / "shop.db")
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER, day INTEGER, text TEXT)")
        connection.executemany("INSERT INTO t VALUES (?, ?, ?)", ROWS)
    connection.close()
    return path


@pytest.fixture
def source(make_run):
    def make(**options):
        sql = Sql(**{"retry_minutes": 0.2, "fetch": 7, **options})
        run = make_run(sql)
        return run.hooks.source(split="train", run=run).source

    return make


@pytest.fixture
def flaky(monkeypatch):
    """SQLite as a server far away: its connections are lost after as many rows as `breaks` says, one after the other.

    `asked` are the statements with how many rows each of them gave.
    """
    module = types.ModuleType("flaky")
    module.Error = type("Error", (Exception,), {})
    module.OperationalError = type("OperationalError", (module.Error,), {})
    module.ProgrammingError = type("ProgrammingError", (module.Error,), {})
    module.paramstyle, module.breaks, module.asked = "qmark", [], []
    module.broken = lambda: None
    module.message, module.connects = "server closed the connection unexpectedly", count(1)

    class Cursor:
        def __init__(self, inner):
            self.inner, self.left = inner, module.breaks.pop(0) if module.breaks else 10**9

        def execute(self, statement, *parameters):
            module.asked.append([statement, 0])
            if parameters and module.paramstyle != "qmark":
                statement = statement.replace("%s", "?").replace("%%", "%")
            try:
                self.inner.execute(statement, *parameters)
            except sqlite3.Error as error:
                raise module.ProgrammingError(str(error)) from error
            self.description = self.inner.description

        def fetchmany(self, size):
            if self.left <= 0:
                raise module.OperationalError(module.message)
            found = self.inner.fetchmany(min(size, self.left))
            self.left -= len(found)
            module.asked[-1][1] += len(found)
            return found

        def close(self):
            self.inner.close()
            if self.left <= 0:
                module.broken()
                raise module.OperationalError("not connected")

    class Connection:
        def __init__(self, path):
            next(module.connects)
            self.inner = sqlite3.connect(path)

        def cursor(self):
            return Cursor(self.inner.cursor())

        def close(self):
            self.inner.close()

    module.connect = Connection
    monkeypatch.setitem(sys.modules, "flaky", module)
    monkeypatch.setattr("hfx_plugins.sources.retry_impl._FIRST_PAUSE", 0.001)
    return module


def ids(rows):
    return [row.values["id"] for row in rows]


def locked(path, seconds):
    locker = subprocess.Popen([sys.executable, "-c", LOCK, path, str(seconds)], stdout=subprocess.PIPE, text=True)
    assert locker.stdout.readline() == "locked\n"
    return locker


def test_a_database_that_another_process_locks_for_a_while_is_waited_for(source, database):
    found = source(database=database, table="t", order_by="id", connect={"timeout": 0.05})
    with locked(database, 1.5):
        began = time.monotonic()
        found.fingerprint()
        assert time.monotonic() - began > 0.8
    with locked(database, 1.0):
        assert ids(found.read()) == [row[0] for row in ROWS]


def test_a_database_that_stays_locked_is_given_up_in_one_line(source, database):
    given = {"database": database, "table": "t", "order_by": "id", "connect": {"timeout": 0.05}}
    with locked(database, 60) as locker:
        with pytest.raises(RemoteError, match=r"shop.db' fails at row 1 for 0.01 minutes: database is locked; try aga"):
            list(source(**given, retry_minutes=0.01).read())
        with pytest.raises(RemoteError, match=r"shop.db' fails at row 1: database is locked; try again when it is b"):
            list(source(**given, retry_minutes=0).read())
        locker.kill()


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    breaks=st.lists(st.integers(0, 25), max_size=6),
    order=st.sampled_from(["id", "id desc", "t.id", "day, id", "day desc, id"]),
    style=st.sampled_from(["qmark", "format", "unheard of"]),
    query=st.sampled_from([None, "SELECT * FROM t WHERE text LIKE '%100%'"]),
)
def test_wherever_connections_are_lost_every_row_comes_once(source, flaky, database, breaks, order, style, query):
    flaky.breaks, flaky.paramstyle = list(breaks), style
    what = {"query": query} if query else {"table": "t"}
    order = order.replace("t.", "") if query else order
    found = ids(source(module="flaky", database=database, order_by=order, **what).read())
    key = (lambda row: (-row[1], row[0])) if order == "day desc, id" else lambda row: row[0]
    assert found == [row[0] for row in sorted(ROWS, key=key, reverse=order == "id desc")]


def test_a_new_connection_asks_for_the_rows_from_the_last_one_on_and_not_for_all(source, flaky, database):
    flaky.breaks = [40]
    assert len(list(source(module="flaky", database=database, table="t", order_by="id").read())) == len(ROWS)
    assert flaky.asked == [
        ["SELECT * FROM t ORDER BY id", 40],
        ["SELECT * FROM t WHERE id >= ? OR id IS NULL ORDER BY id", 21],
    ]


def test_an_order_with_ties_loses_nothing_since_the_rows_are_read_over_again(source, flaky, database):
    flaky.breaks = [40]
    assert ids(source(module="flaky", database=database, table="t", order_by="day").read()) == [row[0] for row in ROWS]
    assert [rows for _, rows in flaky.asked] == [40, 2, 60]


def test_rows_that_are_others_after_a_break_are_one_line(source, flaky, database):
    flaky.breaks = [40]

    def change():
        with sqlite3.connect(database) as connection:
            connection.execute("DELETE FROM t WHERE id = 3")
        connection.close()

    flaky.broken = change
    found = source(module="flaky", database=database, query="SELECT * FROM t ORDER BY id").read()
    with pytest.raises(DataError, match=r"was lost at row 41, and the rows before it are others now; order them"):
        list(found)


@pytest.mark.parametrize(
    ("message", "statement"), [("", "SELEKT 1 ORDER BY 1"), ("password authentication failed for user 'me'", None)]
)
def test_what_will_not_work_later_either_is_told_at_once(source, flaky, database, message, statement):
    flaky.breaks, flaky.message = [0] * 5, message
    with pytest.raises(RemoteError, match=r"refuses '.*; look at the options of 'sql'"):
        list(source(module="flaky", database=database, query=statement or "SELECT * FROM t ORDER BY id").read())
    assert next(flaky.connects) == 2
