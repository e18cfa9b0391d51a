"""What hfx asks of every plugin of these kinds."""

from __future__ import annotations

import sqlite3
import tempfile
from pathlib import Path

import pytest

from hfx.testing import Check, plugin_checks

FOLDER = Path(tempfile.mkdtemp(prefix="hfx-acme-"))


def database() -> Path:
    """Return a database with forty documents."""
    path = FOLDER / "acme.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS documents (id INTEGER PRIMARY KEY, body TEXT)")
        rows = [(number, f"document {number} tells of {number * number}") for number in range(40)]
        connection.executemany("INSERT OR REPLACE INTO documents VALUES (?, ?)", rows)
    return path


@pytest.mark.parametrize("check", plugin_checks("acme_docs", options={"database": database()}), ids=str)
def test_acme_docs_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize("check", plugin_checks("audit", options={"path": FOLDER / "audit.jsonl"}), ids=str)
def test_audit_conforms(check: Check) -> None:
    check()
