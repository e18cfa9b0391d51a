"""Rows that `files` cannot read: each is named by file and line, and the others are read."""

from __future__ import annotations

import gzip
import json
import os
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from command_line import hfx
from hfx import BadRow, Row
from hfx.errors import DataError
from plugins.files_data import TYPED, files_source, write_csv, write_lines


@pytest.fixture
def source(make_run):
    return partial(files_source, make_run)


BAD = {
    "a.jsonl": (
        b'{"text": "a"}\n\n{"text": \n[1]\n"x"\n{"text": "\\ud800"}\n\xff\xfe\n{"text": "b"}\n',
        [3, 4, 5, 6, 7],
    ),
    "a.csv": (b'text,label\na,0\nb\nc,1,2\n"q"x,1\n\xff,1\nb,0\n', [3, 4, 5, 6]),
    "a.json": (b'[{"text": "a"}, 3, {"text": "\\ud800"}, {"text": "b"}]', [2, 3]),
    "a.txt": (b"a\n\nb\nx \xff\nmore\n\nb\n", [4]),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_row_is_named_by_file_and_line_and_the_others_are_read(source, tmp_path, name):
    content, lines = BAD[name]
    (tmp_path / name).write_bytes(content)
    rows = list(source(str(tmp_path / name)).read())
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert [str(row.place) for row in bad] == [f"{tmp_path / name}:{line}" for line in lines]
    assert all(row.reason for row in bad)
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == ["a", "b"]


def test_reasons_say_what_was_found(source, tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b'{"text" 1}\n[1]\n')
    (tmp_path / "b.csv").write_bytes(b"a,b\n1\n")
    reasons = [row.reason for row in source(str(tmp_path)).read()]
    assert reasons[0].startswith("is not JSON: Expecting ':'")
    assert reasons[1:] == ["is not a JSON object but a list", "has 1 fields, the first line names 2"]


def test_an_object_without_a_column_asked_for_is_a_bad_row(source, tmp_path):
    write_lines(tmp_path / "a.jsonl", [{"text": "a"}, {"body": "b"}])
    found = list(source(str(tmp_path / "a.jsonl"), columns=["text"]).read())
    assert found[1].reason == "has no column 'text'; it has body"


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
@pytest.mark.parametrize("content", [b"", b"no table at all"])
def test_a_file_that_is_no_table_is_a_bad_row(source, tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    [bad] = source(str(tmp_path / name)).read()
    assert str(bad.place) == f"{tmp_path / name}:1"
    assert bad.reason.startswith("and what follows is lost: it cannot be read as ")


def test_a_quote_that_never_ends_names_the_lines_that_it_swallowed(source, tmp_path):
    (tmp_path / "a.csv").write_text('text\na\n"open\nb\nc\n')
    rows = list(source(str(tmp_path / "a.csv")).read())
    assert rows[0].values == {"text": "a"}
    assert (rows[1].place.row, rows[1].reason) == (3, "opens a quote that never ends (lines 3 to 5)")


@pytest.mark.parametrize("header", ["a,a", "a,"])
def test_a_csv_header_has_to_name_every_column_once(source, tmp_path, header):
    (tmp_path / "a.csv").write_text(f"{header}\n1,2\n")
    with pytest.raises(DataError, match="has to name every column, once"):
        list(source(str(tmp_path / "a.csv")).read())


@pytest.mark.parametrize("name", ["a.csv", "a.parquet", "a.feather"])
def test_a_column_that_a_table_lacks_is_answered_with_the_nearest(source, tmp_path, name):
    {"a.csv": write_csv, **TYPED}[name](tmp_path / name)
    with pytest.raises(DataError, match="no column 'lable'; did you mean 'label'"):
        list(source(str(tmp_path / name), columns=["lable"]).read())


@pytest.mark.parametrize("content", ['{"a": [1]}\n{', '{\n"a": 1\n}', "3"])
def test_json_that_is_no_list_of_objects_says_what_to_do(source, tmp_path, content):
    (tmp_path / "a.json").write_text(content)
    rows = source(str(tmp_path / "a.json"))
    if rows.formats() == {"jsonl": 1}:
        assert isinstance(list(rows.read())[-1], BadRow)
        return
    with pytest.raises(DataError, match=r"a\.json' (holds|is not JSON)"):
        list(rows.read())


def test_a_bad_line_within_a_paragraph_says_where_the_paragraph_begins(source, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"a\n\none\ntwo\n\xff\nthree\n\nb")
    _, bad, _ = source(str(tmp_path / "a.txt")).read()
    assert bad.place.row == 5
    assert bad.reason.endswith("(its paragraph begins at line 3)")


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────

PACKERS = {"gz": gzip.compress, "zst": zstandard.ZstdCompressor(write_checksum=True).compress}


@pytest.mark.parametrize("suffix", PACKERS)
def test_a_packed_file_that_is_cut_off_ends_in_a_bad_row_and_the_next_file_is_read(source, tmp_path, suffix):
    words = [os.urandom(50).hex() for _ in range(3_000)]
    whole = PACKERS[suffix]("\n".join(words).encode())
    (tmp_path / f"a.txt.{suffix}").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "b.txt").write_text("b")
    *rows, bad, last = source(str(tmp_path), row="line").read()
    assert [row.values["text"] for row in rows] == words[: len(rows)]
    assert len(rows) > 1_000
    assert bad.place.row == len(rows) + 1
    assert bad.reason.startswith("and what follows is lost: ")
    assert last.values == {"text": "b"}


@pytest.mark.parametrize("suffix", PACKERS)
@pytest.mark.parametrize("content", [b"", b"plain words under a compressed name"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_packed_file_that_holds_something_else_is_a_bad_row(source, tmp_path, suffix, content, name):
    (tmp_path / f"{name}.{suffix}").write_bytes(content)
    [bad] = source(str(tmp_path), row="line").read()
    assert bad.place.row == 1
    assert bad.reason.startswith("and what follows is lost: ")


def test_a_checksum_that_is_wrong_puts_the_rows_before_in_doubt(source, tmp_path):
    packed = bytearray(gzip.compress(b"one\ntwo\n"))
    packed[-8] ^= 1
    (tmp_path / "a.txt.gz").write_bytes(packed)
    *rows, bad = source(str(tmp_path), row="line").read()
    assert [row.values["text"] for row in rows] == ["one", "two"]
    assert "CRC check failed" in bad.reason
    assert "rows before may be damaged" in bad.reason


@pytest.mark.parametrize("name", [name for name in TYPED if name != "dataset"])
@pytest.mark.parametrize("other", ["txt", "jsonl", "json", "csv", "tsv", "parquet", "arrow"])
def test_a_file_of_one_format_under_the_name_of_another_hangs_nothing_and_names_itself(source, tmp_path, name, other):
    TYPED[name](tmp_path / name)
    (tmp_path / name).rename(tmp_path / f"other.{other}")
    try:
        rows = list(source(str(tmp_path / f"other.{other}")).read())
    except DataError as error:
        assert f"other.{other}" in str(error)  # noqa: PT017  an error or rows, both are right
    else:
        assert rows


def test_an_arrow_file_whose_text_points_elsewhere_spoils_its_row_and_not_the_process(source, tmp_path):
    table = pa.table({"text": ["one", "two", "three", "good"]})
    with pa.OSFile(str(tmp_path / "a.arrow"), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    offsets, spoilt = (np.array(ends, dtype=np.int32).tobytes() for ends in ([0, 3, 6, 11], [0, 3, 1 << 30, 11]))
    data = (tmp_path / "a.arrow").read_bytes()
    assert data.count(offsets) == 1
    (tmp_path / "a.arrow").write_bytes(data.replace(offsets, spoilt))
    outcomes = list(source(str(tmp_path / "a.arrow")).read())
    assert [getattr(row, "values", {}).get("text", "bad") for row in outcomes] == ["one", "bad", "bad", "good"]


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_text_of_a_table_that_is_not_utf8_spoils_its_row_alone(source, tmp_path, name):
    column = pa.array([b"one", b"\xff\xfe", b"two"]).view(pa.string())
    if name == "a.parquet":
        pa.parquet.write_table(pa.table({"text": column}), tmp_path / name)
    else:
        pa.feather.write_feather(pa.table({"text": column}), str(tmp_path / name), compression="uncompressed")
    one, bad, two = source(str(tmp_path / name)).read()
    assert (one.values["text"], two.values["text"], bad.place.row) == ("one", "two", 2)
    assert bad.reason.startswith("holds what cannot be read: ")


def test_a_broken_page_of_parquet_names_its_rows_and_the_other_groups_are_read(source, tmp_path):
    table = pa.table({"text": [f"text {number} " * 20 for number in range(300)]})
    path = tmp_path / "a.parquet"
    pa.parquet.write_table(table, path, row_group_size=100, compression="none", use_dictionary=False,
                           write_page_checksum=True)  # fmt: skip
    data = bytearray(path.read_bytes())
    data[data.index(b"text 150 ")] ^= 1
    path.write_bytes(data)
    rows = list(source(str(path)).read())
    bad = [row for row in rows if isinstance(row, BadRow)]
    assert [row.place.row for row in bad] == [101]
    assert bad[0].reason.startswith("cannot be read, rows 101 to 200 of row group 1: ")
    assert [row.place.row for row in rows if isinstance(row, Row)] == [*range(1, 101), *range(201, 301)]


@pytest.mark.parametrize("behind", [-8, None])
def test_an_arrow_stream_without_its_end_or_with_more_behind_it_says_so(source, tmp_path, behind):
    TYPED["stream.arrow"](tmp_path / "a.arrow")
    data = (tmp_path / "a.arrow").read_bytes()
    (tmp_path / "a.arrow").write_bytes(data[:behind] if behind else data * 2)
    *rows, bad = source(str(tmp_path / "a.arrow")).read()
    assert len(rows) == 3
    assert "mark of its end" in bad.reason


def test_what_is_left_of_a_broken_record_is_no_row(source, tmp_path):
    (tmp_path / "a.csv").write_text('text,label\n"li"ne\nand more",2\n"b",1\n')
    first, second, third = source(str(tmp_path / "a.csv")).read()
    assert first.reason.startswith("is not CSV")
    assert second.reason.startswith("follows a broken record")
    assert third.values == {"text": "b", "label": "1"}


@pytest.mark.parametrize("header", [b'"te"xt\n', b"te\xffxt\n", b"te\0xt\n", b'"text\n'])
def test_a_header_that_cannot_be_read_is_a_bad_row_for_all_of_the_file(source, tmp_path, header):
    (tmp_path / "a.csv").write_bytes(header + b"one\ntwo\n")
    [bad] = source(str(tmp_path / "a.csv")).read()
    assert bad.reason.startswith("is no header, so that no row of the file can be read: it ")


@pytest.mark.parametrize(("content", "good"), [
    (b'[{"text": "a"}, {"text": "b"', 1), (b'[{"text": "a"} {"text": "b"}]', 1), (b'[{"text": "a"}] [1]', 1),
    (b'[{"text": "a"}, {"text" 1}, {"text": "c"}]', 1), (b'[{"text": "a"},', 1), (b"[", 0),
])  # fmt: skip
def test_a_json_list_that_breaks_off_yields_what_is_before_and_names_the_rest(source, tmp_path, content, good):
    (tmp_path / "a.json").write_bytes(content)
    *rows, bad = source(str(tmp_path / "a.json")).read()
    assert [row.values for row in rows] == [{"text": "a"}] * good
    assert bad.place.row == good + 1
    assert bad.reason.startswith("and what follows is lost: ")


def test_a_bad_byte_or_raw_control_character_spoils_one_object_of_a_json_list(source, tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"a": "\xff"}, {"a": "\n"}, {"a": "\0"}, {"a": 1}]')
    *bad, last = source(str(tmp_path / "a.json")).read()
    assert [row.reason.partition(",")[0].partition(";")[0] for row in bad] == [
        "is not utf-8", "is not JSON: Invalid control character", "holds NUL bytes",
    ]  # fmt: skip
    assert last.values == {"a": 1}


@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
@pytest.mark.parametrize(("value", "reason"), [
    ("[" * 100_000, "is nested too deeply"), ("1" * 5_000, "holds a number of more digits than Python reads"),
])  # fmt: skip
def test_json_that_python_cannot_hold_is_a_bad_row(source, tmp_path, name, value, reason):
    content = f'{{"a": {value}}}'
    (tmp_path / name).write_text(f"[{content}]" if name == "a.json" else content)
    [bad] = source(str(tmp_path / name)).read()
    assert reason in bad.reason


def test_damaged_files_are_quarantined_and_counted_and_the_others_prepared(tmp_path):
    (tmp_path / "data").mkdir()
    texts = [f"The mill number {number} was old." for number in range(40)]
    (tmp_path / "data" / "1.txt").write_bytes("\n\n".join(texts).encode() + b"\n\nNUL\0")
    (tmp_path / "data" / "2.jsonl").write_text('{"text": "\\u0000 is data"}\n{"text": 1')
    whole = gzip.compress("\n\n".join(texts).replace("mill", "inn").encode())
    (tmp_path / "data" / "3.txt.gz").write_bytes(whole[:-20])
    (tmp_path / "data" / "4.parquet").write_bytes(b"PAR1")
    words = ["--data", "data", "--plugin", "scratch", "--plugin", "bpe", "--bpe.vocab-size", "300"]
    cache = {"HFX_CACHE": str(tmp_path / "cache"), "HF_HUB_OFFLINE": "1"}
    done = hfx("data", "stats", *words, cwd=tmp_path, **cache)
    assert done.returncode != 0
    assert "cannot read row data/1.txt:81: holds NUL bytes, which are no text" in done.stderr
    done = hfx("data", "stats", *words, "--max-bad-rows", "10", cwd=tmp_path, **cache)
    assert done.returncode == 0, done.stderr
    assert ", 4 bad, " in done.stdout
    [kept] = (tmp_path / "cache").glob("rows/*/quarantine.jsonl")
    bad = [json.loads(line) for line in kept.read_text().splitlines()]
    assert [row["file"] for row in bad] == ["data/1.txt", "data/2.jsonl", "data/3.txt.gz", "data/4.parquet"]
    assert [row["row"] for row in bad if row["file"] != "data/3.txt.gz"] == [81, 2, 1]
