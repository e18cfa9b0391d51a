from __future__ import annotations

import json
import random
import sys
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hfx import Place, Row
from hfx.errors import DataError
from hfx_plugins.cleaning import near_dedup_clusters_impl, near_dedup_impl
from hfx_plugins.cleaning.near_dedup import NearDedup
from hfx_plugins.cleaning.near_dedup_shingles_impl import shingles

LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORDS = ["".join(random.Random(n).choices(LETTERS, k=2 + n % 9)) for n in range(5_000)]


def rows_of(texts, numbers=None):
    numbers = range(len(texts)) if numbers is None else numbers
    return [Row({"text": text}, Place("s", "f", n + 1), n) for n, text in zip(numbers, texts, strict=True)]


@cache
def plain_set(text):
    words = text.split()
    return {tuple(words[at : at + 5]) for at in range(max(1, len(words) - 4))} if words else set()


def jaccard(left, right):
    return len(plain_set(left) & plain_set(right)) / len(plain_set(left) | plain_set(right))


def corpus(count, rng, length=60):
    """Texts of which about half alter an earlier one, more or less."""
    texts: list[str] = []
    for _ in range(count):
        words = rng.choices(WORDS, k=length)
        if texts and rng.random() < 0.5:
            words = rng.choice(texts).split()
            for _ in range(rng.choice([0, 1, 1, 2, 3, 6])):
                words[rng.randrange(length)] = rng.choice(WORDS)
        texts.append(" ".join(words))
    return texts


def survivors(texts, threshold):
    """The first text of each connected component, by comparing every pair."""
    roots = list(range(len(texts)))
    for left, right in combinations(range(len(texts)), 2):
        if roots[left] != roots[right] and jaccard(texts[left], texts[right]) >= threshold:
            low, high = sorted([roots[left], roots[right]])
            roots = [low if root == high else root for root in roots]
    return set(roots)


# ── shingles ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@settings(max_examples=200, deadline=None)
@given(st.lists(st.lists(st.text(LETTERS + "0é日", max_size=70), max_size=12), max_size=6), st.integers(1, 6))
def test_runs_of_words_are_those_of_plain_python(texts, ngram):
    texts = [[word for word in words if word and "日" not in word] for words in texts]
    counts = [max(1, len(words) - ngram + 1) if words else 0 for words in texts]
    found = shingles([" ".join(words) for words in texts], ngram)
    assert found.counts.tolist() == counts
    plain = [tuple(words[at : at + ngram]) for words, count in zip(texts, counts, strict=True) for at in range(count)]
    hashes = found.hashes.tolist()
    assert len(set(zip(plain, hashes, strict=True))) == len(set(plain)) == len(set(hashes))


def test_a_text_has_the_same_runs_whatever_lies_beside_it():
    texts = [
        "one two three four five six",
        "short",
        "",
        "Größe 日本語テキスト und 한국어 " + "x" * 40,
        "a b c d e f g h",
    ]
    together = shingles(texts, 5)
    alone = [shingles([text], 5) for text in texts]
    assert together.counts.tolist() == [int(found.counts[0]) for found in alone]
    assert together.hashes.tolist() == [value for found in alone for value in found.hashes.tolist()]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Don't  STOP—now\u00a0“please”!", "don t stop now please"),
        ("日本語、text", "日 本 語 text"),
        ("x日y", "x 日 y"),
        ("สวย a", "ส ว ย a"),
        ("naïve Ünal", "naïve ünal"),
        ("a😀b", "a 😀 b"),
        ("tab\tnew\nline\x00nul", "tab new line nul"),
    ],
)
def test_case_punctuation_and_spaces_do_not_count_and_scripts_without_spaces_are_cut(text, words):
    assert shingles([text], 1).hashes.tolist() == [shingles([word], 1).hashes[0] for word in words.split()]


