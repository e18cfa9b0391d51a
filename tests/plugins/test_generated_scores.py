"""Scores of what a model writes in an evaluation, against the libraries' own over plain transformers' texts."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

import hfx as framework
from command_line import hfx
from hfx import Run, World
from hfx.api import problems
from hfx.errors import ConfigError, IncompatibleError
from hfx.evaluation import evaluate
from hfx.plan import plan
from hfx.resolve import resolve
from hfx_plugins.tasks.text_scores_impl import SCORES
from library_scores import FIGURES, of_libraries, scores_of
from overfitting import evaluations

ALL = ["rouge", "bleu", "chrf"]
COLOURS = ["red", "green", "blue", "grey"]
THINGS = ["door", "boat", "lamp", "tree", "wall"]
SAID = ["The", "is", "not", ",", ".", "it", "It", "\n"]
WORDS = ["<pad>", "</s>", "<unk>", *COLOURS, *THINGS, *SAID]


# ── the counts ───────────────────────────────────────────────────────────────────────────────────────────────────────

TEXTS = st.lists(
    st.sampled_from(["", "a", "The", "boat", "boat,", "-", ".", "don't", "&amp;", "12.5", "für", "中文", "\n", "-\n"]),
    max_size=9,
).map(" ".join)
ROWS = st.lists(st.tuples(TEXTS, TEXTS.filter(str.strip)), min_size=1, max_size=12)


def summed(parts: Sequence[Sequence[tuple[str, str]]]) -> dict[str, float]:
    """Return the figures of rows of several ranks, each of which adds up its own in float64."""
    figures: dict[str, float] = {}
    for kind in SCORES.values():
        score = kind()
        states = [torch.zeros(score.size, dtype=torch.float64) for _ in parts]
        for state, rows in zip(states, parts, strict=True):
            for written, meant in rows:
                state += torch.tensor(score.count(written, meant), dtype=torch.float64)
        figures |= score.figures([int(count) for count in sum(states, torch.zeros(score.size)).tolist()])
    return figures


@given(ROWS)
def test_figures_are_those_of_the_libraries_over_all_texts_to_the_bit(rows: list[tuple[str, str]]) -> None:
    written, meant = ([row[at] for row in rows] for at in (0, 1))
    assert summed([rows]) == of_libraries(written, meant)


@given(ROWS, st.randoms(use_true_random=False), st.integers(2, 4))
def test_whoever_counts_which_rows_the_figures_are_the_same_to_the_bit(
    rows: list[tuple[str, str]], rng: random.Random, ranks: int
) -> None:
    parts: list[list[tuple[str, str]]] = [[] for _ in range(ranks)]
    for row in rng.sample(rows, len(rows)):
        parts[rng.randrange(ranks)].append(row)
    assert summed(parts) == summed([rows])


def test_a_model_that_writes_nothing_has_scores_of_zero() -> None:
    assert summed([[("", "The boat"), ("", "It")]]) == dict.fromkeys(FIGURES, 0.0)


# ── what a model writes ──────────────────────────────────────────────────────────────────────────────────────────────


def make_tokenizer() -> PreTrainedTokenizerFast:
    body = Tokenizer(models.WordLevel({word: n for n, word in enumerate(WORDS)}, unk_token="<unk>"))
    body.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split(Regex(r"[.,\n]"), "isolated")]
    )
    body.post_processor = processors.TemplateProcessing("$A </s>", None, [("</s>", WORDS.index("</s>"))])
    return PreTrainedTokenizerFast(tokenizer_object=body, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")


def pairs(seed: int, count: int) -> list[dict[str, str]]:
    """Return rows with targets of one or two lines, of which some say what no token does."""
    rng, rows = random.Random(seed), []
    for n in range(count):
        (colour, other), thing = rng.sample(COLOURS, 2), rng.choice(THINGS)
        lines = [f"The {thing} is {colour}.", f"It is not {other}, it is {colour}."]
        said = "grün" if n % 7 == 0 else colour
        rows.append(
            {
                "source": " ".join([thing, colour, *rng.choices(COLOURS, k=n % 5)]),
                "target": "\n".join(lines[: 1 + (thing in THINGS[:2])]).replace(colour, said),
            }
        )
    return rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with rows, a tiny T5, and `plain`: a run that knows of no scores."""
    path = tmp_path_factory.mktemp("scores")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HFX_CACHE", str(path / "cache"))
        torch.manual_seed(0)
        T5ForConditionalGeneration(
            T5Config(vocab_size=len(WORDS), d_model=32, d_kv=16, d_ff=64, num_layers=2, num_heads=2,
                     dropout_rate=0.1, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1)
        ).save_pretrained(path / "t5")  # fmt: skip
        make_tokenizer().save_pretrained(path / "t5")
        for name, seed, count in (("train", 0, 120), ("test", 1, 30)):
            (path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(seed, count)))
        framework.train(config(path), output=str(path / "plain"))
        yield path


