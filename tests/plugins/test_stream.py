from __future__ import annotations

import gzip
import importlib.util
import shutil

import fsspec
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.errors import DataError
from hfx_plugins.sources.files import Files
from hfx_plugins.sources.stream import Stream
from plugins.streams import FORMATS, ROWS, jsonl, put, records, values

pytest_plugins = ["plugins.streams"]


# ── formats ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("row", ["paragraph", "line", "file"])
def test_every_format_is_read_as_by_files_and_from_every_row_on(server, source, make_run, name, row):
    if row != "paragraph" and not name.endswith((".txt", ".md")):
        row = "paragraph"
    url = put(server, name, FORMATS[name])
    run = make_run(Files(row=row), data=str(server.folder / name))
    expected = [(r.values, r.place.row) for r in run.hooks.source(split="train", run=run).source.read()]
    found = source(url, block=7, row=row)
    assert [(r.values, r.place.row) for r in found.read()] == expected
    for start in {0, 1, 6, 7, 8, 49, 50, 77, len(expected) - 1, len(expected)} & set(range(len(expected) + 1)):
        again = source(url, block=7, row=row)
        assert [(r.values, r.place.row) for r in again.read(start)] == expected[start:]
        assert again.counts["passed"] < 7


def test_columns_are_chosen_in_every_format(server, source):
    for name in ("a.jsonl", "b.csv", "c.parquet"):
        found = list(source(put(server, name, FORMATS[name]), columns=["label"]).read())
        assert values(found) == [{"label": row["label"]} for row in ROWS]
    with pytest.raises(DataError, match="has no column 'labl'; did you mean 'label'"):
        list(source(f"{server.url}/c.parquet", columns=["labl"]).read())


def test_many_addresses_are_named_by_a_range_a_glob_and_a_mapping(server, source, tmp_path):
    for number in range(3):
        put(server, f"part-{number:02}.jsonl", jsonl(records(4)[number : number + 1]))
    assert len(list(source(f"{server.url}/part-{{00..02}}.jsonl").read())) == 3
    assert len(list(source(f"{server.url}/part-{{00,02}}.jsonl").read())) == 2
    assert len(list(source(f"{server.url}/part-*.jsonl").read())) == 3
    assert len(list(source(str(tmp_path / "served" / "part-*.jsonl")).read())) == 3
    assert len(list(source(str(tmp_path / "served")).read())) == 3
    mixed = {"b": f"{server.url}/part-00.jsonl?x=1", "a": str(tmp_path / "served" / "part-01.jsonl")}
    assert [row.place.source for row in source(mixed).read()] == ["a", "b"]
    with pytest.raises(DataError, match="matches no file"):
        source(str(tmp_path / "*.jsonl"))
    with pytest.raises(DataError, match=r"'.*a.xyz' is not one that can be read as a stream"):
        source(f"{server.url}/a.xyz")


def test_another_file_system_is_read_through_fsspec(source):
    memory = fsspec.filesystem("memory")
    memory.pipe("/bucket/a.jsonl", jsonl(records(5)))
    memory.pipe("/bucket/b.jsonl", jsonl(records(3)))
    assert len(list(source("memory://bucket/*.jsonl").read())) == 8
    assert len(list(source("memory://bucket/").read(4))) == 4
    with pytest.raises(DataError, match="does not exist"):
        source("memory://bucket/c.jsonl").fingerprint()
    with pytest.raises(DataError, match="cannot be opened: Protocol not known: nowhere"):
        source("nowhere://bucket/c.jsonl").fingerprint()
    if importlib.util.find_spec("s3fs") is None:
        with pytest.raises(
            DataError, match=r"cannot be opened: Install s3fs.*; install the package of that file system"
        ):
            source("s3://bucket/c.jsonl").fingerprint()


# ── going on ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_blocks_are_read_in_one_go_and_a_new_process_seeks_to_its_block(server, source):
    rows = records(5_000)
    url = put(server, "a.jsonl", jsonl(rows))
    found = source(url, block=500)
    for start in range(0, 5_000, 500):  # the core looks at the first row behind a block
        reading = found.read(start)
        assert values(next(reading) for _ in range(500)) == rows[start : start + 500]
        next(reading, None)
        reading.close()
    assert found.counts == {"rows": 5_000}
    before = len(server.requests)
    again = source(url, block=500)
    reading = again.read(4_500)
    assert values(next(reading) for _ in range(10)) == rows[4_500:4_510]
    reading.close()
    assert again.counts["passed"] == 0
    first = max(offset for _, offset in server.requests[before:])
    assert first == len(jsonl(rows[:4_500]))


@pytest.mark.parametrize("packing", ["gz", "zst"])
def test_packed_files_go_on_at_the_member_that_holds_the_row(server, source, packing):
    pack = {"gz": gzip.compress, "zst": zstandard.compress}[packing]
    rows = records(1_000)
    members = [pack(jsonl(rows[at : at + 50])) for at in range(0, 1_000, 50)]
    url = put(server, f"a.jsonl.{packing}", b"".join(members))
    assert values(source(url, block=70).read()) == rows
    before = len(server.requests)
    again = source(url, block=70)
    assert values(again.read(910)) == rows[910:]
    assert again.counts["passed"] == 0
    assert len(server.requests) > before
    assert server.requests[-1][1] == len(b"".join(members[:18]))


def test_marks_are_kept_with_the_run_too_so_that_losing_the_cache_costs_nothing(server, make_run, tmp_path):
    url = put(server, "a.jsonl", jsonl(records(100)))
    (tmp_path / "run").mkdir()
    for _ in range(2):
        stream = Stream(block=10)
        run = make_run(stream, data=url)
        found = run.hooks.source(split="train", run=run).source
        assert len(list(found.read(50))) == 50
        run.close()
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
    assert found.counts["passed"] == 0


def test_two_readers_at_once_do_not_disturb_each_other(server, source):
    rows = records(300)
    found = source(put(server, "a.jsonl", jsonl(rows)), block=50)
    pairs = list(zip(found.read(), found.read(100), strict=False))
    assert values(a for a, _ in pairs) == rows[:200]
    assert values(b for _, b in pairs) == rows[100:]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 120), min_size=1, max_size=6), st.integers(1, 40))
def test_any_chain_of_readers_yields_every_row_once(server, source, stops, block):
    rows = records(120)
    name = "chain.jsonl.gz"
    if not (server.folder / name).exists():
        put(server, name, gzip.compress(jsonl(rows[:70])) + gzip.compress(jsonl(rows[70:])))
    found, at, url = [], 0, f"{server.url}/{name}"
    for stop in sorted(set(stops) | {120}):
        reading = source(url, block=block).read(at)
        found += values(next(reading) for _ in range(stop - at))
        reading.close()
        at = stop
    assert found == rows
