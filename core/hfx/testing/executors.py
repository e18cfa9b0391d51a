"""What is asked of an executor: every part is worked on, none in vain, and the rows are those of one process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path

from hfx.errors import HfxError
from hfx.plugin import Plugin
from hfx.protocols import Drop, Executor, Row
from hfx.testing.bench import Bench

NUMBER = 3


def is_one(kind: type[Plugin]) -> bool:
    """Return whether a plugin of this class works on parts of a preparation."""
    return hasattr(kind, "run") and (hasattr(kind, "tasks") or "tasks" in kind.model_fields)


def _executor(bench: Bench) -> Executor:
    with bench.run() as run:
        executor = run.hooks.source(split="train", run=run).executor
    assert executor is not None, "the wrapper gives the rows no executor; `return rows.on(self)`"
    return executor


def _write(folder: Path, index: int) -> None:
    with (folder / f"{index}.part").open("a") as file:
        file.write("done\n")


def _fail_at_one(folder: Path, index: int) -> None:
    if index == 1:
        raise ValueError("this part is broken")
    _write(folder, index)


def _written(folder: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in folder.glob("*.part")}


class _Shout:
    """A row step: capital letters, and every seventh row is dropped."""

    name = "shout"
    version = 1

    def options(self) -> dict[str, object]:
        return {}

    def apply(self, rows: list[Row]) -> list[Row | Drop]:
        for row in rows:
            for text in row.texts(["text"]):
                text.value = text.value.upper()
            row.reasons.append("shout.upper")
        return [Drop("seventh") if row.number % 7 == 6 else row for row in rows]


class _Thin:
    """A step over all rows that can be sketched: the later half is dropped."""

    name = "thin"
    version = 1

    def options(self) -> dict[str, object]:
        return {}

    def drops(self, rows: Iterable[Row]) -> dict[int, str]:
        return _later_half([row.number for row in rows])

    def sketch(self, rows: Iterable[Row], folder: Path) -> None:
        (folder / "numbers").write_text("\n".join(str(row.number) for row in rows))

    def decide(self, folders: Sequence[Path]) -> dict[int, str]:
        return _later_half([int(line) for folder in folders for line in (folder / "numbers").read_text().split()])


def _later_half(numbers: Sequence[int]) -> dict[int, str]:
    return dict.fromkeys(numbers[len(numbers) // 2 :], "later_half")


def it_says_how_many_parts_it_wants(bench: Bench) -> None:
    """At least one."""
    tasks = _executor(bench).tasks
    assert isinstance(tasks, int), f"`tasks` is {tasks!r}"
    assert tasks >= 1, f"`tasks` is {tasks}"


def every_part_is_done_once(bench: Bench) -> None:
    """When it returns."""
    folder = bench.fresh("parts")
    _executor(bench).run(partial(_write, folder), NUMBER, folder)
    written = _written(folder)
    assert sorted(written) == ["0", "1", "2"], f"of parts 0, 1 and 2 those were done: {sorted(written)}"
    assert set(written.values()) == {"done\n"}, "a part was done more than once"


def a_part_that_fails_is_an_error(bench: Bench) -> None:
    """Of hfx, with the cause."""
    folder = bench.fresh("parts")
    try:
        _executor(bench).run(partial(_fail_at_one, folder), NUMBER, folder)
    except HfxError as error:
        told = str(error)
    else:
        raise AssertionError("a part failed, and the executor returned as if all were done")
    assert "this part is broken" in told or str(folder) in told, f"the error tells no cause: {told}"


def the_rows_are_those_of_one_process(bench: Bench) -> None:
    """With a row step, and a step over all rows that is sketched in parts."""
    from hfx.reading import Reading
    from hfx.rows import RowSet
    from hfx.stages import prepare_rows

    def prepared(name: str, alone: bool) -> RowSet:
        with bench.run(active=not alone) as run:
            rows = run.hooks.source(split="train", run=run)
            for step in (_Shout(), _Thin(), _Shout()):
                rows = rows.then(step)
            return prepare_rows(rows, bench.fresh(name), Reading())

    plain, spread = prepared("alone", alone=True), prepared("spread", alone=False)
    assert [*plain] == [*spread], "the rows differ from those that this machine prepares alone"
    assert plain.fingerprint == spread.fingerprint, "the rows have another key in the cache"
    assert plain.report == spread.report, "the report differs from that of this machine alone"


EXECUTOR = (
    it_says_how_many_parts_it_wants,
    every_part_is_done_once,
    a_part_that_fails_is_an_error,
    the_rows_are_those_of_one_process,
)
