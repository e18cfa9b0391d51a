from __future__ import annotations

import csv
import gc
import gzip
import importlib.util
import io
import json
import random
import resource
import shutil
import threading
import time

import fsspec
import pyarrow as pa
import pyarrow.parquet
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx import BadRow
from hfx.errors import ConfigError, DataError, RemoteError
from hfx_plugins.sources.files import Files
from hfx_plugins.sources.stream import Stream
from range_server import Manners, RangeServer


@pytest.fixture
def server(tmp_path):
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


# ── formats ──────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── trouble ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_connection_that_is_cut_again_and_again_goes_on_at_the_byte(server, source):
    rows = records(3_000)
    url = put(server, "a.jsonl", jsonl(rows))
    found = source(url, retry_minutes=1)
    found.fingerprint()
    server.manners.cut_after = 30_000
    assert values(found.read()) == rows
    assert server.sent < 1.5 * len(jsonl(rows))


@pytest.mark.parametrize("refusal", [(503, {}), (500, {}), (408, {}), (429, {"Retry-After": "1"})])
def test_a_busy_server_is_asked_again(server, source, refusal):
    url = put(server, "a.jsonl", jsonl(records(10)))
    server.manners.refusals = [refusal] * 2
    began = time.monotonic()
    found = source(url)
    assert len(list(found.read())) == 10
    assert time.monotonic() - began >= (2.0 if refusal[1] else 0.2)


def test_a_server_that_hangs_or_drips_is_left_for_a_new_connection(server, source):
    rows = records(2_000)
    url = put(server, "a.jsonl", jsonl(rows))
    for manners in (Manners(hang_after=40_000), Manners(rate=20)):
        found = source(url, timeout=0.4)
        found.fingerprint()
        server.manners = manners
        threading.Timer(1.5, lambda: setattr(server, "manners", Manners())).start()
        assert values(found.read()) == rows


def test_a_server_that_is_down_for_a_while_is_waited_for(server, source):
    rows = records(2_000)
    found = source(put(server, "a.jsonl", jsonl(rows)), read_ahead_mb=0.01)
    reading = found.read()
    first = [next(reading) for _ in range(100)]
    server.down_for(1.5)
    assert values([*first, *reading]) == rows


def test_a_server_that_stays_down_is_given_up_in_one_line(server, source):
    found = source(put(server, "a.jsonl", jsonl(records(5))), retry_minutes=0.005)
    found.fingerprint()
    server.stop()
    with pytest.raises(
        RemoteError, match=r"a.jsonl' fails at byte 0 for 0.005 minutes: Connection refused; go on with"
    ):
        list(found.read())


@pytest.mark.parametrize("etag", [True, False])
def test_a_file_that_changes_midway_is_one_line(server, source, etag):
    server.manners.etag = etag
    rows = records(3_000)
    found = source(put(server, "a.jsonl", jsonl(rows)))
    found.fingerprint()
    before = found.fingerprint()
    put(server, "a.jsonl", jsonl(rows[1:]))
    with pytest.raises(DataError, match="changed while it was read"):
        list(found.read())
    assert source(f"{server.url}/a.jsonl").fingerprint() != before


def test_a_server_without_ranges_sends_the_beginning_again_and_rows_stay_the_same(server, source):
    rows = records(3_000)
    url = put(server, "a.jsonl", jsonl(rows))
    server.manners = Manners(ranges=False)
    found = source(url, block=100)
    assert values(found.read(2_000)) == rows[2_000:]
    server.manners.cut_after = 90_000
    threading.Timer(1.0, lambda: setattr(server.manners, "cut_after", None)).start()
    assert values(source(url, block=100).read(1_500)) == rows[1_500:]
    with pytest.raises(DataError, match="serves no parts of a file"):
        list(source(put(server, "c.parquet", FORMATS["c.parquet"])).read())


