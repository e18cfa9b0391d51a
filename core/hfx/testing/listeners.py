"""What is asked of a listener: it looks on, and what it remembers can be saved."""

from __future__ import annotations

from typing import Any

from hfx.testing.bench import Bench
from hfx.testing.examples import differing
from hfx.testing.training import continues_to_the_bit, trained, weights_after
from hfx.testing.witnesses import EarlyWitness, EventWitness

EVENTS = ("hfx_step_end", "hfx_evaluated", "hfx_saved")
OFTEN: dict[str, Any] = {"steps": 3, "eval_every": 1, "save_every": 1}


def training_is_as_it_would_be_without_it(bench: Bench) -> None:
    """The weights after three steps, each with an evaluation and a checkpoint, are the same to the bit."""
    odd = differing(weights_after(bench, **OFTEN), weights_after(bench, active=False, **OFTEN))
    assert not odd, f"{odd[0] if odd else ''} and {len(odd) - 1} more end as others than without the plugin"


def figures_are_the_same_before_and_after_it(bench: Bench) -> None:
    """Listeners share the figures; one that changes them makes the others depend on their order."""
    early, late = EarlyWitness(), EventWitness()
    with bench.run(late, before=[early], **OFTEN) as run:
        trained(run)
        before, after = run.local[early.name], run.local[late.name]
    assert before == after, "figures or events are others for a listener that comes after the plugin"


def the_run_goes_on_to_its_end(bench: Bench) -> None:
    """Nothing in a plain run of three steps asks for its end, nor fails."""
    with bench.run(**OFTEN) as run:
        result = trained(run)
        assert result.stopped is None, f"the plugin stops a plain run: {result.stopped}"
        assert result.step == 3, f"a run of 3 steps ended at {result.step}"


def what_it_remembers_is_saved(bench: Bench) -> None:
    """`run.state` holds tensors and JSON values, with which a stopped run continues to the bit."""
    continues_to_the_bit(bench)


LISTENER = (
    training_is_as_it_would_be_without_it,
    figures_are_the_same_before_and_after_it,
    the_run_goes_on_to_its_end,
    what_it_remembers_is_saved,
)
MIXED = (figures_are_the_same_before_and_after_it, what_it_remembers_is_saved)
"""Of a plugin that also has a part in the training itself."""
