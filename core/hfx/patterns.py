"""Parameters meant by patterns of names: how options such as `freeze.names` are read."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from hfx.errors import ConfigError, nearest


def fits(name: str, pattern: str) -> bool:
    """Say whether a pattern (`*`, `?`, `[01]`) is the whole name of a parameter, or of a module that it is in."""
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")


def check_patterns(option: str, patterns: Iterable[str], names: Sequence[str]) -> None:
    """Refuse a pattern of an option that means none of the parameters.

    Raises:
        ConfigError: with the nearest name.
    """
    for pattern in patterns:
        if not any(fits(name, pattern) for name in names):
            known = {name.rsplit(".", cut)[0] for name in names for cut in range(name.count(".") + 1)}
            hint = nearest(pattern, sorted(known)) or f" the first is '{names[0]}'"
            raise ConfigError(f"'{option}': no parameter of the model fits '{pattern}';{hint}")
