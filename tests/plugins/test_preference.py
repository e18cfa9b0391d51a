from __future__ import annotations

import copy
import json
import math
import shutil

import numpy as np
import pytest
import torch
from torch.nn.functional import log_softmax, logsigmoid
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers import get_cosine_schedule_with_warmup as cosine

import hfx as framework
from chat_tokenizers import PLAIN, byte_level, turns
from command_line import hfx
from hfx import Drop, Place, Row, RunConfig
from hfx.testing.tiny import pretrained_folder, tiny_rows
from hfx_plugins.tasks.preference import Preference
from kept_batches import SEEN, Batches


class Prepared:
    """What the hook reads of a run."""

    def __init__(self, tokenizer, seq_length):
        self.tokenizer = tokenizer
        self.config = RunConfig(seq_length=seq_length)


def task(seq_length=256, **options):
    return Preference(**options).hfx_task(Prepared(byte_level(), seq_length))


def row(**values):
    return Row(values, Place("data", "data.jsonl", 7))


def compared(made, example):
    """Both sequences as text, and what is compared of them."""
    drawn = made.draw({name: np.asarray(value) for name, value in example.values.items()}, np.random.default_rng(0))
    found = []
    for ids, labels in (("input_ids", "labels"), ("rejected_ids", "rejected_labels")):
        kept = np.asarray(drawn[labels])
        found.append((made.tokenizer.decode(drawn[ids]), made.tokenizer.decode(kept[kept != -100])))
    return found


# ── pairs ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_texts_are_compared_behind_their_prompt_with_their_end():
    made = task()
    (example,) = made.examples(row(prompt="q1 ", chosen="a1", rejected="a2 a3"))
    assert compared(made, example) == [
        ("q1 a1<|im_end|>", "a1<|im_end|>"),
        ("q1 a2 a3<|im_end|>", "a2 a3<|im_end|>"),
    ]
    assert example.units == 1


@pytest.mark.parametrize("form", ["apart", "whole"])
def test_of_conversations_what_follows_their_common_beginning_is_compared(form):
    made, said = task(), turns("q1", "a1", "q2")
    chosen, rejected = turns("", "a2")[1:], turns("", "a3")[1:]
    values = {"prompt": said} if form == "apart" else {}
    own = () if form == "apart" else said
    (example,) = made.examples(row(**values, chosen=[*own, *chosen], rejected=[*own, *rejected]))
    (text, first), (_, second) = compared(made, example)
    assert (first, second) == ("a2<|im_end|>", "a3<|im_end|>")
    assert "a1<|im_end|>" in text


@pytest.mark.parametrize("prompt", ["q1", turns("q1")], ids=["text", "messages"])
def test_a_prompt_that_whole_conversations_repeat_is_there_once(prompt):
    made = task()
    (example,) = made.examples(row(prompt=prompt, chosen=turns("q1", "a1"), rejected=turns("q1", "a2")))
    (text, first), (_, second) = compared(made, example)
    assert (first, second) == ("a1<|im_end|>", "a2<|im_end|>")
    assert text.count("q1") == 1


def test_of_texts_without_a_prompt_what_follows_their_common_words_is_compared():
    made = task()
    chosen, rejected = (f"user: q1\n\nassistant: {answer}" for answer in ("a12 a3", "a1 a2"))
    (example,) = made.examples(row(chosen=chosen, rejected=rejected))
    assert compared(made, example) == [
        (f"{chosen}<|im_end|>", " a12 a3<|im_end|>"),
        (f"{rejected}<|im_end|>", " a1 a2<|im_end|>"),
    ]


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"prompt": "q", "chosen": "a"}, "no_pair"),
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "empty_answer"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "answers_are_the_same"),
        ({"prompt": "q", "chosen": "a " * 300, "rejected": "a"}, "too_long"),
        ({"chosen": "a", "rejected": turns("q", "a")}, "answers_of_another_kind"),
        ({"chosen": turns("q", "a"), "rejected": turns("q", "")}, "empty_answer"),
        ({"chosen": turns("q", "a"), "rejected": turns("q", "a", "q", "a")}, "no_answer"),
    ],
)
def test_rows_without_a_pair_are_left_out_for_their_reason(values, reason):
    assert task().examples(row(**values)) == Drop(reason)


