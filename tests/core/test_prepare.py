"""From rows to tables: raw columns that plugins name are carried whatever the task's columns are called."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hfx import Run, World
from hfx.errors import ConfigError, DataError
from hfx.resolve import resolve
from hfx_plugins.samplers.balanced import Balanced
from hfx_plugins.samplers.weighted import Weighted
from hfx_plugins.tasks.classification import Classification

Make = Callable[..., Run]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Makes a run on rows that are given, with a cache of its own."""
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))

    def made(rows: list[dict[str, Any]], *plugins: Any) -> Run:
        data = tmp_path / "rows.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows))
        small = {"bpe": {"vocab_size": 300}, "scratch": {"hidden_size": 32, "layers": 1}}
        fields = {"data": str(data), "eval_share": 0, "seq_length": 16, "plugins": small}
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
