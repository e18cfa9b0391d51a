"""What is asked of a source: the same rows every time, each once, from any row on."""

from __future__ import annotations

import json
from itertools import islice

from hfx.errors import HfxError
from hfx.protocols import BadRow, Row, Rows
from hfx.run import Run
from hfx.testing.bench import Bench
from hfx.testing.elastic import ORDER
from hfx.testing.tiny import tiny_rows, write_rows

MOST = 400
"""Rows looked at: a source may be large, or endless."""


def _rows(run: Run, split: str = "train") -> Rows:
    return run.hooks.source(split=split, run=run)


def _read(rows: Rows, start: int = 0, most: int = MOST) -> list[tuple[str, str]]:
    return [_content(row) for row in islice(rows.source.read(start), most)]


def _content(row: Row | BadRow) -> tuple[str, str]:
    assert isinstance(row, Row | BadRow), f"`read` yields a {type(row).__name__}; it has to yield Row or BadRow"
    body = json.dumps(row.values, sort_keys=True, default=str) if isinstance(row, Row) else row.reason
    return str(row.place), body


def yields_rows_whose_values_are_json(bench: Bench) -> None:
    """Rows are kept on disk as JSON."""
    with bench.run() as run:
        found = list(islice(_rows(run).source.read(), MOST))
    assert found, "the source yields no row"
    for row in found:
        assert isinstance(row, Row | BadRow), f"`read` yields a {type(row).__name__}; it has to yield Row or BadRow"
        if isinstance(row, Row):
            again = json.loads(json.dumps(row.values, default=str))
            assert again.keys() == row.values.keys(), f"the row at {row.place} has columns whose names are no text"
            assert row.values, f"the row at {row.place} has no columns"


def reading_twice_yields_the_same(bench: Bench) -> None:
    """A resumed run reads again; another machine does too."""
    with bench.run() as run:
        rows = _rows(run)
        first, again, other = _read(rows), _read(rows), _read(_rows(run))
    assert first == again, "reading the source a second time yields other rows"
    assert first == other, "a source made a second time yields other rows"


def reading_from_a_row_skips_those_before_it(bench: Bench) -> None:
    """`read(n)` is how the blocks of a stream are fetched."""
    with bench.run() as run:
        rows = _rows(run)
        whole = _read(rows)
        for start in {1, len(whole) // 2, len(whole) - 1}:
            assert _read(rows, start, MOST - start) == whole[start:], f"`read({start})` does not go on at row {start}"
        if len(whole) < MOST:
            assert not _read(rows, len(whole)), "`read` yields rows behind the last one"


def no_row_comes_twice(bench: Bench) -> None:
    """Every place is named once; of the kit's rows, which all differ, none is repeated or lost."""
    with bench.run() as run:
        found = _read(_rows(run))
    places = [place for place, _ in found]
    assert len(set(places)) == len(places), f"{_repeated(places)} comes more than once"
    own = {json.dumps(row, sort_keys=True, default=str) for row in bench.rows}
    bodies = [body for _, body in found]
    if bodies and set(bodies) <= own:
        assert len(set(bodies)) == len(bodies), "a row of the data is yielded more than once, under different places"
        assert set(bodies) == own, f"{len(own) - len(set(bodies))} rows of the data are missing"


def _repeated(places: list[str]) -> str:
    return next(place for place in places if places.count(place) > 1)


def its_fingerprint_is_stable(bench: Bench) -> None:
    """Prepared data is found again by it."""
    with bench.run() as run:
        rows = _rows(run)
        first = rows.source.fingerprint()
        _read(rows, most=5)
        assert isinstance(first, str), f"`fingerprint` returns {first!r}; it has to return text"
        assert first, "`fingerprint` returns an empty text"
        assert first == rows.source.fingerprint(), "`fingerprint` is another one after reading"
        assert first == _rows(run).source.fingerprint(), "a source made a second time has another fingerprint"


def says_whether_it_is_indexed(bench: Bench) -> None:
    """Indexed data is one block; anything else is read as a stream."""
    with bench.run() as run:
        indexed = _rows(run).source.indexed
    assert indexed is True or indexed is False, f"`indexed` is {indexed!r}; it has to be True or False"


def other_data_is_another_fingerprint(bench: Bench) -> None:
    """Data that grew must not be served from what was prepared before; a source may also refuse `data`."""
    grown = write_rows([*bench.rows, *tiny_rows(3, first=900)], bench.folder / "grown.jsonl")
    with bench.run() as run:
        before, rows = _rows(run).source.fingerprint(), _read(_rows(run))
    try:
        with bench.run(data=str(grown)) as run:
            after, grown_rows = _rows(run).source.fingerprint(), _read(_rows(run))
    except HfxError:
        assert "data" not in bench.fields or "data" in bench.config, "the source cannot read data that has grown"
    else:
        assert (before == after) == (rows == grown_rows), "other rows have the same fingerprint, or the same another"


def evaluation_rows_are_those_of_eval_data(bench: Bench) -> None:
    """A source that ignores the split would evaluate on what it trains on; one may also refuse `eval_data`."""
    held_out = write_rows(tiny_rows(5, first=500), bench.folder / "eval.jsonl")
    given = bench.config.get("eval_data") or str(held_out)
    try:
        with bench.run(eval_data=given) as run:
            train, held = _read(_rows(run, "train")), _read(_rows(run, "eval"))
    except HfxError:
        assert "data" not in bench.fields or "data" in bench.config, "the source cannot read the rows of 'eval_data'"
    else:
        common = {body for _, body in train} & {body for _, body in held}
        assert held, "the source yields no row for the split 'eval'"
        assert not common, f"{len(common)} rows of the split 'eval' are training rows"


SOURCE = (
    yields_rows_whose_values_are_json,
    reading_twice_yields_the_same,
    reading_from_a_row_skips_those_before_it,
    no_row_comes_twice,
    its_fingerprint_is_stable,
    says_whether_it_is_indexed,
    other_data_is_another_fingerprint,
    evaluation_rows_are_those_of_eval_data,
    *ORDER,
)
