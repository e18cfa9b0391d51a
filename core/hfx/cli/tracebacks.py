"""The option `--traceback`, which every command takes, and what it decides."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import click

VARIABLE = "HFX_TRACEBACK"
F = TypeVar("F", bound=Callable[..., Any])


def _remember(ctx: click.Context, _: click.Parameter, value: bool) -> None:
    # Kept in the environment so that processes started by a launcher show theirs too.
    if value and not ctx.resilient_parsing:
        os.environ[VARIABLE] = "1"


def traceback_option(function: F) -> F:
    """Add `--traceback` to a command."""
    return click.option(
        "--traceback",
        is_flag=True,
        is_eager=True,
        expose_value=False,
        callback=_remember,
        help=f"Show the traceback of an error (also {VARIABLE}=1).",
    )(function)


def wanted() -> bool:
    """Tell whether errors are shown with their traceback."""
    return os.environ.get(VARIABLE, "") not in ("", "0")
