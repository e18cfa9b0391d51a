"""The checkpoint that a run chose: it is kept, and its model is what the run exports instead of the last step's."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from hfx.errors import StorageError

if TYPE_CHECKING:
    from hfx.protocols import Values
    from hfx.run import Run

KEPT = "hfx"
"""Where in a run's state it is kept which one that is."""


def choose(run: Run, why: str) -> None:
    """Note the step that was just evaluated as the chosen one, in what its checkpoint will hold."""
    run.state[KEPT].update(chosen=run.step, chosen_for=why)


def chosen_in(state: Values) -> int | None:
    """Return the step that plugins' values, as a checkpoint holds them, name as the chosen one; None for none."""
    found: Any = state.get(KEPT, {}).get("chosen")
    return found if isinstance(found, int) else None


def take_chosen(run: Run) -> None:
    """Give the model the weights of the chosen checkpoint, and plugins what they kept with them, before the export.

    Raises:
        StorageError: the checkpoint is damaged or gone; nothing was loaded.
    """
    from hfx.checkpoint import folder_of, open_checkpoint
    from hfx.state import restore_plugins

    step, why = chosen_in(run.state), run.state[KEPT].get("chosen_for") if KEPT in run.state else None
    if step is None or step == run.step:
        return
    try:
        found = open_checkpoint(folder_of(run.output, step), run.world.size)
    except StorageError as error:
        raise StorageError(
            f"{error}; it was chosen for {why}. 'hfx export {run.output} --checkpoint {run.step}' exports the last one"
        ) from error
    run.backend.load(found)
    for kept in run.state.values():
        kept.clear()  # what came later than that step has no part in its model
    restore_plugins(run, found)
    if run.world.is_main:
        print(f"hfx: the model is that of step {step} of {run.step}: {why}", file=sys.stderr, flush=True)
