"""What is asked of an export: a folder that plain transformers loads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import transformers

from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.examples import differing, logits_of, shortest_and_longest, weights
from hfx.testing.tiny import SENTENCE, without_bars
from hfx.testing.training import trained

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt")


@contextmanager
def _exported(bench: Bench) -> Iterator[tuple[Run, Path]]:
    """Yield a run that was trained, and the folder it was exported into."""
    with bench.run() as run:
        trained(run)
        path = bench.fresh("export") / "model"
        with without_bars():
            returned = run.hooks.export(run=run, path=path)
        assert returned == path, f"the export returns '{returned}'; it was to write into '{path}'"
        yield run, path


def it_returns_the_folder_it_filled(bench: Bench) -> None:
    """Which is the one that it was given."""
    with _exported(bench) as (_, path):
        assert path.is_dir(), "the export made no folder"
        assert any(path.iterdir()), "the export left its folder empty"


def the_model_loads_with_the_trained_weights(bench: Bench) -> None:
    """With the task's class of transformers, to the outputs that the run's model has."""
    with _exported(bench) as (run, path):
        with without_bars():
            loaded = getattr(transformers, run.task.model_class).from_pretrained(path)
        row = shortest_and_longest(run)[1]
        found, expected = (logits_of(run, model.to(run.device).eval(), row) for model in (loaded, run.model))
        assert torch.allclose(found, expected, atol=1e-5), "the exported model has other outputs than the trained one"


def the_model_loads(bench: Bench) -> None:
    """With the task's class of transformers, to finite outputs; a wrapper may export other weights."""
    with _exported(bench) as (run, path):
        with without_bars():
            loaded = getattr(transformers, run.task.model_class).from_pretrained(path)
        found = logits_of(run, loaded.to(run.device).eval(), shortest_and_longest(run)[1])
        assert bool(torch.isfinite(found).all()), "an output of the exported model is not finite"


def the_tokenizer_loads(bench: Bench) -> None:
    """From the same folder, to the same ids."""
    with _exported(bench) as (run, path):
        with without_bars():
            loaded = transformers.AutoTokenizer.from_pretrained(path)
        assert loaded.encode(SENTENCE) == run.tokenizer.encode(SENTENCE), "the exported tokenizer has other ids"


def it_writes_no_pickle(bench: Bench) -> None:
    """Loading one runs whatever is in it."""
    with _exported(bench) as (_, path):
        found = [file.name for file in path.rglob("*") if file.suffix in PICKLES]
        assert not found, f"the export wrote '{found[0] if found else ''}'; weights belong into safetensors"


def it_leaves_the_model_as_it_was(bench: Bench) -> None:
    """A run may go on after an export."""
    with bench.run() as run:
        trained(run)
        before, dtypes, training = weights(run.model), _dtypes(run), run.model.training
        with without_bars():
            run.hooks.export(run=run, path=bench.fresh("export") / "model")
        odd = differing(before, weights(run.model))
        assert not odd, f"the export changes {odd[0] if odd else ''}"
        assert _dtypes(run) == dtypes, "the export changes the dtype of parameters, or which of them are trained"
        assert run.model.training == training, "the export leaves the model in another mode"


def _dtypes(run: Run) -> dict[str, tuple[torch.dtype, bool]]:
    return {name: (p.dtype, p.requires_grad) for name, p in run.model.named_parameters()}


EXPORT = (
    it_returns_the_folder_it_filled,
    the_model_loads_with_the_trained_weights,
    the_tokenizer_loads,
    it_writes_no_pickle,
    it_leaves_the_model_as_it_was,
)
WRAPPER = (
    it_returns_the_folder_it_filled,
    the_model_loads,
    the_tokenizer_loads,
    it_writes_no_pickle,
    it_leaves_the_model_as_it_was,
)
