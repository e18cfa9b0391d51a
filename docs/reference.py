"""Write the reference pages from the code: `python docs/reference.py`, or `--check` to fail when they are stale."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hfx import hookspecs
from hfx.cli.fields import description, field_default, field_type
from hfx.config import RunConfig
from hfx.defaults import DEFAULTS
from hfx.discovery import PluginRef, describe, found
from hfx.plugin import Plugin

FOLDER = Path(__file__).parent / "reference"


def pages() -> dict[str, str]:
    """Return every page by its path below `reference/`."""
    refs = [ref for ref in found() if ref.distribution == "hfx"]
    result = {"hooks.md": hooks(), "config.md": config(), "plugins/index.md": index(refs)}
    return result | {f"plugins/{ref.name}.md": plugin(ref) for ref in refs}


def hooks() -> str:
    """Return the page on hooks, in the order of a run."""
    lines = ["# Hooks", "", inspect.cleandoc(hookspecs.__doc__ or "").split("\n", 2)[2]]
    for name, function in vars(hookspecs).items():
        if name.startswith("hfx_"):
            kind = "listener" if name in hookspecs.LISTENERS else "role"
            lines += ["", f"## {name}", "", f"`{name}{inspect.signature(function)}` ({kind})", ""]
            lines += [inspect.cleandoc(function.__doc__ or "")]
    return "\n".join(lines) + "\n"


def config() -> str:
    """Return the page on the fields of a run and the default plugins of the roles."""
    lines = [
        "# Config",
        "",
        "Every field is a key of the YAML file, a flag of `hfx train` and an argument of `hfx.train`.",
        "",
    ]
    lines += table(RunConfig, lambda name: f"--{name.replace('_', '-')}")
    lines += ["", "## Default plugins", "", "| role | plugin |", "|---|---|"]
    lines += [f"| {role} | [{name}](plugins/{name}.md) |" for role, name in DEFAULTS.items()]
    return "\n".join(lines) + "\n"


def index(refs: list[PluginRef]) -> str:
    """Return the table of the built-in plugins."""
    lines = ["# Built-in plugins", "", "| plugin | role | what it does |", "|---|---|---|"]
    for ref in refs:
        about = describe(ref)
        role = ", ".join(about.roles) or ", ".join(f"wraps {name}" for name in about.wraps) or "listener"
        lines.append(f"| [{ref.name}]({ref.name}.md) | {role} | {about.summary} |")
    return "\n".join(lines) + "\n"


def plugin(ref: PluginRef) -> str:
    """Return the page of one plugin."""
    kind = ref.load()
    lines = [
        f"# {ref.name}",
        "",
        inspect.cleandoc(kind.__doc__ or ""),
        "",
        "```console",
        f"$ hfx train --plugin {ref.name}",
        "```",
        "",
    ]
    return "\n".join([*lines, *(table(kind, lambda name: f"--{ref.name}.{name.replace('_', '-')}"))]) + "\n"


def table(kind: type[Plugin] | type[RunConfig], flag: Any) -> Iterator[str]:
    """Yield a table of the fields of a model."""
    if not kind.model_fields:
        yield "It has no options."
        return
    yield from ("| option | type | default | meaning |", "|---|---|---|---|")
    for name, info in kind.model_fields.items():
        cells = (f"`{flag(name)}`", f"`{field_type(info)}`", f"`{field_default(info)}`", description(info))
        yield "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def main() -> int:
    """Write the pages, or name those that are stale."""
    written = {str(path.relative_to(FOLDER)): path.read_text() for path in FOLDER.rglob("*.md")}
    wanted = pages()
    stale = sorted(name for name in written.keys() | wanted if written.get(name) != wanted.get(name))
    if "--check" in sys.argv:
        for name in stale:
            print(f"docs/reference/{name} is stale; run 'make reference'", file=sys.stderr)
        return 1 if stale else 0
    for name in stale:
        path = FOLDER / name
        if name not in wanted:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(wanted[name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
