"""That all ranks are about to do the same: what each resolved is compared before anything is prepared."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hfx.collective import first_line
from hfx.errors import CollectiveError

if TYPE_CHECKING:
    from hfx.run import Run


def agree(run: Run) -> None:
    """Compare what this rank resolved with rank 0, through the store where the ranks meet.

    Raises:
        CollectiveError: it resolved another run, or the ranks did not find each other.
    """
    import torch.distributed as dist

    from hfx.distributed import PATIENCE

    world, own = run.world, _text(run)
    try:
        store = run.store
        if world.is_main:
            store.set("resolved", own)
        first = store.get("resolved").decode()
        if own != first:
            store.set("differs", f"rank {world.rank} resolved another run than rank 0: {_difference(first, own)}")
        # All end alike, and rank 0, which may hold the store, is there until all have read.
        if store.add("read", 1) == world.size:
            store.set("all", "read")
        store.wait(["all"], PATIENCE)
        differs = store.get("differs").decode() if store.check(["differs"]) else None
        if store.add("left", 1) == world.size:
            store.set("none", "left")
        if world.is_main:
            store.wait(["none"], PATIENCE)
    except dist.DistError as error:
        raise CollectiveError(
            f"rank {world.rank} waited for {world.size} ranks to start, and they did not ({first_line(error)}); "
            "start all of them with one launcher"
        ) from error
    if differs:
        raise CollectiveError(f"{differs}; start all ranks with the same words, packages and policy")


def told_by_first(run: Run, name: str, value: int | None) -> int | None:
    """Return what rank 0 says under a name, through the store where the ranks meet; all ranks ask once.

    Raises:
        CollectiveError: it does not say it in time, or is gone.
    """
    import torch.distributed as dist

    from hfx.distributed import PATIENCE

    try:
        if run.world.is_main:
            run.store.set(name, json.dumps(value))
        run.store.wait([name], PATIENCE)
        found: int | None = json.loads(run.store.get(name))
        return found
    except dist.DistError as error:
        raise CollectiveError(
            f"rank {run.world.rank} waited for rank 0 in vain ({first_line(error)}); what rank 0 says is the reason"
        ) from error


def _text(run: Run) -> str:
    from hfx.written import to_yaml

    versions = [f"{active}\n" for active in run.active]
    # Whoever starts later says `resume: auto`, and the ranks go on from the same checkpoint anyway.
    lines = [line for line in to_yaml(run.resolved).splitlines(keepends=True) if not line.startswith("resume:")]
    return "".join([*versions, *lines, f"output: {run.output}\n"])


def _difference(first: str, own: str) -> str:
    theirs, ours = first.splitlines(), own.splitlines()
    for index in range(max(len(theirs), len(ours))):
        pair = [lines[index].strip() if index < len(lines) else "nothing" for lines in (theirs, ours)]
        if pair[0] != pair[1]:
            return f"'{pair[1]}' in place of '{pair[0]}'"
    return "in spaces"
