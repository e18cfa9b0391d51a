from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import hfx
from hfx.errors import ConfigError, DataError
from hfx_plugins.models.scratch import Scratch
from hfx_plugins.samplers.balanced import Balanced
from hfx_plugins.samplers.shuffle import Shuffle
from hfx_plugins.tasks.classification import Classification
from sampled import Columns, Sampling, assert_slices_compose, furthest, whole

calm = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
labels = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=80)


def sampler(cache, values, seed=0, streams=False, **options):
    return Balanced(**options).hfx_sampler(Columns(label=values), Sampling(cache, seed, streams=streams))


@calm
@given(labels, st.sampled_from(["over", "under"]), st.integers(0, 4), st.lists(st.integers(0, 10_000), max_size=4))
def test_an_epoch_is_the_same_however_it_is_cut(tmp_path, values, mode, epoch, cuts):
    assert_slices_compose(sampler(tmp_path, values, mode=mode), epoch, cuts)


@calm
@given(labels, st.sampled_from(["over", "under"]))
def test_classes_have_their_share_of_every_prefix(tmp_path, values, mode):
    names, ids = np.unique(values, return_inverse=True)
    found = ids[whole(sampler(tmp_path, values, mode=mode))]
    assert furthest(found, np.full(len(names), 1 / len(names))) < 2


@calm
@given(labels, st.sampled_from(["over", "under"]), st.integers(1, 5))
def test_the_examples_of_a_class_are_used_equally_often_over_all_epochs(tmp_path, values, mode, epochs):
    order = sampler(tmp_path, values, mode=mode)
    seen = np.bincount(np.concatenate([whole(order, e) for e in range(epochs)]), minlength=len(values))
    for name in set(values):
        own = seen[np.array(values) == name]
        assert own.max() - own.min() <= 1


def test_every_class_is_within_one_percent_after_50_000_draws_of_one_to_a_thousand(tmp_path):
    order = sampler(tmp_path, ["rare"] * 50 + ["common"] * 50_000)
    found = order.rows(0, 0, 50_000) < 50
    assert abs(found.mean() - 0.5) < 0.01 * 0.5
    assert order.size(0) == pytest.approx(100_000, abs=2)


def test_oversampling_uses_every_example_and_undersampling_none_twice(tmp_path):
    values = ["a"] * 7 + ["b"] * 90
    over, under = (whole(sampler(tmp_path, values, mode=mode)) for mode in ("over", "under"))
    assert set(over.tolist()) == set(range(97))
    assert len(set(under.tolist())) == len(under) == 14


def test_target_shares_are_those_asked_for_and_zero_leaves_a_class_out(tmp_path):
    order = sampler(tmp_path, ["a"] * 50 + ["b"] * 50 + ["c"] * 900, shares={"a": 1, "b": 3, "c": 0})
    counts = np.bincount(np.minimum(order.rows(0, 0, 40) // 50, 2), minlength=3)
    assert counts.tolist() == [10, 30, 0]


def test_labels_may_be_numbers_or_truth_values(tmp_path):
    for values, shares in (([0, 1, 1], {"0": 1, "1": 1}), ([True, False, True], {"true": 1, "false": 1})):
        assert sampler(tmp_path, values, shares=shares).size(0) == 4


def test_the_order_follows_the_seed_and_goes_on_from_epoch_to_epoch(tmp_path):
    values = ["a", "b"] * 40
    orders = {tuple(whole(sampler(tmp_path, values, seed), epoch)) for seed in (0, 1) for epoch in (0, 1)}
    assert len(orders) == 4


def test_a_misspelt_class_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(ConfigError, match=r"the class 'spma', which the data does not have; did you mean 'spam'\?"):
        sampler(tmp_path, ["spam", "ham"], shares={"spma": 1, "ham": 1})


@pytest.mark.parametrize(
    ("shares", "what"),
    [({"a": 1}, "no share for the class 'b'; give it one, or 0"), ({"a": 0, "b": 0}, "all shares"),
     ({"a": 1, "b": 1e-9}, "'b' in 'balanced.shares' is below 1/65536")],
)  # fmt: skip
def test_shares_that_say_too_little_are_refused(tmp_path, shares, what):
    with pytest.raises(ConfigError, match=what):
        sampler(tmp_path, ["a", "b"], shares=shares)


def test_an_example_without_a_class_is_named_by_its_row(tmp_path):
    with pytest.raises(DataError, match="row 1 has no class in 'label'; mend"):
        sampler(tmp_path, np.array(["a", None, "b"], dtype=object))


@pytest.mark.parametrize(("values", "shares"), [([], None), (["a", "a"], {"a": 0, "b": 1}), (["a"], {"b": 1})])
def test_of_a_block_of_a_stream_with_nothing_to_draw_nothing_is_drawn(tmp_path, values, shares):
    order = sampler(tmp_path, np.array(values, dtype=object), streams=True, shares=shares)
    assert order.size(0) == 0
    assert len(order.rows(0, 0, 9)) == 0


def test_a_block_of_a_stream_need_not_have_every_class(tmp_path):
    assert sampler(tmp_path, ["a", "a"], streams=True, shares={"a": 1, "b": 1}).size(0) == 2
    with pytest.raises(ConfigError, match="'b'"):
        sampler(tmp_path, ["a", "a"], shares={"a": 1, "b": 1})


def imbalanced(path, count, every, seed):
    """Write rows of ten words; one in `every` is rare, and a third of its words tell."""
    rng = np.random.default_rng(seed)
    with path.open("w") as file:
        for number in range(count):
            rare = number % every == 0
            words = [f"w{n}" for n in rng.integers(0, 20, 8)]
            for place in rng.choice(8, 2, replace=False):
                words[place] = f"{'r' if rare else 'c'}{rng.integers(0, 4)}" if rng.random() < 0.75 else words[place]
            kind = "rare" if rare else "common"
            file.write(json.dumps({"text": " ".join(words), "label": kind, "kind": kind}) + "\n")
    return str(path)


def test_macro_f1_on_an_imbalanced_set_is_higher_than_with_shuffle(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))
    data = imbalanced(tmp_path / "train.jsonl", 2_000, 40, 0)
    test = imbalanced(tmp_path / "test.jsonl", 800, 8, 1)
    found = {}
    for order in (Shuffle(), Balanced(column="kind")):
        result = hfx.train(
            plugins=[Classification(), Scratch(hidden_size=32, layers=1), order, "no:progress"],
            data=data, eval_data=test, output=str(tmp_path / order.name), steps=60, batch_size=32, seq_length=32,
        )  # fmt: skip
        found[order.name] = result.metrics["eval_macro_f1"]
    with capsys.disabled():
        print(f"\nmacro-F1 with shuffle {found['shuffle']:.3f}, with balanced {found['balanced']:.3f}")
    assert found["balanced"] > found["shuffle"] + 0.1


def test_the_order_is_pinned_so_that_old_runs_can_be_resumed(tmp_path):
    order = sampler(tmp_path, ["a"] * 3 + ["b"] * 9, seed=1)
    assert order.rows(2, 1, 13).tolist() == [3, 0, 8, 2, 11, 1, 6, 2, 5, 0, 7, 0]
