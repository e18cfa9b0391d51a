"""Marks: from where in which file the rows from a number on can be read, kept beside the prepared data and the run."""

from __future__ import annotations

import bisect
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from hfx_plugins.sources.stream_lines_impl import Point


@dataclass(frozen=True, slots=True)
class Mark:
    """Where a row begins: its file, the point in it, the lines before it there, and the header of a table of text."""

    row: int
    file: int
    at: int
    skip: int
    before: int
    header: list[str] | None = None

    @property
    def point(self) -> Point:
        """From where to read the file."""
        return Point(self.at, self.skip)


BEGIN = Mark(0, 0, 0, 0, 0)


class Marks:
    """The marks of one stream, by row; what another process writes is found, too."""

    def __init__(self, folders: Sequence[Path], name: str) -> None:
        self._files = [folder / f"{name}.jsonl" for folder in folders]
        self._marks = {0: BEGIN}

    def before(self, row: int) -> Mark:
        """Return the last mark that is not behind a row."""
        for file in self._files:
            self._load(file)
        rows = sorted(self._marks)
        return self._marks[rows[bisect.bisect_right(rows, row) - 1]]

    def add(self, mark: Mark) -> None:
        """Keep a mark, on disk too: in the first folder, and in those after it that exist."""
        if mark.row in self._marks:
            return
        self._marks[mark.row] = mark
        for number, file in enumerate(self._files):
            if number == 0:
                self._append(file, mark)
            elif file.parent.parent.is_dir():
                with suppress(PermissionError):  # a look at another's run; marks there only spare reading
                    self._append(file, mark)

    def _append(self, file: Path, mark: Mark) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        marks = [mark] if file.exists() else [self._marks[row] for row in sorted(self._marks)]
        with file.open("a", encoding="utf-8") as lines:
            lines.write("".join(json.dumps(asdict(one)) + "\n" for one in marks))

    def _load(self, file: Path) -> None:
        if not file.is_file():
            return
        for line in file.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):  # a line that is being written, or was cut off
                mark = Mark(**json.loads(line))
                self._marks.setdefault(mark.row, mark)
