"""Groups over gloo that count: every kind of collective, the wait for a late rank, and nothing changed by it."""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from hfx.communication import Meter
from hfx.metered import register

pytestmark = pytest.mark.faults
LATE = 0.15


def grouped(rank: int, size: int, path: str, name: str) -> None:
    torch.set_num_threads(1)
    meter = Meter()
    kind = register(meter)
    dist.init_process_group(
        kind, init_method=f"file://{path}/met", rank=rank, world_size=size, timeout=timedelta(minutes=2)
    )
    try:
        globals()[name](rank, size, meter, Path(path))
    finally:
        dist.destroy_process_group()


def spawned(what: Any, size: int, path: Path) -> list[Any]:
    """Call a function in some processes that form a group, and return what each said."""
    mp.start_processes(grouped, (size, str(path), what.__name__), nprocs=size, start_method="spawn")  # type: ignore[no-untyped-call]
    return [torch.load(path / f"said-{rank}") for rank in range(size)]


def said(rank: int, path: Path, what: Any) -> None:
    torch.save(what, path / f"said-{rank}")


def several(rank: int, size: int, meter: Meter, path: Path) -> None:
    told: dict[str, tuple[int, float, float]] = {}

    def late(name: str, call: Any) -> None:
        for _ in range(2):  # the second time, when everything is loaded
            dist.all_reduce(torch.zeros(1))
            meter.start()
            time.sleep(LATE * rank)
            call()
            traffic = meter.read()
        told[name] = (traffic.bytes, traffic.seconds, traffic.waited)

    def under_way() -> None:
        work = dist.all_reduce(torch.ones(100), async_op=True)
        assert work is not None
        time.sleep(2 * LATE)
        work.wait()

    model = torch.nn.Linear(100, 10)
    wrapped = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)

    def reducer() -> None:
        loss = wrapped(torch.ones(1, 100)).sum()
        with meter.backward(loss):
            loss.backward()

    from torch.distributed import _functional_collectives as functional

    world = dist.group.WORLD
    late("all_reduce", lambda: dist.all_reduce(torch.ones(100)))
    late("all_gather", lambda: dist.all_gather_single(torch.ones(100 * size), torch.ones(100)))
    late("reduce_scatter", lambda: dist.reduce_scatter_single(torch.ones(100), torch.ones(100 * size)))
    late("broadcast", lambda: dist.broadcast(torch.ones(100), src=1))
    late("functional", lambda: functional.all_reduce(torch.ones(100), "sum", world) + 1)
    late("reducer", reducer)
    late("under way", under_way)
    said(rank, path, told)


def test_every_kind_of_collective_is_counted_and_the_wait_for_a_late_rank_seen(tmp_path: Path) -> None:
    first, second = spawned(several, 2, tmp_path)
    sizes = {"all_reduce": 400, "all_gather": 400, "reduce_scatter": 800, "functional": 400, "under way": 400}
    sizes["reducer"] = 4 * 1010 + 2 * 4  # the gradients, and for each parameter whether it was used
    for name, size in sizes.items():
        assert first[name][0] == second[name][0] == size
    assert (first["broadcast"][0], second["broadcast"][0]) == (0, 400)
    for name in ("all_reduce", "all_gather", "reduce_scatter", "broadcast", "functional", "reducer"):
        _, seconds, waited = first[name]
        assert seconds == pytest.approx(LATE, rel=0.5)
        assert waited == pytest.approx(LATE, rel=0.5)
        assert second[name][2] < LATE / 2  # who comes last does not wait
    # Called when the other slept, done when the other woke up, and waited for later.
    assert first["under way"][1] == pytest.approx(LATE, rel=0.5)
    assert first["under way"][2] < LATE / 2


def layouts(rank: int, size: int, meter: Meter, path: Path) -> None:
    generator = torch.Generator().manual_seed(rank)
    differ, once = 0, 0
    for _ in range(300):
        total = torch.randn((), dtype=torch.float64, generator=generator)
        bare = dist.all_reduce(plain := torch.stack([total, torch.ones((), dtype=torch.float64)])) or plain
        rows = torch.cat([torch.stack([total, total.new_ones(()), total.new_zeros(())]), torch.zeros(size).double()])
        dist.all_reduce(rows)
        differ += int(bare[0] != rows[0])
        at_end = torch.cat([torch.zeros(size).double(), total[None]])
        dist.all_reduce(at_end)
        once += int(bare[0] != at_end[-1])
    said(rank, path, (differ, once))


def test_a_loss_in_front_keeps_its_bits_whatever_is_added_up_behind_it(tmp_path: Path) -> None:
    told = spawned(layouts, 3, tmp_path)
    assert [differ for differ, _ in told] == [0, 0, 0]
    assert all(once > 0 for _, once in told)  # elsewhere it does not: the order in which gloo adds depends on the place


def cost(rank: int, size: int, meter: Meter, path: Path) -> None:
    bare = dist.new_group(backend="gloo")
    tensor, taken = torch.zeros(1), {"metered": [0.0], "bare": [0.0]}
    for _ in range(7):
        for name, group in (("metered", dist.group.WORLD), ("bare", bare)):
            meter.start()
            began = time.process_time()
            for _ in range(200):
                dist.all_reduce(tensor, group=group)
            taken[name].append((time.process_time() - began) / 200)
    said(rank, path, {name: min(each[1:]) for name, each in taken.items()})


@pytest.mark.slow
def test_counting_a_collective_takes_less_than_a_tenth_of_a_millisecond(tmp_path: Path) -> None:
    for told in spawned(cost, 2, tmp_path):
        assert told["metered"] - told["bare"] < 1e-4
