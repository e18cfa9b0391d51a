"""Files that were damaged at random: every row comes, or a bad one says which do not; nothing hangs."""

from __future__ import annotations

import csv
import gzip
import io
import json
import random
import threading

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from hfx import BadRow
from hfx.errors import DataError
from hfx_plugins.sources.stream_find_impl import find
from hfx_plugins.sources.stream_formats_impl import Reading
from hfx_plugins.sources.stream_impl import StreamSource
from hfx_plugins.sources.stream_transport_impl import Access

ROWS = [{"text": f'line "{n}"\nand more, ä{n} ' + "x" * (n % 50), "label": str(n % 3)} for n in range(300)]
JSONL = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def as_csv() -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, ["text", "label"])
    writer.writeheader()
    writer.writerows(ROWS)
    return text.getvalue().encode()


def as_parquet(compression: str) -> bytes:
    sink = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    pa.parquet.write_table(table, sink, row_group_size=80, compression=compression, data_page_size=2_000)
    return sink.getvalue()


FILES = {
    "a.jsonl": JSONL, "b.csv": as_csv(), "c.parquet": as_parquet("snappy"), "d.parquet": as_parquet("none"),
    "e.jsonl.gz": gzip.compress(JSONL), "f.csv.zst": zstandard.compress(as_csv()),
    "g.txt": b"\n\n".join(row["text"].encode() for row in ROWS),
}  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    at, size = rng.randrange(len(data)), rng.randrange(1, 200)
    kind = rng.choice(["cut", "flip", "nul", "insert", "high"])
    if kind == "cut":
        return data[:at]
    if kind == "flip":
        return data[:at] + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :]
    if kind == "insert":
        return data[:at] + rng.randbytes(size) + data[at:]
    return data[:at] + {"nul": b"\0", "high": b"\xff"}[kind] * size + data[at + size :]


@pytest.mark.parametrize("name", FILES)
def test_every_row_comes_or_is_named_and_reading_on_from_any_row_agrees(tmp_path, name):
    def read(start=0):
        access, reading = Access(2.0, 1.0), Reading("paragraph", None, "utf-8", 1 << 20)
        source = StreamSource(find({"data": str(path)}, None, access), reading, access, 37, 1 << 20, (tmp_path / "c",))
        return [(row.place.row, row.reason if isinstance(row, BadRow) else row.values) for row in source.read(start)]

    named = 0
    for seed in range(20):
        rng = random.Random(seed)
        path = tmp_path / f"{seed}-{name}"
        path.write_bytes(damaged(FILES[name], rng))
        try:
            found = read()
        except DataError:  # the header of a table is damaged
            named += 1
            continue
        named += any(isinstance(told, str) for _, told in found)
        for start in {rng.randrange(len(found)) for _ in range(2)} if found else set():
            assert json.dumps(read(start), default=str) == json.dumps(found[start:], default=str)
    assert named >= (8 if name == "g.txt" else 12)
    assert not [thread for thread in threading.enumerate() if thread.name == "hfx-stream"]
