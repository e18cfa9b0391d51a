"""The parts of a run, built once, lazily, in the order of the hooks: what most hooks read of `run`."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from hfx.errors import DataError, IncompatibleError, PluginError

if TYPE_CHECKING:
    import torch
    from torch import nn
    from torch._C._distributed_c10d import Store
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfx.blocks import OneBlock, StreamBlocks
    from hfx.manager import ActivePlugin
    from hfx.order import Order, Position
    from hfx.prepare import TablePlan
    from hfx.protocols import Backend, Batcher, Precision, Rows, Sampler, Table, Task, World
    from hfx.reading import Reading
    from hfx.resolve import Resolved
    from hfx.rows import RowSet
    from hfx.run import Run
    from hfx.table import ArrowTable

T = TypeVar("T")
PARTS = ("source", "rows", "tokenizer", "task", "table", "sampler", "batcher", "precision", "backend", "model",
         "optimizer", "schedule")  # fmt: skip
"""The order in which the parts of a run come into being; each may read only those before it."""

_HOOKS = {"rows": "hfx_source", "table": "hfx_task"}


def device_index(local_rank: int, visible: int) -> int:
    """Return which of the devices that a rank sees is its own: the one there is, where a scheduler shows it no other.

    Raises:
        IncompatibleError: there are more ranks on the machine than devices.
    """
    own = visible == 1 and os.environ.get("SLURM_LOCALID") == str(local_rank)
    if local_rank >= visible and not own:
        raise IncompatibleError(
            f"rank {local_rank} of this machine finds {visible} devices; start as many ranks as there are "
            f"('--nproc {visible}', or 'auto')"
        )
    return 0 if own else local_rank


class Parts:
    """Reading a part builds it; one read before its time is an error that names the hook."""

    def __init__(self, resolved: Resolved, output: Path, world: World) -> None:
        self.resolved = resolved
        self.config = resolved.config
        self.active: tuple[ActivePlugin, ...] = resolved.plugins
        self.hooks = resolved.manager
        self.output = output
        self.world = world
        self.checking = False
        self.warned: set[str] = set()
        """What the plugins' checks warned of: they are asked twice."""
        self.planning = False
        """True while `hfx plan` traces: a model needs its shapes, and nobody reads its weights."""
        self.left_out: set[str] = set()
        """Names of plugins that leave out, while `hfx plan` traces, what they would do in a run: they add theirs."""
        self._held_before_model = 0
        self._parts: dict[str, Any] = {}
        self._building: list[str] = []

    @property
    def _run(self) -> Run:
        return cast("Run", self)

    def _part(self, name: str, build: Callable[[], T], key: str = "") -> T:
        label = name + key
        if label not in self._parts:
            reader = self._building[-1] if self._building else None
            if self.checking or (reader and PARTS.index(reader) <= PARTS.index(name)):
                hook = _HOOKS.get(reader, f"hfx_{reader}") if reader else "hfx_check"
                raise PluginError(f"'run.{name}' was read inside {hook}, before it exists; read it in a later hook")
            self._building.append(name)
            try:
                self._parts[label] = build()
            finally:
                self._building.pop()
        return cast("T", self._parts[label])

    @cached_property
    def cache(self) -> Path:
        """The folder of prepared data."""
        from hfx.cache import cache_root

        return cache_root()

    @property
    def device(self) -> torch.device:
        """The device this rank computes on."""
        import torch

        if not torch.accelerator.is_available():
            return torch.device("cpu")
        index = device_index(self.world.local_rank, torch.accelerator.device_count())
        return torch.device(str(torch.accelerator.current_accelerator()), index)

    @cached_property
    def store(self) -> Store:
        """Where the ranks meet: a store of keys and values that all of them see; only in a run of several."""
        from hfx.distributed import store_of

        return store_of(self.world)

    def _source(self, split: str) -> Rows:
        return self._part("source", lambda: self.hooks.source(split=split, run=self._run), f"/{split}")

    @property
    def streams(self) -> bool:
        """True where the training data is a stream, prepared in blocks."""
        return not self._source("train").source.indexed

    def rows(self, split: str = "train") -> RowSet:
        """Return the rows of `train` or `eval`, after the steps; of a stream those of the first block."""
        return self._part("rows", lambda: self._split_rows(split), f"/{split}")

    def _split_rows(self, split: str) -> RowSet:
        from hfx.data_lines import refuse_empty

        found = self.cleaned(split)
        refuse_empty(self._run, split, found)
        if self.config.eval_data is not None:
            return found
        return found.split(self.config.eval_share)[split == "eval"]

    def cleaned(self, split: str) -> RowSet:
        """Return the rows that the steps leave, before any is held out; there may be none."""
        from hfx.stages import prepare_rows

        name = "eval" if split == "eval" and self.config.eval_data is not None else "train"
        if (label := f"cleaned/{name}") not in self._parts:
            rows = self._source(name)
            self._parts[label] = prepare_rows(rows, self.cache, self._reading(rows))
        return cast("RowSet", self._parts[label])

    def _reading(self, rows: Rows) -> Reading:
        from hfx.reading import Reading

        stop = rows.block if not rows.source.indexed else None
        return Reading(self.config.max_bad_rows, self.config.num_proc, 0, stop)

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer."""
        return self._part("tokenizer", lambda: self.hooks.tokenizer(run=self._run))

    @property
    def task(self) -> Task:
        """The task, knowing the facts of the training rows."""
        return self._part("task", self._fitted_task)

    def _fitted_task(self) -> Task:
        from hfx.prepare import fit_task

        task = self.hooks.task(run=self._run)
        return task.fitted(fit_task(self.rows("train"), task, self.cache))

    def table(self, split: str = "train") -> Table:
        """Return the prepared examples of a split; of a stream those of its first block."""
        return self.prepared(split)

    def prepared(self, split: str) -> ArrowTable:
        """Return the same table as what it is on disk."""
        from hfx.prepare import prepare_table

        return self._part("table", lambda: prepare_table(self.rows(split), self._table_plan(), self.cache), f"/{split}")

    def _table_plan(self) -> TablePlan:
        from hfx.prepare import TablePlan, carried_columns

        columns = carried_columns(active.plugin for active in self.active)
        return TablePlan(self.task, self.tokenizer, self.config.seq_length, columns, self.config.num_proc)

    @property
    def sampler(self) -> Sampler:
        """The sampler of the first block."""
        return self._part("sampler", lambda: self.hooks.sampler(table=self.table("train"), run=self._run))

    @property
    def batcher(self) -> Batcher:
        """The batcher."""
        return self._part("batcher", lambda: self.hooks.batcher(run=self._run))

    @property
    def precision(self) -> Precision:
        """The precision."""
        return self._part("precision", lambda: self.hooks.precision(run=self._run))

    @property
    def backend(self) -> Backend:
        """The backend."""
        return self._part("backend", self._build_backend)

    def _build_backend(self) -> Backend:
        if self.planning and self.world.size > 1:
            # A plan is made by one process: what the others take off its hands is added afterwards.
            from hfx.backend import TorchBackend

            return TorchBackend(self._run)
        return self.hooks.backend(run=self._run)

    @property
    def model(self) -> PreTrainedModel:
        """The model, unwrapped."""
        return self._part("model", self._build_model)

    def _build_model(self) -> PreTrainedModel:
        from hfx.allocator import keep_freed_memory
        from hfx.loop import held, seed_everything
        from hfx.token_loss import install_loss

        if self.device.type == "cpu" and not self.planning:
            keep_freed_memory()
        self._held_before_model = held(self.device)
        seed_everything(self.config.seed, 1)  # what a model initialises depends on the seed, whoever wrote its plugin
        with self.backend.building():
            model = self.hooks.model(run=self._run)
        # A wrapper such as a chunked loss has installed its own; anything else computes a mean.
        if not getattr(model.loss_function, "sums", False):
            install_loss(model)
        return cast("PreTrainedModel", self.precision.convert(model))

    def held(self) -> int:
        """Return the bytes of memory that model, optimizer and activations hold: on a GPU the most so far."""
        from hfx.loop import held

        return held(self.device) - self._held_before_model

    @property
    def module(self) -> nn.Module:
        """Model and task as the backend calls them: `module(batch)` is the sum of the loss."""
        _ = self.optimizer
        return cast("nn.Module", self._parts["module"])

    @property
    def optimizer(self) -> Optimizer:
        """The optimizer."""
        return self._part("optimizer", self._build_optimizer)

    def _build_optimizer(self) -> Optimizer:
        from hfx.loop import TaskModule
        from hfx.params import ParamGroups

        sharded = self.backend.shard(TaskModule(self.model, self.task))
        params = ParamGroups(self.model)
        optimizer = self.hooks.optimizer(params=params, run=self._run)
        module = self.backend.prepare(sharded, optimizer)
        module.train()
        self._parts["module"] = module
        return optimizer

    @property
    def schedule(self) -> LRScheduler:
        """The schedule of the learning rate."""
        return self._part("schedule", lambda: self.hooks.schedule(optimizer=self.optimizer, run=self._run))

    # ── order ────────────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def order(self) -> Order:
        """The order of samples."""
        return self._part("batcher", self._build_order, "/order")

    def _build_order(self) -> Order:
        from hfx.order import Order

        self.table("train")
        batcher = self.hooks.batcher(run=self._run) if "batcher" not in self._parts else self._parts["batcher"]
        self._parts["batcher"] = batcher
        make = lambda table: self.hooks.sampler(table=table, run=self._run)  # noqa: E731
        return Order(self.blocks("train"), make, batcher, self.config.batch_size, self.config.seed)

    def blocks(self, split: str) -> OneBlock | StreamBlocks:
        """Return the tables of a split, block by block: one, or those of a stream."""
        from hfx.blocks import blocks_of

        if (label := f"blocks/{split}") not in self._parts:
            self._parts[label] = blocks_of(self._run, split)
        return cast("OneBlock | StreamBlocks", self._parts[label])

    @property
    def position(self) -> Position:
        """Where the data stands: the next sequence to train on."""
        from hfx.order import Position

        return cast("Position", self._parts.setdefault("position", Position()))

    @property
    def total_steps(self) -> int:
        """Steps of the whole run; computed once from the length that the config gives."""
        if "total_steps" not in self._parts:
            self._parts["total_steps"] = self._count_steps()
        return cast("int", self._parts["total_steps"])

    def _count_steps(self) -> int:
        from hfx.config import DEFAULT_EPOCHS

        config = self.config
        if config.steps is not None:
            return config.steps
        if self.streams:
            raise DataError("the data is a stream, whose end nobody knows; give the run's length with '--steps'")
        if config.tokens is not None:
            tokens = config.tokens
            return self._counted_once(["tokens", tokens], lambda: self.order.steps_for_tokens(tokens))
        epochs = config.epochs or DEFAULT_EPOCHS
        return self._counted_once(["epochs", str(epochs)], lambda: self.order.steps_for_epochs(epochs))

    def _counted_once(self, length: list[Any], count: Callable[[], int]) -> int:
        """Return a number of steps from the cache: packing groups every window to know its sequences."""
        from hfx.cache import cached, content_key, reading

        versions = [[a.name, a.version, a.plugin.version] for a in self.active]
        key = content_key(self.plan_sha256(), length, versions)

        def build(path: Path) -> None:
            (path / "steps.json").write_text(json.dumps(count()))

        folder = cached(self.cache / "steps" / key, build)
        with reading(folder):
            return int(json.loads((folder / "steps.json").read_text()))

    def plan_sha256(self) -> str:
        """Return the hash of what decides the order of samples."""
        from hfx.order import plan_sha256

        chosen = {role: self.resolved.roles[role].plugin for role in ("sampler", "batcher")}
        by_name = {active.name: active for active in self.active}
        parts: dict[str, list[Any]] = {n: [of, by_name[of].plugin.options()] for n, of in chosen.items()}
        if content := getattr(self.sampler, "fingerprint", str)():
            parts["sampler"].append(content)
        # A position in a stream names a block, and what is in one is decided as what is in a table.
        table = self.table("train").fingerprint
        data = [self._source("train").source.fingerprint(), table] if self.streams else table
        return plan_sha256(seed=self.config.seed, batch_size=self.config.batch_size, data=data, **parts)

    def build(self) -> None:
        """Build every part now: prepare the data, then load the model, so that what is wrong shows before training."""
        self.table("train")
        _ = self.total_steps
        if self.config.eval_data is not None or len(self.rows("eval")):
            self.table("eval")
        _ = self.schedule
