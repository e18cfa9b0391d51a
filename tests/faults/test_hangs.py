"""A rank that hangs is named with its stack, within the timeout, and the job ends or begins again."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from ranks import assert_same_run, folder_of_rows, trained

pytestmark = pytest.mark.faults
SOON = ("--auto-backend.timeout-minutes", "0.2", "--plugin", "harm")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run of two processes."""
    path = folder_of_rows(tmp_path_factory.mktemp("hangs"))
    trained(path, "whole")
    return path


def told(said: str) -> str:
    return next(line for line in said.splitlines() if line.startswith("hfx: rank"))


def test_a_rank_that_sleeps_is_named_with_the_line_where_it_does_and_the_run_begins_again(folder: Path) -> None:
    began = time.monotonic()
    said = trained(folder, "again", *SOON, "--harm.does", "sleep", "--harm.mark", "once").stderr
    assert time.monotonic() - began < 120
    assert "rank 0 waited for another one in vain: rank 1 hangs in step 6, what follows a step, File " in told(said)
    assert "harm.py" in told(said)
    assert "all begin again at the newest checkpoint" in told(said)
    assert "time.sleep(600)" in said
    assert_same_run(folder / "whole", folder / "again")


@pytest.mark.slow
def test_a_rank_that_is_stopped_is_named(folder: Path) -> None:
    words = ("--harm.does", "SIGSTOP", "--harm.mark", "stopped", "--local.restarts", "0")
    said = trained(folder, "stops", *SOON, *words, code=1).stderr
    assert "rank 1 does not answer, it is stopped or its machine is gone; last heard of in step 6, " in told(said)
