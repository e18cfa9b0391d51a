"""Files that `files` finds behind paths, folders, globs and mappings, and the fingerprint of them."""

from __future__ import annotations

import glob
import gzip
import os
import pickle
import shutil
import subprocess
import sys
import tracemalloc
from functools import partial
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.errors import ConfigError, DataError
from hfx_plugins.sources.files import Files
from plugins.files_data import RECORDS, TABLE, TYPED, files_source, write_lines


@pytest.fixture
def source(make_run):
    return partial(files_source, make_run)


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


def test_reading_whole_files_starts_at_any_file_without_opening_those_before_it(source, tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text(name)
    found = source(str(tmp_path), row="file")
    (tmp_path / "a.txt").unlink()
    assert [row.values["text"] for row in found.read(1)] == ["b", "c"]


def test_files_and_folders_are_sorted_by_their_whole_names(source, tmp_path):
    names = ["a-b.txt", "a/b.txt", "a/c/d.txt", "a.txt", "a0.txt", "ä.txt", "b.txt", "\U0001f600.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    found = [row.values["text"] for row in source(str(tmp_path)).read()]
    assert found == sorted(names)
    assert [row.values["text"] for row in source(f"{tmp_path}/**/*.txt").read()] == found


PATTERNS = st.lists(st.sampled_from(["*", "**", "a", "b*", "[ab]", "?", ".*", "*.txt", ".h*"]), min_size=1, max_size=4)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PATTERNS, st.booleans())
def test_a_glob_finds_what_pythons_own_finds(source, tmp_path, monkeypatch, parts, relative):
    for name in ["a/b/1.txt", "a/a/2.txt", "b/3.txt", "b/.h/4.txt", ".h/5.txt", "6.txt", "a/.7.txt", "b/_x", "c/b"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    monkeypatch.chdir(tmp_path)
    pattern = "/".join(parts) if relative else f"{tmp_path}/{'/'.join(parts)}"
    files = [path for path in map(Path, glob.glob(str(Path(pattern)), recursive=True)) if path.is_file()]
    expected = sorted(path.as_posix() for path in files if path.name[0] != "." and path.name != "_x")
    if not expected or not glob.has_magic(pattern):
        return
    assert [row.place.file for row in source(pattern, format="text").read()] == expected


def test_a_folder_of_many_files_costs_some_bytes_a_file(source, tmp_path):
    for number in range(4_000):
        (tmp_path / f"{number:05d}.txt").touch()
    source(str(tmp_path))  # what is imported stays
    tracemalloc.start()
    before = pa.total_allocated_bytes()
    found = source(str(tmp_path))
    held = pa.total_allocated_bytes() - before + tracemalloc.get_traced_memory()[0]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found.formats() == {"text": 4_000}
    assert held < 4_000 * 40
    assert peak < 4_000 * 80
    assert len(pickle.dumps(found)) < 4_000 * 40


MEASURE = """
import sys
from hfx_plugins.sources.files_find_impl import find

def resident(name):
    with open("/proc/self/status") as status:
        return int(next(line for line in status if line.startswith(name)).split()[1]) * 1024

find("data", sys.argv[1] + "/part-0", None)
before = resident("VmRSS")
files = find("data", sys.argv[1], None)
print(len(files), resident("VmRSS") - before, resident("VmHWM") - before)
"""


@pytest.mark.slow
def test_a_folder_of_200_000_files_is_found_in_a_few_megabytes(tmp_path):
    for folder in range(20):
        (tmp_path / f"part-{folder}").mkdir()
        for number in range(10_000):
            (tmp_path / f"part-{folder}" / f"{number:05d}.txt").touch()
    command = [sys.executable, "-c", MEASURE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    shutil.rmtree(tmp_path)
    count, held, peak = map(int, done.stdout.split())
    assert count == 200_000
    assert held < 200_000 * 80
    assert peak < 200_000 * 150


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


def test_the_fingerprint_of_a_source_follows_a_file_that_changes_later(source, tmp_path):
    (tmp_path / "a.txt").write_text("one")
    found = source(str(tmp_path))
    before = found.fingerprint()
    assert found.fingerprint() == before
    (tmp_path / "a.txt").write_text("two")
    assert found.fingerprint() != before
    (tmp_path / "a.txt").unlink()
    with pytest.raises(DataError, match=r"a\.txt' cannot be read: No such file"):
        found.fingerprint()


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


def test_a_pipe_is_refused_and_not_waited_for(source, tmp_path):
    os.mkfifo(tmp_path / "a.txt")
    with pytest.raises(DataError, match=r"a\.txt' is no file but a pipe"):
        source(str(tmp_path))


def test_a_folder_that_cannot_be_read_is_an_error_and_not_left_out(source, tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("one")
    monkeypatch.chdir(tmp_path)
    for _ in range(20):  # a path longer than the system takes
        os.mkdir("f" * 250)
        os.chdir("f" * 250)
    with pytest.raises(DataError, match=r"the folder '.*' cannot be read: File name too long"):
        source(str(tmp_path))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"_data_files": [{}]}'])
def test_a_saved_dataset_with_a_damaged_list_of_files_is_an_error_that_names_it(source, tmp_path, content):
    TYPED["dataset"](tmp_path / "d")
    (tmp_path / "d" / "state.json").write_text(content)
    with pytest.raises(DataError, match=r"d/state\.json' does not name the data's files"):
        source(str(tmp_path / "d"))
