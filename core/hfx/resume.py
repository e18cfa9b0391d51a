"""Where a run writes, and whether it goes on from a checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.agreement import told_by_first
from hfx.claim import NO_RUN
from hfx.errors import CollectiveError, ConfigError, StorageError, UsageError
from hfx.launch import LAUNCHED

if TYPE_CHECKING:
    from hfx.checkpoint import Checkpoint
    from hfx.config import RunConfig
    from hfx.protocols import World
    from hfx.resolve import Resolved
    from hfx.run import Run

RUN_FILE = "run.yaml"


def output_of(resolved: Resolved, world: World) -> Path:
    """Return the run directory: `output`, or `runs/<time>-<model>`; what the run will need of it is checked here.

    Raises:
        UsageError: several processes, which would each make up a name of their own.
        ConfigError: it holds a run and `resume` is `never`, holds something else, or `resume` has nowhere to look.
        StorageError: it cannot be written.
    """
    config = resolved.config
    output = config.output
    if config.resume not in ("never", "auto"):
        said = resolved.origins["run.output"].kind in ("flag", "python")
        if said and output is not None and output.absolute() != Path(config.resume).absolute():
            raise ConfigError(
                f"'{config.resume}' is resumed where it is, and 'output' is '{output}'; leave 'output' out, "
                "or copy the folder and resume the copy"
            )
        output = Path(config.resume)
    if output is None and config.resume == "auto":
        raise ConfigError("'resume' is 'auto' and has no folder to look in; add '--output', or name the run's folder")
    if output is None:
        if world.size > 1:
            raise UsageError("several processes need one place to write to; give '--output'")
        name = Path(config.model or "scratch").stem.replace("/", "-")
        output = Path("runs") / f"{time.strftime('%Y%m%d-%H%M%S')}-{name}"
    try:
        str(output).encode()
    except UnicodeEncodeError:
        what = f"{str(output)!a} is no name in UTF-8, which the files of a model need"
        raise ConfigError(f"{what}; choose another '--output'") from None
    if config.resume == "never" and (output / RUN_FILE).exists() and not (_restarted() or _joins(config, output)):
        raise ConfigError(f"'{output}' holds a run; go on with '--resume auto', or choose another '--output'")
    if output.is_dir() and not (output / RUN_FILE).exists() and any(map(_of_others, output.iterdir())):
        raise ConfigError(f"'{output}' holds other things and no run; choose another '--output'")
    existing = next(folder for folder in (output, *output.absolute().parents) if folder.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        raise StorageError(f"'{existing}' cannot be written; choose another '--output'")
    return output


def config_of(fields: Mapping[str, Any]) -> Path | None:
    """Return the `run.yaml` of the run to go on with; what is given beside it changes that run.

    It is the one that `resume` names; or, under `resume: auto` with neither model nor data, the one in `output`.

    Raises:
        ConfigError: `resume` names a folder that holds no run.
    """
    resume = fields.get("resume")
    if resume in (None, "never", "auto"):
        described = resume != "auto" or fields.get("model") or fields.get("data")
        held = Path(str(fields.get("output"))) / RUN_FILE
        return held if not described and fields.get("output") and held.is_file() else None
    path = Path(str(resume)) / RUN_FILE
    if not path.is_file():
        raise ConfigError(f"'{resume}' holds no run to resume; 'resume' takes 'auto', 'never', or a run's folder")
    return path


def _of_others(file: Path) -> bool:
    """Say whether a file of a folder without a run is none that a start leaves that was killed."""
    return file.name not in NO_RUN and file.name != f"{RUN_FILE}.partial"


def _restarted() -> bool:
    """Return whether a launcher of hfx has looked already, or one started these processes again: the run goes on."""
    return LAUNCHED in os.environ or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def _joins(config: RunConfig, output: Path) -> bool:
    """Return whether this machine comes to a run that others are at, and that takes in more."""
    from hfx.run_folder import RunFolder

    return ":" in config.nnodes and RunFolder(output).standing().how == "running"


def checkpoint_of(run: Run) -> Checkpoint | None:
    """Return the checkpoint to go on from, the same on all ranks, or None to begin.

    Raises:
        CollectiveError: a rank does not see the one that rank 0 found.
        StorageError: there are some, and every one is damaged.
    """
    from hfx.checkpoint import newest

    found = newest(run.output, run.world.size) if (run.output / RUN_FILE).exists() else None
    if run.world.size == 1:
        return found
    chosen = told_by_first(run, "resumes", None if found is None else found.step)
    if chosen is not None and found is not None and found.step > chosen:
        found = newest(run.output, run.world.size, chosen)
    if (None if found is None else found.step) != chosen:
        what = "begins anew" if chosen is None else f"goes on from the checkpoint of step {chosen}"
        raise CollectiveError(
            f"rank {run.world.rank} finds {f'that of step {found.step}' if found else 'none'}, and rank 0 {what}; all "
            f"machines need to see '{run.output}' alike"
        )
    return found
