"""Pairs of answers as token ids, what a model says of them, and the loss of preferring the wrong one."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, cast

import numpy as np

from hfx import ColumnType, Drop, Example, Row
from hfx.errors import DataError, IncompatibleError, ModelError
from hfx_plugins.tasks.chat_impl import ChatTask
from hfx_plugins.tasks.conversation_impl import ROLES, Columns
from hfx_plugins.tasks.next_token_impl import IGNORED
from hfx_plugins.tasks.text_impl import encode_all, frame

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedTokenizerBase

    from hfx import Metrics, Run
    from hfx.protocols import Batch, Table, Values

Learned = tuple[list[int], list[int]]
"""Token ids, and where among them what is compared begins and ends."""


class Preferred:
    """Pairs; those of which the right answer is preferred; the sums of the rewards of both answers: `(4,)`."""

    def __init__(self) -> None:
        import torch

        self.state: Tensor = torch.zeros(4, dtype=torch.float64)

    def update(self, chosen: Tensor, rejected: Tensor) -> None:
        """Count a batch of rewards, each `(batch,)`."""
        import torch

        sums = [len(chosen), int((chosen > rejected).sum()), float(chosen.sum()), float(rejected.sum())]
        self.state += torch.tensor(sums, dtype=torch.float64)

    def compute(self) -> dict[str, float]:
        """Return the share of pairs that are preferred rightly, and the mean rewards; nothing without pairs."""
        pairs, right, chosen, rejected = self.state.tolist()
        if not pairs:
            return {}
        means = {"reward_chosen": chosen / pairs, "reward_rejected": rejected / pairs}
        return {"accuracy": right / pairs, **means, "reward_margin": (chosen - rejected) / pairs}


class Said:
    """Takes what a model says of the pairs of a batch, in place of figures."""

    def __init__(self) -> None:
        import torch

        self.state: Tensor = torch.zeros(1, dtype=torch.float64)
        self.logps: Tensor = torch.empty(0, 2)

    def compute(self) -> dict[str, float]:
        """Return nothing."""
        return {}


@dataclass
class PreferenceTask:
    """Rows as two sequences of token ids."""

    tokenizer: PreTrainedTokenizerBase
    seq_length: int
    prefix: tuple[int, ...]
    """What the tokenizer puts before a text (`<s>`)."""
    loss_kind: str
    beta: float
    label_smoothing: float
    version: Any = 2
    unit: Literal["token", "row", "pair"] = "pair"
    model_class: str = "AutoModelForCausalLM"
    model_options: Mapping[str, Any] = field(default_factory=dict)
    columns: Mapping[str, ColumnType] = field(
        default_factory=lambda: {
            "input_ids": ColumnType("list<int32>"), "learned": ColumnType("list<int32>"),
            "rejected_ids": ColumnType("list<int32>"), "rejected_learned": ColumnType("list<int32>"),
            "pair": ColumnType("int64"),
        }
    )  # fmt: skip
    known: tuple[Tensor, Tensor] | None = None
    """Pairs, sorted, and what the model said of each before training, `(pairs, 2)`."""
    remembered: Mapping[str, Any] = field(default_factory=dict)
    """The same as a checkpoint has it: `pairs` and `said`."""
    planning: bool = False
    """While `hfx plan` traces, nobody has asked the model: it said nothing of any pair."""

    def fingerprint(self) -> Values:
        """Return everything that decides how a row is encoded."""
        return {"seq_length": self.seq_length, "prefix": self.prefix, "template": self.tokenizer.chat_template}

    def fit(self, rows: Any) -> Values:
        """Learn nothing: there are no labels to collect."""
        return {}

    def fitted(self, facts: Values) -> PreferenceTask:
        """Return this task."""
        return self

    def examples(self, row: Row) -> list[Example] | Drop:
        """Return the row's pair as one example."""
        read = self._pair(row)
        if isinstance(read, Drop):
            return read
        (ids, learned), (other, other_learned) = read
        if ids == other:
            return Drop("answers_are_the_same")
        digest = hashlib.blake2b(repr(read).encode(), digest_size=8).digest()
        values = {"input_ids": ids, "learned": learned, "rejected_ids": other, "rejected_learned": other_learned}
        return [Example(values | {"pair": int.from_bytes(digest, "little", signed=True)}, len(ids), 1)]

    def _pair(self, row: Row) -> tuple[Learned, Learned] | Drop:
        prompt, chosen, rejected = (row.values.get(name) for name in ("prompt", "chosen", "rejected"))
        if chosen is None or rejected is None:
            return Drop("no_pair")
        if isinstance(chosen, str) and isinstance(rejected, str) and isinstance(prompt, str | None):
            row.marks["preference"] = f"texts in {'' if prompt is None else 'prompt, '}chosen and rejected"
            if prompt is None:
                prompt = _asked_in_both(chosen, rejected)
                chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
            return self._of_texts(prompt, chosen, rejected)
        if _is_whole(prompt, chosen) and _is_whole(prompt, rejected):
            prompt = None
        row.marks["preference"] = f"conversations in {'' if prompt is None else 'prompt, '}chosen and rejected"
        return self._of_conversations(row, prompt, chosen, rejected)

    def _of_texts(self, prompt: str, chosen: str, rejected: str) -> tuple[Learned, Learned] | Drop:
        if not chosen.strip() or not rejected.strip():
            return Drop("empty_answer")
        asked, *answers = encode_all(self.tokenizer, [prompt, chosen, rejected])
        before, end = [*self.prefix, *asked], int(self.tokenizer.eos_token_id)
        first, second = ([*before, *answer, end] for answer in answers)
        if max(len(first), len(second)) > self.seq_length:
            return Drop("too_long")
        start = max(1, len(before))  # the first token of all follows nothing
        return (first, [start, len(first)]), (second, [start, len(second)])

    def _of_conversations(self, row: Row, prompt: Any, chosen: Any, rejected: Any) -> tuple[Learned, Learned] | Drop:
        if prompt is None:
            if not isinstance(chosen, list) or not isinstance(rejected, list):
                return Drop("answers_of_another_kind")
            pairs = enumerate(zip(chosen, rejected, strict=False))
            same = next((at for at, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))
            prompt, chosen, rejected = chosen[:same], chosen[same:], rejected[same:]
        chat = ChatTask(self.tokenizer, self.seq_length, Columns(), overflow="drop")
        found: list[Learned] = []
        for answer in (chosen, rejected):
            outcome = chat.examples(Row({"prompt": prompt, "completion": answer}, row.place, row.number))
            if isinstance(outcome, Drop):
                return outcome
            values = outcome[0].values
            found.append((values["input_ids"], values["learned"]))
        return found[0], found[1]

    def draw(self, values: Values, rng: np.random.Generator) -> Values:
        """Return ids and labels of both."""
        drawn: Values = {"pair": values["pair"], "rejected_length": len(values["rejected_ids"])}
        for ids, learned, labels in (("input_ids", "learned", "labels"),
                                     ("rejected_ids", "rejected_learned", "rejected_labels")):  # fmt: skip
            drawn[ids] = values[ids]
            drawn[labels] = np.full(len(values[ids]), IGNORED, dtype=np.int64)
            for start, stop in np.reshape(values[learned], (-1, 2)):
                drawn[labels][start:stop] = values[ids][start:stop]
        return drawn

    def collated(self) -> Mapping[str, ColumnType]:
        """Return ids, padded with the pad token, labels, padded with what carries no loss, and the pair."""
        pad = self.tokenizer.pad_token_id
        ids, labels = ColumnType("list<int32>", 0 if pad is None else int(pad)), ColumnType("list<int32>", IGNORED)
        return {
            "input_ids": ids, "labels": labels, "rejected_ids": ids, "rejected_labels": labels,
            "rejected_length": ColumnType("int32"), "pair": ColumnType("int64"),
        }  # fmt: skip

    def loss(self, model: nn.Module, batch: Batch, metrics: Metrics | None = None) -> Tensor:
        """Return the sum of the loss over the pairs."""
        inputs, labels = _both(batch)
        logps = self._logps(model, inputs, labels)
        if isinstance(metrics, Said):
            metrics.logps = logps.detach()
            return logps.sum() * 0.0
        margins = logps - self._reference(model, inputs, labels, batch["pair"])
        if isinstance(metrics, Preferred):
            metrics.update(*(self.beta * margins.detach().cpu()).unbind(1))
        apart = margins[:, 0] - margins[:, 1]
        return self._loss(apart).sum()

    def _loss(self, apart: Tensor) -> Tensor:
        from torch.nn.functional import logsigmoid, relu

        if self.loss_kind == "hinge":
            return relu(1 - self.beta * apart)
        if self.loss_kind == "ipo":
            return (apart - 1 / (2 * self.beta)) ** 2
        smoothed = self.label_smoothing
        return -(1 - smoothed) * logsigmoid(self.beta * apart) - smoothed * logsigmoid(-self.beta * apart)

    def _logps(self, model: nn.Module, inputs: Batch, labels: Tensor) -> Tensor:
        """Return what the model says of both answers, `(batch, 2)`: of `ipo` the mean over their tokens."""
        from hfx import next_token_logps

        said = next_token_logps(model, inputs, labels)
        if self.loss_kind == "ipo":
            said = said / (labels[:, 1:] != IGNORED).sum(1).clamp(min=1)
        return said.view(2, -1).t()

    def _reference(self, model: nn.Module, inputs: Batch, labels: Tensor, pairs: Tensor) -> Tensor:
        import torch

        with torch.no_grad(), _without_adapters(model) as base:
            if base:
                return self._logps(model, inputs, labels)
        if self.planning:
            return torch.zeros(len(pairs), 2, device=labels.device)
        if self.known is None and "pairs" in self.remembered:
            self.known = self.remembered["pairs"], self.remembered["said"]
        if self.known is None:
            raise IncompatibleError(
                "'preference' compares a model with what it said of the pairs before it was trained, and nothing tells "
                "that of this one; evaluate the run that trained it, or adapters beside their base"
            )
        names, said = self.known
        at = torch.searchsorted(names, pairs.cpu()).clamp(max=len(names) - 1)
        if not torch.equal(names[at], pairs.cpu()):
            raise DataError(
                "a pair is not among those that the model was asked of before the run's first step; take the data it "
                "began with, or begin anew with another '--output' ('--plugin lora' can be asked of any pair)"
            )
        return said[at].to(labels.device)

    def metrics(self) -> Metrics:
        """Return figures at zero."""
        return Preferred()


