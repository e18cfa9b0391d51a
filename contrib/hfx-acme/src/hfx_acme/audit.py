"""Acme's audit trail: one line for every run on this machine, however it ends."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from hfx import Plugin, Problem, RunResult, hookimpl

if TYPE_CHECKING:
    from hfx import Run


class Audit(Plugin):
    """Appends a line of JSON to a file for every run: who, when, what, with which plugins, on which data, outcome."""

    path: Path = Path("audit.jsonl")
    """The file; the policy locks it to the company's."""

    @hookimpl
    def hfx_check(self) -> Iterable[Problem]:
        """Refuse to begin a run that could not be recorded."""
        from hfx_acme.audit_impl import obstacle

        reason = obstacle(self.path)
        return (
            [Problem(f"the audit trail '{self.path}' cannot be written: {reason}; ask who keeps it")] if reason else []
        )

    @hookimpl(wrapper=True)
    def hfx_launch(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Wrap everything, reading the data included, so that a run that fails early has its line too."""
        from hfx_acme.audit_impl import record

        with record(self.path, run) as line:
            result = yield
            line["outcome"] = f"stopped: {result.stopped}" if result.stopped else "finished"
            line["step"] = result.step
        return result

    @hookimpl(wrapper=True)
    def hfx_run(self, run: Run) -> Generator[None, RunResult, RunResult]:
        """Note the data's fingerprint: known once the data is prepared."""
        run.local["audit"] = {split: run.table(split).fingerprint for split in _splits(run)}
        return (yield)


def _splits(run: Run) -> list[str]:
    return ["train", "eval"] if run.has_eval else ["train"]
