"""Variants of a run: without one of its techniques, or with more of them until it fits into a budget of memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import product

from hfx.plan import Plan

CHEAPER_STEP = 0.03
"""What halving the micro-batch costs, as a share of a step's time: a guess, which orders what is tried."""
SHARDED = (
    (0.02, ("zero",), (("zero.stage", "2"),)),
    (0.25, ("fsdp",), ()),
)
"""The same of backends that share over the ranks what each would hold: the optimizer's state and gradients, or all. It
depends on what connects them. Stage 1 of ZeRO sends as much as stage 2, and stage 3 holds more than FSDP."""
CHECKPOINTING = "gradient_checkpointing"
OTHER_OPTIMIZER = 10.0
"""More than anything that leaves the result as it is."""


@dataclass(frozen=True)
class Variant:
    """What is typed beside the run's own words."""

    plugins: tuple[str, ...] = ()
    options: tuple[tuple[str, str], ...] = ()
    fields: dict[str, str] = field(default_factory=dict)

    def words(self) -> str:
        """Return them as they are typed."""
        parts = [f"--plugin {name}" for name in self.plugins]
        parts += [f"--{path.replace('_', '-')} {value}" for path, value in self.options]
        parts += [f"--{name.replace('_', '-')} {value}" for name, value in self.fields.items()]
        return " ".join(parts)


@dataclass(frozen=True)
class Fit:
    """The cheapest variant that was found to fit, and what was tried."""

    variant: Variant
    plan: Plan
    tried: int
    changes_result: bool


Planner = Callable[[Variant], Plan | None]
"""Plans a variant of a run; None where a plugin refuses it."""


def fit(planner: Planner, budget: int, micro_batch_size: int, active: frozenset[str], ranks: int = 1) -> Fit | None:
    """Return the cheapest variant whose peak is within a budget of bytes; None where none is.

    Techniques that leave the result as it is come first, by what they cost in time: smaller micro-batches, recomputing
    all but products of matrices, sharing over the ranks where nobody chose a backend, then every n-th layer; another
    optimizer comes last, since it learns otherwise.
    """
    ordered = sorted(
        _variants(micro_batch_size, active, ranks > 1 and "auto_backend" in active), key=lambda item: item[0]
    )
    # Of a backend and an optimizer the smallest micro-batch with all recomputed comes last, and holds least.
    least = {kind: variant for _, kind, variant in ordered}
    hopeless: dict[str, bool] = {}
    tried = 0
    for cost, kind, variant in ordered:
        if hopeless.get(kind):
            continue
        tried += 1
        if (found := planner(variant)) and found.peak.total() <= budget:
            return Fit(variant, found, tried, cost >= OTHER_OPTIMIZER)
        if kind not in hopeless:
            lowest = planner(least[kind])
            hopeless[kind] = lowest is None or lowest.peak.total() > budget
    return None


def _variants(micro_batch_size: int, active: frozenset[str], shared: bool) -> Iterator[tuple[float, str, Variant]]:
    """Yield what may be tried: its cost, what it updates with and shares by, and the words."""
    halves = [(micro_batch_size >> times) for times in range(micro_batch_size.bit_length())]
    recomputed: list[tuple[float, Variant]] = [(0.0, Variant())]
    if CHECKPOINTING not in active:
        kept = ((f"{CHECKPOINTING}.keep", "matmuls"),)
        recomputed.append((CHEAPER_STEP, Variant((CHECKPOINTING,), kept)))
    for every in (1,) if CHECKPOINTING in active else (4, 2, 1):
        plugins: tuple[str, ...] = () if CHECKPOINTING in active else (CHECKPOINTING,)
        options = ((f"{CHECKPOINTING}.every", str(every)),) if every > 1 or CHECKPOINTING in active else ()
        recomputed.append((1 / 3 / every, Variant(plugins, options)))
    optimizers: list[tuple[float, tuple[str, ...]]] = [(0.0, ())]
    if "adamw" in active:
        optimizers.append((OTHER_OPTIMIZER, ("lion",)))
    if "adafactor" not in active:
        optimizers.append((OTHER_OPTIMIZER + 1, ("adafactor",)))
    backends = [(0.0, Variant()), *((cost, Variant(*words)) for cost, *words in (SHARDED if shared else ()))]
    for (times, micro), (slower, variant), (sent, backend), (other, optimizer) in product(
        enumerate(halves), recomputed, backends, optimizers
    ):
        fields = {"micro_batch_size": str(micro)} if times else {}
        plugins = (*variant.plugins, *backend.plugins, *optimizer)
        cost = times * CHEAPER_STEP + slower + sent + other
        kind = " ".join((*backend.plugins, *optimizer))
        yield cost, kind, Variant(plugins, (*variant.options, *backend.options), fields)
