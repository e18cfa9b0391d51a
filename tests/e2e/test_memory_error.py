"""A run whose memory ends tries smaller micro-batches, and says what would have fitted."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from command_line import hfx
from toy_packages import toy_package

LIMITED = '''"""Leaves little memory."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Lets the process have little more address space than it has when training begins."""

    mebibytes: int = 700
    """How much more."""

    @hookimpl(wrapper=True)
    def hfx_run(self):
        import resource
        from pathlib import Path

        has = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        before = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (has + self.mebibytes * 2**20, before[1]))
        try:
            return (yield)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, before)
'''
PROMPT = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
"""Lets glibc give memory back at once, so that what is held is what is in use."""
WORDS = (
    "train", "--data", "rows.txt", "--steps", "2", "--batch-size", "16", "--micro-batch-size", "16",
    "--seq-length", "256",
    "--bpe.vocab-size", "2000", "--scratch.hidden-size", "512", "--scratch.layers", "6", "--plugin", "fp32",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of rows, with a plugin that leaves little memory."""
    toy_package(tmp_path, "hfx-limited", {"limited": LIMITED})
    words = [f"w{number % 1900}" for number in range(40_000)]
    (tmp_path / "rows.txt").write_text("\n\n".join(" ".join(words[at : at + 200]) for at in range(0, 40_000, 200)))
    return tmp_path


def train(folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return hfx(*WORDS, "--plugin", "limited", *more, path=folder, cwd=folder, **PROMPT)


@pytest.mark.slow
def test_a_run_whose_memory_ends_tries_smaller_micro_batches_until_one_fits(folder: Path) -> None:
    done = train(folder, "--output", "a")
    assert done.returncode == 0, done.stderr
    sizes = [int(size) for size in re.findall(r"it is tried again with 'micro_batch_size' (\d+)", done.stderr)]
    assert sizes
    assert sizes == [8, 4, 2, 1][: len(sizes)]
    metrics = [json.loads(line) for line in (folder / "a" / "metrics.jsonl").read_text().splitlines()]
    changes = [line for line in metrics if line.get("event") == "micro_batch_size"]
    assert (changes[0]["from"], changes[-1]["to"]) == (16, sizes[-1])

    whole = hfx(*WORDS, "--output", "whole", "--micro-batch-size", "4", path=folder, cwd=folder)
    assert whole.returncode == 0, whole.stderr
    lines = map(json.loads, (folder / "whole" / "metrics.jsonl").read_text().splitlines())
    losses = [line["loss"] for line in lines if "loss" in line]
    assert [line["loss"] for line in metrics if "loss" in line] == pytest.approx(losses, rel=1e-5)
    assert (folder / "a" / "ledger.jsonl").read_text() == (folder / "whole" / "ledger.jsonl").read_text()


@pytest.mark.slow
def test_a_run_whose_memory_ends_with_one_sequence_says_what_would_have_fitted_and_that_fits(folder: Path) -> None:
    one = ("--micro-batch-size", "1", "--seq-length", "4096", "--batch-size", "2", "--plugin", "packing")
    failed = train(folder, *one, "--output", "a")
    assert failed.returncode == 1, failed.stderr
    [line] = [line for line in failed.stderr.splitlines() if "memory ran out at step 0" in line]
    advised = re.search(r"add '([^']+)'.*: that is planned to hold ([0-9.]+) GiB", line)
    assert advised, line
    assert "Traceback" not in failed.stderr
    assert not (folder / "a").exists()

    done = train(folder, *one, "--output", "b", *advised[1].split())
    assert done.returncode == 0, done.stderr
