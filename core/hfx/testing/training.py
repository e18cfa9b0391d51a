"""Whole tiny runs: trained to the end, or stopped and continued from the checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.checkpoint import newest
from hfx.plugin import Plugin
from hfx.protocols import RunResult
from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, weights
from hfx.testing.witnesses import Stopper

if TYPE_CHECKING:
    import torch

STOPS = (Stopper(after=1), Stopper(after=4), Stopper(after=10_000))
"""The boundary at which a run stops is the one after the step at which it is asked."""


def trained(run: Run) -> RunResult:
    """Build every part of a run and train it, as `hfx.train` does."""
    run.build()
    return run.hooks.run(run=run)


def weights_after(bench: Bench, *others: Plugin, **given: Any) -> dict[str, torch.Tensor]:
    """Return the weights at the end of a run."""
    with bench.run(*others, **given) as run:
        trained(run)
        return weights(run.model)


def stopped_and_continued(bench: Bench, output: Path, **given: Any) -> dict[str, torch.Tensor]:
    """Stop a run twice, each time going on from its checkpoint in a new one, and return the weights at the end.

    It stops after steps 2 and 5 of 7, so that what comes back every few steps is not always in step with the stops.
    """
    step = 0
    for stopper in STOPS:
        with bench.run(stopper, output=output, **given) as run:
            run.build()
            if step:
                found = newest(output, 1)
                assert found is not None, "a run that was stopped left no checkpoint"
                assert found.step == step, f"a run was stopped at step {step} and left a checkpoint of {found.step}"
                run.restore(found)
            run.hooks.run(run=run)
            step = run.step
            assert step == run.total_steps or stopper is not STOPS[-1], f"a run that was continued ended at step {step}"
            assert step < run.total_steps or stopper is STOPS[-1], "a run that was asked to stop went on to its end"
            end = weights(run.model)
    return end


def continues_to_the_bit(bench: Bench, **given: Any) -> None:
    """Assert that a run which was stopped and continued ends with the weights of one that was not."""
    whole = weights_after(bench, STOPS[-1], **given)
    odd = differing(whole, stopped_and_continued(bench, bench.fresh("stopped"), **given))
    assert not odd, f"{odd[0]} and {len(odd) - 1} more differ between a run that was continued and one that was not"
