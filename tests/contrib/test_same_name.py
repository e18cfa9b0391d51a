"""Two packages that offer a plugin of the same name, and what a policy says about it: through the command line."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from command_line import hfx
from toy_packages import LISTENER, OPTIMIZER, toy_package

Hfx = Callable[..., subprocess.CompletedProcess[str]]

LION = '''"""Another lion."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """A lion that is fast."""

    lr: float = 0.5
    """Learning rate."""

    @hookimpl
    def hfx_optimizer(self, params, run):
        import torch

        print("the fast lion trains")
        return torch.optim.SGD(params.groups(), lr=self.lr)
'''


@pytest.fixture
def dry_run(tmp_path: Path) -> Hfx:
    """Returns what `hfx train --dry-run` does under a policy, on a machine with `hfx-fastlion` and `acme-audit`."""
    site = tmp_path / "site"
    toy_package(site, "hfx-fastlion", {"lion": LION}, version="3.1")
    toy_package(site, "acme-audit", {"audit": LISTENER})
    toy_package(site, "hfx-extra", {"rprop": OPTIMIZER})

    def call(*words: str, policy: str = "", command: tuple[str, ...] = ("train", "--dry-run")) -> object:
        environ = {}
        if policy:
            (tmp_path / "policy.yaml").write_text(policy)
            environ["HFX_POLICY"] = str(tmp_path / "policy.yaml")
        return hfx(*command, *words, path=site, cwd=tmp_path, **environ)

    return call  # type: ignore[return-value]


def provider(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return plugin, package and version of the optimizer, as a dry run shows them."""
    assert done.returncode == 0, done.stderr
    [line] = [line.split() for line in done.stdout.splitlines() if line.startswith("optimizer ")]
    return line[1:4]


def refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """Assert exit code 2 and one or two lines that have some words."""
    assert done.returncode == 2, done.stdout
    assert 1 <= len(done.stderr.strip().splitlines()) <= 2
    for word in words:
        assert word in done.stderr
    assert "Traceback" not in done.stderr


# ── which lion ───────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_name_that_two_packages_offer_is_refused_and_both_choices_are_printed(dry_run: Hfx) -> None:
    refused(dry_run("--plugin", "lion"), "lion@hfx'", "lion@hfx-fastlion")


@pytest.mark.parametrize(
    ("typed", "chosen"),
    [("lion@hfx-fastlion", ["lion", "hfx-fastlion", "3.1"]), ("lion@HFX_FastLion", ["lion", "hfx-fastlion", "3.1"])],
)
def test_the_distribution_chooses(dry_run: Hfx, typed: str, chosen: list[str]) -> None:
    assert provider(dry_run("--plugin", typed)) == chosen


def test_the_distribution_chooses_the_built_in_one_too(dry_run: Hfx) -> None:
    assert provider(dry_run("--plugin", "lion@hfx"))[:2] == ["lion", "hfx"]


