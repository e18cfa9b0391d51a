from __future__ import annotations

import datetime
import decimal
import sqlite3
import sys
import types
from pathlib import Path

import pytest
from pydantic import ValidationError

from hfx import BadRow
from hfx.errors import ConfigError, DataError, RemoteError
from hfx.testing.tiny import tiny_rows
from hfx_plugins.sources.sql import Sql
from hfx_plugins.sources.sql_fetch_impl import has_order


def shop(path: Path, rows=None) -> Path:
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE reviews (id INTEGER PRIMARY KEY, text TEXT, label TEXT)")
        for number, row in enumerate(rows if rows is not None else tiny_rows(), start=1):
            connection.execute("INSERT INTO reviews VALUES (?, ?, ?)", (number, row["text"], row["label"]))
    connection.close()
    return path


@pytest.fixture
def source(make_run):
    def make(split="train", data=None, eval_data=None, **options):
        sql = Sql(**options)
        run = make_run(sql, **({"data": data} if data else {}), **({"eval_data": eval_data} if eval_data else {}))
        return run.hooks.source(split=split, run=run).source

    return make


@pytest.fixture
def database(tmp_path):
    return str(shop(tmp_path / "shop.db", [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]))


def test_every_column_of_a_table_becomes_one_of_the_row(source, database):
    rows = list(source(database=database, table="reviews", order_by="id desc").read())
    assert [row.values for row in rows] == [
        {"id": 2, "text": "b", "label": "y"}, {"id": 1, "text": "a", "label": "x"},
    ]  # fmt: skip
    assert str(rows[1].place) == f"{database}:2"


def test_a_query_names_its_columns_and_its_order(source, database):
    found = source(database=database, query="SELECT text AS t FROM reviews WHERE id > 1 ORDER BY id")
    assert [row.values for row in found.read()] == [{"t": "b"}]
    assert found.summary() == f"sqlite3 '{database}': SELECT text AS t FROM reviews WHERE id > 1 ORDER BY id"


def test_data_names_several_tables_and_queries_of_one_database(source, database):
    data = {"new": "SELECT id FROM reviews WHERE id = 2 ORDER BY id", "all": "reviews"}
    rows = list(source(database=database, data=data, order_by="id").read())
    assert [(row.place.source, row.values["id"]) for row in rows] == [("all", 1), ("all", 2), ("new", 2)]


def test_evaluation_rows_are_another_query(source, database):
    given = {"database": database, "query": "SELECT * FROM reviews WHERE id = 1 ORDER BY id"}
    found = source("eval", eval_data="SELECT * FROM reviews WHERE id = 2 ORDER BY id", **given)
    assert [row.values["id"] for row in found.read()] == [2]


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM reviews",
        "SELECT *, rank() OVER (ORDER BY id) FROM reviews",
        "SELECT * FROM (SELECT * FROM reviews ORDER BY id) t",
        "SELECT 'order by id' FROM reviews -- ORDER BY id",
    ],
)
def test_a_query_without_an_order_is_refused_until_a_column_is_named(source, database, query):
    with pytest.raises(ConfigError, match=r"come in any order.*--sql.order_by id"):
        source(database=database, query=query)
    assert not has_order(query)


def test_a_query_without_an_order_is_put_in_order_by_a_column(source, database):
    found = source(database=database, query="SELECT id FROM reviews;", order_by="id desc")
    assert [row.values["id"] for row in found.read()] == [2, 1]


def test_rows_that_change_between_hashing_and_reading_are_an_error(source, database):
    found = source(database=database, table="reviews", order_by="id")
    before = found.fingerprint()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE reviews SET text = 'c' WHERE id = 2")
    connection.close()
    with pytest.raises(DataError, match="are others, or in another order"):
        list(found.read())
    assert source(database=database, table="reviews", order_by="id").fingerprint() != before


def test_a_version_query_stands_for_hashing_all_rows(source, database):
    given = {"database": database, "table": "reviews", "order_by": "id", "version_query": "SELECT max(id) FROM reviews"}
    before = source(**given).fingerprint()
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE reviews SET text = 'c'")
        assert source(**given).fingerprint() == before
        connection.execute("INSERT INTO reviews VALUES (3, 'd', 'x')")
    connection.close()
    assert source(**given).fingerprint() != before


def test_what_is_no_json_is_a_bad_row_with_its_number(source, tmp_path):
    path = tmp_path / "odd.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE t (id INTEGER, body)")
        connection.execute("INSERT INTO t VALUES (1, 'good'), (2, x'ff00'), (3, CAST(x'c328' AS TEXT)), (4, 1.5)")
    connection.close()
    rows = list(source(database=str(path), table="t", order_by="id", fetch=1).read())
    assert [isinstance(row, BadRow) for row in rows] == [False, True, True, False]
    assert str(rows[1].place) == f"{path}:2"
    assert "the column 'body' holds text that is no UTF-8, or bytes" in rows[2].reason


