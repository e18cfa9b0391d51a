"""NUL bytes, binary files and lines that are too long: what `files` makes of them."""

from __future__ import annotations

import gzip
import json
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard

from hfx import BadRow, Row
from plugins.files_data import files_source

PACKERS = {"gz": gzip.compress, "zst": zstandard.compress}


@pytest.fixture
def source(make_run):
    return partial(files_source, make_run)


# ── NUL ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

NULS = {
    "a.txt": (b"a\n\nb\n\0x\nmore\n\nb\n", 4), "a.jsonl": (b'{"text": "a"}\n{"text": "\0"}\n{"text": "b"}\n', 2),
    "a.csv": (b'text\na\n"two\nli\0nes"\nb\n', 3), "a.tsv": (b"text\na\n\0\nb\n", 3),
    "a.json": (b'[{"text": "a"}, {"text": "\0"}, {"text": "b"}]', 2),
}  # fmt: skip


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", NULS)
def test_a_nul_byte_makes_its_row_bad_and_no_other(source, tmp_path, name, packed):
    content, line = NULS[name]
    path = tmp_path / (f"{name}.gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    rows = list(source(str(path)).read())
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    assert str(bad.place) == f"{path}:{line}"
    assert bad.reason.startswith("holds NUL bytes, which are no text")
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == ["a", "b"]


def test_a_nul_byte_in_a_whole_text_is_named_by_its_line(source, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\ntwo\0\n")
    [bad] = source(str(tmp_path / "a.txt"), row="file").read()
    assert (bad.place.row, bad.reason) == (2, "holds NUL bytes, which are no text")


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.parquet", "a.feather"])
def test_an_escaped_nul_and_one_in_a_table_are_data(source, tmp_path, name):
    rows = [{"text": "a\0b"}]
    path = tmp_path / name
    match name:
        case "a.parquet":
            pa.parquet.write_table(pa.Table.from_pylist(rows), path)
        case "a.feather":
            pa.feather.write_feather(pa.Table.from_pylist(rows), str(path))
        case _:
            path.write_text(json.dumps(rows if name == "a.json" else rows[0]))
    assert [row.values for row in source(str(path)).read()] == rows


@pytest.mark.parametrize("row", ["paragraph", "line", "file"])
@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.json", "a.csv"])
def test_a_binary_file_under_a_name_of_text_is_one_bad_row_that_says_so(source, tmp_path, name, row):
    (tmp_path / name).write_bytes(Path(sys.executable).resolve().read_bytes()[:300_000])
    [bad] = source(str(tmp_path / name), row=row).read()
    assert bad.place.row == 1
    assert bad.reason.startswith("is a binary file and no text")


def test_a_file_in_utf16_is_told_as_such(source, tmp_path):
    (tmp_path / "a.txt").write_text("eins\nzwei\n" * 10, encoding="utf-16")
    [bad] = source(str(tmp_path / "a.txt")).read()
    assert "--files.encoding utf-16" in bad.reason
    assert len(list(source(str(tmp_path / "a.txt"), row="line", encoding="utf-16").read())) == 20


# ── long lines ───────────────────────────────────────────────────────────────────────────────────────────────────────

LONG = "x" * 30_000
LONGS = {
    "a.txt": (f"a\n\n{LONG}\n\nb\n", "paragraph", 3), "lines.txt": (f"a\n{LONG}\nb", "line", 2),
    "many.txt": ("a\n\n" + "x" * 999 + ("\n" + "x" * 999) * 29 + "\n\nb", "paragraph", 13),
    "a.jsonl": (f'{{"text": "a"}}\n{{"text": "{LONG}"}}\n{{"text": "b"}}', "line", 2),
    "a.csv": (f"text\na\n{LONG}\nb\n", "line", 3), "quoted.csv": (f'text\na\n"x\n{LONG}\n""\ny"\nb\n', "line", 3),
    "many.csv": ('text\na\n"' + "x\n" * 30_000 + '"\nb\n', "line", 3),
}  # fmt: skip


@pytest.mark.parametrize("name", LONGS)
def test_a_row_longer_than_allowed_is_bad_and_the_others_are_read(source, tmp_path, name):
    content, row, line = LONGS[name]
    (tmp_path / name).write_text(content)
    rows = list(source(str(tmp_path / name), row=row, max_line_mb=0.01).read())
    [bad] = [row for row in rows if isinstance(row, BadRow)]
    assert bad.place.row == line
    assert "raise files.max_line_mb if that is right" in bad.reason
    assert [row.values["text"] for row in rows if isinstance(row, Row)] == ["a", "b"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_whole_texts_lines_of_other_encodings_and_objects_of_a_list_have_the_same_limit(source, tmp_path, encoding):
    (tmp_path / "a.txt").write_text(f"{LONG}\nb\n", encoding=encoding)
    whole = source(str(tmp_path), row="file", encoding=encoding, max_line_mb=0.01)
    found = [getattr(row, "reason", row) for row in whole.read()]
    assert found[0].startswith("is longer than 0.00999928 MB")
    bad, good = source(str(tmp_path), row="line", encoding=encoding, max_line_mb=0.01).read()
    assert (bad.place.row, good.place.row, good.values) == (1, 2, {"text": "b"})
    (tmp_path / "a.json").write_text(json.dumps([{"text": "a"}, {"text": LONG}]))
    first, lost = source(str(tmp_path / "a.json"), max_line_mb=0.01).read()
    assert first.values == {"text": "a"}
    assert "longer than" in lost.reason


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl", "a.csv", "a.json"])
@pytest.mark.parametrize("suffix", PACKERS)
def test_a_line_that_unpacks_to_far_more_than_allowed_is_not_held_in_memory(source, tmp_path, name, suffix):
    before = {"a.jsonl": b'{"text": "', "a.json": b'[{"text": "', "a.csv": b"text\n"}.get(name, b"")
    (tmp_path / f"{name}.{suffix}").write_bytes(PACKERS[suffix](before + b"x" * 80_000_000))
    found = source(str(tmp_path), row="line", max_line_mb=1.0)
    list(found.read())
    tracemalloc.start()
    [bad] = found.read()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert "longer than 1 MB" in bad.reason
    assert peak < 45_000_000
