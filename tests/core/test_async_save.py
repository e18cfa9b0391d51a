"""A checkpoint that is written while the training goes on holds the state of its step, and nobody is told too early."""

from __future__ import annotations

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hfx import Plugin, Run, hookimpl
from hfx.checkpoint import newest, open_checkpoint, steps_on_disk
from hfx.differences import differences
from hfx.errors import StorageError
from hfx.hostcopy import HostCopy
from hfx.protocols import World
from hfx.report import before_step_one
from hfx.shards import content_of
from hfx.testing.bench import Bench
from hfx.testing.training import trained
from hfx_plugins.samplers.sequential import Sequential

OFTEN = {"save_every": 2, "keep": 9, "steps": 7}
SLOW = 20.0


class Drifts(Plugin):
    """Keeps tensors that change in place, and notes what it is told of checkpoints."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        own = run.state[self.name]
        own.setdefault("sum", torch.zeros(1000, dtype=torch.float64)).add_(run.step)
        own.setdefault("steps", []).append(run.step)

    @hookimpl
    def hfx_saved(self, run: Run, path: Path) -> None:
        on_main = threading.current_thread() is threading.main_thread()
        told = (path.name, run.step, path in steps_on_disk(run.output), on_main)
        run.local.setdefault(self.name, []).append(told)


class Disk:
    """A disk that keeps a save waiting at its first look at the free space."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()
        self.free: int | None = None

    def usage(self, real: Callable[[Any], Any], path: Any) -> Any:
        if threading.current_thread() is not threading.main_thread():
            self.reached.set()
            assert self.open.wait(SLOW), "nobody let the save go on"
        found = real(path)
        return found if self.free is None else found._replace(free=self.free)


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    made, real = Disk(), shutil.disk_usage
    monkeypatch.setattr(shutil, "disk_usage", lambda path: made.usage(real, path))
    return made


@pytest.fixture(scope="module")
def bench() -> Bench:
    return Bench.of(Sequential, {}, OFTEN, None)


def stepped(run: Run) -> Iterator[int]:
    """Train step by step, as the loop does, without saving; yields the number of each."""
    for batch in run.batches():
        run.train_step(batch)
        yield run.step


def content(path: Path) -> dict[str, Tensor]:
    found = open_checkpoint(path, 1)
    into = {name: torch.empty(found.shape(name), dtype=found.dtype(name)) for name in found.names()}
    found.read(into)
    return into


def values(path: Path) -> dict[str, Any]:
    state: dict[str, Any] = json.loads((path / "state.json").read_text())
    del state["run"]  # the only field that says how it was saved
    return state


def same(first: Path, second: Path) -> None:
    ours, theirs = content(first), content(second)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []
    assert values(first) == values(second)


def test_a_checkpoint_holds_its_step_to_the_bit_though_the_training_is_steps_ahead_when_it_is_written(
    bench: Bench, disk: Disk
) -> None:
    with bench.run(Drifts(), output=bench.fresh("at-once")) as run:
        trained(run)
        at_once = {path.name: path for path in steps_on_disk(run.output)}
    with bench.run(Drifts(), output=bench.fresh("beside"), async_save=True) as run:
        run.build()
        steps = stepped(run)
        next(steps), next(steps)
        path = run.save()
        assert disk.reached.wait(SLOW)
        next(steps), next(steps), next(steps)
        assert not path.exists()
        before = content_of(run.backend.state()[0], World())
        disk.open.set()
        run.finish_saving()
        after = content_of(run.backend.state()[0], World())
        same(at_once["step-00000002"], path)
        assert content(path)["state.drifts.sum"].tolist() == [3.0] * 1000
        assert values(path)["state"]["drifts"]["steps"] == [1, 2]
        assert [part.tensor.data_ptr() for part in before.parts] == [part.tensor.data_ptr() for part in after.parts]


