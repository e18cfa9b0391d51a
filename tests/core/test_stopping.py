"""How ranks agree on why a run ends: each adds its number, and all read the same reason from the sum."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from hfx import World
from hfx.run import Run
from resolving import go

REASONS = (None, "a plugin's wish", "SIGINT", "SIGTERM", "SIGUSR1")


def ranks(reasons: list[str | None]) -> list[Run]:
    """Return the ranks of a run, each of which was told something before the step."""
    made = [Run(go("fp32"), Path("out"), World(rank, len(reasons))) for rank in range(len(reasons))]
    for run, reason in zip(made, reasons, strict=True):
        if reason:
            run.request_stop(reason)
    return made


def ended(runs: list[Run], late: str | None = None) -> list[str | None]:
    """Return why each rank ends; `late` reaches all of them between the sum and what follows from it."""
    code = sum(run.stop_code for run in runs)
    for run in runs:
        if late:
            run.request_stop(late)
        run._stopping = code > 0
        run._follow(code)
    return [run.result().stopped for run in runs]


@given(st.lists(st.sampled_from(REASONS), min_size=1, max_size=8))
def test_all_end_by_a_signal_or_none_does(reasons: list[str | None]) -> None:
    found = ended(ranks(reasons))
    told = {reason for reason in reasons if reason and reason.startswith("SIG")}
    for own, reason in zip(reasons, found, strict=True):
        if told:
            assert reason == (own if own in told else "SIGUSR1" if told == {"SIGUSR1"} else "SIGTERM")
        else:
            assert (reason is None) == (not any(reasons))


@given(st.lists(st.sampled_from(REASONS[:2]), min_size=1, max_size=4), st.sampled_from(REASONS[2:]))
def test_a_signal_that_comes_when_a_wish_was_agreed_on_changes_nothing(reasons: list[str | None], late: str) -> None:
    found = ended(ranks(reasons), late)
    if any(reasons):
        assert set(found) <= {"a plugin's wish", "another rank asked for it"}
    else:
        assert found == [None] * len(reasons)


def test_what_is_asked_for_once_the_end_is_agreed_on_is_too_late() -> None:
    [run] = ranks([None])
    run.stop_now("enough")
    run.request_stop("SIGTERM")
    assert run.result().stopped == "enough"
    assert not run.signalled
