"""`hfx eval`: the figures of a run's checkpoint and of any model, against the run's own and other libraries'."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import yaml
from sklearn import metrics as sklearn

from command_line import environment, hfx
from overfitting import config, evaluations, rows

KINDS = ("alpha", "beta", "gamma")
SMALL = ["--seq-length", "16", "--steps", "30", "--adamw.lr", "0.01", "--bpe.vocab-size", "300", "--plugin", "fp32"]
SMALL += ["--scratch.architecture", "bert", "--scratch.layers", "1", "--scratch.hidden-size", "32"]
SMALL += ["--scratch.heads", "2", "--plugin", "classification"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a classifier's run and a language model's, and rows that neither was trained on."""
    path, rng = tmp_path_factory.mktemp("eval"), random.Random(0)
    for name, count in (("train", 200), ("test", 90)):
        with (path / f"{name}.jsonl").open("w") as file:
            for _ in range(count):
                kind = rng.choices(KINDS, [6, 3, 1])[0]
                told = rng.choice(KINDS) if rng.random() < 0.4 else kind
                text = " ".join([*rng.choices(["x", "y", "z"], k=rng.randint(1, 9)), told])
                row = {"text": text, "label": kind, "size": len(text) / 4, "letters": sorted(set(text) & {"x", "y"})}
                file.write(json.dumps(row) + "\n")
    for output, words in (("kinds", []), ("sizes", ["--classification.label", "size"]),
                          ("letters", ["--classification.label", "letters"])):  # fmt: skip
        done = hfx("train", "--data", "train.jsonl", *SMALL, *words, "--output", output, cwd=path)
        assert done.returncode == 0, done.stderr
    (path / "language.yaml").write_text(yaml.safe_dump(config(rows(path), plugins={"best": {}})))
    assert hfx("train", "language.yaml", "--output", "language", cwd=path).returncode == 0
    return path


