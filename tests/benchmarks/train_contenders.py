"""One contender of `bench_train.py`, in a process of its own: trains on the rows of a folder and writes what it took.

    python tests/benchmarks/train_contenders.py NAME FOLDER

The folder has `spec.json` (steps, batch sizes, length), `model/` and `rows.jsonl`, and is given `NAME.json`: a line for
each step, and the bytes that were resident when the model was loaded and at the highest moment after it.
"""

from __future__ import annotations

import bisect
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

Line = dict[str, float]
SPEC: dict[str, Any] = {}
LINES: list[Line] = []


def resident(which: str) -> int:
    """Return `VmRSS` or `VmHWM` of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(which))


class Clock:
    """Takes down each step's seconds, and the memory above the loaded model."""

    def start(self, model: Any) -> None:
        """Let the first step begin; the model is loaded, and looked at: its file was only mapped into memory."""
        for parameter in model.parameters():
            parameter.detach().sum()
        self.loaded = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # the highest moment is counted from here
        self.last = time.perf_counter()

    def step(self, tokens: int, loss: float) -> None:
        """End a step."""
        seconds = time.perf_counter() - self.last
        LINES.append({"seconds": seconds, "tokens": tokens, "loss": loss, "at": time.time()})
        self.peak = resident("VmHWM")  # here, since what is saved in the end belongs to no step
        self.last = time.perf_counter()

    def written(self) -> dict[str, Any]:
        """Return everything, for a file."""
        return {"steps": LINES, "loaded_bytes": self.loaded, "peak_bytes": self.peak}


CLOCK = Clock()


def rows() -> list[tuple[list[int], int]]:
    """Return ids with the end token, and how many of them are a prompt."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    found = []
    for line in Path("rows.jsonl").read_text().splitlines():
        row = json.loads(line)
        prompt = tokenizer(row["prompt"])["input_ids"] if "prompt" in row else []
        ids = [*prompt, *tokenizer(row["text"])["input_ids"], tokenizer.eos_token_id]
        found.append((ids[: SPEC["seq_length"]], len(prompt)))
    return found


def labelled() -> list[dict[str, Any]]:
    """Return ids as the model's tokenizer makes them, with the number of their label."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    found = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    return [
        {
            **tokenizer(row["text"], truncation=True, max_length=SPEC["seq_length"]),
            "label": SPEC["labels"].index(row["label"]),
        }
        for row in found
    ]


def model() -> Any:
    """Return the model in fp32."""
    import torch
    import transformers

    if names := SPEC.get("labels"):
        return transformers.AutoModelForSequenceClassification.from_pretrained(
            "model", dtype=torch.float32, num_labels=len(names)
        )
    return transformers.AutoModelForCausalLM.from_pretrained("model", dtype=torch.float32)


def same_adapters(net: Any) -> None:
    """Draw the adapters anew, by their order: who made them has drawn others."""
    import torch

    drawn = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in net.named_parameters():
            if "lora_A" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=drawn) / parameter.shape[1] ** 0.5)


# ── hfx ──────────────────────────────────────────────────────────────────────────────────────────────────────────────


def hfx(*plugins: str, batch: str = "rows") -> None:
    """Train with hfx, as its Python interface does it."""
    import hfx
    from hfx import Plugin, Run, RunResult, hookimpl

    class Probe(Plugin):
        """Ends the steps."""

        @hookimpl(wrapper=True)
        def hfx_run(self, run: Run) -> Any:
            same_adapters(run.module)
            CLOCK.start(run.module)
            result: RunResult = yield
            return result

        @hookimpl
        def hfx_step_end(self, run: Run, metrics: dict[str, Any]) -> None:
            CLOCK.step(metrics["tokens"], metrics["loss"])

    size = SPEC["batch"][batch]
    task = "classification" if "labels" in SPEC else "chat" if "chat" in SPEC else "causal_lm"
    named: dict[str, Any] = {"fp32": {}, task: {"prompt": "prompt"} if SPEC["prompts"] else {}}
    if "lora" in SPEC:
        named["lora"] = {"rank": SPEC["lora"]["r"], "alpha": SPEC["lora"]["lora_alpha"]}
    for plugin in plugins:
        name, _, options = plugin.partition(":")
        named[name] = json.loads(options or "{}")
    fields = {
        "model": "model", "data": "rows.jsonl", "steps": SPEC["steps"], "seq_length": SPEC["seq_length"],
        "eval_share": 0.0, "output": SPEC.get("output", f"run-{os.getpid()}"),
        "batch_size": size, "micro_batch_size": size,
    }  # fmt: skip
    hfx.train({**fields, **SPEC.get("hfx", {}), "plugins": named}, plugins=[Probe()])


