"""What is asked of a backend, tried on one process: the arithmetic of plain gradient descent, and state by name."""

from __future__ import annotations

import math

import torch
from torch.distributed.tensor import DTensor

from hfx.errors import IncompatibleError
from hfx.protocols import StepResult
from hfx.run import Run
from hfx.testing.bench import Bench, as_json
from hfx.testing.examples import close, collate, differing, weights
from hfx.testing.training import continues_to_the_bit, weights_after
from hfx.testing.witnesses import PlainDescent

ROWS = [[0], [1], [2]]


def _step(run: Run, factor: float = 1.0, max_norm: float | None = None) -> StepResult:
    """Take a step of one micro-step along the gradient of `factor` times the loss of three rows."""
    units = int(run.table("train").column("units")[:3].sum())
    with run.backend.micro_step(last=True):
        loss = run.module(collate(run, ROWS))
        run.backend.backward(loss * (factor / units))
    result = run.backend.step(max_norm)
    assert isinstance(result, StepResult), f"`step` returns a {type(result).__name__}; it has to be a StepResult"
    return result


def _unless_refused(run: Run, max_norm: float | None) -> StepResult | None:
    """Return what a step did; None where the backend refuses to clip, which it has to say."""
    try:
        return _step(run, max_norm=max_norm)
    except IncompatibleError:
        if max_norm is None:
            raise
        return None


def _norm_by_hand(bench: Bench) -> float:
    with bench.run(active=False) as run:
        run.model.to(run.device)
        units = int(run.table("train").column("units")[:3].sum())
        loss = run.task.loss(run.model, collate(run, ROWS)) / units
        gradients = torch.autograd.grad(loss, list(run.model.parameters()))
        return float(torch.stack([gradient.norm() for gradient in gradients]).norm())


def _distance(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> float:
    return math.sqrt(sum(float((after[name] - before[name]).double().square().sum()) for name in before))


def micro_steps_add_up_to_one_step(bench: Bench) -> None:
    """However the batch is cut, the gradient is that of the whole."""
    whole = weights_after(bench, PlainDescent(), steps=2, micro_batch_size=4)
    for size in (1, 3):
        cut = weights_after(bench, PlainDescent(), steps=2, micro_batch_size=size)
        odd = [name for name in whole if not close(whole[name], cut[name], 1e-5)]
        assert not odd, f"with {size} rows at a time {odd[0]} ends as another tensor"


def training_is_that_of_plain_torch(bench: Bench) -> None:
    """Neither the gradient nor the update is scaled."""
    own, plain = (weights_after(bench, PlainDescent(lr=0.1), active=active) for active in (True, False))
    odd = [name for name in plain if not close(own[name], plain[name])]
    assert not odd, f"after seven steps {odd[0]} and {len(odd) - 1} more are others than without the backend"


def a_step_reports_the_norm_before_clipping(bench: Bench) -> None:
    """The figure in `metrics.jsonl` is the gradient's own."""
    expected = _norm_by_hand(bench)
    for max_norm in (None, expected / 4):
        with bench.run(PlainDescent()) as run:
            run.build()
            result = _unless_refused(run, max_norm)
        if result is None:
            continue
        found = result.norm
        assert math.isclose(found, expected, rel_tol=1e-4), f"the norm is {expected:.5f}, and `step` says {found:.5f}"


def clipping_shortens_the_step(bench: Bench) -> None:
    """To the norm that is asked for, and only where the gradient is longer."""
    norm = _norm_by_hand(bench)
    for max_norm in (norm / 4, norm * 4, None):
        with bench.run(PlainDescent()) as run:
            run.build()
            before = weights(run.model)
            if _unless_refused(run, max_norm) is None:
                continue
            found, expected = _distance(before, weights(run.model)), min(norm, max_norm or math.inf)
        assert math.isclose(found, expected, rel_tol=1e-3), f"a step of {expected:.5f} is {found:.5f} long"


def a_step_clears_the_gradients(bench: Bench) -> None:
    """What is left over would be added to the next step."""
    with bench.run(PlainDescent()) as run:
        run.build()
        _step(run)
        again = _step(run, factor=0.0)
        assert again.norm == 0, f"after a step, a loss of zero has a gradient of norm {again.norm:.5f}"


def a_gradient_that_is_no_number_is_skipped(bench: Bench) -> None:
    """The weights stay, the result says so, and the next step is a normal one."""
    with bench.run(PlainDescent()) as run:
        run.build()
        before = weights(run.model)
        result = _step(run, factor=math.nan)
        odd = differing(before, weights(run.model))
        assert not odd, f"a gradient that is no number changes {odd[0]}"
        assert result.skipped, "`step` does not say that it skipped the update"
        assert not _step(run).skipped, "the step after a skipped one is skipped too"
        assert differing(before, weights(run.model)), "the step after a skipped one changes nothing"


def reducing_over_one_process_changes_nothing(bench: Bench) -> None:
    """The sum over one is the number itself."""
    with bench.run() as run:
        tensor = torch.tensor([1.5, -2.0, 0.0], dtype=torch.float64)
        reduced = run.backend.all_reduce(tensor.clone())
        assert torch.equal(reduced.cpu(), tensor), f"{tensor.tolist()} becomes {reduced.tolist()}"
        run.backend.barrier()


def its_state_is_by_parameter_name(bench: Bench) -> None:
    """`model.NAME` for every parameter, whatever the engine does with them; the rest is JSON."""
    with bench.run(active=False) as plain:
        names = {f"model.{name}" for name, _ in plain.model.named_parameters()}
    with bench.run() as run:
        run.build()
        _step(run)
        tensors, values = run.backend.state()
        missing = names - tensors.keys()
        assert not missing, f"`state` lacks '{min(missing)}' and {len(missing) - 1} more parameters"
        odd = [name for name in tensors if name not in names and not name.startswith(("model.", "optim."))]
        assert not odd, f"`state` has '{odd[0] if odd else ''}'; names begin with 'model.' or 'optim.'"
        assert any(name.startswith("optim.") for name in tensors), "`state` has no state of the optimizer"
        assert all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()), "`state` has what is no tensor"
        as_json(values, "the second part of `state`")


def exporting_yields_the_whole_model(bench: Bench) -> None:
    """As the model's own `state_dict` would be, with the weights as they are now."""
    with bench.run(active=False) as plain:
        names = plain.model.state_dict().keys()
    with bench.run() as run:
        run.build()
        _step(run)
        tensors, _ = run.backend.state()
        with run.backend.exporting() as state:
            assert state.keys() == names, f"the export lacks or adds {sorted(state.keys() ^ names)[:2]}"
            for name, tensor in state.items():
                now = tensors.get(f"model.{name}")
                now = now.full_tensor() if isinstance(now, DTensor) else now
                assert now is None or torch.equal(tensor.cpu(), now.cpu()), f"'{name}' is exported as it was before"


def a_run_on_it_continues_to_the_bit(bench: Bench) -> None:
    """`load` restores what `state` returned."""
    continues_to_the_bit(bench)


BACKEND = (
    micro_steps_add_up_to_one_step,
    training_is_that_of_plain_torch,
    a_step_reports_the_norm_before_clipping,
    clipping_shortens_the_step,
    a_step_clears_the_gradients,
    a_gradient_that_is_no_number_is_skipped,
    reducing_over_one_process_changes_nothing,
    its_state_is_by_parameter_name,
    exporting_yields_the_whole_model,
    a_run_on_it_continues_to_the_bit,
)
