"""Resuming and changing the number of ranks, tried on the order of samples: for sources, samplers and batchers.

assert_resumable("weighted", options={"column": "weight"}, rows=[...])
assert_elastic(MySampler)
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Any, NamedTuple

from hfx.plugin import Plugin
from hfx.protocols import World

if TYPE_CHECKING:
    from hfx.order import GlobalBatch, Position
    from hfx.run import Run
    from hfx.testing.bench import Bench

STEPS = 24
"""Global batches that the two assertions look at."""
_KIT_STEPS = 12
"""The same for the checks of the kit: an epoch of its forty rows, and into the next one."""
WORLDS = range(1, 9)
_RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


class _Step(NamedTuple):
    """What a step trains on, and the position behind it."""

    rows: str
    after: Position


def assert_resumable(
    plugin: str | type[Plugin],
    *,
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    steps: int = STEPS,
) -> None:
    """Restore a run at every step, in a run of its own, and compare all that follows with the undisturbed run.

    The arguments are those of `plugin_checks`; `steps` global batches are looked at, over epochs where they are short.

    Raises:
        AssertionError: some step is another one after resuming.
    """
    from hfx.testing.bench import Bench

    resumes_at_every_step(Bench.of(plugin, options or {}, config or {}, rows), steps)


def assert_elastic(
    plugin: str | type[Plugin],
    *,
    options: Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    rows: Sequence[Mapping[str, Any]] | None = None,
    steps: int = STEPS,
) -> None:
    """Compute the global batches on every rank of 1 to 8, changing the number at every step, and compare.

    Raises:
        AssertionError: a rank has another order, or the ranks' slices are not the batch.
    """
    from hfx.testing.bench import Bench

    is_the_same_on_any_number_of_ranks(Bench.of(plugin, options or {}, config or {}, rows), steps)


def resumes_at_every_step(bench: Bench, steps: int = _KIT_STEPS) -> None:
    """A position alone is enough to go on: restored at every step, all that follows is the same."""
    with bench.run(steps=steps) as run:
        whole = _from(run, run.position, steps)
    for done, step in enumerate(whole[:-1], start=1):
        with bench.run(steps=steps) as run:
            tail = _from(run, step.after, steps - done)
        assert tail == whole[done:], f"resumed at step {done}, the run goes on with other rows than before"


def is_the_same_on_any_number_of_ranks(bench: Bench, steps: int = _KIT_STEPS) -> None:
    """Ranks come and go: each computes the same batches from the same position, and takes a slice of them."""
    with bench.run(steps=steps) as run:
        whole, start = _from(run, run.position, steps), run.position
    for done, expected in enumerate(whole):
        size = WORLDS[done % len(WORLDS)]
        rank = done % size
        with bench.run(steps=steps) as run, as_rank(run, World(rank, size, rank)):
            batch = next(run.order.batches(start))
        assert batch.digest() == expected.rows, f"rank {rank} of {size} trains step {done + 1} on other rows"
        _check_slices(batch, size)
        start = expected.after


def _from(run: Run, position: Position, steps: int) -> list[_Step]:
    return [_Step(batch.digest(), batch.next) for batch in islice(run.order.batches(position), steps)]


def _check_slices(batch: GlobalBatch, size: int) -> None:
    shared = [sequence for rank in range(size) for sequence in batch.share(rank, size)]
    assert [*map(id, shared)] == [*map(id, batch.sequences)], f"the slices of {size} ranks are not the global batch"


@contextmanager
def as_rank(run: Run, world: World) -> Iterator[None]:
    """Make everything a plugin can ask say that this process is that rank."""
    own, before = run.world, {name: os.environ.get(name) for name in _RANK}
    _ = run.backend  # there is nobody to form a group with, so it stays that of one process
    run.world = world
    os.environ.update(zip(_RANK, map(str, (world.rank, world.size, world.local_rank)), strict=True))
    try:
        yield
    finally:
        run.world = own
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


ORDER = (resumes_at_every_step, is_the_same_on_any_number_of_ranks)
