"""Tasks that are wrong."""

from __future__ import annotations

from typing import Any

from hfx import ColumnType, Drop, Example, hookimpl
from hfx_plugins.tasks.causal_lm import CausalLM

IGNORED = -100


def _spoilt(task: Any, **methods: Any) -> Any:
    """Return the task as one of a class that differs in some methods and can be pickled."""
    name = f"_{next(iter(methods))}_{len(_KINDS)}"
    kind = type(name, (type(task),), {**methods, "__module__": __name__, "__qualname__": name})
    globals()[name] = kind
    _KINDS.append(kind)
    task.__class__ = kind
    return task


_KINDS: list[type] = []


class MeanTask(CausalLM):
    """Its loss is a mean."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        whole = type(task).loss

        def loss(self: Any, model: Any, batch: Any, metrics: Any = None) -> Any:
            return whole(self, model, batch, metrics) / (batch["labels"] != IGNORED).sum()

        return _spoilt(task, loss=loss)


class PaddingTask(CausalLM):
    """Learns the padding."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        def collated(self: Any) -> Any:
            return {"input_ids": ColumnType("list<int32>", 0), "labels": ColumnType("list<int32>", 0)}

        return _spoilt(super().hfx_task(run), collated=collated)


class CountingTask(CausalLM):
    """Counts positions where the loss is a sum over labels."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        whole = type(task).examples

        def examples(self: Any, row: Any) -> Any:
            found = whole(self, row)
            return found if isinstance(found, Drop) else [Example(e.values, e.length, e.length) for e in found]

        return _spoilt(task, examples=examples)


class LongTask(CausalLM):
    """Makes examples longer than a sequence."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        task.seq_length += 8
        return task


class ChangingTask(CausalLM):
    """Changes the rows that it reads."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        whole = type(task).examples

        def examples(self: Any, row: Any) -> Any:
            found = whole(self, row)
            row.values["text"] += " "
            return found

        return _spoilt(task, examples=examples)


class MaskingTask(CausalLM):
    """Masks labels by the random state of the process."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        whole = type(task).draw

        def draw(self: Any, values: Any, rng: Any) -> Any:
            import numpy as np

            found = whole(self, values, rng)
            return {**found, "input_ids": np.where(np.random.random(len(found["labels"])) < 0.3, 5, found["input_ids"])}

        return _spoilt(task, draw=draw)


class AveragingTask(CausalLM):
    """Keeps a mean where ranks add up sums."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        whole = type(task).loss

        def loss(self: Any, model: Any, batch: Any, metrics: Any = None) -> Any:
            found = whole(self, model, batch, metrics)
            if metrics is not None:
                metrics.state = metrics.state / metrics.state.sum()
            return found

        return _spoilt(task, loss=loss)


class PrivateTask(CausalLM):
    """Cannot be sent to another process."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        task.cut = lambda text: text
        return task


class ObjectTask(CausalLM):
    """Learns facts that are no JSON."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        def fingerprint(self: Any) -> Any:
            return {"tokenizer": self.tokenizer}

        return _spoilt(super().hfx_task(run), fingerprint=fingerprint)


class DetachedTask(CausalLM):
    """Returns a loss that nothing can be learned from."""

    @hookimpl
    def hfx_task(self, run: Any) -> Any:
        task = super().hfx_task(run)
        whole = type(task).loss

        def loss(self: Any, model: Any, batch: Any, metrics: Any = None) -> Any:
            return whole(self, model, batch, metrics).detach()

        return _spoilt(task, loss=loss)


_SUM = "the loss of a batch is the sum over its rows"
WRONG = {
    MeanTask: {_SUM},
    DetachedTask: {"the loss can be learned"},
    PaddingTask: {_SUM, "padding does not change the loss"},
    CountingTask: {"units are what the loss sums over"},
    LongTask: {"examples fit a sequence and fill the columns"},
    ChangingTask: {"examples are pure"},
    MaskingTask: {_SUM, "draws depend on their generator alone", "metrics add up"},
    AveragingTask: {"metrics add up"},
    PrivateTask: {"the task can be sent to other processes"},
    ObjectTask: {"facts and fingerprint are json"},
}