def test_a_config_chooses_by_distribution_too(dry_run: Hfx, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: x.txt\nplugins:\n  lion@hfx-fastlion:\n    lr: 0.25\n")
    done = dry_run("c.yaml")
    assert provider(done)[:2] == ["lion", "hfx-fastlion"]
    assert "0.25" in done.stdout


def test_the_policy_prefers_one(dry_run: Hfx) -> None:
    assert provider(dry_run("--plugin", "lion", policy="prefer: {lion: hfx-fastlion}\n"))[:2] == [
        "lion",
        "hfx-fastlion",
    ]
    assert provider(dry_run("--plugin", "lion", policy="prefer: {lion: hfx}\n"))[:2] == ["lion", "hfx"]


def test_the_distribution_beats_what_the_policy_prefers(dry_run: Hfx) -> None:
    done = dry_run("--plugin", "lion@hfx", policy="prefer: {lion: hfx-fastlion}\n")
    assert provider(done)[:2] == ["lion", "hfx"]


@pytest.mark.parametrize("block", ["hfx-fastlion", "lion@hfx-fastlion", "'hfx-*'"])
def test_a_block_refuses_what_the_distribution_asks_for(dry_run: Hfx, block: str) -> None:
    done = dry_run("--plugin", "lion@hfx-fastlion", policy=f"block: [{block}]\n")
    refused(done, "lion@hfx-fastlion", "policy.yaml:1")


def test_a_block_of_one_leaves_the_other_without_a_choice_to_make(dry_run: Hfx) -> None:
    assert provider(dry_run("--plugin", "lion", policy="block: [hfx-fastlion]\n"))[:2] == ["lion", "hfx"]


def test_a_block_beats_what_the_same_policy_prefers(dry_run: Hfx) -> None:
    done = dry_run("--plugin", "lion", policy="prefer: {lion: hfx-fastlion}\nblock: [hfx-fastlion]\n")
    refused(done, "lion@hfx-fastlion", "policy.yaml:2")


def test_an_allow_list_refuses_a_package_that_it_does_not_name(dry_run: Hfx) -> None:
    policy = "allow: [hfx, acme-audit]\n"
    refused(dry_run("--plugin", "rprop", policy=policy), "hfx-extra", "policy.yaml:1")
    assert provider(dry_run("--plugin", "lion", policy=policy))[:2] == ["lion", "hfx"]


def test_an_installed_namesake_of_a_default_changes_nothing(dry_run: Hfx, tmp_path: Path) -> None:
    toy_package(tmp_path / "site", "hfx-fastadam", {"adamw": OPTIMIZER})
    assert provider(dry_run())[:2] == ["adamw", "hfx"]


def test_the_chosen_one_is_the_one_that_trains(dry_run: Hfx, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"text": "to be or not to be"}\n{"text": "that is the question"}\n' * 20)
    small = "--bpe.vocab-size 260 --scratch.hidden-size 32 --scratch.layers 1 --steps 1 --seq-length 16 --output run"
    done = dry_run(
        "--data", "rows.jsonl", "--plugin", "lion", *small.split(),
        policy="prefer: {lion: hfx-fastlion}\n", command=("train",),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "the fast lion trains" in done.stdout


# ── locked and activated ─────────────────────────────────────────────────────────────────────────────────────────────

LOCKED = "locked:\n  lion:\n    lr: 0.001\n  run:\n    seed: 7\n"


@pytest.mark.parametrize("words", [["--lion.lr", "0.1"], ["--seed", "8"]], ids=" ".join)
def test_a_locked_value_cannot_be_overridden(dry_run: Hfx, words: list[str]) -> None:
    refused(dry_run("--plugin", "lion@hfx", *words, policy=LOCKED), words[0], "policy.yaml")


def test_a_locked_value_cannot_be_overridden_by_a_config(dry_run: Hfx, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: x.txt\nplugins:\n  lion@hfx:\n    lr: 0.1\n")
    refused(dry_run("c.yaml", policy=LOCKED), "c.yaml:4", "policy.yaml:3")


def test_a_locked_value_holds_where_nobody_says_otherwise(dry_run: Hfx) -> None:
    done = dry_run("--plugin", "lion@hfx", policy=LOCKED)
    [line] = [line for line in done.stdout.splitlines() if "lion.lr" in line]
    assert "0.001" in line
    assert "policy.yaml:3" in line


@pytest.mark.parametrize("key", ["activate", "activate_last"])
def test_a_plugin_that_is_always_on_cannot_be_dropped(dry_run: Hfx, key: str) -> None:
    policy = f"{key}: [audit]\n"
    assert "audit" in dry_run(policy=policy).stdout
    refused(dry_run("--plugin", "no:audit", policy=policy), "audit", "policy.yaml:1")


def test_a_plugin_that_is_always_on_cannot_be_dropped_by_a_config(dry_run: Hfx, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("data: x.txt\nplugins:\n  no:audit:\n")
    refused(dry_run("c.yaml", policy="activate: [audit]\n"), "audit", "policy.yaml:1")


def test_a_namesake_cannot_take_the_place_of_a_plugin_that_is_always_on(dry_run: Hfx, tmp_path: Path) -> None:
    toy_package(tmp_path / "site", "hfx-quiet", {"audit": LISTENER})
    policy = "activate: [audit@acme-audit]\n"
    refused(dry_run("--plugin", "audit@hfx-quiet", policy=policy), "audit@hfx-quiet", "policy.yaml:1")
    assert "acme-audit" in dry_run("--plugin", "audit", policy=policy).stdout
