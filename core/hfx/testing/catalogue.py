"""Which checks a plugin gets: the general ones, and those of each hook it implements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

from hfx.hookspecs import LISTENERS
from hfx.implementations import HOOKS, implementations
from hfx.testing import (
    backends,
    batchers,
    executors,
    exports,
    general,
    launches,
    listeners,
    models,
    optimizers,
    order,
    precisions,
    runs,
    schedules,
    sources,
    steps,
    tasks,
    tokenizers,
)
from hfx.testing.bench import Bench
from hfx.testing.check import Asks, Check, make_check

Catalogue: TypeAlias = Mapping[str, tuple[Asks, ...]]

PROVIDERS: Catalogue = {
    "launch": launches.LAUNCH,
    "run": runs.RUN,
    "source": sources.SOURCE,
    "tokenizer": tokenizers.TOKENIZER,
    "task": tasks.TASK,
    "sampler": order.SAMPLER,
    "batcher": batchers.BATCHER,
    "precision": precisions.PRECISION,
    "backend": backends.BACKEND,
    "model": models.MODEL,
    "optimizer": optimizers.OPTIMIZER,
    "schedule": schedules.SCHEDULE,
    "export": exports.EXPORT,
}
WRAPPERS: Catalogue = {
    **PROVIDERS,
    "run": runs.WRAPPER,
    "source": steps.STEP,
    "model": models.WRAPPER,
    "optimizer": optimizers.WRAPPER,
    "export": exports.WRAPPER,
}
"""What a wrapper returns is used as the provider's would be; some have checks of their own."""
_AROUND = {"hfx_check", "hfx_launch", "hfx_run", "hfx_export", *listeners.EVENTS}
"""Hooks beside the training itself: a listener that has only these must not change what is trained."""


def checks_of(bench: Bench) -> list[Check]:
    """Return the checks of the bench's plugin."""
    checks = [make_check("plugin", asks, bench) for asks in general.PLUGIN]
    found = implementations(bench.plugin_class)
    for hook in (hook for hook in HOOKS if hook in found and hook not in LISTENERS):
        role, wrapper = hook.removeprefix("hfx_"), found[hook].wrapper
        subject = f"{role} wrapper" if wrapper else role
        asked = (WRAPPERS if wrapper else PROVIDERS)[role]
        # What provides another role, too, may train otherwise; what stands around the run alone may not.
        if hook == "hfx_source" and executors.is_one(bench.plugin_class):
            subject, asked = "executor", executors.EXECUTOR
        asked = runs.RUN if hook == "hfx_run" and not found.keys() <= _AROUND else asked
        checks += [make_check(subject, asks, bench) for asks in asked]
    if any(event in found for event in listeners.EVENTS):
        asked = listeners.LISTENER if found.keys() <= _AROUND else listeners.MIXED
        checks += [make_check("listener", asks, bench) for asks in asked]
    return checks
