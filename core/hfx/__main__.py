"""The command `hfx`, also as `python -m hfx` and `torchrun -m hfx`."""

from __future__ import annotations

import sys


def main() -> int:
    """Run the command line and return its exit code."""
    from hfx.cli.boundary import guarded

    return guarded(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
