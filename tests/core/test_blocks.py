"""A stream's blocks: whole, or not there."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hfx import Place, Row, Rows
from hfx.blocks import _ClosedError, _Leaving
from hfx.reading import Reading
from hfx.stages import prepare_rows


class Ending:
    """A stream that is closed while it is read, and ends there as if it had no more rows."""

    indexed = False

    def __init__(self, over: threading.Event) -> None:
        self.over = over

    def fingerprint(self) -> str:
        return "ending"

    def read(self, start: int = 0) -> Iterator[Row]:
        for number in range(start, 5):
            yield Row({"text": str(number)}, Place("toy", "toy", number + 1))
        self.over.set()


def test_a_block_whose_source_was_closed_while_it_was_read_is_not_taken_for_whole(tmp_path: Path) -> None:
    over = threading.Event()
    with pytest.raises(_ClosedError):
        prepare_rows(Rows(_Leaving(Ending(over), over)), tmp_path, Reading(start=0, stop=10))
    assert not [path for path in (tmp_path / "rows").iterdir() if path.is_dir()]
