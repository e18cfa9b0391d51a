"""The run behind `hfx.bridge`: resolved as any, with the parts that a script has, and without a loop."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr

from hfx.bridge_script import Script
from hfx.config import RunConfig
from hfx.discovery import canonical, found, split_name
from hfx.errors import ConfigError
from hfx.given import GivenData, GivenTokenizer
from hfx.implementations import implementations
from hfx.layers import DEFAULT
from hfx.manager import ActivePlugin, Manager
from hfx.mentions import name_of
from hfx.plugin import Plugin, hookimpl
from hfx.protocols import World
from hfx.resolve import Resolved, resolve
from hfx.run import Run

SERVED = ("hfx_check", "hfx_source", "hfx_tokenizer", "hfx_task", "hfx_sampler", "hfx_batcher", "hfx_model",
          "hfx_optimizer", "hfx_schedule")  # fmt: skip
"""The hooks that a script has a use for."""
BESIDE = (*SERVED, "hfx_eject")
"""With those that say nothing of a run under way."""
FIELDS = ("seed", "seq_length", "batch_size", "micro_batch_size", "eval_share", "num_proc", "max_bad_rows")
"""Fields of a run that its data and their order read; the others are the script's business."""


class ScriptModel(Plugin):
    """The model of a script, as it is."""

    _model: Any = PrivateAttr(default=None)

    @hookimpl
    def hfx_model(self) -> Any:
        """Return it."""
        return self._model


def split_fields(given: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of a run among keyword arguments, and the options by plugin.

    Raises:
        ConfigError: a field would do nothing here.
    """
    for key in given:
        if key in RunConfig.model_fields and key not in FIELDS:
            raise ConfigError(
                f"'{key}' is a field of a run, and here the script decides that (the Trainer by its arguments); "
                f"leave it out; of a run's there are {', '.join(FIELDS)}"
            )
    fields = {key: value for key, value in given.items() if key in FIELDS}
    return fields, {key: value for key, value in given.items() if key not in fields}


def open_run(
    plugins: Any,
    options: Mapping[str, Any],
    *,
    model: Any = None,
    tokenizer: Any = None,
    data: Any = None,
    eval_data: Any = None,
    steps: int | None = None,
    **fields: Any,
) -> Script:
    """Resolve plugins, and return what a script may have of them.

    Raises:
        ConfigError: a name or an option is wrong, the policy refuses it, or a plugin needs a run of hfx.
        IncompatibleError: the plugins say that they cannot work together.
    """
    named = [plugins] if isinstance(plugins, str | Plugin) else list(plugins)
    resolved, said = _resolved(named, options, fields | _rows(data, eval_data))
    chosen = [active for active in resolved.plugins if canonical(active.name) in said]
    _refuse(chosen)
    own = _own(model, tokenizer, data, eval_data)
    replaced = {role for plugin in own for role in _roles(plugin)} | ({"source"} if data is None else set())
    default = [a for a in resolved.plugins if a not in chosen and not replaced & _roles(a) and _serves(a)]
    manager = Manager([*own, *default, *chosen])
    run = Run(replace(resolved, plugins=manager.active, manager=manager), Path("."), World())
    if model is not None:
        run._parts["model"] = model
    if steps is not None:
        run._parts["total_steps"] = steps
    _check(run)
    return Script(run, model, tuple(chosen), data is not None)


def _resolved(named: list[Any], options: Mapping[str, Any], fields: Mapping[str, Any]) -> tuple[Resolved, set[str]]:
    """Return what the plugins resolve to, and the names of those that somebody named, the policy included."""
    words = [plugin for plugin in named if isinstance(plugin, str)]
    objects = [plugin for plugin in named if isinstance(plugin, Plugin)]
    names = {split_name(word)[0] for word in words} | {canonical(name_of(plugin, found())) for plugin in objects}
    for name, value in options.items():
        if not isinstance(value, Mapping):
            raise ConfigError(
                f"'{name}={value!r}' is no field and no options of a plugin; write {name}={{'option': ...}}"
            )
        if canonical(name) not in names:
            raise ConfigError(f"'{name}' has options and is not among the plugins; add it to them, or take them away")
    # A model's name keeps the demo recipe away; who would load it is replaced.
    sections = {_text(name, words): dict(value) for name, value in options.items()}
    mapping = {"model": "the script's own", **fields, "plugins": sections}
    resolved = resolve(mapping=mapping, plugin_args=words, plugin_objects=objects)
    always = (*resolved.policy.activate, *resolved.policy.activate_last)
    return resolved, names | {split_name(text)[0] for text in always}


def _rows(data: Any, eval_data: Any) -> dict[str, Any]:
    """Return the fields of a run that say where rows are.

    Raises:
        ConfigError: one of both is a data set and the other is not.
    """
    paths = {"data": data, "eval_data": eval_data}
    if hasattr(data, "column_names") and eval_data is not None:
        if not hasattr(eval_data, "column_names"):
            raise ConfigError("'data' is a data set and 'eval_data' is none; give both as data sets, or both as paths")
        return {"eval_data": "a Dataset"}  # the field says that there are rows to evaluate on
    return {key: value for key, value in paths.items() if isinstance(value, str | Path | Mapping)}


def _text(name: str, words: list[str]) -> str:
    """Return the name as it was given: `lion@hfx-fastlion` has its options under `lion`."""
    return next((word for word in words if split_name(word)[0] == canonical(name)), name)


def _own(model: Any, tokenizer: Any, data: Any, eval_data: Any) -> list[ActivePlugin]:
    """Return what a script has already as plugins: its model, its tokenizer, its data sets."""
    script = ScriptModel()
    script._model = model
    held: list[Plugin] = [script]
    if tokenizer is not None:
        held.append(GivenTokenizer().holding(tokenizer))
    if hasattr(data, "column_names"):
        rows = {"train": data} | ({"eval": eval_data} if eval_data is not None else {})
        held.append(GivenData().holding(rows))
    return [ActivePlugin(plugin.name, plugin, "", "", DEFAULT, False) for plugin in held]


def _roles(active: ActivePlugin) -> set[str]:
    held = implementations(type(active.plugin))
    return {hook.removeprefix("hfx_") for hook, implementation in held.items() if not implementation.wrapper}


def _serves(active: ActivePlugin) -> bool:
    """Return whether a default has a part here: the precision is asked for its numbers, the loop never."""
    return set(implementations(type(active.plugin))) <= {*BESIDE, "hfx_precision"}


def _refuse(chosen: list[ActivePlugin]) -> None:
    for active in chosen:
        beyond = [hook for hook in implementations(type(active.plugin)) if hook not in BESIDE]
        if beyond and active.origin.kind == "policy":
            raise ConfigError(
                f"the policy {active.origin} turns '{active.name}' on, which needs a run of hfx ('{beyond[0]}'); "
                "train with `hfx.train`, with '--plugin hf_trainer' by the Trainer"
            )
        if beyond:
            raise ConfigError(
                f"'{active.name}' needs a run of hfx ('{beyond[0]}'), and a script has none; leave it out, or train "
                "with `hfx.train`, with the plugin 'hf_trainer' by the Trainer"
            )


def _check(run: Run) -> None:
    for message in run.hooks.refuse(run=run):
        print(f"hfx: warning: {message}", file=sys.stderr)
