"""Where a key that is out of place belongs; reads the source of plugins, so only errors ask."""

from __future__ import annotations

from dataclasses import dataclass

from hfx.activation import Activation
from hfx.defaults import DEFAULTS
from hfx.discovery import canonical, describe


@dataclass(frozen=True)
class Elsewhere:
    """Knows the options of every installed plugin, active or not."""

    activation: Activation

    def run(self, key: str) -> str:
        """Answer for a key that stands where a field of the run is expected."""
        name = canonical(key)
        if any(canonical(ref.name) == name for ref in self.activation.refs):
            return f" '{key}' is a plugin: write it under 'plugins:'"
        return self._owner(name, "write it under 'plugins.{}'")

    def plugin(self, key: str) -> str:
        """Answer for a key that stands where an option of a plugin is expected."""
        return self._owner(key, "that plugin is active too")

    def _owner(self, key: str, active: str) -> str:
        owners = [ref.name for ref in self.activation.refs if key in describe(ref).options]
        chosen = [name for name in owners if self._is_active(name)]
        if not owners:
            return ""
        owner = (chosen or owners)[0]
        advice = active.format(owner) if chosen else f"which is not active: add `--plugin {owner}`"
        return f" it is an option of '{owner}', {advice}"

    def _is_active(self, name: str) -> bool:
        # Asked before the defaults are filled in: a default counts where nobody else claims its role.
        roles = [role for role, default in (DEFAULTS | dict(self.activation.policy.roles)).items() if default == name]
        return canonical(name) in self.activation.choices or any(not self.activation.provider(role) for role in roles)
