"""A process of `hfx doctor`: makes the checks that it is told to, and answers a line of JSON for each that it finds."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from typing import Any

from hfx.cli.doctor_impl import check_of
from hfx.cli.doctor_line import looked
from hfx.quiet import quieten


class Answers:
    """The real stdout; what libraries print goes to stderr, Python's or not."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)

    def tell(self, **values: Any) -> None:
        """Write a line, at once: the process may end at any time."""
        print(json.dumps(values), file=self._file, flush=True)


answers: Answers


def doing(what: str) -> None:
    """Say what is being done, for the case that it never ends."""
    answers.tell(doing=what)


def main() -> None:
    """Make the checks that are named on the command line."""
    quieten()
    for name in sys.argv[1:]:
        for line in looked(name, check_of(name)):
            answers.tell(**asdict(line))
        answers.tell(ended=name)


if __name__ == "__main__":
    # The checks import this file by its name, and have to find the same answers there.
    sys.modules["hfx.cli.doctor_worker_impl"] = sys.modules["__main__"]
    answers = Answers()
    main()
