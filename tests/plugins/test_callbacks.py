"""`callbacks`: what callbacks of the Trainer are told in a run of hfx, and what becomes of what they ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import EarlyStoppingCallback, TrainerCallback, TrainingArguments

import hfx
from backend_cells import CELLS, config, folder_of_rows
from command_line import hfx as command
from hfx import HfxError, Plugin, hookimpl
from hfx.checkpoint import candidates, step_of
from hfx.errors import ConfigError, IncompatibleError, PluginError
from hfx_plugins.loops.callbacks import Callbacks
from hfx_plugins.loops.hf_trainer import HfTrainer
from toy_packages import toy_package

EVENTS = [name for name in vars(TrainerCallback) if name.startswith("on_")]
BOTH = pytest.mark.parametrize("loop", [[], [HfTrainer()]], ids=["own loop", "Trainer"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with rows, in which runs work."""
    path: Path = folder_of_rows(tmp_path_factory.mktemp("callbacks"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(path)
        patch.setenv("HFX_CACHE", str(path / "cache"))
        yield path


def train(output: Path, *plugins: Any, **fields: Any) -> hfx.RunResult:
    """Train four steps, with an evaluation and a checkpoint after every second."""
    return hfx.train(config(CELLS["adamw"], "alone"), plugins=list(plugins), output=str(output), **fields)


def lines(run: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


class Recorder(TrainerCallback):
    """Writes down every event, with what is known then."""

    def __init__(self) -> None:
        self.told: list[tuple[str, int]] = []
        self.given: dict[str, dict[str, Any]] = {}


def _recording(event: str) -> Any:
    def told(self: Recorder, args: Any, state: Any, control: Any, **given: Any) -> None:
        self.told.append((event, state.global_step))
        self.given[event] = {"args": args, "state": state, "control": control, **given}

    return told


for _event in EVENTS:
    setattr(Recorder, _event, _recording(_event))


def test_events_come_as_the_trainer_sends_them(folder: Path, tmp_path: Path) -> None:
    ours, theirs = Recorder(), Recorder()
    train(tmp_path / "ours", Callbacks.of(ours))
    train(tmp_path / "theirs", Callbacks.of(theirs), HfTrainer())
    epochs = {"on_epoch_begin", "on_epoch_end"}
    told = [event for event in theirs.told if event[0] not in epochs]
    # The Trainer logs a summary of its own at the very end.
    assert told[-2:] == [("on_log", 4), ("on_train_end", 4)]
    assert [event for event in ours.told if event[0] not in epochs] == [*told[:-2], told[-1]]
    assert ("on_substep_end", 0) in ours.told
    assert ("on_pre_optimizer_step", 0) in ours.told


def test_epochs_begin_and_end_where_the_datas_do(folder: Path, tmp_path: Path) -> None:
    settings = {key: value for key, value in config(CELLS["classification"], "alone").items() if key != "steps"}
    for name, loop in (("own", []), ("trainer", [HfTrainer()])):
        recorder = Recorder()
        hfx.train(settings | {"epochs": 2.0}, plugins=[Callbacks.of(recorder), *loop], output=str(tmp_path / name))
        ends = [step for event, step in recorder.told if event == "on_epoch_end"]
        whole = [line["step"] for line in lines(tmp_path / name) if line["epoch"] in (1.0, 2.0) and "loss" in line]
        assert ends == whole
        assert len([event for event, _ in recorder.told if event == "on_epoch_begin"]) == 2


@BOTH
def test_they_are_given_the_runs_values(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    recorder = Recorder()
    train(tmp_path / "run", Callbacks.of(recorder), *loop)
    given = recorder.given["on_evaluate"]
    args = given["args"]
    assert isinstance(args, TrainingArguments)
    assert (args.max_steps, args.per_device_train_batch_size, args.gradient_accumulation_steps) == (4, 2, 3)
    assert (args.eval_steps, args.save_steps, args.learning_rate, args.max_grad_norm) == (2, 2, 1e-3, 1.0)
    assert args.output_dir == str(tmp_path / "run")
    assert given["state"].is_world_process_zero
    assert given["metrics"]["eval_loss"] == lines(tmp_path / "run")[-1]["eval_loss"]
    step = recorder.given["on_step_end"]
    assert step["model"].config.architectures == ["LlamaForCausalLM"]
    assert step["optimizer"].param_groups
    assert step["lr_scheduler"].get_last_lr()
    assert recorder.given["on_train_begin"]["processing_class"].vocab_size >= 280
    logged = [entry["loss"] for entry in given["state"].log_history if "loss" in entry]
    assert logged == pytest.approx([line["loss"] for line in lines(tmp_path / "run") if "loss" in line])


class Asks(TrainerCallback):
    """Sets a switch at a step."""

    def __init__(self, step: int, switch: str, event: str = "on_step_end") -> None:
        def told(args: Any, state: Any, control: Any, **_: Any) -> Any:
            if state.global_step == step:
                setattr(control, switch, True)
            return control

        setattr(self, event, told)


@BOTH
def test_a_stop_is_at_that_step_and_saved(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "run", Callbacks.of(Asks(3, "should_training_stop")), *loop)
    assert (result.step, result.stopped) == (3, "a callback asked for it")
    assert max(step_of(path) or 0 for path in candidates(tmp_path / "run")) == 3
    train(tmp_path / "run", resume="auto")
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 2, 3, 4]


@BOTH
def test_a_stop_in_an_evaluation_is_behind_it(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    result = train(tmp_path / "run", Callbacks.of(Asks(2, "should_training_stop", "on_evaluate")), *loop)
    assert result.step == 2
    assert "eval_loss" in lines(tmp_path / "run")[-1]


@BOTH
def test_a_checkpoint_and_an_evaluation_are_made_when_asked_for(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    asking = [Asks(3, "should_save"), Asks(3, "should_evaluate"), Asks(1, "should_log")]
    train(tmp_path / "run", Callbacks.of(*asking), *loop, keep=9, log_every=4, eval_every=None, save_every=None)
    assert {step_of(path) for path in candidates(tmp_path / "run")} == {3, 4}
    assert [line["step"] for line in lines(tmp_path / "run") if "eval_loss" in line] == [3, 4]


def test_a_line_is_logged_when_asked_for(folder: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", Callbacks.of(Asks(1, "should_log")), log_every=4)
    assert [line["step"] for line in lines(tmp_path / "run") if "loss" in line] == [1, 4]


@BOTH
def test_a_checkpoint_asked_for_in_an_evaluation_is_made(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", Callbacks.of(Asks(2, "should_save", "on_evaluate")), *loop, save_every=None, keep=9)
    assert {step_of(path) for path in candidates(tmp_path / "run")} == {2, 4}


@BOTH
def test_the_end_of_an_epoch_cannot_be_asked_for(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="should_training_stop"):
        train(tmp_path / "run", Callbacks.of(Asks(1, "should_epoch_stop")), *loop)


@BOTH
def test_early_stopping_counts_on_where_the_run_was_stopped(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    early = {"classes": ["transformers:EarlyStoppingCallback"], "best": "eval_loss"}
    early["arguments"] = {"EarlyStoppingCallback": {"early_stopping_patience": 2, "early_stopping_threshold": 100.0}}
    settings = config(CELLS["adamw"], "alone") | {"eval_every": 1, "steps": 6}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert hfx.train(settings, plugins=[Callbacks(**early), *loop], output=str(whole)).step == 3
    assert hfx.train(settings | {"steps": 2}, plugins=[Callbacks(**early), *loop], output=str(cut)).step == 2
    assert hfx.train(settings, plugins=[Callbacks(**early), *loop], output=str(cut), resume="auto").step == 3


class Returns(Plugin):
    """Goes back to the second step, once."""

    @hookimpl
    def hfx_step_end(self, run: Any, metrics: dict[str, Any]) -> None:
        if metrics["step"] == 5 and "went" not in run.local:
            run.local["went"] = True
            run.go_back("a test", first_bad=3, times=2, otherwise="nothing")


def test_early_stopping_does_not_count_what_a_run_that_went_back_has_undone(folder: Path, tmp_path: Path) -> None:
    stopping = EarlyStoppingCallback(early_stopping_patience=2, early_stopping_threshold=100.0)
    settings = config(CELLS["adamw"], "alone") | {"eval_every": 2, "save_every": 2, "steps": 9, "keep": 5}
    plugins = [Callbacks.of(stopping, best="eval_loss"), Returns()]
    result = hfx.train(settings, plugins=plugins, output=str(tmp_path / "run"))
    # The evaluation at 4 was made twice and is one; that at 6 is the second without a gain.
    assert result.step == 6


@BOTH
def test_a_figure_that_is_no_best_is_named(loop: list[Any], folder: Path, tmp_path: Path) -> None:
    with pytest.raises((HfxError, PluginError), match="eval_bleu"):
        train(tmp_path / "run", Callbacks.of(EarlyStoppingCallback(), best="eval_bleu"), *loop)


class Raises(TrainerCallback):
    def on_step_end(self, *_: Any, **__: Any) -> None:
        raise ValueError("no such thing")


def test_a_callback_that_raises_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"callback 'Raises' raised ValueError in 'on_step_end': no such thing"):
        train(tmp_path / "run", Callbacks.of(Raises()))


def test_a_resumed_run_misses_no_object(folder: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", Callbacks.of(Asks(3, "should_training_stop")))
    with pytest.raises(IncompatibleError, match=r"Asks' was given from Python.*Callbacks.of"):
        hfx.train(resume=str(tmp_path / "run"))


# ── classes that a config names ──────────────────────────────────────────────────────────────────────────────────────

SAVER = '''
from transformers import TrainerCallback


class SaveOnTheLast(TrainerCallback):
    """Asks on one rank only."""

    def on_step_end(self, args, state, control, **_):
        control.should_save = state.global_step == 1 and not state.is_world_process_zero


class NoCallback:
    pass
'''


@pytest.fixture
def site(tmp_path: Path) -> tuple[Path, str]:
    """A folder with an installed package `acme-hooks`, and the name of its module."""
    modules = toy_package(tmp_path / "site", "acme-hooks", {"hooks": SAVER})
    module = modules["hooks"]
    [info] = (tmp_path / "site").glob("*.dist-info")
    (info / "top_level.txt").write_text(module.partition(".")[0] + "\n")
    (info / "entry_points.txt").unlink()
    return tmp_path / "site", module


def test_any_ranks_wish_is_all_ranks(site: tuple[Path, str], folder: Path, tmp_path: Path) -> None:
    path, module = site
    settings = tmp_path / "config.json"
    settings.write_text(json.dumps(config(CELLS["adamw"], "alone") | {"nproc": 2, "save_every": None, "keep": 9}))
    done = command(
        "train", str(settings), "--plugin", "callbacks", "--callbacks.classes", f"[{module}:SaveOnTheLast]",
        "--output", str(tmp_path / "run"), path=path, HFX_CACHE=str(folder / "cache"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {step_of(place) for place in candidates(tmp_path / "run")} == {1, 4}


WRONG = {
    "no colon": ("transformers.EarlyStoppingCallback", r"package\.module:Class"),
    "not installed": ("nowhere.hooks:Mine", "no installed package has a module 'nowhere'"),
    "a file that lies about": ("lying:Mine", "no installed package has a module 'lying'"),
    "no such module": ("transformers.nowhere:Mine", "cannot be imported"),
    "no such class": ("transformers:EarlyStopingCallback", "no such class"),
    "no callback": ("MODULE:NoCallback", "is no TrainerCallback"),
}


@pytest.mark.parametrize(("name", "says"), WRONG.values(), ids=WRONG)
def test_a_name_that_is_wrong_is_told_before_data_is_read(
    name: str, says: str, site: tuple[Path, str], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, module = site
    monkeypatch.syspath_prepend(str(path))
    (tmp_path / "lying.py").write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises((ConfigError, IncompatibleError), match=says):
        train(tmp_path / "run", Callbacks(classes=(name.replace("MODULE", module),)), data="no-such-file.txt")


@pytest.mark.parametrize(
    ("policy", "refused"),
    [("allow: [hfx]", True), ("allow: [hfx, 'acme-*']", False), ("block: [acme-hooks]", True),
     ("allow: [hfx, 'acme-*']\nrequire: {acme-hooks: '>=2'}", True)],
)  # fmt: skip
def test_the_policy_says_whose_classes_are_imported(
    policy: str, refused: bool, site: tuple[Path, str], folder: Path, tmp_path: Path
) -> None:
    path, module = site
    (tmp_path / "policy.yaml").write_text(policy)
    done = command(
        "train", "--data", "rows.jsonl", "--plugin", "callbacks", "--dry-run",
        "--callbacks.classes", f"[{module}:SaveOnTheLast, 'transformers:PrinterCallback']",
        path=path, cwd=folder, HFX_POLICY=str(tmp_path / "policy.yaml"),
    )  # fmt: skip
    assert (done.returncode == 2) == refused, done.stderr
    assert bool(re.search(r"policy\.yaml:\d", done.stderr)) == refused


def test_arguments_of_a_class_that_is_not_named_are_refused(folder: Path, tmp_path: Path) -> None:
    named = {"classes": ["transformers:PrinterCallback"], "arguments": {"EarlyStopping": {}}}
    with pytest.raises(IncompatibleError, match="EarlyStopping"):
        train(tmp_path / "run", Callbacks(**named))
    named = {"classes": ["transformers:EarlyStoppingCallback"], "arguments": {"EarlyStoppingCallback": {"patience": 1}}}
    with pytest.raises(ConfigError, match=r"callbacks\.arguments\.EarlyStoppingCallback"):
        train(tmp_path / "run", Callbacks(**named))
