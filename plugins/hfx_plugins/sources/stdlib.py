"""The Python standard library's own source, as it lies on this machine: real text without a download."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from hfx import Plugin, Problem, Rows, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class Stdlib(Plugin):
    """The source of Python's standard library on this machine, in the columns text, module and package."""

    row: Literal["definition", "file"] = "definition"
    """A row is a function or class of a module's top level, or a whole module."""
    packages: list[str] | None = None
    """The packages and modules to read (`json`, `asyncio`, `argparse`); none: all but the tests and IDLE."""
    limit: int | None = Field(default=None, ge=1)
    """Most rows; they come from modules all over the library. None: all."""

    @hookimpl
    def hfx_check(self, run: Run) -> Iterator[Problem]:
        """Report data that this source has no use for."""
        if run.config.data or run.config.eval_data:
            yield Problem(
                "'stdlib' reads no 'data' or 'eval_data'; leave them out, or drop it with '--plugin no:stdlib'"
            )

    @hookimpl
    def hfx_source(self) -> Rows:
        from hfx_plugins.sources.stdlib_impl import StdlibSource, find

        packages = tuple(sorted(set(self.packages))) if self.packages else None
        return Rows(StdlibSource(find(packages, spread=self.limit is not None), self.row, self.limit))