def test_dates_and_decimals_become_json(source, monkeypatch):
    day = datetime.datetime(2020, 1, 2, 3, 4)
    rows = [(day, decimal.Decimal("1.5"), decimal.Decimal(7), {"a": [1]}, object())]
    monkeypatch.setitem(sys.modules, "toy_database", toy_database(rows, list("abcde")))
    given = {"module": "toy_database", "connect": {"host": "h"}}
    found = list(source(**given, query="SELECT a, b, c, d, e FROM t ORDER BY a").read())
    assert "the column 'e' holds a object" in found[0].reason
    rows[0] = (*rows[0][:4], None)
    found = list(source(**given, query="SELECT a, b, c, d, e FROM t ORDER BY a").read())
    assert found[0].values == {"a": "2020-01-02T03:04:00", "b": 1.5, "c": 7, "d": {"a": [1]}, "e": None}


def toy_database(rows, names, failing=""):
    """A DB-API module of another database: it hands out rows that SQLite has no types for."""
    module = types.ModuleType("toy_database")
    module.Error = type("Error", (Exception,), {})
    module.given = []

    class Cursor:
        def __init__(self):
            self.description, self.left = [(name,) for name in names], []

        def execute(self, statement):
            self.left = list(rows)

        def fetchmany(self, count):
            found, self.left = self.left[:count], self.left[count:]
            return found

        def close(self):
            pass

    class Connection:
        cursor = Cursor

        def close(self):
            pass

    def connect(*args, **kwargs):
        module.given.append((args, kwargs))
        if failing:
            raise module.Error(failing.format(*args, **kwargs))
        return Connection()

    module.connect = connect
    return module


def test_secrets_are_looked_up_when_used_and_kept_out_of_messages(source, monkeypatch):
    module = toy_database([], ["a"], failing="no entry for {0} with {password}")
    monkeypatch.setitem(sys.modules, "toy_database", module)
    monkeypatch.setenv("SHOP", "db://user:hunter2@host/shop")
    monkeypatch.setenv("SHOP_PASSWORD", "correct-horse")
    sql = {"module": "toy_database", "database": "env:SHOP", "connect": {"password": "env:SHOP_PASSWORD"}}
    with pytest.raises(RemoteError) as raised:
        list(source(**sql, table="t", order_by="a").read())
    assert module.given == [(("db://user:hunter2@host/shop",), {"password": "correct-horse"})]
    assert "no entry for env:SHOP with env:SHOP_PASSWORD" in str(raised.value)
    assert "hunter2" not in str(Sql(**sql).options())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"database": "postgres://me:pw@host/db"}, "password in it"),
        ({"connect": {"password": "hunter2"}}, "is a secret"),
        ({"table": "a; DROP TABLE b"}, "no plain name of a table"),
        ({"order_by": "(SELECT 1)"}, "no list of columns"),
        ({"query": "SELECT 1", "table": "t"}, "both say what to read"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(ValidationError, match=message):
        Sql(**options)


def test_what_cannot_be_read_is_one_line(source, database, tmp_path):
    with pytest.raises(DataError, match=r"shop2.db' does not exist; did you mean 'shop.db'"):
        list(source(database=str(tmp_path / "shop2.db"), table="t", order_by="a").read())
    with pytest.raises(DataError, match="no such table: review;"):
        list(source(database=database, table="review", order_by="id").read())
    with pytest.raises(DataError, match="two columns 'id'"):
        list(source(database=database, query="SELECT id, id FROM reviews ORDER BY id").read())
    with pytest.raises(ConfigError, match=r"'no_such_db' .sql.module. is not installed"):
        list(source(module="no_such_db", database="x", table="t", order_by="a").read())
    with pytest.raises(ConfigError, match="none of a database"):
        list(source(module="json", database="x", table="t", order_by="a").read())
    (tmp_path / "text.db").write_text("no database at all, but long enough to look like one" * 20)
    with pytest.raises(DataError, match="file is not a database"):
        list(source(database=str(tmp_path / "text.db"), table="t", order_by="a").read())


def test_nothing_or_two_things_to_read_are_problems(make_run, database):
    def problems(sql, **fields):
        return [problem.message for problem in sql.hfx_check(run=make_run(sql, **fields))]

    assert any("not told what to read" in message for message in problems(Sql(database=database)))
    assert any("both say what to read" in m for m in problems(Sql(database=database, table="t"), data="t"))
    assert any("no database" in message for message in problems(Sql(table="t")))
    assert problems(Sql(database=database, table="t")) == []
