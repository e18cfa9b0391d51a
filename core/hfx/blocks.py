"""The prepared data as blocks: one table for indexed data, and for a stream a table for every so many rows.

A stream's blocks are prepared while the block before them is trained on, and leave the cache once the run is two blocks
further; a run that goes back (another epoch, an older checkpoint) reads them again.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from hfx.prepare import TablePlan, prepare_table
from hfx.protocols import BadRow, Row, Rows, Source, Table
from hfx.reading import Reading
from hfx.rows import RowSet
from hfx.stages import prepare_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LEAVE_WITHIN = 5.0
"""Seconds that the end of a run waits for the reader: a network's answer may be longer in coming."""


class OneBlock:
    """Indexed data: one table."""

    def __init__(self, table: Table) -> None:
        self._table = table

    def get(self, index: int) -> Table | None:
        """Return the table as block 0."""
        return self._table if index == 0 else None

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
        for row in self.inner.read(start):
            if self.over.is_set():
                raise _ClosedError
            yield row


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

    def result(self) -> Table | None:
        """Wait for the block and return its table."""
        self.join()
        if self._error:
            raise self._error
        return self._table


class StreamBlocks:
    """A stream: blocks of rows, prepared ahead of need, then ordinary tables in the cache for as long as they serve."""

    def __init__(
        self, rows: Rows, plan: TablePlan, cache: Path, reading: Reading, first: Table, held_out: RowSet
    ) -> None:
        self._over = threading.Event()
        self._rows = replace(rows, source=_Leaving(rows.source, self._over))
        self._plan, self._cache, self._reading = plan, cache, reading
        self._tables: dict[int, Table | None] = {0: first}
        self._held_out: NDArray[np.uint64] = held_out.hashes()
        self._folders: dict[int, list[Path]] = {}
        self._ahead: _Ahead | None = None

    def get(self, index: int) -> Table | None:
        """Return a block's table, or None behind the stream's end; begins with the next one meanwhile."""
        if index not in self._tables:
            ahead, self._ahead = self._ahead, None
            if ahead and ahead.index != index:
                ahead.result()  # two at a time would want the memory of two
                ahead = None
            table = ahead.result() if ahead else self.prepare(index)
            self._tables = {i: t for i, t in self._tables.items() if i in (0, index - 1)} | {index: table}
            self._forget(index - 2)
        if self._ahead is None and self._tables[index] is not None and index + 1 not in self._tables:
            self._ahead = _Ahead(self, index + 1)
        return self._tables[index]

    def prepare(self, index: int) -> Table | None:
        """Read and prepare a block, or return None where the stream has ended before it."""
        size = self._rows.block
        block = replace(self._reading, start=index * size, stop=(index + 1) * size)
        found = prepare_rows(self._rows, self._cache, block)
        if found.report.read == 0:
            return None
        table = prepare_table(found.without(self._held_out), self._plan, self._cache)
        stages = [found.stage.parent / stage for stage in found.report.stages]
        self._folders[index] = [*stages, table.path]
        return table

    def _forget(self, index: int) -> None:
        """Remove a block from the cache; the first one stays, since facts, labels and evaluation rows are its."""
        for folder in self._folders.pop(index, []) if index > 0 else ():
            shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Stop reading ahead."""
        self._over.set()
        if self._ahead:
            self._ahead.join(_LEAVE_WITHIN)
            self._ahead = None
