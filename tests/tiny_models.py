"""What the tests of models and optimizers share: a run small enough to write down, a tiny llama, a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.set_num_threads(1)

VOCABULARY = 64
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Tokens:
    """The ids and the size that models ask a tokenizer for."""

    size: int = VOCABULARY
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    pad_token_id: int | None = 0

    def __len__(self) -> int:
        return self.size


@dataclass(frozen=True)
class Fields:
    """The fields of a run's config that models read."""

    model: str | None = None
    seed: int = 0
    seq_length: int = 32


@dataclass(frozen=True)
class Goal:
    """What models read of a task."""

    model_class: str = "AutoModelForCausalLM"
    model_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Numbers:
    """What models read of a precision."""

    dtype: torch.dtype = torch.float32


@dataclass(frozen=True)
class TinyRun:
    """The attributes of `Run` that model, optimizer and schedule plugins read."""

    config: Fields = Fields()
    planning: bool = False
    judged: dict[str, Any] | None = None
    tokenizer: Tokens = Tokens()
    task: Goal = Goal()
    precision: Numbers = Numbers()
    device: torch.device = CPU
    total_steps: int = 20


def labels_of(*names: str) -> Goal:
    """Return a classification of these labels."""
    return Goal(
        "AutoModelForSequenceClassification",
        {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
        },
    )


def tiny_llama(seed: int = 0, **sizes: Any) -> LlamaForCausalLM:
    """Return a llama of two layers with weights drawn from the seed."""
    torch.manual_seed(seed)
    usual = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=32, **usual | sizes))


def losses(make_optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer], steps: int = 8) -> list[float]:
    """Train a tiny llama in a plain loop and return the loss of each step."""
    model = tiny_llama()
    optimizer = make_optimizer(model)
    batches = torch.randint(0, VOCABULARY, (steps, 4, 16), generator=torch.Generator().manual_seed(1))
    found = []
    for ids in batches:
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(loss.item())
    return found


def decayed(model: torch.nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return parameter groups by hand: weights of linear layers and embeddings decay, norms do not."""
    norms = [p for name, p in model.named_parameters() if "norm" in name]
    matrices = [p for name, p in model.named_parameters() if "norm" not in name]
    return [{"params": matrices, "weight_decay": weight_decay}, {"params": norms, "weight_decay": 0.0}]


class OneMatrix(torch.nn.Module):
    """A model whose only layer is one square matrix."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList([torch.nn.Linear(size, size, bias=False)])


def share_of_adamw(make_optimizer: Callable[[torch.nn.Module], torch.optim.Optimizer], size: int = 1024) -> float:
    """Return the bytes of an optimizer's state of a square matrix after two steps, over those of torch's AdamW."""

    def held(make: Callable[[torch.nn.Module], torch.optim.Optimizer]) -> int:
        model = OneMatrix(size)
        matrix = model.layers[0].weight
        optimizer = make(model)
        for seed in (0, 1):
            matrix.grad = torch.randn(matrix.shape, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        return sum(value.nbytes for value in optimizer.state[matrix].values() if isinstance(value, torch.Tensor))

    return held(make_optimizer) / held(lambda model: torch.optim.AdamW(model.parameters()))
