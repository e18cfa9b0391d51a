"""The nouns of hfx: what hooks take and return. A plugin author reads this file and `hookspecs.py`.

Nothing here imports torch or numpy at run time; shapes are written as `(batch, seq)`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, runtime_checkable

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np
    import torch
    from numpy.typing import NDArray
    from torch import Tensor, nn

    Batch: TypeAlias = dict[str, Tensor]
    """What a batcher collates and a task's loss reads: tensors of `(batch, seq)` or `(batch,)`, by column."""
    Indices: TypeAlias = NDArray[np.int64]

Values: TypeAlias = dict[str, Any]
"""JSON values, or a row's columns, by name."""


# ── Rows ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row came from: its source's name, its file or URL, and its line or row number there (from 1)."""

    source: str
    file: str
    row: int

    def __str__(self) -> str:
        return f"{self.file}:{self.row}"


@dataclass(slots=True)
class Text:
    """One string of a row, writable: assigning `value` writes it back into the row."""

    container: Any
    key: Any

    @property
    def value(self) -> str:
        """The string."""
        return str(self.container[self.key])

    @value.setter
    def value(self, text: str) -> None:
        self.container[self.key] = text


@dataclass(slots=True)
class Row:
    """One row as it was read: its values by column, where it came from, and its number in the source."""

    values: Values
    place: Place
    number: int = -1
    """Counted from 0 when the row is read, bad rows included, so that dropping a row never renumbers another."""
    reasons: list[str] = field(default_factory=list)
    """Why steps changed the row; a step appends `name.reason`."""
    marks: dict[str, str] = field(default_factory=dict)
    """What steps found out about the row, such as its language: the data report counts kept rows by each of them.

    A task may add its own, under its name: in which columns it found what. They are told before the first step.
    """

    def texts(self, columns: Sequence[str] | None = None) -> list[Text]:
        """Return the string leaves of the row's columns (all, or those named), through lists and mappings."""
        found: list[Text] = []
        names = self.values.keys() if columns is None else columns
        for name in names:
            _leaves(self.values, name, found)
        return found


def _leaves(container: Any, key: Any, found: list[Text]) -> None:
    value = container[key]
    if isinstance(value, str):
        found.append(Text(container, key))
    elif isinstance(value, dict):
        for inner in value:
            _leaves(value, inner, found)
    elif isinstance(value, list):
        for index in range(len(value)):
            _leaves(value, index, found)


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read: it goes to the quarantine file and counts towards `max_bad_rows`."""

    place: Place
    reason: str


@dataclass(frozen=True, slots=True)
class Drop:
    """Returned instead of a row or its examples: the row is left out and counted under this reason."""

    reason: str


@runtime_checkable
class Source(Protocol):
    """Where rows come from. Reading twice yields the same rows in the same order.

    Two more methods are used where a source has them: `summary()`, one phrase for what is printed before step 1, and
    `pinned()`, the options of its plugin that fix what was read (the commit behind a branch), for `run.yaml`.
    """

    @property
    def indexed(self) -> bool:
        """True: finite, prepared as one block. False: a stream, prepared in blocks ahead of need."""

    def fingerprint(self) -> str:
        """Return a hash of what `read` yields; a stream hashes its address and revision."""

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        """Yield rows from the row with this number on; the core numbers them."""


@runtime_checkable
class Step(Protocol):
    """A change of rows that looks at one row at a time: a cleaning rule. A plugin is itself the step."""

    @property
    def version(self) -> int:
        """Raise it when the step does something else than before."""

    @property
    def name(self) -> str:
        """Name in caches and reports."""

    def options(self) -> Values:
        """Return what decides the step's outcome, as JSON values: part of the cache's key."""

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        """Return one outcome per row, in order; a changed row carries the reason in `reasons`."""


@runtime_checkable
class TableStep(Protocol):
    """A change of rows that looks at all of them: deduplication. It only drops."""

    @property
    def version(self) -> int:
        """Raise it when the step does something else than before."""

    @property
    def name(self) -> str:
        """Name in caches and reports."""

    def options(self) -> Values:
        """Return what decides the step's outcome, as JSON values: part of the cache's key."""

    def drops(self, rows: Iterable[Row]) -> Mapping[int, str]:
        """Return the numbers of the rows to drop, each with its reason."""


@runtime_checkable
class SketchedStep(TableStep, Protocol):
    """A whole-table step that looks at parts of the rows on their own: several processes or machines can share it.

    The core calls these two instead of `drops`; the outcome is the same for any number of parts.
    """

    def sketch(self, rows: Iterable[Row], folder: Path) -> None:
        """Write into the empty folder what deciding has to know of these rows."""

    def decide(self, folders: Sequence[Path]) -> Mapping[int, str]:
        """Return what `drops` would, from the sketches of all rows: each row is in one of them, in order."""


@runtime_checkable
class Executor(Protocol):
    """Machines that share the steps of a preparation; a plugin is itself the executor, and wraps the source with it."""

    @property
    def tasks(self) -> int:
        """Into how many parts the rows are cut."""

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        """Call `work(index)` for each index below `number`, anywhere, in any order; return when all are done.

        `work` can be pickled. It reads from the cache and writes into `folder`, so these have to be seen from
        everywhere; calling it again for what is done does nothing. Logs belong into the folder, too.

        Raises:
            HfxError: a part failed.
        """


class Drops(dict[int, str]):
    """What a whole-table step may return: the reasons by row number, and what it found out for the data report."""

    def __init__(self, reasons: Mapping[int, str] | None = None, facts: Values | None = None) -> None:
        super().__init__(reasons or {})
        self.facts = facts or {}
        """JSON values by name: `clusters`, `pairs_verified`."""


@dataclass(frozen=True)
class Rows:
    """A source and the chain of steps over it; lazy: the core runs it."""

    source: Source
    steps: tuple[Step | TableStep, ...] = ()
    block: int = 10_000
    """Rows read at a time where the source is a stream."""
    executor: Executor | None = None
    """Who works on the steps; None: `num_proc` processes of this machine."""

    def then(self, step: Step | TableStep) -> Rows:
        """Return the same rows with one more step at the end."""
        return replace(self, steps=(*self.steps, step))

    def on(self, executor: Executor) -> Rows:
        """Return the same rows, whose steps an executor works on."""
        return replace(self, executor=executor)


# ── Tasks and tables ─────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True, slots=True)
class ColumnType:
    """An Arrow type of a task's column (`list<int32>`, `int32`, `float32`) and the value that pads its lists."""

    type: str
    pad: int | float = 0


