"""`early_stopping`: the run ends once its evaluations have not got better for a while."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import hfx
from hfx import Plugin, hookimpl
from hfx.checkpoint import newest
from hfx.errors import IncompatibleError
from hfx_plugins.guards.early_stopping import EarlyStopping
from overfitting import Ends, config, evaluations, rows, trained


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return rows(tmp_path_factory.mktemp("early"))


def test_the_run_ends_saved_and_exported_at_the_last_evaluation_it_waited_for(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    result = trained(data, tmp_path / "run", plugins={"early_stopping": {"patience": 2}})
    losses = {step: line["eval_loss"] for step, line in evaluations(tmp_path / "run").items()}
    best = min(losses, key=losses.__getitem__)
    assert result.step == best + 2 * 4 < 40
    assert result.stopped == "'eval_loss' has not got better for 2 evaluations"
    assert f"hfx: ended at step {result.step} of 40: {result.stopped}\n" in capfd.readouterr().err
    assert newest(tmp_path / "run", 1).step == result.step
    assert (tmp_path / "run" / "model" / "config.json").is_file()


def test_a_figure_has_to_be_better_by_more_than_the_least_difference(data: Path, tmp_path: Path) -> None:
    result = trained(data, tmp_path / "run", plugins={"early_stopping": {"patience": 1, "min_delta": 10.0}})
    assert result.step == 8  # the first evaluation, at 4, is the best; the second, at 8, is not better by 10


def test_a_resumed_run_goes_on_counting(data: Path, tmp_path: Path) -> None:
    whole = trained(data, tmp_path / "whole", plugins={"early_stopping": {"patience": 2}})
    part = tmp_path / "part"
    between = whole.step - 4  # one evaluation of the two was made; which they are depends on the machine's last bits
    hfx.train(config(data), plugins=[EarlyStopping(patience=2), Ends(after=between)], output=str(part))
    result = hfx.train(config(data, resume=str(part)), plugins=[EarlyStopping(patience=2), Ends(after=99)])
    assert (result.step, result.stopped) == (whole.step, whole.stopped)


def test_a_run_that_had_ended_is_over_when_it_is_resumed_but_with_more_patience(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    ended = trained(data, run, plugins={"early_stopping": {"patience": 1, "min_delta": 10.0}})
    lines = (run / "metrics.jsonl").read_text()
    (run / "model" / "config.json").unlink()  # as if it had been killed in the export
    again = hfx.train(config(data, resume=str(run)), plugins=[EarlyStopping(patience=1, min_delta=10.0)])
    assert (again.step, again.stopped) == (ended.step, ended.stopped)
    assert (run / "metrics.jsonl").read_text() == lines
    assert (run / "model" / "config.json").is_file()
    more = hfx.train(config(data, resume=str(run)), plugins=[EarlyStopping(patience=2, min_delta=10.0)])
    assert more.step == ended.step + 4


class Returns(Plugin):
    """Goes back once, and looks what is remembered then."""

    @hookimpl
    def hfx_step_end(self, run: Any, metrics: dict[str, Any]) -> None:
        if metrics["step"] == 5 and "went" not in run.local:
            run.local["went"] = True
            run.go_back("a test", first_bad=3, times=2, otherwise="nothing")
        elif metrics["step"] == 3 and "went" in run.local:
            SEEN.append(dict(run.state["early_stopping"]))


SEEN: list[dict[str, Any]] = []


def test_a_run_that_goes_back_before_its_first_evaluation_knows_of_none(data: Path, tmp_path: Path) -> None:
    SEEN.clear()
    fields = config(data, save_every=2, steps=9, keep=5)
    hfx.train(fields, plugins=[EarlyStopping(patience=2), Returns()], output=str(tmp_path / "run"))
    assert SEEN == [{}]


def test_a_run_with_nothing_to_compare_is_refused(data: Path, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="'early_stopping' compares evaluations"):
        trained(data, tmp_path / "run", eval_every=None, plugins={"early_stopping": {}})
