"""Several ranks write checkpoints while they train: the same run to the bit, and nothing is lost when it is killed."""

from __future__ import annotations

import os
import random
import time
from pathlib import Path

import pytest

from hfx.checkpoint import MANIFEST, newest, steps_on_disk
from ranks import assert_same_run, folder_of_rows, ranks_of, started, trained

pytestmark = pytest.mark.faults
KILLS = int(os.environ.get("HFX_ASYNC_KILLS", "1"))
"""How many runs are killed, under each backend."""
SEED = int(os.environ.get("HFX_ASYNC_KILLS_SEED", "1"))
WORDS = ("--save-every", "1", "--eval-every", "3", "--steps", "8", "--scratch.hidden-size", "256")
"""A checkpoint takes about as long as a step, so most of the time one is being written."""
BACKENDS = {"ddp": ("--plugin", "ddp"), "fsdp": ("--plugin", "fsdp")}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of_rows(tmp_path_factory.mktemp("async"))


def whole(folder: Path, backend: str) -> Path:
    """Return a run that waited for its checkpoints."""
    output = folder / f"whole-{backend}"
    if not output.exists():
        trained(folder, output.name, *WORDS, *BACKENDS[backend])
    return output


def assert_same_checkpoints(first: Path, second: Path) -> None:
    ours, theirs = steps_on_disk(first), steps_on_disk(second)
    assert [path.name for path in ours] == [path.name for path in theirs]
    for one, other in zip(ours, theirs, strict=True):
        files = sorted(path.name for path in one.iterdir())
        assert files == sorted(path.name for path in other.iterdir())
        for name in files:
            if name not in (MANIFEST, "state.json"):  # they say how the run saves
                assert (one / name).read_bytes() == (other / name).read_bytes(), f"{name} of {one.name}"


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_run_that_saves_while_it_trains_is_the_run_that_waits(folder: Path, backend: str) -> None:
    trained(folder, f"beside-{backend}", *WORDS, *BACKENDS[backend], "--async-save", "true")
    assert_same_run(whole(folder, backend), folder / f"beside-{backend}")
    assert_same_checkpoints(whole(folder, backend), folder / f"beside-{backend}")


@pytest.mark.parametrize("backend", BACKENDS)
def test_killed_while_a_checkpoint_is_written_a_run_ends_with_the_same_bits(folder: Path, backend: str) -> None:
    rng = random.Random(f"{SEED} {backend}")
    midst = 0
    for number in range(KILLS):
        output = f"killed-{backend}-{number}"
        words = (*WORDS, *BACKENDS[backend], "--async-save", "true", "--local.restarts", "0")
        run = started(folder, output, *words, nproc=2)
        step = rng.randrange(2, 7)
        new = folder / output / "checkpoints" / f"step-{step:08d}.new"
        until = time.monotonic() + 120
        while not new.exists() and run.poll() is None and time.monotonic() < until:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.05))
        ranks = ranks_of(run, 2)
        midst += new.exists()
        for rank in ranks if rng.random() < 0.5 else rng.sample(ranks, 1):
            rank.kill()
        assert run.wait(timeout=120) == 1
        found = newest(folder / output, 1)
        assert found is not None
        assert found.step >= step - 1
        assert started(folder, output, *words, nproc=2).wait(timeout=120) == 0, (folder / f"said-{output}").read_text()
        assert_same_run(whole(folder, backend), folder / output)
        assert_same_checkpoints(whole(folder, backend), folder / output)
    print(f"\n{KILLS} killed, {midst} of them before the manifest")


def test_a_rank_that_fails_leaves_the_checkpoint_that_is_being_written_and_is_told_alone(folder: Path) -> None:
    words = ("--plugin", "harm", "--harm.does", "raise", "--harm.step", "4", "--async-save", "true")
    said = trained(folder, "broken", *WORDS, *BACKENDS["ddp"], *words, code=1).stderr
    assert "the toy is broken" in said
    found = newest(folder / "broken", 1)
    assert found is not None
    assert found.step == 3


@pytest.mark.slow
def test_a_rank_that_hangs_is_named_though_others_write_a_checkpoint(folder: Path) -> None:
    words = ("--plugin", "harm", "--harm.does", "sleep", "--ddp.timeout-minutes", "0.2", "--local.restarts", "0")
    said = trained(
        folder, "hangs", *WORDS, *BACKENDS["ddp"], *words, "--harm.mark", "slept", "--async-save", "true", code=1
    ).stderr
    assert "rank 0 waited for another one in vain: rank 1 hangs in step 6, what follows a step, File " in said
    found = newest(folder / "hangs", 1)
    assert found is not None
    assert found.step == 4
