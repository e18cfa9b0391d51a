"""What differs between a checkpoint and the run that goes on from it, what that does, and how to have it as it was."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hfx.errors import ConfigError

if TYPE_CHECKING:
    from hfx.checkpoint import Checkpoint
    from hfx.run import Run

_EXACT = "exact: the same bits"
_LAST_BITS = "the same order of samples; sums may differ in the last bits, dropout is drawn anew"
_OTHERWISE = "change what is trained"
_NO_PART = {"log_every", "save_every", "async_save", "eval_every", "keep", "max_bad_rows"}
_LENGTHS = {"steps", "epochs", "tokens"}
_NEEDED = {"seed", "batch_size", "seq_length", "data", "model"}
_WIDEST = 40
"""Characters of a value that a table shows."""


@dataclass(frozen=True)
class Difference:
    """Something that is not what it was when the checkpoint was saved."""

    what: str
    saved: str
    now: str
    effect: str
    typed: str
    """What to type to have it as it was."""
    refused: bool = False


def differences(run: Run, found: Checkpoint) -> list[Difference]:
    """Return what differs between a checkpoint and this run, and what each difference does."""
    saved, now = found.state["data"]["plan_sha256"], run.plan_sha256()
    result = [*_of_fields(run, found, saved == now), *_of_world(run, found), *_of_plugins(run, found)]
    if saved != now:
        typed = "what decides the order (data, seed, batch, sampler, batcher) as it was"
        effect = "reordered: the position means nothing in another order"
        result.append(Difference("order of samples", saved[:8], now[:8], effect, typed, refused=True))
    return result


def told(run: Run, found: Checkpoint) -> list[str]:
    """Return a table of what differs, a line each; none where nothing does.

    Raises:
        ConfigError: one of them makes going on impossible.
    """
    result = differences(run, found)
    if refused := [difference for difference in result if difference.refused]:
        said = "; ".join(f"{d.what}: saved {_short(d.saved)}, now {_short(d.now)} ({d.effect})" for d in refused)
        words = " ".join(d.typed for d in refused if d.typed.startswith("--"))
        back = f"'{words}' goes on" if words else "set them back"
        raise ConfigError(f"cannot resume '{found.path}': {said}; {back}, or begin anew with another '--output'")
    return table(result)


def table(found: list[Difference]) -> list[str]:
    """Return lines with a column each for what, saved, now, effect, and what to type."""
    if not found:
        return []
    heads = ("", "saved", "now", "effect", "as it was")
    rows = [heads, *((d.what, _short(d.saved), _short(d.now), d.effect, d.typed) for d in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(heads) - 1)]
    cells = [[*(text.ljust(width) for text, width in zip(row, widths, strict=False)), row[-1]] for row in rows]
    return [f"{'' if index else 'differs':10} {'  '.join(row)}".rstrip() for index, row in enumerate(cells)]


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 1]}…"


# ── one by one ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _of_fields(run: Run, found: Checkpoint, same_samples: bool) -> Iterator[Difference]:
    then, now = found.state["run"], run.config.identity()
    for name in now:
        if then.get(name) != now[name]:
            moved = name == "data" and same_samples  # the same rows, which lie elsewhere now
            effect = _EXACT if moved else _effect(name)
            typed = f"--{name.replace('_', '-')} {_typed(then.get(name))}"
            if isinstance(then.get(name), dict):
                typed = f"'{name}' in the config"
            refused = name in _NEEDED and not moved
            effect = f"refused: it would {_OTHERWISE}" if refused else effect
            yield Difference(name, _said(then.get(name)), _said(now[name]), effect, typed, refused)


def _effect(name: str) -> str:
    if name in _NO_PART:
        return _EXACT
    if name == "micro_batch_size":
        return _LAST_BITS
    if name in _LENGTHS:
        return "the schedule follows the new length from here on"
    return "applies from here on" if name == "max_grad_norm" else f"may {_OTHERWISE}"


def _of_world(run: Run, found: Checkpoint) -> Iterator[Difference]:
    saved, now = found.state["world_size"], run.world.size
    if saved != now:
        yield Difference("processes", str(saved), str(now), _LAST_BITS, f"--nproc {saved}")


def _of_plugins(run: Run, found: Checkpoint) -> Iterator[Difference]:
    current: dict[str, list[Any]] = {a.name: [a.distribution, a.version, a.plugin.options()] for a in run.active}
    saved = found.state["plugins"]
    optimizer = run.resolved.roles["optimizer"].plugin
    for name in sorted(saved.keys() | current):
        then, now = saved.get(name), current.get(name)
        what = f"plugin '{name}'"
        if then is None and now is not None:
            other = name == optimizer
            effect = "the checkpoint holds the state of another optimizer" if other else "another plugin takes part"
            typed = f"--plugin {' or '.join(sorted(saved.keys() - current.keys()))}" if other else f"--plugin no:{name}"
            yield Difference(what, "absent", f"{now[0]} {now[1]}", effect, typed, refused=other)
        elif now is None and then is not None:
            yield Difference(what, f"{then[0]} {then[1]}", "absent", "another plugin takes part", f"--plugin {name}")
        elif then is not None and now is not None:
            yield from _of_versions(what, then, now)
            yield from _of_options(name, then[2], now[2], _effect_of(run, name))


def _effect_of(run: Run, name: str) -> str:
    roles = {role for role, provider in run.resolved.roles.items() if provider.plugin == name}
    if roles and roles <= {"launch", "export"}:
        return _EXACT
    return "none: learning rate and groups are the checkpoint's" if "optimizer" in roles else f"may {_OTHERWISE}"


def _of_versions(what: str, then: list[Any], now: list[Any]) -> Iterator[Difference]:
    if then[:2] != now[:2]:
        typed = f"pip install {shlex.quote(f'{then[0]}=={then[1]}')}"
        yield Difference(what, f"{then[0]} {then[1]}", f"{now[0]} {now[1]}", "another version computes", typed)


def _of_options(name: str, then: dict[str, Any], now: dict[str, Any], effect: str) -> Iterator[Difference]:
    for option in [*then, *(key for key in now if key not in then)]:
        if then.get(option) != now.get(option):
            full = f"{name}.{option}"
            typed = f"--{full.replace('_', '-')} {_typed(then.get(option))}"
            yield Difference(full, _said(then.get(option)), _said(now.get(option)), effect, typed)


def _said(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _typed(value: Any) -> str:
    return "none" if value is None else shlex.quote(_said(value))
