"""Where exceptions become exit codes: users see one or two lines, and a traceback only when they ask for it."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Sequence

import click

from hfx.cli import tracebacks
from hfx.cli.terminal import plain
from hfx.cli.usage import explain
from hfx.errors import HfxError, IncompatibleError
from hfx.redact import redacted, redacting, trace

INTERRUPTED = 130
BROKEN_PIPE = 141  # what a shell reports for a program that SIGPIPE ended
COMPLETING = "_HFX_COMPLETE"
_LONGEST = 2_000
"""Characters of a message."""


def guarded(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; every error is told on stderr."""
    if COMPLETING in os.environ:
        from hfx.cli.completion import answer

        return answer()
    _open_what_is_closed()
    try:
        with redacting():
            return _flushed(_attempt(arguments))
    except BrokenPipeError as error:
        if not _stdout_is_closed():
            return _tell(error, *told(error))
        _take_the_last_flush()
        return BROKEN_PIPE


def _open_what_is_closed() -> None:
    """Let nothing take what is printed where the output was closed before the process began.

    The next file that is opened would have its number, and be printed into by libraries that know the number alone.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            opened = open(os.devnull, mode)  # noqa: SIM115  for as long as the process lives
            if opened.fileno() != number:
                os.dup2(opened.fileno(), number)
            setattr(sys, name, opened)


def _flushed(code: int) -> int:
    """Return the exit code once all that was printed is written."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        _take_the_last_flush()
        return _tell(error, *told(error))
    return code


def _take_the_last_flush() -> None:
    # The interpreter flushes stdout once more when it exits; give it something that takes the flush.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _attempt(arguments: Sequence[str]) -> int:
    try:
        return _run(arguments)
    except click.exceptions.Exit as leaving:
        return leaving.exit_code
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help() if error.ctx else error.message)
        return error.exit_code
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost boundary: nothing may pass untold
        return _tell(error, *told(error))


def told(error: BaseException) -> tuple[str, int]:
    """Return what a user is told of an error, and the exit code; whatever hfx does not name is a bug, and says so."""
    if isinstance(error, click.ClickException):
        return _short(redacted(explain(error))), error.exit_code
    if isinstance(error, HfxError):
        return _short(redacted(str(error))), error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort):
        return "interrupted", INTERRUPTED
    if isinstance(error, OSError) and error.filename is not None and not isinstance(error, BrokenPipeError):
        return _short(redacted(f"'{error.filename}': {error.strerror}; look at that path and its rights")), 1
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"what is printed, or a file, cannot be written: {error.strerror}; free space", 1
    return _short(redacted(_bug(error))), 1


def _short(text: str) -> str:
    # What to do stands at the end; what is too long is somebody's data in between.
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]} ... {text[-_LONGEST // 2 :]}"


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
        click.echo(trace(error), err=True, nl=False)
    # Several problems of plugins are a line each, and each reads alone.
    each = text.splitlines() if isinstance(error, IncompatibleError) else [text]
    click.echo(plain("\n".join(f"hfx: {line}" for line in each)), err=True)
    return code


def _bug(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    place = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown place"
    message = " ".join(str(error).split())
    return (
        f"this is a bug: {type(error).__name__}: {message} (at {place}); "
        f"--traceback or {tracebacks.VARIABLE}=1 shows the traceback to report"
    )
