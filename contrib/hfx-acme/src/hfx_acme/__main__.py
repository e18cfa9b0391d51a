"""`python -m hfx_acme`: print Acme's policy, to be written to /etc/hfx/policy.yaml."""

from __future__ import annotations

from importlib import resources


def main() -> None:
    """Print the policy."""
    print((resources.files("hfx_acme") / "policy.yaml").read_text(encoding="utf-8"), end="")


if __name__ == "__main__":
    main()
