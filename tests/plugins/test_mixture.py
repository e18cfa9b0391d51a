from __future__ import annotations

import json
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import hfx
from hfx.errors import ConfigError, DataError
from hfx.testing import Check, plugin_checks
from hfx.testing.tiny import tiny_rows, write_rows
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.samplers.cycles_impl import Groups
from hfx_plugins.samplers.interleave_impl import Interleaving, weights_of
from hfx_plugins.samplers.mixture import Mixture
from hfx_plugins.samplers.mixture_impl import Mixed
from sampled import Columns, Sampling, assert_slices_compose, furthest, whole

calm = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
sources = st.lists(st.integers(0, 2), min_size=1, max_size=60)
CONSTANT = 1.68
"""Half the sum of the reciprocal Fibonacci numbers: no source is further from shares that stay as they are."""
several = st.lists(st.integers(0, 65_536), min_size=1, max_size=30).filter(any)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("sources")
    write_rows(tiny_rows(6), found / "few.jsonl")
    write_rows(tiny_rows(60, 6), found / "many.jsonl")
    return found


CHECKS = plugin_checks(Mixture)
NAMED = [check.name for check in CHECKS]


@pytest.mark.parametrize("check", CHECKS, ids=str)
def test_mixture_conforms(check: Check) -> None:
    check()


@pytest.mark.parametrize("name", NAMED)
def test_mixture_of_two_sources_conforms(name, folder):
    options = {"shares": {"few": 1, "many": 2}, "changes": {20: {"few": 3, "many": 1}}, "unit": "token"}
    data = {name: str(folder / f"{name}.jsonl") for name in ("few", "many")}
    (check,) = [c for c in plugin_checks(Mixture, options=options, config={"data": data}) if c.name == name]
    check()


def sampler(cache, ids, seed=0, length=None, names=("a", "b", "c"), data=None, streams=False, **options):
    lengths = np.ones(len(ids), dtype=np.int64) if length is None else length
    table = Columns(tuple(names[: max(ids) + 1]), source=np.array(ids), length=lengths)
    return Mixture(**options).hfx_sampler(table, Sampling(cache, seed, data=data, streams=streams))


def all_there(ids):
    return set(ids) == set(range(max(ids) + 1))


# ── shares ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(deadline=None, max_examples=200)
@given(several, st.integers(1, 3_000))
def test_sources_are_within_two_samples_of_their_share_at_every_prefix(weights, count):
    groups, _ = Interleaving(weights).at(np.arange(count))
    assert furthest(groups, np.array(weights) / sum(weights)) < CONSTANT


def shares_of(count):
    return st.lists(st.sampled_from([0, 0, 1, 2, 7, 100, 65_000]), min_size=count, max_size=count).filter(any)


changing = st.integers(1, 30).flatmap(
    lambda count: st.lists(st.tuples(st.integers(1, 80), shares_of(count)), min_size=1, max_size=12)
)


def changed(phases):
    """Return how far any source is from its share at any prefix; none comes where it has no share, all are counted."""
    starts = np.cumsum([0, *(span for span, _ in phases)])
    made = Interleaving(phases[0][1], _starts(phases))
    groups, draws = made.at(np.arange(starts[-1]))
    shares = np.concatenate([np.tile(np.array(w) / sum(w), (span, 1)) for span, w in phases])
    assert (shares[np.arange(len(groups)), groups] > 0).all()
    for group in np.unique(groups):
        assert draws[groups == group].tolist() == list(range((groups == group).sum()))
    middle = len(groups) // 2
    assert made.counts(middle).tolist() == np.bincount(groups[:middle], minlength=shares.shape[1]).tolist()
    return furthest(groups, shares)


@settings(deadline=None, max_examples=200)
@given(changing)
def test_shares_that_change_are_met_at_every_prefix_within_three_samples(phases):
    assert changed(phases) < CONSTANT + 1