# ── transformers and TRL ─────────────────────────────────────────────────────────────────────────────────────────────


def trainer(batch: str, **options: Any) -> None:
    """Train with transformers' Trainer, padding each batch; on prepared data where there are some."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained("model")
    collator: Any = transformers.DataCollatorForSeq2Seq(tokenizer)
    if "labels" in SPEC:
        data: Any = labelled()
        collator = transformers.DataCollatorWithPadding(tokenizer)
    elif Path("prepared").exists():
        import datasets

        data = datasets.load_from_disk("prepared")
    else:
        data = [{"input_ids": ids, "labels": [-100] * prompt + ids[prompt:]} for ids, prompt in rows()]
    arguments = transformers.TrainingArguments("trainer", **options, **_arguments(batch))
    _trained(transformers.Trainer, arguments, collator, train_dataset=data)


def trl(batch: str, **options: Any) -> None:
    """Train with TRL's SFTTrainer on rows that are tokenized already, or on the answers of conversations."""
    import datasets
    from trl import SFTConfig, SFTTrainer

    if "chat" in SPEC:
        found = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
        options["assistant_only_loss"] = True
    else:
        found = [
            {"input_ids": ids, "completion_mask": [0] * prompt + [1] * (len(ids) - prompt)} for ids, prompt in rows()
        ]
    data = datasets.Dataset.from_list(found)
    config = SFTConfig(
        "trl", max_length=SPEC["seq_length"], gradient_checkpointing=False, bf16=False, **options, **_arguments(batch)
    )
    more: dict[str, Any] = {}
    if "lora" in SPEC:
        from peft import LoraConfig

        more["peft_config"] = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **SPEC["lora"])
    _trained(SFTTrainer, config, None, train_dataset=data, **more)


def _arguments(batch: str) -> dict[str, Any]:
    return {
        "max_steps": SPEC["steps"], "per_device_train_batch_size": SPEC["batch"][batch], "learning_rate": 3e-4,
        "save_strategy": "steps" if "save" in SPEC else "no", "logging_strategy": "no", "disable_tqdm": True,
        "report_to": [], "use_cpu": True,
        "save_steps": SPEC["steps"], "lr_scheduler_type": "cosine", "seed": 0, "dataloader_pin_memory": False,
    }  # fmt: skip


def _trained(kind: Any, options: Any, collator: Any, **given: Any) -> None:
    import transformers

    tokens: list[int] = []

    class Timed(kind):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            mask = inputs.get("attention_mask")
            tokens.append(int(mask.sum()) if mask is not None else int(inputs["input_ids"].numel()))
            loss = super().training_step(model, inputs, *args, **kwargs)
            self.last_loss = float(loss)
            return loss

    class Steps(transformers.TrainerCallback):  # type: ignore[misc]
        def on_train_begin(self, *_: Any, model: Any, **__: Any) -> None:
            same_adapters(model)
            CLOCK.start(model)

        def on_step_end(self, *_: Any, **__: Any) -> None:
            CLOCK.step(tokens[-1], run.last_loss)

    more = {"data_collator": collator} if collator else {}
    run = Timed(model=model(), args=options, callbacks=[Steps()], **more, **given)
    run.train(resume_from_checkpoint=SPEC.get("resume", False))


