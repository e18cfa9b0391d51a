"""What samplers cost and how exact they are: `python tests/benchmarks/bench_samplers.py`.

Memory is the peak of what numpy and Python allocate (`tracemalloc`) while a sampler is made and asked; the resident
memory of a process of its own stands beside it where the plan is a virtual one.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from hfx_plugins.samplers.balanced import Balanced
from hfx_plugins.samplers.balanced_impl import balance
from hfx_plugins.samplers.curriculum import Curriculum
from hfx_plugins.samplers.cycles_impl import Groups
from hfx_plugins.samplers.interleave_impl import Interleaving
from hfx_plugins.samplers.length_grouped import LengthGrouped
from hfx_plugins.samplers.mixture_impl import Mixed
from hfx_plugins.samplers.shuffle import Shuffled
from hfx_plugins.samplers.weighted import Weighted
from sampled import Columns, Sampling, furthest

ROWS, FAR, BATCH = 10**12, 10**9, 256
VIRTUAL: dict[str, Callable[[], Any]] = {
    "shuffle": lambda: Shuffled(ROWS, 0),
    "mixture": lambda: Mixed(Interleaving([7, 2, 1]), Groups(np.array([ROWS // 2, ROWS // 2 - 1000, 1000])), ROWS, 0),
    "mixture, 20 changes": lambda: Mixed(_changing(), Groups(np.array([ROWS // 2, ROWS // 2 - 1000, 1000])), ROWS, 0),
    "balanced": lambda: balance(Groups(np.array([ROWS // 2, 10**6])), ["a", "b"], None, "over", 0),
}


def _changing() -> Interleaving:
    return Interleaving([7, 2, 1], {10**7 * step: [7, 2 + step, 1] for step in range(1, 21)})


def virtual(name: str) -> None:
    """Print, as JSON, what one batch far out costs in this process, the first one of it."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started = time.perf_counter()
    VIRTUAL[name]().rows(0, FAR, FAR + BATCH)
    seconds = time.perf_counter() - started
    resident = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    tracemalloc.start()
    VIRTUAL[name]().rows(0, FAR, FAR + BATCH)
    print(json.dumps({"ms": seconds * 1e3, "mb": tracemalloc.get_traced_memory()[1] / 1e6, "resident": resident}))


def positions() -> None:
    print(f"a batch of {BATCH} at position 10^9 of a plan of 10^12 rows, sampler made anew, first call of a process")
    for name in VIRTUAL:
        done = subprocess.run([sys.executable, __file__, "--virtual", name], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        print(
            f"  {name:20} {found['ms']:7.1f} ms, {found['mb']:5.2f} MB allocated, resident +{found['resident']:.1f} MB"
        )


def timed(make: Callable[[], Any]) -> tuple[Any, float]:
    started = time.perf_counter()
    return make(), time.perf_counter() - started


def real_tables(cache: Path) -> None:
    count = 2**25
    rng = np.random.default_rng(0)
    table = Columns(row=[0])
    weights, lengths = rng.random(count), np.maximum(1, rng.lognormal(6, 0.8, count)).astype(np.int32)
    labels = (rng.random(count) < 0.001).astype(np.int8)
    table._columns, table._length = {"row": lengths, "w": weights, "length": lengths, "label": labels}, count
    run = Sampling(cache, batch_size=BATCH)
    plugins = {
        "weighted": Weighted(column="w"),
        "weighted, without replacement": Weighted(column="w", replacement=False),
        "balanced": Balanced(),
        "curriculum": Curriculum(),
        "curriculum, 100 buckets": Curriculum(buckets=100),
        "length_grouped": LengthGrouped(),
    }
    shuffled, base = timed(lambda: Shuffled(count, 0).rows(0, 10**7, 10**7 + 2**20))
    print(f"a table of 2^25 rows; a million rows of shuffle take {base * 1e3:.0f} ms")
    for name, plugin in plugins.items():
        made, making = timed(lambda plugin=plugin: plugin.hfx_sampler(table, run))
        _, first = timed(lambda made=made: made.rows(0, 10**7, 10**7 + 1))
        _, many = timed(lambda made=made: made.rows(0, 10**7, 10**7 + len(shuffled)))
        _, again = timed(lambda plugin=plugin: plugin.hfx_sampler(table, run).rows(0, 10**7, 10**7 + 1))
        print(
            f"  {name:30} made {making:5.1f} s, first row of an epoch {first:5.1f} s, a million rows "
            f"{many / base:4.1f} times shuffle; anew from the cache {again:4.1f} s"
        )


def _furthest_of_changes(rng: np.random.Generator, count: int) -> float:
    starts = np.r_[0, np.sort(rng.choice(np.arange(1, 4_000), 20, replace=False))]
    shares = [np.maximum(1, rng.dirichlet(np.full(count, 0.5)) * 65_536).astype(int) for _ in starts]
    changes = {int(start): share.tolist() for start, share in zip(starts[1:], shares[1:], strict=True)}
    groups, _ = Interleaving(shares[0].tolist(), changes).at(np.arange(4_000))
    by_phase = np.array([share / share.sum() for share in shares])
    return furthest(groups, by_phase[np.searchsorted(starts, np.arange(4_000), side="right") - 1])


def exactness() -> None:
    rng = np.random.default_rng(0)
    worst = {}
    for count in (2, 3, 8, 30):
        shares = [np.maximum(1, rng.dirichlet(np.full(count, 0.5)) * 65_536).astype(int) for _ in range(50)]
        worst[count] = max(furthest(Interleaving(s.tolist()).at(np.arange(20_000))[0], s / s.sum()) for s in shares)
    shown = ", ".join(f"{count} sources {most:.2f}" for count, most in worst.items())
    print(f"mixture, furthest from a share at any of 20,000 prefixes of 50 random mixtures, in samples: {shown}")
    changed = {count: max(_furthest_of_changes(rng, count) for _ in range(100)) for count in (2, 3, 8, 30)}
    shown = ", ".join(f"{count} sources {most:.2f}" for count, most in changed.items())
    print(f"the same with twenty changes within 4,000 prefixes, of 100 random mixtures: {shown}")
    order = balance(Groups(np.array([50_000, 50])), ["common", "rare"], None, "over", 0)
    rare = order.rows(0, 0, 50_000) >= 50_000
    print(f"balanced, share of the rare class of 1:1000 after 50,000 draws: {rare.mean():.5f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--virtual", choices=VIRTUAL, help=argparse.SUPPRESS)
    if (asked := parser.parse_args()).virtual:
        virtual(asked.virtual)
    else:
        positions()
        exactness()
        with tempfile.TemporaryDirectory() as folder:
            real_tables(Path(folder))