def random_phases(rng):
    count, longest = int(rng.choice([2, 3, 5, 8, 16, 30])), int(rng.choice([1, 5, 40, 400]))
    kinds = (
        lambda: rng.integers(0, 101, count),
        lambda: rng.integers(0, 2, count),
        lambda: (rng.random(count) < 0.5) * (rng.dirichlet(np.full(count, 0.3)) * 65_536).astype(int),
        lambda: rng.integers(0, 3, count) + 2_000 * (np.arange(count) == rng.integers(count)),
    )
    phases = []
    while len(phases) < 1 + rng.integers(40):
        shares = kinds[rng.integers(len(kinds))]().tolist()
        if any(shares):
            phases.append((int(rng.integers(1, longest + 1)), shares))
    return phases


@pytest.mark.parametrize("mixtures", [300, pytest.param(20_000, marks=pytest.mark.slow)])
def test_in_random_mixtures_with_up_to_forty_changes_it_is_two_samples(mixtures):
    rng = np.random.default_rng(0)
    assert max(changed(random_phases(rng)) for _ in range(mixtures)) <= 2


def test_changes_after_whole_rounds_of_the_shares_leave_no_source_off():
    made = Interleaving([3, 1, 0], {40: [1, 1, 2], 80: [0, 0, 1]})
    assert [made.counts(at).tolist() for at in (40, 80, 85)] == [[30, 10, 0], [40, 20, 20], [40, 20, 25]]


