"""The values of a run and of its plugins, layer over layer, with what the policy locks on top."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from hfx.config import RunConfig
from hfx.errors import ConfigError
from hfx.layers import DEFAULT, Origin, Section, Value, plain
from hfx.options import build, check_keys, merge, path_of, ready, shown
from hfx.plugin import Plugin

Model = TypeVar("Model", bound=BaseModel)
LENGTHS = ("steps", "epochs", "tokens")
_SPOKEN = ("yaml", "flag", "python")


@dataclass(frozen=True)
class Settled(Generic[Model]):
    """A model built from all layers, and the origin of each of its fields."""

    model: Model
    origins: dict[str, Origin]


def settle(
    model: type[Model],
    layers: Sequence[Mapping[str, Value | Section]],
    locked: Mapping[str, Value | Section],
    owner: str,
    elsewhere: Callable[[str], str],
) -> Settled[Model]:
    """Build the model from its layers, the weakest first, then what is locked.

    Raises:
        ConfigError: a key or value is wrong, or overrides a locked one.
    """
    locks = merge([locked])
    for layer in (*layers, locks):
        check_keys(model, merge([layer]), owner, elsewhere)
    values = merge(layers)
    for key, lock in locks.items():
        lock = Value(lock.value, Origin("locked", lock.origin.where))
        _check_lock(model, key, values.get(key), lock, owner)
        values[key] = lock
    origins = {key: values[key].origin if key in values else DEFAULT for key in model.model_fields}
    return Settled(build(model, values, owner), origins)


def _check_lock(model: type[BaseModel], key: str, value: Value | None, lock: Value, owner: str) -> None:
    if value is None or value.origin.kind not in _SPOKEN:
        return
    if _read(model, key, value, owner) != _read(model, key, lock, owner):
        raise ConfigError(
            f"{path_of(owner, key, value.origin)} is {shown(model.model_fields[key], value)}, but the policy "
            f"{lock.origin.where} locks it to {lock.value!r}; remove it"
        )


def _read(model: type[BaseModel], key: str, value: Value, owner: str) -> Any:
    info = model.model_fields[key]
    bare = ready(model, key, value, owner)
    kind: Any = info.annotation
    for constraint in info.metadata:
        kind = Annotated[kind, constraint]
    adapter: TypeAdapter[Any] = TypeAdapter(kind)
    try:
        return adapter.validate_python(bare)
    except ValidationError:
        # Not a value of this type at all: different from any that is.
        return value


def run_values(
    layers: Sequence[Section], locked: Section, notes: list[str], elsewhere: Callable[[str], str]
) -> Settled[RunConfig]:
    """Return the config of the run; a length (`steps`, `epochs`, `tokens`) replaces another layer's other length."""
    kept: list[dict[str, Value | Section]] = []
    for layer in layers:
        lengths = [key for key in LENGTHS if key in layer and plain(layer[key]) is not None]
        if lengths:
            kept = [_without_lengths(earlier, lengths[0], layer[lengths[0]], notes) for earlier in kept]
        kept.append(dict(layer))
    _check_length_lock(kept, locked)
    if any(key in locked for key in LENGTHS):
        kept = [{key: value for key, value in layer.items() if key not in LENGTHS or key in locked} for layer in kept]
    return settle(RunConfig, kept, locked, "", elsewhere)


def _without_lengths(
    layer: dict[str, Value | Section], length: str, by: Value | Section, notes: list[str]
) -> dict[str, Value | Section]:
    gone = [key for key in LENGTHS if key in layer and key != length and plain(layer[key]) is not None]
    notes += [f"'{length}' of {by.origin} replaces '{key}' of {layer[key].origin}" for key in gone]
    return {key: value for key, value in layer.items() if key not in gone}


def _check_length_lock(layers: Sequence[Mapping[str, Value | Section]], locked: Section) -> None:
    lock = next((key for key in LENGTHS if key in locked), None)
    values = merge(layers)
    for key in LENGTHS:
        spoken = key in values and values[key].origin.kind in _SPOKEN and values[key].value is not None
        if lock and spoken and key not in locked:
            raise ConfigError(
                f"{path_of('', key, values[key].origin)} sets the length of the run, but the policy "
                f"{locked[lock].origin} locks '{lock}'; remove it"
            )


def plugin_values(
    given: Plugin | None,
    plugin_class: type[Plugin],
    layers: Sequence[Section],
    locked: Section,
    owner: str,
    elsewhere: Callable[[str], str],
) -> Settled[Plugin]:
    """Return the plugin with its options; an object that Python code gave stays itself where nothing is added to it."""
    settled = settle(plugin_class, layers, locked, owner, elsewhere)
    if given is None:
        return Settled(settled.model, settled.origins)
    changed = {
        key: value
        for key in plugin_class.model_fields
        if (value := getattr(settled.model, key)) != getattr(given, key) and settled.origins[key].kind != "default"
    }
    # A copy keeps private attributes, which an object holding a data set in memory may have.
    return Settled(given.model_copy(update=changed) if changed else given, settled.origins)
