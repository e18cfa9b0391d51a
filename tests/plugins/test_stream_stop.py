"""A signal while a run waits for the network: it ends within seconds, saved, and goes on to the same ledger."""

from __future__ import annotations

import json
import signal
import subprocess
import time

import pytest

from command_line import MODULE, environment, hfx
from range_server import Manners, RangeServer

SMALL = ["--bpe.vocab-size", "300", "--scratch.hidden-size", "16", "--scratch.layers", "1", "--plugin", "fp32"]
LENGTH = ["--steps", "8", "--batch-size", "8", "--seq-length", "32", "--seed", "3", "--plugin", "no:progress"]
ROW = 20_000


@pytest.fixture
def server(tmp_path):
    (tmp_path / "served").mkdir()
    server = RangeServer(tmp_path / "served")
    # Rows so long that no buffer of the system hides what the server does.
    rows = [{"text": f"{n} the order of rows", "junk": "x" * ROW} for n in range(100)]
    (server.folder / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    yield server
    server.manners = Manners()
    server.stop()


def words(server, block):
    reading = ["--stream.columns", "text", "--stream.block", str(block), "--stream.read-ahead-mb", "0.01"]
    return ["train", "--data", f"{server.url}/a.jsonl", "--plugin", "stream", *reading, *SMALL, *LENGTH]


def rows_of(output):
    path = output / "ledger.jsonl"
    return path.read_text().splitlines() if path.exists() else []


def wait_until(true, seconds=60):
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < seconds
        time.sleep(0.05)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "code", "block", "behind"),
    [
        (signal.SIGINT, 130, 30, 50),
        (signal.SIGTERM, 143, 30, 50),
        (signal.SIGINT, 130, 5, 7),
    ],
    ids=["interrupted", "terminated", "before step 1"],
)
def test_a_run_that_waits_for_a_silent_server_ends_at_once_and_is_resumed(
    server, tmp_path, number, code, block, behind
):
    environ = {"HFX_CACHE": str(tmp_path / "cache"), "no_proxy": "127.0.0.1"}
    whole, output = tmp_path / "whole", tmp_path / "stopped"
    done = hfx(*words(server, block), "--output", str(whole), cwd=tmp_path, HFX_CACHE=str(tmp_path / "c"), no_proxy="*")
    assert done.returncode == 0, done.stderr
    server.requests.clear()
    server.manners.hang_after = behind * ROW
    started = subprocess.Popen(
        [*MODULE, *words(server, block), "--output", str(output)], cwd=tmp_path, env=environment(**environ),
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    steps = 3 if block > 8 else 0
    wait_until(lambda: len(rows_of(output)) == steps and (output / "run.yaml").exists())
    time.sleep(1.0)
    assert started.poll() is None
    assert len(rows_of(output)) == steps
    began = time.monotonic()
    started.send_signal(number)
    _, said = started.communicate(timeout=60)
    assert time.monotonic() - began < 10
    assert started.returncode == code, said
    assert "trying again" not in said
    assert f"stopped by {number.name} at step {steps}, saved; go on with" in said
    server.manners.hang_after = None
    resumed = hfx("train", "--resume", str(output), cwd=tmp_path, **environ)
    assert resumed.returncode == 0, resumed.stderr
    assert f"at step {steps} of 8" in resumed.stderr
    assert rows_of(output) == rows_of(whole)