def test_sources_that_leave_one_after_the_other_are_not_paid_for_by_the_last():
    """The half that is behind leaves, again and again: an order that only looks back would be off by log2(n) / 2."""
    phases = [(16, [1] * 32)]
    for left in (16, 8, 4, 2, 1):
        taken = Interleaving(phases[0][1], _starts(phases)).counts(sum(span for span, _ in phases))
        ahead = np.argsort(-(taken - _due(phases)), kind="stable")[:left]
        phases.append((max(1, left // 2), np.isin(np.arange(32), ahead).astype(int).tolist()))
    assert changed(phases) < 1.5


def _starts(phases):
    starts = np.cumsum([0, *(span for span, _ in phases)])
    return {int(s): w for s, (_, w) in zip(starts[1:], phases[1:], strict=False)}


def _due(phases):
    return sum(span * np.array(w) / sum(w) for span, w in phases)


@given(several, st.integers(0, 10**12), st.integers(1, 50))
def test_a_position_far_out_is_that_of_the_sequence(weights, start, count):
    made = Interleaving(weights)
    groups, draws = made.at(np.arange(start, start + count))
    before, after = made.counts(start), made.counts(start + count)
    assert (np.bincount(groups, minlength=len(weights)) == after - before).all()
    for group in np.unique(groups):
        assert draws[groups == group].tolist() == list(range(before[group], after[group]))


@pytest.mark.parametrize(
    ("shares", "weights"),
    [([0.7, 0.2, 0.1], [7, 2, 1]), ([2, 1], [2, 1]), ([1, 1, 1], [1, 1, 1]), ([0.5, 0.0, 0.5], [1, 0, 1])],
)
def test_simple_shares_are_exact(shares, weights):
    assert weights_of(shares) == weights


@given(st.lists(st.floats(0.001, 1), min_size=1, max_size=20))
def test_other_shares_are_rounded_to_a_65_536th(shares):
    weights = weights_of(shares)
    for weight, share in zip(weights, shares, strict=True):
        assert abs(weight / sum(weights) - share / sum(shares)) <= 1 / 65_536


# ── samples ──────────────────────────────────────────────────────────────────────────────────────────────────────────


@calm
@given(sources, st.integers(0, 3), st.lists(st.integers(0, 10_000), max_size=4))
def test_an_epoch_is_the_same_however_it_is_cut(tmp_path, ids, epoch, cuts):
    assume(all_there(ids))
    assert_slices_compose(sampler(tmp_path, ids), epoch, cuts)


@calm
@given(sources, st.integers(1, 6))
def test_a_source_is_gone_through_as_a_whole_before_it_begins_again(tmp_path, ids, epochs):
    assume(all_there(ids))
    order = sampler(tmp_path, ids)
    rows = np.concatenate([whole(order, epoch) for epoch in range(epochs)])
    for source in set(ids):
        own = rows[np.array(ids)[rows] == source]
        count = ids.count(source)
        for start in range(0, len(own), count):
            assert len(set(own[start : start + count].tolist())) == len(own[start : start + count])


def test_a_source_that_is_used_up_comes_in_another_order(tmp_path):
    rows = whole(sampler(tmp_path, [0] * 30 + [1] * 300, shares={"a": 1, "b": 1}))
    own = rows[rows < 30]
    assert sorted(own[:30].tolist()) == sorted(own[30:60].tolist()) == list(range(30))
    assert own[:30].tolist() != own[30:60].tolist()


def test_sources_that_alternate_in_the_table_are_found_too(tmp_path):
    rows = sampler(tmp_path, [0, 1] * 50, shares={"a": 3, "b": 1}).rows(0, 0, 40)
    assert np.bincount(rows % 2).tolist() == [30, 10]


def test_shares_change_where_they_are_told_to_even_in_a_later_epoch(tmp_path):
    order = sampler(tmp_path, [0] * 10 + [1] * 10, shares={"a": 1, "b": 0}, changes={30: {"a": 0, "b": 1}}, size=20)
    assert (whole(order, 0) < 10).all()
    assert (whole(order, 1) < 10).tolist() == [True] * 10 + [False] * 10


def test_shares_of_tokens_hold_over_whole_epochs_of_the_sources_and_nearly_before(tmp_path):
    """Within samples nothing is more exact than a sample's length; over a source's own epoch its mean is its mean."""
    rng = np.random.default_rng(0)
    ids = np.repeat([0, 1], [2_000, 6_000])
    lengths = np.maximum(1, rng.lognormal(np.where(ids == 0, 5, 3), 0.8)).astype(np.int64)
    order = sampler(tmp_path, ids.tolist(), length=lengths, shares={"a": 1, "b": 3}, unit="token", size=60_000)
    rows = whole(order)
    taken = np.cumsum(np.where(rows < 2_000, lengths[rows], 0)) / np.cumsum(lengths[rows])
    means = lengths[:2_000].mean(), lengths[2_000:].mean()
    samples = np.array([1 / means[0], 3 / means[1]])
    assert furthest(ids[rows], samples / samples.sum()) < 2.5
    assert taken[-1] == pytest.approx(0.25, abs=0.005)
    assert taken[5_000:] == pytest.approx(np.full(len(taken) - 5_000, 0.25), abs=0.02)


@pytest.mark.parametrize("changes", [{}, {3_001: {"a": 5, "b": 1, "c": 0}, 7_777: {"a": 1, "b": 1, "c": 1}}])
def test_the_tokens_of_a_source_are_as_exact_as_its_samples_whenever_it_was_gone_through(tmp_path, changes):
    ids, size = np.repeat([0, 1, 2], [70, 310, 33]), 20_000
    lengths = np.maximum(1, np.random.default_rng(0).lognormal(np.array([5, 3, 4])[ids], 0.8)).astype(np.int64)
    phases = {0: {"a": 1, "b": 3, "c": 2}, **changes}
    order = sampler(tmp_path, ids.tolist(), length=lengths, shares=phases[0], changes=changes, unit="token", size=size)
    rows = whole(order)
    means = np.array([lengths[ids == source].mean() for source in range(3)])
    due = np.zeros((size, 3))
    for start in sorted(phases):
        samples = np.array(list(phases[start].values())) / means
        due[start:] = samples / samples.sum()
    due = np.cumsum(due, axis=0)
    for source in range(3):
        own = ids[rows] == source
        count, tokens = np.cumsum(own), np.cumsum(np.where(own, lengths[rows], 0))
        through = np.flatnonzero(own & (count % (ids == source).sum() == 0))
        assert len(through) > 5
        off = np.abs(tokens[through] - due[through, source] * means[source]) / means[source]
        # Shares of samples are rounded to 65,536ths, which adds up.
        assert (off <= CONSTANT + bool(changes) + through / 65_536).all()


def test_position_a_billion_of_a_trillion_rows_is_found_at_once():
    started = time.perf_counter()
    groups = Groups(np.array([7 * 10**11, 2 * 10**11, 10**11]))
    rows = Mixed(Interleaving([7, 2, 1]), groups, 10**12, 0).rows(0, 10**9, 10**9 + 10)
    assert np.bincount(np.searchsorted([7 * 10**11, 9 * 10**11], rows, side="right")).tolist() == [7, 2, 1]
    assert time.perf_counter() - started < 10


# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_misspelt_source_is_answered_with_the_nearest_before_anything_is_read(tmp_path):
    plugin = Mixture(shares={"wbe": 1, "code": 1})
    (problem,) = plugin.hfx_check(Sampling(tmp_path, data={"web": "w", "code": "c"}))
    assert problem.message == (
        "'mixture.shares' names the source 'wbe', which the data does not have; did you mean 'web'?"
    )
    with pytest.raises(ConfigError, match=r"did you mean 'web'\?"):
        sampler(tmp_path, [0, 1], names=("web", "code"), shares={"wbe": 1, "code": 1})


def test_a_change_is_checked_as_the_shares_are(tmp_path):
    plugin = Mixture(changes={5: {"web": 1}})
    (problem,) = plugin.hfx_check(Sampling(tmp_path, data={"web": "w", "code": "c"}))
    assert problem.message.startswith("'mixture.changes.5' has no share for the source 'code'")


def test_a_source_without_examples_is_named_unless_it_has_no_share(tmp_path):
    data = {"a": "x", "b": "y"}
    for shares in (None, {"a": 1, "b": 1}):
        with pytest.raises(DataError, match="the source 'b' has a share and no examples"):
            sampler(tmp_path, [0, 0], data=data, shares=shares)
    assert sampler(tmp_path, [0, 0], data=data, shares={"a": 1, "b": 0}).size(0) == 2


def test_a_stream_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'mixture' has to reach every source"):
        sampler(tmp_path, [0], streams=True)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_over_named_files_draws_them_in_their_shares(folder, make_run):
    data = {name: str(folder / f"{name}.jsonl") for name in ("few", "many")}
    mixture = Mixture(shares={"few": 1, "many": 1})
    run = make_run(mixture, Scratch(hidden_size=32, layers=1), data=data, batch_size=8, steps=4, seq_length=32)
    batches = run.order.batches(run.position)
    for _ in range(4):
        tables = [int(s.table.column("source")[s.rows[0]]) for s in next(batches).sequences]
        assert sorted(tables) == [0] * 4 + [1] * 4


def test_a_misspelt_source_ends_a_run_before_it_begins(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))
    with pytest.raises(hfx.HfxError, match=r"names the source 'feww'.* did you mean 'few'\?"):
        hfx.train(
            plugins=[Mixture(shares={"feww": 1, "many": 1})], steps=1, output=str(tmp_path / "run"),
            data={name: str(folder / f"{name}.jsonl") for name in ("few", "many")},
        )  # fmt: skip


def test_options_survive_being_written(tmp_path):
    plugin = Mixture(shares={"a": 1}, changes={10: {"a": 2}})
    assert Mixture(**json.loads(json.dumps(plugin.options()))).changes == {10: {"a": 2.0}}


def test_the_order_is_pinned_so_that_old_runs_can_be_resumed(tmp_path):
    shares, changes = {"a": 1, "b": 3}, {45: {"a": 2, "b": 1}}
    order = sampler(tmp_path, [0] * 4 + [1] * 16, seed=1, shares=shares, changes=changes)
    assert order.rows(2, 0, 12).tolist() == [7, 4, 2, 16, 9, 3, 6, 1, 2, 7, 3, 0]
