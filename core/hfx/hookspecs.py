"""Every hook of hfx, in the order of a run. Read this first, then `protocols.py` for the nouns.

Three kinds, and no fourth:

- A **role** has exactly one provider among the active plugins; activating a plugin that provides it chooses it.
- A **wrapper** is `@hookimpl(wrapper=True)` on a role's hook: `value = yield` is what the role returned, and what the
  wrapper returns replaces it. Wrappers run in the order in which their plugins were named.
- A **listener** is told that something happened and returns nothing; it must not depend on the order of listeners.

A hook implementation takes any subset of the arguments, by name, without defaults. Every hook runs on every rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hfx.plugin import hookspec
from hfx.protocols import Backend, Batcher, Precision, Problem, Rows, RunResult, Sampler, Table, Task

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfx.params import ParamGroups
    from hfx.plain_script import PlainScript
    from hfx.run import Run

LISTENERS = ("hfx_check", "hfx_step_end", "hfx_evaluated", "hfx_saved", "hfx_eject")
"""The hooks that every active plugin may implement; all others are roles."""

# ── resolve ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec
def hfx_check(run: Run) -> Iterable[Problem]:
    """Report what cannot work: called on names and options before torch is imported, and again with `run.device`.

    It changes nothing: `--dry-run` calls it, too.
    """
    raise AssertionError("a specification")


# ── launch and run ───────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec(firstresult=True)
def hfx_launch(run: Run, main: Callable[[Run], RunResult]) -> RunResult | None:
    """Role `launch`: start the processes of the run and call `main(run)` in each."""


@hookspec(firstresult=True)
def hfx_run(run: Run) -> RunResult | None:
    """Role `run`: train. A wrapper opens something before and closes it after, however the run ends."""


# ── data ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec(firstresult=True)
def hfx_source(split: str, run: Run) -> Rows | None:
    """Role `source`: the rows of `train` or `eval`. A wrapper appends a cleaning step: `return rows.then(self)`.

    Called for `eval` only where the run has `eval_data`.
    """


@hookspec(firstresult=True)
def hfx_tokenizer(run: Run) -> PreTrainedTokenizerBase | None:
    """Role `tokenizer`: may read `run.rows("train")` to be trained on them."""


@hookspec(firstresult=True)
def hfx_task(run: Run) -> Task | None:
    """Role `task`: how a row becomes examples and what their loss is."""


@hookspec(firstresult=True)
def hfx_sampler(table: Table, run: Run) -> Sampler | None:
    """Role `sampler`: the order of one block's examples, a pure function of epoch and position."""


@hookspec(firstresult=True)
def hfx_batcher(run: Run) -> Batcher | None:
    """Role `batcher`: how examples share sequences, and how sequences become tensors."""


# ── device ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec(firstresult=True)
def hfx_precision(run: Run) -> Precision | None:
    """Role `precision`: in which numbers the run computes."""


@hookspec(firstresult=True)
def hfx_backend(run: Run) -> Backend | None:
    """Role `backend`: where tensors live and how ranks reduce; it forms the process group if there is one."""


# ── model and optimizer ──────────────────────────────────────────────────────────────────────────────────────────────


@hookspec(firstresult=True)
def hfx_model(run: Run) -> PreTrainedModel | None:
    """Role `model`: built inside `run.backend.building()`, in `run.precision.dtype`."""


@hookspec(firstresult=True)
def hfx_optimizer(params: ParamGroups, run: Run) -> Optimizer | None:
    """Role `optimizer`: takes its groups from `params.groups(weight_decay=...)`; a wrapper may refine them."""


@hookspec(firstresult=True)
def hfx_schedule(optimizer: Optimizer, run: Run) -> LRScheduler | None:
    """Role `schedule`: stepped once after every update; `run.total_steps` says how many there are."""


# ── end and events ───────────────────────────────────────────────────────────────────────────────────────────────────


@hookspec(firstresult=True)
def hfx_export(run: Run, path: Path) -> Path | None:
    """Role `export`: write what `from_pretrained` loads into `path`, on the main rank, and return the path."""


@hookspec
def hfx_step_end(run: Run, metrics: dict[str, Any]) -> None:
    """Told after every step, with figures already reduced over ranks."""


@hookspec
def hfx_evaluated(run: Run, metrics: dict[str, Any]) -> None:
    """Told after every evaluation, with `eval_` figures."""


@hookspec
def hfx_saved(run: Run, path: Path) -> None:
    """Told after a checkpoint is committed; with `async_save` some steps later, so its step is that of `path`."""


@hookspec
def hfx_eject(script: PlainScript, run: Run) -> None:
    """Told by `hfx eject`, in one process: say what this plugin is in plain code; reading a part of the run builds it.

    Has to be there for whoever provides the task or the precision, or wraps model, optimizer, schedule, precision or
    backend: a run with one that says nothing is refused.
    """
