"""Every plugin on every backend: trains as on one process and resumes to the bit, or is refused by name beforehand."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import backend_cells
from backend_cells import ALONE, BACKENDS, CELLS, SAVED, STEPS, slug
from command_line import hfx
from hfx.api import plugins

pytestmark = pytest.mark.faults
PAGE = Path(__file__).parents[2] / "docs" / "reference" / "backends.md"
ELSEWHERE = {"sources", "cleaning", "executors", "backends", "launchers", "loops"}
"""Plugins that no backend sees: they work before there is one, or are one."""
FIGURES = ("step", "epoch", "loss", "lr", "grad_norm", "eval_loss", "tokens", "skipped", "loss_scale")
KINDS = (
    (("--plugin", "fsdp", "--plugin", "galore"), "'galore' projects whole matrices"),
    (("--plugin", "fsdp", "--bf16.pure", "true", "--bf16.rounding", "stochastic"), "'bf16.rounding' is 'stochastic'"),
    (("--plugin", "zero", "--plugin", "muon"), "'muon' orthogonalises whole matrices"),
    (("--plugin", "zero", "--bf16.pure", "true"), "'zero' keeps its weights in fp32"),
    (("--plugin", "zero", "--zero.stage", "3", "--plugin", "compile"), "'compile' would compile a layer anew"),
    (
        ("--plugin", "optimizer_in_backward", "--max-grad-norm", "none"),
        "'optimizer_in_backward' updates in one process",
    ),
)


def environment(folder: Path, **more: str) -> dict[str, str]:
    own = {"HFX_CACHE": str(folder / "cache"), "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return os.environ | own | {"PYTHONPATH": str(Path(backend_cells.__file__).parent)} | more


def drive(folder: Path, backend: str, *cells: str) -> dict[str, Any]:
    """Train the cells of a backend, all in the same two processes (or one), and return what became of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    world = 1 if backend == ALONE else 2
    logs = [folder / f"{backend}-{rank}.log" for rank in range(world)]
    processes = []
    for rank, log in enumerate(logs):
        ranks = {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        command = [sys.executable, backend_cells.__file__, str(folder), backend, *cells]
        with log.open("w") as file:
            env = environment(folder, **place, **ranks)
            processes.append(subprocess.Popen(command, env=env, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=900) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert not any(codes), logs[0].read_text()[-4000:]
    found: dict[str, Any] = json.loads((folder / f"{backend}.json").read_text())
    return found


@lru_cache(maxsize=1)
def asked() -> dict[str, Any]:
    """Return what is refused, found out in a process of its own."""
    command = [sys.executable, backend_cells.__file__, "--refusals"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a model to load, and the cells of one process, trained."""
    path = backend_cells.folder_of_rows(tmp_path_factory.mktemp("cells"))
    drive(path, ALONE, "adamw")
    shutil.move(path / ALONE / slug("adamw") / "whole" / "model", path / "base")
    shutil.rmtree(path / ALONE)
    assert not [(name, cell["error"]) for name, cell in drive(path, ALONE).items() if cell["error"]]
    return path


@pytest.fixture(scope="module")
def outcomes(folder: Path) -> dict[str, dict[str, Any]]:
    """The outcomes of a backend's cells, trained once they are asked for."""

    class Outcomes(dict[str, dict[str, Any]]):
        def __missing__(self, backend: str) -> dict[str, Any]:
            self[backend] = drive(folder, backend)
            return self[backend]

    return Outcomes()


def figures(run: Path) -> list[dict[str, Any]]:
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [{key: line.get(key) for key in FIGURES} for line in lines]


def weights(run: Path) -> dict[str, torch.Tensor]:
    [file] = (run / "model").glob("*.safetensors")
    found: dict[str, torch.Tensor] = load_file(file)
    return found


def distance(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> float:
    assert ours.keys() == theirs.keys()
    apart = sum(float((ours[name].double() - theirs[name].double()).square().sum()) for name in ours)
    return (apart / sum(float(theirs[name].double().square().sum()) for name in theirs)) ** 0.5


@pytest.mark.slow
@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_plugin_trains_as_on_one_process_and_resumes_to_the_bit_or_is_refused(
    backend: str, name: str, folder: Path, outcomes: dict[str, dict[str, Any]]
) -> None:
    cell = CELLS[name]
    if name in asked()["refused"][backend]:
        return  # that this comes in time, and what is said, is looked at below
    if cell.untried or (cell.needs and not find_spec(cell.needs)):
        pytest.skip(cell.untried or f"needs '{cell.needs}'")
    outcome = outcomes[backend][name]
    assert not outcome["error"]
    alone, run = folder / ALONE / slug(name), folder / backend / slug(name)
    ours, theirs = figures(run / "whole"), figures(alone / "whole")
    assert [(line["step"], line["loss"] is None) for line in ours] == [
        (line["step"], line["loss"] is None) for line in theirs
    ]
    for found, expected in zip(ours, theirs, strict=True):
        for key in ("loss", "eval_loss"):
            assert found[key] == (expected[key] and pytest.approx(expected[key], abs=cell.loss)), key
    end = weights(run / "whole")
    assert distance(end, weights(alone / "whole")) < cell.weights
    assert (run / "resumed" / "checkpoints" / f"step-{STEPS:08d}").exists()
    assert (run / "resumed" / "checkpoints" / f"step-{SAVED:08d}").exists()
    assert figures(run / "resumed") == ours
    again = weights(run / "resumed")
    assert all(torch.equal(again[tensor], end[tensor]) for tensor in end)


def test_refusals_name_the_plugin_before_torch_is_imported() -> None:
    assert asked()["torch"] is False
    refused = asked()["refused"]
    for of in refused.values():
        for name, (said, *_) in of.items():
            named = {f"'{plugin}" for plugin in CELLS[name].plugins}
            assert any(word in said for word in named) or "'bf16." in said, said


@pytest.mark.parametrize(("words", "said"), KINDS)
def test_a_refused_run_ends_with_code_2_and_leaves_nothing(words: tuple[str, ...], said: str, folder: Path) -> None:
    more = () if "--bf16.pure" not in words else ("--plugin", "bf16")
    run = ("train", "--data", "rows.jsonl", "--output", "refused", "--nproc", "2", "--steps", "2", *words, *more)
    done = hfx(*run, cwd=folder, HFX_CACHE=str(folder / "cache"), CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (folder / "refused").exists()


def test_every_plugin_that_meets_a_backend_is_in_the_table() -> None:
    shown = {plugin for cell in CELLS.values() for plugin in cell.plugins}
    own = {ref.name: ref.value.split(".")[1] for ref in plugins() if ref.value.startswith("hfx_plugins.")}
    assert {name for name, category in own.items() if category not in ELSEWHERE} - shown == set()


def test_the_page_says_what_these_tests_run() -> None:
    fresh = backend_cells.page(asked()["refused"])
    assert PAGE.read_text() == fresh, "run: .venv/bin/python tests/backend_cells.py --page > docs/reference/backends.md"
