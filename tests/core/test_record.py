from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hfx import Plugin, Run, hookimpl
from hfx.checkpoint import newest
from hfx.record import Record
from hfx.testing.bench import Bench
from hfx.testing.witnesses import Stopper
from hfx_plugins.samplers.sequential import Sequential


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(("evaluated", "kept"), [(True, 4), (False, 3)])
def test_an_evaluation_comes_after_its_step(tmp_path: Path, evaluated: bool, kept: int) -> None:
    record = Record(tmp_path / "metrics.jsonl")
    written = [{"step": 1, "loss": 2.0}, {"step": 1, "eval_loss": 2.1}, {"step": 2, "loss": 1.9}]
    written += [{"step": 2, "eval_loss": 2.0}, {"step": 3, "loss": 1.8}]
    for line in written:
        record.append(line)

    assert record.cut(2, evaluated) == 5 - kept
    assert lines(record.path) == written[:kept]
    assert lines(tmp_path / "metrics.after-2.jsonl") == written[kept:]


class Killed(Plugin):
    """Fails at a step, as a run that is killed."""

    @hookimpl
    def hfx_step_end(self, run: Run) -> None:
        if run.step == 3:
            raise OSError("killed")


def test_an_evaluation_made_up_for_after_a_stop_is_there_once_however_often_the_run_is_killed() -> None:
    bench = Bench.of(Sequential, {}, {"eval_every": 1, "log_every": 1, "save_every": 10, "steps": 4}, None)
    output = bench.fresh("stopped")
    with bench.run(Stopper(after=1), output=output) as run:
        run.build()
        run.hooks.run(run=run)
        stopped_at = run.step
    for killed in ((Killed(),), ()):
        with bench.run(*killed, output=output) as run:
            found = newest(output, 1)
            assert found is not None
            run.restore(found)
            if killed:
                with pytest.raises(OSError, match="killed"):
                    run.hooks.run(run=run)
            else:
                run.hooks.run(run=run)

    evaluated = [line["step"] for line in lines(output / "metrics.jsonl") if "eval_loss" in line]
    assert stopped_at == 2
    assert evaluated == [1, 2, 3, 4]
