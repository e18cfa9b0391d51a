"""Secrets of plugins' options: named by `env:NAME`, read when they are needed, and never written anywhere."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, SecretBytes, SecretStr
from pydantic_core import to_jsonable_python

from hfx import redact

PREFIX = "env:"
WANTED = "a secret is given as 'env:NAME'; put its value into that environment variable"
_PASSWORD = re.compile(r"[a-zA-Z][\w+.-]*://[^/?#\s:@]*:[^/?#\s@]+@")


def reveal(secret: str) -> str:
    """Return the value behind `env:NAME`; from then on nothing that hfx says or writes holds it.

    Raises:
        ConfigError: the environment variable is not set.
    """
    from hfx.errors import ConfigError

    name = secret.removeprefix(PREFIX)
    if name not in os.environ:
        raise ConfigError(f"the environment variable '{name}' is not set; an option refers to it as 'env:{name}'")
    redact.hide(os.environ[name], f"{PREFIX}{name}")
    return os.environ[name]


def _reference(value: str) -> str:
    if not value.startswith(PREFIX) or len(value) == len(PREFIX):
        redact.hide(value)
        raise ValueError(WANTED)
    return value


_NAMED = AfterValidator(_reference)
Secret = Annotated[str, _NAMED]
"""An option of this type holds `env:NAME`; `reveal` reads the value when it is needed, so no file ever has it."""


class NamedSecret(SecretStr):
    """What an option of pydantic's type `SecretStr` holds: the name of a variable, read when its value is asked for."""

    def get_secret_value(self) -> str:
        """Return the value of the environment variable.

        Raises:
            ConfigError: it is not set.
        """
        return reveal(self._secret_value)

    def __len__(self) -> int:
        return len(self.get_secret_value())

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NamedSecret) and self._secret_value == other._secret_value

    def __hash__(self) -> int:
        return hash(self._secret_value)

    def _display(self) -> str:
        return self._secret_value


def guarded(value: Any) -> Any:
    """Return an option's value with its secrets named, not held; whatever it names stays out of all that hfx says.

    Raises:
        ValueError: a secret is given by itself, or an address has a password in it.
    """
    if isinstance(value, str):
        return _of_text(value)
    if isinstance(value, SecretStr):
        return value if isinstance(value, NamedSecret) else NamedSecret(_reference(value.get_secret_value()))
    if isinstance(value, SecretBytes):
        raise ValueError(f"{WANTED}, and let the option be of the type 'SecretStr'")
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(guarded(item) for item in value)
    if type(value) is dict:
        return {key: guarded(item) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return _of_model(value)
    return value


def _of_text(text: str) -> str:
    if text.startswith(PREFIX) and text.removeprefix(PREFIX) in os.environ:
        redact.hide(os.environ[text.removeprefix(PREFIX)], text)
    refuse_password(text)
    return text


def _of_model(model: BaseModel) -> BaseModel:
    held = {name: getattr(model, name) for name in type(model).model_fields}
    changed = {name: new for name, value in held.items() if (new := guarded(value)) is not value and new != value}
    return model.model_copy(update=changed) if changed else model


def refuse_password(text: str) -> str:
    """Return a text that is no address with a password in it.

    Raises:
        ValueError: it is one.
    """
    if _PASSWORD.match(text):
        raise ValueError(
            "there is a password in it; put that into an environment variable, and give 'env:NAME' to the option that "
            "takes passwords or headers"
        )
    return text


def written(model: BaseModel) -> dict[str, Any]:
    """Return a model's fields as JSON values, each secret as `env:NAME`."""
    held = {name for name in type(model).model_fields if any(_secrets(getattr(model, name)))}
    found: dict[str, Any] = model.model_dump(mode="json", exclude=held)
    if not held:
        return found
    # In Python's mode secrets stay objects; in JSON's, pydantic would read them to write stars.
    found |= {name: to_jsonable_python(_shown(value)) for name, value in model.model_dump(include=held).items()}
    return {name: found[name] for name in type(model).model_fields}


def _shown(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return str(value)
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_shown(item) for item in value]
    return value


def _secrets(value: Any) -> Iterator[SecretStr]:
    if isinstance(value, SecretStr):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _secrets(item)
    elif isinstance(value, list | tuple | set | frozenset):
        for item in value:
            yield from _secrets(item)
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))


def takes_secrets(annotation: Any) -> bool:
    """Say whether a field of this type holds a secret, whose value no message may show."""
    if isinstance(annotation, tuple):
        return any(map(takes_secrets, annotation))
    if annotation is _NAMED or (isinstance(annotation, type) and issubclass(annotation, SecretStr | SecretBytes)):
        return True
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return any(takes_secrets(inner.annotation) for inner in annotation.model_fields.values())
    return any(map(takes_secrets, [*get_args(annotation), *getattr(annotation, "__metadata__", ())]))
