"""Cutting and tokenizing against `datasets.map(batched=True, num_proc=2)`: the same file, tokenizer and parts.

    python tests/benchmarks/bench_tokenize.py [--megabytes 40]

Alternating, three times each; prints megabytes a second, their ratio, and the peak memory of a small and of a large
input: with the pages of mapped files, which the system takes back when it needs them, and without.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

SEQ_LENGTH = 256
PEAK = """
import threading, time
def kib(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name))
own = [0]
def watch():
    while True:
        own[0] = max(own[0], kib("RssAnon"))
        time.sleep(0.02)
threading.Thread(target=watch, daemon=True).start()
"""
MINE = (
    PEAK
    + """
import sys
from pathlib import Path
from hfx import World
from hfx.resolve import resolve
from hfx.run import Run
if __name__ == "__main__":
    data, tokenizer, num_proc = sys.argv[1:]
    fields = {"data": data, "model": tokenizer, "eval_share": 0, "seq_length": 256, "num_proc": int(num_proc)}
    run = Run(resolve(mapping=fields), Path("run"), World())
    rows = run.rows("train"), run.task
    began = time.perf_counter()
    tokens = int(run.table("train").column("length").sum())
    print("TOLD", time.perf_counter() - began, tokens, kib("VmHWM"), own[0])
"""
)
THEIRS = (
    PEAK
    + """
import sys
import datasets, transformers
data, folder, num_proc = sys.argv[1:]
datasets.disable_progress_bars()
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
rows = datasets.load_dataset("json", data_files=data, split="train")
def cut(batch):
    found = tokenizer(batch["text"], add_special_tokens=False)["input_ids"]
    ids = [one + [tokenizer.eos_token_id] for one in found]
    return {"input_ids": [part[at : at + 256] for part in ids for at in range(0, len(part), 256)]}
if __name__ == "__main__":
    began = time.perf_counter()
    table = rows.map(cut, batched=True, num_proc=int(num_proc), remove_columns=rows.column_names)
    seconds = time.perf_counter() - began
    print("TOLD", seconds, sum(map(len, table["input_ids"])), kib("VmHWM"), own[0])
"""
)


def write(path: Path, megabytes: float) -> Path:
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlucmfwypvbgkjqxz", k=rng.randint(2, 9))) for _ in range(5_000)]
    with path.open("w") as file:
        while file.tell() < megabytes * 2**20:
            file.write(json.dumps({"text": " ".join(rng.choices(words, k=rng.randint(20, 400)))}) + "\n")
    return path


def tokenizer(data: Path, folder: Path) -> Path:
    """Train a tokenizer on the data and save it as a model's folder that holds nothing else."""
    import tokenizers
    import transformers

    trained = tokenizers.ByteLevelBPETokenizer()
    texts = (json.loads(line)["text"] for line in data.open())
    trained.train_from_iterator(
        (text for text, _ in zip(texts, range(2_000), strict=False)), 8_000, special_tokens=["<e>"]
    )
    transformers.PreTrainedTokenizerFast(tokenizer_object=trained._tokenizer, eos_token="<e>").save_pretrained(folder)
    config = transformers.LlamaConfig(vocab_size=8_000, hidden_size=32, num_hidden_layers=1, num_attention_heads=2)
    config.save_pretrained(folder)
    return folder


def measure(code: str, *arguments: Any) -> tuple[float, int, int, int]:
    """Return seconds, tokens and peak memory in KiB (with mapped files, without) of a process with an empty cache."""
    import subprocess

    with tempfile.TemporaryDirectory() as cache:
        script = Path(cache) / "arm.py"
        script.write_text(code)
        environment = os.environ | {"HFX_CACHE": cache, "HF_DATASETS_CACHE": cache, "HF_HUB_OFFLINE": "1"}
        done = subprocess.run(
            [sys.executable, str(script), *map(str, arguments)], env=environment, text=True, capture_output=True
        )
    if done.returncode:
        raise SystemExit(done.stderr)
    told = next(line for line in done.stdout.splitlines() if line.startswith("TOLD")).split()
    return float(told[1]), int(told[2]), int(told[3]), int(told[4])


def memory(run: tuple[float, int, int, int]) -> str:
    return f"{run[2] / 1024:,.0f} MiB, {run[3] / 1024:,.0f} without mapped files"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--megabytes", type=float, default=40.0)
    megabytes = parser.parse_args().megabytes
    with tempfile.TemporaryDirectory() as folder:
        data = write(Path(folder) / "rows.jsonl", megabytes)
        model = tokenizer(data, Path(folder) / "model")
        arms = {"hfx": (MINE, 1), "hfx, num_proc 2": (MINE, 2), "datasets.map, num_proc 2": (THEIRS, 2)}
        found: dict[str, list[tuple[float, int, int, int]]] = {name: [] for name in arms}
        for _ in range(3):
            for name, (code, num_proc) in arms.items():
                found[name].append(measure(code, data, model, num_proc))
        base = statistics.median(run[0] for run in found["datasets.map, num_proc 2"])
        for name, runs in found.items():
            seconds = statistics.median(run[0] for run in runs)
            speed = f"{megabytes / seconds:6.1f} MB/s  {base / seconds:5.2f}"
            print(f"{name:26} {speed}  {runs[0][1]:,} tokens  {memory(runs[0])}", flush=True)
        small = measure(MINE, write(Path(folder) / "small.jsonl", megabytes / 10), model, 1)
        print(f"memory of a tenth of the input: {memory(small)}")


if __name__ == "__main__":
    main()
