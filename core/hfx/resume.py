"""Where a run writes, whether it goes on from a checkpoint, and what differs between then and now."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.claim import NO_RUN
from hfx.errors import ConfigError, StorageError, UsageError
from hfx.launch import LAUNCHED

if TYPE_CHECKING:
    from hfx.checkpoint import Checkpoint
    from hfx.protocols import World
    from hfx.resolve import Resolved
    from hfx.run import Run

RUN_FILE = "run.yaml"
_LAST_BITS = "same order of samples; sums may differ in the last bits"


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
    if config.resume == "never" and (output / RUN_FILE).exists() and not _restarted():
        raise ConfigError(f"'{output}' holds a run; go on with '--resume auto', or choose another '--output'")
    if output.is_dir() and not (output / RUN_FILE).exists() and any(f.name not in NO_RUN for f in output.iterdir()):
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


def _restarted() -> bool:
    """Return whether a launcher of hfx has looked already, or one started these processes again: the run goes on."""
    return LAUNCHED in os.environ or os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def checkpoint_of(run: Run) -> Checkpoint | None:
    """Return the checkpoint to go on from, or None to begin."""
    from hfx.checkpoint import newest

    return newest(run.output, run.world.size) if (run.output / RUN_FILE).exists() else None


@dataclass(frozen=True)
class Difference:
    """A field that is not what it was when the checkpoint was saved."""

    field: str
    saved: Any
    now: Any
    effect: str
    refused: bool = False

    def __str__(self) -> str:
        return f"{self.field}: saved {self.saved}, now {self.now} ({self.effect})"


def differences(run: Run, found: Checkpoint) -> list[Difference]:
    """Return what differs between a checkpoint and this run, and what each difference does."""
    then, now = found.state["run"], run.config.identity()
    result = [
        Difference(name, then.get(name), now[name], *_effect(name)) for name in now if then.get(name) != now[name]
    ]
    if found.state["world_size"] != run.world.size:
        result.append(Difference("world size", found.state["world_size"], run.world.size, _LAST_BITS))
    current = {a.name: [a.distribution, a.version, a.plugin.options()] for a in run.active}
    saved_plugins = found.state["plugins"]
    optimizer = run.resolved.roles["optimizer"].plugin
    for name in sorted(saved_plugins.keys() | current):
        saved, present = saved_plugins.get(name), current.get(name)
        if saved != present:
            effect = (
                "the checkpoint's learning rate and groups stay" if saved and present else "another plugin takes part"
            )
            other = name == optimizer and saved is None
            effect = "the checkpoint holds the state of another optimizer" if other else effect
            result.append(Difference(f"plugin '{name}'", *_brief(saved, present), effect, refused=other))
    if found.state["data"]["plan_sha256"] != run.plan_sha256():
        result.append(
            Difference("order of samples", found.state["data"]["plan_sha256"][:8], run.plan_sha256()[:8],
                       "the position means nothing in another order", refused=True)
        )  # fmt: skip
    return result


def _brief(saved: list[Any] | None, present: list[Any] | None) -> tuple[str, str]:
    """Return a plugin then and now: the package where that differs, and the options that do."""
    if saved is None or present is None:
        return tuple("absent" if one is None else f"{one[0]} {one[1]}" for one in (saved, present))  # type: ignore[return-value]
    options = [key for key in saved[2] | present[2] if saved[2].get(key) != present[2].get(key)]
    packages = [f"{one[0]} {one[1]}" if saved[:2] != present[:2] else "" for one in (saved, present)]
    named = [" ".join(f"{key}={one[2].get(key)}" for key in options) for one in (saved, present)]
    return f"{packages[0]} {named[0]}".strip(), f"{packages[1]} {named[1]}".strip()


def _effect(name: str) -> tuple[str, bool]:
    exact = {"log_every", "save_every", "eval_every", "keep", "max_bad_rows"}
    if name in exact:
        return "exact", False
    if name == "micro_batch_size":
        return _LAST_BITS, False
    if name in ("steps", "epochs", "tokens"):
        return "the schedule follows the new length from here on", False
    if name == "max_grad_norm":
        return "applies from here on", False
    return "changes what is trained", name in ("seed", "batch_size", "seq_length", "data", "model")


def check_differences(run: Run, found: Checkpoint) -> list[str]:
    """Return one line per difference.

    Raises:
        ConfigError: one of them makes going on impossible.
    """
    result = differences(run, found)
    refused = [difference for difference in result if difference.refused]
    if refused:
        lines = "; ".join(str(difference) for difference in refused)
        raise ConfigError(
            f"cannot resume '{found.path}': {lines}; set them back, or begin anew with another '--output'"
        )
    return [str(difference) for difference in result]
