"""`hfx eject`: a run as one script without hfx, with its samples in order, its first weights, and what it came to.

What a plugin did to rows, their order or their layout is in the samples. Optimizer and schedule are read off the
objects that the plugins made. What shapes model, loss and precision the plugins say themselves, in `hfx_eject`.
"""

from __future__ import annotations

import inspect
import json
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from hfx.backend import TorchBackend
from hfx.eject_optimizer import OptimizerCode, learning_rates, optimizer_code
from hfx.ejected import collate as plain_collate
from hfx.ejected import micro_batches, seed
from hfx.errors import DataError, IncompatibleError, PluginError
from hfx.figures import METRICS_FILE, is_step, line_of
from hfx.implementations import implementations
from hfx.loaded import explained, remember
from hfx.loop import collate, drawn, units_of
from hfx.manager import ask_the_policys_plugins
from hfx.order import Position
from hfx.plain_script import PlainScript
from hfx.protocols import World
from hfx.rates import computed_in
from hfx.redact import redacted
from hfx.run import Run

if TYPE_CHECKING:
    from hfx.order import GlobalBatch, Sequence
    from hfx.resolve import Resolved

STYLES = ("accelerate", "trainer")
_SHAPES = ("hfx_model", "hfx_optimizer", "hfx_schedule", "hfx_precision", "hfx_backend")
"""Hooks whose wrappers have to say what they are in plain code."""
_SAYS = ("hfx_task", "hfx_precision")
"""Hooks whose providers have to."""
_COMPARED = 32
"""Steps of which the samples are laid out as the script does, and compared with the run's own batches."""
_ROWS = 1_000


def eject(resolved: Resolved, folder: Path, target: Path, style: str) -> Path:
    """Write the script of the run in `folder` and what it reads into `target`, and return the script.

    Args:
        resolved: The run's config.
        folder: The run's folder.
        target: A folder that is not there, or empty.
        style: `accelerate` or `trainer`.

    Raises:
        IncompatibleError: a plugin of the run has no counterpart in plain code.
        DataError: the data is no longer what the run was trained on.
    """
    run = Run(resolved, folder, World())
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".eject-", dir=target.parent) as hidden, explained(run):
        draft = Path(hidden) / target.name
        draft.mkdir()
        ask_the_policys_plugins(run)
        _refuse(run)
        run._parts["backend"] = TorchBackend(run)
        remember(run, folder, held_out=run.config.eval_data is None)
        _ = run.module  # the weights before the first step
        script = PlainScript(draft)
        run.hooks.eject(script=script, run=run)
        if not script.loss:
            task = run.resolved.roles["task"].plugin
            raise PluginError(f"'{task}' says nothing of its loss in 'hfx_eject'; it has to call script.take_loss(...)")
        run.hooks.export(run=run, path=draft / "start")
        optimizer = optimizer_code(run)
        if optimizer.names is not None:
            (draft / "groups.json").write_text(json.dumps(optimizer.names, indent=0))
        steps = _write_samples(run, script, draft, _recorded(folder))
        for step, share in zip(steps, learning_rates(run), strict=True):
            step["learning_rate"] = share
        (draft / "steps.json").write_text(_lines(steps))
        (draft / "train.py").write_text(_code(run, script, style, optimizer))
        if target.exists():
            target.rmdir()
        draft.replace(target)
    return target / "train.py"


def _refuse(run: Run) -> None:
    """Refuse plugins that shape what is computed and do not say how."""
    for active in run.active:
        held = implementations(type(active.plugin))
        if "hfx_eject" in held:
            continue
        shaping = [hook for hook in _SHAPES if hook in held and held[hook].wrapper]
        shaping += [hook for hook in _SAYS if hook in held and not held[hook].wrapper]
        if shaping:
            raise IncompatibleError(
                f"'{active.name}' has a hand in what is computed ('{shaping[0]}') and does not say what that is in "
                "plain code ('hfx_eject'); train without it to eject"
            )


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _recorded(folder: Path) -> dict[int, dict[str, Any]]:
    """Return what the run recorded of its steps: where each began, its rows, its loss."""
    found: dict[int, dict[str, Any]] = {}
    ledger = folder / "ledger.jsonl"
    for text in ledger.read_text().splitlines() if ledger.exists() else ():
        if entry := line_of(text):  # the last one of a killed run may be torn
            found[entry["step"]] = {"position": Position(**entry["position"]), "rows": entry["rows"]}
    metrics = folder / METRICS_FILE
    for text in metrics.read_text().splitlines() if metrics.exists() else ():
        if (told := line_of(text)) and is_step(told):
            found.setdefault(told["step"], {})["loss"] = told["loss"]
    return found


def _batches(run: Run, recorded: dict[int, dict[str, Any]]) -> Iterator[tuple[int, GlobalBatch]]:
    """Yield every step with its batch; where the run went back and left samples out, so do they."""
    position = Position()
    batches = run.order.batches(position)
    for step in range(1, run.total_steps + 1):
        told = recorded.get(step, {})
        if (began := told.get("position", position)) != position:
            position, batches = began, run.order.batches(began)
        if (batch := next(batches, None)) is None:
            raise DataError("the data yields no examples; the run's data is no longer there")
        if told.get("rows", digest := batch.digest()) != digest:
            raise DataError(
                f"the samples of step {step} are not those that the run took; put its data back, or install the "
                "versions of the plugins that 'run.yaml' names"
            )
        position = batch.next
        yield step, batch


