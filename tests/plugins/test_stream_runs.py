"""Training from a web server that misbehaves, and going on in the middle of a stream: the ledger is the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest
import torch

import hfx
from hfx import Plugin, hookimpl
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


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    for part in range(3):
        junk = "x" * 60_000  # so much that the sockets' buffers do not hide what the server does
        rows = [{"text": f"{part} {n} " + "the order of rows " * (n % 5 + 20), "junk": junk} for n in range(110)]
        lines = [json.dumps(row) + "\n" for row in rows]
        (folder / f"part-{part}.jsonl").write_text("".join(lines))
    server = RangeServer(folder)
    yield server
    server.manners = Manners()
    server.stop()


@pytest.fixture
def train(server, tmp_path, monkeypatch):
    def run(name, events=None, plugins=OTHERS, **given):
        monkeypatch.setenv("HFX_CACHE", str(tmp_path / f"cache-{name}"))
        fields = {"data": f"{server.url}/part-{{0..2}}.jsonl", **FIELDS, **given}
        stream = Stream(**QUICK, read_ahead_mb=0.01)
        EVENTS.clear()
        EVENTS.update(events or {})
        hfx.train({"plugins": plugins}, plugins=[stream, Events()], output=tmp_path / name, **fields)
        return tmp_path / name

    return run


def ledger(run):
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]


def test_a_server_that_is_restarted_throttled_and_cut_while_training_changes_nothing(server, train):
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
    assert sum(first > 0 for first in opened) >= 4, opened


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