def config(path: Path, **more: Any) -> dict[str, Any]:
    """Return the config of a run; `more` are fields, `scored` options of the task, and `plugins` beside its own."""
    own = more.pop("plugins", {})
    optimizer = {} if "schedule_free" in own else {"adamw": {"lr": 0.01}}
    plugins = {"seq2seq": more.pop("scored", {}), "fp32": {}, "constant": {"warmup": 0}, "no:progress": None}
    fields = {
        "model": str(path / "t5"), "data": str(path / "train.jsonl"), "eval_data": str(path / "test.jsonl"),
        "seq_length": 24, "batch_size": 12, "steps": 60, "eval_every": 6,
    }  # fmt: skip
    return {**fields, **more, "plugins": plugins | optimizer | own}


def written_by(model: Path, rows: Sequence[dict[str, str]], **options: Any) -> list[str]:
    """Return what transformers' own `generate` writes for the source of each row, one after the other."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(model, dtype=torch.float32).eval()
    texts = []
    for row in rows:
        ids = loaded.generate(
            **tokenizer(row["source"], return_tensors="pt"), do_sample=False, **{"max_new_tokens": 24, **options}
        )
        texts.append(str(tokenizer.decode(ids[0], skip_special_tokens=True)))
    return texts


def expected(model: Path, rows: Sequence[dict[str, str]], **options: Any) -> dict[str, float]:
    return of_libraries(written_by(model, rows, **options), [row["target"] for row in rows])


def test_a_run_is_scored_at_every_evaluation_chosen_and_ended_by_it_and_learns_the_same(folder: Path) -> None:
    guards = {"best": {"metric": "eval_rouge_l"}, "early_stopping": {"metric": "eval_rouge_l", "patience": 2}}
    result = framework.train(
        config(folder, scored={"scores": ALL}, plugins=guards, steps=240), output=str(folder / "guarded")
    )

    found, plain = evaluations(folder / "guarded"), evaluations(folder / "plain")
    rouge = {step: line["eval_rouge_l"] for step, line in found.items()}
    best = max(rouge, key=rouge.__getitem__)
    assert len(set(rouge.values())) > 2
    assert result.stopped == "'eval_rouge_l' has not got better for 2 evaluations"
    assert max(rouge) == best + 12
    assert result.step == best + 12 < 240
    # What is exported is the model of the best evaluation.
    assert scores_of(found[best]) == expected(folder / "guarded" / "model", pairs(1, 30))
    assert all(value > 0 for value in scores_of(found[best]).values())
    # Writing leaves the training as it was, dropout and all.
    for step in found.keys() & plain.keys():
        assert found[step]["eval_loss"] == plain[step]["eval_loss"]


@pytest.mark.parametrize(
    "plugins",
    [
        {"ema": {"decay": 0.5, "save": "both"}},
        {"schedule_free": {"lr": 0.01}},
        {"lora": {}, "gradient_checkpointing": {}, "chunked_loss": {}},
    ],
    ids=["ema", "schedule_free", "lora"],
)
def test_the_weights_that_are_evaluated_write(plugins: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    fields = {"steps": 3, "eval_every": 3, "model": str(folder / "plain" / "model")}
    framework.train(config(folder, scored={"scores": ALL}, plugins=plugins, **fields), output=str(tmp_path / "run"))

    figures = scores_of(evaluations(tmp_path / "run")[3])
    assert figures == expected(tmp_path / "run" / "model", pairs(1, 30))
    assert figures["rouge_1"] > 0.3
    assert figures != expected(folder / "plain" / "model", pairs(1, 30))


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    mapping = config(folder, model=str(folder / "plain" / "model"), scored={"scores": ALL})
    made = Run(resolve(mapping=mapping), folder / "built", World())
    made.build()
    return made


@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_written_for_a_row_does_not_depend_on_the_rows_beside_it(run: Run, beams: int) -> None:
    task: Any = run.task
    plain = task.scoring
    task.scoring = replace(plain, writer=replace(plain.writer, num_beams=beams))
    sizes: list[int] = []
    encoder = run.model.get_encoder()
    hook = encoder.register_forward_pre_hook(lambda *given: sizes.append(len(given[2]["input_ids"])), with_kwargs=True)
    figures = scores_of(evaluate(run))
    run.micro_batch_size, largest = 1, max(sizes)
    alone = scores_of(evaluate(run))
    hook.remove()
    run.micro_batch_size, task.scoring = run.config.micro_batch_size, plain
    assert max(sizes) > 10
    assert largest > 10
    assert figures == alone
    assert figures["bleu"] > 0


def test_writing_leaves_mode_config_and_random_state_as_they_were(run: Run) -> None:
    model: Any = run.model
    model.config.use_cache = False
    before = model.config.to_dict(), model.generation_config.to_dict(), torch.get_rng_state()
    evaluate(run)
    after = model.config.to_dict(), model.generation_config.to_dict(), torch.get_rng_state()
    model.config.use_cache = True
    assert before[:2] == after[:2]
    assert torch.equal(before[2], after[2])
    assert all(module.training for module in run.module.modules())


def test_a_text_is_compared_with_the_target_itself_and_not_with_its_tokens(run: Run) -> None:
    meant = [run.table("eval").values(row)["target_text"] for row in range(30)]
    assert meant == [row["target"] for row in pairs(1, 30)]
    assert any("grün" in text for text in meant)
    assert any("\n" in text for text in meant)


def test_nothing_is_written_while_a_run_is_planned(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a plan generates")

    monkeypatch.setattr(T5ForConditionalGeneration, "generate", refuse)
    plans = [
        plan(Run(resolve(mapping=config(folder, scored=scored)), tmp_path / "run", World())).peak
        for scored in ({}, {"scores": ALL, "num_beams": 4})
    ]
    # The bytes of the targets are in a batch, too.
    assert plans[0] == pytest.approx(plans[1], rel=0.01)


# ── hfx eval ─────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_run_that_knew_of_no_scores_is_scored_afterwards_by_any_number_of_processes_alike(folder: Path) -> None:
    options = {"num_beams": 2, "max_new_tokens": 7}
    words = ("eval", "plain", "--seq2seq.scores", "rouge,bleu,chrf")
    words += ("--seq2seq.num-beams", "2", "--seq2seq.max-new-tokens", "7", "--micro-batch-size", "1")
    found = []
    for more in (("--json",), ("--json", "--nproc", "2"), ("--json", "--nproc", "3")):
        done = hfx(*words, *more, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        found.append(json.loads(done.stdout)["figures"])
    assert found[0] == found[1] == found[2]
    assert scores_of(found[0], "") == expected(folder / "plain" / "model", pairs(1, 30), **options)
    assert found[0]["loss"] == pytest.approx(evaluations(folder / "plain")[60]["eval_loss"], rel=1e-6)


def test_the_lines_of_an_evaluation_show_the_scores(folder: Path) -> None:
    done = hfx("eval", "plain", "--seq2seq.scores", "rouge", cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    lines = dict(line.split() for line in done.stdout.splitlines()[2:])
    figures = expected(folder / "plain" / "model", pairs(1, 30))
    assert {name: lines[name] for name in FIGURES[:3]} == {name: f"{figures[name]:.6g}" for name in FIGURES[:3]}
    assert "bleu" not in lines


# ── what cannot be scored ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("backend", ["fsdp", "zero"])
def test_a_backend_that_has_the_model_in_pieces_is_refused_with_the_way_to_score_afterwards(
    backend: str, folder: Path, tmp_path: Path
) -> None:
    if backend == "zero":
        pytest.importorskip("deepspeed")
    fields = config(folder, scored={"scores": ["bleu", "chrf"]}, plugins={backend: {}})
    said = rf"'{backend}' has it in pieces; .*'hfx eval RUN --seq2seq.scores bleu,chrf'"
    with pytest.raises(IncompatibleError, match=said):
        framework.train(fields, output=str(tmp_path / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["ddp", "fsdp"])
def test_a_run_of_two_processes_is_scored_while_it_trains_or_else_afterwards(
    backend: str, folder: Path, tmp_path: Path
) -> None:
    scored = {"scores": ALL} if backend == "ddp" else {}
    fields = config(
        folder, scored=scored, plugins={backend: {}}, steps=2, eval_every=2, model=str(folder / "plain" / "model")
    )
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(fields))
    environ: dict[str, Any] = {"cwd": tmp_path, "HFX_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = hfx("train", "run.yaml", "--nproc", "2", "--output", "run", **environ)
    assert done.returncode == 0, done.stderr
    done = hfx("eval", "run", "--seq2seq.scores", "rouge,bleu,chrf", "--json", **environ)
    assert done.returncode == 0, done.stderr

    figures = scores_of(json.loads(done.stdout)["figures"], "")
    assert figures == expected(tmp_path / "run" / "model", pairs(1, 30))
    if scored:
        assert scores_of(evaluations(tmp_path / "run")[2]) == figures


@pytest.mark.parametrize(
    ("module", "scores", "said"),
    [
        ("sacrebleu", ALL, "needs the package 'sacrebleu'"),
        ("rouge_score", ["rouge"], "needs the package 'rouge-score'"),
        ("rouge_score", ["bleu"], None),
    ],
)
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    module: str, scores: list[str], said: str | None, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    resolved = resolve(mapping=config(folder, scored={"scores": scores}))
    found = [problem.message for problem in problems(resolved)]
    whole = [f"'seq2seq.scores' {said}; run: pip install 'hfx[scores]'"] if said else []
    assert found == whole
    if said:
        # An evaluation of its own asks no plugin for problems.
        with pytest.raises(ConfigError, match=said):
            _ = Run(resolved, tmp_path / "run", World()).task


def test_options_of_writing_without_a_score_are_warned_of(folder: Path) -> None:
    found = problems(resolve(mapping=config(folder, scored={"num_beams": 4})))
    assert [(problem.message, problem.fatal) for problem in found] == [
        ("nothing is written: 'seq2seq.scores' names no score; add '--seq2seq.scores rouge'", False)
    ]
