"""Updates inside the backward pass (LOMO, https://arxiv.org/abs/2306.09782, for any optimizer)."""

from __future__ import annotations

from collections.abc import Generator, Iterator

from hfx import Backend, PlainScript, Plugin, Problem, Run, hookimpl

_CANNOT = {
    "fp16": "scales the loss and has to see all gradients before an update; use '--plugin bf16'",
    "schedule_free": "counts its steps for all parameters together; use '--plugin adamw'",
}
_SHARING = ("ddp", "fsdp", "zero")
"""Backends that share gradients out, or add them up, after the backward pass."""


class OptimizerInBackward(Plugin):
    """Update each parameter as soon as its gradient is there, and free it: gradients are never held all at once.

    Updates are those of a run without it and without clipping, to the bit. It saves as many bytes as there are trained
    parameters, where a step is one micro-batch; micro-batches add up gradients, which then are held. A step whose first
    gradient is not finite is skipped; a later one ends the run, since what came before it is updated already.
    """

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report what needs all gradients at once, and a step of several micro-batches."""
        config = run.config
        several = run.world.size > 1 or config.nproc not in (1, "auto") or config.nnodes != "1"
        if several or any(active.name in _SHARING for active in run.active):
            yield Problem(
                "'optimizer_in_backward' updates in one process that holds all gradients, and this run shares them; "
                "leave it out, or train in one process with '--plugin auto_backend'"
            )
        if config.max_grad_norm is not None:
            yield Problem(
                "'optimizer_in_backward' cannot clip by the norm of all gradients; "
                "set '--max-grad-norm none', or leave 'optimizer_in_backward' out"
            )
        for active in run.active:
            if active.name in _CANNOT:
                yield Problem(
                    f"'optimizer_in_backward' cannot update beside '{active.name}', which {_CANNOT[active.name]}"
                )
        if config.micro_batch_size * run.world.size < config.batch_size:
            yield Problem(
                f"'optimizer_in_backward' saves nothing where a step has several micro-batches; set "
                f"'--micro-batch-size {config.batch_size}', or leave it out",
                fatal=False,
            )

    @hookimpl(wrapper=True)
    def hfx_backend(self, run: Run) -> Generator[None, Backend, Backend]:
        """Return a backend of one process that updates in its backward pass.

        Raises:
            IncompatibleError: the backend reduces or shards gradients, or the precision scales them.
        """
        from hfx_plugins.memory.optimizer_in_backward_impl import InBackward

        backend = yield
        return InBackward.instead_of(backend, run)

    @hookimpl
    def hfx_eject(self, script: PlainScript) -> None:
        """Say that it is left out."""
        script.say(f"'{self.name}': it frees gradients earlier, for the same update")
