"""When a run's checkpoints are written: at once, or beside the training, from a copy of the state."""

from __future__ import annotations

import json
import logging
import sys
import threading
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfx.collective import first_line
from hfx.errors import HfxError

if TYPE_CHECKING:
    from hfx.hostcopy import HostCopy
    from hfx.protocols import Ranks
    from hfx.run import Run
    from hfx.shards import Content

INTERRUPTED = 5.0
"""Seconds that a run which is interrupted waits for the checkpoint that is being written."""
log = logging.getLogger("hfx")


class Saver:
    """Saves the checkpoints of a run; beside the training at most one at a time.

    All ranks call its methods at the same steps. Its thread agrees with those of the other ranks through a process
    group of its own, so it does not matter what the training sends meanwhile.
    """

    def __init__(self, run: Run) -> None:
        self._run = run
        self._ranks: Ranks | None = None
        self._copy: HostCopy | None = None
        self._thread: threading.Thread | None = None
        self._path = Path()
        self._chosen: int | None = None
        self._future: Future[None] = Future()

    def save(self, beside: bool) -> Path:
        """Save this step, and return the folder; `beside` the training it exists once listeners are told."""
        from hfx.checkpoint import folder_of
        from hfx.shards import content_of
        from hfx.state import state_of

        self.finish()
        run = self._run
        self._path, self._chosen = folder_of(run.output, run.step), run.chosen
        path = self._path
        tensors, values = state_of(run)
        content, state = content_of(tensors, run.world), json.dumps(values).encode()
        if not beside:
            self._write(content, state, run.backend)
            run.hooks.saved(run=run, path=path)
            return path
        if self._copy is None:
            from hfx.hostcopy import HostCopy

            self._ranks, self._copy = run.backend.ranks_beside(), HostCopy()
        content = replace(content, parts=self._copy.of(content.parts))
        self._future = Future()
        self._thread = threading.Thread(
            target=self._try, args=(content, state, self._ranks, self._future), name="hfx-save", daemon=True
        )
        self._thread.start()
        return path

    def _try(self, content: Content, state: bytes, ranks: Ranks, future: Future[None]) -> None:
        try:
            self._write(content, state, ranks)
        except BaseException as error:  # noqa: BLE001  raised where it is waited for
            future.set_exception(error)
        else:
            future.set_result(None)

    def _write(self, content: Content, state: bytes, ranks: Ranks) -> None:
        from hfx import saving
        from hfx.checkpoint import step_of

        world, path = self._run.world, self._path
        saving.save_content(path, content, state, world, ranks, self._chosen)
        if world.is_main:
            saving.rotate(self._run.output, self._run.config.keep, step_of(path), chosen=self._chosen)

    @property
    def ended(self) -> bool:
        """True where this rank is done with a checkpoint that was written beside the training, or failed to."""
        return self._thread is not None and self._future.done()

    def boundary(self, all_ended: bool) -> None:
        """Between two steps, tell the listeners of a checkpoint that all ranks are done with, or raise what went wrong.

        Ranks that failed alike raise at the same step. What only this rank knows of is raised at once: the others lose
        the connection to it.

        Raises:
            StorageError, CollectiveError: it could not be written; see `saving.save`.
        """
        if self.ended and (all_ended or not isinstance(self._future.exception(), HfxError | None)):
            self.finish()

    def finish(self) -> None:
        """Wait for the checkpoint that is being written beside the training, if any, and tell the listeners.

        Raises:
            StorageError, CollectiveError: it could not be written; see `saving.save`.
        """
        if self._thread is None:
            return
        self._thread.join()
        self._thread = None
        self._run._all_saved = False  # what the ranks agreed on was about this one
        self._future.result()
        self._run.hooks.saved(run=self._run, path=self._path)

    def close(self) -> None:
        """Wait for it even where the training failed, so that it is not lost; what goes wrong is logged.

        Its collectives fail where another rank is gone, or take as long as the backend's `timeout_minutes`.
        """
        if self._thread is not None:
            self._thread.join(INTERRUPTED if isinstance(sys.exc_info()[1], KeyboardInterrupt) else None)
            error = self._future.exception() if self._future.done() else None
            if error is not None:
                log.warning("the checkpoint '%s' was not saved: %s", self._path, first_line(error))
        self._thread = self._ranks = None
        if self._copy is not None and self._future.done():
            self._copy.free()
