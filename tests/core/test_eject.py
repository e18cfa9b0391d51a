"""`hfx eject`: a script without hfx makes the steps of a run, whatever its plugins are, or the plugin is named."""

from __future__ import annotations

import ast
import json
import os
import re
import runpy
from collections.abc import Generator, Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import hfx
from backend_cells import CELLS, Cell, config, folder_of_rows
from hfx import Plugin, Run, hookimpl
from hfx.eject import STYLES, eject
from hfx.errors import DataError, IncompatibleError
from hfx.resolve import resolve
from hfx_plugins.batching.padding_impl import PaddingBatcher
from hfx_plugins.loops.training_arguments_impl import own_accelerate_state

REFUSED = {
    "muon": "muon", "galore": "galore", "adamw_8bit": "adamw_8bit", "lion_8bit": "lion_8bit",
    "schedule_free": "schedule_free", "ema": "ema", "qlora": "qlora", "neftune": "neftune", "bf16.rounding": "bf16",
    "fp16": "fp16", "fp16 that overflows": "fp16", "fp8": "fp8", "tf32": "tf32",
}  # fmt: skip
"""Cells that have no counterpart in plain code, and the plugin that is named."""
UNFIT = {name for name, cell in CELLS.items() if cell.untried}
TASKS = ["adamw", "chat", "classification", "several labels", "numbers", "token_classification", "seq2seq",
         "masked_lm", "preference", "preference under lora"]  # fmt: skip
