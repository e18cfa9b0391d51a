"""TensorBoard's event files, over accelerate's tracker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from accelerate.tracking import TensorBoardTracker

from hfx_plugins.tracking.told_impl import Figures, config_of, flat, folder_of, name_of
from hfx_plugins.tracking.trackers_impl import Client

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.tracking.tensorboard import Tensorboard


def open_events(plugin: Tensorboard, run: Run, first: int) -> Client:
    """Open an event file; steps from `first` on in files before it are hidden."""
    folder = folder_of(run, plugin.dir, "tensorboard")
    folder = folder / name_of(run, plugin.run_name) if plugin.dir else folder
    before = any(folder.glob("*tfevents*"))
    # In the first file, too: TensorBoard takes the second beginning that it reads for the first restart.
    tracker = TensorBoardTracker(folder.name, folder.parent, purge_step=first)
    tracker.start()
    if not before:
        _store(tracker, config_of(run))

    def log(figures: Figures) -> None:
        # In single precision: of scalars in double, TensorBoard's reader for programs hides no steps.
        tracker.log(figures.values, step=figures.step)

    # Every figure is on disk once it is logged, so files that are there have all of the steps before.
    return Client(log, lambda failed: tracker.finish(), whole=before)


def _store(tracker: TensorBoardTracker, config: dict[str, Any]) -> None:
    """Write the config into the run's own events; accelerate's way makes it a second run beside this one."""
    from torch.utils.tensorboard.summary import hparams

    for summary in hparams(flat(config), {"loss": 0.0, "eval_loss": 0.0}):  # type: ignore[no-untyped-call]
        tracker.writer.file_writer.add_summary(summary)
    tracker.writer.flush()
