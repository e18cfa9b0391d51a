"""torch's profiler over a window of steps."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

if TYPE_CHECKING:
    from hfx import World
    from hfx_plugins.tracking.profile import Profile


class Recording:
    """Records steps until there are enough of them, or the run ends, and writes them down."""

    def __init__(self, plugin: Profile, folder: Path, first: int, world: World) -> None:
        self._plugin = plugin
        self._folder = folder
        self._first = first
        self._world = world
        self._done = 0
        self._profiler: torch.profiler.profile | None = None

    def __enter__(self) -> Self:
        self._profiler = torch.profiler.profile(
            schedule=lambda step: torch.profiler.ProfilerAction.RECORD,  # without one, steps are not marked
            profile_memory=self._plugin.memory,
            record_shapes=self._plugin.shapes,
            acc_events=True,
        )
        self._profiler.step_num = self._first  # a step's name in the trace is its number in the run
        self._profiler.start()
        return self

    def step(self, last: bool) -> None:
        """Take note that a step is done, and whether it is the last of the run."""
        if self._profiler is None:
            return
        self._done += 1
        if last or self._done == self._plugin.steps:
            self._end()
        else:
            self._profiler.step()

    def __exit__(self, *error: object) -> None:
        self._end()

    def _end(self) -> None:
        profiler, self._profiler = self._profiler, None
        if profiler is None:
            return
        profiler.stop()
        if self._done == 0:
            return
        last = self._first + self._done - 1
        name = f"steps-{self._first}-{last}-rank-{self._world.rank}"
        try:
            self._write(profiler, name)
        except OSError as error:
            print(f"hfx: warning: the profile cannot be written: {error}; free space", file=sys.stderr)
            return
        if self._world.is_main:
            print(
                f"profile of steps {self._first} to {last}: '{self._folder / name}.json.gz' (for "
                f"https://ui.perfetto.dev) and '{name}.txt'",
                file=sys.stderr,
                flush=True,
            )

    def _write(self, profiler: torch.profiler.profile, name: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / f"{name}.partial.json.gz"
        profiler.export_chrome_trace(str(partial))
        partial.replace(self._folder / f"{name}.json.gz")
        (self._folder / f"{name}.txt").write_text(self._table(profiler) + "\n", encoding="utf-8")

    def _table(self, profiler: torch.profiler.profile) -> str:
        device = profiler.use_device
        events = profiler.key_averages(group_by_input_shape=self._plugin.shapes)
        order = f"self_{device}_time_total" if device else "self_cpu_time_total"
        return str(events.table(sort_by=order, row_limit=self._plugin.top))