def test_every_checkpoint_of_a_run_is_that_of_a_run_which_waits_and_so_is_its_end(bench: Bench) -> None:
    outputs = []
    for beside in (False, True):
        with bench.run(Drifts(), output=bench.fresh("run"), async_save=beside) as run:
            trained(run)
            told = run.local["drifts"]
            outputs.append(run.output)
        assert [name for name, *_ in told] == [f"step-{step:08d}" for step in (2, 4, 6, 7)]
        assert all(committed and on_main for *_, committed, on_main in told)
    first, second = (steps_on_disk(output) for output in outputs)
    assert [path.name for path in first] == [path.name for path in second]
    for one, other in zip(first, second, strict=True):
        same(one, other)


def test_listeners_are_told_between_two_steps_once_a_step_has_agreed_that_it_is_written(
    bench: Bench, disk: Disk
) -> None:
    with bench.run(Drifts(), async_save=True) as run:
        run.build()
        steps = stepped(run)
        next(steps)
        run.save()
        next(steps)
        assert "drifts" not in run.local
        disk.open.set()
        run._saver._thread.join(SLOW)  # type: ignore[union-attr]
        next(steps)
        assert "drifts" not in run.local
        next(steps)
        assert run.local["drifts"] == [("step-00000001", 3, True, True)]


def test_a_save_waits_for_the_one_before_it(bench: Bench, disk: Disk) -> None:
    with bench.run(Drifts(), async_save=True) as run:
        run.build()
        steps = stepped(run)
        next(steps)
        first = run.save()
        next(steps)
        threading.Timer(0.3, disk.open.set).start()
        run.save()
        assert first in steps_on_disk(run.output)
        assert [name for name, *_ in run.local["drifts"]] == ["step-00000001"]


@pytest.mark.parametrize("stopped", [False, True])
def test_the_last_checkpoint_is_there_when_the_save_returns(stopped: bool, bench: Bench) -> None:
    with bench.run(Drifts(), async_save=True, steps=2) as run:
        run.build()
        steps = stepped(run)
        if stopped:
            run.request_stop("SIGTERM")
        *_, last = steps
        assert last == (1 if stopped else 2)
        assert run.save() in steps_on_disk(run.output)
        assert [name for name, *_ in run.local["drifts"]] == [f"step-{last:08d}"]


def test_a_run_that_fails_does_not_lose_the_checkpoint_that_is_being_written(bench: Bench, disk: Disk) -> None:
    output = bench.fresh("failed")

    def failing() -> None:
        with bench.run(Drifts(), output=output, async_save=True) as run:
            run.build()
            next(stepped(run))
            run.save()
            threading.Timer(0.3, disk.open.set).start()
            raise ArithmeticError("the training is broken")

    with pytest.raises(ArithmeticError, match="broken"):
        failing()
    found = newest(output, 1)
    assert found is not None
    assert found.step == 1


def test_a_full_disk_is_told_between_two_later_steps_in_the_same_words(bench: Bench, disk: Disk) -> None:
    disk.open.set()
    output = bench.fresh("full")
    with bench.run(Drifts(), output=output, async_save=True) as run:
        run.build()
        steps = stepped(run)
        next(steps)
        run.save()
        run.finish_saving()
        next(steps)
        disk.free = 1000
        run.save()
        run._saver._thread.join(SLOW)  # type: ignore[union-attr]
        next(steps)
        with pytest.raises(StorageError, match=r"and 1,000 are free; free space, then .* from 'step-00000001'"):
            next(steps)
        assert [name for name, *_ in run.local["drifts"]] == ["step-00000001"]
    assert [path.name for path in (output / "checkpoints").iterdir()] == ["step-00000001"]


def test_what_only_this_rank_knows_of_is_raised_without_waiting_for_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: Any) -> Any:
        raise ArithmeticError("broken")

    with bench.run(Drifts(), async_save=True) as run:
        run.build()
        steps = stepped(run)
        next(steps)
        monkeypatch.setattr(shutil, "disk_usage", broken)
        run.save()
        run._saver._thread.join(SLOW)  # type: ignore[union-attr]
        with pytest.raises(ArithmeticError, match="broken"):
            run._saver.boundary(all_ended=False)


