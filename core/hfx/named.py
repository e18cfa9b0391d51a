"""Classes that a config names: only those of installed packages that the policy allows are ever imported."""

from __future__ import annotations

import json
import re
from importlib import import_module, metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlparse
from urllib.request import url2pathname

from hfx.discovery import PluginRef, canonical_distribution
from hfx.errors import ConfigError, PluginError, nearest

if TYPE_CHECKING:
    from hfx.policy import Policy

Kind = TypeVar("Kind")
_NAMED = re.compile(r"(?P<module>[A-Za-z_]\w*(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")
_NEEDED = ("hfx", "transformers")
"""Packages that every run imports anyway: an allow-list need not name them."""


def check_named(text: str, owner: str, policy: Policy) -> str:
    """Return the module of `package.module:Class`, which may be imported; nothing is imported here.

    Args:
        text: What the config says.
        owner: Whose option says so, for errors.
        policy: The policy, which may allow, block, or require a version of the package.

    Raises:
        ConfigError: it is not written so, belongs to no installed package, or the policy refuses it.
    """
    match = _NAMED.fullmatch(text)
    if match is None:
        raise ConfigError(f"'{owner}' names '{text}'; write it as 'package.module:Class'")
    found = _distribution_of(match["module"])
    if found is None:
        raise ConfigError(
            f"'{owner}' names '{text}', and no installed package has a module '{match['module'].partition('.')[0]}'; "
            "install the package that has it (`pip install -e .` does for your own)"
        )
    reason = policy.refusal(text, found.name)
    needed = canonical_distribution(found.name) in _NEEDED and not reason.startswith("blocked")
    if reason and not needed:
        raise ConfigError(
            f"'{owner}' names '{text}' of '{found.name}', which is {reason}; "
            "choose another, or ask who keeps the policy"
        )
    policy.check_version(PluginRef(text, found.name, found.version, text))
    return match["module"]


def class_named(text: str, owner: str, policy: Policy, base: type[Kind]) -> type[Kind]:
    """Import and return the class that a config names as `package.module:Class`.

    Raises:
        ConfigError: `check_named` refuses it, there is no such class, or it is none of the kind.
        PluginError: its module raises while it is imported.
    """
    module = check_named(text, owner, policy)
    name = text.partition(":")[2]
    try:
        imported = import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"'{owner}' names '{text}', which cannot be imported: {_line(error)}; mend the name"
        ) from error
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {_line(error)}"
        raise PluginError(f"'{text}' of '{owner}' fails while it is imported: {reason}; repair it") from error
    found = getattr(imported, name, None)
    if not (isinstance(found, type) and issubclass(found, base)):
        kin = [key for key, value in vars(imported).items() if isinstance(value, type) and issubclass(value, base)]
        what = "has no such class" if found is None else f"it is no {base.__name__}"
        hint = nearest(name, kin) or f" name a class that is a {base.__name__}"
        raise ConfigError(f"'{owner}' names '{text}', and {what};{hint}")
    return found


def _line(error: BaseException) -> str:
    return " ".join(str(error).split()) or "no message"


def _distribution_of(module: str) -> metadata.Distribution | None:
    """Return the installed distribution whose code a module is; a folder that lies about is nobody's."""
    top = module.partition(".")[0]
    try:
        spec = find_spec(top)
    except (ImportError, ValueError):
        return None
    places = [spec.origin or "", *(spec.submodule_search_locations or ())] if spec else []
    place = next((Path(name).resolve() for name in places if Path(name).exists()), None) if spec else None
    if place is None:
        return None
    every = list(metadata.distributions())
    installed = [found for found in every if place.is_relative_to(_home(found)) and _lists(found, top)]
    return next(iter([*installed, *(found for found in every if _edits(found, place))]), None)


def _home(found: metadata.Distribution) -> Path:
    return Path(str(found.locate_file(""))).resolve()


def _lists(found: metadata.Distribution, top: str) -> bool:
    """Return whether a distribution installed this module; its record is searched as text, for torch's is long."""
    if top in (found.read_text("top_level.txt") or "").split():
        return True
    record = "\n" + (found.read_text("RECORD") or "")
    return f"\n{top}/" in record or f"\n{top}.py," in record


def _edits(found: metadata.Distribution, place: Path) -> bool:
    """Return whether a distribution is installed as a folder to be edited, which holds this file."""
    described = json.loads(found.read_text("direct_url.json") or "{}")
    if not described.get("dir_info", {}).get("editable"):
        return False
    folder = Path(url2pathname(urlparse(described["url"]).path)).resolve()
    return place.is_relative_to(folder) and "site-packages" not in place.relative_to(folder).parts
