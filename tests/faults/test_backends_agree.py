"""Every backend, on one, two and four processes, sees and learns the same; each holds the share it promises."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from ranks import distance, folder_of_rows, ledger, metrics, trained
from toy_packages import toy_package

pytestmark = pytest.mark.faults
WORLDS = tuple(map(int, os.environ.get("HFX_WORLDS", "2 4").split()))
BACKENDS = {
    "ddp": ("--plugin", "ddp"),
    "zero1": ("--plugin", "zero", "--zero.stage", "1"),
    "zero2": ("--plugin", "zero", "--zero.stage", "2"),
    "zero3": ("--plugin", "zero", "--zero.stage", "3"),
    "fsdp": ("--plugin", "fsdp"),
}
HELD = '''"""What a rank holds."""

import json

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Writes down the bytes of parameters and optimizer's state of each rank after a step."""

    @hookimpl
    def hfx_step_end(self, run):
        if run.step != 2:
            return
        def size(tensor):
            tensor = getattr(tensor, "ds_tensor", tensor)
            tensor = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            return tensor.numel() * tensor.element_size()
        state = [value for of in run.optimizer.state.values() for value in of.values() if hasattr(value, "numel")]
        held = {"parameters": sum(map(size, run.model.parameters())), "state": sum(map(size, state))}
        (run.output / f"held-{run.world.rank}.json").write_text(json.dumps(held))
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a run of each backend on each number of processes, and one of a process without any."""
    path = folder_of_rows(tmp_path_factory.mktemp("agree"))
    toy_package(path / "packages", "hfx-held", {"held": HELD})
    trained(path, "alone", "--plugin", "held", nproc=1)
    for backend, words in BACKENDS.items():
        for world in WORLDS:
            trained(path, f"{backend}-{world}", *words, "--plugin", "held", nproc=world)
    return path


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_ledger_losses_and_weights(backend: str, world: int, folder: Path) -> None:
    run, alone = folder / f"{backend}-{world}", folder / "alone"
    assert ledger(run) == ledger(alone)
    for found, expected in zip(metrics(run), metrics(alone), strict=True):
        for key in ("loss", "eval_loss"):
            assert found[key] == (expected[key] and pytest.approx(expected[key], abs=1e-4))
    assert distance(run, alone) < 1e-3


def held(run: Path) -> list[dict[str, int]]:
    return [json.loads(file.read_text()) for file in sorted(run.glob("held-*.json"))]


def test_each_rank_holds_the_share_that_its_backend_promises(folder: Path) -> None:
    [whole] = held(folder / "alone")
    shares = {"parameters": {"zero3", "fsdp"}, "state": {"zero1", "zero2", "zero3", "fsdp"}}
    print(f"\n{'backend':8} ranks  most parameters of a rank   most state of a rank   (alone: {whole})")
    for backend in BACKENDS:
        for world in WORLDS:
            ranks = held(folder / f"{backend}-{world}")
            assert len(ranks) == world
            most = {what: max(rank[what] for rank in ranks) for what in whole}
            print(f"{backend:8} {world:5}  {most['parameters']:25}   {most['state']:20}")
            for what, engines in shares.items():
                expected = whole[what] / world if backend in engines else whole[what]
                # Shards are padded to whole rows, pieces to what the ranks divide; a step count is on every rank.
                assert most[what] <= expected * 1.1 + 4096, (backend, world, what)
                assert most[what] >= expected * 0.95 - 1024, (backend, world, what)
