"""hfx from Python: `train`, `load_config`, `plugins`; and `execute`, which the command line shares with them."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.blame import ran_out
from hfx.claim import claimed, leave_nothing
from hfx.collective import explained, of_ranks
from hfx.errors import ConfigError, DeviceMemoryError, HfxError, StorageError
from hfx.halving import follow
from hfx.launch import LAUNCHED, STOP_SIGNALS, stopping_on_signals, world_from
from hfx.preload import preloaded
from hfx.quiet import quieten
from hfx.resume import RUN_FILE, checkpoint_of, config_of, output_of
from hfx.status import STATUS_FILE, telling_status

REPORT_FILE = "data_report.json"

if TYPE_CHECKING:
    from hfx.discovery import PluginRef
    from hfx.plugin import Plugin
    from hfx.protocols import Problem, RunResult
    from hfx.resolve import Resolved
    from hfx.run import Run


def train(
    config: str | Path | Mapping[str, Any] | None = None, *, plugins: Sequence[Plugin | str] = (), **fields: Any
) -> RunResult:
    """Train, as `hfx train` does: the same fields, the same plugins, the same run to the bit.

    `config` is a YAML file or a mapping; `fields` are those of `RunConfig` and override it; `plugins` are plugin
    objects (`Lion(lr=1e-4)`) or what one types after `--plugin`. `model` and `data` may be objects: a
    `PreTrainedModel` (with `tokenizer=`), a `datasets.Dataset`.

    Raises:
        HfxError: whatever the command line would print.
    """
    return execute(_resolved(config, plugins, fields))


def load_config(path: str | Path, **fields: Any) -> Resolved:
    """Return a config file resolved: fields, plugins, and where each value came from.

    Raises:
        ConfigError: a wrong key or value.
    """
    return _resolved(path, (), fields)


def plugins() -> list[PluginRef]:
    """Return the installed plugins, without importing any."""
    from hfx.discovery import found

    return found()


def _resolved(config: Any, plugins: Sequence[Plugin | str], fields: dict[str, Any]) -> Resolved:
    from hfx.given import take_objects
    from hfx.layers import Origin, Value
    from hfx.resolve import resolve

    objects, fields = take_objects(fields)
    path = Path(config) if isinstance(config, str | Path) else None
    return resolve(
        yaml_path=path or config_of({} if config else fields),
        mapping=None if path or config is None else dict(config),
        fields={name: Value(value, Origin("python", f"{name}=")) for name, value in fields.items()},
        plugin_args=[plugin for plugin in plugins if isinstance(plugin, str)],
        plugin_objects=[*objects, *(plugin for plugin in plugins if not isinstance(plugin, str))],
    )


def execute(resolved: Resolved, argv: Sequence[str] = (), micro_batch_size: int | None = None) -> RunResult:
    """Run what was resolved: check, launch, prepare, build, train, export.

    Args:
        resolved: The run.
        argv: The words it was typed with.
        micro_batch_size: The largest micro-batch that fits, where a launcher found out.

    Raises:
        HfxError: the named failures; see `errors.py`.
    """
    from hfx.run import Run

    quieten()
    world = world_from(machines=resolved.config.nnodes)
    run = Run(resolved, output_of(resolved, world), world)
    run.smaller = micro_batch_size
    for note in resolved.notes if _tells(run) else ():
        print(f"hfx: {note}", file=sys.stderr)
    _check(run)
    return run.hooks.launch(run=run, main=main)


def main(run: Run) -> RunResult:
    """Train in this process: what a launcher calls in each it started."""
    try:
        with preloaded(first=lambda: _check_here(run)):
            if run.world.size > 1:
                _meet(run)
            return _train(run)
    except (RuntimeError, MemoryError) as error:
        if of_ranks(error):
            raise explained(error, run.world.rank, run.hanging) from error
        if not ran_out(error):
            raise
        from hfx.advice import advice

        failed = DeviceMemoryError(advice(run))
        failed.micro_batch_size = run.smaller
        raise failed from error
    except OSError as error:
        if isinstance(error, HfxError) or error.filename is None:
            raise
        raise StorageError(
            f"'{error.filename}': {error.strerror}; check the path, its rights and the free space"
        ) from error
    finally:
        run.close()


def _check_here(run: Run) -> None:
    """Check again, now that torch is there to say which device this is."""
    _ = run.device
    _check(run)


def _meet(run: Run) -> None:
    from hfx.agreement import agree

    agree(run)
    run.watch()


def _train(run: Run) -> RunResult:
    from hfx.differences import told
    from hfx.report import before_step_one
    from hfx.state import cut_records

    there, held = run.output.exists(), (run.output / RUN_FILE).exists()
    if run.world.is_main and there:
        run.enter(claimed(run.output))
    found = checkpoint_of(run)
    run.build()  # Ctrl-C ends it at once: there is no step to finish, and the cache keeps what is whole
    lines = before_step_one(run)
    if run.world.is_main and not there:
        _claim_new(run)
    if found:
        lines += told(run, found)
        run.restore(found)
        lines.append(f"resumed from {found.path} at step {run.step} of {run.total_steps}")
        if run.step >= run.total_steps:
            lines.append("nothing is left to train; a greater '--steps' would go on")
    elif held:
        cut_records(run)
        lines.append(f"'{run.output}' holds a run without a checkpoint; it begins anew")
    if (most := min(run.micro_batch_size, run.smaller or run.micro_batch_size)) < run.config.micro_batch_size:
        lines.append(f"memory ran out before: micro-batches of {most} sequences at most")
    if run.world.is_main:
        _write_run_file(run)
        _write_report(run)
        print("\n".join(lines), file=sys.stderr, flush=True)
    with telling_status(run):
        return _to_the_end(run, begins=not found and not held)


def _claim_new(run: Run) -> None:
    """Make and claim a run directory that was not there before the data were prepared and the model was loaded."""
    run.enter(claimed(run.output))
    if (run.output / RUN_FILE).exists():
        raise ConfigError(
            f"another run began in '{run.output}' while this one's data were prepared; choose another '--output', or "
            "go on with that one: '--resume auto'"
        )


def _to_the_end(run: Run, begins: bool) -> RunResult:
    """Train, and export the model, but after a signal."""
    from hfx.choice import take_chosen
    from hfx.model_folder import written_anew

    follow(run)
    try:
        with stopping_on_signals(run):
            result = run.hooks.run(run=run)
            run.finish_saving()
    except (HfxError, RuntimeError, MemoryError) as error:
        named = isinstance(error, HfxError) or ran_out(error)
        if named and run.world.is_main and begins and run.step == 0:
            _take_back(run)
        raise
    run.at("the export")
    if result.stopped and result.stopped not in STOP_SIGNALS and run.world.is_main:
        print(f"hfx: ended at step {run.step} of {run.total_steps}: {result.stopped}", file=sys.stderr, flush=True)
    if result.stopped not in STOP_SIGNALS:
        take_chosen(run)
        with written_anew(run.output) if run.world.is_main else nullcontext():
            run.hooks.export(run=run, path=_place_of_model(run))
    run.backend.barrier()
    if result.stopped in STOP_SIGNALS and run.world.is_main:
        again = f"hfx train --resume {run.output}"
        print(f"stopped by {result.stopped} at step {run.step}, saved; go on with '{again}'", file=sys.stderr)
    return result


def _place_of_model(run: Run) -> Path:
    """Return the folder of the exported model; over a file transformers would write nothing, and only log that."""
    path = run.output / "model"
    if path.exists() and not path.is_dir():
        raise StorageError(
            f"'{path}' is a file, so the model was not exported; move it away, "
            f"then 'hfx train --resume {run.output}' exports it"
        )
    return path


def _take_back(run: Run) -> None:
    """Remove what was written of a run that ended before its first step, so that it can be begun again."""
    for name in (RUN_FILE, REPORT_FILE, STATUS_FILE, "metrics.jsonl"):  # the last may have events, and no step
        (run.output / name).unlink(missing_ok=True)
    if LAUNCHED not in os.environ:  # else the launcher does, which still needs the folder
        leave_nothing(run.output, claimed_here=True)


def _write_report(run: Run) -> None:
    from hfx.data_report import data_report

    text = json.dumps(data_report(run), indent=1)
    (run.output / REPORT_FILE).write_text(text + "\n", encoding="utf-8")


def _write_run_file(run: Run) -> None:
    from hfx.commit import write_durably
    from hfx.resolve import to_yaml

    # As comments, so that `hfx train` takes the file back whatever is installed then.
    versions = [f"# {active}\n" for active in run.active]
    write_durably(run.output / RUN_FILE, "".join([*versions, to_yaml(_pinned(run))]))


def _pinned(run: Run) -> Resolved:
    """Return what was resolved, with what the source says it read in place of what may move (a branch, a tag)."""
    pinned: dict[str, Any] = getattr(run._source("train").source, "pinned", dict)()
    name = run.resolved.roles["source"].plugin
    plugins = [
        replace(active, plugin=active.plugin.model_copy(update=pinned)) if pinned and active.name == name else active
        for active in run.active
    ]
    return replace(run.resolved, plugins=tuple(plugins))


def problems(resolved: Resolved) -> list[Problem]:
    """Return what the plugins' first checks find in names and options, before torch is imported."""
    run = _unopened(resolved)
    return run.hooks.check(run=run)


def refuse(resolved: Resolved) -> list[str]:
    """Return what these checks only warn of.

    Raises:
        IncompatibleError: what cannot work, a line each.
    """
    run = _unopened(resolved)
    return run.hooks.refuse(run=run)


def _unopened(resolved: Resolved) -> Run:
    from hfx.protocols import World
    from hfx.run import Run

    return Run(resolved, Path(resolved.config.output or "runs/new"), World())


def _check(run: Run) -> None:
    for message in run.hooks.refuse(run=run):
        if _tells(run) and message not in run.warned:
            run.warned.add(message)
            print(f"hfx: warning: {message}", file=sys.stderr)


def _tells(run: Run) -> bool:
    """Return whether this process says what was found on the way; a launcher has said it before its processes."""
    return run.world.is_main and LAUNCHED not in os.environ
