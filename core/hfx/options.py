"""From words to typed values: the fields of a plugin or of the run, or an error with the path of the key."""

from __future__ import annotations

import types
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from hfx.discovery import canonical
from hfx.errors import ConfigError, nearest
from hfx.layers import Origin, Section, Value, flow, plain
from hfx.redact import hide
from hfx.secret import takes_secrets

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo
    from pydantic_core import ErrorDetails

Model = TypeVar("Model", bound=BaseModel)
_CLEARED = ("none", "null")
_MOST = 200
"""Characters of a value that a message shows."""


def path_of(owner: str, key: str, origin: Origin) -> str:
    """Return how an option is written where it was given: `--lion.lr`, or `config.yaml:3: 'plugins.lion.lr'`."""
    if origin.kind == "flag":
        return f"'{origin.where}'"
    inner = f"{owner}.{key}" if owner else key
    if origin.kind == "yaml" and owner:
        inner = f"plugins.{inner}"
    if origin.kind in ("policy", "locked"):
        inner = inner if owner else f"run.{inner}"
    return f"{origin.where}: '{inner}'" if origin.kind in ("yaml", "policy", "locked") else f"'{inner}'"


def members(annotation: Any) -> Iterator[Any]:
    """Yield the alternatives of a type, `Annotated` and unions unwrapped."""
    origin = get_origin(annotation)
    if hasattr(annotation, "__value__"):
        yield from members(annotation.__value__)
    elif origin is Annotated:
        yield from members(get_args(annotation)[0])
    elif origin in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from members(member)
    else:
        yield annotation


def from_text(text: str, annotation: Any, typed: bool = True) -> Any:
    """Return what the words mean to a field of this type, before pydantic validates it.

    `none` and `null` clear an optional field; lists and mappings are written as YAML flow (`[1, 2]`); typed lists
    need no brackets. Words of a file
    (`typed=False`) stay words where the field takes words: YAML has its own null and lists.

    Raises:
        ValueError: the text of a list or mapping is not YAML.
    """
    kinds = list(members(annotation))
    if not typed and str in kinds:
        return text
    literals = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    if text not in literals and (meant := [word for word in literals if _written(word) == text.lower()]):
        return meant[0]
    if text.lower() in _CLEARED and type(None) in kinds and text not in literals:
        return None
    flows = {"{" if issubclass(kind, Mapping | BaseModel) else "[" for kind in map(_class, kinds) if _holds(kind)}
    if flows and (str not in kinds or text.lstrip()[:1] in flows):
        # One word, or several with commas, are a list where nothing else can be meant.
        listed = typed and flows == {"["} and text.lstrip()[:1] != "["
        try:
            return flow(f"[{text}]" if listed else text)
        except yaml.YAMLError as error:
            if listed and any(get_args(kind) == (str,) for kind in kinds):
                return [word.strip() for word in text.split(",")]  # patterns, as `*.mlp`
            raise ValueError("it should be YAML, like [1, 2] or {a: 1}") from error
    return text


def _written(literal: Any) -> str | None:
    """Return how a literal that is no word (1, true) is written; pydantic takes no words for it."""
    return str(literal).lower() if isinstance(literal, int) else None


def _class(kind: Any) -> type:
    plain_type = get_origin(kind) or kind
    return plain_type if isinstance(plain_type, type) else object


def _holds(kind: type) -> bool:
    return issubclass(kind, Collection | BaseModel) and not issubclass(kind, str | bytes)


def merge(layers: Iterable[Mapping[str, Value | Section]]) -> dict[str, Value]:
    """Return the values of all layers by field, a later layer's first choice over an earlier one's."""
    merged: dict[str, Value] = {}
    for layer in layers:
        for key, value in layer.items():
            merged[canonical(key)] = value if isinstance(value, Value) else Value(plain(value), value.origin)
    return merged


