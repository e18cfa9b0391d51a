"""The training loop."""

from __future__ import annotations

from hfx import Plugin, Run, RunResult, hookimpl


class Loop(Plugin):
    """Trains step by step: batch, update, evaluation, checkpoint."""

    @hookimpl
    def hfx_run(self, run: Run) -> RunResult:
        # A run that was stopped between a step and its evaluation makes up for it here, and saves it with the step.
        if run.step and run.evaluation_due():
            run.evaluate()
            if run.save_due():
                run.save()
        for batch in run.batches():
            run.train_step(batch)
            if run.evaluation_due() and not run.stopping:
                run.evaluate()
            if run.save_due():
                run.save()
        return run.result()
