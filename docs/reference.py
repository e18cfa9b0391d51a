"""Write the reference pages from the code: `python docs/reference.py`, or `--check` to fail when they are stale."""

from __future__ import annotations

import inspect
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args, get_origin

import yaml

from hfx import hookspecs
from hfx.cli.fields import as_typed, description, field_default, field_type
from hfx.config import RunConfig
from hfx.defaults import DEFAULT_LISTENERS, DEFAULTS, DEMO, WITHOUT_MODEL
from hfx.discovery import OWN, Description, PluginRef, describe, found
from hfx.implementations import HOOKS, ROLES
from hfx.plugin import Plugin

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

FOLDER = Path(__file__).parent / "reference"
OTHERS = {FOLDER / "backends.md"}
"""Pages that are written elsewhere: this one by `python tests/backend_cells.py --page`."""
BARE_TABLE = ["| | |", "|---|---|"]


@dataclass(frozen=True)
class BuiltIn:
    """A plugin of hfx's own distribution, and what its class says about itself."""

    ref: PluginRef
    about: Description

    @property
    def name(self) -> str:
        return self.ref.name


def built_ins() -> list[BuiltIn]:
    """Return the plugins that hfx ships, by name."""
    return [BuiltIn(ref, describe(ref)) for ref in found() if ref.distribution == OWN]


def pages() -> dict[str, str]:
    """Return every page by its path below `reference/`."""
    plugins = built_ins()
    result = {"hooks.md": hooks(plugins), "config.md": config(), "plugins/index.md": index(plugins)}
    result |= {f"plugins/{plugin.name}.md": plugin_page(plugin, plugins) for plugin in plugins}
    return {path: text.rstrip("\n") + "\n" for path, text in result.items()}


# ── hooks ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def hooks(plugins: list[BuiltIn]) -> str:
    """Return the page on hooks, in the order of a run."""
    lines = ["# Hooks", "", inspect.cleandoc(hookspecs.__doc__ or "").split("\n", 2)[2], ""]
    lines += ["| hook | kind | built-in default |", "|---|---|---|"]
    for hook in HOOKS:
        kind = "role" if hook in ROLES.values() else "listener"
        lines.append(f"| [`{hook}`](#{hook}) | {kind} | {default_providers(hook, 'plugins/')} |")
    for hook in HOOKS:
        lines += ["", *hook_section(hook, plugins)]
    return "\n".join(lines)


def hook_section(hook: str, plugins: list[BuiltIn]) -> Iterator[str]:
    """Yield what there is to know about one hook."""
    function = getattr(hookspecs, hook)
    yield from (f"## {hook}", "", *fenced("python", signature(function)), "", inspect.cleandoc(function.__doc__), "")
    yield from BARE_TABLE
    role = hook.removeprefix("hfx_")
    if role not in ROLES:
        yield "| kind | listener: every active plugin may have it |"
        yield f"| built-in listeners | {links((p for p in plugins if role in p.about.listens), 'plugins/') or 'none'} |"
        return
    yield f"| kind | role `{role}`: one plugin provides it, any number may wrap it |"
    yield f"| default | {default_providers(hook, 'plugins/')} |"
    others = [p for p in plugins if role in p.about.roles and p.name not in (DEFAULTS[role], WITHOUT_MODEL.get(role))]
    yield f"| other built-in providers | {links(others, 'plugins/') or 'none'} |"
    yield f"| built-in wrappers | {links((p for p in plugins if role in p.about.wraps), 'plugins/') or 'none'} |"


def signature(function: Callable[..., Any]) -> str:
    """Return a hook as its author wrote it; annotations are strings there, which `inspect` would show in quotes."""
    told = inspect.signature(function)
    arguments = ", ".join(f"{name}: {parameter.annotation}" for name, parameter in told.parameters.items())
    return f"def {function.__name__}({arguments}) -> {told.return_annotation}: ..."


def default_providers(hook: str, folder: str) -> str:
    """Return who provides a hook's role where nobody says otherwise."""
    role = hook.removeprefix("hfx_")
    if role not in DEFAULTS:
        return ""
    usual = link(DEFAULTS[role], folder)
    return (
        f"{usual}; {link(WITHOUT_MODEL[role], folder)} where the run has no `model`" if role in WITHOUT_MODEL else usual
    )


