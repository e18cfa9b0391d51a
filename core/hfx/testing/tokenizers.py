"""What is asked of a tokenizer."""

from __future__ import annotations

import pickle
from typing import TYPE_CHECKING

from hfx.prepare import tokenizer_fingerprint
from hfx.testing.bench import Bench
from hfx.testing.tiny import SENTENCE, tiny_rows, without_bars

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TEXTS = [SENTENCE, *(row["text"] for row in tiny_rows(8))]
"""Plain lower-case ASCII, single spaces: what every tokenizer can give back."""


def _ids(tokenizer: PreTrainedTokenizerBase) -> list[list[int]]:
    return [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS]


def the_same_text_has_the_same_ids(bench: Bench) -> None:
    """Also in a run of its own, whatever was encoded before."""
    with bench.run() as run, bench.run() as other:
        first = _ids(run.tokenizer)
        assert _ids(run.tokenizer) == first, "the same texts have other ids when encoded again"
        assert _ids(other.tokenizer) == first, "a tokenizer made a second time has other ids for the same texts"
        same = tokenizer_fingerprint(run.tokenizer) == tokenizer_fingerprint(other.tokenizer)
        assert same, "a tokenizer made a second time is another one to the cache of prepared data"


def plain_text_comes_back_from_its_ids(bench: Bench) -> None:
    """Nothing of plain ASCII text is lost."""
    with bench.run() as run:
        for text, ids in zip(TEXTS, _ids(run.tokenizer), strict=True):
            back = run.tokenizer.decode(ids).strip()
            assert back == text, f"'{text[:40]}' comes back as '{back[:40]}'"


def it_has_tokens_to_pad_with_and_to_end_with(bench: Bench) -> None:
    """Batches are padded, and rows end."""
    with bench.run() as run:
        for name in ("pad_token_id", "eos_token_id"):
            found = getattr(run.tokenizer, name)
            assert found is not None, f"the tokenizer has no '{name}'"
            assert 0 <= found < len(run.tokenizer), f"'{name}' {found} is not among its {len(run.tokenizer)} tokens"


def ids_are_below_its_length(bench: Bench) -> None:
    """A model has as many embeddings as the tokenizer is long."""
    with bench.run() as run:
        ids = [number for one in _ids(run.tokenizer) for number in one]
        assert ids, "plain text has no ids"
        assert 0 <= min(ids) <= max(ids) < len(run.tokenizer), f"id {max(ids)} of {len(run.tokenizer)} tokens"
        assert max(run.tokenizer.get_vocab().values()) < len(run.tokenizer), "its vocabulary has ids above its length"


def it_can_be_saved_and_loaded(bench: Bench) -> None:
    """A trained model's folder holds it; with `num_proc` it is sent to other processes."""
    from transformers import AutoTokenizer

    with bench.run() as run:
        folder = bench.fresh("tokenizer")
        with without_bars():
            run.tokenizer.save_pretrained(folder)
            loaded = AutoTokenizer.from_pretrained(folder)
        sent = pickle.loads(pickle.dumps(run.tokenizer))  # noqa: S301 - our own bytes
        for name, other in (("saved and loaded", loaded), ("pickled", sent)):
            assert _ids(other) == _ids(run.tokenizer), f"the tokenizer has other ids once {name}"
            assert other.eos_token_id == run.tokenizer.eos_token_id, f"the end token is another one once {name}"


TOKENIZER = (
    the_same_text_has_the_same_ids,
    plain_text_comes_back_from_its_ids,
    it_has_tokens_to_pad_with_and_to_end_with,
    ids_are_below_its_length,
    it_can_be_saved_and_loaded,
)
