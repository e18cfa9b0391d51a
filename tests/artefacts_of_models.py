"""Models, adapters and tokenizers of somebody who means harm."""

from __future__ import annotations

import io
import json
import shutil
import struct
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from artefacts import DEEP, Artefact, Place


def _weights(name: str, packed: bool = False) -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        model = place.copied()
        (model / "model.safetensors").unlink()
        (model / name).write_bytes(_zipped(place.payload()) if packed else place.payload())
        return place.training(model)

    return make


def _zipped(data: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w") as archive:
        archive.writestr("archive/data.pkl", data)
        archive.writestr("archive/version", "3\n")
    return target.getvalue()


def _beside(place: Place) -> Sequence[str]:
    model = place.copied()
    names = ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "scheduler.pt", "rng_state.pth", "model.ckpt",
             "tf_model.h5", "flax_model.msgpack", "tokenizer.pkl", "vocab.pkl", "special_tokens_map.pkl")  # fmt: skip
    for name in names:
        (model / name).write_bytes(place.payload())
    return place.training(model)


def _index(file: str, shard: str) -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        model = place.copied()
        (model / "model.safetensors").unlink()
        (model / shard.replace("../", "")).write_bytes(place.payload())
        place.write("outside.safetensors", place.payload())
        names = {"model.embed_tokens.weight": shard, "model.norm.weight": shard}
        (model / file).write_text(json.dumps({"metadata": {}, "weight_map": names}))
        return place.training(model)

    return make


def _adapters(weights: str, command: str, **config: Any) -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        model = place.folder / "adapters"
        model.mkdir()
        base = {"peft_type": "LORA", "task_type": "CAUSAL_LM", "base_model_name_or_path": str(place.model), "r": 2,
                "lora_alpha": 2, "target_modules": ["q_proj"]}  # fmt: skip
        (model / "adapter_config.json").write_text(json.dumps(base | config))
        for file in place.model.glob("tokenizer*"):
            shutil.copy(file, model)
        if command == "train":
            shutil.copy(place.model / "config.json", model)
        (model / weights).write_bytes(place.payload())
        return place.training(model) if command == "train" else place.generating(model)

    return make


def _remote_code(file: str, command: str, **auto_map: Any) -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        changes: dict[str, Any] = {"auto_map": auto_map, "model_type": "mine", "tokenizer_class": "Mine"}
        model = place.changed(file, **changes)
        for name in ("configuration_mine.py", "modeling_mine.py", "tokenization_mine.py"):
            (model / name).write_text(place.code())
        return place.training(model) if command == "train" else place.generating(model)

    return make


def _config(**values: Any) -> Callable[[Place], Sequence[str]]:
    return lambda place: place.training(place.changed("config.json", **values))


def _file(name: str, content: bytes | str, command: str = "train") -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        model = place.copied()
        (model / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        return place.training(model) if command == "train" else place.generating(model)

    return make


def _pickled(name: str, *gone: str, command: str = "train") -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        model = place.copied()
        for other in gone:
            (model / other).unlink()
        (model / name).write_bytes(place.payload())
        return place.training(model) if command == "train" else place.generating(model)

    return make


def _gguf(content: bytes | None) -> Callable[[Place], Sequence[str]]:
    def make(place: Place) -> Sequence[str]:
        path = place.write("model.gguf", place.payload() if content is None else content)
        return place.training(Path(path))

    return make


def _safetensors(header: bytes, size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header


_GGUF = b"GGUF" + struct.pack("<I", 3)
_OUTSIDE = json.dumps({"model.norm.weight": {"dtype": "F32", "shape": [8], "data_offsets": [0, 1 << 40]}}).encode()
MODELS = [
    Artefact("a pickle as the only weights of a model", _weights("pytorch_model.bin")),
    Artefact("a pickle in torch's zip as the only weights", _weights("pytorch_model.bin", packed=True)),
    Artefact("a pickle under the name of safetensors", _pickled("model.safetensors")),
    Artefact("pickles of all kinds beside good weights are never opened", _beside, codes=(0,)),
    Artefact("an index of weights that names a pickle", _index("model.safetensors.index.json", "part.bin")),
    Artefact("an index of pickled weights", _index("pytorch_model.bin.index.json", "part.bin")),
    Artefact(
        "an index that names weights outside of the folder",
        _index("model.safetensors.index.json", "../outside.safetensors"),
    ),
    Artefact("a pickle as adapters to generate with", _adapters("adapter_model.bin", "generate")),
    Artefact("a pickle as adapters to train from", _adapters("adapter_model.bin", "train")),
    Artefact("a pickle under the name of adapters in safetensors", _adapters("adapter_model.safetensors", "generate")),
    Artefact(
        "adapters whose config names a class of Python",
        _adapters(
            "adapter_model.bin",
            "generate",
            auto_mapping={"base_model_class": "system", "parent_library": "os"},
            peft_type="os.system",
        ),
    ),
    Artefact(
        "a config that brings code of its own",
        _remote_code("config.json", "train", AutoConfig="configuration_mine.Mine"),
    ),
    Artefact(
        "a config that brings code, to generate with",
        _remote_code("config.json", "generate", AutoConfig="configuration_mine.Mine"),
    ),
    Artefact(
        "a tokenizer that brings code of its own",
        _remote_code("tokenizer_config.json", "train", AutoTokenizer=["tokenization_mine.Mine", None]),
        codes=(0, 1),
    ),
    Artefact(
        "a config whose code lies in another repository, and is trusted",
        lambda place: place.training(
            place.changed("config.json", model_type="mine", auto_map={"AutoConfig": "who/else--configuration.Mine"}),
            "--pretrained.trust-remote-code=true",
        ),
        says="no commit is pinned",
    ),
    Artefact(
        "a config that names a kernel of the hub for attention runs none",
        _config(attn_implementation="evil/kernel"),
        codes=(0, 1),
    ),
    Artefact("a config nested a hundred thousand deep", _file("config.json", DEEP)),
    Artefact("a config of petabytes", _config(hidden_size=1 << 30, intermediate_size=1 << 40), alone=True),
    Artefact("a config of a million layers", _config(num_hidden_layers=1_000_000), alone=True),
    Artefact("a config that is a pickle", _pickled("config.json")),
    Artefact("a tokenizer that is a pickle", _pickled("tokenizer.json")),
    Artefact("a tokenizer nested a hundred thousand deep", _file("tokenizer.json", DEEP)),
    Artefact("a sentencepiece model that is a pickle", _pickled("tokenizer.model", "tokenizer.json")),
    Artefact("a header of safetensors of 2^60 bytes", _file("model.safetensors", _safetensors(b"{}", 1 << 60))),
    Artefact("a header of safetensors nested deep", _file("model.safetensors", _safetensors(b'{"a":' * 50_000 + b"1"))),
    Artefact("safetensors that point outside of the file", _file("model.safetensors", _safetensors(_OUTSIDE))),
    Artefact("a pickle under the name of GGUF", _gguf(None)),
    Artefact("a GGUF file of 2^60 tensors", _gguf(_GGUF + struct.pack("<QQ", 1 << 60, 0) + bytes(64)), alone=True),
    Artefact(
        "a GGUF file with a key of 2^60 bytes",
        _gguf(_GGUF + struct.pack("<QQ", 0, 1) + struct.pack("<Q", 1 << 60) + b"a" * 64),
        alone=True,
    ),
]