@dataclass(slots=True)
class Example:
    """One part of a row that is trained on as a whole: values by the task's columns, positions, units of loss."""

    values: Values
    length: int
    """Positions (tokens) it occupies in a sequence."""
    units: int
    """What its loss is a sum over: labelled positions for unit "token", 1 for "row" and "pair"."""
    truncated: bool = False
    """True where the task cut something of the row away; counted and shown."""


class Metrics(Protocol):
    """Figures over an evaluation. `state` is what ranks add up; everything else follows from it."""

    state: Tensor
    """Sums, float64, of a fixed shape: adding the ranks' states gives the state of all rows."""

    def compute(self) -> dict[str, float]:
        """Return the figures by name; the core prefixes them with `eval_`.

        One more method is used where it is there: `details() -> Values`, JSON values that say more than figures do, for
        `hfx eval`: `labels`, and by it `confusion` (a row for each true label) and figures of each label.
        """


class Task(Protocol):
    """What is learned: how a row becomes examples, and what their loss is. Pure; it keeps no state of a run.

    One that is faster on many rows at once says so by a method `examples_of(rows: list[Row]) -> list[list[Example] |
    Drop]`, which returns for each row what `examples` returns; a subclass that overrides `examples` alone is asked row
    by row. One whose `draw` decides how many labels there are has a method `drawn_units(values: Values) -> int`, which
    counts those of drawn values; the units of its examples are an estimate then.
    """

    @property
    def version(self) -> int:
        """Raise it when `examples` returns something else than before: prepared tables expire."""

    @property
    def unit(self) -> Literal["token", "row", "pair"]:
        """What the loss is a sum over."""

    @property
    def columns(self) -> Mapping[str, ColumnType]:
        """The columns that `examples` fills, in the prepared table."""

    @property
    def model_class(self) -> str:
        """The class of `transformers` that builds the model: `AutoModelForCausalLM`."""

    @property
    def model_options(self) -> Mapping[str, Any]:
        """What the model's config needs to know: number and names of labels."""

    def fingerprint(self) -> Values:
        """Return what decides `examples`, as JSON values: part of the prepared table's key."""

    def fit(self, rows: Iterable[Row]) -> Values:
        """Return facts learned from the training rows, as JSON values (label names); `{}` where there are none."""

    def fitted(self, facts: Values) -> Task:
        """Return this task knowing the facts of `fit`."""

    def examples(self, row: Row) -> list[Example] | Drop:
        """Cut and tokenize a row; nothing later alters it. The reason of a `Drop` is counted and shown."""

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return the values to collate, labels included; what is random anew each time is drawn from `rng`."""

    def collated(self) -> Mapping[str, ColumnType]:
        """Return the columns after `draw`, with the values that pad them."""

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the loss over the batch's units, `()`; never a mean. Fills `metrics` in an evaluation."""

    def metrics(self) -> Metrics:
        """Return figures at zero for one evaluation."""


