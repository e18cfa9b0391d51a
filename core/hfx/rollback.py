"""Going back: a run is again as it was at a checkpoint, and goes on with the data behind what it had trained on since.

Whatever it decides by is in the checkpoint. So a run that is killed after it went back, and resumed from there, goes
the same way once more.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfx.errors import CollectiveError, DivergedError, StorageError

if TYPE_CHECKING:
    from hfx.checkpoint import Checkpoint
    from hfx.run import Run

KEPT = "hfx"
"""Where in a run's state it is kept how often it went back."""


@dataclass(frozen=True)
class Rollback:
    """What was asked for."""

    reason: str
    first_bad: int
    """The first step that is to be undone."""
    times: int
    """How often a run may go back without getting to a newer checkpoint."""
    otherwise: str
    """What else a user can do about it: an option."""


def roll_back(run: Run, asked: Rollback) -> None:
    """Go back to the newest valid checkpoint before the first bad step; all ranks call it at the same step.

    Raises:
        DivergedError: there is none, or the run went back as often as it may.
        StorageError: a newer checkpoint cannot be deleted, or a record not be cut.
    """
    run.at("going back to a checkpoint")
    run.finish_saving()
    left, ahead, micro = run.step, run.position, run.micro_batch_size
    past = dict(run.state[KEPT])
    last_good = asked.first_bad - 1
    found: Checkpoint | None = None
    if past.get("to") == last_good:  # nothing went well since it went back there: what was saved may be bad itself
        found = _agreed(run, last_good - 1)
    found = found or _agreed(run, last_good)
    if found is None:
        raise _diverged(run, asked, f"there is no checkpoint of step {last_good} or before to go back to")
    times = past.get("times", 0) + 1 if found.step <= past.get("to", -1) else 1
    if times > asked.times:
        raise _diverged(run, asked, f"to go back did not help ({times - 1} times)")
    if run.world.is_main:
        _drop_newer(run, found.step)
    _forget(run, found)
    run.restore(found)
    skipped = past.get("skipped", 0) + left - found.step
    more = skipped - run.state[KEPT].get("skipped", 0)
    run.state[KEPT].update(to=found.step, times=times, skipped=skipped)
    run.micro_batch_size = min(micro, run.micro_batch_size)
    run.move_to(ahead)
    run.log({
        "step": run.step + 1, "event": "rollback", "reason": asked.reason, "from": left, "to": found.step,
        "times": times, "skipped_batches": more,
    })  # fmt: skip
    if run.world.is_main:
        told = f"{asked.reason}; back to step {found.step}, and on behind the {more} batches trained on since"
        print(f"hfx: {told}", file=sys.stderr, flush=True)


def _diverged(run: Run, asked: Rollback, why: str) -> DivergedError:
    optimizer = run.resolved.roles["optimizer"].plugin
    return DivergedError(
        f"{asked.reason}, and {why}; lower the learning rate ('--{optimizer.replace('_', '-')}.lr'), keep more "
        f"checkpoints ('--save-every', '--keep'), or {asked.otherwise}"
    )


def _agreed(run: Run, step: int) -> Checkpoint | None:
    """Return the newest valid checkpoint at or before a step, as the main rank finds it; None where there is none."""
    import torch

    from hfx.checkpoint import newest

    found: Checkpoint | None = None
    if run.world.is_main:
        try:
            found = newest(run.output, run.world.size, step)
        except StorageError:
            found = None  # each was named
    if run.world.size == 1:
        return found
    chosen = int(run.backend.all_reduce(torch.tensor([found.step + 1 if found else 0], dtype=torch.float64))) - 1
    if chosen >= 0 and found is None:
        found = newest(run.output, run.world.size, chosen)
    if chosen >= 0 and (found is None or found.step != chosen):
        raise CollectiveError(
            f"rank {run.world.rank} does not see the checkpoint of step {chosen}, which rank 0 goes back to; all "
            f"machines need to see '{run.output}'"
        )
    return found


def _drop_newer(run: Run, step: int) -> None:
    """Delete the checkpoints of steps that are undone: a run that is killed now would go on from them."""
    from hfx.checkpoint import candidates, step_of
    from hfx.saving import remove

    for path in candidates(run.output):
        if (step_of(path) or 0) > step:
            remove(path)
            if path.exists():
                raise StorageError(f"'{path}' is of undone steps and cannot be deleted; delete it, then resume")


def _forget(run: Run, found: Checkpoint) -> None:
    """Drop what plugins keep since: whatever the checkpoint has of them is all they had."""
    saved = {(name, key) for name, values in found.state["state"].items() for key in values}
    tensors = [full.split(".", 2) for full in found.names() if full.startswith("state.")]
    saved |= {(name, key) for _, name, key in tensors}
    # What a plugin that came later made while the run was built stays: it has nothing else to go on from.
    for name in set(run.state) - (run.built_with or frozenset()):
        run.state[name].clear()
    for name in {name for name, _ in saved} | {KEPT}:
        for key in [key for key in run.state[name] if (name, key) not in saved]:
            del run.state[name][key]
