from __future__ import annotations

import ast
import inspect
import json
import pickle

import pytest

from hfx import Row
from hfx.errors import ConfigError
from hfx_plugins.sources.stdlib import Stdlib


@pytest.fixture
def source(make_run):
    def make(**options):
        run = make_run(Stdlib(**options))
        return run.hooks.source(split="train", run=run).source

    return make


def test_a_row_is_a_function_or_class_with_its_module_and_package(source):
    rows = list(source(packages=["json"]).read())
    assert all(isinstance(row, Row) for row in rows)
    texts = {row.values["text"]: row for row in rows}
    dumps = texts[inspect.getsource(json.dumps).rstrip("\n")]
    assert dumps.values["module"] == dumps.values["package"] == "json"
    assert dumps.place.row == inspect.getsourcelines(json.dumps)[1]
    assert {row.values["module"] for row in rows} >= {"json", "json.decoder", "json.encoder"}
    assert {row.values["package"] for row in rows} == {"json"}


def test_decorators_belong_to_their_definition(source):
    decorated = [row.values["text"] for row in source(packages=["typing"]).read() if row.values["text"][0] == "@"]
    assert decorated
    assert all(len(ast.parse(text).body) == 1 for text in decorated)


def test_a_row_can_be_a_whole_module(source):
    rows = list(source(packages=["json"], row="file").read())
    assert [row.values["module"] for row in rows] == sorted(row.values["module"] for row in rows)
    assert next(row.values["text"] for row in rows if row.values["module"] == "json") == inspect.getsource(json)


def test_the_whole_library_is_read_without_tests_and_installed_packages(source):
    found = source()
    modules = {module.name for module in found.modules}
    assert len(modules) > 300
    assert {"asyncio.events", "argparse", "json"} <= modules
    assert not [name for name in modules if {"test", "tests", "idlelib", "site-packages"} & set(name.split("."))]
    assert sum(isinstance(row, Row) for row in found.read()) > 2000


def test_a_limit_takes_rows_from_all_over_the_library(source):
    rows = list(source(limit=200).read())
    assert len(rows) == 200
    assert len({row.values["package"] for row in rows}) > 3


def test_reading_repeats_itself_and_can_start_anywhere(source):
    found = source(packages=["json", "csv"], limit=9)
    everything = list(found.read())
    assert len(everything) == 9
    assert list(pickle.loads(pickle.dumps(found)).read()) == everything  # noqa: S301
    assert list(found.read(4)) == everything[4:]


def test_the_fingerprint_follows_modules_and_options(source):
    base = source(packages=["json"]).fingerprint()
    assert source(packages=["json"]).fingerprint() == base
    others = [{"packages": ["csv"]}, {"packages": ["json"], "row": "file"}, {"packages": ["json"], "limit": 3}]
    assert len({base, *(source(**options).fingerprint() for options in others)}) == 4


def test_the_summary_says_what_is_read(source):
    assert source(packages=["json"]).summary().endswith("library by definition")
    assert source(packages=["json"], limit=3).summary().endswith("at most 3 rows")


def test_an_unknown_package_is_answered_with_the_nearest(source):
    with pytest.raises(ConfigError, match=r"no package 'jsn'.*did you mean 'json'"):
        source(packages=["jsn"])


@pytest.mark.parametrize("field", ["data", "eval_data"])
def test_data_that_is_given_beside_it_is_a_problem(make_run, field):
    run = make_run(Stdlib(), **{field: "corpus.txt"})
    assert any("'stdlib' reads no 'data'" in problem.message for problem in run.hooks.check(run=run))
