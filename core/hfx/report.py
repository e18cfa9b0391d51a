"""What a run says before its first step, and what it refuses to begin with: rows without labels, an unseen end."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.data_lines import data_summary, detected, no_example, quarantine_lines, rows_phrase, task_drops
from hfx.errors import DataError
from hfx.padding import padding_of, waste_line

if TYPE_CHECKING:
    from hfx.protocols import Table
    from hfx.run import Run

IGNORED = -100
MOST_UNLABELLED = 0.5
"""Share of rows without any label above which a run is refused."""
_LOOKED_AT = 1_000
_SHOWN_TOKENS = 60


def before_step_one(run: Run) -> list[str]:
    """Return the lines to print.

    Raises:
        DataError: too many rows carry no label.
    """
    table = run.table("train")
    labelled = refuse_unlabelled(run)
    labels = _Labels(run, table)
    return [
        *_data_lines(run, table),
        labelled,
        *labels.end_line(),
        *labels.sample_lines(),
        _model_line(run),
        _length_line(run, table),
        *_disk_lines(run),
        _plugin_line(run),
    ]


def refuse_unlabelled(run: Run) -> str:
    """Return the line on rows without labels.

    Raises:
        DataError: no row yields an example, or more than half of them have no label.
    """
    table = run.table("train")
    counts: dict[str, int] = getattr(table, "meta", {}).get("counts", {})
    units = table.column("units")
    without = int((units == 0).sum()) + counts.get("dropped.no_label_left", 0)
    total = len(units) + counts.get("dropped.no_label_left", 0)
    if not len(units) and set(task_drops(run.prepared("train"))) != {"no_label_left"}:
        raise DataError(no_example(run.prepared("train")))
    if without > MOST_UNLABELLED * total:
        raise DataError(
            f"{without} of {total} examples carry no label, so nothing would be learned from them; "
            "look at the task's options and at 'seq_length'"
        )
    warning = "; warning: nothing is learned from them" if without else ""
    return f"labels     {int(units.sum()):,} units of loss; {without} of {total} examples carry none{warning}"


def _data_lines(run: Run, table: Table) -> list[str]:
    rows = run.rows("train")
    lengths = table.column("length")
    padding = padding_of(run)
    return [
        f"data       {data_summary(run)}",
        f"rows       {rows_phrase(run)}",
        *quarantine_lines(rows.report, rows),
        *(f"detected   {found}" for found in detected(run.prepared("train").meta["marks"])),
        f"tokens     {int(lengths.sum()):,} in {len(table):,} examples; length median {int(np.median(lengths))}, "
        f"longest {int(lengths.max())}; {padding.share:.0%} of a batch's positions are padding",
        *waste_line(run, padding),
    ]


class _Labels:
    """The labels of the first examples, as the task draws them."""

    def __init__(self, run: Run, table: Table) -> None:
        self._run = run
        self._table = table
        rng = np.random.default_rng(run.config.seed)
        looked_at = range(min(len(table), _LOOKED_AT))
        self._examples: list[dict[str, Any]] = [run.task.draw(table.values(i), rng) for i in looked_at]

    def end_line(self) -> list[str]:
        """Return the line that says whether the end-of-sequence token is ever learned."""
        end = getattr(self._run.tokenizer, "eos_token_id", None)
        if self._run.task.unit != "token" or end is None:
            return []
        labelled = [example["labels"] for example in self._examples if "labels" in example]
        ends = sum(bool((np.asarray(labels) == end).any()) for labels in labelled)
        line = f"end token  {ends} of {len(labelled)} examples looked at teach the end token"
        return [line if ends else f"{line}; warning: the model will not learn to stop"]

    def sample_lines(self) -> list[str]:
        """Return one example decoded, what carries loss between marks."""
        if not self._examples or "input_ids" not in self._examples[0]:
            return []
        example = self._examples[0]
        ids = [int(i) for i in example["input_ids"][:_SHOWN_TOKENS]]
        labels = example.get("labels")
        marked = [True] * len(ids)
        if labels is not None and "Seq2Seq" in self._run.task.model_class:
            return [self._pair_line(ids, labels)]
        if labels is not None and np.ndim(labels) and self._run.task.unit == "token":
            marked = [int(label) != IGNORED for label in labels[: len(ids)]]
        pieces: list[str] = []
        start = 0
        for at in range(1, len(ids) + 1):
            if at == len(ids) or marked[at] != marked[start]:
                text = str(self._run.tokenizer.decode(ids[start:at]))
                pieces.append(f"[{text}]" if marked[start] else text)
                start = at
        shown = repr("".join(pieces))[1:-1]
        more = " ..." if len(example["input_ids"]) > _SHOWN_TOKENS else ""
        return [f"sample     {shown}{more}   (loss on what is in brackets)"]

    def _pair_line(self, ids: list[int], labels: Any) -> str:
        """Return what is read and what is learned, where these are two texts."""
        tokenizer = self._run.tokenizer
        learned = [int(label) for label in labels if label != IGNORED][:_SHOWN_TOKENS]
        shown = repr(f"{tokenizer.decode(ids)} -> [{tokenizer.decode(learned)}]")[1:-1]
        return f"sample     {shown}   (loss on what is in brackets)"


def _model_line(run: Run) -> str:
    parameters = list(run.model.parameters())
    count = sum(getattr(p, "ds_numel", p.numel()) for p in parameters)
    trained = sum(getattr(p, "ds_numel", p.numel()) for p in parameters if p.requires_grad)
    precision = run.precision
    return (
        f"model      {type(run.model).__name__}, {count:,} parameters, {trained:,} trained; "
        f"{str(precision.dtype).removeprefix('torch.')} on {run.device} ({precision.why})"
    )


def _length_line(run: Run, table: Table) -> str:
    config, world = run.config, run.world
    each = -(-config.batch_size // world.size)
    rounds = -(-each // config.micro_batch_size)
    epochs = "" if run.streams else f", {run.total_steps / max(1, run.order.steps_for_epochs(1)):.2f} epochs"
    return (
        f"steps      {run.total_steps:,} of {config.batch_size} sequences{epochs}; {world.size} process"
        f"{'es' if world.size > 1 else ''}, {rounds} forward pass{'es' if rounds > 1 else ''} of at most "
        f"{min(each, config.micro_batch_size)} a step"
    )


def _disk_lines(run: Run) -> list[str]:
    config, (weights, state) = run.config, _saved_bytes(run)
    existing = next(folder for folder in (run.output, *run.output.absolute().parents) if folder.exists())
    needed = state * (config.keep + 1) + weights  # a new checkpoint is written before the oldest goes
    free = shutil.disk_usage(existing).free
    warning = "; warning: that is not enough" if free < needed else ""
    lines = [
        f"disk       at most {needed / 2**20:,.0f} MiB for {config.keep} checkpoints, a new one and the model, "
        f"{free / 2**30:,.0f} GiB free{warning}"
    ]
    if config.async_save and config.save_every and config.save_every < run.total_steps:
        each = " each" if run.world.size > 1 else ""
        lines.append(
            f"saving     while the training goes on, from a copy in the host's memory: at most "
            f"{state / run.world.size / 2**20:,.0f} MiB{each}"
        )
    return lines


def _saved_bytes(run: Run) -> tuple[int, int]:
    """Return the bytes of the weights, and of all tensors of a checkpoint at most."""
    weights = sum(getattr(p, "ds_numel", p.numel()) * p.element_size() for p in run.model.parameters())
    trained = sum(getattr(p, "ds_numel", p.numel()) * 4 for p in run.model.parameters() if p.requires_grad)
    beside = sum(
        getattr(v, "nbytes", 0) for state in run.state.values() for v in state.values()
    )  # averages and the like
    return weights, weights + 2 * trained + beside


def _plugin_line(run: Run) -> str:
    names = ", ".join(f"{a.name} {a.version}" if a.registered else f"{a.name} (unregistered)" for a in run.active)
    policy = getattr(run.resolved.policy, "path", None)
    return f"plugins    {names}" + (f"; policy {policy}" if policy else "")
