"""How a chat template writes a conversation, and which of it are answers."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hfx import Drop
from hfx.endings import control_tokens
from hfx.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from hfx_plugins.tasks.conversation_impl import Conversation

MARKER = re.compile(r"\{%-?\s*generation\s*-?%\}")


@dataclass(frozen=True)
class Written:
    """A conversation as text, and where in it answers are: `(start, stop)` of each, the end token with it."""

    text: str
    answers: list[tuple[int, int]]

    def pieces(self) -> list[tuple[str, bool]]:
        """Return the text in pieces, and whether each of them is learned."""
        found: list[tuple[str, bool]] = []
        at = 0
        for start, stop in self.answers:
            found += [(self.text[at:start], False), (self.text[start:stop], True)]
            at = stop
        return [piece for piece in (*found, (self.text[at:], False)) if piece[0]]


class Template:
    """A tokenizer's chat template."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer
        self._special = sorted(control_tokens(tokenizer), key=len, reverse=True)
        any_of = "|".join(map(re.escape, self._special)) or r"(?!)"
        self._specials = re.compile(any_of)
        self._tail = re.compile(rf"({any_of})(?:\s|{any_of})*\Z")

    def probe(self, train_on: str) -> None:
        """Write a short conversation.

        Raises:
            ModelError: there is no template, it is no Jinja, or its answers end without a token that says so.
        """
        from jinja2.exceptions import TemplateError

        try:
            written = self._short(train_on)
        except TemplateError as error:
            raise ModelError(
                f"the chat template cannot be used: {error}; give another with '--chat.template'"
            ) from error
        ends = [written.text[start:stop] for start, stop in written.answers]
        if train_on == "all":
            return
        if not ends or not ends[-1].rstrip().endswith(tuple(self._special)):
            raise ModelError(
                "the chat template ends an answer with no special token, so a model would not learn to stop; give one "
                "that does with '--chat.template FILE'"
            )

    def ends(self) -> tuple[int, ...]:
        """Return the token with which an answer ends, of a template that was probed; a text may end with another."""
        written = self._short("last")
        start, stop = written.answers[-1]
        found = self._tail.search(written.text[start:stop])
        return () if found is None else (int(self._tokenizer.convert_tokens_to_ids(found[1])),)

    def _short(self, train_on: str) -> Written:
        from hfx_plugins.tasks.conversation_impl import Conversation

        messages = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]
        return self.written(Conversation(messages, None, 0), train_on, "a short conversation")

    def written(self, conversation: Conversation, train_on: str, where: str) -> Written:
        """Write a conversation, and find what is learned of it.

        Raises:
            DataError: the template writes the beginning of a conversation otherwise once more follows, so answers
                cannot be told from the rest.
            TemplateError: the template refuses the conversation.
        """
        if train_on == "all":
            text = self._text(conversation, len(conversation.messages))
            return Written(text, [(0, len(text))])
        at = [i for i, message in enumerate(conversation.messages) if message["role"] == "assistant"]
        chosen = at[-1:] if train_on == "last" else [i for i in at if i >= conversation.first]
        if MARKER.search(self._tokenizer.get_chat_template(None, conversation.tools)):
            return self._by_markers(conversation, chosen, len(at), where)
        return self._by_prefixes(conversation, chosen, where)

    def _by_markers(self, conversation: Conversation, chosen: list[int], spoken: int, where: str) -> Written:
        """Find the answers between the template's markers; those of `spoken` messages that are chosen."""
        from transformers.utils.chat_template_utils import render_jinja_template

        texts, spans = render_jinja_template(
            conversations=[conversation.messages],
            tools=conversation.tools,
            chat_template=self._tokenizer.get_chat_template(None, conversation.tools),
            return_assistant_tokens_mask=True,
            **self._tokenizer.special_tokens_map,
        )
        text: str = texts[0]
        marked: list[tuple[int, int]] = []
        for start, stop in spans[0]:
            if marked and not text[marked[-1][1] : start].strip():
                marked[-1] = (marked[-1][0], stop)  # one answer in two pieces
            elif stop > start:
                marked.append((start, stop))
        if len(chosen) == spoken:
            return Written(text, marked)
        if len(marked) != spoken:
            raise DataError(
                f"{where}: the chat template marks {len(marked)} answers where the assistant says {spoken}, so which "
                "of them to learn is not known; mend its generation markers"
            )
        return Written(text, marked[-len(chosen) :])

    def _by_prefixes(self, conversation: Conversation, chosen: list[int], where: str) -> Written:
        text = self._text(conversation, len(conversation.messages))
        answers = []
        for at in chosen:
            whole = self._text(conversation, at + 1)
            before = self._text(conversation, at, asks=True) if at else self._beginning(conversation, whole)
            if before is None or not whole.startswith(before):
                raise DataError(
                    f"{where}: the chat template asks for an answer otherwise than it writes one, so where answers "
                    "begin cannot be told; give one with generation markers ('--chat.template FILE')"
                )
            stop = self._end(text, whole, len(before))
            if stop is None:
                raise DataError(
                    f"{where}: the chat template writes the beginning of a conversation otherwise once more follows, "
                    "so its answers cannot be told from the rest; '--chat.train-on last' may go, or a template with "
                    "generation markers ('--chat.template FILE')"
                )
            answers.append((len(before), stop))
        return Written(text, answers)

    def _beginning(self, conversation: Conversation, whole: str) -> str | None:
        """Return what is written before a first message that is an answer: no template writes no messages.

        Args:
            conversation: The conversation.
            whole: Its first message as it is written.
        """
        asks = self._text(conversation, 1, asks=True).removeprefix(whole)
        at = whole.find(asks)
        return whole[: at + len(asks)] if asks and at >= 0 else None

    def _end(self, text: str, whole: str, start: int) -> int | None:
        """Return where an answer ends: behind the first of the special tokens with which it does.

        Args:
            text: The conversation.
            whole: The same up to the answer. More special tokens may end it, which end a conversation.
            start: Where the answer begins.

        Returns:
            None where the answer is another one in both.
        """
        found = self._tail.search(whole, start)
        stop = found.end(1) if found else len(whole)
        return stop if text.startswith(whole[:stop]) else None

    def _text(self, conversation: Conversation, count: int, asks: bool = False) -> str:
        """Write the first messages, and what asks for an answer."""
        written = self._tokenizer.apply_chat_template(
            conversation.messages[:count],
            tools=conversation.tools,
            add_generation_prompt=asks,
            tokenize=False,
        )
        return str(written)

    def writes_all(self, conversation: Conversation, written: Written) -> bool:
        """Return whether what the assistant says is in what is learned, but for white space."""
        said = [message["content"] for message in conversation.messages if message["role"] == "assistant"]
        pairs = zip(reversed(said), reversed(written.answers), strict=False)
        return all(_plain(text) in _plain(written.text[start:stop]) for text, (start, stop) in pairs)

    def says_control(self, conversation: Conversation) -> bool:
        """Return whether somebody says a special token, which would end or begin somebody's turn."""
        return any(self._specials.search(str(message["content"])) for message in conversation.messages)


def _plain(text: str) -> str:
    return "".join(text.split())


def refused(error: Exception) -> Drop:
    """Return why a conversation is left out that the template does not write."""
    return Drop(f"template: {str(error).strip().splitlines()[0][:80] if str(error).strip() else type(error).__name__}")