def check_keys(
    model: type[BaseModel], values: Mapping[str, Value], owner: str, elsewhere: Callable[[str], str]
) -> None:
    """Refuse a key that is no field of the model, with the nearest one, or with `elsewhere`: who else has such a key.

    Raises:
        ConfigError: names the key with its path.
    """
    for key, value in values.items():
        if key in model.model_fields:
            continue
        path = path_of(owner, key, value.origin)
        what = f"no option of plugin '{owner}'" if owner else "no field of the run"
        prefix = f"--{owner}." if owner and value.origin.kind == "flag" else ""
        near = nearest(key, model.model_fields, prefix)
        hint = near or elsewhere(key) if owner else elsewhere(key) or near
        known = ", ".join(model.model_fields) or "none"
        raise ConfigError(f"{path} is {what};{hint or f' it has: {known}'}")


def build(model: type[Model], values: Mapping[str, Value], owner: str = "") -> Model:
    """Return the model with these values; strings are read by the type of their field.

    Raises:
        ConfigError: names the first value that does not fit, with its path.
    """
    fitted = {key: ready(model, key, value, owner) for key, value in values.items()}
    try:
        return model.model_validate(fitted)
    except ValidationError as error:
        raise _explained(error, model, values, owner) from error


def ready(model: type[BaseModel], key: str, value: Value, owner: str) -> Any:
    """Return a value as pydantic is to see it: words are read by the type of their field.

    Raises:
        ConfigError: the words cannot be read, or true stands for a number.
    """
    info = model.model_fields[key]
    annotation = info.annotation
    if isinstance(value.value, str) and value.origin.kind != "python":
        try:
            return from_text(value.value, annotation, typed=value.origin.kind == "flag")
        except ValueError as error:
            raise ConfigError(f"{path_of(owner, key, value.origin)} is {shown(info, value)}; {error}") from error
    kinds = list(members(annotation))
    if isinstance(value.value, PurePath) and str in kinds and Path not in kinds:
        return str(value.value)
    if isinstance(value.value, bool) and (int in kinds or float in kinds) and bool not in kinds:
        # pydantic takes true for 1.
        raise ConfigError(f"{path_of(owner, key, value.origin)} is {value.value}; it should be a number")
    return value.value


def shown(info: FieldInfo, value: Value) -> str:
    """Return a value as a message may show it: not where the option takes a secret, which may be given by itself."""
    if not takes_secrets((info.annotation, *info.metadata)):
        text = repr(value.value)
        return text if len(text) <= _MOST else f"{text[:_MOST]}..."
    if isinstance(value.value, str | int | float) and not str(value.value).startswith("env:"):
        hide(str(value.value))
    return "not right"


def _explained(error: ValidationError, model: type[BaseModel], values: Mapping[str, Value], owner: str) -> ConfigError:
    details = error.errors(include_url=False)
    first = details[0]["loc"][:1]
    same = [detail for detail in details if detail["loc"][:1] == first]
    reasons = " or ".join(dict.fromkeys(map(_reason, same)))
    subject = f"plugin '{owner}'" if owner else "the run"
    if not first:
        return ConfigError(f"{subject}: {reasons}")
    key = str(first[0])
    if same[0]["type"] == "missing" or key not in values:
        flag = f"--{owner}.{key}" if owner else f"--{key}"
        return ConfigError(f"{subject} needs the option '{key}'; add `{flag} VALUE`")
    value = values[key]
    text = shown(model.model_fields[key], value)
    text = "not right" if same[0]["type"] == "value_error" else text
    others = len({detail["loc"][:1] for detail in details}) - 1
    more = f" (and {others} more wrong)" if others else ""
    return ConfigError(f"{path_of(owner, key, value.origin)} is {text}; {reasons}{more}")


def _reason(detail: ErrorDetails) -> str:
    # The text of a `value_error` is the author's own; it may be about a secret, so its input is never shown.
    message = detail["msg"].removeprefix("Value error, ").replace("Input should be", "it should be")
    if detail["type"] == "string_type":
        return "it should be text: put it in quotes"
    return message[:1].lower() + message[1:]
