"""`hfx eval`: an evaluation of its own, of a run's checkpoint or of any model, in one process or several.

What is evaluated is a run without training: its data, task and model are built as ever, and in place of the loop there
is one evaluation. So a launcher starts its processes, and hands them the job, as those of a training run.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.blame import ran_out
from hfx.collective import explained, of_ranks
from hfx.errors import DataError, DeviceMemoryError
from hfx.protocols import RunResult

if TYPE_CHECKING:
    from hfx.protocols import Table, Values
    from hfx.resolve import Resolved
    from hfx.run import Run

RESULT_FILE = "evaluation.json"
_OF_TEXT = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM")
"""Models whose labels are the text itself, so that its bytes can be counted."""
_LARGEST = 700.0
"""A loss whose exponential is still a number."""
_OF_TOKENS = (*_OF_TEXT, "AutoModelForMaskedLM")
"""Models that say how likely a token is."""


@dataclass(frozen=True)
class Judged:
    """What is evaluated: a checkpoint of a run; or the run's model as its config names it."""

    checkpoint: str | None = None
    """The checkpoint's folder."""
    run: str | None = None
    """The folder of the run that saved it."""
    held_out: bool = False
    """Whether that run held out a share of its rows for evaluations."""


@dataclass(frozen=True)
class Evaluation:
    """What was found."""

    rows: int
    """Examples, on all ranks together."""
    tokens: int
    seconds: float
    figures: dict[str, float]
    """The loss first."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the task's metrics say beyond figures; see `protocols.Metrics`."""
    left_out: dict[str, int] = field(default_factory=dict)
    """Rows that were not judged, by reason: what could not be read, what a step dropped, what yields no example."""


def evaluate(resolved: Resolved, judged: Judged) -> Evaluation | None:
    """Evaluate, in the processes that the config asks for; None in a process that is not the main one.

    Args:
        resolved: What to build; its `output` is a folder for the result, the same for all processes.
        judged: Whose weights.

    Raises:
        HfxError: whatever the parts that are built refuse.
    """
    from hfx.launch import world_from

    result = execute(resolved, judged)
    if not world_from().is_main:
        return None
    return Evaluation(**json.loads((result.path / RESULT_FILE).read_text()))


def execute(resolved: Resolved, judged: Judged) -> RunResult:
    """Launch the evaluation, or take part in it as one of its processes."""
    from hfx.launch import world_from
    from hfx.manager import ask_the_policys_plugins
    from hfx.quiet import quieten
    from hfx.run import Run

    quieten()
    assert resolved.config.output is not None, "the caller chooses a folder"
    run = Run(resolved, resolved.config.output, world_from())
    run.judged = asdict(judged)
    ask_the_policys_plugins(run)
    return run.hooks.launch(run=run, main=main)


def main(run: Run) -> RunResult:
    """Evaluate in this process: what a launcher calls in each that it started."""
    try:
        return _main(run, Judged(**run.judged or {}))
    except (RuntimeError, MemoryError) as error:
        if of_ranks(error):
            raise explained(error, run.world.rank, run.hanging) from error
        if not ran_out(error):
            raise
        smaller = max(1, run.micro_batch_size // 2)
        raise DeviceMemoryError(
            f"evaluating does not fit into the memory of '{run.device.type}'; lower '--micro-batch-size' to {smaller}"
        ) from error
    finally:
        run.close()


def _main(run: Run, judged: Judged) -> RunResult:
    from hfx.backend import TorchBackend
    from hfx.blocks import tables
    from hfx.checkpoint import open_checkpoint
    from hfx.evaluation import evaluate as over_rows
    from hfx.loaded import load, remember, without_optimizer

    if judged.run is not None:
        remember(run, Path(judged.run), judged.held_out)
    if not run.has_eval:
        raise DataError("there are no rows to evaluate on; give some with '--data PATH'")
    if run.world.size > 1:
        from hfx.agreement import agree
        from hfx.distributed import DistributedBackend

        agree(run)
        run.watch()
        run._parts["backend"] = DistributedBackend(run)
    else:
        run._parts["backend"] = TorchBackend(run)
    if judged.checkpoint is not None:
        load(run, open_checkpoint(Path(judged.checkpoint), run.world.size))
    else:
        without_optimizer(run)
    metrics = run.task.metrics()
    started = time.perf_counter()
    figures = {name.removeprefix("eval_"): value for name, value in over_rows(run, metrics).items()}
    seconds = time.perf_counter() - started
    if run.world.is_main:
        parts = list(tables(run.blocks("eval")))
        figures = {"loss": figures["loss"]} | _of_tokens(run, figures["loss"], parts) | figures
        details: Values = getattr(metrics, "details", dict)()
        found = Evaluation(
            sum(map(len, parts)), sum(int(part.column("length").sum()) for part in parts), seconds, figures, details,
            _left_out(run, parts),
        )  # fmt: skip
        run.output.mkdir(parents=True, exist_ok=True)
        (run.output / RESULT_FILE).write_text(json.dumps(asdict(found)))
    run.backend.barrier()
    return RunResult(run.output, figures, 0)


def _left_out(run: Run, parts: list[Table]) -> dict[str, int]:
    from hfx.data_lines import task_drops
    from hfx.table import ArrowTable

    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(task_drops(part) if isinstance(part, ArrowTable) else {})
    if run.config.eval_data is not None:  # else it is what was left out of the training rows, too
        report = run.rows("eval").report
        counts.update(report.dropped | ({"unreadable": report.bad} if report.bad else {}))
    return dict(counts)


def _of_tokens(run: Run, loss: float, parts: list[Table]) -> dict[str, float]:
    """Return what follows from the loss of tokens: perplexity, and bits per byte (UTF-8) of the text predicted."""
    kind = run.task.model_class
    if run.task.unit != "token" or kind not in _OF_TOKENS:
        return {}
    figures = {"perplexity": math.exp(loss)} if loss < _LARGEST else {}
    if kind in _OF_TEXT:
        units = sum(int(part.column("units").sum()) for part in parts)
        size = _predicted_bytes(run, parts)
        if size:
            figures["bits_per_byte"] = loss * units / math.log(2) / size
    return figures


def _predicted_bytes(run: Run, parts: list[Table]) -> int:
    """Return the bytes of the text whose tokens carry loss; ends of sequences are tokens of no text."""
    from hfx.text_bytes import TextBytes

    known, rng, size = TextBytes(run.tokenizer), np.random.default_rng(0), 0
    apart = run.task.model_class == "AutoModelForSeq2SeqLM"  # labels stand alone, not among what is read
    for part in parts:
        numbers = part.column("part")
        for row in range(len(part)):
            drawn = run.task.draw(part.values(row), rng)
            labels = np.asarray(drawn["labels"])
            read = labels if apart else np.asarray(drawn.get("input_ids", labels))
            size += known.predicted(read, labels, first=bool(numbers[row] == 0))
    return size
