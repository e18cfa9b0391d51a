"""The Trainer of transformers in place of hfx's own loop."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from hfx import Plugin, Problem, Run, RunResult, hookimpl

_HOLDING = ("auto_backend", "ddp")
_LEAVE = "or leave 'hf_trainer' out: hfx's own loop trains it"


class HfTrainer(Plugin):
    """Let `transformers.Trainer` drive the run: its control flow, backward pass, clipping and callbacks.

    Data, their order, the loss, optimizer, schedule, evaluations and checkpoints are the run's, so the losses are those
    of hfx's own loop, and a run may be resumed with either. The Trainer writes no files. Callbacks are named by
    `callbacks`. It trains in one process, or in several that each hold the model (DDP). Memory that ends in a step ends
    the run: no smaller micro-batch is tried.
    """

    unverified: ClassVar[str] = "no GPU was at hand; on CPUs its losses are those of hfx's own loop"

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what the Trainer cannot drive."""
        backend = run.resolved.roles["backend"].plugin
        if backend not in _HOLDING:
            yield Problem(
                f"'hf_trainer' trains a model that each process holds, and '{backend}' shares it out; "
                f"use '--plugin auto_backend', {_LEAVE}"
            )
        for wrapper in run.hooks.wrappers("hfx_backend"):
            yield Problem(
                f"'hf_trainer' lets the Trainer make the update, and '{wrapper.name}' makes it elsewhere; "
                f"add '--plugin no:{wrapper.name}', {_LEAVE}"
            )
        if run.resolved.roles["precision"].plugin == "fp16":
            yield Problem(f"'hf_trainer' scales no loss, and 'fp16' needs it scaled; use '--plugin bf16', {_LEAVE}")

    @hookimpl
    def hfx_run(self, run: Run) -> RunResult:
        """Train by the Trainer.

        Raises:
            IncompatibleError: the backend or the precision of another package needs a loop of hfx, or transformers has
                another Trainer than this one was made for.
        """
        from hfx_plugins.loops.hf_trainer_impl import train

        return train(run)
