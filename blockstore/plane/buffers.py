"""Names for buffers of one element type, which the compiled core takes and fills.

Each is contiguous; the core refuses elements of another type with a ValueError. numpy is named for the type checker
alone: tests and the bench pass such arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from array import array
    from typing import TypeAlias

    import numpy as np
    import numpy.typing as npt

    Bytes: TypeAlias = bytes | bytearray | memoryview | npt.NDArray[np.bool_] | npt.NDArray[np.uint8]
    U16s: TypeAlias = array[int] | memoryview | npt.NDArray[np.uint16]
    U32s: TypeAlias = array[int] | memoryview | npt.NDArray[np.uint32]
    U64s: TypeAlias = array[int] | memoryview | npt.NDArray[np.uint64]
    I64s: TypeAlias = array[int] | memoryview | npt.NDArray[np.int64]
    F64s: TypeAlias = array[float] | memoryview | npt.NDArray[np.float64]