# ── a run ────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Pairs, of which the shorter answer is the right one, and a tiny model."""
    path = tmp_path_factory.mktemp("preference")
    rows = []
    for number, found in enumerate(tiny_rows(60)):
        words = found["text"].split()
        right, wrong = " ".join(words[:2]), " ".join(words[-3:])
        rows.append({"prompt": f"{number % 7} the ", "chosen": right, "rejected": wrong})
    (path / "rows.jsonl").write_text("".join(json.dumps(values) + "\n" for values in rows))
    return path


def said(model, ids, labels, mean):
    """What a model says of each sequence, one at a time and without padding."""
    found = []
    for own, of_own in zip(ids, labels, strict=True):
        end = int((of_own != -100).nonzero()[-1]) + 1
        logps = log_softmax(model(input_ids=own[None, :end]).logits[0, :-1].float(), -1)
        at = (of_own[1:end] != -100).nonzero()[:, 0]
        each = logps[at, of_own[1:end][at]]
        found.append(each.mean() if mean else each.sum())
    return torch.stack(found)


@pytest.mark.parametrize(
    "options", [{}, {"label_smoothing": 0.2, "beta": 0.5}, {"loss": "hinge"}, {"loss": "ipo"}], ids=str
)
def test_the_losses_are_those_of_a_plain_loop(options, folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HFX_CACHE", str(folder / "cache"))
    SEEN.clear()
    named = {"preference": options, "fp32": {}, "adamw": {"lr": 1e-3, "weight_decay": 0}, "cosine": {"warmup": 0}}
    fields = {"seq_length": 48, "batch_size": 6, "steps": 5, "eval_share": 0.0, "data": "rows.jsonl"}
    base, output = str(pretrained_folder()), f"plain-{len(list(folder.iterdir()))}"
    framework.train({**fields, "model": base, "output": output, "plugins": named}, plugins=[Batches()])
    ours = [json.loads(line)["loss"] for line in (folder / output / "metrics.jsonl").read_text().splitlines()]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32).train()
    reference = copy.deepcopy(model).eval()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    schedule, theirs = cosine(optimizer, 0, 5), []
    kind, beta, smoothing = options.get("loss", "sigmoid"), options.get("beta", 0.1), options.get("label_smoothing", 0)
    for batch in SEEN[-5:]:
        apart = 0
        for sign, ids, labels in ((1, "input_ids", "labels"), (-1, "rejected_ids", "rejected_labels")):
            with torch.no_grad():
                before = said(reference, batch[ids], batch[labels], kind == "ipo")
            apart = apart + sign * (said(model, batch[ids], batch[labels], kind == "ipo") - before)
        loss = {
            "sigmoid": -(1 - smoothing) * logsigmoid(beta * apart) - smoothing * logsigmoid(-beta * apart),
            "hinge": torch.relu(1 - beta * apart),
            "ipo": (apart - 1 / (2 * beta)) ** 2,
        }[kind].mean()
        theirs.append(loss.item())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
    assert ours == pytest.approx(theirs, abs=1e-5)
    assert theirs[0] != pytest.approx(theirs[-1], abs=1e-3)


WORDS = ("train", "--data", "rows.jsonl", "--plugin", "preference", "--plugin", "fp32", "--seq-length", "48",
         "--batch-size", "6", "--eval-share", "0.2", "--adamw.lr", "3e-3")  # fmt: skip


def losses(run):
    lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
    return [line[key] for line in lines for key in ("loss", "eval_loss", "eval_accuracy") if key in line]


