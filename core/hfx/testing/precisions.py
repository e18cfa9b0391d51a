"""What is asked of a precision."""

from __future__ import annotations

import torch

from hfx.testing.bench import Bench
from hfx.testing.examples import evaluating, loss_at, weights
from hfx.testing.training import continues_to_the_bit, trained


def it_names_a_floating_dtype(bench: Bench) -> None:
    """The model is built in it."""
    with bench.run() as run:
        dtype = run.precision.dtype
        assert isinstance(dtype, torch.dtype), f"`dtype` is {dtype!r}; it has to be a torch.dtype"
        assert dtype.is_floating_point, f"`dtype` is {dtype}; a model is trained in floating-point numbers"


def it_says_why(bench: Bench) -> None:
    """One phrase, shown before step 1."""
    with bench.run() as run:
        why = run.precision.why
        assert isinstance(why, str), f"`why` is {why!r}; it has to be text"
        assert why.strip(), "`why` is empty"
        assert "\n" not in why, "`why` is more than one line"


def its_scaler_is_torchs_or_none(bench: Bench) -> None:
    """The core steps and saves it."""
    with bench.run() as run:
        scaler = run.precision.scaler
        assert scaler is None or isinstance(scaler, torch.amp.GradScaler), f"`scaler` is {scaler!r}"


def converting_keeps_every_parameter(bench: Bench) -> None:
    """Checkpoints and exports go by the parameters' names."""
    with bench.run() as run, bench.run(active=False) as plain:
        assert isinstance(run.model, torch.nn.Module), "`convert` returns no module"
        missing = weights(plain.model).keys() - weights(run.model).keys()
        assert not missing, f"the model lacks '{min(missing)}' and {len(missing) - 1} more after `convert`"


def its_loss_is_near_that_of_fp32(bench: Bench) -> None:
    """Within a twentieth, and finite."""
    with bench.run() as run, bench.run(active=False) as plain, evaluating(run), evaluating(plain):
        found, exact = float(loss_at(run, 0, 1, 2)), float(loss_at(plain, 0, 1, 2))
        assert abs(found - exact) < 0.05 * exact, f"the loss of a batch is {found:.4f}, in fp32 {exact:.4f}"


def steps_change_the_weights(bench: Bench) -> None:
    """A whole run, whose weights and losses are numbers."""
    with bench.run() as run:
        before = weights(run.model)
        result = trained(run)
        after = weights(run.model)
        assert result.metrics["loss"] == result.metrics["loss"], "the loss of the last step is no number"
        assert all(bool(torch.isfinite(tensor).all()) for tensor in after.values()), "a weight is not finite"
        assert any(not torch.equal(before[name], after[name]) for name in before), "no weight has changed"


def a_run_in_it_continues_to_the_bit(bench: Bench) -> None:
    """A scaler is restored with the run."""
    continues_to_the_bit(bench)


PRECISION = (
    it_names_a_floating_dtype,
    it_says_why,
    its_scaler_is_torchs_or_none,
    converting_keeps_every_parameter,
    its_loss_is_near_that_of_fp32,
    steps_change_the_weights,
    a_run_in_it_continues_to_the_bit,
)
