"""What `hfx plan` says a rank of several will hold, beside what one holds."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from command_line import hfx
from ranks import SMALL, folder_of_rows, trained
from toy_packages import toy_package

pytestmark = pytest.mark.faults
SIZE = (
    *("--scratch.hidden-size", "256", "--scratch.layers", "6", "--bpe.vocab-size", "600", "--steps", "2"),
    *("--batch-size", "8", "--micro-batch-size", "8"),
)
BACKENDS = {
    "auto": (0.03, ()),
    "ddp": (0.03, ("--plugin", "ddp")),
    "fsdp": (0.05, ("--plugin", "fsdp")),
    "fsdp, several micro-batches": (0.1, ("--plugin", "fsdp", "--micro-batch-size", "1")),
    "zero1": (0.1, ("--plugin", "zero", "--zero.stage", "1", "--zero.bucket-mb", "4")),
    "zero2": (0.1, ("--plugin", "zero", "--zero.stage", "2", "--zero.bucket-mb", "4")),
    "zero2, one bucket": (0.03, ("--plugin", "zero", "--zero.stage", "2")),
    "zero3": (0.1, ("--plugin", "zero", "--zero.stage", "3", "--zero.bucket-mb", "4")),
}
"""How far the plan may be off, and what is typed."""
SOME = ("auto", "fsdp", "zero2")
WORLDS = tuple(map(int, os.environ.get("HFX_WORLDS", "2").split()))
HOLDING = '''"""What a rank holds."""

import json

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Writes down the most bytes of tensors that a rank holds in a step."""

    @hookimpl(wrapper=True)
    def hfx_backend(self, run):
        from held_bytes import Highest

        run.local["held"] = run.enter(Highest())
        return (yield)

    @hookimpl
    def hfx_step_end(self, run):
        held = run.local["held"]
        (run.output / f"held-{run.world.rank}.json").write_text(json.dumps(max(held.most.values())))
        held.most.clear()
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = folder_of_rows(tmp_path_factory.mktemp("planned"))
    toy_package(path / "packages", "hfx-holding", {"holding": HOLDING})
    shutil.copy(Path(__file__).parents[1] / "held_bytes.py", path / "packages")
    return path


def planned(folder: Path, *words: str) -> dict[str, object]:
    done = hfx("plan", *SMALL, *SIZE, *words, "--json", cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def held(folder: Path, output: str, nproc: int, *words: str) -> int:
    trained(folder, output, *SIZE, *words, "--plugin", "holding", nproc=nproc)
    return max(int(json.loads(file.read_text())) for file in (folder / output).glob("held-*.json"))


@pytest.mark.parametrize("nproc", [world for world in WORLDS if world > 1])
@pytest.mark.parametrize(
    "backend", [one if one in SOME else pytest.param(one, marks=pytest.mark.slow) for one in BACKENDS]
)
def test_the_plan_of_a_rank_is_what_the_rank_holds_most(backend: str, nproc: int, folder: Path) -> None:
    tolerance, words = BACKENDS[backend]
    found = planned(folder, *words, "--nproc", str(nproc))
    real = held(folder, f"{backend}-{nproc}".replace(", ", "-").replace(" ", "-"), nproc, *words)
    most = found["peak_bytes"]
    assert isinstance(most, int)
    print(f"\n{backend} on {nproc}: planned {most / 2**20:.1f} MiB, held {real / 2**20:.1f} ({most / real - 1:+.1%})")
    assert found["ranks"] == nproc
    assert abs(most / real - 1) <= tolerance


def test_without_processes_nothing_is_shared(folder: Path) -> None:
    found = planned(folder)
    assert (found["ranks"], found["shares_known"]) == (1, True)
