"""`best`: the checkpoint of the best evaluation stays, and its model is what the run exports."""

from __future__ import annotations

import errno
import json
import math
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import hfx
from hfx import Plugin, hookimpl
from hfx.checkpoint import folder_of, newest, open_checkpoint
from hfx.errors import ConfigError, HfxError, IncompatibleError, StorageError
from hfx.resume import RUN_FILE
from hfx_plugins.guards.best import Best
from hfx_plugins.guards.scores_impl import better, rises
from hfx_plugins.optimizers.ema import EMA
from overfitting import Ends, config, evaluations, rows, trained


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows(tmp_path_factory.mktemp("best"))


@pytest.fixture(scope="module")
def run(data: Path) -> Path:
    """A run that got worse after its best step, with checkpoints every 8 steps."""
    trained(data, data.parent / "run", save_every=8, plugins={"best": {}})
    return data.parent / "run"


def best_of(run: Path, before: int = 32) -> int:
    """Return the step of the lowest `eval_loss`; which it is depends on a machine's last bits."""
    losses = {step: line["eval_loss"] for step, line in evaluations(run).items()}
    found = min(losses, key=losses.__getitem__)
    assert 8 <= found < before, losses
    return found


def exported(run: Path) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = load_file(run / "model" / "model.safetensors")
    return found


def checkpointed(run: Path, step: int) -> dict[str, torch.Tensor]:
    found = open_checkpoint(folder_of(run, step), 1)
    names = [name for name in found.names() if name.startswith("model.")]
    tensors = {name: torch.empty(found.shape(name), dtype=found.dtype(name)) for name in names}
    found.read(tensors)
    return {name.removeprefix("model."): tensor for name, tensor in tensors.items()}


def same(exported: dict[str, torch.Tensor], held: dict[str, torch.Tensor]) -> bool:
    names = {name.removeprefix("model."): name for name in exported}
    there = {name.removeprefix("model."): tensor for name, tensor in held.items()}
    return all(torch.equal(exported[full], there[name]) for name, full in names.items())


def test_the_model_of_the_lowest_loss_is_exported_and_its_checkpoint_kept_beside_the_newest(run: Path) -> None:
    best = best_of(run)
    assert sorted(path.name for path in (run / "checkpoints").iterdir()) == [
        f"step-{step:08d}" for step in (best, 32, 40)
    ]
    assert same(exported(run), checkpointed(run, best))
    assert not same(exported(run), checkpointed(run, 40))