# ── loops written by hand ────────────────────────────────────────────────────────────────────────────────────────────


def fabric(batch: str) -> None:
    """Train with Lightning Fabric, padding each batch."""
    from lightning_fabric import Fabric

    def wrapped(net: Any, optimizer: Any) -> tuple[Any, Any, Callable[[Any], None]]:
        runs = Fabric(accelerator="cpu", devices=1)
        runs.launch()
        net, optimizer = runs.setup(net, optimizer)
        return net, optimizer, runs.backward

    _loop(_padded(SPEC["batch"][batch]), _own_loss, wrapped)


def loop(batch: str, chunk: int = 0) -> None:
    """Train in a plain loop with hfx's techniques: best-fit packing, labelled positions only, a loss in chunks."""
    size = SPEC["batch"][batch]
    batches = _packed(size) if batch == "packed" else _padded(size)
    _loop(batches, lambda net, inputs, labels: _labelled_loss(net, inputs, labels, chunk), None)


def _loop(batches: Iterator[tuple[dict[str, Any], Any, int]], loss_of: Any, wrap: Any) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    net = model().train()
    decayed = [p for p in net.parameters() if p.ndim > 1]
    others = [p for p in net.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimizer: Any = torch.optim.AdamW(groups, lr=3e-4, fused=True)
    schedule = transformers.get_cosine_schedule_with_warmup(optimizer, 10, SPEC["steps"])
    backward: Callable[[Any], None] = lambda loss: loss.backward()  # noqa: E731
    if wrap:
        net, optimizer, backward = wrap(net, optimizer)
    CLOCK.start(net)
    for _ in range(SPEC["steps"]):
        inputs, labels, tokens = next(batches)
        loss = loss_of(net, inputs, labels)
        backward(loss)
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad(set_to_none=True)
        CLOCK.step(tokens, float(loss))


def _own_loss(net: Any, inputs: dict[str, Any], labels: Any) -> Any:
    return net(**inputs, labels=labels).loss


def _labelled_loss(net: Any, inputs: dict[str, Any], labels: Any, chunk: int) -> Any:
    import torch
    from torch.nn import LinearCrossEntropyOptions, functional

    hidden = net.model(**inputs, use_cache=False).last_hidden_state
    wanted = torch.nn.functional.pad(labels, (0, 1), value=-100)[:, 1:]
    kept = wanted != -100
    hidden, targets = hidden[kept], wanted[kept]
    if not chunk:
        return functional.cross_entropy(functional.linear(hidden, net.lm_head.weight), targets)
    options = LinearCrossEntropyOptions(batch_chunk_size=chunk, chunking_method=None)
    return functional.linear_cross_entropy(hidden, net.lm_head.weight, targets, options=options)


def _shuffled() -> Iterator[list[tuple[list[int], int]]]:
    found, rng = rows(), random.Random(0)
    while True:
        rng.shuffle(found)
        yield found


def _padded(size: int) -> Iterator[tuple[dict[str, Any], Any, int]]:
    import torch

    for found in _shuffled():
        for at in range(0, len(found) - size + 1, size):
            part = found[at : at + size]
            longest = max(len(ids) for ids, _ in part)
            pad = [longest - len(ids) for ids, _ in part]
            ids = torch.tensor([ids + [0] * more for (ids, _), more in zip(part, pad, strict=True)])
            mask = torch.tensor([[1] * len(ids) + [0] * more for (ids, _), more in zip(part, pad, strict=True)])
            labels = torch.tensor(
                [[-100] * p + ids[p:] + [-100] * more for (ids, p), more in zip(part, pad, strict=True)]
            )
            yield {"input_ids": ids, "attention_mask": mask}, labels, int(mask.sum())


def _packed(size: int) -> Iterator[tuple[dict[str, Any], Any, int]]:
    import torch

    length = SPEC["seq_length"]
    for found in _shuffled():
        bins = _best_fit(found, length)
        random.Random(1).shuffle(bins)
        for at in range(0, len(bins) - size + 1, size):
            part = bins[at : at + size]
            ids = torch.zeros(size, length, dtype=torch.long)
            labels = torch.full((size, length), -100)
            positions = torch.zeros(size, length, dtype=torch.long)
            tokens = 0
            for row, members in enumerate(part):
                start = 0
                for own, prompt in members:
                    end = start + len(own)
                    ids[row, start:end] = torch.tensor(own)
                    first = start + max(1, prompt)  # a document's first token follows nothing
                    labels[row, first:end] = ids[row, first:end]
                    positions[row, start:end] = torch.arange(len(own))
                    start = end
                tokens += start
            yield {"input_ids": ids, "position_ids": positions}, labels, tokens


def _best_fit(found: list[tuple[list[int], int]], length: int) -> list[list[tuple[list[int], int]]]:
    """Pack by best-fit-decreasing: each row into the fullest sequence that has room for it."""
    bins: list[list[tuple[list[int], int]]] = []
    room: list[tuple[int, int]] = []
    for row in sorted(found, key=lambda row: -len(row[0])):
        at = bisect.bisect_left(room, (len(row[0]), -1))
        if at == len(room):
            bins.append([])
            left, index = length, len(bins) - 1
        else:
            left, index = room.pop(at)
        bins[index].append(row)
        bisect.insort(room, (left - len(row[0]), index))
    return bins


CONTENDERS: dict[str, Callable[[], None]] = {
    "Trainer, padding": lambda: trainer("rows"),
    "Trainer, padding, grouped": lambda: trainer("rows", train_sampling_strategy="group_by_length"),
    "Trainer, blocks": lambda: trainer("blocks"),
    "TRL, padding": lambda: trl("rows"),
    "TRL, bfd": lambda: trl("packed", packing=True, packing_strategy="bfd"),
    "TRL, wrapped": lambda: trl("packed", packing=True, packing_strategy="wrapped"),
    "TRL, in order": lambda: trl("rows", train_sampling_strategy="sequential"),
    "hfx, in order": lambda: hfx("sequential", 'adamw:{"weight_decay": 0}', 'cosine:{"warmup": 0}'),
    "Fabric, padding": lambda: fabric("rows"),
    "loop, packed": lambda: loop("packed"),
    "loop, packed, chunks": lambda: loop("packed", 256),
    "loop, blocks": lambda: loop("blocks"),
    "loop, blocks, chunks": lambda: loop("blocks", 256),
    "hfx, padding": lambda: hfx(),
    "hfx, padding, length_grouped": lambda: hfx("length_grouped"),
    "hfx, packing": lambda: hfx("packing", batch="packed"),
    "hfx, packing, chunked_loss": lambda: hfx("packing", "chunked_loss", batch="packed"),
    "hfx, packing, chunked_loss of 256": lambda: hfx("packing", 'chunked_loss:{"chunk": 256}', batch="packed"),
    "hfx, packing, chunked_loss, gradient_checkpointing": lambda: hfx(
        "packing", "chunked_loss", "gradient_checkpointing", batch="packed"
    ),
    "hfx, blocks": lambda: hfx(batch="blocks"),
    "hfx, blocks, chunked_loss": lambda: hfx("chunked_loss", batch="blocks"),
    "hfx, blocks, chunked_loss of 256": lambda: hfx('chunked_loss:{"chunk": 256}', batch="blocks"),
    "hfx, blocks, chunked_loss, gradient_checkpointing": lambda: hfx(
        "chunked_loss", "gradient_checkpointing", batch="blocks"
    ),
}


def main() -> None:
    """Run the contender and write its file."""
    name, folder = sys.argv[1:]
    os.chdir(folder)
    SPEC.update(json.loads(Path("spec.json").read_text()))
    CONTENDERS.get(name, lambda: hfx(*SPEC["ladder"][name], batch=name))()
    Path(f"{name}.json").write_text(json.dumps(CLOCK.written()))


if __name__ == "__main__":
    main()
