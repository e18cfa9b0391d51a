"""`hfx plugins new NAME`: write a complete, installable plugin package."""

from __future__ import annotations

import keyword
import re
from importlib import resources
from importlib.metadata import version
from importlib.resources.abc import Traversable
from pathlib import Path
from string import Template

import click

from hfx.cli.command import Command, traceback_option
from hfx.errors import ConfigError, StorageError, nearest

EPILOG = """
Example:
  hfx plugins new signum --hook hfx_optimizer && pip install -e hfx-signum && hfx train --plugin signum
"""
RESERVED = {
    "run": "the policy calls the run's own fields so",
    "hfx": "it is the framework's",
    "no": "it drops a plugin",
}


def hooks() -> list[str]:
    """Return the hooks that a package can begin with: all of them."""
    return sorted(entry.name.removesuffix(".py.txt") for entry in (_scaffold() / "hooks").iterdir())


@click.command("new", cls=Command, epilog=EPILOG)
@click.argument("name")
@click.option("--hook", required=True, help="What the plugin does first: one of hookspecs.py, such as hfx_optimizer.")
@click.option("--path", type=click.Path(path_type=Path), default=Path(), help="The folder that gets the package's.")
@traceback_option
def command(name: str, hook: str, path: Path) -> None:
    """Write a package with a working plugin NAME, its test, README and licence."""
    name = _checked_name(name)
    hook = _checked_hook(hook)
    folder = path / _values(name, hook, "")["distribution"]
    if folder.exists():
        raise ConfigError(f"'{folder}' exists; choose another name, or another folder with --path")
    files = rendered(name, hook)
    try:
        for relative, text in files.items():
            target = folder / relative
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(f"cannot write '{folder}': {error.strerror}; choose another folder with --path") from error
    click.echo(f"wrote {len(files)} files to {folder}\nnext: pip install -e {folder} && hfx plugins check {name}")


def rendered(name: str, hook: str) -> dict[str, str]:
    """Return the package's files by relative path."""
    scaffold = _scaffold()
    plugin = (scaffold / "hooks" / f"{hook}.py.txt").read_text(encoding="utf-8")
    values = _values(name, hook, _summary(plugin))
    package = values["package"]
    sources = {
        "pyproject.toml": "pyproject.toml.txt",
        "README.md": "README.md.txt",
        "LICENSE": "LICENSE.txt",
        ".gitignore": "gitignore.txt",
        f"src/{package}/__init__.py": "__init__.py.txt",
        f"src/{package}/{name}.py": f"hooks/{hook}.py.txt",
        f"tests/test_{name}.py": "test.py.txt",
    }
    files = {path: Template(_read(scaffold, source)).substitute(values) for path, source in sources.items()}
    return files | {f"src/{package}/py.typed": ""}


def _values(name: str, hook: str, summary: str) -> dict[str, str]:
    return {
        "name": name,
        "Class": "".join(word.capitalize() for word in name.split("_")),
        "package": f"hfx_{name}",
        "distribution": f"hfx-{name.replace('_', '-')}",
        "hook": hook,
        "summary": summary,
        "hfx": version("hfx"),
    }


def _summary(plugin: str) -> str:
    """Return the class's docstring, which is the plugin's one-line help."""
    found = re.search(r'class \$Class\(Plugin\):\n    """(.+?)"""', plugin)
    assert found, "a template without a docstring"
    return found[1]


def _scaffold() -> Traversable:
    return resources.files("hfx") / "scaffold"


def _read(scaffold: Traversable, path: str) -> str:
    return scaffold.joinpath(*path.split("/")).read_text(encoding="utf-8")


def _checked_name(word: str) -> str:
    name = word.replace("-", "_")
    if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name):
        raise ConfigError(f"'{word}' is no name for a plugin; use lower-case words joined by '_', such as 'signum'")
    if keyword.iskeyword(name) or name in RESERVED:
        why = RESERVED.get(name, "it is a word of Python")
        raise ConfigError(f"'{word}' is no name for a plugin: {why}; choose another")
    return name


def _checked_hook(word: str) -> str:
    hook = word if word.startswith("hfx_") else f"hfx_{word}"
    if hook not in hooks():
        known = f" there are {', '.join(hooks())}"
        raise ConfigError(f"no hook '{word}';{nearest(hook, hooks()) or known}")
    return hook
