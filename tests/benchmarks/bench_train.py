"""Real tokens a second and peak memory of hfx beside transformers' Trainer, on rows of very different lengths.

    python tests/benchmarks/bench_train.py [rounds] [vocabulary ...]

A llama of 4 layers, 256 wide, from scratch, fp32; rows of some 45 tokens, at most 256, all of them labelled. Contenders
run one after the other, each in a process of its own, for several rounds; a figure is the median over the steps of all
rounds, the first steps of each left out. Tokens are those that are no padding. Memory is the resident set's highest, of
the whole process. Ratios are what carries over to other machines.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

STEPS, WARM_UP = 14, 4
HFX: dict[str, tuple[str, ...]] = {
    "hfx, padding": ("--batch-size", "16", "--micro-batch-size", "16"),
    "hfx, packing": ("--plugin", "packing", "--batch-size", "4"),
    "hfx, packing, chunked_loss": ("--plugin", "packing", "--batch-size", "4", "--plugin", "chunked_loss"),
}
TRAINER = "Trainer, padding"


def main() -> None:
    """Print a table for each vocabulary."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    for vocabulary in [int(word) for word in sys.argv[2:]] or [8_000, 50_000]:
        with tempfile.TemporaryDirectory(prefix="hfx-bench-") as name:
            _compare(Path(name), vocabulary, rounds)


def _compare(folder: Path, vocabulary: int, rounds: int) -> None:
    _write(folder, vocabulary)
    figures: dict[str, list[tuple[float, float]]] = {}
    peaks: dict[str, float] = {}
    losses: dict[str, float] = {}
    for number in range(rounds):
        for contender in [TRAINER, *HFX]:
            steps, peaks[contender], losses[contender] = _run(folder, contender, number)
            figures.setdefault(contender, []).extend(steps)
    speed = {name: median(tokens / seconds for tokens, seconds in steps) for name, steps in figures.items()}
    print(f"\nvocabulary {vocabulary:,}, {rounds} rounds, {os.cpu_count()} cores\n")
    print("| contender | tokens/s | ratio | peak GiB | last loss |\n|---|---|---|---|---|")
    for name, value in speed.items():
        print(f"| {name} | {value:,.0f} | {value / speed[TRAINER]:.2f} | {peaks[name]:.2f} | {losses[name]:.3f} |")


def _write(folder: Path, vocabulary: int) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = [f"w{number}" for number in range(vocabulary - 3)]
    table = {word: number for number, word in enumerate(["<pad>", "<s>", "</s>", *words])}
    made = Tokenizer(models.WordLevel(table, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", bos_token="<s>", eos_token="</s>")
    tokenizer.save_pretrained(folder / "model")
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=256, intermediate_size=768, num_hidden_layers=4, num_attention_heads=4,
        max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(folder / "model")
    rng = random.Random(0)
    with (folder / "rows.jsonl").open("w") as file:
        for _ in range(2_000):
            length = max(4, min(255, round(rng.lognormvariate(3.5, 0.75))))
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=length))}) + "\n")


def _run(folder: Path, contender: str, number: int) -> tuple[list[tuple[float, float]], float, float]:
    """Return (tokens, seconds) of each step behind the warm-up, the peak in GiB, and the last loss."""
    environ = os.environ | {"HFX_CACHE": str(folder / "cache"), "TOKENIZERS_PARALLELISM": "false"}
    if contender == TRAINER:
        command = [sys.executable, __file__, "--trainer"]
    else:
        output = folder / f"run-{number}-{contender.replace(', ', '-')}"
        common = ["--model", "model", "--data", "rows.jsonl", "--steps", str(STEPS), "--seq-length", "256"]
        common += ["--eval-share", "0", "--plugin", "fp32", "--output", str(output)]
        command = [sys.executable, "-m", "hfx", "train", *common, *HFX[contender]]
    subprocess.run(command, cwd=folder, env=environ, check=True, capture_output=True)
    if contender == TRAINER:
        lines = json.loads((folder / "trainer.json").read_text())
    else:
        lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
        for line in lines:
            line["seconds"] = line["step_seconds"] + line["data_seconds"]
    kept = [(line["tokens"], line["seconds"]) for line in lines[WARM_UP:]]
    return kept, max(line["memory_bytes"] for line in lines) / 2**30, lines[-1]["loss"]


def trainer() -> None:
    """Train with transformers' Trainer in this process, and write what its steps took."""
    import resource
    import time

    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    rows = [json.loads(line)["text"] for line in Path("rows.jsonl").read_text().splitlines()]
    data = [{"input_ids": [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]} for text in rows]
    lines: list[dict[str, Any]] = []

    collate = transformers.DataCollatorForLanguageModeling(tokenizer, mlm=False)
    tokens: list[int] = []

    def counted(examples: list[dict[str, Any]]) -> Any:
        tokens.append(sum(len(example["input_ids"]) for example in examples))
        return collate(examples)

    class Timed(transformers.Trainer):  # type: ignore[misc]
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            self.last_loss = float(loss)
            return loss

    class Lines(transformers.TrainerCallback):  # type: ignore[misc]
        before = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            now = time.perf_counter()
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
            lines.append({"seconds": now - Lines.before, "memory_bytes": peak, "loss": run.last_loss})
            Lines.before = now

    options = transformers.TrainingArguments(
        "trainer", max_steps=STEPS, per_device_train_batch_size=16, learning_rate=3e-4, report_to=[], use_cpu=True,
        save_strategy="no", logging_strategy="no", lr_scheduler_type="cosine", disable_tqdm=True,
    )  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)
    run = Timed(model=model, args=options, train_dataset=data, data_collator=counted, callbacks=[Lines()])
    run.train()
    for line, count in zip(lines, tokens, strict=False):
        line["tokens"] = count
    Path("trainer.json").write_text(json.dumps(lines))


if __name__ == "__main__":
    if sys.argv[1:] == ["--trainer"]:
        trainer()
    else:
        main()
