"""What is asked of a task: pure examples, and a loss that is a sum whatever surrounds a row."""

from __future__ import annotations

import copy
import pickle

import numpy as np
import torch

from hfx.protocols import Drop, Example, Task
from hfx.run import Run
from hfx.testing.bench import Bench, as_json
from hfx.testing.examples import IGNORED, attentive, close, collate, drawn, loss_at, loss_of, shortest_and_longest


def _examples(task: Task, run: Run) -> list[list[Example] | Drop]:
    return [task.examples(row) for row in run.rows("train")]


def examples_are_pure(bench: Bench) -> None:
    """The same row gives the same examples, and stays as it was."""
    with bench.run() as run:
        for row in run.rows("train"):
            before = copy.deepcopy(row.values)
            first = run.task.examples(row)
            assert row.values == before, f"`examples` changes the row at {row.place}"
            assert _same(first, run.task.examples(row)), f"`examples` returns others for the row at {row.place} again"


def _same(first: list[Example] | Drop, second: list[Example] | Drop) -> bool:
    return repr(first) == repr(second)


def the_task_can_be_sent_to_other_processes(bench: Bench) -> None:
    """With `num_proc`, rows are prepared in processes that are spawned."""
    with bench.run() as run:
        sent: Task = pickle.loads(pickle.dumps(run.task))  # noqa: S301 - our own bytes
        assert _same_all(_examples(run.task, run), _examples(sent, run)), "the task cuts rows otherwise after pickling"


def _same_all(first: list[list[Example] | Drop], second: list[list[Example] | Drop]) -> bool:
    return all(_same(one, other) for one, other in zip(first, second, strict=True))


def examples_fit_a_sequence_and_fill_the_columns(bench: Bench) -> None:
    """Nothing later cuts an example."""
    with bench.run() as run:
        found = [
            example for examples in _examples(run.task, run) if not isinstance(examples, Drop) for example in examples
        ]
        assert found, "every row is dropped"
        for example in found:
            assert 0 < example.length <= run.config.seq_length, (
                f"an example has {example.length} positions; seq_length is {run.config.seq_length}"
            )
            missing = example.values.keys() ^ run.task.columns.keys()
            assert not missing, f"`columns` and the values of examples differ in {sorted(missing)}"
            if "input_ids" in example.values:
                ids = len(example.values["input_ids"])
                assert ids == example.length, f"an example has {ids} ids and says that its length is {example.length}"


def units_are_what_the_loss_sums_over(bench: Bench) -> None:
    """The step's loss is divided by them before anything is computed."""
    with bench.run() as run:
        units = run.table("train").column("units").copy()
        count = getattr(run.task, "drawn_units", None)
        for index in range(len(units)):
            if count:
                units[index] = count(drawn(run, index))
            batch = collate(run, [[index]])
            expected = int((batch["labels"] != IGNORED).sum()) if run.task.unit == "token" and "labels" in batch else 1
            fits = units[index] > 0 if run.task.unit == "token" and "labels" not in batch else units[index] == expected
            assert fits, f"an example has {units[index]} units and {expected} of what the loss is a sum over"


def the_loss_of_a_batch_is_the_sum_over_its_rows(bench: Bench) -> None:
    """Then neither the size of a batch nor the number of ranks changes what is learned."""
    with bench.run() as run, attentive(run):
        short, long = shortest_and_longest(run)
        one, other = loss_at(run, short), loss_at(run, long)
        assert close(loss_at(run, short, long), one + other), "the loss of two rows is not the sum of their losses"
        assert close(loss_at(run, long, long), 2 * other), "a row taken twice has not twice its loss; is it a mean?"
        assert float(one) != 0, "the loss is zero"


def padding_does_not_change_the_loss(bench: Bench) -> None:
    """A row is padded to the longest of its batch, which has nothing to do with it."""
    with bench.run() as run, attentive(run):
        for index in shortest_and_longest(run):
            batch = collate(run, [[index]])
            padded = _padded(run, batch)
            assert close(loss_of(run, batch), loss_of(run, padded)), (
                "the loss of a row is another one with more padding"
            )


