"""What each technique saves and costs, one added to the last, on the same rows: memory, tokens a second, loss.

    python tests/benchmarks/bench_ladder.py [--rounds 3] [--steps 8] [--json FILE] [--plot FILE]

A llama of 8 layers, 512 wide, vocabulary 50,000, from scratch, fp32, without clipping. A step is one pass over the same
32 rows (chat-like, prompts masked), so the losses have to be equal until the optimizer, or what is trained, is another.
Every row is a run in a process of its own; memory is what it held at most above the loaded model.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from bench_train import SEQ_LENGTH, WARM_UP, run, write

ROWS = 32
VOCABULARY = 50_000
PACKED = ("packing",)
CHUNKED = (*PACKED, "chunked_loss")
RECOMPUTED = (*CHUNKED, "gradient_checkpointing")
LADDER: dict[str, tuple[str, ...]] = {
    "padding, labelled positions only": (),
    "+ packing": PACKED,
    "+ chunked_loss": CHUNKED,
    "+ gradient_checkpointing": RECOMPUTED,
    "+ optimizer_in_backward": (*RECOMPUTED, "optimizer_in_backward"),
    "+ adafactor": (*RECOMPUTED, "optimizer_in_backward", "adafactor"),
    "+ lora": (*RECOMPUTED, "optimizer_in_backward", "lora"),
}
SAME = 5
"""Rows whose losses have to be equal: the first ones."""


def main() -> None:
    """Print the ladder, and keep it as JSON and as a plot."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hfx-bench-") as name:
        folder = Path(name)
        write(folder, "chat", VOCABULARY, given.steps, rows=ROWS, hidden_size=512, intermediate_size=1536, layers=8)
        spec = json.loads((folder / "spec.json").read_text())
        sequences = _sequences(folder)
        spec["batch"] = {name: ROWS if name in list(LADDER)[:1] else sequences for name in LADDER}
        spec["ladder"] = LADDER
        spec["hfx"] = {"max_grad_norm": None}
        (folder / "spec.json").write_text(json.dumps(spec))
        table = measure(folder, given.rounds)
    show(table, given.rounds)
    if given.json:
        given.json.write_text(json.dumps(table, indent=1) + "\n")
    if given.plot:
        plot(table, given.plot)


def _sequences(folder: Path) -> int:
    """Return into how many sequences the rows are packed."""
    from hfx.protocols import World
    from hfx.resolve import resolve
    from hfx.run import Run

    config = {
        "model": str(folder / "model"), "data": str(folder / "rows.jsonl"), "seq_length": SEQ_LENGTH, "eval_share": 0.0,
        "plugins": {"packing": {}, "causal_lm": {"prompt": "prompt"}},
    }  # fmt: skip
    return Run(resolve(mapping=config), folder / "counted", World()).order.bins_in_epoch(0)


def measure(folder: Path, rounds: int) -> dict[str, dict[str, Any]]:
    """Run every row of the ladder several times, and return the medians."""
    steps: dict[str, list[float]] = {name: [] for name in LADDER}
    peaks: dict[str, list[int]] = {name: [] for name in LADDER}
    losses: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name in LADDER:
            told = run(folder, name)
            steps[name] += [line["tokens"] / line["seconds"] for line in told["steps"][WARM_UP:]]
            peaks[name].append(told["peak_bytes"] - told["loaded_bytes"])
            losses[name] = [line["loss"] for line in told["steps"]]
    return {
        name: {"tokens_per_second": median(steps[name]), "peak_bytes": median(peaks[name]), "losses": losses[name]}
        for name in LADDER
    }


def show(table: dict[str, dict[str, Any]], rounds: int) -> None:
    """Print the ladder, and whether the losses that have to be equal are."""
    first = next(iter(table.values()))
    print(f"\n{rounds} rounds\n")
    print("| technique | tokens/s | GiB above the model | ratio | first and last loss |\n|---|---|---|---|---|")
    for name, found in table.items():
        losses = found["losses"]
        print(
            f"| {name} | {found['tokens_per_second']:,.0f} | {found['peak_bytes'] / 2**30:.2f} "
            f"| {found['peak_bytes'] / first['peak_bytes']:.2f} | {losses[0]:.5f}, {losses[-1]:.5f} |"
        )
    same = list(table.values())[:SAME]
    furthest = max(abs(a / b - 1) for found in same for a, b in zip(found["losses"], first["losses"], strict=True))
    print(f"\nlosses of the first {SAME} rows differ by at most {furthest:.1e} of them, over all steps")


def plot(table: dict[str, dict[str, Any]], path: Path) -> None:
    """Draw memory and speed of each row."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "hfx"
    from matplotlib import pyplot

    names = list(table)[::-1]
    figure, (memory, speed) = pyplot.subplots(1, 2, figsize=(9, 3), sharey=True, layout="constrained")
    memory.barh(names, [table[name]["peak_bytes"] / 2**30 for name in names], color="#4051b5")
    memory.set_xlabel("GiB above the loaded model")
    speed.barh(names, [table[name]["tokens_per_second"] for name in names], color="#4051b5")
    speed.set_xlabel("tokens/s")
    figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
