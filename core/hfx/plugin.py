"""The `Plugin` base class: one frozen pydantic model whose fields are options and whose hooks are behaviour."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, ClassVar

import pluggy
from pydantic import AfterValidator, BaseModel, ConfigDict

hookspec = pluggy.HookspecMarker("hfx")
hookimpl = pluggy.HookimplMarker("hfx")


class ColumnName:
    """Marks an option that names a column of the raw rows; the core carries that column into the table."""


def _reference(value: str) -> str:
    if not value.startswith("env:") or len(value) == len("env:"):
        raise ValueError("a secret is given as 'env:NAME'; put its value into that environment variable")
    return value


Column = Annotated[str, ColumnName()]
"""An option of this type names a scalar column of the raw rows, which the prepared table then carries."""

Secret = Annotated[str, AfterValidator(_reference)]
"""An option of this type holds `env:NAME`; `reveal` reads the value when it is needed, so no file ever has it."""


def reveal(secret: str) -> str:
    """Return the value behind `env:NAME`.

    Raises:
        ConfigError: the environment variable is not set.
    """
    from hfx.errors import ConfigError

    name = secret.removeprefix("env:")
    if name not in os.environ:
        raise ConfigError(f"the environment variable '{name}' is not set; an option refers to it as 'env:{name}'")
    return os.environ[name]


def snake_case(name: str) -> str:
    """Return `LengthGrouped` as `length_grouped`: the name of a class that is no entry point."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


class Plugin(BaseModel):
    """Base of every plugin: fields are its options, `@hookimpl` methods its behaviour, the docstring its help.

    A plugin is frozen and keeps no state of a run: what has to survive a restart lives in `run.state[NAME]`, what is
    open (a file, a profiler) in `run.local[NAME]`.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, protected_namespaces=()
    )

    unverified: ClassVar[str] = ""
    """What of it nobody has seen at work, and why ("no GPU with fp8 was at hand"): lists and runs show it."""
    version: ClassVar[int] = 1
    """Raise it when a cleaning step or task computes something else than before: caches made by the old one expire."""

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
        """Return the options as JSON values."""
        return self.model_dump(mode="json")
