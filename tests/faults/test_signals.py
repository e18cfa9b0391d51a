"""Signals to one rank, to all or to the launcher, at any moment: saved, no hang, the right exit code."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import psutil
import pytest

from hfx.checkpoint import newest
from ranks import PHASES, assert_same_run, folder_of_rows, phase, ranks_of, started

pytestmark = pytest.mark.faults
SIGNALS = int(os.environ.get("HFX_SIGNALS", "6"))
"""How many runs are told to end."""
SEED = int(os.environ.get("HFX_SIGNALS_SEED", "1"))
CODES = {signal.SIGTERM: 143, signal.SIGUSR1: 75}
WORDS = ("--steps", "40", "--save-every", "2", "--eval-every", "2")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run of two processes, and how long it took."""
    path = folder_of_rows(tmp_path_factory.mktemp("signals"))
    began = time.monotonic()
    assert started(path, "whole", *WORDS, nproc=2).wait() == 0
    (path / "seconds").write_text(str(time.monotonic() - began))
    return path


def test_told_to_end_at_any_moment_a_run_is_saved_and_goes_on_with_the_same_bits(folder: Path) -> None:
    rng = random.Random(SEED)
    seconds = float((folder / "seconds").read_text())
    hit: Counter[str] = Counter()
    for number in range(SIGNALS):
        output, whom = f"told-{number}", ("launcher", "one", "all")[number % 3]
        sent = rng.choice(list(CODES))
        # Before the interpreter runs hfx a signal ends it as it ends any program.
        moment = rng.uniform(0.35 * seconds, seconds)
        run = started(folder, output, *WORDS, nproc=2)
        time.sleep(moment)
        ranks = ranks_of(run, 2)
        told = [psutil.Process(run.pid)] if whom == "launcher" else ranks if whom == "all" else ranks[:1]
        where = phase(folder, output)
        for process in told if run.poll() is None else ():
            process.send_signal(sent)
        code = run.wait(timeout=180)
        said = (folder / f"said-{output}").read_text()
        what = f"signal {number}, {sent.name} to {whom} after {moment:.2f} s in {where}\n{said[-3000:]}"
        assert code in (0, CODES[sent]), f"exit code {code}: {what}"
        if code:
            hit[where] += 1
            found = newest(folder / output, 1) if (folder / output).exists() else None
            assert found or where in ("start", "prepare", "forward"), what
        assert started(folder, output, *WORDS, nproc=2).wait(timeout=120) == 0, what
        assert_same_run(folder / "whole", folder / output)
    print("\ntold to end in: " + ", ".join(f"{name} {hit[name]}" for name in PHASES))
    assert hit
