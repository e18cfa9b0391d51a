"""`hfx report`: one HTML page about one or more runs, which needs nothing else to be looked at."""

from __future__ import annotations

from pathlib import Path

import click

from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx report runs/mine
  hfx report runs/small runs/large --output comparison.html
"""
_MARK = "<!-- a report of hfx -->"


@click.command("report", cls=Command, epilog=EPILOG)
@click.argument("runs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--output",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write. [default: RUN/report.html; of several runs, report.html here]",
)
@traceback_option
def command(runs: tuple[Path, ...], output: Path | None) -> None:
    """Write one HTML page about one or more runs: curves, evaluations, data, time, events, config, checkpoints.

    It holds all it needs and loads nothing. The run may be going on, or may have failed.
    """
    from hfx.cli.export import check_run
    from hfx.errors import HfxError

    for run in runs:
        check_run(run)
    target = output or (runs[0] / "report.html" if len(runs) == 1 else Path("report.html"))
    _refuse_others(target)
    try:
        import bokeh  # noqa: F401
    except ImportError as error:
        raise HfxError(f"'hfx report' draws with bokeh ({error}); pip install 'hfx[report]'") from error
    from hfx.cli.report_impl import page

    text = page(list(dict.fromkeys(runs)))
    partial = target.with_name(f"{target.name}.partial")
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    click.echo(f"report: {target}")


def _refuse_others(target: Path) -> None:
    """Refuse to write over anything but an earlier report.

    Raises:
        ConfigError: it is something else, or there is no such folder.
    """
    from hfx.errors import ConfigError

    if not target.absolute().parent.is_dir():
        raise ConfigError(f"there is no folder '{target.parent}' for the report; make it, or choose another '--output'")
    if target.exists():
        with target.open("rb") as file:
            if _MARK.encode() not in file.read(200):
                raise ConfigError(f"'{target}' is no report of hfx; choose another '--output'")
