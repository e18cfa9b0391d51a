"""The tokens with which a text ends that a model writes."""

from __future__ import annotations

from typing import Any

_SAID = "It is so."


def control_tokens(tokenizer: Any) -> set[str]:
    """Return the tokens that stand for no text: those with a name (`eos_token`), and those added as special ones."""
    added = (token for token in tokenizer.added_tokens_decoder.values() if token.special)
    return {*map(str, tokenizer.all_special_tokens), *map(str, added)}


def ends_of(tokenizer: Any, model: Any, chats: bool) -> list[int] | None:
    """Return the tokens that end a text: those that the model names, the tokenizer's, in a chat that of an answer.

    Args:
        tokenizer: The tokenizer; in a chat it has a template.
        model: The model, with a generation config.
        chats: Whether the text is an answer in the chat template.

    Returns:
        None where nothing ends a text.
    """
    named = model.generation_config.eos_token_id
    ends = {*([named] if isinstance(named, int) else named or []), tokenizer.eos_token_id}
    if chats:
        said = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": _SAID}]
        behind = tokenizer.apply_chat_template(said, tokenize=False).rpartition(_SAID)[2]
        special = set(tokenizer.convert_tokens_to_ids(sorted(control_tokens(tokenizer))))
        # More of them may follow, which end a conversation.
        ids = tokenizer(behind, add_special_tokens=False)["input_ids"]
        ends.add(next((id_ for id_ in ids if id_ in special), None))
    return sorted(ends - {None}) or None
