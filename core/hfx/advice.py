"""What would have fitted: the planner's advice where a device ran out of memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from hfx.errors import HfxError
from hfx.fit import Variant, fit
from hfx.plan import Plan, plan, with_data_of
from hfx.resolve import resolve
from hfx.run import Run
from hfx.written import to_yaml

if TYPE_CHECKING:
    from hfx.fit import Fit

CLEARLY_LESS = 0.85
"""What is advised is planned to hold at most this share of what was held when memory ended: allocators keep more."""
RECOMPUTED = "add '--plugin gradient_checkpointing'"


def advice(run: Run) -> str:
    """Return what to do about a run whose memory ended just now."""
    had = run.held()
    where = f"memory ran out at step {run.step}, with {had / 2**30:.2f} GiB in use"
    found = _fitting(run, int(had * CLEARLY_LESS)) if run.world.size == 1 else None
    if found is None:
        smaller = f"'--micro-batch-size {run.smaller}'" if run.smaller else "a lower 'micro_batch_size'"
        less = f"use {smaller} (the result changes in its last bits, dropout is drawn anew), or "
        return f"{where}; {less if run.micro_batch_size > 1 else ''}{RECOMPUTED}"
    learns = ", which learns otherwise" if found.changes_result else ""
    return f"{where}; add '{found.variant.words()}'{learns}: that is planned to hold {_gib(found.plan)} GiB"


def _gib(found: Plan) -> str:
    return f"{found.peak.total() / 2**30:.2f}"


def _fitting(run: Run, budget: int) -> Fit | None:
    """Return the cheapest variant of the run that fits; None where nothing does, or the run cannot be made anew."""
    config = yaml.safe_load(to_yaml(run.resolved)) | {"micro_batch_size": run.micro_batch_size}

    def planned(variant: Variant) -> Plan:
        typed = resolve(
            mapping=config,
            plugin_args=variant.plugins,
            plugin_options=variant.options,
            fields=variant.fields,
        )
        return plan(with_data_of(run, Run(typed, run.output, run.world)))

    try:
        found = fit(planned, budget, run.micro_batch_size, frozenset(active.name for active in run.active))
    except HfxError:
        # Objects given from Python, or a plugin that refuses the variants: the general advice remains.
        return None
    return found if found and found.variant.words() else None
