"""What each argument of the Trainer is in hfx: fields, plugins and their options, or a comment that says why not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import yaml

from hfx.cli.from_trainer_engines import deepspeed, fsdp
from hfx.cli.from_trainer_impl import Given
from hfx.cli.from_trainer_optimizers import optimizer, schedule
from hfx.cli.from_trainer_reasons import REASONS


@dataclass
class Draft:
    """A config on its way: values with the words that explain them."""

    given: Given
    world: int
    fields: dict[str, tuple[Any, str]] = field(default_factory=dict)
    plugins: dict[str, tuple[str, dict[str, tuple[Any, str]]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any, why: str = "") -> None:
        """Set a field of the run."""
        self.fields[name] = (value, why)

    def plugin(self, name: str, why: str = "", /, **options: Any) -> None:
        """Activate a plugin; an option may be a pair of its value and the words that explain it."""
        said, held = self.plugins.get(name, ("", {}))
        held |= {key: value if isinstance(value, tuple) else (value, "") for key, value in options.items()}
        self.plugins[name] = (why or said, held)

    def note(self, text: str) -> None:
        """Say what is not in the config."""
        self.notes.append(text)

    def as_said(self, *names: str) -> str:
        """Return arguments as they are typed, `--learning_rate 1e-05`; those by default are marked."""
        given = self.given
        return " ".join(
            f"--{name} {shown(name, given.take(name))}" + ("" if given.said(name) else " (the Trainer's default)")
            for name in names
        )


def shown(name: str, value: Any) -> str:
    """Return a value as one types it; a token is never shown."""
    if name.endswith("_token"):
        return "..."
    return (
        str(value)
        if isinstance(value, str | int | float)
        else yaml.safe_dump(value, default_flow_style=True).split("\n")[0]
    )


def translated(given: Given, world: int, asked: bool, model: str | None, data: str | None) -> str:
    """Return the config of the arguments as YAML; whatever is no default is in it, or in a comment."""
    draft = Draft(given, world)
    _inputs(draft, model, data)
    for part in (
        _length,
        _batch,
        _events,
        _best,
        optimizer,
        schedule,
        _precision,
        _memory,
        _engines,
        _order,
        _trackers,
    ):
        part(draft)
    for name in given.left():
        reason = REASONS.get(
            name, "no argument of this Trainer" if name not in given.defaults else "has no counterpart"
        )
        draft.note(f"--{name} {shown(name, given.values[name])}: {reason}")
    return _written(draft, asked)


def _best(draft: Draft) -> None:
    """The model of the best evaluation; the Trainer names its figure without `eval_`, and means the loss by none."""
    given = draft.given
    if not given.take("load_best_model_at_end"):
        return
    name = str(given.take("metric_for_best_model") or "loss").removeprefix("eval_")
    options = {"metric": (f"eval_{name}", f"--metric_for_best_model {name}")}
    if given.said("greater_is_better"):
        options["higher"] = (given.take("greater_is_better"), "--greater_is_better")
    draft.plugin("best", "--load_best_model_at_end", **options)


def _written(draft: Draft, asked: bool) -> str:
    head = [
        "# Written by `hfx config from-trainer`; what stands behind '#' is what the Trainer was told.",
        f"# For {draft.world} process{'es' if draft.world > 1 else ''}"
        + ("." if asked else "; give --world N where there were several."),
    ]
    lines = [_line(name, *entry) for name, entry in draft.fields.items()]
    lines += ["plugins:"] if draft.plugins else []
    for name, (why, options) in draft.plugins.items():
        lines.append(f"  {name}:" + (f"  # {why}" if why else ""))
        lines += [f"    {_line(key, *entry)}" for key, entry in options.items()]
    if draft.notes:
        lines += ["", "# Not in this config:", *(f"# - {note}" for note in draft.notes)]
    return "\n".join([*head, *lines, ""])


def _line(name: str, value: Any, why: str) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10_000).removesuffix("\n").removesuffix("\n...")
    return f"{name}: {text}" + (f"  # {why}" if why else "")


def _inputs(draft: Draft, model: str | None, data: str | None) -> None:
    """Model and data are no TrainingArguments; the scripts of transformers' examples have names for them."""
    given = draft.given
    names = {
        "model": ("model_name_or_path", "model_name"), "data": ("train_file", "dataset_path"),
        "eval_data": ("validation_file", "eval_file"), "seq_length": ("block_size", "max_seq_length", "max_length"),
    }  # fmt: skip
    said = {"model": model, "data": data}
    for target, words in names.items():
        word = next((word for word in words if given.said(word)), None)
        if said.get(target):
            draft.set(target, said[target], f"--{target}")
        elif word:
            draft.set(target, given.take(word), f"--{word}")
        elif target in said and not (target == "data" and given.said("dataset_name")):
            draft.note(f"the {target}: TrainingArguments do not name it; add a line '{target}: ...'")
    if given.said("dataset_name"):
        draft.plugin("hub", dataset=(given.take("dataset_name"), "--dataset_name"))
    if given.said("output_dir"):
        draft.set("output", given.take("output_dir"), "--output_dir")
    given.take("output_dir")
    draft.set("seed", given.take("seed"), draft.as_said("seed"))


