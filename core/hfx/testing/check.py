"""A check: a name, and something to run that fails in one sentence."""

from __future__ import annotations

import unittest
from collections.abc import Callable
from typing import Any, NamedTuple

Asks = Callable[[Any], None]
"""A function whose name is a sentence about a plugin; it drives the plugin on a `Bench` and asserts the sentence."""


class Check(NamedTuple):
    """One thing that hfx asks of a plugin; call it, and it raises an `AssertionError` if the plugin does otherwise."""

    name: str
    run: Callable[[], None]

    def __call__(self) -> None:
        """Run the check."""
        self.run()

    def __str__(self) -> str:
        return self.name


def make_check(subject: str, asks: Asks, bench: Any) -> Check:
    """Return the check that a function makes of the plugin on a bench; its name is the function's."""
    return Check(f"{subject}: {asks.__name__.replace('_', ' ')}", lambda: _run(asks, bench))


def _run(asks: Asks, bench: Any) -> None:
    from hfx.testing.bench import calmly

    try:
        with calmly():
            asks(bench)
    except AssertionError:
        raise
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {' '.join(str(error).split()) or 'no message'}") from error
    except BaseException as error:
        # pytest's own `skip` is no Exception. A check that did not happen has not passed.
        if isinstance(error, unittest.SkipTest) or type(error).__name__ == "Skipped":
            raise AssertionError(f"the check was skipped: {error}") from error
        raise
