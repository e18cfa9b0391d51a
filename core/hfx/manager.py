"""The active plugins of one run, and the one place where each hook is called."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import pluggy

from hfx import hookspecs
from hfx.blame import core_failed, culprit, passes
from hfx.discovery import install_hint
from hfx.errors import HfxError, IncompatibleError, PluginError
from hfx.implementations import HOOKS, check_class, implementations
from hfx.layers import Origin
from hfx.plugin import Plugin
from hfx.protocols import Backend, Batcher, Precision, Problem, Rows, RunResult, Sampler, Table, Task
from hfx.redact import redacted

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LRScheduler
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from hfx.params import ParamGroups
    from hfx.plain_script import PlainScript
    from hfx.run import Run


Kind = TypeVar("Kind")
_CALLING_BACK = ("hfx_launch", "hfx_run")


@dataclass(frozen=True, eq=False)
class ActivePlugin:
    """A plugin of this run: its name, its options (in `plugin`), who offers it and who named it."""

    name: str
    plugin: Plugin
    distribution: str
    version: str
    origin: Origin
    registered: bool = True

    def __str__(self) -> str:
        offered = f"{self.distribution} {self.version}" if self.registered else "unregistered"
        return f"'{self.name}' ({offered})"


class _PluggyManager(pluggy.PluginManager):
    def parse_hookimpl_opts(self, plugin: object, name: str) -> Any:
        # pydantic's own attributes must not be looked at: some of them compute, some warn.
        return super().parse_hookimpl_opts(plugin, name) if name.startswith("hfx_") else None


class Manager:
    """Calls hooks: every hook in exactly one typed method, whose result is checked.

    Failures of the world (a full disk, a device out of memory, a lost rank) pass through as they are; any other
    exception of a plugin becomes a `PluginError` that names it.
    """

    def __init__(self, active: Sequence[ActivePlugin]) -> None:
        self.active = tuple(active)
        self._pluggy = _PluggyManager("hfx")
        self._pluggy.add_hookspecs(hookspecs)
        for plugin in self.active:
            check_class(str(plugin), type(plugin.plugin))
            self._pluggy.register(plugin.plugin, name=plugin.name)
        self._pluggy.check_pending()
        self._check_roles()

    def _check_roles(self) -> None:
        for hook in HOOKS:
            providers = self.providers(hook)
            if hook not in hookspecs.LISTENERS and len(providers) > 1:
                names = " and ".join(f"'{p.name}'" for p in providers)
                raise IncompatibleError(
                    f"{names} both provide '{hook}'; drop one with `--plugin no:{providers[-1].name}`"
                )

    def providers(self, hook: str) -> list[ActivePlugin]:
        """Return the plugins that implement the hook, wrappers left out."""
        return [
            p for p in self.active if hook in (found := implementations(type(p.plugin))) and not found[hook].wrapper
        ]

    def wrappers(self, hook: str) -> list[ActivePlugin]:
        """Return the plugins that wrap the hook, in the order in which they transform its result."""
        return [p for p in self.active if hook in (found := implementations(type(p.plugin))) and found[hook].wrapper]

    # ── roles ────────────────────────────────────────────────────────────────────────────────────────────────────────

    def launch(self, run: Run, main: Callable[[Run], RunResult]) -> RunResult:
        """Start the run's processes and return how the run ended."""
        return self._typed(self._role("hfx_launch", run=run, main=main), RunResult, "hfx_launch")

    def run(self, run: Run) -> RunResult:
        """Train, and return how the run ended."""
        return self._typed(self._role("hfx_run", run=run), RunResult, "hfx_run")

    def source(self, split: str, run: Run) -> Rows:
        """Return the rows of a split, with the steps that wrappers appended."""
        return self._typed(self._role("hfx_source", split=split, run=run), Rows, "hfx_source")

    def tokenizer(self, run: Run) -> PreTrainedTokenizerBase:
        """Return the tokenizer."""
        value: PreTrainedTokenizerBase = self._role("hfx_tokenizer", run=run)
        return self._shaped(value, ("encode", "decode", "__call__"), "a tokenizer", "hfx_tokenizer")

    def task(self, run: Run) -> Task:
        """Return the task, which does not know its labels yet."""
        value: Task = self._role("hfx_task", run=run)
        return self._shaped(value, ("unit", "columns", "examples", "loss", "metrics"), "a Task", "hfx_task")

    def sampler(self, table: Table, run: Run) -> Sampler:
        """Return the sampler of one block."""
        value: Sampler = self._role("hfx_sampler", table=table, run=run)
        return self._shaped(value, ("size", "rows"), "a Sampler", "hfx_sampler")

    def batcher(self, run: Run) -> Batcher:
        """Return the batcher."""
        value: Batcher = self._role("hfx_batcher", run=run)
        return self._shaped(value, ("window", "groups", "collate"), "a Batcher", "hfx_batcher")

    def precision(self, run: Run) -> Precision:
        """Return the precision."""
        value: Precision = self._role("hfx_precision", run=run)
        return self._shaped(value, ("dtype", "autocast", "convert", "scaler"), "a Precision", "hfx_precision")

    def backend(self, run: Run) -> Backend:
        """Return the backend, its process group formed."""
        value: Backend = self._role("hfx_backend", run=run)
        parts = ("building", "shard", "prepare", "backward", "step", "all_reduce", "state", "load")
        return self._shaped(value, parts, "a Backend", "hfx_backend")

    def model(self, run: Run) -> PreTrainedModel:
        """Return the model, wrappers applied."""
        value: PreTrainedModel = self._role("hfx_model", run=run)
        return self._shaped(value, ("named_parameters", "save_pretrained", "config"), "a PreTrainedModel", "hfx_model")

    def optimizer(self, params: ParamGroups, run: Run) -> Optimizer:
        """Return the optimizer, wrappers applied."""
        from torch.optim import Optimizer

        return self._typed(self._role("hfx_optimizer", params=params, run=run), Optimizer, "hfx_optimizer")

    def schedule(self, optimizer: Optimizer, run: Run) -> LRScheduler:
        """Return the schedule of the optimizer's learning rates."""
        from torch.optim.lr_scheduler import LRScheduler

        return self._typed(self._role("hfx_schedule", optimizer=optimizer, run=run), LRScheduler, "hfx_schedule")

    def export(self, run: Run, path: Path) -> Path:
        """Write the trained model into `path`, and return the path."""
        return self._typed(self._role("hfx_export", run=run, path=path), Path, "hfx_export")

    # ── listeners ────────────────────────────────────────────────────────────────────────────────────────────────────

    def check(self, run: Run) -> list[Problem]:
        """Return what the plugins report that cannot work."""
        problems: list[Problem] = []
        run.checking = True
        try:
            for reported in self._call("hfx_check", run=run):
                problems += self._problems(reported)
        finally:
            run.checking = False
        return problems

    def refuse(self, run: Run) -> list[str]:
        """Return what the plugins' checks only warn of.

        Raises:
            IncompatibleError: what cannot work, all of it, a line each: who mends the first should not meet the next.
        """
        problems = self.check(run=run)
        if fatal := [problem.message for problem in problems if problem.fatal]:
            raise IncompatibleError("\n".join(dict.fromkeys(fatal)))
        return [problem.message for problem in problems]

    def step_end(self, run: Run, metrics: dict[str, Any]) -> None:
        """Tell the listeners that a step is done."""
        self._call("hfx_step_end", run=run, metrics=metrics)

    def evaluated(self, run: Run, metrics: dict[str, Any]) -> None:
        """Tell the listeners the figures of an evaluation."""
        self._call("hfx_evaluated", run=run, metrics=metrics)

    def saved(self, run: Run, path: Path) -> None:
        """Tell the listeners that a checkpoint is committed."""
        self._call("hfx_saved", run=run, path=path)

    def eject(self, script: PlainScript, run: Run) -> None:
        """Let the plugins say what they are in plain code."""
        self._call("hfx_eject", script=script, run=run)

    # ── the border to pluggy ─────────────────────────────────────────────────────────────────────────────────────────

    def _call(self, hook: str, **arguments: Any) -> Any:
        try:
            return getattr(self._pluggy.hook, hook)(**arguments)
        except Exception as error:
            if passes(error) or (hook in _CALLING_BACK and core_failed(error)):
                raise
            raise self.blame(error, hook) from error

    def _role(self, hook: str, **arguments: Any) -> Any:
        value = self._call(hook, **arguments)
        if value is None and not self.providers(hook):
            raise PluginError(f"no active plugin provides the role '{hook.removeprefix('hfx_')}'; activate one")
        if value is None:
            raise PluginError(f"{self._chain(hook)} returned nothing for '{hook}'; it has to `return` a value")
        return value

    def _problems(self, reported: Any) -> list[Problem]:
        try:
            problems = list(reported)
        except Exception as error:
            if passes(error):
                raise
            raise self.blame(error, "hfx_check") from error
        for problem in problems:
            self._typed(problem, Problem, "hfx_check")
        return problems

    def _typed(self, value: Any, kind: type[Kind], hook: str) -> Kind:
        if not isinstance(value, kind):
            raise self._wrong(value, f"a {kind.__name__}", hook)
        return value

    def _shaped(self, value: Kind, parts: Sequence[str], kind: str, hook: str) -> Kind:
        missing = [part for part in parts if not hasattr(value, part)]
        if missing:
            raise self._wrong(value, f"{kind} (it lacks '{missing[0]}')", hook)
        return value

    def _wrong(self, value: Any, kind: str, hook: str) -> PluginError:
        got = f"'{type(value).__name__}'"
        return PluginError(f"{self._chain(hook)} returned {got} for '{hook}'; it has to return {kind}")

    def _chain(self, hook: str) -> str:
        named = " or ".join(f"plugin {p}" for p in self.providers(hook))
        wrappers = ", ".join(str(p) for p in self.wrappers(hook))
        return f"{named}, wrapped by {wrappers}," if wrappers else named

    def blame(self, error: BaseException, hook: str) -> HfxError:
        """Return the error as one that names the plugin whose code raised it; raise it `from` the error.

        The plugin is that of the innermost frame which runs a method of an active plugin, or code of its module;
        else the provider of the hook.
        """
        if isinstance(error, HfxError):
            return error
        plugin = culprit(error, self.active) or next(iter([*self.providers(hook), *self.wrappers(hook)]), None)
        who = f"plugin {plugin}" if plugin else "a plugin"
        cause = redacted(" ".join(str(error).split())) or "no message"
        what = f"{who} raised {type(error).__name__} in {hook}: {cause}"
        if plugin and isinstance(error, ImportError) and (hint := install_hint(plugin.distribution, error.name)):
            return PluginError(f"{what}; {hint}")
        advice = f"report it to the authors of '{plugin.distribution}'" if plugin and plugin.registered else "mend it"
        return PluginError(f"{what}; {advice}, `--traceback` shows where")


def ask_the_policys_plugins(run: Run) -> None:
    """Refuse what a plugin that the policy activated refuses, where what the others check is about training.

    Raises:
        IncompatibleError: one does.
    """
    Manager([active for active in run.active if active.origin.kind == "policy"]).refuse(run=run)
