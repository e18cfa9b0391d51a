"""Which of two evaluations is the better one, by a figure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from hfx import Problem
from hfx.errors import ConfigError, nearest

if TYPE_CHECKING:
    from hfx import Run

LOWER = ("loss", "perplexity", "error", "mse", "mae", "rmse", "wer", "cer", "bits_per_byte")
"""Ends of the names of figures that are the better, the lower they are."""


def rises(metric: str, higher: bool | None) -> bool:
    """Return whether more of a figure is better: what was said, or what its name tells."""
    return not f"_{metric}".endswith(tuple(f"_{name}" for name in LOWER)) if higher is None else higher


def value_of(metrics: Mapping[str, float], metric: str, plugin: str) -> float:
    """Return an evaluation's figure.

    Raises:
        ConfigError: it has none of this name.
    """
    if metric in metrics:
        return float(metrics[metric])
    own = [name for name in metrics if name.startswith("eval_")]
    hint = nearest(metric, own) or ""
    raise ConfigError(
        f"'{plugin}.metric' is '{metric}', and an evaluation has {', '.join(own)};{hint} name one of them"
    )


def better(value: float, best: float | None, higher: bool, by: float = 0.0) -> bool:
    """Return whether a figure is better than the best so far, by more than so much; what is not finite never is."""
    if not math.isfinite(value):
        return False
    return best is None or (value - best if higher else best - value) > by


def nothing_to_compare(run: Run, plugin: str) -> Iterator[Problem]:
    """Yield what is wrong where a run has no evaluations to compare."""
    if run.config.eval_data is None and run.config.eval_share == 0:
        yield Problem(f"'{plugin}' compares evaluations, and there are no rows for them; add '--eval-data PATH'")
    elif run.config.eval_every is None:
        yield Problem(f"'{plugin}' compares evaluations, and there is one, at the end; add '--eval-every STEPS'")
