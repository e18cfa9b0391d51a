"""click's complaints in the words of hfx: what is wrong; what to do."""

from __future__ import annotations

import click
from click import exceptions as wrong

from hfx.errors import nearest


def explain(error: click.ClickException) -> str:
    """Return one line for a complaint of click."""
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if isinstance(ctx, click.Context) else "hfx"
    lists = f"'{path} --help' lists them"
    if isinstance(error, wrong.NoSuchOption):
        return f"no option '{error.option_name}';{nearest(error.option_name, _options(ctx)) or ' ' + lists}"
    if isinstance(error, wrong.BadOptionUsage):
        return _bad_option(error, path)
    if isinstance(error, wrong.MissingParameter):
        return f"{_parameter(error, ctx)} is missing; '{path} --help' has an example"
    if isinstance(error, wrong.BadParameter):
        return f"{_parameter(error, ctx)}: {_lower(error.message)}; '{path} --help' has an example"
    return _other(error, ctx, lists)


def _bad_option(error: wrong.BadOptionUsage, path: str) -> str:
    if "requires an argument" in error.message:
        return f"option '{error.option_name}' needs a value; write '{error.option_name} VALUE'"
    if "does not take a value" in error.message:
        return f"option '{error.option_name}' takes no value; write it alone"
    return f"{_lower(error.message)}; '{path} --help' has an example"


def _other(error: click.ClickException, ctx: click.Context | None, lists: str) -> str:
    message = _lower(error.message)
    if message.startswith("no such command") and ctx is not None and isinstance(ctx.command, click.Group):
        word = error.message.split("'")[1]
        return f"no command '{word}';{nearest(word, ctx.command.list_commands(ctx)) or ' ' + lists}"
    if message.startswith("got unexpected extra argument"):
        words = error.message.partition("(")[2].partition(")")[0]
        return f"too many arguments: '{words}' is left over; an option begins with '--'"
    return f"{message}; {lists.replace('lists them', 'explains')}" if isinstance(error, click.UsageError) else message


def _parameter(error: wrong.BadParameter, ctx: click.Context | None) -> str:
    parameter = error.param
    if parameter is None or ctx is None:
        return "an argument"
    if isinstance(parameter, click.Option):
        return f"option '{parameter.opts[-1]}'"
    return f"argument {parameter.human_readable_name}"


def _options(ctx: click.Context | None) -> list[str]:
    if ctx is None:
        return []
    return [name for parameter in ctx.command.get_params(ctx) for name in parameter.opts if name.startswith("--")]


def _lower(message: str) -> str:
    text = message.rstrip(".")
    return text[:1].lower() + text[1:]
