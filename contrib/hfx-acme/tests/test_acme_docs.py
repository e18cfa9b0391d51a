"""The document store's rows, and what is said where there are none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hfx_acme.acme_docs_impl import Documents

from hfx import BadRow, Row
from hfx.errors import ConfigError, DataError

Store = Callable[..., Path]


def documents(path: Path) -> Documents:
    return Documents.opened(path, "our docs", "body", "id")


def test_rows_are_named_by_their_key(store: Store) -> None:
    path = store("a.db", "one", "two")
    rows = list(documents(path).read())
    assert [(str(row.place), row.values) for row in rows if isinstance(row, Row)] == [
        (f"{path}#our docs:10", {"text": "one"}),
        (f"{path}#our docs:11", {"text": "two"}),
    ]


@pytest.mark.parametrize("body", [None, b"bytes", 3])
def test_a_document_that_is_no_text_is_a_bad_row(store: Store, body: object) -> None:
    found = documents(store("a.db", "one", body, "three"))
    assert [type(row) for row in found.read()] == [Row, BadRow, Row]
    assert len(found.fingerprint()) == 64


def test_the_fingerprint_follows_the_content(store: Store) -> None:
    first, same, other = (store(f"{name}.db", "one", name[-1]) for name in ("a2", "b2", "c3"))
    assert documents(first).fingerprint() == documents(same).fingerprint()
    assert documents(first).fingerprint() != documents(other).fingerprint()


def test_a_misspelt_column_is_an_error_and_not_a_text(store: Store) -> None:
    # SQLite takes "boddy" in double quotes for the text 'boddy' where there is no such column.
    with pytest.raises(ConfigError, match="did you mean 'body'"):
        Documents.opened(store("a.db", "one"), "our docs", "boddy", "id")


def test_a_misspelt_table_is_an_error(store: Store) -> None:
    with pytest.raises(ConfigError, match="did you mean 'our docs'"):
        Documents.opened(store("a.db", "one"), "our dogs", "body", "id")


def test_a_missing_database_is_an_error_and_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no database"):
        documents(tmp_path / "none.db")
    assert not (tmp_path / "none.db").exists()


def test_a_file_that_is_no_database_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_text("not a database, but long enough to be taken for one" * 10)
    with pytest.raises(DataError, match="cannot be read"):
        documents(tmp_path / "a.db")
