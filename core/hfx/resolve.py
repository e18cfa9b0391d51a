"""From everything somebody said (defaults, policy, YAML, flags, Python) to one run: its config and its plugins."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hfx import mentions
from hfx.activation import Activation, Choice, RoleChoice, order
from hfx.config import RunConfig
from hfx.defaults import DEFAULT_LISTENERS, DEFAULTS, DEMO, DEMO_NOTE, WITHOUT_MODEL
from hfx.discovery import PluginRef, canonical, found, offering
from hfx.elsewhere import Elsewhere
from hfx.errors import ConfigError, UsageError, nearest
from hfx.implementations import ROLES
from hfx.layers import DEFAULT, Origin, Section, Value, flag, read_yaml, sectioned
from hfx.manager import ActivePlugin, Manager
from hfx.mentions import Layer, Mention
from hfx.options import merge
from hfx.plugin import Plugin
from hfx.policy import Policy, load_policy
from hfx.values import plugin_values, run_values
from hfx.written import describe, to_yaml

__all__ = ["DEFAULTS", "DEMO", "ROLES", "Resolved", "RoleChoice", "describe", "resolve", "to_yaml"]

_NOTHING = Value(None, DEFAULT)


@dataclass(frozen=True)
class Resolved:
    """What a run is, and where every part of it came from."""

    config: RunConfig
    plugins: tuple[ActivePlugin, ...]
    roles: Mapping[str, RoleChoice]
    origins: Mapping[str, Origin]
    """By path: `run.seed`, `lion.lr`."""
    policy: Policy
    manager: Manager
    notes: list[str] = field(default_factory=list)


def resolve(
    *,
    yaml_path: Path | None = None,
    mapping: Mapping[str, Any] | None = None,
    fields: Mapping[str, Any] | None = None,
    plugin_args: Sequence[str] = (),
    plugin_options: Sequence[tuple[str, str]] = (),
    plugin_objects: Sequence[Plugin] = (),
    policy: Policy | None = None,
) -> Resolved:
    """Return the run that a config, flags and Python objects describe; imports the named plugins, never torch.

    Raises:
        ConfigError: a key, a value or a name is wrong, or the policy refuses it.
        PluginError: a plugin cannot be imported, or its hooks cannot be called.
    """
    policy = load_policy() if policy is None else policy
    policy.check_required()
    config = _config(yaml_path, mapping)
    refs = found()
    commanded = mentions.of_command(plugin_args, plugin_objects, refs)
    given = {mention.name: type(mention.plugin) for mention in commanded if mention.plugin and not mention.ref}
    activation = Activation(refs, policy, given)
    activation.activate(mentions.of_policy(policy))
    activation.activate(mentions.of_config(config.pop("plugins", None), Layer.YAML))
    activation.activate(commanded)
    elsewhere = Elsewhere(activation)
    locked = _section(policy.locked, "run")
    layers = [_section(policy.defaults, "run"), config, _given(fields or {})]
    if _is_demo(activation, [*layers, locked]):
        demo = sectioned(DEMO, Origin("demo"))
        activation.activate(mentions.of_config(demo.pop("plugins"), Layer.DEMO))
        layers.insert(0, demo)
        activation.notes.append(DEMO_NOTE)
    activation.settle()
    settled = run_values(layers, locked, activation.notes, elsewhere.run)
    roles = _fill(activation, settled.model)
    options = _options(plugin_options, activation)
    origins = {f"run.{key}": origin for key, origin in settled.origins.items()}
    active: list[ActivePlugin] = []
    for choice in order(activation.choices, policy.activate_last):
        plugin, of_plugin = _active(choice, options, policy, elsewhere)
        policy.check_remote_code(plugin.name, dict(plugin.plugin), of_plugin.get("trust_remote_code", DEFAULT))
        active.append(plugin)
        origins |= {f"{plugin.name}.{key}": origin for key, origin in of_plugin.items()}
    notes = [*activation.notes, *_strangers(policy, activation.refs), *_unverified(active)]
    return Resolved(settled.model, tuple(active), roles, origins, policy, Manager(active), notes)


def _unverified(active: Sequence[ActivePlugin]) -> list[str]:
    marked = [(plugin.name, type(plugin.plugin).unverified) for plugin in active]
    return [f"'{name}' is unverified: {text}" for name, text in marked if text]


def _config(yaml_path: Path | None, mapping: Mapping[str, Any] | None) -> Section:
    if yaml_path is not None and mapping is not None:
        raise UsageError("a config is given both as a file and as a mapping; give one of them")
    section = read_yaml(yaml_path) if yaml_path is not None else sectioned(mapping or {}, Origin("yaml", "config"))
    return Section({canonical(key): value for key, value in section.items()}, section.origin)


def _given(fields: Mapping[str, Any]) -> Section:
    values = {
        key: value if isinstance(value, Value) else Value(value, Origin("python", key)) for key, value in fields.items()
    }
    return Section(values)


def _section(tree: Section, key: str) -> Section:
    section = tree.get(key)
    return section if isinstance(section, Section) else Section()


def _is_demo(activation: Activation, layers: Sequence[Section]) -> bool:
    """Say whether nobody gave a model or data, nor a plugin of their own that brings one."""
    if any(merge(layers).get(key, _NOTHING).value is not None for key in ("model", "data")):
        return False
    for role in ("source", "model"):
        provider = activation.provider(role)
        if (provider and provider.name not in DEMO["plugins"]) or role in activation.policy.roles:
            return False
    return True


def _fill(activation: Activation, config: RunConfig) -> dict[str, RoleChoice]:
    """Let the defaults provide the roles that nobody claimed, and return who provides each role and why."""
    policy = activation.policy
    for role in policy.roles:
        if role not in ROLES:
            raise ConfigError(f"{policy.line('roles', role)}: there is no role '{role}';{nearest(role, ROLES)}")
    for name in DEFAULT_LISTENERS:
        if name not in activation.dropped and name not in activation.choices:
            activation.activate([Mention(name, Layer.DEFAULT, DEFAULT)])
    table = DEFAULTS | (WITHOUT_MODEL if config.model is None else {}) | dict(policy.roles)
    for role in ROLES:
        if activation.provider(role) is None:
            origin = policy.line("roles", role) if role in policy.roles else DEFAULT
            activation.fill(role, table[role], origin)
    activation.settle()
    without = {} if config.model is not None else WITHOUT_MODEL
    return {role: _why(role, activation, role in without) for role in ROLES}


def _why(role: str, activation: Activation, without_model: bool) -> RoleChoice:
    provider = activation.provider(role)
    assert provider is not None, "every role is filled"
    by_default = provider.origin == DEFAULT
    why = "default where no model is given" if by_default and without_model else str(provider.origin)
    return RoleChoice(provider.name, f"{why} (always on)" if provider.layer is Layer.POLICY else why)


def _options(pairs: Sequence[tuple[str, str]], activation: Activation) -> dict[str, Section]:
    options: dict[str, Section] = {}
    for path, text in pairs:
        typed, dot, key = path.partition(".")
        if not dot or not key:
            raise UsageError(f"'--{path}' is no option of a plugin; write `--NAME.OPTION VALUE`")
        name = canonical(typed)
        if name not in activation.choices:
            raise ConfigError(_inactive(f"--{path}", name, activation))
        options.setdefault(name, Section())[canonical(key)] = flag(path, text)
    return options


def _inactive(word: str, name: str, activation: Activation) -> str:
    ref = offering(name, activation.refs)[0]
    if name in activation.dropped:
        return (
            f"'{word}' is an option of '{ref.name}', which is dropped by {activation.dropped[name]}; remove one of them"
        )
    return f"'{word}' is an option of '{ref.name}', which is not active; add `--plugin {ref.name}`"


def _active(
    choice: Choice, options: Mapping[str, Section], policy: Policy, elsewhere: Elsewhere
) -> tuple[ActivePlugin, Mapping[str, Origin]]:
    said = choice.options
    command = Section({**said.get(Layer.COMMAND, {}), **options.get(choice.name, {})})
    layers = [
        said.get(Layer.DEMO, Section()),
        _section(policy.defaults, choice.name),
        said.get(Layer.YAML, Section()),
        command,
    ]
    locked = _section(policy.locked, choice.name)
    settled = plugin_values(choice.plugin, choice.plugin_class, layers, locked, choice.name, elsewhere.plugin)
    distribution, version = (choice.ref.distribution, choice.ref.version) if choice.ref else ("", "")
    plugin = ActivePlugin(choice.name, settled.model, distribution, version, choice.origin, choice.ref is not None)
    return plugin, settled.origins


def _strangers(policy: Policy, refs: Sequence[PluginRef]) -> Iterator[str]:
    names = {canonical(ref.name) for ref in refs}
    for key, section in (("defaults", policy.defaults), ("locked", policy.locked)):
        for name, options in section.items():
            if name != "run" and name not in names:
                yield f"{options.origin}: '{key}' names '{name}', which no package offers;{nearest(name, names)}"
