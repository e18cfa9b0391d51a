"""A run that goes on with another number of processes, or another backend: the same sequence, and the loss goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranks import distance, folder_of_rows, ledger, metrics, trained

pytestmark = pytest.mark.faults
CHAIN = (2, 1, 4, 3, 2)
HOPS = (("ddp",), ("fsdp",), ("zero", "--zero.stage", "2"), ("ddp",), ("zero", "--zero.stage", "3"), ("fsdp",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an undisturbed run of one process."""
    path = folder_of_rows(tmp_path_factory.mktemp("worlds"))
    trained(path, "alone", "--steps", "12", nproc=1)
    return path


def assert_same_course(run: Path, alone: Path) -> None:
    assert ledger(run) == ledger(alone)
    ours, theirs = (
        {(line["step"], line["eval_loss"] is None): line for line in metrics(path)} for path in (run, alone)
    )
    for place, line in theirs.items():
        for key in ("loss", "eval_loss"):
            assert ours[place][key] == (line[key] and pytest.approx(line[key], abs=1e-4)), place
    assert distance(run, alone) < 1e-3


def test_a_chain_of_worlds_within_an_epoch_sees_one_sequence(folder: Path) -> None:
    # The length is that of the whole run from the first part on, so the schedule is the same: each part is stopped.
    steps = (3, 5, 8, 10)
    for part, world in enumerate(CHAIN):
        stop = ("--plugin", "harm", "--harm.does", "SIGTERM", "--harm.rank", "0", "--harm.mark", f"chain-{part}")
        last = part == len(CHAIN) - 1
        words = () if last else (*stop, "--harm.step", str(steps[part]))
        trained(folder, "chain", "--steps", "12", "--resume", "auto", *words, nproc=world, code=0 if last else 143)
    assert_same_course(folder / "chain", folder / "alone")


def test_a_chain_of_backends_sees_one_sequence(folder: Path) -> None:
    steps = (2, 4, 6, 8, 10)
    for part, (backend, *options) in enumerate(HOPS):
        stop = ("--plugin", "harm", "--harm.does", "SIGTERM", "--harm.rank", "0", "--harm.mark", f"hops-{part}")
        last = part == len(HOPS) - 1
        words = () if last else (*stop, "--harm.step", str(steps[part]))
        own = ("--plugin", backend, *options)
        trained(folder, "hops", "--steps", "12", "--resume", "auto", *own, *words, nproc=2, code=0 if last else 143)
    assert_same_course(folder / "hops", folder / "alone")
