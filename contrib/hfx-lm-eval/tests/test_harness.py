"""The harness on a run's model: while it trains, afterwards, and beside `hfx eval`."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from own_task import written

SMALL = [
    "--batch-size",
    "4",
    "--seq-length",
    "33",
    "--bpe.vocab-size",
    "300",
    "--eval-share",
    "0.2",
    "--plugin",
    "fp32",
]
SMALL += ["--scratch.hidden-size", "32", "--scratch.layers", "2", "--scratch.heads", "2", "--steps", "6"]


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run Python as a user would, without a network."""
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environ |= {"HF_HOME": str(folder / "hub")}
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, env=environ, capture_output=True, text=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a task and a run that did it after each of its evaluations."""
    path = written(tmp_path_factory.mktemp("harness"))
    words = [
        "--plugin",
        "lm_eval",
        "--lm-eval.tasks",
        "[own_texts]",
        "--lm-eval.include",
        str(path),
        "--eval-every",
        "3",
    ]
    done = run(path, "hfx", "train", "--data", "texts.jsonl", *SMALL, *words, "--output", "run")
    assert done.returncode == 0, done.stderr
    (path / "said").write_text(done.stderr)
    return path


def lines(folder: Path) -> list[dict[str, Any]]:
    """Return the figures that the run wrote down."""
    found = map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines())
    return [line for line in found if line.get("event") == "lm_eval"]


def test_the_tasks_are_done_after_each_evaluation(folder: Path) -> None:
    assert [(line["step"], line["task"]) for line in lines(folder)] == [(3, "own_texts"), (6, "own_texts")]
    assert lines(folder)[1]["bits_per_byte"] < lines(folder)[0]["bits_per_byte"]
    assert "hfx: own_texts at step 3: word_perplexity" in (folder / "said").read_text()


def alone(folder: Path, length: int) -> dict[str, float]:
    """Return the figures that the harness itself finds of the exported model."""
    words = ["--model", "hf", "--model_args", f"pretrained=run/model,max_length={length}", "--tasks", "own_texts"]
    more = ["--include_path", str(folder), "--output_path", f"found-{length}", "--device", "cpu", "--batch_size", "8"]
    done = run(folder, "lm_eval", *words, *more)
    assert done.returncode == 0, done.stderr[-2000:]
    [path] = (folder / f"found-{length}").rglob("results_*.json")
    found: dict[str, float] = json.loads(path.read_text())["results"]["own_texts"]
    return found


def test_the_exported_model_has_the_same_figures_in_the_harness_alone(folder: Path) -> None:
    found = alone(folder, 33)
    for name in ("bits_per_byte", "byte_perplexity", "word_perplexity"):
        assert lines(folder)[-1][name] == pytest.approx(found[f"{name},none"], rel=1e-6)


def test_hfx_eval_has_the_harnesss_bits_per_byte_and_perplexity(folder: Path) -> None:
    words = ["--causal-lm.overflow", "rolling", "--causal-lm.append-eos", "false", "--seq-length", "33", "--json"]
    done = run(folder, "hfx", "eval", "run/model", "--data", "texts.jsonl", "--plugin", "fp32", *words)
    assert done.returncode == 0, done.stderr
    ours, theirs = json.loads(done.stdout)["figures"], alone(folder, 32)
    assert ours["bits_per_byte"] == pytest.approx(theirs["bits_per_byte,none"], rel=1e-5)
    assert 2 ** ours["bits_per_byte"] == pytest.approx(theirs["byte_perplexity,none"], rel=1e-5)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "'lm_eval' has no tasks"),
        (["--lm-eval.tasks", "[own_textz]"], "'lm_eval' knows no task 'own_textz'"),
        (["--lm-eval.tasks", "[own_texts]", "--plugin", "fsdp"], "'fsdp' has it in pieces"),
        (["--lm-eval.tasks", "[lambada_openai]"], "cannot get the documents of its tasks"),
    ],
    ids=["no tasks", "a misspelling", "pieces", "no network"],
)
def test_what_cannot_be_done_is_said_in_a_line(words: list[str], said: str, folder: Path) -> None:
    own = ["--plugin", "lm_eval", "--lm-eval.include", str(folder), *words]
    done = run(folder, "hfx", "train", "--data", "texts.jsonl", *SMALL, *own, "--output", "refused")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
