"""Training from a web server that misbehaves, and going on in the middle of a stream: the ledger is the same."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hfx
from hfx import Plugin, Run, World, hookimpl
from hfx.blocks import blocks_of
from hfx.resolve import resolve
from hfx_plugins.sources.files import Files
from hfx_plugins.sources.stream import Stream
from range_server import Manners, RangeServer

torch.set_num_threads(1)
FIELDS: dict[str, Any] = {"steps": 30, "batch_size": 8, "seq_length": 32, "save_every": 8, "seed": 3}
OTHERS = {"bpe": {"vocab_size": 300}, "scratch": {"hidden_size": 16, "layers": 1}, "fp32": {}, "no:progress": {}}
QUICK = {"columns": ["text"], "block": 15, "timeout": 1.0, "retry_minutes": 1.0}


EVENTS: dict[int, Callable[[Any], object]] = {}
"""What to do at the end of which step."""


class Events(Plugin):
    """Does what a test wants at the end of some steps."""

    @hookimpl
    def hfx_step_end(self, run):
        """Do it."""
        if run.step in EVENTS:
            EVENTS[run.step](run)


def fill(folder, junk):
    """Write three files of rows with so much junk that the sockets' buffers do not hide what the server does."""
    for part in range(3):
        rows = [{"text": f"{part} {n} " + "the order of rows " * (n % 5 + 20), "junk": "x" * junk} for n in range(110)]
        (folder / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


WHOLE_WINDOWS = 300_000
"""Junk of a row, with which a single block is as large as what the system may hold of an answer."""


@pytest.fixture
def interrupt():
    """Send this process a SIGINT soon; not at all where the test is over before."""
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    yield timer.start
    timer.cancel()


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    fill(folder, 60_000)
    server = RangeServer(folder)
    yield server
    server.manners = Manners()
    server.stop()


@pytest.fixture
def train(server, tmp_path, monkeypatch):
    results = []

    def run(name, events=None, plugins=OTHERS, source=None, **given):
        monkeypatch.setenv("HFX_CACHE", str(tmp_path / f"cache-{name}"))
        fields = {"data": f"{server.url}/part-{{0..2}}.jsonl", **FIELDS, **given}
        stream = source or Stream(**QUICK, read_ahead_mb=0.01)
        EVENTS.clear()
        EVENTS.update(events or {})
        results.append(hfx.train({"plugins": plugins}, plugins=[stream, Events()], output=tmp_path / name, **fields))
        return tmp_path / name

    run.results = results

    return run


def ledger(run):
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]


def test_a_server_that_is_restarted_throttled_and_cut_while_training_changes_nothing(server, train):
    fill(server.folder, 150_000)
    calm = ledger(train("calm"))
    before = len(server.requests)
    busy = [(503, {}), (429, {"Retry-After": "1"})]
    behave = lambda **manners: lambda _: setattr(server, "manners", Manners(**manners))  # noqa: E731
    events = {
        3: lambda _: server.down_for(1.5),
        8: behave(cut_after=200_000),
        14: behave(rate=1_000_000, refusals=busy),
        20: behave(ranges=False, cut_after=6_000_000),
        25: behave(),
    }
    assert ledger(train("troubled", events)) == calm
    assert len(calm) == FIELDS["steps"]
    opened = [first for _, first in server.requests[before:]]
    assert sum(first > 0 for first in opened) >= 2, opened


@pytest.mark.slow
def test_a_server_that_is_away_for_a_minute_while_training_changes_nothing(server, train):
    calm = ledger(train("calm"))
    started = time.monotonic()
    patient = Stream(**{**QUICK, "retry_minutes": 3.0}, read_ahead_mb=0.01)
    assert ledger(train("troubled", {5: lambda _: server.down_for(60)}, source=patient)) == calm
    assert time.monotonic() - started > 60


