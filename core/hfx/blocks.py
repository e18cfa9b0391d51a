"""The prepared data as blocks: one table for indexed data, and for a stream a table for every so many rows.

A stream's blocks are prepared while the block before them is trained on, and leave the cache once the run is two blocks
further; a run that goes back (another epoch, an older checkpoint) reads them again.
"""

from __future__ import annotations

import itertools
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfx.launch import StoppedWaiting
from hfx.prepare import TablePlan, prepare_table
from hfx.protocols import BadRow, Row, Rows, Source, Table
from hfx.reading import Reading
from hfx.stages import prepare_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from hfx.run import Run

_LOOK_EVERY = 0.2
"""Seconds after which a run that waits for a block looks whether it is to stop."""
_LEAVE_WITHIN = 5.0
"""Seconds that the end of a run waits for the reader: a network's answer may be longer in coming."""


class OneBlock:
    """Indexed data: one table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, index: int) -> Table | None:
        """Return the table as block 0."""
        return self._table if index == 0 else None

    def leave(self) -> None:
        """Nothing is read."""

    def close(self) -> None:
        """Nothing is open."""


class _ClosedError(Exception):
    """The run is over, and nobody needs the block that is being read."""


@dataclass(frozen=True)
class _Leaving:
    """A source that stops where it is once its run is over."""

    inner: Source
    over: threading.Event

    @property
    def indexed(self) -> bool:
        return self.inner.indexed

    def fingerprint(self) -> str:
        return self.inner.fingerprint()

    def read(self, start: int = 0) -> Iterator[Row | BadRow]:
        if self.over.is_set():
            raise _ClosedError
        for row in self.inner.read(start):
            if self.over.is_set():
                raise _ClosedError
            yield row
        if self.over.is_set():  # a source that is closed meanwhile may end before its end
            raise _ClosedError


class _Ahead(threading.Thread):
    """A block that is prepared in the background; what goes wrong there is raised where the block is asked for."""

    def __init__(self, blocks: StreamBlocks, index: int) -> None:
        super().__init__(name=f"hfx-block-{index}", daemon=True)
        self.index = index
        self._blocks = blocks
        self._error: BaseException | None = None
        self._table: Table | None = None
        self.start()

    def run(self) -> None:
        """Prepare the block."""
        try:
            self._table = self._blocks.prepare(self.index)
        except BaseException as error:  # noqa: BLE001  raised again by `result`
            self._error = error

    def result(self, waits: Callable[[bool], bool]) -> Table | None:
        """Return the block's table as soon as `waits(missing)` no longer says to wait on for it."""
        while True:
            self.join(_LOOK_EVERY)
            missing = self.is_alive()
            if not missing and self._error:
                raise self._error
            if not waits(missing):
                return self._table


class StreamBlocks:
    """A stream: blocks of rows, prepared ahead of need, then ordinary tables in the cache for as long as they serve."""

    def __init__(
        self, rows: Rows, plan: TablePlan, cache: Path, reading: Reading, first: Table,
        held_out: NDArray[np.uint64] | None, waits: Callable[[bool], bool],
    ) -> None:  # fmt: skip
        self._over = threading.Event()
        self._rows = replace(rows, source=_Leaving(rows.source, self._over))
        self._plan, self._cache, self._reading, self._waits = plan, cache, reading, waits
        self._tables: dict[int, Table | None] = {0: first}
        self._held_out = held_out
        self._folders: dict[int, list[Path]] = {}
        self._ahead: _Ahead | None = None

    def get(self, index: int) -> Table | None:
        """Return a block's table, or None behind the stream's end; begins with the next one meanwhile.

        Raises:
            StoppedWaiting: the run is to end, and the block has not come.
        """
        if index not in self._tables:
            if self._ahead and self._ahead.index != index:
                self._awaited(self._ahead)  # two at a time would want the memory of two
            table = self._awaited(self._ahead or _Ahead(self, index))
            self._tables = {i: t for i, t in self._tables.items() if i in (0, index - 1)} | {index: table}
            self._forget(index - 2)
        if self._ahead is None and self._tables[index] is not None and index + 1 not in self._tables:
            self._ahead = _Ahead(self, index + 1)
        return self._tables[index]

    def _awaited(self, ahead: _Ahead) -> Table | None:
        try:
            return ahead.result(self._waits)
        except StoppedWaiting:
            self._over.set()
            raise
        finally:
            self._ahead = ahead if ahead.is_alive() else None

    def prepare(self, index: int) -> Table | None:
        """Read and prepare a block, or return None where the stream has ended before it."""
        size = self._rows.block
        block = replace(self._reading, start=index * size, stop=(index + 1) * size)
        found = prepare_rows(self._rows, self._cache, block)
        if found.report.read == 0:
            return None
        kept = found if self._held_out is None else found.without(self._held_out)
        table = prepare_table(kept, self._plan, self._cache)
        table.open()  # another run on this cache may be done with the block, and remove it
        stages = [found.stage.parent / stage for stage in found.report.stages]
        self._folders[index] = [*stages, table.path]
        return table

    def _forget(self, index: int) -> None:
        """Remove a block from the cache.

        The first one stays, since facts, labels and evaluation rows are its; those to evaluate on are read again.
        """
        for folder in self._folders.pop(index, []) if index > 0 and self._held_out is not None else ():
            shutil.rmtree(folder, ignore_errors=True)

    def leave(self) -> None:
        """Stop reading ahead; the source, once it is closed, lets go of what waits for the network."""
        self._over.set()

    def close(self) -> None:
        """Wait for the reader to stop."""
        self.leave()
        if self._ahead:
            self._ahead.join(_LEAVE_WITHIN)
            self._ahead = None


def blocks_of(run: Run, split: str) -> OneBlock | StreamBlocks:
    """Return the blocks to train or to evaluate on; rows that are held out are those of the first block."""
    name = "eval" if split == "eval" and run.config.eval_data is not None else "train"
    rows, first = run._source(name), run.table(split)
    if rows.source.indexed or name != split:
        return OneBlock(first)
    held_out = run.rows("eval").hashes() if split == "train" else None
    if held_out is not None and run.config.eval_data is not None:
        held_out = held_out[:0]  # rows of their own: none is held out of these
    return StreamBlocks(rows, run._table_plan(), run.cache, run._reading(rows), first, held_out, run.waits)


def tables(blocks: OneBlock | StreamBlocks) -> Iterator[Table]:
    """Yield the tables of all blocks."""
    for index in itertools.count():
        if (table := blocks.get(index)) is None:
            return
        yield table
