"""The harness, with a model that is already there."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager, get_task_dict

from hfx.errors import ConfigError, HfxError, RemoteError, nearest

if TYPE_CHECKING:
    from hfx import Run
    from hfx_lm_eval.lm_eval import LmEval

T = TypeVar("T")


def write(run: Run, options: LmEval) -> None:
    """Let the run's model do the tasks; write down and print the figures of each."""
    for task, figures in done(run, options).items():
        run.log({"step": run.step, "event": "lm_eval", "task": task, **figures})
        told = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"hfx: {task} at step {run.step}: {told}", file=sys.stderr, flush=True)


def check(options: LmEval) -> None:
    """Get the tasks and their documents, so that what is missing shows before the first step.

    Raises:
        ConfigError: a task is unknown.
        RemoteError: a task's documents cannot be fetched.
    """
    manager = _manager(options)
    for task in options.tasks:
        if not manager.match_tasks([task]):
            hint = nearest(task, manager.all_tasks) or ""
            raise ConfigError(f"'lm_eval' knows no task '{task}';{hint} 'lm_eval ls tasks' lists them")
    with _quietly():
        _fetching(lambda: get_task_dict(list(options.tasks), manager))


def done(run: Run, options: LmEval) -> dict[str, dict[str, float]]:
    """Return the figures by task, without their standard errors."""
    run.module.eval()
    try:
        with _quietly(), run.precision.autocast():
            model = HFLM(
                pretrained=run.model, tokenizer=run.tokenizer, batch_size=options.batch_size,
                max_length=run.config.seq_length,
            )  # fmt: skip
            found = _fetching(
                lambda: simple_evaluate(
                    model=model, tasks=list(options.tasks), num_fewshot=options.fewshot, limit=options.limit,
                    bootstrap_iters=0, task_manager=_manager(options), log_samples=False, random_seed=None,
                    numpy_random_seed=None, torch_random_seed=None,
                )
            )  # fmt: skip
    finally:
        run.module.train()
    if found is None:
        raise HfxError("the lm-evaluation-harness returned nothing, as it does on ranks of its own")
    return {task: _figures(figures) for task, figures in found["results"].items()}


def _manager(options: LmEval) -> TaskManager:
    return TaskManager(include_path=None if options.include is None else str(options.include))


def _fetching(act: Callable[[], T]) -> T:
    """Do what may fetch documents."""
    try:
        return act()
    except (ConnectionError, FileNotFoundError) as error:
        said = next(iter(str(error).splitlines()), type(error).__name__)
        raise RemoteError(f"'lm_eval' cannot get the documents of its tasks: {said}") from error


def _figures(figures: dict[str, Any]) -> dict[str, float]:
    """Return a task's figures by plain names: `acc,none` is `acc`."""
    return {
        name.removesuffix(",none"): float(value)
        for name, value in figures.items()
        if isinstance(value, int | float) and "stderr" not in name and name not in ("alias", "sample_len")
    }


@contextmanager
def _quietly() -> Iterator[None]:
    """Leave random state, threads and logging as they were."""
    logger = logging.getLogger("lm_eval")
    level, threads = logger.level, torch.get_num_threads()
    logger.setLevel(logging.ERROR)
    try:
        with torch.random.fork_rng(), warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logger.setLevel(level)
        torch.set_num_threads(threads)
