"""The part of `hfx export` that builds the model: without the data, without an engine, and mostly without optimizer."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from hfx.checkpoint import Checkpoint
from hfx.claim import claimed
from hfx.cli.export import refuse_others
from hfx.loaded import explained, load, remember
from hfx.manager import ask_the_policys_plugins
from hfx.protocols import World
from hfx.run import Run

if TYPE_CHECKING:
    from hfx.resolve import Resolved


def export(resolved: Resolved, output: Path, found: Checkpoint, target: Path) -> Path:
    """Write the model of a checkpoint of the run in `output`, and return where it is.

    Raises:
        HfxError: whatever the parts that are built refuse; `target` then is as it was.
    """
    run = Run(resolved, output, World())
    inside = target.absolute().parent == output.absolute()
    with explained(run):
        ask_the_policys_plugins(run)
        with claimed(output) if inside else nullcontext():
            remember(run, output, held_out=run.config.eval_data is None)
            load(run, found)
            return _write(run, target)


# ── the folder ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _write(run: Run, target: Path) -> Path:
    """Let the export write beside the target, and put what is whole in its place, folders beside it (`-ema`) too."""
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=".export-", dir=target.parent))
    try:
        written = run.hooks.export(run=run, path=draft / target.name)
        made = sorted(draft.iterdir())
        for folder in made:
            refuse_others(target.with_name(folder.name), run.output)
        for folder in made:
            _replace(target.with_name(folder.name), folder, draft)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target if written == draft / target.name else written


def _replace(place: Path, folder: Path, draft: Path) -> None:
    if place.exists():
        place.replace(draft / f"{place.name}.before")
    folder.replace(place)
