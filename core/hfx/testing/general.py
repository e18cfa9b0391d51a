"""What is asked of every plugin, whatever its role."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path

from pydantic import ValidationError

from hfx.implementations import check_class
from hfx.plugin import Plugin
from hfx.testing.bench import Bench, as_json

HEAVY = ("torch", "transformers", "numpy", "pyarrow", "datasets", "tokenizers", "accelerate", "jax", "tensorflow")
_LOOK = """
import importlib.util, json, sys
name, file = sys.argv[1:]
sys.path[:] = json.loads(sys.stdin.read())
try:
    spec = importlib.util.find_spec(name)
except (ImportError, ValueError):
    spec = None
if spec is not None and spec.origin == file:
    importlib.import_module(name)
else:
    spec = importlib.util.spec_from_file_location("plugin_under_test", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
print(json.dumps(sorted(sys.modules)))
"""


def is_frozen(bench: Bench) -> None:
    """A plugin keeps no state of a run, so nothing can be assigned to it."""
    plugin = bench.plugin()
    for name in [*type(plugin).model_fields, "state"]:
        try:
            setattr(plugin, name, getattr(plugin, name, 0))
        except (ValidationError, AttributeError, ValueError):
            continue
        raise AssertionError(f"'{name}' of the plugin can be assigned; leave `frozen` in its model_config as it is")


def options_survive_json(bench: Bench) -> None:
    """`run.yaml` holds the options, and the ranks of a run are built from them."""
    plugin = bench.plugin()
    written = as_json(plugin.options(), "`options()`")
    again = type(plugin)(**written)
    assert again.options() == plugin.options(), f"options {plugin.options()} come back from JSON as {again.options()}"
    for name in type(plugin).model_fields:
        assert getattr(again, name) == getattr(plugin, name), f"the option '{name}' is another one after JSON"


def every_option_is_documented(bench: Bench) -> None:
    """The text under a field is its help on the command line and in the docs."""
    silent = [name for name, info in bench.plugin_class.model_fields.items() if not (info.description or "").strip()]
    assert not silent, f"the options {silent} have no docstring; write one under each field"


def has_a_docstring(bench: Bench) -> None:
    """Its first sentence is the line of `hfx plugins`."""
    own = bench.plugin_class.__doc__ not in (None, Plugin.__doc__)
    text = str(bench.plugin_class.__doc__).strip() if own else ""
    assert text, "the class has no docstring; its first sentence is its help"


def importing_it_is_light(bench: Bench) -> None:
    """The command line imports a plugin to show its options; torch and the like belong inside the hooks."""
    loaded = _modules_after_import(bench.plugin_class.__module__, inspect.getfile(bench.plugin_class))
    heavy = [name for name in HEAVY if name in loaded]
    assert not heavy, f"importing its module imports {', '.join(heavy)}; import them inside the hooks"


@lru_cache(maxsize=64)
def _modules_after_import(module: str, file: str) -> frozenset[str]:
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, module, file],
        input=json.dumps([str(Path(entry).resolve()) if entry else os.getcwd() for entry in sys.path]),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"its module cannot be imported alone: {done.stderr.strip().splitlines()[-1:]}"
    return frozenset(json.loads(done.stdout.splitlines()[-1]))


def its_hooks_can_be_called(bench: Bench) -> None:
    """Names, arguments and kinds of hooks are those of `hfx.hookspecs`."""
    check_class(f"'{bench.name}'", bench.plugin_class)


def takes_part_in_a_plain_run(bench: Bench) -> None:
    """There is a run, with a model and data or without, to which the plugin's `hfx_check` has no objection."""
    with bench.run() as run:
        for problem in run.hooks.check(run=run):
            assert problem.message.strip(), "`hfx_check` reports a problem without a message"


PLUGIN = (
    is_frozen,
    options_survive_json,
    every_option_is_documented,
    has_a_docstring,
    importing_it_is_light,
    its_hooks_can_be_called,
    takes_part_in_a_plain_run,
)
