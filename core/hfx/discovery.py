"""Which plugins are installed, and what they are, found without importing any of them.

Names, packages and versions come from the metadata of distributions; roles, options and summary from the class's source
read as text. Nothing here imports pydantic, so that listing plugins stays fast.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import TYPE_CHECKING

from hfx.errors import PluginError, PluginNotFound, nearest
from hfx.manifest import Description as Description
from hfx.manifest import describe as describe

if TYPE_CHECKING:
    from hfx.plugin import Plugin

GROUP = "hfx"
OWN = "hfx"
"""The distribution whose plugins the table of defaults means."""


def canonical(name: str) -> str:
    """Return a plugin's or option's name with dashes as underscores: on the command line they are one."""
    return name.replace("-", "_")


def canonical_distribution(name: str) -> str:
    """Return a distribution's name as package indexes compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


@dataclass(frozen=True, order=True)
class PluginRef:
    """An entry point of group `hfx`: found, not loaded."""

    name: str
    distribution: str
    version: str
    value: str

    @property
    def module(self) -> str:
        """The module that the entry point names."""
        return self.value.partition(":")[0].strip()

    @property
    def attribute(self) -> str:
        """The class within the module."""
        return self.value.partition(":")[2].split("[")[0].strip()

    def __str__(self) -> str:
        return f"{self.name}@{self.distribution}"

    def load(self) -> type[Plugin]:
        """Import the plugin's class.

        Raises:
            PluginNotFound: the entry point names nothing, or no subclass of `Plugin`.
            PluginError: its module raises while it is imported.
        """
        from hfx.plugin import Plugin

        origin = f"plugin '{self.name}' of '{self.distribution}' {self.version} ({self.value})"
        try:
            found = getattr(import_module(self.module), self.attribute, None)
        except ImportError as error:
            hint = install_hint(self.distribution, error.name) or f"reinstall '{self.distribution}'"
            raise PluginNotFound(f"{origin} cannot be imported: {_one_line(error)}; {hint}") from error
        except (Exception, SystemExit) as error:
            reason = f"{type(error).__name__}: {_one_line(error)}"
            raise PluginError(f"{origin} fails while it is imported: {reason}; drop it or repair it") from error
        if not (isinstance(found, type) and issubclass(found, Plugin)):
            raise PluginNotFound(f"{origin} is not a subclass of hfx.Plugin; its package has to repair the entry point")
        return found


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"


def found() -> list[PluginRef]:
    """Return the installed plugins, sorted by name and distribution."""
    refs: set[PluginRef] = set()
    identities: dict[int, tuple[str, str]] = {}
    for point in metadata.entry_points(group=GROUP):
        distribution = point.dist
        if distribution is None:
            continue
        if id(distribution) not in identities:
            identities[id(distribution)] = _identity(distribution)
        refs.add(PluginRef(point.name, *identities[id(distribution)], point.value))
    return sorted(refs)


def _identity(distribution: metadata.Distribution) -> tuple[str, str]:
    # The mail parser behind `distribution.metadata` reads the whole README each time; two header lines are enough.
    text = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO") or ""
    head = dict(re.findall(r"^(Name|Version):[ \t]*(.+?)[ \t\r]*$", text.partition("\n\n")[0], re.MULTILINE))
    return head.get("Name", "?"), head.get("Version", "?")


def install_hint(distribution: str, module: str | None) -> str:
    """Return what to type where the missing module belongs to an extra of the distribution, or nothing."""
    if not module or not distribution:
        return ""
    wanted = canonical_distribution(module.partition(".")[0])
    try:
        requires = metadata.requires(distribution) or []
    except metadata.PackageNotFoundError:
        return ""
    for line in requires:
        name = re.match(r"[\w.-]+", line)
        extra = re.search(r"extra\s*==\s*[\"']([\w.-]+)[\"']", line)
        if name and extra and canonical_distribution(name[0]) == wanted:
            return f"install it with `pip install '{distribution}[{extra[1]}]'`"
    return ""


def split_name(text: str) -> tuple[str, str | None]:
    """Return `lion@hfx-fastlion` as name and distribution."""
    name, at, distribution = text.partition("@")
    return canonical(name.strip()), canonical_distribution(distribution.strip()) if at else None


def offering(name: str, refs: Iterable[PluginRef]) -> list[PluginRef]:
    """Return the entry points of that name; none is an error that says the nearest name."""
    refs = list(refs)
    same = [ref for ref in refs if canonical(ref.name) == canonical(name)]
    if not same:
        hint = nearest(name, sorted({ref.name for ref in refs}))
        raise PluginNotFound(f"no installed package offers a plugin '{name}';{hint or ' `hfx plugins` lists them'}")
    return same


def pick(
    text: str, refs: Iterable[PluginRef], prefer: Mapping[str, str] | None = None, typed: bool = True
) -> PluginRef:
    """Return the one entry point that `NAME` or `NAME@DIST` means.

    A name that two distributions offer is decided by `@DIST`, then by `prefer`; then a name that somebody typed is
    an error, and one of the table of defaults (`typed=False`) means hfx's own.

    Raises:
        PluginNotFound: nobody offers it, or more than one does.
    """
    name, distribution = split_name(text)
    same = offering(name, refs)
    preferred = {canonical(key): canonical_distribution(value) for key, value in (prefer or {}).items()}.get(name)
    wanted = distribution or preferred or (None if typed else OWN)
    chosen = [ref for ref in same if canonical_distribution(ref.distribution) == wanted]
    if len(chosen) == 1:
        return chosen[0]
    if len(same) == 1 and (wanted is None or wanted == preferred):
        return same[0]
    choices = " or ".join(f"'{ref}'" for ref in same)
    if distribution:
        raise PluginNotFound(f"'{distribution}' offers no plugin '{name}'; choose {choices}")
    if not typed:
        raise PluginNotFound(f"the default '{name}' of '{OWN}' is not installed; reinstall '{OWN}' or name {choices}")
    raise PluginNotFound(f"more than one package offers a plugin '{name}'; choose {choices}")
