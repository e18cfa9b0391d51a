"""Executors that are wrong."""

from __future__ import annotations

from collections.abc import Callable, Generator
from pathlib import Path

from hfx import HfxError, Plugin, Rows, hookimpl


class _Executor(Plugin):
    tasks: int = 4
    """Parts."""

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        rows = yield
        return rows.on(self)

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        for index in range(number):
            work(index)


class ForgottenExecutor(_Executor):
    """Gives the rows nothing."""

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        rows = yield
        rows.on(self)
        return rows


class LazyExecutor(_Executor):
    """Leaves the last part out."""

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        for index in range(number - 1):
            work(index)


class EagerExecutor(_Executor):
    """Does every part twice."""

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        for index in range(2 * number):
            work(index % number)


class SilentExecutor(_Executor):
    """Says nothing of parts that fail."""

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        for index in range(number):
            try:
                work(index)
            except ValueError:
                continue


class IdleExecutor(_Executor):
    """Wants no parts, and swallows a step."""

    tasks: int = 0
    """Parts."""

    @hookimpl(wrapper=True)
    def hfx_source(self) -> Generator[None, Rows, Rows]:
        rows = yield
        return Rows(rows.source, rows.steps[:-1], executor=self)


_DONE = "every part is done once"
_FAILS = "a part that fails is an error"
_SAME = "the rows are those of one process"
_TASKS = "it says how many parts it wants"
WRONG = {
    ForgottenExecutor: {_TASKS, _DONE, _FAILS},
    LazyExecutor: {_DONE, _FAILS, _SAME},
    EagerExecutor: {_DONE, _FAILS},
    SilentExecutor: {_FAILS},
    IdleExecutor: {_TASKS, _FAILS},
}


class RightExecutor(_Executor):
    """Right: one part after the other."""

    def run(self, work: Callable[[int], None], number: int, folder: Path) -> None:
        for index in range(number):
            try:
                work(index)
            except Exception as error:
                raise HfxError(f"part {index}: {error}") from error


RIGHT = (RightExecutor,)
