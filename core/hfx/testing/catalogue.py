"""Which checks a plugin gets: the general ones, and those of each hook it implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from hfx.hookspecs import LISTENERS
from hfx.implementations import HOOKS, implementations
from hfx.testing import general, optimizers, order, sources, tasks
from hfx.testing.bench import Bench
from hfx.testing.check import Asks, Check, make_check

Catalogue: TypeAlias = Mapping[str, tuple[Asks, ...]]

PROVIDERS: Catalogue = {
    "source": sources.SOURCE,
    "task": tasks.TASK,
    "sampler": order.SAMPLER,
    "optimizer": optimizers.OPTIMIZER,
}
WRAPPERS: Catalogue = {**PROVIDERS}
"""What a wrapper returns is used as the provider's would be; some have checks of their own."""


def checks_of(bench: Bench) -> list[Check]:
    """Return the checks of the bench's plugin."""
    checks = [make_check("plugin", asks, bench) for asks in general.PLUGIN]
    found = implementations(bench.plugin_class)
    for hook in (hook for hook in HOOKS if hook in found and hook not in LISTENERS):
        role, wrapper = hook.removeprefix("hfx_"), found[hook].wrapper
        subject = f"{role} wrapper" if wrapper else role
        checks += [make_check(subject, asks, bench) for asks in (WRAPPERS if wrapper else PROVIDERS)[role]]
    return checks
