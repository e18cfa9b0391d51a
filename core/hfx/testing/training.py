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
    """Stop a run after two steps, go on from its checkpoint in a new one, and return the weights at the end."""
    with bench.run(Stopper(), output=output, **given) as run:
        trained(run)
    with bench.run(Stopper(after=10_000), output=output, **given) as run:
        found = newest(output, 1)
        assert found is not None, "a run that was stopped left no checkpoint"
        assert found.step < run.total_steps, f"a stopped run left a checkpoint of step {found.step} only"
        run.build()
        run.restore(found)
        run.hooks.run(run=run)
        return weights(run.model)


def continues_to_the_bit(bench: Bench, **given: Any) -> None:
    """Assert that a run which was stopped and continued ends with the weights of one that was not."""
    whole = weights_after(bench, Stopper(after=10_000), **given)
    odd = differing(whole, stopped_and_continued(bench, bench.fresh("stopped"), **given))
    assert not odd, f"{odd[0]} and {len(odd) - 1} more differ between a run that was continued and one that was not"
