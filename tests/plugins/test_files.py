from __future__ import annotations

import csv
import gzip
import json
import os
import pickle
import shutil
import sys
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx import BadRow, Row
from hfx.errors import ConfigError, DataError
from hfx_plugins.sources.files import Files

TABLE = {"text": ["one", "two\nlines", "drei äöü"], "label": [0, 1, 0]}
RECORDS = [{"text": text, "label": label} for text, label in zip(*TABLE.values(), strict=True)]


@pytest.fixture
def source(make_run):
    def make(data, split="train", **options):
        files = Files(**options)
        fields = {"data": data} if split == "train" else {"data": "unused", "eval_data": data}
        run = make_run(files, **fields)
        return run.hooks.source(split=split, run=run).source

    return make


@pytest.fixture
def read(source):
    def values(data, **options):
        rows = list(source(str(data), **options).read())
        bad = [row for row in rows if isinstance(row, BadRow)]
        assert not bad
        return [row.values for row in rows]

    return values


def write_lines(path: Path, records=RECORDS) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


# ── formats ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


def write_json(path):
    path.write_text(json.dumps(RECORDS, indent=2))


def write_csv(path, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["text", "label"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(RECORDS)


def write_stream(path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, pa.table(TABLE).schema) as writer:
        writer.write_table(pa.table(TABLE), max_chunksize=2)


def write_ipc(path):
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, pa.table(TABLE).schema) as writer:
        writer.write_table(pa.table(TABLE), max_chunksize=2)


TYPED = {
    "a.jsonl": write_lines,
    "a.ndjson": write_lines,
    "a.json": write_json,
    "lines.json": write_lines,
    "a.parquet": lambda path: pa.parquet.write_table(pa.table(TABLE), path, row_group_size=2),
    "a.feather": lambda path: pa.feather.write_feather(pa.table(TABLE), str(path)),
    "file.arrow": write_ipc,
    "stream.arrow": write_stream,
    "dataset": lambda path: datasets.Dataset.from_dict(TABLE).save_to_disk(path, num_shards=2),
}


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


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress], ids=["gz", "zst"])
def test_a_compressed_file_that_is_cut_off_is_an_error_and_not_a_short_file(source, tmp_path, pack):
    path = tmp_path / ("a.txt.gz" if pack is gzip.compress else "a.txt.zst")
    whole = pack(os.urandom(300_000).hex().encode())
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"a\.txt\.\w+' cannot be read"):
        list(source(str(path), row="line").read())


@pytest.mark.parametrize("suffix", ["gz", "zst"])
def test_a_compressed_file_that_holds_something_else_is_an_error(source, tmp_path, suffix):
    (tmp_path / f"a.txt.{suffix}").write_bytes(b"plain words under a compressed name")
    with pytest.raises(DataError, match=r"a\.txt\.\w+' cannot be read"):
        list(source(str(tmp_path / f"a.txt.{suffix}"), row="line").read())


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


# ── places ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_folder_is_read_through_in_sorted_order_without_hidden_files(source, tmp_path):
    for name in ["b.txt", "a/z.txt", ".git/config.txt", ".hidden.txt", "_SUCCESS", "a/_x.txt"]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    found = source(str(tmp_path))
    assert [row.values["text"] for row in found.read()] == ["a/_x.txt", "a/z.txt", "b.txt"]
    assert found.summary() == "3 files (3 text by paragraph), 0.0 MB"


def test_a_glob_and_a_mapping_name_their_sources(source, tmp_path):
    (tmp_path / "1.txt").write_text("one")
    (tmp_path / "2.txt").write_text("two")
    write_lines(tmp_path / "3.jsonl")
    found = source({"words": f"{tmp_path}/*.txt", "rows": f"{tmp_path}/3.jsonl"})
    assert [row.place.source for row in found.read()] == ["rows"] * 3 + ["words"] * 2
    assert found.formats() == {"jsonl": 1, "text": 2}


def test_a_folder_may_hold_saved_datasets(source, tmp_path):
    TYPED["dataset"](tmp_path / "data" / "d")
    (tmp_path / "data" / "a.txt").write_text("one")
    for place in (tmp_path / "data", tmp_path / "data" / "*"):
        found = source(str(place))
        assert found.formats() == {"dataset": 1, "text": 1}
        assert len(list(found.read())) == 4