def _asked_in_both(chosen: str, rejected: str) -> str:
    """Return what two texts have in common at their beginning, up to the end of a word: the prompt."""
    pairs = enumerate(zip(chosen, rejected, strict=False))
    common = chosen[: next((at for at, (a, b) in pairs if a != b), min(len(chosen), len(rejected)))]
    last = "" if common[-1:].isspace() else (common.split() or [""])[-1]  # they may differ in the midst of it
    return common[: len(common) - len(last)].rstrip()


def _is_whole(prompt: Any, answer: Any) -> bool:
    """Return whether an answer is a whole conversation, the prompt in it, as some data sets have it."""
    if not isinstance(answer, list) or not answer:
        return False
    if isinstance(prompt, str):
        first = answer[0]
        role = first.get("role", first.get("from")) if isinstance(first, Mapping) else None
        return isinstance(role, str) and ROLES.get(role.lower()) in ("system", "user")
    return isinstance(prompt, list) and bool(prompt) and answer[: len(prompt)] == prompt


def _both(batch: Batch) -> tuple[Batch, Tensor]:
    """Return the inputs of chosen and rejected answers under one another, `(2 batch, seq)`, and their labels."""
    import torch
    from torch.nn.functional import pad

    ids, others = batch["input_ids"], batch["rejected_ids"]
    width = max(ids.shape[1], others.shape[1])
    positions = torch.arange(others.shape[1], device=others.device)
    mask = (positions < batch["rejected_length"][:, None]).to(batch["attention_mask"].dtype)

    def stacked(first: Tensor, second: Tensor, value: int) -> Tensor:
        return torch.cat([pad(part, (0, width - part.shape[1]), value=value) for part in (first, second)])

    inputs = {"input_ids": stacked(ids, others, 0), "attention_mask": stacked(batch["attention_mask"], mask, 0)}
    return inputs, stacked(batch["labels"], batch["rejected_labels"], IGNORED)


