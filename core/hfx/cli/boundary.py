"""Where exceptions become exit codes: users see one or two lines, and a traceback only when they ask for it."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Sequence

import click

from hfx.cli import tracebacks
from hfx.cli.usage import explain
from hfx.errors import HfxError

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
COMPLETING = "_HFX_COMPLETE"


def guarded(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error is told on stderr."""
    if COMPLETING in os.environ:
        from hfx.cli.completion import answer

        return answer()
    try:
        code = _told(arguments)
        sys.stdout.flush()
    except BrokenPipeError as error:
        if not _stdout_is_closed():
            return _tell(error, _bug(error), 1)
        # The interpreter flushes stdout once more when it exits; give it something that takes the flush.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _told(arguments: Sequence[str]) -> int:
    try:
        return _run(arguments)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message)
        return error.exit_code
    except click.ClickException as error:
        return _tell(error, explain(error), error.exit_code)
    except HfxError as error:
        return _tell(error, str(error), error.exit_code)
    except (KeyboardInterrupt, click.Abort) as error:
        return _tell(error, "interrupted", INTERRUPTED)
    except BrokenPipeError:
        raise
    except Exception as error:  # noqa: BLE001 - the outermost boundary: whatever arrives here is a bug, and says so
        return _tell(error, _bug(error), 1)


def _run(arguments: Sequence[str]) -> int:
    from hfx.cli.app import cli

    # Not `cli.main`: it takes any broken pipe, a tracker's socket too, for a reader of stdout that went away.
    with cli.make_context("hfx", list(arguments)) as ctx:
        outcome = cli.invoke(ctx)
    return outcome if isinstance(outcome, int) else 0


def _stdout_is_closed() -> bool:
    import select

    poll = select.poll()
    poll.register(sys.stdout.fileno(), 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def _tell(error: BaseException, text: str, code: int) -> int:
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
