from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hfx.layers import Origin, Value
from hfx.resolve import describe, resolve, to_yaml
from resolving import FREE, Write, distribution, go
from toy_packages import OPTIMIZER, toy_package


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    lr=st.floats(1e-12, 1e3),
    seed=st.integers(0, 2**40),
    length=st.sampled_from([{"steps": 3}, {"epochs": 0.5}, {"tokens": 10**9}, {}]),
    data=st.sampled_from([None, "a b: c", {"x": "1", "y": "#2"}, "none", "ünï"]),
    plugins=st.lists(st.sampled_from(["lion", "no:progress", "linear", "gradient_checkpointing"]), unique=True),
)
def test_the_yaml_of_a_run_is_taken_back_unchanged(
    tmp_path: Path, lr: float, seed: int, length: dict[str, Any], data: Any, plugins: list[str]
) -> None:
    optimizer = "lion" if "lion" in plugins else "adamw"
    fields = {"seed": seed, "data": data, "max_grad_norm": None, **length}
    origin = Origin("python", "x")
    first = resolve(
        fields={key: Value(value, origin) for key, value in fields.items()},
        plugin_args=plugins,
        plugin_options=[(f"{optimizer}.lr", repr(lr))],
        policy=FREE,
    )
    (tmp_path / "run.yaml").write_text(to_yaml(first), encoding="utf-8")
    again = resolve(yaml_path=tmp_path / "run.yaml", policy=FREE)
    assert again.config == first.config
    assert [(a.name, a.plugin.options()) for a in again.plugins] == [
        (a.name, a.plugin.options()) for a in first.plugins
    ]
    assert to_yaml(again) == to_yaml(first)


def test_a_namesake_is_written_with_its_distribution(site: Path, config: Write) -> None:
    toy_package(site, "hfx-fastlion", {"lion": OPTIMIZER})
    text = to_yaml(go("lion@hfx-fastlion"))
    assert "lion@hfx-fastlion:" in text
    assert distribution(resolve(yaml_path=config(text), policy=FREE), "lion") == "hfx-fastlion"


def test_every_value_has_an_origin() -> None:
    resolved = go("lion")
    paths = [path for path, _, _ in describe(resolved)]
    assert len(paths) == len(set(paths))
    assert {"run.seed", "lion.lr", "padding.pad_to_multiple_of"} <= set(paths)