def _write_samples(
    run: Run, script: PlainScript, folder: Path, recorded: dict[int, dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write all samples in order, and return what each step has: its samples, its units, the loss it came to."""
    steps: list[dict[str, Any]] = []
    writer: pq.ParquetWriter | None = None
    held: list[dict[str, Any]] = []
    try:
        for step, batch in _batches(run, recorded):
            samples = [_sample(run, sequence, script) for sequence in batch.sequences]
            if step <= _COMPARED:
                _compare(run, batch, samples, script)
            loss = recorded.get(step, {}).get("loss")
            steps.append({"samples": len(samples), "units": units_of(run, batch), "loss": loss})
            held += samples
            if len(held) >= _ROWS or step == run.total_steps:
                table = pa.Table.from_pylist(held)
                writer = writer or pq.ParquetWriter(folder / "samples.parquet", table.schema, compression="zstd")
                writer.write_table(table.cast(writer.schema))
                held = []
    finally:
        if writer:
            writer.close()
    return steps


def _sample(run: Run, sequence: Sequence, script: PlainScript) -> dict[str, Any]:
    """Return the values of a sequence, without padding."""
    examples = drawn(run, sequence)
    tensors = run.batcher.collate([examples])
    if "position_ids" in tensors or len(examples) > 1:  # packed: the batcher made one of several
        found = {name: tensor[0] for name, tensor in tensors.items()}
    else:
        found = {name: examples[0][name] for name in tensors if name in examples[0]}
    for column in script.columns:
        found |= column(examples[0])
    return {name: np.asarray(value).tolist() for name, value in found.items()}


def _compare(run: Run, batch: GlobalBatch, samples: list[dict[str, Any]], script: PlainScript) -> None:
    """Refuse a batcher that lays out batches in another way than the script does."""
    most = run.config.micro_batch_size
    for start in range(0, len(samples), most):
        own = collate(run, batch.sequences[start : start + most])
        plain = plain_collate(samples[start : start + most], _pad(run), _multiple(run))
        added = plain.keys() - own.keys()
        same = all(name in plain and torch.equal(own[name], plain[name].to(own[name].dtype)) for name in own)
        if not same or (added and not script.columns):
            name = run.resolved.roles["batcher"].plugin
            raise IncompatibleError(
                f"'{name}' lays out a batch in another way than by padding on the right, which is all that the script "
                "does; train with '--plugin padding' to eject"
            )


def _pad(run: Run) -> dict[str, int]:
    """Return what each list of a sample is padded with."""
    return {name: int(column.pad) for name, column in run.task.collated().items() if column.type.startswith("list")}


def _multiple(run: Run) -> int:
    return int(getattr(run.batcher, "multiple", 1))


# ── the script ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _code(run: Run, script: PlainScript, style: str, optimizer: OptimizerCode) -> str:
    """Return the script."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters["code"] = _literal
    functions = [inspect.getsource(function) for function in (plain_collate, micro_batches, seed)]
    compute = computed_in(run.precision, run.device)
    dtype = run.precision.dtype
    context = {
        "style": style,
        "run": redacted(str(run.output)),
        "version": version("hfx"),
        "plugins": [_said(active.name, run) for active in run.active],
        "notes": script.notes,
        "imports": _imports(run, script, optimizer, style),
        "model_class": run.task.model_class,
        "dtype": str(dtype),
        "mixed": {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(compute) if compute != dtype else None,
        "config": run.config,
        "functions": "\n\n".join(functions).rstrip(),
        "loss": script.loss.rstrip(),
        "loss_name": script.loss_name,
        "constants": script.constants,
        "pad": _pad(run),
        "multiple": _multiple(run),
        "model_lines": script.model,
        "optimizer": optimizer,
        "schedule": _said(run.resolved.roles["schedule"].plugin, run),
    }
    return environment.get_template("eject.py.jinja").render(context)


def _imports(run: Run, script: PlainScript, optimizer: OptimizerCode, style: str) -> list[str]:
    """Return the lines of imports of other packages, sorted as is usual."""
    classes = [run.task.model_class, "AutoTokenizer", *(["Trainer", "TrainingArguments"] if style == "trainer" else [])]
    lines = {
        "import numpy as np", "import pyarrow.parquet as pq", "import torch", "from torch.nn import functional",
        "from torch.optim.lr_scheduler import LambdaLR", f"from transformers import {', '.join(sorted(classes))}",
        *([] if style == "trainer" else ["from accelerate import Accelerator"]), optimizer.imports, *script.imports,
    }  # fmt: skip
    standard = {line for line in lines if line.split()[1].partition(".")[0] in sys.stdlib_module_names}
    standard |= {"import json", "import math", "from pathlib import Path", "from typing import Any"}
    if style == "accelerate":
        standard.add("from contextlib import nullcontext")
    blocks = (sorted(block, key=lambda line: (line.startswith("from"), line)) for block in (standard, lines - standard))
    return [*next(blocks), "", *next(blocks)]


def _literal(value: Any) -> str:
    """Return a value as code, quoted as is usual."""
    text = repr(value)
    return text if '"' in text or "\\" in text else text.replace("'", '"')


def _said(name: str, run: Run) -> str:
    """Return a plugin's name, and the options that are not its defaults."""
    plugin = next(active.plugin for active in run.active if active.name == name)
    fields = type(plugin).model_fields
    options = redacted(plugin.options())
    told = [
        f"{key} {value}"
        for key, value in options.items()
        if value != fields[key].get_default(call_default_factory=True)
    ]
    return f"{name} ({', '.join(told)})" if told else name


def _lines(steps: list[dict[str, Any]]) -> str:
    """Return JSON with a line for each step."""
    return "[\n" + ",\n".join(json.dumps(step) for step in steps) + "\n]\n"
