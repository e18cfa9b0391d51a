"""Files whose rows are broken: each is named, and the rest is read."""

from __future__ import annotations

import gzip
import io
import random
import resource

import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard

from hfx import BadRow
from plugins.streams import jsonl, put, values

pytest_plugins = ["plugins.streams"]


def bad(rows):
    return [(row.place.row, row.reason) for row in rows if isinstance(row, BadRow)]


def test_bad_rows_are_named_and_the_rest_is_read(server, source):
    lines = [b'{"a": 1}', b'{"a": "\xff"}', b"{", b'["a\\0"]\0', b'{"a": "' + b"x" * 2_000_000 + b'"}', b'{"a": 2}']
    rows = list(source(put(server, "a.jsonl", b"\n".join(lines)), max_line_mb=1).read())
    assert values(row for row in rows if not isinstance(row, BadRow)) == [{"a": 1}, {"a": 2}]
    reasons = ["is not utf-8", "is not JSON", "holds NUL bytes", "is longer than 1 MB"]
    assert [number for number, _ in bad(rows)] == [2, 3, 4, 5]
    assert all(reason in found for reason, (_, found) in zip(reasons, bad(rows), strict=True))


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_a_packed_file_that_is_cut_off_or_damaged_is_a_bad_row_and_the_next_file_is_read(server, source, packing):
    pack = {"gz": gzip.compress, "zst": zstandard.compress}[packing]
    noise = random.Random(0)
    rows = [{"text": "".join(noise.choices("abcdefghij ", k=200))} for _ in range(3_000)]
    whole = pack(jsonl(rows))
    put(server, f"a-1.jsonl.{packing}", whole[: len(whole) // 2])
    put(server, f"a-2.jsonl.{packing}", jsonl(rows[:1]))
    put(server, f"a-3.jsonl.{packing}", pack(jsonl(rows[:5])))
    found = list(source(f"{server.url}/a-{{1..3}}.jsonl.{packing}").read())
    kept = values(row for row in found if not isinstance(row, BadRow))
    assert len(kept) > 1_000
    assert kept == rows[: len(kept) - 5] + rows[:5]
    (_, cut), (_, broken) = bad(found)
    assert f"and what follows is lost: the file ends in the middle of its {packing} data, at byte" in cut
    assert "is damaged behind byte 0" in broken


def test_a_broken_page_of_parquet_is_one_bad_row_for_what_is_lost_of_its_row_group(server, source):
    rows = [{"text": f"{n} " + "x" * 100} for n in range(90)]
    sink = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(rows), sink, row_group_size=30, compression="zstd")
    data = bytearray(sink.getvalue())
    column = pa.parquet.ParquetFile(io.BytesIO(bytes(data))).metadata.row_group(1).column(0)
    begin = column.dictionary_page_offset or column.data_page_offset
    data[begin : begin + column.total_compressed_size] = b"\xff" * column.total_compressed_size
    url = put(server, "a.parquet", bytes(data))
    found = list(source(url, block=20).read())
    assert values(row for row in found if not isinstance(row, BadRow)) == rows[:30] + rows[60:]
    assert [(row, reason[:48]) for row, reason in bad(found)] == [
        (31, "and 29 more rows of row group 1 cannot be read: ")
    ]
    assert list(source(url, block=20).read(35)) == found[35:]
    found = list(source(put(server, "b.parquet", bytes(data)[:-20])).read())
    assert "no readable Parquet" in bad(found)[0][1]


def test_csv_names_what_is_wrong_and_a_quote_without_an_end_does_not_swallow_the_file(server, source):
    text = 'a,b\n1,2\n3\n"x"y,1\n"never ' + "1,2\n" * 40_000 + "5,6\n"
    rows = list(source(put(server, "a.csv", text.encode()), max_line_mb=0.1).read())
    assert [number for number, _ in bad(rows)] == [3, 4, 5]
    assert "opens a quote that does not end" in bad(rows)[2][1]
    assert values(rows[-1:]) == [{"a": "5", "b": "6"}]
    rows = list(source(put(server, "c.csv", b"\n1,2\n")).read())
    assert "is empty and has to name the columns" in bad(rows)[0][1]
    rows = list(source(put(server, "b.csv", b'a,b\n1,2\n"x,1\n')).read())
    assert bad(rows) == [(3, "opens a quote that never ends")]


def test_a_file_that_unpacks_to_a_huge_line_takes_little_memory(server, source):
    bomb = gzip.compress(b"x" * 300_000_000 + b'\n{"a": 1}\n')
    put(server, "a.jsonl.gz", bomb)
    found = source(f"{server.url}/a.jsonl.gz", max_line_mb=8)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rows = list(found.read())
    assert [type(row).__name__ for row in rows] == ["BadRow", "Row"]
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
