"""What holds for every tracker: what it is told, what it may cost, and what of a run it never sees."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from accelerate import PartialState
from hypothesis import given
from hypothesis import strategies as st

from hfx import Run
from hfx_plugins.tracking import trackers_impl
from hfx_plugins.tracking.told_impl import Figures, config_of, flat, numbers, public_address, recorded
from hfx_plugins.tracking.trackers_impl import Client, Feed, process_of_its_own


class Book:
    """A tracker that is away now and then."""

    def __init__(self, away: set[int] | None = None, trained: int = -1, evaluated: int = -1) -> None:
        self.pages: list[Figures] = []
        self.away = away or set()
        self.calls = 0
        self.closed: list[bool] = []
        self.known = (trained, evaluated)

    def open(self) -> Client:
        self._answer()
        return Client(self.log, self.closed.append, trained=self.known[0], evaluated=self.known[1])

    def log(self, figures: Figures) -> None:
        self._answer()
        self.pages.append(figures)

    def _answer(self) -> None:
        self.calls += 1
        if self.calls in self.away or 0 in self.away:
            raise ConnectionError("nobody\nanswers")


def page(step: int, evaluation: bool = False) -> Figures:
    return Figures(step, {"loss": float(step)}, evaluation)


def told(book: Book, pages: list[Figures]) -> None:
    with Feed("book", book.open, lambda: False) as feed:
        for figures in pages:
            feed.tell(figures)


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trackers_impl, "FIRST_PAUSE", 0.0)


@given(steps=st.integers(1, 30), away=st.sets(st.integers(1, 60)))
def test_a_tracker_that_fails_now_and_then_has_everything_once_and_in_order(steps: int, away: set[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers_impl, "FIRST_PAUSE", 0.0)
        book = Book(away)
        with Feed("book", book.open, lambda: False) as feed:
            for step in range(1, steps + 1):
                feed.tell(page(step))
            while feed._lacks:
                feed._guarded(feed._send)
    assert book.pages == [page(step) for step in range(1, steps + 1)]
    assert book.closed == [False]


@pytest.mark.usefixtures("impatient")
def test_a_tracker_that_always_fails_costs_one_warning_and_one_line_at_the_end(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told(Book({0}), [page(step) for step in range(1, 101)])
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "hfx: warning: 'book' failed (ConnectionError: nobody answers); the run goes on, and tries again now and then",
        "hfx: warning: 'book' lacks the last 100 of what it was told; 'metrics.jsonl' has all of it",
    ]


def test_a_tracker_that_failed_is_left_alone_for_a_minute_and_asked_once_more_at_the_end() -> None:
    book = Book({1})
    with Feed("book", book.open, lambda: False) as feed:
        for step in range(1, 101):
            feed.tell(page(step))
        assert book.calls == 1
    assert book.pages == [page(step) for step in range(1, 101)]


def test_pauses_double_and_end_at_half_an_hour() -> None:
    feed = Feed("book", Book({0}).open, lambda: False)
    pauses = []
    for step in range(8):
        feed._again_at = 0.0
        feed.tell(page(step))
        pauses.append(feed._pause)
    assert pauses == [60, 120, 240, 480, 960, 1800, 1800, 1800]


def test_what_waits_is_bounded_and_what_is_lost_is_counted(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trackers_impl, "MOST_WAITING", 10)
    feed = Feed("book", Book({0}).open, lambda: False)
    for step in range(25):
        feed.tell(page(step))
    assert [figures.step for figures in feed._waiting] == list(range(15, 25))
    feed.__exit__()
    assert "lacks the last 25 of what it was told" in capsys.readouterr().err


def test_what_a_tracker_has_from_a_killed_process_is_not_told_again() -> None:
    book = Book(trained=8, evaluated=4)
    told(book, [page(7), page(8), page(8, evaluation=True), page(9)])
    assert book.pages == [page(8, evaluation=True), page(9)]


@given(steps=st.integers(0, 12), known=st.integers(-1, 12), away=st.sets(st.integers(1, 20)))
def test_what_a_tracker_lacks_of_the_processes_before_it_is_told_first(steps: int, known: int, away: set[int]) -> None:
    past = [page(step, evaluation) for step in range(1, steps + 1) for evaluation in (False, True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trackers_impl, "FIRST_PAUSE", 0.0)
        book = Book(away, trained=known, evaluated=known)
        with Feed("book", book.open, lambda: False, past) as feed:
            feed.tell(page(13))
            while feed._lacks:
                feed._guarded(feed._send)
    assert book.pages == [*(figures for figures in past if figures.step > known), page(13)]


def test_an_evaluation_that_was_made_up_for_and_recorded_is_told_once() -> None:
    book, late = Book(trained=2, evaluated=1), page(2, evaluation=True)
    with Feed("book", book.open, lambda: False, [page(1), page(1, evaluation=True), page(2), late]) as feed:
        feed.tell(late)
        feed.tell(page(3))
    assert book.pages == [late, page(3)]


def test_what_was_recorded_is_read_up_to_a_step_and_evaluations_keep_their_own_figures_alone(tmp_path: Path) -> None:
    lines = [
        {"step": 1, "loss": 3.0, "epoch": 0.5},
        {"step": 1, "epoch": 0.5, "eval_loss": 2.0},
        {"step": 2, "loss": 1},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert list(recorded(tmp_path / "metrics.jsonl", 2)) == [
        Figures(1, {"loss": 3.0, "epoch": 0.5}, False),
        Figures(1, {"eval_loss": 2.0}, True),
    ]
    assert list(recorded(tmp_path / "metrics.jsonl", 1)) == []
    assert list(recorded(tmp_path / "missing.jsonl", 5)) == []


def test_a_tracker_that_was_never_told_anything_is_never_opened() -> None:
    book = Book()
    told(book, [])
    assert (book.calls, book.closed) == (0, [])


def test_only_numbers_are_told_and_the_step_is_none_of_them() -> None:
    metrics = {"step": 3, "loss": 0.5, "tokens": 7, "skipped": True, "note": "text", "none": None}
    assert numbers(metrics) == {"loss": 0.5, "tokens": 7, "skipped": 1}


# ── secrets ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("https://me:secret@host/a/b.jsonl?token=secret#secret", "https://host/a/b.jsonl"),
        ("postgresql://me:se@cret@host:5432/rows", "postgresql://host:5432/rows"),
        ("https://host?token=secret", "https://host"),
        ("s3://bucket/rows/*.jsonl", "s3://bucket/rows/*.jsonl"),
        ("C:/rows/what?.jsonl", "C:/rows/what?.jsonl"),
        ("env:TOKEN", "env:TOKEN"),
    ],
)
def test_an_address_is_shown_without_what_gives_access(given: str, shown: str) -> None:
    assert public_address(given) == shown


@given(user=st.text(st.characters(categories=["L", "N"]), min_size=1), mark=st.sampled_from("?#"))
def test_no_address_shows_a_user_or_a_query(user: str, mark: str) -> None:
    secret = f"SECRET{user}"
    assert "SECRET" not in public_address(f"https://{secret}:{secret}@host/rows{mark}key={secret}")


def test_the_config_of_a_run_has_fields_plugins_and_versions_and_no_secret(make_run: Callable[..., Run]) -> None:
    data = {"mine": "https://host/rows.jsonl?token=secret"}
    run = make_run(data=data, steps=3, plugins={"stream": {"headers": {"Authorization": "env:TOKEN"}}})
    config = config_of(run)
    assert "secret" not in str(config)
    assert config["run"]["data"] == {"mine": "https://host/rows.jsonl"}
    assert config["run"]["steps"] == 3
    assert config["plugins"]["cosine"]["package"].startswith("hfx ")
    assert flat(config)["run.data.mine"] == "https://host/rows.jsonl"


def test_a_config_in_one_level_has_dotted_names_and_nothing_empty() -> None:
    assert flat({"a": {"b": 1, "c": None, "d": []}, "e": ["x", 2], "f": True, "g": {}}) == {
        "a.b": 1,
        "e": "x, 2",
        "f": True,
    }


# ── accelerate's state ───────────────────────────────────────────────────────────────────────────────────────────────


def test_accelerate_takes_this_process_for_the_only_one_and_forgets_it_afterwards(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    PartialState._reset_state()  # a Trainer of another test in this process may have left one
    ranks = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    for name, value in ranks.items():
        monkeypatch.setenv(name, value)
    before = dict(os.environ)
    with process_of_its_own():
        assert PartialState().num_processes == 1
        assert dict(os.environ) == before
    assert PartialState._shared_state == {}
    assert dict(os.environ) == before


def test_a_state_of_accelerate_that_is_there_stays() -> None:
    try:
        state = PartialState(cpu=True)
        with process_of_its_own():
            assert PartialState().__dict__ is state.__dict__
        assert PartialState._shared_state
    finally:
        PartialState._reset_state()


# ── packages ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb", "mlflow"])
def test_a_missing_package_is_named_with_what_installs_it(name: str, tmp_path: Path) -> None:
    code = (
        "import sys, importlib.util\n"
        "real = importlib.util.find_spec\n"
        f"importlib.util.find_spec = lambda n, *a: None if n == {name!r} else real(n, *a)\n"
        f"sys.argv = ['hfx', 'train', '--plugin', {name!r}, '--output', 'run']\n"
        "from hfx.__main__ import main\n"
        "sys.exit(main())\n"
    )
    environ = os.environ | {"HFX_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, text=True, capture_output=True, timeout=100
    )
    assert done.returncode == 2
    assert f"'{name}' needs the package" in done.stderr
    assert f"pip install 'hfx[{name}]'" in done.stderr
    assert not (tmp_path / "run").exists()
