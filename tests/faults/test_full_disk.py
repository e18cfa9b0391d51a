"""A real run on a real disk that fills up: it stops, says what to do, and goes on to the same figures."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from command_line import hfx
from hfx.checkpoint import newest, steps_on_disk

WORDS = (
    "train", "--data", "rows.txt", "--seq-length", "64", "--bpe.vocab-size", "300", "--scratch.hidden-size", "64",
    "--scratch.layers", "2", "--batch-size", "4", "--plugin", "fp32", "--log-every", "1", "--save-every", "2",
    "--steps", "10",
)  # fmt: skip
FIGURES = ("step", "loss", "lr", "grad_norm", "tokens")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("full")
    (path / "rows.txt").write_text("\n\n".join(f"row {number} of a run that fills its disk" for number in range(200)))
    return path


def train(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return hfx(*more, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1", CUDA_VISIBLE_DEVICES="")


def figures(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{name: line.get(name) for name in FIGURES} for line in lines]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    done = train(folder, *WORDS, "--output", "whole")
    assert done.returncode == 0, done.stderr
    return folder / "whole"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a file system in memory, with options; called again it gets other ones."""
    path = tmp_path / "disk"
    path.mkdir()

    def mount(options: str) -> Path:
        words = ["mount", "-o", options, str(path)] if path.is_mount() else [
            "mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)
        ]  # fmt: skip
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"nothing may be mounted here: {done.stderr.strip()}")
        return path

    if sys.platform != "linux" or shutil.which("mount") is None:
        pytest.skip("there is no tmpfs here")
    yield mount
    if path.is_mount():
        subprocess.run(["umount", str(path)], check=True)


def size_of(checkpoint: Path) -> int:
    return sum(file.stat().st_size for file in checkpoint.iterdir())


def filled(folder: Path, disk: Callable[[str], Path], *more: str) -> Path:
    """Run on a disk for two checkpoints and no third, and return the run's folder once it has stopped."""
    output = disk("size=4600k") / "run"  # a checkpoint takes 1.3 MB, and a MiB is kept free
    done = train(folder, *WORDS, "--output", str(output), *more)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "are free; free space, then" in done.stderr
    assert f"'hfx train --resume {output}' goes on from 'step-00000004', which is intact" in done.stderr
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]
    return output


@pytest.mark.parametrize("more", [(), ("--async-save", "true")], ids=["waiting", "beside"])
def test_a_run_whose_disk_fills_up_stops_with_its_checkpoints_whole(
    more: tuple[str, ...], folder: Path, disk: Callable[[str], Path]
) -> None:
    found = newest(filled(folder, disk, *more), 1)
    assert found is not None
    assert found.step == 4


@pytest.mark.slow
def test_a_run_whose_disk_was_full_goes_on_to_the_figures_of_one_that_never_stopped(
    folder: Path, whole: Path, disk: Callable[[str], Path]
) -> None:
    output = filled(folder, disk)
    disk("remount,size=64m")
    again = train(folder, "train", "--resume", str(output))
    assert again.returncode == 0, again.stderr
    assert figures(output) == figures(whole)


@pytest.mark.slow
def test_a_disk_without_names_for_files_stops_the_run_alike(
    folder: Path, whole: Path, disk: Callable[[str], Path]
) -> None:
    """Free bytes say nothing here: writing itself fails, in the middle of a checkpoint."""
    refused = 0
    for inodes in range(14, 30, 2):
        output = disk(f"{'remount,' if refused or inodes > 14 else ''}size=256m,nr_inodes={inodes}") / f"run-{inodes}"
        done = train(folder, *WORDS, "--output", str(output))
        assert "Traceback" not in done.stderr, done.stderr
        if "cannot write" in done.stderr and (output / "checkpoints").is_dir():  # and not the export
            assert "No space left on device; free space, then" in done.stderr
            left = sorted(path.name for path in (output / "checkpoints").iterdir())
            assert not [name for name in left if name.endswith(".new")], left
            refused += bool(left)
            if left:
                assert f"goes on from '{left[-1]}', which is intact" in done.stderr
                assert newest(output, 1) is not None
        shutil.rmtree(output, ignore_errors=True)
    assert refused


@pytest.mark.slow
def test_a_disk_that_others_fill_stops_the_run_at_its_records_alike(
    folder: Path, whole: Path, disk: Callable[[str], Path]
) -> None:
    place = disk(f"size={8 * size_of(steps_on_disk(whole)[0])}")
    output = place / "run"
    assert train(folder, *WORDS, "--output", str(output), "--steps", "4").returncode == 0
    with (place / "ballast").open("wb") as file:
        file.truncate(0)
        os.posix_fallocate(file.fileno(), 0, shutil.disk_usage(place).free - 2**16)
    done = train(folder, "train", "--resume", str(output), "--steps", "2000", "--save-every", "10000")
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert "jsonl': No space left on device; free space, then" in done.stderr
    assert f"'hfx train --resume {output}' goes on from 'step-00000004', which is intact" in done.stderr
    (place / "ballast").unlink()
    again = train(folder, "train", "--resume", str(output), "--steps", "10")
    assert again.returncode == 0, again.stderr
    assert [line["step"] for line in figures(output) if line["loss"]] == list(range(1, 11))
