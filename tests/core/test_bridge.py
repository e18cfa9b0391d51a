"""`hfx.bridge`: plugins by name in somebody's own Trainer or loop."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from lion_pytorch import Lion
from torch.utils.data import DataLoader
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

from command_line import environment
from contrib_packages import installed
from hfx import Plugin, hookimpl
from hfx.bridge import dataset, optimizer, sampler, schedule, trainer_arguments, wrapped
from hfx.errors import ConfigError, HfxError, IncompatibleError, PluginNotFound
from hfx.testing.tiny import pretrained_folder, tiny_rows, write_rows
from tiny_models import decayed, tiny_llama
from toy_packages import toy_package

OPTIMIZER = '''
from hfx import Plugin, hookimpl


class Toy(Plugin):
    """Descends along the sign, at a pace of its own."""

    pace: float = 0.5
    """Learning rate."""

    @hookimpl
    def hfx_optimizer(self, params):
        from torch.optim import SGD

        class Signed(SGD):
            def step(self, closure=None):
                for group in self.param_groups:
                    for parameter in group["params"]:
                        parameter.grad.sign_()
                return super().step(closure)

        return Signed(params.groups(), lr=self.pace)
'''


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HFX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def base() -> Path:
    """A folder with a tiny llama and its tokenizer."""
    return pretrained_folder()


def model_of(base: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)


def tokenized(base: Path, count: int = 24) -> Dataset:
    """Return rows that are ready for a Trainer, with a label of each."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = tiny_rows(count)
    ids = [(tokenizer(row["text"])["input_ids"] * 8)[:16] for row in rows]
    kind = ["rare" if number % 6 == 0 else "usual" for number in range(count)]
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "kind": kind})


def arguments(folder: Path, **given: Any) -> TrainingArguments:
    usual = {"per_device_train_batch_size": 4, "num_train_epochs": 1, "logging_steps": 1, "report_to": "none"}
    usual |= {"use_cpu": True, "save_strategy": "no", "disable_tqdm": True, "output_dir": str(folder)}
    return TrainingArguments(**usual | given)


def losses(trainer: Trainer) -> list[float]:
    trainer.train()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


# ── optimizers and schedules ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_optimizer_is_the_plugins() -> None:
    model = tiny_llama()
    made = optimizer(model, "lion", lion={"lr": 2e-3, "weight_decay": 0.4})
    assert type(made) is Lion
    expected = Lion(decayed(model, 0.4), lr=2e-3, betas=(0.9, 0.99))
    assert [len(group["params"]) for group in made.param_groups] == [len(g["params"]) for g in expected.param_groups]
    assert [group["lr"] for group in made.param_groups] == [2e-3, 2e-3]


def test_a_wrapper_changes_it_and_the_default_is_adamw() -> None:
    made = optimizer(tiny_llama(), "parameter_groups", parameter_groups={"lr": {"*embed*": 0.5}})
    assert type(made) is torch.optim.AdamW
    assert {group["lr"] for group in made.param_groups} == {3e-4, 1.5e-4}


def test_a_schedule_is_the_plugins() -> None:
    made = optimizer(tiny_llama(), "adamw", adamw={"lr": 1.0})
    decay = schedule(made, "linear", steps=10, linear={"warmup": 0})
    rates = []
    for _ in range(10):
        rates.append(made.param_groups[0]["lr"])
        made.step()
        decay.step()
    assert rates[0] == 1.0
    assert rates[5] == pytest.approx(0.5)


class Halving(Plugin):
    """Half the usual learning rate."""

    @hookimpl
    def hfx_optimizer(self, params: Any) -> Any:
        return torch.optim.SGD(params.groups(), lr=0.5)


def test_an_object_is_a_plugin_too() -> None:
    assert optimizer(tiny_llama(), Halving()).param_groups[0]["lr"] == 0.5


# ── in a Trainer ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_trainer_trains_with_optimizer_and_schedule_of_plugins(base: Path, tmp_path: Path) -> None:
    rows, args = tokenized(base), arguments(tmp_path)
    given = trainer_arguments(
        model_of(base), ["sgd", "linear"], args=args, train_dataset=rows,
        sgd={"lr": 0.1, "momentum": 0.5}, linear={"warmup": 0},
    )  # fmt: skip
    ours = losses(Trainer(args=args, **given))
    model = model_of(base)
    plain = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
    falling = torch.optim.lr_scheduler.LambdaLR(plain, lambda step: 1 - step / 6)
    theirs = losses(Trainer(model=model, args=arguments(tmp_path), train_dataset=rows, optimizers=(plain, falling)))
    assert len(ours) == 6
    assert ours == pytest.approx(theirs, rel=1e-5)


