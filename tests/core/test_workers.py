"""Work in processes of its own: in order, and from a script that has no guard."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hfx.errors import HfxError
from hfx.workers import in_order

SCRIPT = """
import hfx
{definition}
result = hfx.train(data="rows.jsonl", output="run", steps=1, seq_length=16, num_proc=2, plugins=["fp32", {plugins}],
                   config={{"plugins": {{"bpe": {{"vocab_size": 260}}, "scratch": {{"layers": 1}}}}}})
print("ended at", result.step)
"""
OWN = """
class Same(hfx.Plugin):
    @hfx.hookimpl(wrapper=True)
    def hfx_source(self):
        rows = yield
        return rows.then(self)

    def apply(self, rows):
        return rows
"""


def square(number: int) -> int:
    return number * number


def die(number: int) -> int:
    os._exit(3)


def test_results_come_in_order_whatever_the_number_of_processes() -> None:
    assert list(in_order(square, range(40), 1)) == list(in_order(square, range(40), 2)) == [n * n for n in range(40)]


def test_a_worker_that_dies_is_one_line() -> None:
    with pytest.raises(HfxError, match="a process that prepares data died"):
        list(in_order(die, range(4), 2))


def run(folder: Path, script: str) -> subprocess.CompletedProcess[str]:
    (folder / "rows.jsonl").write_text('{"text": "to be or not to be"}\n' * 2_500)
    (folder / "script.py").write_text(script)
    environment = os.environ | {"HFX_CACHE": str(folder / "cache")}
    command = [sys.executable, "script.py"]
    return subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True, timeout=120)


def test_a_script_without_a_guard_prepares_on_several_processes(tmp_path: Path) -> None:
    done = run(tmp_path, SCRIPT.format(definition="", plugins=""))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("ended at 1") == 1


def test_a_script_that_defines_its_own_step_is_told_about_the_guard_and_does_not_hang(tmp_path: Path) -> None:
    done = run(tmp_path, SCRIPT.format(definition=OWN, plugins="Same()"))
    assert done.returncode == 1
    assert "if __name__ == '__main__':" in done.stderr
