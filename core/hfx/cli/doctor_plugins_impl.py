"""The policy, and whether the plugins that it permits can be imported."""

from __future__ import annotations

import time
from collections.abc import Iterator

from hfx.cli.doctor_line import Found, raised

_SLOW = 1.0
"""Seconds: every run that names the plugin would wait so long, `--help` included."""


def check_policy() -> Iterator[Found]:
    """Tell which policy is in force."""
    from hfx.policy import load_policy

    policy = load_policy()
    policy.check_required()
    yield "ok", f"in force is '{policy.path}'" if policy.path else "there is none"


def check_plugins() -> Iterator[Found]:
    """Import every plugin that the policy permits, and say which ones cannot be used."""
    from hfx.cli.doctor_worker_impl import doing
    from hfx.discovery import found
    from hfx.errors import ConfigError, HfxError
    from hfx.implementations import check_class
    from hfx.policy import load_policy

    try:
        refs = load_policy().permitted(found())
    except ConfigError:
        yield "warning", "not looked at: the policy cannot be read", "mend the policy, and ask again"
        return
    bad = 0
    for ref in refs:
        doing(f"importing the plugin '{ref}' ({ref.value})")
        began = time.perf_counter()
        try:
            check_class(f"'{ref}'", ref.load())
        except HfxError as error:
            bad += 1
            yield "wrong", *raised(error)
            continue
        if (seconds := time.perf_counter() - began) > _SLOW:
            yield "warning", f"importing '{ref}' takes {seconds:.1f} s", "let it import what is large inside its hooks"
    if not bad:
        packages = sorted({ref.distribution for ref in refs})
        yield "ok", f"{len(refs)} plugins of {', '.join(packages)} can be imported"
