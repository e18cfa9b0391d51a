"""`hfx generate`: continue a prompt with plain transformers."""

from __future__ import annotations

from pathlib import Path

import click

from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx generate runs/20260102-030405-gpt2 --prompt 'def main(' --max-new-tokens 40
  hfx generate gpt2 --prompt 'Once upon a time' --temperature 0.8 --seed 1
"""


@click.command("generate", cls=Command, epilog=EPILOG)
@click.argument("run_or_model")
@click.option("--prompt", required=True, help="The text to continue.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to add.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides what is drawn.")
@traceback_option
def command(run_or_model: str, prompt: str, max_new_tokens: int, temperature: float, seed: int) -> None:
    """Continue a prompt with the model of a run, of a folder, or of a hub id."""
    from hfx.quiet import quieten

    source = located(run_or_model)
    quieten()
    from hfx.cli.generate_impl import continued

    click.echo(continued(source, prompt, max_new_tokens, temperature, seed))


def located(run_or_model: str) -> str:
    """Return the folder or hub id that transformers is to load.

    Raises:
        ConfigError: there is no such path, or no model in it yet.
    """
    from hfx.errors import ConfigError

    path = Path(run_or_model)
    for folder in (path / "model", path):
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return str(folder)
    if (path / "run.yaml").is_file():
        raise ConfigError(
            f"the run '{path}' did not end and has no model yet; go on with 'hfx train --resume {path}', "
            f"or take its newest checkpoint: 'hfx export {path}'"
        )
    if path.exists():
        raise ConfigError(f"'{path}' holds neither a run nor a model; name one that has 'model/' or 'config.json'")
    if run_or_model.count("/") > 1 or run_or_model.startswith((".", "/", "~", "runs/")):
        raise ConfigError(f"no such path '{run_or_model}'; 'ls runs' lists the runs made here")
    click.echo(f"'{run_or_model}' is no path here; looking for it among the hub's models", err=True)
    return run_or_model
