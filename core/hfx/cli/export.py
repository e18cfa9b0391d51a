"""`hfx export`: a run's model from any of its checkpoints, in one process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from hfx.cli.command import Command, traceback_option

if TYPE_CHECKING:
    from hfx.checkpoint import Checkpoint

EPILOG = """
Examples:
  hfx export runs/mine
  hfx export runs/mine --checkpoint 200 --output models/at-200
"""


@click.command("export", cls=Command, epilog=EPILOG)
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--checkpoint",
    metavar="STEP|PATH",
    help="A step, or the folder of a checkpoint. [default: the one the run chose ('best'), else the newest]",
)
@click.option(
    "--output", metavar="FOLDER", type=click.Path(path_type=Path), help="Where to write. [default: RUN/model]"
)
@traceback_option
def command(run: Path, checkpoint: str | None, output: Path | None) -> None:
    """Write what plain 'from_pretrained' loads, from a checkpoint of a run.

    One process does, whatever the number of processes and the backend that saved it. Options of the run that shape the
    export (adapters, an average of the weights) take part. The training data need not be there where the cache is.
    """
    from hfx.errors import UsageError
    from hfx.launch import world_from
    from hfx.quiet import quieten
    from hfx.resolve import resolve
    from hfx.resume import RUN_FILE

    if world_from().size > 1:
        raise UsageError("'hfx export' is one process; start it without a launcher")
    check_run(run)
    target = output or run / "model"
    refuse_others(target, run)
    found = chosen(run, checkpoint)
    resolved = resolve(yaml_path=run / RUN_FILE)
    for note in resolved.notes:
        click.echo(f"hfx: {note}", err=True)
    quieten()
    from hfx.cli.export_impl import export

    written = export(resolved, run, found, target)
    click.echo(f"checkpoint: {found.path} (step {found.step} of {found.state['total_steps']})\nmodel: {written}")


def check_run(run: Path) -> None:
    """Refuse a folder that holds no run.

    Raises:
        ConfigError: names the nearest one beside it.
    """
    from hfx.errors import ConfigError, nearest
    from hfx.resume import RUN_FILE

    if (run / RUN_FILE).is_file():
        return
    beside = [str(file.parent) for file in run.parent.glob(f"*/{RUN_FILE}")]
    hint = nearest(str(run), beside) or f" name a folder that holds a '{RUN_FILE}'"
    raise ConfigError(f"'{run}' holds no run;{hint}" if run.exists() else f"no such run '{run}';{hint}")


# ── which checkpoint ─────────────────────────────────────────────────────────────────────────────────────────────────


def chosen(run: Path, wanted: str | None) -> Checkpoint:
    """Return the checkpoint of a step or in a folder, else the one that the run chose, else the newest valid one.

    All its files are checked.

    Raises:
        ConfigError: there is none, or no such one.
        StorageError: it is damaged.
    """
    from hfx.checkpoint import candidates, newest, open_checkpoint, step_of
    from hfx.choice import chosen_in
    from hfx.errors import ConfigError, StorageError

    if wanted is None:
        if (found := newest(run, world_size=1)) is None:
            raise ConfigError(f"the run '{run}' has no checkpoint; go on with 'hfx train --resume {run}'")
        step = chosen_in(found.state["state"])
        if step is None or step == found.step:
            return found
        wanted = str(step)
        if step not in map(step_of, candidates(run)):
            raise ConfigError(
                f"the run '{run}' chose step {step}, whose checkpoint is gone; '--checkpoint {found.step}' exports the "
                "newest one"
            )
    there = {step_of(path) or 0: path for path in reversed(candidates(run))}
    number = wanted.removeprefix("step-")
    path = there.get(int(number)) if number.isdecimal() else Path(wanted).resolve()
    if path is None or not path.is_dir():
        raise ConfigError(_no_such(run, wanted, list(there)))
    try:
        return open_checkpoint(path, world_size=1)
    except StorageError as error:
        raise StorageError(f"{error}; {_has(run, [step for step in there if there[step] != path])}") from error


def _no_such(run: Path, wanted: str, steps: list[int]) -> str:
    from hfx.errors import nearest

    number = wanted.removeprefix("step-")
    if number.isdecimal() and steps:
        hint = f" did you mean '{min(steps, key=lambda step: abs(step - int(number)))}'?"
    else:
        hint = nearest(wanted, [*map(str, steps), *(f"step-{step:08d}" for step in steps)])
    return f"the run '{run}' has no checkpoint '{wanted}';{hint} {_has(run, steps)}"


def _has(run: Path, steps: list[int]) -> str:
    return f"'{run}' has those of the steps {', '.join(map(str, steps))}" if steps else f"'{run}' has no other"


# ── where to ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def refuse_others(target: Path, run: Path | None = None) -> None:
    """Refuse to write over anything but an empty folder and, in the folder of a run that is given, its own export.

    Raises:
        ConfigError: says what is in the way.
    """
    from hfx.errors import ConfigError
    from hfx.model_folder import is_exported

    if target.exists() and not target.is_dir():
        raise ConfigError(f"'{target}' is a file; choose another '--output'")
    held = sorted(target.iterdir()) if target.is_dir() else []
    if run is not None and target.absolute().parent == run.absolute():
        held = [file for file in held if not is_exported(file)]
    if held:
        raise ConfigError(f"'{target}' holds other things ('{held[0].name}'); choose another '--output', or move them")
