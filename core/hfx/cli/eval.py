"""`hfx eval`: the loss and figures of a run's checkpoint, or of any model, over some rows."""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from hfx.cli.command import traceback_option
from hfx.cli.run_command import RunArguments, RunCommand, arguments
from hfx.config import RunConfig

if TYPE_CHECKING:
    from hfx.evaluator import Evaluation, Judged
    from hfx.manager import ActivePlugin
    from hfx.resolve import Resolved

EPILOG = """
Examples:
  hfx eval runs/mine                              on the rows that the run held out
  hfx eval runs/mine --data test.jsonl --checkpoint 200
  hfx eval gpt2 --data 'texts/*.txt' --seq-length 1024
  hfx eval my-org/classifier --data labelled.jsonl --nproc 2 --json
"""

_FIELDS = {"data", "seq_length", "micro_batch_size", "num_proc", "max_bad_rows", "seed", "nproc"}
"""The fields of a run that an evaluation has, too: its launcher starts processes of one machine."""


class EvalCommand(RunCommand):
    """A command about a run, whose first argument is a run or a model."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        unfit = {"config", *RunConfig.model_fields.keys() - _FIELDS}
        self.params = [param for param in self.params if param.name not in unfit]


@click.command("eval", cls=EvalCommand, epilog=EPILOG)
@click.argument("run_or_model")
@click.option(
    "--checkpoint", metavar="STEP|PATH", help="Of a run: which one. [default: the one the run chose, else the newest]"
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@traceback_option
@click.pass_context
def command(ctx: click.Context, /, run_or_model: str, checkpoint: str | None, as_json: bool, **_: Any) -> None:
    """Say how good a run's checkpoint, or any model, is on the rows of '--data'.

    A run is evaluated with its own task, cleaning and tokenizer, as on the way: without '--data' on the rows it held
    out. Of a model the task follows from its class; '--plugin' names another one. The figures are the same for any
    number of processes.
    """
    from hfx.cli.eval_lines import lines
    from hfx.evaluator import evaluate
    from hfx.launch import world_from

    typed = arguments(ctx)
    folder = _folder()
    try:
        resolved, judged = _of_run(typed, run_or_model, checkpoint) or _of_model(typed, run_or_model, checkpoint)
        found = evaluate(_into(resolved, folder), judged)
    finally:
        if world_from().is_main:
            shutil.rmtree(folder, ignore_errors=True)
    if found is None:
        return
    if as_json:
        click.echo(json.dumps(_told(found), indent=1))
        return
    click.echo(f"eval       {judged.checkpoint or run_or_model}")
    click.echo("\n".join(lines(found)))


def _told(found: Evaluation) -> dict[str, Any]:
    """Return an evaluation as JSON values; a figure that is no number is null, which JSON has a word for."""
    told = {"rows": found.rows, "tokens": found.tokens, "left_out": found.left_out, "seconds": round(found.seconds, 3)}
    figures = {name: value if math.isfinite(value) else None for name, value in found.figures.items()}
    return told | {"figures": figures, "finite": None not in figures.values(), "details": found.details}


def _folder() -> Path:
    """Return a folder for what is found; where somebody else started several processes, all of them name it alike."""
    from hfx.launch import world_from

    if world_from().size == 1:
        return Path(tempfile.mkdtemp(prefix="hfx-eval-"))
    return Path(tempfile.gettempdir()) / f"hfx-eval-{os.environ.get('MASTER_PORT', '')}"


def _into(resolved: Resolved, folder: Path) -> Resolved:
    """Return what was resolved, with a folder for what its processes leave."""
    return replace(resolved, config=resolved.config.model_copy(update={"output": folder, "resume": "never"}))


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_run(typed: RunArguments, path: str, checkpoint: str | None) -> tuple[Resolved, Judged] | None:
    """Return the run's own config with what was typed, and its checkpoint; None where there is no run."""
    from hfx.cli.export import chosen
    from hfx.evaluator import Judged
    from hfx.layers import flag
    from hfx.resolve import resolve
    from hfx.resume import RUN_FILE

    run = Path(path)
    if not (run / RUN_FILE).is_file():
        return None
    found = chosen(run, checkpoint)
    own = resolve(yaml_path=run / RUN_FILE).config
    fields = dict(typed.fields)
    if "data" in fields:
        fields["eval_data"] = fields.pop("data")
    # Who trained it, on how many processes, is not who evaluates it.
    fields = {"nproc": "1", "nnodes": "1", "rdzv": "none"} | fields
    resolved = resolve(
        yaml_path=run / RUN_FILE,
        fields={name: flag(name.replace("_", "-"), text) for name, text in fields.items()},
        plugin_args=typed.plugins,
        plugin_options=typed.plugin_options,
    )
    return resolved, Judged(str(found.path), str(run), held_out=own.eval_data is None)


# ── a model ──────────────────────────────────────────────────────────────────────────────────────────────────────────

_TASKS = {
    "ForSequenceClassification": "classification",
    "ForTokenClassification": "token_classification",
    "ForMaskedLM": "masked_lm",
    "ForConditionalGeneration": "seq2seq",
    "ForCausalLM": "causal_lm",
    "LMHeadModel": "causal_lm",
}
"""The default task for the end of a model's class."""


def _of_model(typed: RunArguments, model: str, checkpoint: str | None) -> tuple[Resolved, Judged]:
    """Return the config of a run that would go on from the model, on the rows to evaluate it on.

    Raises:
        ConfigError: there is no such model, or no rows are named.
    """
    from hfx.cli.generate import located
    from hfx.errors import ConfigError
    from hfx.evaluator import Judged

    if checkpoint is not None:
        raise ConfigError(f"'{model}' is no run, and '--checkpoint' is for those of a run; drop it")
    source = located(model)
    data = typed.fields.get("data")
    if data is None:
        raise ConfigError(f"nothing says on which rows '{model}' is evaluated; add '--data PATH'")
    typed.fields = typed.fields | {"model": source, "data": data, "eval_data": data}
    task, told = _told_by(source, dict(typed.plugin_options).get("pretrained.revision"))
    # Without options, since one may be of the task that is not active yet.
    if task is not None and _task(replace(typed, plugin_options=[]).resolve()).origin.kind == "default":
        typed.plugins = (*typed.plugins, task)
    # A task with options of these names has to number labels as the model does, and to take them for the same.
    taken = _task(typed.resolve())
    for option, value in told.items():
        if option in taken.plugin.options() and not taken.plugin.options()[option]:
            typed.plugin_options = [*typed.plugin_options, (f"{taken.name}.{option}", value)]
    return typed.resolve(), Judged()


def _task(resolved: Resolved) -> ActivePlugin:
    name = resolved.roles["task"].plugin
    return next(active for active in resolved.plugins if active.name == name)


def _told_by(model: str, revision: str | None) -> tuple[str | None, dict[str, str]]:
    """Return the task that a model's class tells, and what its config says of labels, as a task's options."""
    from hfx.quiet import quieten
    from hfx.remote_code import RemoteCode

    quieten()
    config = RemoteCode("pretrained", model, revision).described()
    [kind, *_] = config.get("architectures") or [""]
    task = next((task for end, task in _TASKS.items() if kind.endswith(end)), None)
    labels = config.get("id2label") or {}
    names = [str(labels[key]) for key in sorted(labels, key=int)]
    told = {}
    if len(names) > 1 and names != [f"LABEL_{index}" for index in range(len(names))]:
        told["names"] = json.dumps(names)
    if config.get("problem_type"):
        told["problem"] = str(config["problem_type"]).removesuffix("_classification")
    return task, told
