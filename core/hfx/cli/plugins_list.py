"""The list behind `hfx plugins`: read from metadata and source text, so that no plugin and no pydantic is imported."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfx.defaults import DEFAULT_LISTENERS, DEFAULTS, WITHOUT_MODEL
from hfx.discovery import Description, PluginRef, describe, found

if TYPE_CHECKING:
    from hfx.policy import Policy


@dataclass(frozen=True)
class Listed:
    """One line of the list."""

    name: str
    role: str
    default: str
    """When it is active without being named: `yes`, `with a model`, `without a model`, `policy`; or `blocked`."""
    distribution: str
    version: str
    summary: str
    unverified: str
    """What of it nobody has seen at work, and why; empty where there is nothing of the kind."""


def installed() -> list[Listed]:
    """Return one line per installed plugin, by role and name."""
    policy = _policy()
    lines = [_listed(ref, describe(ref), _default(ref, policy)) for ref in found()]
    return sorted(lines, key=lambda line: (line.role, line.name, line.distribution))


def _policy() -> Policy | None:
    """Return the policy where there is one; YAML is not imported where there is none."""
    if not os.path.lexists("/etc/hfx/policy.yaml") and "HFX_POLICY" not in os.environ:
        return None
    from hfx.policy import load_policy

    return load_policy()


def _listed(ref: PluginRef, told: Description, default: str) -> Listed:
    return Listed(ref.name, role_text(told), default, ref.distribution, ref.version, told.summary, told.unverified)


def _default(ref: PluginRef, policy: Policy | None) -> str:
    roles = DEFAULTS | dict(policy.roles) if policy else DEFAULTS
    if policy:
        if policy.refusal(ref.name, ref.distribution):
            return "blocked"
        if ref.name in [text.partition("@")[0] for text in (*policy.activate, *policy.activate_last)]:
            return "policy"
    if policy and ref.name in policy.prefer:
        mine = ref.distribution == policy.prefer[ref.name]
    else:
        mine = ref.distribution == "hfx" or ref.name not in {*DEFAULTS.values(), *DEFAULT_LISTENERS}
    if not mine:
        return ""
    if ref.name in WITHOUT_MODEL.values():
        return "without a model"
    if ref.name in {roles[role] for role in WITHOUT_MODEL}:
        return "with a model"
    return "yes" if ref.name in (*roles.values(), *DEFAULT_LISTENERS) else ""


def role_text(told: Description) -> str:
    """Return what a plugin does in a run: its role, what it wraps, or that it listens."""
    parts = [*told.roles, *(f"wraps {role}" for role in told.wraps)]
    return ", ".join(parts or (["listens"] if told.listens else ["?"]))
