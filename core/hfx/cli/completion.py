"""`hfx completion`: the script that teaches a shell."""

from __future__ import annotations

import os

import click
from click import shell_completion as shells

from hfx.cli.boundary import COMPLETING
from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx completion bash > ~/.local/share/bash-completion/completions/hfx
  hfx completion zsh > ~/.zfunc/_hfx
  hfx completion fish > ~/.config/fish/completions/hfx.fish
"""
_BREAKS = ":=@"


class Bash(shells.BashComplete):
    """bash cuts words at `:`, `=` and `@`: read the whole line instead, and answer with what follows the last cut."""

    source_template = shells.BashComplete.source_template.replace(
        "env COMP_WORDS", 'env COMP_LINE="$COMP_LINE" COMP_POINT="$COMP_POINT" COMP_WORDS'
    )

    def get_completion_args(self) -> tuple[list[str], str]:
        """Return the whole words of the line up to the cursor, and the one being typed."""
        if "COMP_LINE" not in os.environ:
            return super().get_completion_args()
        line = os.environ["COMP_LINE"][: int(os.environ["COMP_POINT"])]
        words = shells.split_arg_string(line)
        self.typing = "" if line[-1:].isspace() else words.pop()
        flag, equals, value = self.typing.partition("=")
        return ([*words[1:], flag], value) if equals and flag.startswith("--") else (words[1:], self.typing)

    def format_completion(self, item: shells.CompletionItem) -> str:
        """Return the part of a suggestion that bash puts in place of the last piece of the word."""
        typing = getattr(self, "typing", "")
        cut = max(typing.rfind(sign) for sign in _BREAKS) + 1
        value = item.value[cut:] if cut and item.value.startswith(typing[:cut]) else item.value
        return f"{item.type},{value}"


shells.add_completion_class(Bash)


def answer() -> int:
    """Answer the shell that set the variable of the completion script; return the exit code."""
    from hfx.cli.app import cli

    return shells.shell_complete(cli, {}, "hfx", COMPLETING, os.environ[COMPLETING])


@click.command("completion", cls=Command, epilog=EPILOG)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@traceback_option
def command(shell: str) -> None:
    """Print the completion script for SHELL: commands, flags, plugins, their options and choices."""
    from hfx.cli.app import cli

    kind = shells.get_completion_class(shell)
    assert kind is not None, "click completes these shells"
    click.echo(kind(cli, {}, "hfx", COMPLETING).source())
