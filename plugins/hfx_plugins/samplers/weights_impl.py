"""Weights of a table's examples, from a column or a file, refused where nothing could be drawn by them."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hfx.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from hfx import Run, Table


def weights_in_column(table: Table, column: str) -> NDArray[np.float64]:
    """Return the weight of each example from a column of the data, `(len(table),)`.

    Raises:
        DataError: a weight is no number, negative, missing or infinite.
    """
    found = table.column(column)
    if found.dtype.kind not in "biuf":
        raise DataError(f"the column '{column}' holds {_kind(found)}, and a weight is a number; name another column")
    return _usable(found.astype(np.float64), table, f"in the column '{column}'")


def _kind(values: NDArray[Any]) -> str:
    return f"'{values[0]}'" if len(values) else "nothing"


def weights_in_file(table: Table, file: str, run: Run) -> NDArray[np.float64]:
    """Return the weight of each example from a file that has one for each row, `(len(table),)`.

    Raises:
        DataError: the file cannot be read or has another number of weights than the data has rows; or as above.
    """
    found, rows = _read(Path(file)), table.column("row")
    if run.streams:
        if len(rows) and rows.max() >= len(found):
            raise DataError(f"'{file}' has {len(found)} weights, and the data goes on; give one for each row")
    elif len(found) != (expected := run.rows("train").report.read):
        raise DataError(f"'{file}' has {len(found)} weights, and the data has {expected} rows; give one for each row")
    return _usable(found[rows].astype(np.float64), table, f"in '{file}'")


def file_hash(file: str) -> str:
    """Return the hash of a file's content."""
    with Path(file).open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _read(path: Path) -> NDArray[Any]:
    try:
        if path.suffix == ".npy":
            found: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            found = np.array(path.read_text(encoding="utf-8").split(), dtype=np.float64)
    except OSError as error:
        raise DataError(f"cannot read the weights in '{path}': {error.strerror}; look at 'weighted.file'") from error
    except ValueError as error:
        raise DataError(f"'{path}' holds what is no weight: {error}; give one number for each row") from error
    if found.ndim != 1 or found.dtype.kind not in "biuf":
        raise DataError(f"'{path}' is a {found.dtype} array of {found.shape}; give one number for each row")
    return found


def _usable(weights: NDArray[np.float64], table: Table, where: str) -> NDArray[np.float64]:
    for wrong, what in ((np.isnan(weights), "no"), (np.isinf(weights), "an infinite"), (weights < 0, "a negative")):
        if wrong.any():
            row = int(table.column("row")[int(wrong.argmax())])
            raise DataError(f"row {row} has {what} weight {where} ({int(wrong.sum())} such examples); mend the weights")
    return weights
