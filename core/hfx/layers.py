"""Values that know where they came from: YAML read with the file and line of every key."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import yaml

from hfx.errors import ConfigError

Kind: TypeAlias = Literal["default", "demo", "policy", "yaml", "flag", "python", "locked"]
_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_LONGEST, _DEEPEST, _MOST = 10_000_000, 50, 100_000


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from: `config.yaml:12`, `--lion.lr`, `default`."""

    kind: Kind
    where: str = ""

    def __str__(self) -> str:
        if self.kind == "locked":
            return f"{self.where} (locked)"
        return self.where or {"demo": "demo recipe"}.get(self.kind, self.kind)


DEFAULT = Origin("default")


@dataclass(frozen=True, slots=True)
class Value:
    """A value and its origin."""

    value: Any
    origin: Origin
    items: tuple[Origin, ...] = ()
    """The origins of a list's items, where it was read from a file."""


class Section(dict[str, "Value | Section"]):
    """A mapping of a config whose leaves are values with their origins."""

    def __init__(self, items: Mapping[str, Value | Section] | None = None, origin: Origin = DEFAULT) -> None:
        super().__init__(items or {})
        self.origin = origin


def flag(name: str, text: Any) -> Value:
    """Return what somebody typed after `--name`."""
    return Value(text, Origin("flag", f"--{name}"))


def plain(tree: Value | Section) -> Any:
    """Return the bare value, mappings as dictionaries."""
    if isinstance(tree, Value):
        return tree.value
    return {key: plain(value) for key, value in tree.items()}


def sectioned(mapping: Mapping[str, Any], origin: Origin) -> Section:
    """Return a plain mapping as a section whose every leaf has that origin; values already given theirs keep it."""
    section = Section(origin=origin)
    for key, value in mapping.items():
        if isinstance(value, Value | Section):
            section[str(key)] = value
        elif isinstance(value, Mapping):
            section[str(key)] = sectioned(value, origin)
        else:
            section[str(key)] = Value(value, origin)
    return section


def read_yaml(path: Path, kind: Kind = "yaml") -> Section:
    """Return a YAML file as a section.

    Raises:
        ConfigError: it cannot be read, is no YAML, is no mapping, or holds a key twice.
    """
    try:
        with path.open(encoding="utf-8") as file:
            text = file.read(_LONGEST + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read '{path}': {reason}; give the path of a YAML file") from error
    if len(text) > _LONGEST:
        raise ConfigError(f"'{path}' is longer than {_LONGEST:,} characters; give a YAML file that people write")
    return parse_yaml(text, str(path), kind)


def parse_yaml(text: str, name: str, kind: Kind = "yaml") -> Section:
    """Return YAML text as a section; `name` stands for the file in origins and errors."""
    loader = None
    try:
        _refuse_bombs(text)
        loader = _LOADER(text)
        node = loader.get_single_node()
        if node is None:
            return Section(origin=Origin(kind, f"{name}:1"))
        if not isinstance(node, yaml.MappingNode):
            raise ConfigError(f"{name}:1: the file is not a mapping; write `key: value` lines")
        return _section(loader, [node], name, kind, Origin(kind, f"{name}:1"))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        problem = getattr(error, "problem", None) or "the text cannot be read"
        raise ConfigError(f"{name}:{line}: this is not YAML: {problem}; mend the line") from error
    finally:
        if loader is not None:
            loader.dispose()


def flow(text: str) -> Any:
    """Return the value of YAML text that somebody typed.

    Raises:
        yaml.YAMLError: it is no YAML, or unfolds to too much.
    """
    _refuse_bombs(text)
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        return None if node is None else _constructed(loader, node)
    finally:
        loader.dispose()


def _refuse_bombs(text: str) -> None:
    """Refuse a few lines that would unfold to more than memory holds, or to more levels than Python follows."""
    sizes: dict[str | None, int] = {}
    opened: list[tuple[str | None, int]] = []
    event: Any
    size = 0
    for event in yaml.parse(text, Loader=_LOADER):
        size += 1
        if isinstance(event, yaml.AliasEvent):
            size += sizes.get(event.anchor, 0)
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, size))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            sizes |= {} if anchor is None else {anchor: size - before}
        if len(opened) > _DEEPEST or size > _MOST:
            what = f"more than {_DEEPEST} levels" if len(opened) > _DEEPEST else f"more than {_MOST:,} values"
            raise yaml.MarkedYAMLError(problem=f"it unfolds to {what}", problem_mark=event.start_mark)


def _constructed(loader: Any, node: yaml.Node) -> Any:
    """Return the value of a node; what PyYAML's constructors raise of a date or a number is an error of YAML."""
    try:
        return loader.construct_object(node, deep=True)
    except yaml.YAMLError:
        raise
    except (ValueError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        problem = "a value is not what it looks like (in quotes it would be text)"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from error


def _section(loader: Any, path: list[yaml.MappingNode], name: str, kind: Kind, origin: Origin) -> Section:
    node = path[-1]
    seen: dict[str, int] = {}
    for key_node, _ in node.value:
        key, line = str(key_node.value), key_node.start_mark.line + 1
        if key in seen and key != "<<":
            raise ConfigError(f"{name}:{line}: the key '{key}' is already given in line {seen[key]}; remove one")
        seen[key] = line
    loader.flatten_mapping(node)
    section = Section(origin=origin)
    for key_node, value_node in node.value:
        if not isinstance(key_node, yaml.ScalarNode):
            raise ConfigError(f"{name}:{key_node.start_mark.line + 1}: a key is not a word; write `key: value`")
        here = Origin(kind, f"{name}:{key_node.start_mark.line + 1}")
        if value_node in path:
            raise ConfigError(f"{here}: '{key_node.value}' contains itself; remove the alias")
        if isinstance(value_node, yaml.MappingNode):
            section[key_node.value] = _section(loader, [*path, value_node], name, kind, here)
        else:
            value = _constructed(loader, value_node)
            section[key_node.value] = Value(value, here, _items(value_node, name, kind))
    return section


def _items(node: yaml.Node, name: str, kind: Kind) -> tuple[Origin, ...]:
    nodes = node.value if isinstance(node, yaml.SequenceNode) else ()
    return tuple(Origin(kind, f"{name}:{item.start_mark.line + 1}") for item in nodes)
