"""What is asked of a wrapper of the source: a step that is a pure function of a row, or one that drops among all."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TypeAlias

from hfx.protocols import Drop, Row, Rows, SketchedStep, Step, TableStep
from hfx.run import Run
from hfx.testing.bench import Bench, as_json

Outcomes: TypeAlias = dict[int, str]
"""By a row's number: its values and reasons, or why it is dropped."""


def _steps(run: Run) -> tuple[Step | TableStep, ...]:
    steps = run.hooks.source(split="train", run=run).steps
    assert steps, "the wrapper appends no step to the rows; `return rows.then(self)`"
    return steps


def _rows(run: Run, copies: int = 3) -> list[Row]:
    """Return the rows of the data, and some of them again at the end."""
    read = [row for row in run.hooks.source(split="train", run=run).source.read() if isinstance(row, Row)]
    rows = [*read, *copy.deepcopy(read[:copies])]
    for number, row in enumerate(rows):
        row.number = number
    return rows


def _outcomes(step: Step | TableStep, rows: list[Row]) -> Outcomes:
    rows = copy.deepcopy(rows)
    if isinstance(step, TableStep):
        drops = step.drops(rows)
        return {row.number: drops.get(row.number, "kept") for row in rows}
    found = zip(rows, step.apply(list(rows)), strict=True)
    return {
        row.number: out.reason if isinstance(out, Drop) else f"{out.values} {out.reasons} {out.marks}"
        for row, out in found
    }


def appends_a_step_to_the_rows(bench: Bench) -> None:
    """What others have appended, and the source below, stay."""
    with bench.run(active=False) as plain, bench.run() as run:
        before: Rows = plain.hooks.source(split="train", run=plain)
        after: Rows = run.hooks.source(split="train", run=run)
        assert len(after.steps) > len(before.steps), "the wrapper appends no step; `return rows.then(self)`"
        assert after.source.fingerprint() == before.source.fingerprint(), "the wrapper replaces the source"


def its_steps_are_named_and_versioned(bench: Bench) -> None:
    """Prepared data is found again by name, version and options."""
    with bench.run() as run:
        for step in _steps(run):
            assert isinstance(step, Step | TableStep), f"a step is a {type(step).__name__} without `apply` or `drops`"
            assert isinstance(step.name, str), f"a step's name is {step.name!r}"
            assert step.name, "a step has no name"
            assert isinstance(step.version, int), f"the version of '{step.name}' is {step.version!r}"
            as_json(step.options(), f"`options()` of '{step.name}'")


def every_row_has_one_outcome(bench: Bench) -> None:
    """In the order of the rows: a row or a drop, and a drop has a reason."""
    with bench.run() as run:
        rows = _rows(run)
        for step in _steps(run):
            if isinstance(step, TableStep):
                drops = step.drops(copy.deepcopy(rows))
                assert set(drops) <= {row.number for row in rows}, f"'{step.name}' drops numbers that no row has"
                reasons = list(drops.values())
            else:
                reasons = _reasons(step, rows)
            assert all(isinstance(reason, str) and reason for reason in reasons), "a row is dropped without a reason"


def _reasons(step: Step, rows: list[Row]) -> list[str]:
    outcomes = step.apply(copy.deepcopy(rows))
    assert len(outcomes) == len(rows), f"'{step.name}' returns {len(outcomes)} outcomes for {len(rows)} rows"
    for row, outcome in zip(rows, outcomes, strict=True):
        assert isinstance(outcome, Row | Drop), f"an outcome is a {type(outcome).__name__}; it has to be Row or Drop"
        if isinstance(outcome, Row):
            assert outcome.number == row.number, f"the outcome of row {row.number} is row {outcome.number}"
            assert outcome.place == row.place, f"'{step.name}' changes where row {row.number} came from"
    return [outcome.reason for outcome in outcomes if isinstance(outcome, Drop)]


def the_same_rows_have_the_same_outcomes(bench: Bench) -> None:
    """What was prepared before is taken for what would be prepared now."""
    with bench.run() as run, bench.run() as other:
        rows = _rows(run)
        for step, again in zip(_steps(run), _steps(other), strict=True):
            first = _outcomes(step, rows)
            assert _outcomes(step, rows) == first, f"'{step.name}' has other outcomes for the same rows later on"
            assert _outcomes(again, rows) == first, f"'{step.name}' made a second time has other outcomes"


def outcomes_do_not_depend_on_chunks(bench: Bench) -> None:
    """Rows come in chunks, on several processes; to a step over all rows they come as an iterator that is read once."""
    with bench.run() as run:
        rows = _rows(run)
        for step in _steps(run):
            whole = _outcomes(step, rows)
            if isinstance(step, TableStep):
                drops = step.drops(iter(copy.deepcopy(rows)))
                parts = {row.number: drops.get(row.number, "kept") for row in rows}
                if isinstance(step, SketchedStep):
                    _compare_sketched(step, rows, drops, bench)
            else:
                parts = {}
                for at in reversed(range(0, len(rows), 7)):
                    parts |= _outcomes(step, rows[at : at + 7][::-1])
            odd = [number for number in whole if whole[number] != parts[number]]
            assert not odd, f"the outcome of row {odd[0]} of '{step.name}' depends on the rows around it"


def _compare_sketched(step: SketchedStep, rows: list[Row], drops: Mapping[int, str], bench: Bench) -> None:
    for size in (len(rows), 7, 1):
        folders = []
        for at in range(0, len(rows), size):
            folders.append(bench.fresh("sketch"))
            step.sketch(iter(copy.deepcopy(rows[at : at + size])), folders[-1])
        found = step.decide(folders)
        assert dict(found) == dict(drops), f"'{step.name}' decides otherwise from sketches of {size} rows than of all"


def a_changed_row_says_why(bench: Bench) -> None:
    """Changes are counted by reason; a row that is left alone has none, and a step over all rows changes none."""
    with bench.run() as run:
        for step in _steps(run):
            rows = _rows(run)
            given = copy.deepcopy(rows)
            if isinstance(step, TableStep):
                step.drops(given)
                outcomes: list[Row | Drop] = list(given)
            else:
                outcomes = step.apply(given)
            for row, outcome in zip(rows, outcomes, strict=True):
                if isinstance(outcome, Row):
                    changed, reasons = outcome.values != row.values, len(outcome.reasons) > len(row.reasons)
                    assert changed == reasons, f"row {row.number}: changed is {changed}, with a reason is {reasons}"


def a_run_gets_the_rows_that_it_keeps(bench: Bench) -> None:
    """Of the rows of a plain run some are left, and those are the ones that are trained on."""
    with bench.run() as run:
        rows = _rows(run, copies=0)
        for step in _steps(run):
            if isinstance(step, TableStep):
                drops = step.drops(copy.deepcopy(rows))
                rows = [row for row in rows if row.number not in drops]
            else:
                rows = [outcome for outcome in step.apply(rows) if isinstance(outcome, Row)]
        assert rows, "no row of the data is left; give `rows` of which some are kept"
        found = {row.number for split in ("train", "eval") for row in run.rows(split)}
        assert found == {row.number for row in rows}, "the run has other rows than the steps keep"


STEP = (
    appends_a_step_to_the_rows,
    its_steps_are_named_and_versioned,
    every_row_has_one_outcome,
    the_same_rows_have_the_same_outcomes,
    outcomes_do_not_depend_on_chunks,
    a_changed_row_says_why,
    a_run_gets_the_rows_that_it_keeps,
)