def test_a_folder_that_links_to_itself_is_read_once(source, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.txt").write_text("one")
    (tmp_path / "data" / "loop").symlink_to(tmp_path / "data")
    assert len(list(source(str(tmp_path / "data")).read())) == 1


def test_evaluation_rows_come_from_eval_data(source, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    assert next(source(str(tmp_path / "a.txt"), split="eval").read()).values == {"text": "one"}


def test_reading_can_start_at_any_row_and_repeats_itself(source, tmp_path):
    write_lines(tmp_path / "a.jsonl")
    (tmp_path / "b.txt").write_text("x\n\ny")
    found = source(str(tmp_path))
    everything = list(found.read())
    assert everything == list(found.read())
    for start in range(6):
        assert list(found.read(start)) == everything[start:]


def test_the_source_travels_to_other_processes(source, tmp_path):
    write_lines(tmp_path / "a.jsonl")
    found = source(str(tmp_path))
    assert list(pickle.loads(pickle.dumps(found)).read()) == list(found.read())  # noqa: S301


# ── fingerprint ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_fingerprint_follows_content_and_not_time_or_folder(source, tmp_path):
    (tmp_path / "x").mkdir()
    write_lines(tmp_path / "x" / "a.jsonl")
    before = source(str(tmp_path / "x")).fingerprint()
    os.utime(tmp_path / "x" / "a.jsonl", (1, 1))
    assert source(str(tmp_path / "x")).fingerprint() == before
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    assert source(str(tmp_path / "y")).fingerprint() == before
    write_lines(tmp_path / "x" / "a.jsonl", [*RECORDS[:2], {"text": "drei aou", "label": 0}])
    assert source(str(tmp_path / "x")).fingerprint() != before


def test_the_fingerprint_follows_the_files_names_and_the_options(source, tmp_path):
    (tmp_path / "a.txt").write_text("one\ntwo")
    base = source(str(tmp_path / "a.txt")).fingerprint()
    assert source(str(tmp_path / "a.txt"), row="line").fingerprint() != base
    assert source(str(tmp_path / "a.txt"), encoding="latin-1").fingerprint() != base
    assert source({"named": str(tmp_path / "a.txt")}).fingerprint() != base
    (tmp_path / "a.txt").rename(tmp_path / "b.txt")
    assert source(str(tmp_path / "b.txt")).fingerprint() != base


def test_the_fingerprint_of_a_saved_dataset_is_that_of_its_rows(source, tmp_path):
    TYPED["dataset"](tmp_path / "d")
    before = source(str(tmp_path / "d")).fingerprint()
    datasets.Dataset.from_dict({**TABLE, "label": [1, 1, 1]}).save_to_disk(tmp_path / "e", num_shards=2)
    shutil.rmtree(tmp_path / "d")
    (tmp_path / "e").rename(tmp_path / "d")
    assert source(str(tmp_path / "d")).fingerprint() != before


# ── bad rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────

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
def test_a_damaged_table_is_an_error_that_names_the_file(source, tmp_path, name):
    (tmp_path / name).write_bytes(b"no table at all")
    with pytest.raises(DataError, match=f"{name}' cannot be read as"):
        list(source(str(tmp_path / name)).read())


def test_a_quote_that_never_ends_is_an_error_that_names_its_line(source, tmp_path):
    (tmp_path / "a.csv").write_text('text\na\n"open\nb\nc\n')
    with pytest.raises(DataError, match=r"a\.csv:3' opens a quote that never ends"):
        list(source(str(tmp_path / "a.csv")).read())


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


# ── refused before anything is read ──────────────────────────────────────────────────────────────────────────────────


def test_a_file_that_does_not_exist_is_answered_with_the_nearest(source, tmp_path):
    (tmp_path / "shakespeare.txt").write_text("x")
    with pytest.raises(DataError, match=r"does not exist; did you mean 'shakespeare\.txt'"):
        source(str(tmp_path / "shakespear.txt"))


def test_a_folder_that_does_not_exist_is_answered_with_the_nearest(source, tmp_path):
    (tmp_path / "corpus").mkdir()
    with pytest.raises(DataError, match="does not exist; did you mean 'corpus'"):
        source(str(tmp_path / "corpos" / "a.txt"))


@pytest.mark.parametrize("data", ["empty", "*.txt"])
def test_nothing_behind_a_folder_or_glob_is_an_error(source, tmp_path, data):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no file"):
        source(str(tmp_path / data))


def test_an_unknown_suffix_is_an_error_that_lists_the_known(source, tmp_path):
    (tmp_path / "a.txt").write_text("x")
    (tmp_path / "b.xlsx").write_text("x")
    (tmp_path / "c.docx").write_text("x")
    with pytest.raises(DataError, match=r"b\.xlsx' \(and 1 more .*known are .*\.jsonl.*--files\.format"):
        source(str(tmp_path))


def test_no_data_is_an_error_that_names_the_flag(make_run):
    run = make_run(Files(), model="somewhere")
    with pytest.raises(ConfigError, match=r"no 'data' is given; .*--data PATH"):
        run.hooks.source(split="train", run=run)


def test_a_folder_of_several_splits_asks_for_one(source, tmp_path):
    data = datasets.Dataset.from_dict(TABLE)
    datasets.DatasetDict({"train": data, "test": data}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match=r"several splits; name one of them: .*/d/train, .*/d/test"):
        source(str(tmp_path / "d"))


def test_a_table_that_is_compressed_as_a_whole_is_refused(source, tmp_path):
    TYPED["a.parquet"](tmp_path / "a.parquet")
    (tmp_path / "b.parquet.gz").write_bytes(gzip.compress((tmp_path / "a.parquet").read_bytes()))
    with pytest.raises(DataError, match="compressed twice"):
        source(str(tmp_path / "b.parquet.gz"))


def test_a_file_that_cannot_be_opened_is_an_error_that_names_it(source, tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "gone.txt")
    with pytest.raises(DataError, match=r"a\.txt' cannot be read: No such file"):
        source(str(tmp_path))


def test_an_unknown_encoding_is_a_wrong_option():
    with pytest.raises(ValidationError, match="'utf-9' is no encoding"):
        Files(encoding="utf-9")


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
