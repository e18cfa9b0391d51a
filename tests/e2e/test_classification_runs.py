"""`classification` through `hfx train`: several texts, several labels, numbers, and what others load of the result."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
import transformers

from command_line import hfx

WORDS = ["red", "green", "blue", "one", "two", "three", "good", "bad"]
SMALL = ["--seq-length", "32", "--batch-size", "16", "--steps", "40", "--eval-share", "0.25", "--plugin", "fp32"]
SMALL += ["--plugin", "classification", "--scratch.layers", "1", "--scratch.hidden-size", "32", "--scratch.heads", "2"]
SMALL += ["--bpe.vocab-size", "300", "--adamw.lr", "0.01", "--scratch.architecture", "bert"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows of which everything can be learned."""
    path, rng = tmp_path_factory.mktemp("classification"), random.Random(0)
    with (path / "rows.jsonl").open("w") as file:
        for _ in range(160):
            words = rng.sample(WORDS, rng.randint(2, 5))
            row = {
                "text": " ".join(words),
                "other": rng.choice(words) if rng.random() < 0.5 else rng.choice(WORDS),
                "colours": [word for word in ("red", "green", "blue") if word in words],
                "score": words.count("good") - words.count("bad") + 0.5 * len(words),
                "mood": "good" if "good" in words else "bad" if "bad" in words and len(words) == 2 else "none",
            }
            file.write(json.dumps(row) + "\n")
    return path


def trained(folder: Path, output: str, *words: str) -> tuple[str, dict[str, float]]:
    """Train, and return what was said, and the last figures."""
    done = hfx("train", "--data", "rows.jsonl", *SMALL, *words, "--output", output, cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    lines = (folder / output / "metrics.jsonl").read_text().splitlines()
    return done.stderr + done.stdout, json.loads(lines[-1])


def test_several_labels_a_row_are_learned_and_told_by_a_pipeline(folder: Path) -> None:
    said, figures = trained(folder, "colours", "--classification.label", "colours", "--steps", "100")

    assert "multi label in 'colours', text in 'text'" in said
    assert figures["eval_micro_f1"] > 0.8
    assert figures.keys() >= {"eval_micro_f1", "eval_macro_f1", "eval_exact_match"}
    tell = transformers.pipeline("text-classification", str(folder / "colours" / "model"), top_k=None)
    texts = [f"{first} {second} {third}" for first in WORDS for second in WORDS[3:] for third in ("three", "blue")]
    right = 0
    for text, told in zip(texts, tell(texts), strict=True):
        right += {one["label"] for one in told if one["score"] > 0.5} == {"red", "green", "blue"} & set(text.split())
    assert right > 0.7 * len(texts)  # which a softmax over the labels would not come to


def test_a_number_is_learned_and_told_by_a_pipeline(folder: Path) -> None:
    said, figures = trained(folder, "score", "--classification.label", "score", "--steps", "160")

    assert "regression in 'score', text in 'text'" in said
    assert figures["eval_r2"] > 0.5
    assert figures["eval_pearson"] > 0.7
    tell = transformers.pipeline("text-classification", str(folder / "score" / "model"), function_to_apply="none")
    assert tell("good one two three")[0]["score"] > tell("bad one")[0]["score"]


def test_two_texts_a_row_are_told_apart(folder: Path) -> None:
    said, _ = trained(
        folder, "pairs", "--classification.text", "[text, other]", "--classification.label", "mood",
        "--classification.class-weights", "balanced", "--steps", "2",
    )  # fmt: skip

    assert "single label in 'mood', text in 'text', 'other'" in said
    config = json.loads((folder / "pairs" / "model" / "config.json").read_text())
    assert config["id2label"] == {"0": "bad", "1": "good", "2": "none"}
    assert config["problem_type"] == "single_label_classification"


def test_weights_raise_the_loss_of_a_rare_label(folder: Path) -> None:
    _, plain = trained(folder, "plain", "--classification.label", "mood", "--steps", "40")
    _, weighted = trained(
        folder, "weighted", "--classification.label", "mood", "--steps", "40",
        "--classification.class-weights", "{bad: 20}",
    )  # fmt: skip
    assert weighted["eval_loss"] != plain["eval_loss"]
    assert weighted["eval_macro_f1"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--classification.label", "score", "--classification.problem", "single_label"), "holds fractions"),
        (("--classification.label", "colours", "--classification.problem", "regression"), "holds lists of labels"),
        (("--classification.label", "text"), "one label"),
        (
            ("--classification.problem", "regression", "--classification.label", "score",
             "--classification.class-weights", "balanced"),
            "'classification.class_weights' is for labels",
        ),
        (("--classification.label", "mood", "--classification.class-weights", "{god: 2}"), "the label 'god'"),
    ],
    ids=["fractions", "lists", "texts", "weights of numbers", "an unknown label"],
)  # fmt: skip
def test_what_does_not_go_together_is_refused_in_a_line(folder: Path, words: tuple[str, ...], said: str) -> None:
    if words[1] == "text":
        words = (*words, "--classification.text", "other", "--data", "one.jsonl")
        (folder / "one.jsonl").write_text('{"text": "a", "other": "b"}\n' * 30)
    done = hfx("train", "--data", "rows.jsonl", *SMALL, *words, "--output", "refused", cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "refused").exists()
