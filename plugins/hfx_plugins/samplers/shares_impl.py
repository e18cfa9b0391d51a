"""Shares that a user gave by name, checked against the names that there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hfx.errors import ConfigError, nearest
from hfx_plugins.samplers.interleave_impl import UNITS, weights_of


def by_name(given: Mapping[str, float], names: Sequence[str], option: str, kind: str) -> list[float]:
    """Return the share of each name.

    Raises:
        ConfigError: a name that does not exist, one that has no share, or nothing but zeros.
    """
    for name in given:
        if name not in names:
            raise ConfigError(
                f"'{option}' names the {kind} '{name}', which the data does not have;"
                f"{nearest(name, names) or f' it has {listed(names)}'}"
            )
    missing = [name for name in names if name not in given]
    if missing:
        raise ConfigError(f"'{option}' has no share for the {kind} '{missing[0]}'; give it one, or 0 to leave it out")
    if not any(given.values()):
        raise ConfigError(f"all shares of '{option}' are 0; give at least one {kind} more")
    return [given[name] for name in names]


def listed(names: Sequence[str], most: int = 10) -> str:
    """Return names in quotes, the first ten of them."""
    shown = ", ".join(f"'{name}'" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def whole(shares: Sequence[float], names: Sequence[str], option: str) -> list[int]:
    """Return shares as whole numbers.

    Raises:
        ConfigError: a share is too small to be told from nothing.
    """
    try:
        return weights_of(shares)
    except ValueError as error:
        name = names[int(error.args[0])]
        raise ConfigError(f"the share of '{name}' in '{option}' is below 1/{UNITS} of the whole; raise it") from None


def named_shares(
    shares: Mapping[str, float] | None, changes: Mapping[int, Mapping[str, float]]
) -> list[tuple[int, str, Mapping[str, float]]]:
    """Return the shares that a mixture was given: from which position on, the option to name in an error, and they."""
    first = [] if shares is None else [(0, "mixture.shares", shares)]
    return first + [(at, f"mixture.changes.{at}", changes[at]) for at in sorted(changes)]
