"""The Trainer's optimizers and schedules as plugins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hfx.cli.from_trainer_map import Draft

_BETAS = ("beta1", "beta2")
_ADAM = (*_BETAS, "eps")
OPTIMIZERS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "adamw_torch": ("adamw", _ADAM, ""),
    "adamw_torch_fused": ("adamw", _ADAM, ""),
    "adamw_hf": ("adamw", _ADAM, ""),
    "adamw_anyprecision": ("adamw", _ADAM, "differs: its state is in the parameters' numbers"),
    "adamw_torch_8bit": ("adamw_8bit", _ADAM, "differs: 8-bit state of bitsandbytes, not of torchao"),
    "adamw_8bit": ("adamw_8bit", _ADAM, ""),
    "adamw_bnb_8bit": ("adamw_8bit", _ADAM, ""),
    "paged_adamw_8bit": ("adamw_8bit", _ADAM, "differs: its state is not paged"),
    "paged_adamw_32bit": ("adamw", _ADAM, "differs: its state is not paged; 'zero' can keep it in the host's memory"),
    "lion_32bit": ("lion", _BETAS, ""),
    "paged_lion_32bit": ("lion", _BETAS, "differs: its state is not paged"),
    "lion_8bit": ("lion_8bit", _BETAS, ""),
    "paged_lion_8bit": ("lion_8bit", _BETAS, "differs: its state is not paged"),
    "adafactor": (
        "adafactor", (),
        "differs: the Trainer's takes the learning rate as it is, hfx's times each parameter's size; try 1e-2",
    ),
    "sgd": ("sgd", (), ""),
    "galore_adamw": ("galore", _ADAM, "differs: all matrices within layers, whatever --optim_target_modules says"),
    "schedule_free_adamw": ("schedule_free", _ADAM, ""),
}  # fmt: skip
"""By the Trainer's name: the plugin, which of Adam's arguments it takes, and what differs."""
SCHEDULES = {
    "linear": "linear", "cosine": "cosine", "constant": "constant", "constant_with_warmup": "constant",
    "polynomial": "polynomial", "inverse_sqrt": "inverse_sqrt", "cosine_with_min_lr": "cosine",
    "cosine_warmup_with_min_lr": "cosine", "warmup_stable_decay": "wsd",
}  # fmt: skip
_GALORE = {"rank": "rank", "update_proj_gap": "update_every", "scale": "scale"}


def optimizer(draft: Draft) -> None:
    """Translate `optim` and what belongs to it."""
    given = draft.given
    name = str(given.take("optim"))
    if given.take("adafactor") is True:
        name = "adafactor"
    plugin, takes, differs = OPTIMIZERS.get(name, ("", (), ""))
    if not plugin:
        draft.note(
            f"--optim {name}: hfx has no plugin of it (`hfx plugins` lists optimizers); 'adamw' stands in its place"
        )
        plugin, takes, differs = "adamw", _ADAM, f"differs: in place of --optim {name}"
    options: dict[str, Any] = {
        "lr": (given.take("learning_rate"), draft.as_said("learning_rate")),
        "weight_decay": (given.take("weight_decay"), draft.as_said("weight_decay")),
    }
    arguments = {"beta1": "adam_beta1", "beta2": "adam_beta2", "eps": "adam_epsilon"}
    for key, argument in arguments.items():
        if key in takes:
            options[key] = (given.take(argument), draft.as_said(argument))
        elif given.said(argument):
            draft.note(f"--{argument} {given.take(argument)}: '{plugin}' has none")
    if plugin == "adafactor":
        options["variant"] = "transformers"
    if plugin == "sgd":
        options["momentum"] = (0.0, "the Trainer's default")
    draft.plugin(plugin, f"--optim {name}" + (f"; {differs}" if differs else ""), **options)
    _more(draft, plugin, given.take("optim_args"))


def _more(draft: Draft, plugin: str, text: Any) -> None:
    """Translate `optim_args`, which are written `rank=64,scale=0.5`."""
    pairs = dict(part.strip().split("=", 1) for part in str(text or "").split(",") if "=" in part)
    for key, value in pairs.items():
        number = float(value) if value.replace(".", "", 1).replace("e-", "", 1).isdigit() else value
        number = int(number) if isinstance(number, float) and number.is_integer() else number
        if plugin == "galore" and key in _GALORE:
            draft.plugin(plugin, **{_GALORE[key]: (number, f"--optim_args {key}={value}")})
        elif plugin == "sgd" and key in ("momentum", "weight_decay", "nesterov"):
            word = value.lower() in ("true", "1", "yes") if key == "nesterov" else float(value)
            draft.plugin(plugin, **{key: (word, f"--optim_args {key}={value}")})
        else:
            draft.note(f"--optim_args {key}={value}: '{plugin}' has no such option")


def schedule(draft: Draft) -> None:
    """Translate `lr_scheduler_type`, its arguments and the warm-up."""
    given = draft.given
    name = str(given.take("lr_scheduler_type"))
    kwargs = given.take("lr_scheduler_kwargs")
    kwargs = dict(kwargs) if isinstance(kwargs, dict) else {}
    warmup, why = given.take("warmup_steps") or 0, draft.as_said("warmup_steps")
    if not warmup and given.take("warmup_ratio"):
        warmup, why = given.take("warmup_ratio"), f"--warmup_ratio {given.take('warmup_ratio')}"
    given.take("warmup_ratio")
    if "schedule_free" in draft.plugins:
        draft.plugin("constant", "which 'schedule_free' goes with", warmup=(warmup, why))
        if name not in ("constant", "constant_with_warmup"):
            draft.note(f"--lr_scheduler_type {name}: 'schedule_free' lowers no learning rate")
        return
    plugin = SCHEDULES.get(name)
    if plugin is None:
        draft.note(f"--lr_scheduler_type {name}: hfx has no plugin of it; 'cosine' stands in its place")
        plugin = "cosine"
    draft.plugin(plugin, draft.as_said("lr_scheduler_type"), warmup=(0.0 if name == "constant" else warmup, why))
    used = _shape(draft, name, kwargs, bool(warmup))
    for key in (key for key in kwargs if key not in used):
        draft.note(f"--lr_scheduler_kwargs {key}={kwargs[key]}: '{plugin}' has no such option")


def _shape(draft: Draft, name: str, kwargs: dict[str, Any], warms: bool) -> set[str]:
    """Translate what shapes a schedule, and return the arguments that are translated."""
    lr = float(draft.given.take("learning_rate"))
    if name == "polynomial":
        end = float(kwargs.get("lr_end", 1e-7))
        draft.plugin(name, power=float(kwargs.get("power", 1.0)), min_ratio=(end / lr, f"lr_end {end} of the highest"))
        return {"power", "lr_end"}
    if name in ("cosine_with_min_lr", "cosine_warmup_with_min_lr"):
        ratio = kwargs.get("min_lr_rate") or float(kwargs.get("min_lr", 0.0)) / lr
        draft.plugin("cosine", min_ratio=(float(ratio), "--lr_scheduler_kwargs"))
        return {"min_lr_rate", "min_lr"}
    if name == "inverse_sqrt" and kwargs.get("timescale"):
        draft.plugin(name, timescale=(kwargs["timescale"], "--lr_scheduler_kwargs"))
        return {"timescale"}
    if name == "inverse_sqrt" and not warms:
        draft.plugin(name, timescale=(10_000, "the Trainer's without warm-up"))
    if name == "warmup_stable_decay":
        options: dict[str, Any] = {"min_ratio": float(kwargs.get("min_lr_ratio", 0.0))}
        if "num_decay_steps" in kwargs:
            options["decay"] = (float(kwargs["num_decay_steps"]), "num_decay_steps")
        kind = kwargs.get("decay_type", "cosine")
        options["shape"] = (kind, "decay_type" if "decay_type" in kwargs else "decay_type, the Trainer's default")
        draft.plugin("wsd", **options)
        return {"min_lr_ratio", "num_decay_steps", "decay_type"}
    return set()
