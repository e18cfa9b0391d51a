"""`hfx data`: prepared data is found again, its report is true, and any step is explained from the config alone."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path

import pytest

from command_line import hfx
from toy_packages import toy_package

CLEANER = '''from hfx import Drop, Plugin, hookimpl


class Toy(Plugin):
    """Drops rows that are too short and rows in capitals."""

    @hookimpl(wrapper=True)
    def hfx_source(self):
        rows = yield
        return rows.then(self)

    def apply(self, rows):
        return [self.look(row) for row in rows]

    def look(self, row):
        if len(row.values["text"]) < 12:
            return Drop("length_short")
        return Drop("capitals") if row.values["text"].isupper() else row
'''
SMALL = ["--seq-length", "24", "--bpe.vocab-size", "300", "--scratch.hidden-size", "32", "--scratch.layers", "1"]
SMALL += ["--batch-size", "4"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with rows, a package that cleans them, and a cache of its own."""
    path = tmp_path_factory.mktemp("data")
    rng = random.Random(1)
    texts = [" ".join(rng.choices(["sun", "moon", "stars", "earth"], k=rng.randint(3, 30))) for _ in range(200)]
    texts += ["short", "tiny", "SHOUTING ALL THE TIME"]
    (path / "rows.jsonl").write_text("".join(json.dumps({"text": t, "kind": t[:3]}) + "\n" for t in texts))
    toy_package(path / "packages", "hfx-cleaner", {"cleaner": CLEANER})
    return path


def data(folder: Path, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of `hfx data` on the rows, cleaned."""
    given = ["--data", "rows.jsonl", "--plugin", "cleaner", *SMALL]
    return hfx(
        "data", command, *given, *words, cwd=folder, path=folder / "packages", HFX_CACHE=str(folder / "cache"),
        OMP_NUM_THREADS="1",
    )  # fmt: skip


def test_stats_account_for_every_row(folder: Path) -> None:
    done = data(folder, "stats", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    rows = found["rows"]
    assert found["dropped"] == {"toy.length_short": 2, "toy.capitals": 1}
    assert rows["read"] == rows["kept"] + sum(found["dropped"].values()) == 203
    assert rows["train"] + rows["eval"] == rows["kept"]
    assert sum(found["lengths"]["counts"]) == found["tokens"]["examples"]
    assert sum(of["tokens"] for of in found["sources"].values()) == found["tokens"]["total"]
    assert [of["percentile"] for of in found["seq_length"]] == [90, 95, 99]


def test_what_was_prepared_is_found_again_by_the_next_process(folder: Path) -> None:
    first, second = (data(folder, "prepare") for _ in range(2))
    assert first.returncode == 0, first.stderr
    assert first.stdout == second.stdout
    table = Path(first.stdout.split()[-1])
    modified = (table / "table.arrow").stat().st_mtime_ns
    data(folder, "prepare")
    assert (table / "table.arrow").stat().st_mtime_ns == modified


def test_a_sample_of_a_rule_shows_what_it_drops(folder: Path) -> None:
    done = data(folder, "sample", "--rule", "toy.length")
    assert done.stdout.splitlines() == [
        'rows.jsonl:201  dropped by toy.length_short  {"text": "short", "kind": "sho"}',
        'rows.jsonl:202  dropped by toy.length_short  {"text": "tiny", "kind": "tin"}',
    ]
    assert len(data(folder, "sample", "--rule", "toy").stdout.splitlines()) == 3


def test_a_misspelt_rule_names_the_nearest(folder: Path) -> None:
    done = data(folder, "sample", "--rule", "toy.capital")
    assert done.returncode == 2
    assert "did you mean 'toy.capitals'?" in done.stderr


def test_inspecting_shows_columns_and_how_the_data_resumes(folder: Path) -> None:
    done = data(folder, "inspect", "--rows", "1")
    assert done.returncode == 0, done.stderr
    assert any(line.startswith("column    kind: str (") and "sun " in line for line in done.stdout.splitlines())
    assert "resumes   indexed" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("rows.jsonl:")


@pytest.mark.parametrize("sampling", ["shuffle", "sequential"])
def test_any_step_is_explained_as_the_ledger_has_it(folder: Path, sampling: str) -> None:
    path, cache = folder / "packages", str(folder / "cache")
    words = ["--data", "rows.jsonl", "--plugin", "cleaner", *SMALL, "--plugin", sampling, "--epochs", "1.3"]
    done = hfx("train", *words, "--output", sampling, cwd=folder, path=path, HFX_CACHE=cache, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    steps = [json.loads(line)["step"] for line in (folder / sampling / "ledger.jsonl").read_text().splitlines()]
    for step in (1, random.choice(steps), steps[-1]):
        told = hfx("data", "explain", f"{sampling}/run.yaml", "--step", str(step), cwd=folder, path=path,
                   HFX_CACHE=cache)  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert told.stdout.splitlines()[-1].endswith(f"as the ledger of '{sampling}' recorded")
        assert "NOT" not in told.stdout
        assert "rows.jsonl:" in told.stdout


def test_the_cache_is_listed_and_pruned(folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    words = ["--data", str(folder / "rows.jsonl"), *SMALL]
    assert hfx("data", "prepare", *words, HFX_CACHE=cache, OMP_NUM_THREADS="1").returncode == 0
    (tmp_path / "cache" / "rows" / "left.partial").mkdir()
    listed = hfx("data", "cache", "list", HFX_CACHE=cache).stdout.splitlines()
    assert {line.split()[0] for line in listed[1:-1]} >= {"rows", "table"}

    assert "removed 0 folders" in hfx("data", "cache", "prune", HFX_CACHE=cache).stdout
    assert not (tmp_path / "cache" / "rows" / "left.partial").exists()
    assert "removed 0 " not in hfx("data", "cache", "prune", "--unused-days", "0", HFX_CACHE=cache).stdout
    assert "nothing in" in hfx("data", "cache", "list", HFX_CACHE=cache).stdout
