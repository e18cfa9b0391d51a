"""`hfx config from-trainer`: the arguments of a Trainer as a config of hfx."""

from __future__ import annotations

from pathlib import Path

import click

from hfx.cli.command import Command, traceback_option

EPILOG = """
Examples:
  hfx config from-trainer args.json --model gpt2 --data texts.jsonl > config.yaml
  hfx config from-trainer "--learning_rate 1e-5 --per_device_train_batch_size 8 --optim adafactor" --world 4
  # args.json is what `TrainingArguments.to_json_string()` returns
"""


@click.command("from-trainer", cls=Command, epilog=EPILOG, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", metavar='ARGS.json|"COMMAND LINE"', nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--world", type=click.IntRange(min=1), help="Processes it trained on. [default: 1, or as the words say]")
@click.option("--model", help="The model, which TrainingArguments do not name.")
@click.option("--data", help="The rows to train on, which they do not name either.")
@traceback_option
def command(arguments: tuple[str, ...], world: int | None, model: str | None, data: str | None) -> None:
    """Translate TrainingArguments into a config, and say in comments what differs and what has no counterpart.

    The global batch is per-device batch times processes times accumulation, so it needs '--world' where there were
    several. Pickles (training_args.bin) are never loaded.
    """
    from hfx.cli.from_trainer_impl import doubts, read
    from hfx.cli.from_trainer_map import translated

    given = read(arguments, Path.cwd())
    text = translated(given, world or given.world or 1, asked=bool(world or given.world), model=model, data=data)
    click.echo(text.rstrip())
    for doubt in doubts(text):
        click.echo(f"hfx: warning: {doubt}", err=True)
