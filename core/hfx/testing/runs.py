"""What is asked of a loop, and of what wraps one."""

from __future__ import annotations

import math

from hfx.checkpoint import newest
from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.examples import differing
from hfx.testing.training import continues_to_the_bit, trained, weights_after
from hfx.testing.witnesses import EventWitness, Failing, Stopper


def trains_every_step_of_the_run(bench: Bench) -> None:
    """And returns how it ended."""
    with bench.run() as run:
        result = trained(run)
        assert run.step == run.total_steps, f"the run has {run.total_steps} steps and ended at {run.step}"
        assert result.step == run.total_steps, f"the result says {result.step} steps"
        assert result.stopped is None, f"the result says that it was stopped by {result.stopped}"
        for name in ("loss", "eval_loss"):
            assert math.isfinite(result.metrics.get(name, math.nan)), f"the result has no '{name}'"


def tells_listeners_what_happened(bench: Bench) -> None:
    """Every step once, evaluations and checkpoints where they are due, and both at the end."""
    witness = EventWitness()
    with bench.run(witness, steps=5, eval_every=2, save_every=3) as run:
        trained(run)
        told: dict[str, list[int]] = {"step_end": [], "evaluated": [], "saved": []}
        for event, step, _ in run.local[witness.name]:
            told[event].append(step)
    expected = {"step_end": [1, 2, 3, 4, 5], "evaluated": [2, 4, 5], "saved": [3, 5]}
    for event, steps in expected.items():
        assert told[event] == steps, f"'{event}' was told at {told[event]}; it is due at {steps}"


def stops_with_a_checkpoint_when_asked(bench: Bench) -> None:
    """At the next step's boundary."""
    with bench.run(Stopper(after=2)) as run:
        result = trained(run)
        assert run.step < run.total_steps, "the run was asked to stop and went on to its end"
        assert result.stopped, "the run was asked to stop, and the result does not say so"
        _check_saved(run)


def _check_saved(run: Run) -> None:
    found = newest(run.output, run.world.size)
    assert found is not None, "there is no checkpoint"
    assert found.step == run.step, f"the run ended at step {run.step}, and its last checkpoint is of {found.step}"


def a_finished_run_has_a_checkpoint(bench: Bench) -> None:
    """Of its last step."""
    with bench.run() as run:
        trained(run)
        _check_saved(run)


def a_stopped_run_continues_to_the_bit(bench: Bench) -> None:
    """Without leaving a step out or making one twice."""
    continues_to_the_bit(bench)


def lets_failures_through(bench: Bench) -> None:
    """A run that failed must not look like one that ended well."""
    with bench.run(Failing()) as run:
        try:
            trained(run)
        except Exception:  # noqa: BLE001 - whichever it is
            return
    raise AssertionError("a step failed, and the run returned a result")


def training_is_as_it_would_be_without_it(bench: Bench) -> None:
    """What wraps a run looks on: weights and result are those of the run."""
    odd = differing(weights_after(bench), weights_after(bench, active=False))
    assert not odd, f"{odd[0] if odd else ''} and {len(odd) - 1} more end as others than without the plugin"


RUN = (
    trains_every_step_of_the_run,
    tells_listeners_what_happened,
    stops_with_a_checkpoint_when_asked,
    a_finished_run_has_a_checkpoint,
    a_stopped_run_continues_to_the_bit,
    lets_failures_through,
)
WRAPPER = (*RUN, training_is_as_it_would_be_without_it)
