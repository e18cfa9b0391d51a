from __future__ import annotations

import atexit
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from command_line import hfx
from hfx_plugins.sources.hub import Hub
from hub_server import HubServer

FOLDER = Path(tempfile.mkdtemp(prefix="hfx-hub-"))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
CARD = b"""---
configs:
- config_name: default
  data_files: [{split: train, path: train.jsonl}, {split: test, path: test.jsonl}]
- config_name: other
  data_files: [{split: train, path: other.jsonl}]
dataset_info:
- config_name: default
  features: [{name: text, dtype: string}, {name: label, dtype: {class_label: {names: {'0': bad, '1': good}}}}]
---
"""
TELL = """
import json, sys
from pathlib import Path
from hfx import World
from hfx.errors import HfxError
from hfx.resolve import resolve
from hfx.run import Run
from hfx_plugins.sources.hub import Hub

for question in json.loads(sys.argv[1]):
    split = question.pop("read", "train")
    fields = {name: question.pop(name) for name in ("data", "eval_data") if name in question}
    hub = Hub(**question)
    run = Run(resolve(mapping=fields, plugin_objects=[hub]), Path("run"), World())
    try:
        source = run.hooks.source(split=split, run=run).source
        rows = [getattr(row, "values", None) or row.reason for row in source.read()]
        told = {"rows": rows, "print": source.fingerprint(), "says": source.summary(), "pinned": source.pinned()}
        told["last"] = [row.values for row in source.read(len(rows) - 1)]
        told["place"] = str(next(iter(source.read())).place)
    except HfxError as error:
        told = {"error": f"{type(error).__name__}: {error}"}
    print("TOLD " + json.dumps(told))
"""


