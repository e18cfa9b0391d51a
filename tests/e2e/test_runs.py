"""A run is exact: through kills, however it is cut, from the command line and from Python alike."""

from __future__ import annotations

import importlib.metadata
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

EXACT = ("step", "epoch", "loss", "lr", "grad_norm", "tokens", "eval_loss")
SMALL = (
    *("--seq-length", "64", "--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "2"),
    *("--batch-size", "8", "--plugin", "fp32", "--steps", "14", "--eval-every", "4", "--save-every", "3"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows of very different lengths, half of them with a prompt that carries no loss."""
    path: Path = tmp_path_factory.mktemp("runs")
    rng = random.Random(0)
    words = [
        "the",
        "order",
        "of",
        "samples",
        "is",
        "a",
        "pure",
        "function",
        "and",
        "a",
        "run",
        "that",
        "was",
        "killed",
        "goes",
        "on",
        "to",
        "the",
        "bit",
    ]
    with (path / "rows.jsonl").open("w") as file:
        for number in range(400):
            said = [" ".join(rng.choices(words, k=rng.choice([1, 3, 40]))) for _ in range(2)]
            file.write(json.dumps({"question": said[0] if number % 2 else "", "text": said[1]}) + "\n")
    return path


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl", *SMALL, *arguments]


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def train(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments), cwd=folder, env=environment(folder), text=True, capture_output=True, timeout=200
    )


def figures(run: Path) -> list[dict[str, Any]]:
    return [
        {k: line.get(k) for k in EXACT} for line in map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    ]


def weights(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "model" / "model.safetensors")


def same_weights(first: Path, second: Path) -> bool:
    one, other = weights(first), weights(second)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def whole(folder: Path) -> Path:
    done = train(folder, "--output", "whole")
    assert done.returncode == 0, done.stderr
    return folder / "whole"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_a_run_stopped_at_a_random_step_goes_on_to_the_bit(name: str, folder: Path, whole: Path) -> None:
    output = folder / name
    wanted = random.SystemRandom().randint(1, 12)
    process = subprocess.Popen(command("--output", name), cwd=folder, env=environment(folder), stderr=subprocess.PIPE)
    metrics = output / "metrics.jsonl"
    while process.poll() is None and (not metrics.exists() or metrics.read_text().count("grad_norm") < wanted):
        time.sleep(0.002)
    process.send_signal(getattr(signal, name))
    _, said = process.communicate(timeout=100)
    assert process.returncode in {"SIGINT": (130, 0), "SIGTERM": (143, 0), "SIGKILL": (-9, 0)}[name], said
    done = train(folder, "--output", name, "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert figures(output) == figures(whole)
    assert same_weights(output, whole)


def test_a_run_killed_before_its_first_checkpoint_begins_anew_without_a_step_twice(folder: Path, whole: Path) -> None:
    shutil.copytree(whole, folder / "early")
    shutil.rmtree(folder / "early" / "checkpoints")
    done = train(folder, "--output", "early", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert "it begins anew" in done.stderr
    assert figures(folder / "early") == figures(whole)
    assert same_weights(folder / "early", whole)


@pytest.fixture(scope="module")
def masked(folder: Path) -> Path:
    done = train(folder, "--output", "masked", "--causal_lm.prompt", "question")
    assert done.returncode == 0, done.stderr
    return folder / "masked"


@pytest.mark.parametrize("size", [1, 2, 3])
def test_the_micro_batch_size_never_changes_the_result(size: int, folder: Path, masked: Path) -> None:
    name = f"micro{size}"
    done = train(folder, "--output", name, "--causal_lm.prompt", "question", "--micro-batch-size", str(size))
    assert done.returncode == 0, done.stderr
    for expected, found in zip(figures(masked), figures(folder / name), strict=True):
        key = "loss" if expected["loss"] is not None else "eval_loss"
        assert found[key] == pytest.approx(expected[key], rel=1e-5)
    one, other = weights(masked), weights(folder / name)
    distance = sum(float((one[n] - other[n]).square().sum()) for n in one) ** 0.5
    assert distance < 1e-4 * sum(float(one[n].square().sum()) for n in one) ** 0.5


def test_a_run_from_python_equals_the_one_from_the_command_line(folder: Path, whole: Path) -> None:
    script = """
import hfx
from hfx_plugins.precision.fp32 import FP32
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.tokenizers.bpe import Bpe
result = hfx.train(data="rows.jsonl", output="python", seq_length=64, batch_size=8, steps=14, eval_every=4,
                   save_every=3, plugins=[FP32(), Bpe(vocab_size=300), Scratch(hidden_size=32, layers=2)])
assert result.step == 14 and result.stopped is None
assert result.model().config.hidden_size == 32
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=environment(folder), text=True, capture_output=True, timeout=200
    )
    assert done.returncode == 0, done.stderr
    assert figures(folder / "python") == figures(whole)
    assert same_weights(folder / "python", whole)


def test_a_model_that_was_trained_is_trained_further(folder: Path, whole: Path) -> None:
    scratch = [i for i, word in enumerate(SMALL) if word.startswith(("--bpe", "--scratch"))]
    small = [word for i, word in enumerate(SMALL) if i not in scratch and i - 1 not in scratch]
    start = [sys.executable, "-m", "hfx", "train", "--data", "rows.jsonl"]
    arguments = [*start, *small, "--output", "further", "--model", "whole/model", "--steps", "3"]
    done = subprocess.run(arguments, cwd=folder, env=environment(folder), text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    started, ended = figures(whole)[0]["loss"], figures(folder / "further")[0]["loss"]
    assert ended < started


def test_a_folder_that_holds_a_run_is_refused_without_resume(folder: Path, whole: Path) -> None:
    before = (whole / "metrics.jsonl").read_bytes()
    done = train(folder, "--output", "whole")
    assert done.returncode == 2
    assert "--resume auto" in done.stderr
    assert (whole / "metrics.jsonl").read_bytes() == before


def test_another_seed_is_refused_on_resume_and_named(folder: Path, whole: Path) -> None:
    done = train(folder, "--output", "whole", "--resume", "auto", "--seed", "9")
    assert done.returncode == 2
    assert "seed: saved 0, now 9" in done.stderr


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(folder: Path, whole: Path) -> None:
    done = train(folder, "--output", "damaged")
    assert done.returncode == 0, done.stderr
    newest = sorted((folder / "damaged" / "checkpoints").iterdir())[-1]
    shard = next(newest.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-8] + b"\0" * 8)
    done = train(folder, "--output", "damaged", "--resume", "auto")
    assert done.returncode == 0, done.stderr
    assert str(shard.relative_to(folder)) in done.stderr
    assert figures(folder / "damaged") == figures(whole)
    assert same_weights(folder / "damaged", whole)


def test_rows_without_any_label_are_refused_with_their_count(folder: Path) -> None:
    with (folder / "masked.jsonl").open("w") as file:
        for number in range(50):
            file.write(json.dumps({"question": "word " * 100, "text": f"{number}"}) + "\n")
    arguments = ["--data", "masked.jsonl", "--output", "none", "--causal_lm.prompt", "question"]
    done = train(folder, *arguments, "--causal_lm.overflow", "truncate")
    assert done.returncode == 1
    assert re.search(r"(\d+) of \1 examples carry no label", done.stderr)
    assert not (folder / "none").exists()


def test_an_end_token_that_is_never_learned_is_a_warning_with_counts(folder: Path) -> None:
    done = train(folder, "--output", "endless", "--steps", "1", "--causal_lm.append-eos", "false")
    assert done.returncode == 0, done.stderr
    assert "end token  0 of" in done.stderr
    assert "warning: the model will not learn to stop" in done.stderr


def test_the_demo_recipe_says_that_it_is_one_and_the_run_file_holds_the_versions(folder: Path) -> None:
    small = ["--steps", "1", "--seq-length", "32", "--batch-size", "2", "--stdlib.packages", "[json]"]
    arguments = [sys.executable, "-m", "hfx", "train", "--output", "demo", *small, "--plugin", "lion"]
    done = subprocess.run(arguments, cwd=folder, env=environment(folder), text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert "demo recipe" in done.stderr
    version = importlib.metadata.version("hfx")
    assert f"# 'lion' (hfx {version})" in (folder / "demo" / "run.yaml").read_text().splitlines()


def test_a_file_in_the_place_of_the_model_is_an_error_and_the_resumed_run_exports(folder: Path) -> None:
    assert train(folder, "--steps", "2", "--output", "blocked").returncode == 0
    model = folder / "blocked" / "model"
    shutil.rmtree(model)
    model.write_text("in the way")
    done = train(folder, "--steps", "2", "--output", "blocked", "--resume", "auto")
    assert done.returncode == 1
    assert "'blocked/model' is a file" in done.stderr
    assert model.read_text() == "in the way"
    model.unlink()
    again = subprocess.run(
        [sys.executable, "-m", "hfx", "train", "--resume", "blocked"], cwd=folder, env=environment(folder), check=False
    )
    assert again.returncode == 0
    assert (model / "model.safetensors").is_file()


def test_another_optimizer_is_refused_on_resume_and_the_run_stays(folder: Path) -> None:
    assert train(folder, "--steps", "2", "--output", "adam").returncode == 0
    done = train(folder, "--steps", "4", "--output", "adam", "--resume", "auto", "--plugin", "lion")
    assert done.returncode == 2
    assert "the checkpoint holds the state of another optimizer" in done.stderr
    assert len(figures(folder / "adam")) == 3  # two steps and an evaluation