def test_parquet_survives_cuts_and_reads_only_the_row_groups_it_needs(server, source):
    rows = [{"text": "x" * 5_000 + str(n)} for n in range(200)]
    sink = io.BytesIO()
    pa.parquet.write_table(
        pa.Table.from_pylist(rows), sink, row_group_size=20, compression="none", use_dictionary=False
    )
    url = put(server, "a.parquet", sink.getvalue())
    server.manners.cut_after = 60_000
    assert values(source(url, block=50, retry_minutes=1).read()) == rows
    server.manners, server.sent = Manners(), 0
    assert values(source(url, block=50).read(180)) == rows[180:]
    assert server.sent < 0.4 * len(sink.getvalue())


def test_what_will_not_work_later_either_is_one_line_at_once(server, source):
    url = put(server, "a.jsonl", jsonl(records(5)))
    with pytest.raises(DataError, match=r"b.jsonl' does not exist \(404 Not Found\)"):
        source(f"{server.url}/b.jsonl").fingerprint()
    server.manners.needs = ("Authorization", "Bearer open-sesame")
    with pytest.raises(
        RemoteError, match=r"may not be read \(401 Unauthorized\); give what it asks for with stream.head"
    ):
        source(url).fingerprint()
    with pytest.raises(DataError, match="does not exist"):
        source("/nowhere/a.jsonl").fingerprint()
    with pytest.raises(ConfigError, match="no 'data' is given"):
        source(None)


def test_headers_hold_secrets_by_name_and_stay_behind_at_redirects(server, source, monkeypatch, tmp_path):
    monkeypatch.setenv("DOOR", "Bearer open-sesame")
    url = put(server, "a.jsonl", jsonl(records(5)))
    server.manners.needs = ("Authorization", "Bearer open-sesame")
    assert len(list(source(url, headers={"Authorization": "env:DOOR"}).read())) == 5
    other = RangeServer(server.folder)
    server.manners.redirect_to = other.url
    other.manners.needs = ("Authorization", "Bearer open-sesame")
    with pytest.raises(RemoteError, match="401"):
        source(url, headers={"Authorization": "env:DOOR"}).fingerprint()
    other.stop()
    with pytest.raises(ValidationError, match="'Authorization' is a secret"):
        Stream(headers={"Authorization": "Bearer open-sesame"})
    with pytest.raises(ValidationError, match="cannot be found in a stream"):
        Stream(encoding="utf-16")


# ── damage ───────────────────────────────────────────────────────────────────────────────────────────────────────────


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


# ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────────────


def threads():
    return [thread for thread in threading.enumerate() if thread.name == "hfx-stream"]


def test_reading_ahead_is_bounded_and_ends_with_the_run(server, make_run):
    assert not threads()
    rows = records(20_000, width=200)
    run = make_run(Stream(read_ahead_mb=0.1), data=put(server, "a.jsonl", jsonl(rows)))
    found = run.hooks.source(split="train", run=run).source
    reading = found.read()
    next(reading)
    time.sleep(0.3)
    assert found.counts["rows"] < 6_000
    reading.close()
    assert len(threads()) == 1
    run.close()
    assert not threads()


def test_a_reader_that_waits_for_a_silent_server_is_closed_at_once(server, make_run):
    url = put(server, "a.jsonl", jsonl(records(2_000)))
    run = make_run(Stream(timeout=60), data=url)
    found = run.hooks.source(split="train", run=run).source
    found.fingerprint()
    server.manners.hang_after = 30_000
    reading = found.read()
    next(reading)
    reading.close()
    began = time.monotonic()
    run.close()
    assert time.monotonic() - began < 1
    assert not threads()


def test_a_reader_that_an_error_still_holds_ends_with_the_run(server, make_run):
    run = make_run(Stream(read_ahead_mb=0.01), data=put(server, "a.jsonl", jsonl(records(9_000))))
    reading = run.hooks.source(split="train", run=run).source.read()
    next(reading)
    run.close()
    assert not threads()


def test_a_source_that_nobody_holds_ends_its_thread(server, make_run):
    run = make_run(Stream(read_ahead_mb=0.01), data=put(server, "a.jsonl", jsonl(records(9_000))))
    reading = run.hooks.source(split="train", run=run).source.read()
    next(reading)
    run._exit.pop_all()
    del reading, run
    gc.collect()
    assert not threads()


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
