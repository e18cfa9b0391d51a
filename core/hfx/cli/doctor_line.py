"""One line of `hfx doctor`, and what makes a line of a check that raises."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, TypeAlias

State: TypeAlias = Literal["ok", "warning", "wrong"]


@dataclass(frozen=True)
class Line:
    """What a check measured; and what to do, where that is not as it should be."""

    check: str
    state: State
    measured: str
    advice: str = ""


Found: TypeAlias = tuple[State, str] | tuple[State, str, str]
"""State, what was measured, and what to do."""
Check: TypeAlias = Callable[[], Iterable[Found]]


def looked(name: str, check: Check) -> Iterator[Line]:
    """Yield the lines of a check; one that raises is a wrong line with the cause."""
    try:
        for found in check():
            yield Line(name, *found)
    except (Exception, SystemExit) as error:  # noqa: BLE001 - a doctor has to survive what it looks at
        yield Line(name, "wrong", *raised(error))


def raised(error: BaseException) -> tuple[str, str]:
    """Return what an error says on one line, and what it says to do."""
    from hfx.errors import HfxError

    text = " ".join(str(error).split()) or "no message"
    if isinstance(error, HfxError):
        what, _, advice = text.rpartition("; ")
        return (what, advice) if what else (text, "mend that, then ask again")
    return f"the check failed: {type(error).__name__}: {text}", "mend that, then ask again"
