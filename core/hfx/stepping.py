"""Row steps at work: chunk by chunk, in this process or in several, each row's outcome taken down."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hfx.errors import DataError
from hfx.outcomes import Outcome, Outcomes, noted
from hfx.protocols import Drop, Row, Step, Values
from hfx.workers import in_order

_CHUNK = 1_000


def stepped(rows: Iterator[Row], steps: Sequence[Step], num_proc: int, outcomes: Outcomes) -> Iterator[Row]:
    """Yield the rows that the steps leave, in their order.

    Raises:
        DataError: a step returned more or fewer outcomes than it was given rows.
    """
    chunks = iter(lambda: list(islice(rows, _CHUNK)), [])
    for kept, happened in in_order(_Apply(tuple(steps)), chunks, num_proc):
        outcomes.add(happened)
        yield from kept


@dataclass(frozen=True)
class _Apply:
    """Row steps as a worker runs them: a chunk of rows in, what is left and what happened out."""

    steps: tuple[Step, ...]

    def __call__(self, rows: list[Row]) -> tuple[list[Row], list[Outcome]]:
        happened: list[tuple[Row, str, bool, Values]] = []
        for step in self.steps:
            before = [(_copy(row.values), len(row.reasons)) for row in rows]
            outcomes = step.apply(rows)
            if len(outcomes) != len(rows):
                raise DataError(
                    f"the step '{step.name}' returned {len(outcomes)} outcomes for {len(rows)} rows; "
                    "it has to return one for each"
                )
            for row, (values, reasons), outcome in zip(rows, before, outcomes, strict=True):
                if isinstance(outcome, Drop):
                    happened.append((row, f"{step.name}.{outcome.reason}", True, values))
                else:
                    happened += [(row, reason, False, values) for reason in outcome.reasons[reasons:]]
            rows = [outcome for outcome in outcomes if isinstance(outcome, Row)]
        return rows, list(noted(happened))


def _copy(value: Any) -> Any:
    """Return a copy that a step's changes in place do not reach; what cannot be changed is shared."""
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value
