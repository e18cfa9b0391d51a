"""Where exceptions become exit codes: users see one or two lines, and a traceback only when they ask for it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

import click

from hfx.cli import tracebacks
from hfx.cli.usage import explain
from hfx.errors import HfxError

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended


def guarded(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error is told on stderr."""
    try:
        code = _run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # The interpreter flushes stdout once more when it exits; give it something that takes the flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _run(arguments: Sequence[str]) -> int:
    from hfx.cli.app import cli

    if "_HFX_COMPLETE" in os.environ:
        import_module("hfx.cli.completion")  # teaches click about words with ':' in bash
    try:
        outcome = cli.main(list(arguments), prog_name="hfx", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message)
        return 2
    except click.ClickException as error:
        return _told(error, explain(error), error.exit_code)
    except HfxError as error:
        return _told(error, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        return _told(error, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the outermost boundary: whatever arrives here is a bug, and says so
        return _told(error, _bug(error), 1)
    return outcome if isinstance(outcome, int) else 0


def _told(error: BaseException, text: str, code: int) -> int:
    if tracebacks.wanted():
        traceback.print_exception(error)
    click.echo(f"hfx: {text}", err=True)
    return code


def _bug(error: Exception) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    message = " ".join(str(error).split())
    return (
        f"this is a bug: {type(error).__name__}: {message} (at {place}); "
        f"--traceback or {tracebacks.VARIABLE}=1 shows the traceback to report"
    )
