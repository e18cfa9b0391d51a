"""The `Plugin` base class: one frozen pydantic model whose fields are options and whose hooks are behaviour."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

import pluggy
from pydantic import BaseModel, ConfigDict, field_validator

from hfx import secret
from hfx.secret import Secret as Secret
from hfx.secret import reveal as reveal

hookspec = pluggy.HookspecMarker("hfx")
hookimpl = pluggy.HookimplMarker("hfx")


class ColumnName:
    """Marks an option that names a column of the raw rows; the core carries that column into the table."""


Column = Annotated[str, ColumnName()]
"""An option of this type names a scalar column of the raw rows, which the prepared table then carries."""


def snake_case(name: str) -> str:
    """Return `LengthGrouped` as `length_grouped`: the name of a class that is no entry point."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Plugin(BaseModel):
    """Base of every plugin: fields are its options, `@hookimpl` methods its behaviour, the docstring its help.

    A plugin is frozen and keeps no state of a run: what has to survive a restart lives in `run.state[NAME]`, what is
    open (a file, a profiler) in `run.local[NAME]`.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        validate_default=True,
        protected_namespaces=(),
        hide_input_in_errors=True,
    )

    unverified: ClassVar[str] = ""
    """What of it nobody has seen at work, and why ("no GPU with fp8 was at hand"): lists and runs show it."""
    version: ClassVar[int] = 1
    """Raise it when a cleaning step or task computes something else than before: caches made by the old one expire."""

    @field_validator("*", mode="after")
    @classmethod
    def _names_secrets(cls, value: Any) -> Any:
        return secret.guarded(value)

    # pluggy keeps plugins in sets and compares them with `==`: two plugins with equal options are still two plugins.
    def __hash__(self) -> int:
        return id(self)

    def __eq__(self, other: object) -> bool:
        return self is other

    @property
    def name(self) -> str:
        """The class's name in snake case; a step's name in caches and reports."""
        return snake_case(type(self).__name__)

    def options(self) -> dict[str, Any]:
        """Return the options as JSON values, secrets as `env:NAME`."""
        return secret.written(self)
