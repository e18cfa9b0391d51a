"""`hfx config from-trainer`: every argument is in the config or in a comment, and the config is one."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import TrainingArguments

from command_line import hfx
from hfx.cli.from_trainer_impl import doubts, read
from hfx.cli.from_trainer_map import translated
from hfx.cli.from_trainer_reasons import REASONS


def text_of(words: str, world: int | None = None, folder: Path = Path()) -> str:
    """Return the config of a command line."""
    given = read([words], folder)
    known = world or given.world
    return translated(given, known or 1, asked=known is not None, model="gpt2", data="x.txt")


def config(words: str, world: int | None = None) -> dict[str, Any]:
    """Return it read, once it was found to be without fault."""
    text = text_of(words, world)
    assert list(doubts(text)) == []
    found: dict[str, Any] = yaml.safe_load(text)
    return found


def test_what_is_printed_is_valid_and_says_where_it_comes_from(tmp_path: Path) -> None:
    words = "--learning_rate 1e-5 --per_device_train_batch_size 4 --optim adafactor --gradient_accumulation_steps 2"
    done = hfx("config", "from-trainer", words, "--world", "8", "--model", "gpt2", "--data", "x.txt")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    (tmp_path / "config.yaml").write_text(done.stdout)
    checked = hfx("config", "validate", "config.yaml", cwd=tmp_path)
    assert checked.returncode == 0, checked.stderr
    assert "batch_size: 64  # global: 4 a device x --gradient_accumulation_steps 2 x 8 processes" in done.stdout
    assert "lr: 1.0e-05  # --learning_rate 1e-05" in done.stdout
    assert "differs" in next(line for line in done.stdout.splitlines() if "adafactor:" in line)


def test_the_best_model_is_chosen_by_the_same_figure() -> None:
    words = "--load_best_model_at_end True --eval_strategy steps --eval_steps 50 --save_steps 50"
    assert config(words)["plugins"]["best"] == {"metric": "eval_loss"}
    more = " --metric_for_best_model eval_wer --greater_is_better False"
    assert config(words + more)["plugins"]["best"] == {"metric": "eval_wer", "higher": False}
    assert "best" not in config("--metric_for_best_model f1")["plugins"]
    assert "--metric_for_best_model f1: it chooses a model with" in text_of("--metric_for_best_model f1")


def test_without_arguments_it_is_what_the_trainer_does_by_default() -> None:
    found = config("--do_train")
    assert {name: found[name] for name in ("epochs", "batch_size", "micro_batch_size", "seed", "max_grad_norm")} == {
        "epochs": 3.0, "batch_size": 8, "micro_batch_size": 8, "seed": 42, "max_grad_norm": 1.0,
    }  # fmt: skip
    plugins = found["plugins"]
    assert plugins["adamw"] == {"lr": 5e-5, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
    assert plugins["linear"] == {"warmup": 0}
    assert "fp32" in plugins


def test_the_file_of_to_json_string_is_read(tmp_path: Path) -> None:
    args = TrainingArguments(
        output_dir="out", learning_rate=2e-4, max_steps=100, bf16=True, use_cpu=True, warmup_steps=0.1,
        lr_scheduler_type="cosine", optim="lion_32bit", adam_beta2=0.98, weight_decay=0.1, eval_strategy="steps",
        eval_steps=10, save_steps=25, save_total_limit=3, logging_steps=5, seed=7, report_to=["tensorboard"],
        gradient_checkpointing=True, neftune_noise_alpha=5.0, max_grad_norm=0.0, hub_token="hf_secretsecret",
    )  # fmt: skip
    (tmp_path / "args.json").write_text(args.to_json_string())
    done = hfx("config", "from-trainer", "args.json", "--model", "gpt2", "--data", "x.txt", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = yaml.safe_load(done.stdout)
    expected = {"steps": 100, "eval_every": 10, "save_every": 25, "keep": 3, "log_every": 5, "seed": 7, "output": "out"}
    assert {name: found[name] for name in expected} == expected
    assert found["max_grad_norm"] is None
    plugins = found["plugins"]
    assert plugins["lion"] == {"lr": 2e-4, "weight_decay": 0.1, "beta1": 0.9, "beta2": 0.98}
    assert plugins["cosine"] == {"warmup": 0.1}
    assert plugins["neftune"] == {"alpha": 5.0}
    assert {"bf16", "tensorboard", "gradient_checkpointing"} <= plugins.keys()
    assert "hf_secretsecret" not in done.stdout
    assert "use_cpu" in done.stdout


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> Any:
            return (Path.write_text, (tmp_path / "went-off", "x"))

    torch.save(Bomb(), tmp_path / "training_args.bin")
    done = hfx("config", "from-trainer", "training_args.bin", cwd=tmp_path)
    assert done.returncode == 2
    assert "to_json_string()" in done.stderr
    assert not (tmp_path / "went-off").exists()


PARTS = {
    "sgd": ("--optim sgd --optim_args momentum=0.5", "sgd", {"lr": 5e-5, "weight_decay": 0.0, "momentum": 0.5}),
    "galore": ("--optim galore_adamw --optim_args rank=64,update_proj_gap=100", "galore",
               {"lr": 5e-5, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "rank": 64,
                "update_every": 100}),
    "8 bits": ("--optim adamw_bnb_8bit", "adamw_8bit",
               {"lr": 5e-5, "weight_decay": 0.0, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}),
    "schedule free": ("--optim schedule_free_adamw --warmup_steps 10 --lr_scheduler_type constant", "constant",
                      {"warmup": 10}),
    "a warm-up share": ("--warmup_ratio 0.25 --lr_scheduler_type constant_with_warmup", "constant", {"warmup": 0.25}),
    "polynomial": ('--lr_scheduler_type polynomial --lr_scheduler_kwargs {"power":2.0,"lr_end":5e-6}', "polynomial",
                   {"warmup": 0, "power": 2.0, "min_ratio": 0.1}),
    "a least rate": ('--lr_scheduler_type cosine_with_min_lr --lr_scheduler_kwargs {"min_lr_rate":0.1}', "cosine",
                     {"warmup": 0, "min_ratio": 0.1}),
    "wsd": ('--lr_scheduler_type warmup_stable_decay --warmup_steps 5 '
            '--lr_scheduler_kwargs {"num_decay_steps":20,"decay_type":"linear"}', "wsd",
            {"warmup": 5, "min_ratio": 0.0, "decay": 20.0, "shape": "linear"}),
    "fsdp": ("--fsdp 'shard_grad_op offload'", "fsdp", {"reshard": False, "offload": True}),
    "compile": ("--torch_compile --torch_compile_mode max-autotune", "compile", {"mode": "max-autotune"}),
    "layers": ('--gradient_checkpointing --gradient_checkpointing_kwargs {"every_n_layers":2,"use_reentrant":false}',
               "gradient_checkpointing", {"every": 2}),
    "lengths": ("--group_by_length", "length_grouped", None),
    "a tracker": ("--report_to wandb --run_name mine --project ours", "wandb", {"run_name": "mine", "project": "ours"}),
    "a data set of the hub": ("--dataset_name org/set", "hub", {"dataset": "org/set"}),
}  # fmt: skip


@pytest.mark.parametrize(("words", "plugin", "options"), PARTS.values(), ids=PARTS)
def test_an_argument_is_a_plugin_with_its_options(words: str, plugin: str, options: Any) -> None:
    text = translated(read([_quoted(words)], Path()), 1, asked=False, model="gpt2", data=None)
    found = yaml.safe_load(text)
    assert found["plugins"][plugin] == options
    assert [doubt for doubt in doubts(text) if "both provide" in doubt] == []


def _quoted(words: str) -> str:
    """Put JSON in single quotes, as one types it in a shell."""
    return " ".join(f"'{word}'" if word.startswith("{") else word for word in words.split(" "))


def test_deepspeeds_config_becomes_zero(tmp_path: Path) -> None:
    ds = {
        "zero_optimization": {"stage": 3, "offload_param": {"device": "cpu"}, "overlap_comm": True},
        "bf16": {"enabled": "auto"}, "gradient_clipping": 0.5, "wall_clock_breakdown": True,
    }  # fmt: skip
    (tmp_path / "ds.json").write_text(json.dumps(ds))
    text = text_of("--deepspeed ds.json --bf16", world=4, folder=tmp_path)
    assert yaml.safe_load(text)["plugins"]["zero"] == {"stage": 3, "offload_parameters": True}
    assert yaml.safe_load(text)["nproc"] == 4
    for word in ("overlap_comm", "gradient_clipping 0.5", "wall_clock_breakdown"):
        assert word in text
    assert hfx("config", "from-trainer", "--deepspeed nowhere.json").returncode == 2


@pytest.mark.parametrize(
    ("words", "world"),
    [("torchrun --nproc_per_node 4 train.py --learning_rate 1e-5", 4),
     ("accelerate launch --num_processes=2 run.py --max_steps 5", 2), ("python run.py --max_steps 5", None)],
)  # fmt: skip
def test_a_launchers_words_say_how_many_processes(words: str, world: int | None) -> None:
    assert read([words], Path()).world == world


@pytest.mark.parametrize(
    ("words", "world"),
    [("torchrun --nnodes 2 --nproc-per-node 4 train.py", 8), ("deepspeed --num_nodes 2 --num_gpus 4 train.py", 8),
     ("torchrun --nnodes 1:4 --nproc_per_node 4 train.py", None),
     ("accelerate launch --num_machines 2 --num_processes 8 train.py", 8)],
)  # fmt: skip
def test_processes_of_several_machines_are_counted_on_all_of_them(words: str, world: int | None) -> None:
    text = text_of(f"{words} --max_steps 5")
    found = yaml.safe_load(text)
    assert found["batch_size"] == 8 * (world or 1)
    assert ("give --world N" in text) == (world is None)
    if "nnodes 2" in words:
        assert (found["nproc"], found["nnodes"]) == (4, "2")


def test_rows_to_evaluate_on_are_never_taken_from_those_to_train_on() -> None:
    assert config("--max_steps 5")["eval_share"] == 0.0
    assert "eval_share" not in config("--eval_strategy epoch")
    assert "the rows to evaluate on" in text_of("--eval_strategy epoch")
    assert "eval_share" not in text_of("--eval_strategy epoch --validation_file rows.jsonl")


def test_the_word_of_older_versions_for_evaluations_is_known() -> None:
    assert config("--evaluation_strategy steps --eval_steps 100")["eval_every"] == 100
    assert "--eval_strategy epoch" in text_of("--evaluation_strategy epoch")


def test_schedules_fall_as_the_trainers_by_default() -> None:
    wanted = {"warmup": 0, "timescale": 10_000}
    assert config("--lr_scheduler_type inverse_sqrt")["plugins"]["inverse_sqrt"] == wanted
    assert "timescale" not in config("--lr_scheduler_type inverse_sqrt --warmup_steps 5")["plugins"]["inverse_sqrt"]
    assert config("--lr_scheduler_type warmup_stable_decay")["plugins"]["wsd"]["shape"] == "cosine"


def test_a_long_command_line_keeps_its_secrets() -> None:
    words = f"torchrun --nproc_per_node 2 train.py {'--do_train ' * 40} --hub_token hf_abcdefgh --learning_rate 1e-5"
    done = hfx("config", "from-trainer", words, "--model", "gpt2", "--data", "x.txt")
    assert done.returncode == 0, done.stderr
    assert "hf_abcdefgh" not in done.stdout + done.stderr
    assert "--hub_token ..." in done.stdout
    assert yaml.safe_load(done.stdout)["batch_size"] == 16
    wrong = hfx("config", "from-trainer", f"train.py hub_token hf_abcdefgh {'x' * 300}")
    assert wrong.returncode == 2
    assert "hf_abcdefgh" not in wrong.stderr


def test_steps_and_shares_of_events_are_counted() -> None:
    found = config("--max_steps 200 --eval_strategy steps --eval_steps 0.1 --save_steps 0.25 --logging_steps 50")
    assert (found["eval_every"], found["save_every"], found["log_every"]) == (20, 50, 50)
    assert "eval_steps 0.1 is a share" in text_of("--eval_strategy steps --eval_steps 0.1")
    assert "--save_strategy epoch" in text_of("--save_strategy epoch")


@pytest.mark.parametrize("optim", ["ademamix", "lomo", "stable_adamw"])
def test_an_optimizer_that_hfx_has_not_is_said_to_be_missing(optim: str) -> None:
    text = text_of(f"--optim {optim}")
    assert f"--optim {optim}: hfx has no plugin of it" in text
    assert list(doubts(text)) == []


def _drawn(default: Any, rng: random.Random) -> Any:
    """Return a value unlike a default."""
    if isinstance(default, bool) or default is None:
        return not default
    if isinstance(default, int | float):
        return default + rng.choice([1, 2])
    return f"{default}x" if isinstance(default, str) else [1]


PICKY = {"optim", "lr_scheduler_type", "logging_strategy", "eval_strategy", "save_strategy", "deepspeed", "fsdp",
         "fsdp_config", "lr_scheduler_kwargs", "optim_args", "report_to", "logging_steps", "eval_steps", "save_steps",
         "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs", "train_sampling_strategy"}  # fmt: skip
"""Arguments with values of their own, tried above."""


@pytest.mark.parametrize("seed", range(3))
def test_no_argument_is_dropped_without_a_word(seed: int, tmp_path: Path) -> None:
    rng = random.Random(seed)
    defaults = {name: values[0] for name, values in read(["--do_train"], Path()).defaults.items()}
    values = {name: _drawn(default, rng) for name, default in defaults.items() if name not in PICKY}
    values |= {"of_another_version": 3}
    (tmp_path / "args.json").write_text(json.dumps(values))
    text = translated(read([str(tmp_path / "args.json")], Path()), 1, asked=False, model="gpt2", data="x.txt")
    comments = " ".join(part for line in text.splitlines() for part in line.partition("#")[1:])
    words = {"tf32", "fp16", "num_train_epochs", "use_liger_kernel", "torch_compile_backend", "torch_compile_mode"}
    unsaid = [name for name in values if name not in comments and name not in words | {"length_column_name"}]
    assert unsaid == []


def test_the_logging_of_this_process_says_nothing_about_the_progress_bars_of_the_script() -> None:
    from transformers import logging

    before = logging.get_verbosity()
    text = {}
    try:
        for verbosity in (logging.WARNING, logging.ERROR):
            logging.set_verbosity(verbosity)
            text[verbosity] = text_of("--disable_tqdm")
    finally:
        logging.set_verbosity(before)
    assert "--disable_tqdm" in text[logging.WARNING]
    assert text[logging.WARNING] == text[logging.ERROR]


def test_every_reason_belongs_to_an_argument_of_some_trainer() -> None:
    known = set(read(["--do_train"], Path()).defaults)
    older = {"save_safetensors", "overwrite_output_dir", "no_cuda", "half_precision_backend", "logging_dir",
             "fsdp_transformer_layer_cls_to_wrap", "fsdp_min_num_params"}  # fmt: skip
    assert set(REASONS) - known == older


WRONG = {
    "no file": (["nowhere.json"], "cannot be read"),
    "no options": (["some words"], "begins neither options"),
    "no JSON": (["broken.json"], "no JSON"),
    "no arguments": (["list.json"], "holds no arguments"),
    "no processes": (["--max_steps 5", "--world", "0"], "--world"),
}


@pytest.mark.parametrize(("words", "says"), WRONG.values(), ids=WRONG)
def test_what_cannot_be_read_is_said_in_a_line(words: list[str], says: str, tmp_path: Path) -> None:
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "list.json").write_text("[]")
    done = hfx("config", "from-trainer", *words, cwd=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