class Table(Protocol):
    """Prepared examples of one block: memory-mapped columns, indexed from 0."""

    @property
    def fingerprint(self) -> str:
        """Hash of the content."""

    def __len__(self) -> int: ...

    def column(self, name: str) -> NDArray[Any]:
        """Return a scalar column `(len,)`: row, part, length, units, source, or one that a `Column` option names."""

    def values(self, index: int) -> Values:
        """Return the task's columns of one example; lists as arrays."""


# ── Order ────────────────────────────────────────────────────────────────────────────────────────────────────────────


class Sampler(Protocol):
    """Which examples of a block, in which order. Pure: never a function of rank, world size, or what ran before.

    One that depends on more than data and options (a file of weights) says so by a method `fingerprint() -> str`, so
    that a run is not resumed in another order.
    """

    def size(self, epoch: int) -> int:
        """Return how many examples this epoch draws from the block."""

    def rows(self, epoch: int, start: int, stop: int) -> Indices:
        """Return the table's indices at positions `start` to `stop` of the epoch, `(stop - start,)`."""


class Batcher(Protocol):
    """How examples become sequences, and sequences a batch. Pure within its window."""

    @property
    def window(self) -> int:
        """Examples that are grouped together; 1 means one example a sequence."""

    def groups(self, rows: Indices, lengths: Indices) -> list[Indices]:
        """Return one array of rows per sequence; together they are exactly the rows given."""

    def collate(self, sequences: list[list[Values]]) -> Batch:
        """Return tensors `(len(sequences), seq)`; labels of padding are -100."""


# ── Device, model, optimizer ─────────────────────────────────────────────────────────────────────────────────────────


class Precision(Protocol):
    """In which numbers the run computes."""

    @property
    def dtype(self) -> torch.dtype:
        """The model is built in it."""

    @property
    def why(self) -> str:
        """One phrase for the summary before step 1."""

    @property
    def scaler(self) -> torch.amp.GradScaler | None:
        """Scales the loss of fp16, and is saved with the run."""

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of every forward pass."""

    def convert(self, model: nn.Module) -> nn.Module:
        """Return the model with its layers swapped where this precision needs others."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an optimizer step did: the gradient's norm over all ranks before clipping, and whether it was skipped."""

    norm: float
    skipped: bool = False


class StateReader(Protocol):
    """The tensors of a checkpoint by name, checked against its manifest before they are handed out."""

    @property
    def values(self) -> Values:
        """The JSON values that `Backend.state` returned."""

    def names(self) -> list[str]:
        """Return the tensors' names."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the full shape of a tensor, however it was sharded when saved."""

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""

    def read(self, into: dict[str, Tensor]) -> None:
        """Fill the tensors, plain or sharded, in place."""


