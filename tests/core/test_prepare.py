"""From rows to tables: raw columns that plugins name are carried whatever the task's columns are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfx import Run, Task, World, hookimpl
from hfx.errors import ConfigError, DataError, PluginError
from hfx.resolve import resolve
from hfx.table import ArrowTable
from hfx_plugins.samplers.balanced import Balanced
from hfx_plugins.samplers.weighted import Weighted
from hfx_plugins.tasks.causal_lm import CausalLM
from hfx_plugins.tasks.classification import Classification

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a run on rows that are given, with a cache of its own."""
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))

    def made(rows: list[dict[str, Any]], *plugins: Any, num_proc: int = 1) -> Run:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        small = {"bpe": {"vocab_size": 300}, "scratch": {"hidden_size": 32, "layers": 1}}
        fields = {"data": str(data), "eval_share": 0, "seq_length": 16, "plugins": small, "num_proc": num_proc}
        return Run(resolve(mapping=fields, plugin_objects=plugins), tmp_path / "run", World())

    return made


def rows(count: int, **columns: Callable[[int], Any]) -> list[dict[str, Any]]:
    return [{"text": f"row {n}", **{name: value(n) for name, value in columns.items()}} for n in range(count)]


def test_a_raw_column_may_have_the_name_of_a_tasks_column(make: Make) -> None:
    run = make(rows(60, label=lambda n: "odd" if n % 3 else "even"), Classification(), Balanced(column="label"))

    assert set(run.table().column("label")) == {"odd", "even"}
    assert run.table().values(0)["label"] in (0, 1)
    drawn = run.sampler.rows(0, 0, run.sampler.size(0))
    assert abs((run.table().column("label")[drawn] == "odd").mean() - 0.5) < 0.03


def test_a_raw_columns_type_is_that_of_all_rows(make: Make) -> None:
    run = make(rows(2_500, weight=lambda n: 1 if n < 2_000 else 0.5), Weighted(column="weight"))
    assert run.table().column("weight").tolist() == [1.0] * 2_000 + [0.5] * 500


def test_values_of_several_types_are_one_line(make: Make) -> None:
    run = make(rows(2_500, weight=lambda n: 1 if n < 2_000 else "heavy"), Weighted(column="weight"))
    with pytest.raises(DataError, match="several types"):
        run.table()


def test_a_column_of_the_table_itself_cannot_be_carried(make: Make) -> None:
    run = make(rows(20, length=lambda n: n), Weighted(column="length"))
    with pytest.raises(ConfigError, match="'length' names a column of the prepared table itself"):
        run.table()


def test_another_file_of_weights_is_another_plan(make: Make, tmp_path: Path) -> None:
    weights = tmp_path / "weights.txt"
    plans = []
    for first in (1, 1, 2):
        weights.write_text(f"{first}\n" + "1\n" * 19)
        plans.append(make(rows(20), Weighted(file=str(weights))).plan_sha256())
    assert plans[0] == plans[1] != plans[2]


class RowByRow(CausalLM):
    """Cuts each row alone."""

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        task = super().hfx_task(run)
        whole = type(task).examples
        task.__class__ = type(type(task).__name__, (type(task),), {"examples": lambda self, row: whole(self, row)})
        return task


class Forgetful(CausalLM):
    """Loses the last row of each chunk."""

    @hookimpl
    def hfx_task(self, run: Run) -> Task:
        task = super().hfx_task(run)
        whole = type(task).examples_of  # type: ignore[attr-defined]
        lost = {"examples_of": lambda self, rows: whole(self, rows[:-1])}
        task.__class__ = type(type(task).__name__, (type(task),), lost)
        return task


def test_a_table_is_the_same_bytes_whether_rows_are_cut_alone_together_or_in_other_processes(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given = [*rows(2_300, weight=lambda n: n / 7), {"text": "", "weight": 0}, {"text": "to be or " * 90, "weight": 1}]
    found = []
    for number, (task, num_proc) in enumerate([(RowByRow(), 1), (CausalLM(), 1), (CausalLM(), 2)]):
        monkeypatch.setenv("HFX_CACHE", str(tmp_path / f"cache{number}"))
        table = make(given, task, Weighted(column="weight"), num_proc=num_proc).table()
        assert isinstance(table, ArrowTable)
        found.append([(table.path / name).read_bytes() for name in ("table.arrow", "carried.arrow", "table.json")])
    assert found[0] == found[1] == found[2]


def test_a_task_that_loses_a_row_is_one_line(make: Make) -> None:
    with pytest.raises(PluginError, match=r"'CausalLMTask\.examples_of' returned 19 outcomes for 20 rows"):
        make(rows(20), Forgetful()).table()
