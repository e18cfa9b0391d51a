"""From a row to a conversation: which columns hold it, and what is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfx import Drop, Row
from hfx_plugins.tasks.text_impl import require

if TYPE_CHECKING:
    from hfx.protocols import Values

ROLES = {
    "system": "system", "developer": "developer", "user": "user", "human": "user", "assistant": "assistant",
    "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant", "tool": "tool",
    "function": "tool", "observation": "tool", "function_response": "tool",
}  # fmt: skip
"""Names of who speaks, those of ShareGPT among them, and what templates call them."""
PAIRS = (("prompt", "completion"), ("instruction", "output"))
"""Columns of one question and its answer."""


@dataclass(frozen=True)
class Columns:
    """The options that say where a conversation is."""

    messages: str | None = None
    question: str | None = None
    answer: str | None = None
    system: str | None = None
    tools: str = "tools"


@dataclass(frozen=True)
class Conversation:
    """What a template is given."""

    messages: list[Values]
    tools: list[Any] | None
    first: int
    """The first message that may be learned: what is a prompt is not."""


def conversation_of(row: Row, columns: Columns) -> tuple[str, Conversation | Drop]:
    """Return a phrase on the row's format, and its conversation, or why it has none that could be learned.

    Raises:
        DataError: an option names a column that the row does not have.
    """
    told, found = _found(row, columns)
    if isinstance(found, Drop):
        return told, found
    prompt, completion = found
    messages: list[Values] = []
    for message in (*prompt, *completion):
        read = _message(message)
        if isinstance(read, Drop):
            return told, read
        messages.append(read)
    tools = _tools(row.values.get(columns.tools))
    if isinstance(tools, Drop):
        return told, tools
    return told, _checked(messages, len(prompt), _system(row) or columns.system, tools)


def _found(row: Row, columns: Columns) -> tuple[str, tuple[list[Any], list[Any]] | Drop]:
    """Return what is known of the format, and the messages of prompt and completion."""
    values = row.values
    if columns.question and columns.answer:
        for name, option in ((columns.question, "chat.question"), (columns.answer, "chat.answer")):
            require(row, name, option)
        pair = (columns.question, columns.answer)
        return _pair_told(pair), _pair(values, pair)
    if columns.messages:
        require(row, columns.messages, "chat.messages")
    listed = columns.messages or next(_lists(values, columns.tools), None)
    if listed is not None and not set(PAIRS[0]) <= values.keys():
        return f"messages in '{listed}'", _listed(values[listed])
    for pair in PAIRS:
        if set(pair) <= values.keys():
            return _pair_told(pair), _pair(values, pair)
    empty = [name for name in ("messages", "conversations") if name in values]
    return ("no conversation", Drop("no_messages" if empty else "unknown_columns"))


def _lists(values: Values, tools: str) -> Iterator[str]:
    """Yield the columns that hold a list of messages."""
    for name, value in values.items():
        if name != tools and isinstance(value, list) and value and any(map(_is_message, value)):
            yield name


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & {"role", "from"})


def _listed(value: Any) -> tuple[list[Any], list[Any]] | Drop:
    return ([], value) if isinstance(value, list) and value else Drop("no_messages")


def _pair_told(pair: tuple[str, str]) -> str:
    return f"questions in '{pair[0]}', answers in '{pair[1]}'"


def _pair(values: Values, pair: tuple[str, str]) -> tuple[list[Any], list[Any]] | Drop:
    question, answer = (values[name] for name in pair)
    beside = values.get("input") if pair[0] == "instruction" else None
    if isinstance(beside, str) and beside.strip() and isinstance(question, str):
        question = f"{question}\n\n{beside}"
    prompt = question if isinstance(question, list) else [{"role": "user", "content": question}]
    completion = answer if isinstance(answer, list) else [{"role": "assistant", "content": answer}]
    return (prompt, completion) if completion else Drop("no_answer")


def _system(row: Row) -> str | None:
    """Return what the row's own column says."""
    value = row.values.get("system")
    return value if isinstance(value, str) and value.strip() else None


def _message(message: Any) -> Values | Drop:
    if not isinstance(message, Mapping):
        return Drop("message_of_another_kind")
    role, content = (message.get(name, message.get(other)) for name, other in (("role", "from"), ("content", "value")))
    if role is None:
        return Drop("no_role")
    if not isinstance(role, str) or role.lower() not in ROLES:
        return Drop("unknown_role")
    rest = {
        key: value
        for key, value in message.items()
        if key not in ("role", "from", "content", "value") and value is not None
    }
    if not rest.get("tool_calls"):
        rest.pop("tool_calls", None)
    if isinstance(content, list):
        content = _joined(content)
    if content is None and "tool_calls" in rest:
        content = ""
    if content is None:
        return Drop("null_content")
    if not isinstance(content, str):
        return Drop("content_of_another_kind")
    return {"role": ROLES[role.lower()], "content": content, **_with_arguments(rest)}


def _joined(parts: list[Any]) -> str | list[Any] | None:
    """Return the text of content in parts, all of which have to be text."""
    texts = [part.get("text") if isinstance(part, Mapping) else part for part in parts]
    strings = [text for text in texts if isinstance(text, str)]
    return "".join(strings) if len(strings) == len(parts) else parts


def _with_arguments(rest: Values) -> Values:
    """Return them with the arguments of tool calls as values: OpenAI's are JSON, templates write JSON themselves."""
    calls = rest.get("tool_calls")
    if not isinstance(calls, list):
        return rest
    return rest | {"tool_calls": [_with_values(call) for call in calls]}


def _with_values(call: Any) -> Any:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(function.get("arguments"), str):
        return call
    try:
        arguments = json.loads(function["arguments"])
    except ValueError:
        return call
    read = {**function, "arguments": arguments}
    return {**call, "function": read} if "function" in call else read


def _tools(value: Any) -> list[Any] | Drop | None:
    if isinstance(value, str) and value.strip():
        try:
            value = json.loads(value)
        except ValueError:
            return Drop("tools_are_no_json")
    if not value:
        return None
    return value if isinstance(value, list) else Drop("tools_are_no_list")


def _checked(messages: list[Values], first: int, system: str | None, tools: list[Any] | None) -> Conversation | Drop:
    of_system = [at for at, message in enumerate(messages) if message["role"] in ("system", "developer")]
    if len(of_system) > 1:
        return Drop("two_systems")
    if of_system not in ([], [0]):
        return Drop("system_in_the_middle")
    answers = [message for message in messages[first:] if message["role"] == "assistant"]
    if not answers:
        return Drop("no_answer")
    if any(not message["content"].strip() and "tool_calls" not in message for message in answers):
        return Drop("empty_answer")
    if system is not None and not of_system:
        messages, first = [{"role": "system", "content": system}, *messages], first + 1
    return Conversation(messages, tools, first)
