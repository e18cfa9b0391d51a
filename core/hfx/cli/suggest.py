"""What a shell may complete: names of plugins from the metadata, options of those named so far, choices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from hfx.errors import HfxError

if TYPE_CHECKING:
    from hfx.plugin import Plugin

Complete = Callable[[click.Context, click.Parameter, str], list[CompletionItem]]


def complete_plugins(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete `NAME`, `no:NAME`, and `NAME@DIST` where two packages offer one name; imports no plugin."""
    from hfx.discovery import found

    refs = found()
    names = [ref.name for ref in refs]
    if incomplete.startswith("no:"):
        words = dict.fromkeys((f"no:{name}" for name in names), "")
    else:
        words = {str(ref) if names.count(ref.name) > 1 else ref.name: ref.distribution for ref in refs}
    return [CompletionItem(word, help=note or None) for word, note in words.items() if word.startswith(incomplete)]


def complete_words(words: Sequence[str]) -> Complete:
    """Return a completion of fixed words."""
    return lambda _ctx, _param, incomplete: [CompletionItem(word) for word in words if word.startswith(incomplete)]


def complete_option(plugin: str, option: str) -> Complete:
    """Return a completion of the choices of a plugin's option."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from hfx.cli.fields import choices

        kind = plugin_class(plugin)
        info = kind.model_fields.get(option) if kind else None
        words = choices(info.annotation) if info else ()
        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return complete


def named_plugins(words: Sequence[str], incomplete: str) -> list[str]:
    """Return the plugins that the words name, and the one whose options are being typed."""
    given = [value_after(words, index, "--plugin") for index in range(len(words))]
    typing = incomplete.removeprefix("--").partition(".")[0].replace("-", "_") if "." in incomplete else ""
    return list(
        dict.fromkeys(word.partition("@")[0] for word in [*given, typing] if word and not word.startswith("no:"))
    )


def value_after(words: Sequence[str], index: int, flag: str) -> str:
    """Return the value that the word at the index gives to a flag, or nothing."""
    if words[index] == flag and index + 1 < len(words):
        return words[index + 1]
    return words[index].removeprefix(f"{flag}=") if words[index].startswith(f"{flag}=") else ""


def plugin_class(name: str) -> type[Plugin] | None:
    """Import one plugin; none where that fails, for a shell that is completing has no place for an error."""
    from hfx.discovery import found

    refs = [ref for ref in found() if ref.name == name]
    try:
        return refs[0].load() if refs else None
    except HfxError:
        return None
