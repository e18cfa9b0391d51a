"""Where the time of a step goes."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import Field, PositiveInt

from hfx import Plugin, Problem, Run, hookimpl


class Profile(Plugin):
    """Record some steps with torch's profiler: a trace for https://ui.perfetto.dev, and a table of the operators.

    Both are in the folder `profile` of the run's output, for every rank. What is trained is the same to the bit; the
    recorded steps take longer. What lies between two of them, an evaluation or a checkpoint, is recorded, too.
    """

    start: int = Field(default=3, ge=2)
    """The first step recorded, counted from where this process begins; the first of all is left out, as it warms up."""
    steps: PositiveInt = 3
    """How many steps are recorded; each takes some megabytes of memory and disk."""
    memory: bool = False
    """Record what operators allocate, too."""
    shapes: bool = False
    """Record the shapes of their inputs, too, and list each shape apart."""
    top: PositiveInt = 30
    """Rows of the table."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Warn of a window behind the end of the run."""
        steps = run.config.steps
        if steps is not None and steps < self.start:
            yield Problem(
                f"the run has {steps} steps, so 'profile' records none; set 'profile.start' to {steps} or less, "
                "or make the run longer",
                fatal=False,
            )

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        """Begin and end the recording between two steps."""
        local = run.local.setdefault(self.name, {"steps": 0})
        local["steps"] += 1
        last = run.step >= run.total_steps or run.stopping
        if local["steps"] == self.start - 1 and not last:
            from hfx_plugins.tracking.profile_impl import Recording

            local["recording"] = run.enter(Recording(self, run.output / "profile", run.step + 1, run.world))
        elif "recording" in local:
            local["recording"].step(last)
