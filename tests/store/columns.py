"""Whole columns of the state as numpy arrays, for tests that compare them at once."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from blockstore.store.state.shared_array import SharedArray


def column(array: SharedArray) -> npt.NDArray[Any]:
    """Returns all elements, in the memory of the array itself."""
    return np.asarray(array.items)
