"""What a script asks of the run behind `hfx.bridge`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfx.bridge import Prepared
from hfx.errors import ConfigError
from hfx.implementations import implementations

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from torch.utils.data import IterableDataset, Sampler

    from hfx.manager import ActivePlugin
    from hfx.run import Run


@dataclass(frozen=True)
class ScriptTask:
    """What wrappers of models read of a task, where no data say which."""

    unit: str
    model_class: str
    model_options: Mapping[str, Any]


@dataclass(frozen=True)
class Script:
    """A run without a loop, and what a script asks of it."""

    run: Run
    given_model: Any
    chosen: tuple[ActivePlugin, ...]
    has_data: bool

    def names(self, *hooks: str) -> list[str]:
        """Return the plugins that somebody named, and that provide or wrap one of these hooks."""
        return [a.name for a in self.chosen if set(hooks) & set(implementations(type(a.plugin)))]

    def _provides(self, hook: str) -> bool:
        """Return whether one of them provides the hook, and does not merely wrap it."""
        held = [implementations(type(active.plugin)).get(hook) for active in self.chosen]
        return any(implementation is not None and not implementation.wrapper for implementation in held)

    def refuse_others(self, *hooks: str) -> None:
        """Refuse a plugin that would do nothing here.

        Raises:
            ConfigError: names it.
        """
        there = self.names(*hooks)
        for active in self.chosen:
            if active.name not in there:
                wanted = " or ".join(f"'{hook}'" for hook in hooks)
                raise ConfigError(f"'{active.name}' has no part in this: it neither provides nor wraps {wanted}")

    def refuse_idle(self, prepares: bool, orders: bool) -> None:
        """Refuse a plugin that works on data where none are given.

        Raises:
            ConfigError: names it.
        """
        if not prepares and (idle := self.names("hfx_source", "hfx_task", "hfx_batcher", "hfx_tokenizer")):
            raise ConfigError(f"'{idle[0]}' prepares data, and none are given; give 'data' and 'tokenizer'")
        if not prepares and not orders and (idle := self.names("hfx_sampler")):
            raise ConfigError(f"'{idle[0]}' orders data, and none are given; give 'train_dataset', or 'data'")

    def model(self) -> Any:
        """Return the model, changed by the plugins that wrap it."""
        from hfx.bridge_loss import divide

        run = self.run
        if not self.names("hfx_model"):
            return self.given_model
        if not self.has_data:
            run._parts["task"] = _task_of(self.given_model)
        model = run.hooks.model(run=run)
        run._parts["model"] = model
        if getattr(model.loss_function, "sums", False):
            divide(model)
        return model

    def optimizer(self) -> Optimizer:
        """Return the optimizer over the model's parameters."""
        from hfx.params import ParamGroups

        run = self.run
        run._parts["optimizer"] = run.hooks.optimizer(params=ParamGroups(run._parts["model"]), run=run)
        made: Optimizer = run._parts["optimizer"]
        return made

    def schedule(self, optimizer: Optimizer) -> LRScheduler:
        """Return the schedule."""
        return self.run.hooks.schedule(optimizer=optimizer, run=self.run)

    def optimizers(self, args: Any, rows: Any) -> tuple[Optimizer, LRScheduler | None]:
        """Return optimizer and schedule for a Trainer; no schedule where none was named: the Trainer makes its own.

        Raises:
            ConfigError: nobody says how many steps there will be, or which optimizer is meant.
        """
        if not self._provides("hfx_optimizer"):
            named = self.names("hfx_optimizer", "hfx_schedule")
            raise ConfigError(
                f"'{named[0]}' needs an optimizer, and the Trainer makes its own later; name one with its options, "
                f"as ['adamw', '{named[0]}'], adamw={{'lr': {args.learning_rate if args is not None else 3e-4}}}"
            )
        if args is not None and (args.max_steps > 0 or rows is not None):
            self.run._parts["total_steps"] = steps_of(args, rows)
        elif self.names("hfx_schedule"):
            raise ConfigError(
                "a schedule needs the number of steps; give 'args', with 'max_steps' where no data are given"
            )
        optimizer = self.optimizer()
        return optimizer, self.schedule(optimizer) if self.names("hfx_schedule") else None

    def sampler(self, rows: Any) -> Sampler[int]:
        """Return the order of a data set."""
        from hfx.bridge_data import RowSampler, Table

        return RowSampler(self.run.hooks.sampler(table=Table(rows), run=self.run))

    def ordered(self, rows: Any, batch: int) -> IterableDataset[Any]:
        """Return a data set in the order of the sampler, which is read in batches of so many rows."""
        from hfx.bridge_data import InOrder

        return InOrder(rows, self.sampler(rows), batch)

    def prepared(self, batch: int = 1) -> Prepared:
        """Return the prepared data, which are read in batches of so many sequences.

        Raises:
            ConfigError: the source is a stream.
        """
        from hfx.bridge_data import Collate, Examples, Sequences

        run = self.run
        if run.streams:
            raise ConfigError(
                "a script needs data of a known length, and this source is a stream; train with `hfx.train`"
            )
        train = Sequences(run, batch)
        return Prepared(train, Examples(run.table("eval")) if run.has_eval else None, Collate(run))


def steps_of(args: Any, rows: Any) -> int:
    """Return the steps that a Trainer will make, counted as it counts them."""
    from torch.utils.data import IterableDataset

    if args.max_steps > 0:
        return int(args.max_steps)
    batches = len(rows) / (args.train_batch_size * max(1, args.world_size))
    # What is iterated over keeps its last batch, whatever is said.
    drops = args.dataloader_drop_last and not isinstance(rows, IterableDataset)
    batches = math.floor(batches) if drops else math.ceil(batches)
    updates: int = max(math.ceil(batches / args.gradient_accumulation_steps), 1)
    return math.ceil(float(args.num_train_epochs) * updates)


def _task_of(model: Any) -> ScriptTask:
    head = getattr(model, "get_output_embeddings", lambda: None)()
    name = type(model).__name__
    kind = "AutoModelFor" + (name.partition("For")[2] or "CausalLM") if "LMHead" not in name else "AutoModelForCausalLM"
    return ScriptTask("token" if head is not None else "row", kind, {})