def test_what_was_chosen_and_why_is_told(data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trained(data, tmp_path / "run", plugins={"best": {}})
    told = capfd.readouterr().err
    assert f"hfx: the model is that of step {best_of(tmp_path / 'run')} of 40: its 'eval_loss' of 3.0" in told
    assert "is the lowest" in told


def test_what_came_after_the_chosen_step_has_no_part_in_its_model(run: Path, data: Path, tmp_path: Path) -> None:
    output, best = tmp_path / "run", best_of(run)
    hfx.train(config(data, save_every=8), plugins=[Best(), Ends(after=best + 1)], output=str(output))
    result = hfx.train(config(data, save_every=8, resume=str(output)), plugins=[Best(), EMA(), Ends(after=99)])
    assert same(exported(output), checkpointed(run, best))
    assert result.step == json.loads((output / "status.json").read_text())["ended"]["step"] == 40


def test_a_run_that_is_stopped_and_resumed_chooses_the_same(run: Path, data: Path, tmp_path: Path) -> None:
    for stop in (10, best_of(run) + 1):
        output = tmp_path / f"stopped-{stop}"
        hfx.train(config(data, save_every=8), plugins=[Best(), Ends(after=stop)], output=str(output))
        assert newest(output, 1).state["step"] == stop + 1
        hfx.train(config(data, save_every=8, resume=str(output)), plugins=[Best(), Ends(after=99)])
        assert same(exported(output), checkpointed(run, best_of(run)))
        assert {step: line["eval_loss"] for step, line in evaluations(output).items()} == {
            step: line["eval_loss"] for step, line in evaluations(run).items()
        }


class Signalled(Plugin):
    """Lets a signal end the run at a step, before its evaluation."""

    at: int = 1

    @hookimpl
    def hfx_step_end(self, run: Any, metrics: dict[str, Any]) -> None:
        if metrics["step"] == self.at - 1:
            run.request_stop("SIGTERM")


def stopped_at(step: int, data: Path, output: Path, **more: Any) -> None:
    """Train until a signal in a step that is evaluated, whose checkpoint then lacks the evaluation."""
    ended = hfx.train(config(data, **more), plugins=[Signalled(at=step)], output=str(output))
    assert (ended.step, ended.stopped) == (step, "SIGTERM")
    held = newest(output, 1)
    assert (held.step, held.state["evaluated_at"]) == (step, step - 2)


def resumed(data: Path, output: Path, fails_at: int = 0, **more: Any) -> list[int]:
    """Go on with a run, and return the steps that were evaluated, until one at which it fails."""
    steps: list[int] = []

    class Counts(Plugin):
        """Notes which steps are evaluated, and fails at one as a machine does."""

        @hookimpl
        def hfx_evaluated(self, run: Any, metrics: dict[str, Any]) -> None:
            steps.append(run.step)

        @hookimpl
        def hfx_step_end(self, run: Any, metrics: dict[str, Any]) -> None:
            if metrics["step"] == fails_at:
                raise HfxError("the machine is gone")

    with pytest.raises(HfxError, match="machine is gone") if fails_at else nullcontext():
        hfx.train(config(data, resume=str(output), **more), plugins=[Counts()])
    return steps


@pytest.mark.parametrize(
    "beside",
    [{}, {"plugins": {"best": {}, "hf_trainer": {}}}, {"async_save": True}],
    ids=["by the loop", "by the Trainer", "saved beside the training"],
)
def test_a_run_stopped_in_its_last_step_and_resumed_holds_what_the_made_up_evaluation_chose(
    beside: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    from hfx.cli.export import chosen

    output, fields = tmp_path / "run", {"steps": 4, "eval_every": 2, "plugins": {"best": {}}} | beside
    stopped_at(4, data, output, **fields)
    assert chosen(output, None).step == 2
    assert resumed(data, output, **fields) == [4]
    assert evaluations(output)[4]["eval_loss"] < evaluations(output)[2]["eval_loss"]
    assert chosen(output, None).step == 4
    assert newest(output, 1).state["evaluated_at"] == 4
    assert same(exported(output), checkpointed(output, 4))
    assert resumed(data, output, **fields) == []
    assert chosen(output, None).step == 4
    assert same(exported(output), checkpointed(output, 4))


@pytest.mark.parametrize(
    "plugins", [{"best": {}}, {"best": {}, "hf_trainer": {}}, {}], ids=["chosen", "chosen by the Trainer", "not chosen"]
)
@pytest.mark.parametrize("beside", [False, True], ids=["at once", "beside the training"])
def test_an_evaluation_that_was_made_up_for_is_held_though_the_run_fails_before_its_next_checkpoint(
    plugins: dict[str, Any], beside: bool, data: Path, tmp_path: Path
) -> None:
    output, fields = tmp_path / "run", {"steps": 6, "eval_every": 2, "plugins": plugins, "async_save": beside}
    stopped_at(4, data, output, **fields)
    assert resumed(data, output, fails_at=5, **fields) == [4]
    held = newest(output, 1)
    assert (held.step, held.state["evaluated_at"]) == (4, 4)
    assert held.state["state"].get("hfx", {}).get("chosen") == (4 if plugins else None)
    assert resumed(data, output, **fields) == [6]
    assert list(evaluations(output)) == [2, 4, 6]


def test_where_the_checkpoint_cannot_be_written_again_the_one_before_the_evaluation_stays(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hfx.commit import Manifest

    output, fields = tmp_path / "run", {"steps": 4, "eval_every": 2, "plugins": {"best": {}}}
    stopped_at(4, data, output, **fields)

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Manifest, "write", full)
        with pytest.raises(StorageError, match=r"goes on from 'step-00000004'"):
            hfx.train(config(data, resume=str(output), **fields))
    assert newest(output, 1).state["evaluated_at"] == 2
    assert resumed(data, output, **fields) == [4]
    assert newest(output, 1).state["evaluated_at"] == 4


@pytest.mark.parametrize(
    "beside",
    [
        {"async_save": True},
        {"plugins": {"best": {}, "ema": {"decay": 0.5}}},
        {"plugins": {"best": {}, "hf_trainer": {}}, "save_every": 16},
    ],
    ids=["saved beside the training", "averaged", "by the Trainer"],
)
def test_what_is_exported_is_what_the_chosen_checkpoint_exports(
    beside: dict[str, Any], data: Path, tmp_path: Path
) -> None:
    from hfx.cli.export import chosen
    from hfx.cli.export_impl import export
    from hfx.resolve import resolve

    trained(data, tmp_path / "run", **{"plugins": {"best": {}}} | beside)
    run = tmp_path / "run"
    found = chosen(run, None)
    assert found.step == best_of(run)
    export(resolve(yaml_path=run / RUN_FILE), run, found, tmp_path / "again")
    assert same(exported(run), load_file(tmp_path / "again" / "model.safetensors"))
    assert same(exported(run), checkpointed(run, found.step)) == ("ema" not in beside.get("plugins", {}))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "fsdp"])
