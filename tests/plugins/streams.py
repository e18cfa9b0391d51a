"""A server of files and a stream that reads them: what the tests of `stream` share. PYTEST_DONT_REWRITE"""

from __future__ import annotations

import csv
import gzip
import io
import json

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from hfx_plugins.sources.stream import Stream
from range_server import Manners, RangeServer


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "served").mkdir()
    server = RangeServer(tmp_path / "served")
    yield server
    server.manners = Manners()
    server.stop()


@pytest.fixture
def source(make_run):
    made = []

    def make(data, split="train", **options):
        stream = Stream(**{"timeout": 1.0, "retry_minutes": 0.2, **options})
        run = make_run(stream, data=data, output=None)
        made.append(run.hooks.source(split=split, run=run).source)
        return made[-1]

    yield make
    for one in made:
        one.close()


def records(count, width=20):
    return [{"text": f"row {number} " + "x" * (number % width), "n": number} for number in range(count)]


def jsonl(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def put(server, name, data: bytes) -> str:
    (server.folder / name).write_bytes(data)
    return f"{server.url}/{name}"


def values(rows):
    return [row.values for row in rows]


def as_csv(rows) -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def as_parquet(rows) -> bytes:
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=30)
    return sink.getvalue()


ROWS = [{"text": f'line "{n}"\nand more, ä{n}', "label": str(n % 3)} for n in range(100)]
FORMATS = {
    "a.jsonl": jsonl(ROWS), "b.csv": as_csv(ROWS), "c.parquet": as_parquet(ROWS),
    "d.jsonl.gz": gzip.compress(jsonl(ROWS)), "e.csv.zst": zstandard.compress(as_csv(ROWS)),
    "f.txt": "\ufeff\n\none\ntwo\r\n \t\n\n  three\n".encode(), "g.md": b"a\n\nb\n\n\nc",
    "h.jsonl.gz": gzip.compress(jsonl(ROWS[:50])) + b"\0" * 7 + gzip.compress(jsonl(ROWS[50:])),
    "i.jsonl.zst": zstandard.compress(jsonl(ROWS[:50])) + zstandard.compress(jsonl(ROWS[50:])),
    "j.jsonl": b"", "k.csv": b"text,label\r\na,1\r\n\r\nb,2",
}  # fmt: skip
