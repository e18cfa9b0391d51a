"""Conversations as token ids, of which the answers carry loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import ConfigError, ModelError
from hfx_plugins.tasks.chat_template_impl import Template, Written, refused
from hfx_plugins.tasks.conversation_impl import Columns, conversation_of
from hfx_plugins.tasks.generated_scores_impl import ALL_LEARNED, Scored, Scoring, last_answer, scoring_of
from hfx_plugins.tasks.next_token_impl import IGNORED, NextToken
from hfx_plugins.tasks.text_impl import encode_all
from hfx_plugins.tasks.writer_impl import Writer

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics
    from hfx.protocols import Batch, Values


@dataclass
class ChatTask(NextToken):
    """Rows as token ids, and where among them answers begin and end."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    columns_of: Columns
    train_on: str = "assistant"
    overflow: str = "truncate"
    scoring: Scoring | None = None
    version: Any = 2
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {"input_ids": ColumnType("list<int32>"), "learned": ColumnType("list<int32>")}
    )

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is read and written; the tokenizer's own template is its part."""
        return {
            "seq_length": self.seq_length,
            "columns": vars(self.columns_of),
            "template": self.tokenizer.chat_template,
            "train_on": self.train_on,
            "overflow": self.overflow,
        }

    def fitted(self, facts: Values) -> ChatTask:
        """Return this task."""
        return self

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row's conversation as one example."""
        return self.examples_of([row])[0]

    def examples_of(self, rows: list[Row]) -> list[list[Example] | Drop]:
        """Return each row's conversation as one example, tokenized together."""
        template = Template(self.tokenizer)
        written = [self._written(template, row) for row in rows]
        texts = [text for found in written if isinstance(found, Written) for text, _ in found.pieces()]
        ids = encode_all(self.tokenizer, texts)
        decoded = iter(zip(ids, self._decoded(ids), strict=True))
        wholes = self._wholes(written, ids)
        outcomes: list[list[Example] | Drop] = []
        for found in written:
            if isinstance(found, Drop):
                outcomes.append(found)
                continue
            parts = [(*next(decoded), text, learned) for text, learned in found.pieces()]
            meant = [self._normalized(text) for _, _, text, _ in parts]
            exact = next(wholes) == "".join(meant) and [said for _, said, _, _ in parts] == meant
            cut = [(part, learned) for part, _, _, learned in parts] if exact else self._by_offsets(found)
            outcomes.append(cut if isinstance(cut, Drop) else self._example(cut))
        return outcomes

    def _written(self, template: Template, row: Row) -> Written | Drop:
        from jinja2.exceptions import TemplateError

        format_, found = conversation_of(row, self.columns_of)
        if isinstance(found, Drop):
            return found
        row.marks["chat"] = format_
        if template.says_control(found):
            return Drop("special_token_in_text")
        try:
            written = template.written(found, self.train_on, str(row.place))
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            return refused(error)
        if self.train_on != "all" and not template.writes_all(found, written):
            return Drop("answer_not_written")
        return written

    def _wholes(self, written: list[Written | Drop], ids: list[list[int]]) -> Iterator[str]:
        """Return what the pieces of each text say together.

        Some tokenizers put a space before every text, and decoding one takes it away: only together they show it.
        """
        pieces = iter(ids)
        texts = [[next(pieces) for _ in found.pieces()] for found in written if isinstance(found, Written)]
        return iter(self._decoded([list(chain.from_iterable(parts)) for parts in texts]))

    def _decoded(self, ids: list[list[int]]) -> list[str]:
        said: list[str] = self.tokenizer.batch_decode(
            ids, skip_special_tokens=False, clean_up_tokenization_spaces=False
        )
        return said

    def _normalized(self, text: str) -> str:
        """Return a text as the tokenizer reads it, which may write its characters otherwise."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        return text if backend is None or backend.normalizer is None else backend.normalizer.normalize_str(text)

    def _by_offsets(self, written: Written) -> list[tuple[list[int], bool]] | Drop:
        """Return the tokens of the whole text, where those of its pieces say something else.

        So it is where a tokenizer puts a space before every text.
        """
        whole = self.tokenizer(written.text, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        answers = iter(written.answers)
        start, stop = next(answers, (len(written.text), len(written.text)))
        parts: list[tuple[list[int], bool]] = []
        for token, (begin, end) in zip(whole["input_ids"], whole["offset_mapping"], strict=True):
            while begin >= stop and stop < len(written.text):
                start, stop = next(answers, (len(written.text), len(written.text)))
            learned = begin >= start and end <= stop
            if not learned and end > start and begin < stop:
                return Drop("answer_shares_a_token")
            if not parts or parts[-1][1] != learned:
                parts.append(([], learned))
            parts[-1][0].append(token)
        said = self._decoded([ids for ids, learned in parts if learned])
        meant = [written.text[start:stop] for start, stop in written.answers]
        if [text.strip() for text in said] != [self._normalized(text).strip() for text in meant]:
            return Drop("answer_not_decoded")
        return parts

    def _example(self, parts: list[tuple[list[int], bool]]) -> list[Example] | Drop:
        ids: list[int] = []
        learned: list[tuple[int, int]] = []
        for part, is_learned in parts:
            if is_learned:
                learned.append((len(ids), len(ids) + len(part)))
            ids += part
        cut = len(ids) > self.seq_length
        if cut and self.overflow == "drop":
            return Drop("too_long")
        if cut and self.train_on == "all":
            learned = [(0, self.seq_length)]
        whole = [(start, stop) for start, stop in learned if stop <= self.seq_length]
        units = sum(stop - max(1, start) for start, stop in whole)
        if units <= 0:
            return Drop("answer_cut_away" if cut else "no_label_left")
        end = whole[-1][1]  # behind it nothing is learned
        return [Example({"input_ids": ids[:end], "learned": [at for pair in whole for at in pair]}, end, units, cut)]

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and labels: those of the answers.

        The first position never has one, so that in a packed sequence no row is predicted from its neighbour.
        """
        labels = np.full(len(values["input_ids"]), IGNORED, dtype=np.int64)
        for start, stop in np.reshape(values["learned"], (-1, 2)):
            labels[start:stop] = values["input_ids"][start:stop]
        labels[:1] = IGNORED
        return {"input_ids": values["input_ids"], "labels": labels}

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the cross entropy over the answers; in an evaluation answers are written and scored."""
        if not isinstance(metrics, Scored):
            return super().loss(model, batch, metrics)
        asked, meant = zip(*map(last_answer, batch["input_ids"], batch["labels"]), strict=True)
        # What its tokens say is the answer: a row of which they do not is no example.
        texts = self.tokenizer.batch_decode([ids.tolist() for ids in meant], skip_special_tokens=True)
        metrics.update(metrics.writer.go_on(model, asked), texts)
        return super().loss(model, batch, metrics.counts)

    def metrics(self) -> Metrics:
        """Return the counts of labels, and the sums of scores where there are some, at zero."""
        counts = super().metrics()
        return Scored(counts, self.scoring) if self.scoring else counts


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> ChatTask:
    """Return the task for a tokenizer.

    Raises:
        ModelError: there is no chat template, or none that could be used.
        ConfigError: the file of the template cannot be read, or answers are to be scored that cannot be.
    """
    if file := options["template"]:
        try:
            # The tokenizer's from here on: it is saved with the model, which has to be asked in the same way.
            tokenizer.chat_template = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"'chat.template' cannot be read: {error}; name a file with a Jinja template") from error
    if tokenizer.chat_template is None:
        raise ModelError(
            "the tokenizer has no chat template; name a file with one ('--chat.template FILE'), or a model that was "
            "made to chat"
        )
    template = Template(tokenizer)
    template.probe(options["train_on"])
    columns = Columns(**{name: options[name] for name in ("messages", "question", "answer", "system", "tools")})
    if options["scores"] and options["train_on"] == "all":
        raise ConfigError(ALL_LEARNED)
    ends = template.ends() if options["scores"] else ()
    scoring = scoring_of("chat", options, Writer(tokenizer, options["max_new_tokens"], options["num_beams"], ends))
    return ChatTask(tokenizer, seq_length, columns, options["train_on"], options["overflow"], scoring)