def test_two_processes_choose_and_export_what_one_does(backend: str, data: Path, tmp_path: Path) -> None:
    import yaml

    from command_line import hfx as command

    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config(data, plugins={"best": {}, backend: {}})))
    done = command("train", "config.yaml", "--nproc", "2", "--output", "run", cwd=tmp_path, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    best = best_of(tmp_path / "run", before=40)
    assert f"the model is that of step {best} of 40" in done.stderr
    assert same(exported(tmp_path / "run"), checkpointed(tmp_path / "run", best))


def test_a_chosen_checkpoint_that_is_damaged_is_named_with_the_way_to_the_last_model(
    data: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"

    class Damages(Plugin):
        """Damages the checkpoint that was chosen."""

        @hookimpl
        def hfx_step_end(self, run: Any, metrics: dict[str, Any]) -> None:
            if metrics["step"] == 39:
                file = next(folder_of(run.output, run.chosen).glob("*.safetensors"))
                file.write_bytes(file.read_bytes()[:-1])

    with pytest.raises(StorageError, match=r"chosen for its 'eval_loss'.*'hfx export .*run --checkpoint 40'"):
        hfx.train(config(data), plugins=[Best(), Damages()], output=str(output))
    assert newest(output, 1).step == 40
    assert not (output / "model").exists()


def test_of_a_chosen_checkpoint_that_is_gone_the_export_names_the_newest(run: Path, tmp_path: Path) -> None:
    from hfx.cli.export import chosen

    shutil.copytree(run, tmp_path / "run")
    shutil.rmtree(folder_of(tmp_path / "run", best_of(run)))
    with pytest.raises(ConfigError, match=r"chose step \d+, whose checkpoint is gone; '--checkpoint 40' exports"):
        chosen(tmp_path / "run", None)
    assert chosen(tmp_path / "run", "40").step == 40


def test_a_figure_that_an_evaluation_lacks_is_named_with_the_nearest(data: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"'best\.metric' is 'eval_los', .* did you mean 'eval_loss'"):
        trained(data, tmp_path / "run", plugins={"best": {"metric": "eval_los"}})


@pytest.mark.parametrize(
    ("fields", "said"), [({"eval_every": None}, "add '--eval-every STEPS'"), ({"eval_share": 0}, "add '--eval-data")]
)
def test_a_run_with_nothing_to_compare_is_refused(
    fields: dict[str, Any], said: str, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleError, match=said):
        trained(data, tmp_path / "run", **fields, plugins={"best": {}})
    assert not (tmp_path / "run").exists()


def test_which_way_is_better_follows_from_the_name_unless_it_is_said() -> None:
    assert not rises("eval_loss", None)
    assert not rises("eval_mse", None)
    assert rises("eval_macro_f1", None)
    assert rises("eval_loss", True)
    assert better(1.0, None, higher=False)
    assert not better(1.0, 1.0, higher=True)
    assert not better(1.05, 1.0, higher=True, by=0.1)
    assert better(0.8, 1.0, higher=False, by=0.1)
    assert not better(math.nan, None, higher=True)
    assert not better(-math.inf, 1.0, higher=False)
