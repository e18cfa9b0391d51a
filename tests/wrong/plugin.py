"""Plugins that are wrong whatever their role is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from pydantic import ConfigDict, field_serializer

from hfx import Plugin, Problem, hookimpl


class Changeable(Plugin):
    """Can be changed."""

    model_config = ConfigDict(frozen=False)

    lr: float = 0.1
    """Learning rate."""

    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        return []


class Rounded(Plugin):
    """Writes another option down than it has."""

    lr: float = 0.15
    """Learning rate."""

    @field_serializer("lr")
    def _rounded(self, value: float) -> float:
        return round(value, 1)

    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        return []


class Undocumented(Plugin):
    """Says nothing about its option."""

    lr: float = 0.1

    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        return []


class Nameless(Plugin):
    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        return []


class Refusing(Plugin):
    """Objects to every run."""

    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        return [Problem("not this one; try another")]


class Early(Plugin):
    """Reads the model before there is one."""

    @hookimpl
    def hfx_check(self, run: Any) -> Iterable[Problem]:
        return [Problem("no")] if run.model is None else []


class Misspelt(Plugin):
    """Takes an argument that its hook does not have."""

    @hookimpl
    def hfx_check(self, runs: Any) -> Iterable[Problem]:
        return []


_PART = "takes part in a plain run"
WRONG = {
    Changeable: {"is frozen"},
    Rounded: {"options survive json"},
    Undocumented: {"every option is documented"},
    Nameless: {"has a docstring"},
    Refusing: {_PART},
    Early: {_PART},
    Misspelt: {"its hooks can be called", _PART},
}