@contextmanager
def _without_adapters(model: nn.Module) -> Iterator[bool]:
    """Let peft's adapters be as if they were not there, without dropout, and yield whether there are any."""
    modules: list[Any] = list(model.modules())
    layers = [module for module in modules if hasattr(module, "_disable_adapters")]
    training = [module.training for module in modules]
    for module in modules if layers else ():
        module.training = False
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield bool(layers)
    finally:
        for layer in layers:
            layer._disable_adapters = False
        for module, was in zip(modules, training, strict=True):
            module.training = was


def know_reference(run: Run, name: str) -> None:
    """Take down what the model says of every pair, unless the run's checkpoint has it or adapters leave their base.

    Raises:
        IncompatibleError: the rows are a stream.
    """
    import torch

    task: Any = run.task
    if any(hasattr(module, "_disable_adapters") for module in run.model.modules()):
        return
    state = run.state[name]
    if "pairs" not in state:
        if run.streams:
            raise IncompatibleError(
                f"'{name}' asks the model of every pair before the first step, and a stream has no end; "
                "add '--plugin lora'"
            )
        found = [_asked(run, run.table(split)) for split in ("train", "eval") if len(run.rows(split))]
        names = torch.cat([pairs for pairs, _ in found])
        order = torch.argsort(names)
        state["pairs"], state["said"] = names[order], torch.cat([said for _, said in found])[order]
    task.known = (state["pairs"], state["said"])


