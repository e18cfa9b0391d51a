"""Options as the command line tells them: a field's type, default, choices and description."""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_BOUNDS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}


def type_name(annotation: Any) -> str:
    """Return a type as one reads it: `float`, `int > 0 or none`, `linear|cosine`."""
    if annotation is type(None) or annotation is None:
        return "none"
    if annotation is Path:
        return "path"
    origin = get_origin(annotation)
    if origin is Literal:
        return "|".join(str(value) for value in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(type_name(member) for member in get_args(annotation)))
    if hasattr(annotation, "__metadata__"):
        return _bounded(type_name(get_args(annotation)[0]), annotation.__metadata__)
    if origin is dict or annotation is dict:
        return "mapping"
    if origin is not None:
        inner = ", ".join(type_name(member) for member in get_args(annotation) if member is not Ellipsis)
        return f"{origin.__name__}[{inner}]"
    return getattr(annotation, "__name__", str(annotation))


def field_type(field: FieldInfo) -> str:
    """Return a field's type with its bounds: `float > 0`."""
    return _bounded(type_name(field.annotation), field.metadata)


def _bounded(name: str, constraints: Sequence[Any]) -> str:
    bounds = [
        f"{sign} {getattr(constraint, key)}"
        for constraint in constraints
        for key, sign in _BOUNDS.items()
        if getattr(constraint, key, None) is not None
    ]
    value, none, _ = name.partition(" or none")
    return f"{value} {', '.join(bounds)}{none}" if bounds else name


def field_default(field: FieldInfo) -> str:
    """Return a field's default as one would type it, or `required`."""
    value = field.get_default(call_default_factory=True, validated_data={})
    return "required" if value is PydanticUndefined else as_typed(value)


def as_typed(value: Any) -> str:
    """Return a value as one would type it: `none`, `true`, `1e-4`, a YAML flow for lists and mappings."""
    if value is None:
        return "none"
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json")
    if isinstance(value, bool | list | tuple | dict):
        return json.dumps(value, default=str)
    return str(value)


def choices(annotation: Any) -> Iterator[str]:
    """Yield what can be typed for a type that has few values."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from (str(value) for value in get_args(annotation))
    elif annotation is type(None):
        yield "none"
    elif get_origin(annotation) in (Union, types.UnionType):
        for member in get_args(annotation):
            yield from choices(member)


def description(field: FieldInfo) -> str:
    """Return the field's docstring as one line."""
    return " ".join((field.description or "").split())