def trained(folder, name, *more):
    words = ("--model", str(pretrained_folder()), *more, "--output", name)
    done = hfx(*WORDS, *words, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    return losses(folder / name)


def test_processes_micro_batches_and_going_on_change_nothing(folder):
    whole = trained(folder, "whole", "--steps", "6", "--eval-every", "6")
    assert len(whole) == 8
    assert trained(folder, "two", "--steps", "6", "--eval-every", "6", "--nproc", "2") == pytest.approx(whole, abs=1e-5)
    small = trained(folder, "small", "--steps", "6", "--eval-every", "6", "--micro-batch-size", "2")
    assert small == pytest.approx(whole, abs=1e-5)
    trained(folder, "parts", "--steps", "6", "--eval-every", "6", "--save-every", "3")
    last = folder / "parts" / "checkpoints"
    for path in last.glob("step-*6"):
        path.rename(folder / "gone")
    done = hfx("train", "--resume", "parts", cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    assert "at step 3 of 6" in done.stderr
    assert losses(folder / "parts") == whole


def test_under_adapters_their_base_is_the_reference(folder):
    found = trained(folder, "lora", "--steps", "30", "--plugin", "lora", "--eval-every", "30", "--adamw.lr", "1e-2")
    assert found[0] == pytest.approx(math.log(2), abs=1e-5)
    assert found[-3] < 0.66
    assert found[-1] > 0.7


def test_going_on_with_pairs_that_the_run_never_asked_the_model_of_is_refused(folder):
    rows = (folder / "rows.jsonl").read_text().splitlines()
    (folder / "judge.jsonl").write_text("\n".join(rows[:5]) + "\n")
    (folder / "others.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "x", "rejected": "y"}) + "\n")
    trained(folder, "judged", "--steps", "2", "--eval-data", "judge.jsonl")
    words = ("--steps", "3", "--eval-data", "others.jsonl")
    done = hfx("train", "--resume", "judged", *words, cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 1, done.stderr
    assert "a pair is not among those" in done.stderr


def test_a_run_is_evaluated_on_the_pairs_that_it_held_out_and_a_model_alone_is_not(folder):
    trained(folder, "kept", "--steps", "2", "--eval-share", "0.2")
    last = json.loads((folder / "kept" / "metrics.jsonl").read_text().splitlines()[-1])
    environ = {"cwd": folder, "HFX_CACHE": str(folder / "cache")}
    done = hfx("eval", "kept", "--json", **environ)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["figures"]["loss"] == last["eval_loss"]
    alone = ("kept/model", "--data", "rows.jsonl", "--plugin", "preference", "--seq-length", "48")
    done = hfx("eval", *alone, **environ)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("hfx: 'preference' compares a model with what it said of the pairs")


def test_a_model_that_prefers_conversations_is_asked_in_its_template(folder):
    pairs = [{"chosen": turns(f"{at} the", "a1"), "rejected": turns(f"{at} the", "a2")} for at in range(12)]
    (folder / "chats.jsonl").write_text("".join(json.dumps(values) + "\n" for values in pairs))
    base = AutoTokenizer.from_pretrained(pretrained_folder())
    base.chat_template = PLAIN.replace("<|im_end|>", base.eos_token)
    shutil.copytree(pretrained_folder(), folder / "chatting")
    base.save_pretrained(folder / "chatting")
    words = ("--data", "chats.jsonl", "--model", "chatting", "--steps", "1", "--output", "chats")
    done = hfx(*WORDS, *words, cwd=folder, HFX_CACHE=str(folder / "cache"), OMP_NUM_THREADS="1")
    assert done.returncode == 0, done.stderr
    asked = ("--prompt", "0 the", "--system", "Be brief.", "--max-new-tokens", "2")
    done = hfx("generate", "chats", *asked, cwd=folder)
    assert done.returncode == 0, done.stderr


def test_it_can_be_planned(folder):
    model = ("--model", str(pretrained_folder()))
    done = hfx("plan", *WORDS[1:], *model, "--steps", "3", "--json", cwd=folder, HFX_CACHE=str(folder / "cache"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["peak_bytes"] > 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--plugin", "chunked_loss"), "'chunked_loss' sums over tokens, and 'preference' looks at each pair"),
        (("--preference.loss", "ipo", "--preference.label-smoothing", "0.1"), "is for the loss 'sigmoid'"),
    ],
)
def test_what_does_not_go_together_is_refused_before_anything_is_read(words, said):
    done = hfx("train", "--plugin", "preference", *words, "--dry-run")
    assert done.returncode == 2
    assert said in done.stderr
