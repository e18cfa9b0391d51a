"""A server that is busy, down, slow or in the way, and the thread that reads ahead of the run."""

from __future__ import annotations

import gc
import io
import threading
import time

import pyarrow as pa
import pyarrow.parquet
import pytest
from pydantic import ValidationError

from hfx.errors import ConfigError, DataError, RemoteError
from hfx_plugins.sources.stream import Stream
from plugins.streams import FORMATS, jsonl, put, records, values
from range_server import Manners, RangeServer

pytest_plugins = ["plugins.streams"]


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


def test_what_is_listed_is_asked_for_with_the_headers_and_a_refusal_is_told_at_once(server, source, monkeypatch):
    monkeypatch.setenv("DOOR", "Bearer open-sesame")
    put(server, "a.jsonl", jsonl(records(5)))
    server.manners.needs = ("Authorization", "Bearer open-sesame")
    every = f"{server.url}/*.jsonl"
    assert len(list(source(every, headers={"Authorization": "env:DOOR"}).read())) == 5
    began = time.monotonic()
    with pytest.raises(RemoteError, match=r"may not be read \(401\); give what it asks for with stream.headers"):
        source(every).fingerprint()
    assert time.monotonic() - began < 5


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
    with pytest.raises(RemoteError, match=f"leads to '{other.url}/', where stream.headers are not sent; give that"):
        source(f"{server.url}/*.jsonl", headers={"Authorization": "env:DOOR"}).fingerprint()
    assert [path for path, _ in other.requests] == ["/a.jsonl"]
    other.stop()
    with pytest.raises(ValidationError, match="'Authorization' is a secret"):
        Stream(headers={"Authorization": "Bearer open-sesame"})
    with pytest.raises(ValidationError, match="cannot be found in a stream"):
        Stream(encoding="utf-16")


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
