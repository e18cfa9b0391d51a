"""`hfx report`: one page about runs in any state, which loads nothing and runs nothing that a run holds."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from pathlib import Path

import pytest

from command_line import hfx
from report_pages import Page, report
from run_records import ended, step_line, steps, write_run
from seen_runs import HOSTILE, SECRET, TOKEN, training


@pytest.fixture(scope="module")
def done(seen: Path, tmp_path_factory: pytest.TempPathFactory) -> Page:
    cache = {"HFX_CACHE": str(seen / "cache"), "A_TEST_TOKEN": SECRET}
    return report(tmp_path_factory.mktemp("page"), seen / "runs" / "done", **cache)


def test_the_page_of_a_real_run_has_its_figures(done: Page, seen: Path) -> None:
    lines = [json.loads(line) for line in (seen / "runs" / "done" / "metrics.jsonl").read_text().splitlines()]
    best = min(line["eval_loss"] for line in lines if "eval_loss" in line)
    assert "finished" in done.text
    assert f"Best evaluation {best:.4g}" in done.text
    for title in ("Loss", "Learning rate", "Tokens per second", "Seconds of a step", "Most memory so far", "unigram"):
        assert title in done.text
    for part in ("data", "forward and backward", "sync", "optimizer"):
        assert f" {part} " in done.text
    assert "step-00000006" in done.text
    assert "step-00000003" in done.text


def test_each_value_of_the_config_has_its_origin(done: Page) -> None:
    assert "bpe.vocab_size 270 --bpe.vocab_size" in done.text
    assert "batch_size 8 --batch-size" in done.text
    assert "adamw.beta1 0.9 default" in done.text


def test_what_was_left_out_is_shown_with_its_reason_and_place_and_is_no_markup(done: Page) -> None:
    assert "exact_dedup" in done.text
    assert "rows.jsonl:123" in done.text
    assert "window.hostile" in done.text
    assert HOSTILE not in done.html
    assert "unreadable" in done.text
    assert "no example" in done.text
    assert done.tags["img"] == 0


def test_no_secret_is_on_the_page(done: Page) -> None:
    assert SECRET not in done.html
    assert TOKEN not in done.html


def test_without_the_cache_the_page_says_why_there_are_no_examples(seen: Path, tmp_path: Path) -> None:
    page = report(tmp_path, seen / "runs" / "done", HFX_CACHE=str(tmp_path / "none"))
    assert "is not in the cache" in page.text
    assert "exact_dedup" in page.text


def test_all_kinds_of_runs_stand_on_one_page(seen: Path, tmp_path: Path) -> None:
    runs = [seen / "runs" / name for name in ("done", "resumed", "stopped", "killed", "diverged")]
    page = report(tmp_path, *runs, HFX_CACHE=str(seen / "cache"))

    for name, how in zip(runs, ("finished", "stopped", "stopped", "killed", "failed"), strict=True):
        assert f"{name.name} {how}" in page.text
    assert "the record was cut back to step" in page.text
    assert "the update was skipped in steps" in page.text
    assert "What differs" in page.text
    assert page.tags["input"] == 6


def test_a_run_that_goes_on_has_a_page(seen: Path, tmp_path: Path) -> None:
    with training(seen, "going"):
        page = report(tmp_path, seen / "runs" / "going")
    assert "running" in page.text
    shutil.rmtree(seen / "runs" / "going")


def test_a_run_killed_before_its_first_step_has_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "early", [], status=ended("finished", 0) | {"ended": None})
    assert "No step was recorded" in report(tmp_path, run).text


def test_runs_of_one_step_and_of_losses_that_are_no_numbers_have_a_page(tmp_path: Path) -> None:
    one = write_run(tmp_path / "one", steps(1), status=ended("finished", 1))
    bad = write_run(tmp_path / "bad", [step_line(step, math.nan, skipped=True) for step in range(1, 9)])
    page = report(tmp_path, one, bad)
    assert "the loss is not finite in steps 1 to 8" in page.text
    assert "the update was skipped in steps 1 to 8" in page.text


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff"])
@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("status.json", "status.json' is damaged"),
        ("data_report.json", "data_report.json' is damaged"),
        ("plan.json", "plan.json' is damaged"),
        ("metrics.jsonl", "1 line of 'metrics.jsonl' cannot be read"),
    ],
)
def test_a_damaged_run_has_a_page_that_says_so(name: str, said: str, content: bytes, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5), status=ended("finished", 5))
    assert said not in report(tmp_path, run).text
    (run / name).write_bytes(content + b"\n")
    assert said in report(tmp_path, run).text


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"{", "this is not YAML"), (b"[1]", "the file is not a mapping"), (b"\xff", "it is not UTF-8 text")],
)
def test_a_damaged_config_of_a_run_is_told_on_its_page(content: bytes, said: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5), status=ended("finished", 5))
    (run / "run.yaml").write_bytes(content)
    assert said in report(tmp_path, run).text


@pytest.mark.parametrize("name", ["run.yaml", "status.json", "data_report.json", "plan.json", "metrics.jsonl"])
def test_fields_of_other_kinds_than_a_run_writes_keep_no_page_away(name: str, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(5), status=ended("finished", 5))
    said = '{"rows": 3, "lengths": {"edges": [1, 2], "counts": 5}, "origins": 3, "begun": 4, "step": "1", "resumed": 2}'
    (run / name).write_text(said)
    assert "Checkpoints" in report(tmp_path, run).text


def test_what_a_run_names_is_no_markup(tmp_path: Path) -> None:
    hostile = "</script><script>window.hostile=1</script>$$x$$<blink>"
    lines = [step_line(step, 1.0, **{hostile: 2.0}) for step in range(1, 5)]
    lines += [{"step": 2, "event": hostile, "said": hostile}, {"step": 4, "eval_loss": 1.0, f"eval_{hostile}": 1.0}]
    run = write_run(tmp_path / "x<script>y", lines, status=ended("failed", 4, hostile) | {"host": hostile})
    (run / "data_report.json").write_text(json.dumps({
        "rows": {"read": 4}, "dropped": {hostile: 3}, "warning": hostile, "table": "../..",
        "fingerprint": f"../{hostile}", "sources": {hostile: {"rows": 1, "tokens": 1, "share": 1.0}},
        "quarantine": "/etc/passwd",
    }))  # fmt: skip
    with (run / "run.yaml").open("a") as file:
        file.write(f"  files2: {{option: {json.dumps(hostile)}}}\n")

    page = report(tmp_path, run)
    assert "<script>window.hostile" not in page.html
    assert "root:" not in page.html
    assert page.tags["blink"] == 0
    assert page.text.count("<blink>") >= 6  # event, evaluation, figure, reason, warning, source, host, why


def test_communication_of_several_ranks_is_shown(tmp_path: Path) -> None:
    more = {
        "comm_bytes": 2**20,
        "comm_seconds": 0.05,
        "comm_wait_seconds": 0.01,
        "straggler": 1,
        "straggler_seconds": 0.5,
    }
    run = write_run(tmp_path / "two", [step_line(step, 1 / step, **more) for step in range(1, 11)])
    page = report(tmp_path, run)
    assert "Sent by rank 0 1 MiB a step" in page.text
    assert "Training stood still 10.0%" in page.text
    assert "1 10 5 s" in page.text  # rank, steps, seconds


def test_where_a_run_was_started_again_and_what_ended_it_before_is_an_event(tmp_path: Path) -> None:
    said = ended("finished", 9)
    starts = [
        {"step": 0, "ranks": 1, "before": ended("failed", 2, "<i>no disk</i>")["ended"]},
        {"step": 4, "ranks": 1, "before": None},
        {"step": 7, "ranks": 2, "before": ended("stopped", 7, "SIGTERM")["ended"]},
        {"step": "x"},
    ]
    page = report(tmp_path, write_run(tmp_path / "run", steps(9), status=said | {"starts": 4, "resumed": starts}))
    assert (
        "0 started the run began anew; before: failed (<i>no disk</i>) "
        "4 started the run went on from step 4; before: killed (it ended without a word) "
        "7 started the run went on from step 7 on 2 ranks; before: stopped (SIGTERM)"
    ) in " ".join(page.text.split())
    assert page.tags["i"] == report(tmp_path, write_run(tmp_path / "run", steps(9), status=said)).tags["i"]


def test_what_the_model_wrote_is_shown_newest_first_and_is_no_markup(tmp_path: Path) -> None:
    told = [{"step": step, "event": "sample", "prompt": "Once", "text": f"<blink>upon {step}"} for step in (4, 8)]
    run = write_run(tmp_path / "run", [*steps(4), told[0], *steps(4, start=5), told[1]])
    page = report(tmp_path, run)
    assert "Step Prompt What the model wrote 8 Once <blink>upon 8 4 Once <blink>upon 4" in " ".join(page.text.split())
    assert page.tags["blink"] == 0
    assert "What happened" not in page.text


def test_what_is_no_text_of_unicode_is_escaped_wherever_it_stands(tmp_path: Path) -> None:
    said = {"step": 4, "event": "sample", "prompt": "a\ud83d", "text": "\udcff"}
    run = write_run(tmp_path / "run", [*steps(4), said], status=ended("failed", 4, "no \ud800"))
    page = report(tmp_path, run.rename(tmp_path / os.fsdecode(b"run\xff")))
    assert "4 a\\ud83d \\udcff" in " ".join(page.text.split())
    assert "failed no \\ud800" in " ".join(page.text.split())


def test_a_plan_that_is_kept_beside_a_run_is_compared_with_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(20))
    assert "No plan is kept" in report(tmp_path, run).text
    (run / "plan.json").write_text(json.dumps({"peak_bytes": 2**30, "seconds_per_step": 0.055}))
    page = report(tmp_path, run)
    assert "planned: 1.00 GiB" in page.text
    assert "planned, at least 0.0550 s 50.0%" in page.text


def measured(folder: Path, count: int) -> float:
    run = write_run(folder / f"long-{count}", steps(count), steps=count, status=ended("finished", count, total=count))
    began = time.perf_counter()
    report(folder, run)
    return time.perf_counter() - began


def test_a_long_run_makes_a_small_page(tmp_path: Path) -> None:
    measured(tmp_path, 5_000)


@pytest.mark.slow
def test_a_hundred_thousand_steps_make_a_small_page_in_seconds(tmp_path: Path) -> None:
    assert min(measured(tmp_path, 100_000) for _ in range(3)) < 5


def test_the_default_place_is_in_the_run_and_only_an_earlier_report_is_overwritten(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(3))
    for _ in range(2):
        assert hfx("report", "run", cwd=tmp_path).stdout == "report: run/report.html\n"
    refused = hfx("report", "run", "--output", "run/metrics.jsonl", cwd=tmp_path)
    assert refused.returncode == 2
    assert refused.stderr == "hfx: 'run/metrics.jsonl' is no report of hfx; choose another '--output'\n"
    assert len((run / "metrics.jsonl").read_text().splitlines()) == 3
    missing = hfx("report", "run", "--output", "no/page.html", cwd=tmp_path)
    assert missing.stderr.startswith("hfx: there is no folder 'no' for the report; make it")


def test_without_bokeh_the_extra_is_named(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", steps(3))
    (tmp_path / "bokeh.py").write_text("raise ImportError('No module named bokeh')\n")
    done = hfx("report", str(run), path=tmp_path)
    assert done.returncode == 1
    assert done.stderr == "hfx: 'hfx report' draws with bokeh (No module named bokeh); pip install 'hfx[report]'\n"


def test_a_run_goes_on_beside_its_report(seen: Path, tmp_path: Path) -> None:
    shutil.copytree(seen / "runs" / "done", tmp_path / "runs" / "done")
    shutil.copy(seen / "rows.jsonl", tmp_path)
    assert hfx("report", "runs/done", cwd=tmp_path).returncode == 0
    again = hfx("train", "--resume", "runs/done", "--steps", "8", cwd=tmp_path, HFX_CACHE=str(seen / "cache"))
    assert again.returncode == 0, again.stderr
    assert "of 8" in report(tmp_path, tmp_path / "runs" / "done").text
