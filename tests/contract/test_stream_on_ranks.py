"""The built-in stream on several ranks, over http from a real server: killed, told to stop, and resumed."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from contract.test_drives import assert_same_run, drive, lines
from range_server import Manners, RangeServer

ROW = 20_000
BLOCK = 40


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RangeServer]:
    folder = tmp_path / "served"
    folder.mkdir()
    for part in range(2):
        # Longer behind the first block: whether a rank reads on or begins there, a server that hangs stops it in time.
        junk = ["x" * (ROW if n < BLOCK else 3 * ROW) for n in range(90)]
        rows = [{"text": f"part {part}, row {n} of many", "junk": junk[n]} for n in range(90)]
        (folder / f"part-{part}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    server = RangeServer(folder)
    yield server
    server.manners = Manners()
    server.stop()


def ledger(run: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_killed_within_a_block_goes_on_without_losing_or_repeating_a_row(
    server: RangeServer, tmp_path: Path
) -> None:
    def train(output: str, processes: int, kill_at: int = 0) -> tuple[int, str]:
        # A cache of its own each: what is resumed has to read from the server again.
        more = {"HFX_CACHE": str(tmp_path / f"cache-{output}-{processes}-{kill_at}"), "no_proxy": "127.0.0.1"}
        done = drive(
            tmp_path, processes, output, kill_at, "ddp" if processes > 1 else "one", "http",
            DRIVE_DATA=f"{server.url}/part-{{0..1}}.jsonl", **more,
        )  # fmt: skip
        return done.returncode, done.stderr

    assert train("whole", 2)[0] == 0
    assert train("killed", 2, kill_at=8)[0] != 0
    whole = ledger(tmp_path / "whole")
    assert len(whole) == 8
    assert whole[6]["position"]["block"] == 1  # type: ignore[index]  # where it goes on: within the second block
    assert whole[6]["position"]["window"] > 0  # type: ignore[index]
    for processes in (1, 3, 2):
        output = tmp_path / f"on-{processes}"
        shutil.copytree(tmp_path / "killed", output)
        before = len(server.requests)
        code, said = train(output.name, processes)
        assert code == 0, said[-3000:]
        assert "at step 6 of 8" in said
        assert len(server.requests) > before
        assert ledger(output) == whole
        metrics = (lines(tmp_path / run / "metrics.jsonl") for run in ("whole", output.name))
        for expected, found in zip(*metrics, strict=True):
            assert found["loss"] == (expected["loss"] and pytest.approx(expected["loss"], rel=1e-5))
    assert_same_run(tmp_path / "whole", tmp_path / "on-2")


@pytest.mark.slow
def test_a_signal_to_one_rank_ends_all_that_wait_for_a_block_at_the_same_step(
    server: RangeServer, tmp_path: Path
) -> None:
    given = {"DRIVE_DATA": f"{server.url}/part-0.jsonl", "no_proxy": "127.0.0.1"}
    whole = drive(tmp_path, 2, "whole", 0, "ddp", "http", **given, HFX_CACHE=str(tmp_path / "first"))
    assert whole.returncode == 0, whole.stderr[-3000:]
    server.manners.hang_after = (BLOCK + 20) * ROW
    began = time.monotonic()
    stopped = drive(tmp_path, 2, "stopped", 0, "ddp", "http", **given, DRIVE_INTERRUPT="5")
    assert time.monotonic() - began < 100
    assert stopped.returncode == 0, stopped.stderr[-3000:]
    assert "stopped by SIGTERM at step 5, saved; go on with" in stopped.stderr
    assert not (tmp_path / "stopped" / "model").exists()
    assert len(ledger(tmp_path / "stopped")) == 5
    server.manners.hang_after = None
    resumed = drive(tmp_path, 2, "stopped", 0, "ddp", "http", **given)
    assert resumed.returncode == 0, resumed.stderr[-3000:]
    assert_same_run(tmp_path / "whole", tmp_path / "stopped")