@pytest.fixture(autouse=True)
def _home(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", FOLDER / "home")


@pytest.fixture
def server(tmp_path):
    server = HubServer(tmp_path / "hub")
    yield server
    server.stop()


@pytest.fixture
def ask(server, tmp_path):
    """Ask in a process of its own: the hub's address is read when its packages are imported."""

    said = []

    def answers(*questions, **environ):
        given = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HFX_CACHE": str(tmp_path / "cache")}
        more = {"no_proxy": "127.0.0.1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
        done = subprocess.run(
            [sys.executable, "-c", TELL, json.dumps(questions)],
            env=os.environ | given | more | environ, cwd=tmp_path, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        said.append(done.stderr)
        return [json.loads(line[5:]) for line in done.stdout.splitlines() if line.startswith("TOLD ")]

    answers.said = said
    return answers


def files(count):
    train = [{"text": f"row {number}", "label": number % 2} for number in range(count)]
    lines = {"train.jsonl": train, "test.jsonl": [{"text": "held out", "label": -1}], "other.jsonl": [{"text": "o"}]}
    return {"README.md": CARD} | {
        name: "".join(json.dumps(row) + "\n" for row in rows).encode() for name, rows in lines.items()
    }


def test_splits_configurations_and_commits_are_read_and_named(server, ask):
    old = server.commit("me/toy", files(3))
    new = server.commit("me/toy", files(4))
    toy = {"dataset": "me/toy"}
    newest, pinned, eval_rows, other, some, mixed, twice = ask(
        toy, {**toy, "revision": old}, {"data": "me/toy", "eval_data": "test", "read": "eval"},
        {**toy, "config": "other"}, {**toy, "columns": ["text"], "split": "train[:2]"},
        {"data": {"b": "me/toy", "a": "me/toy"}}, toy,
    )  # fmt: skip
    assert newest["rows"] == [{"text": f"row {n}", "label": ["bad", "good"][n % 2]} for n in range(4)]
    assert newest["last"] == newest["rows"][-1:]
    assert newest["place"] == f"me/toy@{new[:12]}/train:1"
    assert newest["says"] == f"me/toy (commit {new}), split train"
    assert (newest["pinned"], pinned["pinned"], mixed["pinned"]) == ({"revision": new}, {"revision": old}, {})
    assert (len(pinned["rows"]), pinned["says"]) == (3, f"me/toy (commit {old}), split train")
    assert eval_rows["rows"] == [{"text": "held out", "label": None}]
    assert other["rows"] == [{"text": "o"}]
    assert some["rows"] == [{"text": "row 0"}, {"text": "row 1"}]
    assert len(mixed["rows"]) == 8
    assert twice["print"] == newest["print"]
    assert len({told["print"] for told in (newest, pinned, eval_rows, other, some, mixed)}) == 6


def test_a_run_file_holds_the_commit_that_was_read(server, tmp_path):
    commit = server.commit("me/toy", files(40))
    environ = {"HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "home"), "HFX_CACHE": str(tmp_path / "cache")}
    small = ["--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "1", "--seq-length", "16"]
    words = ["train", "--plugin", "hub", "--hub.dataset", "me/toy", "--steps", "1", "--output", "run", *small]
    done = hfx(*words, cwd=tmp_path, no_proxy="127.0.0.1", **environ)
    assert done.returncode == 0, done.stderr
    assert f"revision: {commit}" in (tmp_path / "run" / "run.yaml").read_text()


def test_what_is_cached_works_offline_and_never_stands_for_another_commit(server, ask):
    first = server.commit("me/toy", files(3))
    (online,) = ask({"dataset": "me/toy"})
    again, pinned, other, branch, unknown = ask(
        {"dataset": "me/toy"}, {"dataset": "me/toy", "revision": first}, {"dataset": "me/toy", "revision": "0" * 40},
        {"dataset": "me/toy", "revision": "draft"}, {"dataset": "me/none"}, HF_HUB_OFFLINE="1",
    )  # fmt: skip
    assert again == online == pinned
    assert other["error"].startswith(f"DataError: 'me/toy' is cached at commit {first}, and not at {'0' * 40}, and the")
    assert "which commit 'draft' of 'me/toy' is was never asked here; go online once" in branch["error"]
    assert unknown["error"].startswith("RemoteError: 'me/none' is not cached here, and the hub cannot be reached")


def test_a_hub_that_is_busy_or_drops_connections_is_asked_again(server, ask):
    server.commit("me/toy", files(5))
    asked, loaded, read = "api/datasets/me/toy", "/revision/", "train.jsonl"
    server.trouble = [(asked, 503), (asked, "drop"), (asked, 429), (loaded, "cut"), (loaded, "drop"), (read, "cut")]
    (told,) = ask({"dataset": "me/toy", "retry_minutes": 1.0})
    assert len(told["rows"]) == 5
    assert server.trouble == []
    assert "'me/toy' on the hub: 503 Service Unavailable; trying again in " in ask.said[0]
    assert "thrown while requesting" not in ask.said[0]


def test_a_new_commit_that_cannot_be_loaded_yet_is_waited_for_though_an_old_one_is_cached(server, ask):
    server.commit("me/toy", files(3))
    ask({"dataset": "me/toy"})
    new = server.commit("me/toy", files(4))
    server.trouble = [("/revision/", 503)] * 2
    (told,) = ask({"dataset": "me/toy", "retry_minutes": 1.0})
    assert (len(told["rows"]), told["pinned"], server.trouble) == (4, {"revision": new}, [])
    server.commit("me/toy", {"README.md": b"nothing else"})
    (told,) = ask({"dataset": "me/toy", "retry_minutes": 1.0})
    assert told["error"].startswith("DataError: 'me/toy' cannot be read: ")


def test_a_hub_that_stays_busy_is_given_up_in_one_line_and_what_is_cached_is_read(server, ask):
    server.commit("me/toy", files(3))
    server.commit("me/other", files(3))
    (online,) = ask({"dataset": "me/toy"})
    server.trouble = [("api/datasets", 503)] * 1000
    given_up, at_once, cached = ask(
        {"dataset": "me/other", "retry_minutes": 0.02}, {"dataset": "me/other", "retry_minutes": 0},
        {"dataset": "me/toy", "retry_minutes": 0},
    )  # fmt: skip
    why = "503 Service Unavailable; try again when it is back, or raise hub.retry_minutes"
    assert given_up["error"] == f"RemoteError: 'me/other' on the hub fails for 0.02 minutes: {why}"
    assert at_once["error"] == f"RemoteError: 'me/other' on the hub fails: {why}"
    assert cached == online


def test_without_a_network_the_run_ends_at_once_in_one_line(tmp_path):
    words = ["data", "inspect", "--plugin", "hub", "--data", "me/toy"]
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environ = {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HFX_CACHE": str(tmp_path), "no_proxy": "*"}
        began = time.monotonic()
        done = hfx(*words, cwd=tmp_path, **environ)
    assert done.returncode == 1
    assert re.fullmatch(
        r"hfx: 'me/toy' is not cached here, and the hub cannot be reached: .*; go online once\n", done.stderr
    )
    assert time.monotonic() - began < 12  # importing `datasets` beside other tests takes a while, too


def test_what_is_wrong_is_one_line(server, ask):
    server.commit("me/toy", files(3))
    server.commit("me/closed", files(3))
    server.commit("me/broken", {"train.jsonl": b'{"a": 1}\n{"a": \n'})
    server.gated.add("me/closed")
    toy = {"dataset": "me/toy"}
    asked = {
        "DataError: the data set 'me/nothing' does not exist on the hub, or is private": {"dataset": "me/nothing"},
        "DataError: the data set 'me/toy' has no revision 'nope'; look at hub.revision": {**toy, "revision": "nope"},
        "RemoteError: the data set 'me/closed' is gated; ask for access on its page": {"dataset": "me/closed"},
        "ConfigError: 'me/toy': Unknown split \"trian\"": {**toy, "split": "trian"},
        "ConfigError: 'me/toy': BuilderConfig 'othr' not found": {**toy, "config": "othr"},
        "ConfigError: 'me/toy' has no column 'txt'; did you mean 'text'": {**toy, "columns": ["txt"]},
        "DataError: the data set 'a b' is no name of a data set, nor a folder": {"dataset": "a b"},
        "DataError: 'me/broken' cannot be read: ": {"dataset": "me/broken"},
    }
    for told, start in zip(ask(*asked.values()), asked, strict=True):
        assert told["error"].startswith(start)
        assert "\n" not in told["error"]
    (opened,) = ask({"dataset": "me/closed", "token": "env:DOOR"}, DOOR="let-me-in")
    assert len(opened["rows"]) == 3


def test_nothing_or_two_things_to_read_are_problems(make_run):
    def problems(hub, **fields):
        return [problem.message for problem in hub.hfx_check(run=make_run(hub, **fields))]

    assert "given no data set" in problems(Hub())[0]
    assert "both name the data set" in problems(Hub(dataset="a/b"), data="c/d")[0]
    assert "names a split" in problems(Hub(), data="a/b", eval_data={"a": "b"})[0]
    assert problems(Hub(), data="a/b", eval_data="test") == []
