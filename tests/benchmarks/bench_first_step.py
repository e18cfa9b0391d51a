"""Seconds from the start of a process to its first step, on prepared data: anew, and resumed late in an epoch.

    python tests/benchmarks/bench_first_step.py [--rounds 3]

hfx beside transformers' Trainer, whose data are tokenized and on disk. Resumed at step 112 of the 125 of an epoch.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from bench_train import run, write

LATE = 112
CONTENDERS = ("Trainer, padding", "hfx, padding")


def main() -> None:
    """Print the medians and their ratio."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="hfx-bench-") as name:
        folder = Path(name)
        write(folder, "rows", 2_000, 1, hidden_size=64, intermediate_size=128, layers=2)
        prepare(folder)
        show("a new run", seconds(folder, rounds))
        spec = json.loads((folder / "spec.json").read_text())
        change(folder, spec | {"steps": LATE, "save": True, "output": "late", "hfx": {"resume": "never"}})
        for contender in CONTENDERS:
            run(folder, contender)
        resumed = {"output": "late", "resume": f"trainer/checkpoint-{LATE}", "hfx": {"resume": "auto"}}
        found: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
        for number in range(rounds):
            # One more step each time: what was resumed once has a checkpoint behind it.
            change(folder, spec | resumed | {"steps": LATE + 1 + number})
            for contender, taken in seconds(folder, 1).items():
                found[contender] += taken
        show(f"resumed at step {LATE}", found)


def change(folder: Path, spec: dict[str, Any]) -> None:
    """Write what the contenders have to know."""
    (folder / "spec.json").write_text(json.dumps(spec))


def prepare(folder: Path) -> None:
    """Tokenize the rows for the Trainer; hfx does so in its first run."""
    import datasets
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder / "model")
    texts = [json.loads(line)["text"] for line in (folder / "rows.jsonl").read_text().splitlines()]
    ids = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id][:256] for text in texts]
    datasets.Dataset.from_list([{"input_ids": one, "labels": one} for one in ids]).save_to_disk(folder / "prepared")
    run(folder, "hfx, padding")


def seconds(folder: Path, rounds: int) -> dict[str, list[float]]:
    """Return what each contender took to its first step, by turns."""
    found: dict[str, list[float]] = {contender: [] for contender in CONTENDERS}
    for _ in range(rounds):
        for contender in CONTENDERS:
            began = time.time()
            found[contender].append(run(folder, contender)["steps"][0]["at"] - began)
    return found


def show(what: str, found: dict[str, list[float]]) -> None:
    """Print the medians, against the first."""
    first = median(found[CONTENDERS[0]])
    for contender, taken in found.items():
        print(f"{what:22} {contender:18} {median(taken):5.1f} s  {median(taken) / first:.2f}", flush=True)


if __name__ == "__main__":
    main()