# ── config ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def config() -> str:
    """Return the page on the fields of a run, and on what holds where nobody says anything."""
    lines = [
        "# Config",
        "",
        "Every field is a key of the YAML file, a flag of `hfx train` (with dashes: `eval_data` is `--eval-data`) and",
        "an argument of `hfx.train`. Options of plugins are on [their pages](plugins/index.md). From the weakest to",
        "the strongest: defaults, demo recipe, a policy's `defaults`, YAML file, flags or Python, a policy's `locked`.",
        "`hfx train --dry-run` shows every value and where it comes from.",
        "",
        *options_table(RunConfig, lambda name: name),
        "",
        "## Default plugins",
        "",
        "A role that nobody claimed is filled from this table.",
        "",
        "| role | with a `model` | without |",
        "|---|---|---|",
    ]
    for role, name in DEFAULTS.items():
        cells = (
            f"[{role}](hooks.md#{ROLES[role]})",
            *(link(n, "plugins/") for n in (name, WITHOUT_MODEL.get(role, name))),
        )
        lines.append(f"| {' | '.join(cells)} |")
    for name in DEFAULT_LISTENERS:
        lines += ["", f"{link(name, 'plugins/')} is on too, until `--plugin no:{name}` drops it."]
    lines += [
        "",
        "## Demo recipe",
        "",
        "Where neither `model` nor `data` is given, this stands between the defaults and",
    ]
    lines += ["what you say:", "", *fenced("yaml", yaml.safe_dump(DEMO, sort_keys=False))]
    return "\n".join(lines)


# ── plugins ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def index(plugins: list[BuiltIn]) -> str:
    """Return the built-in plugins in the order of a run: by role, then wrappers and listeners."""
    lines = ["# Built-in plugins", "", "`hfx plugins` lists these and those of other packages that are installed."]
    groups = [(role, [plugin for plugin in plugins if role in plugin.about.roles]) for role in ROLES]
    groups.append(("wrappers", [plugin for plugin in plugins if plugin.about.wraps]))
    groups.append(("listeners", [plugin for plugin in plugins if not plugin.about.roles and not plugin.about.wraps]))
    for title, members in groups:
        if members:
            lines += ["", f"## {title}", "", "| plugin | on by default | what it does |", "|---|---|---|"]
            lines += [f"| {link(p.name)} | {when_on(p)} | {cell(summary(p))} |" for p in members]
    return "\n".join(lines)


def summary(plugin: BuiltIn) -> str:
    """Return what a plugin does in a sentence, marked where nobody has seen it at work."""
    return f"(unverified) {plugin.about.summary}" if plugin.about.unverified else plugin.about.summary


def plugin_page(plugin: BuiltIn, plugins: list[BuiltIn]) -> str:
    """Return the page of one plugin."""
    kind = plugin.ref.load()
    lines = [f"# {plugin.name}", "", inspect.cleandoc(kind.__doc__ or ""), "", *BARE_TABLE]
    lines += [f"| {label} | {text} |" for label, text in facts(plugin, plugins) if text]
    lines += ["", "## Use", "", *usage(plugin, kind), "", "## Options", ""]
    lines += options_table(kind, lambda name: f"--{plugin.name}.{name.replace('_', '-')}")
    return "\n".join(lines)


def facts(plugin: BuiltIn, plugins: list[BuiltIn]) -> Iterator[tuple[str, str]]:
    """Yield what a plugin is to a run, and where it comes from."""
    about = plugin.about
    yield "provides", hook_links(about.roles)
    yield "wraps", hook_links(about.wraps)
    yield "listens to", hook_links(about.listens)
    yield "unverified", about.unverified
    yield "on by default", when_on(plugin)
    rivals = [other for other in plugins if other is not plugin and set(other.about.roles) & set(about.roles)]
    yield "instead of it", ", ".join(f"{link(p.name)}{' (default)' if is_default(p.name) else ''}" for p in rivals)
    yield "package", f"`{plugin.ref.distribution}`"
    yield "class", f"`{plugin.ref.value}`"


def is_default(name: str) -> bool:
    """Say whether a plugin fills a role that nobody claimed."""
    return name in {*DEFAULTS.values(), *WITHOUT_MODEL.values()}


