"""Arrow columns as numpy arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def as_array(column: pa.Array) -> np.ndarray[Any, np.dtype[Any]]:
    """Return a column as an array, `(len,)`: of numbers one that points into it, of anything else a copy.

    Arrow's own `to_numpy` imports pandas, where it is installed: a quarter of a second of every start.
    """
    numbers = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
    found: np.ndarray[Any, np.dtype[Any]] = (
        np.from_dlpack(column) if numbers and not column.null_count else column.to_numpy(zero_copy_only=False)
    )
    return found
