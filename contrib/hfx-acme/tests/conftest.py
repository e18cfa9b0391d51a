from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

Store = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Writes a database with the table `our docs`, whose documents are numbered from 10."""

    def write(name: str, *bodies: object) -> Path:
        path = tmp_path / name
        with sqlite3.connect(path) as connection:
            connection.execute('CREATE TABLE "our docs" (id INTEGER PRIMARY KEY, body)')
            connection.executemany('INSERT INTO "our docs" VALUES (?, ?)', list(enumerate(bodies, start=10)))
        return path

    return write