def test_a_sampler_orders_the_data_of_a_trainer(base: Path, tmp_path: Path) -> None:
    rows, args = tokenized(base), arguments(tmp_path, num_train_epochs=2)
    seen: list[Any] = []

    def collate(items: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        seen.extend(tuple(item["input_ids"]) for item in items)
        return {name: torch.tensor([item[name] for item in items]) for name in ("input_ids", "labels")}

    given = trainer_arguments(
        model_of(base), ["balanced"], args=args, train_dataset=rows, balanced={"column": "kind"}, seed=3
    )
    Trainer(args=args, data_collator=collate, **given).train()
    kinds = {tuple(row["input_ids"]): row["kind"] for row in rows}
    order = sampler(rows, "balanced", balanced={"column": "kind"}, seed=3)
    expected = []
    for epoch in range(2):
        order.set_epoch(epoch)
        expected += [tuple(rows[index]["input_ids"]) for index in order]
    assert seen == expected
    count = Counter(kinds[ids] for ids in seen)
    assert abs(count["rare"] - count["usual"]) <= 2


@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_chunked_loss_is_the_trainers_own(accumulate: int, base: Path, tmp_path: Path) -> None:
    rows = tokenized(base)
    given = {"gradient_accumulation_steps": accumulate, "per_device_train_batch_size": 2, "eval_strategy": "epoch"}
    plain = Trainer(model=model_of(base), args=arguments(tmp_path, **given), train_dataset=rows, eval_dataset=rows)
    expected = losses(plain)
    args = arguments(tmp_path, **given)
    found = trainer_arguments(model_of(base), "chunked_loss", args=args, train_dataset=rows, chunked_loss={"chunk": 5})
    chunked = Trainer(args=args, eval_dataset=rows, **found)
    assert losses(chunked) == pytest.approx(expected, rel=1e-5)
    before, after = (t.state.log_history[-2]["eval_loss"] for t in (plain, chunked))
    assert after == pytest.approx(before, rel=1e-5)
    assert "optimizers" not in found


def test_data_is_prepared_as_for_a_run(base: Path, tmp_path: Path) -> None:
    rows = [*tiny_rows(), tiny_rows()[3]]
    tokenizer, args = AutoTokenizer.from_pretrained(base), arguments(tmp_path, eval_strategy="epoch")
    given = trainer_arguments(
        model_of(base), ["exact_dedup", "normalize"], args=args, tokenizer=tokenizer,
        data=str(write_rows(rows, tmp_path / "rows.jsonl")), seq_length=32, eval_share=0.2,
    )  # fmt: skip
    table = given["train_dataset"]._run.rows("train").report
    assert table.dropped == {"exact_dedup.duplicate": 1} or sum(table.dropped.values()) == 1
    found = losses(Trainer(args=args, **given))
    assert len(found) == -(-len(given["train_dataset"]) // 4)


# ── in a loop ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_loop_under_accelerate_takes_data_sampler_and_collator(base: Path, tmp_path: Path) -> None:
    from accelerate import Accelerator

    tokenizer = AutoTokenizer.from_pretrained(base)
    prepared = dataset(Dataset.from_list(tiny_rows()), tokenizer, ["balanced"], seq_length=32, seed=1)
    accelerator = Accelerator(cpu=True)
    model = wrapped(model_of(base), "chunked_loss")
    made = optimizer(model, "lion", lion={"lr": 1e-3})
    loader = DataLoader(prepared.train, batch_size=8, collate_fn=prepared.collate)
    model, made, loader = accelerator.prepare(model, made, loader)
    found = []
    for epoch in range(3):
        loader.set_epoch(epoch)
        for batch in loader:
            loss = model(**batch).loss
            accelerator.backward(loss)
            made.step()
            made.zero_grad()
            found.append(float(loss))
    assert len(found) == 3 * -(-len(prepared.train) // 8)
    assert found[-1] < found[0]
    assert prepared.eval is not None
    assert prepared.collate([prepared.eval[0]])["input_ids"].shape[0] == 1


@pytest.mark.parametrize("given", ["rows", "data"])
def test_a_trainers_workers_yield_the_batches_of_one_process(given: str, base: Path, tmp_path: Path) -> None:
    rows = tokenized(base)
    data = {"train_dataset": rows} if given == "rows" else {"data": Dataset.from_list(tiny_rows(24)), "seq_length": 32}

    def batches(**workers: Any) -> list[list[Any]]:
        args = arguments(tmp_path, per_device_train_batch_size=5, **workers)
        tokenizer = AutoTokenizer.from_pretrained(base) if given == "data" else None
        made = trainer_arguments(model_of(base), ["shuffle"], args=args, tokenizer=tokenizer, **data)
        loader = Trainer(args=args, **made).get_train_dataloader()
        found = []
        for epoch in range(2):
            loader.set_epoch(epoch)
            batch = [one["input_ids"].tolist() for one in loader]
            assert len(batch) == len(loader)
            found.append(batch)
        return found

    alone = batches()
    assert alone[0] != alone[1]
    assert batches(dataloader_num_workers=3, dataloader_persistent_workers=True) == alone


def test_a_schedule_ends_where_a_trainer_that_drops_its_last_batch_does(base: Path, tmp_path: Path) -> None:
    args = arguments(tmp_path, per_device_train_batch_size=7, num_train_epochs=3, dataloader_drop_last=True)
    given = trainer_arguments(
        model_of(base), ["sgd", "linear"], args=args, train_dataset=tokenized(base), linear={"warmup": 0}
    )
    trainer = Trainer(args=args, **given)
    assert len(losses(trainer)) == 9
    assert given["optimizers"][0].param_groups[0]["lr"] == pytest.approx(0)


def test_workers_of_a_data_loader_share_an_epoch(base: Path) -> None:
    prepared = dataset(Dataset.from_list(tiny_rows()), AutoTokenizer.from_pretrained(base), seq_length=32)
    alone = [batch["input_ids"].tolist() for batch in DataLoader(prepared.train, collate_fn=prepared.collate)]
    loader = DataLoader(prepared.train, collate_fn=prepared.collate, num_workers=2)
    shared = [batch["input_ids"].tolist() for batch in loader]
    assert sorted(shared) == sorted(alone)


def test_a_sampler_takes_any_rows(tmp_path: Path) -> None:
    rows = [{"text": "x", "weight": float(number == 3)} for number in range(10)]
    order = sampler(rows, "weighted", weighted={"column": "weight"})
    assert list(order) == [3] * len(order)
    lengths = [{"input_ids": [0] * (1 + number % 7)} for number in range(64)]
    grouped = list(sampler(lengths, "length_grouped", batch_size=8))
    assert sorted(grouped) == list(range(64))
    spread = [max(sizes) - min(sizes) for sizes in _batches([1 + index % 7 for index in grouped], 8)]
    assert sum(spread) < sum(max(s) - min(s) for s in _batches([1 + index % 7 for index in range(64)], 8))


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    yield from (items[start : start + size] for start in range(0, len(items), size))


def test_the_model_stays_as_it_is_where_no_plugin_wraps_it(base: Path, tmp_path: Path) -> None:
    model = model_of(base)
    before = copy.deepcopy(model.state_dict())
    given = trainer_arguments(model, "lion", args=arguments(tmp_path, max_steps=3))
    assert given["model"] is model
    assert "forward" not in vars(model)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


# ── third parties, the policy, and what is refused ───────────────────────────────────────────────────────────────────

SCRIPT = """
import json, sys
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments
from hfx.bridge import trainer_arguments

model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32)
rows = Dataset.from_dict({"input_ids": [[5, 6, 7, 8]] * 8, "labels": [[5, 6, 7, 8]] * 8})
args = TrainingArguments(output_dir=sys.argv[2], max_steps=4, logging_steps=1, report_to="none", use_cpu=True,
                         save_strategy="no", disable_tqdm=True)
given = trainer_arguments(model, ["toy_signed", "lookahead"], args=args, train_dataset=rows,
                          toy_signed={"pace": 1e-3}, lookahead={"every": 2})
trainer = Trainer(args=args, **given)
trainer.train()
optimizer = trainer.optimizer.optimizer
print(json.dumps({
    "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
    "optimizer": type(optimizer).__name__,
    "slow": any("slow" in state for state in optimizer.state.values()),
}))
"""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder of installed third-party packages: an optimizer, and the example of `contrib`."""
    toy_package(tmp_path / "site", "acme-signed", {"toy_signed": OPTIMIZER})
    return installed("hfx-example", tmp_path / "site")


def run(site: Path, base: Path, tmp_path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(base), str(tmp_path / "out")]
    found = environment(site, HFX_CACHE=str(tmp_path / "cache"), **environ)
    return subprocess.run(command, env=found, capture_output=True, text=True, check=False)


def test_a_third_partys_plugins_train_in_a_plain_script(site: Path, base: Path, tmp_path: Path) -> None:
    done = run(site, base, tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["optimizer"] == "Signed"
    assert found["slow"]
    assert len(found["losses"]) == 4
    assert found["losses"][-1] < found["losses"][0]


def test_the_policy_holds_in_a_script(site: Path, base: Path, tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("allow: [hfx, hfx-example]\n")
    done = run(site, base, tmp_path, HFX_POLICY=str(policy))
    assert done.returncode == 1
    assert "'toy_signed@acme-signed' is not allowed by the policy" in done.stderr
    policy.write_text("locked: {toy_signed: {pace: 0.5}}\n")
    assert "locks it to 0.5" in run(site, base, tmp_path, HFX_POLICY=str(policy)).stderr
    policy.write_text("activate: [audit]\n")
    installed("hfx-acme", site)
    done = run(site, base, tmp_path, HFX_POLICY=str(policy))
    assert "turns 'audit' on, which needs a run of hfx" in done.stderr


REFUSED = {
    "a misspelt name": (lambda m: optimizer(m, "lyon"), PluginNotFound, "did you mean 'lion'"),
    "a misspelt option": (lambda m: optimizer(m, "lion", lion={"lrr": 1}), ConfigError, "lr"),
    "options of another": (lambda m: optimizer(m, "lion", sgd={"lr": 1}), ConfigError, "'sgd' has options"),
    "options that are none": (lambda m: optimizer(m, "lion", lr=1e-4), ConfigError, "lr={'option': ...}"),
    "a listener": (lambda m: optimizer(m, ["lion", "guard"]), ConfigError, "'guard' needs a run of hfx"),
    "what needs an export": (lambda m: wrapped(m, "lora"), ConfigError, "hf_trainer"),
    "what has no part": (lambda m: optimizer(m, ["lion", "balanced"]), ConfigError, "'balanced' has no part in this"),
    "no data": (lambda m: trainer_arguments(m, "balanced"), ConfigError, "'train_dataset'"),
    "nothing to prepare": (lambda m: trainer_arguments(m, "exact_dedup"), ConfigError, "'tokenizer'"),
    "no number of steps": (lambda m: trainer_arguments(m, ["sgd", "linear"]), ConfigError, "number of steps"),
    "a schedule of no optimizer": (lambda m: trainer_arguments(m, "linear"), ConfigError, "['adamw', 'linear']"),
    "a wrapper of none": (
        lambda m: trainer_arguments(m, "parameter_groups", parameter_groups={"lr": {"*": 0.5}}),
        ConfigError,
        "needs an optimizer",
    ),
    "a field that does nothing": (
        lambda m: trainer_arguments(m, "lion", max_grad_norm=0.1),
        ConfigError,
        "'max_grad_norm' is a field of a run",
    ),
    "no column": (lambda _: sampler([{"a": 1}], "balanced", balanced={"column": "b"}), HfxError, "no column 'b'"),
    "two optimizers": (lambda m: optimizer(m, ["lion", "sgd"]), ConfigError, "both provide"),
    "a check": (lambda _: sampler([{"a": 1}], "weighted"), IncompatibleError, "no weights"),
}


@pytest.mark.parametrize(("use", "error", "says"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_is_said_as_in_a_run(use: Any, error: type[HfxError], says: str) -> None:
    with pytest.raises(error) as raised:
        use(tiny_llama())
    assert says in str(raised.value)