def test_a_run_saved_beside_the_training_goes_on_exactly_without_and_says_so(bench: Bench) -> None:
    output = bench.fresh("resumed")
    with bench.run(Drifts(), output=output, async_save=True) as run:
        run.build()
        next(stepped(run))
        run.save()
    with bench.run(Drifts(), output=output) as run:
        run.build()
        found = newest(output, 1)
        assert found is not None
        [only] = differences(run, found)
        assert (only.what, only.saved, only.now, only.effect) == ("async_save", "true", "false", "exact: the same bits")


# ── the copy ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def tensors() -> dict[str, Tensor]:
    whole = torch.arange(12.0).reshape(3, 4)
    return {
        "model.t": whole.t(),
        "model.row": whole[1],
        "model.same": torch.ones(1).expand(5),
        "model.none": torch.empty(0, 4),
        "model.bf16": torch.arange(3, dtype=torch.bfloat16),
        "model.seen": torch.tensor([True, False, True]),
        "optim.step": torch.tensor(7.0, dtype=torch.float64),
        "optim.parameter": torch.nn.Parameter(torch.randn(2, 2)),
    }


def test_a_copy_is_equal_keeps_its_place_and_does_not_follow_the_tensors() -> None:
    copy, given = HostCopy(), tensors()
    wanted = {name: tensor.detach().clone() for name, tensor in given.items()}
    parts = content_of(given, World()).parts
    copied = copy.of(parts)
    places = [part.tensor.data_ptr() for part in copied]
    assert not {part.tensor.data_ptr() for part in parts if part.tensor.numel()} & set(places)
    for name in ("model.t", "model.bf16", "optim.step"):
        given[name].zero_()
    assert all(torch.equal(part.tensor, wanted[part.name]) for part in copied)
    assert not any(part.tensor.requires_grad for part in copied)

    again = copy.of(parts)
    assert [part.tensor.data_ptr() for part in again] == places
    assert all(torch.equal(part.tensor, given[part.name]) for part in again)


def test_a_copy_takes_other_tensors_where_there_are_others() -> None:
    copy = HostCopy()
    copy.of(content_of(tensors(), World()).parts)
    more = tensors() | {"optim.new": torch.randn(1000)}
    assert all(torch.equal(part.tensor, more[part.name]) for part in copy.of(content_of(more, World()).parts))


@pytest.mark.parametrize("size", [1, 2, 5])
def test_whole_tensors_are_written_by_one_rank_each_and_shared_out_evenly(size: int) -> None:
    many = {f"model.{number}": torch.zeros(number % 7 * 1000) for number in range(100)}
    shares = [content_of(many, World(rank, size)).parts for rank in range(size)]
    assert sorted(part.name for share in shares for part in share) == sorted(many)
    sizes = [sum(part.tensor.nbytes for part in share) for share in shares]
    assert max(sizes) - min(sizes) <= 28_000


# ── what is said before the first step ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("fields", "said"), [({"async_save": True}, True), ({}, False), ({"async_save": True, "save_every": None}, False)]
)
def test_the_memory_of_the_copy_is_said_where_there_is_one(fields: dict[str, Any], said: bool, bench: Bench) -> None:
    with bench.run(**fields) as run:
        run.build()
        size = sum(p.numel() * 4 for p in run.model.parameters()) * 3 / 2**20
        lines = [line for line in before_step_one(run) if line.startswith("saving")]
    words = f"saving     while the training goes on, from a copy in the host's memory: at most {size:,.0f} MiB"
    assert lines == ([words] if said else [])


def test_the_disk_has_to_hold_one_checkpoint_more_than_are_kept(bench: Bench) -> None:
    with bench.run(keep=3) as run:
        run.build()
        weights = sum(p.numel() * 4 for p in run.model.parameters())
        line = next(line for line in before_step_one(run) if line.startswith("disk"))
    assert f"at most {(4 * 3 * weights + weights) / 2**20:,.0f} MiB for 3 checkpoints, a new one and the model" in line