LOOSE = {"bf16": 1e-2, "bf16.pure": 1e-2, "auto_precision": 1e-2}
"""How near the losses are where products are rounded by how many there are."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The rows and tiny models of the backends' cells; a run works inside of it."""
    path: Path = folder_of_rows(tmp_path_factory.mktemp("eject"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HFX_CACHE", str(path / "cache"))
        hfx.train(config(CELLS["adamw"], "alone"), output=str(path / "first"), steps=1)
        (path / "first" / "model").rename(path / "base")
        yield path


def trained(cell: Cell, output: Path) -> Path:
    """Train a cell and return its folder."""
    hfx.train(config(cell, "alone"), output=str(output))
    return output


def ejected(run: Path, style: str = "accelerate", without: str = "") -> Path:
    """Eject a run, and return the script; a plugin of the test, which no package offers, is taken out of its config."""
    path = _without(run, without) if without else run / "run.yaml"
    return eject(resolve(yaml_path=path), run, run / style, style)


def _without(run: Path, name: str) -> Path:
    tree = yaml.safe_load((run / "run.yaml").read_text())
    tree["plugins"] = {key: options for key, options in tree["plugins"].items() if key.partition("@")[0] != name}
    path = run / "without.yaml"
    path.write_text(yaml.safe_dump(tree))
    return path


def furthest(script: Path, capsys: pytest.CaptureFixture[str]) -> float:
    """Run a script, and return how far a step's loss was from the run's."""
    capsys.readouterr()
    before = dict(os.environ)
    try:
        with own_accelerate_state():
            runpy.run_path(str(script), run_name="__main__")
    finally:
        os.environ.clear()  # accelerate and the Trainer say there what they were asked for
        os.environ.update(before)
    told = capsys.readouterr().out
    steps = re.findall(r"loss (\S+)  \(the run: (\S+)\)", told)
    assert len(steps) == 4, told
    return max(abs(float(own) / float(recorded) - 1) for own, recorded in steps)


def assert_same_weights(run: Path, style: str) -> None:
    """Assert that a script's model is the one that the run exported."""
    if not (theirs := list((run / "model").glob("model*.safetensors"))) or (run / style / "adapters").exists():
        return  # adapters: their losses say it
    plain, own = load_file(run / style / "model" / "model.safetensors"), load_file(theirs[0])
    assert plain.keys() == own.keys()
    for name, tensor in own.items():
        torch.testing.assert_close(plain[name], tensor, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CELLS.keys() - REFUSED.keys() - UNFIT))
def test_a_script_makes_the_steps_of_the_run(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cell = CELLS[name]
    if cell.needs and find_spec(cell.needs) is None:
        pytest.skip(f"needs {cell.needs}")
    run = trained(cell, folder / f"run {name}")
    styles = STYLES if name in TASKS else STYLES[:1]
    for style in styles:
        script = ejected(run, style)
        ast.parse(script.read_text())
        assert "hfx" not in re.sub(r'""".*?"""', "", script.read_text(), count=1, flags=re.DOTALL)
        assert furthest(script, capsys) <= LOOSE.get(name, 1e-5)
        if name not in LOOSE:
            assert_same_weights(run, style)


@pytest.mark.parametrize("name", sorted(REFUSED.keys() - UNFIT))
def test_a_plugin_without_a_counterpart_is_named(name: str, folder: Path) -> None:
    cell = CELLS[name]
    if cell.needs and find_spec(cell.needs) is None:
        pytest.skip(f"needs {cell.needs}")
    run = trained(cell, folder / f"refused {name}")
    with pytest.raises(IncompatibleError, match=rf"'{REFUSED[name]}[.']"):
        ejected(run)
    assert not (run / "accelerate").exists()
    assert not list(run.glob(".eject*"))


def test_what_an_evaluation_scores_is_no_part_of_a_script(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("sacrebleu")
    cell = CELLS["seq2seq"]
    scored = replace(cell, plugins={"seq2seq": cell.plugins["seq2seq"] | {"scores": ["bleu"]}})
    assert furthest(ejected(trained(scored, folder / "scored")), capsys) <= 1e-5


class Skips(Plugin):
    """Leaves the third batch out."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        if run.step == 2:
            run.move_to(next(run.order.batches(run.position)).next)


def test_a_script_follows_a_run_that_left_samples_out(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = folder / "skipping"
    hfx.train(config(CELLS["adamw"], "alone"), output=str(run), plugins=[Skips()])
    assert furthest(ejected(run, without="skips"), capsys) <= 1e-5


def test_samples_are_those_of_the_run_though_the_file_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = trained(CELLS["adamw"], folder / "changing")
    rows = (folder / "rows.jsonl").read_text()
    try:
        (folder / "rows.jsonl").write_text("\n".join(reversed(rows.splitlines())) + "\n")
        assert furthest(ejected(run), capsys) <= 1e-5
        monkeypatch.setenv("HFX_CACHE", str(folder / "another cache"))
        with pytest.raises(DataError, match="the data has changed; put it back"):
            ejected(run, "trainer")
    finally:
        (folder / "rows.jsonl").write_text(rows)
    assert not (run / "trainer").exists()


def test_a_torn_last_line_of_a_killed_run_is_no_obstacle(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = trained(CELLS["adamw"], folder / "torn")
    ledger = (run / "ledger.jsonl").read_text()
    (run / "ledger.jsonl").write_text(ledger.rstrip("\n")[:-9])
    assert furthest(ejected(run), capsys) <= 1e-5


SPOILT = """
calls = []
spoilt = lambda grad: (calls.append(0), grad * float("nan") if len(calls) == 5 else grad)[1]
model.get_input_embeddings().weight.register_hook(spoilt)
"""
"""Makes the gradient of the fifth micro-batch no number."""


class Spoils(Plugin):
    """Does that."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        model = yield
        exec(SPOILT, {"model": model})  # noqa: S102 (the script has the same lines)
        return model


@pytest.mark.parametrize("style", STYLES)
def test_an_update_that_the_run_left_out_is_left_out(
    style: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder / f"spoilt {style}"
    hfx.train(config(CELLS["adamw"], "alone"), output=str(run), plugins=[Spoils()])
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line.get("skipped")] == [2]
    script = ejected(run, style, without="spoils")
    spoilt = SPOILT.replace("\n", "\n    ")
    script.write_text(script.read_text().replace("    return model\n", f"{spoilt}\n    return model\n", 1))
    assert furthest(script, capsys) <= 1e-5
    assert_same_weights(run, style)


@pytest.mark.parametrize("order", [("lora", "freeze"), ("freeze", "lora")])
def test_adapters_and_what_is_frozen_stand_as_in_the_run(
    order: tuple[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("peft")
    options = {"lora": {"rank": 4}, "freeze": {"names": ["model.layers.0"]}}
    both = replace(CELLS["freeze"], plugins={name: options[name] for name in order})
    run = trained(both, folder / f"frozen {order[0]}")
    script = ejected(run)
    assert furthest(script, capsys) <= 1e-5
    assert_same_weights(run, "accelerate")


def test_adapters_have_options_of_their_own(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("peft")
    both = replace(CELLS["lora"], also={"parameter_groups": {"lr": {"*lora_A*": 1e-3}}})
    assert furthest(ejected(trained(both, folder / "adapted")), capsys) <= 1e-5


def test_samples_that_the_ledger_does_not_know_are_refused(folder: Path) -> None:
    run = trained(CELLS["adamw"], folder / "another order")
    lines = (run / "ledger.jsonl").read_text().splitlines()
    lines[1] = json.dumps(json.loads(lines[1]) | {"rows": "0" * 16})
    (run / "ledger.jsonl").write_text("\n".join(lines) + "\n")
    with pytest.raises(DataError, match="the samples of step 2 are not those that the run took"):
        ejected(run)
    assert not (run / "accelerate").exists()


class Batches(PaddingBatcher):
    """Pads on the left."""

    def collate(self, sequences: list[list[dict[str, Any]]]) -> dict[str, torch.Tensor]:
        return {name: tensor.flip(-1) for name, tensor in super().collate(sequences).items()}


class Left(Plugin):
    """Lays out batches in another way."""

    @hookimpl
    def hfx_batcher(self, run: Run) -> Batches:
        return Batches(dict(run.task.collated()))


class Halves(Plugin):
    """Wraps the model, and says nothing."""

    @hookimpl(wrapper=True)
    def hfx_model(self) -> Generator[None, Any, Any]:
        model = yield
        return model


class Own(Plugin):
    """An optimizer of its own."""

    @hookimpl
    def hfx_optimizer(self, params: hfx.ParamGroups) -> torch.optim.Optimizer:
        return Steps(params.groups(), lr=0.1)


class Steps(torch.optim.SGD):
    """SGD by another name."""


@pytest.mark.parametrize(
    ("plugin", "says"),
    [
        (Left(), "'left' lays out a batch in another way than by padding on the right"),
        (Halves(), "'halves' has a hand in what is computed .*hfx_eject"),
        (Own(), "the optimizer of 'own' is a class of its own .'Steps'."),
    ],
    ids=["batcher", "wrapper", "optimizer"],
)
def test_what_a_plain_script_cannot_do_is_said(plugin: Plugin, says: str, folder: Path) -> None:
    settings = config(CELLS["adamw"], "alone")
    settings["plugins"].pop("adamw" if plugin.name == "own" else "", None)
    run = folder / f"with {plugin.name}"
    hfx.train(settings, output=str(run), plugins=[plugin])
    resolved = resolve(yaml_path=_without(run, plugin.name), plugin_objects=[plugin])
    with pytest.raises(IncompatibleError, match=says):
        eject(resolved, run, run / "plain", "accelerate")
    assert not (run / "plain").exists()


def test_a_script_is_formatted_and_says_where_it_is_from(folder: Path) -> None:
    script = ejected(trained(CELLS["beside frozen layers"], folder / "formatted"))
    text = script.read_text()
    assert all(len(line) <= 120 for line in text.splitlines()), [line for line in text.splitlines() if len(line) > 120]
    assert "\n\n\n\n" not in text
    assert "- 'chunked_loss': it computes the same loss in less memory" in text
    assert "- freeze (names ['model.layers.0'])" in text