def _length(draft: Draft) -> None:
    given = draft.given
    if (given.take("max_steps") or -1) > 0:
        draft.set("steps", given.take("max_steps"), "--max_steps")
        given.take("num_train_epochs")
    else:
        if given.said("max_steps"):
            draft.note(f"--max_steps {given.take('max_steps')}: no length; the epochs count")
        draft.set("epochs", given.take("num_train_epochs"), draft.as_said("num_train_epochs"))


def _batch(draft: Draft) -> None:
    given = draft.given
    each, rounds = given.take("per_device_train_batch_size"), given.take("gradient_accumulation_steps")
    total = each * rounds * draft.world
    processes = f"{draft.world} process{'es' if draft.world > 1 else ''}"
    why = f"{each} a device x --gradient_accumulation_steps {rounds} x {processes}"
    draft.set("batch_size", total, f"global: {why}")
    draft.set("micro_batch_size", each, draft.as_said("per_device_train_batch_size"))
    norm = given.take("max_grad_norm")
    draft.set("max_grad_norm", norm or None, draft.as_said("max_grad_norm"))
    if draft.world == given.world and given.machines > 1:
        draft.set("nproc", draft.world // given.machines, "processes on each machine")
        draft.set("nnodes", str(given.machines), "machines; 'rdzv' is one that all reach")
    elif draft.world > 1:
        draft.set("nproc", draft.world, "--world; on one machine: see 'nnodes' for several")


def _events(draft: Draft) -> None:
    """Logging, evaluations and checkpoints, which hfx counts in steps; it makes both at the end, too."""
    given = draft.given
    _every(draft, "logging", "log_every", otherwise="hfx logs every step", default=given.take("logging_steps"))
    evaluates = _strategy(given, "eval")
    if "eval_data" not in draft.fields:
        _held_out(draft, evaluates == "no")
    if evaluates != "no":
        _every(draft, "eval", "eval_every", otherwise="hfx evaluates at the end", default=given.take("logging_steps"))
    else:
        given.take("eval_steps")
    _every(draft, "save", "save_every", otherwise="hfx saves at the end", default=given.take("save_steps"))
    kept = given.take("save_total_limit")
    if kept:
        draft.set("keep", max(2, kept), "--save_total_limit" + (f" {kept}; hfx keeps two at least" if kept < 2 else ""))
    elif given.take("save_strategy") != "no":
        draft.note(
            "the Trainer keeps every checkpoint (no --save_total_limit); hfx keeps 'keep: 2', or as many as you say"
        )


def _strategy(given: Given, kind: str) -> str:
    """Return by what something is due; transformers 4 had another word for that of evaluations."""
    old = given.take("evaluation_strategy") if kind == "eval" else None
    return str(old or given.take(f"{kind}_strategy") or "steps")


def _held_out(draft: Draft, none: bool) -> None:
    """Say which rows are evaluated on; the Trainer never takes them from those that it trains on."""
    if none:
        draft.set("eval_share", 0.0, "the Trainer trains on all rows")
    else:
        draft.note(
            "the rows to evaluate on: TrainingArguments do not name them; add a line 'eval_data: ...', or hfx holds "
            "out 5 % of the training rows ('eval_share')"
        )


def _every(draft: Draft, kind: str, name: str, otherwise: str, default: Any) -> None:
    given = draft.given
    strategy, every = _strategy(given, kind), given.take(f"{kind}_steps") or default
    if strategy != "steps":
        if given.said(f"{kind}_strategy") or (kind == "eval" and given.said("evaluation_strategy")):
            draft.note(
                f"--{kind}_strategy {strategy}: hfx counts in steps; {otherwise}, and every N steps with '{name}: N'"
            )
        return
    steps = given.take("max_steps") or -1
    if every < 1 and steps < 0:
        draft.note(f"--{kind}_steps {every} is a share of a length that is not known here; write '{name}: N' in steps")
        return
    value = int(every) if every >= 1 else max(1, -(-int(every * steps * 1e9) // 10**9))
    draft.set(name, value, draft.as_said(f"{kind}_steps" if given.take(f"{kind}_steps") else "logging_steps"))


def _precision(draft: Draft) -> None:
    given = draft.given
    half = next((name for name in ("bf16", "fp16") if given.take(name)), None)
    tf32 = given.take("tf32")
    if half:
        draft.plugin(half, f"--{half}")
        if tf32:
            draft.note(f"--tf32: hfx's 'tf32' is a precision of its own, beside '{half}' there is none")
    elif tf32:
        draft.plugin("tf32", "--tf32")
    else:
        draft.plugin("fp32", "neither --bf16 nor --fp16; hfx's default would take bf16 where the device computes in it")


def _memory(draft: Draft) -> None:
    given = draft.given
    asked = [name for name in ("activation_checkpointing", "gradient_checkpointing") if given.take(name)]
    if asked:
        draft.plugin("gradient_checkpointing", " ".join(f"--{name}" for name in asked))
    for name in ("gradient_checkpointing_kwargs", "activation_checkpointing_kwargs"):
        kwargs = given.take(name)
        if isinstance(kwargs, dict) and kwargs.get("every_n_layers", 1) > 1:
            draft.plugin("gradient_checkpointing", every=(kwargs["every_n_layers"], f"--{name}"))
        rest = {key: value for key, value in (kwargs or {}).items() if key not in ("every_n_layers", "use_reentrant")}
        if rest:
            draft.note(f"--{name} {shown(name, rest)}: has no counterpart")
    if given.take("use_liger_kernel"):
        draft.plugin("liger", "--use_liger_kernel")
    if given.take("torch_compile") or given.said("torch_compile_backend") or given.said("torch_compile_mode"):
        words = {"backend": given.take("torch_compile_backend"), "mode": given.take("torch_compile_mode")}
        draft.plugin("compile", "--torch_compile; of each layer by itself, as one graph of the whole is in the Trainer")
        draft.plugin("compile", **{key: (value, f"--torch_compile_{key}") for key, value in words.items() if value})
    if alpha := given.take("neftune_noise_alpha"):
        draft.plugin("neftune", alpha=(alpha, "--neftune_noise_alpha"))
    if smoothing := given.take("label_smoothing_factor"):
        draft.note(
            f"--label_smoothing_factor {smoothing}: 'seq2seq' and 'classification' have it "
            "('seq2seq.label_smoothing'), other tasks have none"
        )


def _engines(draft: Draft) -> None:
    deepspeed(draft)
    fsdp(draft)


def _order(draft: Draft) -> None:
    given = draft.given
    strategy = given.take("train_sampling_strategy")
    if strategy == "group_by_length" or given.take("group_by_length"):
        draft.plugin("length_grouped", "--train_sampling_strategy group_by_length")
        given.take("length_column_name")
    elif strategy == "sequential":
        draft.plugin("sequential", "--train_sampling_strategy sequential")
    elif given.said("train_sampling_strategy"):
        draft.note(
            f"--train_sampling_strategy {strategy}: has no counterpart; '--plugin packing' leaves no padding at all"
        )


_TRACKERS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "tensorboard": lambda given: {"dir": given.take("logging_dir")},
    "wandb": lambda given: {"project": given.take("project") if given.said("project") else None},
    "trackio": lambda given: {
        "project": given.take("project") if given.said("project") else None, "space_id": given.take("trackio_space_id"),
    },
    "mlflow": lambda given: {},
}  # fmt: skip


def _trackers(draft: Draft) -> None:
    given = draft.given
    found = given.take("report_to") or []
    named = [found] if isinstance(found, str) else list(found)
    for name in named:
        if name in _TRACKERS:
            options = _TRACKERS[name](given) | {"run_name": given.take("run_name")}
            draft.plugin(name, f"--report_to {name}")
            draft.plugin(name, **{key: (value, "") for key, value in options.items() if value})
        elif name not in ("none", "all"):
            draft.note(
                f"--report_to {name}: hfx has no such plugin; the Trainer's callback of it can be given to 'callbacks'"
            )
        elif name == "all":
            draft.note("--report_to all: name them: tensorboard, trackio, wandb, mlflow")