@pytest.mark.parametrize("lose", ["nothing", "the cache"])
def test_a_run_stopped_in_the_middle_of_a_block_goes_on_without_losing_or_repeating_a_row(server, train, lose):
    whole = ledger(train("whole"))
    name = "stopped"
    for step in (8, 11, 20):  # stopped at steps 9, 12 and 21: within a block each time
        train(name, {step: lambda run: run.request_stop("a test")}, resume="auto")
    if lose == "the cache":
        shutil.rmtree(server.folder.parent / "cache-stopped")
    passed = []
    output = train(name, {24: lambda run: passed.append(dict(run._source("train").source.counts))}, resume="auto")
    assert ledger(output) == whole
    assert passed
    assert passed[0].get("passed", 0) == 0
    assert passed[0].get("rows", 0) <= (0 if lose == "nothing" else 3) * QUICK["block"] + 60


def test_a_signal_while_the_run_waits_for_a_silent_server_ends_it_and_it_goes_on_to_the_same_ledger(
    server, train, interrupt
):
    fill(server.folder, WHOLE_WINDOWS)
    whole = ledger(train("whole"))

    def silence(_):
        server.manners = Manners(hang_after=0)
        interrupt()

    began = time.monotonic()
    output = train("stopped", {7: silence})
    assert time.monotonic() - began < 20
    result = train.results[-1]
    assert result.stopped == "SIGINT"
    assert 7 <= result.step < FIELDS["steps"]
    assert len(ledger(output)) == result.step
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("hfx-")]
    server.manners = Manners()
    assert ledger(train("stopped", resume="auto")) == whole


def test_all_blocks_of_an_evaluation_stream_are_evaluated_on_as_files_are(server, train):
    texts = {"few": [f"the order of row {n}" for n in range(12)]}  # one block, so that both train on the same
    texts["held-out"] = [f"held out {n} " + "some words more " * (n % 7) for n in range(40)]
    for name, of in texts.items():
        (server.folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in of))
    given = {"steps": 4, "eval_every": 1, "micro_batch_size": 3}
    files, stream = (
        {"data": f"{at}/few.jsonl", "eval_data": f"{at}/held-out.jsonl"} for at in (server.folder, server.url)
    )
    expected = evaluations(train("files", source=Files(), **given | files))
    found = evaluations(train("stream", **given | stream))
    assert len(expected) == 4
    assert found == pytest.approx(expected, rel=1e-6)
    read = [path for path, _ in server.requests if path == "/held-out.jsonl"]
    assert len(read) == 3  # asked about, read, and asked what is behind its end: later evaluations find the cache


def test_rows_that_are_evaluated_on_too_stay_in_every_block(server, tmp_path):
    texts = [f"the order of row {n}" for n in range(40)]
    for name, of in (("many", texts), ("judge", [texts[3], texts[25], texts[39]])):
        (server.folder / f"{name}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in of))
    given = {"data": f"{server.url}/many.jsonl", "eval_data": str(server.folder / "judge.jsonl")}
    fields = FIELDS | given | {"plugins": {**OTHERS, "stream": {**QUICK, "block": 20}}}
    run = Run(resolve(mapping=fields), tmp_path / "run", World())
    try:
        blocks = blocks_of(run, "train")
        assert [len(blocks.get(index)) for index in range(2)] == [20, 20]
        block = blocks.prepare(1)
        shutil.rmtree(block.path)  # as another run on this cache does, once it is two blocks further
        assert len(block.values(19)["input_ids"]) > 0
    finally:
        run.close()


def test_a_signal_within_an_evaluation_that_waits_ends_it_and_the_resumed_run_makes_up_for_it(server, train, interrupt):
    fill(server.folder, WHOLE_WINDOWS)
    given = {"data": str(server.folder / "part-0.jsonl"), "eval_data": f"{server.url}/part-1.jsonl"}
    given |= {"steps": 4, "eval_every": 2}
    expected = evaluations(train("whole", **given))

    def silence(_):
        server.manners = Manners(hang_after=0)
        interrupt()

    output = train("stopped", {2: silence}, **given)
    assert (train.results[-1].stopped, train.results[-1].step, evaluations(output)) == ("SIGINT", 2, [])
    server.manners = Manners()
    assert evaluations(train("stopped", resume="auto", **given)) == expected
    assert len(expected) == 2


def evaluations(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [line["eval_loss"] for line in lines if "eval_loss" in line]
