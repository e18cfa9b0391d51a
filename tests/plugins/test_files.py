"""Formats that `files` reads, and how."""

from __future__ import annotations

import gzip
import sys
from functools import partial

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx import BadRow
from hfx.errors import DataError
from hfx.reading import Reading, read_rows
from hfx.rows import RowReport
from hfx_plugins.sources.files import Files
from plugins.files_data import RECORDS, TYPED, files_source, write_csv, write_lines


@pytest.fixture
def source(make_run):
    return partial(files_source, make_run)


@pytest.fixture
def read(source):
    def values(data, **options):
        rows = list(source(str(data), **options).read())
        bad = [row for row in rows if isinstance(row, BadRow)]
        assert not bad
        return [row.values for row in rows]

    return values


def test_text_is_cut_into_paragraphs_named_by_their_first_line(source, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf\n\none\ntwo\r\n \t\n\n  three\n")
    rows = list(source(str(tmp_path / "a.txt")).read())
    assert [(row.values, row.place.row) for row in rows] == [({"text": "one\ntwo"}, 3), ({"text": "  three"}, 7)]
    assert str(rows[0].place) == f"{tmp_path}/a.txt:3"
    assert rows[0].place.source == "data"


def test_text_is_cut_into_lines_or_left_whole_when_asked(read, tmp_path):
    (tmp_path / "a.md").write_text("one\n\ntwo\n")
    assert read(tmp_path / "a.md", row="line") == [{"text": "one"}, {"text": "two"}]
    assert read(tmp_path / "a.md", row="file") == [{"text": "one\n\ntwo\n"}]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.text(alphabet="ab \té", min_size=0, max_size=5), max_size=12))
def test_paragraphs_hold_every_line_that_is_not_blank_once_and_in_order(read, tmp_path, lines):
    (tmp_path / "a.txt").write_text("\n".join(["anchor", *lines]), encoding="utf-8")
    found = [line for row in read(tmp_path / "a.txt") for line in row["text"].split("\n")]
    assert found == [line for line in ["anchor", *lines] if line.strip()]


@pytest.mark.parametrize("suffix", ["py", "rst", "TXT", "java", "yaml"])
def test_source_and_markup_are_text(source, tmp_path, suffix):
    (tmp_path / f"a.{suffix}").write_text("x")
    assert source(str(tmp_path / f"a.{suffix}")).formats() == {"text": 1}


@pytest.mark.parametrize("name", TYPED)
def test_every_typed_format_yields_the_same_rows(read, tmp_path, name):
    TYPED[name](tmp_path / name)
    assert read(tmp_path / name) == RECORDS


@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t")])
def test_csv_yields_strings_and_numbers_records_by_their_first_line(source, tmp_path, name, delimiter):
    write_csv(tmp_path / name, delimiter)
    rows = list(source(str(tmp_path / name)).read())
    assert [row.values for row in rows] == [{**record, "label": str(record["label"])} for record in RECORDS]
    assert [row.place.row for row in rows] == [2, 3, 5]


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_compressed_files_yield_what_they_hold(read, tmp_path, name, pack):
    {"a.txt": lambda p: p.write_text("one\n\ntwo"), "a.csv": write_csv, **TYPED}[name](tmp_path / name)
    suffix = ".gz" if pack is gzip.compress else ".zst"
    (tmp_path / f"{name}{suffix}").write_bytes(pack((tmp_path / name).read_bytes()))
    assert read(tmp_path / f"{name}{suffix}") == read(tmp_path / name)


def test_all_frames_of_a_zst_file_are_read(read, tmp_path):
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one\n") + zstandard.compress(b"two\n"))
    assert read(tmp_path / "a.txt.zst", row="line") == [{"text": "one"}, {"text": "two"}]


def test_zst_without_its_package_names_the_extra(source, tmp_path, monkeypatch):
    (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(b"one"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r"pip install 'hfx\[zstd\]'"):
        source(str(tmp_path / "a.txt.zst"))


def test_the_format_can_be_given_for_files_without_a_known_suffix(read, tmp_path):
    write_lines(tmp_path / "LOGS")
    assert read(tmp_path / "LOGS", format="jsonl") == RECORDS


def test_utf16_is_read_when_asked_for(read, tmp_path):
    (tmp_path / "a.txt").write_text("eins\n\nzwei ä", encoding="utf-16")
    assert read(tmp_path / "a.txt", encoding="utf-16") == [{"text": "eins"}, {"text": "zwei ä"}]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet", "a.feather", "dataset"])
def test_only_the_columns_asked_for_are_read(read, tmp_path, name):
    TYPED[name](tmp_path / name)
    assert read(tmp_path / name, columns=["label"]) == [{"label": record["label"]} for record in RECORDS]


@pytest.mark.parametrize("name", ["a.parquet", "a.feather"])
def test_bytes_that_are_text_are_read_as_text_and_others_are_no_value(source, name, tmp_path):
    table = pa.table({"text": pa.array(["grün".encode(), b"b"], pa.binary()), "picture": pa.array([b"\xff", None])})
    if name == "a.parquet":
        pyarrow.parquet.write_table(table, tmp_path / name)
    else:
        pyarrow.feather.write_feather(table, tmp_path / name)
    found = source(str(tmp_path / name))
    rows = [row.values for row in read_rows(found, Reading(), tmp_path, RowReport())]
    assert rows == [{"text": "grün", "picture": None}, {"text": "b", "picture": None}]


def test_a_big_file_is_not_held_in_memory(source, tmp_path):
    import tracemalloc

    with (tmp_path / "a.txt").open("w") as stream:
        for _ in range(40_000):
            stream.write("word " * 30 + "\n\n")
    rows = source(str(tmp_path / "a.txt")).read()
    tracemalloc.start()
    count = sum(1 for _ in rows)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert count == 40_000
    assert peak < 1_000_000


def test_an_unknown_encoding_is_a_wrong_option():
    with pytest.raises(ValidationError, match="'utf-9' is no encoding"):
        Files(encoding="utf-9")