def _asked(run: Run, table: Table) -> tuple[Tensor, Tensor]:
    """Return a table's pairs, `(pairs,)`, and what the model says of them, `(pairs, 2)`; each rank asks of its part."""
    import torch

    from hfx.loop import to_device

    micro, world = run.micro_batch_size, run.world
    names = torch.tensor([int(table.values(index)["pair"]) for index in range(len(table))], dtype=torch.int64)
    said = torch.zeros(len(table), 2, dtype=torch.float64)
    rng = np.random.default_rng(0)
    run.module.eval()
    try:
        for index in range(math.ceil(math.ceil(len(table) / micro) / world.size)):
            at = (index * world.size + world.rank) * micro
            rows = range(at, min(at + micro, len(table))) if at < len(table) else range(1)
            drawn = [[run.task.draw(table.values(row), rng)] for row in rows]
            takes = Said()
            with torch.no_grad(), run.precision.autocast():
                run.module(to_device(run.batcher.collate(drawn), run.device), takes)
            if at < len(table):
                said[rows.start : rows.stop] = takes.logps.double().cpu()
    finally:
        run.module.train()
    return names, run.backend.all_reduce(said).float()


def reference_columns(run: Run, name: str) -> Callable[[Values], Values]:
    """Return a function that says of a pair what the model says of both answers before training, as two numbers."""
    import torch

    _ = run.module
    if any(hasattr(module, "_disable_adapters") for module in run.model.modules()):
        names, said = _asked(run, run.table("train"))  # adapters add nothing yet
        order = torch.argsort(names)
        known = (names[order], said[order])
    else:
        know_reference(run, name)
        known = cast("Any", run.task).known

    def before(values: Values) -> Values:
        at = int(torch.searchsorted(known[0], int(values["pair"])))
        chosen, rejected = known[1][at].tolist()
        return {"chosen_before": chosen, "rejected_before": rejected}

    return before


def build(tokenizer: PreTrainedTokenizerBase, seq_length: int, options: dict[str, Any]) -> PreferenceTask:
    """Return the task for a tokenizer.

    Raises:
        ModelError: the tokenizer has no end token.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token, which 'preference' needs; give one that has")
    before, _ = frame(tokenizer)
    return PreferenceTask(tokenizer, seq_length, before, options["loss"], options["beta"], options["label_smoothing"])
