"""`hfx data`: prepared data is found again, its report is true, and any step is explained from the config alone."""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
from pathlib import Path

import pytest

from command_line import hfx
from hfx.errors import ModelError
from hfx.protocols import RunResult
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
        if "@" in row.values["text"]:
            row.values["text"] = row.values["text"].replace("@", "(at)")
            row.reasons.append("toy.address")
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


LICENCES = '''from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Says of each row under which licence it is."""

    @hookimpl(wrapper=True)
    def hfx_source(self):
        rows = yield
        return rows.then(self)

    def apply(self, rows):
        for row in rows:
            row.marks["licence"] = row.values["licence"]
        return rows
'''
SAID = {
    "en": "The old clock on the wall had stopped a long time ago, and nobody in house {} had noticed it.",
    "de": "Die alte Uhr an der Wand war schon lange stehen geblieben, und niemand in Haus {} hatte es bemerkt.",
    "fr": "La vieille horloge s'était arrêtée depuis longtemps, et personne dans la maison {} ne l'avait remarqué.",
}


def test_stats_say_how_many_of_the_rows_left_are_in_which_language_and_what_another_plugin_marks(
    tmp_path: Path,
) -> None:
    texts = [SAID["en"].format(n) for n in range(60)] + [SAID["de"].format(n) for n in range(20)]
    texts += [SAID["fr"].format(n) for n in range(7)] + texts[:15]
    rows = [{"text": text, "licence": "mit" if n % 2 else "gpl"} for n, text in enumerate(texts)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    toy_package(tmp_path / "packages", "hfx-licences", {"licences": LICENCES})
    words = ["--data", "rows.jsonl", "--plugin", "licences", "--plugin", "language", "--language.keep", "en,de"]
    words += ["--plugin", "exact_dedup", "--exact-dedup.columns", "text", *SMALL]

    def said(*more: str) -> str:
        done = hfx("data", "stats", *words, *more, cwd=tmp_path, path=tmp_path / "packages",
                   HFX_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="1")  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    found = json.loads(said("--json"))
    assert found["dropped"] == {"language.fr": 7, "exact_dedup.duplicate": 15}
    assert found["marks"] == {"language": {"en": 60, "de": 20}, "licence": {"gpl": 40, "mit": 40}}
    lines = said().splitlines()
    assert "rows by     language: en 60 (75.0%), de 20 (25.0%)" in lines
    assert "rows by     licence: gpl 40 (50.0%), mit 40 (50.0%)" in lines


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
        told = hfx("data", "explain", sampling, "--step", str(step), cwd=folder, path=path,
                   HFX_CACHE=cache)  # fmt: skip
        assert told.returncode == 0, told.stderr
        assert told.stdout.splitlines()[-1].endswith(f"as the ledger of '{sampling}' recorded")
        assert "NOT" not in told.stdout
        assert "rows.jsonl:" in told.stdout
    with (folder / sampling / "ledger.jsonl").open("a") as ledger:
        ledger.write('{"step": 999, "posi')  # as a killed run leaves it
    ahead = steps[-1] + 1
    told = hfx("data", "explain", sampling, "--step", str(ahead), cwd=folder, path=path, HFX_CACHE=cache)
    assert told.returncode == 0, told.stderr
    assert "ledger" not in told.stdout


def test_the_cache_is_listed_and_pruned(folder: Path, tmp_path: Path) -> None:
    cache = str(tmp_path / "cache")
    words = ["--data", str(folder / "rows.jsonl"), *SMALL]
    assert hfx("data", "prepare", *words, HFX_CACHE=cache, OMP_NUM_THREADS="1").returncode == 0
    left, own = tmp_path / "cache" / "rows" / f"{'0' * 32}.partial", tmp_path / "cache" / "thesis" / "chapters"
    left.mkdir()
    (own / "one.partial").mkdir(parents=True)
    os.utime(own, (0, 0))
    listed = hfx("data", "cache", "list", HFX_CACHE=cache).stdout.splitlines()
    assert {line.split()[0] for line in listed[1:-1]} >= {"rows", "table"}

    assert "removed 0 folders" in hfx("data", "cache", "prune", HFX_CACHE=cache).stdout
    assert not left.exists()
    assert "removed 0 " not in hfx("data", "cache", "prune", "--unused-days", "0", HFX_CACHE=cache).stdout
    assert "nothing in" in hfx("data", "cache", "list", HFX_CACHE=cache).stdout
    assert (own / "one.partial").is_dir()


def last_words(done: subprocess.CompletedProcess[str], code: int) -> str:
    """Return the last line of what was said on stderr, after checking the exit code."""
    assert done.returncode == code, done.stderr
    return done.stderr.splitlines()[-1]


def written(path: Path, texts: list[str]) -> str:
    """Write rows of texts and return the file's name."""
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return path.name


def test_a_task_that_leaves_no_example_is_told_by_train_prepare_stats_and_explain(folder: Path) -> None:
    told = re.compile(r"none of (\d+) rows yields an example \(too_short \1\); look at the task's options$")
    words = ["--causal-lm.min-length", "1000"]
    path, cache = folder / "packages", str(folder / "cache")
    trained = hfx("train", "--data", "rows.jsonl", *SMALL, *words, "--output", "none", cwd=folder, path=path,
                  HFX_CACHE=cache, OMP_NUM_THREADS="1")  # fmt: skip
    assert told.search(last_words(trained, 1))
    assert told.search(last_words(data(folder, "explain", *words, "--step", "1"), 1))

    for command in ("stats", "prepare"):
        done = data(folder, command, *words)
        assert done.returncode == 0, done.stderr
        [warning] = [line for line in done.stdout.splitlines() if line.startswith("warning ")]
        assert told.search(warning)
        trained_on, held_out = re.findall(r"(\d+) to (?:train|evaluate) on", done.stdout)
        assert int(held_out) > 0
        assert int(trained_on) + int(held_out) == 200


def test_data_of_which_cleaning_leaves_nothing_names_what_dropped_it(folder: Path) -> None:
    name = written(folder / "dirty.jsonl", ["A", "B", "C", "LOUD AND LONG ENOUGH"])
    words = ["--data", name]
    told = "all 4 rows were dropped (toy.length_short 3, toy.capitals 1); 'hfx data sample --rule toy.length_short'"
    for command in (["prepare"], ["sample"], ["explain", "--step", "1"]):
        assert told in last_words(data(folder, *command, *words), 1)
    assert told in data(folder, "stats", *words).stdout
    assert told in last_words(data(folder, "stats", "--json", *words), 0)
    assert len(data(folder, "sample", "--rule", "toy.length_short", *words).stdout.splitlines()) == 3


def test_an_empty_file_is_named(folder: Path) -> None:
    (folder / "empty.jsonl").write_text("\n")
    done = data(folder, "prepare", "--data", "empty.jsonl")
    assert done.returncode == 1
    assert "empty.jsonl" in done.stderr
    evaluated = data(folder, "prepare", "--eval-data", written(folder / "held.jsonl", ["a", "b"]))
    assert "all 2 rows to evaluate on were dropped (toy.length_short 2)" in last_words(evaluated, 1)


def test_a_sample_has_as_many_rows_as_were_asked_for(folder: Path) -> None:
    for count in (1, 3, 7):
        assert len(data(folder, "sample", "--count", str(count)).stdout.splitlines()) == count
    trained_on = json.loads(data(folder, "stats", "--json").stdout)["rows"]["train"]
    assert len(data(folder, "sample", "--count", "1000").stdout.splitlines()) == trained_on


def test_a_sample_of_a_rule_shows_a_changed_row_as_it_is_now(folder: Path) -> None:
    name = written(
        folder / "mail.jsonl", [f"a row of words, {n}" for n in range(30)] + ["write to me@here.org", "ME@X"]
    )
    done = data(folder, "sample", "--data", name, "--rule", "toy.address")
    far = data(folder, "sample", "--data", written(folder / "far.jsonl", ["word " * 90 + "a@b"]), "--rule", "toy")
    assert ["@" in line for line in far.stdout.splitlines()] == [True, False]
    assert "(at)" in far.stdout
    assert done.stdout.splitlines() == [
        'mail.jsonl:31  changed by toy.address  {"text": "write to me@here.org"}',
        'mail.jsonl:31  now  {"text": "write to me(at)here.org"}',
    ]


def test_a_step_that_is_not_as_recorded_and_one_behind_the_end_are_told(folder: Path) -> None:
    path, cache = folder / "packages", str(folder / "cache")
    words = ["--data", "rows.jsonl", *SMALL, "--steps", "2", "--output", "short"]
    assert hfx("train", *words, cwd=folder, path=path, HFX_CACHE=cache, OMP_NUM_THREADS="1").returncode == 0

    behind = hfx("data", "explain", "short", "--step", "9", cwd=folder, path=path, HFX_CACHE=cache)
    assert last_words(behind, 0) == "hfx: step 9 is behind the run's last step 2"
    assert "step 9: 4 sequences" in behind.stdout
    other = hfx("data", "explain", "short", "--step", "2", "--seed", "7", cwd=folder, path=path, HFX_CACHE=cache)
    assert other.returncode == 1
    assert "NOT as the ledger of 'short' recorded" in other.stdout
    refused = hfx("train", "short", cwd=folder, path=path, HFX_CACHE=cache)
    assert "'short' holds a run" in last_words(refused, 2)
    assert "is a folder that holds no run" in last_words(
        hfx("data", "explain", "packages", "--step", "1", cwd=folder), 2
    )


def test_padding_is_one_figure_and_packing_shows_its_own(folder: Path) -> None:
    path, cache = folder / "packages", str(folder / "cache")
    words = ["--data", "rows.jsonl", *SMALL, "--steps", "1", "--micro-batch-size", "4", "--seq-length", "64"]
    shares = {}
    for batcher in ("padding", "packing"):
        given = [*words, "--plugin", batcher, "--output", f"padded-{batcher}"]
        trained = hfx("train", *given, cwd=folder, path=path, HFX_CACHE=cache, OMP_NUM_THREADS="1")
        stats = hfx("data", "stats", *given, cwd=folder, path=path, HFX_CACHE=cache)
        [told] = re.findall(r"(\d+)% of a batch's positions are padding", trained.stderr)
        assert re.findall(r"(\d+)% of a batch's positions are padding", stats.stdout) == [told]
        share = json.loads((folder / f"padded-{batcher}" / "data_report.json").read_text())["padding"]
        assert f"{share:.0%}" == f"{told}%"
        shares[batcher] = share
        wasted = re.findall(r"^waste +([\d,]+) of ([\d,]+) positions an epoch .*--plugin packing", trained.stderr, re.M)
        assert len(wasted) == (batcher == "padding")
        for line in wasted:
            missing, positions = (int(number.replace(",", "")) for number in line)
            assert abs(missing / positions - share) < 0.001
    assert shares["packing"] < shares["padding"] / 2


def test_what_steps_and_task_leave_out_and_bad_rows_are_told_apart(folder: Path) -> None:
    rows = [json.dumps({"text": f"a row of {n} words", "label": "ab"[n % 2]}) for n in range(60)]
    rows += [
        json.dumps({"text": "one without a label", "label": None}),
        json.dumps({"text": "tiny", "label": "a"}),
        "{broken",
    ]
    (folder / "mixed.jsonl").write_text("\n".join(rows) + "\n")
    (folder / "judged.jsonl").write_text("\n".join(rows[:10]) + "\n")
    words = ["--data", "mixed.jsonl", "--eval-data", "judged.jsonl", "--max-bad-rows", "5", *SMALL, "--steps", "1"]
    words += ["--plugin", "classification", "--plugin", "cleaner", "--output", "mixed"]
    path, cache = folder / "packages", str(folder / "cache")
    done = hfx("train", *words, cwd=folder, path=path, HFX_CACHE=cache, OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    said = dict(
        line.split(maxsplit=1) for line in done.stderr.splitlines() if line.startswith(("data ", "rows ", "bad "))
    )
    assert re.fullmatch(r"1 file \(1 jsonl\), .* MB; to evaluate on: 1 file \(1 jsonl\), .* MB", said["data"])
    assert said["rows"] == (
        "63 read, 1 bad, 1 dropped (toy.length_short 1), 61 to train on, of which 1 yields no example (no_label 1), "
        "10 to evaluate on"
    )
    quarantine = Path(said["bad"].split(" are listed in ")[1])
    [bad] = [json.loads(line) for line in quarantine.read_text().splitlines()]
    assert bad["row"] == 63
    stats = hfx("data", "stats", *words, cwd=folder, path=path, HFX_CACHE=cache).stdout
    assert str(quarantine) in stats
    assert "task        1 row without an example (no_label)" in stats


def test_a_stopped_run_says_that_it_has_no_model_yet(tmp_path: Path) -> None:
    told = f"the run '{tmp_path}' did not end and has no model yet; go on with 'hfx train --resume {tmp_path}'"
    with pytest.raises(ModelError, match=re.escape(told)):
        RunResult(tmp_path, {}, 3, "SIGINT").model()
