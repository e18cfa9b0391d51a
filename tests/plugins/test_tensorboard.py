from __future__ import annotations

import signal
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import pytest

from hfx import World
from hfx.testing.bench import Bench
from hfx_plugins.tracking.tensorboard import Tensorboard
from tracked import folder_with_rows, killed_and_resumed, recorded, train, train_until

pytest.importorskip("tensorboard")
WORDS = ("--plugin", "tensorboard")
Figures: TypeAlias = dict[str, list[tuple[int, float]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_with_rows(tmp_path_factory.mktemp("tensorboard"))


def events(folder: Path) -> Any:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    reader.Reload()
    return reader


def shown(folder: Path) -> Figures:
    """Return what a program reads."""
    reader = events(folder)
    return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


def on_the_board(folder: Path) -> Figures:
    """Return what TensorBoard's pages show: another reader than that for programs."""
    from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator

    reader = EventAccumulator(str(folder), tensor_size_guidance={"scalars": 0})
    reader.Reload()
    tags = reader.PluginTagToContent("scalars")
    return {tag: [(e.step, float(e.tensor_proto.float_val[0])) for e in reader.Tensors(tag)] for tag in tags}


def single(figures: Figures) -> Figures:
    return {name: [(step, float(np.float32(value))) for step, value in points] for name, points in figures.items()}


def config_in(folder: Path) -> dict[str, Any]:
    from tensorboard.plugins.hparams import metadata, plugin_data_pb2

    for tag, content in events(folder).PluginTagToContent("hparams").items():
        if tag == metadata.SESSION_START_INFO_TAG:
            start = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
            return {n: getattr(v, v.WhichOneof("kind")) for n, v in start.hparams.items()}
    raise AssertionError("the events hold no config")


def test_every_figure_is_that_of_the_metrics_file_and_the_config_is_there(folder: Path) -> None:
    done = train(folder, "whole", *WORDS, "--plugin", "adamw", "--adamw.lr", "0.003")
    assert done.returncode == 0, done.stderr
    found = shown(folder / "whole" / "tensorboard")
    assert found == single(recorded(folder / "whole"))
    assert [step for step, _ in found["loss"]] == list(range(1, 13))
    assert [step for step, _ in found["eval_loss"]] == [4, 8, 12]
    config = config_in(folder / "whole" / "tensorboard")
    assert config["run.batch_size"] == 4
    assert config["plugins.adamw.lr"] == 0.003
    assert config["plugins.adamw.package"].startswith("hfx ")
    assert [path.name for path in (folder / "whole" / "tensorboard").iterdir() if path.is_dir()] == []


def test_a_killed_and_resumed_run_has_each_step_once_with_the_figures_of_the_metrics_file(folder: Path) -> None:
    killed_and_resumed(folder, "killed", *WORDS)
    found = shown(folder / "killed" / "tensorboard")
    assert found == on_the_board(folder / "killed" / "tensorboard") == single(recorded(folder / "killed"))
    assert [step for step, _ in found["loss"]] == list(range(1, 13))
    assert len(list((folder / "killed" / "tensorboard").iterdir())) == 2


@pytest.mark.slow
def test_an_evaluation_that_a_resumed_run_makes_up_for_leaves_its_step_as_it_is(folder: Path) -> None:
    words = (*WORDS, "--log-every", "2", "--eval-every", "1")
    code, said = train_until(folder, "stopped", 2, signal.SIGTERM, *words)
    assert code in (0, 143), said
    done = train(folder, "stopped", *words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    found = shown(folder / "stopped" / "tensorboard")
    assert found == single(recorded(folder / "stopped"))
    assert [step for step, _ in found["loss"]] == [2, 4, 6, 8, 10, 12]
    assert [step for step, _ in found["eval_loss"]] == list(range(1, 13))


@pytest.mark.slow
def test_a_run_that_gets_the_tracker_when_it_resumes_is_shown_from_its_beginning(folder: Path) -> None:
    done = train(folder, "late", "--steps", "4")
    assert done.returncode == 0, done.stderr
    words = (*WORDS, "--tensorboard.dir", "board", "--tensorboard.run-name", "mine")
    done = train(folder, "late", *words, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert shown(folder / "board" / "mine") == single(recorded(folder / "late"))
    assert not (folder / "late" / "tensorboard").exists()


def test_a_folder_that_cannot_be_written_costs_a_warning_and_not_the_run(folder: Path) -> None:
    (folder / "file").write_text("")
    done = train(folder, "refused", *WORDS, "--tensorboard.dir", "file/board")
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("hfx: warning: 'tensorboard' failed (NotADirectoryError:") == 1
    assert "'tensorboard' lacks the last 15 of what it was told; 'metrics.jsonl' has all of it" in done.stderr
    assert len(recorded(folder / "refused")["loss"]) == 12


def test_only_the_main_rank_writes() -> None:
    with Bench.of(Tensorboard, {}, {}, None).run(steps=1) as run:
        run.world = World(rank=1, size=2)
        Tensorboard().hfx_step_end(run, {"step": 1, "loss": 1.0})
        Tensorboard().hfx_evaluated(run, {"eval_loss": 1.0})
        Tensorboard().hfx_saved(run)
        assert run.local == {}
        assert not (run.output / "tensorboard").exists()


def test_a_name_without_a_folder_is_refused(folder: Path) -> None:
    done = train(folder, "named", *WORDS, "--tensorboard.run-name", "mine")
    assert done.returncode == 2
    assert "'tensorboard.run_name' names a folder in 'tensorboard.dir'; give that, too" in done.stderr
