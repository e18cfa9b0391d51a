"""From a source to a row store, stage by stage: one per run of row steps, one per whole-table step, each cached.

The first stage reads the source and runs the row steps before the first whole-table step; a whole-table step keeps only
which rows it leaves; what follows starts from there. So another threshold of a deduplication reads nothing anew.
Whatever is dropped or changed is written down (see `outcomes.py`).

Rows with an executor are read first, into a store of their own, and then worked on in parts (see `spread.py`); the
stages are the same, under the same keys.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hfx.cache import cached, content_key, reading
from hfx.outcomes import Outcomes, noted
from hfx.protocols import Executor, Row, Rows, SketchedStep, Source, Step, TableStep
from hfx.reading import QUARANTINE, Reading, read_rows, refuse_bad
from hfx.rows import ROWS_VERSION, RowReport, RowSet, write_store
from hfx.spread import Processes, SketchPart, StepPart, parts_of, put_together
from hfx.stepping import stepped
from hfx.waiting import counted


def prepare_rows(rows: Rows, cache: Path, reading: Reading) -> RowSet:
    """Return the rows of a source after its steps, each stage from the cache or made now.

    Raises:
        DataError: more rows than `max_bad_rows` cannot be read.
    """
    stages = _Stages(cache, reading, rows.executor)
    groups = runs_of_steps(rows.steps)
    first: list[Step] = []
    if groups and isinstance(groups[0], list):
        first, *groups = groups  # type: ignore[assignment]
    found = stages.first(rows.source, first)
    for group in groups:
        found = stages.left_by(group, found) if isinstance(group, TableStep) else stages.after(group, found)
    return found


def runs_of_steps(steps: Iterable[Step | TableStep]) -> list[list[Step] | TableStep]:
    """Return the steps by stage: a list of row steps that follow each other, or one whole-table step."""
    groups: list[list[Step] | TableStep] = []
    for step in steps:
        if isinstance(step, TableStep):
            groups.append(step)
        elif groups and isinstance(groups[-1], list):
            groups[-1].append(step)
        else:
            groups.append([step])
    return groups


def _identities(steps: Iterable[Step | TableStep]) -> list[Any]:
    return [[step.name, step.version, step.options()] for step in steps]


@dataclass(frozen=True)
class _Stages:
    """Makes the stages of one source, or finds them; how they are worked on changes nothing about them."""

    cache: Path
    reading: Reading
    executor: Executor | None

    def first(self, source: Source, steps: Sequence[Step]) -> RowSet:
        """Return the rows that the source yields and the first row steps leave."""
        key = content_key(ROWS_VERSION, source.fingerprint(), self.reading.start, self.reading.stop, _identities(steps))
        elsewhere = self.executor if steps else None

        def build(path: Path) -> None:
            report = RowReport(stages=[key])
            if elsewhere:
                read = self.first(source, [])
                report = replace(read.report, stages=[key])
                shutil.copyfile(read.path / QUARANTINE, path / QUARANTINE)
                self._in_parts(read, steps, elsewhere, path, report)
            else:
                self._here(read_rows(source, self.reading, path, report), steps, path, report)

        found = RowSet(cached(self.cache / "rows" / key, build), None, key)
        refuse_bad(found.report, self.reading.max_bad_rows)
        return found

    def after(self, steps: Sequence[Step], before: RowSet) -> RowSet:
        """Return the rows that row steps leave of a stage's."""
        key = content_key(ROWS_VERSION, before.fingerprint, _identities(steps))

        def build(path: Path) -> None:
            report = before.report
            report.stages.append(key)
            if self.executor:
                self._in_parts(before, steps, self.executor, path, report)
            else:
                self._here(iter(before), steps, path, report)

        return RowSet(cached(self.cache / "rows" / key, build), None, key)

    def _here(self, rows: Iterator[Row], steps: Sequence[Step], path: Path, report: RowReport) -> None:
        with Outcomes(path, report) as outcomes:
            rows = counted(rows, "reading rows")
            report.kept = write_store(stepped(rows, steps, self.reading.num_proc, outcomes) if steps else rows, path)
        _write_report(report, path)

    def _in_parts(self, rows: RowSet, steps: Sequence[Step], executor: Executor, path: Path, report: RowReport) -> None:
        with parts_of(rows, StepPart(tuple(steps)), executor, self._parts(report)) as parts:
            put_together(parts, path, report)
        _write_report(report, path)

    def _parts(self, report: RowReport) -> Path:
        return self.cache / "parts" / report.stages[-1]

    def left_by(self, step: TableStep, before: RowSet) -> RowSet:
        """Return the rows of a stage that a whole-table step leaves."""
        key = content_key(ROWS_VERSION, before.fingerprint, _identities([step]))

        def build(path: Path) -> None:
            report = before.report
            report.stages.append(key)
            drops = self._drops(step, before, report)
            numbers = before.numbers()
            dropped = np.isin(numbers, np.fromiter(drops, np.int64, len(drops)))
            with Outcomes(path, report) as outcomes:
                gone = before.where(dropped, "dropped")
                outcomes.add(noted((row, f"{step.name}.{drops[row.number]}", True, row.values) for row in gone))
            if facts := getattr(drops, "facts", None):
                report.facts[step.name] = facts
            report.kept = int((~dropped).sum())
            np.save(path / "kept.npy", before.positions(~dropped))
            _write_report(report, path)

        stage = cached(self.cache / "rows" / key, build)
        with reading(stage):
            return RowSet(before.path, np.load(stage / "kept.npy", mmap_mode="r"), key, stage)

    def _drops(self, step: TableStep, before: RowSet, report: RowReport) -> Mapping[int, str]:
        executor = self.executor or Processes(self.reading.num_proc)
        if executor.tasks == 1 or not isinstance(step, SketchedStep):
            return step.drops(before)
        with parts_of(before, SketchPart(step), executor, self._parts(report)) as parts:
            return step.decide(parts)


def _write_report(report: RowReport, path: Path) -> None:
    (path / "report.json").write_text(json.dumps(asdict(report)))
