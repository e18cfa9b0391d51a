"""What is asked of a model, and of what wraps one."""

from __future__ import annotations

import random

import numpy as np
import torch
import transformers

from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.examples import collate, differing, evaluating, logits_of, loss_at, shortest_and_longest, weights
from hfx.testing.tiny import without_bars
from hfx.testing.training import continues_to_the_bit
from hfx.testing.witnesses import HalfWidth


def is_a_model_of_transformers(bench: Bench) -> None:
    """What the task, the export and `from_pretrained` expect."""
    with bench.run() as run:
        model = run.model
        name = type(model).__name__
        assert isinstance(model, transformers.PreTrainedModel), f"the model is a {name}; it has to be a PreTrainedModel"


def its_parameters_have_the_dtype_of_the_precision(bench: Bench) -> None:
    """Unless an option says otherwise."""
    for others in ([],) if bench.provides("precision") else ([], [HalfWidth()]):
        with bench.run(*others) as run:
            odd = [n for n, p in run.model.named_parameters() if p.dtype != run.precision.dtype]
            assert not odd, f"{odd[0]} and {len(odd) - 1} more are not in {run.precision.dtype}"


def built_twice_it_is_the_same(bench: Bench) -> None:
    """New weights follow from the run's seed, not from the random state that the process happens to have."""
    with bench.run() as run:
        first = weights(run.model)
    random.seed(99)
    np.random.seed(99)
    torch.manual_seed(99)
    with bench.run() as run:
        odd = differing(first, weights(run.model))
    assert not odd, f"{odd[0]} and {len(odd) - 1} more differ when the model is built again with the same seed"


def it_has_an_embedding_for_every_token(bench: Bench) -> None:
    """An id without one fails in the middle of a run, on a GPU without saying why."""
    with bench.run() as run:
        rows = run.model.get_input_embeddings().weight.shape[0]
        assert rows >= len(run.tokenizer), f"the model has {rows} embeddings for {len(run.tokenizer)} tokens"


def its_loss_is_finite_on_the_longest_row(bench: Bench) -> None:
    """Which fills a sequence."""
    with bench.run() as run, evaluating(run):
        loss_at(run, *shortest_and_longest(run))


def the_same_row_has_the_same_loss(bench: Bench) -> None:
    """Evaluations are compared."""
    with bench.run() as run, evaluating(run):
        assert torch.equal(loss_at(run, 0, 1), loss_at(run, 0, 1)), "evaluating the same rows gives another loss"


def some_parameter_can_be_trained(bench: Bench) -> None:
    """Its gradient is finite."""
    with bench.run() as run:
        run.model.to(run.device)
        run.model.train()
        trainable = [p for p in run.model.parameters() if p.requires_grad]
        assert trainable, "no parameter of the model requires a gradient"
        torch.autograd.backward(run.task.loss(run.model, collate(run, [[0], [1]])))
        gradients = [p.grad for p in trainable if p.grad is not None]
        assert any(bool(gradient.any()) for gradient in gradients), "no parameter gets a gradient"
        assert all(bool(torch.isfinite(gradient).all()) for gradient in gradients), "a gradient is not finite"


def it_can_be_saved_and_loaded(bench: Bench) -> None:
    """With `save_pretrained` and the task's class, to the same output."""
    with bench.run() as run, evaluating(run):
        folder = bench.fresh("model")
        with without_bars():
            run.model.save_pretrained(folder)
            loaded = getattr(transformers, run.task.model_class).from_pretrained(folder)
        row = shortest_and_longest(run)[1]
        found, expected = logits_of(run, loaded.to(run.device).eval(), row), logits_of(run, run.model, row)
        assert torch.allclose(found, expected, atol=1e-5), "the model has other outputs once saved and loaded"


def frozen_parameters_stay_and_others_learn(bench: Bench) -> None:
    """A whole run changes those that require a gradient, and no others."""
    with bench.run() as run:
        run.build()
        before, learns = weights(run.model), _trainable(run)
        run.hooks.run(run=run)
        moved = set(differing(before, weights(run.model)))
        assert moved, "a run changes no parameter"
        assert moved <= learns, f"{min(moved - learns, default='')} is frozen and changes"


def _trainable(run: Run) -> set[str]:
    return {name for name, parameter in run.model.named_parameters() if parameter.requires_grad}


def a_run_of_it_continues_to_the_bit(bench: Bench) -> None:
    """What the model is follows from config and checkpoint."""
    continues_to_the_bit(bench)


WRAPPER = (
    is_a_model_of_transformers,
    built_twice_it_is_the_same,
    its_loss_is_finite_on_the_longest_row,
    the_same_row_has_the_same_loss,
    some_parameter_can_be_trained,
    frozen_parameters_stay_and_others_learn,
    a_run_of_it_continues_to_the_bit,
)
MODEL = (
    *WRAPPER,
    its_parameters_have_the_dtype_of_the_precision,
    it_has_an_embedding_for_every_token,
    it_can_be_saved_and_loaded,
)
