"""`hf_trainer`: the Trainer of transformers drives a run, and nothing about the run is another."""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainerCallback

import hfx
from backend_cells import CELLS, Cell, config, folder_of_rows
from command_line import MODULE, environment
from command_line import hfx as command
from hfx import Plugin, hookimpl
from hfx.api import problems
from hfx.checkpoint import candidates, step_of
from hfx.resolve import resolve
from hfx_plugins.guards.early_stopping import EarlyStopping
from hfx_plugins.guards.guard import Guard
from hfx_plugins.loops.callbacks import Callbacks
from hfx_plugins.loops.hf_trainer import HfTrainer

SAME = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "tokens_total", "skipped", "eval_loss", "eval_accuracy")
TASKS = ["adamw", "lion", "packing", "chat", "classification", "token_classification", "seq2seq", "masked_lm",
         "preference", "schedule_free", "lora", "chunked_loss", "gradient_checkpointing", "bf16",
         "neftune", "ema", "mixture"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The rows and tiny models of the backends' cells; a run works inside of it."""
    path: Path = folder_of_rows(tmp_path_factory.mktemp("trainer"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HFX_CACHE", str(path / "cache"))
        pretrained(path)
        yield path


def pretrained(path: Path) -> None:
    """Write the folder `base`, a model that cells begin from."""
    hfx.train(config(CELLS["adamw"], "alone"), output=str(path / "first"), steps=1)
    (path / "first" / "model").rename(path / "base")


def trained(cell: Cell, output: Path, *plugins: Any, **fields: Any) -> Path:
    """Train a cell and return its folder."""
    hfx.train(config(cell, "alone"), plugins=list(plugins), output=str(output), **fields)
    return output


def figures(run: Path) -> list[dict[str, Any]]:
    """Return what `metrics.jsonl` says of steps and evaluations."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: line[name] for name in SAME if name in line} for line in lines]


def assert_the_same(trainer: Path, loop: Path, near: float = 1e-6) -> None:
    """Assert that two runs have the same figures, order of samples, checkpoints and export."""
    ours, theirs = figures(loop), figures(trainer)
    assert [line["step"] for line in theirs] == [line["step"] for line in ours]
    for one, other in zip(ours, theirs, strict=True):
        assert other == pytest.approx(one, rel=near, abs=near), one["step"]
    assert (trainer / "ledger.jsonl").read_text() == (loop / "ledger.jsonl").read_text()
    assert files(trainer) == files(loop)
    weights, others = (load_file(next((run / "model").glob("*model.safetensors"))) for run in (loop, trainer))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        torch.testing.assert_close(others[name].float(), tensor.float(), rtol=1e-4, atol=1e-6)
    assert (trainer / "model" / "config.json").read_text() == (loop / "model" / "config.json").read_text()


def files(run: Path) -> set[str]:
    """Return the names of a run's files."""
    return {str(path.relative_to(run)) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}


@pytest.mark.parametrize("name", TASKS)
def test_a_run_is_that_of_hfxs_own_loop(name: str, folder: Path, tmp_path: Path) -> None:
    cell = CELLS[name]
    if cell.needs:
        pytest.importorskip(cell.needs)
    loop = trained(cell, tmp_path / "loop")
    trainer = trained(cell, tmp_path / "trainer", HfTrainer())
    assert_the_same(trainer, loop)


@pytest.mark.parametrize("micro", [1, 4, 6])
def test_accumulation_and_short_batches_change_nothing(micro: int, folder: Path, tmp_path: Path) -> None:
    cell, fields = CELLS["classification"], {"micro_batch_size": micro, "epochs": 2.0}
    settings = {key: value for key, value in config(cell, "alone").items() if key != "steps"} | fields
    settings |= {"save_every": None, "eval_every": None, "eval_share": 0.0, "batch_size": 7}
    for name, plugins in (("loop", []), ("trainer", [HfTrainer()])):
        hfx.train(settings, plugins=plugins, output=str(tmp_path / name))
    loop, trainer = figures(tmp_path / "loop"), figures(tmp_path / "trainer")
    assert len({line["tokens"] for line in loop}) > 1
    assert loop[-1]["epoch"] == 2.0
    for one, other in zip(loop, trainer, strict=True):
        assert other == pytest.approx(one, rel=1e-6)
    assert (tmp_path / "loop" / "ledger.jsonl").read_text() == (tmp_path / "trainer" / "ledger.jsonl").read_text()


@pytest.mark.parametrize("name", ["adamw", pytest.param("masked_lm", marks=pytest.mark.slow)])
def test_several_processes_train_as_under_hfxs_own_loop(name: str, folder: Path, tmp_path: Path) -> None:
    settings = config(CELLS[name], "ddp") | {"batch_size": 7, "micro_batch_size": 2}
    for loop, more in (("loop", []), ("trainer", ["--plugin", "hf_trainer"])):
        (tmp_path / f"{loop}.json").write_text(json.dumps(settings))
        words = ["train", str(tmp_path / f"{loop}.json"), *more, "--output", str(tmp_path / loop)]
        done = command(*words, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
    assert_the_same(tmp_path / "trainer", tmp_path / "loop", near=1e-5)


class StopAt(TrainerCallback):
    """Asks for the end of training."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_training_stop = state.global_step == self._step


@pytest.mark.parametrize("first", ["trainer", "loop"])
def test_what_one_loop_began_the_other_ends_with_the_same_bits(first: str, folder: Path, tmp_path: Path) -> None:
    cell = CELLS["schedule_free"]
    whole = trained(cell, tmp_path / "whole")
    begun = trained(cell, tmp_path / "cut", Callbacks.of(StopAt(3)), *([HfTrainer()] if first == "trainer" else []))
    assert figures(begun)[-1]["step"] == 3
    other = {"no:hf_trainer": {}} if first == "trainer" else {"hf_trainer": {}}
    settings = config(cell, "alone")
    hfx.train({**settings, "plugins": settings["plugins"] | other}, output=str(begun), resume="auto")
    assert figures(begun) == figures(whole)
    ours, theirs = (load_file(run / "model" / "model.safetensors") for run in (whole, begun))
    assert all(torch.equal(theirs[name], tensor) for name, tensor in ours.items())


class Broken(Plugin):
    """Makes a gradient infinite at some steps."""

    @hookimpl(wrapper=True)
    def hfx_model(self, run: Any) -> Any:
        model = yield
        first = next(iter(model.parameters()))
        first.register_hook(lambda grad: grad * float("inf") if run.step in (1, 2) else grad)
        return model


def test_an_update_that_is_not_finite_is_never_made(folder: Path, tmp_path: Path) -> None:
    loop = trained(CELLS["adamw"], tmp_path / "loop", Broken())
    trainer = trained(CELLS["adamw"], tmp_path / "trainer", Broken(), HfTrainer())
    lines = figures(trainer)
    assert [line["step"] for line in lines if line.get("skipped")] == [2, 3]
    assert [line.get("loss") for line in lines] == [line.get("loss") for line in figures(loop)]


class IllForAWhile(Plugin):
    """Makes the gradients of two steps infinite, whatever steps they are."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Any:
        model = yield
        passes: list[int] = []

        def spoil(grad: torch.Tensor) -> torch.Tensor:
            passes.append(1)
            return grad * float("inf") if 9 < len(passes) <= 15 else grad

        next(iter(model.parameters())).register_hook(spoil)
        return model


def test_a_run_that_goes_back_goes_on_from_there(folder: Path, tmp_path: Path) -> None:
    fields = {"steps": 7, "keep": 9}
    loop = trained(CELLS["adamw"], tmp_path / "loop", IllForAWhile(), Guard(non_finite=2), **fields)
    trainer = trained(CELLS["adamw"], tmp_path / "trainer", IllForAWhile(), Guard(non_finite=2), HfTrainer(), **fields)
    events = [json.loads(line) for line in (trainer / "metrics.jsonl").read_text().splitlines() if "event" in line]
    assert [(event["event"], event["from"], event["to"]) for event in events] == [("rollback", 5, 2)]
    assert_the_same(trainer, loop)


def test_a_run_that_gets_no_better_ends_where_hfxs_own_loop_ends_it_and_stays_ended(
    folder: Path, tmp_path: Path
) -> None:
    fields = {"eval_every": 2, "save_every": 3, "steps": 9}
    loops = {"loop": (), "trainer": (HfTrainer(),)}
    for name, loop in loops.items():
        trained(CELLS["adamw"], tmp_path / name, EarlyStopping(patience=1, min_delta=100.0), *loop, **fields)
    assert_the_same(tmp_path / "trainer", tmp_path / "loop")
    ended = figures(tmp_path / "trainer")
    assert ended[-1]["step"] == 4
    trained(
        CELLS["adamw"], tmp_path / "trainer", EarlyStopping(patience=1, min_delta=100.0), HfTrainer(),
        **fields, resume="auto",
    )  # fmt: skip
    assert figures(tmp_path / "trainer") == ended


def test_a_signal_ends_it_saved(folder: Path, tmp_path: Path) -> None:
    settings = config(CELLS["adamw"], "alone") | {"steps": 100_000, "save_every": None, "eval_every": None}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    words = ["train", str(tmp_path / "config.json"), "--plugin", "hf_trainer", "--output", str(tmp_path / "run")]
    environ = environment(HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
    with subprocess.Popen([*MODULE, *words], env=environ, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        told = iter(process.stderr)
        assert any(line.startswith("step ") for line in told)
        process.send_signal(signal.SIGTERM)
        rest = "".join(told)
    assert process.returncode == 143
    assert "stopped by SIGTERM" in rest
    last = [line["step"] for line in figures(tmp_path / "run") if "loss" in line][-1]
    assert {step_of(path) for path in candidates(tmp_path / "run")} == {last}


def test_nothing_that_the_trainer_saves_is_there(folder: Path, tmp_path: Path) -> None:
    run = trained(CELLS["adamw"], tmp_path / "run", HfTrainer())
    named = {path.name for path in run.rglob("*")}
    assert not {"trainer_state.json", "training_args.bin", "optimizer.pt", "scheduler.pt"} & named
    assert not [path for path in run.rglob("*") if path.suffix in (".bin", ".pt", ".pth")]


def test_what_accelerate_knew_before_it_knows_afterwards(folder: Path, tmp_path: Path) -> None:
    from accelerate.state import AcceleratorState, PartialState

    @contextmanager
    def kept() -> Iterator[None]:
        before = [dict(kind._shared_state) for kind in (PartialState, AcceleratorState)]
        yield
        assert [dict(kind._shared_state) for kind in (PartialState, AcceleratorState)] == before

    with kept():
        trained(CELLS["adamw"], tmp_path / "alone", HfTrainer())
    PartialState(cpu=True)
    with kept():
        trained(CELLS["adamw"], tmp_path / "beside", HfTrainer())


REFUSED = {
    "a backend that shares": ({"nproc": 2}, {"fsdp": {}}, "'fsdp' shares it out"),
    "an engine": ({"nproc": 2}, {"zero": {}}, "'zero' shares it out"),
    "updates elsewhere": ({"max_grad_norm": None}, {"optimizer_in_backward": {}}, "no:optimizer_in_backward"),
    "a scaled loss": ({}, {"fp16": {}}, "--plugin bf16"),
}


@pytest.mark.parametrize(("fields", "plugins", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_work_is_refused_with_the_way_out(fields: Any, plugins: Any, says: str) -> None:
    found = problems(resolve(mapping={"data": "x.txt", **fields, "plugins": {"hf_trainer": {}, **plugins}}))
    said = [problem.message for problem in found if problem.fatal and "'hf_trainer'" in problem.message]
    assert says in " ".join(said)
    assert "leave 'hf_trainer' out" in " ".join(said)
