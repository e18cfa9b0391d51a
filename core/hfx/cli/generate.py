"""`hfx generate`: continue prompts, or answer them, with plain transformers."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx generate runs/20260102-030405-gpt2 --prompt 'def main(' --max-new-tokens 40
  hfx generate runs/assistant --prompt 'Where is the harbour?' --system 'Answer in one line.'
  hfx generate runs/assistant --prompt-file questions.txt --batch-size 16 > answers.jsonl
"""


@click.command("generate", cls=Command, epilog=EPILOG)
@click.argument("run_or_model")
@click.option("--prompt", help="The text to continue, or what the user says.")
@click.option(
    "--prompt-file",
    type=click.Path(dir_okay=False, allow_dash=True),
    help="A file of prompts, one a line; of .jsonl each line has 'prompt', or 'messages'. '-' is the standard input.",
)
@click.option(
    "--chat/--no-chat",
    default=None,
    help="Ask in the model's chat template, or continue the text as it stands; neither: as the run was trained, and "
    "of other models in their template if they have one.",
)
@click.option("--system", help="What the system says first, in a chat.")
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=64, show_default=True, help="Tokens to add.")
@click.option(
    "--temperature", type=click.FloatRange(min=0), default=0.0, show_default=True, help="0 takes the likeliest token."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Decides what is drawn.")
@click.option("--batch-size", type=click.IntRange(min=1), default=8, show_default=True, help="Prompts at a time.")
@traceback_option
def command(
    run_or_model: str,
    prompt: str | None,
    prompt_file: str | None,
    chat: bool | None,
    system: str | None,
    max_new_tokens: int,
    temperature: float,
    seed: int,
    batch_size: int,
) -> None:
    """Continue a prompt, or answer it, with the model of a run, of a folder, or of a hub id.

    One prompt is answered on the terminal word by word. Those of a file are answered as JSON lines, in their order.
    """
    from hfx.cli.prompts import Asked, prompts_of
    from hfx.errors import ConfigError
    from hfx.quiet import quieten

    if (prompt is None) == (prompt_file is None):
        raise ConfigError("there is no prompt, or there are two; give either '--prompt TEXT' or '--prompt-file FILE'")
    asked = [Asked(prompt)] if prompt is not None else prompts_of(prompt_file or "-")
    source = located(run_or_model)
    wanted = _chats(Path(run_or_model)) if chat is None else chat
    quieten()
    from hfx.cli.generate_impl import Generator

    generator = Generator(source, wanted, system, max_new_tokens, temperature, seed)
    if prompt is not None:
        generator.one(asked[0], live=sys.stdout.isatty())
        return
    for line in generator.many(asked, batch_size):
        click.echo(line)


def _chats(path: Path) -> bool | None:
    """Return whether a run was trained on conversations; None where it is no run."""
    from hfx.layers import plain, read_yaml

    run = path.parent if path.name == "model" else path
    if not (run / "run.yaml").is_file():
        return None
    plugins = plain(read_yaml(run / "run.yaml")).get("plugins") or {}
    names = {name.partition("@")[0] for name in plugins}
    return "chat" in names or ("preference" in names and _prefers_conversations(run))


def _prefers_conversations(run: Path) -> bool:
    """Return whether the pairs that a run was trained on were conversations, as its report on the data says."""
    from hfx.api import REPORT_FILE

    try:
        said = json.loads((run / REPORT_FILE).read_text(encoding="utf-8"))["detected"]["preference"]
        return any(form.startswith("conversations") for form in said)
    except (OSError, ValueError, LookupError, TypeError):
        return False


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
