"""What saving a checkpoint costs beside writing and syncing the same bytes with safetensors alone, and what is left of
it for the training where it is saved beside that.

    python tests/benchmarks/bench_checkpoint.py [--mebibytes 512] [--rounds 7] [--folder FOLDER]

All take turns in one process; the figures are medians. Saving hashes, writes a manifest, and syncs files and folder.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).parents[1]))

from hfx import World
from hfx.checkpoint import folder_of, open_checkpoint
from hfx.saving import save
from hfx.testing.bench import FIELDS, Bench
from hfx_plugins.samplers.sequential import Sequential
from saved import Alone, state


def tensors(mebibytes: int, each: int) -> dict[str, torch.Tensor]:
    """Return tensors of some size in all, `each` bytes a tensor."""
    count = mebibytes * 2**20 // each
    return {f"model.{number}.weight": torch.randn(each // 4) for number in range(count)}


def alone(folder: Path, content: dict[str, torch.Tensor], _: int) -> None:
    file = folder / "alone.safetensors"
    save_file(content, file)
    with file.open("rb") as handle:
        os.fsync(handle.fileno())


def checkpoint(folder: Path, content: dict[str, torch.Tensor], step: int) -> None:
    save(folder_of(folder, step), content, state(step), World(), Alone())


def seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(mebibytes: int, rounds: int, each: int, where: Path | None) -> None:
    content = tensors(mebibytes, each)
    ways = {"alone": alone, "checkpoint": checkpoint}
    taken: dict[str, list[float]] = {"alone": [], "checkpoint": [], "open": []}
    held = peak()
    for step in range(rounds + 1):
        for way in sorted(ways, reverse=bool(step % 2)):
            with tempfile.TemporaryDirectory(dir=where) as name:
                took = seconds(partial(ways[way], Path(name), content, step))
                if step:  # the first round warms up
                    taken[way].append(took)
                if step and way == "checkpoint":
                    taken["open"].append(seconds(partial(open_checkpoint, folder_of(Path(name), step), 1)))
    rates = {way: mebibytes / statistics.median(times) for way, times in taken.items()}
    print(
        f"{mebibytes} MiB in {len(content)} tensors: safetensors and fsync {rates['alone']:.0f} MiB/s, a checkpoint "
        f"{rates['checkpoint']:.0f} MiB/s ({rates['checkpoint'] / rates['alone']:.2f} of that); opened and checked at "
        f"{rates['open']:.0f} MiB/s; memory grew by {peak() - held:.0f} MiB"
    )


def measure_beside(rounds: int, where: Path | None) -> None:
    """Compare, in a real run, the call that saves beside the training with copying the same tensors, and the steps."""
    model = {"scratch": {"hidden_size": 384, "layers": 4}, "bpe": {"vocab_size": 300}}
    fields = {"async_save": True, "steps": 10_000, "batch_size": 1, "plugins": model}
    bench = Bench.of(Sequential, {}, fields, None)
    bench.__dict__["fields"] = {**FIELDS, "data": str(bench.data), **fields}
    taken: dict[str, list[float]] = {name: [] for name in ("call", "copy", "quiet", "beside", "write")}
    first: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=where) as name, bench.run(output=Path(name)) as run:
        run.build()
        batches = run.batches()
        step = lambda: run.train_step(next(batches))  # noqa: E731
        for _ in range(3):
            step()
        held = list(run.backend.state()[0].values())
        size = sum(tensor.nbytes for tensor in held) / 2**20
        copies: list[torch.Tensor] = []

        def copy() -> None:
            if not copies:
                copies.extend(torch.empty_like(tensor) for tensor in held)
            for own, tensor in zip(copies, held, strict=True):
                own.copy_(tensor)

        for number in range(rounds + 1):
            ways = [("call", run.save), ("copy", copy)]
            for way, act in ways if number % 2 else ways[::-1]:
                took = seconds(act)
                if number:
                    taken[way].append(took)
                else:
                    first[way] = took
            began = time.perf_counter()
            while not run.save_ended:
                took = seconds(step)
                if number and not run.save_ended:
                    taken["beside"].append(took)
            taken["write"].append(time.perf_counter() - began)
            run.finish_saving()
            taken["quiet"] += [seconds(step) for _ in range(3)]
    median = {way: statistics.median(times) for way, times in taken.items() if times}
    print(
        f"beside the training, {size:.0f} MiB in {len(held)} tensors: the call takes {median['call'] * 1000:.0f} ms, "
        f"{median['call'] / median['copy']:.2f} of copying them (the first {first['call'] / first['copy']:.2f}); "
        f"it is written in {median['write']:.2f} s, in which a step takes {median['beside'] / median['quiet']:.2f} of "
        f"the {median['quiet'] * 1000:.0f} ms that it takes alone"
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--mebibytes", type=int, default=512, help="of state")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--folder", type=Path, help="where to write; a temporary one where not given")
    asked = parser.parse_args()
    for each in (16 * 2**20, 2**20, 16 * 2**10):
        measure(asked.mebibytes, asked.rounds, each, asked.folder)
    measure_beside(asked.rounds, asked.folder)


if __name__ == "__main__":
    main()
