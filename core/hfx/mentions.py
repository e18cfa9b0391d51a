"""Who names which plugin: the mentions of a policy, a config, the command line and Python code."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from hfx.discovery import PluginRef, split_name
from hfx.errors import ConfigError
from hfx.layers import Origin, Section, Value
from hfx.plugin import Plugin, snake_case
from hfx.policy import Policy

DROP = "no:"


class Layer(IntEnum):
    """Who speaks, from the weakest voice to the strongest."""

    DEFAULT = 0
    DEMO = 1
    YAML = 2
    COMMAND = 3
    POLICY = 4


@dataclass(frozen=True)
class Mention:
    """A plugin named (`lion`, `lion@hfx-fastlion`) or dropped (`no:lion`) by one layer."""

    text: str
    layer: Layer
    origin: Origin
    plugin: Plugin | None = None
    """The object, where Python code gave one."""
    ref: PluginRef | None = None
    """The entry point of the object's class; none: it is unregistered."""
    options: Section = field(default_factory=Section)

    @property
    def drops(self) -> bool:
        """True for `no:NAME`."""
        return self.text.startswith(DROP)

    @property
    def name(self) -> str:
        """The plugin's name, without `no:` and distribution."""
        return split_name(self.text.removeprefix(DROP))[0]

    def same_as(self, other: Mention) -> bool:
        """Say whether two mentions of a name ask for the same thing."""
        return self.plugin is other.plugin is None and self.text == other.text


def of_policy(policy: Policy) -> list[Mention]:
    """Return the plugins that the policy always activates."""
    keys = ("activate", "activate_last")
    return [Mention(text, Layer.POLICY, policy.line(key, text)) for key in keys for text in getattr(policy, key)]


def of_config(plugins: Value | Section | None, layer: Layer) -> list[Mention]:
    """Return the plugins under the key `plugins`: a name with its options, `lion@hfx-fastlion`, or `no:lion`.

    Raises:
        ConfigError: it is no mapping of names to mappings.
    """
    if plugins is None or (isinstance(plugins, Value) and plugins.value is None):
        return []
    if isinstance(plugins, Value):
        raise ConfigError(f"{plugins.origin}: 'plugins' is no mapping; write a line `lion:` for each plugin")
    return [_entry(text, options, layer) for text, options in plugins.items()]


def _entry(text: str, options: Value | Section, layer: Layer) -> Mention:
    if isinstance(options, Value):
        if options.value is not None:
            raise ConfigError(
                f"{options.origin}: 'plugins.{text}' is {options.value!r}; write `option: value` under it"
            )
        options = Section(origin=options.origin)
    mention = Mention(text, layer, options.origin, options=options)
    if mention.drops and options:
        raise ConfigError(f"{options.origin}: 'plugins.{text}' drops a plugin and has options; remove them")
    return mention


def of_command(words: Iterable[str], objects: Sequence[Plugin], refs: Sequence[PluginRef]) -> list[Mention]:
    """Return the plugins that `--plugin` or Python code names."""
    named = [Mention(word, Layer.COMMAND, Origin("flag", f"--plugin {word}")) for word in words]
    return named + [_of_object(plugin, refs) for plugin in objects]


def _of_object(plugin: Plugin, refs: Sequence[PluginRef]) -> Mention:
    if not isinstance(plugin, Plugin):
        raise ConfigError(f"{plugin!r} in `plugins=[...]` is no plugin; give an instance, like `Lion(lr=1e-4)`")
    ref = _registered(type(plugin), refs)
    text = str(ref) if ref else snake_case(type(plugin).__name__)
    origin = Origin("python", f"{type(plugin).__name__}(...)")
    set_fields = {name: Value(getattr(plugin, name), origin) for name in plugin.model_fields_set}
    return Mention(text, Layer.COMMAND, origin, plugin, ref, Section(set_fields, origin))


def _registered(plugin_class: type[Plugin], refs: Iterable[PluginRef]) -> PluginRef | None:
    for ref in refs:
        # The class exists, so the module of its entry point is imported: nothing is imported here.
        if getattr(sys.modules.get(ref.module), ref.attribute, None) is plugin_class:
            return ref
    return None


def name_of(plugin: Plugin, refs: Sequence[PluginRef]) -> str:
    """Return the name under which an object is resolved: that of its entry point, or of its class."""
    return _of_object(plugin, refs).name