def test_words_that_differ_anywhere_have_other_hashes():
    words = [base[:at] + "z" + base[at + 1 :] for base in ("a" * 5, "b" * 8, "c" * 24, "d" * 32, "e" * 90) for at in
             range(len(base))] + ["a" * n for n in range(1, 100)]  # fmt: skip
    assert len(set(shingles(words, 1).hashes.tolist())) == len(set(words))


# ── clusters ─────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9])
def test_whatever_is_linked_is_linked_in_truth_and_little_is_missed(threshold):
    texts = corpus(400, random.Random(3))
    expected = set(range(len(texts))) - survivors(texts, threshold)
    drops = NearDedup(threshold=threshold).drops(rows_of(texts))
    assert set(drops) <= expected
    assert len(drops) >= (0.8 if threshold == 0.5 else 0.95) * len(expected) > 30
    assert set(drops.values()) == {"near_duplicate"}


def test_it_finds_what_datasketch_finds():
    from datasketch import MinHash, MinHashLSH

    texts = corpus(300, random.Random(4))
    oracle = MinHashLSH(num_perm=126, params=(18, 7))
    linked = set()
    for number, text in enumerate(texts):
        sketch = MinHash(num_perm=126, seed=9)
        sketch.update_batch([" ".join(run).encode() for run in plain_set(text)])
        linked |= {(int(other), number) for other in oracle.query(sketch)}
        oracle.insert(str(number), sketch)
    sure = {pair for pair in linked if jaccard(texts[pair[0]], texts[pair[1]]) >= 0.85}
    drops = NearDedup().drops(rows_of(texts))
    assert len(sure) > 30
    assert {later for _, later in sure} <= set(drops)
    assert all(any(jaccard(texts[number], other) >= 0.7 for at, other in enumerate(texts) if at != number)
               for number in drops)  # fmt: skip


def test_of_5000_planted_pairs_at_four_fifths_97_percent_are_found_and_none_below_one_half():
    rng = np.random.default_rng(1)
    texts = []
    for number in range(5_500):
        words = rng.integers(0, 10**6, 104).astype(str)  # 100 runs; of each text 11 are lost where 89 of 111 are shared
        other = words.copy()
        other[[20, 50, 103] if number < 5_000 else range(2, 104, 13)] = "new"
        texts += [" ".join(words), " ".join(other)]
    assert jaccard(*texts[:2]) == pytest.approx(0.802, abs=0.001)
    assert jaccard(*texts[-2:]) < 0.5
    drops = NearDedup().drops(rows_of(texts))
    assert all(number % 2 == 1 and number < 10_000 for number in drops)
    assert len(drops) >= 0.97 * 5_000


def test_the_lowest_number_of_a_chain_stays_whatever_the_order_of_rows():
    words = random.Random(5).choices(WORDS, k=200)
    chain = [" ".join(words[at : at + 150]) for at in (0, 10, 20, 30, 40)]
    assert jaccard(chain[0], chain[4]) < 0.7 < jaccard(chain[0], chain[1])
    for numbers in ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], [3, 0, 4, 2, 1]):
        drops = NearDedup().drops(rows_of(chain, numbers))
        assert set(drops) == {1, 2, 3, 4}
        assert drops.facts["largest_cluster"] == 5


def test_short_texts_are_compared_whole_and_texts_without_words_are_kept():
    texts = ["hello there", "Hello, there!", "hello you", "", "", "...", "...", "one", "one"]
    assert set(NearDedup().drops(rows_of(texts))) == {1, 8}


def test_no_rows_and_rows_without_strings_have_no_duplicates():
    assert NearDedup().drops([]) == {}
    drops = NearDedup().drops([Row({"n": 1}, Place("s", "f", n), n) for n in range(3)])
    assert drops == {}
    assert drops.facts["clusters"] == 0


