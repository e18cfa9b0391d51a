"""Texts that a model in training writes, one prompt after the other."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jinja2.exceptions import TemplateError

from hfx import redacted
from hfx.endings import ends_of
from hfx.errors import ConfigError
from hfx.openings import opening, room_behind

if TYPE_CHECKING:
    from hfx import Run
    from hfx_plugins.tracking.samples import Samples

SHOWN = 300
"""Characters of a text that are printed."""


def check(run: Run, options: Samples) -> None:
    """Refuse prompts that the model cannot go on with, before it is trained.

    Raises:
        ConfigError: one has no tokens or no position behind it, or the chat template does not take it.
    """
    for prompt in options.prompts:
        ids = _ids(run, prompt)
        if _room(run, ids, options) < 1:
            raise ConfigError(
                f"'{prompt[:40]}' of 'samples.prompts' has {len(ids):,} tokens, and the model no position behind them; "
                "shorten it"
            )


def write(run: Run, options: Samples) -> None:
    """Let the model go on with each prompt, write down what it says and print it."""
    chats = _chats(run)
    for prompt in options.prompts:
        with torch.no_grad(), _evaluating(run), warnings.catch_warnings(action="ignore"):
            text = _text(run, _ids(run, prompt), options, ends_of(run.tokenizer, run.model, chats))
        line = redacted({"step": run.step, "event": "sample", "prompt": prompt, "text": text})
        run.log(line)
        shown = text if len(text) <= SHOWN else text[:SHOWN] + " ..."
        print(f"hfx: sample at step {run.step}: {line['prompt']!r} -> {shown!r}", file=sys.stderr, flush=True)


def _text(run: Run, ids: list[int], options: Samples, ends: list[int] | None) -> str:
    model: Any = run.model
    given = torch.tensor([ids], device=run.device)
    drawn = {"do_sample": True, "temperature": options.temperature} if options.temperature else {"do_sample": False}
    pad, end = run.tokenizer.pad_token_id, run.tokenizer.eos_token_id
    with run.precision.autocast():
        written = model.generate(
            input_ids=given, attention_mask=torch.ones_like(given), max_new_tokens=_room(run, ids, options),
            pad_token_id=end if pad is None else pad, eos_token_id=ends, **drawn,
        )  # fmt: skip
    new = written[0] if model.config.is_encoder_decoder else written[0, len(ids) :]
    return str(run.tokenizer.decode(new, skip_special_tokens=True))


def _room(run: Run, ids: list[int], options: Samples) -> int:
    given = 0 if run.model.config.is_encoder_decoder else len(ids)
    return room_behind(run.model, given, options.max_new_tokens)


def _chats(run: Run) -> bool:
    return run.resolved.roles["task"].plugin == "chat"


def _ids(run: Run, prompt: str) -> list[int]:
    """Return the tokens of a prompt, in a chat those of what a user says.

    Raises:
        ConfigError: it has none, or the chat template does not take it.
    """
    said = [{"role": "user", "content": prompt}]
    tokenizer: Any = run.tokenizer
    try:
        ids: list[int] = (
            tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
            if _chats(run)
            else tokenizer(prompt)["input_ids"]
            if run.model.config.is_encoder_decoder
            else opening(tokenizer, prompt)
        )
    except TemplateError as error:
        raise ConfigError(f"the chat template does not take '{prompt}' of 'samples.prompts': {error}") from error
    if not ids:
        raise ConfigError(f"'{prompt}' of 'samples.prompts' has no tokens; give some text")
    return ids


@contextmanager
def _evaluating(run: Run) -> Iterator[None]:
    """Let the model be as in an evaluation, and what it draws depend on seed and step alone."""
    run.module.eval()
    try:
        with torch.random.fork_rng():
            torch.manual_seed(run.config.seed + run.step)
            yield
    finally:
        run.module.train()
