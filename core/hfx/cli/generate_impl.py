"""The part of `hfx generate` that imports torch and transformers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from logging import ERROR, getLogger
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import torch
from jinja2.exceptions import TemplateError
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, TextStreamer
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
from transformers.utils import logging

from hfx.endings import ends_of
from hfx.errors import ConfigError, DataError, HfxError, ModelError
from hfx.openings import opening, room_behind
from hfx.remote_code import RemoteCode, safetensors_only

if TYPE_CHECKING:
    from hfx.cli.prompts import Asked


class Generator:
    """A model that continues texts, or answers in its chat template.

    Raises:
        ModelError: the model or its tokenizer cannot be loaded, or it has no chat template and is to chat.
    """

    def __init__(
        self, source: str, chat: bool | None, system: str | None, max_new_tokens: int, temperature: float, seed: int
    ) -> None:
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        getLogger("huggingface_hub").setLevel(ERROR)
        self._tokenizer, model = _loaded(source)
        template = self._tokenizer.chat_template is not None
        if chat and not template:
            raise ModelError(f"the tokenizer of '{source}' has no chat template; '--no-chat' continues the text")
        self._chat = template if chat is None else chat
        if system is not None and not self._chat:
            raise ConfigError("'--system' is for a chat; add '--chat', or write it into the prompt")
        self._system = system
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = model.to(self._device)
        sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
        pad = self._tokenizer.pad_token_id
        self._most = max_new_tokens
        self._options = sampling | {
            "pad_token_id": self._tokenizer.eos_token_id if pad is None else pad,
            "eos_token_id": ends_of(self._tokenizer, model, self._chat),
        }
        torch.manual_seed(seed)

    def one(self, asked: Asked, live: bool) -> None:
        """Write the continuation of a text behind it, or the answer; `live` as it comes."""
        ids = torch.tensor([self._ids(asked)], device=self._device)
        if live:
            streamer = TextStreamer(self._tokenizer, skip_prompt=self._chat, skip_special_tokens=True)
            self._new(ids, torch.ones_like(ids), streamer=streamer)
            return
        new = self._new(ids, torch.ones_like(ids))[0]
        click.echo(self._said(new if self._chat else torch.cat([ids[0], new])))

    def many(self, asked: Sequence[Asked], batch_size: int) -> Iterator[str]:
        """Yield a JSON line for each prompt, with its `completion`; so many are computed at once."""
        for at in range(0, len(asked), batch_size):
            batch = asked[at : at + batch_size]
            rows = [self._ids(one) for one in batch]
            fits = self._room(max(map(len, rows))) == self._most
            # Where positions end, a row is as long as it would be alone.
            texts = self._batch(rows) if fits else [text for own in rows for text in self._batch([own])]
            for one, text in zip(batch, texts, strict=True):
                yield json.dumps(one.told() | {"completion": text}, ensure_ascii=False)

    def _batch(self, rows: Sequence[list[int]]) -> list[str]:
        """Return what is written behind each of some prompts."""
        longest = max(map(len, rows))
        ids = torch.full((len(rows), longest), int(self._options["pad_token_id"] or 0))
        seen = torch.zeros_like(ids)
        for row, own in enumerate(rows):
            ids[row, longest - len(own) :] = torch.tensor(own)
            seen[row, longest - len(own) :] = 1
        return [self._said(new) for new in self._new(ids.to(self._device), seen.to(self._device))]

    def _new(self, ids: torch.Tensor, seen: torch.Tensor, **more: Any) -> torch.Tensor:
        """Return the tokens behind those given, `(batch, new)`: as many as were asked for and have a position.

        Raises:
            ModelError: there is no position behind them.
        """
        given = ids.shape[1]
        if (most := self._room(given)) < 1:
            raise ModelError(f"the prompt has {given:,} tokens, and the model no position behind them; shorten it")
        output: torch.Tensor = self._model.generate(
            input_ids=ids, attention_mask=seen, max_new_tokens=most, **self._options, **more
        )
        return output[:, given:]

    def _room(self, given: int) -> int:
        return room_behind(self._model, given, self._most)

    def _said(self, ids: torch.Tensor) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))

    def _ids(self, asked: Asked) -> list[int]:
        if not self._chat and asked.messages:
            raise ConfigError("'messages' are for a chat; add '--chat', or give 'prompt'")
        said = asked.conversation(self._system)
        try:
            ids: list[int] = (
                self._tokenizer.apply_chat_template(said, add_generation_prompt=True, return_dict=False)
                if self._chat
                else opening(self._tokenizer, asked.prompt)
            )
        except (TemplateError, KeyError, TypeError, ValueError) as error:
            raise DataError(f"the chat template does not take '{str(said)[:80]}': {error}; mend the prompt") from error
        if not ids or not (asked.prompt or asked.messages):
            raise ModelError("the prompt has no tokens; give some text with '--prompt'")
        return ids


def _loaded(source: str) -> tuple[Any, Any]:
    code = RemoteCode("generate", source)
    closed = code.arguments()
    try:
        adapters = (Path(source) / "adapter_config.json").is_file()  # transformers loads their base, too
        given = {} if adapters else {"config": code.checked(AutoConfig.from_pretrained(source, **closed))}
        architectures = [] if adapters else given["config"].architectures or []
        if architectures and not set(architectures) & set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()):
            raise ModelError(
                f"'{source}' is a {architectures[0]}, and what writes here goes on with a text; name a causal language "
                "model"
            )
        tokenizer = AutoTokenizer.from_pretrained(source, **closed)
        with safetensors_only(source):
            model = AutoModelForCausalLM.from_pretrained(source, use_safetensors=True, **given, **closed)
    except (HfxError, MemoryError):
        raise
    except Exception as error:  # transformers raises whatever its parsers raise
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"cannot load a causal language model and its tokenizer from '{source}': {cause}; "
            "name a run, a folder that holds a model, or a hub id"
        ) from error
    return tokenizer, model.eval()