def _padded(run: Run, batch: dict[str, torch.Tensor], more: int = 5) -> dict[str, torch.Tensor]:
    pads = {name: column.pad for name, column in run.task.collated().items()} | {"attention_mask": 0}
    return {
        name: torch.nn.functional.pad(tensor, (0, more), value=pads[name])
        if tensor.ndim > 1 and name in pads
        else tensor
        for name, tensor in batch.items()
    }


def the_loss_can_be_learned(bench: Bench) -> None:
    """Its gradient reaches the model and is finite."""
    with bench.run() as run:
        run.model.to(run.device)
        loss = run.task.loss(run.model, collate(run, [[0]]))
        assert loss.requires_grad, "the loss carries no gradient"
        loss.backward()  # type: ignore[no-untyped-call]
        gradients = [p.grad for p in run.model.parameters() if p.grad is not None]
        assert any(bool(gradient.abs().sum() > 0) for gradient in gradients), "no parameter has a gradient"
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients), "a gradient is not finite"


def draws_depend_on_their_generator_alone(bench: Bench) -> None:
    """What is random is keyed by the position of the example, so that a resumed run draws the same."""
    with bench.run() as run:
        for index in range(len(run.table("train"))):
            first = drawn(run, index)
            np.random.seed(index)
            torch.manual_seed(index)
            again = drawn(run, index)
            assert first.keys() == run.task.collated().keys(), "`collated` and what `draw` returns differ in columns"
            for name, value in first.items():
                assert np.array_equal(value, again[name]), f"'{name}' of an example is another one when drawn again"


def metrics_add_up(bench: Bench) -> None:
    """Each rank sees some of the rows; their states are added."""
    with bench.run() as run, attentive(run):
        indices = range(min(8, len(run.table("train"))))
        whole, parts = run.task.metrics(), [run.task.metrics() for _ in range(2)]
        assert whole.state.dtype == torch.float64, f"the state of metrics is {whole.state.dtype}; it has to be float64"
        assert not bool(whole.state.any()), "metrics do not start at zero"
        loss = loss_of(run, collate(run, [[index] for index in indices]), whole)
        for offset, part in enumerate(parts):
            loss_of(run, collate(run, [[index] for index in indices[offset::2]]), part)
        total = parts[0].state.cpu() + parts[1].state.cpu()
        assert close(whole.state.cpu(), total), "metrics of two halves do not add up to those of all rows"
        assert close(loss, loss_at(run, *indices)), "the loss is another one when metrics are asked for"
        figures = whole.compute()
        parts[0].state = total
        assert all(isinstance(value, float) and np.isfinite(value) for value in figures.values()), f"figures: {figures}"
        again = parts[0].compute()  # the same sums in another order, so but for their last bits
        assert again.keys() == figures.keys(), "`compute` follows from something else than `state`"
        odd = [name for name in figures if not np.isclose(again[name], figures[name], rtol=1e-6, atol=1e-9)]
        assert not odd, f"`compute` follows from something else than `state`: {odd[0] if odd else ''}"


def facts_and_fingerprint_are_json(bench: Bench) -> None:
    """They are stored, and name what was prepared."""
    with bench.run() as run:
        rows, task = run.rows("train"), run.hooks.task(run=run)
        facts = task.fit(rows)
        assert as_json(facts, "what `fit` returns") == facts, "what `fit` returns is another value after JSON"
        assert task.fit(rows) == facts, "`fit` returns other facts for the same rows"
        first, again = task.fitted(facts).fingerprint(), run.hooks.task(run=run).fitted(facts).fingerprint()
        assert as_json(first, "the fingerprint") == as_json(again, "the fingerprint"), "the fingerprint is not stable"
        assert _same_all(_examples(task.fitted(facts), run), _examples(run.task, run)), "the same facts cut otherwise"


TASK = (
    examples_are_pure,
    the_task_can_be_sent_to_other_processes,
    examples_fit_a_sequence_and_fill_the_columns,
    units_are_what_the_loss_sums_over,
    the_loss_of_a_batch_is_the_sum_over_its_rows,
    padding_does_not_change_the_loss,
    the_loss_can_be_learned,
    draws_depend_on_their_generator_alone,
    metrics_add_up,
    facts_and_fingerprint_are_json,
)
