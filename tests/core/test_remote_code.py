"""The gate for code that comes with a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig

from command_line import hfx
from hfx import RemoteCode, safetensors_only
from hfx.errors import ConfigError, ModelError
from hfx.policy import read_policy
from hfx.resolve import to_yaml
from resolving import FREE, go, option

COMMIT = "0123456789" * 4


def test_it_is_shut_unless_asked_for() -> None:
    assert RemoteCode("mine", "who/what").arguments() == {"trust_remote_code": False}
    assert list(RemoteCode("mine", "who/what", "main").problems()) == []


@pytest.mark.parametrize(
    "revision", [None, "main", "v1.0", COMMIT[:12], COMMIT.upper().replace("0", "A"), f"{COMMIT}0"]
)
def test_a_hub_id_needs_the_whole_hash_of_a_commit(revision: str | None) -> None:
    code = RemoteCode("mine", "who/what", revision, trusted=True)
    assert [problem.fatal for problem in code.problems()] == [True]
    with pytest.raises(ConfigError, match=r"set 'mine.revision' to the full hash"):
        code.arguments()


def test_a_pinned_commit_opens_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code = RemoteCode("mine", "who/what", COMMIT, trusted=True)
    assert list(code.problems()) == []
    assert code.arguments() == {"trust_remote_code": True, "revision": COMMIT}


def test_a_folder_is_said_by_its_name(tmp_path: Path) -> None:
    code = RemoteCode("mine", str(tmp_path), trusted=True)
    (problem,) = code.problems()
    assert not problem.fatal
    assert f"'{tmp_path}'" in problem.message
    assert code.arguments() == {"trust_remote_code": True}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("config.json", {"auto_map": {"AutoConfig": "who/else--configuration.Mine"}}),
        ("tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["who/else--tokenization.Mine", None]}}),
        ("tokenizer_config.json", {"auto_map": ["who/else--tokenization.Mine", None]}),
        ("adapter_config.json", {"base_model_name_or_path": "who/else"}),
    ],
)
def test_code_that_lies_in_another_repository_is_refused(tmp_path: Path, file: str, content: object) -> None:
    (tmp_path / file).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="comes from 'who/else', of which no commit is pinned"):
        RemoteCode("mine", str(tmp_path), trusted=True).arguments()


def test_adapters_over_a_folder_whose_code_lies_elsewhere_are_refused(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    code = RemoteCode("mine", str(tmp_path), trusted=True)
    assert code.arguments()["trust_remote_code"]
    (base / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "who/else--configuration.Mine"}}))
    with pytest.raises(ConfigError, match="comes from 'who/else'"):
        code.arguments()


def test_code_that_lies_beside_the_model_is_taken(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"auto_map": {"AutoConfig": "configuration.Mine"}}))
    (tmp_path / "tokenizer_config.json").write_text("no JSON")
    assert RemoteCode("mine", str(tmp_path), trusted=True).arguments()["trust_remote_code"]


@pytest.mark.parametrize("plugin", ["pretrained", "model_tokenizer"])
def test_a_policy_forbids_it_for_every_plugin(plugin: str, tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("block: []\ntrust_remote_code: false\n")
    policy = read_policy(path)
    given = {"fields": {"model": "who/what"}, "options": [(f"{plugin}.trust_remote_code", "true")]}
    with pytest.raises(ConfigError, match=rf"'{plugin}.trust_remote_code' of --{plugin}.*policy.yaml:2 forbids"):
        go(policy=policy, **given)
    assert option(go(policy=policy, fields={"model": "who/what"}), plugin, "trust_remote_code") is False
    assert option(go(policy=FREE, **given), plugin, "trust_remote_code") is True


def test_a_run_records_it() -> None:
    options = [("pretrained.trust_remote_code", "true"), ("pretrained.revision", COMMIT)]
    text = to_yaml(go(fields={"model": "who/what"}, options=options))
    assert f"revision: '{COMMIT}'" in text or f"revision: {COMMIT}" in text
    assert "trust_remote_code: true" in text


def test_code_of_a_folder_runs_where_it_is_trusted_and_only_there(tmp_path: Path) -> None:
    from transformers import LlamaForCausalLM

    model = tmp_path / "model"
    sizes = {"hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    LlamaForCausalLM(LlamaConfig(vocab_size=300, max_position_embeddings=32, **sizes)).save_pretrained(model)
    config = json.loads((model / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "configuration_mine.Mine",
                                                  "AutoModelForCausalLM": "modeling_mine.MineForCausalLM"}}  # fmt: skip
    (model / "config.json").write_text(json.dumps(config))
    (model / "configuration_mine.py").write_text(
        "from transformers import LlamaConfig\n\n\nclass Mine(LlamaConfig):\n    model_type = 'mine'\n"
    )
    (model / "modeling_mine.py").write_text(
        "from transformers import LlamaForCausalLM\nfrom .configuration_mine import Mine\n\n\n"
        "class MineForCausalLM(LlamaForCausalLM):\n    config_class = Mine\n"
    )
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "some words"}\n' * 8)
    words = ["train", "--model", str(model), "--plugin", "tiny_bytes", "--data", str(texts), "--steps", "1",
             "--batch-size", "2", "--seq-length", "16", "--eval-share", "0"]  # fmt: skip
    site = tmp_path / "site"
    _a_tokenizer_of_bytes(site)
    environ = {"HFX_CACHE": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "home")}
    shut = hfx(*words, "--output", str(tmp_path / "shut"), path=site, **environ)
    assert shut.returncode == 1, shut.stderr
    assert "contains custom code" in shut.stderr
    done = hfx(
        *words, "--output", str(tmp_path / "open"), "--pretrained.trust-remote-code", "true", path=site, **environ
    )
    assert done.returncode == 0, done.stderr
    assert f"runs the Python code that lies in the folder '{model}'" in done.stderr
    assert "trust_remote_code: true" in (tmp_path / "open" / "run.yaml").read_text()


def _a_tokenizer_of_bytes(folder: Path) -> None:
    from toy_packages import toy_package

    folder.mkdir()
    source = '''"""A tokenizer of bytes."""

from hfx import Plugin, hookimpl


class Toy(Plugin):
    """A tokenizer of bytes."""

    @hookimpl
    def hfx_tokenizer(self, run):
        from tokenizers import Tokenizer, models, pre_tokenizers
        from transformers import PreTrainedTokenizerFast

        words = ["<pad>", "<end>", *pre_tokenizers.ByteLevel.alphabet()]
        tokenizer = Tokenizer(models.BPE({word: at for at, word in enumerate(words)}, []))
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="<end>")
'''
    toy_package(folder, "toy-bytes", {"tiny_bytes": source})


# ── pickled weights, kernels and sizes ───────────────────────────────────────────────────────────────────────────────


@contextmanager
def _unchanged() -> Iterator[None]:
    before = torch.load
    yield
    assert torch.load is before


def test_nothing_is_unpickled_while_a_model_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.bin"
    torch.save({"a": torch.zeros(1)}, path)
    with _unchanged(), pytest.raises(ModelError, match="'who/what' are pickled"), safetensors_only("who/what"):
        torch.load(path, weights_only=True)
    assert torch.load(path, weights_only=True)


def test_a_config_cannot_name_a_kernel_of_the_hub_nor_a_million_layers() -> None:
    code = RemoteCode("mine", "who/what")
    named = LlamaConfig(attn_implementation="evil/kernel")
    assert named._attn_implementation == "evil/kernel"
    assert code.checked(named)._attn_implementation is None
    assert code.checked(LlamaConfig(attn_implementation="eager"))._attn_implementation == "eager"
    with pytest.raises(ModelError, match="1,000,000 layers"):
        code.checked(LlamaConfig(num_hidden_layers=1_000_000))
