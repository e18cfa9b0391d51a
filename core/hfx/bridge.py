"""Plugins by name in a script of one's own: in a `transformers.Trainer`, or in a loop under accelerate.

    from hfx.bridge import trainer_arguments

    given = trainer_arguments(model, ["lion", "balanced"], args=args, train_dataset=rows, lion={"lr": 1e-4})
    Trainer(args=args, **given).train()

Names, options and the policy are those of a run, and so are the errors. What listens to hfx's own loop, or needs its
backends or checkpoints, is refused by name: the plugins `hf_trainer` and `callbacks` are the way round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfx.errors import ConfigError

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import Dataset, IterableDataset, Sampler

    from hfx.plugin import Plugin

    Plugins = str | Plugin | Sequence[str | Plugin]

__all__ = ["Prepared", "dataset", "optimizer", "sampler", "schedule", "trainer_arguments", "wrapped"]


@dataclass(frozen=True)
class Prepared:
    """Prepared data: cleaned, cut, tokenized, and cached as those of a run."""

    train: IterableDataset[Any]
    """The sequences of an epoch in the sampler's order; `set_epoch` chooses which."""
    eval: Dataset[Any] | None
    """The rows that are held out, or `eval_data`."""
    collate: Any
    """Makes a batch of sequences: `DataLoader(collate_fn=...)`, `Trainer(data_collator=...)`."""


def optimizer(model: Any, plugins: Plugins, *, steps: int | None = None, **options: Mapping[str, Any]) -> Optimizer:
    """Return the optimizer that the plugins provide, for the parameters of a model that are trained.

    Args:
        model: A model, on its device.
        plugins: An optimizer's name, or several: wrappers after it (`parameter_groups`).
        steps: How many steps there will be, for optimizers that ask.
        options: Options by plugin: `lion={"lr": 1e-4}`.

    Raises:
        ConfigError: a name or an option is wrong, the policy refuses it, or a plugin needs a run of hfx.
    """
    from hfx.bridge_run import open_run

    script = open_run(plugins, options, model=model, steps=steps)
    script.refuse_others("hfx_optimizer")
    return script.optimizer()


def schedule(optimizer: Optimizer, plugins: Plugins, *, steps: int, **options: Mapping[str, Any]) -> LRScheduler:
    """Return the schedule that a plugin provides, for so many steps of an optimizer; errors as of `optimizer`."""
    from hfx.bridge_run import open_run

    script = open_run(plugins, options, steps=steps)
    script.refuse_others("hfx_schedule")
    return script.schedule(optimizer)


def wrapped(model: Any, plugins: Plugins, **options: Mapping[str, Any]) -> Any:
    """Return the model, changed by plugins that wrap models: `chunked_loss`, `gradient_checkpointing`, `freeze`.

    Its `forward(labels=...)` returns the loss that it would return without: the mean over the labels, or their sum over
    `num_items_in_batch`. Errors as of `optimizer`.
    """
    from hfx.bridge_run import open_run

    script = open_run(plugins, options, model=model)
    script.refuse_others("hfx_model")
    return script.model()


def sampler(
    rows: Any, plugins: Plugins, *, seed: int = 0, batch_size: int = 32, **options: Mapping[str, Any]
) -> Sampler[int]:
    """Return the order of a data set as a torch sampler; `set_epoch` chooses the epoch. Errors as of `optimizer`.

    Args:
        rows: A `datasets.Dataset`, or a sequence of mappings; the columns that options name are read from it.
        plugins: A sampler's name: `balanced`, `weighted`, `length_grouped` (which reads `length` or `input_ids`).
        seed: Decides the order.
        batch_size: Sequences in a step, for samplers that ask.
        options: Options by plugin: `balanced={"column": "label"}`.
    """
    from hfx.bridge_run import open_run

    script = open_run(plugins, options, seed=seed, batch_size=batch_size)
    script.refuse_others("hfx_sampler")
    return script.sampler(rows)


def dataset(data: Any, tokenizer: Any, plugins: Plugins = (), *, eval_data: Any = None, **given: Any) -> Prepared:
    """Return data prepared as for a run: read, cleaned, cut and tokenized by the task, cached, in the sampler's order.

    Args:
        data: What a run takes: a path, a glob, a mapping of names to paths, or a `datasets.Dataset`.
        tokenizer: The tokenizer.
        plugins: Cleaning, a task, a sampler, a source; the defaults of a run beside them.
        eval_data: Rows to evaluate on; none: a share of the rows is held out.
        given: Fields of a run (`seq_length`, `seed`, `eval_share`, `num_proc` ...), and options by plugin.

    Workers of a `DataLoader` share an epoch, each with every so manieth sequence: batches are then others than without.

    Raises:
        ConfigError: as of `optimizer`; the source is a stream; or a field of a run would do nothing here.
        DataError: there is nothing to train on.
    """
    from hfx.bridge_run import open_run, split_fields

    fields, options = split_fields(given)
    script = open_run(plugins, options, tokenizer=tokenizer, data=data, eval_data=eval_data, **fields)
    script.refuse_others("hfx_source", "hfx_task", "hfx_sampler", "hfx_batcher")
    return script.prepared()


def trainer_arguments(
    model: Any,
    plugins: Plugins = (),
    *,
    args: Any = None,
    tokenizer: Any = None,
    data: Any = None,
    eval_data: Any = None,
    train_dataset: Any = None,
    **given: Any,
) -> dict[str, Any]:
    """Return keyword arguments for `Trainer(args=args, ...)` in which plugins take part.

    `model` is there always; `optimizers` where a plugin is an optimizer, wraps one, or is a schedule (which needs
    `args`, for the number of steps, and an optimizer beside it); `train_dataset` where a sampler orders the one given,
    and with `eval_dataset` and `data_collator` where `data` is prepared, as by `dataset`. Data are dealt to the workers
    of `args` so that batches are those of one process.

    Raises:
        ConfigError: as of `optimizer` and `dataset`; or a plugin has nothing to work on.
    """
    from hfx.bridge_run import open_run, split_fields

    if data is not None and train_dataset is not None:
        raise ConfigError("'data' is prepared by hfx, and 'train_dataset' is ready; give one of them")
    if data is not None and tokenizer is None:
        raise ConfigError("'data' is to be tokenized; give the 'tokenizer', too")
    fields, options = split_fields(given)
    if args is not None:
        fields.setdefault("seed", args.seed)
        fields.setdefault("batch_size", args.train_batch_size * args.world_size * args.gradient_accumulation_steps)
    batch = 1 if args is None else int(args.train_batch_size)
    script = open_run(plugins, options, model=model, tokenizer=tokenizer, data=data, eval_data=eval_data, **fields)
    script.refuse_idle(data is not None, train_dataset is not None)
    found: dict[str, Any] = {"model": script.model()}
    if data is not None:
        prepared = script.prepared(batch)
        found |= {"train_dataset": prepared.train, "data_collator": prepared.collate, "processing_class": tokenizer}
        found |= {"eval_dataset": prepared.eval} if prepared.eval is not None else {}
    elif train_dataset is not None:
        found["train_dataset"] = script.ordered(train_dataset, batch) if script.names("hfx_sampler") else train_dataset
    if script.names("hfx_optimizer", "hfx_schedule"):
        found["optimizers"] = script.optimizers(args, found.get("train_dataset"))
    return found
