"""The arguments that `hfx train` and `hfx config` share: a config, a flag per field of the run, plugins and options."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click

from hfx.cli import suggest
from hfx.cli.command import Command
from hfx.cli.run_options import as_flag, config_argument, dotted, field_option, plugin_option, plugin_options
from hfx.config import RunConfig
from hfx.errors import ConfigError, HfxError, nearest

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from rich_click.rich_context import RichContext
    from rich_click.rich_help_formatter import RichHelpFormatter

    from hfx.resolve import Resolved

DOTTED = re.compile(r"--(?P<plugin>\w[\w-]*)\.(?P<option>[\w.-]+)(=.*)?", re.DOTALL)
META = "hfx.cli.run_command"


@dataclass
class RunArguments:
    """What was typed, in order."""

    words: Sequence[str]
    dotted: list[click.Parameter] = field(default_factory=list)
    plugin_options: list[tuple[str, str]] = field(default_factory=list)
    config: Path | None = None
    plugins: Sequence[str] = ()
    fields: dict[str, str] = field(default_factory=dict)

    def resolve(self) -> Resolved:
        """Resolve what was typed."""
        from hfx.layers import flag
        from hfx.resolve import resolve
        from hfx.resume import config_of

        return resolve(
            yaml_path=self.config or config_of(self.fields),
            fields={name: flag(name.replace("_", "-"), text) for name, text in self.fields.items()},
            plugin_args=self.plugins,
            plugin_options=self.plugin_options,
        )


def arguments(ctx: click.Context) -> RunArguments:
    """Return what was typed for this command."""
    typed: RunArguments = ctx.meta[META]
    typed.config = ctx.params.get("config")
    typed.plugins = ctx.params.get("plugin") or ()
    typed.fields = {name: ctx.params[name] for name in RunConfig.model_fields if ctx.params.get(name) is not None}
    return typed


class RunCommand(Command):
    """A command about a run. `--NAME.OPTION` takes the word after it, whatever it looks like; `-` and `_` are one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("context_settings", {})["token_normalize_func"] = lambda word: word.replace("_", "-")
        super().__init__(*args, **kwargs)
        self.params = [config_argument(), plugin_option(), *map(field_option, RunConfig.model_fields), *self.params]

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Declare an option for every dotted word, then leave the parsing to click."""
        typed = ctx.meta[META] = RunArguments(tuple(args))
        names = dict.fromkeys(
            as_flag(*match.group("plugin", "option")) for match in map(DOTTED.fullmatch, args) if match
        )
        typed.dotted = [dotted(name, index, typed.plugin_options.extend) for index, name in enumerate(names)]
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            raise ConfigError(self._unknown(ctx, error.option_name)) from error

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        """Return the command's own parameters and the options of plugins that were typed (or are shown)."""
        typed = ctx.meta.get(META)
        return [*super().get_params(ctx), *(typed.dotted if typed else ())]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write one panel for the run and one for each active plugin."""
        ctx.meta[META].dotted, wrong = _active_options(ctx)
        if wrong:
            click.echo(f"hfx: {wrong} (the options below are those of the defaults)", err=True)
        super().format_options(cast("RichContext", ctx), cast("RichHelpFormatter", formatter))

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Complete flags, and the options of the plugins named so far."""
        typed = ctx.meta[META]
        names = suggest.named_plugins(typed.words, incomplete)
        typed.dotted = [option for name in names for option in plugin_options(name, suggest.plugin_class(name), name)]
        return super().shell_complete(ctx, incomplete)

    def _unknown(self, ctx: click.Context, word: str) -> str:
        active, _ = _active_options(ctx)
        owned = [flag for option in active for flag in option.opts if flag.rpartition(".")[2] == word.lstrip("-")]
        if owned:
            return f"no option '{word}'; it belongs to a plugin: '{owned[0]}'"
        flags = [flag for option in [*self.params, *active] for flag in option.opts if flag.startswith("--")]
        lists = f" '{ctx.command_path} --help' lists them"
        return f"no option '{word}';{nearest(word, flags) or lists}"


def _active_options(ctx: click.Context) -> tuple[list[click.Parameter], str]:
    """Return the options of the plugins that the words activate; of the defaults, and why, where they are wrong."""
    wrong = ""
    try:
        resolved = _resolve_words(ctx.meta[META].words)
    except HfxError as error:
        resolved, wrong = RunArguments(()).resolve(), str(error)
    options = [
        option
        for active in resolved.plugins
        for option in plugin_options(active.name, type(active.plugin), f"Plugin {active.name}")
    ]
    return options, wrong


def _resolve_words(words: Sequence[str]) -> Resolved:
    """Resolve the plugins among the words; other words may be wrong, and are looked at elsewhere."""
    named = [suggest.value_after(words, index, "--plugin") for index in range(len(words))]
    configs = [Path(word) for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file()]
    typed = RunArguments(words, config=configs[0] if configs else None, plugins=[word for word in named if word])
    return typed.resolve()
