"""What packing wastes and costs, beside best fit alone and the least that can be, and real tokens a second of packed
and padded runs, taking turns.

    python tests/benchmarks/bench_packing.py [--text FILE]

With `--text`, a plain text file, the waste of its paragraphs in sequences of 256 is measured, too.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

from hfx import Run, World
from hfx.resolve import resolve
from hfx_plugins.batching.packing import Packing
from hfx_plugins.batching.packing_fit_impl import best_fit
from hfx_plugins.batching.packing_impl import PackingBatcher

WINDOW = 10_000
SIGMAS = (0.4, 0.5, 0.6, 0.8, 1.0, 1.2)
STEPS = 30
SIZES = {"scratch": {"hidden_size": 256, "layers": 4}, "bpe": {"vocab_size": 1000}, "fp32": {}, "no:progress": {}}


def packed(lengths: Any, seq_length: int, pack: Callable[[Any], int]) -> tuple[float, float]:
    """Return the share of padding in whole windows of these lengths, and the seconds that a million examples take."""
    began = time.perf_counter()
    sequences = sum(pack(lengths[at : at + WINDOW]) for at in range(0, len(lengths), WINDOW))
    seconds = time.perf_counter() - began
    return 1 - float(lengths.sum()) / (sequences * seq_length), seconds * 1e6 / len(lengths)


def padded(lengths: Any, batch: int = 8) -> float:
    """Return the share of padding in batches of a random order."""
    rows = lengths[: len(lengths) // batch * batch].reshape(-1, batch)
    return 1 - float(rows.sum() / (rows.max(axis=1) * batch).sum())


def line(name: str, lengths: Any, seq_length: int) -> None:
    ways: list[Callable[[Any], int]] = [
        lambda window: -(-int(window.sum()) // seq_length),
        lambda window: max(best_fit((-np.sort(-window)).tolist(), seq_length)) + 1,
        lambda window: len(PackingBatcher({}, seq_length, WINDOW).groups(np.arange(len(window)), window)),
    ]
    (least, _), (best, fast), (share, slow) = (packed(lengths, seq_length, way) for way in ways)
    print(f"{name:44} {least:8.3%} {best:8.3%} {share:8.3%} {padded(lengths):8.1%} {fast:9.1f} s {slow:9.1f} s")


def paragraphs(text: str, folder: Path) -> Any:
    fields = {"data": text, "seq_length": 256, "eval_share": 0, "plugins": SIZES}
    run = Run(resolve(mapping=fields), folder / "paragraphs", World())
    return np.random.default_rng(0).permutation(run.table("train").column("length")).astype(np.int64)


def opened(name: str, data: Path, batch: int, micro: int, *plugins: Packing) -> Run:
    fields = {"data": str(data), "seq_length": 256, "batch_size": batch, "micro_batch_size": micro, "steps": 1000}
    run = Run(resolve(mapping={**fields, "plugins": SIZES}, plugin_objects=plugins), data.parent / name, World())
    run.output.mkdir()
    run.build()
    return run


def seconds_and_tokens(run: Run, batches: Any) -> tuple[float, int]:
    began, before = time.perf_counter(), run.tokens_total
    run.train_step(next(batches))
    return time.perf_counter() - began, run.tokens_total - before


def speed(folder: Path) -> None:
    """Train both runs in turns, about as many tokens a step, and print their real tokens a second."""
    rng = random.Random(0)
    words = ["".join(rng.choices("etaoinshrdlu", k=rng.randint(1, 9))) for _ in range(600)]
    rows = [" ".join(rng.choices(words, k=max(1, int(rng.lognormvariate(2.7, 1.0))))) for _ in range(8_000)]
    data = folder / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    runs = {"padded": opened("pad", data, 24, 12), "packed": opened("pack", data, 4, 4, Packing())}
    lengths = runs["packed"].table("train").column("length")
    print(
        f"\nrows of {np.median(lengths):.0f} tokens in the median, {lengths.mean():.0f} on average, in 256; "
        f"{padded(lengths.astype(np.int64), 12):.0%} of a padded batch of 12 is padding"
    )
    batches = {name: run.batches() for name, run in runs.items()}
    found: dict[str, list[tuple[float, int]]] = {name: [] for name in runs}
    for step in range(STEPS + 3):
        for name, run in runs.items():
            figures = seconds_and_tokens(run, batches[name])
            if step >= 3:
                found[name].append(figures)
    rates = {name: sum(t for _, t in pairs) / sum(s for s, _ in pairs) for name, pairs in found.items()}
    for name, pairs in found.items():
        middle = statistics.median(tokens / seconds for seconds, tokens in pairs)
        each = sum(tokens for _, tokens in pairs) / len(pairs)
        print(f"{name:20} {rates[name]:8,.0f} tokens/s, median of a step {middle:8,.0f}, {each:8,.0f} tokens a step")
    slow, fast = rates.values()
    print(f"packed against padded: {fast / slow:.2f} times")


def main(text: str | None = None) -> None:
    """Print everything."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["HFX_CACHE"] = str(folder / "cache")
        print(
            f"{'lengths':44} {'least':>8} {'best fit':>8} {'packed':>8} {'padded':>8} "
            f"{'best fit/M':>11} {'packed/M':>11}"
        )
        for sigma in SIGMAS:
            drawn = np.random.default_rng(0).lognormal(np.log(400), sigma, 3 * WINDOW)
            line(f"lognormal, median 400, sigma {sigma}, in 2048", np.clip(drawn, 1, 2048).astype(np.int64), 2048)
        drawn = np.random.default_rng(0).lognormal(np.log(4000), 1.2, 3 * WINDOW)
        line("lognormal, median 4000, sigma 1.2, in 131072", np.clip(drawn, 1, 131_072).astype(np.int64), 131_072)
        if text:
            line(f"paragraphs of {Path(text).name}, in 256", paragraphs(text, folder), 256)
        speed(folder)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", help="a plain text file, whose paragraphs are measured, too")
    main(parser.parse_args().text)
