"""What an organisation decides for every run on a machine: a YAML file, read before anything is imported.

It governs which code is imported and which values a run may have. It is no sandbox: an imported plugin can do whatever
the user can.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path
from typing import Any

from hfx.discovery import PluginRef, canonical, canonical_distribution, split_name
from hfx.errors import ConfigError, nearest
from hfx.layers import Origin, Section, Value, plain, read_yaml

SYSTEM_POLICY = Path("/etc/hfx/policy.yaml")
VARIABLE = "HFX_POLICY"
_LISTS = ("allow", "block", "activate", "activate_last")
_MAPPINGS = ("require", "prefer", "roles")
_SECTIONS = ("defaults", "locked")
_SWITCHES = ("permit_variable", "trust_remote_code")
_KEYS = (*_LISTS, *_MAPPINGS, *_SECTIONS, *_SWITCHES)


@dataclass(frozen=True)
class Policy:
    """The rules of one policy file.

    Patterns of `allow` and `block` are globs of distributions (`acme-*`), or `NAME@DISTRIBUTION`; in `block` a plain
    pattern also means the plugin's name, of whatever distribution. `block` beats everything.
    """

    allow: tuple[str, ...] | None = None
    block: tuple[str, ...] = ()
    require: Mapping[str, str] = field(default_factory=dict)
    prefer: Mapping[str, str] = field(default_factory=dict)
    activate: tuple[str, ...] = ()
    activate_last: tuple[str, ...] = ()
    defaults: Section = field(default_factory=Section)
    locked: Section = field(default_factory=Section)
    roles: Mapping[str, str] = field(default_factory=dict)
    permit_variable: bool = False
    trust_remote_code: bool = True
    """False: no plugin may run code that comes with a model."""
    path: Path | None = None
    origins: Mapping[str, Origin] = field(default_factory=dict)

    def origin(self, key: str) -> Origin:
        """Return where a key of the policy stands."""
        return self.origins.get(key, Origin("policy", "policy"))

    def refusal(self, name: str, distribution: str | None) -> str:
        """Return why the policy refuses this plugin, or nothing; an unregistered one has no distribution."""
        for pattern in self.block:
            if _matches(pattern, name, distribution, names=True):
                return f"blocked by the policy {self.line('block', pattern)}"
        if self.allow is None or any(_matches(pattern, name, distribution, names=False) for pattern in self.allow):
            return ""
        if distribution is None:
            return f"no installed plugin, and the policy {self.origin('allow')} allows only those it lists"
        return f"not allowed by the policy {self.origin('allow')}, which does not list '{distribution}'"

    def permitted(self, refs: Iterable[PluginRef]) -> list[PluginRef]:
        """Return the entry points that the policy does not refuse."""
        return [ref for ref in refs if not self.refusal(ref.name, ref.distribution)]

    def check_required(self) -> None:
        """Refuse to go on where a distribution that `require` names is missing or has another version.

        Raises:
            ConfigError: names it and what to install.
        """
        for pattern, wanted in self.require.items():
            if not any(sign in pattern for sign in "*?["):
                _check_version(
                    pattern,
                    _installed(pattern, wanted, self.line("require", pattern)),
                    wanted,
                    self.line("require", pattern),
                )

    def check_version(self, ref: PluginRef) -> None:
        """Refuse a plugin whose distribution has not the version that `require` asks for; read from metadata.

        Raises:
            ConfigError: names both versions and what to install.
        """
        for pattern, wanted in self.require.items():
            if _of(ref.distribution, pattern):
                _check_version(ref.distribution, ref.version, wanted, self.line("require", pattern))

    def check_remote_code(self, plugin: str, options: Mapping[str, Any], origin: Origin) -> None:
        """Refuse a plugin that is to run code which comes with a model, where the policy forbids it.

        Raises:
            ConfigError: names the option and the policy's line.
        """
        if not self.trust_remote_code and options.get("trust_remote_code"):
            raise ConfigError(
                f"'{plugin}.trust_remote_code' of {origin} is on, and the policy {self.origin('trust_remote_code')} "
                "forbids code that comes with models; remove it"
            )

    def line(self, key: str, name: str) -> Origin:
        """Return where a key under a key of the policy stands."""
        return self.origins.get(f"{key}.{name}", self.origin(key))


def _matches(pattern: str, name: str, distribution: str | None, names: bool) -> bool:
    wanted, at, of = pattern.partition("@")
    if at:
        named = fnmatchcase(canonical(name), canonical(wanted or "*"))
        return named and distribution is not None and _of(distribution, of)
    if names and fnmatchcase(canonical(name), canonical(pattern)):
        return True
    return distribution is not None and _of(distribution, pattern)


def _of(distribution: str, pattern: str) -> bool:
    # Brackets of a glob survive: only the characters that indexes treat as one are made one.
    return fnmatchcase(canonical_distribution(distribution), pattern.lower().replace("_", "-").replace(".", "-"))


def _installed(distribution: str, wanted: str, origin: Origin) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError as error:
        requirement = f"{distribution}{wanted}"
        raise ConfigError(
            f"the policy {origin} requires '{requirement}', which is not installed; run `pip install '{requirement}'`"
        ) from error


def _check_version(distribution: str, version: str, wanted: str, origin: Origin) -> None:
    from packaging.specifiers import InvalidSpecifier, SpecifierSet

    try:
        fits = SpecifierSet(wanted).contains(version, prereleases=True)
    except InvalidSpecifier as error:
        raise ConfigError(f"{origin}: '{wanted}' is no version specifier; write it like '>=1.2,<2'") from error
    if not fits:
        raise ConfigError(
            f"the policy {origin} requires '{distribution}{wanted}', installed is {version}; "
            f"run `pip install '{distribution}{wanted}'`"
        )


def load_policy(system: Path = SYSTEM_POLICY, environ: Mapping[str, str] = os.environ) -> Policy:
    """Return the machine's policy, else the one `HFX_POLICY` names, else an empty one.

    Raises:
        ConfigError: a policy cannot be read, or the variable is set where the machine's policy does not permit it.
    """
    variable = environ.get(VARIABLE)
    # `lexists`: a policy behind a broken link or an unreadable folder must stop the run, not vanish.
    if not os.path.lexists(system):
        return _of_variable(variable) if variable else Policy()
    policy = read_policy(system)
    if not variable:
        return policy
    if not policy.permit_variable:
        raise ConfigError(f"'{VARIABLE}' is set, but this machine's policy '{system}' does not permit it; unset it")
    return _of_variable(variable)


def _of_variable(path: str) -> Policy:
    if not Path(path).is_file():
        raise ConfigError(f"'{VARIABLE}' names '{path}', which is no file; set it to a policy, or unset it")
    return read_policy(Path(path))


def read_policy(path: Path) -> Policy:
    """Return the policy of one file.

    Raises:
        ConfigError: it cannot be read, has an unknown key, or a value of the wrong kind.
    """
    section = read_yaml(path, "policy")
    fields: dict[str, Any] = {"path": path, "origins": dict(_origins(section))}
    for key, value in section.items():
        if key not in _KEYS:
            raise ConfigError(f"{value.origin}: a policy has no key '{key}';{nearest(key, _KEYS) or _known(_KEYS)}")
        if isinstance(value, Value) and value.value is None:
            continue
        fields[key] = _field(key, value)
    return Policy(**fields)


def _origins(section: Section) -> Iterator[tuple[str, Origin]]:
    for key, value in section.items():
        yield key, value.origin
        if isinstance(value, Section):
            yield from ((f"{key}.{name}", inner.origin) for name, inner in value.items())
        elif isinstance(value.value, list):
            yield from ((f"{key}.{item}", origin) for item, origin in zip(value.value, value.items, strict=True))


def _known(keys: Iterable[str]) -> str:
    return " it has " + ", ".join(keys)


def _field(key: str, value: Value | Section) -> Any:
    if key in _SECTIONS and isinstance(value, Section):
        return _sections(key, value)
    bare = plain(value)
    if key in _LISTS and isinstance(bare, list) and all(isinstance(item, str) for item in bare):
        return tuple(bare)
    if key in _MAPPINGS and isinstance(bare, dict) and all(isinstance(item, str) for item in bare.values()):
        return {split_name(name)[0] if key == "prefer" else name: item for name, item in bare.items()}
    if key in _SWITCHES and isinstance(bare, bool):
        return bare
    kind = "a list of words" if key in _LISTS else "true or false" if key in _SWITCHES else "a mapping"
    raise ConfigError(f"{value.origin}: '{key}' of a policy is {kind}, not {bare!r}; write it so")


def _sections(key: str, section: Section) -> Section:
    checked = Section(origin=section.origin)
    for name, options in section.items():
        if not isinstance(options, Section):
            raise ConfigError(f"{options.origin}: '{key}.{name}' is not a mapping of options; write `option: value`")
        checked[canonical(name)] = options
    return checked