def when_on(plugin: BuiltIn) -> str:
    """Return when a plugin is active without being named."""
    cases = []
    for role in plugin.about.roles:
        if WITHOUT_MODEL.get(role) == plugin.name:
            cases.append("where the run has no `model`")
        elif DEFAULTS[role] == plugin.name:
            cases.append("where the run has a `model`" if role in WITHOUT_MODEL else "yes")
    if plugin.name in DEFAULT_LISTENERS:
        cases.append("yes")
    if not cases and plugin.name in DEMO["plugins"]:
        cases.append("in the demo recipe")
    return ", ".join(cases) or "no"


def usage(plugin: BuiltIn, kind: type[Plugin]) -> Iterator[str]:
    """Yield how to activate a plugin with one of its options: typed, in YAML and in Python."""
    option = example(kind)
    needed = {"model": "gpt2"} if "has a `model`" in when_on(plugin) else {}
    words = ["$ hfx train", *(f"--{key} {value}" for key, value in needed.items()), f"--plugin {plugin.name}"]
    words += [f"--{plugin.name}.{name.replace('_', '-')} {in_shell(value)}" for name, value in option.items()]
    yield from fenced("console", " ".join(words))
    yield ""
    yield from fenced("yaml", yaml.safe_dump(needed | {"plugins": {plugin.name: option}}, sort_keys=False))
    yield ""
    arguments = ", ".join(f"{name}={in_python(value)}" for name, value in option.items())
    run = [*(f"{key}={in_python(value)}" for key, value in needed.items()), f"plugins=[{kind.__name__}({arguments})]"]
    imports = f"import hfx\nfrom {plugin.ref.module} import {plugin.ref.attribute}"
    yield from fenced("python", f"{imports}\n\nhfx.train({', '.join(run)})")


def example(kind: type[Plugin]) -> dict[str, Any]:
    """Return the option that shows best how options are given, or nothing where a plugin has none."""
    fields = kind.model_fields.items()
    shown = {name: value for name, info in fields if (value := example_value(info)) not in (None, {}, [])}
    # A switch is shown only where there is nothing else, or where its field says so: turned on, it may be what nobody
    # should copy.
    ranked = sorted(
        shown.items(), key=lambda item: (not kind.model_fields[item[0]].examples, isinstance(item[1], bool))
    )
    return dict(ranked[:1])


def example_value(info: FieldInfo) -> Any:
    """Return the field's own example, else a choice that is not the default, or the default without choices."""
    if info.examples:
        return info.examples[0]
    value = info.get_default(call_default_factory=True, validated_data={})
    members = (info.annotation, *get_args(info.annotation))
    choices = [choice for member in members if get_origin(member) is Literal for choice in get_args(member)]
    chosen = next((choice for choice in choices if choice != value), value)
    return [chosen] if isinstance(value, list) and chosen is not value else chosen


def in_shell(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else as_typed(value)


def in_python(value: Any) -> str:
    return json.dumps(value) if isinstance(value, str | list) else repr(value)


# ── Markdown ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def options_table(kind: type[BaseModel], spelling: Callable[[str], str]) -> Iterator[str]:
    """Yield a table of the fields of a model."""
    if not kind.model_fields:
        yield "It has no options."
        return
    yield from ("| option | type | default | meaning |", "|---|---|---|---|")
    for name, info in kind.model_fields.items():
        cells = (f"`{spelling(name)}`", f"`{field_type(info)}`", f"`{field_default(info)}`", description(info))
        yield f"| {' | '.join(map(cell, cells))} |"


def cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def fenced(language: str, text: str) -> list[str]:
    return [f"```{language}", text.rstrip("\n"), "```"]


def link(name: str, folder: str = "") -> str:
    return f"[{name}]({folder}{name}.md)"


def links(plugins: Iterable[BuiltIn], folder: str = "") -> str:
    return ", ".join(link(plugin.name, folder) for plugin in plugins)


def hook_links(names: Iterable[str]) -> str:
    return ", ".join(f"[{name}](../hooks.md#hfx_{name})" for name in names)


def main() -> int:
    """Write the pages, or name those that are stale."""
    found = set(FOLDER.rglob("*.md")) - OTHERS
    written = {path.relative_to(FOLDER).as_posix(): path.read_text() for path in found}
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
