"""A run whose memory ends says what would have fitted."""

from __future__ import annotations

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


@pytest.mark.slow
def test_a_run_whose_memory_ends_says_what_would_have_fitted_and_that_fits(tmp_path: Path) -> None:
    toy_package(tmp_path, "hfx-limited", {"limited": LIMITED})
    words = [f"w{number % 1900}" for number in range(40_000)]
    (tmp_path / "rows.txt").write_text("\n\n".join(" ".join(words[at : at + 200]) for at in range(0, 40_000, 200)))

    def train(*more: str) -> subprocess.CompletedProcess[str]:
        return hfx(*WORDS, "--plugin", "limited", *more, path=tmp_path, cwd=tmp_path, **PROMPT)

    failed = train("--output", "a")
    assert failed.returncode == 1, failed.stderr
    [line] = [line for line in failed.stderr.splitlines() if "memory ran out at step 0" in line]
    advised = re.search(r"add '([^']+)'.*: that is planned to hold ([0-9.]+) GiB", line)
    assert advised, line
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "a").exists()

    done = train("--output", "b", *advised[1].split())
    assert done.returncode == 0, done.stderr
