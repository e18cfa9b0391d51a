"""Columns become arrays without pandas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from command_line import environment
from hfx.arrow import as_array

TRAINED = """
import sys, hfx
from hfx import Plugin, hookimpl

class Look(Plugin):
    \"\"\"Sees what is imported.\"\"\"

    @hookimpl
    def hfx_step_end(self) -> None:
        print("pandas" in sys.modules)

data, output = sys.argv[1:]
small = {"scratch": {"hidden_size": 32, "layers": 1}, "bpe": {"vocab_size": 300}, "fp32": {}, "no:progress": {}}
hfx.train({"plugins": small}, data=data, output=output, steps=1, batch_size=2, seq_length=32, plugins=[Look()])
"""


@pytest.mark.parametrize("kind", [pa.int32(), pa.uint64(), pa.float32(), pa.float64()])
def test_numbers_are_pointed_at(kind: pa.DataType) -> None:
    column = pa.array([1, 2, 3, 4], kind).slice(1, 2)
    found = as_array(column)
    assert found.tolist() == [2, 3]
    assert found.dtype == kind.to_pandas_dtype()
    assert found.ctypes.data == column.buffers()[1].address + kind.bit_width // 8
    assert not found.flags.writeable


@pytest.mark.parametrize("values", [["a", None, "b"], [True, False], [], [[1], []]])
def test_anything_else_is_copied(values: list[object]) -> None:
    found = as_array(pa.array(values))
    assert [
        None if each is None else (each.tolist() if isinstance(each, np.ndarray) else each) for each in found
    ] == values


def test_a_missing_number_is_no_number() -> None:
    found = as_array(pa.array([1, None]))
    assert found[0] == 1
    assert np.isnan(found[1])


def test_a_run_on_prepared_data_imports_no_pandas(tmp_path: Path) -> None:
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps({"text": f"row {n} of a few"}) + "\n" for n in range(40)))
    told = []
    for output in ("first", "second"):
        command = [sys.executable, "-c", TRAINED, str(data), str(tmp_path / output)]
        environ = environment(HFX_CACHE=str(tmp_path / "cache"), OMP_NUM_THREADS="1")
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        told.append(done.stdout.split()[0])
    assert told[1] == "False"
