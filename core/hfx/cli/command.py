"""The base of the commands: help drawn by rich, with an example at the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from rich_click import RichCommand

from hfx.cli.tracebacks import traceback_option

if TYPE_CHECKING:
    import click


class Command(RichCommand):
    """A command whose help ends with its example."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the example as it is to be typed, unwrapped and unstyled."""
        from rich.text import Text

        if self.epilog:
            # rich's formatter prints whatever renders; click's type only knows strings.
            cast("Any", formatter).write(Text(self.epilog.strip(), no_wrap=True, overflow="ignore"))


__all__ = ["Command", "traceback_option"]