class Ranks(Protocol):
    """How ranks agree; a backend does."""

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add a small CPU tensor over all ranks, in place, and return it."""


class Backend(Protocol):
    """Where the tensors live and how ranks reduce: one process, DDP, ZeRO, FSDP. One instance a run.

    `load` may be called between any two steps: the run goes back to a checkpoint. One more method is used where a
    backend of one process has it, after memory ran out in a micro-step: `drop_gradients() -> bool` drops the gradients
    of the step under way, and returns whether it can begin anew; it cannot where a parameter was updated already.
    """

    def building(self) -> AbstractContextManager[Any]:
        """Return the context around `hfx_model`."""

    def shard(self, module: nn.Module) -> nn.Module:
        """Place (and shard) the module before the optimizer sees its parameters."""

    def prepare(self, module: nn.Module, optimizer: torch.optim.Optimizer) -> nn.Module:
        """Return the module to call; wraps module and optimizer where the engine needs it."""

    def micro_step(self, last: bool) -> AbstractContextManager[Any]:
        """Return the context around one forward and backward pass; ranks reduce gradients in the `last` of a step."""

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of a rank's share of the step's loss, `()`.

        Summed over ranks and micro-steps the losses are the loss of the step: an engine that averages multiplies by
        the world's size first.
        """

    def step(self, max_norm: float | None) -> StepResult:
        """Clip, update, and clear the gradients.

        Raises:
            IncompatibleError: it is to clip, and cannot.
        """

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """Add a small CPU tensor over all ranks, in place, and return it."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def ranks_beside(self) -> Ranks:
        """Return how ranks agree in a thread, while others of their threads train; all ranks call it at once."""

    def state(self) -> tuple[dict[str, Tensor], Values]:
        """Return parameters, buffers and optimizer state by parameter name, and the rest as JSON values.

        Names are `model.NAME` and `optim.NAME.KEY`; tensors may be sharded (`DTensor`). Every rank calls it.
        """

    def load(self, reader: StateReader) -> None:
        """Restore what `state` returned, on any world size."""

    def exporting(self) -> AbstractContextManager[dict[str, Tensor]]:
        """Return a context that yields the model's full state dict on the main rank (empty on the others)."""

    def close(self) -> None:
        """Leave the process group, if it opened one."""


@dataclass(frozen=True, slots=True)
class Stretch:
    """A part of a step at which `hfx plan` looks, and the gradients there are at its highest moment."""

    phase: Literal["build", "forward", "forward of the loss", "backward of the loss", "backward", "optimizer"]
    """"build" is the making of model and optimizer; the loss is all that is behind the last layer."""
    done: int
    """Layers that the pass at hand has left behind."""
    layers: int
    """Layers of the model; 0 where they are not told apart: then the phases of the loss are the whole passes."""
    gradients: int
    """Bytes of gradients that a process alone would hold."""


def _nothing(stretch: Stretch) -> Mapping[str, int]:
    return {}


@dataclass(frozen=True, slots=True)
class Shares:
    """What one of several ranks holds of what a process alone would, and what it holds beside: for `hfx plan`.

    A plugin that provides a backend states it by a method `shares(run: Run, module: nn.Module, ranks: int) -> Shares`,
    which reads sizes from the module (its tensors have no content) and forms no process group.
    """

    parameters: float = 1.0
    """The share of the parameters, as the model has them between steps."""
    gradients: float = 1.0
    """The share of the gradients, once they are reduced."""
    state: float = 1.0
    """The share of the optimizer's state."""
    beside: Callable[[Stretch], Mapping[str, int]] = _nothing
    """Bytes by kind that a rank holds beside in a stretch: buckets, what is gathered. Bytes of "gradients" stand in
    place of their share, where they are not reduced yet. While the model is built a rank holds all of it."""


@dataclass(frozen=True, slots=True)
class World:
    """This process among all: `rank` of `size`, `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """True on the one process that writes."""
        return self.rank == 0


@dataclass(frozen=True, slots=True)
class Problem:
    """What `hfx_check` reports: one line, what is wrong and what to type instead."""

    message: str
    fatal: bool = True
    """False: shown as a warning, and the run goes on."""


@dataclass(frozen=True)
class RunResult:
    """How a run ended."""

    path: Path
    """The run directory."""
    metrics: dict[str, float]
    """The last figures: of training, and of the last evaluation under `eval_` names."""
    step: int
    stopped: str | None = None
    """Why it ended before its time (`SIGINT`, an early stop), or None."""

    def model(self) -> Any:
        """Load the trained model with plain transformers.

        Raises:
            ModelError: the run was stopped, and what it trained is in its checkpoint; or it saved adapters alone.
        """
        import json

        from hfx.errors import ModelError

        described = self.path / "model" / "config.json"
        if (described.parent / "adapter_config.json").is_file():
            raise ModelError(
                f"'{described.parent}' holds adapters; load them with their base, by "
                "'transformers.AutoModelForCausalLM.from_pretrained' or peft's 'PeftModel'"
            )
        if not described.is_file():
            raise ModelError(
                f"the run '{self.path}' did not end and has no model yet; go on with 'hfx train --resume {self.path}'"
            )
        import transformers

        from hfx.remote_code import safetensors_only

        config = json.loads(described.read_text())
        factory = getattr(transformers, config["architectures"][0])
        with safetensors_only(str(self.path)):
            return factory.from_pretrained(self.path / "model", use_safetensors=True, trust_remote_code=False)


Main: TypeAlias = "Callable[[Any], RunResult]"
"""What a launcher calls in each process it started."""
