"""What a plugin's class says about itself, read from its source as text: the class is its own manifest.

Nothing of a plugin runs: the file is located through the top-level package alone.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfx.discovery import PluginRef

LISTENERS = ("check", "step_end", "evaluated", "saved", "eject")
"""The hooks that are no roles; the core's hook specifications are not imported here, a test compares them."""
BASE = "Plugin"
_DEPTH = 8


@dataclass(frozen=True)
class Description:
    """Roles, hooks, options and summary of a plugin; `?` where its source cannot be read."""

    roles: tuple[str, ...]
    wraps: tuple[str, ...]
    listens: tuple[str, ...]
    summary: str
    options: tuple[str, ...] = ()
    unverified: str = ""


UNKNOWN = Description(("?",), ("?",), ("?",), "?")


@dataclass(frozen=True)
class _Module:
    name: str
    package: str
    tree: ast.Module


def describe(ref: PluginRef) -> Description:
    """Return what the class of an entry point says about itself, without importing it."""
    lineage = _lineage(ref.module, ref.attribute, _DEPTH)
    if lineage is None:
        return UNKNOWN
    hooks: dict[str, bool] = {}
    options: dict[str, None] = {}
    for definition in reversed(lineage):
        hooks |= dict(_hooks(definition))
        options |= dict.fromkeys(_options(definition))
    summaries = (ast.get_docstring(definition) for definition in lineage)
    summary = next((_first_sentence(text) for text in summaries if text), "")
    plain = [name for name, wrapper in hooks.items() if not wrapper]
    return Description(
        roles=tuple(name for name in plain if name not in LISTENERS),
        wraps=tuple(name for name, wrapper in hooks.items() if wrapper),
        listens=tuple(name for name in plain if name in LISTENERS),
        summary=summary,
        options=tuple(options),
        unverified=next(filter(None, map(_unverified, lineage)), ""),
    )


def _unverified(definition: ast.ClassDef) -> str:
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", None) == "unverified" and node.value:
            # Only what is written out can be read without running it; what is computed is at least marked.
            return str(node.value.value) if isinstance(node.value, ast.Constant) else "?"
    return ""


def _first_sentence(docstring: str) -> str:
    text = " ".join(docstring.strip().partition("\n\n")[0].split())
    head, stop, _ = text.partition(". ")
    return (head + stop).strip()


def _lineage(module_name: str, attribute: str, depth: int) -> list[ast.ClassDef] | None:
    """Return the class and its bases up to `Plugin`, nearest first; None where one of them cannot be read."""
    module = _read(module_name) if depth else None
    if module is None:
        return None
    for node in _statements(module.tree):
        if isinstance(node, ast.ClassDef) and node.name == attribute:
            return _with_bases(module, node, depth)
        if isinstance(node, ast.ImportFrom) and (alias := _imported(node, attribute)):
            source = _absolute(module, node)
            own = alias == BASE and source.partition(".")[0] == "hfx"
            return [] if own else _lineage(source, alias, depth - 1)
    return None


def _with_bases(module: _Module, definition: ast.ClassDef, depth: int) -> list[ast.ClassDef] | None:
    lineage = [definition]
    for base in definition.bases:
        name = base.id if isinstance(base, ast.Name) else base.attr if isinstance(base, ast.Attribute) else ""
        if name in (BASE, "Generic", "Protocol", "ABC"):
            continue
        inherited = _lineage(module.name, name, depth - 1) if isinstance(base, ast.Name) else None
        if inherited is None:
            return None
        lineage += inherited
    return lineage


def _statements(tree: ast.Module) -> Iterator[ast.stmt]:
    for node in tree.body:
        yield node
        if isinstance(node, ast.Try | ast.If):
            yield from node.body


def _imported(node: ast.ImportFrom, attribute: str) -> str | None:
    return next((alias.name for alias in node.names if (alias.asname or alias.name) == attribute), None)


def _absolute(module: _Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.package.split(".")
    return ".".join([*parts[: len(parts) - node.level + 1], *([node.module] if node.module else [])])


def _read(name: str) -> _Module | None:
    try:
        path = _locate(name)
        if path is None:
            return None
        tree = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, ImportError):
        # What cannot be read is shown as `?`; naming the plugin in a run says what is wrong with it.
        return None
    return _Module(name, name if path.name == "__init__.py" else name.rpartition(".")[0], tree)


def _locate(name: str) -> Path | None:
    top, *rest = name.split(".")
    spec = find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *rest)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None


def _hooks(definition: ast.ClassDef) -> Iterator[tuple[str, bool]]:
    for node in definition.body:
        if not isinstance(node, ast.FunctionDef):
            continue
        for decorator in node.decorator_list:
            call = decorator if isinstance(decorator, ast.Call) else None
            target = call.func if call else decorator
            if "hookimpl" in (getattr(target, "id", None), getattr(target, "attr", None)):
                wrapper = any(
                    keyword.arg == "wrapper" and isinstance(keyword.value, ast.Constant) and keyword.value.value is True
                    for keyword in (call.keywords if call else ())
                )
                yield node.name.removeprefix("hfx_"), wrapper


def _options(definition: ast.ClassDef) -> Iterator[str]:
    for node in definition.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and not node.target.id.startswith("_"):
            name = node.annotation
            outer = name.value if isinstance(name, ast.Subscript) else name
            if "ClassVar" not in (getattr(outer, "id", None), getattr(outer, "attr", None)):
                yield node.target.id
