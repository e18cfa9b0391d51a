"""What saving a checkpoint costs beside writing and syncing the same bytes with safetensors alone.

    python tests/benchmarks/bench_checkpoint.py [MEBIBYTES] [ROUNDS] [FOLDER]

Both take turns in one process; the figures are medians. Saving hashes, writes a manifest, and syncs files and folder.
"""

from __future__ import annotations

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


def main() -> None:
    mebibytes, rounds = (int(word) for word in (sys.argv[1:] + ["512", "7"][len(sys.argv) - 1 :])[:2])
    where = Path(sys.argv[3]) if len(sys.argv) > 3 else None
    for each in (16 * 2**20, 2**20, 16 * 2**10):
        measure(mebibytes, rounds, each, where)


if __name__ == "__main__":
    main()
