"""Choosing one installed plugin by the name that was typed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hfx.discovery import PluginRef


def chosen(name: str) -> PluginRef:
    """Return the plugin of this name, or of `NAME@DIST`; the policy's `prefer` decides between namesakes."""
    from hfx.discovery import found, pick
    from hfx.policy import load_policy

    return pick(name, found(), load_policy().prefer)