def judged(folder: Path, *words: str) -> dict[str, Any]:
    """Return what `hfx eval --json` says, but for how long it took."""
    done = hfx("eval", *words, "--json", cwd=folder, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found.pop("seconds") >= 0
    return found


def test_a_checkpoint_has_the_figures_that_the_run_had_there(folder: Path) -> None:
    line = evaluations(folder / "kinds")[30]
    found = judged(folder, "kinds")
    assert found["figures"] == {name.removeprefix("eval_"): line[name] for name in line if name.startswith("eval_")}
    first, last = (judged(folder, "language", *words) for words in ((), ("--checkpoint", "40")))
    losses = {step: line["eval_loss"] for step, line in evaluations(folder / "language").items()}
    assert first["figures"]["loss"] == min(losses.values())  # what 'best' chose
    assert last["figures"]["loss"] == losses[40]


def test_a_classifier_has_the_figures_of_scikit_learn(folder: Path) -> None:
    found = judged(folder, "kinds", "--data", "test.jsonl")

    test = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    told = transformers.pipeline("text-classification", str(folder / "kinds" / "model"))([row["text"] for row in test])
    true, said = [row["label"] for row in test], [one["label"] for one in told]
    assert found["figures"]["accuracy"] == sklearn.accuracy_score(true, said)
    assert found["figures"]["macro_f1"] == pytest.approx(sklearn.f1_score(true, said, average="macro"), abs=1e-15)
    details = found["details"]
    assert details["confusion"] == sklearn.confusion_matrix(true, said, labels=details["labels"]).tolist()
    report = sklearn.classification_report(true, said, output_dict=True, zero_division=0)
    for label, figures in details["by_label"].items():
        assert figures["rows"] == report[label]["support"]
        for name, theirs in (("precision", "precision"), ("recall", "recall"), ("f1", "f1-score")):
            assert figures[name] == pytest.approx(report[label][theirs], abs=1e-15)


def test_any_number_of_processes_finds_the_same_to_the_bit(folder: Path) -> None:
    for count, words in (("2", ("language", "--data", "rows.jsonl")), ("3", ("kinds", "--data", "test.jsonl"))):
        assert judged(folder, *words, "--nproc", count) == judged(folder, *words)


def test_processes_that_torchrun_started_find_it_together_and_one_says_it(folder: Path) -> None:
    words = ("eval", "kinds", "--data", "test.jsonl", "--json")
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "hfx", *words]
    done = subprocess.run(
        command, cwd=folder, env=environment(OMP_NUM_THREADS="1"), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    found.pop("seconds")
    assert found == judged(folder, *words[1:-1])


@pytest.mark.parametrize("run", ["kinds", "sizes", "letters"])
def test_a_model_folder_says_itself_what_its_labels_are(run: str, folder: Path) -> None:
    label = {"kinds": "label", "sizes": "size", "letters": "letters"}[run]
    words = ("--data", "test.jsonl", "--seq-length", "16", "--plugin", "fp32")
    alone = judged(folder, f"{run}/model", *words, "--classification.label", label)
    own = judged(folder, run, "--data", "test.jsonl")
    # The run's batches are of another size, by which a processor may round its products.
    assert alone.pop("figures") == pytest.approx(own.pop("figures"), rel=1e-3)
    assert alone == own


def test_a_cache_that_no_longer_has_the_labels_is_filled_from_the_training_rows(folder: Path, tmp_path: Path) -> None:
    words = ("kinds", "--data", "test.jsonl", "--json")
    done = hfx("eval", *words, cwd=folder, HFX_CACHE=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"] == judged(folder, *words[:-1])["figures"]


def test_labels_that_the_rows_have_not_are_still_the_models(folder: Path) -> None:
    lines = [line for line in (folder / "test.jsonl").read_text().splitlines() if '"gamma"' in line.split("label")[1]]
    (folder / "one.jsonl").write_text("\n".join(lines) + "\n")
    details = judged(folder, "kinds/model", "--data", "one.jsonl", "--seq-length", "16")["details"]
    assert details["labels"] == list(KINDS)
    assert sum(map(sum, details["confusion"])) == len(lines) == details["by_label"]["gamma"]["rows"]


def test_a_language_model_has_the_loss_perplexity_and_bits_of_a_plain_loop(folder: Path) -> None:
    found = judged(folder, "language/model", "--data", "rows.jsonl", "--seq-length", "32", "--plugin", "fp32")

    path = folder / "language" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    total, tokens, size = 0.0, 0, 0
    for line in (folder / "rows.jsonl").read_text().splitlines():
        ids = [*tokenizer(json.loads(line)["text"])["input_ids"], tokenizer.eos_token_id]
        with torch.no_grad():
            logs = model(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        total -= float(logs[torch.arange(len(ids) - 1), torch.tensor(ids[1:])].double().sum())
        tokens += len(ids) - 1
        size += len(tokenizer.decode(ids[1:-1]).encode())
    assert found["figures"]["loss"] == pytest.approx(total / tokens, rel=1e-6)
    assert found["figures"]["perplexity"] == pytest.approx(math.exp(total / tokens), rel=1e-6)
    assert found["figures"]["bits_per_byte"] == pytest.approx(total / math.log(2) / size, rel=1e-6)


def test_the_lines_show_figures_and_which_label_was_taken_for_which(folder: Path) -> None:
    done = hfx("eval", "kinds", "--data", "test.jsonl", cwd=folder)
    found = judged(folder, "kinds", "--data", "test.jsonl")
    lines = done.stdout.splitlines()
    assert lines[0] == "eval       kinds/checkpoints/step-00000030"
    assert lines[1].startswith("rows       90 examples of ")
    assert f"accuracy  {found['figures']['accuracy']:.6g}" in lines
    assert ["true", "\\", "taken", "for", *KINDS] in [line.lower().split() for line in lines]
    assert lines[-1].split() == ["gamma", *map(str, found["details"]["confusion"][2])]
    assert done.stderr == ""


def test_a_head_that_nobody_trained_is_not_evaluated(folder: Path) -> None:
    shutil.copytree(folder / "kinds" / "model", folder / "nameless")
    config = json.loads((folder / "nameless" / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(3)}
    config["label2id"] = {f"LABEL_{index}": index for index in range(3)}
    (folder / "nameless" / "config.json").write_text(json.dumps(config))
    rows = [json.loads(line) for line in (folder / "test.jsonl").read_text().splitlines()]
    numbered = [json.dumps({"text": row["text"], "label": KINDS.index(row["label"])}) for row in rows]
    (folder / "two.jsonl").write_text("".join(f"{line}\n" for line, row in zip(numbered, rows, strict=True)
                                              if row["label"] != "beta"))  # fmt: skip
    words = ("nameless", "--data", "two.jsonl", "--seq-length", "16")
    done = hfx("eval", *words, cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert "'nameless' has 3 labels, and the rows 2" in done.stderr
    named = judged(folder, *words, "--classification.names", '["0", "1", "2"]')
    assert named["details"]["labels"] == ["0", "1", "2"]
    new = hfx("eval", "language/model", "--data", "two.jsonl", "--plugin", "classification", cwd=folder)
    assert new.returncode == 1
    assert "which nobody trained; evaluate a run, or a model that was trained for the task" in new.stderr


def test_a_model_of_the_hub_says_what_its_labels_are_as_its_folder_does(folder: Path, tmp_path: Path) -> None:
    names, model = ["gamma", "beta", "alpha"], tmp_path / "hub" / "models--org--kinds"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    shutil.copytree(folder / "kinds" / "model", model / "snapshots" / ("0" * 40))
    file = model / "snapshots" / ("0" * 40) / "config.json"
    told = json.loads(file.read_text())
    told |= {"id2label": dict(enumerate(names)), "label2id": {name: index for index, name in enumerate(names)}}
    file.write_text(json.dumps(told))
    shutil.copytree(file.parent, folder / "reversed")
    words = ("--data", "test.jsonl", "--seq-length", "16", "--json")
    environ = {"HF_HUB_CACHE": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = hfx("eval", "org/kinds", *words, cwd=folder, **environ)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    found.pop("seconds")
    assert found["details"]["labels"] == names
    assert found == judged(folder, "reversed", *words[:-1])


def test_rows_that_are_not_judged_are_counted_by_reason(folder: Path) -> None:
    rows = (folder / "test.jsonl").read_text().splitlines()[:6]
    strange = [json.dumps({"text": "x y", "label": "delta"}), json.dumps({"text": "x", "label": None})]
    (folder / "strange.jsonl").write_text("\n".join([*rows, *strange, strange[0]]) + "\n")
    found = judged(folder, "kinds", "--data", "strange.jsonl")
    assert (found["rows"], found["left_out"]) == (6, {"unknown_label": 2, "no_label": 1})
    done = hfx("eval", "kinds", "--data", "strange.jsonl", cwd=folder)
    assert "left out   3 rows (unknown_label 2, no_label 1)" in done.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("kinds", "--checkpoint", "7"), "the run 'kinds' has no checkpoint '7'"),
        (("kinds/model",), "nothing says on which rows 'kinds/model' is evaluated; add '--data PATH'"),
        (("kinds/model", "--data", "test.jsonl", "--checkpoint", "3"), "'kinds/model' is no run"),
        (("./nothing", "--data", "test.jsonl"), "no such path './nothing'"),
        (("kinds", "--data", "missing.jsonl"), "missing.jsonl"),
        (("kinds", "--steps", "3"), "no option '--steps'"),
        (("kinds", "--data", "test.jsonl", "--classification.label", "colour"), "no column 'colour'"),
    ],
    ids=["no checkpoint", "no rows", "a model's checkpoint", "no model", "no file", "a field of training", "no column"],
)
def test_what_cannot_be_evaluated_is_said_in_a_line(words: tuple[str, ...], said: str, folder: Path) -> None:
    done = hfx("eval", *words, cwd=folder)
    assert done.returncode in (1, 2)
    assert said in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
