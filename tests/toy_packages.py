"""Toy distributions, written into a folder of `sys.path` as pip would install them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path

_numbers = itertools.count()

OPTIMIZER = '''"""A toy."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """A toy optimizer. It trains nothing."""

    lr: float = 0.5
    """Learning rate."""

    @hookimpl
    def hfx_optimizer(self, params, run):
        return "toy"
'''
LISTENER = '''from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Listens."""

    path: str = "audit.jsonl"
    """Where to."""

    @hookimpl
    def hfx_saved(self, path):
        pass
'''
WRAPPER = '''from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Wraps the model."""

    @hookimpl(wrapper=True)
    def hfx_model(self, run):
        return (yield)
'''


def toy_package(
    folder: Path,
    distribution: str,
    plugins: Mapping[str, str],
    version: str = "1.0",
    requires: Sequence[str] = (),
) -> dict[str, str]:
    """Install a distribution that offers plugins, each the source of a class `Toy`; return their modules by name."""
    modules: dict[str, str] = {}
    package = f"toy_{next(_numbers)}"
    (folder / package).mkdir(parents=True)
    (folder / package / "__init__.py").write_text("")
    for name, source in plugins.items():
        modules[name] = f"{package}.{name.replace('-', '_')}"
        (folder / package / f"{name.replace('-', '_')}.py").write_text(source)
    info = folder / f"{distribution.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    lines = ["Metadata-Version: 2.1", f"Name: {distribution}", f"Version: {version}"]
    lines += [f"Requires-Dist: {line}" for line in requires]
    (info / "METADATA").write_text("\n".join([*lines, "", "Name: not-this-one", ""]))
    points = "\n".join(f"{name} = {module}:Toy" for name, module in modules.items())
    (info / "entry_points.txt").write_text(f"[hfx]\n{points}\n")
    return modules