def test_the_outcome_does_not_depend_on_batches(monkeypatch):
    rows = rows_of(corpus(150, random.Random(6)))
    usual = NearDedup().drops(rows)
    for texts in (1, 7, 1_000):
        monkeypatch.setattr(near_dedup_impl, "_BATCH_TEXTS", texts)
        monkeypatch.setattr(near_dedup_clusters_impl, "_VOLUME", texts)
        again = NearDedup().drops(iter(rows))
        assert (again, again.facts) == (usual, usual.facts)


def test_many_copies_of_two_similar_texts_cost_one_comparison_each():
    words = random.Random(7).choices(WORDS, k=100)
    other = [*words[:70], *random.Random(8).choices(WORDS, k=30)]
    texts = [" ".join(words), " ".join(other)] * 1_000
    assert 0.5 < jaccard(texts[0], texts[1]) < 0.7
    drops = NearDedup().drops(rows_of(texts))
    assert set(drops) == set(range(2, 2_000))
    assert drops.facts["pairs_verified"] < 2_050


def test_a_crowded_bucket_ends_and_says_what_it_left(monkeypatch):
    rng = random.Random(9)
    stem = rng.choices(WORDS, k=60)
    texts = [" ".join([*stem, *rng.choices(WORDS, k=25)]) for _ in range(400)]
    monkeypatch.setattr(near_dedup_clusters_impl, "ROUNDS", 5)
    drops = NearDedup().drops(rows_of([*texts, *texts]))
    assert set(drops) == set(range(400, 800))
    assert drops.facts["left_unverified"] > 0
    assert drops.facts["pairs_verified"] < 400 + 18 * 5 * 400


def test_large_buckets_of_near_copies_become_one_cluster():
    rng = random.Random(10)
    stem = rng.choices(WORDS, k=200)
    texts = [" ".join([*stem, rng.choice(WORDS), str(n)]) for n in range(500)]
    drops = NearDedup().drops(rows_of(texts))
    assert set(drops) == set(range(1, 500))
    assert drops.facts["pairs_verified"] < 3 * 500


# ── options and runs ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_columns_narrow_what_is_compared_and_a_misspelt_one_is_an_error_with_the_nearest():
    rows = [Row({"text": "the same old text again", "other": WORDS[n]}, Place("s", "f", n), n) for n in range(2)]
    assert not NearDedup().drops(rows)
    assert set(NearDedup(columns=["text"]).drops(rows)) == {1}
    with pytest.raises(DataError, match=r"'near_dedup' is to compare the column 'txet', .* did you mean 'text'"):
        NearDedup(columns=["txet"]).drops(rows)


def test_a_threshold_below_one_half_is_refused_because_the_bands_would_miss_too_much():
    with pytest.raises(ValidationError, match="threshold"):
        NearDedup(threshold=0.4)


def test_without_rensa_the_error_says_what_to_install_before_data_is_read(make_run, monkeypatch):
    monkeypatch.setitem(sys.modules, "rensa", None)
    run = make_run(NearDedup())
    assert [problem.message for problem in run.hooks.check(run=run)] == [
        "'near_dedup' needs the package rensa; pip install 'hfx[dedup]'"
    ]
    with pytest.raises(DataError, match=r"'near_dedup' needs the package rensa; pip install 'hfx\[dedup\]'"):
        NearDedup().drops([])


def test_a_run_keeps_the_same_rows_on_any_number_of_processes_and_leaves_no_files(make_run, tmp_path):
    texts = corpus(120, random.Random(11))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    kept = {}
    for processes in (1, 2):
        run = make_run(NearDedup(), data=str(data), eval_share=0, num_proc=processes)
        run.cache = tmp_path / f"cache{processes}"
        kept[processes] = [row.number for row in run.rows()]
        assert not list(run.cache.rglob("*.partial"))
    assert kept[1] == kept[2]
    report = run.rows().report
    assert report.dropped == {"near_dedup.near_duplicate": 120 - len(kept[1])}
    assert report.facts["near_dedup"]["rows"] == 120
