from __future__ import annotations

import io
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hfx import World
from hfx_plugins.tracking.progress import Progress
from hfx_plugins.tracking.progress_impl import Bar, Lines, open_display


@dataclass
class ListenedRun(ExitStack):
    """The attributes of `Run` that a listener reads; leaving it is the end of the run."""

    world: World = field(default_factory=World)
    step: int = 0
    total_steps: int = 3
    local: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__init__()

    def enter(self, manager: Any) -> Any:
        return self.enter_context(manager)


def _metrics(step: int, **more: Any) -> dict[str, Any]:
    return {"step": step, "loss": 4.1234, "lr": 1e-4, "tokens": 1_000, "step_seconds": 0.4, "data_seconds": 0.1, **more}


def _train(run: ListenedRun, plugin: Progress) -> None:
    for step in range(1, run.total_steps + 1):
        run.step = step
        plugin.hfx_step_end(run, _metrics(step))
    plugin.hfx_evaluated(run, {"eval_loss": 3.25, "eval_accuracy": 0.5})
    plugin.hfx_saved(run, Path("runs/x/checkpoints/step-00000003"))


def test_elsewhere_than_on_a_terminal_each_step_is_a_plain_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    with ListenedRun() as run:
        _train(run, Progress(every=0))

    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 1/3  loss 4.123  lr 1.00e-04  2,000 tokens/s",
        "step 2/3  loss 4.123  lr 1.00e-04  2,000 tokens/s",
        "step 3/3  loss 4.123  lr 1.00e-04  2,000 tokens/s",
        "step 3  eval_loss 3.25  eval_accuracy 0.5",
    ]


def test_between_two_lines_some_seconds_pass_but_the_first_and_last_step_are_always_shown(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ListenedRun(total_steps=50) as run:
        _train(run, Progress(every=3600))

    lines = capsys.readouterr().err.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["step 1/50", "step 50/50", "step 50"]


def test_checkpoints_are_shown_only_where_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    with ListenedRun() as run:
        _train(run, Progress(verbose=True))

    assert capsys.readouterr().err.splitlines()[-1] == "saved runs/x/checkpoints/step-00000003"


def test_only_the_main_rank_shows_anything(capsys: pytest.CaptureFixture[str]) -> None:
    with ListenedRun(world=World(rank=1, size=2)) as run:
        _train(run, Progress(every=0, verbose=True))

    assert capsys.readouterr() == ("", "")
    assert run.local == {}


def test_a_skipped_update_and_a_loss_that_is_no_number_are_visible(capsys: pytest.CaptureFixture[str]) -> None:
    with ListenedRun() as run:
        Progress().hfx_step_end(run, _metrics(1, loss=float("nan"), skipped=True))

    assert "loss nan  lr 1.00e-04  update skipped" in capsys.readouterr().err


def test_the_speed_of_a_line_is_over_all_steps_since_the_line_before(capsys: pytest.CaptureFixture[str]) -> None:
    with ListenedRun(total_steps=3) as run:
        plugin = Progress(every=3600)
        for step, seconds in ((1, 1.0), (2, 1.0), (3, 3.0)):
            plugin.hfx_step_end(run, _metrics(step, step_seconds=seconds - 0.1))

    assert [line.split("  ")[-1] for line in capsys.readouterr().err.splitlines()] == ["1,000 tokens/s", "500 tokens/s"]


def test_a_long_line_is_never_broken() -> None:
    shown = io.StringIO()
    console = Console(file=shown, width=20)

    open_display(0, 9, 0, console).evaluated(1, {f"eval_{name}": 0.5 for name in "abcdefgh"})

    assert len(shown.getvalue().splitlines()) == 1


def test_on_a_terminal_a_bar_starts_where_the_run_does_and_is_closed_with_it() -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=True, width=120)

    with open_display(7, 10, 5, console) as display:
        assert isinstance(display, Bar)
        assert display._progress.tasks[0].completed == 7
        display.step(_metrics(8))
        display.evaluated(8, {"eval_loss": 3.25})
        assert display._progress.tasks[0].completed == 8

    assert display._progress.live.is_started is False
    assert "eval_loss 3.25" in shown.getvalue()
    assert "loss 4.123" in shown.getvalue()


@pytest.mark.parametrize(("terminal", "display"), [(True, Bar), (False, Lines)])
def test_a_terminal_gets_a_bar_and_a_log_file_lines(terminal: bool, display: type[Bar] | type[Lines]) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal)

    assert isinstance(open_display(0, 10, 5, console), display)


def _of_several(step: int, straggler: int, late: float, seconds: float = 0.9) -> dict[str, Any]:
    return _metrics(step, straggler=straggler, straggler_seconds=late, step_seconds=seconds)


def test_a_line_says_which_rank_was_waited_for_and_for_what_share_of_the_time(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with ListenedRun(total_steps=4) as run:
        for step, (rank, late) in enumerate([(1, 0.01), (3, 0.2), (3, 0.2), (1, 0.04)], start=1):
            Progress(every=0).hfx_step_end(run, _of_several(step, rank, late))

    first, second, _, fourth = capsys.readouterr().err.splitlines()
    assert first.endswith("tokens/s")  # a hundredth is not worth a word
    assert second.endswith("  10% waiting for rank 3")
    assert fourth.endswith("  10% waiting for rank 3")


@pytest.mark.parametrize("terminal", [True, False])
def test_a_rank_that_is_behind_for_long_is_warned_about_once(terminal: bool) -> None:
    shown = io.StringIO()
    console = Console(file=shown, force_terminal=terminal, width=200)
    with open_display(0, 300, 3600, console) as display:
        for step in range(1, 121):
            display.step(_of_several(step, 2, 0.3))
            if step == 49:
                assert "warning" not in shown.getvalue()

    told = [line for line in shown.getvalue().splitlines() if "warning" in line]
    assert len(told) == 1
    assert "warning: the others waited for rank 2 in 30% of the time of the last 50 steps; look at what else" in told[0]


@pytest.mark.parametrize(
    ("late", "seconds", "ranks"),
    [(0.15, 0.9, [2]), (0.03, 0.0, [2]), (0.3, 0.9, [0, 1])],
    ids=["a little", "in steps of a moment", "now this one and now that"],
)
def test_no_warning_where_ranks_differ(
    late: float, seconds: float, ranks: list[int], capsys: pytest.CaptureFixture[str]
) -> None:
    with ListenedRun(total_steps=200) as run:
        for step in range(1, 101):
            Progress().hfx_step_end(run, _of_several(step, ranks[step % len(ranks)], late, seconds))

    assert "warning" not in capsys.readouterr().err
