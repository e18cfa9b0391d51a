"""A task of the harness over texts of one's own, as a folder with its YAML file and its documents."""

from __future__ import annotations

import json
from pathlib import Path

TASK = """task: own_texts
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
output_type: loglikelihood_rolling
test_split: test
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
  - metric: byte_perplexity
  - metric: bits_per_byte
metadata:
  version: 1.0
"""
TEXTS = [" ".join(f"{left} and {right} make {left + right};" for right in range(left % 5 + 1)) for left in range(24)]


def written(folder: Path) -> Path:
    """Write the task into a folder, and return it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "texts.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    (folder / "own_texts.yaml").write_text(TASK.format(path=folder.absolute() / "texts.jsonl"))
    return folder
